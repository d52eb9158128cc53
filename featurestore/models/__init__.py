"""The registry: immutable versions of models, who approved them, and what is behind each.

::

    register(store, "late", model, training_set=ts, metrics={"auc": 0.71})      late:1, pending
    approve(store, "late:1", by="eva", note="better than the rule of thumb")    an event; late:1
                                                                                 itself stays as is
    get(store, "late:1")   get(store, "late")   get(store, "late:approved")     a ModelVersion
    load(store, "late:approved").score(rows)                                    sha-256 first

=====================  ==========================================================================
``model-version``      a document for each version, numbered from 1, never rewritten
``model-approval``     a document for each decision about a version, never rewritten
``models/<digest>/``   the files of a model, named by their content
=====================  ==========================================================================

No pickle is kept, and none is loaded: a model is written in a form that holds no code.

===========  ========================================  ============================
format       of                                        extra
===========  ========================================  ============================
``skops``    scikit-learn                              ``training``
``xgboost``  XGBoost's own, UBJSON                     ``xgboost``
``lightgbm`` LightGBM's own, text                      ``lightgbm``
``onnx``     anything that was exported                ``onnx``
``forest``   the random cut forest of this library     none
===========  ========================================  ============================

It lies below training and batch inference, which both stand on it, and do not know each other.
"""

from featurestore.models.formats import Model
from featurestore.models.registry import (
    APPROVED,
    PENDING,
    REJECTED,
    Approval,
    ModelVersion,
    approve,
    get,
    load,
    names,
    register,
    reject,
    versions,
)

__all__ = [
    "APPROVED",
    "PENDING",
    "REJECTED",
    "Approval",
    "Model",
    "ModelVersion",
    "approve",
    "get",
    "load",
    "names",
    "register",
    "reject",
    "versions",
]
