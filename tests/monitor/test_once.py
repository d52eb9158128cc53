"""An execution is one: of two processes, of one that is killed, of both at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore import monitor
from featurestore.monitor import monitors

if TYPE_CHECKING:
    from collections.abc import Callable

    import featurestore as fs

ROOT = Path(__file__).parents[2]
MONDAY = datetime(2024, 1, 1, tzinfo=UTC)

RUNNER = """
import sys, featurestore as fs
from datetime import UTC, datetime
from featurestore import monitor
now = datetime(2024, 1, 1, 12, tzinfo=UTC)
with fs.open(sys.argv[1], clock=lambda: now, upkeep=False) as store:
    print("open", flush=True)
    sys.stdin.readline()
    for ran in monitor.run_due(store):
        print(ran.window, ran.status, ran.attempts, flush=True)
"""


def slowly(store: fs.FeatureStore, start: datetime, end: datetime) -> dict[str, float]:
    """Say that it has begun, then take its time: a check of one's own."""
    path = Path(store.path).parent / "begun"
    with path.open("a") as file:
        file.write(f"{start:%H} {os.getpid()}\n")
    if os.environ.get("MONITOR_TEST_HANGS"):
        time.sleep(600)
    time.sleep(0.02)
    return {"hours": (end - start) / timedelta(hours=1)}


def begin(path: Path, **more: str) -> subprocess.Popen[str]:
    """Start a process that runs what is due once it is told to."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'server'}"} | more
    running = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "open\n"
    return running


def tell(running: subprocess.Popen[str]) -> None:
    assert running.stdin is not None
    running.stdin.write("\n")
    running.stdin.flush()


def define(store: fs.FeatureStore) -> None:
    store.create_feature_group(
        "g", record_identifier="k", event_time="t", features={"k": "int64", "t": "timestamp"}
    )
    monitor.create(
        store,
        "m",
        kind="tests.monitor.test_once:slowly",
        source="group:g",
        schedule="cron(0 * ? * * *)",
        start=MONDAY,
    )


def test_two_processes_run_each_window_once(
    open_store: Callable[..., fs.FeatureStore], tmp_path: Path
) -> None:
    store = open_store(clock=lambda: MONDAY)
    define(store)
    both = [begin(store.path), begin(store.path)]
    for running in both:
        tell(running)
    said = [running.communicate(timeout=60)[0].splitlines() for running in both]
    assert all(running.returncode == 0 for running in both)
    assert sorted(line.split()[0] for lines in said for line in lines) == [
        str(one.window) for one in monitor.list_executions(store, "m")
    ]
    begun = (tmp_path / "begun").read_text().splitlines()
    assert [line.split()[0] for line in begun] == [f"{hour:02}" for hour in range(12)]
    versions = store.sql(
        "SELECT count(*) n FROM history.monitor_executions WHERE status = 'Completed'"
    )
    assert versions["n"][0].as_py() == 12


def test_a_killed_execution_is_taken_up_by_the_next(
    open_store: Callable[..., fs.FeatureStore], tmp_path: Path
) -> None:
    store = open_store(clock=lambda: MONDAY)
    define(store)
    hanging = begin(store.path, MONITOR_TEST_HANGS="1")
    tell(hanging)
    for _ in range(600):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.05)
    [one] = monitor.list_executions(store, "m")
    assert (one.status, one.attempts) == ("InProgress", 1)
    assert monitor.run_due(store, "m") == []  # its lock is held
    hanging.send_signal(signal.SIGKILL)
    hanging.wait()
    hanging.communicate()
    another = begin(store.path)
    tell(another)
    lines = another.communicate(timeout=60)[0].splitlines()
    assert lines[0] == "2024-01-01T00:00:00Z/2024-01-01T01:00:00Z Completed 2"
    assert len(lines) == 12
    rows = store.sql("SELECT count(*) n FROM history.monitor_metrics WHERE metric = 'hours'")
    assert rows["n"][0].as_py() == 12
    assert store.get_record(monitors.MONITORS, "m") is not None
