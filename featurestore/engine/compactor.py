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

Nothing is dropped: versions, tombstones and expired rows all stay, and the absolute ``write_seq``
and ``write_time`` are written out.  The result takes the place of its inputs in one transaction,
if all of them are still listed; otherwise it is dropped.  Readers that pinned the inputs go on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.encoding.columns import history_schema
from featurestore.engine import cleaner
from featurestore.engine.filing import give_up, write_file
from featurestore.errors import StoreBusy
from featurestore.storage import catalog, files, manifest, parquet

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

Int64s = np.ndarray[Any, np.dtype[np.int64]]


def compact(
    database: Database,
    groups: Sequence[FeatureGroup],
    now_us: int,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Compact some groups; returns the number of rows written again."""
    lock = files.FileLock.try_acquire(database.locks / "compact")
    if lock is None:
        raise StoreBusy("Another compaction is under way; this one was not needed.")
    try:
        written = 0
        for group in groups:
            written += _compact_group(database, group, now_us)
            if progress is not None:
                progress(written)
        cleaner.clean(database, now_us)
        return written
    finally:
        lock.release()


def _compact_group(database: Database, group: FeatureGroup, now_us: int) -> int:
    with database.snapshot([group.name], with_tail=False) as snapshots:
        snapshot = snapshots[group.name]
        loose = [e for e in snapshot.files if e.kind != "cell" and not e.request]
        if not loose:
            return 0
        windows = _windows(snapshot, loose)
        touched = _touched(snapshot, loose, windows)
        cells = [e for e in snapshot.files if e.kind == "cell" and e.window in touched]
        outputs: list[manifest.FileEntry] = []
        try:
            for window in touched:
                table = _window_rows(snapshot, [*cells, *loose], windows, window)
                outputs += _write_cells(database, snapshot.group, table, window, now_us)
        except BaseException:
            _drop(database, outputs, now_us)
            raise
        inputs = [*cells, *loose]
        committed = database.writer.call(
            lambda commit: _commit(commit, inputs, outputs, windows), now_us
        )
        if not committed:
            _drop(database, outputs, now_us)
            return 0
        return sum(entry.rows for entry in outputs)


def _bounds(windows: Sequence[int], window: int) -> tuple[int, int]:
    """Return the half-open range of event times of a window."""
    info = np.iinfo(np.int64)
    low = windows[window - 1] if window > 0 else int(info.min)
    high = windows[window] if window < len(windows) else int(info.max)
    return low, high


def _touched(
    snapshot: GroupSnapshot, loose: Sequence[manifest.FileEntry], windows: Sequence[int]
) -> list[int]:
    """Return the windows to write again: those with new rows, and those just cut off."""
    touched: set[int] = set()
    for entry in loose:
        event = parquet.as_int64(snapshot.read(entry, [snapshot.group.event_time]).column(0))
        touched |= set(np.searchsorted(np.array(windows, np.int64), event, side="right").tolist())
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
    database: Database, group: FeatureGroup, table: pa.Table, window: int, now_us: int
) -> list[manifest.FileEntry]:
    entries = []
    for start, end in _cuts(parquet.as_int64(table.column(parquet.KEY_HASH))):
        part = table.slice(start, end - start)
        entries.append(write_file(database, group, "cell", part, now_us, window=window))
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
