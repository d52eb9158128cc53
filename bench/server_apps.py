"""What the server is measured beside: the same look-up with less of a server around it.

::

    python -m bench.server_apps bare PORT STORE        ASGI and an LMDB get, bytes as they are
    python -m bench.server_apps fastapi PORT STORE     a plain FastAPI route that gives a dict

Both run on granian, embedded, as our own server does.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from bench.online_world import GROUP

OCTETS = (b"content-type", b"application/octet-stream")


def bare(store: Path) -> Any:
    """Return a bare ASGI application that answers a record's bytes."""
    from featurestore.engine.database import open_database
    from featurestore.storage import latest

    database = open_database(store)
    plan = database.plan(GROUP)[0]

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        key, _ = plan.key(int(scope["query_string"][4:]))
        env = database.env
        with env.read() as txn:
            data = latest.get(env, txn, plan.group.id, database.key_hash(key), key)
        headers = [OCTETS, (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    return app


def fastapi(store: Path) -> Any:
    """Return a FastAPI application with one route, written as its documentation says."""
    from fastapi import FastAPI

    import featurestore as fs

    opened = fs.open(store)
    app = FastAPI()

    @app.get("/")
    async def get(key: int) -> dict[str, Any]:
        found: dict[str, Any] = opened.get_record(GROUP, key)
        return found

    return app


def main() -> None:
    """Serve one of them until killed."""
    import uvloop
    from granian.constants import HTTPModes, Interfaces
    from granian.server.embed import Server

    app = {"bare": bare, "fastapi": fastapi}[sys.argv[1]](Path(sys.argv[3]))

    async def run() -> None:
        await Server(
            app,
            port=int(sys.argv[2]),
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            log_enabled=False,
        ).serve()

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(run())


if __name__ == "__main__":
    main()
