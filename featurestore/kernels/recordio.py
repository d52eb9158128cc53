"""RecordIO-protobuf of dense float32 rows: every record is the same but for its numbers.

::

    ┌───────┬────────┬──────┬────────────────┬───────┬───────┬─────┐
    │ magic │ length │ head │ float32 × F    │ neck  │ label │ pad │
    └───────┴────────┴──────┴────────────────┴───────┴───────┴─────┘
      4 B     4 B      what protobuf writes before numbers    to 4 B

So a block of records is written, and read, by copying between constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import types

from featurestore.kernels import BYTES_READ, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_ROWS_READ = types.Array(types.uint8, 2, "C", readonly=True)
_ROWS = types.Array(types.uint8, 2, "C")


@kernel(_ROWS_READ, _ROWS_READ, BYTES_READ, BYTES_READ, _ROWS)
def write_records(x: Bytes, y: Bytes, head: Bytes, neck: Bytes, records: Bytes) -> None:
    """Write rows as records.

    Parameters
    ----------
    x : uint8[n, 4 * features]
        Bytes of the float32 of each row.
    y : uint8[n, 4] or uint8[n, 0]
        Of its label.
    head, neck : uint8[a], uint8[b]
        What stands before the features, magic and length included, and before the label.
    records : uint8[n, record bytes]
        Overwritten.

    Examples
    --------
    >>> records = np.empty((1, 8), np.uint8)
    >>> x, y = np.array([[1, 2, 3, 4]], np.uint8), np.empty((1, 0), np.uint8)
    >>> write_records(x, y, np.array([9, 9], np.uint8), np.empty(0, np.uint8), records)
    >>> records.tolist()
    [[9, 9, 1, 2, 3, 4, 0, 0]]
    """
    rows, size = records.shape
    if x.shape[0] != rows or y.shape[0] != rows:
        raise ValueError("rows, labels and records differ in number")
    if head.size + x.shape[1] + neck.size + y.shape[1] > size:
        raise ValueError("a record is too short")
    for i in range(rows):
        at = 0
        for j in range(head.size):
            records[i, at + j] = head[j]
        at += head.size
        for j in range(x.shape[1]):
            records[i, at + j] = x[i, j]
        at += x.shape[1]
        for j in range(neck.size):
            records[i, at + j] = neck[j]
        at += neck.size
        for j in range(y.shape[1]):
            records[i, at + j] = y[i, j]
        for j in range(at + y.shape[1], size):
            records[i, j] = 0


@kernel(_ROWS_READ, BYTES_READ, BYTES_READ, _ROWS, _ROWS, returns=types.int64)
def read_records(records: Bytes, head: Bytes, neck: Bytes, x: Bytes, y: Bytes) -> int:
    """Read records that :func:`write_records` wrote; returns the first that is another, or -1.

    Examples
    --------
    >>> x, y = np.empty((1, 4), np.uint8), np.empty((1, 0), np.uint8)
    >>> head, none = np.array([9], np.uint8), np.empty(0, np.uint8)
    >>> read_records(np.array([[9, 1, 2, 3, 4]], np.uint8), head, none, x, y)
    -1
    >>> x.tolist()
    [[1, 2, 3, 4]]
    """
    rows, size = records.shape
    if x.shape[0] < rows or y.shape[0] < rows:
        raise ValueError("there is not room for all records")
    if head.size + x.shape[1] + neck.size + y.shape[1] > size:
        raise ValueError("a record is too short")
    for i in range(rows):
        at = 0
        for j in range(head.size):
            if records[i, at + j] != head[j]:
                return i
        at += head.size
        for j in range(x.shape[1]):
            x[i, j] = records[i, at + j]
        at += x.shape[1]
        for j in range(neck.size):
            if records[i, at + j] != neck[j]:
                return i
        at += neck.size
        for j in range(y.shape[1]):
            y[i, j] = records[i, at + j]
    return -1
