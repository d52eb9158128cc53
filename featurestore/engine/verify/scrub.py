"""The scrub: every byte of the store is read, and held to its checksum.

::

    files      each that is listed: its size, and the digest of all its bytes
    engine     each row of each database of LMDB: the checksum in it; in the log of changes, the
               hash of all before; when a request was made: what its own row says

What ``verify`` looks for is sense: that the parts agree.  A scrub looks for bytes that are not what
was written, wherever they are, before somebody asks for them; it needs no more memory than a row,
tells how far it is, and may run beside everything else.  Disks rot slowly: once a week is often.

Rows are read some thousand at a time, each time in a transaction of its own, since a long one would
make LMDB's file grow.  A page of LMDB that cannot be read at all is a fault too.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from featurestore.encoding.keys import DIGEST_TAG
from featurestore.encoding.values import read_header, verify_record
from featurestore.engine.snapshot import Pin
from featurestore.engine.verify.findings import Fault, Findings
from featurestore.errors import CorruptStore, FeatureStoreError
from featurestore.storage import (
    catalog,
    commits,
    consumers,
    erasures,
    files,
    journal,
    manifest,
    requests,
)
from featurestore.storage.environment import DATABASES
from featurestore.storage.rows import GENESIS, chained, unseal, unseal_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from featurestore.engine.database import Database
    from featurestore.storage.environment import Environment

    Check = Callable[[bytes, bytes], object]

ROWS_AT_A_TIME = 5_000
_HASH_END = 12  # of an online record's place: group and hash


def scrub(database: Database, tell: Callable[[int, int], object] | None = None) -> list[Fault]:
    """Read everything.

    Parameters
    ----------
    database : Database
        Open; others may write meanwhile.
    tell : callable, optional
        Called now and then with the bytes read, and those there are.

    Returns
    -------
    list of Fault
        Empty when every byte is what was written.
    """
    findings = Findings()
    pin = Pin(database.locks)
    try:
        with database.read() as txn:
            with contextlib.suppress(CorruptStore):  # then the pin stands for everything
                pin.narrow(manifest.version(database.env, txn))
            engine_bytes = database.env.used_bytes(txn)
        entries = _listed(database.env, findings)
        progress = _Progress(tell, engine_bytes + sum(entry.size_bytes for entry in entries))
        scrub_rows(database.env, findings, progress)
        progress.done(engine_bytes)
        for entry in entries:
            _scrub_file(database, entry, findings, progress)
    finally:
        pin.release()
    return findings.finish().faults


class _Progress:
    """How many bytes have been read."""

    def __init__(self, tell: Callable[[int, int], object] | None, total: int) -> None:
        self._tell = tell
        self._total = total
        self._read = 0

    def __call__(self, more: int) -> None:
        """Note that so many bytes more have been read."""
        self.done(self._read + more)

    def done(self, read: int) -> None:
        """Note how many bytes have been read."""
        self._read = read
        if self._tell is not None:
            self._tell(min(read, self._total), self._total)


# ── files ────────────────────────────────────────────────────────────────────────────────────


def _listed(env: Environment, findings: Findings) -> list[manifest.FileEntry]:
    """Return the files whose rows can be read; the others are faults of the engine."""
    try:
        with env.read() as txn:
            return manifest.all_live_files(env, txn)
    except CorruptStore:
        entries = []
        for at, row in _rows(env, "manifest"):
            if at[:1] == b"f" and _fault_of(manifest.FileEntry.of, at, row) is None:
                entries.append(manifest.FileEntry.of(at, row))
        findings.note("Not every file could be scrubbed: a row of the manifest is damaged.")
        return entries


def _scrub_file(
    database: Database, entry: manifest.FileEntry, findings: Findings, progress: _Progress
) -> None:
    path = database.root / entry.path
    try:
        size = files.size(path)
        if size != entry.size_bytes:
            sentence = f"it has {size:,} bytes; the manifest says {entry.size_bytes:,} bytes."
            findings.fault(entry.path, "size", sentence)
            progress(entry.size_bytes)
            return
        sound = files.digest(path, progress) == entry.digest
    except FileNotFoundError:
        findings.fault(entry.path, "missing", "it is listed in the manifest but not there.")
        progress(entry.size_bytes)
        return
    except (OSError, FeatureStoreError) as error:
        findings.fault(entry.path, "unreadable", str(error))
        return
    if not sound:
        findings.fault(entry.path, "digest", "its bytes are not those that were written.")


# ── the engine ───────────────────────────────────────────────────────────────────────────────


def scrub_rows(
    env: Environment,
    findings: Findings,
    progress: Callable[[int], object] | None = None,
    names: Sequence[str] = DATABASES,
) -> None:
    """Hold every row of some databases of the engine to its checksum."""
    for name in names:
        check = _check_of(name, env)
        read = 0
        try:
            for at, row in _rows(env, name):
                read += len(at) + len(row)
                error = _fault_of(check, at, row)
                if error is not None:
                    findings.fault(f"engine, {name}", "checksum", error)
        except FeatureStoreError as error:  # LMDB's own, translated
            findings.fault(f"engine, {name}", "unreadable", str(error))
        if progress is not None:
            progress(read)


def _fault_of(check: Check, at: bytes, row: bytes) -> str | None:
    try:
        check(at, row)
    except FeatureStoreError as error:
        return str(error)
    return None


def _rows(env: Environment, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield all rows of a database, some thousand in a transaction."""
    after: bytes | None = None
    while True:
        rows: list[tuple[bytes, bytes]] = []
        with env.read() as txn, txn.cursor(db=getattr(env, name)) as cursor:
            here = cursor.first() if after is None else cursor.set_range(after)
            if here and cursor.key() == after:
                here = cursor.next()
            while here and len(rows) < ROWS_AT_A_TIME:
                rows.append((bytes(cursor.key()), bytes(cursor.value())))
                here = cursor.next()
        yield from rows
        if not rows:
            return
        after = rows[-1][0]


def _online(at: bytes, value: bytes) -> None:
    length = read_header(value).length
    key, rest = at[_HASH_END:], value[length:]
    if key[:1] == DIGEST_TAG:
        key, rest = rest, b""
    verify_record(value, key)
    if rest:
        raise CorruptStore(f"{len(rest)} bytes follow a record.")


def _entry(at: bytes, value: bytes) -> None:
    journal.check(at, value)
    for key, record in journal.split(value, at.hex(" ")):
        verify_record(record, key)


def _manifest(at: bytes, row: bytes) -> None:
    if at[:1] in {b"f", b"r"}:
        manifest.FileEntry.of(at, row)
    elif at[:1] == b"s":
        manifest.GroupState.of(at, row)
    else:
        unseal(at, row, f"The row {at.hex(' ')} of the manifest")


def _catalog(at: bytes, row: bytes) -> None:
    if at[:1] == b"g":
        catalog.group_of(at, row)
    elif at[:1] == b"v":
        catalog.view_of(at, row)


def _meta(at: bytes, row: bytes) -> None:
    if at.startswith(b"consumer/"):
        consumers.of(at, row)
    elif at.startswith(b"erasure/"):
        erasures.of(at, row)
    elif row[:1] == b"{":  # the format, documents
        unseal(at, row, f"The row {at.decode(errors='replace')}")
    else:
        unseal_number(at, row, f"The counter {at.decode(errors='replace')}")


def _access(at: bytes, row: bytes) -> None:
    unseal(at, row, f"The API key {at[1:].decode(errors='replace')}")


class _Chain:
    """The server's log of changes: each row's hash covers the row before."""

    def __init__(self) -> None:
        self._number, self._hash = 0, GENESIS

    def __call__(self, at: bytes, row: bytes) -> None:
        found, text = row[: len(GENESIS)], row[len(GENESIS) :]
        follows = at == self._number.to_bytes(8, "big") and found == chained(self._hash, text)
        self._number, self._hash = int.from_bytes(at, "big") + 1, found
        if not follows:
            raise CorruptStore(
                f"Row {self._number - 1} of the log of changes is not what was written, or not "
                "behind the row that it was written behind."
            )


def _dated(env: Environment) -> Check:
    def check(at: bytes, _row: bytes) -> None:
        with env.read() as txn:
            if txn.get(at, db=env.request_times) is not None:  # else it was forgotten meanwhile
                requests.require_dated(env, txn, at)

    return check


_CHECKS: dict[str, Check] = {
    "meta": _meta,
    "commits": commits.parsed,
    "catalog": _catalog,
    "latest": _online,
    "journal": _entry,
    "manifest": _manifest,
    "requests": requests.parsed,
    "access": _access,
}


def _check_of(name: str, env: Environment) -> Check:
    """Return what is to hold of each row of a database, in their order."""
    if name == "audit":
        return _Chain()
    return _dated(env) if name == "request_times" else _CHECKS[name]
