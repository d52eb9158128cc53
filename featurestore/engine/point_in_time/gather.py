"""The second pass: fetch what is asked for, of the rows found and of no others.

::

    rows found, by piece ─┬─ expiry and delete marks, where there can be any ─▶ status of each label
                          └─ features of those PRESENT ─▶ result, each value straight to its label

Columns of numbers are written into the result as they are read, piece by piece: out of the mapped
file where they lie there as an array, out of a decoded row group otherwise.  Text, lists and
vectors are taken by Arrow, each row once, and spread over the labels at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.engine.key_index import as_numbers
from featurestore.engine.point_in_time.answer import DELETED, EXPIRED, PRESENT, Answer
from featurestore.engine.point_in_time.columns import Columns
from featurestore.event_time import NO_EXPIRY, expired
from featurestore.kernels.gather import part_by_stretch
from featurestore.storage.parquet import EXPIRES_AT, IS_DELETED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from featurestore.engine.point_in_time.history import Source
    from featurestore.engine.point_in_time.match import Search

Int64 = npt.NDArray[np.int64]

_MARKS = (EXPIRES_AT, IS_DELETED)

_NEVER = pa.scalar(NO_EXPIRY, pa.int64()).cast(pa.timestamp("us", tz="UTC"))

# Pieces that one task reads: enough to be worth a task, few enough for every core to have some.
_TASK_PIECES = 4


def gather(
    sources: Sequence[Source],
    search: Search,
    label_us: Int64,
    history: pa.Schema,
    pool: ThreadPoolExecutor,
) -> Answer:
    """Judge every label by the row found for it, and fetch the features of those PRESENT.

    Parameters
    ----------
    sources : sequence of Source
        As they were matched.
    search : Search
        Finished.
    label_us : int64[n]
        The labels' times, in the labels' order.
    history : pyarrow.Schema
        The history layout of the group.
    pool : ThreadPoolExecutor
        Where files are read.
    """
    found = Found.of(sources, search.rows)
    status = _status(found, search, label_us, pool)
    answers = search.answered
    present = None if status is None else status == PRESENT
    if present is not None and not present.all():
        found, answers = found.only(present), answers[present]
    answered = np.ones(label_us.size, np.bool_)
    if answers.size < label_us.size:
        answered[:] = False
        answered[answers] = True
    asked = search.features if search.role.last_n is None else []  # else lists are made of them
    columns = Columns({name: history.field(name).type for name in asked}, answered)
    if asked:
        fill(columns, found.at(search.answered), pool)
    return Answer(
        label_us=label_us,
        answered=search.answered,
        status=np.full(search.answered.size, PRESENT, np.int8) if status is None else status,
        event_us=search.event_us,
        features=columns.results(),
    )


@dataclass(frozen=True)
class _Part:
    """Rows found in one piece of a source."""

    source: Source
    piece: int
    rows: Int64  # counted from the piece's first, mostly ascending
    positions: Int64


@dataclass(frozen=True)
class Found:
    """The rows found, by the piece they lie in.

    Attributes
    ----------
    pieces : list of (Source, int)
        All pieces, in the order of their numbers.
    starts : int64[pieces + 1]
        Where each piece's rows begin in the next two.
    rows : int64[n]
        Counted from the first of their piece.
    positions : int64[n]
        What each was found for.
    """

    pieces: list[tuple[Source, int]]
    starts: Int64
    rows: Int64
    positions: Int64

    @classmethod
    def of(cls, sources: Sequence[Source], rows: Int64) -> Found:
        """Part the rows found; their positions are those in ``rows``."""
        pieces = [(source, piece) for source in sources for piece in source.pieces]
        firsts = [source.firsts[:-1] for source in sources]
        ends = np.concatenate([*firsts, sources[-1].firsts[-1:]]) if sources else np.zeros(1, "i8")
        starts = np.zeros(len(pieces) + 1, np.int64)
        own, positions = np.empty(rows.size, np.int64), np.empty(rows.size, np.int64)
        part_by_stretch(rows, np.arange(rows.size), ends, starts, own, positions)
        return cls(pieces, starts, own, positions)

    def only(self, wanted: npt.NDArray[np.bool_]) -> Found:
        """Return those whose position is wanted."""
        kept = wanted[self.positions]
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        return Found(self.pieces, starts, self.rows[kept], self.positions[kept])

    def at(self, positions: Int64) -> Found:
        """Return the same rows at other positions: what was ``i`` is now ``positions[i]``."""
        return Found(self.pieces, self.starts, self.rows, positions[self.positions])

    def tasks(self) -> Iterator[list[_Part]]:
        """Yield stretches of pieces in which something was found, each of one source."""
        task: list[_Part] = []
        for number, (source, piece) in enumerate(self.pieces):
            low, high = int(self.starts[number]), int(self.starts[number + 1])
            if low == high:
                continue
            if task and (len(task) == _TASK_PIECES or task[0].source is not source):
                yield task
                task = []
            task.append(_Part(source, piece, self.rows[low:high], self.positions[low:high]))
        if task:
            yield task


# ── status ───────────────────────────────────────────────────────────────────────────────────


def _status(
    found: Found, search: Search, label_us: Int64, pool: ThreadPoolExecutor
) -> npt.NDArray[np.int8] | None:
    """Return the status of each label that has a row; None where all are PRESENT."""
    marked = {source for source, _ in found.pieces if any(map(source.may_hold, _MARKS))}
    max_age_us = search.role.max_age_us
    if max_age_us is None and not marked:
        return None
    clock_us = label_us[search.answered]
    status = np.full(clock_us.size, PRESENT, np.int8)
    if max_age_us is not None:
        age_us = clock_us - search.event_us  # both are within the years 1 to 9999
        status[age_us > max_age_us] = EXPIRED
    tasks = (task for task in found.tasks() if task[0].source in marked)
    for _ in pool.map(partial(_judge, status, clock_us), tasks):
        pass
    return status


def _judge(status: npt.NDArray[np.int8], clock_us: Int64, task: list[_Part]) -> None:
    """Mark what has expired and what was deleted, where files can hold such rows."""
    columns = [name for name in _MARKS if task[0].source.may_hold(name)]
    for part in task:
        table = part.source.read(columns, [part.piece])
        if EXPIRES_AT in columns:
            expires: Any = as_numbers(table.column(EXPIRES_AT).fill_null(_NEVER))[part.rows]
            clock: Any = clock_us[part.positions]
            gone = expired(expires, clock)
            status[part.positions[gone]] = EXPIRED
        if IS_DELETED in columns:
            deleted = table.column(IS_DELETED).to_numpy()[part.rows]
            status[part.positions[deleted]] = DELETED


# ── features ─────────────────────────────────────────────────────────────────────────────────


def fill(columns: Columns, found: Found, pool: ThreadPoolExecutor) -> None:
    """Put every value where it belongs."""
    for _ in pool.map(partial(_fill_from, columns), found.tasks()):
        pass


def _fill_from(columns: Columns, task: list[_Part]) -> None:
    for part in task:
        columns.put(part.source, part.piece, part.rows, part.positions)
