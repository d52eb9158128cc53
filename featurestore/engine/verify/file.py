"""One history file of ``verify``: what is on disk, against its row in the manifest.

::

    bytes       there; size; digest                    else nothing in it is looked at
    columns     those of its schema version
    rows        how many; visible ones within them; slices of a staged file end to end
    keys        hashes are those of the keys; sorted by (hash, key, event time, seq)
    bounds      hash, event time, seq; tombstones; unique

The digest vouches for every byte, so values are not read here: those that matter are compared with
the online store (``group``).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.encoding.columns import history_schema
from featurestore.encoding.key_columns import encode_keys
from featurestore.errors import CorruptStore, FeatureStoreError
from featurestore.record import STORE_OFFLINE
from featurestore.storage import files, seam
from featurestore.storage.parquet import (
    IS_DELETED,
    KEY_HASH,
    STORES,
    WRITE_SEQ,
    as_int64,
    read_history,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from featurestore.encoding.keys import KeyHash
    from featurestore.engine.verify.findings import Findings
    from featurestore.schema import FeatureGroup
    from featurestore.storage.manifest import FileEntry, GroupState

_KINDS = ("flush", "staged", "cell", "merged")


def check_file(
    root: Path,
    entry: FileEntry,
    group: FeatureGroup,
    key_hash: KeyHash,
    state: GroupState,
    findings: Findings,
) -> pa.Table | None:
    """Check a file that the manifest lists.

    Returns
    -------
    pyarrow.Table or None
        Keys, event time, seq, stores and tombstones of its visible rows, in file order; None if
        that cannot be read or is not in order.
    """
    check = _FileCheck(root, entry, group, key_hash, findings)
    if not (check.bytes_are_sound() and check.rows_are_sound()):
        return None
    table = check.keys()
    if table is None:
        return None
    check.bounds(table)
    check.stores_and_drain(table, state)
    return table if check.order_is_sound(table) else None


class _FileCheck:
    """The checks of one file; those called ``…_are_sound`` decide whether others make sense."""

    def __init__(
        self,
        root: Path,
        entry: FileEntry,
        group: FeatureGroup,
        key_hash: KeyHash,
        findings: Findings,
    ) -> None:
        self.root = root
        self.entry = entry
        self.group = group
        self.key_hash = key_hash
        self.findings = findings
        #: Of a file half visible the manifest may give bounds and counts of the whole.
        self.is_half = entry.visible_rows < entry.rows

    def _fault(self, what: str, sentence: str) -> None:
        self.findings.fault(self.entry.path, what, sentence)

    def bytes_are_sound(self) -> bool:
        """Check that the file is there, and is what was written."""
        path, entry = self.root / self.entry.path, self.entry
        if not path.exists():
            self._fault("missing", "it is listed in the manifest but not there.")
            return False
        size = files.size(path)
        if size != entry.size_bytes:
            self._fault("size", f"it has {size:,} bytes; the manifest says {entry.size_bytes:,}.")
            return False
        if files.digest(path) != entry.digest:
            self._fault("digest", "its bytes are not those that were written.")
            return False
        return True

    def rows_are_sound(self) -> bool:
        """Check what the manifest says of rows, slices and kind for sense in itself."""
        entry = self.entry
        if entry.kind not in _KINDS:
            self._fault("kind", f'"{entry.kind}" is no kind of file.')
            return False
        if not 0 < entry.visible_rows <= entry.rows:
            self._fault("rows", f"{entry.visible_rows} of its {entry.rows} rows are visible.")
            return False
        ends = [end for end, _, _ in entry.slices]
        ascending = all(a < b for a, b in itertools.pairwise([0, *ends]))
        if entry.kind == "staged" and not (ascending and ends[-1:] == [entry.visible_rows]):
            self._fault(
                "slices", f"its slices end at rows {shown(ends)}; {entry.visible_rows} are visible."
            )
            return False
        if entry.kind != "staged" and (ends or self.is_half):
            self._fault("slices", "it is no staged file, but is visible in slices.")
        return True

    def keys(self) -> pa.Table | None:
        """Return the columns of keys, event time and system; None if they cannot be read."""
        group = self.group
        names = [
            KEY_HASH,
            *group.record_identifier,
            group.event_time,
            WRITE_SEQ,
            IS_DELETED,
            STORES,
        ]
        try:
            path = self.root / self.entry.path
            self._columns(seam.call("open", path, pq.read_schema, path).names)
            table = read_history(self.root, self.entry, group, names)
        except (CorruptStore, pa.ArrowException, OSError) as error:
            self._fault("unreadable", str(error))
            return None
        if any(table.column(name).null_count for name in names):
            self._fault("nulls", "there are nulls in its keys or system columns.")
            return None
        return table

    def _columns(self, found: list[str]) -> None:
        entry, group = self.entry, self.group
        if entry.schema_version > group.version:
            self._fault(
                "schema",
                f"it has schema version {entry.schema_version}; the group's is {group.version}.",
            )
        later = {f.name for f in group.features if f.since > entry.schema_version}
        expected = [name for name in history_schema(group).names if name not in later]
        if found != expected:
            self._fault("schema", f"its columns are {', '.join(found)}; not {', '.join(expected)}.")

    def bounds(self, table: pa.Table) -> None:
        """Compare the least and greatest hash, event time and seq, and count tombstones."""
        entry = self.entry
        for what, name, low, high in (
            ("hash", KEY_HASH, entry.min_hash, entry.max_hash),
            ("event time", self.group.event_time, entry.min_event_us, entry.max_event_us),
            ("seq", WRITE_SEQ, entry.min_seq, entry.max_seq),
        ):
            values = as_int64(table.column(name))
            least, most = int(values.min()), int(values.max())
            true = low <= least and most <= high if self.is_half else (low, high) == (least, most)
            if not true:
                self._fault(
                    "bounds",
                    f"its {what} runs from {least} to {most}; the manifest says {low} to {high}.",
                )
        deleted = int(pc.sum(table.column(IS_DELETED)).as_py())
        if deleted > entry.tombstones or (deleted < entry.tombstones and not self.is_half):
            self._fault(
                "tombstones", f"it has {deleted} tombstones; the manifest says {entry.tombstones}."
            )

    def stores_and_drain(self, table: pa.Table, state: GroupState) -> None:
        """Check that its rows are for the offline store, and drained if they were journaled."""
        if (as_int64(table.column(STORES)) & STORE_OFFLINE == 0).any():
            self._fault("stores", "it holds records that are not for the offline store.")
        last_seq = int(as_int64(table.column(WRITE_SEQ)).max())
        if self.entry.kind == "flush" and last_seq > state.drained_seq:
            self._fault(
                "drained",
                f"it holds seq {last_seq}, and the group is drained up to {state.drained_seq}.",
            )

    def order_is_sound(self, table: pa.Table) -> bool:
        """Check hashes and order; and, if these are right, uniqueness."""
        columns = [table.column(name) for name in self.group.record_identifier]
        try:
            keys = encode_keys(columns, [f.dtype for f in self.group.key_features])
        except FeatureStoreError as error:
            self._fault("keys", str(error))
            return False
        if (keys.hashes(self.key_hash)[keys.codes] != as_int64(table.column(KEY_HASH))).any():
            self._fault("hash", "it has hashes that are not those of their keys.")
            return False
        rank = np.diff(keys.ranks(self.key_hash)[keys.codes])
        event = np.diff(as_int64(table.column(self.group.event_time)))
        seq = np.diff(as_int64(table.column(WRITE_SEQ)))
        ascending = (rank > 0) | ((rank == 0) & ((event > 0) | ((event == 0) & (seq > 0))))
        if not ascending.all():
            row = int(np.flatnonzero(~ascending)[0])
            self._fault("order", f"row {row + 1} belongs before row {row}.")
            return False
        unique = not ((rank == 0) & (event == 0)).any()
        if self.entry.unique > unique or (self.entry.unique < unique and not self.is_half):
            found, said = ("none", "some") if unique else ("some", "none")
            self._fault(
                "unique", f"{found} of its rows share key and event time; the manifest says {said}."
            )
        return True


def shown(numbers: Sequence[int]) -> str:
    """Return the first of some numbers as text.

    Examples
    --------
    >>> shown([3, 1]), shown(range(9)), shown([])
    ('3, 1', '0, 1, 2, 3, 4, … (9 in all)', 'none')
    """
    first = ", ".join(map(str, numbers[:5]))
    return f"{first}, … ({len(numbers)} in all)" if len(numbers) > 5 else first or "none"
