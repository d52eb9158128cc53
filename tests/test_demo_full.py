"""The demo's whole circle, on October and the weeks after it: what it says is what is there.

The scores are worked out anew from the model's own files and from features that a join of ours
finds, so that a look at the day itself, or a write that loses a row, would show.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

import featurestore as fs
from featurestore import cli, demo, models, monitor
from featurestore.demo import circle, flights, groups, watching
from featurestore.demo.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Round = tuple[fs.FeatureStore, flights.Year, circle.Circle, str]

END = datetime(2013, 11, 13, 5, tzinfo=UTC)  # midnight in New York
TEST_FROM = datetime(2013, 11, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def gone_round(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    """Go round once with six weeks; give the store, its data, what came of it, what was printed."""
    weeks = flights.read().between(watching.OCTOBER[0], END)
    now = weeks.end()
    folder = tmp_path_factory.mktemp("circle")
    with fs.open(folder / "store", clock=lambda: now) as store:
        printed = io.StringIO()
        show = Screen(Console(file=printed, width=80))
        outcome = circle.go_round(store, weeks, show, folder / "reports", TEST_FROM)
        yield store, weeks, outcome, printed.getvalue()


def test_the_model_in_use_is_the_one_that_was_trained(gone_round: Round) -> None:
    store, _, outcome, _ = gone_round
    assert models.get(store, "late:approved").reference == outcome.version.reference == "late:1"
    assert outcome.version.training_set["hash"]
    assert 0.6 < outcome.version.metrics["auc"] < 0.8  # more would be a leak


def test_every_flight_of_the_last_day_is_scored(gone_round: Round) -> None:
    store, weeks, outcome, _ = gone_round
    assert outcome.midnight == END - timedelta(days=1)
    plan = circle.flights_since(weeks, outcome.midnight)
    assert outcome.written == plan.num_rows > 500
    assert store.sql("SELECT count(*) AS n FROM late_scores")["n"].to_pylist() == [plan.num_rows]


def test_scores_are_the_models_on_what_was_known_at_midnight(gone_round: Round) -> None:
    store, weeks, outcome, _ = gone_round
    asked = circle.questions(circle.flights_since(weeks, outcome.midnight))
    moment = pa.repeat(pa.scalar(outcome.midnight, flights.MOMENT), asked.num_rows)
    known = store.point_in_time(
        asked.append_column("at", moment), groups.VIEW, label_time="at"
    ).to_pandas()
    for name, texts in outcome.version.categories.items():
        rank = {text: place for place, text in enumerate(texts)}
        known[name] = known[name].map(rank)
    rows = known[list(outcome.version.inputs)].to_numpy(np.float32)
    expected = models.load(store, outcome.version).score(rows)
    written = pa.concat_tables(
        pq.read_table(path) for path in sorted(outcome.scored.output.glob("*.parquet"))
    )
    assert written[circle.FLIGHT].to_pylist() == asked[circle.FLIGHT].to_pylist()
    np.testing.assert_allclose(written["score"].to_numpy(), expected)
    online = store.get_features(["late_scores:score"], asked.select([circle.FLIGHT]))
    np.testing.assert_allclose(online["score"].to_numpy(), expected)


def test_the_training_set_stops_before_the_day_that_is_scored(gone_round: Round) -> None:
    store, weeks, outcome, _ = gone_round
    made = circle.training.describe_training_set(store, circle.TRAINING_SET)
    labels = flights.labels(weeks.flights)
    before = pc.less(labels["scheduled_departure"], pa.scalar(outcome.midnight, flights.MOMENT))
    assert len(made) == pc.sum(before).as_py() < labels.num_rows


def test_what_moved_is_what_the_monitors_say(gone_round: Round) -> None:
    store, _, outcome, printed = gone_round
    assert outcome.watched.executions
    for name, report in zip(watching.WATCHED, outcome.reports, strict=True):
        moved = monitor.moved_features(store, name)
        assert outcome.watched.moved[name] == moved
        assert f"moved: {name}" in printed
        assert report.read_text("utf-8").startswith("<!")
        assert str(report) in printed


def test_the_table_says_what_was_found(gone_round: Round) -> None:
    *_, outcome, printed = gone_round
    assert f"{outcome.version.metrics['auc']:.3f}" in printed
    assert f"{outcome.auc_of_the_day:.3f}" in printed
    assert f"{outcome.written:,}, {outcome.midnight:%Y-%m-%d %H:%M} UTC" in printed
    assert all(step.rows > 0 for step in outcome.steps)
    lines = [line.rstrip() for line in printed.splitlines() if "report: " not in line]
    assert all(len(line) <= 80 for line in lines)


def test_going_round_again_makes_the_next_version(gone_round: Round, tmp_path: Path) -> None:
    store, weeks, first, _ = gone_round
    show = Screen(Console(file=io.StringIO()))
    again = circle.go_round(store, weeks, show, tmp_path / "reports", TEST_FROM)
    assert again.version.reference == "late:2"
    assert again.version.metrics == first.version.metrics
    assert (again.written, again.auc_of_the_day) == (first.written, first.auc_of_the_day)
    assert store.verify() == []


def test_full_asks_for_the_circle_and_keeps_reports_beside_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []
    monkeypatch.setattr(demo, "run_full", lambda keep, _: asked.append(keep))
    result = CliRunner().invoke(cli.app, ["demo", "--full", "--keep", str(tmp_path / "store")])
    assert (result.exit_code, asked) == (0, [tmp_path / "store"])
    assert demo.reports_folder(tmp_path / "store") == tmp_path / "store-reports"
