"""LightGBM: boosters in its own text format (``.lgb``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


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
