"""One record: every type there and back, through every schema version, never fooled by bytes."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.dtypes import parse_dtype
from featurestore.encoding import values as values_module
from featurestore.encoding.values import (
    HEADER,
    RecordCodec,
    layout,
    pack_list,
    read_header,
    same_payload,
    stamp,
    tombstone,
    unpack_list,
    verify_record,
)
from featurestore.errors import CorruptStore, InvalidRecord, UnknownFeature
from featurestore.event_time import NO_EXPIRY
from featurestore.record import FLAG_DELETED, FLAG_FENCE, FLAG_HARD, RECORD_BYTES_MAX
from featurestore.schema import FeatureGroup
from tests.encoding.golden import golden
from tests.encoding.strategies import (
    ALL_TYPES,
    EXTREMES,
    NESTED,
    SCALARS,
    agree,
    event_times,
    expiries,
    group_of,
    groups,
    physical,
    python_values,
    records,
)

KEY = b"\x02JFK\0\0"


def encode(group: FeatureGroup, record: dict[str, Any], **times: int) -> bytes:
    """Return a finished record of this group."""
    times = {"event_time_us": 10, "expires_at_us": NO_EXPIRY, "stores": 3} | times
    return stamp(RecordCodec(group).encode(record, **times), KEY, seq=1, write_time_us=20)


def with_crc(record: bytearray) -> bytes:
    """Return the same record with a checksum that fits: only the decoder stands in the way."""
    return stamp(record, KEY, *struct.unpack_from("<Q8xq", record, 16))


# ── there and back ───────────────────────────────────────────────────────────────────────────


@given(st.data())
def test_a_record_decodes_to_what_was_encoded(data: st.DataObject) -> None:
    group = data.draw(groups())
    record = data.draw(records(group))
    decoded = RecordCodec(group).decode(encode(group, record))
    assert agree(decoded, python_values(group, record))


@pytest.mark.parametrize("name", SCALARS)
def test_extremes_survive_alone_in_lists_and_beside_nulls(name: str) -> None:
    group = group_of([name, f"list<{name}>", name, "float64"])
    for value in EXTREMES[name]:
        record = {"v0": value, "v1": [value, None, value], "v2": None, "v3": 1.5}
        assert agree(RecordCodec(group).decode(encode(group, record)), python_values(group, record))


@pytest.mark.parametrize("name", NESTED)
def test_lists_and_vectors_of_any_length(name: str) -> None:
    dtype = parse_dtype(name)
    group = group_of(["string", name, "binary"])
    extremes = EXTREMES[str(dtype.element)]
    if dtype.kind == "vector":
        cases: list[list[Any]] = [(extremes * dtype.length)[: dtype.length]]
    else:
        cases = [[], [None], extremes, [None] * 64, [None] * 65, [*extremes * 20, None]]
    for case in cases:
        # Text of odd length before and after: alignment must not depend on luck.
        record = {"v0": "abc", "v1": case, "v2": b"\0"}
        assert agree(RecordCodec(group).decode(encode(group, record)), python_values(group, record))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129, 2498])
def test_null_bits_of_many_features(count: int) -> None:
    group = group_of(["int16"] * count)
    for null in {0, count // 2, count - 1}:
        record: dict[str, Any] = {f"v{i}": i for i in range(count) if i != null}
        decoded = RecordCodec(group).decode(encode(group, record))
        assert decoded == {f"v{i}": None if i == null else i for i in range(count)}


def test_a_group_without_value_features() -> None:
    group = group_of([])
    record = encode(group, {})
    assert len(record) == HEADER.size
    assert RecordCodec(group).decode(record) == {}


def test_null_zero_empty_and_nan_are_four_things() -> None:
    group = group_of(["float64", "string", "list<int8>"])
    decoded = RecordCodec(group).decode(encode(group, {"v0": float("nan"), "v1": "", "v2": []}))
    assert decoded["v0"] != decoded["v0"]
    assert (decoded["v1"], decoded["v2"]) == ("", [])
    assert set(RecordCodec(group).decode(encode(group, {})).values()) == {None}


# ── selections ───────────────────────────────────────────────────────────────────────────────


@given(st.data())
def test_any_selection_gives_those_features_in_the_order_asked(data: st.DataObject) -> None:
    group = data.draw(groups())
    record = data.draw(records(group))
    names = [f.name for f in group.value_features]
    asked = data.draw(st.lists(st.sampled_from(names), max_size=8))
    expected = python_values(group, record)
    decoded = RecordCodec(group).decode(encode(group, record), asked)
    assert agree(decoded, {name: expected[name] for name in asked})


def test_declared_order_rules_where_ids_run_otherwise() -> None:
    group = group_of(["int8", "string", "bool"])
    *others, first, second, third = group.features
    shuffled = replace(group, features=(third, *others, second, first))
    record = encode(group, {"v0": 1, "v1": "x", "v2": True})
    assert list(RecordCodec(shuffled).decode(record).items()) == [
        ("v2", True),
        ("v1", "x"),
        ("v0", 1),
    ]


@pytest.mark.parametrize("name", ["v7", "k0", "t", ""])
def test_only_value_features_can_be_asked_for(name: str) -> None:
    group = group_of(["int8"])
    with pytest.raises(UnknownFeature, match=re.escape(f'"{name}"')):
        RecordCodec(group).decode(encode(group, {}), ["v0", name])


def test_ever_new_selections_do_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "_PLANS_MAX", 10)
    group = group_of(["int8"] * 50)
    codec, record = RecordCodec(group), encode(group, {"v3": 3})
    for i in range(50):
        assert codec.decode(record, [f"v{i}", "v3"])["v3"] == 3
    assert len(codec._plans) <= 10


# ── schema versions ──────────────────────────────────────────────────────────────────────────


def test_old_records_have_null_for_younger_features() -> None:
    old = group_of(["int64", "string"])
    newer = old.with_features({"v2": "float64", "v3": "list<string>"})
    newest = newer.with_features({"v4": "vector<float32, 2>"})
    record = encode(old, {"v0": 1, "v1": "a"})
    assert RecordCodec(newest).decode(record) == {
        "v0": 1, "v1": "a", "v2": None, "v3": None, "v4": None,
    }  # fmt: skip
    record = encode(newer, {"v1": "a", "v2": 0.5, "v3": ["b", None]})
    assert RecordCodec(newest).decode(record, ["v4", "v3", "v0"]) == {
        "v4": None, "v3": ["b", None], "v0": None,
    }  # fmt: skip
    assert read_header(record).schema_version == 2


@given(st.data())
def test_every_version_reads_all_records_before_it(data: st.DataObject) -> None:
    group = data.draw(groups(max_size=3))
    versions = [group]
    for number in range(2):
        types = data.draw(st.lists(st.sampled_from(ALL_TYPES), min_size=1, max_size=3))
        added = {f"w{number}_{i}": name for i, name in enumerate(types)}
        versions.append(versions[-1].with_features(added))
    codec = RecordCodec(versions[-1])
    for version in versions:
        record = data.draw(records(version))
        assert agree(codec.decode(encode(version, record)), python_values(versions[-1], record))


def test_a_version_not_known_yet_is_named_with_its_cure() -> None:
    group = group_of(["int64"])
    record = encode(group.with_features({"v1": "bool"}), {"v0": 1})
    with pytest.raises(CorruptStore, match=r"version 2, newer than the 1 .*read the definition"):
        RecordCodec(group).decode(record)


# ── header, stamp, checksum ──────────────────────────────────────────────────────────────────


@given(event_times, expiries, st.integers(0, 2**63 - 1), event_times, st.sampled_from([1, 2, 3]))
def test_the_header_is_where_the_table_says(
    event_time_us: int, expires_at_us: int, seq: int, write_time_us: int, stores: int
) -> None:
    group = group_of(["float64", "string"])
    record = RecordCodec(group).encode(
        {"v0": 2.5, "v1": "abc"},
        event_time_us=event_time_us,
        expires_at_us=expires_at_us,
        stores=stores,
    )
    finished = stamp(record, KEY, seq, write_time_us)
    assert len(finished) == 80
    assert struct.unpack_from("<IHBBI", finished, 4) == (80, 1, 0, stores, 0)
    assert struct.unpack_from("<Qqqq", finished, 16) == (
        seq, event_time_us, write_time_us, expires_at_us,
    )  # fmt: skip
    assert struct.unpack_from("<QdII", finished, 48) == (0, 2.5, 72, 3)
    assert finished[72:] == b"abc\0\0\0\0\0"
    header = verify_record(finished, KEY)
    assert (header.length, header.seq, header.event_time_us) == (80, seq, event_time_us)
    assert (header.write_time_us, header.expires_at_us) == (write_time_us, expires_at_us)


@given(st.data())
def test_one_flipped_bit_or_another_key_fails_the_checksum(data: st.DataObject) -> None:
    group = group_of(["float64", "string"])
    record = encode(group, data.draw(records(group)))
    verify_record(record, KEY)
    bit = data.draw(st.integers(0, 8 * len(record) - 1))
    flipped = bytearray(record)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptStore):
        verify_record(bytes(flipped), KEY)
    with pytest.raises(CorruptStore, match="checksum"):
        verify_record(record, KEY + b"x")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_appended_to_a_record_is_ignored(kind: Any) -> None:
    group = group_of(ALL_TYPES)
    record = encode(group, {"v7": "text", "v8": b"bytes", "v18": ["a", None]})
    longer = kind(record + b"a long key, appended")
    assert verify_record(longer, KEY) == read_header(record)
    assert RecordCodec(group).decode(longer) == RecordCodec(group).decode(record)
    assert type(RecordCodec(group).decode(longer)["v8"]) is bytes


def test_a_tombstone_is_a_header_and_decodes_to_nulls() -> None:
    group = group_of(["int64", "string"])
    for flags in (FLAG_DELETED, FLAG_DELETED | FLAG_HARD, FLAG_FENCE):
        made = tombstone(schema_version=1, event_time_us=5, stores=3, flags=flags)
        record = stamp(made, KEY, 9, 6)
        header = verify_record(record, KEY)
        assert (header.flags, header.seq, header.event_time_us) == (flags, 9, 5)
        assert header.expires_at_us == NO_EXPIRY
        assert RecordCodec(group).decode(record) == {"v0": None, "v1": None}
        assert RecordCodec(group).decode(record, ["v1"]) == {"v1": None}


@given(st.data())
def test_payloads_are_the_same_whenever_they_were_written(data: st.DataObject) -> None:
    group = data.draw(groups(max_size=3))
    record = data.draw(records(group))
    codec = RecordCodec(group)
    plain = {"event_time_us": 1, "expires_at_us": 2, "stores": 3}
    made = codec.encode(record, **plain)
    stored = stamp(codec.encode(record, **plain), KEY, 77, 78) + b"appended key"
    assert same_payload(made, stored)
    assert same_payload(stored, made)
    for other in ({"event_time_us": 0}, {"expires_at_us": 0}, {"stores": 1}):
        assert not same_payload(codec.encode(record, **plain | other), stored)
    assert not same_payload(codec.encode(record | {"v0": None}, **plain), stored) or (
        record.get("v0") is None
    )


def test_payloads_tell_zero_from_minus_zero_from_null() -> None:
    group = group_of(["float64"])
    made = [encode(group, {"v0": value}) for value in (0.0, -0.0, None)]
    assert [same_payload(a, b) for a in made for b in made] == [
        True, False, False, False, True, False, False, False, True,
    ]  # fmt: skip


def test_a_record_over_the_limit_names_its_largest_feature() -> None:
    group = group_of(["string", "binary", "list<float64>"])
    room = RECORD_BYTES_MAX - layout(3).heap
    assert len(encode(group, {"v1": bytes(room)})) == RECORD_BYTES_MAX
    with pytest.raises(InvalidRecord, match=r'358,408 bytes.* 358,400\. .*"v1" with 358,321'):
        encode(group, {"v0": "", "v1": bytes(room + 1)})
    with pytest.raises(InvalidRecord, match='"v2" with 400,008'):
        encode(group, {"v0": "small", "v2": [0.5] * 50_000})


# ── hostile bytes ────────────────────────────────────────────────────────────────────────────


def decoded_or_corrupt(codec: RecordCodec, data: bytes, asked: list[str] | None = None) -> None:
    try:
        decoded = codec.decode(data, asked)
    except CorruptStore:
        return
    assert asked is not None or list(decoded) == [f.name for f in codec.group.value_features]


@given(st.data(), st.binary(max_size=300))
def test_random_bytes_are_a_record_or_corrupt(data: st.DataObject, noise: bytes) -> None:
    codec = RecordCodec(data.draw(groups()))
    decoded_or_corrupt(codec, noise)
    # Once more behind a plausible header, to get past the first checks.
    length = HEADER.size + len(noise) & -8
    header = HEADER.pack(0, length, 1, 0, 3, 0, 1, 2, 3, 4)
    decoded_or_corrupt(codec, header + noise)
    decoded_or_corrupt(codec, header + bytes(8) + noise)


@given(st.data())
def test_mutated_records_are_a_record_or_corrupt(data: st.DataObject) -> None:
    group = data.draw(groups())
    record = bytearray(encode(group, data.draw(records(group))))
    edits = st.tuples(st.integers(0, len(record) - 1), st.integers(0, 255))
    for place, byte in data.draw(st.lists(edits, min_size=1, max_size=6)):
        record[place] = byte
    del record[data.draw(st.integers(0, len(record)) | st.just(len(record))) :]
    asked = data.draw(st.none() | st.just([group.value_features[-1].name]))
    decoded_or_corrupt(RecordCodec(group), bytes(record), asked)


@given(st.data(), st.sampled_from(SCALARS), st.binary(max_size=80))
def test_random_bytes_are_a_list_or_a_value_error(
    data: st.DataObject, name: str, noise: bytes
) -> None:
    element = parse_dtype(name)
    small = data.draw(st.integers(0, 12))
    for heap in (noise, struct.pack("<II", small, data.draw(st.integers(0, 1))) + noise):
        try:
            values = unpack_list(element, heap, 0, len(heap))
        except ValueError:
            continue
        assert len(values) == int.from_bytes(heap[:4], "little")


@pytest.mark.parametrize(
    ("place", "form", "value", "reason"),
    [
        (4, "<I", 0, "48|bytes"),
        (4, "<I", 2**32 - 8, "stored"),
        (4, "<I", 84, "stored"),
        (4, "<I", 48, "not the 80 of its slots"),
        (8, "<H", 0, "schema version 0"),
        (8, "<H", 9, "schema version 9, newer"),
        (10, "<B", 8, "flags 0x08"),
        (10, "<B", 1, "not the 80 of its slots"),
        (12, "<I", 5, "encrypted with key 5"),
        (56, "<q", 2**62, "outside the years"),
        (64, "<q", 2**62, "int"),
        (72, "<II", (80, 9), '"v2" points outside'),
        (72, "<II", (72, 8), '"v2" points outside'),
        (72, "<II", (2**32 - 1, 2**32 - 1), '"v2" points outside'),
        (80, "<B", 0xFF, "utf-8"),
    ],
)
def test_damage_says_what_is_wrong(place: int, form: str, value: Any, reason: str) -> None:
    group = group_of(["timestamp", "date", "string"])
    record = bytearray(encode(group, {"v0": 0, "v1": 0, "v2": "text"}))
    assert len(record) == 88
    struct.pack_into(form, record, place, *(value if isinstance(value, tuple) else (value,)))
    with pytest.raises(CorruptStore, match=reason):
        RecordCodec(group).decode(with_crc(record))


def test_a_value_does_not_reach_into_what_is_appended() -> None:
    group = group_of(["string"])
    record = bytearray(encode(group, {"v0": "text"}))
    struct.pack_into("<II", record, 56, 64, 16)
    with pytest.raises(CorruptStore, match="points outside"):
        RecordCodec(group).decode(with_crc(record) + b"a long key, appended")


def test_what_lies_under_a_null_is_not_looked_at() -> None:
    group = group_of(["timestamp", "string"])
    record = bytearray(encode(group, {}))
    record[56:72] = b"\x7f" * 16
    assert RecordCodec(group).decode(with_crc(record)) == {"v0": None, "v1": None}


def test_elements_of_a_list_must_follow_each_other() -> None:
    text = parse_dtype("string")
    heap = bytearray(pack_list(text, ["a", "b", "c"]))
    assert struct.unpack_from("<III", heap, 8) == (1, 2, 3)
    struct.pack_into("<III", heap, 8, 2, 1, 3)
    with pytest.raises(ValueError, match="disordered"):
        unpack_list(text, heap, 0, len(heap))


@pytest.mark.parametrize("count", [2**32 - 1, 2**31, 5])
@pytest.mark.parametrize("name", SCALARS)
def test_a_hostile_count_allocates_nothing(name: str, count: int) -> None:
    heap = bytearray(pack_list(parse_dtype(name), EXTREMES[name][:2]))
    struct.pack_into("<I", heap, 0, count)
    with pytest.raises(ValueError, match="list"):
        unpack_list(parse_dtype(name), heap, 0, len(heap))


# ── golden bytes ─────────────────────────────────────────────────────────────────────────────


def golden_cases(name: str) -> list[Any]:
    """Null, and what a type has at its ends; for lists also the empty one and one with nulls."""
    dtype = parse_dtype(name)
    if dtype.kind == "vector":
        return [None, (EXTREMES[str(dtype.element)] * 5)[: dtype.length]]
    if dtype.kind == "list":
        extremes = EXTREMES[str(dtype.element)]
        return [None, [], extremes[:3], [None, *extremes[:2], None]]
    return [None, *EXTREMES[name]]


def file_name(name: str) -> str:
    return "record-" + re.sub(r"\W+", "-", name).strip("-")


@pytest.mark.parametrize("name", ALL_TYPES)
def test_golden_records(name: str) -> None:
    group = group_of([name])
    cases, blocks = golden_cases(name), list(golden(file_name(name)).values())
    assert len(blocks) == len(cases)
    for value, expected in zip(cases, blocks, strict=True):
        record = {"v0": value}
        assert encode(group, record) == expected
        verify_record(expected, KEY)
        assert agree(RecordCodec(group).decode(expected), python_values(group, record))


def test_golden_tombstones() -> None:
    blocks = golden("record-tombstone")
    for flags, expected in zip((1, 3, 4), blocks.values(), strict=True):
        made = tombstone(schema_version=1, event_time_us=10, stores=3, flags=flags)
        assert stamp(made, KEY, 1, 20) == expected
        assert verify_record(expected, KEY).flags == flags


def test_golden_record_of_many_features() -> None:
    group = group_of(ALL_TYPES).with_features({f"w{i}": "int8" for i in range(60)})
    record = {
        f.name: golden_cases(str(f.dtype))[-1] for f in group.value_features if f.id % 3
    }  # fmt: skip
    [expected] = golden("record-many").values()
    assert encode(group, record, event_time_us=-1, expires_at_us=99, stores=1) == expected
    assert agree(RecordCodec(group).decode(expected), python_values(group, record))


@given(st.sampled_from(ALL_TYPES), st.data())
def test_encoding_is_a_function_of_the_value(name: str, data: st.DataObject) -> None:
    group = group_of([name])
    record = {"v0": data.draw(physical(parse_dtype(name)))}
    assert encode(group, record) == encode(group, record)
