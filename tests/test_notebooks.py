"""The notebooks run from top to bottom, and were kept as they ran."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))


def codes(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_showed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ran = notebooks.run(path)
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["nbformat"] == 4
    for cell, before in zip(codes(ran), codes(kept), strict=True):
        kinds = [output["output_type"] for output in cell["outputs"]]
        assert kinds == [output["output_type"] for output in before["outputs"]]
        assert before["execution_count"] == cell["execution_count"]


def test_the_story_is_whole() -> None:
    assert [path.stem for path in PATHS[:3]] == ["01_quickstart", "02_point_in_time", "03_training"]
    readme = (notebooks.FOLDER / "README.md").read_text(encoding="utf-8")
    for path in PATHS:
        assert re.search(rf"\b{path.name}\b", readme)
