"""PostgreSQL: one server for all tests, a fresh database for each that asks."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.peers import Peer, accepts, free_port, missing, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The server refuses to run as root; the package made this account.
ACCOUNT = "postgres"


class Postgres:
    """A running server on a loopback port, which trusts whoever comes."""

    def __init__(self, programs: Path, port: int, serve: Callable[[], Peer]) -> None:
        self.port = port
        self._programs = programs
        self._numbers = itertools.count(1)
        self._serve = serve
        self._peer = serve()

    def database(self) -> str:
        """Create an empty database and give its URL."""
        name = f"gateway_{next(self._numbers)}"
        run([self._programs / "createdb", "--host=127.0.0.1", f"--port={self.port}", "--username=postgres", name])
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        """End the server, whoever is connected; its databases stay. One that has ended is left alone."""
        if self._peer.running:
            self._peer.stop()

    def start(self) -> None:
        """Start it again on the same databases and port, unless it runs."""
        if not self._peer.running:
            self._peer = self._serve()


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        missing("postgresql is not installed: python3 tests/install_peers.py")
    return found[-1].parent


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Make a cluster in a folder of its own, serve it, and leave nothing behind."""
    programs = _programs()
    port = free_port()
    # Not below pytest's own temporary folder, which no other account may enter.
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        as_account: list[str | Path] = []
        if os.geteuid() == 0:
            as_account = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--init-groups"]
            shutil.chown(folder, ACCOUNT, ACCOUNT)
        cluster = folder / "cluster"
        initdb = (programs / "initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8")
        run([*as_account, *initdb, "--no-locale", "-D", cluster], folder=folder)
        serve = (programs / "postgres", "-D", cluster, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F")
        starts = itertools.count()

        def served() -> Peer:
            log = folder / f"log-{next(starts)}"
            # SIGINT is its "fast" shutdown: it does not wait for clients to leave.
            server = Peer([*as_account, *serve], log=log, folder=folder, stop_signal=signal.SIGINT)
            server.wait_ready(lambda: accepts(port) and "ready to accept connections" in server.log)
            return server

        server = Postgres(programs, port, served)
        try:
            yield server
        finally:
            server.stop()
