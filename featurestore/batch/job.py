"""Batch jobs: their records, and the logs that make each unit of their work count once."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, UnknownJob
from featurestore.jobs import records
from featurestore.storage import files, seam

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from featurestore.jobs.records import Record
    from featurestore.store import FeatureStore

PREFIX = "batch"
#: How often a job's record says how far it has come.
TELL_SECONDS = 1.0


class BatchJob:
    """A batch job; made by :func:`score`, :func:`transform` and :func:`get`."""

    def __init__(self, store: FeatureStore, name: str) -> None:
        self._store = store
        self.name = name
        self.folder = records.folder(store, f"{PREFIX}/{name}")

    def __repr__(self) -> str:
        record = self.record
        why = f": {record['failure']}" if record.get("failure") else ""
        done, of = record.get("rows", 0), record.get("rows_in_all")
        part = "" if of in (None, done) else f" of {of:,}"
        rows = f"{done:,}{part} rows, {record.get('errors', 0):,} errors"
        return f"BatchJob({self.name!r}, {record['status']}{why}, {rows})"

    @property
    def record(self) -> Record:
        """All that is kept of it."""
        return records.get(self._store, f"{PREFIX}/{self.name}")

    @property
    def status(self) -> str:
        """``InProgress``, ``Completed``, ``Failed``, ``Stopping`` or ``Stopped``."""
        return str(self.record["status"])

    @property
    def failure(self) -> str:
        """Why it failed; empty if it did not."""
        return str(self.record.get("failure", ""))

    @property
    def transitions(self) -> list[tuple[str, datetime, datetime | None, str]]:
        """Each status it had: the status, from when, until when, and why."""
        return records.times(self.record)

    @property
    def output(self) -> Path:
        """The folder of its output."""
        from pathlib import Path

        return Path(self.record["request"]["output"])

    def errors(self) -> list[dict[str, Any]]:
        """Return what was put aside: file, line (or row), reason, payload."""
        found = sorted(self.folder.glob("errors*.jsonl"))
        return [json.loads(line) for path in found for line in path.read_text("utf-8").splitlines()]


def get(store: FeatureStore, name: str) -> BatchJob:
    """Return a batch job by its name.

    Raises
    ------
    UnknownJob
    """
    if store.documents.get(records.KIND, f"{PREFIX}/{name}") is None:
        raise UnknownJob(f'There is no batch job "{name}".{records.suggest(store, PREFIX, name)}')
    return BatchJob(store, name)


def jobs(store: FeatureStore) -> list[BatchJob]:
    """Return all batch jobs, by name."""
    return [BatchJob(store, name.partition("/")[2]) for name in records.every(store, f"{PREFIX}/")]


def stop(store: FeatureStore, name: str) -> None:
    """Ask a job to stop after the unit it is at; called again, it would go on.

    One whose process is dead is stopped here and now.
    """
    full = f"{PREFIX}/{name}"
    if records.is_abandoned(store, get(store, name).record):
        with records.running(store, full):
            records.move(store, full, "Stopped", status=records.STOPPED)
        return

    def change(record: Record | None) -> Record | None:
        if record is None or record["status"] in records.ENDED:
            return record
        return {**record, "asked": "stop", "status": records.STOPPING}

    store.documents.update(records.KIND, full, change)


class Stop(Exception):
    """The job was asked to stop."""


class Fail(Exception):
    """The job fails, for the reason that is the message."""


def begin(
    store: FeatureStore,
    name: str,
    request: Record,
    lineage: Record,
    *,
    rows_in_all: int | None = None,
) -> Record:
    """Begin a job, or go on with one that did not complete and was asked for the same.

    Raises
    ------
    InvalidInput
        When it is complete, or was another request.
    """
    full = f"{PREFIX}/{name}"
    found = store.documents.get(records.KIND, full)
    if found is None:
        facts = {"request": request, "lineage": lineage, "rows_in_all": rows_in_all}
        return records.create(store, full, facts)
    different = sorted(key for key in request if found["request"].get(key) != request[key])
    if different:
        raise InvalidInput(
            f'There is a batch job "{name}" with another {", ".join(different)}. Give the same '
            "request to go on with it, or another name."
        )
    if found["status"] == records.COMPLETED:
        return found
    return records.move(
        store, full, "InProgress", "again", status=records.IN_PROGRESS, asked="", failure=""
    )


class Teller:
    """Says in a job's record how far it has come, now and then: others look there."""

    def __init__(self, store: FeatureStore, name: str, seconds: float) -> None:
        self._store = store
        self._name = f"{PREFIX}/{name}"
        self._earlier = seconds
        self._began = self._told_at = seam.monotonic()

    @property
    def seconds(self) -> float:
        """How long the job has run, in all of its lives."""
        return self._earlier + seam.monotonic() - self._began

    def tell(self, rows: int, errors: int) -> None:
        """Say it, unless that was a moment ago."""
        now = seam.monotonic()
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            told = {"rows": rows, "errors": errors, "seconds": self.seconds}
            records.note(self._store, self._name, **told)


def require_unasked(store: FeatureStore, name: str) -> None:
    """Stop here, if the job was asked to.

    Raises
    ------
    Stop
    """
    if records.get(store, f"{PREFIX}/{name}").get("asked") == "stop":
        raise Stop


class ProgressLog:
    """An append-only file of JSON lines, each durable before the next thing is done.

    A line that a crash has torn is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: list[dict[str, Any]] = []
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    entry = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                self.entries.append(entry)
                whole += len(line)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(self._fd, whole)
        os.lseek(self._fd, 0, os.SEEK_END)
        files.sync_folder(path.parent)

    def add(self, **facts: Any) -> None:
        """Write an entry; when this returns it is on disk."""
        seam.call("write", self._path, os.write, self._fd, json.dumps(facts).encode() + b"\n")
        seam.call("fsync", self._path, os.fsync, self._fd)
        self.entries.append(facts)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
