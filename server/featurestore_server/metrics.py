"""Metrics for Prometheus, summed over the worker processes.

The workers share a folder, named by ``PROMETHEUS_MULTIPROC_DIR`` before the client library is
first imported; without it the figures are those of one process.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10, 60)
_OWN = CollectorRegistry()
_REQUESTS = Counter(
    "featurestore_requests", "Requests answered.", ("verb", "status"), registry=_OWN
)
_DURATIONS = Histogram(
    "featurestore_request_seconds",
    "Time from the request to the last byte handed on.",
    ("verb",),
    buckets=_SECONDS,
    registry=_OWN,
)


class Metrics:
    """What one worker counts."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], Any] = {}
        self._durations: dict[str, Any] = {}

    def timed(self, verb: str) -> Callable[[int], None]:
        """Begin a request; call what is returned with its status."""
        began = time.perf_counter()

        def done(status: int) -> None:
            count = self._counts.get((verb, status))
            if count is None:
                count = self._counts[verb, status] = _REQUESTS.labels(verb, str(status))
                self._durations.setdefault(verb, _DURATIONS.labels(verb))
            count.inc()
            self._durations[verb].observe(time.perf_counter() - began)

        return done


def exposition(stat: Mapping[str, Any]) -> bytes:
    """Return all metrics as text: the workers' counts, and the store's sizes now."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        counted = CollectorRegistry()
        multiprocess.MultiProcessCollector(counted)
    else:
        counted = _OWN
    now = CollectorRegistry()
    for name in ("seq", "engine_bytes", "quota_bytes", "history_bytes", "readers"):
        Gauge(f"featurestore_{name}", f"The store's {name}.", registry=now).set(stat[name] or 0)
    for name in ("keys", "history_rows", "journal_rows", "files", "bytes"):
        gauge = Gauge(f"featurestore_group_{name}", f"{name} of a group.", ("group",), registry=now)
        for group, facts in stat["groups"].items():
            gauge.labels(group).set(facts[name])
    return bytes(generate_latest(counted)) + bytes(generate_latest(now))
