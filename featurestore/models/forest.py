"""The random cut forest: a model that needs no labels and says how odd a row is.

Its file is a zip of arrays (NumPy's ``npz``), which is loaded without pickle.  The loops are in
:mod:`featurestore.kernels.forest`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import CorruptStore, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_ARRAYS = ("roots", "dimension", "cut", "right", "mass", "box", "fill")


@dataclass(frozen=True)
class RandomCutForest:
    """A forest that has been grown; made by :func:`grow`.

    Attributes
    ----------
    roots, dimension, cut, right, mass, box
        The nodes of all trees; see :func:`featurestore.kernels.forest.grow_tree`.
    fill : float64[d]
        What stands for a missing value: the column's mean.
    """

    roots: NDArray[np.int64]
    dimension: NDArray[np.int64]
    cut: NDArray[np.float64]
    right: NDArray[np.int64]
    mass: NDArray[np.int64]
    box: NDArray[np.float64]
    fill: NDArray[np.float64]

    def score(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return how odd each row is: about 1 for an ordinary one, more for an odd one.

        Parameters
        ----------
        rows : (n, d) floats
            NaN is a missing value.
        """
        from featurestore.kernels.forest import score_rows

        filled = _filled(np.asarray(rows, np.float64), self.fill)
        scores = np.empty(len(filled))
        nodes = (self.dimension, self.cut, self.right, self.mass, self.box)
        score_rows(filled, self.roots, *nodes, scores)
        return scores


def grow(
    rows: NDArray[Any], *, trees: int = 100, samples_per_tree: int = 256, seed: int = 0
) -> RandomCutForest:
    """Grow a forest, each tree from a sample of its own.

    Parameters
    ----------
    rows : (n, d) floats
        NaN is a missing value.
    trees, samples_per_tree : int
        SageMaker's names are ``num_trees`` and ``num_samples_per_tree``.
    seed : int
        The same seed grows the same forest.

    Examples
    --------
    >>> rows = np.random.default_rng(1).normal(size=(500, 2))
    >>> forest = grow(rows, trees=20)
    >>> usual, odd = forest.score(np.array([[0.0, 0.1], [9.0, 9.0]]))
    >>> bool(usual < 1.2 < 3 < odd)
    True
    """
    from featurestore.kernels.forest import grow_tree

    points = np.asarray(rows, np.float64)
    if points.ndim != 2 or not points.size:
        raise InvalidInput(f"A forest grows from rows of numbers; got the shape {points.shape}.")
    if trees < 1 or samples_per_tree < 2:
        raise InvalidInput("A forest has at least one tree, and a tree at least two samples.")
    known = np.where(np.isnan(points), 0.0, 1.0).sum(axis=0)
    fill = np.nansum(points, axis=0) / np.maximum(known, 1.0)
    points = _filled(points, fill)
    if not np.isfinite(points).all():
        raise InvalidInput("A forest grows from finite numbers; some are infinite.")
    chance = np.random.Generator(np.random.Philox(seed))
    size = min(samples_per_tree, len(points))
    d = points.shape[1]
    grown = []
    for _ in range(trees):
        sample = points[np.sort(chance.choice(len(points), size, replace=False))]
        most = 2 * size - 1
        dimension, right, mass = (np.empty(most, np.int64) for _ in range(3))
        cut, box = np.empty(most), np.empty((most, 2 * d))
        scratch = np.empty(size, np.int64)
        uniform = chance.random(max(size - 1, 1))
        count = grow_tree(sample, uniform, scratch, dimension, cut, right, mass, box)
        grown.append([array[:count] for array in (dimension, cut, right, mass, box)])
    sizes = [len(tree[0]) for tree in grown]
    nodes: list[Any] = [np.concatenate(part) for part in zip(*grown, strict=True)]
    arrays = [np.cumsum([0, *sizes[:-1]]).astype(np.int64), *nodes, fill]
    return RandomCutForest(**dict(zip(_ARRAYS, arrays, strict=True)))


def _filled(rows: NDArray[np.float64], fill: NDArray[np.float64]) -> NDArray[np.float64]:
    if rows.ndim != 2 or rows.shape[1] != len(fill):
        raise InvalidInput(f"The forest knows {len(fill)} columns; got the shape {rows.shape}.")
    return np.ascontiguousarray(np.where(np.isnan(rows), fill, rows))


# ── the format ───────────────────────────────────────────────────────────────────────────────


def dump(model: RandomCutForest, path: Path) -> None:
    """Write a forest; equal forests make equal files."""
    with path.open("wb") as file:
        np.savez(file, **{name: getattr(model, name) for name in _ARRAYS})


def load(data: bytes, trusted: Sequence[str]) -> RandomCutForest:  # noqa: ARG001  no types in it
    """Return the forest."""
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        if sorted(found.files) != sorted(_ARRAYS):
            raise CorruptStore(f"A forest has the arrays {', '.join(_ARRAYS)}; not {found.files}.")
        return RandomCutForest(**{name: found[name] for name in _ARRAYS})


def scorer(native: RandomCutForest) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Return the function that scores rows."""
    return native.score
