"""The gateway itself, as an operator starts it: a configuration file, a directory, a process."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import forking, people
from tests.support.peers import Peer, PeerError, free_port
from tests.support.wire import Credential, Wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRAM = Path(sys.executable).parent / "registry-gateway"


def command(*arguments: str | Path, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of the program to its end, whatever it comes to, with *said* on its standard input."""
    words = [str(word) for word in (PROGRAM, *arguments)]
    with TemporaryFile() as stdin, TemporaryFile() as stdout, TemporaryFile() as stderr:
        stdin.write(said.encode())
        stdin.seek(0)
        forked = forking.start(words, os.environ, Path.cwd(), (stdin.fileno(), stdout.fileno(), stderr.fileno()))
        process = forked or subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=stderr)
        status = process.wait(timeout=60)
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(words, status, stdout.read().decode(), stderr.read().decode())


class Options(TypedDict, total=False):
    """What a test may choose about its gateway."""

    port: int
    workers: int
    database_url: str
    external_url: str
    trusted_proxies: Sequence[str]
    directory: Mapping[str, Any]
    """In place of `people.directory()`."""
    backend: Mapping[str, Any]
    """A plugin item in place of `backend_local`."""
    sources: Sequence[Mapping[str, Any]]
    """Plugin items in place of `auth_local`, `naming` and `visibility`."""
    api: Mapping[str, Any]
    """Keys of the item `gitlab_api`."""
    cleanup: Mapping[str, Any]
    """Keys of the item `cleanup`."""
    extra: Mapping[str, Any]
    """Sections of the configuration, merged over what stands there."""


class GatewayProcess:
    """A gateway on free ports with all of its data in one folder, which outlives each of its processes."""

    def __init__(self, folder: Path, **options: Unpack[Options]) -> None:
        self.folder = folder
        self.port = options.get("port") or free_port()
        self.admin_port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.base_url = f"http://{self.host}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self.config = folder / "gateway.yaml"
        self.directory = folder / "directory.yaml"
        self.data = folder / "data"
        self._peer: Peer | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(exist_ok=True)
        if "database_url" in options:
            # Over a database that other machines may share, the operator brings the key.
            self.write_signing_key()
        self.directory.write_text(yaml.safe_dump(dict(options.get("directory", people.directory()))))
        self.config.write_text(yaml.safe_dump(self._configuration(options), sort_keys=False))

    def _configuration(self, options: Options) -> dict[str, Any]:
        sections: dict[str, Any] = {
            "server": {
                "listen": self.host,
                "external_url": options.get("external_url", self.base_url),
                "workers": options.get("workers", 1),
                "drain": "20s",
                "trusted_proxies": list(options.get("trusted_proxies", ())),
            },
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "tokens": {"signing_key_file": str(self.data / "signing-key.pem")},
            "database": {"url": options.get("database_url", f"sqlite:///{self.data / 'gateway.db'}")},
            "plugins": [
                *(dict(item) for item in options.get("sources", self._local())),
                {"use": "gitlab_api", **options.get("api", {})},
                {"use": "cleanup", **options.get("cleanup", {})},
                dict(options.get("backend", {"use": "backend_local", "root": str(self.data / "registry")})),
            ],
        }
        for name, section in options.get("extra", {}).items():
            sections[name] = {**sections.get(name, {}), **section} if isinstance(section, dict) else section
        return sections

    def _local(self) -> list[dict[str, Any]]:
        return [{"use": "auth_local", "directory": str(self.directory)}, {"use": "naming"}, {"use": "visibility"}]

    def write_signing_key(self) -> None:
        """Bring the key that a first start would make."""
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.data / "signing-key.pem"
        path.touch(mode=0o600)
        path.write_bytes(key)

    def start(self) -> None:
        """Start it and wait until it calls itself ready."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_GATEWAY_")}
        self._peer = Peer(
            [PROGRAM, "serve", "--config", self.config],
            log=self.folder / "gateway.log",
            environment=own,
            folder=self.folder,
            warm=True,
        )
        self._peer.wait_ready(self.ready)

    def ready(self) -> bool:
        """Tell whether `/readyz` on the admin port says 200."""
        try:
            return Wire(self.admin_url).get("/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    @property
    def peer(self) -> Peer:
        """The process that runs, or ran last."""
        if self._peer is None:
            raise PeerError("this gateway was never started")
        return self._peer

    @property
    def pid(self) -> int:
        """The process id of the one that the operator started."""
        return self.peer.pid

    @property
    def log(self) -> str:
        """All that its processes wrote so far."""
        return self.peer.log

    @property
    def answered(self) -> int:
        """How many requests it answered so far."""
        return self.log.count('"event":"request"')

    def wire(self, credential: Credential = None) -> Wire:
        """Talk to it as somebody."""
        return Wire(self.base_url, credential)

    def stop(self, *, within: float = 30) -> int:
        """End it as an operator does, and give its exit status."""
        return self.peer.stop(within=within)

    def kill(self) -> None:
        """End it as a power cut would: every process at once."""
        self.peer.kill()

    def end(self) -> None:
        """Tidy up after a test: end it at once, unless it is gone already or never came."""
        if self._peer is not None and self._peer.running:
            self.kill()

    def restart(self) -> None:
        """Stop it if it runs, and start it again on the same data and ports."""
        if self._peer is not None and self._peer.running:
            self.stop()
        self.start()
