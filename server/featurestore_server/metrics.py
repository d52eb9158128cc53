"""Metrics for Prometheus, summed over the worker processes.

The workers share a folder, named by ``PROMETHEUS_MULTIPROC_DIR`` before the client library is
first imported; without it the figures are those of one process.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict
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
    from collections.abc import Mapping

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10, 60)
_TELL_SECONDS = 0.5
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
    """What one worker counts.

    Counting for Prometheus costs as much as a look-up, so requests are counted in plain numbers,
    which are handed over twice a second.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = defaultdict(int)
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def count(self, verb: str, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        self._counts[verb, status] += 1
        self._seconds[verb].append(seconds)

    def hand_over(self) -> None:
        """Give what has been counted to the client library."""
        counts, self._counts = self._counts, defaultdict(int)
        seconds, self._seconds = self._seconds, defaultdict(list)
        for (verb, status), number in counts.items():
            _REQUESTS.labels(verb, str(status)).inc(number)
        for verb, taken in seconds.items():
            _observe(_DURATIONS.labels(verb), taken)

    async def tell(self) -> None:
        """Hand over again and again."""
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            self.hand_over()


def _observe(histogram: Any, taken: list[float]) -> None:
    """Add many observations at once: one step for each bucket, not for each observation."""
    per_bucket = Counts(bisect_left(_SECONDS, seconds) for seconds in taken)
    histogram._sum.inc(sum(taken))  # noqa: SLF001  the library only takes one at a time
    for bucket, number in per_bucket.items():
        histogram._buckets[bucket].inc(number)  # noqa: SLF001


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
