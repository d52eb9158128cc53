"""The journal: accepted records that no history file holds yet.

One entry holds the records that one commit added to one group::

    key    u32 group | u64 first seq                         big endian
    value  u32 crc32 of the key and of what follows          little endian
           u32 count | u64 last seq | then for each record:
             u16 key length | key bytes | record bytes (their length is in their header)

The checksum is looked at before an entry is read, skipped as drained or deleted as drained; only
:func:`tail`, which counts, goes by the head alone.  Rows at or below the group's ``drained_seq``
are in a file already; readers skip them, and they are deleted a few at a time, because a large
delete needs room just when there is none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from featurestore.encoding.values import HEADER, read_header
from featurestore.errors import CorruptStore
from featurestore.event_time import NO_EXPIRY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from featurestore.encoding.runs import Runs
    from featurestore.storage.environment import Environment, Transaction

_GROUP = struct.Struct(">I")
_KEY = struct.Struct(">IQ")
_HEAD = struct.Struct("<IIQ")
_CRC_BYTES = 4
_COUNT_AND_LAST = struct.Struct("<IQ")
_KEY_LENGTH = struct.Struct("<H")
HEAD_BYTES = _HEAD.size
_ROW_BYTES_MIN = _KEY_LENGTH.size + HEADER.size
#: Larger batches are split into several entries, so that deleting one never needs much room.
ENTRY_BYTES_MAX = 1 << 20


def append(
    env: Environment, txn: Transaction, group_id: int, rows: Sequence[tuple[int, bytes, bytes]]
) -> None:
    """Add ``(seq, key, record)`` rows of one group, in seq order."""
    start = 0
    while start < len(rows):
        parts: list[bytes] = []
        size = 0
        end = start
        while end < len(rows) and (size < ENTRY_BYTES_MAX or end == start):
            _, key, record = rows[end]
            parts += (_KEY_LENGTH.pack(len(key)), key, record)
            size += 2 + len(key) + len(record)
            end += 1
        at = _KEY.pack(group_id, rows[start][0])
        body = _COUNT_AND_LAST.pack(end - start, rows[end - 1][0]) + b"".join(parts)
        txn.put(at, _checksum(at, body) + body, db=env.journal)
        start = end


def put_entry(
    env: Environment,
    txn: Transaction,
    group_id: int,
    first_seq: int,
    last_seq: int,
    count: int,
    entry: memoryview,
) -> None:
    """Add an entry whose rows are laid out already, after `HEAD_BYTES` left free for the head."""
    at = _KEY.pack(group_id, first_seq)
    _COUNT_AND_LAST.pack_into(entry, _CRC_BYTES, count, last_seq)
    entry[:_CRC_BYTES] = _checksum(at, entry[_CRC_BYTES:])
    txn.put(at, entry, db=env.journal)


def _checksum(key: bytes, body: bytes | memoryview) -> bytes:
    return crc32(body, crc32(key)).to_bytes(_CRC_BYTES, "little")


def check(key: bytes, value: bytes) -> tuple[int, int]:
    """Return count and last seq of an entry; raise ``CorruptStore`` for any other bytes."""
    if len(value) >= _HEAD.size and value[:_CRC_BYTES] == _checksum(key, value[_CRC_BYTES:]):
        _, count, last_seq = _HEAD.unpack_from(value)
        return count, last_seq
    group_id, first_seq = _KEY.unpack(key) if len(key) == _KEY.size else (key.hex(" "), "?")
    raise CorruptStore(
        f"Journal entry {group_id}/{first_seq} fails its checksum. Run `featurestore verify`, and "
        "restore the store from a backup."
    )


def _values(
    env: Environment, txn: Transaction, group_id: int, after_seq: int
) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield ``(first seq, last seq, count, value)`` of entries that reach beyond ``after_seq``."""
    with txn.cursor(db=env.journal) as cursor:
        if not _go_to(cursor, group_id, after_seq):
            return
        for key, value in cursor:
            owner, first_seq = _KEY.unpack(key)
            if owner != group_id:
                return
            if len(value) < _HEAD.size:
                check(bytes(key), bytes(value))
            _, count, last_seq = _HEAD.unpack_from(value)
            if last_seq > after_seq:
                yield first_seq, last_seq, count, value
            else:
                check(bytes(key), value)  # it is believed that there is nothing to be read


def _go_to(cursor: Any, group_id: int, after_seq: int) -> bool:
    """Move to the first entry that may reach beyond a seq; returns whether there is one.

    Entries do not overlap, so of those that begin at or before it only the last one may.
    """
    found = cursor.set_range(_KEY.pack(group_id, after_seq + 1))
    if (cursor.prev() if found else cursor.last()) and cursor.key()[:4] == _GROUP.pack(group_id):
        return True
    return bool(cursor.set_range(_KEY.pack(group_id, 0)))


def entries(
    env: Environment, txn: Transaction, group_id: int, after_seq: int = 0
) -> Iterator[tuple[int, int, bytes]]:
    """Yield ``(first seq, last seq, body)`` of entries that reach beyond ``after_seq``."""
    for first_seq, last_seq, _, value in _values(env, txn, group_id, after_seq):
        body = bytes(value)
        check(_KEY.pack(group_id, first_seq), body)
        yield first_seq, last_seq, body


def read(
    env: Environment,
    txn: Transaction,
    group_id: int,
    after_seq: int,
    *,
    limit: int = 2**62,
    upto_seq: int = 2**62,
) -> tuple[Runs, Runs, int]:
    """Read whole entries beyond ``after_seq`` until ``limit`` records are reached.

    Entries that begin after ``upto_seq`` are left alone.

    Returns
    -------
    keys, records : Runs
        In seq order.
    last_seq : int
        The last seq read; ``after_seq`` if there was nothing.
    """
    from featurestore.encoding.runs import joined_runs

    parts: list[tuple[Runs, Runs]] = []
    count, last_seq = 0, after_seq
    for first_seq, entry_last_seq, body in entries(env, txn, group_id, after_seq):
        if first_seq > upto_seq or count >= limit:
            break
        parts.append(_rows(body, f"{group_id}/{first_seq}"))
        count += parts[-1][0].rows
        last_seq = entry_last_seq
    keys = joined_runs([keys for keys, _ in parts])
    return keys, joined_runs([records for _, records in parts]), last_seq


def _rows(body: bytes, place: str) -> tuple[Runs, Runs]:
    """Return the keys and the records of an entry's value."""
    from featurestore.encoding.runs import copied_runs, runs_of, worth_compiling

    count = _HEAD.unpack_from(body)[1]
    if worth_compiling(count) and len(body) >= HEAD_BYTES + _ROW_BYTES_MIN * count:
        import numpy as np

        from featurestore.kernels.latest import journal_rows

        entry, found = np.frombuffer(body, np.uint8), np.empty((4, count), np.int64)
        if journal_rows(entry, HEAD_BYTES, *found) == len(body):
            return copied_runs(entry, *found[:2]), copied_runs(entry, *found[2:])
    pairs = list(split(body, place))
    return runs_of([key for key, _ in pairs]), runs_of([record for _, record in pairs])


def split(body: bytes, place: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the ``(key, record)`` pairs of an entry's value; any other bytes are refused."""
    if len(body) < _HEAD.size:
        raise CorruptStore(f"Journal entry {place} is cut short.")
    count = _HEAD.unpack_from(body)[1]
    view = memoryview(body)
    at = _HEAD.size
    for _ in range(count):
        if at + _KEY_LENGTH.size > len(body):
            raise CorruptStore(f"Journal entry {place} is cut short.")
        key_end = at + _KEY_LENGTH.size + _KEY_LENGTH.unpack_from(body, at)[0]
        record_end = key_end + read_header(view[key_end:]).length
        if record_end > len(body):
            raise CorruptStore(f"Journal entry {place} is cut short.")
        yield body[at + _KEY_LENGTH.size : key_end], body[key_end:record_end]
        at = record_end
    if at != len(body):
        raise CorruptStore(f"Journal entry {place} has {len(body) - at} bytes too many.")


def erase(env: Environment, txn: Transaction, group_id: int, key: bytes) -> list[int]:
    """Take the records of a key out of all entries, drained ones too; returns their seqs."""
    erased: list[int] = []
    spelled = _KEY_LENGTH.pack(len(key)) + key
    places = []
    with txn.cursor(db=env.journal) as cursor:
        if cursor.set_range(_KEY.pack(group_id, 0)):
            for at, value in cursor:
                if at[:4] != _GROUP.pack(group_id):
                    break
                if spelled in bytes(value):
                    places.append((bytes(at), bytes(value)))
    for at, value in places:
        check(at, value)
        pairs = list(split(value, f"{group_id}/{_KEY.unpack(at)[1]}"))
        rows = [(read_header(record).seq, owner, record) for owner, record in pairs]
        seqs = [seq for seq, owner, _ in rows if owner == key]
        if seqs:
            txn.delete(at, db=env.journal)
            append(env, txn, group_id, [row for row in rows if row[1] != key])
            erased += seqs
    return erased


def delete_drained(
    env: Environment, txn: Transaction, group_id: int, drained_seq: int, limit: int = 64
) -> bool:
    """Delete up to ``limit`` entries at or below ``drained_seq``; returns whether more are left."""
    with txn.cursor(db=env.journal) as cursor:
        for _ in range(limit):
            if not cursor.set_range(_KEY.pack(group_id, 0)):
                return False
            key = cursor.key()
            if key[:4] != _GROUP.pack(group_id) or check(key, cursor.value())[1] > drained_seq:
                return False
            cursor.delete()
    return True


@dataclass(frozen=True, slots=True)
class Tail:
    """How much of a group's journal no file holds.

    Attributes
    ----------
    rows, size_bytes : int
        Records, and the bytes of their entries.
    first_time_us : int
        When the oldest of them was written; far in the future if there are none.
    last_seq : int
        The last of them; what was counted from, if there are none.
    """

    rows: int = 0
    size_bytes: int = 0
    first_time_us: int = NO_EXPIRY
    last_seq: int = 0

    def __add__(self, later: Tail) -> Tail:
        """Return the two as one stretch."""
        first_us = min(self.first_time_us, later.first_time_us)
        size_bytes = self.size_bytes + later.size_bytes
        return Tail(self.rows + later.rows, size_bytes, first_us, later.last_seq)


def tail(env: Environment, txn: Transaction, group_id: int, after_seq: int) -> Tail:
    """Measure the records beyond ``after_seq`` by the heads of their entries.

    In a transaction with ``buffers=True`` nothing else is even read.
    """
    rows = size_bytes = 0
    first_time_us = NO_EXPIRY
    last_seq = after_seq
    for _, last_seq, count, value in _values(env, txn, group_id, after_seq):  # noqa: B007
        if rows == 0:
            first_time_us = _first_time_us(value)
        rows += count
        size_bytes += len(value)
    return Tail(rows, size_bytes, first_time_us, last_seq)


def _first_time_us(value: bytes) -> int:
    key_end = _HEAD.size + _KEY_LENGTH.size + _KEY_LENGTH.unpack_from(value, _HEAD.size)[0]
    return read_header(memoryview(value)[key_end:]).write_time_us
