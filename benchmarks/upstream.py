"""The gateway before a registry, beside that registry itself and beside nginx before it. All take turns."""

from __future__ import annotations

import hashlib
import http.client
import os
import statistics
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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
    spent,
)
from tests.support.distribution import distribution
from tests.support.gateway import GatewayProcess
from tests.support.images import LAYER, Blob, image
from tests.support.peers import Peer, PeerError, accepts, free_port
from tests.support.people import ALICE_READ_WRITE, PRIVATE
from tests.support.wire import ACCEPT, Wire, authorization

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

TAG = "bench"
MANIFEST_PATH = f"/v2/{PRIVATE}/manifests/{TAG}"
HEADS = 400
"""Questions one after the other, for a latency."""

PROXY_GOAL = 1.2
CACHED_GOAL = 1.0
EXCLUSIVE_GOAL = 4.0
ASKING_GOAL = 0.7
PUSH_GOAL = 0.9
HEAD_GOAL = 1.0
"""Milliseconds that a HEAD may take longer than without us."""
MEMORY_GOAL = 200.0

ASKING, KEEPING, DIRECT, NGINX = "asks every time", "exclusive, with a cache", "registry", "nginx"

NGINX_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream registry {{ server {host}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 0;
    location / {{
      proxy_pass http://registry;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_request_buffering off;
      proxy_read_timeout 900;
    }}
  }}
}}
"""


@contextmanager
def proxy(folder: Path, host: str) -> Iterator[tuple[str, int]]:
    """Stand before *host* with nginx; its address and process."""
    folder.mkdir()
    for parent in (folder.parent.parent, folder.parent, folder):
        parent.chmod(0o755)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONFIGURATION.format(folder=folder, port=port, host=host))
    with Peer(["nginx", "-e", "stderr", "-p", folder, "-c", config], log=folder / "nginx.log") as peer:
        peer.wait_ready(lambda: accepts(port))
        yield f"http://127.0.0.1:{port}", peer.pid


def before(stack: ExitStack, folder: Path, url: str, **keys: Any) -> GatewayProcess:
    """Start a gateway with one worker."""
    process = GatewayProcess(folder, backend={"use": "backend_distribution", "url": url, **keys})
    process.start()
    stack.callback(process.end)
    return process


def head_latency(caller: Wire) -> float:
    """The median of the milliseconds that a HEAD of a manifest takes, on one connection."""
    connection = http.client.HTTPConnection(urlsplit(caller.base_url).netloc, timeout=60)
    headers = {**authorization(caller.credential), "Accept": ACCEPT}
    found = []
    try:
        for _ in range(HEADS):
            started = time.perf_counter()
            connection.request("HEAD", MANIFEST_PATH, headers=headers)
            answer = connection.getresponse()
            answer.read()
            found.append(1000 * (time.perf_counter() - started))
            if answer.status != http.client.OK:
                raise PeerError(f"{caller.base_url}: {answer.status}")
    finally:
        connection.close()
    return statistics.median(found)


def one_round(contenders: Sequence[Contender], blob_path: str, scale: Scale, samples: Samples) -> None:
    """Measure each contender once, in the order given."""
    for contender in contenders:
        caller = contender.caller()
        headers = {**authorization(caller.credential), "Accept": ACCEPT}
        rate = requests_per_second(caller.absolute(MANIFEST_PATH), headers, scale.seconds)
        samples.add("upstream manifest", contender.name, rate)
    for contender in contenders:
        samples.add("upstream head", contender.name, head_latency(contender.caller()))
    for contender in contenders:
        began = spent(contender.pids)
        took = pull(contender.caller(), blob_path, scale.blob * MIB)
        samples.add("upstream pull", contender.name, scale.blob * MIB / 1e6 / took)
        samples.add("upstream cpu", contender.name, (spent(contender.pids) - began) * 1024 / scale.blob)
    for contender in contenders:
        content = os.urandom(scale.blob * MIB)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        caller = contender.caller("pull,push")
        os.sync()
        samples.add("upstream push", contender.name, push(caller, (content,), digest))


def measure(folder: Path, scale: Scale, samples: Samples) -> None:
    """Start a registry and what stands before it, let them take turns, and end them."""
    folder.mkdir()
    blob, many = (Blob(LAYER, os.urandom(size * MIB)) for size in (scale.blob, scale.many))
    blob_path, many_path = (f"/v2/{PRIVATE}/blobs/{each.digest}" for each in (blob, many))
    with ExitStack() as stack:
        registry = stack.enter_context(distribution(folder))
        direct = Wire(registry.url)
        direct.push_image(PRIVATE, TAG, image(b"a manifest to fetch"))
        direct.push_blob(PRIVATE, blob)
        direct.push_blob(PRIVATE, many)
        del blob
        asking = before(stack, folder / "asking", registry.url)
        cache = {"path": str(folder / "blobs"), "size": "4GiB"}
        keeping = before(stack, folder / "keeping", registry.url, exclusive=True, blob_cache=cache)
        nginx, nginx_pid = stack.enter_context(proxy(folder / "nginx", registry.host))
        contenders = [
            Contender(ASKING, asking.wire(ALICE_READ_WRITE), children(asking.pid)),
            Contender(DIRECT, direct, [registry.peer.pid]),
            Contender(NGINX, Wire(nginx), [nginx_pid]),
            Contender(KEEPING, keeping.wire(ALICE_READ_WRITE), children(keeping.pid)),
        ]
        # What is measured of a cache is what it has.
        pull(contenders[-1].caller(), blob_path, scale.blob * MIB)
        for number in range(scale.rounds):
            say(f"before a registry, round {number + 1} of {scale.rounds}")
            one_round(contenders if number % 2 == 0 else contenders[::-1], blob_path, scale, samples)
        say(f"{2 * TRANSFERS} transfers at once before a registry")
        asked = contenders[0]
        crowd(asked.caller("pull,push"), many_path, scale.many * MIB, distinct(scale.many * MIB))
        samples.add("upstream memory", ASKING, max(peak(pid) for pid in asked.pids))


def rows(samples: Samples, scale: Scale) -> Iterator[Row]:
    """Hold what was measured to the goals."""
    proxied, straight = (samples.median("upstream pull", name) for name in (NGINX, DIRECT))
    through, kept = (samples.median("upstream pull", name) for name in (ASKING, KEEPING))
    peers = {"registry": f"{straight:,.0f} MB/s", "nginx": f"{proxied:,.0f} MB/s"}
    yield Row(
        f"before a registry: pull {scale.blob} MiB, not kept",
        f"{through:,.0f} MB/s",
        peers,
        f"{through / proxied:.2f}x nginx before it",
        f"{PROXY_GOAL:g}x nginx before it",
        through >= PROXY_GOAL * proxied,
    )
    ours, theirs = (samples.median("upstream cpu", name) for name in (ASKING, NGINX))
    yield Row(
        "  processor time of that",
        f"{ours:.2f} s/GiB",
        {"nginx": f"{theirs:.2f} s/GiB"},
        f"{ours / max(theirs, 0.01):.2f}x nginx before it",
        "",
        met=True,
    )
    yield Row(
        f"before a registry: pull {scale.blob} MiB, kept",
        f"{kept:,.0f} MB/s",
        peers,
        f"{kept / straight:.2f}x registry",
        f"{CACHED_GOAL:g}x registry",
        kept >= CACHED_GOAL * straight,
    )
    direct, nginx = (samples.median("upstream manifest", name) for name in (DIRECT, NGINX))
    for name, goal in ((KEEPING, EXCLUSIVE_GOAL), (ASKING, ASKING_GOAL)):
        rate = samples.median("upstream manifest", name)
        yield Row(
            f"before a registry: manifest by tag, {name}",
            f"{rate:,.0f}/s",
            {"registry": f"{direct:,.0f}/s", "nginx": f"{nginx:,.0f}/s"},
            f"{rate / direct:.2f}x registry",
            f"{goal:g}x registry",
            rate >= goal * direct,
        )
    took, alone, before_it = (samples.median("upstream push", name) for name in (ASKING, DIRECT, NGINX))
    yield Row(
        f"before a registry: push {scale.blob} MiB",
        f"{took:.2f} s",
        {"registry": f"{alone:.2f} s", "nginx": f"{before_it:.2f} s"},
        f"{alone / took:.2f}x as fast",
        f"{PUSH_GOAL:g}x registry",
        alone / took >= PUSH_GOAL,
    )
    asked, answered, passed = (samples.median("upstream head", name) for name in (ASKING, DIRECT, NGINX))
    yield Row(
        "before a registry: HEAD of a manifest, p50",
        f"{asked:.2f} ms",
        {"registry": f"{answered:.2f} ms", "nginx": f"{passed:.2f} ms"},
        f"{asked - answered:+.2f} ms",
        f"at most {HEAD_GOAL:g} ms more",
        asked - answered <= HEAD_GOAL,
    )
    held = samples.median("upstream memory", ASKING)
    yield Row(
        f"before a registry: peak RSS, {TRANSFERS} up + {TRANSFERS} down of {scale.many} MiB",
        f"{held:,.0f} MiB",
        {},
        "",
        f"at most {MEMORY_GOAL:g} MiB",
        held <= MEMORY_GOAL,
    )
