"""Feature views read online: every lookup of a view from the latest records, at one moment.

::

    view ──compile──▶ roles (once per catalog version)      entities: a table ──▶ lookup: Arrow
                        │                                   a dict ──▶ plan and codec: Python
                        └── group, key columns, features, names of the result, max_age

The offline twin is the point-in-time join; both name columns by
:func:`featurestore.feature_view.result_columns` and take ``max_age`` as *clock - event time*.
``delay`` has no part here: a record that is in the store has arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.casts import cast_column
from featurestore.dtypes import is_null
from featurestore.engine import frames, lookup
from featurestore.engine.reader import AGE_MAX_US, MISSING, find, require_online
from featurestore.errors import InvalidInput
from featurestore.event_time import to_datetime
from featurestore.feature_view import FeatureView, claim_column, expand, result_columns
from featurestore.record import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan
    from featurestore.engine.reader import Columns
    from featurestore.feature_view import FeatureLookup
    from featurestore.storage.environment import Transaction

#: Ever new selections must not grow a server for ever.
_COMPILED_MAX = 1000


class _Role:
    """Lookups that read the same records, compiled: what is read, and what it adds.

    ``["weather:temp", "weather:wind"]`` are two lookups and one role.
    """

    def __init__(self, lookup: FeatureLookup, plan: Plan) -> None:
        self.plan = plan
        self.keys = lookup.keys(plan.group)  # key -> column of the entities
        self.max_age_us = AGE_MAX_US if lookup.max_age_us is None else lookup.max_age_us
        self.columns: dict[str, str] = {}  # column of the result -> feature
        self.status_columns: list[tuple[str, str, str]] = []

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The value features; identifier and event time are known without reading the slots."""
        group = self.plan.group
        outside = {*group.record_identifier, group.event_time}
        return tuple(dict.fromkeys(n for n in self.columns.values() if n not in outside))

    @cached_property
    def needs_status(self) -> bool:
        """Whether the answer holds more than value features."""
        return bool(self.status_columns) or not set(self.values).issuperset(self.columns.values())


class _Compiled(NamedTuple):
    """What is to be read, and the columns of the result in their order."""

    roles: list[_Role]
    columns: list[str]


def lookup_features(
    database: Database, references: Any, entities: Any, clock_us: int, *, with_status: bool
) -> Any:
    """Return the entities with the latest features beside them.

    Parameters
    ----------
    references : str, FeatureView, FeatureLookup or a list of references
        What to look up.
    entities : dict or table
        Key columns; a dict asks about one entity and is answered by a dict of features.
    clock_us : int
        Decides expiry and age.
    with_status : bool
        Also say status, event time and age of each lookup, as the join does.
    """
    if isinstance(entities, Mapping) and not any(map(_is_column, entities.values())):
        with database.read() as txn:
            compiled = _compiled(database, txn, references, (), with_status=with_status)
            return _one(database, txn, compiled, entities, clock_us)
    frame = frames.accept(entities, "entities")
    taken = tuple(frames.column_names(frame))
    found: dict[str, pa.Array] = {}
    encoded: dict[Any, tuple[list[pa.Array], lookup.KeyBytes]] = {}
    with database.read() as txn:
        compiled = _compiled(database, txn, references, taken, with_status=with_status)
        for role in compiled.roles:
            asked = (*role.keys.values(), *role.plan.key_dtypes)
            if asked not in encoded:
                columns = _key_columns(role, frame, taken)
                encoded[asked] = columns, lookup.encode(columns, role.plan.key_dtypes)
            columns, keys = encoded[asked]
            records = lookup.look_up(
                database, txn, role.plan, keys, role.values, clock_us, role.max_age_us,
                with_status=role.needs_status,
            )  # fmt: skip
            found |= _columns(role, columns, records)
    return frames.append(
        frame, {column: pa.chunked_array([found[column]]) for column in compiled.columns}
    )


def _is_column(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray, pa.Array, pa.ChunkedArray))


def _compiled(
    database: Database,
    txn: Transaction,
    references: Any,
    taken: tuple[str, ...],
    *,
    with_status: bool,
) -> _Compiled:
    """Return what is to be read; worked out once for each version of the catalog."""
    known = database.catalog_at(txn)

    def view(name: str) -> FeatureView:
        return FeatureView.from_json(known.view(name))

    kept = database.compiled_at(txn)
    named = references if isinstance(references, str) and ":" not in references else None
    asked = (named or expand(references, view), taken, with_status)
    found: _Compiled | None = kept.get(asked)
    if found is None:
        if len(kept) >= _COMPILED_MAX:
            kept.clear()
        lookups = expand(references, view)
        found = kept[asked] = _compile(database, txn, lookups, taken, with_status=with_status)
    return found


def _compile(
    database: Database,
    txn: Transaction,
    lookups: Sequence[FeatureLookup],
    taken: Sequence[str],
    *,
    with_status: bool,
) -> _Compiled:
    """Return lookups as roles, no two columns of one name."""
    if any(asked.last_n is not None for asked in lookups):
        raise InvalidInput(
            "last_n= is for point_in_time: the online store keeps the latest record of a key only."
        )
    known = database.catalog_at(txn)
    groups = {asked.group: known.group(asked.group) for asked in lookups}
    added = result_columns(lookups, groups, taken=taken)
    owners = dict.fromkeys([*taken, *(c for columns in added for c in columns)], "the result")
    roles: dict[Any, _Role] = {}
    order: list[str] = []
    for asked, columns in zip(lookups, added, strict=True):
        plan = database.plan_at(txn, asked.group)
        require_online(plan.group)
        reading = (asked.group, tuple(asked.keys(plan.group).items()), asked.max_age)
        role = roles.setdefault(reading, _Role(asked, plan))
        role.columns |= {column: feature.name for column, feature in columns.items()}
        order += columns
        if with_status and asked.status_columns not in role.status_columns:
            role.status_columns.append(asked.status_columns)
            for name in asked.status_columns:
                claim_column(owners, name, asked)
            order += asked.status_columns
    return _Compiled(list(roles.values()), order)


# ── many entities ────────────────────────────────────────────────────────────────────────────


def _key_columns(role: _Role, frame: Any, given: Sequence[str]) -> list[pa.Array]:
    arrays = []
    for feature, column in zip(role.plan.group.key_features, role.keys.values(), strict=True):
        _require_column(role, column, given)
        arrays.append(cast_column(frames.column(frame, column), feature.dtype, column))
    return arrays


def _require_column(role: _Role, column: str, given: Iterable[str]) -> None:
    if column not in given:
        raise InvalidInput(
            f'The entities have no column "{column}", the key of "{role.plan.group.name}"; '
            f"they have {', '.join(given)}. Name it, or map it with on=."
        )


def _columns(role: _Role, keys: Sequence[pa.Array], found: Columns) -> dict[str, pa.Array]:
    """Return the columns a role adds: features, null unless PRESENT, and the statuses."""
    group = role.plan.group
    values = dict(zip(role.values, found.values, strict=True))
    if not values.keys() >= set(role.columns.values()):
        outside = dict(zip(group.record_identifier, keys, strict=True))
        outside[group.event_time] = found.event_time
        present = pc.equal(found.status, str(Status.PRESENT))
        values |= {name: pc.if_else(present, array, None) for name, array in outside.items()}
    columns = {column: values[name] for column, name in role.columns.items()}
    for names in role.status_columns:
        columns |= zip(names, (found.status, found.event_time, found.age), strict=True)
    return columns


# ── one entity ───────────────────────────────────────────────────────────────────────────────


def _one(
    database: Database,
    txn: Transaction,
    compiled: _Compiled,
    entity: Mapping[str, Any],
    clock_us: int,
) -> dict[str, Any]:
    """Return the features of one entity, without Arrow on the way."""
    result = dict.fromkeys(compiled.columns)
    for role in compiled.roles:
        key = {}
        for name, column in role.keys.items():
            _require_column(role, column, entity)
            key[name] = entity[column]
        found = MISSING
        if not any(map(is_null, key.values())):
            names = tuple(role.columns.values())
            found = find(database, txn, role.plan, key, names, clock_us, role.max_age_us)
        record = found.record or {}
        for column, name in role.columns.items():
            result[column] = record.get(name)
        if role.status_columns:
            header = found.header
            at = age = None
            if header is not None:
                at = to_datetime(header.event_time_us)
                age = timedelta(microseconds=clock_us - header.event_time_us)
            for columns in role.status_columns:
                result |= zip(columns, (str(found.status), at, age), strict=True)
    return result
