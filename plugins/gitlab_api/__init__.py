"""GitLab's REST API of the container registry (``/api/v4/``), over every source of identities and every backend."""

from plugins.gitlab_api.plugin import Plugin

__all__ = ["Plugin"]
