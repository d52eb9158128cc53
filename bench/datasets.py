"""The rows that benchmarks speak of, from a seed; the same wherever and whenever they are made.

=============  ==============================================================================
table          columns
=============  ==============================================================================
``entities``   ``entity`` int64, ``event_time``, and 20 features: 14 floats (one with nulls),
               4 integers, a flag, a short text; one row for each entity
``updates``    the same columns, a year later, for some of the entities, in random order
``history``    ``entity`` int64, ``event_time``, 10 floats; unsorted
=============  ==============================================================================

A record of ``entities`` is 224 bytes, 18 of them for the text and the floats' nulls.

Times lie in the past, so that no store refuses them, and are distinct for each entity, so that no
peer has to break a tie.

numpy and Arrow are imported where rows are made: a side that only needs their names must not pay.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

ENTITY = "entity"
EVENT_TIME = "event_time"
FLOATS = tuple(f"f{i:02}" for i in range(14))
INTEGERS = tuple(f"i{i}" for i in range(4))
FEATURES = (*FLOATS, *INTEGERS, "flag", "label")
HISTORY_FEATURES = tuple(f"f{i}" for i in range(10))
NULL_SHARE = 0.05
START_US = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z
YEAR_US = 365 * 86_400_000_000
LABELS = tuple(f"{a}{b}{c}" for a in "abcdefgh" for b in "aeiou" for c in ("xyz", "pq", "r"))


def entities(rows: int, seed: int) -> pa.Table:
    """Return one row for each entity, 0 to ``rows``."""
    import numpy as np

    chance = np.random.default_rng((seed, 1))
    return _records(np.arange(rows), START_US, chance)


def updates(rows: int, of: int, seed: int) -> pa.Table:
    """Return new rows, a year later, for ``rows`` distinct ones of ``of`` entities."""
    import numpy as np

    chance = np.random.default_rng((seed, 2))
    return _records(chance.permutation(of)[:rows], START_US + YEAR_US, chance)


def history(rows: int, keys: int, seed: int) -> pa.Table:
    """Return rows of ``keys`` entities in random order; all of them are there if rows allow."""
    import numpy as np
    import pyarrow as pa

    chance = np.random.default_rng((seed, 3))
    entity = np.arange(rows) % keys
    # One row of an entity each minute: times of one entity are distinct.
    times = START_US + np.arange(rows) // keys * 60_000_000
    order = chance.permutation(rows)
    columns: dict[str, Any] = {
        ENTITY: pa.array(entity[order]),
        EVENT_TIME: pa.array(times[order]).view(_timestamp()),
    }
    return pa.table(columns | {name: pa.array(chance.random(rows)) for name in HISTORY_FEATURES})


def _records(entity: Any, start_us: int, chance: np.random.Generator) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    rows = len(entity)
    columns: dict[str, Any] = {
        ENTITY: pa.array(entity),
        EVENT_TIME: pa.array(start_us + np.arange(rows) * 1_000_000).view(_timestamp()),
    }
    for name in FLOATS:
        columns[name] = pa.array(chance.normal(size=rows))
    missing = chance.random(rows) < NULL_SHARE
    columns[FLOATS[0]] = pa.array(chance.normal(size=rows), mask=missing)
    for name in INTEGERS:
        columns[name] = pa.array(chance.integers(0, 1_000_000, rows))
    columns["flag"] = pa.array(chance.random(rows) < 0.5)
    labels = pa.array(LABELS).take(pa.array(chance.integers(0, len(LABELS), rows)))
    return pa.table(columns | {"label": labels})


def _timestamp() -> Any:
    import pyarrow as pa

    return pa.timestamp("us", tz="UTC")


def save(table: pa.Table, path: Path) -> None:
    """Write a table so that it is read back at the speed of memory."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read(path: Path) -> pa.Table:
    """Read a table into memory of its own, as a user would hold it: one chunk a column."""
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all().combine_chunks()


def features_schema(table: pa.Table) -> dict[str, str]:
    """Return the feature types of a table by name, as ``create_feature_group`` takes them."""
    import pyarrow as pa

    words = {pa.int64(): "int64", pa.float64(): "float64", pa.bool_(): "bool"}
    words |= {pa.string(): "string", _timestamp(): "timestamp"}
    return {field.name: words[field.type] for field in table.schema}


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return what answers are compared by: entity and features, without the event time.

    Not every peer gives the event time back.
    """
    return list(table.drop_columns([EVENT_TIME]).to_pylist())
