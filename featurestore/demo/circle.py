"""The whole circle on the flights: from their records to a model in use that is being watched.

::

    ingest ─► training set ─► train ─► register ─► approve ─► score tomorrow ─► monitor
      ▲                                                            │
      └─────────── predictions, a feature group like any other ◄───┘

Each function is one step, and an example of its part of the library.  "Tomorrow" is the last day of
the data: its flights are scored with what was known at midnight before it, with a model that saw
nothing since :data:`~.story.TEST_FROM`.  The store has the day's departures already, and none is
used: a look-up as of a moment does not see what came later.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.box import ROUNDED
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featurestore import batch, models, training
from featurestore.demo import flights, groups, screen, story, watching
from featurestore.demo.models import LABEL, SEED, TREES

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.batch import BatchJob
    from featurestore.demo.screen import Screen, Step
    from featurestore.models import ModelVersion
    from featurestore.store import FeatureStore
    from featurestore.training import TrainingSet

MODEL = "late"
TRAINING_SET = "late_flights"
SCORES = "late_scores"
FLIGHT = "flight_id"
EMBARGO = "1d"
"""Flights this near to the test are left out: how they ended was not known when it began."""

RISKIEST = (
    "SELECT flight_id, round(100 * score) AS percent, model_version "
    "FROM latest.late_scores ORDER BY score DESC, flight_id LIMIT 3"
)

TWO_AUCS = (
    "The two AUCs measure different things: the first is of months of flights, each asked about "
    "two hours before it was to leave; the second of a single day, asked about at its midnight. "
    "Single days differ widely."
)


@dataclass(frozen=True)
class Circle:
    """What happened, for whoever wants to check it.

    Attributes
    ----------
    version : ModelVersion
        The approved model; its metrics have the ``auc`` of the held-out flights.
    midnight : datetime
        The moment the flights were scored as of.
    scored : BatchJob
        Its output is the predictions.
    written : int
        Predictions that the feature group has online.
    auc_of_the_day : float
        Area under the ROC curve of the predictions, once the day is over.
    watched : watching.Watched
        What the monitors found.
    reports : list of path
        A page for each monitor.
    """

    version: ModelVersion
    midnight: datetime
    scored: BatchJob
    written: int
    auc_of_the_day: float
    watched: watching.Watched
    reports: list[Path]
    steps: list[Step]


def go_round(
    store: FeatureStore,
    year: flights.Year,
    show: Screen,
    report_to: Path,
    test_from: datetime = story.TEST_FROM,
) -> Circle:
    """Go the whole circle; print each step, then a table of what happened.

    Parameters
    ----------
    store : FeatureStore
        Whose clock stands at the end of the data; it may have gone round before.
    year : flights.Year
        The data; a part of it will do that has October and a few weeks more.
    show : Screen
        Where to print.
    report_to : path
        A folder for the monitors' reports, made if it is not there.
    test_from : datetime
        Flights scheduled before it train, those from it on test.
    """
    story.fill(store, year, show)
    midnight = last_midnight(year)
    made = training_set(store, year, midnight, show)
    version = train(store, made, test_from, show)
    version = approve(store, version, show)
    plan = flights_since(year, midnight)
    scored = score(store, version, plan, midnight, show)
    predicted, auc = the_day_after(store, plan, show)
    watched, reports = watch(store, report_to, show)

    show.answer(f'store.sql("{RISKIEST}")', screen.rows_table(store.sql(RISKIEST)))
    outcome = Circle(version, midnight, scored, predicted, auc, watched, reports, show.steps)
    show.answer("What happened", summary(outcome))
    show.paragraph(TWO_AUCS)
    show_paths(reports, show)
    return outcome


# ── steps ────────────────────────────────────────────────────────────────────────────────────


def last_midnight(year: flights.Year) -> datetime:
    """Return when the last scheduled day began in New York, in UTC."""
    last: datetime = pc.max(year.flights["scheduled_departure"]).as_py()
    day = last.astimezone(flights.NEW_YORK).date()
    return datetime.combine(day, time(), flights.NEW_YORK).astimezone(UTC)


def flights_since(year: flights.Year, midnight: datetime) -> pa.Table:
    """Return the flights scheduled from a moment on."""
    scheduled = year.flights["scheduled_departure"]
    return year.flights.filter(pc.greater_equal(scheduled, pa.scalar(midnight, flights.MOMENT)))


def training_set(
    store: FeatureStore, year: flights.Year, midnight: datetime, show: Screen
) -> TrainingSet:
    """Make a training set of the flights before a moment."""
    store.create_feature_view(groups.VIEW, groups.LOOKUPS, exist_ok=True)
    labels = flights.labels(year.flights)
    before = pc.less(labels["scheduled_departure"], pa.scalar(midnight, flights.MOMENT))
    labels = labels.filter(before)
    with show.step("training_set: what was known of each flight", labels.num_rows):
        return training.training_set(
            store,
            TRAINING_SET,
            labels=labels,
            label=LABEL,
            label_time="asked_at",
            features=groups.VIEW,
            from_labels=story.CALENDAR,
        )


def train(
    store: FeatureStore, made: TrainingSet, test_from: datetime, show: Screen
) -> ModelVersion:
    """Fit a model to the flights before a moment, test it on the rest, register it."""
    learnt, tested = made.split(test_from, embargo=EMBARGO)
    model = HistGradientBoostingClassifier(
        max_iter=TREES,
        early_stopping=False,
        random_state=SEED,
        categorical_features=[name in made.categories for name in made.features],
    )
    # One thread, for the reason given in featurestore.demo.models.
    with threadpool_limits(1, user_api="openmp"):
        with show.step("train a model", len(learnt)):
            model.fit(*learnt.to_numpy())
        with show.step("test it on the flights since", len(tested)):
            rows, late = tested.to_numpy()
            auc = float(roc_auc_score(late, model.predict_proba(rows)[:, 1]))
    with show.step("register it, with its lineage", 1):
        return models.register(store, MODEL, model, training_set=learnt, metrics={"auc": auc})


def approve(store: FeatureStore, version: ModelVersion, show: Screen) -> ModelVersion:
    """Approve a version: whoever asks for the approved model gets it from now on."""
    note = f"AUC {version.metrics['auc']:.3f} on flights it had not seen"
    with show.step(f"approve {version.reference}", 1):
        return models.approve(store, version.reference, by="the demo", note=note)


def score(
    store: FeatureStore, version: ModelVersion, plan: pa.Table, at: datetime, show: Screen
) -> BatchJob:
    """Score the planned flights with what was known at a moment, and write the scores back."""
    asked = questions(plan)
    with (
        show.step(f"score {at.astimezone(flights.NEW_YORK):%-d %B}, as of midnight", len(asked)),
        threadpool_limits(1, user_api="openmp"),
    ):
        return batch.score(
            store,
            f"{version.name}:approved",
            asked,
            at=at,
            write_to=SCORES,
            record_id=FLIGHT,
        )


def questions(plan: pa.Table) -> pa.Table:
    """Return what is known of planned flights: the keys of their features, and the schedule."""
    name = pc.binary_join_element_wise(
        plan["carrier"],
        plan["flight"].cast(pa.string()),
        plan["origin"],
        plan["dest"],
        pc.strftime(plan["scheduled_departure"], format="%Y%m%dT%H%M"),
        "-",
    )
    known = plan.select(["tailnum", "carrier", *story.CALENDAR])
    return known.append_column(FLIGHT, name)


def the_day_after(store: FeatureStore, plan: pa.Table, show: Screen) -> tuple[int, float]:
    """Read the predictions back as features; return how many there are, and how good they were."""
    asked = questions(plan).append_column(
        "late", pc.greater(plan["arr_delay"], flights.LATE_MINUTES)
    )
    with show.step("get_features: the predictions, by flight", asked.num_rows):
        online = store.get_features([f"{SCORES}:score"], asked.select([FLIGHT]))
    told = asked.append_column("score", online["score"])
    found = told.num_rows - told["score"].null_count
    told = told.filter(pc.and_(told["late"].is_valid(), told["score"].is_valid()))
    return found, float(roc_auc_score(told["late"].to_numpy(), told["score"].to_numpy()))


def watch(
    store: FeatureStore, report_to: Path, show: Screen
) -> tuple[watching.Watched, list[Path]]:
    """Compare the weeks since October with it; return what moved, and the reports."""
    report_to.mkdir(parents=True, exist_ok=True)
    with show.step("monitor: the weeks since October") as (step, _):
        watched = watching.watch(store, report_to)
        step.rows = sum(run.rows for run in [*watched.executions, *watched.own_period])
    return watched, [report_to / f"{name}.html" for name in watched.moved]


# ── in words ─────────────────────────────────────────────────────────────────────────────────


def summary(outcome: Circle) -> Table:
    """Return the table of what happened."""
    version = outcome.version
    table = Table(box=ROUNDED, show_header=False)
    table.add_column()
    table.add_column()
    for what, found in [
        ("model", f"{version.reference}, {version.status}"),
        ("AUC, flights it had not seen", f"{version.metrics['auc']:.3f}"),
        ("rows scored, as of", f"{outcome.written:,}, {screen.cell(outcome.midnight)}"),
        ("AUC of them, the day after", f"{outcome.auc_of_the_day:.3f}"),
        *(
            (f"moved: {name}", moved_in_words(moved))
            for name, moved in outcome.watched.moved.items()
        ),
    ]:
        table.add_row(what, found)
    return table


def moved_in_words(moved: list[tuple[str, Any, float]]) -> str:
    """Say which features moved since October, the most moved first."""
    return ", ".join(feature for feature, _, _ in moved) or "none"


def show_paths(reports: list[Path], show: Screen) -> None:
    """Print where the reports are, whole: a path that is wrapped cannot be copied."""
    show.console.print()
    for path in reports:
        show.console.print(f"  report: {path}", soft_wrap=True, markup=False, highlight=False)
