"""Feature groups: what one is, how it is declared, how it may change.

A feature group is a table of records.  One or more features are its *record identifier* (the
key), one is its *event time*, the others are its values::

      weather                                     id  since
      ├── origin      string     identifier        1   1
      ├── time_hour   timestamp  event time        2   1
      ├── temp        float64    value             3   1
      └── gust        float64    value             4   2      added by an update: version 2

A definition is immutable.  :func:`define` makes the first version,
:meth:`FeatureGroup.with_features` the next; nothing else changes a schema, so that every record
ever written can be read:

- **Ids are permanent.**  Files and records know a feature by its id; an id is never given twice.
- **Features are only added.**  A record of version v holds ``values_at(v)``, in order of id; what
  was added since is null in it.
- **Names are for people.**  Letters, digits, ``_`` and ``-``; two that differ only in case would
  be one column to SQL, and are refused.  The columns the engine adds (:data:`RESERVED`, and all
  that begin with two underscores) belong to it.

Keys must have one exact spelling, so a float, a list or a vector cannot identify a record: 0.1 is
many things, and NaN is not even itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from featurestore.arrays import shown
from featurestore.dtypes import DType, from_arrow, parse_dtype
from featurestore.errors import (
    CorruptStore,
    InvalidInput,
    InvalidName,
    InvalidSchema,
    UnknownFeature,
    did_you_mean,
)
from featurestore.event_time import DAY_US, duration_us, format_duration

if TYPE_CHECKING:
    from datetime import timedelta

    import pyarrow as pa

RESERVED = frozenset({"write_seq", "write_time", "expires_at", "is_deleted", "api_invocation_time"})
"""Names of columns the engine, or SageMaker, adds to the features of a history."""

FEATURES_MAX = 2501
"""SageMaker's limit, and one for what a program wants to keep beside them (see `properties`)."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", re.ASCII)
_KEY_KINDS = frozenset({"bool", "int", "string", "binary", "timestamp", "date"})
_KEY_HINTS = {
    "float": "floats that look equal may differ; use int64 or string",
    "list": "use its elements as identifiers of their own",
    "vector": "use an int64 or string that names it",
}


def check_name(name: str, what: str) -> str:
    """Return `name` if it may name a feature group, a feature or a feature view.

    Parameters
    ----------
    name : str
        The name.
    what : str
        ``"feature group"``, ``"feature"`` or ``"feature view"``: features have reserved names.

    Raises
    ------
    InvalidName
        With the rule that is broken.

    Examples
    --------
    >>> check_name("dep-delay_2", "feature")
    'dep-delay_2'
    >>> check_name("expires_at", "feature")
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidName: feature name "expires_at" is taken by a column of the \
store's own; choose another
    """
    if not isinstance(name, str):
        raise InvalidName(f"{what} name {shown(name)} is a {type(name).__name__}; give a str")
    if _NAME.fullmatch(name) is None or name.startswith("__"):
        raise InvalidName(
            f"{what} name {shown(name)} will not do: use 1 to 64 of the letters A-Z and a-z, "
            'digits, "_" and "-", not beginning with "-" or "__"'
        )
    if what == "feature" and name.lower() in RESERVED:
        raise InvalidName(
            f'{what} name "{name}" is taken by a column of the store\'s own; choose another'
        )
    return name


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of a feature group.

    Attributes
    ----------
    id : int
        Permanent, from 1, never given twice within its group.
    name : str
        Unique in the group, in any case of letters.
    dtype : DType
        Its type; never changes.
    since : int
        The version of the schema that brought it.
    description : str
        For people.
    tags : mapping of str to str
        For people and programs.
    created_at_us, modified_at_us : int
        When it was declared, and when its description or tags last changed; 0 where that was not
        written down.

    Examples
    --------
    >>> Feature(3, "temp", parse_dtype("float64"), since=1, description="°F").dtype.bits
    64
    """

    id: int
    name: str
    dtype: DType
    since: int
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    created_at_us: int = field(default=0, repr=False)
    modified_at_us: int = field(default=0, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the feature as plain data; what it has not got is left out."""
        more = {"tags": dict(self.tags), **{name: getattr(self, name) for name in _FEATURE_TIMES}}
        return {
            "id": self.id,
            "name": self.name,
            "dtype": str(self.dtype),
            "since": self.since,
            "description": self.description,
        } | {name: value for name, value in more.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Feature:
        """Return the feature that :meth:`to_json` wrote."""
        return cls(
            data["id"],
            data["name"],
            parse_dtype(data["dtype"]),
            data["since"],
            data["description"],
            dict(data.get("tags", ())),
            *(int(data.get(name, 0)) for name in _FEATURE_TIMES),
        )


_FEATURE_TIMES = ("created_at_us", "modified_at_us")


@dataclass(frozen=True)
class FeatureGroup:
    """The definition of a feature group, at one version of its schema.

    Attributes
    ----------
    id : int
        Permanent number of the group in its store.
    name : str
        Its name.
    record_identifier : tuple of str
        The features that identify a record, in the order of the key.
    event_time : str
        The feature that dates a record.
    features : tuple of Feature
        All of them in declared order, identifier and event time included.
    version : int
        Version of the schema, from 1.
    ttl_us : int or None
        How long a record lives after its event time; None for ever.  Holds for later writes.
    max_future_us : int or None
        How far ahead of the clock an event time may be; None for any distance.
    retention_us : int or None
        How far back history reaches; None for all of it.
    online, offline : bool
        Which stores keep it.
    description : str
        For people.
    tags : mapping of str to str
        For people and programs.
    created_at_us, modified_at_us : int
        When it was made, and when its definition last changed.
    properties : mapping
        Whatever else a program keeps with the definition, as JSON values by a name of its own;
        the engine does not look at them.

    Examples
    --------
    >>> weather = define("weather", record_identifier="origin", event_time="time_hour", id=1,
    ...     features={"origin": "string", "time_hour": "timestamp", "temp": "float64"}, ttl="2h")
    >>> [f.name for f in weather.value_features], weather.feature("temp").id
    (['temp'], 3)
    >>> FeatureGroup.from_json(weather.to_json()) == weather
    True
    """

    id: int
    name: str
    record_identifier: tuple[str, ...]
    event_time: str
    features: tuple[Feature, ...]
    version: int = 1
    ttl_us: int | None = None
    max_future_us: int | None = DAY_US
    retention_us: int | None = None
    online: bool = True
    offline: bool = True
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    created_at_us: int = 0
    modified_at_us: int = 0
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def feature(self, name: str) -> Feature:
        """Return the feature of that name; raise ``UnknownFeature`` with the nearest otherwise."""
        found = self._by_name.get(name)
        if found is None:
            raise UnknownFeature(
                f'feature group "{self.name}" has no feature "{name}".'
                f"{did_you_mean(str(name), self._by_name)}"
            )
        return found

    @cached_property
    def _by_name(self) -> dict[str, Feature]:
        return {feature.name: feature for feature in self.features}

    @cached_property
    def key_features(self) -> tuple[Feature, ...]:
        """The features of the record identifier, in the order of the key."""
        return tuple(self._by_name[name] for name in self.record_identifier)

    @cached_property
    def event_time_feature(self) -> Feature:
        """The feature that dates a record."""
        return self._by_name[self.event_time]

    @cached_property
    def value_features(self) -> tuple[Feature, ...]:
        """All other features in order of id, which is the order of a record's slots."""
        keys = {*self.record_identifier, self.event_time}
        values = (feature for feature in self.features if feature.name not in keys)
        return tuple(sorted(values, key=lambda feature: feature.id))

    def features_at(self, version: int) -> tuple[Feature, ...]:
        """Return all features the group had at a version of its schema, in declared order."""
        return tuple(feature for feature in self.features if feature.since <= version)

    def values_at(self, version: int) -> tuple[Feature, ...]:
        """Return the value features of a record that was written at a version of the schema."""
        return tuple(feature for feature in self.value_features if feature.since <= version)

    def arrow_schema(self) -> pa.Schema:
        """Return the Arrow schema: declared order, ids as ``PARQUET:field_id``."""
        import pyarrow as pa

        return pa.schema(
            pa.field(f.name, f.dtype.to_arrow(), metadata={"PARQUET:field_id": str(f.id)})
            for f in self.features
        )

    def with_features(
        self,
        additions: Mapping[str, str | DType],
        descriptions: Mapping[str, str] | None = None,
    ) -> FeatureGroup:
        """Return the next version of the schema, with more features.

        Parameters
        ----------
        additions : mapping of str to (str or DType)
            Name and type of each new feature; they follow the old ones in this order.
        descriptions : mapping of str to str, optional
            Descriptions of new features.

        Raises
        ------
        InvalidSchema, InvalidName
            When nothing is added, a name is there already (in any case of letters) or will not do.

        Examples
        --------
        >>> group = define("g", record_identifier="k", event_time="t", id=1,
        ...     features={"k": "int64", "t": "timestamp"})
        >>> group.with_features({"x": "bool"}).feature("x")
        Feature(id=3, name='x', dtype=parse_dtype('bool'), since=2, description='')
        """
        if not additions:
            raise InvalidSchema(
                f'feature group "{self.name}": no features to add; '
                'give them as {"name": "type"}, such as {"gust": "float64"}'
            )
        version = self.version + 1
        added = _numbered(
            _dtypes(additions),
            descriptions,
            first_id=1 + max(feature.id for feature in self.features),
            since=version,
        )
        features = (*self.features, *added)
        _check_features(self.name, features)
        return replace(self, features=features, version=version)

    def with_descriptions(
        self,
        descriptions: Mapping[str, str] | None = None,
        tags: Mapping[str, Mapping[str, str]] | None = None,
    ) -> FeatureGroup:
        """Return the group with other descriptions, or tags, of some features it has.

        Raises
        ------
        UnknownFeature
            One of them is not there.

        Examples
        --------
        >>> group = define("g", record_identifier="k", event_time="t", id=1,
        ...     features={"k": "int64", "t": "timestamp"})
        >>> group.with_descriptions({"k": "the key"}, {"k": {"owner": "ops"}}).feature("k").tags
        {'owner': 'ops'}
        """
        told, tagged = dict(descriptions or {}), dict(tags or {})
        changed = {name: self.feature(name) for name in (*told, *tagged)}
        for name, text in told.items():
            what = f'description of feature "{name}"'
            changed[name] = replace(changed[name], description=_text(text, what))
        for name, given in tagged.items():
            changed[name] = replace(changed[name], tags=_checked_tags(given))
        return replace(self, features=tuple(changed.get(f.name, f) for f in self.features))

    def dated(self, before: FeatureGroup, now_us: int) -> FeatureGroup:
        """Return the group as it is to be kept: what differs from `before` is dated now."""
        old = {feature.id: feature for feature in before.features}
        features = tuple(
            replace(feature, created_at_us=now_us, modified_at_us=now_us)
            if feature.id not in old
            else feature
            if feature == old[feature.id]
            else replace(feature, modified_at_us=now_us)
            for feature in self.features
        )
        return replace(self, features=features, modified_at_us=now_us)

    def to_json(self) -> dict[str, Any]:
        """Return the definition as plain data for ``json.dumps``."""
        plain = {name: getattr(self, name) for name in _SCALAR_FIELDS}
        more = {"modified_at_us": self.modified_at_us, "properties": dict(self.properties)}
        plain |= {name: value for name, value in more.items() if value}
        return plain | {
            "record_identifier": list(self.record_identifier),
            "tags": dict(self.tags),
            "features": [feature.to_json() for feature in self.features],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureGroup:
        """Return the definition that :meth:`to_json` wrote; raise ``CorruptStore`` otherwise."""
        try:
            group = cls(
                **{name: data[name] for name in _SCALAR_FIELDS},
                record_identifier=tuple(data["record_identifier"]),
                tags=dict(data["tags"]),
                features=tuple(map(Feature.from_json, data["features"])),
                modified_at_us=int(data.get("modified_at_us", 0)),
                properties=dict(data.get("properties", ())),
            )
            _check_features(group.name, group.features)
            _check_roles(group)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptStore(f"a feature group's definition is damaged: {error!r}") from error
        return group


_SCALAR_FIELDS = (
    "id",
    "name",
    "event_time",
    "version",
    "ttl_us",
    "max_future_us",
    "retention_us",
    "online",
    "offline",
    "description",
    "created_at_us",
)


# ── declaring ────────────────────────────────────────────────────────────────────────────────


def define(
    name: str,
    *,
    record_identifier: str | Sequence[str],
    event_time: str,
    features: Mapping[str, str | DType] | pa.Schema | None = None,
    like: Any = None,
    id: int,  # noqa: A002  (the word for it everywhere)
    ttl: str | timedelta | None = None,
    max_future: str | timedelta | None = "1d",
    retention: str | timedelta | None = None,
    online: bool = True,
    offline: bool = True,
    description: str = "",
    tags: Mapping[str, str] | None = None,
    feature_descriptions: Mapping[str, str] | None = None,
    created_at_us: int = 0,
    properties: Mapping[str, Any] | None = None,
) -> FeatureGroup:
    """Return the first version of a feature group.

    Parameters
    ----------
    name : str
        Its name.
    record_identifier : str or sequence of str
        The feature, or features, that identify a record.
    event_time : str
        The timestamp that dates a record.
    features : mapping of str to (str or DType), or pyarrow.Schema
        Every feature with its type, identifier and event time included.
    like : pyarrow.Table, pyarrow.Schema, pandas.DataFrame, polars.DataFrame or any with Arrow's
        C interface.  A table with the same columns, instead of `features`.
    id : int
        Number of the group in its store.
    ttl, max_future, retention : str or timedelta, optional
        See :class:`FeatureGroup`; as ``"2h"`` or a timedelta.
    online, offline, description, tags, created_at_us, properties
        See :class:`FeatureGroup`.
    feature_descriptions : mapping of str to str, optional
        Descriptions of features by name.

    Raises
    ------
    InvalidSchema
        When the definition cannot be; :class:`~featurestore.errors.InvalidName` for its names,
        :class:`~featurestore.errors.InvalidInput` for its durations.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table = pa.table({"tail": ["N1"], "at": pa.array([0], pa.timestamp("ns")), "seats": [2]})
    >>> planes = define("planes", record_identifier="tail", event_time="at", like=table, id=7)
    >>> [(f.id, f.name, str(f.dtype)) for f in planes.features]
    [(1, 'tail', 'string'), (2, 'at', 'timestamp'), (3, 'seats', 'int64')]
    """
    check_name(name, "feature group")
    dtypes = _declared(name, features, like)
    group = FeatureGroup(
        id=id,
        name=name,
        record_identifier=_identifier(record_identifier),
        event_time=_feature_name(event_time, "event_time"),
        features=_numbered(dtypes, feature_descriptions, first_id=1, since=1),
        ttl_us=_checked_ttl_us(ttl),
        max_future_us=None if max_future is None else duration_us(max_future, what="max_future"),
        retention_us=checked_retention_us(retention),
        online=online,
        offline=offline,
        description=_text(description, "description"),
        tags=_checked_tags(tags),
        created_at_us=created_at_us,
        properties=dict(properties or {}),
    )
    _check_features(name, group.features)
    _check_roles(group)
    return group


def _declared(name: str, features: Any, like: Any) -> dict[str, DType]:
    """Return names and types in declared order, from whichever way they were given."""
    if (features is None) == (like is None):
        raise InvalidSchema(
            f'feature group "{name}": give either features={{"name": "type", …}} '
            "or like=a table with the same columns"
        )
    if isinstance(features, Mapping):
        return _dtypes(features)
    schema = _arrow_schema_of(features if like is None else like)
    repeated = {field_name for field_name in schema.names if schema.names.count(field_name) > 1}
    if repeated:
        raise InvalidSchema(f'feature group "{name}": column "{min(repeated)}" is there twice')
    return {column.name: from_arrow(column.type, column.name) for column in schema}


def _dtypes(features: Mapping[str, str | DType]) -> dict[str, DType]:
    return {
        name: spelling if isinstance(spelling, DType) else _parsed(name, spelling)
        for name, spelling in features.items()
    }


def _parsed(name: str, spelling: str) -> DType:
    try:
        return parse_dtype(spelling)
    except InvalidSchema as error:
        raise InvalidSchema(f'feature "{name}": {error}') from None


def _arrow_schema_of(table: Any) -> pa.Schema:
    import pyarrow as pa

    if isinstance(table, pa.Schema):
        return table
    try:
        if type(table).__module__.partition(".")[0] == "pandas" and hasattr(table, "columns"):
            return pa.Schema.from_pandas(table, preserve_index=False)
        schema = getattr(table, "schema", None)
        if isinstance(schema, pa.Schema):  # asked before the stream, which may be taken but once
            return schema
        if hasattr(table, "__arrow_c_schema__"):
            return pa.schema(table)
        if hasattr(table, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(table).schema
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidSchema(
            f"Arrow has no type for this {type(table).__name__}: {error}"
        ) from error
    raise InvalidSchema(
        f"a {type(table).__name__} does not say its columns; give a pyarrow Table or Schema, "
        'a pandas or Polars DataFrame, or features={"name": "type", …}'
    )


def _numbered(
    dtypes: Mapping[str, DType],
    descriptions: Mapping[str, str] | None,
    *,
    first_id: int,
    since: int,
) -> tuple[Feature, ...]:
    told = dict(descriptions or {})
    for name in told:
        if name not in dtypes:
            raise UnknownFeature(
                f'there is a description of "{name}", but no such feature.'
                f"{did_you_mean(str(name), dtypes)}"
            )
    return tuple(
        Feature(
            id=first_id + place,
            name=check_name(name, "feature"),
            dtype=dtype,
            since=since,
            description=_text(told.get(name, ""), f'description of feature "{name}"'),
        )
        for place, (name, dtype) in enumerate(dtypes.items())
    )


def _identifier(given: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Sequence):
        raise InvalidSchema(
            f"record_identifier is a {type(given).__name__}; give a name, or a list of names: "
            "their order is the order of the key"
        )
    if not given:
        raise InvalidSchema("record_identifier is empty; name the feature that identifies a record")
    return tuple(_feature_name(name, "record_identifier") for name in given)


def _feature_name(name: object, role: str) -> str:
    if isinstance(name, str):
        return name
    raise InvalidSchema(f"{role} is a {type(name).__name__}; give the name of a feature")


def _check_features(group_name: str, features: Sequence[Feature]) -> None:
    """Refuse too many features, and names or ids that are there twice."""
    if len(features) > FEATURES_MAX:
        raise InvalidSchema(
            f'feature group "{group_name}": {len(features)} features, at most {FEATURES_MAX}; '
            "split it into groups with the same identifier"
        )
    if len({feature.id for feature in features}) != len(features):
        raise InvalidSchema(f'feature group "{group_name}": two features have one id')
    seen: dict[str, str] = {}
    for feature in features:
        twin = seen.setdefault(feature.name.lower(), feature.name)
        if feature.name != twin:
            raise InvalidSchema(
                f'feature group "{group_name}": "{twin}" and "{feature.name}" differ only in '
                "case, and would be one column to SQL; rename one"
            )
    if len(seen) != len(features):
        names = [feature.name for feature in features]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidSchema(
            f'feature group "{group_name}" has a feature "{twice}" already; '
            "its type cannot be changed, so give the new one another name"
        )


def _check_roles(group: FeatureGroup) -> None:
    """Refuse an identifier or an event time that cannot be one."""
    by_name = {feature.name: feature for feature in group.features}
    for role, name in [
        *(("record_identifier", name) for name in group.record_identifier),
        ("event_time", group.event_time),
    ]:
        if name not in by_name:
            raise InvalidSchema(
                f'feature group "{group.name}": {role} "{name}" is not among its features.'
                f"{did_you_mean(str(name), by_name)}"
            )
    if len(set(group.record_identifier)) != len(group.record_identifier):
        raise InvalidSchema(f'feature group "{group.name}": record_identifier names one twice')
    if group.event_time in group.record_identifier:
        raise InvalidSchema(
            f'feature group "{group.name}": "{group.event_time}" cannot be identifier and event '
            "time at once; a key with its own time would never have a second version"
        )
    for name in group.record_identifier:
        dtype = by_name[name].dtype
        if dtype.kind not in _KEY_KINDS:
            raise InvalidSchema(
                f'feature group "{group.name}": a {dtype} cannot identify a record ("{name}"); '
                f"{_KEY_HINTS[dtype.kind]}"
            )
    dtype = by_name[group.event_time].dtype
    if dtype.kind != "timestamp":
        raise InvalidSchema(
            f'feature group "{group.name}": event_time "{group.event_time}" is {dtype}; '
            "declare it as timestamp, and convert the values when they come in"
        )
    if not (group.online or group.offline):
        raise InvalidSchema(
            f'feature group "{group.name}": online=False and offline=False keeps nothing; '
            "leave one of them True"
        )


def _checked_ttl_us(ttl: str | timedelta | None) -> int | None:
    if ttl is None:
        return None
    ttl_us = duration_us(ttl, what="ttl")
    if ttl_us == 0:
        raise InvalidInput("ttl: zero would expire a record as it is written; None is for ever")
    return ttl_us


def checked_retention_us(retention: str | timedelta | None) -> int | None:
    """Return a retention in microseconds; None for all history."""
    if retention is None:
        return None
    retention_us = duration_us(retention, what="retention")
    if retention_us == 0:
        raise InvalidInput("retention: zero would keep no history; None keeps all of it")
    return retention_us


def _checked_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    given = {} if tags is None else tags
    if not isinstance(given, Mapping):
        raise InvalidInput(f'tags is a {type(given).__name__}; give a dict, as {{"owner": "ops"}}')
    return {_text(key, "a tag's key"): _text(value, f"tag {key!r}") for key, value in given.items()}


def _text(value: object, what: str) -> str:
    if isinstance(value, str):
        return value
    raise InvalidInput(f"{what} is a {type(value).__name__}; give a str")


# ── comparing ────────────────────────────────────────────────────────────────────────────────


def same_schema(a: FeatureGroup, b: FeatureGroup) -> str | None:
    """Return the first difference between two definitions in words, or None.

    What decides how records are written and read is compared: identifier, event time, names and
    types (in any order), TTL, max_future, and which stores.  Descriptions and tags are not.

    Parameters
    ----------
    a : FeatureGroup
        The definition in the store.
    b : FeatureGroup
        The one asked for.

    Examples
    --------
    >>> a, b = (define("g", record_identifier="k", event_time="t", id=1,
    ...     features={"k": key, "t": "timestamp"}) for key in ("int64", "string"))
    >>> same_schema(a, b)
    'feature "k" is int64 in the store, string asked for'
    """
    stored, asked = _settings(a), _settings(b)
    for what in stored | asked:
        there, here = stored.get(what, "absent"), asked.get(what, "absent")
        if there != here:
            return f"{what} is {there} in the store, {here} asked for"
    return None


def _settings(group: FeatureGroup) -> dict[str, str]:
    """Return what `same_schema` compares, in the words it says it in."""
    return {
        "record_identifier": ", ".join(group.record_identifier),
        "event_time": group.event_time,
        **{f'feature "{feature.name}"': str(feature.dtype) for feature in group.features},
        "ttl": "unlimited" if group.ttl_us is None else format_duration(group.ttl_us),
        "max_future": (
            "unlimited" if group.max_future_us is None else format_duration(group.max_future_us)
        ),
        "retention": (
            "unlimited" if group.retention_us is None else format_duration(group.retention_us)
        ),
        "online": str(group.online),
        "offline": str(group.offline),
    }
