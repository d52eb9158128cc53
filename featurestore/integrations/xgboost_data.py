"""XGBoost: a quantile matrix built from a loader's batches, never the whole set in memory.

XGBoost goes through the data twice, once for the bounds of its bins and once to fill them; a bin
is a byte, so what stays is a quarter of the float32 matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.errors import NotInstalled

try:
    import xgboost
except ImportError as missing:
    raise NotInstalled("A loader for XGBoost", "xgboost") from missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurestore.training import Loader


class Batches(xgboost.DataIter):  # type: ignore[misc] # xgboost is Any
    """A loader as XGBoost asks for data: each time from the beginning of the same epoch."""

    def __init__(self, loader: Loader) -> None:
        super().__init__(release_data=True)
        self._loader = loader
        self._epoch = loader.epoch
        self._batches = iter(loader)
        columns = loader.training_set.layout.features
        self._about = {
            "feature_names": [column.name for column in columns],
            "feature_types": ["q" if column.categories is None else "c" for column in columns],
        }

    def next(self, input_data: Callable[..., Any]) -> bool:
        """Hand over a batch; False when there is none."""
        batch = next(self._batches, None)
        if batch is None:
            return False
        input_data(data=batch[0], label=batch[1], **self._about)
        return True

    def reset(self) -> None:
        """Begin again."""
        self._loader.set_epoch(self._epoch)
        self._batches = iter(self._loader)


def quantile_matrix(loader: Loader, **options: Any) -> Any:
    """Return an ``xgboost.QuantileDMatrix`` of a loader's epoch.

    Parameters
    ----------
    loader : Loader
        What to go through; order does not matter to trees, so ``shuffle=False`` will do.
    **options
        Of the matrix, such as ``max_bin=64`` or ``ref=``.
    """
    return xgboost.QuantileDMatrix(Batches(loader), enable_categorical=True, **options)
