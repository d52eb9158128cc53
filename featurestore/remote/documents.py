"""Documents over HTTP: what training, batch inference and monitoring remember of a store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from featurestore import wire
from featurestore.engine.documents import as_json
from featurestore.errors import StaleUpdate
from featurestore.event_time import to_us

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurestore.remote.connection import Connection
    from featurestore.storage.documents import Document

_TEXT = ("as_text", "true")


class RemoteDocuments:
    """The documents of a store on a server: :class:`~featurestore.engine.documents.Documents`.

    A change is made here, of the document as it was read, and stored if that is still what it is;
    else it is made again.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def now_us(self) -> int:
        """Return the store's clock, in microseconds."""
        found = self._get("clock", "now")["now"]
        return to_us(wire.read_time(found))

    def get(self, kind: str, name: str) -> Document | None:
        """Return a document; None if there is none."""
        found: Document | None = _in(self._get(kind, name)["document"])
        return found

    def every(self, kind: str, prefix: str = "") -> dict[str, Document]:
        """Return the documents of a kind whose name begins so, in the order of their names."""
        found: dict[str, Any] = {}
        query = [("kind", kind), ("prefix", prefix), ("limit", "10000"), _TEXT]
        after: list[tuple[str, str]] = []
        while True:
            page = self._connection._json("GET", "/v1/documents", query=[*query, *after])  # noqa: SLF001
            found |= {name: _in(one) for name, one in page["documents"].items()}
            if not page["more"]:
                return found
            after = [("after", list(found)[-1])]

    def update(
        self, kind: str, name: str, change: Callable[[Document | None], Document | None]
    ) -> Document | None:
        """Replace a document by what ``change`` makes of it; None of it removes it.

        ``change`` may be called again, when somebody else has changed the document meanwhile.
        """
        self._connection._require_writable()  # noqa: SLF001
        while True:
            found = self._get(kind, name)
            changed = change(_in(found["document"]))
            kept = None if changed is None else as_json(changed, kind)
            asked = {"was": found["digest"], "document": _out(kept)}
            try:
                self._connection._write("PUT", "/v1/document", asked, query=_named(kind, name))  # noqa: SLF001
            except StaleUpdate:
                continue
            return kept

    def append(self, kind: str, series: str, document: Document) -> int:
        """Add a document to a series; returns its number, from 1 without gaps."""
        asked = {"document": _out(as_json(document, kind))}
        query = [("kind", kind), ("series", series)]
        return int(self._connection._write("POST", "/v1/documents", asked, query=query)["number"])  # noqa: SLF001

    def _get(self, kind: str, name: str) -> dict[str, Any]:
        query = [*_named(kind, name), _TEXT]
        return dict(self._connection._json("GET", "/v1/document", query=query))  # noqa: SLF001


def _named(kind: str, name: str) -> list[tuple[str, str]]:
    return [("kind", kind), ("name", name)]


def _out(document: Any) -> str | None:
    """Return a document as text: Python's JSON has numbers that JSON has not."""
    return None if document is None else json.dumps(document)


def _in(text: str | None) -> Any:
    return None if text is None else json.loads(text)
