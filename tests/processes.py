"""What the processes of ``test_processes.py`` and of the survival campaigns do.

Several processes share nothing but the store's directory, and a folder of logs outside of it.  A
writer notes what it is about to send and what was acknowledged, each note one ``write`` to a file
opened for appending: a kill loses no note that was made, and leaves at most one request open.

==========  ====================================================================================
``write``   single puts, writes of two groups, deletes, and tables that are committed in slices of
            a staged file; every record carries a token used once in the world.  Now and then a
            put into ``fleeting``, which may be gone at that moment.  The heir of a killed writer
            first sends again what that one left open, under the same request id.
``load``    tables of hundreds of rows, each a staged file and many slices
``read``    one key after the other, both groups at once by SQL, and joins: what it sees never
            goes back, and never shows half of a write
``tidy``    flush and compact, over and over, beside the upkeep that runs in all of them; delete
            ``fleeting`` and create it again
==========  ====================================================================================

Clocks differ: each process's is some seconds off, one way or the other.  Sizes are small, and
files that nobody needs are removed at once, so that a few thousand rows see what millions would.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import featurestore as fs
from featurestore.engine import cleaner, compactor, staging, upkeep
from featurestore.engine import ingest as engine_ingest
from featurestore.storage import parquet

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = 20
PAIRED = KEYS
"""The key of all pairs: in both groups its records are the halves of the same writes."""
GROUPS = ("left", "right")
LASTING = {"put", "pair", "table", "delete"}
"""The ways of writing to them; a group that comes and goes keeps nothing that could be lost."""
START = datetime(2013, 1, 1, tzinfo=UTC)
SIZES: list[tuple[Any, str, float]] = [
    (engine_ingest, "JOURNAL_ROWS_MAX", 2),
    (staging, "SLICE_KEYS_MAX", 1),
    (parquet, "ROW_GROUP_ROWS", 2),
    (compactor, "WINDOW_ROWS", 1000),
    (compactor, "CELL_ROWS", 300),
    (cleaner, "GRACE_US", 0),
    (upkeep, "TICK_SECONDS", 0.01),
    (upkeep, "TAIL_ROWS", 30),
    (upkeep, "LOOSE_FILES", 4),
    (upkeep, "READERS_SECONDS", 0.1),
    (upkeep, "CLEAN_SECONDS", 0.2),
]
"""A table of three rows is large here, a window holds a thousand, what is removed is gone, and
upkeep, in every process that writes, has always something to do."""


@contextlib.contextmanager
def small() -> Iterator[None]:
    """Make few rows many, in this process, for the length of the block."""
    before = [(module, name, getattr(module, name)) for module, name, _ in SIZES]
    for module, name, size in SIZES:
        setattr(module, name, size)
    try:
        yield
    finally:
        for module, name, size in before:
            setattr(module, name, size)


def create_group(store: fs.FeatureStore, name: str) -> None:
    """Create one of the groups."""
    store.create_feature_group(
        name,
        record_identifier="k",
        event_time="t",
        features={"k": "int64", "t": "timestamp", "token": "int64", "pair": "bool"},
    )


def create(path: Path, durability: str | None = None) -> None:
    """Make the store with its groups."""
    with fs.open(path, durability=durability, upkeep=False) as store:
        for name in (*GROUPS, "fleeting"):
            create_group(store, name)


class Log:
    """An append-only file of JSON lines that survives a kill."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, **facts: Any) -> None:
        """Write one line, whole."""
        os.write(self._fd, json.dumps(facts).encode() + b"\n")


def notes(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log; nothing of one whose process died before it had any."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def left_open(path: Path | None) -> dict[str, Any] | None:
    """Return the request that a dead writer had sent and heard nothing of, if there is one."""
    last = notes(path)[-1:] if path is not None else []
    return last[0] if last and last[0].get("way") in LASTING and "sent" in last[0] else None


def record(k: int, seconds: int, token: int, *, pair: bool = False) -> dict[str, Any]:
    """Return a record as it is sent."""
    return {"k": k, "t": START + timedelta(seconds=seconds), "token": token, "pair": pair}


# ── roles ────────────────────────────────────────────────────────────────────────────────────


def write(store: fs.FeatureStore, log: Log, number: int, stop_at: float) -> None:
    """Write in every way there is until it is time; note what is sent, and what is acknowledged."""
    chance = random.Random(number)
    token = number * 10**9
    while time.monotonic() < stop_at:
        way = chance.choice(["put", "put", "put", "pair", "pair", "table", "delete", "fleeting"])
        count = {"pair": 2, "table": 5}.get(way, 1)
        tokens = list(range(token, token + count))
        token += count
        group = "fleeting" if way == "fleeting" else chance.choice(GROUPS)
        sent = [(chance.randrange(KEYS), chance.randrange(1000), t) for t in tokens]
        if way == "pair":
            sent = [(PAIRED, sent[0][1], t) for t in tokens]
        request = f"{number}/{token}"
        log.note(sent=tokens, way=way, group=group, records=sent, request=request)
        with contextlib.suppress(fs.UnknownFeatureGroup):  # of `fleeting`
            send(store, log, way, group, sent, request)


def load(store: fs.FeatureStore, log: Log, number: int, stop_at: float) -> None:
    """Ingest large tables until it is time, each in many slices."""
    chance = random.Random(number)
    token = number * 10**9
    while time.monotonic() < stop_at:
        tokens = list(range(token, token + chance.randrange(20, 300)))
        token += len(tokens)
        group, request = chance.choice(GROUPS), f"{number}/{token}"
        sent = [(chance.randrange(KEYS), chance.randrange(1000), t) for t in tokens]
        log.note(sent=tokens, way="table", group=group, records=sent, request=request)
        send(store, log, "table", group, sent, request)


def send(
    store: fs.FeatureStore, log: Log, way: str, group: str, sent: list[Any], request: str
) -> None:
    """Send one request, again while it is to be sent again, and note the acknowledgement."""
    records = [record(*values, pair=way == "pair") for values in sent]
    while True:
        try:
            results = _send(store, way, group, records, request)
        except fs.Unavailable:
            continue
        seqs, outcomes = [r.seq for r in results], [r.outcome for r in results]
        tokens = [token for _, _, token in sent]
        log.note(acknowledged=tokens, way=way, seqs=seqs, outcomes=outcomes)
        return


def _send(
    store: fs.FeatureStore, way: str, group: str, records: list[dict[str, Any]], request: str
) -> list[fs.PutResult]:
    if way == "table":
        store.ingest(group, records, id=request)
        return []
    if way == "pair":
        both = list(zip(GROUPS, records, strict=True))
        return store.write(both, request_id=request)
    [one] = records
    if way == "delete":
        return [store.delete_record(group, one["k"], event_time=one["t"], request_id=request)]
    return [store.put_record(group, one, request_id=request)]


def read(store: fs.FeatureStore, log: Log, number: int, stop_at: float) -> None:
    """Look from every side until it is time; note every answer that goes back or does not fit."""
    chance = random.Random(number)
    newest: dict[tuple[str, int], tuple[datetime, int]] = {}
    rows = seq = looks = 0
    while time.monotonic() < stop_at:
        looks += 1
        group, key = chance.choice(GROUPS), chance.randrange(KEYS)
        found = store.get_record(group, key, with_status=True)
        if found.event_time is not None:
            now = (found.event_time, found.write_seq)
            before = newest.get((group, key))
            if before is not None and now < before:
                log.note(fault=f"{group} {key} went from {before} back to {now}")
            newest[group, key] = now
        _look_at_a_pair(store, log)
        if looks % 20 == 0:
            rows, seq = _look_at_history(store, log, rows, seq)
        if looks % 30 == 0:
            _look_at_joins(store, log, newest)
    log.note(looks=looks, rows=rows, seq=seq)


def _look_at_a_pair(store: fs.FeatureStore, log: Log) -> None:
    """Read the newest pair: whatever its halves are, they are of one write."""
    found = store.batch_get_record({name: [PAIRED] for name in GROUPS}, ["token"])
    left, right = (found[name]["token"][0].as_py() for name in GROUPS)
    if (left is None) != (right is None) or (left is not None and left + 1 != right):
        log.note(fault=f"half a write is served: {left}, {right}")


def _look_at_history(store: fs.FeatureStore, log: Log, rows: int, seq: int) -> tuple[int, int]:
    """Read both histories in one query: one moment, no row twice, no half of a pair."""
    before = store.snapshot()
    [found] = store.sql("""
        WITH both_of AS (SELECT * FROM history.left UNION ALL SELECT * FROM history.right)
        SELECT count(*) AS n, count(DISTINCT write_seq) AS seqs, max(write_seq) AS newest,
               (SELECT count(*) FROM history.left WHERE pair) AS pairs_left,
               (SELECT count(*) FROM history.right WHERE pair) AS pairs_right
        FROM both_of
    """).to_pylist()
    newest = found["newest"] or 0
    if found["n"] != found["seqs"]:
        log.note(fault=f"{found['n']} rows have {found['seqs']} seqs")
    if found["pairs_left"] != found["pairs_right"]:
        log.note(fault=f"half a write is visible: {found}")
    if found["n"] < rows or newest < seq:
        log.note(fault=f"history shrank from {rows} rows, seq {seq}, to {found}")
    if newest > store.snapshot():
        log.note(fault=f"history ends at {newest}; the store stood at {before}")
    return found["n"], newest


def _look_at_joins(
    store: fs.FeatureStore, log: Log, newest: dict[tuple[str, int], tuple[datetime, int]]
) -> None:
    """Join every key at a moment after all events: nothing older than what was seen online."""
    for group in GROUPS:
        keys = [key for name, key in newest if name == group]
        labels = store.sql(
            "SELECT unnest($keys) AS k, $at AS event_time",
            {"keys": keys, "at": START + timedelta(days=1)},
        )
        joined = store.point_in_time(labels, [f"{group}:*"], with_status=True)
        for key, event_time in zip(
            joined["k"].to_pylist(), joined[f"{group}__event_time"].to_pylist(), strict=True
        ):
            if event_time is None or event_time < newest[group, key][0]:
                log.note(fault=f"join of {group} {key}: {event_time}, online {newest[group, key]}")


def tidy(store: fs.FeatureStore, log: Log, number: int, stop_at: float) -> None:
    """Flush and compact until it is time."""
    rounds = 0
    while time.monotonic() < stop_at:
        rounds += 1
        with contextlib.suppress(fs.StoreBusy):
            store.flush()
            if rounds % 3 == number % 3:
                store.compact()
        if rounds % 5 == 0:
            with contextlib.suppress(fs.UnknownFeatureGroup):
                store.delete_feature_group("fleeting")
            with contextlib.suppress(fs.FeatureGroupExists):
                create_group(store, "fleeting")
    log.note(rounds=rounds)


ROLES = {"write": write, "load": load, "read": read, "tidy": tidy}


def play(
    role: str, number: int, path: Path, log: Path, seconds: float, heir_of: Path | None = None
) -> None:
    """Play one role, after what a dead one left to be finished."""
    for module, name, size in SIZES:
        setattr(module, name, size)
    off_us = (number % 5 - 2) * 3_000_000
    notebook = Log(log)
    stop_at = time.monotonic() + seconds
    with fs.open(path, clock=lambda: time.time_ns() // 1000 + off_us) as store:
        request = left_open(heir_of)
        if request is not None:
            asked = (request[what] for what in ("way", "group", "records", "request"))
            send(store, notebook, *asked)
        ROLES[role](store, notebook, number, stop_at)


if __name__ == "__main__":  # ROLE NUMBER STORE LOG SECONDS
    play(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5]))
