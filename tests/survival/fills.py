"""Everything that can be full: clear errors, reads go on, and so does all else when there is room.

===============  ===================================================================================
``disk``         a tmpfs, filled by somebody else down to what the reserve keeps
``last-byte``    the same, to the last byte: the commit itself finds no room
``ext4``         a small ext4 on a loop device, to the last byte
``inodes``       a tmpfs with no inode left: no history file, no lock file can be made
``quota``        the store's own
``readers``      every slot of LMDB's reader table taken, by the living and by the dead
``descriptors``  none left in the process
===============  ===================================================================================

Each goes the same way: write until refused, flush, ingest and look while it is full, make room, and
go on *in the same process, without a reopen*; then the bytes are held to what was acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb

import featurestore as fs
from featurestore.storage import environment
from tests.processes import START, create, record
from tests.survival import plain
from tests.survival.judge import Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    #: Fill something up; returns what makes room again.
    Filling = Callable[[fs.FeatureStore, Path], Callable[[], None]]

WRITES_MAX = 20_000
_DISK = "24m"


class Unable(Exception):
    """Something that cannot be filled here."""


def _require(holds: object, sentence: str) -> None:
    if not holds:
        raise Broken(sentence)


class Filled:
    """A store that is written to while there is no room, and what it was told."""

    def __init__(self, store: fs.FeatureStore, seed: int) -> None:
        self.store = store
        self.chance = random.Random(seed)
        self.acknowledged: dict[int, int] = {}
        self.refusals: list[fs.FeatureStoreError] = []
        self._token = 0

    def write(self) -> bool:
        """Write once, in one way or another; returns whether it was accepted."""
        token, self._token = self._token, self._token + 10
        way = self.chance.choice(["put", "put", "pair", "table"])
        try:
            if way == "put":
                seqs = [self.store.put_record("left", record(token % 7, token % 1000, token)).seq]
            elif way == "pair":
                one, two = record(8, token % 1000, token), record(8, token % 1000, token + 1)
                seqs = [r.seq for r in self.store.write([("left", one), ("right", two)])]
            else:
                rows = [record(n, token % 1000, token + n) for n in range(5)]
                self.store.ingest("right", rows)
                seqs = [-1] * 5
        except (fs.StoreFull, fs.Unavailable) as error:
            self.refusals.append(error)
            return False
        self.acknowledged |= {token + n: seq for n, seq in enumerate(seqs)}
        return True

    def until_refused(self, times: int = 3) -> None:
        """Write until it has been refused a few times."""
        for _ in range(WRITES_MAX):
            if not self.write() and len(self.refusals) >= times:
                return
        raise Broken("it was never full")

    def look(self) -> None:
        """Read from every side: it goes on, whatever is full."""
        for token in self.chance.sample(sorted(self.acknowledged), 3):
            self.store.get_record("left", token % 7)
        known = {
            row["token"]
            for group in ("left", "right")
            for row in self.store.sql(f"SELECT token FROM history.{group}").to_pylist()
        }
        missing = self.acknowledged.keys() - known
        _require(not missing, f"acknowledged and not to be seen: {sorted(missing)[:3]}")


def _go_on(filled: Filled, path: Path) -> None:
    before = len(filled.refusals)
    for _ in range(10):
        _require(filled.write(), f"there is room, and still: {filled.refusals[-1:]}")
    _require(len(filled.refusals) == before, "refused with room")
    filled.store.flush()
    filled.store.compact()
    filled.look()
    _require(not (f := filled.store.verify()), f"verify: {f[:3]}")
    filled.store.close()
    found = plain.contents(path)
    tokens = {row.values[0]: row.seq for group in ("left", "right") for row in found.history[group]}
    for token, seq in filled.acknowledged.items():
        _require(tokens.get(token) == seq or (seq == -1 and token in tokens), f"{token} is lost")
    rows = sum(len(found.history[group]) for group in ("left", "right"))
    _require(len(tokens) == rows, "a record is there twice")
    strange = tokens.keys() - filled.acknowledged.keys()
    _require(not strange, f"refused, and there all the same: {sorted(strange)[:3]}")


# ── what is filled ───────────────────────────────────────────────────────────────────────────


def _ballast(folder: Path, spare: int) -> Callable[[], None]:
    path = folder / "ballast"
    with contextlib.suppress(OSError), path.open("wb") as file:
        disk = os.statvfs(folder)
        while spare == 0 or disk.f_bavail * disk.f_frsize > spare:
            file.write(bytes(1 << 12))
            file.flush()
            disk = os.statvfs(folder)
    return path.unlink


def _disk(_: fs.FeatureStore, path: Path) -> Callable[[], None]:
    return _ballast(path.parent, 3 << 20)


def _last_byte(_: fs.FeatureStore, path: Path) -> Callable[[], None]:
    return _ballast(path.parent, 0)


def _inodes(_: fs.FeatureStore, path: Path) -> Callable[[], None]:
    taken = path.parent / "taken"
    taken.mkdir()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (taken / str(number)).touch()
    return lambda: shutil.rmtree(taken)


def _quota(store: fs.FeatureStore, _: Path) -> Callable[[], None]:
    return lambda: store.flush() and None


def _descriptors(_: fs.FeatureStore, __: Path) -> Callable[[], None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    held: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))

    def room() -> None:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    return room


@contextlib.contextmanager
def _mounted(kind: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="featurestore-full-"))
    try:
        if kind == "ext4":
            from tests.survival.cuts import Disk, reason_not_to

            reason = reason_not_to()
            if reason:
                raise Unable(reason)
            with Disk(bytes_in_all=24 << 20) as disk:
                yield disk.path
            return
        inodes = ",nr_inodes=60" if kind == "inodes" else ""
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}{inodes}", "none", str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise Unable(f"no right to mount a small disk ({done.stderr.strip()})")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _plain_folder(_: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="featurestore-full-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


KINDS: dict[str, tuple[Any, Filling, dict[str, Any]]] = {
    "disk": (_mounted, _disk, {}),
    "last-byte": (_mounted, _last_byte, {}),
    "ext4": (_mounted, _last_byte, {}),
    "inodes": (_mounted, _inodes, {}),
    "quota": (_plain_folder, _quota, {"quota": 1 << 20}),
    "descriptors": (_plain_folder, _descriptors, {}),
}


def fill(kind: str, seed: int) -> tuple[int, int]:
    """Fill one thing up, and make room again; returns acknowledged and refused requests."""
    if kind == "readers":
        return _readers(seed)
    place, filling, options = KINDS[kind]
    with place(kind) as folder:
        path = folder / "store"
        create(path)
        clock = lambda: int(START.timestamp() * 1e6) + 10**10  # noqa: E731
        with fs.open(path, upkeep=False, clock=clock, **options) as store:
            filled = Filled(store, seed)
            for _ in range(20):
                _require(filled.write(), f"refused from the start: {filled.refusals}")
            filled.look()
            room = filling(store, path)
            try:
                if kind in {"disk", "last-byte", "ext4", "quota"}:
                    filled.until_refused()
                _while_full(filled, kind)
            finally:
                room()
            _go_on(filled, path)
            return len(filled.acknowledged), len(filled.refusals)


def _while_full(filled: Filled, kind: str) -> None:
    """Whatever is asked now is done, or refused in words of ours; reads go on."""
    for ask in (filled.store.flush, filled.store.compact):
        if kind != "quota":  # whose cure is a flush
            try:
                ask()
            except (fs.StoreFull, fs.Unavailable) as error:
                filled.refusals.append(error)
    for _ in range(5):
        filled.write()
    if kind != "descriptors":  # files are opened to be read
        filled.look()
    else:
        filled.store.get_record("left", 1)


def _readers(seed: int) -> tuple[int, int]:
    """Take every slot of the reader table: half by processes that are dead by now."""
    slots, environment.MAX_READERS = environment.MAX_READERS, 16
    try:
        with _plain_folder("readers") as folder:
            path = folder / "store"
            create(path)
            with fs.open(path, upkeep=False) as store:
                filled = Filled(store, seed)
                for _ in range(20):
                    filled.write()
                holding = [_hold_readers(path, 5) for _ in range(4)]
                try:
                    for _ in range(5):
                        filled.write()
                    try:
                        filled.look()
                    except fs.StoreFull as error:
                        filled.refusals.append(error)
                    _require(filled.refusals, "the table of readers was never full")
                    for process in holding[:2]:  # dead, and their slots still taken
                        process.kill()
                        process.wait()
                    filled.look()
                finally:
                    for process in holding:
                        process.kill()
                        process.communicate()
                _go_on(filled, path)
                return len(filled.acknowledged), len(filled.refusals)
    finally:
        environment.MAX_READERS = slots


_HOLD = """
import sys, time, lmdb
env = lmdb.open(sys.argv[1], readonly=True, lib_version=0, max_dbs=32, map_size=1 << 40,
                max_readers=16, max_spare_txns=0)
held = []
try:
    for _ in range(int(sys.argv[2])):
        held.append(env.begin())
except lmdb.ReadersFullError:
    pass
print("held", flush=True)
time.sleep(600)
"""


def _hold_readers(path: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _HOLD, str(path / "engine"), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def campaign(count: int, seed: int, plant: str | None = None) -> str:  # noqa: ARG001
    """Fill so many times, one kind after the other."""
    started = time.monotonic()
    kinds = [*KINDS, "readers"]
    acknowledged = refused = 0
    left_out: dict[str, str] = {}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        try:
            told, no = fill(kind, seed + number)
        except Unable as reason:
            left_out[kind] = str(reason)
            continue
        except (Broken, fs.FeatureStoreError, OSError, lmdb.Error) as error:
            raise Broken(f"{kind}, seed {seed + number}: {error!r}") from error
        acknowledged, refused = acknowledged + told, refused + no
    said = "".join(f"; {kind} left out: {why}" for kind, why in left_out.items())
    return (
        f"{count} fills of {len(kinds) - len(left_out)} kinds from seed {seed}, {acknowledged:,} "
        f"records acknowledged, {refused} refusals, {time.monotonic() - started:.0f} s: "
        f"none lost, all went on by itself{said}"
    )
