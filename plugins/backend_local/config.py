"""The configuration of ``backend_local``."""

from datetime import timedelta
from pathlib import Path

from gateway.plugins import Duration, Model


class Config(Model):
    """Where the bytes lie, and when an upload that nobody continues is dropped."""

    root: Path = Path("data/registry")
    expire_after: Duration = timedelta(hours=24)
