"""Upkeep: what keeps a store small and quick while it is written to, in the background.

::

    every process that writes                          one of them, elected by a lock
    ─────────────────────────                          ─────────────────────────────────────────
    first write ──► thread ──► is the lock free? ──►   long tail?    flush it into a file
         ▲                        │ no: ask again      many files?   merge them, sparingly
         └──── a second ──────────┘                    now and then  clear dead readers, delete
                                                       what the dead and the done have left

===================  ============================================  ==============================
what                 when                                          why then (measured)
===================  ============================================  ==============================
flush a group        50,000 rows are in its tail                   a query decodes the tail: 2 to
                                                                   3 µs a row, where a file costs
                                                                   it a millisecond
flush the largest    all tails exceed a quarter of the online      LMDB's file keeps the size of
                     store, between 1 MiB and 16 MiB               its fullest moment
flush a group        1,000 rows, the oldest a minute old           fewer cost less than their file
flush the largest    half of the room is used, and all tails       what a flush frees is reused
                     exceed a 64th of the quota, or 1 MiB
compact a group      16 files are loose                            each costs a reader 1 ms
compact a group      its horizon is a sixteenth of its retention   what is written again for it
                     ahead of what was dropped last; looked at     is then bounded
                     every 60 s
clear dead readers   5 s                                           one keeps all freed pages from
                                                                   being used again
clean                60 s
===================  ============================================  ==============================

A process that puts a handful of records therefore never loads Arrow for this.  Each transaction
is short, files are written outside of them, and between steps the thread lets others run.  Work
that fails is tried again after a pause that doubles up to a minute; the error is kept for
``stat()``, and the process never hears of it: a disk that is full stops upkeep until it is not.
At close the thread stops at the next step and withdraws the file it was writing.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any

from featurestore.errors import FeatureStoreError, StoreClosed, UnknownFeatureGroup
from featurestore.storage import files, journal, manifest, seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from featurestore.engine.database import Database
    from featurestore.schema import FeatureGroup
    from featurestore.storage.journal import Tail

#: How often to look; a writer that commits much wakes the thread earlier.
TICK_SECONDS = 1.0
TAIL_ROWS = 50_000
TAIL_BYTES_MIN = 1 << 20
TAIL_BYTES_MAX = 16 << 20
#: All tails together may take this share of the online records, within the two bounds above.
TAIL_SHARE = 0.25
TAIL_SHARE_NEAR_FULL = 1 / 64
OLD_TAIL_US = 60 * 1_000_000
OLD_TAIL_ROWS = 1_000
READERS_SECONDS = 5.0
#: Compaction waits for so many files that are no cells.
LOOSE_FILES = 16
CLEAN_SECONDS = 60.0
HORIZON_SECONDS = 60.0
PAUSE_SECONDS_MAX = 60.0
#: How long others may run between two steps.
YIELD_SECONDS = 0.000_05

LOCK = "upkeep"
NOTE_BYTES = 4096
_ERROR_LETTERS = 400


class _Stopped(Exception):
    """The store is being closed."""


class Upkeep:
    """The upkeep thread of one database in this process.

    Parameters
    ----------
    database : Database
        The open store.
    clock_us : callable
        The store's clock.
    """

    def __init__(self, database: Database, clock_us: Callable[[], int]) -> None:
        self._database = database
        self._clock_us = clock_us
        self._lock: files.FileLock | None = None
        self._note: dict[str, Any] = {"pid": os.getpid(), "doing": "waiting"}
        self._failures = 0
        self._tails: dict[int, tuple[int, Tail]] = {}
        self._lists_seen = -1
        self._done_at: dict[str, float] = {}
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="featurestore-upkeep", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look at the store soon: much was written, or there is no room left."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread: at once if it waits, at its next step if it works."""
        self._stopping.set()
        self._woken.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ── the thread ───────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._wait()
                self._try()
        except _Stopped:
            pass
        finally:
            if self._lock is not None:
                self._lock.release()

    def _wait(self) -> None:
        if self._failures:  # whatever wakes it, it waits
            self._stopping.wait(min(PAUSE_SECONDS_MAX, TICK_SECONDS * 2**self._failures))
        else:
            self._woken.wait(TICK_SECONDS)
        self._woken.clear()
        self._pace()

    def _try(self) -> None:
        """Do what is due; remember what went wrong."""
        try:
            if self._is_elected():
                self._round()
        except _Stopped:
            raise
        except Exception as error:
            if self._stopping.is_set() or (
                isinstance(error, StoreClosed) and self._database.closed
            ):
                raise _Stopped from error
            self._failures += 1
            self._tell(
                doing="waiting after an error",
                failures=self._failures,
                last_error=f"{type(error).__name__}: {error}"[:_ERROR_LETTERS],
                last_error_at_us=self._clock_us(),
            )
            return
        if self._failures:
            self._failures = 0
            self._tell(doing="waiting", failures=0)

    def _pace(self) -> None:
        """Let other threads run; stop here if the store is being closed."""
        seam.sleep(YIELD_SECONDS)
        if self._stopping.is_set():
            raise _Stopped

    def _is_elected(self) -> bool:
        if self._lock is None:
            self._lock = files.FileLock.try_acquire(self._database.locks / LOCK)
            if self._lock is not None:
                self._tell()
        return self._lock is not None

    def _tell(self, **facts: Any) -> None:
        """Note down for ``stat()``, of any process, what goes on here."""
        self._note.update(facts)
        if self._lock is not None:
            with contextlib.suppress(FeatureStoreError):  # a full disk
                self._lock.write(json.dumps(self._note).encode().ljust(NOTE_BYTES))

    # ── what is due ──────────────────────────────────────────────────────────────────────────

    def _round(self) -> None:
        for group in self._long_tails():
            self._flush(group)
        version, groups = self._scattered()
        if self._is_due("horizons", HORIZON_SECONDS):
            groups += self._beyond_horizon(groups)
        for group in groups:
            self._compact(group)
        self._lists_seen = version
        if self._is_due("readers", READERS_SECONDS):
            self._database.env.clear_dead_readers()
        if self._is_due("clean", CLEAN_SECONDS):
            from featurestore.engine import cleaner

            cleaner.clean(self._database, self._clock_us())

    def _is_due(self, what: str, seconds: float) -> bool:
        """Return whether something was last done so long ago; the first time is then, too."""
        now = seam.monotonic()
        if now - self._done_at.setdefault(what, now) < seconds:
            return False
        self._done_at[what] = now
        return True

    def _long_tails(self) -> list[FeatureGroup]:
        """Return the groups to flush now, longest tail first."""
        env = self._database.env
        groups = self._database.catalog().groups.values()
        with env.read(buffers=True) as txn:
            measured = [(self._tail(txn, group), group) for group in groups]
            bound = min(
                max(env.bytes_of(txn, "latest") * TAIL_SHARE, TAIL_BYTES_MIN), TAIL_BYTES_MAX
            )
            if env.is_near_full(txn):
                bound = min(TAIL_BYTES_MIN, env.format["quota"] * TAIL_SHARE_NEAR_FULL)
        too_old_us = self._clock_us() - OLD_TAIL_US
        total = sum(tail.size_bytes for tail, _ in measured)
        shrinking = total > bound
        due = []
        for tail, group in sorted(measured, key=lambda pair: -pair[0].size_bytes):
            old = tail.rows >= OLD_TAIL_ROWS and tail.first_time_us <= too_old_us
            if tail.rows >= TAIL_ROWS or old or (shrinking and total > bound / 2):
                due.append(group)
                total -= tail.size_bytes
        return due

    def _tail(self, txn: Any, group: FeatureGroup) -> Tail:
        """Measure a group's tail; only what came since the last time is looked at."""
        drained_seq = manifest.state(self._database.env, txn, group.id).drained_seq
        known_drained, known = self._tails.get(group.id, (-1, journal.Tail()))
        if known_drained != drained_seq:
            known = journal.Tail(last_seq=drained_seq)
        tail = known + journal.tail(self._database.env, txn, group.id, known.last_seq)
        self._tails[group.id] = drained_seq, tail
        return tail

    def _flush(self, group: FeatureGroup) -> None:
        from featurestore.engine import flusher

        with self._at_work("flush", f'flushing "{group.name}"') as has_lock:
            if has_lock:
                flusher.flush_group(self._database, group, self._clock_us(), self._pace)

    def _scattered(self) -> tuple[int, list[FeatureGroup]]:
        """Return the groups with many loose files, unless the lists are those of last time."""
        database = self._database
        with database.read() as txn:
            version = manifest.version(database.env, txn)
            if version == self._lists_seen:
                return version, []
            groups = database.catalog_at(txn).groups.values()
            return version, [
                group
                for group in groups
                if sum(e.kind != "cell" for e in database.files_at(txn, group.id)) >= LOOSE_FILES
            ]

    def _beyond_horizon(self, already: Sequence[FeatureGroup]) -> list[FeatureGroup]:
        """Return the other groups of which old versions are to be dropped now."""
        database = self._database
        declared = {
            group.name: group
            for group in database.catalog().groups.values()
            if group.retention_us is not None and group not in already
        }
        if not declared:
            return []
        from featurestore.engine import compactor

        with database.read() as txn:
            return [
                group
                for group in declared.values()
                if compactor.due_horizon(
                    group,
                    manifest.state(database.env, txn, group.id),
                    database.files_at(txn, group.id),
                    self._clock_us(),
                    sparing=True,
                )
            ]

    def _compact(self, group: FeatureGroup) -> None:
        from featurestore.engine import compactor

        with self._at_work("compact", f'compacting "{group.name}"') as has_lock:
            if has_lock and compactor.compact_group(
                self._database, group, self._clock_us(), sparing=True, pace=self._pace
            ):
                self._note["last_compaction_us"] = self._clock_us()

    @contextlib.contextmanager
    def _at_work(self, lock_name: str, doing: str) -> Iterator[bool]:
        """Hold a lock and say so; without it, somebody else is doing the same."""
        lock = files.FileLock.try_acquire(self._database.locks / lock_name)
        if lock is None:
            yield False
            return
        try:
            self._tell(doing=doing)
            yield True
        except UnknownFeatureGroup:
            pass  # it was deleted meanwhile
        finally:
            lock.release()
            self._tell(doing="waiting")
