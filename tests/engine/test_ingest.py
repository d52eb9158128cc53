"""Bulk ingest: slices that let go of the lock, streams of any kind, and being sent again.

What ends up in a store is the laws' business (``test_laws``, ``test_state_machine``); here it is
how it gets there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.engine import chunks, content, ingest, sources, staging
from featurestore.engine.content import digest_columns
from featurestore.engine.progress import Line
from featurestore.storage import manifest, parquet, seam
from tests.encoding.strategies import ALL_TYPES, EXTREMES, column, dtypes, physical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = datetime(2024, 7, 1, 12, tzinfo=UTC)
START_US = int((NOW - timedelta(days=30)).timestamp() * 1e6)
FEATURES = {"k": "int64", "t": "timestamp", "x": "float64", "name": "string"}


@pytest.fixture(autouse=True)
def a_few_thousand_rows_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "JOURNAL_ROWS_MAX", 4096)


def table_of(rows: int, keys: int, seed: int = 0) -> pa.Table:
    """Return rows of some keys in no order, nulls among them, all times of a key distinct."""
    chance = np.random.default_rng(seed)
    places = chance.permutation(rows)
    times = pa.array(START_US + places * 1_000_000).view(pa.timestamp("us", tz="UTC"))
    names = pa.array([None if i % 7 == 0 else f"n{i % 13}" for i in range(rows)], pa.string())
    return pa.table(
        {"k": places % keys, "t": times, "x": pa.array(chance.random(rows)), "name": names}
    )


@pytest.fixture
def store(open_store: Callable[..., fs.FeatureStore]) -> fs.FeatureStore:
    """Give a store with an empty group."""
    return create(open_store(clock=lambda: NOW))


def create(store: fs.FeatureStore, name: str = "g", **options: Any) -> fs.FeatureStore:
    """Create a group of the table's columns."""
    store.create_feature_group(
        name, record_identifier="k", event_time="t", features=FEATURES, **options
    )
    return store


def holds(store: fs.FeatureStore, table: pa.Table, name: str = "g") -> None:
    """Fail unless history is the table, and online each key's newest row."""
    newest = table.sort_by("t").to_pylist()
    found = store.sql(f"SELECT k, t, x, name FROM history.{name} ORDER BY t, k")
    assert found.to_pylist() == sorted(newest, key=lambda row: (row["t"], row["k"]))
    holds_online(store, table, name)


def holds_online(store: fs.FeatureStore, table: pa.Table, name: str = "g") -> None:
    """Fail unless the online store has each key's newest row."""
    newest = {row["k"]: row for row in table.sort_by("t").to_pylist()}
    assert {row["k"]: row for row in store.scan(name)} == newest


# ── the same content has the same digest, whatever it lies in ────────────────────────────────


@given(st.data())
def test_a_digest_is_of_the_content(data: st.DataObject) -> None:
    [dtype] = dtypes([data.draw(st.sampled_from(ALL_TYPES))])
    values = data.draw(st.lists(st.none() | physical(dtype), min_size=1, max_size=9))
    array = column(dtype, values)
    before, after = (data.draw(st.lists(physical(dtype), max_size=3)) for _ in range(2))
    within = column(dtype, [*before, *values, *after]).slice(len(before), len(values))
    cut = data.draw(st.integers(0, len(values)))
    parts = pa.concat_arrays([array[:cut], array[cut:]])
    digests = {_digest(same) for same in (array, within, parts)}
    assert len(digests) == 1
    other = data.draw(st.lists(st.none() | physical(dtype), min_size=1, max_size=9))
    if str(other) != str(values):  # text tells 0.0 from -0.0, and nan from nan not
        same = column(dtype, other).equals(array)
        assert (_digest(column(dtype, other)) in digests) <= same


def _digest(array: pa.Array) -> bytes:
    return digest_columns({"c": array}, str(len(array)).encode())


def test_what_lies_under_a_null_is_not_digested() -> None:
    valid = pa.py_buffer(b"\x02")
    numbers = pa.Array.from_buffers(pa.int64(), 2, [valid, pa.py_buffer(np.array([77, 5]))])
    offsets = pa.py_buffer(np.array([0, 7, 8], np.int32))
    texts = pa.Array.from_buffers(pa.string(), 2, [valid, offsets, pa.py_buffer(b"garbagex")])
    assert digest_columns({"c": numbers}) == digest_columns({"c": pa.array([None, 5])})
    assert digest_columns({"c": texts}) == digest_columns({"c": pa.array([None, "x"])})


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of plain Python: wrapping is meant
@pytest.mark.parametrize("rows", [255, 256, 300])
def test_a_digest_of_long_runs_is_of_the_content(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(content, "SUMS_FROM_BYTES", 1024)

    def digest(texts: list[str], numbers: list[int], secret: bytes = b"s", skipped: int = 0) -> Any:
        columns = {
            "t": pa.array(["x"] * skipped + texts)[skipped:],
            "n": pa.array([7] * skipped + numbers)[skipped:],
        }
        return digest_columns(columns, secret=secret)

    texts, numbers = [f"{row:05}" for row in range(rows)], list(range(rows))
    first = digest(texts, numbers)
    assert digest(texts, numbers, skipped=3) == first
    others = [digest(texts, numbers, b"t"), digest_columns({"t": pa.array(texts)})]
    for row in (0, rows // 2, rows - 1):
        others.append(digest([*texts[:row], "other", *texts[row + 1 :]], numbers))
        others.append(digest(texts, [*numbers[:row], -1, *numbers[row + 1 :]]))
    assert len({first, *others}) == 1 + len(others)


def test_neither_names_nor_lengths_run_into_each_other() -> None:
    tables: list[dict[str, pa.Array]] = [
        {"a": pa.array(["b", "c"])},
        {"a": pa.array(["bc", ""])},
        {"ab": pa.array(["", "bc"])},
        {"a": pa.array([["b", "c"], []])},
        {"a": pa.array([["b"], ["c"]])},
        {"a": pa.array([b"b", b"c"])},
        {"a": pa.array([1, 2])},
        {"a": pa.array([1, 2], pa.int32())},
        {"a": pa.array([1, 2]), "b": pa.array([1, 2])},
        {"a": pa.array([True, False])},
        {"a": pa.array([None, 1])},
        {"a": pa.array([1, None])},
    ]
    assert len({digest_columns(table) for table in tables}) == len(tables)


# ── slices ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stores", [["online", "offline"], ["online"], ["offline"]])
def test_a_large_table_comes_in_slices_and_others_write_between_them(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch, stores: list[str]
) -> None:
    monkeypatch.setattr(staging, "SLICE_KEYS_MAX", 300)
    table = table_of(9000, 1000)
    create(store, "other")
    between: list[tuple[int, int]] = []

    def put(rows: int) -> None:
        record = {"k": len(between), "t": NOW, "x": 1.0, "name": "p"}
        between.append((rows, store.put_record("other", record).seq))

    result = store.ingest("g", table, max_lock="1h", progress=put, target_stores=stores)
    assert result == fs.IngestResult(accepted=9000)
    moving = [2700, 5400, 8100] if "online" in stores else []  # else one slice is light enough
    assert [rows for rows, _ in between] == [*moving, 9000]
    # Each put came after the rows that were in, and before the others.
    assert [seq for _, seq in between] == [rows + n for n, (rows, _) in enumerate(between, 1)]
    if "offline" in stores:
        found = store.sql("SELECT k, t, x, name FROM history.g ORDER BY t").to_pylist()
        assert found == table.sort_by("t").to_pylist()
    if "online" in stores:
        holds_online(store, table)


def test_keys_come_whole_and_ties_in_the_order_of_the_input(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "SLICE_KEYS_MAX", 1)
    monkeypatch.setattr(ingest, "JOURNAL_ROWS_MAX", 10)
    at = pa.array([START_US] * 60).view(pa.timestamp("us", tz="UTC"))
    table = pa.table({"k": np.arange(60) % 4, "t": at, "x": np.arange(60.0)})
    seen = []

    def look(_rows: int) -> None:
        count = "SELECT k, count(*) n FROM history.g GROUP BY 1"
        seen.append({row["n"] for row in store.sql(count).to_pylist()})

    store.ingest("g", table, max_lock="1h", progress=look)
    assert seen == [{15}] * 4
    assert [row["x"] for row in store.sql("SELECT x FROM g ORDER BY k").to_pylist()] == [
        56.0, 57.0, 58.0, 59.0,
    ]  # fmt: skip
    assert {row["x"] for row in store.scan("g")} == {56.0, 57.0, 58.0, 59.0}


def test_one_transaction_is_numbered_as_the_input_was(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "SLICE_KEYS_MAX", 1)
    table = table_of(6000, 50)
    seen: list[int] = []
    store.ingest("g", table, atomic=True, progress=seen.append)
    assert seen == [6000]
    found = store.sql("SELECT k, t, x, name, write_seq FROM history.g ORDER BY write_seq")
    assert found.drop_columns(["write_seq"]).to_pylist() == table.to_pylist()
    assert found["write_seq"].to_pylist() == list(range(1, 6001))


def test_the_lock_is_left_alone_for_as_long_as_it_was_held(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that takes 50 ms makes slices smaller, and pauses longer."""
    held: list[tuple[float, float]] = []

    def slow_commit(name: str, _path: str, do: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if name == "commit":
            begun = time.monotonic()
            time.sleep(0.05)
            held.append((begun, time.monotonic()))
        return do(*args)

    monkeypatch.setattr(store._database, "keys_per_second", 100_000.0)
    monkeypatch.setattr(staging, "SLICE_KEYS_MIN", 40)
    monkeypatch.setattr(seam, "on_call", slow_commit)
    rows: list[int] = []
    store.ingest("g", table_of(9000, 9000), max_lock="80ms", progress=rows.append)
    monkeypatch.undo()
    slices = np.diff([0, *rows])
    assert slices[0] == 4000  # in half of 80 ms, at the pace assumed
    assert 40 <= slices[1] <= 3200  # at the pace that was found
    ends = np.array([end for _, end in held[-len(rows) :]])
    begins = np.array([begin for begin, _ in held[-len(rows) :]])
    assert (begins[1:] - ends[:-1] >= 0.05).all()
    holds(store, table_of(9000, 9000))


@pytest.mark.parametrize("sorted_by", [None, "t"])
def test_every_type_comes_through_a_large_ingest(
    open_store: Callable[..., fs.FeatureStore],
    monkeypatch: pytest.MonkeyPatch,
    sorted_by: str | None,
) -> None:
    """In many row groups and slices, with nulls, and of slices of arrays."""
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 900)
    monkeypatch.setattr(ingest, "JOURNAL_ROWS_MAX", 100)
    store = open_store(clock=lambda: NOW)
    features = {"k": "int64", "t": "timestamp", "moment": "timestamp", "whole": "int64"}
    features |= {f"v{i}": name for i, name in enumerate(ALL_TYPES)}
    store.create_feature_group("g", record_identifier="k", event_time="t", features=features)
    chance = np.random.default_rng(3)
    table = table_of(5000, 100).select(["k", "t"]).append_column(
        "moment", pa.array(chance.integers(0, 2**50, 5000)).view(pa.timestamp("us", tz="UTC"))
    ).append_column("whole", pa.array(chance.integers(-(2**63), 2**63 - 1, 5000)))  # fmt: skip
    for i, dtype in enumerate(dtypes(ALL_TYPES)):
        element = str(dtype.element or dtype)
        some = [v for v in EXTREMES[element] if v == v]  # noqa: PLR0124  nan is not equal to itself
        values = [None if (at * 7 + i) % 5 == 0 else some[at % len(some)] for at in range(5000)]
        if dtype.kind == "list":
            values = [None if v is None else [v, None] for v in values]
        elif dtype.kind == "vector":
            values = [None if v is None else [v] * dtype.length for v in values]
        table = table.append_column(f"v{i}", column(dtype, values))
    table = table.slice(300)
    table = table.sort_by(sorted_by) if sorted_by else table
    store.ingest("g", table)
    expected = table.sort_by([("t", "ascending")])
    found = store.sql(f"SELECT {', '.join(table.column_names)} FROM history.g ORDER BY t")
    assert found.to_pylist() == expected.to_pylist()
    online = store.batch_get_record({"g": [7, 99]})["g"].select(table.column_names).to_pylist()
    newest = {row["k"]: row for row in expected.to_pylist()}
    assert online == [newest[7], newest[99]]


@pytest.mark.parametrize("rows", [1000, 6000])  # through the journal, and in slices
def test_of_two_tables_the_newer_row_is_online_and_at_one_time_the_later(
    store: fs.FeatureStore, rows: int
) -> None:
    first = table_of(rows, rows)
    minutes = np.arange(rows) % 3 - 1  # older, the same, newer
    shifted = pc.add(first.column("t"), pa.array(minutes * 60_000_000, pa.duration("us")))
    second = first.set_column(first.column_names.index("t"), "t", shifted)
    second = second.set_column(
        second.column_names.index("x"), "x", pc.negate(pc.add(second.column("x"), 1))
    )
    assert store.ingest("g", first).late == 0
    assert store.ingest("g", second).late == int((minutes < 0).sum())
    online = store.batch_get_record({"g": first.column("k").to_pylist()})["g"]
    newer = pa.array(minutes >= 0)
    assert online.column("x").combine_chunks() == pc.if_else(
        newer, second.column("x").combine_chunks(), first.column("x").combine_chunks()
    )


def test_max_lock_is_a_duration(store: fs.FeatureStore) -> None:
    with pytest.raises(fs.InvalidInput, match="max_lock"):
        store.ingest("g", table_of(5, 5), max_lock=50)  # type: ignore[arg-type]


# ── sent again ───────────────────────────────────────────────────────────────────────────────


def killed_at(path: Path, slice_number: int, options: dict[str, Any]) -> None:
    """Ingest in a process of its own, which kills itself after a slice."""
    ingest.JOURNAL_ROWS_MAX = 4096
    staging.SLICE_KEYS_MAX = 100  # and max_lock long enough for them
    options["max_lock"] = "1h"
    slices = []

    def kill(_rows: int) -> None:
        slices.append(1)
        if len(slices) == slice_number:
            os.kill(os.getpid(), signal.SIGKILL)

    with fs.open(path, clock=lambda: NOW) as store:
        store.ingest("g", table_of(6000, 400), id="load", progress=kill, **options)


@pytest.mark.parametrize("stores", [["online", "offline"], ["online"]])
@pytest.mark.parametrize("slice_number", [1, 3])
def test_after_a_kill_the_same_id_goes_on(
    tmp_path: Path, slice_number: int, stores: list[str]
) -> None:
    path = tmp_path / "store"
    with fs.open(path, clock=lambda: NOW) as store:
        create(store, ttl="60d")
    options = {"target_stores": stores}
    victim = multiprocessing.get_context("spawn").Process(
        target=killed_at, args=(path, slice_number, options)
    )
    victim.start()
    victim.join(120)
    assert victim.exitcode == -signal.SIGKILL
    # Much later, by another clock, with another TTL and a feature more.
    later = NOW + timedelta(hours=23)
    with fs.open(path, clock=lambda: later) as store:
        assert store.verify() == []
        store.update_feature_group("g", ttl="50d", add_features={"more": "int8"})
        with pytest.raises(fs.RequestMismatch, match='"load" was used'):
            store.ingest("g", table_of(6000, 400, seed=1), id="load", **options)
        result = store.ingest("g", table_of(6000, 400), id="load", **options)
        assert result.replayed == 1500 * slice_number
        assert result.accepted == 6000 - result.replayed
        assert store.ingest("g", table_of(6000, 400), id="load", **options).replayed == 6000
        assert store.verify() == []
        online = {row["k"]: row["t"] for row in store.scan("g")}
        newest = {row["k"]: row["t"] for row in table_of(6000, 400).sort_by("t").to_pylist()}
        assert online == newest
        if "offline" in stores:
            assert store.sql("SELECT count(*) n FROM history.g").to_pylist() == [{"n": 6000}]
        store.compact()
        assert store.verify() == []


@pytest.mark.parametrize("load", ["load", None])
@pytest.mark.parametrize("last_slice", [1, 99])
def test_what_a_version_before_the_sums_began_or_finished_is_known(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch, load: str | None, last_slice: int
) -> None:
    """It had another digest of the same content; see ``content``."""
    monkeypatch.setattr(staging, "SLICE_KEYS_MAX", 300)

    def ingest_it(seed: int = 0, **options: Any) -> fs.IngestResult:
        return store.ingest("g", table_of(9000, 1000, seed), id=load, max_lock="1h", **options)

    slices = []

    def fall(_rows: int) -> None:
        slices.append(1)
        if len(slices) == last_slice:
            raise KeyboardInterrupt

    monkeypatch.setattr(content, "SUMS_FROM_BYTES", 1 << 60)
    with contextlib.suppress(KeyboardInterrupt):
        ingest_it(progress=fall)
    rows_in = 2700 if last_slice == 1 else 9000
    monkeypatch.setattr(content, "SUMS_FROM_BYTES", 1024)
    if load is not None:
        with pytest.raises(fs.RequestMismatch):
            ingest_it(seed=1)
    result = ingest_it()
    assert (result.replayed, result.accepted) == (rows_in, 9000 - rows_in)
    assert not any(entry.request for entry in files_of(store))
    store.compact()
    assert ingest_it() == fs.IngestResult(replayed=9000)
    assert store.verify() == []
    holds(store, table_of(9000, 1000))


def files_of(store: fs.FeatureStore) -> list[manifest.FileEntry]:
    """Return the files of all groups."""
    with store._database.read() as txn:
        return manifest.all_live_files(store._database.env, txn)


@pytest.mark.parametrize("rows", [10, 6000])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_what_was_accepted_is_not_held_to_a_clock_again(
    open_store: Callable[..., fs.FeatureStore], rows: int, on_error: str
) -> None:
    """The first try had a clock that was ahead."""
    clock = [NOW + timedelta(days=9)]
    store = create(open_store(clock=lambda: clock[0]), max_future="1h")
    soon = NOW + timedelta(days=9, minutes=30)
    future = [{"k": 1, "t": soon, "x": 1.0, "name": "soon"}]
    if on_error == "skip":
        future.append({"k": 2, "t": soon + timedelta(hours=12), "x": 1.0, "name": "too soon"})
        future.append({"k": 2, "t": None, "x": 1.0, "name": "never"})
    more = pa.Table.from_pylist(future, table_of(1, 1).schema)
    table = pa.concat_tables([table_of(rows, 100), more])
    refused = len(future) - 1
    first = store.ingest("g", table, on_error=on_error)
    assert (first.accepted, first.rejected) == (rows + 1, refused)
    clock[0] = NOW
    again = store.ingest("g", table, on_error=on_error)
    assert (again.replayed, again.accepted, again.rejected) == (rows + 1, 0, refused)
    if on_error == "raise":
        with pytest.raises(fs.InvalidEventTime, match="in the future"):
            store.ingest("g", table.slice(1))
    clock[0] = NOW + timedelta(
        days=9, hours=20
    )  # nothing is too soon now, and yet it is the same ingest
    again = store.ingest("g", table, on_error=on_error)
    assert (again.replayed, again.accepted, again.rejected) == (rows + 1, 0, refused)


# ── every shape ──────────────────────────────────────────────────────────────────────────────


def written(table: pa.Table, folder: Path) -> dict[str, Any]:
    """Return a table in every shape that a store takes."""
    for name, part in (("b", table.slice(5000)), ("a", table.slice(0, 5000))):
        (folder / "many" / name).mkdir(parents=True)
        pq.write_table(part, folder / "many" / name / "part.parquet", row_group_size=700)
    (folder / "many" / "_SUCCESS.csv").write_text("not,data\n")
    (folder / "many" / ".hidden.parquet").write_bytes(b"not data")
    pq.write_table(table, folder / "one.parquet")
    # An empty text is quoted, and what is not there is not.
    pyarrow.csv.write_csv(table, folder / "one.csv")
    pyarrow.feather.write_feather(table, str(folder / "one.feather"), compression="uncompressed")
    frame = table.to_pandas()
    (folder / "one.jsonl").write_text(
        frame.to_json(
            orient="records", lines=True, date_format="iso", date_unit="us", double_precision=15
        )
    )
    parts = [folder / "many" / name / "part.parquet" for name in "ab"]
    relation = duckdb.from_arrow(table)
    return {
        "arrow": table,
        "batch": table.combine_chunks().to_batches()[0],
        "pandas": frame,
        "pandas arrow": table.to_pandas(types_mapper=pd.ArrowDtype),
        "polars": pl.from_arrow(table),
        "dicts": table.to_pylist(),
        "tuple of dicts": tuple(table.to_pylist()),
        "iterator of dicts": iter(table.to_pylist()),
        "parquet": folder / "one.parquet",
        "parquet text": str(folder / "one.parquet"),
        "paths": parts,
        "iterator of paths": iter(parts),
        "folder": folder / "many",
        "pattern": str(folder / "many" / "*" / "*.parquet"),
        "csv": folder / "one.csv",
        "json lines": folder / "one.jsonl",
        "feather": folder / "one.feather",
        "reader": table.to_reader(max_chunksize=333),
        "generator of tables": (table.slice(at, 450) for at in range(0, table.num_rows, 450)),
        "generator of frames": (frame[at : at + 4500] for at in range(0, table.num_rows, 4500)),
        "relation": relation,
        "DuckDB reader": relation.to_arrow_reader(1000),
    }


SHAPES = [
    "arrow", "batch", "pandas", "pandas arrow", "polars", "dicts", "tuple of dicts",
    "iterator of dicts", "parquet", "parquet text", "paths", "iterator of paths", "folder",
    "pattern", "csv", "json lines", "feather", "reader", "generator of tables",
    "generator of frames", "relation", "DuckDB reader",
]  # fmt: skip


@pytest.mark.parametrize("chunk_rows", [1000, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_comes_in_whole(
    store: fs.FeatureStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    chunk_rows: int,
) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(sources, "CHUNK_DICTS", chunk_rows)
    monkeypatch.setattr(sources, "_BATCH_ROWS", 512)
    table = table_of(9000, 700)
    assert sorted(written(table, tmp_path)) == sorted(SHAPES)
    (tmp_path / "again").mkdir()
    result = store.ingest("g", written(table, tmp_path / "again")[shape])
    assert result == fs.IngestResult(accepted=9000, late=result.late)
    if shape != "json lines":  # its floats have 15 digits
        holds(store, table)


def test_text_is_read_as_the_group_has_it(
    open_store: Callable[..., fs.FeatureStore], tmp_path: Path
) -> None:
    store = open_store(clock=lambda: NOW)
    store.create_feature_group(
        "zips",
        record_identifier="zip",
        event_time="t",
        features={"zip": "string", "t": "timestamp", "n": "int64", "tags": "list<string>"},
    )
    (tmp_path / "z.csv").write_text("zip,t,n\n00501,2024-01-01T00:00:00Z,1\n")
    (tmp_path / "z.jsonl").write_text(
        '{"zip": "10001", "t": "2024-01-01T00:00:00Z", "n": 9007199254740993, "tags": ["a"]}\n'
    )
    store.ingest("zips", [tmp_path / "z.csv", tmp_path / "z.jsonl"])
    assert store.get_record("zips", "00501")["n"] == 1
    assert store.get_record("zips", "10001")["n"] == 9007199254740993
    assert store.get_record("zips", "10001")["tags"] == ["a"]


def test_a_folder_without_data_says_so(store: fs.FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(fs.InvalidInput, match="folder in which there is no file"):
        store.ingest("g", tmp_path)
    with pytest.raises(fs.InvalidInput, match="No file is called like"):
        store.ingest("g", str(tmp_path / "*.parquet"))


# ── streams longer than memory ───────────────────────────────────────────────────────────────

STREAM_ROWS = 1_500_000


def stream_batches() -> Iterator[pa.RecordBatch]:
    """Yield 72 MB of rows."""
    for start in range(0, STREAM_ROWS, 50_000):
        places = np.arange(start, start + 50_000)
        yield pa.record_batch(
            {
                "k": places % 1000,
                "t": pa.array(START_US + places).view(pa.timestamp("us", tz="UTC")),
                "x": np.sqrt(places),
                "name": pa.array(["a name of sixteen"]).take(pa.array(np.zeros(50_000, np.int64))),
            }
        )


def ingest_a_stream(path: Path, shape: str, folder: Path) -> int:
    """Ingest it in small chunks; returns the most memory Arrow ever held meanwhile."""
    batches = stream_batches()
    schema = next(stream_batches()).schema
    source = folder / f"big.{shape}"
    if shape == "parquet":  # all in one row group
        pq.write_table(pa.Table.from_batches(batches), source, row_group_size=STREAM_ROWS)
    elif shape == "csv":
        with pyarrow.csv.CSVWriter(source, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    data = {
        "parquet": lambda: source,
        "csv": lambda: source,
        "reader": lambda: pa.RecordBatchReader.from_batches(schema, batches),
        "iterator": lambda: (pa.table(batch) for batch in batches),
        "relation": lambda: duckdb.sql(
            f"SELECT i % 1000 AS k, to_timestamp({START_US / 1e6}) + i * INTERVAL 1 MICROSECOND "
            f"AS t, sqrt(i) AS x, 'a name of sixteen' AS name FROM range({STREAM_ROWS}) r(i)"
        ),
    }[shape]()
    sources.CHUNK_ROWS = 100_000
    sources._CSV_BLOCK_BYTES = 1 << 16  # Arrow reads some forty blocks ahead
    pool = pa.default_memory_pool()
    peaks = []
    with fs.open(path, clock=lambda: NOW) as store:
        create(store)
        held = pool.bytes_allocated()

        def look(_rows: int) -> None:
            peaks.append(pool.bytes_allocated() - held)

        assert store.ingest("g", data, progress=look).accepted == STREAM_ROWS
        count = store.sql("SELECT count(*) n, count(DISTINCT k) k, sum(x) x FROM history.g")
        assert [(row["n"], row["k"]) for row in count.to_pylist()] == [(STREAM_ROWS, 1000)]
    return max(peaks)


@pytest.mark.parametrize("shape", ["parquet", "csv", "reader", "iterator", "relation"])
def test_a_stream_takes_the_memory_of_some_chunks(tmp_path: Path, shape: str) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        peak = process.apply(ingest_a_stream, (tmp_path / "store", shape, tmp_path))
    whole = sum(batch.nbytes for batch in stream_batches())
    assert peak < whole / 3


# ── iterators that take their time ───────────────────────────────────────────────────────────


def wait_until(store: fs.FeatureStore, rows: int) -> None:
    """Look until so many rows are visible."""
    for _ in range(600):
        if store.sql("SELECT count(*) n FROM history.g").to_pylist()[0]["n"] >= rows:
            return
        time.sleep(0.05)
    pytest.fail(f"{rows} rows never became visible")


def record(k: int) -> dict[str, Any]:
    """Return a record of a key."""
    return {"k": k, "t": NOW - timedelta(minutes=k), "x": k / 2, "name": "r"}


@pytest.mark.parametrize("load", ["load", None])
@pytest.mark.parametrize("tables", [False, True])
def test_what_has_come_is_visible_while_the_next_is_waited_for(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch, load: str | None, tables: bool
) -> None:
    monkeypatch.setattr(chunks, "OPEN_SECONDS", 0.1)

    def items(*, slow: bool) -> Iterator[Any]:
        for part in (range(3), range(3, 4), range(4, 9)):
            rows = [record(k) for k in part]
            yield from [pa.Table.from_pylist(rows)] if tables else rows
            if slow:
                wait_until(store, part.stop)  # it would wait for ever if rows were held back

    seen: list[int] = []
    assert store.ingest("g", items(slow=True), id=load, progress=seen.append).accepted == 9
    assert seen[-1] == 9
    assert len(seen) >= 3
    # Sent again at another pace it is cut in the same places, and nothing is added.
    again = store.ingest("g", items(slow=False), id=load)
    assert (again.accepted, again.replayed) == (0, 9)
    assert store.sql("SELECT count(*) n FROM history.g").to_pylist() == [{"n": 9}]


def test_an_iterator_runs_in_the_thread_of_its_caller(store: fs.FeatureStore) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE r (k)")
        connection.executemany("INSERT INTO r VALUES (?)", [(k,) for k in range(20)])
        # sqlite3 refuses every other thread.
        rows = (record(k) for (k,) in connection.execute("SELECT k FROM r"))
        assert store.ingest("g", rows).accepted == 20


def test_a_bad_row_ends_a_slow_iterator(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "OPEN_SECONDS", 0.05)
    asked: list[int] = []

    def items() -> Iterator[dict[str, Any]]:
        for k in range(3):
            yield record(k)
        wait_until(store, 3)
        yield {**record(3), "x": "no number"}
        for k in range(4, 10_000):
            asked.append(k)
            time.sleep(0.01)
            yield record(k)

    with pytest.raises(fs.InvalidRecord, match="row 3") as caught:
        store.ingest("g", items())
    assert caught.value.accepted == 3
    assert asked[-1] < 9_999
    assert store.sql("SELECT count(*) n FROM history.g").to_pylist() == [{"n": 3}]


def test_rows_left_out_do_not_move_the_cuts(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CHUNK_DICTS", 2)
    rows = [record(k) for k in range(8)]
    for k in (2, 3, 6):
        rows[k] = {**rows[k], "x": "no number"}
    first = store.ingest("g", iter(rows), on_error="skip")
    assert (first.accepted, first.rejected) == (5, 3)
    monkeypatch.setattr(sources, "CHUNK_DICTS", 100)
    again = store.ingest("g", iter(rows), on_error="skip")
    assert (again.accepted, again.replayed, again.rejected) == (0, 5, 3)


# ── progress ─────────────────────────────────────────────────────────────────────────────────


class Terminal:
    """A stream that is looked at."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_a_long_ingest_shows_a_line_and_wipes_it(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Line.__init__, "__defaults__", (0.0,))
    monkeypatch.setattr("featurestore.engine.progress.REDRAW_SECONDS", 0.0)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    store.ingest("g", table_of(9000, 10))
    assert "g: 9,000 written" in terminal.text
    assert "g: 9,000 rows in" in terminal.text
    assert terminal.text.endswith(" \r")
    terminal.text = ""
    store.ingest("g", table_of(9000, 11), progress=False)
    store.ingest("g", table_of(9000, 12), progress=lambda _: None)
    assert terminal.text == ""
