"""The database: a store's folder, opened.  Owns every resource; knows no user shapes.

::

    store/
      engine/     LMDB: catalog | latest records | journal | manifest | requests | commit log
      data/<id>/  immutable history files
      locks/      flocks: who creates, flushes, compacts, pins, owns unfinished files

Handles opened on one folder in one process share one ``Database``: LMDB must not be opened twice.
Anything that is parsed once and kept, the catalog and the file lists, is kept with the version
number it was read at and asked for nothing else until that moves.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from featurestore.encoding.keys import KeyHash
from featurestore.engine.plan import Plan
from featurestore.engine.snapshot import GroupSnapshot, Pin
from featurestore.engine.upkeep import Upkeep
from featurestore.engine.writer import Writer, apply_all
from featurestore.errors import InvalidInput, NotAStore, ReadOnlyStore, StoreClosed
from featurestore.storage import catalog, commits, files, journal, latest, manifest, seam
from featurestore.storage.environment import DURABILITIES, QUOTA_BYTES, Environment, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from concurrent.futures import Future

    from featurestore.engine.writer import Commit, Outcome, Put
    from featurestore.schema import FeatureGroup
    from featurestore.storage.catalog import Catalog
    from featurestore.storage.environment import Transaction
    from featurestore.storage.manifest import FileEntry
    from featurestore.storage.requests import Request

T = TypeVar("T")

FOLDERS = ("engine", "data", "locks")
#: What makes a folder a backup, and says of what.
BACKUP_NOTE = "backup.json"
#: What is assumed before anything was measured: the first slice is to be short.
KEYS_PER_SECOND = 100_000.0
_shared: dict[tuple[int, int], Database] = {}
_shared_lock = threading.RLock()


class _Known:
    """The catalog at one version, and the plans compiled from it."""

    def __init__(self, row: bytes | None, parsed: Catalog) -> None:
        self.row = row
        self.catalog = parsed
        self.plans: dict[str, Plan] = {}
        self.compiled: dict[Any, Any] = {}


class Database:
    """An open store folder; use :func:`open_database`."""

    def __init__(self, root: Path, env: Environment) -> None:
        self.root = root
        self.identity = files.identity(root)
        self._data_file = files.identity(root / "engine" / "data.mdb")
        self.locks = root / "locks"
        self.env = env
        self.read_only = env.read_only
        self.key_hash = KeyHash(bytes.fromhex(env.format["hash_seed"]), env.format["hash_bits"])
        self.users = 1
        self.pid = os.getpid()
        #: The clock of upkeep, which starts with the first write; None for no upkeep.
        self.upkeep_clock_us: Callable[[], int] | None = None
        self._upkeep: Upkeep | None = None
        self._writer: Writer | None = None
        self._owner: files.FileLock | None = None
        self._seen: tuple[int, _Known] | None = None
        self._files: dict[int, tuple[int, list[FileEntry]]] = {}
        self._guard = threading.Lock()
        #: Latest records a bulk ingest moves while it holds the write lock, as last measured.
        self.keys_per_second = KEYS_PER_SECOND
        self.closed = False
        self.on_close: list[Callable[[], None]] = []

    # ── resources ────────────────────────────────────────────────────────────────────────────

    @property
    def writer(self) -> Writer:
        """The writer thread, started by the first write."""
        if self._writer is None:
            with self._guard:
                self._require_open()
                if self.read_only:
                    raise ReadOnlyStore(
                        f"{self.root} is open read-only. Open it without read_only=True to write."
                    )
                if self._writer is None:
                    self._writer = Writer(self.env)
        if self._upkeep is None and self.upkeep_clock_us is not None:
            self._start_upkeep(self._writer, self.upkeep_clock_us)
        return self._writer

    def _start_upkeep(self, writer: Writer, clock_us: Callable[[], int]) -> None:
        with self._guard:
            if self._upkeep is None and not self.closed:
                self._upkeep = Upkeep(self, clock_us)
                writer.wake_upkeep = self._upkeep.wake

    @property
    def owner(self) -> str:
        """The name of a lock held for as long as this process has the store open.

        Whoever finds it free knows that files this process was writing are nobody's any more.
        """
        with self._guard:
            if self._owner is None:
                self._owner = files.own(self.locks / f"owner-{seam.random_bytes(16).hex()}")
            return self._owner.path.name

    def apply(
        self,
        puts: Sequence[Put],
        catalog_version: int,
        request: Request | None,
        now_us: int,
    ) -> tuple[list[Outcome] | None, bool]:
        """Put records in one transaction; see :func:`featurestore.engine.writer.apply_all`.

        A ``relaxed`` store acknowledges before the commit, and then there are no outcomes yet.
        """
        work, needed = _work(puts, catalog_version, request)
        if request is not None:
            return self.writer.call(work, now_us, bytes_needed=needed)
        return self.do(work, needed, now_us) or (None, False)

    def do(self, work: Callable[[Commit], T], bytes_needed: int, now_us: int) -> T | None:
        """Have the writer do something; None from a ``relaxed`` store, which acknowledges first."""
        if self.writer.relaxed:
            self.writer.post(work, now_us, bytes_needed=bytes_needed)
            return None
        return self.writer.call(work, now_us, bytes_needed=bytes_needed)

    def apply_async(
        self,
        puts: Sequence[Put],
        catalog_version: int,
        request: Request | None,
        now_us: int,
        answer: Callable[[list[Outcome], bool], T],
    ) -> Future[T]:
        """Put records in one transaction; the future has ``answer`` of the outcomes."""
        work, needed = _work(puts, catalog_version, request)
        return self.writer.submit(lambda commit: answer(*work(commit)), now_us, bytes_needed=needed)

    def settle(self) -> None:
        """Wait until what this process has queued is committed: a store sees its own writes.

        Costs nothing unless the store is ``relaxed``, where a write is acknowledged in the queue.
        """
        writer = self._writer
        if writer is None or not writer.relaxed or not writer.pending:
            return
        if not writer.is_this_thread():
            writer.call(lambda _: None, 0)

    def is_in_place(self) -> bool:
        """Return whether the folder still holds the store that was opened, and not a later one.

        A folder that was removed may have given its inode number to a new one.
        """
        try:
            return files.identity(self.root / "engine" / "data.mdb") == self._data_file
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Give up one handle; the last one commits what is queued and closes everything."""
        with _shared_lock:
            self.users -= 1
            if self.users > 0 or self.closed:
                return
            self.closed = True
            if _shared.get(self.identity) is self:
                del _shared[self.identity]
            if self.pid != os.getpid():
                return
            for action in self.on_close:
                action()
            if self._upkeep is not None:
                self._upkeep.stop()
            try:
                if self._writer is not None:
                    self._writer.close()
            finally:
                if self._owner is not None:
                    self._owner.release(unlink=True)
                self.env.close()

    def _require_open(self) -> None:
        if self.closed:
            raise StoreClosed(f"{self.root} is closed. Open it again.")

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def read(self) -> Reading:
        """Give a read transaction on an open database."""
        if self.closed:
            self._require_open()
        writer = self._writer
        if writer is not None and writer.relaxed:
            self.settle()
        return Reading(self.env)

    def _known_at(self, txn: Transaction) -> _Known:
        txn_id = txn.id()
        seen = self._seen
        if seen is not None and seen[0] == txn_id:
            # Nothing at all was committed since: not even the version needs a look.
            return seen[1]
        row = txn.get(catalog.VERSION, db=self.env.meta)
        known = None if seen is None else seen[1]
        if known is None or known.row != row:
            known = _Known(row, catalog.load(self.env, txn))
        self._seen = (txn_id, known)
        return known

    def catalog_at(self, txn: Transaction) -> Catalog:
        """Return the catalog at a transaction's moment."""
        return self._known_at(txn).catalog

    def compiled_at(self, txn: Transaction) -> dict[Any, Any]:
        """Return what others have worked out from the catalog at a transaction's moment."""
        return self._known_at(txn).compiled

    def catalog(self) -> Catalog:
        """Return the catalog now."""
        with self.read() as txn:
            return self._known_at(txn).catalog

    def plan_at(self, txn: Transaction, name: str) -> Plan:
        """Return the plan of a group at a transaction's moment."""
        known = self._known_at(txn)
        plan = known.plans.get(name)
        if plan is None:
            plan = known.plans[name] = Plan(known.catalog.group(name), self.key_hash)
        return plan

    def plan(self, name: str) -> tuple[Plan, int]:
        """Return the plan of a group now, and the catalog version it was made from."""
        with self.read() as txn:
            return self.plan_at(txn, name), self.catalog_at(txn).version

    def files_at(self, txn: Transaction, group_id: int) -> list[FileEntry]:
        """Return a group's listed files at a transaction's moment."""
        now = manifest.version(self.env, txn)
        known = self._files.get(group_id)
        if known is None or known[0] != now:
            known = (now, manifest.live_files(self.env, txn, group_id))
            self._files[group_id] = known
        return known[1]

    @contextlib.contextmanager
    def snapshot(
        self,
        names: Collection[str],
        *,
        seq: int | None = None,
        with_tail: bool = True,
        with_latest: Collection[str] = (),
    ) -> Iterator[dict[str, GroupSnapshot]]:
        """Give the groups named, all at one moment, files pinned until the end of the block.

        Parameters
        ----------
        names : collection of str
            Groups to read.
        seq : int, optional
            Look at the store as it stood at this seq; by default as it is now.
        with_tail : bool
            Copy the journal tails out.
        with_latest : collection of str
            Groups of which the online records are copied out too.
        """
        self._require_open()
        pin = Pin(self.locks)
        try:
            with self.read() as txn:
                known = self.catalog_at(txn)
                pin.narrow(manifest.version(self.env, txn))
                last_seq = commits.last(self.env, txn)[0]
                snapshots = {
                    name: self._group_at(
                        txn,
                        known.group(name),
                        last_seq if seq is None else min(seq, last_seq),
                        cut=seq is not None and seq < last_seq,
                        with_tail=with_tail,
                        with_latest=name in with_latest,
                    )
                    for name in names
                }
            yield snapshots
        finally:
            pin.release()

    def _group_at(
        self,
        txn: Transaction,
        group: FeatureGroup,
        seq: int,
        *,
        cut: bool,
        with_tail: bool,
        with_latest: bool,
    ) -> GroupSnapshot:
        state = manifest.state(self.env, txn, group.id)
        snapshot = GroupSnapshot(
            self.root, group, seq, cut, state, self.files_at(txn, group.id), self.key_hash
        )
        if with_tail:
            snapshot.tail_keys, snapshot.tail_records, _ = journal.read(
                self.env, txn, group.id, state.drained_seq
            )
        if with_latest:
            rows = list(latest.scan(self.env, txn, group.id))
            snapshot.latest_keys = [key for _, key, _ in rows]
            snapshot.latest_records = [record for _, _, record in rows]
        return snapshot


def _work(
    puts: Sequence[Put], catalog_version: int, request: Request | None
) -> tuple[Callable[[Commit], tuple[list[Outcome], bool]], int]:
    """Return what the writer is to do, and the bytes it needs."""
    if request is None:
        for put in puts:
            if put.refusal is not None:
                raise put.refusal

    def work(commit: Commit) -> tuple[list[Outcome], bool]:
        return apply_all(commit, puts, catalog_version, request)

    return work, sum(put.bytes_needed for put in puts)


# ── opening ──────────────────────────────────────────────────────────────────────────────────


def open_database(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    durability: str | None = None,
    quota: int | None = None,
    key_hash_bits: int | None = None,
    clock_us: Callable[[], int] = lambda: 0,
    upkeep: bool = True,
) -> Database:
    """Open a store's folder, making it on first use; see :func:`featurestore.open`."""
    root = Path(path).expanduser().absolute()
    if durability is not None and durability not in DURABILITIES:
        raise InvalidInput(
            f'durability is one of "strict", "relaxed", "rebuildable"; got {durability!r}.'
        )
    with _shared_lock:
        _require_store_or_empty(root, read_only=read_only)
        found = _shared.get(files.identity(root)) if root.exists() else None
        if found is not None and found.pid == os.getpid() and found.is_in_place():
            if found.read_only and not read_only:
                raise ReadOnlyStore(
                    f"{root} is open read-only in this process; close that handle first."
                )
            found.users += 1
        else:
            initial = {
                "store_id": seam.random_bytes(16).hex(),
                "incarnation": seam.random_bytes(16).hex(),
                "hash_seed": seam.random_bytes(16).hex(),
                "hash_bits": key_hash_bits
                or int(os.environ.get("FEATURESTORE_KEY_HASH_BITS", "64")),
                "durability": durability or "strict",
                "quota": quota or QUOTA_BYTES,
                "created_at_us": clock_us(),
            }
            found = Database(root, _open_environment(root, initial, read_only=read_only))
            _shared[found.identity] = found
    if upkeep and not read_only and found.upkeep_clock_us is None:
        found.upkeep_clock_us = clock_us
    try:
        _settle_options(found, durability, quota)
    except BaseException:
        found.close()
        raise
    return found


def _require_store_or_empty(root: Path, *, read_only: bool) -> None:
    if root.exists() and not root.is_dir():
        raise NotAStore(f"{root} is a file; a feature store is a directory.")
    if not read_only and (root / BACKUP_NOTE).exists():
        raise ReadOnlyStore(
            f"{root} is a backup, and stays as it is. Open it with read_only=True, or make a store "
            "of it with featurestore.restore()."
        )
    engine = root / "engine" / "data.mdb"
    # Whoever died while making a store may have left an empty file: then there is none yet.
    if engine.exists() and not (read_only and files.size(engine) == 0):
        return
    if read_only:
        raise NotAStore(f"{root} is not a feature store, and read_only=True makes none.")
    there = files.listing(root, "*") if root.exists() else []
    strange = sorted(path.name for path in there if path.name not in FOLDERS)
    if strange:
        raise NotAStore(
            f"{root} is not a feature store and not empty (it holds {', '.join(strange[:3])}"
            f"{', …' if len(strange) > 3 else ''}). Give the path of a store or of a new directory."
        )


def _open_environment(root: Path, initial: dict[str, Any], *, read_only: bool) -> Environment:
    if read_only:
        return Environment(root / "engine", read_only=True)
    for folder in FOLDERS:
        files.make_folder(root / folder)
    lock = files.FileLock.acquire(root / "locks" / "create")
    try:
        _remove_unfinished(root)
        env = Environment(root / "engine", read_only=False, initial=initial)
        try:
            files.sync_folder(root / "engine")
        except BaseException:
            env.close()
            raise
        return env
    finally:
        lock.release()


def _remove_unfinished(root: Path) -> None:
    """Remove an LMDB file that ends within its first two pages; under the lock of creation.

    Whoever made it met a full disk, or died: nothing was ever committed to it, and LMDB refuses it
    for ever.  Where there is history, it is damage, and stays.
    """
    engine = root / "engine" / "data.mdb"
    if not engine.exists() or not 0 < files.size(engine) < 2 * mmap.PAGESIZE:
        return
    if not files.listing(root / "data", "*/*"):
        files.remove(engine)


def _settle_options(database: Database, durability: str | None, quota: int | None) -> None:
    stored = database.env.format
    if durability is not None and durability != stored["durability"]:
        raise InvalidInput(
            f'{database.root} was created with durability "{stored["durability"]}"; it belongs to '
            f'the store and cannot be opened as "{durability}".'
        )
    if quota is not None and quota != stored["quota"] and not database.read_only:
        database.writer.call(lambda commit: commit.env.put_quota(commit.txn, quota), 0)


def _close_all() -> None:
    """Commit what a process that ends without closing has queued."""
    for database in list(_shared.values()):
        database.users = 1
        database.close()


atexit.register(_close_all)
