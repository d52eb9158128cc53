"""The online store: the newest record of each key.

::

    key    u32 group | u64 key hash | key bytes      (encoding.keys.lmdb_key)
    value  record bytes                              (encoding.values)
           + the full key, where it was too long for an LMDB key

    meta    keys/<group id>    how many keys of the group are there      (a counter of the catalog)

A tombstone or a fence is a record without payload and stays under its key, so that a put older
than a delete is still recognised as late.  Keys are in the order of the history files, so a bulk
load touches pages in order.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from featurestore.encoding.keys import lmdb_key
from featurestore.encoding.values import read_header
from featurestore.errors import CorruptStore
from featurestore.storage import catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurestore.storage.environment import Environment, Transaction

_U32 = struct.Struct(">I")
_EVENT_TIME = struct.Struct("<q")
_EVENT_TIME_AT = 24
PREFIX_BYTES = 12  # group and key hash
KEY_INLINE_BYTES_MAX = 448


def get(
    env: Environment, txn: Transaction, group_id: int, key_hash: int, key: bytes
) -> bytes | None:
    """Return the record of a key, or None."""
    return get_at(env, txn, lmdb_key(group_id, key_hash, key), key)


def get_at(env: Environment, txn: Transaction, at: bytes, key: bytes) -> bytes | None:
    """Return the record of a key that lies at an LMDB key, or None."""
    value = txn.get(at, None, env.latest)
    if value is None:
        return None
    if len(key) > KEY_INLINE_BYTES_MAX:
        _check_long_key(value, key)
    return bytes(value)


def event_time_us(record: bytes) -> int:
    """Return the event time of a record, of which the rest need not be looked at."""
    return int(_EVENT_TIME.unpack_from(record, _EVENT_TIME_AT)[0])


def put(
    env: Environment, txn: Transaction, group_id: int, key_hash: int, key: bytes, record: bytes
) -> None:
    """Replace the record of a key."""
    put_at(env, txn, lmdb_key(group_id, key_hash, key), key, record)


def put_at(env: Environment, txn: Transaction, at: bytes, key: bytes, record: bytes) -> None:
    """Replace the record of a key that lies at an LMDB key."""
    value = record + key if len(key) > KEY_INLINE_BYTES_MAX else record
    txn.put(at, value, True, True, False, env.latest)


def scan(
    env: Environment, txn: Transaction, group_id: int, *, after: bytes = b"", limit: int = 2**62
) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield ``(position, key, record)`` in key-hash order, after a position of an earlier scan."""
    prefix = _U32.pack(group_id)
    with txn.cursor(db=env.latest) as cursor:
        start = prefix + after
        if not cursor.set_range(start):
            return
        if after and bytes(cursor.key()) == start and not cursor.next():
            return
        for position, value in cursor:
            if limit <= 0 or position[:4] != prefix:
                return
            limit -= 1
            at, record = bytes(position), bytes(value)
            yield at[4:], _full_key(at, record), record


def delete_some(env: Environment, txn: Transaction, group_id: int, limit: int) -> bool:
    """Delete up to ``limit`` records of a dropped group; returns whether some may be left."""
    prefix = _U32.pack(group_id)
    with txn.cursor(db=env.latest) as cursor:
        for _ in range(limit):
            if not cursor.set_range(prefix) or cursor.key()[:4] != prefix:
                return False
            cursor.delete()
    return True


def count(env: Environment, txn: Transaction, group_id: int) -> int:
    """Return how many keys a group has, tombstones and fences included; kept, not counted."""
    return catalog.counter(env, txn, _counter(group_id))


def count_more(env: Environment, txn: Transaction, group_id: int, more: int) -> None:
    """Note that a group has so many keys more, or fewer."""
    known = catalog.counter(env, txn, _counter(group_id))
    catalog.put_counter(env, txn, _counter(group_id), known + more)


def drop_count(env: Environment, txn: Transaction, group_id: int) -> None:
    """Forget the number of keys of a dropped group."""
    txn.delete(_counter(group_id), db=env.meta)


def delete_at(env: Environment, txn: Transaction, at: bytes) -> bool:
    """Delete the record at an LMDB key; returns whether there was one."""
    return bool(txn.delete(at, db=env.latest))


def _counter(group_id: int) -> bytes:
    return b"keys/%d" % group_id


def _full_key(position: bytes, value: bytes) -> bytes:
    key = position[PREFIX_BYTES:]
    return value[read_header(value).length :] if key[:1] == b"\xff" else key


def _check_long_key(value: bytes, key: bytes) -> None:
    if bytes(value[read_header(value).length :]) != key:
        raise CorruptStore(
            "The online store holds another key under the digest of a long key. "
            "Run `featurestore verify`."
        )
