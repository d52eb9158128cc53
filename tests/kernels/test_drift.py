"""Distances, moments and sorting, beside their twins in plain Python."""

from __future__ import annotations

import bisect
import itertools
import math
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featurestore.kernels.drift import _RADIX_MIN, ascending, distances, moments

FLOATS = st.floats(allow_nan=False, width=64)
MODEST = st.floats(-1e6, 1e6)
SAMPLES = st.lists(st.one_of(MODEST, st.integers(-3, 3).map(float)), min_size=1, max_size=40)


def plain_distances(base: list[float], window: list[float]) -> tuple[float, float]:
    """Look both shares up at every value, and sum the area between them: the twin."""
    base, window = sorted(base), sorted(window)
    places = sorted({*base, *window})

    def gap(x: float) -> float:
        return abs(
            bisect.bisect_right(base, x) / len(base) - bisect.bisect_right(window, x) / len(window)
        )

    area = sum(gap(x) * (y - x) for x, y in itertools.pairwise(places) if gap(x))
    return max(map(gap, places)), area


@given(SAMPLES, SAMPLES)
@example([0.0], [0.0])
@example([1.0, 1.0, 2.0], [1.0, 2.0, 2.0])
@example([0.0, math.inf], [0.0, math.inf])
def test_distances_are_what_a_plain_walk_finds(base: list[float], window: list[float]) -> None:
    found = distances(np.sort(base), np.sort(window))
    ks, area = plain_distances(base, window)
    assert found[0] == pytest.approx(ks, abs=1e-15)
    assert found[1] == pytest.approx(area, rel=1e-9, abs=1e-9)


@given(SAMPLES, SAMPLES)
def test_distances_do_not_care_which_side_is_which(base: list[float], window: list[float]) -> None:
    one = distances(np.sort(base), np.sort(window))
    other = distances(np.sort(window), np.sort(base))
    assert one[0] == other[0]
    assert one[1] == pytest.approx(other[1], rel=1e-12)


def test_distances_of_nothing_and_to_infinity() -> None:
    assert all(map(math.isnan, distances(np.empty(0), np.ones(1))))
    assert distances(np.array([0.0, 1.0]), np.array([0.0, math.inf])) == (0.5, math.inf)
    assert distances(np.array([-math.inf, 1.0]), np.array([0.0, 1.0])) == (0.5, math.inf)


@given(st.lists(st.one_of(MODEST, st.just(math.nan)), max_size=600))
def test_moments_are_numpys(values: list[float]) -> None:
    out = np.zeros(4)
    present = np.array([value for value in values if not math.isnan(value)])
    assert moments(np.array(values, np.float64), out) == present.size
    if present.size:
        assert out[0] == pytest.approx(present.sum(), rel=1e-9, abs=1e-6)
        assert out[1] == pytest.approx(((present - present.mean()) ** 2).sum(), rel=1e-6, abs=1e-4)
        assert (out[2], out[3]) == (present.min(), present.max())


def test_moments_keep_a_small_spread_on_a_large_mean() -> None:
    out = np.zeros(4)
    count = moments(1e9 + np.tile([0.0, 1.0], 5_000), out)
    assert math.sqrt(out[1] / count) == pytest.approx(0.5, rel=1e-9)


def bits_of(word: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", word))[0]


@pytest.mark.parametrize("rows", [0, 1, _RADIX_MIN - 1, _RADIX_MIN, 3 * _RADIX_MIN])
@pytest.mark.parametrize("kind", ["any bits", "normal", "few", "alike"])
def test_sorting_is_numpys(rows: int, kind: str) -> None:
    chance = np.random.default_rng(rows)
    values = {
        "any bits": chance.integers(0, 2**64, rows, dtype=np.uint64).view(np.float64),
        "normal": chance.normal(size=rows),
        "few": chance.integers(-3, 3, rows).astype(np.float64),
        "alike": np.full(rows, 7.5),
    }[kind].copy()
    odd = [math.inf, -math.inf, -0.0, 0.0, 5e-324, bits_of(0xFFF8 << 48), bits_of(0x7FF4 << 48)]
    values[: len(odd)] = odd[:rows]
    expected = np.sort(values)
    np.testing.assert_array_equal(ascending(values.copy()), expected)
