"""Three strangers answer the same joins: DuckDB's ASOF, pandas' merge_asof, Polars' join_asof.

None of them shares a line or an author with the store or with the model.  They are asked about
random histories that lie in cells, loose files and the journal, and must agree wherever their rules
are ours:

=====================  ===========  ===========  ===========  =====================================
rule                   DuckDB       pandas       Polars       so here
=====================  ===========  ===========  ===========  =====================================
``event <= label``     ``>=``       by default   by default   the same
tie of event times     either row   last row     last row     the last to come wins: pandas and
                                                              Polars get history sorted stably,
                                                              DuckDB only the winners
a null in the row      null         nan          null         the newest row's null stands, no older
                                                              value takes its place
nan                    nan          nan          nan          told from null, but not by pandas
label without key      no match     matches a    no match     no match; history has no null keys, so
                                    null key                  that pandas finds none either
label without time     null         refused      null         refused
``max_age``            none         tolerance    tolerance    the same: inclusive; for DuckDB a
                                                              condition on the row that was found
``delay``              ``+``        ``+``        ``+``        history's times moved by the caller
delete, TTL            none         none         none         DuckDB: a condition on the row found,
                                                              with the label as the clock
order of labels        lost         must be      must be      as given; theirs by a row number
                                    by time      by time
=====================  ===========  ===========  ===========  =====================================

``known="write_time"`` has no counterpart: an ASOF join compares one time, which would both decide
what is known and which of the known is newest.  A record that arrived late and is older would win.
There the model is the only judge.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import featurestore as fs
from featurestore.errors import InvalidEventTime
from tests import join_world
from tests.agreement import ARROW
from tests.model import MINUTE, exactly
from tests.small_world import START, fresh_store

SEEDS = range(6)
ROWS, LABELS = 1_200, 600
US = timedelta(microseconds=1)
TIMES = pa.timestamp("us", tz="UTC")
KEYS = {"i": [0, 1, -1, 2**63 - 1, -(2**63), *range(40)], "t": ["", "a", "ab", "b", "ключ"]}
KEYS["t"] += [f"t{n}" for n in range(4)]  # type: ignore[list-item]
STEPS_US = [-1, 0, 0, 1, 2 * MINUTE - 1, 2 * MINUTE, 5 * MINUTE, 5 * MINUTE + 1]
RULES = [(0, None), (0, 0), (0, 5 * MINUTE), (2 * MINUTE, None), (2 * MINUTE, 5 * MINUTE)]
"""Delay and age limit, in microseconds."""


@dataclass(frozen=True)
class Scene:
    """A store, and what it was told in the order it was told."""

    store: fs.FeatureStore
    keys: list[str]
    history: pa.Table
    labels: pa.Table

    def ours(self, delay_us: int = 0, max_age_us: int | None = None) -> pa.Table:
        """Return the labels and their features as the store joins them."""
        max_age = None if max_age_us is None else max_age_us * US
        lookup = fs.FeatureLookup("g", ["x", "n"], delay=delay_us * US, max_age=max_age)
        return self.store.point_in_time(self.labels, [lookup], label_time="at")


@contextlib.contextmanager
def scene(seed: int, *, ties: bool = True) -> Iterator[Scene]:
    """Put a random history into a store: a third compacted, a third flushed, a third not."""
    chance = np.random.default_rng(seed)
    keys = [["i"], ["t"], ["t", "i"]][seed % 3]
    history = _table(chance, keys, ROWS)
    if not ties:
        places = {tuple(row[n] for n in (*keys, "at")): p for p, row in enumerate(_rows(history))}
        history = history.take(pa.array(sorted(places.values())))
    history = history.append_column("x", pa.array(_floats(chance, history.num_rows)))
    history = history.append_column("n", pa.array(range(history.num_rows), pa.int64()))
    # Half of the labels stand close to a record, so that the limits of rules are met.
    near = history.take(pa.array(chance.integers(0, history.num_rows, LABELS // 2)))
    moved = near["at"].cast(pa.int64()).to_numpy() + chance.choice(STEPS_US, len(near))
    near = near.select(keys).append_column("at", pa.array(moved).view(TIMES))
    labels = pa.concat_tables([near, _table(chance, keys, LABELS // 2).select(near.column_names)])
    labels = labels.take(pa.array(chance.permutation(LABELS)))
    for name in keys:  # some labels have no key, and some one that is not in history
        values = labels[name].to_pylist()
        values[::17] = [None] * len(values[::17])
        values[1::19] = [77 if name == "i" else "nobody"] * len(values[1::19])
        at = labels.column_names.index(name)
        labels = labels.set_column(at, name, pa.array(values, labels[name].type))
    labels = labels.append_column("row", pa.array(range(LABELS)))
    with fresh_store(key_hash_bits=2 if seed % 2 else 64) as store:
        like = {field.name: _word(field.type) for field in history.schema}
        store.create_feature_group("g", record_identifier=keys, event_time="at", features=like)
        third = history.num_rows // 3
        for number, start in enumerate((0, third, 2 * third)):
            store.ingest("g", history.slice(start, third if number < 2 else None))
            store.flush() if number < 2 else None
            store.compact() if number < 1 else None
        yield Scene(store, keys, history, labels)


def _table(chance: np.random.Generator, keys: list[str], rows: int) -> pa.Table:
    columns = {
        name: pa.array([KEYS[name][n] for n in chance.integers(0, len(KEYS[name]), rows)])
        for name in keys
    }
    times = START + chance.integers(0, 60, rows) * MINUTE + chance.integers(-1, 2, rows)
    return pa.table(columns | {"at": pa.array(times).view(TIMES)})


def _in_us(table: pa.Table) -> pa.Table:
    """Return times as plain integers: DuckDB's arithmetic on zoned times is an extension."""
    names = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    for name in names:
        at = table.column_names.index(name)
        table = table.set_column(at, name, table[name].cast(pa.int64()))
    return table


def _floats(chance: np.random.Generator, rows: int) -> list[float | None]:
    odd = [None, float("nan"), -0.0, 0.0, float("inf")]
    drawn = chance.integers(0, 20, rows)
    return [odd[n] if n < len(odd) else chance.random() for n in drawn]


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()  # type: ignore[no-any-return]


def _word(dtype: pa.DataType) -> str:
    return next(word for word, arrow in ARROW.items() if arrow == dtype)


def same(ours: pa.Table, theirs: Any, *, nan_is_null: bool = False) -> None:
    """Fail unless both are the same values in the same order, with some found and some not."""
    assert ours.num_rows == len(theirs)
    expected = [_exact(values, nan_is_null=nan_is_null) for values in theirs]
    rows = zip(ours["x"].to_pylist(), ours["n"].to_pylist(), strict=True)
    found = [_exact(values, nan_is_null=nan_is_null) for values in rows]
    assert found == expected
    assert len({n for _, n in found}) > 50
    assert sum(n == exactly(None) for _, n in found) > 20


def _exact(values: Any, *, nan_is_null: bool) -> tuple[object, object]:
    x, n = values
    x = None if nan_is_null and x is not None and np.isnan(x) else x
    return exactly(x), exactly(None if n is None or pd.isna(n) else int(n))


# ── DuckDB ───────────────────────────────────────────────────────────────────────────────────


def duckdb_rows(
    seen: Scene, history: pa.Table, value: str = "{}", *, delay_us: int = 0
) -> list[tuple[Any, ...]]:
    """Return x and n for each label in order; ``value`` judges the row found."""
    matches = " AND ".join(f"l.{name} = h.{name}" for name in seen.keys)
    with duckdb.connect() as connection:
        connection.register("labels", _in_us(seen.labels))
        connection.register("history", _in_us(history))
        return connection.execute(
            f"SELECT {value.format('h.x')}, {value.format('h.n')} FROM labels l ASOF LEFT JOIN "
            f'(SELECT *, "at" + {delay_us} AS known FROM history) h '
            f'ON {matches} AND l."at" >= h.known ORDER BY l.row'
        ).fetchall()


@pytest.mark.parametrize("seed", SEEDS)
def test_duckdb(seed: int) -> None:
    with scene(seed, ties=False) as seen:
        for delay_us, max_age_us in RULES:
            value = "{}"
            if max_age_us is not None:
                value = f'CASE WHEN l."at" - h."at" <= {max_age_us} THEN {{}} END'
            theirs = duckdb_rows(seen, seen.history, value, delay_us=delay_us)
            same(seen.ours(delay_us, max_age_us), theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_duckdb_over_history_with_deletes_and_expiry(seed: int) -> None:
    """The store's own history through SQL: what the newest row of each tie says, is judged."""
    chance = random.Random(seed)
    with join_world.world("today", key_hash_bits=2 if seed % 2 else 64) as now:
        for step in join_world.draw_story(chance, "today"):
            now.tell(step)
        for name in ("ints", "texts", "pairs", "one"):
            group = now.model.groups[name]
            labels = _labels_at_edges(chance, now, name)
            lookup = fs.FeatureLookup(name, ["at"], prefix="f_")
            ours = now.store.point_in_time(labels, [lookup], label_time="label")
            matches = " AND ".join(f"l.{key} = h.{key}" for key in group.identifier)
            with duckdb.connect() as connection:
                history = now.store.sql(f"SELECT * FROM history.{name}")
                connection.register("history", _in_us(history))
                connection.register("labels", _in_us(labels))
                theirs = connection.execute(
                    "SELECT CASE WHEN NOT h.is_deleted AND "
                    '(h.expires_at IS NULL OR l.label < h.expires_at) THEN h."at" END '
                    "FROM labels l ASOF LEFT JOIN (SELECT * FROM history QUALIFY row_number() OVER "
                    f'(PARTITION BY {", ".join(group.identifier)}, "at" '
                    "ORDER BY write_seq DESC) = 1) h "
                    f'ON {matches} AND l.label >= h."at" ORDER BY l.row'
                ).fetchall()
            assert ours["f_at"].cast(pa.int64()).to_pylist() == [at for (at,) in theirs]
            assert {at is None for (at,) in theirs} == {True, False}


def _labels_at_edges(chance: random.Random, now: join_world.World, name: str) -> pa.Table:
    group = now.model.groups[name]
    rows = []
    for key, versions in group.history.items():
        for version in versions:
            times = [version.event_time_us, version.expires_at_us or version.event_time_us]
            rows += [(key, time_us + off) for time_us in times for off in (-1, 0)]
    chance.shuffle(rows)
    return pa.table(
        {
            **{
                column: pa.array([key[i] for key, _ in rows], ARROW[group.features[column]])
                for i, column in enumerate(group.identifier)
            },
            "label": pa.array([time_us for _, time_us in rows]).view(TIMES),
            "row": pa.array(range(len(rows))),
        }
    )


# ── pandas ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", SEEDS)
def test_pandas(seed: int) -> None:
    with scene(seed) as seen:
        for delay_us, max_age_us in RULES:
            nullable = {pa.int64(): pd.Int64Dtype()}.get
            labels = seen.labels.to_pandas(types_mapper=nullable)
            history = seen.history.to_pandas(types_mapper=nullable)
            history["at"] += delay_us * US
            theirs = pd.merge_asof(
                labels.sort_values("at", kind="stable"),
                history.sort_values("at", kind="stable"),
                on="at",
                by=seen.keys,
                # History has been moved by the delay, and is younger by that much.
                tolerance=None if max_age_us is None else pd.Timedelta(max_age_us - delay_us, "us"),
            ).sort_values("row")
            ours = seen.ours(delay_us, max_age_us)
            same(ours, zip_columns(theirs), nan_is_null=True)


def zip_columns(frame: pd.DataFrame) -> list[tuple[Any, Any]]:
    return list(zip(frame["x"].tolist(), frame["n"].tolist(), strict=True))


def test_pandas_matches_a_null_key_with_a_null_key_and_refuses_a_null_time() -> None:
    left = pd.DataFrame({"k": ["a", None], "at": pd.to_datetime(["2024-01-02"] * 2)})
    right = left.assign(x=[1.0, 2.0])
    assert pd.merge_asof(left, right, on="at", by="k")["x"].tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="null values on left side"):
        pd.merge_asof(left.assign(at=left["at"].where(left["k"] == "b")), right, on="at", by="k")


# ── Polars ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", SEEDS)
def test_polars(seed: int) -> None:
    with scene(seed) as seen:
        for delay_us, max_age_us in RULES:
            history, labels = (pl.from_arrow(table) for table in (seen.history, seen.labels))
            assert isinstance(history, pl.DataFrame)
            assert isinstance(labels, pl.DataFrame)
            theirs = labels.sort("at", maintain_order=True).join_asof(
                history.with_columns(pl.col("at") + delay_us * US).sort("at", maintain_order=True),
                on="at",
                by=seen.keys,
                tolerance=None if max_age_us is None else (max_age_us - delay_us) * US,
                check_sortedness=False,
            )
            ours = seen.ours(delay_us, max_age_us)
            same(ours, theirs.sort("row").select("x", "n").rows())


# ── the differences ──────────────────────────────────────────────────────────────────────────


def test_a_label_without_time_is_refused_by_us_and_null_to_duckdb_and_polars() -> None:
    with scene(0) as seen:
        at = seen.labels.column_names.index("at")
        labels = seen.labels.set_column(at, "at", pa.nulls(LABELS, TIMES))
        timeless = Scene(seen.store, seen.keys, seen.history, labels)
        with pytest.raises(InvalidEventTime, match="is missing in 600 of 600 rows"):
            timeless.ours()
        assert set(duckdb_rows(timeless, seen.history)) == {(None, None)}
        frame = pl.from_arrow(labels)
        assert isinstance(frame, pl.DataFrame)
        joined = frame.join_asof(
            pl.from_arrow(seen.history).sort("at"),  # type: ignore[union-attr, arg-type, call-arg]
            on="at",
            by=seen.keys,
            check_sortedness=False,
        )
        assert joined["n"].null_count() == LABELS


def test_an_asof_join_on_arrival_is_not_what_was_known() -> None:
    """Why write times have no oracle: the older record, arriving last, would be the answer."""
    with fresh_store(clock=lambda: START + 9 * MINUTE) as store:
        features = {"i": "int64", "at": "timestamp", "x": "float64"}
        store.create_feature_group("g", record_identifier="i", event_time="at", features=features)
        minutes = [START + n * MINUTE for n in (5, 1)]  # the older came two minutes later
        history = pa.table(
            {
                "i": [1, 1],
                "at": pa.array(minutes).view(TIMES),
                "x": [5.0, 1.0],
                "arrived": pa.array([START + n * MINUTE for n in (6, 8)]).view(TIMES),
            }
        )
        store.ingest("g", history, write_time="arrived")
        labels = pa.table({"i": [1], "label": pa.array([START + 8 * MINUTE]).view(TIMES)})
        ours = store.point_in_time(labels, "g:x", label_time="label", known="write_time")
        with duckdb.connect() as connection:
            connection.register("labels", labels)
            connection.register("history", history)
            [(theirs,)] = connection.execute(
                "SELECT h.x FROM labels l ASOF LEFT JOIN "
                '(SELECT *, greatest("at", arrived) AS known FROM history) h '
                "ON l.i = h.i AND l.label >= h.known"
            ).fetchall()
        assert (ours["x"].to_pylist(), theirs) == ([5.0], 1.0)
