"""Training sets: the same request gives the same bytes; what leaks is refused; splits keep time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import training
from featurestore.training import build

if TYPE_CHECKING:
    from collections.abc import Callable

START = datetime(2013, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
AIRPORTS = ["EWR", "JFK", "LGA"]
DATA = ("part-00000.parquet", "nulls.bin", "set.json")


def weather(hours: range, *, shift: float = 0.0) -> pa.Table:
    """Return a record of each airport for each hour; every fifth has no wind."""
    rows = [
        {
            "origin": origin,
            "at": START + hour * HOUR,
            "temp": shift + hour + place,
            "wind": None if hour % 5 == 0 else hour % 7,
            "sky": ["clear", "fog", "rain"][(hour + place) % 3],
            "calm": hour % 2 == 0,
            "drift": [0.5, float(hour)],
        }
        for hour in hours
        for place, origin in enumerate(AIRPORTS)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


SCHEMA = pa.schema(
    [
        ("origin", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("temp", pa.float64()),
        ("wind", pa.int16()),
        ("sky", pa.string()),
        ("calm", pa.bool_()),
        ("drift", pa.list_(pa.float32(), 2)),
    ]
)


def labels(rows: int = 300, seed: int = 3) -> pa.Table:
    random = np.random.default_rng(seed)
    at = [START + timedelta(minutes=int(m)) for m in random.integers(30, 60 * 40, rows)]
    return pa.table(
        {
            "origin": pa.array(random.choice([*AIRPORTS, "XXX"], rows)),
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "distance": pa.array(random.integers(1, 9, rows)),
            "late": pa.array(random.random(rows) < 0.3),
        }
    )


@pytest.fixture
def filled(store: fs.FeatureStore) -> fs.FeatureStore:
    store.create_feature_group(
        "weather", record_identifier="origin", event_time="at", like=weather(range(1))
    )
    store.ingest("weather", weather(range(40)))
    return store


def request(store: fs.FeatureStore, **options: Any) -> training.TrainingSet:
    asked: dict[str, Any] = {
        "labels": labels(),
        "label": "late",
        "label_time": "at",
        "features": ["weather:*"],
        "from_labels": ["distance"],
    }
    return training.training_set(store, **{"name": "late", **asked, **options})


def content(ts: training.TrainingSet) -> dict[str, bytes]:
    return {name: (ts.path / name).read_bytes() for name in DATA}


# ── the same request, the same bytes ─────────────────────────────────────────────────────────


def test_a_set_is_what_the_join_says_in_the_order_of_time(filled: fs.FeatureStore) -> None:
    ts = request(filled)
    given = labels()
    order = np.argsort(given["at"].to_numpy(), kind="stable")
    expected = filled.point_in_time(given.take(order), ["weather:*"], label_time="at")
    table = ts.to_arrow()
    assert table.num_rows == len(ts) == 300
    for name in expected.column_names:
        if name != "drift":
            assert table[name].to_pylist() == expected[name].to_pylist(), name
    drift = expected["drift"].to_pylist()
    assert table["drift_1"].to_pylist() == [None if pair is None else pair[1] for pair in drift]
    names = ("distance", "temp", "wind", "sky", "calm", "drift_0", "drift_1")
    assert ts.features == names
    x, y = ts.to_numpy()
    assert y is not None
    assert y.tolist() == [float(late) for late in table["late"].to_pylist()]
    codes = {text: code for code, text in enumerate(ts.categories["sky"])}
    for at, name in enumerate(names):
        values = [codes.get(v, v) if name == "sky" else v for v in table[name].to_pylist()]
        wanted = np.array([np.nan if v is None else v for v in values], np.float32)
        np.testing.assert_array_equal(x[:, at], wanted)


def test_bytes_are_the_same_after_a_year_of_changes(
    filled: fs.FeatureStore, tmp_path: Path
) -> None:
    seq = filled.snapshot()
    first = request(filled, as_of=seq)
    before, lineage = content(first), first.lineage
    (group,) = lineage["groups"]
    assert group["journal_rows"] + sum(file["rows"] for file in group["files"]) == 120
    filled.ingest("weather", weather(range(5, 30), shift=100))  # late data for the same hours
    filled.put_record("weather", {"origin": "JFK", "at": START + 90 * HOUR, "temp": 1.0})
    filled.delete_record("weather", "LGA", event_time=START + 12 * HOUR)
    filled.flush()
    filled.update_feature_group("weather", add_features={"gust": "float64"})
    filled.put_record("weather", {"origin": "EWR", "at": START + HOUR, "gust": 9.0})
    filled.flush()
    filled.compact()
    now = request(filled)
    assert now.hash != first.hash
    assert now.version == 2
    assert "gust" not in first.features
    training.delete_training_set(filled, "late")
    assert not first.path.exists()
    again = request(filled, as_of=seq, name="again")
    assert again.hash == first.hash
    assert content(again) == before
    assert again.lineage["groups"][0]["files"] != lineage["groups"][0]["files"]
    filled.backup(tmp_path / "copy")
    fs.restore(tmp_path / "copy", tmp_path / "restored")
    with fs.open(tmp_path / "restored", upkeep=False) as copy:
        assert content(training.describe_training_set(copy, "again")) == before
        training.delete_training_set(copy, "again")
        assert content(request(copy, as_of=seq, name="elsewhere")) == before
    assert content(again) == before


def test_a_time_means_the_commit_it_falls_in(open_store: Callable[..., fs.FeatureStore]) -> None:
    now = [START + 50 * HOUR]
    store = open_store(clock=lambda: now[0])
    store.create_feature_group(
        "weather", record_identifier="origin", event_time="at", like=weather(range(1))
    )
    store.ingest("weather", weather(range(40)))
    first = request(store, as_of=now[0])
    now[0] += 8760 * HOUR
    store.update_feature_group("weather", add_features={"gust": "float64"})
    store.ingest("weather", weather(range(40), shift=5))
    assert request(store, as_of=START + 51 * HOUR).hash == first.hash
    assert "gust" in request(store).features


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
def test_whoever_brings_the_labels(filled: fs.FeatureStore, library: Any) -> None:
    given = labels()
    frame = given.to_pandas() if library is pd.DataFrame else pl.from_arrow(given)
    assert request(filled, labels=frame).hash == request(filled).hash
    batches = iter(given.to_batches(max_chunksize=7))
    assert request(filled, labels=batches).hash == request(filled).hash


def test_an_unchanged_request_is_found_and_reads_nothing(
    filled: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = request(filled)
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("made again"))
    again = request(filled)
    assert (again.id, again.hash) == (first.id, first.hash)
    other = request(filled, name="other")
    assert (other.id, other.hash) == ("other:1", first.hash)
    assert [ts.id for ts in training.list_training_sets(filled)] == ["late:1", "other:1"]
    training.delete_training_set(filled, "late")
    assert other.path.exists()
    training.delete_training_set(filled, "other:1")
    assert not other.path.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"labels": labels(seed=4)},
        {"labels": labels(299)},
        {"features": ["weather:temp"]},
        {"lag": {"weather": "1h"}},
        {"nulls": -1.0},
        {"known": "write_time"},
        {"as_of": 1},
        {"from_labels": []},
        {"cutoff": "1us"},
    ],
    ids=str,
)
def test_another_request_is_another_set(filled: fs.FeatureStore, change: dict[str, Any]) -> None:
    allow = {"allow": ["weather"]} if "cutoff" in change else {}
    assert request(filled, **change, **allow).hash != request(filled).hash


def test_names_and_versions(filled: fs.FeatureStore) -> None:
    ts = request(filled)
    assert training.describe_training_set(filled, "late").hash == ts.hash
    assert training.describe_training_set(filled, "late:1").id == "late:1"
    for wrong, said in [("lat", 'Did you mean "late"'), ("late:2", "it has 1")]:
        with pytest.raises(fs.UnknownTrainingSet, match=said):
            training.describe_training_set(filled, wrong)
    with pytest.raises(fs.InvalidName):
        request(filled, name="a/b")
    assert training.TrainingSet.open(ts.path).hash == ts.hash
    assert ts.describe()["rows"] == 300
    assert "late:1, 300 rows x 7 features" in repr(ts)


def test_what_was_being_made_by_the_dead_is_removed(filled: fs.FeatureStore) -> None:
    left = filled.path / "sets" / ".making-owner-gone-abc"
    left.mkdir(parents=True)
    request(filled)
    assert not left.exists()


def test_a_failure_leaves_nothing(filled: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(fs.StoreFull):
        request(filled)
    monkeypatch.undo()
    assert list((filled.path / "sets").iterdir()) == []
    assert training.list_training_sets(filled) == []
    request(filled)


def test_damage_is_found(filled: fs.FeatureStore) -> None:
    ts = request(filled)
    assert ts.verify() == []
    path = ts.path / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert ts.verify() == ["part-00000.parquet is not what was written"]
    path.write_bytes(data[:-1])
    with pytest.raises(fs.CorruptStore, match="bytes long"):
        ts.loader()
    path.unlink()
    assert ts.verify() == ["part-00000.parquet is missing"]
    (ts.path / "set.json").write_text("{}")
    with pytest.raises(fs.CorruptStore, match=r"set\.json"):
        training.TrainingSet.open(ts.path).loader()


# ── the files ────────────────────────────────────────────────────────────────────────────────


def test_row_groups_and_stripes_of_a_larger_set(filled: fs.FeatureStore) -> None:
    ts = request(filled, labels=labels(140_000))
    file = pq.ParquetFile(ts.path / "part-00000.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(2)] == [131_072, 8_928]
    chunk = file.metadata.row_group(0).column(ts.to_arrow().column_names.index("temp"))
    assert (chunk.compression, chunk.has_dictionary_page) == ("UNCOMPRESSED", False)
    x, _ = ts.to_numpy()
    temp = ts.to_arrow()["temp"].to_numpy()
    np.testing.assert_array_equal(x[:, 1], temp.astype(np.float32))
    part = ts.split(START + 20 * HOUR)[1]
    np.testing.assert_array_equal(part.to_numpy()[0], x[part.rows[0] :])


def test_nulls_are_filled_as_asked(filled: fs.FeatureStore) -> None:
    fills = {"wind": -5, "temp": 0}
    ts = request(filled, nulls=fills)
    x, _ = ts.to_numpy()
    table = ts.to_arrow()
    for name, fill in fills.items():
        at = ts.features.index(name)
        missing = np.asarray(table[name].is_null())
        assert missing.any()
        assert (x[missing, at] == fill).all()
    assert np.isnan(x[:, ts.features.index("drift_0")]).any()


# ── leaks ────────────────────────────────────────────────────────────────────────────────────


def test_the_labels_own_group_is_refused_unless_named(filled: fs.FeatureStore) -> None:
    with pytest.raises(fs.LeakFound, match=r'"weather" is where the label .* allow=\["weather"\]'):
        request(filled, label_group="weather")
    named = labels().rename_columns(["origin", "at", "distance", "temp"])
    with pytest.raises(fs.LeakFound, match='has a feature "temp", as the label is called'):
        request(filled, labels=named, label="temp", features=["weather:wind"])
    assert not (filled.path / "sets").exists()
    request(filled, label_group="weather", allow=["weather"])


def test_records_younger_than_the_cutoff_are_refused(filled: fs.FeatureStore) -> None:
    with pytest.raises(fs.LeakFound, match=r'100\.0% .* "weather" .* lag={"weather": "2h"}'):
        request(filled, cutoff="2h")
    assert training.list_training_sets(filled) == []
    assert list((filled.path / "sets").iterdir()) == []
    ts = request(filled, cutoff="2h", lag={"weather": "2h"})
    (reading,) = ts.profile["readings"]
    assert reading["younger"] == 0
    assert reading["min_age_us"] >= 2 * 3600 * 1_000_000
    allowed = request(filled, cutoff="2h", allow=["weather"])
    with pytest.raises(fs.LeakFound, match="younger than the cut-off allows"):
        request(filled, cutoff="2h")  # the set is there, and still nobody else's leave
    assert allowed.path.exists()


def test_a_feature_that_tells_the_label_alone_is_warned_of(filled: fs.FeatureStore) -> None:
    given = labels()
    leaky = given.append_column("delay", pa.array(given["late"].to_numpy() * 40.0 + 3))
    with pytest.warns(training.LeakWarning, match=r'"delay" alone .* AUC of 1\.000'):
        ts = request(filled, labels=leaky, from_labels=["delay"])
    assert any('"delay" alone tells the label' in remark for remark in ts.quality().remarks)
    request(filled, labels=leaky, from_labels=["delay"], allow=["delay"])
    hidden = given.append_column(
        "why", pa.array([None if late else "fine" for late in given["late"].to_pylist()])
    )
    with pytest.warns(training.LeakWarning, match='"why" alone'):  # its absence tells
        request(filled, labels=hidden, from_labels=["why"])
    unique = given.append_column("id", pa.array([f"n{i}" for i in range(given.num_rows)]))
    request(filled, labels=unique, from_labels=["id"])  # a category of each row tells nothing


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "lat"}, 'no column "lat".* Did you mean "late"'),
        ({"from_labels": ["dist"]}, 'from_labels= names "dist"'),
        ({"from_labels": ["late"]}, '"late" is the label'),
        ({"lag": {"wether": "1h"}}, 'lag= names "wether".*"weather"'),
        ({"nulls": {"temperature": 0}}, 'nulls= names "temperature", which is no feature'),
        ({"nulls": "mean"}, "give a number"),
        ({"known": "soon"}, 'it is "event_time" or "write_time"'),
        ({"as_of": 10**9}, "is no seq of this store"),
        ({"labels": labels(0)}, "have no rows"),
        ({"label": "at", "label_time": "at"}, "both"),
    ],
    ids=str,
)
def test_a_wrong_request_is_told_why(
    filled: fs.FeatureStore, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(fs.InvalidInput, match=said):
        request(filled, **change)


def test_a_label_is_never_null(filled: fs.FeatureStore) -> None:
    given = labels()
    late = pa.array([None, *given["late"].to_pylist()[1:]])
    with pytest.raises(fs.InvalidInput, match="null in 1 of 300 rows"):
        request(filled, labels=given.set_column(3, "late", late))


# ── splits ───────────────────────────────────────────────────────────────────────────────────


def times(ts: training.TrainingSet) -> list[datetime]:
    return list(ts.to_arrow()["at"].to_pylist())


def test_splits_by_time_with_embargo(filled: fs.FeatureStore) -> None:
    ts = request(filled)
    cut, later = START + 20 * HOUR, START + 30 * HOUR
    train, valid, test = ts.split(cut, later, embargo="3h")
    everything = times(ts)
    assert times(train) == [t for t in everything if t < cut - 3 * HOUR]
    assert times(valid) == [t for t in everything if cut <= t < later - 3 * HOUR]
    assert times(test) == [t for t in everything if t >= later]
    assert len({ts.hash, train.hash, valid.hash, test.hash}) == 4
    before, after = ts.split("2013-01-02")
    assert times(before) + times(after) == everything
    assert times(after)[0] >= START + 24 * HOUR
    nothing, all_rows = ts.split(START - HOUR)
    assert (len(nothing), len(all_rows)) == (0, 300)
    assert nothing.to_numpy()[0].shape == (0, 7)
    assert nothing.to_arrow().num_rows == 0
    with pytest.raises(fs.InvalidInput, match="do not ascend"):
        ts.split(later, cut)


def test_folds_go_forward_in_time(filled: fs.FeatureStore) -> None:
    folds = list(request(filled).folds(4, embargo="30m"))
    assert len(folds) == 4
    for train, test in folds:
        assert max(times(train)) < min(times(test)) - timedelta(minutes=30)
    tested = [row for _, test in folds for row in test.rows]
    assert tested == sorted(tested)


def test_a_part_in_a_folder_holds_no_other_rows(filled: fs.FeatureStore, tmp_path: Path) -> None:
    train, test = request(filled).split(START + 20 * HOUR)
    copied = training.TrainingSet.open(test.copy_to(tmp_path / "channel"))
    assert copied.to_arrow().equals(test.to_arrow())
    assert copied.categories == test.categories
    np.testing.assert_array_equal(copied.to_numpy()[0], test.to_numpy()[0])
    assert copied.verify() == []
    assert test.path == test.path
    assert train.path != test.path


# ── the report ───────────────────────────────────────────────────────────────────────────────


def test_the_report_says_what_is_there(filled: fs.FeatureStore) -> None:
    ts = request(filled)
    table = ts.to_arrow()
    figures = ts.profile["columns"]["temp"]
    temp = table["temp"].drop_null().to_numpy()
    assert figures["nulls"] == table["temp"].null_count
    assert figures["mean"] == pytest.approx(temp.mean())
    assert figures["std"] == pytest.approx(temp.std())
    assert (figures["min"], figures["max"]) == (temp.min(), temp.max())
    (reading,) = ts.profile["readings"]
    assert reading["statuses"]["MISSING"] == table["origin"].to_pylist().count("XXX")
    text, page = repr(ts.quality()), ts.quality()._repr_html_()
    for part in ("late:1: 300 rows", "weather", "3 categories", "temp"):
        assert part in text
        assert part in page
    nowhere = request(
        filled,
        labels=labels().set_column(0, "origin", pa.array(["XXX"] * 300)),
        features=["weather:temp"],
    ).quality()
    assert any("null in every row" in remark for remark in nowhere.remarks)
    assert any("no record" in remark for remark in nowhere.remarks)


@pytest.mark.parametrize("rows", [10, 1000, 250_001])
def test_aucs_are_those_of_scikit_learn(rows: int) -> None:
    from sklearn.metrics import roc_auc_score

    from featurestore.training.profile import auc

    random = np.random.default_rng(rows)
    target = random.random(rows) < 0.4
    target[:2] = True, False
    values = np.round(random.normal(size=rows) + target, 1)
    assert auc(values, target) == pytest.approx(roc_auc_score(target, values))


# ── killed ───────────────────────────────────────────────────────────────────────────────────

MAKE = """
import sys
import featurestore as fs
sys.path.insert(0, sys.argv[2])
from tests.training.test_training_set import request
with fs.open(sys.argv[1], upkeep=False) as store:
    request(store)
"""


@pytest.mark.parametrize("fault", ["write:kill:2", "rename:kill:1", "rename:kill_after:1"])
def test_who_is_killed_while_making_a_set_leaves_one_that_can_be_made(
    filled: fs.FeatureStore, fault: str
) -> None:
    root = str(Path(__file__).parents[2])
    killed = subprocess.run(
        [sys.executable, "-c", MAKE, str(filled.path), root],
        env={**os.environ, "FEATURESTORE_FAULT": fault, "PYTHONPATH": root},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert training.list_training_sets(filled) == []
    made = request(filled)
    assert made.verify() == []
    assert made.id == "late:1"
    assert [path.name for path in (filled.path / "sets").iterdir()] == [made.hash]
