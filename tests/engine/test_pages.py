"""Raw pages: found only where a page is an array in the file, and then they are the column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.storage.pages import raw_page

ROWS = 50
KINDS = [pa.int64(), pa.float64(), pa.int32(), pa.float32(), pa.date32(), pa.timestamp("us")]


def column(kind: pa.DataType, *, nulls: bool = False) -> pa.Array:
    values = np.random.default_rng(8).integers(0, 9, ROWS)
    array = pa.array(values.astype(np.int32 if kind.bit_width == 32 else np.int64))
    array = array.view(kind) if pa.types.is_temporal(kind) else array.cast(kind)
    return pa.array([None, *array[1:].to_pylist()], kind) if nulls else array


def written(path: Path, array: pa.Array, **options: Any) -> tuple[memoryview, Any]:
    defaults = {"compression": "none", "use_dictionary": False, "row_group_size": ROWS}
    pq.write_table(pa.table({"x": array}), path, **{**defaults, **options})
    chunk = pq.read_metadata(path).row_group(0).column(0)
    return memoryview(path.read_bytes()), chunk


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("checksum", [True, False])
def test_a_raw_page_is_the_column(tmp_path: Path, kind: pa.DataType, checksum: bool) -> None:
    array = column(kind)
    memory, chunk = written(tmp_path / "x.parquet", array, write_page_checksum=checksum)
    width = kind.bit_width // 8
    at = raw_page(memory, chunk, ROWS, width)
    bits = array.view(pa.int64() if width == 8 else pa.int32()).to_numpy()
    assert np.frombuffer(memory, f"i{width}", ROWS, at).tolist() == bits.tolist()
    assert raw_page(memory, chunk, ROWS, 12 - width) == -1
    assert raw_page(memory, chunk, ROWS - 1, width) == -1
    assert raw_page(memory[: chunk.data_page_offset + 9], chunk, ROWS, width) == -1


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
    memory, chunk = written(tmp_path / "x.parquet", column(pa.int64()), **options)
    assert raw_page(memory, chunk, ROWS, 8) == -1


def test_a_column_with_nulls_is_left_to_pyarrow(tmp_path: Path) -> None:
    memory, chunk = written(tmp_path / "x.parquet", column(pa.int64(), nulls=True))
    assert raw_page(memory, chunk, ROWS, 8) == -1


@given(st.data())
def test_no_damage_leads_outside_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.parquet"
    memory, chunk = written(path, column(pa.int64()))
    damaged = bytearray(memory)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[chunk.data_page_offset + data.draw(st.integers(0, 40))] = data.draw(
            st.integers(0, 255)
        )
    at = raw_page(memoryview(damaged), chunk, ROWS, 8)
    assert at == -1 or 0 < at <= len(memory) - 8 * ROWS
