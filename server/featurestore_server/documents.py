"""Routes of documents: what training, batch inference and monitoring remember of a store.

A document is JSON under a kind and a name.  It is replaced only as it was when it was read: the
answer to a read has its digest, and a change says which digest it goes on from; when somebody else
was first it is refused, and made again from what is there now.  So a change over HTTP is as whole
as one in a transaction.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from featurestore.engine.documents import append, last_number
from featurestore.errors import InvalidInput, StaleUpdate
from featurestore.event_time import format_us
from featurestore.storage import documents
from featurestore_server.access import EVERYTHING
from featurestore_server.answers import JsonAnswer
from featurestore_server.parts import Here, RequestId, Who, model_body, takes
from featurestore_server.records import Body

router = APIRouter(prefix="/v1", tags=["documents"])

Kind = Annotated[
    str,
    Query(pattern="^[ -~]{1,64}$", description="Such as model-version.", examples=["run"]),
]
Name = Annotated[str, Query(description="At most 400 bytes.")]
AsText = Annotated[
    bool, Query(description="Documents as text of Python's JSON, which may say NaN: exactly.")
]


def digest(document: Any) -> str | None:
    """Return what tells one state of a document from another; of none, None.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}), digest(None)
    (True, None)
    """
    if document is None:
        return None
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _out(document: Any, *, as_text: bool) -> Any:
    return json.dumps(document) if as_text and document is not None else document


def _in(sent: dict[str, Any] | str | None) -> Any:
    """Return a document that was sent as itself, or as its text."""
    if not isinstance(sent, str):
        return sent
    try:
        found = json.loads(sent)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The text of the document is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise InvalidInput("A document is a JSON object.")
    return found


@router.get("/documents", summary="The documents of a kind, a page")
async def list_documents(
    here: Here,
    who: Who,
    kind: Kind,
    *,
    prefix: Annotated[str, Query(max_length=400, description="Names that begin so.")] = "",
    after: Annotated[str | None, Query(max_length=400, description="Behind this name.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    as_text: AsText = False,
) -> Response:
    here.door.reading(who, "documents", [EVERYTHING])
    database = here.door.database

    def work() -> dict[str, Any]:
        with database.read() as txn:
            found = documents.every(database.env, txn, kind, prefix, after=after)
            page = dict(itertools.islice(found, limit + 1))
        more = len(page) > limit
        if more:
            page.popitem()
        listed = {name: _out(one, as_text=as_text) for name, one in page.items()}
        return {"documents": listed, "more": more}

    return JsonAnswer(await here.work.run(work))


@router.get("/document", summary="A document, its digest, and the store's clock")
async def get_document(
    here: Here, who: Who, kind: Kind, name: Name, *, as_text: AsText = False
) -> Response:
    here.door.reading(who, "documents", [EVERYTHING])
    database = here.door.database
    with database.read() as txn:
        found = documents.get(database.env, txn, kind, name)
    answer = {"document": _out(found, as_text=as_text), "digest": digest(found)}
    return JsonAnswer(answer | {"now": format_us(here.door.now_us())})


class Replacement(Body):
    """The digest of the document as it was, null for none; what it is now, null for gone."""

    was: str | None = Field(default=None, max_length=64)
    document: dict[str, Any] | str | None


@router.put(
    "/document",
    summary="Replace a document as it was read",
    openapi_extra=takes(
        ("application/json", Replacement, {"was": None, "document": {"status": "approved"}})
    ),
)
async def update_document(
    request: Request, here: Here, who: Who, kind: Kind, name: Name, *, request_id: RequestId = None
) -> Response:
    who.require("update_document", [EVERYTHING])
    asked = await model_body(request, here.limits, Replacement)
    document = _in(asked.document)
    documents.key(kind, name)  # refuses what is no name

    def replace(commit: Any) -> dict[str, Any]:
        env, txn = commit.env, commit.txn
        if digest(documents.get(env, txn, kind, name)) != asked.was:
            raise StaleUpdate(f'The document of {kind} "{name}" was changed meanwhile. Read it.')
        if document is None:
            documents.delete(env, txn, kind, name)
        else:
            documents.put(env, txn, kind, name, document)
        return answer(commit)

    def answer(_commit: Any) -> dict[str, Any]:
        return {"digest": digest(document)}

    asked_for = [kind, name, asked.was, digest(document)]
    return await _write(here, who, "update_document", request_id, asked_for, replace, answer)


class Addition(Body):
    """A document to add to a series."""

    document: dict[str, Any] | str


@router.post(
    "/documents",
    status_code=201,
    summary="Add a document to a series; answers its number",
    openapi_extra=takes(("application/json", Addition, {"document": {"status": "approved"}})),
)
async def append_document(
    request: Request,
    here: Here,
    who: Who,
    kind: Kind,
    series: Name,
    *,
    request_id: RequestId = None,
) -> Response:
    who.require("append_document", [EVERYTHING])
    document = _in((await model_body(request, here.limits, Addition)).document)

    def add(commit: Any) -> dict[str, Any]:
        return {"number": append(commit, kind, series, document)}

    def answer(commit: Any) -> dict[str, Any]:
        return {"number": last_number(commit, kind, series)}

    asked = [kind, series, digest(document)]
    args = ("append_document", request_id, asked, add, answer)
    return await _write(here, who, *args, status=201)


async def _write(
    here: Here,
    who: Who,
    verb: str,
    request_id: str | None,
    asked: Any,
    work: Callable[[Any], Any],
    answer: Callable[[Any], Any],
    *,
    status: int = 200,
) -> Response:
    door = here.door

    def act(once: Any) -> Any:
        with door.enter(who, verb, [EVERYTHING], request_id, once):
            return door.database.writer.call(work, door.now_us(), bytes_needed=4096)

    found = await here.writes.run(door.once, who, verb, request_id, asked, act, answer)
    return JsonAnswer(found, status_code=status)
