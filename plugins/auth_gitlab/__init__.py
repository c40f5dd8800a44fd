"""A GitLab server as the authority: who a credential is, and what it may do."""

from plugins.auth_gitlab.plugin import Plugin

__all__ = ["Plugin"]
