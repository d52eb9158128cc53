"""Sorting and stamping against their twins: Python's own sort, and ``values.stamp`` one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.encoding.values import stamp
from featurestore.kernels import ingest


def plain(kernel: Any) -> Any:
    """Return the Python function a kernel was compiled from."""
    return getattr(kernel, "py_func", kernel)


both_ways = pytest.mark.parametrize("way", [lambda k: k, plain], ids=["compiled", "plain"])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Draw codes, ranks and times: few keys with many rows, many keys, ties, sorted stretches."""
    keys = draw(st.sampled_from([1, 2, 3, 50, 3000]))
    rows = draw(st.sampled_from([1, 2, 24, 25, 49, 200, 1000]))
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    codes = chance.integers(0, keys, rows)
    spread = draw(st.sampled_from([1, 4, 2**62]))
    times = chance.integers(-spread, spread, rows)
    if draw(st.booleans()):
        times.sort()
    if draw(st.booleans()):
        codes.sort()
    return codes, chance.permutation(keys), times


@both_ways
@given(case=cases())
def test_rows_come_in_file_order_and_equal_ones_as_they_were(way: Any, case: Any) -> None:
    codes, ranks, times = case
    rows = len(codes)
    order, sorted_us = np.empty(rows, np.int32), np.empty(rows, np.int64)
    ends = np.empty(len(ranks), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        # Called by the plain form, which must not go on compiled.
        patch.setattr(ingest, "_sort_by_time", way(ingest._sort_by_time))
        way(ingest.sort_rows)(codes, ranks, times, order, sorted_us, ends)
    expected = sorted(range(rows), key=lambda row: (ranks[codes[row]], times[row]))
    assert order.tolist() == expected
    assert sorted_us.tolist() == times[expected].tolist()
    found = ranks[codes[expected]]
    assert ends.tolist() == np.searchsorted(found, np.arange(len(ranks)), side="right").tolist()
    in_order = way(ingest.is_in_order)(codes, ranks, times)
    assert bool(in_order) == (expected == list(range(rows)))


def test_more_keys_than_stretches_and_more_rows_of_a_key_than_one_merge() -> None:
    keys = 3 * ingest.STRETCHES_MAX + 7
    codes = np.concatenate([np.arange(keys), np.zeros(5000, np.int64)])
    chance = np.random.default_rng(1)
    chance.shuffle(codes)
    ranks, times = chance.permutation(keys), chance.integers(0, 99, len(codes))
    order, sorted_us = np.empty(len(codes), np.int32), np.empty(len(codes), np.int64)
    ingest.sort_rows(codes, ranks, times, order, sorted_us, np.empty(keys, np.int64))
    assert order.tolist() == np.lexsort((times, ranks[codes])).tolist()


@pytest.mark.parametrize("code", [-1, 2])
def test_a_code_that_is_no_key_is_refused(code: int) -> None:
    codes = np.array([0, code, 1])
    out = np.empty(3, np.int32), np.empty(3, np.int64), np.empty(2, np.int64)
    with pytest.raises(ValueError, match="out of range"):
        ingest.sort_rows(codes, np.array([1, 0]), np.zeros(3, np.int64), *out)


@both_ways
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_many_are_stamped_as_one_is(way: Any, data: st.DataObject) -> None:
    words = st.integers(6, 40)
    records = [bytearray(data.draw(st.binary(min_size=8 * n, max_size=8 * n)))
               for n in data.draw(st.lists(words, max_size=5))]  # fmt: skip
    keys = data.draw(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=3))
    numbers = st.integers(-(2**63), 2**63 - 1)
    count = len(records)
    codes = [data.draw(st.integers(0, len(keys) - 1)) for _ in records]
    seqs = [data.draw(st.integers(0, 2**63 - 1)) for _ in records]
    write_us = [data.draw(numbers) for _ in records]
    expected = [
        stamp(bytearray(record), keys[code], seq, us)
        for record, code, seq, us in zip(records, codes, seqs, write_us, strict=True)
    ]
    together = np.frombuffer(bytearray(b"".join(records)), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest, "_put_word", way(ingest._put_word))
        patch.setattr(ingest, "crc32", way(ingest.crc32))
        way(ingest.stamp_records)(
            together,
            np.cumsum([0, *map(len, records)]),
            np.frombuffer(b"".join(keys), np.uint8),
            np.cumsum([0, *map(len, keys)]),
            np.array(codes, np.int64),
            np.array(seqs, np.int64),
            np.array(write_us, np.int64).reshape(count),
        )
    assert together.tobytes() == b"".join(expected)


@both_ways
@given(runs=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=6))
def test_runs_are_copied_as_slices_are(way: Any, runs: list[tuple[int, int]]) -> None:
    source = np.arange(100, dtype=np.uint8)
    starts, lengths = np.array([*zip(*runs, strict=True)] or [[], []], np.int64)
    ends = np.cumsum(lengths)
    target = np.zeros(int(lengths.sum()), np.uint8)
    way(ingest.copy_runs)(target, ends - lengths, source, starts, lengths)
    pieces = [source[start : start + length] for start, length in runs]
    assert target.tolist() == [int(byte) for piece in pieces for byte in piece]


def test_a_run_beyond_its_bytes_is_refused() -> None:
    for start, length in ((8, 3), (-1, 2), (0, -1)):
        with pytest.raises(ValueError, match="beyond"):
            ingest.copy_runs(
                np.zeros(50, np.uint8), np.zeros(1, np.int64), np.zeros(10, np.uint8),
                np.array([start]), np.array([length]),
            )  # fmt: skip


# ── columns ──────────────────────────────────────────────────────────────────────────────────


@both_ways
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), data=st.data())
def test_words_are_taken_as_numpy_takes_them(way: Any, values: list[int], data: Any) -> None:
    words = np.array(values)
    rows = np.array(data.draw(st.lists(st.integers(0, len(values) - 1))), np.int32)
    taken = np.empty(len(rows), np.int64)
    way(ingest.take_words)(words, rows, taken)
    assert taken.tolist() == words[rows].tolist()
    for bad in (-1, len(values)):
        with pytest.raises(ValueError, match="out of range"):
            way(ingest.take_words)(words, np.array([bad], np.int32), np.empty(1, np.int64))
