"""What Prometheus reads, of all workers together (prometheus-client's multiprocess mode)."""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.core.router import NEEDS

# Manifests take a millisecond, layers minutes.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

REQUESTS: Final = Counter(
    "registry_gateway_requests", "Requests answered, by route, method and status.", ("route", "method", "status")
)
DURATION: Final = Histogram(
    "registry_gateway_request_duration_seconds",
    "Time from the request's head to the last byte of its answer, by route and method.",
    ("route", "method"),
    buckets=_SECONDS,
)
IN_FLIGHT: Final = Gauge(
    "registry_gateway_requests_in_flight", "Requests being answered now.", multiprocess_mode="livesum"
)
RECEIVED: Final = Counter("registry_gateway_received_bytes", "Bytes of request bodies, by route.", ("route",))
SENT: Final = Counter("registry_gateway_sent_bytes", "Bytes of response bodies, by route.", ("route",))
PLUGIN_FAILURES: Final = Counter(
    "registry_gateway_plugin_failures", "Questions that a plugin failed to answer.", ("where",)
)
CACHE_DOWN: Final = Gauge(
    "registry_gateway_cache_down", "1 where a worker can't reach the shared cache.", multiprocess_mode="livemax"
)
TASK_FAILURES: Final = Counter("registry_gateway_task_failures", "Promised work that failed, each time.", ("task",))
GARBAGE_REMOVED: Final = Counter(
    "registry_gateway_gc_removed",
    "Garbage that this gateway's periodic job removed: manifests, links and blobs.",
    ("backend", "kind"),
)
GARBAGE_REMOVED_BYTES: Final = Counter(
    "registry_gateway_gc_removed_bytes", "Bytes that this gateway's periodic job freed.", ("backend",)
)
GARBAGE_WAITING_BYTES: Final = Gauge(
    "registry_gateway_gc_waiting_bytes",
    "Bytes of blobs that were waiting for their grace when the last good collection ended.",
    ("backend",),
    multiprocess_mode="livemostrecent",
)
GARBAGE_LAST_SUCCESS: Final = Gauge(
    "registry_gateway_gc_last_success_timestamp_seconds",
    "When the last good collection ended, whoever ran it.",
    ("backend",),
    multiprocess_mode="livemostrecent",
)
READ_ONLY: Final = Gauge(
    "registry_gateway_read_only", "1 while nothing may be pushed or deleted.", multiprocess_mode="livemostrecent"
)
CLEANED_TAGS: Final = Counter(
    "registry_gateway_cleanup_removed_tags", "Tags that rules removed, by how: cleanup policy or bulk delete.", ("how",)
)
CLEANED_BYTES: Final = Counter(
    "registry_gateway_cleanup_removed_bytes",
    "Bytes that no tag leads to any more because of plans that were applied as a whole.",
    ("how",),
)
JOB_FAILURES: Final = Counter("registry_gateway_job_failures", "Runs of periodic jobs that failed.", ("job",))

_METHODS: Final = frozenset(method for methods in NEEDS.values() for method in methods)


class Meter:
    """Counts requests in plain numbers and hands them to Prometheus once a second.

    Each of its own increments asks for the process id and takes a lock: some 12 µs a request, of less than a hundred.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[tuple[str, str], list[float]] = {}
        """By route and method: how many fell into each bucket, and last the sum of all."""
        self._bytes: dict[str, list[int]] = {}

    def count(self, route: str, method: str, status: int, *, seconds: float, received: int, sent: int) -> None:
        """One request is over. *method* is kept only if it is one that a registry knows: labels are bounded."""
        method = method if method in _METHODS else "other"
        key = (route, method, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        timed = self._seconds.get((route, method))
        if timed is None:
            timed = self._seconds[route, method] = [0.0] * (len(_SECONDS) + 2)
        timed[bisect_left(_SECONDS, seconds)] += 1
        timed[-1] += seconds
        both = self._bytes.setdefault(route, [0, 0])
        both[0] += received
        both[1] += sent

    def flush(self) -> None:
        """Hand on what was counted since the last time."""
        requests, seconds, bodies = self._requests, self._seconds, self._bytes
        self._requests, self._seconds, self._bytes = {}, {}, {}
        IN_FLIGHT.set(self.in_flight)
        for key, number in requests.items():
            REQUESTS.labels(*key).inc(number)
        for pair, values in seconds.items():
            histogram = DURATION.labels(*pair)
            # observe() takes one value; thousands of them a second would be a twentieth of a worker's time.
            for bucket, fallen in zip(histogram._buckets, values, strict=False):  # noqa: SLF001
                bucket.inc(fallen)
            histogram._sum.inc(values[-1])  # noqa: SLF001
        for route, (received, sent) in bodies.items():
            RECEIVED.labels(route).inc(received)
            SENT.labels(route).inc(sent)

    async def run(self) -> None:
        """Flush every second, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(1)
                self.flush()
        finally:
            self.flush()


def render() -> tuple[bytes, Mapping[str, str]]:
    """The text of ``/metrics`` and its headers."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), {"Content-Type": CONTENT_TYPE_LATEST}
