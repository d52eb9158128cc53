"""Committing a batch: few rows through the journal, many as a staged file, slice after slice.

::

    sort ─► write the file ─► slice 1 ─► slice 2 ─► …        each slice is one transaction:
                                 │ list the file as far as this slice
                                 │ take its seqs: base + ordinal of each row
                                 └ move the latest record of each of its keys

A staged file is durable before its first slice is committed, and invisible until then.  A slice
is a stretch of whole row groups, so a key's rows may span two; within a slice ordinals follow
the order of the input, so of two rows with one event time the later wins, as everywhere.  The
write lock is held for a slice, not for the file.

The request row says how many slices are in; the same request after a crash goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.encoding.columns import history_schema
from featurestore.encoding.values import stamp
from featurestore.engine.filing import give_up, write_file
from featurestore.errors import (
    StoreBusy,
    Unavailable,
    UnknownFeatureGroup,
)
from featurestore.event_time import NO_EXPIRY
from featurestore.record import STORE_OFFLINE, STORE_ONLINE
from featurestore.storage import catalog, latest, manifest, parquet, requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurestore.engine.database import Database
    from featurestore.engine.rows import Batch
    from featurestore.engine.writer import Commit

    Int64s = np.ndarray[Any, np.dtype[np.int64]]

#: Rows of a slice; whole row groups, so that a slice is readable by itself.
SLICE_ROWS = parquet.ROW_GROUP_ROWS


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


def through_journal(
    database: Database, batch: Batch, request: requests.Request, now_us: int
) -> Counts:
    """Commit a small batch in one transaction, like ``write``."""
    group = batch.plan.group
    records = batch.records(np.arange(batch.rows))
    order = np.lexsort((np.arange(batch.rows), batch.event_us, batch.key_codes))
    newest = order[_run_ends(batch.key_codes[order])]

    def work(commit: Commit) -> Counts:
        known = requests.find(commit.env, commit.txn, request, commit.write_time_us)
        if known is not None:
            return Counts(replayed=batch.rows)
        _require_group(commit, batch)
        first = commit.take(batch.rows)
        stamped = [
            stamp(record, batch.keys[code], first + row, _write_us(batch, row, commit))
            for row, (record, code) in enumerate(zip(records, batch.key_codes, strict=True))
        ]
        if group.offline and batch.stores & STORE_OFFLINE:
            for row, code in enumerate(batch.key_codes):
                commit.journal(group.id, first + row, batch.keys[code], stamped[row])
        late = _move_latest(commit, batch, newest, {int(r): stamped[r] for r in newest})
        counts = _counted(batch, np.arange(batch.rows), late, commit.write_time_us)
        requests.save(commit.env, commit.txn, request, commit.write_time_us, {"done": True})
        return counts

    bytes_needed = 2 * sum(map(len, records)) + 64 * batch.rows
    return database.writer.call(work, now_us, bytes_needed=bytes_needed)


def _write_us(batch: Batch, row: int, commit: Commit) -> int:
    return commit.write_time_us if batch.write_us is None else int(batch.write_us[row])


def _run_ends(codes: Int64s) -> Int64s:
    """Return the positions of the last row of each run of equal codes."""
    if len(codes) == 0:
        return np.zeros(0, np.int64)
    return np.append(np.flatnonzero(codes[1:] != codes[:-1]), len(codes) - 1)


def _move_latest(
    commit: Commit, batch: Batch, newest: Int64s, records: Mapping[int, bytes]
) -> Int64s:
    """Put the newest row of each key online, unless what is there is newer.

    Returns
    -------
    int64[number of keys]
        Event time that was online before, by key code; the smallest int64 where nothing was.
    """
    group = batch.plan.group
    before = np.full(len(batch.keys), np.iinfo(np.int64).min, np.int64)
    if not (group.online and batch.stores & STORE_ONLINE):
        return before
    # In file order, so that LMDB pages are touched one after the other.
    in_order = newest[np.argsort(batch.key_ranks[batch.key_codes[newest]], kind="stable")]
    for row in in_order.tolist():
        code = batch.key_codes[row]
        key, key_hash = batch.keys[code], int(batch.key_hashes[code])
        current = latest.get(commit.env, commit.txn, group.id, key_hash, key)
        if current is not None:
            before[code] = latest.event_time_us(current)
        if batch.event_us[row] >= before[code]:
            latest.put(commit.env, commit.txn, group.id, key_hash, key, records[row])
    return before


def _counted(batch: Batch, rows: Int64s, before: Int64s, now_us: int) -> Counts:
    return Counts(
        accepted=len(rows),
        late=int((batch.event_us[rows] < before[batch.key_codes[rows]]).sum()),
        expired=int((batch.expires_us[rows] <= now_us).sum()),
    )


def _require_group(commit: Commit, batch: Batch) -> None:
    group = batch.plan.group
    if not catalog.has_group(commit.env, commit.txn, group.id):
        raise UnknownFeatureGroup(
            f'Feature group "{group.name}" was deleted meanwhile. Nothing more was stored.'
        )


class Staging:
    """One staged file on its way into the store."""

    def __init__(
        self,
        database: Database,
        batch: Batch,
        request: requests.Request,
        now_us: int,
        *,
        atomic: bool,
    ) -> None:
        self.database = database
        self.batch = batch
        self.request = request
        self.now_us = now_us
        self.slice_rows = batch.rows if atomic else SLICE_ROWS
        ranks = batch.key_ranks[batch.key_codes]
        self.order = np.lexsort((np.arange(batch.rows), batch.event_us, ranks))

    def run(self) -> Counts:
        """Stage the file, or find the one an interrupted run has staged, and commit its slices."""
        progress = self._progress()
        if progress is not None and progress["done"]:
            return Counts(replayed=self.batch.rows)
        total = Counts()
        if progress is None:
            entry = self._stage()
            done = 0
        else:
            self.slice_rows = progress["slice_rows"]
            done = progress["rows"]
            found = self._find(progress["file_id"])
            entry = found
            total = Counts(replayed=done)
        try:
            while done < self.batch.rows:
                entry, counts = self._commit_slice(entry, done)
                total += counts
                done = entry.visible_rows
        except BaseException:
            if done == 0:
                give_up(self.database, entry.group_id, entry.file_id, self.now_us)
            raise
        return total

    def _progress(self) -> Any:
        with self.database.read() as txn:
            return requests.find(self.database.env, txn, self.request, self.now_us)

    def _find(self, file_id: int) -> manifest.FileEntry:
        with self.database.read() as txn:
            entry = manifest.live_file(self.database.env, txn, self.batch.plan.group.id, file_id)
        if entry is None:
            raise StoreBusy(
                "An earlier run of this ingest was interrupted and its file is gone. "
                "Send it again with another id."
            )
        return entry

    def _stage(self) -> manifest.FileEntry:
        return write_file(
            self.database,
            self.batch.plan.group,
            "staged",
            self._table(),
            self.now_us,
            visible_rows=0,
            request=self.request.key.hex(),
        )

    def _table(self) -> pa.Table:
        """Return the rows in file order and the history layout, ordinals for seqs."""
        batch, order = self.batch, self.order
        ordinals = np.empty(batch.rows, np.int64)
        for start in range(0, batch.rows, self.slice_rows):
            # Seqs of a slice follow the order of the input.
            part = order[start : start + self.slice_rows]
            ordinals[start + np.argsort(part, kind="stable")] = np.arange(len(part))
        take = pa.array(order)
        schema = history_schema(batch.plan.group)
        expires = batch.expires_us[order]
        times = pa.timestamp("us", tz="UTC")
        system = {
            parquet.KEY_HASH: pa.array(batch.key_hashes[batch.key_codes[order]]),
            parquet.WRITE_SEQ: pa.array(ordinals),
            parquet.WRITE_TIME: pa.nulls(batch.rows, times)
            if batch.write_us is None
            else pa.array(batch.write_us[order]).view(times),
            parquet.EXPIRES_AT: pa.array(expires, mask=expires == NO_EXPIRY).view(times),
            parquet.IS_DELETED: pa.array(np.zeros(batch.rows, np.bool_)),
            parquet.STORES: pa.array(np.full(batch.rows, batch.stores, np.int8)),
        }
        arrays = [
            system[name] if name in system else batch.columns[name].take(take)
            for name in schema.names
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _commit_slice(
        self, entry: manifest.FileEntry, start: int
    ) -> tuple[manifest.FileEntry, Counts]:
        batch = self.batch
        end = min(start + self.slice_rows, batch.rows)
        rows = self.order[start:end]
        newest = rows[_run_ends(batch.key_codes[rows])]
        records = dict(zip(newest.tolist(), batch.records(newest), strict=True))
        # Ordinal of a row within the slice: its place among the slice's rows in input order.
        in_input_order = np.sort(rows)
        ordinal = dict(
            zip(newest.tolist(), np.searchsorted(in_input_order, newest).tolist(), strict=True)
        )

        def work(commit: Commit) -> tuple[manifest.FileEntry, Counts]:
            self._require_turn(commit, entry, start)
            _require_group(commit, batch)
            base_seq = commit.take(end - start)
            stamped = {
                row: stamp(
                    record,
                    batch.keys[batch.key_codes[row]],
                    base_seq + ordinal[row],
                    _write_us(batch, row, commit),
                )
                for row, record in records.items()
            }
            before = _move_latest(commit, batch, newest, stamped)
            grown = replace(
                entry,
                visible_rows=end,
                min_seq=base_seq if start == 0 else entry.min_seq,
                max_seq=commit.last_seq,
                slices=(*entry.slices, (end, base_seq, commit.write_time_us)),
                request=entry.request if end < batch.rows else "",
            )
            manifest.list_file(commit.env, commit.txn, grown)
            state = {
                "done": end == batch.rows,
                "file_id": entry.file_id,
                "rows": end,
                "slice_rows": self.slice_rows,
            }
            requests.save(commit.env, commit.txn, self.request, commit.write_time_us, state)
            return grown, _counted(batch, rows, before, commit.write_time_us)

        bytes_needed = 2 * sum(map(len, records.values())) + (1 << 16)
        return self.database.writer.call(work, self.now_us, bytes_needed=bytes_needed)

    def _require_turn(self, commit: Commit, entry: manifest.FileEntry, start: int) -> None:
        """Nobody else has gone on with this ingest, and nobody took us for dead."""
        known = requests.find(commit.env, commit.txn, self.request, commit.write_time_us)
        ours = known is None if start == 0 else _is_at(known, entry.file_id, start)
        if not ours:
            raise StoreBusy(
                "The same ingest is under way elsewhere, or was finished meanwhile. Send it again "
                "to see its result; nothing is added twice."
            )
        if start == 0 and not manifest.intent_stands(
            commit.env, commit.txn, entry.group_id, entry.file_id
        ):
            raise Unavailable(
                "This ingest was taken for dead and its file removed. Nothing was stored; send it "
                "again."
            )


def _is_at(known: Any, file_id: int, rows: int) -> bool:
    return known is not None and known.get("file_id") == file_id and known.get("rows") == rows
