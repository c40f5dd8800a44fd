"""`registry-gateway probe` finds out what a registry can, and changes nothing in it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway import cli, crawl
from gateway.errors import ConfigError
from tests.crawling.conftest import APP, A, Place, listed
from tests.fakes.relay import Relay, Said
from tests.support.distribution import distribution
from tests.support.gateway import GatewayProcess
from tests.support.peers import free_port, run
from tests.support.people import ALICE, ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.wire import Wire

# What both conformance suites of the specification say of Distribution 2.8.2.
DISTRIBUTION: Mapping[str, tuple[bool | None, str]] = {
    "protocol": (True, "answers 200 (registry/2.0)"),
    "catalog": (True, "answers 200"),
    "pages of tags": (False, "5 tags where 1 was asked for"),
    "referrers API": (False, "answers 404"),
    "malformed digests": (False, "answers 500"),
    "pushing": (True, "answers 202"),
    "order of chunks": (False, "a chunk at the wrong place is taken (answers 202)"),
    "deleting manifests": (True, "answers 404"),
    "deleting a tag alone": (False, "answers 400"),
    "manifests by sha512": (None, "can't be told"),
}


def _state(store: Path, there: Wire) -> object:
    """Everything of a registry that anybody can see, and every file of its disk.

    But for what Distribution 2.8 itself leaves of an upload that is cancelled: it notes how far it came.
    """
    files = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and "hashstates" not in path.parts}
    tags = {name: there.get(f"/v2/{name}/tags/list").body for name in listed(there)}
    return tags, files


@pytest.mark.usefixtures("filled")
def test_distribution(place: Place, there: Wire, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of Distribution 2.8 each strength and weakness is found, what is added is said, and nothing is changed there."""
    before = _state(tmp_path / "store", there)
    cli.probe("backend_distribution", config=place.config, repository=APP, as_json=True)
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert {name: item["good"] for name, item in found.items()} == {
        name: good for name, (good, _) in DISTRIBUTION.items()
    }
    for name, (good, said) in DISTRIBUTION.items():
        assert said in found[name]["found"], name
        assert bool(found[name]["added"]) is not bool(good), name
    assert _state(tmp_path / "store", there) == before


def test_the_table(place: Place, there: Wire, tmp_path: Path) -> None:
    """A person reads one line each: ok, NO, or that it can't be told; also of a repository that does not exist."""
    before = _state(tmp_path / "store", there)
    ended = run(place.command("probe", "backend_distribution"), folder=place.gateway.folder)
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in ended.stdout.splitlines() if "│" in line]
    assert {row[0]: row[2] for row in rows if row[0]} == {
        **{name: {True: "ok", False: "NO", None: "-"}[good] for name, (good, _) in DISTRIBUTION.items()},
        "pages of tags": "-",
    }
    assert _state(tmp_path / "store", there) == before


def test_without_deletion(tmp_path: Path) -> None:
    """A registry that does not delete is found out, and the key that lets it is said."""
    with distribution(tmp_path, delete=False) as registry:
        place = Place(tmp_path / "gateway", registry.url)
        found = {item.name: item for item in asyncio.run(crawl.probe(place.config, "backend_distribution", APP))}
    assert found["deleting manifests"].good is False
    assert "storage.delete.enabled" in found["deleting manifests"].added


def test_another_gateway(gateway: GatewayProcess, tmp_path: Path) -> None:
    """A gateway behind a gateway lacks nothing."""
    name = "acme/app/probed"
    wire = gateway.wire(ALICE)
    fill_tags = ("1", "2")
    for tag in fill_tags:
        wire.push_image(name, tag, A)
    root = {"username": ROOT.username, "password": ROOT.password}
    place = Place(tmp_path / "gateway", gateway.base_url, **root)
    found = asyncio.run(crawl.probe(place.config, "backend_distribution", name))
    assert {item.name: item.good for item in found} == {
        name: None if good is None else True for name, (good, _) in DISTRIBUTION.items()
    }
    assert wire.get(f"/v2/{name}/tags/list").json()["tags"] == list(fill_tags)


def test_a_registry_that_is_down(tmp_path: Path) -> None:
    """What can't be asked is one line, and the exit status is 1."""
    port = free_port()
    place = Place(tmp_path / "gateway", f"http://127.0.0.1:{port}")
    words = place.command("probe", "backend_distribution")
    ended = run(words, folder=place.gateway.folder, fails=True)
    assert ended.status == 1
    assert ended.said == f"backend_distribution: 127.0.0.1:{port}: Connection refused\n"


def test_what_is_no_registry(behind: Place, relay: Relay) -> None:
    """Another server is no registry with many weaknesses: it is one line."""
    relay.instead = lambda _: Said(404)
    with pytest.raises(ConfigError) as caught:
        asyncio.run(crawl.probe(behind.config, "backend_distribution", APP))
    (line,) = caught.value.problems
    assert "answers 404 to GET /v2/; is `url` that of a registry?" in line


def test_words_of_a_registry_are_no_markup(behind: Place, relay: Relay, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a registry says stands in the table as it is."""
    body = json.dumps({"errors": [{"code": "UNKNOWN", "message": "[/nothing] [red]x"}]}).encode()
    relay.instead = lambda line: Said(404, body) if "referrers" in line else None
    cli.probe("backend_distribution", config=behind.config)
    assert "[/nothing] [red]x" in capsys.readouterr().out
