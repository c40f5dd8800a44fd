"""A Python that has the program's libraries in memory and forks the program: most of a start is to import these.

Of the program itself nothing is in memory: what it reads of its environment when it is imported is its own.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Not prometheus_client, which reads where it counts when it is imported.
LIBRARIES = (
    "aiohttp.web",
    "aiosqlite",
    "alembic.command",
    "argon2",
    "asyncpg",
    "cachetools",
    "cryptography.x509",
    "gunicorn.app.base",
    "gunicorn.arbiter",
    "gunicorn.workers.base",
    "jwt",
    "orjson",
    "pluggy",
    "pydantic",
    "re2",
    "redis.asyncio.cluster",
    "redis.asyncio.sentinel",
    "rich.progress",
    "rich.table",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.ext.asyncio",
    "structlog",
    "typer",
    "uvloop",
    "yaml",
)
_ROOT = Path(__file__).parents[2]
_REQUEST = 4096
"""Bytes that a request may have: a folder and arguments."""
_NUMBER = 4
"""Bytes of a process id or an exit status."""


def _without(environment: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(prefixes)}


_OWN = _without(os.environ, "PYTEST_", "REGISTRY_GATEWAY_")
"""The environment of the process that forks: nothing that a test has set."""


class Process:
    """A process that was forked, with as much of `subprocess.Popen` as a peer needs."""

    def __init__(self, report: int) -> None:
        self._report = report
        self.pid = self._read()
        self.returncode: int | None = None

    def _read(self) -> int:
        said = os.read(self._report, _NUMBER)
        if len(said) != _NUMBER:
            raise RuntimeError("the process that forks the program has ended")
        return int.from_bytes(said, "big", signed=True)

    def poll(self) -> int | None:
        """Give the exit status, negative for a signal, or None while it runs."""
        return self._end(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired after *timeout* seconds."""
        status = self._end(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("registry-gateway", timeout or 0)
        return status

    def _end(self, timeout: float | None) -> int | None:
        if self.returncode is not None:
            return self.returncode
        ended = select.poll()
        ended.register(self._report, select.POLLIN)
        if ended.poll(None if timeout is None else timeout * 1000):
            self.returncode = self._read()
            os.close(self._report)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def start(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, streams: tuple[int, int, int]
) -> Process | None:
    """Run the program as the leader of a session of its own; None where it has to be started in the usual way.

    That is where its environment is not that of the tests, and where no test runs: what is measured shares no memory.
    *streams* are descriptors of its standard input, output and error.
    """
    if _without(environment, "PYTEST_") != _OWN or "PYTEST_VERSION" not in environment:
        return None
    request = json.dumps([str(folder), *arguments]).encode()
    report, theirs = os.pipe()
    socket.send_fds(_forking(), [request], [*streams, theirs])
    os.close(theirs)
    return Process(report)


@functools.cache
def _forking() -> socket.socket:
    """Start the process that forks, once for all tests of this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        number = theirs.fileno()
        command = [sys.executable, "-m", __name__, str(number)]
        process = subprocess.Popen(command, pass_fds=[number], env=_OWN, cwd=_ROOT, start_new_session=True)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def main() -> None:
    """Fork a process for each request, until whoever asks has gone."""
    for library in LIBRARIES:
        importlib.import_module(library)
    # Who keeps a gateway is waited for by nobody.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        while True:
            request, descriptors, _, _ = socket.recv_fds(requests, _REQUEST, 4)
            if not request:
                return
            if os.fork() == 0:
                break
            for descriptor in descriptors:
                os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder, *arguments = json.loads(request)
    *streams, report = descriptors
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        _tell(report, os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.setsid()
    _tell(report, os.getpid())
    os.close(report)
    os.chdir(folder)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Jitter and the like would be the same in each.
    random.seed()
    sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
    from gateway.cli import main as program  # noqa: PLC0415 - in the process that it is for

    program()


def _tell(report: int, number: int) -> None:
    os.write(report, number.to_bytes(_NUMBER, "big", signed=True))


if __name__ == "__main__":
    main()
