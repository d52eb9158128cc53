"""The point-in-time join answers as the law does, whatever history looks like and labels are.

``record.resolve``, label by label, is the truth; DuckDB's ASOF join and pandas' ``merge_asof`` are
two opinions from outside, asked where they can be: without ties, TTL and tombstones.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.dtypes import parse_dtype
from featurestore.engine import point_in_time
from featurestore.engine.point_in_time import join
from featurestore.errors import (
    ColumnClash,
    CorruptStore,
    FeatureStoreError,
    InvalidEventTime,
    InvalidInput,
    InvalidRecord,
    UnknownFeature,
    UnknownFeatureGroup,
)
from featurestore.event_time import NO_EXPIRY
from featurestore.feature_view import FeatureLookup
from featurestore.record import Status, Version, resolve
from featurestore.schema import define
from tests.engine.histories import Event, snapshot
from tests.model import exactly

if TYPE_CHECKING:
    import featurestore as fs
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.schema import FeatureGroup

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
UTC_US = pa.timestamp("us", tz="UTC")


def group_of(name: str = "weather", **features: str) -> FeatureGroup:
    """Return a group identified by ``origin``."""
    columns = {"origin": "string", "at": "timestamp", **(features or {"temp": "int64"})}
    return define(name, record_identifier="origin", event_time="at", features=columns, id=1)


WEATHER = group_of()


def put(
    key: Any,
    event_us: int,
    seq: int,
    *,
    write_us: int = 0,
    expires_us: int = NO_EXPIRY,
    **values: Any,
) -> Event:
    key = key if isinstance(key, tuple) else (key,)
    return Event(key, Version(event_us, seq, write_us, expires_us, False, values))


def delete(key: str, event_us: int, seq: int, write_us: int = 0) -> Event:
    return Event((key,), Version(event_us, seq, write_us, NO_EXPIRY, True, None))


def times(values_us: list[int | None]) -> pa.Array:
    return pa.array(values_us, pa.int64()).view(UTC_US)


def labels_at(*labels: tuple[str | None, int]) -> pa.Table:
    """Return labels of keys and times in microseconds."""
    return pa.table(
        {
            "origin": pa.array([key for key, _ in labels], pa.string()),
            "event_time": times([t for _, t in labels]),
        }
    )


def micros(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - EPOCH) // timedelta(microseconds=1)


@pytest.fixture
def weather(tmp_path: Path) -> dict[str, GroupSnapshot]:
    """JFK at 10 (temp 1), 20 (temp 2), deleted at 30, at 40 (temp 4) until 45; EWR at 10."""
    events = [
        put("JFK", 10, 1, temp=1),
        put("JFK", 20, 2, temp=2),
        delete("JFK", 30, 3),
        put("JFK", 40, 4, expires_us=45, temp=4),
        put("EWR", 10, 5, temp=100),
    ]
    return {"weather": snapshot(tmp_path, WEATHER, [events[:2], events[3:]], events[2:3])}


# ── the law ──────────────────────────────────────────────────────────────────────────────────

KEYS = ("a", "b")
MOMENTS = range(8)
moment = st.sampled_from(MOMENTS)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Event]], list[Event]]:
    """Draw versions of two keys, dealt out over three files and the tail."""
    size = draw(st.integers(0, 20))
    ttl = st.none() | st.integers(0, 5)
    is_deleted = st.integers(0, 4).map(lambda n: n == 0)
    one = st.tuples(st.sampled_from(KEYS), moment, moment, ttl, is_deleted, st.integers(0, 3))
    drawn = draw(st.lists(one, min_size=size, max_size=size))
    seqs = draw(st.permutations(range(1, len(drawn) + 1)))
    places: list[list[Event]] = [[], [], [], []]
    for (key, event_us, write_us, ttl_us, deleted, place), seq in zip(drawn, seqs, strict=True):
        if deleted:
            places[place].append(delete(key, event_us, seq, write_us))
            continue
        expires_us = NO_EXPIRY if ttl_us is None else event_us + ttl_us
        values = {"temp": None if seq % 5 == 0 else seq, "sky": f"sky {seq}"}
        places[place].append(
            put(key, event_us, seq, write_us=write_us, expires_us=expires_us, **values)
        )
    return places[1:], places[0]


@st.composite
def questions(draw: st.DrawFn) -> list[tuple[str | None, int]]:
    """Draw labels: every moment of a stretch, for some keys, in any order."""
    keys = draw(st.lists(st.sampled_from([*KEYS, "never", None]), unique=True))
    first, last = sorted((draw(moment), draw(moment)))
    return draw(st.permutations([(key, t) for key in keys for t in range(first, last + 3)]))


def expected_row(history: list[Version], label_us: int, how: dict[str, Any]) -> dict[str, Any]:
    status, version = resolve(history, label_us, label_us, **how)
    values = getattr(version, "values", None) if status is Status.PRESENT else {}
    event_us = None if version is None else version.event_time_us
    return {
        "temp": values.get("temp"),
        "sky": values.get("sky"),
        "status": str(status),
        "event_time": event_us,
        "age": None if event_us is None else label_us - event_us,
    }


@given(
    drawn=histories(),
    labels=questions(),
    delay_us=st.integers(0, 3),
    max_age_us=st.none() | st.integers(0, 5),
    seq_max=st.just(99) | st.integers(0, 21),
    by_write_time=st.booleans(),
    hash_bits=st.sampled_from([2, 64]),
)
def test_every_label_is_answered_as_the_law_says(
    drawn: tuple[list[list[Event]], list[Event]],
    labels: list[tuple[str | None, int]],
    delay_us: int,
    max_age_us: int | None,
    seq_max: int,
    by_write_time: bool,
    hash_bits: int,
) -> None:
    files, tail = drawn
    history = defaultdict(list)
    for event in [*tail, *(event for file in files for event in file)]:
        history[event.key[0]].append(event.version)
    how = {
        "seq_max": seq_max,
        "delay_us": delay_us,
        "known_by_write_time": by_write_time,
        "max_age_us": max_age_us,
    }
    max_age = None if max_age_us is None else timedelta(microseconds=max_age_us)
    lookup = FeatureLookup(
        "weather", ["temp", "sky"], delay=timedelta(microseconds=delay_us), max_age=max_age
    )
    group = group_of(temp="int64", sky="string")
    with tempfile.TemporaryDirectory() as folder:
        taken = snapshot(Path(folder), group, files, tail, seq=seq_max, hash_bits=hash_bits)
        known = "write_time" if by_write_time else "event_time"
        ask = [labels_at(*labels), [lookup], {"weather": taken}]
        answer = join(*ask, known=known, with_status=True)
        without_status = join(*ask, known=known)

    found = [
        {
            "temp": row["temp"],
            "sky": row["sky"],
            "status": row["weather__status"],
            "event_time": micros(row["weather__event_time"]),
            "age": None
            if row["weather__age"] is None
            else row["weather__age"] // timedelta.resolution,
        }
        for row in answer.to_pylist()
    ]
    assert found == [expected_row(history[key], label_us, how) for key, label_us in labels]
    # Asked for values only, more files can be skipped; the values stay the same.
    assert without_status.equals(answer.select(without_status.column_names))


def test_the_picture_in_the_module(weather: dict[str, GroupSnapshot]) -> None:
    labels = labels_at(*(("JFK", t) for t in (9, 10, 20, 29, 30, 40, 44, 45)))
    answer = join(labels, [FeatureLookup("weather")], weather, with_status=True)
    assert answer["temp"].to_pylist() == [None, 1, 2, 2, None, 4, 4, None]
    assert answer["weather__status"].to_pylist() == [
        "MISSING", "PRESENT", "PRESENT", "PRESENT", "DELETED", "PRESENT", "PRESENT", "EXPIRED",
    ]  # fmt: skip
    assert answer["weather__event_time"].cast(pa.int64()).to_pylist() == [
        None, 10, 20, 20, 30, 40, 40, 40,
    ]  # fmt: skip
    assert answer["weather__age"].cast(pa.int64()).to_pylist() == [None, 0, 0, 9, 0, 0, 4, 5]


# ── outside opinions ─────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def opinions(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """2,000 records of 30 keys without ties, 700 labels, and the snapshot that holds them."""
    random = np.random.default_rng(11)
    moment = random.permutation(50_000)[:2_000]
    keys = [f"k{code}" for code in random.zipf(1.3, 2_000) % 30]
    events = [
        put(key, int(t) * SECOND, seq, temp=seq)
        for seq, (key, t) in enumerate(zip(keys, moment, strict=True), start=1)
    ]
    files = [events[:900], events[900:1000], events[1000:1900]]
    group = group_of(temp="int64")
    taken = snapshot(tmp_path_factory.mktemp("opinions"), group, files, events[1900:])
    features = pd.DataFrame({"origin": keys, "at": moment, "temp": range(1, 2_001)})
    labels = pd.DataFrame(
        {
            "origin": [f"k{code}" for code in random.integers(0, 35, 700)],
            "event_time": random.integers(-10, 50_010, 700),
        }
    )
    for frame, name in ((features, "at"), (labels, "event_time")):
        frame[name] = pd.to_datetime(frame[name], unit="s", utc=True).astype("datetime64[us, UTC]")
    return labels, features, {"weather": taken}


def test_pandas_is_of_the_same_opinion(opinions: tuple[pd.DataFrame, pd.DataFrame, Any]) -> None:
    labels, features, snapshots = opinions
    for max_age in (None, timedelta(seconds=600)):
        asked = labels.reset_index().sort_values("event_time")
        theirs = pd.merge_asof(
            asked,
            features.sort_values("at"),
            left_on="event_time",
            right_on="at",
            by="origin",
            tolerance=max_age,
        )
        theirs = theirs.set_index("index").sort_index()["temp"]
        lookup = FeatureLookup("weather", "temp", max_age=max_age)
        ours = join(labels, [lookup], snapshots)["temp"]
        assert 0 < theirs.isna().sum() < 500
        assert ours.astype("Float64").tolist() == theirs.astype("Float64").tolist()


def test_duckdb_is_of_the_same_opinion(opinions: tuple[pd.DataFrame, pd.DataFrame, Any]) -> None:
    labels, features, snapshots = opinions
    given, history = pa.Table.from_pandas(labels.reset_index()), pa.Table.from_pandas(features)
    with duckdb.connect() as connection:
        connection.register("labels", given)
        connection.register("history", history)
        theirs = connection.execute(
            "SELECT h.temp FROM labels l ASOF LEFT JOIN history h "
            "ON l.origin = h.origin AND l.event_time >= h.at ORDER BY l.index"
        ).fetchall()
    ours = join(given, [FeatureLookup("weather")], snapshots)["temp"].to_pylist()
    assert ours == [temp for (temp,) in theirs]


# ── types ────────────────────────────────────────────────────────────────────────────────────

VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int8": [-128, 127],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 0],
    "int64": [-(2**63), 2**63 - 1],
    "float32": [0.5, float("inf")],
    "float64": [0.1, -0.0],
    "string": ["", "naïve \0 日本"],
    "binary": [b"", b"\0\xff"],
    "timestamp": [
        datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
        datetime(9999, 1, 1, tzinfo=UTC),
    ],
    "date": [date(1, 1, 1), date(2024, 2, 29)],
    "list<int64>": [[], [1, None, -3]],
    "list<string>": [["a", None, ""], [""]],
    "vector<float32, 3>": [[1.0, 2.0, 3.0], [0.0, -0.5, 4.0]],
}


@pytest.mark.parametrize("in_file", [True, False], ids=["file", "tail"])
def test_every_type_comes_out_as_it_went_in(tmp_path: Path, in_file: bool) -> None:
    features = {f"f{i}": dtype for i, dtype in enumerate(VALUES)}
    group = group_of(**features)
    columns = dict(zip(features, VALUES.values(), strict=True))
    events = [
        put("first", 0, 1, **{name: values[0] for name, values in columns.items()}),
        put("second", 0, 2, **{name: values[1] for name, values in columns.items()}),
        put("nulls", 0, 3, **dict.fromkeys(features)),
    ]
    taken = snapshot(tmp_path, group, [events] if in_file else [], [] if in_file else events)
    asked = ["second", "missing", "first", None, "nulls", "first", "second"]
    answer = join(
        labels_at(*((key, 5) for key in asked)), [FeatureLookup("weather")], {"weather": taken}
    )
    index = {"first": 0, "second": 1}
    for name, values in columns.items():
        assert answer.schema.field(name).type == group.feature(name).dtype.to_arrow()
        expected = [values[index[key]] if key in index else None for key in asked]
        assert [*map(exactly, answer[name].to_pylist())] == [*map(exactly, expected)]


@pytest.mark.parametrize("dtype", list(VALUES))
def test_the_way_around_two_gibibytes_gives_the_same(dtype: str) -> None:
    """What is done when a chunk would overflow, on columns that do not: too large for a test."""
    one = pa.array([*VALUES[dtype], None], parse_dtype(dtype).to_arrow())
    column = pa.chunked_array([one, one.slice(1), one.slice(0, 0)])
    for place in (pa.array([4, None, 0, 0, 2]), pa.array([], pa.int64())):
        expected = column.take(place)
        assert point_in_time._take_much(column, place).equals(expected)


def test_what_does_not_fit_in_a_chunk_is_parted_in_order() -> None:
    column = pa.chunked_array([["a", "b", "c"]])

    class Cramped:
        """As good as ``column``, but with chunks of two values at most."""

        type = column.type

        def cast(self, _kind: pa.DataType) -> Cramped:
            return self

        def take(self, place: pa.Array) -> pa.ChunkedArray:
            if len(place) > 2:
                raise pa.ArrowInvalid("full")
            return column.take(place)

    taken = point_in_time._take_much(Cramped(), pa.array([2, 0, None, 1, 1, 0, 2]))
    assert taken.to_pylist() == ["c", "a", None, "b", "b", "a", "c"]
    assert taken.num_chunks > 2


def test_nan_stays_a_value(tmp_path: Path) -> None:
    taken = snapshot(tmp_path, group_of(x="float64"), [[put("JFK", 0, 1, x=float("nan"))]])
    answer = join(labels_at(("JFK", 0), ("EWR", 0)), [FeatureLookup("weather")], {"weather": taken})
    assert answer["x"].null_count == 1
    assert np.isnan(answer["x"][0].as_py())


def test_a_feature_younger_than_the_file_is_null(tmp_path: Path) -> None:
    old = snapshot(tmp_path, WEATHER, [[put("JFK", 0, 1, temp=7)]])
    old.group = WEATHER.with_features({"gust": "float64"})
    old._tail = None
    answer = join(labels_at(("JFK", 5)), [FeatureLookup("weather")], {"weather": old})
    assert answer.select(["temp", "gust"]).to_pylist() == [{"temp": 7, "gust": None}]


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


def composite(tmp_path: Path) -> tuple[FeatureGroup, dict[tuple[Any, ...], int], Any]:
    group = define(
        "weather",
        record_identifier=["carrier", "number", "day", "international", "built", "code"],
        event_time="at",
        features={
            "at": "timestamp", "carrier": "string", "number": "int32", "day": "date",
            "international": "bool", "built": "timestamp", "code": "binary", "temp": "int64",
        },
        id=1,
    )  # fmt: skip
    days, built = [date(2013, 1, 1), date(2013, 1, 2)], [EPOCH, EPOCH + timedelta.resolution]
    every = product(["A", "AB", ""], [1, 12], days, [True, False], built, [b"", b"B"])
    keys = [key for i, key in enumerate(every) if i % 7 not in (1, 4)]
    temps = {key: i for i, key in enumerate(keys)}
    events = [put(key, 0, 1 + i, temp=i) for key, i in temps.items()]
    half = len(events) // 2
    return group, temps, snapshot(tmp_path, group, [events[:half]], events[half:], hash_bits=2)


def test_composite_keys_are_compared_part_by_part(tmp_path: Path) -> None:
    group, temps, taken = composite(tmp_path)
    keys = list(temps)
    # Each key with one part taken from another: some exist, some do not, all are near misses.
    asked = [
        (*key[:part], other[part], *key[part + 1 :])
        for key, other in zip(keys, [*keys[7:], *keys[:7]], strict=True)
        for part in range(6)
    ]
    asked += [(*keys[0][:part], None, *keys[0][part + 1 :]) for part in range(6)]
    columns = {
        name: pa.array([key[i] for key in asked], group.feature(name).dtype.to_arrow())
        for i, name in enumerate(group.record_identifier)
    }
    labels = pa.table({**columns, "event_time": times([0] * len(asked))})
    answer = join(labels, [FeatureLookup("weather")], {"weather": taken})
    expected = [temps.get(key) for key in asked]
    assert None in expected[:-6]
    assert len({temp for temp in expected if temp is not None}) > 10
    assert answer["temp"].to_pylist() == expected


def test_text_is_never_glued_together(tmp_path: Path) -> None:
    group = define(
        "pairs", record_identifier=["a", "b"], event_time="at", id=1,
        features={"a": "string", "b": "string", "at": "timestamp", "x": "int64"},
    )  # fmt: skip
    taken = snapshot(tmp_path, group, [[put(("a", "bc"), 0, 1, x=1), put(("ab", "c"), 0, 2, x=2)]])
    labels = pa.table(
        {"a": ["ab", "a", "abc", "a"], "b": ["c", "bc", "", "c"], "event_time": times([0] * 4)}
    )
    answer = join(labels, [FeatureLookup("pairs")], {"pairs": taken})
    assert answer["x"].to_pylist() == [2, 1, None, None]


@pytest.mark.parametrize(
    "origin",
    [
        pa.array(["JFK", "EWR"], pa.large_string()),
        pa.array(["JFK", "EWR"], pa.string_view()),
        pa.array(["JFK", "EWR"]).dictionary_encode(),
        pa.chunked_array([["JFK"], [], ["EWR"]]),
    ],
)
def test_keys_of_any_type_that_loses_nothing(origin: Any, weather: dict[str, Any]) -> None:
    labels = pa.table({"origin": origin, "event_time": times([10, 10])})
    assert join(labels, [FeatureLookup("weather")], weather)["temp"].to_pylist() == [1, 100]


def test_integer_keys_that_pandas_made_floats(tmp_path: Path) -> None:
    group = define(
        "planes", record_identifier="id", event_time="at", id=1,
        features={"id": "int32", "at": "timestamp", "seats": "int64"},
    )  # fmt: skip
    taken = snapshot(tmp_path, group, [[put((7,), 0, 1, seats=180)]])
    labels = pd.DataFrame({"id": [7, None, 8], "event_time": [EPOCH] * 3})
    assert labels["id"].dtype == np.float64
    answer = join(labels, [FeatureLookup("planes")], {"planes": taken}, with_status=True)
    assert answer["seats"].tolist() == [180, pd.NA, pd.NA]
    assert answer["planes__status"].tolist() == ["PRESENT", "MISSING", "MISSING"]
    with pytest.raises(InvalidRecord, match='column "id" does not fit the key "id" of "planes"'):
        join(labels.assign(id=[1.5, 2, 3]), [FeatureLookup("planes")], {"planes": taken})


# ── lookups ──────────────────────────────────────────────────────────────────────────────────


def test_one_group_in_two_roles(weather: dict[str, GroupSnapshot]) -> None:
    labels = pa.table(
        {"origin": ["JFK", "EWR"], "dest": ["EWR", "JFK"], "event_time": times([20, 25])}
    )
    lookups = [
        FeatureLookup("weather", "temp"),
        FeatureLookup("weather", "temp", on={"origin": "dest"}, prefix="dest_", max_age="9us"),
    ]
    answer = join(labels, lookups, weather, with_status=True)
    assert answer["temp"].to_pylist() == [2, 100]
    assert answer["dest_temp"].to_pylist() == [None, 2]
    assert answer["weather__status"].to_pylist() == ["PRESENT", "PRESENT"]
    assert answer["dest__status"].to_pylist() == ["EXPIRED", "PRESENT"]
    assert answer.column_names == [
        "origin", "dest", "event_time",
        "temp", "weather__status", "weather__event_time", "weather__age",
        "dest_temp", "dest__status", "dest__event_time", "dest__age",
    ]  # fmt: skip


def test_several_groups_each_with_its_own_history(tmp_path: Path) -> None:
    planes = define(
        "planes", record_identifier="tailnum", event_time="since", id=2,
        features={"tailnum": "int64", "since": "timestamp", "seats": "int16"},
    )  # fmt: skip
    snapshots = {
        "weather": snapshot(tmp_path, WEATHER, [[put("JFK", 3, 1, temp=9)]]),
        "planes": snapshot(tmp_path, planes, [], [put((5,), 1, 2, seats=180)]),
    }
    labels = labels_at(("JFK", 2), ("JFK", 3)).append_column("tailnum", pa.array([5, 6]))
    answer = join(labels, [FeatureLookup("planes"), FeatureLookup("weather")], snapshots)
    assert answer.select(["seats", "temp"]).to_pylist() == [
        {"seats": 180, "temp": None},
        {"seats": None, "temp": 9},
    ]


def test_one_column_as_keys_of_two_types(tmp_path: Path) -> None:
    """The text of a day is a key of texts and, as it is cast, one of dates: numbered apart."""
    snapshots = {}
    keys = {"dated": ("date", date(2024, 3, 1)), "worded": ("string", "2024-03-01")}
    for number, (name, (dtype, key)) in enumerate(keys.items()):
        group = define(
            name, record_identifier="day", event_time="at", id=number + 1,
            features={"day": dtype, "at": "timestamp", f"{name}_x": "int64"},
        )  # fmt: skip
        events = [put((key,), 1, 1, **{f"{name}_x": number})]
        snapshots[name] = snapshot(tmp_path / name, group, [events])
    labels = pa.table({"day": ["2024-03-01", "2024-03-02"], "event_time": times([5, 5])})
    for names in (["dated", "worded"], ["worded", "dated"]):
        answer = join(labels, [FeatureLookup(name) for name in names], snapshots)
        assert answer["dated_x"].to_pylist() == [0, None]
        assert answer["worded_x"].to_pylist() == [1, None]


def test_lookups_of_one_reading_share_one_status(weather: dict[str, GroupSnapshot]) -> None:
    lookups = [FeatureLookup("weather", "temp"), FeatureLookup("weather", "at")]
    answer = join(labels_at(("JFK", 25)), lookups, weather, with_status=True)
    assert answer.column_names[2:] == [
        "temp", "weather__status", "weather__event_time", "weather__age", "at",
    ]  # fmt: skip
    assert answer["at"].cast(pa.int64()).to_pylist() == [20]


def test_the_identifier_and_event_time_may_be_asked_for(weather: dict[str, GroupSnapshot]) -> None:
    lookup = FeatureLookup("weather", ["at", "origin"], prefix="w_")
    answer = join(labels_at(("JFK", 25), ("JFK", 30)), [lookup], weather)
    assert answer["w_at"].cast(pa.int64()).to_pylist() == [20, None]
    assert answer["w_origin"].to_pylist() == ["JFK", None]


def test_a_group_without_features_still_has_a_status(tmp_path: Path) -> None:
    seen = define(
        "seen", record_identifier="origin", event_time="at", id=1,
        features={"origin": "string", "at": "timestamp"},
    )  # fmt: skip
    snapshots = {"seen": snapshot(tmp_path, seen, [[put("JFK", 3, 1)]])}
    labels = labels_at(("JFK", 5), ("EWR", 5))
    assert join(labels, [FeatureLookup("seen")], snapshots).equals(labels)
    answer = join(labels, [FeatureLookup("seen")], snapshots, with_status=True)
    assert answer["seen__status"].to_pylist() == ["PRESENT", "MISSING"]


def test_renamed_columns(weather: dict[str, GroupSnapshot]) -> None:
    lookup = FeatureLookup("weather", ["temp", "at"], prefix="w_", rename={"temp": "celsius"})
    answer = join(labels_at(("JFK", 25)), [lookup], weather)
    assert answer.column_names == ["origin", "event_time", "celsius", "w_at"]


# ── empty sides ──────────────────────────────────────────────────────────────────────────────


def test_no_labels(weather: dict[str, GroupSnapshot]) -> None:
    answer = join(labels_at(), [FeatureLookup("weather")], weather, with_status=True)
    assert answer.num_rows == 0
    assert answer.schema.field("temp").type == pa.int64()
    assert answer.schema.field("weather__event_time").type == UTC_US


def test_no_history(tmp_path: Path) -> None:
    empty = {"weather": snapshot(tmp_path, WEATHER, [])}
    answer = join(labels_at(("JFK", 5)), [FeatureLookup("weather")], empty, with_status=True)
    assert answer.select(["temp", "weather__status", "weather__age"]).to_pylist() == [
        {"temp": None, "weather__status": "MISSING", "weather__age": None}
    ]


def test_no_label_has_a_key(weather: dict[str, GroupSnapshot]) -> None:
    labels = pa.table({"origin": pa.nulls(2), "event_time": times([10, 20])})
    answer = join(labels, [FeatureLookup("weather")], weather, with_status=True)
    assert answer["temp"].to_pylist() == [None, None]
    assert answer["weather__status"].to_pylist() == ["MISSING", "MISSING"]


# ── tables of callers ────────────────────────────────────────────────────────────────────────


def test_pandas_stays_as_it_was(weather: dict[str, GroupSnapshot]) -> None:
    labels = pd.DataFrame(
        {
            "what": [object(), {"any": 1}, 3],
            "origin": pd.Categorical(["EWR", "JFK", "never"]),
            "event_time": pd.to_datetime([25, 25, 25], unit="us", utc=True),
            "late": pd.array([True, None, False], "boolean"),
        },
        index=pd.Index(["x", "x", "y"], name="flight"),
    )
    before = labels.copy(deep=False)
    answer = join(labels, [FeatureLookup("weather")], weather, with_status=True)
    pd.testing.assert_frame_equal(answer[list(labels.columns)], before)
    pd.testing.assert_frame_equal(labels, before)
    assert answer["temp"].dtype == "Int64"
    assert answer["temp"].tolist() == [100, 2, pd.NA]
    assert str(answer["weather__event_time"].dtype) == "datetime64[us, UTC]"
    assert answer["weather__age"].tolist() == [
        pd.Timedelta(15, "us"), pd.Timedelta(5, "us"), pd.NaT,
    ]  # fmt: skip
    assert join(labels[:2], [FeatureLookup("weather")], weather)["temp"].dtype == np.int64


def test_polars_in_polars_out(weather: dict[str, GroupSnapshot]) -> None:
    labels = pl.DataFrame(
        {"origin": ["EWR", "never"], "event_time": [EPOCH + timedelta(seconds=1)] * 2}
    )
    answer = join(labels, [FeatureLookup("weather")], weather)
    assert isinstance(answer, pl.DataFrame)
    assert answer.columns == ["origin", "event_time", "temp"]
    assert answer["temp"].to_list() == [100, None]
    assert answer.schema["temp"] == pl.Int64


def test_arrow_keeps_its_types_and_metadata(weather: dict[str, GroupSnapshot]) -> None:
    labels = labels_at(("JFK", 25)).append_column("tag", pa.array(["x"]).dictionary_encode())
    labels = labels.replace_schema_metadata({"made": "by hand"})
    answer = join(labels, [FeatureLookup("weather")], weather)
    assert answer.select(labels.column_names).equals(labels)
    assert answer.schema.metadata == {b"made": b"by hand"}
    assert answer.schema.field("temp").metadata is None


def test_rows_and_columns_written_out(weather: dict[str, GroupSnapshot]) -> None:
    row = {"origin": "EWR", "event_time": "1970-01-01T00:00:01Z"}
    for labels in ([row], {name: [value] for name, value in row.items()}):
        assert join(labels, [FeatureLookup("weather")], weather).to_pylist() == [
            {**row, "temp": 100}
        ]


def test_plans_and_other_things_are_no_labels(weather: dict[str, GroupSnapshot]) -> None:
    for labels, reason in (
        (pl.LazyFrame({"origin": ["JFK"]}), r"LazyFrame is a plan; collect\(\) it first"),
        ("labels.csv", "a str is no table; give a pandas or Polars DataFrame"),
        ([1, 2], "a list is no table"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            join(labels, [FeatureLookup("weather")], weather)


# ── label times ──────────────────────────────────────────────────────────────────────────────


def test_a_label_without_time_is_refused_by_row(weather: dict[str, GroupSnapshot]) -> None:
    labels = pa.table({"origin": ["JFK"] * 4, "event_time": times([1, None, 3, None])})
    with pytest.raises(InvalidEventTime, match=r"missing in 2 of 4 rows \(1, 3\)") as caught:
        join(labels, [FeatureLookup("weather")], weather)
    assert [row for row, _ in caught.value.rows] == [1, 3]


def test_naive_label_times_need_a_zone(weather: dict[str, GroupSnapshot]) -> None:
    local = datetime(1970, 1, 1, 5, 0, 0, 20)  # noqa: DTZ001  (what the test is about)
    labels = pd.DataFrame({"origin": ["JFK"], "event_time": [local]})
    with pytest.raises(InvalidEventTime, match=r'label time "event_time".* no time zone'):
        join(labels, [FeatureLookup("weather")], weather)
    assert join(labels, [FeatureLookup("weather")], weather, tz="Etc/GMT-5")["temp"].tolist() == [2]


def test_the_label_time_is_not_guessed(weather: dict[str, GroupSnapshot]) -> None:
    labels = labels_at(("JFK", 25)).rename_columns(["origin", "departed"])
    with pytest.raises(InvalidInput, match=r'label_time=.* Columns of timestamps: "departed"\.'):
        join(labels, [FeatureLookup("weather")], weather)
    with pytest.raises(InvalidInput, match=r'no column "departde"\. Did you mean "departed"\?'):
        join(labels, [FeatureLookup("weather")], weather, label_time="departde")
    answer = join(labels, [FeatureLookup("weather")], weather, label_time="departed")
    assert answer["temp"].to_pylist() == [2]


# ── refused, with what to do ─────────────────────────────────────────────────────────────────


def test_names_that_do_not_fit(weather: dict[str, GroupSnapshot]) -> None:
    labels = labels_at(("JFK", 25)).rename_columns(["orign", "event_time"])
    with pytest.raises(InvalidInput, match=r'Did you mean "orign"\?.*on=\{"origin": <column>\}'):
        join(labels, [FeatureLookup("weather")], weather)
    indexed = labels_at(("JFK", 25)).to_pandas().set_index("origin")
    with pytest.raises(InvalidInput, match=r"in the index: call reset_index\(\) first"):
        join(indexed, [FeatureLookup("weather")], weather)
    with pytest.raises(UnknownFeature, match='Did you mean "temp"'):
        join(labels, [FeatureLookup("weather", "tmep")], weather)
    with pytest.raises(UnknownFeatureGroup, match='Did you mean "weather"'):
        join(labels, [FeatureLookup("wether")], weather)
    with pytest.raises(UnknownFeature, match="no part of the group's identifier"):
        join(labels, [FeatureLookup("weather", on={"orgin": "orign"})], weather)
    with pytest.raises(InvalidInput, match='"event_time" or "write_time"'):
        join(labels, [FeatureLookup("weather", on={"origin": "orign"})], weather, known="now")


def test_a_clash_names_the_cure(weather: dict[str, GroupSnapshot]) -> None:
    labels = labels_at(("JFK", 25)).append_column("temp", pa.array([1]))
    with pytest.raises(ColumnClash, match=r'"temp".*the labels.*prefix=.*rename='):
        join(labels, [FeatureLookup("weather")], weather)
    labels = labels_at(("JFK", 25))
    twice = [FeatureLookup("weather"), FeatureLookup("weather", "temp", delay="1h")]
    with pytest.raises(ColumnClash, match=r'"temp".*a lookup in "weather"'):
        join(labels, twice, weather)
    roles = [FeatureLookup("weather"), FeatureLookup("weather", "at", delay="1h")]
    with pytest.raises(ColumnClash, match='"weather__status"'):
        join(labels, roles, weather, with_status=True)
    doubled = pa.table([["JFK"], ["EWR"], times([25])], names=["origin", "origin", "event_time"])
    with pytest.raises(ColumnClash, match='2 columns named "origin"'):
        join(doubled, [FeatureLookup("weather")], weather)


# ── what is not read ─────────────────────────────────────────────────────────────────────────


class Watched:
    """A snapshot that remembers which columns of which file were read."""

    def __init__(self, inner: GroupSnapshot) -> None:
        self.inner = inner
        self.read_columns: dict[int, set[str]] = defaultdict(set)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read(self, entry: Any, columns: list[str]) -> pa.Table:
        self.read_columns[entry.file_id] |= set(columns)
        return self.inner.read(entry, columns)


@pytest.fixture
def three_years(tmp_path: Path) -> Watched:
    """Files 0, 1, 2: JFK in the first, second, third hundred; file 1 also has EWR."""
    files = [[put("JFK", 100 * i + t, 100 * i + t, temp=t) for t in range(1, 10)] for i in range(3)]
    files[1].append(put("EWR", 105, 999, temp=0))
    return Watched(snapshot(tmp_path, WEATHER, files))


@pytest.mark.parametrize(
    ("lookup", "label", "status", "read"),
    [
        ({}, ("JFK", 500), False, {0, 1, 2}),
        ({}, ("JFK", 150), False, {0, 1}),  # the third hundred is the labels' future
        ({"delay": "50us"}, ("JFK", 150), False, {0}),
        ({"max_age": "60us"}, ("JFK", 150), False, {1}),  # the first hundred is over age
        ({"max_age": "60us"}, ("JFK", 150), True, {0, 1}),  # but EXPIRED is not MISSING
        ({}, ("EWR", 500), False, {1}),  # its hash is in the range of one file,
        ({}, ("LGA", 500), False, set()),  # and this one in none
    ],
)  # fmt: skip
def test_files_that_cannot_matter_are_not_read(
    three_years: Watched, lookup: Any, label: tuple[str, int], status: bool, read: set[int]
) -> None:
    asked = [FeatureLookup("weather", **lookup)]
    join(labels_at(label), asked, {"weather": three_years}, with_status=status)
    assert set(three_years.read_columns) == read


def test_files_after_the_snapshot_are_not_read(three_years: Watched) -> None:
    three_years.inner.seq = 100
    join(labels_at(("JFK", 500)), [FeatureLookup("weather")], {"weather": three_years})
    assert set(three_years.read_columns) == {0}


def test_features_are_read_only_where_a_row_was_found(three_years: Watched) -> None:
    join(labels_at(("JFK", 150)), [FeatureLookup("weather")], {"weather": three_years})
    assert "temp" not in three_years.read_columns[0]
    assert "temp" in three_years.read_columns[1]
    assert "write_time" not in three_years.read_columns[0]


def test_small_files_are_matched_together(
    three_years: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = labels_at(("JFK", 150), ("EWR", 500), ("JFK", 500))
    answers = []
    for rows_min in (1, 15, 1 << 20):
        monkeypatch.setattr(point_in_time, "_MATCH_ROWS_MIN", rows_min)
        answers.append(join(labels, [FeatureLookup("weather")], {"weather": three_years}))
    assert answers[0]["temp"].to_pylist() == [9, 0, 9]
    assert answers[0].equals(answers[1])
    assert answers[0].equals(answers[2])


def test_a_file_read_in_many_chunks(three_years: Watched) -> None:
    class Chunked(Watched):
        def read(self, entry: Any, columns: list[str]) -> pa.Table:
            table = self.inner.read(entry, columns)
            return pa.concat_tables([table.slice(i, 2) for i in range(0, table.num_rows, 2)])

    labels = labels_at(*(("JFK", t) for t in (109, 104, 3, 105, 208, 1)), ("EWR", 300))
    chunked = {"weather": Chunked(three_years.inner)}
    answer = join(labels, [FeatureLookup("weather")], chunked)
    assert answer["temp"].to_pylist() == [9, 4, 3, 5, 8, 1, 0]


# ── the last line ────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_not_as_listed_is_not_answered_from(three_years: Watched) -> None:
    class Short(Watched):
        def read(self, entry: Any, columns: list[str]) -> pa.Table:
            return self.inner.read(entry, columns).slice(1)

    with pytest.raises(CorruptStore, match="8 rows where 9 are listed"):
        join(
            labels_at(("JFK", 50)),
            [FeatureLookup("weather")],
            {"weather": Short(three_years.inner)},
        )


def test_a_result_with_other_rows_than_the_labels_is_thrown_away(
    weather: dict[str, GroupSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point_in_time.frames, "append", lambda frame, _columns: frame.slice(1))
    with pytest.raises(FeatureStoreError, match="A join of 1 labels gave"):
        join(labels_at(("JFK", 25)), [FeatureLookup("weather")], weather)


# ── through the front door ───────────────────────────────────────────────────────────────────


def test_answers_do_not_depend_on_where_the_rows_lie(store: fs.FeatureStore) -> None:
    """Journal tail, flushed file, staged file, cell: the same rows, the same answers."""
    store.create_feature_group(
        "weather", record_identifier="origin", event_time="at",
        features={"origin": "string", "at": "timestamp", "temp": "int64"},
    )  # fmt: skip

    def put_at(key: str, second: int, temp: int) -> None:
        moment = EPOCH + timedelta(seconds=second)
        store.put_record("weather", {"origin": key, "at": moment, "temp": temp})

    labels = labels_at(*((key, t * SECOND) for key in ("JFK", "EWR") for t in range(8)))

    def answer(**how: Any) -> list[int | None]:
        return store.point_in_time(labels, "weather:temp", **how)["temp"].to_pylist()

    put_at("JFK", 2, 20)
    put_at("JFK", 4, 40)
    before = store.snapshot()
    then = [None, None, 20, 20, 40, 40, 40, 40, *[None] * 8]
    assert answer() == then
    rows = {"origin": ["JFK", "EWR"], "at": times([3 * SECOND, 5 * SECOND]), "temp": [30, 500]}
    store.ingest("weather", pa.table(rows))
    put_at("JFK", 4, 41)
    store.delete_record("weather", "EWR", event_time=EPOCH + timedelta(seconds=6))
    now = [None, None, 20, 30, 41, 41, 41, 41, *[None] * 5, 500, None, None]
    assert (answer(), answer(as_of=before)) == (now, then)
    store.flush()
    assert (answer(), answer(as_of=before)) == (now, then)
    put_at("JFK", 7, 70)
    store.compact()
    assert (answer(), answer(as_of=before)) == ([*now[:7], 70, *now[8:]], then)
