"""The block path with the model in a process of its own: rows that kill it.

The model is a booster of LightGBM of two leaves, one of which is where no memory is: a row that
goes right is a segmentation fault in its library, as a damaged model or an overrun in C would be.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import batch, models
from featurestore.batch import scoring

lightgbm = pytest.importorskip("lightgbm")

ROWS, POISON = 8, 5
WHOLE_JOB = """
from datetime import UTC, datetime
import pyarrow.parquet as pq
import featurestore as fs
from featurestore import batch

with fs.open({store!r}, clock=lambda: datetime(2013, 1, 1, tzinfo=UTC)) as store:
    batch.score(store, "deadly", {rows!r}, name="job", on_error="quarantine", write_to="scores",
                record_id="id")
"""


@pytest.fixture
def store(open_store: Callable[..., fs.FeatureStore]) -> fs.FeatureStore:
    """Return a store with the model, at a clock that stands."""
    rows = np.random.default_rng(0).normal(size=(200, 2))
    rows[:40, 0] = 50.0
    options = {"num_leaves": 2, "verbose": -1, "min_data_in_leaf": 1, "num_threads": 1}
    booster = lightgbm.train(options, lightgbm.Dataset(rows, rows[:, 0]), 1)
    text = booster.model_to_string()
    assert "right_child=-2" in text
    deadly = lightgbm.Booster(model_str=text.replace("right_child=-2", "right_child=2000000000"))
    store = open_store(clock=lambda: datetime(2013, 1, 1, tzinfo=UTC))
    models.register(store, "sound", booster, inputs=["a", "b"])
    models.register(store, "deadly", deadly, inputs=["a", "b"])
    return store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return Parquet of four units, the third of which has a row that kills."""
    numbers = np.random.default_rng(1).normal(size=ROWS)
    numbers[POISON] = 50.0
    table = pa.table({"id": pa.array(range(ROWS), pa.int64()), "a": numbers, "b": [0.5] * ROWS})
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path, row_group_size=2)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.parquet")} | {
        path.name: path.read_bytes() for path in folder.rglob("errors*.jsonl")
    }


def test_a_row_that_kills_its_process_is_put_aside_and_the_rest_is_scored(
    store: fs.FeatureStore, source: Path
) -> None:
    asked = {"on_error": "quarantine", "write_to": "scores", "record_id": "id"}
    # In the caller's process it is the end of that...
    program = textwrap.dedent(WHOLE_JOB).format(store=str(store.path), rows=str(source))
    died = subprocess.run([sys.executable, "-c", program], env=os.environ, check=False)
    assert died.returncode == -signal.SIGSEGV
    job = batch.get(store, "job")
    assert job.record["status"] == "InProgress"
    assert {path.name for path in job.output.glob("*.parquet")} <= {
        f"part-0000{n}.parquet" for n in (0, 1)
    }
    # ... and the same job goes on in a process of its own.
    batch.score(store, "deadly", source, name="job", isolate=True, **asked)
    assert (job.status, job.record["rows"], job.record["errors"]) == ("Completed", ROWS, 1)
    assert job.errors() == [
        {"file": "unit 2", "line": 2, "reason": "the model's process ended with code -11",
         "payload": {"a": 50.0, "b": 0.5}},
    ]  # fmt: skip
    found = pa.concat_tables(pq.read_table(p) for p in sorted(job.output.glob("*.parquet")))
    survivors = [n for n in range(ROWS) if n != POISON]
    assert found["id"].to_pylist() == survivors
    rows = pq.read_table(source).to_pandas()[["a", "b"]].to_numpy(np.float32)
    sound = models.load(store, "sound").score(rows)
    np.testing.assert_array_equal(found["score"].to_numpy(), sound[survivors])
    assert sorted(store.sql("SELECT id FROM history.scores")["id"].to_pylist()) == survivors
    # What one life in a process of its own would have left is what both together have.
    whole = batch.score(store, "deadly", source, isolate=True, on_error="quarantine",
                        write_to="again", record_id="id")  # fmt: skip
    assert content(whole.folder) == content(job.folder)


def test_by_default_it_fails_the_job_and_says_which(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        pytest.fail("the model was loaded into the caller's process")

    monkeypatch.setattr(scoring.models, "load", never)
    table = pa.table({"a": [0.1, 50.0], "b": [0.5, 0.5]})
    job = batch.score(store, "deadly", table, unit_rows=1, isolate=True)
    assert job.status == "Failed"
    assert job.failure == "The model refuses row 1: the model's process ended with code -11"


def test_a_process_that_does_not_start_is_no_rows_fault(
    store: fs.FeatureStore, source: Path
) -> None:
    [path] = models.get(store, "sound").folder.glob("model.*")
    path.write_bytes(b"not what was registered")
    job = batch.score(store, "sound", source, isolate=True, on_error="skip")
    assert (job.status, job.record["errors"]) == ("Failed", 0)
    assert "the model's process does not start" in job.failure
