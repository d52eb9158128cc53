"""Answers: tables for people, JSON and CSV for programs, progress for the patient."""

from __future__ import annotations

import base64
import json
import math
import sys
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pyarrow as pa

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr while work goes on; yields what to call with the rows done."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    ) as progress:
        task = progress.add_task(description, total=total)
        yield lambda rows_done: progress.update(task, completed=rows_done)


# ── for people ───────────────────────────────────────────────────────────────────────────────────


def cell(value: object) -> Text:
    """Return a value as people read it."""
    if value is None:
        return Text("null", style="dim")
    if isinstance(value, bool):
        return Text(str(value).lower())
    if isinstance(value, int | str):
        return Text(str(value))
    if isinstance(value, float):
        return Text(f"{value:.10g}")
    if isinstance(value, timedelta):
        return Text(str(timedelta(seconds=round(value.total_seconds()))))
    plain = jsonable(value)
    return Text(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))


def counted(count: int, noun: str) -> str:
    """Return ``1 row``, ``1,234 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration_text(duration_us: int | None, none: str = "") -> str:
    """Return a setting that is a length of time, or ``none``."""
    from featurestore.event_time import format_duration

    return none if duration_us is None else format_duration(duration_us)


def pairs_table(pairs: Iterable[tuple[str, object]], title: str | None = None) -> Table:
    """Return names and values, one pair a line."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(name), value if isinstance(value, Text) else cell(value))
    return table


def spelled(name: str) -> str:
    """Return the name of a fact in words."""
    return name.replace("_", " ").removesuffix(" seconds")


def counts_table(kind: str, rows: Mapping[str, Mapping[str, object]]) -> Table:
    """Return facts of ``stat`` about each of some things, one a line."""
    names = list(next(iter(rows.values())))
    table = Table(kind)
    for name in names:
        table.add_column(spelled(name), justify="right")
    for title, facts in rows.items():
        table.add_row(Text(title), *(measured(name, facts[name]) for name in names))
    return table


def measured(name: str, value: object) -> Text:
    """Return a fact of ``stat``: bytes and seconds in larger units, counts in groups of three."""
    if value is None:
        return Text("-", style="dim")
    if name.endswith("pid"):
        return Text(str(value))
    if name.endswith("seconds") or name.startswith("seconds"):
        return cell(timedelta(seconds=float(str(value))))
    if isinstance(value, datetime):
        return Text(f"{value:%Y-%m-%d %H:%M:%S} UTC")
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(decimal(value) if name.endswith("bytes") else f"{value:,}")
    return cell(value)


def rows_table(answer: pa.Table, limit: int) -> Table:
    """Return the first rows of a result, and say how many there are."""
    import pyarrow as pa

    shown = min(limit, answer.num_rows)
    more = f" ({shown:,} shown; --rows N or --format csv for more)"
    table = Table(
        caption=counted(answer.num_rows, "row") + (more if shown < answer.num_rows else ""),
        caption_justify="left",
    )
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    for field in answer.schema:
        right = any(is_kind(field.type) for is_kind in numeric)
        table.add_column(Text(field.name), justify="right" if right else "left", overflow="fold")
    columns = [column.to_pylist() for column in answer.slice(0, shown).columns]
    for row in zip(*columns, strict=True):
        table.add_row(*(cell(value) for value in row))
    return table


# ── for programs ─────────────────────────────────────────────────────────────────────────────────


def jsonable(value: Any) -> Any:  # noqa: PLR0911 - a table of types, one line each
    """Return a value of a record or a result as JSON has it.

    Times are ISO 8601 with Z, lengths of time seconds, bytes base64; nan and the infinities are
    text, since JSON has no word for them and null means something else.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value)


def print_json(value: Any) -> None:
    """Print one JSON value on one line."""
    typer.echo(json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False))


def print_json_rows(answer: pa.Table) -> None:
    """Print a result as a JSON array, one row on each line."""
    separator = "["
    for batch in answer.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            line = json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False)
            sys.stdout.write(f"{separator}{line}")
            separator = ",\n "
    sys.stdout.write("[]\n" if separator == "[" else "]\n")


def print_csv(answer: pa.Table) -> None:
    """Print a result as CSV that ``ingest`` would read back: null is empty, "" is quoted."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    columns = {}
    for name, column in zip(answer.column_names, answer.columns, strict=True):
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            values = (jsonable(value) for value in column.to_pylist())
            columns[name] = pa.array(
                [v if v is None or isinstance(v, str) else json.dumps(v) for v in values],
                pa.string(),
            )
        else:
            columns[name] = column
    sys.stdout.flush()
    arrow_csv.write_csv(pa.table(columns), sys.stdout.buffer)
