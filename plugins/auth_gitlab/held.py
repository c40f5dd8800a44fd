"""What an identity came with, for asking GitLab again as its bearer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.plugins import Credential, CredentialKind, Identity, Profile, Scheme

JOB_USERNAME: Final = "gitlab-ci-token"
_ANY_USERNAME: Final = "oauth2"
"""GitLab ignores the username beside an access token, and 14.x takes an OAuth token under this one (semantics 2.1)."""
HERE: Final = "127.0.0.1"
"""Where a question comes from that no client has."""


@dataclass(frozen=True, slots=True)
class Held:
    """A credential and the address that it came from; printed nowhere.

    *kind* is what GitLab recognised it as. *profile* is what GitLab told its bearer of user and token. Of a job *home*
    is the number of its project, and *home_path* its path where GitLab tells it.
    """

    credential: Credential
    address: str
    kind: CredentialKind = CredentialKind.UNKNOWN
    profile: Profile | None = None
    home: int | None = None
    home_path: str = ""

    @property
    def basic(self) -> Credential:
        """The same secret as the token endpoint takes it."""
        if self.credential.scheme is Scheme.BASIC:
            return self.credential
        username = JOB_USERNAME if self.credential.scheme is Scheme.JOB_TOKEN else _ANY_USERNAME
        return Credential(username, self.credential.password)

    @property
    def headers(self) -> Mapping[str, str] | None:
        """The headers by which the REST API knows the credential; None: it takes no such one."""
        return rest_headers(self.credential, self.kind)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who causes a question, and as whom GitLab is asked: the bearer of *held*, or nobody.

    *address* is where they are, for GitLab to hear. A *stranger* presented no credential.
    """

    held: Held | None
    address: str
    stranger: bool = False

    @property
    def headers(self) -> Mapping[str, str] | None:
        """The headers of a question to the REST API; None: it takes no such credential."""
        shown = {} if self.held is None else self.held.headers
        return None if shown is None else {**shown, "X-Forwarded-For": self.address}


ITSELF: Final = Asker(None, HERE)
"""The gateway."""


def asker_of(identity: Identity) -> Asker | None:
    """As whom GitLab is asked for *identity*; None: there is nothing to ask with."""
    if identity.anonymous:
        # A nobody with an id came with a job token, where none is taken.
        return Asker(None, identity.address or HERE, stranger=bool(identity.address) and not identity.id)
    held = identity.credential
    return Asker(held, held.address or HERE) if isinstance(held, Held) else None


def rest_headers(credential: Credential, kind: CredentialKind = CredentialKind.UNKNOWN) -> Mapping[str, str] | None:
    """The headers that present *credential* to the REST API, in the scheme that it came in.

    What came as Basic is presented as what it was recognised as. None for a password and a deploy token, and for what
    no header can carry.
    """
    scheme = _BY_KIND.get(kind) if credential.scheme is Scheme.BASIC else credential.scheme
    secret = credential.password.get_secret_value()
    if scheme is None or not secret or not secret.isascii() or not secret.isprintable():
        return None
    return {"Authorization": f"Bearer {secret}"} if scheme is Scheme.BEARER else {scheme.value: secret}


_BY_KIND: Final[Mapping[CredentialKind, Scheme]] = {
    CredentialKind.PERSONAL_ACCESS_TOKEN: Scheme.PRIVATE_TOKEN,
    CredentialKind.OAUTH: Scheme.BEARER,
    CredentialKind.JOB_TOKEN: Scheme.JOB_TOKEN,
}


def profile_of(user: Mapping[str, Any], token: Mapping[str, Any] | None = None) -> Profile | None:
    """What GitLab tells of a *user* and of their *token*; None where it did not tell who that is."""
    if user.get("username") is None:
        return None
    return Profile(
        id=int(user["id"]),
        username=str(user["username"]),
        name=str(user.get("name") or user["username"]),
        state=str(user.get("state") or "active"),
        admin=bool(user.get("is_admin")),
        external=bool(user.get("external")),
        bot=bool(user.get("bot")),
        email=user.get("email"),
        token=token,
    )


def cache_key(purpose: bytes, credential: Credential | None, *parts: str) -> bytes:
    """What a question is remembered by. Every part has its length before it, so that no two questions are one."""
    texts = list(parts)
    if credential is not None:
        texts = [credential.scheme, credential.username, credential.password.get_secret_value(), *parts]
    found = [purpose, *(text.encode("utf-8", "surrogatepass") for text in texts)]
    return b"".join(len(part).to_bytes(8, "big") + part for part in found)
