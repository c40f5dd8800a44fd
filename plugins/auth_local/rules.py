"""When tokens are over, and which groups stand above a project; without I/O."""

from __future__ import annotations

from datetime import date


def expired(expires_at: date | None, today: date) -> bool:
    """Whether a token is over. One that expires today is dead already (semantics 2.2)."""
    return expires_at is not None and expires_at <= today


def ancestors(path: str) -> tuple[str, ...]:
    """The paths of the groups above *path*, nearest first."""
    parts = path.split("/")
    return tuple("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
