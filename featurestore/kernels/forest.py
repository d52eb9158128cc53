"""Random cut trees: how odd a row is, by how soon random cuts would part it from the others.

::

    ┌────────────┬───────┐      A node is a box around its points.  A cut falls anywhere along the
    │  ·   ·     │       │      sum of the box's sides with equal chance, so a long side is cut more
    │ · ·   ·    │    x  │      often, and x, far from the rest, is alone after one cut.
    │    ·  ·    │       │
    └────────────┴───────┘

From S. Guha, N. Mishra, G. Roy, O. Schrijvers: Robust Random Cut Forest Based Anomaly Detection on
Streams, ICML 2016; the score is that of AWS's library random-cut-forest-by-aws (its
``AnomalyScoreVisitor`` with the default functions).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import types

from featurestore.kernels import INT64_READ, INT64_WRITE, kernel

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_F1_READ = types.Array(types.float64, 1, "C", readonly=True)
_F1_WRITE = types.Array(types.float64, 1, "C")
_F2_READ = types.Array(types.float64, 2, "C", readonly=True)
_F2_WRITE = types.Array(types.float64, 2, "C")

LEAF = -1


@kernel(
    _F2_READ, _F1_READ, INT64_WRITE, INT64_WRITE, _F1_WRITE, INT64_WRITE, INT64_WRITE, _F2_WRITE,
    returns=types.int64,
)  # fmt: skip
def grow_tree(
    points: Float64,
    uniform: Float64,
    order: Int64,
    dimension: Int64,
    cut: Float64,
    right: Int64,
    mass: Int64,
    box: Float64,
) -> int:
    """Cut points apart until every leaf holds one point, or equal ones.

    Parameters
    ----------
    points : float64[m, d]
        Finite.
    uniform : float64[m - 1]
        A number in [0, 1) for each cut, in the order of the nodes.
    order : int64[m]
        Scratch.
    dimension, right, mass : int64[2 m - 1], cut : float64[2 m - 1]
        The nodes, in the order of a walk that goes left first, so a node's left child is the next:
        along which column it is cut (:data:`LEAF` for none), where its right child is, how many
        points it has, and where it is cut (a point at the cut goes left).
    box : float64[2 m - 1, 2 d]
        Least and greatest coordinates of each node's points.

    Returns
    -------
    int
        Number of nodes.
    """
    m, d = points.shape
    for i in range(m):
        order[i] = i
    # What is still to be made into a node: a range of `order`, and whose right child it is.
    begin = np.empty(m + 1, np.int64)
    end = np.empty(m + 1, np.int64)
    parent = np.empty(m + 1, np.int64)
    begin[0], end[0], parent[0] = 0, m, -1
    waiting, nodes, cuts = 1, 0, 0
    while waiting > 0:
        waiting -= 1
        first, last = begin[waiting], end[waiting]
        if parent[waiting] >= 0:
            right[parent[waiting]] = nodes
        total = 0.0
        for j in range(d):
            low = high = points[order[first], j]
            for i in range(first + 1, last):
                low = min(low, points[order[i], j])
                high = max(high, points[order[i], j])
            box[nodes, j], box[nodes, d + j] = low, high
            total += high - low
        mass[nodes] = last - first
        right[nodes] = LEAF
        dimension[nodes] = LEAF
        cut[nodes] = 0.0
        if total > 0.0:
            along = uniform[cuts] * total
            cuts += 1
            chosen = -1
            for j in range(d):
                side = box[nodes, d + j] - box[nodes, j]
                if side > 0.0:
                    chosen = j
                    if along < side:
                        break
                    along -= side
            at = box[nodes, chosen] + along
            if not at < box[nodes, d + chosen]:  # rounding
                at = box[nodes, chosen]
            dimension[nodes], cut[nodes] = chosen, at
            middle = first
            for i in range(first, last):
                if points[order[i], chosen] <= at:
                    order[middle], order[i] = order[i], order[middle]
                    middle += 1
            begin[waiting], end[waiting], parent[waiting] = middle, last, nodes
            begin[waiting + 1], end[waiting + 1], parent[waiting + 1] = first, middle, -1
            waiting += 2
        nodes += 1
    return nodes


@kernel(
    _F2_READ, INT64_READ, INT64_READ, _F1_READ, INT64_READ, INT64_READ, _F2_READ, _F1_WRITE
)  # fmt: skip
def score_rows(
    rows: Float64,
    roots: Int64,
    dimension: Int64,
    cut: Float64,
    right: Int64,
    mass: Int64,
    box: Float64,
    scores: Float64,
) -> None:
    """Score rows against a forest: the mean over its trees.

    Parameters
    ----------
    rows : float64[n, d]
        Finite.
    roots : int64[trees]
        Where each tree's nodes begin; ``right`` counts from there.
    dimension, cut, right, mass, box
        The nodes of all trees; see :func:`grow_tree`.
    scores : float64[n]
        Written: about 1 for an ordinary row, more for an odd one.
    """
    n, d = rows.shape
    deepest = 1
    for t in range(roots.size):
        deepest = max(deepest, mass[roots[t]])
    path = np.empty(deepest, np.int64)
    for r in range(n):
        total = 0.0
        for t in range(roots.size):
            root = roots[t]
            node, depth = root, 0
            while dimension[node] != LEAF:
                path[depth] = node
                depth += 1
                is_left = rows[r, dimension[node]] <= cut[node]
                node = node + 1 if is_left else root + right[node]
            is_seen = True
            for j in range(d):
                if rows[r, j] != box[node, j]:
                    is_seen = False
            if is_seen:
                damp = 1.0 - mass[node] / (2.0 * mass[root])
                score = damp / (depth + math.log2(mass[node] + 1.0))
            else:
                score = 1.0 / (depth + 1.0)
            while depth > 0:
                depth -= 1
                node = path[depth]
                outside, sides = 0.0, 0.0
                for j in range(d):
                    low, high = box[node, j], box[node, d + j]
                    sides += high - low
                    outside += max(low - rows[r, j], 0.0) + max(rows[r, j] - high, 0.0)
                # The chance that a cut of the box, grown to hold the row, parts the row from it.
                parted = outside / (sides + outside)
                score = parted / (depth + 1.0) + (1.0 - parted) * score
            total += score * math.log2(mass[root] + 1.0)
        scores[r] = total / roots.size
