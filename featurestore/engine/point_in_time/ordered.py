"""Rows of the labels' keys, out of all sources, in one order: by key, event time and seq.

For lists of the last values, and for histories so small that each label looks its row up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.engine.key_index import as_numbers
from featurestore.engine.point_in_time.match import read_all
from featurestore.event_time import NO_EXPIRY
from featurestore.kernels.asof import asof_prepare
from featurestore.kernels.last import order_ties
from featurestore.storage.parquet import EXPIRES_AT, IS_DELETED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from featurestore.engine.point_in_time.history import Source
    from featurestore.engine.point_in_time.match import Search
    from featurestore.engine.point_in_time.plan import Question
    from featurestore.engine.snapshot import GroupSnapshot

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_NEVER = pa.scalar(NO_EXPIRY, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
_NONE = np.empty(0, np.int64)


@dataclass
class Rows:
    """Some rows: int64[m] each, but ``deleted``, which is bool[m].

    Attributes
    ----------
    place : int64[m]
        The key of each, as the caller numbers them.
    event_us, seq, known_us, expires_us, deleted
        When they were, by which write, since when they were written, if that matters, until when
        they live, and whether they are tombstones.
    row : int64[m]
        As they are numbered over all sources.
    """

    place: Int64
    event_us: Int64
    seq: Int64
    known_us: Int64
    expires_us: Int64
    deleted: Bools
    row: Int64

    def take(self, rows: Any) -> Rows:
        """Return some of them."""
        return Rows(**{name: values[rows] for name, values in vars(self).items()})

    def ordered(self, keys: int) -> tuple[Rows, Int64]:
        """Return them by key, event time and seq, and where each of so many keys begins."""
        order, starts, event_us, _ = asof_prepare(self.place, self.event_us, keys)
        order_ties(event_us, starts, self.seq[order], order)
        return self.take(order), starts


def collect(
    sources: Sequence[Source],
    search: Search,
    snapshot: GroupSnapshot,
    pool: ThreadPoolExecutor,
    question: Question,
    place: Callable[[Int64], Int64],
) -> Rows:
    """Return the rows that exist, are not after all labels, and have a place.

    Parameters
    ----------
    sources, search, snapshot, pool, question
        As of ``match.match``.
    place : callable
        Gives keys, as the labels number them, their places; a negative one to leave rows out.
    """
    latest_us = int(search.time_us.max()) - search.role.delay_us if search.time_us.size else 0
    parts = []
    for source, read in read_all(sources, [search], snapshot, pool, question):
        places = read.by_row(place(read.codes[id(search.keys)]), source)
        event_us = read.event_us()
        kept = np.flatnonzero((places >= 0) & (read.seq <= snapshot.seq) & (event_us <= latest_us))
        expires_us, deleted = _marks(source, kept)
        written = read.arrival if read.arrival is not None and read.arrival.size else None
        parts.append(
            Rows(
                place=places[kept],
                event_us=event_us[kept],
                seq=read.seq[kept],
                known_us=np.full(kept.size, np.iinfo(np.int64).min)
                if written is None
                else written[kept],
                expires_us=expires_us,
                deleted=deleted,
                row=kept + source.firsts[0],
            )
        )
    nothing = Rows(_NONE, _NONE, _NONE, _NONE, _NONE, np.empty(0, np.bool_), _NONE)
    every = [nothing, *parts]
    return Rows(**{n: np.concatenate([vars(p)[n] for p in every]) for n in vars(nothing)})


def _marks(source: Source, rows: Int64) -> tuple[Int64, Bools]:
    """Return when rows expire, and which are tombstones."""
    expires_us, deleted = np.full(rows.size, NO_EXPIRY), np.zeros(rows.size, np.bool_)
    columns = [name for name in (EXPIRES_AT, IS_DELETED) if source.may_hold(name)]
    if columns and rows.size:
        table = source.read(columns, source.pieces)
        if EXPIRES_AT in columns:
            expires_us = as_numbers(table.column(EXPIRES_AT).fill_null(_NEVER))[rows]
        if IS_DELETED in columns:
            deleted = table.column(IS_DELETED).to_numpy()[rows]
    return expires_us, deleted
