"""The one door to the store: who asks, may they, and what the log is told of it.

Every surface, this one's HTTP and boto3's alike, comes to the store by :class:`Door`: who holds the
credentials (:mod:`featurestore_server.keys`), whether a role allows the verb
(:mod:`featurestore_server.roles`), and the log's row in the transaction of the change
(:mod:`featurestore_server.audit`).
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from featurestore.engine.writer import witnessed
from featurestore.storage import requests
from featurestore.storage.requests import Request, content_digest
from featurestore_server.audit import Counts, Once, Replayed, Witness
from featurestore_server.keys import Keys
from featurestore_server.roles import (
    ANONYMOUS,
    COUNTED,
    EVERYTHING,
    ROLES,
    TOLD,
    VERBS,
    Action,
    Caller,
    parse_roles,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import featurestore as fs
    from featurestore.engine.database import Database
    from featurestore.engine.writer import Commit

__all__ = [
    "ANONYMOUS",
    "EVERYTHING",
    "ROLES",
    "VERBS",
    "Action",
    "Caller",
    "Door",
    "Keys",
    "nothing",
    "parse_roles",
]


class Door:
    """The way to the store, for every surface.

    Attributes
    ----------
    database : Database
        The store's folder as the engine sees it, for look-ups that answer bytes.
    counts : Counts
        Reads and refusals that the log is still to be told of.
    """

    def __init__(self, store: fs.FeatureStore, database: Database, key_rate: float = 0.0) -> None:
        self._store = store
        self.database = database
        self.counts = Counts()
        self.keys = Keys(database, self.counts, key_rate)

    def caller(self, credentials: str | None) -> Caller:
        """Return who holds an API key.

        Raises
        ------
        NotAuthenticated
            There is none, or it is not, or no longer, valid.  Why is not told.
        TooManyRequests
            It asks more often than it may.
        """
        return self.keys.caller(credentials)

    def signer(self, key_id: str) -> tuple[Caller, list[str]] | None:
        """Return who holds an access key, and the secrets that are valid for it now.

        Raises
        ------
        TooManyRequests
            It asks more often than it may.
        """
        return self.keys.signer(key_id)

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
        self,
        caller: Caller,
        verb: str,
        groups: Sequence[str],
        request_id: str | None = None,
        once: Once | None = None,
    ) -> Iterator[fs.FeatureStore]:
        """Give the store for any verb; its changes are told of in the log.

        Parameters
        ----------
        once : Once, optional
            Makes a verb that knows no request ids count once.

        Raises
        ------
        AccessDenied
            No role of the caller allows it.
        Replayed
            It was done before.
        """
        caller.require(verb, groups)
        told = verb in TOLD
        if VERBS[verb] in COUNTED and not told and once is None:
            yield self._store
            return
        facts: dict[str, Any] = {"who": caller.name, "key_id": caller.key_id, "verb": verb}
        facts |= {"groups": sorted(set(groups))}
        if request_id is not None:
            facts["request_id"] = request_id
        with witnessed(Witness(facts, always=told, once=once)):
            yield self._store

    def once(
        self,
        caller: Caller,
        verb: str,
        request_id: str | None,
        asked: Any,
        act: Callable[[Once | None], Any],
        answer: Callable[[Commit], Any],
    ) -> Any:
        """Do a change, or return what came of it when it was done under the same request id.

        Parameters
        ----------
        asked : object
            What is asked, JSON: under the same id it has to be the same.
        act : callable
            Makes the change, by :meth:`enter` with the :class:`Once` it is given.
        answer : callable
            As of :class:`Once`.

        Raises
        ------
        RequestMismatch
            The id was used for something else.
        """
        if request_id is None:
            return act(None)
        request = _request(caller, verb, request_id, asked)
        row = self._found(request)
        if row is not None:
            return row["result"]
        try:
            return act(Once(request, answer))
        except Replayed as replayed:  # made by whoever sent it at the same moment
            return replayed.result

    def after(
        self,
        caller: Caller,
        verb: str,
        request_id: str | None,
        asked: Any,
        work: Callable[[], Any],
    ) -> Any:
        """Do work that is no harm twice, and store its result behind it; or return that."""
        if request_id is None:
            return work()
        request = _request(caller, verb, request_id, asked)
        row = self._found(request)
        if row is not None:
            return row["result"]
        result = work()

        def save(commit: Commit) -> None:
            env, txn, now_us = commit.env, commit.txn, commit.write_time_us
            requests.save(env, txn, request, now_us, {"result": result, "by": ""})

        self.database.writer.call(save, self.now_us(), bytes_needed=4096)
        return result

    def _found(self, request: Request) -> dict[str, Any] | None:
        with self.database.read() as txn:
            return requests.find(self.database.env, txn, request, self.now_us())


def _request(caller: Caller, verb: str, request_id: str, asked: Any) -> Request:
    """Return a request as it is stored: ids of one key do not meet those of another."""
    text = json.dumps(asked, sort_keys=True, default=str).encode()
    return Request(f"{verb}/{caller.key_id}", request_id, content_digest(text))


def nothing(_commit: Commit) -> None:
    """Be the answer of a change that answers nothing."""
