"""Feature groups, both ways: our definitions as this surface shows them, and the reverse.

A group made here is an ordinary one.  What it has and ours have not (storage type, S3 and KMS
settings, throughput, which lists are Sets) is kept in the definition's ``properties`` under
:data:`SETTINGS`, where the engine does not look; a group made by ``fs.open`` has none of it and
is shown with what fits it.  Two kinds of group cannot be shown and are not there for this
surface: those with more than one record identifier, and those whose name its rules forbid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from featurestore.dtypes import element_of
from featurestore.errors import (
    InvalidInput,
    InvalidRecord,
    UnknownFeature,
    UnknownFeatureGroup,
    did_you_mean,
)
from featurestore.event_time import DURATION_MAX_US, SECOND_US
from featurestore.schema import FeatureGroup
from featurestore_server.sagemaker import model, values
from featurestore_server.sagemaker.values import TEXT_FEATURE

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurestore.schema import Feature

SETTINGS = "sagemaker"
ACCOUNT = "000000000000"
REGION = "us-east-1"
#: Where the files of a group would be, for one that was not made here.
LOCAL_URI = "s3://featurestore"

_NAME = re.compile(model.GROUP, re.ASCII)
_NAME_OR_ARN = re.compile(rf"(?:{model.ARN_PREFIX}/)?({model.GROUP})", re.ASCII)
_UNIT_SECONDS = {"Seconds": 1, "Minutes": 60, "Hours": 3600, "Days": 86_400, "Weeks": 604_800}


# ── names ────────────────────────────────────────────────────────────────────────────────────


def name_of(name_or_arn: str) -> str:
    """Return the group that a name or an ARN means: of an ARN only its last part counts.

    Examples
    --------
    >>> name_of("arn:aws:sagemaker:eu-west-1:123456789012:feature-group/weather")
    'weather'
    """
    found = _NAME_OR_ARN.fullmatch(name_or_arn)
    # Anything else is the name of nothing.
    return name_or_arn if found is None else found[1]


def arn_of(name: str, region: str) -> str:
    """Return the ARN of a group, in the region its caller signs for."""
    return f"arn:aws:sagemaker:{region}:{ACCOUNT}:feature-group/{name}"


def is_shown(group: FeatureGroup) -> bool:
    """Return whether this surface has words for a group."""
    return len(group.record_identifier) == 1 and _NAME.fullmatch(group.name) is not None


def require_shown(group: FeatureGroup) -> FeatureGroup:
    """Refuse a group that this surface has no words for."""
    if not is_shown(group):
        raise UnknownFeatureGroup(
            f'Feature group "{group.name}" has {len(group.record_identifier)} record identifiers '
            "or a name that SageMaker's rules forbid; use the store's own API for it."
        )
    return group


# ── durations ────────────────────────────────────────────────────────────────────────────────


def ttl_of(duration: Mapping[str, Any] | None) -> timedelta | None:
    """Return a TtlDuration as a length of time; None for none, or one without unit and value.

    Examples
    --------
    >>> ttl_of({"Unit": "Hours", "Value": 2}), ttl_of({})
    (datetime.timedelta(seconds=7200), None)
    """
    if not duration:
        return None
    if len(duration) < 2:
        raise InvalidInput("TtlDuration has a Unit and a Value, or neither of them.")
    us = int(duration["Value"]) * _UNIT_SECONDS[duration["Unit"]] * SECOND_US
    return timedelta(microseconds=min(us, DURATION_MAX_US))


def _duration(us: int) -> dict[str, Any]:
    """Return a length of time as a TtlDuration, in the largest unit that is exact."""
    seconds = -(-us // SECOND_US)
    for unit, size in reversed(_UNIT_SECONDS.items()):
        if seconds % size == 0:
            return {"Unit": unit, "Value": max(1, seconds // size)}
    raise AssertionError(us)  # every second is a second


# ── a group as it is shown ───────────────────────────────────────────────────────────────────


class View:
    """A group in the words of this surface, compiled once for a definition.

    Attributes
    ----------
    group : FeatureGroup
    settings : mapping
        What was said of it here.
    features : tuple of Feature
        Those it is shown with: all but the text of the event time.
    event_time_type : str
        ``String`` or ``Fractional``.
    """

    def __init__(self, group: FeatureGroup) -> None:
        self.group = group
        self.settings: Mapping[str, Any] = group.properties.get(SETTINGS, {})
        self.features = tuple(f for f in group.features if f.name != TEXT_FEATURE)
        self.event_time_type: str = self.settings.get("event_time_type", "String")
        self._keeps_text = len(self.features) < len(group.features)
        self._sets = frozenset(self.settings.get("sets", ()))
        self._event_time = group.event_time
        self._by_name = {f.name: f for f in self.features}
        self._read_key = values.reader_of(group.key_features[0].dtype, group.record_identifier[0])
        self._readers = {
            f.name: _value_reader(f, is_set=f.name in self._sets)
            for f in self.features
            if f.name != self._event_time
        }
        self._writers = {
            f.name: _value_writer(f) for f in self.features if f.name != self._event_time
        }

    @property
    def storage_type(self) -> str:
        """The kind of online store it says it has; one made elsewhere has what it needs."""
        stated = self.settings.get("storage_type")
        if stated is not None:
            return str(stated)
        collections = any(f.dtype.kind in ("list", "vector") for f in self.features)
        return "InMemory" if collections else "Standard_V2"

    @property
    def stores(self) -> tuple[str, ...]:
        """The stores it has, as targets of a write."""
        group = self.group
        return ("OnlineStore",) * group.online + ("OfflineStore",) * group.offline

    def feature(self, name: str) -> Feature:
        """Return a feature it is shown with."""
        found = self._by_name.get(name)
        if found is None:
            raise UnknownFeature(
                f"Feature {name} is not part of the FeatureGroup {self.group.name}."
                f"{did_you_mean(name, self._by_name)}"
            )
        return found

    # ── records in ──

    def key(self, text: str) -> Any:
        """Return the key that a RecordIdentifierValueAsString means."""
        return self._read_key(text)

    def record(self, given: Any, path: str = "record") -> dict[str, Any]:
        """Return a record from a list of feature values.

        The usual list is read without looking at its shape first; whatever is odd about another
        one, its shape tells.
        """
        record: dict[str, Any] = {}
        readers = self._readers
        try:
            for value in given:
                name = value["FeatureName"]
                if name in record:
                    raise InvalidRecord(f"Feature {name} is in the {path} twice.")
                reader = readers.get(name)
                if reader is not None:
                    record[name] = reader(value)
                elif name == self._event_time:
                    self._read_event_time(value, record)
                else:
                    model.RECORD.check(given, path)
                    self.feature(name)
        except (KeyError, TypeError, AttributeError, _Odd):
            model.RECORD.check(given, path)
            raise InvalidRecord(f"The {path} is not a list of feature values.") from None
        if not record:
            model.RECORD.check(given, path)
        return record

    def _read_event_time(self, value: dict[str, Any], record: dict[str, Any]) -> None:
        text = _scalar(value, self._event_time)
        moment, kept = values.read_event_time(text, self.event_time_type, self._event_time)
        record[self._event_time] = moment
        if self._keeps_text:
            record[TEXT_FEATURE] = kept

    def moment(self, text: str) -> Any:
        """Return the moment that an EventTime means."""
        return values.read_event_time(text, self.event_time_type, self._event_time)[0]

    # ── records out ──

    def names_asked(self, names: Iterable[str] | None) -> list[str] | None:
        """Return what to read for some FeatureNames: those, and what their texts need."""
        if names is None:
            return None
        asked = list(dict.fromkeys(names))
        for name in asked:
            self.feature(name)
        if self._keeps_text and self._event_time in asked:
            asked.append(TEXT_FEATURE)
        return asked

    def feature_values(self, record: Mapping[str, Any], event_time_us: int) -> list[dict[str, Any]]:
        """Return a record as a list of feature values; what is null is left out."""
        found = []
        writers = self._writers
        for name, value in record.items():
            if value is None:
                continue
            writer = writers.get(name)
            if writer is not None:
                found.append(writer(value))
            elif name == self._event_time:
                text = record.get(TEXT_FEATURE)
                if text is None:
                    text = values.write_event_time_us(event_time_us, self.event_time_type)
                found.append({"FeatureName": name, "ValueAsString": text})
        return found

    def key_text(self, part: Any) -> str:
        """Return a record identifier as text."""
        dtype = self.group.key_features[0].dtype
        writer = values.writer_of(dtype)
        value = dtype.to_python(part)
        return str(value) if writer is None else writer(value)

    # ── the definition ──

    def definitions(self) -> list[dict[str, Any]]:
        """Return the FeatureDefinitions."""
        return [self._definition(feature) for feature in self.features]

    def feature_type(self, feature: Feature) -> str:
        """Return the FeatureType of a feature."""
        if feature.name == self._event_time:
            return self.event_time_type
        return values.kind_of(feature.dtype).feature_type

    def _definition(self, feature: Feature) -> dict[str, Any]:
        kind = values.kind_of(feature.dtype)
        found: dict[str, Any] = {
            "FeatureName": feature.name,
            "FeatureType": self.feature_type(feature),
        }
        if kind.collection is not None:
            found["CollectionType"] = "Set" if feature.name in self._sets else kind.collection
        if kind.collection == "Vector":
            found["CollectionConfig"] = {"VectorConfig": {"Dimension": kind.dimension}}
        return found

    def described(self, region: str) -> dict[str, Any]:
        """Return what DescribeFeatureGroup answers, but for the token."""
        group = self.group
        found: dict[str, Any] = {
            "FeatureGroupArn": arn_of(group.name, region),
            "FeatureGroupName": group.name,
            "RecordIdentifierFeatureName": group.record_identifier[0],
            "EventTimeFeatureName": group.event_time,
            "FeatureDefinitions": self.definitions(),
            "CreationTime": seconds(group.created_at_us),
            "LastModifiedTime": seconds(self.modified_at_us),
            "FeatureGroupStatus": "Created",
            "LastUpdateStatus": {"Status": "Successful"},
            "OfflineStoreStatus": {"Status": "Active" if group.offline else "Disabled"},
        }
        if group.online:
            found["OnlineStoreConfig"] = self._online()
        if group.offline:
            found["OfflineStoreConfig"] = self._offline(region)
        found["ThroughputConfig"] = self.settings.get("throughput", {"ThroughputMode": "OnDemand"})
        if "role_arn" in self.settings:
            found["RoleArn"] = self.settings["role_arn"]
        if group.description:
            found["Description"] = group.description
        return found

    @cached_property
    def modified_at_us(self) -> int:
        """When the definition last changed."""
        return self.group.modified_at_us or self.group.created_at_us

    def _online(self) -> dict[str, Any]:
        found: dict[str, Any] = {"EnableOnlineStore": True, "StorageType": self.storage_type}
        ttl_us = self.group.ttl_us
        if ttl_us is not None:
            said = self.settings.get("ttl")
            same = said is not None and ttl_of(said) == timedelta(microseconds=ttl_us)
            found["TtlDuration"] = said if same else _duration(ttl_us)
        if "online_kms_key" in self.settings:
            found["SecurityConfig"] = {"KmsKeyId": self.settings["online_kms_key"]}
        return found

    def _offline(self, region: str) -> dict[str, Any]:
        name, created = self.group.name, self.group.created_at_us // SECOND_US
        said = self.settings.get("offline", {})
        storage = {"S3Uri": LOCAL_URI, **said.get("S3StorageConfig", {})}
        prefix = storage["S3Uri"].rstrip("/")
        storage["ResolvedOutputS3Uri"] = (
            f"{prefix}/{ACCOUNT}/sagemaker/{region}/offline-store/{name}-{created}/data"
        )
        found = {"DisableGlueTableCreation": False, "TableFormat": "Default", **said}
        found["S3StorageConfig"] = storage
        if not found["DisableGlueTableCreation"]:
            table = f"{name}_{created}".replace("-", "_").lower()
            found.setdefault(
                "DataCatalogConfig",
                {
                    "TableName": table,
                    "Catalog": "AwsDataCatalog",
                    "Database": "sagemaker_featurestore",
                },
            )
        return found

    def metadata(self, feature: Feature, region: str) -> dict[str, Any]:
        """Return what DescribeFeatureMetadata answers."""
        created = feature.created_at_us or self.group.created_at_us
        found: dict[str, Any] = {
            "FeatureGroupArn": arn_of(self.group.name, region),
            "FeatureGroupName": self.group.name,
            "FeatureName": feature.name,
            "FeatureType": self.feature_type(feature),
            "CreationTime": seconds(created),
            "LastModifiedTime": seconds(feature.modified_at_us or created),
            "Parameters": pairs(feature.tags),
        }
        if feature.description:
            found["Description"] = feature.description
        return found


class _Odd(Exception):
    """A feature value that its shape has to be asked about."""


def _scalar(value: dict[str, Any], name: str) -> str:
    text = value.get("ValueAsString")
    if type(text) is not str or len(text) > model.VALUE_CHARACTERS_MAX:
        if text is None and isinstance(value.get("ValueAsStringList"), list):
            raise InvalidRecord(f"Feature {name} is no collection; give it as ValueAsString.")
        raise _Odd
    if value.get("ValueAsStringList") is not None:
        raise InvalidRecord(f"Feature {name} has a ValueAsString and a ValueAsStringList.")
    return text


def _value_reader(feature: Feature, *, is_set: bool) -> Callable[[dict[str, Any]], Any]:
    name, dtype = feature.name, feature.dtype
    if dtype.kind not in ("list", "vector"):
        read = values.reader_of(dtype, name)
        return lambda value: read(_scalar(value, name))
    element = values.reader_of(element_of(dtype), name)

    def read_list(value: dict[str, Any]) -> list[Any]:
        texts = value.get("ValueAsStringList")
        if texts is None and isinstance(value.get("ValueAsString"), str):
            raise InvalidRecord(f"Feature {name} is a collection; give it as ValueAsStringList.")
        if not isinstance(texts, list) or not all(type(text) is str for text in texts):
            raise _Odd
        if len(texts) > model.VALUE_CHARACTERS_MAX or value.get("ValueAsString") is not None:
            raise _Odd
        found = [element(text) for text in texts]
        return list(dict.fromkeys(found)) if is_set else found

    return read_list


def _value_writer(feature: Feature) -> Callable[[Any], dict[str, Any]]:
    name, dtype = feature.name, feature.dtype
    if dtype.kind not in ("list", "vector"):
        write = values.writer_of(dtype)
        if write is None:
            return lambda value: {"FeatureName": name, "ValueAsString": value}
        return lambda value: {"FeatureName": name, "ValueAsString": write(value)}
    of_one = values.writer_of(element_of(dtype))

    def write_list(found: list[Any]) -> dict[str, Any]:
        # A null element, which only other doors let in, has no text: it is left out.
        texts = [one if of_one is None else of_one(one) for one in found if one is not None]
        return {"FeatureName": name, "ValueAsStringList": texts}

    return write_list


def seconds(us: int) -> float:
    """Return a moment as this surface's timestamps: seconds since 1970."""
    return us / SECOND_US


def pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as a list of Key and Value."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def unpaired(given: Iterable[Mapping[str, str]], what: str) -> dict[str, str]:
    """Return a list of Key and Value as a dict; refuse a key that is there twice."""
    found: dict[str, str] = {}
    for pair in given:
        if len(pair) < 2:
            raise InvalidInput(f"{what} have a Key and a Value each.")
        if pair["Key"] in found:
            raise InvalidInput(f"{what} have the key {pair['Key']!r} twice.")
        found[pair["Key"]] = pair["Value"]
    return found


def checked_tags(given: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return tags that a caller may set."""
    found = unpaired(given, "Tags")
    for key in found:
        if key.lower().startswith("aws:"):
            raise InvalidInput(f"The tag {key!r} begins with aws:, which is reserved.")
    return found
