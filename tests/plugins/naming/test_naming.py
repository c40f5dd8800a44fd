"""Which project an image belongs to (semantics 5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.plugins import Identity, Project, Reason, Repository, RepositoryName, Services, Unresolved, Visibility
from plugins.naming import Plugin
from plugins.naming.rules import candidates, problem

if TYPE_CHECKING:
    from collections.abc import Sequence

APP = Project("Acme/App", Visibility.PRIVATE)


class Known:
    """Facts that know one project."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    async def project(self, candidates: Sequence[str], identity: Identity | None) -> Project | None:
        """Answer `Acme/App` where its path is among the candidates."""
        del identity
        self.asked.append(candidates)
        return APP if "acme/app" in candidates else None


@pytest.fixture
def facts() -> Known:
    """Know `Acme/App`."""
    return Known()


@pytest.fixture
def plugin(facts: Known) -> Plugin:
    """Name things by those facts."""
    nothing = cast("Any", None)
    return Plugin(Plugin.Config(), Services("naming", cast("Any", facts), nothing, nothing, b""))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("acme", ()),
        ("acme/app", ("acme/app",)),
        ("acme/app/a", ("acme/app/a", "acme/app")),
        ("acme/app/a/b", ("acme/app/a/b", "acme/app/a", "acme/app")),
        ("acme/app/a/b/c", ("acme/app/a/b/c", "acme/app/a/b", "acme/app/a")),
    ],
)
def test_candidates(name: str, expected: tuple[str, ...]) -> None:
    """A project is looked for at the whole name and at one and two components less, never at a single one."""
    assert candidates(name, 2) == expected


@pytest.mark.parametrize("name", ["acme/app", "acme/app/a", "acme/app/a/b"])
async def test_up_to_two_extra_components(plugin: Plugin, name: str) -> None:
    """An image is its project, or up to two names below it."""
    assert await plugin.gateway_resolve(RepositoryName(name), None) == Repository(RepositoryName(name), APP)


@pytest.mark.parametrize(
    ("extra", "name", "found"),
    [
        (0, "acme/app", True),
        (0, "acme/app/a", False),
        (1, "acme/app/a", True),
        (1, "acme/app/a/b", False),
        (4, "acme/app/a/b/c/d", True),
        (4, "acme/app/a/b/c/d/e", False),
    ],
)
async def test_how_far_below_is_configurable(facts: Known, extra: int, name: str, *, found: bool) -> None:
    """An operator may allow fewer or more names below a project than GitLab."""
    nothing = cast("Any", None)
    plugin = Plugin(Plugin.Config(extra_components=extra), Services("n", cast("Any", facts), nothing, nothing, b""))
    assert isinstance(await plugin.gateway_resolve(RepositoryName(name), None), Repository) is found


@pytest.mark.parametrize("name", ["acme/app/a/b/c", "acme/other", "acme/application"])
async def test_no_project(plugin: Plugin, name: str) -> None:
    """Three extra names, or no project at all, belong to nobody; what was tried is for operators alone to hear."""
    found = await plugin.gateway_resolve(RepositoryName(name), None)
    assert isinstance(found, Unresolved)
    assert not found.public
    assert found.reason.code == "project"
    assert name in found.reason.message
    assert "at most 2 names below" in found.reason.remedy


@pytest.mark.parametrize(("name", "count"), [("acme", 1), ("/".join("a" * 20), 20)])
async def test_illegal_names_are_not_looked_up(plugin: Plugin, facts: Known, name: str, count: int) -> None:
    """A name that GitLab forbids is not asked for, and everybody may hear why."""
    found = await plugin.gateway_resolve(RepositoryName(name), None)
    message = f"a name has 2 to 19 components, this one has {count}"
    assert found == Unresolved(Reason("naming", message, "name an image after its project: GROUP/PROJECT"), public=True)
    assert facts.asked == []


@pytest.mark.parametrize("name", ["a/b", "acme/app/a/b/c", "/".join("a" * 19)])
def test_legal(name: str) -> None:
    """Two to nineteen components may belong to a project."""
    assert problem(name) is None
