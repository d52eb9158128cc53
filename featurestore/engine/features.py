"""Feature views read online: every lookup of a view from the latest records, at one moment.

The offline twin is the point-in-time join; both name columns by
:func:`featurestore.feature_view.result_columns` and take ``max_age`` as *clock - event time*.
``delay`` has no part here: a record that is in the store has arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.casts import cast_column
from featurestore.encoding.columns import encode_keys
from featurestore.engine import frames
from featurestore.engine.reader import columns_of, fetch, require_online
from featurestore.errors import InvalidInput
from featurestore.feature_view import claim_column, result_columns
from featurestore.record import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan
    from featurestore.feature_view import FeatureLookup


class _Asked(NamedTuple):
    lookup: FeatureLookup
    plan: Plan
    codes: np.ndarray[Any, np.dtype[np.int64]]
    keys: list[bytes]
    records: Sequence[bytes | None]


def lookup_features(
    database: Database,
    lookups: Sequence[FeatureLookup],
    entities: Any,
    clock_us: int,
    *,
    with_status: bool,
) -> Any:
    """Return the entities with the latest features beside them.

    Parameters
    ----------
    lookups : sequence of FeatureLookup
        Of the view.
    entities : dict or table
        Key columns; a dict asks about one entity and is answered by a dict of features.
    clock_us : int
        Decides expiry and age.
    with_status : bool
        Also say status, event time and age of each lookup, as the join does.
    """
    single = isinstance(entities, dict) and not any(
        isinstance(value, (list, tuple, np.ndarray)) for value in entities.values()
    )
    frame = frames.accept([entities] if single else entities, "entities")
    asked: list[_Asked] = []
    with database.read() as txn:
        known = database.catalog_at(txn)
        groups = {lookup.group: known.group(lookup.group) for lookup in lookups}
        taken = () if single else frames.column_names(frame)
        columns = result_columns(lookups, groups, taken=taken)
        for lookup in lookups:
            plan = database.plan_at(txn, lookup.group)
            require_online(plan.group)
            codes, keys = _keys(plan, lookup, frame)
            records = fetch(database, txn, plan, keys)
            asked.append(_Asked(lookup, plan, codes, keys, records))
    result: dict[str, pa.ChunkedArray] = {}
    reported: list[Any] = []
    owners = dict.fromkeys([*taken, *(c for added in columns for c in added)], "the result")
    for one, added in zip(asked, columns, strict=True):
        found, status = _answer(one, {c: f.name for c, f in added.items()}, clock_us)
        result |= found
        reading = (one.lookup.status_columns, one.lookup.keys(one.plan.group), one.lookup.max_age)
        if with_status and reading not in reported:
            # Lookups that read the same record say so once.
            reported.append(reading)
            for name, column in zip(one.lookup.status_columns, status, strict=True):
                claim_column(owners, name, one.lookup)
                result[name] = column
    if single:
        return {name: column.to_pylist()[0] for name, column in result.items()}
    return frames.append(frame, result)


def _keys(
    plan: Plan, lookup: FeatureLookup, frame: Any
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[bytes]]:
    arrays = []
    for feature, column in zip(
        plan.group.key_features, lookup.keys(plan.group).values(), strict=True
    ):
        if column not in frames.column_names(frame):
            raise InvalidInput(
                f'The entities have no column "{column}", the key of "{plan.group.name}"; '
                f"they have {', '.join(frames.column_names(frame))}. Name it, or map it with on=."
            )
        arrays.append(cast_column(frames.column(frame, column), feature.dtype, column))
    keys = encode_keys(arrays, plan.key_dtypes)
    return keys.codes, keys.keys


def _answer(
    asked: _Asked, wanted: Mapping[str, str], clock_us: int
) -> tuple[dict[str, pa.ChunkedArray], list[pa.ChunkedArray]]:
    """Return the features by column, and status, event time and age."""
    found = columns_of(asked.plan, asked.keys, asked.records, clock_us)
    status = found.status
    max_age_us = asked.lookup.max_age_us
    if max_age_us is not None:
        old = pc.fill_null(pc.greater(found.age.view(pa.int64()), max_age_us), False)
        too_old = pc.and_(old, pc.equal(status, str(Status.PRESENT)))
        status = pc.if_else(too_old, str(Status.EXPIRED), status)
    rows = pa.array(asked.codes, mask=asked.codes < 0)
    present = pc.if_else(pc.equal(status, str(Status.PRESENT)), pa.array(range(len(status))), None)
    live = present.take(rows)
    features = {
        column: pa.chunked_array([found.values[name].take(live)]) for column, name in wanted.items()
    }
    return features, [
        pa.chunked_array([pc.fill_null(status.take(rows), str(Status.MISSING))]),
        pa.chunked_array([found.event_time.take(rows)]),
        pa.chunked_array([found.age.take(rows)]),
    ]
