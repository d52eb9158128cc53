"""Committing a batch: few rows through the journal, many in slices, a staged file first.

::

    sort ─► write the file ─► slice 1 ─► wait ─► slice 2 ─► wait ─► …    a slice, one transaction:
                                 │ list the file as far as this slice
                                 │ take its seqs: base + ordinal of each row
                                 └ move the latest record of each of its keys

A staged file is durable before its first slice is committed, and invisible until then.  A slice is
a stretch of whole keys, so that online and history go on together, and no key is ever seen half
ingested; it need not end with a row group.  Its seqs follow the order of the file, in which rows of
one key and event time keep the order of the input: of two the later wins, as everywhere.  (A batch
that is one transaction by its nature, small or ``atomic``, is numbered in the order of the input.)

**The write lock** is held for a slice, about half of ``max_lock``: how many keys that is, is known
from the slice before (and no fewer than :data:`SLICE_KEYS_MIN`).  Then it is left alone for as long
as it was held, whoever may want it, and the records of the next slice are encoded meanwhile.

What goes online only has no file, and is committed in slices all the same.

**Going on.**  The request row says how many rows are in; after a crash the same request takes up
the file that is there: nothing is sorted, checked or held to a clock again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.encoding.columns import stamp_many
from featurestore.engine.bulk import NEVER_US, add_to_journal, move_latest
from featurestore.engine.file_order import FileOrder, Heads, Keys, heads_of
from featurestore.engine.filing import give_up, under_intent
from featurestore.errors import StoreBusy, Unavailable, UnknownFeatureGroup
from featurestore.record import STORE_OFFLINE, STORE_ONLINE
from featurestore.storage import catalog, manifest, parquet, requests, seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from featurestore.encoding.columns import Records
    from featurestore.engine.database import Database
    from featurestore.engine.rows import Batch
    from featurestore.engine.writer import Commit
    from featurestore.schema import FeatureGroup

    Int64s = np.ndarray[Any, np.dtype[np.int64]]

#: Keys of a slice at most; less where the lock would be held too long.
SLICE_KEYS_MAX = 1 << 18
#: And at least: a commit takes its time however little is in it.
SLICE_KEYS_MIN = 500
#: Bytes of records encoded for a slice at most.
SLICE_BYTES_MAX = 64 << 20
#: Share of `max_lock` that a slice is sized for; the rest is for the next one to be slower.
LOCK_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by what became of them; late and expired ones are among the accepted."""

    accepted: int = 0
    late: int = 0
    expired: int = 0
    rejected: int = 0
    replayed: int = 0

    @property
    def rows(self) -> int:
        """Rows of the input that these counts speak of."""
        return self.accepted + self.rejected + self.replayed

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.accepted + other.accepted,
            self.late + other.late,
            self.expired + other.expired,
            self.rejected + other.rejected,
            self.replayed + other.replayed,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What one ingest of one batch goes by.

    Attributes
    ----------
    request : Request
        Makes it count once.
    stores : int
        The stores aimed at.
    now_us : int
        The caller's clock; rows were held to ``clock_us``, that of the first try.
    max_lock_us : int or None
        How long the write lock is held at a time; None for one transaction.
    done : callable
        Told how many rows are in, after each slice but the last.
    staged : callable
        Told how many rows are written to the file.
    also : callable
        Done in the transaction of the first slice.
    """

    request: requests.Request
    stores: int
    now_us: int
    clock_us: int
    max_lock_us: int | None
    done: Callable[[int], None]
    staged: Callable[[int], None]
    also: Callable[[Commit], None]


# ── few rows ─────────────────────────────────────────────────────────────────────────────────


def through_journal(database: Database, batch: Batch, load: Load) -> Counts:
    """Commit a small batch in one transaction, like ``write``."""
    group = batch.plan.group
    records = batch.records()
    codes = batch.keys.codes
    ranks = batch.keys.ranks(batch.key_hash)
    order = np.lexsort((batch.event_us, ranks[codes]))  # stable: of equal ones the later is last
    newest = order[np.append(np.flatnonzero(np.diff(codes[order])), len(order) - 1)]
    hashes = batch.keys.hashes(batch.key_hash)[codes[newest]]
    keys = Keys(*batch.keys.taken(codes[newest]), hashes)

    def work(commit: Commit) -> Counts:
        known = requests.find(commit.env, commit.txn, load.request, commit.write_time_us)
        if known is not None:
            return Counts(replayed=batch.rows)
        _require_group(commit, group)
        first = commit.take(batch.rows)
        seqs = first + np.arange(batch.rows)
        write_us = batch.write_us
        if write_us is None:
            write_us = np.full(batch.rows, commit.write_time_us)
        stamp_many(records, batch.keys.data, batch.keys.offsets, codes, seqs, write_us)
        if group.offline and batch.stores & STORE_OFFLINE:
            add_to_journal(commit, group.id, first, batch.keys, records)
        before = np.full(len(keys), NEVER_US)
        if group.online and batch.stores & STORE_ONLINE:
            heads = records.take(newest)
            before = move_latest(commit, group.id, keys, batch.event_us[newest], heads)
        before_of = np.empty(len(keys), np.int64)
        before_of[codes[newest]] = before
        load.also(commit)
        state = {"done": True, "rows": batch.rows, "kept": batch.rows}
        requests.save(commit.env, commit.txn, load.request, commit.write_time_us, state)
        return Counts(
            accepted=batch.rows,
            late=int((batch.event_us < before_of[codes]).sum()),
            expired=int((batch.expires_us(batch.event_us) <= commit.write_time_us).sum()),
        )

    bytes_needed = 2 * len(records.data) + 64 * batch.rows
    return database.writer.call(work, load.now_us, bytes_needed=bytes_needed)


def _require_group(commit: Commit, group: FeatureGroup) -> None:
    if not catalog.has_group(commit.env, commit.txn, group.id):
        raise UnknownFeatureGroup(
            f'Feature group "{group.name}" was deleted meanwhile. Nothing more was stored.'
        )


# ── many rows ────────────────────────────────────────────────────────────────────────────────


def in_slices(database: Database, batch: Batch, load: Load, progress: Any | None) -> Counts:
    """Commit a large batch: stage its file, if it goes to history, then slice after slice."""
    group = batch.plan.group
    order = FileOrder(batch, by_input=load.max_lock_us is None)
    if not (group.offline and load.stores & STORE_OFFLINE):
        # Without a file the rows themselves are needed again to go on, in the same order.
        slices = _Slices(database, order.heads(), load, progress)
        return slices.run()

    def write(file_id: int, relative: str) -> manifest.FileEntry:
        bytes_needed = sum(column.nbytes for column in batch.columns.values()) + 32 * batch.rows
        pieces = _told(order.row_groups(), load.staged)
        parquet.write_row_groups(database.root, relative, pieces, bytes_needed, group)
        return parquet.entry_of(
            database.root,
            group,
            file_id,
            "staged",
            relative=relative,
            request=load.request.key.hex(),
            **order.facts(),
        )

    entry = under_intent(database, group, write, load.now_us)
    seam.point("ingest.staged")
    slices = _Slices(database, order.heads(), load, None, entry)
    try:
        return slices.run()
    except BaseException:
        if slices.rows_in == 0:
            give_up(database, group.id, entry.file_id, load.now_us)
        raise


def _told(pieces: Iterator[pa.Table], tell: Callable[[int], None]) -> Iterator[pa.Table]:
    rows = 0
    for piece in pieces:
        yield piece
        rows += piece.num_rows
        tell(rows)


def go_on(database: Database, group: FeatureGroup, load: Load, progress: Any) -> Counts:
    """Take up a staged file whose run was cut off."""
    with database.snapshot([group.name], with_tail=False) as snapshots:
        # Files are pinned: the one that is waiting for the rest of its rows stays.
        snapshot = snapshots[group.name]
        found = [entry for entry in snapshot.files if entry.file_id == progress["file_id"]]
        if not found:
            raise StoreBusy(
                "An earlier run of this ingest was interrupted and its file is gone. "
                "Send it again with another id."
            )
        as_written = replace(found[0], kind="flush", visible_rows=found[0].rows)
        heads = heads_of(snapshot.read(as_written), group, load.stores, database.key_hash)
        return _Slices(database, heads, load, progress, found[0]).run()


class _Slices:
    """A batch in file order on its way into the store, slice after slice."""

    def __init__(
        self,
        database: Database,
        heads: Heads,
        load: Load,
        progress: Any | None,
        entry: manifest.FileEntry | None = None,
    ) -> None:
        self.database = database
        self.heads = heads
        self.load = load
        self.entry = entry
        self.rows = len(heads.event_us)
        self.rows_in = progress["rows"] if progress is not None else 0
        self.moves = heads.group.online and bool(load.stores & STORE_ONLINE)
        # A slice that moves nothing is a few rows of the manifest, whatever its size.
        self.at_once = load.max_lock_us is None or not self.moves
        row_bytes = sum(column.nbytes for column in heads.columns.values()) // len(heads.keys) + 64
        self.keys_max = max(1, min(SLICE_KEYS_MAX, SLICE_BYTES_MAX // row_bytes))

    def run(self) -> Counts:
        """Commit what is not in yet."""
        total = Counts(replayed=self.rows_in)
        free_at = 0.0
        while self.rows_in < self.rows:
            first = int(np.searchsorted(self.heads.ends, self.rows_in, side="right"))
            end = self._end(first)
            records = self.heads.records(first, end) if self.moves else None
            seam.sleep(max(0.0, free_at - seam.monotonic()))
            commit, before = self._commit(first, end, records)
            # As long as it was held, the lock is left to others.
            free_at = seam.monotonic() + commit.held_seconds
            self._learn(end - first, commit.held_seconds)
            total += self._counted(first, end, before, commit.write_time_us)
            self.rows_in = int(self.heads.ends[end - 1])
            seam.point("ingest.slice")
            if self.rows_in < self.rows:
                self.load.done(self.rows_in)
        return total

    def _end(self, first: int) -> int:
        """Return the key before which the slice ends that begins with key ``first``."""
        keys = len(self.heads.keys)
        if self.at_once:
            return keys
        seconds = LOCK_SHARE * (self.load.max_lock_us or 0) / 1e6
        count = int(self.database.keys_per_second * seconds)
        return int(min(keys, first + min(max(count, SLICE_KEYS_MIN), self.keys_max)))

    def _learn(self, keys: int, seconds: float) -> None:
        """Remember how fast it goes; never more than twice as fast as was thought."""
        if self.moves and seconds:
            known = self.database.keys_per_second
            self.database.keys_per_second = min(keys / seconds, 2 * known)

    def _commit(self, first: int, end: int, records: Records | None) -> tuple[Commit, Int64s]:
        heads, load = self.heads, self.load
        start, stop = self.rows_in, int(heads.ends[end - 1])
        keys = heads.keys.part(first, end)
        newest = heads.ends[first:end] - 1

        def work(commit: Commit) -> tuple[Commit, Int64s, manifest.FileEntry | None]:
            self._require_turn(commit)
            _require_group(commit, heads.group)
            base_seq = commit.take(stop - start) - start
            before = np.full(end - first, NEVER_US)
            if records is not None:
                write_us = np.full(end - first, commit.write_time_us)
                if heads.write_us is not None:
                    write_us = heads.write_us[first:end]
                seqs = base_seq + heads.seqs[first:end]
                codes = np.arange(end - first)
                stamp_many(records, keys.data, keys.offsets, codes, seqs, write_us)
                before = move_latest(commit, heads.group.id, keys, heads.event_us[newest], records)
            if start == 0:
                load.also(commit)
            return commit, before, self._save(commit, start, stop, base_seq)

        encoded_bytes = 0 if records is None else len(records.data)
        commit, before, self.entry = self.database.writer.call(
            work, load.now_us, bytes_needed=2 * encoded_bytes + (1 << 16)
        )
        return commit, before

    def _save(
        self, commit: Commit, start: int, stop: int, base_seq: int
    ) -> manifest.FileEntry | None:
        """List the file as far as it is in now, and write down how far that is."""
        entry = self.entry
        if entry is not None:
            entry = replace(
                entry,
                visible_rows=stop,
                min_seq=base_seq + start if start == 0 else entry.min_seq,
                max_seq=commit.last_seq,
                slices=(*entry.slices, (stop, base_seq, commit.write_time_us)),
                request=entry.request if stop < self.rows else "",
            )
            manifest.list_file(commit.env, commit.txn, entry)
        state = {
            "done": stop == self.rows,
            "rows": stop,
            "kept": self.rows,
            "file_id": None if entry is None else entry.file_id,
            "clock_us": self.load.clock_us,
        }
        requests.save(commit.env, commit.txn, self.load.request, commit.write_time_us, state)
        return entry

    def _require_turn(self, commit: Commit) -> None:
        """Nobody else has gone on with this ingest, and nobody took us for dead."""
        known = requests.find(commit.env, commit.txn, self.load.request, commit.write_time_us)
        file_id = None if self.entry is None else self.entry.file_id
        at = None if known is None else (known.get("rows"), known.get("file_id"))
        if at != (None if self.rows_in == 0 else (self.rows_in, file_id)):
            raise StoreBusy(
                "The same ingest is under way elsewhere, or was finished meanwhile. Send it again "
                "to see its result; nothing is added twice."
            )
        if self.rows_in or self.entry is None:
            return
        group_id = self.entry.group_id
        if not manifest.intent_stands(commit.env, commit.txn, group_id, self.entry.file_id):
            raise Unavailable(
                "The file of this ingest was taken away: an erasure came in between, or this "
                "process was taken for dead. Nothing was stored; send it again."
            )

    def _counted(self, first: int, end: int, before: Int64s, write_time_us: int) -> Counts:
        heads = self.heads
        start, stop = self.rows_in, int(heads.ends[end - 1])
        event_us = heads.event_us[start:stop]
        late = 0
        if (before != NEVER_US).any():
            rows_of_key = np.diff(heads.ends[first:end], prepend=start)
            late = int((event_us < np.repeat(before, rows_of_key)).sum())
        expired = 0
        if heads.expires_us is not None:
            expired = int((heads.expires_us[start:stop] <= write_time_us).sum())
        return Counts(accepted=stop - start, late=late, expired=expired)
