"""The surface: which requests are its own, what they say, and how they are answered.

::

    POST /  X-Amz-Target: SageMaker.<Operation>              control plane, JSON 1.1
    PUT, GET, DELETE /FeatureGroup/<name or ARN>             runtime, rest-json
    POST /FeatureGroup/<name or ARN>/Record, /ListRecords
    POST /BatchGetRecord, /BatchWriteRecord

An ARN holds a slash, which boto3 sends as ``%2F``: so segments are parted in the raw path, before
anything is decoded.  Whoever sends the slash as it is is understood too.

Nothing else of the server has these paths.  Like the look-ups this is raw ASGI, answered before
FastAPI sees it: routing, dependencies and response models would cost more than a get.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

import anyio.to_thread
import orjson

from featurestore import wire
from featurestore.errors import CannotOpen, InvalidInput
from featurestore_server.bodies import Limits, too_large
from featurestore_server.guard import body_chunks
from featurestore_server.problems import TooManyRequests
from featurestore_server.roles import EVERYTHING
from featurestore_server.sagemaker import signature
from featurestore_server.sagemaker.control import Control
from featurestore_server.sagemaker.groups import REGION
from featurestore_server.sagemaker.model import CONTROL
from featurestore_server.sagemaker.refusals import UnknownOperation, answer_of
from featurestore_server.sagemaker.runtime import Call, Runtime

if TYPE_CHECKING:
    from featurestore_server.access import Caller, Door
    from featurestore_server.guard import Guard, Lane, Receive, Scope, Send
    from featurestore_server.metrics import Metrics

log = logging.getLogger("featurestore.server")

_PREFIX = "/FeatureGroup/"
_TARGET = "SageMaker."
_BATCHES = {"/BatchGetRecord": "BatchGetRecord", "/BatchWriteRecord": "BatchWriteRecord"}
_BY_METHOD = {"PUT": "PutRecord", "GET": "GetRecord", "DELETE": "DeleteRecord"}
_POSTED = {b"Record": "UpdateRecord", b"ListRecords": "ListRecords"}
#: Members that come in the query, and whether there may be several; their names in the input.
_QUERY = {
    "RecordIdentifierValueAsString": ("RecordIdentifierValueAsString", False),
    "EventTime": ("EventTime", False),
    "DeletionMode": ("DeletionMode", False),
    "ExpirationTimeResponse": ("ExpirationTimeResponse", False),
    "FeatureName": ("FeatureNames", True),
    "TargetStores": ("TargetStores", True),
}
_QUERY_FIELDS_MAX = 5000
_REQUEST_ID_MAX = 256
#: A batch of 25 records at their limit, characters beyond ASCII escaped, as botocore does.
_BATCH_BYTES = 32 << 20
#: Bodies larger than this are parsed on a thread.
_LARGE_BYTES = 256 << 10
_RUNTIME_JSON = (b"content-type", b"application/json")
_CONTROL_JSON = (b"content-type", b"application/x-amz-json-1.1")

Handler = Callable[[Call], Awaitable[bytes]]


class Route(NamedTuple):
    """What a request asks for.

    Attributes
    ----------
    operation : str
    group : str or None
        The group of the path, decoded.
    control : bool
        Whether it is the control plane's.
    """

    operation: str
    group: str | None
    control: bool


class Surface:
    """Answers boto3."""

    def __init__(
        self, door: Door, guard: Guard, limits: Limits, metrics: Metrics, lanes: tuple[Lane, Lane]
    ) -> None:
        writes, self._work = lanes
        self._door = door
        self._guard = guard
        self._limits = limits
        self._metrics = metrics
        self._control = Control(door)
        runtime = Runtime(door, writes)
        self._runtime: dict[str, Handler] = {
            "PutRecord": runtime.put_record,
            "GetRecord": runtime.get_record,
            "DeleteRecord": runtime.delete_record,
            "UpdateRecord": runtime.update_record,
            "ListRecords": runtime.list_records,
            "BatchGetRecord": runtime.batch_get_record,
            "BatchWriteRecord": runtime.batch_write_record,
        }

    def takes(self, scope: Scope) -> bool:
        """Return whether a request is this surface's."""
        path = scope["path"]
        return (
            path.startswith(_PREFIX)
            or path in _BATCHES
            or (path == "/" and any(name == b"x-amz-target" for name, _ in scope["headers"]))
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, whatever happens."""
        began = time.perf_counter()
        operation, control = "Unknown", scope["path"] == "/"
        self._guard.running += 1
        try:
            self._require_room()
            route = _route(scope)
            operation = route.operation
            status, body = 200, await self._answer(route, scope, receive)
            headers: list[tuple[bytes, bytes]] = []
        except Exception as error:  # noqa: BLE001  every error has an answer
            status, headers, body = answer_of(error, operation, control=control)
        finally:
            self._guard.running -= 1
        headers = [
            _framing(scope, body),
            _CONTROL_JSON if control else _RUNTIME_JSON,
            (b"x-amzn-requestid", str(uuid.uuid4()).encode()),
            *headers,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self._metrics.count(f"sagemaker:{operation}", status, time.perf_counter() - began)

    def _require_room(self) -> None:
        if self._guard.running > self._limits.concurrent:
            raise TooManyRequests(f"{self._limits.concurrent:,} requests are under way.")

    async def _answer(self, route: Route, scope: Scope, receive: Receive) -> bytes:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        authorization = headers.get(b"authorization")
        known = self._known(authorization)
        body = await self._body(route, receive)
        caller = self._caller(known, scope, body)
        parts = (route, scope["query_string"], body)
        if len(body) > _LARGE_BYTES:
            asked = await anyio.to_thread.run_sync(_asked, *parts)
        else:
            asked = _asked(*parts)
        region = signature.region_of(authorization, REGION)
        request_id = _request_id(headers.get(b"amz-sdk-invocation-id"))
        call = Call(caller, asked, request_id, region, len(body))
        if route.control:
            return orjson.dumps(
                await self._work.run(self._control.operations[route.operation], call)
            )
        return await self._runtime[route.operation](call)

    # ── who asks ──

    def _known(
        self, authorization: str | None
    ) -> tuple[Caller, list[str], signature.Signed] | Caller:
        """Return who says to have signed; before the body is read, so that a stranger's is not."""
        if not self._door.keys.exist():
            return self._door.caller(None)
        signed = signature.read(authorization)
        try:
            known = self._door.signer(signed.key_id)
        except CannotOpen as error:
            # Where the store lies is not for somebody who has proved nothing.
            log.error("access keys cannot be checked: %s", error)  # noqa: TRY400  the message says it
            known = None
        if known is None:
            raise signature.unknown_key()
        return *known, signed

    def _caller(
        self,
        known: tuple[Caller, list[str], signature.Signed] | Caller,
        scope: Scope,
        body: bytes,
    ) -> Caller:
        if not isinstance(known, tuple):
            return known
        caller, secrets, signed = known
        request = signature.message(
            scope["method"], scope["raw_path"], scope["query_string"], scope["headers"]
        )
        try:
            signature.verify(signed, request, body, secrets, time.time())
        except signature.NotSigned:
            self._door.counts.add(caller.key_id, "", "authenticate", EVERYTHING, allowed=False)
            raise
        return caller

    async def _body(self, route: Route, receive: Receive) -> bytes:
        limit = self._limits.json_bytes
        if route.operation == "BatchWriteRecord":
            limit = max(limit, _BATCH_BYTES)
        held, size = [], 0
        next_chunk = body_chunks(self._guard.paced(receive))
        while chunk := await next_chunk():
            size += len(chunk)
            if size > limit:
                raise too_large("The body", limit)
            held.append(chunk)
        return b"".join(held)


def _framing(scope: Scope, body: bytes) -> tuple[bytes, bytes]:
    """Return the header that says where an answer ends; the first, lest a cut takes it away.

    botocore has switched off the check of a body against its content-length, and takes JSON that
    ends too soon for an empty object: of an answer that was cut on its way, a get would say "no
    such record".  A chunked body that ends without its end, it notices, and asks again.
    """
    if body and scope["http_version"] != "1.0":
        return b"transfer-encoding", b"chunked"
    return b"content-length", b"%d" % len(body)


def _request_id(given: str | None) -> str | None:
    """Return the id of a request, the same for each of its tries; an odd one is none."""
    if given is None or not 0 < len(given) <= _REQUEST_ID_MAX or not given.isprintable():
        return None
    return given


# ── what is asked ────────────────────────────────────────────────────────────────────────────


def _route(scope: Scope) -> Route:
    path, method = scope["path"], scope["method"]
    if path == "/":
        return _control_route(scope)
    if path in _BATCHES:
        if method == "POST":
            return Route(_BATCHES[path], None, control=False)
    else:
        segments = scope["raw_path"].split(b"/")[2:]
        if method == "POST" and len(segments) > 1 and segments[-1] in _POSTED:
            return Route(_POSTED[segments[-1]], _text(b"/".join(segments[:-1])), control=False)
        if method in _BY_METHOD:
            return Route(_BY_METHOD[method], _text(b"/".join(segments)), control=False)
    raise UnknownOperation(f"There is no operation {method} {path[:200]}.")


def _control_route(scope: Scope) -> Route:
    target = next(value for name, value in scope["headers"] if name == b"x-amz-target")
    operation = target.decode("latin-1").removeprefix(_TARGET)
    if scope["method"] != "POST" or operation not in CONTROL:
        raise UnknownOperation(
            f"The operation {operation[:100]} is not supported; there are: "
            f"{', '.join(sorted(CONTROL))}."
        )
    return Route(operation, None, control=True)


def _text(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidInput("The path or the query is no UTF-8.") from None


def _asked(route: Route, query: bytes, body: bytes) -> dict[str, Any]:
    """Return the members of an input, from path, query and body."""
    asked: dict[str, Any] = {}
    if body:
        found = wire.loads(body)
        if not isinstance(found, dict):
            raise InvalidInput("The body is no JSON object.")
        asked = found
    if route.group is not None:
        asked["FeatureGroupName"] = route.group
    if query and route.operation in ("GetRecord", "DeleteRecord"):
        asked |= _queried(query)
    return asked


def _queried(query: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pairs = query.split(b"&")
    if len(pairs) > _QUERY_FIELDS_MAX:
        raise InvalidInput(f"The query has more than {_QUERY_FIELDS_MAX} members.")
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        known = _QUERY.get(_text(name))
        if known is None:
            continue
        member, several = known
        if several:
            found.setdefault(member, []).append(_text(value))
        elif member in found:
            raise InvalidInput(f"The query has {member} twice.")
        else:
            found[member] = _text(value)
    return found
