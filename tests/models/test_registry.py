"""The registry: immutable versions, decisions that add up, files that are what they were."""

from __future__ import annotations

import io
import pickle
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import featurestore as fs
from featurestore import models
from featurestore.models import artefacts
from featurestore.storage import seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHANCE = np.random.default_rng(8)
ROWS = CHANCE.normal(size=(300, 4)).astype(np.float32)
LATE = (ROWS[:, 0] + CHANCE.normal(size=300) > 0).astype(np.int64)
MANY = np.digitize(ROWS[:, 1], [-0.5, 0.5])


def logistic() -> LogisticRegression:
    return LogisticRegression().fit(ROWS, LATE)


# ── formats ──────────────────────────────────────────────────────────────────────────────────

BOOSTED = {"max_depth": 2, "seed": 1, "nthread": 1, "objective": "binary:logistic"}
LEAFY = {"num_leaves": 4, "seed": 1, "num_threads": 1, "objective": "binary", "verbose": -1}
CASES = {
    "skops logistic": (logistic, lambda m: m.predict_proba(ROWS)[:, 1]),
    "skops pipeline": (
        lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, MANY),
        lambda m: m.predict_proba(ROWS),
    ),
    "skops boosting": (
        lambda: HistGradientBoostingClassifier(max_iter=3).fit(ROWS, LATE),
        lambda m: m.predict_proba(ROWS)[:, 1],
    ),
    "skops categories": (
        lambda: HistGradientBoostingClassifier(max_iter=3, categorical_features=[0]).fit(
            np.floor(np.abs(ROWS)), LATE
        ),
        lambda m: m.predict_proba(ROWS)[:, 1],
    ),
    "skops neighbours": (
        lambda: KNeighborsClassifier().fit(ROWS, LATE),
        lambda m: m.predict_proba(ROWS)[:, 1],
    ),
    "skops forest": (
        lambda: RandomForestRegressor(3, random_state=0).fit(ROWS, LATE),
        lambda m: m.predict(ROWS),
    ),
    "skops regression": (lambda: Ridge().fit(ROWS, ROWS[:, 1]), lambda m: m.predict(ROWS)),
    "skops clusters": (
        lambda: KMeans(3, n_init=1, random_state=0).fit(ROWS),
        lambda m: m.predict(ROWS),
    ),
    "skops components": (lambda: PCA(2).fit(ROWS), lambda m: m.transform(ROWS)),
    "xgboost booster": (
        lambda: xgb.train(BOOSTED, xgb.DMatrix(ROWS, LATE), 3),
        lambda m: m.predict(xgb.DMatrix(ROWS)),
    ),
    "xgboost wrapper": (
        lambda: xgb.XGBClassifier(n_estimators=3, n_jobs=1).fit(ROWS, LATE),
        lambda m: m.predict_proba(ROWS)[:, 1],
    ),
    "lightgbm booster": (
        lambda: lgb.train(LEAFY, lgb.Dataset(ROWS, LATE), 3),
        lambda m: m.predict(ROWS),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_comes_back_and_scores_the_same(store: fs.FeatureStore, case: str) -> None:
    make, own_scores = CASES[case]
    model = make()
    version = models.register(store, "late", model)
    loaded = models.load(store, "late:1")
    assert version.format == loaded.version.format == case.split(maxsplit=1)[0]
    np.testing.assert_allclose(loaded.score(ROWS), own_scores(model), rtol=1e-6)
    assert loaded.score(ROWS).dtype == np.float64


def test_an_exported_model_scores_as_its_library_did(store: fs.FeatureStore) -> None:
    here = Path(__file__).parent  # made by make_onnx.py
    rows = np.loadtxt(here / "logistic.csv", delimiter=",")
    models.register(store, "late", here / "logistic.onnx")
    scores = models.load(store, "late").score(rows[:, :4].astype(np.float32))
    np.testing.assert_allclose(scores, rows[:, 4], rtol=1e-5)


def test_a_file_can_be_registered_with_what_lies_beside_it(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    booster = xgb.train(BOOSTED, xgb.DMatrix(ROWS, LATE), 2)
    (tmp_path / "out" / "plots").mkdir(parents=True)
    booster.save_model(tmp_path / "out" / "model.ubj")
    (tmp_path / "out" / "plots" / "roc.txt").write_text("a curve")
    version = models.register(store, "late", tmp_path / "out")
    assert [file.path for file in version.files] == ["model.ubj", "plots/roc.txt"]
    (tmp_path / "out" / "model.ubj").unlink()
    assert len(models.load(store, "late").score(ROWS)) == len(ROWS)


# ── nothing that runs ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["model.pkl", "model.JOBLIB", "model.skops"])
def test_a_pickle_is_refused_whatever_its_name(
    store: fs.FeatureStore, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(logistic()))
    with pytest.raises(fs.InvalidInput, match="is a pickle"):
        models.register(store, "late", tmp_path / name)
    assert models.names(store) == []


def test_types_nobody_trusts_are_refused_until_they_are_named(store: fs.FeatureStore) -> None:
    model = make_pipeline(FunctionTransformer(io.StringIO), LogisticRegression())
    with pytest.raises(fs.InvalidInput, match=r"_io\.StringIO"):
        models.register(store, "late", model)
    assert models.names(store) == []
    models.register(store, "late", model, trusted=["_io.StringIO"])
    assert models.load(store, "late").native.steps[0][1].func is io.StringIO


def test_a_model_that_no_format_knows_is_refused(store: fs.FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(fs.InvalidInput, match="cannot be registered as it is"):
        models.register(store, "late", {"weights": [1.0]})
    (tmp_path / "notes.md").write_text("no model")
    with pytest.raises(fs.InvalidInput, match="0 are models"):
        models.register(store, "late", tmp_path / "notes.md")
    with pytest.raises(fs.InvalidInput, match="holds no files"):
        models.register(store, "late", tmp_path / "nowhere")


# ── files are what they were ─────────────────────────────────────────────────────────────────


def test_a_file_that_was_changed_is_not_loaded(store: fs.FeatureStore) -> None:
    version = models.register(store, "late", logistic())
    path = version.folder / version.files[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(fs.CorruptStore, match="sha-256"):
        models.load(store, "late:1")
    path.unlink()
    with pytest.raises(fs.CorruptStore, match="cannot be read"):
        models.load(store, "late:1")


def test_the_same_files_are_stored_once(store: fs.FeatureStore) -> None:
    one, two = (models.register(store, "late", logistic()) for _ in range(2))
    assert (one.version, two.version) == (1, 2)
    if one.digest == two.digest:  # skops stamps its zip; a booster does not
        assert one.folder == two.folder
    booster = xgb.train(BOOSTED, xgb.DMatrix(ROWS, LATE), 2)
    three, four = (models.register(store, "late", booster) for _ in range(2))
    assert three.digest == four.digest
    assert not list((store.path / artefacts.FOLDER).glob(".*"))


@pytest.mark.parametrize("at", ["fsync", "fsync_folder", "rename"])
def test_a_death_while_publishing_leaves_no_version(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def die(name: str, path: str, call: Any, args: tuple[Any, ...]) -> Any:
        if name == at and artefacts.FOLDER in path:
            raise KeyboardInterrupt
        return call(*args)

    model = logistic()
    monkeypatch.setattr(seam, "on_call", die)
    with pytest.raises(KeyboardInterrupt):
        models.register(store, "late", model)
    monkeypatch.setattr(seam, "on_call", None)
    assert models.names(store) == []
    assert models.register(store, "late", model).version == 1
    assert models.load(store, "late").score(ROWS).shape == (300,)


# ── versions and decisions ───────────────────────────────────────────────────────────────────


def test_a_version_says_what_is_behind_it(store: fs.FeatureStore) -> None:
    store.create_feature_group(
        "g",
        record_identifier="k",
        event_time="t",
        features={"k": "int64", "t": "timestamp", "a": "float64", "b": "float64"},
    )
    lookup = fs.FeatureLookup("g", ["a", "b"], delay="1h")
    made = models.register(
        store,
        "late",
        logistic(),
        training_set="5e7",
        features=["g:a", lookup],
        inputs=["a", "b"],
        label="late",
        metrics={"auc": np.float32(0.5)},
        job="train-1",
        description="the first",
        metadata={"owner": "ops"},
    )
    found = models.get(store, "late:1")
    assert found == made
    assert (found.lookups[1], found.inputs, found.label) == (lookup, ("a", "b"), "late")
    assert found.training_set == {"hash": "5e7"}
    assert found.metrics == {"auc": 0.5}
    assert (found.job, found.status, found.approvals) == ("train-1", models.PENDING, ())


def test_a_decision_has_an_author_and_a_time(open_store: Callable[..., fs.FeatureStore]) -> None:
    now = [1_000_000]
    store = open_store(clock=lambda: now[0])
    before = models.register(store, "late", logistic())
    now[0] = 9_000_000
    with pytest.raises(fs.InvalidInput, match="has an author"):
        models.approve(store, "late:1", by=" ")
    approved = models.approve(store, "late:1", by="eva", note="0.71")
    now[0] = 10_000_000
    rejected = models.reject(store, "late", by="tom", note="drifts")
    assert [(a.status, a.by, a.at.second, a.note) for a in rejected.approvals] == [
        ("Approved", "eva", 9, "0.71"),
        ("Rejected", "tom", 10, "drifts"),
    ]
    assert (before.status, approved.status, rejected.status) == (
        "PendingManualApproval",
        "Approved",
        "Rejected",
    )
    with pytest.raises(fs.UnknownModel, match=r"No version .* is approved; the newest is 1"):
        models.get(store, "late:approved")


def test_what_is_not_there_is_named(store: fs.FeatureStore) -> None:
    models.register(store, "late", logistic())
    with pytest.raises(fs.UnknownModel, match='Did you mean "late"'):
        models.get(store, "lat")
    with pytest.raises(fs.UnknownModel, match="versions 1 to 1"):
        models.get(store, "late:2")
    with pytest.raises(fs.InvalidName):
        models.register(store, "late:1", logistic())


def test_versions_and_decisions_outlive_the_process(
    open_store: Callable[..., fs.FeatureStore],
) -> None:
    first = open_store()
    models.register(first, "late", logistic())
    made = models.approve(first, "late:1", by="eva")
    first.close()
    again = open_store(read_only=True)
    assert models.get(again, "late:approved") == made
    with pytest.raises(fs.ReadOnlyStore):
        models.approve(again, "late:1", by="eva")


def test_a_store_made_of_a_backup_has_the_models(
    store: fs.FeatureStore, open_store: Callable[..., fs.FeatureStore]
) -> None:
    models.register(store, "late", logistic())
    store.backup(store.path.parent / "copy")
    fs.restore(store.path.parent / "copy", store.path.parent / "again")
    copy = open_store("again")
    assert models.versions(copy, "late") != []
    assert models.load(copy, "late").score(ROWS).shape == (300,)


def test_versions_are_numbered_without_gaps_by_all_who_register(store: fs.FeatureStore) -> None:
    booster = xgb.train(BOOSTED, xgb.DMatrix(ROWS, LATE), 1)

    def several() -> None:
        for _ in range(5):
            models.register(store, "late", booster)

    threads = [threading.Thread(target=several) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [v.version for v in models.versions(store, "late")] == list(range(1, 21))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fs.FeatureStore]:
    with fs.open(tmp_path_factory.mktemp("registry"), upkeep=False) as store:
        booster = xgb.train(BOOSTED, xgb.DMatrix(ROWS, LATE), 1)
        booster.save_model(store.path.parent / "model.ubj")
        yield store


_made = iter(range(10**9))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["register", "approve", "reject"]), st.integers(1, 4))))
def test_the_newest_whose_last_decision_approves_is_the_approved_one(
    shared: fs.FeatureStore, steps: list[tuple[str, int]]
) -> None:
    name = f"m{next(_made)}"
    statuses: list[str] = []
    for what, number in [("register", 1), *steps]:
        if what == "register":
            models.register(shared, name, shared.path.parent / "model.ubj")
            statuses.append(models.PENDING)
        elif number <= len(statuses):
            decide = models.approve if what == "approve" else models.reject
            decide(shared, f"{name}:{number}", by="eva")
            statuses[number - 1] = models.APPROVED if what == "approve" else models.REJECTED
    assert [v.status for v in models.versions(shared, name)] == statuses
    approved = [n for n, status in enumerate(statuses, 1) if status == models.APPROVED]
    if approved:
        assert models.get(shared, f"{name}:approved").version == approved[-1]
    else:
        with pytest.raises(fs.UnknownModel):
            models.get(shared, f"{name}:approved")
