"""XGBoost: boosters in its own binary JSON (``.ubj``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost as xgb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


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
