"""Tuning: jobs over a space of hyperparameters, in search of the best metric.

::

    tuned = tune(store, name="late-1", algorithm="xgboost", channels={"train": a, "validation": b},
                 space={"eta": Float(0.01, 0.3, "log"), "max_depth": Int(3, 10)},
                 objective="max:validation:auc", max_jobs=30, parallel=2)
    tuned.best.params

=============  ==================================================================================
``bayesian``   each trial where those before it were good (Optuna's TPE)
``random``     anywhere
``grid``       every combination, in order
``hyperband``  as ``bayesian``; trials that are behind at a third, a ninth ... of the steps are
               given up
=============  ==================================================================================

A trial is a training job named ``<tuning>-<number>``.  What was drawn for it is written down before
it runs, and how it ended after, so a tuning that was killed goes on when :func:`tune` is called
again with the same request: trials that are over are not run again, one that was running goes on
from its checkpoints.  With ``parallel=1`` the trials are then the same as without the kill.
"""

from __future__ import annotations

import importlib
import math
import statistics
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, NotInstalled, UnknownJob
from featurestore.jobs import records
from featurestore.training import job as train_job
from featurestore.training import space as spaces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from featurestore.store import FeatureStore
    from featurestore.training.space import Parameter, Space

PREFIX, TRIAL = "tune", "tuning-trial"
STRATEGIES = ("bayesian", "random", "grid", "hyperband")
_STUDY = "featurestore.integrations.optuna"


@dataclass(frozen=True)
class Trial:
    """One set of hyperparameters, and what came of it.

    Attributes
    ----------
    number : int
        From 0.
    params : dict
        What was tried.
    state : str
        ``Completed``, ``Stopped`` (given up early), ``Failed`` or ``InProgress``.
    value : float or None
        The objective; of a trial given up early, what it had come to.
    job : str
        The name of its training job.
    """

    number: int
    params: Mapping[str, Any]
    state: str
    value: float | None
    job: str


class Tuning:
    """A tuning; made by :func:`tune` and :func:`tuning`."""

    def __init__(self, store: FeatureStore, name: str) -> None:
        self._store = store
        self.name = name

    def __repr__(self) -> str:
        best = self.best
        found = "" if best is None else f", best {best.value:.6g} with {dict(best.params)}"
        return f"Tuning({self.name!r}, {self.status}, {len(self.trials)} trials{found})"

    @property
    def status(self) -> str:
        """As of a job."""
        return str(records.get(self._store, f"{PREFIX}/{self.name}")["status"])

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order they were drawn."""
        found = self._store.documents.every(TRIAL, f"{self.name}/").values()
        return [Trial(t["number"], t["params"], t["state"], t["value"], t["job"]) for t in found]

    @property
    def best(self) -> Trial | None:
        """The completed trial with the best value; the first of equals."""
        objective = records.get(self._store, f"{PREFIX}/{self.name}")["request"]["objective"]
        return _best(self.trials, is_rising=_objective(objective)[0])

    def table(self) -> pa.Table:
        """Return the trials as a table, a column for each parameter."""
        import pyarrow as pa

        trials = self.trials
        names = sorted({name for trial in trials for name in trial.params})
        columns: dict[str, list[Any]] = {
            "trial": [t.number for t in trials],
            "state": [t.state for t in trials],
            "value": [t.value for t in trials],
            **{f"params.{n}": [t.params.get(n) for t in trials] for n in names},
            "job": [t.job for t in trials],
        }
        return pa.table(columns)


def tune(
    store: FeatureStore,
    *,
    name: str,
    space: Mapping[str, Parameter],
    objective: str,
    strategy: str = "bayesian",
    max_jobs: int | None = None,
    parallel: int = 1,
    early_stop: str = "off",
    warm_start: Sequence[str] = (),
    target: float | None = None,
    patience: int | None = None,
    resources: tuple[int, int] | None = None,
    seed: int = 0,
    **template: Any,
) -> Tuning:
    """Search a space of hyperparameters with training jobs, or go on with a search.

    Parameters
    ----------
    store : FeatureStore
        Where.
    name : str
        Of the tuning; called again with it, it goes on.
    space : mapping
        Hyperparameter -> ``Float``, ``Int`` or ``Choice``.
    objective : str
        ``"max:<metric>"`` or ``"min:<metric>"``: a metric of the jobs.
    strategy : {"bayesian", "random", "grid", "hyperband"}
        See the table above.
    max_jobs : int
        How many trials; a grid has as many as it has combinations, or fewer if this says so.
    parallel : int
        How many at a time.
    early_stop : {"off", "median"}
        Whether a trial is given up whose objective at a step is worse than the median, over the
        trials before it, of the running average up to that step.
    warm_start : sequence of str
        Tunings that are over, with the same objective, whose trials count as known; at most 5.
    target, patience : float, int, optional
        Begin no more trials once one has reached the target, or after so many without a better.
    resources : (int, int), optional
        For ``hyperband``: the least and the most steps of the objective that a trial tells.
    seed : int
        Of all that is drawn.
    **template
        What the jobs have in common, as for :func:`train`; ``params`` are those that stay.

    Returns
    -------
    Tuning

    Raises
    ------
    InvalidInput
        Also when there is a tuning of that name with another request.
    """
    records.check_name(name)
    chosen = spaces.check(space)
    _objective(objective)
    if strategy not in STRATEGIES:
        raise InvalidInput(f"strategy= is {strategy!r}; it is one of {', '.join(STRATEGIES)}.")
    if early_stop not in ("off", "median"):
        raise InvalidInput(f'early_stop= is {early_stop!r}; it is "off" or "median".')
    if (strategy == "hyperband") != (resources is not None):
        raise InvalidInput('resources=(least, most) is given with strategy="hyperband", only.')
    if parallel < 1:
        raise InvalidInput("parallel= is at least 1.")
    combinations = spaces.grid(chosen) if strategy == "grid" else None
    if max_jobs is None and combinations is None:
        raise InvalidInput("Give max_jobs=, the number of trials.")
    known = math.inf if combinations is None else len(combinations)
    request = {
        "space": spaces.as_json(chosen),
        "objective": objective,
        "strategy": strategy,
        "max_jobs": int(min(known, math.inf if max_jobs is None else max_jobs)),
        "early_stop": early_stop,
        "warm_start": list(warm_start),
        "target": target,
        "patience": patience,
        "resources": None if resources is None else list(resources),
        "seed": seed,
        "params": dict(template.get("params") or {}),
        "algorithm": template.get("algorithm") or "",
    }
    record_name = f"{PREFIX}/{name}"
    with records.running(store, record_name):
        is_known = _is_known(store, record_name, request)
        search = _Search(store, name, chosen, request, template, combinations)
        if not is_known:
            records.create(store, record_name, {"request": request})
        search.run(parallel)
    return Tuning(store, name)


def tuning(store: FeatureStore, name: str) -> Tuning:
    """Return a tuning by its name.

    Raises
    ------
    UnknownJob
    """
    if store.documents.get(records.KIND, f"{PREFIX}/{name}") is None:
        raise UnknownJob(f'There is no tuning "{name}".{records.suggest(store, PREFIX, name)}')
    return Tuning(store, name)


def is_worse_than_median(
    value: float, step: int, others: Sequence[Mapping[int, float]], *, is_rising: bool
) -> bool:
    """Return whether a trial is to be given up: SageMaker's median rule.

    Parameters
    ----------
    value, step : float, int
        What the trial's objective is, and when.
    others : sequence of mapping
        Step -> value of the trials before it.
    is_rising : bool
        Whether more is better.

    Examples
    --------
    >>> slow, fast = {1: 0.5, 2: 0.6}, {1: 0.7, 2: 0.8}
    >>> is_worse_than_median(0.6, 2, [slow, fast], is_rising=True)  # averages 0.55 and 0.75
    True
    >>> is_worse_than_median(0.7, 2, [slow, fast], is_rising=True)
    False
    """
    averages = [
        statistics.fmean(v for s, v in other.items() if s <= step)
        for other in others
        if any(s >= step for s in other) and any(s <= step for s in other)
    ]
    if not averages:
        return False
    median = statistics.median(averages)
    return value < median if is_rising else value > median


# ── inside ───────────────────────────────────────────────────────────────────────────────────


def _objective(objective: str) -> tuple[bool, str]:
    """Return whether more is better, and the metric."""
    direction, _, metric = objective.partition(":")
    if direction not in ("max", "min") or not metric:
        raise InvalidInput(f'objective= is {objective!r}; give "max:<metric>" or "min:<metric>".')
    return direction == "max", metric


def _best(trials: Sequence[Trial], *, is_rising: bool) -> Trial | None:
    done = [t for t in trials if t.state == records.COMPLETED and t.value is not None]
    sign = -1.0 if is_rising else 1.0
    return min(done, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)


def _is_known(store: FeatureStore, name: str, request: dict[str, Any]) -> bool:
    """Return whether the tuning was begun; with another request, refuse."""
    found = store.documents.get(records.KIND, name)
    if found is None:
        return False
    different = sorted(key for key in request if found["request"].get(key) != request[key])
    if different:
        raise InvalidInput(
            f'There is a tuning "{name.partition("/")[2]}" with another {", ".join(different)}. '
            "Give the same request to go on with it, or another name."
        )
    return True


class _Search:
    """A search that is going on: the study, and the threads that run its trials."""

    def __init__(
        self,
        store: FeatureStore,
        name: str,
        space: Space,
        request: dict[str, Any],
        template: dict[str, Any],
        combinations: list[dict[str, Any]] | None,
    ) -> None:
        self._store = store
        self._name = name
        self._space = space
        self._request = request
        self._template = template
        self._combinations = combinations
        self._is_rising, self._metric = _objective(request["objective"])
        self._lock = threading.Lock()
        self._over: dict[int, dict[str, Any]] = {}
        self._study = self._new_study()
        self._warm_up(request["warm_start"])
        self._waiting = self._remembered()
        self._next = len(self._over) + len(self._waiting)

    def run(self, parallel: int) -> None:
        """Run trials until there are enough."""
        if records.get(self._store, f"{PREFIX}/{self._name}")["status"] in records.ENDED:
            return
        if parallel == 1:
            self._work()
        else:
            with ThreadPoolExecutor(parallel, "tuning") as threads:
                for done in [threads.submit(self._work) for _ in range(parallel)]:
                    done.result()
        records.move(self._store, f"{PREFIX}/{self._name}", "Completed", status=records.COMPLETED)

    # ── what is known ────────────────────────────────────────────────────────────────────────

    def _new_study(self) -> Any:
        if self._combinations is not None:
            return None
        try:
            module = importlib.import_module(_STUDY)
        except ModuleNotFoundError as error:
            raise NotInstalled("Tuning, other than over a grid,", "tuning") from error
        limits = self._request["resources"]
        return module.Study(
            self._name,
            self._space,
            self._request["strategy"],
            is_rising=self._is_rising,
            seed=self._request["seed"],
            resources=None if limits is None else tuple(limits),
        )

    def _warm_up(self, parents: Sequence[str]) -> None:
        """Tell the study of the trials of other tunings."""
        if len(parents) > 5:
            raise InvalidInput(f"At most 5 tunings can be started from; got {len(parents)}.")
        for parent in parents:
            record = records.get(self._store, f"{PREFIX}/{parent}")
            if record["status"] not in records.ENDED:
                raise InvalidInput(f'The tuning "{parent}" is {record["status"]}: not over yet.')
            if record["request"]["objective"] != self._request["objective"]:
                raise InvalidInput(f'The tuning "{parent}" has another objective.')
            for trial in self._store.documents.every(TRIAL, f"{parent}/").values():
                if self._study is not None and trial["value"] is not None and self._fits(trial):
                    self._study.add(
                        trial["state"], trial["drawn"], trial["value"], _steps(trial), {}
                    )

    def _fits(self, trial: Mapping[str, Any]) -> bool:
        """Return whether a trial of another tuning lies in this space."""
        values = trial["params"]
        if set(self._space) - set(values) or set(trial["drawn"]) != set(self._space):
            return False
        return all(
            values[n] in p.values if isinstance(p, spaces.Choice) else p.low <= values[n] <= p.high
            for n, p in self._space.items()
        )

    def _remembered(self) -> list[dict[str, Any]]:
        """Tell the study of this tuning's own trials; returns those that are not over."""
        waiting = []
        for trial in self._store.documents.every(TRIAL, f"{self._name}/").values():
            if trial["state"] == records.IN_PROGRESS:
                waiting.append(trial)
                continue
            self._over[trial["number"]] = trial
            if self._study is not None:
                self._study.add(
                    trial["state"], trial["drawn"], trial["value"], _steps(trial), trial["noted"]
                )
        return waiting

    # ── trials ───────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        while (begun := self._take()) is not None:
            trial, live = begun
            finished = self._run(trial, live)
            with self._lock:
                self._finish(trial, live, finished)

    def _take(self) -> tuple[dict[str, Any], Any] | None:
        """Return the next trial to run; None when there are enough."""
        with self._lock:
            if self._waiting:
                trial = self._waiting.pop(0)
                live = None
                if self._study is not None:
                    live, _ = self._study.draw(trial["number"], trial["drawn"])
                return trial, live
            if self._next >= self._request["max_jobs"] or self._is_enough():
                return None
            number, live = self._next, None
            if self._combinations is not None:
                drawn = self._combinations[number]
            else:
                live, drawn = self._study.draw(number)
            self._next += 1
            trial = {
                "number": number,
                "drawn": drawn,
                "params": spaces.values(self._space, drawn),
                "state": records.IN_PROGRESS,
                "value": None,
                "steps": [],
                "noted": {},
                "job": f"{self._name}-{number:04d}",
            }
            self._keep(trial)
            return trial, live

    def _is_enough(self) -> bool:
        """Return whether the target was reached, or nothing better came for long enough."""
        target, patience = self._request["target"], self._request["patience"]
        sign = 1.0 if self._is_rising else -1.0
        values = [
            sign * trial["value"]
            for _, trial in sorted(self._over.items())
            if trial["state"] == records.COMPLETED and trial["value"] is not None
        ]
        if not values:
            return False
        if target is not None and max(values) >= sign * target:
            return True
        return patience is not None and len(values) - 1 - values.index(max(values)) >= patience

    def _run(self, trial: dict[str, Any], live: Any) -> train_job.Job:
        name = trial["job"]

        def watch(metric: str, step: int, value: float) -> str:
            return self._watch(live, step, value) if metric == self._metric else ""

        there = self._store.documents.get(records.KIND, f"{train_job.PREFIX}/{name}")
        if there is None or train_job.never_began(there):
            asked = {**self._template, "params": {**self._request["params"], **trial["params"]}}
            told = {"name": name, "parent": f"{PREFIX}/{self._name}", "watch": watch}
            return train_job.train(self._store, **{**asked, **told})
        found = train_job.get(self._store, name)
        if found.status in records.ENDED:
            return found
        for point in found.points:
            # What it had told before the kill, so that it is judged as if there had been none.
            if point.metric == self._metric:
                self._watch(live, point.step, point.value)
        return train_job.resume(self._store, name, watch=watch)

    def _watch(self, live: Any, step: int, value: float) -> str:
        with self._lock:
            if self._request["strategy"] == "hyperband" and self._study.is_hopeless(
                live, step, value
            ):
                return "given up: behind at this step (Hyperband)"
            if self._request["early_stop"] == "median":
                others = [
                    _steps(trial)
                    for trial in self._over.values()
                    if trial["state"] == records.COMPLETED
                ]
                if is_worse_than_median(value, step, others, is_rising=self._is_rising):
                    return "given up: worse than the median of the trials before it"
        return ""

    def _finish(self, trial: dict[str, Any], live: Any, finished: train_job.Job) -> None:
        steps = [[p.step, p.value] for p in finished.points if p.metric == self._metric]
        value = finished.metrics.get(self._metric)
        state = finished.status
        if value is None or not math.isfinite(value):
            state, value = records.FAILED, None
        noted = {} if live is None else self._study.end(live, state, value)
        over = {**trial, "state": state, "value": value, "steps": steps, "noted": noted}
        self._over[trial["number"]] = over
        self._keep(over)

    def _keep(self, trial: dict[str, Any]) -> None:
        name = f"{self._name}/{trial['number']:08d}"
        self._store.documents.update(TRIAL, name, lambda _: trial)


def _steps(trial: Mapping[str, Any]) -> dict[int, float]:
    return {int(step): float(value) for step, value in trial["steps"]}
