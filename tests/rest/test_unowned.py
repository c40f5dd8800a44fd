"""Images whose project nobody has named: of a GitLab 14.x, which does not, and of a registry that was read in."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.rest.place import Place, url
from tests.support import people
from tests.support.distribution import distribution
from tests.support.gateway import PROGRAM, GatewayProcess, Options
from tests.support.images import image
from tests.support.peers import eventually, free_port, run
from tests.support.people import ALICE_API, INTERNAL, JOB_OF_MAINTAINER, MALLORY_API, PRIVATE, PUBLIC
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BELOW = f"{PRIVATE}/below/deep"
SINGLE = f"{INTERNAL}/single"
TAGGED, BULKY = "conf/project", "conf/other/bulky"
PUSHED = (PRIVATE, BELOW, SINGLE, TAGGED, BULKY)
BESIDE, NOBODYS = f"{PRIVATE}-x", "nobody/nothing"
"""Next to a project and no part of it; of no project at all."""


@pytest.fixture(scope="module", params=["14.x", "crawled"])
def unowned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Serve images of which no project is recorded."""
    folder = tmp_path_factory.mktemp("unowned")
    with ExitStack() as behind:
        fake = behind.enter_context(
            FakeGitLab(people.directory(), release="14.x" if request.param == "14.x" else "current")
        )
        source = {
            "use": "auth_gitlab",
            "url": fake.url,
            "mode": "jwt",
            "service_token": fake.service_token,
            "remember": "1s",
        }
        options: Options = {"sources": [source, {"use": "naming"}, {"use": "visibility"}]}
        place = (_crawled if request.param == "crawled" else _pushed)(folder, options, behind)
        with closing(sqlite3.connect(place.gateway.data / "gateway.db", timeout=20)) as database, database:
            add = "INSERT INTO repositories (path, project, created_at) VALUES (?, '', 0)"
            database.executemany(add, [(BESIDE,), (NOBODYS,)])
            assert {project for (project,) in database.execute("SELECT project FROM repositories")} == {""}
        yield place
        place.gateway.end()
        assert "a plugin failed" not in place.gateway.log


def _pushed(folder: Path, options: Options, _: ExitStack) -> Place:
    """Push them through the gateway."""
    gateway = GatewayProcess(folder / "gateway", **options)
    gateway.start()
    place = Place(gateway)
    for name in PUSHED:
        place.push(name, image(name.encode()), "v1", "v2")
    return place


def _crawled(folder: Path, options: Options, behind: ExitStack) -> Place:
    """Read them in from a registry to which they were pushed before."""
    port = free_port()
    behind.enter_context(distribution(folder, port=port))
    for name in PUSHED:
        for tag in ("v1", "v2"):
            Wire(f"http://127.0.0.1:{port}").push_image(name, tag, image(name.encode()))
    options["backend"] = {"use": "backend_distribution", "url": f"http://127.0.0.1:{port}", "exclusive": True}
    gateway = GatewayProcess(folder / "gateway", **options)
    run([PROGRAM, "crawl", "--config", gateway.config], folder=folder)
    gateway.start()
    return Place(gateway)


def test_a_single_repository_is_its_project_s(unowned: Place) -> None:
    """The project is the one at its path or above, and who may see that one is asked."""
    number = unowned.recorded()[SINGLE]
    shown = unowned.get("registry", "repositories", number, tags_count=1).expect(200).json()
    project = unowned.get("projects", INTERNAL).expect(200).json()["id"]
    assert (shown["path"], shown["name"], shown["project_id"]) == (SINGLE, "single", project)
    assert shown["tags_count"] == 2


def test_what_belongs_to_nobody_is_not_there(unowned: Place) -> None:
    """404, and nobody is asked for a project without a name."""
    for path in (NOBODYS, BESIDE):
        unowned.get("registry", "repositories", unowned.recorded()[path]).expect(404)


def test_a_stranger_sees_none_of_a_private_project(unowned: Place) -> None:
    """404, as of what is not there."""
    number = unowned.recorded()[BELOW]
    unowned.get("registry", "repositories", number, account=MALLORY_API).expect(404)
    unowned.get("projects", PRIVATE, "registry", "repositories", account=MALLORY_API).expect(404)


def test_a_tag_is_shown_and_deleted(unowned: Place) -> None:
    """By the project's route, before anybody has listed the project."""
    parts = ("projects", TAGGED, "registry", "repositories", unowned.recorded()[TAGGED], "tags")
    assert [tag["name"] for tag in unowned.get(*parts).expect(200).json()] == ["v1", "v2"]
    assert unowned.get(*parts, "v1").expect(200).json()["path"] == f"{TAGGED}:v1"
    unowned.delete(*parts, "v1").expect(200)
    assert [tag["name"] for tag in unowned.get(*parts).expect(200).json()] == ["v2"]


def test_tags_are_deleted_in_bulk_and_then_the_repository(unowned: Place) -> None:
    """By its number below its project."""
    parts = ("projects", "conf/other", "registry", "repositories", unowned.recorded()[BULKY])
    unowned.delete(*parts, "tags", name_regex="v.*").expect(202)
    eventually(lambda: unowned.get(*parts, "tags").expect(200).json() == [], "the tags are deleted")
    unowned.delete(*parts).expect(202)
    eventually(lambda: BULKY not in unowned.recorded(), "the repository is deleted")


def test_it_is_another_project_s_nowhere(unowned: Place) -> None:
    """Neither what lies beside a project is its own, nor what lies in another."""
    for path, project in ((BESIDE, PRIVATE), (BELOW, PUBLIC)):
        parts = ("projects", project, "registry", "repositories", unowned.recorded()[path], "tags")
        unowned.get(*parts).expect(404)


def test_a_project_lists_what_is_its_own(unowned: Place) -> None:
    """The image of the project itself and those below it, and nothing that is beside."""
    answer = unowned.get("projects", PRIVATE, "registry", "repositories", tags_count=1).expect(200)
    listed = {one["path"]: (one["name"], one["tags_count"]) for one in answer.json()}
    assert listed == {PRIVATE: ("", 2), BELOW: ("below/deep", 2)}
    assert answer.header("X-Total") == "2"


def test_a_group_lists_what_is_its_projects(unowned: Place) -> None:
    """Over its projects and those of its subgroups."""
    listed = unowned.get("groups", "acme", "registry", "repositories", per_page=100).expect(200).json()
    assert {PRIVATE, BELOW, SINGLE} <= {one["path"] for one in listed}
    assert not {BESIDE, NOBODYS, TAGGED} & {one["path"] for one in listed}


@pytest.mark.parametrize(
    ("kind", "path", "found"), [("projects", PRIVATE, True), ("groups", "acme", True), ("projects", PUBLIC, False)]
)
def test_its_tags_stand_in_the_way_of_a_rename(unowned: Place, kind: str, path: str, found: bool) -> None:  # noqa: FBT001 - a table's value
    """As those of any image (semantics 10)."""
    assert unowned.get(kind, path, "registry", "has_tags").expect(200).json()["has_tags"] is found


def test_a_job_can_not_tell_one_of_another_project_from_none(unowned: Place) -> None:
    """One answer to both, whoever runs the job (semantics 2.5)."""
    numbers = unowned.recorded()
    answers: list[Any] = []
    for number in (numbers[SINGLE], numbers[TAGGED], numbers[NOBODYS], 999_999):
        answer = unowned.send("GET", url("registry", "repositories", number), JOB_OF_MAINTAINER)
        answers.append((answer.status, answer.json()))
    assert answers[0][0] == 403
    assert answers == answers[:1] * 4


def test_a_project_s_former_path_does_not_lead_to_the_images_of_another(tmp_path: Path) -> None:
    """GitLab answers for a path that a project had once with the project as it is now: that one has other images."""

    class Renamed(FakeGitLab):
        """Knows of a project by the former path of another."""

        def _project(self, call: Any, wanted: str) -> Any:
            return super()._project(call, PUBLIC if wanted == PRIVATE else wanted)

    with Renamed(people.directory()) as fake:
        source = {"use": "auth_gitlab", "url": fake.url, "mode": "jwt"}
        gateway = GatewayProcess(tmp_path, sources=[source, {"use": "naming"}, {"use": "visibility"}])
        gateway.start()
        try:
            place = Place(gateway)
            for name in (PRIVATE, PUBLIC):
                place.push(name, image(name.encode()), "v1")
            numbers = place.recorded()
            place.get("registry", "repositories", numbers[PUBLIC], account=MALLORY_API).expect(200)
            for account in (MALLORY_API, ALICE_API):
                place.get("registry", "repositories", numbers[PRIVATE], account=account).expect(404)
        finally:
            gateway.end()
