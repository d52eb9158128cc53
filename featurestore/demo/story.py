"""The demo from beginning to end, through the front door only.

Each function is one chapter, and an example of its part of the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.demo import flights, groups, models, screen
from featurestore.demo.models import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.demo.screen import Screen, Step
    from featurestore.store import FeatureStore

TEST_FROM = datetime(2013, 10, 1, 4, tzinfo=UTC)  # midnight in New York

CALENDAR = ["minute_of_day", "weekday", "origin"]
PLANE_DELAY = "plane_dep_delay"

PLANES = (
    "SELECT tailnum, origin, carrier FROM latest.plane_state ORDER BY departed_at DESC, tailnum"
)
DELAYS_BY_AIRPORT = (
    "SELECT origin, count(*) AS departures, avg(dep_delay) AS mean_delay "
    "FROM plane_state GROUP BY origin ORDER BY origin"
)

MORAL = (
    "The leaky join dates each delay by its [i]scheduled[/i] departure and looks it up at that "
    "time, so every flight is handed its own. Two hours earlier, when the question is asked, "
    "nobody knows it. Rows two and three have the same flights, columns, model and seed: only the "
    "times differ."
)


@dataclass(frozen=True)
class Outcome:
    """What the demo found, for whoever wants to check it."""

    scores: list[Score]
    steps: list[Step]
    records_added: int
    planes: int
    planes_agreeing: int
    faults: int


def tell(
    store: FeatureStore, year: flights.Year, show: Screen, test_from: datetime = TEST_FROM
) -> Outcome:
    """Ingest, look up, query, join, train, compare; print each step, then what came of them.

    Parameters
    ----------
    store : FeatureStore
        Where to put the feature groups; it may hold them already.
    year : flights.Year
        The data; a part of it will do.
    show : Screen
        Where to print.
    test_from : datetime
        Flights scheduled before it train, those from it on test.
    """
    records, added = fill(store, year, show)
    with show.step("sql: mean delay of each airport") as (step, _):
        delays = store.sql(DELAYS_BY_AIRPORT)
        step.rows = pc.sum(delays["departures"]).as_py()
    planes = store.sql(PLANES)
    agreeing = serve(store, planes, year.end(), show)

    labels = flights.labels(year.flights)
    right, leaky = training_sets(store, labels, show)
    tested = pc.greater_equal(labels["scheduled_departure"], pa.scalar(test_from, flights.MOMENT))
    scores = compare(right, leaky, tested.to_numpy(), show)
    with show.step("verify: files, journal, online = history", records):
        faults = store.verify()

    last_to_leave = planes["tailnum"][0].as_py()
    record = pa.Table.from_pylist([store.get_record("plane_state", last_to_leave)])
    show.answer(f'store.get_record("plane_state", "{last_to_leave}")', screen.rows_table(record))
    show.answer(f'store.sql("{DELAYS_BY_AIRPORT}")', screen.rows_table(delays))
    show.answer(split_in_words(tested, test_from), screen.scores_table(scores))
    show.paragraph(MORAL)
    show.paragraph(
        f"{labels_in_words(year, labels)} {records:,} records take {megabytes(store):.0f} MB. "
        f"Online store and join agree on {agreeing:,} of {planes.num_rows:,} planes; verify finds "
        f"{len(faults) or 'no'} faults."
    )
    return Outcome(scores, show.steps, added, planes.num_rows, agreeing, len(faults))


# ── chapters ─────────────────────────────────────────────────────────────────────────────────


def fill(store: FeatureStore, year: flights.Year, show: Screen) -> tuple[int, int]:
    """Create the groups and ingest their records; return how many there are, how many are new."""
    filled = [ingest(store, group, table, show) for group, table in groups.source_tables(year)]
    for group, query in groups.DERIVED:
        with show.step(f"sql: derive {group.name}") as (step, _):
            table = store.sql(query)
            step.rows = table.num_rows
        filled.append(ingest(store, group, table, show))
    records, added = (sum(counts) for counts in zip(*filled, strict=True))
    return records, added


def ingest(
    store: FeatureStore, group: groups.Group, table: pa.Table, show: Screen
) -> tuple[int, int]:
    """Ingest one table; return its rows and how many were new: none when it comes again."""
    group.create(store, like=table)
    with show.step(f"ingest {group.name}", table.num_rows, bar=True) as (step, advance):
        result = store.ingest(group.name, table, progress=advance)
        if result.replayed:
            step.name += " (was there already)"
    return table.num_rows, result.accepted


def serve(store: FeatureStore, planes: pa.Table, now: datetime, show: Screen) -> int:
    """Ask the online store for every plane; return for how many a join at that moment agrees."""
    store.create_feature_view(groups.VIEW, groups.LOOKUPS, exist_ok=True)
    tails = planes["tailnum"].to_pylist()
    with show.step("get_record: each plane, one by one", len(tails)):
        for tail in tails:
            store.get_record("plane_state", tail)
    with show.step("get_features: all planes at once", len(tails)):
        online = store.get_features(groups.VIEW, planes)
    at_that_moment = pa.repeat(pa.scalar(now, flights.MOMENT), planes.num_rows)
    labels = planes.append_column("now", at_that_moment)
    offline = store.point_in_time(labels, groups.VIEW, label_time="now")
    looked_up = offline.drop_columns(labels.column_names).column_names
    served, joined = (table.select(looked_up).to_pylist() for table in (online, offline))
    return sum(one == other for one, other in zip(served, joined, strict=True))


def training_sets(store: FeatureStore, labels: pa.Table, show: Screen) -> tuple[pa.Table, pa.Table]:
    """Join the labels as it is right, and as it is wrong."""
    with show.step("point_in_time: five groups, two hours before", labels.num_rows):
        right = store.point_in_time(labels, groups.VIEW, label_time="asked_at")
    with show.step("point_in_time: the leaky group, when scheduled", labels.num_rows):
        leaky = store.point_in_time(labels, [groups.LEAKY], label_time="scheduled_departure")
    return right, leaky


def compare(
    right: pa.Table, leaky: pa.Table, tested: NDArray[np.bool_], show: Screen
) -> list[Score]:
    """Train four models; each is served what can be known when asked: the right join's columns."""
    plane = [*CALENDAR, PLANE_DELAY]
    everything = [*plane, *right.drop_columns(leaky.column_names).column_names]
    trials = [
        ("the calendar", "none", CALENDAR, right),
        ("+ the plane's last delay", "leaky", plane, leaky),
        ("+ the plane's last delay", "point-in-time", plane, right),
        ("+ weather, plane, rolling delays", "point-in-time", everything, right),
    ]
    trained = len(trials) * int(np.count_nonzero(~tested))
    with show.step(f"train {len(trials)} models", trained):
        return [
            Score(knows, join, *models.train_and_score(features, training_set, right, tested))
            for knows, join, features, training_set in trials
        ]


# ── in words ─────────────────────────────────────────────────────────────────────────────────


def split_in_words(tested: pa.ChunkedArray, test_from: datetime) -> str:
    """Say what the table of scores is about."""
    tests = pc.sum(tested).as_py()
    return (
        f"AUC, trained on {len(tested) - tests:,} flights before {test_from:%-d %B %Y}, "
        f"tested on {tests:,} since"
    )


def labels_in_words(year: flights.Year, labels: pa.Table) -> str:
    """Say which flights the question was asked of."""
    rows = year.flights.num_rows
    late = pc.mean(labels["late"].cast(pa.int64())).as_py()
    return (
        f"Of {rows:,} flights {rows - labels.num_rows:,} never arrived (cancelled or diverted) and "
        f"have no label; {late:.1%} of the others were late."
    )


def megabytes(store: FeatureStore) -> float:
    """Return the room the store takes: history and the transactional part."""
    size = store.stat()
    return float(size["history_bytes"] + size["engine_bytes"]) / 1e6
