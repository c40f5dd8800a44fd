"""A real Docker Engine that leaves the machine's network alone, and its command line."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.peers import Finished, Peer, PeerError, missing, program, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.wire import Account

ISOLATED = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false"]


class Docker:
    """The command line of one person, whose logins stay in a folder of their own."""

    def __init__(self, socket: Path, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{socket}",
            "DOCKER_CONFIG": str(home),
            # Debian's engine has no BuildKit front end on its command line.
            "DOCKER_BUILDKIT": "0",
        }

    def __call__(self, *words: str | Path, stdin: str | bytes = b"", fails: bool = False) -> Finished:
        """Run `docker` with these words."""
        return run(["docker", *words], environment=self.environment, stdin=stdin, fails=fails)

    def login(self, host: str, account: Account, *, fails: bool = False) -> Finished:
        """Log in to a registry."""
        words = ("login", "--username", account.username, "--password-stdin", host)
        return self(*words, stdin=account.password, fails=fails)

    def digest(self, image: str) -> str:
        """Tell the digest under which the registry knows a pushed or pulled image."""
        names = self("image", "inspect", "--format", "{{index .RepoDigests 0}}", image).stdout
        return names.strip().partition("@")[2]


class Engine:
    """A running engine."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def client(self, home: Path) -> Docker:
        """Give its command line to a person whose home is this folder."""
        return Docker(self._socket, home)


@contextmanager
def engine() -> Iterator[Engine]:
    """Start an engine with all of its state in one folder."""
    daemon, _ = program("dockerd"), program("docker")
    if os.geteuid() != 0:
        missing("dockerd needs root")
    # A short name: a socket's path may have no more than 107 characters.
    with tempfile.TemporaryDirectory(prefix="engine-") as name:
        folder = Path(name)
        socket = folder / "docker.sock"
        state: list[str | Path] = [
            "--data-root",
            folder / "root",
            "--exec-root",
            folder / "exec",
            "--pidfile",
            folder / "docker.pid",
        ]
        serve = [daemon, "--host", f"unix://{socket}", *ISOLATED, *state]
        started = Engine(socket)

        def answers() -> bool:
            try:
                started.client(folder / "home")("version")
            except PeerError:
                return False
            return True

        peer = Peer(serve, log=folder / "log")
        try:
            peer.wait_ready(answers)
        except PeerError as error:
            # An engine that gives up leaves its folder mounted on itself.
            subprocess.run(["umount", folder / "root"], capture_output=True, check=False)
            pytest.skip(f"the installed Docker Engine can't run on this machine: {error}")
        with peer:
            yield started
