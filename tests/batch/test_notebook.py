"""The notebook on batch inference runs, and what it shows is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "04_batch_scoring.ipynb"


def test_tomorrows_flights_are_scored_and_written_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    names: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(NOTEBOOK.read_text("utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["job"].name == "late-1"
    assert names["version"].metrics["validation:auc"] > 0.6
    assert names["riskiest"]["model_version"].to_pylist() == ["late:1"] * 3
    # The half of the flights the model is more afraid of is late more often.
    assert names["shares"][True] > names["shares"][False]
    assert capsys.readouterr().out.startswith("row-0,0.")
    assert len(list((names["folder"] / "captured").rglob("*.jsonl"))) == 1
    assert names["faults"] == []
