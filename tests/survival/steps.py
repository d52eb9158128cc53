"""Fault stepping: one life of a store, and a fault at each of its file calls in turn.

::

    undisturbed   call 0, call 1, … call n            what is there after each chapter: the book
    suffered      call 0, call 1, … ✗                 killed, cut short, refused, too late
                  what is there now                   all of the chapters acknowledged, and no more
                                                      than the one after
                  the same life again, by its         the end is the same to the last seq;
                  request ids                         nobody's file is left; it verifies

The life puts and deletes single records, writes to several groups, ingests tables through the
journal and in slices, flushes, compacts, adds a feature, drops a group, makes a backup.

Calls are stepped through at one of two places:

==========  ====================================================================================
``seam``    each call and each named point of ``storage.seam``; all of the project's own
``libc``    each call that changes a file, also those inside LMDB and Arrow (``disk.c``, which
            needs a C compiler); of the writes that Arrow makes into one file, one after the
            other, the first, the last, and one between them
==========  ====================================================================================

A call that fails is an error to whoever asked, and the same process goes on: told in words of ours,
and a commit whose outcome nobody knows is `OutcomeUnknown`.

To die after a call is to die before the next one that changes anything, and is tried by itself only
where a chapter is acknowledged between the two; and a call that only looks may as well not be made
as fail after it was.  So no fault is left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import featurestore as fs
from featurestore.engine import cleaner, compactor, staging
from featurestore.engine import ingest as engine_ingest
from featurestore.storage import parquet, seam
from tests.model import DAY, MINUTE, moment
from tests.small_world import START, fresh_folder
from tests.survival import plain, plants
from tests.survival.judge import Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES: list[tuple[Any, str, int]] = [
    (engine_ingest, "JOURNAL_ROWS_MAX", 2),
    (staging, "SLICE_KEYS_MAX", 1),
    (parquet, "ROW_GROUP_ROWS", 3),
    (compactor, "WINDOW_ROWS", 20),
    (compactor, "CELL_ROWS", 10),
    (cleaner, "GRACE_US", 0),
]
"""Few rows are many: a table of seven is large, a window closes after twenty."""

LIBC_MODES = {
    "kill": 1, "kill_after": 2, "short": 3, "eio": 4, "enospc": 5, "late_eio": 6,
}  # fmt: skip
"""Faults as ``disk.c`` numbers them."""

THROUGH = ("seam", "libc")
ENDED_BY_ITSELF = 0
PATIENCE_SECONDS = 120
TRIES = 4
"""A life that meets one fault is lived twice; one of a planted fault might go on for ever."""


# ── the life ─────────────────────────────────────────────────────────────────────────────────


def _record(k: int, minute: int, x: int) -> dict[str, Any]:
    return {"k": k, "t": moment(START + minute * MINUTE), "x": x}


def chapters(store: fs.FeatureStore) -> list[Callable[[], Any]]:  # noqa: C901 - a story
    """Return a life; each chapter counts once, however often it is lived."""
    table = pa.Table.from_pylist([_record(k % 3, k, 100 + k) for k in (5, 1, 4, 2, 0, 3, 9)])
    later = pa.Table.from_pylist([_record(k % 4, k, 200 + k) for k in (7, 3, 11, 6, 20)])

    def create(name: str) -> None:
        store.create_feature_group(
            name,
            record_identifier="k",
            event_time="t",
            features={"k": "int64", "t": "timestamp", "x": "int64"},
            exist_ok=True,
        )

    def puts(group: str, first: int, count: int) -> Callable[[], Any]:
        def some() -> None:
            for n in range(first, first + count):
                store.put_record(group, _record(n % 4, n * 7 % 13, n), request_id=f"put {n}")

        return some

    def grow() -> None:
        known = store.describe_feature_group("left").features
        if "y" not in {feature.name for feature in known}:
            store.update_feature_group("left", add_features={"y": "int64"})

    def while_it_lasts(do: Callable[[], Any]) -> Callable[[], Any]:
        """Do it unless `passing` has passed: what is made anew is another group."""

        def unless_passed() -> None:
            if "passed" not in {group.name for group in store.list_feature_groups()}:
                do()

        return unless_passed

    def drop() -> None:
        create("passed")
        with contextlib.suppress(fs.UnknownFeatureGroup):
            store.delete_feature_group("passing")

    def backup() -> None:
        copies = store.path.parent / "copies"
        store.backup(copies / str(len(list(copies.iterdir()))))

    def both(k: int, minute: int, x: int, request_id: str) -> Any:
        pair = [("left", _record(k, minute, x)), ("right", _record(k, minute, x))]
        return store.write(pair, request_id=request_id)

    return [
        lambda: create("left"),
        lambda: create("right"),
        while_it_lasts(partial(create, "passing")),
        puts("left", 1, 6),
        lambda: both(1, 3, 50, "both 1"),
        lambda: store.ingest("right", [_record(0, 1, 51), _record(2, 1, 52)], id="small"),
        while_it_lasts(puts("passing", 7, 2)),
        store.flush,
        puts("right", 9, 8),
        lambda: store.delete_record("left", 1, event_time=moment(START + 8 * MINUTE),
                                    request_id="delete"),
        lambda: store.ingest("left", table, id="large"),
        store.flush,
        store.compact,
        grow,
        lambda: store.put_record("left", {**_record(2, 3, 53), "y": 1}, request_id="wide"),
        drop,
        puts("right", 17, 8),
        store.flush,
        backup,
        lambda: store.ingest("left", later, id="later"),
        lambda: both(0, 9, 54, "both 2"),
        store.flush,
        store.compact,
        lambda: both(3, 1, 55, "both 3"),
    ]  # fmt: skip


@contextlib.contextmanager
def lived_small() -> Iterator[None]:
    """Make few rows many, and time stand still, for the length of the block."""
    before = [(module, name, getattr(module, name)) for module, name, _ in SIZES]
    for module, name, size in SIZES:
        setattr(module, name, size)
    clocks = seam.monotonic, seam.perf_counter
    seam.monotonic = seam.perf_counter = lambda: 1000.0
    try:
        yield
    finally:
        for module, name, size in before:
            setattr(module, name, size)
        seam.monotonic, seam.perf_counter = clocks


def opened(path: Path, *, read_only: bool = False) -> fs.FeatureStore:
    """Open the store; its clock stands still, and nothing is done but what the life does.

    Every store hashes keys alike, so that two lives are alike to the last file.
    """
    seam.random_bytes = random.Random(7).randbytes
    try:
        return fs.open(path, clock=lambda: START + DAY, upkeep=False, read_only=read_only)
    finally:
        seam.random_bytes = os.urandom


# ── undisturbed ──────────────────────────────────────────────────────────────────────────────

Rows = dict[str, frozenset[Any]]


@dataclass
class Book:
    """An undisturbed life: its calls, and what was there after each chapter."""

    calls: list[str] = field(default_factory=list)
    chapter_of: list[int] = field(default_factory=list)
    after: list[Rows] = field(default_factory=list)
    end: Any = None


def _rows(store: fs.FeatureStore) -> Rows:
    return {
        group.name: frozenset(
            (row["write_seq"], row["k"], row["t"], row["x"], row["is_deleted"])
            for row in store.sql(f"SELECT * FROM history.{group.name}").to_pylist()
        )
        for group in store.list_feature_groups()
    }


def _end(store: fs.FeatureStore) -> Any:
    online = {
        group.name: sorted((r["k"], r["t"], r["x"]) for r in store.scan(group.name))
        for group in store.list_feature_groups()
    }
    return store.snapshot(), _rows(store), online


def write_book(through: str) -> Book:
    """Live undisturbed, and write it down; the calls of libc in a child of their own."""
    book = Book(after=[{}])
    with lived_small(), fresh_folder() as folder:
        (folder / "copies").mkdir()
        with opened(folder / "store") as store:
            for chapter in chapters(store):
                chapter()
                book.after.append(_rows(store))
            book.end = _end(store)
        _require(_faults(folder / "store") == [], "an undisturbed life does not verify")
    with fresh_folder() as folder:
        _suffer_in_child(folder, through, -1, "kill")
        told = json.loads((folder / "calls").read_text())
        book.calls, starts = told["calls"], told["starts"]
        book.chapter_of = [bisect_right(starts, n) - 1 for n in range(len(book.calls))]
    return book


# ── suffering ────────────────────────────────────────────────────────────────────────────────


class _AtCall:
    """An ``on_call`` that counts, and has one call meet a fault."""

    def __init__(self, at: int, mode: str) -> None:
        self.seen: list[str] = []
        self._at, self._mode = at, mode

    def __call__(self, name: str, path: str, do: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self.seen.append(name)
        if len(self.seen) - 1 == self._at:
            return seam.meet(self._mode, name, path, do, args)
        return do(*args)


def _disk(folder: Path) -> Path:
    """Return where the store lies, and its backups: what is stepped through."""
    return folder / "disk"


def suffer(folder: Path, through: str, at: int, mode: str, plant: str | None = None) -> None:
    """Live, meet a fault at one call, and go on: in a process of its own."""
    if plant:
        plants.sow(plant)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    (_disk(folder) / "copies").mkdir(parents=True)  # the store's backups, in a folder of the user's
    with lived_small():
        if through == "seam":
            calls = seam.on_call = _AtCall(at, mode)
        else:
            disk = ctypes.CDLL(None)
            disk.disk_trace.restype = ctypes.c_char_p
            disk.disk_arm(bytes(_disk(folder)), at, LIBC_MODES[mode])
        store, starts = None, []
        for _ in range(TRIES):
            try:
                store = store or opened(_disk(folder) / "store")
                for number, chapter in enumerate(chapters(store)):
                    starts.append(len(calls.seen) if through == "seam" else disk.disk_calls())
                    chapter()
                    os.write(log, b"%d\n" % number)
                break
            except (fs.FeatureStoreError, OSError) as error:
                os.write(log, f"! {type(error).__name__} {error}\n".encode())
                if isinstance(error, fs.StoreClosed) and store is not None:
                    store.close()
                    store = None
        else:
            sys.exit("it never came to the end")
        store.close()
        seen = calls.seen if through == "seam" else disk.disk_trace().decode().split()
        seam.on_call = None
    (folder / "calls").write_text(json.dumps({"calls": seen, "starts": starts}))


def _suffer_in_child(
    folder: Path, through: str, at: int, mode: str, plant: str | None = None
) -> int:
    child = _children(through).Process(target=suffer, args=(folder, through, at, mode, plant))
    child.start()
    for _ in range(PATIENCE_SECONDS):  # one by one: whoever is stopped meanwhile does not wait
        child.join(1)
        if child.exitcode is not None:
            break
    code = child.exitcode
    child.kill()
    child.join()
    child.close()
    return -1000 if code is None else code


_started: list[str] = []


def _children(through: str) -> Any:
    """Return what starts children; of the fork server of a process all go through one place."""
    context = multiprocessing.get_context("forkserver")
    if not _started:
        context.set_forkserver_preload(["tests.survival.warm", "tests.survival.steps"])
        if through == "libc":
            os.environ["LD_PRELOAD"] = str(build())
        _started.append(through)
        from multiprocessing.forkserver import ensure_running

        ensure_running()
        os.environ.pop("LD_PRELOAD", None)
    assert _started == [through], "one campaign of stepping to a process"
    return context


def build() -> Path:
    """Compile ``disk.c``; the library is kept for this user until the file changes."""
    source = Path(__file__).with_name("disk.c")
    folder = Path(tempfile.gettempdir()) / f"featurestore-disk-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"disk-{source.stat().st_mtime_ns}.so"
    if not library.exists():
        making = library.with_suffix(f".{os.getpid()}")
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(making), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        making.replace(library)
    return library


def reason_not_to(through: str) -> str | None:
    """Return why calls cannot be stepped through at a place; None if they can."""
    if through == "libc" and (sys.platform != "linux" or shutil.which("cc") is None):
        return "stepping through libc needs Linux and a C compiler (cc)"
    return None


# ── judging ──────────────────────────────────────────────────────────────────────────────────


def _require(holds: object, sentence: str) -> None:
    if not holds:
        raise Broken(sentence)


def _faults(path: Path) -> list[Any]:
    with opened(path) as store:
        return store.verify()


def _judge(folder: Path, book: Book, code: int, mode: str) -> None:
    deadly = mode in {"kill", "kill_after", "torn"}
    _require(
        code in ({-signal.SIGKILL, ENDED_BY_ITSELF} if deadly else {ENDED_BY_ITSELF}),
        f"the process ended with {code}",
    )
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    done = [int(line) for line in lines if not line.startswith("!")]
    for line in lines:
        if line.startswith("!"):
            _judge_error(line.split()[1], mode, line)
    path = _disk(folder) / "store"
    if code == ENDED_BY_ITSELF:
        _require(done[-1:] == [len(book.after) - 2], "it did not live to the end")
    elif (path / "engine" / "data.mdb").exists():
        _judge_bytes(path, book, max(done, default=-1) + 1)
    with lived_small(), opened(path) as store:
        _require(not (f := store.verify()), f"verify: {f[:3]}")
        if code != ENDED_BY_ITSELF:  # else it was lived again by the process that met the fault
            for chapter in chapters(store):
                chapter()
            _require(not (f := store.verify()), f"verify of a life lived again: {f[:3]}")
        _is_the_end(store, book)
    _nothing_is_left(path, book)


def _judge_error(name: str, mode: str, line: str) -> None:
    """Insist that an error is one of ours, and says of room what is true."""
    _require(hasattr(fs, name), f"an error of somebody else: {line}")
    if mode == "enospc":
        _require(name in {"StoreFull", "OutcomeUnknown", "StoreClosed"}, f"it was full: {line}")
    elif mode != "short":
        _require(name != "StoreFull", f"it was not full: {line}")


def _judge_bytes(path: Path, book: Book, acknowledged: int) -> None:
    """Hold what is there to what was acknowledged, and to the chapter under way."""
    least = book.after[acknowledged]
    most = book.after[min(acknowledged + 1, len(book.after) - 1)]
    try:
        found = plain.contents(path).history
    except plain.NoStore:
        _require(acknowledged == 0, "the store is gone")
        return
    for group in least.keys() & most.keys():
        there = frozenset((r.seq, r.k, r.event_time_us, _x(r), r.is_deleted) for r in found[group])
        before, after = _plainly(least[group]), _plainly(most[group])
        _require(before <= there, f"{group}: acknowledged and lost: {sorted(before - there)[:3]}")
        _require(there <= after, f"{group}: nobody sent {sorted(there - after)[:3]}")
    pairs = {
        x: [name for name, rows in found.items() if x in {_x(r) for r in rows}]
        for x in (50, 54, 55)
    }
    halves = [x for x, groups in pairs.items() if len(groups) == 1]
    _require(not halves, f"half a write is there: {halves}")


def _x(row: plain.Row) -> Any:
    return row.values[0] if row.values else None


def _plainly(rows: frozenset[Any]) -> frozenset[Any]:
    from tests.model import micros

    return frozenset((seq, k, micros(t), x, deleted) for seq, k, t, x, deleted in rows)


def _is_the_end(store: fs.FeatureStore, book: Book) -> None:
    end = _end(store)
    if end != book.end:
        differ = [
            (group, sorted(rows ^ end[1].get(group, frozenset()), key=str)[:3])
            for group, rows in book.end[1].items()
        ]
        raise Broken(f"it ends at seq {end[0]}, not {book.end[0]}, or otherwise: {differ}")
    if store.flush() + store.compact():
        _require(not (f := store.verify()), f"verify after a compaction: {f[:3]}")


def _nothing_is_left(path: Path, book: Book) -> None:
    there = {str(p.relative_to(path)) for p in (path / "data").rglob("*") if p.is_file()}
    listed = plain.contents(path).listed
    _require(there == listed, f"nobody's files: {sorted(there ^ listed)[:5]}")
    copies = sorted((path.parent / "copies").iterdir(), key=lambda p: int(p.name))
    with opened(copies[-1], read_only=True) as copy:
        _require(not (f := copy.verify()), f"the backup: {f[:3]}")
        rows = _rows(copy)
    _require(all(rows[g] <= book.end[1][g] for g in rows), "the backup holds what never was")


# ── the campaign ─────────────────────────────────────────────────────────────────────────────


def faults_of(book: Book, through: str) -> list[tuple[int, str]]:
    """Return every fault that can meet every call."""
    suits = seam.suits if through == "seam" else _suits_libc
    modes = [mode for mode in seam.MODES if mode != "stop"] if through == "seam" else LIBC_MODES
    every = [(n, m) for n, name in enumerate(book.calls) for m in modes if suits(m, name)]
    if through == "seam":
        return [(n, m) for n, m in every if not _is_another(book, n, m, seam.ONLY_LOOK)]
    every = [(n, m) for n, m in every if not _is_another(book, n, m, set())]
    return [(n, m) for n, m in every if not _is_one_of_many(book, n)]


def _suits_libc(mode: str, name: str) -> bool:
    """Return whether a fault says something about a call of libc."""
    no_bytes = {"fsync", "fdatasync", "rename", "link", "unlink", "mkdir", "open", "open64"}
    if mode == "short":
        return name not in no_bytes
    return not (mode == "enospc" and name == "unlink")


def _is_one_of_many(book: Book, at: int) -> bool:
    """Return whether a call is a write between others into one file, and not the middle one."""
    if book.calls[at - 1 : at + 2] != ["write"] * 3:
        return False
    first = last = at
    while book.calls[first - 1] == "write":
        first -= 1
    while book.calls[last + 1] == "write":
        last += 1
    return at != (first + last) // 2


def _is_another(book: Book, at: int, mode: str, looks: set[str]) -> bool:
    """Return whether a fault leaves the very bytes, and the very log, that another one leaves."""
    if mode == "late_eio" and book.calls[at] in looks:
        return True
    if mode == "kill_after":
        following = range(at + 1, len(book.calls))
        then = next((n for n in following if book.calls[n] not in looks), None)
        return then is not None and book.chapter_of[then] == book.chapter_of[at]
    return False


def harm(book: Book, through: str, at: int, mode: str, plant: str | None = None) -> str:
    """Return what harm one fault does; nothing if none."""
    with fresh_folder() as folder:
        code = _suffer_in_child(folder, through, at, mode, plant)
        try:
            _judge(folder, book, code, mode)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one fault of many
            log = (folder / "log").read_text() if (folder / "log").exists() else ""
            told = [line for line in log.splitlines() if line.startswith("!")]
            return f"{mode} at call {at}, {book.calls[at]}: {error!r} {told}"
    return ""


def campaign(
    count: int, seed: int, plant: str | None = None, through: str = "seam", start: int = 0
) -> str:
    """Step through so many faults, from one number on, in an order that the seed gives.

    Interrupted (SIGINT, SIGTERM), it says how far it has come.
    """
    reason = reason_not_to(through)
    if reason:
        raise SystemExit(reason)
    started = time.monotonic()
    book = write_book(through)
    every = faults_of(book, through)
    random.Random(seed).shuffle(every)
    chosen = every[start : start + count]
    broken: list[str] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for number, fault in enumerate(chosen):
        try:
            said = harm(book, through, *fault, plant)
            if said:
                broken.append(said)
                print(f"{start + number}: {said}", file=sys.stderr, flush=True)
            elif number % 100 == 99:
                print(f"{start + number + 1} of {len(every)}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            chosen = chosen[:number]
            break
    if broken:
        raise Broken(f"{len(broken)} of {len(chosen)} faults, seed {seed}:\n" + "\n".join(broken))
    return (
        f"{len(chosen)} of {len(every)} faults at {len(book.calls)} calls of {through} "
        f"(from {start}, seed {seed}), {time.monotonic() - started:.0f} s: none did harm"
    )
