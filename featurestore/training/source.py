"""A set's files, open: where each column of each row group begins."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

import numpy as np

from featurestore.errors import CorruptStore
from featurestore.kernels.rows import (
    COLUMN_NUMBERS,
    COUNT,
    FILE,
    KIND,
    NULLS,
    RANKS,
    STRIPE_ROWS,
    VALID,
    VALUES,
    WIDTHS,
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
        widths = np.array(WIDTHS)[kinds]
        rows = np.array(self.row_groups)[:, None]
        columns[:, :, KIND] = kinds
        columns[:, :, COUNT] = pages[:, :, 1]
        columns[:, :, VALUES] = pages[:, :, 0]
        columns[:, :, NULLS] = -1
        ends = pages[:, :, 0] + (pages[:, :, 1] * widths + 7) // 8
        nullable = pages[:, :, 2] >= 0
        sound = (pages >= -1).all() and ((pages[:, :, 1] == rows) | nullable).all()
        at = 0
        for part in layout.parts:
            here = slice(at, at + len(part.rows))
            at += len(part.rows)
            sound = sound and (ends[here] <= part.size_bytes).all()
            columns[here, :, FILE] = self._open(folder / part.name)
        stripes = -(-rows // STRIPE_ROWS)
        if layout.nulls is not None:
            sound = (
                sound
                and (pages[:, :, 2] + 4 * stripes + (rows + 7) // 8)[nullable].max()
                <= layout.nulls[0]
            )
            columns[:, :, NULLS] = np.where(nullable, self._open(folder / NULLS_FILE), -1)
            columns[:, :, RANKS] = pages[:, :, 2]
            columns[:, :, VALID] = pages[:, :, 2] + 4 * stripes
        elif nullable.any():
            sound = False
        if not sound:
            raise CorruptStore(
                f"The set.json of {folder} does not fit its files. Delete the training set and "
                "request it again: the same request makes the same set."
            )

    def _open(self, path: Path) -> int:
        """Open a file for as long as this is alive; returns its descriptor."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, file)
        return file

    def lay(self, stripes: Int64, places: Int32, block: Float32, labels: Float32) -> None:
        """Lay stripes of rows down in a block; see :func:`featurestore.kernels.rows.lay_rows`."""
        try:
            lay_rows(self._columns, self._fills, stripes, places, block, labels)
        except ValueError as error:
            raise CorruptStore(f"A training set's files do not fit together: {error}.") from error
