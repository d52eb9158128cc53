"""Each metric beside what others make of the same rows; ``oracles/generate.py`` asked them once.

Tolerances: 1e-12 relative where both compute in float64, 1e-6 where an oracle computes in float32
(alibi-detect).  Where an oracle means something else by a name, it is not asked; where it means a
part of ours, that part is compared, and said so.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore.monitor import attribution, bias, drift, model_quality
from featurestore.monitor.columns import column_of
from tests.monitor import samples

EXPECTED = json.loads((Path(__file__).parent / "oracles" / "expected.json").read_text())
TIGHT = {"rel": 1e-12, "abs": 1e-13}


def compared(pair: tuple[list[Any], list[Any]]) -> dict[str, float]:
    base, window = (column_of("x", pa.chunked_array([side])) for side in pair)
    return drift.compare(base, window)


NUMBERS = {name: compared(pair) for name, pair in samples.numbers().items()}
TEXTS = {name: compared(pair) for name, pair in samples.texts().items()}


# ── drift ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("metric", ["ks", "ks_p_value", "wasserstein", "jensen_shannon"])
def test_distances_of_numbers_are_scipys(name: str, metric: str) -> None:
    assert NUMBERS[name][metric] == pytest.approx(
        EXPECTED["scipy"]["numbers"][name][metric], **TIGHT
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_distances_of_numbers_are_nannymls_and_evidentlys(name: str) -> None:
    theirs = EXPECTED["nannyml"]["numbers"][name]
    assert NUMBERS[name]["ks"] == pytest.approx(theirs["ks"], **TIGHT)
    # NannyML holds the reference as a histogram of up to 10,000 quantiles for this one.
    assert NUMBERS[name]["wasserstein"] == pytest.approx(theirs["wasserstein"], rel=1e-9)
    theirs = EXPECTED["evidently"]["numbers"][name]
    assert NUMBERS[name]["wasserstein_std"] == pytest.approx(theirs["wasserstein_std"], **TIGHT)


@pytest.mark.parametrize("name", TEXTS)
def test_distances_of_texts_are_those_of_four_others(name: str) -> None:
    ours = TEXTS[name]
    scipy, nannyml = EXPECTED["scipy"]["texts"][name], EXPECTED["nannyml"]["texts"][name]
    evidently, alibi = EXPECTED["evidently"]["texts"][name], EXPECTED["alibi"]["texts"][name]
    for metric in ("chi_square", "chi_square_p_value", "jensen_shannon"):
        assert ours[metric] == pytest.approx(scipy[metric], **TIGHT)
    assert ours["jensen_shannon"] == pytest.approx(nannyml["jensen_shannon"], **TIGHT)
    assert ours["linf_simple"] == pytest.approx(nannyml["linf_simple"], **TIGHT)
    assert ours["psi"] == pytest.approx(evidently["psi"], **TIGHT)
    for metric in ("chi_square", "chi_square_p_value"):
        # alibi and NannyML correct a table of two values for continuity, as we and scipy's
        # correction=False do not.
        if len(set(samples.texts()[name][0])) > 2:
            assert ours[metric] == pytest.approx(alibi[metric], rel=1e-6)
    if len(set(samples.texts()[name][0])) > 2:
        assert ours["chi_square"] == pytest.approx(nannyml["chi_square"], **TIGHT)
    base, window = ({value: side.count(value) for value in side} for side in samples.texts()[name])
    known = drift.chi_square_known(base, window)
    assert known == pytest.approx(scipy["known"], **TIGHT)
    assert known[1] == pytest.approx(evidently["chi_square_known_p_value"], **TIGHT)


def test_the_tails_are_scipys() -> None:
    for x, freedom, p in EXPECTED["scipy"]["chi2_sf"]:
        assert drift.chi_square_tail(x, freedom) == pytest.approx(p, rel=1e-10, abs=1e-14)
    for x, p in EXPECTED["scipy"]["kolmogorov_sf"]:
        assert drift.kolmogorov(x) == pytest.approx(p, rel=1e-12, abs=1e-15)


def test_false_discovery_control_is_scipys_and_alibis() -> None:
    ours = drift.benjamini_hochberg(samples.P_VALUES)
    assert ours == pytest.approx(EXPECTED["scipy"]["benjamini_hochberg"], **TIGHT)
    assert any(p <= 0.05 for p in ours) == EXPECTED["alibi"]["any_survives"]
    with_nan = drift.benjamini_hochberg([math.nan, *samples.P_VALUES])
    assert math.isnan(with_nan[0])
    assert with_nan[1:] == ours


def test_psi_of_numbers_is_its_formula() -> None:
    """No library cuts at our bins; numpy's own binning and the formula, written out."""
    for name, (base, window) in samples.numbers().items():
        edges = np.unique(np.quantile(base, np.arange(1, 10) / 10, method="inverted_cdf"))
        p, q = (
            np.bincount(np.digitize(side, edges, right=True), minlength=len(edges) + 1) / len(side)
            for side in (base, window)
        )
        p, q = np.maximum(p, 1e-4), np.maximum(q, 1e-4)
        assert NUMBERS[name]["psi"] == pytest.approx(
            float(((q - p) * np.log(q / p)).sum()), **TIGHT
        )


def test_robust_is_simple_less_its_allowance() -> None:
    """Deequ, Distance.scala, selectMetrics: ``max(0, linf - 1.8 sqrt((n + m) / (n m)))``."""
    for name, (base, window) in samples.numbers().items():
        n, m = len(base), len(window)
        allowed = 1.8 * math.sqrt((n + m) / (n * m))
        found = NUMBERS[name]
        assert found["linf_robust"] == max(0.0, found["linf_simple"] - allowed)
        assert found["linf_simple"] == found["ks"]


def test_small_categories_are_merged_as_deequ_does() -> None:
    """Deequ's own examples of regrouping (ChiSquareTest.scala): smallest into the next smallest."""
    assert drift.merged([100, 20, 3, 2, 1], [100, 20, 3, 2, 1]) == ([100, 20, 6],)
    assert drift.merged([100, 4], [100, 4]) == ([104],)
    assert drift.merged([50, 40, 30, 20, 4], [1, 2, 3, 4, 5]) == ([1, 2, 3, 4, 5],)
    assert all(map(math.isnan, drift.chi_square([100, 4], [90, 6])))


# ── model quality ────────────────────────────────────────────────────────────────────────────


def test_binary_metrics_are_scikit_learns() -> None:
    truth, said, scores = samples.predictions()["binary"]
    found = model_quality.evaluate("BinaryClassification", truth, said, scores)
    group = found["binary_classification_metrics"]
    for name, value in EXPECTED["sklearn"]["binary"].items():
        assert group[name]["value"] == pytest.approx(value, **TIGHT), name
        assert 0 <= group[name]["standard_deviation"] < 0.05
    curves = {name for name in group if name.endswith("_curve")}
    assert set(group) == {*EXPECTED["sklearn"]["binary"], *curves, "confusion_matrix"}
    assert [list(row.values()) for row in group["confusion_matrix"].values()] == EXPECTED[
        "sklearn"
    ]["confusion"]
    by_score = model_quality.evaluate("BinaryClassification", truth, None, scores)
    assert by_score == found


def test_curves_are_scikit_learns() -> None:
    truth, _, scores = samples.predictions()["binary"]
    found = model_quality.curves(np.array(truth, np.bool_), np.array(scores))
    expected = EXPECTED["sklearn"]["curves"]
    roc = found["receiver_operating_characteristic_curve"]
    assert roc["false_positive_rates"] == pytest.approx(expected["roc"][0], **TIGHT)
    assert roc["true_positive_rates"] == pytest.approx(expected["roc"][1], **TIGHT)
    both = found["precision_recall_curve"]
    assert both["precisions"] == pytest.approx(expected["precision_recall"][0], **TIGHT)
    assert both["recalls"] == pytest.approx(expected["precision_recall"][1], **TIGHT)


@pytest.mark.parametrize(
    ("problem", "name"),
    [("MulticlassClassification", "multiclass"), ("Regression", "regression")],
)
def test_other_metrics_are_scikit_learns(problem: str, name: str) -> None:
    found = model_quality.evaluate(problem, *samples.predictions()[name])
    group = found[f"{model_quality.PROBLEMS[problem]}_metrics"]
    for metric, value in EXPECTED["sklearn"][name].items():
        assert group[metric]["value"] == pytest.approx(value, **TIGHT), metric


def test_the_guides_example_of_a_best_constant_classifier() -> None:
    """Developer guide, "Model quality metrics": four rows, one of them positive."""
    found = model_quality.evaluate("BinaryClassification", [0, 0, 0, 1], [0, 1, 1, 1])
    group = found["binary_classification_metrics"]
    assert group["confusion_matrix"] == {"0": {"0": 1, "1": 2}, "1": {"0": 0, "1": 1}}
    expected = {
        "recall": 1.0, "precision": 1 / 3, "accuracy": 0.5, "true_negative_rate": 1 / 3,
        "recall_best_constant_classifier": 1.0, "precision_best_constant_classifier": 0.25,
        "accuracy_best_constant_classifier": 0.25, "f1": 0.5, "f2": 5 / 7, "f0_5": 5 / 13,
        "f0_5_best_constant_classifier": 5 / 17, "f1_best_constant_classifier": 0.4,
        "f2_best_constant_classifier": 0.625,
    }  # fmt: skip
    for name, value in expected.items():
        assert group[name] == {"value": pytest.approx(value), "standard_deviation": "NaN"}


def test_ndcg_is_scikit_learns_and_the_guides() -> None:
    for (base, now), value in zip(samples.ATTRIBUTIONS, EXPECTED["sklearn"]["ndcg"], strict=True):
        assert attribution.ndcg(base, now) == pytest.approx(value, **TIGHT)
    assert attribution.ndcg(*samples.ATTRIBUTIONS[0]) == pytest.approx(0.69, abs=0.005)


# ── bias ─────────────────────────────────────────────────────────────────────────────────────


def analysed(facet: str) -> dict[str, float]:
    rows = samples.people()
    found = bias.analyse(
        pa.table(rows),
        facet=facet,
        facet_values=["f"] if facet == "sex" else None,
        facet_threshold=samples.AGE_LIMIT if facet == "age" else None,
        label="label",
        prediction="prediction",
        strata="town",
        features=["income", "debt"],
    )
    return {name: value for (_, _, name), value in bias.values_in(found).items()}


@pytest.mark.parametrize("facet", ["sex", "age"])
def test_bias_is_clarifys(facet: str) -> None:
    ours, theirs = analysed(facet), EXPECTED["smclarify"][facet]
    assert set(ours) == set(theirs) == set(bias.DESCRIPTIONS)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, **TIGHT), name


def test_bias_is_what_fairlearn_calls_differences_between_groups() -> None:
    ours, theirs = analysed("sex"), EXPECTED["fairlearn"]
    for name in ("DPPL", "RD", "SD"):
        assert ours[name] == pytest.approx(theirs[name], **TIGHT)
    assert min(ours["DI"], 1 / ours["DI"]) == pytest.approx(theirs["ratio"], **TIGHT)


def flags(a: list[bool], d: list[bool]) -> Any:
    return np.array([*a, *d], np.bool_)


def counted(tp: int, fn: int, fp: int, tn: int) -> tuple[list[bool], list[bool]]:
    """Labels and predictions of a confusion matrix."""
    truth = [True] * (tp + fn) + [False] * (fp + tn)
    return truth, [True] * tp + [False] * fn + [True] * fp + [False] * tn


def test_the_guides_worked_examples() -> None:
    """Clarify's developer guide, one example for each of these."""

    def labels(shares: dict[str, int]) -> list[str]:
        return [name for name, rows in shares.items() for _ in range(rows)]

    who = np.arange(20) >= 10
    two = labels({"1": 8, "0": 2}) + labels({"1": 3, "0": 7})
    assert bias.divergences(two, who)["KL"] == pytest.approx(0.53, abs=0.005)
    three = labels({"a": 4, "b": 4, "c": 2}) + labels({"a": 2, "b": 1, "c": 7})
    assert bias.divergences(three, who)["KS"] == pytest.approx(0.5)

    def measured(a: tuple[int, ...], d: tuple[int, ...]) -> dict[str, float]:
        (truth_a, said_a), (truth_d, said_d) = counted(*a), counted(*d)
        facet = flags([False] * len(truth_a), [True] * len(truth_d))
        return bias.post_training(flags(truth_a, truth_d), flags(said_a, said_d), facet)

    # tp, fn, fp, tn of a, then of d
    assert measured((5, 5, 10, 20), (5, 5, 5, 18))["SD"] == pytest.approx(0.1159, abs=5e-5)
    assert measured((65, 5, 10, 20), (20, 7, 5, 18))["RD"] == pytest.approx(0.19, abs=0.005)
    assert measured((40, 20, 10, 30), (20, 30, 20, 30))["AD"] == pytest.approx(0.7 - 0.5)
    # 70 labels and 60 predictions positive of a, 20 and 30 of d
    assert measured((55, 15, 5, 25), (18, 2, 12, 18))["DCA"] == pytest.approx(0.5)
