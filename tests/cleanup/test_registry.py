"""Before Docker Distribution: dates come from the configs of images that others pushed, and siblings stay."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.cleanup.conftest import Inside, aged, change
from tests.support.distribution import distribution
from tests.support.gateway import PROGRAM
from tests.support.images import image, index
from tests.support.peers import run
from tests.support.people import PRIVATE
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import GatewayFactory


def test_images_that_others_pushed(gateway_factory: GatewayFactory, inside: Inside, tmp_path: Path) -> None:
    """Traps 27 and 28: each config is read once, an index has no date, and of an image's tags only those planned go."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with distribution(folder) as registry:
        there = Wire(registry.url)
        old, young, multi, undated = aged("old", 100), aged("young", 1), index("multi"), image(b"no date")
        there.push_image(PRIVATE, "v1", old)
        there.put_manifest(PRIVATE, "stable", old.manifest).expect(201)
        there.push_image(PRIVATE, "v2", young)
        there.push_image(PRIVATE, "v3", undated)
        for each in multi.images:
            there.push_image(PRIVATE, f"v4-{each.architecture}", each)
        there.put_manifest(PRIVATE, "v4", multi.manifest).expect(201)
        gateway = gateway_factory(backend={"use": "backend_distribution", "url": registry.url})
        change(gateway, PRIVATE, name_regex="v.*", name_regex_keep=None, keep_n=None, older_than="90d")
        # The gateway has seen nothing of the repository yet.
        assert inside(gateway, "plan", PRIVATE, fails=True).stderr == f"{PRIVATE} has no repositories\n"
        run([PROGRAM, "crawl", "--config", gateway.config])
        plan = json.loads(inside(gateway, "plan", PRIVATE, "--json").stdout)["repositories"][0]
        assert {tag["name"]: tag["rule"] for tag in plan["tags"]} == {
            "stable": "no_match",
            "v1": "matched",
            "v2": "not_older",
            "v3": "undated",
            "v4": "undated",
            "v4-amd64": "undated",
            "v4-arm64": "undated",
        }
        assert plan["total"]["bytes"] == 0
        inside(gateway, "plan", PRIVATE)
        read = [line for line in registry.peer.log.splitlines() if old.config.digest in line and "GET" in line]
        assert len([line for line in read if "response completed" in line]) == 1
        assert inside(gateway, "run", PRIVATE).stdout == f"{PRIVATE}: 1 of 1 planned tags removed\n"
        there.manifest(PRIVATE, "v1").expect(404)
        assert there.manifest(PRIVATE, "stable").expect(200).body == old.manifest.content
        for tag in ("v2", "v3", "v4", "v4-amd64", "v4-arm64"):
            there.manifest(PRIVATE, tag).expect(200)
