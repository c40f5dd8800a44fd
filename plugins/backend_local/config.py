"""The configuration of ``backend_local``."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from gateway.plugins import Duration, GarbageRules, Model


class GarbageConfig(Model):
    """When what nothing refers to any more is removed."""

    enabled: bool = True
    interval: Duration = Field(default=timedelta(hours=1), ge=timedelta(seconds=1))
    grace: Duration = timedelta(hours=24)
    quiet: Duration = Field(default=timedelta(minutes=10), ge=timedelta(seconds=1))
    untagged: bool = False

    def rules(self) -> GarbageRules:
        """The same, as the core asks for it."""
        return GarbageRules(self.grace, self.quiet, self.untagged, self.interval if self.enabled else None)


class Config(Model):
    """Where the bytes lie, when an upload that nobody continues is dropped, and when garbage goes."""

    root: Path = Path("data/registry")
    expire_after: Duration = timedelta(hours=24)
    gc: GarbageConfig = GarbageConfig()
