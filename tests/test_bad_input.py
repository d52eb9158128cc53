"""How bad input is met: the right error, in words that help, and nothing half-applied.

Each refusal below is a line: what is done, which error it must be, and words its sentence must hold
(what was wrong by name, and what to do).  Around each of them the store is looked at from every
side; it must be the same before and after, and take the next write.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import featurestore as fs
from featurestore.engine import upkeep
from tests.small_world import fresh_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW = datetime(2013, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def store() -> Iterator[fs.FeatureStore]:
    """Give a store with two groups, a record, and a feature view; sound when it comes back."""
    with fresh_store(clock=lambda: NOW) as store:
        furnish(store)
        yield store


def furnish(store: fs.FeatureStore) -> None:
    """Put the two groups, the record and the feature view into a store."""
    store.create_feature_group(
        "weather",
        record_identifier="origin",
        event_time="time_hour",
        features={
            "origin": "string",
            "time_hour": "timestamp",
            "temp": "float64",
            "wind": "int32",
            "note": "string",
            "raw": "binary",
            "day": "date",
            "gusts": "list<int64>",
            "image": "vector<float32, 2>",
        },
    )
    store.create_feature_group(
        "legs",
        record_identifier=["carrier", "flight"],
        event_time="at",
        features={"carrier": "string", "flight": "int64", "at": "timestamp", "late": "bool"},
    )
    store.put_record("weather", good())
    store.create_feature_view("late_flights", ["weather:temp"])


def good(**values: Any) -> dict[str, Any]:
    """Return a record that fits, with some values of another kind."""
    return {"origin": "JFK", "time_hour": NOW - HOUR, "temp": 39.0, **values}


def without(name: str) -> dict[str, Any]:
    """Return a record that fits but for what it lacks."""
    record = good()
    del record[name]
    return record


def looked_at(store: fs.FeatureStore) -> dict[str, Any]:
    """Return what a store holds, from every side."""
    root = Path(store.path)
    return {
        "seq": store.snapshot(),
        "groups": [repr(g) for g in store.list_feature_groups()],
        "views": [repr(v) for v in store.list_feature_views()],
        "history": store.sql("SELECT * FROM history.weather ORDER BY write_seq").to_pylist(),
        "legs": store.sql("SELECT * FROM history.legs ORDER BY write_seq").to_pylist(),
        "online": [repr(r) for r in store.scan("weather")],
        "files": sorted(str(p.relative_to(root)) for p in root.glob("data/**/*") if p.is_file()),
    }


@contextlib.contextmanager
def refused(store: fs.FeatureStore, error: type[Exception], *words: str) -> Iterator[Any]:
    """Expect an error with these words, from a store that stays as it was and goes on working."""
    before = looked_at(store)
    with pytest.raises(error) as caught:
        yield caught
    assert type(caught.value) is error, repr(caught.value)
    sentence = str(caught.value)
    assert not [word for word in words if word.lower() not in sentence.lower()], sentence
    assert looked_at(store) == before
    assert store.put_record("weather", good(origin="LGA", temp=before["seq"])).outcome == "moved"


# ── one record ───────────────────────────────────────────────────────────────────────────────

PUTS: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "a feature that is not there": (
        good(tmep=1.0), fs.UnknownFeature, ["tmep", "weather", 'did you mean "temp"']),
    "text for a number": (good(temp="cold"), fs.InvalidRecord, ["temp", "float64", "cold"]),
    "a number for text": (good(note=5), fs.InvalidRecord, ["note", "string", "int"]),
    "a bool for a number": (good(wind=True), fs.InvalidRecord, ["wind", "int32", "bool"]),
    "a fraction for an int": (good(wind=1.5), fs.InvalidRecord, ["wind", "int32", "1.5"]),
    "an int out of range": (good(wind=2**31), fs.InvalidRecord, ["wind", "int32", str(2**31)]),
    "an int no float64 holds": (good(temp=2**53 + 1), fs.InvalidRecord, ["temp", "float64"]),
    "text that is no Unicode": (good(note="\ud800"), fs.InvalidRecord, ["note"]),
    "text for bytes": (good(raw="x"), fs.InvalidRecord, ["raw", "binary"]),
    "a datetime for a date": (good(day=NOW), fs.InvalidRecord, ["day", "date"]),
    "a list of the wrong kind": (good(gusts=[1, "x"]), fs.InvalidRecord, ["gusts", "int64"]),
    "a vector of another length": (good(image=[1.0]), fs.InvalidRecord, ["image", "2", "1"]),
    "a vector with a hole": (good(image=[1.0, None]), fs.InvalidRecord, ["image"]),
    "no identifier": (without("origin"), fs.InvalidRecord, ["origin", "weather"]),
    "no event time": (without("time_hour"), fs.InvalidEventTime, ["time_hour", "weather"]),
    "null in the key": (good(origin=None), fs.InvalidRecord, ["origin", "weather"]),
    "NaN in a text key": (good(origin=math.nan), fs.InvalidRecord, ["origin", "string"]),
    "pandas' NA in the key": (good(origin=pd.NA), fs.InvalidRecord, ["origin", "weather"]),
    "a naive event time": (
        good(time_hour=datetime(2013, 7, 1)), fs.InvalidEventTime,  # noqa: DTZ001
        ["time_hour", "time zone", "tz="]),
    "a naive text as event time": (
        good(time_hour="2013-07-01T00:00:00"), fs.InvalidEventTime,
        ["time_hour", "time zone", "tz="]),
    "a date as event time": (
        good(time_hour=date(2013, 7, 1)), fs.InvalidEventTime, ["time_hour", "not a moment"]),
    "an int without unit as event time": (
        good(time_hour=1372680000), fs.InvalidEventTime, ["time_hour", "unit"]),
    "NaT as event time": (good(time_hour=pd.NaT), fs.InvalidEventTime, ["time_hour", "weather"]),
    "numpy's NaT as event time": (
        good(time_hour=np.datetime64("NaT")), fs.InvalidEventTime, ["time_hour", "weather"]),
    "None as event time": (good(time_hour=None), fs.InvalidEventTime, ["time_hour"]),
    "no time at all as event time": (
        good(time_hour="noon"), fs.InvalidEventTime, ["time_hour", "noon"]),
    "an event time far ahead": (
        good(time_hour=NOW + timedelta(days=2)), fs.InvalidEventTime,
        ["time_hour", "2013-07-03", "future", "max_future"]),
    "a key too large": (
        good(origin="x" * 3000), fs.InvalidRecord, ["identifier", "3,0", "2,048"]),
    "a record too large": (
        good(note="x" * 400_000), fs.InvalidRecord, ["note", "358,400", "weather"]),
    "no dict": ([1, 2], fs.InvalidRecord, ["dict", "list"]),
}  # fmt: skip


@pytest.mark.parametrize("what", PUTS)
def test_a_record_is_refused(store: fs.FeatureStore, what: str) -> None:
    record, error, words = PUTS[what]
    with refused(store, error, *words):
        store.put_record("weather", record)


@pytest.mark.parametrize("what", PUTS)
def test_a_record_among_good_ones_refuses_the_whole_write(
    store: fs.FeatureStore, what: str
) -> None:
    record, error, words = PUTS[what]
    leg = {"carrier": "AA", "flight": 1, "at": NOW, "late": False}
    with refused(store, error, *words):
        store.write([("legs", leg), ("weather", good(origin="EWR")), ("weather", record)])
    assert store.get_record("weather", "EWR") is None
    assert store.get_record("legs", ("AA", 1)) is None


# ── other requests ───────────────────────────────────────────────────────────────────────────

LABELS = pa.table({"origin": ["JFK"], "event_time": pa.array([NOW])})
Request = tuple["Callable[[fs.FeatureStore], Any]", type[Exception], list[str]]
REQUESTS: dict[str, Request] = {
    # groups
    "put into no group": (
        lambda s: s.put_record("wether", good()), fs.UnknownFeatureGroup,
        ["wether", 'did you mean "weather"']),
    "get from no group": (
        lambda s: s.get_record("wether", "JFK"), fs.UnknownFeatureGroup,
        ["wether", 'did you mean "weather"']),
    "delete in no group": (
        lambda s: s.delete_record("wether", "JFK", event_time=NOW), fs.UnknownFeatureGroup,
        ["wether", "weather"]),
    "ingest into no group": (
        lambda s: s.ingest("wether", [good()]), fs.UnknownFeatureGroup, ["wether", "weather"]),
    "scan of no group": (
        lambda s: list(s.scan("wether")), fs.UnknownFeatureGroup, ["wether", "weather"]),
    "describe no group": (
        lambda s: s.describe_feature_group("Weather"), fs.UnknownFeatureGroup,
        ["Weather", "weather"]),
    "delete no group": (
        lambda s: s.delete_feature_group("wether"), fs.UnknownFeatureGroup, ["wether", "weather"]),
    "flush no group": (
        lambda s: s.flush("wether"), fs.UnknownFeatureGroup, ["wether", "weather"]),
    "batch get from no group": (
        lambda s: s.batch_get_record({"wether": ["JFK"]}), fs.UnknownFeatureGroup,
        ["wether", "weather"]),
    "write to no group": (
        lambda s: s.write([("weather", good(origin="EWR")), ("wether", good())]),
        fs.UnknownFeatureGroup, ["wether", "weather"]),
    # features
    "get no feature": (
        lambda s: s.get_record("weather", "JFK", features=["tmep"]), fs.UnknownFeature,
        ["tmep", "temp"]),
    "scan no feature": (
        lambda s: list(s.scan("weather", features=["tmep"])), fs.UnknownFeature, ["tmep", "temp"]),
    "add a feature twice": (
        lambda s: s.update_feature_group("weather", add_features={"temp": "float64"}),
        fs.InvalidSchema, ["temp", "weather"]),
    "add a feature of another case": (
        lambda s: s.update_feature_group("weather", add_features={"TEMP": "float64"}),
        fs.InvalidSchema, ["TEMP", "temp"]),
    "add a feature of no type": (
        lambda s: s.update_feature_group("weather", add_features={"gust": "flaot64"}),
        fs.InvalidSchema, ["flaot64", "float64"]),
    "add a reserved name": (
        lambda s: s.update_feature_group("weather", add_features={"write_time": "int64"}),
        fs.InvalidName, ["write_time", "store's own", "another"]),
    # keys
    "a key of the wrong type": (
        lambda s: s.get_record("weather", 5), fs.InvalidRecord, ["origin", "string"]),
    "a scalar for a composite key": (
        lambda s: s.get_record("legs", "AA"), fs.InvalidRecord, ["carrier", "flight"]),
    "too short a composite key": (
        lambda s: s.get_record("legs", ("AA",)), fs.InvalidRecord, ["carrier", "flight"]),
    "a composite key of other names": (
        lambda s: s.get_record("legs", {"carrier": "AA", "fight": 1}), fs.UnknownFeature,
        ["fight", "flight"]),
    "null in a key asked for": (
        lambda s: s.get_record("legs", ("AA", None)), fs.InvalidRecord, ["flight", "null"]),
    # deletes
    "a stale hard delete": (
        lambda s: s.delete_record("weather", "JFK", event_time=NOW - 2 * HOUR, hard=True),
        fs.StaleDelete, ["weather", "2013-07-01T10:00:00Z", "2013-07-01T11:00:00Z", "later"]),
    "a delete at a naive time": (
        lambda s: s.delete_record("weather", "JFK", event_time=datetime(2013, 7, 1)),  # noqa: DTZ001
        fs.InvalidEventTime, ["time zone"]),
    "a delete far ahead": (
        lambda s: s.delete_record("weather", "JFK", event_time=NOW + timedelta(days=3)),
        fs.InvalidEventTime, ["future", "max_future"]),
    # options
    "a store that is none": (
        lambda s: s.put_record("weather", good(temp=1.0), target_stores=["onlin"]),
        fs.InvalidInput, ["onlin", "online"]),
    "no store at all": (
        lambda s: s.put_record("weather", good(temp=1.0), target_stores=[]),
        fs.InvalidInput, ["online", "offline"]),
    "a ttl without unit": (
        lambda s: s.put_record("weather", good(temp=1.0), ttl=60), fs.InvalidInput, ["ttl", "60"]),
    "a negative ttl": (
        lambda s: s.put_record("weather", good(temp=1.0), ttl=timedelta(seconds=-1)),
        fs.InvalidInput, ["ttl"]),
    # definitions
    "a group that is there": (
        lambda s: s.create_feature_group(
            "weather", record_identifier="k", event_time="t",
            features={"k": "string", "t": "timestamp"}),
        fs.FeatureGroupExists, ["weather", "exist_ok"]),
    "a group of another case": (
        lambda s: s.create_feature_group(
            "Weather", record_identifier="k", event_time="t",
            features={"k": "string", "t": "timestamp"}),
        fs.FeatureGroupExists, ["weather"]),
    "another schema under exist_ok": (
        lambda s: s.create_feature_group(
            "legs", record_identifier=["carrier", "flight"], event_time="at", exist_ok=True,
            features={"carrier": "string", "flight": "int32", "at": "timestamp", "late": "bool"}),
        fs.SchemaMismatch, ["legs", "flight", "int32", "int64"]),
    "another identifier under exist_ok": (
        lambda s: s.create_feature_group(
            "legs", record_identifier=["flight", "carrier"], event_time="at", exist_ok=True,
            features={"carrier": "string", "flight": "int64", "at": "timestamp", "late": "bool"}),
        fs.SchemaMismatch, ["legs", "identifier"]),
    "a group without features": (
        lambda s: s.create_feature_group("g", record_identifier="k", event_time="t"),
        fs.InvalidSchema, ["features", "like"]),
    "an identifier that is no feature": (
        lambda s: s.create_feature_group(
            "g", record_identifier="key", event_time="t",
            features={"k": "string", "t": "timestamp"}),
        fs.InvalidSchema, ["key", "k"]),
    "an event time that is no timestamp": (
        lambda s: s.create_feature_group(
            "g", record_identifier="k", event_time="t", features={"k": "string", "t": "int64"}),
        fs.InvalidSchema, ["t", "timestamp", "int64"]),
    "a key of floats": (
        lambda s: s.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "float64", "t": "timestamp"}),
        fs.InvalidSchema, ["k", "float64"]),
    "an event time that is the key": (
        lambda s: s.create_feature_group(
            "g", record_identifier="t", event_time="t", features={"t": "timestamp"}),
        fs.InvalidSchema, ["t"]),
    "a malformed name": (
        lambda s: s.create_feature_group(
            "../g", record_identifier="k", event_time="t",
            features={"k": "string", "t": "timestamp"}),
        fs.InvalidName, ["../g", "letters"]),
    "a malformed feature name": (
        lambda s: s.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "string", "t": "timestamp", 'a"b': "int64"}),
        fs.InvalidName, ['a"b']),
    "a reserved feature name": (
        lambda s: s.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "string", "t": "timestamp", "is_deleted": "bool"}),
        fs.InvalidName, ["is_deleted", "store's own", "another"]),
    "a type that has no name here": (
        lambda s: s.create_feature_group(
            "g", record_identifier="k", event_time="t",
            like=pa.table({"k": ["a"], "t": pa.array([NOW]), "x": pa.array([{"a": 1}])})),
        fs.InvalidSchema, ["x", "struct"]),
    # views and joins
    "no feature view": (
        lambda s: s.get_features("late_flihgts", {"origin": "JFK"}), fs.UnknownFeatureView,
        ["late_flihgts", "late_flights"]),
    "a feature view of something else": (
        lambda s: s.create_feature_view("late_flights", ["weather:wind"]), fs.FeatureViewExists,
        ["late_flights"]),
    "a view of no feature": (
        lambda s: s.create_feature_view("v", ["weather:tmep"]), fs.UnknownFeature,
        ["tmep", "temp"]),
    "a join with no group": (
        lambda s: s.point_in_time(LABELS, ["wether:temp"]), fs.UnknownFeatureGroup,
        ["wether", "weather"]),
    "a join with no feature": (
        lambda s: s.point_in_time(LABELS, ["weather:tmep"]), fs.UnknownFeature,
        ["tmep", "temp"]),
    "a join without a key": (
        lambda s: s.point_in_time(LABELS.drop_columns("origin"), ["weather:temp"]),
        fs.InvalidInput, ["origin", "on="]),
    "a join without label times": (
        lambda s: s.point_in_time(LABELS.drop_columns("event_time"), ["weather:temp"]),
        fs.InvalidInput, ["event_time", "label_time"]),
    "a label without a time": (
        lambda s: s.point_in_time(
            pa.table({"origin": ["JFK", "JFK"], "event_time": pa.array([NOW, None])}),
            ["weather:temp"]),
        fs.InvalidEventTime, ["event_time", "1 of 2", "row"]),
    "labels in no zone": (
        lambda s: s.point_in_time(
            pa.table({"origin": ["JFK"], "event_time": pa.array([NOW.replace(tzinfo=None)])}),
            ["weather:temp"]),
        fs.InvalidEventTime, ["event_time", "tz="]),
    "two columns of one name": (
        lambda s: s.point_in_time(LABELS.append_column("temp", pa.array([1])), ["weather:temp"]),
        fs.ColumnClash, ["temp", "prefix=", "rename="]),
    "a key column of another type": (
        lambda s: s.point_in_time(
            pa.table({"origin": [1], "event_time": pa.array([NOW])}), ["weather:temp"]),
        fs.InvalidRecord, ["origin", "weather", "string", "int64"]),
    "labels that are no table": (
        lambda s: s.point_in_time("labels", ["weather:temp"]), fs.InvalidInput, ["str"]),
    "a moment that has not come": (
        lambda s: s.point_in_time(LABELS, ["weather:temp"], as_of=10**6),
        fs.InvalidInput, ["as_of"]),
    # SQL
    "no SELECT": (lambda s: s.sql("DROP TABLE weather"), fs.InvalidQuery, ["SELECT"]),
    "a COPY": (
        lambda s: s.sql("COPY (SELECT 1) TO '/tmp/copied.csv'"), fs.InvalidQuery, ["SELECT"]),
    "two statements": (lambda s: s.sql("SELECT 1; SELECT 2"), fs.InvalidQuery, ["one SELECT"]),
    "no SQL": (lambda s: s.sql("SELEC 1"), fs.InvalidQuery, ["SELEC"]),
    "SQL on no group": (
        lambda s: s.sql("SELECT * FROM wether"), fs.UnknownFeatureGroup, ["wether", "weather"]),
    "SQL on no column": (
        lambda s: s.sql("SELECT tmep FROM weather"), fs.InvalidQuery, ["tmep"]),
    "SQL on a file": (
        lambda s: s.sql("SELECT * FROM '/etc/passwd'"), fs.UnknownFeatureGroup, ["passwd"]),
    "SQL reading a file": (
        lambda s: s.sql("SELECT * FROM read_csv('/etc/passwd')"), fs.InvalidQuery, ["read_csv"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REQUESTS)
def test_a_request_is_refused(store: fs.FeatureStore, what: str) -> None:
    request, error, words = REQUESTS[what]
    with refused(store, error, *words):
        request(store)


def test_a_request_id_for_another_record_is_refused(store: fs.FeatureStore) -> None:
    store.put_record("weather", good(temp=1.0), request_id="r")
    with refused(store, fs.RequestMismatch, '"r"', "new id"):
        store.put_record("weather", good(temp=2.0), request_id="r")
    with refused(store, fs.RequestMismatch, '"r"'):
        store.delete_record("weather", "JFK", event_time=NOW, request_id="r")


# ── tables and streams ───────────────────────────────────────────────────────────────────────


def a_table(rows: int, **columns: Any) -> pa.Table:
    """Return a table that fits, but for the columns given."""
    return pa.table(
        {
            "origin": [f"K{i}" for i in range(rows)],
            "time_hour": pa.array([NOW - HOUR] * rows),
            "temp": [float(i) for i in range(rows)],
            **columns,
        }
    )


TABLES: dict[str, tuple[pa.Table, type[Exception], list[int], list[str]]] = {
    "null in a key": (
        a_table(4, origin=["a", None, "b", None]), fs.InvalidRecord, [1, 3], ["origin", "null"]),
    "null as event time": (
        a_table(3, time_hour=pa.array([NOW, None, NOW])), fs.InvalidEventTime, [1], ["time_hour"]),
    "an event time far ahead": (
        a_table(3, time_hour=pa.array([NOW, NOW, NOW + timedelta(days=9)])),
        fs.InvalidEventTime, [2], ["future", "max_future"]),
    "an int out of range": (
        a_table(3, wind=[1, 2**40, None]), fs.InvalidRecord, [1], ["wind", "int32"]),
    "a fraction for an int": (
        a_table(3, wind=[1.0, 2.5, 3.0]), fs.InvalidRecord, [1], ["wind", "int32"]),
    "text that is no time": (
        a_table(2, time_hour=["2013-07-01T00:00:00Z", "noon"]), fs.InvalidEventTime, [1],
        ["noon"]),
    "text without a zone": (
        a_table(2, time_hour=["2013-07-01T00:00:00Z", "2013-07-01T00:00:00"]),
        fs.InvalidEventTime, [1], ["time zone"]),
    "a key too large": (
        a_table(2, origin=["x", "y" * 3000]), fs.InvalidRecord, [1], ["key", "2,048"]),
    "a record too large": (
        a_table(2, note=["x" * 400_000, ""]), fs.InvalidRecord, [0], ["358,400"]),
    "a vector of another length": (
        a_table(2, image=[[1.0, 2.0], [1.0]]), fs.InvalidRecord, [1], ["image"]),
}  # fmt: skip
FORMS: dict[str, Callable[[pa.Table], Any]] = {
    "arrow": lambda table: table,
    "polars": pl.from_arrow,
    "dicts": lambda table: table.to_pylist(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", TABLES)
def test_a_table_with_bad_rows_is_refused_whole(
    store: fs.FeatureStore, what: str, form: str
) -> None:
    table, error, rows, words = TABLES[what]
    with refused(store, error, "none", *words) as caught:
        store.ingest("weather", FORMS[form](table))
    assert [row for row, _ in caught.value.rows] == rows
    assert all(reason for _, reason in caught.value.rows)
    assert f"row {rows[0]}" in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", TABLES)
def test_a_table_with_bad_rows_goes_in_without_them_if_asked(
    store: fs.FeatureStore, what: str, form: str
) -> None:
    table, _, rows, _ = TABLES[what]
    result = store.ingest("weather", FORMS[form](table), on_error="skip")
    assert (result.accepted, result.rejected) == (table.num_rows - len(rows), len(rows))
    names = [r["origin"] for i, r in enumerate(table.to_pylist()) if i not in rows]
    assert sorted(r["origin"] for r in store.scan("weather")) == sorted([*names, "JFK"])


WHOLE: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "a column that is no feature": (
        a_table(2, tmep=[1.0, 2.0]), fs.UnknownFeature, ["tmep", "temp"]),
    "no key column": (
        a_table(2).drop_columns("origin"), fs.InvalidRecord, ["origin", "identifier"]),
    "no event time column": (
        a_table(2).drop_columns("time_hour"), fs.InvalidRecord, ["time_hour", "event time"]),
    "a column of text for numbers": (
        a_table(2, temp=["1", "2"]), fs.InvalidRecord, ["temp", "float64", "string"]),
    "naive times": (
        a_table(2, time_hour=pa.array([NOW.replace(tzinfo=None)] * 2)), fs.InvalidEventTime,
        ["time_hour", "tz="]),
    "ints as times": (a_table(2, time_hour=[1, 2]), fs.InvalidEventTime, ["time_hour", "unit"]),
    "a file that is not there": ("/nowhere/weather.parquet", fs.InvalidInput, ["/nowhere"]),
    "a file of no known kind": (__file__, fs.InvalidInput, [".py", "parquet"]),
    "no table": (5, fs.InvalidInput, ["int", "table"]),
    "one record": (good(), fs.InvalidInput, ["put_record"]),
    "a pandas column of texts and numbers": (
        pd.DataFrame({**a_table(2).to_pydict(), "temp": ["1", 2.0]}), fs.InvalidRecord, ["temp"]),
    "two pandas columns of one name": (
        pd.concat([a_table(2).to_pandas()] * 2, axis=1), fs.InvalidRecord, ["temp", "Duplicate"]),
    "a pandas series": (pd.Series([1.0]), fs.InvalidInput, ["Series", "no table"]),
    "a Polars series": (pl.Series([1.0]), fs.InvalidInput, ["Series", "no table"]),
    "a Polars type that Arrow has not": (
        pl.DataFrame({"temp": pl.Series([1], dtype=pl.Int128)}), fs.InvalidInput, ["_pli128"]),
}  # fmt: skip


@pytest.mark.parametrize("what", WHOLE)
def test_data_of_another_shape_is_refused(store: fs.FeatureStore, what: str) -> None:
    data, error, words = WHOLE[what]
    with refused(store, error, *words):
        store.ingest("weather", data)


def test_pandas_nat_is_named_by_row(store: fs.FeatureStore) -> None:
    frame = a_table(3).to_pandas()
    frame.loc[1, "time_hour"] = pd.NaT
    with refused(store, fs.InvalidEventTime, "time_hour", "row 1") as caught:
        store.ingest("weather", frame)
    assert [row for row, _ in caught.value.rows] == [1]


def test_a_file_that_is_no_parquet_is_refused(store: fs.FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "weather.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with refused(store, fs.InvalidInput, "weather.parquet", "parquet"):
        store.ingest("weather", path)


def test_a_stream_says_what_is_in_and_goes_on_when_mended(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.engine import sources

    monkeypatch.setattr(sources, "CHUNK_DICTS", 10)
    rows = a_table(35).to_pylist()
    bad = [*rows[:27], {**rows[27], "wind": "strong"}, *rows[28:]]
    with pytest.raises(fs.InvalidRecord) as caught:
        store.ingest("weather", iter(bad), id="load")
    error = caught.value
    assert error.accepted == 20  # whole chunks
    [(row, reason)] = error.rows
    assert row == 27  # counted from the beginning of the stream
    assert "wind" in reason
    for words in ("20 rows", "row 27", "wind", "again"):
        assert words in str(error)
    assert store.sql("SELECT count(*) n FROM history.weather").to_pylist() == [{"n": 21}]
    result = store.ingest("weather", iter(rows), id="load")
    assert (result.accepted, result.replayed) == (15, 20)
    assert store.sql("SELECT count(*) n FROM history.weather").to_pylist() == [{"n": 36}]


def test_a_stream_of_batches_counts_rows_from_its_beginning(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.engine import sources

    monkeypatch.setattr(sources, "CHUNK_ROWS", 10)
    table = a_table(30, wind=pa.array([2**40 if i == 23 else i for i in range(30)]))
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=10))
    with pytest.raises(fs.InvalidRecord) as caught:
        store.ingest("weather", reader)
    assert caught.value.accepted == 20
    assert [row for row, _ in caught.value.rows] == [23]
    assert "row 23" in str(caught.value)


def test_a_stream_that_breaks_keeps_what_is_in(store: fs.FeatureStore) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from a_table(5).to_pylist()
        raise OSError("the cable was pulled")

    before = looked_at(store)
    with pytest.raises(OSError, match="cable"):
        store.ingest("weather", broken())
    assert looked_at(store) == before  # the first chunk was not complete


# ── the directory ────────────────────────────────────────────────────────────────────────────


def test_a_file_is_not_a_store(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(fs.NotAStore, match=r"notes\.txt"):
        fs.open(path)
    assert path.read_text() == "hello"


def test_a_directory_of_something_else_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(fs.NotAStore, match=r"thesis\.tex"):
        fs.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_reading_makes_no_store(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path):
        with pytest.raises(fs.NotAStore, match="read_only"):
            fs.open(path, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fs.open(path).close()
    env = lmdb.open(str(path / "engine"), max_dbs=64, map_size=1 << 30, lib_version=0)
    meta = env.open_db(b"meta", create=False)
    with env.begin(write=True) as txn:
        row = json.loads(bytes(txn.get(b"format", db=meta)))
        txn.put(b"format", json.dumps({**row, "format": 99}).encode(), db=meta)
    env.close()
    for read_only in (False, True):
        with pytest.raises(fs.IncompatibleStore) as caught:
            fs.open(path, read_only=read_only)
        assert "99" in str(caught.value)
        assert "Upgrade" in str(caught.value)
    env = lmdb.open(str(path / "engine"), max_dbs=64, map_size=1 << 30, lib_version=0)
    meta = env.open_db(b"meta", create=False)
    with env.begin() as txn:
        assert json.loads(bytes(txn.get(b"format", db=meta)))["format"] == 99
    env.close()


def test_the_other_lmdb_engine_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "engine"
    folder.mkdir(parents=True)
    lmdb.open(str(folder), map_size=1 << 20, lib_version=1).close()
    with pytest.raises(fs.IncompatibleStore, match="LMDB"):
        fs.open(tmp_path / "store")


@pytest.fixture
def world_dir() -> Iterator[Path]:
    """Make a folder that other users can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="featurestore-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


WITHOUT_RIGHTS = """
import os, sys, tempfile
import featurestore as fs
path = sys.argv[1]
with fs.open(tempfile.mkdtemp()) as warm:  # what is imported late might be out of reach afterwards
    warm.create_feature_group("g", record_identifier="k", event_time="t",
                              features={"k": "string", "t": "timestamp"})
    warm.put_record("g", {"k": "a", "t": "2013-01-01T00:00:00Z"})
    warm.sql("SELECT * FROM g"), warm.flush(), warm.sql("SELECT * FROM g"), warm.verify()
if os.geteuid() == 0:  # root could write anywhere
    os.setgid(65534), os.setuid(65534)
"""


def as_nobody(code: str, path: Path) -> str:
    """Run code as a user without rights to write."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RIGHTS + code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TRY_TO_OPEN = """
try:
    fs.open(path)
except fs.FeatureStoreError as error:
    print(type(error).__name__, "|", error)
else:
    print("opened")
"""


def test_a_directory_that_cannot_be_written_says_so(world_dir: Path) -> None:
    world_dir.chmod(0o555)
    try:
        said = as_nobody(TRY_TO_OPEN, world_dir / "store")
    finally:
        world_dir.chmod(0o755)
    assert said.startswith("ReadOnlyStore |")
    assert "read_only=True" in said


def test_a_store_that_cannot_be_written_is_read(world_dir: Path) -> None:
    path = world_dir / "store"
    with fs.open(path, clock=lambda: NOW) as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "string", "t": "timestamp", "x": "int64"},
        )  # fmt: skip
        store.put_record("g", {"k": "a", "t": NOW, "x": 1})
        store.flush()
        store.put_record("g", {"k": "b", "t": NOW, "x": 2})
    for found in [path, *path.rglob("*")]:
        found.chmod(0o555 if found.is_dir() else 0o444)
    said = as_nobody(TRY_TO_OPEN, path)
    assert said.startswith("ReadOnlyStore |")
    assert "read_only=True" in said
    read = """
with fs.open(path, read_only=True) as store:
    print(store.get_record("g", "b")["x"], store.sql("SELECT sum(x)::INT s FROM g").to_pylist())
    print(store.verify())
    try:
        store.put_record("g", {"k": "a", "t": "2013-01-01T00:00:00Z"})
    except fs.ReadOnlyStore as error:
        print(error)
"""
    first, second, third = as_nobody(read, path).splitlines()
    assert first == "2 [{'s': 3}]"
    assert second == "[]"
    assert "read_only" in third


def test_a_store_open_read_only_refuses_every_change(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store", clock=lambda: NOW) as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "string", "t": "timestamp", "x": "int64"},
        )  # fmt: skip
        store.put_record("g", {"k": "a", "t": NOW, "x": 1})
    row = {"k": "a", "t": NOW, "x": 2}
    store = fs.open(tmp_path / "store", read_only=True)
    changes: list[Callable[[], Any]] = [
        lambda: store.put_record("g", row),
        lambda: store.write([("g", row), ("g", row)]),
        lambda: store.ingest("g", [row]),
        lambda: store.delete_record("g", "a", event_time=NOW),
        lambda: store.update_feature_group("g", add_features={"y": "int64"}),
        lambda: store.delete_feature_group("g"),
        lambda: store.create_feature_view("v", ["g:x"]),
        store.flush,
        store.compact,
    ]
    for change in changes:
        with pytest.raises(fs.ReadOnlyStore, match="read-only"):
            change()
    assert store.get_record("g", "a") == {"k": "a", "t": NOW, "x": 1}
    assert store.verify() == []
    store.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = fs.open(tmp_path / "store")
    store.create_feature_group(
        "g", record_identifier="k", event_time="t", features={"k": "string", "t": "timestamp"}
    )
    store.close()
    store.close()  # twice is once
    for use in (
        lambda: store.get_record("g", "a"),
        lambda: store.put_record("g", {"k": "a", "t": NOW}),
        lambda: store.ingest("g", [{"k": "a", "t": NOW}]),
        lambda: store.sql("SELECT * FROM g"),
        lambda: list(store.scan("g")),
        store.list_feature_groups,
        store.flush,
        store.verify,
        store.snapshot,
    ):
        with pytest.raises(fs.StoreClosed, match="closed"):
            use()


FORKED = """
import os, sys, featurestore as fs
store = fs.open(sys.argv[1])
store.create_feature_group("g", record_identifier="k", event_time="t",
                           features={"k": "string", "t": "timestamp"})
record = {"k": "a", "t": "2013-01-01T00:00:00Z"}
store.put_record("g", record)
def tried(use):
    try: use()
    except fs.StoreClosed as error: return "fork" in str(error)
    return False
child = os.fork()
if not child:
    uses = [lambda: store.get_record("g", "a"), lambda: store.put_record("g", record),
            lambda: store.sql("SELECT * FROM g"), store.flush, lambda: fs.open(sys.argv[1])]
    ok = all([tried(use) for use in uses])
    store.close()
    ok = ok and tried(lambda: fs.open(sys.argv[1]))
    os._exit(0 if ok else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
store.put_record("g", {"k": "b", "t": "2013-01-01T00:00:00Z"})
assert store.verify() == []
assert len(list(store.scan("g"))) == 2
store.close()
assert code == 0

# What it is told to do: close, fork, open.
child = os.fork()
with fs.open(sys.argv[1]) as store:
    store.put_record("g", {**record, "k": "of the child" if not child else "of the parent"})
if not child:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with fs.open(sys.argv[1]) as store:
    assert len(list(store.scan("g"))) == 4 and store.verify() == []
"""


def test_a_forked_child_is_told_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr


# ── no room ──────────────────────────────────────────────────────────────────────────────────


def a_group(store: fs.FeatureStore) -> None:
    """Make the group that the tests below fill."""
    store.create_feature_group(
        "g", record_identifier="k", event_time="t",
        features={"k": "int64", "t": "timestamp", "body": "string"},
    )  # fmt: skip


def filled(store: fs.FeatureStore, body: int = 20_000, limit: int = 100_000) -> int:
    """Put records of random text until the store is full; returns how many were acknowledged."""
    for number in range(limit):
        record = {"k": number % 50, "t": NOW - HOUR, "body": os.urandom(body // 2).hex()}
        try:
            store.put_record("g", record)
        except fs.StoreFull:
            return number
    pytest.fail("the store never became full")


def rows_in(store: fs.FeatureStore) -> int:
    """Count the history."""
    return int(store.sql("SELECT count(*) n FROM history.g").column("n")[0].as_py())


def test_a_full_quota_refuses_writes_until_a_flush_makes_room(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store", quota=8 << 20, clock=lambda: NOW, upkeep=False) as store:
        a_group(store)
        acknowledged = filled(store)
        assert acknowledged > 10
        assert rows_in(store) == acknowledged
        with pytest.raises(fs.StoreFull, match="quota"):
            store.ingest("g", [{"k": 1, "t": NOW, "body": "x" * 100_000}] * 3)
        assert rows_in(store) == acknowledged
        assert store.verify() == []
        store.flush()
        assert rows_in(store) == acknowledged
        assert filled(store) > 10  # there is room again
        assert store.verify() == []
    with fs.open(tmp_path / "store", quota=64 << 20, clock=lambda: NOW) as store:
        store.put_record("g", {"k": 1, "t": NOW, "body": "the larger quota counts at once"})


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Mount a disk of 24 MiB."""
    path = Path(tempfile.mkdtemp(prefix="featurestore-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "featurestore", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        path.rmdir()
        pytest.skip(f"no right to mount a small disk ({mounted.stderr.strip()}); quota is tested")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)
    path.rmdir()


def test_a_full_disk_refuses_writes_until_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with fs.open(small_disk / "store", clock=lambda: NOW, upkeep=False) as store:
        a_group(store)
        store.put_record("g", {"k": 1, "t": NOW, "body": "first"})
        disk = os.statvfs(small_disk)
        ballast.write_bytes(bytes((disk.f_bavail - 1500) * disk.f_frsize))
        acknowledged = 1 + filled(store)
        assert rows_in(store) == acknowledged
        assert store.get_record("g", 1) is not None
        big = pa.table(
            {
                "k": range(5000),
                "t": pa.array([NOW] * 5000),
                "body": [os.urandom(4000).hex() for _ in range(5000)],
            }
        )
        with pytest.raises(fs.StoreFull):
            store.ingest("g", big)
        assert rows_in(store) == acknowledged
        ballast.unlink()
        assert store.put_record("g", {"k": 2, "t": NOW, "body": "there is room"}).seq > 0
        assert rows_in(store) == acknowledged + 1
        store.flush()
        assert store.verify() == []
    with fs.open(small_disk / "store", clock=lambda: NOW, upkeep=False) as store:
        assert rows_in(store) == acknowledged + 1
        assert store.verify() == []


def test_a_disk_full_to_the_last_byte_loses_nothing(small_disk: Path) -> None:
    """The reserve is gone too: somebody else filled the disk, so the commit itself fails."""
    ballast = small_disk / "ballast"
    with fs.open(small_disk / "store", clock=lambda: NOW, upkeep=False) as store:
        a_group(store)
        for number in range(20):
            store.put_record("g", {"k": number, "t": NOW - HOUR, "body": "x" * 5000})
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 12))
                file.flush()
        refusals = 0
        acknowledged = 20
        for number in range(40):
            try:
                store.put_record("g", {"k": 100 + number, "t": NOW, "body": "y" * 50_000})
                acknowledged += 1
            except fs.StoreFull:
                refusals += 1
        assert refusals > 0
        with pytest.raises(fs.StoreFull):
            store.flush()
        assert rows_in(store) == acknowledged
        ballast.unlink()
        store.put_record("g", {"k": 1, "t": NOW, "body": "again"})
        store.flush()
        assert rows_in(store) == acknowledged + 1
        assert store.verify() == []


def test_upkeep_waits_for_room_on_a_full_disk(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says why it waits; when there is room, it and the writes go on by themselves."""
    monkeypatch.setattr(upkeep, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(upkeep, "PAUSE_SECONDS_MAX", 0.01)
    ballast = small_disk / "ballast"

    def until(happened: Callable[[dict[str, Any]], bool]) -> None:
        give_up_at = time.monotonic() + 60
        while not happened(store.stat()):
            assert time.monotonic() < give_up_at
            time.sleep(0.005)

    with fs.open(small_disk / "store", clock=lambda: NOW) as store:
        a_group(store)
        store.put_record("g", {"k": 0, "t": NOW, "body": "first"})
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 12))
                file.flush()
        monkeypatch.setattr(upkeep, "TAIL_ROWS", 1)
        until(lambda facts: "StoreFull" in (facts["upkeep"]["last_error"] or ""))
        with pytest.raises(fs.StoreFull):
            store.put_record("g", {"k": 0, "t": NOW, "body": "x" * 300_000})
        assert store.get_record("g", 0)["body"] == "first"
        ballast.unlink()
        store.put_record("g", {"k": 1, "t": NOW, "body": "second"})
        until(lambda facts: facts["upkeep"]["failures"] == 0)
        until(lambda facts: facts["groups"]["g"]["journal_rows"] == 0)
        assert rows_in(store) == 2
        assert store.verify() == []
