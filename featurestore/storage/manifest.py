"""The manifest: which files are history.  A file exists for readers only as far as it is listed.

::

    s <u32 group>              GroupState: drained_seq, windows               (JSON)
    f <u32 group><u64 file>    FileEntry: a live file                         (JSON)
    r <u32 group><u64 file>    a file taken out of the list, waiting for its readers to finish
    i <u32 group><u64 file>    an intent: somebody is writing this file

A file's life::

    intent ──► written, synced, renamed ──► listed ──► replaced ──► unpinned and old: deleted
       │                                       (one transaction: intent out, entry in)
       └─ its owner died: the intent is removed in a transaction, and only then the file

``manifest_version`` moves with every change of a list, so that a reader can keep its parsed list,
and a pin can name what it still needs.  Each row has a checksum (``rows``).
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from featurestore.errors import CorruptStore
from featurestore.storage import catalog
from featurestore.storage.rows import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurestore.storage.environment import Environment, Transaction

_GROUP = struct.Struct(">I")
_KEY = struct.Struct(">IQ")


@dataclass(frozen=True)
class FileEntry:
    """One history file, and how much of it counts.

    Attributes
    ----------
    kind : str
        ``"flush"`` from the journal; ``"staged"`` by a bulk ingest, its ``write_seq`` column
        holding ordinals; ``"cell"`` by compaction, disjoint from its group's other cells;
        ``"merged"`` by compaction too, from small files whose rows belong into cells that it
        would cost too much to write again for so few.
    rows, visible_rows : int
        Rows in the file, and how many of them, from the first, are committed.
    slices : tuple of (int, int, int)
        Staged files only: ``(end row, base seq, commit time)`` of each committed stretch; the
        seq of a row is the base of its stretch plus its ordinal.
    min_hash, max_hash, min_event_us, max_event_us, min_seq, max_seq : int
        Bounds over the visible rows, inclusive.
    tombstones : int
        Rows that are deletes.
    unique : bool
        No two rows share key and event time.
    size_bytes : int
        Size of the file.
    digest : str
        First 128 bits of the SHA-256 of the file's bytes.
    witness : tuple of int
        Inode, size and time of the last change, as the file system had them when it was written:
        while they are the same nobody has written to the file.
    window : int
        Cells only: the index of the event-time window.
    request : str
        Staged files only: the ingest that is filling it in, while it is not finished.
    removed_at_us : int
        When it left the list; 0 while listed.
    removed_version : int
        The manifest version that took it out.
    """

    group_id: int
    file_id: int
    kind: str
    rows: int
    visible_rows: int
    min_hash: int
    max_hash: int
    min_event_us: int
    max_event_us: int
    min_seq: int
    max_seq: int
    tombstones: int
    unique: bool
    size_bytes: int
    digest: str
    schema_version: int
    slices: tuple[tuple[int, int, int], ...] = ()
    window: int = -1
    request: str = ""
    removed_at_us: int = 0
    removed_version: int = 0
    witness: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """Path below the store's folder; made of ids, never of names."""
        return file_path(self.group_id, self.file_id)

    def row(self, key: bytes) -> bytes:
        """Return the manifest row under a key."""
        return seal(key, asdict(self))

    @classmethod
    def of(cls, key: bytes, row: bytes) -> FileEntry:
        """Parse a manifest row; raise ``CorruptStore`` if it is not what was written."""
        place = file_path(*_KEY.unpack(key[1:])) if len(key) == 1 + _KEY.size else key.hex(" ")
        fields = unseal(key, row, f"The manifest row of {place}")
        try:
            fields["slices"] = tuple(tuple(s) for s in fields["slices"])
            fields["witness"] = tuple(fields.get("witness", ()))
            return cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptStore(f"The manifest row of {place} is unreadable: {error}.") from error


@dataclass(frozen=True)
class GroupState:
    """What is known of a group's history as a whole.

    Attributes
    ----------
    drained_seq : int
        Journal rows at or below it are in files.
    windows : tuple of int
        Upper bounds (exclusive, event time in microseconds) of the closed windows, ascending.
    flushed_at_us : int
        When the journal was last moved into a file; 0 if it never was.
    horizon_us : int or None
        Event time before which old versions have been dropped; then the first window ends there.
    """

    drained_seq: int = 0
    windows: tuple[int, ...] = field(default=())
    flushed_at_us: int = 0
    horizon_us: int | None = None

    @classmethod
    def of(cls, key: bytes, row: bytes) -> GroupState:
        """Parse a manifest row; raise ``CorruptStore`` if it is not what was written."""
        what = f"The manifest's state of group {int.from_bytes(key[1:], 'big')}"
        fields = unseal(key, row, what)
        try:
            return cls(**{**fields, "windows": tuple(fields["windows"])})
        except (KeyError, TypeError) as error:
            raise CorruptStore(f"{what} is unreadable.") from error


def file_path(group_id: int, file_id: int) -> str:
    """Return the path of a history file below the store's folder."""
    return f"data/{group_id}/{file_id:016x}.parquet"


def version(env: Environment, txn: Transaction) -> int:
    """Return the manifest version at this moment."""
    return catalog.counter(env, txn, b"manifest_version")


# ── reading ──────────────────────────────────────────────────────────────────────────────────


def state(env: Environment, txn: Transaction, group_id: int) -> GroupState:
    """Return a group's state."""
    key = b"s" + _GROUP.pack(group_id)
    row = txn.get(key, db=env.manifest)
    if row is None:
        return GroupState()
    return GroupState.of(key, row)


def put_state(env: Environment, txn: Transaction, group_id: int, new: GroupState) -> None:
    """Replace a group's state."""
    key = b"s" + _GROUP.pack(group_id)
    txn.put(key, seal(key, asdict(new)), db=env.manifest)


def live_files(env: Environment, txn: Transaction, group_id: int) -> list[FileEntry]:
    """Return the listed files of a group, oldest id first."""
    return [FileEntry.of(k, v) for k, v in _rows(env, txn, b"f" + _GROUP.pack(group_id))]


def all_live_files(env: Environment, txn: Transaction) -> list[FileEntry]:
    """Return the listed files of all groups."""
    return [FileEntry.of(k, v) for k, v in _rows(env, txn, b"f")]


def live_file(env: Environment, txn: Transaction, group_id: int, file_id: int) -> FileEntry | None:
    """Return one listed file, or None."""
    key = b"f" + _KEY.pack(group_id, file_id)
    row = txn.get(key, db=env.manifest)
    return None if row is None else FileEntry.of(key, row)


def removed_files(env: Environment, txn: Transaction) -> list[FileEntry]:
    """Return the files that wait to be deleted, of all groups."""
    return [FileEntry.of(k, v) for k, v in _rows(env, txn, b"r")]


def intents(env: Environment, txn: Transaction) -> list[tuple[int, int, dict[str, Any]]]:
    """Return ``(group id, file id, intent)`` of every file being written."""
    return [
        (*_KEY.unpack(k[1:]), unseal(k, v, f"The intent of {file_path(*_KEY.unpack(k[1:]))}"))
        for k, v in _rows(env, txn, b"i")
    ]


def _rows(env: Environment, txn: Transaction, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    with txn.cursor(db=env.manifest) as cursor:
        if cursor.set_range(prefix):
            for key, value in cursor:
                if key[: len(prefix)] != prefix:
                    return
                yield bytes(key), bytes(value)


# ── changing ─────────────────────────────────────────────────────────────────────────────────


def intend(env: Environment, txn: Transaction, group_id: int, owner: str) -> int:
    """Write down that ``owner`` is about to write a file; returns its id."""
    file_id = catalog.bump(env, txn, b"last_file_id")
    key = b"i" + _KEY.pack(group_id, file_id)
    txn.put(key, seal(key, {"owner": owner}), db=env.manifest)
    return file_id


def intent_stands(env: Environment, txn: Transaction, group_id: int, file_id: int) -> bool:
    """Return whether the intent is still there: nobody took its owner for dead."""
    return txn.get(b"i" + _KEY.pack(group_id, file_id), db=env.manifest) is not None


def withdraw(env: Environment, txn: Transaction, group_id: int, file_id: int) -> bool:
    """Remove an intent; its file may be deleted after this has been committed."""
    return bool(txn.delete(b"i" + _KEY.pack(group_id, file_id), db=env.manifest))


def list_file(env: Environment, txn: Transaction, entry: FileEntry) -> None:
    """List a file, or list it anew with more visible rows; its intent is fulfilled."""
    withdraw(env, txn, entry.group_id, entry.file_id)
    key = b"f" + _KEY.pack(entry.group_id, entry.file_id)
    txn.put(key, entry.row(key), db=env.manifest)
    catalog.bump(env, txn, b"manifest_version")


def unlist(env: Environment, txn: Transaction, entry: FileEntry, now_us: int) -> None:
    """Take a file out of the list; readers that have pinned it keep reading."""
    new_version = catalog.bump(env, txn, b"manifest_version")
    key = _KEY.pack(entry.group_id, entry.file_id)
    txn.delete(b"f" + key, db=env.manifest)
    gone = replace(entry, removed_at_us=now_us, removed_version=new_version)
    txn.put(b"r" + key, gone.row(b"r" + key), db=env.manifest)


def hurry(env: Environment, txn: Transaction, entry: FileEntry) -> None:
    """Let a removed file be deleted as soon as no reader has pinned it: no time of grace."""
    key = b"r" + _KEY.pack(entry.group_id, entry.file_id)
    txn.put(key, replace(entry, removed_at_us=1).row(key), db=env.manifest)


def forget(env: Environment, txn: Transaction, entry: FileEntry) -> None:
    """Drop the last trace of a removed file, after the file itself is gone."""
    txn.delete(b"r" + _KEY.pack(entry.group_id, entry.file_id), db=env.manifest)


def drop_state(env: Environment, txn: Transaction, group_id: int) -> None:
    """Forget the state of a dropped group."""
    txn.delete(b"s" + _GROUP.pack(group_id), db=env.manifest)
