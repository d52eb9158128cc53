"""Executions: one monitor, one window, once.

::

    lock of the monitor ──► done already? ──► yes: what it found then
      │                         │ no
      │                     InProgress                                   one put
      │                         │
      │                     read the window, measure, compare            the work: nothing is
      │                         │                                        changed, it may be killed
      │                     files in the vendor's shapes
      │                         │
      │                     metrics, execution, alerts                   one transaction
      ▼                         │
    released                deliver alerts

**Never twice.**  An execution is keyed (monitor, window).  Whoever runs one holds the monitor's
lock, an flock, which the kernel frees when its process dies, however it dies; looks, holding it,
whether the window is done; and writes its results in one transaction under a request id.  So of two
processes one works and the other is given what was found, and a killed one leaves at most an
``InProgress``, which the next to come takes up at once.

``again=True`` runs a window another time on purpose, after labels came in: a new version of the
same results, the old ones in ``history.``
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, StoreBusy, UnknownFeatureGroup
from featurestore.event_time import to_datetime, to_us
from featurestore.monitor import alerts, formats, monitors, sources
from featurestore.monitor.drift import Metric
from featurestore.monitor.formats import STATISTICS, VIOLATIONS
from featurestore.monitor.kinds import Asked, Measured, measure
from featurestore.monitor.sources import Window, window_of
from featurestore.storage import files

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.monitor.monitors import Monitor
    from featurestore.store import FeatureStore

COMPLETED = "Completed"
VIOLATED = "CompletedWithViolations"
FAILED = "Failed"
IN_PROGRESS = "InProgress"
DONE = (COMPLETED, VIOLATED)
TOLD_MAX = 20
"""Violations in an alert: a message is read by people, and the rest is in the store."""


@dataclass(frozen=True)
class Execution:
    """What became of one window.

    Attributes
    ----------
    status : str
        ``Completed``, ``CompletedWithViolations``, ``Failed`` or ``InProgress``.
    rows : int
        Rows of the window.
    violations : list of dict
        In Model Monitor's form.
    metrics : list of Metric
        Empty where the execution is told from its record.
    replayed : bool
        It had been run before; this is what was found then.
    error : str
        Why it failed.
    """

    monitor: str
    kind: str
    window: Window
    status: str
    rows: int = 0
    violations: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list, repr=False)
    attempts: int = 1
    replayed: bool = False
    error: str = ""

    @property
    def violated(self) -> bool:
        """Whether a constraint was broken."""
        return bool(self.violations)


def run(
    store: FeatureStore,
    name: str,
    window: Any = None,
    *,
    again: bool = False,
    on_violation: Callable[[dict[str, Any]], Any] | None = None,
) -> Execution:
    """Run a monitor over a window, unless that is done.

    Parameters
    ----------
    name : str
        Of the monitor.
    window : pair of moments, optional
        Start and end; by default the last whole one of its schedule.
    again : bool
        Also if it is done: a new version of its results.
    on_violation : callable, optional
        Called with the alert's message if there are violations, whatever the rules say.

    Raises
    ------
    InvalidInput
        No such monitor; no window; a source or a baseline that will not do.

    Examples
    --------
    >>> import featurestore as fs, tempfile
    >>> from featurestore.monitor import create
    >>> store = fs.open(tempfile.mkdtemp())
    >>> _ = store.create_feature_group("g", record_identifier="k", event_time="t",
    ...                                features={"k": "int64", "t": "timestamp"})
    >>> _ = store.put_record("g", {"k": 1, "t": "2013-11-01T00:30Z"})
    >>> _ = create(store, "g-volume", kind="volume", source="group:g", min_rows=2)
    >>> found = run(store, "g-volume", ("2013-11-01T00:00Z", "2013-11-01T01:00Z"))
    >>> found.status, found.violations[0]["constraint_check_type"]
    ('CompletedWithViolations', 'volume_check')
    >>> store.close()
    """
    monitor = monitors.describe(store, name)
    asked = window_of(window) if window is not None else _last_window(store, monitor)
    with locked(store, name):
        found, message = run_locked(store, monitor, asked, again=again)
    if found.status == FAILED:
        raise InvalidInput(f"{name} over {asked} failed: {found.error}")
    if on_violation is not None and message is not None and not found.replayed and found.violated:
        on_violation(message)
    return found


def _last_window(store: FeatureStore, monitor: Monitor) -> Window:
    from featurestore.monitor import schedule

    found = schedule.last_window(monitor, monitors.now_us(store))
    if found is None:
        raise InvalidInput(f"{monitor.name} has no schedule: give window=(start, end).")
    return found


@contextmanager
def locked(store: FeatureStore, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a monitor's lock.

    Raises
    ------
    StoreBusy
        Somebody else holds it, and one was not to wait.
    """
    path = store.path / "locks" / f"monitor-{name}"
    lock = files.FileLock.acquire(path) if wait else files.FileLock.try_acquire(path)
    if lock is None:
        raise StoreBusy(f'"{name}" is being run by another process or thread.')
    try:
        yield
    finally:
        lock.release()


def run_locked(
    store: FeatureStore,
    monitor: Monitor,
    window: Window,
    *,
    again: bool = False,
    scheduled: bool = False,
) -> tuple[Execution, dict[str, Any] | None]:
    """Run a window of a monitor whose lock is held; returns the message of an alert beside it."""
    before = record_of(store, monitor.name, window)
    if before is not None and before["status"] in DONE and not again:
        if scheduled and not before["scheduled"]:
            _note(store, before, scheduled=True)
        return execution_of(before, replayed=True), None
    now_us = monitors.now_us(store)
    attempts = 1 if before is None or before["status"] in DONE else before["attempts"] + 1
    record = {
        "monitor": monitor.name,
        "window_start": window.start,
        "window_end": window.end,
        "updated_at": _after(before, now_us),
        "kind": monitor.kind,
        "status": IN_PROGRESS,
        "scheduled": scheduled or bool(before and before["scheduled"]),
        "attempts": attempts,
        "started_at": to_datetime(now_us),
        "seq": store.snapshot(),
    }
    store.put_record(monitors.EXECUTIONS, record)
    try:
        measured = _measure(store, monitor, window, now_us)
    except Exception as failure:  # noqa: BLE001  a user's function may raise anything
        said = f"{type(failure).__name__}: {failure}"
        failed = _note(store, record, status=FAILED, error=said)
        return execution_of(failed), None
    _write_files(store, monitor, window, measured)
    return _publish(store, monitor, window, measured, record)


def _measure(store: FeatureStore, monitor: Monitor, window: Window, now_us: int) -> Measured:
    asked = Asked(
        store,
        sources.source_of(monitor.source),
        window,
        monitors.baseline_of(store, monitor),
        monitor.settings,
        now_us,
    )
    return measure(monitor.kind, asked)


def window_folder(store: FeatureStore, name: str, window: Window) -> Path:
    """Return the folder of a window's files."""
    start, end = (f"{moment:%Y%m%dT%H%M%SZ}" for moment in (window.start, window.end))
    return monitors.folder_of(store, name) / f"{start}-{end}"


def _write_files(store: FeatureStore, monitor: Monitor, window: Window, measured: Measured) -> None:
    folder = window_folder(store, monitor.name, window)
    violations = formats.violations_file(measured.violations, measured.version)
    formats.write_json(folder / VIOLATIONS, violations)
    if measured.statistics:
        name = "analysis.json" if monitor.kind == "bias" else STATISTICS
        formats.write_json(folder / name, measured.statistics)


def _publish(
    store: FeatureStore,
    monitor: Monitor,
    window: Window,
    measured: Measured,
    record: dict[str, Any],
) -> tuple[Execution, dict[str, Any]]:
    """Write all results in one transaction, then tell whoever is to be told."""
    now_us = monitors.now_us(store)
    violations = measured.violations
    status = VIOLATED if violations else COMPLETED
    done = record | {
        "updated_at": _after(record, now_us),
        "status": status,
        "rows": measured.rows,
        "violations": len(violations),
        "violations_json": json.dumps(violations, ensure_ascii=False),
    }
    message = _message(monitor, window, status, measured)
    sent = alerts.due(store, monitor, message, window.end_us, now_us)
    rows = [
        (monitors.METRICS, _metric_record(monitor, window, metric)) for metric in measured.metrics
    ]
    written = [*rows, (monitors.EXECUTIONS, done), *((monitors.ALERTS, one) for one in sent)]
    request = f"monitor:{monitor.name}:{window}:{to_us(done['updated_at'])}"
    store.write(written, request_id=request)
    if sent or monitor.alerts:
        alerts.deliver(store, monitor.name, now_us)
        alerts.write_prometheus(store, monitor)
    found = Execution(
        monitor.name,
        monitor.kind,
        window,
        status,
        measured.rows,
        violations,
        measured.metrics,
        record["attempts"],
    )
    return found, message


def _metric_record(monitor: Monitor, window: Window, metric: Metric) -> dict[str, Any]:
    return {
        "monitor": monitor.name,
        "feature": metric.feature,
        "metric": metric.metric,
        "window_start": window.start,
        "window_end": window.end,
        "value": float(metric.value),
        "threshold": None if metric.threshold is None else float(metric.threshold),
        "flagged": bool(metric.flagged),
    }


def _message(monitor: Monitor, window: Window, status: str, measured: Measured) -> dict[str, Any]:
    start, end = str(window).split("/")
    return {
        "id": f"{monitor.name}/{window}",
        "monitor": monitor.name,
        "kind": monitor.kind,
        "source": monitor.source,
        "window_start": start,
        "window_end": end,
        "status": status,
        "rows": measured.rows,
        "violation_count": len(measured.violations),
        "violations": measured.violations[:TOLD_MAX],
        "flagged": [
            {
                "feature": metric.feature,
                "metric": metric.metric,
                "value": metric.value if math.isfinite(metric.value) else str(metric.value),
                "threshold": metric.threshold,
            }
            for metric in measured.metrics
            if metric.flagged
        ][:TOLD_MAX],
    }


# ── records of executions ────────────────────────────────────────────────────────────────────


def record_of(store: FeatureStore, name: str, window: Window) -> dict[str, Any] | None:
    """Return the latest record of a window's execution."""
    key = {"monitor": name, "window_start": window.start, "window_end": window.end}
    found: dict[str, Any] | None = store.get_record(monitors.EXECUTIONS, key)
    return found


def execution_of(record: Mapping[str, Any], *, replayed: bool = False) -> Execution:
    """Return an execution as its record tells it."""
    return Execution(
        record["monitor"],
        record["kind"],
        Window(to_us(record["window_start"]), to_us(record["window_end"])),
        record["status"],
        record.get("rows") or 0,
        json.loads(record.get("violations_json") or "[]"),
        [],
        record["attempts"],
        replayed,
        record.get("error") or "",
    )


def list_executions(store: FeatureStore, name: str | None = None) -> list[Execution]:
    """Return what became of each window, oldest first.

    Parameters
    ----------
    name : str, optional
        Of one monitor; of all without it.
    """
    where, values = ("", []) if name is None else ("WHERE monitor = ?", [name])
    query = (
        f"SELECT * FROM latest.monitor_executions {where} "  # noqa: S608  a constant
        "ORDER BY window_end, window_start, monitor"
    )
    try:
        rows = store.sql(query, values)
    except UnknownFeatureGroup:
        return []
    return [execution_of(row) for row in rows.to_pylist()]


def _note(store: FeatureStore, record: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    now_us = monitors.now_us(store)
    changed = {**record, **changes, "updated_at": _after(record, now_us)}
    store.put_record(monitors.EXECUTIONS, changed)
    return changed


def _after(record: Mapping[str, Any] | None, now_us: int) -> Any:
    """Return now, or the moment after a record's where the clock has not moved: it is newer."""
    if record is None:
        return to_datetime(now_us)
    return to_datetime(max(now_us, to_us(record["updated_at"]) + 1))
