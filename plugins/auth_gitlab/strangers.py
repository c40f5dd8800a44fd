"""How much of GitLab callers without a credential may take: so many questions in a while, for each address."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from cachetools import TTLCache

from gateway.plugins import Cache, ErrorCode, Recalled, RegistryError, Remembered
from plugins.auth_gitlab.client import ThrottledError, UnavailableError
from plugins.auth_gitlab.config import Config
from plugins.auth_gitlab.held import Asker

ADDRESSES: Final = 10_000
"""Addresses that are counted for at the same time."""


class TooManyError(RegistryError):
    """A stranger at *address* has asked too much: 429 with ``Retry-After``, *wait* seconds."""

    def __init__(self, address: str, wait: int) -> None:
        message = f"too many requests without a credential from your address; log in, or try again in {wait} s"
        super().__init__(ErrorCode.TOOMANYREQUESTS, message, headers={"Retry-After": str(wait)})
        self.address = address


@dataclass(slots=True)
class _Window:
    """The questions of one address since its first."""

    end: float
    asked: int = 0


class Strangers:
    """Counts what strangers have GitLab asked, in this worker; what is remembered costs them nothing."""

    def __init__(self, config: Config, cache: Cache) -> None:
        self._most = config.anonymous_questions
        self._within = config.anonymous_questions_within.total_seconds()
        self._cache = cache
        self._windows: TTLCache[str, _Window] = TTLCache(ADDRESSES, self._within)

    def count(self, asker: Asker) -> None:
        """Note a question that *asker* causes. Raises TooManyError for a stranger's that is one too many."""
        if not asker.stranger:
            return
        now = time.monotonic()
        window = self._windows.setdefault(asker.address, _Window(now + self._within))
        if window.asked >= self._most:
            raise TooManyError(asker.address, max(1, math.ceil(window.end - now)))
        window.asked += 1

    async def remember(
        self, key: bytes, ask: Callable[[], Awaitable[Remembered]], asker: Asker, *, stale: float = 0.0
    ) -> Recalled:
        """As the cache does, with the question of *asker* counted. Raises TooManyError and what *ask* raises."""

        async def counted() -> Remembered:
            self.count(asker)
            return await ask()

        while True:
            try:
                return await self._cache.remember(key, counted, stale=stale, on=UnavailableError)
            except (ThrottledError, TooManyError) as error:
                if error.address == asker.address:
                    raise
                # Somebody elsewhere, who asked the same just before, may not; that is no answer to this caller.
