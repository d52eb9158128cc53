"""A proxy that cuts answers, and a run of writes through it: none is lost, none counts twice.

::

    boto3 ──► proxy ──► server          what becomes of a first try
                │
                ├─ lost       the request never arrives
                ├─ nothing    it is done, and the connection ends without an answer
                ├─ half       it is done, and half the answer comes
                └─ late       it arrives when all is over, after its own retry and later writes

boto3 sees a connection that broke, and tries again by itself, with the ``amz-sdk-invocation-id`` of
the first try.  Each worker writes keys of its own, one write after the other, all with the same
event time: so the last write wins online, and a write done twice, or late, would show in history
and might take its key back.

The long form is ``python -m tests.server.cutting --answers 1000``.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import socket
import socketserver
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import featurestore as fs
from tests.server import aws
from tests.server.serving import serving

WAYS = ("lost", "nothing", "half", "late")
AT = "2020-01-01T12:00:00Z"


class Proxy(socketserver.ThreadingTCPServer):
    """Passes requests on, and cuts the answers to some.

    Attributes
    ----------
    cut : Counter
        How many answers were cut in which way.
    late : list of bytes
        Requests held back; :meth:`deliver` sends them.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, upstream: str, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        where = urlsplit(upstream)
        self._upstream = (where.hostname, where.port)
        self._random = random.Random(seed)
        self._guard = threading.Lock()
        self.cut: Counter[str] = Counter()
        self.late: list[bytes] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def way(self, request: bytes) -> str | None:
        """Return how the answer to a request is cut: all first tries, and some second ones."""
        found = re.search(rb"amz-sdk-request: attempt=(\d+)", request)
        attempt = 0 if found is None else int(found[1])
        with self._guard:
            if attempt == 1 or (attempt == 2 and self._random.random() < 0.2):
                way = self._random.choice(WAYS)
                self.cut[way] += 1
                return way
        return None

    def ask(self, request: bytes) -> bytes:
        """Pass a request on; returns the answer."""
        with socket.create_connection(self._upstream, timeout=30) as upstream:
            upstream.sendall(request)
            return read_message(upstream)

    def deliver(self) -> None:
        """Send what was held back: retries that come when all is over."""
        for request in self.late:
            answer = self.ask(request)
            assert answer.split()[1] in (b"200", b"404", b"409"), answer

    def hold(self, request: bytes) -> None:
        """Keep a request for later."""
        with self._guard:
            self.late.append(request)


class _Connection(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while request := read_message(self.request):
                way = self.server.way(request)
                if way == "late":
                    self.server.hold(request)
                if way in ("late", "lost"):
                    return
                answer = self.server.ask(request)
                if way is None:
                    self.request.sendall(answer)
                    continue
                if way == "half":
                    self.request.sendall(answer[: len(answer) // 2])
                return


def read_message(connection: socket.socket) -> bytes:
    """Return one whole request or answer, its length stated; nothing at the end."""
    held = b""
    while b"\r\n\r\n" not in held:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        held += chunk
    head, _, _ = held.partition(b"\r\n\r\n")
    if b"\r\ntransfer-encoding: chunked" in head:
        while not held.endswith(b"\r\n0\r\n\r\n"):
            held += connection.recv(65536)
        return held
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    size = len(head) + 4 + (0 if found is None else int(found[1]))
    while len(held) < size:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError
        held += chunk
    return held


# ── the run ──────────────────────────────────────────────────────────────────────────────────


class Writer:
    """One caller with keys of its own, who knows what each write must have come to."""

    def __init__(self, url: str, number: int) -> None:
        retries = {"mode": "standard", "total_max_attempts": 6}
        self._client = aws.client(aws.RUNTIME, url, retries=retries)
        self._random = random.Random(number)
        self._number = number
        self._count = 0
        #: By key: the value of each record that history must hold, None for a delete.
        self.history: dict[str, list[int | None]] = {}

    def write(self, _: int) -> None:
        """Write once, in one of four ways."""
        self._count += 1
        key = f"{self._number}-{self._random.randrange(3)}"
        known = self.history.setdefault(key, [])
        value = self._number * 1_000_000 + self._count
        act = self._random.choice(("put", "delete", "update", "batch"))
        name = {"FeatureGroupName": "weather"}
        which = {**name, "RecordIdentifierValueAsString": key}
        if act == "update" and known and known[-1] is not None:
            self._client.update_record(**which, Features=aws.record(wind=str(value)))
            known.append(value)
        elif act == "delete" and known and known[-1] is not None:
            self._client.delete_record(**which, EventTime=AT)
            known.append(None)
        elif act == "batch":
            others = [f"{self._number}-b{n}" for n in range(2)]
            entries = [{**name, "Record": _record(one, value)} for one in (key, *others)]
            found = self._client.batch_write_record(Entries=entries)
            assert (found["Errors"], found["UnprocessedEntries"]) == ([], [])
            for one in (key, *others):
                self.history.setdefault(one, []).append(value)
        else:
            self._client.put_record(**name, Record=_record(key, value))
            known.append(value)


def _record(key: str, value: int) -> list[dict[str, Any]]:
    return aws.record(origin=key, at=AT, wind=str(value))


def run(store: fs.FeatureStore, answers: int, writers: int = 12, seed: int = 0) -> Counter[str]:
    """Write until so many answers have been cut, and hold the store to what it must be."""
    with serving(store) as url:
        client = aws.client(aws.CONTROL, url)
        fast = {"EnableOnlineStore": True, "StorageType": "Standard_V2"}
        client.create_feature_group(**aws.group(OnlineStoreConfig=fast))
        proxy = Proxy(url, seed)
        callers = [Writer(proxy.url, number) for number in range(writers)]
        with ThreadPoolExecutor(writers) as pool:
            while sum(proxy.cut.values()) < answers:
                list(pool.map(Writer.write, callers, range(writers)))
        proxy.deliver()
        proxy.shutdown()
        proxy.server_close()
    hold(store, {key: rows for one in callers for key, rows in one.history.items()})
    return proxy.cut


def hold(store: fs.FeatureStore, expected: dict[str, list[int | None]]) -> None:
    """Hold history, and the online store, to what was acknowledged."""
    query = "SELECT origin, wind FROM history.weather ORDER BY write_seq"
    found: dict[str, list[int | None]] = {}
    for row in store.sql(query).to_pylist():
        found.setdefault(row["origin"], []).append(row["wind"])
    assert found == expected, "history is not what was acknowledged"
    for key, rows in expected.items():
        latest = store.get_record("weather", key, ["wind"])
        assert latest == (None if rows[-1] is None else {"wind": rows[-1]}), key
    assert store.verify() == []


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, fs.open(Path(folder) / "store") as store:
        cut = run(store, asked.answers, writers=32, seed=asked.seed)
        rows = store.sql("SELECT count(*) AS n FROM history.weather").to_pylist()[0]["n"]
    print(f"{cut.total():,} answers cut ({dict(cut)}): {rows:,} records, none lost, none twice")


if __name__ == "__main__":
    main()
