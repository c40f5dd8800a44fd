"""Which project an image belongs to (semantics 5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.plugins import Project, Repository, RepositoryName, Services, Visibility
from plugins.naming import Plugin
from plugins.naming.rules import candidates, problem

if TYPE_CHECKING:
    from collections.abc import Sequence

APP = Project("Acme/App", Visibility.PRIVATE)


class Known:
    """Facts that know one project."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    async def project(self, candidates: Sequence[str]) -> Project | None:
        """Answer `Acme/App` where its path is among the candidates."""
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
        ("Acme/APP", ("acme/app",)),
    ],
)
def test_candidates(name: str, expected: tuple[str, ...]) -> None:
    """A project is looked for at the whole name and at one and two components less, never at a single one."""
    assert candidates(name) == expected


@pytest.mark.parametrize("name", ["acme/app", "acme/app/a", "acme/app/a/b"])
async def test_up_to_two_extra_components(plugin: Plugin, name: str) -> None:
    """An image is its project, or up to two names below it."""
    assert await plugin.gateway_resolve(RepositoryName(name)) == Repository(RepositoryName(name), APP)


@pytest.mark.parametrize("name", ["acme/app/a/b/c", "acme/other", "acme/application"])
async def test_no_project(plugin: Plugin, name: str) -> None:
    """Three extra names, or no project at all, belong to nobody."""
    assert await plugin.gateway_resolve(RepositoryName(name)) is None


async def test_illegal_names_are_not_looked_up(plugin: Plugin, facts: Known) -> None:
    """A name that GitLab forbids is not asked for."""
    assert await plugin.gateway_resolve(RepositoryName("acme")) is None
    assert facts.asked == []


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "acme/my.app",
        "acme/my_app",
        "acme/my__app",
        "acme/my-app",
        "acme/my-----------------app",
        "acme/1",
        "Acme/App",
        "/".join("a" * 19),
        "a/" + "b" * 253,
    ],
)
def test_legal(name: str) -> None:
    """One '.', one or two '_', or any run of dashes join words; capitals count as small letters."""
    assert problem(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("acme", "2 to 19 components, this one has 1"),
        ("/".join("a" * 20), "2 to 19 components, this one has 20"),
        ("a/" + "b" * 254, "at most 255 characters, this one has 256"),
        ("acme//app", "component 2 ('') is empty"),
        ("acme/", "component 2 ('') is empty"),
        ("acme/-app", "component 2 ('-app') begins with '-'"),
        ("_acme/app", "component 1 ('_acme') begins with '_'"),
        ("acme/app.", "component 2 ('app.') ends with '.'"),
        ("acme/a..b", "component 2 ('a..b') has '..'"),
        ("acme/a___b", "component 2 ('a___b') has '___'"),
        ("acme/a-.b", "component 2 ('a-.b') has '-.'"),
        ("acme/x.y/a._b", "component 3 ('a._b') has '._'"),
        ("acme/a b", "component 2 ('a b') has a character other"),
        ("acme/app\n", "has a character other"),
        ("acme/é", "component 2 ('é') has a character other"),
    ],
)
def test_illegal(name: str, expected: str) -> None:
    """What is wrong with a name is said of the component that is wrong."""
    assert expected in (problem(name) or "")
