"""Bulk ingest: whole tables into history and online, without going row by row.

::

    table ─► validate every row ─► few rows: one transaction through the journal, like `write`
     (rows)        │
                   └► many: sort, stage a file, commit it in slices        (staging)

Each chunk of input has an id, by default a digest of its content: the same chunk again adds
nothing, and after a crash goes on where it stopped.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.engine import sources
from featurestore.engine.rows import Options, table_of_dicts, validate
from featurestore.engine.staging import Counts, Staging, through_journal
from featurestore.errors import InvalidRecord
from featurestore.record import STORE_OFFLINE
from featurestore.storage.requests import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan

__all__ = ["Counts", "Options", "ingest"]

#: Up to this many rows go through the journal: a file each would be too many small files.
JOURNAL_ROWS_MAX = 4096


def ingest(database: Database, name: str, data: Any, options: Options) -> Counts:
    """Ingest data of any supported shape into a group; see :mod:`featurestore.engine.sources`."""
    plan, _ = database.plan(name)
    total = Counts()

    def dict_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        return table_of_dicts(plan, rows, options, total.rows)

    tables = sources.tables_of(data, dict_rows)
    if options.atomic:
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
        if options.progress is not None:
            options.progress(total.rows)
    raise AssertionError("unreachable: the loop ends by return")


def _joined(tables: Iterator[pa.Table]) -> pa.Table | None:
    held = list(tables)
    return pa.concat_tables(held) if held else None


def _ingest_table(
    database: Database, plan: Plan, table: pa.Table, options: Options, number: int, first_row: int
) -> Counts:
    batch, rejected = validate(database, plan, table, options, first_row)
    if batch.rows == 0:
        return Counts(rejected=rejected)
    digest = batch.digest()
    given = options.id if options.id is not None else digest.hex()
    chunk = f"{given}, chunk {number}" if options.id is not None and number else given
    request = Request(f"ingest/{plan.group.id}", chunk, digest)
    to_files = plan.group.offline and options.stores & STORE_OFFLINE
    if batch.rows <= JOURNAL_ROWS_MAX or not to_files:
        counts = through_journal(database, batch, request, options.now_us)
    else:
        counts = Staging(database, batch, request, options.now_us, atomic=options.atomic).run()
    return replace(counts, rejected=rejected)
