"""Values as text, both ways: on this surface every value is a string, whatever its type.

::

    feature of a group                  FeatureType      ValueAsString
    ─────────────────────────────────   ──────────────   ─────────────────────────────────────────
    int8..64, bool                      Integral         "42", "-7";  a bool is "0" or "1"
    float32, float64                    Fractional       "0.5", "1e-300", "NaN", "Infinity"
    string                              String           itself
    timestamp, date                     String           "2013-01-01T05:00:00Z", "2013-01-01"
    binary                              String           base64
    list<T>                             List (or Set)    ValueAsStringList, an element each
    vector<T, n>                        Vector           ValueAsStringList, n of them

Numbers come back in their shortest form: "007" as "7", "1.50" as "1.5", and "5" of a Fractional
as "5.0"; they are the same numbers.  Of a Set each element is kept once, in the order first seen.

**Event times** come back as they were put, to the letter (``"05:00:00Z"`` and ``"05:00:00.000Z"``
are one moment and two texts).  Inside, a moment is microseconds; so a group made here has one
feature of its own, :data:`TEXT_FEATURE`, that holds the text where it is not the usual one of its
moment.  A record from elsewhere has none, and shows the usual one.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from featurestore.dtypes import DType, element_of
from featurestore.errors import InvalidEventTime, InvalidRecord
from featurestore.event_time import format_us, to_datetime, to_us

#: Begins with what no feature of the API may begin with, so it is nobody else's name.
TEXT_FEATURE = "_event_time_text"

_INTEGRAL = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_FRACTIONAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?", re.ASCII)
_NOT_FINITE = {
    sign + word: value * (-1 if sign == "-" else 1)
    for word, value in (("NaN", math.nan), ("nan", math.nan), ("Infinity", math.inf),
                        ("inf", math.inf))
    for sign in ("", "+", "-")
}  # fmt: skip
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)

Reader = Callable[[str], Any]
Writer = Callable[[Any], str]


class Kind(NamedTuple):
    """What a type of ours is called on this surface.

    Attributes
    ----------
    feature_type : str
        ``Integral``, ``Fractional`` or ``String``.
    collection : str or None
        ``List`` or ``Vector``.
    dimension : int
        Of a vector.
    """

    feature_type: str
    collection: str | None = None
    dimension: int = 0


_TYPES = {"int": "Integral", "bool": "Integral", "float": "Fractional"}


def kind_of(dtype: DType) -> Kind:
    """Return what a type is called.

    Examples
    --------
    >>> from featurestore.dtypes import parse_dtype
    >>> kind_of(parse_dtype("vector<float32, 3>"))
    Kind(feature_type='Fractional', collection='Vector', dimension=3)
    """
    if dtype.kind == "list":
        return Kind(_TYPES.get(element_of(dtype).kind, "String"), "List")
    if dtype.kind == "vector":
        return Kind("Fractional", "Vector", dtype.length)
    return Kind(_TYPES.get(dtype.kind, "String"))


# ── one value ────────────────────────────────────────────────────────────────────────────────


def reader_of(dtype: DType, feature: str) -> Reader:
    """Return what makes a value of a scalar type from its text."""
    wanted = _READERS.get(dtype.kind)

    def read(text: str) -> Any:
        try:
            return text if wanted is None else wanted(text)
        except (ValueError, OverflowError):
            kind = kind_of(dtype).feature_type
            raise InvalidRecord(
                f"Feature value for {feature} does not match its type {kind}: "
                f"{text if len(text) <= 60 else text[:57] + '...'!r}."
            ) from None

    return read


def _read_int(text: str) -> int:
    if _INTEGRAL.fullmatch(text) is None:
        raise ValueError(text)
    return int(text)


def _read_float(text: str) -> float:
    if _FRACTIONAL.fullmatch(text) is None:
        if text not in _NOT_FINITE:
            raise ValueError(text)
        return _NOT_FINITE[text]
    value = float(text)
    if math.isinf(value):
        raise OverflowError(text)
    return value


def _read_bool(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def _read_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(text) from None


#: Text, times and days are read by the engine itself.
_READERS: dict[str, Reader] = {
    "int": _read_int,
    "float": _read_float,
    "bool": _read_bool,
    "binary": _read_bytes,
}


def writer_of(dtype: DType) -> Writer | None:
    """Return what makes text of a value of a scalar type; None where it is text already."""
    return _WRITERS.get(dtype.kind)


def _write_float(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _write_time(value: datetime) -> str:
    return f"{value.replace(tzinfo=None).isoformat()}Z"


def _write_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


_WRITERS: dict[str, Writer] = {
    "int": str,
    "float": _write_float,
    "bool": lambda value: "1" if value else "0",
    "timestamp": _write_time,
    "date": date.isoformat,
    "binary": _write_bytes,
}


# ── event times ──────────────────────────────────────────────────────────────────────────────


def read_event_time(text: str, feature_type: str, feature: str) -> tuple[datetime, str | None]:
    """Return the moment of an event time's text, and the text where it is not the usual one.

    Examples
    --------
    >>> read_event_time("1970-01-01T00:00:01.000Z", "String", "at")[1]
    '1970-01-01T00:00:01.000Z'
    >>> read_event_time("1.5", "Fractional", "at")
    (datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=datetime.timezone.utc), None)
    """
    us = _iso_us(text, feature) if feature_type == "String" else _seconds_us(text, feature)
    usual = write_event_time_us(us, feature_type)
    return to_datetime(us), None if usual == text else text


def _iso_us(text: str, feature: str) -> int:
    if _ISO.fullmatch(text) is None:
        raise InvalidEventTime(
            f"EventTime: feature {feature} must be an ISO-8601 time in UTC, as "
            f"yyyy-MM-dd'T'HH:mm:ssZ or with up to nine digits of fraction; got {text[:60]!r}."
        )
    return to_us(text, what=f"EventTime: feature {feature}")


def _seconds_us(text: str, feature: str) -> int:
    if _FRACTIONAL.fullmatch(text) is None or len(text) > 400:
        raise InvalidEventTime(
            f"EventTime: feature {feature} must be seconds since 1970 as a number; "
            f"got {text[:60]!r}."
        )
    return to_us(Decimal(text), unit="s", what=f"EventTime: feature {feature}")


def write_event_time_us(us: int, feature_type: str) -> str:
    """Return the usual text of a moment.

    Examples
    --------
    >>> write_event_time_us(-500_000, "Fractional"), write_event_time_us(0, "String")
    ('-0.5', '1970-01-01T00:00:00Z')
    """
    if feature_type == "String":
        return format_us(us)
    seconds, rest = divmod(abs(us), 1_000_000)
    fraction = f"{rest:06d}".rstrip("0") or "0"
    return f"{'-' if us < 0 else ''}{seconds}.{fraction}"
