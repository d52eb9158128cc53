"""A process that runs one query of a stranger at a time, and can be killed at any moment.

::

    python -m featurestore_server.sql_process        by sql_pool, which talks to it over two pipes

    ◄── {"query", "params", "lent"}           what is asked
    ──► {"tables": [[schema, table], …]}      what it reads; nothing is bound yet
    ◄── {"root", "groups": …}, tables         those groups at one moment, if the caller may;
                                              else {"refused"}, and that is all
    ──► {"rows"}, Arrow pieces, an empty one  the answer
    ──► {"error", "detail"}                   or why not, at either point

Walls, each enough for most of what the one before may let through:

1. the parse tree is an allow-list: one SELECT, over groups, with no table function that reads;
2. DuckDB is locked onto the files of the snapshot and onto an amount of memory;
3. this process may not map more than that, write to any file, or start another; where the system
   lets it, it has no network either;
4. it is killed when its time is up.

It does not open the store: it is handed names of files, and tables.  What comes back from it is
data, never code.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from featurestore import wire
from featurestore.errors import (
    FeatureStoreError,
    InvalidQuery,
    TooLarge,
    UnknownFeatureGroup,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

_LENGTH = struct.Struct("<Q")
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_BATCH_ROWS = 16_384
#: Scalar functions that tell of the machine and not of data.
_TELLING = frozenset(
    {"current_setting", "getenv", "getvariable", "write_log", "parse_duckdb_log_message"}
)


# ── frames ───────────────────────────────────────────────────────────────────────────────────


def send(pipe: BinaryIO, data: bytes) -> None:
    """Write a frame."""
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)


def receive(pipe: BinaryIO, limit: int) -> bytes:
    """Read a frame.

    Raises
    ------
    EOFError
        The other side is gone, or sends more than the limit.
    """
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = pipe.read(length) if length <= limit else b""
    if len(data) < length:
        raise EOFError
    return data


# ── walls ────────────────────────────────────────────────────────────────────────────────────


def confine(memory_bytes: int) -> None:
    """Give up what a query does not need."""
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = mapped * resource.getpagesize() + memory_bytes
    limits = {resource.RLIMIT_AS: most, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    limits[resource.RLIMIT_NOFILE] = 4096
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def leave_network() -> bool:
    """Go where there is no network and no rights over others' files, if the system lets us.

    Only a process of one thread may, so this is the first thing done.
    """
    try:
        return bool(ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)
    except (OSError, AttributeError):
        return False


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


class _Refused(Exception):
    """The caller may not read what the query names, and has been told so."""


# ── one query ────────────────────────────────────────────────────────────────────────────────


def serve(source: BinaryIO, sink: BinaryIO, memory_bytes: int) -> None:
    """Run queries until the pipe is closed."""
    while True:
        try:
            asked = json.loads(receive(source, 1 << 30))
        except EOFError:
            return
        try:
            _answer(asked, source, sink, memory_bytes)
        except _Refused:
            continue
        except FeatureStoreError as error:
            _tell(sink, type(error).__name__, str(error))
        except MemoryError:
            _tell(sink, "InvalidQuery", f"The query needs more than {memory_bytes:,} bytes.")
        sink.flush()


def _tell(sink: BinaryIO, kind: str, detail: str) -> None:
    send(sink, json.dumps({"error": kind, "detail": detail}).encode())


def _answer(asked: dict[str, Any], source: BinaryIO, sink: BinaryIO, memory_bytes: int) -> None:
    from featurestore.engine.sql.query import run_query
    from featurestore.engine.sql.session import session
    from featurestore.engine.sql.tables import tables_named

    with session() as duck:
        tree = duck.parse(asked["query"])
        require_silent(tree)
        named = tables_named(tree)
    send(sink, json.dumps({"tables": sorted(named, key=str)}).encode())
    sink.flush()
    head = json.loads(receive(source, 1 << 30))
    if "refused" in head:
        raise _Refused
    sources, lent = _read_sources(head, source)

    @contextmanager
    def provide(names: frozenset[str], _latest: frozenset[str]) -> Iterator[Mapping[str, Any]]:
        for name in names:
            if name not in sources:
                raise UnknownFeatureGroup(f'There is no feature group "{name}".')
        yield {name: sources[name] for name in names}

    table = run_query(
        asked["query"],
        wire.from_exact(asked["params"]),
        provide,
        lent,
        confined_to_bytes=memory_bytes // 2,
    )
    if table.num_rows > asked["rows"] or table.nbytes > asked["bytes"]:
        raise TooLarge(
            f"The answer has {table.num_rows:,} rows and {table.nbytes:,} bytes; the limits are "
            f"{asked['rows']:,} and {asked['bytes']:,}. Ask for less, or in parts."
        )
    _send_table(sink, table)


def _send_table(sink: BinaryIO, table: pa.Table) -> None:
    from featurestore_server.answers import arrow_stream

    send(sink, json.dumps({"rows": table.num_rows}).encode())
    for piece in arrow_stream({"": table}):
        send(sink, piece)
    send(sink, b"")


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
            files=[FileEntry.of(b"", bytes.fromhex(row)) for row in facts["files"]],
            key_hash=nothing,  # the tail comes decoded
            _tail=read_table(receive(source, 1 << 40)),
        )
        latest = read_table(receive(source, 1 << 40)) if facts["latest"] else None
        sources[name] = Source(snapshot, latest)
    lent = {name: read_table(receive(source, 1 << 40)) for name in head["lent"]}
    return sources, lent


def read_table(data: bytes) -> pa.Table:
    """Return a table from an Arrow stream."""
    import pyarrow as pa

    return pa.ipc.open_stream(data).read_all()


def main() -> None:
    """Be the process."""
    leave_network()
    # Everything that is needed is loaded before the walls are up.
    import duckdb  # noqa: F401
    import pyarrow as pa

    import featurestore.engine.sql.query  # noqa: F401
    import featurestore_server.answers  # noqa: F401

    pa.set_cpu_count(1)
    tempfile.gettempdir()  # which it finds by writing to it
    memory_bytes = int(sys.argv[1])
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not print into the frames
    confine(memory_bytes)
    send(sink, b"ready")
    sink.flush()
    try:
        serve(sys.stdin.buffer, sink, memory_bytes)
    except BrokenPipeError:
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
