"""SQL: what a query may say, what each view holds, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import math
import os
import signal
import threading
import warnings
import weakref
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.encoding.columns import history_schema
from featurestore.encoding.key_columns import encode_keys
from featurestore.encoding.keys import KeyHash
from featurestore.engine.snapshot import GroupSnapshot
from featurestore.engine.sql import query as sql
from featurestore.engine.sql import session as sql_session
from featurestore.engine.sql.query import Source, run_query, tables_of
from featurestore.engine.sql.views import create_views
from featurestore.errors import (
    CorruptStore,
    InvalidInput,
    InvalidQuery,
    UnknownFeatureGroup,
    did_you_mean,
)
from featurestore.schema import FeatureGroup, define
from featurestore.storage.manifest import FileEntry, GroupState
from featurestore.storage.parquet import describe, sort_history, write_history

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

UTC_US = pa.timestamp("us", tz="UTC")
SEED = b"0123456789abcdef"


def at(second: int) -> dt.datetime:
    return dt.datetime(2013, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=second)


def us(second: int) -> int:
    return (at(second) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


# ── histories written by hand ────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Row:
    """One accepted version: key, event second, seq, value; None as value is a tombstone."""

    origin: str
    second: int
    seq: int
    temp: float | None
    gust: int | None = None
    write_second: int = 0
    expires: int | None = None
    deleted: bool = False


WEATHER = define(
    "weather",
    record_identifier="origin",
    event_time="time_hour",
    features={"origin": "string", "time_hour": "timestamp", "temp": "float64"},
    id=1,
)
GUSTY = WEATHER.with_features({"gust": "int32"})


def history(group: FeatureGroup, rows: Sequence[Row], bits: int = 64) -> pa.Table:
    """Return rows in the history layout, in file order."""
    columns: dict[str, pa.Array] = {
        "origin": pa.array([r.origin for r in rows], pa.string()),
        "time_hour": pa.array([at(r.second) for r in rows], UTC_US),
        "write_seq": pa.array([r.seq for r in rows], pa.int64()),
        "write_time": pa.array([at(r.write_second) for r in rows], UTC_US),
        "expires_at": pa.array(
            [None if r.expires is None else at(r.expires) for r in rows], UTC_US
        ),
        "is_deleted": pa.array([r.deleted for r in rows], pa.bool_()),
        "__stores": pa.array([3] * len(rows), pa.int8()),
        "temp": pa.array([r.temp for r in rows], pa.float64()),
        "gust": pa.array([r.gust for r in rows], pa.int32()),
    }
    keys = encode_keys([columns["origin"]], [group.feature("origin").dtype])
    key_hash = KeyHash(SEED, bits)
    hashes = keys.hashes(key_hash)[keys.codes] if rows else np.zeros(0, np.int64)
    columns["__key_hash"] = pa.array(hashes, pa.int64())
    schema = history_schema(group)
    table = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
    return sort_history(table, group, key_hash)


class Files:
    """Writes history files of one group, as flush, bulk ingest and compaction do."""

    def __init__(self, root: Path, bits: int = 64) -> None:
        self.root = root
        self.bits = bits
        self.entries: list[FileEntry] = []

    def write(self, kind: str, rows: Sequence[Row], group: FeatureGroup = WEATHER) -> FileEntry:
        """Write and list a file whose rows carry absolute seqs and times."""
        return self._list(kind, history(group, rows, self.bits), group)

    def stage(
        self,
        slices: Sequence[tuple[Sequence[Row], int, int]],
        hidden: Sequence[Row] = (),
        group: FeatureGroup = WEATHER,
    ) -> FileEntry:
        """Stage a file: each slice is rows in file order, base seq and commit second.

        Rows of a staged file carry ordinals and no write time.
        """
        parts = [history(group, rows, self.bits) for rows, _, _ in slices]
        if hidden:
            parts.append(history(group, hidden, self.bits))
        table = pa.concat_tables(parts)
        place = table.schema.get_field_index("write_time")
        table = table.set_column(place, table.field(place), pa.nulls(len(table), UTC_US))
        ends = np.cumsum([len(rows) for rows, _, _ in slices]).tolist()
        seqs = [base + row.seq for rows, base, _ in slices for row in rows]
        return self._list(
            "staged",
            table,
            group,
            visible_rows=ends[-1],
            min_seq=min(seqs),
            max_seq=max(seqs),
            slices=tuple(
                (end, base, us(second)) for end, (_, base, second) in zip(ends, slices, strict=True)
            ),
        )

    def _list(self, kind: str, table: pa.Table, group: FeatureGroup, **fields: Any) -> FileEntry:
        file_id = len(self.entries) + 1
        relative = f"data/{group.id}/{file_id:016x}.parquet"
        write_history(self.root, relative, table, group)
        entry = describe(self.root, group, file_id, kind, table, relative=relative)
        self.entries.append(replace(entry, **fields))
        return self.entries[-1]

    def snapshot(
        self, tail: Sequence[Row] = (), group: FeatureGroup = WEATHER, seq: int = 2**62
    ) -> GroupSnapshot:
        return GroupSnapshot(
            root=self.root,
            group=group,
            seq=seq,
            cut=True,
            state=GroupState(),
            files=self.entries,
            key_hash=KeyHash(SEED, self.bits),
            _tail=history(group, tail, self.bits),
        )


class Provider:
    """Gives snapshots made beforehand, and remembers what it was asked for."""

    def __init__(self, *sources: Source | GroupSnapshot) -> None:
        made = [s if isinstance(s, Source) else Source(s) for s in sources]
        self.sources = {s.snapshot.group.name.lower(): s for s in made}
        self.asked: list[tuple[frozenset[str], frozenset[str]]] = []
        self.open = 0

    @contextlib.contextmanager
    def __call__(
        self, names: frozenset[str], latest: frozenset[str]
    ) -> Iterator[Mapping[str, Source]]:
        self.asked.append((names, latest))
        for name in names:
            if name.lower() not in self.sources:
                raise UnknownFeatureGroup(
                    f'There is no feature group "{name}".{did_you_mean(name, self.sources)}'
                )
        self.open += 1
        try:
            yield {name: self.sources[name.lower()] for name in names}
        finally:
            self.open -= 1


def query(provider: Any, text: str, params: Any = None, **how: Any) -> list[dict[str, Any]]:
    return run_query(text, params, provider, **how).to_pylist()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


JFK_1 = Row("JFK", 10, 1, 39.0, write_second=11, expires=100)
JFK_2 = Row("JFK", 10, 2, 40.0, write_second=12)
EWR_3 = Row("EWR", 20, 3, 41.0, write_second=21)
JFK_GONE = Row("JFK", 30, 4, None, deleted=True, write_second=31)


# ── which tables a query names ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("SELECT 1", set()),
        ("FROM weather", {(None, "weather")}),
        ("FROM main.weather", {("main", "weather")}),
        ('SELECT * FROM HISTORY."my-Group" h', {("history", "my-Group")}),
        ("SELECT * FROM a JOIN latest.b USING (k), c", {(None, "a"), ("latest", "b"), (None, "c")}),
        ("SELECT (SELECT max(x) FROM a) WHERE 1 IN (FROM b)", {(None, "a"), (None, "b")}),
        ("SELECT 1 ORDER BY (SELECT x FROM a) LIMIT (SELECT 1 FROM b)", {(None, "a"), (None, "b")}),
        ("FROM a UNION ALL BY NAME FROM b", {(None, "a"), (None, "b")}),
        ("FROM a ASOF JOIN b USING (k, t)", {(None, "a"), (None, "b")}),
        ("PIVOT a ON k IN ('x') USING sum(y)", {(None, "a")}),
        ("UNPIVOT a ON x, y INTO NAME n VALUE v", {(None, "a")}),
        ("DESCRIBE a", {(None, "a")}),
        ("SUMMARIZE a", {(None, "a")}),
        ("FROM range(3), unnest([1])", set()),
        ("SELECT 1; -- a comment after the end", set()),
    ],
)
def test_tables_named(text: str, tables: set[tuple[str | None, str]]) -> None:
    assert tables_of(text) == tables


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("WITH w AS (FROM a) FROM w", {"a"}),
        ('WITH "W" AS (FROM a) FROM w', {"a"}),
        # A name sees only what was defined before it: DuckDB takes this `w` for a table.
        ("WITH w AS (FROM w) FROM w", {"w"}),
        ("WITH RECURSIVE w AS (FROM w) FROM w", {"w"}),
        ("WITH a AS (FROM b), b AS (SELECT 1) FROM a", {"b"}),
        ("WITH a AS (SELECT 1), b AS (FROM a) FROM b", set()),
        (
            "WITH RECURSIVE r AS (SELECT 1 x UNION ALL SELECT x + 1 FROM r WHERE x < 9) FROM r",
            set(),
        ),
        ("WITH RECURSIVE r AS (SELECT x FROM r UNION ALL SELECT x + 1 FROM r) FROM r", {"r"}),
        (
            "WITH RECURSIVE r AS (SELECT 1 x UNION ALL SELECT max(x) + 1 FROM recurring.r) FROM r",
            set(),
        ),
        # Inner definitions end with their SELECT; outer ones reach in.
        ("SELECT (WITH w AS (SELECT 1 x) SELECT x FROM w), * FROM w", {"w"}),
        ("WITH w AS (SELECT 1) SELECT * FROM (SELECT * FROM (FROM w))", set()),
        ("WITH w AS (FROM a) FROM w UNION ALL FROM w", {"a"}),
        ("WITH w AS (SELECT 1 x) SELECT 1 ORDER BY (SELECT x FROM w)", set()),
    ],
)
def test_names_that_a_with_defines_are_no_tables(text: str, tables: set[str]) -> None:
    assert {name for _, name in tables_of(text)} == tables


def test_a_with_does_not_hide_what_is_written_with_its_schema() -> None:
    assert tables_of("WITH w AS (SELECT 1) FROM main.w, history.w") == {
        ("main", "w"),
        ("history", "w"),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 statements"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("selec 1", 'syntax error at or near "selec"'),
        ("EXPLAIN SELECT 1", "Only a SELECT"),
        ("INSERT INTO weather VALUES (1)", "Only a SELECT"),
        ("COPY (SELECT 1) TO 'x'", "Only a SELECT"),
        ("ATTACH 'x'", "Only a SELECT"),
        ("SET threads = 1", "Only a SELECT"),
        ("PRAGMA version", "Only a SELECT"),
        ("CREATE TABLE t AS SELECT 1", "Only a SELECT"),
        ("PIVOT weather ON k USING sum(x)", "PIVOT needs its values"),
        ("WITH w AS (COPY (SELECT 1) TO 'x.csv') SELECT * FROM w", "COPY inside"),
        ("WITH w AS (INSERT INTO a SELECT 1 RETURNING *) FROM w", "INSERT inside"),
        ("WITH w AS (DELETE FROM a RETURNING *) SELECT 1", "DELETE inside"),
        ("WITH w AS (UPDATE a SET x = 1 RETURNING *) SELECT 1", "UPDATE inside"),
        ("SELECT (WITH w AS (COPY (SELECT 1) TO 'x.csv') SELECT 1)", "COPY inside"),
        ("SELECT 1 ORDER BY (WITH w AS (COPY (SELECT 1) TO 'x') SELECT 1)", "COPY inside"),
        ("FROM read_parquet('x')", r"read_parquet\(\) is refused"),
        ("FROM main.read_csv('x')", r"read_csv\(\) is refused"),
        ("FROM query('COPY (SELECT 1) TO ''x''')", r"query\(\) is refused"),
        ("FROM duckdb_settings()", r"duckdb_settings\(\) is refused"),
        ("SHOW TABLES", "list_feature_groups"),
        ("FROM (SHOW ALL TABLES)", "list_feature_groups"),
        ("FROM hist.weather", '"hist.weather".* latest.weather'),
        ("FROM memory.main.weather", "memory.main.weather"),
        ("FROM information_schema.tables", "information_schema.tables"),
        ("SELECT '\ud800'", "cannot encode"),
        ("SELECT " + "f(" * 900 + "1" + ")" * 900, "nested too deeply"),
    ],
)
def test_what_is_refused(text: str, says: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidQuery, match=says):
        run_query(text, None, Provider())
    assert list(tmp_path.iterdir()) == []


def test_a_query_is_text() -> None:
    with pytest.raises(InvalidQuery, match="text, not bytes"):
        tables_of(b"SELECT 1")  # type: ignore[arg-type]


def test_a_file_is_never_taken_for_a_table(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UnknownFeatureGroup, match=r"x\.parquet"):
        run_query(f"FROM '{path}'", None, Provider())


def test_a_variable_of_the_caller_is_never_taken_for_a_table() -> None:
    secrets = pa.table({"a": [1]})
    with pytest.raises(UnknownFeatureGroup, match="secrets"):
        run_query("FROM secrets", None, Provider())
    assert secrets.num_rows == 1


# ── the views ────────────────────────────────────────────────────────────────────────────────


def test_a_group_has_one_row_for_each_key_and_event_time(files: Files) -> None:
    files.write("flush", [JFK_1, EWR_3])
    provider = Provider(files.snapshot(tail=[JFK_2, JFK_GONE]))
    table = run_query("FROM weather ORDER BY time_hour", None, provider)
    assert table.schema == pa.schema(
        {"origin": pa.string(), "time_hour": UTC_US, "temp": pa.float64()}
    )
    assert table.to_pylist() == [
        {"origin": "JFK", "time_hour": at(10), "temp": 40.0},
        {"origin": "EWR", "time_hour": at(20), "temp": 41.0},
    ]


def test_history_has_every_version(files: Files) -> None:
    files.write("flush", [JFK_1, EWR_3])
    provider = Provider(files.snapshot(tail=[JFK_2, JFK_GONE]))
    table = run_query("FROM history.weather ORDER BY write_seq", None, provider)
    assert table.column_names == [
        "origin", "time_hour", "temp", "write_seq", "write_time", "expires_at", "is_deleted",
    ]  # fmt: skip
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("JFK", at(10), 39.0, 1, at(11), at(100), False),
        ("JFK", at(10), 40.0, 2, at(12), None, False),
        ("EWR", at(20), 41.0, 3, at(21), None, False),
        ("JFK", at(30), None, 4, at(31), None, True),
    ]


def test_latest_is_the_table_the_provider_gives(files: Files) -> None:
    files.write("flush", [JFK_1])
    served = pa.table({"origin": ["JFK"], "time_hour": pa.array([at(10)], UTC_US), "temp": [7.0]})
    provider = Provider(Source(files.snapshot(), served))
    assert query(provider, "FROM latest.weather") == served.to_pylist()
    both = "SELECT w.temp AS a, l.temp AS b FROM weather w JOIN latest.weather l USING (origin)"
    assert query(provider, both) == [{"a": 39.0, "b": 7.0}]
    assert provider.asked[0] == (frozenset({"weather"}), frozenset({"weather"}))


def test_only_what_is_named_is_asked_for_and_the_snapshot_is_closed(files: Files) -> None:
    files.write("flush", [JFK_1])
    provider = Provider(files.snapshot())
    query(provider, "FROM history.weather")
    with pytest.raises(InvalidQuery):
        query(provider, "SELECT nothing FROM weather")
    assert provider.asked == [(frozenset({"weather"}), frozenset())] * 2
    assert provider.open == 0


def test_a_query_without_groups_asks_for_none() -> None:
    provider = Provider()
    assert query(provider, "SELECT 1 AS x") == [{"x": 1}]
    assert provider.asked == [(frozenset(), frozenset())]


def test_an_unknown_group_says_which_was_meant(files: Files) -> None:
    provider = Provider(files.snapshot())
    with pytest.raises(UnknownFeatureGroup, match='Did you mean "weather"'):
        query(provider, "FROM wether")


@pytest.mark.parametrize("text", ['FROM "MY-Group"', 'FROM "my-group", history."My-gROUP"'])
def test_names_in_any_case_and_with_hyphens(files: Files, text: str) -> None:
    group = replace(WEATHER, name="My-Group")
    files.write("flush", [JFK_1], group)
    provider = Provider(files.snapshot(group=group))
    assert len(query(provider, text)) == 1
    assert len(provider.asked[0][0]) == 1


def test_views_without_any_rows_are_typed(files: Files) -> None:
    group = define(
        "all",
        record_identifier="k",
        event_time="t",
        features={
            "k": "int16", "t": "timestamp", "b": "bool", "i8": "int8", "i32": "int32",
            "i64": "int64", "f32": "float32", "f64": "float64", "s": "string", "y": "binary",
            "ts": "timestamp", "d": "date", "l": "list<string>", "v": "vector<float32, 3>",
            "w": "vector<float64, 2>",
        },
        id=1,
    )  # fmt: skip
    snapshot = replace(files.snapshot(), group=group, _tail=history_schema(group).empty_table())
    table = run_query('FROM "all"', None, Provider(snapshot))
    assert table.num_rows == 0
    assert table.schema == group.arrow_schema()
    assert run_query('FROM history."all"', None, Provider(snapshot)).num_rows == 0


def test_every_type_comes_back_as_it_went_in(files: Files) -> None:
    features = {
        "k": "int16", "t": "timestamp", "b": "bool", "f32": "float32", "s": "string",
        "y": "binary", "d": "date", "l": "list<int8>", "ls": "list<timestamp>",
        "v": "vector<float32, 2>",
    }  # fmt: skip
    group = define("all", record_identifier="k", event_time="t", features=features, id=1)
    rows = [
        {"k": 1, "t": at(0), "b": True, "f32": -0.0, "s": "a'\"\n", "y": b"\0x",
         "d": dt.date(1, 1, 1), "l": [1, None], "ls": [at(1)], "v": [1.5, -2.0]},
        {"k": 2, "t": at(1)},
    ]  # fmt: skip
    data = pa.Table.from_pylist(rows, schema=group.arrow_schema())
    system = {
        "__key_hash": pa.array([-5, 7]), "write_seq": pa.array([1, 2]),
        "write_time": pa.array([at(0)] * 2, UTC_US), "expires_at": pa.nulls(2, UTC_US),
        "is_deleted": pa.array([False] * 2), "__stores": pa.array([3, 3], pa.int8()),
    }  # fmt: skip
    schema = history_schema(group)
    table = pa.Table.from_arrays(
        [system[n] if n in system else data.column(n) for n in schema.names], schema=schema
    )
    files._list("flush", table.slice(0, 1), group)
    snapshot = replace(files.snapshot(), group=group, _tail=table.slice(1, 1))
    result = run_query('FROM "all" ORDER BY k', None, Provider(snapshot))
    assert result.schema == data.schema
    assert result.equals(data)
    files._list("flush", table.slice(1, 1), group)
    snapshot = replace(snapshot, _tail=schema.empty_table())
    assert run_query('FROM "all" ORDER BY k', None, Provider(snapshot)).equals(data)
    near = 'SELECT array_distance(v, [1.5, 0.0]::FLOAT[2]) AS d FROM "all" WHERE k = 1'
    assert query(Provider(snapshot), near) == [{"d": 2.0}]


def test_features_newer_than_a_file_are_null_of_their_type(files: Files) -> None:
    files.write("flush", [JFK_1])
    files.write("flush", [replace(EWR_3, gust=7)], GUSTY)
    provider = Provider(files.snapshot(group=GUSTY, tail=[Row("LGA", 40, 5, 1.0, 9)]))
    table = run_query("SELECT origin, gust FROM weather ORDER BY time_hour", None, provider)
    assert table.schema.field("gust").type == pa.int32()
    assert table.column("gust").to_pylist() == [None, 7, 9]
    assert query(provider, "SELECT sum(gust)::INT AS s FROM history.weather") == [{"s": 16}]


def test_a_view_at_an_earlier_seq(files: Files) -> None:
    files.write("flush", [JFK_1, EWR_3, JFK_GONE])
    tail = [JFK_2, Row("LGA", 50, 5, 1.0)]
    for seq, seqs, temps in [
        (0, [], []),
        (1, [1], [39.0]),
        (2, [1, 2], [40.0]),
        (4, [1, 2, 3, 4], [40.0, 41.0]),
        (5, [1, 2, 3, 4, 5], [40.0, 41.0, 1.0]),
    ]:
        provider = Provider(files.snapshot(tail=tail, seq=seq))
        seen = query(provider, "SELECT write_seq FROM history.weather ORDER BY 1")
        assert [row["write_seq"] for row in seen] == seqs
        seen = query(provider, "SELECT temp FROM weather ORDER BY time_hour")
        assert [row["temp"] for row in seen] == temps


def test_staged_files_get_their_seqs_and_times(files: Files) -> None:
    # Ordinals are in input order, rows in file order; one slice a commit.
    one = [Row("EWR", 1, 1, 1.0), Row("EWR", 2, 0, 2.0)]
    two = [Row("JFK", 1, 0, 3.0)]
    files.stage([(one, 100, 7), (two, 200, 8)], hidden=[Row("LGA", 9, 0, 9.0)])
    files.stage([([Row("LGA", 1, 0, 4.0)], 50, 6)])
    files.stage([([Row("LGA", 2, 0, 5.0)], 60, 6)], hidden=[Row("LGA", 3, 1, 9.0)])
    provider = Provider(files.snapshot())
    rows = query(provider, "SELECT write_seq, write_time, temp FROM history.weather ORDER BY 1")
    assert [tuple(row.values()) for row in rows] == [
        (50, at(6), 4.0),
        (60, at(6), 5.0),
        (100, at(7), 2.0),
        (101, at(7), 1.0),
        (200, at(8), 3.0),
    ]
    assert query(provider, "SELECT count(*) AS n FROM weather WHERE origin = 'LGA'") == [{"n": 2}]
    some = "SELECT write_seq FROM history.weather WHERE temp BETWEEN 3 AND 4 ORDER BY 1"
    assert [row["write_seq"] for row in query(provider, some)] == [50, 200]


def test_imported_write_times_stand(files: Files) -> None:
    entry = files.stage([([Row("JFK", 1, 0, 1.0)], 10, 7)])
    path = files.root / entry.path
    table = pq.read_table(path)
    place = table.schema.get_field_index("write_time")
    table = table.set_column(place, table.field(place), pa.array([at(3)], UTC_US))
    pq.write_table(table, path)
    rows = query(Provider(files.snapshot()), "SELECT write_time FROM history.weather")
    assert rows == [{"write_time": at(3)}]


def test_features_named_like_columns_of_the_reader(files: Files) -> None:
    group = WEATHER.with_features({"file_row_number": "int64", "File_Index": "int64"})
    table = history(WEATHER, [Row("EWR", 1, 0, 1.0), Row("JFK", 1, 0, 2.0)])
    for name in ("file_row_number", "File_Index"):
        table = table.append_column(group.arrow_schema().field(name), pa.array([77, 78]))
    slices = ((1, 10, us(1)), (2, 20, us(2)))
    files._list("staged", table.cast(history_schema(group)), group, slices=slices)
    tail = history_schema(group).empty_table()
    provider = Provider(replace(files.snapshot(group=WEATHER), group=group, _tail=tail))
    rows = query(provider, "SELECT write_seq, file_row_number AS n FROM history.weather ORDER BY 1")
    assert sorted(row["write_seq"] for row in rows) == [10, 20]
    assert sorted(row["n"] for row in rows) == [77, 78]


def test_paths_with_the_letters_of_globs_and_of_sql(tmp_path: Path) -> None:
    files = Files(tmp_path / "it's a [1]* {b}?")
    files.write("flush", [JFK_1])
    files.write("flush", [EWR_3])
    (tmp_path / "it's a 1x {b}y").mkdir()
    assert len(query(Provider(files.snapshot()), "FROM weather")) == 2


def test_folders_above_the_store_are_no_columns(tmp_path: Path) -> None:
    files = Files(tmp_path / "temp=7" / "origin=here")
    files.write("flush", [JFK_1])
    files.write("flush", [EWR_3])
    rows = query(Provider(files.snapshot()), "SELECT origin, temp FROM weather ORDER BY temp")
    assert [tuple(row.values()) for row in rows] == [("JFK", 39.0), ("EWR", 41.0)]


# ── when the window is needed ────────────────────────────────────────────────────────────────


def plan_of(snapshot: GroupSnapshot, text: str, view: str = "main") -> str:
    """Return DuckDB's plan of a query on one view."""
    with sql_session.session() as duck:
        create_views(duck, snapshot, {view})
        (row,) = duck._connection.execute(f"EXPLAIN {text}").fetchall()
    return str(row[1])


def origins(bits: int = 64) -> list[str]:
    """Return some keys in the order of their hashes."""
    names = [f"K{i}" for i in range(8)]
    table = history(WEATHER, [Row(name, 0, i, 0.0) for i, name in enumerate(names)], bits)
    return list(table.column("origin").to_pylist())


def test_disjoint_unique_files_need_no_window(files: Files) -> None:
    low, high = origins()[:2], origins()[-2:]
    files.write("cell", [Row(low[0], 1, 1, 1.0), Row(low[1], 5, 2, 2.0)])
    files.write("cell", [Row(high[0], 1, 3, 3.0), Row(high[1], 5, 4, 4.0)])
    files.write("flush", [Row(low[0], 6, 5, 5.0), Row(high[1], 9, 6, 6.0)])
    tail = [Row(low[0], 10, 7, 7.0), Row(high[0], 10, 8, 8.0)]
    plan = plan_of(files.snapshot(tail=tail), "SELECT * FROM weather")
    assert "Window" not in plan
    assert "is_deleted" not in plan  # nor is it read
    assert len(query(Provider(files.snapshot(tail=tail)), "FROM weather")) == 8


def test_touching_in_hash_and_time_is_overlap(files: Files) -> None:
    keys = origins()
    files.write("flush", [Row(keys[0], 1, 1, 1.0), Row(keys[3], 5, 2, 2.0)])
    files.write("flush", [Row(keys[3], 5, 3, 3.0), Row(keys[7], 9, 4, 4.0)])
    snapshot = files.snapshot()
    assert "Window" in plan_of(snapshot, "SELECT * FROM weather")
    rows = query(Provider(snapshot), "SELECT temp FROM weather ORDER BY temp")
    assert [row["temp"] for row in rows] == [1.0, 3.0, 4.0]


def test_touching_in_one_alone_is_none(files: Files) -> None:
    keys = origins()
    files.write("flush", [Row(keys[0], 1, 1, 1.0), Row(keys[3], 5, 2, 2.0)])
    files.write("flush", [Row(keys[3], 6, 3, 3.0), Row(keys[7], 9, 4, 4.0)])
    assert "Window" not in plan_of(files.snapshot(), "SELECT * FROM weather")


def test_a_file_that_is_not_unique_needs_the_window(files: Files) -> None:
    files.write("flush", [JFK_1, JFK_2])
    assert "Window" in plan_of(files.snapshot(), "SELECT * FROM weather")
    assert [r["temp"] for r in query(Provider(files.snapshot()), "FROM weather")] == [40.0]


def test_a_tail_that_is_not_unique_needs_the_window(files: Files) -> None:
    snapshot = files.snapshot(tail=[JFK_1, JFK_2])
    assert "Window" in plan_of(snapshot, "SELECT * FROM weather")
    assert [r["temp"] for r in query(Provider(snapshot), "FROM weather")] == [40.0]


def test_tombstones_alone_need_a_filter_only(files: Files) -> None:
    files.write("flush", [JFK_1, JFK_GONE])
    plan = plan_of(files.snapshot(), "SELECT * FROM weather")
    assert "Window" not in plan
    assert "is_deleted" in plan
    assert [r["temp"] for r in query(Provider(files.snapshot()), "FROM weather")] == [39.0]


def test_only_what_is_contested_goes_through_the_window(files: Files) -> None:
    files.write("flush", [Row("JFK", second, second, 1.0) for second in range(1000)])
    files.write("flush", [Row("JFK", 5000, 5000, 2.0)])
    snapshot = files.snapshot(tail=[Row("JFK", 5000, 5001, 3.0)])
    plan = plan_of(snapshot, "SELECT * FROM weather")
    assert plan.count("Window") == 1
    assert query(Provider(snapshot), "SELECT count(*) AS n, max(temp) AS x FROM weather") == [
        {"n": 1001, "x": 3.0}
    ]


def test_filters_reach_the_files_below_the_window(files: Files) -> None:
    files.write("flush", [JFK_1, JFK_2, EWR_3])
    text = "SELECT * FROM weather WHERE origin = 'JFK' AND time_hour > '2013-01-01 00:00:15'"
    plan = plan_of(files.snapshot(), text)
    above, below = plan.split("Window", 1)
    assert "Filters" not in above
    filters = below[below.index("Filters:") :]
    assert "origin = 'JFK'" in filters
    assert "time_hour > " in filters


def test_columns_not_asked_for_are_not_read(files: Files) -> None:
    files.write("flush", [JFK_1])
    plan = plan_of(files.snapshot(), "SELECT origin FROM weather")
    assert "temp" not in plan


# ── against the obvious ──────────────────────────────────────────────────────────────────────


def newest(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Return what the view of a group must hold, the slow way."""
    best: dict[tuple[str, int], Row] = {}
    for row in sorted(rows, key=lambda r: r.seq):
        best[row.origin, row.second] = row
    return sorted((r.origin, at(r.second), r.temp) for r in best.values() if not r.deleted)


@given(data=st.data(), bits=st.sampled_from([2, 64]))
def test_views_are_what_the_rows_say(
    data: st.DataObject, bits: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    draws = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["A", "B", "C", "D"]),
                st.integers(0, 4),
                st.booleans() | st.just(False),
                st.integers(0, 3),
            ),
            max_size=20,
        )
    )
    places: dict[int, list[Row]] = defaultdict(list)
    for seq, (origin, second, deleted, place) in enumerate(draws):
        temp = None if deleted else float(seq)
        places[place].append(Row(origin, second, seq, temp, deleted=deleted))
    files = Files(tmp_path_factory.mktemp("sql"), bits)
    every = [row for rows in places.values() for row in rows]
    # Place 0 is the tail, 1 a flush, 2 a cell, 3 a staged file with base 0 (ordinals are seqs).
    for place, kind in ((1, "flush"), (2, "cell")):
        if places[place]:
            files.write(kind, places[place])
    if places[3]:
        ordered = history(WEATHER, places[3], bits)
        by_seq = {row.seq: row for row in places[3]}
        rows = [by_seq[seq] for seq in ordered.column("write_seq").to_pylist()]
        cut = data.draw(st.integers(0, len(rows) - 1))
        slices = [(rows[:cut], 0, 1), (rows[cut:], 0, 2)] if cut else [(rows, 0, 2)]
        files.stage(slices)
    seq = data.draw(st.integers(0, len(draws)))
    provider = Provider(files.snapshot(tail=places[0], seq=seq))
    seen = [row for row in every if row.seq <= seq]
    got = [tuple(row.values()) for row in query(provider, "FROM weather")]
    assert sorted(got) == newest(seen)
    got = [row["write_seq"] for row in query(provider, "SELECT write_seq FROM history.weather")]
    assert sorted(got) == sorted(row.seq for row in seen)


# ── a whole store ────────────────────────────────────────────────────────────────────────────


def test_answers_do_not_change_when_history_moves(
    open_store: Callable[..., fs.FeatureStore],
) -> None:
    store = open_store(clock=lambda: at(1000))
    store.create_feature_group(
        "Weather-1",
        record_identifier="origin",
        event_time="time_hour",
        features={"origin": "string", "time_hour": "timestamp", "temp": "float64"},
        ttl="500s",
    )

    def answers() -> list[pa.Table]:
        return [
            store.sql('SELECT * FROM "weather-1" ORDER BY ALL'),
            store.sql('SELECT * FROM history."Weather-1" ORDER BY write_seq'),
            store.sql('SELECT * FROM latest."WEATHER-1" ORDER BY ALL'),
        ]

    steps: list[Callable[[], object]] = [
        lambda: store.put_record("Weather-1", _record("JFK", 900, 1.0)),
        lambda: store.put_record("Weather-1", _record("JFK", 900, 2.0)),
        lambda: store.put_record("Weather-1", _record("EWR", 100, 3.0)),  # expired
        lambda: store.delete_record("Weather-1", "LGA", event_time=at(950)),
        lambda: store.put_record("Weather-1", _record("LGA", 940, 4.0)),
        lambda: store.ingest(
            "Weather-1",
            pa.table(
                {
                    "origin": [f"K{i % 7}" for i in range(5000)],
                    "time_hour": pa.array([at(i % 900) for i in range(5000)]),
                    "temp": np.arange(5000.0),
                }
            ),
        ),
    ]
    for number, step in enumerate(steps):
        step()
        before = answers()
        store.flush()
        assert answers() == before
        if number % 2:
            store.compact()
            assert answers() == before
    newest, history_, latest = before
    assert history_.num_rows == 5005
    assert newest.filter(pa.compute.equal(newest["origin"], "JFK")).to_pylist() == [
        _record("JFK", 900, 2.0)
    ]
    assert latest["origin"].to_pylist() == ["JFK", *(f"K{i}" for i in range(7))]


def _record(origin: str, second: int, temp: float) -> dict[str, Any]:
    return {"origin": origin, "time_hour": at(second), "temp": temp}


def test_a_store_without_that_group(store: fs.FeatureStore) -> None:
    with pytest.raises(UnknownFeatureGroup, match="nothing"):
        store.sql("FROM nothing")
    with pytest.raises(UnknownFeatureGroup, match="nothing"):
        store.sql("FROM latest.nothing")


def test_groups_of_one_store_only(store: fs.FeatureStore) -> None:
    for name, stores in (("on", {"offline": False}), ("off", {"online": False})):
        features = {"k": "int64", "t": "timestamp"}
        store.create_feature_group(
            name, record_identifier="k", event_time="t", features=features, **stores
        )
        store.put_record(name, {"k": 1, "t": at(5)})
    assert store.sql("SELECT k FROM latest.on").to_pylist() == [{"k": 1}]
    assert store.sql("SELECT k FROM off").to_pylist() == [{"k": 1}]
    with pytest.raises(InvalidInput, match="has no offline store"):
        store.sql('FROM history."on"')
    with pytest.raises(InvalidInput, match="has no online store"):
        store.sql("FROM latest.off")


def test_a_moment_of_the_past(open_store: Callable[..., fs.FeatureStore]) -> None:
    store = open_store(clock=lambda: at(1000))
    store.create_feature_group(
        "weather",
        record_identifier="origin",
        event_time="time_hour",
        like=WEATHER.arrow_schema(),
    )
    for seq in range(1, 5):
        store.put_record("weather", _record("JFK", 10, float(seq)))
        if seq == 2:
            store.flush()
    for seq in range(5):
        provider = sql.snapshots_of(store._database, 0, seq=seq)
        rows = run_query("SELECT temp FROM weather", None, provider).to_pylist()
        assert rows == [{"temp": float(seq)}][: min(seq, 1)]


# ── parameters, tables, results ──────────────────────────────────────────────────────────────


def test_parameters_by_place_and_by_name(files: Files) -> None:
    files.write("flush", [JFK_1, EWR_3])
    provider = Provider(files.snapshot())
    kathmandu = dt.timezone(dt.timedelta(hours=5, minutes=45))
    for moment in (at(15), at(15).astimezone(kathmandu), pd.Timestamp(at(15))):
        by_place = query(provider, "SELECT temp FROM weather WHERE time_hour > ?", [moment])
        assert by_place == [{"temp": 41.0}]
        by_name = query(
            provider,
            "SELECT temp FROM weather WHERE time_hour > $since AND origin = $k",
            {"since": moment, "k": "EWR"},
        )
        assert by_name == [{"temp": 41.0}]
    values = [np.int64(3), np.float32(0.5), np.bool_(True), "x", None, [1, 2], dt.date(2013, 1, 1)]
    (row,) = query(provider, "SELECT " + ", ".join(["?"] * len(values)), values)
    assert list(row.values()) == values


@pytest.mark.parametrize(
    ("text", "params", "says"),
    [
        ("SELECT ?", None, "Values were not provided"),
        ("SELECT ?", [], "Values were not provided"),
        ("SELECT 1", [1], "Expected 0, got 1"),
        ("SELECT $a", {"b": 1}, "Values were not provided"),
        ("SELECT ?", "JFK", "a list for . or a dict"),
        ("SELECT ?", {1, 2}, "a list for . or a dict"),
        ("SELECT ?", [object()], "Unable to transform"),
        ("SELECT ?", [dt.datetime(2013, 1, 1)], "no time zone"),  # noqa: DTZ001
        ("SELECT ?", [np.datetime64("2013-01-01")], "no time zone"),
    ],
)
def test_wrong_parameters(text: str, params: Any, says: str) -> None:
    with pytest.raises(InvalidQuery, match=says):
        run_query(text, params, Provider())


@pytest.mark.parametrize(
    "make",
    [
        pa.table,
        pa.record_batch,
        lambda data: pa.table(data).to_reader(),
        pd.DataFrame,
        pl.DataFrame,
    ],
)
def test_tables_given_by_the_caller(files: Files, make: Any) -> None:
    files.write("flush", [JFK_1, EWR_3])
    provider = Provider(files.snapshot())
    labels = make({"origin": ["JFK", "LGA"], "y": [1, 0]})
    text = 'SELECT y, temp FROM "My labels" LEFT JOIN weather USING (origin) ORDER BY y'
    rows = query(provider, text, tables={"My labels": labels, "unused": labels})
    assert rows == [{"y": 0, "temp": None}, {"y": 1, "temp": 39.0}]
    with pytest.raises(UnknownFeatureGroup, match="My labels"):
        query(provider, text)


def test_a_table_hides_a_group_of_its_name(files: Files) -> None:
    files.write("flush", [JFK_1])
    provider = Provider(files.snapshot())
    mine = {"Weather": pa.table({"temp": [-1.0]})}
    assert query(provider, "SELECT temp FROM weather", tables=mine) == [{"temp": -1.0}]
    assert query(provider, "SELECT temp FROM main.weather", tables=mine) == [{"temp": 39.0}]
    assert query(provider, "SELECT temp FROM history.weather", tables=mine) == [{"temp": 39.0}]
    assert query(provider, "SELECT temp FROM weather") == [{"temp": 39.0}]


@pytest.mark.parametrize("tables", [[pa.table({"a": [1]})], {1: pa.table({"a": [1]})}, "t"])
def test_tables_without_names(tables: Any) -> None:
    with pytest.raises(InvalidInput, match="a dict of tables by name"):
        run_query("FROM t", None, Provider(), tables=tables)


@pytest.mark.parametrize("name", ["a.b", 'say "x"', "it's", "select", "Ä", "main"])
def test_tables_of_any_name(name: str) -> None:
    text = 'FROM "' + name.replace('"', '""') + '"'
    tables = {name: pa.table({"a": [1]})}
    assert run_query(text, None, Provider(), tables=tables).to_pylist() == [{"a": 1}]


def test_a_table_of_no_known_kind() -> None:
    with pytest.raises(InvalidInput, match=r'tables\["t"\] is list'):
        run_query("FROM t", None, Provider(), tables={"t": [1]})


def test_results_are_plain_arrow(files: Files) -> None:
    files.write("flush", [JFK_1])
    text = """
        SELECT origin, time_hour, [temp] AS l, [[1]] AS ll, [1.0]::FLOAT[1] AS v,
            count(*) OVER () AS n, sum(1) OVER () AS s
        FROM weather"""
    assert run_query(text, None, Provider(files.snapshot())).schema == pa.schema(
        {
            "origin": pa.string(),
            "time_hour": UTC_US,
            "l": pa.list_(pa.float64()),
            "ll": pa.list_(pa.list_(pa.int32())),
            "v": pa.list_(pa.float32(), 1),
            "n": pa.int64(),
            "s": pa.decimal128(38),
        }
    )


def test_two_columns_of_one_name() -> None:
    table = run_query("SELECT 1 AS a, [2] AS a", None, Provider())
    assert table.column_names == ["a", "a"]
    assert table.column(1).to_pylist() == [[2]]


def test_text_of_times_is_read_and_written_in_utc() -> None:
    (row,) = query(Provider(), "SELECT TIMESTAMPTZ '2013-01-01 00:00' AS t, t::VARCHAR AS s")
    assert row == {"t": at(0), "s": "2013-01-01 00:00:00+00"}


# ── errors ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SELECT tmp FROM weather", '"tmp" not found in FROM clause! Candidate bindings: "temp"'),
        ("SELECT foo(1)", "Function with name foo does not exist"),
        ("SELECT origin::INT FROM weather", "Could not convert string 'JFK' to INT32"),
        ("SELECT 9223372036854775807 + 1", "Overflow"),
        ("SELECT error('boo')", "boo"),
        ("SELECT write_seq FROM weather", '"write_seq" not found'),
        ("SELECT __key_hash FROM weather", '"__key_hash" not found'),
        ("SELECT __stores FROM history.weather", '"__stores" not found'),
        ("SELECT (SELECT 1 UNION ALL SELECT 2)", "More than one row"),
    ],
)
def test_errors_are_sentences(files: Files, text: str, says: str) -> None:
    files.write("flush", [JFK_1])
    with pytest.raises(InvalidQuery) as caught:
        query(Provider(files.snapshot()), text)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert "LINE 1" not in message
    assert "Error:" not in message
    assert message[-1] in ".!?"


@pytest.mark.parametrize("first", [True, False])
def test_a_damaged_file_is_no_fault_of_the_query(files: Files, first: bool) -> None:
    # DuckDB opens the first file when the view is made, and the others when they are read.
    one, two = files.write("flush", [JFK_1]), files.write("flush", [EWR_3])
    path = files.root / (one if first else two).path
    whole = path.read_bytes()
    for damaged in (whole[:-20], b"", whole[:4] + b"x" * (len(whole) - 8) + whole[-4:]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptStore, match="verify"):
            query(Provider(files.snapshot()), "FROM weather")
    path.unlink()
    with pytest.raises(CorruptStore, match=path.name):
        query(Provider(files.snapshot()), "FROM weather")
    path.write_bytes(whole)
    assert len(query(Provider(files.snapshot()), "FROM weather")) == 2


def test_control_c_stops_a_query() -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    # DuckDB looks up between steps only; this query has many.
    long = "WITH RECURSIVE r AS (SELECT 1 a UNION ALL SELECT a + 1 FROM r WHERE a < 300000) FROM r"
    with pytest.raises(KeyboardInterrupt):
        query(Provider(), long)
    timer.join()


# ── connections ──────────────────────────────────────────────────────────────────────────────


def test_nothing_is_left_behind(files: Files) -> None:
    files.write("flush", [JFK_1])
    snapshot = files.snapshot(tail=[EWR_3])
    mine = pa.table({"a": [1]})
    served = pa.table({"origin": ["JFK"], "time_hour": pa.array([at(0)], UTC_US), "temp": [1.0]})
    held = [weakref.ref(mine), weakref.ref(snapshot.tail), weakref.ref(served)]
    text = "SELECT count(*) AS n FROM weather, history.weather, latest.weather, mine"
    provider = Provider(Source(snapshot, served))
    assert query(provider, text, tables={"mine": mine}) == [{"n": 4}]
    with pytest.raises(InvalidQuery):
        query(provider, text + " WHERE nothing", tables={"mine": mine})
    del mine, served, snapshot, provider
    gc.collect()
    assert [ref() for ref in held] == [None] * 3
    with sql_session._pool.borrow(kept=True) as connection:
        assert connection.sql("SELECT * FROM duckdb_views() WHERE NOT internal").fetchall() == []


def test_connections_are_used_again_after_errors_of_the_user(files: Files) -> None:
    files.write("flush", [JFK_1])
    provider = Provider(files.snapshot())
    query(provider, "FROM weather")
    with sql_session._pool.borrow(kept=True) as connection:
        before = connection
    for text in ("SELECT nothing FROM weather", "selec", "SELECT origin::INT FROM weather"):
        with pytest.raises(InvalidQuery):
            query(provider, text)
    with sql_session._pool.borrow(kept=True) as connection:
        assert connection is before


def test_a_connection_that_failed_is_not_used_again() -> None:
    with pytest.raises(ZeroDivisionError), sql_session._pool.borrow(kept=True) as failed:
        raise ZeroDivisionError
    with sql_session._pool.borrow(kept=True) as connection:
        assert connection is not failed


def test_settings() -> None:
    with sql_session._pool.borrow(kept=True) as connection:
        settings_ = dict(connection.sql("SELECT name, value FROM duckdb_settings()").fetchall())
    assert settings_["autoinstall_known_extensions"] == "false"
    assert settings_["autoload_known_extensions"] == "false"
    assert settings_["python_enable_replacements"] == "false"
    assert settings_["threads"] == "2"
    assert settings_["TimeZone"] == "UTC"
    assert Path(settings_["temp_directory"]).is_absolute()


def test_many_threads_see_their_own_groups(tmp_path: Path) -> None:
    providers = []
    for number in range(6):
        files = Files(tmp_path / str(number))
        files.write("flush", [replace(JFK_1, temp=float(number))])
        providers.append(Provider(files.snapshot(tail=[replace(EWR_3, temp=float(number))])))
    wrong: list[object] = []

    def work(number: int) -> None:
        for _ in range(10):
            rows = query(providers[number], "SELECT DISTINCT temp FROM weather")
            if rows != [{"temp": float(number)}]:
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(sql_session._pool._idle) <= sql_session.IDLE_CONNECTIONS_MAX


def test_a_forked_child_makes_its_own_connections(files: Files) -> None:
    files.write("flush", [JFK_1])
    provider = Provider(files.snapshot())
    query(provider, "FROM weather")
    assert sql_session._pool._idle
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: on purpose
        child = os.fork()
    if child == 0:
        try:
            assert sql_session._pool._idle == []
            assert len(query(provider, "FROM weather")) == 1
            os._exit(0)
        except BaseException:  # noqa: BLE001
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_duckdb_is_not_told_of_nan(files: Files) -> None:
    files.write("flush", [Row("JFK", 1, 1, math.nan), Row("JFK", 2, 2, None)])
    rows = query(Provider(files.snapshot()), "SELECT temp FROM weather ORDER BY time_hour")
    assert math.isnan(rows[0]["temp"])
    assert rows[1]["temp"] is None


def test_the_version_of_duckdb_is_one_we_know() -> None:
    assert duckdb.__version__.split(".")[0] == "2"
