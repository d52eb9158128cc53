"""Feature groups as they are asked for: what makes one, and what an update makes of one.

Each rule that AWS documents is checked here, in its words; what is general, names and roles and
limits, is left for the store to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from featurestore.errors import InvalidInput, InvalidSchema, did_you_mean
from featurestore.schema import FEATURES_MAX, FeatureGroup, define
from featurestore_server.sagemaker import model
from featurestore_server.sagemaker.groups import (
    SETTINGS,
    View,
    checked_tags,
    require_shown,
    ttl_of,
)
from featurestore_server.sagemaker.values import TEXT_FEATURE

_DTYPES = {"Integral": "int64", "Fractional": "float64", "String": "string"}


class TooManyFeatures(InvalidSchema):
    """The group would have more features than one may have."""


def definition(asked: Mapping[str, Any], now_us: int, request_id: str | None) -> FeatureGroup:
    """Return the definition that CreateFeatureGroup asks for.

    It says which request it comes from: a second try of that one finds its own work done.

    Raises
    ------
    InvalidInput
        With the rule it breaks.
    """
    name, event_time = asked["FeatureGroupName"], asked["EventTimeFeatureName"]
    online, offline = asked.get("OnlineStoreConfig", {}), asked.get("OfflineStoreConfig")
    enabled = bool(online.get("EnableOnlineStore", False))
    if not enabled and offline is None:
        raise InvalidInput(
            "A FeatureGroup needs an OnlineStoreConfig with EnableOnlineStore, or an "
            "OfflineStoreConfig."
        )
    storage_type = online.get("StorageType", "Standard")
    definitions = _by_name(asked["FeatureDefinitions"])
    features = _dtypes(definitions, storage_type)
    identifier = asked["RecordIdentifierFeatureName"]
    _check_roles(definitions, identifier, event_time)
    event_time_type = definitions[event_time]["FeatureType"]
    if (offline or {}).get("TableFormat") == "Iceberg" and event_time_type != "String":
        raise InvalidInput("TableFormat Iceberg needs an event time of type String.")
    features[event_time] = "timestamp"
    features[TEXT_FEATURE] = "string"
    given = {
        "event_time_type": event_time_type,
        "storage_type": storage_type,
        "sets": [n for n, d in definitions.items() if d.get("CollectionType") == "Set"],
        "ttl": online.get("TtlDuration"),
        "online_kms_key": online.get("SecurityConfig", {}).get("KmsKeyId"),
        "offline": offline,
        "throughput": _throughput(asked.get("ThroughputConfig")),
        "role_arn": asked.get("RoleArn"),
        "request": request_id,
    }
    return define(
        name,
        record_identifier=identifier,
        event_time=event_time,
        features=features,
        id=0,
        ttl=ttl_of(online.get("TtlDuration")) if enabled else None,
        max_future=None,
        online=enabled,
        offline=offline is not None,
        description=asked.get("Description", ""),
        tags=checked_tags(asked.get("Tags", ())),
        created_at_us=now_us,
        properties={SETTINGS: {key: value for key, value in given.items() if value}},
    )


def _by_name(definitions: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for one in definitions:
        if one["FeatureName"] in found:
            raise InvalidInput(f"Feature {one['FeatureName']} is defined twice.")
        found[one["FeatureName"]] = one
    return found


def _dtypes(
    definitions: Mapping[str, Mapping[str, Any]], storage_type: str, vectors: int = 0
) -> dict[str, Any]:
    """Return the types of features asked for; `vectors` is how many the group has already."""
    found: dict[str, Any] = {}
    for name, one in definitions.items():
        collection, scalar = one.get("CollectionType"), _DTYPES[one["FeatureType"]]
        if collection is None:
            if one.get("CollectionConfig"):
                raise InvalidInput(f"Feature {name} has a CollectionConfig, and no CollectionType.")
            found[name] = scalar
            continue
        if storage_type != "InMemory":
            raise InvalidInput(
                f"Feature {name} is a collection, which only the StorageType InMemory holds; "
                f"this is {storage_type}."
            )
        if collection != "Vector":
            found[name] = f"list<{scalar}>"
            continue
        dimension = one.get("CollectionConfig", {}).get("VectorConfig", {}).get("Dimension")
        if one["FeatureType"] != "Fractional" or dimension is None:
            raise InvalidInput(
                f"Feature {name} is a Vector: its type is Fractional, and its CollectionConfig "
                "has the Dimension."
            )
        vectors += 1
        found[name] = f"vector<float64, {dimension}>"
    if vectors > 1:
        raise InvalidInput("A FeatureGroup may have one feature of the CollectionType Vector.")
    return found


def _check_roles(
    definitions: Mapping[str, Mapping[str, Any]], identifier: str, event_time: str
) -> None:
    for role, name in (("RecordIdentifier", identifier), ("EventTime", event_time)):
        if name not in definitions:
            raise InvalidInput(
                f"{role}FeatureName {name} is not among the FeatureDefinitions."
                f"{did_you_mean(name, definitions)}"
            )
        if "CollectionType" in definitions[name]:
            raise InvalidInput(f"{role}FeatureName {name} is a collection, which it cannot be.")
    if definitions[event_time]["FeatureType"] == "Integral":
        raise InvalidInput(
            f"EventTimeFeatureName {event_time} is Integral; an event time is String or Fractional."
        )
    if definitions[identifier]["FeatureType"] == "Fractional":
        raise InvalidInput(
            f"RecordIdentifierFeatureName {identifier} is Fractional; numbers that look equal may "
            "differ, so an identifier here is String or Integral."
        )


def _throughput(asked: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a ThroughputConfig that makes sense; it is kept, and limits nothing."""
    if asked is None:
        return None
    units = [name for name in asked if name != "ThroughputMode"]
    if asked.get("ThroughputMode", "OnDemand") == "OnDemand":
        if units:
            raise InvalidInput(f"{units[0]} is for the ThroughputMode Provisioned.")
    elif len(units) < 2:
        raise InvalidInput(
            "The ThroughputMode Provisioned needs ProvisionedReadCapacityUnits and "
            "ProvisionedWriteCapacityUnits."
        )
    return dict(asked)


def is_of_request(group: FeatureGroup, request_id: str | None) -> bool:
    """Return whether a definition is what some request has made of it."""
    return (
        request_id is not None and group.properties.get(SETTINGS, {}).get("request") == request_id
    )


def updated(
    group: FeatureGroup, asked: Mapping[str, Any], request_id: str | None = None
) -> FeatureGroup:
    """Return what UpdateFeatureGroup makes of a definition; of its own work nothing else."""
    view = View(require_shown(group))
    if is_of_request(group, request_id):
        return group
    settings = {**view.settings, "request": request_id}
    additions = _by_name(asked.get("FeatureAdditions", ()))
    online = asked.get("OnlineStoreConfig")
    if len(asked) != 2:  # the name, and
        raise InvalidInput(
            "Give one of FeatureAdditions, OnlineStoreConfig and ThroughputConfig at a time: what "
            "is to change."
        )
    if online is not None:
        group = _with_online(group, view, online, settings)
    if "ThroughputConfig" in asked:
        before = settings.get("throughput", {"ThroughputMode": "OnDemand"})
        wanted = asked["ThroughputConfig"]
        if wanted.get("ThroughputMode", before["ThroughputMode"]) == before["ThroughputMode"]:
            wanted = {**before, **wanted}
        settings["throughput"] = _throughput(wanted)
    if additions:
        if len(group.features) + len(additions) > FEATURES_MAX:
            raise TooManyFeatures(
                f"FeatureGroup {group.name} would have more than {model.FEATURE_PAGE} features."
            )
        vectors = sum(f.dtype.kind == "vector" for f in group.features)
        group = group.with_features(_dtypes(additions, view.storage_type, vectors))
        sets = [n for n, d in additions.items() if d.get("CollectionType") == "Set"]
        settings["sets"] = [*settings.get("sets", ()), *sets]
    kept = {key: value for key, value in settings.items() if value}
    return replace(group, properties={**group.properties, SETTINGS: kept})


def _with_online(
    group: FeatureGroup, view: View, online: Mapping[str, Any], settings: dict[str, Any]
) -> FeatureGroup:
    if not group.online:
        raise InvalidInput(f"FeatureGroup {group.name} has no online store to update.")
    wanted = online.get("StorageType", view.storage_type)
    if wanted != view.storage_type:
        if (view.storage_type, wanted) != ("Standard", "Standard_V2"):
            raise InvalidInput(
                f"The StorageType cannot be changed from {view.storage_type} to {wanted}; only "
                "from Standard to Standard_V2, and not back."
            )
        settings["storage_type"] = wanted
    if "TtlDuration" in online:
        ttl = ttl_of(online["TtlDuration"])
        settings["ttl"] = online["TtlDuration"]
        ttl_us = None if ttl is None else ttl // timedelta(microseconds=1)
        group = replace(group, ttl_us=ttl_us)
    return group
