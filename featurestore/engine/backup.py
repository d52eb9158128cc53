"""Backup: a consistent copy of a store, taken while it is in use.

The environment is copied by LMDB itself at one moment.  What files that moment needs is read from
the *copy*, so the two cannot disagree; a pin holds them meanwhile.  Files are linked where the
target is on the same disk, as they never change, and copied elsewhere.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from featurestore.engine.database import FOLDERS
from featurestore.engine.snapshot import Pin
from featurestore.errors import InvalidInput
from featurestore.storage import files, manifest, seam
from featurestore.storage.environment import Environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from featurestore.engine.database import Database


def backup(database: Database, target: Path) -> int:
    """Copy a store into a new folder; returns the number of history files."""
    if target.exists() and files.listing(target, "*"):
        raise InvalidInput(f"{target} is not empty. Give the path of a new directory.")
    for name in FOLDERS:
        files.make_folder(target / name)
    with one_moment(database, target / "engine") as paths:
        for path in paths:
            files.make_folder((target / path).parent)
            files.link_or_copy(database.root / path, target / path)
        files.sync_file(target / "engine" / "data.mdb")
        for folder in {(target / path).parent for path in paths} | {target / "engine", target}:
            files.sync_folder(folder)
        return len(paths)


@contextlib.contextmanager
def one_moment(database: Database, engine: Path) -> Iterator[list[str]]:
    """Copy the environment into a folder; gives the history files that the copy needs.

    They are named from the store's folder, and stay until the end of the block.
    """
    database.settle()
    pin = Pin(database.locks)
    try:
        database.env.copy(engine)
        copied = Environment(engine, read_only=True)
        try:
            with copied.read() as txn:
                entries = manifest.all_live_files(copied, txn)
        finally:
            copied.close()
        seam.point("backup.engine_copied")
        yield [entry.path for entry in entries]
    finally:
        pin.release()
