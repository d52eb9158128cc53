"""MLflow: experiments and model versions, written to a tracking server of its own.

::

    pip install 'featurestore[mlflow]'
    from featurestore.integrations import mlflow
    mlflow.export(store, "late", "http://127.0.0.1:5000")       # or sqlite:///runs.db

It is an export: the store stays the truth.  A run that was exported before is not exported again,
a version neither; both carry where they come from as a tag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore import models
from featurestore.errors import NotInstalled
from featurestore.training import experiments

if TYPE_CHECKING:
    from featurestore.store import FeatureStore
    from featurestore.training.experiments import Run

_SOURCE = "featurestore.source"
_ENDS = {"Completed": "FINISHED", "Failed": "FAILED", "Stopped": "KILLED"}
_BATCH = 500


def export(store: FeatureStore, experiment: str, tracking_uri: str) -> int:
    """Write the ended runs of an experiment to MLflow; returns how many were new.

    Parameters
    ----------
    store : FeatureStore
        Where they are.
    experiment : str
        Which.
    tracking_uri : str
        Where they go, as MLflow names it.
    """
    client = _client(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    target = client.create_experiment(experiment) if found is None else found.experiment_id
    known = {run.data.tags.get(_SOURCE) for run in client.search_runs([target])}
    new = 0
    for run in experiments.runs(store, experiment):
        if f"{experiment}/{run.name}" not in known and run.status in _ENDS:
            _export_run(client, target, run)
            new += 1
    return new


def export_model(store: FeatureStore, name: str, tracking_uri: str) -> int:
    """Write the versions of a model to MLflow's registry; returns how many were new.

    An approved version is what the alias ``approved`` leads to.
    """
    client = _client(tracking_uri)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    known = {v.tags.get(_SOURCE): v for v in client.search_model_versions(f"name = '{name}'")}
    new = 0
    for version in models.versions(store, name):
        made = known.get(version.reference)
        if made is None:
            tags = {_SOURCE: version.reference, "format": version.format, "digest": version.digest}
            tags |= {f"metrics.{key}": repr(value) for key, value in version.metrics.items()}
            source = version.folder.as_uri()
            made = client.create_model_version(
                name, source, tags=tags, description=version.description
            )
            new += 1
        client.set_model_version_tag(name, made.version, "status", version.status)
        if version.status == models.APPROVED:
            client.set_registered_model_alias(name, "approved", made.version)
    return new


def _client(tracking_uri: str) -> Any:
    try:
        from mlflow import MlflowClient
    except ModuleNotFoundError as error:
        raise NotInstalled("The export to MLflow", "mlflow") from error
    return MlflowClient(tracking_uri=tracking_uri)


def _export_run(client: Any, experiment_id: str, run: Run) -> None:
    from mlflow.entities import Metric, Param, RunTag

    record = run.record
    tags = {_SOURCE: f"{run.experiment}/{run.name}"}
    made = client.create_run(
        experiment_id, start_time=record["created_at_us"] // 1000, tags=tags, run_name=run.name
    ).info.run_id
    params = [Param(name, str(value)) for name, value in run.params.items()]
    client.log_batch(made, params=params, tags=[RunTag("job", record["job"])])
    metrics = [  # MLflow's names have no colon
        Metric(p.metric.replace(":", "/"), p.value, p.at_us // 1000, p.step) for p in run.points
    ]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(made, metrics=metrics[start : start + _BATCH])
    for path in run.artefacts.values():
        client.log_artifact(made, str(path))
    client.set_terminated(made, _ENDS[record["status"]], record["ended_at_us"] // 1000)
