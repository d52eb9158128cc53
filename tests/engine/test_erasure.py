"""Erasure: what is gone is gone, from every place, whatever was under way."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

import featurestore as fs
from featurestore.engine import compactor, eraser, filing, flusher, ingest, staging
from featurestore.engine.verify.store import examine
from featurestore.storage import files, manifest, parquet
from tests.model import DAY, MINUTE, moment
from tests.small_world import START

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = START + DAY
SECRET = "the-secret-of-"
ANN, BOB = "ann@example.com", "bob@example.com"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fs.FeatureStore]:
    for module, name, size in (
        (parquet, "ROW_GROUP_ROWS", 8),
        (compactor, "CELL_ROWS", 20),
        (ingest, "JOURNAL_ROWS_MAX", 10),
        (staging, "SLICE_KEYS_MAX", 4),
        (staging, "SLICE_KEYS_MIN", 1),
        (eraser, "WAIT_SECONDS", 0.2),
    ):
        monkeypatch.setattr(module, name, size)
    with fs.open(tmp_path / "store", clock=lambda: NOW, upkeep=False) as opened:
        opened.create_feature_group(
            "people", record_identifier="mail", event_time="at",
            features={"mail": "string", "at": "timestamp", "x": "int64", "s": "string"},
        )  # fmt: skip
        yield opened


def record(mail: str, minute: int) -> dict[str, Any]:
    at = moment(START + minute * MINUTE)
    return {"mail": mail, "at": at, "x": minute, "s": f"{SECRET}{mail}"}


def many(rows: int, *mails: str) -> list[dict[str, Any]]:
    """Return records of as many people, those named among them, several times."""
    others = [f"person-{number}@example.com" for number in range(rows // 2)]
    everybody = [*others, *mails]
    return [record(everybody[row % len(everybody)], row) for row in range(rows)]


def fill(store: fs.FeatureStore) -> None:
    """Put Ann into every kind of file, removed ones, the journal and the online store."""
    store.ingest("people", many(60, ANN, BOB))
    store.flush()
    store.compact()
    store.write([("people", row) for row in many(8, ANN, BOB)])
    store.flush()
    store.ingest("people", [*many(40, BOB), *(record(ANN, 100 + n) for n in range(3))])
    store.write([("people", record(ANN, 200)), ("people", record(BOB, 200))], request_id="both")
    store.put_record("people", record(BOB, 201), request_id="bob")
    store.put_record("people", record(ANN, 202))


def history(store: fs.FeatureStore, mail: str | None = None) -> list[dict[str, Any]]:
    rows = store.sql("SELECT * FROM history.people ORDER BY write_seq").to_pylist()
    return [row for row in rows if mail in (None, row["mail"])]


def data_files(store: fs.FeatureStore) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in store.path.glob("data/*/*")}


def entries(store: fs.FeatureStore) -> list[manifest.FileEntry]:
    env = store._database.env
    with env.read() as txn:
        return manifest.all_live_files(env, txn)


def test_nothing_is_left_of_whom_was_erased(store: fs.FeatureStore, tmp_path: Path) -> None:
    fill(store)
    assert {entry.kind for entry in entries(store)} == {"cell", "flush", "staged"}
    others = [row for row in history(store) if row["mail"] != ANN]
    hers = len(history(store, ANN))
    online = {row["mail"]: row for row in store.scan("people")}
    receipt = store.erase("people", ANN)
    assert (receipt.group, receipt.online, receipt.records) == ("people", True, hers)
    assert receipt.at == moment(NOW)
    assert receipt.seq == store.snapshot()
    assert store.get_record("people", ANN, with_status=True).status == "MISSING"
    assert history(store) == others
    assert {row["mail"]: row for row in store.scan("people")} == {
        mail: row for mail, row in online.items() if mail != ANN
    }
    assert store.stat()["groups"]["people"]["keys"] == len(online) - 1
    assert [c["record"]["mail"] for c in store.changes()] == [row["mail"] for row in others]
    labels = {"mail": [ANN, BOB], "event_time": [moment(NOW)] * 2}
    assert store.point_in_time(labels, "people:x")["x"].to_pylist() == [None, 201]
    assert store.verify() == []
    for data in data_files(store).values():
        assert f"{SECRET}{ANN}".encode() not in data
        assert ANN.encode() not in data
    store.backup(tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        if path.is_file():
            assert ANN.encode() not in path.read_bytes()
            assert BOB.encode() in path.read_bytes() or path.name != "data.mdb"
    with fs.open(tmp_path / "copy", read_only=True) as copy:
        assert copy.verify(erasures=[receipt]) == []


def test_only_files_that_hold_it_are_written_again(store: fs.FeatureStore) -> None:
    store.ingest("people", many(60))
    store.flush()
    store.compact()
    store.put_record("people", record(ANN, 1))
    store.flush()
    before = {entry.file_id for entry in entries(store) if entry.kind == "cell"}
    receipt = store.erase("people", ANN)
    assert receipt.files == 0  # the one file that held her held nobody else
    assert receipt.records == 1
    assert {entry.file_id for entry in entries(store)} == before
    again = store.erase("people", ANN)
    assert (again.online, again.records, again.files) == (False, 0, 0)
    assert store.erase("people", "nobody").records == 0
    assert store.verify() == []


def test_a_retry_of_what_wrote_it_does_not_bring_it_back(store: fs.FeatureStore) -> None:
    fill(store)
    receipt = store.erase("people", ANN)
    assert receipt.requests == 1
    with pytest.raises(fs.RecordErased, match="both"):
        store.write([("people", record(ANN, 200)), ("people", record(BOB, 200))], request_id="both")
    assert store.put_record("people", record(BOB, 201), request_id="bob").replayed
    assert store.ingest("people", many(60, ANN, BOB)).replayed == 60
    assert history(store, ANN) == []
    store.put_record("people", record(ANN, 300))  # afterwards she is new
    store.flush()
    store.compact()
    assert len(history(store, ANN)) == 1
    assert store.verify() == []


def test_it_says_so_when_something_is_left(store: fs.FeatureStore, tmp_path: Path) -> None:
    """Verify finds what was erased wherever it comes back: each place is planted."""
    fill(store)
    store.flush()
    shutil.copytree(store.path, tmp_path / "before")
    receipt = store.erase("people", ANN)
    with fs.open(tmp_path / "before", upkeep=False) as before:
        assert before.verify() == []
        faults = before.verify(erasures=[receipt])
        assert {fault.what for fault in faults} == {"erased"}
        places = {fault.place for fault in faults}
        assert 'online store of "people"' in places
        assert len(places) > 3
        before.put_record("people", record(ANN, 300), request_id="later")
        late = {fault.place for fault in before.verify(erasures=[receipt])}
    env = store._database.env
    assert any("journal" in place for place in late)
    with fs.open(tmp_path / "before", upkeep=False, read_only=True) as before:
        with before._database.env.read() as txn:
            old = manifest.all_live_files(before._database.env, txn)
        (entry, *_) = [entry for entry in old if entry.kind == "flush"]
        shutil.copy(before.path / entry.path, store.path / entry.path)
    with env.write() as txn:
        manifest.list_file(env, txn, replace(entry, file_id=entry.file_id))
    assert "erased" in {fault.what for fault in store.verify()}


# ── work in flight ───────────────────────────────────────────────────────────────────────────


def in_the_middle(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], Any]
) -> None:
    """Do something once, after a function of a module has been called."""
    original = getattr(module, name)
    waiting = [act]

    def function(*args: Any, **how: Any) -> Any:
        result = original(*args, **how)
        if waiting:
            waiting.pop()()
        return result

    monkeypatch.setattr(module, name, function)


def test_a_flush_that_had_read_it_drops_its_file(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([("people", row) for row in many(8, ANN, BOB)])
    in_the_middle(monkeypatch, flusher, "write_file", lambda: store.erase("people", ANN))
    store.flush()
    assert history(store, ANN) == []
    assert len(history(store)) > 0
    store.flush()
    assert history(store, ANN) == []
    assert store.verify() == []
    assert not any(ANN.encode() in data for data in data_files(store).values())


def test_a_compaction_that_had_read_it_drops_its_files(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        store.write([("people", row) for row in many(8, ANN, BOB)])
        store.flush()
    in_the_middle(
        monkeypatch, compactor._Work, "_write_windows", lambda: store.erase("people", ANN)
    )
    store.compact()
    assert history(store, ANN) == []
    store.compact()
    assert {entry.kind for entry in entries(store)} == {"cell"}
    assert store.verify() == []
    assert not any(ANN.encode() in data for data in data_files(store).values())


def test_an_ingest_that_had_staged_it_is_refused(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_middle(monkeypatch, staging, "under_intent", lambda: store.erase("people", ANN))
    with pytest.raises(fs.Unavailable, match="an erasure came in between"):
        store.ingest("people", many(60, ANN, BOB))
    assert history(store) == []
    assert store.verify() == []
    store.flush()
    assert data_files(store) == {}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize("slices", [1, 2, 5, 7])
def test_an_ingest_that_is_half_in_goes_on_without_it(store: fs.FeatureStore, slices: int) -> None:
    """Also where her rows are visible, not visible yet, or all that is visible."""
    data = table(many(60, ANN, BOB))
    calls = []

    def erase_after_some(rows: int) -> None:
        calls.append(rows)
        if len(calls) == slices:
            store.erase("people", ANN)

    with pytest.raises(fs.StoreBusy, match="Send it again"):
        store.ingest("people", data, progress=erase_after_some)
    assert history(store, ANN) == []
    assert store.verify() == []
    result = store.ingest("people", data)
    expected = [row for row in data.to_pylist() if row["mail"] != ANN]
    assert result.accepted + result.replayed == len(expected)
    found = [{name: row[name] for name in expected[0]} for row in history(store)]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
    seqs = [row["write_seq"] for row in history(store)]
    assert len(set(seqs)) == len(seqs)
    assert store.verify() == []
    store.compact()
    assert store.verify() == []
    assert store.ingest("people", data).replayed == len(expected)


def test_an_ingest_of_which_all_that_was_in_is_erased(store: fs.FeatureStore) -> None:
    data = table([record(ANN, n) for n in range(12)] + [record(BOB, n) for n in range(12)])

    def erase(_: int) -> None:
        for mail in (ANN, BOB):
            if store.get_record("people", mail) is not None:
                store.erase("people", mail)

    staging_keys = pytest.MonkeyPatch()
    staging_keys.setattr(staging, "SLICE_KEYS_MAX", 1)
    with pytest.raises(fs.RecordErased):
        store.ingest("people", data, progress=erase)
    staging_keys.undo()
    assert history(store) == []
    with pytest.raises(fs.RecordErased, match="new id"):
        store.ingest("people", data)
    assert store.verify() == []


def test_files_that_come_meanwhile_are_looked_through_too(
    store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    examine_files = eraser._Erasure._examine
    rounds, ids = [], itertools.count()

    def and_others_write(self: Any) -> None:
        examine_files(self)
        rounds.append(1)
        if len(rounds) < 4:
            store.ingest("people", many(20 + len(rounds), ANN, BOB), id=str(next(ids)))

    monkeypatch.setattr(eraser._Erasure, "_examine", and_others_write)
    store.erase("people", ANN)
    assert len(rounds) == 4
    assert history(store, ANN) == []
    assert store.verify() == []
    monkeypatch.setattr(eraser, "ATTEMPTS", 2)
    rounds.clear()
    with pytest.raises(fs.StoreBusy, match="Nothing was erased"):
        store.erase("people", BOB)
    assert len(history(store, BOB)) > 0
    assert store.verify() == []


def test_a_sleeping_flusher_is_not_waited_for(store: fs.FeatureStore) -> None:
    fill(store)
    locks = [files.FileLock.acquire(store._database.locks / name) for name in ("flush", "compact")]
    store.erase("people", ANN)
    for lock in locks:
        lock.release()
    assert history(store, ANN) == []
    assert store.verify() == []


# ── readers ──────────────────────────────────────────────────────────────────────────────────


def test_a_reader_keeps_its_files_and_the_receipt_says_so(store: fs.FeatureStore) -> None:
    fill(store)
    store.flush()
    store.create_consumer("replica", max_lag=None)
    with store._database.snapshot(["people"]) as pinned:
        snapshot = pinned["people"]
        receipt = store.erase("people", ANN)
        assert set(receipt.waiting) <= set(map(str, (e.path for e in snapshot.files)))
        assert receipt.waiting
        assert not receipt.clean
        notes = examine(store._database).notes
        assert any("until its last reader is done" in note for note in notes)
        assert store.verify() == []
        read = pa.concat_tables(snapshot.read(entry) for entry in snapshot.files)
        assert ANN in read["mail"].to_pylist()  # its moment was before
    assert store.erase("people", ANN).waiting == ()
    assert not any(ANN.encode() in data for data in data_files(store).values())
    seen = [change["record"]["mail"] for change in store.changes(consumer="replica")]
    assert ANN not in seen
    assert BOB in seen


def test_what_cannot_be_erased(store: fs.FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(fs.UnknownFeatureGroup, match="people"):
        store.erase("peple", ANN)
    with pytest.raises(fs.InvalidRecord):
        store.erase("people", 5)
    with (
        fs.open(tmp_path / "store", read_only=True, upkeep=False) as reader,
        pytest.raises(fs.ReadOnlyStore),
    ):
        reader.erase("people", ANN)


def test_a_long_composite_key_online_only(tmp_path: Path) -> None:
    with fs.open(tmp_path / "other", clock=lambda: NOW, upkeep=False) as store:
        store.create_feature_group(
            "g", record_identifier=["a", "b"], event_time="t", offline=False,
            features={"a": "string", "b": "int32", "t": "timestamp", "v": "float64"},
        )  # fmt: skip
        for b in range(3):
            store.put_record("g", {"a": "x" * 900, "b": b, "t": moment(NOW), "v": np.pi})
        receipt = store.erase("g", ("x" * 900, 1))
        assert (receipt.online, receipt.records) == (True, 1)
        assert [row["b"] for row in store.scan("g")] in ([0, 2], [2, 0])
        assert store.verify() == []


def test_the_intent_of_an_erasure_that_died_is_cleaned_up(store: fs.FeatureStore) -> None:
    fill(store)

    def dies(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eraser._Erasure, "_commit", dies)
        with pytest.raises(KeyboardInterrupt):
            store.erase("people", ANN)
    assert len(history(store, ANN)) > 0
    listed = {str(store.path / entry.path) for entry in entries(store)}
    assert filing  # the files that were written are given up at once
    env = store._database.env
    with env.read() as txn:
        removed = {str(store.path / e.path) for e in manifest.removed_files(env, txn)}
        assert manifest.intents(env, txn) == []
    assert set(data_files(store)) == listed | (removed & set(data_files(store)))
    assert store.verify() == []
