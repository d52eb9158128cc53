"""The hot path: get, batch get and features of an entity, as raw ASGI.

FastAPI's routing, dependencies and response model cost three to six times what the rest of a
look-up does, so these three are answered before it sees them: parse the query by hand, ask the
door, read the record's bytes, write JSON.  What they answer is documented in the OpenAPI like all
else (:data:`PATHS`).

A look-up takes microseconds, so it is done on the event loop: handing it to a thread would cost
more than itself.  Only a ``relaxed`` store, which waits for its own writes, is read on a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl

import anyio.to_thread
import orjson

from featurestore import wire
from featurestore.encoding.values import HEADER, read_header
from featurestore.engine import reader
from featurestore.engine.reader import status_of
from featurestore.errors import InvalidInput, InvalidRecord
from featurestore.event_time import NO_EXPIRY, to_datetime
from featurestore.feature_view import FeatureLookup, expand
from featurestore.record import Status
from featurestore_server.answers import JSON, arrow_bytes, dumps, wants_arrow
from featurestore_server.bodies import BodyFile, Limits, arrow_batches, too_large, whole_table
from featurestore_server.guard import (
    StalledReader,
    answer,
    body_chunks,
    require_plain_encoding,
)
from featurestore_server.problems import problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from featurestore.encoding.values import Header
    from featurestore.engine.plan import Plan
    from featurestore_server.access import Caller, Door
    from featurestore_server.guard import Guard, Receive, Scope, Send
    from featurestore_server.metrics import Metrics

_WRITERS_MAX = 1000
_AT_ONCE_BYTES = 256 << 10
_JSON = (b"content-type", JSON.encode())
_STRICT = orjson.OPT_UTC_Z | orjson.OPT_STRICT_INTEGER


def credentials_of(name: bytes, value: bytes) -> str:
    """Return the API key of a header: a bearer token, or ``x-api-key``."""
    text = value.decode("latin-1")
    if name == b"authorization":
        kind, _, key = text.partition(" ")
        return key.strip() if kind.lower() == "bearer" else text
    return text


class Asking(NamedTuple):
    """What the headers say of who asks, and from where."""

    credentials: str | None
    origin: bytes | None
    host: bytes | None
    site: bytes | None


def asking(headers: Iterable[tuple[bytes, bytes]]) -> Asking:
    """Read the headers once."""
    credentials = origin = host = site = None
    for name, value in headers:
        if name == b"host":
            host = value
        elif name == b"authorization" or (name == b"x-api-key" and credentials is None):
            credentials = credentials_of(name, value)
        elif name == b"origin":
            origin = value
        elif name == b"sec-fetch-site":
            site = value
    return Asking(credentials, origin, host, site)


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header of a request, None where it is not there."""
    return next((v.decode("latin-1") for n, v in scope["headers"] if n == name), None)


class Lookup:
    """Answers the three look-ups."""

    def __init__(
        self, door: Door, guard: Guard, limits: Limits, metrics: Metrics, clock: Any
    ) -> None:
        self._door = door
        self._guard = guard
        self._limits = limits
        self._metrics = metrics
        self._now_us = clock
        self._database = door.database
        self._on_threads = self._database.env.format["durability"] == "relaxed"
        # By plan, which is made anew whenever the definition of its group changes.
        self._writers: dict[tuple[int, bool], tuple[Plan, wire.RecordWriter]] = {}

    def takes(self, scope: Scope) -> Any:
        """Return what answers a request; None if that is FastAPI's."""
        path = scope["path"]
        if path.endswith("/record"):
            # /v1/groups/{name}/record
            if scope["method"] == "GET" and path.startswith("/v1/groups/") and path.count("/") == 4:
                return self.get
        elif scope["method"] == "POST":
            if path == "/v1/batch-get":
                return self.batch_get
            if path == "/v1/get-features":
                return self.get_features
        return None

    async def __call__(
        self, handler: Any, credentials: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer, whatever happens."""
        began = time.perf_counter()
        try:
            caller = self._door.caller(credentials)
            status = await handler(caller, scope, receive, send)
        except StalledReader:
            status = 499  # as others call it: granian closes what is not finished
        except Exception as error:  # noqa: BLE001  every error has an answer
            status, headers, body = problem(error)
            await answer(send, status, headers, body)
        self._metrics.count(handler.__name__, status, time.perf_counter() - began)

    # ── one record ───────────────────────────────────────────────────────────────────────────

    async def get(self, caller: Caller, scope: Scope, _receive: Receive, send: Send) -> int:
        """Answer ``GET /v1/groups/{group}/record?key=…``."""
        name = scope["path"][11:-7]
        caller.require("get_record", (name,))
        if self._on_threads:
            body = await anyio.to_thread.run_sync(self._get, name, scope["query_string"])
        else:
            body = self._get(name, scope["query_string"])
        await _send(send, _JSON, body)
        return 200

    def _get(self, name: str, query: bytes) -> bytes:
        words, key, features, exactly = _asked(query)
        database = self._database
        now_us = self._now_us()
        with database.read() as txn:
            plan = database.plan_at(txn, name)
            reader.require_online(plan.group)
            if features is not None:
                plan.check_features(features)
            if key is None:
                key = wire.read_key_words(plan.group, words)
            else:
                key = wire.read_key(plan.group, wire.loads(key), exactly=exactly)
            found = reader.find(database, txn, plan, key, features, now_us)
        record, data = found.record, found.data
        if record is None or data is None:
            head = None if data is None else read_header(data)
            return dumps(_described(found.status, head, None, now_us))
        writer = self._writer(plan, exactly=exactly)
        return (writer.is_plain and _present(writer, record, data, now_us)) or dumps(
            _described(found.status, read_header(data), writer.write(record), now_us)
        )

    def _writer(self, plan: Plan, *, exactly: bool) -> wire.RecordWriter:
        known = self._writers.get((plan.group.id, exactly))
        if known is None or known[0] is not plan:
            if len(self._writers) >= _WRITERS_MAX:
                self._writers.clear()
            known = (plan, wire.RecordWriter(plan.group.features, exactly=exactly))
            self._writers[plan.group.id, exactly] = known
        return known[1]

    # ── many records ─────────────────────────────────────────────────────────────────────────

    async def batch_get(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer ``POST /v1/batch-get``."""
        asked = await self._json(scope, receive)
        keys, features = asked.get("keys"), _names(asked.get("features"))
        if not isinstance(keys, dict) or not all(isinstance(v, list) for v in keys.values()):
            raise InvalidInput('keys is an object: {"group": [key, …], …}.')
        total = sum(map(len, keys.values()))
        if total > self._limits.keys:
            raise too_many_keys(total, self._limits.keys)
        caller.require("batch_get_record", keys)
        arrow = wants_arrow(header(scope, b"accept"))
        exactly = scope["query_string"] == b"exact=true"
        work = self._batch_arrow if arrow else self._batch_json
        if self._on_threads or total > 500:
            body = await anyio.to_thread.run_sync(work, keys, features, exactly)
        else:
            body = work(keys, features, exactly)
        kind = wire.ARROW if arrow else JSON
        await self._send(send, kind, body)
        return 200

    def _batch_json(
        self, asked: Mapping[str, list[Any]], features: list[str] | None, exactly: bool
    ) -> bytes:
        database, now_us = self._database, self._now_us()
        fetched = []
        with database.read() as txn:
            for name, user_keys in asked.items():
                plan = database.plan_at(txn, name)
                reader.require_online(plan.group)
                plan.check_features(features or ())
                found = [
                    plan.key(wire.read_key(plan.group, key, exactly=exactly)) for key in user_keys
                ]
                records = reader.fetch(database, txn, plan, [key for key, _ in found])
                fetched.append((name, plan, [parts for _, parts in found], records))
        return dumps(
            {
                name: list(self._rows(plan, parts, records, features, now_us))
                for name, plan, parts, records in fetched
            }
        )

    def _rows(
        self,
        plan: Plan,
        keys: Sequence[list[Any]],
        records: Sequence[bytes | None],
        features: list[str] | None,
        now_us: int,
    ) -> Iterator[dict[str, Any]]:
        writer = self._writer(plan, exactly=False)
        for parts, data in zip(keys, records, strict=True):
            head = None if data is None else read_header(data)
            status = Status.MISSING if head is None else status_of(head, now_us)
            record = None
            if data is not None and head is not None and status is Status.PRESENT:
                found = plan.record(parts, head.event_time_us, data, features)
                record = writer.write(found)
            key = dict(zip(plan.group.record_identifier, parts, strict=True))
            for name, dtype in zip(key, plan.key_dtypes, strict=True):
                key[name] = wire.plain(dtype.to_python(key[name]))
            yield {"key": key} | _described(status, head, record, now_us)

    def _batch_arrow(
        self, asked: Mapping[str, list[Any]], features: list[str] | None, exactly: bool
    ) -> bytes:
        groups = self._database.catalog()
        keys = {
            name: wire.read_keys(groups.group(name), user_keys, exactly=exactly)
            for name, user_keys in asked.items()
        }
        tables = reader.batch_get(self._database, keys, features, self._now_us())
        return arrow_bytes(tables)

    # ── features of an entity ────────────────────────────────────────────────────────────────

    async def get_features(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer ``POST /v1/get-features``."""
        query = parse_qs(scope["query_string"].decode("ascii", "replace"))
        kind = (header(scope, b"content-type") or JSON).split(";")[0].strip()
        if kind == wire.ARROW:
            require_plain_encoding(header(scope, b"content-encoding"))
            asked: dict[str, Any] = {"entities": await self._arrow(receive)}
            asked |= {"features": [references_word(word) for word in query.get("features", [])]}
            asked |= {"with_status": query.get("with_status") == ["true"]}
        else:
            asked = await self._json(scope, receive)
        lookups = lookups_of(self._door, caller, "get_features", asked.get("features"))
        exactly = query.get("exact") == ["true"]
        arrow = wants_arrow(header(scope, b"accept"))
        # By name, a view is compiled once.
        view = asked["features"]
        work = (view if isinstance(view, str) else lookups, lookups, asked, exactly, arrow)
        if kind == wire.ARROW or self._on_threads:
            body = await anyio.to_thread.run_sync(self._features, *work)
        else:
            body = self._features(*work)
        await self._send(send, wire.ARROW if arrow else JSON, body)
        return 200

    def _features(
        self,
        references: str | Sequence[FeatureLookup],
        lookups: Sequence[FeatureLookup],
        asked: dict[str, Any],
        exactly: bool,
        arrow: bool,
    ) -> bytes:
        from featurestore.engine.features import lookup_features

        entities = asked.get("entities")
        if exactly:
            entities = wire.from_exact(entities)
        elif isinstance(entities, (dict, list)):
            entities = read_entities(self._database.catalog().groups, lookups, entities)
        found = lookup_features(
            self._database,
            references,
            entities,
            self._now_us(),
            with_status=bool(asked.get("with_status")),
        )
        if isinstance(found, dict):
            return dumps(wire.exact(found) if exactly else wire.plain(found))
        if arrow:
            return arrow_bytes({"": found})
        return dumps(wire.plain_rows(found))

    async def _send(self, send: Send, kind: str, body: bytes) -> None:
        """Send an answer; a large one in pieces, so that who does not read it is dropped."""
        header = (b"content-type", kind.encode())
        if len(body) <= _AT_ONCE_BYTES:
            await _send(send, header, body)
            return
        patient = self._guard.patient(send)
        size = (b"content-length", b"%d" % len(body))
        await patient({"type": "http.response.start", "status": 200, "headers": [header, size]})
        for at in range(0, len(body), _AT_ONCE_BYTES):
            piece = {"type": "http.response.body", "body": body[at : at + _AT_ONCE_BYTES]}
            await patient({**piece, "more_body": at + _AT_ONCE_BYTES < len(body)})

    async def _json(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        require_plain_encoding(header(scope, b"content-encoding"))
        held, size = [], 0
        next_chunk = body_chunks(self._guard.paced(receive))
        while chunk := await next_chunk():
            size += len(chunk)
            if size > self._limits.json_bytes:
                raise too_large("The body", self._limits.json_bytes)
            held.append(chunk)
        found = wire.loads(b"".join(held))
        if not isinstance(found, dict):
            raise InvalidInput("The body is no JSON object.")
        return found

    async def _arrow(self, receive: Receive) -> Any:
        next_chunk = body_chunks(self._guard.paced(receive))
        held = []
        size = 0
        while chunk := await next_chunk():
            size += len(chunk)
            if size > self._limits.batch_bytes:
                raise too_large("The body", self._limits.batch_bytes)
            held.append(chunk)
        left = iter([*held, b""])
        body = BodyFile(lambda: next(left, b""), self._limits.batch_bytes)

        def read() -> Any:
            return whole_table(*arrow_batches(body, self._limits), self._limits)

        return await asyncio.get_running_loop().run_in_executor(None, read)


def too_many_keys(count: int, limit: int) -> InvalidInput:
    """Return the error of a request for more keys than one may ask for."""
    return InvalidInput(f"{count:,} keys are asked for; the limit is {limit:,} in one request.")


def _asked(query: bytes) -> tuple[list[str], str | None, list[str] | None, bool]:
    """Return key words, JSON key, features and whether exactly, of a query string."""
    text = query.decode("ascii", "replace")
    if text.startswith("key=") and "&" not in text and "%" not in text and "+" not in text:
        return [text[4:]], None, None, False  # nearly every request
    words, key, features, exactly = [], None, None, False
    for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=5000):
        if name == "key":
            words.append(value)
        elif name == "key_json":
            key = value
        elif name == "feature":
            features = [*(features or ()), value]
        elif name == "exact":
            exactly = value == "true"
    if not words and key is None:
        raise InvalidInput("A look-up needs a key: ?key=JFK, one key= for each part of it.")
    return words, key, features, exactly


def _names(features: Any) -> list[str] | None:
    if features is None:
        return None
    if isinstance(features, list) and all(isinstance(name, str) for name in features):
        return features
    raise InvalidInput('features is a list of names, such as ["temp", "wind_speed"].')


def _present(
    writer: wire.RecordWriter, record: dict[str, Any], data: bytes, now_us: int
) -> bytes | None:
    """Return the answer of a live record if orjson writes it as the rules say, else None.

    It refuses integers beyond 53 bits by itself, and writes NaN and the infinities as null: so
    only a record in which there is some null need be looked at value by value.
    """
    fields = HEADER.unpack_from(data)
    seq, event_time_us, expires_us = fields[6], fields[7], fields[9]
    found = {
        "status": "PRESENT",
        "record": record,
        "event_time": to_datetime(event_time_us),
        "age_us": now_us - event_time_us,
        "write_seq": seq,
        "expires_at": None if expires_us == NO_EXPIRY else to_datetime(expires_us),
    }
    try:
        body = orjson.dumps(found, option=_STRICT)
    except TypeError:
        return None
    if body.count(b"null") != (expires_us == NO_EXPIRY) and writer.may_have_odd_floats(record):
        return None
    return body


def _described(
    status: Status, head: Header | None, record: dict[str, Any] | None, now_us: int
) -> dict[str, Any]:
    if head is None:
        nothing = dict.fromkeys(("record", "event_time", "age_us", "write_seq", "expires_at"))
        return {"status": status.value, **nothing}
    expires_us = head.expires_at_us
    return {
        "status": status.value,
        "record": record,
        "event_time": to_datetime(head.event_time_us),
        "age_us": now_us - head.event_time_us,
        "write_seq": head.seq,
        "expires_at": None if expires_us == NO_EXPIRY else to_datetime(expires_us),
    }


# ── references and entities, for the join too ────────────────────────────────────────────────


def references_word(word: str) -> Any:
    """Return a reference of a query string: ``group:feature``, a view, or a lookup as JSON."""
    return wire.loads(word) if word.startswith("{") else word


def lookups_of(door: Door, caller: Caller, verb: str, references: Any) -> tuple[FeatureLookup, ...]:
    """Return the lookups that references of a request stand for, if the caller may read them."""
    given = references if isinstance(references, list) else [references]
    read = [_reference(one) for one in given]
    if references is None:
        raise InvalidInput(
            'features is missing: "group:feature", "group:*", a feature view, or a list of them.'
        )
    lookups = expand(read, door.view)
    caller.require(verb, {lookup.group for lookup in lookups})
    return lookups


def _reference(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    try:
        return FeatureLookup.from_json(given)
    except TypeError:
        known = "group, features, on, prefix, rename, max_age, delay"
        raise InvalidInput(f"A lookup is an object of {known}; got {sorted(given)}.") from None


def read_entities(
    groups: Mapping[str, Any], lookups: Sequence[FeatureLookup], entities: Any
) -> Any:
    """Return entities or labels from JSON, key columns by the types of the keys they are."""
    dtypes = {}
    for lookup in lookups:
        group = groups.get(lookup.group)
        if group is not None:
            for name, column in lookup.keys(group).items():
                dtypes[column] = group.feature(name).dtype
    if isinstance(entities, dict):
        return {
            name: [_entity(dtypes, name, part) for part in value]
            if isinstance(value, list)
            else _entity(dtypes, name, value)
            for name, value in entities.items()
        }
    if not all(isinstance(row, dict) for row in entities):
        raise InvalidRecord("A table as JSON is an array of objects, one for each row.")
    return [{n: _entity(dtypes, n, v) for n, v in row.items()} for row in entities]


def _entity(dtypes: Mapping[str, Any], name: str, value: Any) -> Any:
    return wire.read_value(dtypes[name], value) if name in dtypes else wire.from_exact(value)


# ── sending ──────────────────────────────────────────────────────────────────────────────────


async def _send(send: Send, kind: tuple[bytes, bytes], body: bytes) -> None:
    size = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [kind, size]})
    await send({"type": "http.response.body", "body": body})
