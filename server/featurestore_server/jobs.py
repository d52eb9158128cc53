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
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from featurestore.errors import Unavailable, UnknownJob
from featurestore_server.answers import Spool
from featurestore_server.problems import problem

if TYPE_CHECKING:
    from featurestore_server.access import Caller
    from featurestore_server.guard import Lane

Progress = Callable[[int], None]

KEPT_SECONDS = 24 * 3600.0
_TOLD_EVERY_SECONDS = 0.2
_ID = re.compile(r"[0-9a-f]{24}")
_UNDER_WAY = ("waiting", "running")


class Jobs:
    """The jobs of all workers that share a folder."""

    def __init__(self, folder: Path, lane: Lane) -> None:
        self._folder = folder
        self._lane = lane
        self._tasks: set[asyncio.Task[None]] = set()
        self._worker = secrets.token_hex(12)
        self._alive = os.open(self._sign(self._worker), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._alive, fcntl.LOCK_EX)

    async def start(self, verb: str, who: Caller, work: Callable[[Progress], Any]) -> str:
        """Begin a job; returns its id.

        Parameters
        ----------
        work : callable
            Run on a thread with a function to tell the rows done; gives a Spool or JSON.
        """
        self._forget_old()
        job = secrets.token_hex(12)
        state = {"id": job, "verb": verb, "owner": who.key_id, "state": "waiting", "rows": 0}
        state |= {"created_at": time.time(), "result": None, "problem": None}
        state |= {"worker": self._worker}
        self._save(state)
        task = asyncio.create_task(self._run(state, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def _run(self, state: dict[str, Any], work: Callable[[Progress], Any]) -> None:
        told = 0.0

        def progress(rows: int) -> None:
            nonlocal told
            state["rows"] = rows
            if time.monotonic() - told > _TOLD_EVERY_SECONDS:
                told = time.monotonic()
                self._save(state)

        def begin() -> Any:
            state["state"] = "running"
            self._save(state)
            found = work(progress)
            if isinstance(found, Spool):
                found.save(self.table(state["id"]))
                return {"rows": found.rows, "table": True}
            return found

        try:
            state["result"] = await self._lane.run(begin)
            state["state"] = "done"
        except Exception as error:  # noqa: BLE001  whatever it is, somebody will ask
            state["problem"] = orjson.loads(problem(error)[2])
            state["state"] = "failed"
        self._save(state)

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

    def _save(self, state: dict[str, Any]) -> None:
        path = self._folder / f"{state['id']}.json"
        making = path.with_suffix(".making")
        making.write_bytes(orjson.dumps(state))
        making.rename(path)

    def _forget_old(self) -> None:
        oldest = time.time() - KEPT_SECONDS
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith((".json", ".arrow")) and entry.stat().st_mtime < oldest:
                    Path(entry.path).unlink(missing_ok=True)


def _lost() -> Unavailable:
    return Unavailable("The server's process that did the job is gone. Ask for it again.")
