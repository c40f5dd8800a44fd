"""What the directory says of projects, and how people and tokens stand to them."""

from __future__ import annotations

import pytest

from gateway.plugins import ANONYMOUS, CredentialKind, Identity, Project, RegistryLevel, Role, Standing, Visibility
from tests.plugins.auth_local.conftest import Local, content, write

APP = Project("acme/App", Visibility.PRIVATE, id=7)
DEEP = Project("acme/sub/deep", Visibility.PUBLIC, RegistryLevel.PRIVATE)
THING = Project("other/thing", Visibility.PRIVATE, archived=True)


def user(name: str) -> Identity:
    """Be a user, as a token of the gateway says."""
    return Identity("local", CredentialKind.PASSWORD, name, f"user:{name}")


def token(name: str) -> Identity:
    """Be a deploy token, likewise."""
    return Identity("local", CredentialKind.DEPLOY_TOKEN, name, f"deploy_token:{name}")


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
        (token("deploy-app"), APP, Standing(covered=True)),
        (token("deploy-app"), DEEP, Standing()),
        (token("deploy-group"), APP, Standing(covered=True)),
        (token("deploy-group"), DEEP, Standing(covered=True)),
        (token("deploy-group"), THING, Standing()),
        (token("deploy-old"), APP, Standing()),
        (token("gone"), APP, Standing()),
        (ANONYMOUS, APP, Standing()),
        (user("bob"), Project("acme/elsewhere", Visibility.PRIVATE), None),
    ],
)
async def test_standing(local: Local, identity: Identity, project: Project, expected: Standing | None) -> None:
    """The highest role over the group line counts; a deploy token covers its project, or all below its group."""
    assert await local.plugin.gateway_standing(identity, project) == expected


async def test_blocked_user_has_no_standing(local: Local) -> None:
    """A role ends when its holder is blocked."""
    changed = content()
    changed["users"][1]["state"] = "blocked"
    write(local.path, changed)
    assert await local.plugin.gateway_standing(user("bob"), APP) == Standing()


async def test_projects(local: Local) -> None:
    """All projects are listed with the standing in each."""
    assert await local.plugin.gateway_projects(user("bob")) == [
        (APP, Standing(Role.REPORTER)),
        (DEEP, Standing(Role.MAINTAINER)),
        (THING, Standing()),
    ]
