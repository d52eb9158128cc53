"""Long work as jobs: answered with 202 at once, asked for after that.

A job belongs to whoever began it and runs in the worker that took it, but any worker may be asked
about it: its state is a small JSON file in the folder that the workers share, replaced whole, and
a table that it gives is an Arrow file beside it.  Jobs end with their worker; what they have
committed by then is committed, and an ingest goes on where it stopped when it is sent again.

::

    <job>.json  <job>.arrow     state and table of a job
    <worker>.alive              locked (flock) by a worker while it lives: the kernel lets go of it
                                however that ends, and so nobody waits for a job of the dead
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from featurestore.errors import Unavailable, UnknownJob
from featurestore_server.answers import Spool
from featurestore_server.problems import problem

if TYPE_CHECKING:
    from featurestore_server.access import Caller
    from featurestore_server.guard import Lane

Progress = Callable[..., None]  # rows done, and what else its state is to tell

KEPT_SECONDS = 24 * 3600.0
_TOLD_EVERY_SECONDS = 0.2
_ID = re.compile(r"[0-9a-f]{24}")
_UNDER_WAY = ("waiting", "running")


class Job:
    """One piece of long work.

    Parameters
    ----------
    work : callable
        Run on a thread of the lane with a function to tell the rows done; gives a Spool or JSON.
    held : context manager
        What it needs, let go behind it on the event loop.
    table : bool
        Whether it gives a table, which is asked for under the job's name.
    """

    def __init__(
        self,
        verb: str,
        who: Caller,
        work: Callable[[Progress], Any],
        lane: Lane,
        held: AbstractContextManager[Any] | None = None,
        *,
        table: bool = False,
    ) -> None:
        self.id = secrets.token_hex(12)
        self.work, self.lane, self.table = work, lane, table
        self.held = nullcontext() if held is None else held
        #: Whether anybody has been told of it: what is over before that leaves no trace.
        self.told = False
        self.error: Exception | None = None
        self.state: dict[str, Any] = {"id": self.id, "verb": verb, "owner": who.key_id}
        self.state |= {"state": "waiting", "rows": 0, "created_at": time.time()}
        self.state |= {"result": None, "problem": None}


class Jobs:
    """The jobs of all workers that share a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tasks: set[asyncio.Task[None]] = set()
        self._saving = threading.Lock()
        self._worker = secrets.token_hex(12)
        self._alive = os.open(self._sign(self._worker), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._alive, fcntl.LOCK_EX)

    async def start(self, job: Job, *, wait_seconds: float = 0.0) -> Any:
        """Begin a job; returns its result if that is there in time, None otherwise.

        Raises
        ------
        FeatureStoreError
            As the work does, if it is over in time.
        """
        self._forget_old()
        job.state["worker"] = self._worker
        task = asyncio.create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if wait_seconds:
            await asyncio.wait({task}, timeout=wait_seconds)
            if job.error is not None:
                raise job.error
            if task.done():
                return job.state["result"]
        job.told = True
        self._save(job)
        return None

    async def _run(self, job: Job) -> None:
        state, saved = job.state, 0.0

        def progress(rows: int, **more: int) -> None:
            nonlocal saved
            state.update(more, rows=rows)
            if time.monotonic() - saved > _TOLD_EVERY_SECONDS:
                saved = time.monotonic()
                self._save(job)

        def begin() -> Any:
            state["state"] = "running"
            self._save(job)
            found = job.work(progress)
            if isinstance(found, Spool):
                found.save(self.table(job.id))
                return {"rows": found.rows, "table": True}
            return found

        try:
            with job.held:
                state["result"] = await job.lane.run(begin)
            state["state"] = "done"
        except Exception as error:  # noqa: BLE001  whatever it is, somebody will ask
            job.error = error
            state["problem"] = orjson.loads(problem(error)[2])
            state["state"] = "failed"
        self._save(job)

    def find(self, job: str, who: Caller) -> dict[str, Any]:
        """Return what is known of a job.

        Raises
        ------
        UnknownJob
            There is none of that id that is this caller's.
        """
        state = self._load(job) if _ID.fullmatch(job) else {}
        if not state or state["owner"] != who.key_id:
            raise UnknownJob(f'There is no job "{job:.50}" of yours.')
        if state["state"] in _UNDER_WAY and self._is_dead(state["worker"]):
            state = self._load(job)  # it may have ended in between
            if state["state"] in _UNDER_WAY:
                state |= {"state": "failed", "problem": orjson.loads(problem(_lost())[2])}
        return {name: fact for name, fact in state.items() if name not in ("owner", "worker")}

    def table(self, job: str) -> Path:
        """Return where a job's table is."""
        return self._folder / f"{job}.arrow"

    async def drain(self) -> None:
        """Wait for the jobs under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Have no more jobs."""
        self._sign(self._worker).unlink(missing_ok=True)
        os.close(self._alive)

    def _sign(self, worker: str) -> Path:
        """Return the file that a worker holds locked."""
        return self._folder / f"{worker}.alive"

    def _is_dead(self, worker: str) -> bool:
        try:
            with self._sign(worker).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def _load(self, job: str) -> dict[str, Any]:
        try:
            return dict(orjson.loads((self._folder / f"{job}.json").read_bytes()))
        except FileNotFoundError:
            return {}

    def _save(self, job: Job) -> None:
        if not job.told:
            return
        path = self._folder / f"{job.id}.json"
        making = path.with_suffix(".making")
        with self._saving:
            making.write_bytes(orjson.dumps(job.state))
            making.rename(path)

    def _forget_old(self) -> None:
        oldest = time.time() - KEPT_SECONDS
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith((".json", ".arrow")) and entry.stat().st_mtime < oldest:
                    Path(entry.path).unlink(missing_ok=True)


def _lost() -> Unavailable:
    return Unavailable("The server's process that did the job is gone. Ask for it again.")
