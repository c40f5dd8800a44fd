"""An existing registry behind the gateway: whatever speaks the OCI distribution protocol."""

from plugins.backend_distribution.plugin import Plugin

__all__ = ["Plugin"]
