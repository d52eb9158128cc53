"""Filters and joins, by the examples of AWS's guide; and what cannot be read is refused.

The examples are those of "Associate Prediction Results with Input Records" (SageMaker's developer
guide) and of ``DataProcessing`` in its API reference.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.batch import jsonpath, payloads
from featurestore.batch.payloads import CSV, JSON, JSON_LINES, BadRecord

FEATURES = {"id": 7, "features": [1, 2, 3], "note": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("$", FEATURES, FEATURES),
        ("$.features", FEATURES, [1, 2, 3]),
        ("$['features']", FEATURES, [1, 2, 3]),
        ("$['id','note']", FEATURES, {"id": 7, "note": {"a": 1, "b": 2}}),
        ("$.note['a','b']", FEATURES, {"a": 1, "b": 2}),
        ("$.note.['a', 'b']", FEATURES, {"a": 1, "b": 2}),
        ("$.note.*", FEATURES, [1, 2]),
        ("$.features[*]", FEATURES, [1, 2, 3]),
        ("$.features[0:2]", FEATURES, [1, 2]),
        ("$.features[-1]", FEATURES, 3),
        ("$[0]", [4, 5, 6], 4),
        ("$[1:]", [4, 5, 6], [5, 6]),
        ("$[:2]", [4, 5, 6], [4, 5]),
        ("$[0,-1]", [4, 5, 6], [4, 6]),
        ("$[1:4]", list("abcdef"), list("bcd")),  # without the end, as in JSONPath itself
        ("$[2:99]", [4, 5, 6], [6]),
        ("$[-2:]", [4, 5, 6], [5, 6]),
        # the guide's table of operators
        ("$.id", {"id": 7}, 7),
        ("$.id.*", {"id": {"a": 1, "b": [2]}}, [1, [2]]),
        (
            "$['id','SageMakerOutput']",
            {"id": 7, "f": [1], "SageMakerOutput": {"label": 1}},
            {"id": 7, "SageMakerOutput": {"label": 1}},
        ),
        ("$[1]", list("abcdef"), "b"),
        ("$[1,3,5]", list("abcdef"), list("bdf")),
        ("$[2:5]", list("abcdef"), list("cde")),
        ("$[:5]", list("abcdefg"), list("abcde")),
        ("$[2:]", list("abcdef"), list("cdef")),
        ("$[5:]", list("abcdefg"), list("fg")),  # "from the 6th column through the last"
        (
            "$.field1.['child1','child2']",
            {"field1": {"child1": 1, "child2": 2, "child3": 3}},
            {"child1": 1, "child2": 2},
        ),
    ],
)
def test_a_filter_selects(text: str, value: Any, expected: Any) -> None:
    assert jsonpath.parse(text).of(value) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$.nothing", FEATURES),
        ("$['id','nothing']", FEATURES),
        ("$[3]", [4, 5, 6]),
        ("$[0,9]", [4, 5, 6]),
        ("$[0]", FEATURES),
        ("$.id.deeper", FEATURES),
        # "additional nesting of children within brackets is not supported"
        (
            "$.field1.['child1','child2.grandchild']",
            {"field1": {"child1": 1, "child2": {"grandchild": 2}}},
        ),
        ("$.id", ["a", "CSV", "row"]),  # "only index based JSONPaths can be applied"
    ],
)
def test_what_is_not_there_is_an_error(text: str, value: Any) -> None:
    with pytest.raises(jsonpath.NotThere):
        jsonpath.parse(text).of(value)


@pytest.mark.parametrize(
    "text", ["", "features", "$features", "$..a", "$[", "$[a]", "$" + "x" * 63]
)
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(fs.InvalidInput):
        jsonpath.parse(text)


@given(
    st.lists(st.integers()),
    st.none() | st.integers(-5, 5),
    st.none() | st.integers(-5, 5),
)
def test_a_slice_is_pythons(values: list[int], start: int | None, end: int | None) -> None:
    text = f"$[{'' if start is None else start}:{'' if end is None else end}]"
    assert jsonpath.parse(text).of(values) == values[start:end]


def kept(record: str, answer: str, kind: str, output_filter: str = "$") -> str:
    chosen = jsonpath.parse(output_filter)
    return payloads.joined(record.encode(), answer.encode(), kind, chosen).decode()


def test_a_csv_answer_is_appended() -> None:
    assert kept("1,2,3", "1", CSV) == "1,2,3,1"  # the guide's
    assert kept("1,5.1,3.5", "0.7", CSV) == "1,5.1,3.5,0.7"
    assert kept("1,5.1,3.5", "0.7", CSV, "$[0,-1]") == "1,0.7"
    assert kept("1,5.1,3.5", "0.7,0.3", CSV, "$[3:]") == "0.7,0.3"
    assert kept('"a, b",5', "x", CSV, "$[0,-1]") == '"a, b",x'


def test_a_json_answer_is_an_attribute_and_what_is_no_object_becomes_one() -> None:
    assert json.loads(kept('{"key": 1}', '{"label": 1}', JSON)) == {
        "key": 1, "SageMakerOutput": {"label": 1},
    }  # fmt: skip
    reserved = kept('{"SageMakerOutput": 1}', "2", JSON)  # "might be overwritten"
    assert json.loads(reserved) == {"SageMakerOutput": 2}
    record = '{"id": 7, "features": [1, 2]}'
    assert json.loads(kept(record, '{"score": 0.7}', JSON_LINES)) == {
        "id": 7, "features": [1, 2], "SageMakerOutput": {"score": 0.7},
    }  # fmt: skip
    assert json.loads(kept(record, "0.7", JSON_LINES, "$['id','SageMakerOutput']")) == {
        "id": 7, "SageMakerOutput": 0.7,
    }  # fmt: skip
    assert json.loads(kept("[1, 2]", "0.7", JSON_LINES)) == {
        "SageMakerInput": [1, 2], "SageMakerOutput": 0.7,
    }  # fmt: skip
    with pytest.raises(BadRecord, match="unable to parse data as JSON"):
        kept(record, "0.7 and", JSON_LINES)


def test_the_model_is_given_what_the_filter_leaves() -> None:
    chosen = jsonpath.parse("$[1:]")
    assert payloads.given(b"id-1,5.1,3.5", CSV, chosen) == b"5.1,3.5"
    assert payloads.given(b'"x, y","5,1",3', CSV, chosen) == b'"5,1",3'
    features = jsonpath.parse("$.features")
    assert (
        payloads.given(b'{"features": [1, "\xc3\xa9"]}', JSON_LINES, features) == '[1,"é"]'.encode()
    )
    with pytest.raises(BadRecord, match="cannot be applied"):
        payloads.given(b"{}", JSON_LINES, features)


@given(
    st.lists(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"))), min_size=1)
)
def test_a_csv_row_is_read_as_it_was_written(rows: list[list[str]]) -> None:
    for row in rows:
        if row and row != [""]:
            assert payloads.parsed(payloads.written(row, CSV), CSV) == row


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=30),
    st.integers(0, 40),
    st.integers(1, 10),
)
def test_payloads_are_as_full_as_they_may_be(
    sizes: list[int], bytes_max: int, records_max: int
) -> None:
    records = [payloads.Record(n, b"x" * size, n) for n, size in enumerate(sizes, 1)]
    found = list(
        payloads.pack(
            ((r, r.data) for r in records), framed=1, bytes_max=bytes_max, records_max=records_max
        )
    )
    assert [r for p in found for r in p.records] == records

    def size(payload: payloads.Payload) -> int:
        return sum(len(r.data) + 1 for r in payload.records)

    for payload, after in zip(found, [*found[1:], None], strict=True):
        count = len(payload.records)
        assert count <= records_max
        if bytes_max and count > 1:
            assert size(payload) <= bytes_max
        if after is not None and count < records_max:
            assert bytes_max
            assert size(payload) + len(after.records[0].data) + 1 > bytes_max
