"""Keys: bytes that sort as the values, no key the beginning of another, nothing malformed read."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.encoding.keys import (
    LATEST_PREFIX,
    KeyHash,
    decode_key,
    encode_key,
    lmdb_key,
)
from featurestore.errors import CorruptStore, InvalidRecord
from featurestore.record import KEY_BYTES_MAX
from tests.encoding.golden import golden
from tests.encoding.strategies import EXTREMES, KEY_TYPES, dtypes, physical

# Texts in which terminators and escapes meet each other.
tricky_bytes = st.lists(st.sampled_from([0, 1, 0xFE, 0xFF]), max_size=6).map(bytes)
tricky_text = st.text(alphabet="\0\x01a\u00ff\U0010ffff", max_size=6)


@st.composite
def types_and_tuples(draw: st.DrawFn, count: int) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """Types of a composite key, and some keys of them that are often close to each other."""
    names = draw(st.lists(st.sampled_from(KEY_TYPES), min_size=1, max_size=3))
    components = []
    for dtype in dtypes(names):
        tricky = {"string": tricky_text, "binary": tricky_bytes}.get(dtype.kind)
        values = physical(dtype) if tricky is None else tricky | physical(dtype)
        # Few distinct values, so that the later components decide as well.
        components.append(st.sampled_from(draw(st.lists(values, min_size=1, max_size=3))))
    return dtypes(names), [draw(st.tuples(*components)) for _ in range(count)]


@given(types_and_tuples(1))
def test_a_key_decodes_to_what_was_encoded(case: tuple[list[Any], list[tuple[Any, ...]]]) -> None:
    types, [values] = case
    decoded = decode_key(encode_key(values, types), types)
    assert decoded == values
    assert list(map(type, decoded)) == list(map(type, values))


@given(types_and_tuples(2))
def test_bytes_sort_as_values_do(case: tuple[list[Any], list[tuple[Any, ...]]]) -> None:
    types, [a, b] = case
    assert (encode_key(a, types) < encode_key(b, types)) == (a < b)
    assert (encode_key(a, types) == encode_key(b, types)) == (a == b)


@given(types_and_tuples(2))
def test_no_key_begins_another(case: tuple[list[Any], list[tuple[Any, ...]]]) -> None:
    types, [a, b] = case
    assert a == b or not encode_key(b, types).startswith(encode_key(a, types))


def test_text_that_ends_in_zero_does_not_extend_text_that_does_not() -> None:
    text = dtypes(["string"])
    assert not encode_key(["a\0"], text).startswith(encode_key(["a"], text))


@pytest.mark.parametrize("name", KEY_TYPES)
def test_extremes_are_in_order(name: str) -> None:
    types = dtypes([name])
    values = sorted(EXTREMES[name])
    keys = [encode_key([value], types) for value in values]
    assert keys == sorted(keys)
    assert [decode_key(key, types)[0] for key in keys] == values


def test_components_do_not_run_into_each_other() -> None:
    two = dtypes(["string", "string"])
    assert encode_key(["a", "bc"], two) != encode_key(["ab", "c"], two)
    assert encode_key(["", "a"], two) != encode_key(["a", ""], two)


def test_equal_looking_values_of_different_types_differ() -> None:
    cases = [(1, "int64"), (True, "bool"), ("1", "string"), (b"1", "binary"), (1, "timestamp"),
             (1, "date")]  # fmt: skip
    keys = {encode_key([value], dtypes([name])) for value, name in cases}
    assert len(keys) == len(cases)


def test_integers_have_one_form_in_every_width() -> None:
    keys = {encode_key([-5], dtypes([f"int{bits}"])) for bits in (8, 16, 32, 64)}
    assert len(keys) == 1


def test_the_limit_is_2048_bytes_and_the_refusal_says_so() -> None:
    text = dtypes(["string"])
    assert len(encode_key(["x" * (KEY_BYTES_MAX - 3)], text)) == KEY_BYTES_MAX
    with pytest.raises(InvalidRecord, match=r"2,049 bytes .* 2,048"):
        encode_key(["x" * (KEY_BYTES_MAX - 2)], text)
    # Zeros count as they are stored: twice.
    with pytest.raises(InvalidRecord, match="4,003 bytes"):
        encode_key(["\0" * 2000], text)


# ── hostile bytes ────────────────────────────────────────────────────────────────────────────


def decoded_or_refused(key: bytes, types: list[Any]) -> None:
    """Either these are the bytes of a key, and then the only ones, or they are corrupt."""
    try:
        values = decode_key(key, types)
    except CorruptStore:
        return
    assert encode_key(values, types) == key


@given(st.binary(max_size=40), st.lists(st.sampled_from(KEY_TYPES), min_size=1, max_size=3))
def test_random_bytes_are_a_key_or_corrupt(key: bytes, names: list[str]) -> None:
    decoded_or_refused(key, dtypes(names))


@given(types_and_tuples(1), st.integers(0, 10_000), st.integers(0, 255), st.sampled_from("=+-"))
def test_mutated_keys_are_a_key_or_corrupt(
    case: tuple[list[Any], list[tuple[Any, ...]]], place: int, byte: int, how: str
) -> None:
    types, [values] = case
    key = bytearray(encode_key(values, types))
    place %= len(key)
    key[place : place + (how != "+")] = b"" if how == "-" else bytes([byte])
    decoded_or_refused(bytes(key), types)


@pytest.mark.parametrize(
    ("name", "key", "reason"),
    [
        ("string", b"", "expected tag 02"),
        ("string", b"\x02abc", "no end"),
        ("string", b"\x02abc\0", "no end"),
        ("string", b"\x02a\0b\0\0", "not escaped"),
        ("string", b"\x02\xff\0\0", "not UTF-8"),
        ("string", b"\x02\xed\xa0\x80\0\0", "not UTF-8"),
        ("string", b"\x01abc\0\0", "expected tag 02 at byte 0, found 01"),
        ("string", b"\x02a\0\0\0", "1 bytes follow"),
        ("int8", b"\x10\x80" + bytes(6) + b"\x80", "128 is outside"),
        ("int64", b"\x10\x80" + bytes(6), "cut short"),
        ("timestamp", b"\x30" + b"\xff" * 8, "outside its type"),
        ("date", b"\x31" + b"\xff" * 8, "outside its type"),
        ("bool", b"\x22", "tag of a bool"),
        ("bool", b"", "tag of a bool"),
    ],
)
def test_a_malformed_key_says_what_is_wrong(name: str, key: bytes, reason: str) -> None:
    with pytest.raises(CorruptStore, match=reason):
        decode_key(key, dtypes([name]))


# ── hash and LMDB key ────────────────────────────────────────────────────────────────────────


def test_the_hash_is_blake2b_of_the_key_as_a_signed_integer() -> None:
    for key in (b"", b"a", b"\x02JFK\0\0", bytes(2048)):
        digest = hashlib.blake2b(key, digest_size=8, key=b"seed").digest()
        assert KeyHash(b"seed")(key) == int.from_bytes(digest, "big", signed=True)


def test_hashes_fill_the_signed_range_and_depend_on_the_seed() -> None:
    keys = [str(i).encode() for i in range(200)]
    hashes = list(map(KeyHash(b"one"), keys))
    assert len(set(hashes)) == 200
    assert min(hashes) < -(2**62)
    assert max(hashes) > 2**62
    assert not set(hashes) & set(map(KeyHash(b"two"), keys))
    assert hashes == list(map(KeyHash(b"one"), keys))


def test_the_four_value_hash_is_the_top_of_the_whole_one() -> None:
    keys = [str(i).encode() for i in range(200)]
    four, whole = KeyHash(b"seed", bits=2), KeyHash(b"seed")
    assert {four(key) for key in keys} == {-(2**63), -(2**62), 0, 2**62}
    assert all(four(key) >> 62 == whole(key) >> 62 for key in keys)


@pytest.mark.parametrize(("seed", "bits"), [(b"", 64), (bytes(65), 64), (b"s", 0), (b"s", 65)])
def test_a_hash_without_a_seed_or_bits_is_refused(seed: bytes, bits: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        KeyHash(seed, bits)


lmdb_parts = st.tuples(
    st.integers(0, 2**32 - 1) | st.integers(0, 2),
    st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 1),
    tricky_text.map(lambda text: encode_key([text], dtypes(["string"]))),
)


@given(lmdb_parts, lmdb_parts)
def test_lmdb_keys_sort_by_group_hash_and_key(
    a: tuple[int, int, bytes], b: tuple[int, int, bytes]
) -> None:
    assert (lmdb_key(*a) < lmdb_key(*b)) == (a < b)
    assert (lmdb_key(*a) == lmdb_key(*b)) == (a == b)


def test_an_lmdb_key_begins_with_its_prefix_and_always_fits() -> None:
    short, long = b"\x02" * 448, b"\x02" * 449
    prefix = LATEST_PREFIX.pack(3, 5 + 2**63)
    assert lmdb_key(3, 5, short) == prefix + short
    assert lmdb_key(3, 5, long) == prefix + b"\xff" + hashlib.blake2b(long, digest_size=32).digest()
    assert len(lmdb_key(3, 5, short)) <= 511


def test_every_tag_is_below_the_digest_mark() -> None:
    for name in KEY_TYPES:
        for value in EXTREMES[name]:
            assert encode_key([value], dtypes([name]))[0] < 0xFF


# ── golden bytes ─────────────────────────────────────────────────────────────────────────────

GOLDEN: dict[str, list[tuple[list[str], list[Any]]]] = {
    **{f"key-{name}": [([name], [value]) for value in EXTREMES[name]] for name in KEY_TYPES},
    "key-composite": [
        (["string", "int64", "bool"], ["JFK", -1, True]),
        (["date", "timestamp", "binary"], [15706, 1357016400000000, b"\0\xff"]),
        (["string", "string"], ["a", "bc"]),
        (["string", "string"], ["ab", "c"]),
    ],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_keys(name: str) -> None:
    expected = list(golden(name).values())
    assert len(expected) == len(GOLDEN[name])
    for (names, values), key in zip(GOLDEN[name], expected, strict=True):
        assert encode_key(values, dtypes(names)) == key
        assert decode_key(key, dtypes(names)) == tuple(values)


def test_golden_hashes() -> None:
    blocks = golden("key-hash")
    for name, digest in blocks.items():
        assert KeyHash(b"golden seed")(name.encode()) == int.from_bytes(digest, "big", signed=True)
    assert len(blocks) == 3


# ── weight ───────────────────────────────────────────────────────────────────────────────────


def test_a_single_put_or_get_loads_neither_numpy_nor_arrow() -> None:
    code = (
        "import sys, featurestore.encoding.keys, featurestore.encoding.values\n"
        "print(sorted({'numpy', 'pyarrow', 'numba', 'duckdb', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
