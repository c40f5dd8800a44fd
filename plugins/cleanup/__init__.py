"""Container expiration policies: kept here, planned before anything is deleted, and run by a periodic job."""

from plugins.cleanup.plugin import Plugin

__all__ = ["Plugin"]
