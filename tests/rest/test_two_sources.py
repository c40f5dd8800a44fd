"""Two sources that both know one path: the images there are the first one's, in the REST API as under ``/v2/``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.rest.place import Place
from tests.support import people
from tests.support.gateway import GatewayProcess
from tests.support.images import image
from tests.support.people import ALICE, MALLORY_API, PRIVATE
from tests.support.wire import Account

if TYPE_CHECKING:
    from collections.abc import Iterator

THEIRS = "acme/theirs"
MALLORY = Account(MALLORY_API.username, f"theirs-{MALLORY_API.password}")
"""A stranger in the directory, and the owner of everything in GitLab."""


def _company() -> dict[str, Any]:
    """Write down GitLab's: the same projects and one more, with secrets of its own."""
    known = people.directory()
    known["groups"] = [
        {"path": "acme", "visibility": "private", "members": {MALLORY.username: "owner"}},
        {"path": "acme/secret", "visibility": "private"},
        {"path": "conf", "visibility": "private"},
    ]
    known["projects"].append({"path": THEIRS, "visibility": "private"})
    for token in known["tokens"]:
        token["token"] = f"theirs-{token['token']}"
    for user in known["users"]:
        user["password"] = f"theirs-{user['password']}"
    return known


@pytest.fixture(scope="module", params=["jwt", "api"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Serve a directory, and behind it a GitLab that knows the same projects."""
    folder = tmp_path_factory.mktemp("both")
    with FakeGitLab(_company()) as fake:
        fake.registry_enabled = request.param == "jwt"
        directory = {"use": "auth_local", "directory": str(folder / "directory.yaml")}
        source = {
            "use": "auth_gitlab",
            "url": fake.url,
            "mode": request.param,
            "service_token": fake.service_token,
            "remember": "1s",
        }
        sources = [directory, source, {"use": "naming"}, {"use": "visibility"}]
        gateway = GatewayProcess(folder, sources=sources, extra={"anonymous": "direct"})
        gateway.start()
        place = Place(gateway)
        place.push(PRIVATE, image(b"of the directory"), "v1")
        gateway.wire(MALLORY).push_image(THEIRS, "v1", image(b"of GitLab"))
        yield place
        gateway.end()


def test_the_second_source_s_user_has_no_part_in_them(both: Place) -> None:
    """404, whatever GitLab lets them do with its own project of that name; the image stays."""
    number = both.recorded()[PRIVATE]
    below = ("projects", PRIVATE, "registry", "repositories")
    both.get(*below, account=MALLORY).expect(404)
    both.get(*below, number, "tags", account=MALLORY).expect(404)
    both.delete(*below, number, "tags", "v1", account=MALLORY).expect(404)
    both.delete(*below, number, account=MALLORY).expect(404)
    both.get("registry", "repositories", number, account=MALLORY).expect(404)
    both.get("projects", PRIVATE, "registry", "has_tags", account=MALLORY).expect(404)
    both.gateway.wire(ALICE).manifest(PRIVATE, "v1").expect(200)
    both.get(*below, number, "tags", "v1").expect(200)


def test_a_group_lists_what_is_its_own_source_s(both: Place) -> None:
    """Of the projects that both know nothing, of those that GitLab alone knows all."""
    listed = both.get("groups", "acme", "registry", "repositories", account=MALLORY).expect(200).json()
    assert [one["path"] for one in listed] == [THEIRS]


def test_what_the_second_source_alone_knows_is_its_own(both: Place) -> None:
    """Its user manages it."""
    (one,) = both.get("projects", THEIRS, "registry", "repositories", account=MALLORY).expect(200).json()
    both.get("registry", "repositories", one["id"], account=MALLORY).expect(200)
    both.delete("projects", THEIRS, "registry", "repositories", one["id"], "tags", "v1", account=MALLORY).expect(200)
