"""Arrow columns as they arrive: unwrapped to one plain chunk, with the rows that will not do.

Callers hand us whatever their library makes: chunked columns, dictionaries (pandas
categoricals), run-end encodings, extension types.  :func:`plain_array` takes all of that off, so
that the code behind it meets one contiguous array of a plain type.

A column is then converted as a whole, and what does not convert is collected in a
:class:`Refused`: the row becomes null in the result and is written down with its reason.  Whoever
called decides what a refused row means: an error that names the rows, or rows to skip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa

# Enough to see a pattern; a million reasons would cost more than the ingest they refuse.
REASONS_MAX = 100
REASONS_SHOWN = 3
SHOWN_MAX = 60


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; not copied, as ``combine_chunks`` does, where it is one."""
    chunks = getattr(column, "chunks", None)
    if chunks is None:
        return column
    return chunks[0] if len(chunks) == 1 else column.combine_chunks()


def shown(value: object) -> str:
    """Return a value for a message: as Python writes it, cut where it is long.

    Examples
    --------
    >>> shown("a"), shown("a" * 100)[-3:]
    ("'a'", 'aa…')
    """
    try:
        text = repr(value)
    except ValueError:  # Python does not write out an int of more than 4300 digits
        text = f"a {type(value).__name__} of thousands of digits"
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 3]}…"


class Refused:
    """The rows of a column that do not fit, and why.

    Attributes
    ----------
    rows : list of int
        Every refused row, in the order of the findings; none twice.
    reasons : dict of int to str
        Reasons of at most ``REASONS_MAX`` rows.

    Examples
    --------
    >>> refused = Refused()
    >>> refused.add([7, 3], lambda row: f"row {row} is odd")
    >>> len(refused), refused.first()
    (2, [(3, 'row 3 is odd'), (7, 'row 7 is odd')])
    >>> refused.summary(10)
    '2 of 10 rows do not fit: row 3: row 3 is odd; row 7: row 7 is odd'
    """

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: Iterable[int], reason: Callable[[int], str]) -> None:
        """Refuse `rows`; `reason` is asked only for as many as will be told."""
        for row in rows:
            self.rows.append(row)
            if len(self.reasons) < REASONS_MAX:
                self.reasons[row] = reason(row)

    def add_row(self, row: int, reason: str) -> None:
        """Refuse one row."""
        self.add([row], lambda _: reason)

    def first(self) -> list[tuple[int, str]]:
        """Return the rows with a reason, ascending: what ``InvalidRecord.rows`` carries."""
        return sorted(self.reasons.items())

    def summary(self, row_count: int) -> str:
        """Return how many rows of `row_count` were refused, and the first of them in words."""
        told = self.first()[:REASONS_SHOWN]
        more = "; …" if len(self) > len(told) else ""
        shown = "; ".join(f"row {row}: {reason}" for row, reason in told)
        return f"{len(self)} of {row_count} rows do not fit: {shown}{more}"


def plain_array(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the column as one chunk of a plain type: no dictionary, run-end or extension type.

    Parameters
    ----------
    array : pyarrow.Array or pyarrow.ChunkedArray
        Any column.

    Returns
    -------
    pyarrow.Array
        The same values in the same order; no copy when the column was plain already.

    Raises
    ------
    InvalidRecord
        When the column holds more than 2 GiB of text in one type with 32-bit offsets.

    Examples
    --------
    >>> import pyarrow as pa
    >>> plain_array(pa.chunked_array([["a"], ["b", "a"]]).dictionary_encode()).to_pylist()
    ['a', 'b', 'a']
    """
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        # Each chunk alone: their dictionaries may differ, and not fit into one.
        return _one_chunk([plain_array(chunk) for chunk in array.chunks or [_empty(array.type)]])
    while (unwrap := _unwrapping(array.type)) is not None:
        array = unwrap(array)
    return array


def _empty(arrow_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.array([], arrow_type)


def _one_chunk(chunks: list[pa.Array]) -> pa.Array:
    import pyarrow as pa

    if len(chunks) == 1:
        return chunks[0]
    try:
        return pa.concat_arrays(chunks)
    except pa.ArrowInvalid as error:
        raise InvalidRecord(
            f"a column of {sum(map(len, chunks))} rows does not fit in one array ({error}); "
            "give it in smaller pieces"
        ) from error


def _unwrapping(arrow_type: pa.DataType) -> Callable[[pa.Array], pa.Array] | None:
    """Return what takes one wrapping off an array of this type, or None when it is plain."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def decode(array: Any) -> Any:
        wide = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
        kind = wide.get(array.type.value_type)
        if kind is not None:  # so are Polars' categoricals, and Arrow cannot take from views
            array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(kind))
        return array.dictionary_decode()

    def decode_runs(array: Any) -> Any:
        return pc.run_end_decode(array)

    def storage(array: Any) -> Any:
        return array.storage

    if pa.types.is_dictionary(arrow_type):
        return decode
    if pa.types.is_run_end_encoded(arrow_type):
        return decode_runs
    return storage if isinstance(arrow_type, pa.BaseExtensionType) else None


def without_rows(
    array: pa.Array,
    bad: pa.Array,
    refused: Refused,
    reason: Callable[[Any], str],
    *,
    told_of: pa.Array | None = None,
) -> pa.Array:
    """Return `array` with null where `bad` is true, and write those rows down.

    Parameters
    ----------
    array : pyarrow.Array
        Any array.
    bad : pyarrow.BooleanArray
        As long as `array`; null (of a null row) counts as false.
    refused : Refused
        Takes the rows.
    reason : callable
        Given the Python value of a row, says what is wrong with it.
    told_of : pyarrow.Array, optional
        Where those values are, when `array` holds them converted already.

    Examples
    --------
    >>> import pyarrow as pa
    >>> refused = Refused()
    >>> good = without_rows(pa.array([1, 9]), pa.array([False, True]), refused, "{} is high".format)
    >>> good.to_pylist(), refused.first()
    ([1, None], [(1, '9 is high')])
    """
    import pyarrow.compute as pc

    if not pc.any(bad).as_py():
        return array
    values = array if told_of is None else told_of
    refused.add(pc.indices_nonzero(bad).to_pylist(), lambda row: reason(values[row].as_py()))
    return null_where(array, bad)


def null_where(array: pa.Array, bad: pa.Array) -> pa.Array:
    """Return `array` with null where `bad` is true.

    Examples
    --------
    >>> import pyarrow as pa
    >>> null_where(pa.array(["a", "b"]), pa.array([True, None])).to_pylist()
    [None, 'b']
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(bad.fill_null(fill_value=False), pa.scalar(None, array.type), array)
