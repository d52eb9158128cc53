"""One life of a store, made of numbered steps, at any of which it can be killed or fail.

``storage.seam`` announces every call that a crash could part from the next: writing a file,
an fsync, a rename, a removal, a commit.  `live` is the same life each time, with a request id on
everything, so it can be begun again from the start: what is done is replayed, the rest is done.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

import featurestore as fs
from featurestore.engine import cleaner, compactor, staging
from featurestore.engine import ingest as engine_ingest
from featurestore.storage import parquet, seam
from tests.model import DAY, MINUTE, moment
from tests.small_world import START

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES: list[tuple[Any, str, int]] = [
    (engine_ingest, "JOURNAL_ROWS_MAX", 2),
    (staging, "SLICE_KEYS_MAX", 1),
    (parquet, "ROW_GROUP_ROWS", 2),
    (compactor, "WINDOW_ROWS", 6),
    (cleaner, "GRACE_US", 0),
]
# Cells are not cut by hash here: how many there are would depend on the seed of a store's hashes,
# and so would the number of steps.
DIED = 42
"""Exit code of a process that was killed at its step."""


class Steps:
    """Counts the steps of a life, and does something at one of them."""

    def __init__(self, at: int | None, then: Callable[[str], None]) -> None:
        self.seen: list[str] = []
        self._at = at
        self._then = then

    def __enter__(self) -> Self:
        seam.on_call = self._step
        return self

    def __exit__(self, *_: object) -> None:
        seam.on_call = None

    def _step(self, name: str, _path: str, do: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self.seen.append(name)
        if len(self.seen) - 1 == self._at:
            self._then(name)
        return do(*args)


def small_sizes() -> None:
    """Make few rows many."""
    for module, name, size in SIZES:
        setattr(module, name, size)


def opened(path: Path) -> fs.FeatureStore:
    """Open the store; its clock stands still, and no step is done but those of the life."""
    return fs.open(path, clock=lambda: START + DAY, upkeep=False)


def record(k: int, minute: int, x: int) -> dict[str, Any]:
    """Return a record of either group."""
    return {"k": k, "t": moment(START + minute * MINUTE), "x": x}


def chapters(store: fs.FeatureStore) -> list[Callable[[], Any]]:
    """Return the life of a store: what is done in it, one after the other."""
    table = pa.Table.from_pylist([record(k % 3, k, 100 + k) for k in (5, 1, 4, 2, 0, 3, 9)])

    def create(name: str) -> None:
        store.create_feature_group(
            name,
            record_identifier="k",
            event_time="t",
            features={"k": "int64", "t": "timestamp", "x": "int64"},
            exist_ok=True,
        )

    return [
        lambda: create("left"),
        lambda: create("right"),
        lambda: store.put_record("left", record(0, 3, 1), request_id="1"),
        lambda: store.write(
            [("left", record(1, 3, 2)), ("right", record(1, 3, 2))], request_id="2"
        ),
        lambda: store.ingest("right", [record(0, 1, 3), record(2, 1, 3)], id="3"),
        store.flush,
        lambda: store.put_record("left", record(0, 1, 4), request_id="4"),
        lambda: store.delete_record(
            "left", 1, event_time=moment(START + 8 * MINUTE), request_id="5"
        ),
        lambda: store.ingest("left", table, id="6"),
        store.flush,
        store.compact,
        lambda: store.put_record("left", record(2, 3, 7), request_id="7"),
        store.flush,
        store.compact,
        lambda: store.write(
            [("right", record(0, 9, 8)), ("left", record(0, 9, 8))], request_id="8"
        ),
    ]


def live(store: fs.FeatureStore) -> None:
    """Do everything in order."""
    for chapter in chapters(store):
        chapter()


def live_until(path: Path, at: int) -> None:
    """Live in a process of its own, and die at a step as by ``kill -9``."""
    small_sizes()
    with Steps(at, lambda _: os._exit(DIED)), opened(path) as store:
        live(store)
