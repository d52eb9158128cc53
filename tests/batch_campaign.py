"""Kills batch jobs with SIGKILL: ``python -m tests.batch_campaign --kills 100``.

Both paths, each job in a process of its own that dies at a random moment, is started again, and in
the end has to leave the bytes that a job nobody killed has left, and no prediction twice.  The test
suite kills at file calls, in one process; here the kernel does it, anywhere.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

import featurestore as fs
from featurestore import batch, models
from featurestore.batch import file_transform

ONNX = Path(__file__).parent / "models" / "logistic.onnx"
INPUTS = ["a", "b", "c", "d"]
NOW = datetime(2013, 1, 1, tzinfo=UTC)
ROWS = 20_000


def work(store_path: str, folder: str, path: str) -> None:
    """Run one job, or go on with it; what the killed process is."""
    target = Path(folder)
    with fs.open(store_path, clock=lambda: NOW, upkeep=False) as store:
        if path == "blocks":
            batch.score(
                store, "late", table(), unit_rows=500, name="job", output=target / "out",
                capture=target / "captured", write_to="scores", record_id="id",
            )  # fmt: skip
        else:
            file_transform.LOG_SECONDS = 0.01
            batch.transform(
                store, "late", target.parent / "in", target / "out", name="job",
                max_payload_mb=1, join="Input", capture=target / "captured",
            )  # fmt: skip


def table() -> pa.Table:
    """Return the rows that are scored."""
    rows = np.random.default_rng(1).normal(size=(ROWS, 4)).astype(np.float32)
    columns = {name: rows[:, n] for n, name in enumerate(INPUTS)}
    return pa.table({"id": pa.array(range(ROWS), pa.int64()), **columns})


def make(folder: Path) -> str:
    """Make a store with a model, and the files."""
    path = str(folder / "store")
    with fs.open(path, clock=lambda: NOW) as store:
        models.register(store, "late", ONNX, inputs=INPUTS)
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, by its path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def life(folder: Path, path: str, pause: Callable[[], float | None]) -> tuple[int, float]:
    """Run a job to its end in a folder; returns how often it was killed, and its last life's time.

    ``pause`` says how long a life is, None for as long as it takes.
    """
    (folder / "in").mkdir(parents=True)
    rows = table().select(INPUTS).to_pandas()
    rows.to_csv(folder / "in" / "rows.csv", header=False, index=False)
    command = [sys.executable, "-m", "tests.batch_campaign", "--work", make(folder)]
    command += [str(folder / "made"), path]
    kills = 0
    while True:
        started = time.monotonic()
        process = subprocess.Popen(command)
        try:
            code = process.wait(pause())
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert code == 0, f"a job ended with code {code}"
        return kills, time.monotonic() - started


def main() -> None:
    """Kill until there were enough, on both paths."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--work", nargs=3, metavar=("STORE", "FOLDER", "PATH"))
    asked = options.parse_args()
    if asked.work:
        work(*asked.work)
        return
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="batch-campaign-") as scratch:
        root = Path(scratch)
        for path in ("blocks", "files"):
            _, seconds = life(root / path, path, lambda: None)
            expected = content(root / path / "made")
            assert expected
            kills = lives = 0
            while kills < asked.kills / 2:
                lives += 1
                folder = root / f"{path}-{lives}"
                more, _ = life(folder, path, lambda most=seconds: chance.uniform(0.2, most * 1.1))
                kills += more
                assert content(folder / "made") == expected, f"{path}: other bytes"
                check(folder, path)
                shutil.rmtree(folder)
                print(f"{path}: {kills} kills in {lives} lives, the same bytes each time")


def check(folder: Path, path: str) -> None:
    """Refuse a store that is not sound, or has a prediction twice."""
    with fs.open(folder / "store", clock=lambda: NOW) as store:
        assert store.verify() == []
        if path == "blocks":
            sql = "SELECT count(*) AS n, count(DISTINCT id) AS k FROM history.scores"
            assert store.sql(sql).to_pylist() == [{"n": ROWS, "k": ROWS}]


if __name__ == "__main__":
    main()
