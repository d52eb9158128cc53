"""The keys of many rows at once: identifier columns to key bytes and back, with numpy.

The bytes are those of ``keys``, to the last bit; only the road differs.  Keys repeat, so each
distinct one is made, hashed and compared once, and rows say by a code which one is theirs.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.encoding.buffers import (
    NUMPY_TYPE,
    RANGES,
    array_of,
    buffer_bytes,
    fixed_values,
)
from featurestore.encoding.keys import (
    ENCODERS,
    TAG_BINARY,
    TAG_DATE,
    TAG_INT,
    TAG_STRING,
    TAG_TIMESTAMP,
    decode_key,
    too_long,
)
from featurestore.encoding.runs import (
    Runs,
    copied_runs,
    copy_runs,
    count_towards_compiling,
    offsets_of,
    runs_of,
    worth_compiling,
)
from featurestore.encoding.values import element_format
from featurestore.errors import InvalidRecord
from featurestore.record import KEY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from featurestore.dtypes import DType
    from featurestore.encoding.keys import KeyHash

    Ints = NDArray[np.int64]
    Bytes = NDArray[np.uint8]


_NUMBER_TAGS = {"int": TAG_INT, "timestamp": TAG_TIMESTAMP, "date": TAG_DATE}
_TEXT_TAGS = {"string": TAG_STRING, "binary": TAG_BINARY}

_REPORTED_ROWS_MAX = 100


class KeyColumn:
    """The keys of many rows, each distinct key once.

    Attributes
    ----------
    codes : int64[n]
        For each row the place of its key among the distinct ones; -1 where any component is null.
    data, offsets : uint8[offsets[m]], int64[m + 1]
        The distinct keys end to end, in order of appearance.
    """

    def __init__(self, codes: Ints, data: Bytes, offsets: Ints) -> None:
        self.codes = codes
        self.data = data
        self.offsets = offsets
        self._hashed: tuple[KeyHash, Ints] | None = None

    @cached_property
    def keys(self) -> list[bytes]:
        """The distinct keys as objects, m of them."""
        return Runs(self.data, self.offsets).split()

    def hashes(self, key_hash: KeyHash) -> Ints:
        """Return the hash of each distinct key, int64[m]."""
        if self._hashed is None or self._hashed[0] is not key_hash:
            self._hashed = (key_hash, hashes_of(self.data, self.offsets, key_hash))
        return self._hashed[1]

    def ranks(self, key_hash: KeyHash) -> Ints:
        """Return the place of each distinct key in the order (hash, key bytes), int64[m].

        ``ranks[codes]`` sorts rows as files are sorted, with no byte of a key compared again.
        """
        order = self.file_order(key_hash)
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks

    def file_order(self, key_hash: KeyHash) -> Ints:
        """Return the places of the distinct keys in the order (hash, key bytes), int64[m]."""
        hashes = self.hashes(key_hash)
        order = np.argsort(hashes)
        _sort_ties(order, hashes[order], Runs(self.data, self.offsets).run)
        return order

    def taken(self, places: Ints) -> tuple[Bytes, Ints]:
        """Return some of the distinct keys end to end, as ``data`` and ``offsets``."""
        return Runs(self.data, self.offsets).take(places)


def _sort_ties(order: Ints, sorted_hashes: Ints, key: Callable[[int], bytes]) -> None:
    """Sort, in place, each run of equal hashes by key bytes.  With 64 bits there is hardly one."""
    tied = np.flatnonzero(sorted_hashes[1:] == sorted_hashes[:-1])
    if len(tied) == 0:
        return
    # Every run of equal hashes is a run of consecutive numbers in `tied`, and one row longer.
    for run in np.split(tied, np.flatnonzero(np.diff(tied) != 1) + 1):
        rows = slice(int(run[0]), int(run[-1]) + 2)
        order[rows] = sorted(order[rows].tolist(), key=key)


def hashes_of(data: Bytes, offsets: Ints, key_hash: KeyHash) -> Ints:
    """Return the hash of each byte string."""
    count = len(offsets) - 1
    count_towards_compiling(count)
    if not worth_compiling(count):
        return np.fromiter(map(key_hash, Runs(data, offsets).split()), np.int64, count)
    from featurestore.kernels.hashing import blake2b_many, blake2b_seeded

    hashes = np.empty(count, np.int64)
    seeded = blake2b_seeded(np.frombuffer(key_hash.seed, np.uint8))
    blake2b_many(seeded, data, offsets, key_hash.mask, hashes)
    return hashes


def encode_keys(arrays: Sequence[pa.Array | pa.ChunkedArray], dtypes: Sequence[DType]) -> KeyColumn:
    """Return the keys of many rows, equal byte for byte to `keys.encode_key`.

    Each column is dictionary-encoded first, so the cost is one encoding for each distinct value
    and one concatenation for each distinct key, however many rows there are.

    Parameters
    ----------
    arrays : sequence of pyarrow.Array of n rows
        The identifier columns in the order of ``record_identifier``, of exactly their types.
    dtypes : sequence of DType
        Their types.

    Raises
    ------
    InvalidRecord
        When keys are longer than ``KEY_BYTES_MAX``; ``rows`` says which rows.

    Examples
    --------
    >>> from featurestore.dtypes import parse_dtype
    >>> column = encode_keys([pa.array(["LGA", None, "JFK", "LGA"])], [parse_dtype("string")])
    >>> column.codes.tolist(), [key.hex(" ") for key in column.keys]
    ([0, -1, 1, 0], ['02 4c 47 41 00 00', '02 4a 46 4b 00 00'])
    """
    codes, keys = _encode_component(arrays[0], dtypes[0])
    for array, dtype in zip(arrays[1:], dtypes[1:], strict=True):
        codes, keys = _append_component(codes, keys, *_encode_component(array, dtype))
    _refuse_long_keys(codes, keys)
    return KeyColumn(codes, keys.data, keys.offsets)


def _encode_component(array: pa.Array | pa.ChunkedArray, dtype: DType) -> tuple[Ints, Runs]:
    """Return codes and encodings of one identifier column."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    codes, values = _dictionary(array)
    if dtype.kind in _NUMBER_TAGS:
        return codes, _encode_numbers(_NUMBER_TAGS[dtype.kind], values, dtype)
    if dtype.kind in _TEXT_TAGS and worth_compiling(len(values)):
        return codes, _encode_texts(_TEXT_TAGS[dtype.kind], values)
    encode: Callable[[Any], bytes] = ENCODERS[dtype.kind]
    return codes, runs_of(list(map(encode, values.to_pylist())))


def _dictionary(array: pa.Array) -> tuple[Ints, pa.Array]:
    """Return for each row which distinct value it has, -1 for null, and those values."""
    encoded = array.dictionary_encode()
    indices = encoded.indices.fill_null(-1) if encoded.indices.null_count else encoded.indices
    return indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


def _encode_numbers(tag: int, values: pa.Array, dtype: DType) -> Runs:
    """Return tag and sign-flipped big-endian 64 bits of every value."""
    if len(values) == 0:
        return runs_of([])
    numbers = fixed_values(values, NUMPY_TYPE[element_format(dtype)]).astype(np.int64)
    flipped = numbers.view(np.uint64) ^ np.uint64(1 << 63)
    table = np.empty((len(numbers), 9), np.uint8)
    table[:, 0] = tag
    table[:, 1:] = flipped.astype(">u8").view(np.uint8).reshape(-1, 8)
    return Runs(table.reshape(-1), 9 * np.arange(len(numbers) + 1))


def _encode_texts(tag: int, values: pa.Array) -> Runs:
    """Return tag, escaped bytes and two zeros of every value."""
    from featurestore.kernels.keys import add_text_lengths, write_texts

    count = len(values)
    _, bounds, buffer = values.buffers()
    ends = np.frombuffer(bounds, "<i4", count + 1, values.offset * 4)
    source = buffer_bytes(buffer)
    lengths = np.zeros(count, np.int64)
    add_text_lengths(ends, source, lengths)
    offsets = offsets_of(lengths)
    data = np.empty(int(offsets[-1]), np.uint8)
    write_texts(tag, ends, source, np.ones(count, np.uint8), offsets[:-1].copy(), data)
    return Runs(data, offsets)


def _append_component(codes: Ints, keys: Runs, more_codes: Ints, more: Runs) -> tuple[Ints, Runs]:
    """Return codes and keys of the pairs that occur."""
    nulls = (codes < 0) | (more_codes < 0)
    # Codes count distinct values, which Arrow numbers with 32 bits: the pair fits in 63.
    count = max(len(more.offsets) - 1, 1)
    pairs = codes * count + more_codes
    pair_codes, distinct = _dictionary(pa.array(pairs, mask=nulls))
    first, second = np.divmod(distinct.to_numpy(zero_copy_only=False), count)
    return pair_codes, _concatenated(keys, first, more, second)


def _concatenated(left: Runs, first: Ints, right: Runs, second: Ints) -> Runs:
    """Return ``left[first[i]] + right[second[i]]`` for each i."""
    left_starts, right_starts = left.offsets[first], right.offsets[second]
    left_lengths = left.offsets[first + 1] - left_starts
    right_lengths = right.offsets[second + 1] - right_starts
    offsets = offsets_of(left_lengths + right_lengths)
    data = np.empty(int(offsets[-1]), np.uint8)
    copy_runs(data, offsets[:-1], left.data, left_starts, left_lengths)
    copy_runs(data, offsets[:-1] + left_lengths, right.data, right_starts, right_lengths)
    return Runs(data, offsets)


def _refuse_long_keys(codes: Ints, keys: Runs) -> None:
    long = np.flatnonzero(np.diff(keys.offsets) > KEY_BYTES_MAX)
    if len(long) == 0:
        return
    rows = np.flatnonzero(np.isin(codes, long))
    reasons = [(row, too_long(keys.run(codes[row]))) for row in rows[:_REPORTED_ROWS_MAX].tolist()]
    row, reason = reasons[0]
    raise InvalidRecord(
        f"{len(rows):,} rows have too long a key; the first is row {row}: {reason}", rows=reasons
    )


def decode_keys(keys: Sequence[bytes] | Runs, dtypes: Sequence[DType]) -> list[pa.Array]:
    """Return the identifier columns of many keys: `encode_keys` backwards.

    Raises
    ------
    CorruptStore
        When a key is malformed.

    Examples
    --------
    >>> from featurestore.dtypes import parse_dtype
    >>> decode_keys([bytes.fromhex("024a464b0000")], [parse_dtype("string")])[0].to_pylist()
    ['JFK']
    """
    keys = runs_of(keys)
    only = _decode_only(keys, dtypes[0]) if len(dtypes) == 1 and keys.rows else None
    if only is not None:
        return [only]
    rows = [decode_key(key, dtypes) for key in keys.split()]
    columns = zip(*rows, strict=True) if rows else [()] * len(dtypes)
    return [
        pa.array(values, dtype.to_arrow()) for values, dtype in zip(columns, dtypes, strict=True)
    ]


def _decode_only(keys: Runs, dtype: DType) -> pa.Array | None:
    """Return keys of one part as a column; None where they are better looked at one by one."""
    if dtype.kind in _NUMBER_TAGS:
        return _decode_numbers(keys, dtype)
    if dtype.kind in _TEXT_TAGS:
        return _decode_texts(keys, dtype)
    return None


def _decode_numbers(keys: Runs, dtype: DType) -> pa.Array | None:
    if (np.diff(keys.offsets) != 9).any():
        return None
    table = keys.data[keys.offsets[0] : keys.offsets[-1]].reshape(-1, 9)
    flipped = table[:, 1:].copy().view(">u8").reshape(-1).astype(np.uint64)
    values = (flipped ^ np.uint64(1 << 63)).view(np.int64)
    half = 1 << dtype.bits - 1 if dtype.kind == "int" else 0
    low, high = RANGES.get(dtype.kind, (-half, half - 1))
    if (table[:, 0] != _NUMBER_TAGS[dtype.kind]).any() or values.min() < low or values.max() > high:
        return None
    exact = values.astype(NUMPY_TYPE[element_format(dtype)])
    return array_of(dtype.to_arrow(), np.zeros(len(values), np.bool_), [pa.py_buffer(exact)])


def _decode_texts(keys: Runs, dtype: DType) -> pa.Array | None:
    """Return texts without a zero byte in them: tag and end are cut off, nothing is escaped."""
    starts, lengths = keys.offsets[:-1], np.diff(keys.offsets) - 3
    ends = keys.offsets[1:]
    data = keys.data[keys.offsets[0] : keys.offsets[-1]]
    if lengths.min() < 0 or np.count_nonzero(data == 0) != 2 * keys.rows:
        return None
    last = keys.data[ends - 1] | keys.data[ends - 2]
    if last.any() or (keys.data[starts] != _TEXT_TAGS[dtype.kind]).any():
        return None
    texts = copied_runs(keys.data, starts + 1, lengths)
    buffers = [pa.py_buffer(texts.offsets.astype(np.int32)), pa.py_buffer(texts.data)]
    array = array_of(dtype.to_arrow(), np.zeros(keys.rows, np.bool_), buffers)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return array
