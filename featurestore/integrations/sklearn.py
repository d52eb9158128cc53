"""scikit-learn: its models as ``skops``, a zip of arrays and of names of types; algorithms by name.

Loading one makes only types that skops trusts, those listed here, and those that were named at
registration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import skops.io as skops
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from skops.io.exceptions import UntrustedTypesFoundException

from featurestore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurestore.training.algorithms.data import Rows
    from featurestore.training.algorithms.progress import Progress

#: What scikit-learn's own models are made of and skops does not know.  They hold data, or (a
#: partial call) what is itself looked at; none of them runs anything else when it is made.
INSIDE = (
    "functools.partial",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
)


def dump(model: Any, path: Path) -> None:
    """Write an estimator."""
    skops.dump(model, path)


def load(data: bytes, trusted: Sequence[str]) -> Any:
    """Return the estimator.

    Raises
    ------
    InvalidInput
        When it is made of types that nobody trusts.
    """
    allowed = sorted({*INSIDE, *trusted})
    try:
        return skops.loads(data, trusted=allowed)
    except UntrustedTypesFoundException as error:
        found = skops.get_untrusted_types(data=data)
        strange = ", ".join(name for name in found if name not in allowed)
        raise InvalidInput(
            f"The model is made of types that may run code when it is loaded: {strange}. If you "
            "know them, name them as trusted= when registering it."
        ) from error


def scorer(native: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Return the probability of the second of two classes, or of all; else what it predicts."""
    if hasattr(native, "predict_proba"):
        return lambda rows: _second_of_two(native.predict_proba(rows))
    method = native.predict if hasattr(native, "predict") else native.transform
    return lambda rows: np.asarray(method(rows), dtype=np.float64)


def _second_of_two(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    both = probabilities.shape[1] == 2
    return np.asarray(probabilities[:, 1] if both else probabilities, dtype=np.float64)


# ── algorithms by name ───────────────────────────────────────────────────────────────────────

_EPOCHS = 15
_REGRESSOR = "regressor"
_KINDS = ("binary_classifier", "multiclass_classifier", _REGRESSOR)


def train_linear(data: Rows, params: dict[str, Any], progress: Progress) -> Any:
    """Learn by stochastic gradient descent, an epoch at a time; the order is of (seed, epoch)."""
    kind, seed = _kind(params), int(params.pop("seed", 0))
    epochs = int(params.pop("epochs", _EPOCHS))
    l1, wd = float(params.pop("l1", 0.0)), float(params.pop("wd", 1e-4))
    rate = float(params.pop("learning_rate", 0.0))
    options = {
        "penalty": "elasticnet",
        "alpha": max(l1 + wd, 1e-12),
        "l1_ratio": l1 / max(l1 + wd, 1e-12),
        "shuffle": False,  # rows come shuffled
        "average": True,
        **({"learning_rate": "constant", "eta0": rate} if rate else {}),
        **params,
    }
    model = (
        SGDRegressor(**options) if kind == _REGRESSOR else SGDClassifier(loss="log_loss", **options)
    )
    before = Pipeline([("impute", SimpleImputer()), ("scale", StandardScaler())]).fit(data.rows)
    rows, labels = before.transform(data.rows), _labels(data)
    classes = {} if kind == _REGRESSOR else {"classes": np.unique(labels)}
    done, folder = progress.last()
    if folder is not None:
        model = load((folder / "model.skops").read_bytes(), ())
    for epoch in range(done + 1, epochs + 1):
        order = np.random.Generator(np.random.Philox([seed, epoch])).permutation(len(rows))
        model.partial_fit(rows[order], labels[order], **classes)
        whole = Pipeline([*before.steps, ("model", model)])
        progress.tell(epoch, _metrics(whole, progress))
        progress.save(epoch, lambda at: dump(model, at / "model.skops"))
    return Pipeline([*before.steps, ("model", model)])


def train_knn(data: Rows, params: dict[str, Any], progress: Progress) -> Any:
    """Remember the rows; the nearest ``k`` of them answer."""
    kind, k = _kind(params), int(params.pop("k", 10))
    params.pop("seed", None)
    made = KNeighborsRegressor if kind == _REGRESSOR else KNeighborsClassifier
    model = Pipeline([("impute", SimpleImputer()), ("model", made(n_neighbors=k, **params))])
    model.fit(data.rows, _labels(data))
    progress.tell(1, _metrics(model, progress))
    return model


def train_kmeans(data: Rows, params: dict[str, Any], progress: Progress) -> Any:
    """Find ``k`` centres; the score of a row is the number of its own."""
    options = {"n_clusters": int(params.pop("k", 8)), "random_state": int(params.pop("seed", 0))}
    model = Pipeline([("impute", SimpleImputer()), ("model", KMeans(**options, **params))])
    model.fit(data.rows)
    inertia = {f"{n}:inertia": -model.score(c.rows) for n, c in progress.channels.items()}
    progress.tell(1, inertia)
    return model


def train_pca(data: Rows, params: dict[str, Any], progress: Progress) -> Any:
    """Find ``num_components`` directions; the score of a row is where it lies along them."""
    options = {"n_components": int(params.pop("num_components", 2))}
    options["random_state"] = int(params.pop("seed", 0))
    model = Pipeline([("impute", SimpleImputer()), ("model", PCA(**options, **params))])
    model.fit(data.rows)
    explained = float(model.named_steps["model"].explained_variance_ratio_.sum())
    progress.tell(1, {"train:explained_variance": explained})
    return model


def _kind(params: dict[str, Any]) -> str:
    kind = str(params.pop("predictor_type", _KINDS[0]))
    if kind not in _KINDS:
        raise InvalidInput(f"predictor_type is {kind!r}; it is one of {', '.join(_KINDS)}.")
    return kind


def _labels(data: Rows) -> NDArray[np.float32]:
    assert data.labels is not None  # noqa: S101  a supervised algorithm is given them
    return data.labels


def _metrics(model: Any, progress: Progress) -> dict[str, float]:
    """Return what can be said of a model on each channel."""
    told: dict[str, float] = {}
    for name, channel in progress.channels.items():
        labels = _labels(channel)
        if not hasattr(model, "predict_proba"):
            wrong = metrics.mean_squared_error(labels, model.predict(channel.rows))
            told[f"{name}:rmse"] = float(wrong) ** 0.5
            continue
        scores = model.predict_proba(channel.rows)
        told[f"{name}:accuracy"] = float(
            metrics.accuracy_score(labels, model.classes_[scores.argmax(axis=1)])
        )
        told[f"{name}:logloss"] = float(metrics.log_loss(labels, scores, labels=model.classes_))
        if scores.shape[1] == 2 and len(np.unique(labels)) == 2:
            told[f"{name}:auc"] = float(metrics.roc_auc_score(labels, scores[:, 1]))
    return told
