"""Routes of tables: ingest up, labels up and the join down.

A body is taken in whole before a thread works on it (:mod:`featurestore_server.spooling`), and read
from the disk piece by piece as the engine asks for more, so an upload of any length takes the
memory of a chunk.  Options stand in the query; the body is data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from featurestore import wire
from featurestore_server.answers import JSON, JsonAnswer, Spool, spool_answer
from featurestore_server.jobs import Job
from featurestore_server.lookup import lookups_of, references_word
from featurestore_server.parts import (
    BINARY,
    Accept,
    Here,
    Parts,
    Prefer,
    RequestId,
    Who,
    takes,
)
from featurestore_server.records import Exact, GroupName
from featurestore_server.uploads import labels_in, media_type, rows_in

router = APIRouter(prefix="/v1", tags=["tables"])

_WAIT = re.compile(r"\bwait *= *\"?([0-9]{1,9})\b")
_ROWS = {"type": "array", "items": {"type": "object"}}
_LABEL = '{"origin": "JFK", "event_time": "2013-01-01T05:30:00Z"}\n'
_LINE = '{"origin": "JFK", "time_hour": "2013-01-01T05:00:00Z", "temp": 39.0}\n'


def wants_job(prefer: str | None) -> bool:
    """Return whether a caller would rather have a job."""
    return prefer is not None and "respond-async" in prefer


async def job_answer(here: Parts, job: Job, prefer: str | None) -> Response:
    """Begin a job; returns its result if that is there in time, or where to ask for it."""
    wait = _WAIT.search(prefer or "")
    seconds = min(float(wait[1]), here.limits.wait_seconds) if wait and not job.table else 0.0
    found = await here.jobs.start(job, wait_seconds=seconds)
    if found is not None:
        return JsonAnswer(found)
    where = f"/v1/jobs/{job.id}"
    return JsonAnswer({"id": job.id, "href": where}, 202, {"location": where})


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
    options: dict[str, Any] = {
        "id": id or request_id,
        "tz": tz,
        "unit": unit,
        "write_time": write_time,
    }
    options |= {"atomic": atomic, "max_lock": max_lock, "on_error": on_error}
    options |= {"target_stores": target_stores or ("online", "offline")}
    here.door.reading(who, "ingest", [name]).describe_feature_group(name)

    upload = await here.spooling.take(request, limit)

    def work(progress: Callable[[int], None] | None = None) -> dict[str, Any]:
        with here.door.enter(who, "ingest", [name], request_id) as store:
            group = store.describe_feature_group(name)
            how: dict[str, Any] = {"whole": whole, "exactly": exact}
            with rows_in(kind, upload, here.limits, here.template, group, **how) as rows:
                found = store.ingest(name, rows, progress=progress, **options)
        counts = ("accepted", "late", "expired", "rejected", "replayed")
        return {count: getattr(found, count) for count in counts}

    if not wants_job(prefer):
        with upload:
            return JsonAnswer(await here.ingests.run(work))
    return await job_answer(here, Job("ingest", who, work, here.ingests, upload), prefer)


# ── the join ─────────────────────────────────────────────────────────────────────────────────


@router.post(
    "/point-in-time",
    summary="Join labels with what was known at their times",
    openapi_extra=takes(
        (JSON, _ROWS, [{"origin": "JFK", "event_time": "2013-01-01T05:30:00Z"}]),
        (wire.JSON_LINES, {"type": "string"}, _LABEL),
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
    explain: Annotated[
        bool, Query(description="Also say where each answer came from, and by which rule.")
    ] = False,
    prefer: Prefer = None,
    accept: Accept = None,
) -> Response:
    lookups = lookups_of(
        here.door, who, "point_in_time", [references_word(word) for word in features]
    )
    kind = media_type(request)
    moment: Any = as_of
    if as_of is not None and as_of.lstrip("-").isdigit():
        moment = int(as_of)
    how: dict[str, Any] = {"label_time": label_time, "as_of": moment, "known": known, "tz": tz}
    how |= {"with_status": with_status, "explain": explain, "stream": True}
    how |= {"memory_limit": here.limits.join_memory_bytes}
    groups = here.door.database.catalog().groups
    upload = await here.spooling.take(request, here.limits.upload_bytes)

    def join(progress: Callable[[int], None] = lambda _: None) -> Spool:
        store = here.door.reading(who, "point_in_time", {lookup.group for lookup in lookups})
        with labels_in(kind, upload, here.limits, here.template, groups, lookups) as labels:
            answer = store.point_in_time(labels, list(lookups), **how)
            return Spool.of(answer.schema, _counted(answer, progress))

    if wants_job(prefer):
        job = Job("point_in_time", who, join, here.work, upload, table=True)
        return await job_answer(here, job, prefer)
    with upload:
        return spool_answer(await here.work.run(join), accept)


def _counted(batches: Any, progress: Callable[[int], None]) -> Iterator[Any]:
    """Pass batches on, and tell of their rows."""
    rows = 0
    for batch in batches:
        yield batch
        rows += batch.num_rows
        progress(rows)
