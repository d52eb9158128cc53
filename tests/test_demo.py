"""The demo: times that agree, groups that do not leak, and a table that says what it promises.

Two weeks of the flights go the whole way in the small tests; the whole year goes it once, because
the ordering of the table is a claim about the year.
"""

from __future__ import annotations

import bisect
import io
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

import featurestore as fs
from featurestore import demo
from featurestore.demo import flights, groups, story
from featurestore.demo.screen import Screen
from featurestore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIDNIGHT = datetime(2013, 3, 4, 5, tzinfo=UTC)  # in New York; the clocks change within the weeks
TWO_WEEKS = (MIDNIGHT, MIDNIGHT + timedelta(weeks=2))
LAST_DAYS = MIDNIGHT + timedelta(days=10)


@pytest.fixture(scope="module")
def year() -> flights.Year:
    return flights.read()


@pytest.fixture(scope="module")
def weeks(year: flights.Year) -> flights.Year:
    return year.between(*TWO_WEEKS)


@pytest.fixture(scope="module")
def told(
    weeks: flights.Year, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[fs.FeatureStore, story.Outcome, str]]:
    """Tell the story of two weeks; give the store, what was found and what was printed."""
    now = weeks.end()
    with fs.open(tmp_path_factory.mktemp("demo") / "store", clock=lambda: now) as store:
        printed = io.StringIO()
        show = Screen(Console(file=printed, width=80))
        yield store, story.tell(store, weeks, show, LAST_DAYS), printed.getvalue()


def rows_of(outcome: story.Outcome, name: str) -> int:
    (step,) = (step for step in outcome.steps if step.name == name)
    return step.rows


# ── times ────────────────────────────────────────────────────────────────────────────────────


def test_the_data_is_all_there(year: flights.Year) -> None:
    counts = year.flights.num_rows, year.weather.num_rows, year.planes.num_rows
    assert counts == (336_776, 26_115, 3_322)
    assert year.rows == sum(counts)


def test_new_york_is_converted_as_pandas_converts_it() -> None:
    hours = np.arange("2013-01-01T00", "2014-01-02T00", dtype="datetime64[h]")
    unclear = {np.datetime64("2013-03-10T02"), np.datetime64("2013-11-03T01")}
    local = np.array([hour for hour in hours if hour not in unclear]).astype("datetime64[m]") + 17
    expected = pd.DatetimeIndex(local).tz_localize("America/New_York").tz_convert("UTC")
    utc = flights.local_to_utc(local)
    np.testing.assert_array_equal(utc, expected.tz_localize(None).to_numpy())
    np.testing.assert_array_equal(flights.utc_to_local(utc), local)


@pytest.mark.parametrize("unclear", ["2013-03-10T02:30", "2013-11-03T01:30"])
def test_a_local_time_that_is_no_single_moment_is_refused(unclear: str) -> None:
    with pytest.raises(InvalidInput, match="skipped or shown twice"):
        flights.local_to_utc(np.array([unclear], dtype="datetime64[m]"))


def raw_flights(**changes: list[Any]) -> pa.Table:
    """Three flights as the file has them: one to time, one past midnight, one cancelled."""
    columns: dict[str, Any] = {
        "year": [2013, 2013, 2013],
        "month": [1, 7, 7],
        "day": [1, 31, 31],
        "dep_time": [517, 2400, None],
        "sched_dep_time": [515, 2359, 600],
        "dep_delay": [2, 1, None],
        "arr_delay": [11, 15, None],
        "carrier": ["UA", "B6", "AA"],
        "flight": [1545, 739, 1],
        "tailnum": ["N14228", "N618JB", None],
        "origin": ["EWR", "JFK", "LGA"],
        "dest": ["IAH", "PSE", "ORD"],
        "distance": [1400, 1617, 733],
        "time_hour": [
            datetime(2013, 1, 1, 10, tzinfo=UTC),
            datetime(2013, 8, 1, 3, tzinfo=UTC),
            datetime(2013, 7, 31, 10, tzinfo=UTC),
        ],
    }
    table = pa.table(columns | changes)
    at = table.column_names.index("time_hour")
    return table.set_column(at, "time_hour", table["time_hour"].cast(pa.timestamp("s", "UTC")))


def test_moments_of_a_flight() -> None:
    table = flights.with_moments(raw_flights())
    assert table["scheduled_departure"].to_pylist() == [
        datetime(2013, 1, 1, 10, 15, tzinfo=UTC),  # winter: five hours behind
        datetime(2013, 8, 1, 3, 59, tzinfo=UTC),  # summer: four
        datetime(2013, 7, 31, 10, tzinfo=UTC),
    ]
    assert table["departed_at"].to_pylist() == [
        datetime(2013, 1, 1, 10, 17, tzinfo=UTC),
        datetime(2013, 8, 1, 4, 0, tzinfo=UTC),
        None,
    ]
    assert table["minute_of_day"].to_pylist() == [315, 1439, 360]
    assert table["weekday"].to_pylist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sched_dep_time": [515, 2259, 600]}, "1 of 3 rows .* time_hour .* first is row 1"),
        ({"dep_time": [517, 2400, 601]}, None),  # a cancelled flight has no delay to check
        ({"dep_time": [518, 2400, None]}, "1 of 3 rows .* reads dep_time; the first is row 0"),
        ({"dep_delay": [2, 61, None]}, "1 of 3 rows .* reads dep_time; the first is row 1"),
    ],
)
def test_two_readings_of_one_moment_must_agree(wrong: dict[str, Any], said: str | None) -> None:
    if said is None:
        flights.with_moments(raw_flights(**wrong))
        return
    with pytest.raises(InvalidInput, match=said):
        flights.with_moments(raw_flights(**wrong))


def test_the_weathers_hour_must_agree() -> None:
    hour = pa.array([datetime(2013, 1, 1, 6, tzinfo=UTC)], pa.timestamp("s", "UTC"))
    raw = {"origin": ["EWR"], "year": [2013], "month": [1], "day": [1], "hour": [1]}
    agreed = flights.with_utc_hour(pa.table({**raw, "time_hour": hour}))
    assert agreed.column_names == ["origin", "time_hour"]
    with pytest.raises(InvalidInput, match="reads its hour"):
        flights.with_utc_hour(pa.table({**raw, "hour": [2], "time_hour": hour}))


def test_labels_are_asked_two_hours_before_and_late_after_a_quarter_of_an_hour() -> None:
    raw = raw_flights(arr_delay=[16, 15, None])
    labels = flights.labels(flights.with_moments(raw))
    assert labels["late"].to_pylist() == [True, False]  # the cancelled one is neither
    assert labels["asked_at"].to_pylist() == [
        datetime(2013, 1, 1, 8, 15, tzinfo=UTC),
        datetime(2013, 8, 1, 1, 59, tzinfo=UTC),
    ]


# ── what is known from when ──────────────────────────────────────────────────────────────────


def test_no_group_holds_what_only_the_arrival_tells(weeks: flights.Year) -> None:
    for _, table in groups.source_tables(weeks):
        assert {"arr_delay", "arr_time", "air_time"}.isdisjoint(table.column_names)


def departures(weeks: flights.Year) -> list[dict[str, Any]]:
    table = weeks.flights.filter(weeks.flights["departed_at"].is_valid())
    return sorted(table.to_pylist(), key=lambda flight: flight["departed_at"])


def test_the_right_join_knows_the_last_departure_before_the_question(
    weeks: flights.Year, told: tuple[fs.FeatureStore, story.Outcome, str]
) -> None:
    store, _, _ = told
    labels = flights.labels(weeks.flights)
    joined = store.point_in_time(labels, groups.VIEW, label_time="asked_at").to_pylist()
    left: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for flight in departures(weeks):
        left[flight["tailnum"]].append((flight["departed_at"], flight["dep_delay"]))
    known = 0
    for row in joined:
        before = left[row["tailnum"]]
        at = bisect.bisect_right(before, (row["asked_at"], 10**6)) - 1
        fresh = at >= 0 and row["asked_at"] - before[at][0] <= timedelta(hours=12)
        assert row["plane_dep_delay"] == (before[at][1] if fresh else None)
        known += fresh
    assert 0 < known < len(joined)


def test_the_leaky_join_hands_each_flight_its_own_delay(
    weeks: flights.Year, told: tuple[fs.FeatureStore, story.Outcome, str]
) -> None:
    store, _, _ = told
    labels = flights.labels(weeks.flights)
    joined = store.point_in_time(labels, [groups.LEAKY], label_time="scheduled_departure")
    own = {  # one tail number is in two places at once; of two such records the later is the newer
        (flight["tailnum"], flight["scheduled_departure"]): flight["dep_delay"]
        for flight in weeks.flights.to_pylist()
        if flight["departed_at"] is not None
    }
    expected = [own[row["tailnum"], row["scheduled_departure"]] for row in labels.to_pylist()]
    assert joined["plane_dep_delay"].to_pylist() == expected


def test_a_rolling_mean_counts_what_had_departed(
    weeks: flights.Year, told: tuple[fs.FeatureStore, story.Outcome, str]
) -> None:
    store, _, _ = told
    flown = departures(weeks)
    measured = store.sql("SELECT * FROM carrier_delays ORDER BY measured_at").to_pylist()
    assert len(measured) > 10_000
    for row in measured[:: len(measured) // 50]:
        window = [
            flight["dep_delay"]
            for flight in flown
            if (flight["origin"], flight["carrier"]) == (row["origin"], row["carrier"])
            and timedelta(0) <= row["measured_at"] - flight["departed_at"] <= timedelta(hours=6)
        ]
        assert row["departures_6h"] == len(window)
        assert row["mean_delay_6h"] == pytest.approx(np.mean(window))


def test_weather_is_known_an_hour_after_its_hour(
    told: tuple[fs.FeatureStore, story.Outcome, str],
) -> None:
    store, _, _ = told
    (hour,) = store.sql(
        "SELECT time_hour FROM origin_weather WHERE origin = 'JFK' ORDER BY 1 LIMIT 1"
    )["time_hour"].to_pylist()
    asked = [hour + timedelta(hours=1, microseconds=us) for us in (-1, 0)]
    labels = pa.table({"origin": ["JFK", "JFK"], "asked_at": asked})
    (weather,) = (lookup for lookup in groups.LOOKUPS if lookup.group == "origin_weather")
    joined = store.point_in_time(labels, [weather], label_time="asked_at")
    assert joined["visib"].is_valid().to_pylist() == [False, True]


# ── the story ────────────────────────────────────────────────────────────────────────────────


def test_the_story_of_two_weeks(
    weeks: flights.Year, told: tuple[fs.FeatureStore, story.Outcome, str]
) -> None:
    _, outcome, printed = told
    assert outcome.faults == 0
    assert outcome.planes == len({flight["tailnum"] for flight in departures(weeks)})
    assert outcome.planes_agreeing == outcome.planes
    assert rows_of(outcome, "ingest plane_state") == len(departures(weeks))
    assert all(step.rows > 0 and step.seconds > 0 for step in outcome.steps)
    for score in outcome.scores:
        assert f"{score.validation:.3f}" in printed
        assert f"{score.served:.3f}" in printed
    assert all(len(line.rstrip()) <= 80 for line in printed.splitlines())


def test_telling_it_again_adds_nothing_and_changes_nothing(
    weeks: flights.Year, told: tuple[fs.FeatureStore, story.Outcome, str]
) -> None:
    store, first, _ = told
    again = story.tell(store, weeks, Screen(Console(file=io.StringIO())), LAST_DAYS)
    assert first.records_added > 0
    assert again.records_added == 0
    assert again.scores == first.scores
    assert again.planes_agreeing == again.planes == first.planes


def test_the_table_of_the_whole_year(tmp_path: Path) -> None:
    outcome = demo.run(tmp_path / "store", Console(file=io.StringIO()))
    calendar, leaky, right, everything = outcome.scores
    assert leaky.served < calendar.served < right.served < everything.served
    assert everything.validation < leaky.validation
    assert leaky.validation == pytest.approx(0.885, abs=0.01)
    assert leaky.served < 0.61
    assert calendar.served == pytest.approx(0.62, abs=0.01)
    assert everything.served > 0.66
    for score in (calendar, right, everything):
        assert score.validation == score.served
    assert outcome.planes_agreeing == outcome.planes == 4_037
    assert outcome.faults == 0
