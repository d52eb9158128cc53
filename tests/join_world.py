"""Random histories of many keys, told to a store and to the model.

A story is told to a store and to the model, and it is known where its rows lie in the end::

    Load  Put  Delete  Tick  Grow  flush  compact  …

    ─ cells ──────────┬─ flushed and staged files ─┬─ journal ─▶ seq

Groups:

==========  ====================  ================================================================
``ints``    int64 key, no ttl     floats (nan, -0.0), int64 limits
``texts``   text key, ttl 10 min  flags and texts
``pairs``   text and int64        keys that a careless joining of texts would mix up; ttl by record
``one``     int64 key             has a single key, and with it many versions of it
``empty``   text key              nobody ever writes to it
==========  ====================  ================================================================

All but the last gain a feature on the way, so that files carry several schema versions.  What is
asked of such a store is in ``join_questions.py``.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pytest

import featurestore as fs
from featurestore.engine import compactor, point_in_time, staging
from featurestore.engine import ingest as engine_ingest
from featurestore.engine.point_in_time import batches, history, indexed, last
from featurestore.engine.point_in_time.match import Search
from featurestore.event_time import MAX_US, MIN_US
from featurestore.storage import parquet
from tests import agreement
from tests.model import (
    HOUR,
    MINUTE,
    SECOND,
    Delete,
    Group,
    Key,
    Model,
    Put,
    RefusedError,
    Version,
)
from tests.small_world import START, VALUES, fresh_folder

SIZES: list[tuple[Any, str, int]] = [
    (compactor, "WINDOW_ROWS", 150),
    (compactor, "CELL_ROWS", 40),
    (parquet, "ROW_GROUP_ROWS", 16),
    (sys.modules[Search.__module__], "_BLOCK_LABELS", 5),
    (sys.modules[Search.__module__], "_ORDER_ROWS", 50),
    (history, "_TAIL_ROWS", 10),
]
"""Small enough that a few hundred rows make windows, cells, row groups, blocks of labels and a
journal tail of several parts."""

APART: list[tuple[Any, str, int]] = [
    (point_in_time, "_MATCH_ROWS_MIN", 30),
    (point_in_time, "_HASHED_KEYS_MAX", 2),
    (point_in_time, "_ROWS_A_LABEL", 1e9),
    (indexed, "_TASK_LABELS", 5),
    (last, "ROWS_MAX", 20),
    (batches, "_ROWS_MIN", 9),
    (batches, "_FIXED_BYTES", 1 << 30),
]
"""With these, small files are matched one by one, most joins skip none by its keys, those without
status look their rows up, lists are made of some keys at a time, and a stream has many batches."""

LENGTH = 40 * MINUTE
"""Event times of a store lie within this, on a grid of minutes, so that ties are common."""

ERAS = {"today": START, "year 1": MIN_US, "1970": -20 * MINUTE, "year 9999": MAX_US - LENGTH}
"""Where in time a store lives: its clock, its records and its labels."""

TTLS = [None] * 4 + [0, SECOND, 3 * MINUTE, HOUR]
LIMITS = [0, 1, -1, 2**63 - 1, -(2**63)]


def new_groups() -> dict[str, Group]:
    """Return the definitions of the groups."""
    at = {"at": "timestamp"}
    free: dict[str, Any] = {"max_future_us": None}
    ints = {"i": "int64", **at, "x": "float64", "n": "int64"}
    texts = {"b": "bool", "t": "string", **at, "s": "string"}
    pairs = {**at, "p": "string", "q": "int64", "l": "list<int64>"}
    return {
        "ints": Group("ints", ("i",), "at", ints, **free),
        "texts": Group("texts", ("t",), "at", texts, ttl_us=10 * MINUTE, **free),
        "pairs": Group("pairs", ("p", "q"), "at", pairs, **free),
        "one": Group("one", ("i",), "at", {"i": "int64", **at, "x": "float64"}, **free),
        "empty": Group("empty", ("t",), "at", {"t": "string", **at, "x": "float64"}, **free),
    }


WRITTEN = ("ints", "ints", "texts", "texts", "pairs", "one")
KEYS: dict[str, list[Key]] = {
    "ints": [(n,) for n in [*LIMITS, *range(1000, 1035)]],
    "texts": [(t,) for t in ["", "a\x00", "ключ", "long" * 150, *(f"t{n}" for n in range(36))]],
    "pairs": [(p, q) for p in ("", "1", "11", "a") for q in (1, 11, *LIMITS)],
    "one": [(7,)],
    "empty": [("t1",)],
}


# ── what a story is made of ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Load:
    """A table of one group, by way of the journal, a file, or a file committed in slices.

    ``arrived`` are the rows' own write times.
    """

    puts: tuple[Put, ...]
    way: str
    arrived: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Tick:
    """Time passes."""

    by_us: int


@dataclass(frozen=True)
class Grow:
    """A group gains a feature."""

    group: str


@dataclass(frozen=True)
class Chore:
    """``flush``, or ``compact`` what is in files."""

    what: str


Step = Load | Put | Delete | Tick | Grow | Chore | None
"""None is a step left out, so that the others keep their numbers."""


# ── telling a story ──────────────────────────────────────────────────────────────────────────


@dataclass
class Clock:
    """What a store is told of the time."""

    us: int


@dataclass
class World:
    """A store and the model that were told the same, and where the rows lie."""

    store: fs.FeatureStore
    model: Model
    clock: Clock
    era: str
    seq_after: list[int] = field(default_factory=list)
    staged: set[int] = field(default_factory=set)
    flushed_seq: int = 0
    compacted_seq: int = 0

    def tell(self, step: Step) -> None:
        """Do a step in both."""
        if isinstance(step, Put | Delete):
            with contextlib.suppress(RefusedError):  # a hard delete of what is newer
                [expected], _ = self.model.commit([step], self.clock.us)
                result = agreement.send(self.store, self.model, step)
                found = (result.seq, result.outcome)
                assert found == (expected.seq, expected.outcome), (step, found, expected)
        elif isinstance(step, Load):
            self._load(step)
        elif isinstance(step, Tick):
            self.clock.us = min(self.clock.us + step.by_us, MAX_US)
        elif isinstance(step, Grow):
            group = self.model.groups[step.group]
            group.version += 1
            feature = f"since{group.version}"
            group.features[feature] = "int64"
            self.store.update_feature_group(step.group, add_features={feature: "int64"})
        elif isinstance(step, Chore) and step.what == "flush":
            self.store.flush()
            self.flushed_seq = self.model.seq
        elif isinstance(step, Chore):
            self.store.compact()
            self.compacted_seq = self.flushed_seq
            self.staged.clear()
        self.seq_after.append(self.model.seq)

    def _load(self, load: Load) -> None:
        group = self.model.groups[load.puts[0].group]
        puts = [_completed(group, put) for put in load.puts]
        arrived = load.arrived and [min(time_us, self.clock.us) for time_us in load.arrived]
        table = agreement.table(group, puts)
        if arrived:
            table = table.append_column("arrived", pa.array(arrived, pa.timestamp("us", "UTC")))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(staging, "SLICE_KEYS_MAX", 5)
            if load.way != "journal":
                patch.setattr(engine_ingest, "JOURNAL_ROWS_MAX", 0)
            result = self.store.ingest(
                group.name,
                table,
                id=f"step {len(self.seq_after)}",
                write_time="arrived" if arrived else None,
                atomic=load.way == "file",
            )
        assert result.accepted == len(puts)
        places = range(len(puts))
        if load.way == "slices":
            places = agreement.numbered(self.store, self.model, group, puts)
        self.model.load(
            [puts[place] for place in places],
            self.clock.us,
            write_times_us=arrived and [arrived[place] for place in places],
        )
        if load.way != "journal":
            self.staged |= set(range(self.model.seq - len(puts) + 1, self.model.seq + 1))

    def place(self, version: Version) -> str:
        """Say where a version lies."""
        if version.seq in self.staged:
            return "a staged file"
        if version.seq <= self.compacted_seq:
            return "a cell"
        return "a flushed file" if version.seq <= self.flushed_seq else "the journal"

    def require_places(self) -> None:
        """Fail unless rows lie where they are thought to lie."""
        for name, facts in self.store.stat()["groups"].items():
            rows = self.model.history_rows(name)
            places = Counter(self.place(version) for _, version in rows)
            assert facts["journal_rows"] == places["the journal"], name
            assert facts["history_rows"] == len(rows), name
            assert (facts["cells"] > 0) == (places["a cell"] > 0), name


def _completed(group: Group, put: Put) -> Put:
    """Return a put with values for the features that the group has gained."""
    gained = {name: put.event_time_us for name in group.payload if name.startswith("since")}
    return replace(put, values={**put.values, **gained})


@contextlib.contextmanager
def world(era: str, *, key_hash_bits: int = 64, apart: bool = False) -> Iterator[World]:
    """Make a store in memory with the groups of this module, and a model beside it."""
    clock = Clock(ERAS[era] + LENGTH // 4)
    with (
        pytest.MonkeyPatch.context() as patch,
        fresh_folder() as folder,
        fs.open(
            folder / "store",
            clock=lambda: clock.us,
            durability="rebuildable",
            key_hash_bits=key_hash_bits,
        ) as store,
    ):
        for module, name, size in [*SIZES, *(APART if apart else [])]:
            patch.setattr(module, name, size)
        now = World(store, Model(), clock, era)
        for group in new_groups().values():
            agreement.create(store, group)
            now.model.groups[group.name] = group
        yield now


# ── drawing a story ──────────────────────────────────────────────────────────────────────────


def draw_story(chance: random.Random, era: str) -> list[Step]:
    """Draw what is told: it ends with rows in cells, in loose files and in the journal."""
    steps: list[Step] = []
    for part in range(3):
        for _ in range(chance.randint(2, 4)):
            steps += _draw_stretch(chance, era)
            steps += chance.choice([[], [Chore("flush")], [Tick(chance.randint(0, 4) * MINUTE)]])
        if part < 2:
            steps += [Grow(name) for name in KEYS if name != "empty" and chance.random() < 0.5]
        if part == 0 or chance.random() < 0.2:
            steps += [Chore("flush"), Chore("compact")]
        elif part == 1:
            steps += [Chore("flush")]
    return steps + _draw_stretch(chance, era)


def _draw_stretch(chance: random.Random, era: str) -> list[Step]:
    """Draw a table or two, and some single writes, of all times or of a few minutes."""
    found: list[Step] = []
    # Records lie in the first three quarters, so that labels may come after all of them.
    low = chance.randint(0, 25)
    minutes = chance.choice([(0, 30), (low, low + 5)])
    for name in chance.sample(WRITTEN, 2):
        rows = chance.randint(1, 40)
        drawn = [_draw_put(chance, era, name, minutes, plain=True) for _ in range(rows)]
        ties = [_draw_tie(chance, chance.choice(drawn)) for _ in range(rows // 8)]
        puts = (*drawn, *ties)
        arrived = None
        if chance.random() < 0.3:
            arrived = tuple(put.event_time_us + chance.randint(0, 4) * MINUTE for put in puts)
        found.append(Load(puts, chance.choice([*["journal"] * 3, "file", "slices"]), arrived))
    for _ in range(chance.randint(5, 15)):
        name = chance.choice(WRITTEN)
        put = _draw_put(chance, era, name, minutes)
        if chance.random() < 0.3:
            hard = chance.random() < 0.2
            found.append(Delete(put.group, put.key, put.event_time_us, hard=hard))
        else:
            found.append(put)
        if chance.random() < 0.1:
            found.append(Tick(chance.choice([1, MINUTE])))
    return found


def _draw_put(
    chance: random.Random, era: str, name: str, minutes: tuple[int, int], *, plain: bool = False
) -> Put:
    at_us = chance.randint(*minutes) * MINUTE + chance.choice([0] * 8 + [1, 59])
    event_time_us = ERAS[era] + at_us
    group = new_groups()[name]
    values = {n: chance.choice(_values(group.features[n])) for n in group.payload}
    put = Put(name, chance.choice(KEYS[name]), event_time_us, values)
    if plain:
        return put
    online, offline = chance.choice([(True, True)] * 8 + [(True, False), (False, True)])
    return replace(put, ttl_us=chance.choice(TTLS), online=online, offline=offline)


def _draw_tie(chance: random.Random, put: Put) -> Put:
    """Return a put of the same key and time, with other values perhaps."""
    group = new_groups()[put.group]
    return replace(
        put, values={n: chance.choice(_values(group.features[n])) for n in group.payload}
    )


def _values(dtype: str) -> list[Any]:
    return VALUES[dtype] + ([2**63 - 1] if dtype == "int64" else [])
