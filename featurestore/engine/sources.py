"""Whatever users hold their rows in, as Arrow tables.

=========  =====================================================  =============================
kind       what                                                   chunks
=========  =====================================================  =============================
whole      Arrow tables and batches, pandas, Polars, lists of     one
           dicts: all rows are at hand, and checked before any
           is stored
stream     Parquet, CSV, JSON-lines and Arrow files, folders and  of :data:`CHUNK_ROWS` rows
           patterns of them; Arrow readers, DuckDB relations
           and all else that hands out an Arrow stream
iterator   dicts, tables, or paths, one after the other           the same, or what has come in
                                                                  a second (``chunks``)
=========  =====================================================  =============================

Of streams and iterators no more than a chunk or two is in memory.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.engine.frames import to_arrow
from featurestore.errors import InvalidInput, InvalidRecord

if TYPE_CHECKING:
    from featurestore.schema import FeatureGroup

#: Rows of a stream that are validated and committed together.
CHUNK_ROWS = 1 << 20
#: Rows of an iterator of dicts; Python objects weigh more than columns.
CHUNK_DICTS = 1 << 16
#: Rows that are read from a file at a time.
_BATCH_ROWS = 1 << 16
_CSV_BLOCK_BYTES = 1 << 20
_READERS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".jsonl": "json"}
_READERS |= {".ndjson": "json", ".json": "json", ".arrow": "arrow", ".feather": "arrow"}


def is_pandas(data: object) -> bool:
    """Return whether data is a pandas frame, without importing pandas."""
    return type(data).__module__.split(".")[0] == "pandas"


def is_in_memory(data: object) -> bool:
    """Return whether all rows are at hand, so that they can be validated before any is stored."""
    return (
        isinstance(data, (pa.Table, pa.RecordBatch))
        or is_pandas(data)
        or type(data).__module__.split(".")[0] == "polars"
        or are_dicts(data)
    )


def are_dicts(data: object) -> bool:
    """Return whether data is a list of dicts, or of nothing."""
    return (
        isinstance(data, Sequence)
        and not isinstance(data, str)
        and all(isinstance(row, Mapping) for row in data)
    )


def is_iterator(data: object) -> bool:
    """Return whether rows come one after the other, whenever it pleases them."""
    return (
        isinstance(data, Iterable)
        and not is_in_memory(data)
        and not isinstance(data, (str, os.PathLike, Mapping, pa.RecordBatchReader))
        and not hasattr(data, "__arrow_c_stream__")
        and not _are_paths(data)
    )


def _are_paths(data: object) -> bool:
    return isinstance(data, Sequence) and all(isinstance(p, (str, os.PathLike)) for p in data)


def tables_of(data: Any, group: FeatureGroup) -> Iterator[pa.Table]:
    """Yield the chunks of what is no iterator, nor a list of dicts.

    Parameters
    ----------
    data : table, frame, path or paths, reader
        See the module's docstring.
    group : FeatureGroup
        What the columns of a text file are read as.

    Raises
    ------
    InvalidInput
        Nothing of the above, or Arrow has no type for a column.
    """
    if isinstance(data, pa.Table):
        yield data
    elif isinstance(data, pa.RecordBatch):
        yield pa.table(data)
    elif is_pandas(data) and hasattr(data, "columns"):
        yield to_arrow(data)
    elif isinstance(data, (str, os.PathLike)) or _are_paths(data):
        yield from file_tables(data, group)
    elif isinstance(data, pa.RecordBatchReader):
        yield from grouped(data)
    elif hasattr(data, "__arrow_c_stream__"):
        reader = _stream_of(data)
        yield from [reader.read_all()] if is_in_memory(data) else grouped(reader)
    else:
        raise InvalidInput(
            f"ingest takes a table, a frame, paths, a reader or an iterator of dicts; got "
            f"{type(data).__name__}. For a single record use put_record."
        )


def _stream_of(data: Any) -> pa.RecordBatchReader:
    try:
        return pa.RecordBatchReader.from_stream(data)
    except pa.ArrowException as error:
        raise InvalidInput(
            f"This {type(data).__name__} is no table that Arrow can read: {error}"
        ) from error


def pieces_of(items: Iterable[Any], group: FeatureGroup) -> Iterator[Mapping[str, Any] | pa.Table]:
    """Yield the dicts, and the tables of tables and paths, of an iterator."""
    for item in items:
        if isinstance(item, Mapping):
            yield item
        elif isinstance(item, (pa.Table, pa.RecordBatch)) or hasattr(item, "__arrow_c_stream__"):
            yield from tables_of(item, group)
        elif isinstance(item, (str, os.PathLike)):
            yield from file_tables(item, group)
        else:
            raise InvalidRecord(
                f"An iterator gave a {type(item).__name__}; expected dicts, tables or paths."
            )


# ── files ────────────────────────────────────────────────────────────────────────────────────


def file_tables(paths: Any, group: FeatureGroup) -> Iterator[pa.Table]:
    """Yield the chunks of files, folders and patterns, each file by itself."""
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        for file in _files(path):
            yield from _of_file(file, group)


def _files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files a path stands for: itself, those below a folder, those of a pattern."""
    at = Path(path)
    if at.is_dir():
        found = sorted(
            file
            for file in at.rglob("*")
            if file.suffix.lower() in _READERS
            and not any(part.startswith((".", "_")) for part in file.relative_to(at).parts)
        )
        what = f"{at} is a folder in which there is no file of"
    elif not at.exists() and glob.has_magic(str(path)):
        found = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207  any root
        what = f"No file is called like {path}; known endings are those of"
    else:
        return [at]
    if not found:
        raise InvalidInput(f"{what} Parquet, CSV, JSON lines or Arrow.")
    return found


def _of_file(path: Path, group: FeatureGroup) -> Iterator[pa.Table]:
    if not path.exists():
        raise InvalidInput(f"There is no file {path}.")
    kind = _READERS.get(path.suffix.lower())
    if kind is None:
        raise InvalidInput(
            f"{path.name}: the ending says nothing of the format; known are "
            f"{', '.join(sorted(_READERS))}. Read it yourself and pass the table."
        )
    readers = {"parquet": _parquet, "csv": _csv, "json": _json, "arrow": _arrow}
    try:
        yield from grouped(readers[kind](path, group))
    except (pa.ArrowException, OSError) as error:
        hint = (
            ""
            if kind != "csv"
            else (
                " If a text such as NA stands for null, read the file yourself and pass the reader."
            )
        )
        raise InvalidInput(f"{path} cannot be read as {kind}: {error}{hint}") from error


def _parquet(path: Path, _group: FeatureGroup) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    # Without a buffer size, and with pre-buffering, a whole row group is read at once; a file may
    # be one row group.
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=_BATCH_ROWS)
        if file.metadata.num_rows == 0:
            yield from _empty(file.schema_arrow)


def _csv(path: Path, group: FeatureGroup) -> Iterator[pa.RecordBatch]:
    with open_csv(path, text_types(group)) as reader:
        yield from reader


def open_csv(
    path: Path, types: Mapping[str, pa.DataType], nulls: Sequence[str] = ()
) -> pa.csv.CSVStreamingReader:
    """Open a CSV file to be read a block at a time; see :func:`csv_options`."""
    from pyarrow import csv

    options = csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    return csv.open_csv(path, read_options=options, **csv_options(types, nulls))


def csv_options(types: Mapping[str, pa.DataType], nulls: Sequence[str] = ()) -> dict[str, Any]:
    """Return how CSV is read: an unquoted empty cell is null, and nothing else but ``nulls``."""
    from pyarrow import csv

    return {
        "parse_options": csv.ParseOptions(newlines_in_values=True),
        "convert_options": csv.ConvertOptions(
            column_types=types,
            null_values=["", *nulls],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    }


def _json(path: Path, group: FeatureGroup) -> Iterator[pa.RecordBatch]:
    from pyarrow import json

    types = text_types(group) | {
        f.name: f.dtype.to_arrow() for f in group.features if f.dtype.kind == "list"
    }
    options = json.ParseOptions(explicit_schema=pa.schema(types))
    with json.open_json(path, parse_options=options) as reader:
        yield from reader


def _arrow(path: Path, _group: FeatureGroup) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        for number in range(file.num_record_batches):
            yield file.get_batch(number)
        if file.num_record_batches == 0:
            yield from _empty(file.schema)


def _empty(schema: pa.Schema) -> list[pa.RecordBatch]:
    return [pa.RecordBatch.from_pylist([], schema)]


def text_types(group: FeatureGroup) -> dict[str, pa.DataType]:
    """Return the type to read each column of a text file as: the group's, so "007" stays text.

    Times are read as text, since the store has one set of rules for them and it is not Arrow's.
    """
    return {
        feature.name: pa.string() if feature.dtype.kind == "timestamp" else feature.dtype.to_arrow()
        for feature in group.features
        if feature.dtype.kind not in {"list", "vector"}
    }


# ── chunks of a stream ───────────────────────────────────────────────────────────────────────


def grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Gather small batches until a chunk is full."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_ROWS:
            full, held, rows = held, [], 0
            yield pa.Table.from_batches(full)
            del full
    if held:
        yield pa.Table.from_batches(held)
