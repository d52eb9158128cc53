"""The verbs of ``fs.open`` and of ``fs.connect``: one suite, run against both."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featurestore as fs
from featurestore import wire
from featurestore.engine.verify.findings import Fault
from featurestore.event_time import to_us
from tests.server.serving import serving

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CLOCK = NOON + 9 * HOUR
FEATURES = {"origin": "string", "hour": "timestamp", "temp": "float64", "wind": "int32"}
TABLE = pa.table(
    {
        "origin": ["JFK", "EWR", "JFK", "LGA"],
        "hour": pa.array([NOON, NOON, NOON + HOUR, NOON], pa.timestamp("us", tz="UTC")),
        "temp": [39.0, 40.5, None, 38.0],
        "wind": pa.array([7, None, 9, 2], pa.int32()),
    }
)
EVERY_TYPE = {
    "k": "int64", "at": "timestamp", "flag": "bool", "tiny": "int8", "big": "int64",
    "single": "float32", "double": "float64", "text": "string", "raw": "binary", "day": "date",
    "seen": "timestamp", "counts": "list<int64>", "names": "list<string>", "times":
    "list<timestamp>", "raws": "list<binary>", "doubles": "list<float64>",
    "embedding": "vector<float32, 3>",
}  # fmt: skip


@pytest.fixture(params=["local", "remote"])
def store(request: Any, tmp_path: Path) -> Iterator[Any]:
    """Give the same store by either door."""
    with fs.open(tmp_path / "store", clock=lambda: CLOCK) as opened:
        if request.param == "local":
            yield opened
        else:
            with serving(opened) as url, fs.connect(url) as remote:
                yield remote
        if not opened.closed:
            assert opened.verify() == []


@pytest.fixture
def weather(store: Any) -> fs.FeatureGroup:
    return make(store)


def make(store: Any, name: str = "weather", **options: Any) -> fs.FeatureGroup:
    found: fs.FeatureGroup = store.create_feature_group(
        name, record_identifier="origin", event_time="hour", features=FEATURES, **options
    )
    return found


# ── groups and views ─────────────────────────────────────────────────────────────────────────


def test_groups_are_made_found_changed_and_deleted(store: Any) -> None:
    made = make(
        store,
        description="Hourly airport weather",
        tags={"owner": "ops", "tier": "1"},
        ttl="2h",
        max_future=None,
        feature_descriptions={"wind": "knots"},
    )
    assert made == store.describe_feature_group("weather")
    assert (made.ttl_us, made.max_future_us) == (7_200_000_000, None)
    assert made.feature("wind").description == "knots"
    make(store, "gusts", offline=False)
    names = lambda found: [group.name for group in found]  # noqa: E731
    assert names(store.list_feature_groups()) == ["gusts", "weather"]
    assert names(store.search("AIRPORT")) == ["weather"]
    assert names(store.search(tags={"owner": "ops"})) == ["weather"]
    assert names(store.search(tags={"owner": "nobody"})) == []
    grown = store.update_feature_group(
        "weather", add_features={"gust": "float64"}, ttl=None, tags={}
    )
    assert (grown.version, grown.ttl_us, grown.tags) == (2, None, {})
    assert grown.description == "Hourly airport weather"
    assert make(store, exist_ok=True, max_future=None) == grown
    store.delete_feature_group("gusts")
    assert names(store.list_feature_groups()) == ["weather"]


def test_a_group_takes_the_shape_of_a_table(store: Any) -> None:
    options: dict[str, Any] = {"record_identifier": "origin", "event_time": "hour"}
    like = store.create_feature_group("a", like=TABLE, **options)
    schema = store.create_feature_group("b", features=TABLE.schema, **options)
    frame = store.create_feature_group("c", like=pl.from_arrow(TABLE), **options)
    types = lambda group: {f.name: str(f.dtype) for f in group.features}  # noqa: E731
    assert types(like) == types(schema) == types(frame) == FEATURES


@pytest.mark.usefixtures("weather")
def test_a_view_reads_its_groups_online_as_it_joins_them(store: Any) -> None:
    store.ingest("weather", TABLE)
    references = [
        "weather:temp",
        fs.FeatureLookup("weather", ["wind"], on={"origin": "dest"}, prefix="dest_"),
    ]
    view = store.create_feature_view("flights", references, description="both ends")
    assert store.list_feature_views() == [view]
    assert store.describe_feature_view("flights") == view
    one = {"origin": "EWR", "dest": "LGA"}
    for asked in ("flights", view, references):
        assert store.get_features(asked, one) == {"temp": 40.5, "dest_wind": 2}
    assert store.get_features("weather:hour", one) == {"hour": NOON}
    detailed = store.get_features("flights", one, with_status=True)
    assert detailed["weather__status"] == "PRESENT"
    assert (detailed["weather__event_time"], detailed["weather__age"]) == (NOON, 9 * HOUR)
    entities = pd.DataFrame({"origin": ["EWR", "XXX"], "dest": ["LGA", "JFK"]}, index=[7, 8])
    many = store.get_features("flights", entities, with_status=True)
    assert list(many.index) == [7, 8]
    assert many["dest_wind"].tolist() == [2, 9]
    assert many["weather__status"].tolist() == ["PRESENT", "MISSING"]
    labels = entities.assign(at=NOON + 2 * HOUR, junk=[object(), object()])
    joined = store.point_in_time(labels, "flights", label_time="at")
    pd.testing.assert_frame_equal(joined[["temp", "dest_wind"]], many[["temp", "dest_wind"]])
    assert joined["junk"].tolist() == labels["junk"].tolist()
    with pytest.raises(fs.InvalidInput, match="flights"):
        store.delete_feature_group("weather")
    store.delete_feature_view("flights")
    with pytest.raises(fs.UnknownFeatureView):
        store.get_features("flights", {"origin": "EWR"})


# ── writing ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("weather")
def test_a_put_says_what_became_of_it(store: Any) -> None:
    record = {"origin": "JFK", "hour": NOON, "temp": 39.0}
    first = store.put_record("weather", record, ttl="20h")
    assert first == fs.PutResult(1, "moved", False, CLOCK, NOON + 20 * HOUR)
    assert store.put_record("weather", record, ttl="20h").outcome == "unchanged"
    late = store.put_record("weather", {"origin": "JFK", "hour": NOON - HOUR})
    assert (late.outcome, late.late, late.seq) == ("late", True, 2)
    off = store.put_record("weather", {"origin": "X", "hour": NOON}, target_stores=["offline"])
    assert off.outcome == "offline_only"
    naive = {"origin": "JFK", "hour": datetime(2013, 1, 1, 14)}  # noqa: DTZ001
    with pytest.raises(fs.InvalidEventTime, match="zone"):
        store.put_record("weather", naive)
    assert store.put_record("weather", naive, tz="Asia/Tokyo").late
    assert store.snapshot() == 4


@pytest.mark.usefixtures("weather")
def test_a_request_id_counts_once(store: Any) -> None:
    record = {"origin": "JFK", "hour": NOON, "temp": 39.0}
    for id_ in ("a", "ü – not ASCII", "x" * 1000):
        first = store.put_record("weather", record, request_id=id_)
        again = store.put_record("weather", record, request_id=id_)
        assert again.replayed
        assert again.seq == first.seq
        with pytest.raises(fs.RequestMismatch):
            store.put_record("weather", {**record, "temp": 1.0}, request_id=id_)
    both = [("weather", record), ("weather", {**record, "origin": "EWR"})]
    assert [r.replayed for r in store.write(both, request_id="w")] == [False, False]
    assert [r.replayed for r in store.write(both, request_id="w")] == [True, True]
    gone = store.delete_record("weather", "EWR", event_time=NOON + HOUR, request_id="d")
    assert store.delete_record("weather", "EWR", event_time=NOON + HOUR, request_id="d").seq == (
        gone.seq
    )


@pytest.mark.usefixtures("weather")
def test_a_write_is_all_or_nothing(store: Any) -> None:
    make(store, "gusts")
    good = {"origin": "JFK", "hour": NOON, "temp": 39.0}
    with pytest.raises(fs.InvalidRecord):
        store.write([("weather", good), ("gusts", {**good, "temp": "warm"})])
    assert store.snapshot() == 0
    assert [r.seq for r in store.write([("weather", good), ("gusts", good)])] == [1, 2]
    assert store.write([]) == []


@pytest.mark.usefixtures("weather")
def test_deletes_soft_and_hard(store: Any) -> None:
    store.ingest("weather", TABLE)
    assert store.delete_record("weather", "EWR", event_time=NOON + HOUR).outcome == "moved"
    found = store.get_record("weather", "EWR", with_status=True)
    assert (found.status, found.record, found.event_time) == ("DELETED", None, NOON + HOUR)
    with pytest.raises(fs.StaleDelete):
        store.delete_record("weather", "LGA", event_time=NOON - HOUR, hard=True)
    store.delete_record("weather", "LGA", event_time="2013-01-01T14:00:00+01:00", hard=True)
    assert store.get_record("weather", "LGA") is None
    store.delete_record("weather", "JFK", event_time=NOON + 2 * HOUR, target_stores=["offline"])
    assert store.get_record("weather", "JFK", ["wind"]) == {"wind": 9}


@pytest.mark.usefixtures("weather")
def test_an_update_changes_what_it_names(store: Any) -> None:
    store.ingest("weather", TABLE)
    done = store.update_record("weather", "JFK", {"temp": 1.5, "hour": NOON + 2 * HOUR}, ttl="9h")
    assert (done.outcome, done.expires_at) == ("moved", NOON + 11 * HOUR)
    expected = {"origin": "JFK", "hour": NOON + 2 * HOUR, "temp": 1.5, "wind": 9}
    assert store.get_record("weather", "JFK") == expected
    again = store.update_record_async("weather", "EWR", {"wind": None, "temp": 0.0}).result()
    assert again.seq == done.seq + 1
    with pytest.raises(fs.StaleUpdate):
        store.update_record("weather", "JFK", {"hour": NOON})
    with pytest.raises(fs.RecordNotFound):
        store.update_record("weather", "XXX", {"temp": 1.0})


@pytest.mark.usefixtures("weather")
def test_features_are_described_and_tagged_later(store: Any) -> None:
    tags = {"wind": {"unit": "knots"}}
    told = store.update_feature_group(
        "weather",
        add_features={"gust": "float64"},
        feature_descriptions={"gust": "peak", "wind": "mean"},
        feature_tags=tags,
    )
    assert told == store.describe_feature_group("weather")
    assert [told.feature(n).description for n in ("gust", "wind")] == ["peak", "mean"]
    assert told.feature("wind").tags == tags["wind"]
    assert [group.name for group in store.search("KNOTS")] == ["weather"]


# ── ingest ───────────────────────────────────────────────────────────────────────────────────


def as_path(table: pa.Table, folder: Path) -> str:
    pq.write_table(table, folder / "w.parquet")
    return str(folder / "w.parquet")


def as_csv(table: pa.Table, folder: Path) -> Path:
    pyarrow.csv.write_csv(table, folder / "w.csv")
    return folder / "w.csv"


SHAPES: dict[str, Callable[[pa.Table, Path], Any]] = {
    "Arrow table": lambda t, _: t,
    "no rows": lambda t, _: pa.concat_tables([t.slice(0, 0), t]),
    "record batch": lambda t, _: t.to_batches()[0],
    "reader": lambda t, _: t.to_reader(),
    "dictionaries": lambda t, _: t.set_column(0, "origin", t["origin"].dictionary_encode()),
    "pandas": lambda t, _: t.to_pandas(),
    "Polars": lambda t, _: pl.from_arrow(t),
    "list of dicts": lambda t, _: t.to_pylist(),
    "iterator of dicts": lambda t, _: iter(t.to_pylist()),
    "iterator of tables": lambda t, _: iter([t.slice(0, 2), t.slice(2)]),
    "Parquet path": as_path,
    "list of paths": lambda t, folder: [as_path(t, folder)],
    "CSV path": as_csv,
}


@pytest.mark.usefixtures("weather")
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_input_gives_the_same_history(
    shape: str, store: Any, tmp_path: Path
) -> None:
    assert store.ingest("weather", SHAPES[shape](TABLE, tmp_path)) == fs.IngestResult(accepted=4)
    again = store.ingest("weather", SHAPES[shape](TABLE, tmp_path))
    assert again == fs.IngestResult(replayed=4)
    stored = store.sql("SELECT * FROM weather ORDER BY origin, hour")
    assert stored.equals(TABLE.sort_by([("origin", "ascending"), ("hour", "ascending")]))


@pytest.mark.usefixtures("weather")
def test_what_is_no_table_is_refused_with_a_hint(store: Any, tmp_path: Path) -> None:
    with pytest.raises(fs.InvalidInput, match="put_record"):
        store.ingest("weather", TABLE.to_pylist()[0])
    with pytest.raises(fs.InvalidInput, match="There is no file"):
        store.ingest("weather", tmp_path / "nowhere.parquet")
    (tmp_path / "w.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(fs.InvalidInput, match="cannot be read as parquet"):
        store.ingest("weather", tmp_path / "w.parquet")
    with pytest.raises(fs.InvalidInput, match="on_error"):
        store.ingest("weather", TABLE, on_error="ignore")
    assert store.snapshot() == 0


@pytest.mark.usefixtures("weather")
@pytest.mark.parametrize("shape", ["Arrow table", "list of dicts", "pandas"])
def test_bad_rows_refuse_a_table_whole_and_are_named(
    shape: str, store: Any, tmp_path: Path
) -> None:
    far = pa.array([NOON, NOON + 99 * HOUR, NOON, NOON], pa.timestamp("us", tz="UTC"))
    bad = SHAPES[shape](TABLE.set_column(1, "hour", far), tmp_path)
    with pytest.raises(fs.InvalidEventTime, match="row 1") as refused:
        store.ingest("weather", bad)
    assert [row for row, _ in refused.value.rows] == [1]
    assert refused.value.accepted == 0
    assert store.snapshot() == 0
    assert store.ingest("weather", bad, on_error="skip") == fs.IngestResult(accepted=3, rejected=1)


@pytest.mark.usefixtures("weather")
def test_an_import_keeps_the_dates_it_was_learned_at(store: Any) -> None:
    arrived = pa.array([NOON + 2 * HOUR] * 4, pa.timestamp("us", tz="UTC"))
    store.ingest("weather", TABLE.append_column("arrived_at", arrived), write_time="arrived_at")
    labels = pa.table({"origin": ["EWR"] * 2, "event_time": [NOON + HOUR, NOON + 2 * HOUR]})
    known = store.point_in_time(labels, ["weather:temp"], known="write_time")
    assert known["temp"].to_pylist() == [None, 40.5]


@pytest.mark.usefixtures("weather")
def test_progress_is_told(store: Any) -> None:
    done: list[int] = []
    rows = ({"origin": f"K{i}", "hour": NOON} for i in range(2500))
    assert store.ingest("weather", rows, progress=done.append).accepted == 2500
    assert done[-1] == 2500


# ── values ───────────────────────────────────────────────────────────────────────────────────


def times(last_year: int) -> st.SearchStrategy[datetime]:
    first, last = datetime.min, datetime(last_year, 12, 30)  # noqa: DTZ001, DTZ901  with a zone below
    return st.datetimes(first.replace(day=2), last, timezones=st.just(UTC))


TIMES = times(9999)
I64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SINGLE = st.floats(width=32)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "flag": st.booleans(), "tiny": st.integers(-128, 127), "big": I64, "single": SINGLE,
    "double": st.floats(), "text": TEXT, "raw": st.binary(max_size=8), "day": st.dates(),
    "seen": TIMES, "counts": st.lists(st.none() | I64, max_size=3),
    "names": st.lists(st.none() | TEXT, max_size=3), "times": st.lists(TIMES, max_size=2),
    "raws": st.lists(st.binary(max_size=3), max_size=2),
    "doubles": st.lists(st.none() | st.floats(), max_size=3),
    "embedding": st.lists(SINGLE, min_size=3, max_size=3),
}  # fmt: skip
RECORDS = st.fixed_dictionaries(
    {
        "k": I64,
        "at": times(2012),
    },
    optional={name: st.none() | values for name, values in VALUES.items()},
)


def same(a: Any, b: Any) -> bool:
    """Compare to the last bit: NaN is NaN, -0.0 is not 0.0, a bool is no int, UTC is UTC."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a.hex() == b.hex() if not math.isnan(a) else math.isnan(b)
    if isinstance(a, datetime):
        return a == b and a.utcoffset() == b.utcoffset()
    return bool(a == b)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """Give one store by both doors at once, with a group of every type."""
    folder = tmp_path_factory.mktemp("pair")
    with fs.open(folder / "store") as local, serving(local) as url, fs.connect(url) as remote:
        local.create_feature_group(
            "all", record_identifier="k", event_time="at", features=EVERY_TYPE
        )
        yield local, remote


@given(record=RECORDS)
def test_a_record_survives_the_way_there_and_back(pair: Any, record: dict[str, Any]) -> None:
    local, remote = pair
    remote.put_record("all", record)
    kept, seen = local.get_record("all", record["k"]), remote.get_record("all", record["k"])
    assert same(kept, seen), (kept, seen)
    (batch,) = remote.batch_get_record({"all": [record["k"]]}).values()
    assert batch.drop_columns("age").equals(
        local.batch_get_record({"all": [record["k"]]})["all"].drop_columns("age")
    )


@settings(max_examples=20)
@given(record=RECORDS)
def test_what_was_put_here_is_read_there(pair: Any, record: dict[str, Any]) -> None:
    local, remote = pair
    local.put_record("all", record)
    assert same(remote.get_record("all", record["k"]), local.get_record("all", record["k"]))
    names = [name for name in record if name not in ("k", "at")] or ["big"]
    assert same(
        remote.get_features(f"all:{','.join(names)}", {"k": record["k"]}),
        local.get_features(f"all:{','.join(names)}", {"k": record["k"]}),
    )


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except fs.FeatureStoreError as error:
        return type(error), str(error)


ODD_VALUES = [
    math.nan, math.inf, 2**53 + 1, 2**63, -(2**63), 10**30, -0.0, True, 1.0, 2.5, "NaN", "7", "é",
    "\ud800", b"\x00\xff", "AAE=", date(2013, 1, 1), NOON, "2013-01-01T05:00Z", "2013-01-01",
    Decimal("1.5"), np.int8(3), np.float32(0.1), np.datetime64("2013-01-01T00:00"), pd.NaT, None,
    [1, None], [math.nan, 1.0, 2.0], (1, 2), np.array([1.0, 2.0, 3.0]), {"a": 1}, [], "",
    pd.Timestamp("2013-01-01T00:00:00.123456789Z"), timedelta(seconds=1), [b"a"], [[1]],
]  # fmt: skip


@pytest.mark.parametrize("name", [n for n in EVERY_TYPE if n not in ("k", "at")])
def test_both_doors_take_and_refuse_the_same_values(pair: Any, name: str) -> None:
    local, remote = pair
    for number, value in enumerate(ODD_VALUES):
        record = {"k": number, "at": NOON, name: value}
        here = outcome(lambda record=record: local.put_record("all", record).moved)
        there = outcome(lambda record=record: remote.put_record("all", record).moved)
        if isinstance(here, tuple):
            assert isinstance(there, tuple), (value, here, there)
            assert there[0] is here[0], (value, here, there)
        else:
            assert there == here, (value, here, there)


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_both_doors_take_and_refuse_the_same_event_times(pair: Any, value: Any) -> None:
    local, remote = pair
    answers = [
        outcome(lambda door=door: door.put_record("all", {"k": 1, "at": value}).seq is not None)
        for door in (local, remote)
    ]
    kinds = [answer[0] if isinstance(answer, tuple) else answer for answer in answers]
    assert kinds[0] == kinds[1], answers


def test_composite_keys_in_every_form(store: Any) -> None:
    store.create_feature_group(
        "seats",
        record_identifier=["flight", "row", "at_day", "code"],
        event_time="at",
        features={
            "flight": "string", "row": "int64", "at_day": "date", "code": "binary",
            "at": "timestamp", "price": "float64",
        },
    )  # fmt: skip
    key = ("UA/15 45?&=%", 2**60, date(2013, 1, 1), b"\x00\xff")
    names = ("flight", "row", "at_day", "code")
    store.put_record("seats", {**dict(zip(names, key, strict=True)), "at": NOON, "price": 1.0})
    for form in (key, list(key), dict(zip(names, key, strict=True))):
        assert store.get_record("seats", form, ["price"]) == {"price": 1.0}
    found = store.batch_get_record({"seats": [key, ("x", 1, "2013-01-02", b"")]}, ["price"])
    assert found["seats"]["price"].to_pylist() == [1.0, None]
    assert found["seats"]["row"].to_pylist() == [2**60, 1]
    with pytest.raises(fs.InvalidRecord, match="4 parts"):
        store.get_record("seats", "UA")
    with pytest.raises(fs.UnknownFeature, match="flight"):
        store.get_record("seats", {"flihgt": "UA"})


# ── reading ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("weather")
def test_a_look_up_says_what_it_found(store: Any) -> None:
    store.put_record("weather", {"origin": "JFK", "hour": NOON, "temp": 39.0}, ttl="9h")
    store.put_record("weather", {"origin": "EWR", "hour": NOON, "temp": 40.0}, ttl="9h1s")
    assert store.get_record("weather", "EWR", ["temp", "origin"]) == {"temp": 40.0, "origin": "EWR"}
    assert store.get_record("weather", "EWR", with_status=True) == fs.RecordResult(
        fs.Status.PRESENT,
        {"origin": "EWR", "hour": NOON, "temp": 40.0, "wind": None},
        NOON,
        9 * HOUR,
        2,
        NOON + 9 * HOUR + timedelta(seconds=1),
    )
    assert store.get_record("weather", "JFK") is None
    assert store.get_record("weather", "JFK", with_status=True).status is fs.Status.EXPIRED
    assert store.get_record("weather", "XXX", with_status=True) == fs.RecordResult(
        fs.Status.MISSING
    )
    found = store.batch_get_record({"weather": ["XXX", "EWR", "EWR", "JFK"]})["weather"]
    assert found["status"].to_pylist() == ["MISSING", "PRESENT", "PRESENT", "EXPIRED"]
    assert found["age"].to_pylist() == [None, 9 * HOUR, 9 * HOUR, 9 * HOUR]
    assert found.column_names == ["origin", "hour", "temp", "wind", "status", "age"]
    with pytest.raises(fs.InvalidInput, match="list of keys"):
        store.batch_get_record({"weather": "JFK"})


@pytest.mark.usefixtures("weather")
def test_a_scan_goes_on_where_it_stopped(store: Any) -> None:
    store.ingest("weather", [{"origin": f"K{i}", "hour": NOON} for i in range(25)])
    store.delete_record("weather", "K7", event_time=NOON + HOUR)
    everything = [record["origin"] for record in store.scan("weather")]
    assert sorted(everything) == sorted(f"K{i}" for i in range(25) if i != 7)
    first = store.scan("weather", page_size=10)
    page = next(first.pages())
    rest = store.scan("weather", ["origin"], after=first.token, page_size=4)
    assert page["origin"].to_pylist() + [r["origin"] for r in rest] == everything
    with pytest.raises(fs.InvalidInput, match="token"):
        list(store.scan("weather", after="never a token"))
    with pytest.raises(fs.UnknownFeature):
        store.scan("weather", ["tepm"])


@pytest.mark.usefixtures("weather")
def test_sql_takes_parameters_and_tables(store: Any) -> None:
    store.ingest("weather", TABLE)
    since = store.sql("SELECT count(*) AS n FROM weather WHERE hour > ?", [NOON])
    assert since["n"].to_pylist() == [1]
    named = store.sql("SELECT $raw AS raw, $day AS day", {"raw": b"\x00", "day": date(2013, 1, 1)})
    assert named.to_pylist() == [{"raw": b"\x00", "day": date(2013, 1, 1)}]
    airports = pd.DataFrame({"origin": ["JFK"], "city": ["New York"]})
    joined = store.sql(
        "SELECT city, max(wind) AS wind FROM weather JOIN airports USING (origin) GROUP BY 1",
        tables={"airports": airports},
    )
    assert joined.to_pylist() == [{"city": "New York", "wind": 9}]
    latest = store.sql("SELECT origin FROM latest.Weather ORDER BY 1")
    assert latest["origin"].to_pylist() == ["EWR", "JFK", "LGA"]
    versions = store.sql("SELECT write_seq FROM history.weather ORDER BY 1")
    assert versions["write_seq"].to_pylist() == [1, 2, 3, 4]
    store.flush()
    store.put_record("weather", {"origin": "BOS", "hour": NOON})
    assert store.sql("SELECT count(*) AS n FROM weather")["n"].to_pylist() == [5]


@pytest.mark.usefixtures("weather")
def test_a_join_gives_back_the_kind_of_table_it_was_given(store: Any) -> None:
    store.ingest("weather", TABLE)
    at = pa.array([NOON + HOUR, NOON - HOUR, NOON], pa.timestamp("us", tz="UTC"))
    labels = pa.table({"origin": ["JFK", "JFK", None], "event_time": at, "y": [1, 2, 3]})
    joined = store.point_in_time(labels, "weather:wind,temp", with_status=True)
    assert joined["wind"].to_pylist() == [9, None, None]
    assert joined["weather__status"].to_pylist() == ["PRESENT", "MISSING", "MISSING"]
    assert joined.column_names[:3] == ["origin", "event_time", "y"]
    polars = store.point_in_time(pl.from_arrow(labels), "weather:wind")
    assert isinstance(polars, pl.DataFrame)
    assert polars["wind"].to_list() == [9, None, None]
    before = store.snapshot()
    store.put_record("weather", {"origin": "JFK", "hour": NOON + HOUR, "wind": 99})
    then = store.point_in_time(labels, "weather:wind", as_of=before)
    assert then["wind"].to_pylist() == [9, None, None]
    assert store.point_in_time(labels, "weather:wind")["wind"].to_pylist() == [99, None, None]
    assert store.point_in_time(labels, "weather:wind", as_of=CLOCK + HOUR).equals(
        store.point_in_time(labels, "weather:wind")
    )
    with pytest.raises(fs.InvalidInput, match="as_of"):
        store.point_in_time(labels, "weather:wind", as_of=99)
    with pytest.raises(fs.ColumnClash, match="prefix"):
        store.point_in_time(labels.rename_columns(["origin", "event_time", "wind"]), "weather:*")
    with pytest.raises(fs.InvalidInput, match="event_time"):
        store.point_in_time(labels.drop_columns("event_time"), "weather:wind")


@pytest.mark.usefixtures("weather")
def test_changes_come_once_and_in_order_whatever_is_moved(store: Any) -> None:
    store.ingest("weather", TABLE)
    seen = [c["seq"] for c in store.changes()]
    since = store.snapshot()
    store.put_record("weather", {"origin": "JFK", "hour": NOON, "temp": math.inf})
    assert store.flush() == 5
    store.delete_record("weather", "JFK", event_time=NOON + 5 * HOUR)
    later = list(store.changes(since, ["weather"]))
    assert seen + [c["seq"] for c in later] == [1, 2, 3, 4, 5, 6]
    assert [c["is_deleted"] for c in later] == [False, True]
    assert later[0]["record"] == {"origin": "JFK", "hour": NOON, "temp": math.inf, "wind": None}
    assert later[0]["write_time"] == CLOCK
    assert store.compact() == 5
    assert list(store.changes(since)) == later
    assert store.verify() == []


@pytest.mark.usefixtures("weather")
def test_joins_of_any_shape_give_the_same(store: Any, tmp_path: Path) -> None:
    store.ingest("weather", TABLE)
    at = pa.array([NOON + HOUR, NOON - HOUR, NOON] * 9, pa.timestamp("us", tz="UTC"))
    names = pa.array(["JFK", "JFK", None] * 9)
    labels = pa.table({"origin": names, "event_time": at, "y": list(range(27))})
    coded = labels.set_column(0, "origin", labels["origin"].dictionary_encode())
    whole = store.point_in_time(labels, "weather:wind,temp")
    pq.write_table(labels, tmp_path / "labels.parquet")
    for source in (
        tmp_path / "labels.parquet",
        labels.to_reader(),
        iter([labels.slice(0, 10), labels.slice(10)]),
    ):
        assert store.point_in_time(source, "weather:wind,temp").equals(whole)
    for source in (labels, labels.to_reader(), coded):
        reader = store.point_in_time(source, "weather:wind,temp", stream=True)
        assert isinstance(reader, pa.RecordBatchReader)
        found = reader.read_all()
        assert found["y"].to_pylist() == list(range(27))
        assert found.select(["wind", "temp"]).equals(whole.select(["wind", "temp"]))
    assert found.schema.field("origin").type == coded.schema.field("origin").type
    pieces = iter(labels.to_batches(max_chunksize=4))
    assert store.point_in_time(pieces, "weather:wind,temp", stream=True).read_all().equals(whole)
    why = store.point_in_time(labels, "weather:wind", explain=True)
    assert why["weather__rule"].to_pylist()[:3] == (
        store.point_in_time(labels.slice(0, 3), "weather:wind", explain=True)[
            "weather__rule"
        ].to_pylist()
    )
    assert why["weather__write_seq"].to_pylist()[:3] == [3, None, None]
    last = store.point_in_time(labels, "weather:wind", last_n=2)["wind"].to_pylist()
    assert last[:3] == [[7, 9], None, None]
    with pytest.raises(fs.InvalidInput, match="memory_limit"):
        store.point_in_time(labels, "weather:wind", stream=True, memory_limit=1)
    with pytest.raises(fs.InvalidInput):
        list(store.point_in_time(labels.drop_columns("event_time"), "weather:wind", stream=True))


@pytest.mark.usefixtures("weather")
def test_a_consumer_goes_on_behind_what_it_has_acknowledged(store: Any) -> None:
    store.ingest("weather", TABLE)
    assert store.create_consumer("replica", max_lag=None) == 0
    with pytest.raises(fs.ConsumerExists):
        store.create_consumer("replica")
    assert store.create_consumer("replica", exist_ok=True) == 0
    for change in store.changes(consumer="replica"):
        if change["seq"] <= 3:
            store.acknowledge("replica", change["seq"])
    assert [c["seq"] for c in store.changes(consumer="replica")] == [4]
    assert [c["seq"] for c in store.changes(1, consumer="replica")] == [2, 3, 4]
    store.acknowledge("replica", 1)  # never back
    assert store.stat()["consumers"]["replica"]["seq"] == 3
    assert store.create_consumer("a name/with ?&%", since=store.snapshot()) == 4
    assert list(store.changes(consumer="a name/with ?&%")) == []
    for name in ("replica", "a name/with ?&%"):
        store.delete_consumer(name)
    for refused in (
        lambda: list(store.changes(consumer="replica")),
        lambda: store.acknowledge("replica", 1),
        lambda: store.delete_consumer("replica"),
    ):
        with pytest.raises(fs.UnknownConsumer):
            refused()


@pytest.mark.usefixtures("weather")
def test_a_backup_is_the_store_of_that_moment(store: Any, tmp_path: Path) -> None:
    store.ingest("weather", TABLE)
    store.flush()
    store.put_record("weather", {"origin": "BOS", "hour": NOON, "temp": 1.0})
    assert store.backup(tmp_path / "copy") == 1
    store.put_record("weather", {"origin": "BOS", "hour": NOON + HOUR, "temp": 2.0})
    with fs.open(tmp_path / "copy", clock=lambda: CLOCK, read_only=True) as copy:
        assert copy.verify() == []
        assert copy.snapshot() == 5
        assert copy.sql("SELECT * FROM weather ORDER BY ALL").num_rows == 5
        assert copy.get_record("weather", "BOS", ["temp"]) == {"temp": 1.0}
    with pytest.raises(fs.InvalidInput, match="not empty"):
        store.backup(tmp_path / "copy")


@pytest.mark.usefixtures("weather")
def test_a_backup_since_another_brings_what_that_has_not(store: Any, tmp_path: Path) -> None:
    store.ingest("weather", TABLE)
    store.flush()
    store.backup(tmp_path / "first")
    (old,) = (tmp_path / "first").rglob("*.parquet")
    store.put_record("weather", {"origin": "BOS", "hour": NOON, "temp": 1.0})
    store.flush()
    assert store.backup(tmp_path / "second", since=tmp_path / "first") == 2
    again = tmp_path / "second" / old.relative_to(tmp_path / "first")
    assert again.stat().st_ino == old.stat().st_ino
    fs.restore(tmp_path / "second", tmp_path / "again")
    with fs.open(tmp_path / "again", clock=lambda: CLOCK) as restored:
        assert restored.verify() == []
        rows = "SELECT * FROM weather ORDER BY ALL"
        assert restored.sql(rows) == store.sql(rows)
    with pytest.raises(fs.InvalidInput, match="is no backup"):
        store.backup(tmp_path / "third", since=tmp_path / "store")
    with fs.open(tmp_path / "other") as other:
        other.backup(tmp_path / "of another")
    with pytest.raises(fs.InvalidInput, match="of another is a backup of another store"):
        store.backup(tmp_path / "third", since=tmp_path / "of another")


def test_documents_are_kept_and_changed_as_they_are(store: Any) -> None:
    documents = store.documents
    assert documents.now_us() == to_us(CLOCK)
    assert documents.get("run", "a") is None
    odd = {"n": 2**70, "x": [float("inf"), 0.1, None, "é\x00"], "deep": {"$float": "NaN"}}
    assert documents.update("run", "a", lambda was: odd if was is None else was) == odd
    assert documents.get("run", "a") == odd
    assert documents.update("run", "a", lambda was: {**was, "nan": math.nan})["n"] == 2**70
    assert math.isnan(documents.get("run", "a")["nan"])
    # What has NaN in it is still the same when it has not been changed.
    assert documents.update("run", "a", lambda was: was | {"n": (1, 2)})["n"] == [1, 2]
    assert [documents.append("run", "late/x y", {"i": i}) for i in range(3)] == [1, 2, 3]
    assert list(documents.every("run")) == ["a", *(f"late/x y/{i:08d}" for i in (1, 2, 3))]
    assert documents.every("run", "late/")["late/x y/00000002"] == {"i": 1}
    assert documents.every("ru") == {}
    assert documents.update("run", "a", lambda _: None) is None
    assert documents.get("run", "a") is None
    for name in ("", "x" * 401):
        with pytest.raises(fs.InvalidName, match="bytes; use 1 to 400"):
            documents.get("run", name)
    with pytest.raises(fs.InvalidInput, match="cannot be written as JSON"):
        documents.append("run", "s", {"at": object()})
    with pytest.raises(ZeroDivisionError):
        documents.update("run", "b", lambda _: {"x": 1 / 0})
    assert documents.get("run", "b") is None


def test_no_change_of_a_document_is_lost(store: Any) -> None:
    def count(_: int) -> None:
        for _ in range(10):
            store.documents.update("run", "n", lambda was: {"n": (was or {"n": 0})["n"] + 1})
            store.documents.append("run", "s", {})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, range(4)))
    assert store.documents.get("run", "n") == {"n": 40}
    assert len(store.documents.every("run", "s/")) == 40


@pytest.mark.usefixtures("weather")
def test_a_scrub_reads_every_byte(store: Any, tmp_path: Path) -> None:
    store.ingest("weather", TABLE)
    store.flush()
    told: list[tuple[int, int]] = []
    assert store.scrub() == store.scrub(progress=lambda *read: told.append(read)) == []
    assert told[-1][0] == told[-1][1] > 0
    (file,) = (tmp_path / "store" / "data").rglob("*.parquet")
    sound = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(sound[:-9] + bytes([sound[-9] ^ 1]) + sound[-8:])
    (fault,) = store.scrub()
    assert isinstance(fault, Fault)
    assert (fault.place, fault.what) == (
        file.relative_to(tmp_path / "store").as_posix(), "digest",
    )  # fmt: skip
    with pytest.raises(fs.CorruptStore, match="damaged"):
        store.backup(tmp_path / "copy")
    file.write_bytes(sound)


@pytest.mark.usefixtures("weather")
def test_an_erased_key_is_gone_and_a_restored_one_is_found(store: Any, tmp_path: Path) -> None:
    store.ingest("weather", TABLE)
    store.flush()
    store.backup(tmp_path / "before")
    for key in map(str, range(8)):  # keys of either sign of their hash
        receipt = store.erase("weather", key)
        assert wire.read_erasure_receipt(wire.erasure_receipt(receipt)) == receipt
        assert store.verify(erasures=[receipt]) == []
    receipt = store.erase("weather", "JFK")
    assert (receipt.group, receipt.online, receipt.records) == ("weather", True, 2)
    assert store.get_record("weather", "JFK") is None
    assert "JFK" not in store.sql("SELECT origin FROM weather")["origin"].to_pylist()
    assert store.verify() == store.verify(erasures=[receipt]) == []
    with pytest.raises(fs.UnknownFeatureGroup):
        store.erase("wether", "JFK")
    fs.restore(tmp_path / "before", tmp_path / "again")
    with (
        fs.open(tmp_path / "again", clock=lambda: CLOCK) as again,
        serving(again) as url,
        fs.connect(url) as remote,
    ):
        assert remote.verify() == []
        faults = remote.verify(erasures=[receipt])
        assert faults == again.verify(erasures=[receipt]) != []


def test_a_backup_has_what_stands_on_the_store(store: Any, tmp_path: Path) -> None:
    kept = tmp_path / "store" / "models" / "ab" / "model.bin"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"a model")
    store.backup(tmp_path / "copy")
    assert (tmp_path / "copy" / "models" / "ab" / "model.bin").read_bytes() == b"a model"


@pytest.mark.usefixtures("weather")
def test_stat_counts(store: Any) -> None:
    store.ingest("weather", TABLE)
    found = store.stat()
    assert (found["seq"], found["last_commit"]) == (4, CLOCK)
    assert found["groups"]["weather"]["keys"] == 3


# ── the verbs ────────────────────────────────────────────────────────────────────────────────

#: What only one of the two doors has: where the store is.
ONE_SIDED = {"path", "url"}


def verbs(door: type) -> dict[str, Any]:
    return {
        name: thing
        for name, thing in inspect.getmembers(door)
        if not name.startswith("_") and name not in ONE_SIDED
    }


def test_connect_has_the_verbs_of_open_with_the_same_parameters() -> None:
    here, there = verbs(fs.FeatureStore), verbs(fs.RemoteStore)
    assert set(here) == set(there)
    for name, verb in here.items():
        if not callable(verb):
            continue
        mine, theirs = (dict(inspect.signature(v).parameters) for v in (verb, there[name]))
        if any(p.kind is p.VAR_KEYWORD for p in theirs.values()):
            continue  # the async forms pass on whatever the others take
        for parameter, found in mine.items():
            assert parameter in theirs, f"{name}({parameter}=) is missing from fs.connect()"
            assert theirs[parameter].kind is found.kind, f"{name}({parameter}=)"
            assert (theirs[parameter].default is found.empty) is (found.default is found.empty), (
                f"{name}({parameter}=)"
            )


# ── errors ───────────────────────────────────────────────────────────────────────────────────

REFUSED: dict[str, Callable[[Any], Any]] = {
    "no such group": lambda s: s.get_record("wether", "JFK"),
    "a strange name": lambda s: s.get_record("../weather%2f\x00", "JFK"),
    "no such feature": lambda s: s.get_record("weather", "JFK", ["tepm"]),
    "no such feature in a put": lambda s: s.put_record("weather", {"origin": "J", "tmp": 1}),
    "no identifier": lambda s: s.put_record("weather", {"hour": NOON}),
    "no event time": lambda s: s.put_record("weather", {"origin": "JFK"}),
    "null key": lambda s: s.get_record("weather", None),
    "key of another type": lambda s: s.get_record("weather", 7),
    "too many parts": lambda s: s.get_record("weather", ("JFK", "EWR")),
    "too far ahead": lambda s: s.put_record("weather", {"origin": "J", "hour": CLOCK + 99 * HOUR}),
    "a key too long": lambda s: s.put_record("weather", {"origin": "x" * 3000, "hour": NOON}),
    "a group twice": make,
    "a group in another case": lambda s: make(s, "Weather"),
    "another schema": lambda s: s.create_feature_group(
        "weather", record_identifier="origin", event_time="hour", exist_ok=True,
        features=FEATURES | {"temp": "int64"},
    ),
    "a bad name": lambda s: make(s, "-weather"),
    "a bad type": lambda s: s.update_feature_group("weather", add_features={"a": "floot"}),
    "a feature twice": lambda s: s.update_feature_group("weather", add_features={"Temp": "bool"}),
    "a ttl that is none": lambda s: s.update_feature_group("weather", ttl="soon"),
    "no such view": lambda s: s.describe_feature_view("flights"),
    "a view of no group": lambda s: s.create_feature_view("v", ["wether:temp"]),
    "a view of no feature": lambda s: s.create_feature_view("v", ["weather:tepm"]),
    "no reference": lambda s: s.get_features([], {"origin": "JFK"}),
    "no key column": lambda s: s.get_features("weather:temp", {"orgin": "JFK"}),
    "bad SQL": lambda s: s.sql("SELEC 1"),
    "SQL of no group": lambda s: s.sql("SELECT * FROM wether"),
    "SQL that writes": lambda s: s.sql("DROP TABLE weather"),
    "SQL with a naive time": lambda s: s.sql("SELECT ?", [datetime(2013, 1, 1)]),  # noqa: DTZ001
    "a column of no feature": lambda s: s.ingest("weather", TABLE.append_column("x", [[1] * 4])),
    "no such store": lambda s: s.put_record("weather", {}, target_stores=["nowhere"]),
    "no such zone": lambda s: s.put_record(
        "weather", {"origin": "J", "hour": "2013-01-01"}, tz="Mars/Base"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """Give one store by both doors; whatever is refused leaves it as it is."""
    folder = tmp_path_factory.mktemp("refusing")
    with fs.open(folder / "store", clock=lambda: CLOCK) as local:
        make(local)
        with serving(local) as url, fs.connect(url) as remote:
            yield local, remote


@pytest.mark.parametrize("case", REFUSED)
def test_both_doors_refuse_in_the_same_words(case: str, refusing: Any) -> None:
    local, remote = refusing
    here, there = (outcome(lambda door=door: REFUSED[case](door)) for door in (local, remote))
    assert isinstance(here, tuple), here
    assert there == here
    assert local.snapshot() == 0
    assert [group.version for group in local.list_feature_groups()] == [1]


@pytest.mark.usefixtures("weather")
def test_closed_is_closed(store: Any) -> None:
    store.close()
    assert store.closed
    with pytest.raises(fs.StoreClosed):
        store.get_record("weather", "JFK")


def test_nobody_there_is_said_so() -> None:
    with pytest.raises(fs.Unreachable, match="No answer from"):
        fs.connect("http://127.0.0.1:9")
