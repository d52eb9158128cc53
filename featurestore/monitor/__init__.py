"""Monitoring: what healthy data looks like, how far today's is from it, and who is told.

Functions that take a store::

    from featurestore import monitor

    october = ("2013-10-01T00:00Z", "2013-11-01T00:00Z")
    healthy = monitor.baseline(store, "group:weather", window=october, every="7d")
    monitor.create(store, "weather-drift", kind="drift", source="group:weather", baseline=healthy,
                   schedule="cron(0 0 ? * MON *)", alerts=[{"to": "file", "path": "alerts.jsonl"}])
    monitor.run_due(store)                                   # or: featurestore monitor due --watch
    store.sql("SELECT window_end, feature, value FROM monitor_metrics WHERE metric = 'psi'")
    monitor.report(store, "weather-drift", "report.html")

======================  =========================================================================
:mod:`.sources`         windows of groups, captured requests, files, functions
:mod:`.columns`         one column of a window, summed up
:mod:`.baselines`       a healthy period, and constraints that it keeps
:mod:`.formats`         Model Monitor's files
:mod:`.data_quality`    the six checks          :mod:`.drift`        distances and tests
:mod:`.model_quality`   predictions, labels     :mod:`.bias`         Clarify's metrics
:mod:`.attribution`     NDCG                    :mod:`.watch`        the store itself
:mod:`.kinds`           what each kind of monitor measures
:mod:`.monitors`        definitions, and the four groups results are kept in
:mod:`.execution`       one monitor, one window, once
:mod:`.cron`            expressions             :mod:`.schedule`     what is due
:mod:`.alerts`          who is told
:mod:`.reports`         a page for people       :mod:`.svg`          its drawings
======================  =========================================================================
"""

from __future__ import annotations

from featurestore.monitor.alerts import prometheus_text
from featurestore.monitor.baselines import Baseline
from featurestore.monitor.execution import Execution, list_executions, run
from featurestore.monitor.kinds import baseline
from featurestore.monitor.monitors import Monitor, create, delete, describe, list_monitors
from featurestore.monitor.reports import moved_features, report
from featurestore.monitor.schedule import run_due, serve
from featurestore.monitor.sources import Window

__all__ = [
    "Baseline",
    "Execution",
    "Monitor",
    "Window",
    "baseline",
    "create",
    "delete",
    "describe",
    "list_executions",
    "list_monitors",
    "moved_features",
    "prometheus_text",
    "report",
    "run",
    "run_due",
    "serve",
]
