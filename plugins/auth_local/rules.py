"""What tokens may at most do, when they are over, and which groups stand above a project; without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Final

from gateway.plugins import ALL_ACTIONS, Action

SCOPES: Final[Mapping[str, frozenset[Action]]] = {
    "api": ALL_ACTIONS,
    "read_api": frozenset({Action.PULL}),
    "read_registry": frozenset({Action.PULL}),
    "write_registry": frozenset({Action.PUSH}),
}
"""Token scope to registry ceiling (semantics 2.3). Every other scope gives nothing."""

DEPLOY_SCOPES: Final[Mapping[str, frozenset[Action]]] = {
    "read_registry": frozenset({Action.PULL}),
    "write_registry": frozenset({Action.PUSH}),
}
"""The same for deploy tokens, which have no scope that deletes."""

JOB: Final = frozenset({Action.PULL, Action.PUSH, Action.DELETE})
"""The ceiling of a CI job token (semantics 2.2); elsewhere than in its own project it only pulls."""


def ceiling(scopes: Iterable[str], table: Mapping[str, frozenset[Action]] = SCOPES) -> frozenset[Action]:
    """The most that a token with *scopes* may do: scopes add up."""
    return frozenset[Action]().union(*(table.get(scope, frozenset()) for scope in scopes))


def expired(expires_at: date | None, today: date) -> bool:
    """Whether a token is over. One that expires today is dead already (semantics 2.2)."""
    return expires_at is not None and expires_at <= today


def ancestors(path: str) -> tuple[str, ...]:
    """The paths of the groups above *path*, nearest first."""
    parts = path.split("/")
    return tuple("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
