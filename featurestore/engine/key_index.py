"""Keys as integers: the distinct keys of one table, and where another table has the same.

A kernel wants one small integer for each key.  It is found column by column, by the values
themselves; no hash of ours is trusted, and nothing is glued into text::

    origin   hour        origin  hour   (origin, hour)  distinct pairs    code
    "EWR"      5   ──▶      0      0         0 * 2 + 0    0, 1, 2     ──▶  0
    "JFK"      5            1      0         1 * 2 + 0                     2
    "EWR"      6            0      1         0 * 2 + 1                     1
    null       5           -1      0            -1                        -1

After each column the pairs met are numbered anew, so codes stay below the number of rows and their
product with the next column's distinct values stays in 64 bits, however many columns there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Int64 = npt.NDArray[np.int64]

NO_KEY = -1


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
    [0, 2, 1, -1]
    >>> index.find([pa.array(["JFK", "JFK"]), pa.array([6, 5])]).tolist()
    [-1, 2]
    """

    def __init__(self, columns: Sequence[pa.Array]) -> None:
        self._values: list[pa.Array] = []
        self._pairs: list[Int64] = []
        for column in columns:
            encoded = pc.dictionary_encode(column)
            part = _codes(encoded.indices)
            self._values.append(encoded.dictionary)
            if len(self._values) == 1:
                self.codes = part
                self.size = len(encoded.dictionary)
                continue
            pairs = _pair(self.codes, part, len(encoded.dictionary))
            met = np.unique(pairs)
            met = met[met != NO_KEY]
            self._pairs.append(met)
            self.codes = _position(met, pairs)
            self.size = met.size
        self._columns = list(columns)

    def find(self, columns: Sequence[pa.Array | pa.ChunkedArray]) -> Int64:
        """Return the code of each row's key in another table; ``NO_KEY`` where it is not here.

        Parameters
        ----------
        columns : sequence of pyarrow.Array or ChunkedArray
            The parts of the key, in the same order and of the same types.

        Returns
        -------
        int64[rows]
        """
        parts = [
            _codes(pc.index_in(column, value_set=values))
            for column, values in zip(columns, self._values, strict=True)
        ]
        codes = parts[0]
        for part, values, met in zip(parts[1:], self._values[1:], self._pairs, strict=True):
            codes = _position(met, _pair(codes, part, len(values)))
        return codes

    def distinct(self) -> list[pa.Array]:
        """Return the distinct keys, part by part, in the order of their codes."""
        rows = np.empty(self.size, np.int64)
        keyed = np.flatnonzero(self.codes != NO_KEY)
        rows[self.codes[keyed]] = keyed
        return [column.take(pa.array(rows)) for column in self._columns]


def _codes(indices: pa.Array | pa.ChunkedArray) -> Int64:
    codes = pc.fill_null(indices, NO_KEY)
    return np.asarray(codes.to_numpy(), np.int64)


def _pair(codes: Int64, part: Int64, distinct: int) -> Int64:
    """Return one number for two codes.  Both are below 2**31, so their product fits."""
    return np.where((codes == NO_KEY) | (part == NO_KEY), NO_KEY, codes * distinct + part)


def _position(met: Int64, pairs: Int64) -> Int64:
    """Return where each pair stands among the sorted pairs; ``NO_KEY`` where it is not there."""
    place = np.searchsorted(met, pairs)
    place[place == met.size] = 0
    if not met.size:
        return np.full(pairs.size, NO_KEY)
    return np.where(met[place] == pairs, place, NO_KEY)
