"""Tuning: what is tried is a function of the request, and a kill in the middle changes nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore import training
from featurestore.integrations.optuna import Study
from featurestore.training import Choice, Float, Int
from featurestore.training.space import grid, values
from featurestore.training.tuning import is_worse_than_median
from tests.training.scripts import script

BOWL = """
import json, os, sys, time
p = json.loads(os.environ["SM_HPS"])
value = -(p["x"] - 0.3) ** 2 - (p["n"] - 4) ** 2 / 100
for step in range(1, p.get("steps", 1) + 1):
    print(f"step={step} score={value * (1 + 1 / step):.9f}", flush=True)
    time.sleep(p.get("nap", 0))
"""
SPACE = {"x": Float(0.01, 1.0, "log"), "n": Int(1, 9)}


def request(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "entry": script(tmp_path, "bowl.py", BOWL),
        "space": SPACE,
        "objective": "max:score",
        "metrics": {"score": r"step=(?P<step>\d+) score=(\S+)"},
        "seed": 5,
        **more,
    }


def tried(tuned: training.Tuning) -> list[tuple[Any, ...]]:
    return [(t.number, dict(t.params), t.state, t.value) for t in tuned.trials]


@pytest.mark.parametrize("strategy", ["bayesian", "random"])
def test_it_searches_the_space_and_says_what_was_best(
    store: fs.FeatureStore, tmp_path: Path, strategy: str
) -> None:
    asked = request(tmp_path, strategy=strategy, max_jobs=4)
    tuned = training.tune(store, name="one", **asked)
    assert tuned.status == "Completed"
    assert [t.state for t in tuned.trials] == ["Completed"] * 4
    for trial in tuned.trials:
        assert 0.01 <= trial.params["x"] <= 1.0
        assert trial.params["n"] in range(1, 10)
        x, n = trial.params["x"], trial.params["n"]
        assert trial.value == pytest.approx(2 * (-((x - 0.3) ** 2) - (n - 4) ** 2 / 100))
        record = training.get(store, trial.job).record
        assert record["lineage"]["parent"] == "tune/one"
    assert tuned.best.value == max(t.value for t in tuned.trials)
    assert tuned.table().column_names == [
        "trial", "state", "value", "params.n", "params.x", "job",
    ]  # fmt: skip
    assert len({t.params["x"] for t in tuned.trials}) == 4


def test_several_at_a_time_are_as_many_trials(store: fs.FeatureStore, tmp_path: Path) -> None:
    tuned = training.tune(store, name="two", **request(tmp_path, max_jobs=5, parallel=2))
    assert [t.number for t in tuned.trials] == list(range(5))
    assert {t.state for t in tuned.trials} == {"Completed"}


def test_a_grid_is_gone_through_in_order(store: fs.FeatureStore, tmp_path: Path) -> None:
    space = {"x": Choice(0.1, 0.3), "n": Int(4, 5)}
    tuned = training.tune(store, name="grid", **request(tmp_path, space=space, strategy="grid"))
    assert [tuple(t.params.values()) for t in tuned.trials] == [
        (0.1, 4), (0.1, 5), (0.3, 4), (0.3, 5),
    ]  # fmt: skip
    assert dict(tuned.best.params) == {"x": 0.3, "n": 4}


def test_it_ends_at_the_target_or_when_nothing_better_comes(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    space = {"x": Choice(0.3, 0.4, 0.5, 0.6, 0.2), "n": Choice(4)}
    asked = request(tmp_path, space=space, strategy="grid")
    assert len(training.tune(store, name="patient", **asked, patience=2).trials) == 3
    assert len(training.tune(store, name="aimed", **asked, target=-0.001).trials) == 1


# ── giving up ────────────────────────────────────────────────────────────────────────────────


def test_the_median_rule_gives_up_what_is_worse_than_half(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    space = {"x": Choice(0.3, 0.35, 0.9), "n": Choice(4)}
    asked = request(tmp_path, space=space, strategy="grid", early_stop="median")
    tuned = training.tune(store, name="median", **asked, params={"steps": 3, "nap": 0.3})
    assert [t.state for t in tuned.trials] == ["Completed", "Stopped", "Stopped"]
    assert "worse than the median" in json.dumps(training.get(store, "median-0002").record)
    assert dict(tuned.best.params)["x"] == 0.3


@given(
    st.lists(st.dictionaries(st.integers(1, 5), st.integers(-3, 3), min_size=1), max_size=5),
    st.integers(-3, 3),
    st.integers(1, 5),
    st.booleans(),
)
def test_the_median_rule_is_sagemakers(
    others: list[dict[int, float]], value: float, step: int, is_rising: bool
) -> None:
    averages = []
    for other in others:
        upto = [v for s, v in other.items() if s <= step]
        if upto and max(other) >= step:
            averages.append(sum(upto) / len(upto))
    expected = False
    if averages:
        median = statistics.median(averages)
        expected = value < median if is_rising else value > median
    assert is_worse_than_median(value, step, others, is_rising=is_rising) == expected


def test_hyperband_gives_up_what_is_behind(store: fs.FeatureStore, tmp_path: Path) -> None:
    asked = request(tmp_path, strategy="hyperband", max_jobs=7, resources=(1, 4))
    tuned = training.tune(store, name="band", **asked, params={"steps": 4, "nap": 0.1})
    states = [t.state for t in tuned.trials]
    assert "Stopped" in states
    assert "Completed" in states
    assert set(states) == {"Stopped", "Completed"}


# ── warm start, kills ────────────────────────────────────────────────────────────────────────


def test_a_warm_start_knows_the_trials_of_its_parents(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    asked = request(tmp_path)
    many = {"x": Choice(0.28, 0.3, 0.32), "n": Choice(3, 4, 5, 6)}
    training.tune(store, name="parent", **{**asked, "space": many, "strategy": "grid"})
    again = {**asked, "space": many, "max_jobs": 2}
    cold = training.tune(store, name="cold", **again)
    warm = training.tune(store, name="warm", **again, warm_start=["parent"])
    assert [dict(t.params) for t in warm.trials] != [dict(t.params) for t in cold.trials]
    assert max(t.value for t in warm.trials) >= max(t.value for t in cold.trials)
    with pytest.raises(fs.InvalidInput, match="another objective"):
        training.tune(
            store,
            name="other",
            **{**asked, "objective": "min:score", "max_jobs": 1, "warm_start": ["parent"]},
        )


TUNER = """
import json, sys
import featurestore as fs
from featurestore import training
from featurestore.training import Float, Int
asked = json.loads(sys.argv[2])
space = {"x": Float(0.01, 1.0, "log"), "n": Int(1, 9)}
with fs.open(sys.argv[1], upkeep=False) as store:
    training.tune(store, space=space, **asked)
"""


def test_a_tuning_killed_in_the_middle_goes_on_as_if_it_had_not_been(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    # Ten trials to begin with, or the next ones would be drawn without a look at those before.
    space = {"x": Choice(0.1, 0.2, 0.3, 0.4, 0.5), "n": Choice(3, 5)}
    training.tune(store, name="parent", **request(tmp_path, space=space, strategy="grid"))
    asked = request(tmp_path, max_jobs=5, params={"steps": 2, "nap": 0.05}, warm_start=["parent"])
    whole = training.tune(store, name="whole", **asked)
    told = {**asked, "name": "whole-again", "entry": str(asked["entry"])}
    del told["space"]
    for upto in (1, 3):
        tuner = subprocess.Popen([sys.executable, "-c", TUNER, str(store.path), json.dumps(told)])
        while store.documents.get("tuning-trial", f"whole-again/{upto:08d}") is None:
            assert tuner.poll() is None
            time.sleep(0.01)
        os.kill(tuner.pid, signal.SIGKILL)
        tuner.wait()
        assert training.tuning(store, "whole-again").status == "InProgress"
    before = {t.job for t in training.tuning(store, "whole-again").trials if t.value is not None}
    seconds = {job: training.get(store, job).record["ended_at_us"] for job in before}
    again = training.tune(store, **{**told, "space": SPACE})
    assert tried(again) == tried(whole)
    assert {j: training.get(store, j).record["ended_at_us"] for j in before} == seconds
    with pytest.raises(fs.InvalidInput, match="another max_jobs, seed"):
        training.tune(store, **{**told, "space": SPACE, "max_jobs": 9, "seed": 6})
    assert tried(training.tune(store, **{**told, "space": SPACE})) == tried(whole)


# ── spaces, refusals ─────────────────────────────────────────────────────────────────────────


def test_a_reversed_logarithm_is_drawn_towards_one() -> None:
    space = {"m": Float(0.9, 0.9999, "reverse_log"), "k": Choice("a", "b")}
    study = Study("s", space, "random", is_rising=True, seed=1)
    drawn = [values(space, study.draw(n)[1])["m"] for n in range(200)]
    assert all(0.9 <= m <= 0.9999 for m in drawn)
    assert 0.3 < sum(m > 0.99 for m in drawn) / 200 < 0.8  # of 3 orders of magnitude, 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Float(1, 1),
        lambda: Float(0, 1, "log"),
        lambda: Float(0.5, 1.0, "reverse_log"),
        lambda: Int(1, 5, "reverse_log"),
        Choice,
        lambda: Choice(1, 1),
        lambda: grid({"x": Float(0, 1)}),
    ],
)
def test_a_space_that_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(fs.InvalidInput):
        wrong()


@pytest.mark.parametrize(
    "wrong",
    [
        {"space": {}},
        {"space": {"x": 3}},
        {"objective": "score"},
        {"strategy": "lucky"},
        {"strategy": "hyperband"},
        {"early_stop": "yes"},
        {"max_jobs": None},
        {"parallel": 0},
        {"name": "a b"},
        {"warm_start": ["nobody"]},
    ],
)
def test_a_request_that_cannot_be_is_refused(
    store: fs.FeatureStore, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(fs.InvalidInput):
        training.tune(store, **{**request(tmp_path, max_jobs=1, name="one"), **wrong})
    assert training.jobs(store) == []


FAILING = """
import json, os
x = json.loads(os.environ["SM_HPS"])["x"]
assert x < 2
print("score=nan" if x else "score=-9")
"""


def test_a_trial_that_fails_is_no_best(store: fs.FeatureStore, tmp_path: Path) -> None:
    asked = {
        "entry": script(tmp_path, "f.py", FAILING),
        "space": {"x": Choice(2, 1, 0)},
        "objective": "max:score",
        "metrics": {"score": r"score=(\S+)"},
        "strategy": "grid",
    }
    tuned = training.tune(store, name="failing", **asked)
    assert [t.state for t in tuned.trials] == ["Failed", "Failed", "Completed"]
    assert tuned.best.number == 2
    assert math.isclose(tuned.best.value, -9)
