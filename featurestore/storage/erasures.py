"""Erasures: what was erased, so that ``verify`` can look for it, without saying who it was.

::

    meta    erasure/<u64 seq>    Erasure                                           (JSON)

A row holds no key, but the key's hash and a digest of it, both made with the store's own seed: they
tell nobody who it was who does not have both the store and a key to try.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from featurestore.errors import CorruptStore
from featurestore.storage.rows import seal, unseal

if TYPE_CHECKING:
    from featurestore.encoding.keys import KeyHash
    from featurestore.storage.environment import Environment, Transaction

_PREFIX = b"erasure/"


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erasure: after its seq, there is no record of the key that is not newer than it.

    Attributes
    ----------
    group_id : int
        The group.
    seq : int
        Its place in the order of commits, and its number.
    at_us : int
        The time of its commit.
    key_hash : int
        Hash of the key, by which to find its rows.
    key_digest : str
        Digest of the key, to tell it from others of the same hash.
    """

    group_id: int
    seq: int
    at_us: int
    key_hash: int
    key_digest: str


def digest(key_hash: KeyHash, key: bytes) -> str:
    """Return the digest of a key that the store's erasures know it by."""
    hasher = hashlib.blake2b(key, digest_size=16, key=key_hash.seed, person=b"erasure")
    return hasher.hexdigest()


def put(env: Environment, txn: Transaction, erasure: Erasure) -> None:
    """Write an erasure down."""
    key = _PREFIX + erasure.seq.to_bytes(8, "big")
    txn.put(key, seal(key, asdict(erasure)), db=env.meta)


def of(key: bytes, row: bytes) -> Erasure:
    """Parse a row; raise ``CorruptStore`` if it is not what was written."""
    what = f"The erasure of seq {int.from_bytes(key[len(_PREFIX) :], 'big')}"
    fields = unseal(key, row, what)
    try:
        return Erasure(**fields)
    except TypeError as error:
        raise CorruptStore(f"{what} is unreadable.") from error


def every(env: Environment, txn: Transaction) -> list[Erasure]:
    """Return all erasures, oldest first."""
    found = []
    with txn.cursor(db=env.meta) as cursor:
        if cursor.set_range(_PREFIX):
            for key, row in cursor:
                if not bytes(key).startswith(_PREFIX):
                    break
                found.append(of(bytes(key), bytes(row)))
    return found
