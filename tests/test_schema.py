"""Feature groups: what may be declared, what is refused and how, what an update keeps."""

from __future__ import annotations

import dataclasses
import json
import pickle
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import dataset

from featurestore.dtypes import SCALARS, parse_dtype
from featurestore.errors import (
    CorruptStore,
    InvalidInput,
    InvalidName,
    InvalidSchema,
    UnknownFeature,
)
from featurestore.event_time import DAY_US
from featurestore.schema import (
    FEATURES_MAX,
    RESERVED,
    Feature,
    FeatureGroup,
    check_name,
    define,
    same_schema,
)
from tests.strategies import dtypes, groups, names, rows_of

WEATHER = {"origin": "string", "time_hour": "timestamp", "temp": "float64"}


def weather(**changes: Any) -> FeatureGroup:
    options = {
        "record_identifier": "origin",
        "event_time": "time_hour",
        "features": WEATHER,
        "id": 1,
    }
    return define("weather", **(options | changes))


def refusal(error: type[Exception] = InvalidSchema, **changes: Any) -> str:
    with pytest.raises(error) as caught:
        weather(**changes)
    return str(caught.value)


# ── names ────────────────────────────────────────────────────────────────────────────────────


@given(names())
def test_good_names(name: str) -> None:
    for what in ("feature group", "feature", "feature view"):
        assert check_name(name, what) == name


@pytest.mark.parametrize(
    "name",
    ["", "-a", "__a", "__", "a b", "a.b", "a/b", "../x", "a\0", "a\n", "é", "ａ", "a" * 65, "a;",
     'a"', "..", "a:b", "%2f", None, 5, b"a", ["a"]],
    ids=repr,
)  # fmt: skip
def test_bad_names(name: Any) -> None:
    for what in ("feature group", "feature", "feature view"):
        with pytest.raises(InvalidName, match=f"^{what} name"):
            check_name(name, what)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_are_for_features_only(name: str) -> None:
    for spelling in (name, name.upper()):  # SQL does not tell them apart
        assert check_name(spelling, "feature group") == spelling
        with pytest.raises(InvalidName, match="taken by a column of the store's own"):
            check_name(spelling, "feature")
    assert "store's own" in refusal(InvalidName, features=WEATHER | {name: "int64"})


def test_reserved_names_are_those_of_the_design() -> None:
    assert sorted(RESERVED) == [
        "api_invocation_time", "expires_at", "is_deleted", "write_seq", "write_time",
    ]  # fmt: skip


# ── declaring ────────────────────────────────────────────────────────────────────────────────


def test_a_definition() -> None:
    group = weather(
        ttl="2h",
        max_future=timedelta(minutes=5),
        description="hourly",
        tags={"owner": "ops"},
        feature_descriptions={"temp": "°F"},
        created_at_us=7,
    )
    assert group == FeatureGroup(
        id=1,
        name="weather",
        record_identifier=("origin",),
        event_time="time_hour",
        features=(
            Feature(1, "origin", SCALARS["string"], 1),
            Feature(2, "time_hour", SCALARS["timestamp"], 1),
            Feature(3, "temp", SCALARS["float64"], 1, "°F"),
        ),
        version=1,
        ttl_us=7_200_000_000,
        max_future_us=300_000_000,
        online=True,
        offline=True,
        description="hourly",
        tags={"owner": "ops"},
        created_at_us=7,
    )


def test_defaults() -> None:
    group = weather()
    assert (group.ttl_us, group.max_future_us) == (None, DAY_US)
    assert (group.online, group.offline, group.version) == (True, True, 1)
    assert weather(max_future=None).max_future_us is None
    assert weather(max_future="0s").max_future_us == 0


@given(groups())
def test_every_feature_has_one_role(group: FeatureGroup) -> None:
    keys = [feature.name for feature in group.key_features]
    values = [feature.name for feature in group.value_features]
    assert keys == list(group.record_identifier)
    assert sorted([*keys, group.event_time_feature.name, *values]) == sorted(
        feature.name for feature in group.features
    )
    ids = [feature.id for feature in group.value_features]
    assert ids == sorted(ids)
    assert len({feature.id for feature in group.features}) == len(group.features)
    assert min(feature.id for feature in group.features) == 1
    for feature in group.features:
        assert group.feature(feature.name) is feature


@given(st.data())
def test_rows_fit_the_group_they_are_drawn_for(data: st.DataObject) -> None:
    group = data.draw(groups())
    for name, value in data.draw(rows_of(group)).items():
        if value is not None:
            group.feature(name).dtype.check(value, name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": None}, "give either features="),
        ({"like": pa.schema([])}, "give either features="),
        ({"features": {}}, 'record_identifier "origin" is not among its features'),
        ({"record_identifier": "orign"}, 'Did you mean "origin"?'),
        ({"event_time": "timehour"}, 'Did you mean "time_hour"?'),
        ({"event_time": None}, "event_time is a NoneType; give the name of a feature"),
        ({"event_time": ["time_hour"]}, "event_time is a list; give the name of a feature"),
        ({"record_identifier": []}, "record_identifier is empty"),
        ({"record_identifier": None}, "record_identifier is a NoneType; give a name"),
        ({"record_identifier": {"origin"}}, "record_identifier is a set; give a name"),
        ({"record_identifier": [["origin"]]}, "record_identifier is a list; give the name of"),
        ({"record_identifier": [None]}, "record_identifier is a NoneType; give the name of"),
        ({"record_identifier": ["origin", "origin"]}, "names one twice"),
        ({"record_identifier": "time_hour"}, "cannot be identifier and event time at once"),
        ({"record_identifier": ("origin", "time_hour")}, "identifier and event time at once"),
        ({"event_time": "temp"}, 'event_time "temp" is float64; declare it as timestamp'),
        ({"features": WEATHER | {"time_hour": "date"}}, "is date; declare it as timestamp"),
        ({"features": WEATHER | {"Temp": "float64"}}, '"temp" and "Temp" differ only in case'),
        ({"features": WEATHER | {"gust": "double"}}, "feature \"gust\": 'double' is not a"),
        ({"features": WEATHER | {"gust": None}}, 'feature "gust": None is a NoneType'),
        ({"online": False, "offline": False}, "keeps nothing"),
        ({"features": ["origin"]}, "a list does not say its columns"),
        ({"features": WEATHER | {f"f{n}": "bool" for n in range(FEATURES_MAX)}}, "at most 2501"),
    ],
)
def test_what_cannot_be_declared(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(**changes)


def test_the_widest_group() -> None:
    many = {f"f{n}": "bool" for n in range(FEATURES_MAX - len(WEATHER))}
    assert len(weather(features=WEATHER | many).features) == FEATURES_MAX


@pytest.mark.parametrize("spelling", ["float32", "float64", "list<int8>", "vector<3>"])
def test_what_cannot_identify_a_record(spelling: str) -> None:
    words = refusal(features=WEATHER | {"origin": spelling})
    assert f'a {parse_dtype(spelling)} cannot identify a record ("origin"); ' in words
    assert "use " in words


@pytest.mark.parametrize("spelling", [s for s in SCALARS if not s.startswith("float")])
def test_what_can_identify_a_record(spelling: str) -> None:
    group = weather(features=WEATHER | {"origin": spelling})
    assert str(group.key_features[0].dtype) == spelling


@pytest.mark.parametrize(
    "changes",
    [
        {"ttl": "0s"}, {"ttl": 60}, {"ttl": "-1h"}, {"ttl": "soon"}, {"ttl": timedelta(-1)},
        {"max_future": 5}, {"tags": {"owner": 5}}, {"tags": {5: "ops"}}, {"tags": ["owner"]},
        {"description": None}, {"feature_descriptions": {"temp": 5}},
    ],
)  # fmt: skip
def test_settings_that_will_not_do(changes: dict[str, Any]) -> None:
    refusal(InvalidInput, **changes)


def test_a_description_of_no_feature() -> None:
    assert 'Did you mean "temp"?' in refusal(UnknownFeature, feature_descriptions={"tmp": "x"})


def test_a_composite_key_keeps_its_order() -> None:
    features = {"b": "int64", "t": "timestamp", "a": "string", "x": "bool"}
    group = define("g", record_identifier=["a", "b"], event_time="t", features=features, id=1)
    assert [(f.name, f.id) for f in group.key_features] == [("a", 3), ("b", 1)]
    assert [f.name for f in group.value_features] == ["x"]


# ── like= ────────────────────────────────────────────────────────────────────────────────────


class Stream:
    """Anything that speaks Arrow's C interface, and counts how often it is read."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def tables() -> list[Any]:
    frame = pd.DataFrame(
        {
            "origin": ["JFK"],
            "time_hour": pd.to_datetime(["2013-01-01T05:00:00Z"]),
            "temp": [39.0],
            "ok": [True],
            "seats": np.array([1], np.uint8),
        },
        index=pd.Index(["a row"], name="not a feature"),
    )
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return [
        table, table.schema, table.to_batches()[0], table.to_reader(), Stream(table), frame,
        pl.from_arrow(table), table.schema.remove_metadata(), dataset.dataset(table),
    ]  # fmt: skip


@pytest.mark.parametrize("like", tables(), ids=lambda table: type(table).__name__)
def test_like_a_table(like: Any) -> None:
    expected = {
        "origin": "string", "time_hour": "timestamp", "temp": "float64", "ok": "bool",
        "seats": "int16",
    }  # fmt: skip
    group = weather(features=None, like=like)
    assert {f.name: str(f.dtype) for f in group.features} == expected
    assert [f.id for f in group.features] == [1, 2, 3, 4, 5]


def test_like_a_reader_does_not_read_it() -> None:
    table = pa.table({"origin": ["JFK"], "time_hour": pa.array([0], pa.timestamp("us"))})
    reader = table.to_reader()
    weather(features=None, like=reader)
    assert reader.read_all() == table


def test_features_may_be_an_arrow_schema() -> None:
    assert weather(features=weather().arrow_schema()) == weather()


@pytest.mark.parametrize(
    ("like", "words"),
    [
        (pa.schema([("origin", pa.string()), ("origin", pa.string())]), "is there twice"),
        (pa.schema([("origin", pa.string()), ("x", pa.uint64())]), 'feature "x": no feature type'),
        (pd.DataFrame({"origin": ["a"], "x": [None]}), 'feature "x": no feature type holds null'),
        ({"origin": ["a"]}, "a dict does not say its columns"),
        ("weather.parquet", "a str does not say its columns"),
        (np.zeros(3), "a ndarray does not say its columns"),
        (pd.DataFrame({"origin": ["a", 3]}), "no type for this DataFrame: Expected bytes"),
        (pd.Series([1]), "no type for this Series"),
    ],
    ids=str,
)
def test_like_what_it_cannot_be(like: Any, words: str) -> None:
    assert words in refusal(features=None, like=like)


# ── growing ──────────────────────────────────────────────────────────────────────────────────


@given(groups(), dtypes())
def test_growing_keeps_everything_there_was(group: FeatureGroup, dtype: Any) -> None:
    grown = group.with_features({"one-more": dtype, "and-more": str(dtype)}, {"one-more": "new"})
    assert grown.version == group.version + 1
    assert grown.features[: len(group.features)] == group.features
    one, more = grown.features[len(group.features) :]
    assert (one.id, more.id) == (len(group.features) + 1, len(group.features) + 2)
    assert (one.since, more.since) == (grown.version, grown.version)
    assert (one.dtype, more.dtype) == (dtype, dtype)
    assert one.description == "new"
    assert dataclasses.replace(grown, features=group.features, version=group.version) == group


@given(groups())
def test_an_old_record_has_the_values_of_its_version(group: FeatureGroup) -> None:
    assert group.values_at(group.version) == group.value_features
    for version in range(1, group.version):
        then = group.values_at(version)
        assert then == group.value_features[: len(then)]  # slots never move
        assert {f.since for f in group.value_features[len(then) :]} == set(
            range(version + 1, group.version + 1)
        )


@pytest.mark.parametrize(
    ("additions", "error", "words"),
    [
        ({}, InvalidSchema, "no features to add"),
        ({"temp": "float64"}, InvalidSchema, 'has a feature "temp" already'),
        ({"Temp": "float64"}, InvalidSchema, "differ only in case"),
        ({"x": "int64", "X": "int64"}, InvalidSchema, "differ only in case"),
        ({"x": "integer"}, InvalidSchema, "feature \"x\": 'integer' is not"),
        ({"expires_at": "int64"}, InvalidName, "store's own"),
        ({"a b": "int64"}, InvalidName, "feature name"),
        ({f"f{n}": "bool" for n in range(FEATURES_MAX)}, InvalidSchema, "at most 2501"),
    ],
)
def test_what_cannot_be_added(additions: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        weather().with_features(additions)


def test_unknown_features() -> None:
    with pytest.raises(UnknownFeature, match=r'has no feature "tmp"\. Did you mean "temp"\?'):
        weather().feature("tmp")
    with pytest.raises(UnknownFeature):
        weather().feature("TEMP")


# ── keeping ──────────────────────────────────────────────────────────────────────────────────


@given(groups())
def test_json_and_back(group: FeatureGroup) -> None:
    group = dataclasses.replace(group, tags={"owner": "ops"}, description="é")
    again = FeatureGroup.from_json(json.loads(json.dumps(group.to_json())))
    assert again == group
    assert hash(again) == hash(group)
    assert again.value_features == group.value_features


def test_a_definition_crosses_processes_and_is_immutable() -> None:
    group = weather(tags={"owner": "ops"})
    assert group.value_features  # computed, and not part of what is compared or sent
    assert pickle.loads(pickle.dumps(group)) == group == weather(tags={"owner": "ops"})
    with pytest.raises(AttributeError):
        group.version = 2


def test_tags_are_a_copy() -> None:
    tags = {"owner": "ops"}
    group = weather(tags=tags)
    tags["owner"] = "x"
    assert group.tags == {"owner": "ops"}
    group.to_json()["tags"]["owner"] = "x"
    assert group.tags == {"owner": "ops"}


def damaged() -> list[Any]:
    good = weather().to_json()
    feature = good["features"][0]
    return [
        *({key: value for key, value in good.items() if key != left_out} for left_out in good),
        *(
            good | {"features": [{k: v for k, v in feature.items() if k != left_out}]}
            for left_out in feature
        ),
        good | {"features": good["features"] + good["features"][:1]},
        good | {"features": [feature | {"dtype": "int128"}, *good["features"][1:]]},
        good | {"features": [feature | {"dtype": "float64"}, *good["features"][1:]]},
        good | {"features": [feature | {"id": 2}, *good["features"][1:]]},
        good | {"features": 5}, good | {"record_identifier": ["other"]},
        good | {"record_identifier": None}, good | {"event_time": "temp"},
        good | {"tags": 5}, {}, None, [], 5, "weather",
    ]  # fmt: skip


@pytest.mark.parametrize("data", damaged(), ids=lambda data: str(data)[:60])
def test_a_damaged_definition_is_a_corrupt_store(data: Any) -> None:
    with pytest.raises(CorruptStore, match="definition is damaged"):
        FeatureGroup.from_json(data)


@given(groups())
def test_the_arrow_schema_carries_permanent_ids(group: FeatureGroup) -> None:
    schema = group.arrow_schema()
    assert schema.names == [feature.name for feature in group.features]
    for feature in group.features:
        field = schema.field(feature.name)
        assert field.type == feature.dtype.to_arrow()
        assert field.metadata == {b"PARQUET:field_id": str(feature.id).encode()}


# ── comparing ────────────────────────────────────────────────────────────────────────────────


@given(groups())
def test_a_group_is_the_same_as_itself(group: FeatureGroup) -> None:
    later = dataclasses.replace(
        group, id=99, description="other", tags={"a": "b"}, created_at_us=5,
        features=tuple(dataclasses.replace(f, description="x") for f in group.features),
    )  # fmt: skip
    assert same_schema(group, later) is None
    grown = group.with_features({"one-more": "bool"})
    assert same_schema(grown, group) == (
        'feature "one-more" is bool in the store, absent asked for'
    )


def test_the_order_of_features_is_no_difference() -> None:
    turned = dict(reversed(WEATHER.items()))
    assert same_schema(weather(), weather(features=turned)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": WEATHER | {"temp": "float32"}},
         'feature "temp" is float64 in the store, float32 asked for'),
        ({"features": WEATHER | {"gust": "bool"}},
         'feature "gust" is absent in the store, bool asked for'),
        ({"ttl": "1h30m"}, "ttl is unlimited in the store, 1h30m asked for"),
        ({"max_future": None}, "max_future is 1d in the store, unlimited asked for"),
        ({"online": False}, "online is True in the store, False asked for"),
        ({"offline": False}, "offline is True in the store, False asked for"),
    ],
)  # fmt: skip
def test_a_difference_is_told_in_words(changes: dict[str, Any], words: str) -> None:
    assert same_schema(weather(), weather(**changes)) == words


def test_identifier_and_event_time_are_compared_in_order() -> None:
    features = {"a": "int64", "b": "int64", "t": "timestamp", "u": "timestamp"}
    first = define("g", record_identifier=["a", "b"], event_time="t", features=features, id=1)
    second = define("g", record_identifier=["b", "a"], event_time="t", features=features, id=1)
    third = define("g", record_identifier=["a", "b"], event_time="u", features=features, id=1)
    assert same_schema(first, second) == ("record_identifier is a, b in the store, b, a asked for")
    assert same_schema(first, third) == "event_time is t in the store, u asked for"


# ── what is kept beside the schema ───────────────────────────────────────────────────────────


def test_a_definition_without_more_is_written_as_it_always_was() -> None:
    row = weather().to_json()
    assert not {"modified_at_us", "properties"} & row.keys()
    assert {frozenset(f) for f in row["features"]} == {
        frozenset({"id", "name", "dtype", "since", "description"})
    }


def test_tags_times_and_properties_survive() -> None:
    first = dataclasses.replace(weather(), properties={"some program": {"a": [1, None]}})
    told = first.with_descriptions({"temp": "°F"}, {"temp": {"owner": "ops"}}).dated(first, 77)
    assert FeatureGroup.from_json(json.loads(json.dumps(told.to_json()))) == told
    assert (told.feature("temp").modified_at_us, told.feature("origin").modified_at_us) == (77, 0)
    assert told.modified_at_us == 77
    grown = told.with_features({"gust": "float64"}).dated(told, 99)
    assert (grown.feature("gust").created_at_us, grown.feature("temp").modified_at_us) == (99, 77)
    with pytest.raises(UnknownFeature, match="tmp"):
        first.with_descriptions({"tmp": "?"})
