"""A backup on its way to a client: a tar archive, written as it is read.

::

    engine/data.mdb              LMDB's own copy of one moment, made into a file first
    data/<group id>/….parquet    the history files of that moment, pinned until the end
    models/ … sets/              what stands on the store; behind the engine, which names it
    locks/                       empty: with it the archive unpacks to a store that can be opened
    backup.json                  the note that makes a folder a backup; the last, so that one cut
                                 short is none
"""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from featurestore.engine.backup import files_beside, one_moment
from featurestore.engine.database import BACKUP_NOTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from featurestore.engine.database import Database

TAR = "application/x-tar"
_PIECE_BYTES = 256 << 10


class Copy:
    """One consistent copy, until it has been sent.

    Parameters
    ----------
    known : mapping of str to int
        Files that whoever takes it has already, with their bytes; these are not sent.
    """

    def __init__(self, database: Database, now_us: int, known: Mapping[str, int]) -> None:
        self._database = database
        self._known = known
        self._now_us = now_us
        self._undo = contextlib.ExitStack()
        self._engine = Path()
        self._paths: list[str] = []
        self._note = b""

    def make(self) -> None:
        """Copy the environment, and pin the files it needs."""
        self._engine = Path(self._undo.enter_context(tempfile.TemporaryDirectory()))
        moment = one_moment(self._database, self._engine, self._now_us)
        entries, self._note = self._undo.enter_context(moment)
        known = self._known
        self._paths = [e.path for e in entries if known.get(e.path) != e.size_bytes]

    def close(self) -> None:
        """Let go of everything."""
        self._undo.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield the archive."""
        for name in ("engine", "data", "locks"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            yield folder.tobuf(tarfile.GNU_FORMAT)
        yield from _file("engine/data.mdb", self._engine / "data.mdb")
        for path in self._paths:
            yield from _file(path, self._database.root / path)
        for found in files_beside(self._database.root):
            yield from _file(found.relative_to(self._database.root).as_posix(), found)
        note = tarfile.TarInfo(BACKUP_NOTE)
        note.size, note.mode = len(self._note), 0o644
        yield note.tobuf(tarfile.GNU_FORMAT) + self._note
        yield bytes(-note.size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)


def _file(name: str, path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        size = path.stat().st_size
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o644
        yield entry.tobuf(tarfile.GNU_FORMAT)
        left = size
        while left and (piece := file.read(min(_PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
        if left:
            raise OSError(f"{path} became shorter while it was sent")
        yield bytes(-size % tarfile.BLOCKSIZE)


class CopyAnswer(StreamingResponse):
    """Sends a copy, and lets it go also when nobody takes it."""

    def __init__(self, copy: Copy) -> None:
        super().__init__(copy.pieces(), media_type=TAR)
        self._copy = copy

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._copy.close()
