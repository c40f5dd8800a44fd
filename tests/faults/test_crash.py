"""Killed in the middle of pushes: what was acknowledged is there, what was not is nowhere."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import threading
from dataclasses import dataclass, field

import pytest

from tests.conftest import GatewayFactory
from tests.support import images
from tests.support.gateway import GatewayProcess
from tests.support.peers import eventually
from tests.support.people import BOB, CAROL, PRIVATE
from tests.support.wire import authorization

PUSHERS = 4


@dataclass
class Pusher:
    """Pushes one image after another until the gateway is gone, and remembers what was acknowledged."""

    gateway: GatewayProcess
    number: int
    blobs: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, bytes] = field(default_factory=dict)

    def run(self) -> None:
        """Push for as long as somebody answers."""
        carol = self.gateway.wire(CAROL)
        repository = f"{PRIVATE}/crash{self.number}"
        try:
            for turn in range(10_000):
                image = images.image(os.urandom(150_000))
                for blob in (image.config, *image.layers):
                    carol.push_blob(repository, blob)
                    self.blobs[blob.digest] = blob.content
                carol.put_manifest(repository, f"t{turn}", image.manifest).expect(201)
                self.tags[f"t{turn}"] = image.manifest.content
        except (OSError, http.client.HTTPException):
            return


@pytest.mark.parametrize("workers", [1, 2])
def test_every_acknowledged_byte_survives_kill_9(gateway_factory: GatewayFactory, workers: int) -> None:
    """After kill -9 during pushes the next start needs no repair, and serves all that was acknowledged, whole."""
    gateway = gateway_factory(workers=workers)
    pushers = [Pusher(gateway, number) for number in range(PUSHERS)]
    for _ in range(2):
        before = sum(len(pusher.tags) for pusher in pushers)
        threads = [threading.Thread(target=pusher.run) for pusher in pushers]
        for thread in threads:
            thread.start()
        eventually(lambda: sum(len(p.tags) for p in pushers) >= before + 12, "a dozen pushes are acknowledged")  # noqa: B023
        gateway.kill()
        for thread in threads:
            thread.join(60)
        gateway.start()
    bob = gateway.wire(BOB)
    for pusher in pushers:
        repository = f"{PRIVATE}/crash{pusher.number}"
        for digest, content in pusher.blobs.items():
            assert bob.get(f"/v2/{repository}/blobs/{digest}").expect(200).body == content
        for tag, manifest in pusher.tags.items():
            assert bob.manifest(repository, tag).expect(200).body == manifest


def test_store_holds_whole_blobs_alone(gateway_factory: GatewayFactory) -> None:
    """Whatever the moment of the kill, each file among the blobs has the hash of its name."""
    gateway = gateway_factory()
    pusher = Pusher(gateway, 0)
    thread = threading.Thread(target=pusher.run)
    thread.start()
    eventually(lambda: len(pusher.blobs) > 10, "ten blobs are acknowledged")
    gateway.kill()
    thread.join(60)
    files = [path for path in (gateway.data / "registry" / "blobs").rglob("*") if path.is_file()]
    assert len(files) >= len(pusher.blobs) > 10
    for path in files:
        assert hashlib.new(path.parent.parent.name, path.read_bytes()).hexdigest() == path.name


def test_vanished_client_leaves_a_499_and_no_traceback(gateway_factory: GatewayFactory) -> None:
    """A client that goes away in the middle of a pull is one line with status 499."""
    gateway = gateway_factory()
    blob = images.Blob("application/octet-stream", images.noise(30_000_000))
    gateway.wire(CAROL).push_blob(PRIVATE, blob)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        head = f"GET /v2/{PRIVATE}/blobs/{blob.digest} HTTP/1.1\r\nHost: x\r\n"
        connection.sendall(f"{head}Authorization: {authorization(BOB)['Authorization']}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    eventually(lambda: '"status":499' in gateway.log, "the line is written")
    assert "Traceback" not in gateway.log


def test_damaged_blob_is_never_served_as_whole(gateway_factory: GatewayFactory) -> None:
    """A blob's file that was cut short is an error with a way out, not a short body."""
    gateway = gateway_factory()
    blob = images.Blob("application/octet-stream", images.noise(100_000))
    carol = gateway.wire(CAROL)
    carol.push_blob(PRIVATE, blob)
    path = next(path for path in (gateway.data / "registry" / "blobs").rglob(blob.digest.partition(":")[2]))
    path.write_bytes(blob.content[:50_000])
    assert carol.get(f"/v2/{PRIVATE}/blobs/{blob.digest}").expect(500).json()["errors"][0]["code"] == "UNKNOWN"
    carol.push_blob(PRIVATE, blob)
    assert carol.get(f"/v2/{PRIVATE}/blobs/{blob.digest}").expect(200).body == blob.content
