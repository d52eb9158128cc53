"""Types of features: every type x null x empty x extreme x list, one value and whole columns."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featurestore.arrays import Refused
from featurestore.casts import cast_column, read_column
from featurestore.dtypes import (
    SCALARS,
    VECTOR_LENGTH_MAX,
    DType,
    from_arrow,
    is_null,
    parse_dtype,
)
from featurestore.errors import InvalidEventTime, InvalidRecord, InvalidSchema
from featurestore.event_time import MAX_US, MIN_US
from tests.model import exactly
from tests.strategies import columns_of, dtypes, int_limits, nullable, scalar_dtypes, values_of

if TYPE_CHECKING:
    from collections.abc import Callable

INTS = [SCALARS[f"int{bits}"] for bits in (8, 16, 32, 64)]
FLOATS = [SCALARS["float32"], SCALARS["float64"]]
INT64, FLOAT32, FLOAT64 = SCALARS["int64"], SCALARS["float32"], SCALARS["float64"]


def typed_values() -> st.SearchStrategy[tuple[DType, Any]]:
    return dtypes().flatmap(lambda dtype: st.tuples(st.just(dtype), values_of(dtype)))


def typed_columns() -> st.SearchStrategy[tuple[DType, list[Any]]]:
    return dtypes().flatmap(lambda dtype: st.tuples(st.just(dtype), columns_of(dtype)))


def refusal(dtype: DType | str, value: Any) -> str:
    """Return why `check` refuses a value; it must name the feature and its type."""
    dtype = parse_dtype(dtype) if isinstance(dtype, str) else dtype
    with pytest.raises(InvalidRecord) as caught:
        dtype.check(value, "temp")
    prefix, _, why = str(caught.value).partition(": ")
    assert prefix == f'feature "temp" ({dtype})'
    assert len(why) < 400
    return why


def bad_rows(array: pa.Array, dtype: DType | str, **options: Any) -> list[int]:
    """Return the rows that `cast_column` refuses; 'temp' must be named."""
    dtype = parse_dtype(dtype) if isinstance(dtype, str) else dtype
    with pytest.raises(InvalidRecord) as caught:
        cast_column(array, dtype, "temp", **options)
    assert str(caught.value).startswith(f'feature "temp" ({dtype}): ')
    return [row for row, _ in caught.value.rows]


def cast(array: pa.Array, dtype: DType | str, **options: Any) -> list[Any]:
    """Cast a column, hold it to the contract, and return its values as Python's."""
    dtype = parse_dtype(dtype) if isinstance(dtype, str) else dtype
    column = cast_column(array, dtype, "temp", **options)
    assert isinstance(column, pa.Array)
    assert column.type.equals(dtype.to_arrow())
    assert len(column) == len(array)
    column.validate(full=True)
    return column.to_pylist()


def arrow(dtype: DType, values: list[Any]) -> pa.Array:
    """Build a column without any code of ours."""
    return pa.array(values, dtype.to_arrow())


# ── spelling ─────────────────────────────────────────────────────────────────────────────────


@given(dtypes())
def test_a_type_reads_as_it_is_written(dtype: DType) -> None:
    assert parse_dtype(str(dtype)) == dtype
    assert parse_dtype(str(dtype).replace(",", " ,").replace("<", "< ")) == dtype
    assert eval(repr(dtype)) == dtype
    assert hash(parse_dtype(str(dtype))) == hash(dtype)


def test_every_spelling_there_is() -> None:
    assert list(SCALARS) == [
        "bool", "int8", "int16", "int32", "int64", "float32", "float64", "string", "binary",
        "timestamp", "date",
    ]  # fmt: skip
    assert str(parse_dtype("list<date>")) == "list<date>"
    assert parse_dtype("vector<128>") == parse_dtype("vector<float32,128>")
    assert parse_dtype("vector<float64, 3>") == DType("vector", 64, FLOAT64, 3)
    assert parse_dtype(f"vector<{VECTOR_LENGTH_MAX}>").length == VECTOR_LENGTH_MAX


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("int", '"int64"'), ("Integer", '"int64"'), ("double", '"float64"'), ("str", '"string"'),
        ("INT64", '"int64"'), ("strng", '"string"'), ("datetime", '"timestamp"'),
        ("list", '"list<int64>"'), ("list<str>", '"list<string>"'), ("embedding", '"vector<'),
        ("list<list<int8>>", "Lists hold scalars"), ("list<vector<3>>", "Lists hold scalars"),
        ("vector<0>", "vector<"), ("vector<int8, 3>", "vector<"), ("vector<-1>", "vector<"),
        ("vector<999999>", "at most 65536"), ("list<>", ""), ("", ""), ("x" * 1_000, ""),
        ("int64\n", '"int64"'), ("list<int64", "list<int64>"), ("timestamp[us]", '"timestamp"'),
    ],
)  # fmt: skip
def test_an_unknown_type_is_told_what_was_meant(text: str, hint: str) -> None:
    with pytest.raises(InvalidSchema) as caught:
        parse_dtype(text)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("value", [None, 64, int, b"int64", INT64])
def test_a_type_is_text(value: Any) -> None:
    with pytest.raises(InvalidSchema, match="give a type as text"):
        parse_dtype(value)


@pytest.mark.parametrize(
    "fields",
    [
        ("int",), ("int", 7), ("int", 64, INT64), ("float", 16), ("bool", 1), ("string", 0, INT64),
        ("list",), ("list", 0, DType("list", element=INT64)), ("list", 8, INT64),
        ("list", 0, INT64, 3), ("vector", 32, FLOAT32), ("vector", 64, FLOAT32, 3),
        ("vector", 64, INT64, 3), ("vector", 32, FLOAT32, VECTOR_LENGTH_MAX + 1), ("map",), ("",),
    ],
)  # fmt: skip
def test_a_type_that_cannot_be(fields: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidSchema, match="no type has"):
        DType(*fields)


# ── one value ────────────────────────────────────────────────────────────────────────────────


@given(typed_values())
def test_a_value_comes_back_exactly(typed: tuple[DType, Any]) -> None:
    dtype, value = typed
    physical = dtype.check(value, "f")
    assert exactly(dtype.to_python(physical)) == exactly(value)
    assert not is_null(value)
    assert dtype.to_python(None) is None


@given(typed_values())
def test_a_physical_value_is_of_the_type_promised(typed: tuple[DType, Any]) -> None:
    dtype, value = typed
    physical = dtype.check(value, "f")
    kinds = {
        "bool": bool, "int": int, "float": float, "string": str, "binary": bytes,
        "timestamp": int, "date": int,
    }  # fmt: skip
    if dtype.element is None:
        assert type(physical) is kinds[dtype.kind]
    else:
        assert type(physical) is list
        assert {type(item) for item in physical} <= {kinds[dtype.element.kind], type(None)}


@given(typed_values())
def test_what_a_type_stored_it_accepts_again(typed: tuple[DType, Any]) -> None:
    dtype, value = typed
    once = dtype.to_python(dtype.check(value, "f"))
    assert exactly(dtype.to_python(dtype.check(once, "f"))) == exactly(once)


@given(scalar_dtypes(), scalar_dtypes(), st.data())
def test_no_value_passes_for_another_type(dtype: DType, other: DType, data: st.DataObject) -> None:
    """A type takes a value of another only where nothing is lost: exact numbers, text of times."""
    value = data.draw(values_of(other))
    numbers = {"int", "float"}
    try:
        physical = dtype.check(value, "f")
    except InvalidRecord:
        assert dtype != other
        return
    if dtype.kind == other.kind:
        if dtype.kind == "float" and not math.isnan(value):  # float64 rounded to float32
            assert physical == np.float64(value).astype(np.dtype(f"f{dtype.bits // 8}"))
        elif dtype.kind == "int":
            assert physical == value
    elif {dtype.kind, other.kind} == numbers:
        assert physical == value
        assert type(physical) is not type(value)
    else:
        assert dtype.kind in {"timestamp", "date"}
        assert other.kind == "string"


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_the_limits_of_ints(dtype: DType) -> None:
    low, high = int_limits(dtype)
    for value in (low, high):
        assert dtype.check(value, "f") == value
        assert dtype.check(np.int64(value), "f") == value
    for value in (low - 1, high + 1, 10**400, -(10**5000)):
        assert f"is outside {low} to {high}" in refusal(dtype, value)
    if dtype.bits < 64:
        assert f"is outside {low} to {high}" in refusal(dtype, float(high + 1))


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("bool", 1, "is a int; give True or False"),
        ("bool", "true", "is a str"),
        ("bool", np.int8(1), "is a int8"),
        ("int8", True, "is a bool; give an int"),
        ("int8", np.True_, "is a bool"),
        ("int8", "1", "is a str"),
        ("int8", 2.5, "is not a whole number; round it first"),
        ("int8", float("nan"), "if it means missing, give None"),
        ("int8", float("inf"), "is not a whole number"),
        ("int64", 2.0**53, "is a float beyond 2**53"),
        ("int64", -(2.0**53), "is a float beyond 2**53"),
        ("int8", Decimal(1), "is a Decimal"),
        ("int8", timedelta(1), "is a timedelta"),
        ("int64", np.datetime64(1, "us"), "is a datetime64"),
        ("int64", np.timedelta64(1, "us"), "is a timedelta64"),
        ("int8", np.array([1]), "is a ndarray"),
        ("float64", True, "is a bool"),
        ("float64", "1.5", "is a str; give a float"),
        ("float64", 2**53 + 1, "no float64 is exactly 9007199254740993"),
        ("float64", 10**400, "no float64 is exactly 1000"),
        ("float64", Decimal("1.5"), "is a Decimal"),
        ("float64", 1j, "is a complex"),
        ("float32", 2**24 + 1, "no float32 is exactly 16777217"),
        ("float32", 1e39, "is beyond the largest float32"),
        ("float32", np.float64(-1e39), "is beyond the largest float32"),
        ("float32", 10**39, "is beyond the largest float32"),
        ("string", 1, "is a int; give a str"),
        ("string", b"a", "is a bytes"),
        ("string", float("nan"), "give None for missing"),
        ("string", "a\ud800", "character 1 is half of a surrogate pair"),
        ("string", "\udfff", "character 0 is half of a surrogate pair"),
        ("binary", "a", "is a str; give bytes"),
        ("binary", [1], "is a list"),
        ("binary", 3, "is a int"),
        ("timestamp", 0, "is a number that does not say of what"),
        ("timestamp", date(2024, 1, 1), "is a day, not a moment"),
        ("timestamp", datetime(2024, 1, 1), "has no time zone"),  # noqa: DTZ001
        ("date", datetime(2024, 1, 1, tzinfo=UTC), "is a datetime"),
        ("date", pd.Timestamp(0, tz="UTC"), "is a Timestamp"),
        ("date", "2024-02-30", 'is no day; write it as "2013-01-01"'),
        ("date", "20240101", "is no day"),
        ("date", "2024-W01-1", "is no day"),
        ("date", "2024-01-01T00:00:00", "is no day"),
        ("date", 0, "is a int"),
        ("date", np.datetime64("2024-01-01T00"), "is a datetime64"),
        ("date", np.datetime64("2024-01"), "is a datetime64"),
        ("date", np.datetime64(10**9, "D"), "is a int"),
        ("list<int8>", "ab", "is a str; give a list"),
        ("list<int8>", {1}, "is a set"),
        ("list<int8>", {1: 2}, "is a dict"),
        ("list<int8>", b"ab", "is a bytes"),
        ("list<int8>", np.zeros((1, 1), np.int8), "is a ndarray"),
        ("list<int8>", np.int8(1), "is a int8"),
        ("list<int8>", [1, 300], "element 1: 300 is outside"),
        ("list<int8>", [1, -129], "element 1: -129 is outside"),
        ("list<int8>", [None, True], "element 1: True is a bool"),
        ("list<float32>", [1.0, 1e39], "element 1: 1e+39 is beyond"),
        ("list<string>", ["a", "\ud800"], "element 1: character 0 is half"),
        ("list<timestamp>", [datetime(2024, 1, 1)], "element 0: 2024-01-01T00:00:00 has no"),  # noqa: DTZ001
        ("list<bool>", [[True]], "element 0: [True] is a list"),
        ("vector<2>", [1.0], "1 components given, 2 expected"),
        ("vector<2>", [], "0 components given"),
        ("vector<2>", [1.0, 2.0, 3.0], "3 components given"),
        ("vector<2>", [1.0, None], "component 1 is null"),
        ("vector<2>", [pd.NA, 1.0], "component 0 is null"),
        ("vector<2>", [1.0, "2"], "element 1: '2' is a str"),
        ("vector<2>", [1.0, 1e39], "element 1: 1e+39 is beyond"),
        ("vector<float64, 2>", [1, 2**53 + 1], "element 1: no float64 is exactly"),
    ],
)
def test_what_does_not_fit_is_refused_with_words(dtype: str, value: Any, words: str) -> None:
    assert words in refusal(dtype, value)


def test_an_int_too_long_to_be_written_out() -> None:
    for dtype in (INT64, FLOAT64):
        assert "thousands of digits" in refusal(dtype, 10**5_000)


def test_a_list_of_moments_is_refused_as_a_moment_is() -> None:
    with pytest.raises(InvalidEventTime):
        parse_dtype("list<timestamp>").check([0], "f")


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("dtype", "value", "physical"),
    [
        ("bool", np.True_, True),
        ("int8", np.uint64(5), 5),
        ("int8", 3.0, 3),
        ("int8", np.float32(-3), -3),
        ("int64", float(2**53 - 1), 2**53 - 1),
        ("int64", -0.0, 0),
        ("float64", 3, 3.0),
        ("float64", 2**60, 2.0**60),
        ("float64", np.float32(0.1), float(np.float32(0.1))),
        ("float64", np.int8(-1), -1.0),
        ("float32", 0.1, float(np.float32(0.1))),
        ("float32", 3.4028235e38, float(np.finfo(np.float32).max)),
        ("float32", 1e-60, 0.0),
        ("float32", float("inf"), float("inf")),
        ("float32", np.float16(0.5), 0.5),
        ("float32", 2**24, 2.0**24),
        ("string", np.str_("x"), "x"),
        ("string", Colour.RED, "red"),
        ("binary", bytearray(b"ab"), b"ab"),
        ("binary", memoryview(b"abcd")[::2], b"ac"),
        ("binary", np.bytes_(b"ab"), b"ab"),
        ("timestamp", "1970-01-01T00:00:01Z", 1_000_000),
        ("timestamp", pd.Timestamp(1_500, unit="ns", tz="UTC"), 1),
        ("date", "1970-01-02", 1),
        ("date", np.datetime64("1969-12-31"), -1),
        ("list<int8>", (1, None), [1, None]),
        ("list<int8>", np.array([1, 2], np.int64), [1, 2]),
        ("list<int8>", np.array([1.0, 2.0]), [1, 2]),
        ("list<int8>", np.array([1, None], object), [1, None]),
        ("list<string>", np.array(["a", "é"]), ["a", "é"]),
        ("list<string>", [None, pd.NA, pd.NaT], [None, None, None]),
        ("list<date>", np.array(["1970-01-02"], "datetime64[D]"), [1]),
        ("list<float64>", np.array([], np.float32), []),
        ("vector<2>", np.array([0.1, 2.0]), [float(np.float32(0.1)), 2.0]),
        ("vector<2>", (1, 2), [1.0, 2.0]),
    ],
)
def test_what_fits_without_loss(dtype: str, value: Any, physical: Any) -> None:
    checked = parse_dtype(dtype).check(value, "f")
    assert exactly(checked) == exactly(physical)


def test_numpys_dates_in_a_list_keep_their_unit() -> None:
    times = np.array([1_000, "NaT"], "datetime64[ns]")
    assert parse_dtype("list<timestamp>").check(times, "f", tz="UTC") == [1, None]
    assert "has no time zone" in refusal("list<timestamp>", times)


def test_a_checked_list_is_a_copy() -> None:
    """What a caller does to a list afterwards must not change what is written."""
    for dtype, given_list in [("list<int8>", [1]), ("vector<float64, 1>", [1.0])]:
        checked = parse_dtype(dtype).check(given_list, "f")
        given_list.clear()
        assert len(checked) == 1


def test_a_zone_reaches_the_elements() -> None:
    naive = datetime(1970, 1, 1, 9)  # noqa: DTZ001
    assert SCALARS["timestamp"].check(naive, "f", tz="Asia/Tokyo") == 0
    assert parse_dtype("list<timestamp>").check([naive], "f", tz="Asia/Tokyo") == [0]
    naive_lists = pa.array([[naive], None])
    assert cast(naive_lists, "list<timestamp>", tz="Asia/Tokyo")[0][0] == datetime(
        1970, 1, 1, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("dtype", "physical"),
    [("timestamp", MAX_US + 1), ("timestamp", MIN_US - 1), ("date", 10**7), ("date", -(10**7)),
     ("date", 2**63), ("list<date>", [2**31]), ("list<timestamp>", [2**63 - 1])],
)  # fmt: skip
def test_physical_values_of_a_damaged_store(dtype: str, physical: Any) -> None:
    with pytest.raises(InvalidRecord, match="outside the years"):
        parse_dtype(dtype).to_python(physical)


# ── null ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "value", [None, pd.NaT, pd.NA, np.datetime64("NaT"), np.datetime64("NaT", "ns")], ids=repr
)
def test_null(value: Any) -> None:
    assert is_null(value)


@pytest.mark.parametrize(
    "value",
    [0, 0.0, "", b"", False, [], (), float("nan"), np.float64("nan"), "NaT", "nan", np.int64(0),
     np.datetime64(0, "s"), np.array([]), np.array([1, 2]), {}, type(None), [None]],
    ids=repr,
)  # fmt: skip
def test_not_null(value: Any) -> None:
    assert not is_null(value)


# ── Arrow types ──────────────────────────────────────────────────────────────────────────────


@given(dtypes())
def test_arrow_types_and_back(dtype: DType) -> None:
    assert from_arrow(dtype.to_arrow(), "f") == dtype


@given(typed_columns())
def test_arrow_builds_what_we_check(typed: tuple[DType, list[Any]]) -> None:
    """The Arrow type of a feature holds its values, and gives the same ones back."""
    dtype, values = typed
    assert exactly(arrow(dtype, values).to_pylist()) == exactly(values)


@pytest.mark.parametrize(
    ("arrow_type", "spelling"),
    [
        (pa.large_string(), "string"), (pa.string_view(), "string"),
        (pa.large_binary(), "binary"), (pa.binary_view(), "binary"), (pa.binary(4), "binary"),
        (pa.dictionary(pa.int8(), pa.large_string()), "string"),
        (pa.run_end_encoded(pa.int32(), pa.int8()), "int8"),
        (pa.uint8(), "int16"), (pa.uint16(), "int32"), (pa.uint32(), "int64"),
        (pa.float16(), "float32"), (pa.date64(), "date"),
        (pa.timestamp("s"), "timestamp"), (pa.timestamp("ns", tz="Asia/Tokyo"), "timestamp"),
        (pa.large_list(pa.uint8()), "list<int16>"), (pa.list_view(pa.string()), "list<string>"),
        (pa.list_(pa.float64(), 3), "vector<float64, 3>"), (pa.list_(pa.int8(), 3), "list<int8>"),
        (pa.list_(pa.float16(), 3), "vector<float32, 3>"),
        (pa.list_(pa.dictionary(pa.int8(), pa.string())), "list<string>"),
        (pa.fixed_shape_tensor(pa.float32(), [2, 2]), "vector<float32, 4>"),
        (pa.bool8(), "int8"),
    ],
    ids=str,
)  # fmt: skip
def test_the_home_of_an_arrow_type(arrow_type: pa.DataType, spelling: str) -> None:
    assert str(from_arrow(arrow_type, "f")) == spelling
    # And a column of that type, empty or of nulls, is accepted there.
    tz = {"tz": "UTC"} if spelling == "timestamp" else {}
    assert cast(pa.nulls(2, arrow_type), spelling, **tz) == [None, None]


@pytest.mark.parametrize(
    ("arrow_type", "hint"),
    [
        (pa.uint64(), "cast it to int64 if its values stay below"),
        (pa.decimal128(5, 2), "cast it to float64"), (pa.decimal256(5, 2), "cast it to float64"),
        (pa.time32("s"), "seconds of the day"), (pa.time64("us"), "seconds of the day"),
        (pa.duration("us"), "put the unit in the name"),
        (pa.month_day_nano_interval(), "put the unit in the name"),
        (pa.struct([("a", pa.int8())]), "make its fields features"),
        (pa.map_(pa.string(), pa.int8()), "JSON"), (pa.null(), "name its type in features="),
        (pa.list_(pa.list_(pa.int8())), "make the inner lists features"),
        (pa.list_(pa.list_(pa.float32(), 3)), "make the inner lists features"),
        (pa.list_(pa.uint64()), "cast it to int64"),
    ],
    ids=str,
)  # fmt: skip
def test_an_arrow_type_without_a_home(arrow_type: pa.DataType, hint: str) -> None:
    with pytest.raises(InvalidSchema, match='feature "temp": no feature type holds') as caught:
        from_arrow(arrow_type, "temp")
    assert hint in str(caught.value)


# ── a column ─────────────────────────────────────────────────────────────────────────────────


@given(typed_columns(), st.data())
def test_a_column_of_its_own_type_passes_exactly(
    typed: tuple[DType, list[Any]], data: st.DataObject
) -> None:
    dtype, values = typed
    array = arrow(dtype, values)
    cut = data.draw(st.integers(0, len(values)))
    assert exactly(cast(array, dtype)) == exactly(values)
    assert exactly(cast(array[cut:], dtype)) == exactly(values[cut:])
    assert exactly(cast(pa.chunked_array([array[:cut], array[cut:]]), dtype)) == exactly(values)
    assert cast(pa.chunked_array([], array.type), dtype) == []


WIDER: dict[str, list[Callable[[pa.DataType], pa.DataType]]] = {
    "string": [lambda _: pa.large_string(), lambda _: pa.string_view()],
    "binary": [lambda _: pa.large_binary(), lambda _: pa.binary_view()],
    "int": [lambda _: pa.int64()],
    "float": [lambda _: pa.float64()],
    "date": [lambda _: pa.date64(), lambda _: pa.string()],
    "list": [lambda t: pa.large_list(t.value_type)],
    "vector": [lambda t: pa.list_(t.value_type), lambda t: pa.large_list(t.value_type)],
}


@given(typed_columns(), st.data())
def test_a_column_of_a_wider_type_passes_exactly(
    typed: tuple[DType, list[Any]], data: st.DataObject
) -> None:
    dtype, values = typed
    for widen in WIDER.get(dtype.kind, []):
        wider = arrow(dtype, values).cast(widen(dtype.to_arrow()))
        cut = data.draw(st.integers(0, len(values)))
        assert exactly(cast(wider, dtype)) == exactly(values)
        assert exactly(cast(wider[cut:], dtype)) == exactly(values[cut:])
    if dtype.kind in {"list", "vector"}:
        view = pa.array(values, pa.list_view(dtype.element.to_arrow()))
        assert exactly(cast(view, dtype)) == exactly(values)
    if dtype.kind in {"string", "binary", "int", "date", "timestamp", "float"}:
        encoded = arrow(dtype, values).dictionary_encode()
        assert exactly(cast(encoded, dtype)) == exactly(values)


@given(st.sampled_from(INTS), st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]),
       st.data())  # fmt: skip
def test_ints_pass_where_they_are_in_range(
    dtype: DType, numpy_type: str, data: st.DataObject
) -> None:
    limits = np.iinfo(numpy_type)
    edges = [edge for bits in INTS for edge in int_limits(bits)]
    some = st.integers(int(limits.min), int(limits.max)) | st.sampled_from(
        [min(max(edge + step, int(limits.min)), int(limits.max))
         for edge in edges for step in (-1, 0, 1)]
    )  # fmt: skip
    values = data.draw(st.lists(st.none() | some, max_size=6))
    low, high = int_limits(dtype)
    bad = [row for row, value in enumerate(values) if value is not None
           and not low <= value <= high]  # fmt: skip
    array = pa.array(values, pa.from_numpy_dtype(numpy_type))
    if bad:
        assert bad_rows(array, dtype) == bad
    else:
        assert cast(array, dtype) == values


@given(
    st.sampled_from([*INTS, *FLOATS]),
    st.lists(
        st.none() | st.integers(-(2**63), 2**63 - 1)
        | st.sampled_from([sign * (2**power + step) for power in (7, 24, 31, 53, 62)
                           for step in (-1, 0, 1) for sign in (-1, 1)] + [2**63 - 1, -(2**63)]),
        max_size=6,
    ),
    st.sampled_from([pa.int64(), pa.float64(), pa.float32()]),
)  # fmt: skip
@example(FLOAT64, [2**63 - 1], pa.int64())
@example(FLOAT32, [2**63 - 1], pa.int64())
@example(INT64, [2**53, 2**53 - 1, -(2**53)], pa.float64())
def test_a_column_of_numbers_is_its_rows(
    dtype: DType, numbers: list[int | None], given_type: pa.DataType
) -> None:
    """The whole-column path accepts what the one-value path accepts, and gives the same."""
    array = pa.array(numbers, pa.int64()).cast(given_type, safe=False)
    expected, bad = [], []
    for row, value in enumerate(array.to_pylist()):
        try:
            physical = None if value is None else dtype.check(value, "f")
        except InvalidRecord:
            bad.append(row)
            continue
        if physical != value:  # one float is rounded to float32, a column is not
            bad.append(row)
        expected.append(physical)
    if bad:
        assert bad_rows(array, dtype) == bad
    else:
        assert exactly(cast(array, dtype)) == exactly(expected)


@given(st.lists(st.none() | st.integers(0, 2**64 - 1), max_size=5))
@example([2**64 - 1])
@example([2**63])
def test_uint64_as_float64(values: list[int | None]) -> None:
    array = pa.array(values, pa.uint64())
    bad = [row for row, value in enumerate(values) if value is not None
           and int(float(value)) != value]  # fmt: skip
    if bad:
        assert bad_rows(array, FLOAT64) == bad
    else:
        assert cast(array, FLOAT64) == values


@given(st.lists(st.none() | st.floats() | st.floats(width=32), max_size=8))
@example([-0.0, float("nan"), None, float("inf"), 3.4028235e38, 3.4028236e38, 1e-50])
def test_float64_becomes_float32_only_when_every_value_survives(values: list[float | None]) -> None:
    array = pa.array(values, pa.float64())
    with np.errstate(over="ignore"):
        bad = [row for row, value in enumerate(values) if value is not None
               and not math.isnan(value) and float(np.float32(value)) != value]  # fmt: skip
    if bad:
        assert bad_rows(array, FLOAT32) == bad
    else:
        assert exactly(cast(array, FLOAT32)) == exactly(values)


def test_half_floats_are_widened() -> None:
    halves = pa.array(np.array([0.5, -0.0, np.inf, 65504], np.float16))
    for dtype in FLOATS:
        assert exactly(cast(halves, dtype)) == exactly([0.5, -0.0, math.inf, 65504.0])
    assert cast(pa.array(np.array([3], np.float16)), "int8") == [3]


REFUSED_TYPES = [
    ("bool", pa.array([1])), ("bool", pa.array(["true"])), ("bool", pa.array([1.0])),
    ("int8", pa.array([True])), ("int8", pa.array(["1"])), ("int8", pa.array([b"1"])),
    ("int64", pa.array([datetime(2024, 1, 1, tzinfo=UTC)])), ("int64", pa.array([timedelta(1)])),
    ("int8", pa.array([Decimal(1)])), ("int64", pa.array([date(2024, 1, 1)])),
    ("float64", pa.array([True])), ("float64", pa.array(["1"])),
    ("float64", pa.array([Decimal("1.5")])),
    ("string", pa.array([1])), ("string", pa.array([b"a"])), ("string", pa.array([1.5])),
    ("string", pa.array([True])), ("string", pa.array([date(2024, 1, 1)])),
    ("binary", pa.array(["a"])), ("binary", pa.array([1])),
    ("date", pa.array([datetime(2024, 1, 1, tzinfo=UTC)])), ("date", pa.array([1])),
    ("list<int8>", pa.array([1])), ("list<int8>", pa.array(["ab"])),
    ("list<int8>", pa.array([{"a": 1}])), ("list<int8>", pa.array([["a"]])),
    ("list<string>", pa.array([[1]])), ("vector<1>", pa.array([1.0])),
    ("vector<1>", pa.array([["a"]])),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "array"), REFUSED_TYPES, ids=str)
def test_a_column_of_another_type_is_refused_whole(dtype: str, array: pa.Array) -> None:
    assert bad_rows(array, dtype) == []
    assert bad_rows(array[:0], dtype) == []  # an empty column is no excuse


def test_times_without_zone_or_unit_are_refused_as_times() -> None:
    for array in (pa.array([datetime(2024, 1, 1)]), pa.array([1]), pa.array([1.5])):  # noqa: DTZ001
        with pytest.raises(InvalidEventTime, match=r'feature "temp" \(timestamp\): '):
            cast_column(array, SCALARS["timestamp"], "temp")
    assert cast(pa.array([1]), "timestamp", unit="s") == [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]
    with pytest.raises(InvalidEventTime) as caught:
        cast_column(pa.array([1, 2**62]), SCALARS["timestamp"], "temp", unit="s")
    assert [row for row, _ in caught.value.rows] == [1]


@given(dtypes(), st.integers(0, 3))
def test_a_column_of_nothing_fits_every_type(dtype: DType, count: int) -> None:
    nothing = [None] * count
    assert cast(pa.nulls(count), dtype) == nothing
    assert cast(pa.chunked_array([], pa.null()), dtype) == []
    assert cast(pa.nulls(count).dictionary_encode(), dtype) == nothing
    # pandas has no other type for it than float64
    missing = pa.array([math.nan] * count, pa.float64())
    assert cast(missing, dtype, nan_is_null=True) == nothing


def test_nan_is_a_value_unless_it_is_pandas() -> None:
    array = pa.array([1.0, math.nan, None])
    assert exactly(cast(array, FLOAT64)) == exactly([1.0, math.nan, None])
    assert cast(array, FLOAT64, nan_is_null=True) == [1.0, None, None]
    assert cast(array, INT64, nan_is_null=True) == [1, None, None]
    assert bad_rows(array, INT64) == [1]
    assert cast(array, "timestamp", unit="s", nan_is_null=True)[1:] == [None, None]
    with pytest.raises(InvalidEventTime) as caught:
        cast_column(array, SCALARS["timestamp"], "temp", unit="s")
    assert [row for row, _ in caught.value.rows] == [1]


@given(st.lists(st.none() | st.text(max_size=3) | st.dates().map(str), max_size=6))
@example(["0000-01-01", "0001-01-01", "9999-12-31", "2023-02-29", "2024-2-9", " 2024-01-01", ""])
def test_days_as_text_are_their_rows(texts: list[str | None]) -> None:
    days, bad = [], []
    for row, text in enumerate(texts):
        try:
            days.append(None if text is None else SCALARS["date"].check(text, "f"))
        except InvalidRecord:
            bad.append(row)
    array = pa.array(texts, pa.string())
    if bad:
        assert bad_rows(array, "date") == bad
    else:
        assert cast_column(array, SCALARS["date"], "f").cast(pa.int32()).to_pylist() == days


def test_days_outside_the_years_and_parts_of_days() -> None:
    last = date.max.toordinal() - date(1970, 1, 1).toordinal()
    first = date.min.toordinal() - date(1970, 1, 1).toordinal()
    days = pa.array([first - 1, first, None, last, last + 1, 2**31 - 1], pa.int32())
    assert bad_rows(days.view(pa.date32()), "date") == [0, 4, 5]
    assert cast(days.view(pa.date32())[1:4], "date") == [date.min, None, date.max]
    ms = pa.array([0, -86_400_000, -1, 1, None], pa.int64()).view(pa.date64())
    assert bad_rows(ms, "date") == [2, 3]


def test_text_that_is_not_utf8_is_found() -> None:
    bytes_ = pa.array([b"ok", b"\xff", None, b"\xed\xa0\x80", "é".encode()])
    for view in (pa.string(), pa.large_string()):
        wide = bytes_.cast(pa.large_binary() if view == pa.large_string() else pa.binary())
        assert bad_rows(wide.view(view), "string") == [1, 3]
    assert cast(bytes_.view(pa.string()).take([0, 2, 4]), "string") == ["ok", None, "é"]


def test_fixed_size_binary() -> None:
    array = pa.array([b"abcd", None, b"\0\0\0\0"], pa.binary(4))
    assert cast(array, "binary") == [b"abcd", None, b"\0\0\0\0"]
    assert cast(array[1:], "binary") == [None, b"\0\0\0\0"]


@pytest.mark.parametrize(
    "wrap", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view], ids=lambda w: w.__name__
)
def test_a_bad_element_refuses_its_row(wrap: Callable[[pa.DataType], pa.DataType]) -> None:
    array = pa.array([[1], [], None, [2, 300, 400], [None], [5, -129]], wrap(pa.int64()))
    assert bad_rows(array, "list<int8>") == [3, 5]
    with pytest.raises(InvalidRecord, match="row 3: element 1: 300 is outside") as caught:
        cast_column(array, parse_dtype("list<int8>"), "temp")
    assert "row 5: element 1: -129 is outside" in str(caught.value)
    assert bad_rows(array[3:], "list<int8>") == [0, 2]
    assert cast(array[:3], "list<int8>") == [[1], [], None]


def test_list_views_in_any_order() -> None:
    views = pa.ListViewArray.from_arrays(
        pa.array([2, 0, 1], pa.int32()), pa.array([1, 2, 2], pa.int32()), pa.array([1, 2, 300])
    )
    assert views.to_pylist() == [[300], [1, 2], [2, 300]]
    assert cast(views, "list<int16>") == views.to_pylist()
    assert bad_rows(views, "list<int8>") == [0, 2]


def test_more_bad_elements_than_are_told() -> None:
    array = pa.array([[300] * 150, [1], [300]])
    assert bad_rows(array, "list<int8>") == [0, 2]


def test_what_lies_under_a_null_list_is_not_looked_at() -> None:
    hidden = pa.ListArray.from_arrays(
        pa.array([0, 1, 2]), pa.array([300, 1]), mask=pa.array([True, False])
    )
    assert cast(hidden, "list<int8>") == [None, [1]]
    hidden = pa.FixedSizeListArray.from_arrays(
        pa.array([1e300, 1.0]), 1, mask=pa.array([True, False])
    )
    assert cast(hidden, "vector<1>") == [None, [1.0]]


def test_vectors() -> None:
    array = pa.array([[1.0, 2.0], None, [1.0], [], [1.0, None], [0.1, 1.0], [math.nan, -0.0]])
    assert bad_rows(array, "vector<float64, 2>") == [2, 3, 4]
    assert bad_rows(array, "vector<2>") == [2, 3, 4, 5]
    good = array.take([0, 1, 6])
    expected = [[1.0, 2.0], None, [math.nan, -0.0]]
    for wrapped in (good, good.cast(pa.list_(pa.float64(), 2)), good.cast(pa.list_(pa.float32()))):
        assert exactly(cast(wrapped, "vector<2>")) == exactly(expected)
        assert exactly(cast(wrapped[1:], "vector<2>")) == exactly(expected[1:])
    whole = pa.array([[1, 2]], pa.list_(pa.int8()))
    assert exactly(cast(whole, "vector<2>")) == exactly([[1.0, 2.0]])
    assert bad_rows(pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), "vector<3>") == [0]


def test_bad_rows_may_be_collected_instead() -> None:
    """What an ingest that skips bad rows stands on: all of them, and null in their place."""
    refused = Refused()
    array = pa.array([1, 300] * 500)
    column = read_column(array, SCALARS["int8"], "temp", refused)
    assert refused.rows == list(range(1, 1_000, 2))
    assert len(refused.first()) == 100
    assert column.to_pylist() == [1, None] * 500


@given(
    st.sampled_from(["list<int8>", "list<float32>", "vector<2>", "vector<float64, 2>"]),
    st.lists(
        st.none() | st.lists(
            st.none() | st.sampled_from([1, -1, 127, 128, 300, 2**24 + 1, 2**53 + 1]),
            max_size=3,
        ),
        max_size=8,
    ),
    st.sampled_from([pa.list_, pa.large_list, pa.list_view]),
    st.data(),
)  # fmt: skip
def test_a_column_of_lists_is_its_rows(
    spelling: str, lists: list[Any], wrap: Callable[[pa.DataType], pa.DataType], data: Any
) -> None:
    """Good rows are read as if there were no bad ones; bad ones are null, and all told."""
    dtype = parse_dtype(spelling)
    cut = data.draw(st.integers(0, len(lists)))
    expected, bad = [], []
    for row, value in enumerate(lists[cut:]):
        try:
            expected.append(None if value is None else dtype.check(value, "f"))
        except InvalidRecord:
            expected.append(None)
            bad.append(row)
    refused = Refused()
    array = pa.array(lists, wrap(pa.int64()))[cut:]
    column = read_column(array, dtype, "f", refused)
    column.validate(full=True)
    assert sorted(refused.rows) == bad
    assert exactly(column.to_pylist()) == exactly(expected)


# ── from the libraries people use ────────────────────────────────────────────────────────────


@given(nullable(INT64), st.integers(-1000, 1000))
def test_pandas_makes_floats_of_ints_with_missing(missing: int | None, value: int) -> None:
    frame = pd.DataFrame({"x": [value, missing, value]})
    array = pa.Table.from_pandas(frame)["x"]
    if missing is None:
        assert array.type == pa.float64()
    assert cast(array, INT64, nan_is_null=True) == [value, missing, value]


def test_polars_and_pandas_text() -> None:
    for column in (
        pl.DataFrame({"x": ["a", None]}).to_arrow()["x"],
        pl.DataFrame({"x": ["a", None]}, schema={"x": pl.Categorical}).to_arrow()["x"],
        pa.Table.from_pandas(pd.DataFrame({"x": ["a", None]}))["x"],
        pa.Table.from_pandas(pd.DataFrame({"x": pd.Categorical(["a", None])}))["x"],
    ):
        assert cast(column, "string") == ["a", None]


def test_signalling_and_odd_nans_stay_nans() -> None:
    odd = struct.unpack("<d", b"\x01\0\0\0\0\0\xf0\x7f")[0]
    assert math.isnan(FLOAT32.check(odd, "f"))
    assert math.isnan(cast(pa.array([odd]), FLOAT32)[0])
