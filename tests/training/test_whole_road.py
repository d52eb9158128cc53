"""The whole road: a training set, a job, a version that knows its features, and predictions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import batch, models, training
from tests.training.scripts import script

START = datetime(2013, 1, 1, tzinfo=UTC)
PIPED = """
import json, os
from featurestore.training.pipe import read_pipe
sums = []
for epoch in range(2):
    path = os.path.join(os.environ["SM_INPUT_DIR"], "data", f"train_{epoch}")
    rows = [row for x, y in read_pipe(path, features=3, batch=16) for row in x.tolist()]
    sums.append([len(rows), sum(row[0] for row in rows), rows[0][0]])
print(json.dumps(sums))
assert "train" in json.loads(os.environ["SM_CHANNELS"])
"""


@pytest.fixture
def labels(store: fs.FeatureStore) -> pa.Table:
    """Return labels over a group with a number, a text, and nulls."""
    store.create_feature_group(
        "weather", record_identifier="origin", event_time="at",
        features={"origin": "int64", "at": "timestamp", "temp": "float64", "sky": "string"},
    )  # fmt: skip
    chance = np.random.default_rng(2)
    records = [
        {"origin": n % 5, "at": START + timedelta(hours=n), "temp": float(chance.normal()),
         "sky": [None, "clear", "rain"][n % 3]}
        for n in range(300)
    ]  # fmt: skip
    store.ingest("weather", records)
    count = 240
    asked = [START + timedelta(hours=6 + n) for n in range(count)]
    hour = chance.integers(0, 24, count)
    return pa.table(
        {
            "origin": pa.array(np.arange(count) % 5, pa.int64()),
            "asked_at": asked,
            "hour": pa.array(hour, pa.int32()),
            "late": hour > 11,
        }
    )


def made(store: fs.FeatureStore, labels: pa.Table) -> training.TrainingSet:
    return training.training_set(
        store, "late", labels=labels, label="late", label_time="asked_at",
        features=["weather:temp,sky"], from_labels=["hour"], nulls={"temp": -1.0},
        allow=["hour"],
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::featurestore.training.LeakWarning")
def test_a_model_trained_on_a_set_looks_up_what_it_was_trained_on(
    store: fs.FeatureStore, labels: pa.Table
) -> None:
    whole = made(store, labels)
    train, later = whole.split(START + timedelta(hours=180))[:2]
    job = training.train(
        store,
        algorithm="xgboost",
        channels={"train": train, "validation": later},
        params={"num_round": 5, "max_depth": 2},
    )
    assert job.status == "Completed", job.failure
    assert job.metrics["validation:auc"] > 0.9
    assert job.record["lineage"]["channels"]["train"]["training_set"]["hash"] == train.hash
    version = training.register(store, "late", job)
    assert version.inputs == whole.features
    assert version.training_set["hash"] == train.hash
    assert (version.lookups, version.label) == (whole.lookups, "late")
    assert version.categories == whole.categories
    direct = models.register(store, "late", job.model, training_set=train)
    assert (direct.inputs, direct.fills) == (version.inputs, version.fills)

    # From the labels alone, and from the set itself: the same scores as on the set's own matrix.
    matrix, _ = whole.to_numpy()
    wanted = models.load(store, version).score(matrix)
    for source, options in [(labels.drop("late"), {"label_time": "asked_at"}), (whole, {})]:
        scored = batch.score(store, "late:1", source, unit_rows=100, **options)
        assert scored.status == "Completed", scored.failure
        found = pa.concat_tables(pq.read_table(p) for p in sorted(scored.output.glob("*.parquet")))
        np.testing.assert_array_equal(found["score"].to_numpy(), wanted)


@pytest.mark.filterwarnings("ignore::featurestore.training.LeakWarning")
def test_a_set_is_piped_an_epoch_after_the_other(
    store: fs.FeatureStore, labels: pa.Table, tmp_path: Path
) -> None:
    whole = made(store, labels)
    entry = script(tmp_path, "piped.py", PIPED)
    job = training.train(
        store, entry=entry, channels={"train": whole}, input_mode="Pipe", shuffle_seed=3
    )
    assert job.status == "Completed", job.failure
    matrix, _ = whole.to_numpy()
    first, second = eval(job.logs())
    assert first[0] == second[0] == 240
    assert first[1] == pytest.approx(matrix[:, 0].sum(), rel=1e-5)
    assert list((job.folders.data).iterdir()) == []
    for wrong in [{"channels": {"train": tmp_path}}, {"algorithm": "knn", "entry": None}]:
        asked = {"entry": entry, "channels": {"train": whole}, "input_mode": "Pipe", **wrong}
        with pytest.raises(fs.InvalidInput):
            training.train(store, **asked)


@pytest.mark.filterwarnings("ignore::featurestore.training.LeakWarning")
@pytest.mark.parametrize("mode", ["File", "FastFile"])
def test_a_channel_is_the_set_itself(
    store: fs.FeatureStore, labels: pa.Table, tmp_path: Path, mode: str
) -> None:
    train, _ = made(store, labels).split(START + timedelta(hours=100))[:2]
    text = """
    import os
    from featurestore.training import TrainingSet
    print(TrainingSet.open(os.environ["SM_CHANNEL_TRAIN"]).to_numpy()[0].shape)
    print(sorted(os.listdir(os.environ["SM_CHANNEL_TRAIN"])))
    """
    job = training.train(
        store, entry=script(tmp_path, "t.py", text), channels={"train": train}, input_mode=mode
    )
    assert job.status == "Completed", job.failure
    shape, listed = map(eval, job.logs().splitlines())
    assert shape == (len(train), 3)
    assert "parts" not in listed
