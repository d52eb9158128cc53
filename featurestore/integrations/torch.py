"""PyTorch: a loader as an ``IterableDataset`` of tensors that share the loader's memory.

::

    from featurestore.integrations.torch import dataset

    data = torch.utils.data.DataLoader(dataset(ts.loader(batch=4096)), batch_size=None)

Batches are made here, so ``batch_size=None``.  The workers of a ``DataLoader``, and the ranks of a
distributed run, share an epoch out between them: batch ``i`` of the one global order goes to worker
``i mod workers``, whatever their number.  One process and the loader's own thread are mostly
faster than workers, which have to send what they made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.errors import NotInstalled

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
        self._loader = loader
        self._rank, self._ranks = rank, ranks

    def __len__(self) -> int:
        return len(self._loader.part(self._rank, self._ranks))

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        number, count = (0, 1) if info is None else (info.id, info.num_workers)
        loader = self._loader
        if count * self._ranks > 1:
            loader = loader.part(self._rank * count + number, self._ranks * count)
        for x, y in loader:
            tensor = torch.from_numpy(x)
            yield tensor if y is None else (tensor, torch.from_numpy(y))
        if loader is not self._loader:
            self._loader.set_epoch(loader.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; workers that are processes need it said each time."""
        self._loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where a loader was."""
        self._loader.load_state_dict(state)
