"""Experiments: what runs tell is there, by step, whoever else tells; compared as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

import featurestore as fs
from featurestore import training
from featurestore.jobs import series
from tests.training.scripts import script


def test_a_run_is_there_with_all_it_told(
    open_store: Callable[..., fs.FeatureStore], tmp_path: Path
) -> None:
    store = open_store()
    (tmp_path / "roc.txt").write_text("a curve")
    with training.run(store, "late", "one") as run:
        run.param(depth=6, kind="tree")
        run.param(depth=7)
        for step in (10, 20):
            run.metric("auc", step / 100, step=step)
        run.metric("loss", float("nan"))
        run.artifact(tmp_path / "roc.txt")
        run.artifact(tmp_path / "roc.txt", name="curve")
    (tmp_path / "roc.txt").unlink()
    store.close()
    [found] = training.runs(open_store(), "late")
    assert (found.status, found.params) == ("Completed", {"depth": 7, "kind": "tree"})
    assert [(p.step, p.value) for p in found.points if p.metric == "auc"] == [(10, 0.1), (20, 0.2)]
    assert found.metrics["auc"] == 0.2
    assert set(found.artefacts) == {"roc.txt", "curve"}
    path = found.artefacts["curve"]
    assert path.parent.name == hashlib.sha256(b"a curve").hexdigest()
    assert path.read_text() == "a curve"


def test_a_run_that_fails_says_so_and_keeps_what_it_told(store: fs.FeatureStore) -> None:
    def fail() -> None:
        with training.run(store, "late", "one") as run:
            run.metric("auc", 0.5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    [found] = training.runs(store, "late")
    assert (found.status, found.metrics) == ("Failed", {"auc": 0.5})
    with pytest.raises(fs.InvalidInput, match="already"):
        training.run(store, "late", "one")


def test_points_come_in_bunches_and_a_step_counts_as_told_last(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "FLUSH_POINTS", 3)
    monkeypatch.setattr(series, "FLUSH_SECONDS", 1e9)
    run = training.run(store, "late", "one")
    for step in (1, 2, 3, 2, 3, 4, 5):
        run.metric("loss", step * 10 + (step == 2), step=step)
    bunches = store.documents.every("points", "run/late/one/")
    assert [len(bunch["points"]) for bunch in bunches.values()] == [3, 3]
    assert [p.step for p in run.points] == [1, 2, 3, 4, 5]
    assert run.points[1].value == 21


def test_runs_and_jobs_are_compared_as_a_table(store: fs.FeatureStore, tmp_path: Path) -> None:
    for name, loss in [("a", 0.5), ("b", 0.3)]:
        with training.run(store, "late", name) as run:
            run.param(depth=3 if name == "a" else 4.5, kind=name)
            run.metric("loss", loss)
    training.run(store, "late", "silent")
    entry = script(tmp_path, "t.py", "print('loss=0.4')")
    told = {"params": {"kind": 7}, "metrics": {"loss": r"loss=(\S+)"}}
    training.train(store, entry=entry, name="job-1", experiment="late", **told)
    table = training.compare(store, "late", by="min:loss")
    assert table.column_names == [
        "run", "status", "started", "seconds", "params.depth", "params.kind", "metrics.loss",
    ]  # fmt: skip
    assert table["run"].to_pylist() == ["b", "job-1", "a", "silent"]
    assert table["metrics.loss"].to_pylist() == [0.3, 0.4, 0.5, None]
    assert table["params.depth"].to_pylist() == [4.5, None, 3.0, None]
    assert table["params.kind"].to_pylist() == ["b", "7", "a", None]
    assert table["status"].to_pylist() == ["Completed"] * 3 + ["InProgress"]
    descending = training.compare(store, "late", by="max:loss")
    assert descending["run"].to_pylist() == ["a", "job-1", "b", "silent"]
    with pytest.raises(fs.InvalidInput, match="by="):
        training.compare(store, "late", by="loss")
    with pytest.raises(fs.UnknownJob, match='Did you mean "late"'):
        training.compare(store, "lat")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy
def test_an_experiment_goes_to_mlflow_once(
    store: fs.FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow")
    from featurestore.integrations import mlflow

    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of a database's experiments
    with training.run(store, "late", "one") as run:
        run.param(depth=6)
        run.metric("validation:auc", 0.7, step=3)
        (tmp_path / "roc.txt").write_text("a curve")
        run.artifact(tmp_path / "roc.txt")
    uri = f"sqlite:///{tmp_path}/runs.db"
    onnx = Path(__file__).parents[1] / "models" / "logistic.onnx"
    training.register(store, "late", onnx, metrics={"auc": 0.7})
    training.approve(store, "late:1", by="eva")
    assert [mlflow.export(store, "late", uri) for _ in range(2)] == [1, 0]
    assert [mlflow.export_model(store, "late", uri) for _ in range(2)] == [1, 0]
    client = tracking.MlflowClient(tracking_uri=uri)
    [there] = client.search_runs([client.get_experiment_by_name("late").experiment_id])
    assert there.data.params == {"depth": "6"}
    assert there.data.metrics == {"validation/auc": 0.7}
    assert there.info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(there.info.run_id)] == ["roc.txt"]
    assert client.get_model_version_by_alias("late", "approved").tags["status"] == "Approved"
