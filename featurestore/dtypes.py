"""Types of features: how they are spelled, what they accept, what is stored of them.

::

      spelling              Python in (check)              physical       Python out (to_python)
      ───────────────────   ────────────────────────────   ────────────   ──────────────────────
      bool                  bool                           bool           bool
      int8 16 32 64         int in range; 3.0              int            int
      float32 float64       float; int if exact            float          float
      string                str                            str            str
      binary                bytes, bytearray, memoryview   bytes          bytes
      timestamp             see event_time                 int, µs        datetime, aware, UTC
      date                  date, "2013-01-01"             int, days      date
      list<any of these>    list, tuple, 1-d ndarray       list, None ok  list
      vector<float32, 128>  the same, of exactly 128       list           list

*Physical* values are what the encodings and the engine see; days and microseconds count from
1970-01-01 UTC.  numpy's scalars are accepted wherever Python's are.

**Only lossless casts.**  A value is stored as it is or refused: ``True`` is not 1, ``"1"`` is not
1, 300 is no int8, 2.5 is no int, and 2**53 + 1 is no float64.  One way back is closed as well: a
float of 2**53 or more is no int, since whatever integer it once was may be rounded already.
A Python float given to a float32 feature is rounded to the nearest (as ``numpy.float32(x)`` does,
Python having no other float), but a *column* of float64 is refused unless every value survives:
there the caller has a type to choose.

**Null is not a value.**  :func:`is_null` says what counts as missing (``None``, ``pandas.NaT``,
``pandas.NA``, ``numpy.datetime64("NaT")``); the caller asks it first.  NaN is a float like others.
"""

from __future__ import annotations

import operator
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from math import isnan
from typing import TYPE_CHECKING, Any, NoReturn

from featurestore.arrays import SHOWN_MAX, shown
from featurestore.errors import InvalidRecord, InvalidSchema, did_you_mean
from featurestore.event_time import to_datetime, to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import tzinfo

    import pyarrow as pa

Physical = bool | int | float | str | bytes | list[Any]
"""A value as the encodings see it; null is a bit beside it."""

VECTOR_LENGTH_MAX = 65_536
"""More components than fit in one record as float32, so the record limit speaks first."""

SAFE_INTEGER_MAX = 2**53 - 1
"""The largest n for which n and n + 1 are different doubles, and so a double surely means n."""

EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
MIN_DAYS = date.min.toordinal() - EPOCH_ORDINAL
MAX_DAYS = date.max.toordinal() - EPOCH_ORDINAL

INT_MIN = {bits: -(2 ** (bits - 1)) for bits in (8, 16, 32, 64)}
INT_MAX = {bits: 2 ** (bits - 1) - 1 for bits in (8, 16, 32, 64)}
_FLOAT32 = struct.Struct("<f")
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NESTED = frozenset({"list", "vector"})
_NOT_AS_STORED = frozenset({"timestamp", "date", "list"})

# What people write for these types elsewhere.
_ELSEWHERE = {
    "boolean": "bool",
    "byte": "int8",
    "short": "int16",
    "int": "int64",
    "integer": "int64",
    "long": "int64",
    "bigint": "int64",
    "integral": "int64",
    "float": "float64",
    "double": "float64",
    "fractional": "float64",
    "half": "float32",
    "str": "string",
    "text": "string",
    "varchar": "string",
    "object": "string",
    "bytes": "binary",
    "blob": "binary",
    "datetime": "timestamp",
    "timestamptz": "timestamp",
    "date32": "date",
    "day": "date",
    "list": "list<int64>",
    "array": "list<int64>",
    "vector": "vector<float32, 128>",
    "embedding": "vector<float32, 128>",
}


@dataclass(frozen=True, slots=True, repr=False)
class DType:
    """The type of a feature.  Usually made by :func:`parse_dtype` or :func:`from_arrow`.

    Attributes
    ----------
    kind : str
        ``"bool"``, ``"int"``, ``"float"``, ``"string"``, ``"binary"``, ``"timestamp"``,
        ``"date"``, ``"list"`` or ``"vector"``.
    bits : int
        Width of an int (8, 16, 32, 64), a float, or a vector's floats (32, 64); else 0.
    element : DType or None
        Type of the elements of a list (any scalar) or a vector (a float).
    length : int
        Number of components of a vector; else 0.

    Examples
    --------
    >>> dtype = parse_dtype("list<int8>")
    >>> dtype.kind, str(dtype.element), dtype.check([1, None], "counts")
    ('list', 'int8', [1, None])
    """

    kind: str
    bits: int = 0
    element: DType | None = None
    length: int = 0

    def __post_init__(self) -> None:
        if not _WELL_FORMED.get(self.kind, _never)(self):
            raise InvalidSchema(
                f"no type has kind={self.kind!r}, bits={self.bits}, element={self.element}, "
                f"length={self.length}; make types with parse_dtype()"
            )

    def __str__(self) -> str:
        if self.kind == "list":
            return f"list<{self.element}>"
        if self.kind == "vector":
            return f"vector<{self.element}, {self.length}>"
        return f"{self.kind}{self.bits or ''}"

    def __repr__(self) -> str:
        return f"parse_dtype({str(self)!r})"

    def to_arrow(self) -> pa.DataType:
        """Return the Arrow type of a column of this type.

        Examples
        --------
        >>> parse_dtype("timestamp").to_arrow()
        TimestampType(timestamp[us, tz=UTC])
        """
        return _arrow_type(self)

    def check(self, value: Any, feature: str, *, tz: str | tzinfo | None = None) -> Physical:
        """Return one value as it is stored.

        Parameters
        ----------
        value : object
            A value that is not null (ask :func:`is_null` first).
        feature : str
            Name of the feature, for the message of an error.
        tz : str or tzinfo, optional
            Zone of timestamps that carry none.

        Returns
        -------
        Physical
            See the table at the head of this module.

        Raises
        ------
        InvalidRecord
            When the value does not fit; :class:`~featurestore.errors.InvalidEventTime` (a kind
            of it) for a timestamp.

        Examples
        --------
        >>> parse_dtype("int8").check(300, "age")
        Traceback (most recent call last):
            ...
        featurestore.errors.InvalidRecord: feature "age" (int8): 300 is outside -128 to 127
        """
        # The path of nearly every value: exactly Python's own type, nothing to convert.
        kind = self.kind
        if type(value) is float:
            if kind == "float" and self.bits == 64:
                return value
        elif type(value) is int:
            if kind == "int" and INT_MIN[self.bits] <= value <= INT_MAX[self.bits]:
                return value
        elif type(value) is str and kind == "string" and value.isascii():
            return value
        return _CHECKS[kind](self, value, feature, tz)

    def to_python(self, physical: Any) -> Any:
        """Return a physical value (or None) as users meet it.

        Parameters
        ----------
        physical : Physical or None
            As :meth:`check` returned it.

        Returns
        -------
        object
            See the table at the head of this module; None for None.

        Raises
        ------
        InvalidRecord
            For days or microseconds outside the years 1 to 9999, which only a damaged store holds.

        Examples
        --------
        >>> parse_dtype("date").to_python(1)
        datetime.date(1970, 1, 2)
        """
        kind = self.kind
        if kind not in _NOT_AS_STORED or physical is None:
            return physical
        if kind == "timestamp":
            return to_datetime(physical)
        if kind == "date":
            return _to_date(physical)
        element = self.element
        if element is None or element.kind not in _NOT_AS_STORED:
            return physical
        return [element.to_python(value) for value in physical]


def _never(_: DType) -> bool:
    return False


def _is_plain(dtype: DType) -> bool:
    return (dtype.bits, dtype.element, dtype.length) == (0, None, 0)


def _is_int(dtype: DType) -> bool:
    return dtype.bits in (8, 16, 32, 64) and (dtype.element, dtype.length) == (None, 0)


def _is_float(dtype: DType) -> bool:
    return dtype.bits in (32, 64) and (dtype.element, dtype.length) == (None, 0)


def _is_list(dtype: DType) -> bool:
    scalar = dtype.element is not None and dtype.element.kind not in _NESTED
    return scalar and (dtype.bits, dtype.length) == (0, 0)


def _is_vector(dtype: DType) -> bool:
    element = dtype.element
    of_floats = element is not None and element.kind == "float" and element.bits == dtype.bits
    return of_floats and 1 <= dtype.length <= VECTOR_LENGTH_MAX


_WELL_FORMED: dict[str, Callable[[DType], bool]] = {
    "bool": _is_plain,
    "int": _is_int,
    "float": _is_float,
    "string": _is_plain,
    "binary": _is_plain,
    "timestamp": _is_plain,
    "date": _is_plain,
    "list": _is_list,
    "vector": _is_vector,
}

SCALARS: dict[str, DType] = {
    str(dtype): dtype
    for dtype in (
        DType("bool"),
        *(DType("int", bits) for bits in (8, 16, 32, 64)),
        *(DType("float", bits) for bits in (32, 64)),
        DType("string"),
        DType("binary"),
        DType("timestamp"),
        DType("date"),
    )
}
"""Every scalar type by its spelling."""


# ── spelling ─────────────────────────────────────────────────────────────────────────────────


def parse_dtype(text: str) -> DType:
    """Return the type spelled `text`.

    Parameters
    ----------
    text : str
        A spelling from the table at the head of this module.  ``vector<128>`` means
        ``vector<float32, 128>``.

    Raises
    ------
    InvalidSchema
        When no type is spelled so.

    Examples
    --------
    >>> str(parse_dtype("vector<128>")), parse_dtype("int64")
    ('vector<float32, 128>', parse_dtype('int64'))
    >>> parse_dtype("double")
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidSchema: 'double' is not a feature type. Did you mean "float64"?
    """
    if not isinstance(text, str):
        raise InvalidSchema(
            f'{shown(text)} is a {type(text).__name__}; give a type as text, such as "int64"'
        )
    spelling = text.replace(" ", "")
    if (scalar := SCALARS.get(spelling)) is not None:
        return scalar
    if match := re.fullmatch(r"list<(\w+)>", spelling):
        element = SCALARS.get(match[1])
        if element is not None:
            return DType("list", element=element)
    if match := re.fullmatch(r"vector<(?:(float32|float64),)?([1-9][0-9]{0,9})>", spelling):
        return _vector(SCALARS[match[1] or "float32"], int(match[2]))
    raise InvalidSchema(
        f"{shown(text)} is not a feature type.{_spelled_like(spelling[:SHOWN_MAX])}"
    )


def _vector(element: DType, length: int) -> DType:
    if length > VECTOR_LENGTH_MAX:
        raise InvalidSchema(f"a vector has at most {VECTOR_LENGTH_MAX} components, not {length}")
    return DType("vector", element.bits, element, length)


def _spelled_like(spelling: str) -> str:
    word = spelling.lower()
    if match := re.fullmatch(r"list<(.*)>", word):
        inner = match[1]
        if inner.startswith(("list", "vector")):
            return " Lists hold scalars; make the inner values features of their own."
        suggestion = _ELSEWHERE.get(inner, inner)
        if suggestion in SCALARS:
            return f' Did you mean "list<{suggestion}>"?'
    suggestion = _ELSEWHERE.get(word, word)
    if suggestion in SCALARS or suggestion != word:
        return f' Did you mean "{suggestion}"?'
    return did_you_mean(word, [*SCALARS, "list<int64>", "vector<float32, 128>"])


# ── null ─────────────────────────────────────────────────────────────────────────────────────

# Asked of every value of every put: the usual types answer by identity.
_NEVER_NULL = frozenset({bool, int, float, str, bytes, datetime, date, list, tuple})


def is_null(value: Any) -> bool:
    """Return whether a Python value means "missing".  A float NaN does not: it is a value.

    Examples
    --------
    >>> is_null(None), is_null(float("nan")), is_null(0), is_null("")
    (True, False, False, False)
    """
    if value is None:
        return True
    given = type(value)
    if given in _NEVER_NULL:
        return False
    # By name, so that pandas and numpy stay unloaded where nobody uses them.
    if given.__name__ in {"NaTType", "NAType"}:
        return True
    return given.__name__ == "datetime64" and str(value) == "NaT"


# ── one value ────────────────────────────────────────────────────────────────────────────────

# Each takes what DType.check takes; reached when the value is not plainly right.


def _refuse(dtype: DType, feature: str, reason: str) -> NoReturn:
    raise InvalidRecord(f'feature "{feature}" ({dtype}): {reason}')


def _refuse_type(dtype: DType, feature: str, value: Any, wanted: str) -> NoReturn:
    _refuse(dtype, feature, f"{shown(value)} is a {type(value).__name__}; give {wanted}")


def _numpy_kind(value: Any) -> str:
    """Return numpy's letter for a scalar of numpy's, or ``""``."""
    if type(value).__module__ != "numpy" or getattr(value, "shape", None) != ():
        return ""
    return str(value.dtype.kind)


def _check_bool(dtype: DType, value: Any, feature: str, _tz: object) -> bool:
    if isinstance(value, bool) or _numpy_kind(value) == "b":
        return bool(value)
    _refuse_type(dtype, feature, value, "True or False")


def _check_int(dtype: DType, value: Any, feature: str, _tz: object) -> int:
    if isinstance(value, float) or _numpy_kind(value) == "f":
        number = _integral(float(value))
        if number is None:
            _refuse(dtype, feature, f"{value} {no_integer(float(value))}")
    else:
        number = _index(value)
        if number is None:
            _refuse_type(dtype, feature, value, "an int")
    low, high = INT_MIN[dtype.bits], INT_MAX[dtype.bits]
    if low <= number <= high:
        return number
    _refuse(dtype, feature, f"{shown(number)} is outside {low} to {high}")


def _index(value: Any) -> int | None:
    """Return an int, Python's or numpy's, as Python's; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return int(operator.index(value))  # int() of a subclass, such as an IntEnum
    except TypeError:
        return None


def _integral(value: float) -> int | None:
    """Return the integer a float surely is, or None."""
    return int(value) if value.is_integer() and abs(value) <= SAFE_INTEGER_MAX else None


def no_integer(value: float) -> str:
    """Say why a float is no integer."""
    if value.is_integer():
        return "is a float beyond 2**53, where floats skip integers; give an int"
    if isnan(value):
        return "is not a whole number; if it means missing, give None"
    return "is not a whole number; round it first"


def _check_float(dtype: DType, value: Any, feature: str, _tz: object) -> float:
    if isinstance(value, float) or _numpy_kind(value) == "f":
        return _fitted_float(dtype, float(value), feature)
    whole = _index(value)
    if whole is None:
        _refuse_type(dtype, feature, value, "a float")
    with suppress(OverflowError):
        number = _fitted_float(dtype, float(whole), feature)
        if number == whole:
            return number
    _refuse(dtype, feature, f"no {dtype} is exactly {shown(whole)}; round it as you mean it")


def _fitted_float(dtype: DType, value: float, feature: str) -> float:
    if dtype.bits == 64:
        return value
    try:
        nearest: float = _FLOAT32.unpack(_FLOAT32.pack(value))[0]
    except OverflowError:
        _refuse(dtype, feature, f"{value} is beyond the largest float32, 3.4e38; use float64")
    return nearest


def _check_string(dtype: DType, value: Any, feature: str, _tz: object) -> str:
    if not isinstance(value, str):
        nan = isinstance(value, float) and isnan(value)
        _refuse_type(dtype, feature, value, "None for missing" if nan else "a str")
    text = str.__str__(value)  # of a subclass (numpy.str_, an enum) the characters, not its name
    try:
        text.encode()
    except UnicodeEncodeError as error:
        _refuse(
            dtype,
            feature,
            f"character {error.start} is half of a surrogate pair, which UTF-8 cannot hold; "
            "decode the text properly",
        )
    return text


def _check_binary(dtype: DType, value: Any, feature: str, _tz: object) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    _refuse_type(dtype, feature, value, "bytes")


def _check_timestamp(_dtype: DType, value: Any, feature: str, tz: str | tzinfo | None) -> int:
    return to_us(value, tz=tz, what=f'feature "{feature}" (timestamp)')


def _check_date(dtype: DType, value: Any, feature: str, _tz: object) -> int:
    if _numpy_kind(value) == "M" and value.dtype.str.endswith("[D]"):
        value = value.item()  # a date, or an int outside its years
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.toordinal() - EPOCH_ORDINAL
    if isinstance(value, str):
        days = text_days(value)
        if days is not None:
            return days
        _refuse(dtype, feature, f'{shown(value)} is no day; write it as "2013-01-01"')
    _refuse_type(dtype, feature, value, 'a datetime.date or text such as "2013-01-01"')


def text_days(text: str) -> int | None:
    """Return the days since the epoch of ``YYYY-MM-DD``; None for any other text."""
    if _DAY.fullmatch(text) is None:
        return None
    try:
        return date.fromisoformat(text).toordinal() - EPOCH_ORDINAL
    except ValueError:
        return None


def _to_date(days: int) -> date:
    try:
        return date.fromordinal(days + EPOCH_ORDINAL)
    except (ValueError, OverflowError):
        raise InvalidRecord(f"day {days} is outside the years 1 to 9999") from None


def _check_list(
    dtype: DType, value: Any, feature: str, tz: str | tzinfo | None
) -> list[Physical | None]:
    element = element_of(dtype)
    elements = _elements(dtype, value, feature)
    if (plain := _plain_elements(element, elements)) is not None:
        return plain
    physical: list[Physical | None] = []
    for item in elements:
        if is_null(item):
            physical.append(None)
        else:
            physical.append(_check_element(dtype, element, item, len(physical), feature, tz))
    return physical


def _check_vector(
    dtype: DType, value: Any, feature: str, tz: str | tzinfo | None
) -> list[Physical]:
    element = element_of(dtype)
    elements = _elements(dtype, value, feature)
    if len(elements) != dtype.length:
        _refuse(dtype, feature, f"{len(elements)} components given, {dtype.length} expected")
    if (plain := _plain_elements(element, elements)) is not None:
        return plain
    physical: list[Physical] = []
    for item in elements:
        if is_null(item):
            _refuse(dtype, feature, f"component {len(physical)} is null; vectors are whole")
        physical.append(_check_element(dtype, element, item, len(physical), feature, tz))
    return physical


def element_of(dtype: DType) -> DType:
    """Return the type of the elements of a list or vector."""
    if dtype.element is None:  # __post_init__ saw to it
        raise AssertionError(dtype)
    return dtype.element


def _elements(dtype: DType, value: Any, feature: str) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 1:
        # numpy's own dates must stay numpy's: tolist() makes plain ints of nanoseconds.
        return list(value) if value.dtype.kind in "mM" else list(value.tolist())
    _refuse_type(dtype, feature, value, "a list, a tuple or a 1-dimensional numpy array")


def _plain_elements(element: DType, elements: Sequence[Any]) -> list[Any] | None:
    """Return elements all plainly right, at a tenth of the price of asking each; else None."""
    given = set(map(type, elements))
    if element.kind == "float" and given == {float}:
        if element.bits == 64:
            return list(elements)
        floats = struct.Struct(f"<{len(elements)}f")
        with suppress(OverflowError):  # one is beyond float32; told by its own check
            return list(floats.unpack(floats.pack(*elements)))
    elif element.kind == "int" and given == {int}:
        if INT_MIN[element.bits] <= min(elements) and max(elements) <= INT_MAX[element.bits]:
            return list(elements)
    elif element.kind == "string" and given == {str} and all(map(str.isascii, elements)):
        return list(elements)
    return None


def _check_element(
    dtype: DType, element: DType, item: Any, place: int, feature: str, tz: str | tzinfo | None
) -> Physical:
    try:
        return element.check(item, feature, tz=tz)
    except InvalidRecord as error:
        _, _, reason = str(error).partition("): ")
        raise type(error)(f'feature "{feature}" ({dtype}): element {place}: {reason}') from None


_CHECKS: dict[str, Callable[[DType, Any, str, Any], Physical]] = {
    "bool": _check_bool,
    "int": _check_int,
    "float": _check_float,
    "string": _check_string,
    "binary": _check_binary,
    "timestamp": _check_timestamp,
    "date": _check_date,
    "list": _check_list,
    "vector": _check_vector,
}


# ── Arrow types ──────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=4096)
def _arrow_type(dtype: DType) -> pa.DataType:
    import pyarrow as pa

    if dtype.kind == "list":
        return pa.list_(_arrow_type(element_of(dtype)))
    if dtype.kind == "vector":
        return pa.list_(_arrow_type(element_of(dtype)), dtype.length)
    if dtype.kind == "timestamp":
        return pa.timestamp("us", tz="UTC")
    return {
        "bool": pa.bool_(),
        "int8": pa.int8(),
        "int16": pa.int16(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "string": pa.string(),
        "binary": pa.binary(),
        "date": pa.date32(),
    }[str(dtype)]


def from_arrow(type: pa.DataType, feature: str) -> DType:  # noqa: A002  (Arrow's own word)
    """Return the feature type that holds every value of an Arrow type.

    Parameters
    ----------
    type : pyarrow.DataType
        Type of a column.  Unsigned integers become the next wider signed ones; dictionaries
        become the type of their values; timestamps of every unit, with or without zone, become
        ``timestamp``; fixed-size lists of floats become vectors.
    feature : str
        Name of the column, for the message of an error.

    Raises
    ------
    InvalidSchema
        For a type without a lossless home, with a hint.

    Examples
    --------
    >>> import pyarrow as pa
    >>> str(from_arrow(pa.dictionary(pa.int8(), pa.large_string()), "origin"))
    'string'
    >>> str(from_arrow(pa.list_(pa.float16(), 3), "embedding"))
    'vector<float32, 3>'
    """
    import pyarrow as pa

    kinds = pa.types
    if kinds.is_dictionary(type) or kinds.is_run_end_encoded(type):
        return from_arrow(type.value_type, feature)
    if isinstance(type, pa.BaseExtensionType):
        return from_arrow(type.storage_type, feature)
    if is_arrow_list(type):
        element = from_arrow(type.value_type, feature)
        if element.kind in _NESTED:
            _refuse_arrow(type, feature, "make the inner lists features of their own")
        if kinds.is_fixed_size_list(type) and element.kind == "float" and type.list_size:
            return _vector(element, type.list_size)
        return DType("list", element=element)
    spelling = scalar_spelling(type)
    if spelling is None:
        _refuse_arrow(type, feature, _ARROW_HINTS.get(_arrow_family(type), "convert the column"))
    return SCALARS[spelling]


def _refuse_arrow(arrow_type: pa.DataType, feature: str, hint: str) -> NoReturn:
    raise InvalidSchema(f'feature "{feature}": no feature type holds {arrow_type}; {hint}')


def is_arrow_list(arrow_type: pa.DataType) -> bool:
    """Return whether an Arrow type is a list of any kind."""
    from pyarrow import types

    return bool(
        types.is_list(arrow_type)
        or types.is_large_list(arrow_type)
        or types.is_fixed_size_list(arrow_type)
        or types.is_list_view(arrow_type)
        or types.is_large_list_view(arrow_type)
    )


def scalar_spelling(arrow_type: pa.DataType) -> str | None:
    """Return the spelling of the type an Arrow scalar type becomes; None if it becomes none."""
    from pyarrow import types

    if types.is_timestamp(arrow_type):
        return "timestamp"
    if types.is_fixed_size_binary(arrow_type):
        return "binary"
    return {
        "bool": "bool",
        "int8": "int8",
        "int16": "int16",
        "int32": "int32",
        "int64": "int64",
        "uint8": "int16",
        "uint16": "int32",
        "uint32": "int64",
        "halffloat": "float32",
        "float": "float32",
        "double": "float64",
        "string": "string",
        "large_string": "string",
        "string_view": "string",
        "binary": "binary",
        "large_binary": "binary",
        "binary_view": "binary",
        "date32[day]": "date",
        "date64[ms]": "date",
    }.get(str(arrow_type))


def _arrow_family(arrow_type: pa.DataType) -> str:
    match = re.match(r"[a-z_]+(?:64)?", str(arrow_type))
    return match[0] if match else ""


_ARROW_HINTS = {
    "uint64": "cast it to int64 if its values stay below 2**63, else to string",
    "decimal": "cast it to float64, to int64 of the smallest unit, or to string",
    "time": "cast it to int64, such as seconds of the day",
    "time64": "cast it to int64, such as seconds of the day",
    "duration": "cast it to int64, and put the unit in the name",
    "month_day_nano_interval": "cast it to int64, and put the unit in the name",
    "struct": "make its fields features of their own",
    "map": "make its entries features, or store it as JSON in a string",
    "null": "it holds nothing but nulls; name its type in features=",
}
