"""Power cuts: ext4 in a loop device, and the ioctl by which a file system dies at once.

::

    /dev/shm/….img ── loop ── ext4 ── store       writers, loaders, tidiers work on it
                                │                 logs of acknowledgements lie elsewhere
                     EXT4_IOC_SHUTDOWN, flag 2    nothing more reaches the disk, nor its journal
                                │
                     umount, mount: as the machine would come up again; then the judge

It is the campaign that finds a missing fsync: a kill leaves the page cache, a cut does not.  What
each durability may lose is stated, and held to:

===============  ===================================================================================
``strict``       nothing that was acknowledged
``relaxed``      writes that were acknowledged in the queue, less than 100 ms before the cut, and
                 with each of them all that its writer sent later; never one out of the middle
``rebuildable``  everything; what is left of the store is sound, or refused, or to be deleted
===============  ===================================================================================

Needs root and loop devices (:func:`reason_not_to` says which is missing).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import featurestore as fs
from tests.processes import Log, create, record
from tests.survival import kills, plain, plants
from tests.survival.judge import Broken, judge

if TYPE_CHECKING:
    from types import TracebackType

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
DISK_BYTES = 256 << 20
#: Cuts that one store lives through.
CUTS_OF_A_STORE = 3
RELAXED_WINDOW_SECONDS = 0.1
_DISK_DIES = ("Input/output error", "OutcomeUnknown")


class Disk:
    """A disk of its own, whose power can be cut."""

    def __init__(self, bytes_in_all: int = DISK_BYTES) -> None:
        self._bytes = bytes_in_all
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="featurestore-power-", dir=memory))
        self._image = self._folder / "disk.img"
        self.path = self._folder / "mounted"
        self.path.mkdir()

    def __enter__(self) -> Self:
        with self._image.open("wb") as image:
            image.truncate(self._bytes)
        try:
            _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
            self._mount()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unmount()
        shutil.rmtree(self._folder)

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.path))

    def _unmount(self) -> None:
        for _ in range(100):  # the last of the dead may still be on their way out
            with contextlib.suppress(subprocess.CalledProcessError):
                return _run("umount", str(self.path))
            time.sleep(0.05)
        return _run("umount", "-l", str(self.path))

    def cut(self) -> float:
        """Cut the power; returns when that was."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            now = time.monotonic()
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)
        return now

    def come_back(self) -> None:
        """Start the machine again."""
        self._unmount()
        self._mount()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def reason_not_to() -> str | None:
    """Return why power cannot be cut here; None if it can."""
    if os.name != "posix" or sys.platform != "linux" or os.geteuid() != 0:
        return "power cuts need Linux and root: a file system is mounted and shut down"
    try:
        with Disk() as disk:
            disk.cut()
            disk.come_back()
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or str(error)
        return f"power cuts need ext4 on a loop device: {why.strip()}"
    return None


# ── strict ───────────────────────────────────────────────────────────────────────────────────


def strict(seed: int, plant: str | None = None) -> tuple[int, int]:
    """Cut the power under one store a few times; returns cuts and acknowledged requests."""
    chance = random.Random(seed)
    with Disk() as disk, _logs() as logs:
        if plant:
            plants.sow(plant)  # of the process that makes the store; only in a process of its own
        create(disk.path / "store")
        world = _World(logs, chance, plant, at=disk.path / "store")
        acknowledged = 0
        for _ in range(CUTS_OF_A_STORE):
            for role in ("write", "write", "load", "tidy"):
                world.begin(role)
            world.until_told()
            time.sleep(chance.uniform(0.0, 1.0))
            disk.cut()
            world.end()
            disk.come_back()
            acknowledged = judge(world.store, world.notes())
        return CUTS_OF_A_STORE, acknowledged


class _World(kills.World):
    """A world whose store and logs lie on different disks."""

    def __init__(self, logs: Path, chance: random.Random, plant: str | None, at: Path) -> None:
        super().__init__(logs, chance, plant)
        self._at = at

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self._at

    def until_told(self) -> None:
        """Wait until one of those who live was told that something is done, or all are gone."""
        while any(process.is_alive() for _, process, _ in self.living):
            logs = [log for _, _, log in self.living if log.exists()]
            if any(b'"acknowledged"' in log.read_bytes() for log in logs):
                return
            time.sleep(0.01)

    def end(self) -> None:
        """End everybody; most have met an error of the disk by now."""
        for _, process, _ in self.living:
            process.kill()
            process.join()
            process.close()
        self.living = []


@contextlib.contextmanager
def _logs() -> Any:
    folder = Path(tempfile.mkdtemp(prefix="featurestore-logs-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# ── relaxed and rebuildable ──────────────────────────────────────────────────────────────────


def hasten(path: Path, log: Path) -> None:
    """Put records without waiting for anything; note each when it is acknowledged."""
    notebook = Log(log)
    # What it says when its disk is gone is of no interest.
    os.dup2(os.open(log.with_suffix(".err"), os.O_WRONLY | os.O_CREAT, 0o644), 2)
    with fs.open(path) as store:
        token = 0
        while True:
            store.put_record("left", record(token % 50, token, token))
            notebook.note(token=token, at=time.monotonic())
            token += 1


def other(seed: int, durability: str) -> tuple[str, float]:
    """Cut the power once under a store that does not sync each write.

    Returns
    -------
    state : str
        ``"sound"``, or ``"gone"``.
    seconds : float
        How long before the cut the oldest write was acknowledged that is lost.
    """
    chance = random.Random(seed)
    with Disk() as disk, _logs() as logs:
        store = disk.path / "store"
        create(store, durability)
        os.sync()  # it has been there for a while
        child = kills.children.Process(target=hasten, args=(store, logs / "log"), daemon=True)
        child.start()
        while not (logs / "log").exists():
            time.sleep(0.01)
        time.sleep(chance.uniform(0.2, 1.0))
        cut_at = disk.cut()
        child.kill()
        child.join()
        disk.come_back()
        looked = subprocess.run(
            [sys.executable, "-m", "tests.survival.cuts", str(store)],
            check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        from tests.processes import notes

        told = {note["token"]: note["at"] for note in notes(logs / "log")}
        if looked.returncode:
            if durability != "rebuildable":
                raise Broken(f"{durability}: {looked.stderr[-500:]}")
            shutil.rmtree(store)  # which is all that is promised: it can be made again
            create(store, durability)
            return "gone", cut_at - told[0]
        kept = int(looked.stdout)
        lost = [at for token, at in told.items() if token >= kept]
        return "sound", cut_at - min(lost) if lost else 0.0


def look(path: Path) -> int:
    """Return how many records of `hasten` are there, if the store is sound and has no gap."""
    rows = plain.contents(path).history["left"]
    tokens = [row.values[0] for row in rows]
    assert tokens == list(range(len(tokens))), "a write is gone out of the middle"
    with fs.open(path) as store:
        assert store.verify() == []
        assert store.sql("SELECT count(*) n FROM history.left").to_pylist() == [{"n": len(rows)}]
    return len(tokens)


# ── the campaign ─────────────────────────────────────────────────────────────────────────────


def campaign(count: int, seed: int, plant: str | None = None) -> str:
    """Cut the power so many times under strict stores, and a fifth as often under the others."""
    reason = reason_not_to()
    if reason:
        raise SystemExit(reason)
    started = time.monotonic()
    done = acknowledged = stores = 0
    while done < count:
        try:
            cuts, told = strict(seed + stores, plant)
        except Broken as broken:
            raise Broken(f"seed {seed + stores}: {broken}") from broken
        done, acknowledged, stores = done + cuts, acknowledged + told, stores + 1
    said = f"{done} cuts, strict, {acknowledged:,} requests acknowledged: none lost"
    if plant is None:
        relaxed = [other(seed + n, "relaxed")[1] for n in range(-(-count // 5))]
        said += f"; {len(relaxed)} cuts, relaxed: up to {max(relaxed) * 1000:.0f} ms lost, no gap"
        rebuildable = [other(seed + n, "rebuildable")[0] for n in range(-(-count // 5))]
        sound = rebuildable.count("sound")
        said += f"; {len(rebuildable)} cuts, rebuildable: {sound} sound, the others made again"
        if max(relaxed) > RELAXED_WINDOW_SECONDS:
            raise Broken(f"relaxed lost {max(relaxed) * 1000:.0f} ms of writes. {said}")
    return f"{said}; from seed {seed}, {time.monotonic() - started:.0f} s"


if __name__ == "__main__":  # looks at a store that may be broken, in a process that may be
    print(look(Path(sys.argv[1])))
