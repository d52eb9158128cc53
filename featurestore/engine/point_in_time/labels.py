"""The labels' side: their times, their keys as numbers, and how they are laid out for the kernels.

Labels are laid out by key and time, once for all lookups that share the key's columns::

    as given     key  B   A   B   A   C         laid out     A   A │ B   B │ C
                 time 3   9   1   4   5         time         4   9 │ 1   3 │ 5
                      0   1   2   3   4         order        3   1 │ 2   0 │ 4

Which key comes first is free, and it pays to choose the order in which files have them, by hash:
then a file and the labels are both gone through forwards.  The hash of a label's key is not known
without computing it, but files tell the order: it is that of the first ones read.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.arrays import one_chunk
from featurestore.casts import cast_column
from featurestore.encoding.key_columns import encode_keys
from featurestore.engine import frames
from featurestore.engine.key_index import NO_KEY, KeyIndex
from featurestore.errors import InvalidEventTime, InvalidInput, InvalidRecord
from featurestore.event_time import column_to_us
from featurestore.kernels.asof import AsofLabels, asof_prepare

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import tzinfo

    from featurestore.encoding.keys import KeyHash
    from featurestore.engine.point_in_time.plan import Role
    from featurestore.schema import FeatureGroup

Int64 = npt.NDArray[np.int64]

LABEL_TIME = "event_time"
"""The labels' column of times when the caller names none."""


def label_times(frame: Any, label_time: str | None, tz: str | tzinfo | None) -> Int64:
    """Return the labels' times in microseconds; every label must have one."""
    name = LABEL_TIME if label_time is None else label_time
    column = frames.column(frame, name, lambda: _times_hint(frame))
    times = column_to_us(column, tz=tz, what=f'label time "{name}"')
    if times.null_count:
        rows = np.flatnonzero(np.asarray(times.is_null())).tolist()
        shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        raise InvalidEventTime(
            f'label time "{name}" is missing in {len(rows)} of {len(times)} rows ({shown}). What '
            "was known at no time cannot be said; drop these labels or give them a time.",
            rows=[(row, "no label time") for row in rows[:100]],
        )
    array = one_chunk(times)
    return np.asarray(array.view(pa.int64()).to_numpy(), np.int64)


def _times_hint(frame: Any) -> str:
    """List the columns that could be the label time.  Which of them it is, is not guessed."""
    times = [f'"{name}"' for name in frames.column_names(frame) if _holds_times(frame, name)]
    listed = f" Columns of timestamps: {', '.join(times)}." if times else ""
    return f" label_time= names the column that holds the labels' times.{listed}"


def _holds_times(frame: Any, name: str) -> bool:
    try:
        return bool(pa.types.is_timestamp(frames.column(frame, name).type))
    except InvalidInput:  # named twice, or of objects that Arrow cannot read
        return False


class Labels:
    """The labels of one join, with a numbering for each way their columns are used as a key."""

    def __init__(self, frame: Any, time_us: Int64, tz: str | tzinfo | None) -> None:
        self.frame = frame
        self.time_us = time_us
        self._tz = tz
        self._numbered: dict[Any, LabelKeys] = {}

    def __len__(self) -> int:
        return int(self.time_us.size)

    def keys(self, role: Role, group: FeatureGroup) -> LabelKeys:
        """Return the labels' keys for a role, in the types of the group's identifier."""
        # The features' ids of two groups differ, and so may names: types are what keys share.
        kinds = tuple(feature.dtype.to_arrow() for feature in group.key_features)
        name = (role.label_columns, kinds)
        if name not in self._numbered:
            self._numbered[name] = LabelKeys(self._cast(role, group), self.time_us)
        return self._numbered[name]

    def _cast(self, role: Role, group: FeatureGroup) -> list[pa.Array]:
        columns = []
        for name, column in zip(group.record_identifier, role.label_columns, strict=True):
            hint = partial(_on_hint, group.name, name)
            values = frames.column(self.frame, column, hint)
            try:
                dtype = group.feature(name).dtype
                columns.append(cast_column(values, dtype, column, tz=self._tz))
            except InvalidRecord as error:
                raise type(error)(
                    f'The labels\' column "{column}" does not fit the key "{name}" of '
                    f'"{group.name}": {error}',
                    rows=error.rows,
                ) from None
        return columns


def _on_hint(group: str, key: str) -> str:
    return (
        f' "{group}" is looked up by "{key}"; if the labels call it something else, use '
        f'FeatureLookup("{group}", ..., on={{"{key}": <column>}}).'
    )


class LabelKeys:
    """The labels' keys, numbered, and the layout in the order of those numbers or another.

    Attributes
    ----------
    index : KeyIndex
        The numbers.
    ordered : int
        So many keys, the first of the layout, are those of the first file, in its order; files
        beside it may have others in between.
    spare : list
        Best rows, empty, that no search needs now.
    """

    def __init__(self, columns: list[pa.Array], time_us: Int64) -> None:
        self.index = KeyIndex(columns)
        self._time_us = time_us
        self.ordered = 0
        self._ranks: Int64 | None = None
        self._laid: AsofLabels | None = None
        self.spare: list[npt.NDArray[np.void]] = []

    def hashes(self, group: FeatureGroup, key_hash: KeyHash) -> Int64 | None:
        """Return the hashes of the distinct keys, sorted; None for keys no record can have."""
        try:
            keys = encode_keys(self.index.distinct(), [f.dtype for f in group.key_features])
        except InvalidRecord:  # too long for any record: it finds nothing by comparison either
            return None
        return np.sort(np.asarray(keys.hashes(key_hash), np.int64))

    def order_by(self, found: Iterable[Int64]) -> None:
        """Lay keys out in the order in which files have them, unless that is settled."""
        if self._ranks is not None:
            return
        parts = [np.empty(0, np.int64), *found]
        codes = np.concatenate(parts)
        codes = codes[codes != NO_KEY][::-1]
        first = np.full(self.index.size, codes.size, np.int64)
        first[codes] = np.arange(codes.size)[::-1]  # of equal codes the last one assigned stays
        self._ranks = np.empty(self.index.size, np.int64)
        self._ranks[np.argsort(first, kind="stable")] = np.arange(self.index.size)
        self.ordered = int(self.ranks(parts[:2][-1]).max(initial=NO_KEY)) + 1

    def ranks(self, codes: Int64) -> Int64:
        """Return the places of keys in the layout, negative for ``NO_KEY``."""
        self.order_by(())
        ranks = np.append(self._ranks, NO_KEY)  # type: ignore[arg-type] # order_by has set them
        return ranks[codes]

    def block_edges(self, labels: int) -> Int64:
        """Return where to cut the layout's keys, so that each block has about so many labels."""
        starts = self.laid.starts
        return np.searchsorted(starts, np.arange(labels, starts[-1], labels))

    @property
    def laid(self) -> AsofLabels:
        """The layout."""
        if self._laid is None:
            self._laid = asof_prepare(self.ranks(self.index.codes), self._time_us, self.index.size)
            self.spare.append(self._laid.best)
        return self._laid
