"""Writing a history file under an intent, and giving one up again.

Between the intent and the listing a file is nobody's history.  Whoever cannot list it withdraws
the intent first and removes the file after that has been committed; if even that fails, the
cleaner finds the intent without a living owner later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from featurestore.errors import FeatureStoreError, Unavailable
from featurestore.storage import files, manifest, parquet, seam

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from featurestore.engine.database import Database
    from featurestore.engine.writer import Commit
    from featurestore.schema import FeatureGroup

#: Called between the steps of long work: lets others run, and raises to abandon the work.
Pace = Callable[[], None]


def go_on() -> None:
    """Keep no pace: somebody waits for this work."""


def write_file(
    database: Database, group: FeatureGroup, kind: str, table: pa.Table, now_us: int, **fields: Any
) -> manifest.FileEntry:
    """Write a sorted history table as a new file; returns the entry by which it can be listed."""

    def write(file_id: int, relative: str) -> manifest.FileEntry:
        parquet.write_history(database.root, relative, table, group)
        return parquet.describe(
            database.root, group, file_id, kind, table, relative=relative, **fields
        )

    return under_intent(database, group, write, now_us)


def under_intent(
    database: Database,
    group: FeatureGroup,
    write: Callable[[int, str], manifest.FileEntry],
    now_us: int,
) -> manifest.FileEntry:
    """Have a file written, given its id and path below the root, that was announced before."""
    owner = database.owner

    def intend(commit: Commit) -> int:
        return manifest.intend(commit.env, commit.txn, group.id, owner)

    file_id = database.writer.call(intend, now_us)
    seam.point("file.intended")
    try:
        return write(file_id, manifest.file_path(group.id, file_id))
    except FileNotFoundError as error:
        with database.read() as txn:
            stands = manifest.intent_stands(database.env, txn, group.id, file_id)
        give_up(database, group.id, file_id, now_us)
        if stands:
            raise
        raise Unavailable(
            "The file that was being written was taken away: an erasure came in between, or this "
            "process was taken for dead. Nothing was stored; try again."
        ) from error
    except BaseException:
        give_up(database, group.id, file_id, now_us)
        raise


def give_up(database: Database, group_id: int, file_id: int, now_us: int) -> None:
    """Withdraw the intent of a file that is not listed, then remove the file."""

    def withdraw(commit: Commit) -> bool:
        return manifest.withdraw(commit.env, commit.txn, group_id, file_id)

    with contextlib.suppress(FeatureStoreError, OSError):
        # No intent: the file was listed after all, or the cleaner was here.
        if database.writer.call(withdraw, now_us):
            seam.point("file.withdrawn")
            files.remove(database.root / manifest.file_path(group_id, file_id))
