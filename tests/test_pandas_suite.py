"""pandas' own tests of ``merge_asof``, answered by a store.

They ship in pandas' wheel.  While one runs, ``pandas.merge_asof`` is a function of this module that
puts the right frame into a store of its own, asks one point-in-time join, and lays out the columns
and index as pandas would::

    merge_asof                       the store
    right frame                      ingested in its order; half in a file, half in the journal
    on, left_on, right_on, *_index   event time and label time; integers are microseconds, and
                                     floats, which are no times, their ranks
    by, left_by, right_by            record identifier; without it one constant key
    tolerance                        max_age: inclusive, both
    allow_exact_matches=False        delay of a microsecond: known only after it happened
    ties                             the last row wins, both
    direction                        backward only: the others look into the future

``RUN`` and ``SKIPPED`` list every test of pandas 3.1 with what becomes of it here; what another
version of pandas has besides is skipped as unlisted.  Where pandas ships no tests, so is all of it.
"""

from __future__ import annotations

import importlib
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pandas.errors import MergeError

import featurestore as fs
from tests.small_world import fresh_store

if TYPE_CHECKING:
    from collections.abc import Sequence

try:
    suite: Any = importlib.import_module("pandas.tests.reshape.merge.test_merge_asof")
except ImportError as missing:
    pytest.skip(f"pandas ships no tests here: {missing}", allow_module_level=True)

RUN = {
    "test_allow_exact_matches",
    "test_allow_exact_matches_and_tolerance",
    "test_allow_exact_matches_and_tolerance2",
    "test_allow_exact_matches_and_tolerance3",
    "test_basic",
    "test_basic2",
    "test_basic_categorical",
    "test_basic_left_by_right_by",
    "test_basic_left_index",
    "test_basic_left_index_right_index",
    "test_basic_no_by",
    "test_basic_right_index",
    "test_by_dtype",
    "test_by_int",
    "test_by_mixed_tz_aware",
    "test_examples1",
    "test_examples2",
    "test_index_tolerance",
    "test_int_type_tolerance",
    "test_left_index_right_index_tolerance",
    "test_merge_asof_array_as_on",
    "test_merge_asof_extension_dtype",
    "test_merge_asof_index_behavior",
    "test_merge_asof_numeric_column_in_index",
    "test_merge_asof_numeric_column_in_multiindex",
    "test_merge_asof_pyarrow_td_tolerance",
    "test_merge_asof_read_only_ndarray",
    "test_merge_by_col_tz_aware",
    "test_merge_groupby_multiple_column_with_categorical_column",
    "test_merge_index_column_tz",
    "test_missing_right_by",
    "test_multiby",
    "test_multiby_heterogeneous_types",
    "test_multiby_indexed",
    "test_on_float",
    "test_on_float_by_int",
    "test_on_specialized_type",
    "test_on_specialized_type_by_int",
    "test_tolerance",
    "test_tolerance_tz",
    "test_tolerance_zero",
    "test_with_duplicates",
    "test_with_duplicates_no_on",
}
FUTURE = "direction forward or nearest takes values from after the label: the leak that is refused"
ARGUMENTS = "is about what pandas says of its own arguments"
ORDER = "pandas wants both sides sorted; a store does not care"
NO_NULL_KEY = "a record with a null in its key is refused, by pandas it is matched"
SKIPPED = {
    "test_allow_exact_matches_and_tolerance_forward": FUTURE,
    "test_allow_exact_matches_and_tolerance_nearest": FUTURE,
    "test_allow_exact_matches_forward": FUTURE,
    "test_allow_exact_matches_nearest": FUTURE,
    "test_by_nullable": NO_NULL_KEY,
    "test_examples3": FUTURE,
    "test_examples4": FUTURE,
    "test_forward_by": FUTURE,
    "test_merge_asof_multiby_with_categorical": FUTURE,
    "test_merge_asof_non_numerical_dtype": ARGUMENTS,
    "test_merge_asof_non_numerical_dtype_object": ARGUMENTS,
    "test_merge_asof_numeri_column_in_index_object_dtype": ARGUMENTS,
    "test_merge_asof_raise_for_duplicate_columns": ARGUMENTS,
    "test_merge_datatype_categorical_error_raises": ARGUMENTS,
    "test_merge_datatype_error_raises": ARGUMENTS,
    "test_merge_on_nans": "both refuse a label without time, each in its words",
    "test_mismatched_index_dtype": ARGUMENTS,
    "test_multi_index_left": ARGUMENTS,
    "test_multi_index_right": ARGUMENTS,
    "test_nearest_by": FUTURE,
    "test_non_sorted": ORDER,
    "test_on_and_index_left_on": ARGUMENTS,
    "test_on_and_index_right_on": ARGUMENTS,
    "test_timedelta_tolerance_nearest": FUTURE,
    "test_tolerance_float": FUTURE,
    "test_tolerance_forward": FUTURE,
    "test_tolerance_nearest": FUTURE,
    "test_tolerance_negative_one_nanosecond": ARGUMENTS,
    "test_valid_allow_exact_matches": ARGUMENTS,
    "test_valid_join_keys": ARGUMENTS,
    "test_valid_join_keys_one_sided_categorical": ARGUMENTS,
    "test_valid_tolerance": ARGUMENTS,
}

UTC_US = pa.timestamp("us", tz="UTC")


# ── merge_asof, by way of a store ────────────────────────────────────────────────────────────


def merge_asof(
    left: Any,
    right: Any,
    on: Any = None,
    left_on: Any = None,
    right_on: Any = None,
    left_index: bool = False,
    right_index: bool = False,
    by: Any = None,
    left_by: Any = None,
    right_by: Any = None,
    suffixes: Sequence[str] = ("_x", "_y"),
    tolerance: Any = None,
    allow_exact_matches: bool = True,
    direction: str = "backward",
) -> pd.DataFrame:
    """Answer as ``pandas.merge_asof`` does."""
    assert direction == "backward", FUTURE
    if by is None and len(np.atleast_1d(left_by)) != len(np.atleast_1d(right_by)):
        raise MergeError("left_by and right_by must be the same length")
    sides = [
        _Side(left, left_on if on is None else on, left_index, left_by if by is None else by),
        _Side(right, right_on if on is None else on, right_index, right_by if by is None else by),
    ]
    left, right = (side.frame for side in sides)
    shared = {a for a, b in zip(sides[0].merged, sides[1].merged, strict=True) if a == b}
    values = [name for name in right.columns if name not in shared]
    times = _times(*(side.time for side in sides))
    found = joined(
        labels=[*map(_key, sides[0].keys), times[0]],
        history=[*map(_key, sides[1].keys), times[1]],
        values=[right[name] for name in values],
        max_age=_max_age(tolerance),
        delay=None if allow_exact_matches else timedelta(microseconds=1),
    )
    clashes = set(left.columns) & set(values)
    result = left.rename(columns={name: name + suffixes[0] for name in clashes})
    for name, column in zip(values, found, strict=True):
        result[name + suffixes[1] if name in clashes else name] = column.set_axis(result.index)
    # A time that is no column of the left, pandas lets stand in the right's where rows are missing.
    at = sides[1].merged[0]
    if at in values and result[at].isna().any():
        result[at] = sides[0].time.to_numpy()
    return result


class _Side:
    """A frame, the series that is its time, and those that are its keys."""

    def __init__(self, frame: Any, on: Any, index: bool, by: Any) -> None:
        frame = frame.to_frame() if isinstance(frame, pd.Series) else frame.copy()
        [on] = on if isinstance(on, list) else [on]
        named = isinstance(on, str)
        if named and on not in frame.columns:
            frame = frame.reset_index(on).reset_index(drop=True)
        self.frame = frame
        at = frame.index if index else frame[on] if named else on
        self.time = pd.Series(at).reset_index(drop=True)
        names = [] if by is None else [by] if isinstance(by, str) else by
        self.keys = [frame[name] for name in names] or [pd.Series([0] * len(frame))]
        self.merged = [on if named else object(), *names]


def _times(left: pd.Series, right: pd.Series) -> list[pa.Array]:
    """Return times of both sides as timestamps; what is no time in the order that it has."""
    arrays = [pa.array(side, from_pandas=True) for side in (left, right)]
    if pa.types.is_floating(arrays[0].type):
        _, ranks = np.unique(np.concatenate([left, right]), return_inverse=True)
        arrays = [pa.array(ranks[: len(left)]), pa.array(ranks[len(left) :])]
    return [
        (array if pa.types.is_timestamp(array.type) else array.cast(pa.int64())).cast(UTC_US)
        for array in arrays
    ]


def _key(series: pd.Series) -> pa.Array:
    """Return keys in a type that a record identifier can have."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.dtype.categories.dtype)
    array = pa.array(series, from_pandas=True)
    if pa.types.is_floating(array.type) or pa.types.is_duration(array.type):
        pytest.skip(f"{series.dtype} cannot identify a record")
    if pa.types.is_timestamp(array.type):
        return array.cast(UTC_US)
    return array.cast(pa.string()) if pa.types.is_large_string(array.type) else array


def _max_age(tolerance: Any) -> timedelta | None:
    if tolerance is None:
        return None
    if isinstance(tolerance, timedelta):
        return pd.Timedelta(tolerance).to_pytimedelta()
    return timedelta(microseconds=tolerance)


def joined(
    labels: Sequence[pa.Array],
    history: Sequence[pa.Array],
    values: Sequence[pd.Series],
    max_age: timedelta | None,
    delay: timedelta | None,
) -> list[pd.Series]:
    """Return the values of history as known at each label; keys and time are the leading arrays."""
    names = [f"key{place}" for place in range(len(labels) - 1)]
    features = [f"value{place}" for place in range(len(values))]
    columns = [*history, *(_storable(series) for series in values)]
    table = pa.table(columns, [*names, "at", *features])
    with fresh_store(durability="rebuildable") as store:
        store.create_feature_group(
            "right", record_identifier=names, event_time="at", like=table, max_future=None
        )
        for part in (table.slice(0, len(table) // 2), table.slice(len(table) // 2)):
            store.flush()
            store.ingest("right", part, id=str(next(_numbers)))
        if not features:
            return []
        answer = store.point_in_time(
            pa.table(list(labels), [*names, "at"]),
            [fs.FeatureLookup("right", features, max_age=max_age, delay=delay)],
            label_time="at",
        )
    return [_as_pandas(answer[name], series) for name, series in zip(features, values, strict=True)]


_numbers = count()


def _storable(series: pd.Series) -> pa.Array:
    array = pa.array(series, from_pandas=False)
    if pa.types.is_timestamp(array.type):
        return array.cast(UTC_US)
    return array.cast(pa.string()) if pa.types.is_large_string(array.type) else array


def _as_pandas(column: pa.ChunkedArray, like: pd.Series) -> pd.Series:
    """Return a column in the type that pandas gives to values of which some may be missing."""
    missing = column.null_count > 0
    plain = like.reset_index(drop=True)
    kind = plain.reindex([-1]).dtype if missing else plain.dtype
    found = pd.Series(column.to_pandas())
    if isinstance(kind, np.dtype) and kind.kind == "M":
        found = found.dt.tz_localize(None)
    return found.astype(kind)


# ── pandas' tests, and what they stand on ────────────────────────────────────────────────────

TestAsOfMerge = suite.TestAsOfMerge
globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_")})


@pytest.fixture(autouse=True)
def answered_by_a_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the store in pandas' place, or skip what cannot be asked of it."""
    name = request.function.__name__
    if request.function.__module__ != suite.__name__:
        return
    if name not in RUN:
        pytest.skip(SKIPPED.get(name, "not in the table of this module"))
    monkeypatch.setattr(pd, "merge_asof", merge_asof)


@pytest.fixture(params=["s", "ms", "us", "ns"])
def unit(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=suite.tm.ALL_REAL_NUMPY_DTYPES)
def any_real_numpy_dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=suite.tm.ALL_INT_DTYPES)
def any_int_dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def any_numeric_ea_dtype() -> str:
    return "Int64"


@pytest.fixture
def using_infer_string() -> bool:
    return pd.Series(["text"]).dtype != object


@pytest.fixture
def datapath() -> None:
    """Stand for a fixture that tests ask for and do not use."""


def test_the_table_says_of_every_test_what_becomes_of_it() -> None:
    there = {name for name in (*vars(suite), *vars(TestAsOfMerge)) if name.startswith("test_")}
    assert not RUN & set(SKIPPED)
    assert len(there & RUN) > 30
    if pd.__version__.startswith("3.1."):
        assert there == RUN | set(SKIPPED)
