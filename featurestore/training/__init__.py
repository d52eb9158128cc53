"""Training on the store: from what was known at each moment to a model that anyone can make again.

===================  ==========================================================================
:mod:`.sets`         labels and what was known at each, in files that the same request makes again
:mod:`.loader`       batches of them, in an order that a seed decides
:mod:`.job`          a script, or an algorithm by name, in a process of its own, written down
:mod:`.checkpoint`   what a script writes to be killed at any moment
:mod:`.tuning`       jobs over a space of hyperparameters, resumable
:mod:`.experiments`  runs with parameters, metrics by step, artefacts; compared as a table
===================  ==========================================================================

Functions that take a store.  Models are registered in :mod:`featurestore.models`; its verbs are
here, too.
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
from featurestore.training.guards import LeakWarning
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
from featurestore.training.loader import Loader
from featurestore.training.registering import register
from featurestore.training.sets import (
    delete_training_set,
    describe_training_set,
    list_training_sets,
    training_set,
)
from featurestore.training.space import Choice, Float, Int
from featurestore.training.training_set import TrainingSet
from featurestore.training.tuning import Trial, Tuning, tune, tuning

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Choice",
    "Float",
    "Int",
    "Job",
    "LeakWarning",
    "Loader",
    "Model",
    "ModelVersion",
    "Run",
    "SpotPlan",
    "TrainingSet",
    "Trial",
    "Tuning",
    "approve",
    "compare",
    "delete_training_set",
    "describe_training_set",
    "get",
    "interrupt",
    "jobs",
    "list_training_sets",
    "load",
    "register",
    "reject",
    "resume",
    "run",
    "runs",
    "stop",
    "train",
    "training_set",
    "tune",
    "tuning",
]
