"""The application: one ASGI callable for a store, whatever server runs it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

import featurestore as fs
from featurestore.engine.database import open_database
from featurestore.errors import AccessDenied, FeatureStoreError, InvalidInput
from featurestore_server import bulk, docs, documents, history, records, upkeep
from featurestore_server.access import Door
from featurestore_server.bodies import Limits
from featurestore_server.confined import Template
from featurestore_server.guard import Guard, Lane, answer
from featurestore_server.jobs import Jobs
from featurestore_server.lookup import Asking, Lookup, asking
from featurestore_server.metrics import Metrics
from featurestore_server.parts import Parts, sentence_of
from featurestore_server.problems import plain_problem, problem
from featurestore_server.sagemaker.surface import Surface
from featurestore_server.spooling import Spooling
from featurestore_server.sql_pool import SqlPool

if TYPE_CHECKING:
    from featurestore_server.guard import Message, Receive, Scope, Send

log = logging.getLogger("featurestore.server")

_LOCAL = (b"localhost", b"127.0.0.1", b"[::1]")
_OWN_SITES = (None, b"none", b"same-origin")


@functools.lru_cache(maxsize=256)
def _is_local(host: bytes) -> bool:
    return host.rpartition(b":")[0] in _LOCAL or host in _LOCAL


class Application(FastAPI):
    """A store over HTTP.

    Parameters
    ----------
    store : FeatureStore
        Open; closed by whoever opened it.
    limits : Limits
        What one request, and all together, may take.
    folder : Path, optional
        Where the workers of one server keep what they share; one of its own by default.
    template : Template, optional
        What processes for strangers are made from; one of its own by default.
    """

    def __init__(
        self,
        store: fs.FeatureStore,
        limits: Limits | None = None,
        folder: Path | None = None,
        template: Template | None = None,
    ) -> None:
        super().__init__(
            title="featurestore",
            version="1",
            summary="A feature store in a directory, over HTTP.",
            lifespan=self._life,
            generate_unique_id_function=lambda route: route.name,
            # Everything that a route can raise is turned into a problem below.
            exception_handlers={
                FeatureStoreError: _problem,
                RequestValidationError: _malformed,
                HTTPException: _refused,
                Exception: _problem,
            },
        )
        self.limits = Limits() if limits is None else limits
        self._cleanup = contextlib.ExitStack()
        database = open_database(store.path)
        self._cleanup.callback(database.close)
        door = Door(store, database, self.limits.key_rate)
        if template is None:
            template = Template()
            self._cleanup.callback(template.close)
        self.guard = Guard(self.limits)
        metrics = Metrics()
        work = Lane("do long work", self.limits.concurrent_work, self.limits.waiting_work)
        ingests = Lane("ingest", self.limits.concurrent_ingests, self.limits.waiting_work)
        writes = Lane("write", self.limits.concurrent_writes, self.limits.concurrent)
        if folder is None:
            folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        jobs = Jobs(folder)
        self._cleanup.callback(jobs.close)
        self._parts = Parts(
            door=door,
            guard=self.guard,
            limits=self.limits,
            metrics=metrics,
            writes=writes,
            ingests=ingests,
            work=work,
            spooling=Spooling(self.limits.spool_bytes),
            jobs=jobs,
            template=template,
            sql=SqlPool(door, self.limits, template),
        )
        self.state.parts = self._parts
        self._lookup = Lookup(door, self.guard, self.limits, metrics, door.now_us)
        self._sagemaker = Surface(door, self.guard, self.limits, metrics, (writes, work))
        for part in (records, bulk, history, documents, upkeep):
            self.include_router(part.router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a look-up, or boto3, at once; hand everything else to FastAPI."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        who = asking(scope["headers"])
        try:
            self._require_own_page(who)
        except AccessDenied as error:
            await answer(send, *problem(error))
            return
        handler = self._lookup.takes(scope)
        if handler is not None:
            await self._lookup(handler, who.credentials, scope, receive, send)
        elif self._sagemaker.takes(scope):
            await self._sagemaker(scope, receive, send)
        else:
            await self.guard(self._rest, scope, receive, send)

    async def _rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await super().__call__(scope, receive, noting)
        finally:
            route = scope.get("route")
            verb = getattr(route, "name", "unknown")
            self._parts.metrics.count(verb, status, time.perf_counter() - began)

    def _require_own_page(self, who: Asking) -> None:
        """Refuse what a web page of somebody else asks of a store without API keys.

        Such a store trusts whoever reaches it, and a browser on the same machine reaches it for
        any page it shows: by a form that posts, or under a name that was made to mean this machine.
        """
        if self.open_to_all:
            return
        if who.origin is None and who.site in _OWN_SITES:
            if who.host is None or _is_local(who.host):
                return
        elif who.origin is not None and _is_local(who.origin.partition(b"://")[2]):
            return
        if not self._parts.door.keys.exist():
            raise AccessDenied(
                "This store has no API keys, so it answers this machine's own programs only."
            )

    #: Set where the operator has said that whoever reaches the server may use it.
    open_to_all = False

    @contextlib.asynccontextmanager
    async def _life(self, _app: FastAPI) -> AsyncIterator[None]:
        self._parts.template.start()
        telling = [
            asyncio.create_task(self._parts.metrics.tell()),
            asyncio.create_task(self._tell_log()),
        ]
        yield
        for task in telling:
            task.cancel()

    async def _tell_log(self) -> None:
        """Write reads and refusals to the log, again and again."""
        door = self._parts.door
        while True:
            await asyncio.sleep(self.limits.audit_seconds)
            try:
                await asyncio.to_thread(door.counts.write, door.database, door.now_us())
            except FeatureStoreError:
                log.exception("the log could not be told of reads and refusals")

    async def finish(self) -> None:
        """Wait for jobs, end what was started, let go of the store."""
        await self._parts.jobs.drain()
        with contextlib.suppress(FeatureStoreError):
            door = self._parts.door
            door.counts.write(door.database, door.now_us())
        self._cleanup.close()

    def openapi(self) -> dict[str, Any]:
        """Return the description of the whole API, look-ups included."""
        if not self.openapi_schema:
            self.openapi_schema = docs.complete(super().openapi())
        return self.openapi_schema


# ── errors ───────────────────────────────────────────────────────────────────────────────────


def _response(status: int, headers: dict[str, str], body: bytes) -> Response:
    return Response(body, status, headers)


async def _problem(_request: Request, error: Exception) -> Response:
    return _response(*problem(error))


async def _malformed(_request: Request, error: Exception) -> Response:
    faults = cast("RequestValidationError", error).errors()
    return _response(*problem(InvalidInput(sentence_of(faults))))


async def _refused(request: Request, refusal: Exception) -> Response:
    error = cast("HTTPException", refusal)
    detail = {
        404: f"There is nothing at {request.url.path:.100}. The paths there are: /openapi.json.",
        405: f"{request.method} is not allowed at {request.url.path:.100}.",
    }.get(error.status_code, str(error.detail))
    response = _response(*plain_problem(error.status_code, detail))
    response.headers.update(error.headers or {})
    return response
