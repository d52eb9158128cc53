"""Attribution drift: whether a model still looks at what it looked at, by the order of features.

::

    baseline   a .70   b .50   c .05        attributions, the mean size of SHAP values, say
    now        c       b       a            their order in the window

    DCG = sum of a(f_i) / log2(i + 1) in the order of now      0.69 of what the baseline's own
                                                               order gives: the alarm is below 0.90

Source: Model Monitor's developer guide, "Monitor feature attribution drift".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput
from featurestore.monitor.drift import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

THRESHOLD = 0.90


def ndcg(baseline: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Return the normalised discounted cumulative gain of an order of features, 0 to 1.

    Parameters
    ----------
    baseline, now : mapping of str to float
        Attributions, zero or more; of the baseline they are the gains, of now they only order.
        Features that ``now`` lacks come last; equal ones in the baseline's order.

    Examples
    --------
    >>> round(ndcg({"a": 0.70, "b": 0.50, "c": 0.05}, {"a": 0.1, "b": 0.2, "c": 0.3}), 4)
    0.6876
    """
    ranked = sorted(baseline, key=lambda name: -baseline[name])
    order = sorted(ranked, key=lambda name: -now.get(name, 0.0))

    def gain(names: list[str]) -> float:
        return sum(baseline[name] / math.log2(i + 2) for i, name in enumerate(names))

    best = gain(ranked)
    return gain(order) / best if best else 1.0


def attributions_of(table: pa.Table) -> dict[str, float]:
    """Return the mean size of each column of attributions: SHAP's ``mean_abs``."""
    import numpy as np

    from featurestore.monitor.columns import float64_of

    found = {}
    for name in table.column_names:
        try:
            values = float64_of(table[name])
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f'"{name}" is {table.schema.field(name).type}; attributions are numbers.'
            ) from error
        found[name] = float(np.mean(np.abs(values))) if values.size else 0.0
    return found


def check(
    baseline: Mapping[str, float], now: Mapping[str, float], threshold: float = THRESHOLD
) -> tuple[list[Metric], list[dict[str, Any]]]:
    """Compare the order of features with that of the baseline."""
    value = ndcg(baseline, now)
    metrics = [Metric("", "ndcg", value, threshold, value < threshold)]
    metrics += [Metric(name, "attribution", now.get(name, math.nan)) for name in baseline]
    if value >= threshold:
        return metrics, []
    return metrics, [
        {
            "label": "label0",
            "metric_name": "shap",
            "constraint_check_type": "feature_attribution_drift_check",
            "description": (f"Feature attribution drift {value} exceeds threshold {threshold}"),
        }
    ]
