"""Optuna: what to try next, and what to give up, from the trials so far.

Nothing is kept here.  The study lives in memory and is built anew from the store's own records when
tuning goes on after a kill.  Each trial is drawn by a sampler seeded with the trial's number, so
what is drawn is a function of the seed and of the trials before it, and of nothing else.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from featurestore.training.space import Choice, Float

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurestore.training.space import Parameter, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

_STATES = {
    "Completed": TrialState.COMPLETE,
    "Stopped": TrialState.PRUNED,
    "Failed": TrialState.FAIL,
}


class Study:
    """A study in memory.

    Parameters
    ----------
    name : str
        Of the tuning: Hyperband deals trials out to its brackets by it.
    space : Space
        What may be tried.
    strategy : {"bayesian", "random", "hyperband"}
        How it is drawn.
    is_rising : bool
        Whether more is better.
    seed : int
        Of all that is drawn.
    resources : (int, int), optional
        For Hyperband: the least and the most steps of a trial.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        strategy: str,
        *,
        is_rising: bool,
        seed: int,
        resources: tuple[int, int] | None = None,
    ) -> None:
        self._space = space
        self._distributions = {n: _distribution(p) for n, p in space.items()}
        self._strategy = strategy
        self._seed = seed
        pruner: Any = optuna.pruners.NopPruner()
        if resources is not None:
            least, most = resources
            pruner = optuna.pruners.HyperbandPruner(least, most, reduction_factor=3)
        self._study = optuna.create_study(
            study_name=name, direction="maximize" if is_rising else "minimize", pruner=pruner
        )

    def add(
        self,
        state: str,
        drawn: Mapping[str, Any],
        value: float | None,
        steps: Mapping[int, float],
        attributes: Mapping[str, Any],
    ) -> None:
        """Add a trial that is over, of this tuning or of one before it."""
        self._study.add_trial(
            optuna.trial.create_trial(
                state=_STATES[state] if value is not None else TrialState.FAIL,
                params=dict(drawn),
                distributions=self._distributions,
                value=value,
                intermediate_values=dict(steps),
                system_attrs=dict(attributes),
            )
        )

    def draw(
        self, number: int, drawn: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a trial; returns it and what was drawn for it, or is given again."""
        self._study.sampler = self._sampler(number)
        if drawn is not None:
            self._study.enqueue_trial(dict(drawn))
        trial = self._study.ask(self._distributions)
        return trial, dict(trial.params)

    @staticmethod
    def is_hopeless(trial: Any, step: int, value: float) -> bool:
        """Report a trial's value at a step; returns whether Hyperband gives it up."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a step that is told again
            trial.report(value, step)
        return bool(trial.should_prune())

    def end(self, trial: Any, state: str, value: float | None) -> dict[str, Any]:
        """End a trial; returns what the pruner has noted about it."""
        known = _STATES[state] if value is not None else TrialState.FAIL
        is_complete = known == TrialState.COMPLETE
        self._study.tell(trial, value if is_complete else None, state=known)
        return dict(self._study.trials[trial.number].system_attrs)

    def _sampler(self, number: int) -> Any:
        seed = (self._seed * 1_000_003 + number) % 2**32
        if self._strategy == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar is experimental, by its own word
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def _distribution(parameter: Parameter) -> Any:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if isinstance(parameter, Float) and parameter.scale == "reverse_log":
        return FloatDistribution(1.0 - parameter.high, 1.0 - parameter.low, log=True)
    made = FloatDistribution if isinstance(parameter, Float) else IntDistribution
    return made(parameter.low, parameter.high, log=parameter.scale == "log")
