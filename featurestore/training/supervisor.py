"""The supervisor: runs a job's attempts one after the other, until it is over.

It looks at the job's record now and then, where any process may have left a wish (stop, interrupt),
at the clock, and at the plan; whichever comes first makes it send SIGTERM, wait, and send SIGKILL.
What it knows that matters is in the record before it acts on it, so that another may go on.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import FeatureStoreError, InvalidInput, StoreClosed
from featurestore.jobs import process, records
from featurestore.jobs.series import Series, final, read
from featurestore.models.artefacts import ArtefactFile, digest_of, sha256
from featurestore.storage import files
from featurestore.training.pipe import Pipe
from featurestore.training.training_set import TrainingSet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from featurestore.jobs.process import Exit
    from featurestore.jobs.records import Record
    from featurestore.store import FeatureStore
    from featurestore.training.contract import Folders

#: How often wishes and limits are looked at.
LOOK_SECONDS = 0.05
_REASON_CHARS = 1024
_PIPE_ROWS = 4096


@dataclass(frozen=True)
class _Ending:
    """Why an attempt is being ended, and how long it is given."""

    secondary: str
    message: str
    grace_seconds: float


class Supervisor:
    """Runs one job; made by :func:`featurestore.training.train` and ``resume``."""

    def __init__(
        self,
        store: FeatureStore,
        name: str,
        folders: Folders,
        watch: Callable[[str, int, float], str] | None,
        held: contextlib.ExitStack,
    ) -> None:
        self._store = store
        self._name = name
        self._folders = folders
        self._watch = watch
        self._reason = ""
        self._held = held

    def run(self) -> None:
        """Run the job to its end, and let go of its lock."""
        with self._held:
            record = records.get(self._store, self._name)
            self._spec = record["spec"]
            self._series = Series(self._store, self._name)
            self._patterns = {m: re.compile(p) for m, p in self._spec["patterns"].items()}
            self._began = time.monotonic()
            try:
                self._attempts(record)
            except StoreClosed:
                return  # the job's processes are gone, and whoever opens the store may resume it
            except FeatureStoreError as error:
                self._fail(str(error))
                if isinstance(error, InvalidInput):
                    raise
            except BaseException:
                # A notebook's Ctrl-C: the processes end with this one's interest in them.
                with contextlib.suppress(FeatureStoreError):
                    self._end("Stopped", records.STOPPED, "its supervisor was interrupted")
                raise

    @staticmethod
    def await_end(store: FeatureStore, name: str, timeout: float | None) -> None:
        """Wait until a job that another runs is over, or abandoned."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while time.monotonic() < until:
            record = records.get(store, name)
            if record["status"] in records.ENDED or records.is_abandoned(store, record):
                return
            time.sleep(LOOK_SECONDS)

    # ── attempts ─────────────────────────────────────────────────────────────────────────────

    def _attempts(self, record: Record) -> None:
        attempt = int(record.get("attempts", 0))
        message = "" if attempt == 0 else "again, from the last checkpoint"
        while True:
            attempt += 1
            records.move(self._store, self._name, "Training", message, attempts=attempt)
            ended, ending = self._attempt(record, attempt)
            self._account(ended)
            if ending is None or ending.secondary != "Interrupted":
                break
            records.move(self._store, self._name, "Interrupted", ending.message)
            if not self._waited():
                self._end("MaxWaitTimeExceeded", records.STOPPED, "no machine in time")
                return
            message = "again, from the last checkpoint"
            records.move(self._store, self._name, "Starting", message)
        if ending is not None:
            self._keep_model()
            self._end(ending.secondary, records.STOPPED, ending.message)
        elif ended.code != 0:
            self._fail(self._why(attempt, ended))
        elif self._evaluated(record):
            records.move(self._store, self._name, "Uploading")
            self._keep_model()
            self._end("Completed", records.COMPLETED, "")

    def _attempt(self, record: Record, attempt: int) -> tuple[Exit, _Ending | None]:
        with contextlib.ExitStack() as pipes:
            for channel, facts in record["lineage"]["channels"].items():
                if facts["mode"] == "Pipe":
                    pipes.enter_context(self._pipe(channel, facts))
            running = self._start(record["argv"], record, f"attempt-{attempt}")
            try:
                return self._until_it_ends(running, attempt, time.monotonic())
            except BaseException:
                running.kill()
                running.wait()
                raise

    def _pipe(self, channel: str, facts: Record) -> Pipe:
        """Return what feeds a channel's pipes: from its beginning, in each attempt."""
        seed = self._spec["shuffle_seed"]
        options = {"shuffle": False} if seed is None else {"seed": seed}
        loader = TrainingSet.open(facts["source"]).loader(batch=_PIPE_ROWS, **options)
        return Pipe(loader, self._folders.data, channel=channel, form=self._spec["pipe_format"])

    def _until_it_ends(
        self, running: process.Process, attempt: int, started: float
    ) -> tuple[Exit, _Ending | None]:
        ending: _Ending | None = None
        kill_at = math.inf
        while (ended := running.wait(LOOK_SECONDS)) is None:
            now = time.monotonic()
            if ending is None:
                ending = self._ending(attempt, now - started)
                if ending is not None:
                    if ending.secondary != "Interrupted":
                        records.note(self._store, self._name, status=records.STOPPING)
                    running.terminate()
                    kill_at = now + ending.grace_seconds
            elif now >= kill_at:
                running.kill()
                kill_at = math.inf
        return ended, ending

    def _start(self, argv: list[str], record: Record, log: str) -> process.Process:
        given = {**record["variables"], **self._spec["environment"]}
        return process.Process(
            argv,
            cwd=self._folders.code,
            env=process.environment(self._folders.home, given),
            log=self._folders.logs / f"{log}.log",
            isolated=self._spec["network_isolation"],
            memory_bytes=self._spec["memory_bytes"],
            on_line=self._line,
        )

    def _ending(self, attempt: int, seconds: float) -> _Ending | None:
        """Return why the attempt is to end now, if it is."""
        spec, grace = self._spec, self._spec["grace_us"] / 1e6
        record = records.get(self._store, self._name)
        if record.get("asked") == "stop":
            return _Ending("Stopped", "on request", grace)
        if self._reason:
            return _Ending("Stopped", self._reason, grace)
        if record.get("seconds", 0.0) + seconds > spec["max_runtime_us"] / 1e6:
            return _Ending("MaxRuntimeExceeded", "it ran longer than max_runtime", grace)
        if self._is_waiting_too_long():
            return _Ending("MaxWaitTimeExceeded", "it took longer than max_wait", grace)
        if spec["spot"] is not None:
            return self._interruption(record, attempt, seconds)
        return None

    def _interruption(self, record: Record, attempt: int, seconds: float) -> _Ending | None:
        kill_at, notice, _ = self._spec["spot"]
        if attempt <= len(kill_at) and seconds >= kill_at[attempt - 1]:
            return _Ending("Interrupted", "the plan takes the machine away", notice)
        asked = record.get("interrupt")
        if asked is not None and asked[0] == attempt:
            return _Ending("Interrupted", "the machine was taken away", asked[1])
        return None

    def _waited(self) -> bool:
        """Wait for a machine; returns whether there was one in time."""
        time.sleep(self._spec["spot"][2])
        return not self._is_waiting_too_long()

    def _is_waiting_too_long(self) -> bool:
        limit_us = self._spec["max_wait_us"]
        return limit_us is not None and time.monotonic() - self._began > limit_us / 1e6

    def _account(self, ended: Exit) -> None:
        before = records.get(self._store, self._name)
        records.note(
            self._store,
            self._name,
            seconds=before.get("seconds", 0.0) + ended.seconds,
            cpu_seconds=before.get("cpu_seconds", 0.0) + ended.cpu_seconds,
            memory_bytes=max(before.get("memory_bytes", 0), ended.memory_bytes),
        )

    # ── what it says ─────────────────────────────────────────────────────────────────────────

    def _line(self, line: str) -> None:
        """Look for metrics in a line of the log."""
        for metric, pattern in self._patterns.items():
            found = pattern.search(line)
            if found is None:
                continue
            named = found.groupdict()
            text = named.get("value") or next(
                (g for i, g in enumerate(found.groups(), 1)
                 if pattern.groupindex.get("step") != i and g is not None),
                None,
            )  # fmt: skip
            try:
                value = float(text or "")
                step = None if named.get("step") is None else int(named["step"])
            except ValueError:
                continue
            point = self._series.add(metric, value, step)
            if self._watch is not None and not self._reason:
                self._reason = self._watch(metric, point.step, point.value)

    def _why(self, attempt: int, ended: Exit) -> str:
        told = self._folders.output / "failure"
        if told.is_file() and (text := told.read_text("utf-8", "replace").strip()):
            return text[:_REASON_CHARS]
        how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
        log = self._folders.logs / f"attempt-{attempt}.log"
        lines = log.read_text("utf-8", "replace").split("\n") if log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{how}: {last}"[:_REASON_CHARS]

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def _evaluated(self, record: Record) -> bool:
        """Run the evaluation, if there is one; returns whether it went well."""
        script = self._spec["evaluate"]
        if not script:
            return True
        records.move(self._store, self._name, "Evaluating")
        argv = [record["argv"][0], script, *record["argv"][2:]]
        running = self._start(argv, record, "evaluate")
        limit = self._spec["max_runtime_us"] / 1e6
        ended = running.wait(limit)
        if ended is None:
            running.kill()
            running.wait()
            self._end("MaxRuntimeExceeded", records.STOPPED, "its evaluation took too long")
            return False
        if ended.code != 0:
            self._fail(f"its evaluation failed with code {ended.code}")
            return False
        path = self._folders.output / "data" / "evaluation.json"
        try:
            told = json.loads(path.read_text("utf-8"))
            numbers = {str(k): float(v) for k, v in told.items() if isinstance(v, (int, float))}
        except (OSError, ValueError, AttributeError) as error:
            self._fail(f"its evaluation left no numbers in {path.name}: {error}")
            return False
        for metric, value in numbers.items():
            self._series.add(metric, value)
        return True

    def _keep_model(self) -> None:
        """Make the model durable, and note what it is."""
        folder = self._folders.model
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in found:
            files.sync_file(path)
        for path in {folder, *(p.parent for p in found)}:
            files.sync_folder(path)
        listed = [_described(folder, path) for path in found]
        artefact: dict[str, Any] | None = None
        if listed:
            artefact = {
                "digest": digest_of(listed),
                "files": [[f.path, f.sha256, f.bytes] for f in listed],
            }
        records.note(self._store, self._name, artefact=artefact)

    def _fail(self, why: str) -> None:
        self._end("Failed", records.FAILED, why, failure=why)

    def _end(self, secondary: str, status: str, message: str, **facts: Any) -> None:
        self._series.flush()
        metrics = final(read(self._store, self._name))
        records.move(
            self._store, self._name, secondary, message, status=status, metrics=metrics, **facts
        )


def _described(folder: Path, path: Path) -> ArtefactFile:
    return ArtefactFile(path.relative_to(folder).as_posix(), sha256(path), path.stat().st_size)
