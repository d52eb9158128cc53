"""Answers that are cut on their way: boto3 tries again, and each write counts once."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

import featurestore as fs
from featurestore_server.sagemaker import surface
from tests.server import aws, cutting
from tests.server.serving import serving

PUT = aws.record(origin="JFK", at=cutting.AT, wind="1")
NEXT = aws.record(origin="JFK", at=cutting.AT, wind="2")


def test_no_write_is_lost_and_none_counts_twice(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store", durability="rebuildable", upkeep=False) as store:
        cut = cutting.run(store, answers=60)
    assert set(cut) == set(cutting.WAYS)


def test_the_run_sees_a_server_that_does_not_know_its_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surface, "_request_id", lambda _: None)
    with (
        fs.open(tmp_path / "store", durability="rebuildable", upkeep=False) as store,
        pytest.raises(AssertionError, match="history is not what was acknowledged"),
    ):
        cutting.run(store, answers=40)


def test_a_definition_whose_answer_was_lost_is_not_told_that_it_exists(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store, serving(store) as url:
        proxy = cutting.Proxy(url, seed=0)
        proxy.way = lambda request: "nothing" if b"attempt=1" in request else None  # type: ignore[method-assign]
        client = aws.client(aws.CONTROL, proxy.url, retries={"total_max_attempts": 3})
        client.create_feature_group(**aws.group())
        gust = [{"FeatureName": "gust", "FeatureType": "Fractional"}]
        client.update_feature_group(FeatureGroupName="weather", FeatureAdditions=gust)
        found = store.describe_feature_group("weather")
        assert (found.version, found.feature("gust").since) == (2, 2)
        for again in (
            lambda: client.create_feature_group(**aws.group()),
            lambda: client.update_feature_group(FeatureGroupName="weather", FeatureAdditions=gust),
        ):
            with pytest.raises(ClientError, match=r"ResourceInUse|already"):
                again()
        proxy.shutdown()
        proxy.server_close()


def test_without_an_id_an_equal_record_changes_nothing(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store, serving(store) as url:
        aws.client(aws.CONTROL, url).create_feature_group(**aws.group())
        client = aws.client(aws.RUNTIME, url)

        def forget(request: object, **_: object) -> None:
            del request.headers["amz-sdk-invocation-id"]  # type: ignore[attr-defined]

        client.meta.events.register_last("before-send", forget)
        for record in (PUT, PUT, NEXT, NEXT):
            client.put_record(FeatureGroupName="weather", Record=record)
        rows = store.sql("SELECT wind FROM history.weather ORDER BY write_seq").to_pylist()
        assert [row["wind"] for row in rows] == [1, 2]


def test_an_id_stands_for_one_request_only(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store, serving(store) as url:
        aws.client(aws.CONTROL, url).create_feature_group(**aws.group())
        client = aws.client(aws.RUNTIME, url)

        def same(request: object, **_: object) -> None:
            request.headers["amz-sdk-invocation-id"] = "one"  # type: ignore[attr-defined]

        client.meta.events.register_last("before-send", same)
        client.put_record(FeatureGroupName="weather", Record=PUT)
        with pytest.raises(client.exceptions.ValidationError, match="other content"):
            client.put_record(FeatureGroupName="weather", Record=NEXT)
