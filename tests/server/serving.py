"""A real server over a real socket: in a thread of this process, or in processes of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import uvloop

import featurestore as fs
from featurestore_server.app import Application
from featurestore_server.bodies import Limits
from featurestore_server.confined import Template
from featurestore_server.worker import Listening, run

ROOT = Path(__file__).parents[2]
#: Small enough for tests to reach, large enough for all else.
LIMITS = Limits(stall_seconds=2.0, drain_seconds=5.0, sql_seconds=20.0, sql_processes=1)
#: Each task is a process of its own, whoever asked: so the servers of all tests share what those
#: are made from, which takes a second to load.
TEMPLATE = Template()
atexit.register(TEMPLATE.close)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def serving(store: fs.FeatureStore, limits: Limits = LIMITS, **options: Any) -> Iterator[str]:
    """Serve an open store from a thread; gives the address."""
    port = free_port()
    app = Application(store, limits, template=TEMPLATE)
    for name, value in options.items():
        setattr(app, name, value)
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        await run(app, Listening("127.0.0.1", port), stop)

    thread = threading.Thread(target=lambda: uvloop.run(main()), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url)
        yield url
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not thread.is_alive()


class Served:
    """``featurestore serve`` in processes of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "featurestore_server", "serve", str(folder)]
        command += ["--port", str(self.port), *options]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "server")])
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        try:
            wait_for(self.url)
        except OSError:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parts = status.read_text().rsplit(")", 1)[1].split()
                if int(parts[1]) == self.process.pid:
                    found.append(int(status.parent.name))
        return found

    def kill(self) -> None:
        """Kill all of it at once, as a power button would."""
        for pid in [self.process.pid, *self.workers()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
