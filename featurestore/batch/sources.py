"""What is scored on the block path, as units: stretches of rows that are the same each time.

=======================  ==================================================================
source                   units
=======================  ==================================================================
a table                  so many rows each
SQL                      the same of its answer, which is staged as Parquet in the job's folder
Parquet, a training set  a row group each
=======================  ==================================================================

With features to look up, the rows are labels and are joined as the store stood at the job's
beginning, whatever was written since: a job that goes on sees what it saw before.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import InvalidInput
from featurestore.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from featurestore.feature_view import FeatureLookup
    from featurestore.store import FeatureStore

#: The column that stands for the moment a job asks at, where its labels have no time.
ASKED_AT = "asked_at_now"


class Table:
    """Rows in memory."""

    def __init__(self, table: pa.Table, unit_rows: int) -> None:
        self.schema: pa.Schema = table.schema
        self._table = table
        self._unit_rows = unit_rows
        self.rows: int = table.num_rows

    def digest(self) -> str:
        """Return what tells these rows from others."""
        hasher = hashlib.sha256()
        sink = pa.PythonFile(_Hashed(hasher), mode="w")
        with pa.ipc.new_stream(sink, self._table.schema) as writer:
            writer.write_table(self._table.combine_chunks())
        return hasher.hexdigest()

    @property
    def units(self) -> int:
        """Their number."""
        return -(-self.rows // self._unit_rows)

    def read(self, first: int, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the units from one on, with their numbers."""
        for unit in range(first, self.units):
            yield unit, self._table.select(columns).slice(unit * self._unit_rows, self._unit_rows)

    def joined(
        self,
        store: FeatureStore,
        first: int,
        lookups: Sequence[FeatureLookup],
        options: dict[str, Any],
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield the units from one on, each row with its features.

        The join runs over all that is left at once, as a stream: it reads the history once.
        """
        rest = self._table.slice(first * self._unit_rows)
        if not rest.num_rows:
            return
        reader = store.point_in_time(rest, list(lookups), stream=True, **options)
        unit, waiting, rows = first, [], 0
        for batch in reader:
            at = 0
            while at < batch.num_rows:
                taken = batch.slice(at, self._unit_rows - rows)
                waiting.append(taken)
                rows += taken.num_rows
                at += taken.num_rows
                if rows == self._unit_rows:
                    yield unit, pa.Table.from_batches(waiting)
                    unit, waiting, rows = unit + 1, [], 0
        if waiting:
            yield unit, pa.Table.from_batches(waiting)


class ParquetFiles:
    """Row groups of files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        about = [(path, pq.read_metadata(path)) for path in self._paths]
        self._groups = [(path, n) for path, told in about for n in range(told.num_row_groups)]
        self.rows: int = sum(told.num_rows for _, told in about)
        self.schema: pa.Schema = pq.read_schema(self._paths[0])

    def digest(self) -> str:
        """Return what tells these files from others."""
        return hashlib.sha256("".join(map(files.digest, self._paths)).encode()).hexdigest()

    @property
    def units(self) -> int:
        """Their number."""
        return len(self._groups)

    def read(self, first: int, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the units from one on, with their numbers."""
        opened: tuple[Path, pq.ParquetFile] | None = None
        for unit in range(first, self.units):
            path, group = self._groups[unit]
            if opened is None or opened[0] != path:
                opened = (path, pq.ParquetFile(path, memory_map=True))
            yield unit, opened[1].read_row_group(group, columns=list(columns), use_threads=False)

    def joined(
        self,
        store: FeatureStore,
        first: int,
        lookups: Sequence[FeatureLookup],
        options: dict[str, Any],
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield the units from one on, each row with its features."""
        for unit, table in self.read(first, self.schema.names):
            yield unit, store.point_in_time(table, list(lookups), **options)


def source_of(
    store: FeatureStore, given: Any, unit_rows: int, folder: Path
) -> Table | ParquetFiles:
    """Return a source's units.

    Raises
    ------
    InvalidInput
        For what is no source.
    """
    if isinstance(given, str) and re.match(r"\s*(select|with|from)\s", given, re.IGNORECASE):
        return ParquetFiles([_staged(store, given, unit_rows, folder)])
    if hasattr(given, "layout"):  # a training set: its own files, not those of its parts
        return ParquetFiles(sorted(given.path.glob("*.parquet")))
    if isinstance(given, (str, os.PathLike)):
        path = Path(given).expanduser().absolute()
        found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not found or not all(one.is_file() for one in found):
            raise InvalidInput(f"{path} holds no Parquet to score.")
        return ParquetFiles(found)
    if isinstance(given, (list, tuple)):
        return ParquetFiles([Path(one).expanduser().absolute() for one in given])
    if hasattr(given, "__arrow_c_stream__"):
        return Table(pa.table(given), unit_rows)
    raise InvalidInput(
        f"A {type(given).__name__} cannot be scored; give a table, SQL, Parquet, or a training set."
    )


def _staged(store: FeatureStore, sql: str, unit_rows: int, folder: Path) -> Path:
    """Return the answer to a query as it was when the job began."""
    path = folder / "source.parquet"
    if not path.exists():
        temporary = folder / ".source.parquet.tmp"
        pq.write_table(store.sql(sql), temporary, row_group_size=unit_rows, compression="zstd")
        files.publish(temporary, path)
    return path


class _Hashed:
    """A file that is only hashed."""

    def __init__(self, hasher: Any) -> None:
        self._hasher = hasher
        self.closed = False

    def write(self, data: Any) -> int:
        """Hash some bytes."""
        self._hasher.update(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        """Be closed."""
        self.closed = True
