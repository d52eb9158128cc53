"""LightGBM: boosters in its own text format (``.lgb``), and the algorithm by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurestore.training.algorithms.data import Rows
    from featurestore.training.algorithms.progress import Progress


def dump(model: Any, path: Path) -> None:
    """Write a booster, or that of a scikit-learn wrapper."""
    booster = model.booster_ if hasattr(model, "booster_") else model
    booster.save_model(path)


def load(data: bytes, trusted: Sequence[str]) -> Any:  # noqa: ARG001  no types in it
    """Return the booster."""
    return lgb.Booster(model_str=data.decode())


def scorer(native: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Return what the booster predicts; NaN is a missing value to it."""
    return lambda rows: np.asarray(native.predict(rows), dtype=np.float64)


# ── the algorithm by name ────────────────────────────────────────────────────────────────────

_ROUNDS = 100
#: Samples are drawn from a generator whose state no model file has.
_SAMPLED = ("bagging_fraction", "subsample", "feature_fraction", "colsample_bytree")


def train(data: Rows, params: dict[str, Any], progress: Progress) -> Any:  # noqa: ARG001
    """Boost round by round; with sampling an interrupted job begins again, to the same end."""
    rounds = int(params.pop("num_round", _ROUNDS))
    patience = int(params.pop("early_stopping_rounds", 0))
    defaults: dict[str, Any] = {"objective": "binary", "seed": 0, "num_threads": 1, "verbose": -1}
    options = {**defaults, "deterministic": True, "force_row_wise": True, **params}
    if "metric" not in options:
        options["metric"] = (
            ["binary_logloss", "auc"] if options["objective"] == "binary" else "rmse"
        )
    is_sampled = any(float(options.get(name, 1.0)) < 1.0 for name in _SAMPLED)
    done, folder = (0, None) if is_sampled else progress.last()
    best = [np.inf, 0]  # the least loss, and the round it was had at
    before = None
    if folder is not None:
        before = lgb.Booster(model_file=folder / "model.lgb")
        best = json.loads((folder / "best.json").read_text("utf-8"))

    def after_round(env: Any) -> None:
        step = done + env.iteration - env.begin_iteration + 1
        progress.tell(
            step, {f"{c}:{_NAMES.get(m, m)}": v for c, m, v, *_ in env.evaluation_result_list}
        )
        _, _, value, is_rising = env.evaluation_result_list[-1][:4]
        loss = -value if is_rising else value
        if loss < best[0]:
            best[:] = [loss, step]
        if not is_sampled:
            progress.save(step, lambda at: _save(env.model, best, at))
        if patience and step - best[1] >= patience:
            raise lgb.callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    sets = {
        name: lgb.Dataset(channel.rows, channel.labels, free_raw_data=False)
        for name, channel in progress.channels.items()
    }
    sets = {
        name: part if name == "train" else part.set_reference(sets["train"])
        for name, part in sets.items()
    }
    model = lgb.train(
        options,
        sets["train"],
        num_boost_round=rounds - done,
        valid_sets=list(sets.values()),
        valid_names=list(sets),
        init_model=before,
        callbacks=[after_round],
    )
    kept = best[1] if patience else rounds
    return lgb.Booster(model_str=model.model_to_string(num_iteration=int(kept)))


#: LightGBM's names of metrics, in the words of a job.
_NAMES = {"binary_logloss": "logloss"}


def _save(model: Any, best: list[float], folder: Path) -> None:
    model.save_model(folder / "model.lgb", num_iteration=-1)
    (folder / "best.json").write_text(json.dumps(best), "utf-8")
