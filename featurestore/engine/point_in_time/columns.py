"""Columns of a result, into which values are put in any order, from several threads.

==================  ===============================================================================
type                how
==================  ===============================================================================
numbers, times      straight into the array of the result, by their bits
bool                as bytes, packed at the end
others              rows are taken by Arrow, each once; spread over the labels at the end
==================  ===============================================================================

Two threads never put at one position.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.arrays import one_chunk
from featurestore.engine.point_in_time.answer import take
from featurestore.kernels.gather import take_bits, take_by_width

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Column(Protocol):
    """One column on its way."""

    def put_raw(self, values: npt.NDArray[Any], rows: Int64, positions: Int64) -> bool:
        """Put values given as the bits of an array without nulls; False if this cannot be."""

    def put(self, values: pa.ChunkedArray, rows: Int64, positions: Int64) -> None:
        """Put ``values[rows]`` at these positions."""

    def result(self) -> pa.ChunkedArray:
        """Return the column, once all has been put."""


def column_of(kind: pa.DataType, present: Bools) -> Column:
    """Return an empty column.

    Parameters
    ----------
    kind : pyarrow.DataType
        Type of its values.
    present : bool[n]
        The positions at which something will be put; the others are null.
    """
    if pa.types.is_boolean(kind):
        return _Flags(kind, present)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind):
        return _Numbers(kind, present)
    return _Others(kind, present)


class _Nullable:
    """Which values of a column are there: ``present``, unless a null was put."""

    def __init__(self, kind: pa.DataType, present: Bools) -> None:
        self.kind = kind
        self._present = present
        self._valid: Bools | None = None
        self._lock = threading.Lock()

    def _put_nulls(self, array: pa.Array, rows: Int64, positions: Int64) -> None:
        if not array.null_count:
            return
        with self._lock:
            if self._valid is None:
                self._valid = self._present.copy()
        bitmap = np.frombuffer(array.buffers()[0], np.uint8)
        take_bits(bitmap, array.offset, len(array), rows, positions, self._valid)

    def _validity(self) -> pa.Buffer | None:
        valid = self._present if self._valid is None else self._valid
        return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


class _Numbers(_Nullable):
    """Numbers and times."""

    def __init__(self, kind: pa.DataType, present: Bools) -> None:
        super().__init__(kind, present)
        self._width = kind.bit_width // 8
        self._values = np.zeros(present.size, f"u{self._width}")

    def put_raw(self, values: npt.NDArray[Any], rows: Int64, positions: Int64) -> bool:
        take_by_width[self._width](values, rows, positions, self._values)
        return True

    def put(self, values: pa.ChunkedArray, rows: Int64, positions: Int64) -> None:
        array = one_chunk(values)
        start = array.offset * self._width
        bits = np.frombuffer(array.buffers()[1], self._values.dtype, len(array), start)
        self.put_raw(bits, rows, positions)
        self._put_nulls(array, rows, positions)

    def result(self) -> pa.ChunkedArray:
        buffers = [self._validity(), pa.py_buffer(self._values)]
        return pa.chunked_array([pa.Array.from_buffers(self.kind, self._values.size, buffers)])


class _Flags(_Nullable):
    """Booleans, which Arrow keeps as bits."""

    def __init__(self, kind: pa.DataType, present: Bools) -> None:
        super().__init__(kind, present)
        self._values = np.zeros(present.size, np.bool_)

    def put_raw(self, values: npt.NDArray[Any], rows: Int64, positions: Int64) -> bool:
        del values, rows, positions
        return False

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

    def __init__(self, kind: pa.DataType, present: Bools) -> None:
        self.kind = kind
        self._present = present
        self._place = np.zeros(present.size, np.int64)
        self._chunks: list[pa.Array] = []
        self._taken = 0
        self._lock = threading.Lock()

    def put_raw(self, values: npt.NDArray[Any], rows: Int64, positions: Int64) -> bool:
        del values, rows, positions
        return False

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
