"""What the join can be asked beside plain values: streams, last values, and why.

The truth is a slow walk over each key's versions, as in ``test_point_in_time``; every case is run
over files of one row group and of many, so that both ways of reading are taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import tempfile
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.engine import point_in_time
from featurestore.engine.point_in_time import batches, join
from featurestore.errors import InvalidInput
from featurestore.event_time import expired
from featurestore.feature_view import FeatureLookup
from featurestore.record import Status, Version, resolve
from featurestore.storage import manifest, parquet
from tests.engine.histories import Event, snapshot
from tests.engine.test_point_in_time import (
    group_of,
    histories,
    labels_at,
    micros,
    put,
    questions,
    times,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurestore.engine.snapshot import GroupSnapshot

GROUP = group_of(temp="int64", sky="string", high="bool", ratio="float32")


@contextlib.contextmanager
def row_groups_of(rows: int) -> Iterator[None]:
    """Let files have row groups of so many rows: larger files are read by piece."""
    before = parquet.ROW_GROUP_ROWS
    parquet.ROW_GROUP_ROWS = rows
    try:
        yield
    finally:
        parquet.ROW_GROUP_ROWS = before


def by_key(files: list[list[Event]], tail: list[Event]) -> dict[str | None, list[Version]]:
    found = defaultdict(list)
    for event in [*tail, *(event for file in files for event in file)]:
        found[event.key[0]].append(event.version)
    return found


def dressed(files: list[list[Event]], tail: list[Event]) -> None:
    """Give every version values of all four types, told by its seq."""
    for event in [*tail, *(event for file in files for event in file)]:
        if event.version.values is not None:  # noqa: PD011
            seq = event.version.seq
            event.version.values.update(  # noqa: PD011
                high=None if seq % 4 == 0 else seq % 2 == 0, ratio=None if seq % 3 == 0 else seq / 8
            )


how = st.fixed_dictionaries(
    {
        "seq_max": st.just(99) | st.integers(0, 21),
        "delay_us": st.integers(0, 3),
        "known_by_write_time": st.booleans(),
        "max_age_us": st.none() | st.integers(0, 5),
    }
)


def ask(
    drawn: Any, labels: Any, rules: dict[str, Any], **more: Any
) -> tuple[dict[str | None, list[Version]], Any]:
    """Return the versions by key, and a function that asks the join."""
    files, tail = drawn
    dressed(files, tail)
    max_age = rules["max_age_us"]
    lookup = FeatureLookup(
        "weather",
        delay=timedelta(microseconds=rules["delay_us"]),
        max_age=None if max_age is None else timedelta(microseconds=max_age),
        **more,
    )

    def asking(folder: str, row_group_rows: int, bits: int, verb: Any, **options: Any) -> Any:
        with row_groups_of(row_group_rows):
            taken = snapshot(Path(folder), GROUP, files, tail, seq=rules["seq_max"], hash_bits=bits)
            known = "write_time" if rules["known_by_write_time"] else "event_time"
            return verb(labels, [lookup], {"weather": taken}, known=known, **options)

    return by_key(files, tail), asking


# ── pieces ───────────────────────────────────────────────────────────────────────────────────


@given(histories(), questions(), how, st.sampled_from([1, 2, 3]), st.sampled_from([2, 64]))
def test_files_of_many_row_groups_give_what_files_of_one_do(
    drawn: Any, asked: Any, rules: dict[str, Any], rows: int, bits: int
) -> None:
    _, asking = ask(drawn, labels_at(*asked), rules)
    for with_status in (True, False):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as many:
            whole = asking(one, 1000, bits, join, with_status=with_status)
            pieces = asking(many, rows, bits, join, with_status=with_status)
        assert pieces.equals(whole)


def compacted(root: Path, taken: GroupSnapshot, bounds: list[int], loose: int) -> GroupSnapshot:
    """Return the same history with all files but some as cells, cut at these event times."""
    kept, files = taken.files[:loose], taken.files[loose:]
    if not files:
        return taken
    rows = pa.concat_tables([taken.read(entry) for entry in files])
    rows = parquet.sort_history(rows, taken.group, taken.key_hash)
    event_us = parquet.as_int64(rows["at"])
    hashes = parquet.as_int64(rows[parquet.KEY_HASH])
    cells = []
    edges = [-1, *sorted(bounds), 100]
    for window, (low, high) in enumerate(itertools.pairwise(edges)):
        for half in (hashes < 0, hashes >= 0):
            cell = rows.filter(pa.array(half & (event_us >= low) & (event_us < high)))
            if cell.num_rows:
                path = manifest.file_path(1, 100 + len(cells))
                parquet.write_history(root, path, cell, taken.group)
                cells.append(
                    parquet.describe(
                        root, taken.group, 100 + len(cells), "cell", cell,
                        relative=path, window=window,
                    )
                )  # fmt: skip
    return dataclasses.replace(taken, files=[*kept, *cells])


@given(
    histories(), questions(), how, st.lists(st.integers(0, 7), max_size=3, unique=True),
    st.integers(0, 3), st.sampled_from([1, 2, 1000]), st.booleans(), st.sampled_from([2, 64]),
)  # fmt: skip
def test_cells_give_what_loose_files_do(
    drawn: Any, asked: Any, rules: dict[str, Any], bounds: list[int], loose: int, rows: int,
    with_status: bool, bits: int,
) -> None:  # fmt: skip
    """Windows are left out, newest first; ties are between loose files, the tail and cells."""
    _, asking = ask(drawn, labels_at(*asked), rules)

    def both(labels: Any, lookups: Any, snapshots: Any, **options: Any) -> tuple[Any, Any]:
        taken = snapshots["weather"]
        cells = {"weather": compacted(taken.root, taken, bounds, loose)}
        return join(labels, lookups, snapshots, **options), join(labels, lookups, cells, **options)

    with tempfile.TemporaryDirectory() as folder:
        expected, found = asking(folder, rows, bits, both, with_status=with_status)
    assert found.equals(expected)


def test_a_window_is_left_out_only_if_none_of_its_cells_can_answer(tmp_path: Path) -> None:
    """One label at a time, beside one that the newest window answers and that keeps cells read.

    ::

        window        0                            1
        cell of one   ● 10   ● 20                            ● 60
        of other                    ● 30   ● 40              ● 60
        loose             15 ●          35 ●
    """
    taken = snapshot(tmp_path / "probe", GROUP, [[put(key, 0, 1, temp=0) for key in "abcdefgh"]])
    rows = taken.read(taken.files[0], ["origin", parquet.KEY_HASH]).to_pylist()
    one, other = (
        next(row["origin"] for row in rows if (row[parquet.KEY_HASH] < 0) == negative)
        for negative in (True, False)
    )
    moments = {one: [15, 10, 20, 60], other: [35, 30, 40, 60]}
    loose, cells = (
        [put(key, at, at, temp=at) for key in moments for at in moments[key][part]]
        for part in (slice(0, 1), slice(1, None))
    )
    taken = snapshot(tmp_path, GROUP, [loose, cells])
    taken = compacted(tmp_path, taken, [50], 1)
    assert [(e.window, e.min_event_us) for e in taken.files[1:]] == [
        (0, 10), (0, 30), (1, 60), (1, 60)
    ]  # fmt: skip
    late = timedelta(microseconds=5)
    lookups = [
        FeatureLookup("weather", ["temp"]),
        FeatureLookup("weather", ["temp"], prefix="late_", delay=late),
        FeatureLookup("weather", ["temp"], prefix="never_", delay="1h"),
    ]
    for key, label_us in itertools.product(moments, range(8, 68)):
        known = [at for at in moments[key] if at <= label_us]
        early = [at for at in known if at + 5 <= label_us]
        labels = labels_at((key, label_us), (other if key == one else one, 66))
        row, settled = join(labels, lookups, {"weather": taken}).to_pylist()
        assert row["temp"] == max(known, default=None)
        assert row["late_temp"] == max(early, default=None)
        assert row["never_temp"] is None
        assert (settled["temp"], settled["late_temp"]) == (60, 60)


@pytest.mark.parametrize(("in_cell", "loose"), [(3, 5), (5, 3)])
def test_a_tie_of_a_cell_and_a_loose_file_is_decided_by_their_own_seqs(
    tmp_path: Path, in_cell: int, loose: int
) -> None:
    """Other rows of the cell and of the file are newer, or older, than either."""
    files = [
        [put("JFK", 10, loose, temp=loose), put("JFK", 30, 8, temp=8), put("EWR", 10, 1, temp=1)],
        [put("JFK", 10, in_cell, temp=in_cell), put("JFK", 20, 9, temp=9), put("LGA", 9, 2)],
    ]
    taken = snapshot(tmp_path, GROUP, files)
    taken = compacted(tmp_path, taken, [], 1)
    assert [entry.kind for entry in taken.files][:2] == ["flush", "cell"]
    labels = labels_at(("JFK", 12), ("JFK", 25), ("JFK", 35), ("LGA", 35), ("EWR", 35))
    found = join(labels, [FeatureLookup("weather", ["temp"])], {"weather": taken})
    assert found["temp"].to_pylist() == [5, 9, 8, None, 1]


@pytest.mark.parametrize("kind", ["loose", "cell"])
def test_a_file_is_left_out_to_the_microsecond(tmp_path: Path, kind: str) -> None:
    """One row at 10, of seq 7, and one label: what the manifest says is all that decides."""
    taken = snapshot(tmp_path, GROUP, [[put("JFK", 10, 7, temp=1)]])
    if kind == "cell":
        taken = compacted(tmp_path, taken, [], 0)
    for delay_us, max_age_us, with_status in itertools.product((0, 2), (None, 4), (False, True)):
        lookup = FeatureLookup(
            "weather", ["temp"], delay=timedelta(microseconds=delay_us),
            max_age=None if max_age_us is None else timedelta(microseconds=max_age_us),
        )  # fmt: skip
        for label_us in (9, 10, 11, 12, 13, 14, 15):
            [row] = join(
                labels_at(("JFK", label_us)), [lookup], {"weather": taken}, with_status=with_status
            ).to_pylist()
            known = 10 + delay_us <= label_us
            young = max_age_us is None or label_us - 10 <= max_age_us
            assert row["temp"] == (1 if known and young else None)
            if with_status:
                assert row["weather__status"] == (
                    "MISSING" if not known else "PRESENT" if young else "EXPIRED"
                )
    lookup = FeatureLookup("weather", ["temp"])
    # What one role has no use for, another of the same group may need.
    roles = [
        FeatureLookup("weather", ["temp"], prefix="young_", max_age=timedelta(microseconds=4)),
        FeatureLookup("weather", ["temp"], prefix="late_", delay="1h"),
        lookup,
    ]
    [row] = join(labels_at(("JFK", 15)), roles, {"weather": taken}).to_pylist()
    assert (row["young_temp"], row["late_temp"], row["temp"]) == (None, None, 1)
    for seq, temp in ((6, None), (7, 1)):
        before = {"weather": dataclasses.replace(taken, seq=seq)}
        assert join(labels_at(("JFK", 10)), [lookup], before)["temp"].to_pylist() == [temp]


# ── last_n ───────────────────────────────────────────────────────────────────────────────────


def last_values(history: list[Version], label_us: int, count: int, rules: Any) -> Any:
    """Return the versions a list is made of, oldest first; None for a null."""
    status, _ = resolve(history, label_us, label_us, **rules)
    if status is not Status.PRESENT:
        return None
    found = []
    for event_us in sorted({v.event_time_us for v in history}, reverse=True):
        versions = [v for v in history if v.event_time_us == event_us]
        _, newest = resolve(versions, label_us, label_us, **{**rules, "max_age_us": None})
        if newest is None or newest.is_deleted or expired(newest.expires_at_us, label_us):
            continue
        if rules["max_age_us"] is not None and label_us - event_us > rules["max_age_us"]:
            continue
        found.append(newest)
    return found[:count][::-1]


@given(
    histories(), questions(), how, st.integers(1, 4),
    st.sampled_from([1, 2, 1000]), st.sampled_from([2, 64]),
)  # fmt: skip
def test_the_last_n_values(
    drawn: Any, asked: Any, rules: dict[str, Any], count: int, rows: int, bits: int
) -> None:
    history, asking = ask(drawn, labels_at(*asked), rules, last_n=count)
    with tempfile.TemporaryDirectory() as folder:
        answer = asking(folder, rows, bits, join)
    expected = [last_values(history[key], at, count, rules) for key, at in asked]
    for name in ("temp", "sky", "high", "ratio"):
        assert answer.schema.field(name).type == pa.list_(GROUP.feature(name).dtype.to_arrow())
        assert answer[name].to_pylist() == [
            None if found is None else [version.values[name] for version in found]  # noqa: PD011
            for found in expected
        ]


def test_last_n_on_a_lookup_and_on_a_call(store: fs.FeatureStore) -> None:
    store.create_feature_group(
        "weather", record_identifier="origin", event_time="at",
        features={"origin": "string", "at": "timestamp", "temp": "int64"},
    )  # fmt: skip
    for second in range(1, 6):
        store.put_record("weather", {"origin": "JFK", "at": at(second), "temp": second})
        if second == 3:
            store.flush()
    labels = labels_at(("JFK", 4_000_000), ("EWR", 4_000_000))
    lookups = [FeatureLookup("weather", last_n=2, prefix="two_"), "weather:temp"]
    answer = store.point_in_time(labels, lookups)
    assert answer["two_temp"].to_pylist() == [[3, 4], None]
    assert answer["temp"].to_pylist() == [4, None]
    assert store.point_in_time(labels, lookups, last_n=3)["temp"].to_pylist() == [[2, 3, 4], None]
    with pytest.raises(InvalidInput, match="last_n= is for point_in_time"):
        store.get_features(lookups, {"origin": "JFK"})
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InvalidInput, match="whole number from 1 up"):
            store.point_in_time(labels, "weather:temp", last_n=wrong)


def at(second: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


# ── explain ──────────────────────────────────────────────────────────────────────────────────


def rule(history: list[Version], key: str | None, label_us: int, rules: Any) -> str:
    if key is None:
        return "NO_KEY"
    status, version = resolve(history, label_us, label_us, **rules)
    if status is Status.EXPIRED:
        over = rules["max_age_us"]
        age = label_us - version.event_time_us  # type: ignore[union-attr]
        return "MAX_AGE" if over is not None and age > over else "TTL"
    if status is not Status.MISSING:
        return str(status)
    looser = {**rules, "known_by_write_time": False}
    if resolve(history, label_us, label_us, **looser)[1] is not None:
        return "WRITE_TIME"
    looser["delay_us"] = 0
    return "DELAY" if resolve(history, label_us, label_us, **looser)[1] is not None else "MISSING"


@given(histories(), questions(), how, st.sampled_from([1, 1000]), st.sampled_from([2, 64]))
def test_every_answer_is_explained(
    drawn: Any, asked: Any, rules: dict[str, Any], rows: int, bits: int
) -> None:
    history, asking = ask(drawn, labels_at(*asked), rules)
    files, tail = drawn
    places = {e.version.seq: "journal" for e in tail}
    for number, file in enumerate(files):
        places |= {e.version.seq: f"data/1/{number:016x}.parquet" for e in file}
    with tempfile.TemporaryDirectory() as folder:
        answer = asking(folder, rows, bits, join, explain=True)
        plain = asking(folder, rows, bits, join, with_status=True)
    assert answer.select(plain.column_names).equals(plain)
    for (key, label_us), row in zip(asked, answer.to_pylist(), strict=True):
        _, version = resolve(history[key], label_us, label_us, **rules)
        assert row["weather__rule"] == rule(history[key], key, label_us, rules)
        assert row["weather__write_seq"] == (None if version is None else version.seq)
        assert row["weather__source"] == (None if version is None else places[version.seq])
        assert micros(row["weather__event_time"]) == (
            None if version is None else version.event_time_us
        )


# ── views, and groups that do not change ─────────────────────────────────────────────────────


def test_a_static_group_beside_another_in_a_view(weather: fs.FeatureStore) -> None:
    """What never changes is known from its one event time on, however long ago that was."""
    weather.create_feature_group(
        "planes", record_identifier="tailnum", event_time="built",
        features={"tailnum": "string", "built": "timestamp", "seats": "int64"},
    )  # fmt: skip
    for year, tailnum in ((1901, "N1"), (1969, "N2"), (1971, "N3")):
        built = datetime(year, 1, 1, tzinfo=UTC)
        weather.put_record("planes", {"tailnum": tailnum, "built": built, "seats": year - 1900})
    weather.create_feature_view("flights", ["weather:temp", "planes:seats"])
    labels = labels_at(*[("JFK", 3_000_000)] * 5)
    labels = labels.append_column("tailnum", pa.array(["N1", "N2", "N3", "N4", None]))
    for chore in (weather.flush, weather.compact, lambda: None):
        answer = weather.point_in_time(labels, "flights")
        assert answer["temp"].to_pylist() == [3] * 5
        assert answer["seats"].to_pylist() == [1, 69, None, None, None]
        chore()


# ── streams ──────────────────────────────────────────────────────────────────────────────────


@given(
    histories(), questions(), how, st.booleans(), st.none() | st.integers(1, 3),
    st.integers(1, 9),
)  # fmt: skip
def test_a_stream_gives_the_same(
    drawn: Any, asked: Any, rules: dict[str, Any], explain: bool, last_n: int | None, rows: int
) -> None:
    table = labels_at(*asked)
    _, asking = ask(drawn, table, rules, last_n=last_n)

    def streamed(labels: Any, lookups: Any, snapshots: Any, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "rows_within", lambda *_: rows)
            given = labels if explain else iter(labels.to_batches(max_chunksize=2) or [labels])
            got = point_in_time.stream(given, lookups, snapshots, memory_limit=1, **options)
            schema = next(got)
            pieces = list(got)
        assert all(piece.num_rows <= rows for piece in pieces)
        return pa.Table.from_batches(pieces, schema)

    with tempfile.TemporaryDirectory() as folder:
        whole = asking(folder, 2, 64, join, explain=explain)
        assert asking(folder, 2, 64, streamed, explain=explain).equals(whole)


@pytest.fixture
def weather(store: fs.FeatureStore) -> fs.FeatureStore:
    store.create_feature_group(
        "weather", record_identifier="origin", event_time="at",
        features={"origin": "string", "at": "timestamp", "temp": "int64"},
    )  # fmt: skip
    for second in range(6):
        store.put_record("weather", {"origin": "JFK", "at": at(second), "temp": second})
    return store


LABELS = labels_at(*(("JFK", second * 1_000_000) for second in (5, 3, -1, 2)))
ANSWER = [5, 3, None, 2]


def readers(path: Path) -> dict[str, Any]:
    pq.write_table(LABELS, path / "labels.parquet", row_group_size=3)
    parts = LABELS.to_batches(max_chunksize=1)
    return {
        "table": LABELS,
        "pandas": LABELS.to_pandas(),
        "polars": pl.from_arrow(LABELS),
        "path": path / "labels.parquet",
        "name": str(path / "labels.parquet"),
        "reader": pa.RecordBatchReader.from_batches(LABELS.schema, parts),
        "batches": iter(parts),
        "tables": (pa.Table.from_batches([part]) for part in parts),
        "frames": (pa.Table.from_batches([part]).to_pandas() for part in parts),
    }


@pytest.mark.parametrize("kind", [
    "table", "pandas", "polars", "path", "name", "reader", "batches", "tables", "frames",
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_labels_come_in_many_ways(
    weather: fs.FeatureStore, tmp_path: Path, kind: str, stream: bool
) -> None:
    answer = weather.point_in_time(readers(tmp_path)[kind], "weather:temp", stream=stream)
    if stream:
        assert isinstance(answer, pa.RecordBatchReader)
        assert answer.schema.names == ["origin", "event_time", "temp"]
        answer = answer.read_all()
    elif kind in {"pandas", "polars"}:
        assert isinstance(answer, pd.DataFrame if kind == "pandas" else pl.DataFrame)
        answer = pa.table(answer)
    assert answer["temp"].to_pylist() == ANSWER


def test_a_stream_looks_at_the_moment_it_was_asked_for(weather: fs.FeatureStore) -> None:
    answer = weather.point_in_time(LABELS, "weather:temp", stream=True)
    weather.put_record("weather", {"origin": "JFK", "at": at(5), "temp": 99})
    weather.flush()
    weather.compact()
    assert answer.read_all()["temp"].to_pylist() == ANSWER
    assert weather.point_in_time(LABELS, "weather:temp")["temp"].to_pylist() == [99, *ANSWER[1:]]


def test_a_stream_that_is_let_go_lets_its_files_go(weather: fs.FeatureStore) -> None:
    locks = weather._database.locks
    answer = weather.point_in_time(LABELS, "weather:temp", stream=True)
    assert len([*locks.glob("pin-*")]) == 1
    del answer
    gc.collect()
    assert not [*locks.glob("pin-*")]
    read = weather.point_in_time(LABELS, "weather:temp", stream=True)
    read.read_all()
    assert not [*locks.glob("pin-*")]


def test_what_cannot_be_streamed_is_refused(weather: fs.FeatureStore, tmp_path: Path) -> None:
    def refused(labels: Any, **options: Any) -> pytest.ExceptionInfo[InvalidInput]:
        with pytest.raises(InvalidInput) as found:
            weather.point_in_time(labels, "weather:temp", stream=True, **options).read_all()
        return found

    assert found_in(refused(LABELS, memory_limit=1 << 20), "memory_limit= is 1,048,576 bytes")
    assert found_in(refused(tmp_path / "none.parquet"), "cannot be read as a Parquet file")
    assert found_in(refused(iter([])), "the iterator is empty")
    assert found_in(refused(LABELS.drop_columns("event_time")), "event_time")


def found_in(raised: pytest.ExceptionInfo[InvalidInput], words: str) -> bool:
    return words in str(raised.value)


def test_batches_of_other_columns_are_refused(weather: fs.FeatureStore) -> None:
    given = iter([LABELS, LABELS.rename_columns(["origin", "when"])])
    with pytest.raises((InvalidInput, pa.ArrowException), match="a batch has the columns"):
        weather.point_in_time(given, "weather:temp", stream=True).read_all()


def test_the_memory_limit_decides_how_many_are_answered_together() -> None:
    narrow, wide = pa.schema([("a", pa.int64())]), pa.schema([("a", pa.string())] * 100)
    limits = (1 << 29, 1 << 30, 1 << 33)
    rows = [batches.rows_within(limit, narrow, [None]) for limit in limits]
    assert rows == sorted(set(rows))
    assert batches.rows_within(1 << 30, wide, [None]) < rows[1] / 10
    assert batches.rows_within(1 << 30, narrow, [None] * 9) < rows[1] / 3


def test_lists_count_as_many_values_as_they_may_have() -> None:
    """Else a stream of lists of 50 takes three times its limit, and of more, more."""
    schema = pa.schema([("x", pa.list_(pa.float64())), ("own", pa.list_(pa.float64()))])
    for last_n in (10, 100, 1_000, 100_000):
        rows = batches.rows_within(1 << 30, schema, [last_n], {"x": last_n})
        assert 1 <= rows * last_n * 8 <= 1 << 30
        assert batches.rows_within(1 << 34, schema, [last_n], {"x": last_n}) > 10 * rows
    single = batches.rows_within(1 << 30, schema, [None])
    assert batches.rows_within(1 << 30, schema, [1], {"x": 1}) > single / 2


def test_a_stream_of_lists_is_cut_by_their_length(
    weather: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answer, in batches of no more labels than their lists leave room for."""
    monkeypatch.setattr(batches, "_ROWS_MIN", 1)
    monkeypatch.setattr(batches, "_FIXED_BYTES", batches.MEMORY_LIMIT_MIN - 100_000)
    labels = labels_at(*[("JFK", 10 * n) for n in range(400)])
    sizes = {}
    for last_n in (1, 3, 300):
        asked: dict[str, Any] = {"last_n": last_n, "with_status": True}
        whole = weather.point_in_time(labels, "weather:*", **asked)
        streamed = weather.point_in_time(
            labels, "weather:*", **asked, stream=True, memory_limit=batches.MEMORY_LIMIT_MIN
        )
        found = list(streamed)
        assert pa.Table.from_batches(found).equals(whole.combine_chunks().cast(streamed.schema))
        sizes[last_n] = max(batch.num_rows for batch in found)
    assert sizes[1] > sizes[3] > sizes[300]


def test_times_without_a_zone_are_read_alike(weather: fs.FeatureStore) -> None:
    naive = pa.table(
        {"origin": LABELS["origin"], "event_time": LABELS["event_time"].cast("timestamp[us]")}
    )
    answer = weather.point_in_time(naive, "weather:temp", tz="UTC", stream=True).read_all()
    assert answer["temp"].to_pylist() == ANSWER


def test_a_put_of_every_kind_is_explained(weather: fs.FeatureStore) -> None:
    weather.flush()
    weather.put_record("weather", {"origin": "JFK", "at": at(9), "temp": 9})
    labels = pa.table({"origin": ["JFK", "JFK"], "event_time": times([5_000_000, 9_000_000])})
    answer = weather.point_in_time(labels, "weather:temp", explain=True).to_pylist()
    assert [row["weather__source"].split("/")[0] for row in answer] == ["data", "journal"]
    assert answer[0]["weather__write_seq"] < answer[1]["weather__write_seq"]


def test_a_file_may_have_more_rows_than_bytes(tmp_path: Path) -> None:
    """Runs and even steps take next to nothing, and then no page lies in the file as an array."""
    rows = 1 << 18
    with fs.open(tmp_path / "store", upkeep=False) as store:
        store.create_feature_group(
            "g",
            record_identifier="k",
            event_time="at",
            features={"k": "int64", "at": "timestamp", "x": "float64", "n": "int32"},
        )
        first_us = 1_700_000_000_000_000
        at = pa.array(np.arange(rows) * 1000 + first_us, pa.timestamp("us", tz="UTC"))
        same = {"k": np.zeros(rows, np.int64), "x": np.ones(rows), "n": np.full(rows, 7, np.int32)}
        store.ingest("g", pa.table({"k": same["k"], "at": at, "x": same["x"], "n": same["n"]}))
        store.compact()
        assert sum(p.stat().st_size for p in (tmp_path / "store").rglob("*.parquet")) < rows
        labels = pa.table({"k": [0, 0, 1], "event_time": [at[5], at[rows - 1], at[5]]})
        found = store.point_in_time(labels, "g:*").to_pydict()
    assert found["x"] == [1.0, 1.0, None]
    assert found["n"] == [7, 7, None]
