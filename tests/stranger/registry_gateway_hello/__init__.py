"""A plugin by somebody else: closes one repository to everybody, and hides tags that begin with ``secret-``."""

from __future__ import annotations

from gateway.plugins import Deny, Identity, Model, Names, Reason, RequestFacts, Services, hookimpl


class Keys(Model):
    """Which repository is closed."""

    closed: str


class Plugin:
    """Vetoes and hides."""

    Config = Keys

    def __init__(self, config: Keys, services: Services) -> None:
        self._config = config
        self._log = services.log

    @hookimpl
    def gateway_admit_request(self, identity: Identity, request: RequestFacts) -> Deny | None:
        """Let nobody near the closed repository."""
        if request.repository != self._config.closed:
            return None
        return Deny(Reason("closed", f"hello {identity.subject}, this repository is closed"))

    @hookimpl
    async def gateway_filter_tags(self, tags: Names) -> Names:
        """Hide the secret ones."""
        return [tag for tag in tags if not tag.startswith("secret-")]
