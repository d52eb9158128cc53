"""A store on a server: the verbs of :class:`~featurestore.FeatureStore` over HTTP.

::

    store = fs.connect("http://host:8080", api_key="fs_…")
    store.get_record("weather", "JFK")

    RemoteStore ─┬─ records     put, write, delete, ingest; get, batch get, scan, features
                 ├─ history     SQL, point-in-time join, changes, consumers
                 ├─ groups      definitions: feature groups, feature views
                 ├─ upkeep      flush, compact, verify, scrub, stat, erase, backup
                 ├─ documents   what training, batch inference and monitoring remember
                 └─ connection  requests and retries      tables   Arrow there and back

The verbs, their types, answers and errors are those of ``fs.open``: one suite of behaviour runs
against both.  Single records go as JSON in its exact form (:mod:`featurestore.wire`), tables as
Arrow streams.  Paths are read on this side; the server opens none.

A connection that breaks is made again, and a request that only reads is sent again.  A write is
sent again only if it carries a request id; without one an answer that was lost leaves the outcome
unknown, and the error says so.  So that this does not happen, every write but an ingest is given
a request id of its own where the caller gives none.
"""

from __future__ import annotations

from featurestore.remote.documents import RemoteDocuments
from featurestore.remote.history import History
from featurestore.remote.records import Records
from featurestore.remote.upkeep import Upkeep


class RemoteStore(Records, History, Upkeep):
    """A feature store on a server; made by :func:`featurestore.connect`.  A context manager.

    Safe to use from several threads.

    Examples
    --------
    >>> from featurestore.remote import RemoteStore
    >>> RemoteStore("http://127.0.0.1:8080")
    RemoteStore('http://127.0.0.1:8080')
    """

    @property
    def documents(self) -> RemoteDocuments:
        """What training, batch inference and monitoring remember: JSON by kind and name."""
        return RemoteDocuments(self)


def connect(
    url: str,
    api_key: str | None = None,
    *,
    timeout: float = 60.0,
    ca_file: str | None = None,
    read_only: bool = False,
) -> RemoteStore:
    """Connect to a store that ``featurestore serve`` serves.

    Parameters
    ----------
    url : str
        As ``"http://host:8080"``.
    api_key : str, optional
        As ``featurestore keys create`` has shown it.
    timeout : float
        Seconds without a sign of the server before a request is given up.
    ca_file : str, optional
        PEM file of the authorities to trust, for a certificate of your own.
    read_only : bool
        Refuse writes before they are sent.

    Raises
    ------
    Unreachable
        No server answers there.
    NotInstalled
        The extra ``remote`` is missing.

    Examples
    --------
    >>> connect("ftp://host")
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidInput: "ftp://host" is no address of a server; give \
"http://host:8080" or "https://…".
    """
    store = RemoteStore(url, api_key, timeout=timeout, ca_file=ca_file, read_only=read_only)
    try:
        store._request("GET", "/health")  # noqa: SLF001
    except BaseException:
        store.close()
        raise
    return store
