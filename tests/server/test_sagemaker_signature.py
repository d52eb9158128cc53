"""Signatures: AWS's published vectors, botocore as the other side, and who gets in with what."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.engine.database import open_database
from featurestore_server import access, audit, keys, root_secret
from featurestore_server.access import Keys
from featurestore_server.sagemaker import signature, surface
from featurestore_server.sagemaker.model import MODELS
from featurestore_server.sagemaker.signature import NotSigned
from tests.server import aws
from tests.server.serving import ROOT, serving

# ── published vectors ────────────────────────────────────────────────────────────────────────

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
VANILLA = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
#: Of the AWS Signature Version 4 test suite: method, path, query, one more header, signature.
VECTORS = {
    "get-vanilla": ("GET", "/", "", None, VANILLA),
    "get-slash": ("GET", "//", "", None, VANILLA),
    "get-relative": ("GET", "/example/..", "", None, VANILLA),
    "get-slash-dot-slash": ("GET", "/./", "", None, VANILLA),
    "get-vanilla-query-order-key-case": (
        "GET", "/", "Param2=value2&Param1=value1", None,
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "post-vanilla": (
        "POST", "/", "", None, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    "get-header-key-duplicate": (
        "GET", "/", "", ["value2", "value2", "value1"],
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    "get-header-value-multiline": (
        "GET", "/", "", ["value1,value2,value3"],
        "ba17b383a53190154eb5fa66a1b836cc297cc0a3d70a5d00705980573d8ff790",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_the_published_vectors(name: str) -> None:
    method, path, query, extra, expected = VECTORS[name]
    stamp = "20150830T123600Z"
    headers = [(b"Host", b"example.amazonaws.com"), (b"X-Amz-Date", stamp.encode())]
    headers += [(b"My-Header1", value.encode()) for value in extra or ()]
    request = signature.message(method, path.encode(), query.encode(), headers)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    canonical = signature.canonical_request(request, sorted(request.headers), empty)
    text = signature.string_to_sign(stamp, "20150830/us-east-1/service/aws4_request", canonical)
    key = signature.signing_key(SECRET, "20150830", "us-east-1", "service")
    assert signature.hmac.digest(key, text.encode(), "sha256").hex() == expected


# ── botocore as the other side ───────────────────────────────────────────────────────────────

SAFE = "ABCabc019-_.~"
SEGMENT = st.text(SAFE + "/%é :+&=*'()", max_size=8)
PAIRS = st.lists(st.tuples(st.text(SAFE, min_size=1, max_size=4), SEGMENT), max_size=4)


def signed_by_botocore(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes, at: float
) -> dict[str, str]:
    """Return all headers of a request that botocore has signed."""
    url = f"http://localhost:8080{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method=method, url=url, data=body, headers=headers)
    auth = SigV4Auth(Credentials("AKFSEXAMPLE", SECRET), "sagemaker", "eu-west-1")
    stamp = datetime.fromtimestamp(at, UTC)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "botocore.auth.get_current_datetime", lambda **_: stamp.replace(tzinfo=None)
        )
        auth.add_auth(request)
    return {"Host": "localhost:8080", **dict(request.headers.items())}


def verified(method: str, path: str, query: str, headers: dict[str, str], body: bytes,
             at: float, secrets: tuple[str, ...] = (SECRET,)) -> None:  # fmt: skip
    raw = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers.items()]
    request = signature.message(method, path.encode(), query.encode(), raw)
    signature.verify(signature.read(headers["Authorization"]), request, body, secrets, at)


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    segments=st.lists(SEGMENT, max_size=3),
    pairs=PAIRS,
    body=st.binary(max_size=40),
    value=st.text("abc  ,", max_size=10),
)
def test_what_botocore_signs_is_verified(
    method: str, segments: list[str], pairs: list[tuple[str, str]], body: bytes, value: str
) -> None:
    from urllib.parse import quote

    path = "/" + "/".join(quote(one, safe="") for one in segments)
    query = "&".join(f"{name}={quote(text, safe='')}" for name, text in pairs)
    now = 1_600_000_000.0
    headers = {"Content-Type": "application/json", "X-Amz-Target": "SageMaker.X", "X-Odd": value}
    sent = signed_by_botocore(method, path, query, headers, body, now)
    verified(method, path, query, sent, body, now)
    verified(method, path, query, sent, body, now + 299, ("another", SECRET))
    for changed in (
        {"method": "PATCH"}, {"path": path + "x"}, {"query": f"{query}&z=1"},
        {"body": body + b" "}, {"secrets": ("another",)}, {"secrets": ()},
        {"headers": sent | {"X-Amz-Target": "SageMaker.DeleteFeatureGroup"}},
        {"headers": sent | {"Host": "elsewhere"}},
        {"headers": sent | {"x-amz-unsigned": "1"}},
        {"headers": sent | {"X-Amz-Content-SHA256": "0" * 64}},
        {"headers": sent | {"Authorization": sent["Authorization"][:-1] + "x"}},
        {"headers": {n: v for n, v in sent.items() if n != "X-Odd"}},
        {"headers": sent | {"X-Amz-Security-Token": "token"}},
        {"at": now + 301}, {"at": now - 301},
    ):  # fmt: skip
        given_request: dict[str, Any] = {
            "method": method, "path": path, "query": query, "headers": sent, "body": body,
            "at": now,
        }  # fmt: skip
        with pytest.raises(NotSigned):
            verified(**(given_request | changed))


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer fs_a_b", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=a/b/c",
        "AWS4-HMAC-SHA256 Credential=a/20200101/r/sagemaker/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Credential=a/20200101/r/s3/aws4_request, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 =,,=,", "AWS4-ECDSA-P256-SHA256 Credential=a/2/r/sagemaker/aws4_request",
    ],
)  # fmt: skip
def test_a_header_that_is_none(authorization: str | None) -> None:
    with pytest.raises(NotSigned):
        signature.read(authorization)
    assert signature.region_of(authorization, "here") == "here"


# ── over a socket ────────────────────────────────────────────────────────────────────────────


class World:
    """A served store with an access key for each role on `open*`."""

    def __init__(self, store: fs.FeatureStore, keys: Keys, url: str) -> None:
        self.store, self.keys, self.url = store, keys, url
        self.made: dict[str, tuple[str, str]] = {}
        for role in access.ROLES:
            self.make(role, f"{role}:open*")
        self.make("owner", "admin")

    def make(self, name: str, *roles: str, **options: Any) -> tuple[str, str]:
        secret, facts = self.keys.create(name, roles, access_key=True, **options)
        self.made[name] = (facts["id"], secret)
        return self.made[name]

    def client(self, who: str, service: str = aws.RUNTIME) -> Any:
        return aws.client(service, self.url, self.made[who])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fs.open(tmp_path / "store", durability="rebuildable", upkeep=False) as store:
        database = open_database(store.path)
        with serving(store) as url:
            found = World(store, Keys(database), url)
            for name in ("open", "shut"):
                found.client("owner", aws.CONTROL).create_feature_group(**aws.group(name))
            yield found
        database.close()
        assert store.verify() == []


AT = "2020-01-01T12:00:00Z"
KEY = {"RecordIdentifierValueAsString": "a"}


def put(client: Any, group: str) -> None:
    client.put_record(FeatureGroupName=group, Record=aws.record(origin="a", at=AT))


def get(client: Any, group: str) -> None:
    client.get_record(FeatureGroupName=group, **KEY)


def describe(client: Any, group: str) -> None:
    client.describe_feature_group(FeatureGroupName=group)


def tag(client: Any, group: str) -> None:
    arn = f"arn:aws:sagemaker:eu-west-1:000000000000:feature-group/{group}"
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "b"}])


MAY = {
    "admin": {put, get, describe, tag},
    "writer": {put, describe},
    "reader": {get, describe},
    "sql": {describe},
    "auditor": {describe},
}


def denied(act: Any, client: Any, group: str) -> str:
    with pytest.raises(ClientError) as caught:
        act(client, group)
    return str(caught.value.response["Error"]["Code"])


def test_roles_say_who_may_do_what(world: World) -> None:
    for role, may in MAY.items():
        clients = {
            act: world.client(role, aws.CONTROL if act in (describe, tag) else aws.RUNTIME)
            for act in (put, get, describe, tag)
        }
        for act, client in clients.items():
            code = "AccessDeniedException" if act in (describe, tag) else "AccessForbidden"
            if act in may:
                act(client, "open")
            else:
                assert denied(act, client, "open") == code
            assert denied(act, client, "shut") == code
            assert denied(act, client, "nothing") == code  # whether it is there is not told
    listed = world.client("reader", aws.CONTROL).list_feature_groups()["FeatureGroupSummaries"]
    assert [one["FeatureGroupName"] for one in listed] == ["open"]
    batch = world.client("reader").batch_get_record(
        Identifiers=[
            {"FeatureGroupName": name, "RecordIdentifiersValueAsString": ["a"]}
            for name in ("open", "shut")
        ]
    )
    assert [one["FeatureGroupName"] for one in batch["Records"]] == ["open"]
    assert [one["ErrorCode"] for one in batch["Errors"]] == ["AccessForbidden"]
    reader = world.client("reader")
    with pytest.raises(reader.exceptions.AccessForbidden, match="writer"):
        put(reader, "open")


SHUT = {"FeatureGroupName": "shut"}
SHUT_ARN = {"ResourceArn": "arn:aws:sagemaker:eu-west-1:000000000000:feature-group/shut"}
RECORD = aws.record(origin="a", at=AT)
#: Every operation on a group, for one that the caller has no rights on.
FORBIDDEN: dict[str, dict[str, Any]] = {
    "PutRecord": {**SHUT, "Record": RECORD},
    "GetRecord": {**SHUT, **KEY},
    "DeleteRecord": {**SHUT, **KEY, "EventTime": AT},
    "UpdateRecord": {**SHUT, **KEY, "Features": RECORD},
    "ListRecords": SHUT,
    "CreateFeatureGroup": aws.group("shut2"),
    "DescribeFeatureGroup": SHUT,
    "UpdateFeatureGroup": {**SHUT, "OnlineStoreConfig": {"TtlDuration": {}}},
    "DeleteFeatureGroup": SHUT,
    "DescribeFeatureMetadata": {**SHUT, "FeatureName": "temp"},
    "UpdateFeatureMetadata": {**SHUT, "FeatureName": "temp", "Description": "mine"},
    "AddTags": {**SHUT_ARN, "Tags": []},
    "ListTags": SHUT_ARN,
    "DeleteTags": {**SHUT_ARN, "TagKeys": ["a"]},
}
#: Those that leave out what the caller may not see, or say so of each entry.
SILENT = {"ListFeatureGroups", "Search", "BatchGetRecord", "BatchWriteRecord"}


def test_no_operation_passes_the_door(world: World) -> None:
    assert FORBIDDEN.keys() | SILENT == {name for table in MODELS.values() for name in table}
    for service, code in ((aws.RUNTIME, "AccessForbidden"), (aws.CONTROL, "AccessDeniedException")):
        client = world.client("admin", service)  # of `open*` alone
        for operation in MODELS[service].keys() & FORBIDDEN.keys():
            with pytest.raises(ClientError) as caught:
                client._make_api_call(operation, FORBIDDEN[operation])
            assert caught.value.response["Error"]["Code"] == code, operation
    entry = {**SHUT, "Record": RECORD}
    written = world.client("admin").batch_write_record(Entries=[entry])
    assert [one["ErrorCode"] for one in written["Errors"]] == ["AccessForbidden"]
    for resource in ("FeatureGroup", "FeatureMetadata"):
        found = world.client("admin", aws.CONTROL).search(Resource=resource)["Results"]
        assert {one[resource]["FeatureGroupName"] for one in found} == {"open"}
    assert world.store.sql("SELECT count(*) AS n FROM history.shut").to_pylist() == [{"n": 0}]


def test_only_a_valid_signature_opens(world: World) -> None:
    key_id, secret = world.made["owner"]
    wrong = {
        (key_id, secret[:-1] + ("A" if secret[-1] != "A" else "B")): "InvalidSignatureException",
        (key_id[:-1] + "9", secret): "UnrecognizedClientException",
        ("x" * 200, secret): "UnrecognizedClientException",
        ("é", secret): "UnrecognizedClientException",
    }
    for key, code in wrong.items():
        for service, act in ((aws.RUNTIME, get), (aws.CONTROL, describe)):
            client = aws.client(service, world.url, key)
            assert denied(act, client, "open") == code
    where = urlsplit(world.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    connection.request("GET", "/FeatureGroup/open?RecordIdentifierValueAsString=a")
    answer = connection.getresponse()
    assert answer.status == 403
    assert answer.getheader("x-amzn-errortype") == "MissingAuthenticationTokenException"
    assert b"--access-key" in answer.read()
    connection.close()
    # The secret of an access key is no API key, and an API key signs nothing.
    sent = f"fs_{key_id}_{secret}"
    with fs.connect(world.url, api_key=sent) as store, pytest.raises(fs.AccessDenied):
        store.get_record("open", "a")
    api_key, facts = world.keys.create("bearer", ["admin"])
    client = aws.client(aws.RUNTIME, world.url, (facts["id"], api_key))
    assert denied(get, client, "open") == "InvalidSignatureException"
    with fs.connect(world.url, api_key=api_key) as store:
        assert store.get_record("open", "a") is None


def test_a_clock_that_is_off_is_told_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    client = world.client("owner")
    for shift in (301, -301):
        monkeypatch.setattr(surface.time, "time", lambda shift=shift: real() + shift)
        with pytest.raises(ClientError, match=r"Signature (expired|not yet current)"):
            get(client, "open")
    monkeypatch.setattr(surface.time, "time", lambda: real() + 280)
    get(client, "open")


def test_a_key_is_rotated_and_revoked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id, first = world.made["reader"]
    second, _ = world.keys.rotate(key_id)
    for secret in (first, second):
        get(aws.client(aws.RUNTIME, world.url, (key_id, secret)), "open")
    third, _ = world.keys.rotate(key_id, grace="0s")
    for secret in (first, second):
        client = aws.client(aws.RUNTIME, world.url, (key_id, secret))
        assert denied(get, client, "open") == "InvalidSignatureException"
    last = aws.client(aws.RUNTIME, world.url, (key_id, third))
    get(last, "open")
    world.keys.revoke(key_id)
    assert denied(get, last, "open") == "UnrecognizedClientException"
    world.make("brief", "reader", expires_in="1h")
    brief = world.client("brief")
    get(brief, "open")
    now = keys.system_clock()
    monkeypatch.setattr(keys, "system_clock", lambda: now + 3_600_000_000)
    assert denied(get, brief, "open") == "InvalidSignatureException"


def test_what_is_changed_is_told_with_the_request_it_was(world: World) -> None:
    put(world.client("writer"), "open")
    database = open_database(world.store.path)
    facts = audit.rows(database)[-1].facts
    assert (facts["who"], facts["verb"], facts["groups"]) == ("writer", "put_record", ["open"])
    assert len(facts["request_id"]) == 36
    for _, secret in world.made.values():
        assert secret not in str([row.facts for row in audit.rows(database)])
    database.close()


def test_without_keys_it_is_for_this_machines_own_programs(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store, serving(store) as url:
        aws.client(aws.CONTROL, url).create_feature_group(**aws.group())
        put(aws.client(aws.RUNTIME, url, ("whoever", "whatever")), "weather")
        where = urlsplit(url)
        for headers in ({"Origin": "https://example.com"}, {"Host": "example.com"}):
            connection = http.client.HTTPConnection(where.hostname or "", where.port)
            path = "/FeatureGroup/weather?RecordIdentifierValueAsString=a"
            connection.request("GET", path, headers=headers)
            assert connection.getresponse().status == 403
            connection.close()


# ── the secrets ──────────────────────────────────────────────────────────────────────────────


def test_no_secret_is_in_the_database(world: World, tmp_path: Path) -> None:
    data = (world.store.path / "engine" / "data.mdb").read_bytes()
    root = world.store.path / root_secret.NAME
    assert root.stat().st_mode & 0o777 == 0o600
    for secret in (*(s for _, s in world.made.values()), root.read_bytes().hex()):
        assert secret.encode() not in data
    assert root.read_bytes() not in data
    world.store.backup(tmp_path / "copy")
    assert not (tmp_path / "copy" / root_secret.NAME).exists()


def test_without_the_root_secret_no_access_key_is_believed(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store:
        database = open_database(store.path)
        secret, facts = Keys(database).create("a", ["admin"], access_key=True)
        assert Keys(database).signer(facts["id"])[1] == [secret]  # type: ignore[index]
        (store.path / root_secret.NAME).unlink()
        with pytest.raises(fs.CannotOpen, match="root secret"):
            Keys(database).signer(facts["id"])
        again, other = Keys(database).create("b", ["admin"], access_key=True)
        keys = Keys(database)
        assert keys.signer(facts["id"])[1] != [secret]  # type: ignore[index]
        assert keys.signer(other["id"])[1] == [again]  # type: ignore[index]
        assert [p.name for p in store.path.glob(".access*")] == []
        database.close()


def test_a_server_without_its_root_secret_says_nothing_of_it(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store:
        database = open_database(store.path)
        secret, facts = Keys(database).create("a", ["admin"], access_key=True)
        (store.path / root_secret.NAME).unlink()
        with serving(store) as url:
            client = aws.client(aws.RUNTIME, url, (facts["id"], secret))
            with pytest.raises(ClientError, match="UnrecognizedClient") as caught:
                get(client, "weather")
            assert str(tmp_path) not in str(caught.value)
        database.close()


def test_the_command_line_prints_what_boto3_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "featurestore_server", "keys"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    store = ["--store", str(tmp_path / "store")]

    def run(*words: str) -> str:
        done = subprocess.run(
            [*command, *words, *store], env=os.environ | {"PYTHONPATH": paths},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    made = dict(line.split("=", 1) for line in
                run("create", "me", "--role", "admin", "--access-key").splitlines())  # fmt: skip
    assert set(made) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    turned = run("rotate", made["AWS_ACCESS_KEY_ID"])
    assert made["AWS_ACCESS_KEY_ID"] in turned
    assert made["AWS_SECRET_ACCESS_KEY"] not in turned
