"""The root secret: what the secrets of access keys are derived from, so that none is kept.

An API key is sent, and its hash is enough to know it again.  The secret of an access key never
travels: the caller signs with it (AWS Signature Version 4), and to check a signature the server
needs the secret itself.  A database of secrets in clear would be the thing to steal, and one of
encrypted secrets only moves the question to the key that opens them; so there is that key alone::

    <store>/access.secret    32 random bytes, for the owner's eyes (0600), made with the first key

    secret of a key  =  base64url(HMAC-SHA256(root secret, key id | salt))      40 characters

LMDB holds the id, the salt, roles and expiry.  Whoever reads it, or a backup of it, learns no
secret; whoever reads the root secret too can sign as anybody, and could as well write to the
store.  ``store.backup`` does not copy it: a copy refuses every access key until the file is put
beside it, or new keys are made.  A server reads the file once: start it again when it is changed.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from typing import TYPE_CHECKING

from featurestore.errors import CannotOpen
from featurestore.storage import files

if TYPE_CHECKING:
    from pathlib import Path

NAME = "access.secret"
_BYTES = 32
_SECRET_CHARACTERS = 40  # as many as AWS gives its own


def load(root: Path) -> bytes:
    """Return the root secret of a store's folder.

    Raises
    ------
    CannotOpen
        It is not there, or not what was written.
    """
    try:
        found = (root / NAME).read_bytes()
    except FileNotFoundError:
        found = b""
    if len(found) != _BYTES:
        raise CannotOpen(
            f"{root / NAME} does not hold the root secret, without which no access key of this "
            "store can be checked. Put it back, or remove the file and make new keys."
        )
    return found


def make(root: Path) -> bytes:
    """Return the root secret, made if there is none; of two processes at once one makes it."""
    path = root / NAME
    if not path.exists():
        temporary = root / f".{NAME}.{secrets.token_hex(8)}"
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        ) as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, unlike a rename, does not replace what another process has made meanwhile.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink()
        files.sync_folder(root)
    return load(root)


def derive(root_secret: bytes, key_id: str, salt: str) -> str:
    """Return the secret of an access key.

    Examples
    --------
    >>> len(derive(bytes(32), "AKFS", "00")), derive(bytes(32), "AKFS", "01")[:8]
    (40, 'T6VzD1pJ')
    """
    digest = hmac.digest(root_secret, f"{key_id}|{salt}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode()[:_SECRET_CHARACTERS]
