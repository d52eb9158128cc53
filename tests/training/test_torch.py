"""PyTorch: the one global order, for any number of workers and ranks, from any batch on.

CI has no torch, which is as large as all else together: ``poe torch`` where the extra is installed.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

import featurestore as fs
from featurestore import training

torch = pytest.importorskip(
    "torch", reason='needs the extra: pip install "featurestore[torch]", then poe torch'
)
from featurestore.integrations.torch import dataset  # noqa: E402  it needs torch

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]
ROWS, BATCH = 9_000, 700
BATCHES = -(-ROWS // BATCH)

Found = list[tuple[list[Any], list[Any]]]


@pytest.fixture(scope="module")
def ts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[training.TrainingSet]:
    labels = pa.table(
        {
            "k": pa.array(np.zeros(ROWS, np.int64)),
            "event_time": pa.array(np.arange(ROWS)).view(pa.timestamp("us", "UTC")),
            "row": pa.array(np.arange(ROWS)),
            "y": pa.array(np.arange(ROWS) % 7),
        }
    )
    with fs.open(tmp_path_factory.mktemp("torch") / "store", upkeep=False) as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "int64", "t": "timestamp", "v": "float32"},
        )  # fmt: skip
        store.put_record("g", {"k": 0, "t": "1970-01-01T00:00Z", "v": 1.0})
        yield training.training_set(
            store, "all", labels=labels, label="y", features="g:v", from_labels=["row"]
        )


def loader(ts: training.TrainingSet, **options: Any) -> training.Loader:
    return ts.loader(**{"batch": BATCH, "seed": 6, "window": 1, **options})


def told(batches: Any) -> Found:
    """Return batches as lists; those that workers sent are tensors, too."""
    found = []
    for x, y in batches:
        assert (x.dtype, y.dtype) == (torch.float32, torch.float32)
        found.append((x.tolist(), y.tolist()))
    return found


def through(data: Any, workers: int, **options: Any) -> Any:
    return torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers, **options)


def test_tensors_share_the_loaders_memory(ts: training.TrainingSet) -> None:
    x, y = next(iter(loader(ts, prefetch=False)))
    tensor, labels = next(iter(dataset(loader(ts))))
    assert (tensor.numpy() == x).all()
    assert (labels.numpy() == y).all()
    assert tensor.is_contiguous()
    assert tensor.numpy().base is not None


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 5])
def test_any_number_of_workers_gives_the_one_order(ts: training.TrainingSet, workers: int) -> None:
    expected = told((torch.tensor(x), torch.tensor(y)) for x, y in loader(ts))
    assert len(expected) == BATCHES
    data = dataset(loader(ts))
    assert len(data) == BATCHES
    assert told(through(data, workers)) == expected


def test_workers_that_are_begun_anew_are_sent_the_loader(ts: training.TrainingSet) -> None:
    expected = told(dataset(loader(ts)))
    found = through(dataset(loader(ts)), 2, multiprocessing_context="spawn")
    assert told(found) == expected


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("ranks", [2, 3])
def test_each_rank_gets_the_same_from_any_workers(
    ts: training.TrainingSet, workers: int, ranks: int
) -> None:
    expected = told(dataset(loader(ts)))
    for rank in range(ranks):
        data = dataset(loader(ts), rank=rank, ranks=ranks)
        assert len(data) == len(expected[rank::ranks])
        assert told(through(data, workers)) == expected[rank::ranks]


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("done", [0, 1, 5, BATCHES])
def test_a_run_is_resumed_with_other_workers_and_ranks(
    ts: training.TrainingSet, workers: int, done: int
) -> None:
    expected = told(dataset(loader(ts)))
    before = dataset(loader(ts))
    going = iter(before)
    told(next(going) for _ in range(done))
    state = before.state_dict()
    assert state["batch"] == done
    data = dataset(loader(ts, seed=0))
    data.load_state_dict(state)
    assert told(through(data, workers)) == expected[done:]
    parts = []
    for rank in range(2):
        data = dataset(loader(ts, seed=0), rank=rank, ranks=2)
        data.load_state_dict(state)
        parts.append(told(through(data, workers)))
    assert parts == [expected[done::2], expected[done + 1 :: 2]]


def test_a_rank_says_where_it_is(ts: training.TrainingSet) -> None:
    expected = told(dataset(loader(ts)))
    data = dataset(loader(ts), rank=1, ranks=2)
    going = iter(data)
    first = told(next(going) for _ in range(3))
    assert data.state_dict()["batch"] == 6  # of both ranks
    other = dataset(loader(ts))
    other.load_state_dict(data.state_dict())
    assert told(other) == expected[6:]
    assert first + told(data) == expected[1::2]
    assert data.state_dict()["epoch"] == 1


@pytest.mark.parametrize("persistent", [False, True])
def test_epochs_follow_one_another(ts: training.TrainingSet, persistent: bool) -> None:
    data = dataset(loader(ts))
    expected = [told(data), told(data), told(data)]
    assert expected[0] != expected[1]
    assert all(sorted(chain(*(x for x, _ in epoch))) for epoch in expected)
    data = dataset(loader(ts))
    found = through(data, 2, persistent_workers=persistent)
    for epoch in range(3):
        if not persistent:
            data.set_epoch(epoch)
        if epoch == 1:
            next(iter(found))  # had enough: begun anew
        assert told(found) == expected[epoch]


def test_state_of_torchdata(ts: training.TrainingSet) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    expected = told(dataset(loader(ts)))
    for workers in (0, 1, 2, 3):
        going = stateful(dataset(loader(ts)), batch_size=None, num_workers=workers)
        batches = iter(going)
        first = told(next(batches) for _ in range(5))
        state = going.state_dict()
        del batches
        other = stateful(dataset(loader(ts)), batch_size=None, num_workers=workers)
        other.load_state_dict(state)
        again = iter(other)
        second = told(next(again) for _ in range(3))
        state = other.state_dict()
        third = stateful(dataset(loader(ts)), batch_size=None, num_workers=workers)
        third.load_state_dict(state)
        assert first + second + told(third) == expected


def test_a_set_without_label_gives_tensors(ts: training.TrainingSet, tmp_path: Any) -> None:
    with fs.open(tmp_path / "store", upkeep=False) as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "int64", "t": "timestamp", "v": "float32"},
        )  # fmt: skip
        labels = ts.to_arrow().slice(0, 10).select(["k", "event_time"])
        bare = training.training_set(store, "bare", labels=labels, label=None, features="g:v")
        [x] = through(dataset(bare.loader()), 0)
        assert tuple(x.shape) == (10, 1)


def test_what_cannot_be_is_said(ts: training.TrainingSet) -> None:
    with pytest.raises(fs.InvalidInput, match=r"rank=2 is none of ranks=2"):
        dataset(loader(ts), rank=2, ranks=2)
    with pytest.raises(fs.InvalidInput, match="is worker 1 of 2"):
        dataset(loader(ts, worker=1, workers=2))
