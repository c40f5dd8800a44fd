"""Why past requests were refused, for administrators and the maintainers of what was asked for.

Kept for a while in this process, and in Redis where the operator runs one: then any replica can be asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cachetools import LRUCache

from gateway.core.cache import AnswerCache
from gateway.plugins import Reason
from gateway.plugins.chain import Answer

_KEPT: Final = 4 * 1024 * 1024
"""Bytes of records in one process."""
_LIFE: Final = 3600.0
"""Seconds for which replicas find them."""
_WRITING: Final = 100
"""Records on their way to Redis; more at once are kept here alone."""


def told(answer: Answer) -> dict[str, Any]:
    """The whole chain of one access, for those who may read it."""
    why = answer.why
    return {
        "type": answer.access.type,
        "name": answer.access.name,
        "asked": list(answer.access.actions),
        "allowed": sorted(answer.allowed),
        "steps": [{"step": step.name, "passed": step.passed, "finding": step.finding} for step in answer.steps],
        "next": why.remedy if why else "",
    }


def told_by_token(name: str, asked: Sequence[str], allowed: frozenset[str], reason: Reason | None) -> dict[str, Any]:
    """What a token remembers of the answer that it was issued with; the chain is that of the request for the token."""
    finding = reason.message if reason else "refused when the token was asked for; see that request"
    return {
        "type": "repository",
        "name": name,
        "asked": list(asked),
        "allowed": sorted(allowed),
        "steps": [{"step": reason.code if reason else "token", "passed": False, "finding": finding}],
        "next": reason.remedy if reason else "",
    }


class History:
    """Records of refusals by request id."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache
        self._records: LRUCache[str, bytes] = LRUCache(_KEPT, getsizeof=len)
        self._writing: set[asyncio.Task[None]] = set()

    def keep(self, request_id: str, record: Mapping[str, Any]) -> None:
        """Remember *record*, without waiting for anybody."""
        text = json.dumps(record).encode()
        if len(text) > _KEPT // 100:
            return
        self._records[request_id] = text
        if self._cache.shared and len(self._writing) < _WRITING:
            task = asyncio.create_task(self._cache.put(_key(request_id), text, _LIFE))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def recall(self, request_id: str) -> dict[str, Any] | None:
        """The record of a request, or None where there is none any more."""
        text = self._records.get(request_id) or await self._cache.get(_key(request_id))
        record: dict[str, Any] | None = json.loads(text) if text else None
        return record


def _key(request_id: str) -> bytes:
    return b"history " + request_id.encode("utf-8", "surrogatepass")
