"""History's side: the files and the journal tail, as pieces that are read or left out.

::

    group ─▶ sources: files, journal tail          left out by the manifest: hash range, event
              └─▶ pieces: a file's row groups       times, seqs;  by the footer: hash range

A piece is the unit of reading; rows are numbered over all pieces that are left.  A file of few rows
is read whole.  Of larger ones a column is taken as an array out of the mapped file where it
lies there as one (``storage.pages``), else row groups are decoded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import CorruptStore
from featurestore.event_time import MIN_US
from featurestore.storage import parquet
from featurestore.storage.parquet import EXPIRES_AT, IS_DELETED, WRITE_SEQ

if TYPE_CHECKING:
    from featurestore.engine.point_in_time.match import Search
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.storage.manifest import FileEntry
    from featurestore.storage.parquet import HistoryFile

Int64 = npt.NDArray[np.int64]

_INT64 = np.iinfo(np.int64)

# Keys spread evenly over hashes: with many more of them than row groups, none is left out.
_HASHED_KEYS_A_ROW_GROUP = 8

# So few rows are decoded faster than they are looked for.
_WHOLE_ROWS = 64

# A long tail is looked at in parts: memory that was used is faster than memory that is new.
_TAIL_ROWS = 1 << 20


class Source:
    """A stretch of history whose pieces are numbered from ``first``.

    Attributes
    ----------
    entry : FileEntry or None
        The file; None for a part of the journal tail.
    bounds : ((int, int, int), (int, int, int))
        Least and greatest key hash, event time and seq.
    pieces : list of int
        Its row groups that may matter; the only one of a small file or the tail is 0.
    firsts : int64[pieces + 1]
        Number of each piece's first row, and where the last one's end.
    is_sorted : bool
        By key, event time and seq; else by seq alone.
    memory : uint8[n]
        The mapped file, if :meth:`raw` and :meth:`runs` find anything in it.
    """

    memory = np.empty(0, np.uint8)

    def __init__(
        self,
        entry: FileEntry | None,
        bounds: tuple[tuple[int, int, int], tuple[int, int, int]],
        pieces: Sequence[int],
        rows: Iterable[int],
    ) -> None:
        self.entry = entry
        self.bounds = bounds
        self.pieces = list(pieces)
        self.firsts = np.cumsum([0, *rows], dtype=np.int64)
        self.is_sorted = entry is not None

    def number_from(self, first: int) -> int:
        """Let rows be numbered from ``first``; return the number after the last."""
        self.firsts += first - self.firsts[0]
        return int(self.firsts[-1])

    @property
    def rows(self) -> int:
        """Rows of all pieces."""
        return int(self.firsts[-1] - self.firsts[0])

    @property
    def max_seq(self) -> int:
        """Greatest seq."""
        return self.bounds[1][2]

    @property
    def window(self) -> int:
        """The window of a cell; -1 for what may overlap anything."""
        return -1 if self.entry is None or self.entry.kind != "cell" else self.entry.window

    def read(
        self, columns: list[str], pieces: Sequence[int], dictionaries: Sequence[str] = ()
    ) -> pa.Table:
        """Return some columns of some pieces, ascending, one after the other."""
        raise NotImplementedError

    def raw_at(self, columns: Sequence[str], piece: int) -> Int64 | None:
        """Return where in ``memory`` columns of a piece lie as arrays, -1 for those that do not.

        None if none of them does.
        """
        del columns, piece
        return None

    def raw(self, column: str, piece: int) -> npt.NDArray[Any] | None:
        """Return a column of int64 of a piece, if it is an array already."""
        at = self.raw_at([column], piece)
        if at is None or at[0] < 0:
            return None
        return np.frombuffer(self.memory, np.int64, self.rows_of(piece), int(at[0]))

    def rows_of(self, piece: int) -> int:
        """Return the rows of a piece."""
        number = bisect_left(self.pieces, piece)
        return int(self.firsts[number + 1] - self.firsts[number])

    def runs(self, column: str, piece: int) -> tuple[Int64, Int64, Any] | None:
        """Return a column of a piece as runs, if it lies in the file so; see ``Pages.runs``."""
        del column, piece
        return None

    def may_hold(self, column: str) -> bool:
        """Return whether any row may be a delete, or may expire; features always may."""
        if self.entry is not None and column == IS_DELETED:
            return self.entry.tombstones > 0
        return True


def _bounds_of(entry: FileEntry) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return (
        (entry.min_hash, entry.min_event_us, entry.min_seq),
        (entry.max_hash, entry.max_event_us, entry.max_seq),
    )


class _Whole(Source):
    """A file of few rows: read whole, whatever is asked for."""

    def __init__(self, entry: FileEntry, load: Callable[[list[str]], pa.Table]) -> None:
        super().__init__(entry, _bounds_of(entry), [0], [entry.visible_rows])
        self._load = load

    def read(
        self, columns: list[str], pieces: Sequence[int], dictionaries: Sequence[str] = ()
    ) -> pa.Table:
        del pieces, dictionaries
        table = self._load(columns)
        if table.num_rows != self.rows:
            raise CorruptStore(
                f"A history file holds {table.num_rows} rows where {self.rows} are listed. Run "
                "`featurestore verify`."
            )
        return table


class _Tail(Source):
    """A part of the journal tail, which is in memory."""

    def __init__(self, table: pa.Table) -> None:
        seq = table.column(WRITE_SEQ)  # ascending; keys and times are any, for all one knows
        least = _INT64.min, _INT64.min, seq[0].as_py()
        greatest = _INT64.max, _INT64.max, seq[-1].as_py()
        super().__init__(None, (least, greatest), [0], [table.num_rows])
        self._table = table

    def read(
        self, columns: list[str], pieces: Sequence[int], dictionaries: Sequence[str] = ()
    ) -> pa.Table:
        del pieces, dictionaries
        return self._table.select(columns)

    def may_hold(self, column: str) -> bool:
        if column == IS_DELETED:
            return bool(pc.any(self._table.column(column)).as_py())
        return bool(self._table.column(column).null_count < self.rows)


class _Large(Source):
    """A file of many rows."""

    def __init__(self, file: HistoryFile, pieces: Sequence[int]) -> None:
        rows = (file.rows_of(i) for i in pieces)
        super().__init__(file.entry, _bounds_of(file.entry), pieces, rows)
        self.memory = file.memory
        self._file = file

    def read(
        self, columns: list[str], pieces: Sequence[int], dictionaries: Sequence[str] = ()
    ) -> pa.Table:
        return self._file.read(columns, pieces, dictionaries)

    def raw_at(self, columns: Sequence[str], piece: int) -> Int64 | None:
        return self._file.raw(columns, piece)

    def runs(self, column: str, piece: int) -> tuple[Int64, Int64, Any] | None:
        return self._file.runs(column, piece)

    def may_hold(self, column: str) -> bool:
        if column == EXPIRES_AT:
            return not self._file.all_null(column)
        return super().may_hold(column)


@dataclass(frozen=True)
class Bounds:
    """What a file, or a row group, must hold to matter to any of a group's searches.

    Attributes
    ----------
    event_us_min, event_us_max : int
        Event times that can answer a label.
    seq_max : int
        Newest seq that counts.
    hashes : int64[n] or None
        The labels' keys, hashed and sorted; None when there are too many for that to pay.
    """

    event_us_min: int
    event_us_max: int
    seq_max: int
    hashes: Int64 | None

    @classmethod
    def of(
        cls,
        snapshot: GroupSnapshot,
        searches: Sequence[Search],
        *,
        every_status: bool,
        hashed_keys_max: int,
    ) -> Bounds:
        """Return the bounds of some searches together."""
        oldest, newest = [], []
        for search in searches:
            time_us, max_age_us = search.time_us, search.role.max_age_us
            newest.append(int(time_us.max()) - search.role.delay_us)
            # A record over age gives nulls, and so does none: they differ in their status only.
            if max_age_us is None or every_status:
                oldest.append(MIN_US)
            else:
                oldest.append(int(time_us.min()) - max_age_us)
        return cls(
            event_us_min=min(oldest),
            event_us_max=max(newest),
            seq_max=snapshot.seq,
            hashes=_hashes(snapshot, searches, hashed_keys_max),
        )

    def admit(self, entry: FileEntry) -> bool:
        """Say whether a file can hold a row that matters."""
        if entry.min_event_us > self.event_us_max or entry.max_event_us < self.event_us_min:
            return False
        if entry.min_seq > self.seq_max:
            return False
        return bool(self.admit_hashes(entry.min_hash, entry.max_hash))

    def admit_hashes(self, least: Any, greatest: Any) -> Any:
        """Say whether ranges of key hashes, ends included, can hold a key that matters."""
        if self.hashes is None:
            return np.ones(np.shape(least), np.bool_)
        at = np.searchsorted(self.hashes, least)
        found = np.append(self.hashes, 0)[at] <= greatest
        return found & (at < self.hashes.size)


def _hashes(
    snapshot: GroupSnapshot, searches: Sequence[Search], hashed_keys_max: int
) -> Int64 | None:
    """Return the hashes of the labels' keys, or None where finding them out would not pay."""
    row_groups = sum(1 + e.visible_rows // parquet.ROW_GROUP_ROWS for e in snapshot.files)
    numberings = {id(search.keys): search.keys for search in searches}
    keys = sum(numbering.index.size for numbering in numberings.values())
    if keys > min(hashed_keys_max, _HASHED_KEYS_A_ROW_GROUP * row_groups):
        return None
    hashed = [n.hashes(snapshot.group, snapshot.key_hash) for n in numberings.values()]
    known = [hashes for hashes in hashed if hashes is not None]
    return np.sort(np.concatenate(known)) if len(known) == len(hashed) else None


class History:
    """A group's files, opened when they are first needed, at most once."""

    def __init__(self, snapshot: GroupSnapshot) -> None:
        self.snapshot = snapshot
        self._files: dict[int, HistoryFile] = {}
        self._stack = ExitStack()

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def sources(self, bounds: Bounds) -> list[Source]:
        """Return what may matter: the tail and loose files, then cells, newest window first."""
        found: list[Source] = []
        for entry in filter(bounds.admit, self.snapshot.files):
            if entry.rows <= min(parquet.ROW_GROUP_ROWS, _WHOLE_ROWS):
                found.append(_Whole(entry, self._reader(entry)))
                continue
            file = self._open(entry)
            groups = np.flatnonzero(bounds.admit_hashes(*file.hash_bounds())).tolist()
            if groups:
                found.append(_Large(file, groups))
        tail = self.snapshot.tail
        found += [
            _Tail(tail.slice(start, _TAIL_ROWS)) for start in range(0, tail.num_rows, _TAIL_ROWS)
        ]
        found.sort(key=lambda source: (source.window >= 0, -source.window))
        first = 0
        for source in found:
            first = source.number_from(first)
        return found

    def _reader(self, entry: FileEntry) -> Callable[[list[str]], pa.Table]:
        return lambda columns: self.snapshot.read(entry, columns)

    def _open(self, entry: FileEntry) -> HistoryFile:
        if entry.file_id not in self._files:
            self._files[entry.file_id] = self._stack.enter_context(self.snapshot.open(entry))
        return self._files[entry.file_id]
