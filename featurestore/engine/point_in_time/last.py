"""The last *n* values at or before each label, for models of sequences.

::

    one key     ●a ──●b ──✝c ──●d ──●e,e' ──●f(expired) ──▶      e' came later than e
    label                                            ▲
    last 3      [b, d, e']         newest last; one for each event time, its newest known version;
                                   tombstones, what has expired and what is over age are left out

The newest record alone decides the status, as in any join: the list is null unless it is PRESENT.

The rows of the labels' keys are brought together and put in order first: in memory they take some
50 bytes each, however many there are.  ``stream=True`` bounds labels, not that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.arrays import one_chunk
from featurestore.engine.key_index import as_numbers
from featurestore.engine.point_in_time.answer import PRESENT, Answer
from featurestore.engine.point_in_time.columns import column_of
from featurestore.engine.point_in_time.gather import Found, fill
from featurestore.engine.point_in_time.match import read_all
from featurestore.errors import InvalidInput
from featurestore.event_time import NO_EXPIRY
from featurestore.kernels.asof import asof_prepare
from featurestore.kernels.last import last_rows, order_ties
from featurestore.storage.parquet import EXPIRES_AT, IS_DELETED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import ThreadPoolExecutor

    from featurestore.engine.point_in_time.history import Source
    from featurestore.engine.point_in_time.match import Search
    from featurestore.engine.point_in_time.plan import Question
    from featurestore.engine.snapshot import GroupSnapshot

Int64 = npt.NDArray[np.int64]

_NEVER = pa.scalar(NO_EXPIRY, pa.int64()).cast(pa.timestamp("us", tz="UTC"))

_NONE = np.empty(0, np.int64)


@dataclass
class _Rows:
    """Rows of the labels' keys, in the order they were read: int64[m] each, but ``deleted``."""

    rank: Int64
    event_us: Int64
    seq: Int64
    known_us: Int64
    expires_us: Int64
    deleted: npt.NDArray[np.bool_]
    row: Int64

    def take(self, rows: Any) -> _Rows:
        return _Rows(**{name: values[rows] for name, values in vars(self).items()})


def last_values(
    sources: Sequence[Source],
    search: Search,
    answer: Answer,
    snapshot: GroupSnapshot,
    history: pa.Schema,
    pool: ThreadPoolExecutor,
    question: Question,
) -> None:
    """Put the lists into the answer of a search whose status is known."""
    lists, rows = _choose(sources, search, answer, snapshot, pool, question)
    offsets = np.concatenate([[0], np.cumsum(lists)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise InvalidInput(
            f"last_n= asks for {offsets[-1]:,} values a column, more than one list column can "
            "hold; ask for fewer, or with stream=True."
        )
    children = {
        name: column_of(history.field(name).type, np.ones(rows.size, np.bool_))
        for name in search.features
    }
    if children:
        fill(children, Found.of(sources, rows), pool)
    present = np.zeros(lists.size, np.bool_)
    present[answer.answered[answer.status == PRESENT]] = True
    for name, child in children.items():
        array = pa.ListArray.from_arrays(
            pa.array(offsets.astype(np.int32)),
            one_chunk(child.result()),
            type=pa.list_(history.field(name).type),
            mask=pa.array(~present),
        )
        answer.features[name] = pa.chunked_array([array])


def _choose(
    sources: Sequence[Source],
    search: Search,
    answer: Answer,
    snapshot: GroupSnapshot,
    pool: ThreadPoolExecutor,
    question: Question,
) -> tuple[Int64, Int64]:
    """Return how many rows each label's list has, and the rows, label after label."""
    laid, count = search.keys.laid, search.role.last_n or 1
    rows = _collect(sources, search, snapshot, pool, question)
    order, starts, event_us, _ = asof_prepare(rows.rank, rows.event_us, search.keys.index.size)
    order_ties(event_us, starts, rows.seq[order], order)
    rows = rows.take(order)
    found = np.empty(laid.order.size * count, np.int64)
    lengths = np.zeros(laid.order.size, np.int64)
    max_age_us = search.role.max_age_us
    last_rows(
        laid.starts, laid.time_us, starts,
        rows.event_us, rows.known_us, rows.expires_us, rows.deleted,
        search.role.delay_us, -1 if max_age_us is None else max_age_us, found, lengths,
    )  # fmt: skip
    present = np.zeros(answer.label_us.size, np.bool_)
    present[answer.answered[answer.status == PRESENT]] = True
    lengths[~present[laid.order]] = 0
    lists = np.zeros(answer.label_us.size, np.int64)
    lists[laid.order] = lengths
    # From the layout's order to the labels': label after label, the newest last.
    place = np.zeros(answer.label_us.size, np.int64)
    place[laid.order] = np.arange(laid.order.size)
    first = np.repeat(place * count, lists)
    within = np.arange(first.size) - np.repeat(np.cumsum(lists) - lists, lists)
    newest_first = np.repeat(lists, lists) - 1 - within
    return lists, rows.row[found[first + newest_first]]


def _collect(
    sources: Sequence[Source],
    search: Search,
    snapshot: GroupSnapshot,
    pool: ThreadPoolExecutor,
    question: Question,
) -> _Rows:
    """Return the rows of the labels' keys that exist and could be in a list."""
    latest_us = int(search.time_us.max()) - search.role.delay_us if search.time_us.size else 0
    parts = []
    for source, read in read_all(sources, [search], snapshot, pool, question):
        ranks = read.by_row(search.keys.ranks(read.codes[id(search.keys)]), source)
        event_us = read.event_us()
        kept = np.flatnonzero((ranks >= 0) & (read.seq <= snapshot.seq) & (event_us <= latest_us))
        expires_us, deleted = _marks(source, kept)
        written = read.arrival if read.arrival is not None and read.arrival.size else None
        parts.append(
            _Rows(
                rank=ranks[kept],
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
    nothing = _Rows(_NONE, _NONE, _NONE, _NONE, _NONE, np.empty(0, np.bool_), _NONE)
    every = [nothing, *parts]
    return _Rows(**{n: np.concatenate([vars(p)[n] for p in every]) for n in vars(nothing)})


def _marks(source: Source, rows: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
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
