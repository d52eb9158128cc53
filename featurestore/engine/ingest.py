"""Bulk ingest: whole tables into history and online, without going row by row.

::

    table ─► check every row ─► known? ─► clock ─► few rows: one transaction through the journal
     (rows)                        │               many: sort, stage a file, commit it in slices
                                   │
                     yes: the rows are in, or the file is there to be taken up    (staging)

Each chunk of input has an id, by default a digest of its content: the same chunk again adds
nothing, and after a crash goes on where it stopped.  That is looked up before a row is held to the
clock: what was accepted once is not refused when it is only sent again.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.engine import sources
from featurestore.engine.rows import Options, batch_of, hold_to_clock, table_of_dicts, validate
from featurestore.engine.staging import Counts, Load, go_on, in_slices, through_journal
from featurestore.errors import InvalidRecord
from featurestore.record import STORE_OFFLINE
from featurestore.storage import requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan
    from featurestore.engine.rows import Rows
    from featurestore.engine.writer import Commit

__all__ = ["Counts", "Options", "ingest"]

#: Up to this many rows are one transaction: through the journal, where they go to history, since
#: a file each would be too many small files.
JOURNAL_ROWS_MAX = 4096


def ingest(database: Database, name: str, data: Any, options: Options) -> Counts:
    """Ingest data of any supported shape into a group; see :mod:`featurestore.engine.sources`."""
    plan, _ = database.plan(name)
    total = Counts()

    def dict_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        return table_of_dicts(plan, rows, options, total.rows)

    tables = sources.tables_of(data, dict_rows)
    if options.max_lock_us is None:
        tables = iter([_joined(tables)])
    for number in itertools.count():
        try:
            table = next(tables, None)
            if table is None:
                return total
            total += _ingest_table(database, plan, table, options, number, total.rows)
        except InvalidRecord as error:
            if total.accepted + total.replayed == 0:
                raise
            already = total.accepted + total.replayed
            raise type(error)(
                f"{error} The {already:,} rows before this chunk are in the store; mend the rows "
                "and ingest the same stream again: what is in is not added twice.",
                rows=error.rows,
                accepted=already,
            ) from error
    raise AssertionError("unreachable: the loop ends by return")


def _joined(tables: Iterator[pa.Table]) -> pa.Table | None:
    held = list(tables)
    return pa.concat_tables(held) if held else None


def _ingest_table(
    database: Database, plan: Plan, table: pa.Table, options: Options, number: int, first_row: int
) -> Counts:
    rows = validate(plan, table, options, first_row)
    if rows.count == 0:
        return Counts(rejected=rows.given)
    digest = rows.digest(options.stores)
    given = options.id if options.id is not None else digest.hex()
    chunk = f"{given}, chunk {number}" if options.id is not None and number else given
    request = requests.Request(f"ingest/{plan.group.id}", chunk, digest)
    with database.read() as txn:
        progress = requests.find(database.env, txn, request, options.now_us)
    if progress is not None and progress["done"]:
        return Counts(replayed=progress["kept"], rejected=rows.given - progress["kept"])
    load = Load(
        request=request,
        stores=options.stores,
        now_us=options.now_us,
        clock_us=options.now_us if progress is None else progress["clock_us"],
        max_lock_us=options.max_lock_us,
        done=lambda count: options.progress(first_row + count),
        also=_nothing_else,
    )
    counts = _commit(database, rows, load, options, progress, first_row)
    return replace(counts, rejected=rows.given - counts.rows)


def _commit(
    database: Database, rows: Rows, load: Load, options: Options, progress: Any, first_row: int
) -> Counts:
    group = rows.plan.group
    if progress is not None and progress["file_id"] is not None:
        return go_on(database, group, load, progress)
    rows = hold_to_clock(rows, options, load.clock_us, first_row)
    if rows.count == 0:
        return Counts()
    batch = batch_of(database, rows, options.stores)
    if rows.count <= JOURNAL_ROWS_MAX:
        return through_journal(database, batch, load)
    return in_slices(database, batch, load, progress)


def _nothing_else(_commit: Commit) -> None:
    pass
