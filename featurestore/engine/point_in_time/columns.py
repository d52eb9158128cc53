"""Columns of a result, into which values are put in any order, from several threads.

==================  ===============================================================================
type                how
==================  ===============================================================================
numbers, times      straight into the array of the result, by their bits: out of mapped pages for
                    all columns at once, else out of decoded columns
bool                as bytes, packed at the end
others              rows are taken by Arrow, each once; spread over the labels at the end
==================  ===============================================================================

Two threads never put at one position.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.arrays import one_chunk
from featurestore.engine.point_in_time.answer import take
from featurestore.kernels.gather import take_bits, take_by_width, take_from_pages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurestore.engine.point_in_time.history import Source

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Columns:
    """The columns of one answer on their way.

    Parameters
    ----------
    kinds : mapping of str to pyarrow.DataType
        Names of the columns, and types of their values.
    present : bool[n]
        The positions at which something will be put; the others are null.
    """

    def __init__(self, kinds: Mapping[str, pa.DataType], present: Bools) -> None:
        validity = _Validity(present)
        self._columns: dict[str, Column] = {}
        self._blocks: list[tuple[int, list[str], npt.NDArray[Any]]] = []
        for width in (8, 4):
            names = [n for n, kind in kinds.items() if _is_number(kind, width)]
            # One piece of memory for all: it is had from the system in large pages.
            block = np.zeros((len(names), present.size), f"u{width}")
            self._blocks.append((width, names, block))
            for name, values in zip(names, block, strict=True):
                self._columns[name] = _Numbers(kinds[name], validity, values)
        for name, kind in kinds.items():
            if name not in self._columns:
                self._columns[name] = _column(kind, validity)

    def put(self, source: Source, piece: int, rows: Int64, positions: Int64) -> None:
        """Put rows of a piece of history, in columns that lie as arrays and in others."""
        left = [name for name in self._columns if not self._in_block(name)]
        count = source.rows_of(piece)
        for width, names, block in self._blocks:
            pages = source.raw_at(names, piece) if names else None
            if pages is None:
                left += names
                continue
            take_from_pages[width](source.memory, pages, count, rows, positions, block)
            left += [name for name, page in zip(names, pages.tolist(), strict=True) if page < 0]
        if not left:
            return
        table = source.read(left, [piece])
        for name in left:
            self._columns[name].put(table.column(name), rows, positions)

    def _in_block(self, name: str) -> bool:
        return any(name in names for _, names, _ in self._blocks)

    def results(self) -> dict[str, pa.ChunkedArray]:
        """Return the columns, once all has been put."""
        return {name: column.result() for name, column in self._columns.items()}


class Column(Protocol):
    """One column on its way."""

    def put(self, values: pa.ChunkedArray, rows: Int64, positions: Int64) -> None:
        """Put ``values[rows]`` at these positions."""

    def result(self) -> pa.ChunkedArray:
        """Return the column, once all has been put."""


def _is_number(kind: pa.DataType, width: int) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    return bool(number and kind.bit_width == 8 * width)


def _column(kind: pa.DataType, validity: _Validity) -> Column:
    if pa.types.is_boolean(kind):
        return _Flags(kind, validity)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = np.zeros(validity.present.size, f"u{kind.bit_width // 8}")
        return _Numbers(kind, validity, values)
    return _Others(kind, validity)


class _Validity:
    """Where columns have values, as bits that they share."""

    def __init__(self, present: Bools) -> None:
        self.present = present

    @cached_property
    def buffer(self) -> pa.Buffer | None:
        """The bits; None where there are no nulls."""
        return validity_of(self.present)


def validity_of(valid: Bools) -> pa.Buffer | None:
    """Return Arrow's bits for this; None where all is valid."""
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


class _Nullable:
    """Which values of a column are there: all that are put, unless a null was."""

    def __init__(self, kind: pa.DataType, validity: _Validity) -> None:
        self.kind = kind
        self._shared = validity
        self._valid: Bools | None = None
        self._lock = threading.Lock()

    def _put_nulls(self, array: pa.Array, rows: Int64, positions: Int64) -> None:
        if not array.null_count:
            return
        with self._lock:
            if self._valid is None:
                self._valid = self._shared.present.copy()
        bitmap = np.frombuffer(array.buffers()[0], np.uint8)
        take_bits(bitmap, array.offset, len(array), rows, positions, self._valid)

    def _validity(self) -> pa.Buffer | None:
        return self._shared.buffer if self._valid is None else validity_of(self._valid)


class _Numbers(_Nullable):
    """Numbers and times, by their bits."""

    def __init__(self, kind: pa.DataType, validity: _Validity, values: npt.NDArray[Any]) -> None:
        super().__init__(kind, validity)
        self._values = values

    def put(self, values: pa.ChunkedArray, rows: Int64, positions: Int64) -> None:
        array = one_chunk(values)
        width = self._values.itemsize
        bits = np.frombuffer(
            array.buffers()[1], self._values.dtype, len(array), array.offset * width
        )
        take_by_width[width](bits, rows, positions, self._values)
        self._put_nulls(array, rows, positions)

    def result(self) -> pa.ChunkedArray:
        buffers = [self._validity(), pa.py_buffer(self._values)]
        return pa.chunked_array([pa.Array.from_buffers(self.kind, self._values.size, buffers)])


class _Flags(_Nullable):
    """Booleans, which Arrow keeps as bits."""

    def __init__(self, kind: pa.DataType, validity: _Validity) -> None:
        super().__init__(kind, validity)
        self._values = np.zeros(validity.present.size, np.bool_)

    def put(self, values: pa.ChunkedArray, rows: Int64, positions: Int64) -> None:
        array = one_chunk(values)
        bitmap = np.frombuffer(array.buffers()[1], np.uint8)
        take_bits(bitmap, array.offset, len(array), rows, positions, self._values)
        self._put_nulls(array, rows, positions)

    def result(self) -> pa.ChunkedArray:
        bits = pa.py_buffer(np.packbits(self._values, bitorder="little"))
        buffers = [self._validity(), bits]
        return pa.chunked_array([pa.Array.from_buffers(self.kind, self._values.size, buffers)])


class _Others:
    """Text, bytes, lists and vectors."""

    def __init__(self, kind: pa.DataType, validity: _Validity) -> None:
        self.kind = kind
        self._present = validity.present
        self._place = np.zeros(validity.present.size, np.int64)
        self._chunks: list[pa.Array] = []
        self._taken = 0
        self._lock = threading.Lock()

    def put(self, values: pa.ChunkedArray, rows: Int64, positions: Int64) -> None:
        distinct, place = np.unique(rows, return_inverse=True)
        # Chunk by chunk: to take from several, Arrow may first make one of them, and a chunk of
        # text ends at 2 GiB.
        chunks, first = [], 0
        for chunk in values.chunks:
            low, high = np.searchsorted(distinct, (first, first + len(chunk)))
            chunks.append(chunk.take(pa.array(distinct[low:high] - first)))
            first += len(chunk)
        with self._lock:
            self._place[positions] = self._taken + place
            self._chunks += chunks
            self._taken += distinct.size

    def result(self) -> pa.ChunkedArray:
        taken = pa.chunked_array(self._chunks, self.kind)
        return take(taken, pa.array(self._place, mask=~self._present))
