"""The vectorised hashes against hashlib and zlib."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.encoding.keys import KeyHash
from featurestore.kernels import hashing

# Around the ends of a block, where padding goes wrong.
LENGTHS = st.one_of(st.integers(1, 20), st.sampled_from([127, 128, 129, 255, 256, 257, 2048]))


def _bytes(lengths: list[int]) -> list[bytes]:
    return [hashlib.shake_128(bytes([i % 256])).digest(n) for i, n in enumerate(lengths)]


@given(
    seed=st.binary(min_size=1, max_size=64),
    lengths=st.lists(LENGTHS, max_size=8),
    bits=st.sampled_from([2, 64]),
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of plain Python: wrapping is meant
def test_key_hashes_are_those_of_hashlib(seed: bytes, lengths: list[int], bits: int) -> None:
    keys = _bytes(lengths)
    key_hash = KeyHash(seed, bits)
    seeded = hashing.blake2b_seeded(np.frombuffer(seed, np.uint8))
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    hashes = np.empty(len(keys), np.int64)
    data = np.frombuffer(b"".join(keys), np.uint8)
    hashing.blake2b_many(seeded, data, offsets, -1 << (64 - bits), hashes)
    assert hashes.tolist() == [key_hash(key) for key in keys]


@given(data=st.binary(max_size=100), start=st.integers(0, 20), crc=st.integers(0, 2**32 - 1))
def test_crc32_is_that_of_zlib(data: bytes, start: int, crc: int) -> None:
    start = min(start, len(data))
    array = np.frombuffer(data, np.uint8)
    ours = int(hashing.crc32(crc, array, start, len(data)))
    assert ours == zlib.crc32(data[start:], crc)


@pytest.mark.parametrize("length", [0, 7, 8, 9, 4096])
def test_crc32_of_whole_words_and_rests(length: int) -> None:
    data = hashlib.shake_128(b"").digest(length)
    assert int(hashing.crc32(0, np.frombuffer(data, np.uint8), 0, length)) == zlib.crc32(data)
