"""How close is a write, encoding and history included, to what LMDB itself costs in C?

Records of 20 features, 224 bytes, are put for random keys of a store that holds a million (full).
C puts the finished bytes into a copy of the store's own LMDB file, with the store's own flags; in
the same transaction it appends them to a history and adds a row to a log of commits, as the store
does (``c``), or does without history (``c_latest``).

==============  ==================================================================================
case            what is put
==============  ==================================================================================
batch           10,000 rows a transaction, ``rebuildable``: dicts through `write`, and Arrow tables
                through `ingest`; what is a user to do with ten thousand rows but one of these?
strict          one record a transaction, each durable before the next: one thread, and sixteen,
                whose commits share their syncs
beside_ingest   one record a transaction while a bulk ingest runs, in another process or in
                another thread of this one: how long may a put wait?
==============  ==================================================================================

**A surprise would be** sixteen threads no faster than one: they would be waiting for syncs that
nobody shares.

**The bound.**  A put dirties a page of LMDB whoever asks for it; a durable one waits for the disk.
What the store may add is the encoding, and the lock it shares with a bulk ingest, which lets go of
it every ``max_lock``.

From sixteen threads of Python a put costs two switches of the interpreter's lock besides: a loop
that does nothing but hand itself to another thread and wait for a sync takes 40 to 90 µs a turn.

**Reached** (full size, medians; ``python -m bench online_put --size full``):

==============  ==================================================================================
batch           `ingest` 2.0 x C, `write` of dicts 3.0 x C (CPU), draining the journal included,
                which C does not; 10,000 dicts are 220,000 objects to look at, and 10,000 to give
strict          1.36 x C (wall); sixteen threads put 3.0 times what one does
beside_ingest   p99 8 ms above the quiet one beside a process, 15 ms beside a thread
==============  ==================================================================================

What is to the peers' advantage: SQLite, Redis, py-lmdb and Feast keep no history; C, py-lmdb and
Redis are given finished bytes; Redis's server is not in its figure (``server_cpu_s``); Feast holds
a tenth of the rows.
"""  # noqa: D400  a benchmark asks a question

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import datasets, feast_peer, online_world, peers
from bench.harness import ROOT, Case, Goal, Run, Side, Step, ratio, timed_calls
from bench.online_world import GROUP

if TYPE_CHECKING:
    import pyarrow as pa

SIZES = online_world.SIZES
THREADS = 16
BULK = "bulk"


def _updates(run: Run) -> pa.Table:
    return online_world.table(run, "updates")


def _records(table: pa.Table) -> list[tuple[str, dict[str, Any]]]:
    return [(GROUP, record) for record in table.to_pylist()]


def _batches(run: Run, rows: Any, count: int | None = None) -> list[Any]:
    """Part a table or a list into transactions."""
    size = run.size.put_rows
    starts = range(0, size * (count or run.size.put_batches), size)
    if isinstance(rows, list):
        return [rows[start : start + size] for start in starts]
    return [rows.slice(start, size) for start in starts]


def _measure(run: Run, put: Callable[[Any], Any], batches: Sequence[Any], rows: int) -> None:
    """Warm up with the first transaction, measure the others."""
    with run.warming_up():
        put(batches[0])
    with run.measuring(rows * (len(batches) - 1)):
        taken = timed_calls(put, batches[1:])
    run.latencies(taken)


def _checked(run: Run) -> pa.Table:
    """Return rows that every side has put: of the first transaction that was measured."""
    return _updates(run).slice(run.size.put_rows, online_world.CHECKED)


def _keys(rows: pa.Table) -> list[int]:
    keys: list[int] = rows.column(datasets.ENTITY).to_pylist()
    return keys


# ── ten thousand rows a transaction, nothing synced ──────────────────────────────────────────


def _batch_write(run: Run) -> None:
    import featurestore as fs

    batches = _batches(run, _records(_updates(run)))
    with (
        run.fresh(run.path(online_world.REBUILDABLE) / "store") as folder,
        fs.open(folder) as store,
    ):
        _measure(run, store.write, batches, run.size.put_rows)
        _answers_of_store(run, store, _checked(run))


def _batch_ingest(run: Run) -> None:
    import featurestore as fs

    batches = _batches(run, _updates(run))
    with (
        run.fresh(run.path(online_world.REBUILDABLE) / "store") as folder,
        fs.open(folder) as store,
    ):
        _measure(run, lambda rows: store.ingest(GROUP, rows), batches, run.size.put_rows)
        _answers_of_store(run, store, _checked(run))


def _answers_of_store(run: Run, store: Any, rows: pa.Table) -> None:
    found = [store.get_record(GROUP, key) for key in _keys(rows)]
    run.answers(online_world.comparable(found), datasets.rows_of(rows))


def _answers_of_lmdb(run: Run, folder: Path, rows: pa.Table) -> None:
    stored = peers.Bytes(run.path(online_world.STORE) / "store", GROUP)
    with peers.lmdb_latest(folder) as (env, latest), env.begin(db=latest) as txn:
        records = [txn.get(stored.key(entity)) for entity in _keys(rows)]
    run.answers(stored.rows(_keys(rows), records), datasets.rows_of(rows))


def _batch_c(run: Run, *, order: str = "given", what: str = "both") -> None:
    made, rows = run.path(online_world.LMDB), run.size.put_rows
    puts = made / "updates.puts"
    with run.fresh(made / "env") as folder:
        peers.run_c(run, "put", folder, peers.LATEST, puts, rows, "nosync", order, what)
        _answers_of_lmdb(run, folder, _checked(run))


def _batch_py_lmdb(run: Run) -> None:
    made = run.path(online_world.LMDB)
    batches = _batches(run, peers.read_puts(made / "updates.puts"))
    with run.fresh(made / "env") as folder:
        with peers.lmdb_latest(folder, sync=False) as (env, latest):

            def put(rows: list[tuple[bytes, bytes]]) -> None:
                with env.begin(db=latest, write=True) as txn, txn.cursor() as cursor:
                    cursor.putmulti(rows)

            _measure(run, put, batches, run.size.put_rows)
        _answers_of_lmdb(run, folder, _checked(run))


def _batch_sqlite(run: Run) -> None:
    table = _updates(run)
    batches = _batches(run, peers.sqlite_rows(table))
    insert = peers.sqlite_insert(table)
    with run.fresh(run.path(online_world.SQLITE)) as folder:
        connection = peers.sqlite(folder / "records.db", synchronous="OFF")

        def put(rows: list[tuple[Any, ...]]) -> None:
            connection.execute("BEGIN")
            connection.executemany(insert, rows)
            connection.execute("COMMIT")

        _measure(run, put, batches, run.size.put_rows)
        _answers_of_sqlite(run, connection, _checked(run))


def _answers_of_sqlite(run: Run, connection: Any, rows: pa.Table) -> None:
    found = []
    for entity in _keys(rows):
        cursor = connection.execute("SELECT * FROM records WHERE entity = ?", (entity,))
        names = [column[0] for column in cursor.description]
        found.append(peers.sqlite_answer(dict(zip(names, cursor.fetchone(), strict=True))))
    run.answers(found, datasets.rows_of(rows))
    connection.close()


def _batch_redis(run: Run) -> None:
    batches = _batches(run, peers.read_puts(run.path(online_world.LMDB) / "updates.puts"))
    with run.fresh(run.path(online_world.REDIS)) as folder, peers.Redis(folder) as server:

        def put(rows: list[tuple[bytes, bytes]]) -> None:
            with server.client.pipeline(transaction=False) as pipe:
                for key, value in rows:
                    pipe.set(key, value)
                pipe.execute()

        before = server.cpu_seconds()
        _measure(run, put, batches, run.size.put_rows)
        share = (len(batches) - 1) / len(batches)  # without the warm-up
        run.note(server_cpu_s=(server.cpu_seconds() - before) * share)
        _answers_of_redis(run, server, _checked(run))


def _answers_of_redis(run: Run, server: peers.Redis, rows: pa.Table) -> None:
    run.note(versions={"redis-server": server.version})
    stored = peers.Bytes(run.path(online_world.STORE) / "store", GROUP)
    found = server.client.mget([stored.key(entity) for entity in _keys(rows)])
    run.answers(stored.rows(_keys(rows), found), datasets.rows_of(rows))


def _write_feast(run: Run, kind: str, tables: list[Any], checked: pa.Table) -> None:
    frames = [feast_peer.frame(table) for table in tables]
    features = feast_peer.references(GROUP, datasets.FEATURES)
    with (
        run.fresh(run.path(online_world.FEAST[kind])) as folder,
        feast_peer.repository(folder, kind) as store,
    ):
        rows = tables[0].num_rows
        _measure(run, lambda frame: store.write_to_online_store(GROUP, frame), frames, rows)
        found = feast_peer.rows(feast_peer.ask(store, features, _keys(checked)))
    run.answers(found, datasets.rows_of(checked))


def _batch_feast(run: Run, *, kind: str) -> None:
    _write_feast(run, kind, _batches(run, _updates(run), 2), _checked(run))


# ── one record a transaction, durable ────────────────────────────────────────────────────────


def _single(run: Run, threads: int = 1) -> list[dict[str, Any]]:
    """Return records to put one by one; the first warms up."""
    count = run.size.strict_puts * (1 if threads == 1 else 8)
    records: list[dict[str, Any]] = _updates(run).slice(0, 1 + count).to_pylist()
    return records


def _strict_ours(run: Run) -> None:
    import featurestore as fs

    with (
        run.fresh(run.path(online_world.STORE) / "store") as folder,
        fs.open(folder) as store,
    ):
        _measure(run, lambda record: store.put_record(GROUP, record), _single(run), 1)
        _answers_of_store(run, store, _checked_single(run))


def _checked_single(run: Run) -> pa.Table:
    """Return the rows even Feast has put."""
    return _updates(run).slice(0, _feast_puts(run))


def _feast_puts(run: Run) -> int:
    return int(min(run.size.strict_puts, 20))


def _strict_ours_threads(run: Run) -> None:
    import featurestore as fs

    warm, *records = _single(run, THREADS)
    taken: list[int] = []

    def work(mine: list[dict[str, Any]]) -> None:
        taken.extend(timed_calls(lambda record: store.put_record(GROUP, record), mine))

    with (
        run.fresh(run.path(online_world.STORE) / "store") as folder,
        fs.open(folder) as store,
    ):
        with run.warming_up():
            store.put_record(GROUP, warm)
        threads = [
            threading.Thread(target=work, args=(records[start::THREADS],))
            for start in range(THREADS)
        ]
        with run.measuring(len(records)):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        run.latencies(taken)
        _answers_of_store(run, store, _checked_single(run))


def _strict_c(run: Run, *, what: str = "both") -> None:
    made = run.path(online_world.LMDB)
    with run.fresh(made / "env") as folder:
        puts = folder / "single.puts"
        rows = peers.read_puts(made / "updates.puts")
        peers.write_puts(puts, rows[: 1 + run.size.strict_puts])
        peers.run_c(run, "put", folder, peers.LATEST, puts, 1, "sync", "given", what)
        _answers_of_lmdb(run, folder, _checked_single(run))


def _strict_sqlite(run: Run) -> None:
    table = _updates(run).slice(0, 1 + run.size.strict_puts)
    insert = peers.sqlite_insert(table)
    with run.fresh(run.path(online_world.SQLITE)) as folder:
        connection = peers.sqlite(folder / "records.db", synchronous="FULL")
        _measure(run, lambda row: connection.execute(insert, row), peers.sqlite_rows(table), 1)
        _answers_of_sqlite(run, connection, _checked_single(run))


def _strict_redis(run: Run) -> None:
    puts = peers.read_puts(run.path(online_world.LMDB) / "updates.puts")
    puts = puts[: 1 + run.size.strict_puts]
    with run.fresh() as folder, peers.Redis(folder, durable=True) as server:
        before = server.cpu_seconds()
        _measure(run, lambda row: server.client.set(*row), puts, 1)
        run.note(server_cpu_s=server.cpu_seconds() - before)
        _answers_of_redis(run, server, _checked_single(run))


def _strict_feast(run: Run) -> None:
    table = _updates(run)
    tables = [table.slice(row, 1) for row in range(1 + _feast_puts(run))]
    _write_feast(run, "sqlite", tables, _checked_single(run))


# ── beside a bulk ingest ─────────────────────────────────────────────────────────────────────


def _make_bulk(run: Run, folder: Path) -> None:
    rows = run.size.background_rows
    datasets.save(datasets.history(rows, rows // 10, run.seed), folder / "bulk.arrow")


BACKGROUND = Step("background", _make_bulk)


def ingest_over_and_over(
    store: Any, table: pa.Table, told: Callable[[], None], over: Callable[[], bool]
) -> None:
    """Ingest the same rows under one id after the other until it is over; tell of each."""
    store.create_feature_group(
        BULK,
        record_identifier=datasets.ENTITY,
        event_time=datasets.EVENT_TIME,
        features=datasets.features_schema(table),
        exist_ok=True,
    )
    number = 0
    while not over():
        told()
        store.ingest(BULK, table, id=f"bench-{number}")
        number += 1


def ingest_in_process(folder: str, table: str) -> None:
    """Be the other process; it prints a line before each ingest and ends when it is ended."""
    import featurestore as fs

    with fs.open(folder) as store:
        rows = datasets.read(Path(table))
        ingest_over_and_over(store, rows, lambda: print("next", flush=True), lambda: False)


@contextmanager
def _nothing(_run: Run, _store: Any) -> Iterator[Callable[[], int]]:
    yield lambda: 2


@contextmanager
def _other_process(run: Run, store: Any) -> Iterator[Callable[[], int]]:
    code = "import sys; from bench.online_put import ingest_in_process as go; go(*sys.argv[1:])"
    table = run.path(BACKGROUND) / "bulk.arrow"
    command = [sys.executable, "-c", code, str(store.path), str(table)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    begun: list[bytes] = []
    lines: Any = process.stdout
    listener = threading.Thread(target=lambda: begun.extend(lines))
    listener.start()
    try:
        yield lambda: 99 if process.poll() is not None else len(begun)
        if process.poll() is not None:
            raise RuntimeError("the ingest beside the puts has failed")
    finally:
        process.kill()
        process.wait()
        listener.join()
        lines.close()


@contextmanager
def _same_process(run: Run, store: Any) -> Iterator[Callable[[], int]]:
    rows = datasets.read(run.path(BACKGROUND) / "bulk.arrow")
    begun: list[int] = []
    over = threading.Event()
    thread = threading.Thread(
        target=ingest_over_and_over,
        args=(store, rows, lambda: begun.append(1), over.is_set),
    )
    thread.start()
    try:
        yield lambda: 99 if not thread.is_alive() else len(begun)
        if not thread.is_alive():
            raise RuntimeError("the ingest beside the puts has failed")
    finally:
        over.set()
        thread.join()


def _always_newer(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield records without end, each newer than its key's last: an equal one costs nothing."""
    records = table.to_pylist()
    for shift in count():
        for record in records:
            time_ = record[datasets.EVENT_TIME] + timedelta(seconds=shift)
            yield record | {datasets.EVENT_TIME: time_}


def _beside(run: Run, background: Callable[..., Any]) -> None:
    """Put one record after the other while something else goes on, through a whole ingest of it."""
    import featurestore as fs

    records = _always_newer(_updates(run))
    with (
        run.fresh(run.path(online_world.STORE) / "store") as folder,
        fs.open(folder) as store,
        background(run, store) as begun,
    ):
        with run.warming_up():
            store.put_record(GROUP, next(records))
            while begun() < 1:
                time.sleep(0.01)

        def put(record: dict[str, Any]) -> None:
            assert store.put_record(GROUP, record).outcome == "moved"

        taken: list[int] = []
        end = time.perf_counter() + run.size.put_seconds
        with run.measuring():
            while time.perf_counter() < end or begun() < 2:
                taken += timed_calls(put, [next(records)])
        run.latencies(taken)
        run.note(units=len(taken))


# ── cases ────────────────────────────────────────────────────────────────────────────────────

_LMDB = (online_world.LMDB, online_world.STORE)
_Store = partial(Side, steps=(online_world.STORE,))
_Rebuildable = partial(Side, steps=(online_world.REBUILDABLE,))
_C = partial(Side, needs=peers.c_compiler, steps=_LMDB)
_Sqlite = partial(Side, "sqlite", gives="from tuples; latest only", steps=(online_world.SQLITE,))
_Feast = {
    kind: partial(Side, f"feast_{kind}", gives="latest only", venv="feast", steps=(step,))
    for kind, step in online_world.FEAST.items()
}

BATCH = Case(
    "batch",
    "many rows a transaction, rebuildable",
    "row",
    (
        _Rebuildable("write", _batch_write, "from dicts"),
        _Rebuildable("ingest", _batch_ingest, "from Arrow"),
        _C("c", _batch_c, "from bytes"),
        _C("c_sorted", partial(_batch_c, order="sorted"), "from bytes, sorted in each txn"),
        _C("c_latest", partial(_batch_c, what="online"), "from bytes; latest only"),
        Side("py_lmdb", _batch_py_lmdb, "from bytes; latest only", steps=_LMDB),
        _Sqlite(_batch_sqlite),
        Side("redis", _batch_redis, "from bytes; latest only", steps=(online_world.REDIS,)),
        _Feast["sqlite"](partial(_batch_feast, kind="sqlite")),
        _Feast["redis"](partial(_batch_feast, kind="redis")),
    ),
    (
        ratio("write", "c", at_most=1.5),
        ratio("ingest", "c", at_most=1.5),
        ratio("write", "c_latest"),
        ratio("ingest", "c_latest"),
        ratio("ingest", "c_sorted"),
        ratio("sqlite", "ingest"),
        ratio("redis", "ingest"),
        ratio("feast_sqlite", "ingest"),
        ratio("feast_redis", "ingest"),
    ),
)

STRICT = Case(
    "strict",
    "one record a transaction, durable",
    "put",
    (
        _Store("ours", _strict_ours, "one thread"),
        _Store("ours_16", _strict_ours_threads, "16 threads"),
        _C("c", _strict_c, "from bytes"),
        _C("c_latest", partial(_strict_c, what="online"), "from bytes; latest only"),
        _Sqlite(_strict_sqlite),
        Side("redis", _strict_redis, "log of bytes; latest only", peers.redis_server, steps=_LMDB),
        _Feast["sqlite"](_strict_feast),
    ),
    (
        ratio("ours", "c", of="wall_us", at_most=1.5),
        ratio("ours", "ours_16", of="wall_us", at_least=8),
        ratio("ours", "c_latest", of="wall_us"),
        ratio("sqlite", "ours", of="wall_us"),
        ratio("redis", "ours", of="wall_us"),
        ratio("feast_sqlite", "ours", of="wall_us"),
    ),
    rounds=5,
)


def _longer(side: str) -> Goal:
    def measure(figures: Any) -> float:
        return float(figures[side]["p99_us"] - figures["quiet"]["p99_us"]) / 1e3

    # Two slices of max_lock.
    return Goal(f"p99 {side} - p99 quiet", (side, "quiet"), measure, at_most=100, unit=" ms")


def _beside_side(name: str, background: Callable[..., Any], gives: str) -> Side:
    work = partial(_beside, background=background)
    return Side(name, work, gives, steps=(online_world.STORE, BACKGROUND))


BESIDE_INGEST = Case(
    "beside_ingest",
    "one durable put after the other while a bulk ingest runs",
    "put",
    (
        _beside_side("quiet", _nothing, "nothing beside it"),
        _beside_side("process", _other_process, "an ingest in another process"),
        _beside_side("thread", _same_process, "an ingest in another thread"),
    ),
    (_longer("process"), _longer("thread")),
    rounds=5,
)

CASES = (BATCH, STRICT, BESIDE_INGEST)
