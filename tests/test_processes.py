"""Several processes on one directory: writers, readers, a flusher and compactor; also killed ones.

Afterwards the logs of the writers are laid beside the store: what was acknowledged is there exactly
once, under the seq that was told; what was only sent is there once or not at all, a pair whole or
not; the online store holds the newest of history; ``verify()`` finds nothing; and no reader ever
saw an answer go back or a write by halves.

``FEATURESTORE_TEST_SECONDS=600 pytest tests/test_processes.py`` is the long form.  Give it a
``--basetemp`` on a tmpfs, and there are many more writes to the second.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import featurestore as fs
from tests.model import moment
from tests.processes import GROUPS, SIZES, create, notes, record

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = float(os.environ.get("FEATURESTORE_TEST_SECONDS", "4"))
FOREVER = 3600.0
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work with the sizes of the other processes."""
    for module, name, size in SIZES:
        monkeypatch.setattr(module, name, size)


class World:
    """The processes of one test, their store and their logs."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        create(self.store)

    def start(self, role: str, seconds: float = SECONDS) -> tuple[subprocess.Popen[str], Path]:
        """Start a process in a role; returns it and its log."""
        number = len(self.started) + 1
        log = self.folder / f"{role}-{number}.log"
        command = [sys.executable, "-m", "tests.processes", role, str(number)]
        command += [str(self.store), str(log), str(seconds)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process, log

    def end(self) -> None:
        """Leave no process behind, whatever became of the test."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def logs(self, role: str) -> list[dict[str, Any]]:
        """Return all notes of all processes of a role."""
        paths = sorted(self.folder.glob(f"{role}-*.log"))
        return [note for path in paths for note in notes(path)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a new store without processes, and end those that a failed test leaves."""
    world = World(tmp_path)
    yield world
    world.end()


def ended(process: subprocess.Popen[str]) -> None:
    """Wait for a process that must end well."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def holds_what_was_acknowledged(world: World) -> int:
    """Fail unless the store is what the writers' logs say; returns acknowledged requests."""
    written = [note for note in world.logs("write") if note["way"] != "fleeting"]
    sent = [note for note in written if "sent" in note]
    acknowledged = [note for note in written if "acknowledged" in note]
    told = {token for note in acknowledged for token in note["acknowledged"]}
    open_tables = [n for n in sent if n["way"] == "table" and not told.issuperset(n["sent"])]
    with fs.open(world.store) as store:
        assert store.verify() == []
        rows = history_rows(store)
        lasting = [row for row in rows if row["group"] != "fleeting" and not row["is_deleted"]]
        tokens = Counter(row["token"] for row in lasting)
        at_most_once = [token for token, count in tokens.items() if count > 1]
        assert at_most_once == []
        assert set(tokens) <= {token for note in sent for token in note["sent"]}
        for note in sent:
            there = sum(token in tokens for token in note["sent"])
            if note["way"] == "table" and note in open_tables:
                for key in {k for k, _, _ in note["records"]}:  # a slice is of whole keys
                    assert len({t in tokens for k, _, t in note["records"] if k == key}) == 1
            elif told.issuperset(note["sent"]):
                assert there == (0 if note["way"] == "delete" else len(note["sent"])), note
            else:
                assert there in (0, len(note["sent"])), note  # a pair: both or none
        _seqs_are_those_told(rows, acknowledged)
        _online_is_newest(store, rows)
        _goes_on(store, open_tables)
        assert store.verify() == []
    return len(acknowledged)


def history_rows(store: fs.FeatureStore) -> list[dict[str, Any]]:
    """Read all groups' histories, in the order of their commits."""
    rows = []
    for group in (*GROUPS, "fleeting"):
        history = store.sql(f"SELECT * FROM history.{group}").to_pylist()
        rows += [{**row, "group": group} for row in history]
    return sorted(rows, key=lambda row: row["write_seq"])


def _seqs_are_those_told(rows: list[dict[str, Any]], acknowledged: list[dict[str, Any]]) -> None:
    by_seq = {row["write_seq"]: row for row in rows}
    assert len(by_seq) == len(rows)
    for note in acknowledged:
        for token, seq in zip(note["acknowledged"], note["seqs"] or [], strict=False):
            assert (
                by_seq[seq]["is_deleted"]
                if note["way"] == "delete"
                else (by_seq[seq]["token"] == token)
            )
    times = [row["write_time"] for row in rows]
    assert times == sorted(times)  # though the processes' clocks differ


def _goes_on(store: fs.FeatureStore, open_tables: list[dict[str, Any]]) -> None:
    """Send tables again that were cut off by a kill: what is in is not added twice."""
    for note in open_tables:
        records = [record(*values) for values in note["records"]]
        result = store.ingest(note["group"], records, id=note["request"])
        assert (result.accepted + result.replayed) == len(records)
        found = store.sql(
            f"SELECT count(*) n FROM history.{note['group']} WHERE token IN (SELECT unnest(?))",
            [note["sent"]],
        )
        assert found.to_pylist() == [{"n": len(records)}]


def _online_is_newest(store: fs.FeatureStore, rows: list[dict[str, Any]]) -> None:
    newest: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: (r["t"], r["write_seq"])):
        newest[row["group"], row["k"]] = row
    for (group, key), row in newest.items():
        found = store.get_record(group, key, with_status=True)
        assert (found.event_time, found.write_seq) == (row["t"], row["write_seq"])
        assert (found.status == "DELETED") == row["is_deleted"]
        assert row["is_deleted"] or found.record["token"] == row["token"]


def test_writers_a_reader_and_a_tidier_share_a_directory(world: World) -> None:
    roles = ["write", "write", "read", "tidy", "tidy"]
    processes = [world.start(role)[0] for role in roles]
    for process in processes:
        ended(process)
    assert holds_what_was_acknowledged(world) > 10
    assert [note["fault"] for note in world.logs("read") if "fault" in note] == []
    assert sum(note.get("looks", 0) for note in world.logs("read")) > 10
    assert sum(note.get("rounds", 0) for note in world.logs("tidy")) > 1
    assert {note["way"] for note in world.logs("write")} >= {"put", "pair", "table", "delete"}


def test_killed_processes_lose_nothing_they_were_told(world: World) -> None:
    """Kill -9, at any moment: of a writer, of the tidier, and again of those who come after."""
    chance = random.Random(2013)
    survivor, reader = world.start("write")[0], world.start("read")[0]
    victims = {role: world.start(role, FOREVER) for role in ("write", "tidy")}
    kills = Counter[str]()
    stop_at = time.monotonic() + SECONDS
    while kills.total() < 4 or time.monotonic() < stop_at:
        role = chance.choice(sorted(victims))
        killed(*victims[role], after=chance.uniform(0.0, 0.6))
        kills[role] += 1
        victims[role] = world.start(role, FOREVER)
    ended(survivor)
    ended(reader)
    for process, log in victims.values():
        killed(process, log, after=0.5)
    ended(world.start("tidy", 0.5)[0])  # whatever the dead have left is put in order
    assert holds_what_was_acknowledged(world) > 10
    assert [note["fault"] for note in world.logs("read") if "fault" in note] == []


def killed(process: subprocess.Popen[str], log: Path, after: float) -> None:
    """Kill a process some time after it has begun."""
    while not log.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors


def test_a_store_is_left_to_one_process_after_the_other(world: World) -> None:
    """What one process wrote and closed, the next one reads, through the same clock of commits."""
    for _ in range(2):
        ended(world.start("write", 1.0)[0])
    assert holds_what_was_acknowledged(world) > 0
    with fs.open(world.store, clock=lambda: moment(0)) as store:  # a clock far behind
        before = store.snapshot()
        store.put_record("left", {"k": 1, "t": moment(0), "token": -1, "pair": False})
        times = store.sql("SELECT write_seq, write_time FROM history.left ORDER BY 1").to_pylist()
        assert times[-1]["write_seq"] == before + 1
        assert times == sorted(times, key=lambda row: (row["write_time"], row["write_seq"]))
        assert store.verify() == []
