"""Routes of upkeep: flush, compact, verify, sizes, jobs, API keys, the log, health and metrics."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import FileResponse, Response, StreamingResponse

from featurestore import wire
from featurestore.engine.backup import require_same_store
from featurestore.errors import InvalidInput
from featurestore.storage import erasures
from featurestore_server import audit, metrics
from featurestore_server.access import EVERYTHING, Caller, nothing
from featurestore_server.answers import JsonAnswer
from featurestore_server.bulk import job_answer, wants_job
from featurestore_server.copying import TAR, Copy, CopyAnswer
from featurestore_server.jobs import Job
from featurestore_server.keys import is_access_id, new_id
from featurestore_server.parts import (
    BINARY,
    Here,
    Parts,
    Prefer,
    RequestId,
    Who,
    model_body,
    takes,
)
from featurestore_server.records import Body, Exact, GroupName

router = APIRouter()

_ARCHIVE: dict[int | str, dict[str, Any]] = {200: {"content": {TAR: {"schema": BINARY}}}}
OneGroup = Annotated[str | None, Query(description="Only this group.")]


# ── the store ────────────────────────────────────────────────────────────────────────────────


@router.post("/v1/flush", tags=["upkeep"], summary="Move the journal into files")
async def flush(
    here: Here,
    who: Who,
    group: OneGroup = None,
    prefer: Prefer = None,
    request_id: RequestId = None,
) -> Response:
    return await _upkeep(here, who, "flush", group, prefer, request_id)


@router.post("/v1/compact", tags=["upkeep"], summary="Merge files into disjoint cells")
async def compact(
    here: Here,
    who: Who,
    group: OneGroup = None,
    prefer: Prefer = None,
    request_id: RequestId = None,
) -> Response:
    return await _upkeep(here, who, "compact", group, prefer, request_id)


async def _upkeep(
    here: Parts,
    who: Caller,
    verb: str,
    group: str | None,
    prefer: str | None,
    request_id: str | None,
) -> Response:
    store = here.door.reading(who, verb, [EVERYTHING if group is None else group])

    def work(progress: Any = None) -> dict[str, Any]:
        if verb == "flush":
            return {"rows": store.flush(group)}
        return {"rows": store.compact(group, progress=progress)}

    def once(progress: Any = None) -> Any:
        # Many transactions, each of which may be made again without harm: so the result is
        # stored behind the last.
        return here.door.after(who, verb, request_id, group, lambda: work(progress))

    if wants_job(prefer):
        return await job_answer(here, Job(verb, who, once, here.work), prefer)
    return JsonAnswer(await here.work.run(once))


class Receipt(Body):
    """What an erasure has answered."""

    group: str
    seq: int = Field(ge=0, le=2**63 - 1)
    at: str
    key_hash: str = Field(pattern="^-?[0-9]{1,19}$")
    key_digest: str = Field(max_length=256)
    online: bool
    records: int
    files: int
    requests: int
    waiting: list[str] = Field(default=[])
    traces: int = 0


class Erasures(Body):
    """Erasures that the store may not know of: it was restored from a backup made before them."""

    erasures: list[Receipt] = Field(default=[], max_length=100_000)


@router.post(
    "/v1/verify",
    tags=["upkeep"],
    summary="Check the whole store against itself",
    openapi_extra=takes(("application/json", Erasures, {"erasures": []}), required=False),
)
async def verify(request: Request, here: Here, who: Who, prefer: Prefer = None) -> Response:
    store = here.door.reading(who, "verify", [EVERYTHING])
    headers = request.headers
    sent = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    asked = await model_body(request, here.limits, Erasures) if sent else Erasures()
    given = [wire.read_erasure_receipt(one.model_dump()) for one in asked.erasures]

    def work(_: Any = None) -> dict[str, Any]:
        return {"faults": [asdict(fault) for fault in store.verify(erasures=given)]}

    if wants_job(prefer):
        return await job_answer(here, Job("verify", who, work, here.work), prefer)
    return JsonAnswer(await here.work.run(work))


@router.post("/v1/scrub", tags=["upkeep"], summary="Hold every byte to its checksum")
async def scrub(here: Here, who: Who, prefer: Prefer = None) -> Response:
    store = here.door.reading(who, "scrub", [EVERYTHING])

    def work(progress: Any = lambda *_, **__: None) -> dict[str, Any]:
        faults = store.scrub(progress=lambda read, of: progress(0, bytes=read, bytes_total=of))
        return {"faults": [asdict(fault) for fault in faults]}

    if wants_job(prefer):
        return await job_answer(here, Job("scrub", who, work, here.work), prefer)
    return JsonAnswer(await here.work.run(work))


class ErasedKey(Body):
    """The key of the records to erase."""

    key: Any


@router.post(
    "/v1/groups/{group}/erase",
    tags=["upkeep"],
    summary="Erase a key with all its records, past and present",
    openapi_extra=takes(("application/json", ErasedKey, {"key": "JFK"})),
)
async def erase(
    request: Request,
    name: GroupName,
    here: Here,
    who: Who,
    *,
    exact: Exact = False,
    request_id: RequestId = None,
) -> Response:
    asked = await model_body(request, here.limits, ErasedKey)

    def work() -> dict[str, Any]:
        with here.door.enter(who, "erase", [name], request_id) as store:
            key = wire.read_key(store.describe_feature_group(name), asked.key, exactly=exact)
            return wire.erasure_receipt(store.erase(name, key))

    def once() -> Any:
        # Known by a digest that takes the store's secret: the request must not tell the key.
        who.require("erase", [name])
        spelling = json.dumps([exact, asked.key]).encode()
        digest = erasures.digest(here.door.database.key_hash, spelling)
        return here.door.after(who, "erase", request_id, [name, digest], work)

    return JsonAnswer(await here.work.run(once))


@router.get("/v1/stat", tags=["upkeep"], summary="Sizes and counts")
async def stat(here: Here, who: Who) -> Response:
    store = here.door.reading(who, "stat", [EVERYTHING])
    facts = await here.work.run(store.stat)
    return JsonAnswer(wire.plain({name: fact for name, fact in facts.items() if name != "path"}))


@router.get(
    "/v1/backup",
    tags=["upkeep"],
    summary="A consistent copy of the whole store, as a tar archive",
    response_class=StreamingResponse,
    responses=_ARCHIVE,
)
async def backup(here: Here, who: Who) -> Response:
    here.door.reading(who, "backup", [EVERYTHING])
    return await _copy(here, {})


class Earlier(Body):
    """An earlier backup: of which store it is, what it is called, its files with their bytes."""

    store_id: str = Field(max_length=256)
    named: str = Field(default="The earlier backup", max_length=4096)
    files: dict[str, int]


@router.post(
    "/v1/backup",
    tags=["upkeep"],
    summary="The same without the history files that an earlier backup has",
    response_class=StreamingResponse,
    responses=_ARCHIVE,
    openapi_extra=takes(
        ("application/json", Earlier, {"store_id": "5f2c…", "files": {"data/1/7.parquet": 4096}})
    ),
)
async def backup_since(request: Request, here: Here, who: Who) -> Response:
    here.door.reading(who, "backup", [EVERYTHING])
    earlier = await model_body(request, here.limits, Earlier)
    require_same_store(here.door.database, earlier.store_id, earlier.named)
    return await _copy(here, earlier.files)


async def _copy(here: Parts, known: dict[str, int]) -> Response:
    copy = Copy(here.door.database, here.door.now_us(), known)
    try:
        await here.work.run(copy.make)
    except BaseException:
        copy.close()
        raise
    return CopyAnswer(copy)


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────

JobId = Annotated[str, Path(alias="job", max_length=64)]


@router.get("/v1/jobs/{job}", tags=["jobs"], summary="How far a job is, and what came of it")
async def job(job_id: JobId, here: Here, who: Who) -> Response:
    return JsonAnswer(here.jobs.find(job_id, who))


@router.get(
    "/v1/jobs/{job}/table",
    tags=["jobs"],
    summary="The table a job has made, as an Arrow stream",
    response_class=Response,
)
async def job_table(job_id: JobId, here: Here, who: Who) -> Response:
    state = here.jobs.find(job_id, who)
    if not (state["state"] == "done" and (state["result"] or {}).get("table")):
        raise InvalidInput(f"The job is {state['state']} and has no table.")
    return FileResponse(here.jobs.table(job_id), media_type=wire.ARROW)


# ── API keys and the log ─────────────────────────────────────────────────────────────────────


class NewKey(Body):
    """A name, roles such as ``"reader:weather*"``, and how long the key lasts."""

    name: str
    roles: list[str]
    expires_in: str | None = None
    rate: float | None = Field(default=None, gt=0, lt=1e9, description="Requests a second.")
    access_key: bool = False


class NewSecret(Body):
    """How long the new secret lasts, and the old one still works."""

    expires_in: str | None = None
    grace: str = "1d"


KeyId = Annotated[str, Path(alias="key", max_length=64)]
_NEW_KEY = {"name": "trainer", "roles": ["reader:*", "sql:*"], "expires_in": "90d"}


@router.post(
    "/v1/keys",
    status_code=201,
    tags=["access"],
    summary="Make an API key; it is shown this once",
    openapi_extra=takes(("application/json", NewKey, _NEW_KEY)),
)
async def create_key(
    request: Request, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    who.require("keys", [EVERYTHING])
    asked = await model_body(request, here.limits, NewKey)
    given = asked.model_dump()
    key_id = new_id(access_key=asked.access_key)
    name = _name_of_secret(key_id)

    def act(once: Any) -> dict[str, Any]:
        secret, facts = here.door.keys.create(**given, key_id=key_id, by=who, once=once)
        return {**facts, name: secret}

    # The secret is nowhere but in the first answer: who has lost it rotates the key.
    def answer(commit: Any) -> dict[str, Any]:
        return {**here.door.keys.shown_at(commit, key_id), name: None}

    work = (who, "create_key", request_id, given, act, answer)
    return JsonAnswer(await here.writes.run(here.door.once, *work), status_code=201)


@router.get("/v1/keys", tags=["access"], summary="List API keys")
async def list_keys(here: Here, who: Who) -> Response:
    who.require("keys", [EVERYTHING])
    return JsonAnswer(here.door.keys.list())


@router.post(
    "/v1/keys/{key}/rotate",
    tags=["access"],
    summary="Give a key a new secret",
    openapi_extra=takes(("application/json", NewSecret, {"grace": "1h"})),
)
async def rotate_key(
    request: Request, key_id: KeyId, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    who.require("keys", [EVERYTHING])
    asked = await model_body(request, here.limits, NewSecret)
    given = asked.model_dump()
    name = _name_of_secret(key_id)

    def act(once: Any) -> dict[str, Any]:
        secret, facts = here.door.keys.rotate(key_id, **given, by=who, once=once)
        return {**facts, name: secret}

    def answer(commit: Any) -> dict[str, Any]:
        return {**here.door.keys.shown_at(commit, key_id), name: None}

    work = (who, "rotate_key", request_id, [key_id, given], act, answer)
    return JsonAnswer(await here.writes.run(here.door.once, *work))


def _name_of_secret(key_id: str) -> str:
    return "secret_access_key" if is_access_id(key_id) else "api_key"


@router.delete("/v1/keys/{key}", status_code=204, tags=["access"], summary="Revoke a key")
async def revoke_key(
    key_id: KeyId, here: Here, who: Who, *, request_id: RequestId = None
) -> Response:
    who.require("keys", [EVERYTHING])

    def act(once: Any) -> None:
        here.door.keys.revoke(key_id, by=who, once=once)

    work = (who, "revoke_key", request_id, key_id, act, nothing)
    await here.writes.run(here.door.once, *work)
    return Response(status_code=204)


@router.get("/v1/audit", tags=["access"], summary="The log of changes, a page")
async def log(
    here: Here,
    who: Who,
    after: Annotated[int, Query(ge=-1, le=2**62, description="Behind this row.")] = -1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    who.require("audit", [EVERYTHING])
    rows = await here.work.run(audit.rows, here.door.database, after, limit)
    return JsonAnswer([row.to_json() for row in rows])


# ── for those who watch ──────────────────────────────────────────────────────────────────────


@router.get("/health", tags=["watching"], summary="Whether this process answers at all")
async def health() -> Response:
    return JsonAnswer({"status": "ok"})


@router.get(
    "/ready",
    tags=["watching"],
    summary="Whether it takes requests",
    responses={503: {"description": "It is stopping, or its store cannot be read."}},
)
async def ready(here: Here) -> Response:
    if here.guard.draining.is_set():
        return JsonAnswer({"status": "stopping"}, status_code=503, headers={"retry-after": "1"})
    here.door.database.catalog()
    return JsonAnswer({"status": "ready"})


@router.get("/metrics", tags=["watching"], summary="Metrics for Prometheus")
async def prometheus(here: Here, who: Who) -> Response:
    store = here.door.reading(who, "stat", [EVERYTHING])
    here.metrics.hand_over()
    text = await here.work.run(lambda: metrics.exposition(store.stat()))
    return Response(text, media_type="text/plain; version=0.0.4")
