"""Documents as users of the engine see them: each call one transaction.

``store.documents`` is the memory of what stands on the store (training, batch inference,
monitoring): model versions, jobs, runs, baselines.  A kind and a name lead to a JSON object::

    store.documents.append("model-version", "late", {...})       late/00000001, late/00000002 ...
    store.documents.update("job", "train-7", lambda job: {**job, "status": "Completed"})

A call returns when the change is as durable as the store is.  A change is a function of the
document as it is in the transaction, so two processes cannot overwrite each other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from featurestore.errors import InvalidInput
from featurestore.storage import documents

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurestore.engine.database import Database
    from featurestore.engine.writer import Commit
    from featurestore.storage.documents import Document

_DIGITS = 8


class Documents:
    """The documents of a store; made by :attr:`featurestore.FeatureStore.documents`.

    Examples
    --------
    >>> import tempfile, featurestore as fs
    >>> with fs.open(tempfile.mkdtemp()) as store:
    ...     number = store.documents.append("note", "a", {"text": "first"})
    ...     (number, store.documents.get("note", "a/00000001"))
    (1, {'text': 'first'})
    """

    def __init__(
        self,
        readable: Callable[[], Database],
        writable: Callable[[], Database],
        now_us: Callable[[], int],
    ) -> None:
        self._readable = readable
        self._writable = writable
        #: The store's clock, in microseconds.
        self.now_us = now_us

    def get(self, kind: str, name: str) -> Document | None:
        """Return a document; None if there is none."""
        database = self._readable()
        with database.read() as txn:
            return documents.get(database.env, txn, kind, name)

    def every(self, kind: str, prefix: str = "") -> dict[str, Document]:
        """Return the documents of a kind whose name begins so, in the order of their names."""
        database = self._readable()
        with database.read() as txn:
            return dict(documents.every(database.env, txn, kind, prefix))

    def update(
        self, kind: str, name: str, change: Callable[[Document | None], Document | None]
    ) -> Document | None:
        """Replace a document by what ``change`` makes of it, in one transaction.

        Parameters
        ----------
        kind, name : str
            Which document.
        change : callable
            Is given the document, None if there is none; returns the new one, None to remove it.
            It may be called again, so it has no other effect.  What it raises is raised here, and
            nothing is changed then.

        Returns
        -------
        dict or None
            What is kept now: what ``change`` returned, as JSON gives it back.
        """

        def work(commit: Commit) -> Document | None:
            changed = change(documents.get(commit.env, commit.txn, kind, name))
            if changed is None:
                documents.delete(commit.env, commit.txn, kind, name)
                return None
            changed = as_json(changed, kind)
            documents.put(commit.env, commit.txn, kind, name, changed)
            return changed

        return self._writable().writer.call(work, self.now_us(), bytes_needed=4096)

    def append(self, kind: str, series: str, document: Document) -> int:
        """Add a document to a series; returns its number, from 1 without gaps.

        Its name is ``<series>/<number of eight digits>``.  It is numbered in the transaction that
        writes it: of two processes that append, each gets a number of its own.
        """
        document = as_json(document, kind)

        def work(commit: Commit) -> int:
            return append(commit, kind, series, document)

        return self._writable().writer.call(work, self.now_us(), bytes_needed=4096)


def append(commit: Commit, kind: str, series: str, document: Document) -> int:
    """Add a document to a series in a transaction; returns its number."""
    number = last_number(commit, kind, series) + 1
    documents.put(commit.env, commit.txn, kind, f"{series}/{number:0{_DIGITS}d}", document)
    return number


def last_number(commit: Commit, kind: str, series: str) -> int:
    """Return the number of the last document of a series, 0 if it has none."""
    names = [name for name, _ in documents.every(commit.env, commit.txn, kind, f"{series}/")]
    return int(names[-1].rpartition("/")[2]) if names else 0


def as_json(document: Document, kind: str) -> Document:
    """Return a document as JSON gives it back.

    Raises
    ------
    InvalidInput
        JSON cannot hold it.
    """
    try:
        written: Document = json.loads(json.dumps(document))
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"What is to be kept with this {kind} cannot be written as JSON: {error}."
        ) from error
    return written
