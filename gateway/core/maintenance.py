"""The mode in which nothing is pushed or deleted: the configuration says it, or it is switched while the gateway runs.

Pulls never ask. A write asks before it begins, with one prepared read: so the switch holds for all workers and
replicas at once, and a request that had begun may end. What runs in the background asks between its steps, and waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from gateway.core.database import Database
from gateway.core.documents import DatabaseDocuments
from gateway.errors import ErrorCode, RegistryError

_RETRY_AFTER: Final = {"Retry-After": "30"}
_LONGEST_REASON: Final = 500
_PLACE: Final = ("maintenance", "mode")


@dataclass(frozen=True, slots=True)
class Mode:
    """Whether the registry only serves pulls, why, since when (ISO 8601), and who says so."""

    read_only: bool = False
    reason: str | None = None
    since: str | None = None
    by: Literal["configuration", "switch"] | None = None

    def as_json(self) -> dict[str, Any]:
        """The answer of ``/maintenance``."""
        mode = "read_only" if self.read_only else None
        return {"mode": mode, "reason": self.reason, "since": self.since, "by": self.by}


class ReadOnlyError(RegistryError):
    """The registry is read-only, so nothing may be pushed or deleted: 503, and no failure of whoever has to wait."""


class Maintenance:
    """The mode as everybody sees it; *configured* wins over the switch."""

    def __init__(
        self, configured: Literal["read_only"] | None, database: Database, clock: Callable[[], float] = time.time
    ) -> None:
        self._configured = configured
        self._documents = DatabaseDocuments(database, "gateway", clock)
        self._clock = clock

    async def mode(self) -> Mode:
        """The mode now. Raises RegistryError (503) where the database can't answer."""
        if self._configured is not None:
            return Mode(read_only=True, by="configuration")
        found = await self._documents.get(*_PLACE)
        return Mode(read_only=True, by="switch", **found.value) if found is not None and found.value else Mode()

    async def switch(self, asked: object) -> Mode:
        """Do what the body of ``PUT /maintenance`` asks: ``{"mode": "read_only" | null, "reason": "..."}``.

        Raises RegistryError: 400 for anything else, 409 where the configuration says it.
        """
        mode, reason = _read(asked)
        if self._configured is not None:
            fixed = "the configuration says `maintenance: read_only`; change it there and restart"
            raise RegistryError(ErrorCode.UNSUPPORTED, fixed, status=409)
        since = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")
        value = {"reason": reason, "since": since} if mode else None
        await self._documents.put(*_PLACE, value, "admin listener")
        return await self.mode()

    async def require_writable(self) -> None:
        """Raise ReadOnlyError while nothing may be pushed or deleted."""
        mode = await self.mode()
        if mode.read_only:
            why = f" ({mode.reason})" if mode.reason else ""
            told = f"the registry is read-only for maintenance{why}: pulls go on, push or delete again later"
            raise ReadOnlyError(ErrorCode.UNAVAILABLE, told, headers=_RETRY_AFTER)


def _read(asked: object) -> tuple[object, str | None]:
    wrong = RegistryError(
        ErrorCode.UNSUPPORTED, 'send {"mode": "read_only"} or {"mode": null}, with a "reason" if you like', status=400
    )
    if not isinstance(asked, dict) or "mode" not in asked or not set(asked) <= {"mode", "reason"}:
        raise wrong
    mode, reason = asked["mode"], asked.get("reason")
    if mode not in ("read_only", None) or not isinstance(reason, str | None):
        raise wrong
    if reason and (len(reason) > _LONGEST_REASON or not reason.isprintable()):
        raise RegistryError(ErrorCode.UNSUPPORTED, f"a reason has at most {_LONGEST_REASON} characters", status=400)
    return mode, reason or None
