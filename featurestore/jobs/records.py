"""Records of jobs: one shape for training, tuning and batch inference.

::

    job    train/late-1        {"status": "Completed", "transitions": [...], "lineage": {...}, ...}
           transform/tomorrow

    InProgress ──► Completed | Failed
        └──► Stopping ──► Stopped

Beside the status there is a finer one, whose every change is kept with its times: Starting,
Downloading, Training, Interrupted, Uploading ...  The names are SageMaker's.

A record says ``InProgress`` until somebody says otherwise, and who was to say so may be dead.  A
lock in the job's folder is held by the process that runs it, and freed by the kernel: a job in
progress whose lock is free is *abandoned*, and may be resumed.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, UnknownJob, did_you_mean
from featurestore.event_time import to_datetime
from featurestore.storage import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from featurestore.store import FeatureStore

KIND = "job"
IN_PROGRESS, COMPLETED, FAILED = "InProgress", "Completed", "Failed"
STOPPING, STOPPED = "Stopping", "Stopped"
ENDED = frozenset({COMPLETED, FAILED, STOPPED})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")

Record = dict[str, Any]


def check_name(name: str) -> str:
    """Return a name a job may have: SageMaker's rule.

    Examples
    --------
    >>> check_name("late-2013-01")
    'late-2013-01'
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f'A job cannot be named {name!r}: use 1 to 63 letters, digits and "-", beginning with '
            "a letter or digit."
        )
    return name


def fresh_name(stem: str) -> str:
    """Return a name nobody has: a stem, the time, and chance."""
    return f"{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def folder(store: FeatureStore, name: str) -> Path:
    """Return the folder of a job."""
    return store.path / "jobs" / name


def create(
    store: FeatureStore,
    name: str,
    facts: Record,
    *,
    instead_of: Callable[[Record], bool] = lambda _: False,
) -> Record:
    """Begin a record, ``InProgress`` and ``Starting``; also in place of one that may go.

    Raises
    ------
    InvalidInput
        When there is one of that name.
    """
    now_us = store.documents.now_us()

    def change(found: Record | None) -> Record:
        if found is not None and not instead_of(found):
            raise InvalidInput(f'There is a job "{name}" already, {found["status"]}.')
        return {
            **facts,
            "name": name,
            "status": IN_PROGRESS,
            "created_at_us": now_us,
            "transitions": [_transition("Starting", now_us, "")],
        }

    return _known(store.documents.update(KIND, name, change))


def move(
    store: FeatureStore,
    name: str,
    secondary: str,
    message: str = "",
    *,
    status: str | None = None,
    **facts: Any,
) -> Record:
    """Enter the next state of a job: the last transition ends now, a new one begins."""
    now_us = store.documents.now_us()

    def change(found: Record | None) -> Record:
        record = {**_there(name, found), **facts}
        earlier = [*record["transitions"]]
        earlier[-1] = {**earlier[-1], "end_us": now_us}
        record["transitions"] = [*earlier, _transition(secondary, now_us, message)]
        if status is not None:
            record["status"] = status
        if record["status"] in ENDED:
            record["transitions"][-1]["end_us"] = now_us
            record["ended_at_us"] = now_us
        return record

    return _known(store.documents.update(KIND, name, change))


def note(store: FeatureStore, name: str, **facts: Any) -> Record:
    """Add facts to a record, or replace them."""

    def change(found: Record | None) -> Record:
        return {**_there(name, found), **facts}

    return _known(store.documents.update(KIND, name, change))


def get(store: FeatureStore, name: str) -> Record:
    """Return a record.

    Raises
    ------
    UnknownJob
    """
    return _there(name, store.documents.get(KIND, name))


def every(store: FeatureStore, prefix: str = "") -> dict[str, Record]:
    """Return the records whose names begin so, by name."""
    return store.documents.every(KIND, prefix)


def is_abandoned(store: FeatureStore, record: Record) -> bool:
    """Return whether a job is in progress and nobody runs it."""
    if record["status"] in ENDED:
        return False
    return not files.is_held(folder(store, record["name"]) / "lock")


@contextlib.contextmanager
def running(store: FeatureStore, name: str) -> Iterator[None]:
    """Hold a job's lock: whoever has it runs the job.

    Raises
    ------
    InvalidInput
        When another process, or thread, does.
    """
    files.make_folder(folder(store, name))
    lock = files.FileLock.try_acquire(folder(store, name) / "lock")
    if lock is None:
        raise InvalidInput(f'The job "{name}" is running already.')
    try:
        yield
    finally:
        lock.release()


def times(record: Record) -> list[tuple[str, datetime, datetime | None, str]]:
    """Return the transitions of a record: status, start, end, message."""
    return [
        (
            t["status"],
            to_datetime(t["start_us"]),
            None if t["end_us"] is None else to_datetime(t["end_us"]),
            t["message"],
        )
        for t in record["transitions"]
    ]


def _transition(status: str, start_us: int, message: str) -> Record:
    return {"status": status, "start_us": start_us, "end_us": None, "message": message}


def _there(name: str, found: Record | None) -> Record:
    if found is None:
        # Inside a transaction of the writer nothing else can be asked of the store.
        raise UnknownJob(f'There is no job "{name}".')
    return found


def _known(record: Record | None) -> Record:
    assert record is not None  # noqa: S101  the change returned one
    return record


def suggest(store: FeatureStore, kind: str, name: str) -> str:
    """Return ``Did you mean`` for a job of a kind."""
    return did_you_mean(name, [known.partition("/")[2] for known in every(store, f"{kind}/")])
