"""SageMaker's Pipe mode: a named pipe for each epoch, read as it is written.

::

    input/data/train_0   ◀── epoch 0, to the end or until the reader closes it
    input/data/train_1   ◀── epoch 1, there as soon as epoch 0 is being read

Never more than a pipe's buffer and one batch is in memory on the way.  A reader that closes early
has had enough of this epoch; the next one begins in the next pipe.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from featurestore.errors import InvalidInput
from featurestore.training.formats import CONTENT_TYPES, Records, encoded

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from featurestore.training.loader import Loader

    Float32 = NDArray[np.float32]
    Batch = tuple[Float32, Float32 | None]

_WAIT_SECONDS = 0.01


class Pipe:
    """Feeds a loader's epochs into named pipes, from the batch that the loader is at.

    A context manager; the pipes are gone at its end.

    Parameters
    ----------
    loader : Loader
        What to feed; nobody else goes through it meanwhile.
    folder : path
        Where the pipes are made.
    channel : str
        The pipe of epoch ``e`` is ``<channel>_<e>``.
    form : {"recordio", "csv", "arrow", "libsvm"}
        What is written.
    epochs : int, optional
        How many; by default as many as are read.
    """

    def __init__(
        self,
        loader: Loader,
        folder: str | Path,
        *,
        channel: str = "train",
        form: str = "recordio",
        epochs: int | None = None,
    ) -> None:
        if form not in CONTENT_TYPES or form == "parquet":
            raise InvalidInput(f'"{form}" cannot be piped; use recordio, csv, arrow or libsvm.')
        self._loader = loader
        self._folder = Path(folder)
        self._channel = channel
        self._form = form
        self._left = epochs
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._feed, name="pipe", daemon=True)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        os.mkfifo(self.path(self._loader.epoch))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for path in self._folder.glob(f"{self._channel}_*"):
            path.unlink(missing_ok=True)
        if self._failure is not None:
            raise self._failure

    def path(self, epoch: int) -> Path:
        """Return the pipe of an epoch."""
        return self._folder / f"{self._channel}_{epoch}"

    def _feed(self) -> None:
        try:
            while not self._over.is_set() and self._left != 0:
                self._feed_epoch()
                self._left = None if self._left is None else self._left - 1
        except BaseException as failure:  # noqa: BLE001  raised where the block ends
            self._failure = failure

    def _feed_epoch(self) -> None:
        epoch = self._loader.epoch
        writer = self._opened(self.path(epoch))
        if writer is None:
            return
        try:
            if self._left is None or self._left > 1:
                os.mkfifo(self.path(epoch + 1))
            training_set = self._loader.training_set
            batches = self._loader.batches()
            with contextlib.closing(batches):
                for data in encoded(batches, self._form, training_set.features, training_set.label):
                    if not self._write(writer, data):
                        break
        finally:
            os.close(writer)
            self.path(epoch).unlink(missing_ok=True)
        self._loader.set_epoch(epoch + 1)

    def _opened(self, path: Path) -> int | None:
        """Open a pipe when somebody reads it; None if that was waited for in vain."""
        while not self._over.wait(_WAIT_SECONDS):
            try:
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody reads it yet
                    raise
        return None

    def _write(self, writer: int, data: bytes) -> bool:
        """Write all bytes; False when the reader has closed, or all is over."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(writer, left) :]
            except BlockingIOError:
                select.select([], [writer], [], _WAIT_SECONDS)
            except BrokenPipeError:
                return False
            if self._over.is_set() and left:
                return False
        return True


def read_pipe(
    path: str | Path, *, features: int, has_label: bool = True, batch: int = 4096
) -> Generator[Batch]:
    """Yield the batches of an epoch from its pipe, written as RecordIO.

    Parameters
    ----------
    path : path
        ``<channel>_<epoch>``.
    features, has_label : int, bool
        The shape of a record.
    batch : int
        Rows of a batch.
    """
    records = Records(features, has_label=has_label)
    wanted = batch * records.size
    with Path(path).open("rb", buffering=0) as file:
        buffer = bytearray(wanted)
        while True:
            filled = 0
            while filled < wanted and (count := file.readinto(memoryview(buffer)[filled:])):
                filled += count
            if filled:
                yield records.read(memoryview(buffer)[:filled])
            if filled < wanted:
                return


def through_pipe(loader: Loader) -> Iterator[Batch]:
    """Yield the rest of a loader's epoch through a pipe of its own."""
    feeding = loader.again(mode="fastfile")
    training_set = loader.training_set
    with tempfile.TemporaryDirectory(prefix="featurestore-pipe-") as folder:
        pipe = Pipe(feeding, folder, epochs=1)
        path = pipe.path(loader.epoch)
        with pipe:
            batches = read_pipe(
                path,
                features=len(training_set.features),
                has_label=training_set.label is not None,
                batch=loader.batch_size,
            )
            with contextlib.closing(batches):
                for batch in batches:
                    loader.done(1)
                    yield batch
