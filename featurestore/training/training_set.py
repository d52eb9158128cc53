"""A training set: rows that never change, their columns, and every way to read them."""

from __future__ import annotations

import hashlib
import json
import shutil
from bisect import bisect_left
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import CorruptStore, InvalidInput
from featurestore.event_time import duration_us, format_us, to_us
from featurestore.feature_view import FeatureLookup
from featurestore.storage import files
from featurestore.training.layout import (
    LINEAGE_FILE,
    NULLS_FILE,
    ROW_GROUP_ROWS,
    SET_FILE,
    Layout,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from featurestore.training.loader import Loader
    from featurestore.training.quality import QualityReport


class TrainingSet:
    """A training set, or the part of one that a split gave.

    Made by :func:`featurestore.training.training_set`; :meth:`open` reads one by its folder alone,
    without its store.

    Attributes
    ----------
    name, version : str, int
        What it is called.
    hash : str
        What it is: of the request and the snapshot; of a part, of its rows too.
    """

    def __init__(
        self, path: Path, name: str, version: int, rows: tuple[int, int] | None = None
    ) -> None:
        self._folder = path
        self.name = name
        self.version = version
        self._asked_rows = rows

    @property
    def folder(self) -> Path:
        """The folder that its rows are read from: of a part, that of the whole set."""
        return self._folder

    @classmethod
    def open(cls, path: str | Path) -> TrainingSet:
        """Return the training set in a folder: a job's channel, or a copy elsewhere."""
        folder = Path(path)
        if not (folder / SET_FILE).exists():
            raise InvalidInput(f"{folder} holds no training set: it has no {SET_FILE}.")
        return cls(folder, folder.name, 1)

    @cached_property
    def layout(self) -> Layout:
        """What its files are."""
        return Layout.read(self._folder)

    # ── what it is ───────────────────────────────────────────────────────────────────────────

    def __repr__(self) -> str:
        span = " to ".join(map(str, self.time_range()))
        part = " of a part" if self._is_part else ""
        return (
            f"TrainingSet({self.id}, {len(self):,} rows{part} x {len(self.features)} features, "
            f"{span}, as of seq {self.seq})"
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        first, end = self.rows
        return end - first

    @property
    def id(self) -> str:
        """Name and version: ``"late_flights:1"``."""
        return f"{self.name}:{self.version}"

    @property
    def rows(self) -> tuple[int, int]:
        """Its first row in the files, and where its rows end."""
        return (0, self.layout.profile["rows"]) if self._asked_rows is None else self._asked_rows

    @property
    def _is_part(self) -> bool:
        return self.rows != (0, self.layout.profile["rows"])

    @cached_property
    def hash(self) -> str:
        """128 bits that stand for the content, as hex."""
        whole = self._whole_hash
        if not self._is_part:
            return whole
        return hashlib.sha256(f"{whole} {self.rows}".encode()).hexdigest()[:32]

    @cached_property
    def _whole_hash(self) -> str:
        text = json.dumps(self.layout.plan, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def path(self) -> Path:
        """The folder with its files; that of a part is made when first asked for."""
        if not self._is_part:
            return self._folder
        from featurestore.training.part import part_folder

        return part_folder(self)

    @property
    def features(self) -> tuple[str, ...]:
        """The columns of the matrix, in order."""
        return tuple(column.name for column in self.layout.features)

    @property
    def label(self) -> str | None:
        """The label's column."""
        found = self.layout.label
        return None if found is None else found.name

    @property
    def label_time(self) -> str:
        """The column of label times."""
        return str(self.layout.plan["label_time"])

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """For each column of texts in the matrix, the texts that its numbers stand for."""
        return {c.name: c.categories for c in self.layout.matrix if c.categories is not None}

    @property
    def lookups(self) -> tuple[FeatureLookup, ...]:
        """What was joined: the same lookups give the features when the model is served."""
        return tuple(FeatureLookup.from_json(row) for row in self.layout.plan["lookups"])

    @property
    def seq(self) -> int:
        """The snapshot."""
        return int(self.layout.plan["as_of"])

    @property
    def profile(self) -> dict[str, Any]:
        """Figures of the whole set, as :meth:`quality` shows them."""
        return self.layout.profile

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """Where it came from: groups, schema versions, files with digests, seq.

        Under ``code``, the script or notebook that had the set made: its path, its SHA-256, and the
        git commit, where there are such, and whether the work tree had changes; see
        :mod:`featurestore.training.lineage`.
        """
        found: dict[str, Any] = json.loads(files.content(self._folder / LINEAGE_FILE))
        return found

    def quality(self) -> QualityReport:
        """Return a report on the whole set; it shows itself as text and in notebooks."""
        from featurestore.training.quality import QualityReport

        return QualityReport(self)

    def describe(self) -> dict[str, Any]:
        """Return what it is as a dict."""
        return {
            "id": self.id,
            "hash": self.hash,
            "rows": len(self),
            "features": list(self.features),
            "label": self.label,
            "as_of_seq": self.seq,
            "known": self.layout.plan["known"],
            "time_range": self.time_range(),
            "lookups": [repr(lookup) for lookup in self.lookups],
            "size_bytes": sum(part.size_bytes for part in self.layout.parts),
        }

    def verify(self) -> list[str]:
        """Compare the files with their digests; returns what is wrong, nothing when it is sound."""
        wanted = {part.name: (part.size_bytes, part.digest) for part in self.layout.parts}
        if self.layout.nulls is not None:
            wanted[NULLS_FILE] = self.layout.nulls
        faults = []
        for name, (size, digest) in wanted.items():
            path = self._folder / name
            if not path.exists():
                faults.append(f"{name} is missing")
            elif path.stat().st_size != size:
                faults.append(f"{name} has {path.stat().st_size:,} bytes, not {size:,}")
            elif files.digest(path) != digest:
                faults.append(f"{name} is not what was written")
        return faults

    def whole(self) -> TrainingSet:
        """Return the set that this is a part of; itself if it is none."""
        return TrainingSet(self._folder, self.name, self.version)

    # ── rows ─────────────────────────────────────────────────────────────────────────────────

    def time_range(self) -> tuple[str, str]:
        """Return the first and the last label time."""
        first, end = self.rows
        return format_us(self._time_us(first)), format_us(self._time_us(max(first, end - 1)))

    def split(
        self, *at: str | datetime, embargo: str | timedelta | None = None
    ) -> tuple[TrainingSet, ...]:
        """Split by time: rows before the first time, from it to the next, and from the last on.

        Parameters
        ----------
        *at : str or datetime
            Ascending; a date is its midnight in UTC.
        embargo : duration, optional
            Rows this close before a time are left out: what became of them was not known yet when
            the next part begins.

        Returns
        -------
        tuple of TrainingSet
            One more than there are times, in their order.  They read the same files.

        Examples
        --------
        ``train, test = ts.split("2013-10-01", embargo="1d")``
        """
        if not at:
            raise InvalidInput("split() needs at least one time to split at.")
        times_us = [to_us(_moment(time), what="split") for time in at]
        if sorted(set(times_us)) != times_us:
            raise InvalidInput("The times of split() do not ascend.")
        held_us = 0 if embargo is None else duration_us(embargo, what="embargo")
        first, end = self.rows
        starts = [first, *(max(first, min(end, self._first_row(us))) for us in times_us)]
        ends = [max(first, min(end, self._first_row(us - held_us))) for us in times_us] + [end]
        return tuple(
            TrainingSet(self._folder, self.name, self.version, (start, max(start, stop)))
            for start, stop in zip(starts, ends, strict=True)
        )

    def folds(
        self, count: int, *, embargo: str | timedelta | None = None
    ) -> Iterator[tuple[TrainingSet, TrainingSet]]:
        """Yield pairs to train and to test on, each test after its training, as time goes on.

        The rows are cut at ``count + 1`` equal shares, at times; fold ``i`` trains on the first
        ``i`` of them and is tested on the next.
        """
        if count < 1:
            raise InvalidInput(f"folds() needs a number from 1 up; got {count}.")
        first, end = self.rows
        cuts_us = sorted(
            {self._time_us(first + (end - first) * i // (count + 1)) for i in range(1, count + 1)}
        )
        from featurestore.event_time import to_datetime

        for i, cut in enumerate(cuts_us):
            later = cuts_us[i + 1 : i + 2]
            parts = self.split(*map(to_datetime, [cut, *later]), embargo=embargo)
            train, test = parts[:2]
            yield train, test

    def _first_row(self, time_us: int) -> int:
        """Return the first row at or after a time."""
        row = 0
        for part in self.layout.parts:
            for number, (rows, (_, last_us)) in enumerate(
                zip(part.rows, part.times_us, strict=True)
            ):
                if last_us >= time_us:
                    return row + bisect_left(self._times_us(part.name, number), time_us)
                row += rows
        return row

    def _time_us(self, row: int) -> int:
        if row >= self.layout.profile["rows"]:
            return int(self.layout.profile["last_us"])
        for part in self.layout.parts:
            for number, rows in enumerate(part.rows):
                if row < rows:
                    return int(self._times_us(part.name, number)[row])
                row -= rows
        raise AssertionError("a set has as many rows as its row groups")

    def _times_us(self, part: str, row_group: int) -> NDArray[np.int64]:
        import pyarrow.parquet as pq

        from featurestore.storage.parquet import as_int64

        with pq.ParquetFile(self._folder / part) as file:
            return as_int64(file.read_row_group(row_group, [self.label_time])[self.label_time])

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def loader(self, **options: Any) -> Loader:
        """Return a loader of batches; see :class:`featurestore.training.Loader`."""
        from featurestore.training.loader import Loader

        return Loader(self, **options)

    def to_numpy(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return all rows as float32: the matrix, and the labels or None."""
        with self.loader(batch=max(len(self), 1), shuffle=False, prefetch=False) as loader:
            for x, y in loader:
                return x, y
        import numpy as np

        x = np.empty((0, len(self.features)), np.float32)
        return x, None if self.label is None else np.empty(0, np.float32)

    def to_arrow(self) -> pa.Table:
        """Return all columns of all rows in their own types, categories as texts."""
        import pyarrow as pa

        tables = list(self.tables())
        return pa.concat_tables(tables)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows as tables, a row group each, categories as texts."""
        import pyarrow.parquet as pq

        first, end = self.rows
        row = 0
        for part in self.layout.parts:
            with pq.ParquetFile(self._folder / part.name, pre_buffer=False) as file:
                for number, rows in enumerate(part.rows):
                    start, stop = max(first - row, 0), min(end - row, rows)
                    if start < stop:
                        table = file.read_row_group(number, use_threads=False)
                        yield self._as_given(table.slice(start, stop - start))
                    row += rows
        if first >= end:
            with pq.ParquetFile(self._folder / self.layout.parts[0].name) as file:
                yield self._as_given(file.schema_arrow.empty_table())

    def _as_given(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        for at, column in enumerate(self.layout.columns):
            if column.categories is not None:
                texts = pa.array(column.categories, pa.string())
                values = texts.take(table.column(column.name).combine_chunks())
                table = table.set_column(at, column.name, values)
        return table

    def to_pandas(self) -> Any:
        """Return :meth:`to_arrow` as a pandas DataFrame."""
        return self.to_arrow().to_pandas()

    def export(self, path: str | Path, form: str = "parquet", **options: Any) -> Path:
        """Write the rows to a file; see :func:`featurestore.training.export`."""
        from featurestore.training.export import export

        return export(self, path, form, **options)

    def copy_to(self, folder: str | Path, *, link: bool = True) -> Path:
        """Put its files into a folder: SageMaker's ``File`` mode; linked where the disk allows."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for path in files.listing(self.path, "*.*"):
            if link:
                files.link_or_copy(path, target / path.name)
            else:
                shutil.copyfile(path, target / path.name)
        return target

    def check_sizes(self) -> None:
        """Refuse files that are missing or cut short: their bytes are read without a further look.

        Raises
        ------
        CorruptStore
            With the file.
        """
        wanted = {part.name: part.size_bytes for part in self.layout.parts}
        if self.layout.nulls is not None:
            wanted[NULLS_FILE] = self.layout.nulls[0]
        for name, size in wanted.items():
            path = self._folder / name
            found = path.stat().st_size if path.exists() else -1
            if found != size:
                have = "missing" if found < 0 else f"{found:,} bytes long, not {size:,}"
                raise CorruptStore(
                    f"{path} is {have}. Delete the training set and request it again: the same "
                    "request makes the same set."
                )


def _moment(time: str | datetime) -> str | datetime:
    """Return a date as its midnight in UTC."""
    return f"{time}T00:00Z" if isinstance(time, str) and len(time) == len("2013-10-01") else time


__all__ = ["ROW_GROUP_ROWS", "TrainingSet"]
