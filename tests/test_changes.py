"""Changes: every accepted record once and in order, whatever is moved meanwhile; and consumers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.engine import changes, cleaner, compactor
from tests.model import DAY, HOUR, MINUTE, SECOND, moment
from tests.small_world import START, fresh_folder, fresh_store

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = START + MINUTE


def two_groups(store: fs.FeatureStore) -> None:
    for name in ("left", "right"):
        store.create_feature_group(
            name,
            record_identifier="k",
            event_time="t",
            features={"k": "int64", "t": "timestamp", "x": "int64"},
        )


def record(x: int) -> dict[str, Any]:
    return {"k": x % 7, "t": moment(START + x % 40 * SECOND), "x": x}


def seen(found: Sequence[dict[str, Any]]) -> list[tuple[int, str, int]]:
    return [(change["seq"], change["group"], change["record"]["x"]) for change in found]


@given(
    chores=st.lists(st.sampled_from(["left", "right", "both", "table", "flush", "compact"])),
    stretch=st.integers(1, 5),
    since=st.integers(0, 20),
)
def test_any_stretch_gives_the_same_history(chores: list[str], stretch: int, since: int) -> None:
    """How much is read at a time shows nowhere; a group left out leaves no gap in the others."""
    with pytest.MonkeyPatch.context() as patch, fresh_store(clock=lambda: NOW) as store:
        patch.setattr(changes, "STRETCH_SEQS", stretch)
        two_groups(store)
        expected: list[tuple[int, str, int]] = []

        def put(*names: str) -> None:
            first = len(expected)
            rows = [(name, record(first + i)) for i, name in enumerate(names)]
            store.write(rows)
            expected.extend((first + i + 1, name, first + i) for i, name in enumerate(names))

        for chore in chores:
            if chore == "flush":
                store.flush()
            elif chore == "compact":
                store.compact()
            elif chore == "table":
                put("left", "left", "right", "left")
            else:
                put(*(("left", "right") if chore == "both" else (chore,)))
        for names in (None, ["left"], ["right", "left"]):
            wanted = [row for row in expected if row[0] > since and row[1] in (names or row[1])]
            assert seen(list(store.changes(since, names))) == wanted


def test_changes_go_on_while_everything_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two records read: writes, flushes, compactions, and old files deleted at once."""
    monkeypatch.setattr(changes, "STRETCH_SEQS", 7)
    monkeypatch.setattr(cleaner, "GRACE_US", 0)
    monkeypatch.setattr(compactor, "WINDOW_ROWS", 30)
    with fresh_store(clock=lambda: NOW, durability="rebuildable") as store:
        two_groups(store)
        for x in range(200):
            store.put_record(("left", "right")[x % 2], record(x))
        done = threading.Event()

        def move() -> None:
            x = 200
            while not done.is_set():
                store.put_record("left", record(x))
                store.flush(("left", "right")[x % 2])
                if x % 3 == 0:
                    store.compact()
                x += 1

        mover = threading.Thread(target=move)
        mover.start()
        try:
            for _ in range(3):
                found = [change["record"]["x"] for change in store.changes()]
                assert found == list(range(len(found)))
                assert len(found) >= 200
        finally:
            done.set()
            mover.join()


def test_a_flush_between_the_files_and_the_tail_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The list of files is read, then the tail is moved into one, then the tail is read."""
    with fresh_store(clock=lambda: NOW) as store:
        two_groups(store)
        for x in range(6):
            store.put_record(("left", "right")[x % 2], record(x))
        read_tail, left = changes._tail, 3

        def late(*args: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                store.put_record("left", record(9))
                store.flush()
            return read_tail(*args)

        monkeypatch.setattr(changes, "_tail", late)
        assert [change["record"]["x"] for change in store.changes()] == list(range(6))
        assert left == 0


def test_memory_is_bounded_by_the_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No table holds more rows than a stretch has, however long the history."""
    monkeypatch.setattr(changes, "STRETCH_SEQS", 10)
    largest = 0
    records = changes._records

    def noted(group: Any, table: Any) -> Any:
        nonlocal largest
        largest = max(largest, table.num_rows)
        return records(group, table)

    monkeypatch.setattr(changes, "_records", noted)
    with fresh_store(clock=lambda: NOW) as store:
        two_groups(store)
        store.write([("left", record(x)) for x in range(300)])
        store.flush()
        store.write([("right", record(x)) for x in range(100)])
        assert len(list(store.changes())) == 400
        assert largest == 10


# ── consumers ────────────────────────────────────────────────────────────────────────────────


def test_a_consumer_goes_on_where_it_was_after_a_reopen() -> None:
    with fresh_folder() as folder:
        with fs.open(folder / "store", clock=lambda: NOW) as store:
            two_groups(store)
            assert store.create_consumer("replica") == 0
            for x in range(5):
                store.put_record("left", record(x))
            for change in store.changes(consumer="replica"):
                if change["seq"] == 3:
                    break  # it dies before it has acknowledged this one
                store.acknowledge("replica", change["seq"])
        with fs.open(folder / "store", clock=lambda: NOW) as store:
            assert store.create_consumer("replica", exist_ok=True) == 2
            store.flush()
            assert [c["seq"] for c in store.changes(consumer="replica")] == [3, 4, 5]
            store.acknowledge("replica", 5)
            store.acknowledge("replica", 4)  # a late retry moves nothing back
            assert list(store.changes(consumer="replica")) == []
            assert [c["seq"] for c in store.changes(3, consumer="replica")] == [4, 5]
            store.create_consumer("other", since=store.snapshot())
            store.put_record("right", record(9))
            assert [c["seq"] for c in store.changes(consumer="other")] == [6]
            facts = store.stat()
            assert facts["history_held_after"] == 5
            assert facts["consumers"]["replica"] == {
                "seq": 5,
                "lag_records": 1,
                "lag_seconds": 0.0,
                "dropped": None,
            }
            store.delete_consumer("replica")
            store.delete_consumer("other")
            assert store.stat()["history_held_after"] is None
            assert store.verify() == []


def test_a_consumer_beyond_its_limit_is_dropped_and_told() -> None:
    now = NOW
    with fresh_store(clock=lambda: now) as store:
        two_groups(store)
        store.create_consumer("patient", max_lag=None)
        store.create_consumer("hasty", max_lag="1h")
        store.create_consumer("small", max_lag=None, max_lag_records=3)
        for x in range(3):
            store.put_record("left", record(x))
        store.flush()
        for name in ("patient", "hasty", "small"):
            assert len(list(store.changes(consumer=name))) == 3
        store.acknowledge("hasty", 1)
        now += HOUR
        store.flush()
        assert len(list(store.changes(consumer="hasty"))) == 2  # at its limit, not beyond
        now += 1
        store.put_record("left", record(4))
        store.flush()
        with pytest.raises(fs.ConsumerDropped, match="limit is 1h"):
            store.changes(consumer="hasty")
        with pytest.raises(fs.ConsumerDropped, match="4 records behind"):
            store.acknowledge("small", 2)
        with pytest.raises(fs.ConsumerDropped):
            store.create_consumer("small", exist_ok=True)
        assert store.stat()["history_held_after"] == 0
        assert "limit" in store.stat()["consumers"]["small"]["dropped"]
        now += 365 * DAY
        store.flush()
        assert len(list(store.changes(consumer="patient"))) == 4
        store.delete_consumer("small")
        assert store.create_consumer("small", since=4) == 4


def test_what_is_no_consumer_or_no_seq_is_refused() -> None:
    with fresh_store(clock=lambda: NOW) as store:
        two_groups(store)
        store.put_record("left", record(1))
        store.create_consumer("replica")
        with pytest.raises(fs.ConsumerExists, match=r'"replica".* seq 0'):
            store.create_consumer("replica")
        with pytest.raises(fs.UnknownConsumer, match='mean "replica"'):
            store.changes(consumer="replika")
        with pytest.raises(fs.UnknownConsumer, match='mean "replica"'):
            store.acknowledge("replika", 1)
        with pytest.raises(fs.UnknownConsumer, match='mean "replica"'):
            store.delete_consumer("replika")
        for seq in (-1, 2, "1", True):
            with pytest.raises(fs.InvalidInput, match="no seq of this store"):
                store.acknowledge("replica", seq)  # type: ignore[arg-type]
            with pytest.raises(fs.InvalidInput, match="no seq of this store"):
                store.create_consumer("new", since=seq)  # type: ignore[arg-type]
        with pytest.raises(fs.UnknownFeatureGroup, match="left"):
            list(store.changes(groups=["lef"]))


def test_a_misspelt_group_is_no_empty_history(store: fs.FeatureStore) -> None:
    store.create_feature_group(
        "weather", record_identifier="k", event_time="t",
        features={"k": "int64", "t": "timestamp"},
    )  # fmt: skip
    with pytest.raises(fs.UnknownFeatureGroup, match='mean "weather"'):
        list(store.changes(0, ["wether"]))
