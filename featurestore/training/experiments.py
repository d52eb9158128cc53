"""Experiments: runs with their parameters, metrics by step, and artefacts; compared as a table.

::

    with run(store, "late", "deeper") as r:
        r.param(depth=8)
        for step, loss in enumerate(losses):
            r.metric("loss", loss, step=step)
        r.artifact("roc.png")
    compare(store, "late", by="min:loss")

A training job made with ``experiment="late"`` is a run of it by itself.  What a run tells is
written as it comes (see :mod:`featurestore.jobs.series`); a run whose process died is there with
what it had told, ``InProgress``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from featurestore.errors import InvalidInput, UnknownJob, did_you_mean
from featurestore.event_time import to_datetime
from featurestore.jobs import records, series
from featurestore.models.artefacts import sha256
from featurestore.schema import check_name
from featurestore.storage import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

    from featurestore.jobs.records import Record
    from featurestore.jobs.series import Point
    from featurestore.store import FeatureStore

KIND = "run"


class Run:
    """A run; made by :func:`run`, found by :func:`runs`.

    As a context manager it ends ``Completed``, or ``Failed`` if the block raises.
    """

    def __init__(self, store: FeatureStore, experiment: str, name: str) -> None:
        self._store = store
        self.experiment = experiment
        self.name = name
        self._key = f"{experiment}/{name}"
        self._series = series.Series(store, f"{KIND}/{self._key}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.end(records.COMPLETED if kind is None else records.FAILED)

    def __repr__(self) -> str:
        return f"Run({self.experiment!r}, {self.name!r}, {self.status})"

    # ── telling ──────────────────────────────────────────────────────────────────────────────

    def param(self, **values: Any) -> None:
        """Tell parameters: numbers, texts, lists of them."""
        self._note(lambda found: {"params": {**found["params"], **values}})

    def metric(self, name: str, value: float, *, step: int | None = None) -> None:
        """Tell a metric's value, at a step or after the last."""
        self._series.add(name, value, step)

    def artifact(self, path: str | Path, name: str = "") -> Path:
        """Keep a copy of a file; returns where, which is named by its sha-256."""
        source = Path(path).expanduser()
        digest = sha256(source)
        folder = self._store.path / "runs" / "artefacts" / digest
        target = folder / source.name
        if not target.exists():
            temporary = folder.with_name(f".{digest}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            shutil.copyfile(source, temporary / source.name)
            files.publish_folder(temporary, folder)
        entry = {name or source.name: [digest, source.name]}
        self._note(lambda found: {"artefacts": {**found["artefacts"], **entry}})
        return target

    def end(self, status: str) -> None:
        """End it; what comes after is not told any more."""
        self._series.flush()
        now_us = self._store.documents.now_us()
        self._note(lambda _: {"status": status, "ended_at_us": now_us})

    def _note(self, change: Callable[[Record], Record]) -> None:
        def changed(found: Record | None) -> Record:
            assert found is not None  # noqa: S101  it was begun
            return {**found, **change(found)}

        self._store.documents.update(KIND, self._key, changed)

    # ── what was told ────────────────────────────────────────────────────────────────────────

    @property
    def record(self) -> dict[str, Any]:
        """All that is kept of it; of a job's run, with the job's parameters and status."""
        return _record(self._store, self._key, self._store.documents.get(KIND, self._key) or {})

    @property
    def status(self) -> str:
        """As of a job."""
        return str(self.record["status"])

    @property
    def params(self) -> dict[str, Any]:
        """Its parameters."""
        return dict(self.record["params"])

    @property
    def metrics(self) -> dict[str, float]:
        """What each metric was last."""
        return series.final(self.points)

    @property
    def points(self) -> list[Point]:
        """Each metric by step."""
        self._series.flush()
        return series.read(self._store, self.record["points"])

    @property
    def artefacts(self) -> dict[str, Path]:
        """Its artefacts: name -> the file."""
        kept = self.record["artefacts"]
        base = self._store.path / "runs" / "artefacts"
        return {name: base / digest / file for name, (digest, file) in kept.items()}


def run(store: FeatureStore, experiment: str, name: str | None = None) -> Run:
    """Begin a run of an experiment.

    Raises
    ------
    InvalidInput
        When there is a run of that name.
    """
    check_name(experiment, "experiment")
    name = check_name(name if name is not None else records.fresh_name("run"), "run")
    begin(store, experiment, name)
    return Run(store, experiment, name)


def begin(store: FeatureStore, experiment: str, name: str, *, job: str = "") -> None:
    """Write the beginning of a run; of a job's, with the job's name."""
    now_us = store.documents.now_us()

    def change(found: dict[str, Any] | None) -> dict[str, Any]:
        if found is not None:
            raise InvalidInput(f'There is a run "{name}" of "{experiment}" already.')
        return {
            "status": records.IN_PROGRESS,
            "created_at_us": now_us,
            "params": {},
            "artefacts": {},
            "job": job,
        }

    store.documents.update(KIND, f"{experiment}/{name}", change)


def runs(store: FeatureStore, experiment: str) -> list[Run]:
    """Return the runs of an experiment, by name.

    Raises
    ------
    UnknownJob
        When there are none.
    """
    found = store.documents.every(KIND, f"{experiment}/")
    if not found:
        known = {key.partition("/")[0] for key in store.documents.every(KIND)}
        raise UnknownJob(f'There is no experiment "{experiment}".{did_you_mean(experiment, known)}')
    return [Run(store, experiment, key.partition("/")[2]) for key in found]


def compare(store: FeatureStore, experiment: str, *, by: str = "") -> pa.Table:
    """Return the runs of an experiment as a table.

    Parameters
    ----------
    store, experiment
        Which.
    by : str
        ``"max:<metric>"`` or ``"min:<metric>"``: the best first, those without it last.

    Returns
    -------
    pyarrow.Table
        ``run``, ``status``, ``started``, ``seconds``; ``params.<name>`` for each parameter and
        ``metrics.<name>`` for each metric that some run has, null where a run has not.
    """
    import pyarrow as pa

    found = runs(store, experiment)
    rows = [(r, r.record, r.metrics) for r in found]
    if by:
        direction, _, metric = by.partition(":")
        if direction not in ("max", "min") or not metric:
            raise InvalidInput(f'by= is {by!r}; give "max:<metric>" or "min:<metric>".')
        sign = -1.0 if direction == "max" else 1.0
        rows.sort(key=lambda row: (metric not in row[2], sign * row[2].get(metric, 0.0)))
    columns: dict[str, list[Any]] = {
        "run": [r.name for r, _, _ in rows],
        "status": [record["status"] for _, record, _ in rows],
        "started": [to_datetime(record["created_at_us"]) for _, record, _ in rows],
        "seconds": [_seconds(record) for _, record, _ in rows],
    }
    for name in sorted({n for _, record, _ in rows for n in record["params"]}):
        values = [record["params"].get(name) for _, record, _ in rows]
        columns[f"params.{name}"] = _one_type(values)
    for name in sorted({n for _, _, metrics in rows for n in metrics}):
        columns[f"metrics.{name}"] = [metrics.get(name) for _, _, metrics in rows]
    return pa.table(columns)


def _one_type(values: list[Any]) -> list[Any]:
    """Return values as a column can hold them: texts, where they are of several kinds."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        return [float(v) if kinds == {int, float} and v is not None else v for v in values]
    return [None if value is None else str(value) for value in values]


def _seconds(record: Mapping[str, Any]) -> float | None:
    if "ended_at_us" not in record:
        return None
    return float(record["ended_at_us"] - record["created_at_us"]) / 1e6


def _record(store: FeatureStore, key: str, found: dict[str, Any]) -> dict[str, Any]:
    job = store.documents.get(records.KIND, found["job"]) if found["job"] else None
    if job is None:
        return {**found, "points": f"{KIND}/{key}"}
    told: Record = {name: job[name] for name in ("status", "ended_at_us") if name in job}
    params = {**job["spec"]["params"], **found["params"]}
    return {**found, **told, "params": params, "points": found["job"]}
