"""A veto counts in the REST API as under ``/v2/``: for the repository, the tag and what is done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rest.place import url
from tests.support.images import image
from tests.support.people import ALICE, PRIVATE, ROOT

if TYPE_CHECKING:
    from tests.rest.place import Place

FREE, KEPT, SHUT = f"{PRIVATE}/free", f"{PRIVATE}/kept", f"{PRIVATE}/shut"


@pytest.fixture(scope="module")
def numbers(guarded: Place) -> dict[str, int]:
    """Push a repository of each kind, and give their numbers."""
    for name in (FREE, KEPT):
        guarded.push(name, image(name.encode()), "v1", "v2", "kept")
    guarded.gateway.wire(ROOT).push_image(SHUT, "v1", image(b"shut"))
    return guarded.recorded()


BELOW = "projects/acme%2Fapp/registry/repositories"
VETOES = [
    pytest.param(FREE, "GET /{number}/tags/v1", 200, id="see a tag"),
    pytest.param(FREE, "GET /{number}/tags/kept", 200, id="see a tag that is kept"),
    pytest.param(KEPT, "GET /{number}/tags", 200, id="list what is kept"),
    pytest.param(FREE, "DELETE /{number}/tags/kept", 403, id="delete a tag that is kept"),
    pytest.param(FREE, "DELETE /{number}/tags/v1", 200, id="delete another"),
    pytest.param(KEPT, "DELETE /{number}/tags/v1", 403, id="delete a tag of what is kept"),
    pytest.param(KEPT, "DELETE /{number}/tags?name_regex=.*", 403, id="delete tags of what is kept"),
    pytest.param(KEPT, "DELETE /{number}", 403, id="delete what is kept"),
    pytest.param(SHUT, "GET /{number}/tags", 403, id="list what is shut"),
    pytest.param(SHUT, "GET /{number}/tags/v1", 403, id="see a tag of what is shut"),
    pytest.param(SHUT, "GET ", 200, id="list the project"),
]


@pytest.mark.parametrize(("repository", "wanted", "status"), VETOES)
def test_a_veto_counts(guarded: Place, numbers: dict[str, int], repository: str, wanted: str, status: int) -> None:
    """403 in GitLab's form, with the reason that the plugin gives."""
    method, _, path = wanted.partition(" ")
    below = f"/api/v4/{BELOW}{path}".format(number=numbers[repository])
    answer = guarded.send(method, below).expect(status)
    if status == 403:
        words = "403 Forbidden - requested access to the resource is denied: the guard says no"
        assert answer.json() == {"message": words}


@pytest.mark.parametrize(("repository", "status"), [(FREE, 200), (KEPT, 200), (SHUT, 403)])
def test_a_veto_counts_for_a_single_repository(
    guarded: Place, numbers: dict[str, int], repository: str, status: int
) -> None:
    """Also where the path names no project."""
    guarded.send("GET", url("registry", "repositories", numbers[repository])).expect(status)


@pytest.mark.parametrize(("repository", "tag", "status"), [(FREE, "kept", 403), (FREE, "v2", 202), (KEPT, "v2", 403)])
def test_it_is_the_veto_of_the_registry(
    guarded: Place, numbers: dict[str, int], repository: str, tag: str, status: int
) -> None:
    """The same plugin says the same under ``/v2/``."""
    assert numbers
    guarded.gateway.wire(ALICE).send("DELETE", f"/v2/{repository}/manifests/{tag}").expect(status)
