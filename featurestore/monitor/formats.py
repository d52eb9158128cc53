"""Model Monitor's files: ``statistics.json``, ``constraints.json``, ``constraint_violations.json``.

The shapes are those of Amazon SageMaker Model Monitor (developer guide, "Schema for statistics",
"... constraints", "... violations"), so that whatever reads its files reads these.  A number JSON
has no word for is the text ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``.

**The sketch.**  A numeric distribution is written as the levels of a KLL sketch: an item of level i
stands for ``2**i`` values.  Ours is made of a sorted column, so it is better than a KLL sketch of a
stream has to be: item and value are never more than :func:`rank_error` apart in rank, about 1 in
2,000.  :func:`columns_in` reads it back, ours or the vendor's; a baseline that keeps its sorted
columns beside the files does not need it.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput
from featurestore.monitor.columns import (
    INTEGRAL,
    UNKNOWN,
    Column,
    Number,
    Other,
    Text,
    json_number,
    number_in,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

STATISTICS = "statistics.json"
CONSTRAINTS = "constraints.json"
VIOLATIONS = "constraint_violations.json"
"""The contract page says ``constraints_violations.json``; the service itself writes this."""

SKETCH_K = 2_048
SKETCH_C = 0.64
BUCKETS = 10


# ── statistics ───────────────────────────────────────────────────────────────────────────────


def statistics_of(columns: Mapping[str, Column], rows: int) -> dict[str, Any]:
    """Return the statistics of a window of so many rows."""
    return {
        "version": 0.0,
        "dataset": {"item_count": rows},
        "features": [_statistics_of_column(column) for column in columns.values()],
    }


def _statistics_of_column(column: Column) -> dict[str, Any]:
    about: dict[str, Any] = {"name": column.name, "inferred_type": column.inferred_type}
    common = {"num_present": column.rows - column.missing, "num_missing": column.missing}
    if isinstance(column, Number):
        about["numerical_statistics"] = {
            "common": common,
            "mean": json_number(column.mean),
            "sum": json_number(column.total),
            "std_dev": json_number(column.std),
            "min": json_number(column.low),
            "max": json_number(column.high),
            "distribution": {
                "kll": {
                    "buckets": buckets_of(column.values),
                    "sketch": {
                        "parameters": {"c": SKETCH_C, "k": float(SKETCH_K)},
                        "data": [
                            [json_number(value) for value in level]
                            for level in sketch_of(column.values)
                        ],
                    },
                }
            },
        }
    elif isinstance(column, Text):
        about["string_statistics"] = {
            "common": common,
            "distinct_count": float(column.distinct),
            "distribution": {
                "categorical": {
                    "buckets": [
                        {"value": value, "count": count} for value, count in column.counts.items()
                    ]
                }
            },
        }
    else:
        about["common"] = common
    return about


def buckets_of(values: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return how many values lie in each of ten buckets of one width; the last has its end too."""
    import numpy as np

    finite = values[np.isfinite(values)]
    if not finite.size:
        return []
    edges = np.linspace(finite[0], finite[-1], BUCKETS + 1)
    below = np.searchsorted(finite, edges, side="left")
    below[-1] = finite.size
    return [
        {
            "lower_bound": float(edges[i]),
            "upper_bound": float(edges[i + 1]),
            "count": float(below[i + 1] - below[i]),
        }
        for i in range(BUCKETS)
    ]


def sketch_of(values: NDArray[np.float64], k: int = SKETCH_K) -> list[list[float]]:
    """Return the levels of a sketch of sorted values; the weights sum up to their number.

    Examples
    --------
    >>> import numpy as np
    >>> sketch_of(np.arange(11.0), k=4)
    [[8.0], [10.0], [2.0, 6.0]]
    """
    import numpy as np

    if values.size <= k:
        return [values.tolist()]
    top = math.ceil(math.log2(values.size / k))
    weight = 1 << top
    whole = values.size // weight * weight
    levels: list[list[float]] = [[] for _ in range(top + 1)]
    levels[top] = values[np.arange(weight // 2, whole, weight)].tolist()
    at = whole
    for level in range(top):
        if (values.size - whole) >> level & 1:
            levels[level] = [float(values[at + (1 << level) // 2])]
            at += 1 << level
    return levels


def rank_error(rows: int, k: int = SKETCH_K) -> float:
    """Return how far in rank, as a share of the rows, an item of a sketch may be from its value."""
    return 0.0 if rows <= k else (1 << math.ceil(math.log2(rows / k))) / 2 / rows


def columns_in(statistics: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns that a statistics file describes, as exact as its sketches are."""
    rows = int(statistics["dataset"]["item_count"])
    return {about["name"]: column_in(about, rows) for about in statistics["features"]}


def column_in(
    about: Mapping[str, Any], rows: int, exact: NDArray[np.float64] | None = None
) -> Column:
    """Return one column that a statistics file describes.

    Parameters
    ----------
    about : mapping
        Its entry under ``features``.
    rows : int
        Of the window.
    exact : float64[n], optional
        Its sorted values, where the sketch need not be unfolded.
    """
    name = about["name"]
    if "numerical_statistics" in about:
        found = about["numerical_statistics"]
        return Number(  # the moments are exact where the sketch is not
            name,
            rows,
            missing=int(found["common"]["num_missing"]),
            integral=about["inferred_type"] == INTEGRAL,
            values=_unfolded(found) if exact is None else exact,
            total=number_in(found["sum"]),
            mean=number_in(found["mean"]),
            std=number_in(found["std_dev"]),
        )
    if "string_statistics" in about:
        found = about["string_statistics"]
        buckets = found.get("distribution", {}).get("categorical", {}).get("buckets", [])
        counts = {bucket["value"]: int(bucket["count"]) for bucket in buckets}
        missing = int(found["common"]["num_missing"])
        return Text(name, rows, missing, counts, int(found["distinct_count"]))
    return Other(name, rows, int(about.get("common", {}).get("num_missing", 0)))


def _unfolded(numerical: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the values that a sketch stands for, each item as often as its level says."""
    import numpy as np

    levels = numerical.get("distribution", {}).get("kll", {}).get("sketch", {}).get("data", [])
    items = np.array([number_in(item) for level in levels for item in level], np.float64)
    weights = np.repeat(1 << np.arange(len(levels)), [len(level) for level in levels])
    order = np.argsort(items, kind="stable")
    return np.repeat(items[order], weights[order])


# ── constraints ──────────────────────────────────────────────────────────────────────────────


def monitoring_config(constraints: Mapping[str, Any], feature: str) -> dict[str, Any]:
    """Return the settings of a feature: its own overrides before those of all.

    The guide spells the overrides ``monitoringConfigOverrides``, the service's own files
    ``monitoring_config_overrides``; both are read.
    """
    general = dict(constraints.get("monitoring_config", {}))
    own: Mapping[str, Any] = {}
    for about in constraints.get("features", []):
        if about["name"] == feature:
            own = about.get("monitoring_config_overrides") or about.get(
                "monitoringConfigOverrides", {}
            )
    merged = {**general, **own}
    merged["distribution_constraints"] = {
        **general.get("distribution_constraints", {}),
        **own.get("distribution_constraints", {}),
    }
    return merged


def types_in(constraints: Mapping[str, Any]) -> dict[str, str]:
    """Return the inferred type of each feature that has one."""
    features = constraints.get("features", [])
    return {f["name"]: f["inferred_type"] for f in features if f["inferred_type"] != UNKNOWN}


# ── files ────────────────────────────────────────────────────────────────────────────────────


def write_json(path: Path, value: Any) -> None:
    """Write a file that is there whole or not at all."""
    from featurestore.storage import files

    files.make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with files.translated(path):
        temporary.write_text(text, encoding="utf-8")
    files.publish(temporary, path)


def read_json(path: Path) -> Any:
    """Read a file.

    Raises
    ------
    InvalidInput
        When it is not there, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"{path} is not there.") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}.") from error


def violations_file(violations: Sequence[Mapping[str, Any]], version: str | None) -> dict[str, Any]:
    """Return the content of a violations file; that of bias drift has a version."""
    listed: dict[str, Any] = {"violations": [dict(violation) for violation in violations]}
    return listed if version is None else {"version": version, **listed}
