"""What goes out: JSON for people, Arrow IPC streams for volume, by ``Accept``.

An Arrow answer of several tables is several streams, one behind the other, each with the name of
its group in the schema's metadata.  Streams are written piece by piece, so that an answer costs a
batch of memory beside the table it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response, StreamingResponse

from featurestore import wire

if TYPE_CHECKING:
    import pyarrow as pa

JSON = "application/json"
BATCH_ROWS = 16_384


def wants_arrow(accept: str | None) -> bool:
    """Return whether a caller asks for Arrow.

    Examples
    --------
    >>> wants_arrow("application/vnd.apache.arrow.stream"), wants_arrow("*/*"), wants_arrow(None)
    (True, False, False)
    """
    return accept is not None and wire.ARROW in accept


def dumps(value: Any) -> bytes:
    """Return an answer as JSON; values are those :mod:`featurestore.wire` makes."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


class JsonAnswer(Response):
    """JSON, written without being walked by the framework first."""

    media_type = JSON

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return dumps(content)


class _Pieces:
    """A file that what is written to can be taken out of again."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> int:
        self._held.append(bytes(data))
        return len(self._held[-1])

    def flush(self) -> None:
        pass

    def writable(self) -> bool:
        return True

    def take(self) -> bytes:
        held, self._held = self._held, []
        return b"".join(held)


def arrow_stream(tables: Mapping[str, pa.Table]) -> Iterator[bytes]:
    """Yield tables as Arrow IPC streams, piece by piece."""
    import pyarrow as pa

    for name, table in tables.items():
        pieces = _Pieces()
        schema = table.schema.with_metadata({b"group": name.encode()} if name else None)
        with pa.ipc.new_stream(pa.PythonFile(pieces, mode="w"), schema) as writer:
            for batch in table.replace_schema_metadata(schema.metadata).to_batches(BATCH_ROWS):
                writer.write_batch(batch)
                yield pieces.take()
        yield pieces.take()


def arrow_bytes(tables: Mapping[str, pa.Table]) -> bytes:
    """Return small tables as Arrow IPC streams, at once: a quarter of the cost of pieces."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    for name, table in tables.items():
        schema = table.schema.with_metadata({b"group": name.encode()} if name else None)
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    return bytes(sink.getvalue())


def json_array(rows: Iterable[Any]) -> Iterator[bytes]:
    """Yield rows as one JSON array, some at a time."""
    held: list[bytes] = []
    first = True
    yield b"["
    for row in rows:
        held.append(dumps(row))
        if len(held) == 500:
            yield (b"" if first else b",") + b",".join(held)
            held, first = [], False
    if held:
        yield (b"" if first else b",") + b",".join(held)
    yield b"]"


def table_answer(
    table: pa.Table, accept: str | None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a table as the caller asks for it."""
    if wants_arrow(accept):
        return StreamingResponse(
            arrow_stream({"": table}), media_type=wire.ARROW, headers=dict(headers or {})
        )
    rows = (row for batch in table.to_batches(500) for row in wire.plain_rows(batch))
    return StreamingResponse(json_array(rows), media_type=JSON, headers=dict(headers or {}))
