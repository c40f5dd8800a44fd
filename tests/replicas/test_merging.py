"""Many clients at two replicas want one layer that nobody has pulled yet: the registry is asked for it once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.replicas.conftest import running
from tests.support.images import LAYER, Blob
from tests.support.people import BOB, CAROL, PRIVATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.replicas.conftest import Replicas
    from tests.support.postgres import Postgres
    from tests.support.redis import RedisServer

CLIENTS = 200
MIB = 1024 * 1024
# With 200 MiB the clients hash 40 GiB, which keeps two processors busy for more than a minute.
SIZE = int(os.environ.get("MERGED_MIB", "12")) * MIB


@pytest.fixture
def replicas(tmp_path: Path, database: Postgres, redis: RedisServer) -> Iterator[Replicas]:
    """Run replicas that keep blobs in a folder together."""
    keys = {"blob_cache": {"path": str(tmp_path / "blobs"), "size": "1GiB"}}
    with running(tmp_path / "replicas", database, redis, keys) as pair:
        yield pair


def fetched(replicas: Replicas, digest: str) -> int:
    """Count the GETs of a blob in the registry's access log."""
    return len(re.findall(rf'"GET /v2/{PRIVATE}/blobs/{digest} HTTP/1.1" 20[06]', replicas.registry.peer.log))


@dataclass
class Clients:
    """Whoever pulls a blob and keeps nothing of it."""

    session: aiohttp.ClientSession
    waiting: int
    all_begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether all have got some of it."""

    async def pull(self, url: str) -> str:
        """Pull it, and name what came."""
        found = hashlib.sha256()
        async with self.session.get(url) as answer:
            assert answer.status == 200
            found.update(await answer.content.readany())
            self.waiting -= 1
            if not self.waiting:
                self.all_begun.set()
            async for chunk in answer.content.iter_any():
                found.update(chunk)
        return f"sha256:{found.hexdigest()}"


async def test_pulled_once(replicas: Replicas) -> None:
    """Two hundred clients who begin while the layer is on its way get the whole of it, which was sent once."""
    blob = Blob(LAYER, os.urandom(SIZE))
    replicas.first.wire(CAROL).push_blob(PRIVATE, blob)
    token = replicas.second.wire(BOB).token(f"repository:{PRIVATE}:pull")
    urls = [f"{gateway.base_url}/v2/{PRIVATE}/blobs/{blob.digest}" for gateway in replicas.both] * (CLIENTS // 2)
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"}, connector=aiohttp.TCPConnector(limit=CLIENTS), read_bufsize=MIB
    ) as session:
        clients = Clients(session, CLIENTS)
        with replicas.way.held_up(after=SIZE // 2):
            pulls = [asyncio.create_task(clients.pull(url)) for url in urls]
            await asyncio.wait_for(clients.all_begun.wait(), 60)
        digests = await asyncio.gather(*pulls)
    assert set(digests) == {blob.digest}
    assert fetched(replicas, blob.digest) == 1
