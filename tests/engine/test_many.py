"""Many dicts in one write: by column and one by one they come to the same, to the last bit."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featurestore as fs
from featurestore import store as front_door
from featurestore.encoding import runs
from featurestore.engine import many

START = datetime(2024, 1, 1, tzinfo=UTC)
FEATURES = {
    "k": "int64",
    "t": "timestamp",
    "d": "float64",
    "f": "float32",
    "n": "int16",
    "s": "string",
    "b": "bool",
    "raw": "binary",
    "at": "timestamp",
}


def values(name: str) -> st.SearchStrategy[Any]:
    exact: dict[str, st.SearchStrategy[Any]] = {
        "d": st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")]),
        "f": st.sampled_from([0.1, 1e30, float("-inf")]),
        "n": st.sampled_from([-(2**15), 0, 2**15 - 1]),
        "s": st.sampled_from(["", "é", "a\0b"]),
        "b": st.booleans(),
        "raw": st.sampled_from([b"", b"\xff\0"]),
        "at": st.sampled_from([START, START.replace(year=1900)]),
    }
    return st.one_of(st.none(), exact[name], exact[name])


@st.composite
def batches(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw dicts of the same names: few keys and times, so that there are ties and repeats."""
    names = draw(st.sets(st.sampled_from(list(FEATURES)[2:])))
    record = st.fixed_dictionaries(
        {
            "k": st.integers(0, 3),
            "t": st.integers(0, 3).map(lambda s: START + timedelta(seconds=s)),
            **{name: values(name) for name in sorted(names)},
        }
    )
    rows = draw(st.lists(record, min_size=1, max_size=12))
    return rows + draw(st.lists(st.sampled_from(rows), max_size=4))


@contextlib.contextmanager
def road(*, by_column: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front_door, "MANY", 1 if by_column else 2**62)
        patch.setattr(runs, "_FEW", 0)
        yield


def opened(folder: str, **options: Any) -> fs.FeatureStore:
    store = fs.open(folder, clock=lambda: START + timedelta(days=1), upkeep=False)
    store.create_feature_group(
        "g", record_identifier="k", event_time="t", features=FEATURES, **options
    )
    return store


def remains(store: fs.FeatureStore) -> Any:
    assert store.verify() == []
    found: list[Any] = []
    group = store.describe_feature_group("g")
    if group.offline:
        found += store.sql("SELECT * FROM history.g ORDER BY write_seq").to_pylist()
    if group.online:
        found += sorted(store.scan("g"), key=repr)
    return repr(found)


@settings(max_examples=60)
@given(
    st.lists(batches(), min_size=1, max_size=3),
    st.sampled_from([{}, {"ttl": "2s"}, {"offline": False}, {"online": False}]),
)
def test_both_roads_come_to_the_same(written: list[Any], options: dict[str, Any]) -> None:
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as two,
        opened(one, **options) as columnar,
        opened(two, **options) as single,
    ):
        for rows in written:
            given_rows = [("g", row) for row in rows]
            with road(by_column=True):
                made = columnar.write(given_rows)
            with road(by_column=False):
                assert made == single.write(given_rows)
        assert remains(columnar) == remains(single)


GOOD = {"k": 1, "t": START, "d": 1.0}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"k": None}, fs.InvalidRecord),
        ({"t": None}, fs.InvalidEventTime),
        ({"t": START.replace(tzinfo=None)}, fs.InvalidEventTime),
        ({"t": START.replace(year=2099)}, fs.InvalidEventTime),
        ({"d": "1.0"}, fs.InvalidRecord),
        ({"n": 2**15}, fs.InvalidRecord),
        ({"f": 1e300}, fs.InvalidRecord),
        ({"s": "\ud800"}, fs.InvalidRecord),
        ({"dd": 1.0}, fs.UnknownFeature),
    ],
)
@pytest.mark.parametrize("everywhere", [False, True])
def test_one_bad_value_refuses_all_in_the_words_of_a_single_put(
    tmp_path: Any, bad: dict[str, Any], error: type[Exception], everywhere: bool
) -> None:
    with opened(str(tmp_path)) as store:
        with pytest.raises(error) as alone:
            store.put_record("g", GOOD | bad)
        rest = GOOD | dict.fromkeys(bad) | GOOD if everywhere and "dd" not in bad else GOOD
        with road(by_column=True), pytest.raises(error) as among:
            store.write([("g", rest), ("g", GOOD | bad)])
        assert str(among.value) == str(alone.value)
        assert list(store.scan("g")) == []


def test_values_that_want_converting_take_the_other_road(tmp_path: Any) -> None:
    with opened(str(tmp_path)) as store:
        database = store._writable
        for odd in ({"d": 1}, {"n": True}, {"t": "2024-01-01T00:00:00Z"}):
            assert many.work_of(database, [("g", GOOD | odd)], 2**51, None) is None
        assert many.work_of(database, [("g", GOOD)], 2**51, None) is not None
        with road(by_column=True):
            store.write([("g", GOOD | {"d": 1, "t": "2024-01-01T00:00:00Z"})])
        assert store.get_record("g", 1)["d"] == 1.0
