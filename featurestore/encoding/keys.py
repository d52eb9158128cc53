r"""Record identifiers as bytes: typed, order preserving, prefix free; and their hash.

A key is the concatenation of its components in the order of ``record_identifier``.  One line for
each type is the whole specification:

::

    type         tag    then
    ──────────   ────   ────────────────────────────────────────────────────────────────────────
    binary       0x01   the bytes, 0x00 written as 0x00 0xFF, ended by 0x00 0x00
    string       0x02   the same over its UTF-8
    int8..64     0x10   8 bytes, big endian, sign bit flipped: one form for every width
    bool         0x20   nothing: this tag is false
                 0x21   nothing: this tag is true
    timestamp    0x30   microseconds since the epoch, as int
    date         0x31   days since the epoch, as int

- **Order.** Bytes compare as the values do, component by component: text by code point, numbers
  by size, false before true.
- **Prefix free.** No key is the beginning of another key of its group, so ``("a", "bc")`` and
  ``("ab", "c")`` cannot meet, and a cursor over one key's bytes finds that key only.  It is why
  text ends with *two* zero bytes: with one, ``"a"`` would be the beginning of ``"a\0"``.
- **Typed.** The integer 1, the text ``"1"`` and true have nothing in common.
- **Canonical.** A value has one form; bytes in any other form are refused as corrupt.

There is no tag for null: a null is no part of an identifier.

The online store and the offline files are not sorted by the key itself but by ``(hash, key)``:
the hash spreads hot ranges evenly, so that a range of it is a fair share of work.  It is seeded
for each store, lest somebody choose keys that meet.  Equal hashes are never taken for equal keys.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

from featurestore.dtypes import MAX_DAYS, MIN_DAYS
from featurestore.errors import CorruptStore, InvalidRecord
from featurestore.event_time import MAX_US, MIN_US
from featurestore.record import KEY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from featurestore.dtypes import DType, Physical

TAG_BINARY = 0x01
TAG_STRING = 0x02
TAG_INT = 0x10
TAG_FALSE = 0x20
TAG_TRUE = 0x21
TAG_TIMESTAMP = 0x30
TAG_DATE = 0x31

_SIGN = 1 << 63
_TAG_AND_INT = struct.Struct(">BQ")

# ── encode ───────────────────────────────────────────────────────────────────────────────────


def _escape(tag: int) -> Callable[[bytes], bytes]:
    """Return the encoder of byte strings under one tag."""
    first = bytes([tag])

    def encode(value: bytes) -> bytes:
        return first + value.replace(b"\0", b"\0\xff") + b"\0\0"

    return encode


def _number(tag: int) -> Callable[[int], bytes]:
    """Return the encoder of 64-bit integers under one tag."""
    pack = _TAG_AND_INT.pack

    def encode(value: int) -> bytes:
        return pack(tag, value + _SIGN)

    return encode


_escape_text = _escape(TAG_STRING)

#: Kind of a dtype -> encoder of one component.  `columns` uses the same, once a distinct value.
ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "binary": _escape(TAG_BINARY),
    "string": lambda value: _escape_text(value.encode()),
    "int": _number(TAG_INT),
    "bool": lambda value: b"\x21" if value else b"\x20",
    "timestamp": _number(TAG_TIMESTAMP),
    "date": _number(TAG_DATE),
}


def encode_key(values: Sequence[Physical], dtypes: Sequence[DType]) -> bytes:
    """Return the bytes of one record identifier.

    Parameters
    ----------
    values : sequence of physical values
        One for each component, already checked against its dtype; none of them null.
    dtypes : sequence of DType
        Types of the components, in the order of ``record_identifier``.

    Returns
    -------
    bytes
        At most ``KEY_BYTES_MAX`` long.

    Raises
    ------
    InvalidRecord
        When the key is longer than that.

    Examples
    --------
    >>> from featurestore.dtypes import parse_dtype
    >>> encode_key(["JFK"], [parse_dtype("string")]).hex(" ")
    '02 4a 46 4b 00 00'
    >>> encode_key([-1, True], [parse_dtype("int32"), parse_dtype("bool")]).hex(" ")
    '10 7f ff ff ff ff ff ff ff 21'
    """
    key = b"".join(
        [ENCODERS[dtype.kind](value) for value, dtype in zip(values, dtypes, strict=True)]
    )
    if len(key) > KEY_BYTES_MAX:
        raise InvalidRecord(too_long(key))
    return key


def too_long(key: bytes) -> str:
    """Say that a key is over the limit, in the words every path uses."""
    return (
        f"The record identifier takes {len(key):,} bytes as a key; the limit is "
        f"{KEY_BYTES_MAX:,}. Identify the record by a shorter value, such as a digest of this one."
    )


# ── decode ───────────────────────────────────────────────────────────────────────────────────


def decode_key(key: bytes, dtypes: Sequence[DType]) -> tuple[Physical, ...]:
    """Return the physical values of one record identifier: `encode_key` backwards.

    Raises
    ------
    CorruptStore
        When the bytes are not exactly what `encode_key` writes for these types.

    Examples
    --------
    >>> from featurestore.dtypes import parse_dtype
    >>> decode_key(bytes.fromhex("02 4a 46 4b 00 00"), [parse_dtype("string")])
    ('JFK',)
    """
    values: list[Physical] = []
    position = 0
    for dtype in dtypes:
        value, position = _DECODERS[dtype.kind](key, position, dtype)
        values.append(value)
    if position != len(key):
        raise _corrupt(key, f"{len(key) - position} bytes follow its last component")
    return tuple(values)


def _decode_bytes(tag: int, key: bytes, position: int) -> tuple[bytes, int]:
    """Return one escaped byte string and the position after its end."""
    _expect_tag(tag, key, position)
    # In the body every 0x00 is followed by 0xFF, so the first 0x00 0x00 is the end.
    end = key.find(b"\0\0", position + 1)
    if end < 0:
        raise _corrupt(key, "a text or binary component has no end")
    body = key[position + 1 : end]
    if b"\0" in body:
        if body.count(b"\0") != body.count(b"\0\xff"):
            raise _corrupt(key, "a zero byte is not escaped")
        body = body.replace(b"\0\xff", b"\0")
    return body, end + 2


def _decode_binary(key: bytes, position: int, _dtype: DType) -> tuple[bytes, int]:
    return _decode_bytes(TAG_BINARY, key, position)


def _decode_string(key: bytes, position: int, _dtype: DType) -> tuple[str, int]:
    body, end = _decode_bytes(TAG_STRING, key, position)
    try:
        return body.decode(), end
    except UnicodeDecodeError as error:
        raise _corrupt(key, "a text component is not UTF-8") from error


def _decode_number(tag: int, key: bytes, position: int, low: int, high: int) -> tuple[int, int]:
    """Return one integer between ``low`` and ``high``, both included, and where it ends."""
    _expect_tag(tag, key, position)
    end = position + _TAG_AND_INT.size
    if end > len(key):
        raise _corrupt(key, "a number is cut short")
    value = int.from_bytes(key[position + 1 : end], "big") - _SIGN
    if not low <= value <= high:
        raise _corrupt(key, f"{value} is outside its type")
    return value, end


def _decode_int(key: bytes, position: int, dtype: DType) -> tuple[int, int]:
    half = 1 << (dtype.bits - 1)
    return _decode_number(TAG_INT, key, position, -half, half - 1)


def _decode_timestamp(key: bytes, position: int, _dtype: DType) -> tuple[int, int]:
    return _decode_number(TAG_TIMESTAMP, key, position, MIN_US, MAX_US)


def _decode_date(key: bytes, position: int, _dtype: DType) -> tuple[int, int]:
    return _decode_number(TAG_DATE, key, position, MIN_DAYS, MAX_DAYS)


def _decode_bool(key: bytes, position: int, _dtype: DType) -> tuple[bool, int]:
    tag = key[position : position + 1]
    if tag not in {b"\x20", b"\x21"}:
        raise _corrupt(key, f"byte {position} is not the tag of a bool")
    return tag == b"\x21", position + 1


_DECODERS: dict[str, Callable[[bytes, int, DType], tuple[Any, int]]] = {
    "binary": _decode_binary,
    "string": _decode_string,
    "int": _decode_int,
    "bool": _decode_bool,
    "timestamp": _decode_timestamp,
    "date": _decode_date,
}


def _expect_tag(tag: int, key: bytes, position: int) -> None:
    if key[position : position + 1] != bytes([tag]):
        found = key[position : position + 1].hex() or "nothing"
        raise _corrupt(key, f"expected tag {tag:02x} at byte {position}, found {found}")


def _corrupt(key: bytes, reason: str) -> CorruptStore:
    shown = key[:32].hex(" ") + (" …" if len(key) > 32 else "")
    return CorruptStore(f"A record key in the store is malformed: {reason} (key bytes: {shown}).")


# ── hash and LMDB key ────────────────────────────────────────────────────────────────────────

#: ``u32 group id | u64 key hash + 2**63``, big endian: how every key of the latest records begins.
LATEST_PREFIX = struct.Struct(">IQ")

#: Longer keys are replaced by a digest in LMDB, whose limit is 511 bytes a key, prefix included.
LMDB_KEY_BYTES_MAX = 448

#: Stands before the digest.  No component has this tag, so a digest is never taken for a key.
DIGEST_TAG = b"\xff"


class KeyHash:
    """The store's seeded hash of key bytes: a signed 64-bit integer.

    BLAKE2b keyed by the seed: fast in the standard library, the same everywhere, and out of reach
    of who does not know the seed.  Signed, since Arrow, Parquet and numba all sort int64; in LMDB
    2**63 is added, which keeps the order.

    Parameters
    ----------
    seed : bytes
        1 to 64 bytes, drawn at random when the store was made and never changed.
    bits : int, default 64
        How many of the leading bits to keep; the others are zero.  With 2 there are four values
        in all: the whole test suite also runs so, to prove that no path relies on the hash alone.

    Examples
    --------
    >>> KeyHash(b"seed")(b"key")
    1451378420298189927
    >>> sorted({KeyHash(b"seed", bits=2)(bytes([i])) >> 62 for i in range(100)})
    [-2, -1, 0, 1]
    """

    __slots__ = ("_copy", "bits", "mask", "seed")

    def __init__(self, seed: bytes, bits: int = 64) -> None:
        if not 1 <= len(seed) <= hashlib.blake2b.MAX_KEY_SIZE or not 1 <= bits <= 64:
            raise ValueError("a key hash needs a seed of 1 to 64 bytes, and keeps 1 to 64 bits")
        self.seed = seed
        self.bits = bits
        # Copying the keyed state is cheaper than keying anew (0.55 against 0.9 us a key).
        self._copy = hashlib.blake2b(digest_size=8, key=seed).copy
        #: What is kept of a hash.
        self.mask = -1 << (64 - bits)

    def __call__(self, key: bytes) -> int:
        """Return the hash of one key, in [-2**63, 2**63)."""
        state = self._copy()
        state.update(key)
        return int.from_bytes(state.digest(), "big", signed=True) & self.mask


def lmdb_key(group_id: int, key_hash: int, key: bytes) -> bytes:
    r"""Return the LMDB key of a latest record: group, hash, then the key or its digest.

    ::

        u32 group id | u64 key hash + 2**63 | key bytes, if at most 448; else 0xFF and a digest

    Sorted, these run by group, then hash, then key: the order of the files too.  Only among equal
    hashes do keys too long for LMDB stand apart, after the others, in the order of their digests
    (32 bytes of BLAKE2b); whoever merges the two orders must compare hashes, then look up keys.

    Examples
    --------
    >>> lmdb_key(7, 0, b"\x21").hex(" ")
    '00 00 00 07 80 00 00 00 00 00 00 00 21'
    >>> len(lmdb_key(7, 0, b"x" * 2000))
    45
    """
    prefix = LATEST_PREFIX.pack(group_id, key_hash + _SIGN)
    if len(key) <= LMDB_KEY_BYTES_MAX:
        return prefix + key
    return prefix + DIGEST_TAG + hashlib.blake2b(key, digest_size=32).digest()
