"""Alerts: who is told of violations, when, and when not again.

A rule is a mapping, kept with the monitor::

    {"to": "webhook", "url": "https://...", "cooldown": "1d", "consecutive": 2}
    {"to": "file", "path": "/var/log/alerts.jsonl"}
    {"to": "function", "function": "my_module:my_function"}
    {"to": "prometheus", "path": "/var/lib/node_exporter/monitor.prom"}

===============  ============================================================================
``consecutive``  only when so many windows in a row, this one the last, had violations; 1
``cooldown``     not within this time, by the store's clock, of the last alert to this target
``muted_until``  not before this moment
===============  ============================================================================

**An alert is a record first.**  It is written with the results it is about, in their transaction,
as ``pending``, then delivered, then marked.  So a process that dies in between leaves an alert that
the next run delivers; and one that dies after the delivery, before the mark, sends it twice:
``id`` tells.  After five failures it is ``failed``.  Prometheus is no event: its file is written
anew after every run.
"""

from __future__ import annotations

import json
import math
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, UnknownFeatureGroup, did_you_mean
from featurestore.event_time import duration_us, to_datetime, to_us
from featurestore.monitor.sources import function_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurestore.monitor.monitors import Monitor
    from featurestore.store import FeatureStore

TARGETS = {"webhook": "url", "file": "path", "function": "function", "prometheus": "path"}
ATTEMPTS_MAX = 5
WEBHOOK_SECONDS = 10.0
PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"


def checked_rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule with its defaults, or say what is wrong with it.

    Examples
    --------
    >>> checked_rule({"to": "file", "path": "/tmp/alerts.jsonl", "cooldown": "1h"})["cooldown_us"]
    3600000000
    """
    to = rule.get("to")
    if to not in TARGETS:
        raise InvalidInput(
            f'Alerts go to "webhook", "file", "function" or "prometheus"; got {to!r}.'
        )
    where = TARGETS[to]
    known = {"to", where, "cooldown", "consecutive", "muted_until"}
    for name in rule:
        if name not in known:
            raise InvalidInput(
                f'A rule for "{to}" has no "{name}".{did_you_mean(str(name), known)}'
            )
    target = rule.get(where)
    if not isinstance(target, str | Path) or not str(target):
        raise InvalidInput(f'A rule for "{to}" needs {where}=.')
    text = str(target)
    if to == "function":
        function_named(text)
    if to == "webhook" and not text.startswith(("http://", "https://")):
        raise InvalidInput(f'"{text}" is no address of a webhook: it starts with https://.')
    if where == "path":
        text = str(Path(text).expanduser().absolute())
    consecutive = rule.get("consecutive", 1)
    if not isinstance(consecutive, int) or consecutive < 1:
        raise InvalidInput(f"consecutive= counts windows, from 1; got {consecutive!r}.")
    muted = rule.get("muted_until")
    return {
        "to": to,
        where: text,
        "cooldown_us": duration_us(rule.get("cooldown", "0s"), what="cooldown"),
        "consecutive": consecutive,
        "muted_until_us": None if muted is None else to_us(muted, what="muted_until"),
    }


def target_of(rule: Mapping[str, Any]) -> str:
    """Return who a rule tells, in one word."""
    return f"{rule['to']}:{rule[TARGETS[rule['to']]]}"


# ── deciding ─────────────────────────────────────────────────────────────────────────────────


def due(
    store: FeatureStore, monitor: Monitor, message: Mapping[str, Any], end_us: int, now_us: int
) -> list[dict[str, Any]]:
    """Return the alerts that a window with violations calls for, as records to be written.

    Parameters
    ----------
    message : mapping
        What is told; without violations there is nothing to tell.
    end_us : int
        The end of the window.
    """
    found: list[dict[str, Any]] = []
    if not message["violation_count"]:
        return found
    for rule in monitor.alerts:
        if rule["to"] == "prometheus":
            continue
        muted = rule["muted_until_us"]
        if muted is not None and now_us < muted:
            continue
        if not _in_a_row(store, monitor, rule["consecutive"], end_us):
            continue
        if _cooling(store, monitor, rule, now_us):
            continue
        found.append(
            {
                "monitor": monitor.name,
                "target": target_of(rule),
                "window_start": message["window_start"],
                "window_end": message["window_end"],
                "updated_at": to_datetime(now_us),
                "status": PENDING,
                "attempts": 0,
                "message": json.dumps(message, ensure_ascii=False),
            }
        )
    return found


def _in_a_row(store: FeatureStore, monitor: Monitor, wanted: int, end_us: int) -> bool:
    """Return whether the windows before this one had violations too, as many as are wanted."""
    if wanted <= 1:
        return True
    before = store.sql(
        "SELECT violations FROM monitor_executions WHERE monitor = ? AND window_end < ? "
        "AND status IN ('Completed', 'CompletedWithViolations') QUALIFY row_number() OVER "
        "(PARTITION BY window_start, window_end ORDER BY updated_at DESC) = 1 "
        "ORDER BY window_end DESC LIMIT ?",
        [monitor.name, to_datetime(end_us), wanted - 1],
    )["violations"].to_pylist()
    return len(before) == wanted - 1 and all(before)


def _cooling(store: FeatureStore, monitor: Monitor, rule: Mapping[str, Any], now_us: int) -> bool:
    """Return whether the target was told a short while ago."""
    if not rule["cooldown_us"]:
        return False
    last = store.sql(
        "SELECT max(updated_at) AS last FROM monitor_alerts WHERE monitor = ? AND target = ? "
        "AND status = 'pending' AND attempts = 0",
        [monitor.name, target_of(rule)],
    )["last"][0].as_py()
    return last is not None and now_us - to_us(last) < rule["cooldown_us"]


# ── delivering ───────────────────────────────────────────────────────────────────────────────


def deliver(store: FeatureStore, monitor: str, now_us: int) -> int:
    """Deliver what is pending of a monitor; returns how many alerts went out."""
    delivered = 0
    for record in pending(store, monitor):
        to, _, where = record["target"].partition(":")
        attempts = record["attempts"] + 1
        status, error = DELIVERED, None
        try:
            _send(to, where, json.loads(record["message"]))
        except Exception as failure:  # noqa: BLE001  a receiver's fault must not stop the watch
            error = f"{type(failure).__name__}: {failure}"
            status = FAILED if attempts >= ATTEMPTS_MAX else PENDING
        delivered += status == DELIVERED
        at_us = max(now_us, to_us(record["updated_at"]) + 1)
        changes = {"status": status, "attempts": attempts, "error": error}
        store.put_record("monitor_alerts", {**record, **changes, "updated_at": to_datetime(at_us)})
    return delivered


def pending(store: FeatureStore, monitor: str) -> list[dict[str, Any]]:
    """Return the alerts of a monitor that nobody has been told yet, oldest window first."""
    try:
        return list(
            store.sql(
                "SELECT * FROM latest.monitor_alerts WHERE monitor = ? AND status = 'pending' "
                "ORDER BY window_end",
                [monitor],
            ).to_pylist()
        )
    except UnknownFeatureGroup:
        return []


def _send(to: str, where: str, message: Mapping[str, Any]) -> None:
    if to == "function":
        function_named(where)(dict(message))
    elif to == "file":
        line = json.dumps(message, ensure_ascii=False) + "\n"
        with Path(where).open("a", encoding="utf-8") as file:
            file.write(line)
    else:
        request = urllib.request.Request(  # noqa: S310  checked when the rule was made
            where,
            data=json.dumps(message).encode(),
            headers={"content-type": "application/json", "user-agent": "featurestore-monitor"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):  # noqa: S310
            pass


# ── Prometheus ───────────────────────────────────────────────────────────────────────────────

_GAUGES = {
    "featurestore_monitor_value": "The last value of a metric.",
    "featurestore_monitor_flagged": "1 if that value broke its threshold.",
    "featurestore_monitor_violations": "Violations in the last window.",
    "featurestore_monitor_window_end_seconds": "The end of the last window, Unix time.",
}


def prometheus_text(store: FeatureStore, monitor: str | None = None) -> str:
    """Return the latest results in Prometheus' text exposition format, version 0.0.4.

    Parameters
    ----------
    monitor : str, optional
        Only this one.
    """
    lines: dict[str, list[str]] = {name: [] for name in _GAUGES}
    where, values = ("", []) if monitor is None else ("WHERE monitor = ?", [monitor])
    try:
        metrics = store.sql(
            "SELECT monitor, feature, metric, value, flagged FROM latest.monitor_metrics "  # noqa: S608
            f"{where} ORDER BY ALL",
            values,
        ).to_pylist()
        windows = store.sql(
            "SELECT monitor, violations, window_end FROM latest.monitor_executions "  # noqa: S608
            f"{where} QUALIFY row_number() OVER (PARTITION BY monitor ORDER BY window_end DESC, "
            "window_start DESC) = 1 ORDER BY monitor",
            values,
        ).to_pylist()
    except UnknownFeatureGroup:
        metrics = windows = []
    for row in metrics:
        labels = _labels(monitor=row["monitor"], feature=row["feature"], metric=row["metric"])
        lines["featurestore_monitor_value"].append(f"{labels} {_value(row['value'])}")
        lines["featurestore_monitor_flagged"].append(f"{labels} {int(row['flagged'])}")
    for row in windows:
        labels = _labels(monitor=row["monitor"])
        end = row["window_end"].timestamp()
        lines["featurestore_monitor_violations"].append(f"{labels} {row['violations'] or 0}")
        lines["featurestore_monitor_window_end_seconds"].append(f"{labels} {end:.0f}")
    text = []
    for name, help_text in _GAUGES.items():
        text += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
        text += [f"{name}{line}" for line in lines[name]]
    return "\n".join(text) + "\n"


def _labels(**labels: str) -> str:
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def _value(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "NaN"
    return f"{value!r}" if math.isfinite(value) else "+Inf" if value > 0 else "-Inf"


def write_prometheus(store: FeatureStore, monitor: Monitor) -> None:
    """Write the files of a monitor's Prometheus rules, each whole or not at all."""
    for rule in monitor.alerts:
        if rule["to"] == "prometheus":
            path = Path(rule["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text(prometheus_text(store), encoding="utf-8")
            temporary.replace(path)
