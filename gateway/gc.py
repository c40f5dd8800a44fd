"""Collecting garbage by command, beside a gateway that serves or without one: ``registry-gateway gc``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from gateway import app, launcher
from gateway.core import keys, logs
from gateway.core.collector import CollectingError, Collector
from gateway.core.database import migrate
from gateway.core.garbage import Report, Tally, Tell
from gateway.core.leases import LeaseLostError
from gateway.errors import ConfigError, RegistryError
from gateway.plugins import NoCache, Upstream

_ASKED: Final = ("gateway_backends", "gateway_choose_backend")

_UPSTREAM: Final = """another registry holds these images, and only its operator can free their space:
1. Make this gateway read-only: PUT {"mode": "read_only"} to /maintenance on the admin listener, or set
   `maintenance: read_only` and restart. Pulls go on; pushes and deletions get 503 and may come again.
2. See that nobody else writes to the registry, and that what had begun has ended.
3. Let it collect its garbage. Docker Distribution: `registry garbage-collect config.yml`, with `--delete-untagged` also
   what no tag names; restart it then if it caches blobs. Harbor: Administration, Clean Up. A cloud registry: by itself.
4. Let pushes in again: PUT {"mode": null} to /maintenance. If untagged manifests went, `registry-gateway crawl` makes
   the records true."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says; None: as the backend's own configuration says it."""

    dry_run: bool = False
    grace: timedelta | None = None
    untagged: bool | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """The reports of the backends that hold bytes, and for each that is another registry what its operator must do."""

    reports: Sequence[Report]
    advice: Mapping[str, str]


async def collect(path: Path, only: Sequence[str], wishes: Wishes, tell: Callable[[str], None]) -> Collected:
    """Collect the garbage of the backends named *only*, or of all, of the configuration at *path*.

    *tell* is told what was done so far. Raises ConfigError where the configuration is no good or has no such backend.
    """
    # What goes wrong is said once, by the command; what it deletes is logged as the gateway would.
    logs.configure("deletions")
    config = launcher.check(path)
    signing = config.tokens.signing_key_file.exists()
    own = keys.load(config.tokens, shared=config.database.shared, create=False) if signing else keys.ephemeral()
    parts = app.build(config, own, NoCache())
    plugins, database = parts.plugins, parts.database
    has = ", ".join(plugins.backends)
    wrong = [f"there is no backend {name!r}; there is {has}" for name in only if name not in plugins.backends]
    if wrong:
        raise ConfigError(wrong)
    chosen = list(dict.fromkeys(only)) or list(plugins.backends)
    collector = Collector(plugins, database, logs.get("gc"))

    def shown(report: Report, what: str) -> None:
        tell(f"{as_text(report)} ({report.repositories} repositories; {what})")

    await migrate(config.database)
    await database.open()
    try:
        async with plugins.lifespan(_ASKED):
            reports = [await _one(collector, name, wishes, shown) for name in chosen if name in collector.backends]
    finally:
        await database.close()
    advice = {name: _UPSTREAM for name in chosen if isinstance(plugins.backends[name], Upstream)}
    return Collected(reports, advice)


async def _one(collector: Collector, name: str, wishes: Wishes, tell: Tell) -> Report:
    rules = collector.backends[name].garbage
    if wishes.grace is not None:
        rules = replace(rules, grace=wishes.grace)
    if wishes.untagged is not None:
        rules = replace(rules, untagged=wishes.untagged)
    try:
        return await collector.run(name, rules, tell, dry_run=wishes.dry_run)
    except CollectingError:
        problem = "a gateway or another command collects its garbage now; run it again later"
    except LeaseLostError:
        problem = "broken off: for a minute the database did not hear that this run goes on; run it again"
    except RegistryError as error:
        problem = error.why or error.message
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
    return Report(name, dry_run=wishes.dry_run, failed=[f"{name}: {problem}"])


def as_text(report: Report) -> str:
    """The report in one line."""
    removed, freed = ("would go", "would be freed") if report.dry_run else ("removed", "freed")
    parts = [
        f"{kind}: {tally.removed} {removed}, {tally.waiting} waiting"
        for kind, tally in (("manifests", report.manifests), ("links", report.links), ("blobs", report.blobs))
    ]
    return f"{report.backend}: {'; '.join(parts)}; {_bytes(report.blobs, freed)}"


def _bytes(tally: Tally, freed: str) -> str:
    return f"{tally.removed_bytes} bytes {freed}, {tally.waiting_bytes} waiting"
