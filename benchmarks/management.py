"""What managing many images costs: a page out of 100,000 tags, a plan over 10,000, and pulls while it is applied."""

from __future__ import annotations

import json
import sqlite3
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from benchmarks.tools import Row, Samples, requests_per_second, say
from tests.support.gateway import PROGRAM, GatewayProcess
from tests.support.images import CONFIG, MANIFEST, Blob, image
from tests.support.peers import PeerError, run
from tests.support.people import ALICE_API, PRIVATE, PUBLIC
from tests.support.wire import ACCEPT, Wire, authorization

if TYPE_CHECKING:
    from pathlib import Path

MANY, PLANNED = 100_000, 10_000
PAGE = 50
PAGE_GOAL = 50.0
PLAN_GOAL = 5.0
SLOWER_GOAL = 0.8
LISTED, CLEANED, PULLED = f"{PUBLIC}/listed", f"{PRIVATE}/cleaned", f"{PRIVATE}/pulled"
POLICY = {"enabled": True, "cadence": "1d", "name_regex": ".*", "keep_n": 1, "older_than": None}


def _fill(database: Path, repository: str, count: int, config: Blob, layer: Blob) -> None:
    """Write tags into the records, each on an image of its own; nobody has read their configs yet."""
    tables = sqlite3.connect(database)
    number = tables.execute("SELECT id FROM repositories WHERE path = ?", (repository,)).fetchone()[0]
    first = (tables.execute("SELECT max(id) FROM manifests").fetchone()[0] or 0) + 1
    now = int(time.time() * 1000)
    told = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor, "layers": [layer.descriptor]}

    def content(place: int) -> bytes:
        return json.dumps({**told, "annotations": {"place": str(place)}}).encode()

    images = [(first + place, Blob(MANIFEST, content(place))) for place in range(count)]
    size = len(layer.content)
    tables.executemany(
        "INSERT INTO manifests (id, repository_id, digest, media_type, size, content, held, config, layers_size, dated,"
        " pushed_at, pushed_by) VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, 0, ?, 'alice')",
        (
            (key, number, blob.digest, MANIFEST, len(blob.content), blob.content, config.digest, size, now + key)
            for key, blob in images
        ),
    )
    tables.executemany(
        "INSERT INTO manifest_references (manifest_id, position, kind, digest, media_type, size)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            (key, position, kind, blob.digest, blob.media_type, len(blob.content))
            for key, _ in images
            for position, (kind, blob) in enumerate((("config", config), ("layer", layer)))
        ),
    )
    tables.executemany(
        "INSERT INTO tags (repository_id, name, manifest_id, created_at, pushed_at, pushed_by, image_size)"
        " VALUES (?, ?, ?, ?, ?, 'alice', ?)",
        ((number, f"v{place}", key, now, now + key, size) for place, (key, _) in enumerate(images)),
    )
    tables.commit()
    tables.close()


def _page(caller: Wire, headers: dict[str, str], number: int) -> list[float]:
    """Milliseconds for pages of tags, the newest first, from the first to the last."""
    took = []
    for page in (1, 2, 3, 10, 100, 500, 1000, 1500, MANY // PAGE - 1, MANY // PAGE):
        path = f"/api/v4/projects/{_project(PUBLIC)}/registry/repositories/{number}/tags"
        query = f"per_page={PAGE}&page={page}&sort=-created&with_details=true"
        started = time.perf_counter()
        answer = caller.send("GET", f"{path}?{query}", headers=headers).expect(200)
        took.append((time.perf_counter() - started) * 1000)
        if len(answer.json()) != PAGE or answer.header("X-Total") != str(MANY):
            raise PeerError(f"{query}: {answer.header('X-Total')} tags, {len(answer.json())} on the page")
    return took


def measure(folder: Path, seconds: int, samples: Samples) -> None:
    """Fill a gateway of its own, and look at it, plan and clean up while somebody pulls."""
    say(f"managing images: {MANY} tags to list, {PLANNED} to clean up")
    config, layer = Blob(CONFIG, b'{"created": "2026-01-01T00:00:00Z"}'), Blob("application/x.layer", b"a layer")
    headers = {"PRIVATE-TOKEN": ALICE_API.password}
    with ExitStack() as stack:
        process = GatewayProcess(folder)
        process.start()
        stack.callback(process.end)
        caller = process.wire(ALICE_API)
        small = image(b"a manifest to fetch")
        caller.push_image(PULLED, "bench", small)
        for repository in (LISTED, CLEANED):
            caller.push_blob(repository, config)
            caller.push_blob(repository, layer)
        process.stop()
        for repository, count in ((LISTED, MANY), (CLEANED, PLANNED)):
            _fill(process.data / "gateway.db", repository, count, config, layer)
        process.start()
        anonymous = process.wire()
        numbers: dict[str, int] = {}
        for project in (PRIVATE, PUBLIC):
            listed = anonymous.send(
                "GET", f"/api/v4/projects/{_project(project)}/registry/repositories", headers=headers
            )
            numbers |= {item["path"]: item["id"] for item in listed.expect(200).json()}
        _page(anonymous, headers, numbers[LISTED])
        for _ in range(3):
            samples.add("management page", "gateway", statistics.median(_page(anonymous, headers, numbers[LISTED])))
        _plan(process, anonymous, headers, samples)
        number = numbers[CLEANED]
        _apply(process, caller, anonymous, headers=headers, number=number, seconds=seconds, samples=samples)


def _project(path: str = PRIVATE) -> str:
    return path.replace("/", "%2F")


def _plan(process: GatewayProcess, anonymous: Wire, headers: dict[str, str], samples: Samples) -> None:
    body = json.dumps({"container_expiration_policy_attributes": POLICY}).encode()
    path = f"/api/v4/projects/{_project()}"
    anonymous.send("PUT", path, body, {**headers, "Content-Type": "application/json"}).expect(200)
    for _ in range(2):
        started = time.perf_counter()
        words = ["cleanup", "plan", PRIVATE, "--repository", CLEANED, "--config", str(process.config), "--json"]
        found = run([str(PROGRAM), *words], within=120).stdout
        samples.add("management plan", "gateway", time.perf_counter() - started)
        if f'"v{PLANNED // 2}"' not in found:
            raise PeerError("the plan does not name the tags")


def _apply(
    process: GatewayProcess,
    caller: Wire,
    anonymous: Wire,
    *,
    headers: dict[str, str],
    number: int,
    seconds: int,
    samples: Samples,
) -> None:
    """Pull a manifest as often as it goes, alone and while a bulk deletion runs in the same worker."""
    pulling = caller.acting_as(caller.token(f"repository:{PULLED}:pull"))
    wanted = {**authorization(pulling.credential), "Accept": ACCEPT}
    url = pulling.absolute(f"/v2/{PULLED}/manifests/bench")
    samples.add("management pulls", "alone", requests_per_second(url, wanted, seconds))
    path = f"/api/v4/projects/{_project()}/registry/repositories/{number}/tags"
    anonymous.send("DELETE", f"{path}?name_regex_delete=.*", headers=headers).expect(202)
    while (before := _left(process)) == PLANNED:
        time.sleep(0.1)
    started = time.perf_counter()
    samples.add("management pulls", "cleaning", requests_per_second(url, wanted, 2 * seconds))
    samples.add("management applied", "gateway", (before - _left(process)) / (time.perf_counter() - started))


def _left(process: GatewayProcess) -> int:
    tables = sqlite3.connect(process.data / "gateway.db")
    joined = "SELECT count(*) FROM tags JOIN repositories ON repositories.id = repository_id WHERE path = ?"
    found: tuple[Any, ...] = tables.execute(joined, (CLEANED,)).fetchone()
    tables.close()
    return int(found[0])


def rows(samples: Samples) -> list[Row]:
    """Hold what was measured to the goals."""
    page, plan = samples.median("management page", "gateway"), samples.median("management plan", "gateway")
    alone, cleaning = (samples.median("management pulls", name) for name in ("alone", "cleaning"))
    applied = samples.median("management applied", "gateway")
    if not applied:
        raise PeerError("nothing was deleted while pulls were measured")
    return [
        Row(
            f"{PAGE} of {MANY:,} tags by date, p50",
            f"{page:.1f} ms",
            {},
            "",
            f"at most {PAGE_GOAL:g} ms",
            page <= PAGE_GOAL,
        ),
        Row(
            f"cleanup plan over {PLANNED:,} tags",
            f"{plan:.1f} s",
            {},
            "with the command's start",
            f"at most {PLAN_GOAL:g} s",
            plan <= PLAN_GOAL,
        ),
        Row(
            "manifest by tag while it is applied",
            f"{cleaning:,.0f}/s",
            {},
            f"{cleaning / alone:.2f}x alone, {applied:.0f} tags/s",
            f"{SLOWER_GOAL:g}x alone",
            cleaning >= SLOWER_GOAL * alone,
        ),
    ]
