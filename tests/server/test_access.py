"""Who may do what: API keys, roles, the log of changes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import urllib3

import featurestore as fs
from featurestore.engine.database import Database, open_database
from featurestore_server import access, audit, keys
from featurestore_server.access import ROLES, VERBS, Caller, Door, Keys
from featurestore_server.audit import GENESIS, broken_at
from tests.server.serving import serving

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
RECORD = {"k": "a", "at": NOON, "x": 1.0}
LABELS = {"k": ["a"], "event_time": ["2013-01-01T13:00:00Z"]}


class World:
    """A served store with groups ``open`` and ``shut``, and a key for each role on ``open``."""

    def __init__(self, store: fs.FeatureStore, database: Database, url: str) -> None:
        self.store, self.database, self.url = store, database, url
        self.keys = Keys(database)
        self.made: dict[str, str] = {}
        for role in ROLES:
            self.made[role], _ = self.keys.create(role, [f"{role}:open*"])
        self.made["owner"], _ = self.keys.create("owner", ["admin"])

    def connect(self, who: str) -> fs.RemoteStore:
        return fs.connect(self.url, api_key=self.made.get(who, who))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fs.open(tmp_path / "store") as store:
        database = open_database(store.path)
        for name in ("open", "shut"):
            store.create_feature_group(
                name,
                record_identifier="k",
                event_time="at",
                features={"k": "string", "at": "timestamp", "x": "float64"},
            )
            store.put_record(name, RECORD)
        with serving(store) as url:
            yield World(store, database, url)
        database.close()
        assert store.verify() == []


def doing(group: str) -> dict[str, Any]:
    """Return what each verb looks like over HTTP, by the action it needs."""
    return {
        "describe": lambda s: s.describe_feature_group(group),
        "get": lambda s: s.get_record(group, "a"),
        "batch": lambda s: s.batch_get_record({group: ["a"]}),
        "features": lambda s: s.get_features(f"{group}:x", {"k": "a"}),
        "scan": lambda s: list(s.scan(group)),
        "join": lambda s: s.point_in_time(LABELS, f"{group}:x"),
        "changes": lambda s: list(s.changes(0, [group])),
        "put": lambda s: s.put_record(group, RECORD),
        "write": lambda s: s.write([(group, RECORD)]),
        "delete": lambda s: s.delete_record(group, "b", event_time=NOON),
        "ingest": lambda s: s.ingest(group, [RECORD]),
        "sql": lambda s: s.sql(f"SELECT * FROM {group}"),
        "update": lambda s: s.update_feature_group(group, description="d"),
        "flush": lambda s: s.flush(group),
        "stat": lambda s: s.stat(),
        "verify": lambda s: s.verify(),
        "scrub": lambda s: s.scrub(),
        "document": lambda s: s.documents.get("run", "a"),
        "documents": lambda s: s.documents.every("run"),
        "update document": lambda s: s._write(
            "PUT", "/v1/document", {"document": None}, query=[("kind", "run"), ("name", "a")]
        ),
        "append document": lambda s: s.documents.append("run", "s", {}),
        "backup": lambda s: s._request("GET", "/v1/backup"),
        "create": lambda s: s.create_feature_group(
            f"{group}2", record_identifier="k", event_time="at", exist_ok=True,
            features={"k": "string", "at": "timestamp"},
        ),
        "erase": lambda s: s.erase(group, "nobody"),
        "drop": lambda s: s.delete_feature_group(f"{group}2"),
    }  # fmt: skip


READS = {"get", "batch", "features", "scan", "join", "changes"}
WRITES = {"put", "write", "delete", "ingest"}
MAY = {
    "admin": {"describe", "sql", "update", "flush", "create", "drop", "erase", *READS, *WRITES},
    "writer": {"describe", *WRITES},
    "reader": {"describe", *READS},
    "sql": {"describe", "sql"},
    "auditor": {"describe"},
}


@pytest.mark.parametrize("role", MAY)
def test_a_role_allows_what_it_says_and_nothing_else(role: str, world: World) -> None:
    with world.connect(role) as store:
        for name, act in doing("open").items():
            if name in MAY[role]:
                act(store)
            else:
                with pytest.raises(fs.AccessDenied, match=role):
                    act(store)
        for act in doing("shut").values():
            with pytest.raises(fs.AccessDenied):
                act(store)
        assert {g.name for g in store.list_feature_groups()} <= {"open", "open2"}


def test_an_admin_of_everything_may_do_everything(world: World) -> None:
    with world.connect("owner") as store:
        for group in ("open", "shut"):
            for act in doing(group).values():
                act(store)


UPLOADS = {
    "ingest": "/v1/groups/shut/ingest",
    "join": "/v1/point-in-time?features=shut:x",
    "SQL": "/v1/sql?query=SELECT%201",
    "keys": "/v1/keys",
    "backup": "/v1/backup",
    "document": "/v1/documents?kind=run&series=s",
}
BODIES = UPLOADS | {
    "put": "/v1/groups/open/records",
    "write": "/v1/write",
    "create": "/v1/groups",
    "erase": "/v1/groups/open/erase",
    "get": "/v1/batch-get",
    "features": "/v1/get-features",
}


def answered_without_a_body(world: World, path: str, key: str) -> bytes:
    """Send a head and nothing of the body it speaks of; returns what is answered to that."""
    kind = b"application/vnd.apache.arrow.stream" if "sql" in path else b"application/json"
    host, port = world.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n".encode()
            + b"Content-Type: %b\r\nContent-Length: 1000\r\n\r\n" % kind
        )
        return client.recv(12)


def test_who_may_not_is_told_so_before_its_body_is_read(world: World) -> None:
    for name, path in BODIES.items():
        assert answered_without_a_body(world, path, "fs_no_key") == b"HTTP/1.1 401", name
    for name, path in UPLOADS.items():
        assert answered_without_a_body(world, path, world.made["writer"]) == b"HTTP/1.1 403", name


def test_a_pattern_is_a_whole_name() -> None:
    for pattern, name, allowed in (
        ("open", "open", True),
        ("open", "open2", False),
        ("open*", "open2", True),
        ("o?en", "open", True),
        ("*en", "open", True),
        ("*en", "open2", False),
        ("[no]pen", "open", True),
        ("OPEN", "open", False),
        ("op", "open", False),
    ):
        caller = access.Caller("k", "n", (("reader", pattern),))
        assert caller.may_verb("get_record", name) is allowed, (pattern, name)
        assert not caller.may_verb("verify", "*")


def test_what_a_group_is_called_is_not_told(world: World) -> None:
    with world.connect("reader") as store:
        for name in ("shut", "nothing"):
            with pytest.raises(fs.AccessDenied) as refused:
                store.get_record(name, "a")
            assert "Did you mean" not in str(refused.value)
        with pytest.raises(fs.AccessDenied):
            store.get_features(["open:x", "shut:x"], {"k": "a"})
    with world.connect("sql") as store:
        for query in ("FROM shut", "FROM history.SHUT", "SELECT (SELECT max(x) FROM latest.shut)"):
            with pytest.raises(fs.AccessDenied):
                store.sql(query)
        with pytest.raises(fs.AccessDenied):
            store.sql("FROM wrong")


def test_a_view_is_read_by_who_may_read_all_of_it(world: World) -> None:
    with world.connect("owner") as store:
        store.create_feature_view("both", ["open:x", fs.FeatureLookup("shut", "x", prefix="s_")])
        store.create_feature_view("one", ["open:x"])
    with world.connect("reader") as store:
        assert [view.name for view in store.list_feature_views()] == ["one"]
        assert store.get_features("one", {"k": "a"}) == {"x": 1.0}
        with pytest.raises(fs.AccessDenied):
            store.get_features("both", {"k": "a"})
        with pytest.raises(fs.AccessDenied):
            store.describe_feature_view("both")


def test_only_a_valid_key_opens(world: World) -> None:
    good = world.made["reader"]
    wrong = [
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good[:-5],
        good + "x",
        good.replace("fs_", "sf_"),
        "fs__",
        "fs_zzz_secret",
        "x" * 5000,
        "fs_" + "a" * 600 + "_b",
        "é",
    ]
    for key in wrong:
        with fs.remote.RemoteStore(world.url, api_key=key) as store, pytest.raises(fs.AccessDenied):
            store.get_record("open", "a")
    with fs.connect(world.url) as store, pytest.raises(fs.AccessDenied, match="API key"):
        store.get_record("open", "a")


def test_a_key_is_rotated_without_a_moment_in_between(world: World) -> None:
    key_id = world.made["reader"].split("_")[1]
    fresh, _ = world.keys.rotate(key_id)
    for key in (fresh, world.made["reader"]):
        with fs.connect(world.url, api_key=key) as store:
            store.get_record("open", "a")
    newest, _ = world.keys.rotate(key_id, grace="0s")
    for key, works in ((world.made["reader"], False), (fresh, False), (newest, True)):
        with fs.connect(world.url, api_key=key) as store:
            if works:
                store.get_record("open", "a")
            else:
                with pytest.raises(fs.AccessDenied):
                    store.get_record("open", "a")


def test_a_key_that_is_revoked_or_over_stops_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief, _ = world.keys.create("brief", ["reader"], expires_in="1h")
    with world.connect("reader") as reader, fs.connect(world.url, api_key=brief) as short:
        reader.get_record("open", "a")
        short.get_record("open", "a")
        world.keys.revoke(world.made["reader"].split("_")[1])
        now = keys.system_clock()
        monkeypatch.setattr(keys, "system_clock", lambda: now + 3_600_000_000)
        for store in (reader, short):
            with pytest.raises(fs.AccessDenied):
                store.get_record("open", "a")


def test_no_secret_is_kept(world: World) -> None:
    data = (world.store.path / "engine" / "data.mdb").read_bytes()
    for key in world.made.values():
        secret = key.split("_", 2)[2]
        assert secret.encode() not in data


def test_what_is_not_in_the_table_cannot_be_called() -> None:
    nobody = Caller("x", "nobody", ())
    everyone = Caller("x", "everyone", tuple((role, "*") for role in ROLES))
    for verb in VERBS:
        with pytest.raises(fs.AccessDenied):
            nobody.require(verb, ["g"])
        everyone.require(verb, ["g", "*"])
    with pytest.raises(KeyError):
        everyone.require("rename_feature_group", ["g"])
    # A pattern that is not * is no right on the store.
    with pytest.raises(fs.AccessDenied):
        Caller("x", "some", (("admin", "?*"),)).require("keys", ["*"])


# ── the log ──────────────────────────────────────────────────────────────────────────────────


def told(world: World) -> list[dict[str, Any]]:
    rows = audit.rows(world.database)
    assert broken_at(rows) is None
    assert world.store.verify() == []
    return [row.facts for row in rows]


def test_each_change_is_told_once_by_its_own_transaction(world: World) -> None:
    made = len(world.made)
    assert [fact["verb"] for fact in told(world)] == ["create_key"] * made
    with world.connect("writer") as store:
        put = store.put_record("open", {**RECORD, "x": 2.0}, request_id="once")
        store.put_record("open", {**RECORD, "x": 2.0}, request_id="once")
        store.put_record("open", {**RECORD, "x": 2.0})
        store.ingest("open", ({**RECORD, "k": f"k{i}"} for i in range(10)), id="ten")
        with pytest.raises(fs.InvalidRecord):
            store.put_record("open", {**RECORD, "x": "warm"})
    with world.connect("reader") as store, pytest.raises(fs.AccessDenied):
        store.put_record("open", RECORD)
    with world.connect("owner") as store:
        store.update_feature_group("open", description="d")
    facts = told(world)[made:]
    assert [fact["verb"] for fact in facts] == ["put_record", "ingest", "update_feature_group"]
    first = facts[0]
    assert (first["who"], first["groups"], first["request_id"]) == ("writer", ["open"], "once")
    assert (first["first_seq"], first["last_seq"]) == (put.seq, put.seq)
    assert facts[1]["last_seq"] - facts[1]["first_seq"] == 9
    assert all("2.0" not in str(fact) for fact in facts)
    for key in world.made.values():
        assert key.split("_", 2)[2] not in str(facts)


def test_a_change_and_its_row_stand_or_fall_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = world.store.snapshot()
    before = told(world)

    def broken(*_: object) -> None:
        raise RuntimeError("the log cannot be written")

    monkeypatch.setattr(audit, "append", broken)
    door = Door(world.store, world.database)
    with (
        pytest.raises(RuntimeError),
        door.enter(access.ANONYMOUS, "put_record", ["open"]) as store,
    ):
        store.put_record("open", {**RECORD, "x": 3.0})
    monkeypatch.undo()
    assert world.store.snapshot() == seq
    assert told(world) == before


def test_the_chain_shows_what_was_touched(world: World) -> None:
    rows = audit.rows(world.database)
    changed = [
        rows[0],
        rows[1]._replace(text=rows[1].text.replace(b"create", b"revoke")),
        *rows[2:],
    ]
    assert broken_at(changed) == 1
    assert broken_at([rows[0], *rows[2:]]) == 2
    assert broken_at(rows[1:]) == 1
    assert broken_at(rows[1:], rows[0].hash) is None
    assert rows[0].hash != GENESIS


def test_an_erasure_is_told_of_without_its_key_and_counts_once(world: World) -> None:
    with world.connect("owner") as store:
        store.put_record("open", {"k": "unforgettable", "at": NOON, "x": 1.0})
        ask = ("POST", "/v1/groups/open/erase", {"key": "unforgettable"}, "once")
        first, again = (store._write(*ask) for _ in range(2))
        assert first == again
        assert first["records"] == 1
        for change in ({"key_hash": str(2**63)}, {"at": "soon"}, {"group": None}):
            with pytest.raises(fs.InvalidInput):
                store._job("/v1/verify", given={"erasures": [first | change]})
    told = [row for row in audit.rows(world.database) if row.facts["verb"] == "erase"]
    assert [row.facts["request_id"] for row in told if "request_id" in row.facts] == ["once"]
    assert "unforgettable" not in str(told)


def test_an_auditor_looks_and_does_not_touch(world: World) -> None:
    whole, _ = world.keys.create("checker", ["auditor:*"])
    with fs.connect(world.url, api_key=whole) as store:
        assert store.scrub() == store.verify() == []
        assert store.documents.get("run", "a") is None
        for touch in (
            lambda: store.documents.update("run", "a", lambda _: {}),
            lambda: store.documents.append("run", "s", {}),
            lambda: store._request("GET", "/v1/backup"),
            lambda: store._request("POST", "/v1/backup", {"store_id": "", "files": {}}),
        ):
            with pytest.raises(fs.AccessDenied, match="admin"):
                touch()
    assert world.store.documents.every("run") == {}


def test_a_change_of_a_document_is_told_once_and_counts_once(world: World) -> None:
    made = len(told(world))
    with world.connect("owner") as store:
        where: Any = {"query": [("kind", "run"), ("name", "a")]}
        change = ("PUT", "/v1/document", {"was": None, "document": {"secret": "x"}}, "once")
        first, again = (store._write(*change, **where) for _ in range(2))
        assert first == again
        with pytest.raises(fs.StaleUpdate, match="changed meanwhile"):
            store._write(*change[:3], **where)
        with pytest.raises(fs.RequestMismatch):
            store._write(*change[:2], {"was": None, "document": {}}, "once", **where)
        add = ("POST", "/v1/documents", {"document": {}}, "another")
        series = [("kind", "run"), ("series", "s")]
        assert [store._write(*add, query=series) for _ in range(2)] == [{"number": 1}] * 2
    facts = told(world)[made:]
    assert [(fact["verb"], fact["request_id"]) for fact in facts] == [
        ("update_document", "once"), ("append_document", "another"),
    ]  # fmt: skip
    assert "secret" not in str(facts)
    assert list(world.store.documents.every("run")) == ["a", "s/00000001"]


def test_the_log_is_read_by_auditors_of_the_store(world: World) -> None:
    whole, _ = world.keys.create("checker", ["auditor:*"])
    with fs.connect(world.url, api_key=whole) as store:
        page = store._json("GET", "/v1/audit", query=[("limit", "2")])
        assert [row["number"] for row in page] == [0, 1]
        rest = store._json("GET", "/v1/audit", query=[("after", "1")])
        assert rest[-1]["verb"] == "create_key"
        assert store.verify() == []
    with world.connect("auditor") as store, pytest.raises(fs.AccessDenied):
        store._json("GET", "/v1/audit")


def test_keys_are_kept_over_http_by_admins(world: World) -> None:
    with world.connect("owner") as owner:
        made = owner._json("POST", "/v1/keys", {"name": "new", "roles": ["reader:open"]})
        with fs.connect(world.url, api_key=made["api_key"]) as store:
            assert store.get_record("open", "a", ["x"]) == {"x": 1.0}
        turned = owner._json("POST", f"/v1/keys/{made['id']}/rotate", {"grace": "0s"})
        with fs.connect(world.url, api_key=turned["api_key"]) as store:
            store.get_record("open", "a")
        listed = owner._json("GET", "/v1/keys")
        assert made["id"] in {key["id"] for key in listed}
        assert "sha256" not in str(listed)
        owner._request("DELETE", f"/v1/keys/{made['id']}")
        with pytest.raises(fs.InvalidInput, match="role"):
            owner._json("POST", "/v1/keys", {"name": "bad", "roles": ["king"]})
    with world.connect("admin") as store, pytest.raises(fs.AccessDenied):
        store._json("GET", "/v1/keys")


# ── reads and refusals, and how many ─────────────────────────────────────────────────────────


def test_reads_and_refusals_are_told_by_their_number(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="at",
            features={"k": "string", "at": "timestamp", "x": "float64"},
        )  # fmt: skip
        database = open_database(store.path)
        made = Keys(database)
        key, facts = made.create("reader", ["reader:g"])
        made.create("other", ["admin"])
        with serving(store) as url:
            with fs.connect(url, api_key=key) as remote:
                for _ in range(3):
                    remote.get_record("g", "a")
                with pytest.raises(fs.AccessDenied):
                    remote.put_record("g", RECORD)
                with pytest.raises(fs.AccessDenied):
                    remote.get_record("secret", "a")
            wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
            for headers in ({"x-api-key": wrong}, {"x-api-key": "no key at all"}, {}):
                with fs.connect(url) as remote, pytest.raises(fs.AccessDenied):
                    remote._request("GET", "/v1/groups/g/record?key=a", headers=headers)
            assert len(audit.rows(database)) == 2  # not yet: that is once a minute, and at the end
        rows = [row.facts for row in audit.rows(database)][2:]
        assert broken_at(audit.rows(database)) is None
        database.close()
    told = {(row["who"], row["verb"], row["result"]): row for row in rows}
    reads = told["reader", "get_record", "allowed"]
    assert (reads["count"], reads["groups"], reads["key_id"]) == (3, ["g"], facts["id"])
    assert told["reader", "put_record", "refused"]["count"] == 1
    assert told["reader", "get_record", "refused"]["groups"] == ["secret"]
    known = [row for row in rows if row["verb"] == "authenticate"]
    assert {row["key_id"] for row in known} == {"", facts["id"]}
    assert key.split("_", 2)[2] not in str(rows)


def test_who_makes_names_up_does_not_fill_the_log(tmp_path: Path) -> None:
    counts = audit.Counts()
    for number in range(5000):
        counts.add("id", "who", "get_record", f"made up {number}" * 99, allowed=False)
    assert len(counts.seen) <= 1001
    assert sum(counts.seen.values()) == 5000
    with fs.open(tmp_path / "store") as store:
        database = open_database(store.path)
        assert counts.write(database, 0) == 1
        assert counts.write(database, 0) == 0
        (row,) = audit.rows(database)
        assert row.facts["count"] == 5000
        assert len(row.text) < 200_000
        database.close()


def test_a_line_break_in_a_name_is_no_line_of_the_log(world: World) -> None:
    with world.connect("reader") as store:
        for name in ("x%0d%0aforged", "%1b[31mred", "%E2%80%AErtl"):
            with pytest.raises(fs.FeatureStoreError):
                store._request("GET", f"/v1/groups/{name}/record?key=a")
    counts = audit.Counts()
    counts.add("id", "who", "get_record", 'x\r\n{"verb":"forged"}', allowed=False)
    counts.write(world.database, 0)
    row = audit.rows(world.database)[-1]
    assert b"\n" not in row.text
    assert b"\r" not in row.text
    assert row.facts["verb"] == "get_record"


def test_a_key_has_a_rate(world: World) -> None:
    slow, _ = world.keys.create("slow", ["reader"], rate=2)
    http = urllib3.PoolManager(retries=False)
    answers = [
        http.request(
            "GET",
            f"{world.url}/v1/groups/open/record?key=a",
            headers={"authorization": f"Bearer {slow}"},
        )
        for _ in range(5)
    ]
    assert {answer.status for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"] == "StoreBusy"
    with world.connect("reader") as store:  # another's rate is another's
        for _ in range(5):
            store.get_record("open", "a")
    with pytest.raises(fs.InvalidInput, match="rate"):
        world.keys.create("never", ["reader"], rate=0)


def test_a_bucket_fills_again() -> None:
    bucket = keys.Bucket(0.001)
    bucket.take()
    with pytest.raises(fs.StoreBusy, match="later") as refused:
        bucket.take()
    assert 999 < refused.value.after_seconds <= 1000
    bucket._at -= 1000  # that much later
    bucket.take()


def test_who_has_not_said_who_it_is_gets_401(world: World) -> None:
    http = urllib3.PoolManager(retries=False)
    for headers in ({}, {"authorization": "Bearer fs_nobody_secret"}, {"x-api-key": "x"}):
        answer = http.request("GET", f"{world.url}/v1/groups", headers=headers)
        assert (answer.status, answer.json()["error"]) == (401, "AccessDenied")
        assert answer.headers["www-authenticate"]


def test_a_key_made_twice_under_one_request_id_is_one_key(world: World) -> None:
    with world.connect("owner") as owner:
        body = {"name": "twice", "roles": ["reader"]}
        first = owner._write("POST", "/v1/keys", body, "once")
        again = owner._write("POST", "/v1/keys", body, "once")
        assert first["api_key"]
        assert again == first | {"api_key": None}  # shown once
        assert sum(key["name"] == "twice" for key in owner._json("GET", "/v1/keys")) == 1
        assert first["api_key"].split("_", 2)[2].encode() not in (
            (world.store.path / "engine" / "data.mdb").read_bytes()
        )
    with world.connect("admin") as other, pytest.raises(fs.AccessDenied):
        other._write("POST", "/v1/keys", body, "once")  # ids of others are not met


def test_secrets_are_compared_by_digests_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a comparison tells nothing of the secret: only digests are compared."""
    compared: list[tuple[str, str]] = []

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    facts = {"secrets": [{"sha256": keys._digest("right"), "expires_us": None}]}
    assert [keys._is_secret_of(facts, s) for s in ("right", "r", "", "x" * 9999)] == [
        True, False, False, False,
    ]  # fmt: skip
    assert {len(part) for pair in compared for part in pair} == {64}
