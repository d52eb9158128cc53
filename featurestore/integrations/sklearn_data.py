"""scikit-learn: estimators that learn in parts, taught batch by batch.

Others take ``ts.to_numpy()``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featurestore.errors import InvalidInput

if TYPE_CHECKING:
    from featurestore.training import Loader

E = TypeVar("E")


def partial_fit(estimator: E, loader: Loader, *, epochs: int = 1, **options: Any) -> E:
    """Teach an estimator from where the loader is, to the end of so many epochs.

    Parameters
    ----------
    estimator : object
        With ``partial_fit``.  A classifier is told its classes, from the training set's labels.
    loader : Loader
        What to go through.
    epochs : int
        The one the loader is in counts.
    **options
        Passed on to ``partial_fit``.

    Returns
    -------
    object
        The estimator.
    """
    teach = getattr(estimator, "partial_fit", None)
    if teach is None:
        raise InvalidInput(
            f"{type(estimator).__name__} has no partial_fit: it learns from all rows at once. "
            "Give it ts.to_numpy()."
        )
    if _is_classifier(estimator) and "classes" not in options:
        options["classes"] = classes(loader)
    for _ in range(epochs):
        for x, y in loader:
            teach(x, **options) if y is None else teach(x, y, **options)
    return estimator


def classes(loader: Loader) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the labels there are, ascending; of a whole set, as a part may not have all."""
    training_set = loader.training_set
    label = training_set.layout.label
    if label is None:
        raise InvalidInput("The training set has no label, so there are no classes.")
    if label.categories is not None:
        return np.arange(len(label.categories), dtype=np.float32)
    if label.type == "bool":
        return np.array([0, 1], np.float32)
    values = training_set.whole().to_arrow().column(label.name)
    return np.unique(values.to_numpy()).astype(np.float32)


def _is_classifier(estimator: object) -> bool:
    try:
        from sklearn.base import is_classifier
    except ImportError:  # an estimator of another library, with the same method
        return False
    return bool(is_classifier(estimator))
