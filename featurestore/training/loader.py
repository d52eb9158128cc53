"""The loader: a set as float32 batches, in an order that can be gone through again.

::

    window of the epoch ──kernel──▶ block of rows ──▶ batch │ batch │ batch │ rest ─┐
    next window         ──kernel──▶ rest │ block of rows ──▶ batch │ …         ◀────┘
                           │
                           └ in a thread, while the batches of the block before are used

A batch is a view into a block.  Blocks are used again once nobody holds a batch of them: who goes
through batches one by one needs two blocks, and who keeps them all keeps them all.

============  ======================================================================================
``fastfile``  rows are read from the files as they lie, a window at a time; begins at once
``file``      the set is written once as rows of float32 into ``folder``, and mapped; then any row
              can be had alone, and by default a window is the whole set
``pipe``      SageMaker's: a named pipe for each epoch, read as it is written; see
              :mod:`featurestore.training.pipe`
============  ======================================================================================

All three give the same batches for the same seed, epoch and window.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featurestore.errors import InvalidInput
from featurestore.kernels.rows import STRIPE_ROWS, gather_rows
from featurestore.kernels.shuffle import invert, place_batches
from featurestore.training.order import Epoch, stripes_of
from featurestore.training.source import Source

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

    from featurestore.training.training_set import TrainingSet

    Int32 = NDArray[np.int32]
    Float32 = NDArray[np.float32]
    Batch = tuple[Float32, Float32 | None]

MODES = ("fastfile", "file", "pipe")
#: Stripes of a window: 131,072 rows from 32 places of the set.
WINDOW = 32
_GATHERED_BYTES = 16 << 20


class Loader:
    """Goes through a training set in batches, an epoch each time it is iterated over.

    Parameters
    ----------
    training_set : TrainingSet
        What to go through, a split for example.
    batch : int
        Rows of a batch; the last one of an epoch may have fewer.
    mode : {"fastfile", "file", "pipe"}
        See the head of this module.
    shuffle : bool
        In an order drawn from ``seed`` and epoch, or in that of the set.
    seed, epoch : int
        What the order is drawn from; each time the loader has been gone through, ``epoch`` is one
        more.
    window : int, optional
        Stripes of 4,096 rows that are shuffled together: 32 by default, in ``file`` mode all.
    worker, workers : int
        Of the epoch's batches take those with ``i % workers == worker``.
    drop_last : bool
        Leave out a last batch of fewer rows.
    prefetch : bool
        Make the next block in a thread.
    folder : path, optional
        Of ``file`` mode, where the rows are written; a temporary place by default.

    Yields
    ------
    float32[batch, features], float32[batch] or None
        Contiguous; None where the set has no label.

    Examples
    --------
    ::

        loader = ts.loader(batch=4096, seed=7)
        for epoch in range(3):
            for x, y in loader:                  # another order each time
                model.partial_fit(x, y)
                save(model, loader.state_dict())

        loader.load_state_dict(saved)            # goes on with the batch after that one
    """

    def __init__(
        self,
        training_set: TrainingSet,
        *,
        batch: int = 4096,
        mode: str = "fastfile",
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        window: int | None = None,
        worker: int = 0,
        workers: int = 1,
        drop_last: bool = False,
        prefetch: bool = True,
        folder: str | Path | None = None,
    ) -> None:
        _require(mode in MODES, f"mode= is {mode!r}; it is one of {', '.join(MODES)}.")
        _require(batch >= 1, f"batch= is {batch!r}; give a number of rows from 1 up.")
        _require(0 <= worker < workers, f"worker={worker} is none of workers={workers}.")
        _require(0 <= seed < 1 << 64, f"seed= is {seed!r}; give a number from 0 to 2**64 - 1.")
        _require(0 <= epoch < 1 << 32, f"epoch= is {epoch!r}; give a number from 0 to 2**32 - 1.")
        _require(window is None or window >= 1, f"window= is {window!r}; give stripes from 1 up.")
        self.training_set = training_set
        self.batch_size = batch
        self.mode = mode
        self.worker, self.workers = worker, workers
        self._seed = seed if shuffle else None
        self._drop_last = drop_last
        self._prefetch = prefetch
        self._folder = folder
        self._source = Source(training_set)
        self._stripes = stripes_of(self._source.row_groups, *training_set.rows)
        every = max(len(self._stripes), 1)
        self._window = min(window or (every if mode == "file" else WINDOW), every)
        if not shuffle:  # what is together in a window does not matter then
            self._window = min(max(self._window, -(-batch // STRIPE_ROWS)), every)
        self._blocks = _Blocks(self._source.features, has_label=self._source.has_label)
        self._matrix: _Matrix | None = None
        self._rows = len(training_set)
        self._epoch, self._next = epoch, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go; batches that were given stay."""
        self._matrix = None

    def __repr__(self) -> str:
        order = "in order" if self._seed is None else f"seed {self._seed}"
        return (
            f"Loader({self.training_set.id}, {len(self):,} batches of {self.batch_size:,}, "
            f"{self.mode}, {order}, epoch {self._epoch})"
        )

    def __len__(self) -> int:
        """Return the number of batches this worker has in an epoch."""
        return max(0, -(-(self._batches - self.worker) // self.workers))

    @property
    def _batches(self) -> int:
        whole, rest = divmod(self._rows, self.batch_size)
        return whole + (rest > 0 and not self._drop_last)

    # ── where it is ──────────────────────────────────────────────────────────────────────────

    @property
    def epoch(self) -> int:
        """The epoch it is in, or about to begin."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        _require(0 <= epoch < 1 << 32, f"epoch= is {epoch!r}; give a number from 0 to 2**32 - 1.")
        self._epoch, self._next = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return where it is: after the batch that was given last.

        ``batch`` counts the batches of all workers.  Workers that are all through with as many
        batches have the same state, and any number of workers can go on from it.
        """
        return {
            "set": self.training_set.hash,
            "seed": self._seed,
            "epoch": self._epoch,
            "batch": self._next * self.workers,
            "batch_size": self.batch_size,
            "window": self._window,
            "shuffle": self._seed is not None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another loader was; nothing is read to get there.

        Raises
        ------
        InvalidInput
            It was another set, or another order.
        """
        for name, mine in self.state_dict().items():
            if name in ("epoch", "batch", "seed"):
                continue
            if state.get(name) != mine:
                raise InvalidInput(
                    f"The state is of a loader with {name}={state.get(name)!r}; this one has "
                    f"{mine!r}, so its batches would be others."
                )
        self._seed, self._epoch = state["seed"], state["epoch"]
        # The first batch of mine that is not among those done.
        self._next = max(0, -(-(state["batch"] - self.worker) // self.workers))

    # ── going through ────────────────────────────────────────────────────────────────────────

    def __iter__(self) -> Iterator[Batch]:
        if self.mode == "pipe":
            from featurestore.training.pipe import through_pipe

            batches: Iterator[Batch] = through_pipe(self)
        else:
            batches = self.batches()
        yield from batches
        self._epoch, self._next = self._epoch + 1, 0

    def batches(self) -> Generator[Batch, None, None]:
        """Yield the rest of the epoch, whatever the mode."""
        made = self._gathered() if self.mode == "file" else self._laid()
        ahead = _Ahead(made) if self._prefetch else _Now(made)
        with contextlib.closing(ahead):
            while (block := ahead.result()) is not None:
                x, y = block
                del block  # or the last batch of it would not be the last to hold it
                rows = x.shape[0]
                for number, start in enumerate(range(0, rows, self.batch_size)):
                    if number == 1 or rows <= self.batch_size:
                        ahead.begin()  # by now whoever got the block before has let it go
                    stop = start + self.batch_size
                    self._next += 1
                    yield x[start:stop], None if y is None else y[start:stop]
                del x, y

    def again(self, **options: Any) -> Loader:
        """Return another loader of the same order, at the same place."""
        return _again(self.training_set, {**self._options(), **options}, self.state_dict())

    def _options(self) -> dict[str, Any]:
        return {
            "batch": self.batch_size,
            "mode": self.mode,
            "shuffle": self._seed is not None,
            "seed": self._seed or 0,
            "window": self._window,
            "worker": self.worker,
            "workers": self.workers,
            "drop_last": self._drop_last,
            "prefetch": self._prefetch,
            "folder": self._folder,
        }

    def __reduce__(self) -> Any:
        """Let other processes open the files themselves."""
        return _again, (self.training_set, self._options(), self.state_dict())

    def part(self, worker: int, workers: int) -> Loader:
        """Return the loader of one worker, of so many, that go on together from where this is."""
        return self.again(worker=worker, workers=workers)

    def done(self, batches: int) -> None:
        """Note batches that were given from elsewhere."""
        self._next += batches

    def _mine_below(self, position: int) -> int:
        """Return how many of the rows before a position of the order are this worker's."""
        cycles, rest = divmod(position, self.batch_size * self.workers)
        begun = min(max(rest - self.worker * self.batch_size, 0), self.batch_size)
        return cycles * self.batch_size + begun

    def _windows(self) -> Generator[tuple[Epoch, int, int, int]]:
        """Yield the windows that have rows still to come, with this worker's rows before and after.

        Rows are counted among this worker's, from the beginning of the epoch.
        """
        epoch = Epoch.of(self._stripes, self._window, self._seed, self._epoch)
        position = (self._next * self.workers + self.worker) * self.batch_size
        end = min(self._rows, self._batches * self.batch_size)
        start = self._next_row  # which moves on while windows are made ahead
        for window in range(epoch.window_at(position), epoch.windows):
            first, last = (min(int(edge), end) for edge in epoch.edges[window : window + 2])
            before, after = self._mine_below(first), self._mine_below(last)
            if after > max(before, start):
                yield epoch, window, before, after

    @property
    def _next_row(self) -> int:
        return self._next * self.batch_size

    def _laid(self) -> Generator[Batch, None, None]:
        """Yield blocks of whole batches, laid down from the files."""
        total = self._mine_below(min(self._rows, self._batches * self.batch_size))
        base = self._next_row
        held: tuple[Float32, Float32] | None = None
        memory = np.empty(0, np.int32)
        for epoch, window, _, after in self._windows():
            first, last = int(epoch.edges[window]), int(epoch.edges[window + 1])
            if memory.size < last - first:
                memory = np.empty(last - first, np.int32)
            places = epoch.places(window, memory)
            place_batches(places, first, self.batch_size, self.workers, self.worker, base)
            if after == total:  # rows of a last batch that is dropped
                np.putmask(places, places >= total - base, -1)
            x, y = self._blocks.take(after - base)
            if held is not None:
                x[: len(held[0])], y[: len(held[1])] = held
            self._source.lay(epoch.stripes_in(window), places, x, y)
            whole = after - base
            if after < total:
                whole -= whole % self.batch_size
            held = x[whole:].copy(), y[whole:].copy()
            base += whole
            block = x[:whole], y[:whole] if self._source.has_label else None
            del x, y
            if whole:
                yield block
            del block

    def _gathered(self) -> Generator[Batch, None, None]:
        """Yield blocks of whole batches, gathered from the rows written before."""
        if self._matrix is None:
            self._matrix = _Matrix.of(self, self._folder)
        matrix = self._matrix
        starts = np.concatenate([[0], np.cumsum(self._stripes[:, 2])])
        total = self._mine_below(min(self._rows, self._batches * self.batch_size))
        step = max(1, _GATHERED_BYTES // (4 * self.batch_size * max(1, self._source.features)))
        held = np.empty(0, np.int32)
        done = self._next_row
        for epoch, window, before, after in self._windows():
            rows = self._rows_in(epoch, window, starts)[max(done - before, 0) : after - before]
            rows = np.concatenate([held, rows])
            whole = len(rows) if after == total else len(rows) - len(rows) % self.batch_size
            for start in range(0, whole, step * self.batch_size):
                chosen = rows[start : min(start + step * self.batch_size, whole)]
                x, y = self._blocks.take(len(chosen))
                gather_rows(matrix.x, chosen, x)
                if matrix.y is not None:
                    np.take(matrix.y, chosen, out=y[: len(chosen)], mode="clip")
                block = x, y if self._source.has_label else None
                del x, y
                yield block
                del block
            held = rows[whole:]
            done = after

    def _rows_in(self, epoch: Epoch, window: int, starts: NDArray[np.int64]) -> Int32:
        """Return this worker's rows of a window, in the order of the epoch."""
        numbers = epoch.numbers_in(window)
        lengths = epoch.stripes_in(window)[:, 2]
        before = np.cumsum(lengths) - lengths
        rows = np.repeat(starts[numbers] - before, lengths) + np.arange(lengths.sum())
        places = epoch.places(window, np.empty(rows.size, np.int32))
        at = np.empty(rows.size, np.int32)
        invert(places, at)
        rows = rows[at].astype(np.int32)
        if self.workers > 1:
            batches = (epoch.edges[window] + np.arange(rows.size)) // self.batch_size
            rows = rows[batches % self.workers == self.worker]
        return rows


def _again(training_set: TrainingSet, options: dict[str, Any], state: dict[str, Any]) -> Loader:
    """Return a loader with such options that is where another was."""
    loader = Loader(training_set, **options)
    loader.load_state_dict(state)
    return loader


class _Blocks:
    """Memory for blocks, used again when no batch of it is held by anyone."""

    def __init__(self, features: int, *, has_label: bool) -> None:
        self._features = features
        self._width = features + has_label
        self._memory: list[Float32] = []

    def take(self, rows: int) -> tuple[Float32, Float32]:
        """Return room for so many rows and their labels."""
        size = rows * self._width
        memory = self._free(size)
        if memory is None:
            # Those still held live on with their batches.
            self._memory = [m for m in self._memory[-2:] if m.size >= size]
            memory = np.empty(size, np.float32)
            self._memory.append(memory)
        x = memory[: rows * self._features].reshape(rows, self._features)
        return x, memory[rows * self._features : size]

    def _free(self, size: int) -> Float32 | None:
        for i in range(len(self._memory)):
            # A batch is a view, and a view holds the array it is of.  Two: the list, the call.
            if self._memory[i].size >= size and sys.getrefcount(self._memory[i]) == 2:
                return self._memory[i]
        return None


class _Now:
    """Blocks made when they are wanted."""

    def __init__(self, made: Generator[Batch]) -> None:
        self._made = made

    def begin(self) -> None:
        """Do nothing ahead."""

    def result(self) -> Batch | None:
        """Return the next block; None at the end."""
        return next(self._made, None)

    def close(self) -> None:
        """Let everything go."""
        self._made.close()


class _Ahead:
    """Blocks made one ahead, in a thread."""

    def __init__(self, made: Generator[Batch]) -> None:
        self._made = made
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._next: Any = None
        self.begin()

    def begin(self) -> None:
        """Begin to make the next block, unless that is done."""
        if self._next is None:
            self._next = self._thread.submit(next, self._made, None)

    def result(self) -> Batch | None:
        """Return the next block; None at the end."""
        self.begin()
        coming, self._next = self._next, None
        block: Batch | None = coming.result()
        return block

    def close(self) -> None:
        """Wait for the thread, and let everything go."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._made.close()


class _Matrix:
    """A set as rows of float32 in a file of its own."""

    def __init__(self, path: Path, rows: int, features: int, has_label: bool) -> None:
        # Private, so that a batch that is changed changes nothing but itself.
        all_ = np.memmap(path, np.float32, "c") if rows else np.empty(0, np.float32)
        self.x: Float32 = all_[: rows * features].reshape(rows, features)
        self.y: Float32 | None = all_[rows * features :] if has_label else None

    @classmethod
    def of(cls, loader: Loader, folder: str | Path | None) -> _Matrix:
        """Write the file, unless the folder has it."""
        training_set = loader.training_set
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="featurestore-loader-") as temporary:
                return cls.of(loader, temporary)  # a mapped file outlives its name
        path = Path(folder) / f"{training_set.hash}.f32"
        rows, features = len(training_set), len(training_set.features)
        has_label = training_set.label is not None
        size = 4 * rows * (features + has_label)
        if not path.exists() or path.stat().st_size != size:
            path.parent.mkdir(parents=True, exist_ok=True)
            making = path.with_name(f".{path.name}.{os.getpid()}")
            cls._write(making, training_set, size)
            making.replace(path)
        return cls(path, rows, features, has_label)

    @staticmethod
    def _write(path: Path, training_set: TrainingSet, size: int) -> None:
        rows, features = len(training_set), len(training_set.features)
        with path.open("wb") as file:
            file.truncate(size)
        if not size:
            return
        file_rows = np.memmap(path, np.float32, "r+")
        x_all, y_all = (
            file_rows[: rows * features].reshape(rows, features),
            file_rows[rows * features :],
        )
        at = 0
        for x, y in Loader(training_set, batch=1 << 16, shuffle=False):
            x_all[at : at + len(x)] = x
            if y is not None:
                y_all[at : at + len(y)] = y
            at += len(x)
        file_rows.flush()


def _require(fine: bool, sentence: str) -> None:
    if not fine:
        raise InvalidInput(sentence)
