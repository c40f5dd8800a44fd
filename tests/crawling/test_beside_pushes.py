"""A crawl beside a gateway that is at work: what goes through the gateway meanwhile counts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.crawling.conftest import APP, A, B, C, Place, bodies
from tests.fakes.relay import Relay
from tests.support.distribution import distribution
from tests.support.people import ALICE
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOUCHED = f"{APP}/touched"


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "exclusive"])
def beside(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, Relay, Wire]]:
    """Run a gateway before a registry; its configuration leads a crawl to the same registry by a relay."""
    folder = tmp_path_factory.mktemp("beside")
    with distribution(folder) as registry, Relay(registry.host) as relay:
        place = Place(folder / "gateway", registry.url, exclusive=request.param)
        place.gateway.start()
        place.configure(url=relay.url)
        yield place, relay, Wire(registry.url)
        place.gateway.end()


def _meanwhile(place: Place, relay: Relay, name: str, at: Callable[[str], bool], change: Callable[[], object]) -> None:
    """Crawl the repository *name*, and do something else while the crawl waits for an answer."""
    relay.asked.clear()
    relay.hold(at)
    run = threading.Thread(target=place.crawl, args=(name,))
    run.start()
    relay.wait_held()
    change()
    relay.release()
    run.join()


def test_a_tag_is_moved_meanwhile(beside: tuple[Place, Relay, Wire]) -> None:
    """A tag that is pushed after it was read is what was pushed, and by whom."""
    place, relay, there = beside
    name, alice = f"{APP}/moved", place.gateway.wire(ALICE)
    there.push_image(name, "1", A)
    there.push_image(name, "2", B)
    _meanwhile(place, relay, name, lambda line: line.endswith("manifests/2"), lambda: alice.push_image(name, "1", C))
    found = place.records()
    assert found.tags[name] == {"1": C.manifest.digest, "2": B.manifest.digest}
    assert "alice" in found.pushed_by[name, "1"]
    assert alice.manifest(name, "1").body == C.manifest.content
    # It was read anew, and what was recorded the first time was not fetched again.
    assert sum("tags/list" in line for line in relay.asked) == 2
    assert bodies(relay.asked).count(f"GET /v2/{name}/manifests/{A.manifest.digest}") == 1


def test_a_tag_is_deleted_meanwhile(beside: tuple[Place, Relay, Wire]) -> None:
    """A tag that is deleted after it was read is not recorded."""
    place, relay, there = beside
    name, alice = f"{APP}/deleted", place.gateway.wire(ALICE)
    there.push_image(name, "1", A)
    there.push_image(name, "2", B)
    _meanwhile(
        place,
        relay,
        name,
        lambda line: line.endswith("manifests/2"),
        lambda: alice.send("DELETE", f"/v2/{name}/manifests/{A.manifest.digest}").expect(202),
    )
    found = place.records()
    assert found.tags[name] == {"2": B.manifest.digest}
    assert alice.manifest(name, "1").status == alice.manifest(name, A.manifest.digest).status == 404


def test_a_manifest_is_pushed_again_meanwhile(beside: tuple[Place, Relay, Wire]) -> None:
    """What was gone when the crawl asked and is pushed before it records that is not forgotten."""
    place, relay, there = beside
    name, alice = f"{APP}/again", place.gateway.wire(ALICE)
    alice.push_image(name, "1", A)
    there.send("DELETE", f"/v2/{name}/manifests/{A.manifest.digest}").expect(202)

    def gone(line: str) -> bool:
        # Before it drops a record it asks whether this is a registry.
        return line == "GET /v2/" and any(asked.startswith(f"HEAD /v2/{name}/") for asked in relay.asked)

    _meanwhile(place, relay, name, gone, lambda: alice.put_manifest(name, "1", A.manifest).expect(201))
    found = place.records()
    assert found.tags[name] == {"1": A.manifest.digest}
    assert "alice" in found.pushed_by[name, "1"]
