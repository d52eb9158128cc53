"""The command line as a shell sees it: what it prints, where, and what ``$?`` says."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import featurestore as fs
from featurestore import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

FIVE, SIX = (datetime(2013, 1, 1, hour, tzinfo=UTC) for hour in (5, 6))
COMMANDS = sorted(get_command(cli.app).commands)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs one command on this test's store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FEATURESTORE_PATH", str(tmp_path / "store"))

    def run(*words: str, stdin: str = "", code: int = 0) -> Result:
        result = CliRunner().invoke(cli.app, list(words), input=stdin, prog_name="featurestore")
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def weather(tmp_path: Path) -> Path:
    """Return a store with three hours of weather at two airports."""
    path = tmp_path / "store"
    with fs.open(path) as store:
        store.create_feature_group(
            "weather",
            record_identifier="origin",
            event_time="hour",
            features={"origin": "string", "hour": "timestamp", "temp": "float64", "note": "string"},
            description="hourly airport weather",
            tags={"owner": "ops"},
            ttl="10000d",
        )
        for origin, hour, temp in (("JFK", FIVE, 39.0), ("JFK", SIX, 41.0), ("EWR", FIVE, 38.0)):
            store.put_record("weather", {"origin": origin, "hour": hour, "temp": temp})
    return path


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# ── help ─────────────────────────────────────────────────────────────────────────────────────


def test_without_a_command_it_shows_the_commands(shell: Callable[..., Result]) -> None:
    shown = shell(code=2).output
    for command in COMMANDS:
        assert command in shown


def test_the_commands_are_the_ones_promised() -> None:
    promised = (
        "backup compact demo describe erase flush get groups ingest keys monitor restore retention "
        "scrub serve sql stat verify"
    )
    assert promised.split() == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(
    shell: Callable[..., Result], command: str
) -> None:
    shown = shell(command, "--help").stdout
    assert "Examples" in shown
    assert f"featurestore {command}" in shown
    assert "\b" not in shown


def test_the_exit_codes_are_in_the_help(shell: Callable[..., Result]) -> None:
    shown = shell("--help").stdout
    for code in cli.ExitCode:
        assert f"  {code.value}  " in shown


# ── looking ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("weather")
def test_groups_lists_what_is_there(shell: Callable[..., Result]) -> None:
    shown = shell("groups").stdout
    assert "weather" in shown
    assert "hourly airport weather" in shown
    (group,) = json.loads(shell("groups", "--json").stdout)
    assert group["name"] == "weather"


@pytest.mark.usefixtures("weather")
def test_describe_shows_every_feature_with_its_type_and_role(shell: Callable[..., Result]) -> None:
    shown = shell("describe", "weather").stdout
    rows = [line for line in shown.splitlines() if "float64" in line or "timestamp" in line]
    assert any("temp" in row for row in rows)
    assert any("hour" in row and "event time" in row for row in rows)
    assert "owner=ops" in shown
    assert json.loads(shell("describe", "weather", "--json").stdout)["name"] == "weather"


@pytest.mark.usefixtures("weather")
def test_get_shows_the_latest_record(shell: Callable[..., Result]) -> None:
    assert "41" in shell("get", "weather", "JFK").stdout
    (record,) = lines(shell("get", "weather", "JFK", "--json"))
    assert record == {"origin": "JFK", "hour": "2013-01-01T06:00:00Z", "temp": 41.0, "note": None}


@pytest.mark.usefixtures("weather")
def test_get_of_several_keys_gives_a_line_each_in_order(shell: Callable[..., Result]) -> None:
    found = lines(shell("get", "weather", "EWR", "LGA", "JFK", "-f", "temp", "--json"))
    assert [record and record["temp"] for record in found] == [38.0, None, 41.0]


@pytest.mark.usefixtures("weather")
def test_a_missing_record_is_an_answer_with_its_status(shell: Callable[..., Result]) -> None:
    assert "MISSING" in shell("get", "weather", "LGA").stdout
    (found,) = lines(shell("get", "weather", "LGA", "--status", "--json"))
    assert found["status"] == "MISSING"
    assert found["record"] is None


@pytest.mark.usefixtures("weather")
def test_status_tells_the_age_and_the_sequence_number(shell: Callable[..., Result]) -> None:
    (found,) = lines(shell("get", "weather", "JFK", "--status", "--json"))
    assert found["status"] == "PRESENT"
    assert found["write_seq"] == 2
    assert found["age"] > 0


def test_composite_keys_are_given_part_by_part(shell: Callable[..., Result]) -> None:
    with fs.open("store") as store:
        store.create_feature_group(
            "seats",
            record_identifier=["flight", "day", "window"],
            event_time="at",
            features={
                "flight": "int32",
                "day": "date",
                "window": "bool",
                "at": "timestamp",
                "price": "float64",
            },
        )
        key = {"flight": 1545, "day": "2013-01-01", "window": True}
        store.put_record("seats", {**key, "at": FIVE, "price": 99.5})
    words = ("1545", "2013-01-01", "true")
    (record,) = lines(shell("get", "seats", *words, "--json"))
    assert record["price"] == 99.5
    assert len(lines(shell("get", "seats", *words, *words, "--json"))) == 2
    assert "flight, day, window" in shell("get", "seats", "1545", code=2).stderr
    assert '"flight"' in shell("get", "seats", "x", "2013-01-01", "true", code=2).stderr


# ── SQL ──────────────────────────────────────────────────────────────────────────────────────

QUERY = "SELECT origin, hour, temp, note FROM weather ORDER BY origin, hour"


@pytest.mark.usefixtures("weather")
def test_sql_as_a_table_says_how_many_rows_there_are(shell: Callable[..., Result]) -> None:
    assert "3 rows" in shell("sql", QUERY).stdout
    cut = shell("sql", QUERY, "--rows", "1").stdout
    assert "EWR" in cut
    assert "JFK" not in cut
    assert "3 rows (1 shown" in cut


@pytest.mark.usefixtures("weather")
def test_sql_as_json_is_one_array(shell: Callable[..., Result]) -> None:
    rows = json.loads(shell("sql", QUERY, "--format", "json").stdout)
    assert [row["temp"] for row in rows] == [38.0, 39.0, 41.0]
    assert rows[0]["hour"] == "2013-01-01T05:00:00Z"
    assert json.loads(shell("sql", f"{QUERY} LIMIT 0", "--format", "json").stdout) == []


@pytest.mark.usefixtures("weather")
def test_sql_as_csv_tells_null_from_the_empty_text(shell: Callable[..., Result]) -> None:
    shown = shell("sql", "SELECT NULL AS a, '' AS b, [1, 2] AS c", "--format", "csv").stdout
    assert shown.splitlines()[1] == ',"","[1, 2]"'
    shown = shell("sql", QUERY, "--format", "csv").stdout
    assert [row["temp"] for row in csv.DictReader(io.StringIO(shown))] == ["38", "39", "41"]


@pytest.mark.usefixtures("weather")
def test_sql_reads_stdin(shell: Callable[..., Result]) -> None:
    shown = shell("sql", "-", "--format", "json", stdin="SELECT count(*) AS n FROM weather").stdout
    assert json.loads(shown) == [{"n": 3}]


@pytest.mark.usefixtures("weather")
def test_values_without_a_word_in_json_are_text(shell: Callable[..., Result]) -> None:
    query = "SELECT 'nan'::DOUBLE AS x, '\\xFF'::BLOB AS b, DATE '2013-01-01' AS d"
    (row,) = json.loads(shell("sql", query, "--format", "json").stdout)
    assert row == {"x": "nan", "b": "/w==", "d": "2013-01-01"}


# ── ingest ───────────────────────────────────────────────────────────────────────────────────

CREATE = ("--create", "--key", "origin", "--event-time", "hour")


def test_ingest_creates_a_group_from_parquet(shell: Callable[..., Result], tmp_path: Path) -> None:
    table = pa.table({"origin": ["JFK", "EWR"], "hour": [FIVE, FIVE], "temp": [39.0, 38.0]})
    pq.write_table(table, tmp_path / "w.parquet")
    assert "2" in shell("ingest", "weather", "w.parquet", *CREATE).stdout
    assert [r["temp"] for r in lines(shell("get", "weather", "JFK", "EWR", "--json"))] == [39, 38]


def test_a_repeat_adds_nothing(shell: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("origin,hour,temp\nJFK,2013-01-01T05:00:00Z,39\n")
    for _ in range(2):
        shell("ingest", "weather", "w.csv", *CREATE)
    counted = shell("sql", "SELECT count(*) AS n FROM history.weather", "--format", "json").stdout
    assert json.loads(counted) == [{"n": 1}]


def test_csv_is_read_with_the_types_of_the_group(
    shell: Callable[..., Result], tmp_path: Path
) -> None:
    with fs.open("store") as store:
        store.create_feature_group(
            "codes",
            record_identifier="code",
            event_time="at",
            features={
                "code": "string",
                "at": "timestamp",
                "seen": "timestamp",
                "day": "date",
                "n": "int8",
                "x": "float32",
                "text": "string",
            },
        )
    (tmp_path / "codes.csv").write_text(
        "code,at,seen,day,n,x,text\n"
        '007,2013-01-01 05:00:00,2013-01-01T05:00:00.5Z,2013-01-01,7,0.5,""\n'
        "NA,2013-01-01 05:00:00,,,,,\n"
    )
    shell("ingest", "codes", "codes.csv", "--tz", "America/New_York")
    bond, namibia = lines(shell("get", "codes", "007", "NA", "--json"))
    assert bond == {
        "code": "007",
        "at": "2013-01-01T10:00:00Z",
        "seen": "2013-01-01T05:00:00.500000Z",
        "day": "2013-01-01",
        "n": 7,
        "x": 0.5,
        "text": "",
    }
    assert [namibia[name] for name in ("seen", "day", "n", "x", "text")] == [None] * 5


def test_csv_says_how_to_name_a_null(shell: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("origin,hour,temp\nJFK,2013-01-01T05:00:00Z,39.5\n")
    (tmp_path / "b.csv").write_text("origin,hour,temp\nJFK,2013-01-01T06:00:00Z,NA\n")
    shell("ingest", "weather", "a.csv", *CREATE)
    assert "--null NA" in shell("ingest", "weather", "b.csv", code=2).stderr
    shell("ingest", "weather", "b.csv", "--null", "NA")
    assert lines(shell("get", "weather", "JFK", "--json"))[0]["temp"] is None


def test_json_lines_keep_what_json_has(shell: Callable[..., Result], tmp_path: Path) -> None:
    records = [
        {"id": 2**53 + 1, "at": "2013-01-01T05:00:00Z", "seq": [1, None, 3], "ok": True},
        {"id": 2, "at": "2013-01-01T05:00:00Z", "seq": [], "ok": None},
    ]
    (tmp_path / "x.jsonl").write_text("\n\n".join(json.dumps(record) for record in records))
    shell("ingest", "things", "x.jsonl", "--create", "--key", "id", "--event-time", "at")
    assert lines(shell("get", "things", str(2**53 + 1), "2", "--json")) == records


def test_a_line_that_is_not_json_is_named(shell: Callable[..., Result], tmp_path: Path) -> None:
    good = '{"origin": "JFK", "hour": "2013-01-01T05:00:00Z"}\n'
    (tmp_path / "good.jsonl").write_text(good)
    (tmp_path / "bad.jsonl").write_text(good + "{oops\n")
    shell("ingest", "weather", "good.jsonl", *CREATE)
    assert "bad.jsonl, line 2" in shell("ingest", "weather", "bad.jsonl", code=2).stderr


def test_bad_rows_are_refused_whole_or_skipped(
    shell: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "w.csv").write_text(
        "origin,hour,temp\nJFK,2013-01-01T05:00:00Z,39\nEWR,2013-01-01 05:00:00,38\n"
    )
    assert "2013-01-01" in shell("ingest", "weather", "w.csv", *CREATE, code=2).stderr
    assert lines(shell("get", "weather", "JFK", "--json")) == [None]
    shell("ingest", "weather", "w.csv", "--on-error", "skip")
    assert [r is None for r in lines(shell("get", "weather", "JFK", "EWR", "--json"))] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("name", "content", "words", "says"),
    [
        ("w.xlsx", "", CREATE, ".parquet, .csv and .jsonl"),
        ("w.parquet", "not parquet", CREATE, "w.parquet cannot be read"),
        ("w.csv", "origin,time\nJFK,1\n", CREATE, 'no column "hour"'),
        ("w.csv", "origin,hour\nJFK,1\n", ("--create",), "--key and --event-time"),
        ("w.csv", "origin,hour\nJFK,1\n", (), "weather"),
    ],
)
def test_a_file_that_will_not_do_is_refused(
    shell: Callable[..., Result],
    tmp_path: Path,
    name: str,
    content: str,
    words: tuple[str, ...],
    says: str,
) -> None:
    (tmp_path / name).write_text(content)
    assert says in shell("ingest", "weather", name, *words, code=2).stderr


def test_a_file_that_is_not_there_is_bad_usage(shell: Callable[..., Result]) -> None:
    assert "nowhere.csv" in shell("ingest", "weather", "nowhere.csv", code=2).stderr


# ── upkeep ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("weather")
def test_flush_and_compact_change_no_answer(shell: Callable[..., Result]) -> None:
    before = shell("sql", QUERY, "--format", "json").stdout
    for words in (("flush",), ("flush", "weather"), ("compact",), ("compact", "weather")):
        shell(*words)
        assert shell("sql", QUERY, "--format", "json").stdout == before
    assert "sound" in shell("verify").stdout


@pytest.mark.usefixtures("weather")
def test_stat_counts(shell: Callable[..., Result]) -> None:
    assert "weather" in shell("stat").stdout
    facts = json.loads(shell("stat", "--json").stdout)
    assert facts["groups"]["weather"]["history_rows"] == facts["groups"]["weather"]["journal_rows"]
    with fs.open("store") as store:
        store.create_consumer("replica")
    shown = shell("stat").stdout
    for words in ("oldest unflushed", "upkeep running", "consumer", "replica", "journal rows"):
        assert words in shown


def test_verify_finds_a_fault_and_says_so(shell: Callable[..., Result], weather: Path) -> None:
    shell("flush")
    assert json.loads(shell("verify", "--json").stdout) == []
    (file,) = (weather / "data").rglob("*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert file.name in shell("verify", code=1).stdout
    assert file.name in shell("scrub", code=1).stdout
    assert len(json.loads(shell("verify", "--json", code=1).stdout)) >= 1


@pytest.mark.usefixtures("weather")
def test_what_keeps_a_store(shell: Callable[..., Result]) -> None:
    shell("flush")
    assert "1 file" in shell("backup", "monday").stdout
    assert "1 file" in shell("backup", "tuesday", "--since", "monday").stdout
    facts = json.loads(shell("erase", "weather", "JFK", "--json").stdout)
    assert (facts["records"], facts["online"], facts["waiting"]) == (2, True, [])
    assert shell("get", "weather", "JFK", "--json").stdout.strip() == "null"
    shell("restore", "tuesday", "--store", "again")
    assert json.loads(shell("get", "weather", "JFK", "--json", "--store", "again").stdout)
    assert "sound" in shell("scrub", "--store", "again").stdout
    assert "12w6d" in shell("retention", "weather", "90d").stdout
    assert "12w6d" in shell("describe", "weather").stdout
    assert "all history" in shell("retention", "weather", "none").stdout
    assert "no backup" in shell("restore", "store", "--store", "new", code=2).output


# ── errors ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("weather")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("describe", "wether"), 'Did you mean "weather"?'),
        (("get", "weather", "JFK", "-f", "tmp"), 'Did you mean "temp"?'),
        (("sql", "SELEC 1"), "SELEC"),
        (("sql", "DROP TABLE weather"), "SELECT"),
    ],
)
def test_an_error_is_a_sentence_on_stderr(
    shell: Callable[..., Result], words: tuple[str, ...], says: str
) -> None:
    result = shell(*words, code=2)
    assert says in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["groups", "stat", "verify"])
def test_looking_at_nothing_makes_no_store(
    shell: Callable[..., Result], tmp_path: Path, command: str
) -> None:
    assert "not a feature store" in shell(command, code=3).stderr
    assert list(tmp_path.iterdir()) == []


def test_every_error_has_an_exit_code() -> None:
    assert cli.ExitCode.of(fs.UnknownFeature("x")) == 2
    assert cli.ExitCode.of(fs.NotInstalled("x", "demo")) == 2
    assert cli.ExitCode.of(fs.StoreFull("x")) == 3
    assert cli.ExitCode.of(fs.StoreBusy("x")) == 3
    assert cli.ExitCode.of(fs.CorruptStore("x")) == 3


# ── as a program ─────────────────────────────────────────────────────────────────────────────


def program(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys\n{code}", *words]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


MAIN = "from featurestore.__main__ import main; main()"


def test_the_program_runs() -> None:
    done = program(MAIN, "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("featurestore ")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_one_sentence(missing: str) -> None:
    done = program(f"sys.modules[{missing!r}] = None\n{MAIN}", "groups")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: The command line needs an optional package: pip install 'featurestore[cli]'\n"
    )


def test_help_does_not_pay_for_the_engine() -> None:
    check = "import atexit\natexit.register(lambda: print(*sys.modules))\n"
    loaded = program(check + MAIN, "--help").stdout.split()
    assert "typer" in loaded
    assert {"duckdb", "numba", "pyarrow"}.isdisjoint(loaded)
