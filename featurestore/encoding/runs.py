"""Byte strings end to end: what keys, texts and records are to numpy.

::

    data     J F K L G A E W R          one array of bytes
    offsets  0     3     6     9        where each begins, and where the last one ends

Many are copied, joined and picked without an object for each; where they are very many, by a
compiled loop (``kernels.ingest.copy_runs``).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

# Up to this mean length a run of bytes is copied by index arrays (some 10 ns a byte), above it by
# a slice for each run (some 200 ns, whatever its length).
_INDEXED_BYTES_MAX = 24

# Importing numba takes half a second.  Where byte strings are few they are worked on one by one,
# until so many have come to this process that the import would have paid.
_FEW = 1024
_FEW_IN_ALL = 32_768
_few_so_far = 0


def worth_compiling(count: int) -> bool:
    """Return whether to work on so many byte strings in a compiled loop.

    Keys are hashed before any lock is held, and that is where the loops are imported: after
    :func:`count_towards_compiling` even a few are for them.
    """
    return count >= _FEW or _few_so_far >= _FEW_IN_ALL


def count_towards_compiling(count: int) -> None:
    """Take note of byte strings to come, and import the loops as soon as they pay."""
    global _few_so_far  # noqa: PLW0603  of this process
    _few_so_far += count
    if worth_compiling(count):
        _import_loops()


@cache
def _import_loops() -> None:
    for name in ("hashing", "ingest", "latest"):
        import_module(f"featurestore.kernels.{name}")


class Runs(NamedTuple):
    """Byte strings end to end.

    Attributes
    ----------
    data : uint8[offsets[n]]
        Their bytes.
    offsets : int64[n + 1]
        Where each begins, and where the last one ends.
    """

    data: Bytes
    offsets: Ints

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.offsets) - 1

    def split(self) -> list[bytes]:
        """Return them as objects."""
        data = self.data.tobytes()
        return [data[start:end] for start, end in pairwise(self.offsets.tolist())]

    def part(self, rows: slice) -> Runs:
        """Return neighbours; the slice has both ends."""
        bounds = self.offsets[rows.start : rows.stop + 1]
        return Runs(self.data[bounds[0] : bounds[-1]], bounds - bounds[0])

    def cut(self, lengths: Ints) -> Runs:
        """Return the first bytes of each."""
        return copied_runs(self.data, self.offsets[:-1], lengths)

    def run(self, place: int) -> bytes:
        """Return one of them as an object."""
        return self.data[self.offsets[place] : self.offsets[place + 1]].tobytes()

    def take(self, places: Ints) -> Runs:
        """Return some of them, in the order of ``places``."""
        lengths = np.diff(self.offsets)
        if len(lengths) and lengths.min() == lengths.max() > 0:
            # Keys that are one number are all of a length.  One item each, not a row of bytes:
            # numpy copies it at once, ten times as fast.
            items = self.data[self.offsets[0] : self.offsets[-1]].view(f"V{lengths[0]}")
            taken = np.take(items, places).view(np.uint8)
            return Runs(taken, lengths[0] * np.arange(len(places) + 1))
        return copied_runs(self.data, self.offsets[places], lengths[places])


def runs_of(strings: Sequence[bytes] | Runs) -> Runs:
    """Lay byte strings end to end, unless they are."""
    if isinstance(strings, Runs):
        return strings
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    return Runs(np.frombuffer(b"".join(strings), np.uint8), offsets_of(lengths))


def copied_runs(source: Bytes, starts: Ints, lengths: Ints) -> Runs:
    """Return stretches of bytes end to end."""
    offsets = offsets_of(lengths)
    data = np.empty(int(offsets[-1]), np.uint8)
    copy_runs(data, offsets[:-1], source, starts, lengths)
    return Runs(data, offsets)


def joined_runs(parts: Sequence[Runs]) -> Runs:
    """Return the byte strings of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    lengths = [np.diff(part.offsets) for part in parts]
    return Runs(
        joined([part.data for part in parts], np.uint8), offsets_of(joined(lengths, np.int64))
    )


def offsets_of(lengths: Ints) -> Ints:
    """Return where each run of bytes begins, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def joined(arrays: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    """Return arrays end to end, also when there is none."""
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, dtype), *arrays])


def copy_runs(
    target: Bytes, target_start: Ints, source: Bytes, source_start: Ints, lengths: Ints
) -> None:
    """Copy one run of bytes for each row: compiled, where that many are worth it."""
    if not worth_compiling(len(lengths)):
        copy_runs_plain(target, target_start, source, source_start, lengths)
        return
    from featurestore.kernels.ingest import copy_runs as compiled

    compiled(target, target_start, source, source_start, lengths)


def copy_runs_plain(
    target: Bytes, target_start: Ints, source: Bytes, source_start: Ints, lengths: Ints
) -> None:
    """Copy one run of bytes for each row: ``target[t : t + n] = source[s : s + n]``."""
    total = int(lengths.sum())
    if total > _INDEXED_BYTES_MAX * len(lengths):
        to, of = target.data, source.data
        runs = zip(target_start.tolist(), source_start.tolist(), lengths.tolist(), strict=True)
        for t, s, n in runs:
            to[t : t + n] = of[s : s + n]
    elif total:
        inner = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        here = np.repeat(target_start, lengths) + inner
        target[here] = source[np.repeat(source_start, lengths) + inner]
