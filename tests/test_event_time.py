"""What a moment is: every way in gives the same microseconds, and what is no moment is refused."""

from __future__ import annotations

import pickle
import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from featurestore import event_time as et
from featurestore.errors import InvalidEventTime, InvalidInput, InvalidRecord
from featurestore.event_time import (
    MAX_US,
    MIN_US,
    NO_EXPIRY,
    column_to_us,
    duration_us,
    expired,
    expires_at,
    format_duration,
    format_us,
    to_datetime,
    to_us,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
ZONES = [
    "UTC",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # clocks change by half an hour
    "Pacific/Apia",  # 2011-12-30 did not happen at all
    "America/Sao_Paulo",  # clocks changed at midnight
    "Africa/Monrovia",  # 44 minutes and 30 seconds behind, until 1972
    "Europe/Dublin",  # winter time is the saving time
]

moments_us = st.integers(MIN_US, MAX_US) | st.sampled_from([MIN_US, MAX_US, -1, 0, 1])
zones = st.sampled_from(ZONES).map(ZoneInfo) | st.integers(-1439, 1439).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)


def moment(us: int) -> datetime:
    return EPOCH + us * MICROSECOND


def reason(value: object, **options: object) -> str:
    with pytest.raises(InvalidEventTime) as caught:
        to_us(value, **options)
    return str(caught.value)


def column_us(array: pa.Array, **options: object) -> list[int | None]:
    times = column_to_us(array, **options)
    assert times.type == pa.timestamp("us", tz="UTC")
    assert isinstance(times, pa.Array)
    times.validate(full=True)
    return times.cast(pa.int64()).to_pylist()


def by_rows(array: pa.Array, **options: object) -> tuple[list[int | None], list[int]]:
    """Convert a column with `to_us`: what `column_to_us` must agree with, and the bad rows."""
    times, bad = [], []
    for row, value in enumerate(array.to_pylist()):
        try:
            times.append(None if value is None else to_us(value, **options))
        except InvalidEventTime:
            times.append(None)
            bad.append(row)
    return times, bad


def assert_column_as_rows(array: pa.Array, rows: pa.Array | None = None, **options: object) -> None:
    """Hold the whole-column path to the one-value path, for good rows and for bad ones."""
    expected, bad = by_rows(array if rows is None else rows, **options)
    if not bad:
        assert column_us(array, **options) == expected
        return
    with pytest.raises(InvalidEventTime) as caught:
        column_to_us(array, **options)
    assert [row for row, _ in caught.value.rows] == bad[:100]


# ── one value ────────────────────────────────────────────────────────────────────────────────


def test_the_limits_are_the_years_1_and_9999() -> None:
    assert format_us(MIN_US) == "0001-01-01T00:00:00Z"
    assert format_us(MAX_US) == "9999-12-31T23:59:59.999999Z"
    assert NO_EXPIRY == 2**63 - 1 > MAX_US


@given(moments_us, zones)
def test_an_aware_datetime_is_its_moment_in_every_zone(us: int, zone: tzinfo) -> None:
    try:
        local = moment(us).astimezone(zone)
    except OverflowError:  # outside the years of a datetime over there
        assume(False)
    assert to_us(local) == us
    assert to_us(local, tz="America/New_York") == us  # its own zone wins


@given(moments_us)
def test_text_and_datetime_and_back_are_one(us: int) -> None:
    assert to_us(to_datetime(us)) == us
    assert to_us(format_us(us)) == us
    assert to_datetime(us).tzinfo is UTC
    assert to_us(moment(us).isoformat(" ")) == us


def test_an_aware_datetime_may_lie_outside_the_years_of_utc() -> None:
    east, west = timezone(timedelta(hours=1)), timezone(timedelta(hours=-1))
    assert "outside the years" in reason(datetime.min.replace(tzinfo=east))
    assert "outside the years" in reason(datetime.max.replace(tzinfo=west))
    assert to_us(datetime.min.replace(tzinfo=west)) == MIN_US + duration_us("1h")
    assert to_us(datetime.max.replace(tzinfo=east)) == MAX_US - duration_us("1h")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01 00:00:00Z", 0),
        ("1970-01-01T05:45:00+05:45", 0),
        ("1970-01-01T05:45:00+0545", 0),
        ("1970-01-01T05:00:00+05", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T05:41:16+05:41:16", 0),
        ("1970-01-01T00:00Z", 0),
        ("1970-01-01T00Z", 0),
        ("1970-01-01T00:00:00.5Z", 500_000),
        ("1970-01-01T00:00:00.000000999999Z", 0),
        ("1970-01-01T00:00:00.1234567891234Z", 123_456),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("1969-12-31T23:59:59.0000001Z", -1_000_000),
        ("0001-01-01T00:00:00Z", MIN_US),
        ("9999-12-31T23:59:59.9999999Z", MAX_US),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
    ],
)
def test_iso_text(text: str, expected: int) -> None:
    assert to_us(text) == expected
    assert column_us(pa.array([text, None])) == [expected, None]


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "1970-01-01", "1970-01-01Z", "19700101T000000Z", "1970-W01-4T00:00:00Z",
        "1970-01-01T00:00:00", "1970-01-01T24:00:00Z", "1970-01-01T23:59:60Z",
        "1970-02-30T00:00:00Z", "1970-13-01T00:00:00Z", "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "10000-01-01T00:00:00Z",
        "-001-01-01T00:00:00Z", "1970-01-01T00:00:00.Z", "1970-01-01T00:00:00,5Z",
        "1970-01-01T00:00:00 Z", " 1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z\n",
        "1970-01-01T00:00:00+24:00", "1970-01-01T00:00:00+05:60", "1970-01-01t00:00:00z",
        "1970-01-01T00:00:00Zulu", "1970-01-01_00:00:00Z", "١٩٧٠-01-01T00:00:00Z",
        "0", "1700000000",
    ],
)  # fmt: skip
def test_text_that_is_no_moment(text: str) -> None:
    assert "event time: " in reason(text)
    with pytest.raises(InvalidEventTime) as caught:
        column_to_us(pa.array(["1970-01-01T00:00:00Z", text]))
    assert [row for row, _ in caught.value.rows] == [1]


@given(
    st.lists(
        st.builds(
            "{}{}{}{}".format,
            st.sampled_from(["2024-02-29", "2023-02-29", "0000-01-01", "0001-01-01", "9999-12-31"]),
            st.sampled_from("T _t"),
            st.sampled_from(
                ["00", "24", "05:00", "05:60", "23:59:59", "23:59:60", "00:00:00.5",
                 "00:00:00.123456", "00:00:00.1234567", "00:00:00.", "0500", "1:02:03"]
            ),
            st.sampled_from(
                ["", "Z", "z", "+05:45", "-0545", "+23:59", "-23:59", "+24:00", "+05", " Z",
                 "+05:60", "+1", "+05:41:16"]
            ),
        ) | st.none(),
        max_size=4,
    ),
    st.none() | st.sampled_from(ZONES),
)  # fmt: skip
def test_a_column_of_text_is_its_rows(texts: list[str | None], tz: str | None) -> None:
    array = pa.array(texts, pa.string())
    assert_column_as_rows(array, tz=tz)
    assert_column_as_rows(
        pa.chunked_array([array, array.dictionary_encode().cast(pa.string())]),
        pa.array(texts * 2, pa.string()),
        tz=tz,
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None is no moment"),
        (pd.NaT, "NaT is no moment"),
        (pd.NA, "<NA> is no moment"),
        (np.datetime64("NaT"), "NaT is no moment"),
        (np.datetime64("NaT", "ns"), "NaT is no moment"),
        (date(2024, 1, 1), "is a day, not a moment"),
        (np.datetime64("2024-01-01"), "is a day, not a moment"),
        (np.datetime64("2024-01"), "is a day, not a moment"),
        (datetime(2024, 1, 1), "has no time zone"),  # noqa: DTZ001
        (pd.Timestamp("2024-01-01"), "has no time zone"),
        (np.datetime64("2024-01-01T00"), "has no time zone"),
        (True, "is a bool"),
        (np.True_, "is a bool"),
        (1_700_000_000, "is a number that does not say of what"),
        (1.5, "is a number that does not say of what"),
        (np.int64(1), "is a number that does not say of what"),
        (b"2024-01-01T00:00:00Z", "is a bytes"),
        ([2024, 1, 1], "is a list"),
        (timedelta(1), "is a timedelta"),
        (1j, "is a complex"),
        (np.timedelta64(1, "s"), "is a timedelta64"),
    ],
)
def test_what_is_no_moment(value: object, words: str) -> None:
    message = reason(value, what="time_hour")
    assert message.startswith("time_hour: ")
    assert words in message


def test_a_tzinfo_without_an_offset_is_no_zone() -> None:
    class Nowhere(tzinfo):
        def utcoffset(self, _: datetime | None) -> None:
            return None

    assert "has no time zone" in reason(datetime(2024, 1, 1, tzinfo=Nowhere()))
    assert "gives no offset" in reason(datetime(2024, 1, 1), tz=Nowhere())  # noqa: DTZ001


# ── zones ────────────────────────────────────────────────────────────────────────────────────


def test_a_naive_time_is_read_in_the_zone_given() -> None:
    naive = datetime(2024, 7, 1, 12)  # noqa: DTZ001
    expected = to_us("2024-07-01T16:00:00Z")
    for tz in ("America/New_York", ZoneInfo("America/New_York"), timezone(timedelta(hours=-4))):
        assert to_us(naive, tz=tz) == expected
        assert to_us("2024-07-01 12:00", tz=tz) == expected
        assert to_us(np.datetime64("2024-07-01T12:00"), tz=tz) == expected
        assert to_us(pd.Timestamp(naive), tz=tz) == expected
        assert column_us(pa.array([naive]), tz=tz) == [expected]


def test_the_machines_own_zone_is_never_used() -> None:
    assert datetime.now().astimezone().utcoffset() == timedelta(hours=5, minutes=45)
    assert to_us("1970-01-01T00:00:00", tz="UTC") == 0
    assert to_us(np.datetime64("1970-01-01T00:00:00"), tz="UTC") == 0


@pytest.mark.parametrize("tz", ["America/New_York", ZoneInfo("America/New_York")])
def test_a_local_time_that_was_skipped_or_shown_twice_is_refused(tz: object) -> None:
    skipped, twice = datetime(2024, 3, 10, 2, 30), datetime(2024, 11, 3, 1, 30)  # noqa: DTZ001
    for fold in (0, 1):
        assert "did not happen" in reason(skipped.replace(fold=fold), tz=tz)
        assert "happened twice" in reason(twice.replace(fold=fold), tz=tz)
    # The hints are the two moments it may be, and are accepted.
    assert '"2024-11-03T01:30:00-04:00" or "2024-11-03T01:30:00-05:00"' in reason(twice, tz=tz)
    # An aware datetime has said which it means.
    hour = to_us(twice.replace(tzinfo=ZoneInfo("America/New_York"), fold=1)) - to_us(
        twice.replace(tzinfo=ZoneInfo("America/New_York"), fold=0)
    )
    assert hour == duration_us("1h")


def test_a_zone_that_must_be_asked_to_localize_is_read_by_its_name() -> None:
    class LikePytz(tzinfo):
        """What `datetime.replace` makes of pytz's zones: the mean time of the 19th century."""

        zone = "America/New_York"

        def utcoffset(self, _: datetime | None) -> timedelta:
            return timedelta(minutes=-296)

    naive = datetime(2024, 7, 1, 12)  # noqa: DTZ001
    assert to_us(naive, tz=LikePytz()) == to_us("2024-07-01T16:00:00Z")


@pytest.mark.parametrize("tz", ["Mars/Olympus", "", "../etc/passwd", "America", 5, "a\0b"])
def test_an_unknown_zone(tz: object) -> None:
    with pytest.raises(InvalidEventTime, match="tz"):
        to_us("2024-01-01T00:00:00", tz=tz)
    with pytest.raises(InvalidEventTime, match="tz"):
        column_to_us(pa.array([datetime(2024, 1, 1)]), tz=tz)  # noqa: DTZ001


@given(
    st.lists(
        st.sampled_from([
            datetime(2024, 3, 10), datetime(2024, 11, 3), datetime(2011, 12, 30),  # noqa: DTZ001
            datetime(2018, 11, 4), datetime(2024, 4, 7), datetime(1972, 1, 7),  # noqa: DTZ001
            datetime(1, 1, 1), datetime(9999, 12, 31), datetime(1883, 11, 18),  # noqa: DTZ001
        ]).flatmap(
            lambda day: st.integers(0, 86_399_999_999).map(lambda us: day + us * MICROSECOND)
        ) | st.datetimes() | st.none(),
        max_size=8,
    ),
    st.sampled_from(ZONES) | st.integers(-1439, 1439).map(
        lambda minutes: timezone(timedelta(minutes=minutes))
    ),
)  # fmt: skip
def test_a_naive_column_is_its_rows(times: list[datetime | None], tz: str | tzinfo) -> None:
    assert_column_as_rows(pa.array(times, pa.timestamp("us")), tz=tz)


@pytest.mark.parametrize("tz", ZONES)
def test_a_day_on_which_clocks_change_is_read_hour_by_hour(tz: str) -> None:
    """Every half hour of the years around changes: the shortcut for quiet days must not leak."""
    start = datetime(2011, 1, 1)  # noqa: DTZ001 - a local clock's
    half_hours = pa.array([start + timedelta(minutes=30 * n) for n in range(48 * 366)])
    expected, bad = by_rows(half_hours, tz=tz)
    refused = et.Refused()
    times = et.read_times(half_hours, refused, tz=tz).cast(pa.int64()).to_pylist()
    assert times == expected
    assert refused.rows == bad
    assert bool(bad) == (tz not in {"UTC", "Asia/Kathmandu", "Africa/Monrovia"})


# ── numbers ──────────────────────────────────────────────────────────────────────────────────


@given(st.integers(-(2**70), 2**70) | moments_us, st.sampled_from(list(NANOSECONDS)))
@example(MAX_US // 1_000_000, "s")
@example(MAX_US // 1_000_000 + 1, "s")
@example(MIN_US // 1_000_000, "s")
@example(-1, "ns")
def test_a_whole_number_counts_its_unit(count: int, unit: str) -> None:
    us = count * NANOSECONDS[unit] // 1_000
    if MIN_US <= us <= MAX_US:
        assert to_us(count, unit=unit) == us
    else:
        assert "outside the years 1 to 9999" in reason(count, unit=unit)
    if -(2**63) <= count < 2**63:
        assert to_us_or_none(np.int64(count), unit) == to_us_or_none(count, unit)
        assert_column_as_rows(pa.array([count, None], pa.int64()), unit=unit)
    if 0 <= count < 2**64:
        assert_column_as_rows(pa.array([None, count], pa.uint64()), unit=unit)


def to_us_or_none(value: object, unit: str) -> int | None:
    try:
        return to_us(value, unit=unit)
    except InvalidEventTime:
        return None


@given(
    st.decimals(-(10**11), 10**11, places=9) | st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from(list(NANOSECONDS)),
)
def test_a_decimal_is_exact(number: Decimal, unit: str) -> None:
    assume(abs(number.adjusted()) < 40)
    numerator, denominator = number.as_integer_ratio()
    us = numerator * NANOSECONDS[unit] // (denominator * 1_000)
    if MIN_US <= us <= MAX_US:
        assert to_us(number, unit=unit) == us
    else:
        assert "outside the years" in reason(number, unit=unit)


@given(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-1e10, 1e10)
    | st.integers(-(10**16), 10**16).map(lambda us: us / 1e6),
    st.sampled_from(list(NANOSECONDS)),
)
@example(1_700_000_000.123456, "s")
@example(0.1 + 0.2, "s")
@example(1e-7, "s")
@example(-1e-7, "s")
@example(253402300799.99997, "s")
@example(8589934592.000001, "s")
@example(8589934591.999999, "s")
@example(9320443499.516869, "s")  # two numbers of microseconds are this one double
@example(1_500.0, "ns")
@example(-1.0, "ns")
def test_a_float_is_the_decimal_it_shows(number: float, unit: str) -> None:
    assert to_us_or_none(number, unit) == to_us_or_none(Decimal(repr(number)), unit)
    assert to_us_or_none(np.float64(number), unit) == to_us_or_none(number, unit)
    assert_column_as_rows(pa.array([number, None]), unit=unit)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), Decimal("nan"), Decimal("-inf")])
def test_a_number_that_is_none(number: float | Decimal) -> None:
    assert "is no moment" in reason(number, unit="s")


@pytest.mark.parametrize(
    "number",
    [Decimal("1e999999999"), Decimal("-1e-999999999"), 10**5000, Decimal("0e999999999"), 1e308],
    ids=lambda number: type(number).__name__,
)
def test_numbers_made_to_take_for_ever(number: float | Decimal) -> None:
    """A few characters from the network must not become a billion digits of work."""
    assert re.search("outside the years|exponent beyond 400", reason(number, unit="s"))


def test_narrow_floats_and_decimal_columns() -> None:
    assert to_us(np.float32(0.5), unit="s") == 500_000
    assert column_us(pa.array([0.5, None], pa.float32()), unit="s") == [500_000, None]
    seconds = pa.array([Decimal("1.000000001"), None, Decimal("-0.000000001")])
    assert column_us(seconds, unit="s") == [1_000_000, None, -1]


@pytest.mark.parametrize("unit", ["S", "seconds", "", "m", 1])
def test_an_unknown_unit(unit: object) -> None:
    assert "unit" in reason(1, unit=unit)


# ── pandas and numpy ─────────────────────────────────────────────────────────────────────────


@given(st.integers(-(2**63) + 1, 2**63 - 1))
@example(-1)
@example(-(2**63) + 1)
@example(2**63 - 1)
def test_nanoseconds_are_floored_before_1970_too(ns: int) -> None:
    us = ns // 1_000
    assert to_us(pd.Timestamp(ns, unit="ns", tz="UTC")) == us
    assert to_us(pd.Timestamp(ns // 2, unit="ns", tz="UTC").tz_convert("Asia/Tokyo")) == ns // 2_000
    assert to_us(np.datetime64(ns, "ns"), tz="UTC") == us
    assert column_us(pa.array([ns, None], pa.timestamp("ns", tz="UTC"))) == [us, None]
    assert column_us(pa.array([None, ns], pa.timestamp("ns")), tz="UTC") == [None, us]


def test_the_smallest_nanosecond_does_not_wrap() -> None:
    smallest = pa.array([-(2**63)]).cast(pa.timestamp("ns", tz="UTC"))
    assert column_us(smallest) == [-(2**63) // 1_000]


@given(
    st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from(["h", "m", "s", "ms", "us", "ps", "as"])
)
@example(1, "as")
@example(-1, "as")
def test_every_unit_of_numpy(count: int, unit: str) -> None:
    per_day = {"h": 24, "m": 1440, "s": 86_400, "ms": 86_400_000, "us": 86_400 * 10**6,
               "ps": 86_400 * 10**12, "as": 86_400 * 10**18}[unit]  # fmt: skip
    us = count * 86_400 * 10**6 // per_day
    value = np.datetime64(count, unit)
    if MIN_US <= us <= MAX_US:
        assert to_us(value, tz="UTC") == us
    else:
        assert "outside the years" in reason(value, tz="UTC")


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_columns_outside_the_years_are_refused_row_by_row(unit: str, zone: str | None) -> None:
    low, high = (limit * 1_000 // NANOSECONDS[unit] for limit in (MIN_US, MAX_US))
    counts = [low - 1, low, 0, None, high, high + 1, 2**63 - 1, -(2**63)]
    array = pa.array(counts, pa.int64()).cast(pa.timestamp(unit, tz=zone))
    with pytest.raises(InvalidEventTime) as caught:
        column_to_us(array, tz="UTC")
    assert [row for row, _ in caught.value.rows] == [0, 5, 6, 7]
    assert "4 of 8 rows do not fit: row 0: " in str(caught.value)
    good = array.slice(1, 4)  # with an offset into its buffers
    per_unit = NANOSECONDS[unit] // 1_000
    assert column_us(good, tz="UTC") == [low * per_unit, 0, None, high * per_unit]


def test_a_datetime64_may_count_in_steps() -> None:
    assert to_us(np.array([2], "datetime64[25s]")[0], tz="UTC") == 50_000_000


def test_pandas_counts_years_past_9999() -> None:
    assert "outside the years" in reason(pd.Timestamp(10**12, unit="s", tz="UTC"))


def test_a_subclass_of_datetime_is_a_datetime() -> None:
    class Stamp(datetime):
        def __sub__(self, other: object) -> object:
            raise AssertionError("its own arithmetic has other rules")

    assert to_us(Stamp(1970, 1, 1, 0, 0, 1, tzinfo=UTC)) == 1_000_000


# ── columns ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (pa.array([datetime(2024, 1, 1)]), "has no time zone; say tz="),  # noqa: DTZ001
        (pa.array([1]), "does not say what it counts"),
        (pa.array([1.5]), "does not say what it counts"),
        (pa.array([date(2024, 1, 1)]), "holds no moments"),
        (pa.array([True]), "holds no moments"),
        (pa.array([[1]]), "holds no moments"),
        (pa.array([b"x"]), "holds no moments"),
        (pa.array([timedelta(1)]), "holds no moments"),
    ],
)
def test_a_column_whose_type_is_no_moment(array: pa.Array, words: str) -> None:
    with pytest.raises(InvalidEventTime) as caught:
        column_to_us(array, what="time_hour")
    assert str(caught.value).startswith("time_hour: ")
    assert words in str(caught.value)
    assert caught.value.rows == []


@given(st.lists(st.none() | moments_us, max_size=6), st.data())
def test_wrappings_come_off(times: list[int | None], data: st.DataObject) -> None:
    array = pa.array(times, pa.int64()).view(pa.timestamp("us", tz="Asia/Tokyo"))
    cut = data.draw(st.integers(0, len(times)))
    for wrapped in (
        array,
        pa.chunked_array([array[:cut], array[cut:]]),
        pa.chunked_array([], array.type) if not times else pa.chunked_array([array]),
        array.dictionary_encode(),
        pa.chunked_array([array[:cut].dictionary_encode(), array[cut:].dictionary_encode()]),
    ):
        assert column_us(wrapped) == times


def test_a_column_of_nothing() -> None:
    assert column_us(pa.nulls(3)) == [None, None, None]
    assert column_us(pa.array([], pa.string())) == []
    assert column_us(pa.array([None, None], pa.timestamp("s")), tz="Asia/Tokyo") == [None, None]


def test_a_hundred_rows_are_told_three_are_shown() -> None:
    with pytest.raises(InvalidEventTime) as caught:
        column_to_us(pa.array(["x"] * 1_000, pa.string()))
    assert [row for row, _ in caught.value.rows] == list(range(100))
    assert "1000 of 1000 rows do not fit" in str(caught.value)
    assert str(caught.value).count("row ") == 3
    assert isinstance(caught.value, InvalidRecord)


# ── durations ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90 * 10**6), ("15m", 900 * 10**6), ("2h", 7_200 * 10**6), ("1d", 86_400 * 10**6),
        ("1w", 7 * 86_400 * 10**6), ("500ms", 500_000), ("10us", 10), ("1h30m", 5_400 * 10**6),
        ("0s", 0), (" 1 h 30 m ", 5_400 * 10**6), ("1m1ms", 60_001_000),
        (timedelta(days=1, microseconds=3), 86_400 * 10**6 + 3), (timedelta(0), 0),
        (pd.Timedelta("1h"), 3_600 * 10**6),
    ],
)  # fmt: skip
def test_durations(text: str | timedelta, expected: int) -> None:
    assert duration_us(text) == expected


@pytest.mark.parametrize(
    "value",
    ["", " ", "90", "s", "-1h", "1.5h", "1h1h", "1m1h", "1 year", "1M", "1H", "1h,", "١h",
     90, 1.5, None, True, timedelta(microseconds=-1), timedelta.max, "9999999999999w", "530000w",
     "9" * 5_000 + "s",
     np.timedelta64(1, "s"), "1h" * 5_000],
)  # fmt: skip
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^max_age: ") as caught:
        duration_us(value, what="max_age")
    assert len(str(caught.value)) < 300


@given(st.integers(0, et.DURATION_MAX_US))
def test_a_duration_reads_as_it_is_written(us: int) -> None:
    assert duration_us(format_duration(us)) == us
    assert duration_us(timedelta(microseconds=us)) == us


# ── showing, expiry, clock ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("us", [MIN_US - 1, MAX_US + 1, NO_EXPIRY, -(2**63)])
def test_what_is_outside_the_years_is_not_shown(us: int) -> None:
    for show in (to_datetime, format_us):
        with pytest.raises(InvalidEventTime, match="outside the years"):
            show(us)


def test_a_fraction_is_shown_only_when_there_is_one() -> None:
    assert format_us(to_us("2013-01-01T05:00:00Z")) == "2013-01-01T05:00:00Z"
    assert format_us(to_us("2013-01-01T05:00:00.25Z")) == "2013-01-01T05:00:00.250000Z"


@given(moments_us, st.integers(1, et.DURATION_MAX_US))
@example(MAX_US - 1, 1)
@example(MAX_US, 1)
@example(MIN_US, et.DURATION_MAX_US)
def test_a_record_is_live_while_the_clock_is_before_its_expiry(us: int, ttl_us: int) -> None:
    end = expires_at(us, ttl_us)
    assert end == (us + ttl_us if us + ttl_us <= MAX_US else NO_EXPIRY)
    assert et.expires_at_column(np.array([us, us]), ttl_us).tolist() == [end, end]
    assert et.expires_at_column(np.array([us]), None).tolist() == [NO_EXPIRY]
    assert not expired(end, end - 1)
    assert expired(end, end)
    assert not expired(expires_at(us, None), MAX_US)


def test_the_clock_counts_microseconds_of_utc() -> None:
    before = datetime.now(UTC)
    now = et.system_clock()
    assert to_us(before) <= now <= to_us(datetime.now(UTC))


def test_errors_cross_processes() -> None:
    with pytest.raises(InvalidEventTime) as caught:
        column_to_us(pa.array(["x"]))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
