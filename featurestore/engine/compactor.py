"""The compactor: many overlapping files become few disjoint cells.

::

    hash ▲  ┌────────┬────────┬─────────
         │  │ cell   │ cell   │ open          cell = (event-time window) x (hash range)
         │  ├────────┤        │ window        flush and staged files overlap everything;
         │  │ cell   ├────────┤               after compaction a row is in exactly one cell
         │  │        │ cell   │
         └──┴────────┴────────┴──────►  event time
            ▲ horizon

Windows are closed one after the other as history grows: when the open window would hold more
than :data:`WINDOW_ROWS`, it is closed at an event time that leaves about that many rows in it.
New data usually belongs to the open window, so what is written again stays bounded however long
history gets; a closed window is rewritten only for rows that came late.

Asked for, compaction leaves nothing loose.  In the background it is *sparing*: it waits for many
loose files, takes the small ones among them (see :func:`worth_merging`), and writes a window
again only when they bring at least a quarter of what its cells hold.  Rows that have to wait are
merged into one larger loose file.  So whenever a row is written again, what it is in has grown by
a fixed share, and how often that can happen goes with the logarithm of a window: however small
the flushes, however late the rows, and however long history gets.

**Memory.** Files are merged a row group at a time (``merging``), no more than :data:`FAN_IN` of
them at once: more loose files than that are merged into larger ones first.

**Retention.** Nothing is dropped, versions, tombstones or expired rows, unless the group declares
how far back history is to reach.  Then the windows before that horizon become one, the first, and
of the versions of a key in it only the newest stays: it is what every question about a moment from
the horizon on needs, and what the online store has.  Records after a consumer's mark stay.  Asked
for, the horizon is exact; in the background it moves on by :data:`HORIZON_STEPS` steps in the time
it spans, so that what it writes again is bounded too.

Absolute ``write_seq`` and ``write_time`` are written out.  The result takes the place of its inputs
in one transaction, if all of them are still listed; otherwise it is dropped.  Readers that pinned
the inputs go on.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.engine import cleaner
from featurestore.engine.filing import Pace, give_up, go_on
from featurestore.engine.merging import Rows, merged, write_files
from featurestore.errors import UnknownFeatureGroup
from featurestore.record import STORE_ONLINE
from featurestore.storage import catalog, consumers, files, manifest, parquet, seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.merging import Wanted
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.engine.writer import Commit
    from featurestore.schema import FeatureGroup

    Bools = np.ndarray[Any, np.dtype[np.bool_]]

#: A window is closed when it would hold more rows than this: what late rows cause to be rewritten.
WINDOW_ROWS = 4_000_000
#: A window's rows are cut into files of about this many, at a change of key hash.
CELL_ROWS = 1_000_000
#: Sparing compaction writes a window again when one row in so many of its cells', or more, is new.
NEW_SHARE = 4
#: Loose files merged at a time; bounds the memory.
FAN_IN = 16
#: Event times looked at to choose where windows end; of more rows a regular sample is taken.
SAMPLE_ROWS = 1 << 22
#: In the background, how many times the horizon moves while it moves by its own length.
HORIZON_STEPS = 16

Int64s = np.ndarray[Any, np.dtype[np.int64]]


def compact(
    database: Database,
    groups: Sequence[FeatureGroup],
    now_us: int,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Compact some groups; returns the number of rows written again.

    A compaction under way, of this process or another, is waited for.
    """
    lock = files.FileLock.acquire(database.locks / "compact")
    try:
        written = 0
        for group in groups:
            with contextlib.suppress(UnknownFeatureGroup):  # deleted since it was named
                written += compact_group(database, group, now_us)
            if progress is not None:
                progress(written)
        cleaner.clean(database, now_us)
        return written
    finally:
        lock.release()


def compact_group(
    database: Database,
    group: FeatureGroup,
    now_us: int,
    *,
    sparing: bool = False,
    pace: Pace = go_on,
) -> int:
    """Compact one group, under the compaction lock; returns the rows written again."""
    written = 0
    while True:
        with database.snapshot([group.name], with_tail=False) as snapshots:
            snapshot = snapshots[group.name]
            loose = loose_files(snapshot.files)
            if sparing:
                loose = worth_merging(loose)[:FAN_IN]
            too_many = len(loose) > FAN_IN
            if too_many:
                loose = sorted(loose, key=lambda entry: entry.visible_rows)[:FAN_IN]
            horizon_us = None
            if not too_many:
                horizon_us = due_horizon(
                    snapshot.group, snapshot.state, snapshot.files, now_us, sparing=sparing
                )
            if not loose and horizon_us is None:
                return written
            work = _Work(database, snapshot, loose, horizon_us, now_us, pace)
            done = work.run(only_merge=too_many, sparing=sparing)
            written += done
            if not (too_many and done):
                return written


def loose_files(entries: Sequence[manifest.FileEntry]) -> list[manifest.FileEntry]:
    """Return the files that are no cells, and that no ingest is still filling."""
    return [e for e in entries if e.kind != "cell" and not e.request]


def worth_merging(loose: Sequence[manifest.FileEntry]) -> list[manifest.FileEntry]:
    """Return the files that sparing compaction takes.

    From the smallest up to the last that is no larger than all before it together, so that every
    row taken ends in a file of at least twice the size; and no more than a window's rows in all.
    """
    by_size = sorted(loose, key=lambda entry: entry.visible_rows)
    before = taken = 0
    for number, entry in enumerate(by_size):
        if before + entry.visible_rows > WINDOW_ROWS:
            break
        if number > 0 and entry.visible_rows <= before:
            taken = number + 1
        before += entry.visible_rows
    return by_size[:taken]


def due_horizon(
    group: FeatureGroup,
    state: manifest.GroupState,
    entries: Sequence[manifest.FileEntry],
    now_us: int,
    *,
    sparing: bool,
) -> int | None:
    """Return the event time before which versions are to be dropped now; None if not now."""
    if group.retention_us is None:
        return None
    horizon_us = now_us - group.retention_us
    step_us = group.retention_us // HORIZON_STEPS if sparing else 0
    if state.horizon_us is not None and horizon_us < state.horizon_us + step_us:
        return None
    for entry in entries:
        floor = entry.kind == "cell" and entry.window == 0 and state.horizon_us is not None
        if entry.min_event_us < horizon_us and not floor and not entry.request:
            return horizon_us
    return None


class _Work:
    """One compaction of one group: what it reads, what it writes, and the swap."""

    def __init__(
        self,
        database: Database,
        snapshot: GroupSnapshot,
        loose: Sequence[manifest.FileEntry],
        horizon_us: int | None,
        now_us: int,
        pace: Pace,
    ) -> None:
        self.database = database
        self.snapshot = snapshot
        self.group = snapshot.group
        self.loose = list(loose)
        self.horizon_us = horizon_us
        self.now_us = now_us
        self.pace = pace
        self.windows: tuple[int, ...] = snapshot.state.windows
        #: The greatest seq that was dropped.
        self.dropped_seq = 0
        self.inputs: list[manifest.FileEntry] = []
        self.outputs: list[manifest.FileEntry] = []
        #: Cells that stay, in windows that have another number now.
        self.renumbered: list[tuple[manifest.FileEntry, manifest.FileEntry]] = []

    def run(self, *, only_merge: bool, sparing: bool) -> int:
        """Do it; returns the rows written, 0 if the files changed meanwhile."""
        try:
            if only_merge:
                self.inputs = self.loose
                self._write("merged", [[entry] for entry in self.loose], _all_rows)
            else:
                self._write_windows(sparing=sparing)
            seam.point("compact.written")
            committed = self.database.writer.call(self._commit, self.now_us)
        except BaseException:
            self._drop()
            raise
        if not committed:
            self._drop()
            return 0
        seam.point("compact.listed")
        return sum(entry.rows for entry in self.outputs)

    def _write_windows(self, *, sparing: bool) -> None:
        self.windows = _windows(self.snapshot, self.loose, self.horizon_us)
        cells = [entry for entry in self.snapshot.files if entry.kind == "cell"]
        arrivals = _arrivals(self.snapshot, self.loose, self.windows)
        touched = self._touched(cells, arrivals, sparing=sparing)
        taken = [e for e in cells if self._window_of(e.min_event_us) in touched]
        self.inputs = [*taken, *self.loose]
        self.renumbered = [
            (e, replace(e, window=number))
            for e in cells
            if e not in taken and (number := self._window_of(e.min_event_us)) != e.window
        ]
        for window in sorted(touched):
            self._write_cells(taken, window)
        rest = [window for window in arrivals if window not in touched]
        if rest:
            self._write("merged", [[e] for e in self.loose], self._rows_of(rest))

    def _window_of(self, event_us: int) -> int:
        return int(np.searchsorted(np.array(self.windows, np.int64), event_us, side="right"))

    def _touched(
        self, cells: Sequence[manifest.FileEntry], arrivals: Counter[int], *, sparing: bool
    ) -> set[int]:
        """Return the windows to write again: those with new rows, and those with new bounds."""
        held: Counter[int] = Counter()
        touched = set()
        for entry in cells:
            first, last = map(self._window_of, (entry.min_event_us, entry.max_event_us))
            held[first] += entry.visible_rows
            if first != last:
                touched |= set(range(first, last + 1))
        touched |= {w for w, new in arrivals.items() if not sparing or new * NEW_SHARE >= held[w]}
        if self.horizon_us is not None:
            touched.add(0)
        return touched

    def _write_cells(self, cells: Sequence[manifest.FileEntry], window: int) -> None:
        """Write the cells of a window."""
        low, high = _bounds(self.windows, window)
        chains: dict[int, list[manifest.FileEntry]] = {}
        for entry in cells:  # those of one window as it was are disjoint
            chains.setdefault(entry.window, []).append(entry)
        sources = [*chains.values(), *([entry] for entry in self.loose)]
        inside = [
            [e for e in s if e.max_event_us >= low and e.min_event_us < high] for s in sources
        ]
        self._write("cell", inside, self._rows_of([window]), window=window)

    def _write(
        self,
        kind: str,
        chains: Sequence[Sequence[manifest.FileEntry]],
        wanted: Wanted,
        **fields: int,
    ) -> None:
        batches = self._paced(merged(self.snapshot, [c for c in chains if c], wanted))
        if self.horizon_us is not None and fields.get("window") == 0:
            batches = self._without_old_versions(batches)
        bytes_needed = sum(entry.size_bytes for chain in chains for entry in chain)
        rows = Rows(batches, CELL_ROWS if kind == "cell" else _NO_LIMIT)
        for entry in write_files(
            self.database, self.group, kind, rows, self.now_us, bytes_needed=bytes_needed, **fields
        ):
            self.outputs.append(entry)  # each as it is there: they are dropped if one fails

    def _paced(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for batch in batches:
            self.pace()
            yield batch

    def _rows_of(self, windows: Sequence[int]) -> Wanted:
        def wanted(entry: manifest.FileEntry, event_us: Int64s) -> Bools:
            bounds = {self._window_of(entry.min_event_us), self._window_of(entry.max_event_us)}
            if len(bounds) == 1:
                return np.full(len(event_us), bounds <= set(windows))
            places = np.searchsorted(np.array(self.windows, np.int64), event_us, side="right")
            return np.isin(places, windows)

        return wanted

    # ── retention ────────────────────────────────────────────────────────────────────────────

    def _without_old_versions(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        with self.database.read() as txn:
            held_after = consumers.held_after(self.database.env, txn)
        for batch in batches:
            keep = newest_versions(batch, self.group)
            seqs = parquet.as_int64(batch.column(parquet.WRITE_SEQ))
            if held_after is not None:
                keep |= seqs > held_after
            if not keep.all():
                self.dropped_seq = max(self.dropped_seq, int(seqs[~keep].max()))
                batch = batch.filter(pa.array(keep))  # noqa: PLW2901
            yield batch

    # ── the swap ─────────────────────────────────────────────────────────────────────────────

    def _commit(self, commit: Commit) -> bool:
        """Swap inputs for outputs, if every input is as it was and every intent stands."""
        env, txn, group_id = commit.env, commit.txn, self.group.id
        if not catalog.has_group(env, txn, group_id):
            return False
        held_after = consumers.held_after(env, txn)
        if held_after is not None and self.dropped_seq > held_after:
            return False
        for entry in (*self.inputs, *(old for old, _ in self.renumbered)):
            if manifest.live_file(env, txn, entry.group_id, entry.file_id) != entry:
                return False
        for entry in self.outputs:
            if not manifest.intent_stands(env, txn, entry.group_id, entry.file_id):
                return False
        for entry in self.inputs:
            manifest.unlist(env, txn, entry, commit.write_time_us)
        for entry in (*self.outputs, *(new for _, new in self.renumbered)):
            manifest.list_file(env, txn, entry)
        state = manifest.state(env, txn, group_id)
        horizon_us = state.horizon_us if self.horizon_us is None else self.horizon_us
        new = replace(state, windows=self.windows, horizon_us=horizon_us)
        manifest.put_state(env, txn, group_id, new)
        return True

    def _drop(self) -> None:
        for entry in self.outputs:
            give_up(self.database, entry.group_id, entry.file_id, self.now_us)


_NO_LIMIT = 1 << 62


def _all_rows(_: manifest.FileEntry, event_us: Int64s) -> Bools:
    return np.ones(len(event_us), np.bool_)


def newest_versions(table: pa.Table, group: FeatureGroup) -> Bools:
    """Tell which rows, of a table in file order, are the newest of their key.

    Of a key with records for the offline store alone, the newest of those for both stores is one
    too: it is what the online store has.
    """
    ends = np.append(~parquet.same_key_as_before(table, group), True)
    keep = ends.copy()
    online = np.flatnonzero(parquet.as_int64(table.column(parquet.STORES)) & STORE_ONLINE)
    if len(online):
        codes = np.cumsum(np.append(0, ends[:-1]))[online]
        keep[online[np.append(np.diff(codes) != 0, True)]] = True
    return keep


def _bounds(windows: Sequence[int], window: int) -> tuple[int, int]:
    """Return the half-open range of event times of a window."""
    info = np.iinfo(np.int64)
    low = windows[window - 1] if window > 0 else int(info.min)
    high = windows[window] if window < len(windows) else int(info.max)
    return low, high


def _arrivals(
    snapshot: GroupSnapshot, loose: Sequence[manifest.FileEntry], windows: Sequence[int]
) -> Counter[int]:
    """Count the loose rows of each window."""
    bounds = np.array(windows, np.int64)
    arrivals: Counter[int] = Counter()
    for entry in loose:
        ends = np.searchsorted(bounds, [entry.min_event_us, entry.max_event_us], side="right")
        if ends[0] == ends[1]:
            arrivals[int(ends[0])] += entry.visible_rows
            continue
        for event in _event_times(snapshot, entry):
            places = np.searchsorted(bounds, event, side="right")
            numbers, counts = np.unique(places, return_counts=True)
            arrivals.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    return arrivals


def _event_times(snapshot: GroupSnapshot, entry: manifest.FileEntry) -> Iterator[Int64s]:
    """Yield the event times of a file, a row group at a time."""
    with snapshot.open(entry) as file:
        for number in range(file.row_groups):
            table = file.read([snapshot.group.event_time], [number])
            yield parquet.as_int64(table.column(0))


def _windows(
    snapshot: GroupSnapshot, loose: Sequence[manifest.FileEntry], horizon_us: int | None
) -> tuple[int, ...]:
    """Return the bounds of the closed windows, with those that have to be closed now."""
    windows = list(snapshot.state.windows)
    if horizon_us is not None:
        windows = [horizon_us, *(bound for bound in windows if bound > horizon_us)]
    open_from = windows[-1] if windows else int(np.iinfo(np.int64).min)
    entries = [
        entry
        for entry in (*(e for e in snapshot.files if e.kind == "cell"), *loose)
        if entry.max_event_us >= open_from
    ]
    rows = sum(entry.visible_rows for entry in entries)
    if rows <= WINDOW_ROWS:
        return tuple(windows)
    step = -(-rows // SAMPLE_ROWS)
    sampled = [
        np.sort(times[times >= open_from])[step // 2 :: step]
        for entry in entries
        for times in _event_times(snapshot, entry)
    ]
    times = np.sort(np.concatenate(sampled))
    while len(times) * step > WINDOW_ROWS:
        bound = int(times[WINDOW_ROWS // step])
        start = int(np.searchsorted(times, bound))
        if start == 0:  # one instant holds more than a window; it cannot be cut by time
            bound += 1
            start = int(np.searchsorted(times, bound))
        windows.append(bound)
        times = times[start:]
    return tuple(windows)
