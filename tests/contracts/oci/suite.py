"""The whole protocol in one class, for backends to inherit."""

from __future__ import annotations

from .discovery import DiscoveryContract
from .hostile import HostileContract
from .management import ManagementContract
from .pull import PullContract
from .push import PushContract


class OCIProtocolContract(PullContract, PushContract, DiscoveryContract, ManagementContract, HostileContract):
    """Everything a registry promises under /v2/; override the fixture ``registry``."""
