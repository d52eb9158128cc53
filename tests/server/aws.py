"""A real boto3 whose every answer is held to botocore's own model of it.

boto3 checks what it sends and reads leniently what it gets: members nobody modelled are dropped,
missing ones are not missed.  So each answer is looked at here as it came over the wire, against
the output shape of its operation, and each error against the errors that operation models.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import boto3
from botocore.config import Config

RUNTIME, CONTROL = "sagemaker-featurestore-runtime", "sagemaker"
#: Errors of every AWS service, which no operation models.
COMMON = {
    "ValidationException", "AccessDeniedException", "ThrottlingException", "ServiceUnavailable",
    "InternalFailure", "UnknownOperationException", "UnrecognizedClientException",
    "InvalidSignatureException", "MissingAuthenticationTokenException",
    "IncompleteSignatureException", "ResourceNotFound", "ResourceLimitExceeded",
}  # fmt: skip


@cache
def session() -> boto3.Session:
    """Return the one session of all tests: models are parsed once."""
    return boto3.Session(region_name="eu-west-1")


def client(
    service: str,
    url: str,
    key: tuple[str, str] = ("AKIDEXAMPLE", "unchecked"),
    **config: Any,
) -> Any:
    """Return a client as anybody would make it, but for what watches its answers."""
    options = {"retries": {"total_max_attempts": 1}, "connect_timeout": 5, "read_timeout": 60}
    made = session().client(
        service,
        endpoint_url=url,
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(**(options | config)),
    )
    made.meta.events.register("after-call", check_answer)
    return made


def check_answer(model: Any, http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
    """Hold an answer to the model of its operation."""
    assert parsed["ResponseMetadata"]["RequestId"]
    found = json.loads(http_response.content) if http_response.content else {}
    if http_response.status_code == 200:
        if model.output_shape is None:
            assert found == {}
        else:
            check(model.output_shape, found, model.name)
        return
    code = parsed["Error"]["Code"]
    assert parsed["Error"]["Message"]
    shapes = {shape.name: shape for shape in model.error_shapes}
    if code in shapes:
        traits = shapes[code].metadata.get("error", {})
        assert http_response.status_code == traits.get("httpStatusCode", 400)
    else:
        assert code in COMMON, code


def check(shape: Any, value: Any, path: str) -> None:
    """Hold a value, as it was sent, to a shape of botocore's."""
    kind, limits = shape.type_name, shape.metadata
    if kind == "structure":
        assert isinstance(value, dict), path
        assert value.keys() <= shape.members.keys(), (path, value.keys() - shape.members.keys())
        assert set(shape.required_members) <= value.keys(), (path, shape.required_members)
        for name, member in value.items():
            check(shape.members[name], member, f"{path}.{name}")
        return
    if kind == "list":
        assert isinstance(value, list), path
        for one in value:
            check(shape.member, one, f"{path}[]")
    size = len(value) if kind in ("string", "list") else value
    if kind == "timestamp":
        assert isinstance(value, int | float), path
        return
    if kind == "string":
        assert isinstance(value, str), path
        if "enum" in limits:
            assert value in limits["enum"], (path, value)
        pattern = limits.get("pattern", "")
        if pattern and not re.search(r"\\p\{|uD7FF", pattern):
            assert re.fullmatch(pattern, value, re.DOTALL), (path, value)
    assert limits.get("min", 0) <= size <= limits.get("max", 2**63), (path, value)


# ── words for records ────────────────────────────────────────────────────────────────────────


def record(**values: Any) -> list[dict[str, Any]]:
    """Return a record from its features: text, or a list of texts."""
    return [
        {"FeatureName": name, "ValueAsStringList" if isinstance(v, list) else "ValueAsString": v}
        for name, v in values.items()
    ]


def values(found: dict[str, Any]) -> dict[str, Any] | None:
    """Return the features of an answer that has a Record; None if it has none."""
    if "Record" not in found:
        return None
    return {
        one["FeatureName"]: one.get("ValueAsString", one.get("ValueAsStringList"))
        for one in found["Record"]
    }


WEATHER = {"origin": "String", "at": "String", "temp": "Fractional", "wind": "Integral"}


def group(name: str = "weather", **changes: Any) -> dict[str, Any]:
    """Return what CreateFeatureGroup asks for a group with both stores."""
    features = changes.pop("features", WEATHER)
    asked = {
        "FeatureGroupName": name,
        "RecordIdentifierFeatureName": "origin",
        "EventTimeFeatureName": "at",
        "FeatureDefinitions": [
            {"FeatureName": n, **(t if isinstance(t, dict) else {"FeatureType": t})}
            for n, t in features.items()
        ],
        "OnlineStoreConfig": {"EnableOnlineStore": True},
        "OfflineStoreConfig": {"S3StorageConfig": {"S3Uri": "s3://bucket/prefix"}},
        "RoleArn": "arn:aws:iam::123456789012:role/feature-store",
    } | changes
    return {member: value for member, value in asked.items() if value is not None}
