"""What runs in the background beside the requests: it goes on whatever fails, and waits while nothing may change."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from gateway import app
from gateway.core import garbage
from gateway.core.collector import Collector
from gateway.core.metrics import JOB_FAILURES
from gateway.plugins import Job
from tests.contracts.oci.content import image
from tests.images.conftest import APP, Rig, rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

RULES = {"grace": "0s", "quiet": "1s", "untagged": True}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Rig]:
    """The parts of a gateway whose store keeps nothing for longer than it must."""
    backend = {"use": "backend_local", "root": str(tmp_path / "registry"), "gc": RULES}
    async with rig(tmp_path / "gateway", backend=backend) as opened:
        yield opened


async def _reached(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def _ended(*running: asyncio.Task[None]) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_work_that_fails_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a worker's runner raises is counted, and soon it runs again."""
    monkeypatch.setattr(app, "_ANEW", 0.01)
    runs = []

    async def run() -> None:
        runs.append(True)
        if len(runs) == 1:
            raise ValueError("not this time")
        await asyncio.Event().wait()

    before = JOB_FAILURES.labels("anything")._value.get()
    running = asyncio.create_task(app.always("anything", run, structlog.get_logger()))
    await _reached(lambda: len(runs) > 1)
    await _ended(running)
    assert JOB_FAILURES.labels("anything")._value.get() == before + 1


async def test_jobs_that_remove_wait(store: Rig) -> None:
    """While the registry is read-only, jobs that remove what somebody sent are not run, and others are."""
    done: list[str] = []

    def job(name: str, **more: Any) -> Job:
        async def run() -> None:
            done.append(name)

        return Job(name, timedelta(seconds=0.01), run, **more)

    maintenance, log = store.parts.maintenance, structlog.get_logger()
    await maintenance.switch({"mode": "read_only"})
    jobs = (job("expire uploads", removes=True), job("trim a cache"))
    running = [asyncio.create_task(app.periodically(each, maintenance, log)) for each in jobs]
    await _reached(lambda: done.count("trim a cache") > 3)
    assert "expire uploads" not in done
    await maintenance.switch({"mode": None})
    await _reached(lambda: "expire uploads" in done)
    await _ended(*running)


async def test_a_collection_waits(store: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection ends where the registry becomes read-only, begins none meanwhile, and goes on afterwards."""
    monkeypatch.setattr(garbage, "_AT_ONCE", 1)
    for _ in range(100):
        await store.push(image())
    parts = store.parts
    collector = Collector(parts.plugins, parts.database, structlog.get_logger(), lambda: time.time() + 3600)
    (job,) = collector.jobs(parts.maintenance)
    running = asyncio.ensure_future(job.run())
    await _reached(lambda: bool(store.deleted))
    await parts.maintenance.switch({"mode": "read_only"})
    await running
    gone = len(store.deleted)
    assert 0 < gone < 100
    await job.run()
    assert len(store.deleted) == gone
    await parts.maintenance.switch({"mode": None})
    await job.run()
    assert len(store.deleted) == 100
    assert await parts.metadata.digests(APP) == []
