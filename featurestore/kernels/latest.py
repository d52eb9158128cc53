"""Many latest records moved at once: compare with what is online, and put what is newer.

The writer's half of ``kernels.lookup``: LMDB's own functions in a loop, inside the write
transaction that the writer thread owns.  Keys come in the order of LMDB's pages, so a page is
found, copied and dirtied once for all the keys on it.  Here too: the rows of a journal entry, laid
out and found again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import types

from featurestore.kernels import BYTES_READ, INT64, INT64_READ, INT64_WRITE, kernel
from featurestore.kernels.lookup import (
    HEADER_BYTES,
    KEY_BYTES_MAX,
    NOT_FOUND,
    PREFIX_BYTES,
    SIGN,
)
from featurestore.kernels.memory import (
    call_get,
    call_put,
    copy_bytes,
    load_i64,
    store_big_endian,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

#: What is returned for a record too short to be one; every code of LMDB's is another number.
CORRUPT = 1 << 30
NEVER_US = int(np.iinfo(np.int64).min)


@kernel(
    INT64, INT64, INT64, INT64, INT64, BYTES_READ, INT64_READ, INT64_READ, INT64_READ, BYTES_READ,
    INT64_READ, INT64_WRITE, returns=types.int64,
)  # fmt: skip
def move_latest(
    get: int,
    put: int,
    txn: int,
    database: int,
    group_id: int,
    keys: Bytes,
    key_offsets: Int64s,
    hashes: Int64s,
    event_time_us: Int64s,
    records: Bytes,
    record_offsets: Int64s,
    before_us: Int64s,
) -> int:
    """Put records online, each unless what is there is newer.

    Parameters
    ----------
    get, put, txn, database : int
        ``mdb_get``, ``mdb_put``, a writing ``MDB_txn *`` and an ``MDB_dbi``.
    group_id : int
        The feature group.
    keys, key_offsets : uint8[], int64[n + 1]
        Key bytes end to end, none longer than LMDB takes; in file order, none twice.
    hashes : int64[n]
        Of the keys.
    event_time_us : int64[n]
        Of the records.
    records, record_offsets : uint8[], int64[n + 1]
        Stamped records end to end.
    before_us : int64[n]
        Filled: the event time that was online before; `NEVER_US` where nothing was.

    Returns
    -------
    int
        0, or LMDB's code, or `CORRUPT`; then the transaction must be abandoned.
    """
    wanted = np.empty(KEY_BYTES_MAX, np.uint8)
    vals = np.empty(4, np.int64)  # two MDB_val: size and address of the key, then of the value
    for j in range(4):
        wanted[j] = (group_id >> (24 - 8 * j)) & 0xFF
    for i in range(len(hashes)):
        size = key_offsets[i + 1] - key_offsets[i]
        # Addresses are taken anew for each key: an array that a loop does not name is freed early.
        wanted_at, key_val = wanted.ctypes.data, vals.ctypes.data
        value_val = key_val + 16
        store_big_endian(wanted_at + 4, np.uint64(hashes[i]) ^ SIGN)
        copy_bytes(wanted_at + PREFIX_BYTES, keys.ctypes.data + key_offsets[i], size)
        vals[0] = PREFIX_BYTES + size
        vals[1] = wanted_at
        before_us[i] = NEVER_US
        code = call_get(get, txn, database, key_val, value_val)
        if code == 0:
            if vals[2] < HEADER_BYTES:
                return CORRUPT
            before_us[i] = load_i64(vals[3] + 24)
        elif code != NOT_FOUND:
            return int(code)
        if event_time_us[i] >= before_us[i]:
            vals[2] = record_offsets[i + 1] - record_offsets[i]
            vals[3] = records.ctypes.data + record_offsets[i]
            code = call_put(put, txn, database, key_val, value_val)
            if code != 0:
                return int(code)
    return 0


@kernel(
    BYTES_READ, INT64_READ, INT64_READ, BYTES_READ, INT64_READ, INT64, INT64, INT64,
    types.uint8[::1], returns=types.int64,
)  # fmt: skip
def journal_bytes(
    keys: Bytes,
    key_offsets: Int64s,
    codes: Int64s,
    records: Bytes,
    record_offsets: Int64s,
    start: int,
    stop: int,
    at: int,
    entry: Bytes,
) -> int:
    """Write the rows of one journal entry, ``u16 key length | key | record``, one after the other.

    Parameters
    ----------
    keys, key_offsets : uint8[], int64[k + 1]
        Distinct keys end to end.
    codes : int64[n]
        Key of each row.
    records, record_offsets : uint8[], int64[n + 1]
        Stamped records end to end.
    start, stop : int
        The rows of this entry.
    at : int
        Byte of ``entry`` to begin at.
    entry : uint8[]
        Filled; long enough.

    Returns
    -------
    int
        The byte after the last.
    """
    base, keys_at, records_at = entry.ctypes.data, keys.ctypes.data, records.ctypes.data
    for i in range(start, stop):
        key_at = key_offsets[codes[i]]
        key_bytes = key_offsets[codes[i] + 1] - key_at
        entry[at] = key_bytes & 0xFF
        entry[at + 1] = key_bytes >> 8
        copy_bytes(base + at + 2, keys_at + key_at, key_bytes)
        at += 2 + key_bytes
        record_bytes = record_offsets[i + 1] - record_offsets[i]
        copy_bytes(base + at, records_at + record_offsets[i], record_bytes)
        at += record_bytes
    return int(at)


@kernel(BYTES_READ, INT64, INT64_WRITE, INT64_WRITE, INT64_WRITE, INT64_WRITE, returns=types.int64)
def journal_rows(
    entry: Bytes,
    at: int,
    key_starts: Int64s,
    key_lengths: Int64s,
    record_starts: Int64s,
    record_lengths: Int64s,
) -> int:
    """Find the rows of a journal entry: what :func:`journal_bytes` wrote.

    Parameters
    ----------
    entry : uint8[]
        The whole entry.
    at : int
        Where its first row begins.
    key_starts, key_lengths, record_starts, record_lengths : int64[n]
        Filled, for as many rows as they have room for.

    Returns
    -------
    int
        The byte after the last row; -1 where a row reaches beyond the entry or is no record.
    """
    size = entry.size
    for i in range(key_starts.size):
        if at + 2 > size:
            return -1
        key_bytes = int(entry[at]) | int(entry[at + 1]) << 8
        record = at + 2 + key_bytes
        if record + HEADER_BYTES > size:
            return -1
        record_bytes = 0
        for byte in range(4):
            record_bytes |= int(entry[record + 4 + byte]) << (8 * byte)
        if record_bytes < HEADER_BYTES or record_bytes % 8 or record + record_bytes > size:
            return -1
        key_starts[i], key_lengths[i] = at + 2, key_bytes
        record_starts[i], record_lengths[i] = record, record_bytes
        at = record + record_bytes
    return int(at)
