"""Lookups of many keys: the compiled road against the plain one, and both against single gets."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featurestore as fs
from featurestore.encoding.key_columns import encode_keys
from featurestore.engine import lookup
from featurestore.errors import CorruptStore
from featurestore.event_time import MAX_US, MIN_US, to_datetime
from featurestore.storage import native
from tests import small_world
from tests.encoding import strategies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def has_native(store: fs.FeatureStore) -> bool:
    database = store._opened
    assert database is not None
    with database.read() as txn:
        return database.env.native_at(txn) is not None


def plainly(store: fs.FeatureStore, call: Callable[[], Any]) -> Any:
    """Call with the compiled road closed."""
    database = store._opened
    assert database is not None
    seam, database.env._native = database.env._native, None
    try:
        return call()
    finally:
        database.env._native = seam


def both(store: fs.FeatureStore, call: Callable[[], Any]) -> Any:
    """Return the answer that both roads give."""
    compiled, plain = call(), plainly(store, call)
    assert same(compiled, plain)
    return compiled


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    assert a.schema == b.schema
    for table in (a, b):
        table.validate(full=True)
    return bool(strategies.agree(a.to_pylist(), b.to_pylist()))


@pytest.fixture
def store(open_store: Callable[..., fs.FeatureStore]) -> Iterator[fs.FeatureStore]:
    return open_store(clock=lambda: NOON)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


@given(
    data=st.data(), names=st.lists(st.sampled_from(strategies.KEY_TYPES), min_size=1, max_size=3)
)
def test_key_bytes_are_those_of_encode_keys(data: st.DataObject, names: list[str]) -> None:
    dtypes = strategies.dtypes(names)
    rows = data.draw(st.lists(st.tuples(*map(strategies.physical, dtypes)), max_size=8))
    nulls = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    columns = [
        strategies.column(
            dtype, [None if null else row[i] for row, null in zip(rows, nulls, strict=True)]
        )
        for i, dtype in enumerate(dtypes)
    ]
    expected = encode_keys(columns, dtypes)
    wanted = [b"" if code < 0 else expected.keys[code] for code in expected.codes]
    encoded = lookup.encode(columns, dtypes)
    assert encoded.to_list() == wanted
    assert encoded.longest >= max(map(len, wanted), default=0)


def test_a_key_too_long_for_any_store_is_refused() -> None:
    with pytest.raises(fs.InvalidRecord, match=r"Row 1: .*3,003 bytes"):
        lookup.encode([pa.array(["a", "x" * 3000])], strategies.dtypes(["string"]))


@pytest.mark.parametrize(
    ("dtype", "keys"),
    [
        ("int64", [1, 2**63 - 1, -(2**63)]),
        ("int64", np.array([3, 4])),
        ("int64", pa.chunked_array([[1], [2, 3]])),
        ("int64", pa.array([1, 2, 3])[1:]),
        ("int16", [1, np.int64(2)]),
        ("string", ["a", "", "\0b"]),
        ("string", pa.array(["x", "yy", "z"])[1:]),
        ("bool", [True, False]),
        ("date", [date(2024, 1, 2)]),
        ("timestamp", [NOON]),
        ("binary", [b"", b"\0\xff"]),
        ("int64", []),
    ],
)
def test_keys_may_come_as_callers_hold_them(store: fs.FeatureStore, dtype: str, keys: Any) -> None:
    store.create_feature_group(
        "g", record_identifier="k", event_time="t",
        features={"k": dtype, "t": "timestamp", "x": "int64"},
    )  # fmt: skip
    listed = keys.to_pylist() if hasattr(keys, "to_pylist") else list(keys)
    for number, key in enumerate(listed):
        store.put_record("g", {"k": key, "t": NOON, "x": number})
    found = both(store, lambda: store.batch_get_record({"g": keys}))["g"]
    assert found["x"].to_pylist() == list(range(len(listed)))
    assert found["k"].to_pylist() == [getattr(key, "item", lambda key=key: key)() for key in listed]


@pytest.mark.parametrize("key", [None, True, 1.5, "1", 2**63, (1,)])
def test_a_key_of_the_wrong_type_is_refused_wherever_it_stands(
    store: fs.FeatureStore, key: Any
) -> None:
    store.create_feature_group(
        "g", record_identifier="k", event_time="t", features={"k": "int64", "t": "timestamp"}
    )
    with pytest.raises(fs.InvalidRecord, match='"k"'):
        store.batch_get_record({"g": [1, 2, key]})


# ── records ──────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30)
@given(data=st.data(), group=strategies.groups(max_size=8))
def test_both_roads_serve_what_single_gets_do(data: st.DataObject, group: Any) -> None:
    """Every type, nulls, two schema versions, every status, keys repeated and never seen."""
    with small_world.fresh_store(clock=lambda: NOON) as store:
        later = data.draw(st.lists(st.sampled_from(strategies.ALL_TYPES), max_size=2))
        store.create_feature_group(
            "g", record_identifier="k0", event_time="t", max_future=None,
            features={f.name: f.dtype for f in group.features},
        )  # fmt: skip
        times = st.integers(MIN_US, MAX_US).map(to_datetime)
        for generation in range(2):
            described = store.describe_feature_group("g")
            for key in "abcdefgh":
                if data.draw(st.booleans()):
                    values = data.draw(strategies.records(described))
                    record = strategies.python_values(described, values)
                    ttl = data.draw(st.sampled_from([None, "1h", "5000d"]))
                    store.put_record("g", {"k0": key, "t": data.draw(times), **record}, ttl=ttl)
                if data.draw(st.integers(0, 9)) == 0:
                    store.delete_record("g", key, event_time=data.draw(times))
            if later and not generation:
                added = {f"w{i}": name for i, name in enumerate(later)}
                store.update_feature_group("g", add_features=added)
        keys = [*"abcdefghabc", "never"]
        found = both(store, lambda: store.batch_get_record({"g": keys}))["g"]
        for key, row in zip(keys, found.to_pylist(), strict=True):
            one = store.get_record("g", key, with_status=True)
            assert row.pop("status") == one.status
            assert row.pop("age") == one.age
            if one.record is not None:
                assert strategies.agree(
                    {n: _utc(v) for n, v in row.items()},
                    {n: _utc(v) for n, v in one.record.items()},
                )
            else:
                assert set(row.values()) <= {key, one.event_time, None}


def _utc(value: Any) -> Any:
    if isinstance(value, list):
        return [_utc(v) for v in value]
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def test_more_keys_than_one_call_takes(store: fs.FeatureStore) -> None:
    count = 2 * native.CALL_ROWS_MAX + 3
    table = pa.table(
        {
            "k": pa.array(range(count)),
            "t": pa.array([NOON] * count),
            "x": np.arange(count) / 7,
            "name": [str(i) * (i % 5) for i in range(count)],
            "half": pa.array([i if i % 2 else None for i in range(count)], pa.int16()),
        }
    )
    store.create_feature_group("g", record_identifier="k", event_time="t", like=table)
    store.ingest("g", table)
    keys = list(range(count - 1, -1, -1))
    found = both(store, lambda: store.batch_get_record({"g": keys}))["g"]
    for name in ("x", "name", "half"):
        assert found[name].to_pylist() == table[name].to_pylist()[::-1]


def test_keys_too_long_for_lmdb_take_the_plain_road(store: fs.FeatureStore) -> None:
    store.create_feature_group(
        "g", record_identifier="k", event_time="t",
        features={"k": "string", "t": "timestamp", "x": "int64"},
    )  # fmt: skip
    keys = ["a" * length for length in (1, 440, 445, 446, 500, 2000)]
    for number, key in enumerate(keys):
        store.put_record("g", {"k": key, "t": NOON, "x": number})
    found = both(store, lambda: store.batch_get_record({"g": keys}))["g"]
    assert found["x"].to_pylist() == list(range(len(keys)))


def test_a_flipped_bit_is_never_served(store: fs.FeatureStore) -> None:
    store.create_feature_group(
        "g", record_identifier="k", event_time="t",
        features={"k": "int64", "t": "timestamp", "x": "string"},
    )  # fmt: skip
    store.put_record("g", {"k": 1, "t": NOON, "x": "right"})
    database = store._opened
    assert database is not None

    def flip(byte: int) -> Callable[[Any], None]:
        def work(commit: Any) -> None:
            with commit.txn.cursor(db=database.env.latest) as cursor:
                cursor.first()
                record = bytearray(cursor.value())
                record[byte] ^= 1
                cursor.put(cursor.key(), bytes(record))

        return work

    with database.read() as txn, txn.cursor(db=database.env.latest) as cursor:
        cursor.first()
        length = len(cursor.value())
    for byte in range(length):
        database.writer.call(flip(byte), 0)
        with pytest.raises(CorruptStore):
            store.batch_get_record({"g": [1]})
        with pytest.raises(CorruptStore):
            plainly(store, lambda: store.batch_get_record({"g": [1]}))
        with pytest.raises(CorruptStore):
            store.get_record("g", 1)
        database.writer.call(flip(byte), 0)
    assert both(store, lambda: store.batch_get_record({"g": [1]}))["g"]["x"].to_pylist() == [
        "right"
    ]


# ── the seam ─────────────────────────────────────────────────────────────────────────────────


def test_the_seam_is_there_where_the_tests_run(store: fs.FeatureStore) -> None:
    """Otherwise the comparisons above compare the plain road with itself."""
    pytest.importorskip("lmdb.cpython")
    if native.is_switched_off():
        pytest.skip("switched off")
    assert has_native(store)


def test_it_can_be_switched_off(store: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    assert not has_native(store)


def test_a_transaction_of_another_file_is_not_believed(
    store: fs.FeatureStore, tmp_path: Any
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"")
    database = store._opened
    assert database is not None
    with database.read() as txn:
        assert native.find(txn, ("latest",), other.stat()) is None
