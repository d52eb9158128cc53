"""Sorted files read side by side and written anew, a row group at a time.

::

    source ─ row group ─┐
    source ─ row group ─┼─► rows up to the hash that all have reached ─► sort ─► keep ─► files
    source ─ row group ─┘                                                        (cut at a change
                                                                                  of hash)

A source is a chain of files that are disjoint and ascending in key hash: the cells of one window,
or one loose file.  Of each source one row group is in memory, and of what is written two.  No
batch ends within a hash, so whoever looks at a batch sees keys whole; only a hash with more rows
than a row group makes it larger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.engine.filing import under_intent
from featurestore.storage import manifest, parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.schema import FeatureGroup
    from featurestore.storage.parquet import HistoryFile

    Int64s = np.ndarray[Any, np.dtype[np.int64]]
    #: Which rows are wanted, by their event times: a mask, or None for all.
    Wanted = Callable[[manifest.FileEntry, Int64s], np.ndarray[Any, np.dtype[np.bool_]]]


def merged(
    snapshot: GroupSnapshot, chains: Iterable[Sequence[manifest.FileEntry]], wanted: Wanted
) -> Iterator[pa.Table]:
    """Yield the rows of some sources in file order, in batches that end where a hash does.

    Parameters
    ----------
    snapshot : GroupSnapshot
        Whose files they are.
    chains : iterable of sequences of FileEntry
        The sources.
    wanted : callable
        Given a file and the event times of some of its rows, tells which of them are wanted.
    """
    sources = [_Source(snapshot, chain, wanted) for chain in chains]
    try:
        while sum(source.fill() for source in sources) > 0:  # of each, some rows are held
            bounds = [source.last_hash for source in sources if source.has_more]
            bound = min(bounds, default=None)
            parts = [part for s in sources if (part := s.take_below(bound)).num_rows]
            if parts:
                yield _sorted(snapshot, parts)
                continue
            for source in sources:  # one hash is all that is held of the source that is behind
                if source.has_more and source.last_hash == bound:
                    source.hold_more()
    finally:
        for source in sources:
            source.close()


def _sorted(snapshot: GroupSnapshot, parts: list[pa.Table]) -> pa.Table:
    if len(parts) == 1:
        return parts[0]
    return parquet.sort_history(pa.concat_tables(parts), snapshot.group, snapshot.key_hash)


class _Source:
    """Files one after the other, of which the rows not taken yet are held, a row group or more."""

    def __init__(
        self, snapshot: GroupSnapshot, chain: Sequence[manifest.FileEntry], wanted: Wanted
    ) -> None:
        self._group = snapshot.group
        self._snapshot = snapshot
        self._wanted = wanted
        self._files = sorted(chain, key=lambda entry: entry.min_hash)
        self._file: HistoryFile | None = None
        self._row_group = 0
        self._held: pa.Table | None = None
        self._hashes = np.zeros(0, np.int64)

    @property
    def has_more(self) -> bool:
        """Whether rows may follow on those that are held."""
        return bool(self._files) or self._file is not None

    @property
    def last_hash(self) -> int:
        """The hash of the last row that is held."""
        return int(self._hashes[-1])

    def fill(self) -> bool:
        """Hold some rows, unless there are none left; returns whether there are."""
        while not len(self._hashes) and self.has_more:
            self.hold_more()
        return bool(len(self._hashes))

    def hold_more(self) -> None:
        """Read the next row group."""
        if self._file is None:
            self._file = self._snapshot.open(self._files.pop(0))
            self._row_group = 0
        table = self._read(self._file, self._row_group)
        self._row_group += 1
        if self._row_group >= self._file.row_groups:
            self.close()
        if table is None:
            return
        more = parquet.as_int64(table.column(parquet.KEY_HASH))
        self._held = table if not len(self._hashes) else pa.concat_tables([self._held, table])
        self._hashes = np.concatenate([self._hashes, more])

    def _read(self, file: HistoryFile, number: int) -> pa.Table | None:
        times = file.read([self._group.event_time], [number]).column(0)
        mask = self._wanted(file.entry, parquet.as_int64(times))
        if not mask.any():
            return None
        table = file.read(row_groups=[number])
        return table if mask.all() else table.filter(pa.array(mask))

    def take_below(self, bound: int | None) -> pa.Table:
        """Take the rows of lesser hashes than the bound; all that are held, where there is none."""
        if self._held is None:
            return pa.table({})
        end = len(self._hashes) if bound is None else int(np.searchsorted(self._hashes, bound))
        taken, self._held = self._held.slice(0, end), self._held.slice(end)
        self._hashes = self._hashes[end:]
        return taken

    def close(self) -> None:
        """Close the file that is being read."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Rows:
    """Batches of whole hashes, to be written as files of a certain length.

    Parameters
    ----------
    batches : iterator of pyarrow.Table
        As :func:`merged` gives them.
    file_rows : int
        After about so many rows, at a change of hash, a file ends.
    """

    def __init__(self, batches: Iterator[pa.Table], file_rows: int) -> None:
        self._batches = batches
        self._rest: pa.Table | None = None
        self._file_rows = file_rows

    def has_more(self) -> bool:
        """Return whether there are rows for another file."""
        while self._rest is None or not self._rest.num_rows:
            self._rest = next(self._batches, None)
            if self._rest is None:
                return False
        return True

    def row_groups(self) -> Iterator[pa.Table]:
        """Yield the rows of the next file, a row group each."""
        waiting: list[pa.Table] = []
        rows = 0
        for part in self._parts():
            waiting.append(part)
            rows += part.num_rows
            while rows >= parquet.ROW_GROUP_ROWS:
                table = pa.concat_tables(waiting)
                yield table.slice(0, parquet.ROW_GROUP_ROWS)
                waiting = [table.slice(parquet.ROW_GROUP_ROWS)]
                rows -= parquet.ROW_GROUP_ROWS
        if rows:
            yield pa.concat_tables(waiting)

    def _parts(self) -> Iterator[pa.Table]:
        room = self._file_rows
        while self.has_more():
            table: pa.Table = self._rest
            end = self._cut(table, room)
            self._rest = table.slice(end)
            if end:
                yield table.slice(0, end)
            room -= end
            if end < table.num_rows or room <= 0:
                return

    def _cut(self, table: pa.Table, room: int) -> int:
        """Return how many rows of a batch still go into the file: up to a change of hash."""
        if table.num_rows <= room:
            return int(table.num_rows)
        hashes = parquet.as_int64(table.column(parquet.KEY_HASH))
        first = int(np.searchsorted(hashes, hashes[room], side="left"))
        if first > 0 or room < self._file_rows:
            return first
        return int(np.searchsorted(hashes, hashes[0], side="right"))


def write_files(
    database: Database,
    group: FeatureGroup,
    kind: str,
    rows: Rows,
    now_us: int,
    *,
    bytes_needed: int,
    **fields: Any,
) -> Iterator[manifest.FileEntry]:
    """Write rows as files; yield the entry of each as it is there to be listed."""
    while rows.has_more():

        def write(file_id: int, relative: str) -> manifest.FileEntry:
            facts = parquet.Facts(group)
            pieces = facts.of(rows.row_groups())
            parquet.write_row_groups(database.root, relative, pieces, bytes_needed, group)
            return parquet.entry_of(
                database.root,
                group,
                file_id,
                kind,
                relative=relative,
                **(facts.fields() | fields),
            )

        yield under_intent(database, group, write, now_us)
