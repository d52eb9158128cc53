"""Reading, working and writing at the same time, in order, with room for little between them.

::

    reader thread ──queue of 2──► the caller's thread: work ──queue of 2──► writer thread

Whoever is ahead waits.  If one of the three fails, the others end, and the failure is raised.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Read = TypeVar("Read")
Done = TypeVar("Done")

ROOM = 2
_POLL_SECONDS = 0.1


class _Stage(Generic[Read]):
    """A queue that ends: with the last item, or because another stage has failed."""

    def __init__(self, failed: threading.Event) -> None:
        self._queue: queue.Queue[tuple[bool, Any]] = queue.Queue(ROOM)
        self._failed = failed

    def fill(self, items: Iterator[Read]) -> None:
        """Hand items on while anybody takes them, and say when there are no more."""
        for item in items:
            if not self._put((True, item)):
                return
        self._put((False, None))

    def _put(self, entry: tuple[bool, Any]) -> bool:
        while not self._failed.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Read]:
        while not self._failed.is_set():
            try:
                is_item, item = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if not is_item:
                return
            yield item


def run(read: Iterator[Read], work: Callable[[Read], Done], write: Callable[[Done], None]) -> None:
    """Run the three over all there is to read.

    Parameters
    ----------
    read : iterator
        Runs on a thread of its own.
    work : callable
        Runs on the caller's thread.
    write : callable
        Runs on a thread of its own, in the order of reading.

    Examples
    --------
    >>> written = []
    >>> run(iter(range(4)), lambda n: n * n, written.append)
    >>> written
    [0, 1, 4, 9]
    """
    line = _Line()
    before: _Stage[Read] = _Stage(line.failed)
    after: _Stage[Done] = _Stage(line.failed)

    def write_all(items: Iterator[Done]) -> None:
        for item in items:
            write(item)

    threads = [
        threading.Thread(target=line.guard, args=[lambda: before.fill(read)]),
        threading.Thread(target=line.guard, args=[lambda: write_all(iter(after))]),
    ]
    for thread in threads:
        thread.start()
    line.guard(lambda: after.fill(map(work, before)))
    for thread in threads:
        thread.join()
    if line.failures:
        raise line.failures[0]


class _Line:
    """Stages that fail together."""

    def __init__(self) -> None:
        self.failed = threading.Event()
        self.failures: list[BaseException] = []

    def guard(self, stage: Callable[[], None]) -> None:
        """Run a stage; if it fails, end the others."""
        try:
            stage()
        except BaseException as error:  # noqa: BLE001  raised again by the caller's thread
            self.failures.append(error)
            self.failed.set()
