"""The as-of kernel against its twin, which is the law itself: ``record.resolve``, label by label.

Everything is checked twice, compiled and as plain Python, because the two fail differently: only
compiled code wraps an int64, only Python stops at an index out of range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.event_time import NO_EXPIRY
from featurestore.kernels import asof
from featurestore.record import Version, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
NO_WRITE_TIMES = np.empty(0, np.int64)


def plain(kernel: Any) -> Any:
    """Return the Python function a kernel was compiled from."""
    return getattr(kernel, "py_func", kernel)


COMPILED = (asof.asof_update, asof.asof_finish)
PLAIN = (plain(asof.asof_update), plain(asof.asof_finish))
both_ways = pytest.mark.parametrize("kernels", [COMPILED, PLAIN], ids=["compiled", "plain"])


@dataclass(frozen=True)
class Row:
    """One row of history; its number is its place in the list, its seq is not."""

    code: int
    event_us: int
    seq: int
    write_us: int


@dataclass(frozen=True)
class Case:
    labels: list[tuple[int, int]]
    rows: list[Row]
    delay_us: int
    seq_max: int
    by_write_time: bool
    chunk_ends: list[int]


# ── the twin ─────────────────────────────────────────────────────────────────────────────────


def twin(case: Case) -> list[int]:
    """Return the number of the row that answers each label, -1 for none; slow and obvious."""
    number = {row.seq: i for i, row in enumerate(case.rows)}
    answers = []
    for code, label_us in case.labels:
        history = [
            Version(row.event_us, row.seq, row.write_us, NO_EXPIRY, False, {})
            for row in case.rows
            if code >= 0 and row.code == code
        ]
        _, newest = resolve(
            history,
            label_us,
            label_us,
            seq_max=case.seq_max,
            delay_us=case.delay_us,
            known_by_write_time=case.by_write_time,
        )
        answers.append(-1 if newest is None else number[newest.seq])
    return answers


def kernel(
    case: Case,
    kernels: tuple[Callable[..., None], Callable[..., None]],
    *,
    without_seqs: bool = False,
) -> list[int]:
    """Return the same from the kernel, history given to it in chunks."""
    update, finish = kernels
    codes, label_us = int64(c for c, _ in case.labels), int64(t for _, t in case.labels)
    labels = asof.asof_prepare(codes, label_us, 1 + max([0, *codes.tolist()]))
    first = 0
    for end in [*case.chunk_ends, len(case.rows)]:
        rows = case.rows[first:end]
        update(
            *labels[1:],
            int64(r.code if r.code < len(labels.starts) - 1 else -1 for r in rows),
            int64(r.event_us for r in rows),
            int64(() if without_seqs else (r.seq for r in rows)),
            rows[-1].seq if rows else 0,
            int64(r.write_us for r in rows) if case.by_write_time else NO_WRITE_TIMES,
            case.delay_us,
            case.seq_max,
            first,
        )
        first = end
    finish(labels.starts, labels.best)
    answers = np.full(len(case.labels), -1)
    answers[labels.order] = labels.best["row"]
    return answers.tolist()


def int64(values: Any) -> np.ndarray:
    return np.array(list(values), np.int64)


# ── the property ─────────────────────────────────────────────────────────────────────────────

# A handful of moments makes ties, boundaries and late rows the rule, and every label that could
# tell is asked about; the ends of int64 are where a sum wraps.
MOMENTS = range(7)
ENDS = (INT64_MIN, INT64_MIN + 1, 0, INT64_MAX - 3, INT64_MAX - 2, INT64_MAX)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    moments, delays = draw(st.sampled_from([(MOMENTS, range(4)), (ENDS, (0, 1, *ENDS[-3:]))]))
    moment = st.sampled_from(moments)
    size = draw(st.integers(0, 24))
    drawn = st.tuples(st.integers(-1, 2), moment, moment)
    rows = draw(st.lists(drawn, min_size=size, max_size=size))
    seqs = draw(st.permutations(range(1, size + 1)))
    asked = draw(st.sets(st.integers(-1, 1)))
    return Case(
        labels=draw(st.permutations([(code, t) for code in asked for t in [*moments, moments[0]]])),
        rows=[Row(c, e, s, w) for (c, e, w), s in zip(rows, seqs, strict=True)],
        delay_us=draw(st.sampled_from(delays)),
        seq_max=draw(st.integers(0, size + 1) | st.just(INT64_MAX)),
        by_write_time=draw(st.booleans()),
        chunk_ends=sorted(draw(st.lists(st.integers(0, size), max_size=3))),
    )


@both_ways
@given(case=cases())
def test_the_kernel_answers_as_the_law_does(case: Case, kernels: Any) -> None:
    assert kernel(case, kernels) == twin(case)


@both_ways
@given(case=cases())
def test_rows_in_the_order_of_their_seqs_need_none(case: Case, kernels: Any) -> None:
    rows = sorted(case.rows, key=lambda row: row.seq)
    case = replace(case, rows=rows, seq_max=INT64_MAX, by_write_time=False)
    assert kernel(case, kernels, without_seqs=True) == twin(case)


@both_ways
def test_a_large_case(kernels: Any) -> None:
    """Many labels of few keys, and many keys of few labels: paths that small cases hardly take."""
    random = np.random.default_rng(7)
    for keys in (1, 3, 200):
        rows = [
            Row(int(c), int(e), seq, int(w))
            for seq, (c, e, w) in enumerate(random.integers(0, (keys, 60, 60), (300, 3)))
        ]
        labels = [(int(c), int(t)) for c, t in random.integers(0, (keys, 70), (100, 2))]
        case = Case(labels, rows, 3, 250, by_write_time=True, chunk_ends=[100, 101, 250])
        assert kernel(case, kernels) == twin(case)


# ── single rules, each by an example ─────────────────────────────────────────────────────────


def answer(labels: list[int], rows: list[tuple[int, int]], **how: Any) -> list[int]:
    """Ask about one key: rows are (event time, seq)."""
    case = Case(
        [(0, t) for t in labels],
        [Row(0, e, s, how.get("write_us", 0)) for e, s in rows],
        how.get("delay_us", 0),
        how.get("seq_max", INT64_MAX),
        "write_us" in how,
        [],
    )
    return kernel(case, COMPILED)


def test_a_row_at_the_label_is_known() -> None:
    assert answer([9, 10, 11], [(10, 1)]) == [-1, 0, 0]


def test_of_two_rows_of_one_time_the_later_accepted_wins_in_either_order() -> None:
    assert answer([10], [(10, 1), (10, 2)]) == [1]
    assert answer([10], [(10, 2), (10, 1)]) == [0]


def test_a_late_row_does_not_replace_a_newer_one() -> None:
    assert answer([10, 20], [(10, 1), (20, 2), (5, 3)]) == [0, 1]


def test_a_newer_row_known_earlier_outlives_an_older_one_known_at_once() -> None:
    # The delay moves both, so the order of event times stays; a write time moves only one.
    assert answer([14, 15, 24, 25], [(10, 1), (20, 2)], delay_us=5) == [-1, 0, 0, 1]
    assert answer([29, 30], [(10, 1)], write_us=30) == [-1, 0]


def test_a_sum_that_would_wrap_is_never_known() -> None:
    assert answer([INT64_MIN, 0, INT64_MAX], [(10, 1)], delay_us=INT64_MAX) == [-1, -1, -1]
    assert answer([INT64_MAX], [(10, 1)], delay_us=INT64_MAX - 10) == [0]


def test_labels_without_a_key_and_no_labels_at_all() -> None:
    labels = asof.asof_prepare(int64([-1, -1]), int64([1, 2]), 0)
    assert labels.order.size == 0
    asof.asof_update(*labels[1:], int64([-1]), int64([1]), int64([1]), 0, NO_WRITE_TIMES, 0, 9, 0)
    asof.asof_finish(labels.starts, labels.best)
    assert kernel(Case([], [Row(0, 1, 1, 1)], 0, 9, False, []), COMPILED) == []


def test_finishing_twice_changes_nothing() -> None:
    labels = asof.asof_prepare(int64([0, 0]), int64([5, 9]), 1)
    asof.asof_update(*labels[1:], int64([0]), int64([5]), int64([1]), 0, NO_WRITE_TIMES, 0, 9, 0)
    asof.asof_finish(labels.starts, labels.best)
    once = labels.best.copy()
    asof.asof_finish(labels.starts, labels.best)
    assert labels.best.tolist() == once.tolist()


@both_ways
def test_bad_arguments_are_refused_not_read_past_their_end(kernels: Any) -> None:
    update, _ = kernels
    labels = asof.asof_prepare(int64([0]), int64([5]), 1)
    one, two = int64([0]), int64([0, 0])
    for bad in (
        (two, one, one, 0, NO_WRITE_TIMES, 0),
        (one, two, one, 0, NO_WRITE_TIMES, 0),
        (one, one, two, 0, NO_WRITE_TIMES, 0),
        (one, one, one, 0, two, 0),
        (one, one, one, 0, NO_WRITE_TIMES, -1),
        (int64([1]), one, one, 0, NO_WRITE_TIMES, 0),
    ):
        with pytest.raises(ValueError, match=r"differ in length|negative|out of range"):
            update(*labels[1:], *bad, INT64_MAX, 0)
    with pytest.raises(ValueError, match="2, but there are 2 keys"):
        asof.asof_prepare(int64([2]), int64([5]), 2)


def test_arrow_memory_is_read_in_place() -> None:
    """Columns of a file are read-only arrays; a kernel that copied or refused them would not do."""
    labels = asof.asof_prepare(int64([0]), int64([5]), 1)
    column = int64([0])
    column.setflags(write=False)
    asof.asof_update(*labels[1:], column, column, column, 0, column, 0, 9, 40)
    assert labels.best["row"].tolist() == [40]
