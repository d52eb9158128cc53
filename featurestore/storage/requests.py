"""Results of requests, kept for 24 hours in the store itself, so that a retry counts once.

::

    requests        blake2b-256 of the request id  ->  u32 crc32 of that hash and of what follows
                                                       | i64 time | 16-byte digest | result (JSON)
    request_times   u64 time | that hash                ->  (empty; the order of forgetting)

The result is written in the transaction of the request, so it exists exactly if the request
happened.  The digest is of the request's content: an id used again for something else is an
error of the caller, not a retry.  When a record that a request wrote is erased, digest and result
go with it; what stays is that the request was made, so that no late retry brings the record back.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from featurestore.errors import CorruptStore, RecordErased, RequestMismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurestore.storage.environment import Environment, Transaction

KEPT_US = 24 * 3600 * 1_000_000
_HEAD = struct.Struct("<Iq16s")
_CRC_BYTES = 4
_TIME = struct.Struct(">Q")
#: In the place of the digest of a request of which a record was erased.
_ERASED = b"erased".ljust(16, b"-")
_TIME_BIAS = 2**63  # so that times before 1970 sort first


class Request(NamedTuple):
    """What makes a request count once.

    Attributes
    ----------
    scope : str
        Kind of request; ids of different kinds do not meet.
    id : str
        Chosen by the caller.
    digest : bytes
        16 bytes of its content, from :func:`content_digest`.
    """

    scope: str
    id: str
    digest: bytes

    @property
    def key(self) -> bytes:
        """The row's key: ids may be of any length."""
        name = f"{self.scope}/{self.id}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(name, digest_size=32).digest()


def content_digest(*parts: bytes) -> bytes:
    """Return a 16-byte digest of a request's content."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


def find(env: Environment, txn: Transaction, request: Request, now_us: int) -> Any | None:
    """Return the stored result of a request, or None if it is new or forgotten.

    Raises
    ------
    RequestMismatch
        The id was used within 24 hours for a request with other content.
    """
    row = txn.get(request.key, db=env.requests)
    if row is None:
        return None
    time_us, found, result = parsed(request.key, row)
    if now_us - time_us >= KEPT_US:
        return None
    if found == _ERASED:
        raise RecordErased(
            f'Request "{request.id}" was made, and a record that it wrote has been erased since. '
            "It is not written again; use a new id if it is to be."
        )
    if found != request.digest:
        raise RequestMismatch(
            f'Request id "{request.id}" was used within the last 24 hours for a request with '
            "other content. Use a new id for a new request."
        )
    return json.loads(result)


def parsed(key: bytes, row: bytes) -> tuple[int, bytes, bytes]:
    """Return time, digest and result of a row; raise ``CorruptStore`` for any other bytes."""
    if len(row) > _HEAD.size:
        crc, time_us, digest = _HEAD.unpack_from(row)
        if crc32(row[_CRC_BYTES:], crc32(key)) == crc:
            return time_us, digest, bytes(row[_HEAD.size :])
    raise CorruptStore(
        f"The stored result of request {bytes(key[:8]).hex()} fails its checksum. Run "
        "`featurestore verify`, and restore the store from a backup."
    )


def save(env: Environment, txn: Transaction, request: Request, now_us: int, result: Any) -> None:
    """Store a request's result."""
    key = request.key
    old = txn.get(key, db=env.requests)
    if old is not None:
        old_time = _TIME.pack(parsed(key, old)[0] + _TIME_BIAS)
        txn.delete(old_time + key, db=env.request_times)
    _put(env, txn, key, now_us, request.digest, result)
    txn.put(_TIME.pack(now_us + _TIME_BIAS) + key, b"", db=env.request_times)


def _put(
    env: Environment, txn: Transaction, key: bytes, time_us: int, digest: bytes, result: Any
) -> None:
    row = _HEAD.pack(0, time_us, digest)[_CRC_BYTES:] + json.dumps(result).encode()
    crc = crc32(row, crc32(key)).to_bytes(_CRC_BYTES, "little")
    txn.put(key, crc + row, db=env.requests)


def update(env: Environment, txn: Transaction, key: bytes, fields: Mapping[str, Any]) -> bool:
    """Change some fields of a result; returns whether there was one."""
    row = txn.get(key, db=env.requests)
    if row is None:
        return False
    time_us, digest, result = parsed(key, row)
    _put(env, txn, key, time_us, digest, {**json.loads(result), **fields})
    return True


def erase(env: Environment, txn: Transaction, key: bytes) -> bool:
    """Leave of a request no more than that it was made; returns whether it was there."""
    row = txn.get(key, db=env.requests)
    if row is None:
        return False
    _put(env, txn, key, parsed(key, row)[0], _ERASED, None)
    return True


def naming(
    env: Environment, txn: Transaction, seqs: set[int], after: bytes, limit: int
) -> tuple[list[bytes], bytes]:
    """Look through some results for records by their seqs.

    Returns
    -------
    keys : list of bytes
        Of the requests that wrote one of them.
    after : bytes
        Where to go on; empty at the end.
    """
    found: list[bytes] = []
    with txn.cursor(db=env.requests) as cursor:
        here = cursor.set_range(after) if after else cursor.first()
        for _ in range(limit):
            if not here:
                return found, b""
            key = bytes(cursor.key())
            result = json.loads(parsed(key, cursor.value())[2])
            # The result of a write: outcomes, each of which begins with a seq.
            if isinstance(result, list) and any(outcome[0] in seqs for outcome in result):
                found.append(key)
            here = cursor.next()
        return found, bytes(cursor.key()) if here else b""


def forget_old(env: Environment, txn: Transaction, now_us: int, limit: int = 16) -> None:
    """Forget a few results older than 24 hours; called with every write, so it keeps up."""
    with txn.cursor(db=env.request_times) as cursor:
        for _ in range(limit):
            if not cursor.first():
                return
            row = bytes(cursor.key())
            if now_us - (_TIME.unpack_from(row)[0] - _TIME_BIAS) < KEPT_US:
                return
            cursor.delete()
            # A row that rotted may date another request, or a young one, which is to be kept.
            if _dates(env, txn, row):
                txn.delete(row[_TIME.size :], db=env.requests)


def require_dated(env: Environment, txn: Transaction, row: bytes) -> None:
    """Raise ``CorruptStore`` unless a key of ``request_times`` says when its request was made."""
    if not _dates(env, txn, row):
        raise CorruptStore(
            f"The row {row.hex(' ')} says of no request when it was made. Nothing believes it; a "
            "request may be remembered for longer than 24 hours."
        )


def _dates(env: Environment, txn: Transaction, row: bytes) -> bool:
    if len(row) <= _TIME.size:
        return False
    result = txn.get(row[_TIME.size :], db=env.requests)
    if result is None or len(result) < _HEAD.size:
        return False
    return bool(_TIME.pack(_HEAD.unpack_from(result)[1] + _TIME_BIAS) == row[: _TIME.size])
