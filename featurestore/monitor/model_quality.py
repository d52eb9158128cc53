"""Model quality: how good predictions were, once the labels are in.

The metrics, their names and their grouping are Model Monitor's (developer guide, "Model quality
metrics"): ``regression_metrics``, ``binary_classification_metrics`` and
``multiclass_classification_metrics``, each ``{"value", "standard_deviation"}``.  The deviation is
that of five metrics of 80 % of the rows each, drawn by a fixed seed, and only given for 200 rows or
more.  The *best constant classifier* answers the class that makes its recall 1: the positive one of
two, the commonest of several.

Curves go through every distinct score.  Precision where nothing is predicted positive, and other
quotients of zero by zero, are 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput
from featurestore.monitor.columns import json_number, number_in
from featurestore.monitor.drift import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

PROBLEMS = {
    "Regression": "regression",
    "BinaryClassification": "binary_classification",
    "MulticlassClassification": "multiclass_classification",
}
"""Problem types of the service, and how its files call them."""

DEVIATION_ROWS_MIN = 200
RESAMPLES = 5
RESAMPLED_SHARE = 0.8
CURVE_POINTS = 200
SEED = 0

LOWER_IS_BETTER = frozenset({
    "mae", "mse", "rmse", "false_positive_rate", "false_negative_rate",
})  # fmt: skip


def evaluate(
    problem: str,
    labels: Sequence[Any],
    predictions: Sequence[Any] | None,
    probabilities: Sequence[float] | None = None,
    *,
    positive: Any = 1,
    threshold: float = 0.5,
) -> dict[str, Any]:
    """Return the metrics of a problem as ``statistics.json`` has them.

    Parameters
    ----------
    problem : str
        ``"Regression"``, ``"BinaryClassification"`` or ``"MulticlassClassification"``.
    labels, predictions : sequence
        One of each for every row; no nulls.
    probabilities : sequence of float, optional
        Of the positive class; predictions may then be left out.
    positive : object
        The label of the positive class.
    threshold : float
        Probabilities from it on are positive.
    """
    import numpy as np

    if problem not in PROBLEMS:
        raise InvalidInput(f'"{problem}" is no problem type: {", ".join(PROBLEMS)}.')
    measure: Callable[..., dict[str, float]]
    columns: list[NDArray[Any]]
    extra: dict[str, Any] = {}
    if problem == "Regression":
        columns = [np.asarray(labels, np.float64), np.asarray(predictions, np.float64)]
        measure = regression
    elif problem == "MulticlassClassification":
        columns = [np.asarray(labels).astype(str), np.asarray(predictions).astype(str)]
        measure = multiclass
        extra["confusion_matrix"] = confusion_matrix(columns[0], columns[1])
    else:
        truth = np.asarray([label == positive for label in labels], np.bool_)
        scores = None if probabilities is None else np.asarray(probabilities, np.float64)
        if predictions is not None:
            said = np.asarray([answer == positive for answer in predictions], np.bool_)
        elif scores is not None:
            said = scores >= threshold
        else:
            raise InvalidInput("Binary classification needs predictions or probabilities.")
        columns = [truth, said] if scores is None else [truth, said, scores]
        measure = binary
        extra["confusion_matrix"] = confusion_matrix(
            truth.astype(int).astype(str), said.astype(int).astype(str), ("0", "1")
        )
        if scores is not None:
            extra |= curves(truth, scores)
    values = measure(*columns)
    deviations = _deviations(measure, columns) if len(labels) >= DEVIATION_ROWS_MIN else {}
    found = {
        name: {
            "value": json_number(value),
            "standard_deviation": json_number(deviations.get(name, math.nan)),
        }
        for name, value in values.items()
    }
    return {
        "version": 0.0,
        "dataset": {"item_count": len(labels)},
        f"{PROBLEMS[problem]}_metrics": extra | found,
    }


def _deviations(
    measure: Callable[..., dict[str, float]], columns: Sequence[NDArray[Any]]
) -> dict[str, float]:
    import numpy as np

    rows = len(columns[0])
    chance = np.random.default_rng(SEED)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = chance.permutation(rows)[: int(rows * RESAMPLED_SHARE)]
        drawn.append(measure(*(column[chosen] for column in columns)))
    return {name: float(np.std([values[name] for values in drawn])) for name in drawn[0]}


# ── the metrics ──────────────────────────────────────────────────────────────────────────────


def ratio(part: float, whole: float) -> float:
    """Return a quotient; 0 of nothing."""
    return float(part / whole) if whole else 0.0


def f_beta(precision: float, recall: float, beta: float) -> float:
    """Return the weighted harmonic mean of precision and recall."""
    return ratio((1 + beta**2) * precision * recall, beta**2 * precision + recall)


def regression(labels: NDArray[np.float64], predictions: NDArray[np.float64]) -> dict[str, float]:
    """Return mae, mse, rmse and r2."""
    import numpy as np

    errors = predictions - labels
    mse = float(np.mean(errors**2))
    spread = float(np.mean((labels - labels.mean()) ** 2))
    return {
        "mae": float(np.mean(np.abs(errors))),
        "mse": mse,
        "rmse": math.sqrt(mse),
        "r2": 1 - mse / spread if spread else math.nan,
    }


def binary(
    truth: NDArray[np.bool_],
    said: NDArray[np.bool_],
    scores: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """Return the metrics of two classes; the areas only where there are scores."""
    import numpy as np

    rows = truth.size
    tp = int(np.count_nonzero(truth & said))
    fp = int(np.count_nonzero(~truth & said))
    fn = int(np.count_nonzero(truth & ~said))
    tn = rows - tp - fp - fn
    recall, precision = ratio(tp, tp + fn), ratio(tp, tp + fp)
    always = ratio(tp + fn, rows)  # right as often as the class occurs
    constant_recall = 1.0 if tp + fn else 0.0
    found = {
        "recall": recall,
        "precision": precision,
        "accuracy": ratio(tp + tn, rows),
        "recall_best_constant_classifier": constant_recall,
        "precision_best_constant_classifier": always,
        "accuracy_best_constant_classifier": always,
        "true_positive_rate": recall,
        "true_negative_rate": ratio(tn, tn + fp),
        "false_positive_rate": ratio(fp, tn + fp),
        "false_negative_rate": ratio(fn, tp + fn),
    }
    for name, beta in (("f0_5", 0.5), ("f1", 1.0), ("f2", 2.0)):
        found[name] = f_beta(precision, recall, beta)
        found[f"{name}_best_constant_classifier"] = f_beta(always, constant_recall, beta)
    if scores is not None:
        found |= areas(truth, scores)
    return found


def areas(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, float]:
    """Return the areas under both curves: ``auc`` by ranks, ``au_prc`` by steps."""
    positives, negatives, hits, misses = _thresholded(truth, scores)
    if not positives or not negatives:
        return {"auc": math.nan, "au_prc": math.nan}
    import numpy as np

    tpr, fpr = hits / positives, misses / negatives
    auc = float(np.sum(np.diff(fpr, prepend=0) * (tpr + np.concatenate([[0], tpr[:-1]])) / 2))
    precision = hits / (hits + misses)
    au_prc = float(np.sum(np.diff(tpr, prepend=0) * precision))
    return {"auc": auc, "au_prc": au_prc}


def curves(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, Any]:
    """Return both curves, of at most 200 points each."""
    import numpy as np

    positives, negatives, hits, misses = _thresholded(truth, scores)
    kept = np.unique(np.linspace(0, len(hits) - 1, min(len(hits), CURVE_POINTS)).astype(int))
    hits, misses = hits[kept], misses[kept]
    tpr = hits / positives if positives else np.zeros(len(hits))
    fpr = misses / negatives if negatives else np.zeros(len(hits))
    return {
        "receiver_operating_characteristic_curve": {
            "false_positive_rates": [0.0, *fpr.tolist()],
            "true_positive_rates": [0.0, *tpr.tolist()],
        },
        "precision_recall_curve": {
            "precisions": [1.0, *(hits / np.maximum(hits + misses, 1)).tolist()],
            "recalls": [0.0, *tpr.tolist()],
        },
    }


def _thresholded(
    truth: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[int, int, NDArray[np.int64], NDArray[np.int64]]:
    """Return positives, negatives, and how many of each score at least each distinct score."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    hits = np.cumsum(truth[order], dtype=np.int64)[ends]
    misses = ends.astype(np.int64) + 1 - hits
    return int(truth.sum()), int((~truth).sum()), hits, misses


def multiclass(labels: NDArray[np.str_], predictions: NDArray[np.str_]) -> dict[str, float]:
    """Return accuracy, and precision, recall and F weighted by how often each label occurs."""
    import numpy as np

    def weighted(said: NDArray[np.str_], suffix: str) -> dict[str, float]:
        totals = dict.fromkeys(("recall", "precision", "f0_5", "f1", "f2"), 0.0)
        for name in np.unique(labels):
            is_it, is_said = labels == name, said == name
            hits = float(np.count_nonzero(is_it & is_said))
            share = np.count_nonzero(is_it) / labels.size
            recall = ratio(hits, int(np.count_nonzero(is_it)))
            precision = ratio(hits, int(np.count_nonzero(is_said)))
            totals["recall"] += share * recall
            totals["precision"] += share * precision
            for f, beta in (("f0_5", 0.5), ("f1", 1.0), ("f2", 2.0)):
                totals[f] += share * f_beta(precision, recall, beta)
        found = {"accuracy": float(np.mean(labels == said))}
        found |= {f"weighted_{name}": float(value) for name, value in totals.items()}
        return {f"{name}{suffix}": value for name, value in found.items()}

    names, counts = np.unique(labels, return_counts=True)
    constant = np.full(labels.size, names[np.argmax(counts)])
    return weighted(predictions, "") | weighted(constant, "_best_constant_classifier")


def confusion_matrix(
    labels: NDArray[Any], predictions: NDArray[Any], names: Sequence[str] | None = None
) -> dict[str, dict[str, int]]:
    """Return counts by label, then by prediction."""
    import numpy as np

    listed = sorted({*labels.tolist(), *predictions.tolist()}) if names is None else list(names)
    return {
        label: {
            said: int(np.count_nonzero((labels == label) & (predictions == said)))
            for said in listed
        }
        for label in listed
    }


# ── constraints ──────────────────────────────────────────────────────────────────────────────


def values_in(statistics: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """Return the kind of problem a statistics file is of, and its metrics that are numbers."""
    for kind in PROBLEMS.values():
        group = statistics.get(f"{kind}_metrics")
        if group is not None:
            return kind, {
                name: number_in(entry["value"])
                for name, entry in group.items()
                if isinstance(entry, dict) and "value" in entry
            }
    raise InvalidInput("These statistics are of no model: they have none of its metrics.")


def suggest(whole: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return constraints that the whole and each of its parts keep.

    The limit of a metric is its worst value in any part; without parts, its value in the whole
    less three deviations.
    """
    kind, values = values_in(whole)
    listed = {}
    for name, value in values.items():
        if math.isnan(value) or name.endswith("_best_constant_classifier"):
            continue
        seen = [value, *(values_in(part)[1].get(name, math.nan) for part in parts)]
        seen = [number for number in seen if not math.isnan(number)]
        deviation = number_in(whole[f"{kind}_metrics"][name]["standard_deviation"])
        slack = 0.0 if parts or math.isnan(deviation) else 3 * deviation
        lower = name in LOWER_IS_BETTER
        listed[name] = {
            "threshold": max(seen) + slack if lower else min(seen) - slack,
            "comparison_operator": "GreaterThanThreshold" if lower else "LessThanThreshold",
        }
    return {"version": 0.0, f"{kind}_constraints": listed}


def check(
    statistics: Mapping[str, Any], constraints: Mapping[str, Any] | None
) -> tuple[list[Metric], list[dict[str, Any]]]:
    """Hold a window's metrics to constraints, where there are any."""
    kind, values = values_in(statistics)
    limits = {} if constraints is None else constraints.get(f"{kind}_constraints", {})
    metrics, violations = [], []
    for name, value in values.items():
        limit = limits.get(name)
        if limit is None:
            metrics.append(Metric("", name, value))
            continue
        threshold, operator = float(limit["threshold"]), limit["comparison_operator"]
        broken = value > threshold if operator == "GreaterThanThreshold" else value < threshold
        metrics.append(Metric("", name, value, threshold, broken))
        if broken:
            violations.append(
                {
                    "constraint_check_type": operator,
                    "metric_name": name,
                    "description": f"Metric {name} with {value} was {operator} {threshold}",
                }
            )
    return metrics, violations
