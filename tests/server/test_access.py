"""Who may do what: API keys, roles, the log of changes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

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
        "create": lambda s: s.create_feature_group(
            f"{group}2", record_identifier="k", event_time="at", exist_ok=True,
            features={"k": "string", "at": "timestamp"},
        ),
        "drop": lambda s: s.delete_feature_group(f"{group}2"),
    }  # fmt: skip


READS = {"get", "batch", "features", "scan", "join", "changes"}
WRITES = {"put", "write", "delete", "ingest"}
MAY = {
    "admin": {"describe", "sql", "update", "flush", "create", "drop", *READS, *WRITES},
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
        everyone.require("erase", ["g"])
    # A pattern that is not * is no right on the store.
    with pytest.raises(fs.AccessDenied):
        Caller("x", "some", (("admin", "?*"),)).require("keys", ["*"])


# ── the log ──────────────────────────────────────────────────────────────────────────────────


def told(world: World) -> list[dict[str, Any]]:
    rows = audit.rows(world.database)
    assert broken_at(rows) is None
    assert audit.verify(world.database) is None
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
