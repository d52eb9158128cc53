"""The flusher: moves a stretch of the journal into a sorted file, exactly once.

::

    1  intent row                              crash here: the cleaner removes the intent
    2  read the tail, sort, write the file     crash here: and then the file
    3  one transaction:                        crash before: as above; after: done
         the intent stands, and drained_seq is what it was at 1
         list the file, move drained_seq, intent out
    4  delete the drained rows, some entries   crash here: readers skip them, the next flush
       a transaction                           deletes them

One flusher at a time is elected by a lock, but nothing relies on it: a second one, or one that
slept through its own funeral, fails the check of step 3 and drops its file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from featurestore.encoding.columns import decode_history
from featurestore.encoding.runs import joined_runs
from featurestore.engine import cleaner
from featurestore.engine.filing import Pace, give_up, go_on, write_file
from featurestore.storage import catalog, commits, files, journal, manifest, parquet, seam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurestore.encoding.runs import Runs
    from featurestore.engine.database import Database
    from featurestore.engine.writer import Commit
    from featurestore.schema import FeatureGroup

#: Journal records that go into one file; bounds the memory of a flush.
FLUSH_ROWS = 1 << 20
#: Journal records copied out in one transaction, some milliseconds of work.
READ_ROWS = 5_000
#: Drained entries deleted in one transaction.  Few near a full map, where a delete of a hundred
#: finds no room; else as many as take a millisecond or two.
DELETE_ENTRIES_NEAR_FULL = 64
DELETE_ENTRIES = 1_000


def flush(database: Database, groups: Sequence[FeatureGroup], now_us: int) -> int:
    """Move the journal of some groups into files.

    Everything acknowledged before the call is in a file afterwards, or was moved there by
    another flusher; writes that come meanwhile wait for the next flush.

    Returns
    -------
    int
        Rows moved.
    """
    lock = files.FileLock.acquire(database.locks / "flush")
    try:
        moved = sum(flush_group(database, group, now_us) for group in groups)
        cleaner.clean(database, now_us)
        return moved
    finally:
        lock.release()


def flush_group(database: Database, group: FeatureGroup, now_us: int, pace: Pace = go_on) -> int:
    """Move the journal of one group into files, under the flush lock; returns rows moved."""
    with database.read() as txn:
        end_seq = commits.last(database.env, txn)[0]
    moved = 0
    while rows := _flush_stretch(database, group, end_seq, now_us, pace):
        moved += rows
    delete_drained(database, group, now_us, pace)
    return moved


def _flush_stretch(
    database: Database, group: FeatureGroup, end_seq: int, now_us: int, pace: Pace
) -> int:
    """Write the next file; returns its rows, 0 when nothing at or below ``end_seq`` is left."""
    with database.read() as txn:
        drained_seq = manifest.state(database.env, txn, group.id).drained_seq
    keys, records, last_seq = _read(database, group, drained_seq, end_seq, pace)
    if not keys.rows:
        return 0
    table = parquet.sort_history(
        decode_history(group, keys, records, database.key_hash), group, database.key_hash
    )
    pace()
    seam.point("flush.read")
    entry = write_file(database, group, "flush", table, now_us)
    seam.point("flush.written")
    if not database.writer.call(lambda c: _commit(c, entry, drained_seq, last_seq), now_us):
        give_up(database, group.id, entry.file_id, now_us)
        return 0
    seam.point("flush.listed")
    return keys.rows


def _read(
    database: Database, group: FeatureGroup, drained_seq: int, end_seq: int, pace: Pace
) -> tuple[Runs, Runs, int]:
    """Copy the next stretch of the journal out, a little per transaction: others take turns."""
    parts: list[tuple[Runs, Runs]] = []
    count, last_seq = 0, drained_seq
    while count < FLUSH_ROWS and last_seq < end_seq:
        with database.read() as txn:
            some = min(READ_ROWS, FLUSH_ROWS - count)
            keys, records, last_seq = journal.read(
                database.env, txn, group.id, last_seq, limit=some
            )
        if not keys.rows:
            break
        parts.append((keys, records))
        count += keys.rows
        pace()
    return joined_runs([k for k, _ in parts]), joined_runs([r for _, r in parts]), last_seq


def _commit(commit: Commit, entry: manifest.FileEntry, drained_seq: int, last_seq: int) -> bool:
    """List the file if the world is as it was when its rows were read."""
    env, txn = commit.env, commit.txn
    state = manifest.state(env, txn, entry.group_id)
    if not manifest.intent_stands(env, txn, entry.group_id, entry.file_id):
        return False
    if state.drained_seq != drained_seq or not catalog.has_group(env, txn, entry.group_id):
        return False
    manifest.list_file(env, txn, entry)
    new = replace(state, drained_seq=last_seq, flushed_at_us=commit.write_time_us)
    manifest.put_state(env, txn, entry.group_id, new)
    return True


def delete_drained(
    database: Database, group: FeatureGroup, now_us: int, pace: Pace = go_on
) -> None:
    """Delete the journal entries of a group that files hold."""
    env = database.env
    with database.read() as txn:
        drained_seq = manifest.state(env, txn, group.id).drained_seq
        limit = DELETE_ENTRIES_NEAR_FULL if env.is_near_full(txn) else DELETE_ENTRIES
    more = True
    while more:
        more = database.writer.call(
            lambda c: journal.delete_drained(c.env, c.txn, group.id, drained_seq, limit), now_us
        )
        pace()
