"""NH against its definition in whole numbers, and what a digest is for."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernels.digest import BLOCK_WORDS, SECRET_WORDS, add_up

LOW = 2**32 - 1


def random_bytes(name: str, count: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(count)


SECRET = np.frombuffer(random_bytes("secret", 8 * SECRET_WORDS), np.uint64)


def sums_of(data: bytes, secret: np.ndarray = SECRET, start: int = 0) -> list[int]:
    """Take the sums of bytes that lie anywhere."""
    moved = np.frombuffer(bytes(start) + data, np.uint8)[start:].view(np.uint64)
    sums = np.empty(2 * len(moved) // BLOCK_WORDS, np.uint64)
    add_up(moved, secret, sums)
    return list(map(int, sums))


def twin(data: bytes) -> list[int]:
    """Do the same with Python's integers, two halves of 32 bits at a time."""
    halves = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    keys = np.frombuffer(SECRET.tobytes(), np.uint32).tolist()
    sums = []
    for start in range(0, len(halves), 2 * BLOCK_WORDS):
        block = halves[start : start + 2 * BLOCK_WORDS]
        for shift in (0, 2):
            key = keys[shift : shift + len(block)]
            parts = [(half + k) & LOW for half, k in zip(block, key, strict=True)]
            sums.append(sum(a * b for a, b in zip(parts[::2], parts[1::2], strict=True)) % 2**64)
    return sums


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of plain Python: wrapping is meant
@given(name=st.text(max_size=5), blocks=st.integers(0, 3), start=st.integers(0, 9))
def test_sums_are_those_of_the_definition_wherever_the_bytes_lie(
    name: str, blocks: int, start: int
) -> None:
    data = random_bytes(name, 8 * BLOCK_WORDS * blocks)
    assert sums_of(data, start=start) == twin(data)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@given(bit=st.integers(0, 2 * 64 * BLOCK_WORDS - 1))
def test_a_bit_that_turns_shows_in_both_sums_of_its_block(bit: int) -> None:
    data = bytearray(random_bytes("bits", 16 * BLOCK_WORDS))
    before = sums_of(bytes(data))
    data[bit // 8] ^= 1 << bit % 8
    after = sums_of(bytes(data))
    block = bit // (64 * BLOCK_WORDS)
    changed = [a != b for a, b in zip(before, after, strict=True)]
    assert changed == [block == 0, block == 0, block == 1, block == 1]


def test_what_does_not_fit_is_refused() -> None:
    words, sums = np.zeros(BLOCK_WORDS, np.uint64), np.zeros(2, np.uint64)
    for given_words, secret, filled in (
        (words[1:].copy(), SECRET, sums),
        (words, SECRET[1:], sums),
        (words, SECRET, sums[1:]),
    ):
        with pytest.raises(ValueError, match="words"):
            add_up(given_words, secret, filled)
