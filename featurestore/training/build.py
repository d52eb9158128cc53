"""Making a training set: the join, its guards, the files, and the folder's final name.

::

    sets/.making-<owner>-<hash>/ ──written, synced──rename──▶ sets/<hash>/ ──▶ name in a document

The folder has its name only when all of it is on disk, and a set has a name only after that.  A
folder that was being made by somebody who is dead is removed when the next one is made.
"""

from __future__ import annotations

import contextlib
import json
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.arrays import one_chunk
from featurestore.engine import point_in_time
from featurestore.engine.point_in_time.batches import Stretches
from featurestore.storage import files, seam
from featurestore.storage.parquet import WRITE_SEQ
from featurestore.training import guards, lineage
from featurestore.training.layout import LINEAGE_FILE, ROW_GROUP_ROWS
from featurestore.training.profile import AUC_ROWS_MIN, Profile, feature_auc, target_of
from featurestore.training.writer import SetWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.store import FeatureStore
    from featurestore.training.layout import Column, Layout
    from featurestore.training.request import Request

FOLDER = "sets"
_MAKING = ".making-"


def publish(
    store: FeatureStore, wanted: Request, allowed: Sequence[str], memory_limit: int
) -> Path:
    """Make a set's folder, unless it is there; returns it.

    Raises
    ------
    LeakFound
        A guard refuses it; nothing is left then.
    """
    final: Path = store.path / FOLDER / wanted.hash
    if final.exists():
        return final
    database = store._writable  # noqa: SLF001
    files.make_folder(final.parent)
    clear(final.parent, database.locks)
    making = final.with_name(f"{_MAKING}{database.owner}-{wanted.hash}")
    files.remove_folder(making)
    with files.translated(making):
        making.mkdir()
    try:
        _build(store, wanted, making, allowed, memory_limit)
        for path in files.listing(making, "*"):
            files.sync_file(path)
        with contextlib.closing(
            files.FileLock.acquire(database.locks / "sets")
        ):  # others publish or delete here, too
            if not final.exists():
                files.publish(making, final)
    finally:
        files.remove_folder(making)
    return final


def clear(folder: Path, locks: Path) -> None:
    """Remove what was being made by those who are dead."""
    for path in files.listing(folder, f"{_MAKING}*"):
        owner = path.name.removeprefix(_MAKING).rpartition("-")[0]
        if not files.is_held(locks / owner):
            files.remove_folder(path)


def _build(
    store: FeatureStore,
    wanted: Request,
    folder: Path,
    allowed: Sequence[str],
    memory_limit: int,
) -> Layout:
    roles = dict.fromkeys(wanted.features, "feature")
    if wanted.label is not None:
        roles[wanted.label] = "label"
    writer = SetWriter(folder, roles, wanted.label_time, wanted.fills)
    readings = _Readings(wanted)
    profile = Profile(wanted.labels.num_rows)
    with store._history(wanted.lookups, wanted.seq) as snapshots:  # noqa: SLF001
        running = point_in_time.stream(
            wanted.labels,
            wanted.lookups,
            snapshots,
            memory_limit=memory_limit,
            label_time=wanted.label_time,
            known=wanted.known,
            with_status=True,
        )
        pieces = Stretches(next(running), running).of(ROW_GROUP_ROWS)
        for table in writer.write(map(readings.take, pieces)):
            profile.add(table, writer.matrix_names)
        behind = _lineage(wanted, snapshots)
    guards.refuse_young(readings.reports, wanted.cutoff_us, allowed)
    done = writer.finish(wanted.plan, _profile(wanted, writer, profile, readings))
    path = folder / LINEAGE_FILE
    text = json.dumps(behind, indent=1, sort_keys=True).encode() + b"\n"
    seam.call("write", path, path.write_bytes, text)
    return done


class _Readings:
    """How the records of each reading of a group were found: counted, and taken off the rows."""

    def __init__(self, wanted: Request) -> None:
        self._cutoff_us = wanted.cutoff_us
        stems = {lookup.status_columns: lookup.group for lookup in wanted.lookups}
        self._columns = list(stems)
        self.reports: list[dict[str, Any]] = [
            {
                "reading": columns[0].removesuffix("__status"),
                "group": group,
                "statuses": {},
                "found": 0,
                "younger": 0,
                "min_age_us": 0,
                "max_age_us": 0,
                "age_sum_us": 0,
            }
            for columns, group in stems.items()
        ]

    def take(self, piece: pa.Table) -> pa.Table:
        """Count a piece; returns it without these columns."""
        for (status, event_time, age), report in zip(self._columns, self.reports, strict=True):
            for found in pc.value_counts(one_chunk(piece.column(status))).to_pylist():
                counts = report["statuses"]
                counts[found["values"]] = counts.get(found["values"], 0) + found["counts"]
            present = pc.equal(piece.column(status), "PRESENT")
            ages_us = one_chunk(piece.column(age).filter(present)).drop_null().view(pa.int64())
            self._note_ages(report, ages_us)
            piece = piece.drop_columns([status, event_time, age])
        return piece

    def _note_ages(self, report: dict[str, Any], ages_us: pa.Array) -> None:
        if not len(ages_us):
            return
        bounds = pc.min_max(ages_us).as_py()
        first = not report["found"]
        report["min_age_us"] = bounds["min"] if first else min(report["min_age_us"], bounds["min"])
        report["max_age_us"] = max(report["max_age_us"], bounds["max"])
        report["age_sum_us"] += _sum(ages_us)
        report["found"] += len(ages_us)
        if self._cutoff_us:
            report["younger"] += pc.sum(pc.less(ages_us, self._cutoff_us)).as_py()


def _sum(values: pa.Array) -> int:
    """Return an exact sum of int64, which may be more than one."""
    numbers = values.to_numpy()
    return (int((numbers >> 32).sum()) << 32) + int((numbers & 0xFFFFFFFF).sum())


def figures(columns: Sequence[Column], profile: Profile) -> dict[str, Any]:
    """Return the figures of each column of the matrix, of features also their AUC alone."""
    labels = [column for column in columns if column.role == "label"]
    target = None
    if labels and profile.sample_rows >= AUC_ROWS_MIN:
        is_category = labels[0].type == "string"
        target = target_of(profile.sample(labels[0].name), is_category=is_category)
    found = {}
    for column in columns:
        found[column.name] = profile.moments(column.name)
        if column.role == "feature":
            values, is_category = profile.sample(column.name), column.type == "string"
            alone = None
            if target is not None:
                alone = feature_auc(values, target, is_category=is_category)
            found[column.name]["auc"] = alone
    return found


def _profile(
    wanted: Request, writer: SetWriter, profile: Profile, readings: _Readings
) -> dict[str, Any]:
    times = one_chunk(wanted.labels.column(wanted.label_time)).view(pa.int64())
    return {
        "rows": wanted.labels.num_rows,
        "first_us": times[0].as_py(),
        "last_us": times[-1].as_py(),
        "repeated_rows": _repeated(wanted),
        "columns": figures(writer.matrix(), profile),
        "readings": readings.reports,
    }


def _repeated(wanted: Request) -> int:
    """Return how many rows ask for the same keys at the same time as a row before."""
    names = {wanted.label_time}
    for lookup in wanted.lookups:
        names |= set(lookup.keys(wanted.groups[lookup.group]).values())
    keys = wanted.labels.select(sorted(names))
    return int(keys.num_rows - keys.group_by(keys.column_names).aggregate([]).num_rows)


def _lineage(wanted: Request, snapshots: Mapping[str, GroupSnapshot]) -> dict[str, Any]:
    """Return where the set comes from: groups, schema versions, files, seq, code.

    None of it is in the set's hash: another script with the same request has the same set.
    """
    return {
        "set": wanted.hash,
        "as_of_seq": wanted.seq,
        "known": wanted.known,
        "labels": {"rows": wanted.labels.num_rows, "digest": wanted.plan["labels"]},
        "groups": [_group_lineage(snapshot) for snapshot in snapshots.values()],
        "code": lineage.caller(),
        "engine": {name: _version(name) for name in ("featurestore", "pyarrow", "numpy")}
        | {"python": platform.python_version()},
    }


def _version(name: str) -> str:
    """Return a distribution's version; empty where it is run without being installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _group_lineage(snapshot: GroupSnapshot) -> dict[str, Any]:
    group = snapshot.group
    return {
        "name": group.name,
        "id": group.id,
        "schema_version": group.version,
        "journal_rows": pc.sum(pc.less_equal(snapshot.tail[WRITE_SEQ], snapshot.seq)).as_py() or 0,
        "files": [
            {"path": entry.path, "digest": entry.digest, "rows": entry.visible_rows}
            for entry in snapshot.files
            if entry.min_seq <= snapshot.seq
        ],
    }
