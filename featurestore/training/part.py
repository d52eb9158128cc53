"""The files of a part: a split as a set of its own, for jobs that are given a folder.

A split reads the files of the whole set, which is right as long as it is read through a loader.  A
script that is handed a folder must not find the test rows in it; so the rows of a part are written
once into ``parts/<first>-<end>`` below the set, with the whole set's categories, and go with it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.engine.point_in_time.batches import Stretches
from featurestore.storage import files
from featurestore.training.build import figures
from featurestore.training.layout import LINEAGE_FILE, ROW_GROUP_ROWS
from featurestore.training.profile import Profile
from featurestore.training.writer import SetWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from featurestore.training.training_set import TrainingSet

_FOLDER = "parts"


def part_folder(part: TrainingSet) -> Path:
    """Return the folder of a part's rows; makes it if it is not there."""
    first, end = part.rows
    final = part.folder / _FOLDER / f"{first}-{end}"
    if final.exists():
        return final
    files.make_folder(final.parent)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=final.parent))
    try:
        _write(part, making)
        for path in files.listing(making, "*"):
            files.sync_file(path)
        making.chmod(0o755)
        with contextlib.suppress(OSError):  # another was first, and wrote the same
            files.publish(making, final)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return final


def _write(part: TrainingSet, folder: Path) -> None:
    layout = part.layout
    roles = {column.name: column.role for column in layout.columns}
    fills = {column.name: column.fill for column in layout.columns}
    writer = SetWriter(folder, roles, part.label_time, fills, part.categories)
    profile = Profile(len(part))
    tables = part.tables()
    first = next(tables)

    def batches() -> Iterator[pa.RecordBatch]:
        yield from first.to_batches()
        for table in tables:
            yield from table.to_batches()

    first_us = last_us = None
    for table in writer.write(Stretches(first.schema, batches()).of(ROW_GROUP_ROWS)):
        profile.add(table, writer.matrix_names)
        times = table.column(part.label_time).combine_chunks().cast("int64")
        first_us = times[0].as_py() if first_us is None else first_us
        last_us = times[-1].as_py()
    plan = {**layout.plan, "rows": list(part.rows)}
    found: dict[str, Any] = {
        "rows": len(part),
        "first_us": first_us,
        "last_us": last_us,
        "repeated_rows": 0,
        "columns": figures(writer.matrix(), profile),
        "readings": [],
    }
    writer.finish(plan, found)
    lineage = {**part.lineage, "rows": list(part.rows)}
    (folder / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1), encoding="utf-8")
