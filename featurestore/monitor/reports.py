"""The report: one HTML page for people, complete in itself.

What it says, from the top: the verdict; **what moved and when it began**; every feature in every
window, as a picture; then, for each feature that moved and folded away for the others, its
distribution then and now and its drift over time; the last violations; and SQL that leads on to
the rows.  It needs no network, no script and no library, and follows the reader's light or dark
setting.  Everything shown is read from the store and the monitor's files, so a page can be made
anew of any moment that was watched.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput
from featurestore.event_time import to_datetime, to_us
from featurestore.monitor import baselines, execution, formats, monitors, svg
from featurestore.monitor.columns import Column, Number, Text
from featurestore.monitor.formats import STATISTICS
from featurestore.monitor.sources import Window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from featurestore.monitor.baselines import Baseline
    from featurestore.monitor.execution import Execution
    from featurestore.monitor.monitors import Monitor
    from featurestore.store import FeatureStore

BINS = 30
VALUES_SHOWN = 7
FEATURES_OPEN = 12
"""Features that moved are drawn at once, the most moved first; beyond these folded away."""


@dataclass(frozen=True)
class Series:
    """One metric of one feature, over the windows.

    Attributes
    ----------
    ends_us, values, flagged : list
        One of each for every window that has it, oldest first.
    threshold : float or None
        The last.
    """

    feature: str
    metric: str
    ends_us: list[int]
    values: list[float]
    flagged: list[bool]
    threshold: float | None

    def ratio(self, place: int = -1) -> float:
        """Return a value in thresholds; NaN where there is none."""
        if not self.threshold or math.isnan(self.values[place]):
            return math.nan
        return self.values[place] / self.threshold

    def began_us(self) -> int | None:
        """Return the end of the first of the flagged windows that last until now."""
        began = None
        for end_us, flagged in zip(reversed(self.ends_us), reversed(self.flagged), strict=True):
            if not flagged:
                break
            began = end_us
        return began


def report(
    store: FeatureStore,
    name: str,
    path: str | Path | None = None,
    *,
    until: Any = None,
) -> str:
    """Return a page about a monitor, and write it where it is asked to.

    Parameters
    ----------
    name : str
        Of the monitor.
    path : path, optional
        A file to write.
    until : moment, optional
        As of the last window that ended by then.

    Raises
    ------
    InvalidInput
        When nothing was run yet.
    """
    monitor = monitors.describe(store, name)
    limit = None if until is None else to_us(until, what="until")
    ran = [
        one
        for one in execution.list_executions(store, name)
        if one.status in execution.DONE and (limit is None or one.window.end_us <= limit)
    ]
    if not ran:
        raise InvalidInput(f'"{name}" has not been run yet: there is nothing to report.')
    page = _page(store, monitor, ran)
    if path is not None:
        Path(path).expanduser().write_text(page, encoding="utf-8")
    return page


def moved_features(store: FeatureStore, name: str) -> list[tuple[str, Any, float]]:
    """Return what has moved: feature, when it began, and by how many thresholds, most first.

    Began is the start of the first of the windows, without a break until the last, in which one
    of the feature's metrics was flagged.
    """
    ran = [one for one in execution.list_executions(store, name) if one.status in execution.DONE]
    if not ran:
        return []
    starts = {one.window.end_us: one.window.start_us for one in ran}
    found = []
    for feature, series in _by_feature(_series(store, name, ran[-1].window.end_us)).items():
        began = _began(series)
        if began is not None:
            worst = max((r for s in series if not math.isnan(r := s.ratio())), default=math.nan)
            found.append((feature, to_datetime(starts.get(began, began)), worst))
    return sorted(found, key=lambda row: -row[2])


# ── what there is ────────────────────────────────────────────────────────────────────────────


def _series(store: FeatureStore, name: str, until_us: int) -> list[Series]:
    rows = store.sql(
        "SELECT feature, metric, window_end, value, threshold, flagged FROM monitor_metrics "
        "WHERE monitor = ? AND window_end <= ? ORDER BY feature, metric, window_end",
        [name, to_datetime(until_us)],
    ).to_pylist()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["feature"], row["metric"]), []).append(row)
    return [
        Series(
            feature,
            metric,
            [to_us(row["window_end"]) for row in listed],
            [math.nan if row["value"] is None else row["value"] for row in listed],
            [bool(row["flagged"]) for row in listed],
            listed[-1]["threshold"],
        )
        for (feature, metric), listed in found.items()
    ]


def _by_feature(series: Sequence[Series]) -> dict[str, list[Series]]:
    found: dict[str, list[Series]] = {}
    for one in series:
        found.setdefault(one.feature, []).append(one)
    return found


def _began(series: Sequence[Series]) -> int | None:
    """Return since when some metric of a feature is flagged, until the last window with rows."""
    flagged = {
        end_us
        for one in series
        for end_us, is_flagged in zip(one.ends_us, one.flagged, strict=True)
        if is_flagged
    }
    began = None
    for end_us in sorted({end for one in series for end in one.ends_us}, reverse=True):
        if end_us not in flagged:
            break
        began = end_us
    return began


def _main(series: Sequence[Series]) -> Series | None:
    """Return the metric to draw of a feature: the one farthest over its threshold."""
    held = [one for one in series if one.threshold is not None and not _is_probability(one)]
    if not held:
        return None
    return max(held, key=lambda one: -1.0 if math.isnan(one.ratio()) else one.ratio())


def _is_probability(series: Series) -> bool:
    return series.metric.endswith("p_value") or series.metric == "p_adjusted"


# ── the page ─────────────────────────────────────────────────────────────────────────────────


def _page(store: FeatureStore, monitor: Monitor, ran: Sequence[Execution]) -> str:
    last = ran[-1]
    baseline = monitors.baseline_of(store, monitor)
    series = _series(store, monitor.name, last.window.end_us)
    full = next((one for one in reversed(ran) if one.rows), last)
    now = _columns_of_window(store, monitor, full.window)
    body = [_head(monitor, baseline, ran)]
    by_feature = _by_feature([one for one in series if one.feature])
    drifting = {
        feature: listed
        for feature, listed in by_feature.items()
        if baseline is not None and feature in baseline.columns
    }
    starts = {one.window.end_us: one.window.start_us for one in ran}
    if drifting and baseline is not None:
        began = {feature: _began(listed) for feature, listed in drifting.items()}
        order = sorted(
            drifting,
            key=lambda f: (began[f] is None, -_worst(drifting[f])),
        )
        body.append(_moved_table(drifting, order, began, starts, baseline.columns, now))
        body.append(_heat_section(drifting, order))
        body.append(_features_section(drifting, order, began, baseline.columns, now))
    others = [one for one in series if one.feature not in drifting]
    body.append(_metrics_section(others))
    body.append(_violations_section(last))
    body.append(_sql_section(monitor, last))
    title = html.escape(f"{monitor.name}: monitoring report")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _worst(series: Sequence[Series]) -> float:
    ratios = [one.ratio() for one in series if not _is_probability(one)]
    return max((ratio for ratio in ratios if not math.isnan(ratio)), default=0.0)


def _columns_of_window(store: FeatureStore, monitor: Monitor, window: Window) -> dict[str, Column]:
    path = execution.window_folder(store, monitor.name, window) / STATISTICS
    if not path.exists():
        return {}
    statistics = formats.read_json(path)
    return formats.columns_in(statistics) if "features" in statistics else {}


def _head(monitor: Monitor, baseline: Baseline | None, ran: Sequence[Execution]) -> str:
    last = ran[-1]
    violated = sum(one.violated for one in ran)
    verdict = (
        f"{len(last.violations)} violation{'s' if len(last.violations) != 1 else ''} in the last "
        "window"
        if last.violated
        else "No violations in the last window"
    )
    made_of = "none" if baseline is None else baselines.in_words(baseline.about)
    facts = [
        ("last window", _span(last.window)),
        ("rows", f"{last.rows:,}"),
        ("windows run", f"{len(ran)}, {violated} with violations"),
        ("source", monitor.source),
        ("baseline", made_of),
        ("schedule", monitor.schedule or "by hand"),
    ]
    listed = "".join(
        f"<div><dt>{html.escape(word)}</dt><dd>{html.escape(text)}</dd></div>"
        for word, text in facts
    )
    kind = "bad" if last.violated else "good"
    return (
        f"<header><p class='kind'>{html.escape(monitor.kind.replace('_', ' '))}</p>"
        f"<h1>{html.escape(monitor.name)}</h1><p class='verdict {kind}'>{verdict}</p>"
        f"<dl>{listed}</dl></header>"
    )


def _span(window: Window) -> str:
    start, end = window.start, window.end
    form = (
        "%-d %b %Y"
        if start.hour == end.hour == start.minute == end.minute == 0
        else ("%-d %b %Y %H:%M")
    )
    return f"{start:{form}} to {end:{form}} UTC"


def _moved_table(
    drifting: dict[str, list[Series]],
    order: Sequence[str],
    began: dict[str, int | None],
    starts: dict[int, int],
    then: Mapping[str, Column],
    now: dict[str, Column],
) -> str:
    rows = []
    for feature in order:
        end_us = began[feature]
        main = _main(drifting[feature])
        if end_us is None or main is None:
            continue
        since = to_datetime(starts.get(end_us, end_us))
        share = min(100.0, main.ratio() / 4 * 100)
        rows.append(
            f"<tr><td><a href='#{_anchor(feature)}'>{html.escape(feature)}</a></td>"
            f"<td>{since:%-d %b %Y %H:%M}</td>"
            f"<td>{html.escape(main.metric)} <b>{svg.short(main.values[-1])}</b> "
            f"<span class='muted'>of {svg.short(main.threshold or math.nan)}</span>"
            f"<div class='meter'><i style='width:{share:.0f}%'></i></div></td>"
            f"<td>{_change(then.get(feature), now.get(feature))}</td></tr>"
        )
    still = sum(began[feature] is None for feature in order)
    if not rows:
        return (
            "<section><h2>What moved</h2><p>Nothing. "
            f"All {still} features are as the baseline has them.</p></section>"
        )
    return (
        "<section><h2>What moved, and when it began</h2><div class='scroll'><table><thead><tr>"
        "<th>feature</th><th>since</th><th>how far</th><th>then → now</th></tr></thead><tbody>"
        f"{''.join(rows)}</tbody></table></div>"
        f"<p class='muted'>{still} other features have not moved. A feature has moved when a metric"
        " is beyond its threshold; since is the start of the first window without a break.</p>"
        "</section>"
    )


def _change(then: Column | None, now: Column | None) -> str:
    """Say in a few words what differs."""
    if isinstance(then, Number) and isinstance(now, Number):
        words = (
            f"median {svg.short(then.quantile(0.5))} → {svg.short(now.quantile(0.5))}, "
            f"mean {svg.short(then.mean)} → {svg.short(now.mean)}"
        )
        return html.escape(words)
    if isinstance(then, Text) and isinstance(now, Text):
        told = [f"{value} {a:.1%} → {b:.1%}" for value, a, b in _changed_values(then, now)[:3]]
        return html.escape(", ".join(told))
    return ""


def _changed_values(then: Text, now: Text) -> list[tuple[str, float, float]]:
    """Return values with their shares, those that changed most first."""
    n, m = sum(then.counts.values()) or 1, sum(now.counts.values()) or 1
    shares = [
        (value, then.counts.get(value, 0) / n, now.counts.get(value, 0) / m)
        for value in dict.fromkeys([*then.counts, *now.counts])
    ]
    return sorted(shares, key=lambda row: -abs(row[2] - row[1]))


def _heat_section(drifting: dict[str, list[Series]], order: Sequence[str]) -> str:
    ends = sorted({end for listed in drifting.values() for one in listed for end in one.ends_us})
    rows, flags = [], []
    for feature in order:
        held = [one for one in drifting[feature] if one.threshold and not _is_probability(one)]
        ratios, flagged = [], []
        for end in ends:
            places = [(one, one.ends_us.index(end)) for one in held if end in one.ends_us]
            found = [r for one, at in places if not math.isnan(r := one.ratio(at))]
            ratios.append(max(found, default=math.nan))
            flagged.append(any(one.flagged[at] for one, at in places))
        rows.append((feature, ratios))
        flags.append(flagged)
    return (
        "<section><h2>Every feature, every window</h2>"
        f"<div class='scroll heatmap'>{svg.heat(rows, ends, flags)}</div>"
        "<p class='muted'>Darker is nearer to the threshold; "
        "<span class='key alarm-key'></span> moved.</p></section>"
    )


def _features_section(
    drifting: dict[str, list[Series]],
    order: Sequence[str],
    began: dict[str, int | None],
    then: Mapping[str, Column],
    now: dict[str, Column],
) -> str:
    moved = [feature for feature in order if began[feature] is not None]
    shown = moved[:FEATURES_OPEN]
    folded = [feature for feature in order if feature not in shown]
    cards = {f: _card(f, drifting[f], then.get(f), now.get(f)) for f in order}
    parts = []
    if shown:
        key = (
            "<p class='muted'><span class='key then-key'></span> then, the baseline "
            "<span class='key now-key'></span> now, the last window "
            "<span class='key limit-key'></span> threshold</p>"
        )
        parts.append(
            f"<section><h2>Then and now</h2>{key}{''.join(cards[f] for f in shown)}</section>"
        )
    if folded:
        what = "The other features" if shown else "The features"
        parts.append(
            f"<section><details><summary>{what} ({len(folded)})</summary>"
            f"{''.join(cards[f] for f in folded)}</details></section>"
        )
    return "".join(parts)


def _card(feature: str, series: Sequence[Series], then: Column | None, now: Column | None) -> str:
    main = _main(series)
    drawings = []
    if (
        isinstance(then, Number)
        and isinstance(now, Number)
        and then.values.size
        and now.values.size
    ):
        drawings.append(_figure("distribution", svg.histogram(feature, *binned_shares(then, now))))
    elif isinstance(then, Text) and isinstance(now, Text) and then.counts and now.counts:
        rows = _changed_values(then, now)[:VALUES_SHOWN]
        drawings.append(_figure("the values that changed most", svg.bars(feature, rows)))
    if main is not None:
        drawings.append(
            _figure(
                f"{main.metric} over time",
                svg.line(
                    f"{feature} {main.metric}",
                    main.ends_us,
                    main.values,
                    main.threshold,
                    main.flagged,
                ),
            )
        )
    return (
        f"<article id='{_anchor(feature)}'><h3>{html.escape(feature)}</h3>"
        f"<p class='muted'>{_change(then, now)}</p><div class='pair'>{''.join(drawings)}</div>"
        "</article>"
    )


def _figure(caption: str, drawing: str) -> str:
    return f"<figure>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>"


def binned_shares(
    then: Number, now: Number, bins: int = BINS
) -> tuple[list[float], list[float], list[float]]:
    """Return edges of bins, and the shares of both columns in them.

    The bins span what lies between the half-percent tails; the outer ones take the tails in.
    Integers that need no more than that have a bin each.
    """
    import numpy as np

    low = min(then.quantile(0.005), now.quantile(0.005))
    high = max(then.quantile(0.995), now.quantile(0.995))
    if not (math.isfinite(low) and math.isfinite(high)) or low == high:
        low, high = low - 0.5, high + 0.5
    if then.integral and high - low <= bins:
        edges = np.arange(math.floor(low), math.floor(high) + 2) - 0.5
    else:
        edges = np.linspace(low, high, bins + 1)

    def shares(values: Any) -> list[float]:
        below = np.searchsorted(values, edges[1:-1], side="left")
        counts = np.diff(below, prepend=0, append=values.size)
        return (counts / values.size).tolist()  # type: ignore[no-any-return]

    return edges.tolist(), shares(then.values), shares(now.values)


def _metrics_section(series: Sequence[Series]) -> str:
    drawn = []
    for one in sorted(series, key=lambda s: (not any(s.flagged), s.threshold is None, s.metric)):
        if all(math.isnan(value) for value in one.values):
            continue
        name = f"{one.feature} {one.metric}".strip()
        told = f"{name}: {svg.short(one.values[-1])}"
        if one.threshold is not None:
            told += f", held to {svg.short(one.threshold)}"
        drawing = svg.line(name, one.ends_us, one.values, one.threshold, one.flagged)
        drawn.append(_figure(told, drawing))
    if not drawn:
        return ""
    return f"<section><h2>Over time</h2><div class='pair'>{''.join(drawn)}</div></section>"


def _violations_section(last: Execution) -> str:
    if not last.violations:
        return ""
    rows = "".join(
        "<tr><td>{}</td><td>{}</td><td>{}</td></tr>".format(
            html.escape(str(v.get("feature_name") or v.get("facet") or v.get("metric_name", ""))),
            html.escape(str(v["constraint_check_type"])),
            html.escape(str(v["description"])),
        )
        for v in last.violations
    )
    return (
        f"<section><h2>Violations, {_span(last.window)}</h2><div class='scroll'><table><thead><tr>"
        f"<th>of</th><th>check</th><th>description</th></tr></thead><tbody>{rows}</tbody></table>"
        "</div></section>"
    )


def _sql_section(monitor: Monitor, last: Execution) -> str:
    start, end = str(last.window).split("/")
    shown = [
        f"""SELECT window_end, feature, metric, value, threshold FROM monitor_metrics
WHERE monitor = '{monitor.name}' AND flagged ORDER BY window_end"""  # noqa: S608  to be read
    ]
    kind, _, group = monitor.source.partition(":")
    if kind == "group":
        shown.append(f"SELECT * FROM {group}  -- from {start} to {end}")  # noqa: S608
    listed = "".join(f"<pre>{html.escape(query)}</pre>" for query in shown)
    return f"<section><h2>On to the rows</h2>{listed}</section>"


def _anchor(feature: str) -> str:
    return "f-" + "".join(c if c.isalnum() else f"-{ord(c):x}" for c in feature)


_CSS = """
:root{color-scheme:light dark;--bg:#fff;--card:#f7f8fa;--ink:#1b2430;--muted:#64707d;--grid:#dfe4ea;
--then:#b3bdc8;--now:#1d5fd0;--alarm:#d4430b;--good:#1a7f4b;--h1:#dbe5f5;--h2:#bccfee;--h3:#94b2e4}
@media (prefers-color-scheme:dark){:root{--bg:#12161b;--card:#1a2027;--ink:#e7ebef;--muted:#97a3b0;
--grid:#2c353f;--then:#566270;--now:#74a9ff;--alarm:#ff8652;--good:#4cc38a;--h1:#1f2d42;--h2:#294467;
--h3:#35608f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:940px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:28px;margin:0}h2{font-size:18px;margin:36px 0 10px}h3{font-size:15px;margin:0}
.kind{margin:0;color:var(--muted);text-transform:uppercase;letter-spacing:.08em;font-size:12px}
.verdict{font-size:18px;margin:6px 0 16px;font-weight:600}
.bad{color:var(--alarm)}.good{color:var(--good)}
.muted{color:var(--muted);font-size:13px;margin:6px 0}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(270px,1fr));gap:10px 24px;margin:0}
dt{color:var(--muted);font-size:12px}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;font-weight:600;color:var(--muted);font-size:12px}
th,td{padding:7px 12px 7px 0;border-bottom:1px solid var(--grid);vertical-align:top}
td:last-child{overflow-wrap:anywhere}td:not(:last-child){white-space:nowrap}a{color:var(--now)}
.meter{height:4px;background:var(--grid);border-radius:2px;margin-top:4px;min-width:120px}
.meter i{display:block;height:4px;border-radius:2px;background:var(--alarm)}
.scroll{overflow-x:auto}
article{background:var(--card);border-radius:8px;padding:14px 16px;margin:12px 0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:16px}
figure{margin:0}figcaption{color:var(--muted);font-size:12px}
svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--muted)}
.grid{stroke:var(--grid);stroke-width:1}.then{fill:var(--then)}
.now{fill:none;stroke:var(--now);stroke-width:1.8;stroke-linejoin:round}.now-bar{fill:var(--now)}
.dot{fill:var(--now)}.alarm{fill:var(--alarm)}
.limit{stroke:var(--alarm);stroke-width:1.2;stroke-dasharray:5 4}
.h0{fill:var(--card)}.h1{fill:var(--h1)}.h2{fill:var(--h2)}.h3{fill:var(--h3)}
.a0,.a1,.a2,.a3,.a4{fill:var(--alarm);opacity:.75}.a5{fill:var(--alarm)}
.heat{stroke:var(--grid);stroke-width:.5}
.key{display:inline-block;width:14px;height:9px;border-radius:2px;margin:0 3px 0 10px}
.then-key{background:var(--then)}.now-key{border:2px solid var(--now)}
.limit-key{height:0;border-top:2px dashed var(--alarm);vertical-align:middle}
.alarm-key{background:var(--alarm)}
summary{cursor:pointer;font-weight:600;font-size:16px}
pre{background:var(--card);padding:12px;border-radius:8px;overflow-x:auto;font-size:13px}
"""
