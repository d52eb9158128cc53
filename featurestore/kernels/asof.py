"""As-of matching: for each label, the newest row of its key that was known at its time.

The labels are laid out once, by key and time.  History then comes past, and is never sorted here.
(Where there is much less of it than of labels, it is laid out, and :func:`asof_lookup` finds the
row of one label after the other.)  There are two ways to go through it, and a label keeps the
better of what both found:

* :func:`asof_runs`, where rows *are* sorted: files are, by key, event time and seq.  A run of one
  key meets the labels of that key, and both go forward together: a merge, which costs per run and
  per label, and nothing for the rows in between. ::

    labels of one key      L0            L1        L2                    L3
    ──────────────────────┬─────────────┬─────────┬─────────────────────┬──────────▶ time
    rows of its run          a     b          c        d    e    f
    each label takes               └──▶ L1    └──▶ L2            └──▶ L3   the last one before it

* :func:`asof_update`, where they are not, or where "known" is not decided by event time alone
  (arrival times, snapshots).  Each row is put down at the first label that could have known it,
  where only the newest row stays; :func:`asof_finish` then carries each key's best row forward in
  time.  *m* rows against *n* labels of *k* keys cost O(m log(n/k) + n).  The short runs of keys
  with many labels are put down, too. ::

    rows, known from:        b    a        d         c
                             └────┴────▶   └──────▶  └──────────────────▶
    asof_update puts down                newer of     d                    c
                                         a and b
    asof_finish carries     none          a or b      newest so far        newest so far

Nothing depends on the order in which files come, so late rows, ties, publishing delays and arrival
times need no special case:

=============  ===================================================================================
a row          is known at a label when ``event time + delay <= label time``, and, if asked for,
               ``write time <= label time``
newer          greater ``(event time, seq)``; two rows of one key never have both in common
as of          rows with ``seq > seq_max`` do not exist
tombstones     are rows like others: to be the newest known is what deletes the key
expiry, age    never change which row is the newest; the caller judges the row that was found
=============  ===================================================================================
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import from_dtype, types

from featurestore.kernels import BOOL_READ, INT64, INT64_FILE, INT64_READ, INT64_WRITE, kernel

Int64 = npt.NDArray[np.int64]

NO_ROW = -1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

BEST_DTYPE = np.dtype([("event_time_us", np.int64), ("seq", np.int64), ("row", np.int64)])
"""The best row put down at a label: side by side, because they are read and written together."""

_BEST_ROW = from_dtype(BEST_DTYPE)
_BEST = types.Array(_BEST_ROW, 1, "C")


class AsofLabels(NamedTuple):
    """The label side, laid out for :func:`asof_update`.

    Attributes
    ----------
    order : int64[n]
        Position of each laid-out label in the caller's order; labels without a key are left out.
    starts : int64[keys + 1]
        The labels of key *k* are ``time_us[starts[k]:starts[k + 1]]``.
    time_us : int64[n]
        Label times, ascending for each key.
    best : BEST_DTYPE[n]
        The best row so far for each label; ``row`` is ``NO_ROW`` where there is none.
    """

    order: Int64
    starts: Int64
    time_us: Int64
    best: npt.NDArray[np.void]


def asof_prepare(codes: Int64, time_us: Int64, keys: int) -> AsofLabels:
    """Lay out labels by key and time, with nothing matched yet.

    Parameters
    ----------
    codes : int64[n]
        Key of each label, ``0 <= code < keys``; negative for a label without a key.
    time_us : int64[n]
        Label times in microseconds.
    keys : int
        How many keys there are.

    Examples
    --------
    >>> labels = asof_prepare(np.array([1, 0, -1, 1]), np.array([30, 5, 7, 20]), 2)
    >>> labels.order.tolist(), labels.starts.tolist(), labels.time_us.tolist()
    ([1, 3, 0], [0, 1, 3], [5, 20, 30])
    """
    if codes.size and codes.max() >= keys:
        raise ValueError(f"a label's key code is {codes.max()}, but there are {keys} keys")
    if time_us.size != codes.size:
        raise ValueError("columns of labels differ in length")
    starts = np.zeros(keys + 1, np.int64)
    kept = _count(codes, starts)
    order, laid_us = np.empty(kept, np.int64), np.empty(kept, np.int64)
    _deal(codes, time_us, starts, order, laid_us)
    longest = int(np.diff(starts).max(initial=0))
    _sort_runs(starts, order, laid_us, np.empty((2, longest), np.int64))
    return AsofLabels(order, starts, laid_us, empty_best(kept))


def empty_best(labels: int) -> npt.NDArray[np.void]:
    """Return the best rows of labels for which nothing has been found."""
    best = np.zeros(labels, BEST_DTYPE)
    best["row"] = NO_ROW
    return best


@kernel(INT64_READ, INT64_WRITE, returns=INT64)
def _count(codes: Int64, starts: Int64) -> int:
    """Set where each key's labels begin; return how many labels have a key."""
    keys = starts.size - 1
    for i in range(codes.size):
        if codes[i] >= 0:
            starts[codes[i] + 1] += 1
    for key in range(keys):
        starts[key + 1] += starts[key]
    return int(starts[keys])


@kernel(INT64_READ, INT64_READ, INT64_READ, INT64_WRITE, INT64_WRITE)
def _deal(codes: Int64, time_us: Int64, starts: Int64, order: Int64, laid_us: Int64) -> None:
    """Deal labels out to their keys, in the order they come."""
    place = starts.copy()
    for i in range(codes.size):
        if codes[i] >= 0:
            at = place[codes[i]]
            place[codes[i]] = at + 1
            order[at], laid_us[at] = i, time_us[i]


_INSERTION_MAX = 40
_SIGN = np.uint64(1 << 63)
_TWO_ROWS = types.Array(types.int64, 2, "C")


@kernel(INT64_WRITE, INT64_WRITE, INT64, INT64)
def _insertion_sort(order: Int64, time_us: Int64, low: int, high: int) -> None:
    """Sort a short run, stably."""
    for i in range(low + 1, high):
        moved_us, moved = time_us[i], order[i]
        at = i
        while at > low and time_us[at - 1] > moved_us:
            time_us[at], order[at] = time_us[at - 1], order[at - 1]
            at -= 1
        time_us[at], order[at] = moved_us, moved


@kernel(INT64_WRITE, INT64_WRITE, INT64, INT64, _TWO_ROWS)
def _radix_sort(order: Int64, time_us: Int64, low: int, high: int, spare: Int64) -> None:
    """Sort a long run, stably: byte by byte, from the lowest to the highest that differs."""
    # With the sign bit flipped, times are in order as unsigned numbers, whose differences fit.
    base = np.uint64(time_us[low:high].min()) ^ _SIGN
    span = (np.uint64(time_us[low:high].max()) ^ _SIGN) - base
    counts = np.empty(257, np.int64)
    shift = np.uint64(0)
    while shift < 64 and span >> shift != 0:
        counts[:] = 0
        for i in range(low, high):
            byte = np.int64((((np.uint64(time_us[i]) ^ _SIGN) - base) >> shift) & np.uint64(255))
            counts[byte + 1] += 1
        for b in range(256):
            counts[b + 1] += counts[b]
        for i in range(low, high):
            byte = np.int64((((np.uint64(time_us[i]) ^ _SIGN) - base) >> shift) & np.uint64(255))
            at = counts[byte]
            counts[byte] = at + 1
            spare[0, at], spare[1, at] = time_us[i], order[i]
        for i in range(high - low):
            time_us[low + i], order[low + i] = spare[0, i], spare[1, i]
        shift += np.uint64(8)


@kernel(INT64_READ, INT64_WRITE, INT64_WRITE, _TWO_ROWS)
def _sort_runs(starts: Int64, order: Int64, time_us: Int64, spare: Int64) -> None:
    """Sort each key's labels by time, stably."""
    for key in range(starts.size - 1):
        low, high = starts[key], starts[key + 1]
        ascending = True
        for i in range(low + 1, high):
            if time_us[i] < time_us[i - 1]:
                ascending = False
                break
        if ascending:
            continue
        if high - low <= _INSERTION_MAX:
            _insertion_sort(order, time_us, low, high)
        else:
            _radix_sort(order, time_us, low, high, spare)


@kernel(_BEST_ROW, _BEST_ROW, returns=types.boolean)
def _newer(one: np.void, best: np.void) -> bool:
    """Say whether a best row beats another.  The order of everything: (event time, seq).

    Rows of one file may share a seq that stands for all of theirs; the later one is then newer.
    """
    if best["row"] == NO_ROW or one["event_time_us"] > best["event_time_us"]:
        return True
    if one["event_time_us"] < best["event_time_us"]:
        return False
    if one["seq"] != best["seq"]:
        return bool(one["seq"] > best["seq"])
    return bool(one["row"] > best["row"])


@kernel(_BEST, INT64, INT64, INT64, INT64)
def _put_down(best: npt.NDArray[np.void], at: int, event_us: int, seq: int, row: int) -> None:
    """Let a row be the best of a label, unless that has a newer one.

    Of two rows with one seq, which then stands for those of their whole file, the later is newer.
    No branch: which row is newer cannot be foreseen, and to write three numbers costs less.
    """
    now_us, now_seq, now_row = best[at]["event_time_us"], best[at]["seq"], best[at]["row"]
    newer = (
        (now_row == NO_ROW)
        | (event_us > now_us)
        | ((event_us == now_us) & ((seq > now_seq) | ((seq == now_seq) & (row > now_row))))
    )
    best[at]["event_time_us"] = event_us if newer else now_us
    best[at]["seq"] = seq if newer else now_seq
    best[at]["row"] = row if newer else now_row


@kernel(INT64_READ, INT64, INT64, INT64, returns=INT64)
def _first_known(label_us: Int64, low: int, high: int, known_us: int) -> int:
    """Return the first label of ``low:high`` at or after ``known_us``, or ``high``.

    Bisection without a branch: which half it is cannot be foreseen, and guessing costs more.
    """
    count = high - low
    while count > 1:
        half = count >> 1
        low += half * (label_us[low + half - 1] < known_us)
        count -= half
    if count == 1:
        low += 1 * (label_us[low] < known_us)
    return low


@kernel(INT64_FILE, INT64, INT64, INT64, returns=INT64)
def _last_upto(event_us: Int64, low: int, high: int, newest_us: int) -> int:
    """Return the last row of ``low:high`` at or before ``newest_us``, knowing that ``low`` is.

    Steps that double find the row near by, where it usually is, and bisection the rest.
    """
    step = 1
    while low + step < high and event_us[low + step] <= newest_us:
        low += step
        step *= 2
    high = min(high, low + step)
    while high - low > 1:
        middle = (low + high) // 2
        if event_us[middle] <= newest_us:
            low = middle
        else:
            high = middle
    return low


@kernel(INT64_FILE, INT64, INT64, INT64, returns=INT64)
def _row_near(event_us: Int64, low: int, high: int, newest_us: int) -> int:
    """Return the last row of ``low:high`` at or before ``newest_us``, knowing that ``low`` is.

    Rows of a key are often spread evenly over time: the search begins where the row would be then.
    """
    first_us, last_us = np.float64(event_us[low]), np.float64(event_us[high - 1])
    if newest_us >= event_us[high - 1]:
        return high - 1
    share = (np.float64(newest_us) - first_us) / (last_us - first_us)
    row = min(max(low + int(share * (high - 1 - low)), low), high - 1)
    step = 1
    while event_us[row] > newest_us:  # ends at ``low`` at the latest
        high, row = row, max(row - step, low)
        step *= 2
    return _last_upto(event_us, row, high, newest_us)


@kernel(
    INT64_READ, INT64_READ, INT64_READ, INT64_FILE, INT64_READ, BOOL_READ, INT64, INT64,
    types.Array(types.int32, 1, "C"),
)  # fmt: skip
def asof_lookup(
    codes: Int64,
    label_us: Int64,
    starts: Int64,
    event_us: Int64,
    expires_us: Int64,
    deleted: npt.NDArray[np.bool_],
    delay_us: int,
    max_age_us: int,
    found: npt.NDArray[np.int32],
) -> None:
    """Look up the row that answers each label, in history laid out by key, event time and seq.

    Parameters
    ----------
    codes, label_us : int64[n]
        Key and time of each label; a negative key has no rows.
    starts : int64[keys + 1]
        The rows of key *k* are ``event_us[starts[k]:starts[k + 1]]``.
    event_us : int64[m]
        Event times, ascending for each key.
    expires_us : int64[m] or int64[0]
        Until when rows live; empty where none expires.
    deleted : bool[m] or bool[0]
        Which are tombstones; empty where none is.
    delay_us : int
        How long after its event time a row is published; not negative.
    max_age_us : int
        How old a row may be; -1 for any age.
    found : int32[n]
        Set to the row of each label; -1 where there is none, or it is gone by then.

    Examples
    --------
    >>> found, none, alive = np.zeros(3, np.int32), np.empty(0, np.int64), np.empty(0, np.bool_)
    >>> asof_lookup(np.array([0, 0, -1]), np.array([15, 9, 15]), np.array([0, 2]),
    ...             np.array([10, 20]), none, alive, 0, -1, found)
    >>> found.tolist()
    [0, -1, -1]
    """
    rows = event_us.size
    if label_us.size != codes.size or found.size != codes.size:
        raise ValueError("columns of labels differ in length")
    if expires_us.size not in (0, rows) or deleted.size not in (0, rows):
        raise ValueError("columns of history differ in length")
    if delay_us < 0 or starts.size < 1 or starts[0] != 0 or starts[starts.size - 1] != rows:
        raise ValueError("a delay is negative, or starts are not those of the rows")
    for i in range(codes.size):
        found[i] = NO_ROW
        if codes[i] < 0:
            continue
        if codes[i] >= starts.size - 1:
            raise ValueError("a key code of a label is out of range")
        low, high = starts[codes[i]], starts[codes[i] + 1]
        if low == high or label_us[i] < INT64_MIN + delay_us:  # nothing is as old
            continue
        newest_us = label_us[i] - delay_us
        if newest_us < event_us[low]:
            continue
        row = _row_near(event_us, low, high, newest_us)
        # Cannot wrap: both are within the years 1 to 9999.
        if max_age_us >= 0 and label_us[i] - event_us[row] > max_age_us:
            continue
        if expires_us.size > 0 and expires_us[row] <= label_us[i]:
            continue
        if deleted.size > 0 and deleted[row]:
            continue
        found[i] = row


_PARTS = 128
_PARTED_ROWS = 1 << 21

# A run of fewer rows than labels is put down, row by row, if the labels are so many times more.
_FEW = 2


@kernel(
    INT64_READ, INT64_READ, INT64_READ, INT64, INT64, INT64,
    INT64, INT64, INT64, INT64_WRITE, _TWO_ROWS,
    returns=INT64,
)  # fmt: skip
def _part(
    codes: Int64,
    event_us: Int64,
    seq: Int64,
    keys: int,
    delay_us: int,
    seq_max: int,
    first: int,
    last: int,
    shift: int,
    ends: Int64,
    parted: Int64,
) -> int:
    """Part rows ``first:last`` that count by their keys' leading bits; return how many there are.

    A row becomes two numbers: its key and its place, and its event time.
    """
    event_us_max = INT64_MAX - delay_us  # beyond it a row is never known, and the sum would wrap
    ends[:] = 0
    for i in range(first, last):
        if codes[i] >= keys:
            raise ValueError("a key code of history is out of range")
        if codes[i] >= 0 and event_us[i] <= event_us_max and (seq.size == 0 or seq[i] <= seq_max):
            ends[codes[i] >> shift] += 1
    count = 0
    for part in range(ends.size):
        ends[part], count = count, count + ends[part]
    for i in range(first, last):
        if codes[i] >= 0 and event_us[i] <= event_us_max and (seq.size == 0 or seq[i] <= seq_max):
            at = ends[codes[i] >> shift]
            ends[codes[i] >> shift] = at + 1
            parted[at, 0], parted[at, 1] = codes[i] << 32 | (i - first), event_us[i]
    return count


@kernel(
    INT64_READ, INT64_READ, _BEST,
    INT64_READ, INT64_READ, INT64_READ, INT64, INT64_READ, INT64, INT64, INT64,
)  # fmt: skip
def asof_update(
    starts: Int64,
    label_us: Int64,
    best: npt.NDArray[np.void],
    codes: Int64,
    event_us: Int64,
    seq: Int64,
    seq_of_all: int,
    write_us: Int64,
    delay_us: int,
    seq_max: int,
    row_first: int,
) -> None:
    """Let one chunk of history, in any order, improve the best rows.

    Parameters
    ----------
    starts, label_us, best
        Of :func:`asof_prepare`; ``best`` is changed in place.
    codes : int64[m]
        Key of each row, as the labels are coded; negative for a key that no label has.
    event_us : int64[m]
        Event times.
    seq : int64[m] or int64[0]
        Sequence numbers; empty where ``seq_of_all`` and the order of the rows tell enough.
    seq_of_all : int
        Where there are no others: a number that compares as each of them would with those of any
        other file.  Of two rows of this one with one key and event time, the later is the newer.
    write_us : int64[m] or int64[0]
        When each row arrived; empty when only event times decide what is known.
    delay_us : int
        How long after its event time a row is published; not negative.
    seq_max : int
        Newest sequence number that counts, where there are any.
    row_first : int
        Number of the chunk's first row in the caller's count of rows.
    """
    rows, keys = codes.size, starts.size - 1
    if event_us.size != rows or seq.size not in (0, rows) or write_us.size not in (0, rows):
        raise ValueError("columns of history differ in length")
    if delay_us < 0:
        raise ValueError("a delay is negative")
    # Labels and best rows of a key are somewhere in memory, and each row would wait for them.  So
    # rows are parted by key first, some millions at a time; then those of a part stay in cache.
    shift = 0
    while keys >> shift > _PARTS:
        shift += 1
    ends = np.empty((keys >> shift) + 1, np.int64)
    parted = np.empty((min(rows, _PARTED_ROWS), 2), np.int64)
    for first in range(0, rows, _PARTED_ROWS):
        last = min(first + _PARTED_ROWS, rows)
        count = _part(codes, event_us, seq, keys, delay_us, seq_max,
                      first, last, shift, ends, parted)  # fmt: skip
        for i in range(count):
            code, row = parted[i, 0] >> 32, first + (parted[i, 0] & 0xFFFF_FFFF)
            known_us = parted[i, 1] + delay_us
            if write_us.size > 0:
                known_us = max(known_us, write_us[row])
            end = starts[code + 1]
            at = _first_known(label_us, starts[code], end, known_us)
            if at < end:
                row_seq = seq[row] if seq.size > 0 else seq_of_all
                _put_down(best, at, parted[i, 1], row_seq, row_first + row)


@kernel(
    INT64_READ, INT64_READ, _BEST,
    INT64_READ, INT64_READ, INT64_FILE, INT64_READ, INT64, INT64, INT64,
    returns=types.boolean,
)  # fmt: skip
def asof_runs(
    starts: Int64,
    label_us: Int64,
    best: npt.NDArray[np.void],
    run_starts: Int64,
    run_codes: Int64,
    event_us: Int64,
    seq: Int64,
    seq_of_all: int,
    delay_us: int,
    row_first: int,
) -> bool:
    """Let one stretch of sorted history improve the best rows.

    Parameters
    ----------
    starts, label_us, best
        Of :func:`asof_prepare`; ``best`` is changed in place, and only for keys of these runs.
    run_starts : int64[r]
        First row of each run of one key, ascending; the last run ends with the stretch.
    run_codes : int64[r]
        Key of each run, as the labels are coded; negative for a key that no label has.
    event_us : int64[m]
        Event times, ascending within a run.
    seq : int64[m] or int64[0]
        Sequence numbers, ascending where event times are equal.  Empty where ``seq_of_all`` and
        the order of the rows tell enough.
    seq_of_all : int
        As of :func:`asof_update`.
    delay_us : int
        How long after its event time a row is published; not negative.
    row_first : int
        Number of the stretch's first row in the caller's count of rows.

    Returns
    -------
    bool
        Whether some rows were put down only, so that :func:`asof_finish` is needed.
    """
    rows, runs = event_us.size, run_starts.size
    if run_codes.size != runs or seq.size not in (0, rows):
        raise ValueError("columns of history differ in length")
    if delay_us < 0:
        raise ValueError("a delay is negative")
    put_down = False
    for run in range(runs):
        code = run_codes[run]
        if code < 0:
            continue
        if code >= starts.size - 1:
            raise ValueError("a key code of history is out of range")
        low = run_starts[run]
        high = run_starts[run + 1] if run + 1 < runs else rows
        if not 0 <= low < high <= rows:
            raise ValueError("a run of history is out of range")
        if event_us[low] > INT64_MAX - delay_us:  # beyond it a row is never known
            continue
        first, end = starts[code], starts[code + 1]
        if _FEW * (high - low) < end - first:
            # To go through all labels for a few rows would cost more than to put those down.
            put_down = True
            for row in range(low, high):
                if event_us[row] > INT64_MAX - delay_us:
                    break
                first = _first_known(label_us, first, end, event_us[row] + delay_us)
                if first == end:
                    break
                row_seq = seq[row] if seq.size > 0 else seq_of_all
                _put_down(best, first, event_us[row], row_seq, row_first + row)
            continue
        row = low  # the last known row of the labels so far, and the first that may be known next
        for i in range(_first_known(label_us, first, end, event_us[low] + delay_us), end):
            # Cannot wrap: the label is not before the first row's event time plus the delay.
            row = _last_upto(event_us, row, high, label_us[i] - delay_us)
            row_seq = seq[row] if seq.size > 0 else seq_of_all
            _put_down(best, i, event_us[row], row_seq, row_first + row)
    return put_down


@kernel(INT64_READ, _BEST, INT64, INT64, INT64, returns=types.boolean)
def asof_pending(
    label_us: Int64, best: npt.NDArray[np.void], delay_us: int, oldest_us: int, newest_us: int
) -> bool:
    """Say whether any label could still get a better row from those of a stretch of event time.

    Parameters
    ----------
    label_us, best
        Of :func:`asof_prepare`.
    delay_us : int
        How long after its event time a row is published; not negative.
    oldest_us, newest_us : int
        The first and the last event time of the stretch.

    Examples
    --------
    >>> labels = asof_prepare(np.array([0]), np.array([10]), 1)
    >>> [asof_pending(*labels[2:], 0, 5, 7), asof_pending(*labels[2:], 0, 11, 12)]
    [True, False]
    """
    if oldest_us > INT64_MAX - delay_us:
        return False
    for i in range(label_us.size):
        if label_us[i] >= oldest_us + delay_us and (
            best[i]["row"] == NO_ROW or best[i]["event_time_us"] <= newest_us
        ):
            return True
    return False


@kernel(INT64_READ, _BEST)
def asof_finish(starts: Int64, best: npt.NDArray[np.void]) -> None:
    """Carry each key's best row forward in time: a running maximum by (event time, seq).

    To be called once, after the last :func:`asof_update`; calling it again changes nothing.

    Examples
    --------
    >>> labels = asof_prepare(np.array([0, 0, 0]), np.array([10, 20, 30]), 1)
    >>> none = np.empty(0, np.int64)
    >>> code, event_us, seq = np.array([0, 0]), np.array([12, 5]), np.array([1, 2])
    >>> asof_update(*labels[1:], code, event_us, seq, 0, none, 0, 2, 0)
    >>> asof_finish(labels.starts, labels.best)
    >>> labels.best["row"].tolist()
    [1, 0, 0]
    """
    for key in range(starts.size - 1):
        for i in range(starts[key] + 1, starts[key + 1]):
            before = best[i - 1]
            if before["row"] != NO_ROW and _newer(before, best[i]):
                best[i] = before


@kernel(INT64_READ, _BEST, INT64_WRITE, INT64_WRITE, INT64_WRITE, returns=INT64)
def asof_collect(
    order: Int64, best: npt.NDArray[np.void], answered: Int64, rows: Int64, event_us: Int64
) -> int:
    """Write down the labels that have a row, in the order they are laid out, and what it is.

    Parameters
    ----------
    order, best
        Of :func:`asof_prepare`; ``best`` is made empty again, for another search.
    answered, rows : int64[n]
        Set, as far as the number returned, to labels, and numbers of rows.
    event_us : int64[n] or int64[0]
        Set to event times, if they are wanted.

    Examples
    --------
    >>> labels = asof_prepare(np.array([0, 0]), np.array([10, 20]), 1)
    >>> labels.best[1] = (12, 3, 7)
    >>> found = [np.zeros(2, np.int64) for _ in range(3)]
    >>> asof_collect(labels.order, labels.best, *found), [int(column[0]) for column in found]
    (1, [1, 7, 12])
    """
    wanted = event_us.size > 0
    if min(best.size, answered.size, rows.size) < order.size:
        raise ValueError("columns of labels differ in length")
    if wanted and event_us.size < order.size:
        raise ValueError("columns of labels differ in length")
    count = 0
    for i in range(order.size):
        if best[i]["row"] != NO_ROW:
            answered[count] = order[i]
            rows[count] = best[i]["row"]
            if wanted:
                event_us[count] = best[i]["event_time_us"]
            best[i]["row"] = NO_ROW
            count += 1
    return count
