"""The operations on records: put, get, delete, update, list, and the two batches.

Reads take microseconds and are done on the event loop, as ``lookup`` does them; writes are
prepared there and awaited as futures, so that all that come at once share one commit and none
holds a thread.  What is waiting is bounded by :data:`PENDING_MAX`.  Only a ``relaxed`` store,
whose reads wait for its own writes, is used from threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio.to_thread
import orjson

from featurestore.encoding.values import read_header
from featurestore.engine import reader
from featurestore.errors import (
    FeatureStoreError,
    InvalidInput,
    InvalidRecord,
    StoreFull,
    Unavailable,
    UnknownFeatureGroup,
)
from featurestore.event_time import NO_EXPIRY, format_us
from featurestore_server.problems import TooManyRequests
from featurestore_server.sagemaker import model, pages
from featurestore_server.sagemaker.groups import View, name_of, require_shown, ttl_of
from featurestore_server.sagemaker.refusals import code_of, sentence
from featurestore_server.sagemaker.shapes import Members, refusal

if TYPE_CHECKING:
    from concurrent.futures import Future

    from featurestore.engine.plan import Plan
    from featurestore_server.access import Caller, Door
    from featurestore_server.guard import Lane

#: Records, and bytes of requests, whose commit a worker waits for at once; beyond it callers are
#: told to come again.  The writer's own queue takes four times as much, and so never holds the
#: event loop up.
PENDING_MAX = 2000
PENDING_BYTES_MAX = 64 << 20
_VIEWS_MAX = 1000
BATCH_GET_MAX = 100
UPDATE_FEATURES_MAX = 100
_SCANNED_MAX = 1000
_TARGETS = {"OnlineStore": "online", "OfflineStore": "offline"}
_BOTH = ("online", "offline")

# All of a put but its record, which `View.record` reads without a look at its shape first.
_ENTRY_REST = Members({n: s for n, s in model.ENTRY.named.items() if n != "Record*"})


class Call(NamedTuple):
    """One request.

    Attributes
    ----------
    asked : dict
        Members of its input, not checked yet.
    request_id : str or None
        The same for every try of a request: boto3's ``amz-sdk-invocation-id``.
    region : str
        That the caller signs for.
    size : int
        Bytes of its body.
    """

    caller: Caller
    asked: dict[str, Any]
    request_id: str | None
    region: str
    size: int


class Runtime:
    """Answers what ``sagemaker-featurestore-runtime`` asks."""

    def __init__(self, door: Door, writes: Lane) -> None:
        self._door = door
        self._database = door.database
        self._writes = writes
        self._on_threads = door.database.env.format["durability"] == "relaxed"
        self._views: dict[int, tuple[Plan, View]] = {}
        self._pending = 0
        self._pending_bytes = 0

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    async def get_record(self, call: Call) -> bytes:
        """Answer GetRecord."""
        asked = model.RUNTIME["GetRecord"].check(call.asked)
        name = name_of(asked["FeatureGroupName"])
        call.caller.require("get_record", (name,))
        identifier = asked["RecordIdentifierValueAsString"]
        found = await self._read(self._found, name, identifier, asked)
        return orjson.dumps(found)

    async def _read(self, work: Callable[..., Any], *args: Any) -> Any:
        if self._on_threads:
            return await anyio.to_thread.run_sync(work, *args)
        return work(*args)

    def _found(self, name: str, identifier: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return Record and ExpiresAt of an identifier; nothing if there is no live record."""
        database, now_us = self._database, self._door.now_us()
        with database.read() as txn:
            plan, view = self._view_at(txn, name)
            reader.require_online(plan.group)
            names = view.names_asked(asked.get("FeatureNames"))
            found = reader.find(database, txn, plan, view.key(identifier), names, now_us)
        if found.record is None or found.data is None:
            return {}
        header = read_header(found.data)
        answer: dict[str, Any] = {}
        if record := view.feature_values(found.record, header.event_time_us):
            answer["Record"] = record
        wanted = asked.get("ExpirationTimeResponse") == "Enabled"
        if wanted and header.expires_at_us != NO_EXPIRY:
            answer["ExpiresAt"] = format_us(header.expires_at_us)
        return answer

    def _view_at(self, txn: Any, name: str) -> tuple[Plan, View]:
        plan = self._database.plan_at(txn, name)
        known = self._views.get(plan.group.id)
        if known is None or known[0] is not plan:
            if len(self._views) >= _VIEWS_MAX:
                self._views.clear()
            known = self._views[plan.group.id] = (plan, View(require_shown(plan.group)))
        return known

    def _view(self, name: str) -> View:
        with self._database.read() as txn:
            return self._view_at(txn, name)[1]

    async def batch_get_record(self, call: Call) -> bytes:
        """Answer BatchGetRecord."""
        asked = model.RUNTIME["BatchGetRecord"].check(call.asked)
        count = sum(len(one["RecordIdentifiersValueAsString"]) for one in asked["Identifiers"])
        if count > BATCH_GET_MAX:
            raise InvalidInput(
                f"BatchGetRecord asks for {count} records; the quota is {BATCH_GET_MAX} at once."
            )
        return orjson.dumps(await self._read(self._batch, call.caller, asked))

    def _batch(self, caller: Caller, asked: Mapping[str, Any]) -> dict[str, Any]:
        records: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        expires = asked.get("ExpirationTimeResponse")
        for one in asked["Identifiers"]:
            given, name = one["FeatureGroupName"], name_of(one["FeatureGroupName"])
            how = {"FeatureNames": one.get("FeatureNames"), "ExpirationTimeResponse": expires}
            for identifier in one["RecordIdentifiersValueAsString"]:
                which = {
                    "FeatureGroupName": given,
                    "RecordIdentifierValueAsString": identifier,
                }
                try:
                    caller.require("batch_get_record", (name,))
                    found = self._found(name, identifier, how)
                except FeatureStoreError as error:
                    failed.append(which | _failure(error, "GetRecord"))
                    continue
                if "Record" in found:
                    records.append(which | found)
        return {"Records": records, "Errors": failed, "UnprocessedIdentifiers": []}

    async def list_records(self, call: Call) -> bytes:
        """Answer ListRecords."""
        asked = model.RUNTIME["ListRecords"].check(call.asked)
        name = name_of(asked["FeatureGroupName"])
        call.caller.require("scan", (name,))
        return orjson.dumps(await self._read(self._listed, name, asked))

    def _listed(self, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        deleted = asked.get("IncludeSoftDeletedRecords", False)
        limit = asked.get("MaxResults", 100)
        view = self._view(name)
        question = f"{view.group.id}/{deleted}"
        after = b""
        if "NextToken" in asked:
            (place,) = pages.read_token(asked["NextToken"], question)[:1] or [""]
            after = _position(place)
        identifiers: list[str] = []
        scanned, goes_on = 0, True
        while goes_on and len(identifiers) < limit and scanned < _SCANNED_MAX:
            wanted = limit - len(identifiers)
            scanned += wanted
            plan, keys, after = reader.key_page(
                self._database, name, after, wanted, self._door.now_us(), with_deleted=deleted
            )
            identifiers += [view.key_text(plan.parts(key)[0]) for key in keys]
            goes_on = bool(after)
        token = {"NextToken": pages.write_token([after.hex()], question)} if goes_on else {}
        return {"RecordIdentifiers": identifiers, **token}

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    async def put_record(self, call: Call) -> bytes:
        """Answer PutRecord."""
        with self._room(call):
            await self._written(self._put, call, call.asked, call.request_id, None)
        return b""

    async def _written(self, begin: Callable[..., Future[Any]], *args: Any) -> Any:
        if self._on_threads:
            return await self._writes.run(lambda: begin(*args).result())
        return await asyncio.wrap_future(begin(*args))

    @contextlib.contextmanager
    def _room(self, call: Call, count: int = 1) -> Iterator[None]:
        """Count records as pending; refuse them where too many are."""
        records, size = self._pending + count, self._pending_bytes + call.size
        if records > PENDING_MAX or (size > PENDING_BYTES_MAX and self._pending):
            raise TooManyRequests(f"{self._pending:,} records are being written; come again.")
        self._pending, self._pending_bytes = records, size
        try:
            yield
        finally:
            self._pending -= count
            self._pending_bytes -= call.size

    def _put(
        self,
        call: Call,
        given: Mapping[str, Any],
        request_id: str | None,
        ttl: Mapping[str, Any] | None,
    ) -> Future[Any]:
        """Begin to put one record, which a request or an entry of a batch has given."""
        asked = _ENTRY_REST.check(given)
        name = name_of(asked["FeatureGroupName"])
        if given.get("Record") is None:
            raise refusal("record", "Member must not be null")
        with self._door.enter(call.caller, "put_record", [name], request_id) as store:
            view = self._view(name)
            return store.put_record_async(
                name,
                view.record(given["Record"]),
                ttl=ttl_of(asked.get("TtlDuration", ttl)),
                target_stores=_targets(view, asked),
                request_id=request_id,
            )

    async def delete_record(self, call: Call) -> bytes:
        """Answer DeleteRecord."""
        asked = model.RUNTIME["DeleteRecord"].check(call.asked)
        with self._room(call):
            await self._written(self._delete, call, asked)
        return b""

    def _delete(self, call: Call, asked: Mapping[str, Any]) -> Future[Any]:
        name = name_of(asked["FeatureGroupName"])
        with self._door.enter(call.caller, "delete_record", [name], call.request_id) as store:
            view = self._view(name)
            return store.delete_record_async(
                name,
                view.key(asked["RecordIdentifierValueAsString"]),
                event_time=view.moment(asked["EventTime"]),
                hard=asked.get("DeletionMode") == "HardDelete",
                target_stores=_targets(view, asked),
                request_id=call.request_id,
            )

    async def update_record(self, call: Call) -> bytes:
        """Answer UpdateRecord."""
        asked = model.RUNTIME["UpdateRecord"].check(call.asked)
        with self._room(call):
            await self._written(self._update, call, asked)
        return b""

    def _update(self, call: Call, asked: Mapping[str, Any]) -> Future[Any]:
        name = name_of(asked["FeatureGroupName"])
        with self._door.enter(call.caller, "update_record", [name], call.request_id) as store:
            view = self._view(name)
            if view.storage_type == "Standard":
                raise InvalidInput(
                    f"UpdateRecord needs the StorageType Standard_V2 or InMemory; FeatureGroup "
                    f"{name} is Standard. UpdateFeatureGroup makes it Standard_V2."
                )
            if len(asked["Features"]) > UPDATE_FEATURES_MAX:
                raise InvalidInput(f"UpdateRecord changes at most {UPDATE_FEATURES_MAX} features.")
            if asked.get("TargetStores") == ["OfflineStore"]:
                raise InvalidInput(
                    "UpdateRecord changes the OnlineStore; TargetStores must have it."
                )
            changes = view.record(asked["Features"], "features")
            key = view.key(asked["RecordIdentifierValueAsString"])
            _drop_identifier(view, changes, key)
            if "TtlDuration" in asked and view.group.event_time not in changes:
                raise InvalidInput("TtlDuration needs the event time among the Features.")
            return store.update_record_async(
                name,
                key,
                changes,
                ttl=ttl_of(asked.get("TtlDuration")),
                target_stores=_targets(view, asked),
                request_id=call.request_id,
            )

    async def batch_write_record(self, call: Call) -> bytes:
        """Answer BatchWriteRecord: each entry stands or falls alone, and counts once alone."""
        asked = model.RUNTIME["BatchWriteRecord"].check(call.asked)
        entries = call.asked["Entries"]
        with self._room(call, len(entries)):
            ttl = asked.get("TtlDuration")
            if self._on_threads:
                begun = await self._writes.run(self._entries, call, entries, ttl)
            else:
                begun = self._entries(call, entries, ttl)
            waiting = [asyncio.wrap_future(b) for b in begun if not isinstance(b, Exception)]
            await asyncio.gather(*waiting, return_exceptions=True)
            results = [b if isinstance(b, Exception) else b.exception() for b in begun]
        return orjson.dumps(_batch_answer(entries, results))

    def _entries(
        self, call: Call, entries: list[dict[str, Any]], ttl: Mapping[str, Any] | None
    ) -> list[Future[Any] | FeatureStoreError]:
        """Begin to put each entry; gives a future, or what was wrong with it."""
        begun: list[Future[Any] | FeatureStoreError] = []
        for number, entry in enumerate(entries):
            request_id = None if call.request_id is None else f"{call.request_id}/{number}"
            try:
                begun.append(self._put(call, entry, request_id, ttl))
            except FeatureStoreError as error:
                begun.append(error)
        if all(isinstance(one, UnknownFeatureGroup) for one in begun):
            raise begun[0]  # type: ignore[misc]  # an error, as just seen
        return begun


def _batch_answer(
    entries: list[dict[str, Any]], results: list[BaseException | None]
) -> dict[str, Any]:
    """Return what became of entries; one that failed is given back as it came."""
    failed, unprocessed = [], []
    for entry, error in zip(entries, results, strict=True):
        if isinstance(error, Unavailable | StoreFull):
            unprocessed.append(entry)
        elif isinstance(error, FeatureStoreError):
            failed.append({"Entry": entry} | _failure(error, "BatchWriteRecord"))
        elif error is not None:
            raise error
    return {"Errors": failed, "UnprocessedEntries": unprocessed}


def _failure(error: FeatureStoreError, operation: str) -> dict[str, str]:
    code = code_of(error, operation).name
    return {"ErrorCode": code, "ErrorMessage": sentence(error, operation)}


def _targets(view: View, asked: Mapping[str, Any]) -> tuple[str, ...]:
    """Return where a write goes: all stores of the group by default, never one it has not."""
    given = asked.get("TargetStores")
    if given is None:
        return _BOTH
    for store in given:
        if store not in view.stores:
            raise InvalidInput(
                f"TargetStores has {store}, which FeatureGroup {view.group.name} has not; it has "
                f"{', '.join(view.stores)}."
            )
    return tuple(_TARGETS[store] for store in given)


def _drop_identifier(view: View, changes: dict[str, Any], key: Any) -> None:
    """Take the identifier out of an update that repeats it."""
    identifier = view.group.record_identifier[0]
    if changes.pop(identifier, key) != key:
        raise InvalidRecord(f"Feature {identifier} identifies the record and cannot change.")


def _position(place: Any) -> bytes:
    try:
        return bytes.fromhex(place)
    except (ValueError, TypeError):
        raise InvalidInput("NextToken is not one that this request was answered with.") from None
