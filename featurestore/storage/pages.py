"""Pages: what of a Parquet file can be used as it lies there, without decoding it.

::

    column chunk of a row group, not compressed, no nulls

    ┌─────────────┬───────────────────────────┬─────────────────────────────────────┐
    │ page header │ length, definition levels │ value 0 │ value 1 │ value 2 │ …     │  PLAIN
    └─────────────┴───────────────────────────┴─────────────────────────────────────┘
      Thrift        a few bytes: "all there"    8 or 4 bytes each, from any byte on

    ┌─────────────┬─────────────────────┬────────┬────────┬─────────────────────────┐
    │ page header │ distinct values     │ header │ levels │ 300 x 0 │ 300 x 1 │ …   │  dictionary
    └─────────────┴─────────────────────┴────────┴────────┴─────────────────────────┘

Of the first, single values can be taken out of the mapped file, and no others are touched.  The
second is runs already.  Whether a page is exactly one of these is checked each time; all others
are decoded by pyarrow.  Footers are read by ``kernels.parquet``, so that to open a file costs
microseconds, and nothing has to be remembered between two joins.

A checksum covers a whole page, and is not computed here: that would mean to read all of it each
time.  The file as a whole was held to its digest when it was opened (``parquet.require_sound``).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernels import parquet as kernels
from featurestore.storage import seam

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Int64 = npt.NDArray[np.int64]

_MAGIC = b"PAR1"
_TAIL_BYTES = 8  # the footer's length, and the magic bytes


class Pages:
    """A mapped file, and where its columns lie.

    Attributes
    ----------
    memory : uint8[n]
        The file.
    rows : int
        Rows of all row groups.
    group_rows : int64[groups]
        Rows of each.

    Raises
    ------
    pyarrow.ArrowInvalid
        This is no Parquet file.
    OSError
        It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with seam.call("map", path, pa.memory_map, str(path)) as mapped:
            self.memory = np.frombuffer(mapped.read_buffer(), np.uint8)
        try:
            self._footer = _footer(self.memory)
            self.rows, groups, columns = kernels.footer_shape(self._footer)
            self.group_rows = np.zeros(groups, np.int64)
            self._columns = np.zeros((columns, kernels.COLUMN_FIELDS), np.int64)
            self._chunks = np.zeros((groups, columns, kernels.CHUNK_FIELDS), np.int64)
            kernels.read_footer(self._footer, self.group_rows, self._columns, self._chunks)
        except ValueError as error:
            raise pa.ArrowInvalid(f"its footer cannot be read: {error}") from error
        if self.group_rows.min(initial=0) < 0 or int(self.group_rows.sum()) != self.rows:
            raise pa.ArrowInvalid(f"its footer tells of {self.rows} rows and of others")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The number of each column that is not nested."""
        text = self._footer.tobytes()
        return {
            text[at : at + size].decode(): number
            for number, (at, size, _) in enumerate(self._columns.tolist())
            if size >= 0
        }

    def __contains__(self, column: str) -> bool:
        """Say whether there is such a column; one of a nested type is not found."""
        return column in self._numbers

    def bounds(self, column: str) -> tuple[Int64, Int64] | None:
        """Return the least and the greatest of a column of int64 in each row group, if known."""
        chunks = self._chunks[:, self._numbers[column]]
        if not chunks[:, kernels.BOUNDED].all():
            return None
        return chunks[:, kernels.LEAST], chunks[:, kernels.GREATEST]

    def all_null(self, column: str, groups: int) -> bool:
        """Return whether the statistics of the first row groups say that a column has no value."""
        chunks = self._chunks[:groups, self._numbers[column]]
        return bool((chunks[:, kernels.NULLS] == chunks[:, kernels.VALUES]).all())

    def plain(self, columns: Sequence[str], kinds: Sequence[pa.DataType]) -> tuple[Int64, Int64]:
        """Return the numbers and the widths of columns; -1 for those that are never raw.

        For :meth:`raw`, which may then be asked for each row group.
        """
        numbers, widths = np.full(len(columns), -1), np.zeros(len(columns), np.int64)
        for i, (column, kind) in enumerate(zip(columns, kinds, strict=True)):
            number, physical = self._numbers.get(column, -1), _physical(kind)
            if number >= 0 and physical and self._is(number, physical):
                numbers[i], widths[i] = number, kind.bit_width // 8
        return numbers, widths

    def _is(self, number: int, physical: int) -> bool:
        return bool((self._chunks[:, number, kernels.PHYSICAL] == physical).all())

    def raw(self, plain: tuple[Int64, Int64], group: int) -> Int64:
        """Return at which byte of the file each column of a row group lies as an array; or -1."""
        numbers, widths = plain
        found = np.full(numbers.size, -1)
        try:
            kernels.raw_pages(
                self.memory, self._chunks[group], self._columns,
                numbers, widths, int(self.group_rows[group]), found,
            )  # fmt: skip
        except ValueError:  # damaged: pyarrow will say how
            found[:] = -1
        return found

    def values(self, column: str, group: int) -> tuple[int, int]:
        """Return where the values of a column of a row group begin and end in the file.

        Those that are not null, packed one after the other.  Both are -1 unless the column is one
        page, plain and not compressed.
        """
        number = self._numbers.get(column, -1)
        if number < 0:
            return -1, -1
        optional = int(self._columns[number, kernels.OPTIONAL])
        try:
            start, end = kernels.plain_page(
                self.memory, self._chunks[group, number], optional, int(self.group_rows[group])
            )
        except ValueError:
            return -1, -1
        return int(start), int(end)

    def null_count(self, column: str, group: int) -> int:
        """Return how many nulls a column of a row group has by its statistics; -1 if unknown."""
        return int(self._chunks[group, self._numbers[column], kernels.NULLS])

    def runs(self, column: str, kind: pa.DataType, group: int) -> tuple[Int64, Int64, Any] | None:
        """Return the runs of equal values of a column that a row group has as a dictionary.

        Returns
        -------
        (int64[r], int64[r], int64[d] or pyarrow.Array) or None
            First row of each run, and which of the distinct values it has; numbers and times come
            as integers.  None for a column that has to be decoded.
        """
        number = self._numbers.get(column, -1)
        integer = pa.types.is_integer(kind) or pa.types.is_temporal(kind)
        text = pa.types.is_string(kind) or pa.types.is_binary(kind)
        if number < 0 or not (integer or text):
            return None
        chunk, rows = self._chunks[group, number], int(self.group_rows[group])
        try:
            at, end, distinct = kernels.dictionary_page(self.memory, chunk, rows)
            if at < 0:
                return None
            physical = int(chunk[kernels.PHYSICAL])
            if integer:
                values: Any = _integers(self.memory, at, end, distinct, physical)
            else:
                values = self._texts(at, end, distinct, kind)
            starts, codes = np.empty(rows, np.int64), np.empty(rows, np.int64)
            optional = int(self._columns[number, kernels.OPTIONAL])
            runs = kernels.dictionary_runs(
                self.memory, chunk, optional, rows, distinct, starts, codes
            )
        except ValueError:  # damaged: pyarrow will say how
            return None
        if runs < 0:
            return None
        return starts[:runs].copy(), codes[:runs].copy(), values

    def _texts(self, at: int, end: int, distinct: int, kind: pa.DataType) -> pa.Array:
        offsets = np.empty(distinct + 1, np.int32)
        texts = np.empty(kernels.text_offsets(self.memory, at, end, offsets), np.uint8)
        kernels.copy_texts(self.memory, at, offsets, texts)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts)]
        return pa.Array.from_buffers(kind, distinct, buffers)


def _footer(memory: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    tail = memory[-_TAIL_BYTES:].tobytes()
    size = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or size > memory.size - _TAIL_BYTES:
        raise ValueError("it does not end like a Parquet file")
    return memory[memory.size - _TAIL_BYTES - size : memory.size - _TAIL_BYTES]


def _physical(kind: pa.DataType) -> int:
    """Return how Parquet keeps a type whose values are numbers of its own width; 0 for others."""
    if pa.types.is_floating(kind):
        return {32: kernels.PHYSICAL_FLOAT, 64: kernels.PHYSICAL_DOUBLE}.get(kind.bit_width, 0)
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        return {32: kernels.PHYSICAL_INT32, 64: kernels.PHYSICAL_INT64}.get(kind.bit_width, 0)
    return 0


def _integers(
    memory: npt.NDArray[np.uint8], at: int, end: int, distinct: int, physical: int
) -> Int64:
    """Return the integers of a dictionary page."""
    width = {kernels.PHYSICAL_INT32: 4, kernels.PHYSICAL_INT64: 8}.get(physical, 0)
    if not width or end - at != distinct * width:
        raise ValueError("a dictionary is not as it should be")
    return np.frombuffer(memory, f"<i{width}", distinct, at).astype(np.int64)
