"""Adapters: the libraries get the loader's batches, all of them, as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

import featurestore as fs
from featurestore import training

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 9_000


@pytest.fixture(scope="module")
def ts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[training.TrainingSet]:
    random = np.random.default_rng(2)
    a, b = random.normal(size=ROWS), random.normal(size=ROWS)
    labels = pa.table(
        {
            "k": pa.array(np.zeros(ROWS, np.int64)),
            "event_time": pa.array(np.arange(ROWS)).view(pa.timestamp("us", "UTC")),
            "a": a.astype(np.float32),
            "b": b.astype(np.float32),
            "c": pa.array(random.choice(["x", "y"], ROWS)),
            "y": pa.array(a + b + random.normal(size=ROWS) > 0),
        }
    )
    with fs.open(tmp_path_factory.mktemp("adapters") / "store", upkeep=False) as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "int64", "t": "timestamp", "v": "float32"},
        )  # fmt: skip
        store.put_record("g", {"k": 0, "t": "1970-01-01T00:00Z", "v": 1.0})
        yield training.training_set(
            store, "all", labels=labels, label="y", features="g:v", from_labels=["a", "b", "c"]
        )


def test_partial_fit_is_that_of_a_loop(ts: training.TrainingSet) -> None:
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import SGDClassifier

    from featurestore.integrations.sklearn_data import partial_fit

    model = partial_fit(SGDClassifier(random_state=0), ts.loader(batch=500, seed=4), epochs=2)
    by_hand = SGDClassifier(random_state=0)
    loader = ts.loader(batch=500, seed=4)
    for _ in range(2):
        for x, y in loader:
            by_hand.partial_fit(x, y, classes=[0, 1])
    np.testing.assert_array_equal(model.coef_, by_hand.coef_)
    x, y = ts.to_numpy()
    assert model.score(x, y) > 0.7
    partial_fit(MiniBatchKMeans(2, random_state=0, n_init=1), ts.loader(batch=500))
    with pytest.raises(fs.InvalidInput, match="has no partial_fit"):
        partial_fit(HistGradientBoostingClassifier(), ts.loader())


def test_xgboost_learns_the_same_from_batches(ts: training.TrainingSet) -> None:
    xgboost = pytest.importorskip("xgboost")
    from featurestore.integrations.xgboost_data import quantile_matrix

    params = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}
    x, y = ts.to_numpy()
    about = {"feature_names": list(ts.features), "feature_types": ["q", "q", "c", "q"]}
    whole = xgboost.QuantileDMatrix(x, y, enable_categorical=True, **about)
    parts = quantile_matrix(ts.loader(batch=ROWS, shuffle=False))
    models = [xgboost.train(params, data, 5).save_raw("json") for data in (whole, parts)]
    assert models[0] == models[1]
    several = quantile_matrix(ts.loader(batch=1000, seed=3))
    assert (several.num_row(), several.num_col()) == (ROWS, 4)
    scores = xgboost.train(params, several, 5).inplace_predict(x)
    assert np.mean((scores > 0.5) == y) > 0.7


@pytest.mark.parametrize(("module", "extra"), [("torch", "torch"), ("xgboost_data", "xgboost")])
def test_a_missing_package_names_its_extra(module: str, extra: str) -> None:
    package = module.split("_", maxsplit=1)[0]
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import featurestore as fs\n"
        f"try:\n    import featurestore.integrations.{module}\n"
        "except fs.NotInstalled as error:\n    print(error)"
    )
    root = Path(fs.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert f"featurestore[{extra}]" in done.stdout
