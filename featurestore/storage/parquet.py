"""History files: Parquet, written sorted and once, read back in the history layout.

::

    __key_hash │ identifier… │ event time │ write_seq │ write_time │ expires_at │ is_deleted
    │ __stores │ features…              sorted by (__key_hash, key bytes, event time, write_seq)

The order is the order of the online store, so a range of hashes is the unit of pruning, of
threads and of compaction.  A *staged* file was written before its commit: its ``write_seq`` holds
ordinals and its ``write_time`` is null, unless imported; the manifest says where each committed
stretch begins, and :func:`read_history` adds it.  Nobody above this module sees the difference.

A file is described once, when it is written (:func:`describe`), and never changes afterwards.
Page checksums are written and checked on every read through here; the manifest keeps size and
digest of the whole.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.encoding.columns import encode_keys, history_schema
from featurestore.errors import CorruptStore
from featurestore.storage import files
from featurestore.storage.manifest import FileEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from featurestore.encoding.keys import KeyHash
    from featurestore.schema import FeatureGroup

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
        being written.
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
        files.step("write", temporary)
        try:
            _write_pieces(temporary, pieces, group)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    files.publish(temporary, final)


def _write_pieces(path: Path, pieces: Iterable[pa.Table], group: FeatureGroup) -> None:
    with (
        pq.ParquetWriter(path, history_schema(group), **_writer_options(group)) as writer,
        ThreadPoolExecutor(1) as other_thread,
    ):
        written: Future[None] | None = None
        for piece in pieces:
            if written is not None:
                written.result()
            written = other_thread.submit(writer.write_table, piece, piece.num_rows)
        if written is not None:
            written.result()


def _writer_options(group: FeatureGroup) -> dict[str, Any]:
    # A dictionary pays for keys, which repeat, and for text; for numbers the attempt costs half
    # of the writing time and is thrown away.
    text = [f.name for f in group.value_features if f.dtype.kind in ("string", "binary")]
    dictionary = [KEY_HASH, *group.record_identifier, *text, IS_DELETED, STORES, EXPIRES_AT]
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": dictionary,
        "column_encoding": {
            group.event_time: "DELTA_BINARY_PACKED",
            WRITE_SEQ: "DELTA_BINARY_PACKED",
            WRITE_TIME: "DELTA_BINARY_PACKED",
        },
        "write_page_checksum": True,
        "store_schema": True,
    }


def describe(
    root: Path, group: FeatureGroup, file_id: int, kind: str, table: pa.Table, **fields: Any
) -> FileEntry:
    """Return the manifest entry of a file just written from ``table``."""
    event = as_int64(table.column(group.event_time))
    seq = as_int64(table.column(WRITE_SEQ))
    hashes = as_int64(table.column(KEY_HASH))
    rows = {
        "rows": table.num_rows,
        "visible_rows": table.num_rows,
        "min_hash": int(hashes[0]),
        "max_hash": int(hashes[-1]),
        "min_event_us": int(event.min()),
        "max_event_us": int(event.max()),
        "min_seq": int(seq.min()),
        "max_seq": int(seq.max()),
        "tombstones": int(pc.sum(table.column(IS_DELETED)).as_py() or 0),
        "unique": not bool(same_key_as_before(table, group)[event[1:] == event[:-1]].any()),
    }
    return entry_of(root, group, file_id, kind, **(rows | fields))


def entry_of(
    root: Path, group: FeatureGroup, file_id: int, kind: str, *, relative: str, **fields: Any
) -> FileEntry:
    """Return the manifest entry of a file just written, of whose rows ``fields`` tell."""
    path = root / relative
    return FileEntry(
        group_id=group.id,
        file_id=file_id,
        kind=kind,
        size_bytes=path.stat().st_size,
        digest=files.digest(path),
        schema_version=group.version,
        **fields,
    )


def as_int64(column: pa.ChunkedArray | pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return a column of integers or timestamps without nulls as int64."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
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
        column = table.column(name).combine_chunks()
        equal = pc.equal(column.slice(1), column.slice(0, rows - 1))
        same &= equal.to_numpy(zero_copy_only=False)
    return same


def sort_history(table: pa.Table, group: FeatureGroup, key_hash: KeyHash) -> pa.Table:
    """Return a history table in file order: by (key hash, key bytes, event time, seq)."""
    keys = encode_keys(
        [table.column(f.name).combine_chunks() for f in group.key_features],
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
    full = history_schema(group)
    wanted = full.names if columns is None else list(columns)
    with (
        _reading(entry),
        pq.ParquetFile(root / entry.path, page_checksum_verification=True, memory_map=True) as file,
    ):
        if file.metadata.num_rows != entry.rows:
            raise CorruptStore(
                f"{entry.path} has {file.metadata.num_rows} rows; the manifest says {entry.rows}."
            )
        present = set(file.schema_arrow.names)
        table = file.read(columns=[name for name in wanted if name in present])
    table = table.slice(0, entry.visible_rows)
    arrays = []
    for name in wanted:
        field = full.field(name)
        if name not in present:
            arrays.append(pa.chunked_array([pa.nulls(entry.visible_rows, field.type)]))
        elif name == WRITE_SEQ and entry.kind == "staged":
            arrays.append(_absolute_seq(table.column(name), entry))
        elif name == WRITE_TIME and entry.kind == "staged":
            arrays.append(_absolute_time(table.column(name), entry))
        else:
            arrays.append(table.column(name).cast(field.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema([full.field(n) for n in wanted]))


def _absolute_seq(column: pa.ChunkedArray, entry: FileEntry) -> pa.ChunkedArray:
    seq = as_int64(column).copy()
    start = 0
    for end, base_seq, _time in entry.slices:
        seq[start:end] += base_seq
        start = end
    return pa.chunked_array([pa.array(seq)])


def _absolute_time(column: pa.ChunkedArray, entry: FileEntry) -> pa.ChunkedArray:
    times = np.empty(entry.visible_rows, np.int64)
    start = 0
    for end, _base, commit_time_us in entry.slices:
        times[start:end] = commit_time_us
        start = end
    committed = pa.array(times).view(column.type)
    return pa.chunked_array([pc.coalesce(column.combine_chunks(), committed)])


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
        raise CorruptStore(
            f"{entry.path} is damaged ({error}). Restore it from a backup, and run "
            "`featurestore verify`."
        ) from error
