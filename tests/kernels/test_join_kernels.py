"""The join's other kernels beside their twins: slow, obvious Python over the same arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernels import asof, codes, gather, last

if TYPE_CHECKING:
    from collections.abc import Callable

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
NONE = np.empty(0, np.int64)

int64s = st.integers(INT64_MIN, INT64_MAX)
moments = st.sampled_from([INT64_MIN, INT64_MIN + 1, *range(-2, 7), INT64_MAX - 2, INT64_MAX])


def plain(kernel: Any) -> Any:
    """Return the Python function a kernel was compiled from."""
    return getattr(kernel, "py_func", kernel)


def int64(values: Any) -> np.ndarray:
    return np.array(list(values), np.int64)


def both_ways(*kernels: Any) -> Any:
    ways = [kernels, tuple(map(plain, kernels))]
    return pytest.mark.parametrize("kernels", ways, ids=["compiled", "plain"])


def unaligned(values: np.ndarray) -> np.ndarray:
    """Return the same values at an odd address, as a mapped file may have them."""
    memory = bytearray(values.nbytes + 1)
    memory[1:] = values.tobytes()
    return np.frombuffer(bytes(memory), values.dtype, values.size, 1)


# ── labels laid out ──────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.integers(-1, 3), moments | int64s), max_size=200))
def test_labels_are_sorted_by_key_and_time_stably(labels: list[tuple[int, int]]) -> None:
    laid = asof.asof_prepare(int64(c for c, _ in labels), int64(t for _, t in labels), 4)
    expected = sorted((c, t, i) for i, (c, t) in enumerate(labels) if c >= 0)
    assert laid.order.tolist() == [i for _, _, i in expected]
    assert laid.time_us.tolist() == [t for _, t, _ in expected]
    counts = [sum(c < key for c, _, _ in expected) for key in range(5)]
    assert laid.starts.tolist() == counts


@both_ways(asof._insertion_sort, asof._radix_sort)
def test_both_ways_to_sort_a_run(kernels: Any) -> None:
    insertion, radix = kernels
    random = np.random.default_rng(3)
    for low, high in ((0, 9), (INT64_MIN, INT64_MAX), (-(2**40), 2**40), (5, 5)):
        times = random.integers(low, high, 60, endpoint=True)
        times[:2] = low, high
        for sort in (insertion, lambda *run: radix(*run, np.empty((2, 60), np.int64))):
            order, sorted_us = np.arange(60), times.copy()
            sort(order, sorted_us, 0, 60)
            assert order.tolist() == np.argsort(times, kind="stable").tolist()
            assert sorted_us.tolist() == sorted(times.tolist())


# ── runs ─────────────────────────────────────────────────────────────────────────────────────


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
    """Draw rows of keys and labels: files are runs of keys in any order, sorted inside."""
    rows = draw(st.lists(st.tuples(st.integers(0, 2), moments), max_size=20))
    seqs = draw(st.permutations(range(len(rows))))
    labels = draw(st.lists(st.tuples(st.integers(0, 2), moments), max_size=20))
    return [(c, t, s) for (c, t), s in zip(rows, seqs, strict=True)], labels


@both_ways(asof.asof_runs)
@given(
    drawn=runs(), delay_us=st.sampled_from([0, 1, 3, INT64_MAX]), cut=st.integers(0, 20),
    with_seq=st.booleans(), second_is_newer=st.booleans(), key_order=st.permutations(range(3)),
    hidden=st.integers(-1, 2), piece=st.integers(0, 12),
)  # fmt: skip
def test_runs_against_every_row_of_the_key(
    kernels: Any, drawn: Any, delay_us: int, cut: int, with_seq: bool, second_is_newer: bool,
    key_order: Any, hidden: int, piece: int,
) -> None:  # fmt: skip
    (kernel,) = kernels
    rows, labels = drawn
    laid = asof.asof_prepare(int64(c for c, _ in labels), int64(t for _, t in labels), 3)
    numbered, first = [], 0
    # Two files; without seqs those of one are all greater than those of the other.
    for part, seq_of_all in ((rows[:cut], second_is_newer * -50), (rows[cut:], -20)):
        counted = part if with_seq else [(c, t, seq_of_all + s) for c, t, s in part]
        file = sorted(counted, key=lambda row: (key_order[row[0]], row[1], row[2]))
        # A file in two stretches, as its row groups are: ties and keys may be cut in two.
        for stretch in (file[:piece], file[piece:]):
            begins = [i for i, row in enumerate(stretch) if i == 0 or row[0] != stretch[i - 1][0]]
            kernel(
                laid.starts, laid.time_us, laid.best, int64(begins),
                int64(-1 if stretch[i][0] == hidden else stretch[i][0] for i in begins),
                unaligned(int64(t for _, t, _ in stretch)),
                int64(s for _, _, s in stretch) if with_seq else NONE, seq_of_all, delay_us, first,
            )  # fmt: skip
            numbered += stretch
            first += len(stretch)
    asof.asof_finish(laid.starts, laid.best)
    found = dict(zip(laid.order.tolist(), laid.best["row"].tolist(), strict=True))
    for number, (code, label_us) in enumerate(labels):
        known = [
            (t, s, at)
            for at, (c, t, s) in enumerate(numbered)
            if c == code != hidden and t + delay_us <= label_us
        ]
        assert found[number] == max(known, default=(0, 0, asof.NO_ROW))[2]


def test_a_tie_cut_in_two_of_which_one_half_is_put_down_only() -> None:
    laid = asof.asof_prepare(int64([0] * 4), int64([1, 5, 6, 7]), 1)
    for first, times in ((0, [2, 3, 4, 5]), (4, [5])):
        asof.asof_runs(
            laid.starts, laid.time_us, laid.best, int64([0]), int64([0]), int64(times),
            NONE, 9, 0, first,
        )  # fmt: skip
    asof.asof_finish(laid.starts, laid.best)
    assert laid.best["row"].tolist() == [asof.NO_ROW, 4, 4, 4]


@both_ways(asof.asof_runs)
@pytest.mark.parametrize("more", [0, 3], ids=["put down", "merged"])
def test_the_edges_of_a_run(kernels: Any, more: int) -> None:
    """A row at 10 among labels from 8 to 17, and rows after them all so that runs are long."""
    label_us, event_us = np.arange(8, 18), int64([10, *[99] * more, *range(100, 100 + 2 * more)])
    for delay_us, known_us in ((0, 10), (3, 13), (7, 17), (8, 18)):
        laid = asof.asof_prepare(np.zeros(10, np.int64), label_us, 1)
        kernels[0](
            *laid[1:], int64([0]), int64([0]), unaligned(event_us), NONE, 1, delay_us, 0,
        )  # fmt: skip
        asof.asof_finish(laid.starts, laid.best)
        assert label_us[laid.best["row"] == 0].tolist() == list(range(known_us, 18))


def test_bad_runs_are_refused() -> None:
    laid = asof.asof_prepare(int64([0]), int64([5]), 1)
    one, two = int64([0]), int64([0, 1])
    for bad in (
        (one, two, one, NONE, 0, 0),
        (one, one, one, two, 0, 0),
        (one, one, one, NONE, 0, -1),
        (one, int64([1]), one, NONE, 0, 0),
        (int64([1]), one, one, NONE, 0, 0),
        (int64([0, 0]), int64([0, 0]), two, NONE, 0, 0),
    ):
        for kernel in (asof.asof_runs, plain(asof.asof_runs)):
            with pytest.raises(ValueError, match=r"differ in length|negative|out of range"):
                kernel(*laid[1:], *bad, 0)


@both_ways(asof.asof_pending)
@given(labels=st.lists(st.tuples(moments, st.none() | moments), max_size=8),
       delay_us=st.sampled_from([0, 2, INT64_MAX]), bounds=st.tuples(moments, moments))  # fmt: skip
def test_pending(kernels: Any, labels: Any, delay_us: int, bounds: tuple[int, int]) -> None:
    best = np.zeros(len(labels), asof.BEST_DTYPE)
    best["row"] = [asof.NO_ROW if found is None else 1 for _, found in labels]
    best["event_time_us"] = [found or 0 for _, found in labels]
    oldest, newest = min(bounds), max(bounds)
    expected = any(
        oldest + delay_us <= label and (found is None or found <= newest) for label, found in labels
    )
    got = kernels[0](int64(label for label, _ in labels), best, delay_us, oldest, newest)
    assert got == expected


@both_ways(asof.asof_pending)
def test_the_edges_of_pending(kernels: Any) -> None:
    """A label at 10 that has a row of 7: which stretches may still hold a better one."""
    label_us, best = int64([10]), np.array([(7, 1, 1)], asof.BEST_DTYPE)

    def pending(oldest_us: int, newest_us: int, delay_us: int = 0) -> bool:
        return bool(kernels[0](label_us, best, delay_us, oldest_us, newest_us))

    assert pending(10, 12)
    assert not pending(11, 12)
    assert pending(9, 12, 1)
    assert not pending(10, 12, 1)
    assert pending(5, 7)  # of the same time, and perhaps of a greater seq
    assert not pending(5, 6)


# ── look-ups ─────────────────────────────────────────────────────────────────────────────────


@both_ways(asof.asof_lookup)
@given(
    drawn=st.lists(st.tuples(st.integers(0, 2), moments, moments, st.booleans()), max_size=20),
    labels=st.lists(st.tuples(st.integers(-1, 2), moments), max_size=12),
    delay_us=st.sampled_from([0, 1, 3, INT64_MAX]), marked=st.booleans(),
)  # fmt: skip
def test_look_ups_against_every_row_of_the_key(
    kernels: Any, drawn: Any, labels: Any, delay_us: int, marked: bool
) -> None:
    rows = sorted(drawn, key=lambda row: row[:2])
    starts = int64(sum(code < key for code, *_ in rows) for key in range(4))
    expires = int64(row[2] for row in rows) if marked else NONE
    deleted = np.array([row[3] for row in rows] if marked else [], np.bool_)
    found = np.zeros(len(labels), np.int32)
    kernels[0](
        int64(c for c, _ in labels), int64(t for _, t in labels), starts,
        int64(row[1] for row in rows), expires, deleted, delay_us, -1, found,
    )  # fmt: skip
    for (code, label_us), got in zip(labels, found.tolist(), strict=True):
        known = [i for i, (c, t, *_) in enumerate(rows) if c == code and t + delay_us <= label_us]
        newest = max(known, default=-1, key=lambda i: (rows[i][1], i))
        gone = marked and newest >= 0 and (rows[newest][2] <= label_us or rows[newest][3])
        assert got == (-1 if gone else newest)


def test_look_ups_among_many_rows_and_by_age() -> None:
    random = np.random.default_rng(5)
    for times in (
        np.sort(random.integers(0, 10**6, 500)),
        np.sort(2 ** random.integers(0, 50, 500)),
    ):
        label_us = random.integers(-5, int(times[-1]) + 9, 300)
        label_us[:100] = times[random.integers(0, 500, 100)] + random.integers(-1, 2, 100)
        found, starts = np.zeros(300, np.int32), int64([0, 500])
        alive = np.empty(0, np.bool_)
        asof.asof_lookup(
            np.zeros(300, np.int64), label_us, starts, times, NONE, alive, 2, 1000, found
        )
        rows = np.searchsorted(times, label_us - 2, side="right") - 1
        young = (rows >= 0) & (label_us - times[np.maximum(rows, 0)] <= 1000)
        assert found.tolist() == np.where(young, rows, -1).tolist()


@both_ways(asof.asof_lookup)
def test_the_edges_of_a_look_up(kernels: Any) -> None:
    """One row at 10, and labels from 8 to 17: which of them it answers."""
    label_us = np.arange(8, 18)

    def answered(expires_us: int, delay_us: int, max_age_us: int) -> list[int]:
        found = np.zeros(label_us.size, np.int32)
        kernels[0](
            np.zeros(label_us.size, np.int64), label_us, int64([0, 1]), int64([10]),
            int64([expires_us]), np.zeros(1, np.bool_), delay_us, max_age_us, found,
        )  # fmt: skip
        return label_us[found == 0].tolist()

    assert answered(15, 0, -1) == [10, 11, 12, 13, 14]
    assert answered(99, 3, -1) == [13, 14, 15, 16, 17]
    assert answered(99, 0, 4) == [10, 11, 12, 13, 14]
    assert answered(15, 2, 4) == [12, 13, 14]
    assert answered(99, 5, 4) == []


@both_ways(last.last_rows)
def test_the_edges_of_the_last_rows(kernels: Any) -> None:
    """Rows at 10 and 12, the second written at 14: how many each label has."""
    label_us = np.arange(8, 18)

    def lengths_of(expires_us: int, delay_us: int, max_age_us: int) -> list[int]:
        found, lengths = np.zeros(2 * label_us.size, np.int64), np.zeros(label_us.size, np.int64)
        kernels[0](
            int64([0, label_us.size]), label_us, int64([0, 2]), int64([10, 12]), int64([0, 14]),
            int64([expires_us] * 2), np.zeros(2, np.bool_), delay_us, max_age_us, found, lengths,
        )  # fmt: skip
        return lengths.tolist()

    assert lengths_of(99, 0, -1) == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert lengths_of(16, 0, -1) == [0, 0, 1, 1, 1, 1, 2, 2, 0, 0]
    assert lengths_of(99, 3, -1) == [0, 0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert lengths_of(99, 0, 5) == [0, 0, 1, 1, 1, 1, 2, 2, 1, 1]


def test_bad_look_ups_are_refused() -> None:
    one, two, alive = int64([0]), int64([0, 0]), np.empty(0, np.bool_)
    good = [one, one, int64([0, 1]), one, NONE, alive, 0, -1]
    for place, bad in ((0, two), (0, int64([1])), (2, int64([0, 2])), (2, one), (4, two), (6, -1)):
        arguments = [*good[:place], bad, *good[place + 1 :]]
        for kernel in (asof.asof_lookup, plain(asof.asof_lookup)):
            with pytest.raises(ValueError, match=r"differ in length|negative|out of range"):
                kernel(*arguments, np.zeros(1, np.int32))


# ── codes ────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(int64s | st.integers(0, 5), st.booleans())), st.lists(int64s))
def test_keys_are_numbered_as_they_appear(keys: list[tuple[int, bool]], others: Any) -> None:
    values, valid = int64(k for k, _ in keys), np.array([v for _, v in keys], np.bool_)
    numbered, table = codes.number_keys(values, valid)
    twin: dict[int, int] = {}
    expected = [twin.setdefault(k, len(twin)) if v else codes.NO_CODE for k, v in keys]
    assert numbered.tolist() == expected
    assert table.distinct.tolist() == list(twin)
    asked = [*others, *(k for k, _ in keys)]
    found = codes.find_codes(table, int64(asked))
    assert found.tolist() == [twin.get(k, codes.NO_CODE) for k in asked]


def test_tables_that_grow() -> None:
    random = np.random.default_rng(1)
    for keys in (
        np.arange(5000),
        np.arange(5000) << 40,
        random.integers(INT64_MIN, INT64_MAX, 5000),
    ):
        given_keys = np.concatenate([keys, keys[::-1]])
        numbered, table = codes.number_keys(given_keys, np.empty(0, np.bool_))
        assert table.distinct.tolist() == keys.tolist()
        assert numbered.tolist() == [*range(5000), *range(4999, -1, -1)]
        absent = np.setdiff1d(keys + 1, keys)
        assert (codes.find_codes(table, absent) == codes.NO_CODE).all()


# ── gathering ────────────────────────────────────────────────────────────────────────────────


@both_ways(gather.part_by_stretch)
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=5), data=st.data())
def test_rows_are_parted_in_order(kernels: Any, sizes: list[int], data: st.DataObject) -> None:
    firsts = np.cumsum([3, *sizes])
    inside = st.integers(3, max(int(firsts[-1]) - 1, 3))
    rows = data.draw(st.lists(inside, max_size=12)) if sum(sizes) else []
    starts, own, at = np.zeros(len(firsts), np.int64), np.zeros(len(rows), np.int64), int64(rows)
    kernels[0](int64(rows), np.arange(len(rows)), firsts.astype(np.int64), starts, own, at)
    stretch = [int(np.searchsorted(firsts, row, side="right")) - 1 for row in rows]
    expected = sorted(range(len(rows)), key=stretch.__getitem__)
    assert at.tolist() == expected
    assert own.tolist() == [rows[i] - firsts[stretch[i]] for i in expected]
    assert starts.tolist() == [sum(s < k for s in stretch) for k in range(len(firsts))]


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_values_are_taken_from_any_address(width: int) -> None:
    random = np.random.default_rng(width)
    values = random.integers(0, 255, 40).astype(f"u{width}")
    rows, positions = random.integers(0, 40, 30), random.permutation(50)[:30]
    for take in (gather.take_by_width[width], plain(gather.take_by_width[width])):
        taken = np.zeros(50, f"u{width}")
        take(unaligned(values), rows, positions, taken)
        expected = np.zeros(50, f"u{width}")
        expected[positions] = values[rows]
        assert taken.tolist() == expected.tolist()
        for bad_rows, bad_positions in (([40], [0]), ([-1], [0]), ([0], [50]), ([0, 1], [0])):
            with pytest.raises(ValueError, match=r"out of range|differ in number"):
                take(values, int64(bad_rows), int64(bad_positions), taken)


@pytest.mark.parametrize("width", [4, 8])
def test_pages_of_many_columns_are_taken_from_a_file(width: int) -> None:
    random = np.random.default_rng(width)
    columns = random.integers(0, 2 ** (8 * width), (3, 40), f"u{width}", endpoint=False)
    memory = np.frombuffer(b"." + columns.tobytes() + b"...", np.uint8)
    rows, positions = random.integers(0, 40, 30), random.permutation(50)[:30]
    pages = int64([1, -1, 1 + 80 * width])
    taken = np.zeros((3, 50), f"u{width}")
    gather.take_from_pages[width](memory, pages, 40, rows, positions, taken)
    expected = np.zeros_like(taken)
    expected[0, positions], expected[2, positions] = columns[0, rows], columns[2, rows]
    assert taken.tolist() == expected.tolist()
    for bad in (
        (int64([5 + 80 * width]), 40, int64([0]), int64([0])),
        (int64([1]), 40, int64([40]), int64([0])),
        (int64([1]), 40, int64([-1]), int64([0])),
        (int64([1]), 40, int64([0]), int64([50])),
        (int64([1]), 2**60, int64([0]), int64([0])),
        (int64([1, 1]), 40, int64([0]), int64([0])),
    ):
        with pytest.raises(ValueError, match=r"out of range|differ in number"):
            gather.take_from_pages[width](memory, *bad, np.zeros((1, 50), f"u{width}"))


@pytest.mark.parametrize("width", [4, 8])
def test_rows_are_taken_one_after_the_other(width: int) -> None:
    values = np.random.default_rng(width).integers(0, 2 ** (8 * width), 9, f"u{width}")
    rows = np.array([8, -1, 0, 8], np.int32)
    for take in (gather.take_rows[width], plain(gather.take_rows[width])):
        taken = np.ones(4, f"u{width}")
        take(values, rows, taken)
        assert taken.tolist() == [values[8], 0, values[0], values[8]]
        for bad in (np.array([9, 0, 0, 0], np.int32), rows[:3]):
            with pytest.raises(ValueError, match=r"out of range|differ in number"):
                take(values, bad, taken)


@both_ways(gather.take_bits)
def test_bits_are_taken(kernels: Any) -> None:
    random = np.random.default_rng(9)
    bits = random.integers(0, 2, 40).astype(np.bool_)
    bitmap = np.packbits(bits, bitorder="little")
    rows, positions = random.integers(0, 30, 20), random.permutation(20)
    taken = np.zeros(20, np.bool_)
    kernels[0](bitmap, 7, 30, rows, positions, taken)
    expected = np.zeros(20, np.bool_)
    expected[positions] = bits[7:][rows]
    assert taken.tolist() == expected.tolist()
    for count, row, position in ((34, 0, 0), (30, 30, 0), (30, 0, 20)):
        with pytest.raises(ValueError, match=r"out of range|differ in number"):
            kernels[0](bitmap, 7, count, int64([row]), int64([position]), taken)


# ── last rows ────────────────────────────────────────────────────────────────────────────────


def last_twin(rows: list[Any], label: tuple[int, int], delay: int, max_age: int, n: int) -> Any:
    code, label_us = label
    found: list[int] = []
    for moment in sorted({t for c, t, *_ in rows if c == code}, reverse=True):
        if moment + delay > label_us or (max_age >= 0 and label_us - moment > max_age):
            continue
        at = [i for i, (c, t, _, known, *_) in enumerate(rows)
              if (c, t) == (code, moment) and known <= label_us]  # fmt: skip
        if at:
            newest = max(at, key=lambda i: rows[i][2])
            _, _, _, _, expires, deleted = rows[newest]
            if not deleted and expires > label_us:
                found.append(newest)
    return found[:n]


small = st.integers(0, 6)


@both_ways(last.order_ties, last.last_rows)
@given(
    drawn=st.lists(st.tuples(st.integers(0, 1), small, small, small | st.just(99), st.booleans()),
                   max_size=14),
    labels=st.lists(st.tuples(st.integers(0, 1), small), max_size=8),
    delay=st.integers(0, 2), max_age=st.integers(-1, 4), n=st.integers(1, 3), data=st.data(),
)  # fmt: skip
def test_the_last_rows(
    kernels: tuple[Callable[..., None], ...], drawn: Any, labels: Any, delay: int, max_age: int,
    n: int, data: st.DataObject,
) -> None:  # fmt: skip
    order_ties, last_rows = kernels
    seqs = data.draw(st.permutations(range(len(drawn))))
    rows = [(c, t, s, k, e, d) for (c, t, k, e, d), s in zip(drawn, seqs, strict=True)]
    history = asof.asof_prepare(int64(r[0] for r in rows), int64(r[1] for r in rows), 2)
    order = history.order.copy()
    order_ties(history.time_us, history.starts, int64(rows[i][2] for i in order), order)
    laid = asof.asof_prepare(int64(c for c, _ in labels), int64(t for _, t in labels), 2)
    sorted_rows = [rows[i] for i in order]
    assert sorted_rows == sorted(rows, key=lambda r: r[:3])
    found, lengths = np.zeros(n * len(labels), np.int64), np.zeros(len(labels), np.int64)
    last_rows(
        laid.starts, laid.time_us, history.starts,
        *(int64(r[i] for r in sorted_rows) for i in (1, 3, 4)),
        np.array([r[5] for r in sorted_rows], np.bool_), delay, max_age, found, lengths,
    )  # fmt: skip
    for place, number in enumerate(laid.order.tolist()):
        got = found[place * n : place * n + lengths[place]]
        assert [int(order[i]) for i in got] == last_twin(rows, labels[number], delay, max_age, n)
