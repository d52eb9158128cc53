"""Columns brought to the types of features: as they are, or refused, row by row and with reasons.

The rules are those of ``dtypes`` for one value, applied to whole Arrow columns: nothing is
rounded, cut or guessed.  :func:`cast_column` refuses a column that has bad rows;
:func:`read_column` collects them, for a caller who leaves them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.arrays import Refused, null_where, plain_array, shown, without_rows
from featurestore.dtypes import (
    INT_MAX,
    INT_MIN,
    MAX_DAYS,
    MIN_DAYS,
    SAFE_INTEGER_MAX,
    DType,
    element_of,
    is_arrow_list,
    no_integer,
    scalar_spelling,
    text_days,
)
from featurestore.errors import InvalidEventTime, InvalidRecord
from featurestore.event_time import read_times

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    import pyarrow as pa


def cast_column(
    array: pa.Array | pa.ChunkedArray,
    dtype: DType,
    feature: str,
    *,
    tz: str | tzinfo | None = None,
    unit: str | None = None,
    nan_is_null: bool = False,
) -> pa.Array:
    """Return a column as it is stored, or refuse it: nothing is rounded, cut or guessed.

    Parameters
    ----------
    array : pyarrow.Array or pyarrow.ChunkedArray
        The column, of any type.
    dtype : DType
        Type of the feature.
    feature : str
        Name of the feature, for the message of an error.
    tz, unit
        Of timestamps, as for :func:`~featurestore.event_time.to_us`.
    nan_is_null : bool
        Take NaN of a float column as null: what pandas means by it in a nullable column.

    Returns
    -------
    pyarrow.Array
        One chunk, of type ``dtype.to_arrow()``, as long as `array`; nulls where it has nulls.

    Raises
    ------
    InvalidRecord
        When the type does not fit, or rows do not; ``rows`` has the first 100 of them.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from featurestore.dtypes import parse_dtype
    >>> cast_column(pa.array([1.0, None]), parse_dtype("int8"), "age").to_pylist()
    [1, None]
    >>> cast_column(pa.array([1.0, 2.5]), parse_dtype("int8"), "age")
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidRecord: feature "age" (int8): 1 of 2 rows do not fit: row 1: 2.5 \
is not a whole number; round it first
    """
    refused = Refused()
    column = read_column(array, dtype, feature, refused, tz=tz, unit=unit, nan_is_null=nan_is_null)
    if refused:
        error = InvalidEventTime if dtype.kind == "timestamp" else InvalidRecord
        raise error(
            f'feature "{feature}" ({dtype}): {refused.summary(len(column))}', rows=refused.first()
        )
    return column


def read_column(
    array: pa.Array | pa.ChunkedArray,
    dtype: DType,
    feature: str,
    refused: Refused,
    *,
    tz: str | tzinfo | None = None,
    unit: str | None = None,
    nan_is_null: bool = False,
) -> pa.Array:
    """Do the work of :func:`cast_column`, but collect bad rows in `refused` and make them null.

    Raises
    ------
    InvalidRecord
        Only when the type of the whole column does not fit.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    array = plain_array(array)
    if nan_is_null and pa.types.is_floating(array.type):
        array = null_where(array, pc.is_nan(array))
        if array.null_count == len(array):  # pandas has no other type for a column of nothing
            array = pa.nulls(len(array))
    how = _Reading(f'feature "{feature}" ({dtype})', tz, unit)
    column = _stored(array, dtype, refused, how)
    if column is None:
        raise InvalidRecord(f"{how.what}: a column of {array.type} is no {dtype}; convert it first")
    return column


@dataclass(frozen=True, slots=True)
class _Reading:
    """What lists pass on to their elements."""

    what: str
    tz: str | tzinfo | None
    unit: str | None


def _stored(array: pa.Array, dtype: DType, refused: Refused, how: _Reading) -> pa.Array | None:
    """Return a column in its final type, or None when the given type cannot become it."""
    import pyarrow as pa

    array = plain_array(array)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), dtype.to_arrow())
    if pa.types.is_float16(array.type):  # Arrow computes next to nothing with these
        array = array.cast(pa.float32())
    if dtype.kind == "timestamp":
        return read_times(array, refused, tz=how.tz, unit=how.unit, what=how.what)
    return _COLUMNS[dtype.kind](array, dtype, refused, how)


# Each does as `_stored` does, for a plain array that is not of nulls.


def _bool_column(
    array: pa.Array, _dtype: DType, _refused: Refused, _how: _Reading
) -> pa.Array | None:
    import pyarrow as pa

    return array if pa.types.is_boolean(array.type) else None


def _int_column(array: pa.Array, dtype: DType, refused: Refused, _how: _Reading) -> pa.Array | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    target = dtype.to_arrow()
    if array.type.equals(target):
        return array
    if pa.types.is_floating(array.type):
        array = array.cast(pa.float64())
        whole = pc.and_(
            pc.equal(pc.trunc(array), array), pc.less_equal(pc.abs(array), SAFE_INTEGER_MAX)
        )
        bad = pc.invert(whole)
        array = without_rows(array, bad, refused, lambda value: f"{value} {no_integer(value)}")
        array = array.cast(pa.int64())
    elif not pa.types.is_integer(array.type):
        return None
    low, high = INT_MIN[dtype.bits], INT_MAX[dtype.bits]
    array = without_rows(
        array,
        _outside(array, low, high),
        refused,
        lambda value: f"{value} is outside {low} to {high}",
    )
    return array.cast(target)


def _outside(array: pa.Array, low: int, high: int) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_uint64(array.type):
        return pc.greater(array, pa.scalar(high, pa.uint64()))
    wide = array.cast(pa.int64())
    return pc.or_(pc.less(wide, low), pc.greater(wide, high))


def _float_column(
    array: pa.Array, dtype: DType, refused: Refused, _how: _Reading
) -> pa.Array | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    target = dtype.to_arrow()
    if array.type.equals(target):
        return array
    if pa.types.is_integer(array.type):
        column, bad = _floats_of_integers(array, target)
        return without_rows(
            column, bad, refused, lambda value: f"no {dtype} is exactly {value}", told_of=array
        )
    if not pa.types.is_floating(array.type):
        return None
    column = array.cast(target, safe=False)
    same = pc.or_(pc.equal(column.cast(array.type), array), pc.is_nan(array))
    return without_rows(
        column,
        pc.invert(same),
        refused,
        lambda value: f"{value} is no float32; cast the column to float32 yourself, or use float64",
        told_of=array,
    )


def _floats_of_integers(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return integers as floats, and where that lost something."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = array.cast(target, safe=False)
    # The way back must not overflow: the floats nearest the largest integers lie above them.
    top = 2.0**64 if pa.types.is_uint64(array.type) else 2.0**63
    fits = pc.less(column.cast(pa.float64()), top)
    back = pc.if_else(fits, column, pa.scalar(0.0, target)).cast(array.type, safe=False)
    return column, pc.invert(pc.and_(fits, pc.equal(back, array)))


def _string_column(array: pa.Array, dtype: DType, refused: Refused, how: _Reading) -> pa.Array:
    import pyarrow as pa

    kinds, kind = pa.types, array.type
    if not (kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)):
        return None
    column = _narrow(array, dtype, how)
    try:
        column.validate(full=True)  # Arrow trusts whoever made the array; we store what is read
    except pa.ArrowInvalid:
        return _utf8_rows(column, refused)
    return column


def _utf8_rows(column: pa.Array, refused: Refused) -> pa.Array:
    """Find the rows that are not UTF-8, one by one."""
    import pyarrow as pa

    texts: list[str | None] = []
    for row, raw in enumerate(column.cast(pa.binary()).to_pylist()):
        try:
            texts.append(None if raw is None else raw.decode())
        except UnicodeDecodeError:
            texts.append(None)
            refused.add_row(row, f"{shown(raw)} is not UTF-8")
    return pa.array(texts, pa.string())


def _binary_column(
    array: pa.Array, dtype: DType, _refused: Refused, how: _Reading
) -> pa.Array | None:
    import pyarrow as pa

    if scalar_spelling(array.type) != "binary":
        return None
    if pa.types.is_fixed_size_binary(array.type):
        array = array.cast(pa.large_binary())
    return _narrow(array, dtype, how)


def _narrow(array: pa.Array, dtype: DType, how: _Reading) -> pa.Array:
    """Return text or bytes with 32-bit offsets."""
    import pyarrow as pa

    try:
        return array.cast(dtype.to_arrow())
    except pa.ArrowInvalid as error:
        raise InvalidRecord(
            f"{how.what}: {len(array)} rows do not fit in one array ({error}); "
            "give them in smaller pieces"
        ) from error


def _date_column(
    array: pa.Array, _dtype: DType, refused: Refused, _how: _Reading
) -> pa.Array | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_date64(array.type):
        ms = array.view(pa.int64())
        days = pc.divide(ms, 86_400_000)
        bad = pc.not_equal(pc.multiply(days, 86_400_000), ms)
        days = without_rows(days, bad, refused, lambda day: f"day {day} and a part of a day")
    elif pa.types.is_date32(array.type):
        days = array.view(pa.int32()).cast(pa.int64())
    elif scalar_spelling(array.type) == "string":
        days = _days_of_texts(array, refused)
    else:
        return None
    bad = pc.or_(pc.less(days, MIN_DAYS), pc.greater(days, MAX_DAYS))
    days = without_rows(days, bad, refused, lambda day: f"day {day} is outside the years 1 to 9999")
    return days.cast(pa.int32()).view(pa.date32())


def _days_of_texts(array: pa.Array, refused: Refused) -> pa.Array:
    import pyarrow as pa

    days: list[int | None] = []
    for row, text in enumerate(array.to_pylist()):
        day = None if text is None else text_days(text)
        days.append(day)
        if day is None and text is not None:
            refused.add_row(row, f'{shown(text)} is no day; write it as "2013-01-01"')
    return pa.array(days, pa.int64())


def _list_column(array: pa.Array, dtype: DType, refused: Refused, how: _Reading) -> pa.Array | None:
    import numpy as np
    import pyarrow as pa

    if not is_arrow_list(array.type):
        return None
    elements, lengths = _parts(array)
    refused_elements = Refused()
    stored = _stored(elements, element_of(dtype), refused_elements, how)
    if stored is None:
        return None
    ends = np.cumsum(lengths)
    if len(elements) > INT_MAX[32]:
        raise InvalidRecord(f"{how.what}: {len(elements)} elements; give fewer rows at a time")
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    column = pa.ListArray.from_arrays(offsets, stored, mask=array.is_null())
    row_of_element = np.repeat(np.arange(len(array)), lengths)
    return _without_parents(column, refused_elements, row_of_element, refused)


def _vector_column(
    array: pa.Array, dtype: DType, refused: Refused, how: _Reading
) -> pa.Array | None:
    import numpy as np
    import pyarrow as pa

    if not is_arrow_list(array.type):
        return None
    elements, lengths = _parts(array)
    valid = np.asarray(array.is_valid())
    whole = valid & (lengths == dtype.length)
    refused.add(
        np.flatnonzero(valid & ~whole).tolist(),
        lambda row: f"{lengths[row]} components given, {dtype.length} expected",
    )
    elements = elements.filter(pa.array(np.repeat(whole, lengths)))
    refused_elements = Refused()
    refused_elements.add(
        np.flatnonzero(np.asarray(elements.is_null())).tolist(),
        lambda _: "is null; vectors are whole",
    )
    stored = _stored(elements, element_of(dtype), refused_elements, how)
    if stored is None:
        return None
    # Rows without a vector keep room for one: zeros under a null.
    components = np.zeros((len(array), dtype.length), stored.type.to_pandas_dtype())
    components[whole] = np.asarray(stored.fill_null(0.0)).reshape(-1, dtype.length)
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(components.reshape(-1)), dtype.length, mask=pa.array(~whole)
    )
    row_of_element = np.repeat(np.flatnonzero(whole), dtype.length)
    return _without_parents(column, refused_elements, row_of_element, refused)


def _parts(array: pa.Array) -> tuple[pa.Array, Any]:
    """Return the elements of all lists of a column, and the length of each list (0 of a null).

    Not by a cast to the ordinary list: of a list view, Arrow's is damaged (seen in 26.0).
    """
    import numpy as np
    import pyarrow.compute as pc

    return array.flatten(), np.asarray(pc.list_value_length(array).fill_null(0))


def _without_parents(
    column: pa.Array, refused_elements: Refused, rows: Any, refused: Refused
) -> pa.Array:
    """Refuse the rows with refused elements (`rows` of each), telling the first of each row."""
    import numpy as np
    import pyarrow as pa

    if not refused_elements:
        return column
    reasons: dict[int, str] = {}
    for element, reason in refused_elements.first():
        row = int(rows[element])
        place = element - int(np.searchsorted(rows, row))
        reasons.setdefault(row, f"element {place}: {reason}")
    bad = np.zeros(len(column), np.bool_)
    bad[rows[refused_elements.rows]] = True
    refused.add(
        np.flatnonzero(bad).tolist(), lambda row: reasons.get(row, "an element does not fit")
    )
    return null_where(column, pa.array(bad))


_COLUMNS: dict[str, Callable[[pa.Array, DType, Refused, _Reading], pa.Array | None]] = {
    "bool": _bool_column,
    "int": _int_column,
    "float": _float_column,
    "string": _string_column,
    "binary": _binary_column,
    "date": _date_column,
    "list": _list_column,
    "vector": _vector_column,
}
