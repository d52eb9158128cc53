"""Hypothesis strategies for what a feature store holds: types, values, groups, keys and rows.

``values_of(dtype)`` gives values as users read them back (aware datetimes in UTC, lists of
floats), so that a round trip through anything must give the same again::

    dtype.to_python(dtype.check(value)) is `value`, exactly

Extremes, the empty and the odd come often, not once in a thousand: limits of every width, -0.0,
subnormals, NaN, NUL and astral characters, years 1 and 9999, empty lists, lists of nulls.
"""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from featurestore.dtypes import SCALARS, DType
from featurestore.schema import RESERVED, define

if TYPE_CHECKING:
    from featurestore.schema import FeatureGroup

KEY_DTYPES = tuple(dtype for dtype in SCALARS.values() if dtype.kind != "float")
NAME_LETTERS = "abcxyzABCXYZ019_-"

TEXTS = ["", " ", "\0", "a\0b", "NULL", "nan", "é", "e\u0301", "日本", "😀", "\U0010ffff", "\uffff"]
FLOATS = [0.0, -0.0, 1.5, float("nan"), float("inf"), float("-inf")]
FLOAT_EDGES = {
    64: [5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1, 2.0**53],
    32: [2.0**-149, 2.0**-126, struct.unpack("<f", b"\xff\xff\x7f\x7f")[0], 2.0**24],
}
MOMENTS = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 12, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]
DAYS = [date.min, date(1969, 12, 31), date(1970, 1, 1), date(2024, 2, 29), date.max]


# ── types ────────────────────────────────────────────────────────────────────────────────────


def scalar_dtypes() -> st.SearchStrategy[DType]:
    return st.sampled_from(list(SCALARS.values()))


def key_dtypes() -> st.SearchStrategy[DType]:
    """Draw types that can identify a record."""
    return st.sampled_from(KEY_DTYPES)


def list_dtypes() -> st.SearchStrategy[DType]:
    return scalar_dtypes().map(lambda element: DType("list", element=element))


def vector_dtypes() -> st.SearchStrategy[DType]:
    floats = st.sampled_from([SCALARS["float32"], SCALARS["float64"]])
    return st.builds(
        lambda element, length: DType("vector", element.bits, element, length),
        floats,
        st.integers(1, 5),
    )


def dtypes() -> st.SearchStrategy[DType]:
    """Draw from every type of feature."""
    return st.one_of(scalar_dtypes(), list_dtypes(), vector_dtypes())


# ── values ───────────────────────────────────────────────────────────────────────────────────


def values_of(dtype: DType) -> st.SearchStrategy[Any]:
    """Draw values of a type, never None, as `to_python` gives them."""
    if dtype.kind == "list":
        return st.lists(nullable(dtype.element), max_size=5)
    if dtype.kind == "vector":
        return st.lists(values_of(dtype.element), min_size=dtype.length, max_size=dtype.length)
    return st.one_of(st.sampled_from(_edges_of(dtype)), _ordinary(dtype))


def nullable(dtype: DType) -> st.SearchStrategy[Any]:
    """Draw values of a type, or None."""
    return st.none() | values_of(dtype)


def columns_of(dtype: DType, *, size: int | None = None) -> st.SearchStrategy[list[Any]]:
    """Draw lists of values and nulls: a column, empty ones included."""
    low, high = (0, 8) if size is None else (size, size)
    return st.lists(nullable(dtype), min_size=low, max_size=high)


def int_limits(dtype: DType) -> tuple[int, int]:
    return -(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1


def _edges_of(dtype: DType) -> list[Any]:
    if dtype.kind == "int":
        low, high = int_limits(dtype)
        return [0, 1, -1, low, low + 1, high - 1, high]
    if dtype.kind == "float":
        edges = FLOAT_EDGES[dtype.bits]
        return [*FLOATS, *edges, *(-edge for edge in edges)]
    return {
        "bool": [False, True],
        "string": [*TEXTS, "x" * 500],
        "binary": [b"", b"\0", b"\0\xff", b"\xff" * 9, b"x" * 500],
        "timestamp": MOMENTS,
        "date": DAYS,
    }[dtype.kind]


def _ordinary(dtype: DType) -> st.SearchStrategy[Any]:
    if dtype.kind == "int":
        return st.integers(*int_limits(dtype))
    if dtype.kind == "float":
        return st.floats(width=dtype.bits)
    return {
        "bool": st.booleans(),
        "string": st.text(max_size=20),
        "binary": st.binary(max_size=20),
        "timestamp": moments(),
        "date": st.dates(),
    }[dtype.kind]


def moments(
    low: datetime = MOMENTS[0], high: datetime = MOMENTS[-1]
) -> st.SearchStrategy[datetime]:
    """Draw aware datetimes in UTC."""
    microsecond = timedelta(microseconds=1)
    return st.integers(0, (high - low) // microsecond).map(lambda us: low + us * microsecond)


# ── groups ───────────────────────────────────────────────────────────────────────────────────


def names() -> st.SearchStrategy[str]:
    """Draw names a feature may have, the longest and the strangest included."""
    return (
        st.text(NAME_LETTERS, min_size=1, max_size=12)
        | st.text(NAME_LETTERS, min_size=64, max_size=64)
    ).filter(lambda name: name[0] != "-" and name[:2] != "__" and name.lower() not in RESERVED)


@st.composite
def groups(
    draw: st.DrawFn,
    *,
    name: str = "group",
    group_id: int = 1,
    values_max: int = 6,
    versions_max: int = 3,
) -> FeatureGroup:
    """Draw feature groups: composite keys, every type of value, schemas that have grown."""
    keys = draw(st.lists(key_dtypes(), min_size=1, max_size=3))
    values = draw(st.lists(dtypes(), max_size=values_max))
    columns = [*keys, SCALARS["timestamp"], *values]
    called = draw(
        st.lists(names(), min_size=len(columns), max_size=len(columns), unique_by=str.lower)
    )
    order = draw(st.permutations(range(len(columns))))
    group = define(
        name,
        record_identifier=called[: len(keys)],
        event_time=called[len(keys)],
        features={called[place]: columns[place] for place in order},
        id=group_id,
        ttl=draw(st.none() | st.sampled_from(["1us", "90s", "365d"])),
        max_future=None,
    )
    for version in range(2, draw(st.integers(1, versions_max)) + 1):
        group = group.with_features({f"since-{version}": draw(dtypes())})
    return group


def keys_of(group: FeatureGroup) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw record identifiers of a group, in the order of its key."""
    return st.tuples(*(values_of(feature.dtype) for feature in group.key_features))


@st.composite
def rows_of(draw: st.DrawFn, group: FeatureGroup) -> dict[str, Any]:
    """Draw a record as users give it: any value feature may be None, or left out."""
    key = draw(keys_of(group))
    row = dict(zip(group.record_identifier, key, strict=True))
    row[group.event_time] = draw(values_of(group.event_time_feature.dtype))
    for feature in group.value_features:
        if draw(st.booleans()):
            row[feature.name] = draw(nullable(feature.dtype))
    return row
