"""The laws: what must hold between any two answers of a store, whatever was written and when.

The first law is the one law of the design: every answer is `resolve` over the history of a key.
Here it is put to the store's *own* history, read back by SQL; the model is asked only whether that
history is the one that was written.
"""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore import record as engine_record
from featurestore.event_time import MAX_US, NO_EXPIRY
from tests import agreement, strategies
from tests.model import (
    DAY,
    MINUTE,
    SECOND,
    Group,
    Key,
    Model,
    Put,
    Version,
    Write,
    exactly,
    moment,
    resolve,
)
from tests.small_world import (
    KEYS,
    START,
    WRITTEN,
    fresh_folder,
    fresh_store,
    label_times,
    new_groups,
    writes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = START + 4 * MINUTE
END_OF_TIME = moment(MAX_US)
stories = st.lists(writes(), min_size=1, max_size=12)
chores_ = st.sampled_from(["flush", "compact", "reopen"])


def began(store: fs.FeatureStore) -> Model:
    """Create the groups of the small world in a store, and return a model with the same."""
    model = Model()
    for group in new_groups().values():
        agreement.create(store, group)
        model.groups[group.name] = group
    return model


def told(store: fs.FeatureStore, model: Model, story: Sequence[Write]) -> None:
    """Send writes one after the other to both."""
    for write in story:
        agreement.send(store, model, write)
        model.commit([write], NOW)


def answers(store: fs.FeatureStore, *, with_seq: bool) -> dict[object, Any]:
    """Return every answer of a store, as exact values, keyed by what was asked."""
    result: dict[object, Any] = {}
    times = [START + n * MINUTE + off for n in range(-1, 20) for off in (-1, 0)]
    system = ", write_seq, write_time, expires_at, is_deleted" if with_seq else ""
    groups = new_groups()
    for name in WRITTEN:
        group = groups[name]
        columns = ", ".join(f'"{feature}"' for feature in group.features)
        for key in KEYS[name]:
            found = store.get_record(name, agreement.asked(key), with_status=True)
            result["get", name, key] = (
                found.status,
                found.record and {n: exactly(v) for n, v in found.record.items()},
                (found.event_time, found.age, found.expires_at),
                found.write_seq if with_seq else None,
            )
        rows = store.sql(
            f"SELECT 1 AS view, {columns} FROM {name} "
            f"UNION ALL SELECT 2, {columns} FROM latest.{name}"
        )
        result["views", name] = agreement.in_order(agreement.rows_of(rows))
        history = store.sql(f"SELECT {columns}{system} FROM history.{name}")
        result["history", name] = agreement.in_order(agreement.rows_of(history))
        labels = agreement.labels_of(group, [*KEYS[name]], times)
        joined = store.point_in_time(
            labels, [fs.FeatureLookup(name, prefix="f_")], label_time="label", with_status=True
        )
        result["join", name] = agreement.rows_of(joined)
    return result


# ── one law ──────────────────────────────────────────────────────────────────────────────────

small_times = st.integers(-2, 8)
versions = st.lists(
    st.builds(
        Version,
        event_time_us=small_times,
        seq=st.just(0),
        write_time_us=small_times,
        expires_at_us=st.none() | small_times,
        is_deleted=st.booleans(),
        values=st.just({}),
    ),
    max_size=6,
)


@given(
    versions,
    small_times,
    small_times,
    st.none() | st.integers(0, 6),
    st.integers(0, 2),
    st.booleans(),
    st.none() | st.integers(0, 3),
)
def test_two_people_wrote_the_law_and_mean_the_same(
    history: list[Version],
    upto_us: int,
    clock_us: int,
    seq_max: int | None,
    delay_us: int,
    by_write_time: bool,
    max_age_us: int | None,
) -> None:
    theirs = [
        engine_record.Version(
            v.event_time_us,
            seq,
            v.write_time_us,
            NO_EXPIRY if v.expires_at_us is None else v.expires_at_us,
            v.is_deleted,
            None if v.is_deleted else {},
        )
        for seq, v in enumerate(history)
    ]
    ours = [
        Version(v.event_time_us, seq, v.write_time_us, v.expires_at_us, v.is_deleted, {})
        for seq, v in enumerate(history)
    ]
    status, version = engine_record.resolve(
        theirs,
        upto_us,
        clock_us,
        seq_max=seq_max,
        delay_us=delay_us,
        known_by_write_time=by_write_time,
        max_age_us=max_age_us,
    )
    expected, newest = resolve(
        ours,
        upto_us,
        clock_us,
        seq_max=math.inf if seq_max is None else seq_max,
        delay_us=delay_us,
        by_write_time=by_write_time,
        max_age_us=math.inf if max_age_us is None else max_age_us,
    )
    assert (status, version and version.seq) == (expected, newest and newest.seq)


def own_history(store: fs.FeatureStore, group: Group) -> dict[Key, list[Version]]:
    """Read a group's history out of the store itself."""
    history: dict[Key, list[Version]] = {}
    table = store.sql(f"SELECT * FROM history.{group.name}")
    times = {
        name: table[name].cast(pa.int64()).to_pylist()
        for name in (group.event_time, "write_time", "expires_at")
    }
    for place, row in enumerate(table.to_pylist()):
        version = Version(
            event_time_us=times[group.event_time][place],
            seq=row["write_seq"],
            write_time_us=times["write_time"][place],
            expires_at_us=times["expires_at"][place],
            is_deleted=row["is_deleted"],
            values={name: row[name] for name in group.payload},
        )
        history.setdefault(tuple(row[name] for name in group.identifier), []).append(version)
    return history


@given(stories, st.integers(-5, 15), label_times, st.integers(0, 3))
def test_every_answer_is_resolve_over_the_stores_own_history(
    story: list[Write], minutes: int, times: list[int], flushed: int
) -> None:
    clock_us = NOW
    with fresh_store(clock=lambda: clock_us) as store:
        model = began(store)
        told(store, model, story[: flushed * 4])
        store.flush()
        told(store, model, story[flushed * 4 :])
        clock_us += minutes * MINUTE
        for name, group in model.groups.items():
            history = own_history(store, group)
            assert {k: len(v) for k, v in history.items()} == {
                k: len(v) for k, v in group.history.items()
            }
            group.history = history  # from here on the model answers from what the store said
            agreement.joins(store, model, name, times)
        agreement.online(store, model, clock_us)
        agreement.batch(store, model, clock_us)
        agreement.scan(store, model, clock_us)
        agreement.views(store, model, clock_us)


@given(stories, st.randoms(use_true_random=False))
def test_with_distinct_event_times_any_order_of_arrival_gives_the_same_answers(
    story: list[Write], chance: random.Random
) -> None:
    distinct: dict[tuple[str, Key, int], Write] = {
        (w.group, w.key, w.event_time_us): w for w in story
    }
    orders = [list(distinct.values()), list(distinct.values())]
    chance.shuffle(orders[1])
    seen = []
    for order in orders:
        with fresh_store(clock=lambda: NOW) as store:
            told(store, began(store), order)
            seen.append(answers(store, with_seq=False))
    assert seen[0] == seen[1]


@given(stories, st.data())
def test_a_request_sent_again_counts_once(story: list[Write], data: st.DataObject) -> None:
    sending = list(enumerate(story))
    for number, write in enumerate(story):
        for _ in range(data.draw(st.integers(0, 2))):
            place = data.draw(st.integers(0, len(sending)))
            first = next(i for i, (n, _) in enumerate(sending) if n == number)
            sending.insert(max(place, first + 1), (number, write))
    seen = []
    for requests in (list(enumerate(story)), sending):
        with fresh_store(clock=lambda: NOW) as store:
            model = began(store)
            results: dict[int, list[fs.PutResult]] = {}
            for number, write in requests:
                result = agreement.send(store, model, write, f"request {number}")
                results.setdefault(number, []).append(result)
            for first, *again in results.values():
                assert not first.replayed
                assert all(r.replayed for r in again)
                assert {(r.seq, r.outcome, r.expires_at) for r in again} <= {
                    (first.seq, first.outcome, first.expires_at)
                }
            seen.append(answers(store, with_seq=True))
    assert seen[0] == seen[1]


@given(stories, st.lists(chores_, max_size=12))
def test_flush_compact_and_reopen_change_no_answer(story: list[Write], chores: list[str]) -> None:
    with fresh_store(clock=lambda: NOW) as undisturbed, fresh_folder() as folder:
        store = fs.open(folder / "store", clock=lambda: NOW)
        for one in (undisturbed, store):
            model = began(one)
        for write, chore in zip_longest(story, chores):
            for one in (undisturbed, store):
                if write is not None:
                    agreement.send(one, model, write)
            if chore == "reopen":
                store.close()
                store = fs.open(folder / "store", clock=lambda: NOW)
            elif chore is not None:
                getattr(store, chore)()
        assert answers(store, with_seq=True) == answers(undisturbed, with_seq=True)
        assert store.verify() == []
        store.close()


@given(st.lists(writes(deletes=False), min_size=1, max_size=10))
def test_one_by_one_together_or_as_a_table_is_the_same(story: list[Write]) -> None:
    puts = [write for write in story if isinstance(write, Put) and write.ttl_us is None]
    # A record equal to the current one is dropped when put, and kept in a table: leave those out.
    puts = list({(p.group, p.key, p.event_time_us): p for p in puts}.values())
    puts.sort(key=lambda p: list(new_groups()).index(p.group))
    seen = []
    for way in ("put", "write", "ingest"):
        with fresh_store(clock=lambda: NOW) as store:
            model = began(store)
            if way == "put":
                told(store, model, puts)
            elif way == "write":
                store.write([(p.group, agreement.record(model.groups[p.group], p)) for p in puts])
            else:
                for name, group in model.groups.items():
                    store.ingest(name, agreement.table(group, [p for p in puts if p.group == name]))
            seen.append(answers(store, with_seq=True))
    assert seen[0] == seen[1] == seen[2]


@given(stories, stories, label_times)
def test_a_seq_is_a_moment_that_stays(
    story: list[Write], later: list[Write], times: list[int]
) -> None:
    with fresh_store(clock=lambda: NOW) as store:
        model = began(store)
        told(store, model, story)
        group = model.groups["plain"]
        labels = agreement.labels_of(group, KEYS["plain"], times)
        seq = store.snapshot()
        before = store.point_in_time(labels, ["plain:*"], label_time="label", as_of=seq)
        assert before.equals(store.point_in_time(labels, ["plain:*"], label_time="label"))
        told(store, model, later)
        store.flush()
        store.compact()
        assert before.equals(
            store.point_in_time(labels, ["plain:*"], label_time="label", as_of=seq)
        )


@given(stories)
def test_changes_tell_the_history_in_its_order(story: list[Write]) -> None:
    with fresh_store(clock=lambda: NOW) as store:
        model = began(store)
        told(store, model, story[::2])
        store.flush()
        told(store, model, story[1::2])
        for since in (0, model.seq // 2, model.seq):
            found = list(store.changes(since=since))
            expected = [
                (v.seq, name)
                for name in model.groups
                for _, v in model.history_rows(name)
                if v.seq > since
            ]
            assert [(c["seq"], c["group"]) for c in found] == sorted(expected)


@given(stories)
def test_serving_now_is_joining_now(story: list[Write]) -> None:
    with fresh_store(clock=lambda: NOW + 8 * MINUTE) as store:
        model = began(store)
        told(store, model, story)
        view = [
            "plain:*",
            fs.FeatureLookup("brief", prefix="b_", max_age="6m"),
            fs.FeatureLookup("brief", ["v"], on={"m": "k", "k": "m"}, rename={"v": "turned"}),
        ]
        store.create_feature_view("both", view)
        keys = [("a", "b"), ("ab", ""), ("b", "a"), ("", "ab"), ("nobody", "b")]
        asked = pa.table({"k": [k for k, _ in keys], "m": [m for _, m in keys]})
        times = pa.array([moment(NOW + 8 * MINUTE)] * len(keys), pa.timestamp("us", tz="UTC"))
        joined = store.point_in_time(asked.append_column("now", times), "both", label_time="now")
        served = store.get_features("both", asked)
        assert agreement.rows_of(served) == agreement.rows_of(joined.drop_columns("now"))
        for place, (k, m) in enumerate(keys):
            one = store.get_features("both", {"k": k, "m": m})
            row = served.slice(place, 1).to_pylist()[0]
            assert {n: exactly(v) for n, v in one.items() if n in row} == {
                n: exactly(row[n]) for n in row if n in one
            }


@given(st.data())
def test_every_type_is_the_same_on_every_path(data: st.DataObject) -> None:
    group = data.draw(strategies.groups(values_max=4, versions_max=1))
    rows = data.draw(st.lists(strategies.rows_of(group), min_size=1, max_size=5))
    names = [feature.name for feature in group.features]
    given_rows = [{n: exactly(row.get(n)) for n in names} for row in rows]
    with fresh_store(clock=lambda: NOW) as store:
        store.create_feature_group(
            "g",
            record_identifier=group.record_identifier,
            event_time=group.event_time,
            features={feature.name: feature.dtype for feature in group.features},
            max_future=None,
        )
        put = [store.put_record("g", row).outcome != "unchanged" for row in rows[: len(rows) // 2]]
        store.ingest("g", rows[len(rows) // 2 :])
        kept = [r for r, new in zip_longest(given_rows, put, fillvalue=True) if new]
        times = [row[group.event_time] for row in rows]
        labels = pa.table(
            {
                **{
                    f.name: pa.array([row[f.name] for row in rows], f.dtype.to_arrow())
                    for f in group.key_features
                },
                group.event_time: pa.array(times, pa.timestamp("us", tz="UTC")),
            }
        )
        for chore in (lambda: None, store.flush, store.compact):
            chore()
            history = store.sql("FROM history.g ORDER BY write_seq").select(names).to_pylist()
            assert [{n: exactly(v) for n, v in row.items()} for row in history] == kept
            if group.value_features:
                joined = store.point_in_time(labels, ["g:*"], label_time=group.event_time)
                for row, found in zip(rows, joined.to_pylist(), strict=True):
                    time = row[group.event_time]
                    known = newest(group, kept, row, upto=time) | {group.event_time: exactly(time)}
                    assert {n: exactly(v) for n, v in found.items()} == known
            for row in rows:
                key = tuple(row[name] for name in group.record_identifier)
                found = store.get_record("g", key if len(key) > 1 else key[0])
                assert {n: exactly(v) for n, v in found.items()} == newest(group, kept, row)


def newest(
    group: fs.FeatureGroup,
    kept: list[dict[str, Any]],
    row: dict[str, Any],
    upto: datetime = END_OF_TIME,
) -> dict[str, Any]:
    """Return the newest of all rows, given in the order of seq, that have a row's key."""
    time = group.event_time
    same_key = [
        (candidate[time][1], seq, candidate)
        for seq, candidate in enumerate(kept)
        if all(candidate[name] == exactly(row[name]) for name in group.record_identifier)
        and candidate[time][1] <= upto
    ]
    return max(same_key, key=lambda found: found[:2])[2]


@given(stories, st.integers(1, 3))
def test_a_scan_goes_on_behind_its_token(story: list[Write], page_size: int) -> None:
    with fresh_store(clock=lambda: NOW) as store:
        model = began(store)
        told(store, model, story)
        for name in WRITTEN:
            whole = [repr(row) for row in store.scan(name)]
            scan = store.scan(name, page_size=page_size)
            first = next(scan.pages()).to_pylist()
            behind = store.scan(name, after=scan.token, page_size=page_size) if scan.token else []
            identifier = model.groups[name].identifier
            found = [tuple(row[n] for n in identifier) for row in (*first, *behind)]
            assert len(set(found)) == len(found) == len(whole)


# ── imports, and the same data again ─────────────────────────────────────────────────────────


def test_the_same_data_again_adds_nothing() -> None:
    group = new_groups()["brief"]
    puts = [
        Put("brief", KEYS["brief"][n % 4], START + n * SECOND, {"v": n / 3, "l": [n, None]})
        for n in range(40)
    ]
    table = agreement.table(group, puts)
    forms: list[Any] = [
        table,
        pl.from_arrow(table),
        table.to_pandas(types_mapper=pd.ArrowDtype),
        table.select(sorted(table.column_names)),
        pa.concat_tables([table.slice(0, 7), table.slice(7)]),
        [agreement.record(group, put) for put in puts],
    ]
    with fresh_store(clock=lambda: NOW) as store:
        agreement.create(store, group)
        assert store.ingest("brief", table).accepted == 40
        for again in forms:
            result = store.ingest("brief", again)
            assert (result.accepted, result.replayed) == (0, 40)
            store.flush()
        assert store.ingest("brief", table.slice(1)).accepted == 39  # other data
        store.update_feature_group("brief", add_features={"later": "int64"}, ttl="1m")
        assert store.ingest("brief", table).replayed == 40
        store.delete_feature_group("brief")
        agreement.create(store, group)
        assert store.ingest("brief", table).accepted == 40  # another group
        assert store.snapshot() == 119


def test_an_import_keeps_the_dates_of_its_knowledge() -> None:
    rows = [
        {"k": "a", "at": moment(START), "x": 1, "arrived": moment(START + 5 * MINUTE)},
        {"k": "a", "at": moment(START + MINUTE), "x": 2, "arrived": moment(START + 2 * MINUTE)},
    ]
    labels = pa.table(
        {
            "k": ["a"] * 4,
            "t": pa.array([moment(START + n * MINUTE) for n in (1, 2, 5, 9)]),
        }
    )
    with fresh_store(clock=lambda: NOW + DAY) as store:
        agreement.create(
            store, Group("g", ("k",), "at", {"k": "string", "at": "timestamp", "x": "int64"})
        )
        store.put_record("g", {"k": "a", "at": moment(START - DAY), "x": 0})
        store.ingest("g", pa.Table.from_pylist(rows), write_time="arrived")
        for chore in (lambda: None, store.flush, store.compact):
            chore()
            asked = {"labels": labels, "features": ["g:x"], "label_time": "t"}
            assert store.point_in_time(**asked)["x"].to_pylist() == [2] * 4
            known = store.point_in_time(**asked, known="write_time")
            assert known["x"].to_pylist() == [None, 2, 2, 2]
            before = store.point_in_time(**asked, as_of=1)
            assert before["x"].to_pylist() == [0] * 4
            assert store.point_in_time(**asked, as_of=moment(NOW))["x"].to_pylist() == [None] * 4
            times = store.sql("SELECT write_time FROM history.g ORDER BY write_seq")
            assert agreement.rows_of(times)[1:] == [
                {"write_time": exactly(START + 5 * MINUTE)},
                {"write_time": exactly(START + 2 * MINUTE)},
            ]
        late = [{**rows[0], "arrived": moment(NOW + 2 * DAY)}]
        with pytest.raises(fs.InvalidRecord, match="arrived"):
            store.ingest("g", late, write_time="arrived")


# ── rows out are rows in ─────────────────────────────────────────────────────────────────────


@given(
    st.lists(st.tuples(st.sampled_from([None, "a", "b", "nobody"]), st.integers(-2, 12))),
    st.sampled_from(["arrow", "pandas", "polars"]),
    st.lists(writes(deletes=False), max_size=6),
)
def test_rows_out_are_rows_in(
    labels: list[tuple[str | None, int]], form: str, story: list[Write]
) -> None:
    table = pa.table(
        {
            "number": pa.array(range(len(labels)), pa.int16()),
            "who": pa.array([key for key, _ in labels], pa.string()),
            "when": pa.array(
                [moment(START + n * MINUTE) for _, n in labels], pa.timestamp("ns", tz="Asia/Tokyo")
            ),
        }
    )
    frame: Any = table
    if form == "pandas":
        frame = table.to_pandas()
        frame.index = [f"row {n}" for n in range(len(labels))]
    elif form == "polars":
        frame = pl.from_arrow(table)
    with fresh_store(clock=lambda: NOW) as store:
        model = began(store)
        told(store, model, story)
        refs = [
            fs.FeatureLookup("plain", on={"k": "who"}, prefix="p_"),
            fs.FeatureLookup("plain", ["x"], on={"k": "who"}, rename={"x": "older"}, delay="2m"),
        ]
        found = store.point_in_time(frame, refs, label_time="when")
        if form == "arrow":
            assert isinstance(found, pa.Table)
            assert found.select(table.column_names).equals(table)
            xs = found["p_x"].to_pylist()
        elif form == "pandas":
            pd.testing.assert_frame_equal(found[list(frame.columns)], frame)
            xs = [None if pd.isna(x) else int(x) for x in found["p_x"]]
        else:
            assert found.select(frame.columns).equals(frame)
            xs = found["p_x"].to_list()
        assert list(found.columns if form != "arrow" else found.column_names) == [
            "number", "who", "when", "p_x", "p_s", "older",
        ]  # fmt: skip
        for (key, n), x in zip(labels, xs, strict=True):
            status, version = model.join("plain", (key,), START + n * MINUTE)
            expected = version.values["x"] if status == "PRESENT" and version else None  # noqa: PD011
            if form == "pandas" and expected is not None and abs(expected) > 2**53:
                continue  # pandas' own floats; the Arrow and Polars forms look at these
            assert x == expected


# ── an independent oracle ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("delay_minutes", [0, 7])
def test_the_join_is_duckdbs_asof_join_on_data_without_ties(delay_minutes: int) -> None:
    """Thousands of rows through puts, the journal, staged files, flushes and cells."""
    chance = np.random.default_rng(13)
    rows, keys = 12_000, 150
    history = pa.table(
        {
            "k": chance.integers(0, keys, rows),
            "at": pa.array(START + chance.permutation(rows) * SECOND, pa.timestamp("us", tz="UTC")),
            "x": pa.array(np.arange(rows), mask=chance.random(rows) < 0.1),
            "y": chance.random(rows),
        }
    )
    count = 5000
    labels = pa.table(
        {
            "label": pa.array(
                START + chance.integers(-100, rows + 100, count) * SECOND,
                pa.timestamp("us", tz="UTC"),
            ),
            "n": np.arange(count),
            "k": pa.array(chance.integers(0, keys + 5, count), mask=chance.random(count) < 0.02),
        }
    )
    with fresh_store(clock=lambda: START + DAY) as store:
        store.create_feature_group("g", record_identifier="k", event_time="at", like=history)
        store.ingest("g", history.slice(0, 6000))  # a staged file
        store.ingest("g", history.slice(6000, 3000))  # through the journal
        store.flush()
        store.compact()
        store.ingest("g", history.slice(9000, 2000))
        store.flush()
        store.ingest("g", history.slice(11_000, 950))
        for row in history.slice(11_950).to_pylist():
            store.put_record("g", row)
        delay = timedelta(minutes=delay_minutes)
        found = store.point_in_time(
            labels, [fs.FeatureLookup("g", delay=delay)], label_time="label"
        )
    oracle = duckdb.connect()
    oracle.execute("SET TimeZone = 'UTC'")
    expected = oracle.sql(
        f"""
        SELECT n, labels.k, x, y FROM labels ASOF LEFT JOIN
            (SELECT k, "at" + INTERVAL {delay_minutes} MINUTE AS known, x, y FROM history) h
        ON labels.k = h.k AND label >= known ORDER BY n
        """
    ).to_arrow_table()
    assert found["n"].to_pylist() == list(range(count))
    for column in ("k", "x", "y"):
        assert found[column].to_pylist() == expected[column].to_pylist()
    assert found["x"].null_count not in (0, count)


def test_the_latest_of_all_time_is_the_join_at_the_end_of_time() -> None:
    """The first and the last moment there are do not overflow into each other."""
    first = -62_135_596_800 * SECOND
    with fresh_store(clock=lambda: NOW) as store:
        agreement.create(
            store,
            Group("g", ("k",), "at", {"k": "int64", "at": "timestamp", "x": "int64"},
                  max_future_us=None),
        )  # fmt: skip
        for x, at_us in enumerate([first, 0, MAX_US]):
            store.put_record("g", {"k": 1, "at": moment(at_us), "x": x}, ttl="1us")
        for chore in (lambda: None, store.flush, store.compact):
            chore()
            labels = pa.table(
                {
                    "k": [1] * 4,
                    "t": pa.array([first, first + 1, MAX_US - 1, MAX_US]).cast(
                        pa.timestamp("us", tz="UTC")
                    ),
                }
            )
            found = store.point_in_time(labels, ["g:x"], label_time="t", with_status=True)
            assert found["x"].to_pylist() == [0, None, None, 2]
            assert found["g__status"].to_pylist() == ["PRESENT", "EXPIRED", "EXPIRED", "PRESENT"]
