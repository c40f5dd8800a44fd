"""What the directory says of projects, and how people and tokens stand to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.plugins import (
    ANONYMOUS,
    CredentialKind,
    Group,
    Identity,
    Profile,
    Project,
    RegistryLevel,
    Role,
    Scheme,
    Standing,
    Visibility,
)
from tests.plugins.auth_local.conftest import DAY, TODAY, Local, content

APP = Project("acme/App", Visibility.PRIVATE, id=7)
DEEP = Project("acme/sub/deep", Visibility.PUBLIC, RegistryLevel.PRIVATE)
THING = Project("other/thing", Visibility.PRIVATE, archived=True)
OWN = Project("robot/own", Visibility.INTERNAL)
SHUT = Project("robot/shut", Visibility.PUBLIC)


def user(name: str) -> Identity:
    """Be a user, as a token of the gateway says."""
    return Identity("local", CredentialKind.PASSWORD, name, f"user:{name}")


TOKENS = {
    "prj": "",
    "grp": "",
    "dt-app": "deploy-app",
    "dt-group": "deploy-group",
    "job": "gitlab-ci-token",
}
"""Secrets, and the usernames that they come under."""


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (("acme/app/a", "acme/app"), APP),
        (("acme/sub/deep", "acme/sub"), DEEP),
        (("other/thing",), THING),
        (("acme/sub", "acme"), None),
        ((), None),
    ],
)
async def test_project(local: Local, candidates: tuple[str, ...], expected: Project | None) -> None:
    """The first known path answers with all facts; a group is no project."""
    found = await local.plugin.gateway_project(candidates)
    assert (replace(found, id=expected.id) if found and expected else found) == expected


@pytest.mark.parametrize(
    ("identity", "project", "expected"),
    [
        (user("Alice"), APP, Standing(Role.DEVELOPER)),
        (user("bob"), APP, Standing(Role.REPORTER)),
        (user("bob"), DEEP, Standing(Role.MAINTAINER)),
        (user("Alice"), DEEP, Standing(Role.GUEST)),
        (user("Alice"), THING, Standing()),
        (user("gone"), APP, Standing()),
        (user("robot"), OWN, Standing(Role.OWNER)),
        (user("Alice"), OWN, Standing()),
        (ANONYMOUS, APP, Standing()),
        (user("bob"), Project("acme/elsewhere", Visibility.PRIVATE), None),
    ],
)
async def test_standing(local: Local, identity: Identity, project: Project, expected: Standing | None) -> None:
    """The highest role of a user over the group line counts; in one's own namespace one is the owner."""
    assert await local.plugin.gateway_standing(identity, project) == expected


@pytest.mark.parametrize(
    ("secret", "project", "expected"),
    [
        ("prj", APP, Standing(Role.OWNER)),
        ("prj", DEEP, Standing()),
        ("grp", APP, Standing(Role.OWNER)),
        ("grp", DEEP, Standing(Role.OWNER)),
        ("grp", THING, Standing()),
        ("dt-app", APP, Standing(covered=True)),
        ("dt-app", DEEP, Standing()),
        ("dt-group", APP, Standing(covered=True)),
        ("dt-group", DEEP, Standing(covered=True)),
        ("dt-group", THING, Standing()),
        ("job", APP, Standing(Role.REPORTER, covered=True)),
        ("job", DEEP, Standing(Role.MAINTAINER)),
        ("job", THING, Standing()),
        ("job", OWN, Standing()),
        ("job", SHUT, Standing(listed=False)),
    ],
)
async def test_standing_of_tokens(local: Local, secret: str, project: Project, expected: Standing) -> None:
    """Bots have their role, deploy tokens cover, jobs stand as their user does; allowlists name projects or groups."""
    identity = await local.login(TOKENS[secret], secret)
    assert identity is not None
    assert await local.plugin.gateway_standing(identity, project) == expected


@pytest.mark.parametrize("change", [{"revoked": True}, {"expires_at": TODAY}, {"token": "another"}])
@pytest.mark.parametrize("secret", TOKENS)
async def test_standing_ends_with_the_token(local: Local, secret: str, change: dict[str, object]) -> None:
    """Whoever came with a token stands nowhere once it is revoked, expired or gone."""
    identity = await local.login(TOKENS[secret], secret)
    assert identity is not None
    changed = content()
    for token in changed["tokens"]:
        if token["token"] == secret:
            token.update(change)
    await local.edit(changed)
    assert await local.plugin.gateway_standing(identity, APP) == Standing()


@pytest.mark.parametrize("change", ["job", "user"])
async def test_standing_ends_with_the_job(local: Local, change: str) -> None:
    """A job stands nowhere once it is over or its user is blocked."""
    identity = await local.login("gitlab-ci-token", "job")
    assert identity is not None
    changed = content()
    if change == "user":
        changed["users"][1]["state"] = "blocked"
    else:
        next(token for token in changed["tokens"] if token["token"] == "job")["status"] = "failed"
    await local.edit(changed)
    assert await local.plugin.gateway_standing(identity, APP) == Standing()


async def test_blocked_user_has_no_standing(local: Local) -> None:
    """A role ends when its holder is blocked."""
    changed = content()
    changed["users"][1]["state"] = "blocked"
    await local.edit(changed)
    assert await local.plugin.gateway_standing(user("bob"), APP) == Standing()


LISTED = {
    "nobody": {SHUT.path},
    "bob": {APP.path, DEEP.path, SHUT.path},
    "robot": {OWN.path, SHUT.path},
    "eve": {OWN.path, SHUT.path},
    "admin": {APP.path, DEEP.path, THING.path, OWN.path, SHUT.path},
    "prj": {APP.path, OWN.path, SHUT.path},
    "grp": {APP.path, DEEP.path, OWN.path, SHUT.path},
    "dt-app": {APP.path, SHUT.path},
    "dt-group": {APP.path, DEEP.path, SHUT.path},
    "job": {APP.path, DEEP.path, SHUT.path},
}


@pytest.mark.parametrize("who", LISTED)
async def test_projects(local: Local, who: str) -> None:
    """Listed is what is open, and where the caller has a role or the token was made for: nothing else."""
    identity: Identity | None = ANONYMOUS
    if who in TOKENS:
        identity = await local.login(TOKENS[who], who)
    elif who != "nobody":
        identity = replace(user("Alice" if who == "admin" else who), admin=who == "admin", external=who == "bob")
    assert identity is not None
    found = await local.plugin.gateway_projects(identity)
    assert {project.path for project, _ in found} == LISTED[who]
    assert len(found) == len(LISTED[who])
    for project, standing in found:
        if identity is not ANONYMOUS:
            assert standing == await local.plugin.gateway_standing(identity, project)


# -- for the REST API ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [7, "acme/App", "ACME/APP"])
async def test_a_project_is_found_by_number_and_path(local: Local, key: int | str) -> None:
    """Both keys lead to the same project, whatever the capitals."""
    assert await local.plugin.gateway_find_project(key) == APP


@pytest.mark.parametrize("key", [8, "acme", "acme/app/x", ""])
async def test_no_project(local: Local, key: int | str) -> None:
    """A number or path that no project has is nothing; a group's is none."""
    assert await local.plugin.gateway_find_project(key) is None


async def test_every_project_has_a_number(local: Local) -> None:
    """What the directory does not number is numbered, once and for all."""
    found = await local.plugin.gateway_project(("robot/own",))
    assert found is not None
    assert found.id
    assert await local.plugin.gateway_find_project(found.id) == found
    await local.edit(content())
    assert await local.plugin.gateway_find_project(found.id) == found


async def test_a_group_is_found_by_number_and_path(local: Local) -> None:
    """A group has GitLab's name, the last part of its path, and its own capitals."""
    changed = content()
    changed["groups"][0]["id"] = 12
    await local.edit(changed)
    expected = Group("Acme", Visibility.PRIVATE, 12, "Acme")
    assert await local.plugin.gateway_find_group(12) == expected
    assert await local.plugin.gateway_find_group("aCME") == expected
    assert await local.plugin.gateway_find_group("acme/app") is None
    assert await local.plugin.gateway_find_group(13) is None


GROUP_STANDINGS = [
    (user("Alice"), "acme", Standing(Role.GUEST)),
    (user("Alice"), "acme/sub", Standing(Role.GUEST)),
    (user("bob"), "acme", Standing(Role.REPORTER)),
    (user("bob"), "acme/sub", Standing(Role.MAINTAINER)),
    (user("robot"), "acme", Standing()),
    (user("frank"), "acme", Standing(covered=True)),
    (user("frank"), "acme/sub", Standing(covered=True)),
    (user("eve"), "acme", Standing()),
    (user("gone"), "acme", Standing()),
    (ANONYMOUS, "acme", Standing()),
    (user("bob"), "elsewhere", None),
]


@pytest.mark.parametrize(("identity", "path", "expected"), GROUP_STANDINGS)
async def test_group_standing(local: Local, identity: Identity, path: str, expected: Standing | None) -> None:
    """The highest role in the group and those above counts; a member of a project below is told from a stranger."""
    changed = content()
    changed["groups"][0]["members"]["eve"] = "owner"
    next(item for item in changed["projects"] if item["path"] == "acme/sub/deep")["members"] = {"frank": "guest"}
    await local.edit(changed)
    assert await local.plugin.gateway_group_standing(identity, Group(path, Visibility.PRIVATE, 1)) == expected


GROUP_STANDINGS_OF_TOKENS = [
    ("prj", "acme", Standing(covered=True)),
    ("prj", "acme/sub", Standing()),
    ("grp", "acme", Standing(Role.OWNER)),
    ("grp", "acme/sub", Standing(Role.OWNER)),
    ("dt-group", "acme", Standing()),
    ("job", "acme", Standing(Role.REPORTER)),
    ("job", "acme/sub", Standing(Role.MAINTAINER)),
]


@pytest.mark.parametrize(("secret", "path", "expected"), GROUP_STANDINGS_OF_TOKENS)
async def test_group_standing_of_tokens(local: Local, secret: str, path: str, expected: Standing) -> None:
    """Bots have the role that they were given, jobs stand as their user does, deploy tokens nowhere."""
    identity = await local.login(TOKENS[secret], secret)
    assert identity is not None
    assert await local.plugin.gateway_group_standing(identity, Group(path, Visibility.PRIVATE, 1)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("acme", {APP.path, DEEP.path}), ("Acme/Sub", {DEEP.path}), ("robot", {OWN.path, SHUT.path}), ("ac", set())],
)
async def test_group_projects(local: Local, path: str, expected: set[str]) -> None:
    """All projects of a group and its subgroups are listed, and of no other."""
    found = await local.plugin.gateway_group_projects(Group(path, Visibility.PRIVATE, 1))
    assert {project.path for project in found} == expected


async def test_profile_of_a_user(local: Local) -> None:
    """A user is described as the directory has them; without a name it is the username."""
    changed = content()
    changed["users"][4] |= {"id": 99, "name": "Frank N. Stein", "state": "blocked"}
    await local.edit(changed)
    profile = Profile(99, "frank", "Frank N. Stein", "blocked", email="frank@example.com")
    assert await local.plugin.gateway_profile(user("frank")) == profile
    alice = await local.plugin.gateway_profile(user("Alice"))
    assert alice is not None
    assert alice == Profile(alice.id, "Alice", "Alice", admin=True)
    bob = await local.plugin.gateway_profile(user("bob"))
    assert bob is not None
    assert bob.external
    assert len({99, alice.id, bob.id}) == 3


async def test_profile_of_a_token(local: Local) -> None:
    """Whoever comes with a personal token is told of it what GitLab tells."""
    found = await local.login("", "pat-tomorrow", Scheme.PRIVATE_TOKEN)
    assert found is not None
    profile = await local.plugin.gateway_profile(found)
    assert profile is not None
    token = dict(profile.token or {})
    assert isinstance(token.pop("id"), int)
    assert token == {
        "name": "personal access token",
        "revoked": False,
        "created_at": None,
        "scopes": ["api"],
        "user_id": profile.id,
        "active": True,
        "expires_at": (TODAY + DAY).isoformat(),
    }


async def test_profile_of_a_bot(local: Local) -> None:
    """A project token's user is a bot that is called as the token is."""
    changed = content()
    next(token for token in changed["tokens"] if token["token"] == "prj")["name"] = "builds"
    await local.edit(changed)
    found = await local.login("", "prj", Scheme.BEARER)
    assert found is not None
    profile = await local.plugin.gateway_profile(found)
    assert profile is not None
    assert profile == Profile(profile.id, found.subject, "builds", bot=True, token=profile.token)
    assert (profile.token or {})["user_id"] == profile.id


@pytest.mark.parametrize(
    ("username", "secret", "name"),
    [("alice", "oauth", "Alice"), ("gitlab-ci-token", "job", "bob"), ("Alice", "plain-secret", "Alice")],
)
async def test_profile_without_a_token(local: Local, username: str, secret: str, name: str) -> None:
    """Who comes with something else than an access token has a user, and no token to be told of."""
    found = await local.login(username, secret)
    assert found is not None
    profile = await local.plugin.gateway_profile(found)
    assert profile is not None
    assert (profile.username, profile.token) == (name, None)


async def test_no_profile(local: Local) -> None:
    """A deploy token is nobody's."""
    found = await local.login("deploy-app", "dt-app")
    assert found is not None
    assert await local.plugin.gateway_profile(found) is None
