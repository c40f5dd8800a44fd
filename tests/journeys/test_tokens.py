"""The token endpoint and what its tokens open, as GitLab answers (semantics 3 and 16)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support import images
from tests.support.gateway import GatewayProcess
from tests.support.people import (
    ALICE,
    ALICE_EXPIRED,
    ALICE_READ,
    ALICE_REVOKED,
    BOB,
    CAROL,
    DAVE,
    DEPLOY_READ,
    DEPLOY_READ_WRITE,
    EVE,
    HIDDEN,
    INTERNAL,
    MALLORY,
    PRIVATE,
    PUBLIC,
    ROOT,
)
from tests.support.wire import SERVICE, Account, Answer, Credential

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import GatewayFactory


def ask(gateway: GatewayProcess, who: Credential, *scopes: str, service: str = SERVICE) -> Answer:
    """Ask for a token."""
    query = urlencode([("service", service), *(("scope", scope) for scope in scopes)])
    return gateway.wire(who).get(f"/jwt/auth?{query}")


def granted(answer: Answer) -> list[tuple[str, list[str]]]:
    """Read what a token grants, as a registry that trusts the issuer would."""
    claims = jwt.decode(answer.expect(200).json()["token"], options={"verify_signature": False})
    return [(entry["name"], entry["actions"]) for entry in claims["access"]]


GRANTS = [
    pytest.param(None, PUBLIC, "pull,push", ["pull"], id="nobody, public: pull of pull,push"),
    pytest.param(MALLORY, PUBLIC, "pull,push", ["pull"], id="stranger, public"),
    pytest.param(MALLORY, INTERNAL, "pull", ["pull"], id="stranger, internal"),
    pytest.param(MALLORY, PRIVATE, "pull", None, id="stranger, private: nothing, and 200"),
    pytest.param(BOB, PRIVATE, "push,pull", ["pull"], id="reporter: pull of push,pull"),
    pytest.param(CAROL, PRIVATE, "pull,push,delete", ["pull", "push"], id="developer: no delete"),
    pytest.param(DAVE, PRIVATE, "pull,push,delete,*", ["pull", "push", "delete", "*"], id="maintainer: all"),
    pytest.param(CAROL, PRIVATE, "push,push", ["push", "push"], id="repeated actions stay"),
    pytest.param(CAROL, PRIVATE, "pull,levitate", ["pull"], id="unknown actions go"),
    pytest.param(ROOT, HIDDEN, "pull,push,delete", ["pull", "push", "delete"], id="admin"),
    pytest.param(ALICE, "acme/nothing", "pull", None, id="no such project"),
    pytest.param(CAROL, f"{PRIVATE}/a/b", "pull", ["pull"], id="two extra components"),
    pytest.param(CAROL, f"{PRIVATE}/a/b/c", "pull", None, id="three extra components belong to no project"),
    pytest.param(ALICE_READ, PRIVATE, "pull,push", ["pull"], id="read_registry cuts an owner"),
    pytest.param(DEPLOY_READ, PRIVATE, "pull,push", ["pull"], id="deploy token, read"),
    pytest.param(DEPLOY_READ_WRITE, PRIVATE, "pull,push,delete", ["pull", "push"], id="deploy token never deletes"),
    pytest.param(DEPLOY_READ, INTERNAL, "pull", None, id="deploy token of another project"),
]


@pytest.mark.parametrize(("who", "name", "actions", "expected"), GRANTS)
def test_grant(
    gateway: GatewayProcess, who: Account | None, name: str, actions: str, expected: list[str] | None
) -> None:
    """A token holds what was asked for and the caller may do, in the order of the request."""
    found = granted(ask(gateway, who, f"repository:{name}:{actions}"))
    assert found == ([(name, expected)] if expected else [])


STATUSES = [
    pytest.param(None, [], SERVICE, 403, id="nobody asks for nothing"),
    pytest.param(None, [f"repository:{PRIVATE}:pull"], SERVICE, 403, id="nobody asks for a private image"),
    pytest.param(None, [f"repository:{PUBLIC}:push"], SERVICE, 403, id="nobody asks to push"),
    pytest.param(ALICE, [], SERVICE, 200, id="docker login"),
    pytest.param(ALICE, [], "harbor", 404, id="another service"),
    pytest.param(Account("alice", "wrong"), [], SERVICE, 401, id="wrong password"),
    pytest.param(EVE, [], SERVICE, 401, id="blocked"),
    pytest.param(ALICE_EXPIRED, [], SERVICE, 401, id="a token that expires today"),
    pytest.param(ALICE_REVOKED, [], SERVICE, 401, id="revoked"),
    pytest.param(Account("anybody", DEPLOY_READ.password), [], SERVICE, 401, id="deploy token, other username"),
    pytest.param(Account("", "pat-alice-api"), [], SERVICE, 200, id="personal token, no username"),
    pytest.param("not-a-token", [f"repository:{PUBLIC}:pull"], SERVICE, 200, id="Bearer is no way in, nor an obstacle"),
]


@pytest.mark.parametrize(("who", "scopes", "service", "status"), STATUSES)
def test_status(gateway: GatewayProcess, who: Credential, scopes: list[str], service: str, status: int) -> None:
    """The endpoint answers with GitLab's statuses, and in OCI form where it refuses with a body."""
    answer = ask(gateway, who, *scopes, service=service).expect(status)
    if status in {401, 403}:
        assert answer.json()["errors"][0]["code"] == {401: "UNAUTHORIZED", 403: "DENIED"}[status]


def test_post_is_404(gateway: GatewayProcess) -> None:
    """OAuth2's POST is 404, upon which clients go on with GET."""
    gateway.wire(ALICE).send("POST", "/jwt/auth", b"grant_type=password").expect(404)


@pytest.mark.parametrize("joined", [False, True])
def test_several_scopes(gateway: GatewayProcess, joined: bool) -> None:  # noqa: FBT001 - a table of two
    """Scopes may be repeated or joined by spaces; those of one repository are united."""
    scopes = [f"repository:{PRIVATE}:pull", f"repository:{PUBLIC}:pull", f"repository:{PRIVATE}:push"]
    found = granted(ask(gateway, CAROL, *([" ".join(scopes)] if joined else scopes)))
    assert found == [(PRIVATE, ["pull", "push"]), (PUBLIC, ["pull"])]


@pytest.mark.parametrize(("who", "shown"), [(ROOT, True), (ALICE, False)])
def test_catalog_scope_is_for_admins(gateway: GatewayProcess, who: Account, shown: bool) -> None:  # noqa: FBT001
    """Only an administrator is granted registry:catalog:*."""
    assert granted(ask(gateway, who, "registry:catalog:*")) == ([("catalog", ["*"])] if shown else [])


def test_keys_verify_tokens(gateway: GatewayProcess) -> None:
    """The published keys verify the tokens, by key id."""
    token = gateway.wire(ALICE).token()
    keys = jwt.PyJWKSet.from_dict(gateway.wire().get("/jwt/keys").expect(200).json())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["ES256"], audience=SERVICE, issuer="registry-gateway")
    assert claims["sub"] == "alice"


def test_a_granted_push_makes_the_record(gateway: GatewayProcess) -> None:
    """A repository has its record from push authorisation on; a grant of pull, and a refused push, make none."""
    names = [f"{PRIVATE}/{word}" for word in ("record-push", "record-pull", "record-refused")]
    gateway.wire(CAROL).token(f"repository:{names[0]}:push", f"repository:{names[1]}:pull")
    gateway.wire(BOB).token(f"repository:{names[2]}:pull,push")
    with closing(sqlite3.connect(gateway.data / "gateway.db")) as database:
        found = database.execute("select path, project from repositories where path like '%/record-%'").fetchall()
    assert found == [(names[0], PRIVATE)]


def test_an_rsa_key_signs_rs256(gateway_factory: GatewayFactory, tmp_path: Path) -> None:
    """With an RSA key, GitLab's own kind, tokens are RS256, verify by the published key, and open the registry."""
    key = rsa.generate_private_key(65537, 2048)
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = tmp_path / "rsa.pem"
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(*encoding))
    gateway = gateway_factory(extra={"tokens": {"signing_key_file": str(path)}})
    token = gateway.wire(CAROL).token(f"repository:{PRIVATE}:pull,push")
    assert jwt.get_unverified_header(token)["alg"] == "RS256"
    published = jwt.PyJWKSet.from_dict(gateway.wire().get("/jwt/keys").expect(200).json())
    verifying = published[jwt.get_unverified_header(token)["kid"]]
    assert (
        jwt.decode(token, verifying, algorithms=["RS256"], audience=SERVICE, issuer="registry-gateway")["sub"]
        == "carol"
    )
    gateway.wire(token).push_image(PRIVATE, "rsa", images.image(b"rsa"))


def told(answer: Answer, name: str) -> tuple[int, dict[str, str], bytes]:
    """What a caller hears, but for the name they asked for, the date and the request id."""
    headers = {
        key: value.replace(name, "NAME") for key, value in answer.headers.items() if key not in {"Date", "X-Request-Id"}
    }
    return answer.status, headers, answer.body.replace(name.encode(), b"NAME")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("way", ["nobody", "basic", "token"])
def test_stranger_learns_nothing(gateway: GatewayProcess, method: str, way: str) -> None:
    """A hidden image and one that doesn't exist are one answer to whoever may not pull."""
    gateway.wire(CAROL).push_image(PRIVATE, "secret", images.image(b"hidden"))
    heard = []
    for name in (PRIVATE, "acme/apx"):
        who: Credential = {"nobody": None, "basic": MALLORY}.get(way)
        if way == "token":
            who = gateway.wire(MALLORY).token(f"repository:{name}:pull,push,delete")
        heard.append(told(gateway.wire(who).send(method, f"/v2/{name}/manifests/secret"), name))
    assert heard[0] == heard[1]
    assert heard[0][0] == (401 if way == "nobody" else 403)


def test_refused_push_says_which_role_is_needed(gateway: GatewayProcess) -> None:
    """A reporter who pushes hears that it takes a developer, under Basic and under a token alike."""
    token = gateway.wire(BOB).token(f"repository:{PRIVATE}:pull,push")
    for who in (BOB, token):
        answer = gateway.wire(who).send("POST", f"/v2/{PRIVATE}/blobs/uploads/").expect(403)
        assert "developer" in answer.json()["errors"][0]["message"]


def test_token_for_something_else_is_challenged(gateway: GatewayProcess) -> None:
    """A token that never asked for this access is 401 with a scope to ask for, without a space after commas."""
    token = gateway.wire(CAROL).token(f"repository:{PUBLIC}:pull")
    answer = gateway.wire(token).get(f"/v2/{PRIVATE}/tags/list").expect(401)
    assert answer.header("WWW-Authenticate") == (
        f'Bearer realm="{gateway.base_url}/jwt/auth",service="{SERVICE}",scope="repository:{PRIVATE}:pull",'
        'error="insufficient_scope"'
    )


def test_catalog_shows_what_the_caller_may_pull(gateway: GatewayProcess) -> None:
    """The catalog lists public images for nobody, one's own for a member, everything for an administrator."""
    for project in (PRIVATE, PUBLIC):
        gateway.wire(CAROL).push_image(f"{project}/catalog", "1", images.image(b"catalog"))

    def shown(who: Credential) -> set[str]:
        names = set(gateway.wire(who).get("/v2/_catalog").expect(200).json()["repositories"])
        return names & {f"{PRIVATE}/catalog", f"{PUBLIC}/catalog"}

    assert shown(None) == shown(MALLORY) == {f"{PUBLIC}/catalog"}
    assert shown(BOB) == shown(ROOT) == {f"{PUBLIC}/catalog", f"{PRIVATE}/catalog"}
