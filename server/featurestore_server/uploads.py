"""Rows and labels that have been sent: read by what they say they are.

::

    JSON, JSON lines ─► records by the types of the group
    Arrow            ─► measured frame by frame (bodies) ─► batches
    Parquet          ─► a process of its own ─► Arrow, measured as any ─► batches

None of it is in memory as a whole, but what asks to be checked whole before any of it is stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from featurestore import wire
from featurestore.engine.sources import CHUNK_DICTS
from featurestore.errors import InvalidInput, TooLarge
from featurestore_server.answers import JSON
from featurestore_server.bodies import (
    BodyFile,
    Limits,
    arrow_batches,
    json_lines,
    too_large,
    whole_table,
)
from featurestore_server.confined import pieces, receive, tell
from featurestore_server.lookup import read_entities

if TYPE_CHECKING:
    import pyarrow as pa
    from fastapi import Request

    from featurestore_server.confined import Task, Template
    from featurestore_server.spooling import Upload

_TABLE_BYTES = 64 << 20
_COPY_BYTES = 1 << 20
_JSON_LINES = (wire.JSON_LINES, "application/jsonl", "application/x-jsonlines")


def media_type(request: Request) -> str:
    """Return what a body says it is."""
    return request.headers.get("content-type", JSON).split(";")[0].strip().lower()


# ── rows ─────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def rows_in(
    kind: str,
    upload: Upload,
    limits: Limits,
    template: Template,
    group: Any,
    *,
    whole: bool,
    exactly: bool = False,
) -> Iterator[Any]:
    """Give a body as what the engine ingests: a table if it is to be whole, else a stream."""
    if kind in _JSON_LINES:
        rows = _lines(upload.body(), limits, group, exactly=exactly)
        yield list(rows) if whole else rows
    elif kind == JSON:
        array = _array(upload.body(), limits)
        yield [wire.read_record(group, row, exactly=exactly) for row in array]
    else:
        with batches_in(kind, upload, limits, template) as (schema, batches):
            yield whole_table(schema, batches, limits) if whole else _tables(batches)


@contextlib.contextmanager
def batches_in(
    kind: str, upload: Upload, limits: Limits, template: Template
) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Give schema and batches of a body that is a table."""
    if kind == wire.ARROW:
        yield arrow_batches(upload.body(), limits)
    elif kind == wire.PARQUET:
        with _decoded(upload, limits, template) as found:
            yield found
    else:
        raise InvalidInput(
            f'A body of the type "{kind}" is not taken; send {JSON}, {wire.JSON_LINES}, '
            f"{wire.ARROW} or {wire.PARQUET}."
        )


def _array(body: BodyFile, limits: Limits) -> list[Any]:
    text = body.read(limits.json_bytes + 1)
    if len(text) > limits.json_bytes:
        raise too_large("The body", limits.json_bytes)
    found = wire.loads(text)
    if not isinstance(found, list):
        raise InvalidInput("The body is no JSON array of rows.")
    return found


def _lines(
    body: BodyFile, limits: Limits, group: Any, *, exactly: bool
) -> Iterator[dict[str, Any]]:
    """Yield the records of JSON lines; the engine holds as many of them as make a chunk."""
    began = 0
    for number, row in enumerate(json_lines(body, limits)):
        if number % CHUNK_DICTS == 0:
            began = body.taken
        elif body.taken - began > limits.whole_bytes:
            raise TooLarge(
                f"{CHUNK_DICTS:,} lines take more than {limits.whole_bytes:,} bytes. Send "
                "records as large as these as an Arrow stream."
            )
        yield wire.read_record(group, row, exactly=exactly)


def _tables(batches: Iterator[Any]) -> Iterator[Any]:
    """Gather batches to tables of a fair size."""
    import pyarrow as pa

    held, size = [], 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size >= _TABLE_BYTES:
            yield pa.Table.from_batches(held)
            held, size = [], 0
    if held:
        yield pa.Table.from_batches(held)


# ── files ───────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _decoded(
    upload: Upload, limits: Limits, template: Template
) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Give schema and batches of a Parquet file, which a process of its own decodes."""
    with template.task("parquet", limits.decode_memory_bytes, upload.descriptor()) as task:
        task.allow(limits.decode_seconds)
        try:
            tell(task.to, list(limits))
            receive(task.of, _COPY_BYTES)
        except (EOFError, OSError) as error:
            raise _not_decoded(task) from error
        found = pieces(task.of)

        def next_piece() -> bytes:
            task.allow(limits.decode_seconds)
            try:
                return next(found, b"")
            except (EOFError, OSError) as error:
                raise _not_decoded(task) from error
            finally:
                task.rest()

        yield arrow_batches(BodyFile(next_piece, limits.upload_bytes), limits)


def _not_decoded(task: Task) -> InvalidInput:
    why = task.killed or "it takes too much memory, or is made to do harm"
    return InvalidInput(f"The body cannot be read as Parquet: {why}.")


# ── labels ───────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def labels_in(
    kind: str, upload: Upload, limits: Limits, template: Template, groups: Any, lookups: Any
) -> Iterator[Any]:
    """Give labels as a join takes them: rows, or a reader of batches."""
    import pyarrow as pa

    if kind == JSON:
        yield read_entities(groups, lookups, _array(upload.body(), limits))
    elif kind in _JSON_LINES:
        rows = list(_label_lines(upload.body(), limits))
        yield read_entities(groups, lookups, rows)
    else:
        with batches_in(kind, upload, limits, template) as (schema, batches):
            yield pa.RecordBatchReader.from_batches(schema, batches)


def _label_lines(body: BodyFile, limits: Limits) -> Iterator[dict[str, Any]]:
    for row in json_lines(body, limits):
        if body.taken > limits.json_bytes:
            raise too_large("The body", limits.json_bytes)
        yield row
