"""Several processes on one directory: writers, readers, a flusher and compactor.

Afterwards the logs of the writers are laid beside the store (``survival/judge.py``), and no reader
ever saw an answer go back or a write by halves.  Killed ones are in ``test_survival.py``.

``FEATURESTORE_TEST_SECONDS=600 pytest tests/test_processes.py`` is the long form.  Give it a
``--basetemp`` on a tmpfs, and there are many more writes to the second.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import featurestore as fs
from tests.model import moment
from tests.processes import SIZES, create, notes
from tests.survival.judge import judge

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = float(os.environ.get("FEATURESTORE_TEST_SECONDS", "4"))
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
    return judge(world.store, world.logs("write"))


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
