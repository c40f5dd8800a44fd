"""A registry that was there before the gateway is read in, and read again."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway import crawl
from gateway.errors import ConfigError
from tests.crawling.conftest import (
    APP,
    CAMEL,
    DEEP,
    EMPTY,
    FALLBACK,
    FALLBACK_TAG,
    LONELY,
    MANY,
    PROJECTS,
    SIGNATURE,
    STRANGER,
    TAGS,
    UNTAGGED,
    VAULT,
    A,
    B,
    C,
    Place,
    bodies,
    listed,
    read_by,
    repositories,
)
from tests.support.peers import run
from tests.support.people import ALICE, CAROL, MALLORY, ROOT
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.distribution import Distribution
    from tests.support.images import Image


def _names(image: Image) -> list[tuple[str, str]]:
    return [("config", image.config.digest), *(("layer", layer.digest) for layer in image.layers)]


@pytest.fixture(params=["sqlite", "postgresql"])
def on_each_engine(request: pytest.FixtureRequest, registry: Distribution, tmp_path: Path) -> Place:
    """Put a gateway before the registry that records in either database."""
    url = request.getfixturevalue("postgres").database() if request.param == "postgresql" else None
    return Place(tmp_path / "gateway", registry.url, database_url=url)


@pytest.mark.usefixtures("filled")
def test_what_is_there_is_recorded(on_each_engine: Place) -> None:
    """Tags, manifests with their bytes, what they refer to, and whose they are, is known; what has no tag is not."""
    report = on_each_engine.crawl()
    found = on_each_engine.records()
    assert report.failed == []
    assert found.tags == TAGS
    assert found.projects == PROJECTS
    expected = {blob.digest: blob.content for blob in (A.manifest, B.manifest, MANY.manifest, SIGNATURE, FALLBACK)}
    expected |= {child.manifest.digest: child.manifest.content for child in MANY.images}
    assert found.manifests[APP] == expected
    assert found.references[APP, A.manifest.digest] == _names(A)
    children = [("manifest", child.manifest.digest) for child in MANY.images]
    assert found.references[APP, MANY.manifest.digest] == children
    assert found.references[APP, MANY.images[0].manifest.digest] == _names(MANY.images[0])
    assert set(found.pushed_by.values()) == {""}
    recorded = sum(map(len, found.manifests.values()))
    # One of them has no tag left.
    assert (report.repositories, report.tags, report.recorded) == (7, 10, recorded)
    assert report.forgotten == report.skipped == 0


@pytest.mark.usefixtures("filled")
def test_a_second_run_finds_nothing_new(on_each_engine: Place, registry: Distribution) -> None:
    """What is recorded is not fetched again, and not written again."""
    on_each_engine.crawl()
    before = on_each_engine.records()
    asked = len(read_by(registry))
    report = on_each_engine.crawl()
    assert bodies(read_by(registry)[asked:]) == []
    assert (report.recorded, report.forgotten, report.tags, report.failed) == (0, 0, 10, [])
    assert on_each_engine.records() == before


@pytest.mark.usefixtures("filled")
def test_a_later_run_mends(on_each_engine: Place, there: Wire, registry: Distribution) -> None:
    """Tags that were moved or deleted, manifests and repositories that are gone: the records follow."""
    on_each_engine.crawl()
    there.push_image(APP, "latest", C)
    # Both tags go with it.
    there.send("DELETE", f"/v2/{APP}/manifests/{A.manifest.digest}").expect(202)
    there.send("DELETE", f"/v2/{VAULT}/manifests/{A.manifest.digest}").expect(202)
    there.push_image("acme/app/new", "1", C)
    asked = len(read_by(registry))
    report = on_each_engine.crawl()
    found = on_each_engine.records()
    assert report.failed == []
    assert found.tags[APP] == {
        "latest": C.manifest.digest,
        "many": MANY.manifest.digest,
        FALLBACK_TAG: FALLBACK.digest,
    }
    assert found.tags["acme/app/new"] == {"1": C.manifest.digest}
    assert VAULT not in found.tags
    assert VAULT not in found.manifests
    assert A.manifest.digest not in found.manifests[APP]
    # It lost its tag, and is there still.
    assert B.manifest.digest in found.manifests[APP]
    assert (report.recorded, report.forgotten) == (2, 2)
    assert sorted(bodies(read_by(registry)[asked:])) == sorted(
        f"GET /v2/{name}/manifests/{C.manifest.digest}" for name in (APP, "acme/app/new")
    )


@pytest.mark.usefixtures("filled")
def test_a_repository_that_is_gone(place: Place, tmp_path: Path) -> None:
    """A repository that the registry lists no more is asked for once, and what was recorded of it is dropped."""
    place.crawl()
    (repositories(tmp_path) / STRANGER).rename(tmp_path / "gone")
    assert place.crawl().failed == []
    found = place.records()
    assert STRANGER not in found.tags
    assert STRANGER not in found.manifests
    assert found.tags == {name: tags for name, tags in TAGS.items() if name != STRANGER}


@pytest.mark.usefixtures("filled")
def test_a_project_that_came_later(place: Place) -> None:
    """A repository that no project owned belongs to one as soon as there is one."""
    place.crawl()
    written = place.gateway.directory.read_text()
    document = written.replace("groups:\n", "groups:\n- path: stranger\n  visibility: private\n")
    document = document.replace("projects:\n", "projects:\n- path: stranger/thing\n  visibility: private\n")
    place.gateway.directory.write_text(document)
    assert place.crawl().failed == []
    assert place.records().projects[STRANGER] == STRANGER


@pytest.mark.usefixtures("filled")
def test_it_is_seen_through_the_gateway(place: Place) -> None:
    """After `registry-gateway crawl` the catalog shows everybody what they may pull, and referrers are listed."""
    ended = run(place.command("crawl"), folder=place.gateway.folder)
    assert ended.stdout == (
        "backend_distribution: 7 repositories with 10 tags read; 12 manifests recorded, 0 forgotten\n"
    )
    assert ended.stderr == ""
    place.gateway.start()
    assert listed(place.gateway.wire(ROOT)) == sorted(TAGS)
    assert listed(place.gateway.wire(ALICE)) == [APP, CAMEL, DEEP, VAULT]
    assert listed(place.gateway.wire(MALLORY)) == [DEEP]
    carol = place.gateway.wire(CAROL)
    found = carol.get(f"/v2/{APP}/referrers/{B.manifest.digest}").expect(200).json()
    assert [item["digest"] for item in found["manifests"]] == [SIGNATURE.digest]
    assert found["manifests"][0]["artifactType"] == "application/vnd.example.signature"
    # What could not be found out by a crawl is there all the same.
    assert carol.manifest(APP, UNTAGGED.manifest.digest).expect(200).body == UNTAGGED.manifest.content
    assert carol.get(f"/v2/{EMPTY}/tags/list").expect(200).json()["tags"] == []
    assert LONELY in listed(place.gateway.wire(ROOT))


@pytest.mark.usefixtures("filled")
def test_named_repositories_alone(place: Place, registry: Distribution) -> None:
    """With `--repository` those are read, and nothing else is asked for."""
    asked = len(read_by(registry))
    report = place.crawl(DEEP, VAULT, DEEP)
    assert (report.repositories, report.tags) == (2, 2)
    assert {line.split("/manifests/")[0].split("/tags/")[0] for line in read_by(registry)[asked:]} == {
        "GET /v2/",
        *(f"{method} /v2/{name}" for method in ("GET", "HEAD") for name in (DEEP, VAULT)),
    }
    assert set(place.records().tags) == {DEEP, VAULT}


@pytest.mark.parametrize(
    ("backend", "only", "names", "said"),
    [
        pytest.param(None, ["nobody"], [], "no backend 'nobody' that is another registry; there is ", id="unknown"),
        pytest.param(None, [], ["A/b"], "--repository: component 1 ('A')", id="illegal name"),
        pytest.param({"use": "backend_local"}, [], [], "no backend of the configuration is", id="no registry"),
    ],
)
def test_a_wrong_call_is_one_line(
    place: Place, backend: dict[str, Any] | None, only: list[str], names: list[str], said: str
) -> None:
    """Whoever names no registry, or no repository, is told so in one line."""
    if backend is not None:
        document = place.config.read_text()
        place.config.write_text(
            document[: document.index("- use: backend_distribution")] + f"- {json.dumps(backend)}\n"
        )
    with pytest.raises(ConfigError) as caught:
        asyncio.run(crawl.crawl(place.config, only, names, 4, lambda _, __: None))
    (line,) = caught.value.problems
    assert said in line


def test_names_are_mapped_back(place: Place, there: Wire) -> None:
    """With `path_prefix` and `paths` the records have our names, and what has none here is left alone."""
    for name in (
        "mirror/acme/app",
        "mirror/old/home",
        "mirror/old/homely",
        "acme/open",
        "mirror",
        "mirror/acme/secret",
    ):
        there.push_image(name, "1", A)
    place.configure(path_prefix="mirror", paths={"acme/secret/vault": "old/home", "conf/project": "acme/secret"})
    report = place.crawl()
    assert report.failed == []
    assert sorted(place.records().tags) == ["acme/app", "acme/secret/vault", "conf/project", "old/homely"]
    assert place.records().projects["acme/secret/vault"] == "acme/secret/vault"
