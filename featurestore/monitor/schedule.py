"""Schedules: which windows are due, those that were missed once each and in order.

::

    cron      │         │         │         │         │
    windows    ├─ w1 ───┼─ w2 ───┼─ w3 ───┼─ w4 ───┤
                done      ✗ down    ✗ down   ▲
                                             now: w2, w3, then w4

A window ends when the schedule says, and starts when it said so before (or ``window=`` earlier).
It is due ``wait=`` after its end.  What is done is asked of the store, not kept in memory, so it
does not matter which process runs what is due, how many do, or when one of them is killed.  A
window that failed is tried three times in all, once each time :func:`run_due` is called; those
after it do not wait for it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from featurestore.errors import StoreBusy
from featurestore.event_time import duration_us, to_us
from featurestore.monitor import cron, execution, monitors
from featurestore.monitor.sources import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from featurestore.monitor.execution import Execution
    from featurestore.monitor.monitors import Monitor
    from featurestore.store import FeatureStore

ATTEMPTS_MAX = 3


def run_due(
    store: FeatureStore,
    name: str | None = None,
    *,
    on_violation: Callable[[dict[str, Any]], Any] | None = None,
) -> list[Execution]:
    """Run every window that is due by the store's clock; a monitor that somebody runs is left out.

    Parameters
    ----------
    name : str, optional
        Only of this monitor.
    on_violation : callable, optional
        Called with the message of each window with violations.

    Returns
    -------
    list of Execution
        Those run here, in the order they were.
    """
    chosen = monitors.list_monitors(store) if name is None else [monitors.describe(store, name)]
    found: list[Execution] = []
    for monitor in chosen:
        if not monitor.schedule:
            continue
        try:
            with execution.locked(store, monitor.name, wait=False):
                found += _run_due(store, monitor, on_violation)
        except StoreBusy:
            continue
    return found


def _run_due(
    store: FeatureStore,
    monitor: Monitor,
    on_violation: Callable[[dict[str, Any]], Any] | None,
) -> Iterator[Execution]:
    from featurestore.monitor import alerts

    alerts.deliver(store, monitor.name, monitors.now_us(store))
    for window in due(store, monitor, monitors.now_us(store)):
        ran, message = execution.run_locked(store, monitor, window, scheduled=True)
        if ran.replayed:
            continue
        if on_violation is not None and message is not None and ran.violated:
            on_violation(message)
        yield ran


def due(store: FeatureStore, monitor: Monitor, now_us: int) -> list[Window]:
    """Return the windows that are due and not done, oldest first."""
    rows = store.sql(
        "SELECT window_start, window_end, status, attempts FROM latest.monitor_executions "
        "WHERE monitor = ? AND scheduled",
        [monitor.name],
    ).to_pylist()
    unfinished = [
        Window(to_us(row["window_start"]), to_us(row["window_end"]))
        for row in rows
        if row["status"] not in execution.DONE and row["attempts"] < ATTEMPTS_MAX
    ]
    reached = max((to_us(row["window_end"]) for row in rows), default=None)
    return sorted(
        {*unfinished, *windows(monitor, reached, now_us - monitor.wait_us)},
        key=lambda window: (window.end_us, window.start_us),
    )


def windows(monitor: Monitor, after_us: int | None, until_us: int) -> Iterator[Window]:
    """Yield the windows of a schedule that end after a moment and not after another."""
    if monitor.schedule.strip().upper() == cron.NOW:
        length = monitor.window_us or 3_600_000_000
        if after_us is None and monitor.defined_us <= until_us:
            yield Window(monitor.defined_us - length, monitor.defined_us)
        return
    times = cron.parse(monitor.schedule)
    before = monitor.start_us if after_us is None else after_us
    at = times.next_after(before - 1 if after_us is None else before)
    if monitor.window_us is None and after_us is None:
        # The first moment only starts the first window.
        before, at = at or before, None if at is None else times.next_after(at)
    while at is not None and at <= until_us:
        start = before if monitor.window_us is None else at - monitor.window_us
        if start >= monitor.start_us:
            yield Window(start, at)
        before, at = at, times.next_after(at)


def last_window(monitor: Monitor, now_us: int) -> Window | None:
    """Return the last whole window of a monitor's schedule; None without a schedule."""
    if not monitor.schedule:
        return None
    found = None
    for window in windows(monitor, None, now_us):
        found = window
    return found


def serve(
    store: FeatureStore,
    *,
    poll: str | timedelta = "30s",
    stop: threading.Event | None = None,
    on_violation: Callable[[dict[str, Any]], Any] | None = None,
    on_run: Callable[[Execution], Any] | None = None,
) -> None:
    """Run what is due, again and again, until told to stop; any number of processes may.

    Parameters
    ----------
    poll : str or timedelta
        How often to look.
    stop : threading.Event, optional
        Set it to end; the window being run is finished first.  A process that is killed instead
        leaves nothing behind that the next one would trip over.
    on_run : callable, optional
        Called with each execution.
    """
    ended = stop or threading.Event()
    seconds = duration_us(poll, what="poll") / 1e6
    while not ended.is_set():
        for ran in run_due(store, on_violation=on_violation):
            if on_run is not None:
                on_run(ran)
        ended.wait(seconds)
