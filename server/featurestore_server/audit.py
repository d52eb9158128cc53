"""The log: who changed what, in the transaction of the change itself; who read, who was refused.

::

    audit   u64 number  ->  32-byte hash | JSON: at, who, verb, groups, first_seq, last_seq …

    hash of row n = SHA-256(hash of row n - 1 | JSON of row n)

A change's row is written by the commit that it tells of
(:func:`featurestore.engine.writer.witnessed`), so there is no change without a row and no row
without a change; a call that changed nothing, a replay or a put of what is there already, has
none.  Reads and refusals are counted, and written together every minute and at the end: a row for
each key and verb, with the number for each group.  A server that is killed loses the counts since.

Values and secrets are never in it.  Rows are only appended; each hash covers all rows before it,
so ``verify`` and ``scrub`` see any row changed or removed but the last ones, and a head that was
noted elsewhere shows that too.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.event_time import format_us, system_clock
from featurestore.storage import catalog, requests
from featurestore.storage.rows import GENESIS, chained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.writer import Commit
    from featurestore.storage.requests import Request

_COUNTS_MAX = 1000
_GROUP_MAX = 64
_NUMBER = struct.Struct(">Q")
_HASH_BYTES = len(GENESIS)


class Row(NamedTuple):
    """One row of the log."""

    number: int
    hash: bytes
    text: bytes

    @property
    def facts(self) -> dict[str, Any]:
        """What happened."""
        return dict(json.loads(self.text))

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return {"number": self.number, **self.facts, "hash": self.hash.hex()}


def append(commit: Commit, facts: dict[str, Any]) -> None:
    """Add a row in a transaction."""
    number, last = 0, GENESIS
    with commit.txn.cursor(db=commit.env.audit) as cursor:
        if cursor.last():
            number = _NUMBER.unpack(cursor.key())[0] + 1
            last = bytes(cursor.value())[:_HASH_BYTES]
    facts = {"at": format_us(commit.write_time_us), **facts}
    text = json.dumps(facts, separators=(",", ":")).encode()
    row = chained(last, text) + text
    commit.txn.put(_NUMBER.pack(number), row, append=True, db=commit.env.audit)


class Replayed(Exception):
    """The request was done before; ``result`` is what came of it then."""

    def __init__(self, result: Any) -> None:
        super().__init__(result)
        self.result = result


class Once:
    """Makes a change count once: its result is stored by its own first transaction.

    Parameters
    ----------
    request : Request
        Its id, whose it is, and a digest of what was asked.
    answer : callable
        Gives the result, JSON, from the catalog as the change has left it.
    """

    def __init__(self, request: Request, answer: Callable[[Commit], Any]) -> None:
        self._request = request
        self._answer = answer
        self._by = secrets.token_hex(8)

    def begin(self, commit: Commit) -> None:
        """Stop a change that was made before.

        Raises
        ------
        Replayed
            With its result.
        """
        row = requests.find(commit.env, commit.txn, self._request, commit.write_time_us)
        # What this very change has stored lets its later transactions pass.
        if row is not None and row["by"] != self._by:
            raise Replayed(row["result"])

    def end(self, commit: Commit) -> None:
        """Store what came of it."""
        env, txn, now_us = commit.env, commit.txn, commit.write_time_us
        if requests.find(env, txn, self._request, now_us) is None:
            row = {"result": self._answer(commit), "by": self._by}
            requests.save(env, txn, self._request, now_us, row)


class Witness:
    """Adds a row behind the work of each transaction of one call, if that changed anything.

    Parameters
    ----------
    facts : dict
        Who does what: ``who``, ``key_id``, ``verb``, ``groups``, ``request_id``.
    always : bool
        Also for work that moves neither seq nor catalog, such as a new API key.
    once : Once, optional
        Does nothing that was done before under the same request id.
    """

    def __init__(
        self, facts: dict[str, Any], *, always: bool = False, once: Once | None = None
    ) -> None:
        self._facts = facts
        self._always = always
        self._once = once

    @contextlib.contextmanager
    def __call__(self, commit: Commit) -> Iterator[None]:
        """Stand around the work of one transaction."""
        if self._once is not None:
            self._once.begin(commit)
        seq, version = commit.last_seq, catalog.version(commit.env, commit.txn)
        yield
        moved = commit.last_seq > seq
        if moved or self._always or catalog.version(commit.env, commit.txn) != version:
            seqs = {"first_seq": seq + 1, "last_seq": commit.last_seq} if moved else {}
            append(commit, {**self._facts, **seqs})
        if self._once is not None:
            self._once.end(commit)


class Counts:
    """Reads and refusals since they were last written, counted by whoever has asked."""

    def __init__(self) -> None:
        #: By key id, key name, verb, group, and whether it was allowed.
        self.seen: dict[tuple[str, str, str, str, bool], int] = {}
        self._since_us = system_clock()

    def add(self, key_id: str, name: str, verb: str, group: str, *, allowed: bool) -> None:
        """Count one."""
        asked = (key_id, name, verb, group[:_GROUP_MAX], allowed)
        seen = self.seen
        if asked not in seen and len(seen) >= _COUNTS_MAX:
            asked = (key_id, name, verb, "…", allowed)  # who makes names up does not fill the log
        seen[asked] = seen.get(asked, 0) + 1

    def write(self, database: Database, now_us: int) -> int:
        """Write the counts as rows, in a commit of the store's clock; returns how many."""
        seen, self.seen = self.seen, {}
        since_us, self._since_us = self._since_us, system_clock()
        if not seen:
            return 0
        by_verb: dict[tuple[str, str, str, bool], dict[str, int]] = {}
        for (key_id, name, verb, group, allowed), count in seen.items():
            by_verb.setdefault((key_id, name, verb, allowed), {})[group] = count
        told = [
            {
                "who": name,
                "key_id": key_id,
                "verb": verb,
                "result": "allowed" if allowed else "refused",
                "since": format_us(since_us),
                "count": sum(counts.values()),
                "groups": sorted(counts),
                "counts": counts,
            }
            for (key_id, name, verb, allowed), counts in sorted(by_verb.items())
        ]

        def work(commit: Commit) -> None:
            for facts in told:
                append(commit, facts)

        database.writer.call(work, now_us, bytes_needed=512 * len(told) + 64 * len(seen))
        return len(told)


def rows(database: Database, after: int = -1, limit: int = 1000) -> list[Row]:
    """Return rows behind a number, in order."""
    with database.read() as txn:
        return list(_rows(database, txn, after, limit))


def _rows(database: Database, txn: Any, after: int, limit: int) -> Iterator[Row]:
    with txn.cursor(db=database.env.audit) as cursor:
        if not cursor.set_range(_NUMBER.pack(after + 1)):
            return
        for count, (key, value) in enumerate(cursor):
            if count == limit:
                return
            data = bytes(value)
            yield Row(_NUMBER.unpack(key)[0], data[:_HASH_BYTES], data[_HASH_BYTES:])


def broken_at(found: Sequence[Row], before: bytes = GENESIS) -> int | None:
    """Return the number of the first of some rows whose hash is not that of what it holds.

    Examples
    --------
    >>> first = Row(0, chained(GENESIS, b"{}"), b"{}")
    >>> broken_at([first]), broken_at([first._replace(text=b'{"who":"me"}')])
    (None, 0)
    """
    for row in found:
        if row.hash != chained(before, row.text):
            return row.number
        before = row.hash
    return None
