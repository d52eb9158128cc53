"""Pages: used as they lie only where they are what they seem, and then they are the column."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernels.parquet import footer_shape
from featurestore.storage.pages import Pages

ROWS = 50
KINDS = [pa.int64(), pa.float64(), pa.int32(), pa.float32(), pa.date32(), pa.timestamp("us")]
KEYS = [
    pa.int64(),
    pa.int32(),
    pa.int16(),
    pa.date32(),
    pa.timestamp("us"),
    pa.string(),
    pa.binary(),
]


def column(kind: pa.DataType, *, nulls: bool = False) -> pa.Array:
    values = np.random.default_rng(8).integers(0, 9, ROWS)
    array = pa.array(values.astype(np.int32 if kind.bit_width == 32 else np.int64))
    array = array.view(kind) if pa.types.is_temporal(kind) else array.cast(kind)
    return pa.array([None, *array[1:].to_pylist()], kind) if nulls else array


def written(path: Path, table: pa.Table, **options: Any) -> Pages:
    defaults = {"compression": "none", "use_dictionary": False, "row_group_size": ROWS}
    pq.write_table(table, path, **{**defaults, **options})
    return Pages(path)


def raw(pages: Pages, kind: pa.DataType, group: int = 0) -> int:
    return int(pages.raw(pages.plain(["x"], [kind]), group)[0])


# ── arrays ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("nullable", [True, False])
def test_a_raw_page_is_the_column(
    tmp_path: Path, kind: pa.DataType, checksum: bool, nullable: bool
) -> None:
    array = column(kind)
    table = pa.table([array, array], pa.schema([pa.field("x", kind, nullable), ("y", kind)]))
    pages = written(
        tmp_path / "x.parquet", pa.concat_tables([table, table]), write_page_checksum=checksum
    )
    width = kind.bit_width // 8
    bits = array.view(pa.int64() if width == 8 else pa.int32()).to_numpy()
    for group in (0, 1):
        at = raw(pages, kind, group)
        assert np.frombuffer(pages.memory, f"i{width}", ROWS, at).tolist() == bits.tolist()
    for other in {pa.int64(), pa.float64(), pa.int32(), pa.float32(), pa.int16(), pa.string()}:
        fits = other == kind or (
            pa.types.is_temporal(kind) and other.id in {7, 9} and other.bit_width == kind.bit_width
        )
        assert (raw(pages, other) >= 0) == fits
    assert pages.raw(pages.plain(["z"], [kind]), 0).tolist() == [-1]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"column_encoding": {"x": "DELTA_BINARY_PACKED"}},
        {"column_encoding": {"x": "BYTE_STREAM_SPLIT"}},
        {"max_rows_per_page": 20},
        {"data_page_version": "2.0"},
        {"write_statistics": False},
    ],
    ids=str,
)
def test_other_pages_are_left_to_pyarrow(tmp_path: Path, options: dict[str, Any]) -> None:
    table = pa.table({"x": column(pa.int64())})
    assert raw(written(tmp_path / "x.parquet", table, **options), pa.int64()) == -1


def test_a_column_with_nulls_is_left_to_pyarrow(tmp_path: Path) -> None:
    table = pa.table({"x": column(pa.int64(), nulls=True)})
    for dictionary in (False, True):
        pages = written(tmp_path / "x.parquet", table, use_dictionary=dictionary)
        assert raw(pages, pa.int64()) == -1
        assert pages.runs("x", pa.int64(), 0) is None


# ── runs ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KEYS, ids=str)
@given(
    repeats=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 70)), min_size=1, max_size=12),
    options=st.sampled_from([{}, {"max_rows_per_page": 20}, {"write_page_checksum": True}]),
    required=st.booleans(),
)
def test_runs_are_those_of_the_column(
    tmp_path_factory: pytest.TempPathFactory, kind: pa.DataType, repeats: Any, options: Any,
    required: bool,
) -> None:  # fmt: skip
    numbers = [n for n, count in repeats for _ in range(count)]
    if kind in (pa.string(), pa.binary()):
        array = pa.array(["ключ" * (n % 3) + str(n) for n in numbers]).cast(kind)
    else:
        array = (
            pa.array(numbers, pa.int16()).cast(pa.int32()).cast(kind)
            if kind != pa.timestamp("us")
            else pa.array(numbers, pa.int64()).cast(kind)
        )
    path = tmp_path_factory.mktemp("runs") / "x.parquet"
    table = pa.table([array], pa.schema([pa.field("x", kind, not required)]))
    pages = written(path, table, use_dictionary=True, row_group_size=60, **options)
    for group in range(pages.group_rows.size):
        part = array.slice(60 * group, 60)
        found = pages.runs("x", kind, group)
        assert found is not None
        starts, codes, values = found
        if not isinstance(values, np.ndarray):
            values.validate(full=True)
        rows = np.repeat(codes, np.diff(np.append(starts, len(part))))
        integers = part.cast(pa.int32()) if kind == pa.date32() else part
        integers = part.cast(pa.int64()) if kind == pa.timestamp("us") else integers
        assert [values[i] for i in rows.tolist()] == (
            integers.to_pylist() if isinstance(values, np.ndarray) else list(part)
        )
        assert (codes[1:] != codes[:-1]).all()


def test_what_are_no_runs_is_left_to_pyarrow(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"x": column(pa.int64()), "l": [[n] for n in range(ROWS)]})
    assert written(path, table).runs("x", pa.int64(), 0) is None
    pages = written(path, table, use_dictionary=True, compression="zstd")
    assert pages.runs("x", pa.int64(), 0) is None
    assert pages.runs("x", pa.float64(), 0) is None
    assert pages.runs("l", pa.int64(), 0) is None
    assert "l" not in pages
    # A dictionary that gets too large: the rest of the column is plain.
    many = pa.table({"x": np.arange(ROWS)})
    pages = written(path, many, use_dictionary=True, dictionary_pagesize_limit=64,
                    max_rows_per_page=10, write_batch_size=5)  # fmt: skip
    assert pages.runs("x", pa.int64(), 0) is None


# ── footers ──────────────────────────────────────────────────────────────────────────────────


def test_a_footer_says_what_pyarrow_says(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    limits = np.array([-(2**63), 2**63 - 1, -1, 0] * 50)
    table = pa.table(
        {
            "wide" * 99: random.random(200),
            "k": limits,
            "l": [[1, 2]] * 200,
            "n": pa.nulls(200, "i8"),
        }
        | {f"f{n}": random.integers(-5, 5, 200) for n in range(40)}
    )
    path = tmp_path / "x.parquet"
    pages = written(path, table, row_group_size=70)
    theirs = pq.read_metadata(path)
    assert pages.rows == 200
    assert pages.group_rows.tolist() == [70, 70, 60]
    for number in range(theirs.num_columns):
        name = theirs.schema.column(number).path
        if name == "n":
            assert pages.all_null(name, 3)
            continue
        if "." in name:
            assert name not in pages
            continue
        assert name in pages
        assert not pages.all_null(name, 3)
        stats = [theirs.row_group(g).column(number).statistics for g in range(3)]
        if stats[0].physical_type == "INT64":
            least, greatest = pages.bounds(name)  # type: ignore[misc]
            assert least.tolist() == [s.min for s in stats]
            assert greatest.tolist() == [s.max for s in stats]
    assert written(path, table, write_statistics=False).bounds("k") is None


@given(st.data())
def test_no_damage_leads_outside_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.parquet"
    table = pa.table(
        {"x": column(pa.int64()), "k": np.repeat([5, 6], ROWS // 2), "t": ["a"] * ROWS}
    )
    written(path, table, use_dictionary=["k", "t"])
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    with contextlib.suppress(pa.ArrowInvalid):
        pages = Pages(path)
        for group in range(pages.group_rows.size):
            at = raw(pages, pa.int64(), group)
            assert at == -1 or 0 < at <= len(damaged) - 8 * int(pages.group_rows[group])
            for name, kind in (("k", pa.int64()), ("t", pa.string())):
                found = pages.runs(name, kind, group)
                if found is not None:
                    starts, codes, values = found
                    assert codes.max() < len(values)
                    assert starts.max() < pages.group_rows[group]


# ── footers that pyarrow does not write ──────────────────────────────────────────────────────

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12


def number(value: int) -> bytes:
    """Return a number as Thrift's compact protocol writes one without a sign."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + number(value >> 7)


def struct(fields: dict[int, tuple[int, bytes]]) -> bytes:
    """Return a struct of fields by number, each of a kind."""
    heads = zip(fields, [0, *fields], strict=False)
    return b"".join(
        bytes([(this - before) << 4 | fields[this][0]]) + fields[this][1] for this, before in heads
    ) + b"\0"  # fmt: skip


def several(kind: int, values: list[bytes]) -> tuple[int, bytes]:
    return LIST, bytes([15 << 4 | kind]) + number(len(values)) + b"".join(values)


def footer(bounds: dict[int, int], groups: int = 1) -> bytes:
    """Return the footer of a column ``k`` of two rows a group, with these fields of statistics."""
    words = {at: (BINARY, b"\x08" + value.to_bytes(8, "little")) for at, value in bounds.items()}
    column = struct({
        1: (I32, number(2 * 2)),
        3: several(BINARY, [b"\x01k"]),
        4: (I32, number(0)),
        5: (I64, number(2 * 2)),
        12: (STRUCT, struct(words)),
    })  # fmt: skip
    group = {1: several(STRUCT, [struct({3: (STRUCT, column)})]), 3: (I64, number(2 * 2))}
    schema = [struct({5: (I32, number(2 * 1))}), struct({3: (I32, number(0))})]
    rows = (I64, number(2 * 2 * groups))
    return struct(
        {2: several(STRUCT, schema), 3: rows, 4: several(STRUCT, [struct(group)] * groups)}
    )


def of_footer(path: Path, written: bytes) -> Pages:
    path.write_bytes(b"PAR1" + written + len(written).to_bytes(4, "little") + b"PAR1")
    return Pages(path)


def test_one_bound_is_none(tmp_path: Path) -> None:
    """The least alone would leave a row group out as if its greatest were 0."""
    both = of_footer(tmp_path / "x", footer({5: 9, 6: 5})).bounds("k")
    assert both is not None
    assert [bound.tolist() for bound in both] == [[5], [9]]
    for one in (5, 6):
        assert of_footer(tmp_path / "x", footer({one: 7})).bounds("k") is None


@pytest.mark.parametrize("groups", [1, 14, 15, 300])
def test_a_footer_of_many_row_groups(tmp_path: Path, groups: int) -> None:
    """A list of fifteen is the first whose length has a byte of its own."""
    pages = of_footer(tmp_path / "x", footer({5: 9, 6: 5}, groups))
    assert (pages.rows, pages.group_rows.tolist()) == (2 * groups, [2] * groups)
    assert "k" in pages


def test_tables_larger_than_their_footer_are_refused_before_room_is_made_for_them() -> None:
    """A few KiB that tell of a million chunks, of which each would take 80 bytes."""

    def thousand(values: bytes) -> tuple[int, bytes]:
        return LIST, bytes([15 << 4 | STRUCT]) + number(1_000) + values

    group = struct({1: thousand(bytes(2_000))})
    telling = struct({3: (I64, number(0)), 4: thousand(group)})
    with pytest.raises(ValueError, match="shorter than its tables"):
        footer_shape(np.frombuffer(telling, np.uint8))
    assert footer_shape(np.frombuffer(footer({}, 20), np.uint8)) == (40, 20, 1)
