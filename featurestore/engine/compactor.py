"""The compactor: many overlapping files become few disjoint cells.

::

    hash ▲  ┌────────┬────────┬─────────
         │  │ cell   │ cell   │ open          cell = (event-time window) x (hash range)
         │  ├────────┤        │ window        flush and staged files overlap everything;
         │  │ cell   ├────────┤               after compaction a row is in exactly one cell
         │  │        │ cell   │
         └──┴────────┴────────┴──────►  event time

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

Nothing is dropped: versions, tombstones and expired rows all stay, and the absolute ``write_seq``
and ``write_time`` are written out.  The result takes the place of its inputs in one transaction,
if all of them are still listed; otherwise it is dropped.  Readers that pinned the inputs go on.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.encoding.columns import history_schema
from featurestore.engine import cleaner
from featurestore.engine.filing import Pace, give_up, go_on, write_file
from featurestore.errors import UnknownFeatureGroup
from featurestore.storage import catalog, files, manifest, parquet, seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.engine.writer import Commit
    from featurestore.schema import FeatureGroup

#: A window is closed when it would hold more rows than this; bounds the memory of a rewrite.
WINDOW_ROWS = 4_000_000
#: A window's rows are cut into files of about this many, at a change of key hash.
CELL_ROWS = 1_000_000
#: Sparing compaction writes a window again when one row in so many of its cells', or more, is new.
NEW_SHARE = 4

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
    with database.snapshot([group.name], with_tail=False) as snapshots:
        snapshot = snapshots[group.name]
        loose = loose_files(snapshot.files)
        if sparing:
            loose = worth_merging(loose)
        if not loose:
            return 0
        windows = _windows(snapshot, loose)
        arrivals = _arrivals(snapshot, loose, windows)
        touched = _touched(snapshot, arrivals, windows, sparing=sparing)
        cells = [e for e in snapshot.files if e.kind == "cell" and e.window in touched]
        outputs: list[manifest.FileEntry] = []
        try:
            for window in touched:
                pace()
                table = _window_rows(snapshot, [*cells, *loose], windows, window)
                outputs += _write_cells(database, snapshot.group, table, window, now_us, pace)
            rest = [int(window) for window in arrivals if window not in touched]
            if rest:
                pace()
                table = _rest(snapshot, loose, windows, rest)
                outputs.append(write_file(database, snapshot.group, "merged", table, now_us))
        except BaseException:
            _drop(database, outputs, now_us)
            raise
        inputs = [*cells, *loose]
        seam.point("compact.written")
        committed = database.writer.call(
            lambda commit: _commit(commit, inputs, outputs, windows), now_us
        )
        if not committed:
            _drop(database, outputs, now_us)
            return 0
        seam.point("compact.listed")
        return sum(entry.rows for entry in outputs)


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
    arrivals: Counter[int] = Counter()
    for entry in loose:
        event = parquet.as_int64(snapshot.read(entry, [snapshot.group.event_time]).column(0))
        places = np.searchsorted(np.array(windows, np.int64), event, side="right")
        numbers, counts = np.unique(places, return_counts=True)
        arrivals.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    return arrivals


def _touched(
    snapshot: GroupSnapshot, arrivals: Counter[int], windows: Sequence[int], *, sparing: bool
) -> list[int]:
    """Return the windows to write again: those with new rows, and those just cut off."""
    held: Counter[int] = Counter()
    for entry in snapshot.files:
        if entry.kind == "cell":
            held[entry.window] += entry.visible_rows
    touched = {w for w, new in arrivals.items() if not sparing or new * NEW_SHARE >= held[w]}
    if len(windows) > len(snapshot.state.windows):
        touched |= set(range(len(snapshot.state.windows), len(windows) + 1))
    return sorted(touched)


def _windows(snapshot: GroupSnapshot, loose: Sequence[manifest.FileEntry]) -> tuple[int, ...]:
    """Return the bounds of the closed windows, with those that have to be closed now."""
    windows = list(snapshot.state.windows)
    open_from = windows[-1] if windows else np.iinfo(np.int64).min
    open_cells = [e for e in snapshot.files if e.kind == "cell" and e.window == len(windows)]
    times = np.sort(
        np.concatenate(
            [
                parquet.as_int64(snapshot.read(e, [snapshot.group.event_time]).column(0))
                for e in (*open_cells, *loose)
                if e.max_event_us >= open_from
            ]
            or [np.zeros(0, np.int64)]
        )
    )
    times = times[times >= open_from]
    while len(times) > WINDOW_ROWS:
        bound = int(times[WINDOW_ROWS])
        start = int(np.searchsorted(times, bound))
        if start == 0:  # one instant holds more than a window; it cannot be cut by time
            bound += 1
            start = int(np.searchsorted(times, bound))
        windows.append(bound)
        times = times[start:]
    return tuple(windows)


def _window_rows(
    snapshot: GroupSnapshot,
    inputs: Sequence[manifest.FileEntry],
    windows: Sequence[int],
    window: int,
) -> pa.Table:
    """Read all rows of a window, in file order."""
    low, high = _bounds(windows, window)
    parts = []
    for entry in inputs:
        if entry.max_event_us < low or entry.min_event_us >= high:
            continue
        part = snapshot.read(entry)
        if entry.min_event_us < low or entry.max_event_us >= high:
            event = parquet.as_int64(part.column(snapshot.group.event_time))
            part = part.filter(pa.array((event >= low) & (event < high)))
        parts.append(part)
    if not parts:
        return history_schema(snapshot.group).empty_table()
    return parquet.sort_history(pa.concat_tables(parts), snapshot.group, snapshot.key_hash)


def _rest(
    snapshot: GroupSnapshot,
    loose: Sequence[manifest.FileEntry],
    windows: Sequence[int],
    wanted: Sequence[int],
) -> pa.Table:
    """Read the loose rows of windows that are not written again now, in file order."""
    parts = []
    for entry in loose:
        part = snapshot.read(entry)
        event = parquet.as_int64(part.column(snapshot.group.event_time))
        places = np.searchsorted(np.array(windows, np.int64), event, side="right")
        parts.append(part.filter(pa.array(np.isin(places, wanted))))
    return parquet.sort_history(pa.concat_tables(parts), snapshot.group, snapshot.key_hash)


def _cuts(hashes: Int64s) -> Iterator[tuple[int, int]]:
    """Cut sorted hashes into stretches of about CELL_ROWS that share no hash."""
    start, rows = 0, len(hashes)
    while start < rows:
        end = min(start + CELL_ROWS, rows)
        if end < rows:
            first = int(np.searchsorted(hashes, hashes[end], side="left"))
            last = int(np.searchsorted(hashes, hashes[end], side="right"))
            end = first if first > start else last
        yield start, end
        start = end


def _write_cells(
    database: Database,
    group: FeatureGroup,
    table: pa.Table,
    window: int,
    now_us: int,
    pace: Pace,
) -> list[manifest.FileEntry]:
    entries: list[manifest.FileEntry] = []
    try:
        for start, end in _cuts(parquet.as_int64(table.column(parquet.KEY_HASH))):
            pace()
            part = table.slice(start, end - start)
            entries.append(write_file(database, group, "cell", part, now_us, window=window))
    except BaseException:
        _drop(database, entries, now_us)
        raise
    return entries


def _commit(
    commit: Commit,
    inputs: Sequence[manifest.FileEntry],
    outputs: Sequence[manifest.FileEntry],
    windows: tuple[int, ...],
) -> bool:
    """Swap inputs for outputs, if every input is as it was and every intent stands."""
    env, txn = commit.env, commit.txn
    if not catalog.has_group(env, txn, outputs[0].group_id):
        return False
    for entry in inputs:
        if manifest.live_file(env, txn, entry.group_id, entry.file_id) != entry:
            return False
    for entry in outputs:
        if not manifest.intent_stands(env, txn, entry.group_id, entry.file_id):
            return False
    for entry in inputs:
        manifest.unlist(env, txn, entry, commit.write_time_us)
    for entry in outputs:
        manifest.list_file(env, txn, entry)
    state = manifest.state(env, txn, outputs[0].group_id)
    manifest.put_state(env, txn, outputs[0].group_id, replace(state, windows=windows))
    return True


def _drop(database: Database, outputs: Sequence[manifest.FileEntry], now_us: int) -> None:
    for entry in outputs:
        give_up(database, entry.group_id, entry.file_id, now_us)
