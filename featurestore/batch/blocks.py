"""Columns to the rows a model sees, without text between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidInput, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


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
    for place, name in enumerate(inputs):
        start = 0
        fill = np.float32(fills.get(name, np.nan))
        for chunk in table[name].chunks:
            end = start + len(chunk)
            _fill(block[start:end, place], chunk, name, categories.get(name), fill)
            start = end
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


def _fill(
    out: NDArray[np.float32],
    chunk: pa.Array,
    name: str,
    texts: Sequence[str] | None,
    fill: np.float32,
) -> None:
    """Write a column of the block."""
    if pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
        if texts is None:
            raise InvalidInput(
                f'"{name}" is text, and the model does not say what its texts are numbered by. '
                "Register it with its training set, or give it numbers."
            )
        chunk = pc.index_in(chunk, pa.array(texts, chunk.type))
    elif pa.types.is_date32(chunk.type):
        chunk = chunk.cast(pa.int32())
    elif pa.types.is_boolean(chunk.type):
        chunk = chunk.cast(pa.uint8())
    elif not (pa.types.is_integer(chunk.type) or pa.types.is_floating(chunk.type)):
        raise InvalidInput(f'"{name}" is {chunk.type}; a model is given numbers.')
    if chunk.null_count:
        # Of a null the value is undefined; the mask decides.
        out[:] = chunk.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
        out[chunk.is_null().to_numpy(zero_copy_only=False)] = fill
    else:
        out[:] = chunk.to_numpy()
