"""Bias: Clarify's metrics of data and of predictions, between two groups of people.

``facet`` says who belongs to the group in question, *d*; the others are *a*.  A positive label is
the outcome wished for.  ``q`` is the share of positive labels of a group, ``q'`` of positive
predictions; TP, FP, TN, FN are counts of a group.

=======  =============================================================================
CI       ``(n_a - n_d) / (n_a + n_d)``
DPL      ``q_a - q_d``
KL       ``sum P_a ln(P_a / P_d)`` over the labels both have, as for the next five
JS       ``(KL(P_a, P) + KL(P_d, P)) / 2``, ``P = (P_a + P_d) / 2``
LP       ``||P_a - P_d||``, Euclidean
TVD      half of ``sum |P_a - P_d|``
KS       ``max |P_a - P_d|``
CDDL     mean over strata of: d's share of the rejected less d's share of the accepted
=======  =============================================================================
DPPL     ``q'_a - q'_d``
DI       ``q'_d / q'_a``
DCA      ``n_a(1) / n'_a(1) - n_d(1) / n'_d(1)``
DCR      ``n_d(0) / n'_d(0) - n_a(0) / n'_a(0)``
SD       ``TNR_d - TNR_a``
RD       ``TPR_a - TPR_d``
DAR      ``precision_a - precision_d``
DRR      ``TN_d / (TN_d + FN_d) - TN_a / (TN_a + FN_a)``
AD       ``accuracy_a - accuracy_d``
TE       ``FN_d / FP_d - FN_a / FP_a``
CDDPL    CDDL of predictions
FT       flips of d's predictions against those of their five nearest in a, per d
GE       ``mean((b / mean b)**2 - 1) / 2``, ``b = prediction - label + 1``
=======  =============================================================================

Source: Clarify's developer guide, and ``smclarify`` 0.5, which the tests agree with.  As there, a
quotient of nothing by nothing is 0, one by nothing infinite.  A metric whose inputs are missing (no
predictions, no strata, no numeric features for FT) is left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, did_you_mean
from featurestore.monitor.columns import json_number, number_in
from featurestore.monitor.drift import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Flags = NDArray[np.bool_]

DESCRIPTIONS = {
    "CI": "Class Imbalance (CI)",
    "DPL": "Difference in Positive Proportions in Labels (DPL)",
    "KL": "Kullback-Liebler Divergence (KL)",
    "JS": "Jensen-Shannon Divergence (JS)",
    "LP": "L-p Norm (LP)",
    "TVD": "Total Variation Distance (TVD)",
    "KS": "Kolmogorov-Smirnov Distance (KS)",
    "CDDL": "Conditional Demographic Disparity in Labels (CDDL)",
    "DPPL": "Difference in Positive Proportions in Predicted Labels (DPPL)",
    "DI": "Disparate Impact (DI)",
    "DCA": "Difference in Conditional Acceptance (DCA)",
    "DCR": "Difference in Conditional Rejection (DCR)",
    "SD": "Specificity Difference (SD)",
    "RD": "Recall Difference (RD)",
    "DAR": "Difference in Acceptance Rates (DAR)",
    "DRR": "Difference in Rejection Rates (DRR)",
    "AD": "Accuracy Difference (AD)",
    "TE": "Treatment Equality (TE)",
    "CDDPL": "Conditional Demographic Disparity in Predicted Labels (CDDPL)",
    "FT": "Flip Test (FT)",
    "GE": "Generalized Entropy (GE)",
}
PRE_TRAINING = ("CI", "DPL", "KL", "JS", "LP", "TVD", "KS", "CDDL")
POST_TRAINING = tuple(name for name in DESCRIPTIONS if name not in PRE_TRAINING)
NEUTRAL = {"DI": 1.0}
"""Where no bias is; 0 for all others."""

NEIGHBOURS = 5
FEW_ROWS = 9
FLIP_ROWS_MAX = 20_000
"""The flip test compares every d with every a: it looks at no more of each, evenly chosen."""


def quotient(part: float, whole: float) -> float:
    """Return a quotient as Clarify takes it: 0 of nothing by nothing, else infinite by nothing."""
    if whole == 0:
        return 0.0 if part == 0 else math.copysign(math.inf, part)
    return part / whole


def _difference(a: float, b: float) -> float:
    return 0.0 if a == b else a - b  # also of two infinities


# ── pre-training ─────────────────────────────────────────────────────────────────────────────


def shares(labels: Sequence[Any], facet: Flags) -> tuple[list[float], list[float]]:
    """Return the shares of each label that both groups have: of a, and of d."""
    import numpy as np

    values = np.asarray(labels)
    names = np.unique(values)
    counts = [
        [int(np.count_nonzero(values[group] == name)) for name in names]
        for group in (~facet, facet)
    ]
    totals = [sum(row) for row in counts]
    both = [(a / totals[0], d / totals[1]) for a, d in zip(*counts, strict=True) if a and d]
    return [a for a, _ in both], [d for _, d in both]


def divergences(labels: Sequence[Any], facet: Flags) -> dict[str, float]:
    """Return KL, JS, LP, TVD and KS of the labels of the two groups."""
    p_a, p_d = shares(labels, facet)
    pairs = list(zip(p_a, p_d, strict=True))
    if not pairs:
        return dict.fromkeys(("KL", "JS", "LP", "TVD", "KS"), math.nan)
    gaps = [abs(a - d) for a, d in pairs]
    return {
        "KL": sum(a * math.log(a / d) for a, d in pairs),
        "JS": sum(
            (a * math.log(2 * a / (a + d)) + d * math.log(2 * d / (a + d))) / 2 for a, d in pairs
        ),
        "LP": math.sqrt(sum(gap * gap for gap in gaps)),
        "TVD": sum(gaps) / 2,
        "KS": max(gaps),
    }


def conditional_disparity(positive: Flags, facet: Flags, strata: Sequence[Any]) -> float:
    """Return CDDL, or CDDPL: the strata's demographic disparities, weighted by their rows."""
    import numpy as np

    if not positive.any() or positive.all():
        return math.nan
    names = np.asarray(strata)
    total = 0.0
    for name in np.unique(names):
        inside = names == name
        rejected, accepted = inside & ~positive, inside & positive
        total += int(inside.sum()) * (
            _share(rejected & facet, rejected) - _share(accepted & facet, accepted)
        )
    return total / len(names)


def _share(part: Flags, whole: Flags) -> float:
    rows = int(whole.sum())
    return int(part.sum()) / rows if rows else 0.0


def pre_training(
    labels: Sequence[Any],
    positive: Flags,
    facet: Flags,
    strata: Sequence[Any] | None = None,
) -> dict[str, float]:
    """Return the metrics that need no model.

    Parameters
    ----------
    labels : sequence
        The labels; their distribution is compared.
    positive, facet : bool[n]
        Which labels are positive; who is of the group in question.
    strata : sequence, optional
        Of CDDL: the stratum of each row.
    """
    n_d = int(facet.sum())
    n_a = facet.size - n_d
    found = {
        "CI": (n_a - n_d) / (n_a + n_d),
        "DPL": _share(positive & ~facet, ~facet) - _share(positive & facet, facet),
        **divergences(labels, facet),
    }
    if strata is not None:
        found["CDDL"] = conditional_disparity(positive, facet, strata)
    return found


# ── post-training ────────────────────────────────────────────────────────────────────────────


def post_training(
    positive: Flags,
    predicted: Flags,
    facet: Flags,
    strata: Sequence[Any] | None = None,
    features: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """Return the metrics of predictions.

    Parameters
    ----------
    positive, predicted, facet : bool[n]
        Which labels, which predictions are positive; who is of the group in question.
    features : float64[n, f], optional
        Of the flip test: what neighbours are near by.
    """
    counts = [_counts(positive & g, predicted & g, g) for g in (~facet, facet)]
    (tp_a, fp_a, fn_a, tn_a), (tp_d, fp_d, fn_d, tn_d) = counts
    n_a, n_d = sum(counts[0]), sum(counts[1])
    found = {
        "DPPL": (tp_a + fp_a) / n_a - (tp_d + fp_d) / n_d,
        "DI": quotient((tp_d + fp_d) / n_d, (tp_a + fp_a) / n_a),
        "DCA": _difference(quotient(tp_a + fn_a, tp_a + fp_a), quotient(tp_d + fn_d, tp_d + fp_d)),
        "DCR": _difference(quotient(tn_d + fp_d, tn_d + fn_d), quotient(tn_a + fp_a, tn_a + fn_a)),
        "SD": _difference(quotient(tn_d, tn_d + fp_d), quotient(tn_a, tn_a + fp_a)),
        "RD": _difference(quotient(tp_a, tp_a + fn_a), quotient(tp_d, tp_d + fn_d)),
        "DAR": _difference(quotient(tp_a, tp_a + fp_a), quotient(tp_d, tp_d + fp_d)),
        "DRR": _difference(quotient(tn_d, tn_d + fn_d), quotient(tn_a, tn_a + fn_a)),
        "AD": _difference((tp_a + tn_a) / n_a, (tp_d + tn_d) / n_d),
        "TE": _difference(quotient(fn_d, fp_d), quotient(fn_a, fp_a)),
        "GE": generalized_entropy(positive, predicted),
    }
    if strata is not None:
        found["CDDPL"] = conditional_disparity(predicted, facet, strata)
    if features is not None:
        found["FT"] = flip_test(features, predicted, facet)
    return found


def _counts(positive: Flags, predicted: Flags, group: Flags) -> tuple[int, int, int, int]:
    tp = int((positive & predicted).sum())
    fp, fn = int(predicted.sum()) - tp, int(positive.sum()) - tp
    return tp, fp, fn, int(group.sum()) - tp - fp - fn


def generalized_entropy(positive: Flags, predicted: Flags) -> float:
    """Return half the squared coefficient of variation of the benefits."""
    import numpy as np

    benefits = predicted.astype(np.int64) - positive.astype(np.int64) + 1
    mean = float(benefits.mean())
    return float(np.mean((benefits / mean) ** 2 - 1) / 2) if mean else math.nan


def flip_test(features: NDArray[np.float64], predicted: Flags, facet: Flags) -> float:
    """Return by how much more often d's predictions are better than a's nearest, than worse.

    The nearest five by Euclidean distance vote, one where a has fewer than ten rows; features are
    taken as they are, not scaled, as Clarify does.
    """
    import numpy as np

    a = _evenly(np.flatnonzero(~facet))
    d = _evenly(np.flatnonzero(facet))
    k = NEIGHBOURS if a.size > FEW_ROWS else 1
    there = features[a]
    lengths = (there**2).sum(1)
    flips = 0
    for start in range(0, d.size, 512):
        rows = d[start : start + 512]
        distances = lengths - 2 * features[rows] @ there.T
        near = np.argpartition(distances, k - 1, axis=1)[:, :k]
        voted = predicted[a][near].sum(1) * 2 > k
        flips += int((predicted[rows] & ~voted).sum()) - int((~predicted[rows] & voted).sum())
    return flips / d.size


def _evenly(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    import numpy as np

    if rows.size <= FLIP_ROWS_MAX:
        return rows
    return rows[np.linspace(0, rows.size - 1, FLIP_ROWS_MAX).astype(np.int64)]


# ── of a table ───────────────────────────────────────────────────────────────────────────────


def analyse(
    table: pa.Table,
    *,
    facet: str,
    facet_values: Sequence[Any] | None = None,
    facet_threshold: float | None = None,
    label: str | None = None,
    positive: Sequence[Any] = (1,),
    prediction: str | None = None,
    strata: str | None = None,
    features: Sequence[str] = (),
) -> dict[str, Any]:
    """Return ``analysis.json`` of a table: Clarify's two groups of metrics for one facet.

    Parameters
    ----------
    facet : str
        The column that parts people: those with one of ``facet_values``, or with a number above
        ``facet_threshold``, are the group in question.
    label, prediction : str, optional
        Columns; metrics that need one that is not there are left out.
    positive : sequence
        The values that are the outcome wished for.
    strata : str, optional
        Clarify's ``group_variable``.
    features : sequence of str
        Numeric columns for the flip test.
    """
    import numpy as np

    wanted = [name for name in (facet, label, prediction, strata, *features) if name is not None]
    for name in wanted:
        if name not in table.column_names:
            raise InvalidInput(
                f'There is no column "{name}".{did_you_mean(name, table.column_names)}'
            )
    if (facet_values is None) == (facet_threshold is None):
        raise InvalidInput("Say who the group is: facet_values= or facet_threshold=, one of them.")
    table = table.select(list(dict.fromkeys(wanted))).drop_null()
    people = table[facet].to_pylist()
    if facet_threshold is None:
        members = set(facet_values or ())
        flags = np.array([value in members for value in people], np.bool_)
    else:
        flags = np.array([value > facet_threshold for value in people], np.bool_)
    if not flags.any() or flags.all():
        raise InvalidInput(
            f'All {flags.size:,} rows are on one side of the facet "{facet}": there is nothing to '
            "compare."
        )
    groups = None if strata is None else table[strata].to_pylist()
    liked = set(positive)

    def flagged(name: str) -> Flags:
        return np.array([value in liked for value in table[name].to_pylist()], np.bool_)

    before: dict[str, float] = {}
    after: dict[str, float] = {}
    truth = None if label is None else flagged(label)
    if truth is not None:
        before = pre_training(truth.tolist(), truth, flags, groups)
    if truth is not None and prediction is not None:
        from featurestore.monitor.columns import float64_of

        matrix = np.column_stack([float64_of(table[f]) for f in features]) if features else None
        after = post_training(truth, flagged(prediction), flags, groups, matrix)
    who = (
        ",".join(map(str, facet_values))
        if facet_threshold is None and facet_values
        else (f"({facet_threshold}, inf)")
    )
    return {
        "version": "1.0",
        "pre_training_bias_metrics": _section(label, positive, facet, who, before),
        "post_training_bias_metrics": _section(label, positive, facet, who, after),
    }


def _section(
    label: str | None, positive: Sequence[Any], facet: str, who: str, values: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "label": label or "",
        "label_value_or_threshold": ",".join(map(str, positive)),
        "facets": {
            facet: [
                {
                    "value_or_threshold": who,
                    "metrics": [
                        {
                            "name": name,
                            "description": DESCRIPTIONS[name],
                            "value": json_number(value),
                        }
                        for name, value in sorted(values.items())
                    ],
                }
            ]
        },
    }


# ── drift ────────────────────────────────────────────────────────────────────────────────────


def values_in(analysis: Mapping[str, Any]) -> dict[tuple[str, str, str], float]:
    """Return the metrics of an ``analysis.json`` by facet, value and name."""
    return {
        (facet, report["value_or_threshold"], metric["name"]): number_in(metric["value"])
        for section in ("pre_training_bias_metrics", "post_training_bias_metrics")
        for facet, reports in analysis.get(section, {}).get("facets", {}).items()
        for report in reports
        for metric in report["metrics"]
        if metric.get("value") is not None
    }


def farther(name: str, value: float, than: float) -> bool:
    """Return whether a metric is farther from where no bias is than another value."""
    neutral = NEUTRAL.get(name, 0.0)
    return abs(value - neutral) > abs(than - neutral)


def suggest(whole: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an analysis whose values are the farthest of the whole and its parts.

    It is what windows are held to; Clarify holds them to the whole, and every second healthy
    window is farther from no bias than that.
    """
    limits = values_in(whole)
    for part in parts:
        for key, value in values_in(part).items():
            if key in limits and farther(key[2], value, limits[key]):
                limits[key] = value

    def replaced(section: Mapping[str, Any]) -> dict[str, Any]:
        facets = {
            facet: [
                {
                    **report,
                    "metrics": [
                        {
                            **m,
                            "value": json_number(
                                limits[facet, report["value_or_threshold"], m["name"]]
                            ),
                        }
                        for m in report["metrics"]
                    ],
                }
                for report in reports
            ]
            for facet, reports in section["facets"].items()
        }
        return {**section, "facets": facets}

    sections = ("pre_training_bias_metrics", "post_training_bias_metrics")
    return {**whole, **{section: replaced(whole[section]) for section in sections}}


def check(
    analysis: Mapping[str, Any], constraints: Mapping[str, Any] | None
) -> tuple[list[Metric], list[dict[str, Any]]]:
    """Compare a window's metrics with those of the baseline."""
    limits = {} if constraints is None else values_in(constraints)
    metrics, violations = [], []
    for (facet, who, name), value in values_in(analysis).items():
        limit = limits.get((facet, who, name))
        broken = limit is not None and farther(name, value, limit)
        metrics.append(Metric(facet, name, value, limit, broken))
        if broken:
            violations.append(
                {
                    "facet": facet,
                    "facet_value": who,
                    "metric_name": name,
                    "constraint_check_type": "bias_drift_check",
                    "description": (
                        f"Value {value} does not meet the constraint requirement of {limit}: it is "
                        f"farther from {NEUTRAL.get(name, 0.0):g}"
                    ),
                }
            )
    return metrics, violations
