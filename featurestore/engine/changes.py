"""Changes: every accepted record of the store, in commit order, for replicas and caches.

Records come from history files while they are there and from the journal tail after that; both
carry their ``seq``, so a consumer that remembers the last one it has seen misses nothing and sees
nothing twice, whatever was flushed or compacted meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.storage.parquet import STORES, WRITE_SEQ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurestore.engine.database import Database
    from featurestore.engine.snapshot import GroupSnapshot


def changes(
    database: Database, since: int, names: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield every record with ``seq > since``, in order of seq, as the store stands now.

    Yields
    ------
    dict
        ``group``, ``seq``, ``write_time``, ``is_deleted``, ``expires_at`` and ``record``, the
        features by name.
    """
    known = database.catalog().groups
    groups = [name for name in known if known[name].offline] if names is None else names
    with database.snapshot(groups) as snapshots:
        rows: list[tuple[int, str, pa.Table, int]] = []
        for name, snapshot in snapshots.items():
            snapshot.require_history()
            table = _rows_after(snapshot, since)
            seqs = table.column(WRITE_SEQ).to_pylist()
            rows += [(seq, name, table, row) for row, seq in enumerate(seqs)]
    rows.sort(key=lambda item: item[0])
    for seq, name, table, row in rows:
        record = table.slice(row, 1).to_pylist()[0]
        group = snapshots[name].group
        yield {
            "group": name,
            "seq": seq,
            "write_time": record["write_time"],
            "is_deleted": record["is_deleted"],
            "expires_at": record["expires_at"],
            "record": {feature.name: record[feature.name] for feature in group.features},
        }


def _rows_after(snapshot: GroupSnapshot, since: int) -> pa.Table:
    parts = [snapshot.read(e) for e in snapshot.files if e.max_seq > since]
    parts.append(snapshot.tail)
    table = pa.concat_tables(parts)
    return table.filter(pc.greater(table.column(WRITE_SEQ), since)).drop_columns([STORES])
