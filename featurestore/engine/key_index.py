"""Keys as integers: the distinct keys of one table, and where another table has the same.

A kernel wants one small integer for each key.  It is found column by column, by the values
themselves; no hash of ours is trusted, and nothing is glued into text::

    origin   hour        origin  hour   (origin, hour)    code
    "EWR"      5   ──▶      0      0         0 * 2 + 0  ──▶  0
    "JFK"      5            1      0         1 * 2 + 0       1
    "EWR"      6            0      1         0 * 2 + 1       2
    null       5           -1      0            -1          -1

After each column the pairs met are numbered anew, so codes stay below the number of rows and their
product with the next column's distinct values stays in 64 bits, however many columns there are.

Numbers and times are looked up in a hash table of ours (``kernels.codes``), everything else in
Arrow's.  :class:`Coded` values, as Parquet stores repeated text, are looked up once for each
entry of a dictionary, and no text is made for their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.arrays import one_chunk
from featurestore.kernels.codes import NO_CODE, CodeTable, find_codes, number_keys

Int64 = npt.NDArray[np.int64]

NO_KEY = NO_CODE

_ALL_VALID = np.empty(0, np.bool_)
_NO_CODES = np.empty(0, np.int64)


class Coded(NamedTuple):
    """Values given as places in other values.

    Attributes
    ----------
    codes : int64[rows]
        The entry of each row; ``NO_KEY`` for a null.
    entries : pyarrow.ChunkedArray
        Values, of which some may be equal.
    """

    codes: Int64
    entries: pa.ChunkedArray

    @classmethod
    def of(cls, column: pa.Array | pa.ChunkedArray) -> Coded:
        """Return a column of any type; one of dictionaries becomes their entries."""
        if not pa.types.is_dictionary(column.type):
            return cls(np.arange(len(column)), _chunked(column))
        chunks = _chunked(column).chunks
        entries = pa.chunked_array([c.dictionary for c in chunks], column.type.value_type)
        firsts = np.cumsum([0, *(len(chunk.dictionary) for chunk in chunks)])
        codes = [_codes(chunk.indices) for chunk in chunks]
        shifted = [
            np.where(own == NO_KEY, NO_KEY, own + first)
            for own, first in zip(codes, firsts, strict=False)
        ]
        return cls(np.concatenate([_NO_CODES, *shifted]), entries)


class KeyIndex:
    """The distinct keys of a table, numbered.

    Parameters
    ----------
    columns : sequence of pyarrow.Array
        The parts of the key, of any type Arrow can compare; a null in any part is no key.

    Attributes
    ----------
    codes : int64[rows]
        The key of each row, ``0 <= code < size``; ``NO_KEY`` where a part is null.
    size : int
        How many distinct keys there are.

    Examples
    --------
    >>> index = KeyIndex([pa.array(["EWR", "JFK", "EWR", None]), pa.array([5, 5, 6, 5])])
    >>> index.codes.tolist()
    [0, 1, 2, -1]
    >>> index.find([pa.array(["JFK", "JFK"]), pa.array([6, 5])]).tolist()
    [-1, 1]
    """

    def __init__(self, columns: Sequence[pa.Array | pa.ChunkedArray]) -> None:
        self._columns = list(columns)
        self._parts: list[_Numbers | _Values] = []
        self._pairs: list[CodeTable] = []
        for column in columns:
            part = _Numbers(column) if is_number(column.type) else _Values(column)
            self._parts.append(part)
            if len(self._parts) == 1:
                self.codes, self.size = part.codes, part.size
                continue
            pairs = _pair(self.codes, part.codes, part.size)
            self.codes, met = number_keys(pairs, pairs != NO_KEY)
            self.size = met.distinct.size
            self._pairs.append(met)

    def find(self, columns: Sequence[pa.Array | pa.ChunkedArray | Int64 | Coded]) -> Int64:
        """Return the code of each row's key in another table; ``NO_KEY`` where it is not here.

        Parameters
        ----------
        columns : sequence of pyarrow.Array, ChunkedArray, int64[rows] or Coded
            The parts of the key, in the same order and of the same types; or dictionaries of such
            values; numbers also as :func:`as_numbers` makes them, and others coded.

        Returns
        -------
        int64[rows]
        """
        codes = self._parts[0].find(columns[0])
        for part, column, met in zip(self._parts[1:], columns[1:], self._pairs, strict=True):
            pairs = _pair(codes, part.find(column), part.size)
            codes = find_codes(met, pairs)  # a pair with a null is no number that was met
        return codes

    def distinct(self) -> list[pa.Array]:
        """Return the distinct keys, part by part, in the order of their codes."""
        rows = np.empty(self.size, np.int64)
        keyed = np.flatnonzero(self.codes != NO_KEY)
        rows[self.codes[keyed]] = keyed
        return [column.take(pa.array(rows)) for column in self._columns]


def is_number(kind: pa.DataType) -> bool:
    """Return whether values of a type are compared as integers."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date32(kind)
    )


def as_numbers(column: pa.Array | pa.ChunkedArray) -> Int64:
    """Return integers, timestamps or dates as int64; what stands for a null is arbitrary."""
    array = one_chunk(column)
    width = array.type.bit_width
    if not pa.types.is_integer(array.type):
        array = array.view(pa.int64() if width == 64 else pa.int32())
    if array.null_count:
        array = array.fill_null(0)
    return np.asarray(array.to_numpy(zero_copy_only=False)).astype(np.int64, copy=False)


class _Numbers:
    """One part of a key that is an integer, a timestamp or a date."""

    def __init__(self, column: pa.Array | pa.ChunkedArray) -> None:
        self._type = column.type
        self.codes, self._table = number_keys(as_numbers(column), _valid(column))
        self.size = self._table.distinct.size

    def find(self, column: pa.Array | pa.ChunkedArray | Int64) -> Int64:
        if isinstance(column, np.ndarray):
            return find_codes(self._table, column)
        if column.type != self._type:
            raise pa.ArrowTypeError(f"keys of type {column.type}, where {self._type} is expected")
        codes = find_codes(self._table, as_numbers(column))
        if column.null_count:
            codes[~_valid(column)] = NO_KEY
        return codes


class _Values:
    """One part of a key of any other type."""

    def __init__(self, column: pa.Array | pa.ChunkedArray) -> None:
        encoded = pc.dictionary_encode(one_chunk(column))
        self.codes = _codes(encoded.indices)
        self._values = encoded.dictionary
        self.size = len(self._values)

    def find(self, column: pa.Array | pa.ChunkedArray | Coded) -> Int64:
        coded = column if isinstance(column, Coded) else Coded.of(column)
        # Each look-up in Arrow numbers our values anew, so all dictionaries go in together.
        found = _codes(pc.index_in(coded.entries, value_set=self._values))
        return np.append(found, NO_KEY)[coded.codes]  # the last is for nulls: they are -1


def _valid(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return which rows are not null; nothing at all when every row is one."""
    if not column.null_count:
        return _ALL_VALID
    array = one_chunk(column)
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.bool_)


def _chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _codes(indices: pa.Array | pa.ChunkedArray) -> Int64:
    codes = pc.fill_null(indices, NO_KEY)
    return np.asarray(codes.to_numpy(), np.int64)


def _pair(codes: Int64, part: Int64, distinct: int) -> Int64:
    """Return one number for two codes.  Both are below 2**31, so their product fits."""
    return np.where((codes == NO_KEY) | (part == NO_KEY), NO_KEY, codes * distinct + part)
