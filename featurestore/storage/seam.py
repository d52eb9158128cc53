"""The seam: every file call, wait and clock of the engine goes through here, to be made to fail.

::

    seam.call("rename", path, os.replace, a, b)     a file call: may fail, be cut short, be the last
    seam.point("flush.written")                     a named place between two calls
    seam.monotonic()  seam.sleep(s)                 time as waiting sees it
    seam.wall_clock()                               time as the file system sees it
    seam.random_bytes(n)                            what makes two runs differ

In normal use nothing is installed: a call costs one look at :data:`on_call`.  A test sets it to
count, fail, pause or die (``tests/survival``), and replaces the clocks; then one seed replays a
run.  The clock of event times and expiry is the store's own: ``fs.open(clock=...)``.

LMDB and Arrow make file calls of their own.  They are stepped around here (``commit``, ``copy``,
``open``), Parquet's writes one by one through :func:`sink`; ``tests/survival/disk.c`` steps through
those inside LMDB.

A process that a test cannot reach into is told by its environment::

    FEATURESTORE_FAULT=rename:kill:3            die before the third rename
    FEATURESTORE_FAULT=flush.written:stop       sleep (SIGSTOP) where a file is written, not listed

Named places, each between a change and the next one that belongs with it::

    file.intended  file.withdrawn   flush.read  flush.written  flush.listed   group.dropped
    ingest.staged  ingest.slice     compact.written  compact.listed           backup.engine_copied
    clean.withdrawn  clean.removed

===============  ===================================================================================
``kill``         die before the call, as by ``kill -9``
``kill_after``   make the call, then die
``short``        write half of the bytes, then fail with ENOSPC          (a write only)
``torn``         write half of the bytes, then die                       (a write only)
``eio``          fail with EIO instead of making the call
``enospc``       fail with ENOSPC instead of making the call
``late_eio``     make the call, then fail with EIO all the same
``stop``         stop, until SIGCONT
===============  ===================================================================================
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    #: Given the name and path of a call, the call, and its arguments; makes it, or does not.
    OnCall = Callable[[str, str, Callable[..., Any], tuple[Any, ...]], Any]

P = ParamSpec("P")
T = TypeVar("T")

VARIABLE = "FEATURESTORE_FAULT"
_WRITE_BYTES = 1 << 20
#: What becomes of a call; see above.
MODES = ("kill", "kill_after", "short", "torn", "eio", "enospc", "late_eio", "stop")

#: Makes every call, while it is set; for tests only.
on_call: OnCall | None = None

monotonic = time.monotonic
wall_clock = time.time
perf_counter = time.perf_counter
sleep = time.sleep
random_bytes = os.urandom


def call(name: str, path: str | Path, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a file call."""
    if on_call is None:
        return do(*args, **kwargs)
    if kwargs:
        found: T = on_call(name, str(path), lambda: do(*args, **kwargs), ())
    else:
        found = on_call(name, str(path), do, args)
    return found


def point(name: str) -> None:
    """Be at a named place: ``"flush.written"``."""
    if on_call is not None:
        on_call(name, "", _nothing, ())


def _nothing() -> None:
    """Do what happens at a named place."""


@contextlib.contextmanager
def sink(path: str | Path) -> Iterator[Any]:
    """Give what Parquet is to be written to: the path, or a file that steps through writes."""
    if on_call is None:
        yield str(path)
        return
    file = _SteppedFile(path)
    try:
        yield file
        file.write_out()
    finally:
        file.close()


class _SteppedFile:
    """A file that is written through the seam, as far as Arrow needs one."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._file = call("create", path, open, path, "wb", buffering=0)
        self._held = bytearray()
        self._written = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Take bytes; Arrow gives them by the dozen, a disk is given a megabyte."""
        self._held += data
        self._written += len(data)
        if len(self._held) >= _WRITE_BYTES:
            self.write_out()
        return len(data)

    def write_out(self) -> None:
        """Write what is held."""
        held, self._held = self._held, bytearray()
        if held:
            call("write", self._path, self._file.write, memoryview(held))

    def tell(self) -> int:
        """Return how much is written."""
        return self._written

    def flush(self) -> None:
        """Leave it for later."""

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._file.close()


# ── faults ───────────────────────────────────────────────────────────────────────────────────


#: Calls that change nothing: to die at one is to die after the one before.
ONLY_LOOK = {"list", "map", "open", "read", "stat", "statvfs"}
_NEED_ROOM = {
    "commit", "copy", "copy_engine", "create", "fsync", "fsync_folder", "link", "lock",
    "lock_write", "mkdir", "open_engine", "parquet", "rename", "write",
}  # fmt: skip


def suits(mode: str, name: str) -> bool:
    """Return whether a mode says something about a call of a name."""
    if "." in name:  # between calls nothing can fail
        return mode in {"kill", "stop"}
    if mode in {"short", "torn"}:
        return name == "write"
    if name in ONLY_LOOK:
        return mode in {"eio", "late_eio", "stop"}
    return mode != "enospc" or name in _NEED_ROOM


def meet(mode: str, name: str, path: str, do: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Make a call as a fault would have it made."""
    if mode in {"short", "torn"}:
        (data,) = args
        do(data[: len(data) // 2])
    if mode == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if mode in {"kill_after", "late_eio", "stop"}:
        result = do(*args)
        if mode == "stop":
            return result
    if mode in {"kill", "kill_after", "torn"}:
        os.kill(os.getpid(), signal.SIGKILL)
    code = errno.ENOSPC if mode in {"short", "enospc"} else errno.EIO
    raise OSError(code, f"{os.strerror(code)} (made up for {name})", path)


class Fault:
    """One fault, at the nth call of a name; an ``on_call``.

    Examples
    --------
    >>> Fault.parse("rename:eio:3")
    Fault('rename', 'eio', 3)
    >>> Fault.parse("flush.written:stop")
    Fault('flush.written', 'stop', 1)
    """

    def __init__(self, name: str, mode: str, nth: int) -> None:
        self.name, self.mode, self.nth = name, mode, nth
        self._seen = 0

    def __repr__(self) -> str:
        return f"Fault({self.name!r}, {self.mode!r}, {self.nth})"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``name:mode:nth``; without the last, it is the first call."""
        name, _, rest = text.partition(":")
        mode, _, nth = rest.partition(":")
        if mode not in MODES or not (nth or "1").isdecimal():
            raise ValueError(f"{VARIABLE} is name:mode or name:mode:nth, mode one of {MODES}")
        return cls(name, mode, int(nth or 1))

    def __call__(self, name: str, path: str, do: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Make a call, or meet the fault."""
        if name == self.name:
            self._seen += 1
            if self._seen == self.nth:
                return meet(self.mode, name, path, do, args)
        return do(*args)


if VARIABLE in os.environ:
    on_call = Fault.parse(os.environ[VARIABLE])
