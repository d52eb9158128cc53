"""The loader: its order against a slow reference, resumed anywhere, for any number of workers."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore import training
from featurestore.kernels.rows import STRIPE_ROWS
from featurestore.training.layout import ROW_GROUP_ROWS
from featurestore.training.loader import MODES, _Blocks
from featurestore.training.pipe import Pipe, read_pipe
from tests.kernels.test_rows import drawn

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = ROW_GROUP_ROWS + 3 * STRIPE_ROWS + 1234
SECOND = 1_000_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[training.TrainingSet]:
    """Return a set whose first feature is the row's number."""
    random = np.random.default_rng(5)
    wind = pa.array(random.integers(0, 50, ROWS), pa.int32(), mask=random.random(ROWS) < 0.3)
    labels = pa.table(
        {
            "k": pa.array(np.zeros(ROWS, np.int64)),
            "event_time": pa.array(np.arange(ROWS) * SECOND).view(pa.timestamp("us", "UTC")),
            "row": pa.array(np.arange(ROWS)),
            "wind": wind,
            "label": pa.array(np.arange(ROWS) % 1000),
        }
    )
    with fs.open(tmp_path_factory.mktemp("loader") / "store", upkeep=False) as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "int64", "t": "timestamp", "v": "float32"},
        )  # fmt: skip
        store.put_record("g", {"k": 0, "t": "1970-01-01T10:00Z", "v": 0.5})
        yield training.training_set(
            store, "rows", labels=labels, label="label", features="g:v",
            from_labels=["row", "wind"],
        )  # fmt: skip


@pytest.fixture(scope="module")
def ts(whole: training.TrainingSet) -> training.TrainingSet:
    """Return a part of it that begins and ends within stripes."""
    first = STRIPE_ROWS * 9 + 100
    return training.TrainingSet(whole.path, whole.name, 1, (first, ROWS - 50))


def stripes(ts: training.TrainingSet) -> list[list[int]]:
    """Return the set's rows by stripe."""
    found: dict[tuple[int, int], list[int]] = {}
    for row in range(*ts.rows):
        group, at = divmod(row, ROW_GROUP_ROWS)
        found.setdefault((group, at // STRIPE_ROWS), []).append(row)
    return list(found.values())


def reference(ts: training.TrainingSet, seed: int, epoch: int, window: int) -> list[int]:
    """Return the rows in the order of an epoch, as the order is defined."""
    parts = stripes(ts)
    order = [parts[i] for i in drawn(seed, epoch, 0, len(parts))]
    rows: list[int] = []
    for number, start in enumerate(range(0, len(order), window)):
        together = [row for stripe in order[start : start + window] for row in stripe]
        placed = [0] * len(together)
        for row, place in zip(together, drawn(seed, epoch, number + 1, len(together)), strict=True):
            placed[place] = row
        rows += placed
    return rows


def rows_of(loader: training.Loader) -> list[list[int]]:
    """Go through a loader; return the rows of each batch, having looked at the other columns."""
    found = []
    wind = loader.training_set.layout.features[1]
    assert wind.name == "wind"
    for x, y in loader:
        assert x.flags.c_contiguous
        assert x.dtype == np.float32
        rows = x[:, 0].astype(np.int64)
        assert y is not None
        np.testing.assert_array_equal(y, rows % 1000)
        np.testing.assert_array_equal(x[:, 2], np.where(rows >= 36_000, np.float32(0.5), np.nan))
        found.append(rows.tolist())
    return found


def batches_of(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.mark.parametrize(
    ("mode", "window", "seed", "epoch"),
    [
        ("fastfile", 4, 7, 0), ("fastfile", 4, 7, 1), ("fastfile", 100, 2**64 - 1, 3),
        ("file", 4, 7, 0), ("file", None, 7, 2), ("pipe", 4, 7, 0), ("fastfile", 1, 0, 0),
    ],
)  # fmt: skip
def test_the_order_is_that_of_the_reference(
    ts: training.TrainingSet, mode: str, window: int | None, seed: int, epoch: int
) -> None:
    with ts.loader(batch=1000, mode=mode, window=window, seed=seed, epoch=epoch) as loader:
        assert len(loader) == -(-len(ts) // 1000)
        found = rows_of(loader)
    assert found == batches_of(reference(ts, seed, epoch, window or 10**6), 1000)


@pytest.mark.parametrize("mode", ["fastfile", "file"])
def test_without_shuffling_the_order_is_that_of_time(ts: training.TrainingSet, mode: str) -> None:
    with ts.loader(batch=10_007, mode=mode, shuffle=False) as loader:
        assert rows_of(loader) == batches_of(list(range(*ts.rows)), 10_007)


def test_the_columns_are_the_sets(whole: training.TrainingSet, ts: training.TrainingSet) -> None:
    wind = whole.to_arrow()["wind"]
    expected = np.asarray(wind.cast(pa.float32()).to_numpy(zero_copy_only=False))
    for mode in ("fastfile", "file"):
        for part in (whole, ts):
            for x, _ in part.loader(mode=mode, seed=1, batch=50_000):
                np.testing.assert_array_equal(x[:, 1], expected[x[:, 0].astype(np.int64)])


@given(
    batch=st.sampled_from([1, 37, 4096, 5000, 30_000, 10**6]),
    window=st.sampled_from([1, 3, 1000]),
    workers=st.integers(1, 4),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    mode=st.sampled_from(["fastfile", "file"]),
    data=st.data(),
)
def test_any_worker_from_any_batch(
    ts: training.TrainingSet,
    tmp_path_factory: pytest.TempPathFactory,
    batch: int,
    window: int,
    workers: int,
    shuffle: bool,
    drop_last: bool,
    mode: str,
    data: st.DataObject,
) -> None:
    # A part of some stripes, so that small batches are few.
    first = ROW_GROUP_ROWS - 2 * STRIPE_ROWS - 17
    end = first + data.draw(st.integers(0, 3 * STRIPE_ROWS))
    part = training.TrainingSet(ts.folder, ts.name, 1, (first, end))
    if batch == 1:
        part = training.TrainingSet(ts.folder, ts.name, 1, (first, min(end, first + 90)))
    common: dict[str, Any] = {"batch": batch, "window": window, "shuffle": shuffle, "seed": 11}
    common |= {"drop_last": drop_last, "mode": mode}
    if mode == "file":
        common["folder"] = tmp_path_factory.getbasetemp() / "matrices"
    rows = reference(part, 11, 0, window) if shuffle else list(range(*part.rows))
    expected = batches_of(rows, batch)
    if drop_last:
        expected = [b for b in expected if len(b) == batch]
    worker = data.draw(st.integers(0, workers - 1))
    loader = part.loader(worker=worker, workers=workers, **common)
    mine = expected[worker::workers]
    assert len(loader) == len(mine)
    steps = data.draw(st.integers(0, len(mine)))
    going = iter(loader)
    for number in range(steps):
        x, _ = next(going)
        assert x[:, 0].astype(np.int64).tolist() == mine[number]
    state = loader.state_dict()
    going.close()  # type: ignore[attr-defined] # a generator
    # Every worker has done as many; other workers go on.
    others = data.draw(st.integers(1, 4))
    left = expected[steps * workers :]
    gone_on: dict[int, list[int]] = {}
    for other in range(others):
        resumed = part.loader(worker=other, workers=others, prefetch=False, **common)
        resumed.load_state_dict(state)
        first_left = steps * workers
        numbers = [n for n in range(first_left, len(expected)) if n % others == other]
        for number, (x, _) in zip(numbers, resumed, strict=True):
            gone_on[number] = x[:, 0].astype(np.int64).tolist()
    assert [gone_on[n] for n in sorted(gone_on)] == left


def test_epochs_follow_one_another_and_differ(ts: training.TrainingSet) -> None:
    loader = ts.loader(batch=5000, seed=3)
    first, second = rows_of(loader), rows_of(loader)
    assert loader.epoch == 2
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(*ts.rows))
    again = ts.loader(batch=5000, seed=3, epoch=1)
    assert rows_of(again) == second
    loader.set_epoch(0)
    assert rows_of(loader) == first


def test_a_state_goes_on_in_the_middle_of_an_epoch_and_into_the_next(
    ts: training.TrainingSet,
) -> None:
    loader = ts.loader(batch=3000, seed=5, epoch=4)
    everything = rows_of(loader) + rows_of(loader)
    loader = ts.loader(batch=3000, seed=5, epoch=4)
    going = iter(loader)
    seen = [next(going)[0][:, 0].astype(np.int64).tolist() for _ in range(7)]
    state = loader.state_dict()
    other = ts.loader(batch=3000)
    other.load_state_dict(state)
    assert seen + rows_of(other) + rows_of(other) == everything


def test_a_loader_is_sent_to_another_process_with_its_place(ts: training.TrainingSet) -> None:
    loader = ts.loader(batch=9000, seed=5, epoch=1)
    going = iter(loader)
    next(going)
    sent = pickle.loads(pickle.dumps(loader))
    assert rows_of(sent) == [x[:, 0].astype(np.int64).tolist() for x, _ in going]


def test_a_state_of_another_order_is_refused(
    ts: training.TrainingSet, whole: training.TrainingSet
) -> None:
    state = ts.loader(batch=100).state_dict()
    for other in (
        ts.loader(batch=101),
        ts.loader(batch=100, window=3),
        ts.loader(batch=100, shuffle=False),
        whole.loader(batch=100),
    ):
        with pytest.raises(fs.InvalidInput, match="its batches would be others"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "slow"}, {"batch": 0}, {"worker": 2, "workers": 2}, {"seed": -1},
        {"epoch": 1 << 32}, {"window": 0},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_loader_cannot_do_is_said(ts: training.TrainingSet, wrong: dict[str, Any]) -> None:
    with pytest.raises(fs.InvalidInput, match=next(iter(wrong))):
        ts.loader(**wrong)


# ── memory ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefetch", [True, False])
def test_batches_that_are_kept_stay_as_they_are(ts: training.TrainingSet, prefetch: bool) -> None:
    kept = list(ts.loader(batch=4096, window=2, seed=9, prefetch=prefetch))
    expected = batches_of(reference(ts, 9, 0, 2), 4096)
    assert [x[:, 0].astype(np.int64).tolist() for x, _ in kept] == expected


def test_blocks_are_used_again(ts: training.TrainingSet) -> None:
    loader = ts.loader(batch=4096, window=2)
    for _ in loader:
        pass
    assert len(loader._blocks._memory) <= 2
    blocks = _Blocks(2, has_label=True)
    first = blocks.take(5)[0][1:3]  # a batch of it
    where = first.base.ctypes.data
    other = blocks.take(5)[0]
    assert other.base.ctypes.data != where
    del first
    again, labels = blocks.take(5)
    assert again.base.ctypes.data == labels.base.ctypes.data == where


def test_who_stops_early_leaves_no_thread(ts: training.TrainingSet) -> None:
    before = threading.active_count()
    for mode in MODES:
        for _ in ts.loader(mode=mode, batch=500):
            break
    gc.collect()
    assert threading.active_count() == before


def test_file_mode_keeps_its_rows_where_it_is_told(
    ts: training.TrainingSet, tmp_path: Path
) -> None:
    with ts.loader(mode="file", folder=tmp_path, batch=1000, seed=2) as loader:
        first = rows_of(loader)
    (path,) = tmp_path.iterdir()
    written = path.stat()
    with ts.loader(mode="file", folder=tmp_path, batch=1000, seed=2) as loader:
        assert rows_of(loader) == first
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    with ts.loader(mode="file", batch=1000) as loader:
        x, _ = next(iter(loader))
        x += 1  # a batch is the caller's own
        assert rows_of(ts.loader(mode="file", folder=tmp_path, batch=1000, seed=2)) == first


# ── pipes ────────────────────────────────────────────────────────────────────────────────────


def test_a_pipe_for_each_epoch(ts: training.TrainingSet, tmp_path: Path) -> None:
    expected = [rows_of(ts.loader(batch=2000, seed=1, epoch=e)) for e in (0, 1, 2)]
    loader = ts.loader(batch=2000, seed=1)
    with Pipe(loader, tmp_path / "data", channel="train") as pipe:
        first = [
            x[:, 0].astype(np.int64).tolist()
            for x, _ in read_pipe(pipe.path(0), features=3, batch=2000)
        ]
        assert first == expected[0]
        early = read_pipe(tmp_path / "data" / "train_1", features=3, batch=2000)
        x, _ = next(early)
        assert x[:, 0].astype(np.int64).tolist() == expected[1][0]
        early.close()  # has had enough
        third = [
            x[:, 0].astype(np.int64).tolist()
            for x, _ in read_pipe(pipe.path(2), features=3, batch=2000)
        ]
        assert third == expected[2]
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("form", ["csv", "libsvm", "arrow", "recordio"])
def test_a_pipe_has_the_bytes_of_the_export(
    ts: training.TrainingSet, tmp_path: Path, form: str
) -> None:
    with Pipe(ts.loader(batch=1 << 14, shuffle=False), tmp_path, form=form, epochs=1) as pipe:
        piped = pipe.path(0).read_bytes()
    assert piped == ts.export(tmp_path / "file", form).read_bytes()


def test_pipes_end_without_a_reader(ts: training.TrainingSet, tmp_path: Path) -> None:
    with Pipe(ts.loader(), tmp_path):
        pass
    with Pipe(ts.loader(), tmp_path) as pipe:
        reader = os.open(pipe.path(0), os.O_RDONLY)  # and never reads
    os.close(reader)
    with pytest.raises(fs.InvalidInput, match="cannot be piped"):
        Pipe(ts.loader(), tmp_path, form="parquet")


def test_a_set_without_label(whole: training.TrainingSet, tmp_path: Path) -> None:
    store = fs.open(tmp_path / "store", upkeep=False)
    store.create_feature_group(
        "g", record_identifier="k", event_time="t",
        features={"k": "int64", "t": "timestamp", "v": "float32"},
    )  # fmt: skip
    labels = whole.to_arrow().slice(0, 100).select(["k", "event_time"])
    ts = training.training_set(store, "none", labels=labels, label=None, features="g:v")
    for mode in MODES:
        [(x, y)] = list(ts.loader(mode=mode))
        assert (x.shape, y) == ((100, 1), None)
    store.close()
