"""The files path: SageMaker's contract, bad records, and kills."""

from __future__ import annotations

import gzip
import hashlib
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
from featurestore.batch.worker import write_scores
from featurestore.monitor import sources
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


def test_a_score_that_is_missing_is_null_in_json(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text(",1,1,1\n" + csv(ROWS[:1]))
    job = batch.transform(
        store, model, tmp_path / "in.csv", tmp_path / "out", accept=payloads.JSON_LINES
    )
    first, second = (job.output / "in.csv.out").read_text().splitlines()
    assert (first, json.loads(second)["score"]) == (
        '{"score": null}', pytest.approx(SCORES[0], rel=1e-5),
    )  # fmt: skip
    assert write_scores(np.array([[np.nan, 0.5]]), payloads.JSON) == b'{"scores": [null, 0.5]}\n'


def test_recordio_is_what_the_sdk_writes_and_protobuf_reads(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    """The oracle is Google's own library, told the message's shape."""
    record = _record_message()
    given, bodies = [], []
    for n, row in enumerate(ROWS):
        message = record()
        kind = ("float32_tensor", "float64_tensor")[n % 2]
        getattr(message.features["values"], kind).values.extend(row)
        bodies.append(message.SerializeToString())
        half = len(bodies[-1]) // 2 if n == 3 else len(bodies[-1])
        for part, data in ((1, bodies[-1][:half]), (3, bodies[-1][half:])):
            framed = bytearray(payloads.as_recordio(data))
            framed[7] |= (part if n == 3 else 0) << 5  # one record is in two parts
            given.append(bytes(framed) if data else b"")
    (tmp_path / "in.rio").write_bytes(b"".join(given))
    asked: dict[str, Any] = {"content_type": payloads.RECORDIO, "split": "RecordIO"}
    job = batch.transform(store, model, tmp_path / "in.rio", tmp_path / "out", **asked)
    assert job.status == "Completed", job.failure
    assert job.record["rows"] == len(ROWS)
    out = tmp_path / "out" / "in.rio.out"
    found = [r.data for r in payloads.records(out, "RecordIO", compressed=False)]
    scores = [record.FromString(d).label["score"].float32_tensor.values for d in found]
    np.testing.assert_allclose(np.concatenate(scores), SCORES, rtol=1e-5)
    asked = {"accept": payloads.RECORDIO}
    (tmp_path / "in.csv").write_text(csv(ROWS))
    batch.transform(store, model, tmp_path / "in.csv", tmp_path / "out", **asked)
    again = payloads.records(tmp_path / "out" / "in.csv.out", "RecordIO", compressed=False)
    assert [r.data for r in again] == found


def _record_message() -> Any:
    """Return the class of ``aialgs.data.Record``, as far as it is needed."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package="aialgs", syntax="proto2")
    for name, number in (("Float32Tensor", field.TYPE_FLOAT), ("Float64Tensor", field.TYPE_DOUBLE)):
        values = file.message_type.add(name=name).field.add(
            name="values", number=1, type=number, label=field.LABEL_REPEATED
        )
        values.options.packed = True
    value = file.message_type.add(name="Value")
    for number, name in ((2, "Float32Tensor"), (3, "Float64Tensor")):
        value.field.add(
            name=f"{name[:7].lower()}_tensor", number=number, type=field.TYPE_MESSAGE,
            type_name=f".aialgs.{name}", label=field.LABEL_OPTIONAL,
        )  # fmt: skip
    record = file.message_type.add(name="Record")
    for number, name in ((1, "features"), (2, "label")):
        entry = record.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
        entry.field.add(
            name="value", number=2, type=field.TYPE_MESSAGE, type_name=".aialgs.Value",
            label=field.LABEL_OPTIONAL,
        )  # fmt: skip
        record.field.add(
            name=name, number=number, type=field.TYPE_MESSAGE, label=field.LABEL_REPEATED,
            type_name=f".aialgs.Record.{name.title()}Entry",
        )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("aialgs.Record"))


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


def test_the_documented_example_joins_an_attribute(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    lines = [json.dumps({"id": n, "features": row}) + "\n" for n, row in enumerate(ROWS.tolist())]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    job = batch.transform(
        store, model, tmp_path / "in.jsonl", tmp_path / "out", content_type=payloads.JSON_LINES,
        input_filter="$.features", join="Input", output_filter="$['id','SageMakerOutput']",
    )  # fmt: skip
    assert job.status == "Completed", job.failure
    found = [json.loads(line) for line in (tmp_path / "out/in.jsonl.out").read_text().splitlines()]
    assert [sorted(one) for one in found] == [["SageMakerOutput", "id"]] * len(ROWS)
    assert [one["id"] for one in found] == list(range(len(ROWS)))
    np.testing.assert_allclose(
        [one["SageMakerOutput"]["score"] for one in found], SCORES, rtol=1e-5
    )
    (tmp_path / "in.json").write_text(lines[0])
    batch.transform(
        store, model, tmp_path / "in.json", tmp_path / "out", content_type=payloads.JSON,
        split="None", join="Input", input_filter="$.features",
    )  # fmt: skip
    assert json.loads((tmp_path / "out/in.json.out").read_text()) == {
        **json.loads(lines[0]), "SageMakerOutput": found[0]["SageMakerOutput"],
    }  # fmt: skip


# ── payloads ─────────────────────────────────────────────────────────────────────────────────

SPY = """
import os, time
seen = {seen!r}

def input_fn(body, content_type):
    with open(seen, "a") as file:
        file.write(f"{{len(body)}} {{body.count(b'1,')}} {{os.getpid()}}\\n")
    return body

def predict_fn(body, model):
    return body

def output_fn(body, accept):
    return b"".join(line[:2] + b"ok\\n" for line in body.splitlines())
"""


@pytest.fixture
def spied(tmp_path: Path) -> tuple[Path, Callable[[], list[tuple[int, int]]]]:
    """Return a handler, and a function that says what it was given: bytes and records of each."""
    path, seen = tmp_path / "spy.py", tmp_path / "seen"
    path.write_text(textwrap.dedent(SPY).format(seen=str(seen)))

    def look() -> list[tuple[int, int]]:
        lines = seen.read_text().splitlines()
        seen.unlink()
        return [(int(size), int(count)) for size, count, _ in map(str.split, lines)]

    return path, look


def test_a_payload_has_as_many_records_as_fit_or_one(
    store: fs.FeatureStore,
    model: str,
    spied: tuple[Path, Callable[[], list[tuple[int, int]]]],
    tmp_path: Path,
) -> None:
    handler, look = spied
    line = "1," + "x" * ((1 << 20) // 4 - 3)  # with its end a quarter of a MiB
    source = write(tmp_path / "in", one=f"{line}\n" * 10, two="1,y\n" * 3)
    asked: dict[str, Any] = {"handler": handler, "assemble": "None"}
    batch.transform(store, model, source, tmp_path / "a", max_payload_mb=1, **asked)
    assert look() == [(1 << 20, 4), (1 << 20, 4), (1 << 19, 2), (12, 3)]  # never of two files
    batch.transform(store, model, source, tmp_path / "b", max_payload_mb=0, **asked)
    assert look() == [(10 << 18, 10), (12, 3)]
    batch.transform(store, model, source, tmp_path / "c", batch_strategy="SingleRecord", **asked)
    assert look() == [(1 << 18, 1)] * 10 + [(4, 1)] * 3
    batch.transform(store, model, source, tmp_path / "d", split="None", **asked)
    assert look() == [(10 << 18, 10), (12, 3)]
    for made in "abcd":  # put together as the model gave them
        assert (tmp_path / made / "one.csv.out").read_text() == "1,ok\n" * 10
    too_large = batch.transform(
        store, model, source, tmp_path / "e", split="None", max_payload_mb=1, **asked
    )
    assert "ClientError: one.csv:1: the record has 2,621,440 bytes" in too_large.failure
    assert (tmp_path / "e" / "two.csv.out").exists()


TOGETHER = """
import os, time
import numpy as np
folder = {folder!r}

def predict_fn(rows, model):
    first = int(rows[0][0])
    open(os.path.join(folder, str(first)), "w").close()
    if first == 1:  # the first payload ends after the second has come, and a while later
        until = time.monotonic() + 60
        while not os.path.exists(os.path.join(folder, "2")):
            if time.monotonic() > until: raise TimeoutError("nobody works beside me")
            time.sleep(0.01)
        time.sleep(0.1)
    return np.asarray(rows)[:, 0]
"""


def test_payloads_are_with_the_model_together_and_come_out_in_order(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    (tmp_path / "seen").mkdir()
    handler = tmp_path / "together.py"
    handler.write_text(textwrap.dedent(TOGETHER).format(folder=str(tmp_path / "seen")))
    source = write(tmp_path / "in", one=good(1, 2, 3, 4, 5))
    job = batch.transform(
        store, model, source, tmp_path / "out", handler=handler,
        batch_strategy="SingleRecord", max_concurrent=2,
    )  # fmt: skip
    assert job.status == "Completed", job.failure
    assert (tmp_path / "out/one.csv.out").read_text() == "1.0\n2.0\n3.0\n4.0\n5.0\n"


ONCE = """
import os
import numpy as np
died = {died!r}

def predict_fn(rows, model):
    if not os.path.exists(died):
        open(died, "w").close()
        os._exit(7)
    return np.asarray(rows)[:, 0]
"""


def test_a_payload_is_sent_again_as_often_as_was_asked(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    handler, died = tmp_path / "once.py", tmp_path / "died"
    handler.write_text(textwrap.dedent(ONCE).format(died=str(died)))
    source = write(tmp_path / "in", one=good(1))
    job = batch.transform(store, model, source, tmp_path / "a", handler=handler)
    assert job.failure == "ClientError: one.csv:1: the model's process ended with code 7"
    died.unlink()
    job = batch.transform(store, model, source, tmp_path / "b", handler=handler, retries=1)
    assert (job.status, job.failure) == ("Completed", "")
    assert (tmp_path / "b/one.csv.out").read_text() == "1.0\n"


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


def test_a_file_that_fails_does_not_keep_the_others_from_being_scored(
    store: fs.FeatureStore, model: str, handler: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "in", a=good(1, 2), b=good(3, 777, 4), c=good(5), e=good(777))
    (source / "d.gz").write_bytes(gzip.compress(good(1).encode())[:-9])
    asked: dict[str, Any] = {"handler": handler, "name": "job"}
    for _ in range(2):  # and again: what is done stays done
        job = batch.transform(store, model, source, tmp_path / "out", **asked)
        assert (job.status, job.failure) == (
            "Failed",
            "ClientError: b.csv:2: ValueError: a row of sevens (2 more of the files failed)",
        )
        assert sorted(p.name for p in (tmp_path / "out").glob("*.out")) == [
            "a.csv.out", "c.csv.out",
        ]  # fmt: skip
        assert (tmp_path / "out/a.csv.out").read_text() == "4.0\n5.0\n"
    assert not any(s == "Completed" for s, *_ in job.transitions)


def test_a_file_that_cannot_be_read_fails(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    whole = gzip.compress(csv(ROWS).encode())
    bad = bytearray(whole)
    bad[20] ^= 0xFF
    for name, data in (("cut", whole[:-9]), ("flipped", bytes(bad)), ("none", b"not gzip")):
        (tmp_path / name).write_bytes(data)
        job = batch.transform(
            store, model, tmp_path / name, tmp_path / "out", compression="Gzip", on_error="skip"
        )
        assert job.status == "Failed"
        assert job.failure.startswith(f"ClientError: {name}: ")
    assert not list((tmp_path / "out").glob("*.out"))


def test_a_json_line_that_cannot_be_read_is_an_error_by_its_line(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    lines = ['{"features": [1, 2, 3, 4]}', '{"features": [1, 2', '{"other": 1}', "[1, 2, 3, 4]"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    asked: dict[str, Any] = {"content_type": payloads.JSON_LINES, "input_filter": "$.features"}
    job = batch.transform(store, model, tmp_path / "in.jsonl", tmp_path / "out", **asked)
    assert job.status == "Failed"
    assert job.failure.startswith("ClientError: in.jsonl:2: unable to parse data as JSON: ")
    job = batch.transform(
        store, model, tmp_path / "in.jsonl", tmp_path / "out", on_error="quarantine", **asked
    )
    assert [(e["line"], e["payload"]) for e in job.errors()] == [
        (2, lines[1]), (3, lines[2]), (4, lines[3]),
    ]  # fmt: skip
    assert job.errors()[1]["reason"].startswith("the filter $.features cannot be applied")
    csv_job = batch.transform(
        store, model, write(tmp_path / "csv", one=good(1)), tmp_path / "out", input_filter="$.id"
    )
    assert "ClientError: one.csv:1: the filter $.id cannot be applied" in csv_job.failure


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
        {"join": "Input", "assemble": "None", "split": "None"},
        {"input_filter": "$[1:]", "split": "None"},
        {"accept": payloads.PARQUET},
        {"accept": payloads.RECORDIO, "assemble": "Line"},
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
            assert batch.get(store, "job").status == "Stopping"

    job = batch.transform(store, model, source, tmp_path / "out", progress=stop, **asked)
    assert job.status == "Stopped"
    assert not (tmp_path / "out" / "one.csv.out").exists()
    rows: list[int] = []
    job = batch.transform(store, model, source, tmp_path / "out", progress=rows.append, **asked)
    assert job.status == "Completed"
    assert rows[0] == 6
    assert len((tmp_path / "out/one.csv.out").read_text().splitlines()) == 20
    assert [s for s, *_ in job.transitions][-1] == "Completed"


def test_a_job_whose_process_is_dead_is_stopped_at_once(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "in", one=good(1, 2))

    def die(_: int) -> None:
        raise Kill

    with pytest.raises(Kill):
        batch.transform(store, model, source, tmp_path / "out", name="job", progress=die)
    assert batch.get(store, "job").status == "InProgress"
    batch.stop(store, "job")
    assert batch.get(store, "job").status == "Stopped"
    job = batch.transform(store, model, source, tmp_path / "out", name="job")
    assert job.status == "Completed"
    batch.stop(store, "job")
    assert job.status == "Completed"


# ── what is left of it ───────────────────────────────────────────────────────────────────────


def test_monitoring_reads_what_was_captured(
    store: fs.FeatureStore, model: str, tmp_path: Path
) -> None:
    lines = [f"id-{n},{csv([row])}" for n, row in enumerate(ROWS)]
    source = write(tmp_path / "in", one="".join(lines[:4]), two="".join(lines[4:]))
    batch.transform(
        store, model, source, tmp_path / "out", name="job", capture=tmp_path / "captured",
        input_filter="$[1:]", join="Input",
    )  # fmt: skip
    found = sources.read_captured(tmp_path / "captured" / "job", None, [*INPUTS, "score"])
    read = np.array([[float(v) for v in found[name].to_pylist()] for name in INPUTS]).T
    np.testing.assert_array_equal(read, ROWS)
    scores = [float(v) for v in found["score"].to_pylist()]
    np.testing.assert_allclose(scores, SCORES, rtol=1e-5)
    assert set(found["inference_time"].to_pylist()) == {datetime(2013, 1, 1, tzinfo=UTC)}
    assert len(set(found["event_id"].to_pylist())) == len(ROWS)


def test_a_job_remembers_what_it_did(store: fs.FeatureStore, model: str, tmp_path: Path) -> None:
    job = batch.transform(store, model, write(tmp_path / "in", one=csv(ROWS)), tmp_path / "out")
    version, record = models.get(store, model), job.record
    assert record["lineage"] == {
        "model": "late:1", "digest": version.digest, "seq": store.snapshot(),
    }  # fmt: skip
    data = (tmp_path / "in" / "one.csv").read_bytes()
    assert record["request"]["files"] == [["one.csv", hashlib.sha256(data).hexdigest()]]
    assert (record["rows"], record["errors"]) == (10, 0)
    assert record["seconds"] > 0
