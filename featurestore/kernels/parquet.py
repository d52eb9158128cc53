"""Parquet's own bytes, read where they lie: footers, page headers, and dictionaries as runs.

A footer says where every column of every row group lies; one of a thousand columns is 100 KiB of
Thrift, and is gone through here once, at a few nanoseconds a byte, with no object made.

A dictionary page and its codes are what a sorted key is kept in.  Repeated codes are written as
runs, and runs of keys are what a join works with: they are copied out, and no row is made::

    codes      │ 300 x 0 │ 300 x 1 │ 2 2 2 2 3 3 4 5 │ 120 x 5 │     runs, and eights packed in bits
    starts       0         300       600 604 606 607
    run codes    0         1         2   3   4   5

Formats: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md and
https://github.com/apache/parquet-format (``parquet.thrift``, ``Encodings.md``).  What is not as
it should be raises ``ValueError``; no index is used before it has been compared with the size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types

from featurestore.kernels import BYTES_READ, INT64, INT64_READ, INT64_WRITE, kernel
from featurestore.kernels.memory import load_i64

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

CHUNK_FIELDS = 10
PHYSICAL, CODEC, VALUES, SIZE, DATA_PAGE, DICTIONARY_PAGE, NULLS, BOUNDED, LEAST, GREATEST = range(
    CHUNK_FIELDS
)
"""What is known of a column chunk.  ``DICTIONARY_PAGE`` and ``NULLS`` are -1 where the footer does
not say; ``LEAST`` and ``GREATEST`` are those of 64-bit integers, if ``BOUNDED``."""

COLUMN_FIELDS = 3
NAME_AT, NAME_SIZE, OPTIONAL = range(COLUMN_FIELDS)
"""What is known of a column.  ``NAME_SIZE`` is -1 for a part of a nested one."""

PHYSICAL_INT32, PHYSICAL_INT64, PHYSICAL_FLOAT, PHYSICAL_DOUBLE, PHYSICAL_BYTES = 1, 2, 4, 5, 6

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(
    13
)
_DEPTH_MAX = 12

_DATA, _DICTIONARY = 0, 2
_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY = 0, 2, 8

_PAIR = types.UniTuple(types.int64, 2)
_TRIPLE = types.UniTuple(types.int64, 3)
_SIX = types.UniTuple(types.int64, 6)
_CHUNKS_READ = types.Array(types.int64, 2, "C", readonly=True)
_TABLE = types.Array(types.int64, 2, "C")
_CHUNKS = types.Array(types.int64, 3, "C")
_BYTES_WRITE = types.Array(types.uint8, 1, "C")
_INT32_WRITE = types.Array(types.int32, 1, "C")


# ── Thrift ───────────────────────────────────────────────────────────────────────────────────


@kernel(BYTES_READ, INT64, returns=INT64)
def _byte(data: Bytes, at: int) -> int:
    """Return a byte as a signed number: numba makes a float of a signed and an unsigned one."""
    return int(data[at])


@kernel(BYTES_READ, INT64, returns=_PAIR)
def _varint(data: Bytes, at: int) -> tuple[int, int]:
    """Return an unsigned number of up to 63 bits, and where it ends."""
    value = shift = 0
    while shift < 63:
        if not 0 <= at < data.size:
            raise ValueError("the bytes end too soon")
        byte = _byte(data, at)
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number is too long")


@kernel(BYTES_READ, INT64, returns=_PAIR)
def _integer(data: Bytes, at: int) -> tuple[int, int]:
    """Return a signed number, and where it ends."""
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


@kernel(BYTES_READ, INT64, INT64, returns=_TRIPLE)
def _field(data: Bytes, at: int, before: int) -> tuple[int, int, int]:
    """Return the number and the kind of a struct's next field, and where its value begins."""
    if not 0 <= at < data.size:
        raise ValueError("the bytes end too soon")
    head = _byte(data, at)
    at += 1
    kind = head & 15
    if kind == _STOP:
        return 0, _STOP, at
    if head >> 4 > 0:
        return before + (head >> 4), kind, at
    number, at = _integer(data, at)
    return number, kind, at


@kernel(BYTES_READ, INT64, returns=_TRIPLE)
def _elements(data: Bytes, at: int) -> tuple[int, int, int]:
    """Return how many elements a list has, their kind, and where the first begins."""
    if not 0 <= at < data.size:
        raise ValueError("the bytes end too soon")
    head = _byte(data, at)
    at += 1
    count = head >> 4
    if count == 15:
        count, at = _varint(data, at)
    if count > data.size - at:  # every element takes a byte at least
        raise ValueError("a list is longer than the bytes")
    return count, head & 15, at


@kernel(BYTES_READ, INT64, returns=_PAIR)
def _binary(data: Bytes, at: int) -> tuple[int, int]:
    """Return how long a string of bytes is, and where it begins."""
    size, at = _varint(data, at)
    if size > data.size - at:
        raise ValueError("a text is longer than the bytes")
    return size, at


@kernel(BYTES_READ, INT64, INT64, INT64, returns=INT64)
def _skip(data: Bytes, at: int, kind: int, depth: int) -> int:
    """Return where a value ends that is of no interest."""
    if depth > _DEPTH_MAX:
        raise ValueError("structs are nested too deeply")
    if kind in (_TRUE, _FALSE):
        return at
    if kind == _BYTE:
        return at + 1
    if kind in (_I16, _I32, _I64):
        while 0 <= at < data.size and data[at] >= 128:
            at += 1
        return at + 1
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        size, at = _binary(data, at)
        return at + size
    if kind in (_LIST, _SET):
        count, element, at = _elements(data, at)
        for _ in range(count):
            # In a list a truth value is a byte of its own.
            at = _skip(data, at, _BYTE if element in (_TRUE, _FALSE) else element, depth + 1)
        return at
    if kind == _STRUCT:
        number, inner, at = _field(data, at, 0)
        while inner != _STOP:
            at = _skip(data, at, inner, depth + 1)
            number, inner, at = _field(data, at, number)
        return at
    raise ValueError("a value is of an unknown kind")


# ── footers ──────────────────────────────────────────────────────────────────────────────────


@kernel(BYTES_READ, returns=_TRIPLE)
def footer_shape(footer: Bytes) -> tuple[int, int, int]:
    """Return how many rows, row groups and columns a footer tells of.

    It is read up to its first column: the fields of a struct come in the order of their numbers.
    """
    rows = groups = columns = 0
    number, kind, at = _field(footer, 0, 0)
    while kind != _STOP:
        if number == 4 and kind == _LIST:
            groups, _, at = _elements(footer, at)
            if groups > 0:
                inner, inner_kind, at = _field(footer, at, 0)
                if inner == 1 and inner_kind == _LIST:
                    columns, _, _ = _elements(footer, at)
            break
        if number == 3 and kind == _I64:
            rows, at = _integer(footer, at)
        else:
            at = _skip(footer, at, kind, 0)
        number, kind, at = _field(footer, at, number)
    if groups * columns > footer.size:  # every chunk takes some bytes
        raise ValueError("a footer is shorter than its tables")
    return rows, groups, columns


@kernel(BYTES_READ, INT64, returns=INT64)
def _word(data: Bytes, at: int) -> int:
    """Return a little-endian int64 at a place that was compared with the size."""
    value = _byte(data, at + 7)
    value -= (value >> 7) << 8  # the sign, so that no shift leaves 64 bits
    for i in range(6, -1, -1):
        value = value * 256 + _byte(data, at + i)
    return value


@kernel(BYTES_READ, INT64, returns=INT64)
def _size(data: Bytes, at: int) -> int:
    """Return a little-endian uint32 at a place that was compared with the size."""
    return (
        _byte(data, at) + (_byte(data, at + 1) << 8) + (_byte(data, at + 2) << 16)
        + (_byte(data, at + 3) << 24)
    )  # fmt: skip


@kernel(BYTES_READ, INT64, INT64_WRITE, returns=INT64)
def _read_statistics(footer: Bytes, at: int, chunk: Int64) -> int:
    """Write down nulls and bounds; return where they end."""
    known = 0
    number, kind, at = _field(footer, at, 0)
    while kind != _STOP:
        if number == 3 and kind == _I64:
            chunk[NULLS], at = _integer(footer, at)
        elif number in (5, 6) and kind == _BINARY:
            size, at = _binary(footer, at)
            if size == 8:
                chunk[GREATEST if number == 5 else LEAST] = _word(footer, at)
                known += 1
            at += size
        else:
            at = _skip(footer, at, kind, 0)
        number, kind, at = _field(footer, at, number)
    chunk[BOUNDED] = 1 if known == 2 else 0
    return at


@kernel(BYTES_READ, INT64, INT64_WRITE, INT64_WRITE, returns=INT64)
def _read_chunk(footer: Bytes, at: int, column: Int64, chunk: Int64) -> int:
    """Write down a column's metadata; return where they end."""
    chunk[:] = 0
    chunk[DICTIONARY_PAGE] = chunk[NULLS] = -1
    column[NAME_SIZE] = -1
    number, kind, at = _field(footer, at, 0)
    while kind != _STOP:
        if number == 1 and kind == _I32:
            chunk[PHYSICAL], at = _integer(footer, at)
        elif number == 3 and kind == _LIST:
            depth, _, at = _elements(footer, at)
            for _ in range(depth):
                size, at = _binary(footer, at)
                if depth == 1:
                    column[NAME_AT], column[NAME_SIZE] = at, size
                at += size
        elif number == 4 and kind == _I32:
            chunk[CODEC], at = _integer(footer, at)
        elif number == 5 and kind == _I64:
            chunk[VALUES], at = _integer(footer, at)
        elif number == 7 and kind == _I64:
            chunk[SIZE], at = _integer(footer, at)
        elif number == 9 and kind == _I64:
            chunk[DATA_PAGE], at = _integer(footer, at)
        elif number == 11 and kind == _I64:
            chunk[DICTIONARY_PAGE], at = _integer(footer, at)
        elif number == 12 and kind == _STRUCT:
            at = _read_statistics(footer, at, chunk)
        else:
            at = _skip(footer, at, kind, 0)
        number, kind, at = _field(footer, at, number)
    return at


@kernel(BYTES_READ, INT64, _TABLE, _TABLE, returns=_PAIR)
def _read_group(footer: Bytes, at: int, columns: Int64, chunks: Int64) -> tuple[int, int]:
    """Write down the chunks of a row group; return its rows, and where it ends."""
    rows = 0
    number, kind, at = _field(footer, at, 0)
    while kind != _STOP:
        if number == 1 and kind == _LIST:
            count, _, at = _elements(footer, at)
            if count != chunks.shape[0]:
                raise ValueError("row groups differ in their columns")
            for column in range(count):
                inner, inner_kind, at = _field(footer, at, 0)
                while inner_kind != _STOP:
                    if inner == 3 and inner_kind == _STRUCT:
                        at = _read_chunk(footer, at, columns[column], chunks[column])
                    else:
                        at = _skip(footer, at, inner_kind, 0)
                    inner, inner_kind, at = _field(footer, at, inner)
        elif number == 3 and kind == _I64:
            rows, at = _integer(footer, at)
        else:
            at = _skip(footer, at, kind, 0)
        number, kind, at = _field(footer, at, number)
    return rows, at


@kernel(BYTES_READ, INT64, _TABLE, returns=INT64)
def _read_schema(footer: Bytes, at: int, columns: Int64) -> int:
    """Set which columns may have nulls; return where the schema ends."""
    count, _, at = _elements(footer, at)
    column = 0
    for _ in range(count):
        optional, leaf = 0, True
        number, kind, at = _field(footer, at, 0)
        while kind != _STOP:
            if number == 3 and kind == _I32:
                repetition, at = _integer(footer, at)
                optional = 1 if repetition == 1 else 0
            else:
                leaf = leaf and number != 5  # how many children it has
                at = _skip(footer, at, kind, 0)
            number, kind, at = _field(footer, at, number)
        if leaf:
            if column >= columns.shape[0]:
                raise ValueError("a schema has more columns than the row groups")
            columns[column, OPTIONAL] = optional
            column += 1
    return at


@kernel(BYTES_READ, INT64_WRITE, _TABLE, _CHUNKS)
def read_footer(footer: Bytes, group_rows: Int64, columns: Int64, chunks: Int64) -> None:
    """Write down what a footer says.

    Parameters
    ----------
    footer : uint8[n]
        The footer alone, without its length and the magic bytes.
    group_rows : int64[groups]
        Set to the rows of each row group.
    columns : int64[columns, COLUMN_FIELDS]
        Set to what is known of each column.
    chunks : int64[groups, columns, CHUNK_FIELDS]
        Set to what is known of each column chunk.
    """
    groups, width = chunks.shape[0], chunks.shape[1]
    if group_rows.size != groups or columns.shape[0] != width:
        raise ValueError("tables differ in length")
    number, kind, at = _field(footer, 0, 0)
    while kind != _STOP:
        if number == 2 and kind == _LIST:
            at = _read_schema(footer, at, columns)
        elif number == 4 and kind == _LIST:
            count, _, at = _elements(footer, at)
            if count != groups:
                raise ValueError("a footer has other row groups than it had")
            for group in range(groups):
                group_rows[group], at = _read_group(footer, at, columns, chunks[group])
        else:
            at = _skip(footer, at, kind, 0)
        number, kind, at = _field(footer, at, number)


# ── pages ────────────────────────────────────────────────────────────────────────────────────


@kernel(BYTES_READ, INT64, returns=_SIX)
def _page(memory: Bytes, at: int) -> tuple[int, int, int, int, int, int]:
    """Return a page's type, its size, compressed size, values and encoding, and where it begins."""
    page_type, size, compressed, values, encoding = -1, -1, -2, -1, -1
    number, kind, at = _field(memory, at, 0)
    while kind != _STOP:
        if number == 1 and kind == _I32:
            page_type, at = _integer(memory, at)
        elif number == 2 and kind == _I32:
            size, at = _integer(memory, at)
        elif number == 3 and kind == _I32:
            compressed, at = _integer(memory, at)
        elif number in (5, 7) and kind == _STRUCT:
            inner, inner_kind, at = _field(memory, at, 0)
            while inner_kind != _STOP:
                if inner == 1 and inner_kind == _I32:
                    values, at = _integer(memory, at)
                elif inner == 2 and inner_kind == _I32:
                    encoding, at = _integer(memory, at)
                else:
                    at = _skip(memory, at, inner_kind, 0)
                inner, inner_kind, at = _field(memory, at, inner)
        else:
            at = _skip(memory, at, kind, 0)
        number, kind, at = _field(memory, at, number)
    if not 0 <= size <= memory.size - at:
        raise ValueError("a page is longer than the bytes")
    return page_type, size, compressed, values, encoding, at


@kernel(INT64_READ, INT64, INT64, returns=INT64)
def _chunk_start(chunk: Int64, rows: int, size: int) -> int:
    """Return where an uncompressed chunk begins in a file; -1 for any other."""
    start = int(chunk[DATA_PAGE])
    if chunk[DICTIONARY_PAGE] > 0:
        start = min(start, int(chunk[DICTIONARY_PAGE]))
    if chunk[CODEC] != 0 or chunk[VALUES] != rows:
        return -1
    if not 0 < start < size or not 0 <= chunk[SIZE] <= size - start:
        return -1
    return start


@kernel(BYTES_READ, INT64_READ, INT64, INT64, returns=_PAIR)
def plain_page(memory: Bytes, chunk: Int64, optional: int, rows: int) -> tuple[int, int]:
    """Return where the values of a chunk begin and end, that is one plain page; or -1 twice.

    Nulls take no room among them.
    """
    start = _chunk_start(chunk, rows, memory.size)
    if start < 0 or chunk[DICTIONARY_PAGE] > 0:
        return -1, -1
    page_type, size, compressed, values, encoding, at = _page(memory, start)
    if page_type != _DATA or size != compressed or at + size != start + chunk[SIZE]:
        return -1, -1
    if values != rows or encoding != _PLAIN:
        return -1, -1
    levels = 0
    if optional == 1:
        levels = 4 + _size(memory, at) if size >= 4 else size
    if levels > size:
        return -1, -1
    return at + levels, at + size


@kernel(BYTES_READ, _CHUNKS_READ, _TABLE, INT64_READ, INT64_READ, INT64, INT64_WRITE)
def raw_pages(
    memory: Bytes,
    chunks: Int64,
    columns: Int64,
    wanted: Int64,
    widths: Int64,
    rows: int,
    found: Int64,
) -> None:
    """Find columns of a row group that lie in the file as plain arrays.

    Parameters
    ----------
    memory : uint8[n]
        The file.
    chunks, columns
        Of one row group, and of the file, as :func:`read_footer` wrote them down.
    wanted : int64[m]
        Numbers of columns; -1 for one that the file does not have.
    widths : int64[m]
        Bytes of a value of each, as the reader wants it.
    rows : int
        Rows of the row group.
    found : int64[m]
        Set to the byte at which the values begin; -1 where the column has to be decoded.
    """
    if wanted.size != found.size or widths.size != found.size:
        raise ValueError("columns differ in number")
    for i in range(wanted.size):
        found[i] = -1
        if not 0 <= wanted[i] < chunks.shape[0]:
            continue
        chunk, optional = chunks[wanted[i]], columns[wanted[i], OPTIONAL]
        start, end = plain_page(memory, chunk, optional, rows)
        if start >= 0 and chunk[NULLS] == 0 and end - start == rows * widths[i]:
            found[i] = start


@kernel(BYTES_READ, INT64_READ, INT64, returns=_TRIPLE)
def dictionary_page(memory: Bytes, chunk: Int64, rows: int) -> tuple[int, int, int]:
    """Return where the values of a chunk's dictionary begin and end, and how many there are.

    All are -1 for a chunk that has none, or that has to be decoded for another reason.
    """
    start = _chunk_start(chunk, rows, memory.size)
    if start < 0 or chunk[DICTIONARY_PAGE] != start or chunk[NULLS] != 0:
        return -1, -1, -1
    page_type, size, compressed, values, encoding, at = _page(memory, start)
    if page_type != _DICTIONARY or size != compressed or not 0 <= values <= size:
        return -1, -1, -1
    if encoding not in (_PLAIN, _PLAIN_DICTIONARY) or at + size > start + chunk[SIZE]:
        return -1, -1, -1
    return at, at + size, values


@kernel(BYTES_READ, INT64_READ, INT64, INT64, INT64, INT64_WRITE, INT64_WRITE, returns=INT64)
def dictionary_runs(
    memory: Bytes,
    chunk: Int64,
    optional: int,
    rows: int,
    distinct: int,
    starts: Int64,
    codes: Int64,
) -> int:
    """Copy out the runs of a chunk that is all codes of a dictionary.

    Parameters
    ----------
    memory : uint8[n]
        The file.
    chunk : int64[CHUNK_FIELDS]
        Of :func:`read_footer`; one that has a :func:`dictionary_page`.
    optional : int
        1 if the column may have nulls.
    rows, distinct : int
        Rows of the row group, and values of the dictionary.
    starts, codes : int64[rows]
        Set, as far as the number returned, to the first row and the code of each run.

    Returns
    -------
    int
        How many runs there are; -1 where some page is no page of codes.
    """
    if starts.size < rows or codes.size < rows:
        raise ValueError("columns differ in length")
    start = _chunk_start(chunk, rows, memory.size)
    at, end = chunk[DATA_PAGE], start + chunk[SIZE]
    row = runs = 0
    before = -1
    while row < rows:
        if not start < at < end:
            raise ValueError("pages have fewer rows than are listed")
        page_type, size, compressed, values, encoding, at = _page(memory, at)
        if page_type != _DATA or encoding not in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
            return -1
        page_end = at + size
        if size != compressed or page_end > end or not 0 < values <= rows - row:
            raise ValueError("a page is not as it should be")
        if optional == 1:
            if size < 4:
                raise ValueError("a page is not as it should be")
            at += 4 + _size(memory, at)
        if at >= page_end:
            raise ValueError("a page is not as it should be")
        width = _byte(memory, at)
        at += 1
        if width > 32:
            raise ValueError("a page is not as it should be")
        last = row + values
        while row < last:
            head, at = _varint(memory, at)
            if head >> 1 > rows:
                raise ValueError("a run is not as it should be")
            count = min((head >> 1) * (8 if head & 1 else 1), last - row)
            size = ((head >> 1) * width) if head & 1 else (width + 7) // 8
            if count <= 0 or at + size > page_end:
                raise ValueError("a run is not as it should be")
            if head & 1:
                if at + size > memory.size - 8:  # a footer follows, if this is a file
                    raise ValueError("a run is not as it should be")
                mask, address = (1 << width) - 1, memory.ctypes.data + at
                for i in range(count):
                    bit = i * width
                    code = (load_i64(address + (bit >> 3)) >> (bit & 7)) & mask
                    if code >= distinct:
                        raise ValueError("a code is not in the dictionary")
                    if code != before:
                        starts[runs], codes[runs] = row + i, code
                        runs += 1
                        before = code
                row += count
            else:
                code = 0
                for i in range(size):
                    code |= _byte(memory, at + i) << (8 * i)
                if code >= distinct:
                    raise ValueError("a code is not in the dictionary")
                if code != before:
                    starts[runs], codes[runs] = row, code
                    runs += 1
                    before = code
                row += count
            at += size
        at = page_end
    return runs


@kernel(BYTES_READ, INT64, INT64, _INT32_WRITE, returns=INT64)
def text_offsets(memory: Bytes, at: int, end: int, offsets: npt.NDArray[np.int32]) -> int:
    """Measure the texts of a dictionary page.

    Parameters
    ----------
    memory : uint8[n]
        The file; the texts lie in ``at:end``, each behind its length.
    offsets : int32[texts + 1]
        Set to where each text begins once they lie side by side, and where the last ends.

    Returns
    -------
    int
        Their bytes together.
    """
    if end > memory.size:
        raise ValueError("a page is longer than the bytes")
    total = 0
    offsets[0] = 0
    for i in range(offsets.size - 1):
        if not 0 <= at <= end - 4:
            raise ValueError("a dictionary ends too soon")
        size = _size(memory, at)
        at += 4 + size
        total += size
        if at > end or total > 0x7FFF_FFFF:
            raise ValueError("a dictionary ends too soon")
        offsets[i + 1] = total
    return total


@kernel(BYTES_READ, INT64, types.Array(types.int32, 1, "C", readonly=True), _BYTES_WRITE)
def copy_texts(memory: Bytes, at: int, offsets: npt.NDArray[np.int32], texts: Bytes) -> None:
    """Copy texts, measured by :func:`text_offsets`, side by side."""
    if offsets[offsets.size - 1] > texts.size:
        raise ValueError("texts take more room")
    for i in range(offsets.size - 1):
        at += 4
        for place in range(offsets[i], offsets[i + 1]):
            texts[place] = memory[at]
            at += 1
