"""Selections of features: what to take from which group, for which key, known how, under what name.

A :class:`FeatureLookup` reads one group in one role.  The flights table has two airports, so the
weather group is read twice, and each reading says which of the labels' columns is its key::

    labels                        weather                    result
    origin  dest  event_time      origin  time_hour  temp    origin  dest  …  temp  dest_temp
      │      │                      ▲                                          ▲      ▲
      │      └── on={"origin": "dest"}, prefix="dest_" ────────────────────────┼──────┘
      └───────── "weather:temp"  (keys of the same name) ──────────────────────┘

A :class:`FeatureView` is a list of lookups under a name.  Training reads it at the labels' times,
serving reads it now: one definition, so the two cannot take different features.

============================  =================================================================
written                       means
============================  =================================================================
``"weather:temp"``            one feature
``"weather:temp,wind_speed"`` several
``"weather:*"``               every feature but the identifier and the event time
``"late_flights"``            the lookups of that feature view
``FeatureLookup(...)``        the same, with another key, names, an age limit or a delay
============================  =================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from featurestore.errors import (
    ColumnClash,
    CorruptStore,
    InvalidInput,
    UnknownFeature,
    UnknownFeatureGroup,
    UnknownFeatureView,
    did_you_mean,
)
from featurestore.event_time import duration_us, format_duration
from featurestore.schema import Feature, FeatureGroup, check_name

EVERY = "*"


@dataclass(frozen=True)
class FeatureLookup:
    """Features of one group, read in one role.

    Parameters
    ----------
    group : str
        Name of the feature group.
    features : str or sequence of str, default "*"
        Names of features; ``"*"`` stands for all but the identifier and the event time, which may
        be asked for by name.
    on : mapping, optional
        Feature of the group's identifier -> column of the labels that holds it.  By default the
        columns have the names of the identifier.
    prefix : str, default ""
        Put before the features' names in the result.
    rename : mapping, optional
        Feature -> its exact name in the result; the prefix does not apply to it.
    max_age : str or timedelta, optional
        A record older than this at the label's time gives nulls and status EXPIRED, never an
        older record.
    delay : str or timedelta, optional
        How long after its event time a record becomes known, such as the time a report takes to
        be published.
    last_n : int, optional
        Take the last so many values at or before the label, as a list with the newest last, in a
        point-in-time join.  There is one value for each event time, the newest version of it;
        what was deleted, has expired at the label's time or is over ``max_age`` is left out.  The
        list is null unless the newest record is PRESENT, and shorter where there are fewer.

    Examples
    --------
    >>> FeatureLookup("weather", ["temp"], on={"origin": "dest"}, prefix="dest_", max_age="120m")
    FeatureLookup("weather", ["temp"], on={'origin': 'dest'}, prefix='dest_', max_age='2h')
    """

    group: str
    features: str | Sequence[str] = (EVERY,)
    on: Mapping[str, str] | None = None
    prefix: str = ""
    rename: Mapping[str, str] | None = None
    max_age: str | timedelta | None = None
    delay: str | timedelta | None = None
    last_n: int | None = None

    def __post_init__(self) -> None:
        """Bring every field to one form, so that equal lookups are equal."""
        check_name(self.group, "feature group")
        features = (self.features,) if isinstance(self.features, str) else tuple(self.features)
        if not features or not all(isinstance(name, str) and name for name in features):
            raise InvalidInput(
                f"A lookup in {self.group!r} names the features {self.features!r}; give at least "
                'one name, or "*" for all.'
            )
        if not isinstance(self.prefix, str):
            raise InvalidInput(f"prefix= is {self.prefix!r}; give a string to put before names.")
        settle = object.__setattr__  # the way to set a field of a frozen dataclass
        settle(self, "features", tuple(dict.fromkeys(features)))
        settle(self, "on", _names(self.on, "on", "{key of the group: column of the labels}"))
        settle(self, "rename", _names(self.rename, "rename", "{feature: name in the result}"))
        settle(self, "max_age", _duration(self.max_age, "max_age"))
        settle(self, "delay", _duration(self.delay, "delay"))
        if self.last_n is not None and (type(self.last_n) is not int or self.last_n < 1):
            raise InvalidInput(f"last_n= is {self.last_n!r}; give a whole number from 1 up.")

    def __hash__(self) -> int:
        """Return a hash of the fields that tell lookups apart well enough."""
        return hash((self.group, self.features, self.prefix, self.max_age, self.delay))

    def __repr__(self) -> str:
        """Return the call that makes this lookup, without its defaults."""
        options: dict[str, object] = {"on": self.on, "prefix": self.prefix, "rename": self.rename}
        options |= {"max_age": self.max_age, "delay": self.delay, "last_n": self.last_n}
        given = "".join(f", {name}={value!r}" for name, value in options.items() if value)
        listed = ", ".join(f'"{name}"' for name in self.features)
        return f'FeatureLookup("{self.group}", [{listed}]{given})'

    @property
    def max_age_us(self) -> int | None:
        """The age limit in microseconds; None for no limit."""
        return None if self.max_age is None else duration_us(self.max_age)

    @property
    def delay_us(self) -> int:
        """The delay in microseconds."""
        return 0 if self.delay is None else duration_us(self.delay)

    @property
    def status_columns(self) -> tuple[str, str, str]:
        """The columns that say how a record was found: its status, event time and age.

        Examples
        --------
        >>> FeatureLookup("weather").status_columns
        ('weather__status', 'weather__event_time', 'weather__age')
        >>> FeatureLookup("weather", prefix="dest_").status_columns[0]
        'dest__status'
        """
        stem = self.prefix.rstrip("_") or self.group
        return (f"{stem}__status", f"{stem}__event_time", f"{stem}__age")

    @property
    def explain_columns(self) -> tuple[str, str, str]:
        """The columns that say where a record was found: file or journal, seq, and the rule.

        Examples
        --------
        >>> FeatureLookup("weather").explain_columns
        ('weather__source', 'weather__write_seq', 'weather__rule')
        """
        stem = self.prefix.rstrip("_") or self.group
        return (f"{stem}__source", f"{stem}__write_seq", f"{stem}__rule")

    # ── against the group's definition ───────────────────────────────────────────────────────

    def select(self, group: FeatureGroup) -> tuple[Feature, ...]:
        """Return the features asked for, in the order asked, ``"*"`` in declared order.

        Raises
        ------
        UnknownFeature
            For a name the group does not have.
        """
        declared = [feature for feature in group.features if self._is_value(feature, group)]
        chosen: dict[str, Feature] = {}
        for name in self.features:
            found = declared if name == EVERY else [group.feature(name)]
            chosen.update({feature.name: feature for feature in found})
        return tuple(chosen.values())

    @staticmethod
    def _is_value(feature: Feature, group: FeatureGroup) -> bool:
        return feature.name != group.event_time and feature.name not in group.record_identifier

    def columns(self, group: FeatureGroup) -> dict[str, Feature]:
        """Return the columns this lookup adds to a result: name -> feature.

        Raises
        ------
        UnknownFeature
            Also for a feature in ``rename=`` that is not among those asked for.
        ColumnClash
            When two of its own features would have one name.
        """
        chosen = self.select(group)
        rename = self.rename or {}
        for name in rename:
            if all(feature.name != name for feature in chosen):
                raise UnknownFeature(
                    f'rename= of a lookup in "{self.group}" names "{name}", which the lookup does '
                    f"not ask for.{did_you_mean(name, [feature.name for feature in chosen])}"
                )
        columns: dict[str, Feature] = {}
        for feature in chosen:
            column = rename.get(feature.name, self.prefix + feature.name)
            if column in columns:
                raise ColumnClash(
                    f'"{columns[column].name}" and "{feature.name}" of "{self.group}" would both '
                    f'be the column "{column}". Give one of them another name with rename=.'
                )
            columns[column] = feature
        return columns

    def keys(self, group: FeatureGroup) -> dict[str, str]:
        """Return where each part of the group's identifier is found: key -> column of the labels.

        Raises
        ------
        UnknownFeature
            When ``on=`` names something that is no part of the identifier.
        """
        on = self.on or {}
        for name in on:
            if name not in group.record_identifier:
                raise UnknownFeature(
                    f'on= of a lookup in "{self.group}" names "{name}", which is no part of the '
                    f"group's identifier.{did_you_mean(name, group.record_identifier)} on= maps "
                    "keys of the group to columns of the labels."
                )
        return {name: on.get(name, name) for name in group.record_identifier}

    # ── JSON ─────────────────────────────────────────────────────────────────────────────────

    def to_json(self) -> dict[str, Any]:
        """Return the lookup as JSON values; defaults are left out."""
        row = {
            "group": self.group,
            "features": list(self.features),
            "on": self.on,
            "prefix": self.prefix,
            "rename": self.rename,
            "max_age": self.max_age,
            "delay": self.delay,
            "last_n": self.last_n,
        }
        return {name: value for name, value in row.items() if value}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> FeatureLookup:
        """Return the lookup that :meth:`to_json` wrote.

        Examples
        --------
        >>> lookup = FeatureLookup("weather", "temp", delay=timedelta(hours=1))
        >>> FeatureLookup.from_json(lookup.to_json()) == lookup
        True
        """
        return cls(**row)


@dataclass(frozen=True)
class FeatureView:
    """A named selection of features over groups.

    Parameters
    ----------
    name : str
        As strict as the name of a feature group.
    lookups : tuple of FeatureLookup
        In the order of the result's columns.
    description : str
        For people.
    created_at_us : int
        When it was defined; microseconds.

    Examples
    --------
    >>> view = FeatureView("late_flights", (parse_lookup("weather:temp"), FeatureLookup("planes")))
    >>> [lookup.group for lookup in view.lookups]
    ['weather', 'planes']
    """

    name: str
    lookups: tuple[FeatureLookup, ...]
    description: str = ""
    created_at_us: int = 0

    def __post_init__(self) -> None:
        """Refuse a bad name and an empty selection."""
        check_name(self.name, "feature view")
        object.__setattr__(self, "lookups", tuple(self.lookups))
        if not self.lookups:
            raise InvalidInput(f'Feature view "{self.name}" selects nothing; give it features.')

    def to_json(self) -> dict[str, Any]:
        """Return the view as JSON values."""
        return {
            "name": self.name,
            "lookups": [lookup.to_json() for lookup in self.lookups],
            "description": self.description,
            "created_at_us": self.created_at_us,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> FeatureView:
        """Return the view that :meth:`to_json` wrote; raise ``CorruptStore`` otherwise.

        Examples
        --------
        >>> view = FeatureView("late_flights", (parse_lookup("weather:temp"),), "for training")
        >>> FeatureView.from_json(view.to_json()) == view
        True
        """
        try:
            lookups = tuple(FeatureLookup.from_json(lookup) for lookup in row["lookups"])
            return cls(**{**row, "lookups": lookups})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptStore(f"a feature view's definition is damaged: {error!r}") from error


Reference = str | FeatureLookup | FeatureView


def parse_lookup(text: str) -> FeatureLookup:
    """Return the lookup that a text such as ``"weather:temp,wind_speed"`` stands for.

    Raises
    ------
    InvalidInput
        For text of any other form.

    Examples
    --------
    >>> parse_lookup("weather:temp, wind_speed")
    FeatureLookup("weather", ["temp", "wind_speed"])
    """
    group, colon, features = text.partition(":")
    names = [name.strip() for name in features.split(",")]
    if not colon or not all(names):
        raise InvalidInput(
            f'"{text}" is no reference to features; write "group:feature", "group:a,b" or '
            '"group:*".'
        )
    return FeatureLookup(group.strip(), names)


def expand(
    references: Reference | Iterable[Reference], view: Callable[[str], FeatureView]
) -> tuple[FeatureLookup, ...]:
    """Return the lookups that references stand for, in order.

    Parameters
    ----------
    references : str, FeatureLookup, FeatureView or iterable of them
        See the table at the head of this module.
    view : callable
        Returns a feature view by its name, or raises ``UnknownFeatureView``.

    Raises
    ------
    InvalidInput
        For anything that is no reference, and for none at all.
    """
    several = [references] if isinstance(references, Reference) else list(references)
    lookups: list[FeatureLookup] = []
    for reference in several:
        lookups += _lookups(reference, view)
    if not lookups:
        raise InvalidInput('No features are asked for; give references such as "group:feature".')
    return tuple(lookups)


def _lookups(reference: Reference, view: Callable[[str], FeatureView]) -> tuple[FeatureLookup, ...]:
    if isinstance(reference, FeatureLookup):
        return (reference,)
    if isinstance(reference, FeatureView):
        return reference.lookups
    if not isinstance(reference, str):
        raise InvalidInput(
            f"{reference!r} is no reference to features; give "
            '"group:feature", the name of a feature view, or a FeatureLookup.'
        )
    if ":" in reference:
        return (parse_lookup(reference),)
    try:
        return view(reference).lookups
    except UnknownFeatureView as error:
        raise UnknownFeatureView(
            f'{error} (All features of a group are "{reference}:*".)'
        ) from None


def result_columns(
    lookups: Sequence[FeatureLookup],
    groups: Mapping[str, FeatureGroup],
    taken: Iterable[str] = (),
) -> list[dict[str, Feature]]:
    """Return the columns each lookup adds, none of them named twice.

    Parameters
    ----------
    lookups : sequence of FeatureLookup
        What is asked for.
    groups : mapping
        Group definitions by name.
    taken : iterable of str
        Names in use already: the labels' columns.

    Returns
    -------
    list of dict
        For each lookup: column name -> feature, in the order of the result.

    Raises
    ------
    ColumnClash
        When two columns would have one name.
    UnknownFeature, UnknownFeatureGroup
        When a lookup does not fit the definitions.
    """
    owners = dict.fromkeys(taken, "the labels")
    added = []
    for lookup in lookups:
        if lookup.group not in groups:
            raise UnknownFeatureGroup(
                f'There is no feature group "{lookup.group}".{did_you_mean(lookup.group, groups)}'
            )
        columns = lookup.columns(groups[lookup.group])
        for column in columns:
            claim_column(owners, column, lookup)
        added.append(columns)
    return added


def claim_column(owners: dict[str, str], column: str, lookup: FeatureLookup) -> None:
    """Enter a column into a result's names, or say who has the name and how to cure it."""
    if column in owners:
        raise ColumnClash(
            f'The column "{column}" of a lookup in "{lookup.group}" is also a column of '
            f"{owners[column]}. Give the lookup a prefix=, or the feature another name with "
            "rename=."
        )
    owners[column] = f'a lookup in "{lookup.group}"'


# ── one form for each field ──────────────────────────────────────────────────────────────────


def _names(given: Mapping[str, str] | None, what: str, form: str) -> dict[str, str] | None:
    """Return a mapping of names as a dict of its own; None when it is empty."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and name for pair in given.items() for name in pair
    ):
        raise InvalidInput(f"{what}= is {given!r}; give names as {form}.")
    return dict(given) or None


def _duration(given: str | timedelta | None, what: str) -> str | None:
    """Return a duration in one spelling, so that "120m" and "2h" are equal."""
    return None if given is None else format_duration(duration_us(given, what=what))
