"""What every benchmark measures with: rates, transfers, memory and processor time; and the rows that come of it."""

from __future__ import annotations

import hashlib
import os
import re
import statistics
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.peers import PeerError, run
from tests.support.people import PRIVATE
from tests.support.wire import authorization

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.wire import Wire

MIB = 1024 * 1024
TRANSFERS = 16
"""Uploads, and as many downloads, that run at once while memory is watched."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
    seconds: int
    blob: int
    many: int
    """MiB of each transfer while memory is watched."""


@dataclass(frozen=True)
class Contender:
    """A running server, all of which answer the same paths, and the processes whose time is counted."""

    name: str
    wire: Wire
    pids: Sequence[int] = ()

    def caller(self, actions: str = "pull") -> Wire:
        """Make a caller with a fresh token, where the server asks for one."""
        if self.wire.credential is None:
            return self.wire
        return self.wire.acting_as(self.wire.token(f"repository:{PRIVATE}:{actions}"))


@dataclass
class Samples:
    """What was measured, by measure and contender."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, measure: str, contender: str, value: float) -> None:
        """Keep one more value."""
        self.values[measure, contender].append(value)

    def median(self, measure: str, contender: str) -> float:
        """Give the middle of the rounds."""
        return statistics.median(self.values[measure, contender])


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    ours: str
    peers: dict[str, str]
    ratio: str
    goal: str
    met: bool


def requests_per_second(url: str, headers: dict[str, str], seconds: int) -> float:
    """Let wrk ask for one address over 16 connections; any answer but a 2xx is an error."""
    lines = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    said = run(["wrk", "-t1", "-c16", f"-d{seconds}s", *lines, url], within=seconds + 60).stdout
    rate = re.search(r"^Requests/sec:\s+([0-9.]+)", said, re.MULTILINE)
    broken = re.search(r"Socket errors: (?!connect 0, read 0, write 0,)", said)
    if rate is None or "Non-2xx" in said or broken is not None:
        raise PeerError(f"wrk met errors at {url}:\n{said}")
    return float(rate[1])


def pull(caller: Wire, path: str, size: int) -> float:
    """Read a blob to nowhere; the seconds that it took."""
    buffer = bytearray(MIB)
    started = time.perf_counter()
    connection = caller.connect()
    try:
        connection.request("GET", path, headers=authorization(caller.credential))
        response = connection.getresponse()
        received = 0
        while count := response.readinto(buffer):
            received += count
    finally:
        connection.close()
    took = time.perf_counter() - started
    if response.status != 200 or received != size:  # noqa: PLR2004 - HTTP's OK
        raise PeerError(f"{caller.base_url}{path}: {response.status} with {received} of {size} bytes")
    return took


def push(caller: Wire, pieces: Sequence[bytes], digest: str) -> float:
    """Upload a blob with POST, PATCH and PUT; the seconds until the server called it safe."""
    size = sum(len(piece) for piece in pieces)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    started = time.perf_counter()
    location = caller.start_upload(PRIVATE)
    location = caller.send("PATCH", location, iter(pieces), headers).expect(202).location
    caller.close_upload(location, digest).expect(201)
    return time.perf_counter() - started


def crowd(caller: Wire, path: str, size: int, pieces: Sequence[tuple[Sequence[bytes], str]]) -> None:
    """Push and pull, all at once."""
    with ThreadPoolExecutor(2 * len(pieces)) as pool:
        transfers = [pool.submit(push, caller, parts, digest) for parts, digest in pieces]
        transfers += [pool.submit(pull, caller, path, size) for _ in pieces]
        for transfer in transfers:
            transfer.result()


def peak(pid: int) -> float:
    """The most memory that a process ever held, in MiB."""
    kibibytes = re.search(r"^VmHWM:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert kibibytes is not None
    return int(kibibytes[1]) / 1024


def children(pid: int) -> list[int]:
    """The processes that a process started: of a gateway, its workers."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def spent(pids: Sequence[int]) -> float:
    """The processor time that processes took so far, in seconds."""
    ticks = 0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def distinct(size: int) -> list[tuple[Sequence[bytes], str]]:
    """Make blobs that differ in their last bytes and share the memory of the others."""
    shared = os.urandom(size - TRANSFERS)
    digest = hashlib.sha256(shared)
    blobs: list[tuple[Sequence[bytes], str]] = []
    for _ in range(TRANSFERS):
        own, last = digest.copy(), os.urandom(TRANSFERS)
        own.update(last)
        blobs.append(((shared, last), f"sha256:{own.hexdigest()}"))
    return blobs


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)
