"""The channels of an algorithm by name, as rows of float32."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from featurestore.errors import InvalidInput, did_you_mean
from featurestore.training.layout import SET_FILE
from featurestore.training.training_set import TrainingSet

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """A channel in memory.

    Attributes
    ----------
    rows : (n, d) float32
        Features; NaN where a value is missing.
    labels : (n,) float32 or None
        None where the algorithm takes none.
    names : tuple of str
        The features, in order.
    """

    rows: NDArray[np.float32]
    labels: NDArray[np.float32] | None
    names: tuple[str, ...]


def read_channels(label: str | None, *, is_supervised: bool) -> dict[str, Rows]:
    """Read all channels of the job; ``train`` has to be there.

    Raises
    ------
    InvalidInput
        With the channel, and what is wrong with it.
    """
    config = Path(os.environ["SM_INPUT_CONFIG_DIR"]) / "channels.json"
    known: dict[str, dict[str, Any]] = json.loads(config.read_text("utf-8"))
    if "train" not in known:
        raise InvalidInput(f'There is no channel "train".{did_you_mean("train", known)}')
    found = {}
    for name in known:
        folder = Path(os.environ[f"SM_CHANNEL_{name.upper()}"]).resolve()
        found[name] = read(folder, name, label, is_supervised=is_supervised)
    return found


def read(folder: Path, name: str, label: str | None, *, is_supervised: bool) -> Rows:
    """Read one channel."""
    if (folder / SET_FILE).exists():
        return _read_set(TrainingSet.open(folder), name, label, is_supervised=is_supervised)
    parquet = sorted(folder.rglob("*.parquet"))
    texts = sorted(folder.rglob("*.csv"))
    if bool(parquet) == bool(texts):
        raise InvalidInput(f'The channel "{name}" has to hold Parquet files, or CSV files.')
    if parquet:
        table = pa.concat_tables([pq.read_table(path) for path in parquet])
    else:
        options = csv.ReadOptions(autogenerate_column_names=True)
        table = pa.concat_tables([csv.read_csv(path, options) for path in texts])
        label = table.column_names[0] if is_supervised else None
    if is_supervised and label not in table.column_names:
        raise InvalidInput(
            f'The channel "{name}" has no column {label!r} for the label; its name is the '
            f"parameter label.{did_you_mean(str(label), table.column_names)}"
        )
    features = [n for n in table.column_names if n != label]
    columns = [_float32(table[n], n, name) for n in features]
    labels = _float32(table[label], str(label), name) if is_supervised else None
    return Rows(np.column_stack(columns), labels, tuple(features))


def _read_set(
    training_set: TrainingSet, name: str, label: str | None, *, is_supervised: bool
) -> Rows:
    """Read a training set, which knows its label and its columns."""
    if is_supervised and label not in (None, training_set.label):
        raise InvalidInput(
            f'The label of the training set of the channel "{name}" is "{training_set.label}"; '
            f'the parameter label says "{label}".'
        )
    rows, labels = training_set.to_numpy()
    if is_supervised and labels is None:
        raise InvalidInput(f'The training set of the channel "{name}" has no label.')
    return Rows(rows, labels if is_supervised else None, training_set.features)


def _float32(column: pa.ChunkedArray, name: str, channel: str) -> NDArray[np.float32]:
    """Return a column as float32, NaN for null."""
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    try:
        numbers = column.cast(pa.float64(), safe=False).fill_null(np.nan).combine_chunks()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise InvalidInput(
            f'The column "{name}" of the channel "{channel}" is {column.type}; an algorithm by '
            "name takes numbers. Encode it, or leave it out."
        ) from error
    return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float32)
