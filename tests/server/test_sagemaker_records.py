"""Records through a real boto3 over a real socket: what AWS says, and where it is silent, we do."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import featurestore as fs
from featurestore.event_time import MAX_US, MIN_US, to_datetime
from featurestore_server.sagemaker import runtime, values
from tests.server import aws
from tests.server.aws import record
from tests.server.serving import serving

NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
AT, LATER, EARLIER = "2020-01-01T12:00:00Z", "2020-01-01T13:00:00Z", "2020-01-01T11:00:00Z"
EVERY = {
    "origin": "String", "at": "String", "number": "Integral", "ratio": "Fractional",
    "word": "String",
    "counts": {"FeatureType": "Integral", "CollectionType": "List"},
    "names": {"FeatureType": "String", "CollectionType": "Set"},
    "embedding": {
        "FeatureType": "Fractional", "CollectionType": "Vector",
        "CollectionConfig": {"VectorConfig": {"Dimension": 2}},
    },
}  # fmt: skip


class World:
    """A served store with two clients, and a clock that tests set."""

    def __init__(self, store: fs.FeatureStore, url: str, clock: list[datetime]) -> None:
        self.store, self.url, self.clock = store, url, clock
        self.runtime = aws.client(aws.RUNTIME, url)
        self.unchecked = aws.client(aws.RUNTIME, url, parameter_validation=False)
        self.control = aws.client(aws.CONTROL, url)

    def put(self, group: str = "weather", *, target: Any = None, ttl: Any = None, **kw: Any) -> Any:
        more = {"TargetStores": target, "TtlDuration": ttl}
        given = {name: value for name, value in more.items() if value is not None}
        return self.runtime.put_record(FeatureGroupName=group, Record=record(**kw), **given)

    def get(self, key: str, group: str = "weather", **more: Any) -> Any:
        return aws.values(self.answer(key, group, **more))

    def answer(self, key: str, group: str = "weather", **more: Any) -> Any:
        return self.runtime.get_record(
            FeatureGroupName=group, RecordIdentifierValueAsString=key, **more
        )

    def delete(self, key: str, at: str, group: str = "weather", **more: Any) -> Any:
        return self.runtime.delete_record(
            FeatureGroupName=group, RecordIdentifierValueAsString=key, EventTime=at, **more
        )

    def update(self, key: str, group: str = "weather", *, more: Any = None, **kw: Any) -> Any:
        return self.runtime.update_record(
            FeatureGroupName=group,
            RecordIdentifierValueAsString=key,
            Features=record(**kw),
            **(more or {}),
        )

    def history(self, columns: str = "*", group: str = "weather") -> list[Any]:
        query = f'SELECT {columns} FROM history."{group}" ORDER BY write_seq'
        return self.store.sql(query).to_pylist()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    clock = [NOON]
    folder = tmp_path_factory.mktemp("aws") / "store"
    with fs.open(folder, clock=lambda: clock[0], upkeep=False, durability="rebuildable") as store:
        with serving(store) as url:
            yield World(store, url, clock)
        assert store.verify() == []


@pytest.fixture
def world(served: World) -> Iterator[World]:
    """Give the served store with groups `weather`, `kinds`, and one for each single store."""
    served.clock[0] = NOON
    fast = {"EnableOnlineStore": True, "StorageType": "Standard_V2"}
    memory = {"EnableOnlineStore": True, "StorageType": "InMemory"}
    for asked in (
        aws.group(OnlineStoreConfig=fast),
        aws.group("kinds", features=EVERY, OnlineStoreConfig=memory),
        aws.group("standard", OfflineStoreConfig=None),
        aws.group("offline", OnlineStoreConfig=None),
        aws.group("seconds", features=aws.WEATHER | {"at": "Fractional", "origin": "Integral"}),
    ):
        served.control.create_feature_group(**asked)
    yield served
    assert served.store.verify() == []
    for group in served.store.list_feature_groups():
        served.store.delete_feature_group(group.name)


def refused(client: Any, code: str, words: str) -> Any:
    """Expect an error by the class that callers catch, with words of its message."""
    kind = getattr(client.exceptions, code)
    return pytest.raises(kind, match=words)


# ── put and get ──────────────────────────────────────────────────────────────────────────────


def test_what_is_put_is_got(world: World) -> None:
    world.put(origin="JFK", at=AT, temp="39.5", wind="7")
    assert world.get("JFK") == {"origin": "JFK", "at": AT, "temp": "39.5", "wind": "7"}
    assert world.get("JFK", FeatureNames=["wind", "at", "wind"]) == {"wind": "7", "at": AT}
    assert world.get("EWR") is None
    # What is left out is absent afterwards, not null and not what it was.
    world.put(origin="JFK", at=LATER, wind="8")
    assert world.get("JFK") == {"origin": "JFK", "at": LATER, "wind": "8"}
    assert world.get("JFK", FeatureNames=["temp"]) is None


def test_every_type_there_and_back(world: World) -> None:
    full = {
        "origin": "a", "at": AT, "number": str(-(2**63)), "ratio": "1e-300", "word": "",
        "counts": ["3", "-1", "3"], "names": ["b", "a", "b"], "embedding": ["0.1", "2.0"],
    }  # fmt: skip
    world.put("kinds", **full)
    assert world.get("a", "kinds") == full | {"names": ["b", "a"]}
    world.put("kinds", origin="b", at=AT, counts=[], names=[], word="x" * 300_000)
    found = world.get("b", "kinds")
    assert (found["counts"], found["names"], len(found["word"])) == ([], [], 300_000)
    # Numbers are numbers: the shortest text of each comes back.
    world.put("kinds", origin="c", at=AT, number="+007", ratio="1.50", counts=["01"])
    assert world.get("c", "kinds", FeatureNames=["number", "ratio", "counts"]) == {
        "number": "7", "ratio": "1.5", "counts": ["1"],
    }  # fmt: skip
    for given_text, shown in (("NaN", "NaN"), ("-inf", "-Infinity"), ("5", "5.0")):
        world.put("kinds", origin="d", at=AT, ratio=given_text)
        assert world.get("d", "kinds", FeatureNames=["ratio"]) == {"ratio": shown}


@pytest.mark.parametrize(
    "key", ["", " ", "a b", "é/日本", "a%2Fb", "a+b&c=d?#;", "..", "\n\t", "~!*'()", "x" * 2045]
)
def test_any_text_identifies_a_record(world: World, key: str) -> None:
    world.put(origin=key, at=AT, wind="1")
    assert world.get(key, FeatureNames=["origin"]) == {"origin": key}
    batch = world.runtime.batch_get_record(
        Identifiers=[{"FeatureGroupName": "weather", "RecordIdentifiersValueAsString": [key]}]
    )
    assert [one["RecordIdentifierValueAsString"] for one in batch["Records"]] == [key]
    world.delete(key, AT)
    assert world.get(key) is None


@pytest.mark.parametrize(
    "name",
    [
        "arn:aws:sagemaker:eu-west-1:000000000000:feature-group/weather",
        "arn:aws-us-gov:sagemaker:us-gov-west-1:123456789012:feature-group/weather",
    ],
)
def test_a_group_is_named_by_its_arn_too(world: World, name: str) -> None:
    world.put(name, origin="JFK", at=AT, wind="7")
    world.update("JFK", name, wind="8")
    assert world.get("JFK", name, FeatureNames=["wind"]) == {"wind": "8"}
    assert world.runtime.list_records(FeatureGroupName=name)["RecordIdentifiers"] == ["JFK"]
    world.delete("JFK", AT, name)
    assert world.get("JFK", name) is None


def test_a_slash_that_is_sent_as_it_is_is_understood(world: World) -> None:
    world.put(origin="JFK", at=AT)
    where = urlsplit(world.url)
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:feature-group/weather"
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    connection.request("GET", f"/FeatureGroup/{arn}?RecordIdentifierValueAsString=JFK")
    assert b'"JFK"' in connection.getresponse().read()
    connection.close()


# ── event times ──────────────────────────────────────────────────────────────────────────────

TEXTS = [
    "2020-01-01T12:00:00Z", "2020-01-01T12:00:00.0Z", "2020-01-01T12:00:00.000Z",
    "2020-01-01T12:00:00.123Z", "2020-01-01T12:00:00.123456Z", "2020-01-01T12:00:00.123456789Z",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z",
]  # fmt: skip
SECONDS = ["1577880000", "1577880000.0", "1577880000.123456789", "1.57788e9", "-5", "-0.25", "+1."]


@pytest.mark.parametrize("text", TEXTS)
def test_an_event_time_comes_back_as_it_was_put(world: World, text: str) -> None:
    world.put(origin="JFK", at=text)
    assert world.get("JFK", FeatureNames=["at"]) == {"at": text}


@pytest.mark.parametrize("text", SECONDS)
def test_event_times_in_seconds_too(world: World, text: str) -> None:
    world.put("seconds", origin="7", at=text)
    assert world.get("7", "seconds") == {"origin": "7", "at": text}


def test_event_times_are_compared_as_instants(world: World) -> None:
    """Text order is wrong twice over: "00Z" is after "00.500Z", and "9" after "10"."""
    world.put(origin="JFK", at="2020-01-01T12:00:00.500Z", wind="2")
    world.put(origin="JFK", at="2020-01-01T12:00:00Z", wind="1")
    assert world.get("JFK", FeatureNames=["wind"]) == {"wind": "2"}
    world.put("seconds", origin="7", at="9", wind="1")
    world.put("seconds", origin="7", at="10", wind="2")
    assert world.get("7", "seconds", FeatureNames=["wind"]) == {"wind": "2"}
    assert len(world.history(group="seconds")) == 2


def test_an_older_record_goes_to_history_alone(world: World) -> None:
    world.put(origin="JFK", at=LATER, wind="2")
    world.put(origin="JFK", at=EARLIER, wind="1")
    assert world.get("JFK", FeatureNames=["wind"]) == {"wind": "2"}
    assert [row["wind"] for row in world.history()] == [2, 1]
    # Of equal event times the later accepted wins, online as in history.
    world.put(origin="JFK", at=LATER, wind="3")
    assert world.get("JFK", FeatureNames=["wind"]) == {"wind": "3"}
    assert world.store.sql('SELECT wind FROM weather ORDER BY "at"').to_pylist() == [
        {"wind": 1}, {"wind": 3},
    ]  # fmt: skip


BAD_TIMES = [
    "", "2020-01-01", "2020-01-01T12:00:00", "2020-01-01 12:00:00Z", "2020-01-01t12:00:00z",
    "2020-01-01T12:00:00+00:00", "2020-13-01T12:00:00Z", "2020-01-01T12:00:60Z", "1577880000",
    "0000-01-01T00:00:00Z", "2020-01-01T12:00:00.1234567891Z", "２020-01-01T12:00:00Z",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_TIMES)
def test_what_is_no_event_time_is_refused(world: World, text: str) -> None:
    with refused(world.runtime, "ValidationError", "EventTime"):
        world.put(origin="JFK", at=text)
    with refused(world.runtime, "ValidationError", "EventTime"):
        world.delete("JFK", text)
    for seconds in ("", "nan", "1e400", "0x1", "1_000", AT, "1e30"):
        with refused(world.runtime, "ValidationError", "EventTime"):
            world.put("seconds", origin="1", at=seconds)
    assert world.history() == world.history(group="seconds") == []


@given(us=st.integers(MIN_US, MAX_US), kind=st.sampled_from(["String", "Fractional"]))
def test_the_usual_text_of_a_moment_means_that_moment(us: int, kind: str) -> None:
    text = values.write_event_time_us(us, kind)
    assert values.read_event_time(text, kind, "at") == (to_datetime(us), None)


# ── deletes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", [None, "SoftDelete", "HardDelete"])
def test_a_deleted_record_is_gone_and_stays_so(world: World, mode: str | None) -> None:
    more = {} if mode is None else {"DeletionMode": mode}
    world.put(origin="JFK", at=AT, wind="1")
    world.delete("JFK", LATER, **more)
    assert world.get("JFK") is None
    world.put(origin="JFK", at=AT, wind="2")  # older than the delete
    assert world.get("JFK") is None
    marker = world.history('origin, wind, is_deleted, "at"')[1]
    assert marker == {"origin": "JFK", "wind": None, "is_deleted": True, "at": NOON + HOUR}
    world.put(origin="JFK", at="2020-01-01T13:00:00.001Z", wind="3")
    assert world.get("JFK", FeatureNames=["wind"]) == {"wind": "3"}


def test_a_delete_that_comes_late(world: World) -> None:
    world.put(origin="JFK", at=LATER, wind="1")
    world.delete("JFK", AT)  # soft: the record stays, the marker is in history
    assert world.get("JFK", FeatureNames=["wind"]) == {"wind": "1"}
    assert [row["is_deleted"] for row in world.history()] == [False, True]
    with refused(world.runtime, "ValidationError", "^.*EventTime: "):
        world.delete("JFK", AT, DeletionMode="HardDelete")
    assert len(world.history()) == 2


# ── TTL ──────────────────────────────────────────────────────────────────────────────────────


def test_a_record_expires_by_its_event_time(world: World) -> None:
    world.control.update_feature_group(
        FeatureGroupName="weather",
        OnlineStoreConfig={"TtlDuration": {"Unit": "Hours", "Value": 2}},
    )
    world.put(origin="group", at=AT)
    world.put(origin="own", at=AT, ttl={"Unit": "Minutes", "Value": 30})
    world.put(origin="old", at="2020-01-01T09:59:59Z")  # born expired
    world.put(origin="ever", at=AT, ttl={"Unit": "Weeks", "Value": 2**31 - 1})
    assert world.get("old") is None
    shown = {"ExpirationTimeResponse": "Enabled"}
    assert world.answer("group", **shown)["ExpiresAt"] == "2020-01-01T14:00:00Z"
    assert world.answer("own", **shown)["ExpiresAt"] == "2020-01-01T12:30:00Z"
    assert "ExpiresAt" not in world.answer("own")
    assert "ExpiresAt" not in world.answer("ever", **shown)
    world.clock[0] = NOON + HOUR / 2
    assert world.get("own") is None
    assert world.get("group") is not None
    world.clock[0] = NOON + 2 * HOUR
    assert world.get("group") is None
    # A changed TTL is for later writes; {} is none.
    world.control.update_feature_group(
        FeatureGroupName="weather", OnlineStoreConfig={"TtlDuration": {}}
    )
    world.put(origin="group2", at=AT)
    assert world.get("group2") is not None
    assert world.get("group") is None


# ── target stores ────────────────────────────────────────────────────────────────────────────


def test_writes_go_where_they_are_aimed(world: World) -> None:
    world.put(origin="on", at=AT, target=["OnlineStore"])
    world.put(origin="off", at=AT, target=["OfflineStore"])
    world.put(origin="both", at=AT, target=["OfflineStore", "OnlineStore"])
    assert [world.get(k) is not None for k in ("on", "off", "both")] == [True, False, True]
    assert [row["origin"] for row in world.history()] == ["off", "both"]
    world.delete("both", AT, TargetStores=["OfflineStore"])
    assert world.get("both") is not None
    world.delete("both", AT, TargetStores=["OnlineStore"])
    assert world.get("both") is None
    assert len(world.history()) == 3
    for group, store in (("standard", "OfflineStore"), ("offline", "OnlineStore")):
        world.put(group, origin="a", at=AT)
        with refused(world.runtime, "ValidationError", f"has {store}"):
            world.put(group, origin="a", at=AT, target=[store])
    with refused(world.runtime, "ValidationError", "no online store"):
        world.get("a", "offline")


# ── update ───────────────────────────────────────────────────────────────────────────────────


def test_an_update_changes_what_it_names(world: World) -> None:
    world.put(origin="JFK", at="2020-01-01T12:00:00.000Z", temp="1.0", wind="1")
    world.update("JFK", wind="2")
    expected = {"origin": "JFK", "at": "2020-01-01T12:00:00.000Z", "temp": "1.0", "wind": "2"}
    assert world.get("JFK") == expected
    world.update("JFK", at=AT, wind="3", origin="JFK")  # equal is applied, and its text kept
    assert world.get("JFK") == expected | {"at": AT, "wind": "3"}
    more = {"TtlDuration": {"Unit": "Hours", "Value": 1}, "TargetStores": ["OnlineStore"]}
    world.update("JFK", at=LATER, more=more)
    answer = world.answer("JFK", ExpirationTimeResponse="Enabled")
    assert answer["ExpiresAt"] == "2020-01-01T14:00:00Z"
    assert len(world.history()) == 3
    with refused(world.runtime, "ConflictException", "older than the record"):
        world.update("JFK", at=AT, wind="9")


def test_an_update_needs_a_record_and_a_store_for_it(world: World) -> None:
    with refused(world.runtime, "ResourceNotFound", "no live record"):
        world.update("JFK", wind="1")
    world.put(origin="JFK", at=AT)
    world.delete("JFK", AT)
    with refused(world.runtime, "ResourceNotFound", "no live record"):
        world.update("JFK", wind="1")
    world.put(origin="JFK", at=LATER)
    world.put("standard", origin="JFK", at=AT)
    with refused(world.runtime, "ValidationError", "Standard_V2"):
        world.update("JFK", "standard", wind="1")
    with refused(world.runtime, "ValidationError", "OnlineStore"):
        world.update("JFK", wind="1", more={"TargetStores": ["OfflineStore"]})
    with refused(world.runtime, "ValidationError", "needs the event time"):
        world.update("JFK", wind="1", more={"TtlDuration": {"Unit": "Days", "Value": 1}})
    with refused(world.runtime, "ValidationError", "identifies the record"):
        world.update("JFK", origin="EWR", wind="1")
    with refused(world.runtime, "ValidationError", "at most 100"):
        world.update("JFK", **{f"f{n}": "1" for n in range(101)})
    world.control.update_feature_group(
        FeatureGroupName="standard", OnlineStoreConfig={"StorageType": "Standard_V2"}
    )
    world.update("JFK", "standard", wind="1")


# ── batches and lists ────────────────────────────────────────────────────────────────────────


def test_a_batch_get_tells_of_each_identifier(world: World) -> None:
    world.put(origin="JFK", at=AT, wind="1")
    world.put("seconds", origin="7", at="5", wind="2")
    arn = "arn:aws:sagemaker:eu-west-1:000000000000:feature-group/seconds"
    found = world.runtime.batch_get_record(
        Identifiers=[
            {"FeatureGroupName": "weather", "RecordIdentifiersValueAsString": ["JFK", "EWR"]},
            {"FeatureGroupName": arn, "RecordIdentifiersValueAsString": ["7", "seven"],
             "FeatureNames": ["wind"]},
            {"FeatureGroupName": "nothing", "RecordIdentifiersValueAsString": ["1", "2"]},
            {"FeatureGroupName": "weather", "RecordIdentifiersValueAsString": ["JFK"],
             "FeatureNames": ["temp"]},
        ],
        ExpirationTimeResponse="Enabled",
    )  # fmt: skip
    records = [(one["FeatureGroupName"], aws.values(one)) for one in found["Records"]]
    assert records == [("weather", {"origin": "JFK", "at": AT, "wind": "1"}), (arn, {"wind": "2"})]
    failed = [
        (one["FeatureGroupName"], one["RecordIdentifierValueAsString"], one["ErrorCode"])
        for one in found["Errors"]
    ]
    assert failed == [
        (arn, "seven", "ValidationError"),
        ("nothing", "1", "ResourceNotFound"),
        ("nothing", "2", "ResourceNotFound"),
    ]
    assert found["UnprocessedIdentifiers"] == []


def test_a_batch_write_gives_back_what_failed_as_it_came(world: World) -> None:
    good = {"FeatureGroupName": "weather", "Record": record(origin="JFK", at=AT, wind="1")}
    hour, days = {"Unit": "Hours", "Value": 1}, {"Unit": "Days", "Value": 3}
    short = {**good, "Record": record(origin="EWR", at=AT), "TtlDuration": hour}
    bad = {**good, "Record": record(origin="LGA", at=AT, wind="many"), "TtlDuration": days}
    bad["TargetStores"] = ["OnlineStore"]
    nowhere = {"FeatureGroupName": "nothing", "Record": record(a="1")}
    found = world.runtime.batch_write_record(
        Entries=[good, bad, short, nowhere], TtlDuration={"Unit": "Hours", "Value": 5}
    )
    failed = [(one["Entry"], one["ErrorCode"]) for one in found["Errors"]]
    assert failed == [(bad, "ValidationError"), (nowhere, "ResourceNotFound")]
    assert found["UnprocessedEntries"] == []
    expiry = [
        world.answer(key, ExpirationTimeResponse="Enabled")["ExpiresAt"] for key in ("JFK", "EWR")
    ]
    assert expiry == ["2020-01-01T17:00:00Z", "2020-01-01T13:00:00Z"]
    assert world.get("LGA") is None
    with refused(world.runtime, "ResourceNotFound", "nothing"):
        world.runtime.batch_write_record(Entries=[nowhere])


def test_keys_are_listed_page_by_page(world: World) -> None:
    keys = {f"K{n}" for n in range(250)}
    world.store.ingest("weather", [{"origin": key, "at": NOON} for key in sorted(keys)])
    for key in ("K3", "K5"):
        world.delete(key, AT)
    world.delete("K7", AT, DeletionMode="HardDelete")
    pages = world.runtime.get_paginator("list_records")

    def listed(**options: Any) -> list[str]:
        found = pages.paginate(FeatureGroupName="weather", **options)
        return [key for page in found for key in page["RecordIdentifiers"]]

    for size in (1, 7, 100):
        options = {"PaginationConfig": {"PageSize": size}} if size != 1 else {}
        assert sorted(listed(**options)) == sorted(keys - {"K3", "K5", "K7"})
    assert sorted(listed(IncludeSoftDeletedRecords=True)) == sorted(keys - {"K7"})
    first = world.runtime.list_records(FeatureGroupName="weather", MaxResults=1)
    for token in ("x", first["NextToken"][:-5], "W10="):
        with refused(world.runtime, "ValidationError", "NextToken"):
            world.runtime.list_records(FeatureGroupName="weather", NextToken=token)
    with refused(world.runtime, "ValidationError", "NextToken"):
        world.runtime.list_records(FeatureGroupName="seconds", NextToken=first["NextToken"])


# ── errors and limits ────────────────────────────────────────────────────────────────────────


def test_a_group_that_is_not_there(world: World) -> None:
    """Only operations that model ResourceNotFound answer it."""
    calls: dict[str, list[Callable[[], Any]]] = {
        "ResourceNotFound": [
            lambda: world.get("a", "nothing"),
            lambda: world.update("a", "nothing", wind="1"),
            lambda: world.runtime.list_records(FeatureGroupName="nothing"),
        ],
        "ValidationError": [
            lambda: world.put("nothing", origin="a", at=AT),
            lambda: world.delete("a", AT, "nothing"),
        ],
    }
    for code, several in calls.items():
        for call in several:
            with refused(world.runtime, code, "nothing"):
                call()
    with refused(world.runtime, "ValidationError", "^.*: Resource Not Found: "):
        world.put("nothing", origin="a", at=AT)


IDENTIFIER = "RecordIdentifierValueAsString"
GOOD = record(origin="JFK", at=AT)
BAD_RECORDS: list[tuple[Any, str]] = [
    (record(at=AT), "origin"),
    (record(origin="JFK"), "event time"),
    (record(origin="JFK", at=AT, tmep="1"), "temp"),
    ([*GOOD, *record(at=AT)], "twice"),
    (record(origin="JFK", at=AT, wind="1.5"), "Integral"),
    (record(origin="JFK", at=AT, wind=str(2**63)), "wind"),
    (record(origin="JFK", at=AT, wind=""), "Integral"),
    (record(origin="JFK", at=AT, wind="1_000"), "Integral"),
    (record(origin="JFK", at=AT, temp="warm"), "Fractional"),
    (record(origin="JFK", at=AT, temp="1e999"), "Fractional"),
    (record(origin="JFK", at=AT, temp="0x1p3"), "Fractional"),
    (record(origin="JFK", at=AT, wind=["1"]), "no collection"),
    (record(origin=["JFK"], at=AT), "no collection"),
    ([*GOOD, {"FeatureName": "wind"}], "not a list of feature values"),
    ([*GOOD, {"FeatureName": "wind", "ValueAsString": 1}], "must be a string"),
    ([*GOOD, {"FeatureName": "wind", "ValueAsString": "1", "ValueAsStringList": []}], "and a"),
    ([*GOOD, {"ValueAsString": "1"}], "featureName"),
    ([*GOOD, {"FeatureName": "-x", "ValueAsString": "1"}], "regular expression"),
    ([*GOOD, {"FeatureName": ["wind"], "ValueAsString": "1"}], "must be a string"),
    ([], "length greater than or equal to 1"),
    (record(origin="JFK", at=AT, temp="1" * 358_401), "358400"),
    (record(origin="x" * 2046, at=AT), "2,048"),
    (record(origin="\ud800", at=AT), "surrogate"),
]


@pytest.mark.parametrize(("given_record", "words"), BAD_RECORDS)
def test_a_bad_record_is_refused_and_nothing_stored(
    world: World, given_record: Any, words: str
) -> None:
    with refused(world.unchecked, "ValidationError", words):
        world.unchecked.put_record(FeatureGroupName="weather", Record=given_record)
    assert world.history() == []


BAD_COLLECTIONS: list[tuple[dict[str, Any], str]] = [
    ({"counts": "1"}, "is a collection"),
    ({"counts": ["1", "x"]}, "Integral"),
    ({"embedding": ["1"]}, "2 expected"),
    ({"embedding": ["1", "x"]}, "Fractional"),
    ({"word": "x" * 180_000, "names": ["y" * 180_000]}, "the limit is 358,400"),
]


@pytest.mark.parametrize(("features", "words"), BAD_COLLECTIONS)
def test_a_bad_collection_is_refused(world: World, features: Any, words: str) -> None:
    with refused(world.runtime, "ValidationError", words):
        world.put("kinds", origin="a", at=AT, **features)
    assert world.history(group="kinds") == []


BAD_CALLS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda c: c.get_record(FeatureGroupName="-", RecordIdentifierValueAsString="1"), "pattern"),
    (lambda c: c.get_record(FeatureGroupName="x" * 151, RecordIdentifierValueAsString="1"), "150"),
    (lambda c: c.get_record(FeatureGroupName="weather", RecordIdentifierValueAsString="1",
                            FeatureNames=["tmep"]), "temp"),
    (lambda c: c.get_record(FeatureGroupName="weather", RecordIdentifierValueAsString="1",
                            ExpirationTimeResponse="Maybe"), "enum value set"),
    (lambda c: c.get_record(FeatureGroupName="seconds", RecordIdentifierValueAsString="seven"),
     "Integral"),
    (lambda c: c.delete_record(FeatureGroupName="weather", RecordIdentifierValueAsString="1",
                               EventTime=AT, DeletionMode="Harder"), "enum"),
    (lambda c: c.put_record(FeatureGroupName="weather", Record=GOOD, TargetStores=["Shop"]),
     "enum"),
    (lambda c: c.put_record(FeatureGroupName="weather", Record=GOOD, TargetStores=[]), "length"),
    (lambda c: c.put_record(FeatureGroupName="weather", Record=GOOD,
                            TtlDuration={"Unit": "Years", "Value": 1}), "enum"),
    (lambda c: c.put_record(FeatureGroupName="weather", Record=GOOD,
                            TtlDuration={"Unit": "Days", "Value": 0}), "greater than"),
    (lambda c: c.put_record(FeatureGroupName="weather", Record=GOOD,
                            TtlDuration={"Unit": "Days"}), "not be null"),
    (lambda c: c.list_records(FeatureGroupName="weather", MaxResults=101), "less than"),
    (lambda c: c.list_records(FeatureGroupName="weather", MaxResults=True), "integer"),
    (lambda c: c.batch_get_record(Identifiers=[]), "length"),
    (lambda c: c.batch_get_record(Identifiers=[
        {"FeatureGroupName": "weather", "RecordIdentifiersValueAsString": ["1"] * 101}]), "100"),
    (lambda c: c.batch_get_record(Identifiers=[
        {"FeatureGroupName": "weather", "RecordIdentifiersValueAsString": ["1"] * 60}] * 2),
     "quota is 100"),
    (lambda c: c.batch_write_record(Entries=[
        {"FeatureGroupName": "weather", "Record": GOOD}] * 26), "25"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), BAD_CALLS)
def test_a_request_that_breaks_a_constraint_is_refused(
    world: World, call: Callable[[Any], Any], words: str
) -> None:
    with refused(world.unchecked, "ValidationError", words):
        call(world.unchecked)
    assert world.history() == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/FeatureGroup/weather", b'{"Record": [', 400),
        ("PUT", "/FeatureGroup/weather", b'{"Record": []}{"Record": []}', 400),
        ("PUT", "/FeatureGroup/weather", b"GET /FeatureGroup/weather HTTP/1.1\r\n", 400),
        ("PUT", "/FeatureGroup/weather", b"[1]", 400),
        ("PUT", "/FeatureGroup/weather", b'{"Record": NaN}', 400),
        ("PUT", "/FeatureGroup/weather", b'{"Record": [], "Record": []}', 400),
        ("PUT", "/FeatureGroup/weather", b'{"Record": ["wind"]}', 400),
        ("PUT", "/FeatureGroup/weather", b'{"Record": {"a": 1}}', 400),
        ("PUT", "/FeatureGroup/weather", b'{"Record": "text"}', 400),
        ("PUT", "/FeatureGroup/weather", b'{"Record": null}', 400),
        ("PUT", "/FeatureGroup/weather", b'{"Record": 7}', 400),
        ("PUT", "/FeatureGroup/weather", b"\xff", 400),
        ("PUT", "/FeatureGroup/weather", b"[" * 100_000, 400),
        ("PUT", "/FeatureGroup/weather", b" " * ((4 << 20) + 1), 400),
        ("PUT", "/FeatureGroup/%ff", b"{}", 400),
        ("PUT", "/FeatureGroup/", b"{}", 400),
        ("GET", "/FeatureGroup/weather?RecordIdentifierValueAsString=%ff", b"", 400),
        ("GET", f"/FeatureGroup/weather?{IDENTIFIER}=a&{IDENTIFIER}=b", b"", 400),
        ("PATCH", "/FeatureGroup/weather", b"", 404),
        ("POST", "/FeatureGroup/weather", b"{}", 404),
        ("POST", "/FeatureGroup/weather/Records", b"{}", 404),
        ("GET", "/BatchGetRecord", b"", 404),
    ],
)  # fmt: skip
def test_what_is_no_request_at_all(
    world: World, method: str, path: str, body: bytes, status: int
) -> None:
    """Forked clients that share a socket send such things: each is refused, nothing is stored."""
    where = urlsplit(world.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    connection.request(method, path, body)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    assert (answer.status, bool(found["Message"])) == (status, True)
    assert answer.getheader("x-amzn-errortype") in ("ValidationError", "UnknownOperationException")
    connection.close()
    assert world.history() == []


def test_too_many_writes_at_once_are_sent_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "PENDING_MAX", 1)
    with refused(world.runtime, "ServiceUnavailable", "come again"):
        world.runtime.batch_write_record(
            Entries=[{"FeatureGroupName": "weather", "Record": GOOD}] * 2
        )
    world.put(origin="JFK", at=AT)


def test_a_failure_inside_is_ours_and_says_nothing_of_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr(runtime.reader, "find", broken)
    with refused(world.runtime, "InternalFailure", "failed inside") as caught:
        world.get("JFK")
    assert "secret" not in str(caught.value)


# ── one store, two doors ─────────────────────────────────────────────────────────────────────


def test_a_group_made_here_is_an_ordinary_one(world: World) -> None:
    world.put(origin="JFK", at="2020-01-01T12:00:00.000Z", temp="39.0", wind="7")
    store = world.store
    expected = {"origin": "JFK", "at": NOON, "temp": 39.0, "wind": 7}
    found = store.get_record("weather", "JFK")
    assert found == expected | {values.TEXT_FEATURE: "2020-01-01T12:00:00.000Z"}
    labels = {"origin": ["JFK"], "event_time": [NOON]}
    joined = store.point_in_time(labels, "weather:temp")
    assert joined["temp"].to_pylist() == [39.0]
    # What is put there is got here, with the usual text of its moment.
    store.put_record("weather", {"origin": "EWR", "at": NOON + HOUR, "temp": 1.0})
    assert world.get("EWR") == {"origin": "EWR", "at": LATER, "temp": "1.0"}
    store.put_record("seconds", {"origin": 7, "at": NOON})
    assert world.get("7", "seconds", FeatureNames=["at"]) == {"at": "1577880000.0"}


ORDINARY = {
    "k": "int16", "t": "timestamp", "flag": "bool", "single": "float32", "day": "date",
    "seen": "timestamp", "raw": "binary", "times": "list<timestamp>", "flags": "list<bool>",
    "pair": "vector<float32, 2>",
}  # fmt: skip


def test_an_ordinary_group_is_served_here(world: World) -> None:
    world.store.create_feature_group(
        "ordinary", record_identifier="k", event_time="t", features=ORDINARY
    )
    texts = {
        "k": "7", "t": AT, "flag": "1", "single": "0.5", "day": "2020-01-01", "seen": LATER,
        "raw": "AAE=", "times": [AT, LATER], "flags": ["0", "1"], "pair": ["1.0", "-2.0"],
    }  # fmt: skip
    world.put("ordinary", **texts)
    assert world.get("7", "ordinary") == texts
    assert world.store.get_record("ordinary", 7) == {
        "k": 7, "t": NOON, "flag": True, "single": 0.5, "day": NOON.date(), "seen": NOON + HOUR,
        "raw": b"\0\1", "times": [NOON, NOON + HOUR], "flags": [False, True], "pair": [1.0, -2.0],
    }  # fmt: skip
    world.update("7", "ordinary", flag="0")
    assert world.get("7", "ordinary", FeatureNames=["flag"]) == {"flag": "0"}
    listed = world.runtime.list_records(FeatureGroupName="ordinary")
    assert listed["RecordIdentifiers"] == ["7"]
    for bad in ({"flag": "yes"}, {"raw": "%"}, {"day": "today"}, {"seen": "now"}, {"k": "70000"}):
        with refused(world.runtime, "ValidationError", next(iter(bad))):
            world.put("ordinary", **(texts | bad))
    # Its own limit on the future holds here as there.
    with refused(world.runtime, "ValidationError", "in the future"):
        world.put("ordinary", **(texts | {"t": "2021-01-01T00:00:00Z"}))


def test_what_has_no_words_here_is_not_here(world: World) -> None:
    for name, key in (("two", ["a", "b"]), ("_odd", "a")):
        world.store.create_feature_group(
            name, record_identifier=key, event_time="t",
            features={"a": "string", "b": "string", "t": "timestamp"},
        )  # fmt: skip
    with refused(world.runtime, "ResourceNotFound", "2 record identifiers"):
        world.get("a", "two")
    with refused(world.runtime, "ValidationError", "pattern"):
        world.get("a", "_odd")


# ── at once ──────────────────────────────────────────────────────────────────────────────────


def test_many_callers_at_once_lose_nothing(world: World) -> None:
    """Eight threads put, update and read; the greatest event time of each key is what stays."""
    local = threading.local()

    def mine() -> Any:
        if not hasattr(local, "client"):
            local.client = aws.client(aws.RUNTIME, world.url)
        return local.client

    def work(n: int) -> None:
        key, at = f"K{n % 5}", (NOON + timedelta(seconds=n)).strftime("%Y-%m-%dT%H:%M:%SZ")
        given_record = record(origin=key, at=at, wind=str(n))
        mine().put_record(FeatureGroupName="weather", Record=given_record)
        found = aws.values(
            mine().get_record(FeatureGroupName="weather", RecordIdentifierValueAsString=key)
        )
        assert found is not None
        assert int(found["wind"]) >= n

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    assert [world.get(f"K{n}", FeatureNames=["wind"]) for n in range(5)] == [
        {"wind": str(195 + n)} for n in range(5)
    ]
    assert sorted(row["wind"] for row in world.history("wind")) == list(range(200))


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=TEXT,
    word=TEXT,
    ratio=st.floats(),
    number=st.integers(-(2**63), 2**63 - 1),
    names=st.lists(TEXT, max_size=4),
    counts=st.lists(st.integers(-9, 9), max_size=4),
)
def test_whatever_is_put_is_got(world: World, key: str, word: str, ratio: float, number: int,
                                names: list[str], counts: list[int]) -> None:  # fmt: skip
    world.put(
        "kinds", origin=key, at=AT, word=word, ratio=repr(ratio), number=str(number), names=names,
        counts=[str(n) for n in counts],
    )  # fmt: skip
    found = world.get(key, "kinds")
    assert (found["word"], found["number"]) == (word, str(number))
    assert (found["names"], found["counts"]) == (
        list(dict.fromkeys(names)),
        [str(n) for n in counts],
    )
    assert repr(float(found["ratio"])) == repr(ratio)


def test_other_errors_of_the_service_are_client_errors(world: World) -> None:
    with pytest.raises(ClientError) as caught:
        world.control.list_training_jobs()
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"
