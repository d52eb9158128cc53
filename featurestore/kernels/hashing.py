"""BLAKE2b and CRC-32 of many byte strings at once: the key hash and the record checksum.

One at a time the standard library is as good; the price there is the call, some 500 ns for each
key.  Here a key costs its compression, about 150 ns, and a record its bytes.

``blake2b`` is RFC 7693 with a key and a digest of 8 bytes, exactly what
:class:`featurestore.encoding.keys.KeyHash` takes from hashlib.  The keyed block comes first and is
the same for every key of a store, so its state is computed once (`blake2b_seeded`).

``crc32`` is zlib's (reflected polynomial 0xEDB88320), sixteen bytes a step by as many tables:
Kounavis and Berry, "A Systematic Approach to Building High Performance Software-based CRC
Generators", 2005.

Byte strings lie end to end: string ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types

from featurestore.kernels import BYTES_READ, INT64, INT64_READ, WORDS_READ, kernel
from featurestore.kernels.memory import load_i64, load_u8

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IV = np.array(
    [
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    ],
    np.uint64,
)  # fmt: skip
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    np.uint8,
)  # fmt: skip
_BLOCK_BYTES = 128


@njit(inline="always")
def _mix(a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> Any:
    """RFC 7693, function G."""
    a = a + b + x
    d = d ^ a
    d = (d >> np.uint64(32)) | (d << np.uint64(32))
    c = c + d
    b = b ^ c
    b = (b >> np.uint64(24)) | (b << np.uint64(40))
    a = a + b + y
    d = d ^ a
    d = (d >> np.uint64(16)) | (d << np.uint64(48))
    c = c + d
    b = b ^ c
    b = (b >> np.uint64(63)) | (b << np.uint64(1))
    return a, b, c, d


@njit
def _compress(h: Any, m: Any, count: Any, last: Any) -> None:
    """RFC 7693, function F: take the block ``m`` into the state ``h``."""
    v0, v1, v2, v3, v4, v5, v6, v7 = h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
    v8, v9, v10, v11 = _IV[0], _IV[1], _IV[2], _IV[3]
    v12, v13, v14, v15 = _IV[4] ^ count, _IV[5], _IV[6], _IV[7]
    if last:
        v14 = ~v14
    for r in range(12):
        v0, v4, v8, v12 = _mix(v0, v4, v8, v12, m[_SIGMA[r, 0]], m[_SIGMA[r, 1]])
        v1, v5, v9, v13 = _mix(v1, v5, v9, v13, m[_SIGMA[r, 2]], m[_SIGMA[r, 3]])
        v2, v6, v10, v14 = _mix(v2, v6, v10, v14, m[_SIGMA[r, 4]], m[_SIGMA[r, 5]])
        v3, v7, v11, v15 = _mix(v3, v7, v11, v15, m[_SIGMA[r, 6]], m[_SIGMA[r, 7]])
        v0, v5, v10, v15 = _mix(v0, v5, v10, v15, m[_SIGMA[r, 8]], m[_SIGMA[r, 9]])
        v1, v6, v11, v12 = _mix(v1, v6, v11, v12, m[_SIGMA[r, 10]], m[_SIGMA[r, 11]])
        v2, v7, v8, v13 = _mix(v2, v7, v8, v13, m[_SIGMA[r, 12]], m[_SIGMA[r, 13]])
        v3, v4, v9, v14 = _mix(v3, v4, v9, v14, m[_SIGMA[r, 14]], m[_SIGMA[r, 15]])
    h[0] ^= v0 ^ v8
    h[1] ^= v1 ^ v9
    h[2] ^= v2 ^ v10
    h[3] ^= v3 ^ v11
    h[4] ^= v4 ^ v12
    h[5] ^= v5 ^ v13
    h[6] ^= v6 ^ v14
    h[7] ^= v7 ^ v15


@kernel(BYTES_READ, returns=types.uint64[::1])
def blake2b_seeded(seed: NDArray[np.uint8]) -> Any:
    """Return the state that every hash under one seed begins with.

    Parameters
    ----------
    seed : uint8[1 to 64]
        The key of the hash.

    Returns
    -------
    uint64[8]
    """
    h = _IV.copy()
    h[0] ^= np.uint64(0x01010000 | len(seed) << 8 | 8)
    block = np.zeros(_BLOCK_BYTES, np.uint8)
    block[: len(seed)] = seed
    _compress(h, block.view(np.uint64), np.uint64(_BLOCK_BYTES), False)
    return h


@kernel(WORDS_READ, BYTES_READ, INT64_READ, INT64, types.int64[::1])
def blake2b_many(
    seeded: NDArray[np.uint64],
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    mask: int,
    hashes: NDArray[np.int64],
) -> None:
    """Hash byte strings, none of them empty.

    Parameters
    ----------
    seeded : uint64[8]
        From `blake2b_seeded`.
    data, offsets : uint8[offsets[n]], int64[n + 1]
        The strings.
    mask : int
        Bits of the hash to keep.
    hashes : int64[n]
        Filled: the digest's 8 bytes, big endian and signed, masked.
    """
    h = np.empty(8, np.uint64)
    block = np.empty(_BLOCK_BYTES, np.uint8)
    words = block.view(np.uint64)
    for i in range(len(hashes)):
        h[:] = seeded
        at, end = offsets[i], offsets[i + 1]
        count = _BLOCK_BYTES
        last = False
        while not last:
            size = min(end - at, _BLOCK_BYTES)
            last = at + size == end
            words[:] = 0
            for j in range(size):
                block[j] = data[at + j]
            at += size
            count += size
            _compress(h, words, np.uint64(count), last)
        digest = h[0]
        swapped = np.uint64(0)
        for _ in range(8):
            swapped = (swapped << np.uint64(8)) | (digest & np.uint64(0xFF))
            digest >>= np.uint64(8)
        hashes[i] = np.int64(swapped) & mask


_CRC_STEP = 16  # bytes


def _crc_tables() -> NDArray[np.uint32]:
    """Return, for a byte that is followed by ``i`` bytes of its step, what it adds to the CRC."""
    tables = np.zeros((_CRC_STEP, 256), np.uint32)
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(0xEDB88320), crc >> 1)
    tables[0] = crc
    for i in range(1, _CRC_STEP):
        tables[i] = (tables[i - 1] >> 8) ^ tables[0][tables[i - 1] & 0xFF]
    return tables


_CRC = _crc_tables()


@kernel(types.uint32, BYTES_READ, INT64, INT64, returns=types.uint32)
def crc32(crc: Any, data: Any, start: Any, stop: Any) -> Any:
    """Return ``zlib.crc32(data[start:stop], crc)``; for other kernels to call."""
    crc = np.uint32(crc) ^ np.uint32(0xFFFFFFFF)
    at = start
    while at + _CRC_STEP <= stop:
        # The bytes that the CRC so far is mixed with are the end of a chain; the others are not,
        # and the processor looks them up meanwhile.
        rest = (
            _CRC[11, data[at + 4]]
            ^ _CRC[10, data[at + 5]]
            ^ _CRC[9, data[at + 6]]
            ^ _CRC[8, data[at + 7]]
            ^ _CRC[7, data[at + 8]]
            ^ _CRC[6, data[at + 9]]
            ^ _CRC[5, data[at + 10]]
            ^ _CRC[4, data[at + 11]]
            ^ _CRC[3, data[at + 12]]
            ^ _CRC[2, data[at + 13]]
            ^ _CRC[1, data[at + 14]]
            ^ _CRC[0, data[at + 15]]
        )
        crc = (
            _CRC[15, (crc ^ data[at]) & np.uint32(0xFF)]
            ^ _CRC[14, ((crc >> np.uint32(8)) ^ data[at + 1]) & np.uint32(0xFF)]
            ^ _CRC[13, ((crc >> np.uint32(16)) ^ data[at + 2]) & np.uint32(0xFF)]
            ^ _CRC[12, (crc >> np.uint32(24)) ^ data[at + 3]]
            ^ rest
        )
        at += _CRC_STEP
    while at < stop:
        crc = _CRC[0, (crc ^ data[at]) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        at += 1
    return crc ^ np.uint32(0xFFFFFFFF)


@njit
def crc32_at(crc: Any, address: Any, count: Any) -> Any:
    """Return the same of ``count`` bytes at an address, read eight at a time; for other kernels."""
    byte = np.uint64(0xFF)
    x = np.uint64(np.uint32(crc) ^ np.uint32(0xFFFFFFFF))
    at = address
    end = address + count
    while at + _CRC_STEP <= end:
        a = np.uint64(load_i64(at)) ^ x
        b = np.uint64(load_i64(at + 8))
        x = np.uint64(
            _CRC[15, a & byte]
            ^ _CRC[14, (a >> np.uint64(8)) & byte]
            ^ _CRC[13, (a >> np.uint64(16)) & byte]
            ^ _CRC[12, (a >> np.uint64(24)) & byte]
            ^ _CRC[11, (a >> np.uint64(32)) & byte]
            ^ _CRC[10, (a >> np.uint64(40)) & byte]
            ^ _CRC[9, (a >> np.uint64(48)) & byte]
            ^ _CRC[8, a >> np.uint64(56)]
            ^ _CRC[7, b & byte]
            ^ _CRC[6, (b >> np.uint64(8)) & byte]
            ^ _CRC[5, (b >> np.uint64(16)) & byte]
            ^ _CRC[4, (b >> np.uint64(24)) & byte]
            ^ _CRC[3, (b >> np.uint64(32)) & byte]
            ^ _CRC[2, (b >> np.uint64(40)) & byte]
            ^ _CRC[1, (b >> np.uint64(48)) & byte]
            ^ _CRC[0, b >> np.uint64(56)]
        )
        at += _CRC_STEP
    while at < end:
        x = np.uint64(_CRC[0, (x ^ np.uint64(load_u8(at))) & byte]) ^ (x >> np.uint64(8))
        at += 1
    return np.uint32(x) ^ np.uint32(0xFFFFFFFF)
