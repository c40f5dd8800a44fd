"""The hooks of ``gitlab_api``."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.plugins import ApiEndpoint, Public, Services, hookimpl
from plugins.gitlab_api.area import PREFIX, Open
from plugins.gitlab_api.config import Config as _Config
from plugins.gitlab_api.lent import Lent
from plugins.gitlab_api.openapi import Documentation
from plugins.gitlab_api.operations import operations


class Plugin:
    """Answers below ``/api/v4/`` as GitLab does."""

    Config = _Config

    def __init__(self, config: _Config, services: Services) -> None:
        self._lent = Lent(config, services)

    @hookimpl
    def gateway_endpoints(self) -> Iterable[ApiEndpoint]:
        """Every route, and the document that describes them."""
        routes = operations(self._lent)
        why = "it says what the API is, and nothing of what is in it"
        yield ApiEndpoint("GET", f"{PREFIX}openapi.json", Open(), Public(why), Documentation(routes).handle)
        for operation in routes:
            yield from operation.endpoints()
