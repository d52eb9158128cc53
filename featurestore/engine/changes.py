"""Changes: every accepted record of the store, in commit order, for replicas and caches.

::

    seq   ──────┬───────────┬───────────┬─────────►
    files ░░░░░░│░░ ░░░ ░░░░│░░░ ░ ░    │           a stretch of the order is read at a time, from
    tail        │           │     ▒▒▒▒▒▒│▒▒         the files that reach into it and the tail, by
                └ stretch ──┘                       a snapshot of its own; then yielded

A record keeps its ``seq`` whatever is flushed and compacted, so stretches read at different moments
fit together, a consumer that remembers the last seq it has seen misses nothing and sees nothing
twice, and neither files nor LMDB pages are held while it works.  Memory is bounded: seqs number
the records of the whole store, so a stretch of them has no more rows than that, and of a file one
row group is in memory.
"""

from __future__ import annotations

import contextlib
import heapq
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.encoding.columns import decode_history
from featurestore.errors import ConsumerExists, InvalidInput, UnknownFeatureGroup
from featurestore.storage import commits, consumers, journal, manifest
from featurestore.storage.parquet import WRITE_SEQ

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.engine.writer import Commit
    from featurestore.schema import FeatureGroup
    from featurestore.storage.consumers import Consumer
    from featurestore.storage.manifest import FileEntry

#: Seqs read at a time: larger reads files fewer times over, smaller takes less memory.
STRETCH_SEQS = 100_000
_PAGE_ROWS = 1_000


def changes(
    database: Database, since: int, names: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield every record with ``seq > since``, in order of seq, up to the last commit of now.

    Yields
    ------
    dict
        ``group``, ``seq``, ``write_time``, ``is_deleted``, ``expires_at`` and ``record``, the
        features by name.
    """
    with database.read() as txn:
        last_seq = commits.last(database.env, txn)[0]
        for name in names or ():
            # Also where there is nothing to read: a misspelt name is no empty history.
            database.catalog_at(txn).group(name)
    database.env.require_lasting(since)
    while (since := database.env.after_gap(since)) < last_seq:
        upto = min(since + STRETCH_SEQS, last_seq)
        tables = None
        while tables is None:
            tables = _stretch(database, names, since, upto)
        yield from heapq.merge(*(_records(g, t) for g, t in tables), key=itemgetter("seq"))
        since = upto


def _stretch(
    database: Database, names: Sequence[str] | None, since: int, upto: int
) -> list[tuple[FeatureGroup, pa.Table]] | None:
    """Read ``since < seq <= upto`` of some groups, each sorted by seq; None to try again.

    The tail is read after the snapshot, a stretch of it only; if a flush came in between, files
    and tail do not fit together.
    """
    known = database.catalog().groups
    groups = [name for name in known if known[name].offline] if names is None else names
    tables = []
    with contextlib.ExitStack() as stack:
        try:
            snapshots = stack.enter_context(database.snapshot(groups, with_tail=False))
        except UnknownFeatureGroup:
            if names is None:  # one was deleted this moment
                return None
            raise
        for snapshot in snapshots.values():
            snapshot.require_history()
            tail = _tail(database, snapshot, since, upto)
            if tail is None:
                return None
            parts = [
                piece
                for entry in snapshot.files
                if entry.max_seq > since and entry.min_seq <= upto
                for piece in _pieces(snapshot, entry, since, upto)
            ]
            table = pa.concat_tables([*parts, tail])
            tables.append((snapshot.group, table.sort_by(WRITE_SEQ)))
    return tables


def _tail(database: Database, snapshot: GroupSnapshot, since: int, upto: int) -> pa.Table | None:
    env, group_id = database.env, snapshot.group.id
    drained_seq = snapshot.state.drained_seq
    with database.read() as txn:
        if manifest.state(env, txn, group_id).drained_seq != drained_seq:
            return None
        after = max(since, drained_seq)
        keys, records, _ = journal.read(env, txn, group_id, after, upto_seq=upto)
    return _between(decode_history(snapshot.group, keys, records, database.key_hash), since, upto)


def _pieces(snapshot: GroupSnapshot, entry: FileEntry, since: int, upto: int) -> Iterator[pa.Table]:
    """Read the rows of a file between two seqs, a row group at a time; often only the seqs."""
    with snapshot.open(entry) as file:
        for number in range(file.row_groups):
            if _between(file.read([WRITE_SEQ], [number]), since, upto).num_rows > 0:
                yield _between(file.read(row_groups=[number]), since, upto)


def _between(table: pa.Table, since: int, upto: int) -> pa.Table:
    seq = table.column(WRITE_SEQ)
    return table.filter(pc.and_(pc.greater(seq, since), pc.less_equal(seq, upto)))


def _records(group: FeatureGroup, table: pa.Table) -> Iterator[dict[str, Any]]:
    for page in table.to_batches(max_chunksize=_PAGE_ROWS):
        for row in page.to_pylist():
            yield {
                "group": group.name,
                "seq": row["write_seq"],
                "write_time": row["write_time"],
                "is_deleted": row["is_deleted"],
                "expires_at": row["expires_at"],
                "record": {feature.name: row[feature.name] for feature in group.features},
            }


# ── consumers ────────────────────────────────────────────────────────────────────────────────


def create_consumer(
    database: Database, consumer: Consumer, now_us: int, *, exist_ok: bool
) -> Consumer:
    """Begin to hold what comes after the consumer's seq."""

    def work(commit: Commit) -> Consumer:
        env, txn = commit.env, commit.txn
        known = consumers.every(env, txn).get(consumer.name)
        if known is not None and exist_ok:
            return consumers.get(env, txn, consumer.name)
        if known is not None:
            raise ConsumerExists(
                f'There is a consumer "{consumer.name}" already, at seq {known.seq}. Give another '
                "name, or exist_ok=True to go on where it is."
            )
        _require_seq(commit, consumer.seq)
        consumers.put(env, txn, consumer)
        return consumer

    return database.writer.call(work, now_us)


def acknowledge(database: Database, name: str, seq: int, now_us: int) -> Consumer:
    """Move a consumer's mark forward; one that is there or further already stays."""

    def work(commit: Commit) -> Consumer:
        env, txn = commit.env, commit.txn
        known = consumers.get(env, txn, name)
        _require_seq(commit, seq)
        if seq > known.seq:
            known = replace(known, seq=seq)
            consumers.put(env, txn, known)
        return known

    return database.writer.call(work, now_us)


def _require_seq(commit: Commit, seq: int) -> None:
    if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq <= commit.last_seq:
        raise InvalidInput(
            f"{seq!r} is no seq of this store; the last commit was {commit.last_seq}."
        )
    commit.env.require_lasting(seq)


def delete_consumer(database: Database, name: str, now_us: int) -> None:
    """Forget a consumer; nothing is held for it any more."""

    def work(commit: Commit) -> None:
        if not consumers.delete(commit.env, commit.txn, name):
            consumers.get(commit.env, commit.txn, name)  # says that there is none

    database.writer.call(work, now_us)
