"""Routes of history: SQL, and changes as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from featurestore import wire
from featurestore.errors import InvalidQuery
from featurestore.storage import consumers
from featurestore_server.access import EVERYTHING, Caller, nothing
from featurestore_server.answers import JSON, JsonAnswer, dumps, spool_answer
from featurestore_server.bodies import arrow_batches, whole_table
from featurestore_server.parts import BINARY, Accept, Here, Parts, RequestId, Who, model_body, takes
from featurestore_server.problems import TooManyRequests
from featurestore_server.records import Body
from featurestore_server.sql_pool import Query as SqlQuery
from featurestore_server.sql_pool import read_params
from featurestore_server.uploads import media_type

if TYPE_CHECKING:
    from featurestore_server.spooling import Upload

router = APIRouter(prefix="/v1")

_PAGE = 500
_POLL_SECONDS = 0.25
_KEEP_ALIVE_SECONDS = 15.0


# ── SQL ──────────────────────────────────────────────────────────────────────────────────────


class NewQuery(Body):
    """One SELECT; ``?`` takes an array of params, ``$name`` an object."""

    query: str
    params: list[Any] | dict[str, Any] | None = None


_EXAMPLE = {"query": "SELECT origin, avg(temp) AS temp FROM weather WHERE temp > ? GROUP BY 1",
            "params": [30]}  # fmt: skip


@router.post(
    "/sql",
    tags=["history"],
    summary="Run one SELECT over the history",
    openapi_extra=takes((JSON, NewQuery, _EXAMPLE), (wire.ARROW, BINARY, None)),
)
async def sql(
    request: Request,
    here: Here,
    who: Who,
    query: Annotated[str | None, Query(description="With tables as the body: the SELECT.")] = None,
    params: Annotated[str | None, Query(description="With tables as the body: as JSON.")] = None,
    accept: Accept = None,
) -> Response:
    who.require_some("sql")
    lent: dict[str, Any] = {}
    if media_type(request) == wire.ARROW:
        if query is None:
            raise InvalidQuery("Tables were sent, and no query: give it as ?query=.")
        text, values = query, None if params is None else wire.loads(params)
        with await here.spooling.take(request, here.limits.whole_bytes) as upload:
            lent = await here.work.run(_lent, upload, here)
    else:
        asked = await model_body(request, here.limits, NewQuery)
        text, values = asked.query, asked.params
    values = read_params(values)
    running = SqlQuery()
    watching = asyncio.create_task(_stop_when_gone(request, running))
    try:
        spool = await here.work.run(here.sql.run, who, text, values, lent, running)
    finally:
        watching.cancel()
    return spool_answer(spool, accept)


def _lent(upload: Upload, here: Parts) -> dict[str, Any]:
    """Return the tables that were sent, one stream behind the other."""
    found: dict[str, Any] = {}
    body = upload.body()
    while not (found and body.ended):
        schema, batches = arrow_batches(body, here.limits)
        name = (schema.metadata or {}).get(b"group", b"").decode("utf-8", "replace")
        found[name] = whole_table(schema, batches, here.limits)
    return found


async def _stop_when_gone(request: Request, running: SqlQuery) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    running.stop()


# ── changes ──────────────────────────────────────────────────────────────────────────────────


@router.get(
    "/changes",
    tags=["history"],
    summary="Accepted records in commit order, as server-sent events",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'id: 7\nevent: change\ndata: {"group": "weather", "seq": 7}\n\n',
                }
            }
        }
    },
)
async def changes(
    here: Here,
    who: Who,
    since: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Behind this seq.")] = None,
    group: Annotated[list[str] | None, Query(description="Of these groups; else all.")] = None,
    consumer: Annotated[
        str | None, Query(description="A consumer: behind what it has acknowledged.")
    ] = None,
    follow: Annotated[bool, Query(description="Go on as records are accepted.")] = True,
    exact: Annotated[bool, Query(include_in_schema=False)] = False,
    last_event_id: Annotated[str | None, Header(description="Behind this seq, too.")] = None,
) -> Response:
    if since is None and last_event_id and last_event_id.isdigit():
        since = min(int(last_event_id[:19]), 2**63 - 1)
    names = group if group is not None else _readable(here, who)
    store = here.door.reading(who, "changes", names)
    known = {name: store.describe_feature_group(name) for name in names}
    if group is not None:
        names = list(known)
    if consumer is not None:
        mark = await here.work.run(_mark, here, consumer)
        since = mark if since is None else since
    if follow and here.guard.streams >= here.limits.streams:
        raise TooManyRequests(f"{here.limits.streams} streams of changes are open already.")
    events = _events(here, store, names, since or 0, follow=follow, exactly=exact)
    return StreamingResponse(
        events, media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


def _mark(here: Parts, name: str) -> int:
    """Return what a consumer has acknowledged."""
    database = here.door.database
    with database.read() as txn:
        return consumers.get(database.env, txn, name).seq


def _readable(here: Parts, who: Caller) -> list[str]:
    groups = here.door.database.catalog().groups
    return [n for n, g in sorted(groups.items()) if g.offline and who.may_verb("changes", n)]


async def _events(
    here: Parts, store: Any, names: list[str], since: int, *, follow: bool, exactly: bool
) -> AsyncIterator[bytes]:
    """Yield the changes there are, then, if asked for, those to come until the server stops."""
    here.guard.streams += 1
    quiet = 0.0
    write = wire.exact if exactly else wire.plain
    try:
        while True:
            upto = await here.work.run(store.snapshot)
            if upto > since and names:
                found = await here.work.run(_begun, store, since, names)
                while page := await here.work.run(_page, found):
                    yield b"".join(
                        b"id: %d\nevent: change\ndata: %b\n\n" % (one["seq"], dumps(write(one)))
                        for one in page
                    )
                    since = max(since, page[-1]["seq"])
                quiet = 0.0
            if not follow or here.guard.draining.is_set():
                return
            since = max(since, upto)
            await asyncio.sleep(_POLL_SECONDS)
            quiet += _POLL_SECONDS
            if quiet >= _KEEP_ALIVE_SECONDS:
                quiet = 0.0
                yield b": nothing new\n\n"
    finally:
        here.guard.streams -= 1


def _begun(store: Any, since: int, names: list[str]) -> Any:
    return iter(store.changes(since, names))


def _page(found: Any) -> list[dict[str, Any]]:
    return [one for _, one in zip(range(_PAGE), found, strict=False)]


@router.get("/snapshot", tags=["history"], summary="The seq of the last commit")
async def snapshot(here: Here, who: Who) -> Response:
    who.require_some("snapshot")
    return JsonAnswer({"seq": here.door.reading(who, "snapshot", ()).snapshot()})


# ── consumers ────────────────────────────────────────────────────────────────────────────────


class NewConsumer(Body):
    """A consumer of the changes: what it has not acknowledged is held for it, so long."""

    name: str = Field(min_length=1, max_length=256)
    since: int = Field(default=0, ge=0, le=2**63 - 1)
    max_lag: str | None = "7d"
    max_lag_records: int | None = Field(default=None, ge=0, le=2**63 - 1)
    exist_ok: bool = False


class Acknowledged(Body):
    """How far a consumer has come."""

    consumer: str
    seq: int = Field(ge=0, le=2**63 - 1)


@router.post(
    "/consumers",
    status_code=201,
    tags=["history"],
    summary="Follow the changes under a name",
    openapi_extra=takes((JSON, NewConsumer, {"name": "replica", "max_lag": "7d"})),
)
async def create_consumer(
    request: Request, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    asked = await model_body(request, here.limits, NewConsumer)
    given = asked.model_dump()

    def act(once: Any) -> dict[str, Any]:
        with here.door.enter(who, "create_consumer", [EVERYTHING], request_id, once) as store:
            return {"name": asked.name, "seq": store.create_consumer(**given)}

    def answer(commit: Any) -> dict[str, Any]:
        return {"name": asked.name, "seq": consumers.get(commit.env, commit.txn, asked.name).seq}

    work = (who, "create_consumer", request_id, given, act, answer)
    return JsonAnswer(await here.writes.run(here.door.once, *work), status_code=201)


@router.post(
    "/consumers/acknowledge",
    tags=["history"],
    summary="Say up to which seq a consumer has dealt with the changes",
    openapi_extra=takes((JSON, Acknowledged, {"consumer": "replica", "seq": 7})),
)
async def acknowledge(
    request: Request, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    asked = await model_body(request, here.limits, Acknowledged)

    def act(once: Any) -> dict[str, Any]:
        with here.door.enter(who, "acknowledge", [EVERYTHING], request_id, once) as store:
            store.acknowledge(asked.consumer, asked.seq)
        return answer(None)

    def answer(_commit: Any) -> dict[str, Any]:
        return {"consumer": asked.consumer, "seq": asked.seq}

    work = (who, "acknowledge", request_id, asked.model_dump(), act, answer)
    return JsonAnswer(await here.writes.run(here.door.once, *work))


@router.delete(
    "/consumers", status_code=204, tags=["history"], summary="Hold nothing for a consumer any more"
)
async def delete_consumer(
    here: Here,
    who: Who,
    name: Annotated[str, Query(min_length=1, max_length=256, description="The consumer.")],
    *,
    request_id: RequestId = None,
) -> Response:
    def act(once: Any) -> None:
        with here.door.enter(who, "delete_consumer", [EVERYTHING], request_id, once) as store:
            store.delete_consumer(name)

    work = (who, "delete_consumer", request_id, name, act, nothing)
    await here.writes.run(here.door.once, *work)
    return Response(status_code=204)
