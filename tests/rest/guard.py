"""A plugin of the tests: it hides some images from all but administrators, and vetoes some requests of theirs."""

from __future__ import annotations

from gateway.plugins import Deny, Identity, Model, Names, Reason, RequestFacts, Services, hookimpl


class Keys(Model):
    """Nothing to configure."""


class Plugin:
    """Hides ``secret…`` tags and repositories called ``hidden``; closes ``shut`` ones, and keeps what is ``kept``."""

    Config = Keys

    def __init__(self, config: Keys, services: Services) -> None:
        del config, services

    @hookimpl
    async def gateway_filter_tags(self, identity: Identity, tags: Names) -> Names:
        """Hide the secret ones."""
        return [tag for tag in tags if identity.admin or not tag.startswith("secret")]

    @hookimpl
    async def gateway_filter_repositories(self, identity: Identity, names: Names) -> Names:
        """Hide the hidden ones."""
        return [name for name in names if identity.admin or not name.endswith("/hidden")]

    @hookimpl
    def gateway_admit_request(self, identity: Identity, request: RequestFacts) -> Deny | None:
        """Let nobody near what is shut, and nobody delete a repository or a tag that is kept."""
        if identity.admin:
            return None
        last = (request.repository or "").rpartition("/")[2]
        actions = {word for access in request.accesses if access.name == request.repository for word in access.actions}
        if last == "shut" or ("delete" in actions and "kept" in {last, request.reference}):
            return Deny(Reason("guard", "the guard says no"))
        return None
