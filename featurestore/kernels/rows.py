"""Columns to rows: stripes of a training set laid down as float32 rows, each at its place.

::

    files          stage, 4,096 rows                      block, float32, rows one after the other
    ──pread──▶  f64   │ a0 a1 a2 …           tile
    ──pread──▶  i32   │ b0 ∅  b2 …  ─cast─▶  ┌ a0 b0 c0 ┐ ──copy──▶  place of row 0   a0 b0 c0
    ──pread──▶  bits  │ c0 c1 c2 …  ─fill─▶  │ a1 ø  c1 │            place of row 1   a1 ø  c1
                                             └ …        ┘

One pass: a stripe is read into the second-level cache, a column at a time; a tile of some of its
rows is put together in the first-level cache; and whole rows go from there to wherever the order of
the epoch wants them.  So a shuffled pass reads as a sequential one does, and what it writes at
random are rows, not single values.

Files are read, not mapped.  A page fault maps 64 KiB, of which a stripe of one column is a quarter
or less: mapped, a shuffled pass has three times the memory and two and a half times the time in the
kernel, and a file cut short kills the process instead of being an error.

Parquet packs what is not null: a column of a row group has as many values as valid rows.  Which
rows these are is in a bitmap beside it, and how many come before each stripe in a list of ranks;
from there on a running number finds each value.

This is the one kernel that reads files: the caller holds them open, and lets nobody write to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types

from featurestore.kernels import kernel
from featurestore.kernels.memory import (
    copy_bytes,
    load_bits8,
    load_float32,
    load_float64,
    load_int32,
    load_int64,
    prefetch,
    prefetch_write,
    read_at,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32 = NDArray[np.int32]
    Int64 = NDArray[np.int64]
    Float32 = NDArray[np.float32]

#: Rows of a row group whose place in a column with nulls is known: the unit of random access.
STRIPE_ROWS = 4096

#: What a column holds.
FLOAT32, FLOAT64, INT32, INT64S, BITS = range(5)

#: Bits of one value, by kind.
WIDTHS = (32, 64, 32, 64, 1)

#: Numbers about a column of a row group: the descriptor of its file, the byte at which its values
#: begin, how many there are, their kind; of a column with nulls the descriptor of their file, else
#: -1, and the bytes at which ranks (int32, one a stripe) and validity bits begin.
FILE, VALUES, COUNT, KIND, NULLS, RANKS, VALID = range(7)
COLUMN_NUMBERS = 7

# A tile is gone through once for each column, so it has to stay in the first-level cache; where its
# rows will go is asked for meanwhile, a part with each column, so that memory has time to answer.
_TILE_BYTES = 8 << 10
_LINE_BYTES = 64
_TILE_ROWS_MIN, _TILE_ROWS_MAX = 32, 1024
# A strip of rows may begin in the middle of a stripe, whose bits are counted from its first.
_BITS_BYTES = 2 * STRIPE_ROWS // 8
_COLUMNS = types.Array(types.int64, 3, "C", readonly=True)
_STRIPES = types.Array(types.int64, 2, "C", readonly=True)
_FILLS = types.Array(types.float32, 1, "C", readonly=True)
_PLACES = types.Array(types.int32, 1, "C", readonly=True)
_ROWS = types.Array(types.float32, 2, "C")
_ROWS_READ = types.Array(types.float32, 2, "C", readonly=True)
_VALUES = types.Array(types.float32, 1, "C")


@njit(inline="always")
def _bit(address: Any, number: Any) -> Any:
    """Return one bit, least significant first."""
    return (load_bits8(address + (number >> 3)) >> (number & 7)) & 1 != 0


@njit
def _all_valid(column: Int64, row: int, count: int, tile: Float32, at: int) -> None:
    """Put ``count`` values from a row on into a column of a tile; every row has one."""
    values, kind = column[VALUES], column[KIND]
    if kind == FLOAT32:
        for i in range(count):
            tile[i, at] = load_float32(values + 4 * (row + i))
    elif kind == FLOAT64:
        for i in range(count):
            tile[i, at] = load_float64(values + 8 * (row + i))
    elif kind == INT32:
        for i in range(count):
            tile[i, at] = load_int32(values + 4 * (row + i))
    elif kind == INT64S:
        for i in range(count):
            tile[i, at] = load_int64(values + 8 * (row + i))
    else:
        for i in range(count):
            tile[i, at] = _bit(values, row + i)


@njit
def _some_valid(
    column: Int64, row: int, count: int, number: int, fill: float, tile: Float32, at: int
) -> int:
    """Put values, or ``fill``, into a column of a tile; returns the number of the next value."""
    values, kind = column[VALUES], column[KIND]
    for i in range(count):
        if not _bit(column[VALID], row + i):
            tile[i, at] = fill
            continue
        if number >= column[COUNT]:
            raise ValueError("a column has fewer values than valid rows")
        if kind == FLOAT32:
            tile[i, at] = load_float32(values + 4 * number)
        elif kind == FLOAT64:
            tile[i, at] = load_float64(values + 8 * number)
        elif kind == INT32:
            tile[i, at] = load_int32(values + 4 * number)
        elif kind == INT64S:
            tile[i, at] = load_int64(values + 8 * number)
        else:
            tile[i, at] = _bit(values, number)
        number += 1
    return number


@njit
def _read(file: int, start: int, stop: int, target: int) -> None:
    """Read bytes ``start`` to ``stop`` of a file to an address."""
    while start < stop:
        got = read_at(file, target, stop - start, start)
        if got <= 0:
            raise ValueError("a file ends too early, or cannot be read")
        start += got
        target += got


@njit
def _stage(column: Int64, row: int, count: int, room: int, target: int, staged: Int64) -> int:
    """Read ``count`` rows of a column to ``target``; returns the number of the first value.

    In ``staged`` are the column's numbers, with addresses instead of bytes of files: as if the
    whole column were in memory.
    """
    staged[:] = column
    first = row
    if column[NULLS] >= 0:
        stripe = row // STRIPE_ROWS
        rank = column[RANKS] + 4 * stripe
        _read(column[NULLS], rank, rank + 4, target)
        first = int(load_int32(target))
        before = stripe * STRIPE_ROWS
        valid = column[VALID]
        _read(column[NULLS], valid + before // 8, valid + (row + count + 7) // 8, target)
        staged[VALID] = target - before // 8
        for i in range(before, row):
            first += _bit(staged[VALID], i)
    elif row + count > column[COUNT]:
        raise ValueError("a stripe ends beyond its row group")
    width = WIDTHS[column[KIND]]
    # Not more than there are, if rows without a value are among these.
    start, stop = first * width // 8, (min(first + count, column[COUNT]) * width + 7) // 8
    if not 0 <= stop - start <= room:
        raise ValueError("a column has fewer values than valid rows")
    _read(column[FILE], column[VALUES] + start, column[VALUES] + stop, target + _BITS_BYTES)
    staged[VALUES] = target + _BITS_BYTES - start
    return first


@njit(inline="always")
def _ask_for(address: Any, width: Any) -> None:
    """Ask for the cache lines that a row is about to be written to."""
    for offset in range(0, width, _LINE_BYTES):
        prefetch_write(address + offset)
    prefetch_write(address + width - 1)


@kernel(_COLUMNS, _FILLS, _STRIPES, _PLACES, _ROWS, _VALUES)
def lay_rows(
    columns: Int64,
    fills: Float32,
    stripes: Int64,
    places: Int32,
    block: Float32,
    labels: Float32,
) -> None:
    """Lay stripes of rows down at their places in a block.

    Parameters
    ----------
    columns : int64[g, c, COLUMN_NUMBERS]
        For each row group the features, then the label, if there is one.
    fills : float32[c]
        What stands for null.
    stripes : int64[s, 3]
        Row group, first row in it, and number of rows, which may begin and end anywhere.
    places : int32[n]
        Where in the block each row goes, one stripe after the other; -1 leaves a row out.
    block : float32[rows, features]
        Set at these places.
    labels : float32[rows] or float32[0]
        Likewise; empty where there is no label.
    """
    features, count = block.shape[1], columns.shape[1]
    labelled = count > features
    if fills.size != count or not features <= count <= features + 1:
        raise ValueError("columns, fills and block do not fit together")
    if labelled and labels.size < block.shape[0]:
        raise ValueError("there are fewer labels than rows")
    if stripes[:, 2].sum() != places.size:
        raise ValueError("stripes and places differ in number")
    base, width = block.ctypes.data, 4 * features
    tile_rows = min(max(_TILE_BYTES // (4 * count), _TILE_ROWS_MIN), _TILE_ROWS_MAX)
    tile = np.empty((tile_rows, count), np.float32)
    from_tile = tile.ctypes.data
    room = 8 * STRIPE_ROWS
    # One line more, or the same row of each column would want the same place in the cache.
    stage = np.empty((count, _BITS_BYTES + room + _LINE_BYTES), np.uint8)
    staged = np.empty((count, columns.shape[2]), np.int64)
    numbers = np.zeros(count, np.int64)
    at = 0
    for s in range(stripes.shape[0]):
        group, begin, end = stripes[s, 0], stripes[s, 1], stripes[s, 1] + stripes[s, 2]
        if not 0 <= group < columns.shape[0] or begin < 0:
            raise ValueError("a stripe is out of range")
        for first in range(begin, end, STRIPE_ROWS):
            last = min(first + STRIPE_ROWS, end)
            for c in range(count):
                target = stage.ctypes.data + c * stage.shape[1]
                numbers[c] = _stage(columns[group, c], first, last - first, room, target, staged[c])
            for start in range(first, last, tile_rows):
                rows = min(tile_rows, last - start)
                for c in range(count):
                    for i in range(at + c * rows // count, at + (c + 1) * rows // count):
                        _ask_for(base + max(int(places[i]), 0) * width, width)
                    if staged[c, NULLS] < 0:
                        _all_valid(staged[c], start, rows, tile, c)
                        continue
                    numbers[c] = _some_valid(staged[c], start, rows, numbers[c], fills[c], tile, c)
                for i in range(rows):
                    place = int(places[at + i])
                    if place < 0:
                        continue
                    if place >= block.shape[0]:
                        raise ValueError("a place is beyond the block")
                    copy_bytes(base + place * width, from_tile + i * 4 * count, width)
                    if labelled:
                        labels[place] = tile[i, features]
                at += rows


@kernel(_ROWS_READ, _PLACES, _ROWS)
def gather_rows(matrix: Float32, rows: Int32, block: Float32) -> None:
    """Copy some rows of a matrix, in any order, into a block: ``block[i] = matrix[rows[i]]``.

    Examples
    --------
    >>> block = np.empty((2, 1), np.float32)
    >>> matrix = np.array([[5], [6], [7]], np.float32)
    >>> gather_rows(matrix, np.array([2, 0], np.int32), block)
    >>> block.tolist()
    [[7.0], [5.0]]
    """
    width = 4 * matrix.shape[1]
    if block.shape[1] != matrix.shape[1] or block.shape[0] < rows.size:
        raise ValueError("the block does not fit")
    source, target = matrix.ctypes.data, block.ctypes.data
    for i in range(rows.size):
        if i + 16 < rows.size:
            prefetch(source + max(rows[i + 16], 0) * width)
        if not 0 <= rows[i] < matrix.shape[0]:
            raise ValueError("a row is out of range")
        copy_bytes(target + i * width, source + rows[i] * width, width)
