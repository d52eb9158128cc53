"""What is said when a file call fails: errors of ours, that say what is known and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import featurestore as fs
from featurestore.storage import files, seam
from tests.model import moment
from tests.small_world import START

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FEATURES = {"k": "int64", "t": "timestamp", "x": "int64"}


def record(k: int, x: int) -> dict[str, Any]:
    return {"k": k, "t": moment(START), "x": x}


@pytest.fixture
def full(store: fs.FeatureStore) -> fs.FeatureStore:
    """Return a store with a record in a file and one in the journal."""
    store.create_feature_group("g", record_identifier="k", event_time="t", features=FEATURES)
    store.put_record("g", record(1, 1))
    store.flush()
    store.put_record("g", record(2, 2))
    return store


@contextlib.contextmanager
def failing(name: str, mode: str = "eio", code: int | None = None) -> Iterator[None]:
    """Let the first call of a name fail, in a mode of the seam or with any code."""
    fault: Any = seam.Fault(name, mode, 1)
    if code is not None:

        def fault(called: str, path: str, do: Callable[..., Any], args: tuple[Any, ...]) -> Any:
            if called == name:
                raise OSError(code, os.strerror(code), path)
            return do(*args)

    seam.on_call = fault
    try:
        yield
    finally:
        seam.on_call = None


@pytest.mark.parametrize("mode", ["eio", "late_eio"])
def test_a_commit_whose_outcome_nobody_knows_says_so_and_counts_once(
    full: fs.FeatureStore, mode: str
) -> None:
    with failing("commit", mode), pytest.raises(fs.OutcomeUnknown, match="request id"):
        full.put_record("g", record(3, 3), request_id="once")
    again = full.put_record("g", record(3, 3), request_id="once")
    assert again.replayed == (mode == "late_eio")
    assert full.sql("SELECT count(*) n FROM history.g").to_pylist() == [{"n": 3}]


def test_a_commit_without_room_is_known_not_to_have_happened(full: fs.FeatureStore) -> None:
    with failing("commit", "enospc"), pytest.raises(fs.StoreFull, match="Nothing"):
        full.put_record("g", record(3, 3))
    assert full.get_record("g", 3) is None
    assert full.put_record("g", record(3, 3)).seq == 3


def test_a_disk_full_when_lmdb_gave_up_leaves_the_outcome_unknown(
    full: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page that makes a commit count went wrong: it may count, whatever room there is."""
    env = full._database.env
    monkeypatch.setattr(env, "_is_given_up", lambda: True)
    with failing("commit", "enospc"), pytest.raises(fs.OutcomeUnknown):
        full.put_record("g", record(3, 3))


def test_errors_of_lmdb_are_told_for_what_they_are(full: fs.FeatureStore) -> None:
    translate = full._database.env.translate
    failed = translate(lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EIO)}"))
    assert type(failed) is fs.Unavailable
    assert "disk" in str(failed)
    ended = translate(lmdb.PanicError("mdb_txn_begin: MDB_PANIC"))
    assert type(ended) is fs.StoreClosed
    assert "open the store again" in str(ended)


@pytest.mark.parametrize(
    ("call", "code", "error"),
    [
        ("fsync", errno.EIO, fs.Unavailable),
        ("rename", errno.EIO, fs.Unavailable),
        ("create", errno.EMFILE, fs.Unavailable),
        ("lock", errno.EMFILE, fs.Unavailable),
        ("list", errno.EIO, fs.Unavailable),
        ("statvfs", errno.EIO, fs.Unavailable),
        ("stat", errno.EIO, fs.Unavailable),
        ("write", errno.ENOSPC, fs.StoreFull),
        ("write", errno.EDQUOT, fs.StoreFull),
        ("rename", errno.EROFS, fs.ReadOnlyStore),
    ],
)
def test_a_flush_that_fails_leaves_nothing_and_can_be_done_again(
    full: fs.FeatureStore, call: str, code: int, error: type[fs.FeatureStoreError]
) -> None:
    with failing(call, code=code), pytest.raises(error):
        full.flush()
    full.flush()
    assert full.stat()["groups"]["g"]["journal_rows"] == 0
    there = {p.name for p in (full.path / "data").rglob("*") if p.is_file()}
    assert len(there) == full.stat()["groups"]["g"]["files"]


def test_a_link_that_is_there_though_it_failed_is_made_a_copy(
    full: fs.FeatureStore, tmp_path: Path
) -> None:
    full.flush()
    with failing("link", "late_eio"):
        full.backup(tmp_path / "copy")
    with fs.open(tmp_path / "copy", read_only=True) as copy:
        assert copy.verify() == copy.scrub() == []
    names = [path.relative_to(full.path) for path in (full.path / "data").rglob("*.parquet")]
    same = [(full.path / name).samefile(tmp_path / "copy" / name) for name in names]
    assert same.count(False) == 1


@pytest.mark.parametrize("size", [0, 4096])
def test_whose_maker_died_at_its_first_file_is_no_store_yet(tmp_path: Path, size: int) -> None:
    path = tmp_path / "store"
    (path / "engine").mkdir(parents=True)
    (path / "engine" / "data.mdb").write_bytes(bytes(size))
    with pytest.raises((fs.NotAStore, fs.IncompatibleStore)):
        fs.open(path, read_only=True)
    with fs.open(path, upkeep=False) as store:
        assert store.verify() == []


def test_no_descriptor_left_is_no_damage(full: fs.FeatureStore) -> None:
    labels = full.sql("SELECT 1 AS k, now() AS event_time")
    with failing("open", code=errno.EMFILE), pytest.raises(fs.Unavailable, match="ulimit"):
        full.point_in_time(labels, ["g:x"])
    assert full.point_in_time(labels, ["g:x"])["x"].to_pylist() == [1]


def test_a_pin_whose_name_cannot_be_removed_holds_nothing(full: fs.FeatureStore) -> None:
    with failing("unlink"):
        assert full.sql("SELECT x FROM g ORDER BY 1")["x"].to_pylist() == [1, 2]
    [left] = (full.path / "locks").glob("pin-*")
    assert not files.is_held(left)
    full.flush()
    full.compact()
    assert not left.exists()


def test_a_backup_that_finds_no_room_says_so(full: fs.FeatureStore, tmp_path: Path) -> None:
    with failing("copy_engine", "enospc"), pytest.raises(fs.StoreFull):
        full.backup(tmp_path / "copy")
    full.backup(tmp_path / "another")
    with fs.open(tmp_path / "another", read_only=True) as copy:
        assert copy.verify() == []
