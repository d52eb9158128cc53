"""Bytes that change on disk: found when they are read, or by verify and scrub; never a wrong value.

Bits are flipped in the files themselves, of every kind, and anywhere in LMDB's file; what the store
then says must be what it said before, or an error of ours, and both checks must name the place.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import featurestore as fs
from featurestore.engine import ingest
from featurestore.storage import manifest, parquet
from featurestore.storage.environment import DATABASES
from featurestore.storage.rows import GENESIS, chained, seal
from tests.model import DAY, SECOND, moment
from tests.small_world import START

ROOT = Path(__file__).parents[2]
NOW = START + DAY
FLIPS = int(os.environ.get("FEATURESTORE_FLIPS", "12"))
FEATURES = {"k": "int64", "t": "timestamp", "x": "float64", "s": "string"}
GROUPS = ("flushed", "staged", "celled", "merged")


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"k": n % 30, "t": moment(START + n * SECOND), "x": n / 3, "s": f"value {n}"}
        for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store with files of every kind, rows in every database, and a tail."""
    path = tmp_path_factory.mktemp("rot") / "store"
    with (
        pytest.MonkeyPatch.context() as patch,
        fs.open(path, clock=lambda: NOW, upkeep=False, durability="rebuildable") as store,
    ):
        patch.setattr(ingest, "JOURNAL_ROWS_MAX", 50)
        for name in GROUPS:
            store.create_feature_group(
                name, record_identifier="k", event_time="t", features=FEATURES
            )
        store.ingest("staged", rows(200))
        store.write([("flushed", row) for row in rows(40)])
        store.write([("celled", row) for row in rows(40)])
        store.flush()
        store.compact("celled")
        from featurestore.engine import compactor

        store.ingest("merged", rows(300))
        store.compact("merged")
        for n in range(2):
            store.write([("merged", row) for row in rows(20, 400 + n * 20)])
            store.flush()
        group = store.describe_feature_group("merged")
        assert compactor.compact_group(store._database, group, NOW, sparing=True)
        store.write([("flushed", row) for row in rows(9, 900)], request_id="tail")
        store.create_consumer("replica")
        store.create_feature_view("view", ["flushed:x"])
        put_what_the_server_keeps(store._database.env)
        kinds = {entry.kind for entry in entries(store)}
        assert kinds == {"flush", "staged", "cell", "merged"}
        assert store.verify() == store.scrub() == []
    return path


def put_what_the_server_keeps(env: Any) -> None:
    """Put an API key, and a log of changes, as ``featurestore_server`` does."""
    put(env, "access", b"kabc", seal(b"kabc", {"name": "reader", "roles": [["reader", "*"]]}))
    last = GENESIS
    for number in range(3):
        text = b'{"verb":"create_key"}'
        last = chained(last, text)
        put(env, "audit", number.to_bytes(8, "big"), last + text)


def entries(store: fs.FeatureStore) -> list[manifest.FileEntry]:
    env = store._database.env
    with env.read() as txn:
        return manifest.all_live_files(env, txn)


def questions(store: fs.FeatureStore) -> list[tuple[str, Any]]:
    """Ask everything; returns what was asked, and the answer or that it was refused."""
    labels = {"k": list(range(30)), "event_time": [moment(NOW)] * 30}
    asked: list[tuple[str, Any]] = []
    for name in GROUPS:
        asked += [
            ("sql", lambda n=name: store.sql(f"SELECT * FROM history.{n} ORDER BY write_seq")),
            ("join", lambda n=name: store.point_in_time(labels, f"{n}:*")),
            (
                "few",
                lambda n=name: store.point_in_time({k: v[:2] for k, v in labels.items()}, f"{n}:x"),
            ),
            ("get", lambda n=name: [store.get_record(n, k) for k in range(30)]),
            ("batch", lambda n=name: store.batch_get_record({n: list(range(30))})[n]),
            ("scan", lambda n=name: sorted(map(repr, store.scan(n)))),
            ("changes", lambda n=name: list(store.changes(0, [n]))),
        ]
    answers = []
    for what, question in asked:
        try:
            answer = question()
        except fs.FeatureStoreError as error:
            answer = type(error).__name__
        answers.append((what, answer.to_pylist() if hasattr(answer, "to_pylist") else answer))
    return answers


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


@pytest.mark.parametrize("kind", ["flush", "staged", "cell", "merged"])
def test_a_file_with_a_flipped_bit_is_named_and_never_read_wrongly(
    whole: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "store"
    shutil.copytree(whole, path)
    chance = random.Random(kind)
    with fs.open(path, clock=lambda: NOW, upkeep=False) as store:
        (entry, *_) = [entry for entry in entries(store) if entry.kind == kind]
        expected = questions(store)
    for _ in range(FLIPS):
        at, bit = chance.randrange(entry.size_bytes), chance.randrange(8)
        flip(path / entry.path, at, bit)
        with fs.open(path, clock=lambda: NOW, upkeep=False) as store:
            for check in (store.verify, store.scrub):
                assert {fault.place for fault in check()} == {entry.path}, (at, bit)
            for (what, answer), (_, right) in zip(questions(store), expected, strict=True):
                assert answer in (right, "CorruptStore"), (what, at, bit)
        flip(path / entry.path, at, bit)
    with fs.open(path, clock=lambda: NOW, upkeep=False) as store:
        assert store.verify() == store.scrub() == []
        seen: list[tuple[int, int]] = []
        store.scrub(progress=lambda *how_far: seen.append(how_far))
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] > entry.size_bytes
        (path / entry.path).unlink()
        assert {fault.what for fault in store.scrub()} == {"missing"}


def test_who_checks_files_is_never_given_what_rotted_under_the_file_system(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = whole  # a copy would have been touched
    chance = random.Random(2013)
    with fs.open(path, clock=lambda: NOW, upkeep=False) as store:
        file = next(entry for entry in entries(store) if entry.kind == "merged")
        expected = questions(store)
    monkeypatch.setattr(parquet, "check_files", True)
    for _ in range(-(-FLIPS // 4)):
        at, bit = chance.randrange(file.size_bytes), chance.randrange(8)
        monkeypatch.setattr(parquet, "_sound", set())  # as in a process that begins
        times = (path / file.path).stat()
        silently = (times.st_atime_ns, times.st_mtime_ns)
        flip(path / file.path, at, bit)
        os.utime(path / file.path, ns=silently)
        try:
            with fs.open(path, clock=lambda: NOW, upkeep=False) as store:
                answers = questions(store)
        finally:
            flip(path / file.path, at, bit)
            os.utime(path / file.path, ns=silently)
        refused = 0
        for (what, answer), (_, right) in zip(answers, expected, strict=True):
            assert answer in (right, "CorruptStore"), (what, at, bit)
            refused += answer == "CorruptStore"
        assert refused >= 4, (at, bit)  # SQL, both joins, changes


def test_a_row_of_every_database_with_a_flipped_bit_is_found(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "store")
    chance = random.Random(2013)
    with fs.open(tmp_path / "store", clock=lambda: NOW, upkeep=False) as store:
        env = store._database.env
        flipped = 0
        for name in DATABASES:
            if name == "request_times":  # all of a row is its key
                continue
            with env.read() as txn, txn.cursor(db=getattr(env, name)) as cursor:
                kept = [(bytes(key), bytes(value)) for key, value in cursor if value]
            assert kept, name
            for key, value in chance.sample(kept, min(len(kept), 8)):
                at, bit = chance.randrange(len(value)), chance.randrange(8)
                damaged = value[:at] + bytes([value[at] ^ 1 << bit]) + value[at + 1 :]
                put(env, name, key, damaged)
                faults = store.scrub()
                assert {fault.place for fault in faults} == {f"engine, {name}"}, (name, key)
                assert store.verify(), (name, key, at)
                put(env, name, key, value)
                flipped += 1
        assert flipped > 30
        assert store.verify() == store.scrub() == []


def test_a_row_that_dates_no_request_is_found_and_forgets_none(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "store")
    chance = random.Random(2013)
    with fs.open(tmp_path / "store", clock=lambda: NOW, upkeep=False) as store:
        env = store._database.env
        with env.read() as txn, txn.cursor(db=env.request_times) as cursor:
            kept = [bytes(key) for key, _ in cursor]
        assert kept
        for key in kept:
            at = chance.randrange(len(key))
            damaged = key[:at] + bytes([key[at] ^ 1 << chance.randrange(8)]) + key[at + 1 :]
            put(env, "request_times", damaged, b"")
            for check in (store.scrub, store.verify):
                assert {fault.place for fault in check()} == {"engine, request_times"}
            with env.write() as txn:
                txn.delete(damaged, db=env.request_times)
        # Bits of their times have made requests old; sent again, they count once all the same.
        for key in kept:
            put(env, "request_times", bytes(8) + key[8:], b"")
        before = store.snapshot()
        store.write([("flushed", row) for row in rows(9, 900)], request_id="tail")
        assert store.snapshot() == before
        store.put_record("flushed", rows(1, 950)[0])
        store.write([("flushed", row) for row in rows(9, 900)], request_id="tail")
        assert store.snapshot() == before + 1
        assert store.verify() == store.scrub() == []


def put(env: Any, name: str, key: bytes, value: bytes) -> None:
    with env.write() as txn:
        txn.put(key, value, db=getattr(env, name))


def test_a_flipped_bit_anywhere_in_lmdbs_file_is_never_a_wrong_value(
    whole: Path, tmp_path: Path
) -> None:
    """In a process of its own: what is refused may be refused by LMDB, and not gently."""
    path = tmp_path / "store"
    shutil.copytree(whole, path)
    command = [sys.executable, "-m", "tests.engine.test_bit_rot", str(path)]
    expected = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    data = path / "engine" / "data.mdb"
    chance = random.Random(2013)
    found = unused = 0
    for _ in range(FLIPS // 4):
        at, bit = chance.randrange(data.stat().st_size), chance.randrange(8)
        flip(data, at, bit)
        ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=120)
        said = ended.stdout
        if ended.returncode == 0 and said == expected:
            unused += 1  # a page in nobody's use
        else:
            found += 1
            assert ended.returncode != 0 or b"fault" in said, (at, bit, said, ended.stderr)
        flip(data, at, bit)
    assert found + unused == FLIPS // 4


def ask(path: str) -> None:
    """Print a digest of every answer, or what verify says."""
    import hashlib

    with fs.open(path, clock=lambda: NOW, read_only=True) as store:
        if store.verify():
            print("faults")  # noqa: T201 - read by the test
        else:
            answers = hashlib.sha256(repr(questions(store)).encode()).hexdigest()
            print(answers)  # noqa: T201


if __name__ == "__main__":
    ask(sys.argv[1])
