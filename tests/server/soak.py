"""A server under mixed load for a long time: what it holds must not grow.

``python -m tests.server.soak [--minutes 30]``.  Four clients put, look up, join and query, one
follows the changes, one leaves in the middle of its requests, and at first workers are killed.
After a warm-up of a fifth of the time the slopes of resident memory, of open files and of LMDB's
reader slots are measured, for each worker and for the template of its tasks; the bound is 1 MiB of
memory an hour for each process, and none of the others.  A slope counts as far as it is sure: its
standard error, from medians of half a minute, is taken off three times, so that a short run says
less instead of crying wolf.  LMDB's file has to stay below twice its live data.

What a loaded server may say is counted and borne: that it is busy, that it went away, that a query
took too long.  More of that than of answers fails the run, as does a client that dies of all else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import featurestore as fs
from tests.server.serving import Served
from tests.soak import memory_slope

START = datetime(2013, 1, 1, tzinfo=UTC)
KEYS = 2_000
MIB = 1 << 20
SLOPE_MAX = 1.0  # MiB an hour
SAMPLE_SECONDS = 2.0
SAMPLES_MIN = 30
REFUSED_FREE = 20  # a killed worker takes every client with it
ONCE_SECONDS = 300.0  # in which each client gets through once, however slow the machine

Act = Callable[[fs.RemoteStore, list[int]], None]


def put(store: fs.RemoteStore, moment: list[int]) -> None:
    moment[0] += 1
    at = START + timedelta(milliseconds=moment[0])
    store.put_record("g", {"k": random.randrange(KEYS), "at": at, "x": 1.0})


def look_up(store: fs.RemoteStore, _: list[int]) -> None:
    for _ in range(20):
        store.get_record("g", random.randrange(KEYS))
    store.batch_get_record({"g": list(range(100))})


def ingest(store: fs.RemoteStore, moment: list[int]) -> None:
    moment[0] += 1
    at = START + timedelta(milliseconds=moment[0])
    store.ingest("g", [{"k": k, "at": at, "x": 2.0} for k in range(500)])
    if random.random() < 0.2:
        store.flush()
    if random.random() < 0.05:
        store.compact()


def ask(store: fs.RemoteStore, _: list[int]) -> None:
    store.sql("SELECT k % 10, avg(x) FROM g GROUP BY 1")
    labels = pa.table({"k": list(range(500)), "event_time": [START + timedelta(days=1)] * 500})
    store.point_in_time(labels, "g:x")


def follow(store: fs.RemoteStore, _: list[int]) -> None:
    for number, _ in enumerate(store.changes(store.snapshot(), follow=True)):
        if number == 1000:
            return


def leave(store: fs.RemoteStore, _: list[int]) -> None:
    port = int(store.url.rsplit(":", 1)[1])
    head = b"POST /v1/groups/g/ingest HTTP/1.1\r\nHost: localhost\r\n"
    kind = b"Content-Type: application/x-ndjson\r\nContent-Length: 99999\r\n\r\n"
    with contextlib.suppress(ConnectionError):  # its worker may go first
        client = socket.create_connection(("127.0.0.1", port))
        with client:
            client.sendall(head + kind + b"{")
            time.sleep(random.random())


ACTS = (put, look_up, ingest, ask, follow, leave)


class Clients:
    """Threads that act again and again; counts what was done, what was refused, who died."""

    def __init__(self, url: str) -> None:
        self.done, self.refused, self.died = Counter[str](), Counter[str](), list[str]()
        self._url, self._stop = url, threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_on, args=(act,), daemon=True) for act in ACTS
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)  # who follows the changes waits for one, and may wait for ever

    def _keep_on(self, act: Act) -> None:
        moment = [0]
        while not self._stop.is_set():
            try:
                with fs.connect(self._url) as store:
                    while not self._stop.is_set():
                        act(store, moment)
                        self.done[act.__name__] += 1
            except fs.FeatureStoreError as error:
                if not borne(error):
                    self._died(act)
                    return
                self.refused[act.__name__] += 1
                self._stop.wait(0.2)
            except BaseException:
                self._died(act)
                raise

    def _died(self, act: Act) -> None:
        if not self._stop.is_set():  # else the server is going, as it should
            self.died.append(f"the client that should {act.__name__}: {traceback.format_exc()}")

    def failures(self, seconds: float) -> list[str]:
        """Return who died, who never got through, and who was refused more often than answered."""
        print("done:", dict(self.done), "refused:", dict(self.refused))
        names = [act.__name__ for act in ACTS]
        late = [name for name in names if not self.done[name]] if seconds > ONCE_SECONDS else []
        idle = [f"{name} was never done" for name in late]
        return self.died + idle + [
            f"{name} was refused {self.refused[name]} times and done {self.done[name]} times"
            for name in names
            if self.refused[name] > REFUSED_FREE + self.done[name]
        ]  # fmt: skip


def borne(error: fs.FeatureStoreError) -> bool:
    """Return whether a loaded server, one of whose workers may be killed, may say this."""
    if isinstance(error, fs.InvalidQuery):
        return "it ran longer than" in str(error)
    return isinstance(error, fs.Unavailable)  # StoreBusy, Unreachable, OutcomeUnknown


def held(pid: int) -> tuple[int, int]:
    """Return resident bytes and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    resident = int(status.split("RssAnon:")[1].split()[0]) * 1024
    return resident, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--no-kills", action="store_true")
    asked = parser.parse_args()
    seconds = asked.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        with fs.open(Path(folder) / "store") as store:
            store.create_feature_group(
                "g", record_identifier="k", event_time="at",
                features={"k": "int64", "at": "timestamp", "x": "float64"},
            )  # fmt: skip
        with Served(Path(folder) / "store", "--workers", "2") as served:
            failed = soak(served, seconds, kills=not asked.no_kills)
        with fs.open(Path(folder) / "store") as store:
            faults = store.verify()
    print("\n".join([*failed, *map(str, faults)]) or "flat")
    return 1 if failed or faults else 0


def soak(served: Served, seconds: float, *, kills: bool) -> list[str]:
    """Load a server; returns what has grown, and what else went wrong."""
    clients = Clients(served.url)
    began, killed = time.monotonic(), time.monotonic()
    samples: dict[int, list[tuple[float, int, int]]] = {}
    stats: list[dict[str, Any]] = []
    while (now := time.monotonic()) - began < seconds:
        time.sleep(SAMPLE_SECONDS)
        workers = served.workers()
        if kills and now - killed > 60 and now - began < seconds * 0.2:
            killed = now
            os.kill(random.choice(workers), signal.SIGKILL)
            continue
        if now - began > seconds * 0.2:
            for worker in workers:
                with contextlib.suppress(OSError, IndexError):  # killed meanwhile, or a task's
                    for pid in [worker, *children(worker)]:
                        samples.setdefault(pid, []).append((now - began, *held(pid)))
            with contextlib.suppress(fs.Unavailable), fs.connect(served.url) as store:
                stats.append(store.stat())
    clients.stop()
    return clients.failures(seconds) + grown(samples) + outgrown(stats)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def grown(samples: dict[int, list[tuple[float, int, int]]]) -> list[str]:
    failed = []
    for pid, rows in samples.items():
        if len(rows) < SAMPLES_MIN:
            continue
        when, resident, files = np.array(rows, dtype=float).T
        found, error = memory_slope(when, resident)
        print(f"process {pid}: {found:+.1f} ± {error:.1f} MiB an hour, {files[0]:.0f} to "
              f"{files[-1]:.0f} open files, {resident[-1] / MIB:.0f} MiB")  # fmt: skip
        if found - 3 * error > SLOPE_MAX:
            failed.append(f"process {pid} grows by {found:.1f} ± {error:.1f} MiB an hour")
        if np.median(files[-10:]) > 2 * np.median(files[:10]) + 20:
            failed.append(f"process {pid} keeps files open: {files[0]:.0f} to {files[-1]:.0f}")
    return failed


def outgrown(stats: list[dict[str, Any]]) -> list[str]:
    failed: list[str] = []
    if not stats:
        return ["the server never told its sizes"]
    readers = [stat["readers"] for stat in stats]
    live, size = (max(stat[n] for stat in stats) for n in ("engine_bytes", "engine_file_bytes"))
    print(f"{readers[0]} to {readers[-1]} reader slots; LMDB {size / MIB:.1f} MiB for "
          f"{live / MIB:.1f} MiB of live data; {stats[-1]['seq']:,} records")  # fmt: skip
    if max(readers[-10:]) > 2 * max(readers[:10]) + 10:
        failed.append(f"reader slots grow: {readers[0]} to {readers[-1]}")
    if size > 2 * live + (1 << 20):
        failed.append(f"LMDB's file has {size:,} bytes for {live:,} of live data")
    return failed


if __name__ == "__main__":
    sys.exit(main())
