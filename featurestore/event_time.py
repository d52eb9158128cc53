"""Time, written once: what a moment is, how it comes in, how it is shown, when a record expires.

Inside, a moment is one number: **int64 microseconds since 1970-01-01T00:00:00Z**.  Names that
hold one end in ``_us``.  Every path (put, ingest, labels of a join, SQL, HTTP) converts at its
door with :func:`to_us` or :func:`column_to_us` and nowhere else::

      comes in as                                      becomes
      ─────────────────────────────────────────────    ──────────────────────────────────────
      datetime, pandas.Timestamp with a zone           that moment
      "2013-01-01T05:00:00Z", "… 05:00:00.5+05:45"     that moment
      numpy.datetime64, or any of those without zone   refused, unless tz= says where
      1356998400                                       refused, unless unit= says what of
      1356998400.25, Decimal("1356998400.25")          the same; the decimal digits are exact
      date, NaT, NaN, None, True                       refused
      before year 1 or after 9999                      refused
      finer than a microsecond                         floored, before 1970 too

A local time that the clocks skipped, or showed twice, names no single moment: with ``tz=`` it is
refused rather than guessed.  (An aware datetime has said what it means with its ``fold``.)

Flooring, not rounding: a record may be dated a hair early, never late, so that an event cannot
move past the label which should have seen it.

The expiry rule lives here as well, because every path must agree on its boundary::

      event_time            expires_at = event_time + ttl
      ───┼──────────────────────┼───────────────▶ clock
         │  live                │  expired
                        clock == expires_at is expired
"""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from featurestore.arrays import Refused, plain_array, shown, without_rows
from featurestore.errors import InvalidEventTime, InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Clock = Callable[[], int]
"""Microseconds since the epoch, now.  Injected everywhere, so that tests own the time."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US


def _since_epoch_us(aware: datetime) -> int:
    # Integer arithmetic on the parts: exact, and three times as fast as `delta // microsecond`.
    delta = aware - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


MIN_US = _since_epoch_us(datetime.min.replace(tzinfo=UTC))
"""0001-01-01T00:00:00Z, the earliest moment accepted."""

MAX_US = _since_epoch_us(datetime.max.replace(tzinfo=UTC))
"""9999-12-31T23:59:59.999999Z, the latest."""

NO_EXPIRY = 2**63 - 1
"""``expires_at`` of a record without TTL.  Later than any clock, so it needs no special case."""

# A few characters such as 1e-999999999 would otherwise be worked out to a billion digits.
DECIMAL_EXPONENT_MAX = 400

# Microseconds in one unit of a number, as (multiplier, divisor).
_UNITS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
_NUMPY_UNITS = {
    "h": (3_600_000_000, 1),
    "m": (60_000_000, 1),
    **_UNITS,
    "ps": (1, 10**6),
    "fs": (1, 10**9),
    "as": (1, 10**12),
}

_ISO_8601 = re.compile(
    r"(?P<local>\d{4}-\d\d-\d\d[T ]\d\d(?::\d\d(?::\d\d(?:\.\d+)?)?)?)"
    r"(?P<zone>Z|[+-]\d\d(?::?[0-5]\d(?::[0-5]\d)?)?)?",
    re.ASCII,
)

_DURATION = re.compile(
    r"(?:(\d{1,20})\s*w\s*)?(?:(\d{1,20})\s*d\s*)?(?:(\d{1,20})\s*h\s*)?(?:(\d{1,20})\s*m(?!s)\s*)?"
    r"(?:(\d{1,20})\s*s\s*)?(?:(\d{1,20})\s*ms\s*)?(?:(\d{1,20})\s*us\s*)?",
    re.ASCII,
)
_DURATION_UNITS = {
    "w": 7 * DAY_US,
    "d": DAY_US,
    "h": 3_600 * SECOND_US,
    "m": 60 * SECOND_US,
    "s": SECOND_US,
    "ms": 1_000,
    "us": 1,
}
# The longest distance between two moments; a sum of a moment and a duration stays in int64.
DURATION_MAX_US = MAX_US - MIN_US

_AWARE_HINT = 'give it a zone, as in "2013-01-01T05:00:00Z", or say tz='


class _Refusal(Exception):  # control flow inside this module, never seen outside
    """Why one value is no moment; the caller knows which value of what it was."""


def system_clock() -> int:
    """Return the microseconds since the epoch by this machine's clock.

    Examples
    --------
    >>> MIN_US < system_clock() < MAX_US
    True
    """
    return time.time_ns() // 1_000


# ── one value ────────────────────────────────────────────────────────────────────────────────


def to_us(
    value: Any,
    *,
    tz: str | tzinfo | None = None,
    unit: str | None = None,
    what: str = "event time",
) -> int:
    """Return a moment as microseconds since the epoch.

    Parameters
    ----------
    value : datetime, str, numpy.datetime64, int, float or Decimal
        See the table at the head of this module.
    tz : str or tzinfo, optional
        Zone of values that carry none, such as ``"America/New_York"``.
    unit : {"s", "ms", "us", "ns"}, optional
        What numbers count, from the epoch.
    what : str
        What the value is, for the message of an error.

    Returns
    -------
    int
        Microseconds since the epoch, UTC, floored; ``MIN_US`` to ``MAX_US``.

    Raises
    ------
    InvalidEventTime
        When the value names no single moment in the years 1 to 9999.

    Examples
    --------
    >>> to_us("1970-01-01T00:00:01.5Z")
    1500000
    >>> to_us(datetime(1970, 1, 1, 9, 0, 1), tz="Asia/Tokyo")
    1000000
    >>> to_us(-0.0000005, unit="s")
    -1
    """
    # The path of nearly every put.
    if type(value) is datetime and value.tzinfo is not None:
        try:
            delta = value - EPOCH
        except TypeError:  # its tzinfo gives no offset; told below
            pass
        else:
            us = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
            if MIN_US <= us <= MAX_US:
                return us
    try:
        return _moment_us(value, _zone(tz), _checked_unit(unit))
    except _Refusal as refusal:
        raise InvalidEventTime(f"{what}: {refusal}") from None


def _moment_us(value: Any, zone: tzinfo | None, unit: str | None) -> int:
    """Return `value` as microseconds, whatever its type; raise `_Refusal` with the reason."""
    if isinstance(value, str):
        return _text_us(value, zone)
    if value is None or type(value).__name__ in {"NaTType", "NAType"}:
        raise _Refusal(f"{value} is no moment; every record has an event time")
    if isinstance(value, datetime):
        return _datetime_us(_plain_datetime(value), zone)
    if isinstance(value, date):
        raise _Refusal(
            f"{value} is a day, not a moment; say which moment of it, "
            f'as in "{value.isoformat()}T00:00:00Z"'
        )
    if isinstance(value, bool):
        raise _Refusal(f"{value} is a bool; give a datetime with a zone")
    if type(value).__name__ == "datetime64":
        return _datetime64_us(value, zone)
    return _number_us(value, unit)


def _plain_datetime(value: datetime) -> datetime:
    """Return a datetime of the standard library; its subclasses' arithmetic has other rules.

    A pandas.Timestamp also holds nanoseconds of the microsecond: leaving them off floors.
    """
    if type(value) is datetime:
        return value
    v = value
    try:
        return datetime(
            v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo, fold=v.fold
        )
    except (ValueError, OverflowError):  # pandas counts years past 9999
        raise _out_of_range(value) from None


def _datetime_us(value: datetime, zone: tzinfo | None) -> int:
    if value.utcoffset() is None:
        if zone is None:
            raise _Refusal(f"{value.isoformat()} has no time zone; {_AWARE_HINT}")
        value = _localized(value, zone)
    return _in_range(_since_epoch_us(value), value)


def _localized(naive: datetime, zone: tzinfo) -> datetime:
    """Return the one moment at which the clocks of `zone` showed this, or refuse."""
    first = naive.replace(tzinfo=zone, fold=0)
    second = naive.replace(tzinfo=zone, fold=1)
    offset_first, offset_second = first.utcoffset(), second.utcoffset()
    if offset_first is None or offset_second is None:
        raise _Refusal(f"the zone {zone} gives no offset for {naive.isoformat()}")
    if offset_first == offset_second:
        return first
    fate = "happened twice" if offset_first > offset_second else "did not happen"
    raise _Refusal(
        f"{naive.isoformat()} {fate} in {zone}, where the clocks were changed; "
        "give it with its offset, as in "
        f'"{first.isoformat()}" or "{second.isoformat()}"'
    )


def _text_us(text: str, zone: tzinfo | None) -> int:
    match = _ISO_8601.fullmatch(text)
    if match is None:
        raise _Refusal(
            f"{shown(text)} is not an ISO-8601 moment; write it as "
            '"2013-01-01T05:00:00Z" or "2013-01-01 05:00:00.25+05:45"'
        )
    try:
        moment = datetime.fromisoformat(text)  # drops what is finer than a microsecond: a floor
    except ValueError as error:
        raise _Refusal(f"{shown(text)} is no moment of the calendar: {error}") from None
    if match["zone"] is None and zone is None:
        raise _Refusal(f"{shown(text)} has no time zone; {_AWARE_HINT}")
    return _datetime_us(moment, zone)


def _datetime64_us(value: Any, zone: tzinfo | None) -> int:
    import numpy as np

    if np.isnat(value):
        raise _Refusal("NaT is no moment; every record has an event time")
    step, steps = np.datetime_data(value.dtype)
    if step not in _NUMPY_UNITS:
        raise _Refusal(f"{value} is a day, not a moment; give it with hours and a zone")
    # In Python's integers: numpy's own casts truncate, and wrap around.
    multiplier, divisor = _NUMPY_UNITS[step]
    us = int(value.astype(np.int64)) * steps * multiplier // divisor
    return _datetime_us(to_datetime(_in_range(us, value)).replace(tzinfo=None), zone)


def _number_us(value: Any, unit: str | None) -> int:
    number = _exact_number(value)
    if number is None:
        raise _Refusal(
            f"{shown(value)} is a {type(value).__name__}; give a datetime with a zone, "
            'or text such as "2013-01-01T05:00:00Z"'
        )
    if unit is None:
        raise _Refusal(
            f"{shown(value)} is a number that does not say of what; give a datetime with a zone, "
            'or unit="s", "ms", "us" or "ns" where the call takes one'
        )
    multiplier, divisor = _UNITS[unit]
    if isinstance(number, Decimal):
        if not number.is_finite():
            raise _Refusal(f"{value} is no moment; every record has an event time")
        if abs(number.adjusted()) > DECIMAL_EXPONENT_MAX:
            raise _Refusal(f"{shown(value)} has an exponent beyond {DECIMAL_EXPONENT_MAX}")
        number, denominator = number.as_integer_ratio()
        divisor *= denominator
    us = number * multiplier // divisor
    if MIN_US <= us <= MAX_US:
        return us
    raise _out_of_range(f"{shown(value)} {unit}")


def _exact_number(value: Any) -> int | Decimal | None:
    """Return the number as written: 0.1 is one tenth, not the double nearest to it."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, float):
        return Decimal(float.__repr__(value))
    if type(value).__name__ in {"float16", "float32"}:
        return Decimal(repr(float(value)))
    try:
        return int(operator.index(value))  # int, and numpy's integers
    except TypeError:
        return None


def _in_range(us: int, value: object) -> int:
    if MIN_US <= us <= MAX_US:
        return us
    raise _out_of_range(value)


def _out_of_range(value: object) -> _Refusal:
    return _Refusal(f"{value} is outside the years 1 to 9999")


def _checked_unit(unit: str | None) -> str | None:
    if unit is None or unit in _UNITS:
        return unit
    raise InvalidEventTime(f'unit {unit!r} is unknown; use "s", "ms", "us" or "ns"')


def _zone(tz: str | tzinfo | None) -> tzinfo | None:
    if tz is None:
        return None
    # pytz's zones need a call of their own to localize; by name they are the standard library's.
    name = tz if isinstance(tz, str) else getattr(tz, "zone", None)
    if isinstance(name, str):
        return _named_zone(name)
    if isinstance(tz, tzinfo):
        return tz
    raise InvalidEventTime(f"tz is a {type(tz).__name__}; give a name or a tzinfo")


@lru_cache(maxsize=256)
def _named_zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, malformed, a folder of the database
        raise InvalidEventTime(
            f'tz "{name}" is no time zone of this machine; use a name such as '
            '"America/New_York" or "UTC" (where the system has no zones, pip install tzdata)'
        ) from None


# ── a column ─────────────────────────────────────────────────────────────────────────────────


def column_to_us(
    array: pa.Array | pa.ChunkedArray,
    *,
    tz: str | tzinfo | None = None,
    unit: str | None = None,
    what: str = "event time",
) -> pa.Array:
    """Return a column of moments as ``timestamp("us", tz="UTC")``; nulls stay null.

    The rules are those of :func:`to_us`, row by row.

    Parameters
    ----------
    array : pyarrow.Array or pyarrow.ChunkedArray
        Timestamps of any unit, with or without zone; ISO-8601 text; numbers with `unit`.
    tz, unit, what
        As for :func:`to_us`.

    Returns
    -------
    pyarrow.Array
        One chunk of ``timestamp("us", tz="UTC")``, as long as `array`.

    Raises
    ------
    InvalidEventTime
        When the type holds no moments, or for rows that name none; ``rows`` has the first 100.

    Examples
    --------
    >>> import pyarrow as pa
    >>> column_to_us(pa.array(["1970-01-01T00:00:00.000007Z", None])).cast("int64").to_pylist()
    [7, None]
    """
    refused = Refused()
    times = read_times(array, refused, tz=tz, unit=unit, what=what)
    if refused:
        raise InvalidEventTime(f"{what}: {refused.summary(len(times))}", rows=refused.first())
    return times


def read_times(
    array: pa.Array | pa.ChunkedArray,
    refused: Refused,
    *,
    tz: str | tzinfo | None = None,
    unit: str | None = None,
    what: str = "event time",
) -> pa.Array:
    """Do the work of :func:`column_to_us`, but collect bad rows in `refused` and make them null.

    Raises
    ------
    InvalidEventTime
        Only when the whole column cannot hold moments: by its type, or for want of tz or unit.
    """
    import pyarrow as pa

    try:
        times = _column_us(plain_array(array), _zone(tz), _checked_unit(unit), refused)
    except _Refusal as refusal:
        raise InvalidEventTime(f"{what}: {refusal}") from None
    return times.view(pa.timestamp("us", tz="UTC"))


def _column_us(
    array: pa.Array, zone: tzinfo | None, unit: str | None, refused: Refused
) -> pa.Array:
    """Return any column as int64 microseconds; raise `_Refusal` when its type is no good."""
    import pyarrow as pa

    kinds, kind = pa.types, array.type
    if kinds.is_null(kind):
        return pa.nulls(len(array), pa.int64())
    if kinds.is_timestamp(kind):
        return _timestamps_us(array, zone, refused)
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind):
        return _texts_us(array, zone, refused)
    if kinds.is_integer(kind):
        return _integers_us(array, _needed_unit(kind, unit), refused)
    if kinds.is_floating(kind):
        return _floats_us(array, _needed_unit(kind, unit), refused)
    if kinds.is_decimal(kind):
        return _each_us(array, None, _needed_unit(kind, unit), refused)
    raise _Refusal(
        f"a column of {kind} holds no moments; give timestamps with a zone, "
        'or text such as "2013-01-01T05:00:00Z"'
    )


def _needed_unit(kind: pa.DataType, unit: str | None) -> str:
    if unit is None:
        raise _Refusal(
            f"a column of {kind} does not say what it counts; "
            'give timestamps with a zone, or unit="s", "ms", "us" or "ns"'
        )
    return unit


def _each_us(array: pa.Array, zone: tzinfo | None, unit: str | None, refused: Refused) -> pa.Array:
    """Convert row by row: the slow path that gives every other path its meaning."""
    import pyarrow as pa

    times: list[int | None] = []
    for row, value in enumerate(array.to_pylist()):
        try:
            times.append(None if value is None else _moment_us(value, zone, unit))
        except _Refusal as refusal:
            times.append(None)
            refused.add_row(row, str(refusal))
    return pa.array(times, pa.int64())


def _timestamps_us(array: pa.Array, zone: tzinfo | None, refused: Refused) -> pa.Array:
    import pyarrow as pa

    if array.type.tz is None and zone is None:
        raise _Refusal(
            f"a column of {array.type} has no time zone; say tz=, "
            'such as tz="UTC" or tz="America/New_York"'
        )
    times = _integers_us(array.view(pa.int64()), array.type.unit, refused)
    return times if array.type.tz is not None else _localized_us(times, zone, refused)


def _texts_us(array: pa.Array, zone: tzinfo | None, refused: Refused) -> pa.Array:
    import pyarrow as pa

    # Arrow reads the usual spellings of a whole column at once; what it cannot read (more than
    # six digits of fraction, odd rows) goes the slow way, which also knows the reasons.
    texts = array.cast(pa.large_string())
    for naive in (False, True) if zone is not None else (False,):
        try:
            parsed = texts.cast(pa.timestamp("us", tz=None if naive else "UTC"))
        except pa.ArrowInvalid:
            continue
        times = _integers_us(parsed.view(pa.int64()), "us", refused)
        return _localized_us(times, zone, refused) if naive else times
    return _each_us(array, zone, None, refused)


def _integers_us(array: pa.Array, unit: str, refused: Refused) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    multiplier, divisor = _UNITS[unit]
    low = max(-(-MIN_US * divisor // multiplier), -(2**63))
    high = min((MAX_US * divisor + divisor - 1) // multiplier, 2**63 - 1)
    array = without_rows(
        array,
        pc.or_(_below(array, low), _above(array, high)),
        refused,
        lambda value: str(_out_of_range(f"{value} {unit}")),
    ).cast(pa.int64())
    if divisor == 1:
        return pc.multiply(array, pa.scalar(multiplier, pa.int64()))
    # Arrow divides towards zero: step down where something was left below it.
    quotient = pc.divide(array, divisor)
    rest = pc.subtract(array, pc.multiply(quotient, divisor))
    return pc.subtract(quotient, pc.less(rest, 0).cast(pa.int64()))


def _floats_us(array: pa.Array, unit: str, refused: Refused) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    multiplier, divisor = _UNITS[unit]
    values = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    valid = np.asarray(array.is_valid())
    # A double's shortest decimal is found without writing it out where whole microseconds give
    # the double back and doubles lie closer than microseconds, so that no other number of
    # microseconds could: |value| < 2**33 counted in seconds.
    with np.errstate(invalid="ignore", over="ignore"):
        counts = np.rint(values * multiplier)
        exact = valid & (counts / multiplier == values) & (np.abs(counts) < 2**33 * 1e6)
    if divisor != 1:
        exact = np.zeros_like(exact)
    times = np.where(exact, counts, 0.0).astype(np.int64)
    fine = exact.copy()
    for row in np.flatnonzero(valid & ~exact).tolist():
        try:
            times[row] = _number_us(float(values[row]), unit)
            fine[row] = True
        except _Refusal as refusal:
            refused.add_row(row, str(refusal))
    return pa.array(times, mask=~fine)


def _localized_us(times: pa.Array, zone: tzinfo | None, refused: Refused) -> pa.Array:
    """Read microseconds of a local clock as moments.

    One truth with :func:`_localized`: the zone is asked the same questions, but once for each
    day on which its clocks were left alone.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if zone is None or zone is UTC:
        return times
    valid = np.asarray(times.is_valid())
    if not valid.any():
        return times
    local = times.fill_null(pc.min(times)).to_numpy()
    day_first = int(local.min()) // DAY_US
    day_of_row = local // DAY_US - day_first  # below 3,652,059: there are no more days
    shift = np.zeros(int(day_of_row.max()) + 1, np.int64)
    changed = np.zeros(len(shift), np.bool_)
    shift[day_of_row] = 1
    for day in np.flatnonzero(shift).tolist():
        offset_us = _offset_us_of_day(day_first + day, zone)
        changed[day], shift[day] = offset_us is None, offset_us or 0
    moments = local - shift[day_of_row]
    fine = valid.copy()
    odd = changed[day_of_row] | (moments < MIN_US) | (moments > MAX_US)
    for row in np.flatnonzero(valid & odd).tolist():
        try:
            moments[row] = _datetime_us(to_datetime(int(local[row])).replace(tzinfo=None), zone)
        except _Refusal as refusal:
            fine[row] = False
            refused.add_row(row, str(refusal))
    return pa.array(moments, mask=~fine)


def _offset_us_of_day(day: int, zone: tzinfo) -> int | None:
    """Return the zone's offset all through a local day, or None if its clocks were changed.

    The day's first and last instants tell, each asked for both answers: no zone of the database
    has changed its clocks twice within three days.
    """
    midnight = to_datetime(day * DAY_US).replace(tzinfo=zone)
    last = midnight.replace(hour=23, minute=59, second=59, microsecond=999_999)
    asked = (midnight, midnight.replace(fold=1), last, last.replace(fold=1))
    offset, *others = {moment.utcoffset() for moment in asked}
    if others or offset is None:
        return None
    return offset // timedelta(microseconds=1)


def _below(array: pa.Array, limit: int) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_unsigned_integer(array.type):
        return pc.less(array, array)  # never, whatever the limit: it is not above zero
    return pc.less(array.cast(pa.int64()), limit)


def _above(array: pa.Array, limit: int) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_uint64(array.type):
        return pc.greater(array, pa.scalar(limit, pa.uint64()))
    return pc.greater(array.cast(pa.int64()), limit)


# ── durations ────────────────────────────────────────────────────────────────────────────────


def duration_us(value: str | timedelta, *, what: str = "duration") -> int:
    """Return a length of time in microseconds.

    Parameters
    ----------
    value : str or timedelta
        ``"90s"``, ``"15m"``, ``"2h"``, ``"1d"``, ``"1w"``, ``"500ms"``, ``"10us"``, or several
        from large to small: ``"1h30m"``.
    what : str
        What the value is, for the message of an error.

    Returns
    -------
    int
        Microseconds, zero or more.

    Raises
    ------
    InvalidInput
        For a number without unit, a negative length, unknown text, or more than 9999 years.

    Examples
    --------
    >>> duration_us("1h30m")
    5400000000
    >>> duration_us(timedelta(milliseconds=2))
    2000
    """
    if isinstance(value, timedelta):
        us = (value.days * 86_400 + value.seconds) * SECOND_US + value.microseconds
        if us < 0:
            raise InvalidInput(f"{what}: {value} is negative; it must be zero or more")
    elif isinstance(value, str):
        us = _duration_text_us(value, what)
    else:
        raise InvalidInput(
            f"{what}: {shown(value)} is a {type(value).__name__} and does not say its unit; "
            'write "90s", "15m", "2h", "1d" or a timedelta'
        )
    if us > DURATION_MAX_US:
        raise InvalidInput(f"{what}: {value} is longer than 9998 years")
    return us


def _duration_text_us(text: str, what: str) -> int:
    match = _DURATION.fullmatch(text.strip())
    counts = match.groups() if match else ()
    if not any(counts):
        raise InvalidInput(
            f"{what}: {shown(text)} is no duration; write whole numbers with w, d, h, m, s, ms "
            'or us, from large to small, as in "90s", "2h" or "1h30m"'
        )
    pairs = zip(counts, _DURATION_UNITS.values(), strict=True)
    return sum(int(count) * unit_us for count, unit_us in pairs if count)


def format_duration(us: int) -> str:
    """Return a duration as :func:`duration_us` reads it.

    Examples
    --------
    >>> format_duration(5_400_000_000), format_duration(0)
    ('1h30m', '0s')
    """
    parts = []
    rest = us
    for unit, unit_us in _DURATION_UNITS.items():
        count, rest = divmod(rest, unit_us)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


# ── showing a moment ─────────────────────────────────────────────────────────────────────────


def to_datetime(us: int) -> datetime:
    """Return a moment as an aware datetime in UTC.

    Raises
    ------
    InvalidEventTime
        When `us` is outside ``MIN_US`` to ``MAX_US``, as ``NO_EXPIRY`` is.

    Examples
    --------
    >>> to_datetime(1_500_000)
    datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=datetime.timezone.utc)
    """
    try:
        return EPOCH + timedelta(microseconds=us)
    except OverflowError:
        raise InvalidEventTime(f"{us} µs is outside the years 1 to 9999") from None


def format_us(us: int) -> str:
    """Return a moment as ISO-8601 text in UTC, with a fraction only when there is one.

    Examples
    --------
    >>> format_us(0), format_us(-1)
    ('1970-01-01T00:00:00Z', '1969-12-31T23:59:59.999999Z')
    """
    return f"{to_datetime(us).replace(tzinfo=None).isoformat()}Z"


# ── expiry ───────────────────────────────────────────────────────────────────────────────────


def expires_at(event_time_us: int, ttl_us: int | None) -> int:
    """Return when a record stops being live: its event time plus its TTL, or ``NO_EXPIRY``.

    A moment after the year 9999 is never: there is no clock that reaches it.

    Examples
    --------
    >>> expires_at(100, 5), expires_at(100, None) == NO_EXPIRY
    (105, True)
    """
    if ttl_us is None or event_time_us > MAX_US - ttl_us:
        return NO_EXPIRY
    return event_time_us + ttl_us


def expires_at_column(event_time_us: NDArray[np.int64], ttl_us: int | None) -> NDArray[np.int64]:
    """Return :func:`expires_at` of each of many event times, int64 microseconds."""
    import numpy as np

    if ttl_us is None or ttl_us > MAX_US - MIN_US:
        return np.full(len(event_time_us), NO_EXPIRY, np.int64)
    return np.where(event_time_us > MAX_US - ttl_us, NO_EXPIRY, event_time_us + ttl_us)


def expired(expires_at_us: int, clock_us: int) -> bool:
    """Return whether a record has expired by this clock.  The one place that knows the boundary.

    Examples
    --------
    >>> expired(105, 104), expired(105, 105), expired(NO_EXPIRY, MAX_US)
    (False, True, False)
    """
    return clock_us >= expires_at_us
