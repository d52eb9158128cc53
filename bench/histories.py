"""Histories and labels for the joins, and what the answer is: from a seed, and by arithmetic.

::

    history     entity | event_time | base_f0 …      unsorted; rows of an entity are minutes apart
    labels      row | entity | event_time            unsorted; some are before the first row
    truth       position of each label's row in its history, found by sorting (entity, minute)

Truth shares no code with any engine.  An answer is compared with it by a checksum over row number,
column and value: the order of rows does not matter, but what stands beside which label does, to
the last bit.  It can be taken part by part, for answers that are never whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from bench.datasets import ENTITY, EVENT_TIME, START_US

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

ROW = "row"
MINUTE_US = 60_000_000
ZIPF = 1.1
BEFORE_SHARE = 0.01
"""How much of the time that labels are drawn from lies before all records."""


@dataclass(frozen=True)
class History:
    """One feature group of float64 features.

    Attributes
    ----------
    rows, keys : int
        Every key has about ``rows / keys`` rows, or a share by Zipf's law if skewed.
    text : bool
        Keys are texts.
    on : str
        The labels' column that holds the key.
    complete : bool
        No label lies before the first row of its key.
    """

    name: str
    rows: int
    keys: int
    features: int = 10
    text: bool = False
    skewed: bool = False
    on: str = ENTITY
    complete: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the features, which are no other group's."""
        return [f"{self.name}_f{number}" for number in range(self.features)]

    def codes(self, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return key number and minute of each row, in the order of the rows."""
        import numpy as np

        chance = np.random.default_rng((seed, 10, *self.name.encode()))
        if self.skewed:
            key = np.sort(self._skewed(chance, self.rows))
            first = np.searchsorted(key, np.arange(self.keys))
            minute = np.arange(self.rows) - first[key]
        else:
            key, minute = np.arange(self.rows) % self.keys, np.arange(self.rows) // self.keys
        order = chance.permutation(self.rows)
        return key[order], minute[order]

    def table(self, seed: int) -> pa.Table:
        """Return the rows, unsorted."""
        import numpy as np
        import pyarrow as pa

        key, minute = self.codes(seed)
        chance = np.random.default_rng((seed, 11, *self.name.encode()))
        columns = {ENTITY: self.key_column(key), EVENT_TIME: _times(minute * MINUTE_US)}
        return pa.table(columns | {f: pa.array(chance.random(self.rows)) for f in self.names})

    def key_column(self, key: np.ndarray[Any, Any]) -> pa.Array:
        """Return keys as they are stored."""
        import pyarrow as pa

        if not self.text:
            return pa.array(key)
        return pa.array([f"entity-{n:08}" for n in range(self.keys)]).take(pa.array(key))

    def label_keys(self, labels: int, chance: np.random.Generator) -> np.ndarray[Any, Any]:
        """Draw the key number of labels."""
        if self.skewed:
            return self._skewed(chance, labels)
        return chance.integers(0, self.keys, labels)

    def _skewed(self, chance: np.random.Generator, size: int) -> np.ndarray[Any, Any]:
        import numpy as np

        share = np.cumsum(np.arange(1, self.keys + 1) ** -ZIPF)
        return np.searchsorted(share, chance.random(size) * share[-1])


def draw_labels(
    histories: Iterable[History], labels: int, seed: int, *, keys: int | None = None
) -> tuple[pa.Table, dict[str, np.ndarray[Any, Any]]]:
    """Return labels, and for each history the position of the row that answers each, or -1.

    Histories that are looked up by the same column of the labels have the same keys.

    Parameters
    ----------
    keys : int, optional
        Only so many of the keys occur.
    """
    import numpy as np
    import pyarrow as pa

    chance = np.random.default_rng((seed, 12))
    found = list(histories)
    drawn: dict[str, Any] = {}
    columns: dict[str, Any] = {ROW: pa.array(np.arange(labels))}
    for history in found:
        if history.on not in drawn:
            drawn[history.on] = history.label_keys(labels, chance)
            if keys is not None:
                some = np.unique(drawn[history.on])
                drawn[history.on] = chance.choice(chance.choice(some, keys), labels)
            columns[history.on] = history.key_column(drawn[history.on])
    minutes = max(history.rows // history.keys for history in found)
    low = 0.0 if any(history.complete for history in found) else -BEFORE_SHARE
    time_us = (chance.uniform(low, 1.0, labels) * minutes * MINUTE_US).astype(np.int64)
    columns[EVENT_TIME] = _times(time_us)
    places = {h.name: _answers(h, drawn[h.on], time_us, seed) for h in found}
    return pa.table(columns), places


def _answers(history: History, label_key: Any, label_us: Any, seed: int) -> np.ndarray[Any, Any]:
    """Return for each label the position of the newest row of its key at or before it, or -1."""
    import numpy as np

    key, minute = history.codes(seed)
    packed = (key.astype(np.int64) << 32) + minute
    order = np.argsort(packed)
    wanted = (label_key.astype(np.int64) << 32) + np.floor_divide(label_us, MINUTE_US)
    at = np.searchsorted(packed[order], wanted, side="right") - 1
    place = order[np.maximum(at, 0)]
    return np.where((at >= 0) & (key[place] == label_key) & (label_us >= 0), place, -1)


def _times(after_start_us: Any) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    times = pa.array((START_US + after_start_us).astype(np.int64))
    return times.view(pa.timestamp("us", tz="UTC"))


# ── the checksum of an answer ────────────────────────────────────────────────────────────────


def checksum(answer: pa.Table | pa.RecordBatch, features: Iterable[str]) -> int:
    """Return a sum over all values, each mixed with its label's row and its column's name.

    Sums of parts of an answer, rows or columns, add up to that of the whole, modulo 2 to the 64th.

    >>> import pyarrow as pa
    >>> whole = pa.table({"row": [0, 1], "x": [0.5, None]})
    >>> parts = [checksum(whole.slice(n, 1), ["x"]) for n in (0, 1)]
    >>> sum(parts) % 2**64 == checksum(whole, ["x"])
    True
    >>> checksum(pa.table({"row": [1, 0], "x": [0.5, None]}), ["x"]) == checksum(whole, ["x"])
    False
    """
    import numpy as np

    weight = _mixed(_numpy(answer.column(ROW)).astype(np.uint64) + np.uint64(1)) | np.uint64(1)
    total = 0
    for name in features:
        column = answer.column(name)
        bits = _numpy(column.fill_null(0.0)).astype(np.float64).view(np.uint64)
        if column.null_count:
            bits = np.where(_numpy(column.is_null()), np.uint64(2**63 + 1), bits)
        total += int(
            (_mixed(bits ^ np.uint64(crc32(name.encode()))) * (weight | np.uint64(1))).sum()
        )
    return total % 2**64


def _mixed(values: Any) -> Any:
    """Spread what differs over all 64 bits (the finaliser of splitmix64)."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _numpy(column: Any) -> Any:
    return column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(zero_copy_only=False)


def gathered(history: pa.Table, places: Any, names: Iterable[str]) -> dict[str, pa.Array]:
    """Return the features at these places of a history; null where there is none."""
    import numpy as np
    import pyarrow as pa

    found = places >= 0
    index = np.maximum(places, 0)
    return {name: pa.array(history.column(name).to_numpy()[index], mask=~found) for name in names}
