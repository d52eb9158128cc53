"""The point-in-time join: what was known at each label's moment, and nothing later.

::

    one key's history      ●a────────────●b───────────✝c─────────●d ─ ─ ─ ─ ─ ─ ─▶ event time
    expires                                                      └── ttl ──┤
    labels             ▲         ▲       ▲       ▲        ▲           ▲        ▲
    answer         MISSING       a       b       b     DELETED        d     EXPIRED

Every label is answered as ``record.resolve(history, label, label)`` would answer it:

=============  ====================================================================================
boundary       a record stamped exactly at the label's time is known
known          from ``event time + delay``; with ``known="write_time"`` not before it arrived
newest         greatest ``(event time, seq)`` among the known, in whatever order they came
as of          rows after the snapshot's seq do not exist
DELETED        the newest known is a tombstone
EXPIRED        ``expires_at <= label time``, or ``label time - event time > max_age``; an older
               record never takes its place
MISSING        nothing is known, or the label has no key
nulls          all but PRESENT give nulls
rows           as many as labels, in their order, each with its columns as they were
=============  ====================================================================================

How it is done.  Labels are laid out by key once; history is read in two passes, never sorted:

1. *Match.*  Key, event time and seq of every file that could matter, and of the journal tail,
   stream through ``kernels.asof``, which keeps for each label the number of its best row.
2. *Gather.*  Only files with such a row are read again, for the features asked for.  A row is
   taken once, then spread over the labels it answers.

Keys are compared as values (``key_index``).  Lookups that read a group in one role (same key
columns, delay and age limit) share one search, and all lookups of a group share the reading.
Memory is bounded by the labels, the result, and the columns of one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.casts import cast_column
from featurestore.encoding.columns import encode_keys, history_schema
from featurestore.engine import frames
from featurestore.engine.key_index import KeyIndex
from featurestore.errors import (
    CorruptStore,
    FeatureStoreError,
    InvalidEventTime,
    InvalidInput,
    InvalidRecord,
)
from featurestore.event_time import MIN_US, NO_EXPIRY, column_to_us, expired
from featurestore.feature_view import FeatureLookup, claim_column, result_columns
from featurestore.kernels.asof import NO_ROW, asof_finish, asof_prepare, asof_update
from featurestore.record import Status
from featurestore.storage.parquet import EXPIRES_AT, IS_DELETED, WRITE_SEQ, WRITE_TIME

if TYPE_CHECKING:
    from datetime import tzinfo

    from featurestore.encoding.keys import KeyHash
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.schema import FeatureGroup
    from featurestore.storage.manifest import FileEntry

Int64 = npt.NDArray[np.int64]

LABEL_TIME = "event_time"
"""The labels' column of times when the caller names none."""

# Looking rows up begins with hashing the labels' distinct keys, however few the rows are: small
# files are put together until there are enough rows to be worth it.
_MATCH_ROWS_MIN = 1 << 20

# To skip a file by its range of hashes, the keys must be hashed, at 2 µs each: cheap up to here.
_HASHED_KEYS_MAX = 10_000

_UTC = pa.timestamp("us", tz="UTC")
_NEVER = pa.scalar(NO_EXPIRY, pa.int64()).cast(_UTC)
_NAMES = pa.array([Status.MISSING, Status.PRESENT, Status.EXPIRED, Status.DELETED], pa.string())
_MISSING, _PRESENT, _EXPIRED, _DELETED = range(4)


def join(
    labels: Any,
    lookups: Sequence[FeatureLookup],
    snapshots: Mapping[str, GroupSnapshot],
    *,
    label_time: str | None = None,
    known: str = "event_time",
    tz: str | tzinfo | None = None,
    with_status: bool = False,
) -> Any:
    """Put beside each label the features as they were known at its time.

    Parameters
    ----------
    labels : pandas or Polars DataFrame, pyarrow.Table, or what else ``frames.accept`` takes
        Key columns and a time for each row.
    lookups : sequence of FeatureLookup
        What to take.
    snapshots : mapping of str to GroupSnapshot
        The groups looked up, all at one moment; ``seq`` of each says which rows exist.
    label_time : str, optional
        The labels' column of times; ``"event_time"`` by default.
    known : {"event_time", "write_time"}
        Whether a record also has to have arrived by the label's time.
    tz : str or tzinfo, optional
        Zone of times that carry none.
    with_status : bool
        Also add status (string), event time (timestamp, UTC) and age (duration) of the record
        found, named by ``FeatureLookup.status_columns``, for each reading of a group.

    Returns
    -------
    DataFrame or pyarrow.Table
        The labels, untouched and in order, then the features in the types of their group; pandas
        or Polars if the labels were, else Arrow.

    Raises
    ------
    InvalidInput
        For a missing column, a label without time, a key or time of the wrong type, an unknown
        feature, or two columns of one name; the message says which and what to do.
    """
    if known not in ("event_time", "write_time"):
        raise InvalidInput(f'known= is {known!r}; it is "event_time" or "write_time".')
    frame = frames.accept(labels)
    plan = _Plan.of(lookups, snapshots, frame, with_status=with_status)
    label_us = _label_times(frame, label_time, tz)
    answers: dict[_Role, _Answer] = {}
    for name in dict.fromkeys(lookup.group for lookup in lookups):
        snapshot = snapshots[name]
        searches = [
            _Search(role, features, _key_index(frame, role, snapshot.group, tz), label_us)
            for role, features in plan.roles.items()
            if role.group == name
        ]
        sources = _sources(snapshot, searches, every_status=with_status)
        _match(sources, searches, snapshot, by_write_time=known == "write_time")
        _gather(sources, searches)
        history = history_schema(snapshot.group)
        answers |= {search.role: search.answer(label_us, history) for search in searches}
    return _beside(frame, {column: take(answers[role]) for column, role, take in plan.columns})


# ── what is asked ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Role:
    """One way of reading a group.  Lookups that agree on all of this share one search."""

    group: str
    label_columns: tuple[str, ...]
    delay_us: int
    max_age_us: int | None

    @classmethod
    def of(cls, lookup: FeatureLookup, group: FeatureGroup) -> _Role:
        label_columns = tuple(lookup.keys(group).values())
        return cls(lookup.group, label_columns, lookup.delay_us, lookup.max_age_us)


@dataclass(frozen=True)
class _Plan:
    """What to search for, and which columns to make of it.

    Attributes
    ----------
    roles : dict of _Role to list of str
        The features that some lookup takes from each role.
    columns : list of (str, _Role, callable)
        The result's new columns in order, and how each is had from its role's answer.
    """

    roles: dict[_Role, list[str]] = field(default_factory=dict)
    columns: list[tuple[str, _Role, Callable[[_Answer], pa.ChunkedArray]]] = field(
        default_factory=list
    )

    @classmethod
    def of(
        cls,
        lookups: Sequence[FeatureLookup],
        snapshots: Mapping[str, GroupSnapshot],
        frame: Any,
        *,
        with_status: bool,
    ) -> _Plan:
        plan = cls()
        groups = {name: snapshot.group for name, snapshot in snapshots.items()}
        owners = dict.fromkeys(frames.column_names(frame), "the labels")
        reported = set()
        for lookup, added in zip(lookups, result_columns(lookups, groups, owners), strict=True):
            role = _Role.of(lookup, groups[lookup.group])
            features = plan.roles.setdefault(role, [])
            for column, feature in added.items():
                claim_column(owners, column, lookup)
                plan.columns.append((column, role, partial(_Answer.feature, name=feature.name)))
                if feature.name not in features:
                    features.append(feature.name)
            # "weather:temp" and "weather:wind_speed" are one reading, and have one status.
            if with_status and (role, lookup.prefix) not in reported:
                reported.add((role, lookup.prefix))
                for column, report in zip(lookup.status_columns, _REPORTS, strict=True):
                    claim_column(owners, column, lookup)
                    plan.columns.append((column, role, report))
        return plan


# ── the labels' side ─────────────────────────────────────────────────────────────────────────


def _label_times(frame: Any, label_time: str | None, tz: str | tzinfo | None) -> Int64:
    """Return the labels' times in microseconds; every label must have one."""
    name = LABEL_TIME if label_time is None else label_time
    column = frames.column(frame, name, lambda: _times_hint(frame))
    times = column_to_us(column, tz=tz, what=f'label time "{name}"')
    if times.null_count:
        rows = np.flatnonzero(np.asarray(times.is_null())).tolist()
        shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        raise InvalidEventTime(
            f'label time "{name}" is missing in {len(rows)} of {len(times)} rows ({shown}). What '
            "was known at no time cannot be said; drop these labels or give them a time.",
            rows=[(row, "no label time") for row in rows[:100]],
        )
    return _int64(times)


def _times_hint(frame: Any) -> str:
    """List the columns that could be the label time.  Which of them it is, is not guessed."""
    times = [f'"{name}"' for name in frames.column_names(frame) if _holds_times(frame, name)]
    listed = f" Columns of timestamps: {', '.join(times)}." if times else ""
    return f" label_time= names the column that holds the labels' times.{listed}"


def _holds_times(frame: Any, name: str) -> bool:
    try:
        return bool(pa.types.is_timestamp(frames.column(frame, name).type))
    except InvalidInput:  # named twice, or of objects that Arrow cannot read
        return False


def _key_index(frame: Any, role: _Role, group: FeatureGroup, tz: str | tzinfo | None) -> KeyIndex:
    """Return the labels' keys in the types of the group's identifier, numbered."""
    columns = []
    for name, column in zip(group.record_identifier, role.label_columns, strict=True):
        hint = partial(_on_hint, group.name, name)
        values = frames.column(frame, column, hint)
        try:
            columns.append(cast_column(values, group.feature(name).dtype, column, tz=tz))
        except InvalidRecord as error:
            raise type(error)(
                f'The labels\' column "{column}" does not fit the key "{name}" of '
                f'"{group.name}": {error}',
                rows=error.rows,
            ) from None
    return KeyIndex(columns)


def _on_hint(group: str, key: str) -> str:
    return (
        f' "{group}" is looked up by "{key}"; if the labels call it something else, use '
        f'FeatureLookup("{group}", ..., on={{"{key}": <column>}}).'
    )


# ── history's side ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Source:
    """A stretch of history, a file or the journal tail; its rows are numbered from ``first``."""

    first: int
    rows: int
    load: Callable[[list[str]], pa.Table]

    def read(self, columns: list[str]) -> pa.Table:
        """Return some columns of all rows, always in the same order."""
        table = self.load(columns)
        if table.num_rows != self.rows:
            raise CorruptStore(
                f"A history file holds {table.num_rows} rows where {self.rows} are listed. Run "
                "`featurestore verify`."
            )
        return table


@dataclass(frozen=True)
class _Bounds:
    """What a file must hold to matter to any of a group's searches."""

    event_us_min: int
    event_us_max: int
    seq_max: int
    hashes: Int64 | None

    @classmethod
    def of(
        cls, snapshot: GroupSnapshot, searches: Sequence[_Search], *, every_status: bool
    ) -> _Bounds:
        oldest, newest = [], []
        for search in searches:
            time_us, max_age_us = search.labels.time_us, search.role.max_age_us
            newest.append(int(time_us.max()) - search.role.delay_us)
            # A record over age gives nulls, and so does none: they differ in their status only.
            if max_age_us is None or every_status:
                oldest.append(MIN_US)
            else:
                oldest.append(int(time_us.min()) - max_age_us)
        hashes = [_hashes(s.index, snapshot.group, snapshot.key_hash) for s in searches]
        known = [h for h in hashes if h is not None]
        return cls(
            event_us_min=min(oldest),
            event_us_max=max(newest),
            seq_max=snapshot.seq,
            hashes=np.sort(np.concatenate(known)) if len(known) == len(hashes) else None,
        )

    def admit(self, entry: FileEntry) -> bool:
        """Say whether a file can hold a row that matters."""
        if entry.min_event_us > self.event_us_max or entry.max_event_us < self.event_us_min:
            return False
        if entry.min_seq > self.seq_max:
            return False
        if self.hashes is None:
            return True
        at = int(np.searchsorted(self.hashes, entry.min_hash))
        return at < self.hashes.size and int(self.hashes[at]) <= entry.max_hash


def _hashes(index: KeyIndex, group: FeatureGroup, key_hash: KeyHash) -> Int64 | None:
    """Return the hashes of the labels' keys, or None where finding them out would not pay."""
    if index.size > _HASHED_KEYS_MAX:
        return None
    try:
        keys = encode_keys(index.distinct(), [f.dtype for f in group.key_features])
    except InvalidRecord:  # a key too long for any record: it finds nothing by comparison either
        return None
    return np.asarray(keys.hashes(key_hash), np.int64)


def _sources(
    snapshot: GroupSnapshot, searches: Sequence[_Search], *, every_status: bool
) -> list[_Source]:
    """Return the stretches of a group's history that could matter."""
    searches = [search for search in searches if search.labels.time_us.size]
    if not searches:
        return []
    found: list[_Source] = []
    first = 0
    files = snapshot.files
    if files:
        files = list(filter(_Bounds.of(snapshot, searches, every_status=every_status).admit, files))
    for entry in files:
        found.append(_Source(first, entry.visible_rows, partial(snapshot.read, entry)))
        first += entry.visible_rows
    if snapshot.tail.num_rows:
        found.append(_Source(first, snapshot.tail.num_rows, snapshot.tail.select))
    return found


# ── the two passes ───────────────────────────────────────────────────────────────────────────


class _Search:
    """One role's labels, and what has been found for them so far."""

    def __init__(self, role: _Role, features: list[str], index: KeyIndex, label_us: Int64) -> None:
        self.role = role
        self.features = features
        self.index = index
        self.labels = asof_prepare(index.codes, label_us, index.size)
        self._pieces: list[pa.RecordBatch] = []

    def update(
        self,
        keys: list[pa.ChunkedArray],
        times: tuple[Int64, Int64, Int64],
        seq_max: int,
        first: int,
    ) -> None:
        """Let rows of history compete for the labels."""
        codes = self.index.find(keys)
        asof_update(*self.labels[1:], codes, *times, self.role.delay_us, seq_max, first)

    def finish(self) -> None:
        """Settle which row answers which label, once all rows have competed."""
        asof_finish(self.labels.starts, self.labels.best)
        hits = self.labels.best["row"] != NO_ROW
        best = self.labels.best[hits]
        self.answered = self.labels.order[hits]
        self.event_us = best["event_time_us"]
        self.rows, self.place = np.unique(best["row"], return_inverse=True)

    def rows_in(self, source: _Source) -> Int64:
        """Return the rows of a source that answer a label, counted from its first."""
        low, high = np.searchsorted(self.rows, (source.first, source.first + source.rows))
        return self.rows[low:high] - source.first

    def take(self, table: pa.Table, rows: Int64) -> None:
        """Keep these rows, ascending, of a source; sources must come in order."""
        # Batch by batch: to take from a column as a whole, Arrow may first make one chunk of it,
        # and a chunk of text ends at 2 GiB.
        first = 0
        for batch in table.select(self.needed).to_batches():
            low, high = np.searchsorted(rows, (first, first + batch.num_rows))
            self._pieces.append(batch.take(pa.array(rows[low:high] - first)))
            first += batch.num_rows

    @property
    def needed(self) -> list[str]:
        """Columns that the answer is made of."""
        return [EXPIRES_AT, IS_DELETED, *self.features]

    def answer(self, label_us: Int64, history: pa.Schema) -> _Answer:
        """Judge every label by the row found for it."""
        schema = pa.schema([history.field(name) for name in self.needed])
        taken = pa.Table.from_batches(self._pieces, schema)
        clock_us = label_us[self.answered]
        age_us = clock_us - self.event_us  # both are within the years 1 to 9999
        status = np.full(self.answered.size, _PRESENT, np.int8)
        if self.role.max_age_us is not None:
            status[age_us > self.role.max_age_us] = _EXPIRED
        expires_us: Any = _int64(taken.column(EXPIRES_AT).fill_null(_NEVER))[self.place]
        status[expired(expires_us, clock_us)] = _EXPIRED
        status[taken.column(IS_DELETED).to_numpy()[self.place]] = _DELETED

        spread = partial(_spread, rows=label_us.size)
        present = status == _PRESENT
        return _Answer(
            status=spread(status, self.answered),
            event_us=spread(self.event_us, self.answered),
            age_us=spread(age_us, self.answered),
            place=spread(self.place[present], self.answered[present]),
            taken=taken,
        )


def _spread(values: npt.NDArray[Any], at: Int64, *, rows: int) -> pa.Array:
    """Return so many rows with these values at these places, and nulls elsewhere."""
    spread, absent = np.zeros(rows, values.dtype), np.ones(rows, np.bool_)
    spread[at], absent[at] = values, False
    return pa.array(spread, mask=absent)


def _match(
    sources: Sequence[_Source],
    searches: Sequence[_Search],
    snapshot: GroupSnapshot,
    *,
    by_write_time: bool,
) -> None:
    """Find each label's row: read what decides it, of every source."""
    group = snapshot.group
    deciding = [group.event_time, WRITE_SEQ, *([WRITE_TIME] if by_write_time else [])]
    for first, table in _stretches(sources, [*group.record_identifier, *deciding]):
        keys = [table.column(name) for name in group.record_identifier]
        event_us, seq, *arrived = (_int64(table.column(name)) for name in deciding)
        write_us = arrived[0] if arrived else np.empty(0, np.int64)
        for search in searches:
            search.update(keys, (event_us, seq, write_us), snapshot.seq, first)
    for search in searches:
        search.finish()


def _stretches(sources: Sequence[_Source], columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """Yield successive sources put together, with the number of the first row."""
    first, tables, rows = 0, [], 0
    for source in sources:
        tables.append(source.read(columns))
        rows += source.rows
        if rows >= _MATCH_ROWS_MIN or source is sources[-1]:
            yield first, pa.concat_tables(tables)
            first, tables, rows = first + rows, [], 0


def _gather(sources: Sequence[_Source], searches: Sequence[_Search]) -> None:
    """Fetch the rows found: read what is asked for, of sources that have any."""
    for source in sources:
        asking = [(search, rows) for search in searches if (rows := search.rows_in(source)).size]
        if not asking:
            continue
        columns = dict.fromkeys(name for search, _ in asking for name in search.needed)
        table = source.read(list(columns))
        for search, rows in asking:
            search.take(table, rows)


# ── the answer ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Answer:
    """What one role gives: a value for each label, null where there is none.

    Attributes
    ----------
    status : int8
        Index into the statuses; null for MISSING.
    event_us, age_us : int64
        Of the row found, whatever its status.
    place : int64
        Row of ``taken`` that holds the label's features; null unless PRESENT.
    taken : pyarrow.Table
        The rows found, each once.
    """

    status: pa.Array
    event_us: pa.Array
    age_us: pa.Array
    place: pa.Array
    taken: pa.Table

    def feature(self, name: str) -> pa.ChunkedArray:
        """Return a feature."""
        return _take(self.taken.column(name), self.place)

    def status_names(self) -> pa.ChunkedArray:
        """Return the status by name."""
        return pa.chunked_array([_NAMES.take(self.status.fill_null(_MISSING))])

    def event_times(self) -> pa.ChunkedArray:
        """Return the event time of the row found."""
        return pa.chunked_array([self.event_us.view(_UTC)])

    def ages(self) -> pa.ChunkedArray:
        """Return how old the row found was at the label's time."""
        return pa.chunked_array([self.age_us.view(pa.duration("us"))])


def _take(column: pa.ChunkedArray, place: pa.Array) -> pa.ChunkedArray:
    """Return ``column.take(place)``, also when that is more than 2 GiB of text, a chunk's limit."""
    try:
        return column.take(place)
    except pa.ArrowInvalid:
        return _take_much(column, place)


def _take_much(column: pa.ChunkedArray, place: pa.Array) -> pa.ChunkedArray:
    """Take by way of the type's wide sibling, as many places at once as then fit in a chunk."""
    wide = column.cast(_wide(column.type))
    fitting: list[pa.Array] = []
    parts = [place]
    while parts:
        part = parts.pop()
        try:
            fitting += wide.take(part).cast(column.type).chunks
        except pa.ArrowInvalid:
            if len(part) == 1:
                raise
            half = len(part) // 2
            parts += [part.slice(half), part.slice(0, half)]
    return pa.chunked_array(fitting, column.type)


def _wide(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.large_list(_wide(kind.value_type))
    return {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(kind, kind)


# What FeatureLookup.status_columns names.
_REPORTS = (_Answer.status_names, _Answer.event_times, _Answer.ages)


def _beside(frame: Any, columns: Mapping[str, pa.ChunkedArray]) -> Any:
    """Return the labels with their answers; as many rows as there were, or nothing at all."""
    rows = frames.row_count(frame)
    result = frames.append(frame, columns)
    lengths = {len(values) for values in columns.values()} | {frames.row_count(result)}
    if lengths != {rows}:
        raise FeatureStoreError(
            f"A join of {rows} labels gave {sorted(lengths)} rows. This is a fault of the feature "
            "store, and the result was thrown away; please report it."
        )
    return result


def _int64(column: pa.Array | pa.ChunkedArray) -> Int64:
    """Return integers or times without nulls as int64, without a copy where there is one chunk."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if array.null_count:
        raise CorruptStore(
            "A history file has a row without event time, seq or write time. Run "
            "`featurestore verify`."
        )
    return np.asarray(array.view(pa.int64()).to_numpy(), np.int64)
