"""What must hold of a store after anything: the logs of its writers, laid beside its bytes.

::

    logs of the writers ──► sent, acknowledged ──┐
                                                 ├──► judge ──► faults, none if all is well
    bytes of the store ───► plain.contents ──────┤
                            the engine's answers ┘

Nothing acknowledged is lost, doubled or torn; nothing is there that nobody sent; a pair is whole or
not there; a key of a table is wholly in it or not.  Each answer that was told (seq; moved or late)
is what the model makes of history in the order of seqs; the online store is the model's latest; and
the engine sees what the bytes are, verifies clean, and leaves no file that belongs to nobody.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import featurestore as fs
from tests.model import Group as ModelGroup
from tests.model import Model, Version, micros
from tests.processes import GROUPS, LASTING, START, record, small
from tests.survival import plain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.survival.plain import Contents, Row


AHEAD_US = 60_000_000


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Told:
    """What the writers' logs say."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    acknowledged: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, notes: Iterable[dict[str, Any]]) -> Told:
        """Sort notes."""
        told = cls()
        for note in notes:
            if note.get("way") in LASTING:
                (told.sent if "sent" in note else told.acknowledged).append(note)
        told.tokens = {token for note in told.acknowledged for token in note["acknowledged"]}
        return told

    def is_open(self, note: dict[str, Any]) -> bool:
        """Return whether nobody was told that it was done."""
        return not self.tokens.issuperset(note["sent"])


def judge(path: Path, notes: Iterable[dict[str, Any]], lost: frozenset[int] = frozenset()) -> int:
    """Fail unless a store is what its writers were told; returns acknowledged requests.

    Parameters
    ----------
    path : Path
        A store that nobody has open.
    notes : iterable of dict
        Everything in the logs of all its writers.
    lost : set of int
        Tokens that were acknowledged and may be gone, because that is what the store promises.
    """
    told = Told.of(notes)
    told.tokens -= lost
    try:
        found = plain.contents(path)
        _judge_bytes(found, told)
        _judge_model(found, told)
        with small():
            _judge_engine(path, found, told)
    except Broken:
        raise
    except Exception as error:  # whatever a store is that cannot be read, it is no sound one
        raise Broken(repr(error)) from error
    return len(told.acknowledged)


def _require(holds: object, sentence: str) -> None:
    if not holds:
        raise Broken(sentence)


def _judge_bytes(found: Contents, told: Told) -> None:
    every = [row for rows in found.history.values() for row in rows]
    seqs = Counter(row.seq for row in every)
    twice = [seq for seq, count in seqs.items() if count > 1]
    _require(not twice, f"seqs are there twice: {twice[:5]}")
    _require(max(seqs, default=0) <= found.last_seq, "a seq is beyond the commit log")
    by_seq = sorted(every, key=lambda row: row.seq)
    times = [row.write_time_us for row in by_seq]
    _require(times == sorted(times), "the clock of commits ran backwards")
    lasting = {group: found.history[group] for group in GROUPS}
    places: dict[int, tuple[str, Row]] = {}
    for group, rows in lasting.items():
        for row in rows:
            if not row.is_deleted:
                token = row.values[0]
                _require(token not in places, f"{token} is there twice")
                places[token] = group, row
    sent = {token for note in told.sent for token in note["sent"]}
    _require(places.keys() <= sent, f"nobody sent {sorted(places.keys() - sent)[:5]}")
    for note in told.sent:
        _judge_request(note, places, told)
    deleted = {row.seq: row for rows in lasting.values() for row in rows if row.is_deleted}
    for note in told.acknowledged:
        for token, seq in zip(note["acknowledged"], note["seqs"], strict=False):
            if token not in told.tokens:
                continue
            if note["way"] == "delete":
                _require(seq in deleted, f"the delete told to be {seq} is not there")
            else:
                _require(places[token][1].seq == seq, f"{token} is not {seq}, as was told")


def _judge_request(note: dict[str, Any], places: dict[int, tuple[str, Row]], told: Told) -> None:
    there = [token in places for token in note["sent"]]
    if note["way"] == "delete":
        _require(not any(there), "a delete has become a record")
        return
    if not told.is_open(note):
        _require(all(there), f"acknowledged and lost: {note}")
    elif note["way"] == "table":
        for key in {k for k, _, _ in note["records"]}:
            whole = {token in places for k, _, token in note["records"] if k == key}
            _require(len(whole) == 1, f"key {key} is there by half: {note}")
    else:
        _require(len(set(there)) == 1, f"half a write is there: {note}")
    for number, (k, seconds, token) in enumerate(note["records"]):
        if token in places:
            group, row = places[token]
            asked = GROUPS[number] if note["way"] == "pair" else note["group"]
            as_sent = (asked, k, micros(START) + seconds * 1_000_000)
            _require((group, row.k, row.event_time_us) == as_sent, f"{row} is not {note}")


def _judge_model(found: Contents, told: Told) -> None:
    """Replay history into the model, in the order of seqs; compare what was told, and online."""
    outcomes = {
        seq: outcome
        for note in told.acknowledged
        for token, seq, outcome in zip(
            note["acknowledged"], note["seqs"], note.get("outcomes", []), strict=False
        )
        if token in told.tokens
    }
    model = Model()
    for group in GROUPS:
        features = {"k": "int64", "t": "timestamp", "token": "int64", "pair": "bool"}
        model.groups[group] = ModelGroup(group, ("k",), "t", features)
        for row in found.history[group]:
            latest = model.latest(group, (row.k,))
            late = latest is not None and row.event_time_us < latest.event_time_us
            version = Version(
                row.event_time_us, row.seq, row.write_time_us, None, row.is_deleted,
                dict(zip(("token", "pair"), row.values, strict=True)),
            )  # fmt: skip
            model.groups[group].history.setdefault((row.k,), []).append(version)
            answer = outcomes.get(row.seq, "unchanged")
            expected = "late" if late else "moved"
            _require(
                answer in {"unchanged", "queued", expected},
                f"seq {row.seq} was told {answer}; it is {expected}",
            )
        online = found.latest[group]
        keys = {key for (key,) in model.groups[group].history}
        _require(online.keys() == keys, f"online has other keys than history: {group}")
        for key, row in online.items():
            version = model.latest(group, (key,))
            assert version is not None
            there = (row.event_time_us, row.seq, row.is_deleted, row.write_time_us)
            newest = (
                version.event_time_us, version.seq, version.is_deleted, version.write_time_us,
            )  # fmt: skip
            _require(there == newest, f"{group} {key}: online has {there}, history {newest}")
            if not row.is_deleted:
                _require(row.values == tuple(version.values.values()), f"{group} {key}: values")


def _judge_engine(path: Path, found: Contents, told: Told) -> None:
    # The writers' clocks are some seconds off; nothing is old enough to go before theirs say so.
    with fs.open(path, upkeep=False, clock=lambda: time.time_ns() // 1000 + AHEAD_US) as store:
        faults = store.verify()
        _require(faults == [], f"verify: {faults[:3]}")
        for group in GROUPS:
            _require(_seen(store, group) == _plain(found, group), f"SQL sees another {group}")
            for key, row in found.latest[group].items():
                answer = store.get_record(group, key, with_status=True)
                _require(
                    (answer.write_seq, answer.status == "DELETED") == (row.seq, row.is_deleted),
                    f"get_record({group}, {key}) gives {answer}",
                )
        _go_on(store, told)
        store.flush()
        store.compact()
        faults = store.verify()
        _require(faults == [], f"verify after a compaction: {faults[:3]}")
    after = plain.contents(path)
    there = {str(p.relative_to(path)) for p in (path / "data").rglob("*") if p.is_file()}
    _require(there == after.listed, f"nobody's files: {sorted(there ^ after.listed)[:5]}")
    for group in GROUPS:
        before = set(found.history[group])
        _require(before <= set(after.history[group]), f"compaction lost rows of {group}")


def _seen(store: fs.FeatureStore, group: str) -> list[tuple[Any, ...]]:
    rows = store.sql(
        f"SELECT k, t, write_seq, token FROM history.{group} ORDER BY write_seq"
    ).to_pylist()
    return [(row["k"], micros(row["t"]), row["write_seq"], row["token"]) for row in rows]


def _plain(found: Contents, group: str) -> list[tuple[Any, ...]]:
    return [(row.k, row.event_time_us, row.seq, row.values[0]) for row in found.history[group]]


def _go_on(store: fs.FeatureStore, told: Told) -> None:
    """Send again what was cut off: what is in is not added twice, what is not comes in."""
    for note in told.sent:
        if not (told.is_open(note) and note["way"] == "table"):
            continue
        records = [record(*values) for values in note["records"]]
        result = store.ingest(note["group"], records, id=note["request"])
        _require(result.accepted + result.replayed == len(records), f"{result} of {note}")
        there = store.sql(
            f"SELECT count(*) n FROM history.{note['group']} WHERE token IN (SELECT unnest(?))",
            [note["sent"]],
        ).to_pylist()
        _require(there == [{"n": len(records)}], f"sent again, {there} of {note}")
