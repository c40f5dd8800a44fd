"""The gateway beside the registry that it may stand in front of, and beside nginx, which does the least there is to do.

All three run at once and take turns, so that a busy machine is as busy for each; a figure is the median of the rounds.
Everything is on loopback, lies in a temporary folder (TMPDIR or /var/tmp, up to 10 GiB) and is gone afterwards.
A goal missed is no failure: exit 0.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table

from benchmarks import management, relay, upstream
from benchmarks.tools import (
    MIB,
    TRANSFERS,
    Contender,
    Row,
    Samples,
    Scale,
    children,
    crowd,
    distinct,
    peak,
    pull,
    push,
    requests_per_second,
    say,
)
from tests.install_peers import FOR_BENCHMARKS
from tests.support.distribution import distribution
from tests.support.gateway import PROGRAM, GatewayProcess
from tests.support.images import LAYER, Blob, image
from tests.support.peers import Peer, PeerError, accepts, free_port
from tests.support.people import ALICE_API, ALICE_READ_WRITE, PRIVATE
from tests.support.wire import ACCEPT, SERVICE, Wire, authorization

if TYPE_CHECKING:
    from collections.abc import Sequence

TAG = "bench"
MANIFEST_PATH = f"/v2/{PRIVATE}/manifests/{TAG}"
SMALL_GOAL = 5.0
STATIC_GOAL = 0.9
EVEN = 1.0
TOKENS_GOAL = 2.0
MEMORY_GOAL = 200.0
RELAY_GOAL = 5.0
WARM_GOAL = 2.0
"""Milliseconds that a warm decision may take in 99 of 100 cases."""

OURS, OURS_TWO, REGISTRY, NGINX = "gateway", "gateway, 2 workers", "registry", "nginx"

NGINX_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
  access_log off;
  sendfile on;
  default_type application/octet-stream;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/root;
  }}
}}
"""


# -- the contenders -----------------------------------------------------------------------------------------


@contextmanager
def gateway(folder: Path, workers: int) -> Iterator[GatewayProcess]:
    """Run the gateway with SQLite and local files."""
    process = GatewayProcess(folder, workers=workers)
    process.start()
    try:
        yield process
    finally:
        process.end()


@contextmanager
def static(folder: Path, files: dict[str, bytes]) -> Iterator[str]:
    """Serve files by their paths with nginx, and give its address."""
    folder.mkdir()
    # An nginx that root starts serves as nobody, who must be able to come by.
    for parent in (folder.parent, folder):
        parent.chmod(0o755)
    for path, content in files.items():
        target = folder / "root" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONFIGURATION.format(folder=folder, port=port))
    with Peer(["nginx", "-e", "stderr", "-p", folder, "-c", config], log=folder / "nginx.log") as peer:
        peer.wait_ready(lambda: accepts(port))
        yield f"http://127.0.0.1:{port}"


# -- the measures -------------------------------------------------------------------------------------------


def manifest_rate(contender: Contender, seconds: int) -> float:
    """Requests per second for a manifest by tag."""
    caller = contender.caller()
    headers = {**authorization(caller.credential), "Accept": ACCEPT}
    return requests_per_second(caller.absolute(MANIFEST_PATH), headers, seconds)


def token_rate(contender: Contender, seconds: int) -> float:
    """Requests per second for a token with one repository in its scope, by a personal access token."""
    query = urlencode({"service": SERVICE, "scope": f"repository:{PRIVATE}:pull"})
    return requests_per_second(contender.wire.absolute(f"/jwt/auth?{query}"), authorization(ALICE_API), seconds)


def others() -> float:
    """The share of the CPUs that is busy while we do nothing: with more than a little of it, ratios mean less."""

    def ticks() -> tuple[int, int]:
        first = Path("/proc/stat").read_text().splitlines()[0]
        spent = [int(word) for word in first.split()[1:9]]
        return sum(spent), spent[3] + spent[4]

    total, idle = ticks()
    time.sleep(0.5)
    total_then, idle_then = ticks()
    return 1 - (idle_then - idle) / max(1, total_then - total)


# -- the run ------------------------------------------------------------------------------------------------


def one_round(contenders: Sequence[Contender], blob_path: str, scale: Scale, samples: Samples) -> None:
    """Measure each contender once, in the order given."""
    for contender in contenders:
        samples.add("manifest", contender.name, manifest_rate(contender, scale.seconds))
    for contender in contenders:
        if contender.name == OURS:
            samples.add("token", contender.name, token_rate(contender, scale.seconds))
    single = [contender for contender in contenders if contender.name != OURS_TWO]
    for contender in single:
        took = pull(contender.caller(), blob_path, scale.blob * MIB)
        samples.add("pull", contender.name, scale.blob * MIB / 1e6 / took)
    for contender in single:
        if contender.name == NGINX:
            continue
        content = os.urandom(scale.blob * MIB)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        caller = contender.caller("pull,push")
        os.sync()
        samples.add("push", contender.name, push(caller, (content,), digest))


def measure(folder: Path, scale: Scale) -> Samples:
    """Start everything, fill it, let it take turns, and end it."""
    samples = Samples()
    blob = Blob(LAYER, os.urandom(scale.blob * MIB))
    many = Blob(LAYER, os.urandom(scale.many * MIB))
    small = image(b"a manifest to fetch")
    blob_path, many_path = (f"/v2/{PRIVATE}/blobs/{each.digest}" for each in (blob, many))
    with ExitStack() as stack:
        ours = stack.enter_context(gateway(folder / "one", 1))
        two = stack.enter_context(gateway(folder / "two", 2))
        (folder / "registry").mkdir()
        registry = stack.enter_context(distribution(folder / "registry"))
        files = {MANIFEST_PATH: small.manifest.content, blob_path: blob.content}
        nginx = stack.enter_context(static(folder / "nginx", files))
        contenders = [
            Contender(OURS, ours.wire(ALICE_READ_WRITE)),
            Contender(REGISTRY, Wire(registry.url)),
            Contender(NGINX, Wire(nginx)),
            Contender(OURS_TWO, two.wire(ALICE_READ_WRITE)),
        ]
        for contender in contenders:
            if contender.name == NGINX:
                continue
            caller = contender.caller("pull,push")
            caller.push_image(PRIVATE, TAG, small)
            if contender.name != OURS_TWO:
                caller.push_blob(PRIVATE, blob)
                caller.push_blob(PRIVATE, many)
        del blob, files
        for number in range(scale.rounds):
            busy = others()
            samples.add("busy", "others", busy)
            say(f"round {number + 1} of {scale.rounds}; others keep {busy:.0%} of the machine busy")
            one_round(contenders if number % 2 == 0 else contenders[::-1], blob_path, scale, samples)
        say(f"{2 * TRANSFERS} transfers at once")
        for contender, processes in ((contenders[0], children(ours.pid)), (contenders[1], [registry.peer.pid])):
            crowd(contender.caller("pull,push"), many_path, scale.many * MIB, distinct(scale.many * MIB))
            samples.add("memory", contender.name, max(peak(pid) for pid in processes))
    for name, value in relay.measure(folder / "relay", scale.seconds, requests_per_second).items():
        samples.add("relay", name, value)
    upstream.measure(folder / "upstream", scale, samples)
    management.measure(folder / "management", scale.seconds, samples)
    return samples


def relayed(samples: Samples) -> Iterator[Row]:
    """The rows of the token endpoint before a GitLab that takes 20 ms."""
    direct, warm = (samples.median("relay", name) for name in ("direct", "warm"))
    yield Row(
        "GitLab's answer, warm, 1 worker",
        f"{warm:,.0f}/s",
        {REGISTRY: f"{direct:,.0f}/s (asking it)"},
        f"{warm / direct:.1f}x asking GitLab",
        f"{RELAY_GOAL:g}x asking GitLab",
        warm >= RELAY_GOAL * direct,
    )
    for name, where in (("memory", "in the process"), ("redis", "in Redis")):
        middle, most = (samples.median("relay", f"{name} {part}") for part in ("p50", "p99"))
        yield Row(
            f"GitLab's answer, warm {where}, one by one",
            f"p50 {middle:.2f} ms",
            {REGISTRY: f"cold p50 {samples.median('relay', 'cold p50'):.1f} ms"},
            f"p99 {most:.2f} ms",
            f"p99 at most {WARM_GOAL:g} ms",
            most <= WARM_GOAL,
        )


def rows(samples: Samples, scale: Scale) -> Iterator[Row]:
    """Hold what was measured to the goals."""
    registry, nginx = (samples.median("manifest", name) for name in (REGISTRY, NGINX))
    for name, workers in ((OURS, "1 worker"), (OURS_TWO, "2 workers")):
        rate = samples.median("manifest", name)
        yield Row(
            f"manifest by tag, {workers}",
            f"{rate:,.0f}/s",
            {REGISTRY: f"{registry:,.0f}/s", NGINX: f"{nginx:,.0f}/s"},
            f"{rate / registry:.1f}x registry",
            f"{SMALL_GOAL:g}x registry",
            rate >= SMALL_GOAL * registry,
        )
    speed, slower, static_speed = (samples.median("pull", name) for name in (OURS, REGISTRY, NGINX))
    yield Row(
        f"pull {scale.blob} MiB",
        f"{speed:,.0f} MB/s",
        {REGISTRY: f"{slower:,.0f} MB/s", NGINX: f"{static_speed:,.0f} MB/s"},
        f"{speed / static_speed:.2f}x nginx, {speed / slower:.2f}x registry",
        f"{STATIC_GOAL:g}x nginx, {EVEN:g}x registry",
        speed >= STATIC_GOAL * static_speed and speed >= EVEN * slower,
    )
    took, theirs = (samples.median("push", name) for name in (OURS, REGISTRY))
    yield Row(
        f"push {scale.blob} MiB",
        f"{took:.2f} s",
        {REGISTRY: f"{theirs:.2f} s"},
        f"{theirs / took:.2f}x as fast",
        f"{EVEN:g}x registry",
        theirs / took >= EVEN,
    )
    tokens = samples.median("token", OURS)
    yield Row(
        "token endpoint, access token, 1 worker",
        f"{tokens:,.0f}/s",
        {REGISTRY: f"{registry:,.0f}/s (manifests)"},
        f"{tokens / registry:.1f}x",
        f"{TOKENS_GOAL:g}x registry",
        tokens >= TOKENS_GOAL * registry,
    )
    held, held_there = (samples.median("memory", name) for name in (OURS, REGISTRY))
    yield Row(
        f"peak RSS per worker, {TRANSFERS} up + {TRANSFERS} down of {scale.many} MiB",
        f"{held:,.0f} MiB",
        {REGISTRY: f"{held_there:,.0f} MiB"},
        f"{held / held_there:.2f}x registry",
        f"at most {MEMORY_GOAL:g} MiB",
        held <= MEMORY_GOAL,
    )


def table(samples: Samples, scale: Scale) -> Table:
    """Lay it out for people."""
    words = ("aiohttp", "uvloop")
    made_of = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in words)])
    busy = max(samples.values["busy", "others"])
    result = Table(
        title=f"Registry Gateway, medians of {scale.rounds} interleaved rounds",
        caption=f"{os.cpu_count()} CPUs, {busy:.0%} busy with other work; {made_of}; all log by their defaults",
        caption_justify="left",
    )
    for heading in ("", "gateway", REGISTRY, NGINX, "ratio", "goal", ""):
        result.add_column(heading)
    for row in (*rows(samples, scale), *relayed(samples), *upstream.rows(samples, scale), *management.rows(samples)):
        verdict = "[green]met[/green]" if row.met else "[red]fell short[/red]"
        peers = (row.peers.get(name, "") for name in (REGISTRY, NGINX))
        result.add_row(row.what, row.ours, *peers, row.ratio, row.goal, verdict)
    return result


def main() -> int:
    """Measure, and print the one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default: 5)")
    parser.add_argument("--quick", action="store_true", help="less of everything: a look, not a measurement")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    scale = Scale(1, 1, 64, 16) if options.quick else Scale(options.rounds, 4, 256, 128)
    missing = [peer.program for peer in FOR_BENCHMARKS if not peer.installed()]
    if missing or not PROGRAM.exists():
        say(f"not installed: {', '.join(missing) or PROGRAM.name}; `make bench` installs what it needs")
        return 1
    # The end by a signal is an ordinary end: whatever was started ends too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    # /tmp may be memory, where flushing costs nothing.
    disk = os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - only where mkdtemp makes a folder of our own
    folder = Path(tempfile.mkdtemp(prefix="registry-gateway-bench-", dir=disk))
    try:
        samples = measure(folder, scale)
    except (PeerError, AssertionError, OSError) as error:
        say(f"the benchmark broke off: {error}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    terminal = Console()
    # In a file or a log a line may be as long as it needs to be.
    Console(width=None if terminal.is_terminal else 200).print(table(samples, scale))
    return 0


if __name__ == "__main__":
    sys.exit(main())
