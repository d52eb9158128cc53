"""What does it cost to find what was known at each label, beside the fastest joins there are?

=============  ==================================================================================
case           labels x history x 10 float64, at full size
=============  ==================================================================================
in_memory      1M x 10M, 100k int keys; both sides unsorted Arrow in memory, and nothing else:
               `ours` is the store's join over that one table, without a store around it;
               `ours_store` makes one in memory, brings the table in, and joins
compacted      the same from our compacted store, peers from one default Parquet file, DuckDB also
               from our very files; `decode` is pyarrow reading the default file, no join
skewed         keys by Zipf's law, against our own `compacted`
text_keys      the same with text keys, against our own `compacted`
five_groups    1M labels, five groups of 2M x 10
rides          10M labels, 260 keys, three groups of few rows: the shape of Hopsworks' benchmark
wide           17,000 labels x 10 groups x 100 features, text key; `gather` takes the rows found
               from columns in memory.  A Feast user reported half an hour and 50 GB
uncompacted    50 flush files and a journal of 50k rows, against our own `compacted`
few_labels     1,000 labels over 20 keys of the 10M rows; `ours_cold` has none of the files in
               memory, and counts the bytes that storage reads for it
streamed       10M x 10M as record batches, within 1 GiB
=============  ==================================================================================

**A surprise would be** a join from Parquet that costs less than decoding the file: rows that
answer nothing would have to stay undecoded.

**The bound.**  Each label takes one random read per feature, each history row one look at its key
and time: for `compacted` 0.26 CPU-s to gather and 0.02 to scan 160 MB of keys on the machine the
goals were found on, where pyarrow decodes the file in 3.5 and DuckDB joins in 10 to 12.

Cases that are bound by something else, where a profile of their CPU says so:

* `in_memory`: nothing is sorted, so each of 10M rows is parted by key, looked up among its key's
  labels and compared with the best one: 60 to 90 ns a row, more than all else together.  New
  memory counts as much: results, codes and parted rows are some 300 MB.
* `wide`: as many random reads as there are values, which is what `gather` does.
* `uncompacted`: a file has two or three rows of a key, which are put down one by one, 30 ns each,
  where a compacted file has a run that a label steps through.
* `few_labels`: eleven files to open (0.4 ms each), and some thousand page faults: a column of a row
  group has its header, and its values, in pages of its own.

**Reached** (full size, on a quiet machine with two CPUs; ``python -m bench point_in_time --size
full``, one case alone with ``--only compacted``, repeated with ``--rounds 3``), as ratios of CPU:
`compacted` 9.7x DuckDB, 8.3x over our very files and 0.11x the decoding, as medians of three
rounds; `few_labels` 0.046x (0.039 to 0.074), of three too; in one round `skewed` 1.2x and
`text_keys` 1.1x our own; `five_groups` 6.6x DuckDB and 4.1x pandas; `rides` 7.5x DuckDB; `wide`
0.89x the gather; `streamed` in 0.82 GiB.  Short of their goals, medians of three rounds:
`in_memory` 2.7x DuckDB (2.4 to 3.0), of 6x; `uncompacted` 2.9x our own `compacted` (2.3 to 3.7), of
2x.

The second CPU helps little: files are read and gathered from in threads, and the kernels between
run one after the other.  Best of seven joins each, by turns on one CPU and on two, at full size on
a machine that was nearly quiet: `compacted` 1.04x quicker on two, `uncompacted` 1.10x, `in_memory`
1.18x.

Feast, with ``--feast-venv DIR --size small --only wide``, on a machine that was not quiet: all
1,700 labels take 4.9 CPU-s and 310 MiB, 56x ours; the tenth that it gets there takes 3.0, most of
which does not depend on how many labels there are, so that the ratio a label says too much.
ClickHouse runs with ``--chdb-venv DIR``; its answers are those of the others in the tiny size, its
figures are still to be had.

All sides use the threads they like, on files in the page cache; the answer of each is checked
against arithmetic, to the last bit.  Times of one key are distinct, as a peer may break ties as it
likes.  What is to the peers' advantage: DuckDB, Polars and pandas give rows in their own order,
none knows deletes, expiry, snapshots or late rows; ClickHouse has its labels in Parquet, and Feast
gets a tenth of the labels.  To ours: files sorted by key, since bringing them in has paid for that.
Own memory is anonymous memory, its peak looked for every 10 ms.
"""  # noqa: D400  a benchmark asks a question

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import asof, datasets, feast_peer, histories, joins, peers
from bench.datasets import ENTITY, EVENT_TIME
from bench.harness import Case, Figures, Goal, Options, Run, Side, nothing, ratio
from bench.histories import ROW, History
from bench.joins import (
    PIECES,
    SIZES,
    Join,
    arrow_of,
    labels_file_of,
    labels_of,
    parquet_of,
    read_through,
    require_answer,
    require_sum,
    store_files_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CASES", "SIZES"]

GIB = 1 << 30


# ── ours ─────────────────────────────────────────────────────────────────────────────────────


def _lookups(found: Sequence[History]) -> list[Any]:
    import featurestore as fs

    return [fs.FeatureLookup(h.name, h.names, on={ENTITY: h.on}) for h in found]


def _join(store: Any, labels: Any, found: Sequence[History], **options: Any) -> Any:
    return store.point_in_time(labels, _lookups(found), label_time=EVENT_TIME, **options)


def _compile(run: Run, found: Sequence[History], **options: Any) -> None:
    """Load libraries and kernels with a join of a few rows, in files and not."""
    import featurestore as fs

    few = [replace(h, rows=60, keys=20, features=2) for h in found]
    labels, _ = histories.draw_labels(few, 50, run.seed)
    with run.fresh() as folder, fs.open(folder / "warm", durability="rebuildable") as store:
        for history in few:
            table = history.table(run.seed)
            joins.create(store, history, table)
            store.ingest(history.name, table.slice(0, 30))
            store.flush()
            store.compact()
            store.ingest(history.name, table.slice(30))
        list(_join(store, labels, few, **options))


def _ours(run: Run, *, join: Join, of_case: bool = True) -> None:
    import featurestore as fs

    found, labels = join.histories(run.size), labels_of(run, join)
    with run.compiling():
        _compile(run, found)
    with run.warming_up():
        read_through(store_files_of(run, join))
    with (
        fs.open(run.path(join.store) / "store", read_only=True) as store,
        run.measuring(labels.num_rows, watched=True),
    ):
        answer = _join(store, labels, found)
    require_answer(run, join, answer, of_case=of_case)


def _bytes_read() -> int:
    """Return the bytes that storage has read for this process so far, also for its mappings."""
    words = Path("/proc/self/io").read_text(encoding="ascii").split()
    return int(words[words.index("read_bytes:") + 1])


def _forget(paths: Iterable[Path]) -> None:
    """Have the page cache drop files."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def counted_reads(options: Options) -> str | None:
    """Need a disk whose reads are counted: not memory, and Linux."""
    options.scratch.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            probe = Path(folder) / "probe"
            probe.write_bytes(bytes(1 << 20))
            _forget([probe])
            before = _bytes_read()
            probe.read_bytes()
            if _bytes_read() - before >= 1 << 20:
                return None
    except (OSError, AttributeError):
        pass
    return "needs a scratch folder on a disk whose reads the system counts"


def _ours_cold(run: Run, *, join: Join) -> None:
    """Join with none of the files in memory, to see how much of them is read."""
    import featurestore as fs

    found, labels = join.histories(run.size), labels_of(run, join)
    with run.compiling():
        _compile(run, found)
    paths = [path for paths in store_files_of(run, join).values() for path in paths]
    with fs.open(run.path(join.store) / "store", read_only=True) as store:
        _forget(paths)
        before = _bytes_read()
        with run.measuring(labels.num_rows, watched=True):
            answer = _join(store, labels, found)
        run.note(read_bytes=_bytes_read() - before)
    require_answer(run, join, answer)
    run.note(
        matching_bytes=_matching_bytes(run, join),
        file_bytes=sum(path.stat().st_size for path in paths),
    )


def _matching_bytes(run: Run, join: Join) -> int:
    """Return the bytes of the row groups that hold a row which answers a label."""
    import numpy as np
    import pyarrow.parquet as pq

    total = 0
    for history in join.histories(run.size):
        places = np.load(run.path(join.asked) / f"{history.name}.npy")
        key, minute = history.codes(run.seed)
        wanted = np.unique((key.astype(np.int64) << 32)[places] + minute[places])
        for path in store_files_of(run, join)[history.name]:
            metadata = pq.read_metadata(path)
            table = pq.read_table(path, columns=[ENTITY, EVENT_TIME])
            since_us = table.column(EVENT_TIME).cast("int64").to_numpy() - datasets.START_US
            held = (table.column(ENTITY).to_numpy() << 32) + since_us // histories.MINUTE_US
            groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
            ends = np.cumsum([group.num_rows for group in groups])
            hit = np.searchsorted(ends, np.flatnonzero(np.isin(held, wanted)), side="right")
            for group in (groups[n] for n in np.unique(hit)):
                total += sum(
                    group.column(n).total_compressed_size for n in range(group.num_columns)
                )
    return total


def _ours_in_memory(run: Run, *, join: Join) -> None:
    """Join as the store would, with the table as the only stretch of history."""
    from featurestore.engine import point_in_time

    found, labels, tables = join.histories(run.size), labels_of(run, join), arrow_of(run, join)
    with run.compiling():
        _compile(run, found)
    with run.measuring(labels.num_rows, watched=True):
        snapshots = {h.name: _snapshot(h, tables[h.name]) for h in found}
        answer = point_in_time.join(labels, _lookups(found), snapshots, label_time=EVENT_TIME)
    require_answer(run, join, answer)


def _snapshot(history: History, table: pa.Table) -> Any:
    """Return a table as a group whose rows are all unflushed, in the order they come."""
    import numpy as np
    import pyarrow as pa

    from featurestore.encoding.columns import history_schema
    from featurestore.encoding.keys import KeyHash
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.schema import define
    from featurestore.storage.manifest import GroupState

    rows = table.num_rows
    group = define(
        history.name,
        record_identifier=ENTITY,
        event_time=EVENT_TIME,
        features=datasets.features_schema(table),
        id=1,
    )
    schema = history_schema(group)
    given = {name: table.column(name) for name in table.column_names}
    given["write_seq"] = pa.array(np.arange(1, rows + 1))
    # The rest is the same in all rows: nothing is deleted, nothing expires.
    zeros = np.zeros(rows, np.int64)  # never touched, so it takes no memory
    filled = dict.fromkeys(("__key_hash", "write_time"), pa.array(zeros))
    filled["is_deleted"] = pa.array(np.zeros(rows, np.bool_))
    filled["__stores"] = pa.array(np.zeros(rows, np.int8))
    none = pa.py_buffer(bytes(rows // 8 + 1))
    kind = schema.field("expires_at").type
    filled["expires_at"] = pa.Array.from_buffers(kind, rows, [none, pa.py_buffer(zeros)], rows)
    columns = [given.get(name, filled.get(name)) for name in schema.names]
    tail = pa.table(
        [c if c.type == f.type else c.view(f.type) for c, f in zip(columns, schema, strict=True)],
        schema=schema,
    )
    return GroupSnapshot(
        root=Path(),
        group=group,
        seq=rows,
        cut=False,
        state=GroupState(),
        files=[],
        key_hash=KeyHash(b"of one benchmark", 64),
        _tail=tail,
    )


def _ours_by_store(run: Run, *, join: Join) -> None:
    """Make a store in memory, bring everything in, and join."""
    import featurestore as fs

    found, labels, tables = join.histories(run.size), labels_of(run, join), arrow_of(run, join)
    with run.compiling():
        _compile(run, found)
    with (
        _in_memory(run) as folder,
        run.measuring(labels.num_rows, watched=True),
        fs.open(folder / "store", durability="rebuildable") as store,
    ):
        for history in found:
            joins.create(store, history, tables[history.name])
            store.ingest(history.name, tables[history.name])
        answer = _join(store, labels, found)
    require_answer(run, join, answer)


@contextlib.contextmanager
def _in_memory(run: Run) -> Iterator[Path]:
    """Give an empty folder in memory, or where data are made if there is none in memory."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="featurestore-bench-",
        dir=shared if os.access(shared, os.W_OK) else run.options.scratch,
    ) as folder:
        yield Path(folder)


def _ours_streamed(run: Run, *, join: Join) -> None:
    import featurestore as fs

    found, rows = join.histories(run.size), getattr(run.size, join.labels)
    labels = run.path(join.asked) / "labels.parquet"
    with run.compiling():
        _compile(run, found, stream=True)
    with run.warming_up():
        read_through(store_files_of(run, join) | {"labels": [labels]})
    with fs.open(run.path(join.store) / "store", read_only=True) as store:
        with run.measuring(rows, watched=True):
            streamed = sum(batch.num_rows for batch in _join(store, labels, found, stream=True))
        assert streamed == rows
        total, read = 0, 0
        for batch in _join(store, labels, found, stream=True):
            total += histories.checksum(batch, asof.features_of(found))
            read += batch.num_rows
    require_sum(run, join, read, total % 2**64, rows, of_case=True)


# ── peers ────────────────────────────────────────────────────────────────────────────────────

Engine = Callable[[Any, Sequence[History], Mapping[str, Any]], Any]


def _peer(
    run: Run,
    *,
    join: Join,
    engine: Engine,
    sources: Callable[[Run, Join], dict[str, Any]],
    labels: Callable[[Run, Join], Any] = labels_of,
) -> None:
    found, asked, given = join.histories(run.size), labels(run, join), sources(run, join)
    with run.compiling():
        few = [replace(h, rows=60, keys=20, features=2) for h in found]
        table, _ = histories.draw_labels(few, 50, run.seed)
        if engine is not asof.chdb:
            engine(table, few, {h.name: h.table(run.seed) for h in few})
        else:
            import chdb

            chdb.query("SELECT 1")
    with run.warming_up():
        read_through({name: s for name, s in given.items() if isinstance(s, list)})
    with run.measuring(getattr(run.size, join.labels), watched=True):
        answer = engine(asked, found, given)
    require_answer(run, join, answer)


def _decode(run: Run, *, join: Join) -> None:
    import pyarrow.parquet as pq

    sources = parquet_of(run, join)
    with run.warming_up():
        read_through(sources)
        pq.read_table(labels_file_of(run, join))
    with run.measuring(getattr(run.size, join.labels), watched=True):
        tables = [pq.read_table(path) for paths in sources.values() for path in paths]
    assert [t.num_rows for t in tables] == [h.rows for h in join.histories(run.size)]


def _gather(run: Run, *, join: Join) -> None:
    import numpy as np
    import pyarrow as pa

    found, labels, tables = join.histories(run.size), labels_of(run, join), arrow_of(run, join)
    places = {h.name: np.load(run.path(join.asked) / f"{h.name}.npy") for h in found}
    with run.warming_up():
        histories.gathered(tables[found[0].name], places[found[0].name], found[0].names[:1])
    with run.measuring(labels.num_rows, watched=True):
        columns: dict[str, Any] = {ROW: labels.column(ROW)}
        for h in found:
            columns |= histories.gathered(tables[h.name], places[h.name], h.names)
        answer = pa.table(columns)
    require_answer(run, join, answer)


def _feast(run: Run, *, join: Join) -> None:
    import pyarrow as pa

    found, asked = join.histories(run.size), labels_of(run, join)
    rows = min(run.size.feast_labels, asked.num_rows)
    frame = asked.slice(0, rows).to_pandas()
    with (
        run.fresh() as folder,
        feast_peer.repository(folder, "sqlite") as repository,
        run.measuring(rows, watched=True),
    ):
        answer = asof.feast(repository, frame, found, parquet_of(run, join))
    names = asof.features_of(found)
    table = pa.Table.from_pandas(answer[[ROW, *names]], preserve_index=False)
    checksum = histories.checksum(table, names)
    require_sum(run, join, table.num_rows, checksum, rows, of_case=False, part="first")


# ── cases ────────────────────────────────────────────────────────────────────────────────────

BASE = Join("base", joins.base)
SKEWED = Join("skewed", joins.skewed)
TEXT = Join("text", joins.text)
FIVE = Join("five", joins.five)
RIDES = Join("rides", joins.rides, "ride_labels")
WIDE = Join("wide", joins.wide, "wide_labels")
IN_PIECES = replace(BASE, compacted=False)
FEW = Join("few", joins.base, "few_labels", "few_keys")
STREAM = Join("stream", joins.base, "stream_labels")


def _ours_side(join: Join, name: str = "ours", *, of_case: bool = True) -> Side:
    how = "compacted" if join.compacted else f"{PIECES} files and a journal"
    work = partial(_ours, join=join, of_case=of_case)
    return Side(name, work, f"in the labels' order; {how}", steps=join.ours)


def _peer_sides(join: Join, *names: str) -> tuple[Side, ...]:
    """Return the sides of peers that read default Parquet files."""
    engines: dict[str, Engine] = {
        "duckdb": asof.duckdb, "polars": asof.polars, "pandas": asof.pandas, "chdb": asof.chdb,
    }  # fmt: skip
    return tuple(
        Side(
            name,
            partial(
                _peer,
                join=join,
                engine=engines[name],
                sources=parquet_of,
                labels=labels_file_of if name == "chdb" else labels_of,
            ),
            "from default Parquet",
            {"duckdb": nothing, "chdb": peers.chdb}.get(name, asof.needs(name)),
            venv="chdb" if name == "chdb" else None,
            steps=join.peers,
        )
        for name in names
    )


def _over(side: str, at_least: float | None = None) -> tuple[Goal, Goal]:
    """Return the goals that a peer costs so many times ours, and is not quicker."""
    return (
        ratio(side, "ours", at_least=at_least),
        ratio(side, "ours", of="wall_us", at_least=1 if at_least else None),
    )


def _memory(side: str, at_most: float | None = None) -> Goal:
    return ratio("ours", side, of="peak_anonymous_bytes", at_most=at_most)


def _read_share(figures: Mapping[str, Figures]) -> float:
    return figures["ours_cold"]["read_bytes"] / figures["ours_cold"]["matching_bytes"]


def _peak_gib(figures: Mapping[str, Figures]) -> float:
    return figures["ours"]["peak_anonymous_bytes"] / GIB


def _in_memory_peer(name: str, engine: Engine) -> Side:
    work = partial(_peer, join=BASE, engine=engine, sources=arrow_of)
    return Side(name, work, "from Arrow", asof.needs(name), steps=BASE.peers)


_same_files = partial(_peer, join=BASE, engine=asof.duckdb, sources=store_files_of)

# Data frames take a quarter of a minute each: these cases are repeated when asked, by --rounds.
_LONG = 1

CASES = (
    Case(
        "in_memory",
        "both sides unsorted Arrow in memory",
        "label",
        (
            Side("ours", partial(_ours_in_memory, join=BASE), "in the labels' order",
                 steps=BASE.peers),
            Side("ours_store", partial(_ours_by_store, join=BASE), "by way of a store in memory",
                 steps=BASE.peers),
            _in_memory_peer("duckdb", asof.duckdb),
            _in_memory_peer("polars", asof.polars),
            _in_memory_peer("pandas", asof.pandas),
        ),
        (*_over("duckdb", 6), *_over("polars"), *_over("pandas"), ratio("ours_store", "ours"),
         _memory("duckdb")),
        rounds=_LONG,
    ),
    Case(
        "compacted",
        "from a compacted store",
        "label",
        (
            _ours_side(BASE),
            *_peer_sides(BASE, "duckdb", "polars", "pandas", "chdb"),
            Side("duckdb_same", _same_files, "from our very files", steps=BASE.ours),
            Side("decode", partial(_decode, join=BASE), "the default file, no join",
                 steps=BASE.peers),
        ),
        (*_over("duckdb", 6), *_over("duckdb_same", 5), ratio("ours", "decode", at_most=0.6),
         *_over("polars"), *_over("pandas"), *_over("chdb"), _memory("duckdb", 0.5)),
        rounds=_LONG,
    ),
    Case(
        "skewed",
        "keys by Zipf's law",
        "label",
        (_ours_side(SKEWED), _ours_side(BASE, "uniform", of_case=False),
         *_peer_sides(SKEWED, "duckdb")),
        (ratio("ours", "uniform", at_most=1.3), ratio("ours", "uniform", of="wall_us"),
         *_over("duckdb")),
    ),
    Case(
        "text_keys",
        "text keys",
        "label",
        (_ours_side(TEXT), _ours_side(BASE, "integers", of_case=False),
         *_peer_sides(TEXT, "duckdb")),
        (ratio("ours", "integers", at_most=1.3), ratio("ours", "integers", of="wall_us"),
         *_over("duckdb")),
    ),
    Case(
        "five_groups",
        "five groups",
        "label",
        (_ours_side(FIVE), *_peer_sides(FIVE, "duckdb", "polars", "pandas", "chdb")),
        (*_over("duckdb", 6), *_over("pandas", 4), *_over("polars"), _memory("duckdb")),
        rounds=_LONG,
    ),
    Case(
        "rides",
        "very many labels, few keys, three groups",
        "label",
        (_ours_side(RIDES), *_peer_sides(RIDES, "duckdb", "polars", "pandas")),
        (*_over("duckdb", 5), *_over("polars"), *_over("pandas"), _memory("duckdb")),
        rounds=_LONG,
    ),
    Case(
        "wide",
        "many groups of many features",
        "label",
        (
            _ours_side(WIDE),
            Side("gather", partial(_gather, join=WIDE), "from columns in memory, rows known",
                 steps=WIDE.peers),
            *_peer_sides(WIDE, "duckdb", "pandas"),
            Side("feast", partial(_feast, join=WIDE), "fewer labels", peers.feast, venv="feast",
                 steps=WIDE.peers),
        ),
        (ratio("ours", "gather", at_most=2), ratio("ours", "gather", of="wall_us"),
         *_over("feast", 10), *_over("duckdb"), *_over("pandas"), _memory("duckdb")),
        rounds=_LONG,
    ),
    Case(
        "uncompacted",
        f"{PIECES} files and a journal",
        "label",
        (_ours_side(IN_PIECES), _ours_side(BASE, "compacted"), *_peer_sides(BASE, "duckdb")),
        (ratio("ours", "compacted", at_most=2), ratio("ours", "compacted", of="wall_us"),
         *_over("duckdb")),
    ),
    Case(
        "few_labels",
        "a few labels of few keys",
        "label",
        (
            _ours_side(FEW),
            Side("ours_cold", partial(_ours_cold, join=FEW), "files not in memory",
                 counted_reads, steps=FEW.ours),
            _ours_side(BASE, "all_labels", of_case=False),
            *_peer_sides(FEW, "duckdb"),
        ),
        (Goal("bytes read / row groups with matches", ("ours_cold",), _read_share, at_most=5),
         ratio("ours", "all_labels", of="cpu_s", at_most=1 / 20), *_over("duckdb")),
    ),
    Case(
        "streamed",
        "as record batches, in little memory",
        "label",
        (Side("ours", partial(_ours_streamed, join=STREAM), "batches",
              steps=STREAM.ours),),
        (Goal("peak of own memory", ("ours",), _peak_gib, at_most=1, unit=" GiB"),),
    ),
)  # fmt: skip
