"""The scenario of ``sagemaker`` 2.x: what its users write, and not a line for us in it."""

from __future__ import annotations

import time

import boto3
import numpy as np
import pandas as pd
import sagemaker
from sagemaker.feature_store.feature_definition import FractionalFeatureDefinition
from sagemaker.feature_store.feature_group import FeatureGroup, IngestionError
from sagemaker.feature_store.feature_store import FeatureStore
from sagemaker.feature_store.inputs import (
    DeletionModeEnum,
    FeatureParameter,
    FeatureValue,
    Filter,
    FilterOperatorEnum,
    Identifier,
    OnlineStoreConfigUpdate,
    ResourceEnum,
    TargetStoreEnum,
    TtlDuration,
)

ROWS = 400
ROLE = "arn:aws:iam::123456789012:role/feature-store"


def frame(rows: int = ROWS, first: int = 0) -> pd.DataFrame:
    """Return customers, every tenth of unknown income."""
    number = np.arange(first, first + rows)
    made = pd.DataFrame(
        {
            "customer": [f"C{n}" for n in number],
            "at": ["2024-05-01T00:00:00Z"] * rows,
            "age": 20 + number % 50,
            "income": np.where(number % 10 == 0, np.nan, 1000.5 + number),
        }
    )
    # Text of pandas 3 is a dtype of its own, which the SDK does not know.
    return made.astype({"customer": "object", "at": "object"})


def wait(group: FeatureGroup) -> None:
    """Wait until the group is there, as every notebook does."""
    while group.describe()["FeatureGroupStatus"] == "Creating":
        time.sleep(0.2)


def refused(group: FeatureGroup, data: pd.DataFrame) -> list[int]:
    """Ingest what has bad rows; returns those."""
    try:
        group.ingest(data_frame=data, max_workers=2, wait=True)
    except IngestionError as error:
        return list(error.failed_rows)
    return []


def main() -> None:
    """Run it all."""
    session = sagemaker.Session(boto3.Session(), default_bucket="bucket")
    group = FeatureGroup(name="customers", sagemaker_session=session)
    data = frame()
    group.load_feature_definitions(data_frame=data)
    group.create(
        s3_uri="s3://bucket/prefix",
        record_identifier_name="customer",
        event_time_feature_name="at",
        role_arn=ROLE,
        enable_online_store=True,
        description="who they are",
        tags=[{"Key": "owner", "Value": "crm"}],
    )
    wait(group)
    types = {d["FeatureName"]: d["FeatureType"] for d in group.describe()["FeatureDefinitions"]}
    assert types == {
        "customer": "String", "at": "String", "age": "Integral", "income": "Fractional",
    }  # fmt: skip

    group.ingest(data_frame=data, max_workers=1, wait=True)
    group.ingest(data_frame=frame(first=ROWS), max_workers=4, wait=True)
    group.ingest(data_frame=frame(first=2 * ROWS), max_workers=2, max_processes=3, wait=True)
    for n in (0, ROWS + 1, 3 * ROWS - 1):
        found = {v["FeatureName"]: v["ValueAsString"] for v in group.get_record(f"C{n}")}
        assert found.get("income") == (None if n % 10 == 0 else repr(1000.5 + n)), found
        assert found["age"] == str(20 + n % 50)

    bad = frame(10, first=9000)
    bad["age"] = bad["age"].astype("object")
    bad.loc[3, "age"] = "many"
    assert refused(group, bad) == [3]

    record = [
        FeatureValue("customer", "C0"),
        FeatureValue("at", "2024-05-02T00:00:00.000Z"),
        FeatureValue("age", "99"),
    ]
    group.put_record(record, [TargetStoreEnum.ONLINE_STORE, TargetStoreEnum.OFFLINE_STORE],
                     TtlDuration("Weeks", 2000))  # fmt: skip
    found = {v["FeatureName"]: v["ValueAsString"] for v in group.get_record("C0", ["age", "at"])}
    assert found == {"at": "2024-05-02T00:00:00.000Z", "age": "99"}
    group.delete_record("C1", "2024-05-03T00:00:00Z")
    assert group.get_record("C1") is None
    group.delete_record("C2", "2024-05-03T00:00:00Z", DeletionModeEnum.HARD_DELETE)
    assert group.get_record("C2") is None

    group.update([FractionalFeatureDefinition("score")])
    group.update(online_store_config=OnlineStoreConfigUpdate(TtlDuration("Days", 30)))
    while group.describe()["LastUpdateStatus"]["Status"] == "InProgress":
        time.sleep(0.2)
    assert group.describe()["OnlineStoreConfig"]["TtlDuration"] == {"Unit": "Days", "Value": 30}
    group.update_feature_metadata(
        "age", description="in years", parameter_additions=[FeatureParameter("unit", "year")]
    )
    assert group.describe_feature_metadata("age")["Description"] == "in years"
    assert group.list_parameters_for_feature_metadata("age") == [{"Key": "unit", "Value": "year"}]
    assert group.list_tags() == [{"Key": "owner", "Value": "crm"}]

    store = FeatureStore(sagemaker_session=session)
    listed = store.list_feature_groups(name_contains="cust")
    assert [one["FeatureGroupName"] for one in listed["FeatureGroupSummaries"]] == ["customers"]
    batch = store.batch_get_record([Identifier("customers", ["C5", "C6", "nobody"])])
    assert len(batch["Records"]) == 2
    year = Filter("AllParameters", "year", FilterOperatorEnum.CONTAINS)
    features = store.search(ResourceEnum.FEATURE_METADATA, [year])["Results"]
    assert [one["FeatureMetadata"]["FeatureName"] for one in features] == ["age"]
    ddl = group.as_hive_ddl()
    assert "CREATE EXTERNAL TABLE" in ddl
    assert "offline-store/customers-" in ddl, ddl

    gone = FeatureGroup(name="gone", sagemaker_session=session)
    gone.load_feature_definitions(data_frame=data)
    gone.create(False, "customer", "at", ROLE, enable_online_store=True)
    gone.delete()
    print(f"sagemaker {sagemaker.__version__}: create, ingest by threads and processes, put, get, "
          "delete, update, metadata, search: all as they should")  # fmt: skip


if __name__ == "__main__":
    main()
