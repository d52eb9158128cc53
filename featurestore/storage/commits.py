"""The commit log: ``last seq of a commit -> its time``.  Its last row is the store's state.

``seq`` numbers every accepted record of the store in commit order, so a ``seq`` names one moment
of the whole store: everything at or below it, nothing after.  The row written by a commit is
also the counter and the clock for the next one; there is no second place that could disagree.

::

    key    u64 big endian   last seq of the commit
    value  i64              commit time, microseconds; never smaller than the row before
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.storage.environment import Environment, Transaction

_KEY = struct.Struct(">Q")
_VALUE = struct.Struct("<q")


def last(env: Environment, txn: Transaction) -> tuple[int, int]:
    """Return the last ``(seq, commit_time_us)``; ``(0, smallest time)`` in a new store."""
    with txn.cursor(db=env.commits) as cursor:
        if not cursor.last():
            return 0, -(2**63)
        return _KEY.unpack(cursor.key())[0], _VALUE.unpack(cursor.value())[0]


def append(env: Environment, txn: Transaction, last_seq: int, commit_time_us: int) -> None:
    """Add the row of the commit under way."""
    txn.put(_KEY.pack(last_seq), _VALUE.pack(commit_time_us), append=True, db=env.commits)


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
            row_seq = int(_KEY.unpack(cursor.key())[0])
            if _VALUE.unpack(cursor.value())[0] <= time_us:
                low = row_seq
            else:
                high = middle - 1
        return low


def time_after(env: Environment, txn: Transaction, seq: int) -> int | None:
    """Return the time of the first commit after a seq; None if it is the last."""
    with txn.cursor(db=env.commits) as cursor:
        if not cursor.set_range(_KEY.pack(seq + 1)):
            return None
        return int(_VALUE.unpack(cursor.value())[0])


def rows(env: Environment, txn: Transaction) -> list[tuple[int, int]]:
    """Return all rows in order, for ``verify``."""
    with txn.cursor(db=env.commits) as cursor:
        return [(_KEY.unpack(k)[0], _VALUE.unpack(v)[0]) for k, v in cursor]
