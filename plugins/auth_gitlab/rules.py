"""What CI jobs may do with an ID token, by the operator's rules on its claims; without I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from gateway.plugins import Action
from plugins.auth_gitlab.config import IdTokenRule


def matching(rules: Iterable[IdTokenRule], claims: Mapping[str, object]) -> tuple[IdTokenRule, ...]:
    """The rules of which every claim fits. A claim that the token lacks fits nothing, not even ``**``."""
    return tuple(
        rule
        for rule in rules
        if all(name in claims and fits(pattern, _text(claims[name])) for name, pattern in rule.claims.items())
    )


def allowed(rules: Sequence[IdTokenRule], name: str) -> frozenset[Action]:
    """What *rules*, which a token fits, allow in the repository *name*."""
    return frozenset[Action]().union(
        *(rule.actions for rule in rules if any(fits(pattern, name) for pattern in rule.repositories))
    )


def ceiling(rules: Sequence[IdTokenRule]) -> frozenset[Action]:
    """The most that *rules* allow anywhere."""
    return frozenset[Action]().union(*(rule.actions for rule in rules))


def fits(pattern: str, value: str) -> bool:
    """Whether the whole of *value* is like *pattern*: ``*`` is anything without a slash, ``**`` anything at all."""
    return _compiled(pattern).fullmatch(value) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*?)", pattern)
    return re.compile("".join({"*": "[^/]*", "**": ".*"}.get(part, re.escape(part)) for part in parts), re.DOTALL)


def _text(value: object) -> str:
    """A claim as GitLab writes it: truth is the word ``true``."""
    return str(value).lower() if isinstance(value, bool) else str(value)
