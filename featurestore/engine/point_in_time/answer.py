"""What one reading of a group gives: features and a status for every label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.record import Status

Int64 = npt.NDArray[np.int64]

MISSING, PRESENT, EXPIRED, DELETED = range(4)
_NAMES = pa.array([Status.MISSING, Status.PRESENT, Status.EXPIRED, Status.DELETED], pa.string())
_UTC = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Origin:
    """Where the answers of a role came from.

    Attributes
    ----------
    source : pyarrow.Array of string, n
        Path of the file below the store's folder, or ``"journal"``; null where nothing was found.
    write_seq : pyarrow.Array of int64, n
        Seq of the row found.
    rule : pyarrow.Array of string, n
        What decided; see ``explain``.
    """

    source: pa.Array
    write_seq: pa.Array
    rule: pa.Array


@dataclass
class Answer:
    """What one role gives: a value for each label, null where there is none.

    Attributes
    ----------
    label_us : int64[n]
        The labels' times.
    answered : int64[m]
        The labels for which a row was found, whatever its status.
    status : int8[m]
        Theirs, as one of the numbers above.
    event_us : int64[m]
        Event times of the rows found.
    features : dict of str to pyarrow.ChunkedArray of n rows
        The features asked for; null unless PRESENT.
    origin : Origin, optional
        Only if it was asked for.
    """

    label_us: Int64
    answered: Int64
    status: npt.NDArray[np.int8]
    event_us: Int64
    features: dict[str, pa.ChunkedArray]
    origin: Origin | None = None

    def feature(self, name: str) -> pa.ChunkedArray:
        """Return a feature."""
        return self.features[name]

    def status_names(self) -> pa.ChunkedArray:
        """Return the status by name."""
        status = np.full(self.label_us.size, MISSING, np.int8)
        status[self.answered] = self.status
        return pa.chunked_array([_NAMES.take(pa.array(status))])

    def event_times(self) -> pa.ChunkedArray:
        """Return the event time of the row found."""
        return pa.chunked_array([self.spread(self.event_us).view(_UTC)])

    def ages(self) -> pa.ChunkedArray:
        """Return how old the row found was at the label's time."""
        age_us = self.label_us[self.answered] - self.event_us  # both within the years 1 to 9999
        return pa.chunked_array([self.spread(age_us).view(pa.duration("us"))])

    def sources(self) -> pa.ChunkedArray:
        """Return the file or journal of the row found."""
        return pa.chunked_array([cast("Origin", self.origin).source])

    def seqs(self) -> pa.ChunkedArray:
        """Return the seq of the row found."""
        return pa.chunked_array([cast("Origin", self.origin).write_seq])

    def rules(self) -> pa.ChunkedArray:
        """Return the rule that decided."""
        return pa.chunked_array([cast("Origin", self.origin).rule])

    def spread(self, values: npt.NDArray[Any]) -> pa.Array:
        """Return these values at the labels answered, and nulls elsewhere."""
        spread = np.zeros(self.label_us.size, values.dtype)
        absent = np.ones(self.label_us.size, np.bool_)
        spread[self.answered], absent[self.answered] = values, False
        return pa.array(spread, mask=absent)


REPORTS = (Answer.status_names, Answer.event_times, Answer.ages)
"""What ``FeatureLookup.status_columns`` names."""

ORIGINS = (Answer.sources, Answer.seqs, Answer.rules)
"""What ``FeatureLookup.explain_columns`` names."""

report_types: dict[Any, pa.DataType] = dict(
    zip(
        (*REPORTS, *ORIGINS),
        (pa.string(), _UTC, pa.duration("us"), pa.string(), pa.int64(), pa.string()),
        strict=True,
    )
)


def take(column: pa.ChunkedArray, place: pa.Array) -> pa.ChunkedArray:
    """Return ``column.take(place)``, also when that is more than 2 GiB of text, a chunk's limit."""
    try:
        return column.take(place)
    except pa.ArrowInvalid:
        return _take_much(column, place)


def _take_much(column: pa.ChunkedArray, place: pa.Array) -> pa.ChunkedArray:
    """Take by way of the type's wide sibling, as many places at once as then fit in a chunk."""
    wide = column.cast(_wide(column.type))
    fitting: list[pa.Array] = []
    parts = [place]
    while parts:
        part = parts.pop()
        try:
            fitting += wide.take(part).cast(column.type).chunks
        except pa.ArrowInvalid:
            if len(part) == 1:
                raise
            half = len(part) // 2
            parts += [part.slice(half), part.slice(0, half)]
    return pa.chunked_array(fitting, column.type)


def _wide(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.large_list(_wide(kind.value_type))
    return {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(kind, kind)
