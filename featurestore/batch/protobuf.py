"""The two shapes of SageMaker's ``aialgs.data.Record`` that batch inference needs.

::

    Record  { map<string, Value> features = 1; map<string, Value> label = 2; }
    Value   { Float32Tensor float32_tensor = 2; Float64Tensor float64_tensor = 3; }
    tensors { repeated <number> values = 1 [packed]; repeated uint64 keys = 2; }

A dense vector of numbers is read; a label of float32 is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_BYTES = 2  # the wire type of what has a length


def vector(record: bytes) -> NDArray[np.float32]:
    """Return the features ``values`` of a record.

    Raises
    ------
    ValueError
        When there are none, or they are sparse.

    Examples
    --------
    >>> vector(feature([1.0, 2.5])).tolist()
    [1.0, 2.5]
    """
    for number, entry in _fields(record):
        if number != 1:
            continue
        parts = dict(_fields(entry))
        for kind, tensor in _fields(parts.get(2, b"")):
            fields = dict(_fields(tensor))
            if 2 in fields:
                raise ValueError("the record is sparse; a dense vector is needed")
            dtype = {2: "<f4", 3: "<f8", 7: "<i4"}.get(kind)
            if dtype in ("<f4", "<f8"):
                return np.frombuffer(fields.get(1, b""), dtype).astype(np.float32)
    raise ValueError("the record has no vector of numbers among its features")


def feature(values: list[float]) -> bytes:
    """Return a record with a vector of float32 as its features."""
    return _entry(1, "values", np.asarray(values, "<f4").tobytes())


def label(scores: NDArray[np.float64] | np.float64) -> bytes:
    """Return a record with the label ``score``."""
    return _entry(2, "score", np.atleast_1d(scores).astype("<f4").tobytes())


def _entry(number: int, key: str, values: bytes) -> bytes:
    tensor = _field(2, _field(1, values))
    return _field(number, _field(1, key.encode()) + _field(2, tensor))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        head, at = _read_varint(data, at)
        if head & 7 != _BYTES:
            raise ValueError(f"the record has a field of wire type {head & 7}")
        length, at = _read_varint(data, at)
        if at + length > len(data):
            raise ValueError("the record ends within a field")
        yield head >> 3, data[at : at + length]
        at += length


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("the record ends within a number")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
        shift += 7
