"""The first pass: find each label's row, reading only what decides it.

::

    source ─▶ runs of equal keys ─▶ codes of those runs ─▶ kernels.asof, against the laid-out labels
              (keys compared at the runs' first rows only)

Reading and looking keys up goes on in threads, a few sources ahead; the kernels run in the order
of the sources, loose files and the journal tail first, then the cells, newest window first.  Before
each window it is asked whether any label can still get a better row from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.arrays import one_chunk
from featurestore.engine.key_index import as_numbers, is_number
from featurestore.errors import CorruptStore
from featurestore.kernels.asof import (
    asof_collect,
    asof_finish,
    asof_pending,
    asof_runs,
    asof_update,
    empty_best,
)
from featurestore.storage.parquet import KEY_HASH, WRITE_SEQ, WRITE_TIME

if TYPE_CHECKING:
    from featurestore.engine.point_in_time.history import Source
    from featurestore.engine.point_in_time.labels import LabelKeys
    from featurestore.engine.point_in_time.plan import Question, Role
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.schema import FeatureGroup
    from featurestore.storage.manifest import FileEntry

Int64 = npt.NDArray[np.int64]

_NONE = np.empty(0, np.int64)

# Of the first sources so many rows are looked at before labels are laid out in their order.
_ORDER_ROWS = 4_000_000

# Sources being read, or read and waiting for their turn.
_AHEAD = 3


class Search:
    """One role's labels, and what has been found for them so far."""

    def __init__(self, role: Role, features: list[str], keys: LabelKeys, time_us: Int64) -> None:
        self.role = role
        self.features = features
        self.keys = keys
        self.time_us = time_us
        self._best: npt.NDArray[np.void] | None = None
        self._unfinished = False

    @property
    def best(self) -> npt.NDArray[np.void]:
        """The best row so far for each laid-out label."""
        if self._best is None:
            spare = self.keys.spare
            self._best = spare.pop() if spare else empty_best(self.keys.laid.order.size)
        return self._best

    def pending(self, sources: Sequence[Source]) -> bool:
        """Say whether rows of these files can still answer any label better."""
        entries = [source.entry for source in sources if source.entry is not None]
        oldest_us = min(entry.min_event_us for entry in entries)
        newest_us = max(entry.max_event_us for entry in entries)
        label_us = self.keys.laid.time_us
        return bool(asof_pending(label_us, self.best, self.role.delay_us, oldest_us, newest_us))

    def update(self, source: Source, read: Read, ranks: Int64, seq_max: int) -> None:
        """Let rows of history compete for the labels."""
        starts, label_us = self.keys.laid.starts, self.keys.laid.time_us
        if read.arrival is None:
            for first, runs, event_us, seq in read.sorted_pieces(source):
                codes, begins = ranks[runs], read.starts[runs] - (first - source.firsts[0])
                asof_runs(
                    starts, label_us, self.best,
                    begins, codes, event_us, seq, self.role.delay_us, first,
                )  # fmt: skip
            return
        asof_update(
            starts, label_us, self.best,
            read.by_row(ranks, source), read.event_us(), read.seq, read.arrival,
            self.role.delay_us, seq_max, int(source.firsts[0]),
        )  # fmt: skip
        self._unfinished = True

    def finish(self) -> None:
        """Settle which row answers which label, once all rows have competed."""
        if self._unfinished:
            asof_finish(self.keys.laid.starts, self.best)
        found = [np.empty(self.best.size, np.int64) for _ in range(4)]
        count = asof_collect(self.keys.laid.order, self.best, *found)
        self.answered, self.event_us, self.seq, self.rows = (column[:count] for column in found)
        self.keys.spare.append(self.best)
        self._best = None


@dataclass
class Read:
    """What decides between the rows of one source.

    Attributes
    ----------
    starts : int64[r]
        First row of each run of one key, counted from the source's first; a piece begins a run.
    keys : list of Arrow arrays, r
        The key of each run, part by part.
    times : list of int64[...]
        Event times, piece by piece, or of all pieces in one.
    seq : int64[rows] or int64[0]
        Empty where it cannot matter.
    arrival : int64[rows], int64[0] or None
        Write times, if they decide what is known; None if rows are in order and event time and
        place decide all.
    codes : dict of int to int64[r]
        The runs' keys as the labels number them, for each numbering.
    """

    starts: Int64
    keys: list[Any]
    times: list[npt.NDArray[Any]]
    seq: Int64
    arrival: Int64 | None
    codes: dict[int, Int64]

    def by_row(self, of_runs: Int64, source: Source) -> Int64:
        """Return for each row what is given for its run."""
        if of_runs.size == source.rows:
            return of_runs
        return np.repeat(of_runs, np.diff(self.starts, append=source.rows))

    def event_us(self) -> Int64:
        """Return the event times of all pieces."""
        times = np.concatenate(self.times) if len(self.times) != 1 else self.times[0]
        return np.require(times, None, ["ALIGNED", "C_CONTIGUOUS"])

    def sorted_pieces(self, source: Source) -> Iterator[tuple[int, slice, npt.NDArray[Any], Int64]]:
        """Yield the first row, the runs, event times and seqs of stretches with times in one."""
        first = int(source.firsts[0])
        for times in self.times:
            begin = first - int(source.firsts[0])
            end = begin + times.size
            low, high = np.searchsorted(self.starts, (begin, end))
            seq = self.seq[begin:end] if self.seq.size else _NONE
            yield first, slice(int(low), int(high)), times, seq
            first += times.size


def match(
    sources: Sequence[Source],
    searches: Sequence[Search],
    snapshot: GroupSnapshot,
    pool: ThreadPoolExecutor,
    question: Question,
    *,
    stretch_rows: int,
) -> None:
    """Find each label's row: read what decides it, of every source that can matter.

    Parameters
    ----------
    sources, searches, snapshot
        Of one group; sources in the order of ``History.sources``.
    pool : ThreadPoolExecutor
        Where files are read.
    question : Question
        Whether a record also has to have arrived, and whether seqs are to be told.
    stretch_rows : int
        Small sources are put together, up to so many rows, to look their keys up at once.
    """
    reader = _Reader(sources, searches, snapshot, question, with_seq=question.explain)
    for window, together in groupby(sources, key=lambda source: source.window):
        wave = list(together)
        first = wave[0] is sources[0]
        if not first and window >= 0 and not any(search.pending(wave) for search in searches):
            continue
        reads = _read_ahead(reader, wave, pool, stretch_rows)
        if first:
            reads = _settle_order(reads, searches)
        for source, read in reads:
            for search in searches:
                ranks = search.keys.ranks(read.codes[id(search.keys)])
                search.update(source, read, ranks, snapshot.seq)
    for search in searches:
        search.finish()


def read_all(
    sources: Sequence[Source],
    searches: Sequence[Search],
    snapshot: GroupSnapshot,
    pool: ThreadPoolExecutor,
    question: Question,
) -> Iterator[tuple[Source, Read]]:
    """Yield what decides between rows, with their seqs, of every source."""
    reader = _Reader(sources, searches, snapshot, question, with_seq=True)
    return _read_ahead(reader, sources, pool, stretch_rows=1)


def _settle_order(
    reads: Iterator[tuple[Source, Read]], searches: Sequence[Search]
) -> Iterator[tuple[Source, Read]]:
    """Have labels laid out in the order of the first sources, then go on with those."""
    seen, rows = [], 0
    for source, read in reads:
        seen.append((source, read))
        rows += source.rows
        if rows >= _ORDER_ROWS:
            break
    for search in searches:
        found = (read.codes[id(search.keys)] for source, read in seen if source.is_sorted)
        search.keys.order_by(found)
    yield from seen
    yield from reads


def _read_ahead(
    reader: _Reader, wave: Sequence[Source], pool: ThreadPoolExecutor, stretch_rows: int
) -> Iterator[tuple[Source, Read]]:
    """Yield sources in order as they have been read, a few of them ahead of time."""
    stretches = deque(_stretches(wave, stretch_rows))
    ahead: deque[tuple[list[Source], Future[list[Read]]]] = deque()
    while stretches or ahead:
        while stretches and len(ahead) < _AHEAD:
            stretch = stretches.popleft()
            ahead.append((stretch, pool.submit(reader.read, stretch)))
        stretch, future = ahead.popleft()
        yield from zip(stretch, future.result(), strict=True)


def _stretches(wave: Sequence[Source], stretch_rows: int) -> Iterator[list[Source]]:
    stretch: list[Source] = []
    for source in wave:
        stretch.append(source)
        if sum(s.rows for s in stretch) >= stretch_rows or source is wave[-1]:
            yield stretch
            stretch = []


class _Reader:
    """Reads what decides between rows; safe to use in several threads, a source in one."""

    def __init__(
        self,
        sources: Sequence[Source],
        searches: Sequence[Search],
        snapshot: GroupSnapshot,
        question: Question,
        *,
        with_seq: bool,
    ) -> None:
        self._group: FeatureGroup = snapshot.group
        self._seq_max = snapshot.seq
        self._by_write_time = question.by_write_time
        self._numberings = {id(search.keys): search.keys for search in searches}
        self._tied = set(sources) if with_seq else _may_tie(sources, snapshot)

    def read(self, stretch: Sequence[Source]) -> list[Read]:
        """Read some sources, and look the keys of all their runs up at once."""
        reads = [self._read(source) for source in stretch]
        for name, numbering in self._numberings.items():
            for read, codes in zip(reads, _find(numbering, reads), strict=True):
                read.codes[name] = codes
        return reads

    def _read(self, source: Source) -> Read:
        group = self._group
        entry = source.entry
        in_order = not self._by_write_time and entry is not None and entry.max_seq <= self._seq_max
        times = [source.raw(group.event_time, piece) for piece in source.pieces]
        raw = [piece.view(np.int64) for piece in times if piece is not None]
        columns = list(group.record_identifier)
        if len(raw) < len(times):
            columns.append(group.event_time)
        if not in_order or source in self._tied:
            columns.append(WRITE_SEQ)
        if self._by_write_time:
            columns.append(WRITE_TIME)
        table = source.read(columns, source.pieces, _texts(group))
        parts = [_part(table.column(name)) for name in group.record_identifier]
        if source.is_sorted:
            starts = _run_starts(parts, source.rows, source.firsts[:-1] - source.firsts[0])
        else:  # every row may have another key than the one before
            starts = np.arange(source.rows)
        keys = [_take_part(part, starts, source.rows) for part in parts]

        def values(name: str) -> Int64:
            return _int64(table.column(name)) if name in columns else _NONE

        return Read(
            starts=starts,
            keys=keys,
            times=raw if len(raw) == len(times) else [values(group.event_time)],
            seq=values(WRITE_SEQ),
            arrival=None if in_order else values(WRITE_TIME),
            codes={},
        )


def _texts(group: FeatureGroup) -> list[str]:
    kinds = {"string", "binary"}
    return [feature.name for feature in group.key_features if feature.dtype.kind in kinds]


def _may_tie(sources: Sequence[Source], snapshot: GroupSnapshot) -> set[Source]:
    """Return the sources of which a row may have the key and event time of another source's.

    Cells are disjoint; everything else may overlap all that its bounds allow.
    """
    if len(sources) < 2:
        return set()
    tied = {source for source in sources if source.window < 0}
    if len(tied) == len(sources):
        return tied
    boxes = [_box(entry, snapshot) for entry in {source.entry for source in tied}]
    cells = [source for source in sources if source.window >= 0]
    for cell in cells:
        box = _box(cell.entry, snapshot)
        if any(_overlap(box, other) for other in boxes):
            tied.add(cell)
    return tied


def _overlap(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    in_hash = one[0] <= other[1] and other[0] <= one[1]
    return in_hash and one[2] <= other[3] and other[2] <= one[3]


def _box(entry: FileEntry | None, snapshot: GroupSnapshot) -> tuple[int, int, int, int]:
    """Return the bounds of a file, or of the tail: of its hashes, then of its event times."""
    if entry is not None:
        return entry.min_hash, entry.max_hash, entry.min_event_us, entry.max_event_us
    hashes = as_numbers(snapshot.tail.column(KEY_HASH))
    event_us = as_numbers(snapshot.tail.column(snapshot.group.event_time))
    return int(hashes.min()), int(hashes.max()), int(event_us.min()), int(event_us.max())


# ── runs ─────────────────────────────────────────────────────────────────────────────────────


def _run_starts(parts: list[list[tuple[int, Any]]], rows: int, begins: Int64) -> Int64:
    """Return where runs of equal keys begin, also at ``begins``.

    In a file every key is one run, and perhaps one more for each row group.
    """
    changed = np.zeros(rows, np.bool_)
    changed[begins[begins < rows]] = True
    for part in parts:
        for first, values in part:
            changed[first : first + 1] = True
            changed[first + 1 : first + len(values)] |= _differs(values)
    return np.flatnonzero(changed)


def _part(column: pa.ChunkedArray) -> list[tuple[int, Any]]:
    """Return stretches of a key's part within which rows are compared: first row, and values."""
    if is_number(column.type):
        return [(0, as_numbers(column))]
    if not pa.types.is_dictionary(column.type):
        return [(0, one_chunk(column))]
    firsts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)]).tolist()
    return [(first, c) for first, c in zip(firsts, column.chunks, strict=False) if len(c)]


def _differs(values: Any) -> npt.NDArray[np.bool_]:
    """Return for each value but the first whether it is another than the one before."""
    if isinstance(values, pa.DictionaryArray):
        # Two entries of a dictionary could be equal: then a run is cut in two, which does no harm.
        values = np.asarray(values.indices)
    if isinstance(values, np.ndarray):
        return np.asarray(values[1:] != values[:-1])
    differs = pc.not_equal(values.slice(1), values.slice(0, max(len(values) - 1, 0)))
    return np.asarray(differs.to_numpy(zero_copy_only=False), np.bool_)


def _take_part(part: list[tuple[int, Any]], rows: Int64, count: int) -> Any:
    """Return the values at these of ``count`` rows: int64, or chunks of Arrow."""
    if rows.size == count:
        values = [values for _, values in part]
        return values[0] if values and isinstance(values[0], np.ndarray) else values
    if len(part) == 1 and isinstance(part[0][1], np.ndarray):
        return part[0][1][rows]
    chunks = []
    for first, values in part:
        low, high = np.searchsorted(rows, (first, first + len(values)))
        chunks.append(values.take(pa.array(rows[low:high] - first)))
    return chunks


def _find(numbering: LabelKeys, reads: Sequence[Read]) -> list[Int64]:
    """Return the codes of each source's runs; keys of one form are looked up together."""
    forms = {tuple(_form(part) for part in read.keys) for read in reads}
    if len(forms) > 1:
        return [codes for read in reads for codes in _find(numbering, [read])]
    columns = [_joined([read.keys[i] for read in reads]) for i in range(len(reads[0].keys))]
    codes = numbering.index.find(columns)
    return np.split(codes, np.cumsum([read.starts.size for read in reads])[:-1])


def _form(part: Any) -> Any:
    return None if isinstance(part, np.ndarray) else next((str(chunk.type) for chunk in part), "")


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return pa.chunked_array([chunk for part in parts for chunk in part])


def _int64(column: pa.ChunkedArray) -> Int64:
    """Return integers or times without nulls as int64, without a copy where there is one chunk."""
    if column.null_count:
        raise CorruptStore(
            "A history file has a row without event time, seq or write time. Run "
            "`featurestore verify`."
        )
    return as_numbers(column)
