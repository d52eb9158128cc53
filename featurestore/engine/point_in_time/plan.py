"""What a join is asked for: which readings of which groups, and which columns to make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from featurestore.encoding.columns import history_schema
from featurestore.engine.point_in_time.answer import ORIGINS, REPORTS, Answer, report_types
from featurestore.errors import InvalidInput
from featurestore.feature_view import FeatureLookup, claim_column, result_columns

if TYPE_CHECKING:
    from datetime import tzinfo

    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.schema import FeatureGroup


@dataclass(frozen=True)
class Role:
    """One way of reading a group.  Lookups that agree on all of this share one search."""

    group: str
    label_columns: tuple[str, ...]
    delay_us: int
    max_age_us: int | None
    last_n: int | None = None

    @classmethod
    def of(cls, lookup: FeatureLookup, group: FeatureGroup) -> Role:
        """Return the role in which a lookup reads its group."""
        label_columns = tuple(lookup.keys(group).values())
        return cls(lookup.group, label_columns, lookup.delay_us, lookup.max_age_us, lookup.last_n)

    def kind(self, kind: pa.DataType) -> pa.DataType:
        """Return the type of a result's column for a feature of this type."""
        return kind if self.last_n is None else pa.list_(kind)


@dataclass(frozen=True)
class Question:
    """What is asked, and how the asker wants it answered; see ``point_in_time.join``."""

    lookups: Sequence[FeatureLookup]
    label_time: str | None = None
    known: str = "event_time"
    tz: str | tzinfo | None = None
    with_status: bool = False
    explain: bool = False

    def __post_init__(self) -> None:
        """Refuse a rule that does not exist."""
        if self.known not in ("event_time", "write_time"):
            raise InvalidInput(f'known= is {self.known!r}; it is "event_time" or "write_time".')

    @property
    def by_write_time(self) -> bool:
        """Whether a record also has to have arrived by the label's time."""
        return self.known == "write_time"

    @property
    def every_status(self) -> bool:
        """Whether it matters why a label gets nulls."""
        return self.with_status or self.explain


@dataclass(frozen=True)
class Plan:
    """What to search for, and which columns to make of it.

    Attributes
    ----------
    question : Question
        What was asked.
    roles : dict of Role to list of str
        The features that some lookup takes from each role.
    columns : list of (str, Role, callable)
        The result's new columns in order, and how each is had from its role's answer.
    """

    question: Question
    roles: dict[Role, list[str]] = field(default_factory=dict)
    columns: list[tuple[str, Role, Callable[[Answer], pa.ChunkedArray]]] = field(
        default_factory=list
    )

    @classmethod
    def of(
        cls,
        question: Question,
        snapshots: Mapping[str, GroupSnapshot],
        label_columns: Iterable[str],
    ) -> Plan:
        """Plan some lookups beside labels of these columns; refuse two columns of one name."""
        plan = cls(question)
        lookups = question.lookups
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
            if (role, lookup.prefix) not in reported:
                reported.add((role, lookup.prefix))
                for column, report in plan._reports(lookup):
                    claim_column(owners, column, lookup)
                    plan.columns.append((column, role, report))
        return plan

    def _reports(
        self, lookup: FeatureLookup
    ) -> Iterator[tuple[str, Callable[[Answer], pa.ChunkedArray]]]:
        if self.question.every_status:
            yield from zip(lookup.status_columns, REPORTS, strict=True)
        if self.question.explain:
            yield from zip(lookup.explain_columns, ORIGINS, strict=True)

    def types(self, snapshots: Mapping[str, GroupSnapshot]) -> dict[str, pa.DataType]:
        """Return the types of the new columns, before there is any answer."""
        kinds = {}
        for column, role, value in self.columns:
            if isinstance(value, partial):
                schema = history_schema(snapshots[role.group].group)
                kinds[column] = role.kind(schema.field(value.keywords["name"]).type)
            else:
                kinds[column] = report_types[value]
        return kinds

    def lists(self) -> dict[str, int]:
        """Return the new columns that are lists of last values, and how many these are at most."""
        return {
            column: role.last_n
            for column, role, value in self.columns
            if role.last_n is not None and isinstance(value, partial)
        }
