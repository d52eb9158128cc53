"""Rows into the order of files, and finished records: what a bulk ingest does row by row.

::

    codes, event times ──sort_rows──▶ order ──────▶ columns are gathered, a row group at a time
                                        └─ ends ──▶ the newest row of each key ──▶ records
                                                                     stamp_records ──┘

``sort_rows`` is a stable sort by (rank of the key, event time): equal ones stay in the order of the
input, which is what makes the later of two rows win.  It is not a comparison sort but for the few
rows of one key:

=========  ========================================================================================
pass       what it costs
=========  ========================================================================================
count      one increment for each row
partition  rows go to about a thousand stretches of neighbouring keys, so that each has its own
           end to write at, and the cache holds all of these
place      within a stretch, which the cache holds whole, each row goes to its key
by time    rows of one key: nothing to do where they came in the order of time, else a merge sort
=========  ========================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from featurestore.kernels import BYTES_READ, INT64, INT64_READ, kernel
from featurestore.kernels.hashing import crc32

if TYPE_CHECKING:
    import numpy.typing as npt

    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]
    Bytes = npt.NDArray[np.uint8]

INT32_READ = types.Array(types.int32, 1, "C", readonly=True)
INT32_OUT = types.Array(types.int32, 1, "C")
INT64_OUT = types.Array(types.int64, 1, "C")
BYTES_OUT = types.Array(types.uint8, 1, "C")

#: Stretches of keys; as many ends to write at stay in the first-level cache and its TLB.
STRETCHES_MAX = 1024
#: Up to this many rows of a key are sorted by insertion.
INSERTION_ROWS_MAX = 24


@kernel(INT64_READ, INT64_READ, INT64_READ, returns=types.boolean)
def is_in_order(codes: Int64, ranks: Int64, event_us: Int64) -> bool:
    """Say whether rows are in file order as they come; stops at the first that is not.

    Parameters
    ----------
    codes : int64[n]
        Key of each row.
    ranks : int64[keys]
        Place of each key in file order.
    event_us : int64[n]
        Event times.
    """
    for i in range(1, codes.size):
        before, rank = ranks[codes[i - 1]], ranks[codes[i]]
        if before > rank or (before == rank and event_us[i - 1] > event_us[i]):
            return False
    return True


@kernel(INT32_OUT, INT64_OUT, INT64, INT64, INT64_OUT)
def _sort_by_time(order: Int32, times: Int64, start: int, end: int, spare: Int64) -> None:
    """Sort one key's rows by event time; ``spare`` has room for twice as many words."""
    count = end - start
    is_sorted = True
    for i in range(start + 1, end):
        if times[i - 1] > times[i]:
            is_sorted = False
            break
    if is_sorted:
        return
    width = INSERTION_ROWS_MAX
    for first in range(start, end, width):
        for i in range(first + 1, min(first + width, end)):
            time, row = times[i], order[i]
            j = i
            while j > first and times[j - 1] > time:
                times[j], order[j] = times[j - 1], order[j - 1]
                j -= 1
            times[j], order[j] = time, row
    while width < count:
        for first in range(start, end, 2 * width):
            middle, last = min(first + width, end), min(first + 2 * width, end)
            if middle == last or times[middle - 1] <= times[middle]:
                continue
            # The first half steps aside; the merge never overtakes the second half's reading.
            left = middle - first
            for i in range(left):
                spare[2 * i], spare[2 * i + 1] = times[first + i], order[first + i]
            i, j, to = 0, middle, first
            while i < left:
                if j < last and times[j] < spare[2 * i]:
                    times[to], order[to] = times[j], order[j]
                    j += 1
                else:
                    times[to], order[to] = spare[2 * i], np.int32(spare[2 * i + 1])
                    i += 1
                to += 1
        width *= 2


@kernel(INT64_READ, INT64_READ, INT64_READ, INT32_OUT, INT64_OUT, INT64_OUT)
def sort_rows(
    codes: Int64, ranks: Int64, event_us: Int64, order: Int32, sorted_us: Int64, ends: Int64
) -> None:
    """Sort rows by (rank of the key, event time); equal ones keep their order.

    Parameters
    ----------
    codes : int64[n], n < 2**31
        Key of each row, ``0 <= code < keys``.
    ranks : int64[keys]
        Place of each key in file order: a permutation.
    event_us : int64[n]
        Event times.
    order : int32[n]
        Filled: the row that comes first, second, and so on.
    sorted_us : int64[n]
        Filled: their event times.
    ends : int64[keys]
        Filled, by rank: where the rows of each key end in ``order``.
    """
    rows, keys = codes.size, ranks.size
    if event_us.size != rows or order.size != rows or sorted_us.size != rows or ends.size != keys:
        raise ValueError("arrays differ in length")
    at = np.zeros(keys + 1, np.int64)  # where the next row of each key goes
    for i in range(rows):
        code = codes[i]
        if code < 0 or code >= keys or ranks[code] < 0 or ranks[code] >= keys:
            raise ValueError("a key code is out of range")
        at[ranks[code] + 1] += 1
    for rank in range(keys):
        at[rank + 1] += at[rank]
        ends[rank] = at[rank + 1]
    shift = 0
    while (keys - 1) >> shift >= STRETCHES_MAX:
        shift += 1
    next_of = np.empty(STRETCHES_MAX, np.int64)
    for stretch in range(((keys - 1) >> shift) + 1):
        next_of[stretch] = at[stretch << shift]
    # A row is two words, written side by side: event time; rank and row number.
    words = np.empty(2 * rows, np.int64)
    for i in range(rows):
        rank = ranks[codes[i]]
        to = next_of[rank >> shift]
        next_of[rank >> shift] = to + 1
        words[2 * to] = event_us[i]
        words[2 * to + 1] = rank << 32 | i  # both are below 2**31
    for i in range(rows):
        rank = words[2 * i + 1] >> 32
        to = at[rank]
        at[rank] = to + 1
        sorted_us[to] = words[2 * i]
        order[to] = np.int32(words[2 * i + 1] & 0x7FFFFFFF)
    # The words are not needed any more: half of them for times, the other half for row numbers.
    start = 0
    for rank in range(keys):
        _sort_by_time(order, sorted_us, start, ends[rank], words)
        start = ends[rank]


@kernel(BYTES_OUT, INT64, INT64)
def _put_word(data: Bytes, at: int, word: Any) -> None:
    """Write a 64-bit number, little endian."""
    for byte in range(8):
        data[at + byte] = np.uint8((word >> (8 * byte)) & 0xFF)


@kernel(BYTES_OUT, INT64_READ, BYTES_READ, INT64_READ, INT64_READ, INT64_READ, INT64_READ)
def stamp_records(
    data: Bytes,
    offsets: Int64,
    keys: Bytes,
    key_offsets: Int64,
    codes: Int64,
    seqs: Int64,
    write_us: Int64,
) -> None:
    """Fill seq, write time and checksum into encoded records: ``values.stamp`` of many.

    Parameters
    ----------
    data, offsets : uint8[offsets[n]], int64[n + 1]
        Records end to end, each a whole number of words; changed in place.
    keys, key_offsets : uint8[key_offsets[m]], int64[m + 1]
        Keys end to end.
    codes : int64[n]
        Which of the keys is each record's.
    seqs, write_us : int64[n]
        What to fill in.
    """
    count = seqs.size
    if offsets.size != count + 1 or codes.size != count or write_us.size != count:
        raise ValueError("arrays differ in length")
    if offsets[count] > data.size or key_offsets[key_offsets.size - 1] > keys.size:
        raise ValueError("records or keys reach beyond their bytes")
    for i in range(count):
        start, stop = offsets[i], offsets[i + 1]
        if stop - start < 48:
            raise ValueError("a record is shorter than its header")
        code = codes[i]
        if code < 0 or code >= key_offsets.size - 1:
            raise ValueError("a key code is out of range")
        _put_word(data, start + 16, seqs[i])
        _put_word(data, start + 32, write_us[i])
        crc = crc32(np.uint32(0), keys, key_offsets[code], key_offsets[code + 1])
        crc = crc32(crc, data, start + 4, stop)
        for byte in range(4):
            data[start + byte] = np.uint8((crc >> np.uint32(8 * byte)) & np.uint32(0xFF))


# ── byte strings ─────────────────────────────────────────────────────────────────────────────


@kernel(BYTES_OUT, INT64_READ, BYTES_READ, INT64_READ, INT64_READ)
def copy_runs(
    target: Bytes, target_start: Int64, source: Bytes, source_start: Int64, lengths: Int64
) -> None:
    """Copy one run of bytes for each row: ``target[t : t + n] = source[s : s + n]``."""
    for i in range(lengths.size):
        to, start, count = target_start[i], source_start[i], lengths[i]
        if min(to, start, count) < 0 or to + count > target.size or start + count > source.size:
            raise ValueError("a run reaches beyond its bytes")
        for j in range(count):
            target[to + j] = source[start + j]


# ── columns ──────────────────────────────────────────────────────────────────────────────────


@kernel(INT64_READ, INT32_READ, INT64_OUT)
def take_words(values: Int64, rows: Int32, taken: Int64) -> None:
    """Gather 64-bit values: ``taken[i] = values[rows[i]]``, four times as fast as numpy's take.

    Parameters
    ----------
    values : int64[n]
        Any 64 bits, floats too.
    rows : int32[m]
        Places among them.
    taken : int64[m]
        Filled.
    """
    if taken.size != rows.size:
        raise ValueError("arrays differ in length")
    for i in range(rows.size):
        if rows[i] < 0 or rows[i] >= values.size:
            raise ValueError("a row is out of range")
        taken[i] = values[rows[i]]
