"""``featurestore monitor`` from end to end, as a shell has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import featurestore as fs
from featurestore.cli import app

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    hours = [f"2013-10-01T{i // 60:02}:{i % 60:02}:00Z" for i in range(600)]
    table = pa.table({
        "k": list(range(600)), "t": hours, "x": [(i * 7919 % 100) / 10 for i in range(600)],
    })  # fmt: skip
    with fs.open(tmp_path / "store") as opened:
        opened.create_feature_group(
            "g", record_identifier="k", event_time="t",
            features={"k": "int64", "t": "timestamp", "x": "float64"},
        )  # fmt: skip
        opened.ingest("g", table)
    return tmp_path / "store"


def asked(store: Path, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(
        app, ["monitor", *words, "--store", str(store)], env={"COLUMNS": "200"}
    )
    assert done.exit_code == code, done.output
    return done.stdout if code < 2 else done.stderr


def test_the_whole_way(store: Path, tmp_path: Path) -> None:
    whole = ["--window", "2013-10-01T00:00Z", "2013-10-01T10:00Z"]
    folder = tmp_path / "base"
    said = asked(store, "baseline", "group:g", str(folder), "--every", "1h", *whole)
    assert "baseline of 600 rows" in said
    assert {path.name for path in folder.iterdir()} == {
        "statistics.json", "constraints.json", "columns.arrow", "baseline.json",
    }  # fmt: skip
    asked(
        store,
        "create",
        "d",
        "group:g",
        "--kind",
        "drift",
        "--baseline",
        str(folder),
        "--schedule",
        "cron(0 * ? * * *)",
        "--start",
        "2013-10-01T00:00Z",
        "--set",
        'thresholds={"psi": 0.5}',
        "--alert",
        f"file:{tmp_path / 'a.jsonl'}",
    )
    assert "Completed  600 rows" in asked(store, "run", "d", *whole)
    asked(store, "create", "v", "group:g", "--kind", "volume", "--set", "max_rows=10")
    found = json.loads(asked(store, "run", "v", *whole, "--json", code=1))
    assert found["violations"][0]["constraint_check_type"] == "volume_check"
    assert "volume_check" in asked(store, "run", "v", *whole, code=1)
    listed = asked(store, "list")
    assert "CompletedWithViolations" in listed
    assert [one["name"] for one in json.loads(asked(store, "list", "--json"))] == ["d", "v"]
    assert "nothing has moved" in asked(store, "moved", "d")
    asked(store, "report", "d", str(tmp_path / "page.html"))
    assert "<svg" in (tmp_path / "page.html").read_text()
    assert 'featurestore_monitor_value{monitor="v"' in asked(store, "metrics")
    asked(store, "delete", "v")
    assert json.loads(asked(store, "list", "--json"))[0]["settings"] == {"thresholds": {"psi": 0.5}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nobody"], 'There is no monitor "nobody"'),
        (["create", "m", "g", "--kind", "drift"], "is no source"),
        (["create", "m", "group:g", "--kind", "volume", "--set", "x"], "is no setting"),
        (["due", "m", "--watch"], "leave NAME out"),
        (["baseline", "group:g", "x", "--kind", "drift"], "has no baseline of its own"),
    ],
)
def test_what_cannot_be_is_one_sentence(store: Path, words: list[str], said: str) -> None:
    assert said in " ".join(asked(store, *words, code=2).split())


def test_nothing_is_due(store: Path) -> None:
    assert "nothing is due" in asked(store, "due")
