"""The files path: SageMaker's contract, bad records, and kills."""

from __future__ import annotations

import gzip
import io
import json
import random
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import batch, models
from featurestore.batch import file_transform, payloads, protobuf
from featurestore.storage import seam

ONNX = Path(__file__).parents[1] / "models" / "logistic.onnx"
EXPECTED = np.loadtxt(ONNX.with_name("logistic.csv"), delimiter=",")
ROWS, SCORES = EXPECTED[:, :4], EXPECTED[:, 4]
INPUTS = ["a", "b", "c", "d"]

HANDLER = """
import os, time
import numpy as np

def predict_fn(rows, model):
    for row in rows.tolist():
        if row[0] == 666: os._exit(9)
        if row[0] == 777: raise ValueError("a row of sevens")
        if row[0] == 888: time.sleep(600)
    return np.asarray(rows, np.float64).sum(axis=1)
"""


@pytest.fixture
def store(open_store: Callable[..., fs.FeatureStore]) -> fs.FeatureStore:
    """Return an empty store at a clock that stands: captured records have its time."""
    return open_store(clock=lambda: datetime(2013, 1, 1, tzinfo=UTC))


@pytest.fixture
def model(store: fs.FeatureStore) -> str:
    return models.register(store, "late", ONNX, inputs=INPUTS).reference


@pytest.fixture
def handler(tmp_path: Path) -> Path:
    path = tmp_path / "inference.py"
    path.write_text(textwrap.dedent(HANDLER))
    return path


def csv(rows: Any) -> str:
    return "".join(",".join(map(repr, row)) + "\n" for row in np.asarray(rows).tolist())


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


# ── formats ──────────────────────────────────────────────────────────────────────────────────


def test_each_input_has_one_output_with_its_records_in_order(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "in", one=csv(ROWS[:6]), empty="")
    write(source / "deep", two=csv(ROWS[6:]).replace("\n", "\r\n"))
    job = batch.transform(store, model, source, tmp_path / "out", max_concurrent=2)
    assert job.status == "Completed", job.failure
    found = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.*"))
    assert list(map(str, found)) == ["deep/two.csv.out", "empty.csv.out", "one.csv.out"]
    one, two = (np.loadtxt(tmp_path / "out" / n) for n in ("one.csv.out", "deep/two.csv.out"))
    np.testing.assert_allclose(np.concatenate([one, two]), SCORES, rtol=1e-5)
    assert (job.record["rows"], job.record["errors"]) == (10, 0)
    assert job.record["lineage"]["model"] == "late:1"


def test_every_format_says_the_same(store: fs.FeatureStore, model: str, tmp_path: Path) -> None:
    rows = ROWS.astype(np.float32).tolist()
    table = pa.table(dict(zip(INPUTS, np.asarray(rows, np.float32).T, strict=True)))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    named = [json.dumps(dict(zip(INPUTS, row, strict=True))) for row in rows]
    cases: dict[str, tuple[bytes, dict[str, Any]]] = {
        "lists": ("\n".join(map(json.dumps, rows)).encode(), {"content_type": payloads.JSON_LINES}),
        "names": ("\n".join(named).encode(), {"content_type": payloads.JSON_LINES}),
        "recordio": (
            b"".join(payloads.as_recordio(protobuf.feature(row)) for row in rows),
            {"content_type": payloads.RECORDIO, "split": "RecordIO", "accept": payloads.CSV,
             "assemble": "Line"},
        ),
        "parquet": (
            sink.getvalue(),
            {"content_type": payloads.PARQUET, "split": "None", "accept": payloads.CSV},
        ),
        "gzip": (gzip.compress(csv(rows).encode()), {"compression": "Gzip"}),
        "single": (csv(rows).encode(), {"batch_strategy": "SingleRecord"}),
        "whole": (csv(rows).encode(), {"split": "None"}),
    }  # fmt: skip
    for name, (data, options) in cases.items():
        (tmp_path / name).write_bytes(data)
        job = batch.transform(store, model, tmp_path / name, tmp_path / "out", **options)
        assert job.status == "Completed", (name, job.failure)
        lines = (tmp_path / "out" / f"{name}.out").read_text().splitlines()
        scores = [json.loads(line)["score"] if "{" in line else float(line) for line in lines]
        np.testing.assert_allclose(scores, SCORES, rtol=1e-5, err_msg=name)
    back = batch.transform(
        store, model, tmp_path / "parquet", tmp_path / "out2",
        content_type=payloads.PARQUET, split="None",
    )  # fmt: skip
    assert pq.read_table(back.output / "parquet.out")["score"].to_pylist() == pytest.approx(
        list(SCORES), rel=1e-5
    )


def test_the_documented_example_joins_an_id(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    lines = [f"id-{n},{csv([row])}" for n, row in enumerate(ROWS)]
    source = write(tmp_path / "in", one="".join(lines))
    batch.transform(
        store, model, source, tmp_path / "out",
        input_filter="$[1:]", join="Input", output_filter="$[0,-1]",
    )  # fmt: skip
    found = [line.split(",") for line in (tmp_path / "out/one.csv.out").read_text().splitlines()]
    assert [name for name, _ in found] == [f"id-{n}" for n in range(10)]
    np.testing.assert_allclose([float(score) for _, score in found], SCORES, rtol=1e-5)


# ── bad records ──────────────────────────────────────────────────────────────────────────────


def good(*firsts: float) -> str:
    return csv([[first, 1, 1, 1] for first in firsts])


def test_a_record_that_kills_the_model_is_found_and_put_aside(
    store: fs.FeatureStore, model: str, handler: Path, tmp_path: Path
) -> None:
    text = good(1, 2, 666, 3, 777) + "1,2\nno,1,1,1\n" + good(4)
    source = write(tmp_path / "in", one=text)
    asked = {"handler": handler, "on_error": "quarantine", "retries": 1}
    job = batch.transform(store, model, source, tmp_path / "out", **asked)
    assert job.status == "Completed", job.failure
    assert (tmp_path / "out/one.csv.out").read_text() == "4.0\n5.0\n6.0\n7.0\n"
    put_aside = job.errors()
    assert [(e["file"], e["line"], e["payload"].split(",")[0]) for e in put_aside] == [
        ("one.csv", 3, "666"), ("one.csv", 5, "777"), ("one.csv", 6, "1"), ("one.csv", 7, "no"),
    ]  # fmt: skip
    assert [e["reason"] for e in put_aside][:3] == [
        "the model's process ended with code 9",
        "ValueError: a row of sevens",
        "ValueError: a row has 2 columns, and the model knows 4",
    ]
    assert (job.record["rows"], job.record["errors"]) == (8, 4)


def test_a_bad_record_fails_the_job_by_its_line(
    store: fs.FeatureStore, model: str, handler: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "in", one=good(1, 2, 777, 3))
    job = batch.transform(store, model, source, tmp_path / "out", handler=handler)
    assert (job.status, job.failure) == (
        "Failed",
        "ClientError: one.csv:3: ValueError: a row of sevens",
    )
    assert not (tmp_path / "out" / "one.csv.out").exists()


def test_too_many_bad_records_fail_the_job(
    store: fs.FeatureStore, model: str, handler: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "in", one=good(1, 777, 2))
    asked = {"handler": handler, "on_error": "skip"}
    allowed = batch.transform(store, model, source, tmp_path / "a", **asked, max_error_share=0.34)
    refused = batch.transform(store, model, source, tmp_path / "b", **asked, max_error_share=0.33)
    assert (allowed.status, refused.status) == ("Completed", "Failed")
    assert "1 of 3 records" in refused.failure
    assert allowed.errors() == []
    assert (tmp_path / "a/one.csv.out").read_text() == "4.0\n5.0\n"


def test_a_payload_that_hangs_and_a_record_that_is_too_large_are_errors(
    store: fs.FeatureStore, model: str, handler: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "in", one=good(1, 888) + "1" * (1 << 20) + ",1,1,1\n" + good(2))
    job = batch.transform(
        store, model, source, tmp_path / "out",
        handler=handler, on_error="quarantine", timeout="1s", max_payload_mb=1,
    )  # fmt: skip
    assert (tmp_path / "out/one.csv.out").read_text() == "4.0\n5.0\n"
    assert [e["line"] for e in job.errors()] == [2, 3]
    assert "max_payload_mb" in job.errors()[1]["reason"]


def test_what_does_not_go_together_is_refused(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "in", one=good(1))
    for wrong in [
        {"join": "Input", "accept": payloads.JSON_LINES},
        {"join": "Input", "assemble": "None"},
        {"split": "RecordIO"},
        {"content_type": payloads.PARQUET},
        {"content_type": payloads.RECORDIO, "split": "RecordIO", "input_filter": "$[0]"},
        {"content_type": "text/plain"},
        {"batch_strategy": "Some"},
        {"on_error": "ignore"},
        {"retries": 4},
        {"max_concurrent": 0},
        {"input_filter": "x"},
    ]:
        with pytest.raises(fs.InvalidInput):
            batch.transform(store, model, source, tmp_path / "out", **wrong)
    with pytest.raises(fs.InvalidInput):
        batch.transform(store, model, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(fs.UnknownModel):
        batch.transform(store, "lat", source, tmp_path / "out")
    assert batch.jobs(store) == []
    (tmp_path / "broken").write_bytes(b"not a record at all")
    asked = {"content_type": payloads.RECORDIO, "split": "RecordIO"}
    job = batch.transform(store, model, tmp_path / "broken", tmp_path / "out", **asked)
    assert job.failure == "ClientError: broken: there is no RecordIO record at byte 0"


# ── kills ────────────────────────────────────────────────────────────────────────────────────


class Kill(BaseException):
    """The process is gone."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[int]]]:
    """Return a function that kills the job at its n-th file call; what is returned counts them."""

    def install(at: int) -> list[int]:
        calls = [0]

        def step(_name: str, path: str, call: Any, args: tuple[Any, ...]) -> Any:
            if "out" in path or "batch" in path:
                calls[0] += 1
                if calls[0] == at:
                    raise Kill
            return call(*args)

        monkeypatch.setattr(seam, "on_call", step)
        return calls

    yield install
    monkeypatch.setattr(seam, "on_call", None)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    store: fs.FeatureStore,
    model: str,
    handler: Path,
    tmp_path: Path,
    killed_at: Callable[[int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file_transform, "LOG_SECONDS", 0.0)
    source = write(tmp_path / "in", one=good(1, 777, *range(2, 9)), two=good(*range(9, 14), 777))
    asked: dict[str, Any] = {
        "handler": handler, "on_error": "quarantine", "batch_strategy": "SingleRecord",
    }  # fmt: skip

    def run(name: str) -> batch.BatchJob:
        captured = tmp_path / name / "captured"
        return batch.transform(
            store, model, source, tmp_path / name / "out", name="job", capture=captured, **asked
        )

    whole = run("whole")
    assert whole.record["errors"] == 2
    expected, errors = content(tmp_path / "whole"), whole.errors()
    assert len(expected) == 4
    store.documents.update("job", "batch/job", lambda _: None)
    for path in whole.folder.glob("*.jsonl"):
        path.unlink()
    chance, kills = random.Random(7), 0
    while True:
        killed_at(chance.randrange(1, 30))
        try:
            job = run("cut")
        except Kill:
            kills += 1
        else:
            break
    assert kills > 1
    assert content(tmp_path / "cut") == expected
    assert job.errors() == errors
    assert (job.record["rows"], job.record["errors"]) == (15, 2)
    again = run("cut")  # complete: nothing is done again
    assert again.record == job.record
    with pytest.raises(fs.InvalidInput, match="another join"):
        batch.transform(
            store, model, source, tmp_path / "cut" / "out", name="job", join="Input",
            capture=tmp_path / "cut" / "captured", **asked,
        )  # fmt: skip


def test_a_job_can_be_stopped_and_goes_on(
    store: fs.FeatureStore,
    model: str,
    handler: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file_transform, "LOG_SECONDS", 0.0)
    source = write(tmp_path / "in", one=good(*range(20)))
    asked: dict[str, Any] = {
        "handler": handler, "batch_strategy": "SingleRecord", "name": "job",
    }  # fmt: skip

    def stop(rows: int) -> None:
        if rows == 5:
            batch.stop(store, "job")

    job = batch.transform(store, model, source, tmp_path / "out", progress=stop, **asked)
    assert job.status == "Stopped"
    assert not (tmp_path / "out" / "one.csv.out").exists()
    rows: list[int] = []
    job = batch.transform(store, model, source, tmp_path / "out", progress=rows.append, **asked)
    assert job.status == "Completed"
    assert rows[0] == 6
    assert len((tmp_path / "out/one.csv.out").read_text().splitlines()) == 20
    assert [s for s, *_ in job.transitions][-1] == "Completed"
