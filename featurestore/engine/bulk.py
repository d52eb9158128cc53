"""Many records in one transaction: put online what is newer, and add all to the journal.

What :func:`featurestore.engine.writer.apply` does to one record, for arrays of them.  LMDB's own
functions are called in a compiled loop where they can be had (`storage.native`); a plain loop does
the same where they cannot, for few records, or where a key is too long for LMDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.encoding.key_columns import KeyColumn
from featurestore.encoding.runs import worth_compiling
from featurestore.engine.writer import Outcome, Put, apply
from featurestore.errors import CorruptStore
from featurestore.storage import journal, latest, native
from featurestore.storage.latest import KEY_INLINE_BYTES_MAX

if TYPE_CHECKING:
    from featurestore.encoding.columns import Records
    from featurestore.engine.file_order import Keys
    from featurestore.engine.rows import Batch
    from featurestore.engine.writer import Commit
    from featurestore.storage.native import Native

    Int64s = np.ndarray[Any, np.dtype[np.int64]]

#: What was online before where nothing was: older than anything.
NEVER_US = int(np.iinfo(np.int64).min)


def move_latest(
    commit: Commit, group_id: int, keys: Keys, event_us: Int64s, records: Records
) -> Int64s:
    """Put stamped records online, each unless what is there is newer.

    Parameters
    ----------
    commit : Commit
        The transaction.
    group_id : int
        Whose records they are.
    keys : Keys of m keys
        In file order, so that LMDB pages are touched one after the other.
    event_us : int64[m]
        Event times of the records.
    records : Records
        One for each key.

    Returns
    -------
    int64[m]
        Event time that was online before; `NEVER_US` where nothing was.
    """
    before = np.full(len(keys), NEVER_US)
    seam = commit.env.native_at(commit.txn) if worth_compiling(len(keys)) else None
    if seam is not None and np.diff(keys.offsets).max(initial=0) <= KEY_INLINE_BYTES_MAX:
        _move_compiled(commit, seam, group_id, keys, event_us, records, before)
    else:
        _move_one_by_one(commit, group_id, keys, event_us, records, before)
    commit.count_keys(group_id, int((before == NEVER_US).sum()))
    return before


def _move_one_by_one(
    commit: Commit,
    group_id: int,
    keys: Keys,
    event_us: Int64s,
    records: Records,
    before: Int64s,
) -> None:
    key_bounds, bounds = keys.offsets.tolist(), records.offsets.tolist()
    for at, (key_hash, time_us) in enumerate(
        zip(keys.hashes.tolist(), event_us.tolist(), strict=True)
    ):
        key = keys.data[key_bounds[at] : key_bounds[at + 1]].tobytes()
        current = latest.get(commit.env, commit.txn, group_id, key_hash, key)
        if current is not None:
            before[at] = latest.event_time_us(current)
        if time_us >= before[at]:
            record = records.data[bounds[at] : bounds[at + 1]].tobytes()
            latest.put(commit.env, commit.txn, group_id, key_hash, key, record)


def _move_compiled(
    commit: Commit,
    seam: Native,
    group_id: int,
    keys: Keys,
    event_us: Int64s,
    records: Records,
    before: Int64s,
) -> None:
    from featurestore.kernels.latest import CORRUPT, move_latest

    code = move_latest(
        seam.put,
        seam.transaction(commit.txn),
        seam.databases["latest"],
        group_id,
        keys.data,
        keys.offsets,
        keys.hashes,
        event_us,
        records.data,
        records.offsets,
        before,
    )
    if code == CORRUPT:
        raise CorruptStore("A latest record is cut short. Run `featurestore verify`.")
    if code:
        raise native.error(code)


def add_to_journal(
    commit: Commit, group_id: int, first_seq: int, keys: KeyColumn, records: Records
) -> None:
    """Add stamped records to the history of a group, in the order of their seqs.

    Parameters
    ----------
    commit : Commit
        The transaction, which has taken the seqs.
    group_id : int
        Whose records they are.
    first_seq : int
        Of the first record; the others follow.
    keys : KeyColumn
        The key of each record.
    records : Records of n records
        Stamped.
    """
    if not worth_compiling(len(keys.codes)):
        for row, (code, record) in enumerate(zip(keys.codes, records.split(), strict=True)):
            commit.journal(group_id, first_seq + row, keys.keys[code], bytes(record))
        return
    from featurestore.kernels.latest import journal_bytes

    commit.write_journal(group_id)
    key_bytes = np.diff(keys.offsets)[keys.codes]
    ends = np.cumsum(2 + key_bytes + np.diff(records.offsets))
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + journal.ENTRY_BYTES_MAX)) + 1
        stop = min(stop, len(ends))
        entry = np.empty(journal.HEAD_BYTES + int(ends[stop - 1]) - before, np.uint8)
        journal_bytes(
            keys.data, keys.offsets, keys.codes, *records, start, stop, journal.HEAD_BYTES, entry
        )
        journal.put_entry(
            commit.env, commit.txn, group_id, first_seq + start, first_seq + stop - 1,
            stop - start, entry.data,
        )  # fmt: skip
        start = stop


def put_each(commit: Commit, batch: Batch, records: Records) -> list[Outcome]:
    """Put records one after the other; what :func:`featurestore.engine.writer.apply` does to one.

    Parameters
    ----------
    commit : Commit
        The transaction.
    batch : Batch of n rows
        Aimed at both stores; none of its keys is null.
    records : Records
        Its records; stamped in place.

    Returns
    -------
    list of Outcome
        Of each record, in the order of the rows.
    """
    group, keys = batch.plan.group, batch.keys
    seam = commit.env.native_at(commit.txn) if worth_compiling(batch.rows) else None
    if seam is None or not group.online or np.diff(keys.offsets).max() > KEY_INLINE_BYTES_MAX:
        return _put_one_by_one(commit, batch, records)
    from featurestore.kernels import latest as kernels

    seqs, write_us, outcomes = (np.empty(batch.rows, np.int64) for _ in range(3))
    expires_us = np.array(batch.expires_us(batch.event_us))
    first_seq = commit.last_seq + 1
    code = kernels.put_each(
        seam.get,
        seam.put,
        seam.transaction(commit.txn),
        seam.databases["latest"],
        group.id,
        keys.data,
        keys.offsets,
        keys.hashes(batch.key_hash),
        keys.codes,
        batch.event_us,
        *records,
        first_seq,
        commit.write_time_us,
        outcomes,
        seqs,
        write_us,
        expires_us,
    )
    if code == kernels.CORRUPT:
        raise CorruptStore("A latest record is cut short. Run `featurestore verify`.")
    if code:
        raise native.error(code)
    commit.count_keys(group.id, int((outcomes == kernels.NEW).sum()))
    kept = np.flatnonzero(outcomes != kernels.UNCHANGED)
    commit.take(len(kept))
    if group.offline and len(kept):
        rows = KeyColumn(keys.codes[kept], keys.data, keys.offsets)
        whole = records if len(kept) == batch.rows else records.take(kept)
        add_to_journal(commit, group.id, first_seq, rows, whole)
    words = {
        kernels.MOVED: "moved",
        kernels.LATE: "late",
        kernels.UNCHANGED: "unchanged",
        kernels.NEW: "moved",
    }
    named = map(words.__getitem__, outcomes.tolist())
    return list(map(Outcome, seqs.tolist(), named, write_us.tolist(), expires_us.tolist()))


def _put_one_by_one(commit: Commit, batch: Batch, records: Records) -> list[Outcome]:
    group, keys = batch.plan.group, batch.keys
    expires_us = batch.expires_us(batch.event_us).tolist()
    puts = zip(
        keys.codes.tolist(), batch.event_us.tolist(), expires_us, records.split(), strict=True
    )
    return [
        apply(
            commit,
            Put(
                group_id=group.id,
                group_name=group.name,
                online=group.online,
                offline=group.offline,
                hard=False,
                lmdb_key=batch.plan.lmdb_key(keys.keys[code]),
                key=keys.keys[code],
                event_time_us=event_time_us,
                expires_at_us=expires_at_us,
                record=record,
                asked=(),
                refusal=None,
            ),
        )
        for code, event_time_us, expires_at_us, record in puts
    ]
