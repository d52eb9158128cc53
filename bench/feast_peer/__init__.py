"""Feast, run in a virtual environment of its own: ``python -m bench NAME --feast-venv DIR``.

A repository has one feature view ``online`` of 20 features and, for `get_features`, views ``v0``
to ``v4``; entities and values are those of :mod:`bench.datasets`.  Registry and configuration are
the local ones with the registry kept in memory, which is the fastest there is.  Responses are left
as Feast gives them: turning one into a dict or a table costs it half as much again.

Feast stores fewer rows than the store beside it, so its figures are rates; that is to its advantage
where the rows have to be found, and of no account where they are written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench import datasets, peers

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ONLINE_STORES = ("sqlite", "redis")
HISTORY = "history"


# ── repositories ─────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def repository(folder: Path, kind: str, *, keep: bool = False) -> Iterator[Any]:
    """Open a repository, with its Redis server if it has one; its records are kept if asked for."""
    from feast import FeatureStore, RepoConfig

    with contextlib.ExitStack() as stack:
        online: dict[str, Any] = {"type": "sqlite", "path": str(folder / "online.db")}
        if kind == "redis":
            server = stack.enter_context(peers.Redis(folder))
            online = {"type": "redis", "connection_string": f"127.0.0.1:{server.port}"}
        config = RepoConfig(
            project="bench",
            provider="local",
            registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
            online_store=online,
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        yield store
        if kind == "redis" and keep:
            server.client.save()


def register(store: Any, folder: Path, name: str, table: Any) -> None:
    """Register a feature view for a table, its source an empty Parquet file like it."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Bool, Float64, Int64, String

    words = {pa.float64(): Float64, pa.int64(): Int64, pa.bool_(): Bool, pa.string(): String}
    source = folder / f"{name}.parquet"
    pq.write_table(table.slice(0, 0), source)
    key = datasets.ENTITY
    entity = Entity(name=key, join_keys=[key], value_type=ValueType.INT64)
    features = [f for f in table.schema if f.name not in (key, datasets.EVENT_TIME)]
    view = FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),
        schema=[Field(name=f.name, dtype=words[f.type]) for f in features],
        source=FileSource(path=str(source), timestamp_field=datasets.EVENT_TIME),
    )
    store.apply([entity, view])


def frame(table: Any) -> Any:
    """Return a table as Feast takes it."""
    return table.to_pandas()


def require_rows(folder: Path, name: str, rows: int) -> None:
    """Refuse a source that does not hold so many rows."""
    import pyarrow.parquet as pq

    found = pq.read_metadata(folder / f"{name}.parquet").num_rows
    assert found == rows, f"{found} rows offline, {rows} written"


# ── reading ──────────────────────────────────────────────────────────────────────────────────


def references(view: str, features: Sequence[str]) -> list[str]:
    """Name features as Feast does."""
    return [f"{view}:{feature}" for feature in features]


def ask(store: Any, features: Sequence[str], entities: Sequence[int]) -> Any:
    """Look entities up; the answer is Feast's response, not converted."""
    rows = [{datasets.ENTITY: entity} for entity in entities]
    return store.get_online_features(features=list(features), entity_rows=rows)


def rows(response: Any) -> list[dict[str, Any]]:
    """Return a response as the rows answers are compared by."""
    columns = response.to_dict()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
