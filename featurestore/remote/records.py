"""Records over HTTP: put, write, delete, ingest; get, batch get, scan, features of an entity."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from featurestore import wire
from featurestore.errors import InvalidInput, InvalidRecord
from featurestore.event_time import duration_us
from featurestore.feature_view import FeatureView, expand
from featurestore.remote.connection import duration, names, zone_name
from featurestore.remote.groups import Groups
from featurestore.remote.tables import Sent, beside, columns_sent, streams, tables_in, upload
from featurestore.results import IngestResult, PutResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta, tzinfo

    import pyarrow as pa

_EXACT = (("exact", "true"),)


class Records(Groups):
    """The verbs of records."""

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
        asked = {
            "record": _record(name, record),
            "ttl": None if ttl is None else duration(duration_us(ttl, what="ttl")),
            "target_stores": names(target_stores),
            "tz": zone_name(tz),
        }
        found = self._write("POST", f"{self._group(name)}/records", asked, request_id, _EXACT)
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
        asked = {"records": listed, "tz": zone_name(tz)}
        found = self._write("POST", "/v1/write", asked, request_id, _EXACT)
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
            "ttl": None if ttl is None else duration(duration_us(ttl, what="ttl")),
            "target_stores": names(target_stores),
            "tz": zone_name(tz),
        }
        query = [*_EXACT, ("key_json", json.dumps(wire.exact(key)))]
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
        query = [("exact", "true"), ("key_json", json.dumps(wire.exact(key)))]
        query.append(("event_time", json.dumps(wire.exact(event_time))))
        query += [("hard", "true")] if hard else []
        query += [("target_stores", store) for store in names(target_stores)]
        query += [("tz", str(zone))] if (zone := zone_name(tz)) is not None else []
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
        options = {"id": id, "tz": zone_name(tz), "unit": unit, "write_time": write_time}
        query += [(option, value) for option, value in options.items() if value is not None]
        query += [("atomic", "true")] if atomic else []
        if max_lock is not None:
            query.append(("max_lock", str(duration(duration_us(max_lock, what="max_lock")))))
        query += [("on_error", on_error), ("exact", "true")]
        query += [("target_stores", one) for one in names(target_stores)]
        kind, body = upload(group, data, progress)
        path = f"{self._group(name)}/ingest"
        return IngestResult(**self._job(path, query, body=body, kind=kind, again=False)[0])

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
        query += [("feature", feature) for feature in names(features or ())]
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
            asked["features"] = names(features)
        answer = self._request(
            "POST", "/v1/batch-get", asked, query=[("exact", "true")], accept=wire.ARROW
        )
        return dict(zip(listed, tables_in(answer.data), strict=True))

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
        asked = None if features is None else names(features)
        for feature in asked or ():
            group.feature(feature)
        return RemoteScan(self, name, asked, after, page_size)

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
        wanted = self._columns_read(lookups, frames.column_names(frame), [])
        sent = columns_sent(frame, wanted, what="entities")
        query = [("features", json.dumps(lookup.to_json())) for lookup in lookups]
        query.append(("with_status", str(with_status).lower()))
        body = Sent(lambda: streams({"": sent}))
        found = self._table("POST", "/v1/get-features", query=query, body=body, kind=wire.ARROW)
        return beside(frame, found, sent.num_columns)


class RemoteScan:
    """The live records of a group, page by page; made by :meth:`RemoteStore.scan`.

    Iterating yields records as dicts; :meth:`pages` yields Arrow tables; ``token`` names the place
    reached.
    """

    def __init__(
        self, store: Records, name: str, features: list[str] | None, after: str, size: int
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
            yield next(tables_in(answer.data))
            if not after:
                return


def _record(name: str, record: Any) -> Any:
    if not isinstance(record, Mapping):
        raise InvalidRecord(
            f'A record of "{name}" is a dict of features; got {type(record).__name__}.'
        )
    return {str(feature): wire.exact(value) for feature, value in record.items()}


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
