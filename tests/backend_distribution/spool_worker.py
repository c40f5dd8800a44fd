"""A worker of its own: reads one blob through a spool, from an upstream at a URL, and says how that went.

Arguments: the spool's folder, the URL, the digest, the blob's bytes; optionally how long a file may become. It prints
``began`` with the first chunk, ``log …`` for a line of the log, and last ``read …`` with the hash of what it read.
"""

from __future__ import annotations

import asyncio
import hashlib
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import aiohttp

from gateway.plugins import ByteRange, Chunks, Digest
from plugins.backend_distribution.spool import Spool


def say(*words: object) -> None:
    """Tell the test."""
    print(*words, flush=True)  # noqa: T201 - the test listens


class Log:
    """Prints."""

    def warning(self, event: str, **values: object) -> None:
        """Print a line."""
        say("log", event, values)


async def work(folder: Path, url: str, digest: Digest, size: int) -> None:
    """Read the blob."""
    spool = Spool(folder, 10 * size, Log())
    spool.open()

    async with aiohttp.ClientSession() as session:

        @asynccontextmanager
        async def fetch(part: ByteRange) -> AsyncIterator[Chunks]:
            headers = {"Range": f"bytes={part.first}-{part.stop - 1}"}
            async with session.get(url, headers=headers) as answer:
                yield answer.content.iter_any()

        hashed, count = hashlib.sha256(), 0
        async with spool.blob(digest, size, fetch) as blob, aclosing(blob.read(ByteRange(0, size))) as chunks:
            async for chunk in chunks:
                if not count:
                    say("began")
                count += len(chunk)
                hashed.update(chunk)
        say("read", hashed.hexdigest())
        await spool.close()


if __name__ == "__main__":
    if len(sys.argv) > 5:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]), resource.RLIM_INFINITY))
    asyncio.run(work(Path(sys.argv[1]), sys.argv[2], Digest.parse(sys.argv[3]), int(sys.argv[4])))
