"""What a monitor sees in the flights: autumn becomes winter, and the features move.

October is the baseline; the weeks of November and December are compared with it, as a schedule
would have done it every Monday.  Nothing is staged: the weather gets colder, and the holidays bring
delays.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from featurestore import monitor

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.store import FeatureStore

OCTOBER = (datetime(2013, 10, 1, 4, tzinfo=UTC), datetime(2013, 11, 1, 4, tzinfo=UTC))
EVERY_MONDAY = "cron(0 5 ? * MON *)"  # midnight in New York, in winter
WATCHED = {"weather-drift": "origin_weather", "plane-drift": "plane_state"}
LEFT_OUT = ("flight",)
"""A flight's number is a name that looks like a quantity."""


@dataclass(frozen=True)
class Watched:
    """What was found, for whoever wants to check it.

    Attributes
    ----------
    executions : list of monitor.Execution
        One for each week and monitor.
    moved : dict of str to list of (feature, since, thresholds)
        By monitor, the most moved first.
    own_period : list of monitor.Execution
        The baselines' own period, which must raise no alarm.
    """

    executions: list[monitor.Execution]
    moved: dict[str, list[tuple[str, Any, float]]]
    own_period: list[monitor.Execution]


def watch(store: FeatureStore, report_to: Path | None = None) -> Watched:
    """Watch the flights of a store, whose clock stands at the end of the year.

    Parameters
    ----------
    report_to : path, optional
        A folder for the reports.
    """
    own, moved = [], {}
    ran: list[monitor.Execution] = []
    for name, group in WATCHED.items():
        known = store.describe_feature_group(group).value_features
        features = [feature.name for feature in known if feature.name not in LEFT_OUT]
        healthy = monitor.baseline(
            store, f"group:{group}", window=OCTOBER, every="7d", features=features
        )
        monitor.create(
            store,
            name,
            kind="drift",
            source=f"group:{group}",
            baseline=healthy,
            schedule=EVERY_MONDAY,
            start=OCTOBER[1],
            replace=True,
        )
        own.append(monitor.run(store, name, OCTOBER))
        ran += monitor.run_due(store, name)
        moved[name] = monitor.moved_features(store, name)
        if report_to is not None:
            monitor.report(store, name, report_to / f"{name}.html")
    return Watched(ran, moved, own)
