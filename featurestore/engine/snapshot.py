"""Snapshots: some groups at one moment, readable for as long as it takes.

::

    pin ──► read transaction: catalog, file lists, journal tail copied out ──► transaction ends
     │                                                                              │
     └── files stay on disk ◄────────────── scan, join, verify … ◄──────────────────┘ close: unpin

The read transaction is over before the first byte of a file is read: a long reader would make
LMDB's file grow.  What keeps the files is the *pin*, a lock file that names the manifest version
the reader may still need; the kernel lets it go when the process dies.  The pin is taken before
the transaction begins and, while it is empty, stands for everything, so that no cleaner can slip
in between.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featurestore.errors import InvalidInput, ReadOnlyStore, StoreFull
from featurestore.storage import files, seam

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from featurestore.encoding.keys import KeyHash
    from featurestore.encoding.runs import Runs
    from featurestore.schema import FeatureGroup
    from featurestore.storage.manifest import FileEntry, GroupState
    from featurestore.storage.parquet import HistoryFile


@dataclass
class GroupSnapshot:
    """One group at one moment.

    Attributes
    ----------
    root : Path
        The store's folder; file paths are relative to it.
    group : FeatureGroup
        The definition at that moment.
    seq : int
        Rows with ``write_seq <= seq`` are visible.
    cut : bool
        Whether ``seq`` is older than the moment, so that rows have to be filtered by it.
    files : list of FileEntry
        The listed files, pinned.
    tail_keys, tail_records : Runs or sequence of bytes
        Journal rows that no file holds.
    latest_keys, latest_records : sequence of bytes
        The online records, if they were asked for.
    """

    root: Path
    group: FeatureGroup
    seq: int
    cut: bool
    state: GroupState
    files: list[FileEntry]
    key_hash: KeyHash
    tail_keys: Runs | Sequence[bytes] = ()
    tail_records: Runs | Sequence[bytes] = ()
    latest_keys: Sequence[bytes] = ()
    latest_records: Sequence[bytes] = ()
    _tail: pa.Table | None = field(default=None, repr=False)

    @property
    def tail(self) -> pa.Table:
        """The journal rows that no file holds, in the history layout, in seq order."""
        if self._tail is None:
            from featurestore.encoding.columns import decode_history

            self._tail = decode_history(
                self.group, self.tail_keys, self.tail_records, self.key_hash
            )
        return self._tail

    def require_history(self) -> None:
        """Refuse to read history of a group that keeps none."""
        if not self.group.offline:
            raise InvalidInput(
                f'Feature group "{self.group.name}" has no offline store; look its latest records '
                "up with get_record, or make it with offline=True."
            )

    def read(self, entry: FileEntry, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the visible rows of one of the files; see ``storage.parquet.read_history``."""
        from featurestore.storage.parquet import read_history

        return read_history(self.root, entry, self.group, columns)

    def open(self, entry: FileEntry) -> HistoryFile:
        """Open one of the files, to read some of its row groups."""
        from featurestore.storage.parquet import HistoryFile

        return HistoryFile(self.root, entry, self.group)


class Pin:
    """A held lock file that keeps files of a manifest version from being deleted."""

    def __init__(self, locks: Path) -> None:
        self._lock: files.FileLock | None = None
        try:
            self._lock = files.own(locks / f"pin-{seam.random_bytes(16).hex()}")
        except (ReadOnlyStore, StoreFull):
            # Read-only media, a user who may only read, a disk without room for a name.  Reading
            # goes on: files stay for the cleaner's grace time all the same.
            return

    def narrow(self, manifest_version: int) -> None:
        """Say which version is needed, now that it is known."""
        if self._lock is not None:
            with contextlib.suppress(StoreFull):  # an empty pin needs everything, which is safe
                self._lock.write(b"%d" % manifest_version)

    def release(self) -> None:
        """Let the files go."""
        if self._lock is not None:
            self._lock.release(unlink=True)


def oldest_pin(locks: Path) -> int | None:
    """Return the oldest manifest version some reader needs; None if nobody reads."""
    versions = []
    for path in files.listing(locks, "pin-*"):
        text = files.held(path)
        if text is not None:
            versions.append(int(text or b"0"))
    return min(versions, default=None)
