"""Requests made from the tables of shapes, good and bad: none is answered by a failure of ours.

The long form is ``HYPOTHESIS_PROFILE=nightly pytest tests/server/test_sagemaker_fuzz.py``.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore_server.sagemaker.model import CONTROL, RUNTIME
from featurestore_server.sagemaker.shapes import (
    Choice,
    Flag,
    Members,
    Moment,
    Several,
    Shape,
    Text,
    Whole,
)
from tests.server import aws
from tests.server.serving import serving
from tests.server.test_sagemaker_records import EVERY

ARN = "arn:aws:sagemaker:eu-west-1:000000000000:feature-group/weather"
#: Words that mean something somewhere, so that requests get past the first door.
WORDS = st.sampled_from(
    [
        "weather", "kinds", "nothing", ARN, *EVERY, "temp", "wind", "2020-01-01T12:00:00Z", "1",
        "-1.5", "NaN", "", "a", "\ud800", "\0", "x" * 70, "CreationTime", "Tags.a", "FeatureType",
        "FeatureDefinitions.FeatureName", "OnlineStoreConfig", "s3://bucket", "key", "W10=",
    ]
)  # fmt: skip
ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.just([]) | st.just({})


def strategy(shape: Shape, depth: int = 0) -> st.SearchStrategy[Any]:
    """Return values that mostly have a shape."""
    match shape:
        case Text():
            good: st.SearchStrategy[Any] = WORDS | st.text(max_size=5)
        case Choice(words=words):
            good = st.sampled_from(words)
        case Whole():
            good = st.sampled_from([1, 2, 3, 50, 100, 0, -1, 10**30])
        case Flag():
            good = st.booleans()
        case Moment():
            good = st.integers(0, 2**31) | st.just(1e300) | st.just(-1.5)
        case Several(member=member):
            good = st.lists(strategy(member, depth), max_size=3)
        case Members(shapes=shapes, required=required) if depth < 4:
            made = {name: strategy(one, depth + 1) for name, one in shapes.items()}
            needed = {name: made[name] for name in required}
            rest = {name: one for name, one in made.items() if name not in required}
            good = st.fixed_dictionaries(needed, optional=rest)
        case _:
            good = st.just({})
    # One in twenty is something else.
    return st.integers(0, 19).flatmap(lambda n: good if n else ODD)


CALLS = {name: strategy(shape) for name, shape in {**CONTROL, **RUNTIME}.items()}
HTTP = {
    "PutRecord": ("PUT", ""), "GetRecord": ("GET", ""), "DeleteRecord": ("DELETE", ""),
    "UpdateRecord": ("POST", "/Record"), "ListRecords": ("POST", "/ListRecords"),
}  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("fuzz") / "store"
    with fs.open(folder, durability="rebuildable", upkeep=False) as store:
        with serving(store) as address:
            client = aws.client(aws.CONTROL, address)
            client.create_feature_group(**aws.group())
            memory = {"EnableOnlineStore": True, "StorageType": "InMemory"}
            client.create_feature_group(
                **aws.group("kinds", features=EVERY, OnlineStoreConfig=memory)
            )
            yield address
        assert store.verify() == []


def escaped(value: Any) -> str:
    """Return a value as a part of a path or a query."""
    return quote(str(value), safe="", errors="replace")


def request(operation: str, asked: Any) -> tuple[str, str, bytes, dict[str, str]]:
    """Return a request as it goes over the wire."""
    if operation in CONTROL:
        body = json.dumps(asked).encode()
        return "POST", "/", body, {"X-Amz-Target": f"SageMaker.{operation}"}
    if operation not in HTTP:
        return "POST", f"/{operation}", json.dumps(asked).encode(), {}
    method, end = HTTP[operation]
    members = dict(asked) if isinstance(asked, dict) else {}
    group = escaped(members.pop("FeatureGroupName", "weather"))
    path = f"/FeatureGroup/{group}{end}"
    if method in ("PUT", "POST"):
        return method, path, json.dumps(members).encode(), {}
    pairs = [
        f"{name.replace('FeatureNames', 'FeatureName')}={escaped(one)}"
        for name, value in members.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    return method, f"{path}?{'&'.join(pairs)}", b"", {}


@given(data=st.data())
def test_no_request_is_answered_by_a_failure(url: str, data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from(sorted(CALLS)))
    # The groups stay, so that the others have something to be about.
    if operation == "DeleteFeatureGroup":
        return
    asked = data.draw(CALLS[operation])
    method, path, body, headers = request(operation, asked)
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.read()
    connection.close()
    assert answer.status < 500, (operation, asked, found)
    if answer.status == 200:
        assert not found or isinstance(json.loads(found), dict)
    else:
        said = json.loads(found)
        assert said["Message"]
        assert said["__type"] == answer.getheader("x-amzn-errortype")
