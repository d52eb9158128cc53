"""Upkeep in the background: what it does, when, and what it must never do.

Thresholds are made small, so that a few rows are many and a moment is a long time.  No test waits
for a time to pass: it waits for what has to happen, and fails if that takes a minute.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import featurestore as fs
from featurestore.engine import cleaner, compactor, flusher, upkeep
from featurestore.storage import files, seam
from tests.model import MINUTE, SECOND, moment
from tests.small_world import START, fresh_folder, fresh_store

NOW = START + MINUTE
ROOT = Path(__file__).parents[1]
NEVER = 10**12

BUSY: list[tuple[Any, str, Any]] = [
    (upkeep, "TICK_SECONDS", 0.001),
    (upkeep, "PAUSE_SECONDS_MAX", 0.01),
    (upkeep, "TAIL_ROWS", 5),
    (upkeep, "LOOSE_FILES", 3),
    (upkeep, "READERS_SECONDS", 0.0),
    (upkeep, "CLEAN_SECONDS", 0.01),
    (cleaner, "GRACE_US", 0),
    (compactor, "WINDOW_ROWS", 40),
    (compactor, "CELL_ROWS", 20),
    (flusher, "READ_ROWS", 2),
]


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make upkeep see much where there is little."""
    for module, name, value in BUSY:
        monkeypatch.setattr(module, name, value)


def until(happened: Callable[[], Any]) -> Any:
    """Wait for something that has to happen; returns it."""
    give_up_at = time.monotonic() + 60
    while not (found := happened()):
        assert time.monotonic() < give_up_at, "it did not happen within a minute"
        time.sleep(0.002)
    return found


def a_group(store: fs.FeatureStore, name: str = "g") -> None:
    store.create_feature_group(
        name,
        record_identifier="k",
        event_time="t",
        features={"k": "int64", "t": "timestamp", "x": "int64", "s": "string"},
    )


def record(k: int, seconds: int, x: int = 0, text: str = "") -> dict[str, Any]:
    return {"k": k, "t": moment(START + seconds * SECOND), "x": x, "s": text}


def journal_rows(store: fs.FeatureStore, name: str = "g") -> int:
    rows: int = store.stat()["groups"][name]["journal_rows"]
    return rows


# ── what it does ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("busy")
def test_a_long_tail_is_flushed_and_many_files_become_cells() -> None:
    with fresh_store(clock=lambda: NOW, upkeep=True) as store:
        a_group(store)
        numbers = itertools.count()

        def put_and_look() -> Any:
            i = next(numbers)
            store.put_record("g", record(i % 7, i % 50, i))
            counts = store.stat()["groups"]["g"]
            return counts if counts["cells"] > 0 else None

        until(put_and_look)
        until(lambda: journal_rows(store) < upkeep.TAIL_ROWS)
        counts, rows = store.stat()["groups"]["g"], next(numbers)
        assert counts["history_rows"] == rows
        assert counts["last_flush"] == moment(NOW)
        facts = store.stat()["upkeep"]
        assert facts["running"]
        assert facts["pid"] == os.getpid()
        assert facts["last_error"] is None
        assert [c["record"]["x"] for c in store.changes()] == list(range(rows))


def test_thresholds_decide_what_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, bytes and age each suffice; below all of them nothing is done."""
    now = NOW
    with fresh_store(clock=lambda: now, upkeep=False) as store:
        for name in ("long", "large", "old", "small"):
            a_group(store, name)
        store.write([("long", record(k, 1)) for k in range(30)])
        store.write([("large", record(k, 1, text="x" * 1000)) for k in range(12)])
        store.write([("small", record(1, 1))])
        store.write([("old", record(k, 1)) for k in range(6)])
        worker = upkeep.Upkeep(store._database, lambda: now)
        worker.stop()

        def due(**thresholds: float) -> list[str]:
            everything = {"TAIL_ROWS": NEVER, "TAIL_BYTES_MIN": NEVER, "TAIL_BYTES_MAX": NEVER}
            for threshold, value in {**everything, "OLD_TAIL_ROWS": 5, **thresholds}.items():
                monkeypatch.setattr(upkeep, threshold, value)
            return [group.name for group in worker._long_tails()]

        assert due() == []
        assert due(TAIL_ROWS=30) == ["long"]
        assert due(TAIL_BYTES_MIN=12_000, TAIL_BYTES_MAX=12_000) == ["large"]
        assert due(TAIL_BYTES_MIN=1, TAIL_BYTES_MAX=1) == ["large", "long", "old", "small"]
        now += upkeep.OLD_TAIL_US
        assert due() == ["large", "long", "old"]  # one row is not worth a file, however old
        assert due(OLD_TAIL_ROWS=1) == ["large", "long", "old", "small"]
        store.flush("long")
        assert due(TAIL_ROWS=30) == ["large", "old"]
        store.write([("long", record(k, 2)) for k in range(29)])
        assert due(TAIL_ROWS=30) == ["large", "old"]
        store.write([("long", record(29, 2))])
        assert due(TAIL_ROWS=30) == ["large", "long", "old"]


@pytest.mark.usefixtures("busy")
def test_what_others_left_behind_is_cleared() -> None:
    """A dead writer's half-written file, and the drained journal it did not come to delete."""
    with fresh_folder() as folder:
        with fs.open(folder / "store", clock=lambda: NOW, upkeep=False) as store:
            a_group(store)
        command = [sys.executable, "-m", "tests.test_upkeep", str(folder / "store")]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        left = list((folder / "store" / "data").rglob(".*.tmp"))
        assert left
        with fs.open(folder / "store", clock=lambda: NOW) as store:
            store.put_record("g", record(9, 9, 9))
            until(lambda: not left[0].exists())
            assert store.verify() == []


def die_writing(path: Path) -> None:
    """Put some records and die in the middle of a flush."""
    with fs.open(path, upkeep=False) as store:
        store.put_record("g", record(1, 1, 1))
        seam.on_call = seam.Fault("rename", "kill", 1)
        store.flush()


# ── what it must never do ────────────────────────────────────────────────────────────────────


def test_a_reader_has_no_upkeep_and_a_handful_of_records_loads_nothing() -> None:
    script = """
import sys, threading, time
import featurestore as fs
from featurestore.engine import upkeep
upkeep.TICK_SECONDS = upkeep.READERS_SECONDS = 0.001
names = lambda: {t.name for t in threading.enumerate()} - {"MainThread"}
store = fs.open(sys.argv[1])
store.get_record("g", 1)
store.stat()
assert names() == set(), names()
for k in range(20):
    store.put_record("g", {"k": k, "t": "2013-01-01T05:00:00Z"})
assert names() == {"featurestore-writer", "featurestore-upkeep"}, names()
while not store.stat()["upkeep"]["running"]:
    time.sleep(0.001)
time.sleep(0.2)
heavy = {"pyarrow", "duckdb", "numba", "numpy", "pandas"} & set(sys.modules)
assert not heavy, heavy
store.close()
assert names() == set(), names()
assert store.path.exists()
"""
    with fresh_folder() as folder:
        with fs.open(folder / "store") as store:
            a_group(store)
            store.put_record("g", record(1, 1, 1))
        command = [sys.executable, "-W", "error", "-c", script, str(folder / "store")]
        subprocess.run(command, check=True, cwd=ROOT, timeout=120)


@pytest.mark.usefixtures("busy")
def test_a_failure_is_shown_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sick = threading.Event()
    sick.set()
    flush_group = flusher.flush_group

    def fails(*args: Any) -> int:
        if sick.is_set():
            raise OSError(5, "the disk is on fire")
        return flush_group(*args)

    monkeypatch.setattr(flusher, "flush_group", fails)
    with fresh_store(clock=lambda: NOW, upkeep=True) as store:
        a_group(store)
        for i in range(10):
            store.put_record("g", record(i, i, i))
        facts = until(lambda: (u := store.stat()["upkeep"])["failures"] > 2 and u)
        assert "on fire" in facts["last_error"]
        assert facts["last_error_at"] == moment(NOW)
        store.put_record("g", record(1, 50, 11))  # nobody else is bothered
        assert store.get_record("g", 1)["x"] == 11
        sick.clear()
        until(lambda: journal_rows(store) == 0)
        facts = until(lambda: (u := store.stat()["upkeep"])["failures"] == 0 and u)
        assert "on fire" in facts["last_error"]


@pytest.mark.usefixtures("busy")
def test_writes_refused_by_a_full_store_go_on_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The journal fills the quota; upkeep moves it into a file, and writes are accepted again."""
    monkeypatch.setattr(upkeep, "TAIL_ROWS", NEVER)
    idle = threading.Event()
    flush_group = flusher.flush_group

    def when_allowed(*args: Any) -> int:
        idle.wait()
        return flush_group(*args)

    monkeypatch.setattr(flusher, "flush_group", when_allowed)
    with fresh_store(clock=lambda: NOW, quota=1 << 20, upkeep=True) as store:
        a_group(store)
        number = 0
        while puts(store, record(number % 5, number, number, "x" * 2000)):
            number += 1
        assert number > 50
        assert store.get_record("g", (number - 1) % 5)["x"] == number - 1  # reads go on
        idle.set()

        def accepted() -> bool:
            try:
                return store.put_record("g", record(0, number, number)).seq == number + 1
            except fs.StoreFull:
                return False

        until(accepted)
        for more in range(number + 1, 3 * number):
            until(lambda more=more: puts(store, record(more % 5, more, more, "x" * 2000)))
        assert [c["record"]["x"] for c in store.changes()] == list(range(3 * number))


def puts(store: fs.FeatureStore, one: dict[str, Any]) -> bool:
    """Put a record unless the store is full."""
    try:
        return store.put_record("g", one).seq is not None
    except fs.StoreFull:
        return False


@pytest.mark.usefixtures("busy")
def test_closing_abandons_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction stopped between two steps leaves no file, no intent and no lock."""
    reached, go = threading.Event(), threading.Event()
    write_cells = compactor._Work._write_cells

    def slowly(*args: Any) -> Any:
        reached.set()
        go.wait()
        return write_cells(*args)

    with fresh_folder() as folder:
        with fs.open(folder / "store", clock=lambda: NOW, upkeep=False) as store:
            a_group(store)
            for i in range(6):
                store.put_record("g", record(i, i, i))
                store.flush()
        monkeypatch.setattr(compactor._Work, "_write_cells", slowly)
        store = fs.open(folder / "store", clock=lambda: NOW)
        store.put_record("g", record(7, 7, 7))
        assert reached.wait(60)
        closing = threading.Thread(target=store.close)
        closing.start()
        until(lambda: store._opened is None)
        until(lambda: not go.is_set() and files.is_held(folder / "store" / "locks" / "compact"))
        go.set()
        closing.join(60)
        assert not closing.is_alive()
        with fs.open(folder / "store", clock=lambda: NOW, upkeep=False) as store:
            assert store.stat()["groups"]["g"]["cells"] == 0
            listed = store.stat()["groups"]["g"]["files"]
            assert len(list((folder / "store" / "data").rglob("*.parquet"))) == listed
            assert store.compact() == 6  # one record is in the journal still
            assert store.verify() == []


def test_sparing_compaction_writes_a_row_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long history gets, and however many rows come late: the law of its policy."""
    monkeypatch.setattr(compactor, "WINDOW_ROWS", 60)
    monkeypatch.setattr(compactor, "CELL_ROWS", 30)
    with fresh_store(upkeep=False, durability="rebuildable") as store:
        a_group(store)
        group = store.describe_feature_group("g")
        written: list[float] = []
        rows = rewritten = 0
        for flush in range(160):
            seconds = [flush * 4, flush * 4 + 1, flush * 4 + 2, (flush * 37) % (flush * 4 + 1)]
            store.write([("g", record(s % 9, s, rows + i)) for i, s in enumerate(seconds)])
            rows += len(seconds)
            store.flush()
            listed = store._database.snapshot(["g"], with_tail=False)
            with listed as snapshots:
                loose = compactor.loose_files(snapshots["g"].files)
            if len(loose) >= 4:
                rewritten += compactor.compact_group(store._database, group, NOW, sparing=True)
            assert len(loose) < 4 + 8
            written.append(rewritten / rows)
        assert rewritten > 0
        assert max(written) < 8
        assert written[-1] < 1.5 * written[40]  # four times the history, not four times the work
        assert store.stat()["groups"]["g"]["cells"] > 0
        assert [change["seq"] for change in store.changes()] == list(range(1, rows + 1))


@pytest.mark.usefixtures("busy")
def test_upkeep_ends_with_its_store_and_is_not_inherited_by_fork() -> None:
    with fresh_folder() as folder:
        store = fs.open(folder / "store", clock=lambda: NOW)
        a_group(store)
        until(lambda: store.stat()["upkeep"]["running"])
        ready, done = multiprocessing.Pipe(), multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(
            target=_in_child, args=(store, ready[1], done[0])
        )
        child.start()
        assert ready[0].recv() == "refused"
        store.put_record("g", record(1, 1, 1))
        store.close()  # the child lives on, and must not keep the lock
        with fs.open(folder / "store", clock=lambda: NOW) as again:
            again.put_record("g", record(2, 1, 1))
            worker = again._database._upkeep
            until(lambda: worker._lock is not None)
            assert again.verify() == []
        done[1].send("go")
        child.join(60)
        assert child.exitcode == 0


def _in_child(store: fs.FeatureStore, ready: Any, done: Any) -> None:
    try:
        store.put_record("g", record(1, 1, 1))
    except fs.StoreClosed:
        ready.send("refused")
    store.close()
    done.recv()
    os._exit(0)


@pytest.mark.usefixtures("busy")
def test_the_next_process_takes_over() -> None:
    script = """
import sys, time
import featurestore as fs
store = fs.open(sys.argv[1])
store.put_record("g", {"k": 1, "t": "2013-01-01T05:00:00Z"})
while not store.stat()["upkeep"]["running"]:
    time.sleep(0.001)
print("elected", flush=True)
time.sleep(600)
"""
    with fresh_folder() as folder, fs.open(folder / "store") as store:
        command = [sys.executable, "-c", script, str(folder / "store")]
        store.close()
        with fs.open(folder / "store", upkeep=False) as plain:
            a_group(plain)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == "elected\n"
                with fs.open(folder / "store") as here:
                    for i in range(20):
                        here.put_record("g", record(i, i, i))
                    assert here.stat()["upkeep"]["pid"] == other.pid
                    other.kill()
                    until(lambda: here.stat()["upkeep"]["pid"] == os.getpid())
                    until(lambda: journal_rows(here) < upkeep.TAIL_ROWS)
                    assert here.verify() == []
            finally:
                other.kill()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Every thread of a store ends with it."""
    yield
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("featurestore-")]


if __name__ == "__main__":
    die_writing(Path(sys.argv[1]))
