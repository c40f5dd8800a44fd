"""What Prometheus reads, of all workers together (prometheus-client's multiprocess mode)."""

from __future__ import annotations

import os
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
JOB_FAILURES: Final = Counter("registry_gateway_job_failures", "Runs of periodic jobs that failed.", ("job",))

_METHODS: Final = frozenset(method for methods in NEEDS.values() for method in methods)


class Meter:
    """Counts requests. Keeps the labelled children at hand: looking them up costs more than counting."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], Counter] = {}
        self._durations: dict[tuple[str, str], Histogram] = {}
        self._bytes: dict[str, tuple[Counter, Counter]] = {}

    def count(self, route: str, method: str, status: int, *, seconds: float, received: int, sent: int) -> None:
        """One request is over. *method* is kept only if it is one that a registry knows: labels are bounded."""
        method = method if method in _METHODS else "other"
        requests = self._requests.get((route, method, status))
        if requests is None:
            requests = self._requests[route, method, status] = REQUESTS.labels(route, method, status)
        requests.inc()
        duration = self._durations.get((route, method))
        if duration is None:
            duration = self._durations[route, method] = DURATION.labels(route, method)
        duration.observe(seconds)
        if received or sent:
            counters = self._bytes.get(route)
            if counters is None:
                counters = self._bytes[route] = (RECEIVED.labels(route), SENT.labels(route))
            counters[0].inc(received)
            counters[1].inc(sent)


def render() -> tuple[bytes, Mapping[str, str]]:
    """The text of ``/metrics`` and its headers."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), {"Content-Type": CONTENT_TYPE_LATEST}
