"""One group of ``verify``: its journal, online records and files, and that they agree.

All of it is read at one moment, in three steps::

    moment     files pinned; journal entries and online records copied out as raw bytes, so that
               one bad row is one fault and not the end
    parts      every record, entry and file by itself, and against its entry in the manifest
    agreement  the newest version of each key, from files and tail, is what the online store has

Agreement is what :func:`featurestore.record.resolve` says of a history with nothing cut off, done
for all keys at once.  It speaks of records aimed at both stores.  A record aimed at the online
store alone is not in history, so its key is only checked for not being older than history; one
aimed at the offline store alone moves nothing online.

If a part of history cannot be read, agreement is not judged: everything missing would be a fault
of its own, and there is one already.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.encoding.columns import decode_history, history_schema
from featurestore.encoding.key_columns import encode_keys
from featurestore.encoding.keys import DIGEST_TAG, decode_key, lmdb_key
from featurestore.encoding.values import Header, read_header, verify_record
from featurestore.engine.snapshot import Pin
from featurestore.engine.verify.file import check_file, shown
from featurestore.errors import CorruptStore
from featurestore.event_time import NO_EXPIRY, format_us
from featurestore.record import FLAG_DELETED, FLAG_FENCE, STORE_OFFLINE, STORE_ONLINE
from featurestore.storage import catalog, commits, erasures, journal, latest, manifest
from featurestore.storage.parquet import (
    EXPIRES_AT,
    IS_DELETED,
    KEY_HASH,
    STORES,
    WRITE_SEQ,
    WRITE_TIME,
    as_int64,
    read_history,
    same_key_as_before,
    sort_history,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.verify.findings import Findings
    from featurestore.schema import FeatureGroup
    from featurestore.storage.environment import Transaction
    from featurestore.storage.erasures import Erasure
    from featurestore.storage.manifest import FileEntry, GroupState

    Bools = np.ndarray[Any, np.dtype[np.bool_]]
    Int64s = np.ndarray[Any, np.dtype[np.int64]]

_U32 = struct.Struct(">I")
_KEY = struct.Struct(">IQ")  # group and number, of journal entries and of files
_HASH_END = 12  # of an online record's place: group and hash
#: Records decoded at a time.
_BLOCK_ROWS = 1 << 16
_SEQ_BLOCK_BITS = 20


def check_group(
    database: Database,
    group_id: int,
    findings: Findings,
    seqs: SeenSeqs,
    erased: Sequence[Erasure] = (),
) -> None:
    """Check one group as it stands now; a group dropped meanwhile has no faults."""
    pin = Pin(database.locks)
    try:
        with database.read() as txn:
            pin.narrow(manifest.version(database.env, txn))
            moment = _moment(database, txn, group_id, findings)
        if moment is not None:
            mine = [erasure for erasure in erased if erasure.group_id == group_id]
            _GroupCheck(database, moment, findings, seqs, mine).run()
    finally:
        pin.release()


# ── the moment ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Moment:
    """Everything of a group, as bytes, at one moment."""

    group: FeatureGroup
    last_seq: int
    state: GroupState
    entries: list[FileEntry]
    is_whole: bool  # every row of the manifest could be read
    keys: int  # online, as counted by the writers
    journal: list[tuple[int, bytes]]  # first seq, entry
    latest: list[tuple[bytes, bytes]]  # place, value


def _moment(
    database: Database, txn: Transaction, group_id: int, findings: Findings
) -> _Moment | None:
    env, prefix = database.env, _U32.pack(group_id)
    definition = txn.get(b"g" + prefix, db=env.catalog)  # checked before: `_check_catalog`
    if definition is None:
        return None
    try:
        state = manifest.state(env, txn, group_id)
    except CorruptStore as error:
        findings.fault(f"manifest, state of group {group_id}", "malformed", str(error))
        return None
    rows = list(rows_of(txn, env.manifest, b"f" + prefix))
    entries = [e for key, row in rows if (e := _entry(key, row, findings)) is not None]
    return _Moment(
        group=catalog.group_of(b"g" + prefix, bytes(definition)),
        last_seq=commits.last(env, txn)[0],
        state=state,
        entries=entries,
        is_whole=len(entries) == len(rows),
        keys=latest.count(env, txn, group_id),
        journal=[(_KEY.unpack(k)[1], v) for k, v in rows_of(txn, env.journal, prefix)],
        latest=list(rows_of(txn, env.latest, prefix)),
    )


def _entry(key: bytes, row: bytes, findings: Findings) -> FileEntry | None:
    place = manifest.file_path(*_KEY.unpack(key[1:]))
    try:
        entry = manifest.FileEntry.of(key, row)
    except CorruptStore as error:
        findings.fault(place, "manifest row", str(error))
        return None
    if entry.path != place:
        findings.fault(place, "manifest row", f"its row describes {entry.path}.")
        return None
    return entry


def rows_of(txn: Transaction, handle: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of a database whose keys begin with a prefix, in order."""
    with txn.cursor(db=handle) as cursor:
        if cursor.set_range(prefix):
            for key, value in cursor:
                if not bytes(key).startswith(prefix):
                    return
                yield bytes(key), bytes(value)


# ── the parts ────────────────────────────────────────────────────────────────────────────────


class _Newest(NamedTuple):
    """The newest version of a key aimed at the online store, and where its row is."""

    event_time_us: int
    seq: int
    source: int  # index of a file; -1 is the tail
    row: int


_TAIL = -1


class _GroupCheck:
    """The checks of one group at one moment."""

    def __init__(
        self,
        database: Database,
        moment: _Moment,
        findings: Findings,
        seqs: SeenSeqs,
        erased: Sequence[Erasure],
    ) -> None:
        self.root = database.root
        self.key_hash = database.key_hash
        self.moment = moment
        self.group = moment.group
        self.findings = findings
        self.seqs = seqs
        self.erased = erased
        self.key_dtypes = [f.dtype for f in self.group.key_features]
        self.journal_place = f'journal of "{self.group.name}"'
        self.online_place = f'online store of "{self.group.name}"'
        #: False once a part of history could not be read.
        self.history_is_whole = moment.is_whole
        self.newest: dict[bytes, _Newest] = {}
        self.tail: pa.Table = history_schema(self.group).empty_table()

    def run(self) -> None:
        """Run every check."""
        self._check_journal()
        online = self._check_latest()
        self._check_files()
        self._check_cells()
        if self.history_is_whole and self.group.online and self.group.offline:
            self._check_agreement(online)

    # ── journal ──────────────────────────────────────────────────────────────────────────────

    def _check_journal(self) -> None:
        """Check every entry; those beyond what is drained become the tail."""
        keys: list[bytes] = []
        records: list[bytes] = []
        drained_seq, before = self.moment.state.drained_seq, 0
        for first_seq, body in self.moment.journal:
            place = f"{self.journal_place}, entry {first_seq}"
            try:
                _, last_seq = journal.check(_KEY.pack(self.group.id, first_seq), body)
                pairs = list(journal.split(body, str(first_seq)))
            except CorruptStore as error:
                self.findings.fault(place, "malformed", str(error))
                self.history_is_whole = False
                continue
            sound = self._check_journal_entry(place, first_seq, last_seq, before, pairs)
            before = last_seq
            if first_seq <= drained_seq < last_seq:
                self.findings.fault(
                    place,
                    "drained",
                    f"it reaches to seq {last_seq}, and the group is drained up to {drained_seq}: "
                    "a part of it only.",
                )
            if last_seq > drained_seq:
                keys += [key for key, _ in sound]
                records += [record for _, record in sound]
        self._take_tail(keys, records)

    def _check_journal_entry(
        self,
        place: str,
        first_seq: int,
        last_seq: int,
        before: int,
        pairs: Sequence[tuple[bytes, bytes]],
    ) -> list[tuple[bytes, bytes]]:
        """Check one entry; returns its pairs of key and record whose checksums are good."""
        sound = []
        seqs = []
        for key, record in pairs:
            try:
                header = verify_record(record, key)
            except CorruptStore as error:
                self.findings.fault(place, "checksum", str(error))
                self.history_is_whole = False
                continue
            if not header.stores & STORE_OFFLINE:
                self.findings.fault(
                    place, "stores", f"the record of seq {header.seq} is not for the offline store."
                )
            seqs.append(header.seq)
            sound.append((key, record))
            self._check_erased(place, key, header.seq)
        if len(sound) < len(pairs):
            return sound
        ascending = all(a < b for a, b in itertools.pairwise([before, *seqs]))
        if not ascending or not seqs or (seqs[0], seqs[-1]) != (first_seq, last_seq):
            self.findings.fault(
                place,
                "seqs",
                f"its records have the seqs {shown(seqs)}; they should run from {first_seq} to "
                f"{last_seq} and follow {before}.",
            )
        return sound

    def _take_tail(self, keys: list[bytes], records: list[bytes]) -> None:
        rows = self._decodable(self.journal_place, keys, records)
        if len(rows) < len(keys):
            self.history_is_whole = False
        keys, records = [keys[row] for row in rows], [records[row] for row in rows]
        tail = self._decode(keys, records)
        if tail.num_rows:
            self.tail = sort_history(tail, self.group, self.key_hash)
            self._count_seqs(self.journal_place, as_int64(self.tail.column(WRITE_SEQ)))
            self._keep_newest(_TAIL, self.tail)

    def _decodable(self, place: str, keys: list[bytes], records: list[bytes]) -> list[int]:
        """Return which records decode, each of the others being a fault."""
        good = []
        for start in range(0, len(keys), _BLOCK_ROWS):
            block = range(start, min(start + _BLOCK_ROWS, len(keys)))
            try:
                self._decode(keys[start : block.stop], records[start : block.stop])
            except CorruptStore:
                good += [row for row in block if self._decodes(place, keys[row], records[row])]
            else:
                good += block
        return good

    def _decodes(self, place: str, key: bytes, record: bytes) -> bool:
        try:
            self._decode([key], [record])
        except CorruptStore as error:
            self.findings.fault(place, "undecodable", f"{self._named(key)}: {error}")
            return False
        return True

    def _decode(self, keys: Sequence[bytes], records: Sequence[bytes]) -> pa.Table:
        return decode_history(self.group, keys, records, self.key_hash)

    # ── online ───────────────────────────────────────────────────────────────────────────────

    def _check_latest(self) -> dict[bytes, tuple[Header, bytes]]:
        """Check every online record; returns header and record of the sound ones, by key."""
        online: dict[bytes, tuple[Header, bytes]] = {}
        if len(self.moment.latest) != self.moment.keys:
            self.findings.fault(
                self.online_place,
                "count",
                f"it has {len(self.moment.latest):,} keys; {self.moment.keys:,} were counted.",
            )
        for place, value in self.moment.latest:
            try:
                header = read_header(value)
                key, rest = place[_HASH_END:], value[header.length :]
                if key[:1] == DIGEST_TAG:
                    key, rest = rest, b""
                verify_record(value, key)
            except CorruptStore as error:
                named = self._named(place[_HASH_END:])
                self.findings.fault(self.online_place, "checksum", f"{named}: {error}")
                continue
            if rest or lmdb_key(self.group.id, self.key_hash(key), key) != place:
                self.findings.fault(
                    self.online_place, "place", f"{self._named(key)} is not where its key belongs."
                )
                continue
            self._check_latest_header(key, header)
            self._check_erased(self.online_place, key, header.seq)
            online[key] = (header, value)
        keys = list(online)
        records = [record for _, record in online.values()]
        good = {keys[row] for row in self._decodable(self.online_place, keys, records)}
        return {key: found for key, found in online.items() if key in good}

    def _check_latest_header(self, key: bytes, header: Header) -> None:
        if header.seq > self.moment.last_seq:
            self.findings.fault(
                self.online_place,
                "future seq",
                f"{self._named(key)} has seq {header.seq}; the last commit is "
                f"{self.moment.last_seq}.",
            )
        if not header.stores & STORE_ONLINE:
            self.findings.fault(
                self.online_place, "stores", f"{self._named(key)} is not for the online store."
            )

    # ── files ────────────────────────────────────────────────────────────────────────────────

    def _check_files(self) -> None:
        state = self.moment.state
        for index, entry in enumerate(self.moment.entries):
            table = check_file(self.root, entry, self.group, self.key_hash, state, self.findings)
            if table is None:
                self.history_is_whole = False
                continue
            self._count_seqs(entry.path, as_int64(table.column(WRITE_SEQ)))
            self._check_erased_rows(entry.path, table)
            self._keep_newest(index, table)

    def _check_cells(self) -> None:
        """Check that cells keep to their windows, and share no hash within one."""
        windows = self.moment.state.windows
        if any(a >= b for a, b in itertools.pairwise(windows)):
            self.findings.fault(
                f'manifest of "{self.group.name}"',
                "windows",
                f"the bounds {windows} do not ascend.",
            )
        cells = [entry for entry in self.moment.entries if entry.kind == "cell"]
        cells.sort(key=lambda entry: (entry.window, entry.min_hash))
        for entry in cells:
            low = windows[entry.window - 1] if 0 < entry.window <= len(windows) else -(2**63)
            high = windows[entry.window] if 0 <= entry.window < len(windows) else 2**63
            inside = low <= entry.min_event_us and entry.max_event_us < high
            if not inside or not 0 <= entry.window <= len(windows):
                self.findings.fault(
                    entry.path, "window", f"it has rows outside its window, number {entry.window}."
                )
        for one, two in itertools.pairwise(cells):
            if one.window == two.window and two.min_hash <= one.max_hash:
                self.findings.fault(two.path, "overlap", f"it overlaps {one.path}; both are cells.")

    # ── erasures ─────────────────────────────────────────────────────────────────────────────

    def _check_erased(self, place: str, key: bytes, seq: int) -> None:
        """Check that a record is none that was erased."""
        for erasure in self.erased:
            if seq <= erasure.seq and erasures.digest(self.key_hash, key) == erasure.key_digest:
                self.findings.fault(
                    place,
                    "erased",
                    f"it holds seq {seq} of a key that was erased at seq {erasure.seq}.",
                )

    def _check_erased_rows(self, place: str, table: pa.Table) -> None:
        hashes, seqs = as_int64(table.column(KEY_HASH)), as_int64(table.column(WRITE_SEQ))
        for key_hash in {erasure.key_hash for erasure in self.erased}:
            rows = np.flatnonzero(hashes == key_hash)
            if not len(rows):
                continue
            columns = [
                table.column(name).take(pa.array(rows)) for name in self.group.record_identifier
            ]
            keys = encode_keys(columns, self.key_dtypes)
            for row, code in zip(rows.tolist(), keys.codes.tolist(), strict=True):
                self._check_erased(place, keys.keys[code], int(seqs[row]))

    # ── agreement ────────────────────────────────────────────────────────────────────────────

    def _keep_newest(self, source: int, table: pa.Table) -> None:
        """Remember each key's newest row of a sorted table, among those aimed at online too."""
        rows = np.flatnonzero(as_int64(table.column(STORES)) & STORE_ONLINE)
        if len(rows) < table.num_rows:
            table = table.take(pa.array(rows))
        if not len(rows):
            return
        ends = np.flatnonzero(np.append(~same_key_as_before(table, self.group), True))
        last = table.take(pa.array(ends))
        columns = [last.column(name) for name in self.group.record_identifier]
        encoded = encode_keys(columns, self.key_dtypes)
        for code, event_us, seq, row in zip(
            encoded.codes.tolist(),
            as_int64(last.column(self.group.event_time)).tolist(),
            as_int64(last.column(WRITE_SEQ)).tolist(),
            rows[ends].tolist(),
            strict=True,
        ):
            key = encoded.keys[code]
            known = self.newest.get(key)
            if known is None or (event_us, seq) > known[:2]:
                self.newest[key] = _Newest(event_us, seq, source, row)

    def _check_agreement(self, online: dict[bytes, tuple[Header, bytes]]) -> None:
        same: dict[int, list[bytes]] = {}
        for key, (header, _) in online.items():
            newest = self.newest.get(key)
            at = (header.event_time_us, header.seq)
            if not header.stores & STORE_OFFLINE:
                if newest is not None and at < newest[:2]:
                    self._disagreement(key, header, newest)
            elif newest is None:
                self.findings.fault(
                    self.online_place,
                    "no history",
                    f"{self._named(key)} has seq {header.seq}; history knows nothing of it.",
                )
            elif at != newest[:2]:
                self._disagreement(key, header, newest)
            else:
                same.setdefault(newest.source, []).append(key)
        if len(online) == len(self.moment.latest):  # a record that cannot be read is told already
            for key in self.newest.keys() - online.keys():
                self.findings.fault(
                    self.online_place,
                    "missing",
                    f"{self._named(key)} is in history with seq {self.newest[key].seq}, not here.",
                )
        for source, keys in same.items():
            self._compare(source, keys, online)

    def _disagreement(self, key: bytes, header: Header, newest: _Newest) -> None:
        self.findings.fault(
            self.online_place,
            "not the newest",
            f"{self._named(key)} has event time {format_us(header.event_time_us)} and seq "
            f"{header.seq}; the newest in history has {format_us(newest.event_time_us)} and "
            f"{newest.seq}.",
        )

    def _compare(
        self, source: int, keys: list[bytes], online: dict[bytes, tuple[Header, bytes]]
    ) -> None:
        """Compare online records with their rows in one source, value for value."""
        names = [WRITE_TIME, EXPIRES_AT, IS_DELETED, *(f.name for f in self.group.value_features)]
        if source == _TAIL:
            place, table = self.journal_place, self.tail.select(names)
        else:
            entry = self.moment.entries[source]
            place = entry.path
            try:
                table = read_history(self.root, entry, self.group, names)
                table.validate(full=True)
            except (CorruptStore, pa.ArrowException) as error:
                self.findings.fault(entry.path, "unreadable", str(error))
                return
        for start in range(0, len(keys), _BLOCK_ROWS):
            block = keys[start : start + _BLOCK_ROWS]
            here = table.take(pa.array([self.newest[key].row for key in block]))
            there = self._decode(block, [online[key][1] for key in block]).select(names)
            fenced = np.array([_is_fence(online[key][0]) for key in block])
            self._compare_rows(place, block, here, there, fenced)

    def _compare_rows(
        self, place: str, keys: list[bytes], here: pa.Table, there: pa.Table, fenced: Bools
    ) -> None:
        for name in here.column_names:
            differs = _differs(here.column(name), there.column(name))
            if name not in (WRITE_TIME, EXPIRES_AT):
                differs &= ~fenced  # the payload of a fence is gone
            for row in np.flatnonzero(differs).tolist():
                self.findings.fault(
                    self.online_place,
                    "value",
                    f'{self._named(keys[row])} has "{name}" {there.column(name)[row]}; '
                    f"{place} has {here.column(name)[row]}.",
                )

    # ── small things ─────────────────────────────────────────────────────────────────────────

    def _count_seqs(self, place: str, seqs: Int64s) -> None:
        late = seqs[(seqs > self.moment.last_seq) | (seqs < 1)]
        if len(late):
            self.findings.fault(
                place,
                "future seq",
                f"it holds seq {late[0]}; the last commit is {self.moment.last_seq}.",
            )
        again = self.seqs.add(seqs)
        if len(again):
            self.findings.fault(
                place, "seq twice", f"seqs in it are elsewhere too: {shown(again.tolist())}."
            )

    def _named(self, key: bytes) -> str:
        """Return a key as people know it."""
        try:
            values = decode_key(key, self.key_dtypes)
        except CorruptStore:
            return f"key {key[:32].hex(' ')}"
        return ", ".join(
            f"{name}={dtype.to_python(value)!r}"
            for name, dtype, value in zip(
                self.group.record_identifier, self.key_dtypes, values, strict=True
            )
        )


def _is_fence(header: Header) -> bool:
    """Tell the record of a key that expired and was cleaned up: time and seq without payload."""
    return (
        bool(header.flags & FLAG_FENCE)
        and not header.flags & FLAG_DELETED
        and header.expires_at_us != NO_EXPIRY
    )


def _differs(one: pa.ChunkedArray, two: pa.ChunkedArray) -> Bools:
    """Return in which rows two columns differ, by their bits: NaN is itself, 0.0 is not -0.0."""
    a, b = _bits(one.combine_chunks()), _bits(two.combine_chunks())
    if a.equals(b):
        return np.zeros(len(a), np.bool_)
    return np.array([not x.equals(y) for x, y in zip(a, b, strict=True)], np.bool_)


def _bits(array: pa.Array) -> pa.Array:
    """Return an array with integers of the same bits in the place of floats."""
    if pa.types.is_float64(array.type):
        return array.view(pa.int64())
    if pa.types.is_float32(array.type):
        return array.view(pa.int32())
    if pa.types.is_list(array.type) and pa.types.is_floating(array.type.value_type):
        kind = pa.list_(_bits(pa.array([], array.type.value_type)).type)
        return array.view(kind)
    if pa.types.is_fixed_size_list(array.type):
        kind = pa.list_(_bits(pa.array([], array.type.value_type)).type, array.type.list_size)
        return array.view(kind)
    return array


# ── seqs ─────────────────────────────────────────────────────────────────────────────────────


class SeenSeqs:
    """The set of seqs met so far: a byte each, in blocks, since seqs lie close together.

    Examples
    --------
    >>> seen = SeenSeqs()
    >>> seen.add(np.array([5, 1, 2, 5])).tolist(), seen.add(np.array([3, 1])).tolist()
    ([5], [1])
    """

    def __init__(self) -> None:
        self._blocks: dict[int, np.ndarray[Any, np.dtype[np.bool_]]] = {}

    def add(self, seqs: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
        """Add seqs, int64[n]; returns those that were there before, or are here twice."""
        seqs = np.sort(seqs)
        again = [seqs[1:][seqs[1:] == seqs[:-1]]]
        blocks = seqs >> _SEQ_BLOCK_BITS
        for number in np.unique(blocks).tolist():
            part = seqs[blocks == number]
            block = self._blocks.setdefault(number, np.zeros(1 << _SEQ_BLOCK_BITS, np.bool_))
            places = part & ((1 << _SEQ_BLOCK_BITS) - 1)
            again.append(part[block[places]])
            block[places] = True
        return np.unique(np.concatenate(again))
