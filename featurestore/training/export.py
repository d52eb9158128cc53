"""Exports: the rows of a set in a file of another format.

Numbers are those a loader gives, in the order of the set, or of an epoch if the loader shuffles.
Parquet alone has the values as they were, texts as texts, the label first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput
from featurestore.storage import files
from featurestore.training.formats import CONTENT_TYPES, encoded

if TYPE_CHECKING:
    from featurestore.training.training_set import TrainingSet

_BATCH_ROWS = 1 << 14


def export(
    training_set: TrainingSet, path: str | Path, form: str = "parquet", **options: Any
) -> Path:
    """Write a set, or a split of one, to a file; durable under its name when this returns.

    Parameters
    ----------
    training_set : TrainingSet
        What to write.
    path : path
        The file; one that is there is replaced.
    form : {"parquet", "csv", "recordio", "libsvm", "arrow"}
        See :mod:`featurestore.training.formats`; in ``"parquet"`` values have their own types.
    **options
        Of the loader, such as ``shuffle=True, seed=7``; not for Parquet.

    Returns
    -------
    Path
        The file.
    """
    if form not in CONTENT_TYPES:
        raise InvalidInput(f'There is no export "{form}"; use one of {", ".join(CONTENT_TYPES)}.')
    target = Path(path)
    files.make_folder(target.absolute().parent)
    making = target.with_name(f".{target.name}.tmp")
    try:
        with files.translated(target):
            if form == "parquet":
                _write_parquet(training_set, making)
            else:
                _write_rows(training_set, making, form, options)
        files.publish(making, target)
    finally:
        making.unlink(missing_ok=True)
    return target


def _write_parquet(training_set: TrainingSet, path: Path) -> None:
    import pyarrow.parquet as pq

    label = training_set.label
    names = ([] if label is None else [label]) + list(training_set.features)
    tables = training_set.tables()
    first = next(tables).select(names)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.select(names))


def _write_rows(training_set: TrainingSet, path: Path, form: str, options: dict[str, Any]) -> None:
    with (
        training_set.loader(**{"batch": _BATCH_ROWS, "shuffle": False, **options}) as loader,
        path.open("wb") as file,
    ):
        names, label = training_set.features, training_set.label
        for data in encoded(iter(loader), form, names, label):
            file.write(data)
