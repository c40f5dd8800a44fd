"""Another registry's manifests: what it says is right, and what passes through is recorded and remembered."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from gateway.config import DatabaseConfig
from gateway.core import logs
from gateway.core.database import Database, migrate
from gateway.core.index import Index, IndexedStore, Merged
from gateway.core.manifests import read
from gateway.core.metadata import MetadataStore
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Descriptor, Digest, MediaType, Reference, RepositoryName, Tag
from gateway.plugins import ANONYMOUS, Identity, Manifest, MissingContentError, TagPage, TagQuery, Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

NAME = RepositoryName("acme/app")
LATEST = Tag("latest")


def _manifest(seed: str, *, algorithm: str = "sha256", subject: Digest | None = None, layer: str = "layer") -> Manifest:
    """A legal image manifest that nobody else has."""
    of = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest.of(seed.encode()), "size": 1}
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_MANIFEST,
        "artifactType": "application/x.test",
        "config": of,
        "layers": [
            {
                "mediaType": f"application/vnd.oci.image.{layer}.v1.tar",
                "digest": Digest.of(f"layer {seed}".encode()),
                "size": 7,
            }
        ],
    }
    if subject is not None:
        document["subject"] = {"mediaType": MediaType.OCI_MANIFEST, "digest": subject, "size": 1}
    content = json.dumps(document).encode()
    _, details = read(content, MediaType.OCI_MANIFEST)
    return Manifest(Digest.of(content, algorithm), MediaType.OCI_MANIFEST, len(content), content, details)


class Elsewhere:
    """A registry in memory that counts what it is asked, can be stopped before it answers, and can be down."""

    exclusive = False
    tag_freshness = 0.0

    def __init__(self) -> None:
        self.under: dict[Reference, Manifest] = {}
        self.asked: Counter[str] = Counter()
        self.down = False
        self.missing: tuple[Digest, ...] = ()
        self.told: list[Descriptor] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self.reached = asyncio.Event()
        self.putting = self.deleting = asyncio.Event()
        self.putting.set()

    async def _ask(self, what: str) -> None:
        self.asked[what] += 1
        self.reached.set()
        if self.down:
            raise RegistryError(ErrorCode.UNAVAILABLE, status=502)

    def have(self, manifest: Manifest, *tags: Tag) -> None:
        """Somebody pushed *manifest* there, past the gateway."""
        self.under |= dict.fromkeys((manifest.digest, *tags), manifest)

    async def manifest(self, name: RepositoryName, reference: Reference, *, head: bool = False) -> Manifest | None:
        """What is under *reference*, as it was when the question came."""
        del name
        await self._ask("HEAD" if head else "GET")
        found = self.under.get(reference)
        await self.answering.wait()
        if found is None:
            return None
        return Manifest(found.digest, found.media_type, found.size, None if head else found.content)

    async def put_manifest(
        self, name: RepositoryName, references: Sequence[Reference], manifest: Manifest, by: Identity
    ) -> None:
        """Take it."""
        del name, by
        await self._ask("PUT")
        await self.putting.wait()
        assert manifest.digest.algorithm == "sha256"
        if self.missing:
            raise MissingContentError(self.missing)
        self.under |= dict.fromkeys((manifest.digest, *references), manifest)

    async def delete_manifest(self, name: RepositoryName, reference: Reference) -> bool:
        """Drop it."""
        del name
        await self._ask("DELETE")
        await self.deleting.wait()
        return self.under.pop(reference, None) is not None

    async def tags(self, name: RepositoryName, query: TagQuery) -> TagPage | None:
        """All of them, cut."""
        del name
        await self._ask("tags")
        found = sorted(item for item in self.under if isinstance(item, Tag) and item > query.last)
        cut = tuple(found[: query.limit])
        return TagPage(cut, more=len(cut) < len(found)) if self.under else None

    async def referrers(
        self, name: RepositoryName, subject: Digest, artifact_type: str | None, last: str, limit: int
    ) -> Sequence[Descriptor]:
        """What it tells of."""
        del name, subject, artifact_type, last, limit
        await self._ask("referrers")
        return self.told


class Gateway:
    """One worker in front of it."""

    def __init__(self, there: Elsewhere, metadata: MetadataStore) -> None:
        self.metadata = metadata
        self.index = Index(cast("Upstream", there), metadata, logs.get("test"))
        self.store = IndexedStore(self.index, "acme")

    async def push(self, manifest: Manifest, *references: Reference) -> None:
        """Push it through the gateway, as its handler does."""
        await self.metadata.record({NAME: "acme"})
        await self.store.put_manifest(NAME, references or (manifest.digest,), manifest, ANONYMOUS)

    async def pull(self, reference: Reference, *, head: bool = False) -> Digest | None:
        """Pull it, and give the digest; bytes come with it unless only the head was asked for."""
        found = await self.store.manifest(NAME, reference, head=head)
        assert found is None or head or found.content is not None
        return found.digest if found else None


@pytest.fixture
def there() -> Elsewhere:
    """An empty registry."""
    return Elsewhere()


@pytest.fixture
async def metadata(tmp_path: Path) -> AsyncIterator[MetadataStore]:
    """Empty tables."""
    config = DatabaseConfig(url=SecretStr(f"sqlite:///{tmp_path / 'gateway.db'}"))
    await migrate(config)
    database = Database(config)
    await database.open()
    yield MetadataStore(database)
    await database.close()


@pytest.fixture
async def gateway(there: Elsewhere, metadata: MetadataStore) -> AsyncIterator[Gateway]:
    """A worker that records."""
    worker = Gateway(there, metadata)
    async with worker.index.recording():
        yield worker


@pytest.fixture
def other(there: Elsewhere, metadata: MetadataStore) -> Gateway:
    """Another worker over the same upstream and tables."""
    return Gateway(there, metadata)


# -- reading -------------------------------------------------------------------------------------------


async def test_a_tag_is_asked_for_every_time(gateway: Gateway, there: Elsewhere) -> None:
    """A tag that somebody moves past the gateway is seen at its next use; the bytes are fetched once."""
    first, second = _manifest("1"), _manifest("2")
    there.have(first, LATEST)
    assert [await gateway.pull(LATEST) for _ in range(3)] == [first.digest] * 3
    there.have(second, LATEST)
    assert [await gateway.pull(LATEST) for _ in range(3)] == [second.digest] * 3
    assert there.asked["GET"] == 2


async def test_a_tag_may_be_believed_for_a_while(there: Elsewhere, metadata: MetadataStore) -> None:
    """Within `tag_freshness` nothing is asked, and afterwards it is."""
    there.tag_freshness = 10.0
    now = 0.0
    worker = Gateway(there, metadata)
    worker.index = Index(cast("Upstream", there), metadata, logs.get("test"), clock=lambda: now)
    worker.store = IndexedStore(worker.index, "acme")
    first, second = _manifest("1"), _manifest("2")
    there.have(first, LATEST)
    assert await worker.pull(LATEST) == first.digest
    there.have(second, LATEST)
    now = 9.0
    assert await worker.pull(LATEST) == first.digest
    assert there.asked.total() == 1
    now = 11.0
    assert await worker.pull(LATEST) == second.digest


async def test_many_at_once_cause_one_fetch(gateway: Gateway, there: Elsewhere) -> None:
    """A hundred who pull one manifest at the same time fetch its bytes once for each name."""
    wanted = _manifest("1")
    there.have(wanted, LATEST)
    found = await asyncio.gather(*(gateway.pull(reference) for reference in (LATEST, wanted.digest) for _ in range(50)))
    assert set(found) == {wanted.digest}
    assert there.asked["GET"] <= 2


async def test_an_answer_is_no_older_than_its_question(gateway: Gateway, there: Elsewhere) -> None:
    """Who asks after a tag was moved never hears what was asked before, though both wait at the same time."""
    first, second = _manifest("1"), _manifest("2")
    there.have(first, LATEST)
    there.answering.clear()
    before = asyncio.create_task(gateway.pull(LATEST))
    await there.reached.wait()
    there.have(second, LATEST)
    after = asyncio.create_task(gateway.pull(LATEST))
    await asyncio.sleep(0)
    there.answering.set()
    assert await before == first.digest
    assert await after == second.digest


async def test_what_is_not_there_is_not_served(gateway: Gateway, there: Elsewhere) -> None:
    """What was deleted past the gateway is gone, though its bytes are remembered."""
    gone = _manifest("1")
    there.have(gone, LATEST)
    assert await gateway.pull(LATEST) == await gateway.pull(gone.digest) == gone.digest
    there.under.clear()
    assert await gateway.pull(LATEST) is None
    assert await gateway.pull(gone.digest) is None


async def test_bytes_of_one_repository_are_not_another_s(gateway: Gateway, there: Elsewhere) -> None:
    """A manifest in memory is served only where the upstream says that the repository has it."""
    found = _manifest("1")
    there.have(found)
    assert await gateway.pull(found.digest) == found.digest
    there.under.clear()
    assert await gateway.store.manifest(RepositoryName("acme/other"), found.digest) is None


@pytest.mark.parametrize("head", [False, True])
async def test_a_dead_upstream_leaves_what_was_recorded(gateway: Gateway, there: Elsewhere, *, head: bool) -> None:
    """While it is down, what passed through before is served; what did not is its failure, never a 404."""
    known, pushed = _manifest("1"), _manifest("2")
    there.have(known, LATEST)
    await gateway.pull(LATEST)
    await gateway.push(pushed, Tag("pushed"))
    await gateway.index.recorded()
    there.down = True
    for reference, digest in (
        (LATEST, known.digest),
        (known.digest, known.digest),
        (Tag("pushed"), pushed.digest),
        (pushed.digest, pushed.digest),
    ):
        assert await gateway.pull(reference, head=head) == digest
    with pytest.raises(RegistryError) as caught:
        await gateway.pull(Tag("other"), head=head)
    assert caught.value.status == 502


# -- exclusive -----------------------------------------------------------------------------------------


async def test_exclusive_asks_once(gateway: Gateway, there: Elsewhere) -> None:
    """Where nobody else writes, a tag that was seen or pushed is never asked for again, by no worker."""
    there.exclusive = True
    known, pushed = _manifest("1"), _manifest("2")
    there.have(known, LATEST)
    await gateway.pull(LATEST)
    await gateway.push(pushed, Tag("pushed"))
    await gateway.index.recorded()
    there.asked.clear()
    assert await gateway.pull(LATEST) == await gateway.pull(known.digest) == known.digest
    assert await gateway.pull(Tag("pushed")) == pushed.digest
    assert there.asked.total() == 0


async def test_exclusive_hears_of_other_workers(gateway: Gateway, other: Gateway, there: Elsewhere) -> None:
    """A tag moved or deleted through one worker is moved or gone at once for the other."""
    there.exclusive = True
    first, second = _manifest("1"), _manifest("2")
    await gateway.push(first, LATEST)
    assert await other.pull(LATEST) == first.digest
    await other.push(second, LATEST)
    assert await gateway.pull(LATEST) == second.digest
    assert await other.store.delete_manifest(NAME, LATEST)
    assert await gateway.pull(LATEST) is None
    assert await gateway.store.delete_manifest(NAME, second.digest)
    assert await other.pull(second.digest) is None


@pytest.mark.parametrize("change", ["push", "delete"])
async def test_exclusive_never_records_what_is_old(
    gateway: Gateway, other: Gateway, there: Elsewhere, change: str
) -> None:
    """What was read before somebody changed it is not recorded behind the change."""
    there.exclusive = True
    first, second = _manifest("1"), _manifest("2")
    there.have(first, LATEST)
    there.answering.clear()
    reading = asyncio.create_task(gateway.pull(LATEST))
    await there.reached.wait()
    if change == "push":
        await other.push(second, LATEST)
    else:
        await other.metadata.record({NAME: "acme"})
        await other.metadata.forget(NAME, [LATEST])
        there.under.pop(LATEST)
    there.answering.set()
    assert await reading == first.digest
    await gateway.index.recorded()
    expected = second.digest if change == "push" else None
    assert await gateway.pull(LATEST) == await other.pull(LATEST) == expected


async def test_exclusive_forgets_before_it_pushes(gateway: Gateway, there: Elsewhere) -> None:
    """A push of which nobody knows how it ended leaves no record that may be wrong."""
    there.exclusive = True
    first, second = _manifest("1"), _manifest("2")
    await gateway.push(first, LATEST)
    there.down = True
    with pytest.raises(RegistryError):
        await gateway.push(second, LATEST)
    there.down = False
    there.have(second, LATEST)
    assert await gateway.pull(LATEST) == second.digest


# -- what the upstream lacks ------------------------------------------------------------------------------


async def test_sha512_is_stored_by_sha256(gateway: Gateway, other: Gateway) -> None:
    """A manifest pushed by sha512 is found by it and by sha256, and is gone when it is deleted by either."""
    for by_other_name in (False, True):
        pushed = _manifest(f"long {by_other_name}", algorithm="sha512")
        assert pushed.content is not None
        plain = Digest.of(pushed.content)
        await gateway.push(pushed, pushed.digest, LATEST)
        assert await other.pull(pushed.digest) == pushed.digest
        assert await other.pull(pushed.digest, head=True) == pushed.digest
        assert await other.pull(plain) == plain
        assert await other.pull(LATEST) in {plain, pushed.digest}
        assert await other.store.delete_manifest(NAME, plain if by_other_name else pushed.digest)
        assert await gateway.pull(pushed.digest) is None
        assert await gateway.pull(plain) is None


async def test_an_index_of_sha512_is_held(gateway: Gateway, there: Elsewhere) -> None:
    """An index may name manifests by digests that the upstream does not know them by."""
    child = _manifest("child", algorithm="sha512")
    await gateway.push(child)
    document = {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_INDEX,
        "manifests": [{"mediaType": MediaType.OCI_MANIFEST, "digest": child.digest, "size": child.size}],
    }
    content = json.dumps(document).encode()
    index = Manifest(Digest.of(content), MediaType.OCI_INDEX, len(content), content, read(content, None)[1])
    there.missing = (child.digest,)
    await gateway.push(index, LATEST)
    assert await gateway.pull(LATEST) == await gateway.pull(index.digest) == index.digest


async def test_sha512_that_the_upstream_lost_is_lost(gateway: Gateway, there: Elsewhere) -> None:
    """What was deleted past the gateway is gone under its other digest too."""
    pushed = _manifest("long", algorithm="sha512")
    await gateway.push(pushed)
    there.under.clear()
    assert await gateway.pull(pushed.digest) is None


async def test_referrers_are_ours_and_theirs(gateway: Gateway, there: Elsewhere) -> None:
    """A referrer that was pushed through us and one that the upstream tells of are both listed, each once."""
    subject = _manifest("subject")
    ours, theirs = _manifest("ours", subject=subject.digest), _manifest("theirs", subject=subject.digest)
    await gateway.push(ours)
    there.have(theirs)
    there.told = [
        Descriptor(item.media_type, item.digest, item.size, "application/x.test", None) for item in (ours, theirs)
    ]
    expected = sorted([ours.digest, theirs.digest])
    for _ in range(2):
        listed = await gateway.store.referrers(NAME, subject.digest, None, "", 10)
        assert [item.digest for item in listed] == expected
    await gateway.index.recorded()
    there.down = True
    listed = await gateway.store.referrers(NAME, subject.digest, None, "", 10)
    assert [item.digest for item in listed] == expected
    assert [item.digest for item in await gateway.store.referrers(NAME, subject.digest, None, "", 1)] == expected[:1]


async def test_a_legal_manifest_that_is_refused_is_held(gateway: Gateway, other: Gateway, there: Elsewhere) -> None:
    """A layer that nobody fetches may be missing, whatever the upstream thinks of it; another one may not."""
    foreign, before = _manifest("foreign", layer="layer.nondistributable"), _manifest("before")
    assert foreign.details is not None
    await gateway.push(before, LATEST)
    there.missing = (foreign.details.layers[0].digest,)
    await gateway.push(foreign, LATEST)
    assert await other.pull(LATEST) == await other.pull(foreign.digest) == foreign.digest
    assert await other.store.tags(NAME, TagQuery(10)) == TagPage((LATEST,))
    there.missing = ()
    await gateway.push(before, LATEST)
    assert await other.pull(LATEST) == before.digest
    assert await other.pull(foreign.digest) == foreign.digest
    assert await other.store.delete_manifest(NAME, foreign.digest)
    assert await gateway.pull(foreign.digest) is None


async def test_a_manifest_without_its_layers_is_refused(gateway: Gateway, there: Elsewhere) -> None:
    """What the upstream misses and clients would fetch is said to be missing, and nothing is recorded."""
    wrong = _manifest("1")
    assert wrong.details is not None
    there.missing = (wrong.details.layers[0].digest,)
    with pytest.raises(MissingContentError) as caught:
        await gateway.push(wrong, LATEST)
    assert caught.value.digests == there.missing
    assert await gateway.metadata.manifest(NAME, wrong.digest) is None


async def test_held_tags_stand_among_the_others(gateway: Gateway, there: Elsewhere) -> None:
    """A page of tags is sorted and bounded, wherever each of its tags is."""
    there.have(_manifest("1"), *(Tag(name) for name in "bdf"))
    held = _manifest("2", layer="layer.nondistributable")
    assert held.details is not None
    there.missing = (held.details.layers[0].digest,)
    await gateway.push(held, *(Tag(name) for name in "aceg"))
    pages, last = [], ""
    while True:
        page = await gateway.store.tags(NAME, TagQuery(2, last))
        assert page is not None
        pages.append("".join(page.tags))
        if not page.more:
            break
        last = page.tags[-1]
    assert "".join(pages) == "abcdefg"
    assert max(map(len, pages)) == 2


# -- recording --------------------------------------------------------------------------------------------


async def test_what_passes_through_is_recorded(gateway: Gateway, there: Elsewhere) -> None:
    """A pull records the manifest, its tag and what it refers to; the catalog lists the repository."""
    found = _manifest("1")
    assert found.details is not None
    there.have(found, LATEST)
    await gateway.pull(LATEST)
    await gateway.index.recorded()
    recorded = await gateway.metadata.manifest(NAME, LATEST)
    assert recorded is not None
    assert (recorded.digest, recorded.content) == (found.digest, found.content)
    assert await gateway.metadata.referred(NAME, found.details.layers[0].digest) == 7
    assert await gateway.metadata.repositories(frozenset({"acme"}), "", 10) == [NAME]


async def test_what_is_gone_is_unrecorded(gateway: Gateway, there: Elsewhere) -> None:
    """A tag that was seen and then is not there any more is no longer recorded."""
    there.have(_manifest("1"), LATEST)
    await gateway.pull(LATEST)
    await gateway.index.recorded()
    there.under.clear()
    await gateway.pull(LATEST)
    await gateway.index.recorded()
    assert await gateway.metadata.manifest(NAME, LATEST) is None


async def test_seeing_does_not_rewrite_a_push(gateway: Gateway, other: Gateway) -> None:
    """Who pushed a tag stays known when others pull it."""
    pushed = _manifest("1")
    await gateway.push(pushed, LATEST)
    rows = "SELECT pushed_at, pushed_by FROM tags"
    before = await _rows(gateway, rows)
    async with other.index.recording():
        await other.pull(LATEST)
    assert await _rows(gateway, rows) == before


async def _rows(gateway: Gateway, sql: str) -> list[Any]:
    async with gateway.metadata._database.write() as writer:
        return list(await writer.rows(text(sql)))


async def test_a_change_past_the_gateway_is_heard_of(gateway: Gateway, other: Gateway, there: Elsewhere) -> None:
    """Who is told of a change looks what is there now, though nobody else should write there."""
    there.exclusive = True
    first, second = _manifest("1"), _manifest("2")
    await gateway.push(first, LATEST)
    there.have(second, LATEST)
    assert await gateway.pull(LATEST) == first.digest
    await gateway.index.changed(NAME, {LATEST: second.digest})
    await gateway.index.recorded()
    assert await gateway.pull(LATEST) == await other.pull(LATEST) == second.digest
    there.under.pop(LATEST)
    await other.index.changed(NAME, {LATEST: None})
    assert await gateway.pull(LATEST) is None


@pytest.mark.parametrize("exclusive", [False, True])
async def test_a_change_is_told_of_before_it_is_done(gateway: Gateway, there: Elsewhere, *, exclusive: bool) -> None:
    """Distribution tells of a push before it moves the tag: what is seen until then is not what stays recorded."""
    there.exclusive = exclusive
    first, second = _manifest("1"), _manifest("2")
    await gateway.push(first, LATEST)
    there.have(second)
    there.reached.clear()
    await gateway.index.changed(NAME, {LATEST: second.digest})
    await there.reached.wait()
    # Somebody pulls the tag in between.
    assert await gateway.pull(LATEST) == first.digest
    there.have(second, LATEST)
    await gateway.index.recorded()
    recorded = await gateway.metadata.manifest(NAME, LATEST)
    assert recorded is not None
    assert recorded.digest == second.digest
    assert await gateway.pull(LATEST) == second.digest


async def test_a_change_that_nobody_can_look_at(gateway: Gateway, there: Elsewhere, monkeypatch: Any) -> None:
    """Where the registry can't be asked what was changed, the record is not believed any more."""
    monkeypatch.setattr("gateway.core.index._PAUSES", (0.01, 0.01))
    there.exclusive = True
    first, second = _manifest("1"), _manifest("2")
    await gateway.push(first, LATEST)
    there.have(second, LATEST)
    there.down = True
    await gateway.index.changed(NAME, {LATEST: second.digest})
    await gateway.index.recorded()
    assert there.asked["HEAD"] == 3
    there.down = False
    assert await gateway.pull(LATEST) == second.digest


async def test_what_is_pushed_here_is_not_looked_at(gateway: Gateway, there: Elsewhere) -> None:
    """The registry tells of our own push before it answers it, and after it is recorded: neither costs a question."""
    pushed = _manifest("1")
    said: dict[Reference, Digest | None] = {pushed.digest: pushed.digest, LATEST: pushed.digest}
    there.answering.clear()
    there.putting = there.answering
    pushing = asyncio.create_task(gateway.push(pushed, pushed.digest, LATEST))
    await there.reached.wait()
    await gateway.index.changed(NAME, said)
    there.answering.set()
    await pushing
    await gateway.index.changed(NAME, said)
    await gateway.index.recorded()
    assert there.asked == {"PUT": 1}
    assert gateway.index.pushing == {}


async def test_other_names_are_no_change(gateway: Gateway, other: Gateway, there: Elsewhere) -> None:
    """What the registry calls otherwise, or refused, is as it says: another worker that is told looks at nothing."""
    there.exclusive = True
    long = _manifest("long", algorithm="sha512")
    assert long.content is not None
    plain = Digest.of(long.content)
    await gateway.push(long, long.digest, Tag("long"))
    held = _manifest("held", layer="layer.nondistributable")
    assert held.details is not None
    there.missing = (held.details.layers[0].digest,)
    await gateway.push(held, held.digest, Tag("held"))
    there.asked.clear()
    await other.index.changed(NAME, {plain: plain, Tag("long"): plain, Tag("held"): None, held.digest: None})
    async with other.index.recording():
        await other.index.recorded()
    assert there.asked.total() == 0
    assert await gateway.pull(long.digest) == long.digest
    assert await gateway.pull(Tag("held")) == held.digest


async def test_a_full_queue_slows_nobody(there: Elsewhere, metadata: MetadataStore, monkeypatch: Any) -> None:
    """What finds no room in the queue is left out at once, and is recorded when it is seen again."""
    monkeypatch.setattr("gateway.core.index._WAITING", 2)
    worker = Gateway(there, metadata)
    tags = [Tag(f"t{number}") for number in range(5)]
    there.have(_manifest("1"), *tags)
    for tag in tags:
        await worker.pull(tag)
    async with worker.index.recording():
        await worker.index.recorded()
        assert await metadata.tags(NAME, TagQuery()) == TagPage(tuple(tags[:2]))
        for tag in tags:
            await worker.pull(tag)
            await worker.index.recorded()
    assert await metadata.tags(NAME, TagQuery()) == TagPage(tuple(tags))


async def test_what_waits_is_bounded_in_bytes(there: Elsewhere, metadata: MetadataStore, monkeypatch: Any) -> None:
    """However large manifests are, those that wait to be recorded take no more memory than is allowed."""
    large = _manifest("1")
    monkeypatch.setattr("gateway.core.index._BYTES", large.size * 3)
    worker = Gateway(there, metadata)
    tags = [Tag(f"t{number}") for number in range(5)]
    there.have(large, *tags)
    for tag in tags:
        await worker.pull(tag)
    async with worker.index.recording():
        await worker.index.recorded()
    assert await metadata.tags(NAME, TagQuery()) == TagPage(tuple(tags[:3]))


async def test_what_was_not_recorded_is_recorded_later(gateway: Gateway, other: Gateway, there: Elsewhere) -> None:
    """What somebody changed while it was read is not recorded then, and is when it is seen again."""
    there.exclusive = True
    seen = _manifest("seen")
    there.have(seen, LATEST)
    await other.metadata.record({NAME: "acme"})
    there.answering.clear()
    reading = asyncio.create_task(gateway.pull(LATEST))
    await there.reached.wait()
    await other.metadata.forget(NAME, [Tag("another")])
    there.answering.set()
    await reading
    await gateway.index.recorded()
    assert await gateway.metadata.manifest(NAME, LATEST) is None
    await gateway.pull(LATEST)
    await gateway.index.recorded()
    assert await gateway.metadata.manifest(NAME, LATEST) is not None


@pytest.mark.parametrize("reference", ["tag", "digest"])
async def test_what_is_seen_before_it_goes_is_gone(
    gateway: Gateway, other: Gateway, there: Elsewhere, reference: str
) -> None:
    """A pull beside a deletion leaves no record of what is deleted, though nobody else would look again."""
    there.exclusive = True
    pushed = _manifest("1")
    await gateway.push(pushed, pushed.digest, LATEST)
    wanted = LATEST if reference == "tag" else pushed.digest
    there.reached.clear()
    there.deleting = asyncio.Event()
    deleting = asyncio.create_task(other.store.delete_manifest(NAME, wanted))
    await there.reached.wait()
    assert await gateway.pull(wanted) == pushed.digest
    await gateway.index.recorded()
    there.deleting.set()
    assert await deleting
    assert await gateway.pull(wanted) is None


async def test_a_push_is_not_forgotten_for_what_was_missed(gateway: Gateway, other: Gateway, there: Elsewhere) -> None:
    """Who saw that a tag was gone drops no record of what was pushed under it meanwhile."""
    first, second = _manifest("1"), _manifest("2")
    there.have(first, LATEST)
    await gateway.pull(LATEST)
    await gateway.index.recorded()
    there.under.clear()
    there.reached.clear()
    there.answering.clear()
    reading = asyncio.create_task(gateway.pull(LATEST))
    await there.reached.wait()
    await other.push(second, LATEST)
    there.answering.set()
    assert await reading is None
    await gateway.index.recorded()
    recorded = await gateway.metadata.manifest(NAME, LATEST)
    assert recorded is not None
    assert recorded.digest == second.digest


async def test_a_registry_that_knows_sha512_is_asked(gateway: Gateway, there: Elsewhere) -> None:
    """What a registry itself calls by sha512 is found by that digest once it was seen."""
    long = _manifest("long", algorithm="sha512")
    there.have(long, LATEST)
    assert await gateway.pull(LATEST) == long.digest
    await gateway.index.recorded()
    assert await gateway.pull(long.digest) == long.digest
    there.under.clear()
    assert await gateway.pull(long.digest) is None


# -- merging ----------------------------------------------------------------------------------------------


async def test_merged_questions_fail_together(there: Elsewhere) -> None:
    """A failure reaches everybody who waited for that question, and the next question is asked anew."""
    merged = Merged()
    failing = [True]

    async def question() -> int:
        there.asked["question"] += 1
        await there.answering.wait()
        if failing[0]:
            raise ConnectionError
        return 1

    there.answering.clear()
    first = asyncio.create_task(merged.ask("key", question))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(merged.ask("key", question)) for _ in range(10)]
    await asyncio.sleep(0)
    there.answering.set()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError] * 11
    assert there.asked["question"] == 2
    failing[0] = False
    assert await merged.ask("key", question) == 1


async def test_who_leaves_disturbs_nobody(there: Elsewhere) -> None:
    """One of several who wait may be cancelled; the others get their answer."""
    merged = Merged()

    async def question() -> int:
        await there.answering.wait()
        return 1

    there.answering.clear()
    waiting = [asyncio.create_task(merged.ask("key", question)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    there.answering.set()
    assert await waiting[2] == 1
