"""DuckDB for one call: a database of its own, nothing left in it afterwards.

::

    with session() as duck:                 a database out of the pool
        duck.parse(query)                   its statement as a tree; nothing is run
        duck.lend("labels", table)          an Arrow table under a name
        duck.create_view("weather", …)
        duck.run(query, params)             the answer as an Arrow table
                                            views dropped, tables let go, database back

A database of its own costs 25 ms to make, so a few are kept.  Calls share none: the views of one
are never seen by another, and a call that fails in a way no user can cause takes its database with
it.  Nothing here is used across a fork.

DuckDB never looks beyond what it is handed: no extension is fetched, no variable of the caller is
taken for a table, and nothing is spilled into the folder the user happens to be in.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from featurestore.errors import CorruptStore, FeatureStoreError, InvalidInput, InvalidQuery

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

THREADS = 2
IDLE_CONNECTIONS_MAX = 4


def quoted(name: str) -> str:
    """Return a name as SQL takes it literally.

    Examples
    --------
    >>> quoted('a"b')
    '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def quoted_text(value: str) -> str:
    """Return a text as an SQL literal.

    Examples
    --------
    >>> quoted_text("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"


@contextlib.contextmanager
def session(*, kept: bool = True) -> Iterator[Session]:
    """Lend a DuckDB database for one call; one that is not kept is closed after it."""
    with _pool.borrow(kept=kept) as connection, contextlib.ExitStack() as undo:
        yield Session(connection, undo)


class Session:
    """What one call does with DuckDB; made by :func:`session`."""

    def __init__(self, connection: Any, undo: contextlib.ExitStack) -> None:
        self._connection = connection
        self._undo = undo
        self._lent: set[str] = set()

    def parse(self, query: str) -> dict[str, Any]:
        """Return the one statement of a query as DuckDB's own tree.

        Raises
        ------
        InvalidQuery
            It does not parse, or is not exactly one SELECT.
        """
        if not isinstance(query, str):
            raise InvalidQuery(f"A query is text, not {type(query).__name__}.")
        try:
            (answer,) = self._connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
            parsed = json.loads(answer[0])
        except duckdb.Error as error:
            raise _translated(error) from error
        except RecursionError as error:
            raise InvalidQuery(
                "The query is nested too deeply. Break a long chain of operators into subqueries, "
                "or write list_sum([…]) for a sum of many terms."
            ) from error
        if parsed["error"]:
            if parsed["error_type"] == "not implemented":
                raise InvalidQuery(_only_reading(query))
            raise InvalidQuery(_sentence(parsed["error_message"]))
        statements = parsed["statements"]
        if len(statements) != 1:
            raise InvalidQuery(
                f"The query holds {len(statements)} statements; give exactly one SELECT."
            )
        tree: dict[str, Any] = statements[0]
        return tree

    def lend(self, name: str, table: pa.Table) -> str:
        """Let DuckDB read an Arrow table under a name until the end; returns the name quoted."""
        if name not in self._lent:
            self._connection.register(name, table)
            self._undo.callback(self._connection.unregister, name)
            self._lent.add(name)
        return quoted(name)

    def create_view(self, name: str, select: str) -> None:
        """Create a view until the end; ``name`` is quoted, with a schema where it has one."""
        try:
            self._connection.execute(f"CREATE VIEW {name} AS {select}")
        except duckdb.Error as error:
            raise _unreadable(error) from error
        self._undo.callback(self._connection.execute, f"DROP VIEW {name}")

    def confine(self, paths: Iterable[str], memory_bytes: int) -> None:
        """Let this database, one that is not kept, read these files and nothing else.

        The parse tree has shown by now that the query only reads groups.  This is the second
        wall: no other file, no network, no extension, no setting, whatever the query turns out
        to do.
        """
        listed = ", ".join(quoted_text(path) for path in paths)
        self._connection.execute(f"SET memory_limit = '{memory_bytes}B'")
        self._connection.execute("SET temp_directory = ''")  # nothing is spilled
        self._connection.execute(f"SET allowed_paths = [{listed}]")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    def run(self, query: str, params: list[Any] | dict[str, Any] | None) -> pa.Table:
        """Run a query and return all of its answer.

        Raises
        ------
        InvalidQuery
            It does not bind, or fails on some value.
        CorruptStore
            A file is missing or damaged.
        """
        try:
            # Not execute(): its Arrow export copies every row once more.
            table = self._connection.sql(query, params=params).to_arrow_table()
        except duckdb.Error as error:
            raise _translated(error) from error
        except RuntimeError as error:  # DuckDB's form of Ctrl-C
            raise KeyboardInterrupt from error
        return table.cast(_plain_schema(table.schema))

    def stream(
        self, query: str, params: list[Any] | dict[str, Any] | None, rows: int
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Run a query; returns the schema of its answer, and batches as they are computed.

        Raises
        ------
        InvalidQuery, CorruptStore
            As :meth:`run`, here or while batches are taken.
        """
        try:
            reader = self._connection.sql(query, params=params).to_arrow_reader(rows)
        except duckdb.Error as error:
            raise _translated(error) from error
        schema = _plain_schema(reader.schema)

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                for batch in reader:
                    yield batch.cast(schema)
            except OSError as error:  # Arrow passes on what DuckDB said, not what it raised
                raise _told(str(error)) from error

        return schema, batches()


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(_plain(field.type)) for field in schema])


def _plain(type_: pa.DataType) -> pa.DataType:
    """Return a type with the usual name for the child of a list (DuckDB calls it ``l``)."""
    if pa.types.is_list(type_):
        return pa.list_(_plain(type_.value_type))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_plain(type_.value_type), type_.list_size)
    return type_


# ── the pool ─────────────────────────────────────────────────────────────────────────────────


class _ConnectionPool:
    """In-memory DuckDB databases, each used by one call at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._abandoned: list[Any] = []
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def borrow(self, *, kept: bool) -> Iterator[Any]:
        """Lend a connection; it comes back unless something failed that no user can cause."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connect()
        try:
            yield connection
        except InvalidInput:
            self._give_back(connection, kept=kept)
            raise
        except BaseException:
            connection.close()
            raise
        self._give_back(connection, kept=kept)

    def abandon(self) -> None:
        """In a forked child: never touch, nor destroy, what the parent's threads run on."""
        self._lock = threading.Lock()
        self._abandoned += self._idle
        self._idle = []

    def _give_back(self, connection: Any, *, kept: bool) -> None:
        with self._lock:
            if kept and len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> Any:
        # In memory, DuckDB would spill into `.tmp` of whatever folder the user is in.
        spill = f"featurestore-sql-{os.getpid()}-{next(self._numbers)}"
        connection = duckdb.connect(
            ":memory:",
            config={
                "threads": THREADS,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
                "temp_directory": os.path.join(tempfile.gettempdir(), spill),  # noqa: PTH118
            },
        )
        # Footers are read again by every query, 60 us a file: DuckDB's cache of them never forgets
        # a file that compaction has put away, and a process that lives long would grow by each.
        connection.execute("SET TimeZone = 'UTC'")
        # Only a SET turns it off; it would be drawn into the stdout of a script after two seconds.
        connection.execute("SET enable_progress_bar = false")
        connection.execute("CREATE SCHEMA history; CREATE SCHEMA latest")
        return connection


_pool = _ConnectionPool()
os.register_at_fork(after_in_child=_pool.abandon)


# ── errors ───────────────────────────────────────────────────────────────────────────────────

#: What a query can do wrong.  Anything else DuckDB says is about files or about DuckDB.
_QUERY_ERRORS = (
    duckdb.ProgrammingError,
    duckdb.DataError,
    duckdb.NotSupportedError,
    duckdb.OutOfMemoryException,
    duckdb.PermissionException,
)


def _translated(error: duckdb.Error) -> FeatureStoreError:
    text = str(error)
    if isinstance(error, (duckdb.InternalException, duckdb.FatalException)):
        return FeatureStoreError(f"DuckDB failed inside: {_sentence(text)}")
    if isinstance(error, _QUERY_ERRORS) and ".parquet" not in text:
        return InvalidQuery(_sentence(text))
    return _unreadable(error)


def _told(text: str) -> FeatureStoreError:
    """Return the error that a message of DuckDB's stands for, of which the kind is its head."""
    if text.startswith(("INTERNAL Error", "FATAL Error")):
        return FeatureStoreError(f"DuckDB failed inside: {_sentence(text)}")
    if text.startswith("IO Error") or ".parquet" in text:
        return _unreadable(text)
    return InvalidQuery(_sentence(text))


def _unreadable(error: duckdb.Error | str) -> CorruptStore:
    return CorruptStore(
        f"A history file cannot be read: {_sentence(str(error))} Run `featurestore verify`."
    )


def _sentence(text: str) -> str:
    r"""Return DuckDB's message without its kind and without the drawing of the place.

    Examples
    --------
    >>> _sentence('Parser Error: syntax error at or near "selec"\n\nLINE 1: selec 1\n   ^')
    'syntax error at or near "selec".'
    """
    text = re.sub(r"^[A-Za-z ]+ Error: ", "", text)
    text = " ".join(text.split("\nLINE ")[0].split())
    return text if text.endswith((".", "!", "?")) else text + "."


def _only_reading(query: str) -> str:
    if re.match(r"\s*\(?\s*pivot\b", query, re.IGNORECASE):
        return "PIVOT needs its values here: PIVOT t ON column IN ('a', 'b') USING sum(x)."
    return (
        "Only a SELECT can be run here. Records change through put_record, ingest and "
        "delete_record."
    )
