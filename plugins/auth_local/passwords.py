"""Checking account passwords, without holding up the event loop and without telling who has an account."""

from __future__ import annotations

import asyncio
import hmac
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Final

import argon2
from cachetools import LRUCache

from plugins.auth_local.directory import User

AT_ONCE: Final = 2
"""Hashes computed at the same time: each takes 64 MiB and a processor."""
REMEMBERED: Final = 1024

_DUMMY: Final = "$argon2id$v=19$m=65536,t=3,p=4$RFCS3kJaSEEPa7PLvKSFwg$6QIYzFawM8R/AJRmysSljIOEcLLj/syXOEIj1Bw4JKA"
"""Verified, never matched, where there is no hash, so that all failures cost the same."""


class Passwords:
    """Verifies passwords, and remembers under a keyed hash those that were right."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._threads = ThreadPoolExecutor(AT_ONCE, "auth_local-argon2")
        self._right: LRUCache[bytes, bool] = LRUCache(REMEMBERED)

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def right(self, user: User | None, password: str) -> bool:
        """Whether *password* is that of *user*."""
        given = password.encode("utf-8", "surrogatepass")
        if user is not None and user.password is not None:
            if hmac.compare_digest(user.password.get_secret_value().encode("utf-8", "surrogatepass"), given):
                return True
            user = None
        if user is None or user.password_hash is None:
            await self._verify(_DUMMY, given)
            return False
        stored = user.password_hash.get_secret_value()
        # The hash is part of the key: a new password in the directory forgets the old one.
        remembered = hmac.digest(self._key, stored.encode() + b"\0" + given, sha256)
        if remembered in self._right:
            return True
        if not await self._verify(stored, given):
            return False
        self._right[remembered] = True
        return True

    async def _verify(self, stored: str, given: bytes) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._threads, matches, stored, given)


def matches(stored: str, given: bytes) -> bool:
    """Whether *given* has the argon2id hash *stored*. Slow, as it should be."""
    try:
        return argon2.PasswordHasher().verify(stored, given)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
