"""Many keys at once, from what a caller holds to Arrow columns, without an object for each value.

::

    list, array, column ──key_arrays──▶ Arrow ──encode──▶ key bytes ──look_up──▶ Arrow columns
                                                                        │
                                      compiled: LMDB's own functions ◀──┴──▶ plain: one by one

The compiled road (`kernels.lookup`) costs the lookup itself and little more.  The plain road
(`reader`) is taken where the compiled one is not to be had, or has met something it cannot read:
it knows every case and says what is wrong.  The two answer the same, and every test of lookups
runs over both.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.dtypes import MAX_DAYS, MIN_DAYS
from featurestore.encoding.keys import (
    TAG_BINARY,
    TAG_DATE,
    TAG_FALSE,
    TAG_INT,
    TAG_STRING,
    TAG_TIMESTAMP,
    TAG_TRUE,
    too_long,
)
from featurestore.encoding.values import unpack_list
from featurestore.engine.reader import AGE_MAX_US, Columns, columns_of, fetch
from featurestore.errors import InvalidRecord
from featurestore.event_time import MAX_US, MIN_US
from featurestore.kernels import hashing, lookup
from featurestore.kernels import keys as key_kernels
from featurestore.record import KEY_BYTES_MAX
from featurestore.storage.latest import KEY_INLINE_BYTES_MAX
from featurestore.storage.native import CALL_ROWS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featurestore.dtypes import DType
    from featurestore.encoding.keys import KeyHash
    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan
    from featurestore.schema import Feature, FeatureGroup
    from featurestore.storage.environment import Transaction
    from featurestore.storage.native import Native

    Int64s = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

UTC_US = pa.timestamp("us", tz="UTC")
AGE = pa.duration("us")

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


class KeyBytes:
    """Encoded keys end to end: key ``i`` is ``data[offsets[i]:offsets[i + 1]]``; empty is null."""

    __slots__ = ("_hashed", "data", "longest", "offsets")

    def __init__(self, data: Bytes, offsets: Int64s, longest: int) -> None:
        self.data = data
        self.offsets = offsets
        self.longest = longest  # bytes
        self._hashed: tuple[Int64s, Int64s] | None = None

    def hashed(self, key_hash: KeyHash) -> tuple[Int64s, Int64s]:
        """Return the hash of each key, and the order of the hashes; several lookups share them."""
        if self._hashed is None:
            hashes = np.empty(len(self.offsets) - 1, np.int64)
            seeded = _seeded(key_hash.seed)
            hashing.blake2b_many(seeded, self.data, self.offsets, key_hash.mask, hashes)
            self._hashed = hashes, np.argsort(hashes)
        return self._hashed

    def to_list(self) -> list[bytes]:
        """Return the keys one by one."""
        data, ends = self.data.tobytes(), self.offsets.tolist()
        return [data[start:end] for start, end in pairwise(ends)]


@cache
def _seeded(seed: bytes) -> NDArray[np.uint64]:
    seeded: NDArray[np.uint64] = hashing.blake2b_seeded(np.frombuffer(seed, np.uint8))
    return seeded


_NUMBER_TAGS = {"int": TAG_INT, "timestamp": TAG_TIMESTAMP, "date": TAG_DATE}
_TEXT_TAGS = {"string": TAG_STRING, "binary": TAG_BINARY}


def encode(arrays: Sequence[pa.Array], dtypes: Sequence[DType]) -> KeyBytes:
    """Return the keys of many rows, byte for byte those of `encoding.keys.encode_key`.

    Parameters
    ----------
    arrays : sequence of pyarrow.Array of n rows
        The identifier columns, in the order of ``record_identifier`` and of exactly their types.
    dtypes : sequence of DType
        Their types.

    Raises
    ------
    InvalidRecord
        When a key is too long.
    """
    count = len(arrays[0])
    if len(arrays) == 1 and dtypes[0].kind in _NUMBER_TAGS and not arrays[0].null_count:
        # By far the most usual key, and all of one length.
        data = np.empty(key_kernels.NUMBER_BYTES * count, np.uint8)
        key_kernels.write_all_numbers(
            _NUMBER_TAGS[dtypes[0].kind], _numbers(arrays[0], dtypes[0]), data
        )
        offsets = np.arange(0, len(data) + 1, key_kernels.NUMBER_BYTES)
        return KeyBytes(data, offsets, key_kernels.NUMBER_BYTES)
    wanted = np.ones(count, np.bool_)
    lengths = np.zeros(count, np.int64)
    for array, dtype in zip(arrays, dtypes, strict=True):
        if array.null_count:
            wanted &= array.is_valid().to_numpy(zero_copy_only=False)
        if dtype.kind in _TEXT_TAGS:
            key_kernels.add_text_lengths(*_text_buffers(array), lengths)
        else:
            lengths += 1 if dtype.kind == "bool" else key_kernels.NUMBER_BYTES
    lengths *= wanted
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    longest = int(lengths.max(initial=0))
    if longest > KEY_BYTES_MAX:
        row = int(np.argmax(lengths))
        raise InvalidRecord(f"Row {row}: {too_long(bytes(longest))}")
    data = np.empty(int(offsets[-1]), np.uint8)
    at = offsets[:-1].copy()
    rows = wanted.view(np.uint8)
    for array, dtype in zip(arrays, dtypes, strict=True):
        if dtype.kind in _TEXT_TAGS:
            key_kernels.write_texts(_TEXT_TAGS[dtype.kind], *_text_buffers(array), rows, at, data)
        elif dtype.kind == "bool":
            truths = array.fill_null(False).to_numpy(zero_copy_only=False)
            tags = np.where(truths, np.uint8(TAG_TRUE), np.uint8(TAG_FALSE))
            key_kernels.write_tags(tags, rows, at, data)
        else:
            numbers = _numbers(array, dtype)
            key_kernels.write_numbers(_NUMBER_TAGS[dtype.kind], numbers, rows, at, data)
    return KeyBytes(data, offsets, longest)


_NO_BYTES = np.zeros(0, np.uint8)


def _text_buffers(array: pa.Array) -> tuple[NDArray[np.int32], Bytes]:
    _, ends, data = array.buffers()
    if len(array) == 0:
        return np.zeros(1, np.int32), _NO_BYTES
    ends = np.frombuffer(ends, np.int32, len(array) + 1, array.offset * 4)
    return ends, np.frombuffer(data, np.uint8) if data else _NO_BYTES


def _numbers(array: pa.Array, dtype: DType) -> Int64s:
    width = {"int": dtype.bits // 8, "timestamp": 8, "date": 4}[dtype.kind]
    data = array.buffers()[1]
    if not data:
        return np.zeros(len(array), np.int64)
    numbers = np.frombuffer(data, f"<i{width}", len(array), array.offset * width)
    return numbers.astype(np.int64, copy=False)


_PLAIN_TYPES: dict[str, type] = {"int": int, "string": str, "binary": bytes}


def key_arrays(plan: Plan, keys: Any) -> list[pa.Array]:
    """Return the identifier columns of keys that a caller gave: an array, or one key after another.

    Keys of one part may come as an Arrow array of its type.  Plain integers, texts and bytes, alone
    or in tuples, are converted as a whole; anything else is checked one by one.

    Raises
    ------
    InvalidRecord
        A key of the wrong type, the wrong number of parts, or null.
    """
    dtypes = plan.key_dtypes
    if isinstance(keys, (pa.Array, pa.ChunkedArray)):
        if len(dtypes) == 1 and keys.type == plan.key_types[0] and not keys.null_count:
            return [keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys]
        keys = keys.to_pylist()
    keys = keys if isinstance(keys, list) else list(keys)
    parts: Any = [keys] if len(dtypes) == 1 else _plain_parts(keys, len(dtypes))
    if parts is not None and all(
        set(map(type, part)) == {_PLAIN_TYPES.get(dtype.kind)}
        for part, dtype in zip(parts, dtypes, strict=True)
    ):
        try:
            return list(map(_plain_array, parts, plan.key_types))
        except (pa.ArrowException, OverflowError, UnicodeError):
            pass  # one by one, it is said which
    checked = [plan.key(key)[1] for key in keys]
    columns = zip(*checked, strict=True) if checked else [()] * len(dtypes)
    return list(map(pa.array, columns, plan.key_types))


def _plain_array(values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array:
    if arrow_type != pa.int64():
        return pa.array(values, arrow_type)
    # The usual case again; numpy reads a short list in a tenth of the time.
    numbers = np.array(values, np.int64)
    return pa.Array.from_buffers(arrow_type, len(numbers), [None, pa.py_buffer(numbers)], 0)


def _plain_parts(keys: list[Any], count: int) -> list[tuple[Any, ...]] | None:
    if set(map(type, keys)) != {tuple} or set(map(len, keys)) != {count}:
        return None
    return list(zip(*keys, strict=True))


# ── columns ──────────────────────────────────────────────────────────────────────────────────


_FIXED_KINDS = {64: lookup.FIXED_8, 32: lookup.FIXED_4, 16: lookup.FIXED_2, 8: lookup.FIXED_1}
_WIDTHS = {lookup.FIXED_8: 8, lookup.FIXED_4: 4, lookup.FIXED_2: 2, lookup.FIXED_1: 1}
_LIMITS = {"timestamp": (MIN_US, MAX_US), "date": (MIN_DAYS, MAX_DAYS)}
#: Buffers begin at multiples of this, as Arrow recommends.
_ALIGN = 64
_LAYOUTS_MAX = 64


class _Layout(NamedTuple):
    """Where the columns of a selection lie in one output buffer for a number of rows."""

    numbers: Int64s  # for `kernels.lookup.decode`
    places: list[tuple[int, int, int]]  # byte and size of the values, byte of the validity bits
    size: int
    bitmap_bytes: int


class Selection:
    """Value features of a group to be looked up together, compiled for the kernels.

    Parameters
    ----------
    group : FeatureGroup
        The definition.
    names : sequence of str
        Value features, in the order of the answer.
    """

    def __init__(self, group: FeatureGroup, names: Sequence[str]) -> None:
        slots = {feature.id: slot for slot, feature in enumerate(group.value_features)}
        self.features: list[Feature] = [group.feature(name) for name in names]
        self.types = [feature.dtype.to_arrow() for feature in self.features]
        self.slots_at = np.array(
            [0, *(len(group.values_at(v)) for v in range(1, group.version + 1))], np.int64
        )
        self._numbers = np.zeros((len(names), lookup.COLUMN_NUMBERS), np.int64)
        for place, feature in enumerate(self.features):
            kind, vector_bytes = _column_kind(feature.dtype)
            low, high = _LIMITS.get(feature.dtype.kind, (_INT64_MIN, _INT64_MAX))
            self._numbers[place] = (slots[feature.id], kind, 0, 0, low, high, vector_bytes)
        self.kinds: list[int] = self._numbers[:, 1].tolist()
        self.slots: list[int] = self._numbers[:, 0].tolist()
        self._layouts: dict[int, _Layout] = {}

    def layout(self, count: int) -> _Layout:
        """Return where everything goes for ``count`` rows."""
        found = self._layouts.get(count)
        if found is not None:
            return found
        numbers = self._numbers.copy()
        bitmap_bytes = (count + 7) >> 3
        places = []
        at = 0
        for row in numbers:
            kind = int(row[1])
            if kind == lookup.BIT:
                size = bitmap_bytes
            elif kind == lookup.HEAP:
                size = 4 * (count + 1)
            else:
                size = count * (int(row[6]) if kind == lookup.VECTOR else _WIDTHS[kind])
            row[2], row[3] = at, at + -(-size // _ALIGN) * _ALIGN
            places.append((at, size, int(row[3])))
            at = int(row[3]) + -(-bitmap_bytes // _ALIGN) * _ALIGN
        if len(self._layouts) >= _LAYOUTS_MAX:
            self._layouts.clear()
        found = self._layouts[count] = _Layout(numbers, places, at, bitmap_bytes)
        return found


def _column_kind(dtype: DType) -> tuple[int, int]:
    """Return how a type lies in a record, and the bytes of a vector."""
    if dtype.kind == "vector":
        return lookup.VECTOR, dtype.length * dtype.bits // 8
    if dtype.kind in {"string", "binary", "list"}:
        return lookup.HEAP, 0
    if dtype.kind == "bool":
        return lookup.BIT, 0
    bits = {"timestamp": 64, "date": 32}.get(dtype.kind, dtype.bits)
    return _FIXED_KINDS[bits], 0


def look_up(
    database: Database,
    txn: Transaction,
    plan: Plan,
    keys: KeyBytes,
    names: tuple[str, ...],
    clock_us: int,
    max_age_us: int = AGE_MAX_US,
    *,
    with_status: bool = True,
) -> Columns:
    """Return the latest records of keys as columns.

    Parameters
    ----------
    keys : KeyBytes of n keys
        A null key is MISSING.
    names : tuple of str
        Value features of the group, checked.
    clock_us : int
        Decides expiry, and the age.
    max_age_us : int
        Records older than this read as EXPIRED.
    with_status : bool
        Whether status, event time and age are wanted; without, they may be left out.
    """
    native = database.env.native_at(txn)
    if native is not None:
        found = _compiled(
            database, native, txn, plan, keys, names, clock_us, max_age_us, with_status=with_status
        )
        if found is not None:
            return found
    records = fetch(database, txn, plan, keys.to_list())
    return columns_of(plan, records, names, clock_us, max_age_us)


def _compiled(
    database: Database,
    native: Native,
    txn: Transaction,
    plan: Plan,
    keys: KeyBytes,
    names: tuple[str, ...],
    clock_us: int,
    max_age_us: int,
    *,
    with_status: bool,
) -> Columns | None:
    """Look up by the kernels; None when that cannot be done, or something is wrong."""
    count = len(keys.offsets) - 1
    if keys.longest > KEY_INLINE_BYTES_MAX:
        return None
    hashes, order = keys.hashed(database.key_hash)
    addresses = np.empty(count, np.int64)
    statuses = np.empty(count, np.int8)
    event_us = np.empty(count, np.int64)
    pointer, dbi = native.transaction(txn), native.databases["latest"]
    for start in range(0, count, CALL_ROWS_MAX):
        bad = lookup.find(
            native.get, pointer, dbi, plan.group.id, keys.data, keys.offsets, hashes,
            order[start : start + CALL_ROWS_MAX], clock_us, max_age_us,
            addresses, statuses, event_us,
        )  # fmt: skip
        if bad != lookup.NO_ROW:
            return None
    values = _values(plan.selection(names), addresses, statuses)
    if values is None:
        return None
    if not with_status:
        return Columns(values, None, None, None)
    offsets = np.zeros(count + 1, np.int32)
    text = np.empty(7 * count, np.uint8)
    missing = lookup.status_names(statuses, offsets, text)
    valid = None
    if missing:
        valid = pa.py_buffer(np.packbits(statuses != lookup.MISSING, bitorder="little"))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    times = [valid, pa.py_buffer(event_us)]
    ages = [valid, pa.py_buffer(clock_us - event_us)]
    return Columns(
        values,
        pa.Array.from_buffers(pa.string(), count, buffers, 0),
        pa.Array.from_buffers(UTC_US, count, times, missing),
        pa.Array.from_buffers(AGE, count, ages, missing),
    )


def _values(
    selection: Selection, addresses: Int64s, statuses: NDArray[np.int8]
) -> list[pa.Array] | None:
    """Return the value columns of records found; None when a record is bad."""
    count = len(addresses)
    layout = selection.layout(count)
    out = np.zeros(layout.size, np.uint8)
    counts = np.zeros((2, len(selection.features)), np.int64)
    for start in range(0, count, CALL_ROWS_MAX):
        stop = min(start + CALL_ROWS_MAX, count)
        bad = lookup.decode(
            addresses, statuses, start, stop, selection.slots_at, layout.numbers, out, *counts
        )
        if bad != lookup.NO_ROW:
            return None
    memory = pa.py_buffer(out)
    nulls, heap_bytes = counts.tolist()
    arrays = []
    for column, (at, size, valid_at) in enumerate(layout.places):
        valid = memory.slice(valid_at, layout.bitmap_bytes) if nulls[column] else None
        values = memory.slice(at, size)
        kind = selection.kinds[column]
        if kind == lookup.HEAP:
            if heap_bytes[column] > 2**31 - 1:
                return None
            data = np.empty(heap_bytes[column], np.uint8)
            ends = out[at : at + size]
            for start in range(0, count, CALL_ROWS_MAX):
                stop = min(start + CALL_ROWS_MAX, count)
                slot = selection.slots[column]
                lookup.copy_heap(
                    addresses, statuses, start, stop, selection.slots_at, slot, ends, data
                )
            array = _heap_array(selection.features[column].dtype, count, valid, values, data)
            if array is None:
                return None
        elif kind == lookup.VECTOR:
            array = _vector_array(selection.types[column], count, valid, values)
        else:
            array = pa.Array.from_buffers(
                selection.types[column], count, [valid, values], nulls[column]
            )
        arrays.append(array)
    return arrays


def _heap_array(
    dtype: DType, count: int, valid: pa.Buffer | None, ends: pa.Buffer, data: Bytes
) -> pa.Array | None:
    """Return texts, byte strings or lists; None when the bytes are not what they say."""
    if dtype.kind == "list":
        texts = pa.Array.from_buffers(pa.binary(), count, [valid, ends, pa.py_buffer(data)])
        return _list_array(dtype, texts)
    array = pa.Array.from_buffers(dtype.to_arrow(), count, [valid, ends, pa.py_buffer(data)])
    if dtype.kind == "string":
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            return None
    return array


def _list_array(dtype: DType, heap_values: pa.Array) -> pa.Array | None:
    element: Any = dtype.element
    low, high = _LIMITS.get(element.kind, (None, None))
    lists: list[list[Any] | None] = []
    for data in heap_values.to_pylist():
        try:
            values = None if data is None else unpack_list(element, data, 0, len(data))
        except ValueError:
            return None
        if values and low is not None and not all(v is None or low <= v <= high for v in values):
            return None
        lists.append(values)
    return pa.array(lists, dtype.to_arrow())


def _vector_array(
    arrow_type: pa.DataType, count: int, valid: pa.Buffer | None, values: pa.Buffer
) -> pa.Array:
    floats = pa.Array.from_buffers(
        arrow_type.value_type, count * arrow_type.list_size, [None, values], 0
    )
    return pa.Array.from_buffers(arrow_type, count, [valid], children=[floats])
