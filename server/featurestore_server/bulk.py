"""Routes of tables: ingest up, labels up and the join down.

A body is read by the thread that works on it, piece by piece as the engine asks for more, so an
upload of any length takes the memory of a chunk.  Options stand in the query; the body is data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from featurestore import wire
from featurestore.engine.sources import CHUNK_DICTS
from featurestore.errors import InvalidInput, TooLarge
from featurestore_server.answers import JSON, JsonAnswer, table_answer
from featurestore_server.bodies import (
    BodyFile,
    Limits,
    arrow_batches,
    json_lines,
    parquet_batches,
    too_large,
    whole_table,
)
from featurestore_server.lookup import lookups_of, read_entities, references_word
from featurestore_server.parts import (
    BINARY,
    Accept,
    Here,
    Parts,
    Prefer,
    RequestId,
    Who,
    body_file,
    takes,
)
from featurestore_server.records import Exact, GroupName

router = APIRouter(prefix="/v1", tags=["tables"])

_TABLE_BYTES = 64 << 20
_COPY_BYTES = 1 << 20

_ROWS = {"type": "array", "items": {"type": "object"}}
_LINE = '{"origin": "JFK", "time_hour": "2013-01-01T05:00:00Z", "temp": 39.0}\n'


def media_type(request: Request) -> str:
    """Return what a body says it is."""
    return request.headers.get("content-type", JSON).split(";")[0].strip().lower()


def wants_job(prefer: str | None) -> bool:
    """Return whether a caller would rather have a job."""
    return prefer is not None and "respond-async" in prefer


def job_answer(job: str) -> Response:
    """Return where to ask for a job."""
    where = f"/v1/jobs/{job}"
    return JsonAnswer({"id": job, "href": where}, status_code=202, headers={"location": where})


# ── ingest ───────────────────────────────────────────────────────────────────────────────────


@router.post(
    "/groups/{group}/ingest",
    summary="Put many records",
    openapi_extra=takes(
        (wire.JSON_LINES, {"type": "string"}, _LINE),
        (JSON, _ROWS, [{"origin": "JFK", "time_hour": "2013-01-01T05:00:00Z", "temp": 39.0}]),
        (wire.ARROW, BINARY, None),
        (wire.PARQUET, BINARY, None),
    ),
)
async def ingest(
    request: Request,
    name: GroupName,
    here: Here,
    who: Who,
    *,
    id: Annotated[  # noqa: A002  the word of the field
        str | None, Query(max_length=256, description="Makes the ingest count once.")
    ] = None,
    tz: Annotated[str | None, Query(description="Zone of times without one.")] = None,
    unit: Annotated[Literal["s", "ms", "us", "ns"] | None, Query(description="Of numbers.")] = None,
    write_time: Annotated[str | None, Query(description="Column of when it was known.")] = None,
    atomic: Annotated[bool, Query(description="One transaction whatever the size.")] = False,
    max_lock: Annotated[str, Query(description="How long others may be held up.")] = "50ms",
    on_error: Annotated[Literal["raise", "skip"], Query(description="A bad row.")] = "raise",
    target_stores: Annotated[list[str] | None, Query()] = None,
    whole: Annotated[
        bool, Query(description="Check all rows before any is stored; needs memory for them.")
    ] = False,
    exact: Exact = False,
    prefer: Prefer = None,
    request_id: RequestId = None,
) -> Response:
    kind = media_type(request)
    limit = here.limits.whole_bytes if whole else here.limits.upload_bytes
    body = body_file(request, limit)
    options: dict[str, Any] = {
        "id": id or request_id,
        "tz": tz,
        "unit": unit,
        "write_time": write_time,
    }
    options |= {"atomic": atomic, "max_lock": max_lock, "on_error": on_error}
    options |= {"target_stores": target_stores or ("online", "offline")}
    here.door.reading(who, "ingest", [name]).describe_feature_group(name)

    def work(source: BodyFile, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
        with here.door.enter(who, "ingest", [name], request_id) as store:
            group = store.describe_feature_group(name)
            with tempfile.TemporaryFile() as spool:
                data = _rows_in(kind, source, spool, here.limits, group, whole=whole, exactly=exact)
                found = store.ingest(name, data, progress=progress, **options)
        counts = ("accepted", "late", "expired", "rejected", "replayed")
        return {count: getattr(found, count) for count in counts}

    if not wants_job(prefer):
        return JsonAnswer(await here.work.run(work, body))
    # The upload has to be over before its connection is: it waits in a file.
    spooled = await here.work.run(_spooled, body)

    def later(progress: Callable[[int], None]) -> dict[str, Any]:
        with spooled:
            return work(BodyFile(lambda: spooled.read(_COPY_BYTES), limit), progress)

    return job_answer(await here.jobs.start("ingest", who, later))


def _spooled(body: BodyFile) -> Any:
    spool = tempfile.TemporaryFile()  # noqa: SIM115  closed by the job
    while piece := body.read(_COPY_BYTES):
        spool.write(piece)
    spool.seek(0)
    return spool


def _rows_in(
    kind: str,
    body: BodyFile,
    spool: Any,
    limits: Limits,
    group: Any,
    *,
    whole: bool,
    exactly: bool = False,
) -> Any:
    """Return a body as what the engine ingests: a table if it is to be whole, else a stream."""
    if kind in (wire.JSON_LINES, "application/jsonl", "application/x-jsonlines"):
        rows = _lines(body, limits, group, exactly=exactly)
        return list(rows) if whole else rows
    if kind == JSON:
        text = body.read(limits.json_bytes + 1)
        if len(text) > limits.json_bytes:
            raise too_large("The body", limits.json_bytes)
        found = wire.loads(text)
        if not isinstance(found, list):
            raise InvalidInput("The body is no JSON array of records.")
        return [wire.read_record(group, row, exactly=exactly) for row in found]
    if kind == wire.ARROW:
        schema, batches = arrow_batches(body, limits)
    elif kind == wire.PARQUET:
        while piece := body.read(_COPY_BYTES):
            spool.write(piece)
        spool.seek(0)
        schema, batches = parquet_batches(spool, limits)
    else:
        raise InvalidInput(
            f'A body of the type "{kind}" is not taken; send {JSON}, {wire.JSON_LINES}, '
            f"{wire.ARROW} or {wire.PARQUET}."
        )
    return whole_table(schema, batches, limits) if whole else _tables(batches)


def _tables(batches: Iterator[Any]) -> Iterator[Any]:
    """Gather batches to tables of a fair size."""
    held, size = [], 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size >= _TABLE_BYTES:
            yield _table(held)
            held, size = [], 0
    if held:
        yield _table(held)


def _table(batches: list[Any]) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches(batches)


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


# ── the join ─────────────────────────────────────────────────────────────────────────────────


@router.post(
    "/point-in-time",
    summary="Join labels with what was known at their times",
    openapi_extra=takes(
        (JSON, _ROWS, [{"origin": "JFK", "event_time": "2013-01-01T05:30:00Z"}]),
        (wire.ARROW, BINARY, None),
        (wire.PARQUET, BINARY, None),
    ),
)
async def point_in_time(
    request: Request,
    here: Here,
    who: Who,
    features: Annotated[
        list[str],
        Query(
            description='"group:feature", "group:*", a feature view, or a lookup as JSON.',
            examples=[["weather:temp"]],
        ),
    ],
    *,
    label_time: Annotated[str | None, Query(description="The column of times.")] = None,
    as_of: Annotated[str | None, Query(description="A seq, or a time.")] = None,
    known: Annotated[Literal["event_time", "write_time"], Query()] = "event_time",
    tz: Annotated[str | None, Query(description="Zone of times without one.")] = None,
    with_status: bool = False,
    prefer: Prefer = None,
    accept: Accept = None,
) -> Response:
    lookups = lookups_of(
        here.door, who, "point_in_time", [references_word(word) for word in features]
    )
    kind = media_type(request)
    body = body_file(request, here.limits.whole_bytes)
    moment: Any = as_of
    if as_of is not None and as_of.lstrip("-").isdigit():
        moment = int(as_of)

    def labels() -> Any:
        with tempfile.TemporaryFile() as spool:
            if kind == JSON:
                return _json_labels(body, here, lookups)
            return _rows_in(kind, body, spool, here.limits, None, whole=True)

    def join(given: Any) -> Any:
        store = here.door.reading(who, "point_in_time", {lookup.group for lookup in lookups})
        return store.point_in_time(
            given,
            list(lookups),
            label_time,
            as_of=moment,
            known=known,
            tz=tz,
            with_status=with_status,
        )

    if wants_job(prefer):
        held = await here.work.run(labels)
        return job_answer(await here.jobs.start("point_in_time", who, lambda _: join(held)))
    return table_answer(await here.work.run(lambda: join(labels())), accept)


def _json_labels(body: BodyFile, here: Parts, lookups: Any) -> Any:
    text = body.read(here.limits.json_bytes + 1)
    if len(text) > here.limits.json_bytes:
        raise too_large("The body", here.limits.json_bytes)
    rows = wire.loads(text)
    if not isinstance(rows, list):
        raise InvalidInput("The body is no JSON array of labels.")
    return read_entities(here.door.database.catalog().groups, lookups, rows)
