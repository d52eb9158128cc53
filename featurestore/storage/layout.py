"""How a history file lays its columns out: smallest first, then the spare bytes bought for speed.

A column can be written in several ways.  One row group of 122,880 rows, sorted by key, on two
cores (bytes a value; CPU ns a value to write and to decode with pyarrow; * what is chosen):

=====================  =================  ==================  ==================  ================
column                 PLAIN              PLAIN, zstd         dictionary          delta
=====================  =================  ==================  ==================  ================
random floats          8.0 B, 7 + 1.8 *   7.5 B, 18 + 9       10.1 B, 60 + 2.7    not for floats
temperatures           8.0 B, 9 + 3       1.2 B, 34 + 14      1.1 B, 20 + 4 *     not for floats
delays in minutes      8.0 B, 8 + 1.5     1.5 B, 26 + 13      1.2 B, 9 + 2.4 *    1.2 B, 9 + 2.4
event time, one year   8.0 B, 10 + 2 *    7.0 B, 15 + 8       10.1 B, 46 + 3      5.7 B, 17 + 4
ordinals of input      8.0 B, 11 + 2.4    3.5 B, 47 + 17      10.1 B, 53 + 3      2.7 B, 13 + 4 *
key, 40 rows each      8.0 B, 7 + 1.7     0.2 B, 9 + 3        0.3 B, 7 + 1.6 *    1.9 B, 9 + 2
=====================  =================  ==================  ==================  ================

Three things follow.  A dictionary of what repeats is as fast as raw values and smaller than zstd
makes them; zstd over raw values is what costs most to read, and saves least where values are
random; and a raw page is an array in the file itself, of which a reader that wants some rows need
not touch the others (``storage.pages``).

So a sample of the table is written in each way that could pay.  Every column starts out with its
smallest form.  Then up to :data:`SPARE` more bytes are spent on forms that are faster to read: on
event times first, which every point-in-time join reads, then wherever it costs least.  Random
floats end up raw, for 7 % more bytes; columns that zstd really shrinks stay as they are.

======================================  ===============  =============  ===============
bytes                                   zstd-1, default  zstd-1, tuned  as decided here
======================================  ===============  =============  ===============
flights, weather, planes (five groups)       17,020,082     13,787,763       13,721,449
1M rows of a key and 10 floats              109,536,516     83,952,910       91,360,887
======================================  ===============  =============  ===============

(Default is pyarrow's: a dictionary tried on every column.  Tuned: only on keys and text, and times
as deltas.)  Deciding costs 5 to 20 ms of CPU for a file, whatever its size; so a file of fewer rows
than a sample, which compaction will soon write again, is laid out without: numbers raw, all else in
dictionaries.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Share of bytes, over the smallest form of all columns, that may be spent on reading faster.
SPARE = 0.25

# The sample is stretches of neighbours, since what repeats in sorted rows repeats in a row.
_SAMPLE_STRETCHES = 4
_SAMPLE_ROWS_MIN = 2_048
_SAMPLE_ROWS_MAX = 16_384

_DICTIONARY, _PLAIN, _DELTA = "RLE_DICTIONARY", "PLAIN", "DELTA_BINARY_PACKED"

# How slow a form is to read, in the order of the table above.
_SLOWNESS = {
    (_PLAIN, "NONE"): 0,
    (_DICTIONARY, "NONE"): 1,
    (_DELTA, "NONE"): 2,
    (_DICTIONARY, "ZSTD"): 3,
    (_DELTA, "ZSTD"): 4,
    (_PLAIN, "ZSTD"): 5,
}


@dataclass(frozen=True, slots=True)
class Form:
    """One way of writing a column, and what the sample weighs so."""

    encoding: str
    codec: str
    size: int

    @property
    def slowness(self) -> int:
        """How slow the form is to read, among its kind."""
        return _SLOWNESS[self.encoding, self.codec]


def writer_options(
    table: pa.Table,
    *,
    identifiers: Sequence[str],
    event_time: str,
    rarely: Sequence[str],
    row_group_rows: int,
) -> dict[str, Any]:
    """Return what ``pyarrow.parquet.ParquetWriter`` is to be told about a sorted table.

    Parameters
    ----------
    table : pyarrow.Table
        The rows as they will be written.
    identifiers : sequence of str
        Columns the table is sorted by first: their runs are what a reader wants of them, and a
        dictionary keeps them as runs.
    event_time : str
        The column every join reads.
    rarely : sequence of str
        Columns that hardly any reader asks for: nothing is spent on them before the others.
    row_group_rows : int
        Rows of a row group, and so of a page: one page for each column of a row group.
    """
    if table.num_rows < _SAMPLE_ROWS_MIN:
        return _unweighed(table, identifiers) | one_page(row_group_rows)
    forms = _forms(_sample(table), identifiers)
    chosen = _spend(forms, event_time, identifiers, rarely)
    return {
        "compression": {column: form.codec for column, form in chosen.items()},
        "compression_level": {c: 1 for c, form in chosen.items() if form.codec == "ZSTD"},
        "use_dictionary": [c for c, form in chosen.items() if form.encoding == _DICTIONARY],
        "column_encoding": {
            c: form.encoding for c, form in chosen.items() if form.encoding != _DICTIONARY
        },
        **one_page(row_group_rows),
    }


def _unweighed(table: pa.Table, identifiers: Sequence[str]) -> dict[str, Any]:
    """Return options for a small table, by the types of its columns alone."""
    flat = [field for field in table.schema if not field.type.num_fields]
    raw = {f.name for f in flat if _is_number(f.type) and f.name not in identifiers}
    return {
        "compression": {f.name: "NONE" if f.name in raw else "ZSTD" for f in flat},
        "compression_level": {f.name: 1 for f in flat if f.name not in raw},
        "use_dictionary": [f.name for f in flat if f.name not in raw],
        "column_encoding": dict.fromkeys(raw, _PLAIN),
    }


def one_page(rows: int) -> dict[str, int]:
    """Return the options that keep a column of a row group in one page, as far as 1 MiB goes."""
    return {"max_rows_per_page": rows} if _pages_have_rows() else {}


@cache
def _pages_have_rows() -> bool:
    # pyarrow cut pages by their size only, until it had an option for their rows, too.
    return "max_rows_per_page" in inspect.signature(pq.ParquetWriter.__init__).parameters


def _sample(table: pa.Table) -> pa.Table:
    """Return some stretches of the table, the whole of a small one."""
    rows = min(max(table.num_rows // 8, _SAMPLE_ROWS_MIN), _SAMPLE_ROWS_MAX)
    if table.num_rows <= rows:
        return table
    length = rows // _SAMPLE_STRETCHES
    starts = np.linspace(0, table.num_rows - length, _SAMPLE_STRETCHES).astype(np.int64)
    return pa.concat_tables([table.slice(int(start), length) for start in starts])


def _forms(sample: pa.Table, identifiers: Sequence[str]) -> dict[str, list[Form]]:
    """Return, for each leaf column, the forms it could take."""
    numbers = [f.name for f in sample.schema if _is_number(f.type)]
    whole = [n for n in numbers if not pa.types.is_floating(sample.schema.field(n).type)]
    delta = [n for n in whole if sample.schema.field(n).type.bit_width >= 32]
    trials = [
        (_DICTIONARY, sample.column_names),
        (_PLAIN, numbers),
        (_DELTA, [name for name in delta if name not in identifiers]),
    ]
    forms: dict[str, list[Form]] = {}
    for encoding, names in trials:
        for column, plain_size, zstd_size in _weigh(sample.select(names), encoding):
            forms.setdefault(column, []).extend(
                [Form(encoding, "NONE", plain_size), Form(encoding, "ZSTD", zstd_size)]
            )
    return {column: _worthwhile(ways) for column, ways in forms.items()}


def _worthwhile(ways: list[Form]) -> list[Form]:
    """Drop forms that another beats in both size and speed."""
    return [
        form
        for form in ways
        if not any(w.slowness < form.slowness and w.size <= form.size for w in ways)
    ]


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    )


def _weigh(sample: pa.Table, encoding: str) -> list[tuple[str, int, int]]:
    """Return each leaf column with its bytes in one encoding, as they are and under zstd."""
    if not sample.num_columns:
        return []
    encodings = dict.fromkeys(sample.column_names, encoding) if encoding != _DICTIONARY else None
    written: list[pq.FileMetaData] = []
    with pq.ParquetWriter(
        pa.BufferOutputStream(),
        sample.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=encoding == _DICTIONARY,
        column_encoding=encodings,
        write_statistics=False,
        metadata_collector=written,
        **one_page(sample.num_rows),
    ) as writer:
        writer.write_table(sample, row_group_size=max(sample.num_rows, 1))
    group = written[0].row_group(0) if written[0].num_row_groups else None
    if group is None:
        return []
    chunks = [group.column(i) for i in range(group.num_columns)]
    return [(c.path_in_schema, c.total_uncompressed_size, c.total_compressed_size) for c in chunks]


def _spend(
    forms: dict[str, list[Form]], event_time: str, identifiers: Sequence[str], rarely: Sequence[str]
) -> dict[str, Form]:
    """Choose a form for every column."""
    chosen = {column: min(ways, key=lambda f: f.size) for column, ways in forms.items()}
    spare = SPARE * sum(form.size for form in chosen.values())
    turn = {event_time: 0, **dict.fromkeys(identifiers, 1), **dict.fromkeys(rarely, 3)}

    def price(column: str) -> tuple[int, int]:
        fastest = min(forms[column], key=lambda f: f.slowness)
        return turn.get(column, 2), fastest.size - chosen[column].size

    for column in sorted(forms, key=price):
        now = chosen[column]
        ways = forms[column]
        if column in identifiers:  # read as runs, of which raw values know nothing
            ways = [form for form in ways if form.encoding != _PLAIN]
        elif column in rarely:
            ways = [form for form in ways if form.encoding == now.encoding]
        affordable = [f for f in ways if f.slowness < now.slowness and f.size - now.size <= spare]
        if affordable:
            best = min(affordable, key=lambda f: f.slowness)
            spare -= max(best.size - now.size, 0)
            chosen[column] = best
    return chosen
