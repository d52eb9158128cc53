"""Documents: JSON under a kind and a name, in the store's own transactions.

::

    meta    document/<kind>/<name>    a document              (JSON with a checksum: rows)

What the lifecycle remembers is small and must not be lost: which model versions there are, who
approved them, how a job ended.  It lies beside the catalog, so it is as durable as the records,
and a backup of the store has it.  Large things (files of a model, logs) lie in folders, and a
document says where and with which digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidName
from featurestore.storage.rows import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurestore.storage.environment import Environment, Transaction

Document = dict[str, Any]

#: LMDB's keys end at 511 bytes; the rest is for the prefix and the kind.
NAME_BYTES_MAX = 400


def key(kind: str, name: str) -> bytes:
    """Return the key of a document's row.

    Raises
    ------
    InvalidName
        For a name that is empty or longer than :data:`NAME_BYTES_MAX`.
    """
    encoded = name.encode("utf-8", "surrogatepass")
    if not 0 < len(encoded) <= NAME_BYTES_MAX:
        raise InvalidName(
            f"{kind} name {name[:40]!r} has {len(encoded)} bytes; use 1 to {NAME_BYTES_MAX}."
        )
    return f"document/{kind}/".encode() + encoded


def get(env: Environment, txn: Transaction, kind: str, name: str) -> Document | None:
    """Return a document; None if there is none."""
    row = txn.get(key(kind, name), db=env.meta)
    return None if row is None else _parsed(row, kind, name)


def put(env: Environment, txn: Transaction, kind: str, name: str, document: Document) -> None:
    """Create or replace a document."""
    row_key = key(kind, name)
    txn.put(row_key, seal(row_key, document), db=env.meta)


def delete(env: Environment, txn: Transaction, kind: str, name: str) -> bool:
    """Remove a document; returns whether it was there."""
    return bool(txn.delete(key(kind, name), db=env.meta))


def every(
    env: Environment, txn: Transaction, kind: str, prefix: str = "", *, after: str | None = None
) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a kind whose name begins so, in the order of their names' bytes.

    With ``after`` only those behind that name.
    """
    if len(prefix.encode()) > NAME_BYTES_MAX:
        return  # no name is as long
    start = f"document/{kind}/".encode()
    first = start + prefix.encode()
    if after is not None:
        first = max(first, key(kind, after) + b"\0")
    with txn.cursor(db=env.meta) as cursor:
        if not cursor.set_range(first):
            return
        for row_key, row in cursor:
            found = bytes(row_key)
            if not found.startswith(start + prefix.encode()):
                return
            name = found[len(start) :].decode("utf-8", "surrogatepass")
            yield name, _parsed(row, kind, name)


def _parsed(row: bytes, kind: str, name: str) -> Document:
    return unseal(key(kind, name), row, f'The document of {kind} "{name}"')
