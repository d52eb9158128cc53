"""Reads a store's bytes with nothing of the engine: the witness of the survival campaigns.

LMDB by ``lmdb``, history files by ``pyarrow``, and between them the formats as their modules state
them, written down a second time and as plainly as they go.  What the engine and this reader see
must be the same; what was acknowledged must be in it.  For groups of an int64 key, a timestamp and
fixed-width features, which is what the campaigns write.

::

    catalog    g <u32 group>                JSON: name, features by id
    manifest   s <u32 group>                JSON: drained_seq
               f <u32 group><u64 file>      JSON: a listed file, how much of it is visible
    journal    <u32 group><u64 first seq>   u32 checksum, u32 count, u64 last seq;
                                            u16 key length, key, record
    latest     <u32 group><u64 hash><key>   record
    record     48 bytes of header, null bitmap, 8 bytes a feature
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HEADER = struct.Struct("<IIHBBIQqqq")
_KEY = struct.Struct(">BQ")
_DELETED = 1


class NoStore(Exception):
    """There is no store yet: its maker died before the first commit."""


@dataclass(frozen=True, slots=True)
class Row:
    """One accepted record of one group, as it lies in the store."""

    k: int
    event_time_us: int
    seq: int
    write_time_us: int
    is_deleted: bool
    values: tuple[Any, ...]


@dataclass
class Contents:
    """All that a store holds, by group.

    Attributes
    ----------
    history : dict of str to list of Row
        Files and journal tail together, in the order of seqs.
    latest : dict of str to dict of int to Row
        The online record of each key.
    listed : set of str
        Paths of the files in the manifest, below the store's folder.
    last_seq : int
        Of the commit log.
    """

    history: dict[str, list[Row]] = field(default_factory=dict)
    latest: dict[str, dict[int, Row]] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    last_seq: int = 0


def contents(path: Path) -> Contents:
    """Read a store that this process has not open."""
    found = Contents()
    if (path / "engine" / "data.mdb").stat().st_size == 0:
        raise NoStore(path)
    env = lmdb.open(
        str(path / "engine"), max_dbs=32, map_size=1 << 40, readonly=True, lib_version=0
    )
    try:
        try:
            handles = {
                name: env.open_db(name.encode(), create=False)
                for name in ("catalog", "manifest", "journal", "latest", "commits")
            }
        except lmdb.NotFoundError as error:
            raise NoStore(path) from error
        with env.begin() as txn:
            rows = {name: list(txn.cursor(db=handle)) for name, handle in handles.items()}
    finally:
        env.close()
    if rows["commits"]:
        found.last_seq = struct.unpack(">Q", rows["commits"][-1][0])[0]
    for place, definition in rows["catalog"]:
        if place[:1] == b"g":
            _group(path, json.loads(definition), rows, found)
    return found


def _group(path: Path, definition: dict[str, Any], rows: dict[str, Any], found: Contents) -> None:
    name, prefix = definition["name"], struct.pack(">I", definition["id"])
    outside = {*definition["record_identifier"], definition["event_time"]}
    features = [f for f in definition["features"] if f["name"] not in outside]
    features.sort(key=lambda feature: feature["id"])
    state = dict(rows["manifest"]).get(b"s" + prefix)
    drained_seq = json.loads(state)["drained_seq"] if state is not None else 0
    history = []
    for place, row in rows["manifest"]:
        if place[:5] == b"f" + prefix:
            entry = json.loads(row)
            relative = f"data/{entry['group_id']}/{entry['file_id']:016x}.parquet"
            found.listed.add(relative)
            history += _file_rows(path / relative, entry, definition, features)
    for place, entry in rows["journal"]:
        if place[:4] == prefix:
            assert zlib.crc32(entry[4:], zlib.crc32(place)) == int.from_bytes(entry[:4], "little")
            history += [row for row in _entry_rows(entry, features) if row.seq > drained_seq]
    found.history[name] = sorted(history, key=lambda row: row.seq)
    found.latest[name] = {}
    for place, record in rows["latest"]:
        if place[:4] == prefix:
            row = _record(place[12:], record, features)
            found.latest[name][row.k] = row


def _record(key: bytes, record: bytes, features: list[dict[str, Any]]) -> Row:
    tag, biased = _KEY.unpack(key)
    assert tag == 0x10, key
    crc, length, version, flags, _, _, seq, event_us, write_us, _ = _HEADER.unpack_from(record)
    assert zlib.crc32(record[4:length], zlib.crc32(key)) == crc, f"checksum of seq {seq}"
    values: list[Any] = []
    if not flags:
        known = [f for f in features if f.get("since", 1) <= version]
        words = -(-len(known) // 64)
        nulls = int.from_bytes(record[48 : 48 + 8 * words], "little")
        slots = struct.unpack_from(f"<{len(known)}q", record, 48 + 8 * words)
        values = [None if nulls >> i & 1 else slot for i, slot in enumerate(slots)]
    values += [None] * (len(features) - len(values))
    return Row(biased - 2**63, event_us, seq, write_us, bool(flags & _DELETED), tuple(values))


def _entry_rows(entry: bytes, features: list[dict[str, Any]]) -> Iterator[Row]:
    count, last_seq = struct.unpack_from("<IQ", entry, 4)
    at = 16
    for number in range(count):
        (key_bytes,) = struct.unpack_from("<H", entry, at)
        key = entry[at + 2 : at + 2 + key_bytes]
        at += 2 + key_bytes
        (length,) = struct.unpack_from("<I", entry, at + 4)
        row = _record(key, entry[at : at + length], features)
        assert number < count - 1 or row.seq == last_seq, (row.seq, last_seq)
        yield row
        at += length
    assert at == len(entry), (at, len(entry))


def _file_rows(
    path: Path, entry: dict[str, Any], definition: dict[str, Any], features: list[dict[str, Any]]
) -> Iterator[Row]:
    table = pq.read_table(path, partitioning=None)
    assert table.num_rows == entry["rows"], path
    [identifier] = definition["record_identifier"]

    def column(name: str) -> list[Any]:
        if name not in table.column_names:
            return [None] * table.num_rows
        found = table.column(name)
        if pa.types.is_timestamp(found.type):
            found = found.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        elif pa.types.is_boolean(found.type) and name != "is_deleted":
            found = found.cast(pa.int64())
        return found.to_pylist()

    seqs, times = column("write_seq"), column("write_time")
    start = 0
    for end, base_seq, time_us in entry["slices"]:
        seqs[start:end] = [base_seq + ordinal for ordinal in seqs[start:end]]
        times[start:end] = [time_us if t is None else t for t in times[start:end]]
        start = end
    parts = [column(identifier), column(definition["event_time"]), seqs, times]
    values = list(zip(*(column(feature["name"]) for feature in features), strict=True))
    rows = zip(*parts, column("is_deleted"), values, strict=True)
    for number, row in enumerate(rows):
        if number < entry["visible_rows"]:
            yield Row(*row)
