"""Registering what a job has made: the version knows its job, and through it all that is behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore import models
from featurestore.errors import CorruptStore, InvalidInput
from featurestore.feature_view import FeatureLookup
from featurestore.models.artefacts import sha256
from featurestore.training.job import Job

if TYPE_CHECKING:
    from featurestore.models import ModelVersion
    from featurestore.store import FeatureStore


def register(store: FeatureStore, name: str, model: Any, **options: Any) -> ModelVersion:
    """Register a job's model, or any other, as the next version of a name.

    Parameters
    ----------
    store, name
        See :func:`featurestore.models.register`.
    model : Job, object or path
        Of a completed job its files are taken, and its metrics, its training set's hash, label,
        columns and features, and the job itself, as far as ``options`` do not say otherwise.
    **options
        Those of :func:`featurestore.models.register`.

    Raises
    ------
    InvalidInput
        For a job that is not completed, or has left no model.
    CorruptStore
        When the files are not those the job has left.
    """
    if not isinstance(model, Job):
        return models.register(store, name, model, **options)
    record = model.record
    if record["status"] != "Completed" or not record.get("artefact"):
        raise InvalidInput(
            f'The job "{model.name}" is {record["status"]} and has no model to register.'
        )
    for path, digest, _ in record["artefact"]["files"]:
        if sha256(model.model / path) != digest:
            raise CorruptStore(f"{model.model / path} is not what the job has left.")
    behind = record["lineage"]["channels"].get("train", {})
    told = {"metrics": model.metrics, "job": record["name"]}
    if "training_set" in behind and "training_set" not in options:
        told |= {
            "training_set": behind["training_set"]["hash"],
            "label": behind["label"] or "",
            "inputs": behind["features"],
            "features": [FeatureLookup.from_json(row) for row in behind["lookups"]] or None,
            "categories": behind["categories"],
            "fills": behind["fills"],
        }
    return models.register(store, name, model.model, **{**told, **options})
