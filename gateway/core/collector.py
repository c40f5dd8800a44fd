"""When garbage is collected and by whom: one run at a time for each backend, of all workers, replicas and commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final

from gateway.core.database import Database
from gateway.core.documents import DatabaseDocuments
from gateway.core.garbage import Permit, Report, Sweep, Tell, always
from gateway.core.leases import Leases
from gateway.core.maintenance import Maintenance, ReadOnlyError
from gateway.core.metrics import (
    GARBAGE_LAST_SUCCESS,
    GARBAGE_REMOVED,
    GARBAGE_REMOVED_BYTES,
    GARBAGE_WAITING_BYTES,
)
from gateway.oci import RepositoryName
from gateway.plugins import Collectable, GarbageRules, Job
from gateway.plugins.manager import Plugins

_LEASE: Final = 60.0
"""Seconds after which a run that was killed no longer stands in the way of the next."""
_LOOK: Final = timedelta(minutes=1)
_KIND: Final = "gc"


class CollectingError(RuntimeError):
    """Somebody else collects the garbage of the backend now."""


class Collector:
    """Collects the garbage of the backends that only hold bytes, and remembers when that was done last."""

    def __init__(self, plugins: Plugins, database: Database, log: Any, clock: Callable[[], float] = time.time) -> None:
        self.backends: Mapping[str, Collectable] = {
            name: backend for name, backend in plugins.backends.items() if isinstance(backend, Collectable)
        }
        self._plugins = plugins
        self._database = database
        self._documents = DatabaseDocuments(database, "gateway", clock)
        self._leases = Leases(database)
        self._log = log
        self._clock = clock

    def jobs(self, maintenance: Maintenance) -> list[Job]:
        """One for each backend whose rules want it; each looks often and does something once in an interval.

        While the registry is read-only none begins, and one that runs ends.
        """
        return [
            Job(
                f"collect garbage of {name}",
                min(interval, _LOOK),
                partial(self._run_if_due, name, interval, maintenance),
                removes=True,
            )
            for name, backend in self.backends.items()
            if (interval := backend.garbage.interval) is not None
        ]

    async def run(self, name: str, rules: GarbageRules, tell: Tell, *, dry_run: bool = False) -> Report:
        """Collect the garbage of one backend, or with *dry_run* only say what that would do.

        Raises CollectingError while somebody else does, and RegistryError where the database can't answer.
        """
        if dry_run:
            return await self._sweep(name, rules, tell, dry_run=True)
        async with self._leases.held(f"collect garbage of {name}", _LEASE) as mine:
            if not mine:
                raise CollectingError(name)
            return await self._collect(name, rules, tell)

    async def tell_metrics(self) -> None:
        """Set the gauges, which say the same in every process."""
        for name in self.backends:
            last = await self._last(name)
            if last["ended"] is not None:
                GARBAGE_LAST_SUCCESS.labels(name).set(last["ended"])
                GARBAGE_WAITING_BYTES.labels(name).set(last["waiting_bytes"])

    async def _run_if_due(self, name: str, interval: timedelta, maintenance: Maintenance) -> None:
        if not await self._is_due(name, interval):
            return
        async with self._leases.held(f"collect garbage of {name}", _LEASE) as mine:
            # Another worker may have been quicker, and be done already.
            if not mine or not await self._is_due(name, interval):
                return
            before = await self._last(name)
            try:
                rules, permit = self.backends[name].garbage, maintenance.require_writable
                report = await self._collect(name, rules, lambda _report, _what: None, permit)
            except ReadOnlyError:
                # As if it had not begun: it is due as soon as the registry is writable.
                await self._documents.put(_KIND, name, before, "gc")
                self._log.info("collection of garbage waits: the registry is read-only", backend=name)
                return
        for kind, tally in (("manifests", report.manifests), ("links", report.links), ("blobs", report.blobs)):
            GARBAGE_REMOVED.labels(name, kind).inc(tally.removed)
        GARBAGE_REMOVED_BYTES.labels(name).inc(report.blobs.removed_bytes)
        self._log.info("garbage collected", **report.as_json())
        if report.failed:
            raise RuntimeError(f"some garbage of {name} could not be removed")

    async def _is_due(self, name: str, interval: timedelta) -> bool:
        began = (await self._last(name))["began"]
        return began is None or began + interval.total_seconds() <= self._clock()

    async def _collect(self, name: str, rules: GarbageRules, tell: Tell, permit: Permit = always) -> Report:
        # Noted before it is done: one that fails is not tried again at once, for ever.
        last = {**await self._last(name), "began": self._clock()}
        await self._documents.put(_KIND, name, last, "gc")
        report = await self._sweep(name, rules, tell, permit)
        if not report.failed:
            done = {**last, "ended": self._clock(), "waiting_bytes": report.blobs.waiting_bytes}
            await self._documents.put(_KIND, name, done, "gc")
        return report

    async def _sweep(
        self, name: str, rules: GarbageRules, tell: Tell, permit: Permit = always, *, dry_run: bool = False
    ) -> Report:
        backend = self.backends[name]

        async def owns(repository: RepositoryName) -> bool:
            return await self._plugins.backend(repository) is backend

        report = Report(name, dry_run=dry_run)
        return await Sweep(self._database, report, backend, rules, owns, tell, self._log, self._clock, permit).run()

    async def _last(self, name: str) -> dict[str, Any]:
        """When the last run began and the last good one ended (seconds since 1970), and what waited then."""
        found = await self._documents.get(_KIND, name)
        return {"began": None, "ended": None, "waiting_bytes": 0, **(found.value if found else {})}
