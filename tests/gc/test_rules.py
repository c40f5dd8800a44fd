"""What is garbage and what is not, and when it goes: with a real database and a real folder of blobs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import structlog
from sqlalchemy import literal_column, select, text, update

from gateway.core.database import Query
from gateway.core.garbage import _MANIFESTS, Node, _Limits, _sweep_manifests
from gateway.core.pushes import Pushes
from gateway.core.schema import blobs, manifests, repositories
from gateway.plugins import Digest, MissingContentError, RepositoryName
from tests.gc.conftest import EACH_ENGINE, Registry

if TYPE_CHECKING:
    from gateway.core.database import Database
    from tests.gc.conftest import Clock

NAME = "acme/app"
OTHER = "acme/other"
AT_ONCE = timedelta(0)
DAY = timedelta(hours=24)
ACTIVE = Query(select(repositories.c.active_at))


@dataclass(frozen=True)
class Case:
    """A repository: of each manifest its children and its subject, which have tags, and which stay."""

    children: dict[str, list[str]]
    subjects: dict[str, str]
    tagged: set[str]
    kept: set[str]
    images: set[str] = field(default_factory=set)

    async def build(self, registry: Registry) -> dict[str, Digest]:
        """Push it, each manifest after what it leads to; subjects come first."""
        made: dict[str, Digest] = {}

        async def make(name: str) -> None:
            if name in made:
                return
            below = self.children.get(name, [])
            subject = self.subjects.get(name)
            for other in (*below, *([subject] if subject else [])):
                await make(other)
            tags = [name] if name in self.tagged else []
            about = made[subject] if subject else None
            if below:
                made[name] = await registry.index(NAME, name, [made[child] for child in below], *tags, subject=about)
            else:
                made[name] = await registry.image(NAME, name, *tags, subject=about)

        for name in sorted({*self.images, *self.children, *self.subjects}):
            await make(name)
        return made


CASES = {
    "a tag keeps its image": Case({}, {}, {"a"}, {"a"}, {"a"}),
    "an image without a tag goes": Case({}, {}, {"a"}, {"a"}, {"a", "b"}),
    "a tagged index keeps its children": Case({"i": ["a", "b"]}, {}, {"i"}, {"i", "a", "b"}, {"c"}),
    "a nested index keeps its children": Case({"i": ["j"], "j": ["a"]}, {}, {"i"}, {"i", "j", "a"}),
    "an untagged index goes with its children": Case({"i": ["a", "b"]}, {}, set(), set()),
    "a child that another index keeps stays": Case({"i": ["a", "b"], "j": ["b"]}, {}, {"j"}, {"j", "b"}),
    "a tagged child stays without its index": Case({"i": ["a", "b"]}, {}, {"a"}, {"a"}),
    "a signature stays with its subject": Case({}, {"s": "a"}, {"a"}, {"a", "s"}),
    "a signature of a child stays with the index": Case({"i": ["a"]}, {"s": "a"}, {"i"}, {"i", "a", "s"}),
    "a signature of a signature stays": Case({}, {"s": "a", "t": "s"}, {"a"}, {"a", "s", "t"}),
    "a signature goes with its subject": Case({}, {"s": "a"}, set(), set()),
    "a tagged signature does not keep its subject": Case({}, {"s": "a"}, {"s"}, {"s"}),
    "an index that refers to a kept subject keeps its children": Case({"r": ["x"]}, {"r": "a"}, {"a"}, {"a", "r", "x"}),
    "an index about its own child goes": Case({"i": ["a"]}, {"i": "a"}, set(), set()),
    "an index about its own child stays with it": Case({"i": ["a", "b"]}, {"i": "a"}, {"a"}, {"a", "b", "i"}),
    "cosign's tags are tags": Case({}, {}, {"sha256-0.sig"}, {"sha256-0.sig"}, {"sha256-0.sig", "a"}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_which_manifests_go(registry: Registry, case: Case) -> None:
    """With `untagged` exactly those go that no tag leads to, and with them the blobs that were theirs alone."""
    made = await case.build(registry)
    registry.later(hours=1)
    report = await registry.collect(grace=AT_ONCE, untagged=True)
    kept = {made[name] for name in case.kept}
    assert await registry.manifests(NAME) == kept
    contents = [f"{part} of {name}".encode() for name in case.kept - case.children.keys() for part in _PARTS]
    assert registry.files() == await registry.links(NAME) == {Digest.of(content) for content in contents}
    assert report.manifests.removed == len(made) - len(kept)
    assert (report.manifests.waiting, report.links.waiting, report.blobs.waiting) == (0, 0, 0)


_PARTS = ("config", "layer")


@pytest.mark.parametrize("case", [CASES["an untagged index goes with its children"]], ids=["untagged index"])
async def test_untagged_manifests_stay_unless_asked_for(registry: Registry, case: Case) -> None:
    """By default no manifest goes, nor what it refers to."""
    made = await case.build(registry)
    registry.later(days=30)
    report = await registry.collect(grace=AT_ONCE)
    assert await registry.manifests(NAME) == set(made.values())
    assert (report.links.removed, report.blobs.removed) == (0, 0)


# -- links and bytes ---------------------------------------------------------------------------------------


async def test_a_blob_without_a_manifest_goes(registry: Registry) -> None:
    """What was uploaded and never referred to is unlinked, and its file removed."""
    await registry.image(NAME, "kept", "1")
    kept = registry.files()
    await registry.blob(NAME, b"nobody wants me")
    registry.later(hours=1)
    report = await registry.collect(grace=AT_ONCE)
    assert registry.files() == await registry.links(NAME) == kept
    assert (report.links.removed, report.blobs.removed, report.blobs.removed_bytes) == (1, 1, 15)


async def test_bytes_stay_for_whoever_links_them(registry: Registry) -> None:
    """One repository's link goes, the other's stays, and so does the file."""
    await registry.image(NAME, "same", "1")
    await registry.image(OTHER, "same")
    registry.later(hours=1)
    await registry.collect(grace=AT_ONCE, untagged=True)
    assert await registry.links(OTHER) == set()
    assert registry.files() == await registry.links(NAME) == {Digest.of(b"config of same"), Digest.of(b"layer of same")}


async def test_layers_of_a_cache_are_referred_to(registry: Registry) -> None:
    """BuildKit's cache is an index whose `manifests` are layers: they are referred to like any."""
    layer = await registry.blob(NAME, b"a cached layer")
    await registry.index(NAME, "cache", [layer], "cache")
    registry.later(days=30)
    await registry.collect(grace=AT_ONCE, untagged=True)
    assert await registry.links(NAME) == registry.files() == {layer}


async def test_bytes_that_were_never_linked_go(registry: Registry) -> None:
    """What a killed gateway put into place and did not come to link is removed, and nothing else in the folder."""
    digest = await registry.blob(NAME, b"not for long")
    await registry.metadata.unlink(RepositoryName(NAME), digest)
    stray = registry.file(digest).with_name("README")
    stray.write_text("no blob")
    registry.later(hours=1)
    report = await registry.collect(grace=AT_ONCE)
    assert not registry.file(digest).exists()
    assert stray.exists()
    assert report.failed == []


async def test_other_backends_repositories_are_left_alone(registry: Registry) -> None:
    """Links of repositories of another backend are not this one's garbage, and keep its files all the same."""
    await registry.blob("elsewhere/app", b"not ours")
    await registry.blob("ours/app", b"ours")
    registry.later(hours=1)
    await registry.collect(grace=AT_ONCE, owned="ours/")
    assert registry.files() == await registry.links("elsewhere/app") == {Digest.of(b"not ours")}


# -- when --------------------------------------------------------------------------------------------------


@EACH_ENGINE
async def test_garbage_waits_for_its_grace(registry: Registry) -> None:
    """It goes a day after it was first seen to be garbage, however old it is itself."""
    await registry.image(NAME, "old", "1")
    registry.later(days=100)
    await registry.delete(NAME, "1")
    first = await registry.collect(untagged=True)
    assert (first.manifests.removed, first.manifests.waiting) == (0, 1)
    registry.later(hours=23)
    assert (await registry.collect(untagged=True)).manifests.removed == 0
    registry.later(hours=2)
    second = await registry.collect(untagged=True)
    assert (second.manifests.removed, second.links.waiting, second.blobs.waiting) == (1, 2, 2)
    registry.later(hours=25)
    third = await registry.collect(untagged=True)
    assert (third.links.removed, third.blobs.removed) == (2, 2)
    assert registry.files() == set()


async def test_bytes_wait_for_their_grace(registry: Registry) -> None:
    """A blob that was deleted through the API goes a day later."""
    digest = await registry.blob(NAME, b"deleted")
    registry.later(days=100)
    await registry.metadata.unlink(RepositoryName(NAME), digest)
    assert (await registry.collect()).blobs.waiting == 1
    registry.later(hours=25)
    report = await registry.collect()
    assert (report.blobs.removed, report.blobs.waiting) == (1, 0)


@EACH_ENGINE
@pytest.mark.parametrize("again", ["put", "tag", "child", "subject"])
async def test_what_is_referred_to_again_begins_anew(registry: Registry, again: str) -> None:
    """A manifest that is tagged or put again, or becomes a child, is garbage no longer; later its grace begins anew."""
    image = await registry.image(NAME, "a")
    kept = await registry.image(NAME, "kept", "kept")
    await registry.collect(untagged=True)
    registry.later(hours=23)
    if again == "put":
        await registry.image(NAME, "a")
    elif again == "tag":
        await registry.image(NAME, "a", "1")
        await registry.delete(NAME, "1")
    elif again == "child":
        await registry.delete(NAME, await registry.index(NAME, "i", [image], "i"))
    else:
        await registry.index(NAME, "i", [image], "i")
        await registry.collect(untagged=True)
        await registry.delete(NAME, "i")
    registry.later(hours=2)
    await registry.collect(untagged=True)
    assert {image, kept} <= await registry.manifests(NAME)
    registry.later(hours=25)
    await registry.collect(untagged=True)
    assert await registry.manifests(NAME) == {kept}


async def test_a_link_that_is_referred_to_again_begins_anew(registry: Registry) -> None:
    """A manifest that is put takes the marks off its blobs in its own transaction."""
    contents = (b"config", b"layer")
    for content in contents:
        await registry.blob(NAME, content)
    registry.later(hours=1)
    assert (await registry.collect()).links.waiting == 2
    registry.later(hours=23)
    await registry.delete(NAME, await registry.manifest(NAME, "a", contents))
    registry.later(hours=2)
    report = await registry.collect()
    assert (report.links.removed, report.links.waiting) == (0, 2)


@pytest.mark.parametrize("seconds", [0, 599])
async def test_nothing_young_goes_whatever_the_grace(registry: Registry, seconds: int) -> None:
    """What was pushed within the quiet time stays, for its index or manifest may be on its way."""
    await registry.image(NAME, "child")
    await registry.blob(NAME, b"layer")
    registry.later(seconds=seconds)
    report = await registry.collect(grace=AT_ONCE, untagged=True)
    assert (report.manifests.removed, report.links.removed, report.blobs.removed) == (0, 0, 0)
    registry.later(seconds=601 - seconds)
    report = await registry.collect(grace=AT_ONCE, untagged=True)
    assert (report.manifests.removed, report.links.removed, report.blobs.removed) == (1, 3, 3)


@EACH_ENGINE
async def test_a_repository_that_is_pushed_to_is_left_alone(
    registry: Registry, database: Database, clock: Clock
) -> None:
    """Old garbage stays while somebody pushes: they may have heard that it is there, and rely on it."""
    old = await registry.image(NAME, "old")
    registry.later(days=1)
    await Pushes(database, 600, clock).note(RepositoryName(NAME))
    registry.later(minutes=9)
    report = await registry.collect(grace=AT_ONCE, untagged=True)
    assert (report.manifests.waiting, await registry.manifests(NAME)) == (1, {old})
    registry.later(minutes=2)
    await registry.collect(grace=AT_ONCE, untagged=True)
    assert (await registry.manifests(NAME), registry.files()) == (set(), set())


async def test_a_request_that_takes_long_is_noted_again(registry: Registry, database: Database, clock: Clock) -> None:
    """While a request goes on its repository is noted as pushed to, however long that takes."""
    await registry.blob(NAME, b"heard of")
    pushes = Pushes(database, 1.0, clock)
    renewing = asyncio.create_task(pushes.run())
    async with pushes.going_on(RepositoryName(NAME)):
        registry.later(days=1)
        async with asyncio.timeout(20):
            while (await database.rows(ACTIVE))[0][0] < clock.now * 1000:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        assert (await registry.collect(grace=AT_ONCE)).links.waiting == 1
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)


async def test_a_blob_that_was_pushed_again_stays(registry: Registry) -> None:
    """Its file is as young as its last push, its mark is gone with the link."""
    digest = await registry.blob(NAME, b"again")
    await registry.metadata.unlink(RepositoryName(NAME), digest)
    registry.later(hours=1)
    await registry.collect()
    registry.later(hours=25)
    await registry.blob(NAME, b"again")
    report = await registry.collect()
    assert (report.blobs.removed, report.links.waiting) == (0, 1)
    assert registry.files() == {digest}


# -- in which order ----------------------------------------------------------------------------------------


class Stopped(Exception):  # noqa: N818 - what stops is no error
    """Somebody stops a collection between two of its transactions."""


@EACH_ENGINE
async def test_no_subject_ever_lacks_its_signature(registry: Registry) -> None:
    """Between two transactions of a run each subject that is still there has what refers to it."""
    await registry.blob(NAME, b"config")
    pairs = {}
    for number in range(80):
        subject = await registry.manifest(NAME, str(number), (b"config",))
        pairs[subject] = await registry.manifest(NAME, f"about {number}", (b"config",), subject=subject)
    for number, subject in enumerate(pairs):
        # Their rows come after those of the signatures.
        await registry.delete(NAME, subject)
        await registry.manifest(NAME, str(number), (b"config",))
    registry.later(hours=1)
    left = []

    async def permit() -> None:
        there = await registry.manifests(NAME)
        left.append(len(there))
        assert [subject for subject, signature in pairs.items() if subject in there and signature not in there] == []

    assert (await registry.collect(permit=permit, grace=AT_ONCE, untagged=True)).manifests.removed == 160
    assert left[:2] == [160, 60]


@EACH_ENGINE
async def test_a_signature_waits_for_its_subject(registry: Registry, database: Database) -> None:
    """Whatever was decided before, a transaction that doesn't remove the subject leaves what refers to it."""
    subject = await registry.image(NAME, "subject")
    signature = await registry.image(NAME, "signature", subject=subject)
    nodes = {row[1]: Node(*row) for row in await database.rows(_MANIFESTS, key=1)}
    for part, left in (([signature], {subject, signature}), ([subject, signature], set())):
        async with database.write() as writer:
            await writer.run(update(manifests).values(unreferenced_at=0))
            await _sweep_manifests(1, _Limits(2**60, 2**60, 2**60, 2**60), [nodes[digest] for digest in part], writer)
        assert await registry.manifests(NAME) == left


async def test_a_large_circle_goes_at_once(registry: Registry) -> None:
    """Manifests that lead to one another, however many somebody made, go in one transaction: none can go first."""
    subject = name = await registry.image(NAME, "first")
    for number in range(249):
        name = await registry.index(NAME, str(number), [name])
    await registry.index(NAME, "closing", [name], subject=subject)
    registry.later(hours=1)
    left = []

    async def permit() -> None:
        left.append(len(await registry.manifests(NAME)))

    assert (await registry.collect(permit=permit, grace=AT_ONCE, untagged=True)).manifests.removed == 251
    assert left[:2] == [251, 0]


async def test_what_is_gone_is_logged_at_once(registry: Registry) -> None:
    """A run that ends early has logged each manifest that it removed."""
    await registry.blob(NAME, b"config")
    for number in range(150):
        await registry.manifest(NAME, str(number), (b"config",))
    registry.later(hours=1)
    began = []

    async def permit() -> None:
        began.append(True)
        if len(began) > 1:
            raise Stopped

    before = await registry.manifests(NAME)
    with structlog.testing.capture_logs() as lines, pytest.raises(Stopped):
        await registry.collect(permit=permit, grace=AT_ONCE, untagged=True)
    gone = before - await registry.manifests(NAME)
    assert len(gone) == 100
    assert {(line["event"], line["digest"], line["repository"]) for line in lines} == {
        ("deleted", digest, NAME) for digest in gone
    }


# -- beside pushes -----------------------------------------------------------------------------------------


@EACH_ENGINE
async def test_who_pushes_after_the_order_is_noted(registry: Registry, database: Database, clock: Clock) -> None:
    """Of a repository whose deletion was ordered each request of a push is noted, however short ago the last was."""
    await registry.blob(NAME, b"heard of")
    pushes = Pushes(database, 600, clock)
    await pushes.note(RepositoryName(NAME))
    clock.now += 1
    ordered = int(clock.now * 1000)
    clock.now += 0.0001
    await pushes.note(RepositoryName(NAME))
    assert (await database.rows(ACTIVE))[0][0] < ordered
    for status in ("delete_scheduled", "delete_ongoing"):
        async with database.write() as writer:
            await writer.run(update(repositories).values(status=status, active_at=0))
        await pushes.note(RepositoryName(NAME))
        assert (await database.rows(ACTIVE))[0][0] > ordered


@EACH_ENGINE
async def test_a_blob_that_is_needed_stays_linked(registry: Registry, database: Database) -> None:
    """Whoever deletes a blob while a manifest that refers to it is put: one of the two is refused."""
    pushes, name = Pushes(database, None), RepositoryName(NAME)
    for number in range(20):
        content = f"layer {number}".encode()
        digest = await registry.blob(NAME, content)
        both = [pushes.unlink(name, digest), registry.manifest(NAME, str(number), (content,))]
        turn = 1 if number % 2 else -1
        unlinked, put = (await asyncio.gather(*both[::turn], return_exceptions=True))[::turn]
        assert unlinked is isinstance(put, MissingContentError)
        assert (await registry.metadata.linked(name, digest) is None) is unlinked


@pytest.mark.parametrize("database_config", ["postgresql"], indirect=True)
async def test_marks_and_pushes_never_wait_for_each_other(
    registry: Registry, database: Database, other_database: Database
) -> None:
    """A push that takes marks off in another order than a run makes them goes on, and so does the run."""
    # In whatever order they are looked for, the first comes before the last.
    contents = sorted((str(number).encode() for number in range(5)), key=Digest.of)
    first, *_, last = [await registry.blob(NAME, content) for content in contents]
    waiting = Query(select(literal_column("1")).select_from(text("pg_locks")).where(text("NOT granted")))
    held = select(repositories.c.id).where(repositories.c.path == NAME).with_for_update(read=True, key_share=True)
    async with other_database.write() as writer:
        await writer.rows(held)
        await writer.run(update(blobs).where(blobs.c.digest == last).values(unreferenced_at=None))
        collecting = asyncio.create_task(registry.collect())
        async with asyncio.timeout(20):
            while not await database.rows(waiting):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        await writer.run(update(blobs).where(blobs.c.digest == first).values(unreferenced_at=None))
    assert (await collecting).links.waiting == 5


# -- reports -----------------------------------------------------------------------------------------------


@EACH_ENGINE
async def test_a_dry_run_says_what_a_run_does(registry: Registry) -> None:
    """Its numbers are those of the run that follows, and it changes nothing: no row, no mark, no file."""
    await Case({"i": ["a", "b"], "j": ["b"]}, {"s": "a"}, {"j"}, set()).build(registry)
    await registry.blob(NAME, b"loose")
    await registry.image(OTHER, "b", "1")
    await registry.image(OTHER, "a", "1")
    loose = await registry.blob(OTHER, b"never linked")
    await registry.metadata.unlink(RepositoryName(OTHER), loose)
    registry.later(hours=1)
    before = (await registry.manifests(NAME), await registry.links(NAME), registry.files())
    for grace in (DAY, AT_ONCE):
        dry = await registry.collect(dry_run=True, grace=grace, untagged=True)
        assert (await registry.manifests(NAME), await registry.links(NAME), registry.files()) == before
    registry.later(hours=25)
    assert (await registry.collect(dry_run=True, untagged=True)).manifests.removed == 0
    wet = await registry.collect(grace=AT_ONCE, untagged=True)
    assert (wet.manifests, wet.links, wet.blobs) == (dry.manifests, dry.links, dry.blobs)
    assert wet.blobs.removed > 0


async def test_waiting_bytes_are_those_that_will_be_free(registry: Registry) -> None:
    """A blob whose last links wait is counted once, one that somebody still needs is not."""
    await registry.blob(NAME, b"waits, in two repositories")
    await registry.blob(OTHER, b"waits, in two repositories")
    await registry.blob(NAME, b"layer of needed")
    await registry.image(OTHER, "needed", "1")
    report = await registry.collect()
    assert (report.links.waiting, report.blobs.waiting, report.blobs.waiting_bytes) == (3, 1, 26)


# -- at the same time --------------------------------------------------------------------------------------


@EACH_ENGINE
async def test_a_manifest_that_is_put_meanwhile(registry: Registry, other_database: Database, clock: Clock) -> None:
    """Whoever comes first, a manifest is refused or has all of its blobs, and never less."""
    pusher = Registry(other_database, registry.root, clock)
    refused = 0
    for number in range(24):
        contents = [f"{part} {number}".encode() for part in range(6)]
        for content in contents:
            await registry.blob(NAME, content)
        registry.later(hours=1)
        collecting = asyncio.create_task(registry.collect(grace=AT_ONCE))
        for _ in range(number % 8):
            await asyncio.sleep(0.001)
        try:
            await pusher.manifest(NAME, f"image {number}", contents, "latest")
        except MissingContentError:
            refused += 1
            await collecting
        else:
            await collecting
            assert {Digest.of(content) for content in contents} <= await registry.links(NAME) & registry.files()
    pusher.store.close()
    assert await registry.links(NAME) <= registry.files()
    assert refused < 24


@EACH_ENGINE
async def test_an_index_that_is_put_meanwhile(registry: Registry, other_database: Database, clock: Clock) -> None:
    """Whoever comes first, an index is refused or has all of its children."""
    pusher = Registry(other_database, registry.root, clock)
    for number in range(14):
        children = [await registry.image(NAME, f"{number} {part}") for part in range(2)]
        registry.later(hours=1)
        collecting = asyncio.create_task(registry.collect(grace=AT_ONCE, untagged=True))
        for _ in range(number % 6):
            await asyncio.sleep(0.001)
        try:
            await pusher.index(NAME, f"index {number}", children, "latest")
        except MissingContentError:
            await collecting
        else:
            await collecting
            assert set(children) <= await registry.manifests(NAME)
    pusher.store.close()


@EACH_ENGINE
async def test_two_at_once_do_no_harm(registry: Registry, other_database: Database, clock: Clock) -> None:
    """Should two ever run at once, both end, and what is left is what shall be."""
    other = Registry(other_database, registry.root, clock)
    await registry.image(NAME, "kept", "1")
    kept = registry.files()
    for number in range(30):
        await registry.image(NAME, f"garbage {number}")
    registry.later(hours=1)
    await asyncio.gather(registry.collect(grace=AT_ONCE, untagged=True), other.collect(grace=AT_ONCE, untagged=True))
    other.store.close()
    assert registry.files() == await registry.links(NAME) == kept
