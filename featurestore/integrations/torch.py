"""PyTorch: a loader as an ``IterableDataset`` of tensors that share the loader's memory.

::

    from featurestore.integrations.torch import dataset

    data = torch.utils.data.DataLoader(dataset(ts.loader(batch=4096)), batch_size=None)

Batches are made here, so ``batch_size=None``.  The workers of a ``DataLoader``, and the ranks of a
distributed run, share an epoch out between them.  After ``start`` batches, which is 0 or where a
run is resumed::

    batch      start  +1  +2  +3  +4  +5  +6  +7          of the one global order
    rank         0     1   0   1   0   1   0   1          i mod ranks, whatever the workers
    worker       0     0   1   1   0   0   1   1          whose batches the DataLoader takes in turn

So each rank gets the same batches in the same order from any number of workers, and all ranks
together the batches of the global order a step.  One process and the loader's own thread are mostly
faster than workers, which have to send what they made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, NotInstalled

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as missing:
    raise NotInstalled("A loader for PyTorch", "torch") from missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurestore.training import Loader


def dataset(loader: Loader, *, rank: int = 0, ranks: int = 1) -> Batches:
    """Return a loader's batches as a dataset.

    Parameters
    ----------
    loader : Loader
        What to go through; it is one worker of one.
    rank, ranks : int
        Of a distributed run.

    Returns
    -------
    Batches
        An ``IterableDataset`` of ``(float32[batch, features], float32[batch])``, or of the first
        alone where there is no label.  It has ``state_dict`` and ``load_state_dict``, which
        torchdata's ``StatefulDataLoader`` uses, and ``set_epoch``.
    """
    return Batches(loader, rank, ranks)


class Batches(IterableDataset):  # type: ignore[misc] # torch is Any
    """See :func:`dataset`."""

    def __init__(self, loader: Loader, rank: int, ranks: int) -> None:
        super().__init__()
        if not 0 <= rank < ranks:
            raise InvalidInput(f"rank={rank} is none of ranks={ranks}.")
        if loader.workers != 1:
            raise InvalidInput(
                f"The loader is worker {loader.worker} of {loader.workers}. Give the loader of "
                "all batches: the DataLoader's workers and the ranks share them out here."
            )
        self._loader = loader
        self._rank, self._ranks = rank, ranks
        self._at: dict[str, Any] | None = None  # in a worker, what it has given

    def __len__(self) -> int:
        return len(self._loader.part(self._rank, self._ranks))

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        number, count = (0, 1) if info is None else (info.id, info.num_workers)
        shares = count * self._ranks
        begun = self._loader.state_dict()
        share = (begun["batch"] + number * self._ranks + self._rank) % shares
        loader = self._loader if shares == 1 else self._loader.part(share, shares)
        for given, (x, y) in enumerate(loader, 1):
            if info is not None:
                # A worker that is kept begins an epoch anew that was left: it was ahead of it.
                self._at = {**begun, "batch": begun["batch"] + given * shares}
            elif shares > 1:
                self._loader.done(shares)
            tensor = torch.from_numpy(x)
            yield tensor if y is None else (tensor, torch.from_numpy(y))
        self._at = None
        if loader is not self._loader:
            self._loader.set_epoch(loader.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch.

        Workers are copies of this: those that are made for each epoch need it said before each,
        and those that are kept (``persistent_workers=True``) go from one to the next themselves.
        """
        self._loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where it is; with workers, ``StatefulDataLoader`` asks each of them."""
        return self._loader.state_dict() if self._at is None else self._at

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where a loader was, whatever the ranks and workers were."""
        self._at = None
        self._loader.load_state_dict(state)
