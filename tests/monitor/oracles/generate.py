"""Compute what others make of the samples, once: ``python generate.py ORACLE``, in its environment.

No drift library lives with the store's own libraries, so each has an environment of its own, and
what it said is kept in ``expected.json`` beside this file, with its version::

    scipy          pip install scipy scikit-learn fairlearn     (scipy, sklearn, fairlearn)
    smclarify      pip install smclarify==0.5 'pandas<3' scikit-learn
    evidently      pip install evidently==0.7.23 'pandas<3'
    nannyml        pip install nannyml==0.13.1 statsmodels
    alibi          pip install alibi-detect==0.13.0

Nothing of the store is imported here but the samples.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_SPEC = importlib.util.spec_from_file_location("samples", HERE.parent / "samples.py")
assert _SPEC is not None
samples: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(samples)  # type: ignore[union-attr]


def binned(base: list[float], window: list[float]) -> tuple[list[int], list[int]]:
    """Count both sides in bins cut at the baseline's deciles, with numpy's own tools."""
    import numpy as np

    edges = np.unique(np.quantile(base, np.arange(1, 10) / 10, method="inverted_cdf"))
    return tuple(  # type: ignore[return-value]
        np.bincount(np.digitize(side, edges, right=True), minlength=len(edges) + 1).tolist()
        for side in (base, window)
    )


def counts(base: list[str], window: list[str]) -> tuple[list[int], list[int]]:
    """Count both sides by value, in the order of the values."""
    values = sorted({*base, *window})
    return [base.count(v) for v in values], [window.count(v) for v in values]


def scipy() -> dict[str, Any]:
    """Distances, tests and their tails."""
    import numpy as np
    from scipy import stats
    from scipy.spatial.distance import jensenshannon

    found: dict[str, Any] = {"numbers": {}, "texts": {}}
    for name, (base, window) in samples.numbers().items():
        then, now = binned(base, window)
        n, m = len(base), len(window)
        ks = stats.ks_2samp(base, window).statistic
        found["numbers"][name] = {
            "ks": ks,
            "ks_p_value": stats.kstwobign.sf(ks * np.sqrt(n * m / (n + m))),
            "wasserstein": stats.wasserstein_distance(base, window),
            "jensen_shannon": jensenshannon(then, now, base=2),
            "std": np.std(base),
            "mean": np.mean(base),
        }
    for name, (base, window) in samples.texts().items():
        then, now = counts(base, window)
        table = stats.chi2_contingency([then, now], correction=False)
        scaled = np.array(then) * sum(now) / sum(then)
        known = stats.chisquare(now, scaled)
        found["texts"][name] = {
            "chi_square": table.statistic,
            "chi_square_p_value": table.pvalue,
            "jensen_shannon": jensenshannon(then, now, base=2),
            "known": [known.statistic, known.pvalue],
        }
    grid = [(x, k) for k in (1, 2, 5, 30, 200) for x in (0.01, 0.5, 1.0, 4.0, 30.0, 180.0, 400.0)]
    found["chi2_sf"] = [[x, k, stats.chi2.sf(x, k)] for x, k in grid]
    places = (0.05, 0.3, 0.5, 0.8, 0.99, 1.0, 1.36, 1.63, 2.5, 4.0)
    found["kolmogorov_sf"] = [[x, stats.kstwobign.sf(x)] for x in places]
    found["benjamini_hochberg"] = stats.false_discovery_control(samples.P_VALUES).tolist()
    return found


def sklearn() -> dict[str, Any]:
    """Model quality and NDCG."""
    from sklearn import metrics

    made = samples.predictions()
    truth, said, scores = made["binary"]
    labels, answers = made["multiclass"]
    values, guesses = made["regression"]
    fbeta = metrics.fbeta_score
    always = [1] * len(truth)
    usual = [max(set(labels), key=labels.count)] * len(labels)
    fpr, tpr, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    precisions, recalls, _ = metrics.precision_recall_curve(truth, scores)
    return {
        "binary": {
            "recall": metrics.recall_score(truth, said),
            "precision": metrics.precision_score(truth, said),
            "accuracy": metrics.accuracy_score(truth, said),
            "f0_5": fbeta(truth, said, beta=0.5),
            "f1": metrics.f1_score(truth, said),
            "f2": fbeta(truth, said, beta=2),
            "auc": metrics.roc_auc_score(truth, scores),
            "au_prc": metrics.average_precision_score(truth, scores),
            "true_positive_rate": metrics.recall_score(truth, said),
            "true_negative_rate": metrics.recall_score(truth, said, pos_label=0),
            "false_positive_rate": 1 - metrics.recall_score(truth, said, pos_label=0),
            "false_negative_rate": 1 - metrics.recall_score(truth, said),
            "recall_best_constant_classifier": metrics.recall_score(truth, always),
            "precision_best_constant_classifier": metrics.precision_score(truth, always),
            "accuracy_best_constant_classifier": metrics.accuracy_score(truth, always),
            "f0_5_best_constant_classifier": fbeta(truth, always, beta=0.5),
            "f1_best_constant_classifier": metrics.f1_score(truth, always),
            "f2_best_constant_classifier": fbeta(truth, always, beta=2),
        },
        "curves": {
            "roc": [fpr.tolist(), tpr.tolist()],
            "precision_recall": [precisions[::-1].tolist(), recalls[::-1].tolist()],
        },
        "confusion": metrics.confusion_matrix(truth, said).tolist(),
        "multiclass": {
            f"{name}{suffix}": value
            for suffix, given in (("", answers), ("_best_constant_classifier", usual))
            for name, value in (
                ("accuracy", metrics.accuracy_score(labels, given)),
                *(
                    (
                        f"weighted_{metric}",
                        function(labels, given, average="weighted", zero_division=0, **more),
                    )
                    for metric, function, more in (
                        ("recall", metrics.recall_score, {}),
                        ("precision", metrics.precision_score, {}),
                        ("f0_5", fbeta, {"beta": 0.5}),
                        ("f1", metrics.f1_score, {}),
                        ("f2", fbeta, {"beta": 2}),
                    )
                ),
            )
        },
        "regression": {
            "mae": metrics.mean_absolute_error(values, guesses),
            "mse": metrics.mean_squared_error(values, guesses),
            "rmse": metrics.root_mean_squared_error(values, guesses),
            "r2": metrics.r2_score(values, guesses),
        },
        "ndcg": [
            metrics.ndcg_score([[base[f] for f in base]], [[now[f] for f in base]])
            for base, now in samples.ATTRIBUTIONS
        ],
    }


def fairlearn() -> dict[str, Any]:
    """Rates by group: the differences that Clarify's metrics are."""
    from fairlearn import metrics

    rows = samples.people()
    functions = {
        "selection": metrics.selection_rate,
        "tpr": metrics.true_positive_rate,
        "tnr": metrics.true_negative_rate,
    }
    frame = metrics.MetricFrame(
        metrics=functions,
        y_true=rows["label"],
        y_pred=rows["prediction"],
        sensitive_features=rows["sex"],
    ).by_group
    ratio = metrics.demographic_parity_ratio(
        rows["label"], rows["prediction"], sensitive_features=rows["sex"]
    )
    a, d = frame.loc["m"], frame.loc["f"]
    return {
        "DPPL": a["selection"] - d["selection"],
        "RD": a["tpr"] - d["tpr"],
        "SD": d["tnr"] - a["tnr"],
        "ratio": ratio,
    }


def smclarify() -> dict[str, Any]:
    """All of Clarify's metrics, for a facet of text and for one of numbers."""
    import pandas as pd
    from smclarify.bias import report

    rows = pd.DataFrame(samples.people())
    found = {}
    for name, facet in (
        ("sex", report.FacetColumn("sex", ["f"])),
        ("age", report.FacetColumn("age", [samples.AGE_LIMIT])),
    ):
        frame = rows[["sex", "age", "label", "prediction", "income", "debt"]].copy()
        other = "age" if name == "sex" else "sex"
        frame = frame.drop(columns=[other])
        values = {}
        for stage in (report.StageType.PRE_TRAINING, report.StageType.POST_TRAINING):
            listed = report.bias_report(
                frame,
                facet,
                report.LabelColumn("label", frame["label"], [1]),
                stage,
                report.LabelColumn("prediction", frame["prediction"], [1]),
                ["all"],
                rows["town"],
            )
            [one] = [part for part in listed if part["value_or_threshold"] != "m"][:1]
            values |= {metric["name"]: metric["value"] for metric in one["metrics"]}
            found[f"{name} is"] = one["value_or_threshold"]
        found[name] = values
    return found


def evidently() -> dict[str, Any]:
    """Per-test values; its PSI and JS of numbers cut their own bins, so only those of texts."""
    import pandas as pd
    from evidently.legacy.calculations import stattests
    from evidently.legacy.core import ColumnType

    def drift(name: str, kind: Any, base: list[Any], window: list[Any]) -> float:
        test = getattr(stattests, name)
        return float(test.func(pd.Series(base), pd.Series(window), kind, 0.1)[0])

    found: dict[str, Any] = {"numbers": {}, "texts": {}}
    for name, (base, window) in samples.numbers().items():
        found["numbers"][name] = {
            "wasserstein_std": drift("wasserstein_stat_test", ColumnType.Numerical, base, window),
        }
    for name, (base, window) in samples.texts().items():
        found["texts"][name] = {
            "psi": drift("psi_stat_test", ColumnType.Categorical, base, window),
            "chi_square_known_p_value": drift(
                "chi_stat_test", ColumnType.Categorical, base, window
            ),
        }
    return found


def nannyml() -> dict[str, Any]:
    """Its univariate methods; its JS of numbers cuts its own bins."""
    import pandas as pd
    from nannyml.chunk import DefaultChunker
    from nannyml.drift.univariate import methods
    from nannyml.thresholds import ConstantThreshold

    def value(kind: Any, base: list[Any], window: list[Any]) -> float:
        how = {"chunker": DefaultChunker(), "threshold": ConstantThreshold(0, 1)}
        method = kind(**how)
        method.fit(pd.Series(base, name="x"))
        return float(method.calculate(pd.Series(window, name="x")))

    found: dict[str, Any] = {"numbers": {}, "texts": {}}
    for name, (base, window) in samples.numbers().items():
        found["numbers"][name] = {
            "ks": value(methods.KolmogorovSmirnovStatistic, base, window),
            "wasserstein": value(methods.WassersteinDistance, base, window),
        }
    for name, (base, window) in samples.texts().items():
        found["texts"][name] = {
            "linf_simple": value(methods.LInfinityDistance, base, window),
            "jensen_shannon": value(methods.CategoricalJensenShannonDistance, base, window),
            "chi_square": value(methods.Chi2Statistic, base, window),
        }
    return found


def alibi() -> dict[str, Any]:
    """p-values of features tested together, and what survives false discovery control."""
    import numpy as np
    from alibi_detect.cd import ChiSquareDrift
    from alibi_detect.utils.statstest import fdr

    found: dict[str, Any] = {"texts": {}}
    for name, (base, window) in samples.texts().items():
        codes = {value: code for code, value in enumerate(sorted({*base, *window}))}
        then, now = (np.array([[codes[v]] for v in side]) for side in (base, window))
        told = ChiSquareDrift(then, p_val=0.05).predict(now)["data"]
        found["texts"][name] = {
            "chi_square": float(told["distance"][0]),
            "chi_square_p_value": float(told["p_val"][0]),
        }
    survives, _ = fdr(np.array(samples.P_VALUES), 0.05)
    found["any_survives"] = bool(survives)
    return found


PACKAGES = {"scipy": "scipy", "sklearn": "scikit-learn", "fairlearn": "fairlearn"}
PACKAGES |= {"smclarify": "smclarify", "evidently": "evidently", "nannyml": "nannyml"}
PACKAGES["alibi"] = "alibi-detect"


def main() -> None:
    """Put one oracle's answers into the file."""
    warnings.simplefilter("ignore")
    path = HERE / "expected.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in sys.argv[1:]:
        told = json.loads(json.dumps(globals()[name](), default=float))
        kept[name] = {"version": version(PACKAGES[name]), **told}
    text = json.dumps(kept, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
