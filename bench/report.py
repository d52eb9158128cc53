"""What is shown of results: a table for each case, and one of all goals at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.harness import Figures, Outcome

COLUMNS = {
    "cpu_us": "CPU µs",
    "wall_us": "wall µs",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "peak_bytes": "peak MiB",
    "anonymous_bytes": "own MiB",
    "peak_anonymous_bytes": "peak own MiB",
}
Rows = Sequence[Sequence[str]]


def case_table(outcome: Outcome) -> tuple[str, list[str], list[list[str]]]:
    """Return title, header and rows of a case: a line for each side, also for those left out."""
    case, medians = outcome.case, outcome.medians()
    shown = [name for name in COLUMNS if any(name in figures for figures in medians.values())]
    rows = []
    for side in case.sides:
        if side.name in medians:
            cells = [_cell(name, medians[side.name]) for name in shown]
            rows.append([side.name, side.gives, *cells, _other(medians[side.name])])
        elif outcome.left_out[side.name] != "not asked for":
            why = f"left out: {outcome.left_out[side.name]}"
            rows.append([side.name, why, *("" for _ in shown), ""])
    rounds = max((len(results) for results in outcome.results.values()), default=0)
    title = f"{case.name}: {case.question}; per {case.unit}, median of {rounds}"
    return title, ["side", "gives", *(COLUMNS[name] for name in shown), "besides"], rows


def _cell(name: str, figures: Figures) -> str:
    if name not in figures:
        return ""
    value = figures[name]
    return f"{value / 2**20:,.0f}" if name.endswith("bytes") else _number(value)


def _other(figures: Figures) -> str:
    """Say what is in no column and yet belongs to the figure."""
    found = []
    if figures.get("compile_s", 0) >= 0.1:
        found.append(f"first call {figures['compile_s']:.1f} s")
    if "server_cpu_s" in figures:
        found.append(f"server {_number(figures['server_cpu_s'] / figures['units'] * 1e6)} µs")
    if "calls_per_s" in figures:
        found.append(f"{_number(figures['calls_per_s'])} a second")
    if "written_bytes" in figures:
        found.append(f"{figures['written_bytes'] / 2**20:,.0f} MiB written")
    return ", ".join(found)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def goal_rows(name: str, outcome: Outcome) -> Iterator[list[str]]:
    """Yield a line for each goal: what it came to, in which range, and whether that is enough."""
    for goal in outcome.case.goals:
        values = outcome.values(goal)
        if values is None:
            missing = [side for side in goal.sides if side not in outcome.results]
            yield [name, outcome.case.name, goal.name, f"no {', '.join(missing)}", goal.bound, ""]
            continue
        shown = f"{_number(values[0])}{goal.unit}"
        if len(values) > 2:
            shown += f"  ({_number(min(values[1:]))} – {_number(max(values[1:]))})"
        reached = {True: "yes", False: "NO", None: ""}[goal.reached(values[0])]
        yield [name, outcome.case.name, goal.name, shown, goal.bound, reached]


GOAL_HEADER = ["benchmark", "case", "goal", "reached (range)", "to reach", ""]


def show(title: str, header: Sequence[str], rows: Rows, *, numbers_from: int) -> None:
    """Print a table: with rich where it is installed, as plain text otherwise."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(plain(title, header, rows, numbers_from=numbers_from))
        return
    # Not a terminal: a log, whose lines must not be folded.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number >= numbers_from else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def plain(title: str, header: Sequence[str], rows: Rows, *, numbers_from: int) -> str:
    """Return a table as text.

    >>> print(plain("fruit", ["name", "n"], [["apple", "1"], ["fig", "20"]], numbers_from=1))
    fruit
    name    n
    apple   1
    fig    20
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown = [
        "  ".join(
            cell.rjust(width) if number >= numbers_from else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([title, *shown])


def heading(common: Mapping[str, Any]) -> str:
    """Say under which circumstances this run takes place, and what that makes of its figures."""
    machine = common["machine"]
    words = f"commit {common['commit'] or 'unknown'}{' and changes' if common['changed'] else ''}"
    words += f", size {common['size']}, {machine['cpus']} CPUs, load {machine['load']}"
    if machine["load"] > 0.3 * machine["cpus"]:
        words += "; the machine is not quiet: walls and percentiles are of no account"
    return words
