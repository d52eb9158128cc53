"""Columns to the rows a model sees, without text between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidInput, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


#: Rows whose cells are written together: of 19 columns they take 150 kB.
TILE_ROWS = 2_048


def rows_of(
    table: pa.Table,
    inputs: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    fills: Mapping[str, float],
) -> NDArray[np.float32]:
    """Return the columns a model knows as its rows.

    Parameters
    ----------
    table : pyarrow.Table
        With all of the inputs, in any order.
    inputs : sequence of str
        The model's columns, in its order.
    categories : mapping
        Input -> the texts that its numbers stand for; any other text is a missing value.
    fills : mapping
        Input -> what stands for null; NaN for the others.

    Returns
    -------
    (rows, inputs) float32, contiguous

    Examples
    --------
    >>> table = pa.table({"b": ["y", None, "z"], "a": [1, None, 3]})
    >>> rows_of(table, ["a", "b"], {"b": ["x", "y"]}, {"a": -1.0}).tolist()
    [[1.0, 1.0], [-1.0, nan], [3.0, nan]]
    """
    block = np.empty((table.num_rows, len(inputs)), np.float32)
    start = 0
    for batch in table.select(list(inputs)).to_batches():
        columns = [
            _numbers(batch.column(place), name, categories.get(name), fills.get(name, np.nan))
            for place, name in enumerate(inputs)
        ]
        # A tile at a time: its rows stay in the cache while each column writes its cell of them.
        for row in range(0, batch.num_rows, TILE_ROWS):
            end = min(row + TILE_ROWS, batch.num_rows)
            tile = block[start + row : start + end]
            for place, column in enumerate(columns):
                tile[:, place] = column[row:end]
        start += batch.num_rows
    return block


def require(schema: pa.Schema, inputs: Sequence[str]) -> None:
    """Refuse a source without some of a model's columns.

    Raises
    ------
    InvalidInput
    """
    for name in inputs:
        if name not in schema.names:
            raise InvalidInput(
                f'The model\'s column "{name}" is not in the source, nor among its features.'
                f"{did_you_mean(name, schema.names)}"
            )


def _numbers(column: pa.Array, name: str, texts: Sequence[str] | None, fill: float) -> NDArray[Any]:
    """Return a column as numbers, nulls filled."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        if texts is None:
            raise InvalidInput(
                f'"{name}" is text, and the model does not say what its texts are numbered by. '
                "Register it with its training set, or give it numbers."
            )
        column = pc.index_in(column, pa.array(texts, column.type))
    elif pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InvalidInput(f'"{name}" is {column.type}; a model is given numbers.')
    if column.null_count:
        column = column.cast(pa.float64(), safe=False).fill_null(fill)
    return np.asarray(column.to_numpy(zero_copy_only=False))
