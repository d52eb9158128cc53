"""Four models of one kind, and two questions to each: how good it looks, and how good it is.

*Validation* is what a team measures before it ships: the model on held-out rows of the training
set it was trained with.  *Served* is what the users get: the same model on the same flights, with
the features that can be had at the moment of asking.  A point-in-time join makes the two one, which
is its whole purpose; a leaky join parts them, and only production tells.

The models are scikit-learn's gradient boosting with 60 trees, a fixed seed and no tuning: what
differs between the rows of the table is the data.  More trees change the third decimal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SEED = 2013
TREES = 60
LABEL = "late"


@dataclass(frozen=True)
class Score:
    """Areas under the ROC curve of one model on the flights it was not trained on."""

    features: str
    join: str
    validation: float
    served: float


def train_and_score(
    features: Sequence[str],
    training_set: pa.Table,
    at_serving: pa.Table,
    is_test: NDArray[np.bool_],
) -> tuple[float, float]:
    """Train on the rows that are not test, score on those that are.

    Parameters
    ----------
    features : sequence of str
        Columns the model sees, of both tables.
    training_set : pyarrow.Table
        What it is trained and validated with.
    at_serving : pyarrow.Table
        The same labels in the same order, with features as they are known when asked.
    is_test : array of bool, one for each row
        Which rows are held out.

    Returns
    -------
    validation, served : float
        Areas under the ROC curve.
    """
    seen, categorical = matrix(training_set, features)
    served, _ = matrix(at_serving, features)
    late = training_set[LABEL].to_numpy()
    model = HistGradientBoostingClassifier(
        max_iter=TREES,
        early_stopping=False,
        random_state=SEED,
        categorical_features=categorical,
    )

    def auc(rows: NDArray[np.float64]) -> float:
        return float(roc_auc_score(late[is_test], model.predict_proba(rows[is_test])[:, 1]))

    # OpenMP's threads wait by spinning: where a core is busy with something else, two of them
    # take several times as long as one.
    with threadpool_limits(1, user_api="openmp"):
        model.fit(seen[~is_test], late[~is_test])
        return auc(seen), auc(served)


def matrix(
    table: pa.Table, features: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return columns as numbers, null as NaN, and which of them are categories.

    A text becomes its place among the column's sorted values, so that two tables with the same
    values have the same numbers.
    """
    categorical = [pa.types.is_string(table.schema.field(name).type) for name in features]
    columns = [
        ranks(table[name]) if is_category else numbers(table[name])
        for name, is_category in zip(features, categorical, strict=True)
    ]
    return np.column_stack(columns), np.array(categorical)


def numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a numeric column with NaN for null."""
    return column.cast(pa.float64()).to_numpy()  # type: ignore[no-any-return]


def ranks(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return the place of each text among the distinct ones in order; NaN for null."""
    distinct = column.drop_null().unique()
    return numbers(pc.index_in(column, distinct.take(pc.sort_indices(distinct))))
