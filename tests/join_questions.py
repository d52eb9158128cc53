"""Random labels asked of a store: each answer against the slow ``resolve``.

A question is one join.  One label in one lookup is a case, and ``kinds`` names what the case is
about, so that a campaign can count what it has covered instead of hoping::

    question    labels of many keys x lookups, with delay, max_age, as_of, known="write_time"
       │
       └──▶ every answer is resolve(history of the key, label, label)

A label's time is seldom drawn at random: it is put where an answer changes, a microsecond before,
upon or after the moment when some version is known, expires, gets too old or arrives.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

import featurestore as fs
from featurestore.event_time import MAX_US, MIN_US
from tests import agreement
from tests.join_world import ERAS, KEYS, WRITTEN, World
from tests.model import DAY, MINUTE, Key, Version, exactly, moment, resolve

DELAYS = [0, 0, 1, MINUTE, 7 * MINUTE]
MAX_AGES: list[float] = [math.inf] * 5 + [0, MINUTE, 5 * MINUTE, 5 * MINUTE + 1]
NEVER: dict[str, list[Key]] = {
    "ints": [(2,)],
    "texts": [("nobody",)],
    "pairs": [("1", 111), ("nobody", 1)],
    "one": [(8,)],
    "empty": [("nobody",)],
}
"""Keys that labels have and no record."""


@dataclass(frozen=True)
class Lookup:
    """One group in one role."""

    group: str
    delay_us: int
    max_age_us: float
    last_n: int | None = None


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
    explain: bool = False
    stream: bool = False
    as_of_step: int | None = None
    as_of_us: int | None = None


class DifferenceError(AssertionError):
    """A store and the model disagree about a label, found at ``row`` and ``lookup``."""

    def __init__(self, row: int, lookup: int, words: str) -> None:
        super().__init__(words)
        self.row = row
        self.lookup = lookup


# ── drawing a question ───────────────────────────────────────────────────────────────────────


def draw_question(chance: random.Random, now: World, labels: int) -> Question:
    """Draw a join of so many labels, with one to four lookups."""
    names = list(KEYS) + list(WRITTEN)
    lookups = tuple(
        Lookup(
            chance.choice(names),
            chance.choice(DELAYS),
            chance.choice(MAX_AGES),
            chance.choice([None] * 5 + [1, 3, 20]),
        )
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
    question = replace(question, stream=chance.random() < 0.25, explain=chance.random() < 0.25)
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
        explain=question.explain,
        stream=question.stream,
    )
    answer = answer.read_all() if question.stream else answer
    assert answer["row"].to_pylist() == list(range(len(question.labels)))
    rows = agreement.rows_of(answer)
    counts: Counter[str] = Counter()
    repeated = Counter(question.labels)
    for number, lookup in enumerate(question.lookups):
        for row, label in enumerate(question.labels):
            case = _Case(now, lookup, label.keys[number], label.time_us, seq_max, question)
            status, version = case.resolved()
            expected = case.expected(status, version, f"l{number}_")
            found = {name: rows[row][name] for name in expected}
            if question.explain:
                expected["file or journal"] = None if version is None else now.place(version)
                found["file or journal"] = _place(rows[row][f"l{number}__source"], version, now)
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
    counts["join as a stream"] += question.stream
    counts["join explained"] += question.explain
    counts["join without labels"] += not question.labels
    counts["join at an earlier seq"] += question.as_of_step is not None
    counts["join at an earlier time"] += question.as_of_us is not None
    return counts


def _place(source: Any, version: Version | None, now: World) -> str | None:
    """Return where a source says that a version is; files are told by their path only."""
    if source == exactly(None):
        return None
    if source == exactly("journal"):
        return "the journal"
    is_file = str(source[1]).startswith("data/") and version is not None
    place = now.place(version) if is_file and version is not None else ""
    return place if place != "the journal" else "a file"


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
        last_n=lookup.last_n,
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

    def resolved(
        self, versions: Sequence[Version] | None = None, **other: Any
    ) -> tuple[str, Version | None]:
        """Return what the law says, or would say if something were different."""
        rules: dict[str, Any] = {
            "seq_max": self.seq_max,
            "delay_us": self.lookup.delay_us,
            "max_age_us": self.lookup.max_age_us,
            "by_write_time": self.question.by_write_time,
        }
        history = self.versions if versions is None else versions
        return resolve(history, self.label_us, self.label_us, **(rules | other))

    def expected(self, status: str, found: Version | None, prefix: str) -> dict[str, object]:
        """Return the columns of this lookup, as exact values."""
        group, question = self.now.model.groups[self.lookup.group], self.question
        columns = agreement.joined(group, status, found, self.label_us, prefix)
        if not (question.with_status or question.explain):
            columns = {f"{prefix}{n}": columns[f"{prefix}{n}"] for n in group.payload}
        if self.lookup.last_n is not None:
            last = self.last_versions(status)
            for name in group.payload:
                values = None if last is None else [v.values.get(name) for v in last]
                columns[f"{prefix}{name}"] = exactly(values)
        if question.explain:
            columns[f"{prefix}_rule"] = exactly(self.rule(status, found))
            columns[f"{prefix}_write_seq"] = exactly(None if found is None else found.seq)
        return columns

    def last_versions(self, status: str) -> list[Version] | None:
        """Return what a list of the last values is made of, oldest first: one for each time."""
        if status != "PRESENT":
            return None
        found = []
        for event_time_us in sorted({v.event_time_us for v in self.versions}, reverse=True):
            versions = [v for v in self.versions if v.event_time_us == event_time_us]
            here, newest = self.resolved(versions)
            if here == "PRESENT" and newest is not None:
                found.append(newest)
        return found[: self.lookup.last_n][::-1]

    def rule(self, status: str, found: Version | None) -> str:
        """Return the rule that an explanation has to name."""
        if self.key is None:
            return "NO_KEY"
        if status == "EXPIRED" and found is not None:
            over = self.label_us - found.event_time_us > self.lookup.max_age_us
            return "MAX_AGE" if over else "TTL"
        if status != "MISSING":
            return status
        if self.resolved(by_write_time=False)[1] is not None:
            return "WRITE_TIME"
        if self.resolved(by_write_time=False, delay_us=0)[1] is not None:
            return "DELAY"
        return "MISSING"

    def kinds(self, status: str, found: Version | None) -> Iterator[str]:
        """Name what this case is about."""
        yield f"status {status}"
        if self.question.explain:
            yield f"rule {self.rule(status, found)}"
        if self.lookup.last_n is not None:
            last = self.last_versions(status)
            yield "no list" if last is None else f"list of {'one' if len(last) < 2 else 'several'}"
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
        "join without labels", "join without status", "join as a stream",
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
        "join explained", "no list", "list of one", "list of several",
        *(f"rule {rule}" for rule in ("PRESENT", "DELETED", "MAX_AGE", "TTL", "NO_KEY", "DELAY",
                                      "WRITE_TIME", "MISSING")),
    ]
)  # fmt: skip
"""Everything a campaign must have met."""
