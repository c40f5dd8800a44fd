"""What a plugin hides from a caller is hidden in the REST API too, and no deletion there does away with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.rest.place import url
from tests.support.images import image
from tests.support.peers import eventually
from tests.support.people import ALICE, INTERNAL, PRIVATE, PUBLIC, ROOT, ROOT_API

if TYPE_CHECKING:
    from tests.rest.place import Place

HIDDEN = f"{PRIVATE}/hidden"


@pytest.fixture(scope="module")
def numbers(guarded: Place) -> dict[str, int]:
    """Push what is hidden and what is not, and give the numbers of the repositories."""
    guarded.push(PRIVATE, image(b"seen"), "v1", "v2")
    guarded.push(PRIVATE, image(b"secret"), "secret-1")
    guarded.push(HIDDEN, image(b"hidden"), "v1")
    return guarded.recorded()


def test_a_list_and_its_total_are_without_it(guarded: Place, numbers: dict[str, int]) -> None:
    """Neither the repository nor the tag is shown or counted."""
    answer = guarded.get("projects", PRIVATE, "registry", "repositories", tags=1, tags_count=1).expect(200)
    (shown,) = answer.json()
    assert (shown["path"], answer.header("X-Total")) == (PRIVATE, "1")
    assert (shown["tags_count"], [tag["name"] for tag in shown["tags"]]) == (2, ["v1", "v2"])
    counted = guarded.get("registry", "repositories", numbers[PRIVATE], tags_count=1).expect(200).json()
    assert counted["tags_count"] == 2


def test_who_may_see_it_sees_it(guarded: Place, numbers: dict[str, int]) -> None:
    """It depends on who asks."""
    answer = guarded.get("projects", PRIVATE, "registry", "repositories", tags_count=1, account=ROOT_API).expect(200)
    assert {one["path"]: one["tags_count"] for one in answer.json()} == {PRIVATE: 3, HIDDEN: 1}
    guarded.get("registry", "repositories", numbers[HIDDEN], account=ROOT_API).expect(200)


BELOW = [
    pytest.param("GET", ("tags",), id="tags"),
    pytest.param("GET", ("tags", "v1"), id="tag"),
    pytest.param("DELETE", ("tags", "v1"), id="delete a tag"),
    pytest.param("DELETE", ("tags",), id="delete tags"),
    pytest.param("DELETE", (), id="delete it"),
]


@pytest.mark.parametrize(("method", "more"), BELOW)
def test_a_hidden_repository_is_not_there(
    guarded: Place, numbers: dict[str, int], method: str, more: tuple[str, ...]
) -> None:
    """404, by its number too, and it stays."""
    path = url("projects", PRIVATE, "registry", "repositories", numbers[HIDDEN], *more, name_regex=".*")
    assert guarded.send(method, path).expect(404).json() == {"message": "404 Not found"}
    assert guarded.get("registry", "repositories", numbers[HIDDEN]).expect(404).json() == {"message": "404 Not found"}
    guarded.gateway.wire(ROOT).manifest(HIDDEN, "v1").expect(200)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_hidden_tag_is_not_there(guarded: Place, numbers: dict[str, int], method: str) -> None:
    """404, under ``/v2/`` as in the REST API, and it stays."""
    path = url("projects", PRIVATE, "registry", "repositories", numbers[PRIVATE], "tags", "secret-1")
    assert guarded.send(method, path).expect(404).json() == {"message": "404 Tag Not Found"}
    guarded.gateway.wire(ALICE).send(method, f"/v2/{PRIVATE}/manifests/secret-1").expect(404)
    guarded.gateway.wire(ROOT).manifest(PRIVATE, "secret-1").expect(200)


@pytest.mark.parametrize(("repository", "orderer", "left"), [(PUBLIC, None, ["secret-1"]), (INTERNAL, ROOT_API, [])])
def test_a_bulk_deletion_leaves_what_its_orderer_does_not_see(
    guarded: Place, repository: str, orderer: object, left: list[str]
) -> None:
    """By whatever rules; an administrator sees it, and so it goes."""
    guarded.push(repository, image(b"bulk"), "v1")
    guarded.push(repository, image(b"secret bulk"), "secret-1")
    number = guarded.recorded()[repository]
    path = url("projects", repository, "registry", "repositories", number, "tags", name_regex=".*")
    (guarded.send("DELETE", path) if orderer is None else guarded.send("DELETE", path, ROOT_API)).expect(202)
    eventually(lambda: repository in _done(guarded), "the tags are deleted")
    tags = guarded.get("projects", repository, "registry", "repositories", number, "tags", account=ROOT_API).json()
    assert [tag["name"] for tag in tags] == left


def _done(guarded: Place) -> set[str]:
    """Read in the log which repositories a bulk deletion has ended in."""
    lines = [line for line in guarded.gateway.log.splitlines() if "tags deleted in bulk" in line]
    return {json.loads(line)["repository"] for line in lines}
