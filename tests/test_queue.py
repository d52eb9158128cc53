"""The queue in front of the writer thread: futures, order, back-pressure, and what refuses to wait.

The writer is held up by work that waits for an event, so that what is queued behind it is known.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.engine import writer
from tests.model import MINUTE, SECOND, moment
from tests.small_world import START, fresh_folder, fresh_store

if TYPE_CHECKING:
    from concurrent.futures import Future

NOW = START + MINUTE
DURABILITIES = ["strict", "relaxed", "rebuildable"]


def a_group(store: fs.FeatureStore) -> None:
    store.create_feature_group(
        "g",
        record_identifier="k",
        event_time="t",
        features={"k": "int64", "t": "timestamp", "x": "int64"},
    )


def record(k: int, seconds: int, x: int) -> dict[str, Any]:
    return {"k": k, "t": moment(START + seconds * SECOND), "x": x}


class HeldUp:
    """Hold the writer thread of a store up for the length of the block."""

    def __init__(self, store: fs.FeatureStore) -> None:
        self._writer = store._database.writer
        self._reached = threading.Event()
        self._go = threading.Event()

    def _work(self, _: object) -> None:
        self._reached.set()
        self._go.wait(60)

    def __enter__(self) -> Self:
        self._future = self._writer.submit(self._work, 0)
        assert self._reached.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        self._go.set()


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_future_has_what_the_waiting_form_returns(durability: str) -> None:
    with fresh_store(clock=lambda: NOW, durability=durability) as store:
        a_group(store)
        put = store.put_record_async("g", record(1, 5, 5), request_id="a")
        late = store.put_record_async("g", record(1, 4, 4))
        again = store.put_record_async("g", record(1, 5, 5), request_id="a")
        both = store.write_async([("g", record(1, 6, 6)), ("g", record(2, 1, 1))])
        gone = store.delete_record_async("g", 2, event_time=moment(START + 2 * SECOND))
        assert (put.result(60).seq, put.result().outcome) == (1, "moved")
        assert (late.result(60).seq, late.result().outcome) == (2, "late")
        assert (again.result(60).seq, again.result().replayed) == (1, True)
        assert [r.seq for r in both.result(60)] == [3, 4]
        assert gone.result(60).seq == 5
        assert store.write_async([]).result(60) == []
        assert store.get_record("g", 1)["x"] == 6
        assert store.get_record("g", 2) is None
        rows = store.sql("SELECT x FROM history.g ORDER BY write_seq").to_pylist()
        assert [row["x"] for row in rows] == [5, 4, 6, 1, None]


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_the_writes_of_one_thread_keep_their_order(counts: list[int]) -> None:
    """All of one event time, so that the last one sent has to be the one that is served."""
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        futures: list[list[Future[fs.PutResult]]] = [[] for _ in counts]

        def send(k: int) -> None:
            for x in range(counts[k]):
                futures[k].append(store.put_record_async("g", record(k, 1, x)))

        threads = [threading.Thread(target=send, args=(k,)) for k in range(len(counts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for k, mine in enumerate(futures):
            seqs = [future.result(60).seq for future in mine]
            assert seqs == sorted(seqs)
            assert store.get_record("g", k)["x"] == counts[k] - 1
        assert store.snapshot() == sum(counts)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_what_a_future_has_told_survives_the_process(durability: str) -> None:
    script = """
import os, sys
import featurestore as fs
store = fs.open(sys.argv[1], durability=sys.argv[2])
store.create_feature_group("g", record_identifier="k", event_time="t",
                           features={"k": "int64", "t": "timestamp"})
futures = [store.put_record_async("g", {"k": k, "t": "2013-01-01T05:00Z"}) for k in range(300)]
futures[250].result()
os.write(1, b"%d" % sum(future.done() for future in futures))
os._exit(0)
"""
    with fresh_folder() as folder:
        command = [sys.executable, "-c", script, str(folder / "store"), durability]
        root = Path(__file__).parents[1]
        ended = subprocess.run(command, check=True, cwd=root, stdout=subprocess.PIPE, text=True)
        with fs.open(folder / "store", upkeep=False) as store:
            assert store.snapshot() >= int(ended.stdout) >= 251
            assert store.verify() == []


def test_errors_come_at_once_or_through_the_future() -> None:
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        store.put_record("g", record(1, 5, 5))
        with pytest.raises(fs.InvalidRecord):
            store.put_record_async("g", record("x", 1, 1))  # type: ignore[arg-type]
        with pytest.raises(fs.InvalidEventTime):
            store.put_record_async("g", {"k": 1, "t": moment(NOW + 365 * 86_400 * SECOND)})
        with HeldUp(store):
            before = store.put_record_async("g", record(2, 1, 1))
            stale = store.delete_record_async("g", 1, event_time=moment(START), hard=True)
            after = store.put_record_async("g", record(2, 2, 2))
        assert isinstance(stale.exception(60), fs.StaleDelete)
        assert [before.result(60).seq, after.result(60).seq] == [2, 3]


def test_a_failure_in_a_relaxed_store_is_told_by_the_future_alone() -> None:
    with fresh_store(clock=lambda: NOW, durability="relaxed") as store:
        a_group(store)
        store.put_record("g", record(1, 5, 5))
        stale = store.delete_record_async("g", 1, event_time=moment(START), hard=True)
        assert isinstance(stale.exception(60), fs.StaleDelete)
        assert store.put_record("g", record(1, 6, 6)).outcome == "queued"
        assert store.get_record("g", 1)["x"] == 6


def test_a_full_queue_holds_callers_up_and_then_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        with HeldUp(store) as held_up:
            monkeypatch.setattr(writer, "QUEUE_JOBS_MAX", 4)  # one of them is under way
            queued = [store.put_record_async("g", record(k, 1, k)) for k in range(3)]
            monkeypatch.setattr(writer, "QUEUE_WAIT_SECONDS", 0.01)
            with pytest.raises(fs.StoreBusy, match="4 writes"):
                store.put_record_async("g", record(9, 1, 9))
            with pytest.raises(fs.StoreBusy, match="send it again"):
                store.put_record("g", record(9, 1, 9))
            monkeypatch.setattr(writer, "QUEUE_WAIT_SECONDS", 60.0)
            waiting = threading.Thread(target=store.put_record, args=("g", record(5, 1, 5)))
            waiting.start()
            held_up.release()
            waiting.join(60)
            assert not waiting.is_alive()
        assert [future.result(60).seq for future in queued] == [1, 2, 3]
        assert store.get_record("g", 9) is None
        assert store.get_record("g", 5)["x"] == 5


def test_the_queue_is_bounded_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """But a request larger than all of it is let in when nothing else is there."""
    monkeypatch.setattr(writer, "QUEUE_BYTES_MAX", 2_000)
    monkeypatch.setattr(writer, "QUEUE_WAIT_SECONDS", 0.01)
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        many = [("g", record(k, 1, k)) for k in range(50)]
        assert len(store.write(many)) == 50
        with HeldUp(store):
            futures = [store.write_async(many[:5])]
            with pytest.raises(fs.StoreBusy, match="bytes"):
                futures.append(store.write_async(many[5:10]))
        assert len(futures[0].result(60)) == 5


def test_a_future_cancelled_in_time_stores_nothing() -> None:
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        with HeldUp(store):
            futures = [store.put_record_async("g", record(k, 1, k)) for k in range(3)]
            assert futures[1].cancel()
        assert [futures[0].result(60).seq, futures[2].result(60).seq] == [1, 2]
        assert not futures[0].cancel()
        assert store.get_record("g", 1) is None


def test_a_callback_may_send_more_but_not_wait() -> None:
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        said: list[Any] = []
        told = threading.Event()

        def back(_: Future[fs.PutResult]) -> None:
            said.append(store.put_record_async("g", record(2, 2, 2)))
            said.append(store.get_record("g", 1)["x"])
            try:
                store.put_record("g", record(3, 3, 3))
            except fs.InvalidInput as error:
                said.append(str(error))
            told.set()

        with HeldUp(store):
            store.put_record_async("g", record(1, 1, 1)).add_done_callback(back)
        assert told.wait(60)
        assert said[0].result(60).seq == 2
        assert said[1] == 1
        assert "async form" in said[2]


def test_closing_commits_what_is_queued() -> None:
    with fresh_folder() as folder:
        store = fs.open(folder / "store", clock=lambda: NOW)
        a_group(store)
        futures = [store.put_record_async("g", record(k, 1, k)) for k in range(2_500)]
        store.close()
        assert [future.result(0).seq for future in futures] == list(range(1, 2_501))
        with pytest.raises(fs.StoreClosed):
            store.put_record_async("g", record(1, 2, 2))
        with fs.open(folder / "store", clock=lambda: NOW) as again:
            assert again.snapshot() == 2_500


def test_futures_serve_asyncio() -> None:
    async def main(store: fs.FeatureStore) -> list[fs.PutResult]:
        puts = (store.put_record_async("g", record(k, 1, k)) for k in range(20))
        return await asyncio.gather(*map(asyncio.wrap_future, puts))

    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        assert [result.seq for result in asyncio.run(main(store))] == list(range(1, 21))
