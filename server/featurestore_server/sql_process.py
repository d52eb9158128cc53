"""One query of a stranger, in a process made for it (:mod:`featurestore_server.confined`).

::

    ◄── {"query", "params"}                   what is asked
    ──► {"tables": [[schema, table], …]}      what it reads; nothing is bound yet
    ◄── {"root", "groups": …}, tables         those groups at one moment, if the caller may;
                                              else nothing more, and the process ends
    ──► pieces of an Arrow stream, the end    the answer, as it is computed
    ──► an error                              or why not, at any point

Walls, each enough for most of what the one before may let through:

1. the parse tree is an allow-list: one SELECT, over groups, with no table function that reads;
2. DuckDB is locked onto the files of the snapshot and onto an amount of memory;
3. the process may not map more than that, or write to any file; where the system lets it, it has
   no network either;
4. it is killed when its time is up.

It does not open the store: it is handed names of files, and tables.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from featurestore import wire
from featurestore.errors import InvalidQuery, TooLarge, UnknownFeatureGroup
from featurestore_server.confined import END, receive, send, tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

#: Loaded before there is any query.
LOADS = ("featurestore.engine.sql.query", "featurestore_server.answers")
#: What a query is refused with that needs too much.
REFUSED = InvalidQuery
_BATCH_ROWS = 16_384
#: Scalar functions that tell of the machine and not of data.
_TELLING = frozenset(
    {"current_setting", "getenv", "getvariable", "write_log", "parse_duckdb_log_message"}
)


def do(source: BinaryIO, sink: BinaryIO, memory_bytes: int) -> None:
    """Run the one query."""
    import pyarrow as pa

    from featurestore.engine.sql.query import stream_query
    from featurestore.engine.sql.session import session
    from featurestore.engine.sql.tables import tables_named
    from featurestore_server.answers import ArrowPieces

    pa.set_cpu_count(1)
    asked = json.loads(receive(source))
    with session() as duck:
        tree = duck.parse(asked["query"])
        require_silent(tree)
        named = tables_named(tree)
    tell(sink, {"tables": sorted(named, key=str)})
    try:
        head = json.loads(receive(source))
    except EOFError:
        return  # the caller may not, and has been told so
    sources, lent = _read_sources(head, source)

    @contextmanager
    def provide(names: frozenset[str], _latest: frozenset[str]) -> Iterator[Mapping[str, Any]]:
        for name in names:
            if name not in sources:
                raise UnknownFeatureGroup(f'There is no feature group "{name}".')
        yield {name: sources[name] for name in names}

    answer = stream_query(
        asked["query"],
        wire.from_exact(asked["params"]),
        provide,
        lent,
        batch_rows=_BATCH_ROWS,
        confined_to_bytes=memory_bytes // 2,
    )
    pieces = ArrowPieces(next(answer))
    rows = size = 0
    for batch in answer:
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows > asked["rows"] or size > asked["bytes"]:
            raise TooLarge(
                f"The answer has more than {asked['rows']:,} rows or {asked['bytes']:,} bytes, "
                "which are the limits. Ask for less, or in parts."
            )
        send(sink, pieces.of(batch))
    send(sink, pieces.end())
    send(sink, b"", END)


def require_silent(tree: Any) -> None:
    """Refuse functions that tell of the machine: settings, paths, the environment."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            if node.get("class") == "FUNCTION":
                name = _function_name(node)
                if name in _TELLING:
                    raise InvalidQuery(f"The function {name}() is refused here.")
            stack.extend(value for value in node.values() if isinstance(value, (dict, list)))


def _function_name(node: dict[str, Any]) -> str:
    name = node.get("function_name")
    if isinstance(name, str):
        return name.lower()
    path = node.get("qualified_name", {}).get("path") or [""]
    return str(path[-1]).lower()


def _read_sources(
    head: dict[str, Any], source: BinaryIO
) -> tuple[dict[str, Any], dict[str, pa.Table]]:
    """Return the groups handed over, and the tables lent."""
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.engine.sql.query import Source
    from featurestore.schema import FeatureGroup
    from featurestore.storage.manifest import FileEntry

    nothing: Any = None
    sources = {}
    for name, facts in head["groups"].items():
        group = FeatureGroup.from_json(facts["group"])
        snapshot = GroupSnapshot(
            root=Path(head["root"]),
            group=group,
            seq=facts["seq"],
            cut=facts["cut"],
            state=nothing,  # the writer's, which a reader never asks
            files=[
                FileEntry(**entry | {"slices": tuple(map(tuple, entry["slices"]))})
                for entry in facts["files"]
            ],
            key_hash=nothing,  # the tail comes decoded
            _tail=_read_table(source),
        )
        sources[name] = Source(snapshot, _read_table(source) if facts["latest"] else None)
    return sources, {name: _read_table(source) for name in head["lent"]}


def _read_table(source: BinaryIO) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_stream(receive(source)).read_all()
