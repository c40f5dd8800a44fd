"""Programs under test and beside it: find them, start them, wait for them, end them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

import pytest

from tests.install_peers import SEARCHED
from tests.support import forking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

T = TypeVar("T")

# Below the range from which Linux takes the near ends of outgoing connections; each test process has its own of them.
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
PORTS = range(20000, 32000)[_PROCESS::_PROCESSES]
_given: set[int] = set()


class PeerError(RuntimeError):
    """A peer did not start, did not end, or did not do what it was told."""


def missing(reason: str) -> NoReturn:
    """Leave a test whose peer is not installed: a skip at home, a failure in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str:
    """Find a program on the path, or leave the test."""
    found = shutil.which(name, path=SEARCHED)
    return found or missing(f"{name} is not installed: python3 tests/install_peers.py")


def free_port() -> int:
    """Find a loopback port that nobody listens on and that no earlier call gave away."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 - no secret, only a spread
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def accepts(port: int) -> bool:
    """Tell whether somebody accepts connections on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def eventually(check: Callable[[], T | None], what: str, *, within: float = 20) -> T:
    """Ask until the answer is a true one; the only place where a test waits."""
    deadline = time.monotonic() + within
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise PeerError(f"not within {within:g} s: {what}")
        time.sleep(0.02)
    return answer


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    arguments: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """All that a person at the terminal would have read."""
        return self.stdout + self.stderr


def run(
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    stdin: str | bytes = b"",
    folder: Path | None = None,
    fails: bool = False,
    within: float = 90,
) -> Finished:
    """Run a command to its end and hold it to its success, or with `fails` to its failure."""
    __tracebackhide__ = True
    words = tuple(str(word) for word in arguments)
    ended = subprocess.run(
        [program(words[0]), *words[1:]],
        env=None if environment is None else dict(environment),
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        cwd=folder,
        capture_output=True,
        timeout=within,
        check=False,
    )
    finished = Finished(words, ended.returncode, ended.stdout.decode(), ended.stderr.decode())
    if bool(finished.status) is not fails:
        raise PeerError(f"`{' '.join(words)}` ended with {finished.status}:\n{finished.said}")
    return finished


class Peer:
    """A server that runs beside the tests as the leader of its own session, its output in a file.

    With *warm* it is the program, forked where that is as good as a start of its own.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        warm: bool = False,
    ) -> None:
        words = [str(word) for word in arguments]
        self._log = log
        self._stop_signal = stop_signal
        self._name = Path(words[0]).name
        with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
            streams = (nothing.fileno(), output.fileno(), output.fileno())
            forked = warm and forking.start(words, environment or {}, folder or Path.cwd(), streams)
            self._process = forked or subprocess.Popen(
                [program(words[0]), *words[1:]],
                env=None if environment is None else dict(environment),
                cwd=folder,
                stdin=nothing,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, which is the id of its session and group too."""
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it wrote so far."""
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.poll() is None

    def wait_ready(self, ready: Callable[[], bool], *, within: float = 30) -> None:
        """Wait until it answers; end it and show its last words if it never does."""

        def alive_and_ready() -> bool:
            if not self.running:
                raise PeerError(f"{self._name} ended with {self._process.returncode}")
            return ready()

        try:
            eventually(alive_and_ready, f"{self._name} is ready", within=within)
        except PeerError as error:
            self.kill()
            raise PeerError(f"{error}; its last words:\n{self.log[-2000:]}") from None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        self._process.send_signal(number)

    def wait(self, *, within: float = 30) -> int:
        """Wait for its end and give its exit status; one that does not end is killed and an error."""
        try:
            return self._process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise PeerError(f"{self._name} did not end within {within:g} s:\n{self.log[-2000:]}") from None

    def stop(self, *, within: float = 30) -> int:
        """Ask it to end, wait, and give its exit status."""
        self.send(self._stop_signal)
        return self.wait(within=within)

    def kill(self) -> None:
        """End it and all that it started, without a chance to tidy up."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
