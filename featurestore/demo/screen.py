"""What the demo shows: one line for each step as it ends, then a few small tables.

A line is printed when its step is done, not before, so the output reads the same on a terminal, in
a log and in a pipe.  While a step runs, a terminal also has a spinner and, where the work says how
far it is, a bar; both leave no trace.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa
    from rich.console import Console, RenderableType

    from featurestore.demo.models import Score

INDENT = (0, 0, 0, 2)
STEP_LINE = "  {name:<46}{rows:>11}{seconds:>8}{rate:>13}"


@dataclass
class Step:
    """One step: what it does, to how many rows, in how long."""

    name: str
    rows: int
    seconds: float = 0.0

    @property
    def rows_per_second(self) -> float:
        """Rows by seconds; a step too short for the clock counts as a microsecond."""
        return self.rows / max(self.seconds, 1e-6)


class Screen:
    """Where the demo is shown, and the steps it has taken so far.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.steps: list[Step] = []

    def title(self, text: str, below: str) -> None:
        """Print a headline, what it is about, and the names of the columns of steps."""
        self.console.print()
        self.show(Text(text, style="bold"))
        self.show(Text(below))
        self.console.print()
        head = STEP_LINE.format(name="step", rows="rows", seconds="seconds", rate="rows/s")
        self.console.print(Text(head, style="dim"))

    def paragraph(self, markup: str) -> None:
        """Print text after an empty line; ``[i]`` and the like mean what they mean to rich."""
        self.console.print()
        self.show(Text.from_markup(markup))

    def show(self, what: RenderableType) -> None:
        """Print something, indented like everything else."""
        self.console.print(Padding(what, INDENT, expand=False))

    def answer(self, call: str, table: Table) -> None:
        """Print a call of the store and, under it, what it gave."""
        self.console.print()
        self.show(Text(call, style="cyan"))
        self.show(table)

    @contextmanager
    def step(
        self, name: str, rows: int = 0, *, bar: bool = False
    ) -> Iterator[tuple[Step, Callable[[int], None]]]:
        """Time what is done inside, then print its line.

        Parameters
        ----------
        name : str
            What is done.
        rows : int
            To how many rows; may be set on the step inside, as may the name.
        bar : bool
            Whether the work will say how far it is.

        Yields
        ------
        step : Step
            The step, to be completed.
        advance : callable
            To be called with the number of rows done.
        """
        step = Step(name, rows)
        bars = [BarColumn(), MofNCompleteColumn()] if bar else []
        columns = [SpinnerColumn(), TextColumn("{task.description}"), *bars]
        still = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=still) as progress:
            task = progress.add_task(name, total=rows or None)
            started = time.perf_counter()
            yield step, lambda done: progress.update(task, completed=done)
            step.seconds = time.perf_counter() - started
        self.steps.append(step)
        line = STEP_LINE.format(
            name=step.name,
            rows=f"{step.rows:,}",
            seconds=f"{step.seconds:.2f}",
            rate=f"{step.rows_per_second:,.0f}",
        )
        self.console.print(Text(line))


# ── tables ───────────────────────────────────────────────────────────────────────────────────


def rows_table(answer: pa.Table) -> Table:
    """Return a few rows that the store gave."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, column in zip(answer.column_names, answer.columns, strict=True):
        words = any(isinstance(value, str) for value in column.to_pylist())
        table.add_column(name, justify="left" if words else "right")
    for row in answer.to_pylist():
        table.add_row(*(cell(value) for value in row.values()))
    return table


def cell(value: object) -> str:
    """Return a value as people read it."""
    match value:
        case None:
            return "–"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M} UTC"
        case float():
            return f"{value:,.1f}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)


def scores_table(scores: list[Score]) -> Table:
    """Return the table that the demo is about: what was promised, and what was delivered."""
    best = max(score.served for score in scores)
    table = Table(box=ROUNDED)
    table.add_column("the model knows")
    table.add_column("join")
    table.add_column("validation", justify="right")
    table.add_column("served", justify="right")
    for score in scores:
        broken = score.validation > score.served
        style = "red" if broken else "bold green" if score.served == best else ""
        validation, served = f"{score.validation:.3f}", f"{score.served:.3f}"
        table.add_row(score.features, score.join, validation, served, style=style)
    return table
