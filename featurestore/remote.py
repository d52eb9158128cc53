"""A store on a server: the verbs of :class:`~featurestore.FeatureStore` over HTTP.

::

    store = fs.connect("http://host:8080", api_key="fs_…")
    store.get_record("weather", "JFK")

The verbs, their types, answers and errors are those of ``fs.open``: one suite of behaviour runs
against both.  Single records go as JSON in its exact form (:mod:`featurestore.wire`), tables as
Arrow streams.  Paths are read on this side; the server opens none.

A connection that breaks is made again, and a request that only reads is sent again.  A write is
sent again only if it carries a request id; without one an answer that was lost leaves the outcome
unknown, and the error says so.  So that this does not happen, a put, a write and a delete are
given a request id of their own where the caller gives none.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode, urlsplit

from featurestore import errors, wire
from featurestore.errors import (
    FeatureStoreError,
    InvalidInput,
    InvalidRecord,
    NotInstalled,
    OutcomeUnknown,
    ReadOnlyStore,
    StoreClosed,
    UnknownFeatureGroup,
    Unreachable,
    did_you_mean,
)
from featurestore.event_time import duration_us, format_duration, format_us, to_us
from featurestore.feature_view import FeatureView, expand, result_columns
from featurestore.results import IngestResult, PutResult
from featurestore.schema import FeatureGroup, checked_retention_us, define

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta, tzinfo

    import pyarrow as pa

    from featurestore.dtypes import DType

_KEEP: Any = object()
_TRIES = 3
_UPLOAD_ROWS = 65_536
_JSON = "application/json"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


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


class RemoteStore:
    """A feature store on a server; made by :func:`featurestore.connect`.  A context manager.

    Safe to use from several threads.

    Examples
    --------
    >>> from featurestore.remote import RemoteStore
    >>> RemoteStore("http://127.0.0.1:8080")
    RemoteStore('http://127.0.0.1:8080')
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        ca_file: str | None = None,
        read_only: bool = False,
    ) -> None:
        try:
            import urllib3
        except ImportError:
            raise NotInstalled("connect()", "remote") from None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(
                f'"{url}" is no address of a server; give "http://host:8080" or "https://…".'
            )
        self._url = url.rstrip("/")
        self._read_only = read_only
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        tls = {"ca_certs": ca_file} if ca_file is not None else {}
        self._http: Any = urllib3.PoolManager(
            maxsize=16, timeout=timeout, retries=False, headers=self._headers, **tls
        )
        self._guard = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteStore({self._url!r})"

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._url

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return self._http is None

    def close(self) -> None:
        """Send what is queued and give the connections up; calling it again does nothing."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        http, self._http = self._http, None
        if http is not None:
            http.clear()

    # ── feature groups ───────────────────────────────────────────────────────────────────────

    def create_feature_group(
        self,
        name: str,
        *,
        record_identifier: str | Sequence[str],
        event_time: str,
        features: Mapping[str, str | DType] | pa.Schema | None = None,
        like: Any = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        exist_ok: bool = False,
        ttl: str | timedelta | None = None,
        max_future: str | timedelta | None = "1d",
        retention: str | timedelta | None = None,
        online: bool = True,
        offline: bool = True,
        feature_descriptions: Mapping[str, str] | None = None,
    ) -> FeatureGroup:
        """Define a feature group; see :meth:`FeatureStore.create_feature_group`."""
        self._require_writable()
        wanted = define(
            name,
            record_identifier=record_identifier,
            event_time=event_time,
            features=features,
            like=like,
            id=0,
            ttl=ttl,
            max_future=max_future,
            retention=retention,
            online=online,
            offline=offline,
            description=description,
            tags=tags,
            feature_descriptions=feature_descriptions,
        )
        asked = {
            "name": wanted.name,
            "record_identifier": list(wanted.record_identifier),
            "event_time": wanted.event_time,
            "features": {f.name: str(f.dtype) for f in wanted.features},
            "description": wanted.description,
            "tags": dict(wanted.tags),
            "exist_ok": exist_ok,
            "ttl": _duration(wanted.ttl_us),
            "max_future": _duration(wanted.max_future_us),
            "retention": _duration(wanted.retention_us),
            "online": online,
            "offline": offline,
            "feature_descriptions": {f.name: f.description for f in wanted.features},
        }
        return FeatureGroup.from_json(self._json("POST", "/v1/groups", asked))

    def list_feature_groups(self) -> list[FeatureGroup]:
        """Return all feature groups that the API key may see, by name."""
        return [FeatureGroup.from_json(group) for group in self._json("GET", "/v1/groups")]

    def describe_feature_group(self, name: str) -> FeatureGroup:
        """Return the definition of a feature group."""
        return FeatureGroup.from_json(self._json("GET", self._group(name)))

    def search(
        self, text: str = "", *, tags: Mapping[str, str] | None = None
    ) -> list[FeatureGroup]:
        """Return the groups that mention a text and carry some tags."""
        query = [("text", text), *(("tag", f"{n}={v}") for n, v in (tags or {}).items())]
        found = self._json("GET", "/v1/groups", query=query)
        return [FeatureGroup.from_json(group) for group in found]

    def update_feature_group(
        self,
        name: str,
        *,
        add_features: Mapping[str, str | DType] | None = None,
        feature_descriptions: Mapping[str, str] | None = None,
        feature_tags: Mapping[str, Mapping[str, str]] | None = None,
        ttl: str | timedelta | None = _KEEP,
        max_future: str | timedelta | None = _KEEP,
        retention: str | timedelta | None = _KEEP,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> FeatureGroup:
        """Add features, or change settings for later writes."""
        self._require_writable()
        changes: dict[str, Any] = {}
        if add_features is not None:
            changes["add_features"] = {n: str(dtype) for n, dtype in add_features.items()}
        if feature_descriptions is not None:
            changes["feature_descriptions"] = dict(feature_descriptions)
        if feature_tags is not None:
            changes["feature_tags"] = {name: dict(tags) for name, tags in feature_tags.items()}
        if ttl is not _KEEP:
            changes["ttl"] = None if ttl is None else _duration(duration_us(ttl, what="ttl"))
        if max_future is not _KEEP:
            changes["max_future"] = (
                None
                if max_future is None
                else _duration(duration_us(max_future, what="max_future"))
            )
        if retention is not _KEEP:
            changes["retention"] = _duration(checked_retention_us(retention))
        if description is not None:
            changes["description"] = description
        if tags is not None:
            changes["tags"] = dict(tags)
        return FeatureGroup.from_json(self._json("PATCH", self._group(name), changes))

    def delete_feature_group(self, name: str) -> None:
        """Delete a feature group with all its records, online and offline."""
        self._require_writable()
        self._request("DELETE", self._group(name))

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def put_record(
        self,
        name: str,
        record: Mapping[str, Any],
        *,
        ttl: str | timedelta | None = None,
        target_stores: Iterable[str] = ("online", "offline"),
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> PutResult:
        """Put one record, online and into history, in one transaction."""
        self._require_writable()
        asked = {
            "record": _record(name, record),
            "ttl": None if ttl is None else _duration(duration_us(ttl, what="ttl")),
            "target_stores": _names(target_stores),
            "tz": _zone(tz),
        }
        found = self._write("POST", f"{self._group(name)}/records", asked, request_id)
        return wire.read_put_result(found)

    def write(
        self,
        records: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> list[PutResult]:
        """Put records of any number of groups in one transaction: all of them or none."""
        self._require_writable()
        listed = [{"group": name, "record": _record(name, record)} for name, record in records]
        if not listed:
            return []
        asked = {"records": listed, "tz": _zone(tz)}
        found = self._write("POST", "/v1/write", asked, request_id)
        return [wire.read_put_result(one) for one in found]

    def update_record(
        self,
        name: str,
        key: Any,
        changes: Mapping[str, Any],
        *,
        ttl: str | timedelta | None = None,
        target_stores: Iterable[str] = ("online", "offline"),
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> PutResult:
        """Change some features of the latest record of a key; the others stay as they are."""
        self._require_writable()
        asked = {
            "changes": _record(name, changes),
            "ttl": None if ttl is None else _duration(duration_us(ttl, what="ttl")),
            "target_stores": _names(target_stores),
            "tz": _zone(tz),
        }
        query = [("key_json", json.dumps(wire.exact(key)))]
        found = self._write("PATCH", f"{self._group(name)}/record", asked, request_id, query)
        return wire.read_put_result(found)

    def delete_record(
        self,
        name: str,
        key: Any,
        *,
        event_time: Any,
        hard: bool = False,
        target_stores: Iterable[str] = ("online", "offline"),
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> PutResult:
        """Delete a record from an event time on; before it, history stands."""
        self._require_writable()
        query = [("key_json", json.dumps(wire.exact(key)))]
        query.append(("event_time", json.dumps(wire.exact(event_time))))
        query += [("hard", "true")] if hard else []
        query += [("target_stores", store) for store in _names(target_stores)]
        query += [("tz", str(zone))] if (zone := _zone(tz)) is not None else []
        found = self._write("DELETE", f"{self._group(name)}/record", None, request_id, query)
        return wire.read_put_result(found)

    def put_record_async(
        self, name: str, record: Mapping[str, Any], **options: Any
    ) -> Future[PutResult]:
        """Put one record without waiting: a thread sends it; otherwise like :meth:`put_record`.

        Writes are sent one after the other, so they are committed in the order of the calls.
        """
        return self._sender().submit(self.put_record, name, dict(record), **options)

    def write_async(
        self, records: Iterable[tuple[str, Mapping[str, Any]]], **options: Any
    ) -> Future[list[PutResult]]:
        """Do :meth:`write` without waiting; see :meth:`put_record_async`."""
        return self._sender().submit(self.write, list(records), **options)

    def update_record_async(
        self, name: str, key: Any, changes: Mapping[str, Any], **options: Any
    ) -> Future[PutResult]:
        """Do :meth:`update_record` without waiting; see :meth:`put_record_async`."""
        return self._sender().submit(self.update_record, name, key, dict(changes), **options)

    def delete_record_async(
        self, name: str, key: Any, *, event_time: Any, **options: Any
    ) -> Future[PutResult]:
        """Do :meth:`delete_record` without waiting; see :meth:`put_record_async`."""
        return self._sender().submit(
            self.delete_record, name, key, event_time=event_time, **options
        )

    def _sender(self) -> ThreadPoolExecutor:
        with self._guard:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(1, "featurestore-remote")
            return self._threads

    def ingest(
        self,
        name: str,
        data: Any,
        *,
        id: str | None = None,  # noqa: A002  the word of the field
        tz: str | tzinfo | None = None,
        unit: str | None = None,
        write_time: str | None = None,
        atomic: bool = False,
        max_lock: str | timedelta | None = None,
        on_error: str = "raise",
        target_stores: Iterable[str] = ("online", "offline"),
        progress: Callable[[int], object] | None = None,
    ) -> IngestResult:
        """Put many records: a table, a frame, files, or a stream of any length.

        Rows in memory are checked whole before any is stored, a stream chunk by chunk, as
        :meth:`FeatureStore.ingest` does; paths are read here.  ``progress`` is called with the
        rows sent.
        """
        if on_error not in ("raise", "skip"):
            raise InvalidInput(f'on_error is "raise" or "skip"; got {on_error!r}.')
        self._require_writable()
        from featurestore.engine import sources

        group = self.describe_feature_group(name)
        whole = sources.is_in_memory(data) or atomic
        query = [("whole", "true")] if whole else []
        options = {"id": id, "tz": _zone(tz), "unit": unit, "write_time": write_time}
        query += [(option, value) for option, value in options.items() if value is not None]
        query += [("atomic", "true")] if atomic else []
        if max_lock is not None:
            query.append(("max_lock", str(_duration(duration_us(max_lock, what="max_lock")))))
        query += [("on_error", on_error), ("exact", "true")]
        query += [("target_stores", one) for one in _names(target_stores)]
        kind, body = _upload(group, data, progress)
        found = self._request(
            "POST", f"{self._group(name)}/ingest", query=query, body=body, kind=kind, again=False
        )
        return IngestResult(**json.loads(found.data))

    # ── reading online ───────────────────────────────────────────────────────────────────────

    def get_record(
        self,
        name: str,
        key: Any,
        features: Sequence[str] | None = None,
        *,
        with_status: bool = False,
    ) -> Any:
        """Return the latest record of a key."""
        query = [("key_json", json.dumps(wire.exact(key))), ("exact", "true")]
        query += [("feature", feature) for feature in _names(features or ())]
        found = wire.read_record_result(
            self._json("GET", f"{self._group(name)}/record", query=query)
        )
        return found if with_status else found.record

    def batch_get_record(
        self, keys: Mapping[str, Sequence[Any]], features: Sequence[str] | None = None
    ) -> dict[str, pa.Table]:
        """Return the latest records of many keys, of several groups at one moment."""
        listed = {}
        for name, several in keys.items():
            if isinstance(several, (str, bytes, Mapping)) or not hasattr(several, "__iter__"):
                raise InvalidInput(
                    f'batch_get_record takes a list of keys for "{name}"; got {several!r}. '
                    "For a single key use get_record."
                )
            plain = several.to_pylist() if hasattr(several, "to_pylist") else list(several)
            listed[name] = [wire.exact(key) for key in plain]
        asked: dict[str, Any] = {"keys": listed}
        if features is not None:
            asked["features"] = _names(features)
        answer = self._request(
            "POST", "/v1/batch-get", asked, query=[("exact", "true")], accept=wire.ARROW
        )
        return dict(zip(listed, _tables(answer.data), strict=True))

    def scan(
        self,
        name: str,
        features: Sequence[str] | None = None,
        *,
        after: str = "",
        page_size: int = 1000,
    ) -> RemoteScan:
        """Return all live records of a group, read page by page in key-hash order."""
        group = self.describe_feature_group(name)
        names = None if features is None else _names(features)
        for feature in names or ():
            group.feature(feature)
        return RemoteScan(self, name, names, after, page_size)

    # ── reading history ──────────────────────────────────────────────────────────────────────

    def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        tables: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Run a SELECT over feature groups, fresh to the last commit."""
        values = None if params is None else wire.exact(params)
        if tables is None:
            asked = {"query": query, "params": values}
            return self._table("POST", "/v1/sql", asked)
        words = [("query", query)] + ([] if values is None else [("params", json.dumps(values))])
        body = b"".join(_streams(tables))
        return self._table("POST", "/v1/sql", query=words, body=body, kind=wire.ARROW)

    def point_in_time(
        self,
        labels: Any,
        features: Any,
        label_time: str | None = None,
        *,
        as_of: int | datetime | None = None,
        known: str = "event_time",
        tz: str | tzinfo | None = None,
        with_status: bool = False,
    ) -> Any:
        """Join each label with what was known at its moment.

        Only the columns that the join reads are sent; what comes back stands beside the caller's
        own table.
        """
        from featurestore.engine import frames

        lookups = expand(features, self.describe_feature_view)
        frame = frames.accept(labels, "labels")
        sent = self._sent(frame, lookups, [label_time or "event_time"], what="labels")
        query = [("features", json.dumps(lookup.to_json())) for lookup in lookups]
        query += [("known", known), ("with_status", str(with_status).lower())]
        query += [] if label_time is None else [("label_time", label_time)]
        query += [] if (zone := _zone(tz)) is None else [("tz", zone)]
        if as_of is not None:
            whole = isinstance(as_of, int) and not isinstance(as_of, bool)
            seq = str(as_of) if whole else format_us(to_us(as_of, what="as_of"))
            query.append(("as_of", seq))
        body = b"".join(_streams({"": sent}))
        found = self._table("POST", "/v1/point-in-time", query=query, body=body, kind=wire.ARROW)
        return _beside(frame, found, sent.num_columns)

    def _sent(self, frame: Any, lookups: Any, more: list[str], *, what: str) -> pa.Table:
        """Return the columns of a caller's table that keys and times are read from."""
        import pyarrow as pa

        from featurestore.engine import frames

        names = dict.fromkeys(lookup.group for lookup in lookups)
        groups = {name: self.describe_feature_group(name) for name in names}
        taken = frames.column_names(frame)
        result_columns(lookups, groups, taken=taken)
        wanted = [c for lookup in lookups for c in lookup.keys(groups[lookup.group]).values()]
        columns = {
            name: frames.column(frame, name, what=what)
            for name in dict.fromkeys([*wanted, *more])
            if name in taken
        }
        if not columns:
            columns = {"": pa.chunked_array([pa.nulls(frames.row_count(frame))])}
        return pa.table(columns)

    def snapshot(self) -> int:
        """Return the seq of the last commit: a token for ``as_of=`` and ``since=``."""
        return int(self._json("GET", "/v1/snapshot")["seq"])

    def changes(
        self, since: int | None = None, groups: Sequence[str] | None = None, *, follow: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield every accepted record after a seq, in commit order.

        With ``follow`` it goes on as records are accepted, and does not end by itself.
        """
        query = [("since", str(since or 0)), ("follow", str(follow).lower()), ("exact", "true")]
        query += [] if groups is None else [("group", name) for name in _names(groups)]
        answer = self._request("GET", "/v1/changes", query=query, stream=True)
        try:
            for line in _lines(answer):
                if line.startswith(b"data: "):
                    yield wire.from_exact(json.loads(line[6:]))
        finally:
            answer.close()

    # ── feature views ────────────────────────────────────────────────────────────────────────

    def create_feature_view(
        self, name: str, features: Any, *, description: str = "", exist_ok: bool = False
    ) -> FeatureView:
        """Name a selection of features, for joins and lookups alike."""
        self._require_writable()
        lookups = expand(features, self.describe_feature_view)
        view = FeatureView(name, lookups, description)
        asked = {
            "name": view.name,
            "features": [lookup.to_json() for lookup in lookups],
            "description": description,
            "exist_ok": exist_ok,
        }
        return FeatureView.from_json(self._json("POST", "/v1/feature-views", asked))

    def list_feature_views(self) -> list[FeatureView]:
        """Return all feature views, by name."""
        return [FeatureView.from_json(view) for view in self._json("GET", "/v1/feature-views")]

    def describe_feature_view(self, name: str) -> FeatureView:
        """Return a feature view."""
        return FeatureView.from_json(self._json("GET", f"/v1/feature-views/{_word(name)}"))

    def delete_feature_view(self, name: str) -> None:
        """Delete a feature view."""
        self._require_writable()
        self._request("DELETE", f"/v1/feature-views/{_word(name)}")

    def get_features(self, view: Any, entities: Any, *, with_status: bool = False) -> Any:
        """Return the latest features of a view, all groups at one moment."""
        if isinstance(entities, dict) and not any(map(_is_column, entities.values())):
            asked = {
                "features": _references(view),
                "entities": wire.exact(entities),
                "with_status": with_status,
            }
            found = self._json("POST", "/v1/get-features", asked, query=[("exact", "true")])
            return wire.from_exact(found)
        from featurestore.engine import frames

        lookups = expand(view, self.describe_feature_view)
        frame = frames.accept(entities, "entities")
        sent = self._sent(frame, lookups, [], what="entities")
        query = [("features", json.dumps(lookup.to_json())) for lookup in lookups]
        query.append(("with_status", str(with_status).lower()))
        body = b"".join(_streams({"": sent}))
        found = self._table("POST", "/v1/get-features", query=query, body=body, kind=wire.ARROW)
        return _beside(frame, found, sent.num_columns)

    # ── upkeep ───────────────────────────────────────────────────────────────────────────────

    def flush(self, name: str | None = None) -> int:
        """Move the journal of one group, or of all, into history files; returns rows moved."""
        self._require_writable()
        return int(self._json("POST", "/v1/flush", query=_one(name))["rows"])

    def compact(
        self, name: str | None = None, *, progress: Callable[[int], object] | None = None
    ) -> int:
        """Merge history files into disjoint cells; returns rows written again."""
        self._require_writable()
        found = self._job("/v1/compact", _one(name), progress)
        return int(found["rows"])

    def verify(self) -> list[Any]:
        """Check the whole store against itself; returns the faults, none when it is sound."""
        from featurestore.engine.verify.findings import Fault

        return [Fault(**fault) for fault in self._job("/v1/verify", [], None)["faults"]]

    def stat(self) -> dict[str, Any]:
        """Return sizes and counts: what is where, and how fresh."""
        facts = dict(self._json("GET", "/v1/stat"))
        facts["last_commit"] = wire.read_time(facts["last_commit"])
        return facts

    def backup(self, path: Any) -> int:
        """Refuse: a copy of the store is made where the store is."""
        raise InvalidInput(
            f"A server writes no paths that a client names ({path}). Run backup() on the machine "
            "of the store."
        )

    def erase(self, name: str, key: Any) -> Any:
        """Refuse: an erasure is made where the store, its backups and its readers are known."""
        del key  # nobody else's to know
        raise InvalidInput(
            f'"{name}" is not erased from over HTTP. Run `featurestore erase` on the machine of '
            "the store; it may be in use."
        )

    def scrub(self, *, progress: Callable[[int, int], object] | None = None) -> list[Any]:
        """Refuse: every byte is read where it lies."""
        del progress
        raise InvalidInput("Run `featurestore scrub` on the machine of the store.")

    def _job(
        self, path: str, query: list[tuple[str, str]], progress: Callable[[int], object] | None
    ) -> dict[str, Any]:
        """Begin long work, wait for it, and return what came of it."""
        import time

        begun = self._request("POST", path, query=query, headers={"prefer": "respond-async"})
        href = json.loads(begun.data)["href"]
        pause = 0.01
        while True:
            state = self._json("GET", href)
            if progress is not None and state["rows"]:
                progress(state["rows"])
            if state["state"] == "done":
                return dict(state["result"])
            if state["state"] == "failed":
                raise _raised(state["problem"])
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    # ── requests ─────────────────────────────────────────────────────────────────────────────

    def _require_writable(self) -> None:
        if self._read_only:
            raise ReadOnlyStore(f"{self._url} is connected to read-only. Connect without it.")

    def _write(
        self,
        method: str,
        path: str,
        body: Any,
        request_id: str | None,
        query: Sequence[tuple[str, str]] = (),
    ) -> Any:
        """Send a write that counts once, however often it has to be sent."""
        once = uuid.uuid4().hex if request_id is None else request_id
        headers = {"idempotency-key": _printable(once)}
        words = [*query, ("exact", "true")]
        return json.loads(self._request(method, path, body, query=words, headers=headers).data)

    def _group(self, name: Any) -> str:
        """Return the path of a group; a name that none can have is not sent."""
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            known = [group.name for group in self.list_feature_groups()]
            raise UnknownFeatureGroup(
                f'There is no feature group "{name}".{did_you_mean(str(name), known)}'
            )
        return f"/v1/groups/{name}"

    def _json(
        self, method: str, path: str, body: Any = None, *, query: Sequence[tuple[str, str]] = ()
    ) -> Any:
        return json.loads(self._request(method, path, body, query=query).data)

    def _table(self, method: str, path: str, given: Any = None, **options: Any) -> pa.Table:
        answer = self._request(method, path, given, accept=wire.ARROW, **options)
        return next(_tables(answer.data))

    def _request(
        self,
        method: str,
        path: str,
        given: Any = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        kind: str = _JSON,
        accept: str = _JSON,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        again: bool = True,
    ) -> Any:
        """Send a request; returns the answer, or raises what the server says went wrong.

        Parameters
        ----------
        given : object
            JSON values to send; or `body`, bytes or an iterator of them, of a `kind`.
        again : bool
            Whether it may be sent twice.
        """
        import urllib3

        if self._http is None:
            raise StoreClosed(f"{self._url} is closed. Connect again.")
        sent = {**self._headers, "accept": accept, **(headers or {})}
        if given is not None:
            body = _dumps(given)
        if body is not None:
            sent["content-type"] = kind
        url = self._url + path + ("?" + urlencode(query) if query else "")
        reads = method == "GET" or path in _READING
        once = reads or "idempotency-key" in sent
        tries = _TRIES if again and once else 1
        for left in reversed(range(tries)):
            try:
                answer = self._http.request(
                    method, url, body=body, headers=sent, preload_content=not stream
                )
                break
            except urllib3.exceptions.HTTPError as error:
                if left == 0:
                    raise self._lost(error, reads=reads) from error
        if answer.status >= 400:
            raise _raised(_problem_of(answer))
        return answer

    def _lost(self, error: Exception, *, reads: bool) -> FeatureStoreError:
        import urllib3

        connecting = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.NameResolutionError)
        if reads or isinstance(error, connecting):
            return Unreachable(f"No answer from {self._url}: {error}")
        return OutcomeUnknown(
            f"{self._url} stopped answering ({error}); the write may or may not have been made. "
            "Sent again with the same request id it counts once."
        )


class RemoteScan:
    """The live records of a group, page by page; made by :meth:`RemoteStore.scan`.

    Iterating yields records as dicts; :meth:`pages` yields Arrow tables; ``token`` names the place
    reached.
    """

    def __init__(
        self, store: RemoteStore, name: str, features: list[str] | None, after: str, size: int
    ) -> None:
        self._store = store
        self._name = name
        self._features = features
        self._size = size
        self.token = after

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for page in self.pages():
            yield from page.to_pylist()

    def pages(self) -> Iterator[pa.Table]:
        """Yield a table for each page, of the features asked for."""
        after = self.token
        while True:
            query = [("after", after), ("limit", str(self._size))]
            query += [("feature", feature) for feature in self._features or ()]
            answer = self._store._request(  # noqa: SLF001
                "GET", f"/v1/groups/{self._name}/records", query=query, accept=wire.ARROW
            )
            after = self.token = answer.headers["featurestore-token"]
            yield next(_tables(answer.data))
            if not after:
                return


#: Posts that change nothing, and may be sent again.
_READING = frozenset({"/v1/batch-get", "/v1/get-features", "/v1/sql", "/v1/point-in-time"})


# ── errors ───────────────────────────────────────────────────────────────────────────────────


def _problem_of(answer: Any) -> dict[str, Any]:
    data = answer.data
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if isinstance(found, dict) and "detail" in found:
        return found
    said = data[:200].decode("utf-8", "replace")
    return {"error": "FeatureStoreError", "detail": f"HTTP status {answer.status}: {said}"}


def _raised(problem: Mapping[str, Any]) -> FeatureStoreError:
    """Return the error a problem stands for, of the class that ``fs.open`` would have raised."""
    kind: Any = getattr(errors, str(problem.get("error")), FeatureStoreError)
    if not (isinstance(kind, type) and issubclass(kind, FeatureStoreError)):
        kind = FeatureStoreError
    detail = str(problem["detail"])
    if issubclass(kind, InvalidRecord):
        rows = [(row, why) for row, why in problem.get("rows", ())]
        refused: FeatureStoreError = kind(detail, rows=rows, accepted=problem.get("accepted", 0))
        return refused
    if issubclass(kind, NotInstalled):
        return FeatureStoreError(detail)
    raised: FeatureStoreError = kind(detail)
    return raised


# ── what is sent ─────────────────────────────────────────────────────────────────────────────


def _dumps(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except TypeError as error:
        raise InvalidInput(f"This cannot be sent: {error}.") from error


def _word(name: Any) -> str:
    """Return a name as one segment of a path."""
    text = name if isinstance(name, str) else repr(name)
    return quote(text.encode("utf-8", "surrogatepass"), safe="") or "%00"


def _one(name: str | None) -> list[tuple[str, str]]:
    return [] if name is None else [("group", name)]


def _names(given: Iterable[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _record(name: str, record: Any) -> Any:
    if not isinstance(record, Mapping):
        raise InvalidRecord(
            f'A record of "{name}" is a dict of features; got {type(record).__name__}.'
        )
    return {str(feature): wire.exact(value) for feature, value in record.items()}


def _duration(us: int | None) -> str | None:
    return None if us is None else format_duration(us)


def _zone(tz: str | tzinfo | None) -> str | None:
    return None if tz is None else str(tz)


def _printable(request_id: str) -> str:
    """Return a request id as a header can carry it."""
    if request_id.isascii() and request_id.isprintable() and 0 < len(request_id) <= 200:
        return request_id
    import hashlib

    return hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def _is_column(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or type(value).__name__ == "ndarray"


def _references(given: Any) -> Any:
    if isinstance(given, str):
        return given
    if isinstance(given, FeatureView):
        return [lookup.to_json() for lookup in given.lookups]
    if hasattr(given, "to_json"):
        return [given.to_json()]
    found = []
    for one in given:
        part = _references(one)
        found += part if isinstance(part, list) else [part]
    return found


def _upload(
    group: FeatureGroup, data: Any, progress: Callable[[int], object] | None
) -> tuple[str, Any]:
    """Return media type and body of what is to be ingested; a stream is read as it is sent."""
    import pyarrow as pa

    from featurestore.engine import sources

    if sources.are_dicts(data):
        return wire.JSON_LINES, _as_lines(data, progress)
    if sources.is_iterator(data):
        items = iter(data)
        first = next(items, None)
        rest = _chained(first, items)
        if first is None or isinstance(first, Mapping):
            return wire.JSON_LINES, _as_lines(rest, progress)
        tables: Iterator[pa.Table] = map(_only_table, sources.pieces_of(rest, group))
    else:
        tables = iter(sources.tables_of(data, group))
    try:
        head = next(tables, None)
    except pa.ArrowException as error:
        raise InvalidRecord(f"The data cannot be read: {error}") from error
    if head is None:
        head = group.arrow_schema().empty_table()
    return wire.ARROW, _as_arrow(head, tables, progress)


def _only_table(piece: Any) -> pa.Table:
    if isinstance(piece, Mapping):
        raise InvalidRecord("A stream gives either dicts or tables; this one gives both.")
    return piece


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    if first is not None:
        yield first
        yield from rest


def _as_lines(rows: Iterable[Any], progress: Callable[[int], object] | None) -> Iterator[bytes]:
    held: list[bytes] = []
    sent = 0
    for row in rows:
        if not isinstance(row, Mapping):
            raise InvalidRecord(f"An iterator of dicts gave a {type(row).__name__}.")
        held.append(_dumps({str(name): wire.exact(value) for name, value in row.items()}))
        sent += 1
        if len(held) == 1000:
            yield b"\n".join(held) + b"\n"
            held = []
            if progress is not None:
                progress(sent)
    if held:
        yield b"\n".join(held) + b"\n"
        if progress is not None:
            progress(sent)


def _as_arrow(
    head: pa.Table, rest: Iterator[pa.Table], progress: Callable[[int], object] | None
) -> Iterator[bytes]:
    sent = 0
    schema = _sendable(head.schema)
    for piece in _stream(schema, _chained(head, rest)):
        data, rows = piece
        sent += rows
        yield data
        if progress is not None and rows:
            progress(sent)


def _stream(schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[tuple[bytes, int]]:
    """Yield tables of one schema as an Arrow IPC stream, piece by piece, with the rows of each."""
    import io

    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            try:
                same = table.cast(schema) if table.schema != schema else table
            except (pa.ArrowException, ValueError) as error:
                raise InvalidRecord(f"The tables of the stream differ: {error}") from error
            for batch in same.to_batches(max_chunksize=_UPLOAD_ROWS):
                writer.write_batch(batch)
                yield sink.getvalue(), batch.num_rows
                sink.seek(0)
                sink.truncate()
    yield sink.getvalue(), 0


def _sendable(schema: pa.Schema) -> pa.Schema:
    """Return a schema without views, of which a small stream could be made to mean a large one."""
    import pyarrow as pa

    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return pa.schema((f.name, plain.get(f.type, f.type)) for f in schema)


def _streams(tables: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield tables as Arrow IPC streams, each with its name in the schema's metadata."""
    import pyarrow as pa

    for name, given in tables.items():
        if not isinstance(given, (pa.Table, pa.RecordBatch)) and not hasattr(
            given, "__arrow_c_stream__"
        ):
            raise InvalidInput(
                f'tables["{name}"] is {type(given).__name__}; give an Arrow table, a pandas or '
                "Polars frame, or anything with __arrow_c_stream__."
            )
        table = given if isinstance(given, pa.Table) else pa.table(given)
        schema = _sendable(table.schema)
        schema = schema.with_metadata({b"group": name.encode()} if name else None)
        for data, _ in _stream(schema, [table.replace_schema_metadata(schema.metadata)]):
            yield data


# ── what comes back ──────────────────────────────────────────────────────────────────────────


def _tables(data: bytes) -> Iterator[pa.Table]:
    """Yield the tables of Arrow streams one behind the other."""
    import pyarrow as pa

    source = pa.BufferReader(data)
    while source.tell() < source.size():
        with pa.ipc.open_stream(source) as reader:
            yield reader.read_all().replace_schema_metadata(None)


def _lines(answer: Any) -> Iterator[bytes]:
    held = b""
    for piece in answer.stream(65_536):
        held += piece
        *whole, held = held.split(b"\n")
        yield from whole


def _beside(frame: Any, found: pa.Table, sent: int) -> Any:
    """Put the columns that came back beside the caller's own."""
    from featurestore.engine import frames

    added = {name: found.column(name) for name in found.column_names[sent:]}
    return frames.append(frame, added)
