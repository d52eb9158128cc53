"""Requests made from the OpenAPI, good and bad: none is answered by a 500, and all as documented.

The long form is ``HYPOTHESIS_PROFILE=nightly pytest tests/server/test_schemathesis.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import InvalidArgument, Unsatisfiable

import featurestore as fs
from tests.server.serving import LIMITS, serving

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
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
        with serving(store, LIMITS._replace(sql_seconds=5.0)) as url:
            loaded = schemathesis.openapi.from_url(f"{url}/openapi.json")
            # A stream without end is for test_serving, and a key would shut everybody else out.
            yield loaded.exclude(path="/v1/changes").exclude(path_regex="^/v1/keys")
        assert store.verify() == []


def check(case: Any) -> None:
    answer = case.call()
    assert answer.status_code < 500 or answer.status_code in (503, 507), answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == ["application/problem+json"], answer.text
        found = answer.json()
        assert found["status"] == answer.status_code
        assert found["detail"]


def test_no_request_is_answered_by_a_failure(api: Any) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) >= 30
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @settings(suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                check(case)

            with contextlib.suppress(Unsatisfiable, InvalidArgument):
                ask()
