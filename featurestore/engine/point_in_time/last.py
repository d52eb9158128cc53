"""The last *n* values at or before each label, for models of sequences.

::

    one key     ●a ──●b ──✝c ──●d ──●e,e' ──●f(expired) ──▶      e' came later than e
    label                                            ▲
    last 3      [b, d, e']         newest last; one for each event time, its newest known version;
                                   tombstones, what has expired and what is over age are left out

The newest record alone decides the status, as in any join: the list is null unless it is PRESENT.

The rows of the labels' keys are put in order first, which takes some 100 bytes each.  Where there
may be more than :data:`ROWS_MAX` of them, they are counted, and some keys are gone through at a
time: sources are read again for each stretch of keys, and memory is bounded, by the rows of one
key at the least.

What is left is the answer, and some 80 bytes beside each of its places.  With ``stream=True`` as
many labels are answered together as have room if all lists are full (``batches.rows_within``).
Peak of own memory, in MiB, with 10 float64 of 1M labels over 10M rows of 100k keys:

====  ==================  ============================
n     in one, the result  streamed, of a limit of 1024
====  ==================  ============================
1                         761
10    1194, 784           944
50                        885
200                       412, of 100,000 labels
====  ==================  ============================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.arrays import one_chunk
from featurestore.engine.point_in_time.answer import PRESENT, Answer
from featurestore.engine.point_in_time.columns import Columns
from featurestore.engine.point_in_time.gather import Found, fill
from featurestore.engine.point_in_time.match import read_all
from featurestore.engine.point_in_time.ordered import collect
from featurestore.errors import InvalidInput
from featurestore.kernels.last import last_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from featurestore.engine.point_in_time.history import Source
    from featurestore.engine.point_in_time.match import Search
    from featurestore.engine.point_in_time.plan import Question
    from featurestore.engine.snapshot import GroupSnapshot

Int64 = npt.NDArray[np.int64]

ROWS_MAX = 4_000_000


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
    kinds = {name: history.field(name).type for name in search.features}
    children = Columns(kinds, np.ones(rows.size, np.bool_))
    if kinds:
        fill(children, Found.of(sources, rows), pool)
    present = np.zeros(lists.size, np.bool_)
    present[answer.answered[answer.status == PRESENT]] = True
    for name, child in children.results().items():
        array = pa.ListArray.from_arrays(
            pa.array(offsets.astype(np.int32)),
            one_chunk(child),
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
    found = np.zeros(laid.order.size * count, np.int64)
    lengths = np.zeros(laid.order.size, np.int64)
    for keys in _stretches(sources, search, snapshot, pool, question):
        low, high = (int(laid.starts[key]) for key in (keys.start, keys.stop))
        if low < high:
            own = found[low * count : high * count], lengths[low:high]
            _find(sources, search, snapshot, pool, question, keys, *own)
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
    return lists, found[first + newest_first]


def _find(
    sources: Sequence[Source],
    search: Search,
    snapshot: GroupSnapshot,
    pool: ThreadPoolExecutor,
    question: Question,
    keys: range,
    found: Int64,
    lengths: Int64,
) -> None:
    """Find the last rows of the labels of some keys, newest first."""

    def place(codes: Int64) -> Int64:
        ranks = search.keys.ranks(codes)
        return np.where((ranks >= keys.start) & (ranks < keys.stop), ranks - keys.start, -1)

    laid = search.keys.laid
    rows = collect(sources, search, snapshot, pool, question, place)
    if not rows.row.size:
        return
    rows, starts = rows.ordered(len(keys))
    label_starts = laid.starts[keys.start : keys.stop + 1] - laid.starts[keys.start]
    label_us = laid.time_us[laid.starts[keys.start] : laid.starts[keys.stop]]
    max_age_us = search.role.max_age_us
    last_rows(
        label_starts, label_us, starts,
        rows.event_us, rows.known_us, rows.expires_us, rows.deleted,
        search.role.delay_us, -1 if max_age_us is None else max_age_us, found, lengths,
    )  # fmt: skip
    found[:] = rows.row[found]


def _stretches(
    sources: Sequence[Source],
    search: Search,
    snapshot: GroupSnapshot,
    pool: ThreadPoolExecutor,
    question: Question,
) -> Iterator[range]:
    """Yield stretches of keys, as they are laid out, of not too many rows together."""
    size = search.keys.index.size
    if sum(source.rows for source in sources) <= ROWS_MAX:
        yield range(size)
        return
    counts = np.zeros(size, np.int64)
    for source, read in read_all(sources, [search], snapshot, pool, question):
        ranks = search.keys.ranks(read.codes[id(search.keys)])
        lengths = np.diff(read.starts, append=source.rows)
        np.add.at(counts, ranks[ranks >= 0], lengths[ranks >= 0])
    ends = np.cumsum(counts)
    start = 0
    while start < size:
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + ROWS_MAX, side="right")), start + 1)
        yield range(start, stop)
        start = stop
