"""The store checks itself: every part against every other.

::

    commit log      seqs and times only grow; nothing anywhere has a later seq
    catalog         every definition parses; no two groups are one to SQL
    small rows      results of requests, marks of consumers, counters, documents, API keys, the log
                    of changes: checksums
    manifest        every row parses, belongs to a group, and no file is two things at once
    each group      at one moment of its own, files pinned (group):
      journal         entries in order, none half drained; checksums; records decode
      online          under the right key; checksums; records decode
      files           size and digest; rows, order, hashes and bounds as the manifest says
      cells           disjoint
      agreement       online is the newest of history, value for value
    seqs            no seq twice in the whole store
    erasures        nothing is left of a key that was erased, in any of these places

Nothing is changed, and nothing is locked but the files read.  What a crash may leave behind (a file
nobody lists, a drained journal entry not yet deleted) is no fault: the cleaner removes it.

Memory is bounded by the largest file and by one group's online records, which are copied out of
their transaction at once: a long one would make LMDB's file grow.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

from featurestore.engine.verify.findings import Fault, Findings
from featurestore.engine.verify.group import SeenSeqs, check_group, rows_of
from featurestore.engine.verify.scrub import scrub_rows
from featurestore.errors import CorruptStore, FeatureStoreError
from featurestore.event_time import format_us
from featurestore.feature_view import FeatureView
from featurestore.storage import catalog, commits, erasures, files, manifest, seam
from featurestore.storage.erasures import Erasure
from featurestore.storage.rows import unseal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from featurestore.engine.database import Database
    from featurestore.results import ErasureReceipt
    from featurestore.schema import FeatureGroup
    from featurestore.storage.environment import Transaction

__all__ = ["Fault", "Findings", "examine", "verify"]

#: A file nobody knows is worth a note when a cleaner had time enough to remove it.
OLD_SECONDS = 600

#: Databases of rows that agree with nothing else: a checksum is all there is to look at.
_SMALL = ("meta", "requests", "request_times", "access", "audit")

_U32 = struct.Struct(">I")
_FILE_KEY = struct.Struct(">IQ")


def verify(database: Database, receipts: Iterable[ErasureReceipt] = ()) -> list[Fault]:
    """Check the whole store.

    Parameters
    ----------
    database : Database
        Open; others may write meanwhile.
    receipts : iterable of ErasureReceipt
        Erasures to look for beside those that the store knows of.

    Returns
    -------
    list of Fault
        Empty when the store is sound.

    Examples
    --------
    >>> import tempfile
    >>> from featurestore.engine.database import open_database
    >>> database = open_database(tempfile.mkdtemp())
    >>> verify(database)
    []
    >>> database.close()
    """
    return examine(database, receipts).faults


def examine(database: Database, receipts: Iterable[ErasureReceipt] = ()) -> Findings:
    """Check the whole store; returns the notes too: what is legal, and may surprise."""
    findings = Findings()
    groups: list[FeatureGroup] = []
    with _reported(findings, "engine"), database.read() as txn:
        groups = _check_catalog(database, txn, findings)
        _check_manifest(database, txn, findings)
        _check_owners(database, txn, findings)
        _check_commits(database, txn, findings)
    scrub_rows(database.env, findings, names=_SMALL)
    erased = _erased(database, groups, receipts, findings)
    _note_orphans(database, findings)
    seqs = SeenSeqs()
    for group in groups:
        with _reported(findings, f'group "{group.name}"'):
            check_group(database, group.id, findings, seqs, erased)
    return findings.finish()


def _erased(
    database: Database,
    groups: Sequence[FeatureGroup],
    receipts: Iterable[ErasureReceipt],
    findings: Findings,
) -> list[Erasure]:
    """Return what must not be found; note what waits for a reader to be deleted."""
    ids = {group.name: group.id for group in groups}
    erased = [
        Erasure(ids[r.group], r.seq, 0, r.key_hash, r.key_digest)
        for r in receipts
        if r.group in ids
    ]
    with _reported(findings, "erasures"), database.read() as txn:
        erased += erasures.every(database.env, txn)
        for entry in manifest.removed_files(database.env, txn):
            if entry.removed_at_us == 1:
                findings.note(f"{entry.path} holds what was erased until its last reader is done.")
    return erased


@contextlib.contextmanager
def _reported(findings: Findings, place: str) -> Iterator[None]:
    """Turn an error that no check expected into a fault, and go on behind."""
    try:
        yield
    except (CorruptStore, struct.error, ValueError, OSError) as error:
        findings.fault(place, "unreadable", f"{error}")


# ── the whole store ──────────────────────────────────────────────────────────────────────────


def _check_commits(database: Database, txn: Transaction, findings: Findings) -> None:
    place = "commit log"
    before = (0, -(2**63))
    for key, value in rows_of(txn, database.env.commits, b""):
        try:
            seq, time_us = commits.parsed(key, value)
        except CorruptStore as error:
            findings.fault(place, "malformed", str(error))
            continue
        if time_us < before[1]:
            findings.fault(
                place,
                "order",
                f"the commit of seq {seq}, at {format_us(time_us)}, is dated before that of seq "
                f"{before[0]}, at {format_us(before[1])}.",
            )
        before = (seq, time_us)


def _check_catalog(database: Database, txn: Transaction, findings: Findings) -> list[FeatureGroup]:
    """Return the groups whose definitions can be read."""
    groups: dict[str, FeatureGroup] = {}
    for key, row in rows_of(txn, database.env.catalog, b"g"):
        place = f"catalog, group {_U32.unpack(key[1:])[0]}"
        try:
            group = catalog.group_of(key, row)
        except (ValueError, KeyError, TypeError, FeatureStoreError) as error:
            findings.fault(place, "malformed", f"the definition cannot be read ({error}).")
            continue
        if key[1:] != _U32.pack(group.id):
            findings.fault(place, "id", f'"{group.name}" says that its id is {group.id}.')
        elif group.name.lower() in groups:
            other = groups[group.name.lower()]
            findings.fault(place, "name", f'"{group.name}" is also group {other.id}.')
        groups[group.name.lower()] = group
    exact = {group.name: group for group in groups.values()}
    for key, row in rows_of(txn, database.env.catalog, b"v"):
        _check_view(key, row, exact, findings)
    return list(groups.values())


def _check_view(
    key: bytes, row: bytes, groups: dict[str, FeatureGroup], findings: Findings
) -> None:
    place = f'feature view "{key[1:].decode(errors="replace")}"'
    try:
        view = FeatureView.from_json(catalog.view_of(key, row))
    except (ValueError, KeyError, TypeError, FeatureStoreError) as error:
        findings.fault(place, "malformed", f"the definition cannot be read ({error}).")
        return
    for lookup in view.lookups:
        if lookup.group not in groups:
            findings.note(f'{place} refers to "{lookup.group}", which is no feature group now.')


def _check_manifest(database: Database, txn: Transaction, findings: Findings) -> None:
    """Check that no file is two of listed, removed and intended, and all have been numbered."""
    last_id = catalog.counter(database.env, txn, b"last_file_id")
    seen: dict[tuple[int, int], str] = {}
    for letter, state in ((b"f", "listed"), (b"r", "removed"), (b"i", "being written")):
        for key, row in rows_of(txn, database.env.manifest, letter):
            if len(key) != 1 + _FILE_KEY.size:
                findings.fault("manifest", "malformed", f"the key {key.hex(' ')} is no file's.")
                continue
            file = _FILE_KEY.unpack(key[1:])
            place = manifest.file_path(*file)
            with _reported(findings, place):
                if letter == b"i":
                    unseal(key, row, f"The intent of {place}")
                elif letter == b"r":
                    manifest.FileEntry.of(key, row)
            if file in seen:
                findings.fault(place, "state", f"it is {seen[file]} and {state} at once.")
            if file[1] > last_id:
                findings.fault(place, "id", f"the last id given to a file is {last_id:x}.")
            seen[file] = state


def _check_owners(database: Database, txn: Transaction, findings: Findings) -> None:
    """Check that whatever is stored belongs to a group that exists, or that is being dropped."""
    env = database.env
    known = {key[1:] for letter in (b"g", b"d") for key, _ in rows_of(txn, env.catalog, letter)}
    for what, handle, letter in (
        ("online records", env.latest, b""),
        ("journal entries", env.journal, b""),
        ("state", env.manifest, b"s"),
        ("files", env.manifest, b"f"),
    ):
        for owner in _owners(txn, handle, letter):
            if owner not in known:
                findings.fault(
                    "engine", "owner", f"there are {what} of group {_number(owner)}, which is none."
                )


def _owners(txn: Transaction, handle: Any, letter: bytes) -> Iterator[bytes]:
    """Yield each group id that keys of a database begin with, by one seek for each."""
    with txn.cursor(db=handle) as cursor:
        at = letter
        while cursor.set_range(at):
            key = bytes(cursor.key())
            owner = key[len(letter) : len(letter) + 4]
            if not key.startswith(letter):
                return
            yield owner
            if owner == b"\xff\xff\xff\xff" or len(owner) < 4:
                return
            at = letter + _U32.pack(_U32.unpack(owner)[0] + 1)


def _number(owner: bytes) -> str:
    return str(_U32.unpack(owner)[0]) if len(owner) == 4 else owner.hex(" ")


def _note_orphans(database: Database, findings: Findings) -> None:
    """Note old files that are neither listed, nor removed, nor being written."""
    # The folder comes first: a file found there later may have been listed meanwhile.
    found: list[tuple[Path, float]] = []
    for path in files.listing(database.root / "data", "*/*"):
        with contextlib.suppress(FileNotFoundError):  # a cleaner is at work
            found.append((path, seam.call("stat", path, path.stat).st_mtime))
    with database.read() as txn:
        known = {
            manifest.file_path(*_FILE_KEY.unpack(key[1:]))
            for letter in (b"f", b"r", b"i")
            for key, _ in rows_of(txn, database.env.manifest, letter)
            if len(key) == 1 + _FILE_KEY.size
        }
    for path, modified in found:
        relative = str(path.relative_to(database.root))
        if relative not in known and seam.wall_clock() - modified > OLD_SECONDS:
            findings.note(f"{relative} belongs to nobody; the next flush removes it.")
