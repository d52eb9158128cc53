"""Backup: a consistent copy of a store, taken while it is in use.

The environment is copied by LMDB itself at one moment.  What files that moment needs is read from
the *copy*, so the two cannot disagree; a pin holds them meanwhile.  Files are linked where the
target is on the same disk, as they never change, and copied elsewhere.

What stands on the store has its documents in the environment, and its files in folders that are
named by their content (:data:`BESIDE`): they are linked or copied after it, since a document is
written after the files it names.  What a job has left in its own folder, its log and checkpoints,
is not copied; its record is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.engine.database import FOLDERS
from featurestore.engine.snapshot import Pin
from featurestore.errors import InvalidInput
from featurestore.storage import files, manifest, seam
from featurestore.storage.environment import Environment

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.engine.database import Database


#: Models, what runs have kept, training sets.
BESIDE = ("models", "runs/artefacts", "sets")


def backup(database: Database, target: Path) -> int:
    """Copy a store into a new folder; returns the number of history files."""
    if target.exists() and files.listing(target, "*"):
        raise InvalidInput(f"{target} is not empty. Give the path of a new directory.")
    database.settle()
    pin = Pin(database.locks)
    try:
        for name in FOLDERS:
            files.make_folder(target / name)
        database.env.copy(target / "engine")
        copied = Environment(target / "engine", read_only=True)
        try:
            with copied.read() as txn:
                entries = manifest.all_live_files(copied, txn)
        finally:
            copied.close()
        seam.point("backup.engine_copied")
        for entry in entries:
            files.make_folder((target / entry.path).parent)
            files.link_or_copy(database.root / entry.path, target / entry.path)
        folders = {(target / entry.path).parent for entry in entries}
        folders |= _copy_beside(database.root, target)
        files.sync_file(target / "engine" / "data.mdb")
        for folder in folders | {target / "engine", target}:
            files.sync_folder(folder)
        return len(entries)
    finally:
        pin.release()


def _copy_beside(root: Path, target: Path) -> set[Path]:
    """Link or copy the files of what stands on the store; returns their new folders."""
    folders = set()
    for name in BESIDE:
        for path in files.listing(root / name, "[!.]*/**/*"):
            if path.is_file():
                copy = target / path.relative_to(root)
                files.make_folder(copy.parent)
                files.link_or_copy(path, copy)
                folders.add(copy.parent)
    return folders
