"""The parts of a worker that its routes share, and how a route gets at them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends, Header, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ValidationError

from featurestore import wire
from featurestore.errors import InvalidInput
from featurestore_server.access import Caller, Door
from featurestore_server.bodies import Limits, too_large
from featurestore_server.guard import Guard, Lane, require_plain_encoding
from featurestore_server.lookup import asking

if TYPE_CHECKING:
    from featurestore_server.confined import Template
    from featurestore_server.jobs import Jobs
    from featurestore_server.metrics import Metrics
    from featurestore_server.spooling import Spooling
    from featurestore_server.sql_pool import SqlPool

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Parts:
    """What a worker is made of.

    Attributes
    ----------
    writes, ingests, work : Lane
        Threads for single writes, for ingests, and for other long work.
    """

    door: Door
    guard: Guard
    limits: Limits
    metrics: Metrics
    writes: Lane
    ingests: Lane
    work: Lane
    spooling: Spooling
    jobs: Jobs
    template: Template
    sql: SqlPool


def parts_of(request: Request) -> Parts:
    """Return the parts of the worker that answers a request."""
    found: Parts = request.app.state.parts
    return found


_BEARER = HTTPBearer(auto_error=False, description="An API key: fs_<id>_<secret>.")


async def caller_of(request: Request, _documented: Annotated[Any, Depends(_BEARER)]) -> Caller:
    """Return who asks."""
    return parts_of(request).door.caller(asking(request.scope["headers"]).credentials)


Here = Annotated[Parts, Depends(parts_of)]
Who = Annotated[Caller, Depends(caller_of)]
RequestId = Annotated[
    str | None,
    Header(
        alias="idempotency-key",
        min_length=1,
        max_length=256,
        description="Makes the write count once: repeated within 24 hours it gives the first "
        "result again.",
    ),
]
Accept = Annotated[str | None, Header(include_in_schema=False)]
Prefer = Annotated[
    str | None,
    Header(
        description="`respond-async`: answer 202 with a job at once, and work after that; "
        "`respond-async, wait=10`: only if it takes longer than so many seconds."
    ),
]


# ── bodies ───────────────────────────────────────────────────────────────────────────────────


def require_plain(request: Request) -> None:
    """Refuse a body that is compressed: a few bytes of it may mean any number."""
    require_plain_encoding(request.headers.get("content-encoding"))


async def json_body(request: Request, limits: Limits) -> Any:
    """Read a JSON body strictly."""
    require_plain(request)
    held, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.json_bytes:
            raise too_large("The body", limits.json_bytes)
        held.append(chunk)
    return wire.loads(b"".join(held))


async def model_body(request: Request, limits: Limits, model: type[M]) -> M:
    """Read a JSON body of a known form."""
    found = await json_body(request, limits)
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise InvalidInput(sentence_of(error.errors())) from None


def sentence_of(faults: Any) -> str:
    """Return pydantic's faults as one sentence."""
    told = [
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults[:5]
    ]
    return f"The request is not of the form it needs: {'; '.join(told)}."


def takes(*bodies: tuple[str, Any, Any], required: bool = True) -> dict[str, Any]:
    """Document bodies that a route reads by itself: (media type, model or schema, example)."""
    content = {}
    for kind, shape, example in bodies:
        is_model = isinstance(shape, type) and issubclass(shape, BaseModel)
        schema = shape.model_json_schema() if is_model else shape
        content[kind] = {"schema": schema} | ({} if example is None else {"example": example})
    return {"requestBody": {"required": required, "content": content}}


BINARY = {"type": "string", "format": "binary"}
Work = Callable[..., Any]
