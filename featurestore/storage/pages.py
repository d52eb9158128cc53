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

A checksum covers a whole page, and is not computed here: that would mean to read all of it each
time.  The file as a whole was held to its digest when it was opened (``parquet.require_sound``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_WIDTHS = {"INT64": 8, "DOUBLE": 8, "INT32": 4, "FLOAT": 4}

_DATA_PAGE, _PLAIN = 0, 0

# Types of fields in Thrift's compact protocol: integers of any width are written alike.
_INTEGERS, _STRUCT = {4, 5, 6}, 12

# Fields of a page header, and of the header of a data page within it.
_TYPE, _SIZE, _COMPRESSED_SIZE, _DATA_HEADER = 1, 2, 3, 5
_VALUES, _ENCODING = 1, 2

_HEADER_BYTES_MAX = 64  # of what is looked at: statistics come after it


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
    start, size = chunk.data_page_offset, chunk.total_compressed_size
    if not _may_be_raw(chunk, rows, width) or not 0 < start <= start + size <= len(memory):
        return -1
    try:
        page, data = _page_header(bytes(memory[start : start + _HEADER_BYTES_MAX]))
    except (_NotAPage, IndexError):
        return -1
    body = page.get(_COMPRESSED_SIZE, 0)
    if (page.get(_TYPE), page.get(_SIZE)) != (_DATA_PAGE, body) or body > size:
        return -1
    if (data.get(_VALUES), data.get(_ENCODING)) != (rows, _PLAIN):
        return -1
    # What is not a value is the definition levels, led by their length.
    levels = int.from_bytes(memory[start + size - body : start + size - body + 4], "little")
    return start + size - rows * width if body == 4 + levels + rows * width else -1


def _may_be_raw(chunk: pq.ColumnChunkMetaData, rows: int, width: int) -> bool:
    """Say what the footer knows of a chunk."""
    statistics = chunk.statistics
    return bool(
        chunk.compression == "UNCOMPRESSED"
        and not chunk.has_dictionary_page
        and _WIDTHS.get(chunk.physical_type) == width
        and chunk.num_values == rows
        and statistics is not None
        and statistics.has_null_count
        and statistics.null_count == 0
    )


def _page_header(data: bytes) -> tuple[dict[int, int], dict[int, int]]:
    """Return the numbers that lead a page header, and those that lead its data page header."""
    page, at = _integers(data, 0)
    if data[at] & 15 != _STRUCT or max(page, default=0) + (data[at] >> 4) != _DATA_HEADER:
        raise _NotAPage
    return page, _integers(data, at + 1)[0]


def _integers(data: bytes, at: int) -> tuple[dict[int, int], int]:
    """Return the fields of a struct up to the first that is no integer, and where that begins."""
    fields: dict[int, int] = {}
    number = 0
    while data[at] & 15 in _INTEGERS:
        if data[at] < 16:  # a field's number not given as a step from the last: not in a page
            raise _NotAPage
        number += data[at] >> 4
        value = shift = 0
        more = True
        while more:
            at += 1
            value |= (data[at] & 127) << shift
            shift += 7
            more = data[at] >= 128
        fields[number] = (value >> 1) ^ -(value & 1)
        at += 1
    return fields, at
