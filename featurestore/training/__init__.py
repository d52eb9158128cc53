"""Training on the store: jobs, tuning, experiments, and what is registered of them.

===================  ==========================================================================
:mod:`.job`          a script, or an algorithm by name, in a process of its own, written down
:mod:`.checkpoint`   what a script writes to be killed at any moment
:mod:`.tuning`       jobs over a space of hyperparameters, resumable
:mod:`.experiments`  runs with parameters, metrics by step, artefacts; compared as a table
===================  ==========================================================================

Models are registered in :mod:`featurestore.models`; its verbs are here, too.
"""

from featurestore.models import (
    Model,
    ModelVersion,
    approve,
    load,
    reject,
)
from featurestore.training.checkpoint import Checkpoint, Checkpoints
from featurestore.training.experiments import Run, compare, run, runs
from featurestore.training.job import (
    Job,
    SpotPlan,
    get,
    interrupt,
    jobs,
    resume,
    stop,
    train,
)
from featurestore.training.registering import register
from featurestore.training.space import Choice, Float, Int
from featurestore.training.tuning import Trial, Tuning, tune, tuning

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Choice",
    "Float",
    "Int",
    "Job",
    "Model",
    "ModelVersion",
    "Run",
    "SpotPlan",
    "Trial",
    "Tuning",
    "approve",
    "compare",
    "get",
    "interrupt",
    "jobs",
    "load",
    "register",
    "reject",
    "resume",
    "run",
    "runs",
    "stop",
    "train",
    "tune",
    "tuning",
]
