"""Exports: bytes of the SageMaker SDK's, and what other readers find in the files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_svmlight_file

import featurestore as fs
from featurestore import training
from featurestore.training.formats import Records
from tests.golden.recordio import arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden", "recordio.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['rows']}x{c['features']}")
def test_records_are_those_of_the_sagemaker_sdk(case: dict[str, Any]) -> None:
    x, y = arrays(case["rows"], case["features"])
    records = Records(case["features"], has_label=case["has_label"])
    data = records.write(x, y if case["has_label"] else None)
    if "hex" in case:
        assert data.hex() == case["hex"]
    else:
        assert hashlib.sha256(data).hexdigest() == case["sha256"]
    x_read, y_read = records.read(data)
    np.testing.assert_array_equal(x_read, x)
    assert (y_read is None) == (not case["has_label"])
    if y_read is not None:
        np.testing.assert_array_equal(y_read, y)


@given(st.binary(max_size=200), st.integers(1, 3))
def test_other_bytes_are_no_records(data: bytes, features: int) -> None:
    records = Records(features, has_label=True)
    good = records.write(np.ones((2, features), np.float32), np.ones(2, np.float32))
    if not data:
        assert records.read(data)[0].size == 0
        return
    for bad in (data, good[:-1], good + data):
        if bad.startswith(good) and bad[len(good) :].startswith(good[:20]):
            continue
        with pytest.raises(fs.InvalidInput, match=r"Record \d+ is not a dense"):
            records.read(bad)


@pytest.fixture(scope="module")
def ts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[training.TrainingSet]:
    rows = 20_000
    random = np.random.default_rng(8)
    at = pa.array(np.arange(rows) * 1_000_000).view(pa.timestamp("us", "UTC"))
    labels = pa.table(
        {
            "k": pa.array(np.zeros(rows, np.int64)),
            "event_time": at,
            "f": pa.array(random.normal(size=rows), mask=random.random(rows) < 0.2),
            "i": pa.array(random.integers(-3, 3, rows), pa.int32()),
            "c": pa.array(random.choice(["x", "y", 'q"t', ","], rows)),
            "y": pa.array(random.random(rows) < 0.5),
        }
    )
    with fs.open(tmp_path_factory.mktemp("export") / "store", upkeep=False) as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "int64", "t": "timestamp", "v": "float32"},
        )  # fmt: skip
        store.put_record("g", {"k": 0, "t": "1970-01-01T00:00Z", "v": 1 / 3})
        yield training.training_set(
            store, "all", labels=labels, label="y", features="g:v", from_labels=["f", "i", "c"]
        )


def test_csv_has_the_label_first_and_no_header(ts: training.TrainingSet, tmp_path: Path) -> None:
    path = ts.export(tmp_path / "train.csv", "csv")
    x, y = ts.to_numpy()
    frame = pd.read_csv(path, header=None, dtype=np.float32, skip_blank_lines=False)
    assert y is not None
    np.testing.assert_array_equal(frame.to_numpy(), np.column_stack([y, x]))
    assert path.read_text().splitlines()[0].count(",") == 4


def test_libsvm_is_read_by_scikit_learn(ts: training.TrainingSet, tmp_path: Path) -> None:
    x_read, y_read = load_svmlight_file(str(ts.export(tmp_path / "train.libsvm", "libsvm")))
    x, y = ts.to_numpy()
    np.testing.assert_array_equal(y_read, y)
    np.testing.assert_array_equal(x_read.toarray().astype(np.float32), np.nan_to_num(x))
    stored = np.diff(x_read.indptr)  # a zero is there, what is missing is not
    np.testing.assert_array_equal(stored, (~np.isnan(x)).sum(axis=1))


def test_parquet_has_values_as_they_were(ts: training.TrainingSet, tmp_path: Path) -> None:
    table = pq.read_table(ts.export(tmp_path / "train.parquet"))
    assert table.column_names == ["y", "f", "i", "c", "v"]
    assert table.equals(ts.to_arrow().select(table.column_names))
    assert table["c"].type == pa.string()


def test_arrow_and_recordio_have_what_a_loader_gives(
    ts: training.TrainingSet, tmp_path: Path
) -> None:
    x, y = ts.to_numpy()
    with pa.ipc.open_stream(ts.export(tmp_path / "train.arrow", "arrow")) as reader:
        table = reader.read_all()
    assert table.column_names == ["y", "f", "i", "c", "v"]
    np.testing.assert_array_equal(np.column_stack(table.columns)[:, 1:], x)
    data = ts.export(tmp_path / "train.rio", "recordio").read_bytes()
    np.testing.assert_array_equal(Records(4, has_label=True).read(data)[1], y)


def test_an_epochs_order_can_be_exported(ts: training.TrainingSet, tmp_path: Path) -> None:
    data = ts.export(tmp_path / "e", "recordio", shuffle=True, seed=3, batch=999).read_bytes()
    expected = np.concatenate([x for x, _ in ts.loader(seed=3, batch=999)])
    np.testing.assert_array_equal(Records(4, has_label=True).read(data)[0], expected)


def test_splits_are_exported_alone(ts: training.TrainingSet, tmp_path: Path) -> None:
    train, test = ts.split("1970-01-01T03:00Z")
    rows = [len(pq.read_table(part.export(tmp_path / "p.parquet"))) for part in (train, test)]
    assert rows == [3 * 3600, 20_000 - 3 * 3600]
    with pytest.raises(fs.InvalidInput, match='no export "xls"'):
        ts.export(tmp_path / "x", "xls")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.parquet"]
