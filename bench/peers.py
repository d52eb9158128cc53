"""The peers: whether they are here, how they are started, and what they are given.

======================  ===========================================================================
C                       ``clmdb.c``, compiled when first needed; works on a copy of the store's own
                        LMDB file, with the store's own keys and record bytes
py-lmdb                 the same file through the binding the store uses
SQLite                  a table of typed columns, WAL, memory-mapped, statements prepared
Redis                   a server of its own for each process, over loopback, hiredis if it is there;
                        values are the store's record bytes
Feast                   in its own virtual environment, see :mod:`bench.feast_peer`
Ray Data                in its own virtual environment, see :mod:`bench.ray_peer`
ClickHouse              in its own virtual environment, see :mod:`bench.chdb_peer`
======================  ===========================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bench import datasets

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.harness import Options, Run
    from featurestore.encoding.keys import KeyHash
    from featurestore.schema import FeatureGroup

C_SOURCE = Path(__file__).with_name("clmdb.c")
LATEST = "latest"
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")


# ── is it here? ──────────────────────────────────────────────────────────────────────────────


@cache
def _can_compile() -> bool:
    if shutil.which("gcc") is None:
        return False
    probe = ["gcc", "-fsyntax-only", "-include", "lmdb.h", "-x", "c", "-"]
    return subprocess.run(probe, input=b"", capture_output=True, check=False).returncode == 0


def c_compiler(_options: Options) -> str | None:
    """Need gcc and LMDB's header."""
    return None if _can_compile() else "needs gcc and liblmdb-dev"


def redis_server(_options: Options) -> str | None:
    """Need a Redis server and its Python client."""
    if shutil.which("redis-server") is None:
        return "needs redis-server"
    return None if find_spec("redis") else "needs the Python package redis"


def deltalake(_options: Options) -> str | None:
    """Need deltalake."""
    return None if find_spec("deltalake") else "needs the Python package deltalake"


def feast(options: Options) -> str | None:
    """Need an environment for Feast."""
    return "needs --feast-venv" if options.feast_venv is None else None


def ray(options: Options) -> str | None:
    """Need an environment for Ray."""
    return "needs --ray-venv" if options.ray_venv is None else None


def chdb(options: Options) -> str | None:
    """Need an environment for ClickHouse."""
    return "needs --chdb-venv" if options.chdb_venv is None else None


def feast_redis(options: Options) -> str | None:
    """Need an environment for Feast and a Redis server; its client comes with Feast."""
    if shutil.which("redis-server") is None:
        return "needs redis-server"
    return feast(options)


def make_environment(folder: Path, package: str, requirements: Path) -> None:
    """Make a peer's virtual environment, if there is none yet."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # It is not imported: that takes seconds.
    probe = f"from importlib.metadata import version; version({package!r})"
    if subprocess.run([str(python), "-c", probe], capture_output=True, check=False).returncode:
        install = [str(python), "-m", "pip", "install", "-q", "-r", str(requirements)]
        subprocess.run(install, check=True)


# ── C ────────────────────────────────────────────────────────────────────────────────────────


def c_program(scratch: Path) -> Path:
    """Return the C peer, compiled unless this very source has been before."""
    digest = hashlib.blake2b(C_SOURCE.read_bytes(), digest_size=4).hexdigest()
    program = scratch / f"clmdb-{digest}"
    if not program.exists():
        scratch.mkdir(parents=True, exist_ok=True)
        making = program.with_name(f"{program.name}.{os.getpid()}")
        command = ["gcc", "-O2", "-o", str(making), str(C_SOURCE), "-llmdb"]
        subprocess.run(command, check=True)
        making.rename(program)
    return program


def run_c(run: Run, *arguments: object) -> None:
    """Run the C peer and take its figures over."""
    program = c_program(run.options.scratch)
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    run.note(**json.loads(done.stdout))


def write_keys(path: Path, keys: Sequence[bytes]) -> None:
    """Write keys as the C peer reads them."""
    parts = [part for key in keys for part in (_U16.pack(len(key)), key)]
    path.write_bytes(_U32.pack(len(keys)) + b"".join(parts))


def write_puts(path: Path, rows: Sequence[tuple[bytes, bytes]]) -> None:
    """Write keys and values as the C peer reads them."""
    with path.open("wb") as file:
        file.write(_U32.pack(len(rows)))
        for key, value in rows:
            file.write(_U16.pack(len(key)) + key + _U32.pack(len(value)) + value)


def read_puts(path: Path) -> list[tuple[bytes, bytes]]:
    """Read back what :func:`write_puts` has written."""
    data, at, rows = path.read_bytes(), 4, []
    while at < len(data):
        key_end = at + 2 + _U16.unpack_from(data, at)[0]
        value_end = key_end + 4 + _U32.unpack_from(data, key_end)[0]
        rows.append((data[at + 2 : key_end], data[key_end + 4 : value_end]))
        at = value_end
    return rows


def read_values(path: Path) -> list[bytes]:
    """Read the values the C peer has written."""
    data, at, values = path.read_bytes(), 0, []
    while at < len(data):
        end = at + 4 + _U32.unpack_from(data, at)[0]
        values.append(data[at + 4 : end])
        at = end
    return values


# ── the store's own bytes, for C, py-lmdb and Redis ──────────────────────────────────────────


class Bytes:
    """The keys and records of one group, as the engine writes them."""

    def __init__(self, store: Path, name: str) -> None:
        from featurestore.engine.database import open_database

        database = open_database(store, read_only=True)
        self.group: FeatureGroup = database.catalog().group(name)
        self.key_hash: KeyHash = database.key_hash
        database.close()
        self.key_dtypes = [feature.dtype for feature in self.group.key_features]

    def key(self, entity: int) -> bytes:
        """Return the LMDB key of an entity."""
        from featurestore.encoding.keys import encode_key, lmdb_key

        key = encode_key([entity], self.key_dtypes)
        return lmdb_key(self.group.id, self.key_hash(key), key)

    def puts(self, table: pa.Table) -> list[tuple[bytes, bytes]]:
        """Return the LMDB key and record of each row."""
        import numpy as np

        from featurestore.encoding.columns import encode_records
        from featurestore.encoding.keys import encode_key
        from featurestore.encoding.values import stamp
        from featurestore.event_time import NO_EXPIRY
        from featurestore.record import STORE_OFFLINE, STORE_ONLINE
        from featurestore.storage.parquet import as_int64

        event_us = as_int64(table.column(datasets.EVENT_TIME))
        records = encode_records(
            self.group,
            {f.name: table.column(f.name).combine_chunks() for f in self.group.value_features},
            event_time_us=event_us,
            expires_at_us=np.full(len(event_us), NO_EXPIRY, np.int64),
            stores=STORE_ONLINE | STORE_OFFLINE,
        ).split()
        entities = table.column(datasets.ENTITY).to_pylist()
        keys = [encode_key([entity], self.key_dtypes) for entity in entities]
        return [
            (self.key(entity), stamp(record, key, seq, int(us)))
            for seq, (entity, key, record, us) in enumerate(
                zip(entities, keys, records, event_us, strict=True), start=1
            )
        ]

    def rows(self, entities: Iterable[int], records: Iterable[bytes]) -> list[dict[str, Any]]:
        """Decode records into the rows that answers are compared by."""
        from featurestore.encoding.values import RecordCodec

        decode = RecordCodec(self.group).decode
        return [
            {datasets.ENTITY: entity, **decode(record)}
            for entity, record in zip(entities, records, strict=True)
        ]


@contextlib.contextmanager
def lmdb_latest(folder: Path, *, sync: bool = True) -> Iterator[tuple[Any, Any]]:
    """Open an LMDB environment with the store's flags; gives it and the latest records."""
    import lmdb

    env = lmdb.open(
        str(folder), map_size=1 << 40, max_dbs=16, max_readers=1024, sync=sync, lib_version=0
    )
    try:
        yield env, env.open_db(LATEST.encode())
    finally:
        env.close()


# ── SQLite ───────────────────────────────────────────────────────────────────────────────────


def sqlite(path: Path, *, synchronous: str = "FULL") -> sqlite3.Connection:
    """Open SQLite as one who wants it fast would."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA mmap_size = {1 << 31}")
    return connection


def sqlite_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    """Return rows as SQLite stores them: the time in microseconds."""
    at = table.column_names.index(datasets.EVENT_TIME)
    table = table.set_column(at, datasets.EVENT_TIME, table.column(at).cast("int64"))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def sqlite_make(path: Path, table: pa.Table) -> None:
    """Write a table with its entity as the primary key."""
    words = {"int64": "INTEGER", "double": "REAL", "bool": "INTEGER", "string": "TEXT"}
    columns = [
        f"{field.name} {words.get(str(field.type), 'INTEGER')}"
        + (" PRIMARY KEY" if field.name == datasets.ENTITY else "")
        for field in table.schema
    ]
    connection = sqlite(path, synchronous="OFF")
    connection.execute(f"CREATE TABLE records ({', '.join(columns)})")
    connection.execute("BEGIN")
    connection.executemany(sqlite_insert(table), sqlite_rows(table))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def sqlite_insert(table: pa.Table) -> str:
    """Return the statement that puts a row, new or not."""
    return f"INSERT OR REPLACE INTO records VALUES ({', '.join('?' * table.num_columns)})"


def sqlite_answer(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as answers are compared: no event time, and a flag is a bool."""
    found = {name: value for name, value in row.items() if name != datasets.EVENT_TIME}
    return found | {"flag": bool(found["flag"])}


# ── Redis ────────────────────────────────────────────────────────────────────────────────────


class Redis:
    """A Redis server of our own on a free port, without persistence but for an explicit save.

    Parameters
    ----------
    folder : Path
        Holds the dump it starts from, and saves to.
    durable : bool
        Append to a log, synced before each answer.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(folder), "--save", ""]
        command += ["--appendonly", "yes" if durable else "no", "--appendfsync", "always"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        self._process.terminate()
        self._process.wait()

    def _connect(self) -> Any:
        import redis

        client = redis.Redis(host="127.0.0.1", port=self.port)
        for _ in range(6000):
            try:
                client.ping()
            except (redis.ConnectionError, redis.BusyLoadingError):
                if self._process.poll() is not None:
                    break
                time.sleep(0.01)
            else:
                return client
        raise RuntimeError(f"redis-server did not come up on port {self.port}")

    @property
    def version(self) -> str:
        """The server's version."""
        return str(self.client.info("server")["redis_version"])

    def cpu_seconds(self) -> float:
        """CPU time of the server so far, which is not in the client's."""
        used = self.client.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
