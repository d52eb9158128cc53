"""Arrow's buffers as numpy arrays, and back.  Neither way makes an object of a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.dtypes import MAX_DAYS, MIN_DAYS
from featurestore.event_time import MAX_US, MIN_US

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Bytes = NDArray[np.uint8]

#: numpy's name for each of ``values.element_format``; floats as the integers of their bits.
NUMPY_TYPE = {"b": "i1", "h": "<i2", "i": "<i4", "q": "<i8", "f": "<u4", "d": "<i8"}

#: What a value may be where its 64 bits could be more.
RANGES = {"timestamp": (MIN_US, MAX_US), "date": (MIN_DAYS, MAX_DAYS)}


def buffer_bytes(buffer: pa.Buffer | None) -> Bytes:
    """Return a buffer as bytes; Arrow may leave out one that would be empty."""
    return np.frombuffer(buffer, np.uint8) if buffer else np.zeros(0, np.uint8)


def fixed_values(array: pa.Array, numpy_type: str) -> NDArray[Any]:
    """Return the memory of a fixed-width Arrow array, without its nulls."""
    width = np.dtype(numpy_type).itemsize
    return np.frombuffer(array.buffers()[1], numpy_type, len(array), array.offset * width)


def array_of(
    arrow_type: pa.DataType,
    nulls: Bools,
    buffers: list[pa.Buffer],
    children: list[pa.Array] | None = None,
) -> pa.Array:
    """Return an Arrow array of these buffers, led by the bitmap of what is not null."""
    valid = pa.py_buffer(np.packbits(~nulls, bitorder="little")) if nulls.any() else None
    return pa.Array.from_buffers(arrow_type, len(nulls), [valid, *buffers], children=children)
