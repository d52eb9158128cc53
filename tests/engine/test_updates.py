"""Partial updates: what stays, what moves, who wins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FEATURES = {
    "k": "string", "at": "timestamp", "temp": "float64", "wind": "int32", "sky": "string",
    "seen": "timestamp", "day": "date", "counts": "list<int64>", "pair": "vector<float32, 2>",
}  # fmt: skip
WHOLE = {
    "k": "a", "at": NOON, "temp": 1.5, "wind": None, "sky": "clear", "seen": NOON - HOUR,
    "day": NOON.date(), "counts": [1, None, 3], "pair": [0.5, 2.0],
}  # fmt: skip


@pytest.fixture
def clock() -> list[datetime]:
    return [NOON]


@pytest.fixture
def store(open_store: Callable[..., fs.FeatureStore], clock: list[datetime]) -> fs.FeatureStore:
    store = open_store(clock=lambda: clock[0])
    store.create_feature_group(
        "g", record_identifier="k", event_time="at", features=FEATURES, max_future=None
    )
    store.put_record("g", WHOLE)
    return store


def test_what_is_not_named_stays(store: fs.FeatureStore) -> None:
    done = store.update_record("g", "a", {"wind": 7, "sky": None})
    assert done.outcome == "moved"
    assert store.get_record("g", "a") == WHOLE | {"wind": 7, "sky": None}
    # History has both, each whole.
    rows = store.sql("SELECT wind, sky, day FROM history.g ORDER BY write_seq").to_pylist()
    assert [(row["wind"], row["sky"]) for row in rows] == [(None, "clear"), (7, None)]
    assert rows[1]["day"] == NOON.date()


def test_the_event_time_may_move_on_but_not_back(store: fs.FeatureStore) -> None:
    store.update_record("g", "a", {"at": NOON, "temp": 2.0})  # equal is applied
    store.update_record("g", "a", {"at": NOON + HOUR, "temp": 3.0})
    with pytest.raises(fs.StaleUpdate, match=r"older than the record itself, of 2013-01-01T13"):
        store.update_record("g", "a", {"at": NOON, "temp": 4.0})
    assert store.get_record("g", "a", ["at", "temp"]) == {"at": NOON + HOUR, "temp": 3.0}


def test_an_update_that_changes_nothing_says_so(store: fs.FeatureStore) -> None:
    assert store.update_record("g", "a", {"temp": 1.5}).outcome == "unchanged"
    assert store.snapshot() == 1


def test_there_must_be_a_live_record(store: fs.FeatureStore, clock: list[datetime]) -> None:
    with pytest.raises(fs.RecordNotFound, match="Put a whole record"):
        store.update_record("g", "nobody", {"temp": 1.0})
    store.put_record("g", {"k": "short", "at": NOON}, ttl="1h")
    clock[0] = NOON + HOUR
    with pytest.raises(fs.RecordNotFound):
        store.update_record("g", "short", {"temp": 1.0})
    for hard in (False, True):
        store.put_record("g", {"k": "b", "at": NOON})
        store.delete_record("g", "b", event_time=NOON, hard=hard)
        with pytest.raises(fs.RecordNotFound):
            store.update_record("g", "b", {"temp": 1.0})


def test_the_time_to_live_goes_along(store: fs.FeatureStore) -> None:
    def expires() -> datetime | None:
        found: datetime | None = store.get_record("g", "a", with_status=True).expires_at
        return found

    store.put_record("g", WHOLE, ttl="2h")
    store.update_record("g", "a", {"temp": 2.0})
    assert expires() == NOON + 2 * HOUR
    store.update_record("g", "a", {"at": NOON + HOUR})
    assert expires() == NOON + 3 * HOUR
    store.update_record("g", "a", {"temp": 4.0}, ttl="5h")
    assert expires() == NOON + 6 * HOUR
    store.update_feature_group("g", ttl="1h")  # is for whole records written from now on
    store.update_record("g", "a", {"temp": 5.0})
    assert expires() == NOON + 6 * HOUR


def test_a_repeat_with_its_id_counts_once(store: fs.FeatureStore) -> None:
    first = store.update_record("g", "a", {"temp": 2.0}, request_id="one")
    store.update_record("g", "a", {"temp": 3.0}, request_id="two")
    again = store.update_record("g", "a", {"temp": 2.0}, request_id="one")
    assert (again.replayed, again.seq) == (True, first.seq)
    assert store.get_record("g", "a", ["temp"]) == {"temp": 3.0}
    with pytest.raises(fs.RequestMismatch):
        store.update_record("g", "a", {"temp": 9.0}, request_id="one")


def test_what_was_erased_is_not_brought_back_by_a_late_repeat(store: fs.FeatureStore) -> None:
    store.update_record("g", "a", {"temp": 2.0}, request_id="one")
    store.erase("g", "a")
    with pytest.raises(fs.RecordErased):
        store.update_record("g", "a", {"temp": 2.0}, request_id="one")


def test_a_feature_added_meanwhile_is_part_of_it(store: fs.FeatureStore) -> None:
    store.update_feature_group("g", add_features={"gust": "float64"})
    store.update_record("g", "a", {"gust": 8.0})
    assert store.get_record("g", "a", ["gust", "temp"]) == {"gust": 8.0, "temp": 1.5}


def test_a_definition_that_grows_between_check_and_commit_is_minded(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer holds an update that was checked against the definition of before."""
    from featurestore.engine import updates

    prepare = updates.prepare_update

    def late(*args: Any, **options: Any) -> Any:
        prepared = prepare(*args, **options)
        store.update_feature_group("g", add_features={"gust": "float64"})
        store.put_record("g", {**WHOLE, "gust": 8.0})
        return prepared

    monkeypatch.setattr(updates, "prepare_update", late)
    store.update_record("g", "a", {"temp": 2.0})
    assert store.get_record("g", "a", ["gust", "temp"]) == {"gust": 8.0, "temp": 2.0}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({}, fs.InvalidRecord, "not empty"),
        ({"k": "b"}, fs.InvalidRecord, "identifies the record"),
        ({"tmep": 1.0}, fs.UnknownFeature, 'Did you mean "temp"'),
        ({"wind": 1.5}, fs.InvalidRecord, "not a whole number"),
        ({"at": None}, fs.InvalidEventTime, "no event time"),
        ({"sky": "x" * 400_000}, fs.InvalidRecord, "the limit is 358,400"),
    ],
)
def test_a_bad_update_changes_nothing(
    store: fs.FeatureStore, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        store.update_record("g", "a", changes)
    assert store.get_record("g", "a") == WHOLE
    assert store.snapshot() == 1


def test_an_update_goes_online_or_is_refused(store: fs.FeatureStore) -> None:
    with pytest.raises(fs.InvalidInput, match="changes the online record"):
        store.update_record("g", "a", {"temp": 2.0}, target_stores=["offline"])
    store.update_record("g", "a", {"temp": 2.0}, target_stores=["online"])
    assert store.sql("SELECT count(*) AS n FROM history.g").to_pylist() == [{"n": 1}]
    assert store.get_record("g", "a", ["temp"]) == {"temp": 2.0}


def test_of_many_updates_at_once_none_is_lost(store: fs.FeatureStore) -> None:
    store.update_feature_group("g", add_features={f"f{n}": "int64" for n in range(8)})

    def own(n: int) -> None:
        for value in range(20):
            store.update_record("g", "a", {f"f{n}": value})

    threads = [threading.Thread(target=own, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get_record("g", "a", [f"f{n}" for n in range(8)]) == {
        f"f{n}": 19 for n in range(8)
    }


_VALUES = {
    "temp": st.none() | st.floats(allow_nan=False),
    "wind": st.none() | st.integers(-5, 5),
    "sky": st.none() | st.text(max_size=4),
    "counts": st.none() | st.lists(st.none() | st.integers(-5, 5), max_size=3),
}
_CHANGES = st.fixed_dictionaries({}, optional=_VALUES).filter(bool)


@given(st.lists(_CHANGES, min_size=1, max_size=5))
def test_updates_come_to_what_a_dict_would(steps: list[dict[str, Any]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, fs.open(folder, durability="rebuildable") as s:
        s.create_feature_group("g", record_identifier="k", event_time="at", features=FEATURES)
        s.put_record("g", WHOLE)
        model = dict(WHOLE)
        for changes in steps:
            s.update_record("g", "a", changes)
            model |= changes
        assert s.get_record("g", "a") == model
        assert s.verify() == []


def test_a_delete_may_be_aimed_at_one_store(store: fs.FeatureStore) -> None:
    store.delete_record("g", "a", event_time=NOON + HOUR, target_stores=["offline"])
    assert store.get_record("g", "a") == WHOLE
    assert store.sql("SELECT count(*) AS n FROM g").to_pylist() == [{"n": 1}]
    marks = store.sql("SELECT is_deleted FROM history.g ORDER BY write_seq").to_pylist()
    assert [row["is_deleted"] for row in marks] == [False, True]
    store.put_record("g", {"k": "b", "at": NOON})
    store.delete_record("g", "b", event_time=NOON, target_stores=["online"])
    assert store.get_record("g", "b") is None
    assert store.sql("SELECT count(*) AS n FROM history.g WHERE k = 'b'").to_pylist() == [{"n": 1}]
    # An id stands for the whole request, the stores it was aimed at with it.
    store.delete_record("g", "a", event_time=NOON, target_stores=["offline"], request_id="r")
    with pytest.raises(fs.RequestMismatch):
        store.delete_record("g", "a", event_time=NOON, request_id="r")
