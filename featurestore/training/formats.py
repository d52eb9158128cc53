"""Rows as the bytes that training containers read: RecordIO-protobuf, CSV, LibSVM, Arrow.

RecordIO-protobuf is SageMaker's: a record is a magic number, a length, and a protobuf message of
``aialgs.data.Record``, padded to four bytes::

    Record { map<string, Value> features = 1; map<string, Value> label = 2; … }
    Value  { Float32Tensor float32_tensor = 2; … }
    Float32Tensor { repeated float values = 1 [packed = true]; … }

Both vectors lie under the key ``"values"``.  The bytes are those that the SageMaker SDK's
``write_numpy_to_dense_tensor`` writes for float32 (``tests/golden/recordio.py``).

=============  ===================================================================================
``recordio``   dense float32, NaN for what is missing
``csv``        no header, the label first, nothing for what is missing
``libsvm``     ``label 1:value 2:value …``; what is missing is left out, a zero is written
``arrow``      an IPC stream of the label and the features as float32
=============  ===================================================================================
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import InvalidInput
from featurestore.kernels.recordio import read_records, write_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Bytes = NDArray[np.uint8]
    Batch = tuple[Float32, Float32 | None]

_MAGIC = 0xCED7230A
_KEY = b"\x0a\x06values"  # field 1 of a map's entry
_FLOAT32_TENSOR, _VALUE, _VALUES = 0x12, 0x12, 0x0A  # fields 2, 2 and 1, of bytes
_FEATURES, _LABEL = 0x0A, 0x12  # fields 1 and 2 of a record
#: Of a record's length word; more would need records in parts.
_LENGTH_MAX = (1 << 29) - 1

CONTENT_TYPES = {
    "recordio": "application/x-recordio-protobuf",
    "csv": "text/csv",
    "libsvm": "text/libsvm",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/x-parquet",
}


class Records:
    """What every record of one shape has in common.

    Examples
    --------
    >>> records = Records(2, has_label=True)
    >>> data = records.write(np.array([[1, 2]], np.float32), np.array([3], np.float32))
    >>> len(data), data[:4].hex()
    (52, '0a23d7ce')
    >>> records.read(data)[0].tolist()
    [[1.0, 2.0]]
    """

    def __init__(self, features: int, *, has_label: bool) -> None:
        self.features, self.has_label = features, has_label
        head = _before(_FEATURES, 4 * features)
        neck = _before(_LABEL, 4) if has_label else b""
        length = len(head) + 4 * features + len(neck) + 4 * has_label
        if length > _LENGTH_MAX:
            raise InvalidInput(f"A record of {features:,} features is too long for RecordIO.")
        self.size = 8 + -(-length // 4) * 4
        self._head = np.frombuffer(struct.pack("<II", _MAGIC, length) + head, np.uint8)
        self._neck = np.frombuffer(neck, np.uint8)

    def write(self, x: Float32, y: Float32 | None) -> bytes:
        """Return rows as records."""
        records = np.empty((len(x), self.size), np.uint8)
        rows = np.ascontiguousarray(x, "<f4").view(np.uint8).reshape(len(x), 4 * self.features)
        labels = np.empty((len(x), 0), np.uint8)
        if self.has_label:
            labels = np.ascontiguousarray(y, "<f4").view(np.uint8).reshape(len(x), 4)
        write_records(rows, labels, self._head, self._neck, records)
        return records.tobytes()

    def read(self, data: bytes | bytearray | memoryview) -> Batch:
        """Return the rows of records of this shape.

        Raises
        ------
        InvalidInput
            For other bytes.
        """
        rows, rest = divmod(len(data), self.size)
        records = np.frombuffer(data, np.uint8, rows * self.size).reshape(rows, self.size)
        x = np.empty((rows, self.features), np.float32)
        y = np.empty((rows, 1 if self.has_label else 0), np.float32)
        x_bytes = x.view(np.uint8).reshape(rows, 4 * self.features)
        y_bytes = y.view(np.uint8).reshape(rows, 4 * self.has_label)
        bad = read_records(records, self._head, self._neck, x_bytes, y_bytes)
        if bad >= 0 or rest:
            raise InvalidInput(
                f"Record {rows if bad < 0 else bad} is not a dense float32 record of "
                f"{self.features} features{' and a label' if self.has_label else ''}."
            )
        return x, y[:, 0] if self.has_label else None


def _before(field: int, size: int) -> bytes:
    """Return what protobuf writes before a vector of so many bytes."""
    values = bytes([_VALUES]) + _varint(size)
    tensor = bytes([_FLOAT32_TENSOR]) + _varint(len(values) + size) + values
    entry = _KEY + bytes([_VALUE]) + _varint(len(tensor) + size) + tensor
    return bytes([field]) + _varint(len(entry) + size) + entry


def _varint(number: int) -> bytes:
    """Return a number as protobuf writes it, seven bits a byte.

    >>> _varint(300).hex()
    'ac02'
    """
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def encoder(form: str, features: int, *, has_label: bool) -> Callable[[Batch], bytes]:
    """Return what turns batches of one shape into bytes that can be put one after the other."""
    if form == "recordio":
        records = Records(features, has_label=has_label)
        return lambda batch: records.write(*batch)
    if form == "csv":
        return _csv
    if form == "libsvm":
        return _libsvm
    raise InvalidInput(f'There is no format "{form}" of rows; use recordio, csv, libsvm or arrow.')


def encoded(batches: Iterator[Batch], form: str, names: tuple[str, ...], label: str | None) -> Any:
    """Yield batches as bytes; Arrow's stream has a schema before them and an end after."""
    if form != "arrow":
        encode = encoder(form, len(names), has_label=label is not None)
        yield from map(encode, batches)
        return
    import pyarrow as pa

    columns = ([] if label is None else [label]) + list(names)
    schema = pa.schema([pa.field(name, pa.float32()) for name in columns])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(pa.record_batch(_columns(batch), schema=schema))
            yield _drained(sink)
    yield _drained(sink)


def _drained(sink: io.BytesIO) -> bytes:
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data


def _columns(batch: Batch, *, missing: bool = False) -> list[pa.Array]:
    """Return the label and the features as Arrow arrays, NaN as null if asked to."""
    import pyarrow as pa

    x, y = batch
    first = [] if y is None else [pa.array(y)]
    return first + [pa.array(x[:, f].copy(), from_pandas=missing) for f in range(x.shape[1])]


def _csv(batch: Batch) -> bytes:
    import pyarrow as pa
    from pyarrow import csv

    columns = _columns(batch, missing=True)
    sink = io.BytesIO()
    table = pa.table(columns, names=[str(i) for i in range(len(columns))])
    csv.write_csv(table, sink, csv.WriteOptions(include_header=False, quoting_style="none"))
    return sink.getvalue()


def _libsvm(batch: Batch) -> bytes:
    import pyarrow as pa
    import pyarrow.compute as pc

    x, y = batch
    labels = np.zeros(len(x), np.float32) if y is None else y
    parts = [pa.array(labels).cast(pa.string())]
    for f in range(x.shape[1]):
        values = pa.array(x[:, f].copy(), from_pandas=True).cast(pa.string())
        parts.append(pc.binary_join_element_wise(str(f + 1), values, ":"))
    lines = pc.binary_join_element_wise(*parts, " ", null_handling="skip")
    return ("\n".join(lines.to_pylist()) + "\n").encode() if len(x) else b""
