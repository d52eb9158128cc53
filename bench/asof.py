"""How each peer does a point-in-time join, as one who knows it would write it.

==============  ===================================================================================
peer            what it does
==============  ===================================================================================
DuckDB          ``ASOF LEFT JOIN``, one for each history; gives rows in an order of its own
Polars          sorts both sides by time, then ``join_asof(by=key)``
pandas          the same with ``merge_asof``
ClickHouse      ``ASOF LEFT JOIN`` in process, through chdb, over Parquet files
Feast           ``get_historical_features`` over Parquet files; names its own columns
==============  ===================================================================================

Each gets histories as paths of Parquet files or as Arrow tables, and labels as it likes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets import ENTITY, EVENT_TIME
from bench.histories import ROW, History

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.harness import Options

Source = Any
"""An Arrow table, or a list of paths of Parquet files."""


def needs(package: str) -> Any:
    """Return the need of a Python package."""

    def need(_options: Options) -> str | None:
        return None if find_spec(package) else f"needs the Python package {package}"

    return need


def features_of(histories: Iterable[History]) -> list[str]:
    """Return the names of all features, in order."""
    return [name for history in histories for name in history.names]


# ── DuckDB ───────────────────────────────────────────────────────────────────────────────────


def duckdb(
    labels: pa.Table, histories: Sequence[History], sources: Mapping[str, Source]
) -> pa.Table:
    """Join with all of DuckDB's threads."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("labels", labels)
        for name, source in sources.items():
            if not isinstance(source, list):
                connection.register(name, source)
        query = _asof_sql(histories, "labels", {n: _duckdb_name(n, s) for n, s in sources.items()})
        return connection.sql(query).to_arrow_table()


def _duckdb_name(name: str, source: Source) -> str:
    return f"read_parquet({[str(p) for p in source]})" if isinstance(source, list) else name


def _asof_sql(histories: Sequence[History], labels: str, names: Mapping[str, str]) -> str:
    chosen = ", ".join(f"{h.name}.{feature}" for h in histories for feature in h.names)
    joins = " ".join(
        f"ASOF LEFT JOIN {names[h.name]} AS {h.name} ON l.{h.on} = {h.name}.{ENTITY} "
        f"AND l.{EVENT_TIME} >= {h.name}.{EVENT_TIME}"
        for h in histories
    )
    return f"SELECT l.{ROW} AS {ROW}, {chosen} FROM {labels} AS l {joins}"


# ── data frames ──────────────────────────────────────────────────────────────────────────────


def polars(
    labels: pa.Table, histories: Sequence[History], sources: Mapping[str, Source]
) -> pa.Table:
    """Join data frames; the labels stay sorted by time."""
    import polars as pl

    found: Any = pl.from_arrow(labels).sort(EVENT_TIME)  # type: ignore[union-attr, call-arg]
    for history in histories:
        source = sources[history.name]
        frame: Any = pl.read_parquet(source) if isinstance(source, list) else pl.from_arrow(source)
        found = found.join_asof(
            frame.rename({ENTITY: history.on}).sort(EVENT_TIME),
            on=EVENT_TIME,
            by=history.on,
            check_sortedness=False,
        )
    return found.select(ROW, *features_of(histories)).to_arrow()


def pandas(
    labels: pa.Table, histories: Sequence[History], sources: Mapping[str, Source]
) -> pa.Table:
    """Join data frames; the labels stay sorted by time."""
    import pandas as pd
    import pyarrow as pa

    found = labels.to_pandas().sort_values(EVENT_TIME)
    for history in histories:
        source = sources[history.name]
        frame = pd.read_parquet(source[0]) if isinstance(source, list) else source.to_pandas()
        frame = frame.rename(columns={ENTITY: history.on}).sort_values(EVENT_TIME)
        found = pd.merge_asof(found, frame, on=EVENT_TIME, by=history.on)
    return pa.Table.from_pandas(found[[ROW, *features_of(histories)]], preserve_index=False)


# ── ClickHouse ───────────────────────────────────────────────────────────────────────────────


def chdb(
    labels: Path, histories: Sequence[History], sources: Mapping[str, Sequence[Path]]
) -> pa.Table:
    """Join Parquet files, labels included."""
    import chdb
    import pyarrow as pa

    names = {name: f"file('{paths[0]}', Parquet)" for name, paths in sources.items()}
    query = _asof_sql(histories, f"file('{labels}', Parquet)", names)
    query += " SETTINGS join_use_nulls = 1"
    return pa.table(chdb.query(query, "ArrowTable"))


# ── Feast ────────────────────────────────────────────────────────────────────────────────────


def feast(
    repository: Any, labels: Any, histories: Sequence[History], sources: Mapping[str, Source]
) -> Any:
    """Register the files with an open repository, and join; returns its data frame."""
    from datetime import timedelta

    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64

    text = histories[0].text
    kind = ValueType.STRING if text else ValueType.INT64
    entity = Entity(name=ENTITY, join_keys=[ENTITY], value_type=kind)
    views = [
        FeatureView(
            name=history.name,
            entities=[entity],
            ttl=timedelta(0),
            schema=[Field(name=name, dtype=Float64) for name in history.names],
            source=FileSource(path=str(sources[history.name][0]), timestamp_field=EVENT_TIME),
            online=False,
        )
        for history in histories
    ]
    repository.apply([entity, *views])
    wanted = [f"{history.name}:{name}" for history in histories for name in history.names]
    asked = labels.rename(columns={EVENT_TIME: "event_timestamp"})
    return repository.get_historical_features(entity_df=asked, features=wanted).to_df()
