"""Training jobs: a script, or an algorithm by its name, run beside the store and written down.

::

    job = train(store, entry="train.py", channels={"train": ts}, params={"depth": 6})

    Starting ─► Downloading ─► Training ─► (Evaluating) ─► Uploading ─► Completed
                    ▲             │  └──────────────────────────────►  Failed
                    │             └─► Stopping ──► Stopped, MaxRuntimeExceeded, MaxWaitTimeExceeded
                    └─ Interrupted ◄┘ (spot)

The job's code and data are copied first, so what the record says is what ran.  A job made with
``spot`` may be interrupted at any time, by its plan or by :func:`interrupt`; it is then started
again with the checkpoints it has left, and is to end with the same weights as one that was not:
see :mod:`featurestore.training.checkpoint`.

A supervisor that dies takes the job with it; :func:`resume` goes on from its checkpoints.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, UnknownJob
from featurestore.event_time import duration_us
from featurestore.jobs import records, series
from featurestore.storage import files
from featurestore.training import contract, experiments, lineage
from featurestore.training.contract import Folders
from featurestore.training.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, timedelta

    from featurestore.jobs.records import Record
    from featurestore.jobs.series import Point
    from featurestore.store import FeatureStore

    #: Is given each metric as it comes; returns a reason to stop the job, or ''.
    Watch = Callable[[str, int, float], str]

PREFIX = "train"


@dataclass(frozen=True)
class SpotPlan:
    """When a job is interrupted, as a machine is that somebody else needs.

    Parameters
    ----------
    kill_at : sequence of float
        Seconds after the start of the first attempt, the second, and so on; attempts beyond the
        list are left alone.
    notice : float
        Seconds between SIGTERM and SIGKILL.
    wait : float
        Seconds until there is a machine again.
    """

    kill_at: Sequence[float] = ()
    notice: float = 2.0
    wait: float = 0.0


class Job:
    """A training job; made by :func:`train` and :func:`get`.

    What it says is read from its record each time: another process may run it.
    """

    def __init__(
        self, store: FeatureStore, name: str, thread: threading.Thread | None = None
    ) -> None:
        self._store = store
        self._thread = thread
        self.name = name
        self.folders = Folders(records.folder(store, f"{PREFIX}/{name}"))

    def __repr__(self) -> str:
        record = self.record
        metrics = ", ".join(f"{name}={value:.6g}" for name, value in self.metrics.items())
        reason = f": {record['failure']}" if record.get("failure") else ""
        return f"Job({self.name!r}, {record['status']}{reason}{', ' if metrics else ''}{metrics})"

    @property
    def record(self) -> Record:
        """All that is kept of it, as JSON values."""
        return records.get(self._store, f"{PREFIX}/{self.name}")

    @property
    def status(self) -> str:
        """``InProgress``, ``Completed``, ``Failed``, ``Stopping`` or ``Stopped``."""
        return str(self.record["status"])

    @property
    def transitions(self) -> list[tuple[str, datetime, datetime | None, str]]:
        """Each finer status it had: the status, from when, until when, and why."""
        return records.times(self.record)

    @property
    def abandoned(self) -> bool:
        """Whether it is in progress and the process that ran it is gone: :func:`resume` it."""
        return records.is_abandoned(self._store, self.record)

    @property
    def metrics(self) -> dict[str, float]:
        """What each metric was last, and what the evaluation said."""
        return dict(self.record.get("metrics", {}))

    @property
    def points(self) -> list[Point]:
        """Each metric by step."""
        return series.read(self._store, f"{PREFIX}/{self.name}")

    @property
    def model(self) -> Path:
        """The folder of the model."""
        return self.folders.model

    @property
    def failure(self) -> str:
        """Why it failed; empty if it did not."""
        return str(self.record.get("failure", ""))

    def logs(self) -> str:
        """Return what it has printed, all attempts."""
        found = sorted(self.folders.logs.glob("*.log"), key=lambda path: path.stat().st_mtime_ns)
        return "".join(path.read_text("utf-8", "replace") for path in found)

    def wait(self, timeout: float | None = None) -> Job:
        """Wait for its end, at most so many seconds; returns itself."""
        if self._thread is not None:
            self._thread.join(timeout)
        else:
            Supervisor.await_end(self._store, f"{PREFIX}/{self.name}", timeout)
        return self


def train(
    store: FeatureStore,
    *,
    entry: str | Path | None = None,
    algorithm: str | None = None,
    channels: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    name: str | None = None,
    source_dir: str | Path | None = None,
    input_mode: str = "File",
    pipe_format: str = "recordio",
    shuffle_seed: int | None = None,
    metrics: Mapping[str, str] | None = None,
    evaluate: str | Path | None = None,
    spot: bool | SpotPlan = False,
    max_runtime: str | timedelta = "1d",
    max_wait: str | timedelta | None = None,
    grace: str | timedelta = "2m",
    network_isolation: bool = False,
    memory_limit: int = 0,
    environment: Mapping[str, str] | None = None,
    experiment: str = "",
    parent: str = "",
    wait: bool = True,
    watch: Watch | None = None,
) -> Job:
    """Run a training job.

    Parameters
    ----------
    store : FeatureStore
        Where it is written down, and under whose directory it runs.
    entry : path, optional
        The script: Python, or shell by its suffix ``.sh``.
    algorithm : str, optional
        Instead of a script; see :mod:`featurestore.training.algorithms`.
    channels : mapping
        Name -> a training set, a path, or a table.
    params : mapping
        Hyperparameters: numbers, texts, lists of them.
    name : str, optional
        Unique; 1 to 63 letters, digits and ``-``.
    source_dir : path, optional
        A folder whose content goes along with the script, which is a path in it.
    input_mode : {"File", "FastFile", "Pipe"}
        Whether channels are copied, shown as they are, or (training sets) fed into named pipes.
    pipe_format : {"recordio", "csv", "arrow", "libsvm"}
        What is fed into pipes.
    shuffle_seed : int, optional
        Feed pipes in an order of this seed, another one in each epoch.
    metrics : mapping, optional
        Metric -> regular expression, matched with each line of the log: its first group is the
        value, a group named ``step`` the step.
    evaluate : path, optional
        A script that runs after the training, in the same surroundings, and writes numbers to
        ``evaluation.json`` in ``SM_OUTPUT_DATA_DIR``: they become metrics.
    spot : bool or SpotPlan
        Whether it may be interrupted.
    max_runtime : str or timedelta
        All attempts together; then it is stopped.
    max_wait : str or timedelta, optional
        With ``spot``: the same, the time between attempts included.
    grace : str or timedelta
        Between SIGTERM and SIGKILL, when it is stopped.
    network_isolation : bool
        Without any network; refused where that cannot be had.
    memory_limit : int
        Bytes of address space of each process; 0 for no limit.
    environment : mapping, optional
        Variables of its own.  None of this process's are passed on, but for where programs are and
        how to write text.
    experiment : str
        The experiment of which it is a run.
    parent : str
        The job that made it.
    wait : bool
        Whether to return when it is over, or at once.
    watch : callable, optional
        ``(metric, step, value) -> reason``: a reason other than '' stops the job.

    Returns
    -------
    Job
        Also of a job that failed: ask its ``status``.

    Raises
    ------
    InvalidInput
        For a request that cannot be; nothing has run then.
    """
    name = records.check_name(
        name if name is not None else records.fresh_name(_stem(entry, algorithm))
    )
    params = dict(params or {})
    plan = spot if isinstance(spot, SpotPlan) else SpotPlan()
    spec = {
        "params": params,
        "input_mode": input_mode,
        "pipe_format": pipe_format,
        "shuffle_seed": shuffle_seed,
        "patterns": _patterns(metrics, algorithm),
        "spot": None if spot is False else [list(plan.kill_at), plan.notice, plan.wait],
        "max_runtime_us": duration_us(max_runtime, what="max_runtime"),
        "max_wait_us": None if max_wait is None else duration_us(max_wait, what="max_wait"),
        "grace_us": duration_us(grace, what="grace"),
        "network_isolation": network_isolation,
        "memory_bytes": memory_limit,
        # An algorithm by name works on one thread: the same model each time, and room for others.
        "environment": {**({"OMP_NUM_THREADS": "1"} if algorithm else {}), **(environment or {})},
        "experiment": experiment,
        "evaluate": "",
    }
    if algorithm is not None and input_mode == "Pipe":
        raise InvalidInput("An algorithm by name reads its rows more than once; use File.")
    job = Job(store, name)
    program = _program(entry, algorithm, source_dir)
    facts = {
        "algorithm": algorithm or "",
        "spec": spec,
        "lineage": {
            "code": program.lineage,
            "environment": lineage.environment(),
            "seq": store.snapshot(),
            "parent": parent,
        },
    }
    with contextlib.ExitStack() as held:
        held.enter_context(records.running(store, f"{PREFIX}/{name}"))
        # Its lock is held: one that is there and never began has died on the way.
        records.create(store, f"{PREFIX}/{name}", facts, instead_of=never_began)
        files.remove_folder(job.folders.ml)
        if experiment:
            experiments.begin(store, experiment, name, job=f"{PREFIX}/{name}")
        if _prepare(store, job, program, channels or {}, evaluate):
            return job
        return _supervise(store, job, watch, held.pop_all(), wait=wait)


def never_began(record: Record) -> bool:
    """Return whether a job's process died before its data was there: it is to begin anew."""
    return record["status"] not in records.ENDED and "argv" not in record


def get(store: FeatureStore, name: str) -> Job:
    """Return a job by its name.

    Raises
    ------
    UnknownJob
    """
    if store.documents.get(records.KIND, f"{PREFIX}/{name}") is None:
        raise UnknownJob(
            f'There is no training job "{name}".{records.suggest(store, PREFIX, name)}'
        )
    return Job(store, name)


def jobs(store: FeatureStore) -> list[Job]:
    """Return all training jobs, by name."""
    names = records.every(store, f"{PREFIX}/")
    return [Job(store, name.partition("/")[2]) for name in names]


def stop(store: FeatureStore, name: str) -> None:
    """Ask a job to stop, whichever process runs it; it has its grace, then it is killed."""
    get(store, name)

    def change(record: Record | None) -> Record | None:
        if record is None or record["status"] in records.ENDED:
            return record
        return {**record, "asked": "stop"}

    store.documents.update(records.KIND, f"{PREFIX}/{name}", change)


def interrupt(store: FeatureStore, name: str, *, notice: float = 2.0) -> None:
    """Take a spot job's machine away: SIGTERM, after ``notice`` seconds SIGKILL; it comes again.

    Raises
    ------
    InvalidInput
        For a job that was not made with ``spot``.
    """
    record = get(store, name).record
    if record["spec"]["spot"] is None:
        raise InvalidInput(f'The job "{name}" was not made with spot; stop() it instead.')
    attempt = record.get("attempts", 0)
    records.note(store, record["name"], interrupt=[attempt, notice])


def resume(store: FeatureStore, name: str, *, wait: bool = True, watch: Watch | None = None) -> Job:
    """Run an abandoned job on, from its last whole checkpoint.

    Raises
    ------
    InvalidInput
        When it is over, or somebody runs it.
    """
    job = get(store, name)
    record = job.record
    if record["status"] in records.ENDED:
        raise InvalidInput(f'The job "{name}" is over: {record["status"]}.')
    if "argv" not in record:
        records.move(
            store, record["name"], "Failed", status=records.FAILED,
            failure="Its process died before its data was there.",
        )  # fmt: skip
        return job
    held = contextlib.ExitStack()
    held.enter_context(records.running(store, record["name"]))
    return _supervise(store, job, watch, held, wait=wait)


# ── inside ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Program:
    """What is run: where it comes from, what goes along, and how it is called."""

    source: Path | None
    entry: str
    argv: tuple[str, ...]
    lineage: dict[str, Any]


def _stem(entry: str | Path | None, algorithm: str | None) -> str:
    stem = algorithm or (Path(entry).stem if entry is not None else "job")
    return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:30] or "job"


def _program(
    entry: str | Path | None, algorithm: str | None, source_dir: str | Path | None
) -> _Program:
    if (entry is None) == (algorithm is None):
        raise InvalidInput("Give a script as entry=, or an algorithm= by its name; one of them.")
    if algorithm is not None:
        from featurestore.training import algorithms

        algorithms.require(algorithm)
        called = (sys.executable, "-m", "featurestore.training.algorithms", algorithm)
        made_of = lineage.code(Path(algorithms.__file__).parent)
        return _Program(None, "", called, {**made_of, "entry": algorithm})
    assert entry is not None  # noqa: S101  one of the two was given
    if source_dir is None:
        script = Path(entry).expanduser().absolute()
        source, relative = script, script.name
    else:
        source = Path(source_dir).expanduser().absolute()
        script, relative = source / entry, str(entry)
    if not script.is_file():
        raise InvalidInput(f"The script {script} is not there.")
    runner = "/bin/sh" if script.suffix == ".sh" else sys.executable
    return _Program(source, relative, (runner, relative), lineage.code(source))


def _patterns(metrics: Mapping[str, str] | None, algorithm: str | None) -> dict[str, str]:
    patterns = dict(metrics or {})
    if algorithm is not None:
        from featurestore.training import algorithms

        patterns = {**algorithms.PATTERNS, **patterns}
    for metric, pattern in patterns.items():
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise InvalidInput(
                f'The pattern of the metric "{metric}" is wrong: {error}.'
            ) from error
        if groups < 1:
            raise InvalidInput(
                f'The pattern of the metric "{metric}", {pattern!r}, has no group; put the number '
                "in parentheses."
            )
    return patterns


def _prepare(
    store: FeatureStore,
    job: Job,
    program: _Program,
    channels: Mapping[str, Any],
    evaluate: str | Path | None,
) -> str:
    """Put code and data in place; returns why the job has failed of it, or ''."""
    name = f"{PREFIX}/{job.name}"
    record = records.move(store, name, "Downloading")
    spec, folders = record["spec"], job.folders
    try:
        folders.make()
        if program.source is not None and program.source.is_dir():
            shutil.copytree(program.source, folders.code, dirs_exist_ok=True)
        elif program.source is not None:
            shutil.copy2(program.source, folders.code)
        if evaluate is not None:
            script = Path(evaluate).expanduser().absolute()
            shutil.copy2(script, folders.code / script.name)
            spec = {**spec, "evaluate": script.name}
        inputs = {
            channel: contract.fill_channel(folders, channel, given, spec["input_mode"])
            for channel, given in channels.items()
        }
        contract.write_config(folders, spec["params"], inputs)
    except (InvalidInput, OSError) as error:
        records.move(store, name, "Failed", status=records.FAILED, failure=str(error))
        if isinstance(error, InvalidInput):
            raise
        return str(error)
    env = contract.variables(folders, job.name, spec["params"], inputs, program.entry)
    called = [*program.argv, *contract.arguments(spec["params"])]
    data_lineage = {**record["lineage"], "channels": inputs}
    records.note(store, name, spec=spec, argv=called, variables=env, lineage=data_lineage)
    return ""


def _supervise(
    store: FeatureStore,
    job: Job,
    watch: Watch | None,
    held: contextlib.ExitStack,
    *,
    wait: bool,
) -> Job:
    """Run a job whose lock is held, here or on a thread."""
    supervisor = Supervisor(store, f"{PREFIX}/{job.name}", job.folders, watch, held)
    if wait:
        supervisor.run()
        return job
    thread = threading.Thread(target=supervisor.run, name=f"job-{job.name}", daemon=True)
    thread.start()
    return Job(store, job.name, thread)
