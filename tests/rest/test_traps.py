"""What developers get wrong, by its number in the semantics (section 16)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.rest.place import Place, url
from tests.support.distribution import distribution
from tests.support.gateway import GatewayProcess
from tests.support.images import image
from tests.support.peers import eventually, free_port
from tests.support.people import ALICE, CAROL, CAROL_API, INTERNAL, PRIVATE, PUBLIC
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TROUBLE = (
    "We are having trouble connecting to the Container Registry. "
    "If this error persists, please review the troubleshooting documentation."
)


def below(place: Place, project: str, path: str, *more: str) -> str:
    """Spell the path of a repository, and of what is below it."""
    return url("projects", project, "registry", "repositories", place.number(project, path), *more)


def test_trap_9_a_developer_deletes_a_tag_here_and_not_there(place: Place) -> None:
    """200 through REST; ``/jwt/auth`` gives a developer no ``delete``, and so ``/v2/`` refuses."""
    name = f"{PRIVATE}/nine"
    content = image(b"nine")
    place.push(name, content, "v1", "v2")
    wire = place.gateway.wire(CAROL)
    wire.acting_as(wire.token(f"repository:{name}:pull,delete")).send(
        "DELETE", f"/v2/{name}/manifests/{content.manifest.digest}"
    ).expect(403)
    assert place.send("DELETE", below(place, PRIVATE, name, "tags", "v1"), CAROL_API).expect(200).json() == 200
    assert [tag["name"] for tag in place.tags(PRIVATE, name)] == ["v2"]


def test_trap_28_a_tag_goes_alone(place: Place) -> None:
    """Its sibling on the same image stays, and is pulled as before."""
    name = f"{PRIVATE}/twenty-eight"
    content = image(b"twenty-eight")
    place.push(name, content, "gone", "stays")
    place.send("DELETE", below(place, PRIVATE, name, "tags", "gone")).expect(200)
    place.registry.manifest(name, content.manifest.digest).expect(200)
    place.registry.manifest(name, "stays").expect(200)
    place.send("DELETE", below(place, PRIVATE, name, "tags", "gone")).expect(404)


BULK = [
    pytest.param({"name_regex_delete": "release|v.*"}, "a", ["b-release"], id="23: no group"),
    pytest.param({"name_regex_delete": "(?:release|v.*)"}, "b", ["b-release", "release-1", "x-v2"], id="23: a group"),
    pytest.param({"name_regex_delete": ".*"}, "c", [], id="25: latest by its name"),
    pytest.param({"name_regex": ".*", "name_regex_keep": "v.*"}, "d", ["v9"], id="keep beats delete"),
    pytest.param({"name_regex_delete": "v.*", "name_regex": ".*"}, "e", ["b-release", "release-1", "x-v2"], id="wins"),
    pytest.param({"name_regex_delete": ""}, "f", ["b-release", "release-1", "v9", "x-v2"], id="no pattern, nothing"),
    pytest.param({"name_regex": ".*", "older_than": "1h"}, "g", ["b-release", "release-1", "v9", "x-v2"], id="26: old"),
    # Undated tags are the newest, of these the last by name; `latest` takes no place.
    pytest.param({"name_regex": ".*", "keep_n": "1"}, "h", ["x-v2"], id="25, 26: new"),
]


@pytest.mark.parametrize(("rules", "name", "left"), BULK)
def test_traps_23_25_and_26_what_a_bulk_deletion_leaves(
    place: Place, rules: dict[str, str], name: str, left: list[str]
) -> None:
    """Patterns are anchored without a group, ``latest`` stays and does not count, and undated tags are never old."""
    path = f"{INTERNAL}/{name}"
    place.push(path, image(name.encode()), "latest", "release-1", "b-release", "v9", "x-v2")
    target = url("projects", INTERNAL, "registry", "repositories", place.number(INTERNAL, path), "tags", **rules)
    place.send("DELETE", target).expect(202)
    expected = sorted(["latest", *left])
    eventually(lambda: path in _cleaned(place), "the tags are deleted")
    assert [tag["name"] for tag in place.tags(INTERNAL, path)] == expected


def _cleaned(place: Place) -> set[str]:
    """Read in the log which repositories a bulk deletion has ended in."""
    lines = [line for line in place.gateway.log.splitlines() if "tags deleted in bulk" in line]
    return {json.loads(line)["repository"] for line in lines}


def test_trap_29_each_deletion_has_a_status_of_its_own(place: Place) -> None:
    """Bulk 202 and then 400, one tag 200, a repository 202."""
    name = f"{PRIVATE}/twenty-nine"
    place.push(name, image(b"twenty-nine"), "v1")
    bulk = below(place, PRIVATE, name, "tags") + "?name_regex_delete=zzz"
    assert place.send("DELETE", bulk).expect(202).json() == 202
    place.send("DELETE", bulk).expect(400)
    place.send("DELETE", below(place, PRIVATE, name, "tags", "v1")).expect(200)
    assert place.send("DELETE", below(place, PRIVATE, name)).expect(202).json() == 202


def test_trap_29_each_repository_has_a_turn_of_its_own(place: Place) -> None:
    """The hour is one repository's."""
    for name in ("one", "another"):
        place.push(f"{INTERNAL}/{name}", image(name.encode()), "v1")
        place.send("DELETE", below(place, INTERNAL, f"{INTERNAL}/{name}", "tags") + "?name_regex=zzz").expect(202)


def test_trap_39_and_40_tags_stand_in_the_way_and_empty_repositories_do_not(place: Place) -> None:
    """In the user guide's words: for a project with a comma, for a group without, both with a full stop."""
    name = f"{PUBLIC}/forty"
    assert has_tags(place, "projects", PUBLIC) == (False, None)
    place.push(name, image(b"forty"), "v1")
    assert has_tags(place, "projects", PUBLIC) == (
        True,
        "Project cannot be transferred, because tags are present in its container registry.",
    )
    assert has_tags(place, "groups", "acme") == (
        True,
        "Namespace cannot be moved because at least one project has tags in container registry.",
    )
    place.send("DELETE", below(place, PUBLIC, name, "tags", "v1")).expect(200)
    assert has_tags(place, "projects", PUBLIC) == (False, None)
    assert [one["path"] for one in place.get("projects", PUBLIC, "registry", "repositories").json()] == [name]


def test_trap_40_the_root_image_has_tags_too(place: Place) -> None:
    """The image at the project's own path, whose name is empty."""
    place.push("conf/other", image(b"root"), "v1")
    assert has_tags(place, "projects", "conf/other")[0]
    (shown,) = place.get("projects", "conf/other", "registry", "repositories").expect(200).json()
    assert (shown["name"], shown["path"]) == ("", "conf/other")


def has_tags(place: Place, kind: str, path: str) -> tuple[bool, str | None]:
    """Ask what a GitLab-side hook asks before a rename."""
    answer: dict[str, Any] = place.get(kind, path, "registry", "has_tags").expect(200).json()
    return answer["has_tags"], answer["message"]


# -- a registry that is down --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bereft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Serve what a registry held that is gone now."""
    folder: Path = tmp_path_factory.mktemp("bereft")
    port = free_port()
    item = {"use": "backend_distribution", "url": f"http://127.0.0.1:{port}", "attempts": 1, "connect_timeout": "1s"}
    gateway = GatewayProcess(folder / "gateway", backend=item)
    with distribution(folder, port=port):
        gateway.start()
        place = Place(gateway)
        place.push(PRIVATE, image(b"bereft"), "v1")
        number = place.number(PRIVATE, PRIVATE)
        eventually(lambda: len(place.tags(PRIVATE, PRIVATE)) == 1, "the tag is known")
    place.get("registry", "repositories", number).expect(200)
    yield place
    gateway.end()


DOWN = [
    pytest.param("GET", "projects/acme%2Fapp/registry/repositories", 200, id="list"),
    pytest.param("GET", "projects/acme%2Fapp/registry/repositories?tags=1", 503, id="list with tags"),
    pytest.param("GET", "projects/acme%2Fapp/registry/repositories?tags_count=True", 503, id="list with their number"),
    pytest.param("GET", "groups/acme/registry/repositories", 200, id="group's list"),
    pytest.param("GET", "registry/repositories/1", 200, id="repository"),
    pytest.param("GET", "registry/repositories/1?size=true", 503, id="repository with its size"),
    pytest.param("GET", "projects/acme%2Fapp/registry/repositories/1/tags", 503, id="tags"),
    pytest.param("GET", "projects/acme%2Fapp/registry/repositories/1/tags/v1", 503, id="tag"),
    pytest.param("DELETE", "projects/acme%2Fapp/registry/repositories/1/tags/v1", 503, id="delete a tag"),
    pytest.param("GET", "projects/acme%2Fapp/registry/has_tags", 503, id="has tags"),
]


@pytest.mark.parametrize(("method", "path", "status"), DOWN)
def test_trap_31_only_what_needs_the_registry_is_503(bereft: Place, method: str, path: str, status: int) -> None:
    """Repositories come from the records; tags and sizes from the registry, in GitLab's words where that is down."""
    answer = bereft.send(method, f"/api/v4/{path}").expect(status)
    if status == 503:
        assert answer.json() == {"message": TROUBLE}
        assert int(answer.header("Retry-After")) > 0


def test_a_registry_that_deletes_nothing_makes_a_deletion_fail(tmp_path: Path) -> None:
    """400, with its reason, as GitLab's ``400 when it fails``; the tag stays."""
    port = free_port()
    gateway = GatewayProcess(
        tmp_path / "gateway", backend={"use": "backend_distribution", "url": f"http://127.0.0.1:{port}"}
    )
    with distribution(tmp_path, port=port, delete=False):
        gateway.start()
        try:
            place = Place(gateway)
            place.push(PRIVATE, image(b"undeletable"), "v1")
            answer = place.send("DELETE", below(place, PRIVATE, PRIVATE, "tags", "v1")).expect(400)
            assert "delet" in answer.json()["message"]
            gateway.wire(ALICE).manifest(PRIVATE, "v1").expect(200)
        finally:
            gateway.end()


def test_while_the_registry_is_read_only_nothing_is_deleted(tmp_path: Path) -> None:
    """503 with what it is, and lists go on."""
    gateway = GatewayProcess(tmp_path / "gateway")
    gateway.start()
    try:
        place = Place(gateway)
        place.push(PRIVATE, image(b"read-only"), "v1")
        wire = Wire(gateway.admin_url)
        wire.send("PUT", "/maintenance", b'{"mode": "read_only"}').expect(200)
        for more in ((), ("tags",), ("tags", "v1")):
            answer = place.send("DELETE", below(place, PRIVATE, PRIVATE, *more) + "?name_regex=.*").expect(503)
            assert "read-only for maintenance" in answer.json()["message"]
        assert [tag["name"] for tag in place.tags(PRIVATE, PRIVATE)] == ["v1"]
        place.get("projects", PRIVATE, "registry", "cleanup", "plan").expect(200)
    finally:
        gateway.end()
