"""Whatever a repository holds and whatever the rules say: what goes is what was planned, and nothing else is harmed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.collector import Collector
from gateway.core.manifests import read
from gateway.core.retention import COMPANIONS, stem
from gateway.oci import Digest, Tag
from gateway.plugins import CleanupRules, GarbageRules, Manifest
from tests.cleanup.conftest import DAY, NOW, built, opened
from tests.contracts.oci import content
from tests.images.conftest import ALICE, APP, BY, Rig

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = [content.Blob(f"layer {number}".encode() * (number + 1)) for number in range(5)]
NAMES = ["latest", "v1", "v2", "v3", "old-v1", "main"]


@dataclass(frozen=True)
class Item:
    """A manifest: an image of *layers*, or an index of *children*, earlier items by their place; *age* in days."""

    layers: tuple[int, ...]
    children: tuple[int, ...]
    subject: int | None
    age: int | None


@dataclass(frozen=True)
class World:
    """What a repository holds: *companions* are tags that belong to one item and point at another."""

    items: tuple[Item, ...]
    tags: dict[str, int]
    companions: tuple[tuple[int, str, int], ...]
    rules: CleanupRules
    moved: dict[str, int]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw up to eight manifests over a handful of layers, tags on them, rules, and tags that move meanwhile."""
    items: list[Item] = []
    count = draw(st.integers(3, 8))
    for place in range(count):
        earlier = range(place)
        is_index = bool(earlier) and draw(st.booleans())
        children = (
            tuple(draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=3, unique=True))) if is_index else ()
        )
        layers = tuple(draw(st.lists(st.integers(0, len(LAYERS) - 1), min_size=1, max_size=3, unique=True)))
        subject = draw(st.sampled_from(earlier)) if earlier and draw(st.integers(0, 3)) == 0 else None
        age = draw(st.sampled_from([None, 1, 20, 29, 31, 100]))
        items.append(Item(() if is_index else layers, children, subject, age))
    anywhere = st.integers(0, count - 1)
    tags = draw(st.dictionaries(st.sampled_from(NAMES), anywhere, min_size=2, max_size=len(NAMES)))
    companions = draw(st.lists(st.tuples(anywhere, st.sampled_from(COMPANIONS), anywhere), min_size=1, max_size=5))
    rules = CleanupRules(
        draw(st.sampled_from([".*", ".*", "v.*", "v|1", "(?:v1|old).*"])),
        draw(st.sampled_from([None, None, "v3", "main|x"])),
        draw(st.sampled_from([None, None, 1, 2])),
        draw(st.sampled_from([None, None, timedelta(days=30)])),
    )
    moves = draw(st.booleans())
    moved = draw(st.dictionaries(st.sampled_from(sorted(tags)), anywhere, min_size=1, max_size=2)) if moves else {}
    return World(tuple(items), tags, tuple(companions), rules, moved)


@dataclass(frozen=True)
class Graph:
    """A repository as it was made, which a test can ask what leads to what."""

    made: list[content.Manifest]
    world: World

    def referrers(self, place: int) -> set[int]:
        """The items whose subject is the one at *place*."""
        return {number for number, item in enumerate(self.world.items) if item.subject == place}

    def led_to(self, places: set[int]) -> set[int]:
        """Say it again, slowly: *places*, their children, their referrers, and so on."""
        while True:
            children = {child for place in places for child in self.world.items[place].children}
            more = places | children | {number for place in places for number in self.referrers(place)}
            if more == places:
                return places
            places = more

    def companions(self) -> dict[str, int]:
        """The tags that belong to an item, and to which."""
        return {f"{stem(self.made[place].digest)}{ending}": place for place, ending, _ in self.world.companions}


def _make(world: World) -> list[content.Manifest]:
    made: list[content.Manifest] = []
    for place, item in enumerate(world.items):
        more: dict[str, Any] = {"annotations": {"place": str(place)}}
        if item.subject is not None:
            more["subject"] = made[item.subject].descriptor()
        if item.children:
            made.append(content.index([made[child] for child in item.children], **more))
        else:
            made.append(built(item.age, *(LAYERS[layer] for layer in item.layers), **more))
    return made


async def _collect(parts: Rig) -> int:
    """Remove what no tag leads to, and give the bytes that this freed."""
    collector = Collector(parts.parts.plugins, parts.parts.database, structlog.get_logger())
    rules = GarbageRules(grace=timedelta(0), quiet=timedelta(0), untagged=True)
    report = await collector.run("backend_local", rules, lambda _report, _what: None)
    assert report.failed == []
    return report.blobs.removed_bytes


async def _pull(parts: Rig, manifest: content.Manifest) -> None:
    """Fetch a manifest with all that it is made of."""
    backend = await parts.parts.plugins.backend(APP)
    for member in manifest.family:
        found: Manifest | None = await parts.parts.metadata.manifest(APP, Digest(member.digest))
        assert found is not None
        assert found.content == member.content
        for blob in member.blobs:
            assert await parts.parts.metadata.linked(APP, Digest(blob.digest)) == len(blob.content)
            async with backend.open_blob(APP, Digest(blob.digest)) as there:
                assert there.size == len(blob.content)


async def _push(parts: Rig, world: World, made: list[content.Manifest]) -> dict[str, int]:
    """Push the world, without what no tag leads to: which items its tags point at."""
    graph = Graph(made, world)
    pointing = dict(world.tags)
    for place, ending, target in world.companions:
        pointing[f"{stem(made[place].digest)}{ending}"] = target
    for place, manifest in enumerate(made):
        tags = [tag for tag, target in pointing.items() if target == place]
        await parts.push(manifest, *tags)
    await _collect(parts)
    for place in graph.led_to(set(pointing.values())):
        await _pull(parts, made[place])
    return pointing


async def _check(world: World, folder: Path, template: Path) -> None:
    async with opened(folder, template) as parts:
        made = _make(world)
        graph = Graph(made, world)
        pointing = await _push(parts, world, made)
        images = parts.parts.images
        planned = await images.plan(APP, world.rules, now=NOW + DAY / 24)
        there = graph.led_to(set(pointing.values()))
        moved = {tag: place for tag, place in world.moved.items() if place in there}
        for tag, place in moved.items():
            await parts.parts.metadata.put_manifest(APP, [Tag(tag)], _stored(made[place]), ALICE)
        state = await images.apply(planned, BY)
        assert state.removed + state.stayed == len(planned.removed)

        # Nothing outside the plan is gone, and what moved stands.
        left = set(await parts.tags())
        now = {**pointing, **moved}
        assert left >= set(now) - set(planned.removed)
        assert left >= {tag for tag in moved if pointing.get(tag) != moved[tag]}
        assert "latest" not in planned.removed
        if not moved:
            assert left == set(now) - set(planned.removed)
            again = await images.plan(APP, world.rules, now=NOW + DAY / 24)
            assert not again.removed

        # Whatever is left keeps all that it is made of and all that belongs to it, also when garbage is collected.
        kept = graph.led_to({now[tag] for tag in left})
        freed = await _collect(parts)
        for place in kept:
            await _pull(parts, made[place])
        standing = {tag for tag, place in graph.companions().items() if place in kept}
        assert left >= standing
        if not moved:
            assert freed == planned.bytes


def _stored(manifest: content.Manifest) -> Manifest:
    _, details = read(manifest.content, manifest.media_type)
    return Manifest(Digest(manifest.digest), manifest.media_type, len(manifest.content), manifest.content, details)


@given(world=worlds())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_planned_goes_and_nothing_else(
    template: Path, tmp_path_factory: pytest.TempPathFactory, world: World
) -> None:
    """Every index resolves, every subject keeps its referrers, `latest` stands, and a second plan is empty."""
    asyncio.run(_check(world, tmp_path_factory.mktemp("world") / "gateway", template))
