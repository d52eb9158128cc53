"""The supervisor: checks what was asked for, starts the workers, keeps them, stops them.

Workers are processes that share the store's LMDB directory and listen on one port together
(``SO_REUSEPORT``).  One that dies is started again; when the supervisor dies its workers see the
end of a pipe, and stop.
"""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import featurestore as fs
from featurestore.engine.database import open_database
from featurestore.errors import CannotOpen, InvalidInput
from featurestore_server.access import Keys
from featurestore_server.bodies import Limits

_RESTART_SECONDS = 0.5
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Serving:
    """What to serve and where.

    Attributes
    ----------
    tls : tuple of (certificate, key), optional
        Paths of PEM files; the key in PKCS#8.
    plain_http : bool
        Serve other machines without TLS, because something in front ends it.
    anonymous : bool
        Serve other machines without API keys.
    """

    store: Path
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    tls: tuple[Path, Path] | None = None
    plain_http: bool = False
    anonymous: bool = False
    limits: Limits = field(default_factory=Limits)


def check(serving: Serving) -> Serving:
    """Return what is to be served, its port known; refuse what would not be safe.

    Raises
    ------
    InvalidInput
        It would serve other machines without TLS or without keys, and nobody has said so.
    CannotOpen
        The port is taken.
    """
    if serving.workers < 1:
        raise InvalidInput("--workers is at least 1.")
    if not is_loopback(serving.host):
        if serving.tls is None and not serving.plain_http:
            raise InvalidInput(
                f"{serving.host} is reached by other machines, and without TLS they would send "
                "their API keys in the clear. Give --tls-cert and --tls-key, or --plain-http if "
                "something in front of the server ends TLS."
            )
        if not serving.anonymous and not _has_keys(serving.store):
            raise InvalidInput(
                f"{serving.host} is reached by other machines, and this store has no API keys. "
                "Make one with `featurestore keys create`, or say --anonymous."
            )
    with fs.open(serving.store):
        pass  # made, if it is not there; and all that is wrong with it is said once, here
    return Serving(**{**serving.__dict__, "port": _free_port(serving.host, serving.port)})


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address.

    Examples
    --------
    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_keys(store: Path) -> bool:
    with fs.open(store) as opened:
        database = open_database(opened.path)
        try:
            return Keys(database).exist()
        finally:
            database.close()


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0; workers share it, so a stranger's must not count."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotOpen(f"Cannot listen at {host}:{port}: {error.strerror}.") from None
        return int(probe.getsockname()[1])


def serve(serving: Serving) -> int:
    """Serve until a signal; returns the exit code."""
    serving = check(serving)
    stopping: list[int] = []
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, _frame: stopping.append(number))
    with tempfile.TemporaryDirectory(prefix="featurestore-") as folder:
        (Path(folder) / "metrics").mkdir()
        workers = [_Worker(serving, folder) for _ in range(serving.workers)]
        scheme = "http" if serving.tls is None else "https"
        print(f"serving {serving.store} at {scheme}://{serving.host}:{serving.port}", flush=True)
        while not stopping:
            time.sleep(_LOOK_SECONDS)
            for worker in workers:
                worker.keep()
        deadline = time.monotonic() + serving.limits.drain_seconds + 5.0
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.wait(deadline)
    return 0


class _Worker:
    """One worker process, started again when it dies."""

    def __init__(self, serving: Serving, folder: str) -> None:
        tls = None if serving.tls is None else [str(path) for path in serving.tls]
        self._options = json.dumps(
            {
                "store": str(serving.store),
                "host": serving.host,
                "port": serving.port,
                "tls": tls,
                "folder": folder,
                "anonymous": serving.anonymous,
                "limits": serving.limits._asdict(),
            }
        )
        self._environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(Path(folder) / "metrics")}
        self._died_at = 0.0
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "featurestore_server.worker", self._options]
        paths = os.pathsep.join(path for path in sys.path if path)
        self._child: subprocess.Popen[Any] = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=self._environment | {"PYTHONPATH": paths}
        )

    def keep(self) -> None:
        """Start the worker again if it has died, not too often."""
        if self._child.poll() is None:
            self._died_at = 0.0
        elif not self._died_at:
            self._died_at = time.monotonic()
        elif time.monotonic() - self._died_at > _RESTART_SECONDS:
            self._died_at = 0.0
            self._start()

    def stop(self) -> None:
        """Ask it to stop."""
        if self._child.poll() is None:
            self._child.terminate()

    def wait(self, deadline: float) -> None:
        """Wait for it to stop; kill it when it does not."""
        try:
            self._child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
