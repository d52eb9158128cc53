"""The views of a group's history: files and journal tail of one snapshot as SQL.

::

    weather           one row per key and event time: the newest version, no tombstones
    history.weather   every accepted version, + write_seq, write_time, expires_at, is_deleted

**The newest version.**  A window over (key, event time) finds it, and costs a sort of the whole
history.  Most files need none: one whose rows are unique by key and event time, and whose
rectangle (hash range × event-time range) touches no other source's, holds nothing that could
compete.  So sources are parted in two, and only the contested go through the window::

    hash ▲  ┌──────┐ ┌──────┐             cells, and flushes beside them: read as they are
         │  │ cell │ │ cell │ ┌─────┐
         │  ├──────┤ ├──────┤ │ f ┌─┼──┐  a flush and the tail overlap: windowed together
         │  │ cell │ │ cell │ └───┼─┘  │
         │  └──────┘ └──────┘     └────┘
         └────────────────────────────────► event time

**Explicit everything.**  Files are given by name, never as a glob, which would see orphans.
Columns are projected and cast by the group's own schema, since ``union_by_name`` silently turns
numbers into text where files disagree; a feature newer than a file is a typed null.

**One read for many files.**  All files of one shape are one ``read_parquet``.  The rows of staged
files get seq and commit time from their place, by a CASE over the reader's virtual columns
``file_index`` and ``file_row_number``: planning 300 files so takes 20 ms, and 500 ms with a read
for each.
"""

# ruff: noqa: S608 - writes SQL on purpose; every name and text in it goes through a quoting function

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.engine.sql.session import quoted, quoted_text
from featurestore.storage.parquet import (
    EXPIRES_AT,
    IS_DELETED,
    KEY_HASH,
    WRITE_SEQ,
    WRITE_TIME,
    as_int64,
    read_history,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from featurestore.dtypes import DType
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.engine.sql.session import Session
    from featurestore.schema import FeatureGroup
    from featurestore.storage.manifest import FileEntry

SYSTEM_COLUMNS = (WRITE_SEQ, WRITE_TIME, EXPIRES_AT, IS_DELETED)


@dataclass(frozen=True)
class _Rows:
    """Rows in the history layout and what is known of them: a file, or the journal tail."""

    entry: FileEntry | None  # None is the tail
    rectangle: tuple[int, int, int, int]  # min, max hash, min, max event time; inclusive
    unique: bool
    tombstones: bool
    max_seq: int


def create_views(session: Session, snapshot: GroupSnapshot, schemas: Collection[str]) -> None:
    """Create a group's view in each of the schemas ``main`` and ``history``.

    Parameters
    ----------
    session : Session
        Where; the views end with it.
    snapshot : GroupSnapshot
        Open until then.
    schemas : collection of str
        ``"main"``, ``"history"``, or both.
    """
    name = quoted(snapshot.group.name)
    writer = _ViewWriter(session, snapshot)
    if "history" in schemas:
        session.create_view(f"history.{name}", writer.history())
    if "main" in schemas:
        session.create_view(f"main.{name}", writer.newest())


class _ViewWriter:
    """Writes the SELECTs behind the views of one group."""

    def __init__(self, session: Session, snapshot: GroupSnapshot) -> None:
        self._session = session
        self._group = snapshot.group
        self._root = snapshot.root
        self._seq = snapshot.seq
        self._tail = snapshot.tail
        self._sources = [_rows_of_file(entry) for entry in snapshot.files]
        if self._tail.num_rows:
            self._sources.append(_rows_of_tail(self._tail, self._group))
        # Virtual columns of DuckDB's reader give the place of a row, unless a feature hides them.
        names = {feature.name.lower() for feature in self._group.features}
        self._rows_have_places = names.isdisjoint({"file_index", "file_row_number"})

    def history(self) -> str:
        """Return the SELECT of ``history.<g>``."""
        names = [f.name for f in self._group.features]
        return f"SELECT {_columns([*names, *SYSTEM_COLUMNS])} FROM ({self._rows(self._sources)})"

    def newest(self) -> str:
        """Return the SELECT of ``<g>``."""
        features = _columns(f.name for f in self._group.features)
        free, contested = _parted(self._sources)
        selects = []
        if free or not contested:
            deleted = any(source.tombstones for source in free)
            kept = f" WHERE NOT {IS_DELETED}" if deleted else ""
            selects.append(f"SELECT {features} FROM ({self._rows(free)}){kept}")
        if contested:
            # The key itself is in the partition: equal hash is never taken for equal key.  And a
            # filter on a partition column is one that DuckDB may apply below the window.
            key = _columns([KEY_HASH, *self._group.record_identifier, self._group.event_time])
            selects.append(
                f"SELECT {features} FROM (SELECT * FROM ({self._rows(contested)}) QUALIFY "
                f"row_number() OVER (PARTITION BY {key} ORDER BY {WRITE_SEQ} DESC) = 1) "
                f"WHERE NOT {IS_DELETED}"
            )
        return " UNION ALL ".join(selects)

    def _rows(self, sources: Sequence[_Rows]) -> str:
        """Return a SELECT of the rows of sources, columns typed and in the order of _layout."""
        branches: dict[tuple[Any, ...], list[FileEntry]] = defaultdict(list)
        selects = []
        for source in sources:
            cut = source.max_seq > self._seq
            if source.entry is None:
                selects.append(self._arrow_rows("tail", self._tail, cut=cut))
            elif source.entry.kind == "staged" and not self._rows_have_places:
                table = read_history(self._root, source.entry, self._group)
                selects.append(self._arrow_rows(f"{source.entry.file_id:x}", table, cut=cut))
            else:
                branches[self._shape(source.entry, cut=cut)].append(source.entry)
        for (features, staged, partial, cut), entries in branches.items():
            select = self._file_rows(entries, features, staged=staged, partial=partial)
            selects.append(self._as_of(select) if cut else select)
        return " UNION ALL ".join(selects) if selects else self._no_rows()

    def _shape(self, entry: FileEntry, *, cut: bool) -> tuple[frozenset[str], bool, bool, bool]:
        """Return what files must have in common to be read by one read_parquet."""
        features = frozenset(
            f.name for f in self._group.features if f.since <= entry.schema_version
        )
        return features, entry.kind == "staged", entry.visible_rows < entry.rows, cut

    def _file_rows(
        self, entries: Sequence[FileEntry], features: frozenset[str], *, staged: bool, partial: bool
    ) -> str:
        typed = {
            f.name: _feature_expression(f.name, f.dtype, present=f.name in features)
            for f in self._group.features
        }
        if staged:
            typed[WRITE_SEQ] = f"{WRITE_SEQ} + {_at_place(entries, _base_seq)}"
            committed = f"make_timestamptz({_at_place(entries, _commit_time_us)})"
            typed[WRITE_TIME] = f"coalesce({WRITE_TIME}, {committed})"
        visible = ""
        if partial:
            rows = _stepwise(
                "file_index", [(i + 1, str(e.visible_rows)) for i, e in enumerate(entries)]
            )
            visible = f" WHERE file_row_number < {rows}"
        paths = ", ".join(quoted_text(str(self._root / entry.path)) for entry in entries)
        columns = ", ".join(
            f"{typed[name]} AS {quoted(name)}" if name in typed else quoted(name)
            for name in self._layout
        )
        # Otherwise a folder above the store, named like `run=7`, would become a column `run`.
        options = "hive_partitioning = false"
        return f"SELECT {columns} FROM read_parquet([{paths}], {options}){visible}"

    def _arrow_rows(self, name: str, table: pa.Table, *, cut: bool) -> str:
        source = self._session.lend(f"__{self._group.id}_{name}", table)
        select = f"SELECT {_columns(self._layout)} FROM {source}"
        return self._as_of(select) if cut else select

    def _as_of(self, select: str) -> str:
        return f"SELECT * FROM ({select}) WHERE {WRITE_SEQ} <= {self._seq}"

    def _no_rows(self) -> str:
        types = {f.name: _type(f.dtype) for f in self._group.features}
        types |= {KEY_HASH: "BIGINT", WRITE_SEQ: "BIGINT", IS_DELETED: "BOOLEAN"}
        nulls = ", ".join(
            f"CAST(NULL AS {types.get(name, 'TIMESTAMPTZ')}) AS {quoted(name)}"
            for name in self._layout
        )
        return f"SELECT {nulls} WHERE false"

    @property
    def _layout(self) -> list[str]:
        return [KEY_HASH, *SYSTEM_COLUMNS, *(f.name for f in self._group.features)]


# ── which rows compete ───────────────────────────────────────────────────────────────────────


def _rows_of_file(entry: FileEntry) -> _Rows:
    rectangle = (entry.min_hash, entry.max_hash, entry.min_event_us, entry.max_event_us)
    return _Rows(entry, rectangle, entry.unique, entry.tombstones > 0, entry.max_seq)


def _rows_of_tail(tail: pa.Table, group: FeatureGroup) -> _Rows:
    hashes = as_int64(tail.column(KEY_HASH))
    event_us = as_int64(tail.column(group.event_time))
    bounds = (int(hashes.min()), int(hashes.max()), int(event_us.min()), int(event_us.max()))
    key = [KEY_HASH, *group.record_identifier, group.event_time]
    return _Rows(
        entry=None,
        rectangle=bounds,
        unique=tail.group_by(key).aggregate([]).num_rows == tail.num_rows,
        tombstones=bool(pc.any(tail.column(IS_DELETED)).as_py()),
        max_seq=int(as_int64(tail.column(WRITE_SEQ)).max()),
    )


def _parted(sources: Sequence[_Rows]) -> tuple[list[_Rows], list[_Rows]]:
    """Part sources into those whose every row is the newest of its key and time, and the rest."""
    if not sources:
        return [], []
    min_hash, max_hash, min_us, max_us = np.array([s.rectangle for s in sources]).T
    # Bounds are inclusive, so touching is overlapping.
    meets = (
        (min_hash[:, None] <= max_hash)
        & (min_hash <= max_hash[:, None])
        & (min_us[:, None] <= max_us)
        & (min_us <= max_us[:, None])
    )
    alone = meets.sum(axis=1) == 1  # itself
    is_free = [bool(a) and s.unique for a, s in zip(alone, sources, strict=True)]
    free = list(itertools.compress(sources, is_free))
    contested = [s for s, is_in in zip(sources, is_free, strict=True) if not is_in]
    return free, contested


# ── SQL text ─────────────────────────────────────────────────────────────────────────────────


def _columns(names: Iterable[str]) -> str:
    return ", ".join(quoted(name) for name in names)


_SCALAR_TYPES = {
    ("bool", 0): "BOOLEAN",
    ("int", 8): "TINYINT",
    ("int", 16): "SMALLINT",
    ("int", 32): "INTEGER",
    ("int", 64): "BIGINT",
    ("float", 32): "FLOAT",
    ("float", 64): "DOUBLE",
    ("string", 0): "VARCHAR",
    ("binary", 0): "BLOB",
    ("date", 0): "DATE",
    ("timestamp", 0): "TIMESTAMPTZ",  # microseconds
}


def _type(dtype: DType) -> str:
    """Return DuckDB's name of a dtype."""
    if dtype.element is not None:
        return f"{_type(dtype.element)}[{dtype.length or ''}]"
    return _SCALAR_TYPES[dtype.kind, dtype.bits]


def _feature_expression(name: str, dtype: DType, *, present: bool) -> str:
    if not present:
        return f"CAST(NULL AS {_type(dtype)})"
    # Parquet has no fixed-size list: a vector comes back as a list of any length.
    return f"CAST({quoted(name)} AS {_type(dtype)})" if dtype.kind == "vector" else quoted(name)


def _base_seq(piece: tuple[int, int, int]) -> int:
    return piece[1]


def _commit_time_us(piece: tuple[int, int, int]) -> int:
    return piece[2]


def _at_place(entries: Sequence[FileEntry], value: Callable[[tuple[int, int, int]], int]) -> str:
    """Return an expression for a value that depends on the slice of a staged file's row."""
    per_file = []
    for index, entry in enumerate(entries):
        pieces = [(piece[0], str(value(piece))) for piece in entry.slices]
        per_file.append((index + 1, _stepwise("file_row_number", pieces)))
    return _stepwise("file_index", per_file)


def _stepwise(column: str, steps: Sequence[tuple[int, str]]) -> str:
    """Return a balanced CASE: the value of the first step whose end is beyond the column.

    One read over many files with a CASE of this kind plans ten times faster than a read for
    each file, and compares only as often as the logarithm of the steps.

    Examples
    --------
    >>> _stepwise("row", [(10, "a"), (20, "b"), (30, "c")])
    'CASE WHEN row < 10 THEN a ELSE CASE WHEN row < 20 THEN b ELSE c END END'
    """
    if len(steps) == 1:
        return steps[0][1]
    middle = len(steps) // 2
    below, above = _stepwise(column, steps[:middle]), _stepwise(column, steps[middle:])
    return f"CASE WHEN {column} < {steps[middle - 1][0]} THEN {below} ELSE {above} END"
