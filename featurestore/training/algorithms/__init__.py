"""Algorithms by name: a job without a script of one's own.

::

    train(store, algorithm="xgboost", channels={"train": ts, "validation": later},
          params={"max_depth": 6, "num_round": 100})

====================  ========================  =================================================
name                  through                   parameters, beside the library's own
====================  ========================  =================================================
``linear-learner``    scikit-learn              ``predictor_type`` (``binary_classifier``,
                                                ``multiclass_classifier``, ``regressor``),
                                                ``epochs``, ``learning_rate``, ``l1``, ``wd``
``xgboost``           XGBoost                   ``num_round``, ``early_stopping_rounds``
``lightgbm``          LightGBM                  ``num_round``, ``early_stopping_rounds``
``kmeans``            scikit-learn              ``k``
``knn``               scikit-learn              ``k``, ``predictor_type``
``pca``               scikit-learn              ``num_components``
``randomcutforest``   this library              ``num_trees``, ``num_samples_per_tree``
====================  ========================  =================================================

``seed`` is 0 unless given, and work is done on one thread unless ``nthread`` says otherwise, so a
job gives the same model when it is run again.  Channels are ``train`` and, if there is one,
``validation``: what each metric is on both is told after every round, or epoch, as

    [7] train:auc=0.7124 validation:auc=0.6982

Boosted trees and the linear learner leave a checkpoint every ``checkpoint_rounds`` (10) rounds, and
go on from it to the same model as if they had not been interrupted.  Trees that sample rows or
columns begin again instead, since no model file has the state of that sampling: to the same model.

The data are Parquet, of which every column but the label is a number (a training set says what its
label is; elsewhere it is the parameter ``label``), or CSV without a header whose first column is
the label (all are features, where the algorithm takes no label).
"""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import InvalidInput, did_you_mean

_NUMBER = r"[-+0-9.eE]+|nan|inf|-inf"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What is known of an algorithm before its library is imported.

    Attributes
    ----------
    module : str
        The integration that has it.
    function : str
        Which trains it: ``(data, params, progress) -> model``.
    is_supervised : bool
        Whether it is given labels.
    """

    module: str
    function: str
    is_supervised: bool


_SKLEARN = "featurestore.integrations.sklearn"
ALGORITHMS = {
    "linear-learner": Algorithm(_SKLEARN, "train_linear", True),
    "xgboost": Algorithm("featurestore.integrations.xgboost", "train", True),
    "lightgbm": Algorithm("featurestore.integrations.lightgbm", "train", True),
    "kmeans": Algorithm(_SKLEARN, "train_kmeans", False),
    "knn": Algorithm(_SKLEARN, "train_knn", True),
    "pca": Algorithm(_SKLEARN, "train_pca", False),
    "randomcutforest": Algorithm("featurestore.training.algorithms.forest", "train", False),
}
#: The metrics that algorithms tell; more may be given with the job.
PATTERNS = {
    f"{channel}:{metric}": rf"^\[(?P<step>\d+)\].*\b{channel}:{metric}=(?P<value>{_NUMBER})"
    for channel in ("train", "validation")
    for metric in ("auc", "logloss", "accuracy", "rmse", "inertia", "explained_variance", "score")
}


def require(name: str) -> Algorithm:
    """Return an algorithm by its name.

    Raises
    ------
    InvalidInput
    """
    if name not in ALGORITHMS:
        raise InvalidInput(f"There is no algorithm {name!r}.{did_you_mean(str(name), ALGORITHMS)}")
    return ALGORITHMS[name]
