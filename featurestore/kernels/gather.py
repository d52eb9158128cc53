"""Gathering: values of some rows of a stretch of history, put down at the labels they answer.

::

    stretch   │ a │ b │ c │ d │ e │ …          rows        0  2  2  4
                │       │ └───┐   └────┐       positions   7  1  3  0
    result    │ e │ c │   │ c │   │   │   │ a │

A stretch is one page of a mapped file, or a decoded column.  Its rows come in ascending order, so
it is read forwards; the result is written wherever its labels were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from featurestore.kernels import BOOL_WRITE, BYTES_READ, INT64, INT64_READ, INT64_WRITE, kernel
from featurestore.kernels.memory import load_i64, load_u32

Int64 = npt.NDArray[np.int64]


@kernel(INT64_READ, INT64_READ, INT64_READ, INT64_WRITE, INT64_WRITE, INT64_WRITE)
def part_by_stretch(
    rows: Int64,
    positions: Int64,
    firsts: Int64,
    starts: Int64,
    stretch_rows: Int64,
    stretch_positions: Int64,
) -> None:
    """Part rows by the stretch they lie in, keeping their order.

    Parameters
    ----------
    rows, positions : int64[n]
        Row numbers over all stretches, and what goes with them.
    firsts : int64[s + 1]
        First row of each stretch, ascending, and the end of the last.
    starts : int64[s + 1]
        Set to where each stretch's rows begin in the next two.
    stretch_rows, stretch_positions : int64[n]
        Set to the rows, counted from the first of their stretch, and what goes with them.

    Examples
    --------
    >>> starts, own, at = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(3, np.int64)
    >>> rows, positions, firsts = np.array([12, 3, 10]), np.array([0, 1, 2]), np.array([0, 10, 20])
    >>> part_by_stretch(rows, positions, firsts, starts, own, at)
    >>> starts.tolist(), own.tolist(), at.tolist()
    ([0, 1, 3], [3, 2, 0], [1, 0, 2])
    """
    stretches = firsts.size - 1
    where = np.empty(rows.size, np.int32)
    starts[:] = 0
    stretch = 0
    for i in range(rows.size):
        row = rows[i]
        if not firsts[0] <= row < firsts[stretches]:
            raise ValueError("a row lies in no stretch")
        if not firsts[stretch] <= row < firsts[stretch + 1]:
            stretch = np.searchsorted(firsts, row, side="right") - 1
        where[i] = stretch
        starts[stretch + 1] += 1
    for stretch in range(stretches):
        starts[stretch + 1] += starts[stretch]
    place = starts.copy()
    for i in range(rows.size):
        at = place[where[i]]
        place[where[i]] = at + 1
        stretch_rows[at] = rows[i] - firsts[where[i]]
        stretch_positions[at] = positions[i]


def _page_taker(load: Any, width_type: Any, width: int) -> Any:
    """Return the kernel that gathers from pages of a mapped file, by bytes a value."""

    @kernel(BYTES_READ, INT64_READ, INT64, INT64_READ, INT64_READ, types.Array(width_type, 2, "C"))
    def take(
        memory: npt.NDArray[np.uint8],
        pages: Int64,
        count: int,
        rows: Int64,
        positions: Int64,
        taken: Any,
    ) -> None:
        columns, places = taken.shape
        if rows.size != positions.size or pages.size != columns:
            raise ValueError("rows, positions and pages differ in number")
        for i in range(rows.size):
            if not (0 <= rows[i] < count and 0 <= positions[i] < places):
                raise ValueError("a row or a position is out of range")
        for column in range(columns):
            if pages[column] < 0:
                continue
            # A file of runs may have more rows than bytes, but not a page of it.
            if count > memory.size or pages[column] > memory.size - width * count:
                raise ValueError("a page is out of range")
            address = memory.ctypes.data + pages[column]
            for i in range(rows.size):
                taken[column, positions[i]] = load(address + width * rows[i])

    return take


take_from_pages: dict[int, Callable[..., None]] = {
    4: _page_taker(load_u32, types.uint32, 4),
    8: _page_taker(load_i64, types.uint64, 8),
}
"""``take(memory, pages, count, rows, positions, taken)``: several columns of one row group.

``taken[c, positions] = page[rows]`` for each column *c*, whose ``count`` values lie at the byte
``pages[c]`` of ``memory``; -1 for a column that is got in another way.  By bytes a value.
"""


def _taker(width_type: Any) -> Any:
    """Return the kernel that gathers values of one width; floats and times go as integers."""
    values_read = types.Array(width_type, 1, "C", readonly=True, aligned=False)
    values_write = types.Array(width_type, 1, "C")

    @kernel(values_read, INT64_READ, INT64_READ, values_write)
    def take(values: Any, rows: Int64, positions: Int64, taken: Any) -> None:
        if rows.size != positions.size:
            raise ValueError("rows and positions differ in number")
        for i in range(rows.size):
            if not (0 <= rows[i] < values.size and 0 <= positions[i] < taken.size):
                raise ValueError("a row or a position is out of range")
            taken[positions[i]] = values[rows[i]]

    return take


take_by_width: dict[int, Callable[[Any, Int64, Int64, Any], None]] = {
    1: _taker(types.uint8),
    2: _taker(types.uint16),
    4: _taker(types.uint32),
    8: _taker(types.uint64),
}
"""``take(values, rows, positions, taken)``: ``taken[positions] = values[rows]``, by bytes a value.

The arrays are of unsigned integers; ``values`` may begin at any byte of memory.

>>> taken = np.zeros(3, np.uint64)
>>> take_by_width[8](np.array([5, 6, 7], np.uint64), np.array([2, 0]), np.array([0, 2]), taken)
>>> taken.tolist()
[7, 0, 5]
"""


def _row_taker(width_type: Any) -> Any:
    """Return the kernel that takes one row after the other, by width."""
    values_read = types.Array(width_type, 1, "C", readonly=True)
    values_write = types.Array(width_type, 1, "C")

    @kernel(values_read, types.Array(types.int32, 1, "C", readonly=True), values_write)
    def take(values: Any, rows: npt.NDArray[np.int32], taken: Any) -> None:
        if rows.size != taken.size:
            raise ValueError("rows and places differ in number")
        for i in range(rows.size):
            if rows[i] >= values.size:
                raise ValueError("a row is out of range")
            if rows[i] >= 0:
                taken[i] = values[rows[i]]
            else:
                taken[i] = 0

    return take


take_rows: dict[int, Callable[[Any, npt.NDArray[np.int32], Any], None]] = {
    4: _row_taker(types.uint32),
    8: _row_taker(types.uint64),
}
"""``take(values, rows, taken)``: ``taken = values[rows]``, by bytes a value; 0 for row -1.

>>> taken = np.zeros(3, np.uint64)
>>> take_rows[8](np.array([5, 6], np.uint64), np.array([1, -1, 0], np.int32), taken)
>>> taken.tolist()
[6, 0, 5]
"""


@kernel(BYTES_READ, INT64, INT64, INT64_READ, INT64_READ, BOOL_WRITE)
def take_bits(
    bitmap: npt.NDArray[np.uint8],
    offset: int,
    count: int,
    rows: Int64,
    positions: Int64,
    taken: npt.NDArray[np.bool_],
) -> None:
    """Gather from ``count`` bits, least significant first, beginning at bit ``offset``.

    Examples
    --------
    >>> taken = np.zeros(2, np.bool_)
    >>> rows, positions = np.array([0, 1]), np.array([1, 0])
    >>> take_bits(np.array([0b0100], np.uint8), 1, 2, rows, positions, taken)
    >>> taken.tolist()
    [True, False]
    """
    if rows.size != positions.size or offset < 0 or offset + count > 8 * bitmap.size:
        raise ValueError("rows, positions and bits differ in number")
    for i in range(rows.size):
        if not (0 <= rows[i] < count and 0 <= positions[i] < taken.size):
            raise ValueError("a row or a position is out of range")
        bit = offset + rows[i]
        taken[positions[i]] = (bitmap[bit >> 3] >> (bit & 7)) & 1 != 0
