"""Random histories and labels in one store: each label of a join against the slow ``resolve``.

A story is told to a store and to the model; questions are joins of many labels.  One label in one
lookup is a case, and ``kinds`` names what the case is about, so that a campaign can count what it
has covered instead of hoping::

    story      Load  Put  Delete  Tick  Grow  flush  compact  …          told to both
                 │
                 ▼ where a row lies in the end
    ─ cells ──────────┬─ flushed and staged files ─┬─ journal ─▶ seq
                 ▲
    question   labels of many keys x lookups, with delay, max_age, as_of, known="write_time"
                 │
                 └─▶ every answer is resolve(history of the key, label, label)

Groups:

==========  ====================  ================================================================
``ints``    int64 key, no ttl     floats (nan, -0.0), int64 limits
``texts``   text key, ttl 10 min  flags and texts
``pairs``   text and int64        keys that a careless joining of texts would mix up; ttl by record
``one``     int64 key             has a single key, and with it many versions of it
``empty``   text key              nobody ever writes to it
==========  ====================  ================================================================

All but the last gain a feature on the way, so that files carry several schema versions.

A label's time is seldom drawn at random: it is put where an answer changes, a microsecond before,
upon or after the moment when some version is known, expires, gets too old or arrives.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

import featurestore as fs
from featurestore.engine import compactor
from featurestore.engine import ingest as engine_ingest
from featurestore.event_time import MAX_US, MIN_US
from featurestore.storage import parquet
from tests import agreement
from tests.model import (
    DAY,
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
    moment,
    resolve,
)
from tests.small_world import START, VALUES, fresh_folder

SIZES: list[tuple[Any, str, int]] = [
    (compactor, "WINDOW_ROWS", 150),
    (compactor, "CELL_ROWS", 40),
    (parquet, "ROW_GROUP_ROWS", 16),
]
"""Small enough that a few hundred rows make windows, cells and row groups."""

LENGTH = 40 * MINUTE
"""Event times of a store lie within this, on a grid of minutes, so that ties are common."""

ERAS = {"today": START, "year 1": MIN_US, "1970": -20 * MINUTE, "year 9999": MAX_US - LENGTH}
"""Where in time a store lives: its clock, its records and its labels."""

TTLS = [None] * 4 + [0, SECOND, 3 * MINUTE, HOUR]
DELAYS = [0, 0, 1, MINUTE, 7 * MINUTE]
MAX_AGES: list[float] = [math.inf] * 5 + [0, MINUTE, 5 * MINUTE, 5 * MINUTE + 1]
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
NEVER: dict[str, list[Key]] = {
    "ints": [(2,)],
    "texts": [("nobody",)],
    "pairs": [("1", 111), ("nobody", 1)],
    "one": [(8,)],
    "empty": [("nobody",)],
}
"""Keys that labels have and no record."""


# ── what a story and a question are made of ──────────────────────────────────────────────────


@dataclass(frozen=True)
class Load:
    """A table of one group.  ``file`` stages a file; ``arrived`` are the rows' own write times."""

    puts: tuple[Put, ...]
    file: bool
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


@dataclass(frozen=True)
class Lookup:
    """One group in one role."""

    group: str
    delay_us: int
    max_age_us: float


@dataclass(frozen=True)
class Label:
    """A time, and a key for each lookup; None for a key with a null in it."""

    time_us: int
    keys: tuple[Key | None, ...]


@dataclass(frozen=True)
class Question:
    """One join.  ``as_of`` is the number of steps that had been told, or a time."""

    lookups: tuple[Lookup, ...]
    labels: tuple[Label, ...]
    by_write_time: bool
    with_status: bool = True
    as_of_step: int | None = None
    as_of_us: int | None = None


class DifferenceError(AssertionError):
    """A store and the model disagree about a label, found at ``row`` and ``lookup``."""

    def __init__(self, row: int, lookup: int, words: str) -> None:
        super().__init__(words)
        self.row = row
        self.lookup = lookup


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
                assert (result.seq, result.outcome) == (expected.seq, expected.outcome)
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
        table = agreement.table(group, puts)
        if load.arrived is not None:
            now_us = max(self.clock.us, self.model.last_commit_us)
            arrived = [min(time_us, self.clock.us) for time_us in load.arrived]
            table = table.append_column("arrived", pa.array(arrived, pa.timestamp("us", "UTC")))
            self.model.load(puts, now_us, write_times_us=arrived)
        else:
            self.model.load(puts, self.clock.us)
        before = engine_ingest.JOURNAL_ROWS_MAX
        engine_ingest.JOURNAL_ROWS_MAX = 0 if load.file else before
        try:
            result = self.store.ingest(
                group.name,
                table,
                id=f"step {len(self.seq_after)}",
                write_time=None if load.arrived is None else "arrived",
            )
        finally:
            engine_ingest.JOURNAL_ROWS_MAX = before
        assert result.accepted == len(puts)
        if load.file:
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
def world(era: str, *, key_hash_bits: int = 64) -> Iterator[World]:
    """Make a store in memory with the groups of this module, and a model beside it."""
    before = [getattr(module, name) for module, name, _ in SIZES]
    for module, name, size in SIZES:
        setattr(module, name, size)
    try:
        with fresh_folder() as folder:
            clock = Clock(ERAS[era] + LENGTH // 4)
            with fs.open(
                folder / "store",
                clock=lambda: clock.us,
                durability="rebuildable",
                key_hash_bits=key_hash_bits,
            ) as store:
                now = World(store, Model(), clock, era)
                for group in new_groups().values():
                    agreement.create(store, group)
                    now.model.groups[group.name] = group
                yield now
    finally:
        for (module, name, _), size in zip(SIZES, before, strict=True):
            setattr(module, name, size)


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
        found.append(Load(puts, chance.random() < 0.4, arrived))
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


# ── drawing a question ───────────────────────────────────────────────────────────────────────


def draw_question(chance: random.Random, now: World, labels: int) -> Question:
    """Draw a join of so many labels, with one to four lookups."""
    names = list(KEYS) + list(WRITTEN)
    lookups = tuple(
        Lookup(chance.choice(names), chance.choice(DELAYS), chance.choice(MAX_AGES))
        for _ in range(chance.choice([1, 1, 2, 4]))
    )
    by_write_time = chance.random() < 0.3
    within = _draw_window(chance, now)
    few = [_draw_keys(chance, lookups) for _ in range(3)]
    any_keys = chance.random() < 0.7
    drawn = [
        _draw_label(chance, now, lookups, keys, by_write_time, within)
        for _ in range(labels)
        for keys in [_draw_keys(chance, lookups) if any_keys else chance.choice(few)]
    ]
    drawn += chance.choices(drawn, k=labels // 10) if drawn else []
    chance.shuffle(drawn)
    question = Question(lookups, tuple(drawn), by_write_time, with_status=chance.random() < 0.5)
    way = chance.random()
    if way < 0.15:
        return replace(question, as_of_step=chance.randrange(len(now.seq_after)))
    if way < 0.3:
        commit_us = chance.choice(now.model.commits)[0] if now.model.commits else 0
        return replace(question, as_of_us=max(MIN_US, commit_us + chance.choice([-1, 0, 1])))
    return question


def _draw_window(chance: random.Random, now: World) -> tuple[int, int]:
    """Draw what the labels' times are kept within: all of time, some minutes, or one moment.

    Files are skipped by the earliest and the latest of the labels.
    """
    if chance.random() < 0.4:
        return MIN_US, MAX_US
    low_us = ERAS[now.era] + chance.choice([0, *(chance.randint(0, 35) for _ in range(4))]) * MINUTE
    return low_us, low_us + chance.choice([0, 0, 5]) * MINUTE


def _draw_label(
    chance: random.Random,
    now: World,
    lookups: Sequence[Lookup],
    keys: tuple[Key | None, ...],
    by_write_time: bool,
    within: tuple[int, int],
) -> Label:
    """Draw a label whose time is one where the answer of one of the lookups changes."""
    start_us = ERAS[now.era]
    time_us = chance.choice([start_us + chance.randint(-5, 45) * MINUTE, MIN_US, MAX_US])
    one = chance.randrange(len(lookups))
    key, lookup = keys[one], lookups[one]
    group = now.model.groups[lookup.group]
    versions = group.offline(key) if key is not None else []
    if versions and chance.random() < 0.9:
        # As likely the last that came as any other: the few last lie in the journal.
        version = chance.choice([versions[-1], chance.choice(versions)])
        edges = [version.event_time_us, version.event_time_us + lookup.delay_us] * 2
        if version.expires_at_us is not None:
            edges += [version.expires_at_us] * 3
        if math.isfinite(lookup.max_age_us):
            edges += [version.event_time_us + int(lookup.max_age_us)] * 3
        if by_write_time:
            edges += [version.write_time_us] * 3
        time_us = chance.choice(edges) + chance.choice([-1, 0, 0, 1])
    low_us, high_us = within
    if not low_us <= time_us <= high_us:
        time_us = chance.choice([low_us, high_us])
    return Label(min(max(time_us, MIN_US), MAX_US), keys)


def _draw_keys(chance: random.Random, lookups: Sequence[Lookup]) -> tuple[Key | None, ...]:
    return tuple(_draw_key(chance, lookup.group) for lookup in lookups)


def _draw_key(chance: random.Random, name: str) -> Key | None:
    return chance.choice([*KEYS[name] * 8, *NEVER[name], None])


# ── asking, and what the answer must be ──────────────────────────────────────────────────────


def ask(now: World, question: Question) -> Counter[str]:
    """Ask the store, and count what the cases are about.

    Raises
    ------
    DifferenceError
        The store's answer to a label is not the model's.
    """
    as_of: Any = None
    seq_max: float = math.inf
    if question.as_of_step is not None:
        as_of = seq_max = now.seq_after[question.as_of_step]
    elif question.as_of_us is not None:
        as_of, seq_max = moment(question.as_of_us), now.model.seq_at(question.as_of_us)
    answer = now.store.point_in_time(
        _labels_table(now, question),
        [_feature_lookup(now, lookup, i) for i, lookup in enumerate(question.lookups)],
        label_time="label",
        as_of=as_of,
        known="write_time" if question.by_write_time else "event_time",
        with_status=question.with_status,
    )
    assert answer["row"].to_pylist() == list(range(len(question.labels)))
    rows = agreement.rows_of(answer)
    counts: Counter[str] = Counter()
    repeated = Counter(question.labels)
    for number, lookup in enumerate(question.lookups):
        for row, label in enumerate(question.labels):
            case = _Case(now, lookup, label.keys[number], label.time_us, seq_max, question)
            status, version = case.resolved()
            group = now.model.groups[lookup.group]
            expected = agreement.joined(group, status, version, label.time_us, f"l{number}_")
            if not question.with_status:
                expected = {f"l{number}_{n}": expected[f"l{number}_{n}"] for n in group.payload}
            found = {name: rows[row][name] for name in expected}
            if found != expected:
                raise DifferenceError(
                    row,
                    number,
                    f"  store: {found}\n  model: {expected}, that is {status} {version}",
                )
            counts.update(case.kinds(status, version))
            counts["duplicate label"] += repeated[label] > 1
            counts["label of several lookups"] += len(question.lookups) > 1
            counts["case"] += 1
    counts["join"] += 1
    counts["join without status"] += not question.with_status
    counts["join without labels"] += not question.labels
    counts["join at an earlier seq"] += question.as_of_step is not None
    counts["join at an earlier time"] += question.as_of_us is not None
    return counts


def _labels_table(now: World, question: Question) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "row": pa.array(range(len(question.labels)), pa.int32()),
        "label": pa.array([la.time_us for la in question.labels], pa.timestamp("us", tz="UTC")),
    }
    for number, lookup in enumerate(question.lookups):
        group = now.model.groups[lookup.group]
        for part, name in enumerate(group.identifier):
            keys = [label.keys[number] for label in question.labels]
            # A null in one part of a key is a key that is null; which part, takes turns.
            parts = [
                key[part] if key else (None if row % len(group.identifier) == part else 1)
                for row, key in enumerate(keys)
            ]
            dtype = agreement.ARROW[group.features[name]]
            columns[f"k{number}_{name}"] = pa.array(
                [str(v) if v == 1 and dtype == pa.string() else v for v in parts], dtype
            )
    table = pa.table(columns)
    third = len(question.labels) // 3  # as labels come from files: in chunks
    return pa.concat_tables([table.slice(0, third), table.slice(third)])


def _feature_lookup(now: World, lookup: Lookup, number: int) -> fs.FeatureLookup:
    group = now.model.groups[lookup.group]
    return fs.FeatureLookup(
        lookup.group,
        group.payload,
        on={name: f"k{number}_{name}" for name in group.identifier},
        prefix=f"l{number}_",
        max_age=agreement.span(lookup.max_age_us),
        delay=agreement.span(lookup.delay_us),
    )


@dataclass(frozen=True)
class _Case:
    """One label in one lookup."""

    now: World
    lookup: Lookup
    key: Key | None
    label_us: int
    seq_max: float
    question: Question

    @property
    def versions(self) -> list[Version]:
        if self.key is None:
            return []
        return self.now.model.groups[self.lookup.group].offline(self.key)

    def resolved(self, **other: Any) -> tuple[str, Version | None]:
        """Return what the law says, or would say if something were different."""
        rules: dict[str, Any] = {
            "seq_max": self.seq_max,
            "delay_us": self.lookup.delay_us,
            "max_age_us": self.lookup.max_age_us,
            "by_write_time": self.question.by_write_time,
        }
        return resolve(self.versions, self.label_us, self.label_us, **(rules | other))

    def kinds(self, status: str, found: Version | None) -> Iterator[str]:
        """Name what this case is about."""
        yield f"status {status}"
        yield f"group {self.lookup.group}"
        if self.key is None:
            yield "null key"
        elif self.key in NEVER[self.lookup.group]:
            yield "key of no record"
        if not self.now.model.groups[self.lookup.group].history:
            yield "group without records"
        if (status, found) != self.resolved(delay_us=0):
            yield "delay decides"
        if (status, found) != self.resolved(by_write_time=False):
            yield "write time decides"
        if (status, found) != self.resolved(seq_max=math.inf):
            yield "as of decides"
        if found is None:
            yield from self._kinds_of_nothing()
        else:
            yield f"row in {self.now.place(found)}"
            yield f"record of {_years(found.event_time_us)}"
            yield from self._kinds_of_times(found)
            yield from self._kinds_of_rivals(found)
            yield from self._kinds_of_values(status, found)

    def _kinds_of_nothing(self) -> Iterator[str]:
        if self.versions and all(v.event_time_us > self.label_us for v in self.versions):
            yield "label before the first event"

    def _kinds_of_times(self, found: Version) -> Iterator[str]:
        known_us = found.event_time_us + self.lookup.delay_us
        age_us = self.label_us - found.event_time_us
        if known_us == self.label_us:
            yield "known exactly at the label"
        if age_us == self.lookup.max_age_us:
            yield "exactly of max_age"
        if age_us == self.lookup.max_age_us + 1:
            yield "a microsecond over max_age"
        if self.question.by_write_time and found.write_time_us == self.label_us:
            yield "arrived exactly at the label"
        if found.expires_at_us == self.label_us:
            yield "expires exactly at the label"
        if found.expires_at_us == self.label_us + 1:
            yield "expires a microsecond after the label"

    def _kinds_of_rivals(self, found: Version) -> Iterator[str]:
        older = [v for v in self.versions if v.event_time_us < found.event_time_us]
        ties = [v for v in self.versions if v.event_time_us == found.event_time_us]
        if len(ties) > 1:
            yield "tie"
        if len({self.now.place(v) for v in ties}) > 1:
            yield "tie across files"
        if any(v.seq > found.seq for v in older):
            yield "older record arrived later"
        if any(v.is_deleted for v in self.versions if v.event_time_us > self.label_us):
            yield "tombstone after the label"
        status, _ = self.resolved()
        if status == "EXPIRED" and any(v.expires_at_us is None for v in older):
            yield "expired, and an older record lives"
        if any(v.seq == found.seq - 1 for v in ties):
            yield "tie of neighbours"

    def _kinds_of_values(self, status: str, found: Version) -> Iterator[str]:
        if status != "PRESENT":
            return
        values = found.values.values()
        if any(isinstance(v, float) and math.isnan(v) for v in values):
            yield "nan"
        if None in values:
            yield "null"
        if any(v in (2**63 - 1, -(2**63)) for v in values if isinstance(v, int)):
            yield "int64 limit as value"
        if self.key and any(p in (2**63 - 1, -(2**63)) for p in self.key):
            yield "int64 limit as key"
        if found.schema_version < self.now.model.groups[self.lookup.group].version:
            yield "record of an older schema version"


def _years(time_us: int) -> str:
    if time_us < MIN_US + 365 * DAY:
        return "year 1"
    return "year 9999" if time_us > MAX_US - 365 * DAY else "other years"


KINDS = frozenset(
    [
        *(f"status {status}" for status in ("PRESENT", "EXPIRED", "DELETED", "MISSING")),
        *(f"group {name}" for name in KEYS),
        *(f"record of {when}" for when in ("year 1", "year 9999", "other years")),
        *(f"row in {place}" for place in ("a cell", "a staged file", "a flushed file")),
        "row in the journal", "case", "join", "duplicate label", "label of several lookups",
        "join without labels", "join without status",
        "join at an earlier seq", "join at an earlier time",
        "null key", "key of no record", "group without records", "label before the first event",
        "delay decides", "write time decides", "as of decides",
        "known exactly at the label", "arrived exactly at the label",
        "exactly of max_age", "a microsecond over max_age",
        "expires exactly at the label", "expires a microsecond after the label",
        "expired, and an older record lives", "tie", "tie across files", "tie of neighbours",
        "older record arrived later", "tombstone after the label",
        "nan", "null", "int64 limit as value", "int64 limit as key",
        "record of an older schema version",
    ]
)  # fmt: skip
"""Everything a campaign must have met."""
