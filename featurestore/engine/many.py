"""Many dicts of one group in one transaction: by column, not one by one.

::

    dicts ──► every value of exactly its type? ──► columns ──► records ──► writer: compiled loop
                  │
                  └─ no ──► one by one (records, writer.apply): converts what can be converted,
                            and names what cannot

Both roads give the same seqs, outcomes and bytes; the tests hold them to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.engine.bulk import put_each
from featurestore.engine.records import BOTH_STORES
from featurestore.engine.rows import Batch, Rows, batch_of
from featurestore.engine.writer import require_group
from featurestore.errors import FeatureStoreError
from featurestore.event_time import to_us
from featurestore.storage import catalog

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from featurestore.dtypes import DType
    from featurestore.encoding.columns import Records
    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan
    from featurestore.engine.writer import Commit, Outcome

    Given = Sequence[tuple[str, Mapping[str, Any]]]

#: What Python calls a value that needs no conversion.
_EXACT = {"float": float, "int": int, "bool": bool, "string": str, "binary": bytes}


def work_of(
    database: Database, given: Given, now_us: int, tz: str | tzinfo | None
) -> tuple[Callable[[Commit], list[Outcome]], int] | None:
    """Return what the writer is to do, and the bytes it needs; None for the other road.

    Parameters
    ----------
    database : Database
        Open for writing.
    given : sequence of (str, mapping)
        As :meth:`featurestore.FeatureStore.write` takes them; not empty.
    now_us : int
        The caller's clock.
    tz : str or tzinfo, optional
        Zone of naive timestamps.
    """
    if len({name for name, _ in given}) > 1:
        return None
    plan, version = database.plan(given[0][0])
    try:
        columns = _columns(plan, [record for _, record in given], tz)
        if columns is None:
            return None
        batch = batch_of(database, Rows(plan, columns, None, len(given)), BOTH_STORES)
        if (batch.keys.codes < 0).any() or _beyond(plan, batch, now_us):
            return None
        records = batch.records()
    except (FeatureStoreError, pa.ArrowInvalid, OverflowError, TypeError, ValueError):
        return None  # whatever it is, the other road says it better

    batch.keys.hashes(database.key_hash)  # before the lock is held
    work = _Work(batch, records, version)
    return work, 2 * (len(records.data) + len(batch.keys.data)) + 64 * len(given)


class _Work:
    """Put a batch; may run again if another job of its group commit fails."""

    def __init__(self, batch: Batch, records: Records, catalog_version: int) -> None:
        self.batch = batch
        self.records = records
        self.catalog_version = catalog_version

    def __call__(self, commit: Commit) -> list[Outcome]:
        group = self.batch.plan.group
        if catalog.version(commit.env, commit.txn) != self.catalog_version:
            require_group(commit, group.id, group.name)
        return put_each(commit, self.batch, self.records)


def _beyond(plan: Plan, batch: Batch, now_us: int) -> bool:
    """Return whether an event time is too far in the future."""
    ahead_us = plan.group.max_future_us
    return ahead_us is not None and int(batch.event_us.max()) > now_us + ahead_us


def _columns(
    plan: Plan, dicts: list[Mapping[str, Any]], tz: str | tzinfo | None
) -> dict[str, pa.Array] | None:
    """Return every feature as a column; None unless dicts and values are all of a kind."""
    if set(map(type, dicts)) != {dict}:
        return None
    names = tuple(dicts[0])
    if (
        len(names) < 2
        or set(map(len, dicts)) != {len(names)}
        or not plan.known_names.issuperset(names)
    ):
        return None
    try:
        values = dict(zip(names, zip(*map(itemgetter(*names), dicts), strict=True), strict=True))
    except KeyError:
        return None
    columns = {}
    for feature in plan.group.features:
        if feature.name not in values:
            columns[feature.name] = pa.nulls(len(dicts), feature.dtype.to_arrow())
            continue
        column = _column(values[feature.name], feature.dtype, feature.name, tz)
        if column is None:
            return None
        columns[feature.name] = column
    return None if columns[plan.group.event_time].null_count else columns


def _column(
    values: Sequence[Any], dtype: DType, name: str, tz: str | tzinfo | None
) -> pa.Array | None:
    kinds = set(map(type, values)) - {type(None)}
    if dtype.kind == "timestamp":
        if kinds != {datetime}:
            return None
        what = f'event time "{name}"'
        times_us = [None if at is None else to_us(at, tz=tz, what=what) for at in values]
        return pa.array(times_us, pa.int64()).cast(dtype.to_arrow())
    if not kinds <= {_EXACT.get(dtype.kind)}:
        return None
    if dtype.kind == "float" and dtype.bits == 32:
        doubles = np.array([np.nan if v is None else v for v in values])
        with np.errstate(over="ignore"):
            if np.isinf(doubles.astype(np.float32)).sum() != np.isinf(doubles).sum():
                return None
    return pa.array(values, dtype.to_arrow())
