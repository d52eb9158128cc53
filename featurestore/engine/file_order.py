"""A validated batch in the order of a file: sorted once, gathered a row group at a time.

::

    batch ──sort──▶ order ──▶ row groups, one after the other      (the file)
                      └─────▶ heads: the newest row of each key    (what goes online)

Rows of one key are neighbours, sorted by event time, later input last; so the last of them is the
newest, and stretches of whole keys can be committed one after the other.  The same heads can be
read back from the file, when a run that was cut off is taken up again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.encoding.columns import encode_records, history_schema
from featurestore.encoding.key_columns import encode_keys
from featurestore.event_time import NO_EXPIRY
from featurestore.storage import parquet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurestore.encoding.columns import Records
    from featurestore.encoding.keys import KeyHash
    from featurestore.engine.rows import Batch
    from featurestore.schema import FeatureGroup

    Int64s = np.ndarray[Any, np.dtype[np.int64]]

_TIMES = pa.timestamp("us", tz="UTC")
_FIXED = frozenset({"int", "float", "timestamp", "date"})


@dataclass(frozen=True)
class Keys:
    """Distinct keys in the order of files and of the online store.

    Attributes
    ----------
    data, offsets : uint8[offsets[m]], int64[m + 1]
        Their bytes end to end.
    hashes : int64[m]
        Ascending.
    """

    data: np.ndarray[Any, np.dtype[np.uint8]]
    offsets: Int64s
    hashes: Int64s

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self.hashes)

    def part(self, first: int, end: int) -> Keys:
        """Return a stretch of them."""
        return Keys(self.data, self.offsets[first : end + 1], self.hashes[first:end])


@dataclass(frozen=True)
class Heads:
    """The newest row of each key, in file order.

    Attributes
    ----------
    group, stores
        Whose rows they are, and the stores aimed at.
    keys : Keys
        All m keys.
    ends : int64[m]
        Where the rows of each key end in the file.
    event_us : int64[n]
        Event times of all rows, in file order.
    columns : dict of str to pyarrow.Array of m rows
        Value features.
    expires_us : int64[n] or None
        When each of all rows expires; None if none does.
    write_us : int64[m] or None
        Imported write times.
    seqs : int64[m]
        Ordinals: what is added to the base seq of the commit.
    """

    group: FeatureGroup
    stores: int
    keys: Keys
    ends: Int64s
    event_us: Int64s
    columns: dict[str, pa.Array]
    expires_us: Int64s | None
    write_us: Int64s | None
    seqs: Int64s

    def records(self, first: int, end: int) -> Records:
        """Encode a stretch of them."""
        count = end - first
        last = self.ends[first:end] - 1
        never = np.full(count, NO_EXPIRY)
        return encode_records(
            self.group,
            {name: column.slice(first, count) for name, column in self.columns.items()},
            event_time_us=self.event_us[last],
            expires_at_us=never if self.expires_us is None else self.expires_us[last],
            stores=self.stores,
        )


class FileOrder:
    """The rows of a batch in the order of a file.

    Parameters
    ----------
    batch : Batch
        At least one row.
    by_input : bool
        Number the rows as they came; otherwise by their place in the file.  Either way the later
        of two rows with one key and event time has the greater number.
    """

    def __init__(self, batch: Batch, *, by_input: bool) -> None:
        from featurestore.kernels.ingest import is_in_order, sort_rows

        self.batch = batch
        codes, event_us = batch.keys.codes, batch.event_us
        self._key_order = batch.keys.file_order(batch.key_hash)
        ranks = np.empty(len(self._key_order), np.int64)
        ranks[self._key_order] = np.arange(len(ranks))
        if is_in_order(codes, ranks, event_us):
            self.order = None
            self.event_us = event_us
            self.ends = np.cumsum(np.bincount(ranks[codes], minlength=len(ranks)))
        else:
            self.order = np.empty(batch.rows, np.int32)
            self.event_us = np.empty(batch.rows, np.int64)
            self.ends = np.empty(len(ranks), np.int64)
            sort_rows(codes, ranks, event_us, self.order, self.event_us, self.ends)
        self.by_input = by_input and self.order is not None
        # Where columns are gathered: one set is being written while the other is filled.
        self._spares: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self._hashes = batch.keys.hashes(batch.key_hash)[self._key_order]

    def facts(self) -> dict[str, Any]:
        """Return what a manifest entry says of the rows, before any is visible."""
        event_us = self.event_us
        tied = event_us[1:] == event_us[:-1]
        tied[self.ends[:-1] - 1] = False  # another key begins
        return {
            "rows": len(event_us),
            "visible_rows": 0,
            "min_hash": int(self._hashes[0]),
            "max_hash": int(self._hashes[-1]),
            "min_event_us": int(event_us.min()),
            "max_event_us": int(event_us.max()),
            "min_seq": 0,
            "max_seq": 0,
            "tombstones": 0,
            "unique": not bool(tied.any()),
        }

    def row_groups(self) -> Iterator[pa.Table]:
        """Yield the rows in the history layout, ordinals for seqs.

        A table's memory is used again for the one after the next: new memory costs more than what
        is done in it.
        """
        schema = history_schema(self.batch.plan.group)
        for start in range(0, self.batch.rows, parquet.ROW_GROUP_ROWS):
            end = min(start + parquet.ROW_GROUP_ROWS, self.batch.rows)
            columns = self._system_columns(start, end)
            arrays = [
                columns[name] if name in columns else self._taken(name, start, end)
                for name in schema.names
            ]
            yield pa.Table.from_arrays(arrays, schema=schema)

    def _taken(self, name: str, start: int, end: int) -> pa.Array:
        column = self.batch.columns[name]
        if self.order is None:
            return column.slice(start, end - start)
        rows = self.order[start:end]
        if column.null_count or self.batch.plan.group.feature(name).dtype.kind not in _FIXED:
            return column.take(pa.array(rows))
        width = column.type.bit_width // 8
        kind = f"i{width}"
        values = np.frombuffer(column.buffers()[1], kind, len(column), width * column.offset)
        spares = self._spares[start // parquet.ROW_GROUP_ROWS % 2]
        spare = spares.setdefault(name, np.empty(0, kind))
        if len(spare) < len(rows):
            spare = spares[name] = np.empty(len(rows), kind)
        taken = spare[: len(rows)]
        if width == 8:
            from featurestore.kernels.ingest import take_words

            take_words(values, rows, taken)
        else:
            np.take(values, rows, out=taken, mode="clip")
        return pa.Array.from_buffers(column.type, len(rows), [None, pa.py_buffer(taken)])

    def _system_columns(self, start: int, end: int) -> dict[str, pa.Array]:
        batch, count = self.batch, end - start
        rows = slice(start, end) if self.order is None else self.order[start:end]
        event_us = self.event_us[start:end]
        expires = batch.expires_us(event_us)
        # The keys whose rows these are, and how many rows of each.
        first, last = np.searchsorted(self.ends, [start, end - 1], side="right")
        bounds = np.minimum(self.ends[first : last + 1], end)
        return {
            parquet.KEY_HASH: pa.array(
                np.repeat(self._hashes[first : last + 1], np.diff(bounds, prepend=start))
            ),
            batch.plan.group.event_time: pa.array(event_us).view(_TIMES),
            parquet.WRITE_SEQ: pa.array(self._ordinals(np.arange(start, end))),
            parquet.WRITE_TIME: pa.nulls(count, _TIMES)
            if batch.write_us is None
            else pa.array(batch.write_us[rows]).view(_TIMES),
            parquet.EXPIRES_AT: pa.nulls(count, _TIMES)
            if batch.plan.group.ttl_us is None
            else pa.array(expires, mask=expires == NO_EXPIRY).view(_TIMES),
            parquet.IS_DELETED: pa.array(np.zeros(count, np.bool_)),
            parquet.STORES: pa.array(np.full(count, batch.stores, np.int8)),
        }

    def _ordinals(self, places: Int64s) -> Int64s:
        return self._rows(places).astype(np.int64) if self.by_input else places

    def _rows(self, places: Int64s) -> Any:
        """Return which rows of the batch stand at some places of the file."""
        return places if self.order is None else self.order[places]

    def heads(self) -> Heads:
        """Return the newest row of each key."""
        batch, last = self.batch, self.ends - 1
        rows = self._rows(last)
        take = pa.array(rows)
        group = batch.plan.group
        data, offsets = batch.keys.taken(self._key_order)
        return Heads(
            group=group,
            stores=batch.stores,
            keys=Keys(data, offsets, self._hashes),
            ends=self.ends,
            event_us=self.event_us,
            columns={f.name: batch.columns[f.name].take(take) for f in group.value_features},
            expires_us=None if group.ttl_us is None else batch.expires_us(self.event_us),
            write_us=None if batch.write_us is None else batch.write_us[rows],
            seqs=self._ordinals(last),
        )


def heads_of(table: pa.Table, group: FeatureGroup, stores: int, key_hash: KeyHash) -> Heads:
    """Return the heads of a staged file, read back as it was written."""
    columns = [table.column(f.name) for f in group.key_features]
    keys = encode_keys(columns, [f.dtype for f in group.key_features])
    # Rows of a key are neighbours, and keys are coded in order of appearance.
    ends = np.cumsum(np.bincount(keys.codes))
    last = table.take(pa.array(ends - 1))
    expires = table.column(parquet.EXPIRES_AT).cast(pa.int64())
    imported = last.column(parquet.WRITE_TIME).null_count == 0
    names = set(table.column_names)
    return Heads(
        group=group,
        stores=stores,
        keys=Keys(keys.data, keys.offsets, keys.hashes(key_hash)),
        ends=ends,
        event_us=parquet.as_int64(table.column(group.event_time)),
        columns={
            f.name: last.column(f.name).combine_chunks()
            for f in group.value_features
            if f.name in names
        },
        expires_us=None
        if expires.null_count == len(expires)
        else parquet.as_int64(expires.fill_null(NO_EXPIRY)),
        write_us=parquet.as_int64(last.column(parquet.WRITE_TIME)) if imported else None,
        seqs=parquet.as_int64(last.column(parquet.WRITE_SEQ)),
    )
