"""Answers that end before their end: over a real socket, at every kind of place.

::

    client ──► Cutter ──► server        passes so many bytes of answers, then hangs up

None of them may look like a whole answer, what came before the cut is right, and whoever asks again
behind it misses nothing.
"""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

import featurestore as fs
from tests.server.serving import serving

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
ROWS = 3_000
LABELS = pa.table(
    {
        "k": pa.array(range(ROWS), pa.int64()),
        "event_time": pa.array([NOON] * ROWS, pa.timestamp("us", tz="UTC")),
    }
)


class Cutter(socketserver.ThreadingTCPServer):
    """Passes bytes on; of answers only so many.

    Attributes
    ----------
    left : int or None
        Bytes of answers that may still pass; None for all.
    passed : int
        Those that have.
    once : bool
        Whether all passes again behind the first cut.
    reset : bool
        Whether to hang up as a machine does whose power fails, not as a program that ends.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        where = urlsplit(upstream)
        self.upstream = (str(where.hostname), int(where.port or 0))
        self.left: int | None = None
        self.passed = 0
        self.once = False
        self.reset = False
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Connection(socketserver.BaseRequestHandler):
    server: Cutter

    def handle(self) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self.server.upstream) as up:
            while True:
                ready, _, _ = select.select([up, self.request], [], [])
                if self.request in ready:
                    asked = self.request.recv(65_536)
                    if not asked:
                        return
                    up.sendall(asked)
                if up in ready and not self._answered(up.recv(65_536)):
                    break
            if self.server.reset:
                linger = struct.pack("ii", 1, 0)
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.request.close()

    def _answered(self, data: bytes) -> bool:
        """Pass a piece of an answer on; returns whether more may."""
        left = self.server.left
        if left is not None:
            data = data[:left]
            self.server.left = left - len(data)
        self.server.passed += len(data)
        self.request.sendall(data)
        if self.server.left == 0:
            self.server.left = None if self.server.once else 0
            return False
        return bool(data)


class World:
    """A store that is served, and a client behind something that cuts."""

    def __init__(self, store: fs.FeatureStore, url: str) -> None:
        self.store = store
        self.cutter = Cutter(url)
        self.remote = fs.connect(self.cutter.url)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with fs.open(tmp_path_factory.mktemp("cut") / "store") as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="at",
            features={"k": "int64", "at": "timestamp", "x": "float64"},
        )  # fmt: skip
        store.ingest("g", [{"k": k, "at": NOON, "x": k / 7} for k in range(ROWS)])
        store.flush()
        with serving(store) as url:
            found = World(store, url)
            yield found
            found.remote.close()
            found.cutter.shutdown()
            found.cutter.server_close()
        assert store.verify() == []


def streamed(store: Any, _: Path) -> Any:
    reader = pa.RecordBatchReader.from_batches(LABELS.schema, LABELS.to_batches(500))
    return store.point_in_time(reader, "g:x", stream=True).read_all()


ASKING: dict[str, Callable[[Any, Path], Any]] = {
    "changes": lambda s, _: list(s.changes(0)),
    "SQL": lambda s, _: s.sql("SELECT k, x FROM g ORDER BY k"),
    "a scan": lambda s, _: list(s.scan("g")),
    "a join": lambda s, _: s.point_in_time(LABELS, "g:x"),
    "a join as a stream": streamed,
    "many keys": lambda s, _: s.batch_get_record({"g": list(range(500))})["g"].select(["x"]),
    "a backup": lambda s, folder: s.backup(folder),
    "sizes": lambda s, _: s.stat()["seq"],
}


@pytest.mark.parametrize("what", ASKING)
def test_an_answer_that_is_cut_is_unreachable(what: str, world: World, tmp_path: Path) -> None:
    ask, cutter = ASKING[what], world.cutter
    cutter.left, before = None, cutter.passed
    whole = ask(world.remote, tmp_path / "whole")
    length = cutter.passed - before
    # In its head, behind it, in the middle, and just before the mark that says that it is over.
    places = [20, length // 10, length // 2, length - 8]
    if what == "a join as a stream":
        places.pop()  # it is a job, asked about now more and now less often
    for number, at in enumerate(places):
        cutter.left, cutter.reset = at, number % 2 == 1
        with pytest.raises(fs.Unreachable):
            ask(world.remote, tmp_path / f"cut{at}")
    cutter.left = None
    again = ask(world.remote, tmp_path / "again")
    assert again == whole


def test_who_follows_goes_on_behind_the_cut(world: World) -> None:
    cutter, seen = world.cutter, list[int]()
    every = [change["seq"] for change in world.store.changes(0)]
    cutter.reset = False
    cuts = 0
    while len(seen) < len(every):
        cutter.left = 100_000  # more than a piece of the stream, which comes whole or not
        stream = world.remote.changes(seen[-1] if seen else 0, follow=True)
        try:
            for change in stream:
                seen.append(change["seq"])
                if len(seen) == len(every):
                    break
        except fs.Unreachable:
            cuts += 1
        finally:
            cutter.left = None
            stream.close()  # type: ignore[attr-defined]  # a generator
    assert cuts >= 2
    assert seen == every


def test_a_backup_that_was_cut_is_none(world: World, tmp_path: Path) -> None:
    world.cutter.left = 100_000
    with pytest.raises(fs.Unreachable, match="is not whole"):
        world.remote.backup(tmp_path / "cut")
    world.cutter.left = None
    for make in (
        lambda: fs.restore(tmp_path / "cut", tmp_path / "store"),
        lambda: world.remote.backup(tmp_path / "next", since=tmp_path / "cut"),
    ):
        with pytest.raises(fs.InvalidInput, match="is no backup"):
            make()


def test_a_write_whose_answer_is_cut_counts_once(world: World) -> None:
    seq = world.store.snapshot()
    record = {"k": ROWS + 1, "at": NOON + timedelta(hours=1), "x": 1.0}
    world.cutter.left, world.cutter.once = 40, True
    result = world.remote.put_record("g", record)  # sent again by itself
    assert world.cutter.left is None
    assert (result.seq, world.store.snapshot()) == (seq + 1, seq + 1)
