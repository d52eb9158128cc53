"""Requests made from the OpenAPI, good and bad: none is answered by a 500, and all as documented.

The long form is ``HYPOTHESIS_PROFILE=nightly pytest tests/server/test_schemathesis.py``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import InvalidArgument, Unsatisfiable

import featurestore as fs
from featurestore.engine.database import open_database
from featurestore_server.access import Keys
from tests.server.serving import LIMITS, serving

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module", params=["open to all", "with API keys"])
def api(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with fs.open(tmp_path_factory.mktemp("schema") / "store") as store:
        for name in ("weather", "seats"):
            store.create_feature_group(
                name,
                record_identifier="origin",
                event_time="time_hour",
                features={"origin": "string", "time_hour": "timestamp", "temp": "float64"},
            )
            store.put_record(name, {"origin": "JFK", "time_hour": NOON, "temp": 39.0})
        store.create_feature_view("late_flights", ["weather:temp"])
        database = open_database(store.path)
        keyed = request.param == "with API keys"
        headers = {}
        if keyed:
            key, _ = Keys(database).create("checker", ["admin"])
            headers = {"authorization": f"Bearer {key}"}
        with serving(store, LIMITS._replace(sql_seconds=5.0)) as url:
            loaded = schemathesis.openapi.from_url(f"{url}/openapi.json")
            # The first key that is made shuts out whoever has none.
            yield loaded if keyed else loaded.exclude(path_regex="^/v1/keys"), headers
        assert store.verify() == []
        database.close()


def answer_of(case: Any, headers: dict[str, str]) -> tuple[int, str, bytes]:
    """Ask; of the stream of changes only the head is read, since it has no end."""
    if case.path != "/v1/changes":
        found = case.call(headers=headers)
        return found.status_code, found.headers.get("content-type", [""])[0], found.content
    sent = case.as_transport_kwargs(headers=headers)
    with requests.request(**sent, stream=True, timeout=10) as found:
        kind = found.headers.get("content-type", "")
        return found.status_code, kind, found.content if found.status_code >= 400 else b""


def check(case: Any, headers: dict[str, str]) -> None:
    status, kind, body = answer_of(case, headers)
    assert status < 500 or status in (503, 507), body
    if status >= 400:
        assert kind == "application/problem+json", body
        found = json.loads(body)
        assert found["status"] == status
        assert found["detail"]


def test_no_request_is_answered_by_a_failure(api: Any) -> None:
    schema, headers = api
    # Twenty of each kind for each operation in CI, two hundred at night.
    examples = max(2, settings().max_examples // 5)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= (38 if headers else 34)
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @settings(suppress_health_check=list(HealthCheck), max_examples=examples)
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                check(case, headers)

            with contextlib.suppress(Unsatisfiable, InvalidArgument):
                ask()
