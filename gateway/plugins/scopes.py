"""What a token's scopes may at most do with a registry (semantics 2.2 and 2.3): the same for every source of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.oci import Action
from gateway.plugins.types import ALL_ACTIONS

TOKEN_SCOPES: Final[Mapping[str, frozenset[Action]]] = {
    "api": ALL_ACTIONS,
    "read_api": frozenset({Action.PULL}),
    "read_registry": frozenset({Action.PULL}),
    "write_registry": frozenset({Action.PUSH}),
}
"""Scope to ceiling. Every other scope gives nothing."""

DEPLOY_TOKEN_SCOPES: Final[Mapping[str, frozenset[Action]]] = {
    "read_registry": frozenset({Action.PULL}),
    "write_registry": frozenset({Action.PUSH}),
}
"""The same for deploy tokens, which have no scope that deletes."""

JOB_CEILING: Final = frozenset({Action.PULL, Action.PUSH, Action.DELETE})
"""The ceiling of a CI job token; elsewhere than in its own project it only pulls."""


def ceiling(scopes: Iterable[str], table: Mapping[str, frozenset[Action]] = TOKEN_SCOPES) -> frozenset[Action]:
    """The most that a token with *scopes* may do: scopes add up."""
    return frozenset[Action]().union(*(table.get(scope, frozenset()) for scope in scopes))
