"""Raw pages: columns of a Parquet file that are arrays in the file already.

::

    column chunk of a row group, one page, PLAIN, not compressed, no nulls

    ┌─────────────┬──────────────────────────┬──────────────────────────────────────────┐
    │ page header │ length, definition levels │ value 0 │ value 1 │ value 2 │ …          │
    └─────────────┴──────────────────────────┴──────────────────────────────────────────┘
      Thrift        a few bytes: "all there"   8 or 4 bytes each, from any byte on

:func:`raw_page` says where such values begin, having checked that the page is exactly this; of any
other page it says nothing, and the column is decoded by pyarrow.  Who takes some values of a mapped
file so reads those memory pages only, and decodes nothing.

A checksum covers a whole page, and is not computed here: that would mean to read all of it.  The
files' digests are what ``featurestore verify`` checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_WIDTHS = {"INT64": 8, "DOUBLE": 8, "INT32": 4, "FLOAT": 4}

_DATA_PAGE, _PLAIN = 0, 0

# Types of Thrift's compact protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12

_DEPTH_MAX = 8


class _NotAPage(Exception):
    """The bytes are no page header this module understands."""


def raw_page(memory: memoryview, chunk: pq.ColumnChunkMetaData, rows: int, width: int) -> int:
    """Return at which byte of the file a column chunk's values lie as a plain array; -1 if not.

    Parameters
    ----------
    memory : memoryview
        The file.
    chunk : pyarrow.parquet.ColumnChunkMetaData
        The column in one row group.
    rows : int
        Rows of the row group.
    width : int
        Bytes of a value as the reader wants it.
    """
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
        return -1
    if _WIDTHS.get(chunk.physical_type) != width or chunk.num_values != rows:
        return -1
    statistics = chunk.statistics
    if statistics is None or not statistics.has_null_count or statistics.null_count:
        return -1
    start, size = chunk.data_page_offset, chunk.total_compressed_size
    if not 0 < start <= start + size <= len(memory):
        return -1
    try:
        header, body = _Header(memory[start : start + size].cast("B")).read()
    except (_NotAPage, IndexError):
        return -1
    data = header.get(5)
    if header.get(1) != _DATA_PAGE or not isinstance(data, dict):
        return -1
    if header.get(2) != size - body or header.get(3) != size - body:  # the one page of its chunk
        return -1
    if data.get(1) != rows or data.get(2) != _PLAIN:
        return -1
    # What is not a value is the definition levels, led by their length.
    levels = size - body - rows * width
    told = int.from_bytes(memory[start + body : start + body + 4], "little")
    return start + size - rows * width if levels == 4 + told else -1


class _Header:
    """A struct in Thrift's compact protocol, as nested dicts of its fields' numbers."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def read(self) -> tuple[dict[int, Any], int]:
        """Return the fields, and how many bytes they took."""
        return self._struct(0), self.at

    def _struct(self, depth: int) -> dict[int, Any]:
        if depth > _DEPTH_MAX:
            raise _NotAPage
        fields: dict[int, Any] = {}
        number = 0
        while byte := self._byte():
            kind, step = byte & 15, byte >> 4
            number = number + step if step else self._integer()
            fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in {_TRUE, _FALSE}:
            return kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in {_I16, _I32, _I64}:
            return self._integer()
        if kind == _DOUBLE:
            self.at += 8
            return None
        if kind == _BINARY:
            length = self._varint()
            self.at += length
            return None
        if kind == _STRUCT:
            return self._struct(depth + 1)
        raise _NotAPage

    def _byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return int(byte)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise _NotAPage

    def _integer(self) -> int:
        zigzag = self._varint()
        return (zigzag >> 1) ^ -(zigzag & 1)
