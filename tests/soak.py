"""The engine for half an hour: writers, readers and upkeep on one store, some of them killed.

::

    python -m tests.soak                    30 minutes
    python -m tests.soak --minutes 2        a look

Two processes put and ingest, two get, join and query; every 20 seconds one of them is killed with
``kill -9``, and a process that leaks a read transaction is started, and killed a while later.  A
steady process, which nobody kills, does a little of everything and is measured: its memory and its
descriptors, and of the store the reader slots, the size of LMDB's file, and how long a get takes.
After the first fifth of the time all of that must be flat; at the end the store must verify clean,
and hold exactly what was acknowledged.

While somebody holds a read transaction LMDB takes no page again that was left since, so the file
becomes as large as the busiest leak made it.  It may not grow at any other time, but to twice what
is in use.
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import featurestore as fs

ROOT = Path(__file__).parents[1]
START = datetime(2024, 1, 1, tzinfo=UTC)
KEYS = 2_000
MIB = 1 << 20
BLOCK_SECONDS = 30.0
SAMPLE_SECONDS = 1.0
KILL_SECONDS = 20.0
LEAK_SECONDS = 10.0
#: What may change after the first fifth: MiB an hour, as far as that is sure (its standard error is
#: taken off three times), and the later over the earlier.
MEMORY_SLOPE_MAX = 1.0
FILE_SHARE_MAX = 2.0
#: A few transactions of any size, which are all that a small store is.
FILE_BYTES_MIN = 16 << 20
#: A killed reader holds its snapshot until upkeep has cleared its slot.
CLEARED_SECONDS = 10.0
P99_SHARE_MAX = 1.2


# ── the processes ────────────────────────────────────────────────────────────────────────────


def row(number: int, chance: random.Random) -> dict[str, Any]:
    late = timedelta(seconds=chance.randrange(100))
    return {
        "k": chance.randrange(KEYS),
        "t": START + timedelta(milliseconds=number) - late,
        "x": chance.random(),
        "s": "x" * chance.randrange(60),
    }


def write(store: fs.FeatureStore, chance: random.Random, log: Any) -> None:
    """Put records, and note each that was acknowledged."""
    number = store.snapshot()
    while True:
        number += 1
        if chance.random() < 0.02:
            store.ingest("g", [row(number + n, chance) for n in range(500)])
        else:
            seqs = [r.seq for r in store.write([("g", row(number, chance)) for _ in range(5)])]
            log.write(f"{' '.join(map(str, seqs))}\n")
            log.flush()


def read(store: fs.FeatureStore, chance: random.Random, _log: Any) -> None:
    """Get, query and join, for ever."""
    while True:
        look(store, chance)


def look(store: fs.FeatureStore, chance: random.Random) -> list[float]:
    """Ask a little of everything; returns how long each get took."""
    took = []
    for _ in range(200):
        began = time.perf_counter()
        store.get_record("g", chance.randrange(KEYS))
        took.append(time.perf_counter() - began)
    labels = pa.table({"k": list(range(100)), "event_time": [START + timedelta(days=1)] * 100})
    store.point_in_time(labels, "g:x")
    store.sql("SELECT k % 10, count(*), avg(x) FROM g GROUP BY 1")
    return took


def leak(store: fs.FeatureStore, _chance: random.Random, _log: Any) -> None:
    """Begin a read transaction, and never end it."""
    transaction = store._database.env.begin_read()
    time.sleep(10**6)
    transaction.abort()


ROLES = {"write": write, "read": read, "leak": leak}


def start(role: str, number: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process in a role."""
    command = [sys.executable, "-m", "tests.soak", "--role", role, "--number", str(number)]
    return subprocess.Popen([*command, "--folder", str(folder)], cwd=ROOT)


def play(role: str, number: int, folder: Path) -> None:
    """Be one of the processes."""
    log_path = folder / f"{role}-{number}.log"
    with fs.open(folder / "store") as store, log_path.open("a", encoding="ascii") as log:
        ROLES[role](store, random.Random(number), log)


# ── the one that is measured ─────────────────────────────────────────────────────────────────


def soak(folder: Path, minutes: float) -> list[str]:
    """Load a store; returns what has grown, or was lost."""
    chance = random.Random(2013)
    numbers = iter(range(10**6))
    roles = ["write", "write", "read", "read"]
    running = [(role, start(role, next(numbers), folder)) for role in roles]
    began = time.monotonic()
    killed_at, leaking, leaked_at = began, None, began
    samples: list[tuple[float, ...]] = []
    times: list[tuple[float, float]] = []
    kills = 0
    with fs.open(folder / "store") as store:
        while (now := time.monotonic()) - began < minutes * 60:
            store.put_record("g", row(store.snapshot(), chance))
            times += [(now - began, seconds) for seconds in look(store, chance)]
            if now - killed_at > KILL_SECONDS:
                killed_at, kills = now, kills + 1
                at = chance.randrange(len(running))
                kill(running[at][1])
                running[at] = (running[at][0], start(running[at][0], next(numbers), folder))
            if leaking is None and now - leaked_at > KILL_SECONDS:
                leaking, leaked_at = start("leak", next(numbers), folder), now
            elif leaking is not None and now - leaked_at > LEAK_SECONDS:
                leaking, leaked_at = kill(leaking), now
            held = leaking is not None or now - max(leaked_at, killed_at) < CLEARED_SECONDS
            samples.append((now - began, *measured(store), held))
            time.sleep(SAMPLE_SECONDS)
        for process in (*(p for _, p in running), *([leaking] if leaking else [])):
            kill(process)
        print(f"{kills} kills, {store.snapshot():,} records, {len(times):,} gets measured")
        failed = grown(np.array(samples), np.array(times), minutes * 60 * 0.2)
        failed += lost(store, folder)
        store.flush()
        store.compact()
        return failed + [str(fault) for fault in store.verify()]


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def measured(store: fs.FeatureStore) -> tuple[float, ...]:
    """Return resident bytes, open files, reader slots, and LMDB's file and what is in use of it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    resident = int(status.split("RssAnon:")[1].split()[0]) * 1024
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    facts = store.stat()
    return (
        resident,
        descriptors,
        facts["readers"],
        facts["engine_file_bytes"],
        facts["engine_bytes"],
    )


def memory_slope(when: Any, resident: Any) -> tuple[float, float]:
    """Return MiB an hour, and the standard error of that, from medians of half a minute."""
    blocks = (when // BLOCK_SECONDS).astype(int)
    at = np.array([np.median(when[blocks == block]) for block in np.unique(blocks)]) / 3600
    held_mib = np.array([np.median(resident[blocks == block]) for block in np.unique(blocks)]) / MIB
    if len(at) < 3:
        return 0.0, math.inf
    fit = np.polyfit(at, held_mib, 1)
    left = held_mib - np.polyval(fit, at)
    error = math.sqrt(float(np.sum(left**2)) / (len(at) - 2) / float(np.sum((at - at.mean()) ** 2)))
    return float(fit[0]), error


def grown(samples: np.ndarray, times: np.ndarray, warm: float) -> list[str]:
    """Say what is not flat."""
    rows = samples[samples[:, 0] > warm]
    if len(rows) < 10:
        return [f"only {len(rows)} measurements after the first fifth: too short a time to tell"]
    at, resident, descriptors, readers, file_bytes, used_bytes, held = rows.T
    slope, error = memory_slope(at, resident)
    tenth = max(1, len(rows) // 10)
    p99 = [
        float(np.quantile(part[:, 1], 0.99))
        for part in np.array_split(times[times[:, 0] > warm], 3)
    ]
    print(
        f"memory {slope:+.1f} ± {error:.1f} MiB an hour at {resident[-1] / MIB:.0f} MiB; "
        f"{descriptors[0]:.0f} to {descriptors[-1]:.0f} open files; at most {readers.max():.0f} "
        f"readers; LMDB's file {file_bytes[0] / MIB:.1f} to "
        f"{file_bytes[-1] / MIB:.1f} MiB, most in use {used_bytes.max() / MIB:.1f}; "
        f"p99 of a get {p99[0] * 1e6:.0f}, {p99[1] * 1e6:.0f}, {p99[2] * 1e6:.0f} µs"
    )
    failed = []
    if slope - 3 * error > MEMORY_SLOPE_MAX:
        failed.append(f"memory grows by {slope:.1f} ± {error:.1f} MiB an hour")
    if np.median(descriptors[-tenth:]) > np.median(descriptors[:tenth]) + 8:
        failed.append(f"files stay open: {descriptors[0]:.0f} to {descriptors[-1]:.0f}")
    if np.median(readers[-tenth:]) > np.median(readers[:tenth]) + 8:
        failed.append(f"reader slots grow: {readers[0]:.0f} to {readers[-1]:.0f}")
    allowed = FILE_BYTES_MIN + FILE_SHARE_MAX * used_bytes[1:]
    calm = (held[:-1] == 0) & (held[1:] == 0) & (np.diff(file_bytes) > 0)
    failed += [
        f"LMDB's file grows with no reader to hold it, {at[row + 1]:.0f} s after the start, to "
        f"{file_bytes[row + 1]:,.0f} bytes for {used_bytes[row + 1]:,.0f}"
        for row in np.flatnonzero(calm & (file_bytes[1:] > allowed))
    ]
    if p99[-1] > P99_SHARE_MAX * p99[0]:
        failed.append(f"p99 of a get rises from {p99[0] * 1e6:.0f} to {p99[-1] * 1e6:.0f} µs")
    return failed


def lost(store: fs.FeatureStore, folder: Path) -> list[str]:
    """Say what was acknowledged and is not there, or is there twice."""
    seqs = store.sql("SELECT write_seq FROM history.g ORDER BY 1")["write_seq"].to_numpy()
    failed = [] if (np.diff(seqs) > 0).all() else ["a seq is there twice"]
    told: list[int] = []
    for log in folder.glob("write-*.log"):
        lines = log.read_text(encoding="ascii").splitlines(keepends=True)
        told += [int(seq) for line in lines if line.endswith("\n") for seq in line.split()]
    missing = np.setdiff1d(np.array(told, np.int64), seqs)
    if len(missing):
        failed.append(f"{len(missing)} acknowledged records are lost, such as seq {missing[0]}")
    print(f"{len(told):,} acknowledged by those who were killed")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--store-dir", type=Path, default=None, help="where; /dev/shm is quick")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role:
        play(asked.role, asked.number, asked.folder)
        return 0
    with tempfile.TemporaryDirectory(dir=asked.store_dir) as folder:
        with fs.open(Path(folder) / "store") as store:
            store.create_feature_group(
                "g", record_identifier="k", event_time="t",
                features={"k": "int64", "t": "timestamp", "x": "float64", "s": "string"},
                max_future=None,
            )  # fmt: skip
            store.put_record("g", row(1, random.Random(1)))
        failed = soak(Path(folder), asked.minutes)
    print("\n".join(failed) or "flat")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
