"""Asking the model's process, and finding the record that it dies of.

::

    payload of 8 ──► dies ──► again ──► dies ──► 4 ──► answered
                                                 4 ──► dies ──► 2 ──► answered
                                                                2 ──► dies ──► 1, 1: that one

A payload is sent again, after a pause that doubles, when the process died or took too long: it may
not have been the payload's doing.  If it stays so, or the model refuses the payload, it is halved
until every record has an answer or a reason.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from featurestore.batch import payloads, worker
from featurestore.batch.job import Fail
from featurestore.batch.payloads import BadRecord
from featurestore.jobs import process

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

PAUSE_SECONDS = 0.1


class Refused(Exception):
    """The model has an answer: that it cannot use this."""


class Died(Exception):
    """The model's process died, or took too long."""


class Client:
    """One process of the model; used by one thread at a time."""

    def __init__(self, arguments: Sequence[str], log: Path, timeout: float) -> None:
        self._arguments = list(arguments)
        self._log = log
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, body: bytes, content_type: str, accept: str) -> bytes:
        """Return the answer to a payload.

        Raises
        ------
        Refused, Died
        """
        running = self._process or self._start()
        # A model that hangs is killed; reading its answer then ends.
        timer = threading.Timer(self._timeout, running.kill)
        timer.start()
        try:
            head = {"content_type": content_type, "accept": accept}
            worker.send(cast("BinaryIO", running.stdin), head, body)
            answer = self._receive(running)
        except (OSError, ValueError):
            answer = None
        finally:
            timer.cancel()
        if answer is None:
            code = self._reap()
            raise Died(f"the model's process ended with code {code}")
        facts, found = answer
        if "error" in facts:
            raise Refused(facts["error"])
        return found

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores of rows, as the model itself would: nothing is text on the way.

        Raises
        ------
        Refused, Died
        """
        body = payloads.as_npy(rows)
        return payloads.from_npy(self.ask(body, payloads.NPY, payloads.NPY))

    def close(self) -> None:
        """End the process."""
        self._reap()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            running = subprocess.Popen(  # noqa: S603  our own module, our own arguments
                [sys.executable, "-m", "featurestore.batch.worker", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=process.environment(self._log.parent / "home", {"OMP_NUM_THREADS": "1"}),
                start_new_session=True,
            )
        self._process = running
        if self._receive(running) is None:
            self._reap()
            lines = self._log.read_text("utf-8", "replace").strip().splitlines()
            said = lines[-1] if lines else "it said nothing"
            raise Fail(f"the model's process does not start: {said}")
        return running

    @staticmethod
    def _receive(running: subprocess.Popen[bytes]) -> tuple[dict[str, Any], bytes] | None:
        return worker.receive(cast("BinaryIO", running.stdout))

    def _reap(self) -> int:
        running, self._process = self._process, None
        if running is None:
            return 0
        with contextlib.suppress(OSError):
            running.kill()
        for stream in (running.stdin, running.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return running.wait()


class Pool:
    """Some processes of one model, lent out."""

    def __init__(
        self, count: int, arguments: Sequence[str], log: Path, *, timeout: float, retries: int
    ) -> None:
        self.count = count
        self._clients: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._all = [Client(arguments, log, timeout) for _ in range(count)]
        for client in self._all:
            self._clients.put(client)
        self._retries = retries

    def close(self) -> None:
        """End all of them."""
        for client in self._all:
            client.close()

    def answers(
        self, data: Sequence[bytes | BadRecord], content_type: str, accept: str, split: str
    ) -> list[bytes | BadRecord]:
        """Return for each record its answer, or why there is none."""
        asked = [one for one in data if not isinstance(one, BadRecord)]
        if not asked:
            return list(data)
        client = self._clients.get()
        try:
            found = iter(self._answers(client, asked, content_type, accept, split))
        finally:
            self._clients.put(client)
        return [one if isinstance(one, BadRecord) else next(found) for one in data]

    def _answers(
        self, client: Client, data: Sequence[bytes], content_type: str, accept: str, split: str
    ) -> list[bytes | BadRecord]:
        try:
            response = self._response(client, data, content_type, accept, split)
            if split == "None":
                return [response]
            return list(payloads.answers(response, len(data), accept))
        except (Refused, Died, BadRecord) as error:
            if len(data) == 1:
                return [BadRecord(str(error))]
        middle = len(data) // 2
        halves = (data[:middle], data[middle:])
        found = [self._answers(client, half, content_type, accept, split) for half in halves]
        return [answer for half in found for answer in half]

    def _response(
        self, client: Client, data: Sequence[bytes], content_type: str, accept: str, split: str
    ) -> bytes:
        body = payloads.body(data, content_type, split)
        pause = PAUSE_SECONDS
        for attempt in range(self._retries + 1):
            try:
                return client.ask(body, content_type, accept)
            except Died:
                if attempt == self._retries:
                    raise
                time.sleep(pause)
                pause *= 2
        raise AssertionError  # pragma: no cover  the loop returns or raises
