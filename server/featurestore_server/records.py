"""Routes of definitions and single records: groups, feature views, put, write, delete, scan."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from featurestore import wire
from featurestore.errors import InvalidInput
from featurestore.feature_view import FeatureView
from featurestore.schema import FeatureGroup
from featurestore.storage import catalog
from featurestore_server.access import Caller, Door, nothing
from featurestore_server.answers import (
    JSON,
    ArrowPieces,
    JsonAnswer,
    arrow_stream,
    json_array,
    wants_arrow,
)
from featurestore_server.lookup import lookups_of
from featurestore_server.parts import Accept, Here, RequestId, Who, model_body, takes

if TYPE_CHECKING:
    from featurestore.engine.writer import Commit

router = APIRouter(prefix="/v1")

GroupName = Annotated[str, Path(alias="group", description="Name of a feature group.")]
ViewName = Annotated[str, Path(alias="view", description="Name of a feature view.")]


Exact = Annotated[
    bool, Query(description="Strings are strings, and `$` objects stand for what JSON has not.")
]


class Body(BaseModel):
    """A JSON object of known names."""

    model_config = ConfigDict(extra="forbid", strict=True)


# ── feature groups ───────────────────────────────────────────────────────────────────────────


class NewGroup(Body):
    """Definition of a feature group; durations as ``"2h"``, ``"30d"``."""

    name: str
    record_identifier: str | list[str]
    event_time: str
    features: dict[str, str]
    description: str = ""
    tags: dict[str, str] | None = None
    exist_ok: bool = False
    ttl: str | None = None
    max_future: str | None = "1d"
    retention: str | None = None
    online: bool = True
    offline: bool = True
    feature_descriptions: dict[str, str] | None = None


class GroupChanges(Body):
    """What to change of a feature group; what is left out stays."""

    add_features: dict[str, str] | None = None
    feature_descriptions: dict[str, str] | None = None
    feature_tags: dict[str, dict[str, str]] | None = None
    ttl: str | None = None
    max_future: str | None = None
    retention: str | None = None
    description: str | None = None
    tags: dict[str, str] | None = None


NEW_GROUP = {
    "name": "weather",
    "record_identifier": "origin",
    "event_time": "time_hour",
    "features": {"origin": "string", "time_hour": "timestamp", "temp": "float64"},
    "description": "hourly airport weather",
}


@router.post(
    "/groups",
    status_code=201,
    tags=["feature groups"],
    summary="Create a feature group",
    openapi_extra=takes(("application/json", NewGroup, NEW_GROUP)),
)
async def create_group(
    request: Request, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    asked = await model_body(request, here.limits, NewGroup)
    given = asked.model_dump()

    def act(once: Any) -> dict[str, Any]:
        groups = [asked.name]
        with here.door.enter(who, "create_feature_group", groups, request_id, once) as store:
            return store.create_feature_group(**given).to_json()

    work = (who, "create_feature_group", request_id, given, act, _group_at(asked.name))
    return JsonAnswer(await here.writes.run(here.door.once, *work), status_code=201)


def _group_at(name: str) -> Callable[[Commit], dict[str, Any]]:
    """Return what gives a group's definition at a transaction's moment."""
    return lambda commit: catalog.load(commit.env, commit.txn).group(name).to_json()


@router.get("/groups", tags=["feature groups"], summary="List or search feature groups")
async def list_groups(
    here: Here,
    who: Who,
    text: Annotated[str, Query(description="Only groups that mention this.")] = "",
    tag: Annotated[
        list[str] | None, Query(description='Only groups with this tag, as "owner=ops".')
    ] = None,
) -> Response:
    tags = dict(_tag(word) for word in tag or [])
    store = here.door.reading(who, "list_feature_groups", ())
    found = store.search(text, tags=tags)
    visible = [group for group in found if who.may_verb("describe_feature_group", group.name)]
    return JsonAnswer([group.to_json() for group in visible])


def _tag(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise InvalidInput(f'tag is written "name=value"; got "{word}".')
    return name, value


@router.get("/groups/{group}", tags=["feature groups"], summary="Describe a feature group")
async def describe_group(name: GroupName, here: Here, who: Who) -> Response:
    store = here.door.reading(who, "describe_feature_group", [name])
    return JsonAnswer(store.describe_feature_group(name).to_json())


@router.patch(
    "/groups/{group}",
    tags=["feature groups"],
    summary="Add features or change settings",
    openapi_extra=takes(
        ("application/json", GroupChanges, {"add_features": {"gust": "float64"}}),
    ),
)
async def update_group(
    request: Request, name: GroupName, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    asked = await model_body(request, here.limits, GroupChanges)
    given = asked.model_dump(exclude_unset=True)

    def act(once: Any) -> dict[str, Any]:
        with here.door.enter(who, "update_feature_group", [name], request_id, once) as store:
            return store.update_feature_group(name, **given).to_json()

    work = (who, "update_feature_group", request_id, [name, given], act, _group_at(name))
    return JsonAnswer(await here.writes.run(here.door.once, *work))


@router.delete(
    "/groups/{group}",
    status_code=204,
    tags=["feature groups"],
    summary="Delete a feature group with all its records",
)
async def delete_group(
    name: GroupName, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    def act(once: Any) -> None:
        with here.door.enter(who, "delete_feature_group", [name], request_id, once) as store:
            store.delete_feature_group(name)

    work = (who, "delete_feature_group", request_id, name, act, nothing)
    await here.work.run(here.door.once, *work)
    return Response(status_code=204)


# ── records ──────────────────────────────────────────────────────────────────────────────────


class NewRecord(Body):
    """A record by feature names, and how to take it."""

    record: dict[str, Any]
    ttl: str | None = None
    target_stores: list[str] = ["online", "offline"]
    tz: str | None = None


class GroupRecord(Body):
    """A record of some group."""

    group: str
    record: dict[str, Any]


class NewRecords(Body):
    """Records of any number of groups: all of them or none."""

    records: list[GroupRecord] = Field(max_length=100_000)
    tz: str | None = None


NEW_RECORD = {"record": {"origin": "JFK", "time_hour": "2013-01-01T05:00:00Z", "temp": 39.0}}


@router.post(
    "/groups/{group}/records",
    tags=["records"],
    summary="Put a record",
    openapi_extra=takes(("application/json", NewRecord, NEW_RECORD)),
)
async def put_record(
    request: Request,
    name: GroupName,
    here: Here,
    who: Who,
    *,
    exact: Exact = False,
    request_id: RequestId = None,
) -> Response:
    asked = await model_body(request, here.limits, NewRecord)

    def work() -> dict[str, Any]:
        with here.door.enter(who, "put_record", [name], request_id) as store:
            result = store.put_record(
                name,
                wire.read_record(store.describe_feature_group(name), asked.record, exactly=exact),
                ttl=asked.ttl,
                target_stores=asked.target_stores,
                request_id=request_id,
                tz=asked.tz,
            )
        return wire.put_result(result)

    return JsonAnswer(await here.writes.run(work))


@router.post(
    "/write",
    tags=["records"],
    summary="Put records of several groups in one transaction",
    openapi_extra=takes(
        ("application/json", NewRecords, {"records": [{"group": "weather", **NEW_RECORD}]})
    ),
)
async def write_records(
    request: Request, here: Here, who: Who, *, exact: Exact = False, request_id: RequestId = None
) -> Response:
    asked = await model_body(request, here.limits, NewRecords)

    def work() -> list[dict[str, Any]]:
        groups = [one.group for one in asked.records]
        with here.door.enter(who, "write", groups, request_id) as store:
            known = {name: store.describe_feature_group(name) for name in dict.fromkeys(groups)}
            records = [
                (one.group, wire.read_record(known[one.group], one.record, exactly=exact))
                for one in asked.records
            ]
            results = store.write(records, request_id=request_id, tz=asked.tz)
        return [wire.put_result(result) for result in results]

    return JsonAnswer(await here.writes.run(work))


KeyWords = Annotated[
    list[str] | None,
    Query(description="The record identifier: one for each of its parts, in declared order."),
]
KeyJson = Annotated[str | None, Query(description="The same as JSON, instead of key.")]


class Changes(Body):
    """Features of the latest record that change, and how to take them."""

    changes: dict[str, Any]
    ttl: str | None = None
    target_stores: list[str] = ["online", "offline"]
    tz: str | None = None


@router.patch(
    "/groups/{group}/record",
    tags=["records"],
    summary="Change some features of the latest record",
    openapi_extra=takes(("application/json", Changes, {"changes": {"temp": 41.0}})),
)
async def update_record(
    request: Request,
    name: GroupName,
    here: Here,
    who: Who,
    key: KeyWords = None,
    key_json: KeyJson = None,
    *,
    exact: Exact = False,
    request_id: RequestId = None,
) -> Response:
    asked = await model_body(request, here.limits, Changes)

    def work() -> dict[str, Any]:
        with here.door.enter(who, "update_record", [name], request_id) as store:
            group = store.describe_feature_group(name)
            result = store.update_record(
                name,
                _key(group, key, key_json, exactly=exact),
                wire.read_record(group, asked.changes, exactly=exact),
                ttl=asked.ttl,
                target_stores=asked.target_stores,
                request_id=request_id,
                tz=asked.tz,
            )
        return wire.put_result(result)

    return JsonAnswer(await here.writes.run(work))


def _key(
    group: FeatureGroup, words: list[str] | None, as_json: str | None, *, exactly: bool
) -> Any:
    if as_json is not None:
        return wire.read_key(group, wire.loads(as_json), exactly=exactly)
    return wire.read_key_words(group, words or [])


@router.delete("/groups/{group}/record", tags=["records"], summary="Delete a record")
async def delete_record(
    name: GroupName,
    here: Here,
    who: Who,
    event_time: Annotated[str, Query(description="From when on there is no record.")],
    key: KeyWords = None,
    key_json: KeyJson = None,
    *,
    hard: Annotated[bool, Query(description="Keep no more than a fence online.")] = False,
    target_stores: Annotated[
        list[str] | None, Query(description="Where: online, offline; by default both.")
    ] = None,
    tz: Annotated[str | None, Query(description="Zone of an event time without one.")] = None,
    exact: Exact = False,
    request_id: RequestId = None,
) -> Response:
    at = wire.from_exact(wire.loads(event_time)) if exact else event_time

    def work() -> dict[str, Any]:
        with here.door.enter(who, "delete_record", [name], request_id) as store:
            group = store.describe_feature_group(name)
            found = _key(group, key, key_json, exactly=exact)
            result = store.delete_record(
                name,
                found,
                event_time=at,
                hard=hard,
                target_stores=("online", "offline") if target_stores is None else target_stores,
                request_id=request_id,
                tz=tz,
            )
        return wire.put_result(result)

    return JsonAnswer(await here.writes.run(work))


@router.get("/groups/{group}/records", tags=["records"], summary="Scan live records, a page")
async def scan(
    name: GroupName,
    here: Here,
    who: Who,
    after: Annotated[str, Query(description="The token of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=10_000, description="Keys read for a page.")] = 1000,
    feature: Annotated[list[str] | None, Query(description="Only these features.")] = None,
    stream: Annotated[
        bool, Query(description="All records behind `after`, page by page in one answer.")
    ] = False,
    accept: Accept = None,
) -> Response:
    if stream:
        store = here.door.reading(who, "scan", [name])
        found = await here.work.run(_begun, store.scan(name, feature, after=after, page_size=limit))
        if wants_arrow(accept):
            return StreamingResponse(_arrow_pages(*found), media_type=wire.ARROW)
        rows = (row for page in itertools.chain(*found) for row in wire.plain_rows(page))
        return StreamingResponse(json_array(rows), media_type=JSON)

    def work() -> tuple[Any, str]:
        store = here.door.reading(who, "scan", [name])
        found = store.scan(name, feature, after=after, page_size=limit)
        page = next(found.pages())
        return page, found.token

    page, token = await here.work.run(work)
    headers = {"featurestore-token": token}
    if wants_arrow(accept):
        return Response(b"".join(arrow_stream({"": page})), 200, headers, wire.ARROW)
    return JsonAnswer({"records": wire.plain_rows(page), "token": token}, headers=headers)


def _begun(scan: Any) -> tuple[list[Any], Iterator[Any]]:
    """Read the first page, so that what is wrong is said before an answer begins."""
    pages = scan.pages()
    return [next(pages)], pages


def _arrow_pages(first: list[Any], rest: Iterator[Any]) -> Iterator[bytes]:
    pieces = ArrowPieces(first[0].schema)
    for page in itertools.chain(first, rest):
        for batch in page.to_batches():
            yield pieces.of(batch)
    yield pieces.end()


# ── feature views ────────────────────────────────────────────────────────────────────────────


class NewView(Body):
    """A named selection of features."""

    name: str
    features: str | dict[str, Any] | list[str | dict[str, Any]]
    description: str = ""
    exist_ok: bool = False


@router.post(
    "/feature-views",
    status_code=201,
    tags=["feature views"],
    summary="Create a feature view",
    openapi_extra=takes(
        ("application/json", NewView, {"name": "late_flights", "features": ["weather:temp"]})
    ),
)
async def create_view(
    request: Request, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    asked = await model_body(request, here.limits, NewView)
    lookups = lookups_of(here.door, who, "describe_feature_group", asked.features)
    groups = [lookup.group for lookup in lookups]

    def act(once: Any) -> dict[str, Any]:
        with here.door.enter(who, "create_feature_view", groups, request_id, once) as store:
            return store.create_feature_view(
                asked.name, lookups, description=asked.description, exist_ok=asked.exist_ok
            ).to_json()

    def answer(commit: Commit) -> dict[str, Any]:
        return dict(catalog.load(commit.env, commit.txn).view(asked.name))

    given = asked.model_dump()
    work = (who, "create_feature_view", request_id, given, act, answer)
    return JsonAnswer(await here.writes.run(here.door.once, *work), status_code=201)


def _visible(who: Caller, view: FeatureView) -> bool:
    return all(who.may_verb("describe_feature_view", lookup.group) for lookup in view.lookups)


@router.get("/feature-views", tags=["feature views"], summary="List feature views")
async def list_views(here: Here, who: Who) -> Response:
    found = here.door.reading(who, "list_feature_views", ()).list_feature_views()
    return JsonAnswer([view.to_json() for view in found if _visible(who, view)])


@router.get("/feature-views/{view}", tags=["feature views"], summary="Describe a feature view")
async def describe_view(name: ViewName, here: Here, who: Who) -> Response:
    return JsonAnswer(_view(here.door, who, "describe_feature_view", name).to_json())


@router.delete(
    "/feature-views/{view}", status_code=204, tags=["feature views"], summary="Delete a view"
)
async def delete_view(
    name: ViewName, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    def act(once: Any) -> None:
        view = _view(here.door, who, "delete_feature_view", name)
        groups = [lookup.group for lookup in view.lookups]
        with here.door.enter(who, "delete_feature_view", groups, request_id, once) as store:
            store.delete_feature_view(name)

    work = (who, "delete_feature_view", request_id, name, act, nothing)
    await here.writes.run(here.door.once, *work)
    return Response(status_code=204)


def _view(door: Door, who: Caller, verb: str, name: str) -> FeatureView:
    view = door.view(name)
    who.require(verb, [lookup.group for lookup in view.lookups])
    return view
