"""The token endpoint before a GitLab that takes 20 ms to answer: cold, warm in the process, and warm in Redis."""

from __future__ import annotations

import http.client
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from tests.fakes.gitlab import FakeGitLab
from tests.support.gateway import GatewayProcess
from tests.support.peers import PeerError
from tests.support.redis import redis
from tests.support.wire import SERVICE, Account, authorization

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LATENCY = 0.020
"""Seconds that the fake GitLab takes, beside its own work."""
CALLERS = 400
PROJECT = "acme/app"
PATH = f"/jwt/auth?{urlencode({'service': SERVICE, 'scope': f'repository:{PROJECT}:pull'})}"


def account(number: int) -> Account:
    """Give one of many personal access tokens of one reporter."""
    return Account("reporter", f"token-of-the-benchmark-{number}")


def directory() -> dict[str, Any]:
    """Write down a project, a reporter, and their many tokens."""
    kind = {"kind": "personal_access_token", "user": "reporter", "scopes": ["read_registry"]}
    return {
        "users": [{"username": "reporter", "password": "of-the-benchmark"}],
        "groups": [{"path": "acme"}],
        "projects": [{"path": PROJECT, "members": {"reporter": "reporter"}}],
        "tokens": [{**kind, "token": account(number).password} for number in range(CALLERS)],
    }


def latencies(url: str) -> list[float]:
    """Ask as each caller in turn, on one connection; the milliseconds that each took, in order of size."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    found = []
    try:
        for number in range(CALLERS):
            started = time.perf_counter()
            connection.request("GET", PATH, headers=authorization(account(number)))
            answer = connection.getresponse()
            answer.read()
            found.append(1000 * (time.perf_counter() - started))
            if answer.status != http.client.OK:
                raise PeerError(f"{url}: {answer.status}")
    finally:
        connection.close()
    return sorted(found)


def measure(folder: Path, seconds: int, rate: Callable[[str, dict[str, str], int], float]) -> dict[str, float]:
    """Measure rates (requests a second) and latencies (milliseconds) with one worker and one Redis."""
    fake = FakeGitLab(directory())
    with ExitStack() as stack:
        fake.start()
        stack.callback(fake.stop)
        fake.mode, fake.delay = "slow", LATENCY
        server = stack.enter_context(redis(folder / "redis"))
        one = _gateway(stack, folder / "one", fake, server.url)
        key = str(one.data / "signing-key.pem")
        two = _gateway(stack, folder / "two", fake, server.url, signing_key_file=key)
        headers = authorization(account(0))
        found = {"direct": rate(fake.url + PATH, headers, seconds)}
        cold = latencies(one.base_url)
        found["cold p50"] = statistics.median(cold)
        shared = latencies(two.base_url)
        found["redis p50"], found["redis p99"] = statistics.median(shared), shared[int(0.99 * CALLERS)]
        warm = latencies(two.base_url)
        found["memory p50"], found["memory p99"] = statistics.median(warm), warm[int(0.99 * CALLERS)]
        found["warm"] = rate(one.base_url + PATH, headers, seconds)
        # Callers side by side, each once: what a fleet of jobs does after a deployment of new replicas.
        three = _gateway(stack, folder / "three", fake, server.url, signing_key_file=key)
        found["redis"] = _crowd(three.base_url)
    return found


def _crowd(url: str) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: _once(url, number), range(CALLERS)))
    if set(answers) != {http.client.OK}:
        raise PeerError(f"{url}: {set(answers)}")
    return CALLERS / (time.perf_counter() - started)


def _once(url: str, number: int) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request("GET", PATH, headers=authorization(account(number)))
        return connection.getresponse().status
    finally:
        connection.close()


def _gateway(stack: ExitStack, folder: Path, fake: FakeGitLab, url: str, **tokens: str) -> GatewayProcess:
    sources = [{"use": "auth_gitlab", "url": fake.url}, {"use": "naming"}, {"use": "visibility"}]
    process = GatewayProcess(folder, sources=sources, extra={"cache": {"url": url}, "tokens": tokens})
    process.start()
    stack.callback(process.end)
    return process
