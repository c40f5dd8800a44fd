"""Names: which project an image's name belongs to, as GitLab reads it."""

from plugins.naming.plugin import Plugin

__all__ = ["Plugin"]
