r"""Key bytes of many rows: ``encoding.keys.encode_key`` in a loop.

Each component of the identifier is gone through twice: once to add what it will take to the
length of every key, once to write it there.  Where to write is kept for each row, so that the next
component goes on after it::

    lengths ── cumsum ──▶ offsets ──▶ at = offsets[:-1]      write_numbers(…, at, keys)
                                                             write_texts(…, at, keys)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import types

from featurestore.kernels import BYTES_READ, INT64, INT64_READ, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

NUMBER_BYTES = 9

_ENDS_READ = types.Array(types.int32, 1, "C", readonly=True)
_INT64S = types.int64[::1]
_BYTES = types.uint8[::1]


@kernel(_ENDS_READ, BYTES_READ, _INT64S)
def add_text_lengths(ends: NDArray[np.int32], data: Bytes, lengths: Int64s) -> None:
    """Add the bytes that texts take: tag, bytes with zeros escaped, two zeros.

    Parameters
    ----------
    ends : int32[n + 1]
        Arrow's offsets of the texts.
    data : uint8[]
        Their bytes.
    lengths : int64[n]
        Added to.
    """
    for i in range(len(lengths)):
        lengths[i] += 3 + ends[i + 1] - ends[i]
        for j in range(ends[i], ends[i + 1]):
            lengths[i] += data[j] == 0


@kernel(INT64, _ENDS_READ, BYTES_READ, BYTES_READ, _INT64S, _BYTES)
def write_texts(
    tag: int, ends: NDArray[np.int32], data: Bytes, wanted: Bytes, at: Int64s, keys: Bytes
) -> None:
    """Write texts where ``at`` says, in rows that are ``wanted``, and move it on."""
    for i in range(len(at)):
        if not wanted[i]:
            continue
        k = at[i]
        keys[k] = tag
        k += 1
        for j in range(ends[i], ends[i + 1]):
            keys[k] = data[j]
            k += 1
            if data[j] == 0:
                keys[k] = 0xFF
                k += 1
        keys[k] = 0
        keys[k + 1] = 0
        at[i] = k + 2


@kernel(INT64, INT64_READ, BYTES_READ, _INT64S, _BYTES)
def write_numbers(tag: int, values: Int64s, wanted: Bytes, at: Int64s, keys: Bytes) -> None:
    """Write a tag and 64 bits, big endian with the sign flipped, where ``at`` says."""
    for i in range(len(at)):
        if not wanted[i]:
            continue
        k = at[i]
        keys[k] = tag
        word = np.uint64(values[i]) ^ np.uint64(1 << 63)
        for j in range(8):
            keys[k + 1 + j] = (word >> np.uint64(56 - 8 * j)) & np.uint64(0xFF)
        at[i] = k + NUMBER_BYTES


@kernel(INT64, INT64_READ, _BYTES)
def write_all_numbers(tag: int, values: Int64s, keys: Bytes) -> None:
    """Write keys of one number each, one after the other: ``uint8[9 * n]``."""
    for i in range(len(values)):
        k = NUMBER_BYTES * i
        keys[k] = tag
        word = np.uint64(values[i]) ^ np.uint64(1 << 63)
        for j in range(8):
            keys[k + 1 + j] = (word >> np.uint64(56 - 8 * j)) & np.uint64(0xFF)


@kernel(BYTES_READ, BYTES_READ, _INT64S, _BYTES)
def write_tags(tags: Bytes, wanted: Bytes, at: Int64s, keys: Bytes) -> None:
    """Write a byte for each row: a bool is its tag."""
    for i in range(len(at)):
        if wanted[i]:
            keys[at[i]] = tags[i]
            at[i] += 1
