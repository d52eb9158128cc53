"""Baselines: what a healthy window looks like, and the constraints that such a window keeps.

::

    rows of a period ──► columns ──► statistics.json
           │                │
           └─► parts ───────┴──────► constraints.json      suggested, so that no part alarms
                                     columns.arrow         the sorted columns: exact, mapped
                                     baseline.json         where from, and thresholds of ours

**Suggested so that a healthy window does not alarm.**  A day is not a random sample of its month:
mornings, weekends and storms make parts of one healthy period differ more than chance would.  So
the period is cut into parts as long as a window will be (``every=``; a tenth of it otherwise), each
is compared with the whole, and no limit is set that one of them breaks:

===================  =======================================================================
completeness         the least of any part, less one binomial standard error
non-negative         if no value is below zero
domain               at most 100 values that cover 99 %; the share that must be in it, the
                     least that any part has of values seen in the other parts
drift                0.1 (Model Monitor's own) or, if more, two deviations beyond the farthest
                     part, by the Robust distance, which allows for small windows
===================  =======================================================================

Of these the files' shapes, types and defaults are Model Monitor's, the parts are ours.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput
from featurestore.event_time import duration_us, format_duration
from featurestore.monitor import drift, formats, sources, watch
from featurestore.monitor.columns import (
    FRACTIONAL,
    INTEGRAL,
    Column,
    Number,
    Text,
    columns_of,
    completeness,
)
from featurestore.monitor.formats import CONSTRAINTS, STATISTICS
from featurestore.monitor.sources import Source, Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from featurestore.store import FeatureStore

ABOUT = "baseline.json"
COLUMNS = "columns.arrow"

DRIFT_THRESHOLD = 0.1
DOMAIN_MAX = 100
DOMAIN_COVERS = 0.99
SLACK = 1.1
PARTS = 10
PART_ROWS_MIN = 20
"""A part of fewer rows says nothing about what is usual."""


@dataclass(frozen=True)
class Baseline:
    """What windows are compared with; made by :func:`.baseline`, kept as a folder.

    Attributes
    ----------
    statistics, constraints : dict
        The contents of Model Monitor's two files.
    columns : mapping of str to Column
        The distributions; empty for baselines of metrics.
    about : dict
        ``kind``, where it is from, ``thresholds`` of our own metrics, ``volume``.
    """

    statistics: dict[str, Any]
    constraints: dict[str, Any]
    columns: Mapping[str, Column] = field(default_factory=dict, repr=False)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows it was made of."""
        return int(self.about.get("rows", 0))

    def save(self, folder: str | Path) -> Path:
        """Write ``statistics.json``, ``constraints.json`` and what makes them exact."""
        path = Path(folder).expanduser().absolute()
        formats.write_json(path / STATISTICS, self.statistics)
        formats.write_json(path / CONSTRAINTS, self.constraints)
        if self.columns:
            _write_columns(path / COLUMNS, self.columns)
        formats.write_json(path / ABOUT, self.about)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Baseline:
        """Read a baseline: ours, or the two files that Model Monitor writes.

        Raises
        ------
        InvalidInput
            When the files are not there.
        """
        path = Path(folder).expanduser().absolute()
        statistics = formats.read_json(path / STATISTICS)
        constraints = formats.read_json(path / CONSTRAINTS)
        about = formats.read_json(path / ABOUT) if (path / ABOUT).exists() else {}
        columns: Mapping[str, Column] = {}
        if (path / COLUMNS).exists():
            columns = KeptColumns(statistics, path / COLUMNS)
        elif "features" in statistics:
            columns = formats.columns_in(statistics)
        about.setdefault("rows", int(statistics.get("dataset", {}).get("item_count", 0)))
        return cls(statistics, constraints, columns, about)


class KeptColumns(Mapping[str, "Column"]):
    """The columns of a saved baseline, each mapped when it is asked for and let go with it.

    So a baseline of twenty features takes the memory of the one that is being compared.
    """

    def __init__(self, statistics: dict[str, Any], path: Path) -> None:
        self._features = {about["name"]: about for about in statistics["features"]}
        self._rows = int(statistics["dataset"]["item_count"])
        self._path = path

    def __getitem__(self, name: str) -> Column:
        about = self._features[name]
        exact = _read_column(self._path, name) if "numerical_statistics" in about else None
        return formats.column_in(about, self._rows, exact)

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


def _write_columns(path: Path, columns: Mapping[str, Column]) -> None:
    """Write each sorted column as one list, so that it can be mapped as it lies."""
    import pyarrow as pa

    from featurestore.storage import files

    numbers = [column for column in columns.values() if isinstance(column, Number)]
    lists = [
        pa.LargeListArray.from_arrays(pa.array([0, c.values.size], pa.int64()), pa.array(c.values))
        for c in numbers
    ]
    table = pa.table(lists, names=[column.name for column in numbers])
    temporary = path.with_name(f".{path.name}.tmp")
    with files.translated(path):
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
            out.write_table(table)
        files.publish(temporary, path)


def _read_column(path: Path, name: str) -> NDArray[np.float64] | None:
    """Return a sorted column as it lies in the file, in a mapping that ends with it."""
    import numpy as np
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    if name not in table.column_names:
        return None
    values = table[name].chunk(0).values
    return np.frombuffer(
        values.buffers()[1] or b"", np.float64, count=len(values), offset=8 * values.offset
    )


# ── of data ──────────────────────────────────────────────────────────────────────────────────


def data_baseline(
    store: FeatureStore,
    asked: Source,
    *,
    window: Window | None = None,
    features: Sequence[str] | None = None,
    time_column: str | None = None,
    every: str | timedelta | None = None,
    columns: Sequence[str] | None = None,
) -> Baseline:
    """Describe the data of a healthy period; see :func:`featurestore.monitor.baseline`."""
    period = window
    table, times = _read_period(
        store, asked, period, features=features, time_column=time_column, columns=columns
    )
    if not table.num_rows:
        raise InvalidInput(
            f"{asked.text} has no rows{'' if period is None else f' in {period}'}: a baseline is "
            "made of some."
        )
    every_us = None if every is None else duration_us(every, what="every")
    expected = _types_of_text(table) if asked.kind == "capture" else None
    whole = columns_of(table, expected=expected)
    kinds = {name: column.inferred_type for name, column in whole.items()}
    parts, rows = parts_of(table, times, period, every_us)
    seen = [columns_of(part, expected=kinds) for part in parts]
    return Baseline(
        statistics=formats.statistics_of(whole, table.num_rows),
        constraints=suggest(whole, seen),
        columns=whole,
        about={
            "kind": "data",
            "source": asked.text,
            "window": None if period is None else list(period),
            "rows": table.num_rows,
            "seq": store.snapshot(),
            "every_us": every_us,
            "parts": len(parts),
            "volume": rows,
            "schema": _schema_of(store, asked, table),
            "thresholds": suggested_thresholds(whole, seen),
        },
    )


def _schema_of(store: FeatureStore, source: Source, table: pa.Table) -> dict[str, str]:
    if source.kind == "group":
        return watch.schema_of(store, source.name)
    return {column.name: str(column.type) for column in table.schema}


def _read_period(
    store: FeatureStore,
    source: Source,
    period: Window | None,
    *,
    features: Sequence[str] | None,
    time_column: str | None,
    columns: Sequence[str] | None,
) -> tuple[pa.Table, pa.ChunkedArray | None]:
    """Return the rows of a period, and their times where they have some."""
    if source.kind == "group":
        group = store.describe_feature_group(source.name)
        wanted = [f.name for f in group.value_features] if features is None else list(features)
        table = sources.read_group(store, source.name, period, features=[*wanted, group.event_time])
        times = table[group.event_time]
        return table.select([name for name in wanted if name in table.column_names]), times
    if source.kind == "capture":
        time_column = "inference_time"
        table = sources.read_captured(Path(source.name), period, columns)
    else:
        asked = None if features is None or time_column is None else [*features, time_column]
        of = period if source.kind == "function" else None
        table = sources.read(store, source, of, features=asked or features)
        if period is not None and source.kind != "function":
            if time_column is None:
                raise InvalidInput("window= of files or a table needs time_column=, their times.")
            table = sources.within(table, time_column, period)
    times = table[time_column] if time_column in table.column_names else None
    left_out = (
        {time_column, *sources.CAPTURE_COLUMNS} if source.kind == "capture" else {time_column}
    )
    names = [
        name
        for name in table.column_names
        if name not in left_out and (features is None or name in features)
    ]
    return table.select(names), times


def _types_of_text(table: pa.Table) -> dict[str, str]:
    """Return what columns of captured text hold: integers, numbers, or indeed text."""
    import pyarrow as pa

    found = {}
    for name in table.column_names:
        if not pa.types.is_string(table.schema.field(name).type):
            continue
        for kind in (INTEGRAL, FRACTIONAL):
            column = columns_of(table, [name], {name: kind})[name]
            if column.mismatched == 0 and column.missing < column.rows:
                found[name] = kind
                break
    return found


def parts_of(
    table: pa.Table,
    times: pa.ChunkedArray | None,
    period: Window | None,
    every_us: int | None,
) -> tuple[list[pa.Table], list[int]]:
    """Cut a period into parts; returns those with rows enough, and the rows of every whole one."""
    import numpy as np
    import pyarrow as pa

    if times is None:
        size = math.ceil(table.num_rows / PARTS)
        parts = [table.slice(at, size) for at in range(0, table.num_rows, size)]
        return [part for part in parts if part.num_rows >= PART_ROWS_MIN], []
    moments = times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64())
    at = np.concatenate(
        [np.frombuffer(c.buffers()[1], np.int64)[c.offset :][: len(c)] for c in moments.chunks]
        or [np.empty(0, np.int64)]
    )
    start = int(at.min()) if period is None else period.start_us
    end = int(at.max()) + 1 if period is None else period.end_us
    length = every_us or max(1, math.ceil((end - start) / PARTS))
    order = np.argsort(at, kind="stable")
    cuts = np.arange(start, end + length, length)
    places = np.searchsorted(at[order], cuts)
    parts, rows = [], []
    for (first, last), until in zip(itertools.pairwise(places), cuts[1:], strict=True):
        if until <= end:
            rows.append(int(last - first))
        if last - first >= PART_ROWS_MIN:
            parts.append(table.take(pa.array(order[first:last])))
    return parts, rows


# ── suggestions ──────────────────────────────────────────────────────────────────────────────


def suggest(whole: dict[str, Column], parts: Sequence[dict[str, Column]]) -> dict[str, Any]:
    """Return constraints that the whole and each of its parts keep, in Model Monitor's form."""
    return {
        "version": 0.0,
        "features": [
            _suggest_one(column, [part[name] for part in parts]) for name, column in whole.items()
        ],
        "monitoring_config": {
            "evaluate_constraints": "Enabled",
            "emit_metrics": "Enabled",
            "datatype_check_threshold": 1.0,
            "domain_content_threshold": 1.0,
            "distribution_constraints": {
                "perform_comparison": "Enabled",
                "comparison_threshold": DRIFT_THRESHOLD,
                "comparison_method": "Robust",
                "categorical_comparison_threshold": DRIFT_THRESHOLD,
                "categorical_drift_method": "LInfinity",
            },
        },
    }


def _suggest_one(column: Column, parts: Sequence[Column]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "name": column.name,
        "inferred_type": column.inferred_type,
        "completeness": _least_complete(column, parts),
    }
    overrides: dict[str, Any] = {}
    if isinstance(column, Number):
        about["num_constraints"] = {"is_non_negative": bool(column.values.size and column.low >= 0)}
    if isinstance(column, Text):
        domain = list(column.counts)[:DOMAIN_MAX]
        present = sum(column.counts.values())
        if domain and sum(column.counts[v] for v in domain) >= DOMAIN_COVERS * present:
            about["string_constraints"] = {"domains": domain}
            known = _least_known(column, set(domain), parts)
            if known < 1.0:
                overrides["domain_content_threshold"] = known
    limit = _healthy_limit(
        [drift.compare(column, part).get("linf_robust", 0.0) for part in parts] or [0.0]
    )
    if limit > DRIFT_THRESHOLD:
        name = (
            "categorical_comparison_threshold"
            if isinstance(column, Text)
            else ("comparison_threshold")
        )
        overrides["distribution_constraints"] = {name: limit}
    about["monitoring_config_overrides"] = overrides
    return about


def _least_complete(column: Column, parts: Sequence[Column]) -> float:
    """Return the least complete part's share, less one binomial standard error of it."""
    least = min([column, *parts], key=completeness)
    share = completeness(least)
    error = math.sqrt(share * (1 - share) / least.rows) if least.rows else 0.0
    return max(0.0, share - error)


def _least_known(column: Text, domain: set[str], parts: Sequence[Column]) -> float:
    """Return the least share of a part's values that the domain has and other parts have too.

    A value that only one part has would have been new in it, as new ones will be in windows to
    come.
    """
    texts = [part for part in parts if isinstance(part, Text)]
    holders = Counter(value for part in texts for value in part.counts)
    shares = [_share_of(column, domain)]
    for part in texts:
        elsewhere = {value for value in part.counts if holders[value] > 1}
        shares.append(_share_of(part, domain & elsewhere if len(texts) > 1 else domain))
    return math.floor(min(shares) * 10_000) / 10_000


def _share_of(column: Text, values: set[str]) -> float:
    total = sum(column.counts.values())
    return sum(n for v, n in column.counts.items() if v in values) / total if total else 1.0


def suggested_thresholds(
    whole: dict[str, Column], parts: Sequence[dict[str, Column]]
) -> dict[str, dict[str, float]]:
    """Return thresholds of our drift metrics where healthy parts go beyond the usual ones."""
    found: dict[str, dict[str, float]] = {}
    for name, column in whole.items():
        seen: dict[str, list[float]] = {}
        for part in parts:
            for metric, value in drift.compare(column, part[name]).items():
                if metric in drift.THRESHOLDS and math.isfinite(value):
                    seen.setdefault(metric, []).append(value)
        limits = {metric: _healthy_limit(values) for metric, values in seen.items()}
        own = {m: limit for m, limit in limits.items() if limit > drift.THRESHOLDS[m]}
        if own:
            found[name] = own
    return found


def _healthy_limit(values: Sequence[float]) -> float:
    """Return what a distance of a healthy window stays below.

    Two deviations beyond the farthest part, or a tenth, whichever is more: the next window may be
    farther than any before, and of ten parts each is itself a tenth of what it is compared with.
    """
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return math.ceil(max(max(values) * SLACK, max(values) + 2 * deviation) * 1000) / 1000


def in_words(about: dict[str, Any]) -> str:
    """Say what a baseline was made of."""
    window = about.get("window")
    words = [f"{about.get('rows', 0):,} rows of {about.get('source', 'elsewhere')}"]
    if window:
        words.append(str(Window(*window)))
    if about.get("every_us"):
        words.append(f"in parts of {format_duration(about['every_us'])}")
    return ", ".join(words)
