"""SQL of strangers: who may read what it names, and the process that runs it."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from featurestore import wire
from featurestore.engine.plan import Plan
from featurestore.engine.reader import latest_table, require_online
from featurestore.errors import (
    FeatureStoreError,
    InvalidQuery,
    StoreBusy,
    UnknownFeatureGroup,
    did_you_mean,
)
from featurestore.storage.parquet import require_sound
from featurestore_server.answers import Spool, arrow_stream
from featurestore_server.confined import pieces, receive, send, tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore_server.access import Caller, Door
    from featurestore_server.bodies import Limits
    from featurestore_server.confined import Task, Template

_FACTS_BYTES_MAX = 16 << 20


class Query:
    """A query under way, so that it can be stopped by whoever has asked for it."""

    def __init__(self) -> None:
        self._task: Task | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def runs_in(self, task: Task | None) -> None:
        """Note where it runs, None when it does no more."""
        with self._lock:
            self._task = task
            if self._stopped and task is not None:
                task.kill("the client has gone")

    def stop(self) -> None:
        """Kill it, if it still runs."""
        with self._lock:
            self._stopped = True
            if self._task is not None:
                self._task.kill("the client has gone")


class SqlPool:
    """Runs the queries of one worker: so many at once, each in a process of its own."""

    def __init__(self, door: Door, limits: Limits, template: Template) -> None:
        self._door = door
        self._limits = limits
        self._template = template
        self._places = threading.BoundedSemaphore(limits.sql_processes)

    def run(
        self,
        who: Caller,
        text: str,
        params: Any,
        lent: Mapping[str, pa.Table],
        query: Query,
    ) -> Spool:
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
            with self._template.task("sql", self._limits.sql_memory_bytes) as task:
                task.allow(self._limits.sql_seconds)
                query.runs_in(task)
                try:
                    return self._ask(task, who, text, params, lent)
                except FeatureStoreError:
                    raise
                except (EOFError, ValueError, OSError) as error:
                    raise InvalidQuery(self._why(task)) from error
                finally:
                    query.runs_in(None)
        finally:
            self._places.release()

    def _why(self, task: Task) -> str:
        if task.killed == "its time is up":
            return (
                f"The query was stopped: it ran longer than {self._limits.sql_seconds:g} s. Ask "
                "for less at once."
            )
        if task.killed is not None:
            return f"The query was stopped: {task.killed}."
        return (
            "The query ended its process, most likely by taking more memory than the limit of "
            f"{self._limits.sql_memory_bytes:,} bytes. Ask for less at once."
        )

    def _ask(
        self, task: Task, who: Caller, text: str, params: Any, lent: Mapping[str, pa.Table]
    ) -> Spool:
        limits = self._limits
        asked = {"query": text, "params": params, "rows": limits.sql_rows}
        tell(task.to, asked | {"bytes": limits.sql_result_bytes})
        own = {name.lower() for name in lent}
        tables = json.loads(receive(task.of, _FACTS_BYTES_MAX))["tables"]
        names = {
            table for schema, table in tables if schema is not None or table.lower() not in own
        }
        latest = {table.lower() for schema, table in tables if schema == "latest"}
        with contextlib.ExitStack() as pinned:
            head, streams = self._sources(pinned, who, names, latest)
            tell(task.to, head | {"lent": list(lent)})
            for stream in [*streams, *map(_stream, lent.values())]:
                send(task.to, stream)
            task.to.flush()
            return self._received(task)

    def _received(self, task: Task) -> Spool:
        """Take the answer in, and whatever the process sends, no more than an answer may have."""
        spool = Spool()
        try:
            for piece in pieces(task.of, 2 * self._limits.sql_result_bytes + (1 << 20)):
                spool.write(piece)
        except BaseException:
            spool.close()
            raise
        return spool

    def _sources(
        self, pinned: contextlib.ExitStack, who: Caller, names: set[str], latest: set[str]
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Return what the query reads: a description, and tails and latest records as streams."""
        database = self._door.database
        spelled = {group.lower(): group for group in database.catalog().groups}
        exact = {name: spelled.get(name.lower(), name) for name in names}
        who.require("sql", exact.values())
        for name, group in exact.items():
            if name.lower() not in spelled:
                seen = [g for g in spelled.values() if who.may_verb("sql", g)]
                raise UnknownFeatureGroup(
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
        streams = []
        for group in exact.values():
            snapshot = found[group]
            streams.append(_stream(snapshot.tail))
            if group in wanted:
                require_online(snapshot.group)
                plan = Plan(snapshot.group, snapshot.key_hash)
                keys, records = snapshot.latest_keys, snapshot.latest_records
                streams.append(_stream(latest_table(plan, keys, records, now_us)))
        return {"root": str(database.root), "groups": groups}, streams


def _facts(snapshot: GroupSnapshot, *, latest: bool) -> dict[str, Any]:
    return {
        "group": snapshot.group.to_json(),
        "seq": snapshot.seq,
        "cut": snapshot.cut,
        "files": [asdict(entry) for entry in snapshot.files],
        "latest": latest,
    }


def _stream(table: pa.Table) -> bytes:
    return b"".join(arrow_stream({"": table}))


def read_params(params: Any) -> Any:
    """Return parameters of a query from JSON, checked to be a list or an object."""
    if params is not None and not isinstance(params, (list, dict)):
        raise InvalidQuery("params is an array for ? or an object for $name.")
    wire.from_exact(params)
    return params
