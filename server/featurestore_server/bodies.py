"""What comes in: read under limits, and measured before it is decoded.

A few hundred bytes can say "a billion rows".  So nothing is decoded before its size is known from
what it says of itself, and what says too much is refused:

=========  =====================================================================================
JSON       no body longer than a limit, read strictly (:func:`featurestore.wire.loads`)
lines      one at a time, none longer than a limit
Arrow      :class:`ArrowGate` reads the frames of the stream ahead of Arrow: no compression, no
           batch longer than a limit, and no more rows than its bytes can hold; of the schema only
           types that a feature, or a label, can have.  Then every offset is checked
Parquet    spooled to a file, and read by a process of its own that may be killed: rows x columns
           from its footer; small batches, strings as dictionaries, measured once more before
           those are unfolded; what comes out of it is read as Arrow
=========  =====================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from featurestore import wire
from featurestore.errors import InvalidInput, InvalidRecord, TooLarge

if TYPE_CHECKING:
    import pyarrow as pa


class Limits(NamedTuple):
    """How much one request may bring, take and hold; bytes, seconds, rows.

    Attributes
    ----------
    spool_bytes : int
        Of all bodies that are on their way into a worker, or wait there for their turn.
    wait_seconds : float
        How long the answer of a job may be waited for (``Prefer: respond-async, wait=10``).
    key_rate : float
        Requests a second of an API key that has no rate of its own, of each worker; 0 for any.
    audit_seconds : float
        How often the log is told of reads and refusals.
    """

    json_bytes: int = 4 << 20
    line_bytes: int = 1 << 20
    whole_bytes: int = 256 << 20
    upload_bytes: int = 64 << 30
    spool_bytes: int = 64 << 30
    wait_seconds: float = 20.0
    batch_bytes: int = 64 << 20
    decoded_bytes: int = 512 << 20
    keys: int = 10_000
    scan_rows: int = 10_000
    stall_seconds: float = 15.0
    bytes_per_second: int = 4096
    concurrent: int = 1024
    concurrent_writes: int = 64
    concurrent_ingests: int = 4
    concurrent_work: int = 4
    waiting_work: int = 64
    sql_seconds: float = 30.0
    sql_memory_bytes: int = 2 << 30
    sql_processes: int = 2
    sql_result_bytes: int = 256 << 20
    sql_rows: int = 10_000_000
    join_memory_bytes: int = 512 << 20
    decode_memory_bytes: int = 1 << 30
    decode_seconds: float = 30.0
    drain_seconds: float = 10.0
    streams: int = 256
    key_rate: float = 0.0
    audit_seconds: float = 60.0


Chunks = Callable[[], bytes]  # gives the next piece of a body, b"" at its end


class BodyFile:
    """A body as a file for a thread: each read asks for as much of it as it needs."""

    def __init__(self, next_chunk: Chunks, limit: int) -> None:
        self._next = next_chunk
        self._held = bytearray()
        self._left = limit
        self._limit = limit
        self._ended = False
        #: Bytes handed out so far.
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        """Return that many bytes, fewer only at the end."""
        while not self._ended and (size < 0 or len(self._held) < size):
            chunk = self._next()
            self._left -= len(chunk)
            if self._left < 0:
                raise too_large("The body", self._limit)
            self._ended = not chunk
            self._held += chunk
        size = len(self._held) if size < 0 else min(size, len(self._held))
        return self._take(size)

    @property
    def ended(self) -> bool:
        """Whether all of it has been read."""
        if not self._held and not self._ended:
            chunk = self._next()
            self._ended = not chunk
            self._held += chunk
        return self._ended and not self._held

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._held)[:size])
        del self._held[:size]
        self.taken += size
        return data

    def line(self, limit: int) -> bytes:
        """Return the next line with its line break, nothing at the end."""
        searched = 0
        while (at := self._held.find(b"\n", searched)) < 0 and not self._ended:
            searched = len(self._held)
            if searched > limit:
                raise too_large("A line", limit)
            chunk = self._next()
            self._left -= len(chunk)
            if self._left < 0:
                raise too_large("The body", self._limit)
            self._ended = not chunk
            self._held += chunk
        if max(at, len(self._held) if at < 0 else 0) > limit:
            raise too_large("A line", limit)
        return self._take(len(self._held) if at < 0 else at + 1)


def too_large(what: str, limit: int) -> TooLarge:
    """Return the error of something that is longer than its limit."""
    return TooLarge(f"{what} is longer than {limit:,} bytes. Send it in parts.")


# ── lines ────────────────────────────────────────────────────────────────────────────────────


def json_lines(body: BodyFile, limits: Limits) -> Iterator[dict[str, Any]]:
    """Yield the objects of a body that has one on each line."""
    number = 0
    while line := body.line(limits.line_bytes):
        number += 1
        if not line.strip():
            continue
        try:
            record = wire.loads(line)
        except InvalidInput as error:
            raise InvalidRecord(f"Line {number}: {error}") from None
        if not isinstance(record, dict):
            raise InvalidRecord(f"Line {number} is no object with named values.")
        yield record


# ── Arrow ────────────────────────────────────────────────────────────────────────────────────

_CONTINUATION = 0xFFFFFFFF
_METADATA_MAX = 16 << 20
_SCHEMA, _DICTIONARY, _RECORD_BATCH = 1, 2, 3
#: Rows of nothing but null take no bytes at all.
_FREE_ROWS = 1 << 16


class ArrowGate:
    """The frames of an Arrow IPC stream, each looked at before it is handed to Arrow.

    ::

        u32 0xFFFFFFFF | i32 length | flatbuffer: Message | body
                                        │
                                        └─ RecordBatch: rows, compression     body length
    """

    def __init__(self, body: BodyFile, limits: Limits) -> None:
        self._body = body
        self._limits = limits
        self._ready = bytearray()
        self._ended = False
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes of frames that have been looked at."""
        while not self._ended and (size < 0 or len(self._ready) < size):
            self._next_frame()
        size = len(self._ready) if size < 0 else min(size, len(self._ready))
        data = bytes(memoryview(self._ready)[:size])
        del self._ready[:size]
        return data

    def readable(self) -> bool:
        """Say that this file can be read."""
        return True

    def _next_frame(self) -> None:
        head = self._body.read(8)
        if len(head) < 8:
            self._ended = True
            self._ready += head
            return
        mark, length = struct.unpack("<Ii", head)
        if mark != _CONTINUATION or not 0 <= length <= _METADATA_MAX:
            raise InvalidInput("The body is no Arrow IPC stream (of version 1.0 or later).")
        self._ready += head
        if length == 0:
            self._ended = True  # what follows is another stream
            return
        metadata = self._body.read(length)
        try:
            body_bytes = self._check(metadata)
        except (struct.error, IndexError):
            raise InvalidInput("A frame of the Arrow stream is damaged.") from None
        self._ready += metadata
        data = self._body.read(body_bytes)
        if len(data) < body_bytes:
            raise InvalidInput("The Arrow stream is cut short.")
        self._ready += data

    def _check(self, metadata: bytes) -> int:
        message = _Table.root(metadata)
        kind, body_bytes = message.number(1, "<B"), message.number(3, "<q")
        if not 0 <= body_bytes <= self._limits.batch_bytes:
            raise TooLarge(
                f"A batch of the Arrow stream takes {body_bytes:,} bytes; the limit is "
                f"{self._limits.batch_bytes:,}. Write smaller batches."
            )
        if kind in (_DICTIONARY, _RECORD_BATCH):
            batch = message.table(2)
            if kind == _DICTIONARY and batch is not None:
                batch = batch.table(1)
            if batch is None:
                raise InvalidInput("A frame of the Arrow stream is damaged.")
            rows = batch.number(0, "<q")
            if batch.table(3) is not None:
                raise InvalidInput(
                    "The Arrow stream is compressed, which is not taken. Write the stream without."
                )
            if not 0 <= rows <= max(_FREE_ROWS, 8 * body_bytes):
                raise TooLarge(
                    f"A batch of the Arrow stream says it has {rows:,} rows in {body_bytes:,} "
                    "bytes, more than those can hold."
                )
        return body_bytes


class _Table:
    """A table of a flatbuffer: enough of the format to read three numbers."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place
        vtable = place - struct.unpack_from("<i", data, place)[0]
        if not 0 <= vtable < len(data):
            raise IndexError
        size = struct.unpack_from("<H", data, vtable)[0]
        self._fields = struct.unpack_from(f"<{max(0, size - 4) // 2}H", data, vtable + 4)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        """Return the outermost table."""
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def number(self, field: int, form: str) -> int:
        """Return a number, 0 where it was left out."""
        at = self._fields[field] if field < len(self._fields) else 0
        return 0 if not at else int(struct.unpack_from(form, self._data, self._place + at)[0])

    def table(self, field: int) -> _Table | None:
        """Return a table inside this one, None where it was left out."""
        at = self._fields[field] if field < len(self._fields) else 0
        if not at:
            return None
        place = self._place + at
        return _Table(self._data, place + struct.unpack_from("<I", self._data, place)[0])


def arrow_batches(body: BodyFile, limits: Limits) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Read an Arrow IPC stream; returns its schema, and its batches one by one."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_stream(pa.PythonFile(ArrowGate(body, limits), mode="r"))
        require_types(reader.schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _refused(error) from error

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for batch in reader:
                batch.validate(full=True)
                yield unfolded(batch, limits)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _refused(error) from error

    return plain_schema(reader.schema), batches()


def _refused(error: BaseException) -> Exception:
    """Return our own error where one passed through Arrow, and ours for one of Arrow's."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, InvalidInput):
            return inner
        inner = inner.__cause__ or inner.__context__
    return InvalidInput(f"The body cannot be read as an Arrow IPC stream: {error}")


def require_types(schema: pa.Schema) -> None:
    """Refuse columns of types that could mean more bytes than they take."""
    for field in schema:
        if not _is_plain(field.type):
            raise InvalidInput(
                f'The column "{field.name}" is {field.type}; send one of the types features have '
                "(or text, dictionaries and time of any unit)."
            )


def _is_plain(kind: pa.DataType, *, nested: bool = True) -> bool:
    import pyarrow.types as t

    if t.is_dictionary(kind):
        return _is_plain(kind.value_type, nested=False)
    if t.is_fixed_size_list(kind):
        return nested and 0 < kind.list_size <= 65_536 and _is_plain(kind.value_type, nested=False)
    if t.is_list(kind) or t.is_large_list(kind):
        return nested and _is_plain(kind.value_type, nested=False)
    checks = (
        t.is_boolean, t.is_integer, t.is_floating, t.is_string, t.is_large_string, t.is_binary,
        t.is_large_binary, t.is_timestamp, t.is_date, t.is_null, t.is_decimal, t.is_duration,
        t.is_time,
    )  # fmt: skip
    return any(check(kind) for check in checks)


def unfolded(batch: pa.RecordBatch, limits: Limits) -> pa.RecordBatch:
    """Return a batch without dictionaries, unless they would unfold to too much."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = []
    for column in batch.columns:
        if not pa.types.is_dictionary(column.type):
            columns.append(column)
            continue
        values = column.dictionary
        kind = values.type
        widest = 8
        if len(values) and not pa.types.is_primitive(kind) and not pa.types.is_null(kind):
            widest = pc.max(pc.binary_length(values)).as_py() or 0
        if widest * len(column) > limits.decoded_bytes:
            raise TooLarge(
                f"A dictionary of {len(values):,} values would unfold to more than "
                f"{limits.decoded_bytes:,} bytes. Write smaller batches."
            )
        columns.append(column.dictionary_decode())
    return pa.RecordBatch.from_arrays(columns, schema=plain_schema(batch.schema))


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────

_PARQUET_ROWS = 8192
_PARQUET_BATCH_BYTES = 8 << 20


def parquet_batches(file: BinaryIO, limits: Limits) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Read a Parquet file; returns its schema, and its batches one by one.

    Only in a process that may be killed: see :mod:`featurestore_server.parquet_process`.

    Its footer says how many rows and columns there are, and lies at most about how large the
    values are; text is therefore read as dictionaries, which take what the file takes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        require_types(schema)
        texts = [f.name for f in schema if _is_text(f.type)]
        file.seek(0)
        opened = pq.ParquetFile(file, read_dictionary=texts, page_checksum_verification=True)
        _require_small(opened.metadata, limits)
        rows = _rows_at_once(opened.metadata)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"The body cannot be read as Parquet: {error}") from error

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for batch in opened.iter_batches(batch_size=rows, use_threads=False):
                yield unfolded(batch, limits)
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"The body cannot be read as Parquet: {error}") from error

    return plain_schema(opened.schema_arrow), batches()


def _rows_at_once(metadata: Any) -> int:
    """Return of how many rows a batch takes some megabytes, by what the footer says."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    size = sum(int(group.total_byte_size) for group in groups)
    rows = _PARQUET_BATCH_BYTES * int(metadata.num_rows) // max(size, 1)
    return max(1, min(_PARQUET_ROWS, rows))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as t

    return bool(t.is_string(kind) or t.is_binary(kind) or t.is_large_string(kind))


def _require_small(metadata: Any, limits: Limits) -> None:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        declared = group.total_byte_size
        if declared > limits.decoded_bytes or group.num_rows * group.num_columns > 1 << 31:
            raise TooLarge(
                f"Row group {number} of the Parquet file says it has {group.num_rows:,} rows and "
                f"{declared:,} bytes; the limit is {limits.decoded_bytes:,}. Write smaller row "
                "groups."
            )
        for place in range(group.num_columns):
            column = group.column(place)
            if column.total_uncompressed_size > limits.decoded_bytes:
                raise TooLarge(
                    f'The column "{column.path_in_schema}" of row group {number} says it takes '
                    f"{column.total_uncompressed_size:,} bytes. Write smaller row groups."
                )


# ── tables sent whole ────────────────────────────────────────────────────────────────────────


def whole_table(schema: pa.Schema, batches: Iterator[pa.RecordBatch], limits: Limits) -> pa.Table:
    """Gather batches into a table, up to a limit of decoded bytes."""
    import pyarrow as pa

    held, size = [], 0
    for batch in batches:
        size += batch.nbytes
        if size > limits.decoded_bytes:
            raise too_large("The table", limits.decoded_bytes)
        held.append(batch)
    if held:
        return pa.Table.from_batches(held)
    return pa.Table.from_batches([], schema=schema)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema without dictionaries: what :func:`unfolded` gives."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type)
            for f in schema
        ],
        metadata=schema.metadata,
    )
