"""Training on the store: from what was known at each moment to a model that anyone can make again.

Functions that take a store.
"""

from featurestore.training.guards import LeakWarning
from featurestore.training.loader import Loader
from featurestore.training.sets import (
    delete_training_set,
    describe_training_set,
    list_training_sets,
    training_set,
)
from featurestore.training.training_set import TrainingSet

__all__ = [
    "LeakWarning",
    "Loader",
    "TrainingSet",
    "delete_training_set",
    "describe_training_set",
    "list_training_sets",
    "training_set",
]
