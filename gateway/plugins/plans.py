"""What cleaning up speaks of: the rules by which tags go, and the plan that says it of each before anything does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final, Literal, Self

import re2

from gateway.errors import InvalidSettingError
from gateway.oci import Digest, RepositoryName
from gateway.plugins.types import ExpirationPolicy

_LONGEST_PATTERN: Final = 2048
"""Characters of a pattern."""
DELETION_BEGUN: Final[Mapping[str, str]] = {"org.opencontainers.image.description": "this tag is being deleted"}
"""The annotations of an image that a backend puts under a tag in order to delete it alone, and of no other: where the
deletion broke off, a cleanup completes it.
"""
_LONGEST_TROUBLE: Final = 1000
"""Characters of what is said of tags that could not be deleted (semantics 6)."""
_LARGEST_PATTERN: Final = 512 * 1024
"""Bytes for what a pattern is compiled to: a class of letters in it may become thousands of instructions. What is
compiled while others wait then takes some milliseconds, and is refused in as many.
"""
_QUIET: Final = re2.Options()
_QUIET.log_errors = False
_SMALL: Final = re2.Options()
_SMALL.log_errors = False
_SMALL.max_mem = _LARGEST_PATTERN


def name_pattern(pattern: str) -> Callable[[str], bool]:
    r"""Whether *pattern* fits a name, as GitLab has it: RE2, between ``\A`` and ``\z`` and without a group around it.

    So ``a|b`` fits what begins with ``a`` or ends with ``b`` (semantics 7.2). ValueError says why it is no pattern.
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(f"longer than {_LONGEST_PATTERN} characters")
    try:
        # Alone first: what the anchors would mend is as wrong. Matching has more memory: with little it is slow.
        re2.compile(pattern, _SMALL)
        search = re2.compile(rf"\A{pattern}\z", _QUIET).search
    except re2.error as error:
        said = error.args[0] if error.args else ""
        raise ValueError(said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)) from error
    except UnicodeEncodeError as error:
        raise ValueError("not a text") from error
    return lambda name: search(name) is not None


@dataclass(frozen=True, slots=True)
class CleanupRules:
    """Which tags of a repository go (semantics 7.2). Without *name_regex_delete*, or with an empty one, none does.

    *max_list_size*, if not 0: at most so many tags, and *keep_n* more, are looked at in one run.
    """

    name_regex_delete: str | None = None
    name_regex_keep: str | None = None
    keep_n: int | None = None
    older_than: timedelta | None = None
    max_list_size: int = 0

    @classmethod
    def of(cls, policy: ExpirationPolicy, max_list_size: int = 0) -> Self:
        """Those of a policy. Raises InvalidSettingError where its ``older_than`` is no number of days."""
        span = None
        if policy.older_than is not None:
            days = policy.older_than.removesuffix("d")
            if not (days.isascii() and days.isdecimal()):
                raise InvalidSettingError("older_than is not included in the list")
            span = timedelta(days=int(days))
        return cls(policy.name_regex, policy.name_regex_keep, policy.keep_n, span, max_list_size)

    def check(self) -> None:
        """Raise InvalidSettingError where a pattern is none; nothing is deleted by such rules."""
        for setting in ("name_regex_delete", "name_regex_keep"):
            try:
                name_pattern(getattr(self, setting) or "")
            except ValueError as error:
                raise InvalidSettingError(f"{setting} is an invalid regexp: {error}") from error

    @property
    def by_date(self) -> bool:
        """Whether the dates of tags matter."""
        return self.keep_n is not None or self.older_than is not None

    def as_json(self) -> dict[str, Any]:
        """The rules for programs; *older_than* in seconds."""
        return {
            "name_regex_delete": self.name_regex_delete,
            "name_regex_keep": self.name_regex_keep,
            "keep_n": self.keep_n,
            "older_than": None if self.older_than is None else int(self.older_than.total_seconds()),
            "max_list_size": self.max_list_size,
        }


Rule = Literal[
    "latest",
    "no_match",
    "kept_by_pattern",
    "not_listed",
    "interrupted",
    "newest",
    "undated",
    "not_older",
    "not_confirmed",
    "companion",
    "matched",
]
"""What decided about a tag. Three also remove: ``interrupted`` (its deletion was begun and broke off), ``companion``
(it belongs to another image, as a signature does) and ``matched``.
"""


@dataclass(frozen=True, slots=True)
class PlannedTag:
    """What becomes of one tag, by which rule, and in a sentence.

    *bytes* are those of the configs and layers that only tags lead to which go, this one among them: what several of
    these share counts for each. *size* is the sum of the layers, None for an index. *digest* is empty where another
    registry has lost the manifest.
    """

    name: str
    digest: Digest
    remove: bool
    rule: Rule
    why: str
    created_at: datetime | None
    size: int | None
    bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """The tag for programs."""
        return {
            "name": self.name,
            "digest": self.digest,
            "decision": "remove" if self.remove else "keep",
            "rule": self.rule,
            "why": self.why,
            "created_at": None if self.created_at is None else self.created_at.isoformat(),
            "size": self.size,
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class Plan:
    """What becomes of every tag of a repository, by name. *bytes* go in all, each blob counted once.

    They are free once nothing else keeps them: a collection of garbage removes them. *cut*: not all tags were looked
    at, because of ``max_list_size``.
    """

    repository: RepositoryName
    made_at: datetime
    rules: CleanupRules
    tags: tuple[PlannedTag, ...]
    bytes: int = 0
    cut: bool = False

    @cached_property
    def removed(self) -> Mapping[str, PlannedTag]:
        """The tags that go, by name."""
        return {tag.name: tag for tag in self.tags if tag.remove}

    @property
    def percent(self) -> float:
        """The share of the repository's tags that go."""
        return 100 * len(self.removed) / len(self.tags) if self.tags else 0.0

    @cached_property
    def id(self) -> str:
        """The same for every plan that removes the same tags from the same images."""
        lines = (f"{name} {tag.digest}" for name, tag in sorted(self.removed.items()))
        return hashlib.sha256("\n".join((self.repository, *lines)).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The plan for programs."""
        return {
            "repository": self.repository,
            "id": self.id,
            "made_at": self.made_at.isoformat(),
            "rules": self.rules.as_json(),
            "tags": [tag.as_json() for tag in self.tags],
            "total": {
                "tags": len(self.tags),
                "remove": len(self.removed),
                "keep": len(self.tags) - len(self.removed),
                "percent": round(self.percent, 1),
                "bytes": self.bytes,
            },
            "cut": self.cut,
        }


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What a run of a project's cleanup policy goes by: its *rules*, and the plans that it has stopped at.

    *waiting* has, by repository, the ids of plans that wait for somebody to confirm them.
    """

    rules: CleanupRules
    waiting: Mapping[str, str]


@dataclass(slots=True)
class Applied:
    """How far a plan is applied: of *planned* tags some are *removed*.

    Those that *stayed* point at another image by now, or were gone; *refused* are those that the registry would not
    delete. *finished*: no tag is left to be looked at.
    """

    planned: int
    removed: int = 0
    stayed: int = 0
    finished: bool = False
    refused: list[str] = field(default_factory=list)

    @property
    def trouble(self) -> str:
        """What GitLab says of those that were refused (semantics 6); empty where none was."""
        return f"could not delete tags: {', '.join(self.refused)}"[:_LONGEST_TROUBLE] if self.refused else ""
