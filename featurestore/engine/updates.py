"""Partial updates: some features of the latest record change, the others stay.

::

    latest record     {origin: JFK, at: 05:00, temp: 39, gust: 7}     expires 07:00
    update                         {at: 06:00, temp: 41}
    ──────────────────────────────────────────────────────────────────────────────────
    new record        {origin: JFK, at: 06:00, temp: 41, gust: 7}     expires 08:00

It is a read-modify-write, so reading and merging are done by the transaction that writes: of two
updates at once neither is lost.  What comes out is an ordinary record, in the journal too, and
from then on nothing tells it from one that was put whole.

===================  ==========================================================================
event time given     not before that of the record, else ``StaleUpdate``; equal is applied
event time left out  stays; the new record is newer by its seq
TTL left out         the time to live stays: a later event time moves the expiry with it
no live record       ``RecordNotFound``: missing, deleted and expired are nothing to change
===================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.dtypes import is_null
from featurestore.encoding.values import read_header
from featurestore.engine.plan import Plan
from featurestore.engine.reader import require_online, status_of
from featurestore.engine.records import future_refusal, given_event_time_us, prepared
from featurestore.engine.writer import Outcome, apply
from featurestore.errors import (
    InvalidInput,
    InvalidRecord,
    RecordNotFound,
    StaleUpdate,
    UnknownFeature,
    UnknownFeatureGroup,
    did_you_mean,
)
from featurestore.event_time import NO_EXPIRY, expires_at, format_us
from featurestore.record import STORE_ONLINE, Status
from featurestore.storage import catalog, latest, requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from featurestore.dtypes import Physical
    from featurestore.encoding.values import Header
    from featurestore.engine.writer import Commit
    from featurestore.errors import InvalidEventTime

#: Room to insist on: what an update adds is known only when the record has been read.
BYTES_NEEDED = 64 << 10


class Update(NamedTuple):
    """A checked change of the latest record of a key.

    Attributes
    ----------
    changes : mapping of str to physical value
        Value features; None makes one null.
    event_time_us, ttl_us : int or None
        None where they stay as they are.
    clock_us : int
        The caller's now, which decides whether the record is live, as it does for a get.
    """

    plan: Plan
    catalog_version: int
    key: bytes
    changes: Mapping[str, Physical | None]
    event_time_us: int | None
    ttl_us: int | None
    stores: int
    clock_us: int
    refusal: InvalidEventTime | None

    def asked_bytes(self) -> bytes:
        """Return what was asked for, to tell a retry from another request under the same id."""
        changes = sorted(self.changes.items())
        what = (self.plan.group.id, self.key, self.event_time_us, self.ttl_us, self.stores)
        return repr((*what, changes)).encode()


def prepare_update(
    plan: Plan,
    catalog_version: int,
    key: Any,
    changes: Mapping[str, Any],
    now_us: int,
    *,
    ttl_us: int | None,
    stores: int,
    tz: str | tzinfo | None,
) -> Update:
    """Check a change before anything is locked.

    Raises
    ------
    InvalidRecord, InvalidEventTime, UnknownFeature
        With what is wrong with it.
    """
    group = plan.group
    require_online(group)
    if not stores & STORE_ONLINE:
        raise InvalidInput("An update changes the online record; target_stores must have it.")
    if not isinstance(changes, Mapping) or not changes:
        raise InvalidRecord(
            f'An update of "{group.name}" is a dict of the features that change, not empty.'
        )
    checked: dict[str, Physical | None] = {}
    event_time_us = None
    for name, value in changes.items():
        if name not in plan.known_names:
            raise UnknownFeature(
                f'"{name}" is no feature of "{group.name}".{did_you_mean(str(name), plan.names)}'
            )
        if name in group.record_identifier:
            raise InvalidRecord(
                f'"{name}" identifies the record and cannot change; put a new record instead.'
            )
        if name == group.event_time:
            event_time_us = given_event_time_us(group, value, tz)
            continue
        dtype = group.feature(name).dtype
        checked[name] = None if is_null(value) else dtype.check(value, name, tz=tz)
    refusal = None if event_time_us is None else future_refusal(group, event_time_us, now_us)
    key_bytes, _ = plan.key(key)
    return Update(
        plan, catalog_version, key_bytes, checked, event_time_us, ttl_us, stores, now_us, refusal
    )


def work_of(
    update: Update, request_id: str | None
) -> Callable[[Commit], tuple[list[Outcome], bool]]:
    """Return what the writer is to do: apply the update, or give back what it came to before."""
    request = None
    if request_id is not None:
        digest = requests.content_digest(update.asked_bytes())
        request = requests.Request("update", request_id, digest)

    def work(commit: Commit) -> tuple[list[Outcome], bool]:
        env, txn = commit.env, commit.txn
        if request is not None:
            known = requests.find(env, txn, request, commit.write_time_us)
            if known is not None:
                return [Outcome(*row) for row in known], True
        if update.refusal is not None:
            raise update.refusal
        outcome = _apply(commit, update)
        if request is not None:
            requests.save(env, txn, request, commit.write_time_us, [outcome.to_json()])
        return [outcome], False

    return work


def _apply(commit: Commit, update: Update) -> Outcome:
    plan = _plan_now(commit, update)
    group = plan.group
    at = plan.lmdb_key(update.key)
    current = latest.get_at(commit.env, commit.txn, at, update.key)
    header = None if current is None else read_header(current)
    if (
        current is None
        or header is None
        or status_of(header, update.clock_us) is not Status.PRESENT
    ):
        raise RecordNotFound(
            f'"{group.name}" has no live record of this key to update. Put a whole record.'
        )
    event_time_us = _event_time_us(update, header, group.name)
    slots = plan.slots(plan.codec.decode(current), None)
    for slot, feature in enumerate(group.value_features):
        if feature.name in update.changes:
            slots[slot] = update.changes[feature.name]
    times_us = (event_time_us, _expires_at_us(update, header, event_time_us))
    return apply(commit, prepared(plan, update.key, slots, times_us, update.stores))


def _plan_now(commit: Commit, update: Update) -> Plan:
    """Return the plan by the definition of this moment: it may have grown since the check."""
    if catalog.version(commit.env, commit.txn) == update.catalog_version:
        return update.plan
    group = update.plan.group
    now = catalog.load(commit.env, commit.txn).groups.get(group.name)
    if now is None or now.id != group.id:
        raise UnknownFeatureGroup(
            f'Feature group "{group.name}" was deleted meanwhile. Nothing was stored.'
        )
    return Plan(now, update.plan.key_hash)


def _event_time_us(update: Update, header: Header, name: str) -> int:
    given = update.event_time_us
    if given is None:
        return header.event_time_us
    if given < header.event_time_us:
        raise StaleUpdate(
            f'The update of a record of "{name}" at {format_us(given)} is older than the record '
            f"itself, of {format_us(header.event_time_us)}. Nothing was changed."
        )
    return given


def _expires_at_us(update: Update, header: Header, event_time_us: int) -> int:
    if update.ttl_us is not None:
        return expires_at(event_time_us, update.ttl_us)
    if header.expires_at_us == NO_EXPIRY:
        return NO_EXPIRY
    return expires_at(event_time_us, header.expires_at_us - header.event_time_us)
