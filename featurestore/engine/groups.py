"""Definitions: making, changing and dropping feature groups and feature views.

Each change is one transaction on the catalog.  Names that differ only in case would be one table
to SQL, so they are refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurestore.engine import cleaner
from featurestore.errors import (
    FeatureGroupExists,
    FeatureViewExists,
    InvalidInput,
    SchemaMismatch,
)
from featurestore.feature_view import FeatureView, result_columns
from featurestore.schema import same_schema
from featurestore.storage import catalog, seam

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurestore.engine.database import Database
    from featurestore.engine.writer import Commit
    from featurestore.schema import FeatureGroup
    from featurestore.storage.catalog import Catalog


def create_group(
    database: Database, wanted: FeatureGroup, now_us: int, *, exist_ok: bool
) -> FeatureGroup:
    """Create a group; with ``exist_ok`` one that has, or grew from, that schema is left alone."""

    def work(commit: Commit) -> FeatureGroup:
        env, txn = commit.env, commit.txn
        existing: FeatureGroup | None = _namesake(catalog.load(env, txn).groups, wanted.name)
        if existing is None:
            group = replace(wanted, id=catalog.bump(env, txn, b"last_group_id"))
            catalog.put_group(env, txn, group)
            return group
        if existing.name != wanted.name:
            raise FeatureGroupExists(
                f'There is a feature group "{existing.name}"; to SQL "{wanted.name}" would be the '
                "same name. Choose another."
            )
        if not exist_ok:
            raise FeatureGroupExists(
                f'Feature group "{wanted.name}" exists. Pass exist_ok=True to use it as it is.'
            )
        difference = same_schema(existing, wanted)
        if difference is not None and not _grew_from(existing, wanted):
            raise SchemaMismatch(
                f'Feature group "{wanted.name}" exists and is different: {difference}. Use it as '
                "it is, add features with update_feature_group, or choose another name."
            )
        return existing

    return database.writer.call(work, now_us, bytes_needed=4096)


def update_group(
    database: Database, name: str, change: Callable[[FeatureGroup], FeatureGroup], now_us: int
) -> FeatureGroup:
    """Replace a group's definition by what ``change`` makes of it; the change is dated."""

    def work(commit: Commit) -> FeatureGroup:
        before = catalog.load(commit.env, commit.txn).group(name)
        group = change(before).dated(before, commit.write_time_us)
        catalog.put_group(commit.env, commit.txn, group)
        return group

    return database.writer.call(work, now_us, bytes_needed=4096)


def drop_group(database: Database, name: str, now_us: int) -> None:
    """Drop a group: unknown at once, its data removed after that in small steps."""

    def work(commit: Commit) -> int:
        known = catalog.load(commit.env, commit.txn)
        group = known.group(name)
        users = [view for view in known.views if name in _groups_of(known, view)]
        if users:
            raise InvalidInput(
                f'Feature group "{name}" is used by feature view "{users[0]}". '
                "Delete the view first."
            )
        catalog.drop_group(commit.env, commit.txn, group.id)
        return group.id

    group_id = database.writer.call(work, now_us)
    seam.point("group.dropped")
    cleaner.purge_group(database, group_id, now_us)


def create_view(database: Database, view: FeatureView, now_us: int, *, exist_ok: bool) -> None:
    """Create a view after checking it against the definitions of its groups."""

    def work(commit: Commit) -> None:
        known = catalog.load(commit.env, commit.txn)
        result_columns(view.lookups, known.groups)
        existing = _namesake(known.views, view.name)
        if existing is None:
            catalog.put_view(commit.env, commit.txn, view.name, view.to_json())
            return
        if not exist_ok or existing["lookups"] != view.to_json()["lookups"]:
            raise FeatureViewExists(
                f'Feature view "{existing["name"]}" exists'
                f"{' and selects something else' if exist_ok else ''}. Choose another name, or "
                "delete it first."
            )

    database.writer.call(work, now_us, bytes_needed=4096)


def drop_view(database: Database, name: str, now_us: int) -> None:
    """Remove a view."""

    def work(commit: Commit) -> None:
        catalog.load(commit.env, commit.txn).view(name)
        catalog.drop_view(commit.env, commit.txn, name)

    database.writer.call(work, now_us)


def _grew_from(existing: FeatureGroup, wanted: FeatureGroup) -> bool:
    """Return whether the group was once what is wanted: features have only been added since."""
    return any(
        same_schema(replace(existing, features=existing.features_at(version)), wanted) is None
        for version in range(1, existing.version)
    )


def _groups_of(known: Catalog, view: str) -> set[str]:
    return {lookup.group for lookup in FeatureView.from_json(known.views[view]).lookups}


def _namesake(known: Any, name: str) -> Any:
    return next((known[n] for n in known if n.casefold() == name.casefold()), None)
