"""The random cut forest as an algorithm by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput
from featurestore.models.forest import RandomCutForest, grow

if TYPE_CHECKING:
    from featurestore.training.algorithms.data import Rows
    from featurestore.training.algorithms.progress import Progress


def train(data: Rows, params: dict[str, Any], progress: Progress) -> RandomCutForest:
    """Grow a forest, and tell the mean score of each channel."""
    known = {"num_trees": "trees", "num_samples_per_tree": "samples_per_tree", "seed": "seed"}
    strange = set(params) - {*known, "feature_dim", "eval_metrics"}
    if strange:
        raise InvalidInput(f"A forest has no parameter {', '.join(sorted(strange))}.")
    options = {known[name]: int(value) for name, value in params.items() if name in known}
    forest = grow(data.rows, **options)
    means = {f"{name}:score": forest.score(c.rows).mean() for name, c in progress.channels.items()}
    progress.tell(1, means)
    return forest
