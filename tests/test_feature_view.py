"""References to features: how they are read, what they select, what they refuse."""

from __future__ import annotations

import json
import pickle
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import (
    ColumnClash,
    InvalidInput,
    InvalidName,
    UnknownFeature,
    UnknownFeatureGroup,
    UnknownFeatureView,
)
from featurestore.feature_view import (
    FeatureLookup,
    FeatureView,
    expand,
    parse_lookup,
    result_columns,
)
from featurestore.schema import define

WEATHER = define(
    "weather",
    record_identifier=["origin", "hour"],
    event_time="at",
    features={
        "temp": "float64", "origin": "string", "hour": "int64", "at": "timestamp", "gust": "int8",
    },
    id=1,
)  # fmt: skip
VIEW = FeatureView("late_flights", (FeatureLookup("weather", "temp"),))


def view(name: str) -> FeatureView:
    if name == VIEW.name:
        return VIEW
    raise UnknownFeatureView(f'There is no feature view "{name}".')


# ── references ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "lookup"),
    [
        ("weather:temp", FeatureLookup("weather", ["temp"])),
        ("weather:temp,gust", FeatureLookup("weather", ["temp", "gust"])),
        (" weather : temp , gust ", FeatureLookup("weather", ["temp", "gust"])),
        ("weather:*", FeatureLookup("weather")),
    ],
)
def test_text_that_names_features(text: str, lookup: FeatureLookup) -> None:
    assert parse_lookup(text) == lookup


@pytest.mark.parametrize("text", ["weather", "weather:", "weather:a,", "weather:,", ":"])
def test_text_that_does_not(text: str) -> None:
    with pytest.raises(InvalidInput, match='write "group:feature"'):
        parse_lookup(text)


@pytest.mark.parametrize("text", [":temp", "wea ther:temp", "a:b:c"])
def test_text_that_cannot_be_a_name(text: str) -> None:
    if text == "a:b:c":
        with pytest.raises(UnknownFeature):
            parse_lookup(text).select(WEATHER)
    else:
        with pytest.raises(InvalidName):
            parse_lookup(text)


def test_references_of_every_kind_in_one_list() -> None:
    lookup = FeatureLookup("planes")
    assert expand("late_flights", view) == VIEW.lookups
    assert expand("weather:temp", view) == VIEW.lookups
    assert expand(VIEW, view) == VIEW.lookups
    assert expand(lookup, view) == (lookup,)
    assert expand(["weather:gust", lookup, VIEW, "late_flights"], view) == (
        FeatureLookup("weather", "gust"), lookup, *VIEW.lookups, *VIEW.lookups,
    )  # fmt: skip


def test_references_that_are_none() -> None:
    with pytest.raises(UnknownFeatureView, match=r'"weather"\. \(All .* are "weather:\*"\.\)'):
        expand(["weather"], view)
    with pytest.raises(InvalidInput, match="7 is no reference to features"):
        expand([7], view)  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="No features are asked for"):
        expand([], view)


# ── selecting ────────────────────────────────────────────────────────────────────────────────


def names(lookup: FeatureLookup) -> list[str]:
    return [feature.name for feature in lookup.select(WEATHER)]


def test_a_star_is_every_feature_but_identifier_and_event_time_as_declared() -> None:
    assert names(FeatureLookup("weather")) == ["temp", "gust"]
    assert names(FeatureLookup("weather", ["at", "*", "temp"])) == ["at", "temp", "gust"]
    assert names(FeatureLookup("weather", ["gust", "temp", "gust"])) == ["gust", "temp"]
    with pytest.raises(UnknownFeature, match='Did you mean "gust"'):
        names(FeatureLookup("weather", "gusts"))


def test_names_of_columns() -> None:
    lookup = FeatureLookup("weather", prefix="dest_", rename={"gust": "squall"})
    columns = lookup.columns(WEATHER)
    assert {column: f.name for column, f in columns.items()} == {
        "dest_temp": "temp",
        "squall": "gust",
    }
    with pytest.raises(UnknownFeature, match=r'rename=.*"gusts".* Did you mean "gust"\?'):
        FeatureLookup("weather", rename={"gusts": "squall"}).columns(WEATHER)
    with pytest.raises(ColumnClash, match=r'"temp" and "gust".*the column "x"'):
        FeatureLookup("weather", rename={"gust": "x", "temp": "x"}).columns(WEATHER)


def test_keys_have_their_own_names_unless_told() -> None:
    assert FeatureLookup("weather").keys(WEATHER) == {"origin": "origin", "hour": "hour"}
    lookup = FeatureLookup("weather", on={"origin": "dest"})
    assert lookup.keys(WEATHER) == {"origin": "dest", "hour": "hour"}
    assert list(lookup.keys(WEATHER)) == list(WEATHER.record_identifier)
    with pytest.raises(UnknownFeature, match=r'"dest".*no part.*keys of the group to columns'):
        FeatureLookup("weather", on={"dest": "origin"}).keys(WEATHER)


def test_columns_of_several_lookups() -> None:
    groups = {"weather": WEATHER}
    lookups = [FeatureLookup("weather"), FeatureLookup("weather", "temp", prefix="b_")]
    assert [list(added) for added in result_columns(lookups, groups, ["origin"])] == [
        ["temp", "gust"],
        ["b_temp"],
    ]
    with pytest.raises(ColumnClash, match=r'"temp" .* the labels.*prefix=.*rename='):
        result_columns(lookups, groups, ["temp"])
    with pytest.raises(ColumnClash, match=r'"gust".*of a lookup in "weather"'):
        result_columns([*lookups, FeatureLookup("weather", "gust")], groups)
    with pytest.raises(UnknownFeatureGroup, match='Did you mean "weather"'):
        result_columns([FeatureLookup("wether")], groups)


# ── one form ─────────────────────────────────────────────────────────────────────────────────


def test_equal_lookups_are_equal_however_written() -> None:
    one = FeatureLookup("weather", "temp", on={}, max_age="120m", delay=timedelta(hours=1))
    two = FeatureLookup("weather", ["temp"], max_age="2h", delay="1h", rename={})
    assert one == two
    assert hash(one) == hash(two)
    assert one.max_age_us == 7_200_000_000
    assert one.delay_us == 3_600_000_000
    assert FeatureLookup("weather").max_age_us is None
    assert FeatureLookup("weather", max_age="0s").max_age_us == 0


def test_the_callers_dict_is_not_ours() -> None:
    on = {"origin": "dest"}
    lookup = FeatureLookup("weather", on=on)
    on["origin"] = "elsewhere"
    assert lookup.on == {"origin": "dest"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"features": []}, "at least one name"),
        ({"features": ["temp", 1]}, "at least one name"),
        ({"on": ["origin"]}, "on= is"),
        ({"on": {"origin": 1}}, "on= is"),
        ({"rename": "temp"}, "rename= is"),
        ({"prefix": None}, "prefix= is None"),
        ({"max_age": 60}, "max_age: 60 .* does not say its unit"),
        ({"delay": timedelta(seconds=-1)}, "delay: .* is negative"),
        ({"group": "weather:temp"}, "feature group name"),
    ],
)
def test_what_a_lookup_refuses(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        FeatureLookup(**{"group": "weather", **options})


def test_what_a_view_refuses() -> None:
    with pytest.raises(InvalidName):
        FeatureView("late flights", VIEW.lookups)
    with pytest.raises(InvalidInput, match='"empty" selects nothing'):
        FeatureView("empty", ())


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────

identifiers = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
renamings = st.none() | st.dictionaries(identifiers, identifiers, max_size=3)
lookups = st.builds(
    FeatureLookup,
    group=identifiers,
    features=st.lists(identifiers | st.just("*"), min_size=1, max_size=4),
    on=renamings,
    prefix=st.just("") | identifiers,
    rename=renamings,
    max_age=st.none() | st.timedeltas(timedelta(0), timedelta(days=900)),
    delay=st.none() | st.timedeltas(timedelta(0), timedelta(days=900)),
)


@given(st.builds(FeatureView, identifiers, st.lists(lookups, min_size=1).map(tuple), st.text()))
def test_views_survive_json_and_pickle(original: FeatureView) -> None:
    assert FeatureView.from_json(json.loads(json.dumps(original.to_json()))) == original
    assert pickle.loads(pickle.dumps(original)) == original
    assert [eval(repr(lookup)) for lookup in original.lookups] == list(original.lookups)
