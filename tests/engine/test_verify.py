"""Verify: a sound store has no faults, whatever was done to it; each kind of damage is named."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import featurestore as fs
from featurestore.encoding.keys import encode_key, lmdb_key
from featurestore.encoding.values import read_header, stamp, tombstone
from featurestore.engine import ingest, staging
from featurestore.engine.verify.findings import TOLD_MAX, Fault
from featurestore.engine.verify.group import SeenSeqs
from featurestore.engine.verify.store import examine
from featurestore.storage import catalog, files, journal, manifest
from featurestore.storage.rows import seal, seal_number, unseal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = dt.datetime(2013, 6, 1, tzinfo=dt.UTC)
NOW_US = (NOW - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def ago(seconds: int) -> dt.datetime:
    return NOW - dt.timedelta(seconds=seconds)


# ── a store with one of everything ───────────────────────────────────────────────────────────


def fill(store: fs.FeatureStore) -> None:
    """Put one of everything into a store: cells, a flush, a staged file, a journal tail."""
    store.create_feature_group(
        "weather",
        record_identifier=["origin", "gate"],
        event_time="at",
        features={
            "origin": "string", "gate": "int16", "at": "timestamp", "temp": "float64",
            "note": "string", "codes": "list<float32>", "emb": "vector<float32, 2>",
        },
    )  # fmt: skip
    store.create_feature_group(
        "planes",
        record_identifier="tail",
        event_time="at",
        features={"tail": "string", "at": "timestamp", "seats": "int32"},
        ttl="1h",
    )
    for number in range(12):
        store.put_record("weather", weather("JFK", number % 4, 100 - number, temp=number / 2))
    store.flush()
    store.compact()
    store.put_record("weather", weather("EWR", 1, 50, temp=math.nan, codes=[math.nan, None, -0.0]))
    store.put_record("weather", weather("EWR", 1, 60, temp=1.0))  # late
    store.put_record("planes", {"tail": "N1", "at": ago(7200), "seats": 5})  # expired
    store.delete_record("weather", ("JFK", 0), event_time=ago(1))
    store.delete_record("weather", ("JFK", 1), event_time=ago(1), hard=True)
    store.flush()
    rows = ingest.JOURNAL_ROWS_MAX + 100
    store.ingest(
        "weather",
        pa.table(
            {
                "origin": ["LGA"] * rows,
                "gate": pa.array(np.arange(rows) % 50, pa.int16()),
                "at": pa.array([ago(20 + row % 7) for row in range(rows)]),
                "temp": np.arange(rows) / 3,
                "emb": pa.array([[1.5, -0.0]] * rows, pa.list_(pa.float32(), 2)),
            }
        ),
    )
    store.update_feature_group("weather", add_features={"gust": "int8"})
    store.put_record("weather", weather("JFK", 2, 5, temp=7.0, gust=9))
    store.put_record("weather", weather("x" * 1000, 0, 5))  # a key too long for LMDB
    store.put_record("weather", weather("ONL", 0, 5, temp=1.0), target_stores=["online"])
    store.put_record("weather", weather("OFF", 0, 5, temp=1.0), target_stores=["offline"])
    store.write([("weather", weather("SYR", n, 5, temp=float(n))) for n in range(3)])
    store.put_record("planes", {"tail": "N2", "at": ago(10), "seats": 7})
    store.create_feature_view("mine", ["weather:temp", "planes:seats"])


def weather(origin: str, gate: int, seconds: int, **values: Any) -> dict[str, Any]:
    return {"origin": origin, "gate": gate, "at": ago(seconds), **values}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a closed store with one of everything; copies are cheaper."""
    path = tmp_path_factory.mktemp("verify") / "store"
    with fs.open(path, clock=lambda: NOW) as store:
        fill(store)
    return path


@pytest.fixture
def full(filled: Path, tmp_path: Path) -> Iterator[fs.FeatureStore]:
    shutil.copytree(filled, tmp_path / "store")
    with fs.open(tmp_path / "store", clock=lambda: NOW) as store:
        yield store


def key_of(store: fs.FeatureStore, origin: str, gate: int) -> bytes:
    dtypes = [f.dtype for f in store.describe_feature_group("weather").key_features]
    return encode_key([origin, gate], dtypes)


def place_of(store: fs.FeatureStore, origin: str, gate: int) -> bytes:
    """Return the LMDB key of an online record."""
    key = key_of(store, origin, gate)
    return lmdb_key(group_id(store), store._database.key_hash(key), key)


def group_id(store: fs.FeatureStore, name: str = "weather") -> int:
    return int(store.describe_feature_group(name).id)


def put(store: fs.FeatureStore, database: str, key: bytes, value: bytes | None) -> None:
    """Change a row of the engine behind its back."""
    env = store._database.env
    with env.write() as txn:
        handle = getattr(env, database)
        if value is None:
            assert txn.delete(key, db=handle)
        else:
            txn.put(key, value, db=handle)


def rows(store: fs.FeatureStore, database: str, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
    env = store._database.env
    with env.read() as txn, txn.cursor(db=getattr(env, database)) as cursor:
        return [(bytes(k), bytes(v)) for k, v in cursor if bytes(k).startswith(prefix)]


def get(store: fs.FeatureStore, database: str, key: bytes) -> bytes:
    return dict(rows(store, database))[key]


def entries(store: fs.FeatureStore, kind: str | None = None) -> list[manifest.FileEntry]:
    env = store._database.env
    with env.read() as txn:
        listed = manifest.live_files(env, txn, group_id(store))
    return [entry for entry in listed if kind in (None, entry.kind)]


def relist(store: fs.FeatureStore, entry: manifest.FileEntry) -> None:
    env = store._database.env
    with env.write() as txn:
        manifest.list_file(env, txn, entry)


def whats(store: fs.FeatureStore) -> set[str]:
    """Return the kinds of fault found."""
    return {fault.what for fault in checked(store)}


def checked(store: fs.FeatureStore) -> list[Fault]:
    """Verify, and hold every fault to its form."""
    faults = store.verify()
    for fault in faults:
        assert str(fault) == fault.sentence
        assert fault.sentence.startswith(fault.place + ": ")
        assert fault.sentence.endswith("."), fault.sentence
    return faults


def only(store: fs.FeatureStore, what: str, says: str) -> None:
    """Assert that faults of one kind are found and no others, one of them saying so."""
    faults = checked(store)
    assert {fault.what for fault in faults} == {what}
    sentences = [str(fault) for fault in faults]
    assert any(re.search(says, sentence) for sentence in sentences), sentences


# ── sound ────────────────────────────────────────────────────────────────────────────────────


def test_a_store_with_one_of_everything_is_sound(full: fs.FeatureStore) -> None:
    assert {entry.kind for entry in entries(full)} == {"cell", "flush", "staged"}
    assert examine(full._database).faults == []
    assert examine(full._database).notes == []
    full.flush()
    assert full.verify() == []
    full.compact()
    assert full.verify() == []


def test_a_new_store_is_sound(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store:
        assert store.verify() == []
    with fs.open(tmp_path / "store", read_only=True) as store:
        assert store.verify() == []


def test_groups_of_one_store_only_are_sound(store: fs.FeatureStore) -> None:
    for name, stores in (("on", {"offline": False}), ("off", {"online": False})):
        features = {"k": "int64", "t": "timestamp", "x": "bool"}
        store.create_feature_group(
            name, record_identifier="k", event_time="t", features=features, **stores
        )
        store.put_record(name, {"k": 1, "t": ago(5), "x": True})
        store.flush()
        assert store.verify() == []


def test_records_for_one_store_in_every_order(store: fs.FeatureStore) -> None:
    features = {"k": "int64", "t": "timestamp", "x": "int64"}
    store.create_feature_group("g", record_identifier="k", event_time="t", features=features)
    targets = [["online"], ["offline"], ["online", "offline"]]
    number = 0
    for first in targets:
        for second in targets:
            for third in targets:
                number += 1
                for seconds, stores in ((30, first), (20, second), (25, third)):
                    row = {"k": number, "t": ago(seconds), "x": seconds}
                    store.put_record("g", row, target_stores=stores)
    assert store.verify() == []
    store.flush()
    assert store.verify() == []


def test_what_a_crash_leaves_behind_is_no_fault(full: fs.FeatureStore) -> None:
    env = full._database.env
    drained = dict(rows(full, "journal"))
    full.flush()
    with env.write() as txn:
        for key, value in drained.items():  # not deleted yet
            txn.put(key, value, db=env.journal)
        intended = manifest.intend(env, txn, group_id(full), "owner-of-the-dead")
    folder = full.path / "data" / str(group_id(full))
    (folder / f"{intended:016x}.parquet").write_bytes(b"half")
    young = folder / "00000000000000aa.parquet"
    young.write_bytes(b"nobody's")
    assert full.verify() == []
    assert examine(full._database).notes == []
    os.utime(young, (0, 0))
    assert full.verify() == []
    (note,) = examine(full._database).notes
    assert young.name in note


def test_files_of_dropped_groups_and_of_compactions_are_no_fault(full: fs.FeatureStore) -> None:
    full.compact()
    with full._database.env.write() as txn:
        catalog.drop_group(full._database.env, txn, group_id(full, "planes"))
    assert full.verify() == []
    assert 'refers to "planes"' in examine(full._database).notes[0]


def test_an_unfinished_ingest_is_sound(
    full: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ingest.JOURNAL_ROWS_MAX + 500
    data = pa.table(
        {
            "origin": ["BOS"] * rows,
            "gate": pa.array(np.arange(rows) % 3000, pa.int16()),
            "at": pa.array([ago(20 + row % 2) for row in range(rows)]),
            "temp": np.arange(rows) / 3,
        }
    )
    seen = []

    def die_at_the_third(count: int) -> None:
        seen.append(count)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(staging, "SLICE_KEYS_MAX", 700)
    with pytest.raises(KeyboardInterrupt):
        full.ingest("weather", data, progress=die_at_the_third)
    (half,) = [entry for entry in entries(full, "staged") if entry.visible_rows < entry.rows]
    assert half.visible_rows == seen[-1] < rows
    assert len(half.slices) == 2
    assert full.verify() == []
    visible = "SELECT count(*) AS n FROM history.weather WHERE origin = 'BOS'"
    assert full.sql(visible).to_pylist() == [{"n": seen[-1]}]
    relist(full, replace(half, min_hash=half.max_hash))
    assert whats(full) == {"bounds"}
    relist(full, half)
    monkeypatch.undo()
    assert full.ingest("weather", data).replayed == seen[-1]
    assert full.verify() == []
    assert full.sql(visible).to_pylist() == [{"n": rows}]


# ── online ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("at", [0, 4, 11, 16, 24, 40, 56, -1])
def test_a_flipped_bit_in_an_online_record(full: fs.FeatureStore, at: int) -> None:
    place = place_of(full, "JFK", 2)
    record = bytearray(get(full, "latest", place))
    record[at] ^= 1
    put(full, "latest", place, bytes(record))
    only(full, "checksum", "^online store of \"weather\": origin='JFK', gate=2")


def test_a_sound_record_of_another_key(full: fs.FeatureStore) -> None:
    put(full, "latest", place_of(full, "JFK", 2), get(full, "latest", place_of(full, "JFK", 3)))
    only(full, "checksum", "gate=2")


def test_an_online_record_in_the_wrong_place(full: fs.FeatureStore) -> None:
    place = place_of(full, "JFK", 2)
    value = get(full, "latest", place)
    put(full, "latest", place, None)
    put(full, "latest", place[:4] + bytes([place[4] ^ 1]) + place[5:], value)
    only(full, "place", "gate=2")


def test_bytes_behind_an_online_record(full: fs.FeatureStore) -> None:
    place = place_of(full, "JFK", 2)
    put(full, "latest", place, get(full, "latest", place) + b"\0" * 8)
    only(full, "place", "gate=2")


def test_another_key_behind_a_digest(full: fs.FeatureStore) -> None:
    place = place_of(full, "x" * 1000, 0)
    value = get(full, "latest", place)
    length = read_header(value).length
    other = key_of(full, "y" * 1000, 0)
    put(full, "latest", place, stamp(bytearray(value[:length]), other, 1, NOW_US) + other)
    only(full, "place", "origin='yyy")


def restamped(
    store: fs.FeatureStore, origin: str, gate: int, change: Callable[[bytearray], None], **how: int
) -> None:
    """Change an online record and give it a good checksum."""
    place = place_of(store, origin, gate)
    value = get(store, "latest", place)
    header = read_header(value)
    record = bytearray(value[: header.length])
    change(record)
    seq, write_us = how.get("seq", header.seq), how.get("write_time_us", header.write_time_us)
    put(store, "latest", place, stamp(record, key_of(store, origin, gate), seq, write_us))


def unchanged(record: bytearray) -> None:
    """Leave a record's own bytes as they are."""


def test_a_changed_value(full: fs.FeatureStore) -> None:
    def warmer(record: bytearray) -> None:
        record[56:64] = np.float64(99.5).tobytes()

    restamped(full, "JFK", 3, warmer)
    only(full, "value", 'gate=3 has "temp" 99.5; data/.* has 5.5')


@pytest.mark.parametrize(("origin", "gate"), [("SYR", 1), ("LGA", 7), ("EWR", 1), ("JFK", 3)])
def test_a_changed_value_wherever_its_history_is(
    full: fs.FeatureStore, origin: str, gate: int
) -> None:
    def other(record: bytearray) -> None:
        record[56] ^= 1

    restamped(full, origin, gate, other)
    only(full, "value", f"origin='{origin}', gate={gate} has \"temp\"")


def test_a_zero_that_lost_its_sign(full: fs.FeatureStore) -> None:
    def unsigned(record: bytearray) -> None:
        at = bytes(record).rindex(np.array([1.5, -0.0], "<f4").tobytes())
        record[at : at + 8] = np.array([1.5, 0.0], "<f4").tobytes()

    restamped(full, "LGA", 7, unsigned)
    only(full, "value", '"emb"')


def test_a_null_that_became_a_value(full: fs.FeatureStore) -> None:
    def not_null(record: bytearray) -> None:
        assert record[48] == 0b11110  # all but temp
        record[48] = 0b01110

    restamped(full, "SYR", 1, unchanged)
    assert full.verify() == []
    restamped(full, "SYR", 1, not_null)
    only(full, "value", 'gate=1 has "gust" 0; journal .* has None')


def test_another_write_time(full: fs.FeatureStore) -> None:
    restamped(full, "JFK", 3, unchanged, write_time_us=NOW_US + 1)
    only(full, "value", '"write_time"')


def test_another_expiry(full: fs.FeatureStore) -> None:
    def sooner(record: bytearray) -> None:
        record[40:48] = NOW_US.to_bytes(8, "little")

    restamped(full, "JFK", 3, sooner)
    only(full, "value", '"expires_at" 2013-06-01 00:00:00')


def test_a_tombstone_that_history_does_not_know(full: fs.FeatureStore) -> None:
    place, key = place_of(full, "JFK", 3), key_of(full, "JFK", 3)
    header = read_header(get(full, "latest", place))
    record = tombstone(schema_version=1, event_time_us=header.event_time_us, stores=3, flags=1)
    put(full, "latest", place, stamp(record, key, header.seq, header.write_time_us))
    assert whats(full) == {"value"}
    assert any('"is_deleted" True' in str(fault) for fault in full.verify())


def test_the_fence_of_an_expired_record_needs_no_values(full: fs.FeatureStore) -> None:
    group = full.describe_feature_group("planes")
    key = encode_key(["N1"], [group.feature("tail").dtype])
    place = lmdb_key(group.id, full._database.key_hash(key), key)
    header = read_header(get(full, "latest", place))
    fence = tombstone(schema_version=1, event_time_us=header.event_time_us, stores=3, flags=4)
    fence[40:48] = header.expires_at_us.to_bytes(8, "little")
    put(full, "latest", place, stamp(fence, key, header.seq, header.write_time_us))
    assert full.verify() == []
    put(full, "latest", place, stamp(fence, key, header.seq, header.write_time_us + 1))
    only(full, "value", '"write_time"')


def test_a_fence_over_a_record_that_never_expires(full: fs.FeatureStore) -> None:
    place, key = place_of(full, "JFK", 3), key_of(full, "JFK", 3)
    header = read_header(get(full, "latest", place))
    fence = tombstone(schema_version=1, event_time_us=header.event_time_us, stores=3, flags=4)
    put(full, "latest", place, stamp(fence, key, header.seq, header.write_time_us))
    only(full, "value", 'gate=3 has "temp" None')


def test_an_older_record_online(full: fs.FeatureStore) -> None:
    def older(record: bytearray) -> None:
        record[24:32] = (NOW_US - 10**9).to_bytes(8, "little")

    restamped(full, "JFK", 3, older)
    only(full, "not the newest", "gate=3 has event time .* the newest in history has")


def test_an_older_record_for_online_alone(full: fs.FeatureStore) -> None:
    def older_and_alone(record: bytearray) -> None:
        record[24:32] = (NOW_US - 10**9).to_bytes(8, "little")
        record[11] = 1

    restamped(full, "JFK", 3, older_and_alone)
    only(full, "not the newest", "gate=3")


def test_another_seq_online(full: fs.FeatureStore) -> None:
    restamped(full, "JFK", 3, unchanged, seq=1)
    only(full, "not the newest", "seq 1; the newest")


def test_a_seq_from_the_future(full: fs.FeatureStore) -> None:
    restamped(full, "ONL", 0, unchanged, seq=10**6)
    only(full, "future seq", "origin='ONL', gate=0 has seq 1000000; the last commit is")


def test_a_lost_online_record(full: fs.FeatureStore) -> None:
    put(full, "latest", place_of(full, "LGA", 7), None)
    faults = checked(full)
    assert {fault.what for fault in faults} == {"missing", "count"}
    assert any("origin='LGA', gate=7 is in history" in str(fault) for fault in faults)


def test_an_online_record_without_history(full: fs.FeatureStore) -> None:
    record = bytearray(get(full, "latest", place_of(full, "SYR", 1)))
    put(full, "latest", place_of(full, "SYR", 99), stamp(record, key_of(full, "SYR", 99), 1, 1))
    faults = checked(full)
    assert {fault.what for fault in faults} == {"no history", "count"}
    assert any("gate=99" in str(fault) for fault in faults)


def test_an_online_record_for_the_offline_store(full: fs.FeatureStore) -> None:
    def offline(record: bytearray) -> None:
        record[11] = 2

    restamped(full, "JFK", 3, offline)
    only(full, "stores", "gate=3 is not for the online store")


def test_a_schema_version_nobody_knows(full: fs.FeatureStore) -> None:
    def unknown(record: bytearray) -> None:
        record[8] = 99

    restamped(full, "JFK", 3, unknown)
    only(full, "undecodable", "gate=3: .*schema version 99")


def test_a_flood_is_cut_short(full: fs.FeatureStore) -> None:
    for gate in range(50):
        put(full, "latest", place_of(full, "LGA", gate), None)
    faults = [fault for fault in full.verify() if fault.what == "missing"]
    assert len(faults) == TOLD_MAX + 1
    assert str(faults[-1]).endswith("and 30 more of this kind (missing).")


# ── journal ──────────────────────────────────────────────────────────────────────────────────


def journal_rows(store: fs.FeatureStore) -> list[tuple[bytes, bytes]]:
    return rows(store, "journal", group_id(store).to_bytes(4, "big"))


def put_entry(store: fs.FeatureStore, key: bytes, value: bytes) -> None:
    """Put a journal entry with a good checksum; that of ``value`` is not looked at."""
    put(store, "journal", key, crc32(value[4:], crc32(key)).to_bytes(4, "little") + value[4:])


def test_a_flipped_bit_in_a_journal_entry(full: fs.FeatureStore) -> None:
    key, value = journal_rows(full)[-1]
    for at in (0, 4, 8, 16, -1):
        flipped = bytearray(value)
        flipped[at] ^= 1
        put(full, "journal", key, bytes(flipped))
        only(full, "malformed", 'journal of "weather", entry .* fails its checksum')
        with pytest.raises(fs.CorruptStore, match="Journal entry"):
            full.sql("SELECT * FROM weather")


def test_a_flipped_bit_in_a_journal_record(full: fs.FeatureStore) -> None:
    key, value = journal_rows(full)[-1]
    put_entry(full, key, value[:-1] + bytes([value[-1] ^ 1]))
    only(full, "checksum", 'journal of "weather", entry')


@pytest.mark.parametrize("cut", [4, 11, 13, 40, -1])
def test_a_journal_entry_cut_short(full: fs.FeatureStore, cut: int) -> None:
    key, value = journal_rows(full)[-1]
    put_entry(full, key, value[:cut])
    only(full, "malformed", 'journal of "weather", entry')


def test_a_journal_entry_under_another_seq(full: fs.FeatureStore) -> None:
    key, value = journal_rows(full)[-1]
    put(full, "journal", key, None)
    put_entry(full, key[:11] + bytes([key[11] + 1]), value)
    only(full, "seqs", "its records have the seqs")


def test_a_journal_entry_twice(full: fs.FeatureStore) -> None:
    key, value = journal_rows(full)[-1]
    put_entry(full, key[:11] + bytes([key[11] + 1]), value)
    assert whats(full) == {"seqs", "seq twice"}


def records_of(entry: bytes) -> list[bytes]:
    """Cut the value of a journal entry into its records, each with key and length."""
    parts, at = [], journal.HEAD_BYTES
    while at < len(entry):
        key_end = at + 2 + int.from_bytes(entry[at : at + 2], "little")
        end = key_end + read_header(entry[key_end:]).length
        parts.append(entry[at:end])
        at = end
    return parts


def test_records_of_a_journal_entry_out_of_order(full: fs.FeatureStore) -> None:
    full.write([("weather", weather("BUF", n, 5)) for n in range(4)])
    key, value = journal_rows(full)[-1]
    one, two, three, four = records_of(value)
    put_entry(full, key, value[: journal.HEAD_BYTES] + one + three + two + four)
    only(full, "seqs", "its records have the seqs")


def test_a_journal_entry_without_records(full: fs.FeatureStore) -> None:
    key, value = journal_rows(full)[-1]
    assert len(records_of(value)) == 3
    put_entry(full, key, bytes(8) + value[8 : journal.HEAD_BYTES])
    assert whats(full) == {"seqs", "no history"}


def test_a_lost_journal_entry(full: fs.FeatureStore) -> None:
    put(full, "journal", journal_rows(full)[0][0], None)
    only(full, "not the newest", "gate=2")


def test_a_half_drained_journal_entry(full: fs.FeatureStore) -> None:
    key, _ = journal_rows(full)[-1]  # three records
    env = full._database.env
    with env.write() as txn:
        state = manifest.state(env, txn, group_id(full))
        first = int.from_bytes(key[4:], "big")
        manifest.put_state(env, txn, group_id(full), replace(state, drained_seq=first))
    assert "drained" in whats(full)


def test_rows_neither_in_the_journal_nor_in_a_file(full: fs.FeatureStore) -> None:
    env = full._database.env
    with env.write() as txn:
        state = manifest.state(env, txn, group_id(full))
        last = full.snapshot()
        manifest.put_state(env, txn, group_id(full), replace(state, drained_seq=last))
    assert whats(full) == {"no history", "not the newest"}


def test_drained_rows_that_count_as_not_drained(full: fs.FeatureStore) -> None:
    drained = dict(rows(full, "journal"))
    full.flush()
    env = full._database.env
    with env.write() as txn:
        for key, value in drained.items():
            txn.put(key, value, db=env.journal)
        state = manifest.state(env, txn, group_id(full))
        manifest.put_state(env, txn, group_id(full), replace(state, drained_seq=0))
    assert whats(full) == {"drained", "seq twice"}


def test_a_journal_record_for_the_online_store(full: fs.FeatureStore) -> None:
    key, value = journal_rows(full)[0]
    at = journal.HEAD_BYTES + 2
    end = at + int.from_bytes(value[at - 2 : at], "little")
    record_key, record = value[at:end], bytearray(value[end:])
    header = read_header(record)
    record[11] = 1
    record = stamp(record, record_key, header.seq, header.write_time_us)
    put_entry(full, key, value[:end] + record)
    assert "stores" in whats(full)


# ── files ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["flush", "staged", "cell"])
def test_damaged_files(full: fs.FeatureStore, kind: str) -> None:
    entry = entries(full, kind)[0]
    path = full.path / entry.path
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    only(full, "digest", re.escape(entry.path))
    path.write_bytes(whole[:-1])
    only(full, "size", f"{re.escape(entry.path)}.* {len(whole) - 1:,} bytes.* {len(whole):,}")
    path.unlink()
    only(full, "missing", re.escape(entry.path))
    path.write_bytes(whole)
    assert full.verify() == []


@pytest.mark.parametrize(
    ("field", "by", "what"),
    [
        ("min_hash", 1, "bounds"),
        ("max_hash", -1, "bounds"),
        ("min_hash", -1, "bounds"),
        ("min_event_us", 1, "bounds"),
        ("max_event_us", 1, "bounds"),
        ("min_seq", -1, "bounds"),
        ("max_seq", 1, "bounds"),
        ("tombstones", 1, "tombstones"),
        ("tombstones", -1, "tombstones"),
        ("rows", 1, "slices"),
        ("visible_rows", -1, "slices"),
        ("visible_rows", 10**6, "rows"),
        ("schema_version", 1, "schema"),
        ("schema_version", 9, "schema"),
        ("size_bytes", 1, "size"),
    ],
)
def test_a_manifest_row_that_is_not_true(
    full: fs.FeatureStore, field: str, by: int, what: str
) -> None:
    (entry,) = entries(full, "flush")
    relist(full, replace(entry, **{field: getattr(entry, field) + by}))
    assert what in whats(full)
    assert all(fault.place == entry.path for fault in full.verify() if fault.what == what)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"kind": "heap"}, "kind"),
        ({"digest": "0" * 32}, "digest"),
        ({"unique": False}, "unique"),
        ({"kind": "staged"}, "slices"),
        ({"visible_rows": 0}, "rows"),
        ({"slices": ((3, 1, 1),)}, "slices"),
    ],
)
def test_other_untruths(full: fs.FeatureStore, change: dict[str, Any], what: str) -> None:
    (entry,) = entries(full, "flush")
    relist(full, replace(entry, **change))
    assert whats(full) == {what}


def test_a_file_said_to_be_unique(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "staged")
    assert not entry.unique
    relist(full, replace(entry, unique=True))
    only(full, "unique", "some of its rows share .* the manifest says none")


@pytest.mark.parametrize("ends", [(5000,), (0, 4196), (2000, 1000, 4196)])
def test_slices_that_do_not_fit(full: fs.FeatureStore, ends: tuple[int, ...]) -> None:
    (entry,) = entries(full, "staged")
    _, base, time_us = entry.slices[0]
    relist(full, replace(entry, slices=tuple((end, base, time_us) for end in ends)))
    assert whats(full) == {"slices"}


def test_another_base_seq(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "staged")
    end, base, time_us = entry.slices[0]
    relist(full, replace(entry, slices=((end, base + 1, time_us),)))
    assert whats(full) == {"bounds", "seq twice", "not the newest"}


def rewrite(
    store: fs.FeatureStore, entry: manifest.FileEntry, table: pa.Table, **fields: Any
) -> None:
    """Replace a file by another, whose manifest row knows it byte for byte."""
    path = store.path / entry.path
    pq.write_table(table, path)
    relist(
        store,
        replace(entry, size_bytes=path.stat().st_size, digest=files.digest(path), **fields),
    )


def test_rows_out_of_order(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "staged")
    table = pq.read_table(full.path / entry.path)
    order = list(range(table.num_rows))
    order[10], order[11] = 11, 10
    rewrite(full, entry, table.take(order))
    only(full, "order", "row 11 belongs before row 10")


def test_a_lost_row(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "flush")
    table = pq.read_table(full.path / entry.path)
    rewrite(full, entry, table.slice(0, table.num_rows - 1))
    only(full, "unreadable", "rows; the manifest says")
    rewrite(full, entry, table.slice(0, 1), rows=1, visible_rows=1)
    assert whats(full) >= {"bounds"}


def test_hashes_of_other_keys(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "flush")
    table = pq.read_table(full.path / entry.path)
    hashes = pa.array(np.full(table.num_rows, 5))
    rewrite(full, entry, table.set_column(0, table.field(0), hashes), min_hash=5, max_hash=5)
    only(full, "hash", "hashes that are not those of their keys")


def test_a_file_of_a_schema_nobody_knows(full: fs.FeatureStore) -> None:
    full.flush()
    entry = entries(full, "flush")[-1]
    assert entry.schema_version == 2
    relist(full, replace(entry, schema_version=9))
    only(full, "schema", "it has schema version 9; the group's is 2")


def test_a_lost_column(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "flush")
    table = pq.read_table(full.path / entry.path)
    rewrite(full, entry, table.drop_columns(["temp"]))
    assert "schema" in whats(full)


def test_nulls_in_keys(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "flush")
    table = pq.read_table(full.path / entry.path)
    place = table.schema.get_field_index("origin")
    rewrite(full, entry, table.set_column(place, "origin", pa.nulls(table.num_rows, pa.string())))
    only(full, "nulls", "nulls in its keys")


def test_a_value_that_differs_in_a_file(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "staged")
    table = pq.read_table(full.path / entry.path)
    place = table.schema.get_field_index("temp")
    changed = pa.array(table.column("temp").to_numpy() + 1)
    rewrite(full, entry, table.set_column(place, "temp", changed))
    assert whats(full) == {"value"}


def test_a_file_of_records_for_the_online_store(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "flush")
    table = pq.read_table(full.path / entry.path)
    place = table.schema.get_field_index("__stores")
    rewrite(
        full, entry, table.set_column(place, "__stores", pa.array([1] * table.num_rows, pa.int8()))
    )
    assert "stores" in whats(full)


def test_no_parquet(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "flush")
    path = full.path / entry.path
    path.write_bytes(b"PAR1 nonsense PAR1")
    relist(full, replace(entry, size_bytes=18, digest=files.digest(path)))
    only(full, "unreadable", re.escape(entry.path))


def test_a_cell_twice(full: fs.FeatureStore) -> None:
    (cell,) = entries(full, "cell")
    other = entries(full, "flush")[0].file_id
    copy = replace(cell, file_id=other)
    (full.path / copy.path).write_bytes((full.path / cell.path).read_bytes())
    relist(full, copy)
    assert {"overlap", "seq twice"} <= whats(full)


def test_a_cell_outside_its_window(full: fs.FeatureStore) -> None:
    (cell,) = entries(full, "cell")
    env = full._database.env
    relist(full, replace(cell, window=1))
    only(full, "window", "number 1")
    with env.write() as txn:
        state = manifest.state(env, txn, group_id(full))
        manifest.put_state(env, txn, group_id(full), replace(state, windows=(cell.max_event_us,)))
    relist(full, replace(cell, window=0))
    only(full, "window", "number 0")
    with env.write() as txn:
        manifest.put_state(env, txn, group_id(full), replace(state, windows=(9, 9)))
    relist(full, replace(cell, window=2))
    only(full, "windows", "do not ascend")


# ── the rest of the engine ───────────────────────────────────────────────────────────────────


def test_a_commit_log_that_runs_backwards(full: fs.FeatureStore) -> None:
    (key, _), (last, _) = rows(full, "commits")[0], rows(full, "commits")[-1]
    for time_us in (NOW_US + 1, NOW_US):
        time = time_us.to_bytes(8, "little")
        put(full, "commits", key, time + crc32(time, crc32(key)).to_bytes(4, "little"))
        if time_us > NOW_US:
            only(full, "order", "commit log: the commit of seq")
    assert full.verify() == []
    put(full, "commits", last, b"odd")
    assert "malformed" in whats(full)


def test_a_commit_that_was_lost(full: fs.FeatureStore) -> None:
    full.put_record("weather", weather("BUF", 1, 5))
    put(full, "commits", rows(full, "commits")[-1][0], None)
    faults = checked(full)
    assert {fault.what for fault in faults} == {"future seq"}
    assert {fault.place for fault in faults} == {
        'journal of "weather"',
        'online store of "weather"',
    }


def test_manifest_rows_nobody_can_read(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "flush")
    key = b"f" + entry.group_id.to_bytes(4, "big") + entry.file_id.to_bytes(8, "big")
    put(full, "manifest", key, b"{")
    only(full, "manifest row", re.escape(entry.path))
    put(full, "manifest", key, replace(entry, file_id=77).row(key))
    only(full, "manifest row", "describes data/")


def test_state_nobody_can_read(full: fs.FeatureStore) -> None:
    key = b"s" + group_id(full).to_bytes(4, "big")
    for row in (b"{}", seal(key, {"drained_seq": 1}), seal(key, {"windows": [], "odd": 1})):
        put(full, "manifest", key, row)
        only(full, "malformed", "state of group")


def test_a_file_that_is_two_things_at_once(full: fs.FeatureStore) -> None:
    (entry,) = entries(full, "flush")
    key = entry.group_id.to_bytes(4, "big") + entry.file_id.to_bytes(8, "big")
    put(full, "manifest", b"i" + key, seal(b"i" + key, {"owner": "x"}))
    only(full, "state", "listed and being written at once")


def test_a_file_with_a_number_not_given_yet(full: fs.FeatureStore) -> None:
    put(full, "meta", b"last_file_id", seal_number(b"last_file_id", 1))
    only(full, "id", "the last id given to a file is 1")


def test_keys_that_were_miscounted(full: fs.FeatureStore) -> None:
    key = b"keys/%d" % group_id(full)
    keys = full.stat()["groups"]["weather"]["keys"]
    assert keys == len(rows(full, "latest", group_id(full).to_bytes(4, "big")))
    put(full, "meta", key, seal_number(key, keys + 1))
    only(full, "count", f"it has {keys} keys; {keys + 1} were counted")


def test_a_definition_nobody_can_read(full: fs.FeatureStore) -> None:
    key = b"g" + group_id(full, "planes").to_bytes(4, "big")
    row = get(full, "catalog", key)
    put(full, "catalog", key, row[:-1])
    assert whats(full) == {"malformed"}
    put(full, "catalog", key, row.replace(b'"planes"', b'"planet"'))
    only(full, "malformed", "fails its checksum")
    fields = unseal(key, row, "it")
    put(full, "catalog", key, seal(key, {**fields, "name": "Weather"}))
    assert "name" in whats(full)
    put(full, "catalog", key, seal(key, {**fields, "id": 55}))
    assert "id" in whats(full)


def test_a_view_nobody_can_read(full: fs.FeatureStore) -> None:
    put(full, "catalog", b"vmine", b"[]")
    only(full, "malformed", 'feature view "mine"')


def test_records_of_no_group(full: fs.FeatureStore) -> None:
    for database in ("latest", "journal"):
        key, value = rows(full, database)[0]
        put(full, database, b"\0\0\0\x63" + key[4:], value)
    put(full, "manifest", b"s\xff\xff\xff\xff", b"{}")
    faults = [fault for fault in full.verify() if fault.what == "owner"]
    assert sorted(str(fault).removeprefix("engine: there are ") for fault in faults) == [
        "journal entries of group 99, which is none.",
        "online records of group 99, which is none.",
        "state of group 4294967295, which is none.",
    ]


# ── any byte at all ──────────────────────────────────────────────────────────────────────────


@settings(suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_flipped_bit_is_found(full: fs.FeatureStore, data: st.DataObject) -> None:
    store = full  # one for all examples: each leaves it as it was
    what = data.draw(st.sampled_from(["file", "latest", "journal"]))
    bit = 1 << data.draw(st.integers(0, 7))
    if what == "file":
        path = store.path / data.draw(st.sampled_from(entries(store))).path
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        try:
            assert store.verify()
        finally:
            path.write_bytes(whole)
    else:
        key, value = data.draw(st.sampled_from(rows(store, what)))
        at = data.draw(st.integers(0, len(value) - 1))
        put(store, what, key, value[:at] + bytes([value[at] ^ bit]) + value[at + 1 :])
        try:
            assert store.verify()
        finally:
            put(store, what, key, value)
    assert store.verify() == []


# ── seqs ─────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.lists(st.integers(0, 40) | st.integers(2**40, 2**40 + 9), max_size=9)))
def test_seen_seqs_is_a_set(batches: list[list[int]]) -> None:
    seen, known = SeenSeqs(), set()
    for batch in batches:
        again = {seq for seq in batch if seq in known or batch.count(seq) > 1}
        assert set(seen.add(np.array(batch, np.int64)).tolist()) == again
        known |= set(batch)
