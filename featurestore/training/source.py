"""A set's files, mapped: where each column of each row group lies in memory."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from featurestore.errors import CorruptStore
from featurestore.kernels.rows import (
    BITS,
    COLUMN_NUMBERS,
    COUNT,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64S,
    KIND,
    RANKS,
    STRIPE_ROWS,
    VALID,
    VALUES,
    lay_rows,
)
from featurestore.training.layout import NULLS_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from featurestore.training.training_set import TrainingSet

    Int32 = NDArray[np.int32]
    Int64 = NDArray[np.int64]
    Float32 = NDArray[np.float32]

_WIDTH_BITS = {FLOAT32: 32, FLOAT64: 64, INT32: 32, INT64S: 64, BITS: 1}
#: Pages of mapped files count as memory of the process, until it says that it is done with them.
_KEPT_BYTES = 128 << 20


class Source:
    """The columns of a set, to be laid down as rows.

    Attributes
    ----------
    row_groups : list of int
        Rows of each.
    features : int
        How many columns the matrix has.
    has_label : bool
        Whether there is one more.
    """

    def __init__(self, training_set: TrainingSet) -> None:
        training_set.check_sizes()
        layout = training_set.layout
        folder = training_set.folder
        self.row_groups = [rows for part in layout.parts for rows in part.rows]
        self.features = len(layout.features)
        self.has_label = layout.label is not None
        fills = [np.nan if column.fill is None else column.fill for column in layout.matrix]
        self._fills = np.array(fills, np.float32)
        self._maps: list[mmap.mmap] = []
        self._touched = 0
        self._row_bytes = sum(_WIDTH_BITS[column.kind or 0] for column in layout.matrix) // 8
        self._columns = np.zeros(
            (len(self.row_groups), len(layout.matrix), COLUMN_NUMBERS), np.int64
        )
        self._fill_in(training_set, folder)

    def _fill_in(self, training_set: TrainingSet, folder: Path) -> None:
        layout, columns = training_set.layout, self._columns
        if not columns.size:
            return
        pages = np.array(layout.pages, np.int64)  # row group, column: first byte, count, ranks
        kinds = np.array([column.kind for column in layout.matrix])
        widths = np.array([_WIDTH_BITS[kind] for kind in kinds])
        rows = np.array(self.row_groups)[:, None]
        columns[:, :, KIND] = kinds
        columns[:, :, COUNT] = pages[:, :, 1]
        ends = pages[:, :, 0] + (pages[:, :, 1] * widths + 7) // 8
        nullable = pages[:, :, 2] >= 0
        sound = (pages >= -1).all() and ((pages[:, :, 1] == rows) | nullable).all()
        at = 0
        for part in layout.parts:
            here = slice(at, at + len(part.rows))
            at += len(part.rows)
            sound = sound and (ends[here] <= part.size_bytes).all()
            columns[here, :, VALUES] = pages[here, :, 0] + self._map(folder / part.name)
        stripes = -(-rows // STRIPE_ROWS)
        if layout.nulls is not None:
            sound = (
                sound
                and (pages[:, :, 2] + 4 * stripes + (rows + 7) // 8)[nullable].max()
                <= layout.nulls[0]
            )
            base = self._map(folder / NULLS_FILE)
            columns[:, :, RANKS] = np.where(nullable, pages[:, :, 2] + base, 0)
            columns[:, :, VALID] = np.where(nullable, pages[:, :, 2] + base + 4 * stripes, 0)
        elif nullable.any():
            sound = False
        if not sound:
            raise CorruptStore(
                f"The set.json of {folder} does not fit its files. Delete the training set and "
                "request it again: the same request makes the same set."
            )

    def _map(self, path: Path) -> int:
        """Map a file; returns its address."""
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(mapped)
        return int(np.frombuffer(mapped, np.uint8).ctypes.data)

    def lay(self, stripes: Int64, places: Int32, block: Float32, labels: Float32) -> None:
        """Lay stripes of rows down in a block; see :func:`featurestore.kernels.rows.lay_rows`."""
        try:
            lay_rows(self._columns, self._fills, stripes, places, block, labels)
        except ValueError as error:
            raise CorruptStore(f"A training set's files do not fit together: {error}.") from error
        self._touched += places.size * self._row_bytes
        if self._touched > _KEPT_BYTES:
            self._touched = 0
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
