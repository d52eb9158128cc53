"""Backup and restore: a consistent cut of a store in use, and a store made of it again.

::

    pin ─► engine, copied row by row ─► file list from the copy ─► files ─► checked ─► backup.json
           at one moment                 (so the two agree)        │                      │
                                    linked where the disk is the same; or linked          │
                                    from an earlier backup; else copied        written last: without
                                                                               it, it is no backup

**Verified.** Every file that comes is read again and held to its digest in the manifest, and every
row of the engine to its checksum.  A file linked from an earlier backup was checked when it came
there.

**Incremental.** Files never change, so only those that the earlier backup lacks are copied.

**A link is no copy.** On the disk of the store a backup costs no room, and guards against mistakes,
not against that disk: give the path of another one.

**Restore** checks the same digests, and gives the store a new *incarnation*: seqs go on behind a
gap, so that a token of what the old store did after the backup is refused, and never taken for
something else; consumers of the old one are told to begin anew.

What stands on the store has its documents in the environment, and its files in folders that are
named by their content (:data:`BESIDE`): they are linked or copied after it, since a document is
written after the files it names.  What a job has left in its own folder, its log and checkpoints,
is not copied; its record is.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurestore.engine.database import BACKUP_NOTE as NOTE
from featurestore.engine.database import FOLDERS
from featurestore.engine.snapshot import Pin
from featurestore.engine.verify.findings import Findings
from featurestore.engine.verify.scrub import scrub_rows
from featurestore.errors import CorruptStore, InvalidInput
from featurestore.event_time import format_us
from featurestore.storage import catalog, commits, consumers, files, manifest, seam
from featurestore.storage.environment import Environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from featurestore.engine.database import Database

#: Seqs between the last one of a backup and the first one of a store restored from it: more than
#: the old store can have given since.
SEQ_GAP = 10**10

#: Models, what monitors compare with and have found, what runs have kept, training sets.
BESIDE = ("models", "monitors", "runs/artefacts", "sets")


def backup(database: Database, target: Path, since: Path | None, now_us: int) -> int:
    """Copy a store into a new folder; returns the number of history files."""
    if target.exists() and files.listing(target, "*"):
        raise InvalidInput(f"{target} is not empty. Give the path of a new directory.")
    earlier = None if since is None else note_of(since)
    if earlier is not None:
        require_same_store(database, earlier["store_id"], since)
    for name in FOLDERS:
        files.make_folder(target / name)
    with one_moment(database, target / "engine", now_us) as (entries, note):
        for entry in entries:
            _bring(database.root, target, since, entry)
        _settle(target, entries, _copy_beside(database.root, target))
        files.write_small(target / NOTE, note)
        return len(entries)


def require_same_store(database: Database, store_id: object, what: object) -> None:
    """Refuse an earlier backup that is of another store."""
    if store_id != database.env.format["store_id"]:
        raise InvalidInput(f"{what} is a backup of another store; an increment needs one of this.")


def finish(target: Path, since: Path | None, note: bytes) -> int:
    """Make a backup of what has come of one over a wire; returns the number of history files.

    What came is held to its digests and made durable.  Files that were left out, because an
    earlier backup has them, are linked from there.  The note is written last.

    Raises
    ------
    CorruptStore
        What came is not what was sent, or not all of it.
    """
    if files.digest(target / "engine" / "data.mdb") != json.loads(note)["engine_digest"]:
        raise CorruptStore(f"The engine in {target} is not what was sent. Make the backup again.")
    copied = Environment(target / "engine", read_only=True)
    try:
        with copied.read() as txn:
            entries = manifest.all_live_files(copied, txn)
    finally:
        copied.close()
    for entry in entries:
        if _has(target, entry):
            _require_whole(target, entry)
            files.sync_file(target / entry.path)
        elif since is not None and _has(since, entry):
            _bring(since, target, since, entry)
        else:
            raise CorruptStore(f"{entry.path} has not come. Make the backup again.")
    beside = set()
    for path in files_beside(target):
        files.sync_file(path)
        beside.add(path.parent)
    _settle(target, entries, beside)
    files.write_small(target / NOTE, note)
    return len(entries)


@contextlib.contextmanager
def one_moment(
    database: Database, engine: Path, now_us: int
) -> Iterator[tuple[list[manifest.FileEntry], bytes]]:
    """Copy the environment into a folder; gives what else belongs to a backup of that moment.

    That is the history files, which stay until the end of the block, and the content of the note.
    """
    database.settle()
    pin = Pin(database.locks)
    try:
        database.env.copy(engine)
        copied = Environment(engine, read_only=True)
        try:
            _require_sound(copied)
            with copied.read() as txn:
                entries = manifest.all_live_files(copied, txn)
                seq = commits.last(copied, txn)[0]
        finally:
            copied.close()
        seam.point("backup.engine_copied")
        note = {
            "store_id": database.env.format["store_id"],
            "format": database.env.format["format"],
            "seq": seq,
            "made_at": format_us(now_us),
            "files": len(entries),
            "engine_digest": files.digest(engine / "data.mdb"),
        }
        yield entries, (json.dumps(note, indent=1) + "\n").encode()
    finally:
        pin.release()


def _require_sound(env: Environment) -> None:
    """Hold every row of the copy to its checksum: what is damaged is no backup."""
    findings = Findings()
    scrub_rows(env, findings)
    for fault in findings.finish().faults:
        raise CorruptStore(f"{fault} The backup is not complete. Run `featurestore verify`.")


def _bring(root: Path, target: Path, since: Path | None, entry: manifest.FileEntry) -> None:
    """Bring a file over, and check it."""
    files.make_folder((target / entry.path).parent)
    if since is not None and _has(since, entry):
        files.link_or_copy(since / entry.path, target / entry.path)
        return
    files.link_or_copy(root / entry.path, target / entry.path)
    _require_whole(target, entry)


def _require_whole(target: Path, entry: manifest.FileEntry) -> None:
    if files.digest(target / entry.path) != entry.digest:
        raise CorruptStore(
            f"{entry.path} is damaged: its bytes are not those that were written. The backup in "
            f"{target} is not complete. Run `featurestore verify`."
        )


def _has(folder: Path, entry: manifest.FileEntry) -> bool:
    """Return whether an earlier backup holds a file, as far as its size says."""
    try:
        return files.size(folder / entry.path) == entry.size_bytes
    except FileNotFoundError:
        return False


def _settle(target: Path, entries: list[manifest.FileEntry], beside: set[Path]) -> None:
    """Make what has been written durable."""
    files.sync_file(target / "engine" / "data.mdb")
    folders = beside | {(target / entry.path).parent for entry in entries}
    for folder in folders | {target / "engine", target / "data", target}:
        files.sync_folder(folder)


def note_of(path: Path) -> dict[str, Any]:
    """Return the note of a backup, which says of which store it is.

    Raises
    ------
    InvalidInput
        It is no backup, or was not finished.
    """
    try:
        note: dict[str, Any] = json.loads(files.content(path / NOTE))
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{path} is no backup, or one that was not finished: it has no {NOTE}."
        ) from error
    return note


def _copy_beside(root: Path, target: Path) -> set[Path]:
    """Link or copy the files of what stands on the store; returns their new folders."""
    folders = set()
    for path in files_beside(root):
        copy = target / path.relative_to(root)
        files.make_folder(copy.parent)
        files.link_or_copy(path, copy)
        folders.add(copy.parent)
    return folders


def files_beside(root: Path) -> Iterator[Path]:
    """Yield the files of what stands on the store."""
    for name in BESIDE:
        for path in files.listing(root / name, "[!.]*/**/*"):
            if path.is_file():
                yield path


# ── restoring ────────────────────────────────────────────────────────────────────────────────


def restore(source: Path, target: Path, incarnation: str, now_us: int) -> int:
    """Make a store of a backup, in a new folder; returns the number of history files."""
    note = note_of(source)
    if target.exists() and files.listing(target, "*"):
        raise InvalidInput(f"{target} is not empty. Give the path of a new directory.")
    if files.digest(source / "engine" / "data.mdb") != note["engine_digest"]:
        raise CorruptStore(
            f"{source / 'engine' / 'data.mdb'} is damaged: its bytes are not those of the backup. "
            "Restore another backup."
        )
    for name in FOLDERS:
        files.make_folder(target / name)
    # A copy in any case: it is going to be written to.
    files.copy(source / "engine" / "data.mdb", target / "engine" / "data.mdb")
    env = Environment(target / "engine", read_only=False)
    try:
        with env.read() as txn:
            entries = manifest.all_live_files(env, txn)
        for entry in entries:
            _bring(source, target, None, entry)
        seam.point("restore.files_brought")
        with env.write() as txn:
            _reincarnate(env, txn, incarnation, note, now_us)
        env.sync()
    finally:
        env.close()
    _settle(target, entries, _copy_beside(source, target))
    return len(entries)


def _reincarnate(
    env: Environment, txn: Any, incarnation: str, note: dict[str, Any], now_us: int
) -> None:
    last_seq, last_us = commits.last(env, txn)
    first_seq = (last_seq // SEQ_GAP + 1) * SEQ_GAP
    commits.append(env, txn, first_seq, max(now_us, last_us))
    gaps = [*env.format.get("gaps", ()), [last_seq, first_seq]]
    env.put_format(txn, incarnation=incarnation, gaps=gaps, restored_from=note["made_at"])
    for consumer in consumers.every(env, txn).values():
        reason = f"the store was restored from the backup of {note['made_at']}, at seq {last_seq}"
        consumers.put(env, txn, replace(consumer, dropped=consumer.dropped or reason))
    # What was being written when the backup was made is in nobody's hands.
    for group_id, file_id, _ in manifest.intents(env, txn):
        manifest.withdraw(env, txn, group_id, file_id)
    for entry in manifest.removed_files(env, txn):
        manifest.forget(env, txn, entry)
    catalog.bump(env, txn, catalog.VERSION)
