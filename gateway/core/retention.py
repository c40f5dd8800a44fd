"""Which tags of a repository go: GitLab's algorithm (semantics 7.2), over the whole repository at once.

Pure. Beside GitLab's it knows what belongs together: a tag such as ``sha256-….sig`` is no candidate of its own. It
stays as long as its subject, and goes with the last tag that leads there; so it takes no place among the newest either.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from gateway.oci import Digest, RepositoryName
from gateway.plugins import CleanupRules, Plan, PlannedTag
from gateway.plugins.plans import Rule, name_pattern

COMPANIONS: Final = ("", ".sig", ".att", ".sbom")
"""What follows ``sha256-<hash>`` in the tags that clients give to what belongs to a digest: the specification's
referrers tag schema, and cosign's."""
_SHORT: Final = 19
"""Characters of a digest in a sentence."""
_WORK: Final = 0.0005
_REST: Final = 0.0001
"""Seconds of thinking, and of rest after it: it happens in a thread, beside pulls that need the interpreter too."""
_MOST_HELD: Final = 1_000_000
"""Blobs that are remembered below manifests to which several lead; below others they are looked for again."""

T = TypeVar("T")


def paced(items: Iterable[T]) -> Iterator[T]:
    """*items*, with a rest now and then. For threads."""
    since = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - since > _WORK:
            time.sleep(_REST)
            since = time.perf_counter()


class Tagged(NamedTuple):
    """A tag, the manifest that it points at, and what is known of that image."""

    name: str
    digest: str
    created_at: datetime | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What a repository has: *tags* by name, *manifests* with their subjects, and what each is made of.

    *children* has the manifests of an index, *blobs* the configs and layers of an image with their sizes in bytes.
    *interrupted* are manifests that stand for tags whose deletion was begun. The digest of a tag is empty where its
    manifest is lost.
    """

    tags: Sequence[Tagged]
    manifests: Mapping[str, str | None]
    children: Mapping[str, Sequence[str]] = field(default_factory=dict)
    blobs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    interrupted: AbstractSet[str] = frozenset()

    def leads(self) -> Mapping[str, set[str]]:
        """What each manifest leads to, as garbage collection has it: an index to its children, a subject to referrers.

        Nothing leads back to itself: what names a digest is made after what has it.
        """
        found = {parent: set(children) for parent, children in self.children.items()}
        for digest, subject in paced(self.manifests.items()):
            if subject is not None:
                found.setdefault(subject, set()).add(digest)
        return found


class Decision(NamedTuple):
    """What decided about a tag, and how that reads."""

    rule: Rule
    why: str


Decisions = dict[str, Decision]
_INTERRUPTED: Final = Decision("interrupted", "its deletion was begun, and broke off")


def stem(digest: str) -> str:
    """How the tags begin that belong to *digest*, such as ``sha256-…``; at most 97 characters (specification)."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


def plan(
    name: RepositoryName,
    found: Contents,
    rules: CleanupRules,
    now: datetime,
    only: Mapping[str, str] | None = None,
) -> Plan:
    """Decide about every tag. With *only*, tags and their digests, nothing else is removed; companions are.

    Raises InvalidSettingError where a pattern of *rules* is none.
    """
    rules.check()
    belonging, leads = _belonging(found), found.leads()
    names = [tag.name for tag in found.tags if tag.name not in belonging]
    decided, chosen, cut = choose(names, rules, seed=f"{name} {now:%Y-%m-%d}")
    by_name = {tag.name: tag for tag in found.tags}
    begun = [by_name[tag] for tag in chosen if by_name[tag].digest in found.interrupted]
    going = _dated(
        [by_name[tag] for tag in chosen if by_name[tag].digest not in found.interrupted], rules, now, decided
    )
    if only is not None:
        going = _confirmed(going, only, decided)
        # The image that was confirmed is not under the tag any more.
        begun = _confirmed(begun, {tag.name: tag.digest for tag in begun if tag.name in only}, decided)
    decided |= {tag.name: _INTERRUPTED for tag in begun}
    said = _said(rules)
    decided |= {tag.name: Decision("matched", said) for tag in going}
    going += begun
    removed = {tag.name for tag in going}
    removed |= _companions_of(found, leads, going, belonging, decided)
    freed = _Freed(found, leads, removed)
    planned = tuple(
        PlannedTag(
            tag.name,
            Digest(tag.digest),
            tag.name in removed,
            *decided[tag.name],
            tag.created_at,
            tag.size,
            freed.by[tag.digest] if tag.name in removed else 0,
        )
        for tag in paced(found.tags)
    )
    return Plan(name, now, rules, planned, freed.total, cut)


# -- the steps, in their order ------------------------------------------------------------------------


def choose(names: Sequence[str], rules: CleanupRules, seed: str = "") -> tuple[Decisions, list[str], bool]:
    """Steps 3 to 6: what is decided by names alone, the names that are left, and whether some were not looked at.

    *names* are in the order in which they are listed.
    """
    decided: Decisions = {}
    wanted, kept = (name_pattern(text or "") for text in (rules.name_regex_delete, rules.name_regex_keep))
    unwanted = (
        f"its name does not fit `{rules.name_regex_delete}`" if rules.name_regex_delete else "no pattern removes names"
    )
    left = []
    for name in paced(names):
        if name == "latest":
            decided[name] = Decision("latest", "`latest` is never removed")
        elif not wanted(name):
            decided[name] = Decision("no_match", unwanted)
        elif kept(name):
            decided[name] = Decision("kept_by_pattern", f"its name fits `{rules.name_regex_keep}`, which is kept")
        else:
            left.append(name)
    most = rules.max_list_size + (rules.keep_n or 0)
    if not rules.max_list_size or len(left) <= most:
        return decided, left, False
    # The same sample all day, unless the repository changes: what is applied is the plan that was looked at.
    drawn = set(random.Random("\n".join((seed, *left))).sample(left, most))  # noqa: S311 - no secret
    why = f"not among the {most} tags that one run looks at"
    decided |= {name: Decision("not_listed", why) for name in left if name not in drawn}
    return decided, [name for name in left if name in drawn], True


def _dated(tags: Sequence[Tagged], rules: CleanupRules, now: datetime, decided: Decisions) -> list[Tagged]:
    """Steps 7 and 8: the newest stay, and what is not older. A tag without a date is as new as can be."""
    left = list(tags)
    if rules.keep_n is not None:
        # Of tags of one date the later-listed is the newer.
        left = sorted(left, key=lambda tag: tag.created_at or now)[::-1]
        newest = f"among the {rules.keep_n} newest" if rules.keep_n != 1 else "the newest"
        decided |= {tag.name: Decision("newest", newest) for tag in left[: rules.keep_n]}
        left = left[rules.keep_n :]
    if rules.older_than is not None:
        limit, span = now - rules.older_than, words(rules.older_than)
        for tag in left:
            if tag.created_at is None:
                decided[tag.name] = Decision("undated", f"it has no date, so it is not older than {span}")
            elif not tag.created_at < limit:
                decided[tag.name] = Decision("not_older", f"not older than {span}")
        left = [tag for tag in left if tag.created_at is not None and tag.created_at < limit]
    return left


def _confirmed(tags: Sequence[Tagged], only: Mapping[str, str], decided: Decisions) -> list[Tagged]:
    why = "not in the plan that was confirmed"
    decided |= {tag.name: Decision("not_confirmed", why) for tag in tags if only.get(tag.name) != tag.digest}
    return [tag for tag in tags if only.get(tag.name) == tag.digest]


def _said(rules: CleanupRules) -> str:
    """Why a tag goes that no step has dropped."""
    parts = [f"its name fits `{rules.name_regex_delete}`"]
    if rules.keep_n:
        parts.append(f"it is not among the {rules.keep_n} newest" if rules.keep_n != 1 else "it is not the newest")
    if rules.older_than is not None:
        parts.append(f"it is older than {words(rules.older_than)}")
    return ", ".join(parts)


def words(span: timedelta) -> str:
    """A duration such as ``90d``, ``1h`` or ``5s``."""
    seconds = int(span.total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


# -- what belongs together ----------------------------------------------------------------------------


def _belonging(found: Contents) -> dict[str, str]:
    """The tags that belong to a manifest of the repository, and to which; of one that is gone they are like others."""
    subjects = {stem(digest): digest for digest in found.manifests}
    belonging = {}
    for tag in paced(found.tags):
        begins, dot, ending = tag.name.partition(".")
        if begins in subjects and f"{dot}{ending}" in COMPANIONS:
            belonging[tag.name] = subjects[begins]
    return belonging


def _companions_of(
    found: Contents,
    leads: Mapping[str, set[str]],
    going: Sequence[Tagged],
    belonging: Mapping[str, str],
    decided: Decisions,
) -> set[str]:
    """The companions that go because no tag leads to their subject any more, and theirs; all are decided about."""
    tags = {tag.name: tag for tag in found.tags}
    companions: dict[str, list[Tagged]] = {}
    for name, subject in belonging.items():
        companions.setdefault(subject, []).append(tags[name])
    leading = _Leading(leads, (tag.digest for tag in found.tags))
    removed: set[str] = set()
    waiting = list(going)
    while waiting:
        for digest in leading.drop(waiting.pop().digest):
            for companion in companions.get(digest, ()):
                removed.add(companion.name)
                waiting.append(companion)
    for name, subject in belonging.items():
        fate = "goes" if name in removed else "stays"
        decided[name] = Decision("companion", f"it belongs to {subject[:_SHORT]}, which {fate}")
    return removed


class _Leading:
    """How many tags and manifests lead to each manifest that a tag leads to."""

    def __init__(self, leads: Mapping[str, set[str]], digests: Iterable[str]) -> None:
        self._leads = leads
        self._count = Counter[str]()
        for digest in paced(digests):
            waiting = [digest]
            while waiting:
                one = waiting.pop()
                self._count[one] += 1
                if self._count[one] == 1:
                    waiting += leads.get(one, ())

    def drop(self, digest: str) -> Iterator[str]:
        """One tag less points at *digest*: the manifests that nothing leads to any more."""
        waiting = [digest]
        while waiting:
            one = waiting.pop()
            self._count[one] -= 1
            if self._count[one] == 0:
                yield one
                waiting += self._leads.get(one, ())


# -- what becomes free --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sum:
    """The blobs below a manifest as far as they were found: those of what it leads to are *waiting*."""

    digest: str
    waiting: list[str]
    blobs: set[str]
    bytes: int


class _Freed:
    """The blobs that only tags lead to which are *removed*; *total* are their bytes.

    *by* has, for each manifest that such a tag points at, the bytes of those that it leads to.
    """

    def __init__(self, found: Contents, leads: Mapping[str, set[str]], removed: set[str]) -> None:
        self._blobs = found.blobs
        self._leads = leads
        self._kept = set(paced(_walk([tag.digest for tag in found.tags if tag.name not in removed], leads, set())))
        self._kept_blobs = {blob for digest in paced(self._kept) for blob in self._blobs.get(digest, ())}
        self.by = dict.fromkeys((tag.digest for tag in found.tags if tag.name in removed), 0)
        self._sizes: dict[str, int] = {}
        self._parents = Counter[str]()
        for digest in paced(_walk(self.by, leads, self._kept)):
            self._sizes |= self._own(digest)
            self._parents.update(self._below(digest))
        self.total = sum(self._sizes.values())
        self._begun: set[str] = set()
        self._held: dict[str, _Sum] = {}
        self._count = 0
        for one in paced(self._sums(self.by)):
            if one.digest in self.by:
                self.by[one.digest] = one.bytes

    def _own(self, digest: str) -> dict[str, int]:
        return {blob: size for blob, size in self._blobs.get(digest, {}).items() if blob not in self._kept_blobs}

    def _below(self, digest: str) -> set[str]:
        return self._leads.get(digest, set()) - self._kept

    def _sums(self, roots: Iterable[str]) -> Iterator[_Sum]:
        """*roots* and all that they lead to, each behind what it leads to, and before its blobs go up from there."""
        for root in roots:
            stack = [] if root in self._begun or root in self._kept else [self._begin(root)]
            while stack:
                here = stack[-1]
                if here.waiting:
                    below = here.waiting.pop()
                    if below in self._begun:
                        self._add(here, self._held.get(below) or self._looked_for(below))
                    else:
                        stack.append(self._begin(below))
                    continue
                yield stack.pop()
                if self._parents[here.digest] and self._count < _MOST_HELD:
                    self._held[here.digest] = here
                    self._count += len(here.blobs)
                if stack:
                    self._add(stack[-1], here)

    def _begin(self, digest: str) -> _Sum:
        self._begun.add(digest)
        own = self._own(digest)
        return _Sum(digest, list(self._below(digest)), set(own), sum(own.values()))

    def _looked_for(self, digest: str) -> _Sum:
        blobs = {blob for one in _walk([digest], self._leads, self._kept) for blob in self._own(one)}
        return _Sum(digest, [], blobs, sum(self._sizes[blob] for blob in blobs))

    def _add(self, here: _Sum, below: _Sum) -> None:
        """Add the smaller set to the larger: so a chain costs no more than its length, however long it is."""
        self._parents[below.digest] -= 1
        mine, theirs = here.blobs, below.blobs
        if not self._parents[below.digest] and self._held.pop(below.digest, None) is not None:
            self._count -= len(theirs)
        if len(theirs) > len(mine):
            # What others lead to as well is theirs to change.
            here.blobs = theirs.copy() if self._parents[below.digest] else theirs
            here.bytes = below.bytes
            theirs = mine
        fresh = theirs - here.blobs
        here.bytes += sum(self._sizes[blob] for blob in fresh)
        here.blobs |= fresh


def _walk(start: Iterable[str], leads: Mapping[str, set[str]], without: AbstractSet[str]) -> Iterator[str]:
    """*start* and all that it leads to, each once."""
    seen = set(start) - without
    waiting = list(seen)
    while waiting:
        one = waiting.pop()
        yield one
        fresh = leads.get(one, set()) - seen - without
        seen |= fresh
        waiting += fresh
