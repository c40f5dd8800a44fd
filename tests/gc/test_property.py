"""Whatever refers to whatever: a collection removes exactly what cannot be reached."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.config import DatabaseConfig
from gateway.core import garbage
from gateway.core.database import Database, migrate
from gateway.core.garbage import Graph, Node
from gateway.plugins import Digest, RepositoryName
from tests.gc.conftest import Clock, Registry

if TYPE_CHECKING:
    from pathlib import Path

REPOSITORIES = ("acme/app", "acme/other")
BLOBS = 6


@dataclass(frozen=True)
class Item:
    """A manifest: of a repository, an image of *blobs* or an index of *children*, earlier items by their place."""

    repository: int
    blobs: tuple[int, ...]
    children: tuple[int, ...]
    subject: int | None
    tagged: bool


@dataclass(frozen=True)
class World:
    """What was pushed, in order, and the blobs that each repository was sent beside."""

    items: tuple[Item, ...]
    loose: tuple[tuple[int, int], ...]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw up to ten manifests over a handful of blobs, in two repositories."""
    items: list[Item] = []
    for place in range(draw(st.integers(0, 10))):
        repository = draw(st.integers(0, 1))
        earlier = [number for number in range(place) if items[number].repository == repository]
        children = tuple(draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True))) if earlier else ()
        blobs = draw(st.lists(st.integers(0, BLOBS - 1), min_size=1, max_size=3))
        subject = draw(st.one_of(st.none(), st.sampled_from(earlier))) if earlier else None
        tagged = draw(st.integers(0, 2)) == 0
        items.append(Item(repository, () if children else tuple(blobs), children, subject, tagged))
    loose = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, BLOBS - 1)), max_size=4))
    return World(tuple(items), tuple(loose))


def _blob(number: int) -> bytes:
    return f"blob {number}".encode()


async def _push(world: World, registry: Registry) -> list[Digest]:
    made: list[Digest] = []
    for number, blob in world.loose:
        await registry.blob(REPOSITORIES[number], _blob(blob))
    for place, item in enumerate(world.items):
        name, tags = REPOSITORIES[item.repository], [f"t{place}"] if item.tagged else []
        subject = None if item.subject is None else made[item.subject]
        if item.children:
            children = [made[child] for child in item.children]
            made.append(await registry.index(name, str(place), children, *tags, subject=subject))
            continue
        for blob in item.blobs:
            await registry.blob(name, _blob(blob))
        contents = [_blob(blob) for blob in item.blobs]
        made.append(await registry.manifest(name, str(place), contents, *tags, subject=subject))
    return made


def _kept(world: World) -> set[int]:
    """Say it again, slowly: tagged, or a child of one that is kept, or about one that is kept."""
    kept: set[int] = set()
    while True:
        more = {
            place
            for place, item in enumerate(world.items)
            if item.tagged
            or item.subject in kept
            or any(place in other.children and number in kept for number, other in enumerate(world.items))
        }
        if more == kept:
            return kept
        kept = more


async def _check(world: World, folder: Path, *, untagged: bool) -> None:
    clock = Clock()
    database = Database(DatabaseConfig(url=SecretStr(f"sqlite:///{folder / 'gateway.db'}")))
    await database.open()
    registry = Registry(database, folder / "registry", clock)
    try:
        made = await _push(world, registry)
        kept = _kept(world) if untagged else set(range(len(made)))
        registry.later(hours=1)
        await registry.collect(grace=timedelta(0), untagged=untagged)
        for number, name in enumerate(REPOSITORIES):
            own = {place for place in kept if world.items[place].repository == number}
            needed = {Digest.of(_blob(blob)) for place in own for blob in world.items[place].blobs}
            assert await registry.manifests(name) == {made[place] for place in own}
            assert await registry.links(name) == needed
            for digest in needed:
                assert await registry.metadata.linked(RepositoryName(name), digest) is not None
        everything = {Digest.of(_blob(blob)) for place in kept for blob in world.items[place].blobs}
        assert registry.files() == everything
    finally:
        registry.store.close()
        await database.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate one database, for copying."""
    path = tmp_path_factory.mktemp("template") / "gateway.db"
    asyncio.run(migrate(DatabaseConfig(url=SecretStr(f"sqlite:///{path}"))))
    return path


@given(world=worlds(), untagged=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_exactly_the_unreachable_goes(
    template: Path, tmp_path_factory: pytest.TempPathFactory, world: World, *, untagged: bool
) -> None:
    """Of any graph of indexes, images, referrers and blobs, what no tag leads to goes, and nothing else."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(template, folder / "gateway.db")
    asyncio.run(_check(world, folder, untagged=untagged))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw manifests: an index is of earlier ones, a subject is any."""
    count = draw(st.integers(1, 12))
    subjects = [draw(st.none() | st.integers(0, count)) for _ in range(count)]
    nodes = [
        Node(number, f"d{number}", None if about is None else f"d{about}", 1, 0, 0, tagged=False)
        for number, about in enumerate(subjects)
    ]
    edges = [(parent, f"d{draw(st.integers(0, parent - 1))}") for parent in range(1, count) for _ in range(parent % 3)]
    return Graph(nodes, edges)


@given(graph=graphs())
@settings(max_examples=300)
def test_what_leads_to_a_manifest_is_swept_no_later(graph: Graph) -> None:
    """Each goes once, and none in a later part than what it leads to: not in circles of subjects either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(garbage, "_AT_ONCE", 1)
        parts = graph.in_parts(graph.nodes.values())
    place = {node.id: number for number, part in enumerate(parts) for node in part}
    assert sorted(node.id for part in parts for node in part) == sorted(graph.nodes)
    for node in graph.nodes.values():
        for below in graph.below([node]) - {node.id}:
            in_circle = node.id in graph.below([graph.nodes[below]])
            assert place[node.id] == place[below] if in_circle else place[node.id] < place[below]
