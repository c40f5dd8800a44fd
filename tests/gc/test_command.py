"""`registry-gateway gc` and the periodic job, beside a gateway that serves and without one."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from gateway import gc
from gateway.cli import cli
from gateway.config import DatabaseConfig
from gateway.core import collector
from gateway.core import database as database_module
from gateway.core.database import Database
from gateway.errors import ConfigError
from gateway.gc import Wishes
from tests.gc.conftest import Clock, Registry
from tests.support import images
from tests.support.gateway import PROGRAM, GatewayProcess
from tests.support.peers import eventually, run
from tests.support.people import BOB, CAROL, DAVE, PRIVATE
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gateway.core.garbage import Report
    from tests.conftest import GatewayFactory

KEPT = images.image(b"kept")
GONE = images.image(b"gone")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The store's folder."""
    return tmp_path / "registry"


def collect(gateway: GatewayProcess, *, dry_run: bool = False, grace: float = 0, untagged: bool = True) -> Report:
    """Do what the command does, in this process, and give its one report; *grace* is in seconds."""
    wishes = Wishes(dry_run, timedelta(seconds=grace), untagged)
    (report,) = asyncio.run(gc.collect(gateway.config, (), wishes, lambda _: None)).reports
    return report


def store(root: Path, **rules: Any) -> dict[str, Any]:
    """Configure a local store, whose job is off unless *rules* say otherwise."""
    return {"use": "backend_local", "root": str(root), "gc": {"enabled": False, **rules}}


def blobs(root: Path) -> set[str]:
    """The digests of all blobs that lie on the disk."""
    return {f"sha256:{path.name}" for path in root.glob("blobs/sha256/*/*")}


def digests(*some: images.Image) -> set[str]:
    """The digests of the blobs of images."""
    return {blob.digest for image in some for blob in (image.config, *image.layers)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve a store in which everything is quiet after a minute; tests keep apart by their repositories."""
    folder = tmp_path_factory.mktemp("served")
    process = GatewayProcess(folder, backend=store(folder / "registry", quiet="1m"))
    process.start()
    yield process
    process.end()


async def _push_long_ago(gateway: GatewayProcess, name: str, some: Sequence[images.Blob]) -> None:
    clock = Clock()
    clock.now = time.time() - 100 * 3600
    database = Database(DatabaseConfig(url=SecretStr(f"sqlite:///{gateway.data / 'gateway.db'}")))
    await database.open()
    registry = Registry(database, gateway.folder / "registry", clock)
    for blob in some:
        await registry.blob(name, blob.content)
    registry.store.close()
    await database.close()


def push_long_ago(gateway: GatewayProcess, name: str, *some: images.Blob) -> None:
    """Let blobs be as if they had been pushed a hundred hours ago, through another worker."""
    asyncio.run(_push_long_ago(gateway, name, some))


def test_space_is_freed(gateway_factory: GatewayFactory, root: Path) -> None:
    """A deleted image's bytes go, what another image needs stays, and the report says how many bytes that freed."""
    gateway = gateway_factory(backend=store(root, quiet="1s"))
    carol = gateway.wire(CAROL)
    carol.push_image(PRIVATE, "kept", KEPT)
    carol.push_image(PRIVATE, "gone", GONE)
    gateway.wire(DAVE).send("DELETE", f"/v2/{PRIVATE}/manifests/gone").expect(202)
    eventually(lambda: collect(gateway, dry_run=True).blobs.removed == 2, "everything is quiet")
    dry = collect(gateway, dry_run=True)
    assert blobs(root) == digests(KEPT, GONE)
    done = run([PROGRAM, "gc", "--config", gateway.config, "--grace", "0s", "--untagged", "--json"])
    (report,) = json.loads(done.stdout)["reports"]
    # A manifest that goes is a line of the log, as every other deletion.
    (line,) = [json.loads(text) for text in done.stderr.splitlines()]
    assert (line["event"], line["digest"], line["how"]) == ("deleted", GONE.manifest.digest, "garbage collection")
    assert blobs(root) == digests(KEPT)
    freed = sum(len(blob.content) for blob in (GONE.config, *GONE.layers))
    assert report["blobs"] == {"removed": 2, "removed_bytes": freed, "waiting": 0, "waiting_bytes": 0}
    assert (report["manifests"]["removed"], report["links"]["removed"]) == (1, 2)
    assert dry.as_json() == {**report, "dry_run": True}
    bob = gateway.wire(BOB)
    assert bob.manifest(PRIVATE, "kept").expect(200).body == KEPT.manifest.content
    for blob in (KEPT.config, *KEPT.layers):
        assert bob.get(f"/v2/{PRIVATE}/blobs/{blob.digest}").expect(200).body == blob.content
    bob.manifest(PRIVATE, GONE.manifest.digest).expect(404)
    carol.push_image(PRIVATE, "gone", GONE)
    assert blobs(root) == digests(KEPT, GONE)


def test_it_works_without_a_gateway(root: Path, tmp_path: Path) -> None:
    """On a fresh folder and database there is nothing to do, and the report is one line."""
    gateway = GatewayProcess(tmp_path / "gateway", backend=store(root))
    done = run([PROGRAM, "gc", "--config", gateway.config])
    assert done.stdout == (
        "backend_local: manifests: 0 removed, 0 waiting; links: 0 removed, 0 waiting; blobs: 0 removed, 0 waiting; "
        "0 bytes freed, 0 waiting\n"
    )
    assert done.stderr == ""


@pytest.mark.parametrize("by", ["token", "password"])
def test_a_push_that_relies_on_old_garbage(served: GatewayProcess, by: str) -> None:
    """A client hears that old blobs exist, a collection runs, and the manifest comes: the push is not broken."""
    name = f"{PRIVATE}/relied-on-by-{by}"
    push_long_ago(served, name, GONE.config, *GONE.layers)
    carol = served.wire(CAROL)
    pusher = carol if by == "password" else carol.acting_as(carol.token(f"repository:{name}:pull,push"))
    for blob in (GONE.config, *GONE.layers):
        pusher.send("HEAD", f"/v2/{name}/blobs/{blob.digest}").expect(200)
    report = collect(served)
    assert (report.links.removed, report.links.waiting) == (0, 2)
    pusher.put_manifest(name, "1", GONE.manifest).expect(201)
    for blob in (GONE.config, *GONE.layers):
        assert served.wire(BOB).get(f"/v2/{name}/blobs/{blob.digest}").expect(200).body == blob.content


@pytest.mark.parametrize("by", ["token", "password"])
def test_a_look_of_somebody_who_only_pulls(served: GatewayProcess, by: str) -> None:
    """Whoever asked for no more than to pull, or may do no more, keeps no garbage by looking at it."""
    name, blob = f"{PRIVATE}/looked-at-by-{by}", images.Blob("application/octet-stream", f"seen by {by}".encode())
    push_long_ago(served, name, blob)
    carol = served.wire(CAROL)
    puller = served.wire(BOB) if by == "password" else carol.acting_as(carol.token(f"repository:{name}:pull"))
    puller.send("HEAD", f"/v2/{name}/blobs/{blob.digest}").expect(200)
    collect(served)
    puller.send("HEAD", f"/v2/{name}/blobs/{blob.digest}").expect(404)


def test_what_cant_be_removed_is_said(served: GatewayProcess) -> None:
    """A file that stays for a reason of the disk is a line and a failure; the next run tries it again."""
    name, blob = f"{PRIVATE}/stays", images.Blob("application/octet-stream", b"stays")
    push_long_ago(served, name, blob)
    lock = served.folder / "registry" / "locks" / blob.digest.partition(":")[2][:2]
    lock.unlink()
    lock.mkdir()
    assert collect(served).failed == [f"backend_local: {blob.digest} can't be removed: Is a directory"]
    assert blob.digest in blobs(served.folder / "registry")
    lock.rmdir()
    assert collect(served).failed == []
    assert blob.digest not in blobs(served.folder / "registry")


def test_only_one_collects(root: Path, tmp_path: Path) -> None:
    """While somebody else collects, the command says so and fails; a dry run reads all the same."""
    gateway = GatewayProcess(tmp_path / "gateway", backend=store(root))
    assert collect(gateway).failed == []
    with sqlite3.connect(gateway.data / "gateway.db", timeout=20) as connection:
        row = ("collect garbage of backend_local", "somebody else", int((time.time() + 600) * 1000))
        connection.execute("INSERT INTO leases VALUES (?, ?, ?)", row)
    connection.close()
    failed = run([PROGRAM, "gc", "--config", gateway.config], fails=True)
    assert "backend_local: a gateway or another command collects its garbage now" in failed.stderr
    assert collect(gateway, dry_run=True).failed == []


def test_a_lost_lease_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run can't say that it goes on, it ends, and the command says so in a line."""
    monkeypatch.setattr(collector, "_LEASE", 0.3)
    monkeypatch.setattr(database_module, "_BUSY_WRITER", 1.0)
    gateway = GatewayProcess(tmp_path / "gateway", backend=store(root))
    assert collect(gateway).failed == []
    for name in ("first", "second"):
        push_long_ago(gateway, f"{PRIVATE}/{name}", images.Blob("application/octet-stream", name.encode()))
    lock = sqlite3.connect(gateway.data / "gateway.db", isolation_level=None, check_same_thread=False)

    def hold_it_up(_said: str) -> None:
        if not lock.in_transaction:
            lock.execute("BEGIN IMMEDIATE")

    try:
        (report,) = asyncio.run(gc.collect(gateway.config, (), Wishes(), hold_it_up)).reports
    finally:
        lock.close()
    (problem,) = report.failed
    assert problem.startswith("backend_local: broken off: for a minute the database did not hear")


def test_a_backend_that_is_none_is_said(root: Path, tmp_path: Path) -> None:
    """A misspelt backend is an error that names those that are there."""
    gateway = GatewayProcess(tmp_path / "gateway", backend=store(root))
    with pytest.raises(ConfigError, match="there is no backend 'nosuch'; there is backend_local"):
        asyncio.run(gc.collect(gateway.config, ["nosuch"], Wishes(), lambda _: None))


def test_a_grace_that_is_none_is_said() -> None:
    """A duration is written as in the configuration."""
    said = CliRunner().invoke(cli, ["gc", "--config", "gateway.yaml", "--grace", "soon"])
    assert said.exit_code != 0
    assert "expected a duration such as 30s, 5m or 24h" in said.output


def test_over_another_registry_it_says_what_to_do(tmp_path: Path) -> None:
    """Its operator has to free the space: the command says how, and that is no failure."""
    gateway = GatewayProcess(tmp_path, backend={"use": "backend_distribution", "url": "http://127.0.0.1:9"})
    done = run([PROGRAM, "gc", "--config", gateway.config])
    assert done.stdout.startswith("backend_distribution: another registry holds these images")
    assert "registry garbage-collect" in done.stdout
    assert '{"mode": "read_only"}' in done.stdout


def metric(gateway: GatewayProcess, name: str) -> float | None:
    """Read one number of `/metrics`."""
    lines = Wire(gateway.admin_url).get("/metrics").expect(200).body.decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), None)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_job_collects_by_itself(gateway_factory: GatewayFactory, root: Path, workers: int) -> None:
    """Every interval somebody collects, and the metrics say what and when."""
    rules = {"interval": "1s", "grace": "0s", "quiet": "1s", "untagged": True}
    gateway = gateway_factory(backend=store(root, enabled=True, **rules), workers=workers)
    began = time.time()
    gateway.wire(CAROL).push_image(PRIVATE, "1", KEPT)
    loose = GONE.layers[0]
    gateway.wire(CAROL).push_blob(PRIVATE, loose)
    eventually(lambda: blobs(root) == digests(KEPT), "the job collects")
    name = "registry_gateway_gc_"
    last = f'{name}last_success_timestamp_seconds{{backend="backend_local"}}'
    eventually(lambda: (metric(gateway, last) or 0) >= began, "the time is told")
    eventually(
        lambda: metric(gateway, f'{name}removed_bytes_total{{backend="backend_local"}}') == len(loose.content),
        "the bytes are told",
    )
    assert metric(gateway, f'{name}removed_total{{backend="backend_local",kind="links"}}') == 1
    assert metric(gateway, f'{name}waiting_bytes{{backend="backend_local"}}') == 0
    assert gateway.wire(BOB).manifest(PRIVATE, "1").expect(200).body == KEPT.manifest.content
