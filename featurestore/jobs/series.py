"""Metrics by step: numbers that come while something runs, kept as they come.

::

    points    train/late-1/00000001    {"points": [["loss", 1, 0.69, 1385856000000000], ...]}

A point is a metric's name, its step, its value and the store's time.  Points are written in
bunches, at most :data:`FLUSH_SECONDS` apart: a process that is killed loses no more than that.  A
step that is told again (training went back to a checkpoint) counts as told last.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

KIND = "points"
FLUSH_SECONDS = 1.0
FLUSH_POINTS = 1_000


class Point(NamedTuple):
    """A metric's value at a step, and the time it was told; microseconds."""

    metric: str
    step: int
    value: float
    at_us: int


class Series:
    """The points of one job or run, as they are told; safe to use from several threads."""

    def __init__(self, store: FeatureStore, name: str) -> None:
        self._store = store
        self._name = name
        self._waiting: list[list[Any]] = []
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()
        self._flushed_at = time.monotonic()

    def add(self, metric: str, value: float, step: int | None = None) -> Point:
        """Tell a value; without a step it is the one after the metric's last."""
        with self._lock:
            step = self._steps.get(metric, 0) + 1 if step is None else int(step)
            self._steps[metric] = step
            point = Point(metric, step, float(value), self._store.documents.now_us())
            self._waiting.append(list(point))
            due = time.monotonic() - self._flushed_at >= FLUSH_SECONDS
        if due or len(self._waiting) >= FLUSH_POINTS:
            self.flush()
        return point

    def flush(self) -> None:
        """Write what was told; when this returns it is as durable as the store is."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._flushed_at = time.monotonic()
        if waiting:
            self._store.documents.append(KIND, self._name, {"points": waiting})


def read(store: FeatureStore, name: str) -> list[Point]:
    """Return the points of a job or run in the order they were told, the last of each step."""
    last: dict[tuple[str, int], Point] = {}
    for bunch in store.documents.every(KIND, f"{name}/").values():
        for row in bunch["points"]:
            point = Point(*row)
            last.pop((point.metric, point.step), None)
            last[point.metric, point.step] = point
    return list(last.values())


def final(points: list[Point]) -> dict[str, float]:
    """Return the value each metric had last.

    Examples
    --------
    >>> final([Point("loss", 1, 0.7, 0), Point("loss", 2, 0.6, 1)])
    {'loss': 0.6}
    """
    return {point.metric: point.value for point in points}
