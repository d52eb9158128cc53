"""What does it cost to bring a table in, beside writing the same bytes and nothing else?

==============  ==================================================================================
case            what is brought in; all of it durable when the call returns
==============  ==================================================================================
bulk            10M rows x 10 features over 100k keys (full), unsorted, in memory: into history and
                into the online store.  `pyarrow` writes the same table, already sorted, with the
                codec the store writes, and syncs it
new_keys        1M rows, every key new: the limit is a load of LMDB in page order from C *and* the
                Parquet file
append          1M rows into a group without online store, against DuckDB's `COPY ... ORDER BY` the
                same keys with the same codec, synced after
small           1,000 rows at a time: durable in the journal, which every read sees, and durable in
                a file of their own with the commit to the manifest (`ours_filed`)
==============  ==================================================================================

**A surprise would be** a bulk ingest cheaper than twice the plain write of the sorted table: it
sorts too, checks every row, and finds and moves the latest record of every key.

**The bound.**  Each byte is encoded and compressed once, synced once; rows are sorted once; of each
key one record goes to LMDB, in page order.  The floats are random and do not compress, which no
real feature is as bad as.  Where a row's CPU goes in a bulk ingest, on a machine with other work
(3M rows, ns; ``pyarrow`` took 120 to 200 there)::

    columns gathered in file order    100   8 to 9 a value: each lies on another line of memory.
                                            Asking for lines ahead saves a tenth; taking them in
                                            input order and scattering costs more
    pages encoded and written         150   32 of it their checksums, which pyarrow does without
    SHA-256 of the file                70   for `verify`; read back and hashed at 1.3 GB/s
    sort                               60
    keys numbered and hashed           20
    digest of the content              12   it was 75 before it was added up first
    sampling, bounds, new memory       30

So what pyarrow need not do at all, since it is given sorted rows, is more than what it does.
Without the file's own digest some 370 would be left, three times pyarrow.  Of a new key the rest is
BLAKE2b (170), LMDB's tree, and a sync for each slice that ``max_lock`` allows.

An append is the same without the online store: 690 ns a row at a million rows, beside other work.
DuckDB does without the checksums of pages and file, the digest of the content and the hashes of
the keys, 150 of them in all, so that 1.4 x DuckDB would be the end if we did, too: 1.5 x asks for a
faster gather or encoder besides.  (A file is hashed at the speed of SHA-256 itself: whatever is
read at a time, and into a buffer or not, the 80 MB of a million rows take 73 to 78 ms.)

A small append is one transaction, one sync, and durable; to be in a file of its own it takes three
more transactions (intent, listing, removal from the journal) and two syncs of file and folder.

**Reached** (full size, one quiet round; ``python -m bench ingest --size full``; CPU but for
`small`; taken before the content was added up, small files laid out without sampling, and new keys
put in one search):

==============  ==================================================================================
bulk            5.5 x pyarrow, 2.7 x pyarrow with its own options
new_keys        5.5 x (C + pyarrow)
append          1.08 x as fast as DuckDB
small           4.9 x as fast as deltalake (wall), 1.5 x in a file of its own
==============  ==================================================================================

What is to the peers' advantage: pyarrow and C are given sorted input, C finished bytes; neither
checks anything.  deltalake does not sync its files on a local disk, so that its append is not
durable at all; ``deltalake_synced`` has its files and folders synced after.  Feast writes a
hundredth of the rows, sorted by time, into an empty file, which it would otherwise write anew.
"""  # noqa: D400  a benchmark asks a question

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import datasets, feast_peer, peers
from bench.datasets import ENTITY, EVENT_TIME, HISTORY_FEATURES
from bench.harness import Case, Need, Run, Side, Step, ratio, timed_calls

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = "events"
CHECKED = 100
C_ROWS_PER_TXN = 122_880  # like the slices of the store
LEVEL = 1  # of zstd, if that is the codec


@dataclass(frozen=True)
class Size:
    """The numbers of one size.

    Attributes
    ----------
    bulk_rows, bulk_keys : int
        Of the bulk ingest.
    rows : int
        Of `new_keys` and of `append`.
    small_rows, small_appends : int
        Rows of an append, and appends, of which the first warms up.
    feast_rows : int
        What Feast writes.
    """

    bulk_rows: int
    bulk_keys: int
    rows: int
    small_rows: int
    small_appends: int
    feast_rows: int


SIZES = {
    "tiny": Size(20_000, 500, 6_000, 100, 3, 300),
    "small": Size(1_000_000, 10_000, 200_000, 1_000, 20, 10_000),
    "full": Size(10_000_000, 100_000, 1_000_000, 1_000, 101, 100_000),
}


# ── making ───────────────────────────────────────────────────────────────────────────────────


def _save_both(table: pa.Table, folder: Path) -> None:
    """Write a table as it comes, and sorted for those who do not sort themselves."""
    datasets.save(table, folder / "rows.arrow")
    order = [(ENTITY, "ascending"), (EVENT_TIME, "ascending")]
    datasets.save(table.sort_by(order), folder / "sorted.arrow")


def _make_bulk(run: Run, folder: Path) -> None:
    size = run.size
    _save_both(datasets.history(size.bulk_rows, size.bulk_keys, run.seed), folder)


def _make_new(run: Run, folder: Path) -> None:
    _save_both(datasets.history(run.size.rows, run.size.rows, run.seed), folder)


def _make_append(run: Run, folder: Path) -> None:
    _save_both(datasets.history(run.size.rows, run.size.rows // 10, run.seed), folder)


def _make_small(run: Run, folder: Path) -> None:
    rows = run.size.small_rows * run.size.small_appends
    datasets.save(datasets.history(rows, rows // 10, run.seed), folder / "rows.arrow")


BULK = Step("ingest-bulk", _make_bulk)
NEW = Step("ingest-new", _make_new)
APPEND = Step("ingest-append", _make_append)
SMALL = Step("ingest-small", _make_small)


def _make_puts(run: Run, folder: Path) -> None:
    """Encode the records as the store does, in the order of its pages."""
    table = datasets.read(run.path(NEW) / "rows.arrow")
    with _open(folder / "store", table):
        pass
    stored = peers.Bytes(folder / "store", GROUP)
    peers.write_puts(folder / "sorted.puts", sorted(stored.puts(table)))


PUTS = Step("ingest-puts", _make_puts, after=(NEW,))


def _make_codec(run: Run, folder: Path) -> None:
    """Find out how the store compresses each column, so that the peers do the same."""
    import pyarrow.parquet as pq

    table = datasets.history(10_000, 100, run.seed)
    with _open(folder / "store", table) as store:
        store.ingest(GROUP, table)
        store.flush()  # if it went through the journal
    [path] = (folder / "store").glob("data/**/*.parquet")
    metadata = pq.read_metadata(path)
    columns = [metadata.row_group(0).column(at) for at in range(metadata.num_columns)]
    codecs = {column.path_in_schema: column.compression.lower() for column in columns}
    asked = {name: codecs[name] for name in table.column_names}
    (folder / "codec.json").write_text(json.dumps(asked), encoding="utf-8")


CODEC = Step("ingest-codec", _make_codec)


def _codecs(run: Run) -> dict[str, str]:
    """Return the codec of each column; ``uncompressed`` is one."""
    return dict(json.loads((run.path(CODEC) / "codec.json").read_text(encoding="utf-8")))


def _open(folder: Path, table: pa.Table, *, online: bool = True) -> Any:
    """Make a strict store with an empty group for a table."""
    import featurestore as fs

    store = fs.open(folder)
    store.create_feature_group(
        GROUP,
        record_identifier=ENTITY,
        event_time=EVENT_TIME,
        features=datasets.features_schema(table),
        online=online,
    )
    return store


# ── answers ──────────────────────────────────────────────────────────────────────────────────

# A sum of hashes does not ask for the order of the rows.
_DIGEST = (
    "SELECT count(*) AS rows, sum(hash(entity, epoch_us(event_time), "
    f"{', '.join(HISTORY_FEATURES)}))::VARCHAR AS content FROM "
)


def _digest_of(table: Any) -> list[dict[str, Any]]:
    """Digest an Arrow table, or the Parquet files of a path."""
    import duckdb

    with duckdb.connect() as connection:
        if isinstance(table, Path):
            source = f"read_parquet('{table}')"
        else:
            source = "given"
            connection.register(source, table)
        return list(connection.sql(_DIGEST + source).to_arrow_table().to_pylist())


def _answers(run: Run, found: Any, step: Step) -> None:
    """Compare what was written, as a table or in files, with the input."""
    run.answers(_digest_of(found), _digest_of(datasets.read(run.path(step) / "rows.arrow")))


def _answers_of_store(run: Run, store: Any, step: Step, *, online: bool) -> None:
    table = datasets.read(run.path(step) / "rows.arrow")
    if online:
        _require_latest(table, lambda key: store.get_record(GROUP, key))
    run.answers(store.sql(f"{_DIGEST} history.{GROUP}").to_pylist(), _digest_of(table))


def _require_latest(table: pa.Table, get: Callable[[int], Any]) -> None:
    """Refuse an online store that does not give the newest row of some keys."""
    import pyarrow.compute as pc

    for key in table.column(ENTITY).slice(0, CHECKED).to_pylist():
        rows = table.filter(pc.equal(table.column(ENTITY), key)).sort_by(EVENT_TIME)
        [newest] = rows.slice(rows.num_rows - 1).to_pylist()
        found = get(key)
        if found != {name: newest[name] for name in found}:  # Feast gives no event time
            raise AssertionError(f"online: {found}; the newest row: {newest}")


# ── sides ────────────────────────────────────────────────────────────────────────────────────


def _ours(run: Run, *, step: Step, online: bool = True) -> None:
    table = datasets.read(run.path(step) / "rows.arrow")
    with run.compiling(), run.fresh() as folder, _open(folder / "warm", table) as store:
        store.ingest(GROUP, table.slice(0, 20_000))  # more than go through the journal
        store.ingest(GROUP, table.slice(0, 10))
    with run.fresh() as folder, _open(folder / "store", table, online=online) as store:
        with run.measuring(table.num_rows):
            result = store.ingest(GROUP, table)
        assert result.accepted == table.num_rows
        run.note(written_bytes=_bytes_in(folder))
        _answers_of_store(run, store, step, online=online)


def _bytes_in(folder: Path) -> int:
    """Return what a folder takes on the disk: LMDB's lock file is mostly a hole."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _pyarrow_sorted(run: Run, *, step: Step, default: bool = False) -> None:
    import pyarrow.parquet as pq

    table = datasets.read(run.path(step) / "sorted.arrow")
    options: dict[str, Any] = {} if default else _as_the_store(run)
    with run.fresh() as folder:
        with run.warming_up():
            pq.write_table(table.slice(0, 5_000), folder / "warm", **options)
        with run.measuring(table.num_rows):
            pq.write_table(table, folder / "rows.parquet", **options)
            _sync(folder / "rows.parquet")
            _sync(folder)
        run.note(written_bytes=_bytes_in(folder))
        _answers(run, folder / "rows.parquet", step)


def _as_the_store(run: Run) -> dict[str, Any]:
    """Return options by which pyarrow writes what the store writes: no vain dictionaries."""
    codecs = _codecs(run)
    return {
        "compression": {n: "none" if c == "uncompressed" else c for n, c in codecs.items()},
        "compression_level": {name: LEVEL for name, c in codecs.items() if c == "zstd"} or None,
        "use_dictionary": [ENTITY],
        "row_group_size": 122_880,
    }


def _sync(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _c_load(run: Run) -> None:
    with run.fresh() as folder:
        puts = run.path(PUTS) / "sorted.puts"
        peers.run_c(run, "load", folder, peers.LATEST, puts, C_ROWS_PER_TXN)
        run.note(written_bytes=_bytes_in(folder))
        table = datasets.read(run.path(NEW) / "rows.arrow").slice(0, CHECKED)
        keys = table.column(ENTITY).to_pylist()
        stored = peers.Bytes(run.path(PUTS) / "store", GROUP)
        with peers.lmdb_latest(folder) as (env, latest), env.begin(db=latest) as txn:
            records = [txn.get(stored.key(key)) for key in keys]
            assert txn.stat(latest)["entries"] == run.size.rows
    # Not what the others are asked, whose answer is the whole history.
    assert stored.rows(keys, records) == datasets.rows_of(table)


def _duckdb_copy(run: Run) -> None:
    import duckdb

    table = datasets.read(run.path(APPEND) / "rows.arrow")
    codec = _codecs(run)[HISTORY_FEATURES[0]]  # it has one for all; nearly all is features
    level = f", COMPRESSION_LEVEL {LEVEL}" if codec == "zstd" else ""
    options = f"FORMAT parquet, COMPRESSION {codec}{level}, ROW_GROUP_SIZE 122880"
    with run.fresh() as folder, duckdb.connect() as connection:

        def copy(rows: Any, path: Path) -> None:
            connection.register("given", rows)
            query = f"SELECT * FROM given ORDER BY {ENTITY}, {EVENT_TIME}"
            connection.execute(f"COPY ({query}) TO '{path}' ({options})")
            _sync(path)
            _sync(folder)

        with run.warming_up():
            copy(table.slice(0, 5_000), folder / "warm.parquet")
        with run.measuring(table.num_rows):
            copy(table, folder / "rows.parquet")
        run.note(written_bytes=_bytes_in(folder))
        _answers(run, folder / "rows.parquet", APPEND)


def _feast_writes(run: Run, *, kind: str) -> None:
    """Write rows online and offline: two calls, and nothing between them."""
    rows = datasets.read(run.path(BULK) / "rows.arrow").slice(0, run.size.feast_rows)
    # Of one call's rows with the same key it keeps the last, not the newest.
    frame = feast_peer.frame(rows.sort_by(EVENT_TIME))
    with run.fresh() as folder, feast_peer.repository(folder, kind) as store:
        feast_peer.register(store, folder, GROUP, rows.slice(0, 0))
        with run.measuring(rows.num_rows):
            store.write_to_online_store(GROUP, frame)
            store.write_to_offline_store(GROUP, frame)
        feast_peer.require_rows(folder, GROUP, rows.num_rows)
        features = feast_peer.references(GROUP, HISTORY_FEATURES)

        def get(key: int) -> Any:
            [found] = feast_peer.rows(feast_peer.ask(store, features, [key]))
            return found

        _require_latest(rows, get)


# ── small appends ────────────────────────────────────────────────────────────────────────────


def _parts(run: Run) -> list[pa.Table]:
    table, rows = datasets.read(run.path(SMALL) / "rows.arrow"), run.size.small_rows
    return [table.slice(start, rows) for start in range(0, table.num_rows, rows)]


def _measure(run: Run, append: Callable[[Any], Any], parts: Sequence[Any]) -> None:
    """Warm up with the first append, measure the others."""
    with run.warming_up():
        append(parts[0])
    with run.measuring(len(parts) - 1):
        taken = timed_calls(append, parts[1:])
    run.latencies(taken)


def _small_ours(run: Run, *, filed: bool, online: bool = False) -> None:
    parts = _parts(run)

    def append(part: pa.Table) -> None:
        store.ingest(GROUP, part)
        if filed:
            store.flush(GROUP)

    with run.fresh() as folder, _open(folder / "store", parts[0], online=online) as store:
        _measure(run, append, parts)
        _answers_of_store(run, store, SMALL, online=online)


def _small_deltalake(run: Run, *, synced: bool) -> None:
    import deltalake

    with run.fresh() as folder:
        path = folder / "table"
        folders = (path, path / "_delta_log")
        durable: set[Path] = set()

        def append(part: pa.Table) -> None:
            deltalake.write_deltalake(str(path), part, mode="append")
            if not synced:
                return
            new = {Path(entry) for each in folders for entry in os.scandir(each)} - durable
            for file in (*new, *folders):
                _sync(file)
            durable.update(new)

        _measure(run, append, _parts(run))
        _answers(run, deltalake.DeltaTable(str(path)).to_pyarrow_table(), SMALL)


def _small_files(run: Run) -> None:
    import pyarrow.parquet as pq

    options = _as_the_store(run)
    numbers = count()
    with run.fresh() as folder:

        def append(part: pa.Table) -> None:
            path = folder / f"{next(numbers)}.parquet"
            writing = path.with_suffix(".tmp")
            pq.write_table(part, writing, **options)
            _sync(writing)
            writing.rename(path)
            _sync(folder)

        _measure(run, append, _parts(run))
        _answers(run, folder / "*.parquet", SMALL)


# ── cases ────────────────────────────────────────────────────────────────────────────────────


def _store_side(step: Step) -> Side:
    return Side("ours", partial(_ours, step=step), "unsorted in; both stores", steps=(step,))


def _pyarrow_side(step: Step) -> Side:
    work = partial(_pyarrow_sorted, step=step)
    return Side("pyarrow", work, "sorted in; a file, the store's codec", steps=(step, CODEC))


def _feast_side(kind: str, needs: Need) -> Side:
    work = partial(_feast_writes, kind=kind)
    return Side(f"feast_{kind}", work, "both stores", needs, venv="feast", steps=(BULK,))


def _deltalake_side(name: str, gives: str, *, synced: bool) -> Side:
    work = partial(_small_deltalake, synced=synced)
    return Side(name, work, gives, peers.deltalake, steps=(SMALL,))


_default = partial(_pyarrow_sorted, step=BULK, default=True)
_history = partial(_ours, step=APPEND, online=False)

BULK_CASE = Case(
    "bulk",
    "bulk ingest, few keys",
    "row",
    (
        _store_side(BULK),
        _pyarrow_side(BULK),
        Side("pyarrow_default", _default, "sorted in; a file, pyarrow's options", steps=(BULK,)),
        _feast_side("sqlite", peers.feast),
        _feast_side("redis", peers.feast_redis),
    ),
    (
        ratio("ours", "pyarrow", at_most=2.5),
        ratio("ours", "pyarrow", of="wall_us"),
        ratio("ours", "pyarrow_default"),
        ratio("feast_sqlite", "ours", at_least=50),
        ratio("feast_redis", "ours", at_least=50),
    ),
)

NEW_CASE = Case(
    "new_keys",
    "bulk ingest, all keys new",
    "row",
    (
        _store_side(NEW),
        Side("c_load", _c_load, "sorted bytes in; latest", peers.c_compiler, steps=(PUTS,)),
        _pyarrow_side(NEW),
    ),
    (
        ratio("ours", ("c_load", "pyarrow"), at_most=2),
        ratio("ours", ("c_load", "pyarrow"), of="wall_us"),
    ),
)

APPEND_CASE = Case(
    "append",
    "append to history, sorting included",
    "row",
    (
        Side("ours", _history, "unsorted in; history", steps=(APPEND,)),
        Side(
            "duckdb", _duckdb_copy, "unsorted in; a file, the store's codec", steps=(APPEND, CODEC)
        ),
        _pyarrow_side(APPEND),
    ),
    (
        ratio("duckdb", "ours", at_least=1.5),
        ratio("duckdb", "ours", of="wall_us"),
        ratio("ours", "pyarrow"),
    ),
)

SMALL_CASE = Case(
    "small",
    "small durable appends",
    "append",
    (
        Side("ours", partial(_small_ours, filed=False), "in the journal", steps=(SMALL,)),
        Side("ours_filed", partial(_small_ours, filed=True), "in a file, listed", steps=(SMALL,)),
        _deltalake_side("deltalake", "not synced", synced=False),
        _deltalake_side("deltalake_synced", "synced after: as durable as ours", synced=True),
        Side("files", _small_files, "in a file, synced", steps=(SMALL, CODEC)),
    ),
    (
        ratio("deltalake", "ours", of="wall_us", at_least=3),
        ratio("deltalake", "ours_filed", of="wall_us", at_least=3),
        ratio("deltalake_synced", "ours", of="wall_us"),
        ratio("deltalake_synced", "ours_filed", of="wall_us"),
        ratio("deltalake", "ours"),
        ratio("deltalake", "ours_filed"),
        ratio("ours_filed", "files"),
    ),
    rounds=5,
)

CASES = (BULK_CASE, NEW_CASE, APPEND_CASE, SMALL_CASE)
