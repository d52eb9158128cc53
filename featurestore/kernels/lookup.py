"""Many keys to columns: LMDB asked in a loop, and records taken apart where they lie.

::

    keys ──hash──▶ order ──find──▶ addresses of records, statuses, event times     (one call)
                                        │
              Arrow buffers ◀──decode───┘   fixed columns, and where the texts end  (one call)
                    ▲                   │
                    └──copy_heap────────┘   texts and vectors                       (one call)

Keys are asked for in the order of their hashes, which is the order of LMDB's pages: neighbours
share the pages above them.  A record is checked (length, checksum over key and record) before
anything of it is believed, and a bad one makes a kernel stop and name the row; the caller then
goes the plain way, which says what is wrong with it.

The three that follow LMDB's pointers keep the GIL: while it is held, nobody can close the store.

The layout of a record is that of ``encoding.values``; its words are read at any byte, since LMDB
aligns to two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import types

from featurestore.kernels import BYTES_READ, INT64, INT64_READ, kernel
from featurestore.kernels.hashing import crc32_at
from featurestore.kernels.memory import (
    call_get,
    copy_bytes,
    load_i64,
    load_u8,
    load_u32,
    prefetch,
    store_big_endian,
    store_i32,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

PRESENT, EXPIRED, DELETED, MISSING = range(4)

#: Row of a bad record when there is none.
NO_ROW = -1

#: What a column of `decode` holds: 8, 4, 2 or 1 bytes of the slot, a bit, a heap value whose end
#: is noted, or a vector.
FIXED_8, FIXED_4, FIXED_2, FIXED_1, BIT, HEAP, VECTOR = range(7)
#: Its numbers: feature slot, kind, byte of the values and of the validity bits in the output,
#: smallest and greatest value, bytes of a vector.
COLUMN_NUMBERS = 7

NOT_FOUND = -30798  # MDB_NOTFOUND
KEY_BYTES_MAX = 511
PREFIX_BYTES = 12
HEADER_BYTES = 48
_PREFETCH_BYTES_MAX = 512
_FLAGS_KNOWN = 7
_DELETED, _FENCE = 1, 4
SIGN = np.uint64(1 << 63)

_INT64_2D = types.Array(types.int64, 2, "C", readonly=True)
_INT8S = types.int8[::1]
_INT64S = types.int64[::1]
_BYTES = types.uint8[::1]


@kernel(
    INT64, INT64, INT64, INT64, BYTES_READ, INT64_READ, INT64_READ, INT64_READ, INT64, INT64,
    _INT64S, _INT8S, _INT64S, returns=types.int64, nogil=False,
)  # fmt: skip
def find(
    get: int,
    txn: int,
    database: int,
    group_id: int,
    keys: Bytes,
    offsets: Int64s,
    hashes: Int64s,
    order: Int64s,
    clock_us: int,
    max_age_us: int,
    addresses: Int64s,
    statuses: NDArray[np.int8],
    event_time_us: Int64s,
) -> int:
    """Find the latest records of keys.

    Parameters
    ----------
    get, txn, database : int
        ``mdb_get``, an ``MDB_txn *`` and an ``MDB_dbi``.
    group_id : int
        The feature group.
    keys, offsets : uint8[offsets[n]], int64[n + 1]
        Key bytes end to end; none longer than LMDB takes.  An empty one is null.
    hashes : int64[n]
        Of the keys.
    order : int64[m]
        The rows to look up, in this order.
    clock_us, max_age_us : int
        Decide whether a record is expired, or too old, which reads the same.
    addresses : int64[n]
        Filled: where each record lies; 0 where there is none.
    statuses : int8[n]
        Filled: PRESENT, EXPIRED, DELETED or MISSING.
    event_time_us : int64[n]
        Filled: 0 where MISSING.

    Returns
    -------
    int
        `NO_ROW`, or the first row whose record is bad.
    """
    wanted = np.empty(KEY_BYTES_MAX, np.uint8)
    vals = np.empty(4, np.int64)  # two MDB_val: size and address of the key, then of the value
    for j in range(4):
        wanted[j] = (group_id >> (24 - 8 * j)) & 0xFF
    for i in order:
        size = offsets[i + 1] - offsets[i]
        addresses[i] = 0
        if size == 0:
            continue
        if size > KEY_BYTES_MAX - PREFIX_BYTES:
            return int(i)
        # Addresses are taken anew for each key: an array that a loop does not name is freed early.
        wanted_at, key_val = wanted.ctypes.data, vals.ctypes.data
        store_big_endian(wanted_at + 4, np.uint64(hashes[i]) ^ SIGN)
        copy_bytes(wanted_at + PREFIX_BYTES, keys.ctypes.data + offsets[i], size)
        vals[0] = PREFIX_BYTES + size
        vals[1] = wanted_at
        code = call_get(get, txn, database, key_val, key_val + 16)
        if code == NOT_FOUND:
            continue
        if code != 0 or vals[2] < HEADER_BYTES:
            return int(i)
        # The record comes into the cache while the next key is looked for.
        for line in range(0, min(vals[2], _PREFETCH_BYTES_MAX), 64):
            prefetch(vals[3] + line)
        addresses[i] = vals[3]
        event_time_us[i] = vals[2]
    for i in order:
        at, stored_bytes = addresses[i], event_time_us[i]
        statuses[i] = MISSING
        event_time_us[i] = 0
        if at == 0:
            continue
        length = int(load_u32(at + 4))
        if length < HEADER_BYTES or length > stored_bytes or length & 7:
            return int(i)
        crc = crc32_at(np.uint32(0), keys.ctypes.data + offsets[i], offsets[i + 1] - offsets[i])
        if crc32_at(crc, at + 4, length - 4) != load_u32(at):
            return int(i)
        flags = load_u8(at + 10)
        event_us = load_i64(at + 24)
        event_time_us[i] = event_us
        if flags & _DELETED:
            statuses[i] = DELETED
        elif (
            flags & _FENCE
            or load_i64(at + 40) <= clock_us
            # Event times lie within the years 1 to 9999: their difference cannot wrap.
            or clock_us - event_us > max_age_us
        ):
            statuses[i] = EXPIRED
        else:
            statuses[i] = PRESENT
    return NO_ROW


@kernel(
    INT64_READ, types.Array(types.int8, 1, "C", readonly=True), INT64, INT64, INT64_READ,
    _INT64_2D, _BYTES, _INT64S, _INT64S, returns=types.int64, nogil=False,
)  # fmt: skip
def decode(
    addresses: Int64s,
    statuses: NDArray[np.int8],
    start: int,
    stop: int,
    slots_at: Int64s,
    columns: NDArray[np.int64],
    out: Bytes,
    nulls: Int64s,
    heap_bytes: Int64s,
) -> int:
    """Take the features of rows ``start`` to ``stop`` out of their records.

    Parameters
    ----------
    addresses, statuses : int64[n], int8[n]
        From `find`; only PRESENT records have values.
    slots_at : int64[versions + 1]
        How many slots a record of each schema version has.
    columns : int64[c, COLUMN_NUMBERS]
        What to take, and where in ``out`` it goes.
    out : uint8[]
        Values, ends of heap values (int32) and validity bits of every column; zeros before.
    nulls, heap_bytes : int64[c]
        Counted on: nulls, and bytes of heap values.

    Returns
    -------
    int
        `NO_ROW`, or the first row whose record is bad.
    """
    base = out.ctypes.data
    for i in range(start, stop):
        at = addresses[i]
        live = statuses[i] == PRESENT
        slots = 0
        first_slot = at
        heap = 0
        length = 0
        if live:
            about = load_i64(at + 8)
            version = about & 0xFFFF
            if version == 0 or version >= len(slots_at) or about >> 32 != 0:
                return int(i)
            if (about >> 16) & 0xFF & ~_FLAGS_KNOWN:
                return int(i)
            slots = slots_at[version]
            first_slot = at + HEADER_BYTES + 8 * ((slots + 63) >> 6)
            heap = first_slot - at + 8 * slots
            length = int(load_u32(at + 4))
            if length < heap:
                return int(i)
        for c in range(columns.shape[0]):
            slot, kind = columns[c, 0], columns[c, 1]
            values = base + columns[c, 2]
            is_null = True
            if live and slot < slots:
                bits = load_i64(at + HEADER_BYTES + 8 * (slot >> 6))
                is_null = (bits >> (slot & 63)) & 1 != 0
            if is_null:
                nulls[c] += 1
                if kind == HEAP:
                    store_i32(values + 4 * (i + 1), heap_bytes[c])
                continue
            out[columns[c, 3] + (i >> 3)] |= np.uint8(1 << (i & 7))
            word = load_i64(first_slot + 8 * slot)
            if kind == FIXED_8:
                if word < columns[c, 4] or word > columns[c, 5]:
                    return int(i)
                copy_bytes(values + 8 * i, first_slot + 8 * slot, 8)
            elif kind == FIXED_4:
                if word < columns[c, 4] or word > columns[c, 5]:
                    return int(i)
                copy_bytes(values + 4 * i, first_slot + 8 * slot, 4)
            elif kind == FIXED_2:
                copy_bytes(values + 2 * i, first_slot + 8 * slot, 2)
            elif kind == FIXED_1:
                copy_bytes(values + i, first_slot + 8 * slot, 1)
            elif kind == BIT:
                if word & 0xFF:
                    out[columns[c, 2] + (i >> 3)] |= np.uint8(1 << (i & 7))
            else:
                begin, size = word & 0xFFFFFFFF, (word >> 32) & 0xFFFFFFFF
                if begin < heap or begin + size > length:
                    return int(i)
                if kind == HEAP:
                    heap_bytes[c] += size
                    store_i32(values + 4 * (i + 1), heap_bytes[c])
                elif size != columns[c, 6]:
                    return int(i)
                else:
                    copy_bytes(values + size * i, at + begin, size)
    return NO_ROW


@kernel(
    INT64_READ, types.Array(types.int8, 1, "C", readonly=True), INT64, INT64, INT64_READ,
    INT64, BYTES_READ, _BYTES, nogil=False,
)  # fmt: skip
def copy_heap(
    addresses: Int64s,
    statuses: NDArray[np.int8],
    start: int,
    stop: int,
    slots_at: Int64s,
    slot: int,
    ends: Bytes,
    data: Bytes,
) -> None:
    """Copy the heap values of one column, after `decode` has found where they end.

    Parameters
    ----------
    addresses, statuses, start, stop, slots_at
        As `decode` was given.
    slot : int
        Of the feature.
    ends : uint8[4 * (n + 1)]
        Its offsets, int32, as filled by `decode`.
    data : uint8[]
        Filled.
    """
    ends_at, data_at = ends.ctypes.data, data.ctypes.data
    for i in range(start, stop):
        begin = np.int64(load_u32(ends_at + 4 * i))
        size = np.int64(load_u32(ends_at + 4 * (i + 1))) - begin
        if size and statuses[i] == PRESENT:
            at = addresses[i]
            slots = slots_at[load_i64(at + 8) & 0xFFFF]
            word = load_i64(at + HEADER_BYTES + 8 * ((slots + 63) >> 6) + 8 * slot)
            copy_bytes(data_at + begin, at + (word & 0xFFFFFFFF), size)


_NAMES = np.frombuffer(b"PRESENTEXPIREDDELETEDMISSING", np.uint8)


@kernel(types.Array(types.int8, 1, "C", readonly=True), types.int32[::1], _BYTES, returns=INT64)
def status_names(statuses: NDArray[np.int8], offsets: NDArray[np.int32], data: Bytes) -> int:
    """Write statuses as text; each is seven letters long.

    Parameters
    ----------
    statuses : int8[n]
        From `find`.
    offsets : int32[n + 1]
        Filled, for an Arrow string array.
    data : uint8[7 * n]
        Filled.

    Returns
    -------
    int
        How many rows are MISSING.
    """
    missing = 0
    for i in range(len(statuses)):
        offsets[i + 1] = 7 * (i + 1)
        missing += statuses[i] == MISSING
        for j in range(7):
            data[7 * i + j] = _NAMES[7 * statuses[i] + j]
    return missing
