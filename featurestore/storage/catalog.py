"""The catalog: feature groups and feature views, and one version number over both.

::

    g <u32 group id>   definition of a feature group, all its schema versions in one (JSON)
    v <name>           definition of a feature view (JSON)
    d <u32 group id>   a dropped group whose data still has to be removed

Every change adds one to ``catalog_version``; a process keeps the parsed catalog and asks for
nothing but that number until it moves.  Group ids are never reused.  Each row, and each counter,
has a checksum (``rows``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import UnknownFeatureGroup, UnknownFeatureView, did_you_mean
from featurestore.schema import FeatureGroup
from featurestore.storage.rows import seal, seal_number, unseal, unseal_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurestore.storage.environment import Environment, Transaction

_U32 = struct.Struct(">I")
#: The counter that moves with every change of the catalog.
VERSION = b"catalog_version"


@dataclass(frozen=True)
class Catalog:
    """The catalog as it stood at one version."""

    version: int
    groups: Mapping[str, FeatureGroup]
    views: Mapping[str, dict[str, Any]]

    def group(self, name: str) -> FeatureGroup:
        """Return a group by its exact name, or say which name was meant."""
        try:
            return self.groups[name]
        except (KeyError, TypeError):
            raise UnknownFeatureGroup(
                f'There is no feature group "{name}".{did_you_mean(str(name), self.groups)}'
            ) from None

    def view(self, name: str) -> dict[str, Any]:
        """Return a view's definition by its exact name, or say which name was meant."""
        try:
            return self.views[name]
        except (KeyError, TypeError):
            raise UnknownFeatureView(
                f'There is no feature view "{name}".{did_you_mean(str(name), self.views)}'
            ) from None


def counter(env: Environment, txn: Transaction, name: bytes) -> int:
    """Return a counter of the meta database; 0 before its first use."""
    row = txn.get(name, db=env.meta)
    return 0 if row is None else unseal_number(name, row, f"The counter {name.decode()}")


def bump(env: Environment, txn: Transaction, name: bytes) -> int:
    """Add one to a counter and return the new value."""
    value = counter(env, txn, name) + 1
    put_counter(env, txn, name, value)
    return value


def put_counter(env: Environment, txn: Transaction, name: bytes, value: int) -> None:
    """Set a counter."""
    txn.put(name, seal_number(name, value), db=env.meta)


def version(env: Environment, txn: Transaction) -> int:
    """Return the catalog version at this moment."""
    return counter(env, txn, VERSION)


def load(env: Environment, txn: Transaction) -> Catalog:
    """Parse the whole catalog."""
    groups: dict[str, FeatureGroup] = {}
    views: dict[str, dict[str, Any]] = {}
    with txn.cursor(db=env.catalog) as cursor:
        for key, value in cursor:
            if key[:1] == b"g":
                group = group_of(bytes(key), bytes(value))
                groups[group.name] = group
            elif key[:1] == b"v":
                views[bytes(key[1:]).decode()] = view_of(bytes(key), bytes(value))
    return Catalog(version(env, txn), groups, views)


def group_of(key: bytes, row: bytes) -> FeatureGroup:
    """Parse the row of a group; raise ``CorruptStore`` if it is not what was written."""
    number = int.from_bytes(key[1:], "big")
    return FeatureGroup.from_json(unseal(key, row, f"The definition of feature group {number}"))


def view_of(key: bytes, row: bytes) -> dict[str, Any]:
    """Parse the row of a view; raise ``CorruptStore`` if it is not what was written."""
    name = key[1:].decode(errors="replace")
    return unseal(key, row, f'The definition of feature view "{name}"')


def has_group(env: Environment, txn: Transaction, group_id: int) -> bool:
    """Return whether a group is there at this moment."""
    return txn.get(b"g" + _U32.pack(group_id), db=env.catalog) is not None


def put_group(env: Environment, txn: Transaction, group: FeatureGroup) -> None:
    """Create or replace a group's definition."""
    key = b"g" + _U32.pack(group.id)
    txn.put(key, seal(key, group.to_json()), db=env.catalog)
    bump(env, txn, VERSION)


def drop_group(env: Environment, txn: Transaction, group_id: int) -> None:
    """Make a group unknown; its data is removed later, in small steps."""
    txn.delete(b"g" + _U32.pack(group_id), db=env.catalog)
    txn.put(b"d" + _U32.pack(group_id), b"", db=env.catalog)
    bump(env, txn, VERSION)


def dropped_groups(env: Environment, txn: Transaction) -> list[int]:
    """Return the ids of dropped groups whose data is not all gone."""
    with txn.cursor(db=env.catalog) as cursor:
        if not cursor.set_range(b"d"):
            return []
        return [
            int(_U32.unpack(bytes(k[1:]))[0])
            for k in cursor.iternext(values=False)
            if k[:1] == b"d"
        ]


def forget_dropped(env: Environment, txn: Transaction, group_id: int) -> None:
    """Note that nothing of a dropped group is left."""
    txn.delete(b"d" + _U32.pack(group_id), db=env.catalog)


def put_view(env: Environment, txn: Transaction, name: str, definition: dict[str, Any]) -> None:
    """Create or replace a view."""
    key = b"v" + name.encode()
    txn.put(key, seal(key, definition), db=env.catalog)
    bump(env, txn, VERSION)


def drop_view(env: Environment, txn: Transaction, name: str) -> None:
    """Remove a view."""
    txn.delete(b"v" + name.encode(), db=env.catalog)
    bump(env, txn, VERSION)
