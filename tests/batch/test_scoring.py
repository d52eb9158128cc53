"""The block path: what the model sees, what comes back, and a hundred kills."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

import featurestore as fs
from featurestore import batch, models, monitor, training
from featurestore.batch import blocks, pipeline
from featurestore.batch import job as batch_job
from featurestore.event_time import to_us
from featurestore.jobs import records
from featurestore.storage import seam

ONNX = Path(__file__).parents[1] / "models" / "logistic.onnx"
START = datetime(2013, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=2)
FEATURES = ["weather:temp,wind", fs.FeatureLookup("planes", ["seats"], delay="1h")]
INPUTS = ["temp", "wind", "seats", "minute"]


@pytest.fixture
def world(open_store: Callable[..., fs.FeatureStore]) -> fs.FeatureStore:
    """Return a store with hourly weather, planes, and a model that knows its features."""
    store = open_store(clock=lambda: NOW)
    store.create_feature_group(
        "weather", record_identifier="origin", event_time="at",
        features={"origin": "string", "at": "timestamp", "temp": "float64", "wind": "int32"},
    )  # fmt: skip
    store.create_feature_group(
        "planes", record_identifier="tail", event_time="at",
        features={"tail": "int64", "at": "timestamp", "seats": "float32"},
    )  # fmt: skip
    hours = [START + timedelta(hours=h) for h in range(48)]
    weather = [
        # Of such a size that a logistic model's scores are all over (0, 1).
        {
            "origin": o,
            "at": t,
            "temp": ((7 * i + len(o)) % 13 - 6) / 8,
            "wind": None if i % 7 == 0 else i % 5 - 2,
        }
        for i, t in enumerate(hours)
        for o in ("JFK", "LAGU")
    ]
    store.ingest("weather", weather)
    store.ingest("planes", [{"tail": n, "at": START, "seats": n / 2} for n in range(10)])
    models.register(store, "late", ONNX, features=FEATURES, inputs=INPUTS, label="late")
    return store


def labels(count: int = 50) -> pa.Table:
    return pa.table(
        {
            "flight": pa.array(range(count), pa.int64()),
            "origin": [("JFK", "LAGU")[n % 2] for n in range(count)],
            "tail": pa.array([n % 12 for n in range(count)], pa.int64()),
            "asked_at": [START + timedelta(minutes=37 * n) for n in range(count)],
            "minute": pa.array(range(count), pa.int32()),
        }
    )


def expected(store: fs.FeatureStore, table: pa.Table, **options: Any) -> np.ndarray:
    joined = store.point_in_time(table, FEATURES, **options)
    columns = [np.asarray(joined[name].to_pandas(), np.float32) for name in INPUTS]
    return models.load(store, "late:1").score(np.column_stack(columns))


def predictions(job: batch.BatchJob) -> pa.Table:
    assert job.status == "Completed", job.failure
    return pa.concat_tables(pq.read_table(p) for p in sorted(job.output.glob("*.parquet")))


def test_the_model_looks_its_features_up_as_of_the_labels_time(world: fs.FeatureStore) -> None:
    job = batch.score(world, "late:1", labels(), label_time="asked_at", unit_rows=16)
    found = predictions(job)
    assert len(set(found["score"].to_pylist())) > 30
    assert found["flight"].to_pylist() == list(range(50))
    np.testing.assert_array_equal(
        found["score"].to_numpy(), expected(world, labels(), label_time="asked_at")
    )
    assert set(found["model_version"].to_pylist()) == {"late:1"}
    assert found.column_names == [*labels().column_names, "score", "model_version"]
    assert len(list(job.output.glob("*.parquet"))) == 4
    assert (job.record["rows"], job.record["errors"]) == (50, 0)


def test_now_is_the_jobs_beginning_and_another_moment_may_be_given(world: fs.FeatureStore) -> None:
    table = labels().drop("asked_at")
    for at in (None, START + timedelta(hours=5)):
        job = batch.score(world, "late", table, at=at, keep=["flight"])
        moments = pa.array([at or NOW] * 50, pa.timestamp("us", tz="UTC"))
        timed = table.append_column("asked", moments)
        found = predictions(job)
        assert found.column_names == ["flight", "score", "model_version"]
        np.testing.assert_array_equal(
            found["score"].to_numpy(), expected(world, timed, label_time="asked")
        )


def test_a_job_says_how_far_it_has_come(
    world: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "TELL_SECONDS", 0.0)
    seen: list[tuple[int, int]] = []

    def look(rows: int) -> None:
        seen.append((rows, batch.get(world, "one").record["rows"]))

    batch.score(
        world, "late", labels(), label_time="asked_at", unit_rows=20, name="one", progress=look
    )
    assert seen == [(20, 20), (40, 40), (50, 50)]


def test_every_source_says_the_same(world: fs.FeatureStore, tmp_path: Path) -> None:
    table = labels()
    joined = world.point_in_time(table, FEATURES, label_time="asked_at")
    scores = expected(world, table, label_time="asked_at")
    pq.write_table(joined, tmp_path / "joined.parquet", row_group_size=20)
    pq.write_table(table, tmp_path / "labels.parquet", row_group_size=20)
    (tmp_path / "folder").mkdir()
    for n in range(2):
        pq.write_table(joined.slice(25 * n, 25), tmp_path / "folder" / f"{n}.parquet")
    sources: list[tuple[Any, dict[str, Any]]] = [
        (joined, {}),
        (joined.to_pandas(), {}),
        (tmp_path / "joined.parquet", {}),
        (str(tmp_path / "folder"), {}),
        ([tmp_path / "joined.parquet"], {}),
        (tmp_path / "labels.parquet", {"label_time": "asked_at"}),
    ]
    for source, options in sources:
        found = predictions(batch.score(world, "late", source, unit_rows=20, **options))
        np.testing.assert_array_equal(found["score"].to_numpy(), scores)


def test_an_answer_of_sql_is_what_it_was_when_the_job_began(world: fs.FeatureStore) -> None:
    sql = """SELECT origin, "at" AS asked, temp, wind, CAST(2 AS FLOAT) AS seats, 3 AS minute
             FROM history.weather ORDER BY ALL"""
    job = batch.score(world, "late", sql, name="sql")
    assert predictions(job).num_rows == 96
    world.put_record("weather", {"origin": "EWR", "at": START, "temp": 1.0, "wind": 1})
    assert batch.score(world, "late", sql, name="sql").record == job.record
    assert predictions(batch.score(world, "late", sql)).num_rows == 97


def test_texts_are_numbered_as_the_training_set_numbered_them() -> None:
    table = pa.table(
        {
            "s": pa.chunked_array([["b", None], ["zz", "a"]]),
            "f": [1.5, None, 2.5, 3.5],
            "i": pa.array([1, None, 3, 2**24 + 1], pa.int64()),
            "y": [True, None, False, True],
            "d": pa.array([1, 2, None, 3], pa.date32()),
        }
    )
    rows = blocks.rows_of(table, ["i", "s", "f", "y", "d"], {"s": ["b", "a"]}, {"f": -1.0})
    nan = np.nan
    wanted = [
        [1, 0, 1.5, 1, 1],
        [nan, nan, -1, nan, 2],
        [3, nan, 2.5, 0, nan],
        [2**24, 1, 3.5, 1, 3],
    ]
    np.testing.assert_array_equal(rows, np.array(wanted, np.float32))
    with pytest.raises(fs.InvalidInput, match="is text"):
        blocks.rows_of(table, ["s"], {}, {})
    with pytest.raises(fs.InvalidInput, match="given numbers"):
        blocks.rows_of(pa.table({"t": [START]}), ["t"], {}, {})


def scores_of(job: batch.BatchJob) -> np.ndarray:
    return predictions(job)["score"].to_numpy()


def test_a_feature_view_names_the_features(world: fs.FeatureStore) -> None:
    world.create_feature_view("what_late_needs", FEATURES)
    models.register(world, "bare", ONNX, inputs=INPUTS)
    table = labels().drop("asked_at")
    asked = {"features": "what_late_needs"}
    now = scores_of(batch.score(world, "bare", table, **asked))
    np.testing.assert_array_equal(now, scores_of(batch.score(world, "late", table)))
    at = START + timedelta(hours=9, minutes=3)
    then = scores_of(batch.score(world, "bare", table, at=at, **asked))
    np.testing.assert_array_equal(then, scores_of(batch.score(world, "late", table, at=at)))
    assert (then[:10] != now[:10]).all()


def test_the_store_is_as_it_was_at_a_moment_or_a_write(world: fs.FeatureStore) -> None:
    table, before = labels(), world.snapshot()
    asked = {"label_time": "asked_at"}
    old = expected(world, table, **asked)
    hours = range(0, 48, 3)
    world.ingest("weather", [
        {"origin": "JFK", "at": START + timedelta(hours=h, minutes=5), "temp": -h / 48, "wind": 3}
        for h in hours
    ])  # fmt: skip
    now = scores_of(batch.score(world, "late", table, **asked))
    then = scores_of(batch.score(world, "late", table, as_of=before, **asked))
    np.testing.assert_array_equal(then, old)
    np.testing.assert_array_equal(now, expected(world, table, **asked))
    assert (now != old).any()
    # All was written at NOW: nothing was known at the labels' times, and all of it is a day later.
    asked = {"label_time": "asked_at", "known": "write_time"}
    assert np.isnan(scores_of(batch.score(world, "late", table, **asked))).all()
    late = table.set_column(3, "asked_at", pa.array([NOW + timedelta(days=1)] * 50))
    found = scores_of(batch.score(world, "late", late, **asked))
    np.testing.assert_array_equal(found, expected(world, late, **asked))
    assert not np.isnan(found[:10]).any()


def test_what_was_written_since_a_job_began_is_not_seen_by_the_rest_of_it(
    world: fs.FeatureStore,
) -> None:
    table = labels().drop("asked_at")
    whole = scores_of(batch.score(world, "late", table, unit_rows=10))

    def die(rows: int) -> None:
        if rows == 20:
            raise Kill

    with pytest.raises(Kill):
        batch.score(world, "late", table, unit_rows=10, name="job", progress=die)
    later = [{"origin": o, "at": NOW, "temp": 0.1, "wind": 1} for o in ("JFK", "LAGU")]
    world.ingest("weather", later)
    job = batch.score(world, "late", table, unit_rows=10, name="job")
    np.testing.assert_array_equal(scores_of(job), whole)
    assert (scores_of(batch.score(world, "late", table))[:10] != whole[:10]).all()


def test_now_stands_still_for_a_job(open_store: Callable[..., fs.FeatureStore]) -> None:
    now = [NOW]
    store = open_store(clock=lambda: now[0])
    store.create_feature_group(
        "planes", record_identifier="tail", event_time="at",
        features={"tail": "int64", "at": "timestamp", "temp": "float32"},
    )  # fmt: skip
    soon = NOW + timedelta(minutes=1)
    for at, temp in ((START, 0.1), (soon, 0.7)):
        store.ingest("planes", [{"tail": n, "at": at, "temp": temp} for n in range(12)])
    models.register(store, "late", ONNX, features=["planes:temp"], inputs=["temp"] * 4)
    table = labels(40).select(["flight", "tail"])

    def die(rows: int) -> None:
        if rows == 20:
            raise Kill

    asked: dict[str, Any] = {"unit_rows": 10, "write_to": "scores", "record_id": "flight"}
    with pytest.raises(Kill):
        batch.score(store, "late", table, name="job", progress=die, **asked)
    now[0] = NOW + timedelta(minutes=5)
    job = batch.score(store, "late", table, name="job", **asked)
    assert len(set(scores_of(job).tolist())) == 1
    [found] = store.sql("SELECT DISTINCT scored_at FROM scores").to_pylist()
    assert found["scored_at"] == NOW
    assert set(scores_of(batch.score(store, "late", table)).tolist()) != set(
        scores_of(job).tolist()
    )


def test_a_training_set_is_scored_as_a_loader_gives_it(store: fs.FeatureStore) -> None:
    store.create_feature_group(
        "weather", record_identifier="origin", event_time="at",
        features={"origin": "string", "at": "timestamp", "temp": "float64", "sky": "string"},
    )  # fmt: skip
    skies = ["clear", "rain", None, "snow"]
    store.ingest("weather", [
        {"origin": o, "at": START + timedelta(hours=h), "temp": h / 3, "sky": skies[(h + n) % 4]}
        for n, o in enumerate(("JFK", "LAGU")) for h in range(48)
    ])  # fmt: skip
    table = labels(60).append_column("late", pa.array([n % 3 == 0 for n in range(60)]))
    made = training.training_set(
        store, "late", labels=table, label="late", label_time="asked_at",
        features=["weather:temp,sky"], from_labels=["minute"],
    )  # fmt: skip
    rows, told = made.to_numpy()
    model = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=3).fit(rows, told)
    models.register(store, "sky", model, training_set=made)
    wanted = model.predict_proba(rows)[:, 1]
    assert len(set(wanted.tolist())) > 3
    found = predictions(batch.score(store, "sky", made))
    np.testing.assert_array_equal(found["score"].to_numpy(), wanted)
    # The labels' texts say the same as the set's numbers.
    looked_up = batch.score(store, "sky", table.sort_by("asked_at"), label_time="asked_at")
    np.testing.assert_array_equal(predictions(looked_up)["score"].to_numpy(), wanted)


def test_kept_columns_of_every_type_come_back_as_they_were(world: fs.FeatureStore) -> None:
    kinds: dict[str, pa.DataType] = {
        str(t): t
        for t in (
            *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
            *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
            *(pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.date32(), pa.string()),
            *(pa.timestamp("us", "UTC"), pa.binary(), pa.list_(pa.int64()), pa.decimal128(9, 2)),
        )
    }
    n = 40
    table = labels(n)
    for name, kind in kinds.items():
        plain: list[Any] = [None if i % 7 == 0 else i * 3 % 100 for i in range(n)]
        if pa.types.is_list(kind):
            plain = [None if v is None else [v, None] for v in plain]
        elif pa.types.is_string(kind) or pa.types.is_binary(kind):
            plain = [None if v is None else str(v).encode() for v in plain]
        elif pa.types.is_boolean(kind):
            plain = [None if v is None else v % 2 == 0 for v in plain]
        table = table.append_column(name, pa.array(plain, kind))
    job = batch.score(world, "late", table, label_time="asked_at", unit_rows=16)
    assert predictions(job).select([*kinds]).equals(table.select([*kinds]))


# ── back into the store ──────────────────────────────────────────────────────────────────────


def test_predictions_are_a_feature_group_that_can_be_joined(world: fs.FeatureStore) -> None:
    asked = {"label_time": "asked_at", "write_to": "late_scores", "record_id": "flight"}
    job = batch.score(world, "late", labels(), unit_rows=20, name="one", **asked)
    scores = predictions(job)["score"].to_pylist()
    record = world.get_record("late_scores", 7)
    assert (record["score"], record["model_version"]) == (scores[7], "late:1")
    assert (record["unit"], record["scored_at"]) == ("one/0", NOW)
    later = pa.table({"flight": [7, 8], "at": [NOW, NOW - timedelta(seconds=1)]})
    joined = world.point_in_time(later, ["late_scores:score"], label_time="at")
    assert joined["score"].to_pylist() == [scores[7], None]
    batch.score(world, "late", labels(), unit_rows=20, name="two", **asked)
    history = world.sql("SELECT count(*) AS n, count(DISTINCT unit) AS u FROM history.late_scores")
    assert history.to_pylist() == [{"n": 100, "u": 6}]


def test_monitoring_reads_predictions_and_what_was_captured(
    world: fs.FeatureStore, tmp_path: Path
) -> None:
    job = batch.score(
        world, "late", labels(), label_time="asked_at", unit_rows=20, name="one",
        write_to="late_scores", record_id="flight", capture=tmp_path,
    )  # fmt: skip
    scores = scores_of(job)
    window = (NOW, NOW + timedelta(hours=1))
    healthy = monitor.baseline(world, "group:late_scores", window=window)
    assert healthy.columns["score"].rows == 50
    assert healthy.columns["score"].mean == pytest.approx(np.nanmean(scores))
    names = [*INPUTS, "score"]
    where = f"capture:{tmp_path / 'one'}"
    captured = monitor.baseline(world, where, columns=names)
    assert captured.columns["score"].mean == pytest.approx(np.nanmean(scores))
    monitor.create(
        world, "late", kind="data_quality", source=where, baseline=captured, columns=names
    )
    execution = monitor.run(world, "late", monitor.Window(to_us(NOW), to_us(NOW) + 3_600_000_000))
    assert (execution.rows, execution.violated) == (50, False)


class Kill(BaseException):
    """The process is gone."""


def content(folder: Path, name: str) -> dict[str, bytes]:
    """Return all files of a life, but for the job's name and what is made of it."""
    return {
        str(p.relative_to(folder)).replace(name, "job"): re.sub(rb'"eventId":"[^"]*"', b"", data)
        for p in folder.rglob("*")
        if p.is_file() and (data := p.read_bytes())
    }


def test_a_hundred_kills_give_the_same_bytes_and_no_prediction_twice(
    world: fs.FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, kills, lives = labels(), 0, 0
    chance = random.Random(11)

    def run(name: str, at: int) -> batch.BatchJob:
        calls = [0]

        def step(_name: str, path: str, call: Any, args: tuple[Any, ...]) -> Any:
            # The store's own calls are killed in its own tests.
            calls[0] += name in path
            if calls[0] == at and name in path:
                raise Kill
            return call(*args)

        monkeypatch.setattr(seam, "on_call", step)
        try:
            return batch.score(
                world, "late", table, label_time="asked_at", unit_rows=9, name=name,
                output=tmp_path / name / "out", capture=tmp_path / name / "captured",
                write_to=f"scores_{name}", record_id="flight",
            )  # fmt: skip
        finally:
            monkeypatch.setattr(seam, "on_call", None)

    run("whole", 0)
    expected = content(tmp_path / "whole", "whole")
    assert len(expected) == 12
    while kills < 100:
        lives += 1
        name, job = f"life{lives}", None
        while job is None:
            try:
                job = run(name, chance.randrange(1, 60))
            except Kill:
                kills += 1
        assert job.status == "Completed"
        assert content(tmp_path / name, name) == expected
        found = world.sql(
            f"SELECT count(*) AS n, count(DISTINCT flight) AS k FROM history.scores_{name}"
        )
        assert found.to_pylist() == [{"n": 50, "k": 50}]
    assert lives > 5


def test_what_is_scored_is_captured_for_the_monitor(world: fs.FeatureStore, tmp_path: Path) -> None:
    job = batch.score(
        world,
        "late",
        labels().slice(4, 3),
        label_time="asked_at",
        capture=tmp_path / "c",
        name="cap",
    )
    [path] = (tmp_path / "c").rglob("*.jsonl")
    assert str(path.relative_to(tmp_path / "c")) == "cap/AllTraffic/2013/01/03/00/unit-00000.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["captureData"]["endpointInput"] == {
        "observedContentType": "text/csv", "mode": "INPUT",
        "data": "-0.25,0.0,2.0,4.0", "encoding": "CSV",
    }  # fmt: skip
    outputs = [float(line["captureData"]["endpointOutput"]["data"]) for line in lines]
    assert outputs == predictions(job)["score"].to_pylist()
    assert lines[0]["eventMetadata"]["inferenceTime"] == "2013-01-03T00:00:00Z"
    assert len({line["eventMetadata"]["eventId"] for line in lines}) == 3
    assert lines[0]["eventVersion"] == "0"


# ── bad rows ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def picky(store: fs.FeatureStore) -> str:
    """Return a model that refuses missing values: scikit-learn's logistic regression."""
    chance = np.random.default_rng(1)
    rows = chance.normal(size=(100, 2))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    return models.register(store, "picky", model, inputs=["a", "b"]).reference


def test_rows_the_model_refuses_are_put_aside(store: fs.FeatureStore, picky: str) -> None:
    values = [float(n) if n % 10 else None for n in range(25)]
    table = pa.table({"id": range(25), "a": values, "b": [0.5] * 25})
    job = batch.score(store, picky, table, on_error="quarantine", unit_rows=12)
    assert predictions(job)["id"].to_pylist() == [n for n in range(25) if n % 10]
    put_aside = [(e["file"], e["line"], e["payload"]["b"]) for e in job.errors()]
    assert put_aside == [("unit 0", 1, 0.5), ("unit 0", 11, 0.5), ("unit 1", 9, 0.5)]
    assert "NaN" in job.errors()[0]["reason"]
    failed = batch.score(store, picky, table)
    assert failed.status == "Failed"
    assert failed.failure.startswith("The model refuses row 0: ValueError")
    skipped = batch.score(store, picky, table, on_error="skip", max_error_share=0.1)
    assert (skipped.status, skipped.failure) == ("Failed", "The model refused 3 of 25 rows.")


def test_what_cannot_be_scored_is_refused(store: fs.FeatureStore, picky: str) -> None:
    table = pa.table({"a": [1.0], "b": [2.0]})
    for source, wrong in [
        (table, {"on_error": "ignore"}),
        (table, {"write_to": "x"}),
        (table, {"record_id": "a"}),
        (table, {"unit_rows": 0}),
        (3, {}),
        ("/nowhere", {}),
    ]:
        with pytest.raises(fs.InvalidInput):
            batch.score(store, picky, source, **wrong)
    with pytest.raises(fs.InvalidInput, match='"b" is not in the source'):
        batch.score(store, picky, table.drop("b"))
    with pytest.raises(fs.UnknownJob):
        batch.get(store, "nobody")


def test_a_job_remembers_what_it_did_in_all_of_its_lives(
    world: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "TELL_SECONDS", 0.0)

    def die(rows: int) -> None:
        if rows == 20:
            raise Kill

    seq = world.snapshot()
    with pytest.raises(Kill):
        batch.score(world, "late", labels(), unit_rows=20, name="job", progress=die)
    earlier = batch.get(world, "job").record
    assert (earlier["status"], earlier["rows"]) == ("InProgress", 20)
    assert "20 of 50 rows" in repr(batch.get(world, "job"))
    assert 0 < earlier["seconds"] < 500
    records.note(world, "batch/job", seconds=500.0)
    world.put_record("planes", {"tail": 1, "at": NOW, "seats": 1.0})
    record = batch.score(world, "late", labels(), unit_rows=20, name="job").record
    version = models.get(world, "late")
    assert record["lineage"] == {"model": "late:1", "digest": version.digest, "seq": seq}
    assert (record["status"], record["rows"], record["errors"]) == ("Completed", 50, 0)
    assert record["seconds"] > 500
    assert [name for name, *_ in batch.get(world, "job").transitions] == [
        "Starting", "InProgress", "Completed",
    ]  # fmt: skip


def test_a_job_is_stopped_between_units_and_goes_on(world: fs.FeatureStore) -> None:
    def stop(rows: int) -> None:
        if rows == 10:
            batch.stop(world, "job")
            assert batch.get(world, "job").status == "Stopping"

    asked: dict[str, Any] = {"unit_rows": 10, "name": "job"}
    job = batch.score(world, "late", labels(500), progress=stop, **asked)
    assert job.status == "Stopped"
    assert 10 <= job.record["rows"] < 500
    assert predictions(batch.score(world, "late", labels(500), **asked)).num_rows == 500


def test_a_line_of_the_log_that_was_cut_is_not_there_and_the_next_is_whole(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    log = batch_job.ProgressLog(path)
    for n in range(3):
        log.add(unit=n)
    log.close()
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        log = batch_job.ProgressLog(path)
        kept = [{"unit": n} for n in range(whole[:size].count(b"\n"))]
        assert log.entries == kept
        log.add(unit=9)
        log.close()
        again = batch_job.ProgressLog(path)
        assert again.entries == [*kept, {"unit": 9}]
        again.close()


# ── the pipeline ─────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers()), st.integers(0, 12), st.sampled_from(["read", "work", "write"]))
def test_the_pipeline_keeps_the_order_and_raises_what_fails(
    items: list[int], at: int, where: str
) -> None:
    written: list[int] = []

    def step(place: str, number: int) -> int:
        if place == where and number == at:
            raise Kill
        return number

    def run() -> None:
        pipeline.run(
            (step("read", n) for n in range(len(items))),
            lambda n: step("work", n),
            lambda n: written.append(items[step("write", n)]),
        )

    if at < len(items):
        with pytest.raises(Kill):
            run()
        assert written == items[: len(written)]
        assert len(written) <= at
    else:
        run()
        assert written == items


def test_who_reads_waits_for_who_writes() -> None:
    """Two in each queue, one in the hands of each of the three."""
    read, written = [0], [0]

    def reading() -> Iterator[int]:
        for n in range(60):
            read[0] += 1
            assert read[0] - written[0] <= 2 * pipeline.ROOM + 3
            yield n

    def write(_: int) -> None:
        time.sleep(0.002)
        written[0] += 1

    pipeline.run(reading(), lambda n: n, write)
    assert written == [60]
