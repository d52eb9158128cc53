"""An iterator cut into chunks: by their size, or a second after their first row.

::

    caller's thread                                    another thread
    next(items) ─► open chunk ──full, or open for a second──► checked and committed
        ▲              │
        └──────────────┘  goes on while that is done; waits when a chunk is full and the one
                          before is not in yet

The iterator runs where the caller runs it, so a database cursor in it, a lock or a context stays
in its thread; and rows that have come become visible though the next one is long in coming.  An
error in a row shows when the next one comes.

**Sent again**, the same items must be cut in the same places, or their chunks would not be known
again, and a clock does not cut twice alike.  So where a chunk ended is kept with the chunk, under
the id of the ingest or, without one, under the first item; a chunk that has a length already is
waited for.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pyarrow as pa

from featurestore.storage import seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: A chunk is closed this long after its first row.
OPEN_SECONDS = 1.0

Piece: TypeAlias = "Mapping[str, Any] | pa.Table"


class Limits(NamedTuple):
    """Rows of a full chunk."""

    dicts: int
    rows: int


class Cutter:
    """Cuts pieces into chunks and has them taken in another thread, in order.

    Parameters
    ----------
    take : callable
        Given a list of dicts or a table, and its first row's number; commits it.
    known_rows : callable
        Given the first piece of all and the number of a row: how many rows the chunk had that
        began there before, or None.
    limits : Limits
        How many rows make a chunk.
    """

    def __init__(
        self,
        take: Callable[[list[Mapping[str, Any]] | pa.Table, int], None],
        known_rows: Callable[[Piece, int], int | None],
        limits: Limits,
    ) -> None:
        self._take = take
        self._known_rows = known_rows
        self._limits = limits
        self._changed = threading.Condition()
        self._first: Piece | None = None
        self._row = 0  # of the open chunk's first row
        self._open: list[Any] = []
        self._rows = 0
        self._rows_wanted: int | None = None  # None: as many as come in time
        self._opened_at = 0.0
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None

    def run(self, pieces: Iterable[Piece]) -> None:
        """Take all pieces; returns when the last chunk is in.

        Raises
        ------
        Exception
            What the iterator raised, or taking a chunk.  Chunks before it are in.
        """
        # In the caller's context, so that who witnesses the caller's commits witnesses these.
        work = partial(contextvars.copy_context().run, self._work)
        thread = threading.Thread(target=work, name="featurestore-ingest", daemon=True)
        thread.start()
        try:
            for piece in pieces:
                self._add(piece)
        except BaseException:
            with self._changed:
                self._open, self._rows = [], 0  # what was not complete is not taken
            raise
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            thread.join()
        if self._error is not None:
            raise self._error

    # ── the caller's thread ──────────────────────────────────────────────────────────────────

    def _add(self, piece: Piece) -> None:
        while (added := self._add_part(piece)) < _rows(piece):
            piece = _part(piece, added)

    def _add_part(self, piece: Piece) -> int:
        """Add as much of a piece as the open chunk has room for; returns how many rows."""
        with self._changed:
            if self._open and not _fits(self._open[0], piece):
                self._close()
            self._changed.wait_for(lambda: not self._closed or self._error is not None)
            if self._error is not None:
                raise self._error
            if not self._open:
                if self._first is None:
                    self._first = piece
                self._rows_wanted = self._known_rows(self._first, self._row)
                self._opened_at = seam.monotonic()
            full = self._limits.rows if isinstance(piece, pa.Table) else self._limits.dicts
            limit = self._rows_wanted or full
            added = min(_rows(piece), limit - self._rows)
            self._open.append(_part(piece, 0, added))
            self._rows += added
            if self._rows >= limit:
                self._close()
            elif len(self._open) == 1:
                self._changed.notify_all()
            return added

    def _close(self) -> None:
        self._closed = True
        self._changed.notify_all()

    # ── the other thread ─────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        try:
            while (chunk := self._next()) is not None:
                pieces, row = chunk
                whole = pa.concat_tables(pieces) if isinstance(pieces[0], pa.Table) else pieces
                del chunk, pieces
                self._take(whole, row)
        except BaseException as error:  # noqa: BLE001  the caller raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> tuple[list[Any], int] | None:
        """Wait for a chunk that is full, or old enough; None at the end."""
        with self._changed:
            while not (self._closed or self._ended or self._is_due()):
                self._changed.wait(self._rest())
            if not self._open:
                return None
            pieces, row = self._open, self._row
            self._open, self._row, self._rows = [], row + self._rows, 0
            self._closed = False
            self._changed.notify_all()
            return pieces, row

    def _rest(self) -> float | None:
        """Return how long the open chunk may stay open; None for as long as it takes."""
        if not self._open or self._rows_wanted is not None:
            return None
        return max(0.0, self._opened_at + OPEN_SECONDS - seam.monotonic())

    def _is_due(self) -> bool:
        return self._rest() == 0


def _rows(piece: Piece) -> int:
    return piece.num_rows if isinstance(piece, pa.Table) else 1


def _part(piece: Piece, start: int, rows: int | None = None) -> Piece:
    return piece.slice(start, rows) if isinstance(piece, pa.Table) else piece


def _fits(one: Piece, other: Piece) -> bool:
    """Return whether two pieces can be in one chunk."""
    if isinstance(one, pa.Table) and isinstance(other, pa.Table):
        return bool(one.schema.equals(other.schema))
    return isinstance(one, Mapping) and isinstance(other, Mapping)
