"""The request for a training set, brought to one form and one hash.

Whatever decides a byte of the set is in the plan, and nothing else: the labels' content, what is
looked up and how, the types of the columns, and the snapshot, a ``seq``.  A time is resolved to a
seq first, ``"*"`` to the features that the group had at that commit, ``lag`` is added to ``delay``;
so the same request made years later, after features were added and files compacted, is the same
plan.  The hash of the plan is the name of the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.arrays import plain_array
from featurestore.engine import frames
from featurestore.engine.content import digest_columns
from featurestore.engine.point_in_time import batches
from featurestore.engine.point_in_time.labels import LABEL_TIME, label_times
from featurestore.errors import InvalidInput, did_you_mean
from featurestore.event_time import duration_us, format_duration
from featurestore.feature_view import EVERY, FeatureLookup, result_columns
from featurestore.storage import commits
from featurestore.training.layout import FORMAT
from featurestore.training.writer import plain_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta, tzinfo

    from featurestore.schema import FeatureGroup
    from featurestore.store import FeatureStore

MOMENT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Request:
    """What a training set is made from.

    Attributes
    ----------
    labels : pyarrow.Table
        In the order of label time, rows of one time in the order given; times in UTC.
    lookups : tuple of FeatureLookup
        With features by name, lag in their delay.
    groups : dict of str to FeatureGroup
        Those looked up, as they are defined now.
    features : tuple of str
        Names of the columns that are features, in the order of the matrix.
    fills : dict of str to float or None
        What stands for null; None is NaN.
    seq : int
        The snapshot.
    """

    labels: pa.Table
    label: str | None
    label_time: str
    lookups: tuple[FeatureLookup, ...]
    groups: dict[str, FeatureGroup]
    features: tuple[str, ...]
    fills: dict[str, float | None]
    known: str
    seq: int
    cutoff_us: int
    plan: dict[str, Any]

    @property
    def hash(self) -> str:
        """128 bits of the plan's SHA-256, as hex."""
        text = json.dumps(self.plan, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def request(
    store: FeatureStore,
    labels: Any,
    label: str | None,
    features: Any,
    *,
    label_time: str | None,
    from_labels: Sequence[str],
    lag: Mapping[str, str | timedelta] | None,
    cutoff: str | timedelta | None,
    as_of: int | datetime | None,
    known: str,
    tz: str | tzinfo | None,
    nulls: float | Mapping[str, float] | None,
) -> Request:
    """Bring a request to its one form; see :func:`featurestore.training.training_set`."""
    if known not in ("event_time", "write_time"):
        raise InvalidInput(f'known= is {known!r}; it is "event_time" or "write_time".')
    table, time = _ordered(labels, label_time, tz)
    _require_label(table, label, time)
    asked = store._lookups(features)  # noqa: SLF001  the store's own way to read references
    seq = store._seq(as_of)  # noqa: SLF001
    seq = store.snapshot() if seq is None else seq
    groups = {lookup.group: store.describe_feature_group(lookup.group) for lookup in asked}
    lookups = _expanded(store, asked, groups, seq, lag or {})
    columns = result_columns(lookups, groups, table.column_names)
    own = [from_labels] if isinstance(from_labels, str) else list(from_labels)
    _require_columns(own, table, label)
    names = tuple(name for name in table.column_names if name in own)
    names += tuple(name for added in columns for name in added)
    fills = _fills(nulls, names)
    cutoff_us = 0 if cutoff is None else duration_us(cutoff, what="cutoff")
    plan = {
        "format": FORMAT,
        "as_of": seq,
        "cutoff_us": cutoff_us,
        "features": list(names),
        "fills": fills,
        "groups": {name: group.id for name, group in groups.items()},
        "known": known,
        "label": label,
        "label_time": time,
        "labels": _digest(table),
        "labels_columns": {field.name: str(field.type) for field in table.schema},
        "lookups": [lookup.to_json() for lookup in lookups],
        "types": [{n: str(f.dtype) for n, f in added.items()} for added in columns],
    }
    return Request(table, label, time, lookups, groups, names, fills, known, seq, cutoff_us, plan)


def _ordered(labels: Any, label_time: str | None, tz: str | tzinfo | None) -> tuple[pa.Table, str]:
    """Return the labels in the order of their times, as Arrow in plain types, and the column."""
    table = frames.to_arrow(frames.accept(batches.whole(labels)))
    time = LABEL_TIME if label_time is None else label_time
    times_us = label_times(table, time, tz)
    if not times_us.size:
        raise InvalidInput("The labels have no rows; a training set has at least one.")
    arrays = {name: plain_type(plain_array(table.column(name))) for name in table.column_names}
    arrays[time] = pa.array(times_us).view(MOMENT)
    ordered = pa.table(arrays)
    if (times_us[1:] < times_us[:-1]).any():
        ordered = ordered.take(pa.array(np.argsort(times_us, kind="stable")))
    return ordered, time


def _require_label(table: pa.Table, label: str | None, time: str) -> None:
    if label is None:
        return
    missing = frames.column(table, label).null_count
    if label == time:
        raise InvalidInput(f'The label and the label time are both "{label}".')
    if missing:
        raise InvalidInput(
            f'The label "{label}" is null in {missing:,} of {table.num_rows:,} rows. Nothing is '
            "learnt from them; drop these rows."
        )


def _require_columns(own: Sequence[str], table: pa.Table, label: str | None) -> None:
    for name in own:
        if name not in table.column_names:
            raise InvalidInput(
                f'from_labels= names "{name}", which the labels do not have.'
                f"{did_you_mean(name, table.column_names)}"
            )
        if name == label:
            raise InvalidInput(f'"{name}" is the label; it cannot be a feature.')


def _expanded(
    store: FeatureStore,
    asked: Sequence[FeatureLookup],
    groups: Mapping[str, FeatureGroup],
    seq: int,
    lag: Mapping[str, str | timedelta],
) -> tuple[FeatureLookup, ...]:
    """Return the lookups with every feature by its name, and with their lag."""
    for name in lag:
        if name not in groups:
            raise InvalidInput(
                f'lag= names "{name}", of which no feature is taken.{did_you_mean(name, groups)}'
            )
    committed_us = _committed_us(store, seq)
    expanded = []
    for lookup in asked:
        group = groups[lookup.group]
        names: list[str] = []
        for name in lookup.features:
            if name != EVERY:
                names.append(name)
                continue
            names += [
                feature.name
                for feature in replace(lookup, features=EVERY, rename=None).select(group)
                if feature.since == 1 or feature.created_at_us <= committed_us
            ]
        delay_us = lookup.delay_us
        if lookup.group in lag:
            delay_us += duration_us(lag[lookup.group], what="lag")
        delay = format_duration(delay_us) if delay_us else None
        expanded.append(replace(lookup, features=tuple(names), delay=delay))
    return tuple(expanded)


def _committed_us(store: FeatureStore, seq: int) -> int:
    """Return the time of the commit a seq belongs to; the smallest for the empty store."""
    database = store._database  # noqa: SLF001
    with database.read() as txn:
        found = commits.time_after(database.env, txn, seq - 1) if seq else None
    return -(2**63) if found is None else found


def _fills(
    nulls: float | Mapping[str, float] | None, names: Sequence[str]
) -> dict[str, float | None]:
    """Return what stands for null in each feature; None for NaN."""
    given = nulls if isinstance(nulls, dict) else dict.fromkeys(names, nulls)
    for name in given:
        if name not in names:
            raise InvalidInput(
                f'nulls= names "{name}", which is no feature.{did_you_mean(name, names)}'
            )
    fills: dict[str, float | None] = {}
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidInput(f"nulls= is {value!r}; give a number, or a number for each feature.")
        if not math.isnan(value):
            fills[name] = float(value)
    return fills


def _digest(table: pa.Table) -> str:
    columns = {name: plain_array(table.column(name)) for name in table.column_names}
    return digest_columns(columns).hex()
