"""Feature groups through a real boto3: defined, described, changed, listed, searched, tagged."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError

import featurestore as fs
from featurestore.errors import InvalidInput, StoreFull
from featurestore_server.sagemaker import control, search
from featurestore_server.sagemaker.pages import page
from tests.server import aws
from tests.server.serving import serving

NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
ARN = "arn:aws:sagemaker:eu-west-1:000000000000:feature-group/"


class World:
    def __init__(self, store: fs.FeatureStore, url: str, clock: list[datetime]) -> None:
        self.store, self.url, self.clock = store, url, clock
        self.client = aws.client(aws.CONTROL, url)
        self.unchecked = aws.client(aws.CONTROL, url, parameter_validation=False)

    def create(self, name: str = "weather", **changes: Any) -> str:
        made = self.client.create_feature_group(**aws.group(name, **changes))
        return str(made["FeatureGroupArn"])

    def describe(self, name: str = "weather") -> dict[str, Any]:
        found: dict[str, Any] = self.client.describe_feature_group(FeatureGroupName=name)
        del found["ResponseMetadata"]
        return found

    def update(self, name: str = "weather", **changes: Any) -> Any:
        return self.client.update_feature_group(FeatureGroupName=name, **changes)

    def search(self, resource: str = "FeatureGroup", *filters: Any, **more: Any) -> list[Any]:
        if filters:
            listed = [
                dict(zip(("Name", "Operator", "Value"), one, strict=False)) for one in filters
            ]
            more["SearchExpression"] = {"Filters": listed}
        found = self.client.search(Resource=resource, **more)
        kind = "FeatureName" if resource == "FeatureMetadata" else "FeatureGroupName"
        return [one[resource][kind] for one in found["Results"]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    clock = [NOON]
    options: dict[str, Any] = {"clock": lambda: clock[0], "upkeep": False}
    folder = tmp_path_factory.mktemp("aws") / "store"
    with fs.open(folder, durability="rebuildable", **options) as store:
        with serving(store) as url:
            yield World(store, url, clock)
        assert store.verify() == []


@pytest.fixture
def world(served: World) -> Iterator[World]:
    yield served
    for group in served.store.list_feature_groups():
        served.store.delete_feature_group(group.name)
    served.clock[0] += timedelta(days=1)  # commits' clocks do not run backwards


def refused(client: Any, code: str, words: str) -> Any:
    """Expect an error by its class where the service models one, else by its code."""
    kind = getattr(client.exceptions, code, None) if code.startswith("Resource") else ClientError
    return pytest.raises(kind or ClientError, match=rf"(?s)\({code}\).*{words}")


# ── create, describe, delete ─────────────────────────────────────────────────────────────────


def test_a_group_is_described_as_it_was_made(world: World) -> None:
    now = world.clock[0]
    asked = aws.group(
        features=aws.WEATHER | {"c": {"FeatureType": "String", "CollectionType": "Set"}},
        OnlineStoreConfig={
            "EnableOnlineStore": True, "StorageType": "InMemory",
            "SecurityConfig": {"KmsKeyId": "key/1"},
            "TtlDuration": {"Unit": "Hours", "Value": 48},
        },
        OfflineStoreConfig={
            "S3StorageConfig": {"S3Uri": "s3://bucket/some/prefix/", "KmsKeyId": "key/2"},
            "TableFormat": "Iceberg",
        },
        ThroughputConfig={"ThroughputMode": "Provisioned", "ProvisionedReadCapacityUnits": 5,
                          "ProvisionedWriteCapacityUnits": 7},
        Description="hourly", Tags=[{"Key": "owner", "Value": "ops"}],
    )  # fmt: skip
    assert world.client.create_feature_group(**asked)["FeatureGroupArn"] == f"{ARN}weather"
    found = world.describe()
    for member in ("FeatureGroupName", "RecordIdentifierFeatureName", "EventTimeFeatureName",
                   "FeatureDefinitions", "OnlineStoreConfig", "ThroughputConfig", "RoleArn",
                   "Description"):  # fmt: skip
        assert found[member] == asked[member], member
    epoch = int(now.timestamp())
    assert found["OfflineStoreConfig"] == {
        "S3StorageConfig": {
            "S3Uri": "s3://bucket/some/prefix/", "KmsKeyId": "key/2",
            "ResolvedOutputS3Uri": "s3://bucket/some/prefix/000000000000/sagemaker/eu-west-1/"
            f"offline-store/weather-{epoch}/data",
        },
        "DisableGlueTableCreation": False, "TableFormat": "Iceberg",
        "DataCatalogConfig": {"TableName": f"weather_{epoch}", "Catalog": "AwsDataCatalog",
                              "Database": "sagemaker_featurestore"},
    }  # fmt: skip
    assert found["FeatureGroupStatus"] == "Created"
    assert found["OfflineStoreStatus"] == {"Status": "Active"}
    assert found["CreationTime"] == found["LastModifiedTime"] == now
    assert found["NextToken"] == ""
    assert world.describe(f"{ARN}weather") == found
    assert world.store.describe_feature_group("weather").ttl_us == 48 * 3_600_000_000


def test_a_group_may_have_one_store(world: World) -> None:
    world.create("on", OfflineStoreConfig=None, RoleArn=None)
    world.create("off", OnlineStoreConfig={"EnableOnlineStore": False})
    assert "OfflineStoreConfig" not in world.describe("on")
    assert world.describe("on")["OfflineStoreStatus"] == {"Status": "Disabled"}
    assert "OnlineStoreConfig" not in world.describe("off")
    assert world.describe("on")["OnlineStoreConfig"]["StorageType"] == "Standard"


def test_a_name_is_taken_once(world: World) -> None:
    world.create()
    for name in ("weather", "Weather"):
        with refused(world.client, "ResourceInUse", "weather"):
            world.create(name)


def test_a_group_is_deleted_and_its_name_free_again(world: World) -> None:
    world.create()
    world.client.delete_feature_group(FeatureGroupName="weather")
    for call in (
        world.describe,
        lambda: world.update(OnlineStoreConfig={"TtlDuration": {}}),
        lambda: world.client.delete_feature_group(FeatureGroupName="weather"),
        lambda: world.client.describe_feature_metadata(
            FeatureGroupName="weather", FeatureName="temp"
        ),
        lambda: world.client.add_tags(ResourceArn=f"{ARN}weather", Tags=[]),
    ):
        with refused(world.client, "ResourceNotFound", "weather"):
            call()
    with refused(world.client, "ValidationException", "pattern"):
        world.client.delete_feature_group(FeatureGroupName=f"{ARN}weather")
    world.create()


VECTOR = {
    "FeatureType": "Fractional", "CollectionType": "Vector",
    "CollectionConfig": {"VectorConfig": {"Dimension": 3}},
}  # fmt: skip
LIST = {"FeatureType": "String", "CollectionType": "List"}
MEMORY = {"EnableOnlineStore": True, "StorageType": "InMemory"}
W = aws.WEATHER
BAD_GROUPS: list[tuple[dict[str, Any], str]] = [
    ({"OnlineStoreConfig": None, "OfflineStoreConfig": None}, "needs an OnlineStoreConfig"),
    ({"OnlineStoreConfig": {}, "OfflineStoreConfig": None}, "needs an OnlineStoreConfig"),
    ({"features": W | {"at": "Integral"}}, "event time is String or Fractional"),
    ({"features": W | {"origin": "Fractional"}}, "String or Integral"),
    ({"RecordIdentifierFeatureName": "nothing"}, "not among the FeatureDefinitions"),
    ({"EventTimeFeatureName": "nothing"}, "not among the FeatureDefinitions"),
    ({"EventTimeFeatureName": "origin"}, "at once"),
    ({"features": W | {"is_deleted": "String"}}, "is_deleted"),
    ({"features": W | {"write_time": "String"}}, "write_time"),
    ({"features": W | {"api_invocation_time": "String"}}, "api_invocation_time"),
    ({"features": W | {"TEMP": "String"}}, "differ only in case"),
    ({"features": W | {"a-": "String"}}, "pattern"),
    ({"features": W | {"x": "Decimal"}}, "enum"),
    ({"features": W | {"x": LIST}}, "InMemory"),
    ({"features": W | {"at": LIST}, "OnlineStoreConfig": MEMORY}, "is a collection"),
    ({"features": W | {"x": VECTOR, "y": VECTOR}, "OnlineStoreConfig": MEMORY}, "one feature"),
    ({"features": W | {"x": VECTOR | {"FeatureType": "String"}}, "OnlineStoreConfig": MEMORY},
     "Fractional"),
    ({"features": W | {"x": {**VECTOR, "CollectionConfig": {}}}, "OnlineStoreConfig": MEMORY},
     "Dimension"),
    ({"features": W | {"x": {**VECTOR, "CollectionType": None}}}, "no CollectionType"),
    ({"features": W | {f"f{n}": "String" for n in range(2497)}}, "2500"),
    ({"FeatureDefinitions": aws.group()["FeatureDefinitions"] * 2}, "twice"),
    ({"FeatureGroupName": "a_"}, "pattern"),
    ({"FeatureGroupName": "x" * 65}, "64"),
    ({"FeatureGroupName": None}, "must not be null"),
    ({"Description": "x" * 129}, "128"),
    ({"RoleArn": "arn:aws:iam::1:role/x"}, "pattern"),
    ({"Tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}, "twice"),
    ({"Tags": [{"Key": "aws:a", "Value": "1"}]}, "reserved"),
    ({"Tags": [{"Key": "a#", "Value": "1"}]}, "pattern"),
    ({"OfflineStoreConfig": {"S3StorageConfig": {"S3Uri": "file:///etc"}}}, "pattern"),
    ({"OfflineStoreConfig": {}}, "s3StorageConfig"),
    ({"OfflineStoreConfig": {"S3StorageConfig": {"S3Uri": "s3://b"}, "TableFormat": "Iceberg"},
      "features": W | {"at": "Fractional"}}, "Iceberg"),
    ({"OnlineStoreConfig": {"EnableOnlineStore": True, "TtlDuration": {"Unit": "Days"}}}, "Unit"),
    ({"ThroughputConfig": {"ThroughputMode": "Provisioned"}}, "needs ProvisionedRead"),
    ({"ThroughputConfig": {"ThroughputMode": "OnDemand", "ProvisionedReadCapacityUnits": 1}},
     "is for the ThroughputMode"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BAD_GROUPS)
def test_a_group_that_cannot_be_is_refused(
    world: World, changes: dict[str, Any], words: str
) -> None:
    with refused(world.unchecked, "ValidationException", words):
        world.unchecked.create_feature_group(**aws.group(**changes))
    assert world.store.list_feature_groups() == []


def test_the_widest_group_there_may_be(world: World) -> None:
    features = W | {f"f{n}": "Integral" for n in range(2496)}
    world.create(features=features)
    assert len(world.describe()["FeatureDefinitions"]) == 2500
    with refused(world.client, "ResourceLimitExceeded", "2500"):
        world.update(FeatureAdditions=[{"FeatureName": "more", "FeatureType": "String"}])


def test_a_full_store_is_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise StoreFull("The store is full.")

    monkeypatch.setattr(control.catalog, "create_group", full)
    with refused(world.client, "ResourceLimitExceeded", "full"):
        world.create()


# ── update ───────────────────────────────────────────────────────────────────────────────────


def test_features_are_added_and_old_records_gain_nothing(world: World) -> None:
    world.create()
    runtime = aws.client(aws.RUNTIME, world.url)
    old = aws.record(origin="JFK", at="2020-01-01T12:00:00Z")
    runtime.put_record(FeatureGroupName="weather", Record=old)
    made, later = world.clock[0], world.clock[0] + timedelta(minutes=1)
    world.clock[0] = later
    additions = [{"FeatureName": "gust", "FeatureType": "Fractional"}]
    answer = world.update(FeatureAdditions=additions)
    assert answer["FeatureGroupArn"] == f"{ARN}weather"
    found = world.describe()
    assert found["FeatureDefinitions"][-1:] == additions
    assert found["LastUpdateStatus"] == {"Status": "Successful"}
    assert (found["CreationTime"], found["LastModifiedTime"]) == (made, later)
    key = {"FeatureGroupName": "weather", "RecordIdentifierValueAsString": "JFK"}
    assert runtime.get_record(**key)["Record"] == old
    for bad, words in (
        (additions, "gust"),
        ([{"FeatureName": "x", **LIST}], "InMemory"),
        ([{"FeatureName": "x", "FeatureType": "String"}] * 2, "twice"),
        ([{"FeatureName": f"x{n}", "FeatureType": "String"} for n in range(101)], "100"),
    ):
        with refused(world.unchecked, "ValidationException", words):
            world.unchecked.update_feature_group(FeatureGroupName="weather", FeatureAdditions=bad)
    for wrong in ({}, {"FeatureAdditions": additions, "OnlineStoreConfig": {}}):
        with refused(world.client, "ValidationException", "one of FeatureAdditions"):
            world.update(**wrong)


def test_the_online_store_is_changed_as_far_as_it_can_be(world: World) -> None:
    world.create()
    ttl = {"Unit": "Weeks", "Value": 2}
    world.update(OnlineStoreConfig={"TtlDuration": ttl, "StorageType": "Standard_V2"})
    assert world.describe()["OnlineStoreConfig"] == {
        "EnableOnlineStore": True, "StorageType": "Standard_V2", "TtlDuration": ttl,
    }  # fmt: skip
    world.update(OnlineStoreConfig={"TtlDuration": {}})
    assert "TtlDuration" not in world.describe()["OnlineStoreConfig"]
    for back in ("Standard", "InMemory"):
        with refused(world.client, "ValidationException", "cannot be changed"):
            world.update(OnlineStoreConfig={"StorageType": back})
    world.create("off", OnlineStoreConfig=None)
    with refused(world.client, "ValidationException", "no online store"):
        world.update("off", OnlineStoreConfig={"TtlDuration": ttl})


def test_throughput_is_kept_and_must_make_sense(world: World) -> None:
    world.create()
    units = {"ProvisionedReadCapacityUnits": 1, "ProvisionedWriteCapacityUnits": 2}
    provisioned = {"ThroughputMode": "Provisioned", **units}
    world.update(ThroughputConfig=provisioned)
    world.update(ThroughputConfig={"ProvisionedReadCapacityUnits": 9})
    found = world.describe()["ThroughputConfig"]
    assert found == provisioned | {"ProvisionedReadCapacityUnits": 9}
    world.update(ThroughputConfig={"ThroughputMode": "OnDemand"})
    assert world.describe()["ThroughputConfig"] == {"ThroughputMode": "OnDemand"}
    with refused(world.client, "ValidationException", "needs Provisioned"):
        world.update(ThroughputConfig={"ThroughputMode": "Provisioned"})


# ── metadata of features ─────────────────────────────────────────────────────────────────────


def test_a_feature_is_described_and_has_parameters(world: World) -> None:
    world.create()
    made, later = world.clock[0], world.clock[0] + timedelta(minutes=1)
    which = {"FeatureGroupName": f"{ARN}weather", "FeatureName": "temp"}
    world.clock[0] = later
    world.client.update_feature_metadata(
        **which, Description="°F",
        ParameterAdditions=[{"Key": "team", "Value": "ops"}, {"Key": "unit", "Value": "F"}],
    )  # fmt: skip
    world.client.update_feature_metadata(
        **which, ParameterAdditions=[{"Key": "unit", "Value": "C"}], ParameterRemovals=["team"]
    )
    found = world.client.describe_feature_metadata(**which)
    del found["ResponseMetadata"]
    assert found == {
        "FeatureGroupArn": f"{ARN}weather", "FeatureGroupName": "weather", "FeatureName": "temp",
        "FeatureType": "Fractional", "CreationTime": made, "LastModifiedTime": later,
        "Description": "°F", "Parameters": [{"Key": "unit", "Value": "C"}],
    }  # fmt: skip
    event_time = world.client.describe_feature_metadata(**(which | {"FeatureName": "at"}))
    assert event_time["FeatureType"] == "String"
    assert world.store.describe_feature_group("weather").feature("temp").tags == {"unit": "C"}
    for name in ("nothing", "event-time-text"):
        with refused(world.client, "ResourceNotFound", name):
            world.client.describe_feature_metadata(**(which | {"FeatureName": name}))
    many = [{"Key": f"k{n}", "Value": "v"} for n in range(25)]
    with refused(world.client, "ValidationException", "at most 25"):
        world.client.update_feature_metadata(**which, ParameterAdditions=many)
    for both in ({"ParameterAdditions": [{"Key": "a", "Value": "b"}], "ParameterRemovals": ["a"]},
                 {"ParameterAdditions": [{"Key": "a"}]}):  # fmt: skip
        with refused(world.client, "ValidationException", "parameter|Key and a Value"):
            world.client.update_feature_metadata(**which, **both)


# ── lists and pages ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def several(world: World) -> World:
    """Give the world with five groups, made a minute apart; c has an online store only."""
    for n, name in enumerate("ecadb"):
        world.create(
            name,
            OfflineStoreConfig=None if name == "c" else aws.group()["OfflineStoreConfig"],
            Description=f"group {name}",
            Tags=[{"Key": "rank", "Value": str(n)}],
        )
        world.clock[0] += timedelta(minutes=1)
    return world


def names(world: World, **asked: Any) -> str:
    found = world.client.list_feature_groups(**asked)["FeatureGroupSummaries"]
    return "".join(one["FeatureGroupName"] for one in found)


def test_groups_are_listed_in_any_order(several: World) -> None:
    made = several.clock[0] - timedelta(minutes=5)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "ecadb"),
        ({"SortOrder": "Descending"}, "bdace"),
        ({"SortBy": "Name"}, "abcde"),
        ({"SortBy": "Name", "SortOrder": "Descending"}, "edcba"),
        ({"SortBy": "FeatureGroupStatus"}, "abcde"),
        ({"SortBy": "OfflineStoreStatus"}, "abdec"),
        ({"NameContains": "C"}, "c"),
        ({"FeatureGroupStatusEquals": "Created"}, "ecadb"),
        ({"FeatureGroupStatusEquals": "Deleting"}, ""),
        ({"OfflineStoreStatusEquals": "Disabled"}, "c"),
        ({"CreationTimeAfter": made}, "cadb"),
        ({"CreationTimeBefore": made + timedelta(minutes=2)}, "ec"),
    ]
    for asked, expected in cases:
        assert names(several, **asked) == expected, asked


def test_pages_give_each_group_once_whatever_comes_and_goes(several: World) -> None:
    pages = several.client.get_paginator("list_feature_groups")
    for size in (1, 2, 3, 5, 100):
        for order, expected in (("Ascending", "abcde"), ("Descending", "edcba")):
            found = pages.paginate(
                SortBy="Name", SortOrder=order, PaginationConfig={"PageSize": size}
            )
            got = [one["FeatureGroupName"] for p in found for one in p["FeatureGroupSummaries"]]
            assert "".join(got) == expected
    first = several.client.list_feature_groups(SortBy="Name", MaxResults=2)
    several.client.delete_feature_group(FeatureGroupName="b")
    several.create("bb")
    token = first["NextToken"]
    assert names(several, SortBy="Name", NextToken=token) == "bbcde"
    for asked in ({"NextToken": token}, {"SortBy": "Name", "NextToken": "bm9uc2Vuc2U="}):
        with refused(several.client, "ValidationException", "NextToken"):
            several.client.list_feature_groups(**asked)


def test_a_forged_token_is_refused_whatever_is_in_it() -> None:
    import base64

    token = page(["a", "b"], lambda name: [name], {"MaxResults": 1}).token
    question = json.loads(base64.b64decode(token or ""))[0]
    for place in (None, 1, [1], ["a", "b"], {"a": 1}, "a"):
        forged = base64.b64encode(json.dumps([question, place]).encode()).decode()
        with pytest.raises(InvalidInput, match="NextToken"):
            page(["a", "b"], lambda name: [name], {"NextToken": forged})


# ── search ───────────────────────────────────────────────────────────────────────────────────


def test_a_search_finds_groups(several: World) -> None:
    made = several.clock[0] - timedelta(minutes=5)
    at = (made + timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%S")
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((), "bdace"),
        ((("FeatureGroupName", "Equals", "a"),), "a"),
        ((("FeatureGroupName",  "Equals", "A"),), ""),
        ((("FeatureGroupName", "NotEquals", "a"),), "bdce"),
        ((("FeatureGroupName", "In", "a, b,x"),), "ba"),
        ((("Description", "Contains", "ROUP C"),), "c"),
        ((("Tags.rank", "Equals", "2"),), "a"),
        ((("Tags.rank", "GreaterThan", "2"),), "bd"),
        ((("Tags.none", "Exists"),), ""),
        ((("OfflineStoreConfig.S3StorageConfig.S3Uri", "NotExists"),), "c"),
        ((("FeatureDefinitions.FeatureName", "Equals", "temp"),), "bdace"),
        ((("OnlineStoreConfig.EnableOnlineStore", "Equals", "true"),), "bdace"),
        ((("CreationTime", "GreaterThanOrEqualTo", at),), "bda"),
        ((("CreationTime", "LessThan", at), ("FeatureGroupName", "NotEquals", "e")), "c"),
        ((("CreationTime", "Equals", at),), "a"),
    ]  # fmt: skip
    for filters, expected in cases:
        assert "".join(several.search("FeatureGroup", *filters)) == expected, filters
    by_name = {"SortBy": "FeatureGroupName", "SortOrder": "Ascending"}
    assert several.search("FeatureGroup", **by_name) == list("abcde")
    assert several.search("FeatureGroup", CrossAccountFilterOption="CrossAccount") == []
    either = {
        "Operator": "Or",
        "Filters": [{"Name": "FeatureGroupName", "Value": "a"}],
        "SubExpressions": [{"Filters": [
            {"Name": "Tags.rank", "Operator": "LessThanOrEqualTo", "Value": "1"},
            {"Name": "Description", "Operator": "Contains", "Value": "c"},
        ]}],
        "NestedFilters": [{"NestedPropertyName": "Tags", "Filters": [
            {"Name": "Tags.Key", "Operator": "Equals", "Value": "rank"},
            {"Name": "Value", "Operator": "Equals", "Value": "4"},
        ]}],
    }  # fmt: skip
    assert several.search("FeatureGroup", **by_name, SearchExpression=either) == list("abc")
    pages = several.client.get_paginator("search").paginate(
        Resource="FeatureGroup", PaginationConfig={"PageSize": 2}, **by_name
    )
    found = [(p["TotalHits"]["Value"], len(p["Results"])) for p in pages]
    assert found == [(5, 2), (5, 2), (5, 1)]


def test_a_search_finds_features(world: World) -> None:
    world.create("weather")
    world.create("planes")
    world.clock[0] += timedelta(minutes=1)
    world.client.update_feature_metadata(
        FeatureGroupName="weather", FeatureName="temp", Description="Outside °F",
        ParameterAdditions=[{"Key": "team", "Value": "sky"}],
    )  # fmt: skip
    assert world.search("FeatureMetadata", ("Parameters.team", "Equals", "sky")) == ["temp"]
    for words in ("SK", "team"):
        assert world.search("FeatureMetadata", ("AllParameters", "Contains", words)) == ["temp"]
    assert world.search("FeatureMetadata", ("Description", "Contains", "outside")) == ["temp"]
    in_weather = ("FeatureGroupName", "Equals", "weather")
    numbers = ("FeatureType", "In", "Integral,Fractional")
    assert sorted(world.search("FeatureMetadata", in_weather, numbers)) == ["temp", "wind"]
    assert world.search("FeatureMetadata")[0] == "temp"  # the last one modified comes first
    assert len(world.search("FeatureMetadata")) == 8


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"Resource": "Model"}, "no Model"),
        ({"Resource": "Cheese"}, "enum"),
        ({"SearchExpression": {}}, "has Filters"),
        ({"SearchExpression": {"Filters": [{"Name": "x", "Operator": "Equals"}]}}, "needs a Value"),
        ({"SearchExpression": {"Filters": [{"Name": "x", "Operator": "Exists", "Value": "1"}]}},
         "no Value"),
        ({"SearchExpression": {"Filters": [{"Name": "CreationTime", "Value": "now"}]}}, "a time"),
        ({"SearchExpression": {"SubExpressions": [
            {"Filters": [{"Name": "x", "Value": "1"}] * 20}] * 3}}, "at most 50"),
        ({"SearchExpression": {"Filters": [{"Name": "x", "Value": "1"}] * 21}}, "20"),
        ({"MaxResults": 0}, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_search_that_makes_no_sense(world: World, asked: dict[str, Any], words: str) -> None:
    world.create()
    with refused(world.unchecked, "ValidationException", words):
        world.unchecked.search(**({"Resource": "FeatureGroup"} | asked))


def test_deep_expressions_do_not_fail() -> None:
    expression: dict[str, Any] = {"Filters": [{"Name": "a", "Value": "1"}]}
    for _ in range(60):
        expression = {"SubExpressions": [expression]}
    assert search.compiled(expression)({"a": "1"})


# ── tags ─────────────────────────────────────────────────────────────────────────────────────


def test_tags_are_added_listed_and_taken_away(world: World) -> None:
    arn = world.create(Tags=[{"Key": "a", "Value": "1"}])
    added = world.client.add_tags(ResourceArn=arn, Tags=[{"Key": "b", "Value": "2"}])
    assert added["Tags"] == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    world.client.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "3"}])
    world.client.delete_tags(ResourceArn=arn, TagKeys=["b", "none"])
    assert world.client.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "3"}]
    assert world.store.describe_feature_group("weather").tags == {"a": "3"}
    more = [{"Key": f"k{n}", "Value": ""} for n in range(50)]
    with refused(world.client, "ValidationException", "at most 50"):
        world.client.add_tags(ResourceArn=arn, Tags=more)
    with refused(world.client, "ResourceNotFound", "only feature groups"):
        world.client.list_tags(ResourceArn=arn.replace("feature-group", "model"))
    with refused(world.unchecked, "ValidationException", "pattern"):
        world.unchecked.list_tags(ResourceArn="weather")


def test_tags_added_at_once_are_all_there(world: World) -> None:
    arn = world.create()

    def add(n: int) -> None:
        client = aws.client(aws.CONTROL, world.url)
        client.add_tags(ResourceArn=arn, Tags=[{"Key": f"k{n}", "Value": str(n)}])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert len(world.client.list_tags(ResourceArn=arn)["Tags"]) == 24


@pytest.mark.parametrize(
    "names",
    [
        ["AWS_ENDPOINT_URL"],
        ["AWS_ENDPOINT_URL_SAGEMAKER", "AWS_ENDPOINT_URL_SAGEMAKER_FEATURESTORE_RUNTIME"],
    ],
)
def test_the_environment_is_enough(
    world: World, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    world.create()
    for name in names:
        monkeypatch.setenv(name, world.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    session = boto3.Session(region_name="us-east-1")
    listed = session.client("sagemaker").list_feature_groups()["FeatureGroupSummaries"]
    assert listed[0]["FeatureGroupArn"] == ARN.replace("eu-west-1", "us-east-1") + "weather"
    runtime = session.client("sagemaker-featurestore-runtime")
    assert runtime.list_records(FeatureGroupName="weather")["RecordIdentifiers"] == []


# ── other doors, other callers ───────────────────────────────────────────────────────────────


def test_ordinary_groups_are_shown_with_what_fits_them(world: World) -> None:
    world.store.create_feature_group(
        "ordinary", record_identifier="k", event_time="t", ttl="90m", tags={"owner": "ops"},
        features={"k": "int64", "t": "timestamp", "flag": "bool", "pair": "vector<float32, 2>",
                  "days": "list<date>"},
        description="made elsewhere",
    )  # fmt: skip
    world.store.create_feature_group(
        "two", record_identifier=["a", "b"], event_time="t",
        features={"a": "int64", "b": "int64", "t": "timestamp"},
    )  # fmt: skip
    found = world.describe("ordinary")
    kinds = [
        (one["FeatureName"], one["FeatureType"], one.get("CollectionType"))
        for one in found["FeatureDefinitions"]
    ]
    assert kinds == [
        ("k", "Integral", None), ("t", "String", None), ("flag", "Integral", None),
        ("pair", "Fractional", "Vector"), ("days", "String", "List"),
    ]  # fmt: skip
    assert found["OnlineStoreConfig"]["TtlDuration"] == {"Unit": "Minutes", "Value": 90}
    assert found["OnlineStoreConfig"]["StorageType"] == "InMemory"
    assert found["OfflineStoreConfig"]["S3StorageConfig"]["S3Uri"].startswith("s3://")
    assert names(world) == "ordinary"
    with refused(world.client, "ResourceNotFound", "2 record identifiers"):
        world.describe("two")
    world.update("ordinary", FeatureAdditions=[{"FeatureName": "x", "FeatureType": "String"}])
    assert str(world.store.describe_feature_group("ordinary").feature("x").dtype) == "string"
    world.store.create_feature_view("view", ["ordinary:flag"])
    with refused(world.client, "ValidationException", "feature view"):
        world.client.delete_feature_group(FeatureGroupName="ordinary")
    world.store.delete_feature_view("view")


@pytest.mark.parametrize(
    ("body", "target", "status", "code"),
    [
        (b"{", "SageMaker.Search", 400, "ValidationException"),
        (b"[]", "SageMaker.Search", 400, "ValidationException"),
        (b"{}", "SageMaker.Search", 400, "ValidationException"),
        (b"", "SageMaker.DescribeFeatureGroup", 400, "ValidationException"),
        (b"{}", "SageMaker.CreateModel", 404, "UnknownOperationException"),
        (b"{}", "Athena.StartQueryExecution", 404, "UnknownOperationException"),
    ],
)
def test_what_is_no_operation(
    world: World, body: bytes, target: str, status: int, code: str
) -> None:
    where = urlsplit(world.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    connection.request("POST", "/", body, {"X-Amz-Target": target})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["__type"]) == (status, code)
    connection.request("POST", "/", body)  # without a target it is nobody's
    assert connection.getresponse().status == 404
    connection.close()
