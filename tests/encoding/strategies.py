"""Types, values and groups for the encoding tests, and what it means for two values to agree."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from hypothesis import strategies as st

from featurestore.dtypes import MAX_DAYS, MIN_DAYS, DType, parse_dtype
from featurestore.event_time import MAX_US, MIN_US, NO_EXPIRY
from featurestore.schema import FeatureGroup, define

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCALARS = (
    "bool", "int8", "int16", "int32", "int64", "float32", "float64", "string", "binary",
    "timestamp", "date",
)  # fmt: skip
KEY_TYPES = tuple(name for name in SCALARS if not name.startswith("float"))
NESTED = (
    *(f"list<{name}>" for name in SCALARS),
    "vector<float32, 1>", "vector<float32, 5>", "vector<float64, 3>",
)  # fmt: skip
ALL_TYPES = SCALARS + NESTED

FLOAT32_MAX = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
FLOAT32_TINY = struct.unpack("<f", b"\x01\0\0\0")[0]

# The ends of every type, its zero, its empty value, and what resembles null, an end or a mark.
EXTREMES: dict[str, list[Any]] = {
    "bool": [False, True],
    **{f"int{b}": [-(2 ** (b - 1)), -1, 0, 1, 2 ** (b - 1) - 1] for b in (8, 16, 32, 64)},
    "float32": [0.0, -0.0, FLOAT32_MAX, -FLOAT32_MAX, FLOAT32_TINY, math.inf, -math.inf, math.nan],
    "float64": [0.0, -0.0, 1.7976931348623157e308, 5e-324, math.inf, -math.inf, math.nan, 0.1],
    "string": [
        "",
        "\0",
        "\0\0",
        "a\0b",
        "\x7f\x80\xff",
        "é",
        "日本",
        "😀",
        "\U0010ffff",
        "x" * 300,
    ],
    "binary": [b"", b"\0", b"\0\xff", b"\xff\0", b"\0\0", bytes(range(256)), b"\x80"],
    "timestamp": [MIN_US, -1, 0, 1, MAX_US],
    "date": [MIN_DAYS, -1, 0, 1, MAX_DAYS],
}


def physical(dtype: DType) -> st.SearchStrategy[Any]:
    """Make values of a type as the encodings see them, extremes among them."""
    if dtype.kind == "list":
        assert dtype.element is not None
        return st.lists(st.none() | physical(dtype.element), max_size=70)
    if dtype.kind == "vector":
        assert dtype.element is not None
        return st.lists(physical(dtype.element), min_size=dtype.length, max_size=dtype.length)
    anything = {
        "bool": st.booleans(),
        "int": st.integers(-(2 ** max(0, dtype.bits - 1)), 2 ** max(0, dtype.bits - 1) - 1),
        "float": st.floats(width=32 if dtype.bits == 32 else 64),
        "string": st.text(max_size=40),
        "binary": st.binary(max_size=40),
        "timestamp": st.integers(MIN_US, MAX_US),
        "date": st.integers(MIN_DAYS, MAX_DAYS),
    }[dtype.kind]
    return anything | st.sampled_from(EXTREMES[str(dtype)])


def group_of(types: Sequence[str], keys: Sequence[str] = ("string",)) -> FeatureGroup:
    """Return a group of identifiers k0…, event time t, and value features v0… of these types."""
    identifiers = {f"k{i}": name for i, name in enumerate(keys)}
    values = {f"v{i}": name for i, name in enumerate(types)}
    return define(
        "g",
        record_identifier=tuple(identifiers),
        event_time="t",
        id=7,
        features={**identifiers, "t": "timestamp", **values},
    )


def records(group: FeatureGroup) -> st.SearchStrategy[dict[str, Any]]:
    """Make values of a record; features may be null, or absent, which is the same."""
    return st.fixed_dictionaries(
        {}, optional={f.name: st.none() | physical(f.dtype) for f in group.value_features}
    )


@st.composite
def groups(draw: st.DrawFn, max_size: int = 6) -> FeatureGroup:
    """Make groups of a few features, sometimes of more than one word of null bits."""
    types = draw(st.lists(st.sampled_from(ALL_TYPES), min_size=1, max_size=max_size))
    filler = draw(st.sampled_from([0, 0, 0, 62, 64, 130]))
    return group_of(["int8"] * filler + types)


event_times = st.integers(MIN_US, MAX_US)
expiries = st.just(NO_EXPIRY) | st.integers(MIN_US, MAX_US)


def python_values(group: FeatureGroup, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decoding must give: all value features as Python values, absent as None."""
    return {
        f.name: None if record.get(f.name) is None else f.dtype.to_python(record[f.name])
        for f in group.value_features
    }


def agree(a: Any, b: Any) -> bool:
    """Equal in type and value; floats bit for bit, save that all NaN are one."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(agree(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(agree, a, b))
    return bool(a == b)


def column(dtype: DType, values: Sequence[Any]) -> pa.Array:
    """Return an Arrow column of physical values, cut out of the middle of a longer one.

    The cut matters: code that forgets an array's offset is right on every array made from scratch.
    """
    padded = [None, *values, None]
    return pa.array(padded, dtype.to_arrow())[1:-1]


def dtypes(names: Sequence[str]) -> list[DType]:
    return [parse_dtype(name) for name in names]
