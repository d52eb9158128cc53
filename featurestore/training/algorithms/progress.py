"""What an algorithm tells while it learns, and what it leaves to go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from featurestore.training.algorithms.data import Rows


class Progress:
    """Tells metrics, and saves a model now and then.

    Attributes
    ----------
    channels : mapping
        All channels: what metrics are told of.
    """

    def __init__(self, channels: Mapping[str, Rows], checkpoint_rounds: int) -> None:
        self.channels = channels
        self._checkpoint_rounds = checkpoint_rounds
        self._checkpoints = Checkpoints()

    def tell(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print metrics, named ``<channel>:<metric>``, as the job's patterns expect them."""
        told = " ".join(f"{name}={float(value):.9g}" for name, value in metrics.items())
        print(f"[{step}] {told}", flush=True)  # noqa: T201  the log of a job

    def last(self) -> tuple[int, Path | None]:
        """Return the step to go on after, and the folder of what was saved then."""
        found = self._checkpoints.latest()
        return (0, None) if found is None else (found.step, found.path)

    def save(self, step: int, write: Callable[[Path], object]) -> None:
        """Save, if it is time; ``write`` is given the folder."""
        if self._checkpoint_rounds and step % self._checkpoint_rounds == 0:
            with self._checkpoints.save(step) as folder:
                write(folder)
