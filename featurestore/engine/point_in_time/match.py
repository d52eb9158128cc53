"""The first pass: find each label's row, reading only what decides it.

::

    source ─▶ runs of equal keys ─▶ codes of those runs ─▶ kernels.asof, against the laid-out labels
              (out of dictionary pages where keys lie in such, else out of decoded columns)

Reading and looking keys up goes on in threads, a few sources ahead; the kernels run in the order
of the sources, loose files and the journal tail first, then the cells, newest window first.  Before
each window it is asked whether any label can still get a better row from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.arrays import one_chunk
from featurestore.engine.key_index import NO_KEY, Coded, as_numbers, is_number
from featurestore.errors import CorruptStore
from featurestore.kernels.asof import (
    asof_collect,
    asof_finish,
    asof_pending,
    asof_runs,
    asof_update,
    empty_best,
)
from featurestore.storage.parquet import WRITE_SEQ, WRITE_TIME

if TYPE_CHECKING:
    from featurestore.engine.point_in_time.history import Source
    from featurestore.engine.point_in_time.labels import LabelKeys
    from featurestore.engine.point_in_time.plan import Question, Role
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.schema import FeatureGroup

Int64 = npt.NDArray[np.int64]

_NONE = np.empty(0, np.int64)

# Of the first sources so many rows are looked at before labels are laid out in their order.
_ORDER_ROWS = 4_000_000

# Labels whose times and best rows, at 32 bytes each, stay in a processor's caches.
_BLOCK_LABELS = 1 << 16

# Sources being read, or read and waiting for their turn.
_AHEAD = 3


class Search:
    """One role's labels, and what has been found for them so far.

    Attributes
    ----------
    answered : int64[m]
        Once finished: the labels for which a row was found.
    rows : int64[m]
        The rows, as they are numbered over all sources.
    event_us : int64[m] or int64[0]
        Their event times, if they are wanted.
    """

    answered: Int64
    rows: Int64
    event_us: Int64

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
        self._carry()
        label_us = self.keys.laid.time_us
        return bool(asof_pending(label_us, self.best, self.role.delay_us, oldest_us, newest_us))

    def update(self, reads: Sequence[tuple[Source, Read]], seq_max: int) -> None:
        """Let rows of history compete for the labels."""
        keys, laid = self.keys, self.keys.laid
        pieces = []
        for source, read in reads:
            ranks = keys.ranks(read.codes[id(keys)])
            if read.arrival is None:
                pieces += [(source, *piece) for piece in read.sorted_pieces(source, ranks)]
                continue
            asof_update(
                laid.starts, laid.time_us, self.best,
                read.by_row(ranks, source), read.event_us(), read.seq, source.max_seq, read.arrival,
                self.role.delay_us, seq_max, int(source.firsts[0]),
            )  # fmt: skip
            self._unfinished = True
        for source, first, begins, codes, event_us, seq in self._by_block(pieces):
            self._unfinished |= asof_runs(
                laid.starts, laid.time_us, self.best,
                begins, codes, event_us, seq, source.max_seq, self.role.delay_us, first,
            )  # fmt: skip

    def _by_block(self, pieces: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield sorted pieces cut at the same keys: all that concern some labels, then the next.

        So the labels are fetched from memory once for all files that were read together.  Where a
        piece is cut is a matter of speed alone.
        """
        edges = self.keys.block_edges(_BLOCK_LABELS)
        if len(pieces) == 1 or not edges.size:
            yield from pieces
            return
        cuts = []
        for _, _, _, codes, _, _ in pieces:
            # Keys that the layout does not have in the files' order may come anywhere.
            known = np.where(codes < self.keys.ordered, codes, NO_KEY)
            inner = np.searchsorted(np.maximum.accumulate(known), edges)
            cuts.append([0, *inner.tolist(), codes.size])
        for block in range(edges.size + 1):
            for cut, (source, first, begins, codes, event_us, seq) in zip(
                cuts, pieces, strict=True
            ):
                low, high = cut[block], cut[block + 1]
                if low == high:
                    continue
                row, end = begins[low], begins[high] if high < codes.size else event_us.size
                yield (
                    source, first + int(row), begins[low:high] - row, codes[low:high],
                    event_us[row:end], seq[row:end] if seq.size else seq,
                )  # fmt: skip

    def _carry(self) -> None:
        """Carry what was put down at some labels on to the later ones."""
        if self._unfinished:
            asof_finish(self.keys.laid.starts, self.best)
        self._unfinished = False

    def finish(self, *, with_times: bool) -> None:
        """Settle which row answers which label, once all rows have competed."""
        self._carry()
        answered, rows = np.empty(self.best.size, np.int64), np.empty(self.best.size, np.int64)
        event_us = np.empty(self.best.size if with_times else 0, np.int64)
        count = asof_collect(self.keys.laid.order, self.best, answered, rows, event_us)
        self.answered, self.rows = answered[:count], rows[:count]
        self.event_us = event_us[:count]
        self.keys.spare.append(self.best)
        self._best = None


@dataclass
class Read:
    """What decides between the rows of one source.

    Attributes
    ----------
    starts : int64[r]
        First row of each run of one key, counted from the source's first; a piece begins a run.
    keys : list of int64[r] or Coded of r
        The key of each run, part by part.
    times : list of int64[...]
        Event times, piece by piece, or of all pieces in one.
    seq : int64[rows] or int64[0]
        Empty where the source's greatest stands for all.
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

    def sorted_pieces(
        self, source: Source, of_runs: Int64
    ) -> Iterator[tuple[int, Int64, Int64, npt.NDArray[Any], Int64]]:
        """Yield stretches with times in one: the first row, where runs begin, what is theirs.

        And event times and seqs of the rows.
        """
        first = int(source.firsts[0])
        for times in self.times:
            begin = first - int(source.firsts[0])
            end = begin + times.size
            low, high = np.searchsorted(self.starts, (begin, end)).tolist()
            seq = self.seq[begin:end] if self.seq.size else _NONE
            yield first, self.starts[low:high] - begin, of_runs[low:high], times, seq
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
        Whether a record also has to have arrived, and whether event times are to be told.
    stretch_rows : int
        Small sources are put together, up to so many rows, to look their keys up at once.
    """
    reader = _Reader(sources, searches, snapshot, question)
    for window, together in groupby(sources, key=lambda source: source.window):
        wave = list(together)
        first = wave[0] is sources[0]
        if not first and window >= 0 and not any(search.pending(wave) for search in searches):
            continue
        reads = _read_ahead(reader, wave, pool, stretch_rows)
        if first and any(source.is_sorted for source in wave):
            reads = _settle_order(reads, searches)
        for stretch in reads:
            for search in searches:
                search.update(stretch, snapshot.seq)
    for search in searches:
        dated = question.every_status or search.role.max_age_us is not None
        search.finish(with_times=dated)


def read_all(
    sources: Sequence[Source],
    searches: Sequence[Search],
    snapshot: GroupSnapshot,
    pool: ThreadPoolExecutor,
    question: Question,
) -> Iterator[tuple[Source, Read]]:
    """Yield what decides between rows, with all their seqs, of every source."""
    reader = _Reader(sources, searches, snapshot, question, every_seq=True)
    return chain.from_iterable(_read_ahead(reader, sources, pool, stretch_rows=1))


def _settle_order(
    reads: Iterator[list[tuple[Source, Read]]], searches: Sequence[Search]
) -> Iterator[list[tuple[Source, Read]]]:
    """Have labels laid out in the order of the first sources, then go on with those."""
    seen: list[list[tuple[Source, Read]]] = []
    rows = 0
    for together in reads:
        seen.append(together)
        rows += sum(source.rows for source, _ in together)
        if rows >= _ORDER_ROWS:
            break
    first = [(s, read) for together in seen for s, read in together if s.is_sorted]
    for search in searches:
        search.keys.order_by(read.codes[id(search.keys)] for _, read in first)
    yield from seen
    yield from reads


def _read_ahead(
    reader: _Reader, wave: Sequence[Source], pool: ThreadPoolExecutor, stretch_rows: int
) -> Iterator[list[tuple[Source, Read]]]:
    """Yield sources in order as they have been read, small ones together, a few ahead of time."""
    stretches = deque(_stretches(wave, stretch_rows))
    ahead: deque[tuple[list[Source], Future[list[Read]]]] = deque()
    while stretches or ahead:
        while stretches and len(ahead) < _AHEAD:
            stretch = stretches.popleft()
            ahead.append((stretch, pool.submit(reader.read, stretch)))
        stretch, future = ahead.popleft()
        yield list(zip(stretch, future.result(), strict=True))


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
        every_seq: bool = False,
    ) -> None:
        self._group: FeatureGroup = snapshot.group
        self._seq_max = snapshot.seq
        self._by_write_time = question.by_write_time
        self._numberings = {id(search.keys): search.keys for search in searches}
        # Records of one event time may arrive in another order than that of their seqs.
        every_seq = every_seq or question.by_write_time
        self._tied = set(sources) if every_seq else _tied(sources)

    def read(self, stretch: Sequence[Source]) -> list[Read]:
        """Read some sources, and look the keys of all their runs up at once."""
        reads = [self._read(source) for source in stretch]
        for name, numbering in self._numberings.items():
            for read, codes in zip(reads, _find(numbering, reads), strict=True):
                read.codes[name] = codes
        return reads

    def _read(self, source: Source) -> Read:
        group = self._group
        whole = source.max_seq <= self._seq_max  # rows after the snapshot do not exist
        in_order = not self._by_write_time and source.is_sorted and whole
        times = [source.raw(group.event_time, piece) for piece in source.pieces]
        raw = [piece for piece in times if piece is not None]
        runs = [_lying(source, name) for name in group.record_identifier]
        columns = [name for name, r in zip(group.record_identifier, runs, strict=True) if r is None]
        if len(raw) < len(times):
            columns.append(group.event_time)
        if not whole or source in self._tied:
            columns.append(WRITE_SEQ)
        if self._by_write_time:
            columns.append(WRITE_TIME)
        table = source.read(columns, source.pieces, _texts(group)) if columns else None
        parts = [
            _decoded(table.column(name), source) if lying is None else lying  # type: ignore[union-attr]
            for name, lying in zip(group.record_identifier, runs, strict=True)
        ]
        starts, keys = _together(parts, source)

        def values(name: str) -> Int64:
            return _int64(table.column(name)) if table and name in columns else _NONE

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


def _tied(sources: Sequence[Source]) -> set[Source]:
    """Return the sources whose seqs are needed, to compare with rows of another source's.

    That is where keys and event times overlap, as those of cells do not, and seqs overlap too.
    """
    least = np.array([source.bounds[0] for source in sources]).reshape(-1, 3)
    greatest = np.array([source.bounds[1] for source in sources]).reshape(-1, 3)
    is_cell = np.array([source.window >= 0 for source in sources], np.bool_)
    tied = np.zeros(len(sources), np.bool_)
    for i in np.flatnonzero(~is_cell):
        overlap = ((least <= greatest[i]) & (least[i] <= greatest)).all(axis=1)
        overlap[i] = False
        tied |= overlap
        tied[i] |= overlap.any()
    return {source for source, is_tied in zip(sources, tied, strict=True) if is_tied}


# ── runs ─────────────────────────────────────────────────────────────────────────────────────


class _Runs(NamedTuple):
    """A part of the key in runs of equal values, or so: two neighbours may be equal, too.

    ``starts`` are the first rows, and ``values`` int64[r] or :class:`Coded`.
    """

    starts: Int64
    values: Any


def _lying(source: Source, column: str) -> _Runs | None:
    """Return a column whose pieces all lie in the file as runs."""
    pieces = []
    for piece in source.pieces:
        found = source.runs(column, piece)
        if found is None:
            return None
        pieces.append(found)
    starts = [
        own + (first - source.firsts[0])
        for (own, _, _), first in zip(pieces, source.firsts[:-1], strict=True)
    ]
    values = [
        distinct[codes] if isinstance(distinct, np.ndarray) else Coded(codes, _chunked(distinct))
        for _, codes, distinct in pieces
    ]
    return _Runs(_concatenated(starts), _joined(values))


def _chunked(values: pa.Array) -> pa.ChunkedArray:
    return pa.chunked_array([values])


def _decoded(column: pa.ChunkedArray, source: Source) -> _Runs:
    """Return a column as runs; every row is one where rows are in no order."""
    starts = None if source.is_sorted else np.arange(len(column))
    if is_number(column.type):
        numbers = as_numbers(column)
        if starts is not None:
            return _Runs(starts, numbers)
        starts = _begins(numbers[1:] != numbers[:-1], source)
        return _Runs(starts, numbers[starts])
    if pa.types.is_dictionary(column.type):
        coded = Coded.of(column)
        if starts is None:
            starts = _begins(coded.codes[1:] != coded.codes[:-1], source)
        return _Runs(starts, _take(coded, starts))
    if starts is not None:
        return _Runs(starts, Coded.of(column))
    values = one_chunk(column)
    differs = pc.not_equal(values.slice(1), values.slice(0, max(len(values) - 1, 0)))
    starts = _begins(np.asarray(differs.to_numpy(zero_copy_only=False), np.bool_), source)
    return _Runs(starts, Coded.of(values.take(pa.array(starts))))


def _begins(differs: npt.NDArray[np.bool_], source: Source) -> Int64:
    """Return where runs begin: where a row differs from the one before, and where pieces do."""
    changed = np.concatenate([[True], differs])[: source.rows]
    begins = source.firsts[:-1] - source.firsts[0]
    changed[begins[begins < source.rows]] = True
    return np.flatnonzero(changed)


def _together(parts: Sequence[_Runs], source: Source) -> tuple[Int64, list[Any]]:
    """Return the runs of the whole key: a part that changes begins one."""
    if len(parts) == 1:
        return parts[0].starts, [parts[0].values]
    if all(part.starts.size == source.rows for part in parts):
        return parts[0].starts, [part.values for part in parts]
    starts = np.unique(np.concatenate([part.starts for part in parts]))
    places = [np.searchsorted(part.starts, starts, side="right") - 1 for part in parts]
    return starts, [_take(part.values, at) for part, at in zip(parts, places, strict=True)]


def _take(values: Any, rows: Int64) -> Any:
    if isinstance(values, Coded):
        return Coded(values.codes[rows], values.entries)
    return values[rows]


def _find(numbering: LabelKeys, reads: Sequence[Read]) -> list[Int64]:
    """Return the codes of each source's runs; all keys are looked up together."""
    parts = range(len(reads[0].keys))
    codes = numbering.index.find([_joined([read.keys[i] for read in reads]) for i in parts])
    return np.split(codes, np.cumsum([read.starts.size for read in reads])[:-1])


def _joined(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if not isinstance(parts[0], Coded):
        return np.concatenate(parts)
    firsts = np.cumsum([0, *(len(part.entries) for part in parts)])
    codes = [
        np.where(part.codes < 0, part.codes, part.codes + first)
        for part, first in zip(parts, firsts, strict=False)
    ]
    chunks = [chunk for part in parts for chunk in part.entries.chunks]
    return Coded(np.concatenate(codes), pa.chunked_array(chunks, parts[0].entries.type))


def _concatenated(arrays: Sequence[Int64]) -> Int64:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _int64(column: pa.ChunkedArray) -> Int64:
    """Return integers or times without nulls as int64, without a copy where there is one chunk."""
    if column.null_count:
        raise CorruptStore(
            "A history file has a row without event time, seq or write time. Run "
            "`featurestore verify`."
        )
    return as_numbers(column)
