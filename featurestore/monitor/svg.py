"""The report's drawings, as SVG text.

Four of them, small enough to be written by hand: so a page needs no library, weighs little, takes
the reader's light or dark colours from CSS, and says under the pointer what it shows (``<title>``).

=============  ==========================================================================
histogram      two distributions of a number, the baseline filled, the window outlined
bars           two distributions of a text, the values that changed most
line           a value over time, with its threshold, flagged windows as dots
heat           features by windows: how near to its threshold each was
=============  ==========================================================================

Colours are classes (``then``, ``now``, ``alarm``, ``grid``, ``ink``); the page says what they are.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from featurestore.event_time import to_datetime

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 420.0, 168.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 10.0, 24.0
HEAT_CELL = 18.0
HEAT_LABELS = 150.0
HEAT_STEPS = (0.25, 0.5, 0.75, 1.0, 2.0)
"""Shares of the threshold at which a cell gets darker; from 1 on it is over."""


def short(value: float) -> str:
    """Return a number as short as it can be told.

    Examples
    --------
    >>> short(1234567.0), short(0.25), short(12.0), short(0.00012), short(float("inf"))
    ('1.23M', '0.25', '12', '0.00012', '∞')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"


def _text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "label") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">'
        f"{html.escape(words)}</text>"
    )


def _drawing(
    width: float, height: float, title: str, parts: Sequence[str], *, as_it_is: bool = False
) -> str:
    """Return a drawing; as wide as there is room for, unless it is to be as it is."""
    style = f' style="width:{width:.0f}px"' if as_it_is else ""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}"{style} role="img" '
        f'aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    )


def _frame(high: float, percent: bool) -> list[str]:
    """Return the lines of a drawing's scale: none, half and all."""
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _TOP + (1 - share) * (HEIGHT - _TOP - _BOTTOM)
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        )
        words = f"{high * share:.0%}" if percent else short(high * share)
        parts.append(_text(_LEFT - 5, y + 3.5, words, anchor="end"))
    return parts


def _places() -> tuple[float, float]:
    return WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM


# ── distributions ────────────────────────────────────────────────────────────────────────────


def histogram(
    name: str, edges: Sequence[float], then: Sequence[float], now: Sequence[float]
) -> str:
    """Draw two rows of shares over the same bins; values beyond the edges are in the outer ones."""
    high = max([*then, *now, 1e-9])
    across, down = _places()
    step = across / len(then)
    parts = _frame(high, percent=True)

    def y_of(share: float) -> float:
        return _TOP + (1 - share / high) * down

    for i, share in enumerate(then):
        x, y = _LEFT + i * step, y_of(share)
        told = f"{short(edges[i])} to {short(edges[i + 1])}: then {share:.1%}, now {now[i]:.1%}"
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(step - 1, 0.5):.1f}" '
            f'height="{_TOP + down - y:.1f}" class="then"><title>{told}</title></rect>'
        )
    path = [f"M{_LEFT:.1f},{_TOP + down:.1f}"]
    for i, share in enumerate(now):
        x = _LEFT + i * step
        path.append(f"L{x:.1f},{y_of(share):.1f}L{x + step:.1f},{y_of(share):.1f}")
    path.append(f"L{_LEFT + across:.1f},{_TOP + down:.1f}")
    parts.append(f'<path d="{"".join(path)}" class="now"/>')
    for share in (0, 0.5, 1):
        at = round(share * len(then))
        parts.append(
            _text(
                _LEFT + share * across,
                HEIGHT - 8,
                short(edges[at]),
                anchor=("start", "middle", "end")[round(share * 2)],
            )
        )
    return _drawing(WIDTH, HEIGHT, f"{name}: distribution then and now", parts)


def bars(name: str, rows: Sequence[tuple[str, float, float]]) -> str:
    """Draw pairs of shares, one line for each value."""
    high = max([share for _, *pair in rows for share in pair] + [1e-9])
    line = 20.0
    height = max(_TOP + line * len(rows) + 8, 60.0)
    left = 110.0
    across = WIDTH - left - 54.0
    parts = []
    for i, (value, then, now) in enumerate(rows):
        y = _TOP + i * line
        shown = value if len(value) <= 16 else f"{value[:15]}…"
        told = html.escape(f"{value}: then {then:.1%}, now {now:.1%}")
        parts += [
            _text(left - 6, y + 12, shown, anchor="end"),
            (
                f'<rect x="{left}" y="{y + 1:.1f}" width="{then / high * across:.1f}" height="7" '
                f'class="then"><title>{told}</title></rect>'
            ),
            (
                f'<rect x="{left}" y="{y + 9:.1f}" width="{now / high * across:.1f}" height="7" '
                f'class="now-bar"><title>{told}</title></rect>'
            ),
            _text(left + max(then, now) / high * across + 5, y + 12, f"{now:.1%}"),
        ]
    return _drawing(WIDTH, height, f"{name}: shares then and now", parts)


# ── over time ────────────────────────────────────────────────────────────────────────────────


def line(
    name: str,
    ends_us: Sequence[int],
    values: Sequence[float],
    threshold: float | None,
    flagged: Sequence[bool],
) -> str:
    """Draw a value of every window, at its end."""
    finite = [value for value in values if math.isfinite(value)]
    limits = [] if threshold is None or not math.isfinite(threshold) else [threshold]
    low = min([0.0, *finite, *limits])
    high = max([*finite, *limits, low + 1e-9]) * 1.05
    across, down = _places()
    first, last = ends_us[0], ends_us[-1]

    def x_of(us: int) -> float:
        return _LEFT + (0.5 if last == first else (us - first) / (last - first)) * across

    def y_of(value: float) -> float:
        return _TOP + (1 - (value - low) / (high - low)) * down

    parts = _frame(high, percent=False) if low == 0 else _frame_between(low, high)
    points = [
        (x_of(us), y_of(value))
        for us, value in zip(ends_us, values, strict=True)
        if math.isfinite(value)
    ]
    parts.append(
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="now"/>'
    )
    if limits:
        y = y_of(limits[0])
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="limit">'
            f"<title>threshold {short(limits[0])}</title></line>"
        )
    for us, value, is_flagged in zip(ends_us, values, flagged, strict=True):
        if math.isfinite(value):
            told = f"{to_datetime(us):%-d %b %Y %H:%M}: {short(value)}"
            kind = "alarm" if is_flagged else "dot"
            radius = 3.4 if is_flagged else 2.0
            parts.append(
                f'<circle cx="{x_of(us):.1f}" cy="{y_of(value):.1f}" r="{radius}" class="{kind}">'
                f"<title>{told}</title></circle>"
            )
    parts.append(_text(_LEFT, HEIGHT - 8, f"{to_datetime(first):%-d %b %Y}"))
    if last != first:
        parts.append(
            _text(WIDTH - _RIGHT, HEIGHT - 8, f"{to_datetime(last):%-d %b %Y}", anchor="end")
        )
    return _drawing(WIDTH, HEIGHT, f"{name} over time", parts)


def _frame_between(low: float, high: float) -> list[str]:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _TOP + (1 - share) * (HEIGHT - _TOP - _BOTTOM)
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        )
        parts.append(_text(_LEFT - 5, y + 3.5, short(low + share * (high - low)), anchor="end"))
    return parts


def heat(
    rows: Sequence[tuple[str, Sequence[float]]],
    ends_us: Sequence[int],
    flagged: Sequence[Sequence[bool]],
) -> str:
    """Draw how many times its threshold each feature reached in each window.

    Parameters
    ----------
    rows : sequence of (name, ratios)
        NaN where there is none.
    flagged : sequence of sequence of bool
        Of the same shape: these cells are of the alarm's colour.
    """
    cell = min(HEAT_CELL * 1.6, max(7.0, (860.0 - HEAT_LABELS) / max(len(ends_us), 1)))
    width = HEAT_LABELS + cell * len(ends_us) + 10
    height = HEAT_CELL * len(rows) + 26
    parts = []
    for i, (name, ratios) in enumerate(rows):
        y = i * HEAT_CELL
        shown = name if len(name) <= 22 else f"{name[:21]}…"
        parts.append(_text(HEAT_LABELS - 8, y + 13, shown, anchor="end"))
        for j, ratio in enumerate(ratios):
            level = sum(ratio >= step for step in HEAT_STEPS) if not math.isnan(ratio) else 0
            kind = f"heat a{min(level, 5)}" if flagged[i][j] else f"heat h{min(level, 3)}"
            told = f"{html.escape(name)}, to {to_datetime(ends_us[j]):%-d %b %Y %H:%M}: " + (
                "nothing" if math.isnan(ratio) else f"{short(ratio)} x threshold"
            )
            parts.append(
                f'<rect x="{HEAT_LABELS + j * cell:.1f}" y="{y + 1:.1f}" width="{cell - 1.5:.1f}" '
                f'height="{HEAT_CELL - 2.5:.1f}" rx="2" class="{kind}"><title>{told}</title></rect>'
            )
    y = HEAT_CELL * len(rows) + 16
    parts.append(_text(HEAT_LABELS, y, f"{to_datetime(ends_us[0]):%-d %b %Y}"))
    if len(ends_us) > 3 and cell * len(ends_us) > 150:
        parts.append(_text(width - 12, y, f"{to_datetime(ends_us[-1]):%-d %b %Y}", anchor="end"))
    return _drawing(
        width, height, "How near to its threshold each feature was", parts, as_it_is=True
    )
