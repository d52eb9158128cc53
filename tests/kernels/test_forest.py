"""The random cut forest beside its twin: the score by recursion, and what a tree has to be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from featurestore.errors import InvalidInput
from featurestore.kernels import forest as kernels
from featurestore.models import forest

FINITE = st.floats(-4, 4).map(lambda x: round(x, 1))  # coarse, so that points are equal at times
POINTS = st.tuples(st.integers(1, 12), st.integers(1, 3)).flatmap(
    lambda shape: of_numpy.arrays(np.float64, shape, elements=FINITE)
)


def plain(kernel: Any) -> Any:
    """Return the Python function a kernel was compiled from."""
    return getattr(kernel, "py_func", kernel)


class Node:
    """A node of the twin: objects that point at each other."""

    def __init__(self, points: np.ndarray, chance: list[float]) -> None:
        self.low, self.high, self.mass = points.min(axis=0), points.max(axis=0), len(points)
        sides = self.high - self.low
        self.left: Node | None = None
        self.right: Node | None = None
        if not sum(sides) > 0:
            return
        along = chance.pop(0) * sum(sides.tolist())
        wide = [j for j in range(len(sides)) if sides[j] > 0]
        for self.j in wide:
            if along < sides[self.j] or self.j == wide[-1]:
                break
            along -= sides[self.j]
        at = self.low[self.j] + along
        self.cut = at if at < self.high[self.j] else self.low[self.j]
        is_left = points[:, self.j] <= self.cut
        self.left = Node(points[is_left], chance)
        self.right = Node(points[~is_left], chance)

    def score(self, x: np.ndarray, depth: int, whole: int) -> float:
        """AnomalyScoreVisitor, from the root down instead of from the leaf up."""
        if self.left is None or self.right is None:
            if np.array_equal(x, self.low):
                return (1 - self.mass / (2 * whole)) / (depth + math.log2(self.mass + 1))
            return 1 / (depth + 1)
        below = self.left if x[self.j] <= self.cut else self.right
        grown = sum(np.maximum(self.high, x) - np.minimum(self.low, x))
        parted = 1 - sum(self.high - self.low) / grown
        return parted / (depth + 1) + (1 - parted) * below.score(x, depth + 1, whole)


def grown(points: np.ndarray, uniform: np.ndarray, *, compiled: bool) -> tuple[np.ndarray, ...]:
    m, d = points.shape
    integers = [np.zeros(2 * m - 1, np.int64) for _ in range(3)]
    cut, box = np.zeros(2 * m - 1), np.zeros((2 * m - 1, 2 * d))
    run = kernels.grow_tree if compiled else plain(kernels.grow_tree)
    nodes = (integers[0], cut, integers[1], integers[2], box)
    count = run(points, uniform, np.zeros(m, np.int64), *nodes)
    return tuple(array[:count] for array in nodes)


@pytest.mark.parametrize("compiled", [True, False])
@given(points=POINTS, data=st.data())
def test_a_tree_scores_as_its_twin(compiled: bool, points: np.ndarray, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=12, max_size=12))
    tree = grown(points, np.array(cuts), compiled=compiled)
    twin = Node(points, list(cuts))
    rows = np.vstack(
        [points, data.draw(of_numpy.arrays(np.float64, points.shape, elements=FINITE))]
    )
    scores = np.empty(len(rows))
    score = kernels.score_rows if compiled else plain(kernels.score_rows)
    score(rows, np.zeros(1, np.int64), *tree, scores)
    expected = [twin.score(x, 0, len(points)) * math.log2(len(points) + 1) for x in rows]
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_the_odd_row_among_many_is_found() -> None:
    chance = np.random.default_rng(5)
    rows = chance.normal(size=(2_000, 3))
    rows[::200] += 8.0
    scores = forest.grow(rows, trees=50).score(rows)
    assert set(np.argsort(scores)[-10:]) == set(range(0, 2_000, 200))


def test_the_same_seed_grows_the_same_forest_and_missing_values_are_the_mean() -> None:
    rows = np.random.default_rng(5).normal(size=(300, 2))
    rows[0, 0] = np.nan
    one, same, other = (forest.grow(rows, trees=5, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.score(rows), same.score(rows))
    assert not np.array_equal(one.score(rows), other.score(rows))
    filled = np.where(np.isnan(rows), np.nanmean(rows, axis=0), rows)
    assert np.array_equal(one.score(rows), one.score(filled))


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (np.empty((0, 2)), {}),
        (np.empty(3), {}),
        (np.full((3, 2), np.inf), {}),
        (np.zeros((3, 2)), {"trees": 0}),
        (np.zeros((3, 2)), {"samples_per_tree": 1}),
    ],
)
def test_what_no_forest_grows_from_is_refused(rows: np.ndarray, options: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        forest.grow(rows, **options)
    with pytest.raises(InvalidInput, match="knows 2 columns"):
        forest.grow(np.zeros((3, 2))).score(np.zeros((1, 3)))
