"""Loops over arrays: the floor where a row costs nanoseconds, and numba's only home.

Rules of the room:

* **Arrays in, arrays out.**  No strings, no objects, no dates, no I/O (but for :mod:`.rows`, which
  reads open files where a call from Python for each column would cost as much again).  Time is
  int64 microseconds since the epoch, UTC; text and composite keys come as int64 codes, given out
  after the keys themselves were compared.
* **No nulls.**  Absence is a code of its own (-1) or a mask; NaT never gets this far, because as
  an integer it is the smallest time there is and would join to everything.
* **The caller checks, the kernel loops.**  Lengths and codes are still checked inside, since an
  index beyond the end of an array is not an error here but somebody else's memory.
* **An int64 wraps without a word.**  Every sum of two times says in a comment why it cannot.
* **Whoever reads history holds no lock.**  ``nogil``, never ``parallel``: threads are the
  caller's (a parallel kernel dies in a forked child), and a kernel keeps no state of its own.
* **A kernel has a twin**: the same in plain Python, slow and obvious, in ``tests/kernels``.  The
  two are compared on random input, compiled and with ``NUMBA_DISABLE_JIT=1``.

Signatures are written out, so a kernel is compiled when its module is imported (and found in the
cache from then on), not in the middle of somebody's first request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types

F = TypeVar("F", bound=Callable[..., Any])

INT64 = types.int64
INT64_READ = types.Array(types.int64, 1, "C", readonly=True)
"""A contiguous int64 array that is only read: writable ones fit too, and so does Arrow memory."""
INT64_WRITE = types.Array(types.int64, 1, "C")
"""The same to write."""
INT64_FILE = types.Array(types.int64, 1, "C", readonly=True, aligned=False)
"""The same, anywhere in memory: a page of a mapped file begins at any byte."""
BYTES_READ = types.Array(types.uint8, 1, "C", readonly=True)
"""The same of bytes."""
WORDS_READ = types.Array(types.uint64, 1, "C", readonly=True)
"""The same of unsigned 64-bit words."""
BOOL_READ = types.Array(types.boolean, 1, "C", readonly=True)
BOOL_WRITE = types.Array(types.boolean, 1, "C")


def kernel(*signature: Any, returns: Any = types.void, nogil: bool = True) -> Callable[[F], F]:
    """Compile a function for one signature, cached on disk where that is allowed.

    It runs without the GIL, unless it reads memory that another thread could take away.

    numba refuses to compile at all when it finds no place to write its cache (a container with a
    read-only file system); a kernel is then compiled anew in each process instead.
    """

    def compile_kernel(function: F) -> F:
        try:
            compiled: F = njit(returns(*signature), nogil=nogil, cache=True)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            compiled = njit(returns(*signature), nogil=nogil)(function)
        return compiled

    return compile_kernel
