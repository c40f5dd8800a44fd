"""Killed at any moment, again and again: only garbage is left, and the next run removes it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, NamedTuple

from pydantic import SecretStr

from gateway.config import DatabaseConfig
from gateway.core.database import Database
from gateway.plugins import Digest
from tests.gc.conftest import Clock, Registry
from tests.support import images
from tests.support.gateway import PROGRAM, GatewayProcess
from tests.support.peers import eventually, run
from tests.support.people import ALICE, BOB, PRIVATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.wire import Wire

GARBAGE = 40
"""Indexes of two images each, of two blobs each."""
KILLS = 4


def store(root: Path, **rules: object) -> dict[str, object]:
    """Configure a local store that keeps nothing for longer than it must."""
    return {
        "use": "backend_local",
        "root": str(root),
        "expire_after": "1s",
        "gc": {"grace": "0s", "untagged": True, **rules},
    }


def files(root: Path) -> set[str]:
    """The digests of all blobs that lie on the disk."""
    return {f"sha256:{path.name}" for path in root.glob("blobs/sha256/*/*")}


def rows(gateway: GatewayProcess, query: str) -> list[tuple[str, ...]]:
    """Ask the database."""
    connection = sqlite3.connect(gateway.data / "gateway.db", timeout=20)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def free_leases(gateway: GatewayProcess) -> None:
    """Let a minute pass, after which what a dead holder left is free."""
    connection = sqlite3.connect(gateway.data / "gateway.db", timeout=20, isolation_level=None)
    connection.execute("DELETE FROM leases")
    connection.close()


LACKING = """
SELECT child.digest FROM manifest_references child JOIN manifests parent ON parent.id = child.manifest_id
WHERE child.kind = 'manifest' AND NOT EXISTS (
  SELECT 1 FROM manifests WHERE repository_id = parent.repository_id AND digest = child.digest)
"""


async def _fill(gateway: GatewayProcess, root: Path) -> set[Digest]:
    clock = Clock()
    clock.now = time.time() - 3600
    database = Database(DatabaseConfig(url=SecretStr(f"sqlite:///{gateway.data / 'gateway.db'}")))
    await database.open()
    registry = Registry(database, root, clock)
    await registry.index(PRIVATE, "kept", [await registry.image(PRIVATE, f"kept {part}") for part in "ab"], "kept")
    kept = await registry.links(PRIVATE)
    for number in range(GARBAGE):
        children = [await registry.image(PRIVATE, f"{number} {part}") for part in "ab"]
        await registry.index(PRIVATE, str(number), children)
    registry.store.close()
    await database.close()
    return {Digest(digest) for digest in kept}


def test_a_killed_collection_goes_on(tmp_path: Path) -> None:
    """After each kill every link has its bytes and every index its children; the last run leaves what is needed."""
    root = tmp_path / "registry"
    gateway = GatewayProcess(tmp_path / "gateway", backend=store(root, quiet="1m"))
    command = [str(PROGRAM), "gc", "--config", str(gateway.config)]
    run(command)
    kept = asyncio.run(_fill(gateway, root))

    def left() -> int:
        counts = ("manifests", "blobs", "orphans")
        return sum(int(rows(gateway, f"SELECT count(*) FROM {table}")[0][0]) for table in counts) + len(files(root))  # noqa: S608

    chance = random.Random(4)  # noqa: S311 - no secret, only a spread
    killed = 0
    for _ in range(KILLS):
        before = left()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            eventually(lambda: left() != before or process.poll() is not None, "it begins")  # noqa: B023
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, 0.15))
            killed += process.poll() is None
            process.kill()
        assert {digest for (digest,) in rows(gateway, "SELECT digest FROM blobs")} <= files(root)
        assert rows(gateway, LACKING) == []
        free_leases(gateway)
    assert killed > 1
    run(command)
    assert {digest for (digest,) in rows(gateway, "SELECT digest FROM blobs")} == files(root) == kept
    assert len(rows(gateway, "SELECT digest FROM manifests")) == 3


# -- everything at once --------------------------------------------------------------------------------------

SECONDS = 8
PUSHERS = 3
REPOSITORIES = [f"{PRIVATE}/stress{number}" for number in range(24)]
LAYERS = [images.Blob(images.LAYER, f"shared layer {number} ".encode() * 2000) for number in range(12)]


class Place(NamedTuple):
    """Where an image is."""

    repository: str
    tag: str


def image(number: int, chance: random.Random) -> images.Image:
    """Make an image of one layer of its own and some that others have too."""
    config = images.Blob(images.CONFIG, json.dumps({"architecture": "amd64", "os": "linux", "n": number}).encode())
    layers = (*chance.sample(LAYERS, 3), images.Blob(images.LAYER, chance.randbytes(50_000)))
    document = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in layers],
    }
    return images.Image(config, layers, images.Blob(images.MANIFEST, json.dumps(document).encode()), "amd64")


@dataclass
class Pusher:
    """Pushes, mounts and deletes, now in this repository and now in that, so that each is quiet for a while.

    *there* is what was acknowledged and not deleted, *tried* is all that may be there, since a kill eats answers.
    """

    gateway: GatewayProcess
    number: int
    over: threading.Event
    there: dict[Place, images.Image] = field(default_factory=dict)
    tried: dict[Place, images.Image] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Go on until told to stop, through every restart."""
        chance = random.Random(self.number)  # noqa: S311 - no secret, only a spread
        owner = self.gateway.wire(ALICE)
        for turn in range(1_000_000):
            if self.over.is_set():
                return
            try:
                self._push(owner, chance, Place(chance.choice(REPOSITORIES), f"p{self.number}-{turn}"))
                self._look(owner, chance)
                if chance.random() < 0.9:
                    self._delete(owner, chance)
            except (OSError, HTTPException):
                # The gateway was killed; who pushes comes again.
                self.done["broken off"] += 1
                self.over.wait(0.1)

    def _push(self, owner: Wire, chance: random.Random, place: Place) -> None:
        made = image(chance.randrange(10**9), chance)
        for blob in (made.config, *made.layers):
            if owner.send("HEAD", f"/v2/{place.repository}/blobs/{blob.digest}").status == 200:
                self.done["found"] += 1
                continue
            source = chance.choice(REPOSITORIES)
            begun = owner.send("POST", f"/v2/{place.repository}/blobs/uploads/?mount={blob.digest}&from={source}")
            if begun.status == 201:
                self.done["mounted"] += 1
                continue
            owner.close_upload(begun.expect(202).location, blob.digest, blob.content).expect(201)
        self.tried[place] = made
        status = owner.put_manifest(*place, made.manifest).status
        self.done[f"manifest {status}"] += 1
        if status == 201:
            self.there[place] = made

    def _look(self, owner: Wire, chance: random.Random) -> None:
        """Hold the registry to one acknowledged image."""
        if self.there:
            place = chance.choice(sorted(self.there))
            self.lost += missing(owner, place, self.there[place])

    def _delete(self, owner: Wire, chance: random.Random) -> None:
        if not self.there:
            return
        place = chance.choice(sorted(self.there))
        # Whatever is heard of the deletion, nobody relies on the image any more.
        made = self.there.pop(place)
        reference = chance.choice([place.tag, made.manifest.digest])
        self.done[f"deleted {owner.send('DELETE', f'/v2/{place.repository}/manifests/{reference}').status}"] += 1


def missing(somebody: Wire, place: Place, made: images.Image) -> Iterator[str]:
    """Pull an image, and yield a line for whatever is not there or not whole."""
    answer = somebody.manifest(*place)
    if answer.body != made.manifest.content:
        yield f"{place}: {answer.status}"
    for blob in (made.config, *made.layers):
        answer = somebody.get(f"/v2/{place.repository}/blobs/{blob.digest}")
        if answer.body != blob.content:
            yield f"{place}: {blob.digest}: {answer.status}"


def tagged(somebody: Wire) -> Iterator[Place]:
    """List the tags of all repositories."""
    for repository in REPOSITORIES:
        answer = somebody.get(f"/v2/{repository}/tags/list")
        for tag in answer.json()["tags"] if answer.status == 200 else ():
            yield Place(repository, tag)


def _collect_and_kill(gateway: GatewayProcess, until: float, chance: random.Random) -> Counter[str]:
    """Collect by command beside the job; every other command is killed on its way, and now and then the gateway."""
    ended: Counter[str] = Counter()
    kills = [time.monotonic() + SECONDS / 3, time.monotonic() + 2 * SECONDS / 3]
    command = [str(PROGRAM), "gc", "--config", str(gateway.config)]
    while time.monotonic() < until:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.8, 2.0) if chance.random() < 0.5 else 60)
            ended["killed" if process.poll() is None else f"status {process.returncode}"] += 1
            process.kill()
        free_leases(gateway)
        if kills and time.monotonic() > kills[0]:
            kills.pop(0)
            gateway.kill()
            gateway.start()
            ended["gateway killed"] += 1
    return ended


def collected(gateway: GatewayProcess) -> int:
    """Count the blobs that the job removed, as its lines in the log say."""
    lines = [json.loads(line) for line in gateway.log.splitlines() if '"event":"garbage collected"' in line]
    return sum(int(line["blobs"]["removed"]) for line in lines)


def test_no_acknowledged_image_ever_loses_a_blob(gateway_factory: GatewayFactory, tmp_path: Path) -> None:
    """Pushes, mounts, deletions, collections and kills at once; and once it is quiet, garbage ends at zero bytes."""
    root = tmp_path / "registry"
    gateway = gateway_factory(backend=store(root, enabled=True, interval="1s", quiet="1s"), workers=2)
    over = threading.Event()
    pushers = [Pusher(gateway, number, over) for number in range(PUSHERS)]
    threads = [threading.Thread(target=pusher.run) for pusher in pushers]
    for thread in threads:
        thread.start()
    try:
        ended = _collect_and_kill(gateway, time.monotonic() + SECONDS, random.Random(7))  # noqa: S311 - a spread
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    bob = gateway.wire(BOB)
    lost = [line for pusher in pushers for line in pusher.lost]
    lost += [line for pusher in pushers for place, made in pusher.there.items() for line in missing(bob, place, made)]
    done = sum((pusher.done for pusher in pushers), Counter[str]())
    assert lost == []
    assert done["manifest 201"] > 10
    assert done["mounted"] > 0
    assert ended["gateway killed"] > 0
    assert collected(gateway) > 0
    tried = {place: made for pusher in pushers for place, made in pusher.tried.items()}
    left = list(tagged(bob))
    needed = {blob.digest for place in left for blob in (tried[place].config, *tried[place].layers)}
    gateway.restart()
    eventually(lambda: files(root) == needed, "garbage is at zero bytes")
    assert list((root / "uploads").iterdir()) == []
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in root.glob("blobs/sha256/*/*"))
    for repository, tag in left:
        gateway.wire(ALICE).send("DELETE", f"/v2/{repository}/manifests/{tag}").expect(202)
    eventually(lambda: not files(root), "nothing is left")
