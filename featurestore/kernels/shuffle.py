"""Orders drawn from a seed: permutations that are the same on every machine and in every version.

numpy may change what its generators draw (NEP 19), and the order in which a model saw its rows has
to be drawn again years later.  So it is drawn here, from Philox4x32-10, a generator without state:
block ``i`` of a stream is a function of (key, counter) alone, and any part of any epoch can be had
without what came before it::

    key      seed, low word │ high word
    counter  block │ stream │ epoch │ 0        -> four words of 32 bits

    j. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011

A permutation is Fisher and Yates' shuffle, each index by Lemire's multiplication with rejection
("Fast random integer generation in an interval", 2019), so all are equally likely.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types

from featurestore.kernels import INT64, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32 = NDArray[np.int32]

_INT32_WRITE = types.Array(types.int32, 1, "C")
_INT32_READ = types.Array(types.int32, 1, "C", readonly=True)

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_ROUND_A, _ROUND_B = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_A, _WEYL_B = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10
_ZERO, _TWO_TO_32 = np.uint64(0), np.uint64(1 << 32)
_BLOCKS = 64  # drawn at a time, so that the compiler can draw several at once

#: Rows that one permutation can have: places are int32, and 32 bits choose among them.
PLACES_MAX = 2**31 - 1


@njit(inline="always")
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> tuple[Any, Any, Any, Any]:
    """Return the four words of a block; all words are uint64 below 2**32."""
    for _ in range(_ROUNDS):
        a, b = _ROUND_A * c0, _ROUND_B * c2
        c0, c1, c2, c3 = (b >> _32) ^ c1 ^ k0, b & _LOW, (a >> _32) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + _WEYL_A) & _LOW, (k1 + _WEYL_B) & _LOW
    return c0, c1, c2, c3


@kernel(types.uint64, INT64, INT64, _INT32_WRITE)
def shuffle(seed: int, epoch: int, stream: int, places: Int32) -> None:
    """Set ``places`` to a permutation of 0, 1, … drawn from a seed, for a stream of an epoch.

    Parameters
    ----------
    seed : uint64
        The key.
    epoch, stream : int64
        Which permutation of the seed; both from 0 to 2**32 - 1.
    places : int32[n]
        Overwritten.

    Examples
    --------
    >>> places = np.empty(6, np.int32)
    >>> shuffle(7, 0, 0, places)
    >>> places.tolist()
    [1, 2, 4, 0, 3, 5]
    """
    if not (0 <= epoch < 2**32 and 0 <= stream < 2**32):
        raise ValueError("an epoch or a stream is out of range")
    n = places.size
    for i in range(n):
        places[i] = i
    k0, k1 = np.uint64(seed) & _LOW, np.uint64(seed) >> _32
    words = np.empty((_BLOCKS, 4), np.uint64)
    drawn, used = 0, 4 * _BLOCKS
    for last in range(n - 1, 0, -1):
        bound = np.uint64(last + 1)
        while True:
            if used == 4 * _BLOCKS:
                for i in range(_BLOCKS):
                    words[i, 0], words[i, 1], words[i, 2], words[i, 3] = philox(
                        np.uint64(drawn + i), np.uint64(stream), np.uint64(epoch), _ZERO, k0, k1
                    )
                drawn += _BLOCKS
                used = 0
            product = words[used >> 2, used & 3] * bound
            used += 1
            low = product & _LOW
            # The first multiples would be drawn once too often: those are drawn again.
            if low >= bound or low >= (_TWO_TO_32 - bound) % bound:
                break
        other = np.int64(product >> _32)
        places[last], places[other] = places[other], places[last]


@kernel(_INT32_WRITE, INT64, INT64, INT64, INT64, INT64)
def place_batches(
    places: Int32, first: int, batch: int, workers: int, worker: int, base: int
) -> None:
    """Turn places in a window into places in a worker's block; -1 for rows of other workers.

    Batch ``i`` of the global order belongs to worker ``i mod workers``, which has its batches one
    after the other.

    Parameters
    ----------
    places : int32[n]
        Places in the window, overwritten.
    first : int64
        Place of the window's first row in the global order.
    batch, workers, worker : int64
        Rows of a batch, how many workers there are, and which one this is.
    base : int64
        The worker's row at which its block begins; rows before it get -1.

    Examples
    --------
    >>> places = np.arange(6, dtype=np.int32)
    >>> place_batches(places, 0, 2, 2, 1, 0)
    >>> places.tolist()
    [-1, -1, 0, 1, -1, -1]
    """
    for i in range(places.size):
        position = first + places[i]
        if workers == 1:
            place = position - base
        else:
            number = position // batch
            place = number // workers * batch + position - number * batch - base
            if number % workers != worker:
                place = -1
        places[i] = max(place, -1)


@kernel(_INT32_READ, _INT32_WRITE)
def invert(places: Int32, rows: Int32) -> None:
    """Set ``rows`` to the inverse of a permutation: which row is at each place.

    Examples
    --------
    >>> rows = np.empty(3, np.int32)
    >>> invert(np.array([2, 0, 1], np.int32), rows)
    >>> rows.tolist()
    [1, 2, 0]
    """
    n = places.size
    if rows.size != n:
        raise ValueError("rows and places differ in number")
    for i in range(n):
        place = places[i]
        if not 0 <= place < n:
            raise ValueError("a place is out of range")
        rows[place] = i
