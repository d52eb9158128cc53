"""Tables on their way: what a client sends, and what comes back.

Both go as Arrow IPC streams, a batch at a time; dicts go as JSON lines in the exact form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featurestore import wire
from featurestore.errors import InvalidInput, InvalidRecord, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from featurestore.schema import FeatureGroup

_UPLOAD_ROWS = 65_536


class Sent:
    """A body that is made anew for each try."""

    def __init__(self, make: Callable[[], Iterator[bytes]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[bytes]:
        return self._make()


def dumps(value: Any) -> bytes:
    """Return JSON as it is sent."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except TypeError as error:
        raise InvalidInput(f"This cannot be sent: {error}.") from error


def upload(
    group: FeatureGroup, data: Any, progress: Callable[[int], object] | None
) -> tuple[str, Any]:
    """Return media type and body of what is to be ingested; a stream is read as it is sent."""
    import pyarrow as pa

    from featurestore.engine import sources

    if sources.are_dicts(data):
        return wire.JSON_LINES, _as_lines(data, progress)
    if sources.is_iterator(data):
        items = iter(data)
        first = next(items, None)
        rest = _chained(first, items)
        if first is None or isinstance(first, Mapping):
            return wire.JSON_LINES, _as_lines(rest, progress)
        tables: Iterator[pa.Table] = map(_only_table, sources.pieces_of(rest, group))
    else:
        tables = iter(sources.tables_of(data, group))
    try:
        head = next(tables, None)
    except pa.ArrowException as error:
        raise InvalidRecord(f"The data cannot be read: {error}") from error
    if head is None:
        head = group.arrow_schema().empty_table()
    return wire.ARROW, _as_arrow(head, tables, progress)


def _only_table(piece: Any) -> pa.Table:
    if isinstance(piece, Mapping):
        raise InvalidRecord("A stream gives either dicts or tables; this one gives both.")
    return piece


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    if first is not None:
        yield first
        yield from rest


def _as_lines(rows: Iterable[Any], progress: Callable[[int], object] | None) -> Iterator[bytes]:
    held: list[bytes] = []
    sent = 0
    for row in rows:
        if not isinstance(row, Mapping):
            raise InvalidRecord(f"An iterator of dicts gave a {type(row).__name__}.")
        held.append(dumps({str(name): wire.exact(value) for name, value in row.items()}))
        sent += 1
        if len(held) == 1000:
            yield b"\n".join(held) + b"\n"
            held = []
            if progress is not None:
                progress(sent)
    if held:
        yield b"\n".join(held) + b"\n"
        if progress is not None:
            progress(sent)


def _as_arrow(
    head: pa.Table, rest: Iterator[pa.Table], progress: Callable[[int], object] | None
) -> Iterator[bytes]:
    sent = 0
    schema = sendable(head.schema)
    for piece in stream(schema, _chained(head, rest)):
        data, rows = piece
        sent += rows
        yield data
        if progress is not None and rows:
            progress(sent)


def stream(schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[tuple[bytes, int]]:
    """Yield tables of one schema as an Arrow IPC stream, piece by piece, with the rows of each."""
    import io

    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            try:
                same = table.cast(schema) if table.schema != schema else table
            except (pa.ArrowException, ValueError) as error:
                raise InvalidRecord(f"The tables of the stream differ: {error}") from error
            for batch in same.to_batches(max_chunksize=_UPLOAD_ROWS):
                writer.write_batch(batch)
                yield sink.getvalue(), batch.num_rows
                sink.seek(0)
                sink.truncate()
    yield sink.getvalue(), 0


def sendable(schema: pa.Schema) -> pa.Schema:
    """Return a schema without views, of which a small stream could be made to mean a large one."""
    import pyarrow as pa

    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return pa.schema((f.name, plain.get(f.type, f.type)) for f in schema)


def streams(tables: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield tables as Arrow IPC streams, each with its name in the schema's metadata."""
    import pyarrow as pa

    for name, given in tables.items():
        if not isinstance(given, (pa.Table, pa.RecordBatch)) and not hasattr(
            given, "__arrow_c_stream__"
        ):
            raise InvalidInput(
                f'tables["{name}"] is {type(given).__name__}; give an Arrow table, a pandas or '
                "Polars frame, or anything with __arrow_c_stream__."
            )
        table = given if isinstance(given, pa.Table) else pa.table(given)
        schema = sendable(table.schema)
        schema = schema.with_metadata({b"group": name.encode()} if name else None)
        for data, _ in stream(schema, [table.replace_schema_metadata(schema.metadata)]):
            yield data


# ── what comes back ──────────────────────────────────────────────────────────────────────────


def tables_in(data: bytes) -> Iterator[pa.Table]:
    """Yield the tables of Arrow streams one behind the other."""
    import pyarrow as pa

    source = pa.BufferReader(data)
    while source.tell() < source.size():
        with pa.ipc.open_stream(source) as reader:
            yield reader.read_all().replace_schema_metadata(None)


def reader_of(answer: Any, url: str) -> pa.RecordBatchReader:
    """Return the batches of an answer that is being received; its connection goes back at the end.

    Raises
    ------
    Unreachable
        Here or while it is read: the server went away in the middle.
    """
    import pyarrow as pa
    import urllib3

    lost = (urllib3.exceptions.HTTPError, OSError, pa.ArrowInvalid)
    try:
        opened = pa.ipc.open_stream(pa.PythonFile(answer, mode="r"))
    except lost as error:
        answer.close()
        raise Unreachable(f"The answer of {url} ended too early: {error}") from error

    def batches() -> Iterator[Any]:
        whole = False
        try:
            yield opened.schema.remove_metadata()
            for batch in opened:
                yield batch.replace_schema_metadata(None)
            whole = not answer.read()  # the end of the body, which frees the connection
        except lost as error:
            raise Unreachable(f"The answer of {url} ended too early: {error}") from error
        finally:
            if not whole:
                answer.close()

    running = batches()
    # Begun, so that it lets go of the answer also if nothing of it is read.
    return pa.RecordBatchReader.from_batches(next(running), running)


def lines(answer: Any, url: str) -> Iterator[bytes]:
    """Yield the lines of an answer as they come.

    Raises
    ------
    Unreachable
        The server went away in the middle.
    """
    import urllib3

    held = b""
    pieces = answer.stream(65_536)
    while True:
        try:
            piece = next(pieces, None)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"The answer of {url} ended too early: {error}") from error
        if piece is None:
            return
        held += piece
        *whole, held = held.split(b"\n")
        yield from whole


def columns_sent(frame: Any, wanted: Sequence[str], *, what: str) -> pa.Table:
    """Return the columns of a caller's table that are sent; one of nulls where there is none."""
    import pyarrow as pa

    from featurestore.engine import frames

    columns = {name: frames.column(frame, name, what=what) for name in wanted}
    if not columns:
        columns = {"": pa.chunked_array([pa.nulls(frames.row_count(frame))])}
    return pa.table(columns)


def beside(frame: Any, found: pa.Table, sent: int) -> Any:
    """Put the columns that came back, behind those sent, beside the caller's own."""
    from featurestore.engine import frames

    added = {name: found.column(name) for name in found.column_names[sent:]}
    return frames.append(frame, added)


def beside_in_order(kept: Any, answer: pa.RecordBatchReader, sent: int) -> pa.RecordBatchReader:
    """Put the columns that come back beside labels that lie in a file, a batch at a time."""
    import pyarrow as pa

    own = pa.ipc.open_stream(pa.PythonFile(kept, mode="r"))
    schema = pa.schema([*own.schema, *list(answer.schema)[sent:]])

    def batches() -> Iterator[Any]:
        with kept:
            yield schema
            left = own.schema.empty_table()
            for found in answer:
                while left.num_rows < found.num_rows:
                    left = pa.concat_tables([left, pa.Table.from_batches([own.read_next_batch()])])
                labels = left.slice(0, found.num_rows).combine_chunks()
                left = left.slice(found.num_rows)
                columns = [c.chunk(0) if c.num_chunks else c.combine_chunks() for c in labels]
                yield pa.RecordBatch.from_arrays([*columns, *found.columns[sent:]], schema=schema)

    running = batches()
    return pa.RecordBatchReader.from_batches(next(running), running)
