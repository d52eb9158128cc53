"""Monitors on a store: baselines that do not alarm, windows once, alerts, pages, and what is kept.

A small world: readings of twenty sensors, one a minute, for some days; then something changes.
"""

from __future__ import annotations

import http.server
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import monitor
from featurestore.errors import InvalidInput, StoreBusy
from featurestore.monitor import (
    alerts,
    baselines,
    bias,
    columns,
    cron,
    data_quality,
    drift,
    execution,
    formats,
    kinds,
    model_quality,
    monitors,
    reports,
    schedule,
    sources,
    svg,
    watch,
)
from featurestore.monitor.sources import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    import featurestore as fs

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURLY = "cron(0 * ? * * *)"
TOLD: list[dict[str, Any]] = []


def told(message: dict[str, Any]) -> None:
    """Take an alert, as a user's function does."""
    TOLD.append(message)


def refusing(_message: dict[str, Any]) -> None:
    """Fail, as a user's function may."""
    raise ValueError("no")


def readings(start: datetime, hours: int, seed: int, shift: float = 0.0) -> pa.Table:
    """Return 120 readings an hour: a number that follows the time of day, a text, a count."""
    chance = np.random.default_rng(seed)
    rows = 120 * hours
    at = [start + timedelta(seconds=30 * i) for i in range(rows)]
    swing = 0.3 * np.sin(np.arange(rows) / 120 / 24 * 2 * np.pi)
    return pa.table(
        {
            "sensor": pa.array(np.arange(rows) % 20),
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "temp": pa.array(
                chance.normal(shift, 1, rows) + swing, mask=chance.random(rows) < 0.02
            ),
            "state": pa.array(chance.choice(["on", "off", "idle"], rows, p=[0.6, 0.3, 0.1])),
            "count": pa.array(chance.poisson(3, rows)),
        }
    )


class Clock:
    """The store's clock, moved by the test."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(MONDAY + 24 * HOUR)


@pytest.fixture
def world(open_store: Callable[..., fs.FeatureStore], clock: Clock) -> fs.FeatureStore:
    """Return a store with a day of readings."""
    store = open_store(clock=clock)
    table = readings(MONDAY, 24, seed=1)
    store.create_feature_group("readings", record_identifier="sensor", event_time="at", like=table)
    store.ingest("readings", table)
    return store


@pytest.fixture
def healthy(world: fs.FeatureStore) -> monitor.Baseline:
    return monitor.baseline(
        world, "group:readings", window=(MONDAY, MONDAY + 24 * HOUR), every="1h"
    )


def hour(number: int) -> Window:
    start = MONDAY + number * HOUR
    return sources.window_of((start, start + HOUR))


# ── baselines ────────────────────────────────────────────────────────────────────────────────


def test_a_baseline_compared_with_its_own_period_raises_no_alarm(
    world: fs.FeatureStore, healthy: monitor.Baseline
) -> None:
    day = (MONDAY, MONDAY + 24 * HOUR)
    for kind, more in (
        ("data_quality", {}), ("drift", {}), ("schema", {}), ("skew", {"sample": 50}),
    ):  # fmt: skip
        monitor.create(world, kind, kind=kind, source="group:readings", baseline=healthy, **more)
        assert monitor.run(world, kind, day).violations == [], kind
    monitor.create(world, "volume", kind="volume", source="group:readings", baseline=healthy)
    for number in range(24):
        for kind in ("data_quality", "drift", "volume"):
            assert monitor.run(world, kind, hour(number)).violations == [], (kind, number)


def test_the_next_days_raise_no_alarm_either(
    world: fs.FeatureStore, healthy: monitor.Baseline, clock: Clock
) -> None:
    clock.now = MONDAY + 80 * HOUR
    world.ingest("readings", readings(MONDAY + 24 * HOUR, 48, seed=2))
    flagged = 0
    for name in ("data_quality", "drift"):
        monitor.create(
            world,
            name,
            kind=name,
            source="group:readings",
            baseline=healthy,
            schedule=HOURLY,
            start=MONDAY + 24 * HOUR,
        )
    for ran in monitor.run_due(world):
        flagged += ran.violated
    assert flagged <= 1  # of 96 windows with rows: no limit is never passed by chance


def test_a_change_is_found_and_named(
    world: fs.FeatureStore, healthy: monitor.Baseline, clock: Clock
) -> None:
    clock.now = MONDAY + 30 * HOUR
    world.ingest("readings", readings(MONDAY + 24 * HOUR, 3, seed=3))
    world.ingest("readings", readings(MONDAY + 27 * HOUR, 3, seed=4, shift=1.0))
    monitor.create(
        world,
        "d",
        kind="drift",
        source="group:readings",
        baseline=healthy,
        schedule=HOURLY,
        start=MONDAY + 24 * HOUR,
    )
    ran = monitor.run_due(world)
    assert [one.violated for one in ran] == [False] * 3 + [True] * 3
    assert {v["feature_name"] for one in ran for v in one.violations} == {"temp"}
    [(feature, since, thresholds)] = monitor.moved_features(world, "d")
    assert (feature, since) == ("temp", MONDAY + 27 * HOUR)
    assert thresholds > 1


def test_a_baseline_is_read_as_it_was_saved(healthy: monitor.Baseline, tmp_path: Path) -> None:
    found = monitor.Baseline.load(healthy.save(tmp_path / "base"))
    assert (found.statistics, found.constraints) == (healthy.statistics, healthy.constraints)
    for name, column in healthy.columns.items():
        again = found.columns[name]
        assert again.inferred_type == column.inferred_type
        if isinstance(column, columns.Number):
            assert isinstance(again, columns.Number)
            np.testing.assert_array_equal(again.values, column.values)
            assert (again.mean, again.std) == (column.mean, column.std)


def test_the_two_files_alone_are_a_baseline_too(healthy: monitor.Baseline, tmp_path: Path) -> None:
    """Model Monitor writes no more than these; its sketch stands for the values."""
    folder = healthy.save(tmp_path / "base")
    (folder / baselines.COLUMNS).unlink()
    (folder / baselines.ABOUT).unlink()
    found = monitor.Baseline.load(folder)
    exact, sketched = healthy.columns["temp"], found.columns["temp"]
    assert isinstance(exact, columns.Number)
    assert isinstance(sketched, columns.Number)
    assert sketched.values.size == exact.values.size > formats.SKETCH_K
    assert drift.compare(exact, sketched)["ks"] <= 2 * formats.rank_error(exact.values.size)


def test_statistics_have_model_monitors_shape(healthy: monitor.Baseline) -> None:
    """Developer guide, "Schema for Statistics"."""
    assert set(healthy.statistics) == {"version", "dataset", "features"}
    assert healthy.statistics["dataset"] == {"item_count": 2880}
    temp, state, count = healthy.statistics["features"]
    assert [f["inferred_type"] for f in (temp, state, count)] == [
        "Fractional", "String", "Integral",
    ]  # fmt: skip
    numbers = temp["numerical_statistics"]
    assert set(numbers) == {"common", "mean", "sum", "std_dev", "min", "max", "distribution"}
    assert sum(numbers["common"].values()) == 2880
    kll = numbers["distribution"]["kll"]
    assert set(kll) == {"buckets", "sketch"}
    assert len(kll["buckets"]) == 10
    assert sum(b["count"] for b in kll["buckets"]) == numbers["common"]["num_present"]
    weights = sum(len(level) << i for i, level in enumerate(kll["sketch"]["data"]))
    assert weights == numbers["common"]["num_present"]
    texts = state["string_statistics"]
    assert set(texts) == {"common", "distinct_count", "distribution"}
    buckets = texts["distribution"]["categorical"]["buckets"]
    assert [b["value"] for b in buckets] == ["on", "off", "idle"]
    json.dumps(healthy.statistics, allow_nan=False)


def test_constraints_have_model_monitors_shape(healthy: monitor.Baseline) -> None:
    """Developer guide, "Schema for Constraints"."""
    found = healthy.constraints
    assert set(found) == {"version", "features", "monitoring_config"}
    temp, state, count = found["features"]
    assert set(temp) == {
        "name", "inferred_type", "completeness", "num_constraints", "monitoring_config_overrides",
    }  # fmt: skip
    assert 0.9 < temp["completeness"] < 0.98
    assert temp["num_constraints"] == {"is_non_negative": False}
    assert count["num_constraints"] == {"is_non_negative": True}
    assert state["string_constraints"] == {"domains": ["on", "off", "idle"]}
    config = found["monitoring_config"]
    assert config["distribution_constraints"]["comparison_method"] == "Robust"


@given(st.lists(st.floats(-1e9, 1e9), max_size=700), st.sampled_from([4, 16, 64]))
def test_a_sketch_weighs_what_it_stands_for(values: list[float], k: int) -> None:
    ordered = np.sort(np.array(values, np.float64))
    levels = formats.sketch_of(ordered, k)
    items = sorted((item, 1 << i) for i, level in enumerate(levels) for item in level)
    assert sum(weight for _, weight in items) == len(values)
    rank = 0
    for item, weight in items:
        # Somewhere among the values that an item stands for, its own is.
        low, high = np.searchsorted(ordered, item, "left"), np.searchsorted(ordered, item, "right")
        allowed = formats.rank_error(len(values), k) * len(values) + 1
        assert low - allowed <= rank + weight / 2 <= high + allowed
        rank += weight


def test_a_window_read_in_parts_is_one_table_of_one_moment(
    world: fs.FeatureStore, healthy: monitor.Baseline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, period = sources.source_of("group:readings"), hour(3)
    whole = sources.read(world, source, period)
    monkeypatch.setattr(sources, "PART_VALUES", 2 * whole.num_rows)
    parts = sources.read_in_parts(world, source, period)
    first = next(parts)
    # What comes in between two parts is in none of them.
    clock.now += HOUR
    world.put_record("readings", {"sensor": 7, "at": period.start + HOUR / 7, "temp": 99.0})
    rest = list(parts)
    assert [part.column_names for part in (first, *rest)] == [["temp", "state"], ["count"]]
    assert pa.table([first["temp"], first["state"], rest[0]["count"]], whole.schema) == whole
    asked = kinds.Asked(world, source, period, healthy, {})
    rows, found = asked.summed_up()
    assert (rows, found["temp"].rows, found["count"].missing) == (121, 121, 1)
    assert isinstance(found["temp"], columns.Number)
    assert found["temp"].high == 99


def test_a_kept_baseline_holds_no_column_that_is_not_asked_for(
    healthy: monitor.Baseline, tmp_path: Path
) -> None:
    found = monitor.Baseline.load(healthy.save(tmp_path / "base")).columns
    assert (list(found), len(found)) == (["temp", "state", "count"], 3)
    assert found["temp"] is not found["temp"]
    with pytest.raises(KeyError):
        found["tmep"]


# ── the six checks ───────────────────────────────────────────────────────────────────────────


def checks(healthy: monitor.Baseline, window: pa.Table) -> dict[str, list[str]]:
    found = columns.columns_of(window, expected=formats.types_in(healthy.constraints))
    _, violations = data_quality.check(found, healthy.constraints, healthy.columns)
    named: dict[str, list[str]] = {}
    for violation in violations:
        assert set(violation) == {"feature_name", "constraint_check_type", "description"}
        named.setdefault(violation["constraint_check_type"], []).append(violation["feature_name"])
    return named


def test_each_check_finds_its_own_fault_and_no_other(healthy: monitor.Baseline) -> None:
    fine = readings(MONDAY, 24, seed=1).select(["temp", "state", "count"])
    assert checks(healthy, fine) == {}

    def with_column(name: str, values: Any) -> pa.Table:
        return fine.set_column(fine.column_names.index(name), name, values)

    rows = fine.num_rows
    half = np.arange(rows) % 2 == 0
    state = fine["state"].to_pylist()
    temp = fine["temp"].to_pylist()
    text = pa.array([*map(str, fine["count"].to_pylist()[1:]), "many"])
    assert checks(healthy, with_column("count", text)) == {"data_type_check": ["count"]}
    gone = pa.array([None if h else v for h, v in zip(half, temp, strict=True)], pa.float64())
    assert checks(healthy, with_column("temp", gone)) == {"completeness_check": ["temp"]}
    new = pa.array(["broken" if i % 50 == 0 else s for i, s in enumerate(state)])
    assert checks(healthy, with_column("state", new)) == {"categorical_values_check": ["state"]}
    whole = columns.columns_of(pa.table({"temp": pa.array(np.arange(rows) % 3 - 1)}))
    types, _ = data_quality.check(whole, healthy.constraints, healthy.columns)
    assert [m.value for m in types if m.metric == "type_match"] == [1.0]  # integers are numbers
    far = pa.array([None if v is None else v + 1 for v in temp])
    assert checks(healthy, with_column("temp", far)) == {"baseline_drift_check": ["temp"]}
    other = pa.array(["off" if i % 2 else "on" for i in range(rows)])
    assert checks(healthy, with_column("state", other)) == {"baseline_drift_check": ["state"]}
    assert checks(healthy, fine.drop_columns(["count"])) == {
        "missing_column_check": ["Missing columns"]
    }
    assert checks(healthy, fine.append_column("more", pa.array(half))) == {
        "extra_column_check": ["Extra columns"]
    }
    below = pa.array([-1 if i == 0 else c for i, c in enumerate(fine["count"].to_pylist())])
    assert checks(healthy, with_column("count", below)) == {"data_type_check": ["count"]}


def test_model_monitors_settings_are_obeyed(healthy: monitor.Baseline) -> None:
    fine = readings(MONDAY, 24, seed=1).select(["temp", "state", "count"])
    far = fine.set_column(0, "temp", pa.array(np.random.default_rng(0).normal(1, 1, 2880)))
    constraints = json.loads(json.dumps(healthy.constraints))
    found = columns.columns_of(far)

    def kinds() -> set[str]:
        _, violations = data_quality.check(found, constraints, healthy.columns)
        return {violation["constraint_check_type"] for violation in violations}

    assert kinds() == {"baseline_drift_check"}
    constraints["features"][0]["monitoringConfigOverrides"] = {
        "distribution_constraints": {"comparison_threshold": 0.9}
    }
    assert kinds() == set()
    constraints["features"][0].pop("monitoringConfigOverrides")
    settings_ = constraints["monitoring_config"]["distribution_constraints"]
    settings_["comparison_method"] = "Simple"
    metrics, _ = data_quality.check(found, constraints, healthy.columns)
    assert {m.metric for m in metrics if m.metric.startswith("linf")} == {"linf_simple"}
    settings_["categorical_drift_method"] = "ChiSquared"
    metrics, _ = data_quality.check(found, constraints, healthy.columns)
    assert [m.feature for m in metrics if m.metric == "chi_square_p_value"] == ["state"]
    settings_["perform_comparison"] = "Disabled"
    assert kinds() == set()


# ── drift: thresholds, false discoveries ─────────────────────────────────────────────────────


def test_twenty_features_that_have_not_moved_are_not_said_to_have() -> None:
    """Without false discovery control, some small window of noise is always beyond 0.1."""
    chance = np.random.default_rng(5)
    names = [f"f{i}" for i in range(20)]

    def drawn(rows: int) -> dict[str, columns.Column]:
        return columns.columns_of(pa.table({n: chance.normal(size=rows) for n in names}))

    base = drawn(5_000)
    windows = [drawn(60) for _ in range(40)]
    sure = [drift.moved(base, window) for window in windows]
    unsure = [drift.moved(base, window, fdr=None) for window in windows]
    assert sum(any(m.flagged for m in found) for found in sure) <= 6
    assert sum(any(m.flagged for m in found) for found in unsure) == 40


def test_thresholds_are_those_of_the_feature_then_of_all_then_ours() -> None:
    given_ = {"psi": 0.5, "temp": {"psi": 0.9}}
    assert drift.threshold_of(given_, "temp", "psi") == 0.9
    assert drift.threshold_of(given_, "rain", "psi") == 0.5
    assert drift.threshold_of(given_, "rain", "ks") == drift.THRESHOLDS["ks"]
    assert drift.threshold_of(given_, "rain", "wasserstein") is None
    with pytest.raises(InvalidInput, match=r'"pzi" is no drift metric\. Did you mean "psi"'):
        drift.check_thresholds({"temp": {"pzi": 1.0}})


# ── windows: start <= time < end ───────────────────────────────────────────────────────────────


def test_a_window_has_its_start_and_not_its_end(world: fs.FeatureStore, tmp_path: Path) -> None:
    moment = timedelta(microseconds=1)
    period = hour(0)
    times = [period.start - moment, period.start, period.end - moment, period.end]
    at = pa.array(times, pa.timestamp("us", "UTC"))
    rows = pa.table({"k": [0, 1, 2, 3], "t": at, "x": [0.0, 1.0, 2.0, 3.0]})
    world.create_feature_group("edge", record_identifier="k", event_time="t", like=rows)
    world.ingest("edge", rows)
    lines = [
        captured(f"{i}\n", f"{i}\n", i, inferenceTime=f"{time:%FT%T.%f}Z")
        for i, time in enumerate(times)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    group = sources.source_of("group:edge")
    [part] = sources.read_in_parts(world, group, period)
    found = {
        "group": sources.read(world, group, period)["x"].to_pylist(),
        "parts": part["x"].to_pylist(),
        "table": sources.within(rows, "t", period)["x"].to_pylist(),
        "capture": [float(x) for x in sources.read_captured(tmp_path, period)["_c0"].to_pylist()],
    }
    for name, values in found.items():
        assert sorted(values) == [1.0, 2.0], name


# ── windows, once ────────────────────────────────────────────────────────────────────────────


def test_missed_windows_are_run_once_each_and_in_order(
    world: fs.FeatureStore, healthy: monitor.Baseline, clock: Clock
) -> None:
    monitor.create(
        world,
        "m",
        kind="data_quality",
        source="group:readings",
        baseline=healthy,
        schedule=HOURLY,
        start=MONDAY + 10 * HOUR,
    )
    clock.now = MONDAY + 12 * HOUR
    assert [one.window for one in monitor.run_due(world)] == [hour(10), hour(11)]
    assert monitor.run_due(world) == []
    clock.now = MONDAY + 15.5 * HOUR
    assert [one.window for one in monitor.run_due(world)] == [hour(12), hour(13), hour(14)]
    monitor.run(world, "m", hour(15))  # by hand, before its time
    clock.now = MONDAY + 16 * HOUR
    assert monitor.run_due(world) == []
    assert [one.window for one in monitor.list_executions(world, "m")] == [
        hour(number) for number in range(10, 16)
    ]
    again = monitor.run(world, "m", hour(15))
    assert again.replayed
    assert not monitor.run(world, "m", hour(15), again=True).replayed


def test_a_window_that_failed_is_tried_three_times_and_holds_up_no_other(
    world: fs.FeatureStore, clock: Clock
) -> None:
    monitor.create(
        world,
        "f",
        kind="tests.monitor.test_monitoring:failing",
        source="group:readings",
        schedule=HOURLY,
        start=MONDAY,
    )
    clock.now = MONDAY + 2 * HOUR
    for attempt in (1, 2, 3):
        ran = monitor.run_due(world)
        assert [(one.status, one.attempts) for one in ran] == [("Failed", attempt)] * 2
        assert "ValueError: the machine stops" in ran[0].error
    assert monitor.run_due(world) == []


def failing(_store: Any, _start: datetime, _end: datetime) -> dict[str, float]:
    """Fail, as a check of one's own may."""
    raise ValueError("the machine stops")


def rows_of(store: fs.FeatureStore, start: datetime, end: datetime) -> dict[str, float]:
    """Count rows: a check of one's own."""
    found = store.sql('SELECT count(*) n FROM readings WHERE "at" >= ? AND "at" < ?', [start, end])
    return {"rows": float(found["n"][0].as_py()), "nothing": float("nan")}


def table_of(store: fs.FeatureStore, start: datetime, end: datetime) -> pa.Table:
    """Give rows: a source of one's own."""
    return store.sql('SELECT temp, state FROM readings WHERE "at" >= ? AND "at" < ?', [start, end])


def test_checks_and_sources_of_ones_own(world: fs.FeatureStore) -> None:
    monitor.create(
        world,
        "own",
        kind="tests.monitor.test_monitoring:rows_of",
        source="group:readings",
        thresholds={"rows": 100, "nothing": 1},
    )
    found = monitor.run(world, "own", hour(3))
    assert {metric.metric: metric.flagged for metric in found.metrics} == {
        "rows": True, "nothing": True,
    }  # fmt: skip
    base = monitor.baseline(world, table_of, window=(MONDAY, MONDAY + 24 * HOUR))
    assert list(base.columns) == ["temp", "state"]
    monitor.create(
        world,
        "mine",
        kind="data_quality",
        baseline=base,
        source="tests.monitor.test_monitoring:table_of",
    )
    assert monitor.run(world, "mine", hour(3)).rows == 120
    with pytest.raises(InvalidInput, match="cannot be found again"):
        monitor.create(world, "no", kind="volume", source=lambda *_: None, min_rows=1)
    with pytest.raises(InvalidInput, match="a table will not do"):
        monitor.create(world, "no", kind="volume", source=pa.table({"x": [1]}), min_rows=1)


def test_a_lock_is_waited_for_by_hand_and_passed_by_on_schedule(
    world: fs.FeatureStore, healthy: monitor.Baseline, clock: Clock
) -> None:
    monitor.create(
        world,
        "m",
        kind="data_quality",
        source="group:readings",
        baseline=healthy,
        schedule=HOURLY,
        start=MONDAY,
    )
    clock.now = MONDAY + HOUR
    ran = []
    by_hand = threading.Thread(target=lambda: ran.append(monitor.run(world, "m", hour(5))))
    with execution.locked(world, "m"):
        assert monitor.run_due(world) == []
        with pytest.raises(StoreBusy), execution.locked(world, "m", wait=False):
            pass
        by_hand.start()
        by_hand.join(0.2)  # it waits: however long this takes, nothing has been run
        assert ran == []
        assert monitor.list_executions(world, "m") == []
    by_hand.join()
    assert [one.window for one in ran] == [hour(5)]
    assert len(monitor.run_due(world)) == 1


def test_serving_ends_when_told(world: fs.FeatureStore, clock: Clock) -> None:
    monitor.create(
        world,
        "v",
        kind="volume",
        source="group:readings",
        min_rows=1,
        schedule=HOURLY,
        start=MONDAY,
    )
    clock.now = MONDAY + 3 * HOUR
    stop, ran = threading.Event(), []

    def note(one: monitor.Execution) -> None:
        ran.append(one)
        if len(ran) == 3:
            stop.set()

    schedule.serve(world, poll="1s", stop=stop, on_run=note)
    assert len(ran) == 3


# ── what is kept ─────────────────────────────────────────────────────────────────────────────


def test_results_are_groups_and_files(world: fs.FeatureStore, healthy: monitor.Baseline) -> None:
    monitor.create(world, "d", kind="drift", source="group:readings", baseline=healthy)
    for number in (3, 4):
        monitor.run(world, "d", hour(number))
    history = world.sql(
        "SELECT window_end, value FROM monitor_metrics WHERE monitor = 'd' AND feature = 'temp' "
        "AND metric = 'psi' ORDER BY 1"
    )
    assert history["window_end"].to_pylist() == [hour(3).end, hour(4).end]
    at = {"monitor": "d", "feature": "temp", "metric": "psi"}
    assert world.get_record("monitor_metrics", at)["value"] == history["value"][1].as_py()
    labels = pa.table({name: [value] for name, value in at.items()} | {"t": [hour(4).start]})
    then = world.point_in_time(labels, "monitor_metrics:value", label_time="t")
    assert then["value"][0].as_py() == history["value"][0].as_py()
    folder = execution.window_folder(world, "d", hour(3))
    assert json.loads((folder / "constraint_violations.json").read_text()) == {"violations": []}
    assert json.loads((folder / "statistics.json").read_text())["dataset"]["item_count"] == 120


def test_monitors_are_defined_listed_replaced_and_deleted(
    world: fs.FeatureStore, healthy: monitor.Baseline
) -> None:
    monitor.create(world, "m", kind="drift", source="group:readings", baseline=healthy)
    with pytest.raises(InvalidInput, match="replace=True"):
        monitor.create(world, "m", kind="drift", source="group:readings", baseline=healthy)
    monitor.create(world, "m", kind="volume", source="group:readings", min_rows=3, replace=True)
    assert [(one.name, one.kind) for one in monitor.list_monitors(world)] == [("m", "volume")]
    with pytest.raises(InvalidInput, match='Did you mean "m"'):
        monitor.describe(world, "mm")
    monitor.delete(world, "m")
    assert monitor.list_monitors(world) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "drfit"}, 'Did you mean "drift"'),
        ({"kind": "no_module:f"}, "names no function"),
        ({"source": "readings"}, "is no source"),
        ({"source": "group:reading"}, "readings"),
        ({"schedule": "hourly"}, "is no schedule"),
        ({"treshold": 1}, 'has no setting "treshold"'),
        ({"alerts": [{"to": "pager"}]}, "Alerts go to"),
        ({"alerts": [{"to": "webhook", "url": "ftp://x"}]}, "is no address"),
        ({"alerts": [{"to": "file"}]}, "needs path="),
        ({"alerts": [{"to": "file", "path": "x", "cool": "1d"}]}, 'has no "cool"'),
        ({"alerts": [{"to": "file", "path": "x", "consecutive": 0}]}, "counts windows"),
    ],
)
def test_a_definition_that_cannot_be_is_refused(
    world: fs.FeatureStore, change: dict[str, Any], words: str
) -> None:
    given_: dict[str, Any] = {"kind": "volume", "source": "group:readings"} | change
    with pytest.raises(InvalidInput, match=words):
        monitor.create(world, "m", **given_)
    assert monitor.list_monitors(world) == []


# ── the store itself ─────────────────────────────────────────────────────────────────────────


def test_skew_is_zero_until_a_record_goes_to_one_store_only(
    world: fs.FeatureStore, clock: Clock
) -> None:
    now_us = monitors.now_us(world)
    metrics, violations = watch.skew(world, "readings", now_us, sample=200)
    assert (metrics[0].value, metrics[1].value, violations) == (20, 0, [])
    row = {"sensor": 7, "at": clock.now, "temp": 9.0}
    world.put_record("readings", row, target_stores=["online"])
    world.put_record("readings", row | {"sensor": 99}, target_stores=["offline"])
    metrics, [violation] = watch.skew(world, "readings", now_us, sample=200)
    assert metrics[1].value == 2
    assert "99: only in history" in violation["description"]
    assert "7: " in violation["description"]


def test_skew_knows_deletes_expiry_and_the_future(world: fs.FeatureStore, clock: Clock) -> None:
    world.delete_record("readings", 3, event_time=clock.now)
    world.put_record("readings", {"sensor": 4, "at": clock.now, "temp": 1.0}, ttl="1h")
    world.put_record("readings", {"sensor": 5, "at": clock.now + 3 * HOUR, "temp": float("nan")})
    clock.now += 2 * HOUR
    metrics, violations = watch.skew(world, "readings", monitors.now_us(world), sample=200)
    assert (metrics[0].value, violations) == (20, [])


def test_a_late_record_is_no_skew(world: fs.FeatureStore) -> None:
    world.put_record("readings", {"sensor": 8, "at": MONDAY - HOUR, "temp": 9.0})
    metrics, violations = watch.skew(world, "readings", monitors.now_us(world), sample=200)
    assert (metrics[1].value, violations) == (0, [])


def test_freshness_is_told_as_it_was(world: fs.FeatureStore, clock: Clock) -> None:
    monitor.create(
        world, "f", kind="freshness", source="group:readings", max_age="2h", max_stale_share=0.5
    )
    day = MONDAY + 24 * HOUR
    assert not monitor.run(world, "f", (day, day + HOUR)).violated
    late = monitor.run(world, "f", (day + 3 * HOUR, day + 4 * HOUR))
    assert [v["constraint_check_type"] for v in late.violations] == ["freshness_check"] * 2
    assert [m.flagged for m in late.metrics] == [True, True]
    clock.now = day + 5 * HOUR  # what comes now was not there then
    world.ingest("readings", readings(day + 2 * HOUR, 2, seed=9))
    assert monitor.run(world, "f", (day + 3 * HOUR, day + 4 * HOUR), again=True).violated
    assert not monitor.run(world, "f", (day + 4 * HOUR, day + 5 * HOUR)).violated


def test_schema_and_volume(world: fs.FeatureStore, healthy: monitor.Baseline, clock: Clock) -> None:
    for kind in ("schema", "volume"):
        monitor.create(world, kind, kind=kind, source="group:readings", baseline=healthy)
    assert not monitor.run(world, "schema", hour(1)).violated
    world.update_feature_group("readings", add_features={"gust": "float64"})
    found = monitor.run(world, "schema", hour(2))
    assert [v["description"] for v in found.violations] == ["gust of readings is new."]
    clock.now = MONDAY + 30 * HOUR
    world.ingest("readings", readings(MONDAY + 24 * HOUR, 1, seed=3).slice(0, 40))
    [violation] = monitor.run(world, "volume", hour(24)).violations
    assert violation["description"].endswith("Expected: 109 to 132 rows. Observed: 40.")
    then = {"a": "int64", "b": "string"}
    _, violations = watch.schema("g", then, {"a": "float64"})
    assert [v["description"] for v in violations] == [
        "b of g is gone.", "a of g was int64 and is float64.",
    ]  # fmt: skip


# ── models: labels that come late ────────────────────────────────────────────────────────────


@pytest.fixture
def scored(open_store: Callable[..., fs.FeatureStore], clock: Clock) -> fs.FeatureStore:
    """Return a store with predictions, whose labels come up to three hours later."""
    store = open_store("scored", clock=clock)
    store.create_feature_group(
        "scores", record_identifier="flight", event_time="scored_at",
        features={"flight": "int64", "scored_at": "timestamp", "score": "float64",
                  "late": "bool", "carrier": "string"},
    )  # fmt: skip
    store.create_feature_group(
        "arrivals",
        record_identifier="number",
        event_time="arrived_at",
        features={"number": "int64", "arrived_at": "timestamp", "was_late": "bool"},
    )
    chance = np.random.default_rng(6)
    rows = 1_000
    at = [MONDAY + timedelta(seconds=36 * i) for i in range(rows)]  # ten hours
    truth = chance.random(rows) < 0.3
    score = np.clip(chance.normal(0.35 + 0.3 * truth, 0.2), 0, 1)
    store.ingest(
        "scores",
        pa.table(
            {
                "flight": np.arange(rows),
                "scored_at": pa.array(at, pa.timestamp("us", "UTC")),
                "score": score,
                "late": score >= 0.5,
                "carrier": chance.choice(["UA", "DL"], rows),
            }
        ),
    )
    took = [timedelta(minutes=int(m)) for m in chance.integers(1, 180, rows)]
    arrived = [a + t for a, t in zip(at, took, strict=True)]
    store.ingest(
        "arrivals",
        pa.table(
            {
                "number": np.arange(rows),
                "arrived_at": pa.array(arrived, pa.timestamp("us", "UTC")),
                "was_late": truth,
            }
        ),
    )
    # Something older of the same key is not the label.
    store.put_record("arrivals", {"number": 0, "arrived_at": MONDAY - HOUR, "was_late": True})
    return store


MODEL = {
    "label": "arrivals:was_late", "on": {"number": "flight"}, "prediction": "late",
    "probability": "score", "horizon": "3h",
}  # fmt: skip


def test_predictions_meet_labels_that_came_later(scored: fs.FeatureStore, clock: Clock) -> None:
    half = (MONDAY, MONDAY + 5 * HOUR)
    base = monitor.baseline(
        scored, "group:scores", kind="model_quality", window=half, every="1h", **MODEL
    )
    group = base.statistics["binary_classification_metrics"]
    assert base.statistics["dataset"]["item_count"] == 500
    assert 0.7 < group["auc"]["value"] < 0.95
    made = monitor.create(
        scored,
        "mq",
        kind="model_quality",
        source="group:scores",
        baseline=base,
        schedule=HOURLY,
        start=MONDAY,
        **MODEL,
    )
    assert made.wait_us == 3 * 3_600_000_000  # the horizon is waited for
    clock.now = MONDAY + 4 * HOUR
    [first] = monitor.run_due(scored)
    assert (first.window, first.violated, first.rows) == (hour(0), False, 100)
    clock.now = MONDAY + 24 * HOUR
    assert sum(one.violated for one in monitor.run_due(scored)) <= 3
    metrics = {m.metric: m.value for m in monitor.run(scored, "mq", hour(9), again=True).metrics}
    assert metrics["labelled"] == 1.0


def test_a_label_counts_from_after_its_prediction_to_the_horizon(
    open_store: Callable[..., fs.FeatureStore], clock: Clock
) -> None:
    store = open_store("edges", clock=clock)
    moment, noon = timedelta(microseconds=1), MONDAY + 12 * HOUR
    came = [noon - HOUR, noon, noon + moment, noon + 3 * HOUR, noon + 3 * HOUR + moment]
    for name, times in (("scores", [noon] * len(came)), ("truth", came)):
        at = pa.array(times, pa.timestamp("us", "UTC"))
        rows = pa.table({"k": np.arange(len(came)), "at": at, "y": [True] * len(came)})
        store.create_feature_group(name, record_identifier="k", event_time="at", like=rows)
        store.ingest(name, rows)
    asked = kinds.Asked(
        store, sources.source_of("group:scores"), hour(12), None,
        {"label": "truth:y", "horizon": "3h", "on": {"k": "k"}},
    )  # fmt: skip
    found, predicted = kinds.labelled(asked)
    assert (predicted, sorted(found["k"].to_pylist())) == (5, [2, 3])


def test_without_time_enough_there_are_fewer_labels(scored: fs.FeatureStore) -> None:
    hasty = MODEL | {"horizon": "90m", "min_labelled": 0.9}
    monitor.create(scored, "hasty", kind="model_quality", source="group:scores", **hasty)
    found = monitor.run(scored, "hasty", hour(2))
    [labelled] = [m for m in found.metrics if m.metric == "labelled"]
    assert 0.3 < labelled.value < 0.7
    assert found.violations[-1]["metric_name"] == "labelled"


def test_a_worse_model_is_told_in_the_services_words(scored: fs.FeatureStore) -> None:
    base = monitor.baseline(
        scored, "group:scores", kind="model_quality", window=(MONDAY, MONDAY + 8 * HOUR),
        every="2h", **MODEL,
    )  # fmt: skip
    constraint = base.constraints["binary_classification_constraints"]["recall"]
    assert set(constraint) == {"threshold", "comparison_operator"}
    constraint["threshold"] = 0.999
    monitor.create(
        scored, "mq", kind="model_quality", source="group:scores", baseline=base, **MODEL
    )
    found = monitor.run(scored, "mq", (MONDAY, MONDAY + 8 * HOUR))
    [violation] = found.violations
    assert violation["constraint_check_type"] == "LessThanThreshold"
    assert violation["metric_name"] == "recall"


def test_limits_hold_in_the_direction_they_say() -> None:
    limits = {
        "regression_constraints": {
            "mae": {"threshold": 1.0, "comparison_operator": "GreaterThanThreshold"},
            "r2": {"threshold": 0.5, "comparison_operator": "LessThanThreshold"},
        }
    }

    def broken(mae: float, r2: float) -> list[str]:
        values = {"mae": {"value": mae}, "r2": {"value": r2}}
        metrics, violations = model_quality.check({"regression_metrics": values}, limits)
        named = [violation["metric_name"] for violation in violations]
        assert named == [metric.metric for metric in metrics if metric.flagged]
        return named

    assert broken(1.0, 0.5) == []
    assert broken(0.9, 0.6) == []
    assert broken(1.1, 0.6) == ["mae"]
    assert broken(0.9, 0.4) == ["r2"]


@pytest.mark.parametrize(
    ("name", "value", "than", "is_farther"),
    [("DPL", -0.3, 0.2, True), ("DPL", 0.2, -0.2, False), ("DPL", 0.1, -0.2, False),
     ("DI", 0.5, 1.2, True), ("DI", 1.1, 0.8, False), ("DI", 0.75, 1.25, False)],
)  # fmt: skip
def test_bias_is_farther_when_it_is_so_on_either_side(
    name: str, value: float, than: float, is_farther: bool
) -> None:
    assert bias.farther(name, value, than) == is_farther


def test_bias_drift_of_predictions(scored: fs.FeatureStore) -> None:
    facet = {"facet": "carrier", "facet_values": ["DL"], "positive": True}
    more = {k: v for k, v in MODEL.items() if k != "probability"} | facet
    window = (MONDAY, MONDAY + 10 * HOUR)
    base = monitor.baseline(scored, "group:scores", kind="bias", window=window, every="2h", **more)
    monitor.create(scored, "b", kind="bias", source="group:scores", baseline=base, **more)
    assert not monitor.run(scored, "b", window).violated
    for reports_ in base.constraints["post_training_bias_metrics"]["facets"].values():
        for one in reports_[0]["metrics"]:
            one["value"] = 1.0 if one["name"] == "DI" else 0.0
    monitor.create(
        scored, "b", kind="bias", source="group:scores", baseline=base, replace=True, **more
    )
    found = monitor.run(scored, "b", window, again=True)
    assert {v["constraint_check_type"] for v in found.violations} == {"bias_drift_check"}
    assert set(found.violations[0]) == {
        "facet", "facet_value", "metric_name", "constraint_check_type", "description",
    }  # fmt: skip
    path = execution.window_folder(scored, "b", sources.window_of(window))
    assert json.loads((path / "constraint_violations.json").read_text())["version"] == "1.0"


def test_attribution_drift(world: fs.FeatureStore) -> None:
    world.create_feature_group(
        "shap", record_identifier="row", event_time="at",
        features={"row": "int64", "at": "timestamp", "a": "float64", "b": "float64",
                  "c": "float64"},
    )  # fmt: skip
    start = [MONDAY + timedelta(minutes=i) for i in range(120)]
    then, now = (0.70, -0.50, 0.05), (0.05, -0.50, 0.70)
    rows = [dict(zip("abc", then if i < 60 else now, strict=True)) for i in range(120)]
    world.ingest(
        "shap",
        [{"row": i, "at": at, **row} for i, (at, row) in enumerate(zip(start, rows, strict=True))],
    )
    base = monitor.baseline(world, "group:shap", kind="attribution", window=hour(0))
    assert base.statistics["attributions"] == pytest.approx({"a": 0.7, "b": 0.5, "c": 0.05})
    monitor.create(world, "s", kind="attribution", source="group:shap", baseline=base)
    assert not monitor.run(world, "s", hour(0)).violated
    found = monitor.run(world, "s", hour(1))
    assert found.metrics[0].value == pytest.approx(0.6876, abs=5e-5)  # the guide's own example
    assert found.metrics[0].flagged
    assert found.violations[0]["constraint_check_type"] == "feature_attribution_drift_check"


# ── captured requests ────────────────────────────────────────────────────────────────────────


def captured(data: str, output: str, number: int, **more: Any) -> str:
    about = {"eventId": f"e{number}", "inferenceTime": f"2024-01-01T00:{number:02}:00Z"} | more
    side = {"encoding": "CSV", "observedContentType": "text/csv"}
    return json.dumps(
        {
            "captureData": {
                "endpointInput": side | {"mode": "INPUT", "data": data},
                "endpointOutput": side | {"mode": "OUTPUT", "data": output},
            },
            "eventMetadata": about,
            "eventVersion": "0",
        }
    )


def test_captured_requests_are_a_source(world: fs.FeatureStore, tmp_path: Path) -> None:
    folder = tmp_path / "late" / "AllTraffic" / "2024" / "01" / "01" / "00"
    folder.mkdir(parents=True)
    chance = np.random.default_rng(8)
    lines = [
        captured(f"{chance.normal():.4f},{chance.integers(9)},on\n", f"{i % 2},0.{i % 10}\n", i)
        for i in range(60)
    ]
    (folder / "00-00.jsonl").write_text("\n".join(lines))
    names = ["temp", "count", "state", "late", "score"]
    where = f"capture:{tmp_path / 'late'}"
    base = monitor.baseline(world, where, columns=names)
    assert {n: c.inferred_type for n, c in base.columns.items()} == {
        "temp": "Fractional", "count": "Integral", "state": "String", "late": "Integral",
        "score": "Fractional",
    }  # fmt: skip
    monitor.create(world, "c", kind="data_quality", source=where, baseline=base, columns=names)
    assert not monitor.run(world, "c", hour(0)).violated
    odd = captured("warm,1,on\n", "1,0.5\n", 59)
    (folder / "00-59.jsonl").write_text(odd)
    [violation] = monitor.run(world, "c", hour(0), again=True).violations
    assert violation["constraint_check_type"] == "data_type_check"
    assert "Expected data type: Fractional" in violation["description"]
    truth = tmp_path / "truth"
    truth.mkdir()
    labels = [
        json.dumps(
            {
                "groundTruthData": {"data": str(i % 2), "encoding": "CSV"},
                "eventMetadata": {"eventId": f"e{i}"},
                "eventVersion": "0",
            }
        )
        for i in range(50)
    ]
    (truth / "a.jsonl").write_text("\n".join(labels))
    monitor.create(
        world,
        "q",
        kind="model_quality",
        source=where,
        columns=names,
        ground_truth=str(truth),
        prediction="late",
        probability="score",
    )
    found = monitor.run(world, "q", hour(0))
    values = {m.metric: m.value for m in found.metrics}
    assert (found.rows, values["accuracy"]) == (50, 1.0)
    # Of two labels for one event the one read last counts.
    (truth / "b.jsonl").write_text(
        "\n".join(labels[i].replace('"data": "0"', '"data": "1"') for i in range(10))
    )
    again = monitor.run(world, "q", hour(0), again=True)
    assert {m.metric: m.value for m in again.metrics}["accuracy"] == 0.9
    (folder / "bad.jsonl").write_text("{}")
    with pytest.raises(InvalidInput, match=r"bad\.jsonl:1 is no captured request"):
        monitor.baseline(world, where)


def test_captured_json_and_several_rows(tmp_path: Path) -> None:
    line = json.dumps({
        "captureData": {
            "endpointInput": {
                "observedContentType": "application/json", "mode": "INPUT", "encoding": "JSON",
                "data": json.dumps({"instances": [{"x": 1, "y": "a"}, {"x": 2, "y": None}]}),
            },
            "endpointOutput": {
                "observedContentType": "text/csv", "mode": "OUTPUT", "encoding": "BASE64",
                "data": "MC41CjAuNwo=",
            },
        },
        "eventMetadata": {"eventId": "e", "inferenceTime": "2024-01-01T00:00:00Z"},
    })  # fmt: skip
    (tmp_path / "a.jsonl").write_text(line)
    table = sources.read_captured(tmp_path, hour(0))
    assert table.select(["x", "y", "_c0"]).to_pylist() == [
        {"x": 1, "y": "a", "_c0": "0.5"}, {"x": 2, "y": None, "_c0": "0.7"},
    ]  # fmt: skip
    assert sources.read_captured(tmp_path, hour(1)).num_rows == 0


def test_a_training_set_is_a_source(world: fs.FeatureStore, tmp_path: Path) -> None:
    from pyarrow import parquet

    table = readings(MONDAY, 2, seed=1)
    for part in range(2):
        parquet.write_table(table.slice(part * 120, 120), tmp_path / f"part-{part}.parquet")
    base = monitor.baseline(world, f"files:{tmp_path}", time_column="at", window=hour(1))
    assert base.rows == 120
    assert "at" not in base.columns
    assert monitor.baseline(world, tmp_path, features=["temp"]).rows == 240
    with pytest.raises(InvalidInput, match="has no rows"):
        monitor.baseline(world, table, time_column="at", window=hour(9))


# ── alerts ───────────────────────────────────────────────────────────────────────────────────


class Receiver(http.server.BaseHTTPRequestHandler):
    """A webhook: keeps what it is sent."""

    got: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.got.append(json.loads(self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def broken(world: fs.FeatureStore, hours: int, rules: list[dict[str, Any]]) -> None:
    """Make a monitor whose every window is a violation."""
    monitor.create(
        world,
        "a",
        kind="volume",
        source="group:readings",
        max_rows=100,
        schedule=HOURLY,
        start=MONDAY,
        alerts=rules,
    )
    del hours


def test_alerts_reach_all_who_are_to_be_told(
    world: fs.FeatureStore, clock: Clock, tmp_path: Path
) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    TOLD.clear()
    Receiver.got.clear()
    heard: list[dict[str, Any]] = []
    try:
        broken(
            world,
            1,
            [
                {"to": "webhook", "url": f"http://127.0.0.1:{server.server_port}/"},
                {"to": "file", "path": str(tmp_path / "alerts.jsonl")},
                {"to": "function", "function": "tests.monitor.test_monitoring:told"},
                {"to": "prometheus", "path": str(tmp_path / "m.prom")},
            ],
        )
        clock.now = MONDAY + HOUR
        monitor.run_due(world, on_violation=heard.append)
    finally:
        server.shutdown()
        server.server_close()
    written = json.loads((tmp_path / "alerts.jsonl").read_text())
    assert heard == TOLD == Receiver.got == [written]
    assert written["id"] == f"a/{hour(0)}"
    assert written["violations"][0]["constraint_check_type"] == "volume_check"
    text = (tmp_path / "m.prom").read_text()
    assert 'featurestore_monitor_flagged{monitor="a",feature="",metric="rows"} 1' in text
    assert 'featurestore_monitor_violations{monitor="a"} 1' in text
    assert text == monitor.prometheus_text(world)


def test_cooldown_and_windows_in_a_row(world: fs.FeatureStore, clock: Clock) -> None:
    TOLD.clear()
    broken(
        world,
        5,
        [
            {
                "to": "function",
                "function": "tests.monitor.test_monitoring:told",
                "consecutive": 2,
                "cooldown": "3h",
            }
        ],
    )
    for number in range(1, 7):
        clock.now = MONDAY + number * HOUR
        monitor.run_due(world)
    # The first window is not two in a row; then one each three hours, the third no longer within.
    assert [message["window_end"] for message in TOLD] == [
        "2024-01-01T02:00:00Z", "2024-01-01T05:00:00Z",
    ]  # fmt: skip


def test_windows_in_a_row_are_without_a_gap(world: fs.FeatureStore, clock: Clock) -> None:
    TOLD.clear()
    rule = {"to": "function", "function": "tests.monitor.test_monitoring:told", "consecutive": 3}
    clock.now = MONDAY + 28 * HOUR
    world.ingest("readings", readings(MONDAY + 25 * HOUR, 3, seed=2))
    monitor.create(
        world,
        "a",
        kind="volume",
        source="group:readings",
        max_rows=100,
        schedule=HOURLY,
        start=MONDAY + 22 * HOUR,
        alerts=[rule],
    )
    ran = monitor.run_due(world)
    assert [one.violated for one in ran] == [True, True, False, True, True, True]
    assert [message["window_end"] for message in TOLD] == ["2024-01-02T04:00:00Z"]


def test_an_alert_that_nobody_took_is_sent_again_and_then_given_up(
    world: fs.FeatureStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(world, 1, [{"to": "function", "function": "tests.monitor.test_monitoring:refusing"}])
    clock.now = MONDAY + HOUR
    [ran] = monitor.run_due(world)
    assert ran.status == "CompletedWithViolations"  # a deaf receiver is no fault of the window
    [waiting] = alerts.pending(world, "a")
    assert (waiting["attempts"], waiting["error"]) == (1, "ValueError: no")
    monkeypatch.setitem(globals(), "refusing", told)
    TOLD.clear()
    monitor.run_due(world)
    assert len(TOLD) == 1
    assert alerts.pending(world, "a") == []
    monkeypatch.undo()
    clock.now = MONDAY + 2 * HOUR
    for _ in range(8):
        monitor.run_due(world)
    states = world.sql("SELECT status FROM latest.monitor_alerts ORDER BY window_end")
    assert states["status"].to_pylist() == ["delivered", "failed"]


def test_a_muted_rule_is_silent(world: fs.FeatureStore, clock: Clock) -> None:
    TOLD.clear()
    broken(
        world,
        1,
        [
            {
                "to": "function",
                "function": "tests.monitor.test_monitoring:told",
                "muted_until": MONDAY + 2 * HOUR,
            }
        ],
    )
    clock.now = MONDAY + HOUR
    monitor.run_due(world)
    assert TOLD == []
    clock.now = MONDAY + 2 * HOUR
    monitor.run_due(world)
    assert len(TOLD) == 1


# ── cron ─────────────────────────────────────────────────────────────────────────────────────


def test_expressions_are_due_when_they_say() -> None:
    def after(text: str, moment: str, times: int = 3) -> list[str]:
        found, us = [], sources.to_us(moment)
        for _ in range(times):
            us = cron.parse(text).next_after(us)
            if us is None:
                break
            found.append(sources.format_us(us))
        return found

    assert after(HOURLY, "2024-02-28T22:10:00Z") == [
        "2024-02-28T23:00:00Z", "2024-02-29T00:00:00Z", "2024-02-29T01:00:00Z",
    ]  # fmt: skip
    daily = ["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"]
    assert after("cron(0 [00-23] ? * * *)", "2023-12-31T12:00:00Z", 2) == daily
    assert after("cron(0 H/6 ? * * *)", "2024-01-01T00:00:00Z", 2) == [
        "2024-01-01T06:00:00Z", "2024-01-01T12:00:00Z",
    ]  # fmt: skip
    assert after("cron(0 17/12 ? * * *)", "2024-01-01T00:00:00Z", 2) == [
        "2024-01-01T17:00:00Z", "2024-01-02T17:00:00Z",
    ]  # fmt: skip
    assert after("cron(30 9 ? * 2 *)", "2024-01-01T00:00:00Z", 1) == ["2024-01-01T09:30:00Z"]
    assert after("30 9 * * 1", "2024-01-01T00:00:00Z", 1) == ["2024-01-01T09:30:00Z"]
    assert after("0 0 * * 7", "2024-01-01T00:00:00Z", 1) == ["2024-01-07T00:00:00Z"]
    assert after("cron(0 0 29 2 ? *)", "2023-01-01T00:00:00Z", 2) == [
        "2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z",
    ]  # fmt: skip
    assert after("cron(0 0 1 1 ? 2030)", "2024-01-01T00:00:00Z") == ["2030-01-01T00:00:00Z"]
    assert after("0 0 13 * FRI", "2024-01-01T00:00:00Z", 3) == [  # either will do
        "2024-01-05T00:00:00Z", "2024-01-12T00:00:00Z", "2024-01-13T00:00:00Z",
    ]  # fmt: skip
    assert after("*/40 22-1 * * *", "2024-01-01T21:59:00Z", 3) == [
        "2024-01-01T22:00:00Z", "2024-01-01T22:40:00Z", "2024-01-01T23:00:00Z",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "cron()", "cron(0 * ? * *)", "61 * * * *", "cron(0 0 L * ? *)", "0 0 * * MONDAY",
     "*/0 * * * *", "cron(0 0 1 * 2 *)", "a b c d e"],
)  # fmt: skip
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        cron.parse(text)


FIELD = st.sampled_from(["*", "0", "7", "*/7", "3-9", "1,5"])


@settings(max_examples=30)
@given(FIELD, FIELD, st.sampled_from(["*", "1", "13", "*/5"]), st.integers(0, 10**6))
def test_next_after_is_the_first_minute_that_fits(
    minute: str, at_hour: str, day: str, offset: int
) -> None:
    """Beside a search of every minute."""
    found = cron.parse(f"{minute} {at_hour} {day} * *")
    start_us = sources.to_us(MONDAY) + offset * 60_000_000
    next_us = found.next_after(start_us)
    assert next_us is not None
    moment = sources.to_datetime(start_us)
    for _ in range(60 * 24 * 40):
        moment += timedelta(minutes=1)
        if (
            moment.minute in found.minutes
            and moment.hour in found.hours
            and moment.day in found.days
        ):
            break
    assert sources.to_us(moment) == next_us


def test_a_window_may_be_longer_than_its_schedule_and_wait() -> None:
    made = monitors.Monitor(
        "m",
        "drift",
        "group:g",
        schedule="cron(0 0 ? * * *)",
        window_us=7 * 86_400_000_000,
        start_us=sources.to_us(MONDAY),
    )
    until = sources.to_us(MONDAY + 9 * 24 * HOUR)
    assert [str(w) for w in schedule.windows(made, None, until)] == [
        "2024-01-01T00:00:00Z/2024-01-08T00:00:00Z",
        "2024-01-02T00:00:00Z/2024-01-09T00:00:00Z",
        "2024-01-03T00:00:00Z/2024-01-10T00:00:00Z",
    ]
    once = replace(made, schedule="NOW", defined_us=until)
    assert [w.end_us for w in schedule.windows(once, None, until)] == [until]
    assert list(schedule.windows(once, until, until)) == []


# ── the page ─────────────────────────────────────────────────────────────────────────────────


def test_a_page_is_whole_and_says_what_moved(
    world: fs.FeatureStore, healthy: monitor.Baseline, clock: Clock, tmp_path: Path
) -> None:
    from html.parser import HTMLParser

    clock.now = MONDAY + 28 * HOUR
    world.ingest("readings", readings(MONDAY + 24 * HOUR, 4, seed=4, shift=1.0))
    monitor.create(
        world,
        "d",
        kind="drift",
        source="group:readings",
        baseline=healthy,
        schedule=HOURLY,
        start=MONDAY + 22 * HOUR,
    )
    with pytest.raises(InvalidInput, match="has not been run"):
        monitor.report(world, "d")
    monitor.run_due(world)
    page = monitor.report(world, "d", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page
    for words in (
        "What moved, and when it began",
        "2 Jan 2024 00:00",
        "mean ",
        "prefers-color",
        "baseline_drift_check",
        "SELECT * FROM readings",
    ):
        assert words in page
    assert "http" not in page  # nothing is fetched

    class Balance(HTMLParser):
        open: list[str] = []  # noqa: RUF012
        drawings = 0

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            del attrs
            self.drawings += tag == "svg"
            if tag not in ("meta", "line", "rect", "path", "circle", "polyline"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("line", "rect", "path", "circle", "polyline"):
                assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.drawings == 1 + 2 * 3
    early = monitor.report(world, "d", until=MONDAY + 24 * HOUR)
    assert "Nothing. All 3 features" in early


def test_a_page_of_a_model_draws_its_metrics(scored: fs.FeatureStore) -> None:
    monitor.create(scored, "mq", kind="model_quality", source="group:scores", **MODEL)
    for number in (1, 2):
        monitor.run(scored, "mq", hour(number))
    page = monitor.report(scored, "mq")
    assert "auc: 0." in page
    assert "No violations in the last window" in page


def test_names_cannot_break_the_page(world: fs.FeatureStore) -> None:
    nasty = "<script>alert(1)</script>"
    assert "<script>" not in svg.bars(nasty, [(nasty, 0.5, 0.5)])
    assert "<script>" not in svg.line(nasty, [0, 1], [0.0, 1.0], 0.5, [False, True])
    assert "<script>" not in svg.heat([(nasty, [0.5])], [0], [[False]])
    assert reports.moved_features(world, "nobody") == []
