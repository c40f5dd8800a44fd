"""A crawl that is killed, hurried, refused or lied to: it goes on, is polite, and forgets nothing by mistake."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawling.conftest import APP, A, B, Place, bodies, fill_many
from tests.fakes.relay import Said
from tests.support.distribution import distribution
from tests.support.images import MANIFEST, sha256
from tests.support.peers import Peer, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.fakes.relay import Relay
    from tests.support.distribution import Distribution
    from tests.support.wire import Wire


def _repositories(asked: Sequence[str]) -> list[str]:
    """Name the repositories that request lines are about, in the order in which they were first asked for."""
    paths = [line.split(" ", 1)[1].removeprefix("/v2/").partition("?")[0] for line in asked]
    marks = ("/tags/", "/manifests/", "/referrers/")
    return list(dict.fromkeys(path.partition(mark)[0] for path in paths for mark in marks if mark in path))


def _json(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Said:
    return Said(status, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})})


# -- broken off -------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on(behind: Place, relay: Relay, there: Wire, tmp_path: Path) -> None:
    """After a power cut the next run visits what was not done, and nothing else; the one after it visits all."""
    names = fill_many(there, tmp_path, 6)
    words = behind.command("crawl", "--at-once", "1")
    relay.hold(lambda line: f"{names[3]}/tags" in line)
    killed = Peer(words, log=behind.gateway.folder / "crawl.log", folder=behind.gateway.folder)
    relay.wait_held()
    killed.kill()
    relay.release()
    assert set(behind.records().tags) == set(names[:3])
    relay.asked.clear()
    report = behind.crawl()
    assert report.resumed
    assert sorted(_repositories(relay.asked)) == names[3:]
    assert report.as_text() == (
        "backend_distribution: 3 repositories with 3 tags read, going on where the last run was broken off; "
        "3 manifests recorded, 0 forgotten"
    )
    relay.asked.clear()
    report = behind.crawl()
    assert not report.resumed
    assert sorted(_repositories(relay.asked)) == names
    assert bodies(relay.asked) == []


# -- polite -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_at_once(behind: Place, relay: Relay, there: Wire, at_once: int, tmp_path: Path) -> None:
    """So many repositories are read at a time, with one request each; the others wait."""
    names = fill_many(there, tmp_path, 8)
    # The plugin looks once, at its start, whether the registry is there.
    relay.counts = lambda line: line != "GET /v2/"
    relay.hold(lambda line: line.startswith("HEAD"))
    run = threading.Thread(target=behind.crawl, kwargs={"at_once": at_once})
    run.start()
    relay.wait_held(at_once)
    relay.release()
    run.join()
    assert relay.most == at_once
    assert behind.told == sorted(behind.told) if at_once == 1 else set(behind.told) == set(names)
    spans = [[place for place, line in enumerate(relay.asked) if f"/{name}/" in line] for name in names]
    for place in range(len(relay.asked)):
        assert sum(span[0] <= place <= span[-1] for span in spans) <= at_once


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_registry_gets_its_rest(behind: Place, relay: Relay, there: Wire, status: int, tmp_path: Path) -> None:
    """What is answered with Retry-After is asked again after that, and the run is good."""
    names = fill_many(there, tmp_path, 3)
    busy = [Said(status, headers={"Retry-After": "1"})] * 2

    def instead(line: str) -> Said | None:
        return busy.pop() if busy and f"{names[1]}/tags" in line else None

    relay.instead = instead
    report = behind.crawl()
    assert report.failed == []
    assert set(behind.records().tags) == set(names)
    assert busy == []


def test_a_registry_that_wants_long_rest(behind: Place, relay: Relay, there: Wire, tmp_path: Path) -> None:
    """A repository that may be asked for in an hour is one line, and what is recorded of it stays."""
    names = fill_many(there, tmp_path, 3)
    behind.crawl()
    before = behind.records()
    relay.instead = lambda line: Said(429, headers={"Retry-After": "3600"}) if names[1] in line else None
    report = behind.crawl()
    assert report.repositories == 2
    (line,) = report.failed
    assert line.startswith(f"{names[1]}: ")
    assert "answers 429" in line
    assert behind.records() == before
    # Such a run is over: the next one visits all again.
    relay.asked.clear()
    assert not behind.crawl().resumed
    assert sorted(_repositories(relay.asked)) == names


# -- failing ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("filled")
def test_a_registry_that_is_down(place: Place, registry: Distribution) -> None:
    """A registry that can't be asked is one line and status 1, and nothing is forgotten."""
    place.crawl()
    before = place.records()
    registry.peer.kill()
    ended = run(place.command("crawl"), folder=place.gateway.folder, fails=True)
    assert ended.status == 1
    assert ended.stderr == f"backend_distribution: {registry.host}: Connection refused\n"
    assert place.records() == before


def test_a_registry_that_goes_down(behind: Place, relay: Relay, there: Wire, tmp_path: Path) -> None:
    """Where it goes down in the middle, the run is left after some failures, forgets nothing, and the next goes on."""
    names = fill_many(there, tmp_path, 20)
    behind.crawl()
    before = behind.records()
    relay.instead = lambda line: Said(502) if any(name in line for name in names[3:]) else None
    report = behind.crawl(at_once=1)
    assert [line.partition(":")[0] for line in report.failed] == [*names[3:13], "backend_distribution"]
    assert behind.records() == before
    relay.instead = lambda _: None
    relay.asked.clear()
    report = behind.crawl()
    assert report.resumed
    assert report.failed == []
    assert sorted(_repositories(relay.asked)) == names[3:]


def test_one_bad_repository_hinders_no_other(behind: Place, relay: Relay, there: Wire, tmp_path: Path) -> None:
    """A repository that fails each time is one line each time, and all others are read each time."""
    names = fill_many(there, tmp_path, 4)
    relay.instead = lambda line: Said(500) if names[0] in line else None
    for _ in range(2):
        there.push_image(names[3], "new", B)
        report = behind.crawl()
        assert [line.partition(":")[0] for line in report.failed] == [names[0]]
        assert report.repositories == 3
        assert behind.records().tags[names[3]]["1"] == A.manifest.digest
    assert "new" in behind.records().tags[names[3]]


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda _: Said(404, b"<h1>Not Found</h1>", {"Content-Type": "text/html"}), id="no registry"),
        pytest.param(
            lambda line: Said(404) if "/tags/" in line or "/manifests/" in line or line == "GET /v2/" else None,
            id="half of one",
        ),
    ],
)
def test_another_server_in_its_place(behind: Place, relay: Relay, wrong: Callable[[str], Said | None]) -> None:
    """A server that knows nothing of registries makes nothing forgotten, whatever it does not find."""
    behind.crawl()
    before = behind.records()
    relay.instead = wrong
    report = behind.crawl()
    assert len(report.failed) == 1
    assert "is `url` that of a registry?" in report.failed[0]
    assert behind.records() == before


@pytest.mark.usefixtures("filled")
def test_a_registry_that_forgets_itself(behind: Place, relay: Relay) -> None:
    """A server that stops being a registry in the middle makes nothing forgotten either."""
    behind.crawl()
    before = behind.records()
    listed: list[str] = []

    def instead(line: str) -> Said | None:
        listed.extend([line] if "_catalog" in line else [])
        return Said(404) if listed and "_catalog" not in line else None

    relay.instead = instead
    report = behind.crawl()
    assert len(report.failed) == 7
    assert behind.records() == before


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("status", [404, 401, 405])
def test_a_registry_without_a_catalog(behind: Place, relay: Relay, there: Wire, status: int) -> None:
    """It is said that there is no catalog, with status 1; what is recorded is made true all the same."""
    behind.crawl(APP)
    there.push_image(APP, "new", B)
    relay.instead = lambda line: Said(status) if "_catalog" in line else None
    report = behind.crawl()
    assert len(report.failed) == 1
    assert "its repositories can't be listed, name them with --repository" in report.failed[0]
    assert f"answers {status}" in report.failed[0]
    assert behind.records().tags[APP]["new"] == B.manifest.digest


# -- lied to ----------------------------------------------------------------------------------------------

HOSTILE: list[Any] = ["../x", "A/B", "x//y", "", "a" * 10_000, "a/" * 5_000, 5, None, ["acme/app"], {}, "acme/\ud800"]


@pytest.mark.usefixtures("filled")
def test_names_that_are_none(behind: Place, relay: Relay) -> None:
    """Whatever else stands in a catalog, its repositories are read."""
    relay.instead = lambda line: _json({"repositories": [*HOSTILE, APP, APP]}) if "_catalog" in line else None
    report = behind.crawl()
    assert (report.failed, report.repositories) == ([], 1)
    assert set(behind.records().projects) == {APP}


@pytest.mark.parametrize("document", [{"repositories": 5}, {"repositories": {"a": 1}}, {"repositories": "acme/app"}])
def test_a_catalog_that_is_none(behind: Place, relay: Relay, document: object) -> None:
    """What is no list of repositories is one line."""
    relay.instead = lambda line: _json(document) if "_catalog" in line else None
    (line,) = behind.crawl().failed
    assert "no list of repositories" in line


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("names", [[APP], HOSTILE])
def test_a_catalog_without_an_end(behind: Place, relay: Relay, names: list[Any]) -> None:
    """A list that goes on for ever is left and said; what it named is read."""
    behind.crawl(APP)
    link = {"Link": '</v2/_catalog?n=1000&last=x>; rel="next"'}
    relay.instead = lambda line: _json({"repositories": names}, headers=link) if "_catalog" in line else None
    report = behind.crawl()
    assert [line.rpartition(" with ")[2] for line in report.failed] == ["a catalog without an end"]
    assert report.repositories == 1
    assert len(relay.asked) < 60


@pytest.mark.usefixtures("filled")
def test_tags_that_are_none(behind: Place, relay: Relay) -> None:
    """Whatever else stands in a list of tags, its tags are read."""
    tags = ["1", "../1", "a b", "x" * 10_000, "", 7, None, "latest?x=1", "latest"]
    relay.instead = lambda line: _json({"name": APP, "tags": tags}) if f"{APP}/tags" in line else None
    assert behind.crawl(APP).failed == []
    assert behind.records().tags[APP] == {"1": A.manifest.digest, "latest": B.manifest.digest}


def _schema1() -> Said:
    return Said(200, b"{}", {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"})


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    "said",
    [
        pytest.param(_schema1, id="schema 1"),
        pytest.param(
            lambda: Said(200, b"[]", {"Content-Type": MANIFEST, "Docker-Content-Digest": sha256(b"[]")}),
            id="no manifest",
        ),
    ],
)
def test_a_manifest_that_nobody_can_use(behind: Place, relay: Relay, said: Callable[[], Said]) -> None:
    """A tag whose manifest is none of today is left out and counted; the others are recorded."""
    digest = sha256(b"[]")
    relay.instead = lambda line: said() if line.endswith((f"{APP}/manifests/2", f"{APP}/manifests/{digest}")) else None
    report = behind.crawl(APP)
    assert (report.failed, report.skipped) == ([], 1)
    assert report.as_text().endswith(", 1 left out that no client of today can pull")
    assert "2" not in behind.records().tags[APP]
    assert behind.records().tags[APP]["1"] == A.manifest.digest


def test_an_index_of_indexes(behind: Place, relay: Relay, there: Wire) -> None:
    """An index of indexes is read to its end, however deep it goes."""
    there.push_image(APP, "1", A)
    media_type = "application/vnd.oci.image.index.v1+json"
    found = {"end": A.manifest.content}
    below, size = A.manifest.digest, len(A.manifest.content)
    for _ in range(50):
        child = {"mediaType": media_type, "digest": below, "size": size}
        content = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": [child]}).encode()
        below, size = sha256(content), len(content)
        found[below] = content

    def instead(line: str) -> Said | None:
        reference = line.rpartition("/")[2]
        content = found.get(below if reference == "1" else reference)
        if content is None or "/manifests/" not in line:
            return None
        return Said(200, content, {"Content-Type": media_type, "Docker-Content-Digest": sha256(content)})

    relay.instead = instead
    report = behind.crawl(APP)
    assert report.failed == []
    assert behind.records().tags[APP] == {"1": below}
    assert len(behind.records().manifests[APP]) == 51


@pytest.mark.usefixtures("filled")
def test_a_registry_that_was_emptied(place: Place, registry: Distribution, tmp_path: Path) -> None:
    """A registry that answers well and has nothing any more has nothing in the records either."""
    place.crawl()
    registry.peer.stop()
    (tmp_path / "store").rename(tmp_path / "before")
    with distribution(tmp_path, port=int(registry.host.rpartition(":")[2])):
        report = place.crawl()
    assert report.failed == []
    assert place.records().tags == {}
    assert place.records().manifests == {}
