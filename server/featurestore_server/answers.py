"""What goes out: JSON for people, Arrow IPC streams for volume, by ``Accept``.

An Arrow answer of several tables is several streams, one behind the other, each with the name of
its group in the schema's metadata.  Answers of volume are spooled (:class:`Spool`), and sent piece
by piece.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import orjson
from starlette.responses import Response, StreamingResponse

from featurestore import wire

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

JSON = "application/json"
BATCH_ROWS = 16_384
_SPOOL_BYTES = 8 << 20
_PIECE_BYTES = 256 << 10
_JSON_ROWS = 500


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


class _Written:
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


class ArrowPieces:
    """An Arrow IPC stream, made a batch at a time."""

    def __init__(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        self._written = _Written()
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._written, mode="w"), schema)

    def of(self, batch: pa.RecordBatch) -> bytes:
        """Return what a batch adds to the stream."""
        self._writer.write_batch(batch)
        return self._written.take()

    def end(self) -> bytes:
        """Return what ends the stream."""
        self._writer.close()
        return self._written.take()


def arrow_stream(tables: Mapping[str, pa.Table]) -> Iterator[bytes]:
    """Yield tables as Arrow IPC streams, piece by piece."""
    for name, table in tables.items():
        named = table.replace_schema_metadata({b"group": name.encode()} if name else None)
        pieces = ArrowPieces(named.schema)
        for batch in named.to_batches(BATCH_ROWS):
            yield pieces.of(batch)
        yield pieces.end()


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


# ── answers of any size ──────────────────────────────────────────────────────────────────────


class Spool:
    """An answer of any size on its way: an Arrow IPC stream, in memory while it is small.

    It is computed to its end before any of it is sent.  So what goes wrong on the way has a status
    and a sentence of its own, a client that reads slowly holds a file and not a process, and
    whatever the size it takes the memory of a few pieces.
    """

    def __init__(self) -> None:
        self._file: Any = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115
        self.size = 0
        self.rows = 0

    @classmethod
    def of(cls, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Self:
        """Return a spool with batches of a schema."""
        spool = cls()
        try:
            pieces = ArrowPieces(schema)
            for batch in batches:
                spool.rows += batch.num_rows
                spool.write(pieces.of(batch))
            spool.write(pieces.end())
        except BaseException:
            spool.close()
            raise
        return spool

    def write(self, piece: bytes) -> None:
        """Add to it."""
        self._file.write(piece)
        self.size += len(piece)

    def close(self) -> None:
        """Let it go."""
        self._file.close()

    def save(self, path: Path) -> None:
        """Move it to a path."""
        with path.open("wb") as file:
            for piece in self.pieces():
                file.write(piece)

    def pieces(self) -> Iterator[bytes]:
        """Yield it as it is."""
        with self._file as file:
            file.seek(0)
            while piece := file.read(_PIECE_BYTES):
                yield piece

    def json_pieces(self) -> Iterator[bytes]:
        """Yield its rows as a JSON array."""
        with self._file as file:
            file.seek(0)
            yield from json_array(_rows_of(file))


def _rows_of(file: Any) -> Iterator[Any]:
    import pyarrow as pa

    for batch in pa.ipc.open_stream(pa.PythonFile(file, mode="r")):
        batch.validate(full=True)
        for first in range(0, batch.num_rows, _JSON_ROWS):
            yield from wire.plain_rows(pa.Table.from_batches([batch.slice(first, _JSON_ROWS)]))


class _Spooled(StreamingResponse):
    """Sends a spool, and lets it go also when nobody takes it."""

    def __init__(self, spool: Spool, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._spool = spool

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._spool.close()


def spool_answer(
    spool: Spool, accept: str | None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return what was spooled as the caller asks for it."""
    more = dict(headers or {})
    if wants_arrow(accept):
        more["content-length"] = str(spool.size)
        return _Spooled(spool, spool.pieces(), media_type=wire.ARROW, headers=more)
    return _Spooled(spool, spool.json_pieces(), media_type=JSON, headers=more)
