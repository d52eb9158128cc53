"""Bulk ingest: whole tables into history and online, without going row by row.

::

    chunk ─► check every row ─► known? ─► clock ─► few rows: one transaction through the journal
     (sources, chunks)  (rows)     │               many: sort, stage a file, commit it in slices
                                   │
                     yes: the rows are in, or the file is there to be taken up    (staging)

Each chunk of input has an id, by default a digest of its content: the same chunk again adds
nothing, and after a crash goes on where it stopped.  That is looked up before a row is held to the
clock: what was accepted once is not refused when it is only sent again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.engine import content, sources
from featurestore.engine.chunks import Cutter, Limits
from featurestore.engine.rows import Options, batch_of, hold_to_clock, table_of_dicts, validate
from featurestore.engine.staging import Counts, Load, go_on, in_slices, through_journal
from featurestore.errors import InvalidRecord, RequestMismatch
from featurestore.storage import manifest, requests
from featurestore.storage.parquet import as_int64

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from featurestore.engine.chunks import Piece
    from featurestore.engine.database import Database
    from featurestore.engine.rows import Rows
    from featurestore.engine.writer import Commit
    from featurestore.storage.environment import Transaction

__all__ = ["Counts", "Options", "ingest"]

#: Up to this many rows and bytes are one transaction: through the journal, where they go to
#: history, since a file each would be too many small files.  It holds the write lock for less than
#: the usual `max_lock`.
JOURNAL_ROWS_MAX = 16_384
JOURNAL_BYTES_MAX = 8 << 20


def ingest(database: Database, name: str, data: Any, options: Options) -> Counts:
    """Ingest data of any supported shape into a group; see :mod:`featurestore.engine.sources`."""
    run = _Run(database, name, options)
    if sources.is_iterator(data):
        run.iterator(data)
    elif sources.are_dicts(data):
        run.chunk(list(data), 0)
    else:
        tables = sources.tables_of(data, run.plan.group)
        run.tables(tables if options.max_lock_us is not None else _as_one(tables))
    return run.total


def _as_one(tables: Iterable[pa.Table]) -> list[pa.Table]:
    held = list(tables)
    return [pa.concat_tables(held)] if held else []


class _Run:
    """One call of ingest: chunks, one after the other."""

    def __init__(self, database: Database, name: str, options: Options) -> None:
        self.database = database
        self.plan, _ = database.plan(name)
        self.options = options
        self.total = Counts()
        self.chunks = 0
        self._stream: str | None = None  # what an iterator's chunks are known by

    def tables(self, tables: Iterable[pa.Table]) -> None:
        """Ingest each table as a chunk."""
        for table in tables:
            self.chunk(table, self.total.rows)

    def iterator(self, items: Iterable[Any]) -> None:
        """Ingest what an iterator gives, as it comes."""
        pieces = sources.pieces_of(items, self.plan.group)
        if self.options.max_lock_us is None:
            held = [piece if isinstance(piece, pa.Table) else [piece] for piece in pieces]
            return self.tables(_as_one(map(self._table, held)))
        limits = Limits(sources.CHUNK_DICTS, sources.CHUNK_ROWS)
        return Cutter(self.chunk, self._known_rows, limits).run(pieces)

    def chunk(self, chunk: list[Mapping[str, Any]] | pa.Table, first_row: int) -> None:
        """Ingest a chunk; its bad rows are named by their numbers in the whole input."""
        try:
            rows = validate(self.plan, self._table(chunk), self.options, first_row)
            self.total += self._rows(rows, first_row)
        except InvalidRecord as error:
            already = self.total.accepted + self.total.replayed
            if already == 0:
                raise
            raise type(error)(
                f"{error} The {already:,} rows before this chunk are in the store; mend the rows "
                "and ingest the same stream again: what is in is not added twice.",
                rows=error.rows,
                accepted=already,
            ) from error
        self.chunks += 1
        self.options.progress(self.total.rows)

    def _table(self, chunk: list[Mapping[str, Any]] | pa.Table) -> pa.Table:
        if isinstance(chunk, pa.Table):
            return chunk
        return table_of_dicts(self.plan, chunk, self.options, self.total.rows)

    def _rows(self, rows: Rows, first_row: int) -> Counts:
        options = self.options
        if rows.count == 0:
            self._keep_length_of_nothing(first_row, rows.given)
            return Counts(rejected=rows.given)
        request = self._request(rows.digest(options.stores))
        progress = self._known(request, rows)
        if progress is not None and progress["done"]:
            return Counts(replayed=progress["kept"], rejected=rows.given - progress["kept"])
        load = Load(
            request=request,
            stores=options.stores,
            now_us=options.now_us,
            clock_us=options.now_us if progress is None else progress["clock_us"],
            max_lock_us=options.max_lock_us,
            done=lambda count: options.progress(first_row + count),
            staged=options.progress.staged,
            also=lambda commit: self._keep_length(commit, first_row, rows.given),
        )
        counts = self._commit(rows, load, progress, first_row)
        return replace(counts, rejected=rows.given - counts.rows)

    # ── sent before? ─────────────────────────────────────────────────────────────────────────

    def _request(self, digest: bytes) -> requests.Request:
        name = digest.hex()
        if self.options.id is not None:
            name = f"{self.options.id}, chunk {self.chunks}" if self.chunks else self.options.id
        return requests.Request(f"ingest/{self.plan.group.id}", name, digest)

    def _known(self, request: requests.Request, rows: Rows) -> Any:
        """Return how far a chunk is in that was sent before, if it was."""
        database = self.database
        try:
            with database.read() as txn:
                progress = requests.find(database.env, txn, request, self.options.now_us)
                earlier = progress is None and self._has_file_like(txn, rows)
        except RequestMismatch:
            earlier, progress = True, None
            if rows.nbytes < content.SUMS_FROM_BYTES:
                raise
        return self._by_earlier_version(request, rows) if earlier else progress

    def _has_file_like(self, txn: Transaction, rows: Rows) -> bool:
        """Return whether a large ingest without an id was cut off, or looks like this one."""
        if self.options.id is not None or rows.nbytes < content.SUMS_FROM_BYTES:
            return False
        times_us = as_int64(rows.columns[self.plan.group.event_time])
        extent = rows.count, times_us.min(), times_us.max()
        return any(
            entry.request or (entry.rows, entry.min_event_us, entry.max_event_us) == extent
            for entry in self.database.files_at(txn, self.plan.group.id)
        )

    def _by_earlier_version(self, request: requests.Request, rows: Rows) -> Any:
        """Find an ingest under the digest that versions before NH sums took, and rename it.

        So what such a version began is gone on with, and what it finished is known: for 24 hours,
        like any request, but without an id only until its file has been compacted.
        """
        earlier = self._request(rows.digest(self.options.stores, sums=False))

        def rename(commit: Commit) -> Any:
            env, txn = commit.env, commit.txn
            progress = requests.find(env, txn, earlier, self.options.now_us)
            if progress is None:
                return None
            if progress.get("file_id") is not None and not progress["done"]:
                group_id = self.plan.group.id
                entry = manifest.live_file(env, txn, group_id, progress["file_id"])
                if entry is not None:
                    manifest.list_file(env, txn, replace(entry, request=request.key.hex()))
            requests.save(env, txn, request, commit.write_time_us, progress)
            return progress

        return self.database.writer.call(rename, self.options.now_us)

    # ── going in ─────────────────────────────────────────────────────────────────────────────

    def _commit(self, rows: Rows, load: Load, progress: Any, first_row: int) -> Counts:
        database, group = self.database, self.plan.group
        if progress is not None and progress["file_id"] is not None:
            return go_on(database, group, load, progress)
        rows = hold_to_clock(rows, self.options, load.clock_us, first_row)
        if rows.count == 0:
            self._keep_length_of_nothing(first_row, rows.given)
            return Counts()
        batch = batch_of(database, rows, load.stores)
        if rows.count <= JOURNAL_ROWS_MAX and rows.nbytes <= JOURNAL_BYTES_MAX:
            return through_journal(database, batch, load)
        return in_slices(database, batch, load, progress)

    # ── where the chunks of an iterator end ──────────────────────────────────────────────────

    def _known_rows(self, first: Piece, row: int) -> int | None:
        """Return how many rows the chunk had that began at a row, when it was sent before."""
        if self._stream is None:
            item = first.slice(0, 1).to_pylist() if isinstance(first, pa.Table) else dict(first)
            self._stream = self.options.id or repr(item)
        with self.database.read() as txn:
            found = requests.find(self.database.env, txn, self._length_of(row), self.options.now_us)
        return None if found is None else int(found)

    def _keep_length(self, commit: Commit, row: int, rows: int) -> None:
        if self._stream is not None:
            name, now_us = self._length_of(row), commit.write_time_us
            requests.save(commit.env, commit.txn, name, now_us, rows)

    def _keep_length_of_nothing(self, row: int, rows: int) -> None:
        """Keep the length of a chunk of which no row is stored; the next must begin after it."""
        if self._stream is not None and rows:
            self.database.writer.call(
                lambda commit: self._keep_length(commit, row, rows), self.options.now_us
            )

    def _length_of(self, row: int) -> requests.Request:
        """Return the name under which the length of a chunk is kept."""
        name = f"{self._stream}, row {row}"
        verb = f"ingest-chunk/{self.plan.group.id}"
        return requests.Request(verb, name, requests.content_digest(b"length"))
