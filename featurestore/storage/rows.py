"""Rows of the engine that are no records: JSON, and fixed numbers, each with a checksum of its own.

::

    key  ──► crc32 ◄──  {"kind": "cell", "rows": 812, …}
               │
               ▼
    {"kind": "cell", "rows": 812, …, "crc": …}

The checksum covers the key too, so that a sound row under a wrong key does not pass.  It is the
last member of the JSON and is compared as text: whatever bit is flipped, in the row, in the
checksum, in the name of the member, the row is refused.  A row stays plain JSON for people.

Rows of a log are chained instead, so that none can be taken out either: each begins with the
SHA-256 of the hash before and of its own text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

from featurestore.errors import CorruptStore

if TYPE_CHECKING:
    from collections.abc import Mapping

_MARK = b', "crc": '
_NUMBER = struct.Struct(">QI")
#: Stands before the first row of a chain.
GENESIS = bytes(32)


def seal(key: bytes, fields: Mapping[str, Any]) -> bytes:
    """Return the row of some fields, at least one, under a key.

    Examples
    --------
    >>> seal(b"k", {"a": 1})
    b'{"a": 1, "crc": 2797361705}'
    """
    text = json.dumps(fields).encode()
    return b"%b%b%d}" % (text[:-1], _MARK, crc32(text, crc32(key)))


def unseal(key: bytes, row: bytes, what: str) -> dict[str, Any]:
    """Return the fields of a row.

    Raises
    ------
    CorruptStore
        It is not what `seal` made for this key; the message names ``what``.

    Examples
    --------
    >>> unseal(b"k", seal(b"k", {"a": 1}), "a row")
    {'a': 1}
    """
    body, _, number = bytes(row).rpartition(_MARK)
    text = body + b"}"
    if body and number == b"%d}" % crc32(text, crc32(key)):
        with contextlib.suppress(ValueError, RecursionError):
            fields = json.loads(text)
            if isinstance(fields, dict):
                return fields
    raise CorruptStore(_refusal(what))


def seal_number(key: bytes, number: int) -> bytes:
    """Return the row of one number, not negative."""
    eight = number.to_bytes(8, "big")
    return eight + crc32(eight, crc32(key)).to_bytes(4, "big")


def unseal_number(key: bytes, row: bytes, what: str) -> int:
    """Return the number of a row; raise ``CorruptStore`` if it is not what `seal_number` made.

    Examples
    --------
    >>> unseal_number(b"k", seal_number(b"k", 7), "a number")
    7
    """
    if len(row) == _NUMBER.size:
        number, found = _NUMBER.unpack(row)
        if crc32(row[:8], crc32(key)) == found:
            return int(number)
    raise CorruptStore(_refusal(what))


def chained(last: bytes, text: bytes) -> bytes:
    """Return the hash of a row of a log, behind one whose hash is ``last``."""
    return hashlib.sha256(last + text).digest()


def _refusal(what: str) -> str:
    return (
        f"{what} fails its checksum. Run `featurestore verify`, and restore the store from a "
        "backup."
    )
