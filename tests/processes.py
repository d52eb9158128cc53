"""What the processes of ``test_processes.py`` do; each is ``python -m tests.processes ROLE ...``.

Several processes share nothing but the store's directory, and a folder of logs outside of it.  A
writer notes what it is about to send and what was acknowledged, each note one ``write`` to a file
opened for appending: a kill loses no note that was made, and leaves at most one request open.

==========  ====================================================================================
``write``   single puts, writes of two groups, small tables, deletes; every record carries a
            token used once in the world
``read``    one key after the other, and both groups at once: what it sees never goes back, and
            never shows half of a write
``tidy``    flush and compact, over and over
==========  ====================================================================================
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import featurestore as fs

KEYS = 20
GROUPS = ("left", "right")
START = datetime(2013, 1, 1, tzinfo=UTC)


def create(path: Path, **options: Any) -> None:
    """Make the store with its two groups."""
    with fs.open(path, **options) as store:
        for name in GROUPS:
            store.create_feature_group(
                name,
                record_identifier="k",
                event_time="t",
                features={"k": "int64", "t": "timestamp", "token": "int64", "pair": "bool"},
            )


class Log:
    """An append-only file of JSON lines that survives a kill."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, **facts: Any) -> None:
        """Write one line, whole."""
        os.write(self._fd, json.dumps(facts).encode() + b"\n")


def notes(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


# ── roles ────────────────────────────────────────────────────────────────────────────────────


def write(path: Path, log: Log, number: int, seconds: float) -> None:
    """Write in every way there is until it is time; note what is sent, and what is acknowledged."""
    chance = random.Random(number)
    token = number * 10**9
    with fs.open(path) as store:
        stop_at = time.monotonic() + seconds
        while time.monotonic() < stop_at:
            way = chance.choice(["put", "put", "pair", "table", "delete"])
            count = {"put": 1, "delete": 1, "pair": 2, "table": 5}[way]
            tokens = list(range(token, token + count))
            token += count
            records = [_record(chance, t, pair=way == "pair") for t in tokens]
            group = chance.choice(GROUPS)
            log.note(sent=tokens, way=way)
            while True:
                try:
                    seqs = _send(store, way, group, records, f"{number}/{token}")
                except fs.StoreBusy:
                    continue  # the same request id: at most once
                break
            log.note(acknowledged=tokens, way=way, seqs=seqs)


def _record(chance: random.Random, token: int, *, pair: bool) -> dict[str, Any]:
    at = START + timedelta(seconds=chance.randrange(1000))
    return {"k": chance.randrange(KEYS), "t": at, "token": token, "pair": pair}


def _send(
    store: fs.FeatureStore, way: str, group: str, records: list[dict[str, Any]], request_id: str
) -> list[int]:
    """Send one request; returns the seqs that were told, none for a table."""
    if way == "table":
        store.ingest(group, records, id=request_id)
        return []
    if way == "pair":
        both = list(zip(GROUPS, records, strict=True))
        return [result.seq for result in store.write(both, request_id=request_id)]
    [record] = records
    if way == "delete":
        deleted = store.delete_record(
            group, record["k"], event_time=record["t"], request_id=request_id
        )
        return [deleted.seq]
    return [store.put_record(group, record, request_id=request_id).seq]


def read(path: Path, log: Log, number: int, seconds: float) -> None:
    """Look from every side until it is time; note every answer that goes back or does not fit."""
    chance = random.Random(number)
    newest: dict[tuple[str, int], tuple[datetime, int]] = {}
    rows = seq = looks = 0
    with fs.open(path) as store:
        stop_at = time.monotonic() + seconds
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
            if looks % 20 == 0:
                rows, seq = _look_at_history(store, log, rows, seq)
    log.note(looks=looks, rows=rows, seq=seq)


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
    if not before <= newest <= store.snapshot():
        log.note(fault=f"history ends at {newest}; the store stood at {before}")
    return found["n"], newest


def tidy(path: Path, log: Log, number: int, seconds: float) -> None:
    """Flush and compact until it is time."""
    rounds = 0
    with fs.open(path) as store:
        stop_at = time.monotonic() + seconds
        while time.monotonic() < stop_at:
            rounds += 1
            try:
                store.flush()
                if rounds % 3 == number % 3:
                    store.compact()
            except fs.StoreBusy:
                continue
    log.note(rounds=rounds)


ROLES = {"write": write, "read": read, "tidy": tidy}


def main() -> None:
    """Play one role: ``ROLE NUMBER STORE LOG SECONDS``."""
    role, number, store, log, seconds = sys.argv[1:]
    ROLES[role](Path(store), Log(Path(log)), int(number), float(seconds))


if __name__ == "__main__":
    main()
