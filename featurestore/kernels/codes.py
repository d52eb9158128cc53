"""Integer keys as codes: a hash table from int64 to 0, 1, 2 … in the order keys first appear.

::

    keys     70  13  70   8      slots   ┌────┬────┬────┬────┬────┬────┬────┬────┐
    codes     0   1   0   2              │    │ 13 │    │ 70 │  8 │    │    │    │  keys
                                         │    │  1 │    │  0 │  2 │    │    │    │  and codes
                                         └────┴────┴────┴────┴────┴────┴────┴────┘
                                         open addressing, at most half full

Keys are compared themselves, so what the hash does decides speed only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from featurestore.kernels import BOOL_READ, INT64, INT64_READ, INT64_WRITE, kernel

Int64 = npt.NDArray[np.int64]

NO_CODE = -1

_SLOTS = types.Array(types.int64, 2, "C")
_SLOTS_READ = types.Array(types.int64, 2, "C", readonly=True)
_PLACE = types.UniTuple(types.int64, 2)
_MULTIPLIER = 0x4F1BBCDD  # 31 bits, odd: multiples of it spread evenly modulo 2**32
_SLOTS_MIN = 1024
_ALL = np.empty(0, np.bool_)


class CodeTable(NamedTuple):
    """The distinct keys, and where each is found.

    Attributes
    ----------
    distinct : int64[size]
        The key of each code.
    slots : int64[slots, 2]
        The hash table, keys and codes side by side; a code is ``NO_CODE`` where a slot is empty.
    """

    distinct: Int64
    slots: Int64


@kernel(INT64, INT64, returns=INT64)
def _slot_of(key: int, slots: int) -> int:
    """Return where the search for a key begins; ``slots`` is a power of two."""
    folded = (key ^ (key >> 32)) & 0xFFFF_FFFF
    return (((folded * _MULTIPLIER) & 0xFFFF_FFFF) * slots) >> 32  # no product reaches 2**63


@kernel(
    INT64_READ, BOOL_READ, INT64, INT64_WRITE, INT64_WRITE, _SLOTS, INT64,
    returns=_PLACE,
)  # fmt: skip
def _number(
    keys: Int64,
    valid: npt.NDArray[np.bool_],
    first: int,
    codes: Int64,
    distinct: Int64,
    slots: Int64,
    size: int,
) -> tuple[int, int]:
    """Give out codes from ``first`` on until the table is half full; return where, and its size."""
    count = slots.shape[0]
    for i in range(first, keys.size):
        if valid.size > 0 and not valid[i]:
            codes[i] = NO_CODE
            continue
        at = _slot_of(keys[i], count)
        while slots[at, 1] != NO_CODE and slots[at, 0] != keys[i]:
            at = (at + 1) & (count - 1)
        if slots[at, 1] == NO_CODE:
            if size == distinct.size:
                return i, size
            slots[at, 0], slots[at, 1] = keys[i], size
            distinct[size] = keys[i]
            size += 1
        codes[i] = slots[at, 1]
    return keys.size, size


def number_keys(keys: Int64, valid: npt.NDArray[np.bool_]) -> tuple[Int64, CodeTable]:
    """Return the numbers of keys, in the order they first appear.

    Parameters
    ----------
    keys : int64[n]
        The keys.
    valid : bool[n] or bool[0]
        Which of them are keys at all; empty when all are.

    Returns
    -------
    (int64[n], CodeTable)
        The code of each row, ``NO_CODE`` where there is no key, and the table to find more by.

    Examples
    --------
    >>> codes, table = number_keys(np.array([70, 13, 70, 8]), np.empty(0, np.bool_))
    >>> codes.tolist(), table.distinct.tolist()
    ([0, 1, 0, 2], [70, 13, 8])
    >>> find_codes(table, np.array([8, 9])).tolist()
    [2, -1]
    """
    codes = np.empty(keys.size, np.int64)
    distinct, again = np.empty(0, np.int64), np.empty(0, np.int64)
    done = size = 0
    count = _SLOTS_MIN
    while True:
        table = np.empty(count // 2, np.int64), np.full((count, 2), NO_CODE)
        _, size = _number(distinct[:size], _ALL, 0, again, *table, 0)
        distinct = table[0]
        done, size = _number(keys, valid, done, codes, *table, size)
        if done == keys.size:
            return codes, CodeTable(distinct[:size].copy(), table[1])
        count *= 4
        again = np.empty(size, np.int64)


@kernel(_SLOTS_READ, INT64_READ, INT64_WRITE)
def _find(slots: Int64, keys: Int64, codes: Int64) -> None:
    count = slots.shape[0]
    for i in range(keys.size):
        at = _slot_of(keys[i], count)
        while slots[at, 1] != NO_CODE and slots[at, 0] != keys[i]:
            at = (at + 1) & (count - 1)
        codes[i] = slots[at, 1]


def find_codes(table: CodeTable, keys: Int64) -> Int64:
    """Return the code of each key, ``NO_CODE`` for one that was not numbered."""
    codes = np.empty(keys.size, np.int64)
    _find(table.slots, keys, codes)
    return codes
