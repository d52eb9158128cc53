"""The order in which an epoch goes through a set: a function of seed and epoch alone.

::

    set        │ s0 │ s1 │ s2 │ s3 │ s4 │ s5 │ s6 │ s7 │     stripes of 4,096 rows, in time
    stream 0   │ s5 │ s2 │ s7 │ s0 │ s3 │ s6 │ s1 │ s4 │     the stripes in another order
    windows    └───── 0 ─────┘└───── 1 ─────┘└─── 2 …        so many stripes each
    stream w+1   every row of window w, put at a place of its own within the window
    batches    │ 0 │ 1 │ 2 │ 3 │ 4 │ …                       of that order; number i is for worker
                                                             i mod workers

A set lies in the order of time, and so do its stripes: a window of many stripes from all over the
set is what makes a batch look like the set.  Each epoch draws all of it anew.

The order knows nothing of batches and workers, so both may change when a run is resumed, and any
batch is found by where it begins: nothing is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from featurestore.kernels.rows import STRIPE_ROWS
from featurestore.kernels.shuffle import PLACES_MAX, shuffle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int32 = NDArray[np.int32]
    Int64 = NDArray[np.int64]


def stripes_of(row_groups: Sequence[int], first: int, end: int) -> Int64:
    """Return the stripes that rows ``first`` to ``end`` lie in, cut to these rows.

    Returns
    -------
    int64[s, 3]
        Row group, first row in it, number of rows.

    Examples
    --------
    >>> stripes_of([5000, 10], 100, 5004).tolist()
    [[0, 100, 3996], [0, 4096, 904], [1, 0, 4]]
    """
    found = []
    row = 0
    for group, rows in enumerate(row_groups):
        start, stop = max(first - row, 0), min(end - row, rows)
        row += rows
        if start >= stop:
            continue
        edges = np.arange(start // STRIPE_ROWS, -(-stop // STRIPE_ROWS) + 1) * STRIPE_ROWS
        edges = np.clip(edges, start, stop)
        numbers = np.full(edges.size - 1, group)
        found.append(np.column_stack([numbers, edges[:-1], np.diff(edges)]))
    return np.concatenate(found) if found else np.empty((0, 3), np.int64)


@dataclass(frozen=True)
class Epoch:
    """The order of one epoch.

    Attributes
    ----------
    stripes : int64[s, 3]
        In the order of the epoch; see :func:`stripes_of`.
    numbers : int64[s]
        Which stripe of the set each is.
    edges : int64[w + 1]
        Where in the order each window begins, and the end.
    window : int
        Stripes of a window.
    seed, number : int
        What it is drawn from; ``seed`` is None for the order of the set.
    """

    stripes: Int64
    numbers: Int64
    edges: Int64
    window: int
    seed: int | None
    number: int

    @classmethod
    def of(cls, stripes: Int64, window: int, seed: int | None, number: int) -> Epoch:
        """Draw the order of an epoch."""
        order = np.arange(len(stripes), dtype=np.int32)
        if seed is not None:
            shuffle(cast("int", np.uint64(seed)), number, 0, order)
        drawn = np.ascontiguousarray(stripes[order])
        ends = np.cumsum(drawn[:, 2])
        last = ends[window - 1 :: window]
        if len(stripes) % window:
            last = np.append(last, ends[-1:])
        edges = np.concatenate([[0], last]).astype(np.int64)
        if len(edges) > 1 and int(np.diff(edges).max()) > PLACES_MAX:
            raise ValueError("a window has more rows than int32 can number")
        return cls(drawn, order.astype(np.int64), edges, window, seed, number)

    @property
    def windows(self) -> int:
        """How many windows there are."""
        return len(self.edges) - 1

    def window_at(self, position: int) -> int:
        """Return the window that has a position of the order."""
        return int(np.searchsorted(self.edges, position, side="right")) - 1

    def stripes_in(self, window: int) -> Int64:
        """Return the stripes of a window."""
        return self.stripes[window * self.window : (window + 1) * self.window]

    def numbers_in(self, window: int) -> Int64:
        """Return which stripes of the set a window has."""
        return self.numbers[window * self.window : (window + 1) * self.window]

    def places(self, window: int, memory: Int32) -> Int32:
        """Return the place in the window of each row of its stripes; uses the memory given."""
        places = memory[: self.edges[window + 1] - self.edges[window]]
        if self.seed is None:
            places[:] = np.arange(places.size, dtype=np.int32)
        else:
            shuffle(cast("int", np.uint64(self.seed)), self.number, window + 1, places)
        return places
