"""Column layouts: whatever is decided, what is read is what was written, and it is small enough."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.demo import flights, groups
from featurestore.encoding.columns import history_schema
from featurestore.encoding.keys import KeyHash
from featurestore.schema import FeatureGroup, define
from featurestore.storage import layout, parquet
from tests.engine.histories import Event, history
from tests.engine.test_point_in_time import VALUES, group_of, put

KEY_HASH = KeyHash(b"a test's seed")
UTC_US = pa.timestamp("us", tz="UTC")


def as_history(group: FeatureGroup, rows: pa.Table) -> pa.Table:
    """Return rows of a group in the history layout, sorted."""
    count = rows.num_rows
    hashes = [KEY_HASH(repr(tuple(key.values())).encode()) for key in
              rows.select(group.record_identifier).to_pylist()]  # fmt: skip
    system = {
        parquet.KEY_HASH: pa.array(hashes, pa.int64()),
        parquet.WRITE_SEQ: pa.array(np.arange(count)),
        parquet.WRITE_TIME: pa.array(np.zeros(count, np.int64)).view(UTC_US),
        parquet.EXPIRES_AT: pa.nulls(count, UTC_US),
        parquet.IS_DELETED: pa.array(np.zeros(count, np.bool_)),
        parquet.STORES: pa.array(np.full(count, 3, np.int8)),
    }
    schema = history_schema(group)
    arrays = [system.get(n, rows[n] if n in rows.column_names else None) for n in schema.names]
    table = pa.table(dict(zip(schema.names, arrays, strict=True))).cast(schema)
    return table.sort_by([(parquet.KEY_HASH, "ascending"), (group.event_time, "ascending")])


def zstd_bytes(table: pa.Table) -> int:
    """Return the size of the table as pyarrow writes it under zstd-1: at most two ways."""
    sizes = []
    for dictionary in (True, [n for n in table.column_names if pa.types.is_string(
            table.schema.field(n).type)]):  # fmt: skip
        sink = io.BytesIO()
        pq.write_table(
            table, sink, compression="zstd", compression_level=1, use_dictionary=dictionary
        )
        sizes.append(sink.tell())
    return min(sizes)


def test_the_flights_stay_small(tmp_path: Path) -> None:
    """At most 1.3 times the size under zstd-1, all groups together."""
    year = flights.read()
    ours = theirs = 0
    for number, (declared, rows) in enumerate(groups.source_tables(year)):
        names = [declared.record_identifier] if isinstance(declared.record_identifier, str) else []
        kept = rows.filter(rows[names[0]].is_valid()).slice(0, 100_000)
        kinds = {pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string"}
        group = define(
            declared.name,
            record_identifier=declared.record_identifier,
            event_time=declared.event_time,
            features={f.name: kinds.get(f.type, "timestamp") for f in kept.schema},
            id=1 + number,
        )
        table = as_history(group, kept)
        parquet.write_history(tmp_path, f"{number}.parquet", table, group)
        ours += (tmp_path / f"{number}.parquet").stat().st_size
        theirs += zstd_bytes(table)
    assert ours <= 1.3 * theirs


def decided(table: pa.Table, column: str) -> tuple[str, str]:
    options = layout.writer_options(
        table, identifiers=["k"], event_time="t", rarely=[], row_group_rows=1000
    )
    encoding = "dictionary" if column in options["use_dictionary"] else "other"
    return options["column_encoding"].get(column, encoding), options["compression"][column]


def test_what_is_decided() -> None:
    random = np.random.default_rng(5)
    rows = 20_000
    table = pa.table(
        {
            "k": np.repeat(np.arange(rows // 10), 10),
            "t": random.integers(0, 2**60, rows),
            "random": random.random(rows),
            "few": random.choice([0.5, 1.5, 2.25], rows),
            "counted": np.arange(rows) * 1000,
            "text": pa.array(["abc", "de"] * (rows // 2)),
        }
    )
    assert decided(table, "random") == ("PLAIN", "NONE")
    assert decided(table, "t") == ("PLAIN", "NONE")
    assert decided(table, "k")[0] == "dictionary"
    assert decided(table, "few")[0] == "dictionary"
    assert decided(table, "text")[0] == "dictionary"
    assert decided(table, "counted")[0] == "DELTA_BINARY_PACKED"


def test_a_small_file_is_laid_out_by_the_types_of_its_columns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def weigh(*_: Any) -> Any:
        raise AssertionError("nothing is tried")

    monkeypatch.setattr(layout, "_weigh", weigh)
    table = pa.table({"k": [1, 2], "t": [3, 4], "text": ["a", None], "list": [["b"], None]})
    options = layout.writer_options(
        table, identifiers=["k"], event_time="t", rarely=[], row_group_rows=1000
    )
    pq.write_table(table, tmp_path / "file", **options)
    group = pq.read_metadata(tmp_path / "file").row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(4)}
    encodings = {name: set(column.encodings) for name, column in columns.items()}
    assert "PLAIN" in encodings["t"]
    assert columns["t"].compression == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" in encodings["k"] & encodings["text"]
    assert pq.read_table(tmp_path / "file") == table


def test_spending_stays_within_the_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    table = pa.table({f"c{i}": random.integers(0, 2 ** (3 * i + 1), 5_000) for i in range(12)})

    def size(spare: float) -> int:
        monkeypatch.setattr(layout, "SPARE", spare)
        options = layout.writer_options(
            table, identifiers=["c0"], event_time="c1", rarely=["c2"], row_group_rows=5_000
        )
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        return sink.tell()

    smallest, quarter, lavish = size(0), size(0.25), size(100)
    assert smallest < quarter < lavish
    assert quarter < 1.27 * smallest


@pytest.mark.parametrize("rows", [1, 2, 7, 3000])
@pytest.mark.parametrize("row_group_rows", [2, 122_880])
def test_every_type_is_read_as_it_was_written(
    tmp_path: Path, rows: int, row_group_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", max(row_group_rows, rows // 50))
    features = {f"f{i}": dtype for i, dtype in enumerate(VALUES)}
    group = group_of(**features)
    columns = dict(zip(features, VALUES.values(), strict=True))
    events: list[Event] = []
    for row in range(rows):
        values: dict[str, Any] = {
            name: (None if (row + at) % 5 == 0 else options[(row * (at + 1)) % len(options)])
            for at, (name, options) in enumerate(columns.items())
        }
        events.append(put(f"key {row % 11}", row, row + 1, **values))
    table = parquet.sort_history(history(group, events, KEY_HASH), group, KEY_HASH)
    parquet.write_history(tmp_path, "new.parquet", table, group)
    entry = parquet.describe(tmp_path, group, 7, "flush", table, relative="new.parquet")
    (tmp_path / entry.path).parent.mkdir(parents=True)
    (tmp_path / "new.parquet").rename(tmp_path / entry.path)
    assert parquet.read_history(tmp_path, entry, group).equals(table)


def test_files_of_the_first_layout_are_read(tmp_path: Path) -> None:
    """All zstd-1, dictionaries on keys and text, deltas for times: as files were once written."""
    group = group_of(temp="float64", sky="string")
    events = [put(f"k{i % 3}", i, i + 1, temp=i / 3, sky=f"sky {i % 2}") for i in range(50)]
    table = parquet.sort_history(history(group, events, KEY_HASH), group, KEY_HASH)
    entry_path = tmp_path / "data/1/0000000000000007.parquet"
    entry_path.parent.mkdir(parents=True)
    pq.write_table(
        table,
        entry_path,
        compression="zstd",
        compression_level=1,
        row_group_size=20,
        use_dictionary=["__key_hash", "origin", "sky", "is_deleted", "__stores", "expires_at"],
        column_encoding=dict.fromkeys(("at", "write_seq", "write_time"), "DELTA_BINARY_PACKED"),
        write_page_checksum=True,
    )
    entry = parquet.describe(
        tmp_path, group, 7, "flush", table, relative="data/1/0000000000000007.parquet"
    )
    assert parquet.read_history(tmp_path, entry, group).equals(table)
