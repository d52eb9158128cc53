"""Who asks, and may they?  API keys, roles, and the one door to the store.

A key is ``fs_<id>_<secret>``.  Only the SHA-256 of the secret is kept (32 random bytes need no slow
hash), in the store's own LMDB, so that every worker knows a revoked key at its next request::

    access   k <id>      JSON: name, roles, up to two secrets with their expiry, created_at

Two secrets, so that a key can be rotated without a moment in which neither works.  While a store
has no key at all, every caller is its admin; the server then serves loopback only.

========  ==================================================  ===================================
role      on the groups its pattern matches (``weather*``)    on the store, with the pattern ``*``
========  ==================================================  ===================================
admin     everything                                          everything
writer    describe, put, write, delete, ingest
reader    describe, get, scan, join, changes
sql       describe, SQL
auditor   describe                                            stat, verify, the log of changes
========  ==================================================  ===================================

What no role allows is refused.  A feature view is read by who may read all of its groups.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from featurestore.engine.writer import witnessed
from featurestore.errors import AccessDenied, InvalidInput, did_you_mean
from featurestore.event_time import duration_us, format_us, system_clock, to_us
from featurestore_server.audit import Witness

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import featurestore as fs
    from featurestore.engine.database import Database
    from featurestore.engine.writer import Commit

PREFIX = "fs"
EVERYTHING = "*"
_MEMO_MAX = 10_000
_LOOK_SECONDS = 0.25


class Action(StrEnum):
    """What a verb does to a group, or to the store."""

    DESCRIBE = "describe"
    READ = "read"
    WRITE = "write"
    SQL = "sql"
    DEFINE = "define"
    INSPECT = "inspect"
    MAINTAIN = "maintain"


_A = Action
ROLES: dict[str, frozenset[Action]] = {
    "admin": frozenset(Action),
    "writer": frozenset({_A.DESCRIBE, _A.WRITE}),
    "reader": frozenset({_A.DESCRIBE, _A.READ}),
    "sql": frozenset({_A.DESCRIBE, _A.SQL}),
    "auditor": frozenset({_A.DESCRIBE, _A.INSPECT}),
}

#: What each verb needs; a verb that is not here cannot be called.
VERBS: dict[str, Action] = {
    "describe_feature_group": _A.DESCRIBE,
    "list_feature_groups": _A.DESCRIBE,
    "describe_feature_view": _A.DESCRIBE,
    "list_feature_views": _A.DESCRIBE,
    "get_record": _A.READ,
    "batch_get_record": _A.READ,
    "get_features": _A.READ,
    "scan": _A.READ,
    "point_in_time": _A.READ,
    "changes": _A.READ,
    "put_record": _A.WRITE,
    "write": _A.WRITE,
    "update_record": _A.WRITE,
    "delete_record": _A.WRITE,
    "ingest": _A.WRITE,
    "sql": _A.SQL,
    "create_feature_group": _A.DEFINE,
    "update_feature_group": _A.DEFINE,
    "delete_feature_group": _A.DEFINE,
    "create_feature_view": _A.DEFINE,
    "delete_feature_view": _A.DEFINE,
    "snapshot": _A.DESCRIBE,
    "stat": _A.INSPECT,
    "verify": _A.INSPECT,
    "audit": _A.INSPECT,
    "flush": _A.MAINTAIN,
    "compact": _A.MAINTAIN,
    "keys": _A.MAINTAIN,
}
#: Verbs whose transactions are told of in the log of changes.
_CHANGING = frozenset({_A.WRITE, _A.DEFINE})


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes
    ----------
    key_id, name : str
        Of the API key; ``"anonymous"`` while the store has none.
    roles : tuple of (role, group pattern)
    """

    key_id: str
    name: str
    roles: tuple[tuple[str, str], ...]
    _memo: dict[tuple[Action, str], bool] = field(default_factory=dict, compare=False, repr=False)

    def may(self, action: Action, group: str) -> bool:
        """Return whether a role allows an action on a group, or with ``*`` on the store."""
        asked = (action, group)
        allowed = self._memo.get(asked)
        if allowed is None:
            allowed = any(
                action in ROLES[role]
                and (pattern == EVERYTHING if group == EVERYTHING else fnmatchcase(group, pattern))
                for role, pattern in self.roles
            )
            if len(self._memo) >= _MEMO_MAX:
                self._memo.clear()
            self._memo[asked] = allowed
        return allowed

    def may_verb(self, verb: str, group: str) -> bool:
        """Return whether a verb is allowed on a group."""
        return self.may(VERBS[verb], group)

    def require_some(self, verb: str) -> None:
        """Refuse a verb that no role of the caller allows on any group."""
        if not any(VERBS[verb] in ROLES[role] for role, _ in self.roles):
            raise AccessDenied(f'The API key "{self.name}" may not {verb} anywhere.')

    def require(self, verb: str, groups: Iterable[str]) -> None:
        """Refuse a verb on groups, or with ``*`` on the store, that no role allows.

        Raises
        ------
        AccessDenied
            Before anything is looked up: whether a group exists is not told.
        """
        action = VERBS[verb]
        for group in groups:
            if not self.may(action, group):
                where = "the whole store" if group == EVERYTHING else f'"{group}"'
                able = [role for role, actions in ROLES.items() if action in actions]
                raise AccessDenied(
                    f'The API key "{self.name}" may not {verb} on {where}; that takes the role '
                    f"{' or '.join(able)}."
                )


ANONYMOUS = Caller("", "anonymous", (("admin", EVERYTHING),))


class Door:
    """The way to the store, for every surface.

    Attributes
    ----------
    database : Database
        The store's folder as the engine sees it, for look-ups that answer bytes.
    """

    def __init__(self, store: fs.FeatureStore, database: Database) -> None:
        self._store = store
        self.database = database
        self.keys = Keys(database)

    def caller(self, credentials: str | None) -> Caller:
        """Return who holds an API key.

        Raises
        ------
        AccessDenied
            There is none, or it is not, or no longer, valid.  Why is not told.
        """
        return self.keys.caller(credentials)

    def view(self, name: str) -> fs.FeatureView:
        """Return a feature view; whoever asks goes on to :meth:`reading` its groups."""
        return self._store.describe_feature_view(name)

    def now_us(self) -> int:
        """Return the store's clock."""
        return self._store._now_us()  # noqa: SLF001  the store's own clock, which tests set

    def reading(self, caller: Caller, verb: str, groups: Iterable[str]) -> fs.FeatureStore:
        """Return the store for a verb that changes nothing."""
        caller.require(verb, groups)
        return self._store

    @contextlib.contextmanager
    def enter(
        self, caller: Caller, verb: str, groups: Sequence[str], request_id: str | None = None
    ) -> Iterator[fs.FeatureStore]:
        """Give the store for any verb; its changes are told of in the log.

        Raises
        ------
        AccessDenied
            No role of the caller allows it.
        """
        caller.require(verb, groups)
        if VERBS[verb] not in _CHANGING:
            yield self._store
            return
        facts: dict[str, Any] = {"who": caller.name, "key_id": caller.key_id, "verb": verb}
        facts |= {"groups": sorted(set(groups))}
        if request_id is not None:
            facts["request_id"] = request_id
        with witnessed(Witness(facts)):
            yield self._store


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


class Keys:
    """The API keys of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # By id: the row a caller was made from, and the caller; valid while the row is the same.
        self._callers: dict[str, tuple[bytes, dict[str, Any], Caller]] = {}
        # Once a store has had a key it is never open to everybody again while it is served.
        self._any = False
        self._looked_at = -_LOOK_SECONDS

    # ── asking ──

    def caller(self, credentials: str | None) -> Caller:
        """Return who holds a key; see :meth:`Door.caller`."""
        env = self._database.env
        if credentials is None:
            if self.exist():
                raise AccessDenied(
                    "This store asks for an API key: send it as `Authorization: Bearer fs_…`, "
                    "or give connect(url, api_key=…)."
                )
            return ANONYMOUS
        key_id, secret = _parts(credentials)
        with env.read() as txn:
            row = txn.get(b"k" + key_id.encode(), db=env.access)
        known = self._callers.get(key_id)
        if row is None:
            self._callers.pop(key_id, None)
            raise AccessDenied(_NOT_VALID)
        if known is None or known[0] != row:
            if len(self._callers) >= _MEMO_MAX:
                self._callers.clear()
            facts = json.loads(row)
            roles = tuple((role, pattern) for role, pattern in facts["roles"])
            known = self._callers[key_id] = (row, facts, Caller(key_id, facts["name"], roles))
        _require_secret(known[1], secret)
        return known[2]

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
            return [_shown(bytes(key)[1:].decode(), json.loads(row)) for key, row in cursor]

    # ── changing ──

    def create(
        self,
        name: str,
        roles: Sequence[str],
        *,
        expires_in: str | None = None,
        by: Caller = ANONYMOUS,
    ) -> tuple[str, dict[str, Any]]:
        """Make a key; returns it, which is shown this once, and what is known of it.

        Parameters
        ----------
        name : str
            For people, and for the log.
        roles : sequence of str
            As ``"reader:weather*"``; a role alone is for all groups.
        expires_in : str, optional
            As ``"90d"``.
        """
        key_id = secrets.token_hex(6)
        secret, kept = _new_secret(expires_in)
        facts = {"name": _checked_name(name), "roles": parse_roles(roles), "secrets": [kept]}
        facts["created_at"] = format_us(system_clock())

        def work(commit: Commit) -> None:
            self._put(commit, key_id, facts)

        self._change(work, "create_key", key_id, by)
        return f"{PREFIX}_{key_id}_{secret}", _shown(key_id, facts)

    def rotate(
        self,
        key_id: str,
        *,
        expires_in: str | None = None,
        grace: str = "1d",
        by: Caller = ANONYMOUS,
    ) -> tuple[str, dict[str, Any]]:
        """Give a key a new secret; the one before works for the grace time."""
        secret, kept = _new_secret(expires_in)
        until = system_clock() + duration_us(grace, what="grace")

        def work(commit: Commit) -> dict[str, Any]:
            facts = self._load(commit, key_id)
            old = facts["secrets"][-1]
            old["expires_us"] = min(until, old["expires_us"] or until)
            facts["secrets"] = [old, kept]
            self._put(commit, key_id, facts)
            return facts

        facts = self._change(work, "rotate_key", key_id, by)
        return f"{PREFIX}_{key_id}_{secret}", _shown(key_id, facts)

    def revoke(self, key_id: str, *, by: Caller = ANONYMOUS) -> None:
        """Remove a key; requests that carry it are refused from now on."""

        def work(commit: Commit) -> None:
            self._load(commit, key_id)
            commit.txn.delete(b"k" + key_id.encode(), db=commit.env.access)

        self._change(work, "revoke_key", key_id, by)

    def _change(self, work: Any, verb: str, key_id: str, by: Caller) -> Any:
        facts = {"who": by.name, "key_id": by.key_id, "verb": verb, "key": key_id}
        with witnessed(Witness(facts, always=True)):
            return self._database.writer.call(work, system_clock(), bytes_needed=4096)

    @staticmethod
    def _load(commit: Commit, key_id: str) -> dict[str, Any]:
        row = commit.txn.get(b"k" + key_id.encode(), db=commit.env.access)
        if row is None:
            raise InvalidInput(f'There is no API key "{key_id}".')
        return dict(json.loads(bytes(row)))

    @staticmethod
    def _put(commit: Commit, key_id: str, facts: dict[str, Any]) -> None:
        commit.txn.put(b"k" + key_id.encode(), json.dumps(facts).encode(), db=commit.env.access)


_NOT_VALID = "The API key is not valid, or not any more."


def parse_roles(roles: Sequence[str]) -> list[list[str]]:
    """Return roles with their group patterns.

    Examples
    --------
    >>> parse_roles(["reader:weather*", "sql"])
    [['reader', 'weather*'], ['sql', '*']]
    """
    found = []
    for text in roles:
        role, _, pattern = text.partition(":")
        if role not in ROLES:
            raise InvalidInput(f'"{role}" is no role.{did_you_mean(role, ROLES)}')
        found.append([role, pattern or EVERYTHING])
    if not found:
        raise InvalidInput(f"A key needs a role, one of {', '.join(ROLES)}.")
    return found


def _checked_name(name: str) -> str:
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise InvalidInput("A key's name is 1 to 64 printable characters.")
    return name


def _parts(credentials: str) -> tuple[str, str]:
    parts = credentials.split("_", 2)
    if len(parts) != 3 or parts[0] != PREFIX or not parts[1].isalnum() or len(parts[1]) > 64:
        raise AccessDenied(_NOT_VALID)
    return parts[1], parts[2]


def _new_secret(expires_in: str | None) -> tuple[str, dict[str, Any]]:
    secret = secrets.token_urlsafe(32)
    lasts = None if expires_in is None else duration_us(expires_in, what="expires_in")
    expires_us = None if lasts is None else to_us(format_us(system_clock() + lasts))
    return secret, {"sha256": _digest(secret), "expires_us": expires_us}


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _require_secret(facts: dict[str, Any], secret: str) -> None:
    given, now_us = _digest(secret), system_clock()
    for kept in facts["secrets"]:
        live = kept["expires_us"] is None or now_us < kept["expires_us"]
        if hmac.compare_digest(given, kept["sha256"]) and live:
            return
    raise AccessDenied(_NOT_VALID)


def _shown(key_id: str, facts: dict[str, Any]) -> dict[str, Any]:
    expiries = [kept["expires_us"] for kept in facts["secrets"]]
    return {
        "id": key_id,
        "name": facts["name"],
        "roles": [f"{role}:{pattern}" for role, pattern in facts["roles"]],
        "created_at": facts["created_at"],
        "expires_at": [None if us is None else format_us(us) for us in expiries],
    }
