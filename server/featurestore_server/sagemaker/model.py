"""The inputs of every operation, as AWS's service models have them.

Written out rather than read from botocore, which a server does not need to have; a test walks
botocore's models and these tables side by side.
"""

from __future__ import annotations

from featurestore_server.sagemaker.shapes import (
    Choice,
    Flag,
    Members,
    Moment,
    Several,
    Text,
    Whole,
)

ARN_PREFIX = r"arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:feature-group"
GROUP = r"[a-zA-Z0-9]([_-]*[a-zA-Z0-9]){0,63}"
FEATURE = r"[a-zA-Z0-9]([-_]*[a-zA-Z0-9]){0,63}"
_TAGGED = r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)"
_PARAMETER = r"([\p{L}\p{Z}\p{N}_.:/=+\-]*)"
_KMS_KEY = r"[a-zA-Z0-9:/_-]*"
_CATALOGUED = r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*"

VALUE_CHARACTERS_MAX = 358_400
FEATURE_PAGE = 2500

# ── runtime ──────────────────────────────────────────────────────────────────────────────────

_VALUE = Text(max=VALUE_CHARACTERS_MAX, pattern=".*")
RUNTIME_NAME = Text(1, 150, rf"({ARN_PREFIX}/)?([a-zA-Z0-9]([-_]*[a-zA-Z0-9]){{0,63}})")
_RUNTIME_FEATURE = Text(1, 64, rf"^{FEATURE}")
_FEATURE_NAMES = Several(_RUNTIME_FEATURE, 1)
_SWITCH = Choice(("Enabled", "Disabled"))
_TARGETS = Several(Choice(("OnlineStore", "OfflineStore")), 1, 2)
_UNITS = Choice(("Seconds", "Minutes", "Hours", "Days", "Weeks"))
_RECORD_TTL = Members({"Unit*": _UNITS, "Value*": Whole(1)})
RECORD = Several(
    Members(
        {
            "FeatureName*": _RUNTIME_FEATURE,
            "ValueAsString": _VALUE,
            "ValueAsStringList": Several(_VALUE, 0, VALUE_CHARACTERS_MAX),
        }
    ),
    1,
)
_IDENTIFIER = Members(
    {
        "FeatureGroupName*": RUNTIME_NAME,
        "RecordIdentifiersValueAsString*": Several(_VALUE, 1, 100),
        "FeatureNames": _FEATURE_NAMES,
    }
)
_ENTRY = {"FeatureGroupName*": RUNTIME_NAME, "TargetStores": _TARGETS, "TtlDuration": _RECORD_TTL}
ENTRY = Members({**_ENTRY, "Record*": RECORD})

RUNTIME: dict[str, Members] = {
    "PutRecord": ENTRY,
    "GetRecord": Members(
        {
            "FeatureGroupName*": RUNTIME_NAME,
            "RecordIdentifierValueAsString*": _VALUE,
            "FeatureNames": _FEATURE_NAMES,
            "ExpirationTimeResponse": _SWITCH,
        }
    ),
    "DeleteRecord": Members(
        {
            "FeatureGroupName*": RUNTIME_NAME,
            "RecordIdentifierValueAsString*": _VALUE,
            "EventTime*": _VALUE,
            "TargetStores": _TARGETS,
            "DeletionMode": Choice(("SoftDelete", "HardDelete")),
        }
    ),
    "UpdateRecord": Members(
        {**_ENTRY, "RecordIdentifierValueAsString*": _VALUE, "Features*": RECORD}
    ),
    "ListRecords": Members(
        {
            "FeatureGroupName*": RUNTIME_NAME,
            "MaxResults": Whole(1, 100),
            "NextToken": Text(1, 8192),
            "IncludeSoftDeletedRecords": Flag(),
        }
    ),
    "BatchGetRecord": Members(
        {"Identifiers*": Several(_IDENTIFIER, 1, 100), "ExpirationTimeResponse": _SWITCH}
    ),
    "BatchWriteRecord": Members({"Entries*": Several(ENTRY, 1, 25), "TtlDuration": _RECORD_TTL}),
}

# ── control ──────────────────────────────────────────────────────────────────────────────────

_GROUP_NAME = Text(1, 64, GROUP)
_NAME_OR_ARN = Text(1, 256, rf"({ARN_PREFIX}\/)?({GROUP})")
_FEATURE_NAME = Text(1, 64, FEATURE)
_TOKEN = Text(0, 8192, ".*")
_ARN = Text(0, 256, "arn:aws[a-z-]*:sagemaker:[a-z0-9-]*:[0-9]{12}:.+")
_TAG_KEY = Text(1, 128, _TAGGED)
_TAGS = Several(Members({"Key*": _TAG_KEY, "Value*": Text(0, 256, _TAGGED)}), 0, 50)
_TTL = Members({"Unit": _UNITS, "Value": Whole(1)})
_STORAGE = Choice(("Standard", "Standard_V2", "InMemory"))
_CAPACITY = {
    "ProvisionedReadCapacityUnits": Whole(0, 10_000_000),
    "ProvisionedWriteCapacityUnits": Whole(0, 10_000_000),
}
_MODES = Choice(("OnDemand", "Provisioned"))
_S3_URI = Text(0, 1024, "(https|s3)://([^/]+)/?(.*)")
_KMS = Text(0, 2048, _KMS_KEY)
_CATALOGUE = Text(1, 255, _CATALOGUED)
_DEFINITION = Members(
    {
        "FeatureName*": _FEATURE_NAME,
        "FeatureType*": Choice(("Integral", "Fractional", "String")),
        "CollectionType": Choice(("List", "Set", "Vector")),
        "CollectionConfig": Members(
            {"VectorConfig": Members({"Dimension*": Whole(1, 8192)})},
        ),
    }
)
_STATUSES = Choice(("Creating", "Created", "CreateFailed", "Deleting", "DeleteFailed"))
_ORDER = Choice(("Ascending", "Descending"))
_PARAMETER_KEY = Text(1, 255, _PARAMETER)
_FILTERS = Several(
    Members(
        {
            "Name*": Text(1, 255, ".+"),
            "Operator": Choice(
                (
                    "Equals", "NotEquals", "GreaterThan", "GreaterThanOrEqualTo", "LessThan",
                    "LessThanOrEqualTo", "Contains", "Exists", "NotExists", "In",
                )
            ),
            "Value": Text(1, 1024, ".+"),
        }
    ),
    1,
    20,
)  # fmt: skip
SEARCH_EXPRESSION = Members(
    {
        "Filters": _FILTERS,
        "NestedFilters": Several(
            Members({"NestedPropertyName*": Text(1, 255, ".+"), "Filters*": _FILTERS}), 1, 20
        ),
        "Operator": Choice(("And", "Or")),
    }
)
SEARCH_EXPRESSION.shapes["SubExpressions"] = Several(SEARCH_EXPRESSION, 1, 20)

#: What `Search` may be asked about; a local store has resources of the first two kinds.
RESOURCES = (
    "FeatureGroup", "FeatureMetadata", "TrainingJob", "Experiment", "ExperimentTrial",
    "ExperimentTrialComponent", "Endpoint", "Model", "ModelPackage", "ModelPackageGroup",
    "Pipeline", "PipelineExecution", "Image", "ImageVersion", "Project", "HyperParameterTuningJob",
    "ModelCard", "PipelineVersion", "Job", "HubContent",
)  # fmt: skip

CONTROL: dict[str, Members] = {
    "CreateFeatureGroup": Members(
        {
            "FeatureGroupName*": _GROUP_NAME,
            "RecordIdentifierFeatureName*": _FEATURE_NAME,
            "EventTimeFeatureName*": _FEATURE_NAME,
            "FeatureDefinitions*": Several(_DEFINITION, 1, FEATURE_PAGE),
            "OnlineStoreConfig": Members(
                {
                    "SecurityConfig": Members({"KmsKeyId": _KMS}),
                    "EnableOnlineStore": Flag(),
                    "TtlDuration": _TTL,
                    "StorageType": _STORAGE,
                }
            ),
            "OfflineStoreConfig": Members(
                {
                    "S3StorageConfig*": Members(
                        {"S3Uri*": _S3_URI, "KmsKeyId": _KMS, "ResolvedOutputS3Uri": _S3_URI}
                    ),
                    "DisableGlueTableCreation": Flag(),
                    "DataCatalogConfig": Members(
                        {"TableName*": _CATALOGUE, "Catalog*": _CATALOGUE, "Database*": _CATALOGUE}
                    ),
                    "TableFormat": Choice(("Default", "Glue", "Iceberg")),
                }
            ),
            "ThroughputConfig": Members({"ThroughputMode*": _MODES, **_CAPACITY}),
            "RoleArn": Text(20, 2048, r"arn:aws[a-z\-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+"),
            "Description": Text(0, 128),
            "Tags": _TAGS,
        }
    ),
    "DescribeFeatureGroup": Members({"FeatureGroupName*": _NAME_OR_ARN, "NextToken": _TOKEN}),
    "UpdateFeatureGroup": Members(
        {
            "FeatureGroupName*": _NAME_OR_ARN,
            "FeatureAdditions": Several(_DEFINITION, 1, 100),
            "OnlineStoreConfig": Members({"TtlDuration": _TTL, "StorageType": _STORAGE}),
            "ThroughputConfig": Members({"ThroughputMode": _MODES, **_CAPACITY}),
        }
    ),
    "DeleteFeatureGroup": Members({"FeatureGroupName*": _GROUP_NAME}),
    "ListFeatureGroups": Members(
        {
            "NameContains": Text(1, 64),
            "FeatureGroupStatusEquals": _STATUSES,
            "OfflineStoreStatusEquals": Choice(("Active", "Blocked", "Disabled")),
            "CreationTimeAfter": Moment(),
            "CreationTimeBefore": Moment(),
            "SortOrder": _ORDER,
            "SortBy": Choice(("Name", "FeatureGroupStatus", "OfflineStoreStatus", "CreationTime")),
            "MaxResults": Whole(1, 100),
            "NextToken": _TOKEN,
        }
    ),
    "DescribeFeatureMetadata": Members(
        {"FeatureGroupName*": _NAME_OR_ARN, "FeatureName*": _FEATURE_NAME}
    ),
    "UpdateFeatureMetadata": Members(
        {
            "FeatureGroupName*": _NAME_OR_ARN,
            "FeatureName*": _FEATURE_NAME,
            "Description": Text(0, 255, ".*"),
            "ParameterAdditions": Several(
                Members({"Key": _PARAMETER_KEY, "Value": Text(1, 255, _PARAMETER)}), 0, 25
            ),
            "ParameterRemovals": Several(_PARAMETER_KEY, 0, 25),
        }
    ),
    "Search": Members(
        {
            "Resource*": Choice(RESOURCES),
            "SearchExpression": SEARCH_EXPRESSION,
            "SortBy": Text(1, 255, ".+"),
            "SortOrder": _ORDER,
            "NextToken": _TOKEN,
            "MaxResults": Whole(1, 100),
            "CrossAccountFilterOption": Choice(("SameAccount", "CrossAccount")),
            "VisibilityConditions": Several(
                Members({"Key": Text(1, 128, _TAGGED), "Value": Text(0, 256, _TAGGED)}), 1, 5
            ),
        }
    ),
    "AddTags": Members({"ResourceArn*": _ARN, "Tags*": _TAGS}),
    "ListTags": Members({"ResourceArn*": _ARN, "NextToken": _TOKEN, "MaxResults": Whole(50)}),
    "DeleteTags": Members({"ResourceArn*": _ARN, "TagKeys*": Several(_TAG_KEY, 1, 50)}),
}

#: Every table, by the name of the service in botocore.
MODELS: dict[str, dict[str, Members]] = {
    "sagemaker-featurestore-runtime": RUNTIME,
    "sagemaker": CONTROL,
}
