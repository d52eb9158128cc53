"""What the columns of a training set are like: counted while it is written, never after.

One pass over the row groups keeps counts and moments, merged as Chan, Golub and LeVeque do it
("Algorithms for computing the sample variance", 1983), and a sample of rows spread evenly over the
set, on which each feature is asked how well it alone tells the label:

* The **AUC** is that of the feature's value, in whichever direction is better; a null is tried both
  as the least and as the greatest value, so a feature whose absence tells the label is found, too.
* A category is worth the label's mean among the *other half* of the sample's rows that have it, or
  else a category of each row would look like a perfect feature.
* A label of more than two numbers is taken as above its median or not, one of more than two texts
  as the commonest or not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.arrays import one_chunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SAMPLE_ROWS = 100_000
#: Among fewer rows a feature tells the label by chance.
AUC_ROWS_MIN = 100


class Moments:
    """Count, nulls, mean, deviation and bounds of one column."""

    def __init__(self) -> None:
        self.nulls = self.nans = self.count = 0
        self.mean = self.squares = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, array: pa.Array) -> None:
        """Take in a piece of the column."""
        self.nulls += array.null_count
        values = floats(array.drop_null())
        finite = values[np.isfinite(values)]
        self.nans += int(np.count_nonzero(np.isnan(values)))
        if not finite.size:
            return
        mean = float(finite.mean())
        count = self.count + finite.size
        delta = mean - self.mean
        self.squares += float(((finite - mean) ** 2).sum())
        self.squares += delta * delta * self.count * finite.size / count
        self.mean += delta * finite.size / count
        self.count = count
        self.low, self.high = min(self.low, finite.min()), max(self.high, finite.max())

    def to_json(self) -> dict[str, Any]:
        """Return the figures; those that cannot be told are None."""
        some = self.count > 0
        return {
            "nulls": self.nulls,
            "nans": self.nans,
            "mean": _finite(self.mean) if some else None,
            "std": _finite(math.sqrt(self.squares / self.count)) if some else None,
            "min": float(self.low) if some else None,
            "max": float(self.high) if some else None,
        }


def floats(array: pa.Array) -> Floats:
    """Return numbers, flags or days as float64, null as NaN."""
    if pa.types.is_date32(array.type):
        array = array.view(pa.int32())
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Profile:
    """The moments of all columns of the matrix, and the sample."""

    def __init__(self, rows: int) -> None:
        self._step = max(1, -(-rows // SAMPLE_ROWS))
        self._seen = 0
        self._moments: dict[str, Moments] = {}
        self._sample: dict[str, list[Floats]] = {}

    def add(self, table: pa.Table, names: Sequence[str]) -> None:
        """Take in a row group, features as numbers."""
        first = -self._seen % self._step
        for name in names:
            array = one_chunk(table.column(name))
            self._moments.setdefault(name, Moments()).add(array)
            sampled = array.take(pa.array(np.arange(first, len(array), self._step)))
            self._sample.setdefault(name, []).append(floats(sampled))
        self._seen += table.num_rows

    @property
    def sample_rows(self) -> int:
        """How many rows the sample has."""
        return -(-self._seen // self._step)

    def sample(self, name: str) -> Floats:
        """Return the sampled values of a column, null as NaN."""
        return np.concatenate(self._sample[name])

    def moments(self, name: str) -> dict[str, Any]:
        """Return the figures of a column."""
        return self._moments[name].to_json()


def target_of(label: Floats, *, is_category: bool) -> NDArray[np.bool_] | None:
    """Return the label as a yes or no; None where all rows are alike."""
    known = label[~np.isnan(label)]
    values, counts = np.unique(known, return_counts=True)
    if values.size < 2:
        return None
    if values.size == 2:
        return np.asarray(label == values[1])
    if is_category:
        return np.asarray(label == values[counts.argmax()])
    return np.asarray(label > np.median(known))


def feature_auc(values: Floats, target: NDArray[np.bool_], *, is_category: bool) -> float | None:
    """Return how well one feature alone tells the target: 0.5 not at all, 1 perfectly.

    Examples
    --------
    >>> late = np.array([True, True, False, False])
    >>> feature_auc(np.array([5.0, 7.0, 1.0, 2.0]), late, is_category=False)
    1.0
    >>> feature_auc(np.array([np.nan, np.nan, 1.0, 2.0]), late, is_category=False)
    1.0
    """
    if target.all() or not target.any():
        return None
    if is_category:
        values = _rates(values, target)
    missing = np.isnan(values)
    tried = [np.where(missing, end, values) for end in (-np.inf, np.inf)] if missing.any() else []
    found = [auc(each, target) for each in tried or [values]]
    return max(max(each, 1 - each) for each in found)


def _rates(codes: Floats, target: NDArray[np.bool_]) -> Floats:
    """Return for each row the target's mean among the rows of its code in the other half."""
    rates = np.full(codes.size, target.mean())
    # Halves by turns, in the order of the codes: each code is in both, or the two differ by one.
    order = np.argsort(codes, kind="stable")
    half = np.empty(codes.size, np.bool_)
    half[order] = np.arange(codes.size) % 2 == 0
    number = np.where(np.isnan(codes), -1, codes).astype(np.int64) + 1
    for mine in (half, ~half):
        counts = np.bincount(number[~mine], minlength=number.max() + 1)
        sums = np.bincount(number[~mine], target[~mine], minlength=number.max() + 1)
        known = counts[number[mine]] > 0
        rates[np.flatnonzero(mine)[known]] = (sums / np.maximum(counts, 1))[number[mine][known]]
    return rates


def auc(values: Floats, target: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: the share of pairs in order, ties counting half.

    Examples
    --------
    >>> auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    0.875
    """
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[codes]  # from 1, of ties the mean
    positive = int(target.sum())
    negative = target.size - positive
    above = ranks[target].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))
