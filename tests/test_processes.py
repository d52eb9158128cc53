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
from typing import Any

import featurestore as fs
from tests.model import moment
from tests.processes import GROUPS, create, notes

SECONDS = float(os.environ.get("FEATURESTORE_TEST_SECONDS", "4"))
FOREVER = 3600.0
ROOT = Path(__file__).parents[1]


class World:
    """The processes of one test, their store and their logs."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.folder = folder
        self.numbers = 0
        create(self.store)

    def start(self, role: str, seconds: float = SECONDS) -> tuple[subprocess.Popen[str], Path]:
        """Start a process in a role; returns it and its log."""
        self.numbers += 1
        log = self.folder / f"{role}-{self.numbers}.log"
        command = [sys.executable, "-m", "tests.processes", role, str(self.numbers)]
        command += [str(self.store), str(log), str(seconds)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        return process, log

    def logs(self, role: str) -> list[dict[str, Any]]:
        """Return all notes of all processes of a role."""
        paths = sorted(self.folder.glob(f"{role}-*.log"))
        return [note for path in paths for note in notes(path)]


def ended(process: subprocess.Popen[str]) -> None:
    """Wait for a process that must end well."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def holds_what_was_acknowledged(world: World) -> int:
    """Fail unless the store is what the writers' logs say; returns acknowledged records."""
    written = world.logs("write")
    acknowledged = {
        t: note for note in written if "acknowledged" in note for t in note["acknowledged"]
    }
    sent = {t: note for note in written if "sent" in note for t in note["sent"]}
    seqs = {
        token: seq
        for note in written
        if note.get("seqs")
        for token, seq in zip(note["acknowledged"], note["seqs"], strict=True)
    }
    with fs.open(world.store) as store:
        assert store.verify() == []
        rows = []
        for group in GROUPS:
            history = store.sql(
                f"SELECT k, t, token, pair, write_seq, is_deleted FROM history.{group}"
            )
            rows += [{**row, "group": group} for row in history.to_pylist()]
        by_token = {row["token"]: row for row in rows if not row["is_deleted"]}
        by_seq = Counter(row["write_seq"] for row in rows)
        assert max(by_seq.values(), default=1) == 1
        # Exactly once: a token is in one row, and every token acknowledged is in one.
        assert len(by_token) == sum(not row["is_deleted"] for row in rows)
        lost = [
            t for t, note in acknowledged.items() if note["way"] != "delete" and t not in by_token
        ]
        assert lost == []
        assert set(by_token) <= set(sent)
        for token, seq in seqs.items():
            if sent[token]["way"] == "delete":
                assert by_seq[seq] == 1, f"the delete {token} of seq {seq}"
            else:
                assert by_token[token]["write_seq"] == seq
        # A write of several records is there whole or not at all, also when nobody was told.
        for note in written:
            if "sent" in note and note["way"] in ("pair", "table"):
                assert len([t for t in note["sent"] if t in by_token]) in (0, len(note["sent"]))
        _online_is_newest(store, rows)
    return len(acknowledged)


def _online_is_newest(store: fs.FeatureStore, rows: list[dict[str, Any]]) -> None:
    newest: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: (r["t"], r["write_seq"])):
        newest[row["group"], row["k"]] = row
    assert newest
    for (group, key), row in newest.items():
        found = store.get_record(group, key, with_status=True)
        assert (found.event_time, found.write_seq) == (row["t"], row["write_seq"])
        assert (found.status == "DELETED") == row["is_deleted"]
        assert row["is_deleted"] or found.record["token"] == row["token"]


def test_writers_a_reader_and_a_tidier_share_a_directory(tmp_path: Path) -> None:
    world = World(tmp_path)
    roles = ["write", "write", "read", "tidy"]
    processes = [world.start(role)[0] for role in roles]
    for process in processes:
        ended(process)
    assert holds_what_was_acknowledged(world) > 10
    assert [note["fault"] for note in world.logs("read") if "fault" in note] == []
    assert sum(note.get("looks", 0) for note in world.logs("read")) > 10
    assert sum(note.get("rounds", 0) for note in world.logs("tidy")) > 1
    assert {note["way"] for note in world.logs("write")} == {"put", "pair", "table", "delete"}


def test_killed_processes_lose_nothing_they_were_told(tmp_path: Path) -> None:
    """Kill -9, at any moment: of a writer, of the tidier, and again of those who come after."""
    chance = random.Random(2013)
    world = World(tmp_path)
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


def test_a_store_is_left_to_one_process_after_the_other(tmp_path: Path) -> None:
    """What one process wrote and closed, the next one reads, through the same clock of commits."""
    world = World(tmp_path)
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
