"""Permissions: what GitLab lets whom do with a project's images."""

from plugins.visibility.plugin import Plugin

__all__ = ["Plugin"]
