"""What the joins are made of: sizes, histories and labels, the store that holds them, the answer.

::

    Join ─┬─ data      histories, as Arrow and as Parquet of pyarrow's defaults     Step
          ├─ asked     labels, and the sum of what must be answered                 Step
          └─ store     ours, compacted or in pieces and a journal                   Step

Several joins may share data and store: only their labels differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import asof, datasets, histories
from bench.datasets import ENTITY, EVENT_TIME
from bench.harness import BenchmarkFailed, Run, Step
from bench.histories import ROW, History

if TYPE_CHECKING:
    import pyarrow as pa

PIECES = 50
JOURNAL_ROWS = 4_096  # an ingest of so few leaves them in the journal


@dataclass(frozen=True)
class Size:
    """The numbers of one size.

    Attributes
    ----------
    labels, rows, keys : int
        Of the joins with one group.
    tail : int
        Rows in the journal of `uncompacted`.
    five_rows : int
        Of each of the five groups.
    ride_labels, zones, ride_minutes : int
        Of `rides`: a group has a row for each zone and 15, 30 or 60 minutes.
    wide_labels, wide_groups, wide_features, feast_labels : int
        Of `wide`; Feast is asked for fewer.
    few_labels, few_keys : int
        Of `few_labels`.
    stream_labels : int
        Of `streamed`.
    """

    labels: int
    rows: int
    keys: int
    tail: int
    five_rows: int
    ride_labels: int
    zones: int
    ride_minutes: int
    wide_labels: int
    wide_groups: int
    wide_features: int
    feast_labels: int
    few_labels: int
    few_keys: int
    stream_labels: int


SIZES = {
    "tiny": Size(2_000, 20_000, 200, 500, 4_000, 4_000, 20, 5_000, 300, 3, 5, 30, 50, 5, 4_000),
    "small": Size(
        100_000, 1_000_000, 10_000, 5_000, 200_000, 1_000_000, 263, 10_000,
        1_700, 10, 100, 170, 100, 20, 1_000_000,
    ),
    "full": Size(
        1_000_000, 10_000_000, 100_000, 50_000, 2_000_000, 10_000_000, 263, 40_000,
        17_000, 10, 100, 1_700, 1_000, 20, 10_000_000,
    ),
}  # fmt: skip


# ── what is joined ───────────────────────────────────────────────────────────────────────────


def base(size: Size) -> list[History]:
    """One group of integer keys."""
    return [History("base", size.rows, size.keys)]


def skewed(size: Size) -> list[History]:
    """One group whose keys follow Zipf's law."""
    return [History("skewed", size.rows, size.keys, skewed=True)]


def text(size: Size) -> list[History]:
    """One group of text keys."""
    return [History("text", size.rows, size.keys, text=True)]


def five(size: Size) -> list[History]:
    """Five groups of the same keys."""
    return [History(f"five{number}", size.five_rows, size.keys) for number in range(5)]


def rides(size: Size) -> list[History]:
    """Three groups of few keys and few rows, looked up by two columns."""

    def every(name: str, minutes: int, on: str) -> History:
        return History(name, size.zones * size.ride_minutes // minutes, size.zones, 2, on=on)

    return [every("pickup", 15, "pu"), every("dropoff", 30, "do"), every("zone", 60, "pu")]


def wide(size: Size) -> list[History]:
    """Many groups of many features, two rows a key."""
    one = History("", 2 * size.wide_labels, size.wide_labels, size.wide_features, text=True)
    one = replace(one, complete=True)  # Feast drops labels that nothing answers
    return [replace(one, name=f"wide{number}") for number in range(size.wide_groups)]


@dataclass(frozen=True)
class Join:
    """Labels and histories, and the steps that make them.

    Attributes
    ----------
    name : str
        Of the labels; the data have the name of ``histories``.
    labels : str
        The number of a size that says how many.
    keys : str, optional
        The number that says how many of the keys occur in them.
    compacted : bool
        How our store holds the histories; else in pieces and a journal.
    """

    name: str
    histories: Callable[[Size], list[History]]
    labels: str = "labels"
    keys: str | None = None
    compacted: bool = True

    @property
    def data(self) -> Step:
        """Histories as Arrow, and as Parquet of pyarrow's defaults."""
        name = self.histories.__name__
        return Step(f"pit-data-{name}", partial(_make_data, join=self))

    @property
    def asked(self) -> Step:
        """Labels, and what the answer is."""
        return Step(f"pit-labels-{self.name}", partial(_make_labels, join=self))

    @property
    def store(self) -> Step:
        """Our store."""
        name = f"{self.histories.__name__}-{'cells' if self.compacted else 'pieces'}"
        return Step(f"pit-store-{name}", partial(_make_store, join=self), after=(self.data,))

    @property
    def peers(self) -> tuple[Step, ...]:
        """What peers need."""
        return (self.data, self.asked)

    @property
    def ours(self) -> tuple[Step, ...]:
        """What a side of ours needs."""
        return (self.store, self.asked)


def _make_data(run: Run, folder: Path, *, join: Join) -> None:
    import pyarrow.parquet as pq

    for history in join.histories(run.size):
        table = history.table(run.seed)
        datasets.save(table, folder / f"{history.name}.arrow")
        pq.write_table(table, folder / f"{history.name}.parquet")


def _make_labels(run: Run, folder: Path, *, join: Join) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = join.histories(run.size)
    keys = None if join.keys is None else getattr(run.size, join.keys)
    table, places = histories.draw_labels(
        found, getattr(run.size, join.labels), run.seed, keys=keys
    )
    datasets.save(table, folder / "labels.arrow")
    pq.write_table(table, folder / "labels.parquet")
    expected = {"all": 0, "first": 0}
    for history in found:
        np.save(folder / f"{history.name}.npy", places[history.name])
        columns = histories.gathered(history.table(run.seed), places[history.name], history.names)
        answer = pa.table({ROW: table.column(ROW), **columns})
        first = answer.slice(0, run.size.feast_labels)
        expected["all"] += histories.checksum(answer, history.names)
        expected["first"] += histories.checksum(first, history.names)
    kept = {part: value % 2**64 for part, value in expected.items()}
    (folder / "expected.json").write_text(json.dumps(kept), encoding="utf-8")


def _make_store(run: Run, folder: Path, *, join: Join) -> None:
    import featurestore as fs

    # What is compacted and what is not is part of the question.
    with fs.open(folder / "store", durability="rebuildable", upkeep=False) as store:
        for history in join.histories(run.size):
            table = datasets.read(run.path(join.data) / f"{history.name}.arrow")
            create(store, history, table)
            if join.compacted:
                store.ingest(history.name, table)
                store.flush()  # a few thousand rows are in the journal
                store.compact()
            else:
                _ingest_in_pieces(store, history.name, table, run.size.tail)
        paths = {history.name: _files(store, history.name) for history in join.histories(run.size)}
    (folder / "files.json").write_text(json.dumps(paths), encoding="utf-8")


def create(store: Any, history: History, table: pa.Table) -> None:
    """Make the group for a table, without an online store."""
    store.create_feature_group(
        history.name,
        record_identifier=ENTITY,
        event_time=EVENT_TIME,
        features=datasets.features_schema(table),
        online=False,
    )


def _ingest_in_pieces(store: Any, name: str, table: pa.Table, tail: int) -> None:
    filed = table.num_rows - tail
    for piece in range(PIECES):
        low, high = (filed * number // PIECES for number in (piece, piece + 1))
        store.ingest(name, table.slice(low, high - low))
        store.flush()
    for low in range(filed, table.num_rows, JOURNAL_ROWS):
        store.ingest(name, table.slice(low, JOURNAL_ROWS))
    facts = store.stat()["groups"][name]
    assert (facts["files"], facts["journal_rows"]) == (PIECES, tail), facts


def _files(store: Any, name: str) -> list[str]:
    """Return the listed files of a group, relative to the store; others wait for the cleaner."""
    with store._database.snapshot([name], with_tail=False) as snapshots:  # noqa: SLF001
        return [entry.path for entry in snapshots[name].files]


# ── what is answered ─────────────────────────────────────────────────────────────────────────


def require_answer(run: Run, join: Join, answer: pa.Table, *, of_case: bool = True) -> None:
    """Compare an answer with what it must be; if it is the case's, with the other sides' too."""
    rows = getattr(run.size, join.labels)
    names = asof.features_of(join.histories(run.size))
    require_sum(
        run, join, answer.num_rows, histories.checksum(answer, names), rows, of_case=of_case
    )


def require_sum(
    run: Run, join: Join, found: int, checksum: int, rows: int, *, of_case: bool, part: str = "all"
) -> None:
    """Compare how many rows were answered, and the sum over all values, with what must be."""
    path = run.path(join.asked) / "expected.json"
    expected = json.loads(path.read_text(encoding="utf-8"))[part]
    said, wanted = ({"rows": found, "sum": checksum}, {"rows": rows, "sum": expected})
    if of_case:
        run.answers([said], [wanted])
    elif said != wanted:
        raise BenchmarkFailed(f"{join.name}: the answer is {said}, and must be {wanted}")


def labels_of(run: Run, join: Join) -> pa.Table:
    """Read the labels."""
    return datasets.read(run.path(join.asked) / "labels.arrow")


def parquet_of(run: Run, join: Join) -> dict[str, list[Path]]:
    """Return the default Parquet files."""
    folder = run.path(join.data)
    return {h.name: [folder / f"{h.name}.parquet"] for h in join.histories(run.size)}


def arrow_of(run: Run, join: Join) -> dict[str, pa.Table]:
    """Read the histories."""
    folder = run.path(join.data)
    return {h.name: datasets.read(folder / f"{h.name}.arrow") for h in join.histories(run.size)}


def store_files_of(run: Run, join: Join) -> dict[str, list[Path]]:
    """Return the files that our store lists."""
    folder = run.path(join.store)
    found = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    return {name: [folder / "store" / path for path in paths] for name, paths in found.items()}


def read_through(sources: Mapping[str, Sequence[Path]]) -> None:
    """Have files in the page cache, whoever was there before."""
    for path in (path for paths in sources.values() for path in paths):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def labels_file_of(run: Run, join: Join) -> Path:
    """Return the labels' Parquet file."""
    return run.path(join.asked) / "labels.parquet"
