"""The loader's kernels beside their twins: slow, obvious Python over the same arrays."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import IO, Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernels import rows, shuffle

MASK = 0xFFFFFFFF


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 as its paper has it."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK, (a >> 32) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def drawn(seed: int, epoch: int, stream: int, count: int) -> list[int]:
    """Fisher and Yates' shuffle with Lemire's indices, on words of the generator."""
    words = (
        word
        for block in range(1 << 32)
        for word in philox((block, stream, epoch, 0), (seed & MASK, seed >> 32))
    )
    places = list(range(count))
    for last in range(count - 1, 0, -1):
        bound = last + 1
        while True:
            product = next(words) * bound
            if product & MASK >= (1 << 32) % bound:
                break
        other = product >> 32
        places[last], places[other] = places[other], places[last]
    return places


# Known answers of the authors' library (Random123, kat_vectors).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK, MASK), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_generator_gives_the_known_answers(counter: Any, key: Any, words: Any) -> None:
    assert philox(counter, key) == words
    arguments = [np.uint64(word) for word in (*counter, *key)]
    assert tuple(map(int, shuffle.philox(*arguments))) == words


@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 7, 2**32 - 1]),
    st.sampled_from([0, 1, 2**32 - 1]),
    st.integers(0, 700),
)
def test_permutations_are_those_of_the_twin(seed: int, epoch: int, stream: int, n: int) -> None:
    places = np.empty(n, np.int32)
    shuffle.shuffle(np.uint64(seed), epoch, stream, places)
    assert places.tolist() == drawn(seed, epoch, stream, n)
    back = np.empty(n, np.int32)
    shuffle.invert(places, back)
    assert places[back].tolist() == list(range(n))


def test_the_order_of_2026_is_the_order_for_ever() -> None:
    places = np.empty(10, np.int32)
    shuffle.shuffle(np.uint64(2026), 3, 5, places)
    assert places.tolist() == [9, 5, 3, 7, 4, 6, 1, 0, 2, 8]


@given(st.integers(0, 30), st.integers(0, 20), st.integers(1, 5), st.integers(1, 4), st.data())
def test_batches_are_dealt_to_workers(
    n: int, first: int, batch: int, workers: int, data: st.DataObject
) -> None:
    worker = data.draw(st.integers(0, workers - 1))
    base = data.draw(st.integers(0, 3)) * batch
    places = np.array(data.draw(st.permutations(range(n))), np.int32)
    mine = [p for p in range(first + n) if p // batch % workers == worker]
    expected = [
        max(mine.index(first + place) - base, -1) if first + place in mine else -1
        for place in places.tolist()
    ]
    shuffle.place_batches(places, first, batch, workers, worker, base)
    assert places.tolist() == expected


KINDS = {
    rows.FLOAT32: np.float32,
    rows.FLOAT64: np.float64,
    rows.INT32: np.int32,
    rows.INT64S: np.int64,
    rows.BITS: np.bool_,
}


class Files:
    """Files of columns, as a set has them, each value somewhere in the middle."""

    def __init__(self) -> None:
        self._values: IO[bytes] = TemporaryFile()  # noqa: SIM115  closed with this
        self._nulls: IO[bytes] = TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._values.close()
        self._nulls.close()

    def column(self, values: np.ndarray, valid: np.ndarray, kind: int) -> list[int]:
        """Lay a column out; returns its numbers."""
        packed = values[valid]
        content = np.packbits(packed, bitorder="little") if kind == rows.BITS else packed
        at = self._append(self._values, content.tobytes())
        file = self._values.fileno()
        if valid.all():
            return [file, at, len(values), kind, -1, 0, 0]
        ranks = np.concatenate([[0], np.cumsum(valid)])[: -1 : rows.STRIPE_ROWS].astype(np.int32)
        bits = np.packbits(valid, bitorder="little")
        nulls = self._append(self._nulls, ranks.tobytes() + bits.tobytes())
        return [file, at, len(packed), kind, self._nulls.fileno(), nulls, nulls + ranks.nbytes]

    @staticmethod
    def _append(file: IO[bytes], content: bytes) -> int:
        file.write(b"x")
        at = file.tell()
        file.write(content)
        file.flush()
        return at


@given(st.integers(0, 2**32), st.integers(1, 5), st.booleans(), st.booleans())
def test_stripes_are_laid_down_as_rows(
    seed: int, features: int, labelled: bool, many_rows: bool
) -> None:
    with Files() as files:
        _stripes_are_laid_down(files, np.random.default_rng(seed), features, labelled, many_rows)


def _stripes_are_laid_down(
    files: Files, random: np.random.Generator, features: int, labelled: bool, many_rows: bool
) -> None:
    size = rows.STRIPE_ROWS * 2 + 77 if many_rows else 40
    groups, tables = [], []
    for _ in range(2):
        numbers, table = [], []
        for _ in range(features + labelled):
            kind = int(random.choice(list(KINDS)))
            values = random.integers(-9, 9, size).astype(KINDS[kind])
            valid = random.random(size) < random.choice([0.0, 0.5, 0.97, 1.0])
            numbers.append(files.column(values, valid, kind))
            table.append(np.where(valid, values.astype(np.float32), 7.5 + len(table)))
        groups.append(numbers)
        tables.append(np.array(table, np.float32))
    fills = np.arange(features + labelled, dtype=np.float32) + 7.5
    stripes = []
    for _ in range(3):
        first = int(random.integers(0, size))
        stripes.append([int(random.integers(0, 2)), first, int(random.integers(0, size - first))])
    count = sum(length for _, _, length in stripes)
    places = random.permutation(count).astype(np.int32)
    places[random.random(count) < 0.2] = -1
    block = np.full((count, features), -1, np.float32)
    labels = np.full(count if labelled else 0, -1, np.float32)
    rows.lay_rows(np.array(groups, np.int64), fills, np.array(stripes), places, block, labels)
    expected = np.full((count, features + labelled), -1, np.float32)
    laid = [(g, first + i) for g, first, length in stripes for i in range(length)]
    for (group, row), place in zip(laid, places.tolist(), strict=True):
        if place >= 0:
            expected[place] = tables[group][:, row]
    np.testing.assert_array_equal(block, expected[:, :features])
    if labelled:
        np.testing.assert_array_equal(labels, expected[:, features])


def test_what_does_not_fit_is_refused() -> None:
    with Files() as files:
        _what_does_not_fit_is_refused(files)


def _what_does_not_fit_is_refused(files: Files) -> None:
    every, but_one = np.ones(10, bool), np.arange(10) < 9
    good = np.array([[files.column(np.zeros(10, np.float32), every, rows.FLOAT32)]], np.int64)
    fills, none = np.zeros(1, np.float32), np.empty(0, np.float32)
    stripe, places = np.array([[0, 0, 10]]), np.arange(10, dtype=np.int32)
    block = np.empty((10, 1), np.float32)
    rows.lay_rows(good, fills, stripe, places, block, none)
    for arguments, said in [
        ((good, fills, stripe, places[:9], block, none), "differ in number"),
        ((good, fills, np.array([[1, 0, 10]]), places, block, none), "stripe is out of range"),
        ((good, fills, np.array([[0, 1, 10]]), places, block, none), "beyond its row group"),
        ((good, fills, stripe, places + np.int32(1), block, none), "beyond the block"),
        ((good, fills, stripe, places, block[:, :0].copy(), none), "fewer labels"),
        ((good, np.zeros(2, np.float32), stripe, places, block, none), "do not fit"),
    ]:
        with pytest.raises(ValueError, match=said):
            rows.lay_rows(*arguments)
    short = np.array([[files.column(np.zeros(10, np.float32), but_one, rows.FLOAT32)]], np.int64)
    rows.lay_rows(short, fills, stripe, places, block, none)
    short[0, 0, rows.COUNT] = 8
    with pytest.raises(ValueError, match="fewer values than valid rows"):
        rows.lay_rows(short, fills, stripe, places, block, none)
    for cut, of in ((rows.VALUES, good), (rows.VALID, short), (rows.RANKS, short)):
        beyond = of.copy()
        beyond[0, 0, cut] += 1 << 20
        with pytest.raises(ValueError, match="ends too early"):
            rows.lay_rows(beyond, fills, stripe, places, block, none)
    matrix = np.zeros((3, 2), np.float32)
    for wrong in (np.array([3], np.int32), np.array([-1], np.int32)):
        with pytest.raises(ValueError, match="out of range"):
            rows.gather_rows(matrix, wrong, np.empty((1, 2), np.float32))
    with pytest.raises(ValueError, match="does not fit"):
        rows.gather_rows(matrix, np.array([0], np.int32), np.empty((1, 3), np.float32))
