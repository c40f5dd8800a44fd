"""Garbage of backends that only hold bytes: found, marked, and swept while pushes go on. Read ``Sweep.run`` first.

Three kinds, each of which makes the next: manifests that no tag leads to, where the operator wants those gone; links to
blobs that no manifest of their repository refers to; bytes that no repository links. What is found is marked with the
time; it goes once the mark is older than the grace and it still is garbage, as in GitLab, where things go 24 hours
after they became unreferenced.

What makes it safe beside pushes:

* Nothing is swept that was touched within the quiet time, nor anything of a repository that is being pushed to.
* A sweep is decided anew in the transaction that does it, under the repository's row lock; a manifest is put under the
  same lock, and takes the marks off all that it refers to.
* What leads to a manifest goes before it or in the same transaction: an index lacks no child, a subject no signature.
* A link goes before its bytes, and bytes go only while nobody can make a link to them (``Collectable``).

So whatever is killed when leaves garbage for the next run, and never a link without bytes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from sqlalchemy import BigInteger, Select, bindparam, delete, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from gateway.core import logs
from gateway.core.database import Database, Query, Rows, Writer
from gateway.core.metadata import among
from gateway.core.schema import blobs, manifests, orphans, references, repositories, tags
from gateway.oci import RepositoryName
from gateway.plugins import Collectable, GarbageRules, StoredBlob

T = TypeVar("T")

_PAGE: Final = 500
_AT_ONCE: Final = 100
"""Rows that one transaction sweeps: pushes wait for it, and it takes some milliseconds."""
_PROBLEMS: Final = 20

_key = bindparam("key", type_=BigInteger())
_in_repository = manifests.c.repository_id == _key

_REPOSITORIES: Final = Query(
    select(repositories.c.id, repositories.c.path)
    .where(repositories.c.id > bindparam("last", type_=BigInteger()))
    .order_by(repositories.c.id)
    .limit(_PAGE)
)
_NODE: Final = select(
    manifests.c.id,
    manifests.c.digest,
    manifests.c.subject,
    manifests.c.size,
    manifests.c.pushed_at,
    manifests.c.unreferenced_at,
    exists().where(tags.c.manifest_id == manifests.c.id),
)
_MANIFESTS: Final = Query(_NODE.where(_in_repository))
_CHILDREN: Final = Query(
    select(references.c.manifest_id, references.c.digest)
    .select_from(manifests.join(references))
    .where(_in_repository, references.c.kind == "manifest")
)
_MARKED_LINKS: Final = Query(
    select(blobs.c.digest).where(blobs.c.repository_id == _key, blobs.c.unreferenced_at.is_not(None))
)
_ORPHANS: Final = Query(
    select(orphans.c.digest, orphans.c.unreferenced_at).where(orphans.c.backend == bindparam("backend"))
)
_LINKED: Final = Query(select(blobs.c.digest).where(blobs.c.digest == bindparam("digest")).limit(1))


class Node(NamedTuple):
    """A manifest as an edge of the graph of what leads to what. Times are milliseconds since 1970."""

    id: int
    digest: str
    subject: str | None
    size: int
    pushed_at: int
    unreferenced_at: int | None
    tagged: bool


class Link(NamedTuple):
    """A repository's link to a blob."""

    digest: str
    size: int
    linked_at: int
    unreferenced_at: int | None


G = TypeVar("G", Node, Link)


@dataclass(slots=True)
class Tally:
    """Garbage of one kind: what is gone, or would be in a dry run, and what waits for its time."""

    removed: int = 0
    removed_bytes: int = 0
    waiting: int = 0
    waiting_bytes: int = 0

    def gone(self, *sizes: int) -> None:
        """Count what is removed."""
        self.removed += len(sizes)
        self.removed_bytes += sum(sizes)

    def waits(self, *sizes: int) -> None:
        """Count what waits."""
        self.waiting += len(sizes)
        self.waiting_bytes += sum(sizes)


@dataclass(slots=True)
class Report:
    """What a run did with the garbage of one backend. *failed* has a line for each problem.

    The bytes of links are those of the blobs that they lead to; only those of *blobs* lie on a disk.
    """

    backend: str
    dry_run: bool = False
    repositories: int = 0
    manifests: Tally = field(default_factory=Tally)
    links: Tally = field(default_factory=Tally)
    blobs: Tally = field(default_factory=Tally)
    failed: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return asdict(self)


Tell = Callable[[Report, str], None]
"""Told after each repository and some blobs, with what was looked at."""
Permit = Callable[[], Awaitable[None]]
"""Asked before anything is removed: raises where nothing may be."""


async def always() -> None:
    """A permit that is always given."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """The times of one decision, in milliseconds: marks up to *marked* are old enough, and what was *touched* by then.

    A repository may be swept that was not pushed to after *active*.
    """

    now: int
    marked: int
    touched: int
    active: int

    def stays(self, node: Node) -> bool:
        """Whether a manifest stays, and with it all that it leads to."""
        return node.tagged or not self.is_due(node.unreferenced_at, node.pushed_at)

    def is_due(self, unreferenced_at: int | None, touched_at: int) -> bool:
        """Whether garbage has waited long enough."""
        return unreferenced_at is not None and unreferenced_at <= self.marked and touched_at <= self.touched


@dataclass(slots=True)
class Sweep:
    """One run over the garbage of one backend; *owns* says which repositories are that backend's."""

    database: Database
    report: Report
    backend: Collectable
    rules: GarbageRules
    owns: Callable[[RepositoryName], Awaitable[bool]]
    tell: Tell
    log: Any
    clock: Callable[[], float] = time.time
    permit: Permit = always
    _waiting_links: Counter[str] = field(default_factory=Counter)
    _gone_links: Counter[str] = field(default_factory=Counter)
    """Of a dry run: links that are still there, and whose blobs would be orphans without them."""
    _orphaned: dict[str, int] = field(default_factory=dict)

    async def run(self) -> Report:
        """Look at every repository, then at every blob.

        Raises RegistryError where the database can't answer, and what *permit* raises: the next run goes on.
        """
        async for key, name in self._repositories():
            gone = await self._manifests(key, name) if self.rules.untagged else []
            await self._links(key, gone)
            self.report.repositories += 1
            self.tell(self.report, name)
        await self._blobs()
        return self.report

    async def _repositories(self) -> AsyncIterator[tuple[int, RepositoryName]]:
        last = 0
        while rows := await self.database.rows(_REPOSITORIES, last=last):
            for key, path in rows:
                if await self.owns(RepositoryName(path)):
                    yield key, RepositoryName(path)
            last = rows[-1][0]

    def _limits(self) -> _Limits:
        now = int(self.clock() * 1000)
        grace, quiet = (round(span.total_seconds() * 1000) for span in (self.rules.grace, self.rules.quiet))
        return _Limits(now, now - grace, now - max(grace, quiet), now - quiet)

    # -- manifests ----------------------------------------------------------------------------------------

    async def _manifests(self, key: int, name: RepositoryName) -> list[str]:
        """Mark and sweep the manifests that no tag leads to; give the digests of those that are gone."""
        limits = self._limits()
        recorded, children = [await self.database.survey(query, key=key) for query in (_MANIFESTS, _CHILDREN)]
        # A second of thinking about many thousand manifests holds up nobody.
        found = await asyncio.to_thread(_untagged, recorded, children, limits)
        await self._mark(key, manifests.c.id, found.fresh, found.stale, limits.now)
        gone: list[Node] = []
        for part in found.due:
            swept = await self._swept(key, limits, partial(_sweep_manifests, key, limits, part))
            gone += part if swept is None else swept
            for node in swept or ():
                self.log.info(
                    logs.DELETED,
                    repository=name,
                    what="manifest",
                    tags=[],
                    digest=node.digest,
                    how="garbage collection",
                )
        return await asyncio.to_thread(self._count_manifests, found.garbage, gone)

    def _count_manifests(self, garbage: Sequence[Node], gone: Sequence[Node]) -> list[str]:
        numbers = {node.id for node in gone}
        self.report.manifests.gone(*(node.size for node in gone))
        self.report.manifests.waits(*(node.size for node in garbage if node.id not in numbers))
        return [node.digest for node in gone]

    # -- links --------------------------------------------------------------------------------------------

    async def _links(self, key: int, gone: Sequence[str]) -> None:
        """Mark and sweep the links that no manifest of the repository refers to, but those that are *gone*."""
        limits = self._limits()
        unreferenced = Query(_unreferenced(self.database.dialect))
        # What is really gone may be there again by now.
        aside = gone if self.report.dry_run else ()
        rows = await self.database.survey(unreferenced, key=key, gone=json.dumps(aside))
        marked = await self.database.survey(_MARKED_LINKS, key=key)
        found = await asyncio.to_thread(_loose, rows, marked, limits)
        of_repository = blobs.c.repository_id == key
        await self._mark(key, blobs.c.digest, found.fresh, found.stale, limits.now, of_repository)
        swept: list[str] = []
        for part in found.due:
            told = await self._swept(key, limits, partial(self._sweep_links, key, limits, part))
            swept += [link.digest for link in part] if told is None else told
        await asyncio.to_thread(self._count_links, found.garbage, swept)

    def _count_links(self, garbage: Sequence[Link], swept: Iterable[str]) -> None:
        digests = set(swept)
        gone = [link for link in garbage if link.digest in digests]
        waiting = [link for link in garbage if link.digest not in digests]
        self.report.links.gone(*(link.size for link in gone))
        self.report.links.waits(*(link.size for link in waiting))
        self._waiting_links.update(link.digest for link in waiting)
        if self.report.dry_run:
            self._gone_links.update(link.digest for link in gone)
            self._orphaned |= {link.digest: link.unreferenced_at or 0 for link in gone}

    async def _sweep_links(self, key: int, limits: _Limits, part: Sequence[Link], writer: Writer) -> Sequence[str]:
        """Sweep those of *part* that are still garbage, and remember since when their bytes are."""
        doomed = delete(blobs).where(
            blobs.c.repository_id == key,
            blobs.c.digest.in_([link.digest for link in part]),
            blobs.c.unreferenced_at <= limits.marked,
            blobs.c.linked_at <= limits.touched,
            ~referred(key),
        )
        rows = await writer.rows(doomed.returning(blobs.c.digest, blobs.c.unreferenced_at))
        await self._remember(writer, dict(rows))
        return [row[0] for row in rows]

    # -- bytes --------------------------------------------------------------------------------------------

    async def _blobs(self) -> None:
        """Mark and remove the bytes that no repository links."""
        marks: dict[str, int] = dict(await self.database.survey(_ORPHANS, backend=self.report.backend))
        marks = {**self._orphaned, **marks}
        links = Query(_links_of(self.database.dialect))
        async for found in self.backend.stored():
            if not self.report.dry_run:
                await self.permit()
            limits = self._limits()
            asked = json.dumps([blob.digest for blob in found])
            linked: Counter[str] = Counter(dict(await self.database.rows(links, digests=asked)))
            fresh: dict[str, int] = {}
            removed: list[str] = []
            for blob in found:
                left = linked[blob.digest] - self._gone_links[blob.digest]
                if left > 0:
                    if left == self._waiting_links[blob.digest]:
                        self.report.blobs.waits(blob.size)
                    continue
                mark = marks.pop(blob.digest, None)
                if mark is None:
                    mark = fresh[blob.digest] = limits.now
                if limits.is_due(mark, int(blob.stored_at * 1000)) and await self._remove(blob, limits):
                    self.report.blobs.gone(blob.size)
                    removed.append(blob.digest)
                    fresh.pop(blob.digest, None)
                else:
                    self.report.blobs.waits(blob.size)
            await self._settle(fresh, removed)
            self.tell(self.report, found[-1].digest[:10])
        # Linked again, or removed by somebody else.
        await self._settle({}, list(marks))

    async def _remove(self, blob: StoredBlob, limits: _Limits) -> bool:
        if self.report.dry_run:
            return True

        async def is_linked() -> bool:
            return bool(await self.database.rows(_LINKED, digest=blob.digest))

        try:
            return await self.backend.remove_blob(blob.digest, limits.touched / 1000, is_linked)
        except OSError as error:
            if len(self.report.failed) < _PROBLEMS:
                self.report.failed.append(f"{self.report.backend}: {blob.digest} can't be removed: {error.strerror}")
            return False

    async def _settle(self, fresh: Mapping[str, int], over: Sequence[str]) -> None:
        """Remember since when bytes are garbage, and forget it of those that are none any more."""
        if self.report.dry_run or not (fresh or over):
            return
        async with self.database.write(durable=False) as writer:
            await self._remember(writer, fresh)
            for part in _parts(over):
                mine = orphans.c.backend == self.report.backend
                await writer.run(delete(orphans).where(mine, orphans.c.digest.in_(part)))

    async def _remember(self, writer: Writer, since: Mapping[str, int]) -> None:
        insert: Any = sqlite.insert if self.database.dialect == "sqlite" else postgresql.insert
        rows = [
            {"backend": self.report.backend, "digest": digest, "unreferenced_at": when}
            for digest, when in since.items()
        ]
        if rows:
            await writer.run(insert(orphans).on_conflict_do_nothing(), rows)

    # -- both kinds of rows -------------------------------------------------------------------------------

    async def _mark(
        self, key: int, column: Any, fresh: Sequence[Any], stale: Sequence[Any], now: int, *where: Any
    ) -> None:
        """Mark rows that are garbage now, and take the mark off those that are none any more.

        Not durable: a mark that is lost is made again, and its grace begins anew.
        """
        if self.report.dry_run:
            return
        table = column.table
        for part, value in (*((part, now) for part in _parts(fresh)), *((part, None) for part in _parts(stale))):
            unmarked = table.c.unreferenced_at.is_(None) if value else table.c.unreferenced_at.is_not(None)
            marked = update(table).where(column.in_(part), unmarked, *where).values(unreferenced_at=value)
            async with self.database.write(durable=False) as writer:
                # Pushes take marks off several rows too: in another order, each would wait for the other.
                await writer.rows(_active(key).with_for_update())
                await writer.run(marked)

    async def _swept(
        self, key: int, limits: _Limits, sweep: Callable[[Writer], Awaitable[Sequence[T]]]
    ) -> Sequence[T] | None:
        """What *sweep* swept in a transaction that no push to the repository comes between; None: this is a dry run.

        Nothing where somebody pushes to it. Durable: the bytes may be gone in a moment.
        """
        if self.report.dry_run:
            rows = await self.database.survey(Query(_active(key)))
            return None if rows and (rows[0][0] or 0) <= limits.active else ()
        await self.permit()
        async with self.database.write() as writer:
            rows = await writer.rows(_active(key).with_for_update())
            return await sweep(writer) if rows and (rows[0][0] or 0) <= limits.active else ()


@dataclass(frozen=True, slots=True)
class _Found(Generic[G]):
    """Garbage of one kind in one repository, marked: what has its mark only now, and in parts what is due.

    *stale* are those that bear a mark and are none.
    """

    garbage: Sequence[G]
    fresh: Sequence[Any]
    stale: Sequence[Any]
    due: Sequence[Sequence[G]]


def _untagged(rows: Rows, children: Rows, limits: _Limits) -> _Found[Node]:
    """The manifests that no tag leads to."""
    nodes = [Node(*row) for row in rows]
    graph = Graph(nodes, children)
    kept = graph.below(node for node in nodes if node.tagged)
    fresh = [node.id for node in nodes if node.id not in kept and node.unreferenced_at is None]
    stale = [node.id for node in nodes if node.id in kept and node.unreferenced_at is not None]
    garbage = [_marked(node, limits) for node in nodes if node.id not in kept]
    staying = graph.below(node for node in (*garbage, *(n for n in nodes if n.tagged)) if limits.stays(node))
    return _Found(garbage, fresh, stale, graph.in_parts([node for node in garbage if node.id not in staying]))


def _loose(rows: Rows, marked: Rows, limits: _Limits) -> _Found[Link]:
    """The links of *rows*, of which no manifest needs any; *marked* are all that bear a mark."""
    found = [Link(*row) for row in rows]
    fresh = [link.digest for link in found if link.unreferenced_at is None]
    loose = {link.digest for link in found}
    stale = [row[0] for row in marked if row[0] not in loose]
    garbage = [_marked(link, limits) for link in found]
    due = [link for link in garbage if limits.is_due(link.unreferenced_at, link.linked_at)]
    return _Found(garbage, fresh, stale, list(_parts(due)))


def _marked(item: G, limits: _Limits) -> G:
    return item._replace(unreferenced_at=limits.now) if item.unreferenced_at is None else item


def _active(key: int) -> Select[Any]:
    """When somebody last pushed to the repository."""
    return select(repositories.c.active_at).where(repositories.c.id == key)


_NOBODY: Final[frozenset[int]] = frozenset()


class Graph:
    """The manifests of one repository: an index leads to its children, a subject to its referrers.

    Children alone make no circle, for an index has their digests in its bytes; an index about its own child does.
    """

    def __init__(self, nodes: Iterable[Node], children: Iterable[Sequence[Any]]) -> None:
        self.nodes = {node.id: node for node in nodes}
        numbers = {node.digest: node.id for node in self.nodes.values()}
        # Only of those that lead to any: a hundred thousand empty sets hold up the collector of Python's own garbage.
        self._led: dict[int, set[int]] = {}
        for parent, digest in children:
            if digest in numbers and parent in self.nodes:
                self._led.setdefault(parent, set()).add(numbers[digest])
        for node in self.nodes.values():
            if node.subject in numbers:
                self._led.setdefault(numbers[node.subject], set()).add(node.id)

    def below(self, roots: Iterable[Node]) -> set[int]:
        """The numbers of *roots* and of all that they lead to."""
        waiting = [node.id for node in roots]
        found = set(waiting)
        while waiting:
            number = waiting.pop()
            fresh = self._led.get(number, _NOBODY) - found
            found |= fresh
            waiting += fresh
        return found

    def in_parts(self, some: Iterable[Node]) -> list[list[Node]]:
        """*some*, in parts to be swept one after the other: what leads to a manifest is in its part or an earlier one.

        A circle is never parted, so a part may be large where somebody made a large one.
        """
        parts: list[list[Node]] = []
        mine = {node.id for node in some}
        related = {number for above in mine & self._led.keys() for number in (above, *self._led[above])} & mine
        for circle in (*self._circles(related), *([number] for number in mine - related)):
            if not parts or len(parts[-1]) + len(circle) > _AT_ONCE:
                parts.append([])
            parts[-1] += [self.nodes[number] for number in circle]
        return parts

    def _circles(self, mine: set[int]) -> list[list[int]]:
        """*mine* in groups that lead to one another, nearly all of one manifest, each before those that it leads to.

        Strongly connected components (Tarjan 1972); without recursion, for chains may be long.
        """
        numbers: dict[int, int] = {}
        lowest: dict[int, int] = {}
        waiting: dict[int, None] = {}
        circles: list[list[int]] = []
        for root in mine:
            path = [] if root in numbers else [(root, self._led_from(root, mine))]
            while path:
                node, led = path[-1]
                if node not in numbers:
                    numbers[node] = lowest[node] = len(numbers)
                    waiting[node] = None
                for other in led:
                    if other not in numbers:
                        path.append((other, self._led_from(other, mine)))
                        break
                    if other in waiting:
                        lowest[node] = min(lowest[node], numbers[other])
                else:
                    path.pop()
                    if path:
                        above = path[-1][0]
                        lowest[above] = min(lowest[above], lowest[node])
                    if lowest[node] == numbers[node]:
                        circles.append([])
                        while node in waiting:
                            circles[-1].append(waiting.popitem()[0])
        circles.reverse()
        return circles

    def _led_from(self, number: int, mine: set[int]) -> Iterator[int]:
        return iter(self._led.get(number, _NOBODY) & mine)


async def _sweep_manifests(key: int, limits: _Limits, part: Sequence[Node], writer: Writer) -> Sequence[Node]:
    """Sweep those of *part* that still are garbage, and to which nothing leads that stays or has yet to go."""
    of_key = manifests.c.repository_id == key
    doomed = [node.id for node in part]
    nodes = await _nodes(writer, of_key, [manifests.c.id.in_(some) for some in _parts(doomed)])
    led = [node.digest for node in nodes.values()]
    children = [edge for some in _parts(led) for edge in await writer.rows(_leading_to(key, some))]
    subjects = [node.subject for node in nodes.values() if node.subject]
    above = [manifests.c.id.in_(some) for some in _parts([parent for parent, _ in children])]
    above += [manifests.c.digest.in_(some) for some in _parts(subjects)]
    nodes |= await _nodes(writer, of_key, above)
    going = {number for number in doomed if number in nodes}
    graph = Graph(nodes.values(), children)
    kept = graph.below(node for node in nodes.values() if node.id not in going or limits.stays(node))
    gone = [nodes[number] for number in sorted(going - kept)]
    for some in _parts(gone):
        await writer.run(delete(manifests).where(manifests.c.id.in_([node.id for node in some])))
    return gone


async def _nodes(writer: Writer, of_key: ColumnElement[bool], which: Iterable[ColumnElement[bool]]) -> dict[int, Node]:
    return {row[0]: Node(*row) for those in which for row in await writer.rows(_NODE.where(of_key, those))}


def _leading_to(key: int, digests: Sequence[str]) -> Select[Any]:
    """The indexes of the repository that have one of *digests* as a child, and which."""
    return (
        select(references.c.manifest_id, references.c.digest)
        .select_from(references.join(manifests))
        .where(manifests.c.repository_id == key, references.c.kind == "manifest", references.c.digest.in_(digests))
    )


def _unreferenced(dialect: str) -> Select[Any]:
    """The links of the repository ``key`` that none of its manifests refers to, those ``gone`` left aside."""
    referred = (
        select(references.c.digest)
        .select_from(manifests.join(references))
        .where(_in_repository, ~among(dialect, manifests.c.digest, "gone"))
    )
    # One look at all references of the repository; asked link by link, a layer that everybody uses costs everybody's.
    others = select(blobs.c.digest).where(blobs.c.repository_id == _key).except_(referred)
    return select(blobs.c.digest, blobs.c.size, blobs.c.linked_at, blobs.c.unreferenced_at).where(
        blobs.c.repository_id == _key, blobs.c.digest.in_(others)
    )


def referred(key: int) -> Any:
    """Whether a manifest of the repository refers to the blob of the link: of whatever kind it takes it to be."""
    own = exists().where(manifests.c.id == references.c.manifest_id, manifests.c.repository_id == key)
    return exists().where(references.c.digest == blobs.c.digest, own)


def _links_of(dialect: str) -> Select[Any]:
    """How many repositories link each of ``digests``, if any."""
    asked = among(dialect, blobs.c.digest, "digests")
    return select(blobs.c.digest, func.count()).where(asked).group_by(blobs.c.digest)


def _parts(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
