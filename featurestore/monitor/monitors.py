"""Monitors: what is watched, how, when, and where its results are.

Everything a monitor knows is in the store, as four feature groups, made with the first monitor:

======================  =====================================  ===================================
group                   key                                    event time
======================  =====================================  ===================================
``monitors``            monitor                                ``defined_at``
``monitor_executions``  monitor, window_start, window_end      ``updated_at``
``monitor_metrics``     monitor, feature, metric               ``window_end``
``monitor_alerts``      monitor, target, window_end            ``updated_at``
======================  =====================================  ===================================

So history, charts and alerts are SQL, and joins can ask how far a feature had drifted when a
prediction was made::

    SELECT window_end, feature, value FROM monitor_metrics WHERE metric = 'psi' ORDER BY ALL
    SELECT * FROM latest.monitor_metrics WHERE flagged          -- what is wrong now
    SELECT * FROM history.monitor_metrics WHERE monitor = 'mq'  -- and before labels came in late

Baselines and Model Monitor's JSON files lie beside the store's own folders; a backup has them too::

    monitors/<name>/baseline-<digest>/     statistics.json, constraints.json, columns.arrow
    monitors/<name>/<window>/              statistics.json, constraint_violations.json
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, UnknownFeatureGroup, did_you_mean
from featurestore.event_time import duration_us, format_duration, format_us, to_datetime, to_us
from featurestore.monitor import alerts as alerting
from featurestore.monitor import cron, sources
from featurestore.monitor.baselines import Baseline
from featurestore.monitor.kinds import check_kind
from featurestore.schema import check_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from pathlib import Path

    from featurestore.store import FeatureStore

MONITORS = "monitors"
EXECUTIONS = "monitor_executions"
METRICS = "monitor_metrics"
ALERTS = "monitor_alerts"

_GROUPS: dict[str, tuple[tuple[str, ...], str, dict[str, str], str]] = {
    MONITORS: (
        ("monitor",),
        "defined_at",
        {"kind": "string", "source": "string", "definition": "string"},
        "Monitors: what is watched, and how",
    ),
    EXECUTIONS: (
        ("monitor", "window_start", "window_end"),
        "updated_at",
        {
            "window_start": "timestamp",
            "window_end": "timestamp",
            "kind": "string",
            "status": "string",
            "scheduled": "bool",
            "attempts": "int32",
            "rows": "int64",
            "violations": "int32",
            "violations_json": "string",
            "error": "string",
            "started_at": "timestamp",
            "seq": "int64",
        },
        "Executions of monitors, one for each window",
    ),
    METRICS: (
        ("monitor", "feature", "metric"),
        "window_end",
        {
            "feature": "string",
            "metric": "string",
            "window_start": "timestamp",
            "value": "float64",
            "threshold": "float64",
            "flagged": "bool",
        },
        "What monitors measured",
    ),
    ALERTS: (
        ("monitor", "target", "window_end"),
        "updated_at",
        {
            "target": "string",
            "window_end": "timestamp",
            "window_start": "timestamp",
            "status": "string",
            "attempts": "int32",
            "message": "string",
            "error": "string",
        },
        "Alerts of monitors, and whether they were delivered",
    ),
}


def now_us(store: FeatureStore) -> int:
    """Return the store's clock, which a caller may have set: all schedules go by it."""
    return store._now_us()  # noqa: SLF001  the one clock there is


def ensure_groups(store: FeatureStore) -> None:
    """Make the four groups, unless they are there."""
    for name, (key, event_time, features, description) in _GROUPS.items():
        columns = dict.fromkeys(key, "string") | features | {event_time: "timestamp"}
        store.create_feature_group(
            name,
            record_identifier=key,
            event_time=event_time,
            features=columns,
            description=description,
            tags={"part": "monitor"},
            max_future=None,  # a window may end when its schedule says, whatever the clock
            exist_ok=True,
        )


# ── definitions ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Monitor:
    """A monitor's definition.

    Attributes
    ----------
    name, kind, source : str
        ``kind`` is one of :data:`.KINDS` or ``"module:function"``.
    settings : dict
        Of the kind.
    baseline : str
        The folder of its baseline, below the monitor's; "" for none.
    schedule : str
        A cron expression, or "".
    window_us : int or None
        The length of a window; None for the time between two moments of the schedule.
    wait_us : int
        How long after its end a window is run: for labels and late records to come in.
    start_us : int
        The first window starts no earlier.
    alerts : list of dict
        Rules; see :mod:`featurestore.monitor.alerts`.
    defined_us : int
        When.
    """

    name: str
    kind: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    baseline: str = ""
    schedule: str = ""
    window_us: int | None = None
    wait_us: int = 0
    start_us: int = 0
    alerts: list[dict[str, Any]] = field(default_factory=list)
    defined_us: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def facts(self) -> dict[str, str]:
        """Return what people want to know, in words."""
        return {
            "kind": self.kind,
            "source": self.source,
            "schedule": self.schedule or "by hand",
            "window": "of the schedule"
            if self.window_us is None
            else format_duration(self.window_us),
            "wait": format_duration(self.wait_us),
            "settings": json.dumps(self.settings),
            "alerts": ", ".join(alerting.target_of(rule) for rule in self.alerts),
            "defined": format_us(self.defined_us),
        }


def folder_of(store: FeatureStore, name: str) -> Path:
    """Return the folder of a monitor's files."""
    return store.path / "monitors" / name


def create(
    store: FeatureStore,
    name: str,
    *,
    kind: str,
    source: Any,
    baseline: Baseline | str | Path | None = None,
    schedule: str = "",
    window: str | timedelta | None = None,
    wait: str | timedelta = "0s",
    start: Any = None,
    alerts: Sequence[Mapping[str, Any]] = (),
    replace: bool = False,
    **settings: Any,
) -> Monitor:
    """Define a monitor.

    Parameters
    ----------
    name : str
        Letters, digits, ``_`` and ``-``.
    kind : str
        ``"data_quality"``, ``"drift"``, ``"model_quality"``, ``"bias"``, ``"attribution"``,
        ``"skew"``, ``"freshness"``, ``"volume"``, ``"schema"``, or a check of your own as
        ``"module:function"``.
    source : str, path or function
        ``"group:NAME"``, ``"capture:FOLDER"``, ``"files:FOLDER"`` or ``"module:function"``.
    baseline : Baseline or path, optional
        From :func:`featurestore.monitor.baseline`, or a folder with Model Monitor's two files.
    schedule : str, optional
        ``"cron(0 * ? * * *)"`` and the like; without it windows are run by hand.
    window : str or timedelta, optional
        How long a window is that ends at a moment of the schedule; since the moment before when
        left out.
    wait : str or timedelta
        How long after its end a window is run.  Of labels that come late, at least the horizon.
    start : moment, optional
        Where the first window starts; now when left out.
    alerts : sequence of mapping
        ``{"to": "webhook", "url": ..., "cooldown": "1d", "consecutive": 2}``: see
        :mod:`featurestore.monitor.alerts`.
    replace : bool
        Take the place of a monitor of this name; what it measured stays.
    settings
        Of the kind: ``thresholds=``, ``label=``, ``horizon=``, ``max_age=``, ...

    Raises
    ------
    InvalidInput
        For what cannot be, and for a name that is taken.

    Examples
    --------
    >>> import featurestore as fs, tempfile
    >>> store = fs.open(tempfile.mkdtemp())
    >>> _ = store.create_feature_group("g", record_identifier="k", event_time="t",
    ...                                features={"k": "int64", "t": "timestamp", "x": "float64"})
    >>> found = create(store, "g-fresh", kind="freshness", source="group:g", max_age="2h",
    ...                schedule="cron(0 * ? * * *)")
    >>> describe(store, "g-fresh").schedule
    'cron(0 * ? * * *)'
    >>> store.close()
    """
    check_name(name, "monitor")
    check_kind(kind, settings)
    asked = sources.source_of(source)
    asked.require_lasting()
    if asked.kind == "group":
        store.describe_feature_group(asked.name)  # or say what there is
    if schedule and schedule.strip().upper() != cron.NOW:
        cron.parse(schedule)
    _require_json(settings)
    ensure_groups(store)
    if not replace and name in {monitor.name for monitor in list_monitors(store)}:
        raise InvalidInput(f'There is a monitor "{name}"; give replace=True to take its place.')
    now = now_us(store)
    kept = "" if baseline is None else _keep(store, name, baseline)
    horizon_us = duration_us(settings["horizon"], what="horizon") if "horizon" in settings else 0
    monitor = Monitor(
        name,
        kind,
        asked.text,
        dict(settings),
        kept,
        schedule,
        None if window is None else duration_us(window, what="window"),
        max(duration_us(wait, what="wait"), horizon_us),
        now if start is None else to_us(start, what="start"),
        [alerting.checked_rule(rule) for rule in alerts],
        now,
    )
    _put(store, monitor)
    return monitor


def _put(store: FeatureStore, monitor: Monitor) -> None:
    record = {
        "monitor": monitor.name,
        "defined_at": to_datetime(monitor.defined_us),
        "kind": monitor.kind,
        "source": monitor.source,
        "definition": json.dumps(monitor.to_json()),
    }
    store.put_record(MONITORS, record)


def _require_json(settings: Mapping[str, Any]) -> None:
    try:
        json.dumps(dict(settings))
    except TypeError as error:
        raise InvalidInput(f"Settings of a monitor are plain values: {error}.") from error


def _keep(store: FeatureStore, name: str, baseline: Baseline | str | Path) -> str:
    """Copy a baseline to the monitor's folder; returns the name of its own."""
    from featurestore.monitor.formats import STATISTICS

    found = baseline if isinstance(baseline, Baseline) else Baseline.load(baseline)
    content = json.dumps([found.statistics, found.constraints, found.about], sort_keys=True)
    digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    folder = folder_of(store, name) / f"baseline-{digest}"
    if not (folder / STATISTICS).exists():
        making = folder.with_name(f"making-{digest}")
        shutil.rmtree(making, ignore_errors=True)
        found.save(making)
        making.rename(folder)
    return folder.name


def describe(store: FeatureStore, name: str) -> Monitor:
    """Return a monitor.

    Raises
    ------
    InvalidInput
        When there is none of that name.
    """
    try:
        record = store.get_record(MONITORS, name)
    except UnknownFeatureGroup:
        record = None
    if record is None:
        known = [monitor.name for monitor in list_monitors(store)]
        raise InvalidInput(f'There is no monitor "{name}".{did_you_mean(name, known)}')
    return Monitor(**json.loads(record["definition"]))


def list_monitors(store: FeatureStore) -> list[Monitor]:
    """Return all monitors, by name."""
    try:
        records = list(store.scan(MONITORS, ["definition"]))
    except UnknownFeatureGroup:
        return []
    found = [Monitor(**json.loads(record["definition"])) for record in records]
    return sorted(found, key=lambda monitor: monitor.name)


def delete(store: FeatureStore, name: str) -> None:
    """Stop watching; what was measured stays."""
    monitor = describe(store, name)
    at = max(now_us(store), monitor.defined_us + 1)
    store.delete_record(MONITORS, name, event_time=to_datetime(at))


def baseline_of(store: FeatureStore, monitor: Monitor) -> Baseline | None:
    """Return a monitor's baseline."""
    if not monitor.baseline:
        return None
    return Baseline.load(folder_of(store, monitor.name) / monitor.baseline)
