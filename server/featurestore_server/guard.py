"""Limits around every request: how many at once, how slowly they may send, how slowly read.

A client that opens a connection costs nothing; one that holds a request open holds memory and a
place.  So each piece of a body has to come within some seconds and all of it at some pace, and
each piece of an answer has to be taken within some seconds; otherwise the connection is dropped.
(Headers that never end are granian's business: it drops those itself.)
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from featurestore.errors import InvalidInput
from featurestore_server.problems import Encoded, TooManyRequests, TooSlow, problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, MutableMapping

    from featurestore_server.bodies import Limits

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]


class ClientGone(InvalidInput):
    """The client has closed the connection before its request was whole."""


class StalledReader(Exception):
    """The client does not take its answer."""


class Guard:
    """Counts the requests of a worker, and wraps each so that it cannot stall.

    Attributes
    ----------
    draining : asyncio.Event
        Set once the process is to stop: not ready, and streams without end come to one.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running = 0
        #: Streams of changes without end.
        self.streams = 0
        self.draining = asyncio.Event()

    async def __call__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Pass a request on under limits."""
        if self.running >= self.limits.concurrent:
            await answer(send, *problem(_busy(self.limits.concurrent)))
            return
        self.running += 1
        try:
            await app(scope, self.paced(receive), self.patient(send))
        except StalledReader:
            # Whatever is left of the answer cannot be sent; granian closes what is not finished.
            return
        finally:
            self.running -= 1

    def paced(self, receive: Receive) -> Receive:
        """Return a receive that gives up on a body that does not come."""
        began, got = time.monotonic(), 0
        limits = self.limits
        ended = False

        async def receive_in_time() -> Message:
            nonlocal got, ended
            if ended:
                return await receive()  # waits for the disconnect, for as long as it takes
            try:
                message = await asyncio.wait_for(receive(), limits.stall_seconds)
            except TimeoutError:
                raise TooSlow(
                    f"Nothing of the body came for {limits.stall_seconds:g} s; {got:,} bytes had."
                ) from None
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                ended = not message.get("more_body", False)
                allowed = limits.stall_seconds + got / limits.bytes_per_second
                if not ended and time.monotonic() - began > allowed:
                    raise TooSlow(
                        f"The body comes slower than {limits.bytes_per_second:,} bytes a second."
                    )
            return message

        return receive_in_time

    def patient(self, send: Send) -> Send:
        """Return a send that gives up on a client that does not read."""

        async def send_in_time(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self.limits.stall_seconds)
            except TimeoutError:
                raise StalledReader from None

        return send_in_time


def _busy(limit: int) -> TooManyRequests:
    return TooManyRequests(f"{limit:,} requests are under way. Send this one again in a moment.")


def require_plain_encoding(encoding: str | None) -> None:
    """Refuse a body with a content encoding: a few bytes of it may mean any number."""
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise Encoded(
            f'A body with the content encoding "{encoding:.50}" is not taken; send it plain.'
        )


async def answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    """Send a whole answer."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    raw.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def body_chunks(receive: Receive) -> Callable[[], Coroutine[Any, Any, bytes]]:
    """Return what gives the next piece of a body, b"" at its end."""
    ended = False

    async def next_chunk() -> bytes:
        nonlocal ended
        while not ended:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The client closed the connection; the body is not whole.")
            ended = not message.get("more_body", False)
            if message.get("body"):
                return bytes(message["body"])
        return b""

    return next_chunk


class Lane:
    """Threads for one kind of work, with a bounded line before them.

    Slow work has a lane of its own, so that a hundred joins cannot keep a put waiting.
    """

    def __init__(self, what: str, size: int, waiting: int) -> None:
        self._what = what
        self._limiter = anyio.CapacityLimiter(size)
        self._most = size + waiting
        self.inside = 0

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        """Run blocking work on a thread of the lane.

        Raises
        ------
        TooManyRequests
            The line is full.
        """
        if self.inside >= self._most:
            raise TooManyRequests(
                f"{self.inside:,} requests to {self._what} are waiting. Send this one again in a "
                "moment."
            )
        self.inside += 1
        try:
            return await anyio.to_thread.run_sync(work, *args, limiter=self._limiter)
        finally:
            self.inside -= 1
