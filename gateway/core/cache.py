"""Answers remembered for a while: in this process, and in Redis for every worker and replica.

An answer is sealed before it leaves the process, under a name that is a keyed hash: whoever reads Redis learns nothing,
and what they write is not believed. Redis that is slow or down costs one short wait; then the process helps itself.
"""

from __future__ import annotations

import asyncio
import hmac
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import redis.asyncio
from cachetools import LRUCache
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError

from gateway.config import CacheConfig
from gateway.core.keys import Keys, Sealer
from gateway.core.metrics import CACHE_DOWN
from gateway.plugins.protocols import Recalled, Remembered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PREFIX: Final = "registry-gateway:"
_LOCAL: Final = 16 * 1024 * 1024
"""Bytes of answers kept in one process."""
_PAUSE: Final = 5.0
"""Seconds for which Redis is left alone after it failed."""
_LOCK: Final = 6.0
"""Seconds after which another replica may ask what one began to ask."""
_POLL: Final = 0.02
_ENDLESS: Final = -1
"""What Redis says of a key that has no end."""

Ask = Callable[[], Awaitable[Remembered]]


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    fresh_until: float
    stale_until: float
    written: float


class AnswerCache:
    """Remembers answers by key; one question at a time for each, here and across replicas.

    Times are seconds of the wall clock, which replicas share.
    """

    def __init__(self, config: CacheConfig, keys: Keys, log: Any, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._log = log
        self._clock = clock
        self._key = keys.derive("cache names")
        self._sealer = Sealer(keys.derive("cache values"))
        self._local: LRUCache[str, _Entry] = LRUCache(_LOCAL, getsizeof=lambda entry: 256 + len(entry.value))
        self._asking: dict[str, asyncio.Future[Recalled]] = {}
        self._redis: Any = None
        self._paused_until = 0.0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Hold connections to Redis while the block runs; it need not be up."""
        url = self._config.url.get_secret_value()
        async with AsyncExitStack() as stack:
            if url != "memory://":
                self._redis = connect(url, self._config)
                stack.push_async_callback(self._redis.aclose)
            yield
        self._redis = None

    async def remember(
        self, key: bytes, ask: Ask, *, stale: float = 0.0, on: type[Exception] = LookupError
    ) -> Recalled:
        """The answer for *key*: the one that is remembered, or else what *ask* says, remembered from now on.

        *key* may hold secrets: it is hashed under a key of the gateway's own. However many wait for one key, *ask* is
        called once. Where it raises *on*, an answer that was good within the last *stale* seconds still serves.
        """
        name = self._name(key)
        entry = self._local.get(name)
        if entry is not None and self._fresh(entry):
            return Recalled(entry.value, "memory")
        waiting = self._asking.get(name)
        if waiting is None:
            waiting = asyncio.ensure_future(self._find(name, ask, stale, on))
            self._asking[name] = waiting
            waiting.add_done_callback(lambda done: self._asked(name, done))
        # Whoever leaves does not take the answer away from the others.
        return await asyncio.shield(waiting)

    def _asked(self, name: str, done: asyncio.Future[Recalled]) -> None:
        del self._asking[name]
        if not done.cancelled():
            # Perhaps nobody waits any more; whoever does has it raised.
            done.exception()

    @property
    def shared(self) -> bool:
        """Whether replicas share what is put here."""
        return self._redis is not None

    async def put(self, key: bytes, value: bytes, seconds: float) -> None:
        """Let every replica find *value* under *key*; where there is no Redis, nobody does."""
        name = self._name(key)
        now = self._clock()
        sealed = self._sealer.seal(f"{now + seconds!r} {now + seconds!r} {now!r} ".encode() + value, name)
        await self._shared(lambda server: server.set(name, sealed, px=int(seconds * 1000)))

    async def get(self, key: bytes) -> bytes | None:
        """What some replica put under *key*."""
        found = await self._fetch(self._name(key))
        return found.value if found is not None else None

    def _name(self, key: bytes) -> str:
        return PREFIX + hmac.digest(self._key, key, "sha256").hex()

    async def forget(self, key: bytes) -> None:
        """Remember nothing for *key*."""
        name = self._name(key)
        self._local.pop(name, None)
        await self._shared(lambda server: server.delete(name))
        await self._shared(lambda server: server.delete(f"{name}:count"))

    async def count(self, key: bytes, seconds: float) -> int:
        """Count one more for *key* in Redis; 0 where there is none."""
        name = f"{self._name(key)}:count"
        total = int(await self._shared(lambda server: server.incr(name)) or 0)
        # Not only the first sets its end: had Redis failed just then, the counter would never end.
        if total and await self._shared(lambda server: server.pttl(name)) == _ENDLESS:
            await self._shared(lambda server: server.pexpire(name, int(seconds * 1000)))
        return total

    async def _find(self, name: str, ask: Ask, stale: float, on: type[Exception]) -> Recalled:
        old = self._local.get(name)
        found = await self._fetch(name)
        if found is not None and self._fresh(found):
            return self._shared_with_us(name, found)
        if found is not None and (old is None or old.written < found.written):
            # What another replica heard later counts, above all that a credential is no good any more.
            old = found
        locked = await self._lock(name)
        try:
            # Whoever held the lock before us may have kept an answer since our first look.
            found = await (self._fetch(name) if locked else self._wait(name))
            if found is not None and self._fresh(found):
                return self._shared_with_us(name, found)
            try:
                answer = await ask()
            except on:
                if old is not None and old.stale_until > self._clock():
                    return Recalled(old.value, "stale")
                raise
            await self._keep(name, answer, stale)
        finally:
            if locked:
                await self._shared(lambda server: server.delete(f"{name}:lock"))
        return Recalled(answer.value, "asked")

    def _fresh(self, entry: _Entry) -> bool:
        return entry.fresh_until > self._clock()

    def _shared_with_us(self, name: str, found: _Entry) -> Recalled:
        self._local[name] = found
        return Recalled(found.value, "redis")

    async def _keep(self, name: str, answer: Remembered, stale: float) -> None:
        now = self._clock()
        # Replicas that learnt together would otherwise ask together again.
        fresh = answer.seconds * random.uniform(0.9, 1.0)  # noqa: S311 - spreads load, guards nothing
        entry = _Entry(answer.value, now + fresh, now + fresh + (stale if answer.stale else 0.0), now)
        self._local[name] = entry
        text = f"{entry.fresh_until!r} {entry.stale_until!r} {now!r} ".encode() + answer.value
        # Also what must not serve when it is stale is kept that long: it outdates what others remember from before.
        life = max(1, int((fresh + stale) * 1000))
        sealed = self._sealer.seal(text, name)
        await self._shared(lambda server: server.set(name, sealed, px=life))

    async def _fetch(self, name: str) -> _Entry | None:
        sealed = await self._shared(lambda server: server.get(name))
        text = self._sealer.open(sealed.decode("ascii", "replace"), name) if isinstance(sealed, bytes) else None
        if text is None:
            return None
        fresh, stale, written, value = text.split(b" ", 3)
        return _Entry(value, float(fresh), float(stale), float(written))

    async def _lock(self, name: str) -> bool:
        """Whether it is ours to ask; without Redis it always is."""
        got = await self._shared(lambda server: server.set(f"{name}:lock", b"1", nx=True, px=int(_LOCK * 1000)))
        return got is not None or self._redis is None or self._clock() < self._paused_until

    async def _wait(self, name: str) -> _Entry | None:
        """What another replica, which is asking already, finds; None where it does not."""
        end = self._clock() + _LOCK
        while self._clock() < end:
            await asyncio.sleep(_POLL * random.uniform(0.5, 1.5))  # noqa: S311 - likewise
            # In this order: whoever asks keeps the answer and then lets go of the lock.
            over = await self._shared(lambda server: server.exists(f"{name}:lock")) != 1
            found = await self._fetch(name)
            if over or (found is not None and self._fresh(found)):
                return found
        return None

    async def _shared(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        """What Redis answers, or None where there is none, it fails, or it failed a moment ago."""
        paused_until = self._paused_until
        if self._redis is None or self._clock() < paused_until:
            return None
        try:
            answer = await command(self._redis)
        except (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError) as error:
            if self._paused_until == 0.0:
                self._log.warning("the cache is down; this process remembers for itself", why=type(error).__name__)
            self._paused_until = self._clock() + _PAUSE
            CACHE_DOWN.set(1)
            return None
        # An answer to what was sent before the failure says nothing about Redis after it.
        if paused_until and paused_until == self._paused_until:
            self._paused_until = 0.0
            CACHE_DOWN.set(0)
            self._log.info("the cache is back")
        return answer


def connect(url: str, config: CacheConfig) -> Any:
    """A client for ``redis://``, ``rediss://``, ``redis+sentinel://HOSTS/MASTER/DB`` or ``redis+cluster://HOSTS``.

    Nothing is sent yet. A hung Redis is worse than a dead one: every call has a time-out of tens of milliseconds.
    """
    wait = config.timeout.total_seconds()
    # A connection that broke while it was idle says nothing about Redis: one more is tried, but none after a time-out.
    retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    quick: dict[str, Any] = {"socket_timeout": wait, "socket_connect_timeout": wait, "retry": retry}
    options = dict(quick)
    parts = urlsplit(url)
    if parts.scheme in {"redis", "rediss"}:
        if parts.scheme == "rediss" and config.ca_file is not None:
            options["ssl_ca_certs"] = str(config.ca_file)
        return redis.asyncio.Redis.from_url(url, **options)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    options |= {"username": unquote(username) or None, "password": unquote(password) or None}
    if parse_qs(parts.query).get("tls") == ["true"]:
        options |= {"ssl": True, "ssl_ca_certs": str(config.ca_file) if config.ca_file else None}
    nodes = [(host, int(port or 6379)) for host, _, port in (item.partition(":") for item in hosts.split(","))]
    if parts.scheme == "redis+cluster":
        del options["retry"]
        startup = [ClusterNode(host, port) for host, port in nodes]
        return RedisCluster(startup_nodes=startup, cluster_error_retry_attempts=1, **options)
    master, _, number = parts.path.strip("/").partition("/")
    # Without these the library waits for seconds between tries at a sentinel that is gone.
    sentinels: Any = Sentinel(nodes, sentinel_kwargs=quick, **options)
    return sentinels.master_for(master, db=int(number or 0))
