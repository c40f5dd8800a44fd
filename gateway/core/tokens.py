"""Bearer tokens: the remembered answer of the decision hooks, signed so that nobody has to ask them again.

A token carries who asked, by what kind of credential, its ceiling, what was granted and, for what was refused, the
reason that its bearer may know. It is a Docker registry token (distribution, "Token Authentication Specification")
with GitLab's ``auth_type``, ``user`` and ``meta`` claims (semantics 3.4) and one claim of our own, ``gateway``.
"""

from __future__ import annotations

import itertools
import math
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import jwt
from cachetools import LRUCache
from jwt.algorithms import Algorithm

from gateway.core.issuers import Issuers
from gateway.core.jsonbytes import encode
from gateway.core.keys import Keys, VerificationKey
from gateway.oci import Action
from gateway.plugins import ALL_ACTIONS, CredentialKind, Identity, Reason
from gateway.plugins.chain import Answer

_LEEWAY: Final = 5
"""Seconds by which another replica's clock may be ahead."""
_REMEMBERED: Final = 16 * 1024 * 1024
"""Bytes of tokens whose signature is remembered as verified."""
_REQUIRED: Final = ("exp", "iat", "nbf", "jti", "aud", "iss")
_REQUIRED_OF_OTHERS: Final = ("exp", "iat", "jti", "aud", "iss", "access")
_USERS: Final = 4096
"""Callers whose ``user`` claim, which takes a signature of its own, is kept for the next token."""


class InvalidTokenError(Exception):
    """Not a token of ours, or not one for here and now."""


class ExpiredTokenError(InvalidTokenError):
    """A genuine token of ours whose time is over. *claims* are what it said."""

    def __init__(self, claims: Claims) -> None:
        super().__init__("the token has expired")
        self.claims = claims


@dataclass(frozen=True, slots=True)
class Claims:
    """What a genuine token says: identity, grants and refusals by ``type:name``, its id and end (seconds, UTC).

    *projects* has the lower-case path of the project that each granted repository belongs to, by the same key. *below*
    has, by ``type:path/``, what is granted for every name below a path: GitLab's tokens for itself, ``path/*``.
    """

    identity: Identity
    grants: Mapping[str, frozenset[str]]
    projects: Mapping[str, str]
    refusals: Mapping[str, Reason | None]
    token_id: str
    expires: float
    below: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def granted(self, key: str) -> frozenset[str]:
        """What is granted for ``type:name``."""
        found = self.grants.get(key, frozenset())
        for path, actions in self.below.items():
            if key.startswith(path):
                found |= actions
        return found


class Tokens:
    """Signs and verifies tokens of one issuer for one service."""

    def __init__(
        self,
        keys: Keys,
        *,
        issuer: str,
        service: str,
        ttl: float,
        trusted: Issuers | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._trusted = trusted or Issuers(())
        self._issuer = issuer
        self._service = service
        self._clock = clock
        self._verified: LRUCache[bytes, Claims] = LRUCache(_REMEMBERED, getsizeof=_weight)
        self._prefix = f"{secrets.token_urlsafe(12)}."
        self._numbers = itertools.count()
        self._users: LRUCache[tuple[str, str], tuple[str, int]] = LRUCache(_USERS)
        header = {"alg": keys.algorithm, "kid": keys.key_id, "typ": "JWT"}
        self._header = _base64url(encode(header))
        self._algorithm: Algorithm = jwt.get_algorithm_by_name(keys.algorithm)
        self.ttl = ttl

    def sign(self, identity: Identity, answers: Sequence[Answer]) -> tuple[str, int]:
        """A token for what *answers* allow, and the second in which it was issued.

        ``access`` holds the actions granted in the order and number in which they were asked for (semantics 3.3.5).
        """
        now = int(self._clock())
        granted: dict[str, dict[str, Any]] = {}
        refused: dict[str, Any] = {}
        for answer in answers:
            access = answer.access
            actions = [action for action in access.actions if action in answer.allowed]
            key = f"{access.type}:{access.name}"
            if actions:
                entry = granted.setdefault(key, {"type": access.type, "name": access.name, "actions": []})
                entry["actions"] += actions
                if answer.project is not None:
                    entry["meta"] = {"project_path": answer.project}
                    if answer.project_id is not None:
                        entry["meta"]["project_id"] = answer.project_id
            if len(actions) < len(access.actions):
                reason = answer.reason
                refused[key] = [reason.code, reason.message, reason.remedy] if reason else None
        claims = {
            "iss": self._issuer,
            "aud": self._service,
            # A deploy token is no user: GitLab leaves its subject empty.
            "sub": "" if identity.kind is CredentialKind.DEPLOY_TOKEN else identity.subject,
            "iat": now,
            "nbf": now - _LEEWAY,
            "exp": now + max(1, int(self.ttl)),
            "jti": self._id(),
            "auth_type": identity.kind,
            "user": self._user(identity, now),
            "access": list(granted.values()),
            "gateway": {
                "source": identity.source,
                "subject": identity.subject,
                "id": identity.id,
                "ceiling": sorted(identity.ceiling),
                "admin": identity.admin,
                "external": identity.external,
                "refused": refused,
            },
        }
        return self._encoded(claims), now

    def _user(self, identity: Identity, now: int) -> str:
        """GitLab's claim ``user``: a token in the token that says by whom and how it was asked for."""
        key = (identity.kind, identity.subject)
        token, end = self._users.get(key, ("", 0))
        if end < now + self.ttl:
            end = now + 2 * max(1, int(self.ttl))
            info = None if identity.anonymous else {"token_type": identity.kind, "username": identity.subject}
            times = {"iat": now, "nbf": now - _LEEWAY, "exp": end, "jti": self._id()}
            token = self._encoded({"user_info": info, **times})
            self._users[key] = token, end
        return token

    def _id(self) -> str:
        """An id that no other token has: unique among processes by chance, within one by counting."""
        return f"{self._prefix}{next(self._numbers):x}"

    def _encoded(self, claims: dict[str, Any]) -> str:
        """The claims as a JWS (RFC 7515 section 7.1). ``jwt.encode`` would write and sort the same header each time."""
        text = f"{self._header}.{_base64url(encode(claims))}"
        return f"{text}.{_base64url(self._algorithm.sign(text.encode(), self._keys.signing))}"

    def verify(self, token: str) -> Claims:
        """Read a token. Raises InvalidTokenError, and ExpiredTokenError for one that was good once."""
        key = sha256(token.encode("utf-8", "surrogatepass")).digest()
        claims = self._verified.get(key)
        if claims is None:
            claims = self._read(token)
            self._verified[key] = claims
        if claims.expires <= self._clock():
            raise ExpiredTokenError(claims)
        return claims

    def _read(self, token: str) -> Claims:
        try:
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            own = self._keys.verification.get(kid) if isinstance(kid, str) else None
            if own is not None:
                return _claims(self._verified_body(token, own, self._issuer, self._service, _REQUIRED))
            issuer = self._trusted.get(jwt.decode(token, options={"verify_signature": False}).get("iss"))
            key = issuer.key(kid) if issuer is not None else None
            if issuer is None or key is None:
                if issuer is not None:
                    self._trusted.unknown_key(issuer)
                raise InvalidTokenError("the token is signed with a key that this registry does not know")
            body = self._verified_body(token, key, issuer.name, issuer.audience, _REQUIRED_OF_OTHERS)
            return _foreign_claims(body, issuer.name)
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InvalidTokenError("the token is not one of this registry") from error

    def _verified_body(
        self, token: str, key: VerificationKey, issuer: str, audience: str, required: Sequence[str]
    ) -> dict[str, Any]:
        body: dict[str, Any] = jwt.decode(
            token,
            key.public,
            algorithms=[key.algorithm],
            audience=audience,
            issuer=issuer,
            leeway=_LEEWAY,
            options={
                "require": list(required),
                # The end is checked on every use, above; the rest of time is checked here by the same clock.
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
        times = [body[claim] for claim in ("iat", "nbf", "exp") if claim in body]
        if not all(math.isfinite(moment) for moment in times):
            raise InvalidTokenError("the token has a time that is none")
        if max(body["iat"], body.get("nbf", 0)) > self._clock() + _LEEWAY:
            raise InvalidTokenError("the token is not valid yet")
        return body


def _claims(body: Mapping[str, Any]) -> Claims:
    own = body["gateway"]
    granted = {f"{entry['type']}:{entry['name']}": entry for entry in body["access"]}
    identity = Identity(
        source=own["source"],
        kind=CredentialKind(body["auth_type"]),
        subject=own["subject"],
        id=own["id"],
        ceiling=frozenset(Action(action) for action in own["ceiling"]) & ALL_ACTIONS,
        admin=own["admin"] is True,
        external=own["external"] is True,
    )
    return Claims(
        identity,
        {key: frozenset(entry["actions"]) for key, entry in granted.items()},
        {key: entry["meta"]["project_path"] for key, entry in granted.items() if "meta" in entry},
        {key: Reason(*reason) if reason else None for key, reason in own["refused"].items()},
        body["jti"],
        float(body["exp"]),
    )


def _foreign_claims(body: Mapping[str, Any], issuer: str) -> Claims:
    """What a token of another issuer grants (distribution, "Token Authentication Specification"): its access alone."""
    auth_type = body.get("auth_type")
    kinds = {str(kind): kind for kind in CredentialKind}
    subject = body.get("sub") or ""
    if not isinstance(subject, str) or not isinstance(body["access"] or [], list):
        raise InvalidTokenError("the token is not one for a registry")
    identity = Identity(
        f"issuer {issuer}", kinds.get(str(auth_type), CredentialKind.UNKNOWN), subject, f"{issuer}:{subject}"
    )
    grants: dict[str, frozenset[str]] = {}
    below: dict[str, frozenset[str]] = {}
    projects: dict[str, str] = {}
    for entry in body["access"] or []:
        key, actions = f"{entry['type']}:{entry['name']}", frozenset(map(str, entry["actions"]))
        table, key = (below, key.removesuffix("*")) if key.endswith("/*") else (grants, key)
        table[key] = table.get(key, frozenset()) | actions
        project = (entry.get("meta") or {}).get("project_path")
        if isinstance(project, str):
            projects[key] = project
    return Claims(identity, grants, projects, {}, str(body["jti"]), float(body["exp"]), below)


def _base64url(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _weight(claims: Claims) -> int:
    names = (*claims.grants, *claims.refusals)
    return 1024 + sum(256 + len(name) for name in names)
