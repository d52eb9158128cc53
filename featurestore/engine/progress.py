"""A line on the terminal that tells how far a long ingest is; nothing where nobody looks.

Shown on standard error, if that is a terminal or a notebook, from :data:`QUIET_SECONDS` on, and
wiped away at the end.  Whoever gives a ``progress`` of their own sees only that.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, TextIO

from featurestore.storage import seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What is done sooner needs no line.
QUIET_SECONDS = 2.0
REDRAW_SECONDS = 0.2


class Progress:
    """What an ingest tells of itself; does nothing.

    Called with the number of rows that are in.
    """

    def __call__(self, rows: int) -> None:
        """Take note of the rows that are in."""

    def staged(self, rows: int) -> None:
        """Take note of the rows written to the file of a large chunk, which will be in later."""


class Line(Progress):
    r"""A line that is written over and over.

    Examples
    --------
    >>> import io
    >>> shown = io.StringIO()
    >>> line = Line("weather", shown, quiet_seconds=0)
    >>> line(1_000_000)
    >>> shown.getvalue().split(",")[0]
    '\rweather: 1'
    """

    def __init__(self, what: str, stream: TextIO, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._what = what
        self._stream = stream
        self._started_at = seam.monotonic()
        self._next_at = self._started_at + quiet_seconds
        self._rows = 0
        self._width = 0

    def __call__(self, rows: int) -> None:
        """Show the rows that are in, and how fast they come."""
        self._rows = rows
        self._show(f"{rows:,} rows in")

    def staged(self, rows: int) -> None:
        """Show the rows that are written, beside those that are in."""
        already = f"{self._rows:,} rows in, " if self._rows else ""
        self._show(f"{already}{rows:,} written")

    def _show(self, text: str) -> None:
        now = seam.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + REDRAW_SECONDS
        line = f"{self._what}: {text}, {now - self._started_at:.0f} s"
        self._stream.write(f"\r{line:<{self._width}}")
        self._stream.flush()
        self._width = len(line)

    def wipe(self) -> None:
        """Leave the terminal as it was."""
        if self._width:
            self._stream.write(f"\r{'':<{self._width}}\r")
            self._stream.flush()


@contextlib.contextmanager
def shown(what: str, tell: Callable[[int], object] | bool | None) -> Iterator[Progress]:
    """Give what an ingest tells of itself: to the user's function, or on standard error."""
    if callable(tell):
        yield Told(tell)
        return
    stream = sys.stderr if tell is not False else None
    if stream is None or not (stream.isatty() or "ipykernel" in sys.modules):
        yield Progress()
        return
    line = Line(what, stream)
    try:
        yield line
    finally:
        line.wipe()


class Told(Progress):
    """Passes on to a user's function."""

    def __init__(self, tell: Callable[[int], object]) -> None:
        self._tell = tell

    def __call__(self, rows: int) -> None:
        """Tell the rows that are in."""
        self._tell(rows)
