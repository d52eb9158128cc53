"""The commit log: ``last seq of a commit -> its time``.  Its last row is the store's state.

``seq`` numbers every accepted record of the store in commit order, so a ``seq`` names one moment
of the whole store: everything at or below it, nothing after.  The row written by a commit is
also the counter and the clock for the next one; there is no second place that could disagree.

::

    key    u64 big endian   last seq of the commit
    value  i64              commit time, microseconds; never smaller than the row before
           u32              crc32 of the key and of that time
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from zlib import crc32

from featurestore.errors import CorruptStore

if TYPE_CHECKING:
    from featurestore.storage.environment import Environment, Transaction

_KEY = struct.Struct(">Q")
_VALUE = struct.Struct("<qI")
_TIME = struct.Struct("<q")


def last(env: Environment, txn: Transaction) -> tuple[int, int]:
    """Return the last ``(seq, commit_time_us)``; ``(0, smallest time)`` in a new store."""
    with txn.cursor(db=env.commits) as cursor:
        if not cursor.last():
            return 0, -(2**63)
        return parsed(cursor.key(), cursor.value())


def append(env: Environment, txn: Transaction, last_seq: int, commit_time_us: int) -> None:
    """Add the row of the commit under way."""
    key, time = _KEY.pack(last_seq), _TIME.pack(commit_time_us)
    txn.put(key, time + crc32(time, crc32(key)).to_bytes(4, "little"), append=True, db=env.commits)


def parsed(key: bytes, value: bytes) -> tuple[int, int]:
    """Return seq and time of a row; raise ``CorruptStore`` if it is not what was written."""
    if len(key) == _KEY.size and len(value) == _VALUE.size:
        time_us, found = _VALUE.unpack(value)
        if crc32(value[: _TIME.size], crc32(key)) == found:
            return _KEY.unpack(key)[0], time_us
    raise CorruptStore(
        f"The row {bytes(key).hex(' ')} of the commit log fails its checksum. Run `featurestore "
        "verify`, and restore the store from a backup."
    )


def seq_at(env: Environment, txn: Transaction, time_us: int) -> int:
    """Return the last seq committed at or before a time; 0 if there was none.

    Both columns only grow, so this is a binary search over seqs.
    """
    with txn.cursor(db=env.commits) as cursor:
        if not cursor.last():
            return 0
        low, high = 0, int(_KEY.unpack(cursor.key())[0])
        # Invariant: the commit of `low` is at or before time_us, that of `high + 1` is after.
        while low < high:
            middle = (low + high + 1) // 2
            cursor.set_range(_KEY.pack(middle))
            row_seq, row_time_us = parsed(cursor.key(), cursor.value())
            if row_time_us <= time_us:
                low = row_seq
            else:
                high = middle - 1
        return low


def time_after(env: Environment, txn: Transaction, seq: int) -> int | None:
    """Return the time of the first commit after a seq; None if it is the last."""
    with txn.cursor(db=env.commits) as cursor:
        if not cursor.set_range(_KEY.pack(seq + 1)):
            return None
        return parsed(cursor.key(), cursor.value())[1]
