"""What only a feature store can watch: itself.

==========  ==================================================================================
skew        sampled keys, online and offline: what is served is what history says, or it is a
            fault; healthy is zero, not small
freshness   how old the newest record was at the end of the window, among those written by then
volume      how many records the window has, beside what parts of the baseline had
schema      features added, gone or of another type since the baseline
==========  ==================================================================================

Freshness looks at the store as it stood when the window ended, so a window that is caught up hours
later is told what it would have been told in time.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput
from featurestore.event_time import to_datetime
from featurestore.monitor.data_quality import violation
from featurestore.monitor.drift import Metric
from featurestore.record import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from featurestore.monitor.data_quality import Violation
    from featurestore.monitor.sources import Window
    from featurestore.schema import FeatureGroup
    from featurestore.store import FeatureStore

    Found = tuple[list[Metric], list[Violation]]

SAMPLE = 1_000
ROUNDS = 3
"""A key that is written between the two looks differs, and no longer when it is looked at again."""
SLACK = 1.1


def quoted(name: str) -> str:
    """Return a name as SQL quotes it."""
    return '"' + name.replace('"', '""') + '"'


# ── online/offline skew ──────────────────────────────────────────────────────────────────────


def skew(store: FeatureStore, name: str, now_us: int, *, sample: int = SAMPLE) -> Found:
    """Compare what the online store serves with what history says it must.

    Half of the keys are of the online store, from a random place on; half of history, so that a
    key is missed on neither side.  Records sent to one store on purpose differ, and are told.

    Parameters
    ----------
    sample : int
        How many keys to compare.
    """
    group = store.describe_feature_group(name)
    if not (group.online and group.offline):
        raise InvalidInput(f'"{name}" has only one store, so there is nothing to compare it with.')
    keys = _sampled_keys(store, group, sample)
    checked = len(keys)
    differing: dict[tuple[Any, ...], str] = {}
    for _ in range(ROUNDS):
        differing = _differences(store, group, keys, now_us)
        keys = list(differing)
        if not keys:
            break
    metrics = [
        Metric("", "keys_compared", float(checked)),
        Metric("", "keys_skewed", float(len(differing)), 0.0, bool(differing)),
    ]
    told = [
        f"{', '.join(map(str, key))}: {why}" for key, why in sorted(differing.items(), key=str)[:5]
    ]
    if not differing:
        return metrics, []
    return metrics, [
        violation(
            name,
            "online_offline_skew_check",
            f"{len(differing)} of {checked} keys are served online with other values than their "
            f"history has. {'; '.join(told)}",
        )
    ]


def _sampled_keys(store: FeatureStore, group: FeatureGroup, sample: int) -> list[tuple[Any, ...]]:
    identifier = group.record_identifier
    # Online records lie in the order of a seeded hash: any stretch of them is a random sample.
    place = os.urandom(8).hex()
    served: dict[tuple[Any, ...], None] = {}
    for after in (place, ""):
        for record in store.scan(group.name, list(identifier), after=after):
            served.setdefault(tuple(record[part] for part in identifier))
            if len(served) >= sample - sample // 2:
                break
        else:
            continue
        break
    listed = ", ".join(map(quoted, identifier))
    query = (
        f"SELECT * FROM (SELECT DISTINCT {listed} FROM history.{quoted(group.name)}) "  # noqa: S608
        f"USING SAMPLE reservoir({max(1, sample // 2)} ROWS)"
    )
    written = store.sql(query).to_pylist()
    for row in written:
        served.setdefault(tuple(row[part] for part in identifier))
    return list(served)


def _differences(
    store: FeatureStore, group: FeatureGroup, keys: Sequence[tuple[Any, ...]], now_us: int
) -> dict[tuple[Any, ...], str]:
    """Return the keys whose online record is not the newest live one of history, and why."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not keys:
        return {}
    single = len(group.record_identifier) == 1
    asked = [key[0] if single else key for key in keys]
    answer = store.batch_get_record({group.name: asked})[group.name]
    status = "__status" if "__status" in answer.column_names else "status"
    live = pc.equal(answer[status].cast(pa.string()), Status.PRESENT.value)
    online = _by_key(group, answer.filter(live))
    offline = _by_key(group, _resolved(store, group, keys, now_us))
    found = {}
    for key in keys:
        served, known = online.get(key), offline.get(key)
        if (served is None) != (known is None):
            found[key] = "only online" if known is None else "only in history"
        elif served is not None and known is not None:
            unlike = [name for name in known if not same(served[name], known[name])]
            if unlike:
                found[key] = f"{unlike[0]} is {served[unlike[0]]}, not {known[unlike[0]]}"
    return found


def _by_key(group: FeatureGroup, table: pa.Table) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the features of each key's record."""
    names = [feature.name for feature in group.features]
    rows = table.select(names).to_pylist()
    return {tuple(row[part] for part in group.record_identifier): row for row in rows}


def _resolved(
    store: FeatureStore, group: FeatureGroup, keys: Sequence[tuple[Any, ...]], now_us: int
) -> pa.Table:
    """Return the newest record of each key by its history alone, those gone or expired left out."""
    import pyarrow as pa

    columns = {
        feature.name: pa.array([key[i] for key in keys], feature.dtype.to_arrow())
        for i, feature in enumerate(group.key_features)
    }
    identifier = ", ".join(map(quoted, group.record_identifier))
    names = ", ".join(quoted(feature.name) for feature in group.features)
    query = (
        f"SELECT {names} FROM (SELECT * FROM history.{quoted(group.name)} "  # noqa: S608  quoted
        f"SEMI JOIN asked_keys USING ({identifier}) QUALIFY row_number() OVER (PARTITION BY "
        f"{identifier} ORDER BY {quoted(group.event_time)} DESC, write_seq DESC) = 1) "
        "WHERE NOT is_deleted AND (expires_at IS NULL OR expires_at > ?)"
    )
    return store.sql(query, [to_datetime(now_us)], tables={"asked_keys": pa.table(columns)})


def same(one: Any, other: Any) -> bool:
    """Return whether two values are one: of one type, NaN being NaN.

    Examples
    --------
    >>> same(float("nan"), float("nan")), same(0, 0.0), same([1.0], [1.0])
    (True, False, True)
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


# ── freshness ────────────────────────────────────────────────────────────────────────────────


def freshness(
    store: FeatureStore,
    name: str,
    window: Window,
    *,
    max_age_us: int,
    max_stale_share: float | None = None,
    known: str = "write_time",
) -> Found:
    """Return how old the newest record was when the window ended.

    Parameters
    ----------
    known : {"write_time", "event_time"}
        Among the records written by then; or also those that were filled in later.
    max_age_us : int
        Older is a violation.
    max_stale_share : float, optional
        Also look at each key's newest record: at most this share may be older.
    """
    group = store.describe_feature_group(name)
    time, rows = quoted(group.event_time), quoted(name)
    if known not in ("write_time", "event_time"):
        raise InvalidInput(f'known= is "write_time" or "event_time"; got {known!r}.')
    there = f"FROM history.{rows} WHERE {known_by(known, time)} <= ? AND NOT is_deleted"
    ends = [window.end]
    newest = store.sql(f"SELECT max({time}) AS newest {there}", ends)["newest"][0].as_py()
    age = math.inf if newest is None else (window.end - newest).total_seconds()
    limit = max_age_us / 1e6
    metrics = [Metric("", "age_seconds", age, limit, age > limit)]
    violations = []
    if age > limit:
        words = "there is no record"
        if newest is not None:
            words = f"the newest record is of {newest:%FT%TZ}, {age:,.0f} s old"
        said = f"At {window.end:%FT%TZ} {words}. Expected: at most {limit:,.0f} s."
        violations.append(violation(name, "freshness_check", said))
    if max_stale_share is not None:
        keys = ", ".join(map(quoted, group.record_identifier))
        query = (
            f"SELECT avg((newest < ?)::INT)::DOUBLE AS stale FROM (SELECT max({time}) AS newest "  # noqa: S608
            f"{there} GROUP BY {keys})"
        )
        oldest = to_datetime(window.end_us - max_age_us)
        share = store.sql(query, [oldest, *ends])["stale"][0].as_py() or 0.0
        flagged = share > max_stale_share
        metrics.append(Metric("", "stale_keys", share, max_stale_share, flagged))
        if flagged:
            said = f"{share:.1%} of the keys are older than {limit:,.0f} s."
            violations.append(violation(name, "freshness_check", said))
    return metrics, violations


def known_by(known: str, time: str) -> str:
    """Return when a record was known, as SQL."""
    return time if known == "event_time" else f"greatest({time}, write_time)"


# ── volume ───────────────────────────────────────────────────────────────────────────────────


def volume(
    name: str, rows: int, *, min_rows: float | None = None, max_rows: float | None = None
) -> Found:
    """Hold a number of rows to a range."""
    low, high = min_rows, max_rows
    few, many = low is not None and rows < low, high is not None and rows > high
    metrics = [Metric("", "rows", float(rows), low if few or high is None else high, few or many)]
    if not (few or many):
        return metrics, []
    said = f"Expected: {'' if low is None else f'{low:,.0f}'} to "
    said += f"{'any' if high is None else f'{high:,.0f}'} rows. Observed: {rows:,}."
    return metrics, [violation(name, "volume_check", f"Volume requirement is not met. {said}")]


def usual_volume(counts: Sequence[int]) -> tuple[float, float]:
    """Return the range of rows that parts of a baseline had, a tenth wider."""
    if not counts:
        raise InvalidInput(
            "The baseline has no parts to count: make it with window= and every=, the length of "
            "the windows, or give min_rows= and max_rows=."
        )
    return math.floor(min(counts) / SLACK), math.ceil(max(counts) * SLACK)


# ── schema ───────────────────────────────────────────────────────────────────────────────────


def schema(name: str, then: Mapping[str, str], now: Mapping[str, str]) -> Found:
    """Compare the types of features by name."""
    changes = (
        [(feature, "is gone") for feature in then if feature not in now]
        + [(feature, "is new") for feature in now if feature not in then]
        + [
            (feature, f"was {then[feature]} and is {now[feature]}")
            for feature in then
            if feature in now and now[feature] != then[feature]
        ]
    )
    metrics = [Metric("", "changed_features", float(len(changes)), 0.0, bool(changes))]
    return metrics, [
        violation(feature, "schema_drift_check", f"{feature} of {name} {what}.")
        for feature, what in changes
    ]


def schema_of(store: FeatureStore, name: str) -> dict[str, str]:
    """Return the types of a group's features by name."""
    group = store.describe_feature_group(name)
    return {feature.name: str(feature.dtype) for feature in group.features}
