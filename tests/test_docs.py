"""The README tells the truth: its example runs, its commands exist, its names are the code's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import featurestore as fs
from featurestore import cli
from featurestore.storage.environment import DURABILITIES
from featurestore_server.sagemaker.model import MODELS
from tests.server.serving import serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def example(word: str) -> str:
    """Return the example that has a word."""
    (found,) = [text for text in EXAMPLES if word in text]
    return found


def section(title: str) -> str:
    """Return the text of one section."""
    lines = rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)"
    found = re.search(lines, README, re.MULTILINE | re.DOTALL)
    assert found, f'the README has no section "{title}"'
    return found[1]


def test_the_example_runs_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[0], "README.md", "exec"), names)
    store = names["store"]
    assert isinstance(store, fs.FeatureStore)
    assert store.verify() == []
    store.close()
    printed = capsys.readouterr().out
    said = re.findall(r"# .*: ([\d.]+)$", EXAMPLES[0], re.MULTILINE)
    assert len(said) == 3
    for value in said:
        _, found, printed = printed.partition(value)
        assert found, f"{value} is not printed, or not in its turn"


def test_the_example_is_ten_lines() -> None:
    statements = [line for line in EXAMPLES[0].splitlines() if line and not line.startswith(" ")]
    assert len(statements) == 10


def test_every_python_block_of_the_readme_is_run() -> None:
    assert len(EXAMPLES) == 4, "run the new block in a test too"


def test_the_example_of_a_training_set_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Model:
        rows = 0

        def partial_fit(self, x: Any, y: Any, classes: list[int]) -> None:
            assert len(x) == len(y)
            assert classes == [0, 1]
            self.rows += len(x)

    moments = ["2013-09-29T06:00Z", "2013-09-30T12:00Z", "2013-10-02T06:00Z"]
    labels = {"origin": ["JFK"] * 3, "asked_at": moments, "late": [True, False, True]}
    with fs.open(tmp_path / "store") as store:
        store.create_feature_group(
            "weather", record_identifier="origin", event_time="hour",
            features={"origin": "string", "hour": "timestamp", "temp": "float64"},
        )  # fmt: skip
        store.put_record("weather", {"origin": "JFK", "hour": "2013-09-01T05:00Z", "temp": 39.0})
        names = {"store": store, "labels": labels, "model": Model()}
        exec(compile(example("ts.quality"), "README.md", "exec"), names)
        assert names["model"].rows == 1  # type: ignore[attr-defined]
        assert "late_flights:1: 3 rows" in capsys.readouterr().out


def test_the_example_of_a_replica_runs(tmp_path: Path) -> None:
    told: list[object] = []
    with fs.open(tmp_path / "store") as store:
        store.create_feature_group(
            "g", record_identifier="k", event_time="t", features={"k": "int64", "t": "timestamp"}
        )
        store.put_record("g", {"k": 1, "t": "2013-01-01T05:00Z"})
        names = {"store": store, "apply_to_replica": lambda *change: told.append(change)}
        exec(compile(example("consumer"), "README.md", "exec"), names)
        assert [(group, record["k"]) for group, record, _ in told] == [("g", 1)]  # type: ignore[misc]
        assert store.stat()["consumers"]["replica"]["lag_records"] == 0


def test_the_example_of_boto3_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    with fs.open(tmp_path / "store") as store, serving(store) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        exec(compile(example("boto3"), "README.md", "exec"), {})
        assert store.get_record("airports", "JFK", ["temp"]) == {"temp": 39.0}
        (said,) = re.findall(r"# (\[.*\])$", example("boto3"), re.MULTILINE)
        assert capsys.readouterr().out.strip() == said


def test_every_operation_of_boto3_is_in_the_table() -> None:
    named = set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b|Search", boto3_table()))
    assert {name for table in MODELS.values() for name in table} <= named


def boto3_table() -> str:
    """Return the first column of the table of operations."""
    rows = re.findall(r"^\| ([^|]*) \|", section("Your boto3 code, on your laptop"), re.MULTILINE)
    return " ".join(rows)


@pytest.mark.parametrize("command", sorted(get_command(cli.app).commands))
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"`featurestore {command}" in section("The command line")


def test_every_command_in_the_readme_exists() -> None:
    named = set(re.findall(r"`featurestore ([a-z]+)", README))
    assert named <= set(get_command(cli.app).commands)


def test_the_two_commands_install_extras_and_scripts_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = re.findall(r"^```sh\n(.*?)^```$", section("Try it"), re.MULTILINE | re.DOTALL)
    assert [line.count("\n") for line in lines] == [1, 1]
    for line in lines:
        (extra,) = re.findall(r"\.\[(\w+)\]", line)
        assert extra in project["project"]["optional-dependencies"]
    assert lines[0].split()[-2:] == [".venv/bin/featurestore", "demo"]
    assert lines[1].split()[-2:] == [".venv/bin/poe", "check"]
    assert "check" in project["tool"]["poe"]["tasks"]
    assert 'poe -C "$root" check' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_durability_states_its_loss() -> None:
    named = re.findall(r"^\| `(\w+)`", section("What survives what"), re.MULTILINE)
    assert tuple(named) == DURABILITIES


def test_every_error_the_readme_names_exists() -> None:
    named = re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", section("Bad input"))
    assert named
    assert [name for name in named if not hasattr(fs, name)] == []


def test_the_architecture_lists_what_is_there() -> None:
    listed = set(re.findall(r"[a-z_]+", section("Architecture")))
    files = {path.stem for path in (ROOT / "featurestore").iterdir()} - {"__init__", "__pycache__"}
    files = {name for name in files if not name.startswith(".")}
    assert sorted(files - listed - {"py"}) == []
