"""What does it cost to find out whether a window has drifted, beside scipy and Evidently?

============  ===================================================================================
case          a window and a baseline of 1M rows x 20 features each, at full size
============  ===================================================================================
data_quality  16 numbers, 4 texts of up to 1,000 values.  `ours` reads the window from the store
              (one compacted file), maps the baseline, and gives moments, completeness, domains,
              KS, Wasserstein, PSI, Jensen-Shannon, L-infinity, chi-square and quantiles of each
              feature, with Model Monitor's six checks; `scipy` has both sides as arrays in memory
              and gives KS, Wasserstein and chi-square, column by column; `evidently` its
              DataDriftPreset on data frames in memory
============  ===================================================================================

**A surprise would be** less than a sort of the window's numbers costs, without its cardinality
being known beforehand: KS needs the order.

**The bound.**  16 sorts of a million at 20 ms (radix), 16 walks over two million at 5 to 10,
moments at 2, four dictionaries at 10, and reading 160 MB of columns at 300 in all: 0.9 CPU-s.
Memory: 160 MB are the window's numbers sorted and two columns being read, 8 the column of the
baseline that is mapped at the moment; the rest, 290 MB, is Python with its libraries before
anything is read.

**Reached** (``python -m bench drift --size full``, medians of three rounds on a quiet machine with
two CPUs, with the ranges): 1.13 CPU-s (1.01 to 1.17), 16.1 times as cheap as scipy (15.4 to 16.3;
18.1 CPU-s) and 86.3 times as cheap as Evidently 0.7.23 (84.7 to 95.9; 97.2 CPU-s), and 497 MiB
resident at the peak, the process whole, pages of mapped files counted.  The goals are 10, 80, and
600 MB.

`scipy` and `ours` agree on every KS and Wasserstein to six digits, and with a plain computation.
"""  # noqa: D400  a benchmark asks a question

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.harness import Case, Goal, Run, Side, Step, ratio

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from bench.harness import Options

NUMBERS = tuple(f"n{i:02}" for i in range(16))
TEXTS = tuple(f"t{i}" for i in range(4))
GROUP = "readings"
START_US = 1_704_067_200_000_000


class Size(NamedTuple):
    """How many rows each side has."""

    rows: int


SIZES = {"tiny": Size(2_000), "small": Size(100_000), "full": Size(1_000_000)}


def rows_of(rows: int, seed: int, shift: float) -> pa.Table:
    """Return rows of normal, skewed, rounded and mostly-zero numbers, and texts."""
    import numpy as np
    import pyarrow as pa

    chance = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for i, name in enumerate(NUMBERS):
        values = chance.normal(shift * (i % 4), 1 + shift, rows)
        kind = i % 4
        if kind == 1:
            values = np.exp(values)
        elif kind == 2:
            values = np.round(values * 100)
        elif kind == 3:
            values = np.maximum(values - 1, 0)
        columns[name] = pa.array(values, mask=chance.random(rows) < 0.01 * (i % 3))
    for i, name in enumerate(TEXTS):
        names = pa.array([f"value {v}" for v in range(10 ** min(i + 1, 3))])
        weights = 1 / np.arange(1, len(names) + 1) ** (1 + shift)
        drawn = chance.choice(len(names), rows, p=weights / weights.sum())
        columns[name] = names.take(pa.array(drawn))
    return pa.table(columns)


def make_rows(run: Run, folder: Path) -> None:
    """Write both sides, and what a plain computation makes of them."""
    from bench.datasets import save

    base, window = (rows_of(run.size.rows, run.seed + i, 0.05 * i) for i in (0, 1))
    save(base, folder / "base")
    save(window, folder / "window")
    expected = [plain(name, *(values_of(t, name) for t in (base, window))) for name in NUMBERS]
    (folder / "expected.json").write_text(json.dumps(expected))


def values_of(table: pa.Table, name: str) -> np.ndarray:
    """Return the values of a column that are there."""
    import numpy as np

    return np.asarray(table[name].drop_null().combine_chunks())


def plain(name: str, base: np.ndarray, window: np.ndarray) -> dict[str, Any]:
    """Return the distances of two samples, looked up at every value."""
    import numpy as np

    places = np.unique(np.concatenate([base, window]))
    shares = [np.searchsorted(np.sort(s), places, side="right") / s.size for s in (base, window)]
    gap = np.abs(shares[0] - shares[1])
    area = float((gap[:-1] * np.diff(places)).sum())
    return answer(name, float(gap.max()), area)


def answer(name: str, ks: float, wasserstein: float) -> dict[str, Any]:
    """Return distances as they are compared."""
    return {"feature": name, "ks": round(ks, 6), "wasserstein": float(f"{wasserstein:.6g}")}


ROWS = Step("rows", make_rows)


def make_store(run: Run, folder: Path) -> None:
    """Bring the window into a store, compacted; and make the baseline."""
    import numpy as np
    import pyarrow as pa

    import featurestore as fs
    from bench.datasets import read
    from featurestore import monitor

    window = read(run.path(ROWS) / "window")
    rows = window.num_rows
    moments = pa.array(START_US + np.arange(rows) * 1_000).view(pa.timestamp("us", "UTC"))
    window = window.append_column("id", pa.array(np.arange(rows))).append_column("at", moments)
    with fs.open(folder / "store", upkeep=False) as store:
        store.create_feature_group(GROUP, record_identifier="id", event_time="at", like=window)
        store.ingest(GROUP, window, progress=False)
        store.compact()
        base = monitor.baseline(store, read(run.path(ROWS) / "base"))
        base.save(folder / "base")


STORE = Step("watched", make_store, after=(ROWS,))


def ours(run: Run) -> None:
    """Read, sum up, compare and check."""
    import featurestore as fs
    from featurestore.monitor import data_quality, drift, kinds, sources
    from featurestore.monitor.baselines import Baseline

    folder = run.path(STORE)
    with run.compiling():
        from featurestore.kernels import drift as kernels

        assert kernels is not None
    with fs.open(folder / "store", read_only=True) as store:
        with run.warming_up():
            store.sql(f"SELECT count(*) FROM {GROUP}")
        end_us = START_US + run.size.rows * 1_000
        period = sources.window_of((sources.to_datetime(START_US), sources.to_datetime(end_us)))
        with run.measuring(run.size.rows, watched=True):
            base = Baseline.load(folder / "base")
            asked = kinds.Asked(store, sources.source_of(f"group:{GROUP}"), period, base, {})
            _, columns = asked.summed_up()
            distances = drift.compare_all(base.columns, columns)
            metrics = drift.moved(base.columns, columns, distances=distances)
            checked, _ = data_quality.check(
                columns, base.constraints, base.columns, distances=distances
            )
    assert len(checked) > len(NUMBERS) + len(TEXTS)
    found = {(metric.feature, metric.metric): metric.value for metric in metrics}
    told = [answer(n, found[n, "ks"], found[n, "wasserstein"]) for n in NUMBERS]
    run.answers(told, json.loads((run.path(ROWS) / "expected.json").read_text()))


def scipy(run: Run) -> None:
    """Take each column with scipy, both sides in memory."""
    from scipy import stats

    from bench.datasets import read

    sides = [read(run.path(ROWS) / name) for name in ("base", "window")]
    numbers = {name: [values_of(side, name) for side in sides] for name in NUMBERS}
    texts = {name: [side[name].combine_chunks() for side in sides] for name in TEXTS}
    told = []
    with run.measuring(run.size.rows, watched=True):
        for name, (base, window) in numbers.items():
            ks = stats.ks_2samp(base, window, method="asymp").statistic
            told.append(answer(name, float(ks), stats.wasserstein_distance(base, window)))
        for base, window in texts.values():
            counts = [
                {pair["values"]: pair["counts"] for pair in side.value_counts().to_pylist()}
                for side in (base, window)
            ]
            values = list({**counts[0], **counts[1]})
            stats.chi2_contingency([[side.get(v, 0) for v in values] for side in counts])
    run.answers(told, json.loads((run.path(ROWS) / "expected.json").read_text()))


def evidently(run: Run) -> None:
    """Run its preset on data frames in memory."""
    import pyarrow as pa
    from evidently import Report
    from evidently.presets import DataDriftPreset

    def frame(name: str) -> Any:
        with pa.OSFile(str(run.path(ROWS) / name), "rb") as source:
            return pa.ipc.open_file(source).read_all().to_pandas()

    base, window = frame("base"), frame("window")
    with run.measuring(run.size.rows, watched=True):
        Report([DataDriftPreset()]).run(window, base)


def needs(package: str) -> Any:
    """Return the need of a package that is no part of the store."""

    def need(_options: Options) -> str | None:
        return None if find_spec(package) else f"needs the Python package {package}"

    return need


CASES = (
    Case(
        "data_quality",
        "has a window of 20 features drifted?",
        "row",
        (
            Side("ours", ours, "all metrics and checks, read included", steps=(STORE,)),
            Side("scipy", scipy, "KS, Wasserstein, chi-square; arrays ready",
                 needs=needs("scipy"), steps=(ROWS,)),
            Side("evidently", evidently, "its drift preset; frames ready",
                 needs=needs("evidently"), steps=(ROWS,)),
        ),
        (
            ratio("scipy", "ours", at_least=10),
            ratio("evidently", "ours", at_least=80),
            Goal("ours, CPU a million rows", ("ours",),
                 lambda figures: figures["ours"]["cpu_us"], at_most=1.5, unit=" s"),
            Goal("ours, peak memory", ("ours",),
                 lambda figures: figures["ours"]["peak_bytes"] / 2**20, at_most=600, unit=" MiB"),
        ),
    ),
)  # fmt: skip
