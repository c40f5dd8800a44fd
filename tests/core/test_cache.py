"""What replicas remember together, over a real Redis and without gateways around it."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import structlog
from pydantic import SecretStr

from gateway.config import CacheConfig
from gateway.core import keys
from gateway.core.cache import AnswerCache
from gateway.plugins import Remembered
from tests.support.peers import eventually
from tests.support.redis import RedisServer
from tests.support.redis import redis as running_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Run a Redis of the test's own."""
    with running_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def replicas(redis: RedisServer) -> AsyncIterator[list[AnswerCache]]:
    """Two processes' caches, with one key, before one Redis that has time to answer."""
    config = CacheConfig(url=SecretStr(redis.url), timeout=timedelta(seconds=10))
    secret = keys.ephemeral()
    async with AsyncExitStack() as stack:
        caches = [AnswerCache(config, secret, structlog.get_logger()) for _ in range(2)]
        for cache in caches:
            await stack.enter_async_context(cache.opened())
        yield caches


async def test_replicas_ask_once_whenever_they_come(replicas: list[AnswerCache]) -> None:
    """Of two replicas one asks, though the other looks just before the answer is kept or after the lock is gone."""
    one, other = replicas
    asked: Counter[bytes] = Counter()

    async def need(cache: AnswerCache, key: bytes, after: float) -> bytes:
        async def ask() -> Remembered:
            asked[key] += 1
            return Remembered(key, 60)

        await asyncio.sleep(after)
        return (await cache.remember(key, ask)).value

    for number in range(100):
        key = str(number).encode()
        # From together to later than a whole question takes.
        both = await asyncio.gather(need(one, key, 0), need(other, key, number * 20e-6))
        assert set(both) == {key}
    assert Counter(asked.values()) == {1: 100}


async def test_a_failure_holds_up_nobody(replicas: list[AnswerCache], redis: RedisServer) -> None:
    """Where the replica that asks hears nothing, the one that waited for it asks at once for itself."""
    one, other = replicas
    began, fail = asyncio.Event(), asyncio.Event()

    async def unheard() -> Remembered:
        began.set()
        await fail.wait()
        raise LookupError

    async def heard() -> Remembered:
        return Remembered(b"heard", 60)

    first = asyncio.ensure_future(one.remember(b"key", unheard))
    await began.wait()
    second = asyncio.ensure_future(other.remember(b"key", heard))
    # It waits as soon as it has asked whether the lock still stands.
    await asyncio.to_thread(eventually, lambda: "cmdstat_exists" in redis.info("commandstats"), "the other waits")
    fail.set()
    with pytest.raises(LookupError):
        await first
    async with asyncio.timeout(5):
        assert (await second).value == b"heard"
    assert (await one.remember(b"key", unheard)).source == "redis"
