"""Consumers: how far those who follow the changes have come, as a replication slot does it.

::

    meta    consumer/<name>    Consumer                                            (JSON)

A consumer has acknowledged every record up to its ``seq``.  Those after it are held for it: see
:func:`held_after`, which whatever deletes history by itself has to ask in the transaction that
deletes.  A limit keeps a consumer that never comes back from holding history for ever: one that
has fallen further behind is dropped, and told so when it does come back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from featurestore.errors import ConsumerDropped, CorruptStore, UnknownConsumer, did_you_mean
from featurestore.event_time import format_duration
from featurestore.storage import commits
from featurestore.storage.rows import seal, unseal

if TYPE_CHECKING:
    from featurestore.storage.environment import Environment, Transaction

_PREFIX = b"consumer/"


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer's place in the order of commits.

    Attributes
    ----------
    name : str
        As it was created.
    seq : int
        Everything up to it has been acknowledged.
    max_lag_us, max_lag_records : int or None
        How far it may fall behind: in time since the first commit it has not acknowledged, and in
        records.
    dropped : str
        Why it was dropped; empty while it is not.
    """

    name: str
    seq: int
    max_lag_us: int | None
    max_lag_records: int | None
    dropped: str = ""


def put(env: Environment, txn: Transaction, consumer: Consumer) -> None:
    """Create or replace a consumer."""
    key = _PREFIX + consumer.name.encode()
    txn.put(key, seal(key, asdict(consumer)), db=env.meta)


def delete(env: Environment, txn: Transaction, name: str) -> bool:
    """Forget a consumer; returns whether it was there."""
    return bool(txn.delete(_PREFIX + name.encode(), db=env.meta))


def every(env: Environment, txn: Transaction) -> dict[str, Consumer]:
    """Return all consumers, dropped ones too, by name."""
    found = {}
    with txn.cursor(db=env.meta) as cursor:
        if cursor.set_range(_PREFIX):
            for key, value in cursor:
                if bytes(key[: len(_PREFIX)]) != _PREFIX:
                    break
                consumer = of(bytes(key), value)
                found[consumer.name] = consumer
    return found


def of(key: bytes, row: bytes) -> Consumer:
    """Parse the row of a consumer; raise ``CorruptStore`` if it is not what was written."""
    name = key[len(_PREFIX) :].decode(errors="replace")
    try:
        return Consumer(**unseal(key, row, f'The mark of consumer "{name}"'))
    except TypeError as error:
        raise CorruptStore(f'The mark of consumer "{name}" is unreadable.') from error


def get(env: Environment, txn: Transaction, name: str) -> Consumer:
    """Return a consumer that is there and has not been dropped."""
    key = _PREFIX + name.encode()
    row = txn.get(key, db=env.meta)
    if row is None:
        known = did_you_mean(name, every(env, txn))
        raise UnknownConsumer(f'There is no consumer "{name}".{known}')
    consumer = of(key, row)
    if consumer.dropped:
        raise ConsumerDropped(
            f'Consumer "{name}" was dropped at seq {consumer.seq}: {consumer.dropped}. What came '
            "after is no longer held for it. Delete it, create it anew, and begin with a copy."
        )
    return consumer


def lag(env: Environment, txn: Transaction, consumer: Consumer, now_us: int) -> tuple[int, int]:
    """Return how far a consumer is behind: records of the store, and microseconds."""
    records = commits.last(env, txn)[0] - consumer.seq
    first_us = commits.time_after(env, txn, consumer.seq)
    return max(0, records), 0 if first_us is None else max(0, now_us - first_us)


def drop_lagging(env: Environment, txn: Transaction, now_us: int) -> None:
    """Drop the consumers that have fallen further behind than they may."""
    for consumer in every(env, txn).values():
        records, behind_us = lag(env, txn, consumer, now_us)
        reason = ""
        if consumer.max_lag_us is not None and behind_us > consumer.max_lag_us:
            limit = format_duration(consumer.max_lag_us)
            reason = f"it was {format_duration(behind_us)} behind, and its limit is {limit}"
        elif consumer.max_lag_records is not None and records > consumer.max_lag_records:
            limit = f"{consumer.max_lag_records:,}"
            reason = f"it was {records:,} records behind, and its limit is {limit}"
        if reason and not consumer.dropped:
            put(env, txn, replace(consumer, dropped=reason))


def held_after(env: Environment, txn: Transaction) -> int | None:
    """Return the seq after which some consumer needs every record; None if none does."""
    known = every(env, txn).values()
    return min((consumer.seq for consumer in known if not consumer.dropped), default=None)
