"""The last rows of a key at or before each label: as-of matching that goes on backwards.

::

    history of one key, by (event time, seq)     a   b   c  c'  d ✝  e
    label                                                          ▲
    gone through                                 ◀── 3 ── 2 ── 1 ──┘   one row for each event time

Both sides are laid out by key and time first (``asof.asof_prepare``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featurestore.kernels import BOOL_READ, INT64, INT64_READ, INT64_WRITE, kernel

Int64 = npt.NDArray[np.int64]

INT64_MIN = -(2**63)


@kernel(INT64_READ, INT64_READ, INT64_WRITE, INT64_WRITE)
def order_ties(event_us: Int64, starts: Int64, seq: Int64, order: Int64) -> None:
    """Put rows of one key and event time in the order of their seqs.

    Parameters
    ----------
    event_us : int64[m]
        Event times, ascending for each key.
    starts : int64[keys + 1]
        Where each key's rows begin.
    seq, order : int64[m]
        Seq of each row, and what goes with it; both are put in order.

    Examples
    --------
    >>> seq, order = np.array([9, 3, 1]), np.array([0, 1, 2])
    >>> order_ties(np.array([5, 5, 6]), np.array([0, 3]), seq, order)
    >>> order.tolist()
    [1, 0, 2]
    """
    for key in range(starts.size - 1):
        for i in range(starts[key] + 1, starts[key + 1]):
            moved, moved_seq, at = order[i], seq[i], i
            while at > starts[key] and event_us[at - 1] == event_us[i] and seq[at - 1] > moved_seq:
                order[at], seq[at] = order[at - 1], seq[at - 1]
                at -= 1
            order[at], seq[at] = moved, moved_seq


@kernel(
    INT64_READ, INT64_READ,
    INT64_READ, INT64_READ, INT64_READ, INT64_READ, BOOL_READ,
    INT64, INT64, INT64_WRITE, INT64_WRITE,
)  # fmt: skip
def last_rows(
    label_starts: Int64,
    label_us: Int64,
    starts: Int64,
    event_us: Int64,
    known_us: Int64,
    expires_us: Int64,
    deleted: npt.NDArray[np.bool_],
    delay_us: int,
    max_age_us: int,
    found: Int64,
    lengths: Int64,
) -> None:
    """Find the last rows of each label, newest first.

    Parameters
    ----------
    label_starts, label_us
        Labels, laid out by key and time.
    starts : int64[keys + 1]
        Where the rows of each key begin.
    event_us, known_us, expires_us : int64[m], deleted : bool[m]
        Rows by key, event time and seq: when they were, since when they were written, until when
        they live, whether they are tombstones.
    delay_us, max_age_us : int
        How long after its event time a row is published; how old it may be, -1 for any age.
    found : int64[n * labels]
        Set to the rows of each label, the first ``lengths[i]`` of its ``n`` places.
    lengths : int64[labels]
        Set to how many each has.

    Examples
    --------
    >>> found, lengths = np.zeros(2, np.int64), np.zeros(1, np.int64)
    >>> event, never = np.array([1, 4, 5]), np.full(3, 2**63 - 1)
    >>> keys, alive = np.array([0, 3]), np.zeros(3, np.bool_)
    >>> label = np.array([0, 1]), np.array([9])
    >>> last_rows(*label, keys, event, event, never, alive, 0, -1, found, lengths)
    >>> found.tolist(), lengths.tolist()
    ([2, 1], [2])
    """
    rows, labels = event_us.size, label_us.size
    if known_us.size != rows or expires_us.size != rows or deleted.size != rows:
        raise ValueError("columns of history differ in length")
    if label_starts.size != starts.size or lengths.size != labels or delay_us < 0:
        raise ValueError("labels and history are not of the same keys")
    places = found.size // labels if labels > 0 else 0
    for key in range(starts.size - 1):
        first = starts[key]
        for i in range(label_starts[key], label_starts[key + 1]):
            lengths[i] = 0
            if label_us[i] < INT64_MIN + delay_us:  # nothing is as old, and the sum would wrap
                continue
            low, high = first, starts[key + 1]
            while low < high:
                middle = (low + high) // 2
                if event_us[middle] <= label_us[i] - delay_us:
                    low = middle + 1
                else:
                    high = middle
            row = low - 1
            while row >= first and lengths[i] < places:
                moment = event_us[row]
                # Cannot wrap: both are within the years 1 to 9999.
                if max_age_us >= 0 and label_us[i] - moment > max_age_us:
                    break
                newest = -1
                while row >= first and event_us[row] == moment:
                    if newest < 0 and known_us[row] <= label_us[i]:
                        newest = row
                    row -= 1
                if newest >= 0 and not deleted[newest] and expires_us[newest] > label_us[i]:
                    found[i * places + lengths[i]] = newest
                    lengths[i] += 1
