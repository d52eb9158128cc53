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

How it is done, file by file of this folder::

    plan      lookups ─▶ roles: (group, key columns, delay, age limit), each searched once
    labels    keys as numbers; labels laid out by key and time, once for all with the same key
    history   files and journal tail ─▶ pieces that may matter, by manifest and footers
    match     key and event time of those pieces ─▶ kernels.asof ─▶ the row of each label
    gather    of those rows only: status, and the features asked for
    columns   values ─▶ the result's columns
    answer    the result of one role

Files are sorted as labels are laid out, so matching is a merge that costs per key and label.
Windows are gone through from the newest, and left out once no label can get a better row from
them.  Keys are compared as values (``key_index``).  Files are read in threads, which pyarrow and
the kernels let run side by side.  Memory is bounded by the labels, the result, the keys and times
of a few files, and one row group for each thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from featurestore.encoding.columns import history_schema
from featurestore.engine import frames
from featurestore.engine.point_in_time.answer import Answer, _take_much
from featurestore.engine.point_in_time.gather import gather
from featurestore.engine.point_in_time.history import Bounds, History
from featurestore.engine.point_in_time.labels import Labels, label_times
from featurestore.engine.point_in_time.match import Search, match
from featurestore.engine.point_in_time.plan import Plan, Role
from featurestore.errors import FeatureStoreError, InvalidInput

if TYPE_CHECKING:
    from datetime import tzinfo

    import pyarrow as pa

    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.feature_view import FeatureLookup

# Looking keys up costs something for each call: small files are put together up to so many rows.
_MATCH_ROWS_MIN = 1 << 20

# To leave files out by their range of hashes, keys must be hashed; many leave none out.
_HASHED_KEYS_MAX = 10_000

_THREADS = min(os.cpu_count() or 1, 8)


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
    plan = Plan.of(lookups, snapshots, frames.column_names(frame), with_status=with_status)
    asked = Labels(frame, label_times(frame, label_time, tz), tz)
    answers: dict[Role, Answer] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for name in dict.fromkeys(lookup.group for lookup in lookups):
            with History.of(snapshots[name]) as history:
                answers |= _answer(plan, asked, history, pool, known, every_status=with_status)
    return _beside(frame, {column: take(answers[role]) for column, role, take in plan.columns})


def _answer(
    plan: Plan,
    labels: Labels,
    history: History,
    pool: ThreadPoolExecutor,
    known: str,
    *,
    every_status: bool,
) -> dict[Role, Answer]:
    """Answer all roles in which one group is read."""
    snapshot = history.snapshot
    group = snapshot.group
    searches = [
        Search(role, features, labels.keys(role, group), labels.time_us)
        for role, features in plan.roles.items()
        if role.group == group.name
    ]
    sources = []
    if len(labels):
        sources = history.sources(
            Bounds.of(
                snapshot, searches, every_status=every_status, hashed_keys_max=_HASHED_KEYS_MAX
            )
        )
    by_write_time = known == "write_time"
    match(
        sources, searches, snapshot, pool,
        by_write_time=by_write_time, stretch_rows=_MATCH_ROWS_MIN,
    )  # fmt: skip
    schema = history_schema(group)
    return {
        search.role: gather(sources, search, labels.time_us, schema, pool) for search in searches
    }


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


__all__ = ["_take_much", "join"]
