"""The front door's smaller verbs: each shape that goes in, each that comes out."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore.engine import cleaner, sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FEATURES = {"origin": "string", "hour": "timestamp", "temp": "float64", "wind": "int32"}
TABLE = pa.table(
    {
        "origin": ["JFK", "EWR", "JFK", "LGA"],
        "hour": pa.array([NOON, NOON, NOON + HOUR, NOON], pa.timestamp("us", tz="UTC")),
        "temp": [39.0, 40.5, None, 38.0],
        "wind": pa.array([7, None, 9, 2], pa.int32()),
    }
)


def weather(store: fs.FeatureStore, name: str = "weather", **options: Any) -> fs.FeatureGroup:
    return store.create_feature_group(
        name, record_identifier="origin", event_time="hour", features=FEATURES, **options
    )


# ── what ingest takes ────────────────────────────────────────────────────────────────────────


def as_path(table: pa.Table, folder: Path) -> str:
    pq.write_table(table, folder / "w.parquet")
    return str(folder / "w.parquet")


def as_csv(table: pa.Table, folder: Path) -> Path:
    pyarrow.csv.write_csv(table, folder / "w.csv")
    return folder / "w.csv"


SHAPES: dict[str, Callable[[pa.Table, Path], Any]] = {
    "Arrow table": lambda t, _: t,
    "record batch": lambda t, _: t.to_batches()[0],
    "reader": lambda t, _: t.to_reader(),
    "pandas": lambda t, _: t.to_pandas(),
    "Polars": lambda t, _: pl.from_arrow(t),
    "list of dicts": lambda t, _: t.to_pylist(),
    "iterator of dicts": lambda t, _: iter(t.to_pylist()),
    "iterator of tables": lambda t, _: iter([t.slice(0, 2), t.slice(2)]),
    "Parquet path": as_path,
    "list of paths": lambda t, folder: [as_path(t, folder)],
    "CSV path": as_csv,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_input_gives_the_same_history(
    shape: str, store: fs.FeatureStore, tmp_path: Path
) -> None:
    weather(store)
    result = store.ingest("weather", SHAPES[shape](TABLE, tmp_path))
    assert result == fs.IngestResult(accepted=4)
    stored = store.sql("SELECT * FROM weather ORDER BY origin, hour")
    assert stored.equals(TABLE.sort_by([("origin", "ascending"), ("hour", "ascending")]))


def test_what_is_no_table_is_refused_with_a_hint(store: fs.FeatureStore, tmp_path: Path) -> None:
    weather(store)
    with pytest.raises(fs.InvalidInput, match="put_record"):
        store.ingest("weather", TABLE.to_pylist()[0])
    with pytest.raises(fs.InvalidInput, match="There is no file"):
        store.ingest("weather", tmp_path / "nowhere.parquet")
    (tmp_path / "w.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(fs.InvalidInput, match="cannot be read as parquet"):
        store.ingest("weather", tmp_path / "w.parquet")
    assert store.snapshot() == 0


def test_a_stream_is_taken_chunk_by_chunk_and_reports_progress(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CHUNK_DICTS", 3)
    weather(store)
    done: list[int] = []
    rows = ({"origin": f"K{i}", "hour": NOON, "temp": float(i)} for i in range(8))
    assert store.ingest("weather", rows, progress=done.append).accepted == 8
    assert done == [3, 6, 8]


def test_an_import_keeps_the_dates_it_was_learned_at(open_store: Callable[..., Any]) -> None:
    store = open_store(clock=lambda: NOON + 9 * HOUR)
    weather(store)
    arrived = pa.array([NOON + 2 * HOUR] * 4, pa.timestamp("us", tz="UTC"))
    store.ingest("weather", TABLE.append_column("arrived_at", arrived), write_time="arrived_at")
    labels = pa.table({"origin": ["EWR"] * 2, "event_time": [NOON + HOUR, NOON + 2 * HOUR]})
    known = store.point_in_time(labels, ["weather:temp"], known="write_time")
    assert known["temp"].to_pylist() == [None, 40.5]
    future = pa.array([NOON + 10 * HOUR] * 4, pa.timestamp("us", tz="UTC"))
    with pytest.raises(fs.InvalidRecord, match="future"):
        store.ingest("weather", TABLE.append_column("at", future), write_time="at")


# ── groups and views ─────────────────────────────────────────────────────────────────────────


def test_groups_are_found_by_words_and_tags(store: fs.FeatureStore) -> None:
    weather(store, description="Hourly airport weather", tags={"owner": "ops", "tier": "1"})
    weather(store, "gusts", feature_descriptions={"wind": "knots at the AIRPORT"})
    names = lambda found: [group.name for group in found]  # noqa: E731
    assert names(store.search("airport")) == ["gusts", "weather"]
    assert names(store.search("airport", tags={"owner": "ops"})) == ["weather"]
    assert names(store.search(tags={"owner": "nobody"})) == []
    assert names(store.list_feature_groups()) == ["gusts", "weather"]


def test_a_group_made_again_is_left_as_it_has_grown(store: fs.FeatureStore) -> None:
    weather(store)
    grown = store.update_feature_group("weather", add_features={"gust": "float64"})
    assert weather(store, exist_ok=True) == grown
    with pytest.raises(fs.SchemaMismatch, match="temp"):
        store.create_feature_group(
            "weather",
            record_identifier="origin",
            event_time="hour",
            features=FEATURES | {"temp": "int64"},
            exist_ok=True,
        )


def test_a_view_reads_its_groups_online_as_it_joins_them(store: fs.FeatureStore) -> None:
    weather(store)
    store.ingest("weather", TABLE)
    view = store.create_feature_view(
        "flights",
        [
            "weather:temp",
            fs.FeatureLookup("weather", ["wind"], on={"origin": "dest"}, prefix="dest_"),
        ],
    )
    assert store.list_feature_views() == [view]
    one = store.get_features("flights", {"origin": "EWR", "dest": "LGA"})
    assert one == {"temp": 40.5, "dest_wind": 2}
    entities = pd.DataFrame({"origin": ["EWR", "XXX"], "dest": ["LGA", "JFK"]}, index=[7, 8])
    many = store.get_features("flights", entities, with_status=True)
    assert list(many.index) == [7, 8]
    assert many["dest_wind"].tolist() == [2, 9]
    assert many["weather__status"].tolist() == ["PRESENT", "MISSING"]
    labels = entities.assign(at=NOON + 2 * HOUR)
    joined = store.point_in_time(labels, "flights", label_time="at")
    pd.testing.assert_frame_equal(joined[["temp", "dest_wind"]], many[["temp", "dest_wind"]])
    with pytest.raises(fs.InvalidInput, match="flights"):
        store.delete_feature_group("weather")
    store.delete_feature_view("flights")
    with pytest.raises(fs.UnknownFeatureView):
        store.get_features("flights", {"origin": "EWR"})


def test_a_look_up_that_is_too_old_is_expired(open_store: Callable[..., Any]) -> None:
    store = open_store(clock=lambda: NOON + 3 * HOUR)
    weather(store)
    store.ingest("weather", TABLE)
    lookups = [fs.FeatureLookup("weather", ["temp"], max_age="3h", prefix="a_")]
    lookups += [fs.FeatureLookup("weather", ["temp"], max_age="179m", prefix="b_")]
    found = store.get_features(lookups, {"origin": "EWR"}, with_status=True)
    assert (found["a_temp"], found["b_temp"]) == (40.5, None)
    assert (found["a__status"], found["b__status"]) == ("PRESENT", "EXPIRED")


# ── scan, changes, backup ────────────────────────────────────────────────────────────────────


def test_a_scan_goes_on_where_it_stopped(store: fs.FeatureStore) -> None:
    weather(store)
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


def test_changes_come_once_and_in_order_whatever_is_moved(store: fs.FeatureStore) -> None:
    weather(store)
    store.ingest("weather", TABLE)
    seen = [c["seq"] for c in store.changes()]
    since = store.snapshot()
    store.put_record("weather", {"origin": "JFK", "hour": NOON, "temp": 1.0})
    store.flush()
    store.delete_record("weather", "JFK", event_time=NOON + 5 * HOUR)
    later = list(store.changes(since))
    assert seen + [c["seq"] for c in later] == [1, 2, 3, 4, 5, 6]
    assert [c["is_deleted"] for c in later] == [False, True]
    assert later[0]["record"] == {"origin": "JFK", "hour": NOON, "temp": 1.0, "wind": None}
    store.compact()
    assert list(store.changes(since)) == later


def test_a_backup_is_a_store_that_verifies(store: fs.FeatureStore, tmp_path: Path) -> None:
    weather(store)
    store.ingest("weather", TABLE)
    store.flush()
    store.put_record("weather", {"origin": "JFK", "hour": NOON + 3 * HOUR, "temp": 50.0})
    assert store.backup(tmp_path / "copy") == 1
    store.put_record("weather", {"origin": "JFK", "hour": NOON + 4 * HOUR, "temp": 51.0})
    with pytest.raises(fs.ReadOnlyStore, match="is a backup"):
        fs.open(tmp_path / "copy")
    with fs.open(tmp_path / "copy", read_only=True) as copy:
        assert copy.verify() == []
        assert copy.get_record("weather", "JFK", ["temp"]) == {"temp": 50.0}
        assert copy.snapshot() == store.snapshot() - 1
    assert fs.restore(tmp_path / "copy", tmp_path / "again") == 1
    with fs.open(tmp_path / "again") as copy:
        # The copy is a store of its own: what happens to one does not happen to the other.
        copy.compact()
        copy.delete_feature_group("weather")
    assert store.sql("SELECT count(*) AS n FROM weather")["n"].to_pylist() == [6]
    with pytest.raises(fs.InvalidInput, match="not empty"):
        store.backup(tmp_path / "copy")


# ── opening ──────────────────────────────────────────────────────────────────────────────────


def test_read_only_reads_and_refuses_to_write(store: fs.FeatureStore, tmp_path: Path) -> None:
    weather(store)
    store.ingest("weather", TABLE)
    reads = (
        "import sys, featurestore as fs\n"
        "with fs.open(sys.argv[1], read_only=True) as store:\n"
        "    rows = store.sql('FROM weather').num_rows\n"
        "    print(store.get_record('weather', 'EWR', ['temp']), rows)\n"
        "    try: store.flush()\n"
        "    except fs.ReadOnlyStore: print('refused')\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", reads, str(store.path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.split("\n")[:2] == ["{'temp': 40.5} 4", "refused"]
    with pytest.raises(fs.NotAStore):
        fs.open(tmp_path / "nothing", read_only=True)
    assert not (tmp_path / "nothing").exists()


def test_durability_belongs_to_the_store(tmp_path: Path) -> None:
    fs.open(tmp_path / "s", durability="rebuildable").close()
    with fs.open(tmp_path / "s") as store:
        assert store.stat()["durability"] == "rebuildable"
    with pytest.raises(fs.InvalidInput, match="belongs to the store"):
        fs.open(tmp_path / "s", durability="strict")


@pytest.mark.parametrize("durability", ["relaxed", "rebuildable"])
def test_the_other_durabilities_keep_what_they_have_at_close(
    durability: str, tmp_path: Path
) -> None:
    with fs.open(tmp_path / "s", durability=durability) as store:
        weather(store)
        for i in range(50):
            store.put_record("weather", {"origin": f"K{i}", "hour": NOON, "temp": float(i)})
        assert store.get_record("weather", "K49", ["temp"]) == {"temp": 49.0}
    with fs.open(tmp_path / "s") as store:
        assert store.snapshot() == 50
        assert store.verify() == []


def test_files_nobody_reads_any_more_are_removed(open_store: Callable[..., Any]) -> None:
    now = [NOON + 9 * HOUR]
    store = open_store(clock=lambda: now[0])
    weather(store)
    for hour in range(3):
        store.put_record("weather", {"origin": "JFK", "hour": NOON + hour * HOUR})
        store.flush()
    files = lambda: len(list(store.path.glob("data/*/*.parquet")))  # noqa: E731
    assert files() == 3
    store.compact()
    assert files() == 4  # three that readers may still need, and the cell
    now[0] += timedelta(microseconds=cleaner.GRACE_US)
    store.flush()
    assert files() == 1
    assert store.sql("SELECT count(*) AS n FROM weather")["n"].to_pylist() == [3]
