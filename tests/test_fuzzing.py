"""Any bytes give a value or an error of ours: the corpus of the fuzzer again, and Hypothesis."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import CORPUS, TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_fuzzer_kept(target: str) -> None:
    """Also with a few bytes of each changed, cut off or said twice."""
    chance = random.Random(2013)
    kept = sorted((CORPUS / target).iterdir())
    assert kept
    for path in kept:
        data = path.read_bytes()
        TARGETS[target](data)
        for _ in range(8):
            TARGETS[target](changed(data, chance))


def changed(data: bytes, chance: random.Random) -> bytes:
    """Return other bytes, not far from some."""
    other = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(other) + 1)
        match chance.randrange(4):
            case 0:
                other[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                other[at : at + 1] = bytes(
                    [other[at] ^ 1 << chance.randrange(8)] if at < len(other) else []
                )
            case 2:
                del other[at : at + chance.randrange(1, 9)]
            case 3:
                other[at:at] = other[at : at + chance.randrange(1, 9)]
    return bytes(other)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.binary(max_size=400))
def test_any_bytes(target: str, data: bytes) -> None:
    TARGETS[target](data)
