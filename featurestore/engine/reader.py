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

from featurestore.encoding.values import Header, read_header, sound_fields, verify_record
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


#: As `max_age`: records of any age will do.
AGE_MAX_US = 2**63 - 1


class Found(NamedTuple):
    """One answer of the online store.

    Attributes
    ----------
    status : Status
        What is there.
    data : bytes or None
        The record as it is stored, whatever its status; None if MISSING.
    record : dict or None
        Its values, if PRESENT.
    """

    status: Status
    data: bytes | None
    record: dict[str, Any] | None

    @property
    def header(self) -> Header | None:
        """Times, seq and flags; None if MISSING."""
        return None if self.data is None else read_header(self.data)


_FLAGS = Header._fields.index("flags")
_EVENT_TIME = Header._fields.index("event_time_us")
_EXPIRES_AT = Header._fields.index("expires_at_us")
_PRESENT = Status.PRESENT

MISSING = Found(Status.MISSING, None, None)


def status_of(header: Header, clock_us: int) -> Status:
    """Return the status of a record as seen by a clock."""
    if not header.flags and not expired(header.expires_at_us, clock_us):
        return Status.PRESENT
    if header.flags & FLAG_DELETED:
        return Status.DELETED
    if header.flags & FLAG_FENCE or expired(header.expires_at_us, clock_us):
        return Status.EXPIRED
    return Status.PRESENT


def aged_status(header: Header, clock_us: int, max_age_us: int) -> Status:
    """Return the status of a record that must not be older than a limit."""
    status = status_of(header, clock_us)
    if status is Status.PRESENT and clock_us - header.event_time_us > max_age_us:
        return Status.EXPIRED
    return status


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
    with database.read() as txn:
        plan = database.plan_at(txn, name)
        require_online(plan.group)
        if features is not None:
            plan.check_features(features)
        return find(database, txn, plan, key, features, clock_us)


def find(
    database: Database,
    txn: Transaction,
    plan: Plan,
    key: Any,
    features: Sequence[str] | None,
    clock_us: int,
    max_age_us: int = AGE_MAX_US,
) -> Found:
    """Look one key up in a transaction; ``features`` are checked names."""
    key_bytes, parts = plan.key(key)
    data = txn.get(plan.lmdb_key(key_bytes), None, database.env.latest)
    if data is None:
        return MISSING
    fields = sound_fields(data, key_bytes)
    event_time_us = fields[_EVENT_TIME]
    if (
        fields[_FLAGS]
        or expired(fields[_EXPIRES_AT], clock_us)
        or clock_us - event_time_us > max_age_us
    ):
        return Found(aged_status(Header(*fields), clock_us, max_age_us), data, None)
    return Found(_PRESENT, data, plan.record(parts, event_time_us, data, features))


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
    """Answers of the online store for many keys, one row each.

    Attributes
    ----------
    values : list of pyarrow.Array
        The value features asked for, in that order; null unless PRESENT.
    status : pyarrow.Array of string
        PRESENT, EXPIRED, DELETED or MISSING.
    event_time, age : pyarrow.Array
        Timestamps and durations in microseconds; null where MISSING.

    The last three are None where they were not asked for.
    """

    values: list[pa.Array]
    status: pa.Array
    event_time: pa.Array
    age: pa.Array


def columns_of(
    plan: Plan,
    records: Sequence[bytes | None],
    names: Sequence[str],
    clock_us: int,
    max_age_us: int = AGE_MAX_US,
) -> Columns:
    """Turn records into Arrow columns, on the plain road: see :mod:`featurestore.engine.lookup`.

    Parameters
    ----------
    plan : Plan
        Of the group.
    records : sequence of bytes or None
        Checked records.
    names : sequence of str
        Value features to return.
    clock_us, max_age_us : int
        Decide expiry, and the age.
    """
    import pyarrow as pa

    from featurestore.encoding.columns import decode_records

    headers = [None if data is None else read_header(data) for data in records]
    statuses = [
        Status.MISSING if header is None else aged_status(header, clock_us, max_age_us)
        for header in headers
    ]
    present = [row for row, status in enumerate(statuses) if status is Status.PRESENT]
    places: list[int | None] = [None] * len(records)
    for place, row in enumerate(present):
        places[row] = place
    take = pa.array(places, pa.int64())
    table = decode_records(plan.group, [data for row in present if (data := records[row])])
    event_us = [None if h is None else h.event_time_us for h in headers]
    age_us = [None if us is None else clock_us - us for us in event_us]
    return Columns(
        values=[table.column(name).combine_chunks().take(take) for name in names],
        status=pa.array([str(s) for s in statuses], pa.string()),
        event_time=pa.array(event_us, pa.int64()).view(pa.timestamp("us", tz="UTC")),
        age=pa.array(age_us, pa.int64()).view(pa.duration("us")),
    )


def batch_get(
    database: Database,
    requests: Mapping[str, Any],
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
    from featurestore.engine import lookup

    asked = {name: _several(name, keys) for name, keys in requests.items()}
    answers = {}
    with database.read() as txn:
        for name, user_keys in asked.items():
            plan = database.plan_at(txn, name)
            require_online(plan.group)
            shape = plan.answer_shape(features)
            arrays = lookup.key_arrays(plan, user_keys)
            keys = lookup.encode(arrays, plan.key_dtypes)
            found = lookup.look_up(database, txn, plan, keys, shape.values, clock_us)
            answers[name] = shape.table(arrays, found)
    return answers


def _several(name: str, keys: Any) -> Any:
    if isinstance(keys, (str, bytes, Mapping)) or not hasattr(keys, "__iter__"):
        raise InvalidInput(
            f'batch_get_record takes a list of keys for "{name}"; got {keys!r}. '
            "For a single key use get_record."
        )
    return keys if hasattr(keys, "to_pylist") else list(keys)


class AnswerShape:
    """The table that answers a batch: which column stands where; compiled once."""

    def __init__(self, group: FeatureGroup, features: Sequence[str] | None) -> None:
        import pyarrow as pa

        names = [f.name for f in group.features]
        if features is not None:
            asked = [group.feature(name).name for name in features]
            names = list(dict.fromkeys([*group.record_identifier, *asked]))
        outside = (*group.record_identifier, group.event_time)
        self.values = tuple(name for name in names if name not in outside)
        fields = [group.feature(name).dtype.to_arrow() for name in names]
        # A system column never takes a feature's name.
        system = [f"__{name}" if name in names else name for name in ("status", "age")]
        fields += [pa.string(), pa.duration("us")]
        self._schema = pa.schema(list(zip([*names, *system], fields, strict=True)))
        stock = [*group.record_identifier, group.event_time, *self.values]
        self._places = [stock.index(name) for name in names]

    def table(self, identifiers: Sequence[pa.Array], found: Columns) -> pa.Table:
        """Return the answer from the key columns and what was found for them."""
        import pyarrow as pa

        stock = [*identifiers, found.event_time, *found.values]
        arrays = [stock[place] for place in self._places]
        return pa.Table.from_arrays([*arrays, found.status, found.age], schema=self._schema)


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


def key_page(
    database: Database,
    name: str,
    after: bytes,
    limit: int,
    clock_us: int,
    *,
    with_deleted: bool = False,
) -> tuple[Plan, list[bytes], bytes]:
    """Read the keys of live records, up to ``limit`` keys after a position, in key-hash order.

    Parameters
    ----------
    with_deleted : bool
        Also keys whose record was deleted, but not for good: its tombstone is there.

    Returns
    -------
    plan : Plan
        Of the group at that moment.
    keys : list of bytes
        In order.
    position : bytes
        Where to go on; empty at the end.
    """
    with database.read() as txn:
        plan = database.plan_at(txn, name)
        require_online(plan.group)
        page = list(latest.scan(database.env, txn, plan.group.id, after=after, limit=limit))
    keys = []
    for _, key, data in page:
        header = verify_record(data, key)
        status = status_of(header, clock_us)
        deleted = status is Status.DELETED and not header.flags & FLAG_FENCE
        if status is Status.PRESENT or (with_deleted and deleted):
            keys.append(key)
    return plan, keys, page[-1][0] if len(page) == limit else b""


def latest_table(
    plan: Plan, keys: Sequence[bytes], records: Sequence[bytes], clock_us: int
) -> pa.Table:
    """Return what the online store serves now: the features of every PRESENT record."""
    import pyarrow as pa

    from featurestore.encoding.key_columns import decode_keys

    live = [
        (key, data)
        for key, data in zip(keys, records, strict=True)
        if status_of(verify_record(data, key), clock_us) is Status.PRESENT
    ]
    group = plan.group
    names = [feature.name for feature in group.value_features]
    identifiers = decode_keys([key for key, _ in live], plan.key_dtypes)
    columns = columns_of(plan, [data for _, data in live], names, clock_us)
    found = {
        **dict(zip(group.record_identifier, identifiers, strict=True)),
        group.event_time: columns.event_time,
        **dict(zip(names, columns.values, strict=True)),
    }
    return pa.table({feature.name: found[feature.name] for feature in group.features})
