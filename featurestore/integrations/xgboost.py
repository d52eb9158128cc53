"""XGBoost: boosters in its own binary JSON (``.ubj``), and the algorithm by name."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost as xgb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurestore.training.algorithms.data import Rows
    from featurestore.training.algorithms.progress import Progress


def dump(model: Any, path: Path) -> None:
    """Write a booster, or that of a scikit-learn wrapper."""
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    booster.save_model(path)


def load(data: bytes, trusted: Sequence[str]) -> Any:  # noqa: ARG001  no types in it
    """Return the booster."""
    return xgb.Booster(model_file=bytearray(data))


def scorer(native: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Return what the booster predicts; NaN is a missing value to it."""

    def score(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(native.inplace_predict(rows, validate_features=False), dtype=np.float64)

    return score


# ── the algorithm by name ────────────────────────────────────────────────────────────────────

_ROUNDS = 100
_SAMPLED = ("subsample", "colsample_")
_RISING = ("auc", "aucpr", "map", "ndcg", "pre")


def train(data: Rows, params: dict[str, Any], progress: Progress) -> Any:  # noqa: ARG001
    """Boost round by round; a round depends on the model before it alone, so it can go on.

    Unless rows or columns are sampled, by generators whose state no model file has: then an
    interrupted job begins again, to the same end.
    """
    rounds = int(params.pop("num_round", _ROUNDS))
    patience = int(params.pop("early_stopping_rounds", 0))
    defaults = {"objective": "binary:logistic", "seed": 0, "nthread": 1}
    options = {**defaults, **params}
    if "eval_metric" not in options:
        is_binary = options["objective"] == "binary:logistic"
        options["eval_metric"] = ["logloss", "auc"] if is_binary else "rmse"
    matrices = {
        name: xgb.DMatrix(channel.rows, channel.labels, nthread=options["nthread"])
        for name, channel in progress.channels.items()
    }
    model = xgb.Booster(options, list(matrices.values()))
    sampled = [value for name, value in options.items() if name.startswith(_SAMPLED)]
    is_sampled = any(float(value) < 1.0 for value in sampled)
    done, folder = (0, None) if is_sampled else progress.last()
    best = [np.inf, 0]  # the least loss, and the round it was had at
    if folder is not None:
        model.load_model(folder / "model.ubj")
        best = json.loads((folder / "best.json").read_text("utf-8"))
    for step in range(done + 1, rounds + 1):
        model.update(matrices["train"], step - 1)
        told = _told(model.eval_set([(m, name) for name, m in matrices.items()], step - 1))
        progress.tell(step, told)
        metric, value = list(told.items())[-1]
        loss = -value if metric.partition(":")[2].startswith(_RISING) else value
        if loss < best[0]:
            best = [loss, step]
        progress.save(step, partial(_save, model, best))
        if patience and step - best[1] >= patience:
            return model[: best[1]]
    return model


def _save(model: Any, best: list[float], folder: Path) -> None:
    model.save_model(folder / "model.ubj")
    (folder / "best.json").write_text(json.dumps(best), "utf-8")


def _told(line: str) -> dict[str, float]:
    r"""Return what ``[3]\ttrain-auc:0.71`` says, in the words of a job.

    Examples
    --------
    >>> _told("[3]\ttrain-auc:0.71\tvalidation-auc:0.65")
    {'train:auc': 0.71, 'validation:auc': 0.65}
    """
    pairs = (word.rpartition(":") for word in line.split("\t")[1:])
    return {name.replace("-", ":", 1): float(value) for name, _, value in pairs}
