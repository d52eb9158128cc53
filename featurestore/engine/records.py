"""Single records on their way in: checked and encoded, before anything is locked.

``rows`` does the same for whole tables; both stand on the types' own rules (``dtypes``).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featurestore.dtypes import is_null
from featurestore.encoding.values import tombstone
from featurestore.engine.writer import Put
from featurestore.errors import InvalidEventTime, InvalidRecord, UnknownFeature, did_you_mean
from featurestore.event_time import NO_EXPIRY, expires_at, format_us, to_us
from featurestore.record import (
    FLAG_DELETED,
    FLAG_FENCE,
    FLAG_HARD,
    STORE_OFFLINE,
    STORE_ONLINE,
)

if TYPE_CHECKING:
    from datetime import tzinfo

    from featurestore.dtypes import Physical
    from featurestore.engine.plan import Plan
    from featurestore.schema import FeatureGroup

BOTH_STORES = STORE_ONLINE | STORE_OFFLINE
#: From so many records of one request on, it is worth looking whether they go by column.
MANY = 512


def prepare_put(
    plan: Plan,
    record: Mapping[str, Any],
    now_us: int,
    *,
    ttl_us: int | None = None,
    stores: int = BOTH_STORES,
    tz: str | tzinfo | None = None,
) -> Put:
    """Return a record ready to be committed.

    Raises
    ------
    InvalidRecord, InvalidEventTime, UnknownFeature
        With what is wrong with it.
    """
    group = plan.group
    if not isinstance(record, Mapping):
        raise InvalidRecord(
            f'A record of "{group.name}" is a dict of features; got {type(record).__name__}.'
        )
    if not record.keys() <= plan.known_names:
        first = min(str(name) for name in record.keys() - plan.known_names)
        raise UnknownFeature(
            f'"{first}" is no feature of "{group.name}".{did_you_mean(first, plan.names)}'
        )
    event_time_us = given_event_time_us(group, record.get(group.event_time), tz)
    key = _key(plan, record)
    slots = plan.slots(record, tz)
    asked = (group.id, key, event_time_us, ttl_us, stores, tuple(slots))
    expires_at_us = expires_at(event_time_us, group.ttl_us if ttl_us is None else ttl_us)
    try:
        encoded = plan.codec.encode_slots(
            slots, event_time_us=event_time_us, expires_at_us=expires_at_us, stores=stores
        )
    except (struct.error, UnicodeEncodeError):
        plan.check_slots(record, tz)
        raise
    refusal = future_refusal(group, event_time_us, now_us)
    return _put(plan, key, encoded, (event_time_us, expires_at_us), stores, asked, refusal)


def _key(plan: Plan, record: Mapping[str, Any]) -> bytes:
    names = plan.group.record_identifier
    parts = [record.get(name) for name in names]
    for name, part in zip(names, parts, strict=True):
        if is_null(part):
            raise InvalidRecord(
                f'The record has no "{name}", an identifier of "{plan.group.name}".'
            )
    return plan.key(parts[0] if len(parts) == 1 else parts)[0]


def prepare_delete(
    plan: Plan,
    key: Any,
    event_time: Any,
    now_us: int,
    *,
    hard: bool,
    stores: int = BOTH_STORES,
    tz: str | tzinfo | None = None,
) -> Put:
    """Return a tombstone, or a fence, ready to be committed; a delete is a record too."""
    group = plan.group
    event_time_us = given_event_time_us(group, event_time, tz)
    encoded = tombstone(
        schema_version=group.version,
        event_time_us=event_time_us,
        stores=stores,
        flags=FLAG_DELETED | FLAG_HARD | FLAG_FENCE if hard else FLAG_DELETED,
    )
    key_bytes, _ = plan.key(key)
    asked: tuple[Any, ...] = (group.id, key_bytes, event_time_us, hard)
    if stores != BOTH_STORES:  # what older versions have stored of a delete has no stores
        asked = (*asked, stores)
    refusal = future_refusal(group, event_time_us, now_us)
    times_us = (event_time_us, NO_EXPIRY)
    return _put(plan, key_bytes, encoded, times_us, stores, asked, refusal, hard=hard)


def prepared(
    plan: Plan, key: bytes, slots: list[Physical | None], times_us: tuple[int, int], stores: int
) -> Put:
    """Return a record ready to be committed from the checked values of its slots."""
    encoded = plan.codec.encode_slots(
        slots, event_time_us=times_us[0], expires_at_us=times_us[1], stores=stores
    )
    return _put(plan, key, encoded, times_us, stores, (), None)


def future_sentence(name: str, event_time_us: int, limit_us: int) -> str:
    """Say why an event time is too far in the future, and what can be done."""
    return (
        f'event time "{name}" {format_us(event_time_us)} is in the future, beyond '
        f"{format_us(limit_us)}; it would hide its key until then. Correct it, or give the group "
        "a larger max_future."
    )


def _put(
    plan: Plan,
    key: bytes,
    record: bytearray,
    times_us: tuple[int, int],
    stores: int,
    asked: tuple[Any, ...],
    refusal: InvalidEventTime | None,
    *,
    hard: bool = False,
) -> Put:
    group = plan.group
    return Put(
        group_id=group.id,
        group_name=group.name,
        online=group.online and bool(stores & STORE_ONLINE),
        offline=group.offline and bool(stores & STORE_OFFLINE),
        hard=hard,
        lmdb_key=plan.lmdb_key(key),
        key=key,
        event_time_us=times_us[0],
        expires_at_us=times_us[1],
        record=record,
        asked=asked,
        refusal=refusal,
    )


def given_event_time_us(group: FeatureGroup, value: Any, tz: str | tzinfo | None) -> int:
    """Return the event time that a caller has given, which must be one."""
    if is_null(value):
        raise InvalidEventTime(
            f'The record has no event time "{group.event_time}"; "{group.name}" needs one.'
        )
    return to_us(value, tz=tz, what=f'event time "{group.event_time}"')


def future_refusal(group: FeatureGroup, event_time_us: int, now_us: int) -> InvalidEventTime | None:
    """Return why an event time is too far ahead; None if it is not."""
    if group.max_future_us is None or event_time_us <= now_us + group.max_future_us:
        return None
    limit_us = now_us + group.max_future_us
    return InvalidEventTime(future_sentence(group.event_time, event_time_us, limit_us))
