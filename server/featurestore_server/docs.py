"""The OpenAPI: what FastAPI cannot know, added to what it does.

The look-ups are answered before FastAPI sees them, and what a route answers is bytes to it; both
are described here, with an example each.
"""

from __future__ import annotations

from typing import Any

from featurestore import wire
from featurestore_server.answers import JSON

_GROUP_PARAM = {
    "name": "group",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "Name of a feature group.",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_RECORD = {
    "status": "PRESENT",
    "record": {"origin": "JFK", "time_hour": "2013-01-01T05:00:00Z", "temp": 39.0},
    "event_time": "2013-01-01T05:00:00Z",
    "age_us": 60_000_000,
    "write_seq": 7,
    "expires_at": None,
}
_FOUND = {
    "type": "object",
    "required": ["status", "record", "event_time", "age_us", "write_seq", "expires_at"],
    "properties": {
        "status": {"enum": ["PRESENT", "EXPIRED", "DELETED", "MISSING"]},
        "record": {"type": ["object", "null"]},
        "event_time": {"type": ["string", "null"], "format": "date-time"},
        "age_us": {"type": ["integer", "null"]},
        "write_seq": {"type": ["integer", "null"]},
        "expires_at": {"type": ["string", "null"], "format": "date-time"},
    },
}
_KEYS = {"weather": ["JFK", "EWR"], "seats": [["UA1545", 12]]}
_REFERENCE = {"anyOf": [{"type": "string"}, {"type": "object"}]}


def _query(name: str, what: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": what}


def _ok(what: str, schema: dict[str, Any], example: Any, *, arrow: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": schema, "example": example}}
    if arrow:
        content[wire.ARROW] = _BINARY
    return {"200": {"description": what, "content": content}}


#: The look-ups, which FastAPI does not route.
PATHS: dict[str, Any] = {
    "/v1/groups/{group}/record": {
        "get": {
            "operationId": "get_record",
            "tags": ["records"],
            "summary": "Get the latest record of a key",
            "parameters": [
                _GROUP_PARAM,
                _query(
                    "key",
                    "The record identifier: one for each of its parts, in declared order.",
                    type="array",
                    items={"type": "string"},
                    example=["JFK"],
                ),
                _query("key_json", "The same as JSON, instead of key.", type="string"),
                _query("feature", "Only these.", type="array", items={"type": "string"}),
            ],
            "responses": _ok("What the online store says of the key.", _FOUND, _RECORD),
        }
    },
    "/v1/batch-get": {
        "post": {
            "operationId": "batch_get_record",
            "tags": ["records"],
            "summary": "Get the latest records of many keys, at one moment",
            "requestBody": {
                "required": True,
                "content": {
                    JSON: {
                        "schema": {
                            "type": "object",
                            "required": ["keys"],
                            "properties": {
                                "keys": {
                                    "type": "object",
                                    "additionalProperties": {"type": "array", "items": {}},
                                },
                                "features": {
                                    "type": ["array", "null"],
                                    "items": {"type": "string"},
                                },
                            },
                        },
                        "example": {"keys": _KEYS},
                    }
                },
            },
            "responses": _ok(
                "For each group its answers in the order of the keys; as Arrow one stream for "
                "each, with the group in the schema's metadata.",
                {
                    "type": "object",
                    "additionalProperties": {"type": "array", "items": _FOUND},
                },
                {"weather": [{"key": {"origin": "JFK"}, **_RECORD}]},
                arrow=True,
            ),
        }
    },
    "/v1/get-features": {
        "post": {
            "operationId": "get_features",
            "tags": ["feature views"],
            "summary": "Get the latest features of a view, all groups at one moment",
            "parameters": [
                _query(
                    "features",
                    "With an Arrow body: what to look up.",
                    type="array",
                    items={"type": "string"},
                ),
                _query("with_status", "With an Arrow body.", type="boolean"),
            ],
            "requestBody": {
                "required": True,
                "content": {
                    JSON: {
                        "schema": {
                            "type": "object",
                            "required": ["features", "entities"],
                            "properties": {
                                "features": {
                                    "anyOf": [_REFERENCE, {"type": "array", "items": _REFERENCE}]
                                },
                                "entities": {
                                    "anyOf": [
                                        {"type": "object"},
                                        {"type": "array", "items": {"type": "object"}},
                                    ]
                                },
                                "with_status": {"type": "boolean"},
                            },
                        },
                        "example": {
                            "features": "late_flights",
                            "entities": {"origin": "JFK", "dest": "LAX"},
                        },
                    },
                    wire.ARROW: _BINARY,
                },
            },
            "responses": _ok(
                "An object for one entity, an array or an Arrow stream for several.",
                {"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]},
                {"temp": 39.0, "dest_temp": 41.0},
                arrow=True,
            ),
        }
    },
}

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "error"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "error": {"type": "string", "description": "A class of featurestore.errors."},
        "rows": {"type": "array", "items": {"type": "array"}},
        "accepted": {"type": "integer"},
    },
}
_PROBLEM_EXAMPLE = {
    "type": "urn:featurestore:UnknownFeatureGroup",
    "title": "No feature group of that name.",
    "status": 404,
    "detail": 'There is no feature group "wether". Did you mean "weather"?',
    "error": "UnknownFeatureGroup",
}
_PUT = {"seq": 7, "outcome": "moved", "replayed": False,
        "write_time": "2013-01-01T05:00:01Z", "expires_at": None}  # fmt: skip
_JOB = {"id": "5f2c0a9d8e7b6a5c4d3e2f10", "href": "/v1/jobs/5f2c0a9d8e7b6a5c4d3e2f10"}
_COUNTS = {"accepted": 1000, "late": 3, "expired": 0, "rejected": 0, "replayed": 0}
_GROUP = {"id": 1, "name": "weather", "record_identifier": ["origin"], "event_time": "time_hour"}
_VIEW = {"name": "late_flights", "lookups": [{"group": "weather", "features": ["temp"]}],
         "description": "", "created_at_us": 0}  # fmt: skip
_ROWS = [{"origin": "JFK", "temp": 39.0}]
_KEY = {"id": "4f1d", "name": "trainer", "roles": ["reader:*"], "rate": None,
        "created_at": "2013-01-01T05:00:00Z", "expires_at": [None]}  # fmt: skip

#: What routes answer, by operation: an example, from which the schema's type follows.
EXAMPLES: dict[str, Any] = {
    "create_group": _GROUP,
    "list_groups": [_GROUP],
    "describe_group": _GROUP,
    "update_group": _GROUP,
    "put_record": _PUT,
    "write_records": [_PUT],
    "update_record": _PUT,
    "delete_record": _PUT,
    "scan": {"records": _ROWS, "token": "81f0"},
    "create_view": _VIEW,
    "list_views": [_VIEW],
    "describe_view": _VIEW,
    "ingest": _COUNTS,
    "point_in_time": [{"origin": "JFK", "event_time": "2013-01-01T05:30:00Z", "temp": 39.0}],
    "sql": _ROWS,
    "snapshot": {"seq": 7},
    "create_consumer": {"name": "replica", "seq": 0},
    "acknowledge": {"consumer": "replica", "seq": 7},
    "flush": {"rows": 1000},
    "compact": {"rows": 1000},
    "verify": {"faults": []},
    "scrub": {"faults": []},
    "erase": {
        "group": "weather",
        "seq": 8,
        "at": "2013-01-02T00:00:00Z",
        "key_hash": "9007199254740993",
        "key_digest": "00ff…",
        "online": True,
        "records": 3,
        "files": 1,
        "requests": 0,
        "waiting": [],
        "traces": 0,
    },
    "list_documents": {"documents": {"late/00000001": {"status": "approved"}}, "more": False},
    "get_document": {
        "document": {"status": "approved"},
        "digest": "9f86d081…",
        "now": "2013-01-01T05:00:00Z",
    },
    "update_document": {"digest": "9f86d081…"},
    "append_document": {"number": 1},
    "stat": {"seq": 7, "groups": {"weather": {"keys": 3}}},
    "job": {**_JOB, "verb": "compact", "state": "running", "rows": 500, "result": None},
    "create_key": {**_KEY, "api_key": "fs_4f1d_…"},
    "list_keys": [_KEY],
    "rotate_key": {**_KEY, "api_key": "fs_4f1d_…"},
    "log": [{"number": 0, "who": "trainer", "verb": "put_record", "groups": ["weather"]}],
    "health": {"status": "ok"},
    "ready": {"status": "ready"},
}
#: What is neither JSON nor a table.
_OTHERWISE = {
    "prometheus": {"text/plain": {"schema": {"type": "string"}}},
    "job_table": {wire.ARROW: _BINARY},
}
_AS_TABLES = frozenset({"scan", "point_in_time", "sql"})
_AS_JOBS = frozenset({"ingest", "point_in_time", "flush", "compact", "verify", "scrub"})
_FREE = frozenset({"health", "ready"})


def complete(schema: dict[str, Any]) -> dict[str, Any]:
    """Add look-ups, answers, examples and problems to what FastAPI has found out."""
    for path, operations in PATHS.items():
        schema["paths"].setdefault(path, {}).update(operations)
    schema["components"].setdefault("schemas", {})["Problem"] = _PROBLEM
    for operations in schema["paths"].values():
        for operation in operations.values():
            _describe(operation)
    return schema


def _describe(operation: dict[str, Any]) -> None:
    """Give one operation its answers."""
    name = operation["operationId"]
    responses = operation["responses"]
    responses.pop("422", None)
    example = EXAMPLES.get(name)
    if example is not None:
        good = next(code for code in responses if code.startswith("2"))
        kind = "array" if isinstance(example, list) else "object"
        content = {JSON: {"schema": {"type": kind}, "example": example}}
        if name in _AS_TABLES:
            content[wire.ARROW] = _BINARY
        responses[good]["content"] = content
    if name in _OTHERWISE:
        responses["200"]["content"] = _OTHERWISE[name]
    if name in _AS_JOBS:
        shape = {"schema": {"type": "object"}, "example": _JOB}
        responses["202"] = {"description": "A job was begun.", "content": {JSON: shape}}
    if name in _FREE:
        return
    refused = {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "example": _PROBLEM_EXAMPLE,
    }
    for code, what in (
        ("4XX", "The request is refused; nothing was changed unless it says so."),
        ("5XX", "Not now, or not here; see the detail."),
    ):
        responses[code] = {"description": what, "content": {wire.PROBLEM: refused}}
    operation.setdefault("security", [{"HTTPBearer": []}, {}])
