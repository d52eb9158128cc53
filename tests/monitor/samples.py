"""The samples that expected values were computed from, in plain Python: the same everywhere.

``random.Random`` gives the same numbers in every version of Python, so the oracles, each in an
environment of its own, and the tests speak of the same rows without a file of them.
"""

from __future__ import annotations

import random
from typing import Any


def numbers() -> dict[str, tuple[list[float], list[float]]]:
    """Return pairs of samples of a number: baseline and window."""
    chance = random.Random(10)
    normal = [chance.gauss(0, 1) for _ in range(400)]
    return {
        "shifted": (normal, [chance.gauss(0.4, 1.2) for _ in range(300)]),
        "same": (normal, [chance.gauss(0, 1) for _ in range(500)]),
        "ties": (
            [float(chance.randrange(8)) for _ in range(250)],
            [float(min(7, chance.randrange(10))) for _ in range(333)],
        ),
        "heavy": (
            [chance.lognormvariate(0, 1.5) for _ in range(300)],
            [chance.lognormvariate(0.2, 1.5) for _ in range(200)],
        ),
        "rain": (  # mostly zero, as rain is
            [max(0.0, chance.gauss(-1, 1)) for _ in range(600)],
            [max(0.0, chance.gauss(-0.6, 1)) for _ in range(150)],
        ),
        "apart": ([float(i) for i in range(50)], [float(i) for i in range(100, 140)]),
    }


def texts() -> dict[str, tuple[list[str], list[str]]]:
    """Return pairs of samples of a text; every value has more than five rows on both sides."""
    chance = random.Random(11)

    def drawn(rows: int, weights: dict[str, float]) -> list[str]:
        return chance.choices(list(weights), list(weights.values()), k=rows)

    return {
        "shifted": (
            drawn(500, {"a": 5, "b": 3, "c": 2}),
            drawn(400, {"a": 3, "b": 3, "c": 4}),
        ),
        "same": (
            drawn(700, {"UA": 4, "DL": 3, "B6": 2, "AA": 1}),
            drawn(600, {"UA": 4, "DL": 3, "B6": 2, "AA": 1}),
        ),
        "two": (drawn(300, {"no": 8, "yes": 2}), drawn(300, {"no": 7, "yes": 3})),
    }


def predictions() -> dict[str, Any]:
    """Return labels and predictions of three problems, 500 rows each."""
    chance = random.Random(12)
    truth = [int(chance.random() < 0.3) for _ in range(500)]
    scores = [min(1.0, max(0.0, round(chance.gauss(0.35 + 0.3 * t, 0.2), 2))) for t in truth]
    classes = [chance.choice("aabbbc") for _ in range(500)]
    said = [c if chance.random() < 0.7 else chance.choice("abc") for c in classes]
    values = [chance.gauss(10, 4) for _ in range(500)]
    return {
        "binary": (truth, [int(score >= 0.5) for score in scores], scores),
        "multiclass": (classes, said),
        "regression": (values, [value + chance.gauss(0.5, 2) for value in values]),
    }


def people() -> dict[str, list[Any]]:
    """Return 240 rows of people: two facets, a label, a prediction, strata, two numbers."""
    chance = random.Random(13)
    rows = 240
    sex = [chance.choice(["f", "m", "m"]) for _ in range(rows)]
    age = [chance.uniform(18, 70) for _ in range(rows)]
    label = [int(chance.random() < (0.35 if s == "f" else 0.55)) for s in sex]
    prediction = [y if chance.random() < 0.8 else 1 - y for y in label]
    return {
        "sex": sex,
        "age": age,
        "label": label,
        "prediction": prediction,
        "town": [chance.choice(["north", "south", "west"]) for _ in range(rows)],
        "income": [chance.gauss(50 + 10 * y, 15) for y in label],
        "debt": [chance.gauss(20, 8) for _ in range(rows)],
    }


AGE_LIMIT = 40.0
ATTRIBUTIONS = [
    ({"a": 0.70, "b": 0.50, "c": 0.05}, {"a": 0.1, "b": 0.2, "c": 0.3}),
    ({"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}, {"a": 0.35, "b": 0.4, "c": 0.2, "d": 0.05}),
    ({"a": 1.0, "b": 0.5, "c": 0.25}, {"a": 9.0, "b": 2.0, "c": 1.0}),
]
P_VALUES = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216, 0.9]
