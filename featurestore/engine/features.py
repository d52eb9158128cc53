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
from typing import TYPE_CHECKING, Any

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
    from collections.abc import Iterable, Iterator, Sequence

    from featurestore.engine.database import Database
    from featurestore.engine.plan import Plan
    from featurestore.engine.reader import Columns
    from featurestore.feature_view import FeatureLookup
    from featurestore.storage.environment import Transaction

#: Ever new selections must not grow a server for ever.
_COMPILED_MAX = 1000


class _Role:
    """A lookup compiled: what it reads and what it adds to the answer."""

    def __init__(
        self, lookup: FeatureLookup, plan: Plan, columns: Mapping[str, str], *, says_status: bool
    ) -> None:
        group = plan.group
        outside = (*group.record_identifier, group.event_time)
        self.plan = plan
        self.columns = columns  # column -> feature
        self.keys = lookup.keys(group)  # key -> column of the entities
        self.max_age_us = AGE_MAX_US if lookup.max_age_us is None else lookup.max_age_us
        self.status_columns = lookup.status_columns if says_status else ()
        # Identifier and event time are known without reading the slots.
        self.values = tuple(dict.fromkeys(n for n in columns.values() if n not in outside))
        self.only_values = tuple(columns.values()) == self.values


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
            roles = _compiled(database, txn, references, (), with_status=with_status)
            return _one(database, txn, roles, entities, clock_us)
    frame = frames.accept(entities, "entities")
    taken = tuple(frames.column_names(frame))
    result: dict[str, pa.ChunkedArray] = {}
    with database.read() as txn:
        for role in _compiled(database, txn, references, taken, with_status=with_status):
            keys = _key_columns(role, frame, taken)
            encoded = lookup.encode(keys, role.plan.key_dtypes)
            found = lookup.look_up(
                database, txn, role.plan, encoded, role.values, clock_us, role.max_age_us
            )
            for column, array in _columns(role, keys, found):
                result[column] = pa.chunked_array([array])
    return frames.append(frame, result)


def _is_column(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray, pa.Array, pa.ChunkedArray))


def _compiled(
    database: Database,
    txn: Transaction,
    references: Any,
    taken: tuple[str, ...],
    *,
    with_status: bool,
) -> list[_Role]:
    """Return what is to be read; worked out once for each version of the catalog."""
    known = database.catalog_at(txn)

    def view(name: str) -> FeatureView:
        return FeatureView.from_json(known.view(name))

    compiled = database.compiled_at(txn)
    named = references if isinstance(references, str) and ":" not in references else None
    asked = (named or expand(references, view), taken, with_status)
    roles: list[_Role] | None = compiled.get(asked)
    if roles is None:
        if len(compiled) >= _COMPILED_MAX:
            compiled.clear()
        lookups = expand(references, view)
        roles = compiled[asked] = _compile(database, txn, lookups, taken, with_status=with_status)
    return roles


def _compile(
    database: Database,
    txn: Transaction,
    lookups: Sequence[FeatureLookup],
    taken: Sequence[str],
    *,
    with_status: bool,
) -> list[_Role]:
    """Return each lookup as a role, no two columns of one name."""
    known = database.catalog_at(txn)
    groups = {asked.group: known.group(asked.group) for asked in lookups}
    added = result_columns(lookups, groups, taken=taken)
    owners = dict.fromkeys([*taken, *(c for columns in added for c in columns)], "the result")
    reported: list[Any] = []
    roles = []
    for asked, columns in zip(lookups, added, strict=True):
        plan = database.plan_at(txn, asked.group)
        require_online(plan.group)
        # Lookups that read the same record say so once.
        reading = (asked.status_columns, asked.keys(plan.group), asked.max_age)
        says_status = with_status and reading not in reported
        if says_status:
            reported.append(reading)
            for name in asked.status_columns:
                claim_column(owners, name, asked)
        names = {column: feature.name for column, feature in columns.items()}
        roles.append(_Role(asked, plan, names, says_status=says_status))
    return roles


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


def _columns(
    role: _Role, keys: Sequence[pa.Array], found: Columns
) -> Iterator[tuple[str, pa.Array]]:
    """Yield the columns a lookup adds: features that are null unless PRESENT, then the status."""
    if role.only_values:
        yield from zip(role.columns, found.values, strict=True)
    else:
        group = role.plan.group
        outside = dict(zip(group.record_identifier, keys, strict=True))
        outside[group.event_time] = found.event_time
        present = pc.equal(found.status, str(Status.PRESENT))
        values = {name: pc.if_else(present, array, None) for name, array in outside.items()}
        values |= zip(role.values, found.values, strict=True)
        for column, name in role.columns.items():
            yield column, values[name]
    if role.status_columns:
        system = (found.status, found.event_time, found.age)
        yield from zip(role.status_columns, system, strict=True)


# ── one entity ───────────────────────────────────────────────────────────────────────────────


def _one(
    database: Database,
    txn: Transaction,
    roles: Sequence[_Role],
    entity: Mapping[str, Any],
    clock_us: int,
) -> dict[str, Any]:
    """Return the features of one entity, without Arrow on the way."""
    result: dict[str, Any] = {}
    for role in roles:
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
            us = None if header is None else header.event_time_us
            at = None if us is None else to_datetime(us)
            age = None if us is None else timedelta(microseconds=clock_us - us)
            result |= zip(role.status_columns, (str(found.status), at, age), strict=True)
    return result
