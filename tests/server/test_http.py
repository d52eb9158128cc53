"""What goes over the wire: JSON by the rules, problems, and what documents the API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
import urllib3

import featurestore as fs
from featurestore import wire
from tests.server.serving import serving

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
BIG = 2**53 + 1


class Client:
    """HTTP and nothing else."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(retries=False)

    def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, Any]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            sent.setdefault("content-type", "application/json")
        answer = self._http.request(method, self._url + path, body=body, headers=sent)
        kind = answer.headers.get("content-type", "")
        found = json.loads(answer.data) if "json" in kind and answer.data else answer.data
        return answer.status, found, answer.headers


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with fs.open(tmp_path_factory.mktemp("http") / "store", clock=lambda: NOON) as store:
        store.create_feature_group(
            "seats",
            record_identifier=["row", "letter"],
            event_time="at",
            features={
                "row": "int64", "letter": "string", "at": "timestamp", "price": "float64",
                "raw": "binary", "sold": "int64", "day": "date", "near": "list<float64>",
            },
        )  # fmt: skip
        store.put_record(
            "seats",
            {"row": BIG, "letter": "A+b c", "at": NOON, "price": float("nan"), "raw": b"\x00\xff",
             "sold": -(2**63), "day": NOON.date(), "near": [float("inf"), None, -0.0]},
        )  # fmt: skip
        with serving(store) as url:
            yield Client(url)


PATH = f"/v1/groups/seats/record?key={BIG}&key=A%2Bb+c"
RECORD = {
    "row": str(BIG), "letter": "A+b c", "at": "2013-01-01T12:00:00Z", "price": "NaN",
    "raw": "AP8=", "sold": str(-(2**63)), "day": "2013-01-01", "near": ["Infinity", None, -0.0],
}  # fmt: skip


def test_a_look_up_reads_as_the_rules_say(http: Client) -> None:
    status, found, headers = http("GET", PATH)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert found == {
        "status": "PRESENT", "record": RECORD, "event_time": "2013-01-01T12:00:00Z", "age_us": 0,
        "write_seq": 1, "expires_at": None,
    }  # fmt: skip
    assert http("GET", PATH + "&feature=day&feature=raw")[1]["record"] == {
        "day": "2013-01-01",
        "raw": "AP8=",
    }
    missing = http("GET", "/v1/groups/seats/record?key=1&key=")[1]
    assert (missing["status"], missing["record"], missing["write_seq"]) == ("MISSING", None, None)
    key = quote(json.dumps({"row": str(BIG), "letter": "A+b c"}))
    assert http("GET", f"/v1/groups/seats/record?key_json={key}")[1]["record"] == RECORD


def test_what_was_read_can_be_put_again(http: Client) -> None:
    status, found, _ = http("POST", "/v1/groups/seats/records", {"record": RECORD})
    assert (status, found["outcome"], found["seq"]) == (200, "unchanged", 1)
    line = json.dumps(RECORD).encode() + b"\n\n"
    path = "/v1/groups/seats/ingest"
    assert http("POST", path, line * 2, content_type=wire.JSON_LINES)[1]["accepted"] == 2
    assert http("POST", path, [RECORD])[1]["accepted"] == 1
    assert http("GET", PATH)[1]["record"] == RECORD


def test_a_batch_answers_in_order(http: Client) -> None:
    asked = {"keys": {"seats": [[str(BIG), "A+b c"], [1, "Z"]]}, "features": ["day"]}
    status, found, _ = http("POST", "/v1/batch-get", asked)
    assert status == 200
    assert [one["status"] for one in found["seats"]] == ["PRESENT", "MISSING"]
    assert found["seats"][0]["record"] == {"day": "2013-01-01"}
    assert found["seats"][1]["key"] == {"row": 1, "letter": "Z"}
    arrow = http("POST", "/v1/batch-get", asked, accept=wire.ARROW)
    table = pa.ipc.open_stream(arrow[1]).read_all()
    assert table["status"].to_pylist() == ["PRESENT", "MISSING"]
    assert table.schema.metadata == {b"group": b"seats"}


def test_views_sql_and_joins_as_json(http: Client) -> None:
    view = {"name": "v", "features": ["seats:day", {"group": "seats", "features": ["sold"]}]}
    assert http("POST", "/v1/feature-views", view | {"exist_ok": True})[0] == 201
    entity = {"row": str(BIG), "letter": "A+b c"}
    asked: dict[str, Any] = {"features": "v", "entities": entity}
    day = {"day": "2013-01-01", "sold": str(-(2**63))}
    assert http("POST", "/v1/get-features", asked)[1] == day
    asked["entities"] = [entity]
    assert http("POST", "/v1/get-features", asked)[1] == [{**entity, **day}]
    rows = http("POST", "/v1/sql", {"query": "SELECT sold, price, raw FROM seats"})[1]
    assert rows == [{"sold": str(-(2**63)), "price": "NaN", "raw": "AP8="}]
    labels = [{**entity, "at": "2013-01-01T13:00:00Z", "y": 1}]
    joined = http("POST", "/v1/point-in-time?features=v&label_time=at", labels)
    assert joined[1][0]["day"] == "2013-01-01"
    assert joined[1][0]["y"] == 1
    lookup = quote(json.dumps({"group": "seats", "features": ["day"], "prefix": "the_"}))
    path = f"/v1/point-in-time?features={lookup}&label_time=at"
    assert http("POST", path, labels)[1][0]["the_day"] == "2013-01-01"


def test_pages_of_a_scan(http: Client) -> None:
    status, found, headers = http("GET", "/v1/groups/seats/records?limit=1")
    assert (status, found["records"]) == (200, [RECORD])
    assert headers["featurestore-token"] == found["token"]


def test_changes_are_events_that_can_be_resumed(http: Client) -> None:
    text = http("GET", "/v1/changes?follow=false")[1].decode()
    first = text.split("\n\n")[0].split("\n")
    assert first[:2] == ["id: 1", "event: change"]
    assert json.loads(first[2][6:])["record"] == RECORD
    rest = http("GET", "/v1/changes?follow=false", last_event_id="1")[1].decode()
    assert "id: 1\n" not in rest


BAD: dict[str, tuple[str, str, Any, int, str]] = {
    "no such path": ("GET", "/v2/groups", None, 404, "InvalidInput"),
    "no such method": ("PUT", "/v1/groups", {}, 405, "InvalidInput"),
    "no such group": ("GET", "/v1/groups/nope/record?key=1", None, 404, "UnknownFeatureGroup"),
    "no key": ("GET", "/v1/groups/seats/record", None, 400, "InvalidInput"),
    "half a key": ("GET", "/v1/groups/seats/record?key=1", None, 400, "InvalidRecord"),
    "a key that is no number": ("GET", "/v1/groups/seats/record?key=x&key=A", None, 400,
                                "InvalidRecord"),
    "an encoded slash": ("GET", "/v1/groups/..%2fseats/record?key=1", None, 404, "InvalidInput"),
    "NUL": ("GET", "/v1/groups/a%00b", None, 404, "UnknownFeatureGroup"),
    "300 letters": ("GET", "/v1/groups/" + "x" * 300, None, 404, "UnknownFeatureGroup"),
    "right to left": ("GET", "/v1/groups/%E2%80%AEseats", None, 404, "UnknownFeatureGroup"),
    "no JSON": ("POST", "/v1/groups", b"{", 400, "InvalidInput"),
    "not UTF-8": ("POST", "/v1/groups", b'{"name": "\xff"}', 400, "InvalidInput"),
    "a name twice": ("POST", "/v1/groups", b'{"name": "a", "name": "b"}', 400, "InvalidInput"),
    "NaN": ("POST", "/v1/groups/seats/records", b'{"record": {"price": NaN}}', 400, "InvalidInput"),
    "100,000 brackets": ("POST", "/v1/groups", b"[" * 100_000, 400, "InvalidInput"),
    "a number of 5,000 digits": ("POST", "/v1/groups", b"9" * 5000, 400, "InvalidInput"),
    "an unknown name": ("POST", "/v1/groups", {"nmae": "a"}, 400, "InvalidInput"),
    "a wrong type": ("POST", "/v1/write", {"records": "all"}, 400, "InvalidInput"),
    "a lone surrogate": ("POST", "/v1/groups/seats/records",
                         b'{"record": {"row": 1, "letter": "\\ud800", "at": "2013-01-01T00:00Z"}}',
                         400, "InvalidRecord"),
    "a path in place of rows": ("POST", "/v1/groups/seats/ingest", b'"/etc/passwd"', 400,
                                "InvalidInput"),
    "a URL in place of rows": ("POST", "/v1/groups/seats/ingest", b'"s3://bucket/key"', 400,
                               "InvalidInput"),
    "keys that are no list": ("POST", "/v1/batch-get", {"keys": {"seats": 1}}, 400, "InvalidInput"),
    "a job that is none": ("GET", "/v1/jobs/..%2f..%2fetc", None, 404, "InvalidInput"),
    "another's job": ("GET", "/v1/jobs/" + "0" * 24, None, 404, "UnknownJob"),
    "a query too odd": ("GET", "/v1/groups/seats/records?limit=lots", None, 400, "InvalidInput"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_a_problem(case: str, http: Client) -> None:
    method, path, body, status, error = BAD[case]
    got, found, headers = http(method, path, body)
    assert (got, headers["content-type"]) == (status, wire.PROBLEM), found
    assert (found["status"], found["error"]) == (status, error), found
    assert found["title"]
    assert len(found["detail"]) > 10
    assert "Traceback" not in json.dumps(found)


def test_the_openapi_says_all_there_is(http: Client) -> None:
    status, schema, _ = http("GET", "/openapi.json")
    assert status == 200
    operations = {
        f"{method} {path}": operation
        for path, found in schema["paths"].items()
        for method, operation in found.items()
    }
    assert {"get /v1/groups/{group}/record", "post /v1/batch-get", "post /v1/sql"} <= set(
        operations
    )
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(ids) == len(set(ids))
    for name, operation in operations.items():
        assert operation["summary"], name
        for body in operation.get("requestBody", {}).get("content", {}).values():
            assert "example" in body or body["schema"].get("format") == "binary", name
        good = [r for code, r in operation["responses"].items() if code.startswith("2")]
        assert good, name
        for kind, content in good[0].get("content", {}).items():
            assert kind != "application/json" or "example" in content, name


def test_metrics_count_and_health_answers(http: Client) -> None:
    http("GET", PATH)
    text = http("GET", "/metrics")[1].decode()
    assert 'featurestore_requests_total{status="200",verb="get"}' in text
    assert 'featurestore_group_keys{group="seats"} ' in text
    assert http("GET", "/health")[0] == 200
    assert http("GET", "/ready")[1] == {"status": "ready"}
    assert http("GET", "/docs")[0] == 200


def test_long_work_is_a_job(http: Client) -> None:
    for path in ("/v1/flush", "/v1/compact", "/v1/verify"):
        status, begun, headers = http("POST", path, prefer="respond-async")
        assert (status, headers["location"]) == (202, begun["href"])
        state = wait(http, begun["href"])
        assert state["state"] == "done", state
    line = json.dumps(RECORD).encode() + b"\n"
    path = "/v1/groups/seats/ingest?id=job"
    begun = http("POST", path, line, content_type=wire.JSON_LINES, prefer="respond-async")[1]
    state = wait(http, begun["href"])
    assert (state["state"], state["rows"]) == ("done", 1)
    assert state["result"]["accepted"] == 1
    labels = [{"row": str(BIG), "letter": "A+b c", "event_time": "2013-01-01T13:00:00Z"}]
    path = "/v1/point-in-time?features=seats:day"
    begun = http("POST", path, labels, prefer="respond-async")[1]
    assert wait(http, begun["href"])["result"] == {"rows": 1, "table": True}
    table = pa.ipc.open_stream(http("GET", begun["href"] + "/table")[1]).read_all()
    assert table["day"].to_pylist() == [NOON.date()]
    begun = http("POST", path.replace("day", "dya"), labels, prefer="respond-async")[1]
    state = wait(http, begun["href"])
    assert (state["state"], state["problem"]["error"]) == ("failed", "UnknownFeature")


def test_what_is_over_in_time_is_no_job(http: Client) -> None:
    line = json.dumps(RECORD).encode() + b"\n"
    path = "/v1/groups/seats/ingest?id=soon"
    asked: Any = {"content_type": wire.JSON_LINES, "prefer": "respond-async, wait=10"}
    status, counts, _ = http("POST", path, line, **asked)
    assert (status, counts["accepted"] + counts["replayed"]) == (200, 1)
    status, problem, _ = http("POST", path, b"{\n", **asked)
    assert (status, problem["error"]) == (400, "InvalidRecord")
    status, begun, _ = http("POST", path, line, **asked | {"prefer": "wait=0, respond-async"})
    assert (status, wait(http, begun["href"])["state"]) == (202, "done")


def wait(http: Client, href: str) -> Any:
    while True:
        status, state, _ = http("GET", href)
        assert status == 200
        if state["state"] in ("done", "failed"):
            return state


def test_pages_of_others_are_not_answered_by_a_store_without_keys(http: Client) -> None:
    assert http("GET", "/v1/groups", origin="https://evil.example")[0] == 403
    assert http("GET", "/v1/groups", host="evil.example")[0] == 403
    assert http("GET", PATH, origin="null")[0] == 403
    assert http("POST", "/v1/flush", sec_fetch_site="cross-site")[0] == 403
    assert http("GET", "/v1/groups", origin="http://localhost:3000")[0] == 200


def test_a_path_of_a_client_is_never_opened(http: Client, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(RECORD))
    for body in (str(tmp_path / "rows.jsonl"), [str(tmp_path / "rows.jsonl")]):
        assert http("POST", "/v1/groups/seats/ingest", body)[0] == 400


# ── request ids ──────────────────────────────────────────────────────────────────────────────

GUSTS = {
    "name": "gusts", "record_identifier": "k", "event_time": "at",
    "features": {"k": "string", "at": "timestamp", "x": "float64"},
}  # fmt: skip
#: Every write of the API that takes no records: method, path, body; and another body.
WRITES: list[tuple[str, str, Any, Any]] = [
    ("POST", "/v1/groups", GUSTS, GUSTS | {"description": "other"}),
    ("PATCH", "/v1/groups/gusts", {"description": "d"}, {"description": "e"}),
    ("POST", "/v1/feature-views", {"name": "w", "features": ["gusts:x"]},
     {"name": "w", "features": ["gusts:k"]}),
    ("POST", "/v1/consumers", {"name": "c"}, {"name": "d"}),
    ("POST", "/v1/consumers/acknowledge", {"consumer": "c", "seq": 1},
     {"consumer": "c", "seq": 0}),
    ("POST", "/v1/flush?group=gusts", None, None),
    ("POST", "/v1/compact?group=gusts", None, None),
    ("DELETE", "/v1/consumers?name=c", None, None),
    ("DELETE", "/v1/feature-views/w", None, None),
    ("DELETE", "/v1/groups/gusts", None, None),
]  # fmt: skip


def test_every_write_counts_once_under_its_request_id(http: Client) -> None:
    for number, (method, path, body, other) in enumerate(WRITES):
        once = {"idempotency_key": f"once-{number}"}
        first = http(method, path, body, **once)
        assert first[0] in (200, 201, 204), (path, first[1])
        again = http(method, path, body, **once)
        assert again[:2] == first[:2], path
        if other is not None:
            assert http(method, path, other, **once)[1]["error"] == "RequestMismatch", path
    status, found, _ = http("POST", "/v1/groups", GUSTS | {"exist_ok": True})
    assert (status, found["description"]) == (201, "")  # it was deleted, and is made anew
    http("DELETE", "/v1/groups/gusts")


def test_the_openapi_offers_a_request_id_on_every_write(http: Client) -> None:
    paths = http("GET", "/openapi.json")[1]["paths"]
    reads = {"sql", "point_in_time", "verify", "scrub", "batch_get_record", "get_features"}
    reads.add("backup_since")
    for path, operations in paths.items():
        for method, operation in operations.items():
            if method == "get" or operation["operationId"] in reads:
                continue
            given = {p["name"].lower() for p in operation.get("parameters", ())}
            assert "idempotency-key" in given, f"{method} {path}"


def test_a_scan_in_one_answer(http: Client) -> None:
    status, found, _ = http("GET", "/v1/groups/seats/records?stream=true&limit=1")
    assert (status, found) == (200, [RECORD])
    arrow = http("GET", "/v1/groups/seats/records?stream=true&limit=1", accept=wire.ARROW)[1]
    assert pa.ipc.open_stream(arrow).read_all()["sold"].to_pylist() == [-(2**63)]
    assert http("GET", "/v1/groups/nope/records?stream=true")[0] == 404


def test_labels_come_as_lines_too(http: Client) -> None:
    label = {"row": str(BIG), "letter": "A+b c", "event_time": "2013-01-01T13:00:00Z"}
    line = json.dumps(label).encode() + b"\n"
    path = "/v1/point-in-time?features=seats:day&explain=true"
    status, found, _ = http("POST", path, line * 2, content_type=wire.JSON_LINES)
    assert (status, [row["day"] for row in found]) == (200, ["2013-01-01"] * 2)
    assert found[0]["seats__write_seq"] >= 1
    assert http("POST", path, b"not json", content_type=wire.JSON_LINES)[0] == 400
    assert http("POST", path, b"x", content_type="text/csv")[0] == 400


def test_odd_values_are_written_as_the_rules_say_by_the_quick_road_too(http: Client) -> None:
    group = {
        "name": "odd", "record_identifier": "k", "event_time": "at", "exist_ok": True,
        "features": {"k": "string", "at": "timestamp", "x": "float64", "y": "float32",
                     "n": "int64", "s": "string"},
    }  # fmt: skip
    assert http("POST", "/v1/groups", group)[0] == 201
    at = "2013-01-01T05:00:00Z"
    for x, y, n, s in (
        ("NaN", None, 1, "null"), ("Infinity", 1.5, None, None), ("-Infinity", "NaN", 7, "a"),
        (None, None, None, None), (0.0, -0.0, "9007199254740993", "null"), (1.0, 2.0, 3, "null"),
    ):  # fmt: skip
        record = {"k": "null", "at": at, "x": x, "y": y, "n": n, "s": s}
        assert http("POST", "/v1/groups/odd/records", {"record": record})[0] == 200
        assert http("GET", "/v1/groups/odd/record?key=null")[1]["record"] == record
