"""One worker process: a store, its application, and granian in front, on one event loop.

A stop (SIGTERM, or the end of the supervisor) goes: not ready · streams end · no new connections ·
requests under way are finished, for so long · jobs finish · queued writes are committed · the
store is closed.  A worker that is killed instead loses nothing that was acknowledged; that is the
engine's promise and needs nothing from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server

import featurestore as fs
from featurestore_server.app import Application
from featurestore_server.bodies import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("featurestore.server")


class Listening(NamedTuple):
    """Where a worker listens.

    Attributes
    ----------
    tls : tuple of (certificate, key), or None
        Paths of PEM files.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    tls: tuple[str, str] | None = None


async def run(
    app: Application,
    listening: Listening,
    stop: asyncio.Event,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serve until told to stop, then drain."""
    certificate, key = (None, None) if listening.tls is None else map(Path, listening.tls)
    limits = app.limits
    server = Server(
        app,
        address=listening.host,
        port=listening.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        backlog=1024,
        backpressure=2 * limits.concurrent,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(limits.stall_seconds * 1000), keep_alive=True
        ),
        ssl_cert=certificate,
        ssl_key=key,
        ssl_protocol_min=SSLProtocols.tls12,
    )
    serving = asyncio.create_task(server.serve())
    started()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    app.guard.draining.set()
    server.stop()
    _, late = await asyncio.wait({serving}, timeout=limits.drain_seconds)
    if late:
        log.warning("%d requests were cut off at the stop", app.guard.running)
        serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    await app.finish()


def main() -> None:
    """Be a worker: options are the first argument, as JSON."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s worker %(process)d: %(message)s"
    )
    tls = options["tls"]
    listening = Listening(options["host"], options["port"], None if tls is None else tuple(tls))
    limits = Limits(**options["limits"])
    with fs.open(options["store"]) as store:
        app = Application(store, limits, Path(options["folder"]))
        app.open_to_all = options["anonymous"]
        # What is there now stays: the collector need not look at it with every request.
        gc.collect()
        gc.freeze()
        uvloop.run(_until_signalled(app, listening))
    # Threads of requests that were cut off must not hold the process; all is committed by now.
    os._exit(0)


async def _until_signalled(app: Application, listening: Listening) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop.set)
    # The supervisor holds the other end: when it is gone, so is the reason to run.
    loop.add_reader(0, stop.set)
    await run(app, listening, stop)


if __name__ == "__main__":
    main()
