"""Docker Distribution: the registry that most gateways would stand in front of."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from tests.support.peers import Peer, accepts, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Distribution:
    """A running registry that asks for no credential."""

    host: str
    peer: Peer

    @property
    def url(self) -> str:
        """Its address for a configuration file."""
        return f"http://{self.host}"


@contextmanager
def distribution(folder: Path) -> Iterator[Distribution]:
    """Serve a folder, with deletion on."""
    port = free_port()
    config = folder / "distribution.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "version": 0.1,
                "log": {"level": "info"},
                "storage": {"filesystem": {"rootdirectory": str(folder / "store")}, "delete": {"enabled": True}},
                "http": {"addr": f"127.0.0.1:{port}", "secret": "one process needs no shared secret"},
            }
        )
    )
    # It takes each REGISTRY_ variable for a key of its own, and the clients' REGISTRY_AUTH_FILE is none.
    own = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    with Peer(["docker-registry", "serve", config], log=folder / "distribution.log", environment=own) as peer:
        peer.wait_ready(lambda: accepts(port))
        yield Distribution(f"127.0.0.1:{port}", peer)
