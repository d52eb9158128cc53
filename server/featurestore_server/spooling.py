"""Bodies on their way in: whole before anybody works on them.

::

    slow client ──drip──► Upload, in memory while it is small, then a file without a name
                             │
                             └─ whole ──► a thread of a lane reads it at the disk's pace

A thread that read a body as it comes would be held by whoever sends it slowly, and four such
clients would hold all threads of a lane.  So a lane is only entered with a body that is there.
What waits takes a place on the disk instead, which has a limit for all of it together.

The files are where Python keeps temporary ones: set ``TMPDIR`` to a disk with room.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread

from featurestore.errors import StoreFull
from featurestore_server.bodies import BodyFile, too_large
from featurestore_server.guard import body_chunks, require_plain_encoding
from featurestore_server.problems import TooManyRequests

if TYPE_CHECKING:
    from fastapi import Request

_IN_MEMORY_BYTES = 256 << 10
_COPY_BYTES = 1 << 20


class Upload:
    """A body that has come whole; a context manager that lets it go, on the event loop."""

    def __init__(self, spooling: Spooling, limit: int) -> None:
        self._spooling = spooling
        self._limit = limit
        self._size = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._file: Any = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let it go; calling it again does nothing."""
        self._file.close()
        self._spooling.left += self._size
        self._size = 0

    def body(self) -> BodyFile:
        """Return it from its beginning."""
        self._file.seek(0)
        return BodyFile(lambda: bytes(self._file.read(_COPY_BYTES)), self._limit)

    def descriptor(self) -> int:
        """Return the file of it, at its beginning, for another process."""
        number = int(self._file.fileno())
        self._file.seek(0)
        return number

    async def add(self, chunk: bytes) -> None:
        """Take in what has come."""
        size = len(chunk)
        if self._size + size > self._limit:
            raise too_large("The body", self._limit)
        if size > self._spooling.left:
            raise TooManyRequests("Too much is being sent at once. Send this again in a moment.")
        self._size += size
        self._spooling.left -= size
        self._held.append(chunk)
        self._held_bytes += size
        if self._held_bytes >= _IN_MEMORY_BYTES:
            await self.settle()

    async def settle(self) -> None:
        """Write down what is held."""
        held, self._held, self._held_bytes = self._held, [], 0
        if self._size <= _IN_MEMORY_BYTES:
            self._file.writelines(held)
            return
        try:
            await anyio.to_thread.run_sync(self._file.writelines, held)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreFull("The server's disk has no room for the body.") from error


class Spooling:
    """The bodies on their way to a worker.

    Attributes
    ----------
    left : int
        Bytes that they may still have, all together.
    """

    def __init__(self, most_bytes: int) -> None:
        self.left = most_bytes

    async def take(self, request: Request, limit: int) -> Upload:
        """Take a body in.

        Raises
        ------
        TooLarge
            It has more bytes than its limit.
        TooManyRequests
            Others that are on their way leave no room for it.
        StoreFull
            The disk has none.
        """
        require_plain_encoding(request.headers.get("content-encoding"))
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large("The body", limit)
        next_chunk = body_chunks(request.receive)
        with contextlib.ExitStack() as undo:
            upload = undo.enter_context(Upload(self, limit))
            while chunk := await next_chunk():
                await upload.add(chunk)
            await upload.settle()
            undo.pop_all()
        return upload
