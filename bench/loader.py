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

**The bound.**  Each value is copied once from the file's pages into the cache, and written once,
each shuffled row to a place that is in no cache.  Above a pass in order, a shuffled one has (CPU a
row, a busy machine, where a pass in order takes 0.040 µs): 0.010 µs for rows of 80 bytes to random
places of two blocks of 10.5 MB in turns (0.015 alone, and 0.005 in order, from a tile in the
first-level cache, with lines asked for ahead), 0.005 for stripes of 16 KiB from all over the file,
and 0.003 for drawing the order.  These add up to 1.45 times
a pass in order; what is reached is more, and how much depends on who else uses the memory.

**Reached** (full size, medians of three rounds on a quiet machine with two CPUs; ``python -m bench
loader --size full``), CPU a row: 0.035 µs in order, that is 28 M rows a CPU-second, where pyarrow
takes 0.113 from a plain file, Lance 0.132, DuckDB 0.177, torch 0.37 and Hugging Face datasets 5.3;
3.2, 4.6 and 2.5 times the best peer in batches of 4,096, 1,024 and 8,192.  The shuffled figures
are newer, of the loader that reads its files instead of mapping them, three rounds: 0.079 µs where
a pass in order took 0.041, **2.0 times (1.6 to 2.6), of 1.5: not reached**; 87 times as cheap as
torch's DataLoader; 110 MB above the imports, of 300 (89 in order), where mapped files took 478.
15 ms to the first batch and 17 to resume were measured before that.

What is to the peers' advantage: only pyarrow's, DuckDB's, Lance's and torch's own reading is
measured, and the one transpose that makes rows of their columns; labels are left out by all but
us.  Peers that shuffle a row at a time read a part of the rows, as they would not be done
otherwise; torch's are in memory before it begins.  ``torch_in_ram`` is what somebody does who has
the memory: the whole set read into it, and a whole batch gathered at once.

Every side is gone through before it is measured, and each row compared with what was written, bit
for bit.  Memory is peak resident memory over that after the imports.
"""  # noqa: D400  a benchmark asks a question

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
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


def _whole(run: Run) -> pa.Table:
    """Return the rows: the first feature is the row's number, which float32 has up to 2**24.

    The last one is what ours joins, and the same in every row, which is to the advantage of those
    who compress it.
    """
    import numpy as np
    import pyarrow as pa

    rows = run.size.rows
    chance = np.random.default_rng((run.seed, 9))
    columns = {name: chance.random(rows, np.float32) for name in FEATURES}
    columns[FEATURES[0]] = np.arange(rows, dtype=np.float32)
    columns[FEATURES[-1]] = np.full(rows, 0.5, np.float32)
    return pa.table(columns | {"label": (chance.random(rows) < 0.2).astype(np.float32)})


def _make_set(run: Run, folder: Path) -> None:
    import pyarrow as pa

    import featurestore as fs
    from featurestore import training

    table = _whole(run)
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

    table = _whole(run).select(FEATURES)
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

    lance.write_dataset(_whole(run).select(FEATURES), str(folder / "rows.lance"))


def _make_hf(run: Run, folder: Path) -> None:
    from datasets import Dataset

    table = _whole(run).select(FEATURES).slice(0, run.size.slow_rows)
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
    import torch

    data = torch.utils.data.TensorDataset(_resident(run.path(PARQUET), run.size.slow_rows))
    for (tensor,) in torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True):
        yield tensor.numpy()


@cache
def _resident(folder: Path, rows: int) -> Any:
    """Return the first rows as a tensor; kept, so that no measured pass reads them."""
    import numpy as np
    import pyarrow.parquet as pq
    import torch

    table = pq.read_table(folder / "rows.parquet").slice(0, rows)
    return torch.from_numpy(np.concatenate(list(map(_rows, table.to_batches()))))


def _torch_in_ram(run: Run, batch: int) -> Batches:
    """Read all into memory, as part of the pass, and take a whole batch of it at a time."""
    import numpy as np
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    rows = np.empty((run.size.rows, len(FEATURES)), np.float32)
    at = 0
    for found in _pyarrow(run, 1 << 17):
        rows[at : at + len(found)] = found
        at += len(found)
    data = TensorDataset(torch.from_numpy(rows))
    sampler = BatchSampler(RandomSampler(data), batch, drop_last=False)
    for (tensor,) in DataLoader(data, sampler=sampler, batch_size=None):
        yield tensor.numpy()


def _lance_taken(run: Run, batch: int) -> Batches:
    import lance
    import numpy as np

    dataset = lance.dataset(str(run.path(LANCE) / "rows.lance"))
    chosen = np.random.default_rng(run.seed).permutation(run.size.rows)[: run.size.slow_rows]
    for start in range(0, len(chosen), batch):
        [found] = dataset.take(chosen[start : start + batch]).combine_chunks().to_batches()
        yield _rows(found)


def _hf(run: Run, batch: int, *, shuffle: bool = False) -> Batches:
    import numpy as np
    from datasets import load_from_disk

    data = load_from_disk(str(run.path(HF) / "rows")).with_format("numpy")
    data = data.shuffle(seed=0) if shuffle else data
    for found in data.iter(batch_size=batch):
        yield np.column_stack([found[name] for name in FEATURES])


class _Check:
    """Whether the rows are those that were written: each once, every bit of them."""

    def __init__(self, run: Run) -> None:
        import numpy as np

        table = _whole(run)
        self._written = np.zeros(table.num_rows, np.uint64)
        for number, name in enumerate(FEATURES):
            bits = table.column(name).combine_chunks().to_numpy().view(np.uint32)
            self._written += bits.astype(np.uint64) * self._factor(number)
        self._seen = np.zeros(table.num_rows, bool)
        self._rows, self._wrong, self._in_order = 0, 0, True

    @staticmethod
    def _factor(number: int) -> Any:
        """Return what the bits of a column are multiplied by: odd, so that none is lost."""
        import numpy as np

        return np.uint64(0x9E3779B97F4A7C15 * (2 * number + 1) & 0xFFFFFFFFFFFFFFFF)

    def take(self, x: np.ndarray[Any, Any]) -> None:
        import numpy as np

        assert x.dtype == np.float32
        assert x.shape[1] == len(FEATURES)
        assert x.flags.c_contiguous or x.strides[1] == 4
        rows = x[:, 0].astype(np.int64)
        bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
        found = np.zeros(len(x), np.uint64)
        for number in range(len(FEATURES)):
            found += bits[:, number] * self._factor(number)
        self._wrong += int((found != self._written[rows]).sum() + self._seen[rows].sum())
        self._seen[rows] = True
        self._in_order &= bool((rows == np.arange(self._rows, self._rows + len(x))).all())
        self._rows += len(x)

    def done(self, run: Run, order: bool | None) -> int:
        """Say what was found; ``order`` is whether it was to be in that of the rows."""
        whole = self._rows == int(self._seen.sum()) in (run.size.rows, run.size.slow_rows)
        told = {"whole": whole, "wrong": self._wrong}
        expected = {"whole": True, "wrong": 0}
        if order is not None:
            told["in_order"], expected["in_order"] = self._in_order, order
        run.answers([told], [expected])
        return self._rows


def _all(make: Callable[[Run], Batches], step: Step, order: bool | None, run: Run) -> None:
    """Go through all batches once unmeasured, looking at every row, then measured."""
    if step is OURS:
        import featurestore.training.loader  # noqa: F401  its kernels with it
    imported = _resident_mb()
    with run.warming_up():
        check = _Check(run)
        for x in make(run):
            check.take(x)
        rows = check.done(run, order)
        del check, x
    with run.measuring(rows, watched=True):
        for x in make(run):
            _ = x[0, 0], x[-1, -1]  # somebody looks at a batch
    above = run.found["peak_bytes"] / 1e6 - imported
    run.note(above_mb=max(0.0, above), rows_per_cpu_s=rows / run.found["cpu_s"])


def _resident_mb() -> float:
    """Return what is resident now: what was before is forgotten."""
    from bench.harness import memory, reset_peak_memory

    reset_peak_memory()
    return memory()["peak_bytes"] / 1e6


def _side(
    name: str,
    make: Callable[..., Batches],
    batch: int,
    step: Step,
    need: Callable[[Options], str | None] = nothing,
    order: bool | None = None,
    **options: Any,
) -> Side:
    work = partial(_all, lambda run: make(run, batch, **options), step, order)
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
    read = partial(_side, batch=batch, order=True)
    ours = read("ours", _ours, step=OURS, shuffle=False)
    sides = (
        ours,
        read("pyarrow", _pyarrow, step=PARQUET),
        read("pyarrow_plain", _pyarrow, step=PARQUET, file="plain.parquet"),
        read("duckdb", _duckdb, step=PARQUET),
        read("lance", _lance, step=LANCE, need=_package("lance")),
        read("torch", _torch_stream, step=PARQUET, need=_package("torch")),
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
        _side("hf", _hf, BATCH, HF, _package("datasets"), order=True),
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
            _side("torch_in_ram", _torch_in_ram, BATCH, PARQUET, _package("torch")),
            _side("lance_taken", _lance_taken, BATCH, LANCE, _package("lance")),
            _side("hf", partial(_hf, shuffle=True), BATCH, HF, _package("datasets")),
        ),
        (
            ratio("ours", "ours_in_order", at_most=1.5),
            ratio("torch", "ours", at_least=20),
            ratio("hf", "ours", at_least=20),
            ratio("lance_taken", "ours", at_least=20),
            ratio("torch_in_ram", "ours", at_least=1),
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
