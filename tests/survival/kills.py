"""Kill -9, a thousand times: several writers, loaders, tidiers and readers, and nothing lost.

::

    lives:  writer ──†  writer (heir: finishes what that one left open) ──†  writer …
            loader ────────†  loader …          each † is SIGKILL, after 0 to 0.3 s of life,
            tidier ─†  tidier …                 so some die while they open the store
            reader ─────†  reader …             and now and then all die at once

A *world* is a store of one durability and hash, with fifty kills; then everybody is killed, and the
judge looks.  Every writer of a world names a request id with each write, so that also a ``relaxed``
store acknowledges after the commit.  Everything random comes from the world's seed, except when the
kernel lets a process run.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.processes import create, notes, play
from tests.small_world import fresh_folder
from tests.survival import plants
from tests.survival.judge import Broken, judge

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

ROLES = ("write", "write", "load", "tidy", "read")
KILLS_OF_A_WORLD = 50
LIFE_SECONDS = 0.3
ALL_AT_ONCE = 0.1
FOREVER = 3600.0

children = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(["tests.survival.warm"])


def _play(plant: str | None, said: Path, *part: Any) -> None:
    # Of what it dies is told on a paper of its own: a disk that is gone makes many words.
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    if plant:
        plants.sow(plant)
    play(*part)


@dataclass
class World:
    """The processes on one store, and their logs."""

    folder: Path
    chance: random.Random
    plant: str | None = None
    lives: int = 0
    kills: int = 0
    living: list[tuple[str, BaseProcess, Path]] = field(default_factory=list)

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.folder / "store"

    def begin(self, role: str, heir_of: Path | None = None) -> None:
        """Start a life."""
        self.lives += 1
        log = self.folder / f"{role}-{self.lives}.log"
        part = (role, self.lives, self.store, log, FOREVER, heir_of)
        said = self.folder / f"{role}-{self.lives}.err"
        process = children.Process(target=_play, args=(self.plant, said, *part), daemon=True)
        process.start()
        self.living.append((role, process, log))

    def kill(self, count: int) -> list[tuple[str, Path]]:
        """Kill some of those that live, all together."""
        self.chance.shuffle(self.living)
        dying, self.living = self.living[:count], self.living[count:]
        for _, process, log in dying:
            if not process.is_alive():
                said = log.with_suffix(".err").read_text()[-600:]
                raise Broken(f"a process ended by itself, with {process.exitcode}: {said}")
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        for _, process, _ in dying:
            process.join()
            process.close()
        self.kills += len(dying)
        return [(role, log) for role, _, log in dying]

    def notes(self, role: str = "*") -> list[dict[str, Any]]:
        """Return everything in the logs."""
        return [note for path in sorted(self.folder.glob(f"{role}-*.log")) for note in notes(path)]


def live(folder: Path, seed: int, kills: int, plant: str | None = None) -> tuple[int, int]:
    """Live through one world; returns kills and acknowledged requests."""
    world = World(folder, random.Random(seed), plant)
    durability = ("strict", "rebuildable", "relaxed")[seed % 3]
    os.environ["FEATURESTORE_KEY_HASH_BITS"] = "2" if seed % 4 == 3 else "64"
    try:
        create(world.store, durability)
    finally:
        del os.environ["FEATURESTORE_KEY_HASH_BITS"]
    for role in ROLES:
        world.begin(role)
    try:
        while world.kills < kills:
            time.sleep(world.chance.uniform(0.0, LIFE_SECONDS))
            all_at_once = world.chance.random() < ALL_AT_ONCE
            for role, log in world.kill(len(ROLES) if all_at_once else 1):
                # Every other request that was left open is never sent again.
                heir_of = log if role in {"write", "load"} and world.chance.random() < 0.5 else None
                world.begin(role, heir_of)
    finally:
        last = len(world.living)
        world.kill(last)
    faults = [note["fault"] for note in world.notes("read") if "fault" in note]
    if faults:
        raise Broken(f"a reader saw: {faults[0]} ({len(faults)} in all)")
    return world.kills, judge(world.store, world.notes())


def campaign(kills: int, seed: int, plant: str | None = None) -> str:
    """Kill so many processes; returns what to say of it."""
    done = acknowledged = worlds = 0
    started = time.monotonic()
    while done < kills:
        with fresh_folder() as folder:
            count = min(KILLS_OF_A_WORLD, kills - done) - len(ROLES)
            try:
                some, told = live(folder, seed + worlds, max(1, count), plant)
            except Broken as broken:
                raise Broken(f"seed {seed + worlds}: {broken}") from broken
        done += some
        acknowledged += told
        worlds += 1
    return (
        f"{done} kills in {worlds} worlds from seed {seed}, {acknowledged:,} requests acknowledged,"
        f" {time.monotonic() - started:.0f} s: none lost, doubled or torn"
    )
