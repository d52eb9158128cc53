"""Compaction over a long life: what it may cost, what it must not lose, what retention drops."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.engine import cleaner, compactor, merging
from featurestore.storage import manifest, parquet
from tests.model import HOUR, MINUTE, SECOND, moment
from tests.small_world import START, fresh_store

if TYPE_CHECKING:
    from pathlib import Path

DAY = 24 * HOUR
FEATURES = {"k": "int64", "t": "timestamp", "x": "int64", "s": "string"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in (
        (parquet, "ROW_GROUP_ROWS", 50),
        (compactor, "WINDOW_ROWS", 400),
        (compactor, "CELL_ROWS", 150),
        (compactor, "SAMPLE_ROWS", 300),
        (compactor, "FAN_IN", 4),
        (cleaner, "GRACE_US", 0),
    ):
        monkeypatch.setattr(module, name, size)


def a_group(store: fs.FeatureStore, **settings: Any) -> None:
    store.create_feature_group(
        "g", record_identifier="k", event_time="t", features=FEATURES, **settings
    )


def record(k: int, time_us: int, x: int) -> dict[str, Any]:
    return {"k": k, "t": moment(time_us), "x": x, "s": f"{x} of {k}"}


def history(store: fs.FeatureStore) -> list[dict[str, Any]]:
    return store.sql("SELECT * FROM history.g ORDER BY write_seq").to_pylist()


def entries(store: fs.FeatureStore) -> list[manifest.FileEntry]:
    env = store._database.env
    with env.read() as txn:
        return manifest.all_live_files(env, txn)


def fill(store: fs.FeatureStore, rows: int, *, keys: int = 40, flush: int = 200) -> None:
    """Put rows, mostly in the order of their times, and flush now and then."""
    chance = random.Random(rows)
    for first in range(0, rows, flush):
        numbers = range(first, min(first + flush, rows))
        store.write(
            [
                (
                    "g",
                    record(
                        chance.randrange(keys),
                        START + (n if chance.random() < 0.9 else chance.randrange(n + 1)) * SECOND,
                        n,
                    ),
                )
                for n in numbers
            ]
        )
        store.flush()


# ── nothing is lost, and it costs little ─────────────────────────────────────────────────────


@pytest.mark.parametrize("keys", [1, 3, 500])
def test_any_number_of_files_becomes_disjoint_cells_with_all_rows(keys: int) -> None:
    """Also where one key has more rows than a row group, a cell or a window."""
    with fresh_store(upkeep=False, durability="rebuildable") as store:
        a_group(store)
        fill(store, 2000, keys=keys, flush=130)
        before = history(store)
        assert store.compact() >= 2000
        assert {entry.kind for entry in entries(store)} == {"cell"}
        assert history(store) == before
        assert store.verify() == []
        assert len(store._database.catalog().groups) == 1
        rows = [entry.rows for entry in entries(store)]
        assert keys == 1 or max(rows) < 3 * compactor.CELL_ROWS
        assert store.compact() == 0


def test_one_percent_more_does_not_rewrite_a_large_history() -> None:
    with fresh_store(upkeep=False, durability="rebuildable") as store:
        a_group(store)
        costs = []
        rows = 0
        for size in (2_000, 4_000, 8_000):
            fill_to(store, rows, size)
            store.compact()
            rows = size
            written = bytes_written(store)
            fill_to(store, rows, rows + rows // 100)
            rows += rows // 100
            store.compact()
            costs.append(bytes_written(store) - written)
            whole = sum(entry.size_bytes for entry in entries(store))
        assert costs[-1] < 0.25 * whole  # the open window, no more
        assert costs[-1] < 2.5 * costs[0]  # four times the history


def fill_to(store: fs.FeatureStore, first: int, rows: int) -> None:
    for start in range(first, rows, 500):
        numbers = range(start, min(start + 500, rows))
        store.write([("g", record(n % 40, START + n * SECOND, n)) for n in numbers])
    store.flush()


def bytes_written(store: fs.FeatureStore) -> int:
    """Return the bytes of all files ever listed, those not removed yet too: ids only grow."""
    seen = _SEEN.setdefault(str(store.path), {})
    env = store._database.env
    with env.read() as txn:
        for entry in (*manifest.all_live_files(env, txn), *manifest.removed_files(env, txn)):
            seen[entry.file_id] = entry.size_bytes
    return sum(seen.values())


_SEEN: dict[str, dict[int, int]] = {}


@pytest.mark.skipif(
    "FEATURESTORE_KEY_HASH_BITS" in os.environ, reason="rows of one hash are held together"
)
def test_memory_does_not_grow_with_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held of the files at once: some row groups, however large the window."""
    held: list[int] = []
    as_sorted = merging._sorted

    def measured(snapshot: Any, parts: list[pa.Table]) -> pa.Table:
        held.append(sum(part.num_rows for part in parts))
        return as_sorted(snapshot, parts)

    monkeypatch.setattr(merging, "_sorted", measured)
    most = []
    for rows in (3_000, 12_000):
        held.clear()
        monkeypatch.setattr(compactor, "WINDOW_ROWS", rows)
        with fresh_store(upkeep=False, durability="rebuildable") as store:
            a_group(store)
            for _ in range(3):
                fill_to(store, 0, rows // 3)
            store.compact()
        most.append(max(held))
    assert max(most) <= (compactor.FAN_IN + 2) * parquet.ROW_GROUP_ROWS * 2


def test_readers_streams_and_changes_go_on_through_compaction_and_cleaning() -> None:
    with fresh_store(upkeep=False, durability="rebuildable") as store:
        a_group(store)
        fill(store, 1000)
        expected = history(store)
        labels = {"k": list(range(40)), "event_time": [moment(START + DAY)] * 40}
        joined = store.point_in_time(labels, "g:*")
        stream = store.point_in_time(labels, "g:*", stream=True)
        changes = store.changes(0)
        first = next(changes)
        with store._database.snapshot(["g"]) as pinned:
            for round_ in range(3):
                store.put_record("g", record(1, START + DAY + HOUR + round_, round_))
                store.flush()
                store.compact()
            snapshot = pinned["g"]
            rows = sum(snapshot.read(entry).num_rows for entry in snapshot.files)
            assert rows == len(expected)
        assert stream.read_all().equals(joined)
        seqs = [first["seq"], *(change["seq"] for change in changes)]
        assert seqs == [row["write_seq"] for row in expected]
        del stream
        store.flush()
        on_disk = {str(p.relative_to(store.path)) for p in store.path.rglob("*.parquet")}
        assert on_disk == {entry.path for entry in entries(store)}


# ── retention ────────────────────────────────────────────────────────────────────────────────


def newest(rows: list[dict[str, Any]], at_us: int) -> dict[int, int]:
    """Return for each key the x it had at a time."""
    found: dict[int, tuple[Any, int]] = {}
    for row in sorted(rows, key=lambda r: (r["t"], r["write_seq"])):
        if row["t"] <= moment(at_us):
            found[row["k"]] = (row["t"], row["x"])
    return {k: x for k, (_, x) in found.items()}


@given(data=st.data())
def test_retention_changes_no_answer_within_it(data: st.DataObject) -> None:
    """However history came, at every moment from the horizon on the answers are the same."""
    now = START + 100 * MINUTE
    with fresh_store(clock=lambda: now, upkeep=False, durability="rebuildable") as store:
        a_group(store, retention="50m")
        horizon = now - 50 * MINUTE
        minutes = st.integers(0, 99)
        number = 0
        for _ in range(data.draw(st.integers(1, 4))):
            batch = data.draw(st.lists(st.tuples(st.integers(0, 3), minutes), min_size=1))
            for k, minute in batch:
                number += 1
                stores = data.draw(st.sampled_from([("online", "offline")] * 3 + [("offline",)]))
                row = record(k, START + minute * MINUTE, number)
                store.put_record("g", row, target_stores=stores)
            store.flush()
            if data.draw(st.booleans()):
                store.compact()
        before = history(store)
        online = sorted(store.scan("g"), key=repr)
        store.compact()
        after = history(store)
        assert store.verify() == []
        assert sorted(store.scan("g"), key=repr) == online
        for at in (horizon, horizon + 1, horizon + 20 * MINUTE, now):
            assert newest(after, at) == newest(before, at)
        kept = {row["write_seq"] for row in after}
        within = [row for row in before if row["t"] >= moment(horizon)]
        assert {row["write_seq"] for row in within} <= kept
        old = [row for row in after if row["t"] < moment(horizon)]
        assert len(old) <= 2 * len({row["k"] for row in old})  # two: one of them offline alone


def test_retention_waits_for_consumers_and_moves_on_by_itself() -> None:
    now = START + DAY
    with fresh_store(clock=lambda: now, upkeep=False, durability="rebuildable") as store:
        a_group(store)
        for n in range(30):
            store.put_record("g", record(n % 3, START + n * HOUR // 2, n))
        store.flush()
        store.compact()
        store.create_consumer("replica", max_lag=None)
        store.acknowledge("replica", 10)
        assert store.update_feature_group("g", retention="4h").retention_us == 4 * HOUR
        now = START + 2 * DAY
        store.compact()
        seqs = [row["write_seq"] for row in history(store)]
        assert seqs == list(range(11, 31))  # all of them are old; some are not acknowledged
        assert [c["seq"] for c in store.changes(consumer="replica")] == seqs
        store.delete_consumer("replica")
        now += HOUR
        group = store.describe_feature_group("g")
        store.put_record("g", record(1, now - 10 * HOUR, 99))
        store.flush()
        assert compactor.compact_group(store._database, group, now, sparing=True) > 0
        assert [row["write_seq"] for row in history(store)] == [28, 29, 30, 31]  # one is loose
        assert compactor.compact_group(store._database, group, now + MINUTE, sparing=True) == 0
        store.compact()
        assert [row["write_seq"] for row in history(store)] == [28, 30, 31]
        assert store.verify() == []


def state_of(store: fs.FeatureStore) -> manifest.GroupState:
    env = store._database.env
    with env.read() as txn:
        return manifest.state(env, txn, store.describe_feature_group("g").id)


def test_windows_before_the_horizon_become_one() -> None:
    now = START + 2000 * SECOND
    with fresh_store(clock=lambda: now, upkeep=False, durability="rebuildable") as store:
        a_group(store)
        fill(store, 2000)
        store.compact()
        windows = state_of(store).windows
        horizon = (windows[1] + windows[2]) // 2
        store.update_feature_group("g", retention=timedelta(microseconds=now - horizon))
        closed = len(windows)  # the number of the last window, which is open and may still be cut
        later = [entry for entry in entries(store) if 2 < entry.window < closed]
        assert later
        assert store.compact() > 0
        state = state_of(store)
        assert state.windows[: closed - 1] == (horizon, *windows[2:])
        assert state.horizon_us == horizon
        kept = {entry.file_id for entry in entries(store)}
        assert {entry.file_id for entry in later} <= kept  # only numbered anew
        assert store.verify() == []
        assert store.compact() == 0


def test_a_retention_that_cannot_be(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store", upkeep=False) as store:
        with pytest.raises(fs.InvalidInput, match="zero would keep no history"):
            a_group(store, retention="0s")
        a_group(store, retention="1d")
        with pytest.raises(fs.SchemaMismatch, match="retention"):
            a_group(store, exist_ok=True)
