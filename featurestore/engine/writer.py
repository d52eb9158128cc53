"""The writer: one thread per process owns every write transaction from begin to commit.

::

    caller threads                     writer thread                        LMDB
    put ──► validate, encode ──► queue ──┐
    put ──► validate, encode ──► queue ──┼─► begin · apply each · journal · commit (one fsync)
    write ► validate, encode ──► queue ──┘            │
      ▲                                               │
      └──────────── each acknowledged ◄───────────────┘ only after the commit

Group commit: whatever is queued when a transaction begins shares its fsync.  Work is a function
of the transaction; it validates before it changes anything, and if it raises all the same, the
transaction is abandoned and the others are applied again without it, so that no request can
spoil another's.

No user code, parsing or file I/O runs inside a transaction: it would hold up every writer of
every process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from featurestore.encoding.values import read_header, same_payload, stamp
from featurestore.errors import (
    FeatureStoreError,
    InvalidEventTime,
    StaleDelete,
    StoreBusy,
    StoreClosed,
    StoreFull,
    UnknownFeatureGroup,
)
from featurestore.event_time import format_us
from featurestore.record import FLAG_HARD, STORE_OFFLINE, STORE_ONLINE
from featurestore.storage import catalog, commits, journal, latest, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from featurestore.storage.environment import Environment, Transaction

T = TypeVar("T")

#: Requests waiting beyond this make the caller wait, and then give up: back-pressure.
QUEUE_JOBS_MAX = 10_000
QUEUE_WAIT_SECONDS = 30.0
GROUP_JOBS_MAX = 1_000
#: `relaxed` collects writes for this long; with the commit itself it stays below 100 ms.
RELAXED_WAIT_SECONDS = 0.05
#: Room is measured again after this many bytes or seconds.
ROOM_CHECK_BYTES = 1 << 20
ROOM_CHECK_SECONDS = 0.1


class Commit:
    """One write transaction, as work sees it.

    Attributes
    ----------
    env, txn
        The environment and its open write transaction.
    write_time_us : int
        The commit's clock; never smaller than that of any commit before.
    held_seconds : float
        How long the write lock was held, once it is committed.
    """

    held_seconds = 0.0

    def __init__(self, env: Environment, txn: Transaction, now_us: int) -> None:
        self.env = env
        self.txn = txn
        self.last_seq, last_time_us = commits.last(env, txn)
        self.write_time_us = max(now_us, last_time_us)
        self._first_seq = self.last_seq
        self._rows: dict[int, list[tuple[int, bytes, bytes]]] = {}

    def take(self, count: int = 1) -> int:
        """Take the next ``count`` seqs; returns the first."""
        first = self.last_seq + 1
        self.last_seq += count
        return first

    def journal(self, group_id: int, seq: int, key: bytes, record: bytes) -> None:
        """Add a record to the history of a group."""
        self._rows.setdefault(group_id, []).append((seq, key, record))

    def finish(self) -> None:
        """Write the journal entries and the row of the commit log."""
        for group_id, rows in self._rows.items():
            journal.append(self.env, self.txn, group_id, rows)
        if self.last_seq > self._first_seq:
            commits.append(self.env, self.txn, self.last_seq, self.write_time_us)
            requests.forget_old(self.env, self.txn, self.write_time_us)


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[Commit], T]
    now_us: int
    bytes_needed: int
    waited_for: bool
    future: Future[T]
    queued_at: float


class Writer:
    """The writer thread of one environment in this process."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self.relaxed = env.format["durability"] == "relaxed"
        #: Jobs queued or under way; a relaxed store has acknowledged some of them.
        self.pending = 0
        self._jobs: deque[_Job[Any]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._failure: BaseException | None = None
        self._bytes_unchecked = ROOM_CHECK_BYTES
        self._room_checked_at = 0.0
        self._thread = threading.Thread(target=self._run, name="featurestore-writer", daemon=True)
        self._thread.start()

    def submit(
        self,
        work: Callable[[Commit], T],
        now_us: int,
        *,
        bytes_needed: int = 0,
        waited_for: bool = True,
    ) -> Future[T]:
        """Queue work; its future is done when the commit is, as durable as the store is.

        Parameters
        ----------
        work : callable
            Applied to a :class:`Commit`; may run again if another job of the group fails.
        now_us : int
            The caller's clock.
        bytes_needed : int
            Room to insist on first; 0 for work that makes room.
        waited_for : bool
            Whether the caller waits; otherwise a ``relaxed`` store may let it rest a moment.

        Raises
        ------
        StoreBusy
            The queue stayed full.
        StoreClosed
            The store is closed.
        """
        job = _Job(work, now_us, bytes_needed, waited_for, Future(), time.monotonic())
        with self._changed:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if not self._changed.wait_for(self._has_room, QUEUE_WAIT_SECONDS):
                raise StoreBusy(
                    f"{QUEUE_JOBS_MAX} writes have been waiting for {QUEUE_WAIT_SECONDS:.0f} s. "
                    "Nothing of this request was stored; send it again later."
                )
            if self._closing:
                raise StoreClosed("The store is closed.")
            self._jobs.append(job)
            self.pending += 1
            self._changed.notify_all()
        return job.future

    def call(self, work: Callable[[Commit], T], now_us: int, *, bytes_needed: int = 0) -> T:
        """Queue work and wait for it."""
        return self.submit(work, now_us, bytes_needed=bytes_needed).result()

    def close(self) -> None:
        """Commit what is queued, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    # ── the thread ───────────────────────────────────────────────────────────────────────────

    def _has_room(self) -> bool:
        return len(self._jobs) < QUEUE_JOBS_MAX or self._closing

    def _run(self) -> None:
        while jobs := self._next_group():
            self._commit(jobs)
            with self._changed:
                self.pending -= len(jobs)

    def _next_group(self) -> list[_Job[Any]]:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            if self.relaxed and self._jobs:
                rest = self._jobs[0].queued_at + RELAXED_WAIT_SECONDS - time.monotonic()
                self._changed.wait_for(self._somebody_waits, max(0.0, rest))
            group = [self._jobs.popleft() for _ in range(min(len(self._jobs), GROUP_JOBS_MAX))]
            self._changed.notify_all()
            return group

    def _somebody_waits(self) -> bool:
        return self._closing or any(job.waited_for for job in self._jobs)

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        """Apply all jobs in one transaction; a job that raises is left out and told so."""
        while jobs:
            failed: _Job[Any] | None = None
            results = []
            try:
                with self._env.write() as txn:
                    began = time.monotonic()
                    self._require_room(txn, jobs)
                    commit = Commit(self._env, txn, max(job.now_us for job in jobs))
                    for job in jobs:
                        failed = job
                        results.append(job.work(commit))
                    failed = None
                    commit.finish()
                commit.held_seconds = time.monotonic() - began
            except BaseException as error:  # noqa: BLE001  whatever it is, somebody waits for it
                if failed is None or isinstance(error, StoreFull):
                    for job in jobs:
                        self._tell(job, error)
                    return
                self._tell(failed, error)
                jobs = [job for job in jobs if job is not failed]
                continue
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)
            return

    def _tell(self, job: _Job[Any], error: BaseException) -> None:
        job.future.set_exception(error)
        if not job.waited_for and isinstance(error, FeatureStoreError):
            self._failure = error

    def _require_room(self, txn: Transaction, jobs: list[_Job[Any]]) -> None:
        needed = sum(job.bytes_needed for job in jobs)
        self._bytes_unchecked += needed
        now = time.monotonic()
        due = (
            self._bytes_unchecked >= ROOM_CHECK_BYTES
            or now - self._room_checked_at > ROOM_CHECK_SECONDS
        )
        if needed and due:
            # Refused again and again until a check has passed: _bytes_unchecked stays high.
            self._bytes_unchecked = max(self._bytes_unchecked, ROOM_CHECK_BYTES)
            self._env.require_room(txn, 2 * needed)
            self._bytes_unchecked = 0
            self._room_checked_at = now


# ── one record ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Put:
    """A validated, encoded record on its way into a commit; deletes are records too.

    Attributes
    ----------
    asked : tuple
        What the caller asked for, to tell a retry from another request under the same id.  Not
        the record: a schema or a TTL that changed between two tries does not make the request new.
    refusal : InvalidEventTime or None
        Why it will not do by the clock.  Raised only once it is known to be no retry: the first
        try may have been accepted by a clock that was ahead.
    """

    group_id: int
    group_name: str
    online: bool
    offline: bool
    key_hash: int
    key: bytes
    record: bytearray
    asked: tuple[Any, ...]
    refusal: InvalidEventTime | None

    @property
    def bytes_needed(self) -> int:
        """Room in pages: the record twice, online and journal, and the keys."""
        return 2 * (len(self.record) + len(self.key)) + 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one record: see :class:`featurestore.store.PutResult`."""

    seq: int
    outcome: str
    write_time_us: int
    expires_at_us: int

    def to_json(self) -> list[Any]:
        """Return the form kept for retries."""
        return [self.seq, self.outcome, self.write_time_us, self.expires_at_us]


def apply(commit: Commit, put: Put) -> Outcome:
    """Put one record: into history, and online if it is newer than what is there.

    Newer is a greater ``(event_time, seq)``; seq grows with every record, so an equal event time
    counts as newer.  A record equal to the current one changes nothing.
    """
    env, txn = commit.env, commit.txn
    new = read_header(put.record)
    to_online = put.online and bool(new.stores & STORE_ONLINE)
    to_offline = put.offline and bool(new.stores & STORE_OFFLINE)
    outcome = "offline_only"
    if to_online:
        current = latest.get(env, txn, put.group_id, put.key_hash, put.key)
        outcome = "moved"
        if current is not None:
            now = read_header(current)
            if new.event_time_us < now.event_time_us:
                outcome = "late"
            elif new.event_time_us == now.event_time_us and same_payload(current, put.record):
                return Outcome(now.seq, "unchanged", now.write_time_us, now.expires_at_us)
        if outcome == "late" and new.flags & FLAG_HARD:
            raise StaleDelete(
                f'The hard delete of a record of "{put.group_name}" at '
                f"{format_us(new.event_time_us)} is older than the record itself, of "
                f"{format_us(now.event_time_us)}. Nothing was deleted; give a later event time."
            )
    seq = commit.take()
    record = stamp(put.record, put.key, seq, commit.write_time_us)
    if outcome == "moved":
        latest.put(env, txn, put.group_id, put.key_hash, put.key, record)
    if to_offline:
        commit.journal(put.group_id, seq, put.key, record)
    return Outcome(seq, outcome, commit.write_time_us, new.expires_at_us)


def apply_all(
    commit: Commit, puts: Sequence[Put], catalog_version: int, request: requests.Request | None
) -> tuple[list[Outcome], bool]:
    """Put the records of one request, of any number of groups; all of them or none.

    Returns
    -------
    outcomes : list of Outcome
        In the order given.
    replayed : bool
        The request had been done before; the outcomes are those of that time.
    """
    env, txn = commit.env, commit.txn
    if request is not None:
        known = requests.find(env, txn, request, commit.write_time_us)
        if known is not None:
            return [Outcome(*row) for row in known], True
    if catalog.version(env, txn) != catalog_version:
        _require_groups(commit, puts)
    for put in puts:
        if put.refusal is not None:
            raise put.refusal
    outcomes = [apply(commit, put) for put in puts]
    if request is not None:
        rows = [outcome.to_json() for outcome in outcomes]
        requests.save(env, txn, request, commit.write_time_us, rows)
    return outcomes, False


def _require_groups(commit: Commit, puts: Sequence[Put]) -> None:
    """Check that the groups are still there: the catalog moved since the records were checked."""
    for put in puts:
        if not catalog.has_group(commit.env, commit.txn, put.group_id):
            raise UnknownFeatureGroup(
                f'Feature group "{put.group_name}" was deleted meanwhile. Nothing was stored.'
            )
