"""API keys: ``fs_<id>_<secret>``, made, asked for, rotated, revoked.

Only the SHA-256 of the secret is kept (32 random bytes need no slow hash), in the store's own LMDB,
so that every worker knows a revoked key at its next request::

    access   k <id>      JSON: name, roles, rate, up to two secrets with their expiry, created_at;
                         a checksum (:mod:`featurestore.storage.rows`)

Two secrets, so that a key can be rotated without a moment in which neither works.  While a store
has no key at all, every caller is its admin; the server then serves loopback only.

An *access key* is the form for callers who sign their requests instead of sending a key (boto3
does): an id, ``AKFS`` and 16 letters and digits, and a secret that is derived, not kept
(:mod:`featurestore_server.root_secret`).  Roles, rotation, expiry and the log are the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Never

from featurestore.engine.writer import witnessed
from featurestore.errors import InvalidInput
from featurestore.event_time import duration_us, format_us, system_clock, to_us
from featurestore.storage.rows import seal, unseal
from featurestore_server import root_secret
from featurestore_server.audit import Counts, Witness
from featurestore_server.problems import NotAuthenticated, TooManyRequests
from featurestore_server.roles import ANONYMOUS, EVERYTHING, Caller, parse_roles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.writer import Commit
    from featurestore_server.audit import Once

PREFIX = "fs"
ACCESS_PREFIX = "AKFS"
_MEMO_MAX = 10_000
_LOOK_SECONDS = 0.25
_ID = re.compile(r"[0-9A-Za-z]{1,64}", re.ASCII)
_NOT_VALID = "The API key is not valid, or not any more."


class Bucket:
    """How many requests a key may still make now: so many a second, a second's worth at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._left = self._most
        self._at = time.monotonic()

    def take(self) -> None:
        """Take one.

        Raises
        ------
        TooManyRequests
            None is left; it says when there will be one.
        """
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            raise TooManyRequests(
                f"This API key may make {self._rate:g} requests a second. Send this one again "
                "later.",
                after_seconds=(1.0 - self._left) / self._rate,
            )
        self._left -= 1.0


class _Known(NamedTuple):
    """A key that has been seen, and the row it was read from."""

    row: bytes
    facts: dict[str, Any]
    caller: Caller
    bucket: Bucket | None


class Keys:
    """The API keys of a store.

    Parameters
    ----------
    counts : Counts, optional
        Where refusals are counted.
    key_rate : float
        Requests a second that a key may make which says nothing else; 0 for any number.  It is
        counted by each worker for itself.
    """

    def __init__(
        self, database: Database, counts: Counts | None = None, key_rate: float = 0.0
    ) -> None:
        self._database = database
        self._counts = Counts() if counts is None else counts
        self._key_rate = key_rate
        self._anonymous = replace(ANONYMOUS, counts=self._counts)
        # By id; valid while the row is the same.
        self._callers: dict[str, _Known] = {}
        # Once a store has had a key it is never open to everybody again while it is served.
        self._any = False
        self._looked_at = -_LOOK_SECONDS
        self._root_secret: bytes | None = None

    # ── asking ──

    def caller(self, credentials: str | None) -> Caller:
        """Return who holds a key; see :meth:`Door.caller`."""
        if credentials is None:
            if self.exist():
                self._refuse(
                    "",
                    "This store asks for an API key: send it as `Authorization: Bearer fs_…`, "
                    "or give connect(url, api_key=…).",
                )
            return self._anonymous
        parts = _parts(credentials)
        if parts is None:
            self._refuse("")
        key_id, secret = parts
        known = self._find(key_id)
        if known is None:
            self._refuse("")
        if not _is_secret_of(known.facts, secret):
            self._refuse(key_id)
        if known.bucket is not None:
            known.bucket.take()
        return known.caller

    def signer(self, key_id: str) -> tuple[Caller, list[str]] | None:
        """Return who holds an access key, and its valid secrets; see :meth:`Door.signer`."""
        known = self._find(key_id) if _ID.fullmatch(key_id) else None
        if known is None:
            self._counts.add("", "", "authenticate", EVERYTHING, allowed=False)
            return None
        if known.bucket is not None:
            known.bucket.take()
        salts = [kept["salt"] for kept in known.facts["secrets"] if "salt" in kept and _live(kept)]
        if salts and self._root_secret is None:
            self._root_secret = root_secret.load(self._database.root)
        root = self._root_secret or b""
        return known.caller, [root_secret.derive(root, key_id, salt) for salt in salts]

    def _find(self, key_id: str) -> _Known | None:
        env = self._database.env
        with env.read() as txn:
            row = txn.get(_place(key_id), db=env.access)
        known = self._callers.get(key_id)
        if row is None:
            self._callers.pop(key_id, None)
            return None
        if known is None or known.row != row:
            if len(self._callers) >= _MEMO_MAX:
                self._callers.clear()
            known = self._callers[key_id] = self._known(key_id, row)
        return known

    def _known(self, key_id: str, row: bytes) -> _Known:
        facts = _facts(_place(key_id), row)
        roles = tuple((role, pattern) for role, pattern in facts["roles"])
        rate = facts.get("rate") or self._key_rate
        bucket = Bucket(rate) if rate else None
        return _Known(row, facts, Caller(key_id, facts["name"], roles, self._counts), bucket)

    def _refuse(
        self, key_id: str, why: str = "The API key is not valid, or not any more."
    ) -> Never:
        self._counts.add(key_id, "", "authenticate", EVERYTHING, allowed=False)
        raise NotAuthenticated(why)

    def exist(self) -> bool:
        """Return whether there is any key; the first one is known of within a quarter second."""
        now = time.monotonic()
        if not self._any and now - self._looked_at > _LOOK_SECONDS:
            env = self._database.env
            with env.read() as txn:
                self._any = int(txn.stat(env.access)["entries"]) > 0
            self._looked_at = now
        return self._any

    def list(self) -> list[dict[str, Any]]:
        """Return all keys, their secrets' hashes left out."""
        env = self._database.env
        with env.read() as txn, txn.cursor(db=env.access) as cursor:
            return [_shown(bytes(at)[1:].decode(), _facts(at, row)) for at, row in cursor]

    # ── changing ──

    def create(
        self,
        name: str,
        roles: Sequence[str],
        *,
        expires_in: str | None = None,
        rate: float | None = None,
        access_key: bool = False,
        key_id: str | None = None,
        by: Caller = ANONYMOUS,
        once: Once | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """Make a key; returns it, which is shown this once, and what is known of it.

        Of an access key the secret is returned; its id is among what is known.

        Parameters
        ----------
        name : str
            For people, and for the log.
        roles : sequence of str
            As ``"reader:weather*"``; a role alone is for all groups.
        expires_in : str, optional
            As ``"90d"``.
        rate : float, optional
            Requests a second that it may make, of each worker; by default what the server says.
        access_key : bool
            Make the form that signs requests.
        key_id : str, optional
            By default a new one.
        """
        if rate is not None and not 0 < rate < math.inf:
            raise InvalidInput(f"rate is a number of requests a second, above 0; got {rate}.")
        key_id = new_id(access_key=access_key) if key_id is None else key_id
        secret, kept = self._new_secret(key_id, expires_in)
        facts: dict[str, Any] = {
            "name": _checked_name(name),
            "roles": parse_roles(roles),
            "secrets": [kept],
        }
        facts |= {"created_at": format_us(system_clock()), "rate": rate}

        def work(commit: Commit) -> None:
            self._put(commit, key_id, facts)

        self._change(work, "create_key", key_id, by, once)
        return secret, _shown(key_id, facts)

    def rotate(
        self,
        key_id: str,
        *,
        expires_in: str | None = None,
        grace: str = "1d",
        by: Caller = ANONYMOUS,
        once: Once | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """Give a key a new secret; the one before works for the grace time."""
        secret, kept = self._new_secret(key_id, expires_in)
        until = system_clock() + duration_us(grace, what="grace")

        def work(commit: Commit) -> dict[str, Any]:
            facts = self._load(commit, key_id)
            old = facts["secrets"][-1]
            old["expires_us"] = min(until, old["expires_us"] or until)
            facts["secrets"] = [old, kept]
            self._put(commit, key_id, facts)
            return facts

        facts = self._change(work, "rotate_key", key_id, by, once)
        return secret, _shown(key_id, facts)

    def revoke(self, key_id: str, *, by: Caller = ANONYMOUS, once: Once | None = None) -> None:
        """Remove a key; requests that carry it are refused from now on."""

        def work(commit: Commit) -> None:
            if not commit.txn.delete(_place(key_id), db=commit.env.access):
                raise InvalidInput(_no_key(key_id))

        self._change(work, "revoke_key", key_id, by, once)

    def _new_secret(self, key_id: str, expires_in: str | None) -> tuple[str, dict[str, Any]]:
        """Return what the caller is given, and what is kept of it."""
        lasts = None if expires_in is None else duration_us(expires_in, what="expires_in")
        expires_us = None if lasts is None else to_us(format_us(system_clock() + lasts))
        if is_access_id(key_id):
            self._root_secret = root_secret.make(self._database.root)
            salt = secrets.token_hex(8)
            secret = root_secret.derive(self._root_secret, key_id, salt)
            return secret, {"salt": salt, "expires_us": expires_us}
        secret = secrets.token_urlsafe(32)
        kept = {"sha256": _digest(secret), "expires_us": expires_us}
        return f"{PREFIX}_{key_id}_{secret}", kept

    def _change(
        self, work: Any, verb: str, key_id: str, by: Caller, once: Once | None = None
    ) -> Any:
        facts = {"who": by.name, "key_id": by.key_id, "verb": verb, "key": key_id}
        with witnessed(Witness(facts, always=True, once=once)):
            return self._database.writer.call(work, system_clock(), bytes_needed=4096)

    def shown_at(self, commit: Commit, key_id: str) -> dict[str, Any]:
        """Return what is known of a key at a transaction's moment, its secrets left out."""
        return _shown(key_id, self._load(commit, key_id))

    @staticmethod
    def _load(commit: Commit, key_id: str) -> dict[str, Any]:
        row = commit.txn.get(_place(key_id), db=commit.env.access)
        if row is None:
            raise InvalidInput(_no_key(key_id))
        return _facts(_place(key_id), row)

    @staticmethod
    def _put(commit: Commit, key_id: str, facts: dict[str, Any]) -> None:
        place = _place(key_id)
        commit.txn.put(place, seal(place, facts), db=commit.env.access)


def _no_key(key_id: str) -> str:
    return f'There is no API key "{key_id}".'


def _place(key_id: str) -> bytes:
    return b"k" + key_id.encode()


def _facts(place: bytes, row: bytes) -> dict[str, Any]:
    return unseal(place, row, f"The API key {bytes(place[1:]).decode(errors='replace')}")


def _checked_name(name: str) -> str:
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise InvalidInput("A key's name is 1 to 64 printable characters.")
    return name


def _parts(credentials: str) -> tuple[str, str] | None:
    parts = credentials.split("_", 2)
    if len(parts) != 3 or parts[0] != PREFIX or not _ID.fullmatch(parts[1]):
        return None
    return parts[1], parts[2]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _is_secret_of(facts: dict[str, Any], secret: str) -> bool:
    """Compare digests, of which the time tells nothing, and look at the expiry after that."""
    given = _digest(secret)
    # An access key has no such digest: it signs, and is never sent.
    return any(
        hmac.compare_digest(given, kept.get("sha256", "")) and _live(kept)
        for kept in facts["secrets"]
    )


def _live(kept: dict[str, Any]) -> bool:
    return kept["expires_us"] is None or system_clock() < kept["expires_us"]


def _shown(key_id: str, facts: dict[str, Any]) -> dict[str, Any]:
    expiries = [kept["expires_us"] for kept in facts["secrets"]]
    return {
        "id": key_id,
        "name": facts["name"],
        "roles": [f"{role}:{pattern}" for role, pattern in facts["roles"]],
        "rate": facts.get("rate"),
        "created_at": facts["created_at"],
        "expires_at": [None if us is None else format_us(us) for us in expiries],
    }


def new_id(*, access_key: bool = False) -> str:
    """Return the id of a key that is still to be made."""
    if access_key:
        return ACCESS_PREFIX + base64.b32encode(secrets.token_bytes(10)).decode()
    return secrets.token_hex(6)


def is_access_id(key_id: str) -> bool:
    """Return whether an id is that of an access key.

    Examples
    --------
    >>> is_access_id(new_id(access_key=True)), is_access_id(new_id())
    (True, False)
    """
    return key_id.startswith(ACCESS_PREFIX)
