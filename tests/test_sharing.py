"""One store shared inside a process: by threads, by several handles, and by readers of a moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

import featurestore as fs
from tests.model import MINUTE, SECOND, moment
from tests.small_world import START, fresh_folder, fresh_store

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = START + MINUTE


def a_group(store: fs.FeatureStore, name: str = "g", **options: Any) -> None:
    store.create_feature_group(
        name,
        record_identifier="k",
        event_time="t",
        features={"k": "int64", "t": "timestamp", "x": "int64"},
        **options,
    )


def record(k: int, seconds: int, x: int) -> dict[str, Any]:
    return {"k": k, "t": moment(START + seconds * SECOND), "x": x}


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Run jobs in threads that begin together; returns their results."""
    gate = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        gate.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


def test_threads_write_into_one_history() -> None:
    """Their writes share commits, and one that is refused spoils none of its neighbours."""
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        store.put_record("g", record(-1, 50, -1))

        def write(worker: int) -> list[fs.PutResult]:
            results = []
            for i in range(40):
                if i % 10 == 5:
                    with pytest.raises(fs.StaleDelete):
                        store.delete_record("g", -1, event_time=moment(START), hard=True)
                if i % 10 == 6:
                    with pytest.raises(fs.InvalidRecord):
                        store.put_record("g", record("x", 0, 0))
                results.append(store.put_record("g", record(i % 3, i, worker * 1000 + i)))
            return results

        told = list(chain(*at_once(*(partial(write, worker) for worker in range(6)))))
        history = store.sql("SELECT x, write_seq FROM history.g WHERE k >= 0").to_pylist()
        assert sorted((r["x"], r["write_seq"]) for r in history) == sorted(
            (worker * 1000 + i, told[worker * 40 + i].seq) for worker in range(6) for i in range(40)
        )
        assert sorted(r.seq for r in told) == list(range(2, 242))
        newest = max((r for r in history if r["x"] % 1000 == 39), key=lambda r: r["write_seq"])
        assert store.get_record("g", 0)["x"] == newest["x"]
        assert store.get_record("g", -1)["x"] == -1


def test_one_request_sent_by_many_threads_counts_once() -> None:
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        results = at_once(
            *(lambda: store.put_record("g", record(1, 1, 1), request_id="r") for _ in range(8))
        )
        assert sorted(r.replayed for r in results) == [False] + [True] * 7
        assert {r.seq for r in results} == {1}
        loads = at_once(
            *(lambda: store.ingest("g", [record(2, 1, 1), record(3, 1, 1)]) for _ in range(4))
        )
        assert sorted((r.accepted, r.replayed) for r in loads) == [(0, 2)] * 3 + [(2, 0)]
        assert store.sql("SELECT count(*) n FROM history.g").to_pylist() == [{"n": 3}]


def test_readers_see_moments_while_others_write_flush_and_compact() -> None:
    """Both groups get the same in one transaction, so at any moment they hold the same."""
    with fresh_store() as store:
        a_group(store, "left")
        a_group(store, "right")
        done = threading.Event()
        labels = pa.table({"k": [0, 1, 2], "event_time": [moment(START + MINUTE)] * 3})
        view = [fs.FeatureLookup(name, ["x"], prefix=f"{name}_") for name in ("left", "right")]
        store.create_feature_view("both", view)

        def write() -> int:
            for i in range(60):
                both = [("left", record(i % 3, i, i)), ("right", record(i % 3, i, i))]
                store.write(both)
            done.set()
            return 0

        def tidy() -> int:
            while not done.is_set():
                store.flush()
                store.compact()
            return 0

        def read() -> int:
            looks = 0
            while not done.is_set() or looks == 0:
                looks += 1
                [counts] = store.sql(
                    "SELECT (SELECT count(*) FROM history.left) l, "
                    "(SELECT count(*) FROM history.right) r, (SELECT count(*) FROM latest.left) m, "
                    "(SELECT count(*) FROM latest.right) n"
                ).to_pylist()
                assert (counts["l"], counts["m"]) == (counts["r"], counts["n"])
                joined = store.point_in_time(labels, "both")
                assert joined["left_x"].to_pylist() == joined["right_x"].to_pylist()
                served = store.get_features("both", {"k": 1})
                assert served["left_x"] == served["right_x"]
                found = store.batch_get_record({"left": [0, 1, 2], "right": [0, 1, 2]})
                assert found["left"]["x"].to_pylist() == found["right"]["x"].to_pylist()
            return looks

        assert min(at_once(write, tidy, read, read)[2:]) > 0
        assert store.sql("SELECT count(*) n FROM main.left").to_pylist() == [{"n": 60}]


@pytest.mark.parametrize("moment_of_closing", [0.0, 0.01, 0.02, 0.05, 0.1])
def test_a_store_closed_in_mid_use_says_so_to_everyone(moment_of_closing: float) -> None:
    """Whoever is reading or writing then is told that the store is closed, and nothing else."""
    with fresh_folder() as folder:
        store = fs.open(folder / "store", clock=lambda: NOW)
        a_group(store)
        for k in range(20):
            store.put_record("g", record(k, 1, 1))

        def until_closed(use: Callable[[], Any]) -> str:
            while True:
                try:
                    use()
                except fs.StoreClosed as error:
                    return str(error)

        uses: list[Callable[[], Any]] = [
            lambda: store.get_record("g", 3),
            lambda: list(store.scan("g")),
            lambda: store.batch_get_record({"g": [1, 2]}),
            lambda: store.put_record("g", record(1, 2, 2)),
            lambda: store.sql("FROM history.g"),
        ]
        closing = threading.Timer(moment_of_closing, store.close)
        closing.start()
        said = at_once(*(partial(until_closed, use) for use in uses))
        closing.join()
        assert all("closed" in sentence for sentence in said)
        with fs.open(folder / "store") as again:
            assert again.verify() == []


def test_handles_of_one_process_are_one_store() -> None:
    with fresh_folder() as folder:
        first = fs.open(folder / "store", clock=lambda: NOW)
        second = fs.open(folder / ".." / folder.name / "store", clock=lambda: moment(NOW))
        reader = fs.open(folder / "store", read_only=True)
        a_group(first)
        second.put_record("g", record(1, 1, 1))
        assert reader.get_record("g", 1)["x"] == 1
        with pytest.raises(fs.ReadOnlyStore):
            reader.put_record("g", record(1, 2, 2))
        first.close()
        assert second.put_record("g", record(1, 3, 3)).seq == 2
        second.close()
        assert reader.get_record("g", 1)["x"] == 3
        reader.close()
        with fs.open(folder / "store") as again:
            assert again.verify() == []
            assert again.snapshot() == 2


def test_a_relaxed_store_sees_its_own_writes() -> None:
    """It acknowledges before the commit, but no reader of this process can tell."""
    with fresh_folder() as folder:
        with fs.open(folder / "store", durability="relaxed", clock=lambda: NOW) as store:
            a_group(store)
            labels = pa.table({"k": [1], "event_time": [moment(NOW)]})
            looks: list[Callable[[], Any]] = [
                lambda: store.get_record("g", 1)["x"],
                lambda: store.batch_get_record({"g": [1]})["g"]["x"][0].as_py(),  # noqa: PLW0108
                lambda: next(iter(store.scan("g")))["x"],
                lambda: store.sql("SELECT x FROM g ORDER BY t DESC").to_pylist()[0]["x"],
                lambda: store.sql("SELECT x FROM latest.g").to_pylist()[0]["x"],
                lambda: store.point_in_time(labels, ["g:x"])["x"][0].as_py(),  # noqa: PLW0108
                lambda: store.get_features(["g:x"], {"k": 1})["x"],
                lambda: list(store.changes())[-1]["record"]["x"],
            ]
            for x, look in enumerate(looks):
                assert store.put_record("g", record(1, x, x)).outcome == "queued"
                assert look() == x
            assert store.put_record("g", record(1, 20, 20), request_id="r").outcome == "moved"
            store.put_record("g", record(1, 30, 30))
        with fs.open(folder / "store", clock=lambda: NOW) as store:  # closing commits the queue
            assert store.get_record("g", 1)["x"] == 30
            assert store.verify() == []


@pytest.mark.parametrize("durability", ["strict", "relaxed", "rebuildable"])
def test_durability_belongs_to_the_store(durability: str) -> None:
    with fresh_folder() as folder:
        with fs.open(folder / "store", durability=durability, clock=lambda: NOW) as store:
            a_group(store)
            store.put_record("g", record(1, 1, 1))
            store.ingest("g", [record(2, 1, 1)])
            store.flush()
        with fs.open(folder / "store", clock=lambda: NOW) as store:
            assert store.stat()["durability"] == durability
            assert [r["k"] for r in store.sql("FROM history.g ORDER BY 1").to_pylist()] == [1, 2]
            assert store.verify() == []
        other = "strict" if durability != "strict" else "relaxed"
        with pytest.raises(fs.InvalidInput, match=durability):
            fs.open(folder / "store", durability=other)
        with fs.open(folder / "store") as store:
            assert store.snapshot() == 2


def test_a_group_may_have_one_store_only() -> None:
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store, "serving", offline=False)
        a_group(store, "archive", online=False)
        for name in ("serving", "archive"):
            store.put_record(name, record(1, 2, 2))
            store.put_record(name, record(1, 1, 1))
            store.ingest(name, [record(2, 1, 1)])
        store.flush()
        store.compact()
        assert store.get_record("serving", 1)["x"] == 2
        assert store.sql("SELECT count(*) n FROM history.archive").to_pylist() == [{"n": 3}]
        labels = pa.table({"k": [1], "event_time": [moment(START + SECOND)]})
        assert store.point_in_time(labels, ["archive:x"])["x"].to_pylist() == [1]
        with pytest.raises(fs.InvalidInput, match="archive"):
            store.get_record("archive", 1)
        with pytest.raises(fs.InvalidInput, match="serving"):
            store.point_in_time(labels, ["serving:x"])


def test_nothing_put_is_nothing_done() -> None:
    with fresh_store(clock=lambda: NOW) as store:
        a_group(store)
        empty = pa.table(
            {"k": pa.array([], pa.int64()), "t": pa.array([], pa.timestamp("us", "UTC"))}
        )
        assert store.write([]) == []
        for data in (empty, [], iter([]), empty.to_pandas()):
            assert store.ingest("g", data) == fs.IngestResult()
        assert (store.flush(), store.compact(), store.snapshot()) == (0, 0, 0)
        assert store.batch_get_record({"g": []})["g"].num_rows == 0
        assert list(store.scan("g")) == []
        assert store.sql("FROM g").num_rows == store.sql("FROM latest.g").num_rows == 0
        labels = pa.table({"k": pa.array([], pa.int64()), "event_time": pa.array([], pa.string())})
        assert store.point_in_time(labels, ["g:x"]).column_names == ["k", "event_time", "x"]
