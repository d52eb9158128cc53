"""Processes that run SQL for strangers: kept warm, one query each, killed when time is up."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from featurestore import errors, wire
from featurestore.engine.plan import Plan
from featurestore.engine.reader import latest_table, require_online
from featurestore.errors import FeatureStoreError, InvalidQuery, StoreBusy, did_you_mean
from featurestore.storage.parquet import require_sound
from featurestore_server.answers import arrow_stream
from featurestore_server.sql_process import receive, send

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore_server.access import Caller, Door
    from featurestore_server.bodies import Limits

#: A process is replaced after so many queries, whatever they were.
_QUERIES_MAX = 200
_READY_SECONDS = 60.0
_KINDS = {
    name: thing
    for name, thing in vars(errors).items()
    if isinstance(thing, type) and issubclass(thing, FeatureStoreError)
}


class SqlProcess:
    """One process and the pipes to it."""

    def __init__(self, memory_bytes: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "featurestore_server.sql_process", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            close_fds=True,
        )
        self.to = cast("BinaryIO", self._child.stdin)
        self.of = cast("BinaryIO", self._child.stdout)
        self.queries = 0
        self.killed: str | None = None
        self.ready = False

    def wait_ready(self) -> None:
        """Wait until it has loaded what it needs and given up what it does not."""
        if not self.ready:
            timer = threading.Timer(_READY_SECONDS, self.kill, ["it did not start"])
            timer.start()
            try:
                if receive(self.of, 64) != b"ready":
                    raise EOFError
            finally:
                timer.cancel()
            self.ready = True

    def kill(self, why: str) -> None:
        """End it now."""
        self.killed = self.killed or why
        self._child.kill()

    def close(self) -> None:
        """End it and take its pipes back."""
        self._child.kill()
        self._child.wait()
        self.to.close()
        self.of.close()


def _environment() -> dict[str, str]:
    """Return the environment: where Python finds its modules, and no secret of ours."""
    kept = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR")
    paths = os.pathsep.join(path for path in sys.path if path)
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": paths,
        "PYTHONDONTWRITEBYTECODE": "1",
        # glibc would map 64 MiB for each thread, which counts against the limit.
        "MALLOC_ARENA_MAX": "2",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }


class Query:
    """A query under way, so that it can be stopped by whoever has asked for it."""

    def __init__(self) -> None:
        self._process: SqlProcess | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def runs_in(self, process: SqlProcess | None) -> None:
        """Note where it runs, None when it does no more."""
        with self._lock:
            self._process = process
            if self._stopped and process is not None:
                process.kill("the client has gone")

    def stop(self) -> None:
        """Kill it, if it still runs."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill("the client has gone")


class SqlPool:
    """The processes of one worker."""

    def __init__(self, door: Door, limits: Limits) -> None:
        self._door = door
        self._limits = limits
        self._places = threading.BoundedSemaphore(limits.sql_processes)
        self._idle: queue.SimpleQueue[SqlProcess] = queue.SimpleQueue()
        self._closed = False

    def run(
        self,
        who: Caller,
        text: str,
        params: Any,
        lent: Mapping[str, pa.Table],
        query: Query,
    ) -> pa.Table:
        """Run a query for a caller; on a thread.

        Raises
        ------
        InvalidQuery
            It is no plain SELECT, fails on a value, needs too much memory, or took too long.
        AccessDenied
            It reads a group that the caller may not.
        TooLarge
            Its answer has too many rows or bytes.
        """
        if not self._places.acquire(timeout=self._limits.sql_seconds):
            raise StoreBusy("Every process for SQL is busy. Send the query again in a moment.")
        try:
            process = self._take()
            timer = threading.Timer(self._limits.sql_seconds, process.kill, ["its time is up"])
            good = False
            try:
                process.wait_ready()
                timer.start()
                query.runs_in(process)
                try:
                    found = self._ask(process, who, text, params, lent)
                    good = True
                except FeatureStoreError:
                    good = process.killed is None and not process.of.closed
                    raise
                except (EOFError, BrokenPipeError, ValueError, OSError) as error:
                    raise InvalidQuery(self._why(process)) from error
                return found
            finally:
                timer.cancel()
                query.runs_in(None)
                self._give_back(process, good=good and process.killed is None)
        finally:
            self._places.release()

    def _why(self, process: SqlProcess) -> str:
        if process.killed == "its time is up":
            return (
                f"The query was stopped: it ran longer than {self._limits.sql_seconds:g} s. Ask "
                "for less at once."
            )
        if process.killed is not None:
            return f"The query was stopped: {process.killed}."
        return (
            "The query ended its process, most likely by taking more memory than the limit of "
            f"{self._limits.sql_memory_bytes:,} bytes. Ask for less at once."
        )

    def _ask(
        self,
        process: SqlProcess,
        who: Caller,
        text: str,
        params: Any,
        lent: Mapping[str, pa.Table],
    ) -> pa.Table:
        limits = self._limits
        asked = {"query": text, "params": params, "rows": limits.sql_rows}
        asked["bytes"] = limits.sql_result_bytes
        _send_json(process, asked)
        own = {name.lower() for name in lent}
        tables = _checked(process)["tables"]
        names = {
            table for schema, table in tables if schema is not None or table.lower() not in own
        }
        latest = {table.lower() for schema, table in tables if schema == "latest"}
        self._hand_over(process, who, names, latest, lent)
        pieces = []
        left = 2 * limits.sql_result_bytes + (1 << 20)
        while piece := receive(process.of, left):
            left -= len(piece)
            pieces.append(piece)
        return _read(b"".join(pieces))

    def _hand_over(
        self,
        process: SqlProcess,
        who: Caller,
        names: set[str],
        latest: set[str],
        lent: Mapping[str, pa.Table],
    ) -> None:
        """Give the process what the query reads, or tell it that it will get nothing."""
        with contextlib.ExitStack() as pinned:
            try:
                frames = self._frames(pinned, who, names, latest)
                frames += [_stream(table) for table in lent.values()]
                frames[0]["lent"] = list(lent)
            except BaseException:
                _send_json(process, {"refused": True})
                raise
            _send_json(process, frames[0])
            for frame in frames[1:]:
                send(process.to, frame)
            process.to.flush()
            # The files stay pinned until the answer's first frame: it has been computed by then.
            _checked(process)

    def _frames(
        self, pinned: contextlib.ExitStack, who: Caller, names: set[str], latest: set[str]
    ) -> list[Any]:
        """Return what to hand over: a description, then tails and latest records as streams."""
        database = self._door.database
        spelled = {group.lower(): group for group in database.catalog().groups}
        exact = {name: spelled.get(name.lower(), name) for name in names}
        who.require("sql", exact.values())
        for name, group in exact.items():
            if name.lower() not in spelled:
                seen = [g for g in spelled.values() if who.may_verb("sql", g)]
                raise errors.UnknownFeatureGroup(
                    f'There is no feature group "{group}".{did_you_mean(group, seen)}'
                )
        wanted = {exact[name] for name in names if name.lower() in latest}
        now_us = self._door.now_us()
        found = pinned.enter_context(database.snapshot(set(exact.values()), with_latest=wanted))
        for snapshot in found.values():
            for entry in snapshot.files:
                require_sound(snapshot.root, entry)
        groups = {
            name: _facts(found[group], latest=group in wanted) for name, group in exact.items()
        }
        frames: list[Any] = [{"root": str(database.root), "groups": groups}]
        for group in exact.values():
            snapshot = found[group]
            frames.append(_stream(snapshot.tail))
            if group in wanted:
                require_online(snapshot.group)
                plan = Plan(snapshot.group, snapshot.key_hash)
                keys, records = snapshot.latest_keys, snapshot.latest_records
                frames.append(_stream(latest_table(plan, keys, records, now_us)))
        return frames

    # ── processes ────────────────────────────────────────────────────────────────────────────

    def warm_up(self) -> None:
        """Start a process before it is needed."""
        self._idle.put(SqlProcess(self._limits.sql_memory_bytes))

    def _take(self) -> SqlProcess:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return SqlProcess(self._limits.sql_memory_bytes)

    def _give_back(self, process: SqlProcess, *, good: bool) -> None:
        process.queries += 1
        if good and process.queries < _QUERIES_MAX and not self._closed:
            self._idle.put(process)
        else:
            process.close()

    def close(self) -> None:
        """End all processes that rest."""
        self._closed = True
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return


def _facts(snapshot: GroupSnapshot, *, latest: bool) -> dict[str, Any]:
    return {
        "group": snapshot.group.to_json(),
        "seq": snapshot.seq,
        "cut": snapshot.cut,
        "files": [entry.row(b"").hex() for entry in snapshot.files],
        "latest": latest,
    }


def _stream(table: pa.Table) -> bytes:
    return b"".join(arrow_stream({"": table}))


def _send_json(process: SqlProcess, value: Any) -> None:
    send(process.to, json.dumps(value).encode())
    process.to.flush()


def _checked(process: SqlProcess) -> dict[str, Any]:
    """Return the next frame as JSON; what it says went wrong is raised."""
    found = json.loads(receive(process.of, 16 << 20))
    if "error" in found:
        raise _KINDS.get(found["error"], InvalidQuery)(found["detail"])
    return dict(found)


def _read(data: bytes) -> pa.Table:
    import pyarrow as pa

    table = pa.ipc.open_stream(data).read_all()
    table.validate(full=True)
    return table


def read_params(params: Any) -> Any:
    """Return parameters of a query from JSON, checked to be a list or an object."""
    if params is not None and not isinstance(params, (list, dict)):
        raise InvalidQuery("params is an array for ? or an object for $name.")
    wire.from_exact(params)
    return params
