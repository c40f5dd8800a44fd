"""The details that developers will get wrong (semantics 16), by their numbers: access, names and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.semantics.asking import ALL, FORBIDDEN, access, ask, entries, may, scope
from tests.semantics.company import (
    ADMIN,
    CAMEL,
    DEVELOPER,
    HOME,
    REPORTER,
    STRANGER,
    deploy,
    ending,
    job,
    other,
    token,
    user,
)
from tests.support import images
from tests.support.wire import SERVICE, Account

if TYPE_CHECKING:
    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess

PUBLIC = other("public-enabled")
PRIVATE = other("private-enabled")
WRITE_ONLY = {
    "a personal token": token("personal_access_token", "write_registry"),
    "a deploy token": deploy("group", "write_registry"),
}


def test_trap_01_nobody_and_a_private_image(served: GatewayProcess) -> None:
    """Nobody who asks for a private image is 403 at the token endpoint, not 401."""
    assert ask(served, None, scope(PRIVATE, "pull")).expect(403).json() == FORBIDDEN


def test_trap_02_a_user_without_rights(served: GatewayProcess) -> None:
    """A user without rights is 200, with an empty access list."""
    assert entries(ask(served, STRANGER, scope(PRIVATE, "pull")).expect(200)) == []


def test_trap_03_wrong_service(served: GatewayProcess) -> None:
    """A wrong service is 404 with an empty body, and so is POST a 404."""
    assert ask(served, DEVELOPER, service="registry").expect(404).body == b""
    served.wire(DEVELOPER).send("POST", f"/jwt/auth?service={SERVICE}").expect(404)


def test_trap_04_only_a_token(served: GatewayProcess) -> None:
    """Beside the token stands at most what a gateway may add to it."""
    found = set(ask(served, DEVELOPER, offline_token="true").expect(200).json())
    assert found - {"access_token", "expires_in", "issued_at"} == {"token"}


@pytest.mark.parametrize("who", [pytest.param(who, id=f"05 {title}") for title, who in WRITE_ONLY.items()])
def test_trap_05_write_registry_alone_cannot_pull(served: GatewayProcess, who: Account) -> None:
    """With `write_registry` alone one does not pull, public images included."""
    assert may(served, who, HOME, "pull,push") == "push"
    assert may(served, who, "mx/public-enabled", "pull") == ""
    assert may(served, who, PUBLIC, "pull") == ""
    served.wire(who).get("/v2/mx/public-enabled/tags/list").expect(403)


def test_trap_06_no_registry_scope(served: GatewayProcess) -> None:
    """A good token without a registry scope is 403 for a public image, and never falls back to nobody."""
    who = token("personal_access_token", "read_repository write_repository")
    assert ask(served, who, scope(PUBLIC, "pull")).expect(403).json() == FORBIDDEN
    served.wire(who).get(f"/v2/{PUBLIC}/tags/list").expect(403)


USERNAMES = [
    pytest.param(token("personal_access_token", "api")._replace(username=""), 200, id="07 personal token, no username"),
    pytest.param(token("personal_access_token", "api")._replace(username="admin"), 200, id="07 personal token, any"),
    pytest.param(deploy("project", "read_registry"), 200, id="07 deploy token, its username"),
    pytest.param(deploy("project", "read_registry")._replace(username="x"), 401, id="07 deploy token, another"),
    pytest.param(job("developer"), 200, id="07 job, gitlab-ci-token"),
    pytest.param(job("developer")._replace(username="developer"), 401, id="07 job, another"),
]


@pytest.mark.parametrize(("who", "status"), USERNAMES)
def test_trap_07_usernames(served: GatewayProcess, who: Account, status: int) -> None:
    """The username does not matter for personal tokens, must fit deploy tokens, and is a fixed one for jobs."""
    ask(served, who).expect(status)


def test_trap_08_expires_today(served: GatewayProcess) -> None:
    """A token that expires today is expired."""
    ask(served, ending("personal_access_token", "expires today")).expect(401)
    ask(served, ending("personal_access_token", "expires tomorrow")).expect(200)


def test_trap_09_developers_do_not_delete(served: GatewayProcess) -> None:
    """A developer is never granted the registry's `delete`."""
    assert may(served, DEVELOPER, HOME, "delete") == ""
    assert may(served, DEVELOPER, HOME) == "pull,push"


@pytest.mark.parametrize("username", [pytest.param(name, id=f"10 {name}") for name in ("developer", "guest", "admin")])
def test_trap_10_jobs_delete_at_home(served: GatewayProcess, username: str) -> None:
    """A job deletes in its own project, whatever its user's role, and never gets `*`."""
    assert may(served, job(username), HOME) == "pull,push,delete"
    assert may(served, job(username), HOME, "*") == ""


JOBS_ABROAD = [
    pytest.param("admin", "", id="11 an admin without membership"),
    pytest.param("lodger", "", id="11 a guest there"),
    pytest.param("courier", "pull", id="11 a reporter there"),
]


@pytest.mark.parametrize(("username", "allowed"), JOBS_ABROAD)
def test_trap_11_jobs_need_membership(served: GatewayProcess, username: str, allowed: str) -> None:
    """A job in another private project needs its user's membership; being admin does not help."""
    assert may(served, job(username), PRIVATE) == allowed


JOBS_AT_HOME = [
    pytest.param("mx/private-private", "pull,push,delete", id="12 private level"),
    pytest.param("mx/public-private", "pull,push,delete", id="12 private level, public project"),
    pytest.param("mx/public-disabled", "", id="12 disabled"),
]


@pytest.mark.parametrize(("project", "allowed"), JOBS_AT_HOME)
def test_trap_12_only_disabled_stops_a_job_at_home(served: GatewayProcess, project: str, allowed: str) -> None:
    """A stranger's job does in its own project what jobs do, and only `disabled` stops it."""
    assert may(served, job("stranger", project), project) == allowed


def test_trap_13_partial_grants(served: GatewayProcess) -> None:
    """A reporter who asks for push and pull gets pull, and sees the failure when they upload."""
    answer = ask(served, REPORTER, scope(HOME, "push,pull"))
    assert access(answer) == [(HOME, "pull")]
    wire = served.wire(answer.json()["token"])
    assert wire.get(f"/v2/{HOME}/tags/list").status in {200, 404}
    wire.send("POST", f"/v2/{HOME}/blobs/uploads/").expect(403)


PLANNERS = [
    pytest.param("planner", "mx/private-enabled", "", id="16 private"),
    pytest.param("planner", "mx/public-private", "", id="16 private level"),
    pytest.param("planner", "mx/internal-enabled", "pull", id="16 internal"),
    pytest.param("external-planner", "mx/private-enabled", "", id="16 external"),
]


@pytest.mark.parametrize(("username", "project", "allowed"), PLANNERS)
def test_trap_16_planners_are_guests(served: GatewayProcess, username: str, project: str, allowed: str) -> None:
    """A planner may what a guest may, and less than a reporter."""
    assert may(served, user(username), project) == allowed


LEVELS = [
    pytest.param("mx/public-private", "guest", "", id="17 private level, guest"),
    pytest.param("mx/public-private", "stranger", "", id="17 private level, stranger"),
    pytest.param("mx/public-private", "reporter", "pull", id="17 private level, reporter"),
    pytest.param("mx/public-private", "admin", ALL, id="17 private level, admin"),
    pytest.param("mx/public-disabled", "owner", "", id="17 disabled, owner"),
    pytest.param("mx/public-disabled", "admin", "", id="17 disabled, admin"),
]


@pytest.mark.parametrize(("project", "username", "allowed"), LEVELS)
def test_trap_17_levels_hide(served: GatewayProcess, project: str, username: str, allowed: str) -> None:
    """`private` hides a public project's registry from guests and strangers, `disabled` from admins too."""
    assert may(served, user(username), project) == allowed


@pytest.mark.parametrize(
    ("extra", "allowed"),
    [
        pytest.param("", "pull", id="18 zero"),
        pytest.param("/a", "pull", id="18 one"),
        pytest.param("/a/b", "pull", id="18 two"),
        pytest.param("/a/b/c", "", id="18 three"),
    ],
)
def test_trap_18_extra_components(served: GatewayProcess, extra: str, allowed: str) -> None:
    """Two names below a project are fine, three are nothing, zero is the root image."""
    assert may(served, DEVELOPER, f"{HOME}{extra}", "pull") == allowed


def test_trap_19_lower_case(served: GatewayProcess) -> None:
    """Paths are lower-cased in tokens, and what such a token opens is the image in lower case."""
    answer = ask(served, DEVELOPER, scope(f"{CAMEL}/Image", "pull,push"))
    [entry] = entries(answer)
    assert entry["name"] == f"{CAMEL}/Image".lower()
    assert entry["meta"]["project_path"] == CAMEL.lower()
    wire = served.wire(answer.json()["token"])
    assert f"/v2/{CAMEL.lower()}/image/" in wire.start_upload(f"{CAMEL}/image".lower())


def test_trap_20_records_appear_at_authorisation(served: GatewayProcess) -> None:
    """A granted push without an upload leaves at most an empty repository, which is no obstacle to a real one."""
    name = f"{HOME}/authorised"
    wire = served.wire(served.wire(DEVELOPER).token(scope(name, "pull,push")))
    answer = wire.get(f"/v2/{name}/tags/list")
    assert answer.status in {200, 404}
    assert answer.status == 404 or not answer.json()["tags"]
    wire.push_image(name, "1", images.image(b"authorised"))
    assert wire.get(f"/v2/{name}/tags/list").expect(200).json()["tags"] == ["1"]


CATALOGS = [
    pytest.param(ADMIN, "*", [("catalog", "*")], id="21 an admin"),
    pytest.param(ADMIN, "*,pull", [], id="21 an admin, with another action"),
    pytest.param(ADMIN, "pull,*", [], id="21 an admin, after another action"),
    pytest.param(user("owner"), "*", [], id="21 an owner"),
]


@pytest.mark.parametrize(("who", "actions", "expected"), CATALOGS)
def test_trap_21_catalog(served: GatewayProcess, who: Account, actions: str, expected: list[tuple[str, str]]) -> None:
    """`registry:catalog:*` is for instance admins, and dropped with other actions beside it."""
    assert access(ask(served, who, f"registry:catalog:{actions}")) == expected


ACTIONS = [
    pytest.param("push,push", "push,push", id="22 repeated"),
    pytest.param("fly,pull,fly,fly", "pull", id="22 unknown and repeated"),
    pytest.param("fly,fly", "", id="22 unknown alone"),
    pytest.param(",,,", "", id="22 empty"),
    pytest.param("pull," * 200 + "pull", ",".join(["pull"] * 201), id="22 repeated often"),
]


@pytest.mark.parametrize(("actions", "allowed"), ACTIONS)
def test_trap_22_odd_actions(served: GatewayProcess, actions: str, allowed: str) -> None:
    """Unknown and repeated actions crash nothing."""
    assert may(served, DEVELOPER, HOME, actions) == allowed


def _small(role: str) -> dict[str, Any]:
    return {
        "users": [{"username": DEVELOPER.username, "password": DEVELOPER.password}],
        "groups": [{"path": "mx", "members": {DEVELOPER.username: role}}],
        "projects": [{"path": HOME}],
    }


def test_trap_35_write_access_ends_with_the_token(gateway_factory: GatewayFactory) -> None:
    """Who loses a role keeps what their token says until it expires, and gets no new one."""
    gateway = gateway_factory(directory=_small("developer"))
    held = gateway.wire(DEVELOPER).token(scope(HOME, "pull,push"))
    gateway.directory.write_text(yaml.safe_dump(_small("reporter")))
    assert may(gateway, DEVELOPER, HOME, "pull,push") == "pull"
    gateway.wire(held).push_image(HOME, "late", images.image(b"late"))
    gateway.wire(DEVELOPER).send("POST", f"/v2/{HOME}/blobs/uploads/").expect(403)


EXTERNALS = [
    pytest.param("external-stranger", "mx/public-enabled", "pull", id="38 public"),
    pytest.param("external-stranger", "mx/internal-enabled", "", id="38 internal"),
    pytest.param("stranger", "mx/internal-enabled", "pull", id="38 internal, not external"),
]


@pytest.mark.parametrize(("username", "project", "allowed"), EXTERNALS)
def test_trap_38_external_users(served: GatewayProcess, username: str, project: str, allowed: str) -> None:
    """External users read public projects, and not internal ones."""
    assert may(served, user(username), project) == allowed
