"""The pictures in ``tests/cases``: small stories with every answer written down by hand.

Each runs against the model, which is how the model itself is tested, and against a real store, as
it stands and with flush, compact or reopen slipped in before every line.  A story is a title and
lines; times are seconds, every feature is an int64::

    group [ttl=10s] [max_future=60s]            settings, before the first write
    clock 100                                   what time it is; 1000 to begin with
    put a t=10 x=1 [ttl=5s] [only=online] [id=r1] -> moved | late | unchanged | offline_only | ...
    delete a t=20 [hard] [id=r1]                  -> ... | replayed | refused
    add y                                       a feature is added to the group
    get a                                       -> x=1 | missing | deleted | expired
    join a t=19 [delay=5s] [max_age=9s] [as_of=3] [known=write_time]   -> the same
    history | view | latest                     -> key@event_time=x, for each row

What a write becomes may be left out; what is asked may not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pytest

import featurestore as fs
from tests import agreement
from tests.model import SECOND, Delete, Group, Key, Model, Put, RefusedError, Version, Write, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CASES = Path(__file__).parent / "cases"
QUESTIONS = {"get", "join", "history", "view", "latest"}


@dataclass(frozen=True)
class Line:
    """One line of a story: a verb, its words and settings, and what is expected."""

    text: str
    verb: str
    words: list[str]
    settings: dict[str, str]
    expected: str | None

    @classmethod
    def parse(cls, text: str) -> Line:
        """Take a line apart."""
        command, arrow, expected = text.partition("->")
        verb, *rest = command.split()
        settings = dict(word.split("=") for word in rest if "=" in word)
        words = [word for word in rest if "=" not in word]
        return cls(text, verb, words, settings, expected.strip() if arrow else None)

    def us(self, name: str, default: Any = None) -> Any:
        """Return a setting in seconds as microseconds."""
        if name not in self.settings:
            return default
        return int(self.settings[name].removesuffix("s")) * SECOND

    @property
    def values(self) -> dict[str, int | None]:
        """The features of a put: every name of one letter but ``t``."""
        given = {n: v for n, v in self.settings.items() if len(n) == 1 and n != "t"}
        return {n: None if v == "null" else int(v) for n, v in given.items()}

    def write(self) -> Write:
        """Return the put or delete that the line asks for."""
        key, t = (self.words[0],), self.us("t")
        if self.verb == "delete":
            return Delete("g", key, t, hard="hard" in self.words)
        only = self.settings.get("only")
        return Put("g", key, t, self.values, self.us("ttl"), only != "offline", only != "online")


@dataclass(frozen=True)
class Story:
    """A title and its lines."""

    title: str
    lines: list[Line] = field(default_factory=list)


def stories() -> Iterator[Any]:
    """Read all the pictures."""
    for path in sorted(CASES.glob("*.txt")):
        story: Story | None = None
        for text in path.read_text("utf-8").splitlines():
            if text.startswith("#"):
                story = Story(text.removeprefix("#").strip())
                yield pytest.param(story, id=f"{path.stem}: {story.title}")
            elif text.strip():
                assert story is not None
                story.lines.append(Line.parse(text))


class Teller(Protocol):
    """Somebody who can be told a story and asked about it: the model, or a store."""

    def begin(self, group: Group) -> None: ...
    def write(self, write: Write, clock_us: int, request_id: str | None) -> str: ...
    def add(self, feature: str) -> None: ...
    def get(self, key: str, clock_us: int) -> str: ...
    def join(self, key: str | None, line: Line) -> str: ...
    def rows(self, which: str, clock_us: int) -> str: ...


def tell(story: Story, teller: Teller) -> None:
    """Tell a story line by line and compare every answer with the picture."""
    clock_us, settings, begun = 1000 * SECOND, {}, False
    for line in story.lines:
        if line.verb == "group":
            settings = {f"{name}_us": line.us(name) for name in line.settings}
            continue
        if not begun:
            features = {"k": "string", "at": "timestamp", "x": "int64"}
            teller.begin(Group("g", ("k",), "at", features, **settings))
            begun = True
        answer: str | None = None
        if line.verb == "clock":
            clock_us = int(line.words[0]) * SECOND
        elif line.verb == "add":
            teller.add(line.words[0])
        elif line.verb in ("put", "delete"):
            answer = teller.write(line.write(), clock_us, line.settings.get("id"))
        elif line.verb == "get":
            answer = teller.get(line.words[0], clock_us)
        elif line.verb == "join":
            answer = teller.join(None if line.words[0] == "-" else line.words[0], line)
        else:
            answer = teller.rows(line.verb, clock_us)
        assert (line.verb in QUESTIONS) <= (line.expected is not None), line.text
        if line.expected is not None:
            assert answer == line.expected, f"{line.text}   got: {answer}"


def shown(values: Iterable[tuple[str, object]]) -> str:
    """Spell feature values the way the pictures do."""
    return " ".join(f"{n}={'null' if v is None else v}" for n, v in values)


def cell(key: object, event_time_us: int, is_deleted: bool, x: object) -> str:
    """Spell one row of a view the way the pictures do."""
    value = "deleted" if is_deleted else "null" if x is None else x
    return f"{key}@{event_time_us // SECOND}={value}"


# ── the model tells ──────────────────────────────────────────────────────────────────────────


class ModelTeller:
    """Answers from the model."""

    def begin(self, group: Group) -> None:
        self.model = Model()
        self.group = self.model.groups["g"] = group

    def write(self, write: Write, clock_us: int, request_id: str | None) -> str:
        try:
            outcomes, replayed = self.model.commit([write], clock_us, request_id)
        except RefusedError:
            return "refused"
        return "replayed" if replayed else outcomes[0].outcome

    def add(self, feature: str) -> None:
        self.group.features[feature] = "int64"
        self.group.version += 1

    def _answer(self, status: str, version: Version | None) -> str:
        if status != "PRESENT" or version is None:
            return status.lower()
        return shown((name, version.values.get(name)) for name in self.group.payload)

    def get(self, key: str, clock_us: int) -> str:
        return self._answer(*self.model.get("g", (key,), clock_us))

    def join(self, key: str | None, line: Line) -> str:
        how = {}
        if "as_of" in line.settings:
            how["seq_max"] = int(line.settings["as_of"])
        found = self.model.join(
            "g",
            (key,),
            line.us("t"),
            delay_us=line.us("delay", 0),
            max_age_us=line.us("max_age", float("inf")),
            by_write_time=line.settings.get("known") == "write_time",
            **how,
        )
        return self._answer(*found)

    def rows(self, which: str, clock_us: int) -> str:
        rows: list[tuple[Key, Version]]
        if which == "latest":
            rows = self.model.latest_rows("g", clock_us)
        else:
            rows = {"history": self.model.history_rows, "view": self.model.newest_rows}[which]("g")
        rows = sorted(rows, key=lambda row: row[1].seq)
        return " ".join(
            cell(k[0], v.event_time_us, v.is_deleted, v.values.get("x")) for k, v in rows
        )


@pytest.mark.parametrize("story", list(stories()))
def test_the_model_tells_it_so(story: Story) -> None:
    tell(story, ModelTeller())


# ── a store tells ────────────────────────────────────────────────────────────────────────────


class StoreTeller:
    """Answers from a store, with something slipped in before every line."""

    def __init__(self, path: Path, slip_in: Callable[[StoreTeller], None]) -> None:
        self.path = path
        self.slip_in = slip_in
        self.clock_us = 0
        self.open()

    def open(self) -> None:
        self.store = fs.open(self.path, clock=lambda: self.clock_us)

    def close(self) -> None:
        assert self.store.verify() == []
        self.store.close()

    def begin(self, group: Group) -> None:
        self.model = Model()  # only for the group's definition: nothing is written to it
        self.model.groups["g"] = group
        self.group = group
        agreement.create(self.store, group)

    def write(self, write: Write, clock_us: int, request_id: str | None) -> str:
        self._pause(clock_us)
        try:
            result = agreement.send(self.store, self.model, write, request_id)
        except (fs.InvalidEventTime, fs.StaleDelete, fs.RequestMismatch):
            return "refused"
        return "replayed" if result.replayed else result.outcome

    def add(self, feature: str) -> None:
        self.store.update_feature_group("g", add_features={feature: "int64"})
        self.group.features[feature] = "int64"

    def get(self, key: str, clock_us: int) -> str:
        self._pause(clock_us)
        found = self.store.get_record("g", key, with_status=True)
        if found.record is None:
            return str(found.status.value).lower()
        return shown((name, found.record[name]) for name in self.group.payload)

    def join(self, key: str | None, line: Line) -> str:
        self._pause(self.clock_us)
        spans = {
            name: agreement.span(line.us(name)) for name in ("delay", "max_age") if line.us(name)
        }
        how = {}
        if "as_of" in line.settings:
            how["as_of"] = int(line.settings["as_of"])
        answer = self.store.point_in_time(
            pa.table(
                {
                    "k": pa.array([key], pa.string()),
                    "label": pa.array([moment(line.us("t"))], pa.timestamp("us", tz="UTC")),
                }
            ),
            [fs.FeatureLookup("g", self.group.payload, **spans)],
            label_time="label",
            known=line.settings.get("known", "event_time"),
            with_status=True,
            **how,
        )
        [found] = answer.to_pylist()
        if found["g__status"] != "PRESENT":
            assert all(found[name] is None for name in self.group.payload)
            return str(found["g__status"]).lower()
        return shown((name, found[name]) for name in self.group.payload)

    def rows(self, which: str, clock_us: int) -> str:
        self._pause(clock_us)
        if which == "history":
            query = 'SELECT k, "at", is_deleted, x FROM history.g ORDER BY write_seq'
        else:
            source = "g" if which == "view" else "latest.g"
            query = (
                f'SELECT s.k, s."at", false AS is_deleted, s.x FROM {source} s '
                'LEFT JOIN (SELECT k, "at", max(write_seq) AS seq FROM history.g GROUP BY ALL) h '
                'ON (s.k, s."at") = (h.k, h."at") ORDER BY h.seq'
            )
        rows = self.store.sql(query).to_pylist()
        return " ".join(
            cell(r["k"], round(r["at"].timestamp() * SECOND), r["is_deleted"], r["x"]) for r in rows
        )

    def _pause(self, clock_us: int) -> None:
        self.clock_us = clock_us
        self.slip_in(self)


def nothing(teller: StoreTeller) -> None:
    """Leave everything in the journal."""


def flush(teller: StoreTeller) -> None:
    """Move everything into files, a file for each write."""
    teller.store.flush()


def compact(teller: StoreTeller) -> None:
    """Keep everything in one cell."""
    teller.store.flush()
    teller.store.compact()


def reopen(teller: StoreTeller) -> None:
    """Close and open again."""
    teller.close()
    teller.open()


@pytest.mark.parametrize("slip_in", [nothing, flush, compact, reopen])
@pytest.mark.parametrize("story", list(stories()))
def test_a_store_tells_it_so(
    story: Story, slip_in: Callable[[StoreTeller], None], tmp_path: Path
) -> None:
    teller = StoreTeller(tmp_path / "store", slip_in)
    tell(story, teller)
    teller.close()
