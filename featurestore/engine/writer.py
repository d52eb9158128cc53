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

import contextlib
import contextvars
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from featurestore.encoding.values import read_header, same_payload, stamp
from featurestore.errors import (
    FeatureStoreError,
    InvalidEventTime,
    InvalidInput,
    StaleDelete,
    StoreBusy,
    StoreClosed,
    StoreFull,
    UnknownFeatureGroup,
)
from featurestore.event_time import format_us
from featurestore.storage import catalog, commits, journal, latest, requests, seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from featurestore.storage.environment import Environment, Transaction

    Witness = Callable[["Commit"], contextlib.AbstractContextManager[None]]

T = TypeVar("T")

#: Requests waiting beyond this make the caller wait, and then give up: back-pressure.
QUEUE_JOBS_MAX = 10_000
QUEUE_BYTES_MAX = 256 << 20
QUEUE_WAIT_SECONDS = 30.0
#: One transaction takes no more than this, so that other processes get their turn.
GROUP_JOBS_MAX = 1_000
GROUP_BYTES_MAX = 16 << 20
#: The share of the last sync's time spent waiting for those who shared it, and how often to look.
#: Measured with 16 threads: 271 µs a put become 152 where a sync takes 2 ms; nothing is gained
#: where it takes 0.4, since the callers take as long to come back.
GATHER_SHARE = 0.5
GATHER_SYNC_SECONDS = 0.001
GATHER_POLL_SECONDS = 20e-6
#: `relaxed` collects writes for this long; with the commit itself it stays below 100 ms.
RELAXED_WAIT_SECONDS = 0.05
#: Room is measured again after this many bytes or seconds.
ROOM_CHECK_BYTES = 1 << 20
ROOM_CHECK_SECONDS = 0.1
#: Upkeep looks at the journal after this many bytes, if not earlier.
UPKEEP_BYTES = 1 << 20


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
        self._keys: dict[int, int] = {}

    def take(self, count: int = 1) -> int:
        """Take the next ``count`` seqs; returns the first."""
        first = self.last_seq + 1
        self.last_seq += count
        return first

    def count_keys(self, group_id: int, more: int) -> None:
        """Note that a group has so many keys more, or fewer."""
        self._keys[group_id] = self._keys.get(group_id, 0) + more

    def journal(self, group_id: int, seq: int, key: bytes, record: bytes) -> None:
        """Add a record to the history of a group."""
        self._rows.setdefault(group_id, []).append((seq, key, record))

    def write_journal(self, group_id: int) -> None:
        """Write the rows of a group so far: whoever adds an entry of their own comes after them."""
        journal.append(self.env, self.txn, group_id, self._rows.pop(group_id, ()))

    def finish(self) -> None:
        """Write the journal entries, the numbers of keys and the row of the commit log."""
        for group_id in list(self._rows):
            self.write_journal(group_id)
        for group_id, more in self._keys.items():
            if more:
                latest.count_more(self.env, self.txn, group_id, more)
        if self.last_seq > self._first_seq:
            commits.append(self.env, self.txn, self.last_seq, self.write_time_us)
            requests.forget_old(self.env, self.txn, self.write_time_us)


_witness: contextvars.ContextVar[Witness | None] = contextvars.ContextVar("witness", default=None)


@contextlib.contextmanager
def witnessed(witness: Witness) -> Iterator[None]:
    """Let a context manager stand around the work of each transaction asked for in this block.

    It sees the commit before and after, and what it writes is there exactly if the change is: a
    log of changes that nothing can be missing from.
    """
    token = _witness.set(witness)
    try:
        yield
    finally:
        _witness.reset(token)


def _with_witness(work: Callable[[Commit], T], witness: Witness) -> Callable[[Commit], T]:
    def both(commit: Commit) -> T:
        with witness(commit):
            return work(commit)

    return both


class _Job(Generic[T]):
    """Work in the queue; :meth:`done` hands the result to whoever waits for it."""

    __slots__ = ("bytes_needed", "hurry", "now_us", "queued_at", "work")

    def __init__(self, work: Callable[[Commit], T], now_us: int, bytes_needed: int) -> None:
        self.work = work
        self.now_us = now_us
        self.bytes_needed = bytes_needed
        self.hurry = False
        self.queued_at = seam.monotonic()

    def begin(self) -> bool:
        """Return whether the work is still wanted."""
        return True

    def done(self, result: T | None, error: BaseException | None) -> None:
        """Take note of the end."""


class _Call(_Job[T]):
    """Work whose caller sleeps until it is done.

    A bare lock is the leanest hand-off there is: a ``Future`` costs half as much again.
    """

    __slots__ = ("_error", "_gate", "_result")

    def __init__(self, work: Callable[[Commit], T], now_us: int, bytes_needed: int) -> None:
        super().__init__(work, now_us, bytes_needed)
        self.hurry = True
        self._gate = threading.Lock()
        self._gate.acquire()

    def done(self, result: T | None, error: BaseException | None) -> None:
        self._result = result
        self._error = error
        self._gate.release()

    def wait(self) -> T:
        """Sleep until it is done; returns or raises what became of it."""
        self._gate.acquire()
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


class _Promise(_Job[T]):
    """Work whose caller goes on and has a future."""

    __slots__ = ("future",)

    def __init__(self, work: Callable[[Commit], T], now_us: int, bytes_needed: int) -> None:
        super().__init__(work, now_us, bytes_needed)
        self.future: Future[T] = Future()

    def begin(self) -> bool:
        return self.future.set_running_or_notify_cancel()

    def done(self, result: T | None, error: BaseException | None) -> None:
        if error is None:
            self.future.set_result(cast("T", result))
        else:
            self.future.set_exception(error)


class _Posted(_Job[T]):
    """Work a ``relaxed`` store has acknowledged already; a failure is told to the next caller."""

    __slots__ = ("_writer",)

    def __init__(
        self, writer: Writer, work: Callable[[Commit], T], now_us: int, bytes_needed: int
    ) -> None:
        super().__init__(work, now_us, bytes_needed)
        self._writer = writer

    def done(self, result: T | None, error: BaseException | None) -> None:  # noqa: ARG002
        if isinstance(error, FeatureStoreError):
            self._writer.failure = error


class Writer:
    """The writer thread of one environment in this process.

    Attributes
    ----------
    relaxed : bool
        Whether a write may rest in the queue for a moment after it was acknowledged.
    pending : int
        Jobs queued or under way.
    failure : BaseException or None
        Why an acknowledged write of a ``relaxed`` store came to nothing; the next caller is told.
    wake_upkeep : callable
        Called after every :data:`UPKEEP_BYTES` committed, and when the store is full.
    """

    def __init__(self, env: Environment) -> None:
        self._env = env
        self.relaxed = env.format["durability"] == "relaxed"
        self.pending = 0
        self.failure: BaseException | None = None
        self.wake_upkeep: Callable[[], None] = _nobody
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._hurry = threading.Event()
        self._bytes_pending = 0
        self._closing = False
        self._callers = 0
        self._sync_seconds = 0.0
        self._bytes_unchecked = ROOM_CHECK_BYTES
        self._room_checked_at = 0.0
        self._bytes_unkept = 0
        self._thread = threading.Thread(target=self._run, name="featurestore-writer", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[Commit], T], now_us: int, *, bytes_needed: int = 0) -> T:
        """Queue work and wait until its commit is as durable as the store is.

        Parameters
        ----------
        work : callable
            Applied to a :class:`Commit`; may run again if another job of the group fails.
        now_us : int
            The caller's clock.
        bytes_needed : int
            Room to insist on first; 0 for work that makes room.

        Raises
        ------
        StoreBusy
            The queue stayed full.
        StoreClosed
            The store is closed.
        """
        if self.is_this_thread():
            raise InvalidInput(
                "The callback of a write's future runs on the thread that makes the commits, and "
                "cannot wait for another one. Use the async form there, or another thread."
            )
        job = _Call(work, now_us, bytes_needed)
        self._queue(job)
        return job.wait()

    def submit(
        self, work: Callable[[Commit], T], now_us: int, *, bytes_needed: int = 0
    ) -> Future[T]:
        """Queue work; its future is done when the commit is, as durable as the store is.

        Work whose future is cancelled before its transaction has begun is left out.
        """
        job = _Promise(work, now_us, bytes_needed)
        self._queue(job)
        return job.future

    def post(self, work: Callable[[Commit], Any], now_us: int, *, bytes_needed: int = 0) -> None:
        """Queue work that counts as acknowledged: for a ``relaxed`` store."""
        self._queue(_Posted(self, work, now_us, bytes_needed))

    def is_this_thread(self) -> bool:
        """Return whether the caller is the writer thread itself: a callback of a future."""
        return threading.get_ident() == self._thread.ident

    def close(self) -> None:
        """Commit what is queued, then end the thread."""
        with self._lock:
            self._closing = True
            self._room.notify_all()
            self._jobs.put(None)
            self._hurry.set()
        self._thread.join()
        self._raise_failure()

    # ── the queue ────────────────────────────────────────────────────────────────────────────

    def _queue(self, job: _Job[Any]) -> None:
        witness = _witness.get()
        if witness is not None:
            job.work = _with_witness(job.work, witness)
        with self._lock:
            if self.failure is not None:
                self._raise_failure()
            if not self._has_room(job):
                self._wait_for_room(job)
            if self._closing:
                raise StoreClosed("The store is closed.")
            self.pending += 1
            self._bytes_pending += job.bytes_needed
            self._jobs.put(job)
            if job.hurry and self.relaxed:
                self._hurry.set()

    def _has_room(self, job: _Job[Any]) -> bool:
        return self.pending == 0 or (
            self.pending < QUEUE_JOBS_MAX
            and self._bytes_pending + job.bytes_needed <= QUEUE_BYTES_MAX
        )

    def _wait_for_room(self, job: _Job[Any]) -> None:
        """Hold the caller up until the queue is shorter: back-pressure."""
        self._hurry.set()
        # The writer thread itself would wait for ever.
        seconds = 0.0 if self.is_this_thread() else QUEUE_WAIT_SECONDS
        if not self._room.wait_for(lambda: self._closing or self._has_room(job), seconds):
            raise StoreBusy(
                f"{self.pending:,} writes of {self._bytes_pending:,} bytes have been waiting for "
                f"{seconds:.0f} s. Nothing of this request was stored; send it again later."
            )

    def _raise_failure(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    # ── the thread ───────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            group, goes_on = self._next_group()
            self._commit([job for job in group if job.begin()])
            with self._lock:
                self.pending -= len(group)
                self._bytes_pending -= sum(job.bytes_needed for job in group)
                self._room.notify_all()

    def _next_group(self) -> tuple[list[_Job[Any]], bool]:
        """Wait for work; returns what shares the next commit, and whether more may follow."""
        first = self._jobs.get()
        if first is None:
            return [], False
        if self.relaxed:
            self._hurry.wait(max(0.0, first.queued_at + RELAXED_WAIT_SECONDS - seam.monotonic()))
            self._hurry.clear()
        elif self._callers > 1 and self._sync_seconds >= GATHER_SYNC_SECONDS:
            self._await_callers()
        group, size = [first], first.bytes_needed
        # One thread takes from the queue, so as many can be had as there are.
        for _ in range(min(self._jobs.qsize(), GROUP_JOBS_MAX)):
            job = self._jobs.get()
            if job is None:
                return group, False
            group.append(job)
            size += job.bytes_needed
            if size > GROUP_BYTES_MAX:
                break
        return group, True

    def _await_callers(self) -> None:
        """Give those who shared the last sync a moment to come back and share the next one.

        Without it they part into two halves that take turns, each paying a whole sync.
        """
        until = seam.perf_counter() + self._sync_seconds * GATHER_SHARE
        while self._jobs.qsize() + 1 < self._callers and seam.perf_counter() < until:
            seam.sleep(GATHER_POLL_SECONDS)

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        """Apply all jobs in one transaction; a job that raises is left out and told so."""
        while jobs:
            failed: _Job[Any] | None = None
            results = []
            try:
                with self._env.write() as txn:
                    began = seam.perf_counter()
                    self._require_room(txn, jobs)
                    commit = Commit(self._env, txn, max(job.now_us for job in jobs))
                    for job in jobs:
                        failed = job
                        results.append(job.work(commit))
                    failed = None
                    commit.finish()
                    applied_at = seam.perf_counter()
                commit.held_seconds = seam.perf_counter() - began
            except BaseException as error:  # noqa: BLE001  whatever it is, somebody waits for it
                if isinstance(error, StoreFull):
                    self.wake_upkeep()
                if failed is None or isinstance(error, StoreFull):
                    for job in jobs:
                        job.done(None, error)
                    return
                failed.done(None, error)
                jobs = [job for job in jobs if job is not failed]
                continue
            self._sync_seconds = seam.perf_counter() - applied_at
            self._callers = len(jobs)
            for job, result in zip(jobs, results, strict=True):
                job.done(result, None)
            self._count_for_upkeep(jobs)
            return

    def _count_for_upkeep(self, jobs: list[_Job[Any]]) -> None:
        self._bytes_unkept += sum(job.bytes_needed for job in jobs)
        if self._bytes_unkept >= UPKEEP_BYTES:
            self._bytes_unkept = 0
            self.wake_upkeep()

    def _require_room(self, txn: Transaction, jobs: list[_Job[Any]]) -> None:
        needed = sum(job.bytes_needed for job in jobs)
        self._bytes_unchecked += needed
        now = seam.monotonic()
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


def _nobody() -> None:
    """Wake nobody: there is no upkeep."""


# ── one record ───────────────────────────────────────────────────────────────────────────────


class Put(NamedTuple):
    """A validated, encoded record on its way into a commit; deletes are records too.

    Attributes
    ----------
    online, offline : bool
        Where it goes: stores that are aimed at, and that the group has.
    hard : bool
        A hard delete, which is refused when it is late.
    lmdb_key : bytes
        Where its latest record lies.
    asked : tuple
        What the caller asked for; see `asked_bytes`.
    refusal : InvalidEventTime or None
        Why it will not do by the clock.  Raised only once it is known to be no retry: the first
        try may have been accepted by a clock that was ahead.
    """

    group_id: int
    group_name: str
    online: bool
    offline: bool
    hard: bool
    lmdb_key: bytes
    key: bytes
    event_time_us: int
    expires_at_us: int
    record: bytearray
    asked: tuple[Any, ...]
    refusal: InvalidEventTime | None

    def asked_bytes(self) -> bytes:
        """Return what was asked for, to tell a retry from another request under the same id.

        Not the record: a schema or a TTL that changed between two tries does not make the request
        new.  A feature added meanwhile is a null at the end of the slots.
        """
        *what, slots = self.asked
        while isinstance(slots, tuple) and slots and slots[-1] is None:
            slots = slots[:-1]
        return repr((*what, slots)).encode()

    @property
    def bytes_needed(self) -> int:
        """Room in pages: the record twice, online and journal, and the keys."""
        return 2 * (len(self.record) + len(self.key)) + 64


class Outcome(NamedTuple):
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
    outcome = "offline_only"
    if put.online:
        current = latest.get_at(env, txn, put.lmdb_key, put.key)
        outcome = "moved"
        if current is None:
            commit.count_keys(put.group_id, 1)
        else:
            now = read_header(current)
            if put.event_time_us < now.event_time_us:
                outcome = "late"
            elif put.event_time_us == now.event_time_us and same_payload(current, put.record):
                return Outcome(now.seq, "unchanged", now.write_time_us, now.expires_at_us)
        if outcome == "late" and put.hard:
            raise StaleDelete(
                f'The hard delete of a record of "{put.group_name}" at '
                f"{format_us(put.event_time_us)} is older than the record itself, of "
                f"{format_us(now.event_time_us)}. Nothing was deleted; give a later event time."
            )
    seq = commit.take()
    record = stamp(put.record, put.key, seq, commit.write_time_us)
    if outcome == "moved":
        latest.put_at(env, txn, put.lmdb_key, put.key, record)
    if put.offline:
        commit.journal(put.group_id, seq, put.key, record)
    return Outcome(seq, outcome, commit.write_time_us, put.expires_at_us)


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
        require_group(commit, put.group_id, put.group_name)


def require_group(commit: Commit, group_id: int, name: str) -> None:
    """Refuse to write into a group that was deleted since its records were checked."""
    if not catalog.has_group(commit.env, commit.txn, group_id):
        raise UnknownFeatureGroup(
            f'Feature group "{name}" was deleted meanwhile. Nothing was stored.'
        )
