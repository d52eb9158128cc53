"""Data quality: the six checks of Model Monitor on a window, by a baseline's constraints.

============================  ==============================================================
``data_type_check``           the share of values of the baseline's type is below
                              ``datatype_check_threshold``
``completeness_check``        the share of values present is below ``completeness``
``baseline_drift_check``      the distance is above ``comparison_threshold``: L-infinity,
                              Simple or Robust; of text also chi-square, whose p-value is
                              below ``categorical_comparison_threshold``
``missing_column_check``      the window lacks columns of the baseline
``extra_column_check``        it has more
``categorical_values_check``  the share of values in the domain is below
                              ``domain_content_threshold``
============================  ==============================================================

``is_non_negative`` has no check of its own in Model Monitor; a number below zero where the baseline
had none is told as a ``data_type_check``, which says so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from featurestore.monitor import drift, formats
from featurestore.monitor.columns import Column, Number, Text, completeness
from featurestore.monitor.drift import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping

Violation = dict[str, Any]


def check(
    columns: Mapping[str, Column],
    constraints: Mapping[str, Any],
    baseline: Mapping[str, Column],
    *,
    distances: Mapping[str, Mapping[str, float]] | None = None,
) -> tuple[list[Metric], list[Violation]]:
    """Hold a window to a baseline's constraints.

    Parameters
    ----------
    columns : mapping of str to Column
        The window.
    constraints : mapping
        The content of ``constraints.json``; Model Monitor's own will do.
    baseline : mapping of str to Column
        The baseline's distributions, for the distances.
    distances : mapping, optional
        What :func:`.drift.compare_all` has found, where that is there already.

    Returns
    -------
    metrics : list of Metric
        Each measured value with its limit.
    violations : list of dict
        ``feature_name``, ``constraint_check_type``, ``description``.
    """
    metrics: list[Metric] = []
    violations: list[Violation] = []

    def told(metric: Metric, check_type: str, description: str) -> None:
        metrics.append(metric)
        if metric.flagged:
            violations.append(violation(metric.feature, check_type, description))

    known = {} if distances is None else distances
    expected = {about["name"]: about for about in constraints.get("features", [])}
    for name, about in expected.items():
        if name not in columns:
            continue
        config = formats.monitoring_config(constraints, name)
        if config.get("evaluate_constraints", "Enabled") != "Enabled":
            continue
        column = columns[name]
        told(*_type_check(column, about, config))
        told(*_completeness_check(column, about))
        for finding in (
            _sign_check(column, about),
            _domain_check(column, about, config),
            _drift_check(baseline.get(name), column, config, known.get(name)),
        ):
            if finding is not None:
                told(*finding)
    for finding in _columns_check(list(columns), list(expected)):
        told(*finding)
    return metrics, violations


def violation(feature: str, check_type: str, description: str) -> Violation:
    """Return a violation as ``constraint_violations.json`` has it."""
    return {
        "feature_name": feature,
        "constraint_check_type": check_type,
        "description": description,
    }


Finding = tuple[Metric, str, str]


def _type_check(column: Column, about: Mapping[str, Any], config: Mapping[str, Any]) -> Finding:
    present = column.rows - column.missing
    share = _matching(column, about["inferred_type"]) / present if present else 1.0
    limit = float(config.get("datatype_check_threshold", 1.0))
    metric = Metric(column.name, "type_match", share, limit, flagged=share < limit)
    return (
        metric,
        "data_type_check",
        (
            "Data type match requirement is not met. "
            f"Expected data type: {about['inferred_type']}, Expected match: {_percent(limit)}. "
            f"Observed: Only {_percent(share)} of data is {about['inferred_type']}."
        ),
    )


def _matching(column: Column, expected: str) -> int:
    """Return how many of the values present are of a type: an integer is a number as well."""
    present = column.rows - column.missing
    fits = {"Fractional": ("Fractional", "Integral")}.get(expected, (expected,))
    return present - column.mismatched if column.inferred_type in fits else 0


def _completeness_check(column: Column, about: Mapping[str, Any]) -> Finding:
    share, limit = completeness(column), float(about["completeness"])
    metric = Metric(column.name, "completeness", share, limit, flagged=share < limit)
    return (
        metric,
        "completeness_check",
        (
            f"Data completeness requirement is not met. Expected: {_percent(limit)}. "
            f"Observed: {_percent(share)}."
        ),
    )


def _sign_check(column: Column, about: Mapping[str, Any]) -> Finding | None:
    wanted = about.get("num_constraints", {}).get("is_non_negative", False)
    if not (wanted and isinstance(column, Number) and column.values.size):
        return None
    metric = Metric(column.name, "min", column.low, 0.0, flagged=column.low < 0)
    return (
        metric,
        "data_type_check",
        (f"Non-negative requirement is not met. Observed: a smallest value of {column.low:g}."),
    )


def _domain_check(
    column: Column, about: Mapping[str, Any], config: Mapping[str, Any]
) -> Finding | None:
    domain = about.get("string_constraints", {}).get("domains")
    if domain is None or not isinstance(column, Text):
        return None
    present = column.rows - column.missing
    known = sum(column.counts.get(value, 0) for value in set(domain))
    share = known / present if present else 1.0
    limit = float(config.get("domain_content_threshold", 1.0))
    strange = [value for value in column.counts if value not in set(domain)][:5]
    metric = Metric(column.name, "in_domain", share, limit, flagged=share < limit)
    return (
        metric,
        "categorical_values_check",
        (
            f"Values requirement is not met. Expected match: {_percent(limit)}. "
            f"Observed: Only {_percent(share)} of values are in the domain of {len(domain)}; "
            f"not in it: {', '.join(strange)}."
        ),
    )


def _drift_check(
    base: Column | None,
    column: Column,
    config: Mapping[str, Any],
    known: Mapping[str, float] | None,
) -> Finding | None:
    settings = config["distribution_constraints"]
    if settings.get("perform_comparison", "Enabled") != "Enabled" or base is None:
        return None
    threshold = float(settings.get("comparison_threshold", 0.1))
    if isinstance(base, Text) and isinstance(column, Text):
        threshold = float(settings.get("categorical_comparison_threshold", threshold))
        if settings.get("categorical_drift_method") == "ChiSquared":
            return _chi_square_check(base, column, threshold)
    simple = settings.get("comparison_method", "Robust") == "Simple"
    name = "linf_simple" if simple else "linf_robust"
    distance = (drift.compare(base, column) if known is None else known).get(name)
    if distance is None:
        return None
    metric = Metric(column.name, name, distance, threshold, flagged=distance > threshold)
    return (
        metric,
        "baseline_drift_check",
        (f"Baseline drift distance: {distance} exceeds threshold: {threshold}"),
    )


def _chi_square_check(base: Text, column: Text, threshold: float) -> Finding | None:
    if not base.counts or not column.counts:
        return None
    _, p_value = drift.chi_square_known(base.counts, column.counts)
    flagged = not math.isnan(p_value) and p_value < threshold
    metric = Metric(column.name, "chi_square_p_value", p_value, threshold, flagged)
    return (
        metric,
        "baseline_drift_check",
        (f"Chi-square p-value: {p_value} is below threshold: {threshold}"),
    )


def _columns_check(current: list[str], expected: list[str]) -> list[Finding]:
    findings = []
    for check_type, kind, names in (
        ("missing_column_check", "missing", [n for n in expected if n not in current]),
        ("extra_column_check", "extra", [n for n in current if n not in expected]),
    ):
        metric = Metric(
            f"{kind.capitalize()} columns", f"{kind}_columns", float(len(names)), 0.0, bool(names)
        )
        words = (
            f"There are {kind} columns in current dataset. Number of columns in current dataset: "
            f"{len(current)}, Number of columns in baseline constraints: {len(expected)}. "
            f"{kind.capitalize()}: {', '.join(names)}."
        )
        findings.append((metric, check_type, words))
    return findings


def _percent(share: float) -> str:
    return f"{share * 100}%"
