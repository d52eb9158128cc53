"""The tables of shapes are those of botocore's service models, member by member."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.session import get_session
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidInput
from featurestore_server.sagemaker import model
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

OPERATIONS = [(service, name) for service, table in model.MODELS.items() for name in table]


def theirs(service: str, operation: str) -> Any:
    return get_session().get_service_model(service).operation_model(operation)


def assert_same(shape: Any, ours: Shape, path: str, seen: tuple[str, ...] = ()) -> None:
    limits = shape.metadata
    if shape.type_name == "structure":
        assert isinstance(ours, Members), path
        assert ours.shapes.keys() == shape.members.keys(), path
        assert set(ours.required) == set(shape.required_members), path
        if shape.name in seen:
            return
        for name, member in shape.members.items():
            assert_same(member, ours.shapes[name], f"{path}.{name}", (*seen, shape.name))
    elif shape.type_name == "list":
        assert isinstance(ours, Several), path
        assert (ours.min, ours.max) == (limits.get("min", 0), limits.get("max")), path
        assert_same(shape.member, ours.member, f"{path}[]", seen)
    elif shape.type_name == "string" and "enum" in limits:
        assert isinstance(ours, Choice), path
        assert set(ours.words) == set(limits["enum"]), path
    elif shape.type_name == "string":
        found = (limits.get("min", 0), limits.get("max"), limits.get("pattern"))
        assert isinstance(ours, Text), path
        assert (ours.min, ours.max, ours.pattern) == found, path
    elif shape.type_name == "integer":
        assert isinstance(ours, Whole), path
        assert (ours.min, ours.max) == (limits.get("min"), limits.get("max")), path
    else:
        assert {"boolean": Flag, "timestamp": Moment}[shape.type_name] is type(ours), path


@pytest.mark.parametrize(("service", "operation"), OPERATIONS)
def test_every_input_is_the_models(service: str, operation: str) -> None:
    shape = theirs(service, operation).input_shape
    assert_same(shape, expected(service, operation), operation)


def expected(service: str, operation: str) -> Shape:
    return model.MODELS[service][operation]


def test_every_operation_of_the_runtime_is_here() -> None:
    known = get_session().get_service_model(aws.RUNTIME).operation_names
    assert set(known) == set(model.RUNTIME)
    names = get_session().get_service_model(aws.CONTROL).operation_names
    about = {name for name in names if "FeatureGroup" in name or "FeatureMetadata" in name}
    assert about <= set(model.CONTROL)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.data())
def test_a_shape_takes_or_refuses_and_never_fails(data: st.DataObject) -> None:
    service, operation = data.draw(st.sampled_from(OPERATIONS))
    shape = model.MODELS[service][operation]
    names = st.sampled_from(sorted(shape.shapes))
    asked = data.draw(st.dictionaries(names, ANYTHING))
    try:
        found = shape.check(asked)
    except InvalidInput:
        return
    assert found.keys() <= asked.keys()


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (model.GROUP, ["a", "a-_b", "A1", "x" * 64], ["", "-a", "a-", "_a", "a b", "é", "a\n"]),
        (
            r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)",
            ["", "équipe a/b@c", "日本", "٣"],
            ["a\tb", "a#b", "a\n"],
        ),
        ("(https|s3)://([^/]+)/?(.*)", ["s3://b", "s3://b/c/d"], ["s3:/b", "ftp://b", "s3://"]),
    ],
)
def test_patterns_take_the_whole_text(pattern: str, good: list[str], bad: list[str]) -> None:
    shape = Text(pattern=pattern)
    for text in good:
        assert shape.check(text, "x") == text
    for text in bad:
        with pytest.raises(InvalidInput, match="regular expression"):
            shape.check(text, "x")
