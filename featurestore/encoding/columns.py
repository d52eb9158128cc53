"""Many records at once: Arrow columns to bytes and back, with numpy.

The bytes are those of ``values``, to the last bit; only the road differs.  A record
is a whole number of 64-bit words, so records laid end to end are one array of words, and one slot
of every record is one gather:

::

    words  │ header │ nulls │ slot 0 │ slot 1 │ heap … │ header │ nulls │ slot 0 │ slot 1 │ header …
             ▲                ▲                          ▲                ▲                 ▲
    at ──────┴────────────────│──────────────────────────┴────────────────│─────────────────┘
    words[at + 7] ────────────┴───────────────────────────────────────────┘   = slot 0 of all rows

No Python object is made for a number.  Texts, byte strings and vectors are copied as runs of
bytes; lists alone go through Python value by value.

Here too lives the **history layout**, the one Arrow schema that the journal's tail, the Parquet
files, the kernels and SQL agree on:

::

    __key_hash   int64            seeded hash of the key bytes (`keys.KeyHash`)
    …            identifier columns, in the order of ``record_identifier``
    <event time> timestamp[us]    UTC, as are the other times
    write_seq    int64            commit order of the store
    write_time   timestamp[us]
    expires_at   timestamp[us]    null = never
    is_deleted   bool             a tombstone; its features are null
    __stores     int8             stores aimed at: 1 online, 2 offline, 3 both
    …            value features, as declared
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from featurestore.encoding.buffers import (
    NUMPY_TYPE,
    RANGES,
    array_of,
    buffer_bytes,
    fixed_values,
)
from featurestore.encoding.key_columns import decode_keys, hashes_of
from featurestore.encoding.runs import (
    Runs,
    copy_runs,
    copy_runs_plain,
    joined,
    offsets_of,
    runs_of,
    worth_compiling,
)
from featurestore.encoding.values import (
    ALIGNED_KINDS,
    FLAGS_KNOWN,
    HEADER,
    HEAP_KINDS,
    Layout,
    declared_value_names,
    element_format,
    layout,
    pack_list,
    record_too_long,
    stamp,
    unpack_list,
    version_problem,
)
from featurestore.errors import CorruptStore, InvalidRecord, SchemaMismatch
from featurestore.event_time import NO_EXPIRY
from featurestore.record import FLAG_DELETED, RECORD_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from featurestore.dtypes import DType
    from featurestore.encoding.keys import KeyHash
    from featurestore.schema import Feature, FeatureGroup

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Bytes = NDArray[np.uint8]

UTC_US = pa.timestamp("us", tz="UTC")

#: Parquet field ids of the system columns; features have theirs from 1 up, at most 65,535.
SYSTEM_FIELD_ID = 1_000_000

# Rows encoded together: their words stay in the processor's second-level cache.
_BLOCK_ROWS = 8192

# Bytes decoded together.  Arrow's strings have 32-bit offsets, so a block must stay below 2 GiB.
_BLOCK_BYTES = 1 << 29


_REPORTED_ROWS_MAX = 100


# ── history layout ───────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=64)
def history_schema(group: FeatureGroup) -> pa.Schema:
    """Return the schema of a group's history, as drawn at the top of this module.

    Every field carries its permanent id as ``PARQUET:field_id``: features their own, system
    columns those from ``SYSTEM_FIELD_ID`` up.
    """
    names = declared_value_names(group)
    return pa.schema(
        [
            _system_field(0, "__key_hash", pa.int64()),
            *map(_feature_field, group.key_features),
            _feature_field(group.event_time_feature),
            _system_field(1, "write_seq", pa.int64()),
            _system_field(2, "write_time", UTC_US),
            _system_field(3, "expires_at", UTC_US),
            _system_field(4, "is_deleted", pa.bool_()),
            _system_field(5, "__stores", pa.int8()),
            *(_feature_field(group.feature(name)) for name in names),
        ]
    )


def _feature_field(feature: Feature) -> pa.Field:
    return _field(feature.id, feature.name, feature.dtype.to_arrow())


def _system_field(number: int, name: str, arrow_type: pa.DataType) -> pa.Field:
    return _field(SYSTEM_FIELD_ID + number, name, arrow_type)


def _field(field_id: int, name: str, arrow_type: pa.DataType) -> pa.Field:
    return pa.field(name, arrow_type, metadata={"PARQUET:field_id": str(field_id)})


# ── columns to records ───────────────────────────────────────────────────────────────────────


class Records(NamedTuple):
    """Records laid end to end.

    Attributes
    ----------
    data : uint8[offsets[n]]
        Their bytes; may be changed.
    offsets : int64[n + 1]
        Where each begins, and where the last one ends: multiples of 8.
    """

    data: Bytes
    offsets: Ints

    def split(self) -> list[bytearray]:
        """Return the records one by one."""
        return list(map(bytearray, Runs(*self).split()))

    def take(self, rows: Ints) -> Records:
        """Return some of the records, in the order of ``rows``."""
        return Records(*Runs(*self).take(rows))


def encode_records(
    group: FeatureGroup,
    columns: Mapping[str, pa.Array],
    *,
    event_time_us: Ints,
    expires_at_us: Ints,
    stores: int,
) -> Records:
    """Return one record for each row, equal byte for byte to `RecordCodec.encode`.

    Parameters
    ----------
    group : FeatureGroup
        The definition; records get its newest schema version.
    columns : mapping of str to pyarrow.Array of n rows
        Value features, each of exactly its feature's Arrow type.  One that is absent is null
        in every row; other names are not looked at.
    event_time_us, expires_at_us : int64[n]
        Microseconds since the epoch, UTC; ``NO_EXPIRY`` for never.
    stores : int
        ``STORE_ONLINE | STORE_OFFLINE``.

    Returns
    -------
    Records
        In the order of the rows; seq, write time and checksum are for `values.stamp` to fill,
        or for `kernels.ingest.stamp_records`.

    Raises
    ------
    InvalidRecord
        When records are longer than ``RECORD_BYTES_MAX``; ``rows`` says which.
    SchemaMismatch
        When a column has another type than its feature.
    """
    given = [
        (slot, feature, _exact(columns[feature.name], feature))
        for slot, feature in enumerate(group.value_features)
        if feature.name in columns
    ]
    blocks: list[Bytes] = []
    lengths: list[Ints] = []
    for start in range(0, len(event_time_us), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        block = [(slot, feature, array[rows]) for slot, feature, array in given]
        times = (event_time_us[rows], expires_at_us[rows])
        data, sizes = _encode_block(group, block, *times, stores, first_row=start)
        blocks.append(data)
        lengths.append(sizes)
    return Records(joined(blocks, np.uint8), offsets_of(joined(lengths, np.int64)))


def stamp_many(
    records: Records, keys: Bytes, key_offsets: Ints, codes: Ints, seqs: Ints, write_us: Ints
) -> None:
    """Fill seq, write time and checksum into records, in place: `values.stamp` of many.

    Parameters
    ----------
    records : Records
        From `encode_records`; n of them.
    keys, key_offsets : uint8[key_offsets[m]], int64[m + 1]
        Encoded identifiers end to end.
    codes : int64[n]
        Which of them is each record's.
    seqs, write_us : int64[n]
        Place in the commit order, and the commit's clock in microseconds.
    """
    if worth_compiling(len(seqs)):
        from featurestore.kernels.ingest import stamp_records

        stamp_records(*records, keys, key_offsets, codes, seqs, write_us)
        return
    for row, (record, code) in enumerate(zip(records.split(), codes.tolist(), strict=True)):
        key = keys[key_offsets[code] : key_offsets[code + 1]].tobytes()
        done = stamp(record, key, int(seqs[row]), int(write_us[row]))
        records.data[records.offsets[row] : records.offsets[row + 1]] = np.frombuffer(done, "u1")


def _exact(array: pa.Array | pa.ChunkedArray, feature: Feature) -> pa.Array:
    """Return the column as one chunk, or refuse it for its type."""
    expected = feature.dtype.to_arrow()
    if array.type != expected:
        raise SchemaMismatch(
            f'Column "{feature.name}" has type {array.type}; its feature takes {expected}. '
            "Cast it first."
        )
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


class _Heaped(NamedTuple):
    """A column whose values go to the heap: where they come from, and where in their records."""

    slot: int
    source: Bytes
    source_start: Ints
    lengths: Ints  # zero where null
    offsets: Ints  # from the start of the record
    nulls: Bools


def _encode_block(
    group: FeatureGroup,
    block: list[tuple[int, Feature, pa.Array]],
    event_time_us: Ints,
    expires_at_us: Ints,
    stores: int,
    first_row: int,
) -> tuple[Bytes, Ints]:
    """Return the records of a few thousand rows end to end, and their lengths."""
    count = len(event_time_us)
    place = layout(len(group.value_features))
    heaped, lengths = _plan_heap(block, place, count)
    _refuse_long_records(group, heaped, lengths, first_row)
    ends = np.cumsum(lengths)
    words = np.zeros(int(ends[-1]) >> 3, "<i8")
    at = (ends - lengths) >> 3
    put = _words_of(words, at, same_length=not heaped)

    put(0, lengths << 32)
    put(1, group.version | stores << 24)
    put(3, event_time_us)
    put(5, expires_at_us)
    first_bits = HEADER.size >> 3
    for number, bits in enumerate(_null_bitmap(group, block, count)):
        put(first_bits + number, bits.view(np.int64))
    first_slot = place.slots >> 3
    for slot, feature, array in block:
        if feature.dtype.kind not in HEAP_KINDS:
            put(first_slot + slot, _slot_words(array, feature.dtype))
    data = words.view(np.uint8)
    for column in heaped:
        pointers = np.where(column.nulls, 0, column.offsets | column.lengths << 32)
        put(first_slot + column.slot, pointers)
        copy_runs(
            data, (at << 3) + column.offsets, column.source, column.source_start, column.lengths
        )
    return data, lengths


def _words_of(words: Ints, at: Ints, *, same_length: bool) -> Callable[[int, Any], None]:
    """Return what sets one word of every record; three times as fast where all are as long."""
    if same_length:
        table = words.reshape(len(at), -1)
        return lambda number, values: table.__setitem__((slice(None), number), values)
    return lambda number, values: words.__setitem__(at + number, values)


def _plan_heap(
    block: list[tuple[int, Feature, pa.Array]], place: Layout, count: int
) -> tuple[list[_Heaped], Ints]:
    """Return where every heap value goes, and the length of every record."""
    heaped = []
    offset = np.full(count, place.heap, np.int64)
    for slot, feature, array in block:
        if feature.dtype.kind not in HEAP_KINDS:
            continue
        nulls = _nulls(array)
        source, source_start, lengths = _heap_runs(array, feature.dtype)
        lengths = np.where(nulls, 0, lengths)
        if feature.dtype.kind in ALIGNED_KINDS:
            # A null takes no room, not even for alignment.
            offset = np.where(nulls, offset, (offset + 7) & -8)
        heaped.append(_Heaped(slot, source, source_start, lengths, offset, nulls))
        offset = offset + lengths
    return heaped, (offset + 7) & -8


def _refuse_long_records(
    group: FeatureGroup, heaped: list[_Heaped], lengths: Ints, first_row: int
) -> None:
    rows = np.flatnonzero(lengths > RECORD_BYTES_MAX)
    if len(rows) == 0:
        return
    features = group.value_features
    reasons = []
    for row in rows[:_REPORTED_ROWS_MAX].tolist():
        largest = max(heaped, key=lambda column, row=row: column.lengths[row])  # type: ignore[misc]
        name, size = features[largest.slot].name, int(largest.lengths[row])
        reason = record_too_long(group.name, int(lengths[row]), name, size)
        reasons.append((first_row + row, reason))
    row, reason = reasons[0]
    raise InvalidRecord(
        f"{len(rows):,} rows are too long; the first is row {row}: {reason}", rows=reasons
    )


def _null_bitmap(
    group: FeatureGroup, block: list[tuple[int, Feature, pa.Array]], count: int
) -> NDArray[np.uint64]:
    """Return the bits of null values, and of features that were not given: a row for each word."""
    slot_count = len(group.value_features)
    bitmap = np.zeros((layout(slot_count).bitmap_words, count), np.uint64)
    arrays = {slot: array for slot, _, array in block}
    for slot in range(slot_count):
        array = arrays.get(slot)
        if array is None:
            bitmap[slot // 64] |= np.uint64(1 << slot % 64)
        elif array.null_count:
            bitmap[slot // 64] |= _nulls(array).astype(np.uint64) << np.uint64(slot % 64)
    return bitmap


def _nulls(array: pa.Array) -> Bools:
    """Return which rows are null."""
    if array.null_count == 0:
        return np.zeros(len(array), np.bool_)
    return cast("Bools", array.is_null().to_numpy(zero_copy_only=False))


def _slot_words(array: pa.Array, dtype: DType) -> Ints:
    """Return fixed-width values as slots: 64-bit words, zero where null."""
    if array.null_count == len(array):
        return np.zeros(len(array), np.int64)
    if dtype.kind == "bool":
        array = array.cast(pa.int8())
        numpy_type = "i1"
    else:
        # Floats are taken as their bits.
        numpy_type = NUMPY_TYPE[element_format(dtype)]
    values = fixed_values(array, numpy_type).astype(np.int64)
    if array.null_count:
        values[_nulls(array)] = 0
    return values


def _heap_runs(array: pa.Array, dtype: DType) -> tuple[Bytes, Ints, Ints]:
    """Return heap values as bytes, where each row's begin, and how many they are.

    Rows that are null have any start and any length.
    """
    count = len(array)
    if array.null_count == count:
        return np.zeros(0, np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64)
    if dtype.kind == "list":
        return _list_runs(array, cast("DType", dtype.element))
    if dtype.kind == "vector":
        width = dtype.length * (dtype.bits >> 3)
        floats = array.values
        first = floats.offset * (dtype.bits >> 3) + array.offset * width
        starts = first + width * np.arange(count, dtype=np.int64)
        return buffer_bytes(floats.buffers()[1]), starts, np.full(count, width, np.int64)
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, "<i4", count + 1, array.offset * 4).astype(np.int64)
    return buffer_bytes(data), bounds[:-1], np.diff(bounds)


def _list_runs(array: pa.Array, element: DType) -> tuple[Bytes, Ints, Ints]:
    """Return lists as heap values, made one at a time."""
    physical = {"timestamp": pa.int64(), "date": pa.int32()}.get(element.kind)
    if physical is not None:
        array = array.cast(pa.list_(physical))
    pieces = [b"" if values is None else pack_list(element, values) for values in array.to_pylist()]
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    return np.frombuffer(b"".join(pieces), np.uint8), np.cumsum(lengths) - lengths, lengths


# ── records to columns ───────────────────────────────────────────────────────────────────────


def decode_records(group: FeatureGroup, records: Sequence[bytes] | Runs) -> pa.Table:
    """Return the value features of many records, of any mixture of schema versions.

    Parameters
    ----------
    group : FeatureGroup
        The definition; it must know every version among the records.
    records : Runs or sequence of bytes, n
        Bytes after a record's length are ignored.

    Returns
    -------
    pyarrow.Table of n rows
        Value features in declared order, rows in the order given.  Values are null where the
        feature is younger than the record, and in the rows of tombstones and fences.

    Raises
    ------
    CorruptStore
        When bytes are not a record of this group; the message says which row.
    """
    records = runs_of(records)
    tables = [_value_table(_lay_out(group, records, rows)) for rows in _blocks(records)]
    if not group.value_features:
        # Joining tables without columns would forget how many rows they have.
        return pa.table({"": pa.nulls(records.rows)}).select([])
    return pa.concat_tables(tables)


def decode_history(
    group: FeatureGroup,
    keys: Sequence[bytes] | Runs,
    records: Sequence[bytes] | Runs,
    key_hash: KeyHash,
) -> pa.Table:
    """Return journal entries in the history layout, in the order given.

    Parameters
    ----------
    group : FeatureGroup
        The definition; it must know every schema version among the records.
    keys : Runs or sequence of bytes, n
        Encoded record identifiers.
    records : Runs or sequence of bytes, n
        Their stamped records.
    key_hash : KeyHash
        The store's.

    Returns
    -------
    pyarrow.Table of n rows
        With the schema of `history_schema`.

    Raises
    ------
    CorruptStore
        As `decode_records` and `decode_keys` do.
    """
    schema = history_schema(group)
    keys, records = runs_of(keys), runs_of(records)
    if not records.rows:  # as most tails are: a thousand features are not decoded of no rows
        return schema.empty_table()
    tables = [
        _history_table(_lay_out(group, records, rows), keys.part(rows), key_hash, schema)
        for rows in _blocks(records)
    ]
    return pa.concat_tables(tables)


def _blocks(records: Runs) -> Iterator[slice]:
    """Yield runs of rows of at most ``_BLOCK_BYTES`` together; one empty run for no rows."""
    start = 0
    while True:
        reach = records.offsets[start] + _BLOCK_BYTES
        stop = int(np.searchsorted(records.offsets, reach, "right")) - 1
        stop = min(max(stop, start + 1), records.rows)
        yield slice(start, stop)
        if stop == records.rows:
            return
        start = stop


class _Part(NamedTuple):
    """The rows of one schema version that have values."""

    rows: Ints | slice
    place: Layout
    slot_of: dict[int, int]  # by feature id


@dataclass(frozen=True, slots=True)
class _Laid:
    """Records end to end as one array of words, their headers checked."""

    group: FeatureGroup
    words: Ints
    at: Ints  # word where each record begins
    lengths: Ints  # in bytes, from the header
    flags: Ints
    stores: Ints
    heap: Ints  # byte of each record where its heap begins
    parts: list[_Part]
    first_row: int

    def word(self, number: int, rows: Ints | slice = slice(None)) -> Ints:
        """Return one word of every record, or of those in ``rows``."""
        return self.words[self.at[rows] + number]

    def refuse(self, bad: Bools, reason: str) -> None:
        """Raise for the first row that is bad, if there is one."""
        _refuse(self.group, self.first_row, bad, reason)


def _corrupt(group: FeatureGroup, row: int, reason: str) -> CorruptStore:
    return CorruptStore(
        f'A record of feature group "{group.name}" is corrupt (row {row} of those '
        f"read together): {reason}."
    )


def _lay_out(group: FeatureGroup, records: Runs, rows: slice) -> _Laid:
    """Take some records as words and check every header."""
    records, first_row = records.part(rows), rows.start
    sizes = np.diff(records.offsets)
    if (sizes & 7).any():
        # A long key was appended to the record; the record itself is a whole number of words.
        sizes &= -8
        records = records.cut(sizes)
    _refuse(group, first_row, sizes < HEADER.size, "it is shorter than a header")
    words = np.frombuffer(records.data, "<i8")
    at = (np.cumsum(sizes) - sizes) >> 3
    lengths = (words[at] >> 32) & 0xFFFF_FFFF
    bad = (lengths > sizes) | (lengths < HEADER.size) | (lengths & 7 != 0)
    _refuse(group, first_row, bad, "its length is wrong")
    about = words[at + 1]
    flags = (about >> 16) & 0xFF
    _refuse(group, first_row, about >> 32 != 0, "it is encrypted")
    _refuse(group, first_row, flags & ~FLAGS_KNOWN != 0, "its flags are not known")
    bad = (flags != 0) & (lengths != HEADER.size)
    _refuse(group, first_row, bad, "a tombstone has values")
    heap, parts = _part_by_version(group, about & 0xFFFF, flags, lengths, first_row)
    return _Laid(group, words, at, lengths, flags, (about >> 24) & 0xFF, heap, parts, first_row)


def _refuse(group: FeatureGroup, first_row: int, bad: Bools, reason: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise _corrupt(group, first_row + int(rows[0]), reason)


def _part_by_version(
    group: FeatureGroup, versions: Ints, flags: Ints, lengths: Ints, first_row: int
) -> tuple[Ints, list[_Part]]:
    """Return where each record's heap begins, and the rows with values for each version."""
    heap = np.zeros(len(versions), np.int64)
    parts = []
    for version in np.unique(versions).tolist():
        same = versions == version
        problem = version_problem(group, version)
        if problem:
            _refuse(group, first_row, same, problem)
        with_values = same & (flags == 0)
        slot_of = {stored.id: slot for slot, stored in enumerate(group.values_at(version))}
        place = layout(len(slot_of))
        bad = with_values & (lengths < place.heap)
        _refuse(group, first_row, bad, "it is shorter than its slots")
        heap[with_values] = place.heap
        # The common case, one version and no tombstones, is spared the index array.
        rows = slice(None) if with_values.all() else np.flatnonzero(with_values)
        parts.append(_Part(rows, place, slot_of))
    return heap, parts


def _value_table(laid: _Laid) -> pa.Table:
    """Return the value features in declared order."""
    group = laid.group
    features = [group.feature(name) for name in declared_value_names(group)]
    fields = [_feature_field(feature) for feature in features]
    arrays = [_decode_feature(laid, feature) for feature in features]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _history_table(laid: _Laid, keys: Runs, key_hash: KeyHash, schema: pa.Schema) -> pa.Table:
    group = laid.group
    codes, distinct = _distinct(keys)
    hashes = hashes_of(*distinct, key_hash)[codes]
    take = pa.array(codes)
    identifiers = decode_keys(distinct, [feature.dtype for feature in group.key_features])
    expires_at_us = laid.word(5)
    arrays = [
        pa.array(hashes),
        *(column.take(take) for column in identifiers),
        _times(laid.word(3)),
        pa.array(laid.word(2)),
        _times(laid.word(4)),
        _times(expires_at_us, expires_at_us == NO_EXPIRY),
        pa.array((laid.flags & FLAG_DELETED) != 0),
        pa.array(laid.stores.astype(np.int8)),
        *_value_table(laid).columns,
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _times(values_us: Ints, nulls: Bools | None = None) -> pa.Array:
    return pa.array(values_us, mask=nulls).view(UTC_US)


def _distinct(keys: Runs) -> tuple[Ints, Runs]:
    """Return the distinct keys in order of appearance, and for each row which it has."""
    buffers = [None, pa.py_buffer(keys.offsets), pa.py_buffer(keys.data)]
    encoded = pa.Array.from_buffers(pa.large_binary(), keys.rows, buffers).dictionary_encode()
    _, bounds, data = encoded.dictionary.buffers()
    offsets = np.frombuffer(bounds, np.int64, len(encoded.dictionary) + 1)
    return encoded.indices.to_numpy().astype(np.int64), Runs(buffer_bytes(data), offsets)


def _decode_feature(laid: _Laid, feature: Feature) -> pa.Array:
    """Return one value feature of every record."""
    count = len(laid.at)
    slots = np.zeros(count, np.int64)
    nulls = np.ones(count, np.bool_)
    for rows, place, slot_of in laid.parts:
        slot = slot_of.get(feature.id)
        if slot is None:
            continue
        word = laid.word((HEADER.size >> 3) + slot // 64, rows)
        nulls[rows] = (word >> slot % 64) & 1
        slots[rows] = laid.word((place.slots >> 3) + slot, rows)
    if nulls.any():
        slots[nulls] = 0
    if feature.dtype.kind in HEAP_KINDS:
        return _heap_array(laid, feature, slots, nulls)
    return _fixed_array(laid, feature, slots, nulls)


def _fixed_array(laid: _Laid, feature: Feature, slots: Ints, nulls: Bools) -> pa.Array:
    """Return a column of fixed width from its slots; those of nulls are zero."""
    dtype = feature.dtype
    if dtype.kind in RANGES:
        low, high = RANGES[dtype.kind]
        reason = f'feature "{feature.name}" is outside the years 1 to 9999'
        laid.refuse((slots < low) | (slots > high), reason)
    if dtype.kind == "bool":
        values: NDArray[Any] = np.packbits((slots & 0xFF) != 0, bitorder="little")
    else:
        values = slots.astype(NUMPY_TYPE[element_format(dtype)])
    return array_of(dtype.to_arrow(), nulls, [pa.py_buffer(values)])


def _heap_array(laid: _Laid, feature: Feature, slots: Ints, nulls: Bools) -> pa.Array:
    """Return a column of heap values from the slots that point at them."""
    start = slots & 0xFFFF_FFFF
    lengths = (slots >> 32) & 0xFFFF_FFFF
    outside = ((start < laid.heap) | (start + lengths > laid.lengths)) & ~nulls
    laid.refuse(outside, f'feature "{feature.name}" points outside the record')
    place = (laid.at << 3) + start
    kind = feature.dtype.kind
    if kind == "vector":
        return _vector_array(laid, feature, place, lengths, nulls)
    if kind == "list":
        return _list_array(laid, feature, place, lengths, nulls)
    return _text_array(laid, feature, place, lengths, nulls)


def _text_array(
    laid: _Laid, feature: Feature, place: Ints, lengths: Ints, nulls: Bools
) -> pa.Array:
    ends = np.cumsum(lengths)
    data = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    copy_runs_plain(data, ends - lengths, laid.words.view(np.uint8), place, lengths)
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    buffers = [pa.py_buffer(offsets), pa.py_buffer(data)]
    array = array_of(feature.dtype.to_arrow(), nulls, buffers)
    if feature.dtype.kind == "string":
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as error:
            row = laid.first_row + _first_not_utf8(data.tobytes(), offsets.tolist())
            raise _corrupt(laid.group, row, f'feature "{feature.name}" is not UTF-8') from error
    return array


def _first_not_utf8(data: bytes, offsets: list[int]) -> int:
    """Return the first row whose bytes are not UTF-8, knowing there is one (Arrow's message)."""
    for row, (start, end) in enumerate(pairwise(offsets)):
        try:
            data[start:end].decode()
        except UnicodeDecodeError:
            return row
    return 0


def _vector_array(
    laid: _Laid, feature: Feature, place: Ints, lengths: Ints, nulls: Bools
) -> pa.Array:
    dtype, count = feature.dtype, len(nulls)
    width = dtype.length * (dtype.bits >> 3)
    wrong = (lengths != width) & ~nulls
    laid.refuse(wrong, f'vector "{feature.name}" does not have {dtype.length} elements')
    data = np.zeros(count * width, np.uint8)
    row_start = width * np.arange(count, dtype=np.int64)
    copy_runs_plain(data, row_start, laid.words.view(np.uint8), place, lengths)
    arrow_type = dtype.to_arrow()
    floats = pa.Array.from_buffers(
        arrow_type.value_type, count * dtype.length, [None, pa.py_buffer(data)]
    )
    return array_of(arrow_type, nulls, [], [floats])


def _list_array(
    laid: _Laid, feature: Feature, place: Ints, lengths: Ints, nulls: Bools
) -> pa.Array:
    element = cast("DType", feature.dtype.element)
    data = laid.words.view(np.uint8).data
    low, high = RANGES.get(element.kind, (None, None))
    lists: list[list[Any] | None] = []
    rows = zip(place.tolist(), lengths.tolist(), nulls.tolist(), strict=True)
    for row, (start, length, is_null) in enumerate(rows):
        if is_null:
            lists.append(None)
            continue
        try:
            values = unpack_list(element, data, start, start + length)
        except ValueError as error:
            reason = f'feature "{feature.name}": {error}'
            raise _corrupt(laid.group, laid.first_row + row, reason) from error
        if low is not None and any(v is not None and not low <= v <= high for v in values):
            reason = f'an element of "{feature.name}" is outside the years 1 to 9999'
            raise _corrupt(laid.group, laid.first_row + row, reason)
        lists.append(values)
    return pa.array(lists, feature.dtype.to_arrow())
