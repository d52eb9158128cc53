"""The LMDB environment of a store: opened once per process, checked, and never by accident twice.

Why each choice (every one measured):

``lib_version=0``
    py-lmdb carries two engines whose files cannot read each other; ours is named, so that a
    later default cannot change the format.
one environment object per process
    LMDB's own rule: closing any descriptor of the lock file drops the process's locks.
no writemap
    a full disk is an error with it off, and a SIGBUS with it on.
1 TiB of address space from the start
    growing the map invalidates readers; a *quota* below it refuses writes early instead, because
    in a map that is really full not even a large delete finds room.
never across fork
    an inherited environment reads and writes without an error and corrupts; it is refused.

Durability belongs to the store, not to the opener:

=============  ===============================================  =========================
durability     acknowledged                                     may be lost
=============  ===============================================  =========================
strict         after the commit is synced                       nothing
relaxed        when queued; committed and synced within 100 ms  100 ms, on kill too
rebuildable    after an unsynced commit                         everything, at a power cut
=============  ===============================================  =========================
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import weakref
from typing import TYPE_CHECKING, Any

import lmdb

from featurestore.errors import (
    CorruptStore,
    IncompatibleStore,
    InvalidInput,
    NotAStore,
    OutcomeUnknown,
    ReadOnlyStore,
    StoreClosed,
    StoreFull,
    Unavailable,
)
from featurestore.storage import files, seam
from featurestore.storage.rows import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from featurestore.storage.native import Native

FORMAT = 2
DURABILITIES = ("strict", "relaxed", "rebuildable")
MAP_BYTES = 1 << 40
QUOTA_BYTES = 64 << 30
#: Writers are refused from this share of the quota on; the rest is for the flush that makes room.
QUOTA_WATERMARK = 0.8
MAX_READERS = 1024
#: Rows of a copy written in one transaction.
COPY_ROWS = 10_000
DATABASES = (
    "meta",
    "commits",
    "catalog",
    "latest",
    "journal",
    "manifest",
    "requests",
    "request_times",
    "access",
    "audit",
)

_FORMAT_KEY = b"format"
_UNKNOWN = object()

Transaction = Any  # lmdb.Transaction; py-lmdb ships no types

#: Every environment of this process, so that a forked child can refuse what it inherited.
_open_environments: weakref.WeakSet[Environment] = weakref.WeakSet()


class Environment:
    """One LMDB environment with its named databases.

    Attributes
    ----------
    format : dict
        The format row: store id, incarnation, hash seed and bits, durability, quota; and the gaps
        in the seqs that restores have left.
    meta, commits, catalog, latest, journal, manifest, requests, request_times, access, audit
        Database handles; the last two are the server's: its API keys and its log of changes.
    """

    def __init__(
        self, folder: Path, *, read_only: bool, initial: dict[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.read_only = read_only
        self._forked = False
        self._native: Any = _UNKNOWN
        self._lmdb = self._connect(sync=True)
        try:
            self._open_databases()
            self.format = self._read_or_create_format(initial)
        except BaseException:
            self._lmdb.close()
            raise
        if self.format["durability"] == "rebuildable" and not read_only:
            self._lmdb.close()
            self._lmdb = self._connect(sync=False)
            self._open_databases()
        _open_environments.add(self)

    # ── opening and closing ──────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Close the environment; in a forked child it is left alone."""
        _open_environments.discard(self)
        if not self._forked:
            self._lmdb.close()

    def _connect(self, *, sync: bool) -> Any:
        options: dict[str, Any] = {
            "map_size": MAP_BYTES,
            "max_dbs": len(DATABASES) + 8,
            "max_readers": MAX_READERS,
            "readonly": self.read_only,
            "create": not self.read_only,
            "metasync": True,
            "sync": sync,
            "writemap": False,
            "lib_version": 0,
        }
        try:
            with files.translated(self.folder):
                return seam.call("open_engine", self.folder, lmdb.open, str(self.folder), **options)
        except lmdb.Error as error:
            if self.read_only and _errno(error) in _NOT_ALLOWED:
                # Read-only media: nobody can write, so no reader needs a slot in the lock file.
                options["lock"] = False
                return seam.call("open_engine", self.folder, lmdb.open, str(self.folder), **options)
            raise self.translate(error) from error

    def _open_databases(self) -> None:
        for name in DATABASES:
            try:
                handle = self._lmdb.open_db(name.encode(), create=not self.read_only)
            except lmdb.NotFoundError as error:
                raise NotAStore(f"{self.folder.parent} is not a feature store.") from error
            except lmdb.Error as error:
                raise self.translate(error) from error
            setattr(self, name, handle)

    meta: Any
    commits: Any
    catalog: Any
    latest: Any
    journal: Any
    manifest: Any
    requests: Any
    request_times: Any
    access: Any
    audit: Any

    def _read_or_create_format(self, initial: dict[str, Any] | None) -> dict[str, Any]:
        with self.read() as txn:
            row = txn.get(_FORMAT_KEY, db=self.meta)
        if row is None:
            if self.read_only or initial is None:
                raise NotAStore(f"{self.folder.parent} is not a feature store.")
            with self.write() as txn:
                # Another process may have been first; then its row stands.
                created = seal(_FORMAT_KEY, {"format": FORMAT, **initial})
                txn.put(_FORMAT_KEY, created, overwrite=False, db=self.meta)
                row = txn.get(_FORMAT_KEY, db=self.meta)
        return self._parse_format(bytes(row))

    def _parse_format(self, row: bytes) -> dict[str, Any]:
        try:
            # Before the checksum: another format may have another one.
            version = json.loads(row)["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptStore(f"The format row of {self.folder.parent} is unreadable.") from error
        if version != FORMAT and isinstance(version, int):
            way = "Upgrade featurestore to open it."
            if version < FORMAT:
                way = "Open it with the version that made it, and ingest its groups into a new one."
            raise IncompatibleStore(
                f"{self.folder.parent} has format {version}; this version of featurestore reads "
                f"format {FORMAT}. {way}"
            )
        return unseal(_FORMAT_KEY, row, f"The format row of {self.folder.parent}")

    def native_at(self, txn: Transaction) -> Native | None:
        """Return LMDB's own functions for compiled loops, if they can be had."""
        if self._native is _UNKNOWN:
            from featurestore.storage import native

            data_file = files.identity(self.folder / "data.mdb")
            self._native = native.find(txn, ("latest", "journal"), data_file)
        found: Native | None = self._native
        return found

    # ── transactions ─────────────────────────────────────────────────────────────────────────

    def read(self, *, buffers: bool = False) -> Reading:
        """Give a read transaction, one moment of the store.  Copy out and leave quickly."""
        return Reading(self, buffers=buffers)

    def begin_read(self, *, buffers: bool = False) -> Transaction:
        """Begin a read transaction that the caller must abort."""
        if self._forked:
            raise StoreClosed(_FORKED)
        try:
            return self._lmdb.begin(buffers=buffers)
        except lmdb.ReadersFullError:
            # Slots of killed processes are only freed by asking.
            self._lmdb.reader_check()
        except lmdb.Error as error:
            raise self.translate(error) from error
        try:
            return self._lmdb.begin(buffers=buffers)
        except lmdb.Error as error:
            raise self.translate(error) from error

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """Give a write transaction, committed at the end; for the writer thread alone."""
        if self._forked:
            raise StoreClosed(_FORKED)
        if self.read_only:
            raise ReadOnlyStore(f"{self.folder.parent} is open read-only.")
        try:
            txn = self._lmdb.begin(write=True)
        except lmdb.Error as error:
            raise self.translate(error) from error
        try:
            yield txn
        except lmdb.Error as error:
            txn.abort()
            raise self.translate(error) from error
        except BaseException:
            txn.abort()
            raise
        try:
            seam.call("commit", self.folder, txn.commit)
        except (lmdb.Error, OSError) as error:  # LMDB's own, or one made up at the seam
            txn.abort()
            raise self._commit_failed(error) from error

    def sync(self) -> None:
        """Make every commit so far durable, whatever the mode."""
        seam.call("sync_engine", self.folder, self._lmdb.sync, True)

    # ── room ─────────────────────────────────────────────────────────────────────────────────

    def used_bytes(self, txn: Transaction) -> int:
        """Bytes of the pages in use by data, free pages of the file not counted."""
        return sum(self.bytes_of(txn, name) for name in DATABASES)

    def bytes_of(self, txn: Transaction, name: str) -> int:
        """Bytes of the pages that one of :data:`DATABASES` takes."""
        stat = txn.stat(getattr(self, name))
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages * stat["psize"])

    def require_room(self, txn: Transaction, bytes_needed: int) -> None:
        """Refuse a write that would take the store over its quota or the disk over its edge."""
        # Read anew: another process may have raised it.
        quota = self._parse_format(bytes(txn.get(_FORMAT_KEY, db=self.meta)))["quota"]
        used = self.used_bytes(txn)
        if used + bytes_needed > quota * QUOTA_WATERMARK:
            raise StoreFull(
                f"The store's engine holds {used:,} bytes of its quota of {quota:,} (writes stop "
                f"at {QUOTA_WATERMARK:.0%}). Run flush() to move history into files, or reopen "
                "with a larger quota=."
            )
        files.require_room(self.folder, bytes_needed)

    def is_near_full(self, txn: Transaction) -> bool:
        """Return whether half the room is gone: journal is to be moved into files earlier."""
        try:
            files.require_room(self.folder, 4 * files.DISK_RESERVE_BYTES)
        except StoreFull:
            return True
        return self.used_bytes(txn) > int(self.format["quota"]) * QUOTA_WATERMARK / 2

    def put_quota(self, txn: Transaction, quota: int) -> None:
        """Store a new quota, in bytes."""
        self.put_format(txn, quota=quota)

    def put_format(self, txn: Transaction, **fields: Any) -> None:
        """Change some fields of the format row."""
        self.format = {**self.format, **fields}
        txn.put(_FORMAT_KEY, seal(_FORMAT_KEY, self.format), db=self.meta)

    @property
    def page_bytes(self) -> int:
        """Size of an LMDB page."""
        return int(self._lmdb.stat()["psize"])

    def info(self) -> dict[str, int]:
        """LMDB's own figures: map size, last page, last transaction, readers."""
        return dict(self._lmdb.info())

    def reader_lags(self, txn: Transaction) -> list[int]:
        """Return, for every read transaction open in any process, how many commits it is behind.

        LMDB keeps the pages that the oldest of them may look at; while it stays, the file grows.
        """
        # A table of text: a heading, then pid, thread and transaction (or -) of each slot.
        rows = [line.split() for line in self._lmdb.readers().splitlines()[1:]]
        seen = [int(row[2]) for row in rows if len(row) == 3 and row[2].isdigit()]
        return [max(0, txn.id() - number) for number in seen]

    def clear_dead_readers(self) -> int:
        """Free reader slots of dead processes; returns how many."""
        return int(self._lmdb.reader_check())

    def copy(self, folder: Path) -> None:
        """Write a consistent copy into an existing folder, durable on return.

        Row by row, into a file of its own: LMDB's own copy takes pages as they are, with what has
        been deleted from them.
        """
        try:
            with files.translated(folder):
                seam.call("copy_engine", folder, self._copy, folder)
        except lmdb.Error as error:
            raise self.translate(error) from error

    def _copy(self, folder: Path) -> None:
        options: dict[str, Any] = {
            "map_size": MAP_BYTES, "max_dbs": len(DATABASES) + 8, "sync": False, "lib_version": 0,
        }  # fmt: skip
        opened = seam.call("open_engine", folder, lmdb.open, str(folder), **options)
        with opened as target, self.read() as txn:
            for name in DATABASES:
                copied = target.open_db(name.encode())
                with txn.cursor(db=getattr(self, name)) as cursor:
                    rows = iter(cursor)
                    while some := list(itertools.islice(rows, COPY_ROWS)):
                        with target.begin(write=True) as writing, writing.cursor(copied) as to:
                            to.putmulti(some, append=True)
            target.sync(True)
        files.remove(folder / "lock.mdb")

    def require_lasting(self, seq: int) -> None:
        """Refuse a seq that was given before the store was restored, and is not in the backup."""
        for last_seq, first_seq in self.format.get("gaps", ()):
            if last_seq < seq < first_seq:
                raise InvalidInput(
                    f"{seq} was a seq of this store before it was restored from a backup of seq "
                    f"{last_seq}; what came after that is lost. Take a token anew, from snapshot()."
                )

    def after_gap(self, seq: int) -> int:
        """Return a seq after which records follow: behind the gap that a restore has left."""
        for last_seq, first_seq in self.format.get("gaps", ()):
            if last_seq <= seq < first_seq:
                return int(first_seq)
        return seq

    # ── errors ───────────────────────────────────────────────────────────────────────────────

    def translate(self, error: lmdb.Error) -> Exception:
        """Return what an error of LMDB means to a user."""
        path, code = self.folder.parent, _errno(error)
        return (
            self._not_this_handle(error, path)
            or self._no_room(error, path, code)
            or self._cannot_open(error, path, code)
            or CorruptStore(f"LMDB reports a fault in {path}: {error}. Run `featurestore verify`.")
        )

    @staticmethod
    def _not_this_handle(error: lmdb.Error, path: Path) -> Exception | None:
        if "already open" in str(error):
            return StoreClosed(_FORKED)
        if "closed/deleted/dropped" in str(error):
            return StoreClosed(f"{path} was closed meanwhile. Open it again.")
        if isinstance(error, lmdb.PanicError):
            return StoreClosed(
                f"An I/O error while committing to {path} has ended this handle: what the disk "
                "holds is not known here. Close it, and open the store again."
            )
        return None

    def _no_room(self, error: lmdb.Error, path: Path, code: int | None) -> Exception | None:
        if isinstance(error, lmdb.MapFullError):
            return StoreFull(f"The LMDB map of {path} is full. Nothing of this request was stored.")
        if isinstance(error, lmdb.ReadersFullError):
            return StoreFull(f"All {MAX_READERS} reader slots of {path} are taken. Close readers.")
        if code in _NO_ROOM or (code == errno.EIO and self._disk_is_full()):
            return StoreFull(f"The disk that holds {path} is full. Free some space and try again.")
        return None

    @staticmethod
    def _cannot_open(error: lmdb.Error, path: Path, code: int | None) -> Exception | None:
        if code == errno.EIO:
            return Unavailable(
                f"The disk that holds {path} failed: {error}. Look after the disk, and try again."
            )
        if isinstance(error, lmdb.ReadonlyError) or code in _NOT_ALLOWED:
            return ReadOnlyStore(
                f"{path} cannot be written ({error}). Open it with read_only=True, or give this "
                "user write access."
            )
        if isinstance(error, (lmdb.VersionMismatchError, lmdb.InvalidError)):
            return IncompatibleStore(
                f"{path} holds an LMDB file of another engine or format ({error})."
            )
        return None

    def _commit_failed(self, error: Exception) -> Exception:
        no_room = isinstance(error, lmdb.MapFullError) or _errno(error) in _NO_ROOM
        if (no_room or self._disk_is_full()) and not self._is_given_up():
            # LMDB writes data pages before the page that makes them count: this did not happen.
            return StoreFull(
                f"The disk that holds {self.folder.parent} is full. Nothing of this request was "
                "stored; free some space and send it again."
            )
        return OutcomeUnknown(
            f"An I/O error while committing to {self.folder.parent}: {error}. The write may or may "
            "not be there after a reopen; sent again with the same request id it counts once."
        )

    def _is_given_up(self) -> bool:
        """Return whether LMDB refuses to go on: the page that makes a commit count went wrong."""
        try:
            self._lmdb.begin().abort()
        except lmdb.PanicError:
            return True
        except lmdb.Error:
            return False
        return False

    def _disk_is_full(self) -> bool:
        disk = seam.call("statvfs", self.folder, os.statvfs, self.folder)
        return disk.f_bavail * disk.f_frsize < 1 << 20


class Reading:
    """A read transaction as a block: ended whatever happens, LMDB's errors translated.

    A class rather than a generator: a lookup takes five microseconds, and a generator one of them.
    """

    __slots__ = ("_buffers", "_env", "_txn")

    def __init__(self, env: Environment, *, buffers: bool = False) -> None:
        self._env = env
        self._buffers = buffers

    def __enter__(self) -> Transaction:
        self._txn = txn = self._env.begin_read(buffers=self._buffers)
        return txn

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._txn.abort()
        if isinstance(error, lmdb.Error):
            raise self._env.translate(error) from error


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)
_FORKED = (
    "This store was opened before the process forked, and cannot be opened again in the child. "
    "Start workers with the 'spawn' method, or close the store before the fork and open it in "
    "each process afterwards."
)


def _errno(error: Exception) -> int | None:
    """Find the operating system's code: py-lmdb puts only its sentence into the message."""
    for code in (*_NO_ROOM, *_NOT_ALLOWED, errno.EIO):
        if re.search(re.escape(os.strerror(code)), str(error)):
            return code
    return None


def _after_fork_in_child() -> None:
    for environment in list(_open_environments):
        environment._forked = True  # noqa: SLF001
    _open_environments.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
