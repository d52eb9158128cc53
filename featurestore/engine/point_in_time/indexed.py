"""Histories much smaller than the labels: each label looks its row up.

::

    history, laid out by key and time    A  1  4  9 │ B  2  3            a few rows
                                            ▲  ▲  ▲      ▲
    labels, as they come                 A 5  A 1  A 9  B 2  A 6  …      very many

To lay out ten million labels takes longer than to answer them, once rows lie in order: a look-up
is a step or two where rows are spread evenly over time, and the rows stay in the caches.  Labels
are gone through in stretches, by all threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.arrays import one_chunk
from featurestore.engine.point_in_time.answer import PRESENT, Answer, take
from featurestore.engine.point_in_time.columns import validity_of
from featurestore.engine.point_in_time.ordered import collect
from featurestore.event_time import NO_EXPIRY
from featurestore.kernels.asof import asof_lookup
from featurestore.kernels.gather import take_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from featurestore.engine.point_in_time.history import Source
    from featurestore.engine.point_in_time.match import Search
    from featurestore.engine.point_in_time.plan import Question
    from featurestore.engine.snapshot import GroupSnapshot

Int64 = npt.NDArray[np.int64]

# Labels that one task answers: what it writes stays in its core's cache until all is written.
_TASK_LABELS = 1 << 16

_NONE = np.empty(0, np.int64)
_NOBODY = np.empty(0, np.bool_)


def pays(
    sources: Sequence[Source], searches: Sequence[Search], question: Question, rows_a_label: float
) -> bool:
    """Say whether a group is looked up: its rows are few, and nothing but values is asked for."""
    if question.every_status or question.by_write_time:
        return False
    if any(search.role.last_n is not None for search in searches):
        return False
    rows = sum(source.rows for source in sources)
    return 0 < rows <= rows_a_label * searches[0].time_us.size


def looked_up(
    sources: Sequence[Source],
    search: Search,
    snapshot: GroupSnapshot,
    schema: pa.Schema,
    pool: ThreadPoolExecutor,
    question: Question,
) -> Answer:
    """Answer one role; the answer tells features, and no status."""
    rows = collect(sources, search, snapshot, pool, question, place=lambda codes: codes)
    rows, starts = rows.ordered(search.keys.index.size)
    label_us, codes, role = search.time_us, search.keys.index.codes, search.role
    found = np.empty(label_us.size, np.int32)
    expires_us = rows.expires_us if (rows.expires_us != NO_EXPIRY).any() else _NONE
    deleted = rows.deleted if rows.deleted.any() else _NOBODY
    max_age_us = -1 if role.max_age_us is None else role.max_age_us
    columns = _columns(sources, {n: schema.field(n).type for n in search.features}, rows.row)
    raw = {name: bits for name in columns if (bits := _bits(columns[name])) is not None}
    taken = {name: np.empty(found.size, bits.dtype) for name, bits in raw.items()}

    def answer(first: int) -> None:
        part = slice(first, first + _TASK_LABELS)
        asof_lookup(
            codes[part], label_us[part], starts, rows.event_us, expires_us, deleted,
            role.delay_us, max_age_us, found[part],
        )  # fmt: skip
        for name, bits in raw.items():
            take_rows[bits.itemsize](bits, found[part], taken[name][part])

    for _ in pool.map(answer, range(0, found.size, _TASK_LABELS)):
        pass
    absent = found < 0
    validity = validity_of(~absent)
    features = {}
    for name, column in columns.items():
        kind = schema.field(name).type
        if name in raw:
            buffers = [validity, pa.py_buffer(taken[name])]
            features[name] = pa.chunked_array([pa.Array.from_buffers(kind, found.size, buffers)])
        else:
            features[name] = take(column, pa.array(found, mask=absent))
    return Answer(label_us, _NONE, np.full(0, PRESENT, np.int8), _NONE, features)


def _columns(
    sources: Sequence[Source], kinds: Mapping[str, pa.DataType], rows: Int64
) -> dict[str, pa.ChunkedArray]:
    """Return features of rows that are numbered over all sources."""
    tables = [source.read(list(kinds), source.pieces) for source in sources] if kinds else []
    order = pa.array(rows - sources[0].firsts[0])
    whole = {n: [c for t in tables for c in t.column(n).chunks] for n in kinds}
    return {name: take(pa.chunked_array(whole[name], kind), order) for name, kind in kinds.items()}


def _bits(column: pa.ChunkedArray) -> npt.NDArray[Any] | None:
    """Return the bits of numbers and times without nulls."""
    kind = column.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    if not number or column.null_count or kind.bit_width not in (32, 64):
        return None
    array, width = one_chunk(column), kind.bit_width // 8
    if not len(array):
        return None
    return np.frombuffer(array.buffers()[1], f"u{width}", len(array), array.offset * width)
