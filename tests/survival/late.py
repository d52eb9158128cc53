"""Those who wake up late: stopped in the middle of their work, taken for dead, and let go again.

::

    flusher    ── copies the tail, writes a file ── SIGSTOP …………………………………… SIGCONT ── lists it?
    others                                           │ write, flush, compact, clean │
                                                     the tail is in their file by now

Whoever is stopped holds a lock, and nothing would happen meanwhile: that is the first of the two
ways in which each is tried.  In the second the lock is taken from under it (its file is removed, as
a lease would run out), so that two work at once on the same rows; and its owner file too, so that
the cleaner takes its intents for those of the dead.  No lock is needed to be right: the commit of
each checks that the world is as it was.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import featurestore as fs
from featurestore.storage import seam
from tests.processes import SIZES, Log, create, notes, record, small
from tests.small_world import fresh_folder
from tests.survival import plants
from tests.survival.judge import Broken, judge
from tests.survival.kills import children

if TYPE_CHECKING:
    from pathlib import Path

#: Who is stopped, and where.
PLACES = [
    ("flush", "flush.read"),
    ("flush", "file.intended"),
    ("flush", "parquet"),
    ("flush", "flush.written"),
    ("flush", "flush.listed"),
    ("compact", "file.intended"),
    ("compact", "compact.written"),
    ("compact", "compact.listed"),
    ("compact", "clean.removed"),
    ("ingest", "file.intended"),
    ("ingest", "ingest.staged"),
    ("ingest", "ingest.slice"),
]


def work(path: Path, log: Path, verb: str, place: str, plant: str | None) -> None:
    """Do one thing, and be stopped in the middle of it."""
    if plant:
        plants.sow(plant)
    for module, name, size in SIZES:
        setattr(module, name, size)
    notebook = Log(log)
    with fs.open(path, upkeep=False) as store:
        seam.on_call = seam.Fault(place, "stop", 1)
        try:
            if verb == "ingest":
                _ingest(store, notebook)
            else:
                getattr(store, verb)()
        except (fs.Unavailable, fs.UnknownFeatureGroup) as refusal:
            notebook.note(refused=str(refusal))
        finally:
            seam.on_call = None


def _ingest(store: fs.FeatureStore, log: Log) -> None:
    """Ingest the same table, whoever does it."""
    sent = [(n % 7, n, 500_000 + n) for n in range(30)]
    tokens = [token for _, _, token in sent]
    log.note(sent=tokens, way="table", group="left", records=sent, request="the same")
    store.ingest("left", [record(*one) for one in sent], id="the same")
    log.note(acknowledged=tokens, way="table", seqs=[], outcomes=[])


def _put(store: fs.FeatureStore, log: Log, first: int) -> None:
    for n in range(first, first + 12):
        group = ("left", "right")[n % 2]
        sent = [(n % 7, n % 5, n)]
        log.note(sent=[n], way="put", group=group, records=sent, request=str(n))
        result = store.put_record(group, record(*sent[0]), request_id=str(n))
        log.note(acknowledged=[n], way="put", seqs=[result.seq], outcomes=[result.outcome])


def wake_late(folder: Path, verb: str, place: str, *, alone: bool, plant: str | None = None) -> int:
    """Stop one in the middle, let others do the same work, wake it; returns what was held up."""
    path, log = folder / "store", Log(folder / "others.log")
    create(path)
    with small(), fs.open(path, upkeep=False) as store:
        for round_of in range(3):
            _put(store, log, 100 * round_of)
            if round_of < 2:
                store.flush()
    child = children.Process(target=work, args=(path, folder / "late.log", verb, place, plant))
    child.start()
    assert child.pid is not None
    try:
        _until_stopped(child)
        with small(), fs.open(path, upkeep=False) as store:
            _put(store, log, 1000)
            if not alone:
                for lock in [*(path / "locks").glob("owner-*"),
                             path / "locks" / "flush", path / "locks" / "compact"]:  # fmt: skip
                    lock.unlink(missing_ok=True)
                if verb == "ingest":
                    _same_ingest(store, log)
                store.flush()
                _put(store, log, 2000)
                store.flush()
                store.compact()
            _put(store, log, 3000)
        os.kill(child.pid, signal.SIGCONT)
        child.join(60)
        if child.exitcode:
            raise Broken(f"it ended with {child.exitcode}")
    finally:
        child.kill()
        child.join()
    with fs.open(path, upkeep=False) as store:
        faults = store.verify()
        if faults:
            raise Broken(f"verify: {faults[:3]}")
    return judge(path, notes(folder / "others.log") + notes(folder / "late.log"))


def _same_ingest(store: fs.FeatureStore, log: Log) -> None:
    try:
        _ingest(store, log)
    except fs.Unavailable as busy:  # it is told that another has it, and may ask again
        log.note(refused=str(busy))


def _until_stopped(child: Any) -> None:
    for _ in range(6000):
        state = _state(child.pid)
        if state == "T":
            return
        if state in {"Z", ""}:
            raise Broken("it ended before it came to its place")
        time.sleep(0.005)
    raise Broken("it never came to its place")


def _state(pid: int) -> str:
    """Return the letter by which the kernel tells what a process does."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def campaign(count: int, seed: int, plant: str | None = None) -> str:
    """Stop and wake so often, at one place after the other."""
    started = time.monotonic()
    chosen = [(verb, place, alone) for verb, place in PLACES for alone in (True, False)]
    random.Random(seed).shuffle(chosen)
    for verb, place, alone in chosen[:count]:
        with fresh_folder() as folder:
            try:
                wake_late(folder, verb, place, alone=alone, plant=plant)
            except (AssertionError, fs.FeatureStoreError, OSError) as error:
                how = "with its lock" if alone else "without its lock"
                raise Broken(f"{verb} stopped at {place}, {how}: {error!r}") from error
    return (
        f"{min(count, len(chosen))} of {len(chosen)} ways to wake up late (seed {seed}), "
        f"{time.monotonic() - started:.0f} s: no harm done"
    )
