"""Rows on their way in: every one of them checked, every column brought to its exact type.

Either all rows of a table are good, or the error names the bad ones, or, where that is asked for,
the bad ones are left out and counted.  Nothing is stored here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.arrays import Refused
from featurestore.casts import read_column
from featurestore.dtypes import is_null
from featurestore.encoding.columns import encode_records
from featurestore.encoding.key_columns import encode_keys
from featurestore.encoding.values import HEAP_KINDS
from featurestore.engine.content import digest_columns
from featurestore.engine.records import future_sentence
from featurestore.errors import InvalidEventTime, InvalidRecord, UnknownFeature, did_you_mean
from featurestore.event_time import MAX_US, expires_at_column, read_times, to_us
from featurestore.record import KEY_BYTES_MAX, RECORD_BYTES_MAX
from featurestore.storage.parquet import as_int64

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from featurestore.dtypes import DType
    from featurestore.encoding.columns import Records
    from featurestore.encoding.key_columns import KeyColumn
    from featurestore.encoding.keys import KeyHash
    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan
    from featurestore.engine.progress import Progress
    from featurestore.schema import Feature

    Int64s = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Options:
    """How to take the rows; see :meth:`featurestore.FeatureStore.ingest`."""

    id: str | None
    tz: Any
    unit: str | None
    write_time: str | None
    max_lock_us: int | None
    skip_bad_rows: bool
    stores: int
    now_us: int
    progress: Progress


@dataclass(frozen=True)
class Rows:
    """Checked rows of one group, in input order.

    Attributes
    ----------
    plan : Plan
        Of the group.
    columns : dict of str to pyarrow.Array
        Every feature of the group, exact types.
    write_us : int64[n] or None
        Imported write times.
    given : int
        Rows that came in; those that are not here were refused.
    """

    plan: Plan
    columns: dict[str, pa.Array]
    write_us: Int64s | None
    given: int

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.columns[self.plan.group.event_time])

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    def without(self, refused: Refused) -> Rows:
        """Leave rows out."""
        if not refused:
            return self
        kept = np.delete(np.arange(self.count), sorted(set(refused.rows)))
        columns = {name: column.take(pa.array(kept)) for name, column in self.columns.items()}
        write_us = None if self.write_us is None else self.write_us[kept]
        return Rows(self.plan, columns, write_us, self.given)

    def digest(self, stores: int, *, sums: bool = True) -> bytes:
        """Return a digest of the content, the same for the same rows in the same order.

        Without ``sums`` it is what versions before them took.
        """
        about = f"{self.plan.group.id}:{self.count}:{stores}".encode()
        write_us = b"" if self.write_us is None else self.write_us.tobytes()
        secret = self.plan.key_hash.seed if sums else None
        return digest_columns(self.columns, about, write_us, secret=secret)


@dataclass(frozen=True)
class Batch:
    """Rows that are good and have keys, in input order.

    Attributes
    ----------
    columns, write_us
        As of :class:`Rows`.
    keys : KeyColumn
        Their keys.
    key_hash : KeyHash
        The store's.
    event_us : int64[n]
        Microseconds.
    """

    plan: Plan
    columns: dict[str, pa.Array]
    write_us: Int64s | None
    keys: KeyColumn
    key_hash: KeyHash
    event_us: Int64s
    stores: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.event_us)

    def expires_us(self, event_us: Int64s) -> Int64s:
        """Return when rows of these event times expire."""
        return expires_at_column(event_us, self.plan.group.ttl_us)

    def records(self) -> Records:
        """Encode every row; seq and write time are stamped by the commit."""
        return encode_records(
            self.plan.group,
            self.columns,
            event_time_us=self.event_us,
            expires_at_us=self.expires_us(self.event_us),
            stores=self.stores,
        )


def batch_of(database: Database, rows: Rows, stores: int) -> Batch:
    """Encode the keys of rows."""
    plan = rows.plan
    identifiers = [rows.columns[name] for name in plan.group.record_identifier]
    return Batch(
        plan=plan,
        columns=rows.columns,
        write_us=rows.write_us,
        keys=encode_keys(identifiers, plan.key_dtypes),
        key_hash=database.key_hash,
        event_us=as_int64(rows.columns[plan.group.event_time]),
        stores=stores,
    )


def validate(plan: Plan, table: pa.Table, options: Options, first_row: int = 0) -> Rows:
    """Check every row but for the clock, and bring every column to its exact type.

    What a clock may refuse is left to :func:`hold_to_clock`: a row that was accepted once must
    not be refused when its ingest is only sent again.

    Raises
    ------
    InvalidRecord
        With the bad rows and why, unless they are to be skipped.
    UnknownFeature
        A column is no feature of the group.
    """
    _require_columns(plan, table, options)
    refused = Refused()
    columns, write_us = _read_columns(plan, table, options, refused)
    rows = Rows(plan, columns, write_us, table.num_rows)
    _refuse_nulls(plan, columns, refused)
    _refuse_large(plan, columns, refused)
    _refuse_long_keys(plan, columns, refused)
    if refused and not options.skip_bad_rows:
        _refuse_by_clock(rows, options, options.now_us, refused)
        raise _refusal(plan, refused, table.num_rows, first_row)
    return rows.without(refused)


def hold_to_clock(rows: Rows, options: Options, clock_us: int, first_row: int = 0) -> Rows:
    """Refuse what is in the future, or leave it out.

    Raises
    ------
    InvalidEventTime
        With the rows, unless they are to be skipped.
    """
    refused = Refused()
    _refuse_by_clock(rows, options, clock_us, refused)
    if refused and not options.skip_bad_rows:
        raise _refusal(rows.plan, refused, rows.given, first_row)
    return rows.without(refused)


def _refusal(plan: Plan, refused: Refused, rows: int, first_row: int) -> InvalidRecord:
    """Return the error that names the bad rows by their numbers in the whole input."""
    shifted = Refused()
    for row, why in refused.first():
        shifted.add_row(first_row + row, why)
    shifted.rows = [first_row + row for row in refused.rows]
    timed = all(why.startswith("event time") for why in refused.reasons.values())
    return (InvalidEventTime if timed else InvalidRecord)(
        f'"{plan.group.name}": {shifted.summary(rows)}. None of them was stored; mend them, or '
        'pass on_error="skip" to leave them out.',
        rows=shifted.first(),
    )


def _require_columns(plan: Plan, table: pa.Table, options: Options) -> None:
    group = plan.group
    known = [feature.name for feature in group.features]
    for name in table.column_names:
        if name not in known and name != options.write_time:
            raise UnknownFeature(
                f'Column "{name}" is no feature of "{group.name}".{did_you_mean(name, known)} '
                "Drop the column, or add the feature with update_feature_group."
            )
        if table.column_names.count(name) > 1:
            raise InvalidRecord(f'Column "{name}" is there twice.')
    for name in (*group.record_identifier, group.event_time):
        if name not in table.column_names:
            raise InvalidRecord(
                f'The data has no column "{name}", '
                f"{'the event time' if name == group.event_time else 'an identifier'} of "
                f'"{group.name}"; it has {", ".join(table.column_names[:10])}.'
            )
    if options.write_time is not None and options.write_time not in table.column_names:
        raise InvalidRecord(f'write_time names a column "{options.write_time}" that is not there.')


def _read_columns(
    plan: Plan, table: pa.Table, options: Options, refused: Refused
) -> tuple[dict[str, pa.Array], Int64s | None]:
    group = plan.group
    columns: dict[str, pa.Array] = {}
    for feature in group.features:
        if feature.name not in table.column_names:
            columns[feature.name] = pa.nulls(table.num_rows, feature.dtype.to_arrow())
            continue
        bad = Refused()
        columns[feature.name] = read_column(
            table.column(feature.name),
            feature.dtype,
            feature.name,
            bad,
            tz=options.tz,
            unit=options.unit,
        )
        for row in bad.rows:
            refused.add_row(row, f"{_what(plan, feature)}: {bad.reasons.get(row, 'likewise')}")
    return columns, _write_times(table, options, refused)


def _what(plan: Plan, feature: Feature) -> str:
    if feature.name == plan.group.event_time:
        return f'event time "{feature.name}"'
    return f'feature "{feature.name}" ({feature.dtype})'


def _write_times(table: pa.Table, options: Options, refused: Refused) -> Int64s | None:
    if options.write_time is None:
        return None
    what = f'write time "{options.write_time}"'
    column = table.column(options.write_time)
    times = read_times(column, refused, tz=options.tz, unit=options.unit, what=what)
    refused.add(_unrefused(pc.is_null(times), refused), lambda _: f"{what} is null")
    return as_int64(times.fill_null(0))


def _unrefused(mask: pa.Array, refused: Refused) -> list[int]:
    """Return the rows of a mask that were not refused before: those are null for that reason."""
    rows = set(np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist())
    return sorted(rows.difference(refused.rows))


def _refuse_nulls(plan: Plan, columns: Mapping[str, pa.Array], refused: Refused) -> None:
    group = plan.group
    for name in (group.event_time, *group.record_identifier):
        if columns[name].null_count:
            what = (
                f'event time "{name}" is missing'
                if name == group.event_time
                else f'"{name}" is null, and it is part of the key'
            )
            for row in _unrefused(pc.is_null(columns[name]), refused):
                refused.add_row(row, what)


def _refuse_by_clock(rows: Rows, options: Options, clock_us: int, refused: Refused) -> None:
    group = rows.plan.group
    if rows.write_us is not None:
        what = f'write time "{options.write_time}" is in the future'
        refused.add(np.flatnonzero(rows.write_us > clock_us).tolist(), lambda _: what)
    if group.max_future_us is None or not rows.count:
        return
    limit_us = min(clock_us + group.max_future_us, MAX_US)
    event = rows.columns[group.event_time]
    newest = pc.max(event.view(pa.int64())).as_py()
    if newest is None or newest <= limit_us:
        return
    event_us = as_int64(event.fill_null(0))
    refused.add(
        np.flatnonzero(event_us > limit_us).tolist(),
        lambda row: future_sentence(group.event_time, int(event_us[row]), limit_us),
    )


def _refuse_large(plan: Plan, columns: Mapping[str, pa.Array], refused: Refused) -> None:
    """Refuse rows whose record would be over the limit, by an upper bound of its bytes."""
    fixed = 64 + 9 * len(plan.group.features)
    heaped = [f for f in plan.group.value_features if f.dtype.kind in HEAP_KINDS]
    rows = len(columns[plan.group.event_time])
    if rows == 0:
        return
    if fixed + sum(_heap_bytes_max(columns[f.name], f.dtype) for f in heaped) <= RECORD_BYTES_MAX:
        return
    sizes = np.full(rows, fixed, np.int64)
    for feature in heaped:
        sizes += _heap_bytes(columns[feature.name], feature.dtype)
    refused.add(
        np.flatnonzero(sizes > RECORD_BYTES_MAX).tolist(),
        lambda row: (
            f"the record takes up to {sizes[row]:,} bytes; the limit is {RECORD_BYTES_MAX:,}"
        ),
    )


def _heap_bytes_max(column: pa.Array, dtype: DType) -> int:
    """Return a bound of what any row of a column takes, found with no array of all rows."""
    if dtype.kind == "vector":
        return 8 + dtype.length * dtype.bits // 8
    if dtype.kind == "list":
        return int(_heap_bytes(column, dtype).max())
    return pc.max(pc.binary_length(column)).as_py() or 0


def _heap_bytes(column: pa.Array, dtype: DType) -> Any:
    """Return a bound of what each row of a column takes."""
    if dtype.kind == "vector":
        return 8 + dtype.length * dtype.bits // 8
    if dtype.kind == "list":
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        return 24 + lengths * 8 + lengths // 8 + _list_bytes(column)
    return pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _refuse_long_keys(plan: Plan, columns: Mapping[str, pa.Array], refused: Refused) -> None:
    identifiers = [columns[name] for name in plan.group.record_identifier]
    longest = 0
    for column, dtype in zip(identifiers, plan.key_dtypes, strict=True):
        # Every byte of a text may have to be escaped.
        is_text = dtype.kind in ("string", "binary")
        longest += 3 + 2 * (pc.max(pc.binary_length(column)).as_py() or 0) if is_text else 9
    if longest <= KEY_BYTES_MAX:
        return
    try:
        encode_keys(identifiers, plan.key_dtypes)
    except InvalidRecord as error:
        for row, why in error.rows:
            refused.add_row(row, why)


def _list_bytes(column: pa.Array) -> Int64s:
    """Return the bytes of the texts in each row of a list column; zeros for lists of numbers."""
    sizes = np.zeros(len(column), np.int64)
    kind = column.type.value_type
    if not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        return sizes
    # Not list_parent_indices: it counts the elements hidden under null lists, flatten() does not.
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    texts = pc.binary_length(column.flatten()).fill_null(0).to_numpy(zero_copy_only=False)
    np.add.at(sizes, np.repeat(np.arange(len(column)), lengths), texts)
    return sizes


def table_of_dicts(
    plan: Plan, rows: Sequence[Mapping[str, Any]], options: Options, first_row: int = 0
) -> pa.Table:
    """Bring dicts to the group's types by the rules of a single put, and name the bad ones."""
    group = plan.group
    known = {feature.name for feature in group.features}
    refused = Refused()
    for number, row in enumerate(rows):
        for name in row:
            if name not in known and name != options.write_time:
                raise UnknownFeature(
                    f'Row {first_row + number}: "{name}" is no feature of "{group.name}".'
                    f"{did_you_mean(str(name), known)}"
                )
    arrays = {}
    for feature in group.features:
        what = _what(plan, feature)
        values = [_checked(row.get(feature.name), feature, what, options) for row in rows]
        for number, value in enumerate(values):
            if isinstance(value, InvalidRecord):
                refused.add_row(number, str(value))
                values[number] = None
        arrays[feature.name] = pa.array(values, feature.dtype.to_arrow())
    if options.write_time is not None:
        arrays[options.write_time] = pa.array([row.get(options.write_time) for row in rows])
    if not refused:
        return pa.table(arrays)
    if not options.skip_bad_rows:
        raise _refusal(plan, refused, len(rows), first_row)
    # A row without event time is refused, and counted, by the validation that follows.
    good = pa.array(~np.isin(np.arange(len(rows)), refused.rows))
    event = arrays[group.event_time]
    arrays[group.event_time] = pc.if_else(good, event, pa.scalar(None, event.type))
    return pa.table(arrays)


def _checked(value: Any, feature: Feature, what: str, options: Options) -> Any:
    """Return the physical value, or the error that says why it is none."""
    if is_null(value):
        return None
    try:
        if feature.dtype.kind == "timestamp":
            return to_us(value, tz=options.tz, unit=options.unit, what=what)
        return feature.dtype.check(value, feature.name, tz=options.tz)
    except InvalidRecord as error:
        return error
