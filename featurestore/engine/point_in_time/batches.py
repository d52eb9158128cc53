"""Labels that come a stretch at a time, so that they need not all be in memory.

=====================================  =========================================================
labels                                 read
=====================================  =========================================================
Arrow, pandas or Polars table          where it is, stretch by stretch
path of a Parquet file                 row group by row group
``pyarrow.RecordBatchReader``          as it comes
iterator of record batches or tables   as it comes
=====================================  =========================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.engine import frames
from featurestore.errors import InvalidInput

# What a label costs while it is answered, for each role: its place and time, the best row so far,
# the row found and what goes with it.
_LABEL_BYTES = 48
_ROLE_BYTES = 120
_TEXT_BYTES = 64

# What one place of a list of last values costs beside the values: the row found, and its way there.
_PLACE_BYTES = 96

# What is in memory whatever the labels: keys and times of files being read, decoded row groups.
_FIXED_BYTES = 256 << 20
_ROWS_MIN = 10_000
_READ_ROWS = 1 << 17

MEMORY_LIMIT_MIN = 384 << 20


def whole(labels: Any) -> Any:
    """Return labels as one table, unless they are one that ``frames.accept`` takes as it is."""
    if _is_path(labels):
        found = _of_file(labels)
        return pa.Table.from_batches(found.batches, found.schema)
    if isinstance(labels, pa.RecordBatchReader):
        return labels.read_all()
    if isinstance(labels, Iterator):
        found = _of_iterator(labels)
        return pa.Table.from_batches(found.batches, found.schema)
    return labels


@dataclass
class Stretches:
    """Record batches of one schema, to be had in stretches of other lengths."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]

    def of(self, rows: int) -> Iterator[pa.Table]:
        """Yield tables of so many rows, the last one shorter."""
        waiting: list[pa.RecordBatch] = []
        count = 0
        for given in self.batches:
            batch = given
            while count + batch.num_rows >= rows:
                taken = rows - count
                waiting.append(batch.slice(0, taken))
                yield pa.Table.from_batches(waiting, self.schema)
                waiting, count = [], 0
                batch = batch.slice(taken)
            waiting.append(batch)
            count += batch.num_rows
        if count:
            yield pa.Table.from_batches(waiting, self.schema)


def stretches(labels: Any) -> Stretches:
    """Return labels to be read stretch by stretch."""
    if _is_path(labels):
        return _of_file(labels)
    if isinstance(labels, pa.RecordBatchReader):
        return Stretches(labels.schema, iter(labels))
    if isinstance(labels, Iterator):
        return _of_iterator(labels)
    table = frames.to_arrow(frames.accept(labels))
    return Stretches(table.schema, iter(table.to_batches()))


def _is_path(labels: Any) -> bool:
    return isinstance(labels, Path) or (isinstance(labels, str) and labels.endswith(".parquet"))


def _of_file(path: str | Path) -> Stretches:
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"labels: {path} cannot be read as a Parquet file: {error}") from error
    return Stretches(file.schema_arrow, file.iter_batches(_READ_ROWS, use_threads=False))


def _of_iterator(labels: Iterator[Any]) -> Stretches:
    batches = _batches(labels)
    first = next(batches, None)
    if first is None:
        raise InvalidInput(
            "labels: the iterator is empty, so it cannot be known which columns there would be. "
            "Give at least one batch, which may have no rows."
        )

    def again() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    return Stretches(first.schema, again())


def _batches(labels: Iterator[Any]) -> Iterator[pa.RecordBatch]:
    schema = None
    for given in labels:
        table = frames.to_arrow(frames.accept(given))
        if schema is None:
            schema = table.schema
        if not table.schema.equals(schema):
            try:
                table = table.select(schema.names).cast(schema)
            except (pa.ArrowException, KeyError, ValueError) as error:
                raise InvalidInput(
                    f"labels: a batch has the columns {table.schema.to_string()}, and the first "
                    f"had {schema.to_string()}."
                ) from error
        yield from table.to_batches() or [pa.RecordBatch.from_pylist([], schema)]


def require_memory(memory_limit: int) -> None:
    """Refuse a limit within which no join can be done."""
    if memory_limit < MEMORY_LIMIT_MIN:
        raise InvalidInput(
            f"memory_limit= is {memory_limit:,} bytes; files alone are read with up to "
            f"{_FIXED_BYTES:,}. Give at least {MEMORY_LIMIT_MIN:,}."
        )


def rows_within(
    memory_limit: int,
    schema: pa.Schema,
    roles: Sequence[int | None],
    lists: Mapping[str, int] | None = None,
) -> int:
    """Return how many labels may be answered together.

    Parameters
    ----------
    memory_limit : int
        Bytes.
    schema : pyarrow.Schema
        Of the answer.
    roles : sequence of int or None
        For each, how many of the last values it gives; None where it gives one value.
    lists : mapping of str to int, optional
        The columns that are lists of last values, and how many there are at most: as many count.
    """
    require_memory(memory_limit)
    lists, places = lists or {}, sum(last_n or 0 for last_n in roles)
    # Answers of one stretch may still be held by who asked while the next are made.
    values = sum(
        _width(f.type) if f.name not in lists else lists[f.name] * _width(f.type.value_type)
        for f in schema
    )
    row_bytes = _LABEL_BYTES + _ROLE_BYTES * len(roles) + _PLACE_BYTES * places + 2 * values
    least = max(_ROWS_MIN // max(places, 1), 1)
    return max((memory_limit - _FIXED_BYTES) // row_bytes, least)


def _width(kind: pa.DataType) -> int:
    try:
        return int(max(kind.bit_width // 8, 1))
    except ValueError:  # text, lists: nobody knows before
        return _TEXT_BYTES
