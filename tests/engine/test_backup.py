"""Backups: a consistent cut of a store in use, checked byte by byte; and what is made of them."""

from __future__ import annotations

import json
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest

import featurestore as fs
from featurestore.engine import backup as engine
from featurestore.storage import files
from tests.model import DAY, SECOND, moment
from tests.small_world import START

if TYPE_CHECKING:
    from pathlib import Path

NOW = START + DAY
FEATURES = {"k": "int64", "t": "timestamp", "x": "int64"}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with fs.open(tmp_path / "store", clock=lambda: NOW, upkeep=False) as opened:
        for name in ("left", "right"):
            opened.create_feature_group(
                name, record_identifier="k", event_time="t", features=FEATURES
            )
        yield opened


def pair(number: int) -> list[tuple[str, dict[str, Any]]]:
    row = {"k": number % 7, "t": moment(START + number * SECOND), "x": number}
    return [("left", row), ("right", row)]


def content(store: fs.FeatureStore, name: str) -> list[dict[str, Any]]:
    return store.sql(f"SELECT * FROM history.{name} ORDER BY write_seq").to_pylist()


def data_files(path: Path) -> dict[str, os.stat_result]:
    return {str(p.relative_to(path)): p.stat() for p in path.glob("data/*/*")}


def test_a_consistent_cut_under_load(store: fs.FeatureStore, tmp_path: Path) -> None:
    """Writers, flushes and compactions go on; each backup has both halves of every write."""
    stop, written = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            store.write(pair(written[0]))
            written[0] += 1
            if written[0] % 10 == 0:
                store.flush()
            if written[0] % 40 == 0:
                store.compact()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = []
        for number in range(4):
            while written[0] < 30 * (number + 1):
                pass
            before = store.snapshot()
            earlier = tmp_path / f"copy{number - 1}" if number else None
            store.backup(tmp_path / f"copy{number}", since=earlier)
            with fs.open(tmp_path / f"copy{number}", read_only=True) as copy:
                assert copy.verify() == []
                assert copy.snapshot() >= before
                left, right = content(copy, "left"), content(copy, "right")
                assert [r["x"] for r in left] == [r["x"] for r in right] == list(range(len(left)))
                seen.append(len(left))
    finally:
        stop.set()
        writer.join()
    assert seen == sorted(seen)
    fs.restore(tmp_path / "copy3", tmp_path / "again")
    with fs.open(tmp_path / "again", upkeep=False) as again:
        assert [row["x"] for row in content(again, "left")] == list(range(seen[-1]))
        assert again.verify() == []


def test_only_new_files_are_copied(
    store: fs.FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another disk, where files of the store cannot be linked."""
    link = os.link

    def only_between_backups(source: Any, target: Any) -> None:
        if "store" in str(source).removeprefix(str(tmp_path)):
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", only_between_backups)
    store.write(pair(1))
    store.flush()
    assert store.backup(tmp_path / "one") == 2
    store.write(pair(2))
    store.flush()
    assert store.backup(tmp_path / "two", since=tmp_path / "one") == 4
    first, second = data_files(tmp_path / "one"), data_files(tmp_path / "two")
    own = data_files(store.path)
    assert {name for name in second if second[name].st_nlink > 1} == set(first)
    assert all(second[name].st_ino == first[name].st_ino for name in first)
    assert not {s.st_ino for s in own.values()} & {s.st_ino for s in second.values()}
    shutil.rmtree(tmp_path / "one")
    assert fs.restore(tmp_path / "two", tmp_path / "again") == 4


def test_damage_is_found_and_named(store: fs.FeatureStore, tmp_path: Path) -> None:
    store.write(pair(1))
    store.flush()
    store.backup(tmp_path / "copy")
    name = next(iter(data_files(store.path)))
    flip(store.path / name)  # linked: on one disk a backup is no second copy
    with pytest.raises(fs.CorruptStore, match=name):
        store.backup(tmp_path / "other")
    with pytest.raises(fs.CorruptStore, match=name):
        fs.restore(tmp_path / "copy", tmp_path / "again")
    with pytest.raises(fs.InvalidInput, match="not finished"):
        fs.restore(tmp_path / "other", tmp_path / "again2")
    flip(store.path / name)
    flip(tmp_path / "copy" / "engine" / "data.mdb")
    with pytest.raises(fs.CorruptStore, match=r"data\.mdb is damaged"):
        fs.restore(tmp_path / "copy", tmp_path / "again3")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def test_what_is_no_backup_or_not_of_this_store(store: fs.FeatureStore, tmp_path: Path) -> None:
    store.backup(tmp_path / "copy")
    with fs.open(tmp_path / "other") as other:
        with pytest.raises(fs.InvalidInput, match="another store"):
            other.backup(tmp_path / "new", since=tmp_path / "copy")
        with pytest.raises(fs.InvalidInput, match="is no backup"):
            other.backup(tmp_path / "new", since=tmp_path / "store")
    with pytest.raises(fs.InvalidInput, match="is no backup"):
        fs.restore(tmp_path / "store", tmp_path / "new")
    with pytest.raises(fs.InvalidInput, match="not empty"):
        fs.restore(tmp_path / "copy", tmp_path / "store")
    with pytest.raises(fs.ReadOnlyStore, match="is a backup"):
        fs.open(tmp_path / "copy")
    note = json.loads((tmp_path / "copy" / engine.NOTE).read_bytes())
    assert note["store_id"] == store._database.env.format["store_id"]
    assert (note["seq"], note["files"]) == (0, 0)
    assert note["engine_digest"] == files.digest(tmp_path / "copy" / "engine" / "data.mdb")


def test_a_restored_store_is_a_new_incarnation(store: fs.FeatureStore, tmp_path: Path) -> None:
    for number in range(3):
        store.write(pair(number))
    store.flush()
    store.write(pair(3))
    store.create_consumer("replica", max_lag=None)
    store.acknowledge("replica", 4)
    kept = store.snapshot()
    store.backup(tmp_path / "copy")
    store.write(pair(4))
    lost = store.snapshot()
    fs.restore(tmp_path / "copy", tmp_path / "again", clock=lambda: NOW)
    with fs.open(tmp_path / "again", clock=lambda: NOW, upkeep=False) as again:
        old, new = store._database.env.format, again._database.env.format
        assert old["store_id"] == new["store_id"]
        assert old["incarnation"] != new["incarnation"]
        assert content(again, "left") == content(store, "left")[:4]
        results = again.write(pair(5))
        assert results[0].seq == engine.SEQ_GAP + 1
        labels = {"k": [3, 5], "event_time": [moment(NOW)] * 2}
        assert again.point_in_time(labels, "left:x", as_of=kept)["x"].to_pylist() == [3, None]
        assert again.point_in_time(labels, "left:x")["x"].to_pylist() == [3, 5]
        assert [c["record"]["x"] for c in again.changes(kept)] == [5, 5]
        assert [c["record"]["x"] for c in again.changes()] == [0, 0, 1, 1, 2, 2, 3, 3, 5, 5]
        for refused in (
            lambda: again.point_in_time(labels, "left:x", as_of=lost),
            lambda: list(again.changes(lost)),
            lambda: again.create_consumer("new", since=lost),
        ):
            with pytest.raises(fs.InvalidInput, match=f"{lost} was a seq of this store before"):
                refused()
        with pytest.raises(fs.ConsumerDropped, match="was restored from the backup"):
            again.changes(consumer="replica")
        again.compact()
        assert again.verify() == []
        again.backup(tmp_path / "second")
    fs.restore(tmp_path / "second", tmp_path / "third", clock=lambda: NOW)
    with fs.open(tmp_path / "third", clock=lambda: NOW, upkeep=False) as third:
        assert third.write(pair(6))[0].seq == 2 * engine.SEQ_GAP + 1
        assert [c["record"]["x"] for c in third.changes(kept)] == [5, 5, 6, 6]
        assert third.verify() == []


def test_a_backup_while_an_ingest_is_half_in(store: fs.FeatureStore, tmp_path: Path) -> None:
    rows = [{"k": n, "t": moment(START + n * SECOND), "x": n} for n in range(50)]
    from featurestore.engine import ingest, staging

    with pytest.MonkeyPatch.context() as patch:
        for module, name, size in (
            (ingest, "JOURNAL_ROWS_MAX", 5),
            (staging, "SLICE_KEYS_MAX", 10),
            (staging, "SLICE_KEYS_MIN", 1),
        ):
            patch.setattr(module, name, size)
        copied: list[int] = []

        def copy(done: int) -> None:
            if not copied:
                copied.append(done)
                store.backup(tmp_path / "copy")

        store.ingest("left", rows, progress=copy)
        fs.restore(tmp_path / "copy", tmp_path / "again", clock=lambda: NOW)
        with fs.open(tmp_path / "again", clock=lambda: NOW, upkeep=False) as again:
            assert len(content(again, "left")) == copied[0]
            assert again.verify() == []
            assert again.ingest("left", rows).replayed == copied[0]  # it goes on there
            assert sorted(row["x"] for row in content(again, "left")) == list(range(50))
            assert again.verify() == []
