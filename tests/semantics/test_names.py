"""Names (semantics 5): what is an image's name, and which project it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.semantics import company
from tests.semantics.asking import access, ask, may, scope
from tests.semantics.company import CAMEL, DEEP, DEVELOPER, HOME, MAINTAINER, STRANGER, SUB

if TYPE_CHECKING:
    from tests.support.gateway import GatewayProcess

# -- below a project ----------------------------------------------------------------------------------

PLACES = [
    pytest.param(HOME, "pull,push", id="zero: the root image"),
    pytest.param(f"{HOME}/a", "pull,push", id="one extra component"),
    pytest.param(f"{HOME}/a/b", "pull,push", id="two extra components"),
    pytest.param(f"{HOME}/a/b/c", "", id="three belong to no project"),
    pytest.param(f"{HOME}/a/b/c/d", "", id="nor do four"),
    pytest.param(f"{SUB}/a/b", "pull,push", id="two below a project of a subgroup"),
    pytest.param(f"{SUB}/a/b/c", "", id="three below a project of a subgroup"),
    pytest.param("mx", "", id="a group, of one component"),
    pytest.param("mx/sub", "", id="a subgroup"),
    pytest.param("home", "", id="a project's name without its group"),
]


@pytest.mark.parametrize(("name", "allowed"), PLACES)
def test_place(served: GatewayProcess, name: str, allowed: str) -> None:
    """An image is its project, or lies up to two names below it (5.1)."""
    assert may(served, DEVELOPER, name, "pull,push") == allowed


@pytest.mark.parametrize("extra", ["", "/a", "/a/b"])
def test_place_at_the_registry(served: GatewayProcess, extra: str) -> None:
    """Uploads open wherever a token would be granted."""
    served.wire(DEVELOPER).start_upload(f"{HOME}{extra}")


def test_too_far_below_at_the_registry(served: GatewayProcess) -> None:
    """Three names below a project a maintainer is refused as for a project that does not exist."""
    wire = served.wire(MAINTAINER)
    wire.get(f"/v2/{HOME}/a/b/c/tags/list").expect(403)
    wire.send("POST", f"/v2/{HOME}/a/b/c/blobs/uploads/").expect(403)


@pytest.mark.parametrize(
    ("extra", "allowed"),
    [
        pytest.param("", "pull", id="18 components"),
        pytest.param("/a", "pull", id="19 components"),
        pytest.param("/a/b", "", id="20 components are too many"),
    ],
)
def test_number_of_components(served: GatewayProcess, extra: str, allowed: str) -> None:
    """A name has fewer than twenty components, even where its project is found."""
    assert DEEP.count("/") == 17
    assert may(served, STRANGER, f"{DEEP}{extra}", "pull") == allowed


# -- how a component is spelt -------------------------------------------------------------------------

LEGAL = [
    "a",
    "0",
    "a.b",
    "a_b",
    "a__b",
    "a-b",
    "a--b",
    "a----------b",
    "a---------------b",
    "0-9.a_b__c",
    "v2",
    "blobs",
    "tags",
    "manifests",
]
ILLEGAL = [
    "_acme",
    "__acme",
    "-acme",
    ".acme",
    "acme_",
    "acme-",
    "acme.",
    "a..b",
    "a___b",
    "a._b",
    "a_.b",
    "a-.b",
    "a.-b",
    "a_-b",
    "a-_b",
    "a__-b",
]
FOREIGN = ["ä", "a+b", "a~b", "a@b", "a%b", "a,b", "a\\b", "a\tb", "a\N{COMBINING ACUTE ACCENT}"]
"""What has no place in a name at all."""


@pytest.mark.parametrize("component", LEGAL)
@pytest.mark.parametrize("where", ["{}", "{}/x", "x/{}"])
def test_legal(served: GatewayProcess, component: str, where: str) -> None:
    """Letters and digits are joined by one dot, one or two underscores, or any run of dashes."""
    assert may(served, DEVELOPER, f"{HOME}/{where.format(component)}", "pull") == "pull"


@pytest.mark.parametrize("component", [*ILLEGAL, *FOREIGN])
@pytest.mark.parametrize("where", ["{}", "{}/x", "x/{}"])
def test_illegal(served: GatewayProcess, component: str, where: str) -> None:
    """An illegal name's scope is dropped, and what stands beside it is granted."""
    name = f"{HOME}/{where.format(component)}"
    assert access(ask(served, DEVELOPER, scope(name, "pull"))) == []
    assert access(ask(served, DEVELOPER, scope(name, "pull"), scope(HOME, "pull"))) == [(HOME, "pull")]


@pytest.mark.parametrize("name", [f"/{HOME}", f"{HOME}/", f"{HOME}//a", f"mx//{HOME}", "/", "//", "", "mx/", "/mx"])
def test_empty_components(served: GatewayProcess, name: str) -> None:
    """A slash stands between two names; anywhere else it makes the name illegal."""
    assert access(ask(served, DEVELOPER, scope(name, "pull"))) == []


@pytest.mark.parametrize("project", company.UNNAMEABLE)
def test_unnameable_project(served: GatewayProcess, project: str) -> None:
    """A public project from old times whose path is no legal name gets nothing, nor what lies below it (5.2)."""
    for name in (project, f"{project}/a"):
        assert access(ask(served, MAINTAINER, scope(name, "pull"))) == []
        ask(served, None, scope(name, "pull")).expect(403)


@pytest.mark.parametrize(("length", "allowed"), [(255, "pull"), (256, "")])
def test_length(served: GatewayProcess, length: int, allowed: str) -> None:
    """A name has at most 255 characters."""
    assert may(served, DEVELOPER, f"{HOME}/".ljust(length, "a"), "pull") == allowed


CAPITALS = [
    pytest.param("MX/HOME", HOME, id="all of them"),
    pytest.param("Mx/hOme/Image", f"{HOME}/image", id="some of them, below the project too"),
    pytest.param(CAMEL, CAMEL.lower(), id="as the project has them"),
    pytest.param(CAMEL.upper(), CAMEL.lower(), id="otherwise than the project has them"),
    pytest.param(CAMEL.lower(), CAMEL.lower(), id="none, but the project has some"),
]


@pytest.mark.parametrize(("asked", "name"), CAPITALS)
def test_capitals(served: GatewayProcess, asked: str, name: str) -> None:
    """A scope's name is lower-cased, and its project is found however that is spelt."""
    assert access(ask(served, DEVELOPER, scope(asked, "pull,push"))) == [(name, "pull,push")]


# -- at the registry ----------------------------------------------------------------------------------

REFUSED = [
    *(pytest.param(f"{HOME}/{component}", component, id=f"an image, {component}") for component in ILLEGAL),
    *(pytest.param(f"{HOME}/{component}/x", component, id=f"an image's folder, {component}") for component in ILLEGAL),
    *(pytest.param(f"{component}/app", component, id=f"a group, {component}") for component in ILLEGAL),
]


@pytest.mark.parametrize(("name", "component"), REFUSED)
def test_refused_by_name(served: GatewayProcess, name: str, component: str) -> None:
    """The registry names the component that is illegal, to readers and writers alike."""
    for method, path in (("GET", "tags/list"), ("GET", "manifests/latest"), ("POST", "blobs/uploads/")):
        [error] = served.wire(DEVELOPER).send(method, f"/v2/{quote(name)}/{path}").expect(400).json()["errors"]
        assert error["code"] == "NAME_INVALID"
        assert f"'{component}'" in error["message"]


RENAMED = [
    pytest.param("mx/_acme", "_acme", id="a project, leading underscore"),
    pytest.param("mx/acme-", "acme-", id="a project, trailing dash"),
    pytest.param("mx/acme_", "acme_", id="a project, trailing underscore"),
    pytest.param("_odd/app", "_odd", id="a group, leading underscore"),
    pytest.param("mx/_acme/image", "_acme", id="an image of such a project"),
]


@pytest.mark.parametrize(("name", "component"), RENAMED)
def test_refused_until_renamed(served: GatewayProcess, name: str, component: str) -> None:
    """Whoever has a project from old times hears that only renaming it helps."""
    [error] = served.wire(DEVELOPER).get(f"/v2/{name}/tags/list").expect(400).json()["errors"]
    assert error["code"] == "NAME_INVALID"
    assert f"'{component}'" in error["message"]
    assert "rename" in error["message"]


def test_length_at_the_registry(served: GatewayProcess) -> None:
    """A name of 256 characters is refused as a name, one of 255 is not."""
    wire = served.wire(DEVELOPER)
    wire.get(f"/v2/{f'{HOME}/'.ljust(255, 'a')}/tags/list").expect(404)
    answer = wire.get(f"/v2/{f'{HOME}/'.ljust(256, 'a')}/tags/list").expect(400)
    assert answer.json()["errors"][0]["code"] == "NAME_INVALID"
