"""Routes of history: SQL, and changes as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from featurestore import wire
from featurestore.errors import InvalidInput, InvalidQuery
from featurestore_server.access import Caller
from featurestore_server.answers import JSON, JsonAnswer, dumps, table_answer
from featurestore_server.bodies import BodyFile, arrow_batches, whole_table
from featurestore_server.bulk import media_type
from featurestore_server.parts import BINARY, Accept, Here, Parts, Who, body_file, model_body, takes
from featurestore_server.problems import TooManyRequests
from featurestore_server.records import Body
from featurestore_server.sql_pool import Query as SqlQuery
from featurestore_server.sql_pool import read_params

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
        body = body_file(request, here.limits.whole_bytes)
        lent = await here.work.run(_lent, body, here)
    else:
        asked = await model_body(request, here.limits, NewQuery)
        text, values = asked.query, asked.params
    values = read_params(values)
    running = SqlQuery()
    watching = asyncio.create_task(_stop_when_gone(request, running))
    try:
        table = await here.work.run(here.sql.run, who, text, values, lent, running)
    finally:
        watching.cancel()
    return table_answer(table, accept)


def _lent(body: BodyFile, here: Parts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while True:
        try:
            schema, batches = arrow_batches(body, here.limits)
        except InvalidInput:
            if found and body.ended:
                return found
            raise
        name = (schema.metadata or {}).get(b"group", b"").decode()
        found[name] = whole_table(schema, batches, here.limits)
        if body.ended:
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
    follow: Annotated[bool, Query(description="Go on as records are accepted.")] = True,
    exact: Annotated[bool, Query(include_in_schema=False)] = False,
    last_event_id: Annotated[str | None, Header(description="Behind this seq, too.")] = None,
) -> Response:
    if since is None:
        since = int(last_event_id) if last_event_id and last_event_id.isdigit() else 0
    names = group if group is not None else _readable(here, who)
    store = here.door.reading(who, "changes", names)
    known = {name: store.describe_feature_group(name) for name in names}
    if group is not None:
        names = list(known)
    if follow and here.guard.streams >= here.limits.streams:
        raise TooManyRequests(f"{here.limits.streams} streams of changes are open already.")
    events = _events(here, store, names, since, follow=follow, exactly=exact)
    return StreamingResponse(
        events, media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


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
