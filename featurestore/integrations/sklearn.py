"""scikit-learn: its models as ``skops``, a zip of arrays and of names of types.

Loading one makes only types that skops trusts, those listed here, and those that were named at
registration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import skops.io as skops

from featurestore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

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
    allowed = {*INSIDE, *trusted}
    strange = [name for name in skops.get_untrusted_types(data=data) if name not in allowed]
    if strange:
        raise InvalidInput(
            f"The model is made of types that may run code when it is loaded: "
            f"{', '.join(strange)}. If you know them, name them as trusted= when registering it."
        )
    return skops.loads(data, trusted=sorted(allowed))


def scorer(native: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Return the probability of the second of two classes, or of all; else what it predicts."""
    if hasattr(native, "predict_proba"):
        return lambda rows: _second_of_two(native.predict_proba(rows))
    method = native.predict if hasattr(native, "predict") else native.transform
    return lambda rows: np.asarray(method(rows), dtype=np.float64)


def _second_of_two(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    both = probabilities.shape[1] == 2
    return np.asarray(probabilities[:, 1] if both else probabilities, dtype=np.float64)
