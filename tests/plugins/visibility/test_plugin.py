"""What the plugin answers to the hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.plugins import (
    ANONYMOUS,
    Ability,
    Access,
    Action,
    Group,
    Identity,
    Project,
    RegistryLevel,
    Role,
    Services,
    Standing,
    Visibility,
)
from plugins.visibility import Plugin
from tests.plugins.visibility.test_matrix import access, deploy, job, user

if TYPE_CHECKING:
    from collections.abc import Sequence

OPEN = Project("Acme/Open", Visibility.PUBLIC)
INSIDE = Project("acme/inside", Visibility.INTERNAL)
CLOSED = Project("acme/closed", Visibility.PRIVATE)
MINE = Project("acme/mine", Visibility.PRIVATE)
OFF = Project("acme/off", Visibility.PUBLIC, RegistryLevel.DISABLED)


class Known:
    """Facts of five projects, in one of which every caller reports."""

    async def standing(self, identity: Identity, project: Project) -> Standing:
        """Make everybody a reporter of `acme/mine`."""
        del identity
        return Standing(Role.REPORTER, covered=True) if project is MINE else Standing()

    async def group_standing(self, identity: Identity, group: Group) -> Standing:
        """Make everybody a reporter of every group."""
        del identity, group
        return Standing(Role.REPORTER)

    async def projects(self, identity: Identity) -> Sequence[tuple[Project, Standing]]:
        """List the five."""
        answer = []
        for project in (OPEN, INSIDE, CLOSED, MINE, OFF):
            standing = Standing() if identity.anonymous else await self.standing(identity, project)
            answer.append((project, standing))
        return answer


@pytest.fixture
def plugin() -> Plugin:
    """Decide by those facts."""
    nothing = cast("Any", None)
    return Plugin(Plugin.Config(), Services("visibility", cast("Any", Known()), nothing, nothing, b""))


async def test_one_verdict_each(plugin: Plugin) -> None:
    """Verdicts stand in the order of the accesses."""
    asked = [access(MINE, "pull"), access(CLOSED, "pull"), Access("repository", "acme/missing", ("pull",))]
    found = await plugin.gateway_authorize(user(), asked)
    assert [set(verdict.allowed) for verdict in found.verdicts] == [{"pull"}, set(), set()]


async def test_anonymous_has_no_standing(plugin: Plugin) -> None:
    """Nobody is a member of anything."""
    found = await plugin.gateway_authorize(ANONYMOUS, [access(MINE, "pull")])
    assert [verdict.allowed for verdict in found.verdicts] == [frozenset()]


@pytest.mark.parametrize(
    ("scope_type", "name", "actions", "admin", "granted"),
    [
        ("registry", "catalog", ("*",), True, True),
        ("registry", "catalog", ("*",), False, False),
        ("registry", "catalog", ("*", "pull"), True, False),
        ("registry", "catalog", ("pull",), True, False),
        ("registry", "catalog", (), True, False),
        ("registry", "other", ("*",), True, False),
        ("repository", "catalog", ("*",), True, False),
        ("plugin", "catalog", ("*",), True, False),
    ],
)
async def test_catalog(
    plugin: Plugin, scope_type: str, name: str, actions: tuple[str, ...], *, admin: bool, granted: bool
) -> None:
    """Exactly `registry:catalog:*` is granted, to instance admins alone."""
    decision = await plugin.gateway_authorize(user(admin=admin), [Access(scope_type, name, actions)])
    assert [verdict.allowed for verdict in decision.verdicts] == [{Action.ALL} if granted else set()]


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (ANONYMOUS, {"acme/open"}),
        (user(), {"acme/open", "acme/inside", "acme/mine"}),
        (user(external=True), {"acme/open", "acme/mine"}),
        (user(admin=True), {"acme/open", "acme/inside", "acme/closed", "acme/mine"}),
        (deploy(), {"acme/open", "acme/mine"}),
        (job(), {"acme/open", "acme/inside", "acme/mine"}),
        (job(external=True), {"acme/open", "acme/mine"}),
    ],
)
async def test_visible_projects(plugin: Plugin, identity: Identity, expected: set[str]) -> None:
    """Visible is what may be pulled, by lower-case paths; a disabled registry not even to admins."""
    visible = await plugin.gateway_visible_projects(identity)
    assert not visible.all
    assert set(visible.projects) == expected


async def test_the_rest_api_s_accesses(plugin: Plugin) -> None:
    """A project and a group are answered by how the caller stands to them, a scope that names neither with nothing."""
    asked = [
        Access("project", "acme/mine", tuple(Ability), project=MINE),
        Access("group", "acme", tuple(Ability), group=Group("acme", Visibility.PRIVATE, 1)),
        Access("project", "acme/open", ("read", "pull", "*")),
        Access("group", "acme", ("read",)),
    ]
    found = await plugin.gateway_authorize(user(), asked)
    assert [set(verdict.allowed) for verdict in found.verdicts] == [
        {Ability.READ, Ability.READ_IMAGES},
        {Ability.READ, Ability.READ_IMAGES},
        set(),
        set(),
    ]


async def test_nobody_has_no_standing_in_the_rest_api(plugin: Plugin) -> None:
    """Of a nobody no source is asked: a private project or group is not seen."""
    asked = [
        Access("project", "acme/mine", ("read",), project=MINE),
        Access("group", "acme", ("read",), group=Group("acme", Visibility.PRIVATE, 1)),
    ]
    found = await plugin.gateway_authorize(ANONYMOUS, asked)
    assert [verdict.allowed for verdict in found.verdicts] == [frozenset(), frozenset()]
