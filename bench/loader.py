"""What does a batch of a training set cost, in order and shuffled, beside those who only read?

==============  ==================================================================================
case            what is read: 5M rows x 20 float32 and a label (full), as float32 batches of 4,096
==============  ==================================================================================
sequential      all batches of an epoch in the order of the set
small_batches   the same in batches of 1,024
large_batches   the same in batches of 8,192
shuffled        all batches of an epoch in an order drawn from a seed
first_batch     from an open set to the first shuffled batch
resume          from a saved state to the batch after it, in the middle of an epoch
==============  ==================================================================================

**A surprise would be** a shuffled pass over 1.5 times as dear as one in order: both read the same
columns forwards, and what is shuffled is where whole rows are laid down.

**The bound.**  Each value is read once from mapped memory and written once, each shuffled row to a
place that is in no cache.

**Reached** (full size, medians of the rounds; ``python -m bench loader --size full``): not yet
measured on a quiet machine.  In the small size on a busy one, CPU a row: 0.06 µs in order (pyarrow
0.15 to 0.19, DuckDB 0.25), 1.6 times that shuffled; 18 ms to the first batch, 13 ms to resume.

What is to the peers' advantage: only pyarrow's, DuckDB's, Lance's and torch's own reading is
measured, and the one transpose that makes rows of their columns; labels are left out by all but
us.  Peers that shuffle read a part of the rows, as they would not be done otherwise.
"""  # noqa: D400  a benchmark asks a question

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.harness import Case, Goal, Options, Run, Side, Step, nothing, ratio

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

FEATURES = tuple(f"f{i:02}" for i in range(20))
BATCH = 4096
WINDOW_MEMORY = 300  # MB above what was there before, in fastfile mode


@dataclass(frozen=True)
class Size:
    """The numbers of one size: rows, and rows for peers that take a row at a time."""

    rows: int
    slow_rows: int


SIZES = {
    "tiny": Size(20_000, 2_000),
    "small": Size(1_000_000, 20_000),
    "full": Size(5_000_000, 50_000),
}


# ── making ───────────────────────────────────────────────────────────────────────────────────


def _table(run: Run) -> pa.Table:
    """Return the rows: the first feature is the row's number, as far as float32 tells."""
    import numpy as np
    import pyarrow as pa

    rows = run.size.rows
    chance = np.random.default_rng((run.seed, 9))
    columns = {name: chance.random(rows, np.float32) for name in FEATURES}
    columns[FEATURES[0]] = np.arange(rows, dtype=np.float32)
    return pa.table(columns | {"label": (chance.random(rows) < 0.2).astype(np.float32)})


def _make_set(run: Run, folder: Path) -> None:
    import pyarrow as pa

    import featurestore as fs
    from featurestore import training

    table = _table(run)
    at = pa.array(range(table.num_rows), pa.int64()).view(pa.timestamp("us", "UTC"))
    key = pa.array([0] * table.num_rows, pa.int8())
    labels = table.drop_columns([FEATURES[-1]])
    labels = labels.append_column("event_time", at).append_column("k", key)
    with fs.open(folder / "store") as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "int8", "t": "timestamp", FEATURES[-1]: "float32"},
        )  # fmt: skip
        store.put_record("g", {"k": 0, "t": "1970-01-01T00:00Z", FEATURES[-1]: 0.5})
        training.training_set(
            store, "rows", labels=labels, label="label", features=f"g:{FEATURES[-1]}",
            from_labels=FEATURES[:-1],
        )  # fmt: skip


def _make_parquet(run: Run, folder: Path) -> None:
    import pyarrow.parquet as pq

    table = _table(run).select(FEATURES)
    pq.write_table(
        table, folder / "rows.parquet", compression="zstd", compression_level=1,
        use_dictionary=False, row_group_size=131_072,
    )  # fmt: skip
    # As ours lies on disk: who reads this spends nothing on decompression.
    pq.write_table(
        table, folder / "plain.parquet", compression="none", use_dictionary=False,
        row_group_size=131_072,
    )  # fmt: skip


def _make_lance(run: Run, folder: Path) -> None:
    import lance

    lance.write_dataset(_table(run).select(FEATURES), str(folder / "rows.lance"))


def _make_hf(run: Run, folder: Path) -> None:
    from datasets import Dataset

    table = _table(run).select(FEATURES).slice(0, run.size.slow_rows)
    Dataset(table).save_to_disk(str(folder / "rows"))


def _package(name: str) -> Callable[[Options], str | None]:
    def need(_options: Options) -> str | None:
        return None if find_spec(name) else f"needs the Python package {name}"

    return need


OURS = Step("loader-set", _make_set)
PARQUET = Step("loader-parquet", _make_parquet)
LANCE = Step("loader-lance", _make_lance, needs=_package("lance"))
HF = Step("loader-hf", _make_hf, needs=_package("datasets"))


# ── reading ──────────────────────────────────────────────────────────────────────────────────

Batches = Iterator["np.ndarray[Any, Any]"]


def _open(run: Run) -> Any:
    from featurestore.training import TrainingSet

    [path] = (run.path(OURS) / "store" / "sets").iterdir()
    return TrainingSet.open(path)


def _ours(run: Run, batch: int, **options: Any) -> Batches:
    for x, _ in _open(run).loader(batch=batch, **options):
        yield x


def _rows(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
    """Return a record batch as rows: a column of the matrix at a time."""
    import numpy as np

    rows = np.empty((batch.num_rows, batch.num_columns), np.float32)
    for at, column in enumerate(batch.columns):
        rows[:, at] = np.frombuffer(column.buffers()[1], np.float32, len(column), 4 * column.offset)
    return rows


def _pyarrow(run: Run, batch: int, *, file: str = "rows.parquet") -> Batches:
    import pyarrow.dataset as ds

    dataset = ds.dataset(run.path(PARQUET) / file)
    return map(_rows, dataset.to_batches(batch_size=batch))


def _duckdb(run: Run, batch: int) -> Batches:
    import duckdb

    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT * FROM '{run.path(PARQUET) / 'rows.parquet'}'")
        yield from map(_rows, found.to_arrow_reader(batch))


def _lance(run: Run, batch: int) -> Batches:
    import lance

    dataset = lance.dataset(str(run.path(LANCE) / "rows.lance"))
    return map(_rows, dataset.to_batches(batch_size=batch))


def _torch_stream(run: Run, batch: int) -> Batches:
    import pyarrow.parquet as pq
    import torch

    class Rows(torch.utils.data.IterableDataset):  # type: ignore[misc]
        def __iter__(self) -> Iterator[Any]:
            file = pq.ParquetFile(run.path(PARQUET) / "rows.parquet")
            for found in file.iter_batches(batch):
                yield torch.from_numpy(_rows(found))

    for tensor in torch.utils.data.DataLoader(Rows(), batch_size=None):
        yield tensor.numpy()


def _torch_shuffled(run: Run, batch: int) -> Batches:
    import numpy as np
    import torch

    rows = np.concatenate(list(_pyarrow(run, 1 << 17)))[: run.size.slow_rows]
    data = torch.utils.data.TensorDataset(torch.from_numpy(rows))
    for (tensor,) in torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True):
        yield tensor.numpy()


def _hf(run: Run, batch: int, *, shuffle: bool = False) -> Batches:
    import numpy as np
    from datasets import load_from_disk

    data = load_from_disk(str(run.path(HF) / "rows")).with_format("numpy")
    data = data.shuffle(seed=0) if shuffle else data
    for found in data.iter(batch_size=batch):
        yield np.column_stack([found[name] for name in FEATURES])


def _all(make: Callable[[Run], Batches], run: Run) -> None:
    """Go through all batches once unmeasured, then measured; each row is there once."""
    import numpy as np

    first = []
    with run.warming_up():
        for x in make(run):
            assert x.dtype == np.float32
            assert x.flags.c_contiguous or x.strides[1] == 4
            first.append(x[:, 0].astype(np.int64))
    rows = np.sort(np.concatenate(first))
    run.answers(
        [{"distinct": len(np.unique(rows)) == len(rows), "from": int(rows[0])}],
        [{"distinct": True, "from": 0}],
    )
    started = _anonymous_mb()
    with run.measuring(len(rows), watched=True):
        for x in make(run):
            _ = x[0, 0], x[-1, -1]  # somebody looks at a batch
    peak = run.found.get("peak_anonymous_bytes", 0) / 1e6
    run.note(above_mb=max(0.0, peak - started), rows_per_cpu_s=len(rows) / run.found["cpu_s"])


def _anonymous_mb() -> float:
    from bench.harness import memory

    return memory().get("anonymous_bytes", 0) / 1e6


def _side(
    name: str,
    make: Callable[..., Batches],
    batch: int,
    step: Step,
    need: Callable[[Options], str | None] = nothing,
    **options: Any,
) -> Side:
    work = partial(_all, lambda run: make(run, batch, **options))
    return Side(name, work, needs=need, steps=(step,))


def _first(run: Run) -> None:
    """Measure how long the first batch takes, of a set opened anew each time."""

    def first() -> Any:
        loader = _open(run).loader(batch=BATCH, seed=1)
        batches = iter(loader)
        x = next(batches)[0]
        batches.close()  # type: ignore[attr-defined]
        return x

    _latencies(run, first)


def _resume(run: Run) -> None:
    """Measure how long the next batch takes after a state was loaded."""
    loader = _open(run).loader(batch=BATCH, seed=1)
    state = {**loader.state_dict(), "batch": len(loader) // 2}

    def resumed() -> Any:
        other = _open(run).loader(batch=BATCH)
        other.load_state_dict(state)
        batches = iter(other)
        x = next(batches)[0]
        batches.close()  # type: ignore[attr-defined]
        return x

    _latencies(run, resumed)


def _latencies(run: Run, work: Callable[[], Any]) -> None:
    with run.warming_up():
        expected = work().tolist()
    found, taken = None, []
    with run.measuring(10):
        for _ in range(10):
            start = time.perf_counter_ns()
            found = work()
            taken.append(time.perf_counter_ns() - start)
    run.latencies(taken)
    run.answers([{"same": found is not None and found.tolist() == expected}], [{"same": True}])


# ── cases ────────────────────────────────────────────────────────────────────────────────────


def _sequential(name: str, batch: int, question: str, *peers: Side) -> Case:
    ours = _side("ours", _ours, batch, OURS, shuffle=False)
    sides = (
        ours,
        _side("pyarrow", _pyarrow, batch, PARQUET),
        _side("pyarrow_plain", _pyarrow, batch, PARQUET, file="plain.parquet"),
        _side("duckdb", _duckdb, batch, PARQUET),
        _side("lance", _lance, batch, LANCE, _package("lance")),
        _side("torch", _torch_stream, batch, PARQUET, _package("torch")),
        *peers,
    )
    goals = tuple(ratio("ours", side.name, at_most=1.0) for side in sides[1:])
    return Case(name, question, "row", sides, goals)


def _mb(side: str) -> Goal:
    return Goal(
        f"{side}, MB above imports", (side,), lambda f: f[side]["above_mb"], WINDOW_MEMORY,
        unit=" MB",
    )  # fmt: skip


CASES = (
    _sequential(
        "sequential", BATCH, "all batches, in order",
        _side("hf", _hf, BATCH, HF, _package("datasets")),
    ),
    _sequential("small_batches", 1024, "in batches of 1,024"),
    _sequential("large_batches", 8192, "in batches of 8,192"),
    Case(
        "shuffled", "all batches, in an order drawn from a seed", "row",
        (
            _side("ours", _ours, BATCH, OURS, seed=1),
            _side("ours_in_order", _ours, BATCH, OURS, shuffle=False),
            _side("ours_file", _ours, BATCH, OURS, seed=1, mode="file"),
            _side("torch", _torch_shuffled, BATCH, PARQUET, _package("torch")),
            _side("hf", partial(_hf, shuffle=True), BATCH, HF, _package("datasets")),
        ),
        (
            ratio("ours", "ours_in_order", at_most=1.5),
            ratio("torch", "ours", at_least=20),
            ratio("hf", "ours", at_least=20),
            _mb("ours"),
            _mb("ours_in_order"),
        ),
    ),
    Case(
        "first_batch", "from an open set to the first batch", "batch",
        (Side("ours", _first, steps=(OURS,)),),
        (Goal("first batch, p50", ("ours",), lambda f: f["ours"]["p50_us"] / 1e6, 0.2, unit=" s"),),
    ),
    Case(
        "resume", "from a state to the batch after it", "batch",
        (Side("ours", _resume, steps=(OURS,)),),
        (Goal("resume, p50", ("ours",), lambda f: f["ours"]["p50_us"] / 1e6, 0.2, unit=" s"),),
    ),
)  # fmt: skip
