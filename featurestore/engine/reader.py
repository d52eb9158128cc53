"""The online store, read: one key, many keys, all keys.

Every answer has a status, decided here once for all of them:

========  ==================================================  =============================
status    the newest record of the key                        payload
========  ==================================================  =============================
PRESENT   is there and live: ``clock < expires_at``           its values
EXPIRED   is there, or was cleaned up, and has expired        none
DELETED   is a tombstone                                      none
MISSING   was never written, or only into history             none, and no event time
========  ==================================================  =============================

A read transaction lasts for the lookup only.  Several groups are read in one, so a feature view
never mixes two moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.encoding.values import Header, verify_record
from featurestore.errors import InvalidInput
from featurestore.event_time import expired
from featurestore.record import FLAG_DELETED, FLAG_FENCE, Status
from featurestore.storage import latest

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan
    from featurestore.schema import FeatureGroup
    from featurestore.storage.environment import Transaction


class Found(NamedTuple):
    """One answer of the online store."""

    status: Status
    header: Header | None
    record: dict[str, Any] | None


def status_of(header: Header, clock_us: int) -> Status:
    """Return the status of a record as seen by a clock."""
    if header.flags & FLAG_DELETED:
        return Status.DELETED
    if header.flags & FLAG_FENCE or expired(header.expires_at_us, clock_us):
        return Status.EXPIRED
    return Status.PRESENT


def require_online(group: FeatureGroup) -> None:
    """Refuse a lookup in a group that keeps no latest records."""
    if not group.online:
        raise InvalidInput(
            f'Feature group "{group.name}" has no online store; read its history with sql().'
        )


# ── one key ──────────────────────────────────────────────────────────────────────────────────


def get(
    database: Database, name: str, key: Any, features: Sequence[str] | None, clock_us: int
) -> Found:
    """Look one key up; only the features asked for are decoded."""
    env = database.env
    with database.read() as txn:
        plan = database.plan_at(txn, name)
        require_online(plan.group)
        key_bytes, parts = plan.key(key)
        data = latest.get(env, txn, plan.group.id, database.key_hash(key_bytes), key_bytes)
    if features is not None:
        plan.check_features(features)
    if data is None:
        return Found(Status.MISSING, None, None)
    header = verify_record(data, key_bytes)
    status = status_of(header, clock_us)
    if status is not Status.PRESENT:
        return Found(status, header, None)
    return Found(status, header, plan.record(parts, header.event_time_us, data, features))


# ── many keys ────────────────────────────────────────────────────────────────────────────────


def fetch(
    database: Database, txn: Transaction, plan: Plan, keys: Sequence[bytes]
) -> list[bytes | None]:
    """Return the checked records of some keys, in their order."""
    records = []
    for key in keys:
        data = latest.get(database.env, txn, plan.group.id, database.key_hash(key), key)
        if data is not None:
            verify_record(data, key)
        records.append(data)
    return records


class Columns(NamedTuple):
    """Answers of the online store for many keys, one row each."""

    values: dict[str, pa.Array]
    status: pa.Array
    event_time: pa.Array
    age: pa.Array


def columns_of(
    plan: Plan, keys: Sequence[bytes], records: Sequence[bytes | None], clock_us: int
) -> Columns:
    """Turn records into Arrow columns.

    Parameters
    ----------
    plan : Plan
        Of the group.
    keys, records : sequence
        One record, or None, for each key.
    clock_us : int
        Decides expiry, and the age.

    Returns
    -------
    Columns
        ``values`` holds every feature of the group: identifiers always set, event time unless
        MISSING, the others null unless PRESENT.  ``status`` holds strings, ``event_time``
        timestamps and ``age`` durations, null where MISSING.
    """
    import pyarrow as pa

    from featurestore.encoding.columns import decode_keys, decode_records
    from featurestore.encoding.values import read_header

    headers = [None if data is None else read_header(data) for data in records]
    statuses = [Status.MISSING if h is None else status_of(h, clock_us) for h in headers]
    present = [row for row, status in enumerate(statuses) if status is Status.PRESENT]
    places: list[int | None] = [None] * len(records)
    for place, row in enumerate(present):
        places[row] = place
    take = pa.array(places, pa.int64())
    table = decode_records(plan.group, [data for row in present if (data := records[row])])
    micros = pa.timestamp("us", tz="UTC")
    event_us = [None if h is None else h.event_time_us for h in headers]
    event_time = pa.array(event_us, pa.int64()).view(micros)
    group = plan.group
    found = {
        **dict(zip(group.record_identifier, decode_keys(keys, plan.key_dtypes), strict=True)),
        group.event_time: event_time,
    }
    found |= {
        f.name: table.column(f.name).combine_chunks().take(take) for f in group.value_features
    }
    return Columns(
        values={f.name: found[f.name] for f in group.features},
        status=pa.array([str(s) for s in statuses], pa.string()),
        event_time=event_time,
        age=pa.array([None if us is None else clock_us - us for us in event_us], pa.int64()).view(
            pa.duration("us")
        ),
    )


def batch_get(
    database: Database,
    requests: Mapping[str, Sequence[Any]],
    features: Sequence[str] | None,
    clock_us: int,
) -> dict[str, pa.Table]:
    """Look many keys of several groups up, at one moment.

    Returns
    -------
    dict of str to pyarrow.Table
        For each group a row per key, in the order asked: identifiers, then the other features
        (or those asked for), then status and age.
    """
    fetched = []
    with database.read() as txn:
        for name, user_keys in requests.items():
            plan = database.plan_at(txn, name)
            require_online(plan.group)
            keys = [plan.key(key)[0] for key in _several(name, user_keys)]
            fetched.append((name, plan, keys, fetch(database, txn, plan, keys)))
    return {
        name: _answer_table(plan, columns_of(plan, keys, records, clock_us), features)
        for name, plan, keys, records in fetched
    }


def _several(name: str, keys: Any) -> Any:
    if isinstance(keys, (str, bytes, Mapping)) or not hasattr(keys, "__iter__"):
        raise InvalidInput(
            f'batch_get_record takes a list of keys for "{name}"; got {keys!r}. '
            "For a single key use get_record."
        )
    return keys.to_pylist() if hasattr(keys, "to_pylist") else keys


def _answer_table(plan: Plan, columns: Columns, features: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa

    group = plan.group
    names = [f.name for f in group.features]
    if features is not None:
        asked = [group.feature(name).name for name in features]
        names = [*group.record_identifier, *(n for n in asked if n not in group.record_identifier)]
    arrays = {name: columns.values[name] for name in names}
    for name, column in (("status", columns.status), ("age", columns.age)):
        # A system column never takes a feature's name.
        arrays[f"__{name}" if name in arrays else name] = column
    return pa.table(arrays)


# ── all keys ─────────────────────────────────────────────────────────────────────────────────


def scan_page(
    database: Database, name: str, after: bytes, limit: int, clock_us: int
) -> tuple[Plan, list[tuple[bytes, bytes]], bytes]:
    """Read live records of up to ``limit`` keys after a position, in key-hash order.

    Returns
    -------
    plan : Plan
        Of the group at that moment.
    rows : list of (key, record)
        Checked and PRESENT.
    position : bytes
        Where to go on; empty at the end.
    """
    with database.read() as txn:
        plan = database.plan_at(txn, name)
        require_online(plan.group)
        page = list(latest.scan(database.env, txn, plan.group.id, after=after, limit=limit))
    rows = [
        (key, data)
        for _, key, data in page
        if status_of(verify_record(data, key), clock_us) is Status.PRESENT
    ]
    return plan, rows, page[-1][0] if len(page) == limit else b""


def latest_table(
    plan: Plan, keys: Sequence[bytes], records: Sequence[bytes], clock_us: int
) -> pa.Table:
    """Return what the online store serves now: the features of every PRESENT record."""
    import pyarrow as pa

    live = [
        (key, data)
        for key, data in zip(keys, records, strict=True)
        if status_of(verify_record(data, key), clock_us) is Status.PRESENT
    ]
    columns = columns_of(plan, [key for key, _ in live], [data for _, data in live], clock_us)
    return pa.table(columns.values)
