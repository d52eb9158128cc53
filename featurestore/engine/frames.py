"""Tables of callers: pandas, Polars or Arrow come in, and the same goes out.

::

    labels ──accept──▶ frame ──column_names, column──▶ Arrow arrays ──▶ work ──▶ columns
                         └────────────────────append◀────────────────────────────┘

What came in is never converted as a whole.  Only the columns that are needed (keys, times) are
read through Arrow, and the answer is put *beside* the caller's columns.  So these stay as they
were: pandas' index, its dtypes, columns of objects no format knows; and nothing is copied twice.

Neither pandas nor Polars is imported here: whoever hands us their tables has done so.

======================  ==========================================================================
Arrow type of a column  pandas dtype
======================  ==========================================================================
int, bool               numpy's; with nulls ``Int64`` (``Int8`` …) and ``boolean``, so that a key
                        never turns into a float
float                   numpy's, null is NaN
timestamp               ``datetime64[us, UTC]``, null is NaT
others                  what pyarrow makes of them
======================  ==========================================================================
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from featurestore.errors import ColumnClash, InvalidInput, InvalidRecord, did_you_mean


def accept(given: Any, what: str = "labels") -> Any:
    """Return a pandas or Polars DataFrame as it is, anything else as a ``pyarrow.Table``.

    Parameters
    ----------
    given : DataFrame, pyarrow.Table, object with ``__arrow_c_stream__``, dict or list of dicts
        A dict maps column names to values.
    what : str
        What the table is, for messages.

    Examples
    --------
    >>> accept({"origin": ["JFK"]}).column_names
    ['origin']
    """
    if isinstance(given, pa.Table) or _is_pandas(given) or _is_polars(given):
        return given
    if hasattr(given, "collect"):
        raise InvalidInput(f"{what}: a {type(given).__name__} is a plan; collect() it first.")
    try:
        if isinstance(given, pa.RecordBatch):
            return pa.Table.from_batches([given])
        if isinstance(given, list) and all(isinstance(row, Mapping) for row in given):
            return pa.Table.from_pylist(given)
        if isinstance(given, dict) or hasattr(given, "__arrow_c_stream__"):
            return pa.table(given)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidRecord(f"{what} cannot be read as a table: {error}") from error
    raise InvalidInput(
        f"{what}: a {type(given).__name__} is no table; give a pandas or Polars DataFrame, an "
        "Arrow table, a dict of columns or a list of dicts."
    )


def row_count(frame: Any) -> int:
    """Return how many rows a frame has."""
    return int(frame.num_rows) if isinstance(frame, pa.Table) else len(frame)


def column_names(frame: Any) -> list[str]:
    """Return the names of a frame's columns, as text."""
    names = frame.column_names if isinstance(frame, pa.Table) else frame.columns
    return [str(name) for name in names]


def column(
    frame: Any, name: str, hint: Callable[[], str] = str, what: str = "labels"
) -> pa.ChunkedArray:
    """Return one column as Arrow.

    Parameters
    ----------
    frame : DataFrame or pyarrow.Table
        As :func:`accept` returns it.
    name : str
        The column.
    hint : callable
        Returns what else the caller could do when it is not there; ends the message.
    what : str
        What the table is, for messages.

    Raises
    ------
    InvalidInput
        When there is no such column.
    ColumnClash
        When there are several.
    InvalidRecord
        When Arrow has no type for its values.
    """
    names = column_names(frame)
    if names.count(name) > 1:
        raise ColumnClash(f'{what} have {names.count(name)} columns named "{name}"; rename one.')
    if name not in names:
        raise InvalidInput(f'{what} have no column "{name}".{_whereabouts(frame, name)}{hint()}')
    place = names.index(name)
    try:
        if _is_pandas(frame):
            return _chunked(pa.Array.from_pandas(frame.iloc[:, place]))
        if _is_polars(frame):
            return _chunked(frame.to_series(place).to_arrow())
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidRecord(
            f'The column "{name}" of {what} cannot be read: {error}. Give it one type.'
        ) from error
    return frame.column(place)


def append(frame: Any, columns: Mapping[str, pa.ChunkedArray]) -> Any:
    """Return a new frame of the same kind: the caller's columns untouched, then these.

    Examples
    --------
    >>> append(pa.table({"a": [1]}), {"b": pa.chunked_array([["x"]])}).to_pylist()
    [{'a': 1, 'b': 'x'}]
    """
    if _is_pandas(frame):
        pandas = sys.modules["pandas"]
        series = {name: _to_pandas(values, frame.index) for name, values in columns.items()}
        added = pandas.DataFrame(series, index=frame.index, copy=False)
        return pandas.concat([frame, added], axis="columns")
    if _is_polars(frame):
        polars = sys.modules["polars"]
        return frame.hstack([polars.Series(name, values) for name, values in columns.items()])
    added = [pa.field(name, values.type) for name, values in columns.items()]
    schema = pa.schema([*frame.schema, *added], frame.schema.metadata)
    return pa.Table.from_arrays([*frame.columns, *columns.values()], schema=schema)


def to_arrow(frame: Any) -> pa.Table:
    """Return a frame as Arrow, without the index that a pandas DataFrame has."""
    if _is_pandas(frame):
        try:
            return pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            told = "; ".join(map(str, error.args))
            raise InvalidRecord(f"A column cannot be read as Arrow: {told}") from error
    return frame.to_arrow() if _is_polars(frame) else frame


def _is_pandas(given: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, pandas.DataFrame)


def _is_polars(given: Any) -> bool:
    polars = sys.modules.get("polars")
    return polars is not None and isinstance(given, polars.DataFrame)


def _chunked(array: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _whereabouts(frame: Any, name: str) -> str:
    """Say where a column that is not there may be."""
    if _is_pandas(frame) and name in frame.index.names:
        return " It is in the index: call reset_index() first."
    return did_you_mean(name, set(column_names(frame)))


def _to_pandas(values: pa.ChunkedArray, index: Any) -> Any:
    """Return a column as a pandas Series in which a null costs no value its type."""
    kind = values.type
    if values.null_count and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        pandas = sys.modules["pandas"]
        name = "boolean" if pa.types.is_boolean(kind) else str(kind).replace("int", "Int")
        dtype = pandas.api.types.pandas_dtype(name)
        series = values.to_pandas(types_mapper={kind: dtype}.get)
    else:
        series = values.to_pandas()
    return series.set_axis(index)
