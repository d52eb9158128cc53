"""Versions of models: what each is, what is behind it, and what was decided about it.

A version says everything that is needed to use it and to make it again: its files by sha-256, the
training set by hash, the features to look up and the columns they make, the label, the metrics, the
job.  None of that ever changes.  Whether it may be used is decided later and perhaps again, so it
is not a field: each decision is a document of its own, with its author and its time, and the last
one counts.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, UnknownModel, did_you_mean
from featurestore.event_time import to_datetime
from featurestore.feature_view import FeatureLookup, expand
from featurestore.models import artefacts
from featurestore.models.artefacts import ArtefactFile
from featurestore.models.formats import Model, adapter, find, format_of
from featurestore.schema import check_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from featurestore.store import FeatureStore

PENDING, APPROVED, REJECTED = "PendingManualApproval", "Approved", "Rejected"

_VERSION, _APPROVAL = "model-version", "model-approval"


@dataclass(frozen=True, slots=True)
class Approval:
    """A decision about a version: ``Approved`` or ``Rejected``, by whom, when, and why."""

    status: str
    by: str
    at: datetime
    note: str = ""


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version of a model.

    Attributes
    ----------
    name, version : str, int
        Versions of a name are numbered from 1, without gaps.
    format : str
        How it is written; see :mod:`featurestore.models.formats`.
    digest : str
        The sha-256 that names the folder of its files.
    files : tuple of ArtefactFile
        Path, sha-256 and size of each.
    inputs : tuple of str
        The columns the model sees, in their order.
    lookups : tuple of FeatureLookup
        The features they come from; empty if it was registered without.
    categories : dict
        Input -> the texts that its numbers 0, 1, 2 ... stand for.
    fills : dict
        Input -> what stands for null, where that is not NaN.
    label : str
        What it was taught to say.
    training_set : dict
        ``name`` and ``hash`` of the training set, as far as it was told.
    metrics : dict
        Name -> number, as of registration.
    job : str
        The job that trained it, or empty.
    description : str
        For people.
    metadata : dict
        Whatever else is to be remembered; JSON.
    trusted : tuple of str
        Types beyond its library's own that may be made when it is loaded.
    created_at : datetime
        UTC.
    approvals : tuple of Approval
        All decisions, the oldest first.
    """

    name: str
    version: int
    format: str
    digest: str
    files: tuple[ArtefactFile, ...]
    inputs: tuple[str, ...]
    lookups: tuple[FeatureLookup, ...]
    categories: Mapping[str, tuple[str, ...]]
    fills: Mapping[str, float]
    label: str
    training_set: Mapping[str, Any]
    metrics: Mapping[str, float]
    job: str
    description: str
    metadata: Mapping[str, Any]
    trusted: tuple[str, ...]
    created_at: datetime
    folder: Path = field(repr=False)
    approvals: tuple[Approval, ...] = ()

    @property
    def reference(self) -> str:
        """How to ask for exactly this version: ``"late:3"``."""
        return f"{self.name}:{self.version}"

    @property
    def status(self) -> str:
        """What was decided last; ``PendingManualApproval`` before anything was."""
        return self.approvals[-1].status if self.approvals else PENDING


def register(
    store: FeatureStore,
    name: str,
    model: Any,
    *,
    training_set: Any = None,
    features: Any = None,
    inputs: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] | None = None,
    fills: Mapping[str, float] | None = None,
    label: str = "",
    metrics: Mapping[str, float] | None = None,
    job: str = "",
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
    trusted: Sequence[str] = (),
) -> ModelVersion:
    """Register a model as the next version of a name.

    Parameters
    ----------
    store : FeatureStore
        Where; writable.
    name : str
        As strict as the name of a feature group.
    model : object or path
        A model of scikit-learn, XGBoost or LightGBM, or a file or folder that holds one in a format
        of :mod:`featurestore.models.formats`.  Files are copied.
    training_set : TrainingSet or str, optional
        What it was trained on; from a training set features, columns, categories and label are
        taken, too.  A text is its hash.
    features : references, optional
        As of ``point_in_time``, where there is no training set.
    inputs : sequence of str, optional
        The columns of the model's rows, in order.
    categories, fills, label, metrics, job, description, metadata
        See :class:`ModelVersion`.
    trusted : sequence of str
        For scikit-learn: names of types beyond its own that may be made when the model is loaded.

    Returns
    -------
    ModelVersion
        Not yet approved.

    Raises
    ------
    InvalidInput
        For a pickle, for no model or several of them, and for types that nobody trusts.
    NotInstalled
        When the library of the format is not there.
    """
    check_name(name, "model")
    document = _behind(store, training_set, features, inputs, label)
    if categories is not None:
        document["categories"] = {name: list(texts) for name, texts in categories.items()}
    if fills is not None:
        document["fills"] = dict(fills)
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        digest, listed = artefacts.publish(store.path, Path(model).expanduser())
    else:
        digest, listed = _publish_object(store, model)
    form, file = find(listed)
    # A model that cannot be loaded is found out now, not on the day it is needed.
    data = artefacts.read(store.path / artefacts.FOLDER / digest, file)
    adapter(form.name).load(data, trusted)
    document |= {
        "format": form.name,
        "digest": digest,
        "files": [[f.path, f.sha256, f.bytes] for f in listed],
        "metrics": {key: float(value) for key, value in (metrics or {}).items()},
        "job": job,
        "description": description,
        "metadata": dict(metadata or {}),
        "trusted": list(trusted),
        "created_at_us": store.documents.now_us(),
    }
    number = store.documents.append(_VERSION, name, document)
    return get(store, f"{name}:{number}")


def names(store: FeatureStore) -> list[str]:
    """Return the names that have versions, sorted."""
    known = store.documents.every(_VERSION)
    return sorted({document_name.rpartition("/")[0] for document_name in known})


def versions(store: FeatureStore, name: str) -> list[ModelVersion]:
    """Return all versions of a model, the oldest first.

    Raises
    ------
    UnknownModel
        When there are none.
    """
    found = store.documents.every(_VERSION, f"{name}/")
    if not found:
        raise UnknownModel(f'There is no model "{name}".{did_you_mean(name, names(store))}')
    decided = store.documents.every(_APPROVAL, f"{name}/")
    return [_parsed(store, key, document, decided) for key, document in found.items()]


def get(store: FeatureStore, reference: str) -> ModelVersion:
    """Return one version.

    Parameters
    ----------
    store : FeatureStore
        Where.
    reference : str
        ``"late:3"``; ``"late"`` or ``"late:latest"``, the newest; ``"late:approved"``, the newest
        of those whose last decision is ``Approved``.

    Raises
    ------
    UnknownModel
        When there is no such version.
    """
    name, _, which = reference.partition(":")
    known = versions(store, name)
    if which in ("", "latest"):
        return known[-1]
    if which == "approved":
        approved = [version for version in known if version.status == APPROVED]
        if approved:
            return approved[-1]
        raise UnknownModel(
            f'No version of the model "{name}" is approved; the newest is {known[-1].version}, '
            f"{known[-1].status}. Approve one, or ask for it by its number."
        )
    found = [version for version in known if str(version.version) == which]
    if found:
        return found[0]
    raise UnknownModel(
        f'The model "{name}" has the versions 1 to {known[-1].version}; "{which}" is none of '
        'them, nor "latest" or "approved".'
    )


def approve(store: FeatureStore, reference: str, *, by: str, note: str = "") -> ModelVersion:
    """Say that a version may be used; see :class:`Approval`."""
    return _decide(store, reference, APPROVED, by, note)


def reject(store: FeatureStore, reference: str, *, by: str, note: str = "") -> ModelVersion:
    """Say that a version may not be used, also after it was approved."""
    return _decide(store, reference, REJECTED, by, note)


def load(store: FeatureStore, reference: str | ModelVersion) -> Model:
    """Load a version, once each of its files has the sha-256 it was registered with.

    Raises
    ------
    CorruptStore
        When one does not.
    UnknownModel, NotInstalled
    """
    version = reference if isinstance(reference, ModelVersion) else get(store, reference)
    form, file = find(version.files)
    # The bytes that were compared are the bytes that are loaded: files are not read again.
    data = {one.path: artefacts.read(version.folder, one) for one in version.files}
    adapt = adapter(form.name)
    native = adapt.load(data[file.path], version.trusted)
    return Model(version, native, adapt.scorer(native))


# ── inside ───────────────────────────────────────────────────────────────────────────────────


def _publish_object(store: FeatureStore, model: Any) -> tuple[str, tuple[ArtefactFile, ...]]:
    form = format_of(model)
    with tempfile.TemporaryDirectory(prefix="featurestore-model-") as folder:
        path = Path(folder) / f"model{form.suffix}"
        adapter(form.name).dump(model, path)
        return artefacts.publish(store.path, path)


def _behind(
    store: FeatureStore, training_set: Any, features: Any, inputs: Sequence[str], label: str
) -> dict[str, Any]:
    """Return what a version says about its data."""
    behind: dict[str, Any] = {}
    columns: Sequence[Any] = ()
    if isinstance(training_set, str):
        behind = {"hash": training_set}
    elif training_set is not None:
        behind = {"name": training_set.name, "hash": training_set.hash}
        label = label or training_set.label
        features = training_set.lookups if features is None else features
        inputs = inputs or training_set.features
        columns = training_set.layout.features
    lookups = () if features is None else expand(features, store.describe_feature_view)
    if isinstance(inputs, str):
        raise InvalidInput(f"inputs= is the text {inputs!r}; give a list of column names.")
    return {
        "training_set": behind,
        "lookups": [lookup.to_json() for lookup in lookups],
        "inputs": list(inputs),
        "categories": {c.name: list(c.categories) for c in columns if c.categories is not None},
        "fills": {c.name: c.fill for c in columns if c.fill is not None},
        "label": label,
    }


def _decide(store: FeatureStore, reference: str, status: str, by: str, note: str) -> ModelVersion:
    if not isinstance(by, str) or not by.strip():
        raise InvalidInput("A decision about a model has an author; give their name as by=.")
    version = get(store, reference)
    at_us = store.documents.now_us()
    event = {"status": status, "by": by, "at_us": at_us, "note": note}
    series = f"{version.name}/{version.version:08d}"
    number = store.documents.append(_APPROVAL, series, event)
    decided = store.documents.every(_APPROVAL, f"{series}/")
    upto = list(decided.values())[:number]
    return replace(version, approvals=tuple(_approval(one) for one in upto))


def _approval(event: Mapping[str, Any]) -> Approval:
    return Approval(event["status"], event["by"], to_datetime(event["at_us"]), event["note"])


def _parsed(
    store: FeatureStore,
    key: str,
    document: Mapping[str, Any],
    decided: Mapping[str, Mapping[str, Any]],
) -> ModelVersion:
    name, _, number = key.rpartition("/")
    events = [event for at, event in decided.items() if at.startswith(f"{key}/")]
    return ModelVersion(
        name=name,
        version=int(number),
        format=document["format"],
        digest=document["digest"],
        files=tuple(ArtefactFile(*file) for file in document["files"]),
        inputs=tuple(document["inputs"]),
        lookups=tuple(FeatureLookup.from_json(row) for row in document["lookups"]),
        categories={n: tuple(texts) for n, texts in document["categories"].items()},
        fills=document["fills"],
        label=document["label"],
        training_set=document["training_set"],
        metrics=document["metrics"],
        job=document["job"],
        description=document["description"],
        metadata=document["metadata"],
        trusted=tuple(document["trusted"]),
        created_at=to_datetime(document["created_at_us"]),
        folder=store.path / artefacts.FOLDER / document["digest"],
        approvals=tuple(_approval(event) for event in events),
    )
