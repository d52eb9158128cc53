"""As-of matching: for each label, the newest row of its key that was known at its time.

The labels are laid out once, by key and time.  History then streams past in any order, chunk by
chunk, and is never sorted: each row is put down at the first label that could have known it, where
only the newest row stays.  At the end one sweep carries each key's best row forward in time. ::

    labels of one key      L0            L1        L2                    L3
    ──────────────────────┬─────────────┬─────────┬─────────────────────┬──────────▶ time
    rows, known from:        b    a        d         c
                             └────┴────▶   └──────▶  └──────────────────▶
    asof_update puts down                newer of     d                    c
                                         a and b
    asof_finish carries     none          a or b      newest so far        newest so far

*m* rows of history against *n* labels of *k* keys cost O(m log(n/k) + n), in 24 bytes for each
label, whatever the length of history or the number of labels a key has.  Nothing depends on the
order of rows, so late rows, ties, publishing delays and arrival times need no special case:

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

from featurestore.kernels import INT64, INT64_READ, kernel

Int64 = npt.NDArray[np.int64]

NO_ROW = -1
INT64_MAX = 2**63 - 1

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
    order = np.lexsort((time_us, codes))
    order = order[np.searchsorted(codes[order], 0) :]  # keyless labels sort to the front
    best = np.zeros(order.size, BEST_DTYPE)
    best["row"] = NO_ROW
    starts = np.searchsorted(codes[order], np.arange(keys + 1))
    return AsofLabels(order, starts, np.ascontiguousarray(time_us[order]), best)


@kernel(INT64, INT64, _BEST_ROW, returns=types.boolean)
def _newer(event_us: int, seq: int, best: np.void) -> bool:
    """Say whether a row beats the best so far.  The order of everything: (event time, seq)."""
    if best["row"] == NO_ROW or event_us > best["event_time_us"]:
        return True
    return bool(event_us == best["event_time_us"] and seq > best["seq"])


@kernel(INT64_READ, INT64, INT64, INT64, returns=INT64)
def _first_known(label_us: Int64, low: int, high: int, known_us: int) -> int:
    """Return the first label of ``low:high`` at or after ``known_us``, or ``high``."""
    while low < high:
        middle = (low + high) // 2
        if label_us[middle] < known_us:
            low = middle + 1
        else:
            high = middle
    return low


@kernel(
    INT64_READ, INT64_READ, _BEST,
    INT64_READ, INT64_READ, INT64_READ, INT64_READ, INT64, INT64, INT64,
)  # fmt: skip
def asof_update(
    starts: Int64,
    label_us: Int64,
    best: npt.NDArray[np.void],
    codes: Int64,
    event_us: Int64,
    seq: Int64,
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
    event_us, seq : int64[m]
        Event time and sequence number.
    write_us : int64[m] or int64[0]
        When each row arrived; empty when only event times decide what is known.
    delay_us : int
        How long after its event time a row is published; not negative.
    seq_max : int
        Newest sequence number that counts.
    row_first : int
        Number of the chunk's first row in the caller's count of rows.
    """
    rows = codes.size
    if event_us.size != rows or seq.size != rows or write_us.size not in (0, rows):
        raise ValueError("columns of history differ in length")
    if delay_us < 0:
        raise ValueError("a delay is negative")
    event_us_max = INT64_MAX - delay_us  # beyond it a row is never known, and the sum would wrap
    for i in range(rows):
        code = codes[i]
        if code < 0 or seq[i] > seq_max or event_us[i] > event_us_max:
            continue
        if code >= starts.size - 1:
            raise ValueError("a key code of history is out of range")
        known_us = event_us[i] + delay_us
        if write_us.size > 0:
            known_us = max(known_us, write_us[i])
        at = _first_known(label_us, starts[code], starts[code + 1], known_us)
        if at < starts[code + 1] and _newer(event_us[i], seq[i], best[at]):
            best[at]["event_time_us"] = event_us[i]
            best[at]["seq"] = seq[i]
            best[at]["row"] = row_first + i


@kernel(INT64_READ, _BEST)
def asof_finish(starts: Int64, best: npt.NDArray[np.void]) -> None:
    """Carry each key's best row forward in time: a running maximum by (event time, seq).

    To be called once, after the last :func:`asof_update`; calling it again changes nothing.

    Examples
    --------
    >>> labels = asof_prepare(np.array([0, 0, 0]), np.array([10, 20, 30]), 1)
    >>> none = np.empty(0, np.int64)
    >>> code, event_us, seq = np.array([0, 0]), np.array([12, 5]), np.array([1, 2])
    >>> asof_update(*labels[1:], code, event_us, seq, none, 0, 2, 0)
    >>> asof_finish(labels.starts, labels.best)
    >>> labels.best["row"].tolist()
    [1, 0, 0]
    """
    for key in range(starts.size - 1):
        for i in range(starts[key] + 1, starts[key + 1]):
            before = best[i - 1]
            if before["row"] != NO_ROW and _newer(before["event_time_us"], before["seq"], best[i]):
                best[i] = before
