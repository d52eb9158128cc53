"""Group snapshots made of given histories: real files and a real tail, but no store around them.

A test of the join wants histories that no store would accept any more: arbitrary order of arrival,
write times long past, a key's versions dealt out over files at will.  Records go through the real
encoding, the real history layout and real Parquet files, and are read through the real snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.encoding.columns import decode_history
from featurestore.encoding.keys import KeyHash, encode_key
from featurestore.encoding.values import RecordCodec, stamp, tombstone
from featurestore.engine.snapshot import GroupSnapshot
from featurestore.record import FLAG_DELETED, STORE_OFFLINE, STORE_ONLINE, Version
from featurestore.storage import parquet
from featurestore.storage.manifest import GroupState, file_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from featurestore.schema import FeatureGroup
    from featurestore.storage.manifest import FileEntry

BOTH = STORE_ONLINE | STORE_OFFLINE


@dataclass(frozen=True)
class Event:
    """One accepted version of one key; the values are Python's."""

    key: tuple[Any, ...]
    version: Version


def snapshot(
    root: Path,
    group: FeatureGroup,
    files: Sequence[Sequence[Event]],
    tail: Sequence[Event] = (),
    *,
    seq: int = 2**62,
    hash_bits: int = 64,
) -> GroupSnapshot:
    """Return a snapshot whose files and journal tail hold these events, given in any order."""
    key_hash = KeyHash(b"a test's seed", hash_bits)
    entries = [
        _write_file(root, group, file_id, history(group, events, key_hash), key_hash)
        for file_id, events in enumerate(files)
        if events
    ]
    return GroupSnapshot(
        root=root,
        group=group,
        seq=seq,
        cut=True,
        state=GroupState(),
        files=entries,
        key_hash=key_hash,
        _tail=history(group, sorted(tail, key=lambda event: event.version.seq), key_hash),
    )


def history(group: FeatureGroup, events: Sequence[Event], key_hash: KeyHash) -> pa.Table:
    """Return events in the history layout, by way of the bytes of their records."""
    codec = RecordCodec(group)
    keys = [_key(group, event) for event in events]
    records = [_record(codec, event, key) for event, key in zip(events, keys, strict=True)]
    return decode_history(group, keys, records, key_hash)


def _key(group: FeatureGroup, event: Event) -> bytes:
    dtypes = [feature.dtype for feature in group.key_features]
    checked = [d.check(part, "key") for d, part in zip(dtypes, event.key, strict=True)]
    return encode_key(checked, dtypes)


def _record(codec: RecordCodec, event: Event, key: bytes) -> bytes:
    version, group = event.version, codec.group
    if version.is_deleted:
        record = tombstone(
            schema_version=group.version,
            event_time_us=version.event_time_us,
            stores=BOTH,
            flags=FLAG_DELETED,
        )
    else:
        record = codec.encode(
            {
                name: None if value is None else group.feature(name).dtype.check(value, name)
                for name, value in (version.values or {}).items()
            },
            event_time_us=version.event_time_us,
            expires_at_us=version.expires_at_us,
            stores=BOTH,
        )
    return stamp(record, key, version.seq, version.write_time_us)


def _write_file(
    root: Path, group: FeatureGroup, file_id: int, table: pa.Table, key_hash: KeyHash
) -> FileEntry:
    table = parquet.sort_history(table, group, key_hash)
    path = file_path(group.id, file_id)
    parquet.write_history(root, path, table, group)
    return parquet.describe(root, group, file_id, "flush", table, relative=path)
