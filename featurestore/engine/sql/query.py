"""SQL over feature groups: DuckDB reads history files and journal tail of one moment.

::

    SELECT … FROM weather JOIN history.planes USING (tailnum)
       │
       ▼
    tables        which groups does it name, and does it only read?
       │
       ▼
    snapshot      all of them at one moment: files pinned, tail decoded, no transaction held
       │
       ▼
    views         main.weather, history.planes          made for this call
       │
       ▼
    session       DuckDB ──► pyarrow.Table              views dropped, nothing kept

What a group looks like:

===================  ================================================================
``weather``          one row per key and event time: the newest version, no tombstones
``history.weather``  every accepted version, with ``write_seq``, ``write_time``,
                     ``expires_at``, ``is_deleted``; a tombstone's features are null
``latest.weather``   what the online store serves now
===================  ================================================================

An answer is as fresh as the last commit.  What a query may do is decided by its parse tree
(``tables``): it reads groups and the tables handed in as ``tables=``, nothing else.  That is no
wall against time and memory: one scalar call can take any amount of both, and a server that runs
strangers' SQL does so in a process it can kill.

DuckDB does not check the page checksums of Parquet; ``verify`` does.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from featurestore.engine.plan import Plan
from featurestore.engine.reader import latest_table, require_online
from featurestore.engine.sql.session import quoted, session
from featurestore.engine.sql.tables import tables_named
from featurestore.engine.sql.views import create_views
from featurestore.errors import InvalidInput, InvalidQuery
from featurestore.storage.parquet import require_sound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from featurestore.engine.database import Database
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.engine.sql.session import Session

    Params = Sequence[Any] | Mapping[str, Any]

    #: Given names of groups as a query spells them, and those whose online records it reads:
    #: their sources, all of one moment, by the same names.  Raises UnknownFeatureGroup.
    SnapshotProvider = Callable[
        [frozenset[str], frozenset[str]], AbstractContextManager[Mapping[str, "Source"]]
    ]


class Source(NamedTuple):
    """A group as a query sees it.

    Attributes
    ----------
    snapshot : GroupSnapshot
        Files, pinned, and journal tail of one moment.
    latest : pyarrow.Table or None
        The group's features as the online store serves them at that moment, if asked for.
    """

    snapshot: GroupSnapshot
    latest: pa.Table | None = None


def run_query(
    query: str,
    params: Params | None,
    snapshot_provider: SnapshotProvider,
    tables: Mapping[str, Any] | None = None,
    *,
    confined_to_bytes: int | None = None,
) -> pa.Table:
    """Run one SELECT over feature groups as they stand at one moment.

    Parameters
    ----------
    query : str
        DuckDB SQL; groups as ``weather``, ``history.weather``, ``latest.weather``.
    params : sequence or mapping, optional
        Values for ``?`` or for ``$name``.  Datetimes must be aware.
    snapshot_provider : callable
        Gives all groups named at one moment; see :func:`snapshots_of`.
    tables : mapping of str to table, optional
        Tables to read beside the groups: Arrow, pandas, Polars, or whatever exports an Arrow
        stream.  A table hides a group of its name, unless that is written ``main.<name>``.
    confined_to_bytes : int, optional
        For queries of strangers: lock the database onto the files of the snapshot and onto so
        much memory first.

    Returns
    -------
    pyarrow.Table
        Timestamps are ``timestamp[us, tz=UTC]``, vectors fixed-size lists.  A ``sum`` of integers
        is DuckDB's HUGEINT, hence ``decimal128(38, 0)``; write ``sum(x)::BIGINT`` against that.

    Raises
    ------
    InvalidQuery
        It does not parse or bind, fails on a value, or is not exactly one SELECT.
    UnknownFeatureGroup
        It names a table that is neither a group nor in ``tables``.
    CorruptStore
        A history file is missing or damaged.
    """
    values = _checked_params(params)
    with _ready([query], snapshot_provider, tables, confined_to_bytes) as duck:
        return duck.run(query, values)


def run_queries(
    queries: Sequence[str], params: Params | None, snapshot_provider: SnapshotProvider
) -> Iterator[pa.Table]:
    """Yield the answers of several SELECTs, each run when it is taken, all of one moment.

    So a wide group can be read a few columns at a time and be one table all the same.  Whoever
    lets an answer go before taking the next holds one at a time.
    """
    values = _checked_params(params)
    with _ready(queries, snapshot_provider, {}, None) as duck:
        for query in queries:
            yield duck.run(query, values)


def stream_query(
    query: str,
    params: Params | None,
    snapshot_provider: SnapshotProvider,
    tables: Mapping[str, Any] | None = None,
    *,
    batch_rows: int,
    confined_to_bytes: int | None = None,
) -> Iterator[Any]:
    """Yield the schema of the answer of :func:`run_query`, then its record batches.

    They are computed as they are taken; files stay pinned until the end.
    """
    values = _checked_params(params)
    with _ready([query], snapshot_provider, tables, confined_to_bytes) as duck:
        schema, batches = duck.stream(query, values, batch_rows)
        yield schema
        yield from batches


@contextlib.contextmanager
def _ready(
    queries: Sequence[str],
    snapshot_provider: SnapshotProvider,
    tables: Mapping[str, Any] | None,
    confined_to_bytes: int | None,
) -> Iterator[Session]:
    """Give a database in which the queries can be run: groups are views, their tables lent."""
    with session(kept=confined_to_bytes is None) as duck:
        named = {table for query in queries for table in tables_named(duck.parse(query))}
        named -= _lend_tables(duck, {} if tables is None else tables, named)
        groups = {table.lower(): table for _, table in named}  # one spelling for each
        latest = {groups[table.lower()] for schema, table in named if schema == "latest"}
        with snapshot_provider(frozenset(groups.values()), frozenset(latest)) as sources:
            for name, source in sources.items():
                schemas = {s or "main" for s, table in named if table.lower() == name.lower()}
                _create_views(duck, source, schemas)
            if confined_to_bytes is not None:
                paths = [
                    str(source.snapshot.root / entry.path)
                    for source in sources.values()
                    for entry in source.snapshot.files
                ]
                duck.confine(paths, confined_to_bytes)
            yield duck


def tables_of(query: str) -> set[tuple[str | None, str]]:
    """Return the tables a query reads as ``(schema or None, table)``, as it spells them.

    Nothing is bound or run.  Names that a ``WITH`` defines are not tables.

    Raises
    ------
    InvalidQuery
        The query is not exactly one SELECT, or would do more than read.

    Examples
    --------
    >>> tables_of("WITH w AS (FROM history.weather) SELECT * FROM w WHERE temp > 39")
    {('history', 'weather')}
    """
    with session() as duck:
        return tables_named(duck.parse(query))


def snapshots_of(database: Database, clock_us: int, *, seq: int | None = None) -> SnapshotProvider:
    """Return the provider of a database's groups, names in any case of letters.

    Parameters
    ----------
    database : Database
        Open.
    clock_us : int
        The clock that decides which online records have expired.
    seq : int, optional
        Look at history as it stood at this seq; by default as it is now.
    """

    @contextlib.contextmanager
    def provide(names: frozenset[str], latest: frozenset[str]) -> Iterator[dict[str, Source]]:
        # SQL does not tell cases of letters apart, and no two groups differ only in them.
        spelled = {group.lower(): group for group in database.catalog().groups}
        exact = {name: spelled.get(name.lower(), name) for name in names}
        with database.snapshot(
            set(exact.values()), seq=seq, with_latest={exact[name] for name in latest}
        ) as snapshots:
            sources = {}
            for name, group in exact.items():
                snapshot = snapshots[group]
                for entry in snapshot.files:
                    require_sound(snapshot.root, entry)
                served = _served(snapshot, clock_us) if name in latest else None
                sources[name] = Source(snapshot, served)
            yield sources

    return provide


def _served(snapshot: GroupSnapshot, clock_us: int) -> pa.Table:
    plan = Plan(snapshot.group, snapshot.key_hash)
    return latest_table(plan, snapshot.latest_keys, snapshot.latest_records, clock_us)


def _create_views(duck: Session, source: Source, schemas: set[str]) -> None:
    group = source.snapshot.group
    if "latest" in schemas:
        require_online(group)
        table = duck.lend(f"__{group.id}_latest", source.latest)
        duck.create_view(f"latest.{quoted(group.name)}", f"FROM {table}")
    if schemas != {"latest"}:
        source.snapshot.require_history()
        create_views(duck, source.snapshot, schemas)


# ── what the caller hands in ─────────────────────────────────────────────────────────────────


def _lend_tables(
    duck: Session, tables: Mapping[str, Any], named: set[tuple[str | None, str]]
) -> set[tuple[str | None, str]]:
    """Lend the tables that a query names; returns those names."""
    if not isinstance(tables, Mapping) or not all(isinstance(name, str) for name in tables):
        raise InvalidInput(f"tables is a dict of tables by name; got {tables!r:.100}.")
    given = {name.lower(): name for name in tables}
    lent = {table for table in named if table[0] is None and table[1].lower() in given}
    for _, name in lent:
        own = given[name.lower()]
        duck.lend(own, _as_arrow(own, tables[own]))
    return lent


def _as_arrow(name: str, table: Any) -> pa.Table:
    if isinstance(table, pa.Table):
        return table
    if hasattr(table, "__arrow_c_stream__") or isinstance(table, pa.RecordBatch):
        return pa.table(table)
    raise InvalidInput(
        f'tables["{name}"] is {type(table).__name__}; give an Arrow table, a pandas or Polars '
        "frame, or anything with __arrow_c_stream__."
    )


def _checked_params(params: Params | None) -> list[Any] | dict[str, Any] | None:
    if params is None:
        return None
    if isinstance(params, dict):
        return {name: _checked_param(value) for name, value in params.items()}
    if isinstance(params, (list, tuple)):
        return [_checked_param(value) for value in params]
    raise InvalidQuery(f"params is a list for ? or a dict for $name, not {type(params).__name__}.")


def _checked_param(value: Any) -> Any:
    """Return a value DuckDB takes; times follow the rule of every other door."""
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        raise InvalidQuery(
            f"The parameter {value!r} has no time zone. Make it aware: "
            "value.replace(tzinfo=datetime.UTC) if it is meant as UTC."
        )
    if type(value).__module__ == "numpy":
        if value.dtype.kind in "mM":
            raise InvalidQuery(
                f"The parameter {value!r} has no time zone. Give an aware datetime instead."
            )
        return value.tolist()
    return value
