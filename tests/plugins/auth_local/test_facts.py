"""What the directory says of projects, and how people and tokens stand to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.plugins import ANONYMOUS, CredentialKind, Identity, Project, RegistryLevel, Role, Standing, Visibility
from tests.plugins.auth_local.conftest import TODAY, Local, content

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
    assert await local.plugin.gateway_project(candidates) == expected


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
