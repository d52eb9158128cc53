"""Recorded histories: eight clients, one store, and a check that it behaves as one register a key.

::

    client ──► called ─ put / delete / get ─ returned ──► log
    client ──†                                            (open: may have happened, or not)
      heir ──► the same request again, under its id ──►   called when the dead one called it

Gets go every way there is: mostly by ``get_record``, now and then by SQL over history and over
``latest``, so that what is checked is online and offline at once: whatever was acknowledged is
seen, by everybody, at once and for good (``linear.py``).  Beside them others flush, compact and
clean up, and some of the clients are killed.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import featurestore as fs
from tests.model import micros
from tests.processes import SIZES, START, Log, create, notes, play, record
from tests.small_world import fresh_folder
from tests.survival import plants
from tests.survival.judge import Broken
from tests.survival.kills import children
from tests.survival.linear import DELETED, Op, is_linearizable, shortest_bad

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = 8
KEYS = 64
#: One in so many gets goes through SQL, which takes a hundred times as long.
BY_SQL = 200
KILL_EVERY_SECONDS = 0.5
OPS_OF_A_WORLD = 25_000


def client(path: Path, log: Path, number: int, ops: int, heir_of: Path | None) -> None:
    """Put, delete and get until it was enough; note when each was called and returned."""
    for module, name, size in SIZES:
        setattr(module, name, size)
    notebook = Log(log)
    chance = random.Random(number)
    with fs.open(path) as store:
        left = notes(heir_of)[-1:] if heir_of is not None else []
        if left and "at" not in left[0]:
            one = left[0]
            _write(store, notebook, one["key"], one["time"], one["value"], one["number"])
        for op in range(ops):
            key = chance.randrange(KEYS)
            if chance.random() < 0.5:
                called = time.monotonic()
                answer = _get(store, key, chance.randrange(BY_SQL))
                notebook.note(key=key, called=called, at=time.monotonic(), state=answer)
                continue
            value = DELETED if chance.random() < 0.1 else number * 10**7 + op
            event_time = chance.randrange(1000)
            call = {"number": number * 10**7 + op, "called": time.monotonic()}
            notebook.note(key=key, time=event_time, value=value, **call)
            _write(store, notebook, key, event_time, value, call["number"])


def _write(
    store: fs.FeatureStore, log: Log, key: int, event_time: int, value: int, number: int
) -> None:
    one = record(key, event_time, value)
    how: dict[str, Any] = {"request_id": str(number)}
    while True:
        with contextlib.suppress(fs.Unavailable):
            if value == DELETED:
                result = store.delete_record("left", key, event_time=one["t"], **how)
            else:
                result = store.put_record("left", one, **how)
            break
    log.note(number=number, at=time.monotonic(), outcome=result.outcome)


def _get(store: fs.FeatureStore, key: int, way: int) -> tuple[int, int] | None:
    if way == 0:
        rows = store.sql(
            "SELECT t, token, is_deleted FROM history.left WHERE k = ? "
            "ORDER BY t DESC, write_seq DESC LIMIT 1",
            [key],
        ).to_pylist()
        if not rows:
            return None
        return _seconds(rows[0]["t"]), DELETED if rows[0]["is_deleted"] else rows[0]["token"]
    found = store.get_record("left", key, with_status=True)
    if found.event_time is None:
        return None
    token = DELETED if found.record is None else found.record["token"]
    return _seconds(found.event_time), token


def _seconds(moment: Any) -> int:
    return (micros(moment) - micros(START)) // 1_000_000


# ── what was recorded ────────────────────────────────────────────────────────────────────────


def by_key(logs: list[list[dict[str, Any]]]) -> dict[int, list[Op]]:
    """Return the history of each key from the clients' logs."""
    returned = {note["number"]: note for log in logs for note in log if "outcome" in note}
    histories: dict[int, list[Op]] = {}
    for note in (note for log in logs for note in log if "called" in note):
        ops = histories.setdefault(note["key"], [])
        if "state" in note:
            state = None if note["state"] is None else tuple(note["state"])
            ops.append(Op(note["called"], note["at"], answer=state, is_get=True))
            continue
        end = returned.get(note["number"])
        # The delete of what is deleted at that time already changes nothing, and moves nothing.
        answer = None if end is None or end["outcome"] == "unchanged" else end["outcome"]
        at = math.inf if end is None else end["at"]
        ops.append(Op(note["called"], at, note["time"], note["value"], answer))
    return histories


def check(histories: dict[int, list[Op]]) -> int:
    """Fail unless every key's history is linearizable; returns operations."""
    for key, history in histories.items():
        if not is_linearizable(history):
            shown = "\n".join(map(str, shortest_bad(history)[-8:]))
            raise Broken(f"key {key} is not linearizable; the last operations:\n{shown}")
    return sum(map(len, histories.values()))


# ── the campaign ─────────────────────────────────────────────────────────────────────────────


def _start(said: Path, plant: str | None, do: Callable[..., None], *args: Any) -> Any:
    process = children.Process(target=_run, args=(said, plant, do, *args), daemon=True)
    process.start()
    return process


def _run(said: Path, plant: str | None, do: Callable[..., None], *args: Any) -> None:
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    if plant:
        plants.sow(plant)
    do(*args)


def _alive(clients: list[tuple[Any, Path]], said: Path) -> list[tuple[Any, Path]]:
    """Return the clients that are not done; none may have ended in any other way."""
    if any(process.exitcode for process, _ in clients):
        raise Broken(f"a client ended: {said.read_text()[-600:]}")
    return [(process, log) for process, log in clients if process.is_alive()]


def live(
    folder: Path, seed: int, ops: int, *, kill: bool = True, plant: str | None = None
) -> tuple[dict[int, list[Op]], int]:
    """Record one world; returns the histories by key, and how many clients were killed."""
    chance = random.Random(seed)
    store = folder / "store"
    create(store, "strict" if seed % 2 else "rebuildable")
    said = folder / "errors"
    tidy = _start(said, None, play, "tidy", 1, store, folder / "tidy.log", 3600.0)
    logs: list[Path] = []

    def begin(heir_of: Path | None = None) -> tuple[Any, Path]:
        log = folder / f"client-{len(logs)}.log"
        logs.append(log)
        number = seed * 1000 + len(logs)
        return _start(said, plant, client, store, log, number, ops // CLIENTS, heir_of), log

    living = [begin() for _ in range(CLIENTS)]
    kills = 0
    try:
        while living:
            time.sleep(chance.uniform(0, 2 * KILL_EVERY_SECONDS))
            living = _alive(living, said)
            recorded = sum(log.stat().st_size for log in logs if log.exists())
            if kill and living and recorded < ops * 100:
                process, log = living.pop(chance.randrange(len(living)))
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
                living.append(begin(log if chance.random() < 0.7 else None))
    finally:
        for process, _ in [*living, (tidy, None)]:
            process.kill()
            process.join()
            process.close()
    histories = by_key([notes(log) for log in logs])
    with fs.open(store, upkeep=False) as last:
        for key, history in histories.items():
            called = time.monotonic()
            for way in (0, 1):
                state = _get(last, key, way)
                history.append(Op(called, time.monotonic(), answer=state, is_get=True))
        faults = last.verify()
        if faults:
            raise Broken(f"verify: {faults[:3]}")
    return histories, kills


def campaign(count: int, seed: int, plant: str | None = None) -> str:
    """Record and check so many operations."""
    started = time.monotonic()
    done = kills = worlds = keys = 0
    while done < count:
        with fresh_folder() as folder:
            try:
                ops = min(OPS_OF_A_WORLD, count - done)
                histories, killed = live(folder, seed + worlds, ops, plant=plant)
                done += check(histories)
            except Broken as broken:
                raise Broken(f"seed {seed + worlds}: {broken}") from broken
        kills, worlds, keys = kills + killed, worlds + 1, keys + len(histories)
    return (
        f"{done:,} operations of {CLIENTS} clients on {keys} keys, {kills} of the clients killed, "
        f"from seed {seed}, {time.monotonic() - started:.0f} s: every key linearizable"
    )
