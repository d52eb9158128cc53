"""The cleaner: removes what crashes and finished readers leave behind.

==========================================  =======================================================
left behind                                 removed when
==========================================  =======================================================
an intent whose owner's lock is free        at once: the row in a transaction, then the file
a file taken out of the list                no pin needs its version, and after :data:`GRACE_US`
a file neither listed, intended, removed    at once: its intent was withdrawn, the unlink was not
                                            reached (the folder is listed before the manifest is
                                            read, and an intent comes before its file)
data of a dropped group                     in small steps, then its folder
what is held for a consumer                 never; but one beyond its limit is dropped
reader slots, pins, owners of the dead      at once
==========================================  =======================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.engine.snapshot import oldest_pin
from featurestore.storage import catalog, consumers, files, journal, latest, manifest, seam

if TYPE_CHECKING:
    from featurestore.engine.database import Database
    from featurestore.engine.writer import Commit

#: A removed file stays this long, for readers on media where they cannot pin.
GRACE_US = 10 * 60 * 1_000_000
_STEP = 1000


def clean(database: Database, now_us: int) -> None:
    """Remove everything in the table above that may go now."""
    database.env.clear_dead_readers()
    _drop_lagging_consumers(database, now_us)
    _withdraw_dead_intents(database, now_us)
    _delete_removed(database, now_us)
    _delete_orphans(database)
    _purge_dropped_groups(database, now_us)


def _drop_lagging_consumers(database: Database, now_us: int) -> None:
    with database.read() as txn:
        known = consumers.every(database.env, txn)
    if any(not consumer.dropped for consumer in known.values()):
        database.writer.call(lambda c: consumers.drop_lagging(c.env, c.txn, now_us), now_us)


def _withdraw_dead_intents(database: Database, now_us: int) -> None:
    with database.read() as txn:
        intents = manifest.intents(database.env, txn)
    owners = files.listing(database.locks, "owner-*")
    living = {path.name for path in owners if files.held(path) is not None}
    for group_id, file_id, intent in intents:
        if intent["owner"] in living:
            continue

        def work(commit: Commit, group_id: int = group_id, file_id: int = file_id) -> bool:
            return manifest.withdraw(commit.env, commit.txn, group_id, file_id)

        if database.writer.call(work, now_us):
            seam.point("clean.withdrawn")
            files.remove(database.root / manifest.file_path(group_id, file_id))


def _delete_removed(database: Database, now_us: int) -> None:
    with database.read() as txn:
        removed = manifest.removed_files(database.env, txn)
    needed = oldest_pin(database.locks)
    for entry in removed:
        # A reader pinned at version v sees the files that were removed after v.
        pinned = needed is not None and needed < entry.removed_version
        if pinned or now_us - entry.removed_at_us < GRACE_US:
            continue
        files.remove(database.root / entry.path)
        seam.point("clean.removed")

        def work(commit: Commit, entry: manifest.FileEntry = entry) -> None:
            manifest.forget(commit.env, commit.txn, entry)

        database.writer.call(work, now_us)


def _delete_orphans(database: Database) -> None:
    found = files.listing(database.root / "data", "*/*")
    with database.read() as txn:
        known = set()
        for entry in manifest.all_live_files(database.env, txn):
            known.add(entry.path)
        for entry in manifest.removed_files(database.env, txn):
            known.add(entry.path)
        for group_id, file_id, _ in manifest.intents(database.env, txn):
            known.add(manifest.file_path(group_id, file_id))
    for path in found:
        # A temporary name stands for the final one.
        name = path.name.removeprefix(".").removesuffix(".tmp")
        if f"data/{path.parent.name}/{name}" not in known:
            files.remove(path)


def _purge_dropped_groups(database: Database, now_us: int) -> None:
    with database.read() as txn:
        dropped = catalog.dropped_groups(database.env, txn)
    for group_id in dropped:
        purge_group(database, group_id, now_us)


def purge_group(database: Database, group_id: int, now_us: int) -> None:
    """Remove all data of a dropped group, a little per transaction."""

    def step(commit: Commit) -> bool:
        env, txn = commit.env, commit.txn
        more_latest = latest.delete_some(env, txn, group_id, _STEP)
        more_journal = journal.delete_drained(env, txn, group_id, 2**63 - 1)
        return more_latest or more_journal

    while database.writer.call(step, now_us):
        pass

    def finish(commit: Commit) -> None:
        env, txn = commit.env, commit.txn
        for entry in manifest.live_files(env, txn, group_id):
            manifest.unlist(env, txn, entry, commit.write_time_us)
        manifest.drop_state(env, txn, group_id)
        latest.drop_count(env, txn, group_id)
        catalog.forget_dropped(env, txn, group_id)

    database.writer.call(finish, now_us)
