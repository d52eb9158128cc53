"""The kinds of monitor: what each measures in a window, and what it is held to.

===============  ===========================================  ==================================
kind             measures                                     held to
===============  ===========================================  ==================================
data_quality     Model Monitor's six checks                   the baseline's constraints
drift            distances and tests of each feature          thresholds, Benjamini-Hochberg
model_quality    predictions beside labels that came later    the baseline's constraints
bias             Clarify's metrics between two groups         the baseline's analysis
attribution      the order of features by attribution         NDCG of 0.90
skew             online beside history, by sampled keys       zero
freshness        age of the newest record                     ``max_age``
volume           rows                                         the baseline's parts, or a range
schema           types of features                            the baseline's
module:function  whatever your function returns               ``thresholds``
===============  ===========================================  ==================================

A kind is a function of an :class:`Asked` that returns a :class:`Measured`.  Its settings are plain
JSON, kept with the monitor's definition.

**Late labels.**  A prediction made at t has the label that its key's group knew at ``t + horizon``,
unless that is as old as the prediction or older.  The store does this with the point-in-time join
that built the training set; a window that is run again later finds the labels that have come in
since, and those of before unchanged.  How many predictions had one is the metric ``labelled``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, did_you_mean
from featurestore.event_time import duration_us
from featurestore.feature_view import FeatureLookup
from featurestore.monitor import (
    attribution,
    bias,
    data_quality,
    drift,
    formats,
    model_quality,
    sources,
    watch,
)
from featurestore.monitor.baselines import Baseline, data_baseline, parts_of
from featurestore.monitor.columns import Column, columns_of
from featurestore.monitor.drift import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from featurestore.monitor.sources import Source, Window
    from featurestore.store import FeatureStore

JOINED_LABEL = "monitored_label"
_KNOWN_BY = "monitored_label_known_by"


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes
    ----------
    now_us : int
        The store's clock.
    settings : mapping
        Of the kind; see :data:`SETTINGS`.
    """

    store: FeatureStore
    source: Source
    window: Window | None
    baseline: Baseline | None
    settings: Mapping[str, Any]
    now_us: int = 0

    def need_baseline(self) -> Baseline:
        """Return the baseline; refuse to go on without."""
        if self.baseline is None:
            raise InvalidInput("This kind of monitor compares with a baseline: give baseline=.")
        return self.baseline

    def need_window(self) -> Window:
        """Return the window; refuse to go on without."""
        if self.window is None:
            raise InvalidInput("This needs a window: give window=(start, end).")
        return self.window

    def table(self, features: Sequence[str] | None = None) -> pa.Table:
        """Read the window's rows."""
        return sources.read(self.store, self.source, self.window, **self._reading(features))

    def summed_up(self, features: Sequence[str] | None = None) -> tuple[int, dict[str, Column]]:
        """Sum up the window's columns by the types of the baseline; returns rows and columns."""
        expected = formats.types_in(self.need_baseline().constraints)
        rows, columns = 0, dict[str, Column]()
        for part in sources.read_in_parts(
            self.store, self.source, self.window, **self._reading(features)
        ):
            rows = part.num_rows
            columns |= columns_of(part, expected=expected)
            del part  # before the next is read
        return rows, columns

    def _reading(self, features: Sequence[str] | None) -> dict[str, Any]:
        return {
            "features": self.settings.get("features") if features is None else features,
            "time_column": self.settings.get("time_column"),
            "columns": self.settings.get("columns"),
        }


@dataclass(frozen=True)
class Measured:
    """What was found in a window.

    Attributes
    ----------
    rows : int
        How many it has.
    metrics, violations
        Values with their limits; those that broke one, in Model Monitor's form.
    statistics : dict
        What ``statistics.json`` (of bias ``analysis.json``) has to say; empty for some kinds.
    version : str, optional
        Of the violations file, where it has one.
    """

    rows: int
    metrics: list[Metric]
    violations: list[dict[str, Any]]
    statistics: dict[str, Any] = field(default_factory=dict)
    version: str | None = None


EMPTY = Measured(0, [], [])


def measure(kind: str, asked: Asked) -> Measured:
    """Measure a window; an empty one has nothing to compare, and that is for ``volume`` to tell."""
    if ":" in kind:
        return _own(kind, asked)
    return KINDS[kind](asked)


def check_kind(kind: str, settings: Mapping[str, Any]) -> None:
    """Refuse a kind or a setting that does not exist."""
    if ":" in kind:
        sources.function_named(kind)
        known = {"thresholds"}
    elif kind not in KINDS:
        raise InvalidInput(
            f'"{kind}" is no kind of monitor.{did_you_mean(kind, KINDS)} A function of your own '
            'is written "module:function".'
        )
    else:
        known = SETTINGS[kind]
    for name in settings:
        if name not in known | COMMON:
            raise InvalidInput(
                f'A monitor of kind "{kind}" has no setting "{name}".'
                f"{did_you_mean(name, known | COMMON)}"
            )


# ── data ─────────────────────────────────────────────────────────────────────────────────────


def _data_quality(asked: Asked) -> Measured:
    baseline = asked.need_baseline()
    rows, columns = asked.summed_up()
    if not rows:
        return EMPTY
    constraints = baseline.constraints
    chosen = asked.settings.get("features")
    if chosen is not None:
        kept = [about for about in constraints["features"] if about["name"] in chosen]
        constraints = {**constraints, "features": kept}
    metrics, violations = data_quality.check(columns, constraints, baseline.columns)
    return Measured(rows, metrics, violations, formats.statistics_of(columns, rows))


def _drift(asked: Asked) -> Measured:
    baseline = asked.need_baseline()
    given = asked.settings.get("features")
    features = list(baseline.columns) if given is None else given
    rows, columns = asked.summed_up(features)
    if not rows:
        return EMPTY
    metrics = drift.moved(
        baseline.columns,
        columns,
        thresholds=_thresholds(baseline, asked.settings.get("thresholds", {})),
        fdr=asked.settings.get("fdr", drift.FDR),
    )
    flagged: dict[str, list[Metric]] = {}
    for metric in metrics:
        if metric.flagged:
            flagged.setdefault(metric.feature, []).append(metric)
    violations = [
        data_quality.violation(
            feature,
            "baseline_drift_check",
            "Baseline drift distance: "
            + ", ".join(f"{m.metric} {m.value} exceeds threshold: {m.threshold}" for m in found),
        )
        for feature, found in flagged.items()
    ]
    return Measured(rows, metrics, violations, formats.statistics_of(columns, rows))


def _thresholds(baseline: Baseline, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a monitor's own thresholds over those the baseline suggests."""
    merged: dict[str, Any] = {
        feature: dict(own) for feature, own in baseline.about.get("thresholds", {}).items()
    }
    for name, value in given.items():
        if isinstance(value, Mapping):
            merged[name] = {**merged.get(name, {}), **value}
        else:
            merged[name] = value
            for own in merged.values():
                if isinstance(own, dict):
                    own.pop(name, None)  # said for all: also where the baseline suggests more
    return merged


def _volume(asked: Asked) -> Measured:
    counted = None
    if asked.source.kind == "group":  # one column is enough to count
        counted = [asked.store.describe_feature_group(asked.source.name).event_time]
    rows = asked.table(counted).num_rows
    low, high = asked.settings.get("min_rows"), asked.settings.get("max_rows")
    if low is None and high is None:
        low, high = watch.usual_volume(asked.need_baseline().about.get("volume", []))
    name = asked.source.name
    return Measured(rows, *watch.volume(name, rows, min_rows=low, max_rows=high))


def _schema(asked: Asked) -> Measured:
    then = asked.need_baseline().about.get("schema", {})
    if asked.source.kind == "group":
        now = watch.schema_of(asked.store, asked.source.name)
    else:
        now = {f.name: str(f.type) for f in asked.table().schema}
    return Measured(len(now), *watch.schema(asked.source.name, then, now))


# ── the store itself ─────────────────────────────────────────────────────────────────────────


def _group_name(asked: Asked) -> str:
    if asked.source.kind != "group":
        raise InvalidInput(f'This kind of monitor watches a group; "{asked.source.text}" is none.')
    return asked.source.name


def _skew(asked: Asked) -> Measured:
    sample = int(asked.settings.get("sample", watch.SAMPLE))
    metrics, violations = watch.skew(asked.store, _group_name(asked), asked.now_us, sample=sample)
    return Measured(int(metrics[0].value), metrics, violations)


def _freshness(asked: Asked) -> Measured:
    if "max_age" not in asked.settings:
        raise InvalidInput('A freshness monitor needs max_age=, such as "2h".')
    found = watch.freshness(
        asked.store,
        _group_name(asked),
        asked.need_window(),
        max_age_us=duration_us(asked.settings["max_age"], what="max_age"),
        max_stale_share=asked.settings.get("max_stale_share"),
        known=asked.settings.get("known", "write_time"),
    )
    return Measured(1, *found)


# ── models ───────────────────────────────────────────────────────────────────────────────────


def labelled(asked: Asked) -> tuple[pa.Table, int]:
    """Return the window's predictions that have a label by now, and how many there were.

    The label is a column of the source, or of ground truth files by inference id or event id, or
    of a feature group: then the store joins it, as it was known ``horizon`` after the prediction.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    label, settings = asked.settings.get("label"), asked.settings
    truth = settings.get("ground_truth")
    if truth is not None:
        if asked.source.kind != "capture":
            raise InvalidInput(
                'ground_truth= belongs to captured requests: source="capture:FOLDER".'
            )
        table = sources.read_captured(
            Path(asked.source.name), asked.window, settings.get("columns")
        )
        known = sources.read_ground_truth(Path(truth))
        ids = zip(table["inference_id"].to_pylist(), table["event_id"].to_pylist(), strict=True)
        labels = [known.get(inference or event, known.get(event)) for inference, event in ids]
        table = table.append_column(JOINED_LABEL, pa.array(labels, pa.string()))
    elif label is None:
        raise InvalidInput('Which is the label? label="column", or "group:feature".')
    elif ":" in label:
        table = _joined(asked, label)
    else:
        table = _with_times(asked)
        if label not in table.column_names:
            raise InvalidInput(
                f'There is no column "{label}".{did_you_mean(label, table.column_names)}'
            )
        table = table.rename_columns(
            [JOINED_LABEL if name == label else name for name in table.column_names]
        )
    has_label = pc.is_valid(table[JOINED_LABEL])
    return table.filter(has_label), table.num_rows


def _with_times(asked: Asked) -> pa.Table:
    """Read the window, of a group with identifier and event time."""
    if asked.source.kind != "group":
        return asked.table()
    return sources.read_group(asked.store, asked.source.name, asked.window, with_keys=True)


def _joined(asked: Asked, label: str) -> pa.Table:
    """Join predictions of a group with labels of another, each as known a horizon later."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if "horizon" not in asked.settings:
        raise InvalidInput('How long after a prediction may its label come? horizon="6h", say.')
    horizon_us = duration_us(asked.settings["horizon"], what="horizon")
    group, _, feature = label.partition(":")
    name = _group_name(asked)
    table = _with_times(asked)
    times = table[asked.store.describe_feature_group(name).event_time]
    known_by = pc.add(times, pa.scalar(horizon_us, pa.duration("us")))
    lookup = FeatureLookup(
        group,
        [feature],
        on=asked.settings.get("on"),
        rename={feature: JOINED_LABEL},
        # A label stamped t itself is as old as the horizon then: this keeps it out.
        max_age=timedelta(microseconds=max(0, horizon_us - 1)),
    )
    return asked.store.point_in_time(
        table.append_column(_KNOWN_BY, known_by), [lookup], label_time=_KNOWN_BY
    ).drop_columns([_KNOWN_BY])


def _model_quality(asked: Asked) -> Measured:
    table, predicted = labelled(asked)
    share = table.num_rows / predicted if predicted else 0.0
    least = asked.settings.get("min_labelled")
    coverage = Metric("", "labelled", share, least, least is not None and share < least)
    if not table.num_rows:
        return replace(EMPTY, rows=predicted, metrics=[coverage])
    statistics = _evaluated(table, asked.settings)
    constraints = None if asked.baseline is None else asked.baseline.constraints
    metrics, violations = model_quality.check(statistics, constraints)
    if coverage.flagged:
        violations.append(
            {
                "constraint_check_type": "LessThanThreshold",
                "metric_name": "labelled",
                "description": f"Metric labelled with {share} was LessThanThreshold {least}",
            }
        )
    return Measured(table.num_rows, [coverage, *metrics], violations, statistics)


def _evaluated(table: pa.Table, settings: Mapping[str, Any]) -> dict[str, Any]:
    problem = settings.get("problem", "BinaryClassification")
    columns: dict[str, list[Any] | None] = {"label": table[JOINED_LABEL].to_pylist()}
    for role in ("prediction", "probability"):
        name = settings.get(role)
        if name is not None and name not in table.column_names:
            raise InvalidInput(
                f'There is no column "{name}".{did_you_mean(name, table.column_names)}'
            )
        columns[role] = None if name is None else table[name].to_pylist()
    probabilities = columns["probability"]
    positive = settings.get("positive", 1)
    if problem == "Regression":
        labels, predictions = (_floats(columns[role]) for role in ("label", "prediction"))
    elif problem == "BinaryClassification":
        labels, predictions = (
            _classes(columns[role], positive) for role in ("label", "prediction")
        )
    else:
        labels, predictions = columns["label"], columns["prediction"]
    return model_quality.evaluate(
        problem,
        labels or [],
        predictions,
        None if probabilities is None else _floats(probabilities),
        positive=positive,
        threshold=float(settings.get("threshold", 0.5)),
    )


def _floats(values: list[Any] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def _classes(values: list[Any] | None, positive: Any) -> list[Any] | None:
    """Return classes in the type of the positive one: booleans and captured text are numbers."""
    if values is None or isinstance(positive, str):
        return values
    return [float(value) for value in values]


def _bias(asked: Asked) -> Measured:
    table, _ = labelled(asked)
    if not table.num_rows:
        return EMPTY
    analysis = _analysed(table, asked.settings)
    constraints = None if asked.baseline is None else asked.baseline.constraints
    metrics, violations = bias.check(analysis, constraints)
    return Measured(table.num_rows, metrics, violations, analysis, version="1.0")


def _analysed(table: pa.Table, settings: Mapping[str, Any]) -> dict[str, Any]:
    import pyarrow as pa

    if "facet" not in settings:
        raise InvalidInput('Who is compared with whom? facet="column", and facet_values=.')
    positive = _listed(settings.get("positive", 1))
    for name in (JOINED_LABEL, settings.get("prediction")):
        if name is not None and name in table.column_names:
            classes = _classes(table[name].to_pylist(), positive[0])
            table = table.set_column(table.column_names.index(name), name, pa.array(classes))
    return bias.analyse(
        table,
        facet=settings["facet"],
        facet_values=settings.get("facet_values"),
        facet_threshold=settings.get("facet_threshold"),
        label=JOINED_LABEL,
        positive=positive,
        prediction=settings.get("prediction"),
        strata=settings.get("strata"),
        features=settings.get("flip_features", ()),
    )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _attribution(asked: Asked) -> Measured:
    then = asked.need_baseline().statistics["attributions"]
    table = asked.table(list(then))
    if not table.num_rows:
        return EMPTY
    now = attribution.attributions_of(table)
    threshold = float(asked.settings.get("threshold", attribution.THRESHOLD))
    metrics, violations = attribution.check(then, now, threshold)
    return Measured(
        table.num_rows, metrics, violations, {"version": 0.0, "attributions": now}, version="1.0"
    )


# ── your own ─────────────────────────────────────────────────────────────────────────────────


def _own(kind: str, asked: Asked) -> Measured:
    """Call ``function(store, start, end)``; it gives numbers by name, held to ``thresholds``."""
    window = asked.need_window()
    values = sources.function_named(kind)(asked.store, window.start, window.end)
    if not isinstance(values, Mapping):
        raise InvalidInput(
            f"{kind} returned a {type(values).__name__}; a check of your own returns numbers by "
            "name."
        )
    limits = asked.settings.get("thresholds", {})
    metrics, violations = [], []
    for name, value in values.items():
        limit = limits.get(name)
        number = float(value)
        broken = limit is not None and (math.isnan(number) or number > limit)
        metrics.append(Metric("", str(name), number, limit, broken))
        if broken:
            violations.append(
                data_quality.violation(
                    str(name), "custom_check", f"{name} is {number}, above its threshold {limit}."
                )
            )
    return Measured(len(metrics), metrics, violations)


KINDS: dict[str, Callable[[Asked], Measured]] = {
    "data_quality": _data_quality,
    "drift": _drift,
    "model_quality": _model_quality,
    "bias": _bias,
    "attribution": _attribution,
    "skew": _skew,
    "freshness": _freshness,
    "volume": _volume,
    "schema": _schema,
}
COMMON = {"features", "time_column", "columns"}
_LABELS = {"label", "on", "horizon", "ground_truth", "prediction", "positive"}
SETTINGS: dict[str, set[str]] = {
    "data_quality": set(),
    "drift": {"thresholds", "fdr"},
    "model_quality": _LABELS | {"problem", "probability", "threshold", "min_labelled"},
    "bias": _LABELS | {"facet", "facet_values", "facet_threshold", "strata", "flip_features"},
    "attribution": {"threshold"},
    "skew": {"sample"},
    "freshness": {"max_age", "max_stale_share", "known"},
    "volume": {"min_rows", "max_rows"},
    "schema": set(),
}


# ── baselines ────────────────────────────────────────────────────────────────────────────────


def baseline(
    store: FeatureStore,
    source: Any,
    *,
    window: Any = None,
    kind: str = "data",
    every: str | timedelta | None = None,
    **settings: Any,
) -> Baseline:
    """Describe a healthy period, and suggest constraints that its parts keep.

    Parameters
    ----------
    source : str, path, callable or table
        ``"group:NAME"``, ``"capture:FOLDER"``, ``"files:FOLDER"``, ``"module:function"``, a
        function of (store, start, end), or a table: a training set, say.
    window : pair of moments, optional
        The period; all there is when left out.
    kind : {"data", "model_quality", "bias", "attribution"}
        ``data`` serves ``data_quality``, ``drift``, ``volume`` and ``schema``.
    every : str or timedelta, optional
        How long the windows will be that are compared with it: the period is cut into parts of
        this length, and none of them would alarm.  Without it, and without times, into ten.
    settings
        ``features=``, ``time_column=`` (of files and tables), ``columns=`` (of captured CSV), and
        those of the kind, as for :func:`.create`.

    Examples
    --------
    >>> import featurestore as fs, pyarrow as pa, tempfile
    >>> store = fs.open(tempfile.mkdtemp())
    >>> found = baseline(store, pa.table({"x": list(range(100))}))
    >>> found.constraints["features"][0]["num_constraints"]
    {'is_non_negative': True}
    >>> store.close()
    """
    asked = sources.source_of(source)
    period = None if window is None else sources.window_of(window)
    if kind == "data":
        for name in settings:
            if name not in COMMON:
                raise InvalidInput(
                    f'A baseline of data has no setting "{name}".{did_you_mean(name, COMMON)}'
                )
        return data_baseline(store, asked, window=period, every=every, **settings)
    if kind not in ("model_quality", "bias", "attribution"):
        raise InvalidInput(
            f'"{kind}" has no baseline of its own: give "data", "model_quality", "bias" or '
            '"attribution".'
        )
    check_kind(kind, settings)
    return metric_baseline(kind, Asked(store, asked, period, None, settings), every=every)


def metric_baseline(kind: str, asked: Asked, *, every: str | timedelta | None = None) -> Baseline:
    """Return a baseline of model quality, bias or attributions."""
    every_us = None if every is None else duration_us(every, what="every")
    about = {
        "kind": kind,
        "source": asked.source.text,
        "window": None if asked.window is None else list(asked.window),
        "seq": asked.store.snapshot(),
        "every_us": every_us,
    }
    if kind == "attribution":
        table = asked.table()
        found = {"version": 0.0, "attributions": attribution.attributions_of(table)}
        return Baseline(
            found,
            {"version": 0.0, "threshold": attribution.THRESHOLD},
            {},
            {**about, "rows": table.num_rows},
        )
    table, _ = labelled(asked)
    if not table.num_rows:
        raise InvalidInput(f"{asked.source.text} has no rows with a label there.")
    times = None
    if asked.source.kind == "group":
        event_time = asked.store.describe_feature_group(asked.source.name).event_time
        times = table[event_time] if event_time in table.column_names else None
    parts, _ = parts_of(table, times, asked.window, every_us)
    about |= {"rows": table.num_rows, "parts": len(parts)}
    one = {"model_quality": _evaluated, "bias": _analysed}[kind]
    suggest = {"model_quality": model_quality.suggest, "bias": bias.suggest}[kind]
    whole = one(table, asked.settings)
    tried = [_tried(one, part, asked.settings) for part in parts]
    seen = [metrics for metrics in tried if metrics is not None]
    return Baseline(whole, suggest(whole, seen), {}, about)


def _tried(
    one: Callable[[pa.Table, Mapping[str, Any]], dict[str, Any]],
    part: pa.Table,
    settings: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Return the metrics of a part; None where it has only one group of people."""
    try:
        return one(part, settings)
    except InvalidInput:
        return None
