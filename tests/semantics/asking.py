"""Ask the token endpoint and read what it says, in forms short enough for a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jwt

from tests.support.wire import SERVICE, Answer, Credential

if TYPE_CHECKING:
    from tests.support.gateway import GatewayProcess

ALL = "pull,push,delete,*"
FORBIDDEN = {"errors": [{"code": "DENIED", "message": "access forbidden"}], "http_status": 403}
"""The body of every 403 of the endpoint, exactly (3.2)."""
NO_MANIFEST = f"manifests/sha256:{'0' * 64}"


def ask(gateway: GatewayProcess, who: Credential, *scopes: str, service: str | None = SERVICE, **more: str) -> Answer:
    """Ask for a token, with each scope as a parameter of its own; `service=None` leaves the service out."""
    named = [] if service is None else [("service", service)]
    query = urlencode([*named, *(("scope", scope) for scope in scopes), *more.items()])
    return gateway.wire(who).get(f"/jwt/auth?{query}")


def scope(name: str, actions: str = ALL) -> str:
    """Spell the scope of a repository."""
    return f"repository:{name}:{actions}"


def entries(answer: Answer) -> list[dict[str, Any]]:
    """Read the access list of a token."""
    found = jwt.decode(answer.expect(200).json()["token"], options={"verify_signature": False})["access"]
    assert isinstance(found, list)
    return found


def access(answer: Answer) -> list[tuple[str, str]]:
    """Read what a token grants: names, and the actions as a scope spells them."""
    return [(entry["name"], ",".join(entry["actions"])) for entry in entries(answer)]


def may(gateway: GatewayProcess, who: Credential, name: str, actions: str = ALL) -> str:
    """Say what a token for one repository grants ("" is an empty list), or the status of a refusal."""
    answer = ask(gateway, who, scope(name, actions))
    if answer.status != 200:
        return str(answer.status)
    found = access(answer)
    assert [granted for granted, _ in found] in ([], [name.lower()])
    return found[0][1] if found else ""


def claims(gateway: GatewayProcess, answer: Answer) -> dict[str, Any]:
    """Verify a token with the published key, as a registry that trusts the issuer would, and give its claims."""
    return verified(gateway, answer.expect(200).json()["token"], audience=SERVICE)


def user_info(gateway: GatewayProcess, found: dict[str, Any]) -> dict[str, Any] | None:
    """Verify the JWT that is nested in the claim `user`, and give its content."""
    if found["user"] is None:
        return None
    content = verified(gateway, found["user"])["user_info"]
    assert content is None or isinstance(content, dict)
    return content


def verified(gateway: GatewayProcess, token: str, *, audience: str | None = None) -> dict[str, Any]:
    """Check a signature by the key that `/jwt/keys` has for it."""
    keys = jwt.PyJWKSet.from_dict(gateway.wire().get("/jwt/keys").expect(200).json()).keys
    wanted = jwt.get_unverified_header(token).get("kid")
    key = next(key for key in keys if wanted in {None, key.key_id})
    options: Any = {"verify_aud": audience is not None}
    found = jwt.decode(token, key, algorithms=["ES256", "RS256"], audience=audience, options=options)
    assert isinstance(found, dict)
    return found


def rows(table: str) -> list[tuple[str, str, str]]:
    """Read a table with a heading: row, column and content of each cell, where names are of one word."""
    heading, *lines = [line.split() for line in table.strip().splitlines()]
    assert all(len(line) == len(heading) for line in lines)
    return [(line[0], column, cell) for line in lines for column, cell in zip(heading[1:], line[1:], strict=True)]
