"""What a store answers, laid beside what the model says it must answer.

Every function asks the front door one kind of question about everything a group holds, and fails
with both answers in sight::

    online     get_record and batch_get_record of every key, and of one nobody wrote
    scan       the pages of a scan, put together
    views      history.<group>, <group>, latest.<group>
    joins      point_in_time of every key at the label times given

Values are compared exactly (``model.exactly``): nan is nan, 0 is not 0.0, missing is not empty.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import featurestore as fs
from tests.model import Delete, Key, Put, Version, Write, exactly, micros, moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.model import Group, Model, Outcome

STRANGER: dict[str, object] = {"string": "nobody", "int64": -404}
"""What no test ever writes as a key, by dtype."""

ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "list<int64>": pa.list_(pa.int64()),
}


# ── the model's words in the store's shapes ──────────────────────────────────────────────────


def span(duration_us: float | None) -> timedelta | None:
    """Return a timedelta, or None for none."""
    if duration_us is None or math.isinf(duration_us):
        return None
    return timedelta(microseconds=duration_us)


def at(time_us: int | None) -> datetime | None:
    """Return an aware datetime, or None for never."""
    return None if time_us is None else moment(time_us)


def asked(key: Key) -> object:
    """Return a key as a user asks for it: a scalar, or a tuple when composite."""
    return key[0] if len(key) == 1 else key


def record(group: Group, put: Put) -> dict[str, Any]:
    """Return the dict a user would put."""
    return {
        **dict(zip(group.identifier, put.key, strict=True)),
        group.event_time: moment(put.event_time_us),
        **put.values,
    }


def table(group: Group, puts: Sequence[Put]) -> pa.Table:
    """Return puts as an Arrow table with the group's own types."""
    rows = [record(group, put) for put in puts]
    return pa.table(
        {
            name: pa.array([row.get(name) for row in rows], ARROW[dtype])
            for name, dtype in group.features.items()
        }
    )


def numbered(store: fs.FeatureStore, model: Model, group: Group, puts: Sequence[Put]) -> list[int]:
    """Return the rows of a table by the seqs that its slices gave them, as history tells it.

    Slices follow the order of the file, which is nobody's business but the store's.  What must hold
    all the same: the rows are those given, and rows of one key and event time keep their order,
    since the last of them wins.
    """
    answer = store.sql(
        f'SELECT * FROM history."{group.name}" WHERE write_seq > ? ORDER BY write_seq', [model.seq]
    )
    left = [(as_row(group, put), place) for place, put in enumerate(puts)]
    places = []
    for found in rows_of(answer.select(list(group.features))):
        at = next(i for i, (given, _) in enumerate(left) if given == found)
        places.append(left.pop(at)[1])
    assert not left
    for tie in {(put.key, put.event_time_us) for put in puts}:
        same = [place for place in places if (puts[place].key, puts[place].event_time_us) == tie]
        assert [puts[place] for place in same] == [puts[place] for place in sorted(same)]
    return places


def create(store: fs.FeatureStore, group: Group) -> None:
    """Create the model's group in the store."""
    store.create_feature_group(
        group.name,
        record_identifier=group.identifier,
        event_time=group.event_time,
        features=group.features,
        ttl=span(group.ttl_us),
        max_future=span(group.max_future_us),
    )


def send(
    store: fs.FeatureStore, model: Model, write: Write, request_id: str | None = None
) -> fs.PutResult:
    """Send one write through the front door."""
    group = model.groups[write.group]
    if isinstance(write, Delete):
        return store.delete_record(
            write.group,
            asked(write.key),
            event_time=moment(write.event_time_us),
            hard=write.hard,
            request_id=request_id,
        )
    stores = [name for name in ("online", "offline") if getattr(write, name)]
    return store.put_record(
        write.group,
        record(group, write),
        ttl=span(write.ttl_us),
        target_stores=stores,
        request_id=request_id,
    )


def same_outcome(result: fs.PutResult, expected: Outcome, *, replayed: bool = False) -> None:
    """Fail unless a put's result is what the model says."""
    expires_at = None if result.expires_at is None else micros(result.expires_at)
    found = (result.seq, result.outcome, expires_at, result.replayed)
    assert found == (expected.seq, expected.outcome, expected.expires_at_us, replayed)


# ── rows as exact values ─────────────────────────────────────────────────────────────────────


def rows_of(answer: pa.Table) -> list[dict[str, object]]:
    """Return the rows of a table as exact values; times as microseconds."""
    columns = {}
    for name in answer.column_names:
        column = answer[name]
        if pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type):
            column = column.cast(pa.int64())
        columns[name] = [exactly(value) for value in column.to_pylist()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def row(group: Group, key: Key, version: Version) -> dict[str, object]:
    """Return identifier, event time and features of a version, as exact values."""
    names = dict(zip(group.identifier, key, strict=True))
    names[group.event_time] = version.event_time_us
    names |= {name: version.values.get(name) for name in group.payload}
    return {name: exactly(names[name]) for name in group.features}


def as_row(group: Group, put: Put) -> dict[str, object]:
    """Return what a put says, as exact values."""
    return row(group, put.key, Version(put.event_time_us, 0, 0, None, False, put.values))


def keys_of(group: Group) -> list[Key]:
    """Return every key ever written, and one that never was."""
    stranger = tuple(STRANGER[group.features[name]] for name in group.identifier)
    return [*group.history, stranger]


def in_order(rows: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    """Sort rows that were given in no promised order."""
    return sorted(rows, key=lambda r: repr(sorted(r.items())))


# ── online ───────────────────────────────────────────────────────────────────────────────────


def online(store: fs.FeatureStore, model: Model, clock_us: int) -> None:
    """Fail unless the online store answers as the model does, for every key."""
    for group in model.groups.values():
        for key in keys_of(group):
            status, version = model.get(group.name, key, clock_us)
            expected = (
                status,
                row(group, key, version) if status == "PRESENT" and version else None,
                None if version is None else moment(version.event_time_us),
                None if version is None else span(clock_us - version.event_time_us),
                None if version is None else version.seq,
                None if version is None else at(version.expires_at_us),
            )
            found = store.get_record(group.name, asked(key), with_status=True)
            said = (
                found.status,
                None if found.record is None else _exact(found.record),
                found.event_time,
                found.age,
                found.write_seq,
                found.expires_at,
            )
            assert said == expected, f"get_record({group.name!r}, {asked(key)!r}, with_status=True)"
            plain = store.get_record(group.name, asked(key))
            assert (None if plain is None else _exact(plain)) == said[1]


def _exact(found: Mapping[str, object]) -> dict[str, object]:
    """Return a record as exact values; times as microseconds."""
    return {
        name: exactly(micros(value) if isinstance(value, datetime) else value)
        for name, value in found.items()
    }


def batch(store: fs.FeatureStore, model: Model, clock_us: int) -> None:
    """Fail unless one batch_get_record of everything answers as the model does."""
    asking = {name: keys_of(group) for name, group in model.groups.items()}
    answers = store.batch_get_record(
        {name: [asked(key) for key in keys] for name, keys in asking.items()}
    )
    for name, keys in asking.items():
        group = model.groups[name]
        rows = rows_of(answers[name])
        assert len(rows) == len(keys)
        for key, found in zip(keys, rows, strict=True):
            status, version = model.get(name, key, clock_us)
            expected: dict[str, object] = dict.fromkeys(group.features, exactly(None))
            if status == "PRESENT" and version is not None:
                expected = row(group, key, version)
            elif version is not None:
                expected[group.event_time] = exactly(version.event_time_us)
            identifier = zip(group.identifier, key, strict=True)
            expected |= {column: exactly(value) for column, value in identifier}
            age = None if version is None else clock_us - version.event_time_us
            expected |= {"status": exactly(status), "age": exactly(age)}
            assert found == expected, f"batch_get_record({name!r}, {key!r})"


def scan(store: fs.FeatureStore, model: Model, clock_us: int, page_size: int = 2) -> None:
    """Fail unless a paged scan yields each present key once."""
    for name, group in model.groups.items():
        found = [_exact(r) for r in store.scan(name, page_size=page_size)]
        expected = [row(group, key, v) for key, v in model.latest_rows(name, clock_us)]
        assert in_order(found) == in_order(expected), f"scan({name!r})"


# ── SQL ──────────────────────────────────────────────────────────────────────────────────────


def views(store: fs.FeatureStore, model: Model, clock_us: int) -> None:
    """Fail unless the three SQL views of every group are what the model says."""
    for name, group in model.groups.items():
        columns = ", ".join(f'"{feature}"' for feature in group.features)
        found = rows_of(
            store.sql(
                f"SELECT {columns}, write_seq, write_time, expires_at, is_deleted "
                f'FROM history."{name}" ORDER BY write_seq'
            )
        )
        expected = [
            row(group, key, v)
            | {
                "write_seq": exactly(v.seq),
                "write_time": exactly(v.write_time_us),
                "expires_at": exactly(v.expires_at_us),
                "is_deleted": exactly(v.is_deleted),
            }
            for key, v in model.history_rows(name)
        ]
        assert found == expected, f"history.{name}\n  store: {found}\n  model: {expected}"

        found = rows_of(store.sql(f'SELECT {columns} FROM "{name}"'))
        expected = [row(group, key, v) for key, v in model.newest_rows(name)]
        assert in_order(found) == in_order(expected), f"view {name}"

        found = rows_of(store.sql(f'SELECT {columns} FROM latest."{name}"'))
        expected = [row(group, key, v) for key, v in model.latest_rows(name, clock_us)]
        assert in_order(found) == in_order(expected), f"latest.{name}"


# ── joins ────────────────────────────────────────────────────────────────────────────────────


def in_no_helpful_order(keys: Sequence[Key], times: Sequence[int]) -> list[tuple[Key, int]]:
    """Return each key with each time; neither is sorted."""
    pairs = list(product(keys, times))
    return pairs[1::2] + pairs[::2]


def labels_of(group: Group, keys: Sequence[Key], times: Sequence[int]) -> pa.Table:
    """Return labels of each key at each time, with their row number and ``label``, the time."""
    pairs = in_no_helpful_order(keys, times)
    return pa.table(
        {
            "row": pa.array(range(len(pairs)), pa.int32()),
            "label": pa.array([t for _, t in pairs], pa.timestamp("us", tz="UTC")),
            **{
                column: pa.array([key[i] for key, _ in pairs], ARROW[group.features[column]])
                for i, column in enumerate(group.identifier)
            },
        }
    )


def joined(
    group: Group, status: str, version: Version | None, label_us: int, prefix: str
) -> dict[str, object]:
    """Return what a join must put beside a label, as exact values."""
    values = version.values if status == "PRESENT" and version is not None else {}
    expected: dict[str, object] = {name: values.get(name) for name in group.payload}
    expected |= {
        "_status": status,
        "_event_time": None if version is None else version.event_time_us,
        "_age": None if version is None else label_us - version.event_time_us,
    }
    return {f"{prefix}{name}": exactly(value) for name, value in expected.items()}


def joins(
    store: fs.FeatureStore,
    model: Model,
    name: str,
    label_times: Sequence[int],
    *,
    delay_us: int = 0,
    max_age_us: float = math.inf,
    as_of: int | datetime | None = None,
    by_write_time: bool = False,
) -> None:
    """Fail unless a join of every key at every label time answers as the model does.

    Labels come in no helpful order, with a row that has no key.
    """
    group = model.groups[name]
    keys: list[Key] = [*keys_of(group), (None,) * len(group.identifier)]
    labels = in_no_helpful_order(keys, label_times)
    answer = store.point_in_time(
        labels_of(group, keys, label_times),
        [
            fs.FeatureLookup(
                name,
                group.payload,
                prefix="f_",
                max_age=span(max_age_us),
                delay=span(delay_us or None),
            )
        ],
        label_time="label",
        as_of=as_of,
        known="write_time" if by_write_time else "event_time",
        with_status=True,
    )
    assert answer["row"].to_pylist() == list(range(len(labels)))
    seq_max = model.seq_at(micros(as_of)) if isinstance(as_of, datetime) else as_of
    found_rows = rows_of(answer)
    for (key, label_us), found in zip(labels, found_rows, strict=True):
        status, version = model.join(
            name,
            key,
            label_us,
            delay_us=delay_us,
            max_age_us=max_age_us,
            seq_max=math.inf if seq_max is None else seq_max,
            by_write_time=by_write_time,
        )
        expected = joined(group, status, version, label_us, "f_")
        assert {n: found[n] for n in expected} == expected, (
            f"{name} of {key!r} at {label_us} (delay {delay_us}, max_age {max_age_us}, "
            f"as_of {as_of}, by_write_time {by_write_time}); the model: {status}, {version}"
        )


def everything(store: fs.FeatureStore, model: Model, clock_us: int) -> None:
    """Fail unless every read path answers as the model does, at a few label times."""
    online(store, model, clock_us)
    batch(store, model, clock_us)
    scan(store, model, clock_us)
    views(store, model, clock_us)
    for name, group in model.groups.items():
        times = {v.event_time_us for vs in group.history.values() for v in vs} | {clock_us}
        joins(store, model, name, sorted({t + d for t in times for d in (-1, 0)}))
