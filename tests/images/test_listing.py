"""Pages of tags and repositories: their order, what is shown, and what they cost (semantics 6)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from gateway.core.database import SqliteReader
from gateway.core.schema import manifests, repositories, tags
from gateway.oci import RepositoryName, Tag
from gateway.plugins import TagSearch
from tests.contracts.oci.content import OCI_CONFIG, Blob, Manifest, artifact, image, index, random_blob
from tests.images.conftest import ALICE, APP, BY, Rig, rig

if TYPE_CHECKING:
    from pathlib import Path

_DAY = datetime(2026, 1, 1, tzinfo=UTC)


def _built(created: object, *layers: int, platform: str = "linux/amd64") -> Manifest:
    """Make an image whose config says when it was built and for what."""
    system, architecture, *variant = platform.split("/")
    document: dict[str, Any] = {"os": system, "architecture": architecture, "created": created, "nonce": id(layers)}
    if variant:
        document["variant"] = variant[0]
    return image([random_blob(size) for size in layers or (10,)], Blob(json.dumps(document).encode(), OCI_CONFIG))


async def _names(rig: Rig, **search: Any) -> list[str]:
    found, _ = await rig.parts.images.tags(ALICE, APP, TagSearch(**search))
    return [tag.name for tag in found]


async def _fill(rig: Rig) -> None:
    """Push three images whose names, dates, sizes and pushes are in different orders, and one without a date."""
    await rig.push(_built("2026-01-03T00:00:00Z", 300), "a")
    await rig.push(_built("2026-01-01T00:00:00Z", 100, 100), "B")
    await rig.push(_built("2026-01-02T00:00:00+01:00", 400, platform="linux/arm64/v8"), "c")
    await rig.push(_built(None, 50), "d")
    # Pushes within one millisecond have no order.
    async with rig.parts.database.write() as writer:
        for place, name in enumerate(("d", "c", "a", "B")):
            await writer.run(update(tags).where(tags.c.name == name).values(pushed_at=1_000_000 + place))


ORDERS = [
    ("name", ["B", "a", "c", "d"]),
    ("created", ["d", "B", "c", "a"]),
    ("size", ["d", "B", "a", "c"]),
    ("pushed", ["d", "c", "a", "B"]),
]


@pytest.mark.parametrize(("order", "wanted"), ORDERS, ids=[order for order, _ in ORDERS])
async def test_the_orders(images: Rig, order: str, wanted: list[str]) -> None:
    """Tags come by name (by byte), by the date of their image, by its size or by their push, both ways."""
    await _fill(images)
    assert await _names(images, order=order) == wanted
    assert await _names(images, order=order, descending=True) == wanted[::-1]
    assert await _names(images, order=order, offset=1, limit=2) == wanted[1:3]


SEARCHES = [
    ({"search": "B"}, ["B"]),
    ({"search": "b"}, ["B"]),
    ({"search": "%"}, []),
    ({"search": "_"}, []),
    ({"search": "\\"}, []),
    ({"platform": "linux/arm64/v8"}, ["c"]),
    ({"platform": "LINUX/AMD64"}, ["B", "a", "d"]),
    ({"platform": "linux"}, []),
    ({"platform": "linux/arm64"}, ["c"]),
    ({"platform": "linux/arm64/v7"}, []),
    ({"platform": "linux/arm"}, []),
    ({"platform": "linux/%"}, []),
    ({"pushed_by": "alice"}, ["B", "a", "c", "d"]),
    ({"pushed_by": "bob"}, []),
    ({"after": "a"}, ["c", "d"]),
    ({"after": "c", "descending": True}, ["a", "B"]),
]


@pytest.mark.parametrize(("search", "wanted"), SEARCHES, ids=[str(number) for number in range(len(SEARCHES))])
async def test_what_is_searched_for(local: Rig, search: dict[str, Any], wanted: list[str]) -> None:
    """A part of the name in any case, a platform, who pushed, and what comes after a name."""
    await _fill(local)
    assert await _names(local, **search) == wanted


async def test_the_total_does_not_depend_on_the_page(local: Rig) -> None:
    """How many there are is said of the whole search, not of the page or of what comes after a name."""
    await _fill(local)
    for search in (TagSearch(limit=1), TagSearch(offset=3), TagSearch(after="c"), TagSearch(offset=100)):
        assert (await local.parts.images.tags(ALICE, APP, search))[1] == 4
    assert (await local.parts.images.tags(ALICE, APP, TagSearch(search="b", limit=1)))[1] == 1


async def test_what_is_recorded_of_an_image(images: Rig) -> None:
    """The digest, the config's digest, the sum of the layers, the config's date and platform, and who pushed it."""
    manifest = _built("2026-01-01T00:00:00.123456789Z", 100, 50, platform="linux/arm/v7")
    before = datetime.now(UTC) - timedelta(seconds=5)
    await images.push(manifest, "v1")
    record = await images.parts.images.tag(ALICE, APP, Tag("v1"))
    assert record is not None
    assert (record.name, record.digest, record.config) == ("v1", manifest.digest, manifest.blobs[0].digest)
    assert (record.size, record.platforms, record.pushed_by) == (150, ("linux/arm/v7",), "alice")
    assert record.created_at == _DAY.replace(microsecond=123_000)
    assert before < record.pushed_at < datetime.now(UTC) + timedelta(seconds=5)


async def test_an_index_has_no_config(images: Rig) -> None:
    """Trap 27: a multi-arch index has neither config nor date nor size; its children's platforms are known."""
    await images.push(index([_built("2026-01-01T00:00:00Z"), image()]), "v1")
    record = await images.parts.images.tag(ALICE, APP, Tag("v1"))
    assert record is not None
    assert (record.config, record.size, record.created_at) == (None, None, None)
    assert record.platforms == ("linux/amd64", "linux/arm64")


DATES: list[tuple[object, datetime | None]] = [
    ("2026-01-01T00:00:00Z", _DAY),
    ("2026-01-01T02:00:00+02:00", _DAY),
    ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ("2026-01-01", None),
    ("2026-01-01T00:00:00", None),
    ("yesterday", None),
    ("9999-99-99T00:00:00Z", None),
    ("", None),
    (None, None),
    (17, None),
    ({}, None),
]


@pytest.mark.parametrize(("created", "wanted"), DATES, ids=[str(number) for number in range(len(DATES))])
async def test_dates_that_configs_have(local: Rig, created: object, wanted: datetime | None) -> None:
    """RFC 3339 is a date, with 1970 and the year 1 among them; anything else is none, and no failure."""
    await local.push(_built(created), "v1")
    record = await local.parts.images.tag(ALICE, APP, Tag("v1"))
    assert record is not None
    assert record.created_at == wanted


CONFIGS = [b"", b"no JSON", b"[]", b"null", b"[" * 100_000, b'{"created": "2026-01-01T00:00:00Z", "os": "a/b"}']


@pytest.mark.parametrize("config", CONFIGS, ids=[str(number) for number in range(len(CONFIGS))])
async def test_configs_that_are_no_use(local: Rig, config: bytes) -> None:
    """Whatever somebody pushed as a config costs at most the date."""
    await local.push(image([random_blob()], Blob(config, OCI_CONFIG)), "v1")
    assert await _names(local, order="created") == ["v1"]
    record = await local.parts.images.tag(ALICE, APP, Tag("v1"))
    assert record is not None
    assert record.platforms == ()


async def test_a_config_is_read_once(local: Rig) -> None:
    """What a config says is remembered: its bytes may go, and nobody misses them."""
    await local.push(_built("2026-01-01T00:00:00Z"), "v1")
    await _names(local, order="created")
    async with local.parts.database.write() as writer:
        await writer.run(update(manifests).values(config="sha256:" + "0" * 64))
    record = await local.parts.images.tag(ALICE, APP, Tag("v1"))
    assert record is not None
    assert record.created_at == _DAY


async def test_the_size_of_a_repository(images: Rig) -> None:
    """Each blob counts once, whatever refers to it; what no tag leads to does not count."""
    shared, own = random_blob(1000), random_blob(10)
    first, second = image([shared, own]), image([shared])
    await images.push(index([first, second]), "v1")
    await images.push(second, "v2")
    await images.push(image([random_blob(5000)]))
    configs = len(first.blobs[0].content) + len(second.blobs[0].content)
    assert await images.parts.images.size(APP) == 1010 + configs


async def test_repositories_of_projects(local: Rig) -> None:
    """The repositories of the projects that are asked for, by number."""
    below = RepositoryName("acme/app/below")
    await local.push(image(), "v1", "v2")
    await local.push(image(), "v1", name=below)
    found, total = await local.parts.images.repositories(ALICE, ["acme/app"])
    assert [record.path for record in found] == [APP, below]
    assert total == 2
    assert (found[0].project, found[0].status, found[0].cleanup_started_at) == ("acme/app", None, None)
    page, total = await local.parts.images.repositories(ALICE, ["acme/app"], offset=1, limit=1)
    assert [record.path for record in page] == [below]
    assert total == 2
    assert await local.parts.images.repositories(ALICE, ["acme/other"]) == ([], 0)
    assert await local.parts.images.repository(ALICE, found[1].id) == found[1]
    assert await local.parts.images.repository(ALICE, 2**70) is None


OWNERS = {
    "acme/app": ("", "acme/app"),
    "acme/app/x": ("", "acme/app"),
    "acme/app/x/y": ("", "acme/app"),
    "acme/app2": ("", ""),
    "acme/app-x": ("", ""),
    "acme/app.x": ("", ""),
    "acme": ("", ""),
    "acme/other/app": ("", ""),
    "acme/app/taken": ("acme/taken", "acme/taken"),
}
"""By path: the project that is recorded, and the one once `acme/app` is known."""


async def test_what_is_nobodys_becomes_a_project_s(local: Rig) -> None:
    """What lies at a project's path or below it and belongs to no other is its own as soon as it is asked for."""
    await local.parts.metadata.record({RepositoryName(path): before for path, (before, _) in OWNERS.items()})
    found, total = await local.parts.images.repositories(ALICE, ["acme/app"])
    own = {path for path, (_, after) in OWNERS.items() if after == "acme/app"}
    assert ({record.path for record in found}, total) == (own, len(own))
    for path, (_, after) in OWNERS.items():
        record = await local.parts.images.named(RepositoryName(path))
        assert record is not None
        assert record.project == after


async def test_tags_are_counted(images: Rig) -> None:
    """Those that there are now, of several repositories; one that has none has none."""
    below = RepositoryName("acme/app/below")
    await images.push(image(), "v1", "v2")
    await images.push(image(), name=below)
    assert await images.parts.images.tag_counts(ALICE, [APP, below]) == {APP: 2, below: 0}
    await images.parts.images.delete_tag(APP, Tag("v1"), BY)
    assert await images.parts.images.tag_counts(ALICE, [APP]) == {APP: 1}


async def test_a_repository_without_tags_has_none(images: Rig) -> None:
    """Trap 40: tags are what blocks a rename, not repositories."""
    assert not await images.parts.images.has_tags(["acme/app"])
    await images.push(image(), "v1")
    assert await images.parts.images.has_tags(["acme/app", "acme/other"])
    await images.parts.images.delete_tag(APP, Tag("v1"), BY)
    assert not await images.parts.images.has_tags(["acme/app"])
    assert await images.parts.images.named(APP) is not None


async def _many(rig: Rig, count: int) -> None:
    """Write *count* tags into the records, each on an image of its own."""
    await rig.push(artifact(), "first")
    async with rig.parts.database.write() as writer:
        number = (await writer.rows(repositories.select().where(repositories.c.path == APP)))[0][0]
        common = {"repository_id": number, "media_type": OCI_CONFIG, "size": 1, "content": b"{}", "dated": True}
        rows = [
            {**common, "digest": f"sha256:{place:064x}", "pushed_at": place, "pushed_by": "alice", "layers_size": place}
            for place in range(count)
        ]
        await writer.run(manifests.insert(), rows)
        found = await writer.rows(manifests.select().with_only_columns(manifests.c.digest, manifests.c.id))
        numbers = {row[0]: row[1] for row in found}
        await writer.run(
            tags.insert(),
            [
                {
                    "repository_id": number,
                    "name": f"v{place}",
                    "manifest_id": numbers[f"sha256:{place:064x}"],
                    "created_at": place,
                    "pushed_at": place,
                    "pushed_by": "alice",
                }
                for place in range(count)
            ],
        )


async def _queries(rig: Rig, search: TagSearch) -> list[str]:
    """The statements that a page costs."""
    seen: list[str] = []
    connection = rig.parts.database._reader._quick  # type: ignore[union-attr]
    connection.set_trace_callback(seen.append)
    found, _ = await rig.parts.images.tags(ALICE, APP, search)
    connection.set_trace_callback(None)
    assert len(found) == search.limit
    return seen


SHAPES = [
    TagSearch(limit=50),
    TagSearch(limit=50, order="created", descending=True),
    TagSearch(limit=50, order="pushed", descending=True, offset=40),
    TagSearch(limit=50, order="size", dated=True),
    TagSearch(limit=10, search="v1"),
]


async def test_other_requests_do_not_wait_for_all_names_or_their_number(local: Rig) -> None:
    """Neither is read on the event loop."""
    await _many(local, 100)
    reader = local.parts.database._reader
    if not isinstance(reader, SqliteReader):
        return
    seen: list[str] = []
    reader._quick.set_trace_callback(seen.append)
    assert len((await local.parts.images.tag_names(ALICE, [APP]))[APP]) == 101
    assert await local.parts.images.tag_counts(ALICE, [APP]) == {APP: 101}
    await local.parts.images.repositories(ALICE, ["acme/app"])
    reader._quick.set_trace_callback(None)
    assert seen
    assert not [statement for statement in seen if "FROM tags" in statement or "JOIN tags" in statement]


@pytest.mark.parametrize("search", SHAPES, ids=["name", "created", "pushed", "size", "search"])
async def test_a_page_costs_the_same_however_many_tags_there_are(tmp_path: Path, search: TagSearch) -> None:
    """As many statements for a page of 10,000 tags as for one of 100, and few."""
    counts = []
    for count in (100, 10_000):
        async with rig(tmp_path / str(count)) as local:
            await _many(local, count)
            counts.append(len(await _queries(local, search)))
    assert counts[0] == counts[1]
    assert counts[0] <= 4
