"""The token endpoint (semantics 3): statuses, bodies, the order of its checks, scopes, and what a token says."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.semantics import company
from tests.semantics.asking import FORBIDDEN, access, ask, claims, entries, may, scope
from tests.semantics.company import (
    ADMIN,
    ADMIN_API,
    CAMEL,
    CAMEL_ID,
    DEVELOPER,
    HOME,
    HOME_ID,
    MAINTAINER,
    REPORTER,
    STRANGER,
    deploy,
    other,
    token,
)
from tests.support.wire import SERVICE, Account, Credential

if TYPE_CHECKING:
    from tests.support.gateway import GatewayProcess

PUBLIC = other("public-enabled")
PRIVATE = other("private-enabled")
BAD = Account("developer", "wrong")
SCOPELESS = token("personal_access_token", "read_user")
PULL = scope(PUBLIC, "pull")
UNKNOWN = {"unknown": "harbor", "missing": None, "empty": "", "dependency_proxy": "dependency_proxy"}

# -- statuses, and which check comes first (3.2) ------------------------------------------------------

STATUSES: list[tuple[str, Credential, list[str], str | None, int]] = [
    ("1: a bad credential", BAD, [], SERVICE, 401),
    ("1 before 2: a bad credential and a wrong service", BAD, [], "harbor", 401),
    ("1 before 2: a bad credential and no service", BAD, [], None, 401),
    ("1 before 6: a bad credential and a public image", BAD, [PULL], SERVICE, 401),
    *((f"2: {title} service, a user", DEVELOPER, [], name, 404) for title, name in UNKNOWN.items()),
    *((f"2: {title} service, nobody", None, [], name, 404) for title, name in UNKNOWN.items()),
    ("2: a public image and a wrong service", DEVELOPER, [PULL], "harbor", 404),
    ("2: the service is not its name in capitals", DEVELOPER, [], SERVICE.upper(), 404),
    ("2 before 4: no registry scope and a wrong service", SCOPELESS, [], "harbor", 404),
    ("4: no registry scope", SCOPELESS, [], SERVICE, 403),
    ("4 before 5: no registry scope and a public image", SCOPELESS, [PULL], SERVICE, 403),
    ("6: nobody asks for nothing", None, [], SERVICE, 403),
    ("6: nobody asks for a private image", None, [scope(PRIVATE, "pull")], SERVICE, 403),
    ("6: nobody asks for what does not exist", None, [scope("other/none", "pull")], SERVICE, 403),
    ("6: nobody asks to push", None, [scope(PUBLIC, "push")], SERVICE, 403),
    ("6: nobody asks for the catalog", None, ["registry:catalog:*"], SERVICE, 403),
    ("6: nobody asks illegibly", None, ["pull"], SERVICE, 403),
    ("9: nobody asks for pull and push", None, [scope(PUBLIC, "pull,push")], SERVICE, 200),
    ("9: nobody asks for one image of two", None, [scope(PRIVATE, "pull"), PULL], SERVICE, 200),
    ("9: a user asks for nothing", DEVELOPER, [], SERVICE, 200),
    ("9: a user is refused everything", STRANGER, [scope(PRIVATE, "pull")], SERVICE, 200),
    ("9: a deploy token asks for nothing", deploy("project", "read_registry"), [], SERVICE, 200),
    ("9: a deploy token is refused everything", deploy("project", "read_registry"), [scope(PRIVATE)], SERVICE, 200),
    ("9: a job is refused everything", company.job("stranger"), [scope(PRIVATE)], SERVICE, 200),
]


@pytest.mark.parametrize(
    ("who", "scopes", "service", "status"), [pytest.param(*row, id=title) for title, *row in STATUSES]
)
def test_status(served: GatewayProcess, who: Credential, scopes: list[str], service: str | None, status: int) -> None:
    """Each check comes in GitLab's order, with its status and its body."""
    answer = ask(served, who, *scopes, service=service).expect(status)
    if status == 404:
        assert answer.body == b""
    elif status == 403:
        assert answer.json() == FORBIDDEN
    elif status == 401:
        [error] = answer.json()["errors"]
        assert error["code"] == "UNAUTHORIZED"
        assert error["message"].startswith("HTTP Basic: Access denied.")


CALLERS = {"a user": DEVELOPER, "nobody": None, "a bad credential": BAD}


@pytest.mark.parametrize("who", [pytest.param(who, id=title) for title, who in CALLERS.items()])
@pytest.mark.parametrize("query", ["", f"?service={SERVICE}"])
def test_post(served: GatewayProcess, who: Credential, query: str) -> None:
    """POST is 404, upon which clients go on with GET."""
    body = f"grant_type=password&service={SERVICE}&username=developer&password={DEVELOPER.password}"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    served.wire(who).send("POST", f"/jwt/auth{query}", body.encode(), form).expect(404)


HEADERS = [
    pytest.param("Basic %%%", 401, id="no base64"),
    pytest.param(f"Basic {base64.b64encode(b'developer').decode()}", 401, id="no colon"),
    pytest.param("Bearer anything", 403, id="Bearer is no way in"),
]


@pytest.mark.parametrize(("header", "status"), HEADERS)
def test_other_headers(served: GatewayProcess, header: str, status: int) -> None:
    """A Basic header that nobody can be read from is a bad credential; any other scheme is nobody."""
    served.wire().get(f"/jwt/auth?service={SERVICE}", Authorization=header).expect(status)


def test_bearer_is_nobody(served: GatewayProcess) -> None:
    """Not even a token of the endpoint's own is a way in: its bearer is nobody here."""
    own = served.wire(MAINTAINER).token(scope(HOME))
    ask(served, own, scope(HOME, "pull")).expect(403)
    found = claims(served, ask(served, own, scope(PUBLIC, "pull,push")))
    assert (found["auth_type"], found["sub"]) == ("none", "")
    assert [entry["actions"] for entry in found["access"]] == [["pull"]]


# -- scopes (3.3) -------------------------------------------------------------------------------------

Entries = list[tuple[str, str]]

SCOPES: list[tuple[str, list[str], Entries]] = [
    ("one", [scope(HOME, "pull")], [(HOME, "pull")]),
    ("repeated", [scope(HOME, "pull"), PULL], [(HOME, "pull"), (PUBLIC, "pull")]),
    ("joined by a space", [f"{scope(HOME, 'pull')} {PULL}"], [(HOME, "pull"), (PUBLIC, "pull")]),
    ("joined by many spaces", [f"  {scope(HOME, 'pull')}   {PULL} "], [(HOME, "pull"), (PUBLIC, "pull")]),
    (
        "repeated and joined",
        [f"{scope(HOME, 'pull')} {PULL}", scope("mx/sub/app", "push")],
        [(HOME, "pull"), (PUBLIC, "pull"), ("mx/sub/app", "push")],
    ),
    ("empty", [""], []),
    ("one part", ["repository"], []),
    ("two parts", [f"repository:{HOME}"], []),
    ("two parts beside three", [f"repository:{HOME}", PULL], [(PUBLIC, "pull")]),
    ("a space before an action", [f"repository:{HOME}:pull, push"], [(HOME, "pull")]),
    ("four parts: the third has a colon", [f"repository:{HOME}:pull:push"], []),
    ("a port in the name", [f"repository:localhost:5000/{HOME}:pull"], []),
    ("no actions", [f"repository:{HOME}:"], []),
    ("no name", ["repository::pull"], []),
    ("no type", [f":{HOME}:pull"], []),
    ("an unknown type", [f"chart:{HOME}:pull"], []),
    ("an unknown type beside a known one", [f"chart:{HOME}:pull", PULL], [(PUBLIC, "pull")]),
    ("a name in capitals", [scope(HOME.upper(), "pull")], [(HOME, "pull")]),
    ("a name in capitals of a project in capitals", [scope(CAMEL, "pull")], [(CAMEL.lower(), "pull")]),
    ("a name in lower case of a project in capitals", [scope(CAMEL.lower(), "pull")], [(CAMEL.lower(), "pull")]),
    ("an unknown action", [scope(HOME, "pull,levitate")], [(HOME, "pull")]),
    ("an unknown action first", [scope(HOME, "levitate,pull")], [(HOME, "pull")]),
    ("unknown actions alone", [scope(HOME, "levitate,fly")], []),
    ("an action in capitals is unknown", [scope(HOME, "PULL")], []),
    ("an empty action", [scope(HOME, "pull,,push")], [(HOME, "pull,push")]),
    ("the order of the request", [scope(HOME, "push,pull")], [(HOME, "push,pull")]),
    ("a repeated action", [scope(HOME, "push,push")], [(HOME, "push,push")]),
    ("repeated actions in their places", [scope(HOME, "pull,push,pull")], [(HOME, "pull,push,pull")]),
    ("not to be had: delete", [scope(HOME, "pull,push,delete,*")], [(HOME, "pull,push")]),
    ("not to be had alone: delete", [scope(HOME, "delete")], []),
    ("no such project", [scope("mx/none", "pull")], []),
    ("a group", [scope("mx/sub", "pull")], []),
    ("no such project beside one", [scope("mx/none", "pull"), PULL], [(PUBLIC, "pull")]),
]


@pytest.mark.parametrize(("scopes", "expected"), [pytest.param(*row, id=title) for title, *row in SCOPES])
def test_scopes(served: GatewayProcess, scopes: list[str], expected: Entries) -> None:
    """A developer's token has an entry for each scope of which something is left, in the order of the request."""
    assert access(ask(served, DEVELOPER, *scopes)) == expected


UNITED = [
    pytest.param([scope(HOME, "pull"), scope(HOME, "push")], "pull,push", id="two"),
    pytest.param([scope(HOME, "pull,push"), scope(HOME, "push")], "pull,push", id="overlapping"),
    pytest.param([scope(HOME, "pull"), scope(HOME, "pull")], "pull", id="twice the same"),
    pytest.param([scope(HOME, "pull"), PULL, scope(HOME, "push")], "pull,push", id="apart"),
    pytest.param([scope(HOME, "pull"), scope(HOME.upper(), "push")], "pull,push", id="spelt differently"),
    pytest.param([scope(HOME, "delete"), scope(HOME, "pull")], "pull", id="one refused"),
    pytest.param([f"{scope(HOME, 'pull')} {scope(HOME, 'push')}"], "pull,push", id="joined"),
]


@pytest.mark.parametrize(("scopes", "expected"), UNITED)
def test_scopes_of_one_repository_are_united(served: GatewayProcess, scopes: list[str], expected: str) -> None:
    """Several scopes for one repository make one entry, where what they have in common stands once (design 4.4)."""
    assert [actions for name, actions in access(ask(served, DEVELOPER, *scopes)) if name == HOME] == [expected]


CATALOG = "registry:catalog:*"
CATALOGS: list[tuple[str, Account, list[str], bool]] = [
    ("an admin", ADMIN, [CATALOG], True),
    ("an admin's api token", ADMIN_API, [CATALOG], True),
    ("twice", ADMIN, [CATALOG, CATALOG], True),
    ("twice, joined", ADMIN, [f"{CATALOG} {CATALOG}"], True),
    ("beside another action's scope", ADMIN, [CATALOG, "registry:catalog:pull"], True),
    ("beside another action's scope, which comes first", ADMIN, ["registry:catalog:pull", CATALOG], True),
    ("beside an image", ADMIN, [PULL, CATALOG], True),
    ("another action", ADMIN, ["registry:catalog:pull"], False),
    ("with another action", ADMIN, ["registry:catalog:*,pull"], False),
    ("with another action, which comes first", ADMIN, ["registry:catalog:pull,*"], False),
    ("no action", ADMIN, ["registry:catalog:"], False),
    ("another name", ADMIN, ["registry:catalogue:*"], False),
    ("an owner", company.user("owner"), [CATALOG], False),
    ("a maintainer's api token", token("personal_access_token", "api"), [CATALOG], False),
    ("a deploy token", deploy("group", "read_registry write_registry"), [CATALOG], False),
    ("a job", company.job("developer"), [CATALOG], False),
]


@pytest.mark.parametrize(("who", "scopes", "shown"), [pytest.param(*row, id=title) for title, *row in CATALOGS])
def test_catalog(served: GatewayProcess, who: Account, scopes: list[str], shown: bool) -> None:  # noqa: FBT001
    """The catalog is an instance admin's who asks for exactly `*`; anything else only drops its own scope."""
    found = [
        (entry["name"], set(entry["actions"]))
        for entry in entries(ask(served, who, *scopes))
        if entry["type"] == "registry"
    ]
    assert found == ([("catalog", {"*"})] if shown else [])


# -- the answer and its token (3.2, 3.4) --------------------------------------------------------------

IGNORED = {"account": "admin", "client_id": "docker", "offline_token": "true"}


@pytest.mark.parametrize("more", [pytest.param({}, id="plain"), pytest.param(IGNORED, id="with all that is ignored")])
def test_answer(served: GatewayProcess, more: dict[str, str]) -> None:
    """The answer is a token and what clients like to read beside it, and never a refresh token."""
    found: dict[str, Any] = ask(served, DEVELOPER, scope(HOME, "pull"), **more).expect(200).json()
    assert set(found) <= {"token", "access_token", "expires_in", "issued_at"}
    assert found.get("access_token", found["token"]) == found["token"]
    assert found.get("expires_in", 300) == 300


def test_account_is_ignored(served: GatewayProcess) -> None:
    """Who says that they are an admin is what their credential says, or nobody."""
    assert claims(served, ask(served, DEVELOPER, account="admin"))["sub"] == "developer"
    ask(served, None, account="admin").expect(403)
    assert may(served, None, HOME) == "403"


def test_claims(served: GatewayProcess) -> None:
    """A token has the issuer, the service, its times and an id, and is good for five minutes."""
    before = int(time.time())
    found = claims(served, ask(served, DEVELOPER))
    after = time.time()
    assert (found["iss"], found["aud"], found["access"]) == ("registry-gateway", SERVICE, [])
    assert before <= found["iat"] <= after
    assert found["nbf"] <= found["iat"]
    assert found["exp"] - found["iat"] == 300
    assert found["jti"]
    assert claims(served, ask(served, DEVELOPER))["jti"] != found["jti"]


METAS = [
    pytest.param(HOME, {"project_path": HOME, "project_id": HOME_ID}, id="with an id"),
    pytest.param(f"{HOME}/a/b", {"project_path": HOME, "project_id": HOME_ID}, id="of an image below the project"),
    pytest.param(CAMEL, {"project_path": CAMEL.lower(), "project_id": CAMEL_ID}, id="in lower case"),
    pytest.param("mx/sub/app", {"project_path": "mx/sub/app"}, id="that nobody numbered"),
]


@pytest.mark.parametrize(("name", "expected"), METAS)
def test_meta(served: GatewayProcess, name: str, expected: dict[str, Any]) -> None:
    """An entry names its project, by its lower-case path and its number; without tag rules it has no patterns."""
    [entry] = entries(ask(served, DEVELOPER, scope(name, "pull,push")))
    assert (entry["type"], entry["name"]) == ("repository", name.lower())
    assert expected.items() <= entry["meta"].items()
    assert entry["meta"]["project_id"] > 0
    assert "tag_deny_access_patterns" not in entry["meta"]


# -- what the endpoint leaves behind (3.3, step 8) ----------------------------------------------------


def test_push_grant_is_enough_for_a_record(served: GatewayProcess) -> None:
    """After a granted push that never came there is at most an empty repository, and pushing into it still works."""
    name = f"{HOME}/never-pushed"
    assert may(served, DEVELOPER, name, "pull,push") == "pull,push"
    answer = served.wire(DEVELOPER).get(f"/v2/{name}/tags/list")
    assert answer.status in {200, 404}
    assert answer.status == 404 or not answer.json()["tags"]
    assert may(served, DEVELOPER, name, "pull,push") == "pull,push"
    served.wire(DEVELOPER).start_upload(name)


def test_pull_grant_shows_nothing_new(served: GatewayProcess) -> None:
    """A reporter who asks for push is granted pull, and no image comes of it."""
    name = f"{HOME}/never-granted"
    assert may(served, REPORTER, name, "push,pull") == "pull"
    answer = served.wire(REPORTER).get(f"/v2/{name}/tags/list")
    assert answer.status == 404 or not answer.json()["tags"]
