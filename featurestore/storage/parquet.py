"""History files: Parquet, written sorted and once, read back in the history layout.

::

    __key_hash │ identifier… │ event time │ write_seq │ write_time │ expires_at │ is_deleted
    │ __stores │ features…              sorted by (__key_hash, key bytes, event time, write_seq)

The order is the order of the online store, so a range of hashes is the unit of pruning, of
threads and of compaction.  A *staged* file was written before its commit: its ``write_seq`` holds
ordinals and its ``write_time`` is null, unless imported; the manifest says where each committed
stretch begins, and :func:`read_history` adds it.  Nobody above this module sees the difference.

How each column is encoded is decided for each file, by what a sample of it weighs (``layout``).
A file is described once, when it is written (:func:`describe`), and never changes afterwards.
Page checksums are written and checked on every read through here; the manifest keeps size and
digest of the whole.  A file that the file system says nobody has touched since it was written is
read at once; any other is held to its digest first, once in a process (:func:`require_sound`).
Bits that rot under a file system are found by `scrub` and `verify`, which read them all; with
``FEATURESTORE_CHECK_FILES=1`` also by whoever is the first to read a file in a process, and nobody
is given a wrong value.  It is not the default, since a look at a few rows then reads a file whole.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.arrays import one_chunk
from featurestore.encoding.columns import history_schema
from featurestore.encoding.key_columns import encode_keys
from featurestore.errors import CorruptStore, FeatureStoreError, Unavailable
from featurestore.storage import files, layout, seam
from featurestore.storage.manifest import FileEntry
from featurestore.storage.pages import Pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from featurestore.encoding.keys import KeyHash
    from featurestore.schema import FeatureGroup

Int64 = np.ndarray[Any, np.dtype[np.int64]]

ROW_GROUP_ROWS = 122_880
KEY_HASH = "__key_hash"
STORES = "__stores"
WRITE_SEQ, WRITE_TIME, EXPIRES_AT, IS_DELETED = (
    "write_seq",
    "write_time",
    "expires_at",
    "is_deleted",
)


def write_history(root: Path, relative: str, table: pa.Table, group: FeatureGroup) -> None:
    """Write a sorted history table as a file; durable under its name on return."""
    pieces = (
        table.slice(start, ROW_GROUP_ROWS) for start in range(0, table.num_rows, ROW_GROUP_ROWS)
    )
    write_row_groups(root, relative, pieces, table.nbytes, group)


def write_row_groups(
    root: Path, relative: str, pieces: Iterable[pa.Table], bytes_needed: int, group: FeatureGroup
) -> None:
    """Write a history file as its row groups are made; durable under its name on return.

    Parameters
    ----------
    root, relative : Path, str
        The store's folder, and the file below it.
    pieces : iterable of pyarrow.Table
        The rows in file order, a row group each.  The next one is made while the one before is
        being written, and the one before that is not needed any more.
    bytes_needed : int
        What the disk must have room for.
    group : FeatureGroup
        Whose history it is.
    """
    final = root / relative
    files.make_folder(final.parent)
    temporary = final.with_name(f".{final.name}.tmp")
    with files.translated(final):
        files.require_room(root, bytes_needed)
        try:
            seam.call("parquet", temporary, _write_pieces, temporary, pieces, group)
        except BaseException:
            # What cannot be removed now is left to the cleaner.
            with contextlib.suppress(FeatureStoreError, OSError):
                files.remove(temporary)
            raise
    files.publish(temporary, final)


def _write_pieces(path: Path, pieces: Iterable[pa.Table], group: FeatureGroup) -> None:
    pieces = iter(pieces)
    # Rows are in the order of a hash: the first row group is as good a sample as any.
    first = next(pieces, None)
    sample = history_schema(group).empty_table() if first is None else first
    with (
        seam.sink(path) as sink,
        pq.ParquetWriter(sink, sample.schema, **_writer_options(sample, group)) as writer,
    ):
        if first is not None and first.num_rows < ROW_GROUP_ROWS:  # the only one
            writer.write_table(first, first.num_rows)
            first = None
        with ThreadPoolExecutor(1) as other_thread:  # starts no thread before it has work
            written: Future[None] | None = None
            for piece in itertools.chain(() if first is None else (first,), pieces):
                if written is not None:
                    written.result()
                written = other_thread.submit(writer.write_table, piece, piece.num_rows)
            if written is not None:
                written.result()


def _writer_options(sample: pa.Table, group: FeatureGroup) -> dict[str, Any]:
    chosen = layout.writer_options(
        sample,
        identifiers=(KEY_HASH, *group.record_identifier),
        event_time=group.event_time,
        rarely=(WRITE_SEQ, WRITE_TIME, EXPIRES_AT, IS_DELETED, STORES),
        row_group_rows=ROW_GROUP_ROWS,
    )
    return {**chosen, "write_page_checksum": True, "store_schema": True}


def describe(
    root: Path, group: FeatureGroup, file_id: int, kind: str, table: pa.Table, **fields: Any
) -> FileEntry:
    """Return the manifest entry of a file just written from ``table``."""
    facts = Facts(group)
    facts.add(table)
    return entry_of(root, group, file_id, kind, **(facts.fields() | fields))


class Facts:
    """What the manifest says of a file's rows, gathered while they are written."""

    def __init__(self, group: FeatureGroup) -> None:
        self._group = group
        self._rows = self._tombstones = 0
        self._unique = True
        self._bounds: dict[str, tuple[int, int]] = {}
        self._last: pa.Table | None = None

    def of(self, pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield pieces of the file, in its order, taking note of them."""
        for piece in pieces:
            self.add(piece)
            yield piece

    def add(self, table: pa.Table) -> None:
        """Take note of the next rows."""
        self._rows += table.num_rows
        self._tombstones += int(pc.sum(table.column(IS_DELETED)).as_py() or 0)
        for what, name in (
            ("hash", KEY_HASH),
            ("event_us", self._group.event_time),
            ("seq", WRITE_SEQ),
        ):
            values = as_int64(table.column(name))
            low, high = self._bounds.get(what, (values[0], values[0]))
            self._bounds[what] = (
                min(int(low), int(values.min())),
                max(int(high), int(values.max())),
            )
        names = [*self._group.record_identifier, self._group.event_time]
        keys = table.select(names)
        if self._last is not None:
            keys = pa.concat_tables([self._last, keys])
        event = as_int64(keys.column(self._group.event_time))
        again = same_key_as_before(keys, self._group)[event[1:] == event[:-1]].any()
        self._unique = self._unique and not bool(again)
        self._last = keys.slice(keys.num_rows - 1)

    def fields(self) -> dict[str, Any]:
        """Return the fields of a :class:`FileEntry` that tell of rows."""
        bounds = {
            f"{side}_{what}": value
            for what, pair in self._bounds.items()
            for side, value in zip(("min", "max"), pair, strict=True)
        }
        return {
            "rows": self._rows,
            "visible_rows": self._rows,
            "tombstones": self._tombstones,
            "unique": self._unique,
            **bounds,
        }


def entry_of(
    root: Path, group: FeatureGroup, file_id: int, kind: str, *, relative: str, **fields: Any
) -> FileEntry:
    """Return the manifest entry of a file just written, of whose rows ``fields`` tell."""
    path = root / relative
    return FileEntry(
        group_id=group.id,
        file_id=file_id,
        kind=kind,
        size_bytes=files.size(path),
        digest=files.digest(path),
        witness=files.witness(path),
        schema_version=group.version,
        **fields,
    )


#: Whether a file is held to its digest by each process that reads it, touched or not.
check_files = os.environ.get("FEATURESTORE_CHECK_FILES", "0") != "0"
#: The files that this process has read whole and found sound.
_sound: set[tuple[tuple[int, ...], str]] = set()


def require_sound(root: Path, entry: FileEntry) -> None:
    """Hold a file that was touched to its digest, before anything in it is believed; or every file.

    DuckDB looks at no checksum, and where values are taken out of the mapped file nobody does; the
    footer has none at all.

    Raises
    ------
    CorruptStore
        It is missing or damaged.
    """
    path = root / entry.path
    with _reading(entry):
        witness = files.witness(path)
        seen = (witness, entry.digest)
        if seen in _sound or (witness == entry.witness and not check_files):
            return
        if files.digest(path) != entry.digest:
            raise pa.ArrowInvalid("its bytes are not those that were written")
    _sound.add(seen)


def as_int64(column: pa.ChunkedArray | pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return a column of integers or timestamps without nulls as int64."""
    array = one_chunk(column)
    if pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())
    return np.asarray(array.to_numpy(zero_copy_only=False), np.int64)


def same_key_as_before(table: pa.Table, group: FeatureGroup) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return, for each row but the first, whether it has the key of the row before.

    The identifier is compared itself: equal hash is never taken for equal key.
    """
    rows = table.num_rows
    if rows < 2:
        return np.zeros(0, np.bool_)
    same = np.ones(rows - 1, np.bool_)
    for name in group.record_identifier:
        column = one_chunk(table.column(name))
        equal = pc.equal(column.slice(1), column.slice(0, rows - 1))
        same &= equal.to_numpy(zero_copy_only=False)
    return same


def sort_history(table: pa.Table, group: FeatureGroup, key_hash: KeyHash) -> pa.Table:
    """Return a history table in file order: by (key hash, key bytes, event time, seq)."""
    keys = encode_keys(
        [one_chunk(table.column(f.name)) for f in group.key_features],
        [f.dtype for f in group.key_features],
    )
    ranks = keys.ranks(key_hash)[keys.codes]
    event = as_int64(table.column(group.event_time))
    return table.take(pa.array(np.lexsort((as_int64(table.column(WRITE_SEQ)), event, ranks))))


def read_history(
    root: Path, entry: FileEntry, group: FeatureGroup, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read the visible rows of a file in the history layout.

    Parameters
    ----------
    root : Path
        The store's folder.
    entry : FileEntry
        The file, as listed at the moment the reader looks at.
    group : FeatureGroup
        Its group; features that came after the file are null.
    columns : sequence of str, optional
        Columns of the history layout, in the order wanted; all by default.

    Returns
    -------
    pyarrow.Table
        ``entry.visible_rows`` rows in file order, ``write_seq`` and ``write_time`` absolute.

    Raises
    ------
    CorruptStore
        The file is missing, damaged, or not what the manifest says.
    """
    with HistoryFile(root, entry, group) as file:
        return file.read(columns)


class HistoryFile:
    """One history file, open for reading some of its columns, of some of its row groups.

    Attributes
    ----------
    entry : FileEntry
        The file, as listed at the moment the reader looks at.
    firsts : int64[row groups + 1]
        First row of each row group that has visible rows, and where the last one's end.
    """

    def __init__(self, root: Path, entry: FileEntry, group: FeatureGroup) -> None:
        self.entry = entry
        self._full = history_schema(group)
        self._path = root / entry.path
        self._file: pq.ParquetFile | None = None
        self._plain: dict[tuple[str, ...], tuple[Int64, Int64]] = {}
        require_sound(root, entry)
        with _reading(entry):
            self._pages = Pages(self._path)
        if self._pages.rows != entry.rows:
            raise CorruptStore(
                f"{entry.path} has {self._pages.rows} rows; the manifest says {entry.rows}."
            )
        firsts = np.concatenate([[0], np.cumsum(self._pages.group_rows)])
        visible = int(np.searchsorted(firsts, entry.visible_rows))
        self.firsts = np.minimum(firsts[: visible + 1], entry.visible_rows)

    def _open(self, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        return seam.call(
            "open",
            self._path,
            pq.ParquetFile,
            self._path,
            metadata=None if self._file is None else self._file.metadata,
            read_dictionary=list(dictionaries),
            page_checksum_verification=True,
            memory_map=True,
            pre_buffer=False,
        )

    @cached_property
    def _decoder(self) -> pq.ParquetFile:
        """The file as pyarrow reads it."""
        self._file = self._open()
        return self._file

    @cached_property
    def _names(self) -> frozenset[str]:
        """The columns that the file has."""
        return frozenset(self._decoder.schema_arrow.names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays out of it stay."""
        if self._file is not None:
            self._file.close()

    @property
    def row_groups(self) -> int:
        """How many row groups have visible rows."""
        return len(self.firsts) - 1

    @property
    def memory(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The mapped file."""
        return self._pages.memory

    def rows_of(self, row_group: int) -> int:
        """Return how many visible rows a row group has."""
        return int(self.firsts[row_group + 1] - self.firsts[row_group])

    def hash_bounds(self) -> tuple[Int64, Int64]:
        """Return the least and the greatest key hash of each visible row group."""
        bounds = self._pages.bounds(KEY_HASH)
        if bounds is None:
            every = np.ones(self.row_groups, np.int64)
            return every * self.entry.min_hash, every * self.entry.max_hash
        return bounds[0][: self.row_groups], bounds[1][: self.row_groups]

    def all_null(self, column: str) -> bool:
        """Return whether the file's statistics say that a column has no value at all."""
        if column not in self._pages:
            return column not in self._names
        return self._pages.all_null(column, self.row_groups)

    def raw(self, columns: Sequence[str], row_group: int) -> Int64:
        """Return at which byte of ``memory`` columns of a row group lie as arrays.

        Returns
        -------
        int64[columns]
            Of arrays of 8 or 4 bytes a value, without nulls, which may begin at any byte; -1 for
            a column that has to be read.
        """
        wanted = tuple(columns)
        plain = self._plain.get(wanted)
        if plain is None:
            plain = self._pages.plain(wanted, [self._full.field(name).type for name in wanted])
            if self.entry.kind == "staged":
                plain[0][np.isin(wanted, (WRITE_SEQ, WRITE_TIME))] = -1
            self._plain[wanted] = plain
        return self._pages.raw(plain, row_group)

    def runs(self, column: str, row_group: int) -> tuple[Int64, Int64, Any] | None:
        """Return the runs of equal values of a column in a row group; see ``Pages.runs``."""
        found = self._pages.runs(column, self._full.field(column).type, row_group)
        if found is None:
            return None
        starts, codes, values = found
        visible = int(np.searchsorted(starts, self.rows_of(row_group)))
        return starts[:visible], codes[:visible], values

    def read(
        self,
        columns: Sequence[str] | None = None,
        row_groups: Sequence[int] | None = None,
        dictionaries: Sequence[str] = (),
    ) -> pa.Table:
        """Read visible rows in the history layout.

        Parameters
        ----------
        columns : sequence of str, optional
            In the order wanted; all by default.
        row_groups : sequence of int, optional
            Ascending; all by default.
        dictionaries : sequence of str
            Columns of text or bytes to be left as dictionaries where the file has them so.

        Returns
        -------
        pyarrow.Table
            Rows in file order, ``write_seq`` and ``write_time`` absolute.
        """
        wanted = self._full.names if columns is None else list(columns)
        chosen = range(self.row_groups) if row_groups is None else row_groups
        stretches = [(int(self.firsts[i]), int(self.firsts[i + 1])) for i in chosen]
        rows = sum(end - first for first, end in stretches)
        with _reading(self.entry):
            names = [name for name in wanted if name in self._names]
            file = self._open(dictionaries) if dictionaries else self._decoder
            table = seam.call(
                "read",
                self._path,
                file.read_row_groups,
                list(chosen),
                columns=names,
                use_threads=False,
            )
        table = table.slice(0, rows)  # rows that are not visible come last
        arrays = [self._as_listed(table, name, stretches, rows, dictionaries) for name in wanted]
        fields = [
            self._full.field(name).with_type(array.type)
            for name, array in zip(wanted, arrays, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _as_listed(
        self,
        table: pa.Table,
        name: str,
        stretches: Sequence[tuple[int, int]],
        rows: int,
        dictionaries: Sequence[str],
    ) -> pa.ChunkedArray:
        kind = self._full.field(name).type
        if name not in self._names:
            return pa.chunked_array([pa.nulls(rows, kind)])
        column = table.column(name)
        if self.entry.kind == "staged" and name in {WRITE_SEQ, WRITE_TIME}:
            number = np.concatenate([np.arange(*s) for s in stretches] or [np.zeros(0, np.int64)])
            ends, base_seqs, times_us = np.array(self.entry.slices, np.int64).reshape(-1, 3).T
            commit = np.searchsorted(ends, number, side="right")
            if name == WRITE_SEQ:
                return pa.chunked_array([pa.array(as_int64(column) + base_seqs[commit])])
            committed = pa.array(times_us[commit]).view(column.type)
            column = pa.chunked_array([pc.coalesce(one_chunk(column), committed)])
        if name in dictionaries and pa.types.is_dictionary(column.type):
            return column
        return column.cast(kind)


@contextlib.contextmanager
def _reading(entry: FileEntry) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CorruptStore(
            f"{entry.path} is listed in the manifest but not there. Restore it from a backup, "
            "and run `featurestore verify`."
        ) from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno in files.NO_DESCRIPTOR:
            raise Unavailable(files.no_descriptor(entry.path, error)) from error
        raise CorruptStore(
            f"{entry.path} is damaged ({error}). Restore it from a backup, and run "
            "`featurestore verify`."
        ) from error
