"""One column of a window, summed up: what every check, distance and file is computed from.

===============  =============================================================================
:class:`Number`  integers, floats, decimals, booleans: the values sorted, and their moments
:class:`Text`    strings: how often each occurs
:class:`Other`   times, bytes, lists, vectors: only how many are there
===============  =============================================================================

Missing is null, and for a number NaN as well: a distribution has no place for either.  A number is
compared as float64, so integers beyond 2**53 meet their neighbours.

A window of text (captured CSV, say) is measured by the type its baseline has: what does not parse
is counted as ``mismatched`` and takes no part in the distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

INTEGRAL, FRACTIONAL, STRING, UNKNOWN = "Integral", "Fractional", "String", "Unknown"
"""``inferred_type`` of Model Monitor."""

DISTINCT_MAX = 10_000
"""With more distinct texts than this a column is an identifier, and has no distribution."""

_NUMBER_PATTERN = {
    INTEGRAL: r"^\s*[+-]?\d+\s*$",
    FRACTIONAL: r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$",
}


@dataclass(frozen=True)
class Number:
    """A numeric column.

    Attributes
    ----------
    rows, missing, mismatched : int
        All rows; those without a value; those whose text is no number.
    integral : bool
        Whether its type is one of integers.
    values : float64[n]
        Ascending, missing ones left out.
    total, mean, std : float
        Sum, mean, and standard deviation of the population, NaN when empty.
    """

    name: str
    rows: int
    missing: int
    integral: bool
    values: Float64 = field(repr=False)
    total: float
    mean: float
    std: float
    mismatched: int = 0

    @property
    def inferred_type(self) -> str:
        """The word of Model Monitor for its type."""
        return INTEGRAL if self.integral else FRACTIONAL

    @property
    def low(self) -> float:
        """The smallest value; NaN when empty."""
        return float(self.values[0]) if self.values.size else math.nan

    @property
    def high(self) -> float:
        """The largest value; NaN when empty."""
        return float(self.values[-1]) if self.values.size else math.nan

    def quantile(self, share: float) -> float:
        """Return the smallest value that at least a share of the values do not exceed."""
        if not self.values.size:
            return math.nan
        return float(self.values[max(0, math.ceil(share * self.values.size) - 1)])


@dataclass(frozen=True)
class Text:
    """A column of categories.

    Attributes
    ----------
    counts : dict of str to int
        By how often, then by text; empty when there are more than :data:`DISTINCT_MAX`.
    distinct : int
        How many different texts there are.
    """

    name: str
    rows: int
    missing: int
    counts: dict[str, int] = field(repr=False)
    distinct: int
    mismatched: int = 0
    inferred_type: str = STRING


@dataclass(frozen=True)
class Other:
    """A column without a distribution."""

    name: str
    rows: int
    missing: int
    mismatched: int = 0
    inferred_type: str = UNKNOWN


Column = Number | Text | Other


def completeness(column: Column) -> float:
    """Return the share of rows that have a value; 1 of no rows."""
    return 1.0 - column.missing / column.rows if column.rows else 1.0


# ── from Arrow ───────────────────────────────────────────────────────────────────────────────


def columns_of(
    table: pa.Table,
    features: Iterable[str] | None = None,
    expected: Mapping[str, str] | None = None,
) -> dict[str, Column]:
    """Sum up the columns of a table, one after the other.

    Parameters
    ----------
    table : pyarrow.Table
        The window.
    features : iterable of str, optional
        Only these; those the table lacks are left out.
    expected : mapping of str to str, optional
        ``inferred_type`` by name, of the baseline: decides how text is read.

    Examples
    --------
    >>> import pyarrow as pa
    >>> found = columns_of(pa.table({"x": [3, None, 1], "c": ["b", "a", "b"]}))
    >>> found["x"].mean, found["x"].missing, found["c"].counts
    (2.0, 1, {'b': 2, 'a': 1})
    """
    names = (
        table.column_names
        if features is None
        else [n for n in features if n in set(table.column_names)]
    )
    types = {} if expected is None else expected
    return {name: column_of(name, table[name], types.get(name)) for name in names}


def column_of(name: str, column: pa.ChunkedArray, expected: str | None = None) -> Column:
    """Sum up one column."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    textual = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if any(is_kind(kind) for is_kind in textual):
        if expected in _NUMBER_PATTERN:
            return _parsed(name, column, expected)
        return _text(name, column)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        numbers = _number(name, column, integral=True)
        return _as_text(numbers, column) if expected == STRING else numbers
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = _number(name, column, integral=False)
        return _as_text(numbers, column) if expected == STRING else numbers
    return Other(name, len(column), column.null_count)


def _number(name: str, column: pa.ChunkedArray, *, integral: bool, mismatched: int = 0) -> Number:
    import numpy as np

    from featurestore.kernels.drift import ascending, moments

    values = ascending(float64_of(column))  # NaN comes last
    present = int(np.searchsorted(values, np.nan)) if values.size else 0
    values = values[:present]
    out = np.zeros(4)
    moments(values, out)
    total, squares = float(out[0]), float(out[1])
    return Number(
        name,
        len(column),
        len(column) - present - mismatched,
        integral,
        values,
        total,
        total / present if present else math.nan,
        math.sqrt(squares / present) if present else math.nan,
        mismatched,
    )


def float64_of(column: pa.ChunkedArray) -> Float64:
    """Return the values that are not null as a new array of float64, in their order."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    values = np.empty(len(column) - column.null_count)
    at = 0
    for chunk in column.chunks:
        kept = chunk.drop_null() if chunk.null_count else chunk
        if pa.types.is_boolean(kept.type):
            kept = kept.cast(pa.uint8())
        elif not (pa.types.is_integer(kept.type) or pa.types.is_floating(kept.type)):
            kept = pc.cast(kept, pa.float64())
        # By its buffer: Arrow's own to_numpy imports pandas.
        values[at : at + len(kept)] = np.frombuffer(
            kept.buffers()[1], dtype=kept.type.to_pandas_dtype(), count=len(kept) + kept.offset
        )[kept.offset :]
        at += len(kept)
    return values


def _text(name: str, column: pa.ChunkedArray, *, missing: int | None = None) -> Text:
    import pyarrow.compute as pc

    found = pc.value_counts(column.drop_null())
    distinct = len(found)
    counts: dict[str, int] = {}
    if distinct <= DISTINCT_MAX:
        texts, numbers = found.field(0).to_pylist(), found.field(1).to_pylist()
        pairs = zip(map(str, texts), numbers, strict=True)
        counts = dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
    return Text(
        name, len(column), column.null_count if missing is None else missing, counts, distinct
    )


def _as_text(numbers: Number, column: pa.ChunkedArray) -> Text:
    """Return numbers where the baseline has text: categories all the same, and a mismatch."""
    import pyarrow as pa

    text = _text(numbers.name, column.cast(pa.string()), missing=numbers.missing)
    return Text(text.name, text.rows, text.missing, text.counts, text.distinct, text.rows)


def _parsed(name: str, column: pa.ChunkedArray, expected: str) -> Number:
    """Return text where the baseline has numbers: what parses, and how much does not.

    Empty text is missing, as in CSV.  An integer fits a fractional column, not the reverse; a
    fraction in an integral column is a mismatch, and still a number of the distribution.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    present = pc.and_kleene(pc.is_valid(column), pc.not_equal(pc.utf8_trim_whitespace(column), ""))
    text = column.filter(present)
    fits = pc.match_substring_regex(text, _NUMBER_PATTERN[expected])
    parses = pc.match_substring_regex(text, _NUMBER_PATTERN[FRACTIONAL])
    numbers = pc.utf8_ltrim(pc.utf8_trim_whitespace(text.filter(parses)), "+").cast(pa.float64())
    found = _number(name, numbers, integral=expected == INTEGRAL)
    return Number(
        name,
        len(column),
        len(column) - len(text),
        found.integral,
        found.values,
        found.total,
        found.mean,
        found.std,
        len(text) - (pc.sum(fits).as_py() or 0),
    )


def json_number(value: float) -> Any:
    """Return a number as Model Monitor's files write it: text where JSON has no number.

    Examples
    --------
    >>> json_number(0.5), json_number(math.nan), json_number(-math.inf)
    (0.5, 'NaN', '-Infinity')
    """
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def number_in(value: Any) -> float:
    """Return a number that :func:`json_number` has written."""
    return float(value)
