"""Erasure: one key leaves the store, with every byte of its records.

::

    1  files     those that may hold the key are read; those that do are written again without it
    2  commit    in one transaction:
                   all listed files that may hold the key are those of step 1, as they were: swap
                   unfinished files of others lose their intents: they may hold it too
                   the online record and the records in the journal go
                   the erasure takes a seq and is written down
       if a file came in between, step 1 is done again for it
    3  results   stored results of requests that wrote one of the records are blanked
    4  bytes     the old files are deleted, as soon as nobody reads them

**Work in flight.** A flush, a compaction or an ingest that has staged its file before finds its
intent gone and drops its file; a flush and a compaction are done again by themselves.  An ingest
whose first slices are in finds its file written again, and goes on with that one when it is sent
again.  A retry of a request that wrote the key is refused (``RecordErased``).  What is written
after the erasure is new data.

**Readers.** A reader that has pinned an old file keeps it until it is done: the receipt names the
file, and the cleaner deletes it then.  Readers on media where they cannot pin lose it at once.
Consumers that have not come so far never see the records; replicas must be told by whoever tells
the store, since the feed of changes cannot say who it was without keeping it.  A read ``as_of`` an
earlier seq no longer finds the key.

**Bytes.** Files are new and the old ones deleted.  LMDB however leaves freed pages, and the room
between the rows of a page, as they are until they are used again; old bytes may lie there for a
while, and a key that parts two pages of its tree stays while they do.  The receipt counts them.  A
backup is written row by row into a new file and has none: where the law is strict, erase, back up,
restore.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.encoding.key_columns import encode_keys
from featurestore.encoding.values import read_header
from featurestore.engine import cleaner, flusher
from featurestore.engine.filing import give_up, under_intent
from featurestore.errors import StoreBusy, UnknownFeatureGroup
from featurestore.event_time import to_datetime
from featurestore.results import ErasureReceipt
from featurestore.storage import (
    catalog,
    erasures,
    files,
    journal,
    latest,
    manifest,
    parquet,
    requests,
    seam,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.engine.writer import Commit
    from featurestore.storage.manifest import FileEntry

    Bools = np.ndarray[Any, np.dtype[np.bool_]]

#: How long flushes and compactions under way are waited for; after that they are overruled.
WAIT_SECONDS = 10.0
#: How often it is tried while others list new files.
ATTEMPTS = 50
_REQUESTS_AT_A_TIME = 5_000


def erase(database: Database, name: str, key: Any, now_us: int) -> ErasureReceipt:
    """Erase a key of a group; see :meth:`featurestore.FeatureStore.erase`."""
    database.settle()
    plan, _ = database.plan(name)
    key_bytes, _ = plan.key(key)
    work = _Erasure(database, plan, key_bytes, now_us)
    locks = _wait_for_others(database)
    try:
        if len(locks) == 2:  # then the journal, of which all is rewritten below, is short
            flusher.flush_group(database, plan.group, now_us)
        work.run()
    finally:
        for lock in locks:
            lock.release()
    blanked = work.blank_requests()
    cleaner.clean(database, now_us)
    return ErasureReceipt(
        group=name,
        seq=work.seq,
        at=to_datetime(work.at_us),
        key_hash=work.key_hash,
        key_digest=erasures.digest(database.key_hash, key_bytes),
        online=work.online,
        records=len(work.seqs),
        files=work.files,
        requests=blanked,
        waiting=tuple(work.waiting()),
        traces=traces(database.env.folder / "data.mdb", plan.lmdb_key(key_bytes), key_bytes),
    )


def _wait_for_others(database: Database) -> list[files.FileLock]:
    """Wait a while for the flush and the compaction under way; not for those that sleep."""
    locks: list[files.FileLock] = []
    until = seam.monotonic() + WAIT_SECONDS
    for name in ("flush", "compact"):
        lock = files.FileLock.try_acquire(database.locks / name)
        while lock is None and seam.monotonic() < until:
            seam.sleep(0.01)
            lock = files.FileLock.try_acquire(database.locks / name)
        if lock is not None:
            locks.append(lock)
    return locks


class _Erasure:
    """One key on its way out of the store."""

    def __init__(self, database: Database, plan: Plan, key: bytes, now_us: int) -> None:
        self.database = database
        self.plan = plan
        self.group = plan.group
        self.key = key
        self.key_hash = database.key_hash(key)
        self.now_us = now_us
        #: The listed files that have been looked at, as they were, and what is to replace them.
        self.examined: dict[int, tuple[FileEntry, FileEntry | None]] = {}
        self.dirty: set[int] = set()
        self.file_seqs: dict[int, list[int]] = {}
        self.seqs: set[int] = set()
        self.online = False
        self.seq = self.at_us = self.files = 0

    def run(self) -> None:
        """Do steps 1 and 2."""
        try:
            for _ in range(ATTEMPTS):
                self._examine()
                seam.point("erase.written")
                if self.database.writer.call(self._commit, self.now_us):
                    seam.point("erase.committed")
                    return
        finally:
            for entry, output in self.examined.values():
                if output is not None:  # still an intent, unless it was listed
                    give_up(self.database, entry.group_id, output.file_id, self.now_us)
        raise StoreBusy(
            f'New files of "{self.group.name}" came faster than they could be looked through. '
            "Nothing was erased; try again."
        )

    # ── files ────────────────────────────────────────────────────────────────────────────────

    def _examine(self) -> None:
        with self.database.snapshot([self.group.name], with_tail=False) as snapshots:
            snapshot = snapshots[self.group.name]
            for entry in snapshot.files:
                known = self.examined.get(entry.file_id)
                if not self._may_hold(entry) or (known is not None and known[0] == entry):
                    continue
                if known is not None and known[1] is not None:
                    give_up(self.database, self.group.id, known[1].file_id, self.now_us)
                self.dirty.discard(entry.file_id)
                self.examined[entry.file_id] = (entry, self._rewritten(snapshot, entry))

    def _may_hold(self, entry: FileEntry) -> bool:
        return entry.min_hash <= self.key_hash <= entry.max_hash

    def _rewritten(self, snapshot: GroupSnapshot, entry: FileEntry) -> FileEntry | None:
        """Return the entry of a file without the key; None if it has none, or nothing else."""
        # Of a file that an ingest is filling, the rows that are not visible yet count too.
        half = bool(entry.request)
        whole = replace(entry, kind="flush", visible_rows=entry.rows) if half else entry
        masks = self._masks(snapshot, whole)
        keep = np.concatenate([~mask for mask in masks])
        if keep.all():
            return None
        self.dirty.add(entry.file_id)
        with snapshot.open(entry) as file:
            # Rows that nobody has seen have no seq.
            seqs = parquet.as_int64(file.read([parquet.WRITE_SEQ]).column(0))
            self.file_seqs[entry.file_id] = seqs[~keep[: len(seqs)]].tolist()
        if not keep[: entry.visible_rows].any():
            return None
        facts = parquet.Facts(self.group)
        slices, visible = _slices(entry, keep) if half else ((), int(keep.sum()))

        def pieces() -> Iterator[pa.Table]:
            first = 0
            with snapshot.open(whole) as file:
                for number, mask in enumerate(masks):
                    table = file.read(row_groups=[number]).filter(pa.array(~mask))
                    if half:
                        table = _renumbered(table, first, visible)
                    first += table.num_rows
                    if table.num_rows:
                        yield table

        def write(file_id: int, relative: str) -> FileEntry:
            parquet.write_row_groups(
                self.database.root, relative, facts.of(pieces()), entry.size_bytes, self.group
            )
            fields = {**facts.fields(), "window": entry.window}
            if half:
                kept = seqs[keep[: len(seqs)]]
                fields |= {
                    "visible_rows": visible,
                    "slices": slices,
                    "request": entry.request,
                    "min_seq": int(kept.min()),
                    "max_seq": int(kept.max()),
                }
            kind = entry.kind if half or entry.kind != "staged" else "merged"
            return parquet.entry_of(
                self.database.root, self.group, file_id, kind, relative=relative, **fields
            )

        return under_intent(self.database, self.group, write, self.now_us)

    def _masks(self, snapshot: GroupSnapshot, entry: FileEntry) -> list[Bools]:
        """Tell for each row group which of its rows have the key."""
        names = list(self.group.record_identifier)
        masks = []
        with snapshot.open(entry) as file:
            lows, highs = file.hash_bounds()
            for number in range(file.row_groups):
                mask = np.zeros(file.rows_of(number), np.bool_)
                if lows[number] <= self.key_hash <= highs[number]:
                    table = file.read([parquet.KEY_HASH, *names], [number])
                    hashes = parquet.as_int64(table.column(0))
                    same = np.flatnonzero(hashes == self.key_hash)
                    columns = [table.column(name).take(pa.array(same)) for name in names]
                    keys = encode_keys(columns, self.plan.key_dtypes)
                    found = [place for place, key in enumerate(keys.keys) if key == self.key]
                    mask[same[np.isin(keys.codes, found)]] = True
                masks.append(mask)
        return masks

    # ── the transaction ──────────────────────────────────────────────────────────────────────

    def _commit(self, commit: Commit) -> bool:
        env, txn, group_id = commit.env, commit.txn, self.group.id
        if not catalog.has_group(env, txn, group_id):
            raise UnknownFeatureGroup(f'Feature group "{self.group.name}" was deleted meanwhile.')
        swaps = self._swaps(commit)
        if swaps is None:
            return False
        self.seq, self.at_us = commit.take(), commit.write_time_us
        self.files = sum(output is not None for _, output in swaps)
        self.seqs = {seq for entry, _ in swaps for seq in self.file_seqs[entry.file_id]}
        self._swap(commit, swaps)
        for removed in manifest.removed_files(env, txn):
            if removed.group_id == group_id and self._may_hold(removed):
                manifest.hurry(env, txn, removed)
        for owner, file_id, _ in manifest.intents(env, txn):
            if owner == group_id:
                manifest.withdraw(env, txn, group_id, file_id)
        self.seqs |= set(journal.erase(env, txn, group_id, self.key))
        record = latest.get_at(env, txn, self.plan.lmdb_key(self.key), self.key)
        self.online = record is not None
        if record is not None:
            self.seqs.add(read_header(record).seq)
            latest.delete_at(env, txn, self.plan.lmdb_key(self.key))
            commit.count_keys(group_id, -1)
        digest = erasures.digest(self.database.key_hash, self.key)
        found = erasures.Erasure(group_id, self.seq, self.at_us, self.key_hash, digest)
        erasures.put(env, txn, found)
        return True

    def _swaps(self, commit: Commit) -> list[tuple[FileEntry, FileEntry | None]] | None:
        """Return the files that go and what comes instead; None if some were not looked at."""
        env, txn, group_id = commit.env, commit.txn, self.group.id
        swaps = []
        for entry in filter(self._may_hold, manifest.live_files(env, txn, group_id)):
            known, output = self.examined.get(entry.file_id, (None, None))
            if known != entry:
                return None
            if output is not None and not manifest.intent_stands(
                env, txn, group_id, output.file_id
            ):
                del self.examined[entry.file_id]
                return None
            if entry.file_id in self.dirty:
                swaps.append((entry, output))
        return swaps

    def _swap(self, commit: Commit, swaps: list[tuple[FileEntry, FileEntry | None]]) -> None:
        env, txn = commit.env, commit.txn
        for entry, output in swaps:
            manifest.unlist(env, txn, entry, 1)
            if output is not None:
                manifest.list_file(env, txn, output)
            if entry.request:
                request = bytes.fromhex(entry.request)
                if output is None:
                    requests.erase(env, txn, request)
                    continue
                moved = {
                    "rows": output.visible_rows,
                    "kept": output.rows,
                    "file_id": output.file_id,
                }
                requests.update(env, txn, request, moved)

    # ── afterwards ───────────────────────────────────────────────────────────────────────────

    def blank_requests(self) -> int:
        """Blank the stored results that name one of the records; returns how many."""
        blanked, after = 0, b""
        while self.seqs:
            with self.database.read() as txn:
                keys, after = requests.naming(
                    self.database.env, txn, self.seqs, after, _REQUESTS_AT_A_TIME
                )
            if keys:
                blanked += self._blank(keys)
            if not after:
                break
        return blanked

    def _blank(self, keys: list[bytes]) -> int:
        def work(commit: Commit) -> int:
            return sum(requests.erase(commit.env, commit.txn, key) for key in keys)

        return self.database.writer.call(work, self.now_us)

    def waiting(self) -> Iterator[str]:
        """Yield the old files that are still there: some reader has pinned them."""
        with self.database.read() as txn:
            for entry in manifest.removed_files(self.database.env, txn):
                if entry.group_id == self.group.id and self._may_hold(entry):
                    yield entry.path


def _slices(entry: FileEntry, keep: Bools) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """Return the slices of a file without some rows, and how many of its rows are visible."""
    kept = np.concatenate([[0], np.cumsum(keep)])
    slices: list[tuple[int, int, int]] = []
    before = 0
    for end, base_seq, time_us in entry.slices:
        if kept[end] > before:
            before = int(kept[end])
            slices.append((before, base_seq, time_us))
    return tuple(slices), before


def _renumbered(table: pa.Table, first: int, visible: int) -> pa.Table:
    """Give the rows that no slice has taken in yet their place in the file as their number."""
    numbers = np.arange(first, first + table.num_rows)
    ordinals = parquet.as_int64(table.column(parquet.WRITE_SEQ))
    ordinals = np.where(numbers < visible, ordinals, numbers)
    place = table.schema.get_field_index(parquet.WRITE_SEQ)
    return table.set_column(place, table.schema.field(place), pa.array(ordinals))


# ── bytes ────────────────────────────────────────────────────────────────────────────────────


def traces(path: Path, lmdb_key: bytes, key: bytes) -> int:
    """Count the places of LMDB's file that have the bytes of a key, as it is spelled there."""
    spellings = {lmdb_key, struct.pack("<H", len(key)) + key}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        return sum(_occurrences(memory, spelling) for spelling in spellings)


def _occurrences(memory: mmap.mmap, spelling: bytes) -> int:
    found = 0
    at = memory.find(spelling)
    while at >= 0:
        found += 1
        at = memory.find(spelling, at + 1)
    return found
