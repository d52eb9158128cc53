"""Algorithms by name: each trains, is registered, scores; and goes on where it was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import models, training
from featurestore.integrations import lightgbm, sklearn, xgboost
from featurestore.training.algorithms import ALGORITHMS, PATTERNS, data
from featurestore.training.algorithms.progress import Progress

CHANCE = np.random.default_rng(4)
ROWS = CHANCE.normal(size=(400, 3)).astype(np.float32)
LATE = (ROWS[:, 0] + 0.5 * CHANCE.normal(size=400) > 0).astype(np.float32)
SMALL: dict[str, dict[str, Any]] = {
    "linear-learner": {"epochs": 3},
    "xgboost": {"num_round": 4, "max_depth": 2},
    "lightgbm": {"num_round": 4, "num_leaves": 4},
    "kmeans": {"k": 3},
    "knn": {"k": 5},
    "pca": {"num_components": 2},
    "randomcutforest": {"num_trees": 5, "num_samples_per_tree": 32},
}


def table(part: slice) -> pa.Table:
    columns = {f"x{i}": pa.array(ROWS[part, i]) for i in range(3)}
    return pa.table({"late": pa.array(LATE[part]), **columns})


@pytest.mark.parametrize("name", ["xgboost", "randomcutforest"])
def test_a_job_by_name_trains_registers_and_scores(
    store: fs.FeatureStore, tmp_path: Path, name: str
) -> None:
    np.savetxt(tmp_path / "val.csv", np.column_stack([LATE, ROWS])[300:], delimiter=",")
    if not ALGORITHMS[name].is_supervised:
        np.savetxt(tmp_path / "val.csv", ROWS[300:], delimiter=",")
    train = table(slice(300)) if ALGORITHMS[name].is_supervised else table(slice(300)).drop("late")
    job = training.train(
        store,
        algorithm=name,
        channels={"train": train, "validation": tmp_path / "val.csv"},
        params={**SMALL[name], **({"label": "late"} if name == "xgboost" else {})},
    )
    assert job.status == "Completed", job.failure
    assert any(metric.startswith("validation:") for metric in job.metrics)
    assert set(job.metrics) <= set(PATTERNS)
    training.register(store, name, job)
    assert models.load(store, name).score(ROWS).shape == (400,)


def test_a_job_by_name_says_what_is_wrong_with_its_data(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"late": [1], "name": ["x"]}), tmp_path / "a.parquet")
    for params, why in [({}, "no column None"), ({"label": "late"}, 'column "name"')]:
        job = training.train(
            store, algorithm="knn", channels={"train": tmp_path / "a.parquet"}, params=params
        )
        assert job.status == "Failed"
        assert why in job.failure


# ── in this process: what a kill leaves to go on from ────────────────────────────────────────

FUNCTIONS = {
    "linear-learner": sklearn.train_linear,
    "xgboost": xgboost.train,
    "lightgbm": lightgbm.train,
    "kmeans": sklearn.train_kmeans,
    "knn": sklearn.train_knn,
    "pca": sklearn.train_pca,
}
CHANNELS = {
    "train": data.Rows(ROWS[:300], LATE[:300], ("x0", "x1", "x2")),
    "validation": data.Rows(ROWS[300:], LATE[300:], ("x0", "x1", "x2")),
}


class Killed(Exception):
    """The machine was taken away."""


class Watched(Progress):
    """Progress that dies when it has told of a step."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, die_after: int = 0) -> None:
        monkeypatch.setenv("SM_CHECKPOINT_DIR", str(folder))
        super().__init__(CHANNELS, 1)
        self.die_after = die_after
        self.told: dict[str, float] = {}

    def save(self, step: int, write: Any) -> None:
        super().save(step, write)
        if step == self.die_after:
            raise Killed

    def tell(self, step: int, metrics: Any) -> None:
        self.told = {"step": step, **metrics}


def scores(model: Any, folder: Path) -> np.ndarray:
    form = models.formats.format_of(model)
    path = folder / f"model{form.suffix}"
    adapt = models.formats.adapter(form.name)
    adapt.dump(model, path)
    return adapt.scorer(adapt.load(path.read_bytes(), ()))(ROWS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_learns_what_there_is_and_tells_of_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Watched(tmp_path / "c", monkeypatch)
    model = FUNCTIONS[name](CHANNELS["train"], dict(SMALL[name]), progress)
    found = scores(model, tmp_path)
    if ALGORITHMS[name].is_supervised:
        assert progress.told["validation:auc"] > 0.85
        assert np.mean((found > 0.5) == LATE) > 0.75
    assert set(progress.told) - {"step"} <= set(PATTERNS)
    assert len(found) == len(ROWS)


SAMPLED = {
    "xgboost": {"num_round": 6, "max_depth": 2},
    "xgboost anew": {"num_round": 6, "subsample": 0.5, "colsample_bynode": 0.7, "max_depth": 2},
    "lightgbm": {"num_round": 6, "num_leaves": 4},
    "lightgbm anew": {"num_round": 6, "bagging_fraction": 0.5, "bagging_freq": 1},
    "linear-learner": {"epochs": 6},
}


@pytest.mark.parametrize("case", SAMPLED)
def test_killed_and_resumed_it_is_the_same_model(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.split(maxsplit=1)[0]
    train = FUNCTIONS[name]
    whole = train(CHANNELS["train"], dict(SAMPLED[case]), Watched(tmp_path / "a", monkeypatch))
    for step in (1, 4):
        with_kill = Watched(tmp_path / "b", monkeypatch, die_after=step)
        if case != "lightgbm anew":  # it leaves nothing to go on from
            with pytest.raises(Killed):
                train(CHANNELS["train"], dict(SAMPLED[case]), with_kill)
    resumed = Watched(tmp_path / "b", monkeypatch)
    again = train(CHANNELS["train"], dict(SAMPLED[case]), resumed)
    assert np.array_equal(scores(whole, tmp_path), scores(again, tmp_path))


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_early_stopping_keeps_the_best_round_across_a_kill(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Deep trees with a high rate learn the noise by heart within a few rounds.
    params = {"num_round": 40, "early_stopping_rounds": 3, "eta": 1.0, "learning_rate": 1.0}
    train = FUNCTIONS[name]
    whole = train(CHANNELS["train"], dict(params), Watched(tmp_path / "a", monkeypatch))
    killed = Watched(tmp_path / "b", monkeypatch, die_after=2)
    with pytest.raises(Killed):
        train(CHANNELS["train"], dict(params), killed)
    resumed = Watched(tmp_path / "b", monkeypatch)
    again = train(CHANNELS["train"], dict(params), resumed)
    assert resumed.told["step"] < 40
    assert np.array_equal(scores(whole, tmp_path), scores(again, tmp_path))


@pytest.mark.parametrize("kind", ["regressor", "multiclass_classifier"])
def test_the_linear_learner_has_three_kinds(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Watched(tmp_path, monkeypatch)
    params = {"predictor_type": kind, "epochs": 2, "learning_rate": 0.01, "l1": 1e-5}
    sklearn.train_linear(CHANNELS["train"], params, progress)
    assert ("validation:rmse" in progress.told) == (kind == "regressor")
    with pytest.raises(fs.InvalidInput, match="predictor_type"):
        sklearn.train_linear(CHANNELS["train"], {"predictor_type": "none"}, progress)
