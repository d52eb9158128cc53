"""Keys as integers: two rows have one code exactly when their keys are equal."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.engine.key_index import NO_KEY, KeyIndex

PARTS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.string(), ["", "a", "ab", "b"]),
    (pa.int8(), [-1, 0, 12]),
    (pa.bool_(), [False, True]),
    (pa.binary(), [b"", b"a"]),
    (pa.date32(), [date(1970, 1, 1), date(1970, 1, 2)]),
    (pa.timestamp("us", tz="UTC"), [0, 1]),
]


@st.composite
def tables(
    draw: st.DrawFn,
) -> tuple[list[pa.DataType], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Draw the types of a key's parts, and the keys of two tables."""
    parts = draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4))
    key = st.tuples(*(st.sampled_from([*values, *values, None]) for _, values in parts))
    sizes = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    here, there = (draw(st.lists(key, min_size=size, max_size=size)) for size in sizes)
    return [kind for kind, _ in parts], here, there


def columns(kinds: list[pa.DataType], keys: list[tuple[Any, ...]]) -> list[pa.Array]:
    return [pa.array([key[i] for key in keys], kind) for i, kind in enumerate(kinds)]


@given(tables())
def test_codes_are_equal_exactly_when_keys_are(drawn: Any) -> None:
    kinds, here, there = drawn
    index = KeyIndex(columns(kinds, here))
    code_of: dict[Any, int] = {}
    for key, code in zip(here, index.codes.tolist(), strict=True):
        assert (code == NO_KEY) == (None in key)
        if code != NO_KEY:
            assert code_of.setdefault(key, code) == code
    assert sorted(code_of.values()) == list(range(index.size))
    found = index.find([pa.chunked_array([column]) for column in columns(kinds, there)])
    assert found.tolist() == [code_of.get(key, NO_KEY) for key in there]

    again = index.find(index.distinct())
    assert again.tolist() == list(range(index.size))


def test_columns_of_another_type_are_refused() -> None:
    with pytest.raises(pa.ArrowException):
        KeyIndex([pa.array([1])]).find([pa.array(["1"])])


def test_a_null_in_a_later_part_is_no_key() -> None:
    index = KeyIndex([pa.array(["a", "b", "b"]), pa.array([1, None, 1])])
    assert index.codes.tolist() == [0, NO_KEY, 1]
    assert index.find([pa.array(["b", "b"]), pa.array([None, 1])]).tolist() == [NO_KEY, 1]


def test_many_parts_do_not_overflow() -> None:
    """300 distinct values in each of 10 parts: a plain mixed-radix number would need 83 bits."""
    parts = [pa.array([(row * (part + 1)) % 300 for row in range(300)]) for part in range(10)]
    index = KeyIndex(parts)
    assert index.size == 300
    assert index.find(parts).tolist() == index.codes.tolist()
