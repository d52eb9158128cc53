"""The benchmarks run, and every side answers as the others do; no figure is asked for.

All of it in the tiny size and, but for one, in this process: what is measured means nothing here,
what is read means everything.  A peer that is not installed is left out, as it would be outside.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench import datasets, feast_peer, harness, histories, online_world, peers, ray_peer, report
from bench.__main__ import main
from bench.harness import BenchmarkFailed, Case, Goal, Options, Outcome, Run, Side, Step, ratio
from bench.histories import History
from featurestore.encoding.values import same_payload

ROOT = Path(__file__).parents[1]
CASES = [(name, case) for name in harness.names() for case in harness.load(name).CASES]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Return options whose scratch folder all tests share: data are made once."""
    return Options("tiny", 0, tmp_path_factory.mktemp("bench"), harness.formats())


# ── the benchmarks ───────────────────────────────────────────────────────────────────────────


def test_the_benchmarks_are_found() -> None:
    assert {"ingest", "online_get", "online_put", "point_in_time"} <= set(harness.names())


@pytest.mark.parametrize("name", harness.names())
def test_a_benchmark_asks_its_question_and_says_what_bounds_it(name: str) -> None:
    doc = harness.load(name).__doc__ or ""
    assert doc.splitlines()[0].endswith("?")
    for part in ("**A surprise would be**", "**The bound.**", "**Reached**"):
        assert part in doc
    for case in harness.load(name).CASES:
        assert re.search(rf"^{case.name}\b", doc, re.MULTILINE), case.name


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}-{c.name}" for n, c in CASES])
def test_every_side_of_a_case_answers_the_same(name: str, case: Case, options: Options) -> None:
    outcome = harness.run_case(name, case, options, lambda _: None, do=harness.in_place)
    here = [side for side in case.sides if harness.why_not(side, options) is None]
    assert list(outcome.results) == [side.name for side in here]
    assert set(outcome.left_out) == {side.name for side in case.sides} - set(outcome.results)
    for side, [result] in outcome.results.items():
        assert result["units"] > 0, side
        assert result["versions"]["python"]
    for goal in case.goals:
        values = outcome.values(goal)
        assert (values is None) == bool(set(goal.sides) & set(outcome.left_out))
        assert values is None or all(map(math.isfinite, values))
    _, header, rows = report.case_table(outcome)
    assert [row[0] for row in rows] == [side.name for side in case.sides]
    assert all(len(row) == len(header) for row in rows)
    assert all(len(row) == len(report.GOAL_HEADER) for row in report.goal_rows(name, outcome))


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}-{c.name}" for n, c in CASES])
def test_a_case_names_only_sides_it_has(name: str, case: Case) -> None:
    sides = [side.name for side in case.sides]
    assert len(sides) == len(set(sides)), name
    for goal in case.goals:
        assert set(goal.sides) <= set(sides)


def test_the_command_line_runs_each_side_in_its_own_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "online_get", "--size", "tiny", "--only", "batch_10"]
    command += ["--sides", "ours,c", "--rounds", "2", "--scratch", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("ours / (c + empty_table), CPU", "<= 1.5x", "total: "):
        assert words in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    ours = [line for line in lines if line.get("side") == "ours"]
    assert [line["round"] for line in ours] == [0, 1]
    for line in ours:
        assert (line["benchmark"], line["case"], line["size"]) == ("online_get", "batch_10", "tiny")
        assert {"commit", "machine", "hash", "cpu_s", "p99_us", "peak_bytes"} <= set(line)
        assert {"lmdb", "pyarrow", "python"} <= set(line["versions"])
    assert len({line["hash"] for line in lines if "hash" in line}) == 1
    # What was made for the first process was there for the others.
    assert done.stderr.count("making store\n") == 1


def test_a_side_that_fails_is_told_of(options: Options) -> None:
    with pytest.raises(BenchmarkFailed, match="StopIteration"):
        harness.in_process("online_get", ["--side", "one/nobody"], options, None)


# ── the harness ──────────────────────────────────────────────────────────────────────────────


def answering(name: str, value: object, *, needs: Any = harness.nothing) -> Side:
    """Return a side that answers a value, which is what it thinks was written."""

    def work(run: Run) -> None:
        with run.measuring(1):
            pass
        run.answers([{"a": value}], [{"a": value}])

    return Side(name, work, needs=needs)


def run(case: Case, options: Options, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Outcome:
    """Run a case of no benchmark."""
    module = type("Module", (), {"SIZES": {"tiny": None}, "CASES": (case,)})
    monkeypatch.setattr(harness, "load", lambda _: module)
    return harness.run_case("none", case, options, lambda _: None, do=harness.in_place, **more)


def test_different_answers_are_no_result(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = (answering("one", 1.0), answering("other", 1.0))
    assert set(run(Case("c", "", "", sides, ()), options, monkeypatch).results) == {"one", "other"}
    sides = (answering("one", 1.0), answering("other", 1.0000000000000002))
    with pytest.raises(BenchmarkFailed, match="answers differ"):
        run(Case("c", "", "", sides, ()), options, monkeypatch)


def test_an_answer_that_is_not_what_was_written_is_refused(options: Options) -> None:
    right = [{"k": 1, "v": None}, {"k": 2, "v": 2.0}]
    Run(options, None).answers(right, right)
    with pytest.raises(BenchmarkFailed, match=r"read: .*'v': 3.0"):
        Run(options, None).answers([right[0], {"k": 2, "v": 3.0}], right)
    with pytest.raises(BenchmarkFailed, match="1 rows were read, 2 written"):
        Run(options, None).answers(right[:1], right)


@pytest.mark.parametrize("other", [1, True, "1.0", None, float("nan"), -1.0, 1.0000000000000002])
def test_hashes_tell_values_apart(other: object) -> None:
    assert harness.rows_hash([{"a": 1.0}]) != harness.rows_hash([{"a": other}])
    assert harness.rows_hash([{"a": other}]) == harness.rows_hash([{"a": other}])


def test_what_is_missing_is_said(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = (answering("ours", 1), answering("peer", 1, needs=lambda _: "needs a licence"))
    case = Case("c", "which?", "row", sides, (ratio("peer", "ours", at_least=2),))
    outcome = run(case, options, monkeypatch)
    assert outcome.left_out == {"peer": "needs a licence"}
    title, header, rows = report.case_table(outcome)
    report.show(title, header, rows, numbers_from=2)
    assert "left out: needs a licence" in capsys.readouterr().out
    [[*_, shown, bound, reached]] = report.goal_rows("none", outcome)
    assert (shown, bound, reached) == ("no peer", ">= 2x", "")


def test_peers_that_are_not_installed_are_noticed(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    peers._can_compile.cache_clear()
    try:
        assert "liblmdb-dev" in (peers.c_compiler(options) or "")
    finally:
        peers._can_compile.cache_clear()
    assert "redis-server" in (peers.redis_server(options) or "")
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    assert "deltalake" in (peers.deltalake(options) or "")
    assert "--feast-venv" in (peers.feast(options) or "")
    assert "--ray-venv" in (peers.ray(options) or "")
    assert "--chdb-venv" in (peers.chdb(options) or "")


def test_a_step_is_done_once_and_again_when_a_format_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []

    def make(of: Run, folder: Path) -> None:
        done.append(of.options.formats)
        (folder / "data").write_text(str(len(done)))

    step = Step("data", make)
    read: list[str] = []

    def work(of: Run) -> None:
        read.append((of.path(step) / "data").read_text())

    case = Case("c", "", "", (Side("ours", work, steps=(step,)),), ())
    for formats in ("old", "old", "new"):
        now = Options("tiny", 0, tmp_path, formats)
        run(case, now, monkeypatch)
    assert done == ["old", "new"]
    assert read == ["1", "1", "2"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_step_that_fails_leaves_nothing_to_be_taken_for_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def make(_run: Run, folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError("disk full")

    now = Options("tiny", 0, tmp_path, "")
    step = Step("data", make)
    case = Case("c", "", "", (Side("ours", lambda _: None, steps=(step,)),), ())
    with pytest.raises(OSError, match="disk full"):
        run(case, now, monkeypatch)
    assert not harness.step_folder(step, now, None).exists()
    with pytest.raises(BenchmarkFailed, match="not done"):
        Run(now, None).path(step)


def test_a_step_is_done_again_when_it_is_done_differently(options: Options) -> None:
    def make(_run: Run, folder: Path) -> None:
        (folder / "data").write_text("one way")

    def make_otherwise(_run: Run, folder: Path) -> None:
        (folder / "data").write_text("another way")

    def after(work: Any) -> Step:
        return Step("second", make, after=(Step("first", work),))

    steps = (Step("second", make), after(make), after(make_otherwise))
    assert len({harness.step_folder(step, options, None) for step in steps}) == 3
    assert harness.step_folder(steps[0], options, 1) != harness.step_folder(steps[0], options, 2)


def result(cpu_s: float, units: int = 10) -> dict[str, Any]:
    return {"cpu_s": cpu_s, "units": units}


def test_goals_are_made_of_medians_per_unit() -> None:
    goal = ratio("a", ("b", "c"), at_most=1.5)
    case = Case("c", "", "", (), (goal,))
    outcome = Outcome(case)
    outcome.results = {
        "a": [result(3.0), result(9.0), result(4.0)],
        "b": [result(1.0), result(1.0), result(1.0)],
        "c": [result(2.0, units=20), result(1.0, units=10), result(8.0, units=10)],
    }
    assert goal.name == "a / (b + c), CPU"
    assert outcome.values(goal) == pytest.approx([2.0, 1.5, 4.5, 4 / 9])
    assert (goal.bound, goal.reached(2.0), goal.reached(1.5)) == ("<= 1.5x", False, True)
    more = ratio("a", "b", at_least=100)
    assert (more.bound, more.reached(99.9), more.reached(100)) == (">= 100x", False, True)
    shown = Goal("g", ("a",), lambda figures: figures["a"]["cpu_us"], unit=" µs")
    assert (shown.bound, shown.reached(1)) == ("", None)
    assert outcome.values(shown) == pytest.approx([4e5, 3e5, 9e5, 4e5])


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1), (0.501, 51)]
)
def test_percentiles_are_values_that_occurred(share: float, expected: int) -> None:
    assert harness.percentile(range(1, 101), share) == expected


def test_latencies_are_taken_in_nanoseconds_and_told_in_microseconds(options: Options) -> None:
    of = Run(options, None)
    of.latencies([3000, 1000, 2000])
    assert of.found["calls"] == 3
    assert (of.found["p50_us"], of.found["p99_us"], of.found["max_us"]) == (2.0, 3.0, 3.0)


def test_a_fresh_folder_is_a_copy_and_goes_away(options: Options, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with Run(options, None).fresh(tmp_path) as folder:
        (folder / "file").write_text("after")
    assert (tmp_path / "file").read_text() == "before"
    assert not folder.exists()


def test_a_case_is_shown_per_unit(options: Options) -> None:
    case = Case("c", "which?", "row", (answering("ours", 1), answering("peer", 1)), ())
    figures = {"units": 4, "cpu_s": 2.0, "peak_bytes": 3 << 20, "compile_s": 1.5}
    outcome = Outcome(case, {"ours": [figures]}, {"peer": harness.nothing(options) or "not here"})
    title, header, rows = report.case_table(outcome)
    assert title == "c: which?; per row, median of 1"
    assert header == ["side", "gives", "CPU µs", "peak MiB", "besides"]
    assert rows == [
        ["ours", "", "500,000", "3", "first call 1.5 s"],
        ["peer", "left out: not here", "", "", ""],
    ]


def test_a_failed_case_is_told_by_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> Outcome:
        raise BenchmarkFailed("the sides' answers differ")

    monkeypatch.setattr(harness, "run_case", fail)
    assert main(["ingest", "--only", "small", "--scratch", str(tmp_path)]) == 1
    assert "FAILED: ingest small" in capsys.readouterr().out


def test_what_a_killed_side_left_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    for name in (f"fresh-{gone.pid}", f"fresh-{os.getpid()}", "store-tiny"):
        (tmp_path / name).mkdir()
    harness.tidy(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {f"fresh-{os.getpid()}", "store-tiny"}


def test_the_table_is_there_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    report.show("fruit", ["name", "n"], [["apple", "1"], ["fig", "20"]], numbers_from=1)
    assert capsys.readouterr().out.splitlines() == ["fruit", "name    n", "apple   1", "fig    20"]


def test_the_peak_of_own_memory_is_seen_and_that_of_files_is_not(
    options: Options, tmp_path: Path
) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell")
    path = tmp_path / "file"
    path.write_bytes(bytes(96 << 20))
    of = Run(options, None)
    with of.measuring(1, watched=True):
        low = harness.memory()["anonymous_bytes"]
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert sum(mapped[:: mmap.PAGESIZE]) == 0
    assert of.found["peak_anonymous_bytes"] < low + (48 << 20)
    with of.measuring(1, watched=True):
        taken = bytearray(b"x") * (96 << 20)
        time.sleep(0.05)
        del taken
    assert of.found["peak_anonymous_bytes"] > low + (80 << 20)


# ── histories, labels and what the answer is ─────────────────────────────────────────────────


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("text", [False, True])
def test_the_truth_of_a_join_is_what_a_plain_search_finds(skewed: bool, text: bool) -> None:
    history = History("h", 300, 20, features=2, skewed=skewed, text=text)
    table = history.table(7)
    labels, places = histories.draw_labels([history], 400, 7)
    rows = list(enumerate(table.to_pylist()))
    for label, place in zip(labels.to_pylist(), places["h"], strict=True):
        known = [
            (row["event_time"], at)
            for at, row in rows
            if row["entity"] == label["entity"] and row["event_time"] <= label["event_time"]
        ]
        assert place == (max(known)[1] if known else -1)
        assert sum(time == max(known)[0] for time, _ in known) == 1 if known else True
    assert 0 < (places["h"] < 0).sum() < 200
    assert len({row["entity"] for _, row in rows}) == 20 or skewed


def test_labels_may_be_of_few_keys_and_all_be_answered() -> None:
    history = History("h", 300, 100)
    labels, _ = histories.draw_labels([history], 400, 7, keys=5)
    assert len(set(labels["entity"].to_pylist())) <= 5
    _, places = histories.draw_labels([History("h", 300, 100, complete=True)], 400, 7)
    assert (places["h"] >= 0).all()


@pytest.mark.parametrize("change", ["value", "row", "null", "column"])
def test_an_answer_that_differs_in_one_place_has_another_sum(change: str) -> None:
    answer = pa.table({"row": [0, 1, 2], "x": [0.0, 1.5, None], "y": [1.0, 1.0, 1.0]})
    other = {
        "value": pa.table({"row": [0, 1, 2], "x": [-0.0, 1.5, None], "y": [1.0, 1.0, 1.0]}),
        "row": pa.table({"row": [1, 0, 2], "x": [0.0, 1.5, None], "y": [1.0, 1.0, 1.0]}),
        "null": pa.table({"row": [0, 1, 2], "x": [None, 1.5, 0.0], "y": [1.0, 1.0, 1.0]}),
        "column": pa.table({"row": [0, 1, 2], "y": [0.0, 1.5, None], "x": [1.0, 1.0, 1.0]}),
    }[change]
    shuffled = answer.take([2, 0, 1])
    names = ["x", "y"]
    assert histories.checksum(shuffled, names) == histories.checksum(answer, names)
    assert histories.checksum(other, names) != histories.checksum(answer, names)


def test_a_join_that_answers_wrongly_is_no_result(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    [case] = [c for c in harness.load("point_in_time").CASES if c.name == "few_labels"]
    right = histories.checksum
    monkeypatch.setattr(histories, "checksum", lambda *given: right(*given) + 1)
    with pytest.raises(BenchmarkFailed, match=r"read: "):
        harness.run_case("point_in_time", case, options, lambda _: None, do=harness.in_place)


# ── the rows and the peers' bytes ────────────────────────────────────────────────────────────


def test_rows_come_from_the_seed_alone() -> None:
    assert datasets.entities(50, 1).equals(datasets.entities(50, 1))
    assert not datasets.entities(50, 1).equals(datasets.entities(50, 2))
    assert datasets.history(50, 5, 1).equals(datasets.history(50, 5, 1))


def test_history_is_unsorted_and_without_ties() -> None:
    table = datasets.history(1000, 30, 0)
    rows = list(zip(*(table.column(c).to_pylist() for c in ("entity", "event_time")), strict=True))
    assert len(set(rows)) == 1000
    assert {entity for entity, _ in rows} == set(range(30))
    assert sum(a > b for a, b in itertools.pairwise(rows)) > 300


def test_updates_are_newer_than_what_they_update() -> None:
    before, after = datasets.entities(100, 0), datasets.updates(40, 100, 0)
    times = dict(
        zip(*(before.column(c).to_pylist() for c in ("entity", "event_time")), strict=True)
    )
    assert len(set(after.column("entity").to_pylist())) == 40
    assert all(row["event_time"] > times[row["entity"]] for row in after.to_pylist())
    assert before.schema == after.schema
    assert 0 < before.column("f00").null_count < 50


def test_peers_are_given_the_bytes_the_store_has(options: Options) -> None:
    for step in (online_world.ENTITIES, online_world.STORE):
        of = Run(options, online_world.SIZES["tiny"])
        if not harness.step_folder(step, options, of.size).exists():
            harness.do_step(step, of)
    store = of.path(online_world.STORE) / "store"
    puts = dict(peers.Bytes(store, online_world.GROUP).puts(online_world.table(of)))
    with peers.lmdb_latest(store / "engine") as (env, latest), env.begin(db=latest) as txn:
        stored = {bytes(key): bytes(value) for key, value in txn.cursor()}
    assert set(puts) == set(stored)
    assert {len(value) for value in stored.values()} == {224}
    # All but checksum, seq and write time, which are the commit's.
    assert all(same_payload(stored[key], puts[key]) for key in puts)


# ── the C peer ───────────────────────────────────────────────────────────────────────────────


def test_what_c_is_given_and_gives_back_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [(b"a", b""), (b"key" * 9, b"value" * 100)]
    peers.write_puts(tmp_path / "puts", rows)
    assert peers.read_puts(tmp_path / "puts") == rows
    parts = [len(v).to_bytes(4, "little") + v for _, v in rows]
    (tmp_path / "values").write_bytes(b"".join(parts))
    assert peers.read_values(tmp_path / "values") == [v for _, v in rows]


def test_c_puts_and_gets_what_it_was_given(options: Options, tmp_path: Path) -> None:
    if why := peers.c_compiler(options):
        pytest.skip(why)
    rows = sorted((f"key {n * 7919 % 1000}".encode(), b"v" * (n % 300 * 40)) for n in range(1000))
    peers.write_puts(tmp_path / "puts", rows)
    peers.write_keys(tmp_path / "keys", [key for key, _ in rows] + [b"nobody"])
    (tmp_path / "env").mkdir()
    of = Run(options, None)
    peers.run_c(of, "load", tmp_path / "env", "latest", tmp_path / "puts", 300)
    assert of.found["units"] == 1000
    changed = [(key, value + b"!") for key, value in reversed(rows)]
    peers.write_puts(tmp_path / "puts", changed)
    arguments = [tmp_path / "env", "latest", tmp_path / "puts", 300, "nosync", "sorted", "both"]
    peers.run_c(of, "put", *arguments)
    assert (of.found["units"], of.found["calls"]) == (700, 3)  # the first of four warms up
    out = tmp_path / "values"
    arguments = [tmp_path / "env", "latest", tmp_path / "keys", 7, "renew", tmp_path / "keys", out]
    peers.run_c(of, "get", *arguments)
    assert of.found["units"] == math.ceil(1001 / 7)
    assert of.found["found"] == 2 * 1000
    assert peers.read_values(out) == [value + b"!" for _, value in rows] + [b""]
    with peers.lmdb_latest(tmp_path / "env") as (env, _), env.begin() as txn:
        # A megabyte an entry: the full transactions take two, and every record is in one.
        history = env.open_db(b"bench_history", txn=txn, create=False)
        entries = [bytes(value) for _, value in txn.cursor(history)]
        assert txn.stat(env.open_db(b"bench_commits", txn=txn, create=False))["entries"] == 4
    assert len(entries) == 2 + 2 + 2 + 1
    assert max(map(len, entries)) < (1 << 20) + 13_000
    assert sum(map(len, entries)) == sum(2 + len(k) + len(v) for k, v in changed)


@pytest.mark.parametrize(
    ("requirements", "pinned"),
    [(feast_peer.REQUIREMENTS, "feast[redis]==0.67"), (ray_peer.REQUIREMENTS, "ray[data]==2.60")],
)
def test_a_peer_in_an_environment_of_its_own_is_pinned(requirements: Path, pinned: str) -> None:
    lines = requirements.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith(pinned) for line in lines)
