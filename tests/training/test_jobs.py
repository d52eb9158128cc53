"""Training jobs: what a script finds, what is written down, and what no kill can change."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

import featurestore as fs
from featurestore import models, training
from featurestore.jobs import process, records
from featurestore.training.checkpoint import Checkpoints
from tests.training.scripts import LOOK, SGD, script

if TYPE_CHECKING:
    from collections.abc import Callable


def statuses(job: training.Job) -> list[str]:
    return [status for status, *_ in job.transitions]


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something that comes; the suite's own limit says when it never does."""
    while not (found := condition()):
        time.sleep(0.01)
    return found


# ── the contract ─────────────────────────────────────────────────────────────────────────────


def test_a_script_finds_what_sagemaker_promises_and_nothing_else(
    store: fs.FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    (tmp_path / "own-home" / ".aws").mkdir(parents=True)
    (tmp_path / "own-home" / ".aws" / "credentials").write_text("hunter2")
    monkeypatch.setenv("HOME", str(tmp_path / "own-home"))
    (tmp_path / "val.csv").write_text("1,2\n")
    (tmp_path / "open").write_text("hunter2")
    with (tmp_path / "open").open() as kept_open:
        os.set_inheritable(kept_open.fileno(), True)
        job = training.train(
            store,
            entry=script(tmp_path, "look.py", LOOK),
            channels={"train": pa.table({"late": [1], "a": [2.0]}), "val": tmp_path / "val.csv"},
            params={"depth": 6, "lr": 0.5, "kind": "tree"},
            environment={"MINE": "yes"},
            name="look-1",
        )
    assert job.status == "Completed", job.logs()
    seen = json.loads((job.folders.output / "data" / "seen.json").read_text())
    env = seen["env"]
    assert "hunter2" not in json.dumps(seen)
    assert seen["home"] == []
    assert len(seen["fds"]) == 4  # three, and the one that lists them
    assert set(env) - set(process.INHERITED) - {"HOME", "MINE", "PYTHONUNBUFFERED", "LC_CTYPE"} == {
        name for name in env if name.startswith(("SM_", "TRAINING_JOB_"))
    }
    assert env["MINE"] == "yes"
    assert json.loads(env["SM_HPS"]) == {"depth": 6, "lr": 0.5, "kind": "tree"}
    assert (env["SM_HP_DEPTH"], env["SM_HP_KIND"]) == ("6", "tree")
    assert json.loads(env["SM_CHANNELS"]) == ["train", "val"]
    assert env["SM_MODEL_DIR"].endswith("ml/model")
    assert env["TRAINING_JOB_NAME"] == "look-1"
    assert seen["argv"] == ["--depth", "6", "--lr", "0.5", "--kind", "tree"]
    assert json.loads(env["SM_USER_ARGS"]) == seen["argv"]
    assert seen["config"]["hyperparameters.json"] == {"depth": "6", "lr": "0.5", "kind": "tree"}
    assert seen["config"]["inputdataconfig.json"]["train"]["TrainingInputMode"] == "File"
    assert seen["config"]["resourceconfig.json"]["hosts"] == ["algo-1"]
    assert seen["data"] == {
        "data/train": False, "data/train/part-0.parquet": False,
        "data/val": False, "data/val/val.csv": False,
    }  # fmt: skip


def test_a_job_that_died_before_its_data_was_there_begins_anew(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    records.create(store, "train/early", {"spec": {}})
    left = training.get(store, "early").folders.data / "train" / "half.csv"
    left.parent.mkdir(parents=True)
    left.write_text("1\n")
    entry = script(tmp_path, "look.py", LOOK)
    job = training.train(store, entry=entry, name="early")
    assert job.status == "Completed", job.logs()
    assert not left.exists()
    with pytest.raises(fs.InvalidInput, match="There is a job"):
        training.train(store, entry=entry, name="early")


def test_fast_file_shows_the_files_themselves(store: fs.FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("1\n")
    job = training.train(
        store,
        entry=script(tmp_path, "look.py", LOOK),
        channels={"train": tmp_path / "in"},
        input_mode="FastFile",
    )
    seen = json.loads((job.folders.output / "data" / "seen.json").read_text())
    assert seen["data"] == {"data/train": True}
    assert (job.folders.data / "train" / "a.csv").read_text() == "1\n"


def test_a_job_is_written_down_with_all_that_is_behind_it(
    open_store: Callable[..., fs.FeatureStore], tmp_path: Path
) -> None:
    store = open_store()
    entry = script(tmp_path, "look.py", LOOK)
    job = training.train(
        store, entry=entry, channels={"train": pa.table({"a": [1]})}, parent="tune/t", name="one"
    )
    store.close()
    record = training.get(open_store(), "one").record
    assert record["status"] == "Completed"
    assert [t["status"] for t in record["transitions"]] == [
        "Starting", "Downloading", "Training", "Uploading", "Completed",
    ]  # fmt: skip
    for earlier, later in zip(record["transitions"], record["transitions"][1:], strict=False):
        assert earlier["start_us"] <= earlier["end_us"] == later["start_us"]
    behind = record["lineage"]
    assert (
        behind["code"]["sha256"]
        == __import__("hashlib").sha256(b"look.py\0" + entry.read_bytes()).hexdigest()
    )
    assert len(behind["environment"]["lock_sha256"]) == len(behind["channels"]["train"]["sha256"])
    assert (behind["seq"], behind["parent"]) == (0, "tune/t")
    assert record["cpu_seconds"] > 0 < record["memory_bytes"]
    assert record["artefact"]["files"][0][0] == "weights.txt"
    assert job.name == "one"


# ── metrics, evaluation, failure ─────────────────────────────────────────────────────────────

TELLING = """
import json, os, sys
print("epoch 3: auc=0.5 loss=nan", flush=True)
print("epoch 4: auc=0.75 loss=1e-3", file=sys.stderr)
open(os.environ["SM_MODEL_DIR"] + "/w", "w").write("w")
"""
EVALUATING = """
import json, os
assert os.listdir(os.environ["SM_MODEL_DIR"]) == ["w"] and os.environ["SM_CHANNEL_TEST"]
json.dump({"test:auc": 0.7, "rows": 9, "note": "fine"},
          open(os.environ["SM_OUTPUT_DATA_DIR"] + "/evaluation.json", "w"))
"""


def test_metrics_are_read_from_the_log_and_from_the_evaluation(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    job = training.train(
        store,
        entry=script(tmp_path, "t.py", TELLING),
        evaluate=script(tmp_path, "e.py", EVALUATING),
        channels={"test": pa.table({"a": [1]})},
        metrics={"auc": r"epoch (?P<step>\d+): auc=([0-9.]+)", "loss": r"loss=(\S+)"},
    )
    assert job.metrics == {"auc": 0.75, "loss": 1e-3, "test:auc": 0.7, "rows": 9.0}
    assert statuses(job)[-3:] == ["Evaluating", "Uploading", "Completed"]
    assert [(p.metric, p.step, p.value) for p in job.points if p.metric == "auc"] == [
        ("auc", 3, 0.5),
        ("auc", 4, 0.75),
    ]
    assert "epoch 4" in job.logs()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("print('so far'); raise SystemExit('no data')", "exit code 1: no data"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11: it said nothing"),
        pytest.param(
            "import os; print('too hot', file=open(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w'))"
            "; raise SystemExit(3)",
            "too hot",
        ),
    ],
)
def test_a_failure_says_why(store: fs.FeatureStore, tmp_path: Path, text: str, why: str) -> None:
    job = training.train(store, entry=script(tmp_path, "t.py", text))
    assert (job.status, job.failure) == ("Failed", why)
    with pytest.raises(fs.InvalidInput, match="is Failed"):
        training.register(store, "late", job)


def test_an_evaluation_that_says_nothing_fails_the_job(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    job = training.train(
        store, entry=script(tmp_path, "t.py", TELLING), evaluate=script(tmp_path, "e.py", "pass")
    )
    assert job.status == "Failed"
    assert "evaluation" in job.failure


def test_what_cannot_be_is_refused_before_anything_runs(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    entry = script(tmp_path, "t.py", "pass")
    for wrong in [
        {"entry": entry, "algorithm": "xgboost"},
        {},
        {"algorithm": "xgbost"},
        {"entry": tmp_path / "nothing.py"},
        {"entry": entry, "name": "has a space"},
        {"entry": entry, "metrics": {"auc": "auc"}},
        {"entry": entry, "metrics": {"auc": "auc=("}},
        {"entry": entry, "channels": {"train": tmp_path / "nowhere"}},
        {"entry": entry, "channels": {"train": 7}},
        {"entry": entry, "params": {str(n): n for n in range(101)}},
    ]:
        with pytest.raises(fs.InvalidInput):
            training.train(store, **wrong)
    training.train(store, entry=entry, name="one")
    with pytest.raises(fs.InvalidInput, match="already"):
        training.train(store, entry=entry, name="one")
    with pytest.raises(fs.UnknownJob, match='Did you mean "one"'):
        training.get(store, "onne")


# ── isolation ────────────────────────────────────────────────────────────────────────────────

CALLING = """
import socket, sys
with socket.socket() as s:
    s.settimeout(5)
    print("reached", s.connect_ex(("127.0.0.1", int(sys.argv[2]))) == 0)
print("interfaces", [name for _, name in socket.if_nameindex()])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_an_isolated_job_reaches_nobody_or_is_refused(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    entry = script(tmp_path, "call.py", CALLING)
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = {"entry": entry, "params": {"port": server.getsockname()[1]}}
        assert "reached True" in training.train(store, **asked).logs()
        try:
            job = training.train(store, **asked, network_isolation=True, name="alone")
        except fs.InvalidInput:
            job = training.get(store, "alone")
            assert (job.status, job.logs()) == ("Failed", "")
            assert "network_isolation=True cannot be had here" in job.failure
        else:
            assert "reached False" in job.logs()
            assert "interfaces ['lo']" in job.logs()


def test_isolation_that_is_not_permitted_is_refused(
    store: fs.FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = tmp_path / "launcher.py"
    source = Path(process._LAUNCHER).read_text()
    launcher.write_text(source.replace("libc.unshare(", "(lambda flags: -1)("))
    monkeypatch.setattr(process, "_LAUNCHER", launcher)
    entry = script(tmp_path, "t.py", "print('I ran')")
    with pytest.raises(fs.InvalidInput, match="the kernel does not permit it"):
        training.train(store, entry=entry, network_isolation=True, name="alone")
    assert training.get(store, "alone").logs() == ""


# ── stopping ─────────────────────────────────────────────────────────────────────────────────

STUBBORN = """
import os, signal, subprocess, sys, time
if "polite" not in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
child = subprocess.Popen([sys.executable, "-c", "import os, time; os.setsid(); time.sleep(600)"])
open(os.environ["SM_MODEL_DIR"] + "/partial", "w").write("half")
print("child", child.pid, flush=True)
time.sleep(600)
"""


def test_a_stopped_job_has_its_grace_and_leaves_nobody_behind(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    job = training.train(store, entry=script(tmp_path, "s.py", STUBBORN), grace="100ms", wait=False)
    until(lambda: "child" in job.logs())
    training.stop(store, job.name)
    job.wait()
    assert job.status == "Stopped"
    assert "no" in job.logs().split()
    pid = int(job.logs().split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert [f[0] for f in job.record["artefact"]["files"]] == ["partial"]
    training.stop(store, job.name)  # it is over: nothing happens
    assert job.status == "Stopped"


def test_a_job_that_runs_too_long_is_stopped(store: fs.FeatureStore, tmp_path: Path) -> None:
    job = training.train(
        store,
        entry=script(tmp_path, "s.py", STUBBORN),
        params={"kind": "polite"},
        max_runtime="300ms",
    )
    assert job.status == "Stopped"
    assert statuses(job)[-1] == "MaxRuntimeExceeded"


# ── the test of tests ────────────────────────────────────────────────────────────────────────

STEPS = 60


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    chance = np.random.default_rng(3)
    features = chance.normal(size=(200, 4))
    np.save(tmp_path / "rows.npy", np.column_stack([features[:, 0] > 0, features]))
    return tmp_path / "rows.npy"


def weights(job: training.Job) -> np.ndarray:
    assert job.status == "Completed", (job.failure, job.logs()[-500:])
    return np.load(job.model / "weights.npy")


def test_a_job_killed_ten_times_ends_with_the_same_weights(
    store: fs.FeatureStore, tmp_path: Path, rows: Path
) -> None:
    asked: dict[str, Any] = {
        "entry": script(tmp_path, "sgd.py", SGD),
        "channels": {"train": rows},
        "params": {"steps": STEPS},
        "metrics": {"loss": r"step=(?P<step>\d+) loss=(\S+)"},
    }
    never_killed = training.train(store, **asked)
    job = training.train(store, **asked, spot=True, name="spot", wait=False)
    for kill in range(10):
        # Somewhere in the attempt, never before it has come a step further.
        until(lambda n=kill: f"step={5 * n + 3} " in job.logs())
        training.interrupt(store, "spot", notice=0)
        until(lambda n=kill: statuses(job).count("Interrupted") == n + 1)
    job.wait()
    assert np.array_equal(weights(job), weights(never_killed))
    assert job.record["attempts"] == 11
    assert statuses(job)[-4:] == ["Starting", "Training", "Uploading", "Completed"]
    # A step that was trained again says the same again: by step there is one history.
    told = [[(p.step, p.value) for p in sorted(j.points, key=lambda p: p.step)]
            for j in (job, never_killed)]  # fmt: skip
    assert told[0] == told[1]
    assert len(list(job.folders.checkpoints.glob("step-*"))) == 2


def test_a_spot_plan_interrupts_and_waits_no_longer_than_it_may(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    entry = script(tmp_path, "s.py", "import time; time.sleep(600)")
    plan = training.SpotPlan(kill_at=[0.0] * 100, notice=0, wait=0.05)
    job = training.train(store, entry=entry, spot=plan, max_wait="400ms")
    assert statuses(job)[-1] == "MaxWaitTimeExceeded"
    assert "Interrupted" in statuses(job)
    other = training.train(store, entry=script(tmp_path, "p.py", "pass"))
    with pytest.raises(fs.InvalidInput, match="not made with spot"):
        training.interrupt(store, other.name)


SUPERVISOR = """
import sys
from pathlib import Path
import featurestore as fs
from featurestore import training
store = fs.open(sys.argv[1], upkeep=False)
training.train(store, entry=sys.argv[2], channels={"train": sys.argv[3]},
               params={"steps": int(sys.argv[4])}, name="orphan")
"""


def test_a_job_dies_with_its_supervisor_and_another_runs_it_on(
    store: fs.FeatureStore, tmp_path: Path, rows: Path
) -> None:
    entry = script(tmp_path, "sgd.py", SGD)
    never_killed = training.train(
        store, entry=entry, channels={"train": rows}, params={"steps": STEPS}
    )
    arguments = [str(store.path), str(entry), str(rows), str(STEPS)]
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, *arguments])
    folder = records.folder(store, "train/orphan")
    log = folder / "logs" / "attempt-1.log"
    until(lambda: log.is_file() and "step=5 " in log.read_text())
    job = training.get(store, "orphan")
    assert not job.abandoned
    with pytest.raises(fs.InvalidInput, match="is running already"):
        training.resume(store, "orphan")
    supervisor.kill()
    supervisor.wait()
    job.wait()
    assert job.abandoned
    assert job.status == "InProgress"
    steps = log.read_text()
    resumed = training.resume(store, "orphan")
    assert log.read_text() == steps, "its process has outlived its supervisor"
    assert np.array_equal(weights(resumed), weights(never_killed))
    with pytest.raises(fs.InvalidInput, match="is over"):
        training.resume(store, "orphan")


def test_a_store_that_is_closed_ends_its_jobs(
    open_store: Callable[..., fs.FeatureStore], tmp_path: Path
) -> None:
    store = open_store()
    job = training.train(
        store, entry=script(tmp_path, "s.py", STUBBORN), wait=False, name="cut-off"
    )
    until(lambda: "child" in job.logs())
    pid = int(job.logs().split()[1])
    threads = threading.active_count()
    store.close()
    job.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert threading.active_count() < threads
    assert training.get(open_store(), "cut-off").abandoned


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=9)
    for step in range(1, 7):
        with checkpoints.save(step) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "state").write_bytes(bytes([step]) * 100)
    newest = [tmp_path / "c" / f"step-{step:08d}" for step in range(1, 7)]
    (newest[5] / "deep" / "state").write_bytes(b"\0" * 99)
    (newest[4] / "deep" / "state").write_bytes(b"\0" * 100)
    (newest[3] / "deep" / "state").unlink()
    (newest[2] / "manifest.json").write_text('{"step": 3, "fil')
    assert checkpoints.latest() == checkpoints.every()[-1]
    assert checkpoints.latest().step == 2
    with checkpoints.save(5) as folder:
        (folder / "state").write_text("again")
    assert checkpoints.latest().step == 5


def test_a_checkpoint_that_fails_is_none_and_costs_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    with checkpoints.save(1) as folder:
        (folder / "state").write_text("whole")
    with pytest.raises(FileNotFoundError), checkpoints.save(2) as folder:
        (folder / "state" / "deep").write_text("half")
    assert [c.step for c in checkpoints.every()] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_completed_job_is_registered_with_what_is_behind_it(
    store: fs.FeatureStore, tmp_path: Path
) -> None:
    made = "import os, shutil; shutil.copy({!r}, os.environ['SM_MODEL_DIR'])\nprint('auc=0.7')"
    onnx = Path(__file__).parents[1] / "models" / "logistic.onnx"
    entry = script(tmp_path, "t.py", made.format(str(onnx)))
    job = training.train(store, entry=entry, metrics={"auc": r"auc=(\S+)"}, name="one")
    version = training.register(store, "late", job)
    assert (version.job, version.metrics) == ("train/one", {"auc": 0.7})
    (job.model / "logistic.onnx").write_bytes(b"other")
    with pytest.raises(fs.CorruptStore):
        training.register(store, "late", job)
    assert len(models.versions(store, "late")) == 1
