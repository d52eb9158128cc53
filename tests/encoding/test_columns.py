"""Many at once: the same bytes and the same values as one by one, however they are cut."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.encoding import columns as columns_module
from featurestore.encoding import runs
from featurestore.encoding.columns import (
    SYSTEM_FIELD_ID,
    Records,
    decode_history,
    decode_records,
    encode_records,
    history_schema,
    stamp_many,
)
from featurestore.encoding.key_columns import KeyColumn, decode_keys, encode_keys
from featurestore.encoding.keys import KeyHash, encode_key
from featurestore.encoding.values import HEADER, RecordCodec, stamp, tombstone
from featurestore.errors import CorruptStore, InvalidRecord, SchemaMismatch
from featurestore.event_time import NO_EXPIRY, to_datetime
from tests.encoding.golden import FOLDER, golden
from tests.encoding.strategies import (
    ALL_TYPES,
    EXTREMES,
    KEY_TYPES,
    agree,
    column,
    dtypes,
    event_times,
    expiries,
    group_of,
    groups,
    physical,
    python_values,
    records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from featurestore.schema import FeatureGroup

KEY = b"\x02JFK\0\0"
SEED = b"a seed"


def one_by_one(group: FeatureGroup, rows: Sequence[dict[str, Any]]) -> list[bytearray]:
    codec = RecordCodec(group)
    return [
        codec.encode(row, event_time_us=i - 5, expires_at_us=NO_EXPIRY - i, stores=3)
        for i, row in enumerate(rows)
    ]


def together(group: FeatureGroup, rows: Sequence[dict[str, Any]]) -> list[bytearray]:
    """Encode the same through Arrow, and part them again."""
    return encoded_together(group, rows).split()


def encoded_together(group: FeatureGroup, rows: Sequence[dict[str, Any]]) -> Records:
    """Encode through Arrow; a feature that no row has is left out."""
    present = [f for f in group.value_features if any(f.name in row for row in rows)]
    arrays = {f.name: column(f.dtype, [row.get(f.name) for row in rows]) for f in present}
    places = np.arange(len(rows), dtype=np.int64)
    return encode_records(
        group, arrays, event_time_us=places - 5, expires_at_us=NO_EXPIRY - places, stores=3
    )


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows as Python values; Arrow's datetimes name their zone otherwise than ours do."""
    return [
        {name: plain(value) for name, value in row.items()} for row in table.to_pylist()
    ]  # fmt: skip


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(element) for element in value]
    if type(value).__name__ == "datetime":
        return value.astimezone(to_datetime(0).tzinfo)
    return value


@contextlib.contextmanager
def compiled(*, even_for_few: bool) -> Iterator[None]:
    """Take the compiled road however few there are, or only where there are many."""
    with pytest.MonkeyPatch.context() as patch:
        if even_for_few:
            patch.setattr(runs, "_FEW", 0)
        yield


both_roads = pytest.mark.parametrize("even_for_few", [False, True], ids=["few", "many"])


# ── records ──────────────────────────────────────────────────────────────────────────────────


@both_roads
@given(st.data())
def test_together_gives_the_bytes_of_one_by_one(even_for_few: bool, data: st.DataObject) -> None:
    group = data.draw(groups())
    rows = data.draw(st.lists(records(group), max_size=12))
    with compiled(even_for_few=even_for_few):
        assert together(group, rows) == one_by_one(group, rows)


@both_roads
@given(st.data())
def test_stamped_together_they_are_as_one_by_one(even_for_few: bool, data: st.DataObject) -> None:
    group = data.draw(groups())
    rows = data.draw(st.lists(records(group), max_size=6))
    keys = [b"\x20", KEY]
    codes = [data.draw(st.integers(0, 1)) for _ in rows]
    single = [
        stamp(record, keys[code], 7 + row, -row)
        for row, (record, code) in enumerate(zip(one_by_one(group, rows), codes, strict=True))
    ]
    places = np.arange(len(rows))
    with compiled(even_for_few=even_for_few):
        made = encoded_together(group, rows)
        stamp_many(
            made,
            np.frombuffer(b"".join(keys), np.uint8),
            np.array([0, 1, 1 + len(KEY)]),
            np.array(codes, np.int64),
            7 + places,
            -places,
        )
        assert list(map(bytes, made.split())) == single
        assert list(map(bytes, made.take(places[::-1]).split())) == single[::-1]


@given(st.data())
def test_together_decodes_as_one_by_one(data: st.DataObject) -> None:
    group = data.draw(groups())
    rows = data.draw(st.lists(records(group), max_size=12))
    decoded = decode_records(group, list(map(bytes, one_by_one(group, rows))))
    decoded.validate(full=True)
    assert agree(rows_of(decoded), [python_values(group, row) for row in rows])
    assert [(f.name, f.type) for f in decoded.schema] == [
        (f.name, f.dtype.to_arrow()) for f in group.value_features
    ]


@pytest.mark.parametrize("name", ALL_TYPES)
def test_every_type_with_nulls_at_the_ends_and_without(name: str) -> None:
    [dtype] = dtypes([name])
    group = group_of(["string", name, "binary"])
    if dtype.kind == "list":
        extremes = EXTREMES[str(dtype.element)]
        values: list[Any] = [extremes, [], [None], [*extremes, None] * 9]
    elif dtype.kind == "vector":
        extremes = EXTREMES[str(dtype.element)]
        values = [(extremes[i:] * 5)[: dtype.length] for i in range(len(extremes))]
    else:
        values = EXTREMES[name]
    for case in (values, [None, *values, None], [None], [None, None]):
        rows = [{"v0": "x" * i, "v1": value, "v2": b"y"} for i, value in enumerate(case)]
        made = together(group, rows)
        assert made == one_by_one(group, rows)
        expected = [python_values(group, row) for row in rows]
        assert agree(rows_of(decode_records(group, list(map(bytes, made)))), expected)


@given(st.data())
def test_blocks_leave_no_seams(data: st.DataObject) -> None:
    group = group_of(["string", "list<string>", "float64", "vector<float32, 5>"])
    rows = data.draw(st.lists(records(group), min_size=5, max_size=20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns_module, "_BLOCK_ROWS", data.draw(st.integers(1, 6)))
        patch.setattr(columns_module, "_BLOCK_BYTES", data.draw(st.integers(1, 1000)))
        # Short runs of bytes and long ones are copied in two ways.
        patch.setattr(runs, "_INDEXED_BYTES_MAX", data.draw(st.sampled_from([0, 10**6])))
        made = together(group, rows)
        assert made == one_by_one(group, rows)
        decoded = decode_records(group, list(map(bytes, made)))
    assert agree(rows_of(decoded), [python_values(group, row) for row in rows])


@given(st.data())
def test_versions_and_tombstones_mix(data: st.DataObject) -> None:
    old = data.draw(groups(max_size=3))
    added = data.draw(st.lists(st.sampled_from(ALL_TYPES), min_size=1, max_size=3))
    new = old.with_features({f"w{i}": name for i, name in enumerate(added)})
    made: list[bytes] = []
    expected: list[dict[str, Any]] = []
    for kind in data.draw(st.lists(st.sampled_from(["old", "new", "gone"]), max_size=8)):
        group = new if kind == "new" else old
        row = {} if kind == "gone" else data.draw(records(group))
        if kind == "gone":
            record = tombstone(schema_version=1, event_time_us=1, stores=3, flags=1)
        else:
            [record] = one_by_one(group, [row])
        # Some with a long key appended, as the online store does.
        made.append(stamp(record, KEY, 1, 2) + data.draw(st.binary(max_size=9)))
        expected.append(python_values(new, row))
    assert agree(rows_of(decode_records(new, made)), expected)


def test_declared_order_rules_where_ids_run_otherwise() -> None:
    group = group_of(["int8", "string", "bool"])
    *others, first, second, third = group.features
    shuffled = replace(group, features=(third, *others, second, first))
    rows = [{"v0": 1, "v1": "x", "v2": True}, {"v1": "y"}]
    assert together(shuffled, rows) == one_by_one(group, rows)
    table = decode_records(shuffled, list(map(bytes, one_by_one(group, rows))))
    assert table.column_names == ["v2", "v1", "v0"]
    assert table.to_pylist()[0] == {"v2": True, "v1": "x", "v0": 1}


def test_a_group_without_value_features_keeps_its_rows() -> None:
    group = group_of([])
    made = together(group, [{}, {}, {}])
    assert made == one_by_one(group, [{}, {}, {}])
    assert decode_records(group, list(map(bytes, made))).num_rows == 3


def test_no_rows_give_an_empty_table_of_the_right_schema() -> None:
    group = group_of(ALL_TYPES)
    assert together(group, []) == []
    assert (
        decode_records(group, []).schema
        == decode_records(group, [bytes(one_by_one(group, [{}])[0])]).schema
    )
    table = decode_history(group, [], [], KeyHash(SEED))
    assert (table.num_rows, table.schema) == (0, history_schema(group))


def test_chunked_columns_are_as_good_as_whole_ones() -> None:
    group = group_of(["string"])
    chunked = pa.chunked_array([["a"], [], ["bc", None]], pa.string())
    times = np.zeros(3, np.int64)
    made = encode_records(
        group, {"v0": chunked, "other": chunked}, event_time_us=times, expires_at_us=times, stores=1
    ).split()
    assert decode_records(group, list(map(bytes, made))).to_pydict() == {"v0": ["a", "bc", None]}


def test_what_lies_under_a_null_is_not_written() -> None:
    """Arrow leaves the memory of a null undefined; equal records must still be equal bytes."""
    group = group_of(["int64", "string"])
    valid = pa.py_buffer(b"\x02")
    numbers = pa.Array.from_buffers(pa.int64(), 2, [valid, pa.py_buffer(np.array([77, 5]))])
    offsets = pa.py_buffer(np.array([0, 7, 8], np.int32))
    texts = pa.Array.from_buffers(pa.string(), 2, [valid, offsets, pa.py_buffer(b"garbagex")])
    times = np.zeros(2, np.int64)
    made = encode_records(
        group, {"v0": numbers, "v1": texts}, event_time_us=times, expires_at_us=times, stores=3
    ).split()
    codec = RecordCodec(group)
    plain_times = {"event_time_us": 0, "expires_at_us": 0, "stores": 3}
    assert made == [codec.encode({}, **plain_times),
                    codec.encode({"v0": 5, "v1": "x"}, **plain_times)]  # fmt: skip


def test_a_column_of_another_type_is_refused_not_reinterpreted() -> None:
    group = group_of(["int64"])
    times = np.zeros(1, np.int64)
    with pytest.raises(SchemaMismatch, match='"v0" has type double; its feature takes int64'):
        encode_records(
            group, {"v0": pa.array([1.5])}, event_time_us=times, expires_at_us=times, stores=3
        )


def test_rows_over_the_limit_are_named() -> None:
    group = group_of(["float64", "string", "binary"])
    rows = [{"v1": "x" * size, "v2": b"y"} for size in (1, 400_000, 2, 358_400)]
    with pytest.raises(InvalidRecord, match=r'2 rows .* row 1: .*"v1" with 400,000') as caught:
        together(group, rows)
    assert [row for row, _ in caught.value.rows] == [1, 3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns_module, "_BLOCK_ROWS", 2)
        patch.setattr(columns_module, "RECORD_BYTES_MAX", 10_000)
        with pytest.raises(InvalidRecord) as caught:
            together(group, [{}, {}, {}, rows[1]])
    assert [row for row, _ in caught.value.rows] == [3]


# ── hostile bytes ────────────────────────────────────────────────────────────────────────────


def same_outcome(group: FeatureGroup, record: bytes) -> None:
    """Both roads refuse, or both give the same; and the row before it is not disturbed."""
    sound = bytes(one_by_one(group, [{}])[0])
    try:
        one = RecordCodec(group).decode(record)
    except CorruptStore:
        with pytest.raises(CorruptStore, match="row 1 "):
            decode_records(group, [sound, record])
        return
    table = decode_records(group, [sound, record])
    assert agree(rows_of(table)[1], one)


@given(st.data(), st.binary(max_size=200))
def test_random_bytes_fare_alike_on_both_roads(data: st.DataObject, noise: bytes) -> None:
    group = data.draw(groups(max_size=4))
    same_outcome(group, noise)
    length = HEADER.size + len(noise) & -8
    header = HEADER.pack(0, length, 1, 0, 3, 0, 1, 2, 3, 4)
    same_outcome(group, header + noise)


@given(st.data())
def test_mutated_records_fare_alike_on_both_roads(data: st.DataObject) -> None:
    group = data.draw(groups(max_size=4))
    [record] = one_by_one(group, [data.draw(records(group))])
    edits = st.tuples(st.integers(0, len(record) - 1), st.integers(0, 255))
    for place, byte in data.draw(st.lists(edits, min_size=1, max_size=6)):
        record[place] = byte
    del record[data.draw(st.integers(0, len(record)) | st.just(len(record))) :]
    same_outcome(group, bytes(record))


@pytest.mark.parametrize("name", ALL_TYPES)
def test_what_lies_under_a_null_is_not_looked_at(name: str) -> None:
    group = group_of([name])
    [record] = one_by_one(group, [{}])
    record[56:64] = b"\x7f" * 8
    same_outcome(group, bytes(record))
    assert decode_records(group, [bytes(record)])["v0"].to_pylist() == [None]


def test_a_value_does_not_reach_into_what_is_appended() -> None:
    group = group_of(["string"])
    [record] = one_by_one(group, [{"v0": "text"}])
    record[60] = 16
    with pytest.raises(CorruptStore, match="points outside"):
        decode_records(group, [bytes(record) + b"a long key, appended"])


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (4, 0, "length is wrong"),
        (8, 9, "schema version 9, newer than the 1"),
        (10, 8, "flags are not known"),
        (10, 1, "a tombstone has values"),
        (12, 1, "encrypted"),
        (63, 0x7F, '"v0" is outside the years'),
        (64, 0xFF, '"v1" points outside'),
        (64, 16, '"v1" points outside'),
        (72, 0xFF, '"v1" is not UTF-8'),
    ],
)
def test_damage_says_what_is_wrong_and_where(place: int, value: int, reason: str) -> None:
    group = group_of(["timestamp", "string"])
    made = [bytearray(record) for record in one_by_one(group, [{"v0": 0, "v1": "text"}] * 3)]
    made[2][place] = value
    with pytest.raises(CorruptStore, match=reason):
        decode_records(group, list(map(bytes, made)))


@pytest.mark.parametrize("name", ["timestamp", "date"])
def test_a_time_beyond_the_calendar_is_corrupt(name: str) -> None:
    group = group_of([name, f"list<{name}>"])
    for beyond in (EXTREMES[name][0] - 1, EXTREMES[name][-1] + 1):
        for row in ({"v0": beyond}, {"v1": [None, 0, beyond]}):
            [record] = one_by_one(group, [row])
            with pytest.raises(CorruptStore, match="outside the years"):
                decode_records(group, [bytes(record)])
            same_outcome(group, bytes(record))


@pytest.mark.parametrize("length", [0, 16, 32])
def test_a_vector_of_another_length_is_corrupt(length: int) -> None:
    group = group_of(["vector<float64, 3>"])
    [record] = one_by_one(group, [{"v0": [1.0, 2.0, 3.0]}])
    record += bytes(8)
    record[4], record[60] = len(record), length
    with pytest.raises(CorruptStore, match='"v0" does not have 3 elements'):
        decode_records(group, [bytes(record)])
    same_outcome(group, bytes(record))


def test_damage_in_a_later_block_is_counted_from_the_first_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = group_of(["timestamp"])
    made = list(map(bytes, one_by_one(group, [{"v0": 2**60} if i == 7 else {} for i in range(9)])))
    monkeypatch.setattr(columns_module, "_BLOCK_BYTES", 150)
    with pytest.raises(CorruptStore, match="row 7 "):
        decode_records(group, made)


# ── history ──────────────────────────────────────────────────────────────────────────────────


def test_the_history_schema_is_as_drawn_with_permanent_ids() -> None:
    group = group_of(["float64", "list<int8>"], keys=["string", "int64"])
    schema = history_schema(group)
    assert schema.names == [
        "__key_hash", "k0", "k1", "t", "write_seq", "write_time", "expires_at", "is_deleted",
        "__stores", "v0", "v1",
    ]  # fmt: skip
    utc = pa.timestamp("us", tz="UTC")
    assert schema.types == [
        pa.int64(), pa.string(), pa.int64(), utc, pa.int64(), utc, utc, pa.bool_(), pa.int8(),
        pa.float64(), pa.list_(pa.int8()),
    ]  # fmt: skip
    ids = [int(field.metadata[b"PARQUET:field_id"]) for field in schema]
    first = SYSTEM_FIELD_ID
    assert ids == [
        first, 1, 2, 3, first + 1, first + 2, first + 3, first + 4, first + 5, 4, 5,
    ]  # fmt: skip


@given(st.data())
def test_history_has_a_row_for_each_record_in_the_order_given(data: st.DataObject) -> None:
    key_types = data.draw(st.lists(st.sampled_from(KEY_TYPES), min_size=1, max_size=2))
    types = data.draw(st.lists(st.sampled_from(ALL_TYPES), min_size=1, max_size=3))
    group = group_of(types, key_types)
    key_hash, codec = KeyHash(SEED, data.draw(st.sampled_from([2, 64]))), RecordCodec(group)
    few = st.tuples(*(physical(dtype) for dtype in dtypes(key_types)))
    identifiers = data.draw(st.lists(few, min_size=1, max_size=3))
    keys, made, expected = [], [], []
    for seq in range(1, data.draw(st.integers(1, 8))):
        identifier = data.draw(st.sampled_from(identifiers))
        key = encode_key(identifier, dtypes(key_types))
        event_time_us, expires_at_us = data.draw(event_times), data.draw(expiries)
        stores = data.draw(st.sampled_from([1, 2, 3]))
        deleted = data.draw(st.booleans())
        row = {} if deleted else data.draw(records(group))
        if deleted:
            record = tombstone(
                schema_version=1, event_time_us=event_time_us, stores=stores, flags=1
            )
            expires_at_us = NO_EXPIRY
        else:
            record = codec.encode(
                row, event_time_us=event_time_us, expires_at_us=expires_at_us, stores=stores
            )
        keys.append(key)
        made.append(stamp(record, key, seq, seq + 100))
        expected.append({
            "__key_hash": key_hash(key),
            **{f"k{i}": f.dtype.to_python(identifier[i]) for i, f in enumerate(group.key_features)},
            "t": to_datetime(event_time_us),
            "write_seq": seq,
            "write_time": to_datetime(seq + 100),
            "expires_at": None if expires_at_us == NO_EXPIRY else to_datetime(expires_at_us),
            "is_deleted": deleted,
            "__stores": stores,
            **python_values(group, row),
        })  # fmt: skip
    table = decode_history(group, keys, made, key_hash)
    table.validate(full=True)
    assert table.schema.equals(history_schema(group), check_metadata=True)
    assert agree(rows_of(table), expected)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


@st.composite
def key_columns(draw: st.DrawFn) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Types of an identifier, and rows of it with repeats and nulls."""
    names = draw(st.lists(st.sampled_from(KEY_TYPES), min_size=1, max_size=4))
    components = [
        st.sampled_from([None, *draw(st.lists(physical(dtype), min_size=1, max_size=3))])
        for dtype in dtypes(names)
    ]
    return names, draw(st.lists(st.tuples(*components), max_size=25))


def encoded(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> KeyColumn:
    types = dtypes(names)
    arrays = [column(dtype, [row[i] for row in rows]) for i, dtype in enumerate(types)]
    return encode_keys(arrays, types)


@both_roads
@given(key_columns())
def test_key_columns_hold_the_bytes_of_single_keys(
    even_for_few: bool, case: tuple[list[str], list[tuple[Any, ...]]]
) -> None:
    names, rows = case
    with compiled(even_for_few=even_for_few):
        keys = encoded(names, rows)
        places = np.arange(len(keys.keys))[::-1]
        data, offsets = keys.taken(places)
    ends = pairwise(offsets.tolist())
    assert [data[a:b].tobytes() for a, b in ends] == keys.keys[::-1]
    assert len(set(keys.keys)) == len(keys.keys)
    assert keys.codes.dtype == np.int64
    for row, code in zip(rows, keys.codes.tolist(), strict=True):
        if None in row:
            assert code == -1
        else:
            assert keys.keys[code] == encode_key(row, dtypes(names))


@both_roads
@given(key_columns(), st.sampled_from([2, 64]))
def test_ranks_are_the_order_of_hash_then_key(
    even_for_few: bool, case: tuple[list[str], list[tuple[Any, ...]]], bits: int
) -> None:
    with compiled(even_for_few=even_for_few):
        keys, key_hash = encoded(*case), KeyHash(SEED, bits)
        keys.hashes(key_hash)
    assert keys.hashes(key_hash).tolist() == [key_hash(key) for key in keys.keys]
    in_order = sorted(keys.keys, key=lambda key: (key_hash(key), key))
    assert [in_order[rank] for rank in keys.ranks(key_hash)] == keys.keys


def test_ranks_of_many_tied_keys() -> None:
    keys, four = encoded(["int64"], [(i * 7919 % 5000,) for i in range(5000)]), KeyHash(SEED, 2)
    in_order = sorted(keys.keys, key=lambda key: (four(key), key))
    assert [in_order[rank] for rank in keys.ranks(four)] == keys.keys


@given(key_columns())
def test_key_columns_decode_to_their_values(
    case: tuple[list[str], list[tuple[Any, ...]]],
) -> None:
    names, rows = case
    types, whole = dtypes(names), [row for row in rows if None not in row]
    arrays = decode_keys([encode_key(row, types) for row in whole], types)
    assert [array.type for array in arrays] == [dtype.to_arrow() for dtype in types]
    expected = [[row[i] for row in whole] for i in range(len(types))]
    for array, dtype, values in zip(arrays, types, expected, strict=True):
        assert array.equals(pa.array(values, dtype.to_arrow()))


def test_chunked_identifier_columns() -> None:
    keys = encode_keys([pa.chunked_array([["b"], ["a", "b"]])], dtypes(["string"]))
    assert keys.codes.tolist() == [0, 1, 0]


def test_keys_over_the_limit_are_named_by_row() -> None:
    rows = [("short", 1), ("x" * 2036, 2), ("short", 3), ("x" * 2037, 4), ("x" * 2037, 4)]
    with pytest.raises(InvalidRecord, match=r"2 rows .* row 3: .* 2,049 bytes") as caught:
        encoded(["string", "int8"], rows)
    assert [row for row, _ in caught.value.rows] == [3, 4]


def test_a_malformed_key_among_many_is_corrupt() -> None:
    with pytest.raises(CorruptStore, match="no end"):
        decode_keys([KEY, b"\x02JFK"], dtypes(["string"]))


# ── golden bytes ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ALL_TYPES)
def test_golden_records_decode_alike_on_both_roads(name: str) -> None:
    group = group_of([name])
    file_name = "record-" + re.sub(r"\W+", "-", name).strip("-")
    made = list(golden(file_name).values())
    one = [RecordCodec(group).decode(record) for record in made]
    assert agree(rows_of(decode_records(group, made)), one)


def test_every_golden_file_has_a_test() -> None:
    records_of = {"record-" + re.sub(r"\W+", "-", name).strip("-") for name in ALL_TYPES}
    keys_of = {f"key-{name}" for name in KEY_TYPES}
    others = {"key-composite", "key-hash", "record-tombstone", "record-many"}
    there = {path.stem for path in FOLDER.glob("*.hex") if path.stem.startswith(("key", "record"))}
    assert there == records_of | keys_of | others
