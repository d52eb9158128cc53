"""What a join is asked for: which readings of which groups, and which columns to make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from featurestore.engine.point_in_time.answer import REPORTS, Answer
from featurestore.feature_view import FeatureLookup, claim_column, result_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.schema import FeatureGroup


@dataclass(frozen=True)
class Role:
    """One way of reading a group.  Lookups that agree on all of this share one search."""

    group: str
    label_columns: tuple[str, ...]
    delay_us: int
    max_age_us: int | None

    @classmethod
    def of(cls, lookup: FeatureLookup, group: FeatureGroup) -> Role:
        """Return the role in which a lookup reads its group."""
        label_columns = tuple(lookup.keys(group).values())
        return cls(lookup.group, label_columns, lookup.delay_us, lookup.max_age_us)


@dataclass(frozen=True)
class Plan:
    """What to search for, and which columns to make of it.

    Attributes
    ----------
    roles : dict of Role to list of str
        The features that some lookup takes from each role.
    columns : list of (str, Role, callable)
        The result's new columns in order, and how each is had from its role's answer.
    """

    roles: dict[Role, list[str]] = field(default_factory=dict)
    columns: list[tuple[str, Role, Callable[[Answer], pa.ChunkedArray]]] = field(
        default_factory=list
    )

    @classmethod
    def of(
        cls,
        lookups: Sequence[FeatureLookup],
        snapshots: Mapping[str, GroupSnapshot],
        label_columns: Iterable[str],
        *,
        with_status: bool,
    ) -> Plan:
        """Plan some lookups beside labels of these columns; refuse two columns of one name."""
        plan = cls()
        groups = {name: snapshot.group for name, snapshot in snapshots.items()}
        owners = dict.fromkeys(label_columns, "the labels")
        reported = set()
        for lookup, added in zip(lookups, result_columns(lookups, groups, owners), strict=True):
            role = Role.of(lookup, groups[lookup.group])
            features = plan.roles.setdefault(role, [])
            for column, feature in added.items():
                claim_column(owners, column, lookup)
                plan.columns.append((column, role, partial(Answer.feature, name=feature.name)))
                if feature.name not in features:
                    features.append(feature.name)
            # "weather:temp" and "weather:wind_speed" are one reading, and have one status.
            if with_status and (role, lookup.prefix) not in reported:
                reported.add((role, lookup.prefix))
                for column, report in zip(lookup.status_columns, REPORTS, strict=True):
                    claim_column(owners, column, lookup)
                    plan.columns.append((column, role, report))
        return plan
