"""Making, finding and deleting training sets; their names are documents of the store.

A name has versions, numbered from 1.  A request that is what some version was made from is that
version; any other adds one.  Versions with the same hash, of whatever names, share a folder.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, UnknownTrainingSet, did_you_mean
from featurestore.schema import check_name
from featurestore.storage import files
from featurestore.training import build, guards
from featurestore.training.request import request
from featurestore.training.training_set import TrainingSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta, tzinfo

    from featurestore.store import FeatureStore

KIND = "training-set"


def training_set(
    store: FeatureStore,
    name: str,
    *,
    labels: Any,
    label: str | None,
    features: Any,
    label_time: str | None = None,
    from_labels: Sequence[str] = (),
    lag: Mapping[str, str | timedelta] | None = None,
    cutoff: str | timedelta | None = None,
    as_of: int | datetime | None = None,
    known: str = "event_time",
    tz: str | tzinfo | None = None,
    nulls: float | Mapping[str, float] | None = None,
    label_group: str | None = None,
    allow: Sequence[str] = (),
    description: str = "",
    memory_limit: int = 1 << 30,
) -> TrainingSet:
    """Make a training set: labels, what was known at each label's moment, and where it came from.

    A set never changes.  The same request gives the same set: while it is kept, the one there is;
    after it was deleted, or in a copy of the store, the same bytes, whatever was backfilled,
    flushed or compacted meanwhile, if ``as_of`` says which moment of the store is meant.

    Parameters
    ----------
    store : FeatureStore
        The store.
    name : str
        What to call it.  A request that is new under this name is its next version.
    labels : table, or what else ``point_in_time`` takes
        Keys, a time and the label; all its columns are kept.  Sorted by time it has to fit in
        memory; what is joined to it has not.
    label : str or None
        The column to be learnt: a number, a flag or a text, never null.  None for no label.
    features : str, FeatureLookup, or a list of them
        What to join, as in ``point_in_time``.
    label_time : str, optional
        The labels' column of times; ``"event_time"`` by default.
    from_labels : sequence of str
        Columns of the labels that are features too.
    lag : mapping of str to duration, optional
        Group -> how much earlier than the label's time it is looked up, beside the delay that its
        lookup may have.
    cutoff : duration, optional
        How long before the label's time the question is asked: younger records are refused.
    as_of : int or datetime, optional
        The store as it stood at a commit: a seq, or a time.  By default the last commit.
    known : {"event_time", "write_time"}
        With ``"write_time"``, a record counts only from when it had also been written.
    tz : str or tzinfo, optional
        Zone of naive label times.
    nulls : float or mapping of str to float, optional
        What a loader puts for null, for all features or by name; NaN by default.
    label_group : str, optional
        The group the label was taken from: it is not read, unless allowed.
    allow : sequence of str
        Groups and features that the guards let pass; see :mod:`featurestore.training.guards`.
    description : str
        For people.
    memory_limit : int
        Bytes that the join keeps within, labels aside; 1 GiB.

    Returns
    -------
    TrainingSet
        Its rows are in the order of label time, rows of one time as they were given.

    Raises
    ------
    LeakFound
        A guard refuses the request; nothing is stored.
    InvalidInput
        As ``point_in_time``; for a label that is null; for names that do not exist.

    Examples
    --------
    >>> import tempfile, featurestore as fs
    >>> from datetime import UTC, datetime
    >>> from featurestore import training
    >>> store = fs.open(tempfile.mkdtemp())
    >>> _ = store.create_feature_group("weather", record_identifier="origin", event_time="at",
    ...     features={"origin": "string", "at": "timestamp", "temp": "float64"})
    >>> _ = store.put_record("weather", {"origin": "JFK", "at": "2013-01-01T05:00Z", "temp": 39.0})
    >>> labels = {"origin": ["JFK", "EWR"], "late": [True, False],
    ...           "event_time": [datetime(2013, 1, 1, 6, tzinfo=UTC)] * 2}
    >>> ts = training.training_set(store, "late_flights", labels=labels, label="late",
    ...                            features=["weather:temp"], nulls=-1)
    >>> ts.id, ts.features, len(ts)
    ('late_flights:1', ('temp',), 2)
    >>> x, y = ts.to_numpy()
    >>> x.tolist(), y.tolist()
    ([[39.0], [-1.0]], [1.0, 0.0])
    >>> store.close()
    """
    check_name(name, "training set")
    allowed = [allow] if isinstance(allow, str) else list(allow)
    wanted = request(
        store,
        labels,
        label,
        features,
        label_time=label_time,
        from_labels=from_labels,
        lag=lag,
        cutoff=cutoff,
        as_of=as_of,
        known=known,
        tz=tz,
        nulls=nulls,
    )
    guards.refuse_own_group(wanted.lookups, wanted.groups, label, label_group, allowed)
    version = _version_of(store, name, wanted.hash)
    path = build.publish(store, wanted, allowed, memory_limit)
    # What somebody allowed who made the set is not allowed to the next who asks for it.
    readings = TrainingSet(path, name, 0).profile["readings"]
    guards.refuse_young(readings, wanted.cutoff_us, allowed)
    if version is None:
        version = _catalogue(store, name, wanted.hash, description)
    made = TrainingSet(path, name, version)
    aucs = {n: f["auc"] for n, f in made.profile["columns"].items() if "auc" in f}
    guards.warn_of_good(aucs, allowed)
    return made


def describe_training_set(
    store: FeatureStore, name: str, version: int | None = None
) -> TrainingSet:
    """Return a training set by its name, or by ``"name:version"``; the newest by default.

    Raises
    ------
    UnknownTrainingSet
        There is none of that name, or not that version.
    """
    name, number = _parse(name, version)
    versions = _versions(store, name)
    if not versions:
        known = did_you_mean(name, {found.name for found in list_training_sets(store)})
        raise UnknownTrainingSet(f'There is no training set "{name}".{known}')
    number = max(versions) if number is None else number
    if number not in versions:
        have = ", ".join(map(str, sorted(versions)))
        raise UnknownTrainingSet(f'Training set "{name}" has no version {number}; it has {have}.')
    return TrainingSet(_path(store, versions[number]["hash"]), name, number)


def list_training_sets(store: FeatureStore) -> list[TrainingSet]:
    """Return all versions of all training sets, by name and number."""
    found = []
    for key, document in store.documents.every(KIND).items():
        name, number = _parts(key)
        found.append(TrainingSet(_path(store, document["hash"]), name, number))
    return found


def delete_training_set(store: FeatureStore, name: str, version: int | None = None) -> None:
    """Delete all versions of a training set, or one; files go when no name leads to them.

    Loaders that have it open go on reading.  Made again, the versions are numbered on.

    Raises
    ------
    UnknownTrainingSet
        There is none of that name, or not that version.
    """
    name, number = _parse(name, version)
    describe_training_set(store, name, number)
    gone = [n for n in _versions(store, name) if number in (None, n)]
    database = store._writable  # noqa: SLF001
    with contextlib.closing(files.FileLock.acquire(database.locks / "sets")):
        hashes = {_versions(store, name)[n]["hash"] for n in gone}
        for n in gone:
            store.documents.update(KIND, _key(name, n), lambda _: None)
        kept = {document["hash"] for document in store.documents.every(KIND).values()}
        for unnamed in hashes - kept:
            files.remove_folder(_path(store, unnamed))


def _version_of(store: FeatureStore, name: str, hash_: str) -> int | None:
    """Return the version of a name that has a hash, and its files."""
    for number, document in _versions(store, name).items():
        if document["hash"] == hash_:
            return number
    return None


def _catalogue(store: FeatureStore, name: str, hash_: str, description: str) -> int:
    """Give a set a name, unless somebody else has done so meanwhile; returns the version."""
    database = store._writable  # noqa: SLF001
    with contextlib.closing(files.FileLock.acquire(database.locks / "sets")):
        if not _path(store, hash_).exists():
            raise InvalidInput(
                f'Training set "{name}" was deleted while it was being made. Request it again.'
            )
        version = _version_of(store, name, hash_)
        if version is None:
            document = {
                "hash": hash_,
                "description": description,
                "created_at_us": store.documents.now_us(),
            }
            version = store.documents.append(KIND, name, document)
    return version


def _versions(store: FeatureStore, name: str) -> dict[int, dict[str, Any]]:
    found = store.documents.every(KIND, f"{name}/")
    return {_parts(key)[1]: document for key, document in found.items()}


def _path(store: FeatureStore, hash_: str) -> Any:
    return store.path / build.FOLDER / hash_


def _key(name: str, version: int) -> str:
    return f"{name}/{version:08}"


def _parts(key: str) -> tuple[str, int]:
    name, _, number = key.rpartition("/")
    return name, int(number)


def _parse(name: str, version: int | None) -> tuple[str, int | None]:
    stem, colon, number = str(name).partition(":")
    if not colon:
        return stem, version
    if version is not None or not number.isdecimal():
        raise InvalidInput(
            f'"{name}" is no training set; write "name", "name:version", or give version=.'
        )
    return stem, int(number)
