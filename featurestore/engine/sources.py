"""Whatever users hold their rows in, as Arrow tables.

In memory: Arrow tables and batches, pandas, Polars, DuckDB relations, lists of dicts; one table.
Streams: Parquet, CSV and JSON-lines paths, Arrow readers, iterators of dicts or of tables; chunks
of at most :data:`CHUNK_ROWS` rows, so that memory stays bounded.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore.errors import InvalidInput, InvalidRecord

#: Rows of a stream that are validated and committed together.
CHUNK_ROWS = 1 << 20
#: Rows of an iterator of dicts; Python objects weigh more than columns.
CHUNK_DICTS = 1 << 16
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
        or (isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data))
    )


def tables_of(data: Any, dict_rows: Any) -> Iterator[pa.Table]:
    """Yield data as tables.

    Parameters
    ----------
    data : table, frame, path or paths, reader, iterator
        See the module's docstring.
    dict_rows : callable
        Turns a list of dicts into a table by the schema of the group.

    Raises
    ------
    InvalidInput
        Nothing of the above.
    """
    if isinstance(data, pa.Table):
        yield data
    elif isinstance(data, pa.RecordBatch):
        yield pa.table(data)
    elif is_pandas(data):
        yield pa.Table.from_pandas(data, preserve_index=False)
    elif isinstance(data, (str, os.PathLike)):
        yield from _file_tables(Path(data))
    elif isinstance(data, pa.RecordBatchReader):
        yield from _grouped(data)
    elif hasattr(data, "__arrow_c_stream__"):
        reader = pa.RecordBatchReader.from_stream(data)
        yield from [reader.read_all()] if is_in_memory(data) else _grouped(reader)
    elif isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise InvalidInput(
            f"ingest takes a table, a frame, paths, a reader or an iterator of dicts; got "
            f"{type(data).__name__}. For a single record use put_record."
        )
    elif is_in_memory(data):
        yield dict_rows(list(data))
    else:
        yield from _mixed_tables(iter(data), dict_rows)


def _file_tables(path: Path) -> Iterator[pa.Table]:
    if not path.exists():
        raise InvalidInput(f"There is no file {path}.")
    kind = _READERS.get(path.suffix.lower())
    if kind is None:
        raise InvalidInput(
            f"{path.name}: the ending says nothing of the format; known are "
            f"{', '.join(sorted(_READERS))}. Read it yourself and pass the table."
        )
    try:
        if kind == "parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                batches = file.iter_batches(batch_size=CHUNK_ROWS)
                empty = file.schema_arrow.empty_table()
                yield from itertools.chain(
                    (pa.Table.from_batches([b]) for b in batches),
                    [empty] if file.metadata.num_rows == 0 else [],
                )
        elif kind == "csv":
            from pyarrow import csv

            with csv.open_csv(path) as reader:
                yield from _grouped(reader)
        elif kind == "json":
            from pyarrow import json

            yield json.read_json(path)
        else:
            from pyarrow import feather

            yield feather.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} cannot be read as {kind}: {error}") from error


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Gather small batches until a chunk is full."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_ROWS:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held)


def _mixed_tables(items: Iterator[Any], dict_rows: Any) -> Iterator[pa.Table]:
    """Yield tables of an iterator of dicts, paths, batches or tables."""
    for first in items:
        if isinstance(first, Mapping):
            chunk = [first, *_leading_dicts(items, CHUNK_DICTS - 1)]
            yield dict_rows(chunk)
        elif isinstance(first, (str, os.PathLike)):
            yield from _file_tables(Path(first))
        elif isinstance(first, (pa.Table, pa.RecordBatch)) or hasattr(first, "__arrow_c_stream__"):
            yield from tables_of(first, dict_rows)
        else:
            raise InvalidRecord(
                f"An iterator gave a {type(first).__name__}; expected dicts, tables or paths."
            )


def _leading_dicts(items: Iterator[Any], limit: int) -> Iterator[Mapping[str, Any]]:
    for item in itertools.islice(items, limit):
        if not isinstance(item, Mapping):
            raise InvalidRecord(f"An iterator of dicts gave a {type(item).__name__}.")
        yield item
