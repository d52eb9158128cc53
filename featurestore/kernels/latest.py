"""Many latest records moved at once: compare with what is online, and put what is newer.

The writer's half of ``kernels.lookup``: LMDB's own functions in a loop, inside the write
transaction that the writer thread owns.  Keys come in the order of LMDB's pages, so a page is
found, copied and dirtied once for all the keys on it.  Here too: the rows of a journal entry, laid
out and found again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types

from featurestore.kernels import BYTES_READ, INT64, INT64_READ, INT64_WRITE, kernel
from featurestore.kernels.hashing import crc32_at
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
    call_put_new,
    copy_bytes,
    load_i64,
    load_u32,
    store_big_endian,
    store_i32,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

#: What is returned for a record too short to be one; every code of LMDB's is another number.
CORRUPT = 1 << 30
_KEY_EXISTS = -30799  # MDB_KEYEXIST
NEVER_US = int(np.iinfo(np.int64).min)
BYTES_OUT = types.uint8[::1]
#: What becomes of a record that is put.
MOVED, LATE, UNCHANGED, NEW = range(4)


@njit
def _same_payload(current: Any, current_bytes: Any, record: Any) -> bool:
    """Tell whether two records differ in nothing but seq, write time and checksum."""
    length = np.int64(load_u32(record + 4))
    if np.int64(load_u32(current + 4)) != length or current_bytes < length:
        return False
    if load_i64(current + 8) != load_i64(record + 8):
        return False
    if load_i64(current + 24) != load_i64(record + 24):
        return False
    at = np.int64(40)
    while at < length and load_i64(current + at) == load_i64(record + at):
        at += 8
    return bool(at >= length)


@kernel(
    INT64, INT64, INT64, INT64, BYTES_READ, INT64_READ, INT64_READ, INT64_READ, BYTES_READ,
    INT64_READ, INT64_WRITE, returns=types.int64,
)  # fmt: skip
def move_latest(
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
    put, txn, database : int
        ``mdb_put``, a writing ``MDB_txn *`` and an ``MDB_dbi``.
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
        vals[2] = record_offsets[i + 1] - record_offsets[i]
        vals[3] = records.ctypes.data + record_offsets[i]
        before_us[i] = NEVER_US
        code = call_put_new(put, txn, database, key_val, value_val)
        if code == 0:
            continue
        if code != _KEY_EXISTS:
            return int(code)
        if vals[2] < HEADER_BYTES:
            return CORRUPT
        before_us[i] = load_i64(vals[3] + 24)
        if event_time_us[i] >= before_us[i]:
            vals[2] = record_offsets[i + 1] - record_offsets[i]
            vals[3] = records.ctypes.data + record_offsets[i]
            code = call_put(put, txn, database, key_val, value_val)
            if code != 0:
                return int(code)
    return 0


@kernel(
    INT64, INT64, INT64, INT64, INT64, BYTES_READ, INT64_READ, INT64_READ, INT64_READ, INT64_READ,
    BYTES_OUT, INT64_READ, INT64, INT64, INT64_WRITE, INT64_WRITE, INT64_WRITE, INT64_WRITE,
    returns=types.int64,
)  # fmt: skip
def put_each(
    get: int,
    put: int,
    txn: int,
    database: int,
    group_id: int,
    keys: Bytes,
    key_offsets: Int64s,
    hashes: Int64s,
    codes: Int64s,
    event_time_us: Int64s,
    records: Bytes,
    record_offsets: Int64s,
    first_seq: int,
    write_time_us: int,
    outcomes: Int64s,
    seqs: Int64s,
    write_us: Int64s,
    expires_us: Int64s,
) -> int:
    """Put records one after the other, as ``writer.apply`` does: stamp each, move what is newer.

    Parameters
    ----------
    get : int
        ``mdb_get``.
    put, txn, database, group_id, keys, key_offsets, hashes
        As of :func:`move_latest`, but keys in any order.
    codes : int64[n]
        Key of each record.
    event_time_us : int64[n]
        Of the records.
    records, record_offsets : uint8[], int64[n + 1]
        Records end to end; changed in place.
    first_seq, write_time_us : int
        What they are stamped with; a record that changes nothing takes no seq.
    outcomes : int64[n]
        Filled: `MOVED`, `LATE`, `UNCHANGED`; and `NEW` where the key had no record.
    seqs, write_us, expires_us : int64[n]
        Filled, the last only where nothing changed: what the current record has.

    Returns
    -------
    int
        0, or LMDB's code, or `CORRUPT`; then the transaction must be abandoned.
    """
    wanted = np.empty(KEY_BYTES_MAX, np.uint8)
    vals = np.empty(4, np.int64)  # as above
    seq = first_seq
    for j in range(4):
        wanted[j] = (group_id >> (24 - 8 * j)) & 0xFF
    for i in range(len(codes)):
        key, size = key_offsets[codes[i]], key_offsets[codes[i] + 1] - key_offsets[codes[i]]
        wanted_at, key_val = wanted.ctypes.data, vals.ctypes.data
        value_val = key_val + 16
        record, record_bytes = record_offsets[i], record_offsets[i + 1] - record_offsets[i]
        record_at = records.ctypes.data + record
        store_big_endian(wanted_at + 4, np.uint64(hashes[codes[i]]) ^ SIGN)
        copy_bytes(wanted_at + PREFIX_BYTES, keys.ctypes.data + key, size)
        vals[0] = PREFIX_BYTES + size
        vals[1] = wanted_at
        outcomes[i] = MOVED
        code = call_get(get, txn, database, key_val, value_val)
        if code == NOT_FOUND:
            outcomes[i] = NEW
        elif code != 0:
            return int(code)
        elif vals[2] < HEADER_BYTES:
            return CORRUPT
        else:
            current = vals[3]
            now_us = load_i64(current + 24)
            if event_time_us[i] < now_us:
                outcomes[i] = LATE
            elif event_time_us[i] == now_us and _same_payload(current, vals[2], record_at):
                outcomes[i] = UNCHANGED
                seqs[i] = load_i64(current + 16)
                write_us[i] = load_i64(current + 32)
                expires_us[i] = load_i64(current + 40)
                continue
        seqs[i], write_us[i] = seq, write_time_us
        for byte in range(8):
            records[record + 16 + byte] = (seq >> (8 * byte)) & 0xFF
            records[record + 32 + byte] = (write_time_us >> (8 * byte)) & 0xFF
        crc = crc32_at(np.uint32(0), wanted_at + PREFIX_BYTES, size)
        store_i32(record_at, np.int64(crc32_at(crc, record_at + 4, record_bytes - 4)))
        seq += 1
        if outcomes[i] != LATE:
            vals[2] = record_bytes
            vals[3] = record_at
            code = call_put(put, txn, database, key_val, value_val)
            if code != 0:
                return int(code)
    return 0


@kernel(
    BYTES_READ, INT64_READ, INT64_READ, BYTES_READ, INT64_READ, INT64, INT64, INT64,
    BYTES_OUT, returns=types.int64,
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
