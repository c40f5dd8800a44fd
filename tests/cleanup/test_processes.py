"""Real gateways: several replicas run a policy once, and one that is killed in the middle is gone on with."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from gateway.config import DatabaseConfig
from gateway.core.database import Database
from gateway.core.documents import DatabaseDocuments
from gateway.plugins import ExpirationPolicy
from plugins.cleanup import rules
from tests.support.images import Image, image, index
from tests.support.peers import eventually
from tests.support.people import ALICE, HIDDEN, PRIVATE, PUBLIC
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess
    from tests.support.postgres import Postgres

POLICY = ExpirationPolicy(enabled=True, keep_n=None, older_than=None, name_regex="old.*")
SOON = {"interval": "1s"}


def keep(url: str, *projects: str) -> None:
    """Keep a policy for each project that is due now."""

    async def kept() -> None:
        database = Database(DatabaseConfig(url=SecretStr(url)))
        await database.open()
        following = {"next_run_at": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}
        for project in projects:
            value = rules.as_json(POLICY) | following
            await DatabaseDocuments(database, "cleanup").put("policy", project, value, "alice")
        await database.close()

    asyncio.run(kept())


def push(wire: Wire, repository: str, some: Image, *tags: str) -> None:
    """Push one image under several tags."""
    wire.push_image(repository, tags[0], some)
    for tag in tags[1:]:
        wire.put_manifest(repository, tag, some.manifest).expect(201)


def tags(wire: Wire, repository: str) -> list[str]:
    """List the tags of a repository."""
    found: list[str] = wire.get(f"/v2/{repository}/tags/list").expect(200).json()["tags"]
    return found


def lines(gateway: GatewayProcess, event: str) -> list[dict[str, Any]]:
    """Read the lines of one kind in a gateway's log."""
    return [json.loads(line) for line in gateway.log.splitlines() if f'"event":"{event}"' in line]


def test_replicas_run_a_policy_once(gateway_factory: GatewayFactory, postgres: Postgres, tmp_path: Path) -> None:
    """Two gateways over one database see the same policies due at the same time: each is run by one, once."""
    url, backend = postgres.database(), {"use": "backend_local", "root": str(tmp_path / "registry")}
    replicas = [gateway_factory(database_url=url, backend=backend, cleanup=SOON) for _ in range(2)]
    projects = [PRIVATE, PUBLIC, HIDDEN]
    wire = replicas[0].wire(ALICE)
    old = [f"old-{number}" for number in range(8)]
    for project in projects:
        push(wire, f"{project}/image", image(project.encode()), "kept", *old)
    keep(url, *projects)
    done = "a repository was cleaned up"
    eventually(lambda: sum(len(lines(one, done)) for one in replicas) == len(projects), "all are cleaned up")
    for project in projects:
        assert tags(wire, f"{project}/image") == ["kept"]
    gone = Counter((line["repository"], *line["tags"]) for one in replicas for line in lines(one, "deleted"))
    assert set(gone.values()) == {1}
    assert len(gone) == len(projects) * len(old)
    assert [line["removed"] for one in replicas for line in lines(one, done)] == [len(old)] * len(projects)


def test_a_run_that_is_killed_is_gone_on_with(gateway_factory: GatewayFactory) -> None:
    """After kill -9 in the middle the next process finishes, and nothing outside the plan is gone."""
    gateway = gateway_factory(cleanup=SOON)
    wire, database = gateway.wire(ALICE), gateway.data / "gateway.db"
    old = [f"old-{number:02}" for number in range(60)]
    push(wire, PRIVATE, image(b"old"), *old)
    push(wire, PRIVATE, image(b"kept"), "kept", "latest", "not-old")
    multi = index("multi")
    for each in multi.images:
        wire.push_image(PRIVATE, f"old-{each.architecture}", each)
    wire.put_manifest(PRIVATE, "multi", multi.manifest).expect(201)
    keep(f"sqlite:///{database}", PRIVATE)
    eventually(lambda: len(tags(wire, PRIVATE)) < 60, "some are gone")
    gateway.kill()
    with closing(sqlite3.connect(database)) as tables, tables:
        (state,) = tables.execute("SELECT cleanup_state FROM repositories").fetchone()
        assert state == "ongoing"
        # A minute later.
        assert tables.execute("UPDATE leases SET held_until = 0 WHERE name LIKE 'cleanup policy%'").rowcount == 1
    gateway.start()
    left = ["kept", "latest", "multi", "not-old"]
    eventually(lambda: tags(wire, PRIVATE) == left, "the rest is gone")
    eventually(lambda: lines(gateway, "a repository was cleaned up"), "the run has ended")
    with closing(sqlite3.connect(database)) as tables:
        assert tables.execute("SELECT cleanup_state FROM repositories").fetchone() == ("unscheduled",)
    for tag in left:
        wire.manifest(PRIVATE, tag).expect(200)
    for each in multi.images:
        wire.manifest(PRIVATE, each.manifest.digest).expect(200)
        for blob in (each.config, *each.layers):
            assert wire.get(f"/v2/{PRIVATE}/blobs/{blob.digest}").expect(200).body == blob.content
