"""The plain in-memory model of a store: what every answer must be.

A store is a list of accepted versions for each key, and one slow, obvious function that reads it::

    history["JFK"]      event_time   seq   expires_at   values
        Version            10         1       never     temp=39
        Version            20         2       never     temp=41       <- what "now" sees
        Version            10         3       never     temp=38       late: history only

    get_record           resolve(history, upto=+inf,  clock=now)
    point_in_time        resolve(history, upto=label, clock=label)
    weather              the newest version of each (key, event_time), no tombstones
    latest.weather       the newest version of each key, when it is neither deleted nor expired
    history.weather      everything, in the order of seq

There is no file, no index, no cache, no flush and no compaction here, and so nothing that could
be out of step with anything else.  It shares no code with the engine, not even its `resolve`: the
two are compared (``test_laws.py``), and the model itself is held to the hand-written pictures in
``tests/cases`` (``test_cases.py``).

Times are integers, microseconds since the epoch, UTC.  A version aimed at one store only is seen
by that store only, as if the other had never heard of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Key = tuple[object, ...]

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REQUEST_MEMORY = DAY
"""How long a request id is remembered at least."""


def moment(time_us: int) -> datetime:
    """Return an aware datetime for microseconds since the epoch."""
    return EPOCH + timedelta(microseconds=time_us)


def micros(time: datetime) -> int:
    """Return microseconds since the epoch for an aware datetime."""
    return (time - EPOCH) // timedelta(microseconds=1)


# ── the law ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Version:
    """One accepted record, or tombstone, of one key."""

    event_time_us: int
    seq: int
    write_time_us: int
    expires_at_us: int | None
    is_deleted: bool
    values: Mapping[str, object]
    online: bool = True
    offline: bool = True
    schema_version: int = 1
    hard: bool = False


def resolve(
    versions: Iterable[Version],
    upto_us: float,
    clock_us: float,
    *,
    seq_max: float = math.inf,
    delay_us: int = 0,
    by_write_time: bool = False,
    max_age_us: float = math.inf,
) -> tuple[str, Version | None]:
    """Return the status of a key and its newest known version.

    Newest is greatest by event time, then by seq.  Known is what happened, was published, and (if
    asked) had arrived, at or before `upto_us`.
    """
    known = [
        v
        for v in versions
        if v.seq <= seq_max
        and v.event_time_us + delay_us <= upto_us
        and (not by_write_time or v.write_time_us <= upto_us)
    ]
    if not known:
        return "MISSING", None
    newest = max(known, key=lambda v: (v.event_time_us, v.seq))
    if newest.is_deleted:
        return "DELETED", newest
    if newest.expires_at_us is not None and clock_us >= newest.expires_at_us:
        return "EXPIRED", newest
    if upto_us - newest.event_time_us > max_age_us:
        return "EXPIRED", newest
    return "PRESENT", newest


# ── what is asked of a store ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Put:
    """A record to put.  `ttl_us` None means the group's."""

    group: str
    key: Key
    event_time_us: int
    values: Mapping[str, object]
    ttl_us: int | None = None
    online: bool = True
    offline: bool = True


@dataclass(frozen=True, slots=True)
class Delete:
    """A delete, soft or hard."""

    group: str
    key: Key
    event_time_us: int
    hard: bool = False


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one write: moved, late, offline_only or unchanged."""

    seq: int
    outcome: str
    expires_at_us: int | None


class RefusedError(Exception):
    """The store must refuse this, and change nothing.  `reason` is "future", "stale", "reused"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# ── the store ────────────────────────────────────────────────────────────────────────────────


@dataclass
class Group:
    """A feature group: its settings, and every version of every key."""

    name: str
    identifier: tuple[str, ...]
    event_time: str
    features: dict[str, str]
    ttl_us: int | None = None
    max_future_us: int | None = DAY
    version: int = 1
    history: dict[Key, list[Version]] = field(default_factory=dict)

    @property
    def payload(self) -> list[str]:
        """Names of the features that are neither identifier nor event time."""
        return [f for f in self.features if f not in self.identifier and f != self.event_time]

    def online(self, key: Key) -> list[Version]:
        """Return what the online store was told of a key."""
        return [v for v in self.history.get(key, []) if v.online]

    def offline(self, key: Key) -> list[Version]:
        """Return what the offline store was told of a key."""
        return [v for v in self.history.get(key, []) if v.offline]


@dataclass(frozen=True, slots=True)
class _Remembered:
    writes: tuple[Write, ...]
    outcomes: list[Outcome]
    commit_us: int


class Model:
    """A whole store in a dict."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.seq = 0
        self.commits: list[tuple[int, int]] = []
        self.requests: dict[str, _Remembered] = {}

    @property
    def last_commit_us(self) -> int:
        """Write time of the newest commit; the beginning of time before the first."""
        return self.commits[-1][0] if self.commits else micros(datetime.min.replace(tzinfo=UTC))

    # ── writing

    def commit(
        self, writes: Sequence[Write], clock_us: int, request_id: str | None = None
    ) -> tuple[list[Outcome], bool]:
        """Accept all of `writes` or none; return what became of each, and whether replayed.

        A delete comes alone (there is no batch of deletes), so a stale one has nothing to undo.
        """
        write_time_us = max(clock_us, self.last_commit_us)
        remembered = self.requests.get(request_id or "")
        if remembered is not None and write_time_us - remembered.commit_us < DAY:
            if list(map(_content, remembered.writes)) != list(map(_content, writes)):
                raise RefusedError("reused")
            return remembered.outcomes, True
        for write in writes:
            ahead = self.groups[write.group].max_future_us
            if ahead is not None and write.event_time_us > clock_us + ahead:
                raise RefusedError("future")
        seq = self.seq
        outcomes = [self._accept(write, write_time_us) for write in writes]
        if self.seq > seq:
            self.commits.append((write_time_us, self.seq))
        if request_id is not None:
            self.requests[request_id] = _Remembered(tuple(writes), outcomes, write_time_us)
        return outcomes, False

    def load(
        self, puts: Sequence[Put], clock_us: int, *, write_times_us: Sequence[int] | None = None
    ) -> tuple[int, int]:
        """Accept every row of a table; return how many were late, and how many born expired.

        An import brings write times of its own; what it is committed at stays the clock's.

        A table is one statement about its keys: a row is late when it is older than what was online
        before the table came, and rows that repeat the current record are history too.
        """
        before = {put.key: self.latest(put.group, put.key) for put in puts}
        write_time_us = max(clock_us, self.last_commit_us)
        late = expired = 0
        for row, put in enumerate(puts):
            group = self.groups[put.group]
            arrived_us = write_time_us if write_times_us is None else write_times_us[row]
            version = self._version_of(group, put, arrived_us)
            self.seq = version.seq
            group.history.setdefault(put.key, []).append(version)
            latest = before[put.key]
            late += latest is not None and put.event_time_us < latest.event_time_us
            expired += version.expires_at_us is not None and version.expires_at_us <= write_time_us
        self.commits.append((write_time_us, self.seq))
        return late, expired

    def _accept(self, write: Write, write_time_us: int) -> Outcome:
        group = self.groups[write.group]
        if isinstance(write, Put):
            version = self._version_of(group, write, write_time_us)
        else:
            version = Version(
                event_time_us=write.event_time_us,
                seq=self.seq + 1,
                write_time_us=write_time_us,
                expires_at_us=None,
                is_deleted=True,
                values={},
                schema_version=group.version,
                hard=write.hard,
            )
        latest = self.latest(write.group, write.key)
        hard = isinstance(write, Delete) and write.hard
        if hard and latest is not None and write.event_time_us < latest.event_time_us:
            raise RefusedError("stale")
        if latest is not None and version.online and _payload(latest) == _payload(version):
            return Outcome(latest.seq, "unchanged", latest.expires_at_us)
        self.seq += 1
        group.history.setdefault(write.key, []).append(version)
        if not version.online:
            outcome = "offline_only"
        elif latest is None or version.event_time_us >= latest.event_time_us:
            outcome = "moved"
        else:
            outcome = "late"
        return Outcome(version.seq, outcome, version.expires_at_us)

    def _version_of(self, group: Group, put: Put, write_time_us: int) -> Version:
        ttl_us = group.ttl_us if put.ttl_us is None else put.ttl_us
        return Version(
            event_time_us=put.event_time_us,
            seq=self.seq + 1,
            write_time_us=write_time_us,
            expires_at_us=None if ttl_us is None else put.event_time_us + ttl_us,
            is_deleted=False,
            values={f: put.values.get(f) for f in group.payload},
            online=put.online,
            offline=put.offline,
            schema_version=group.version,
        )

    # ── reading

    def latest(self, name: str, key: Key) -> Version | None:
        """Return the newest version the online store knows, whatever its state."""
        return max(
            self.groups[name].online(key), key=lambda v: (v.event_time_us, v.seq), default=None
        )

    def get(self, name: str, key: Key, clock_us: int) -> tuple[str, Version | None]:
        """Return status and newest version of a key, as the online store answers."""
        return resolve(self.groups[name].online(key), math.inf, clock_us)

    def join(self, name: str, key: Key, label_us: int, **how: object) -> tuple[str, Version | None]:
        """Return status and version of a key as known at a label's time."""
        return resolve(self.groups[name].offline(key), label_us, label_us, **how)  # type: ignore[arg-type]

    def history_rows(self, name: str) -> list[tuple[Key, Version]]:
        """Return every version of ``history.<name>``, in the order of seq."""
        return sorted(self._offline(name), key=lambda row: row[1].seq)

    def newest_rows(self, name: str) -> list[tuple[Key, Version]]:
        """Return the rows of the view ``<name>``: one for each key and event time."""
        newest: dict[tuple[Key, int], Version] = {}
        for key, version in self.history_rows(name):
            newest[key, version.event_time_us] = version
        return [(key, v) for (key, _), v in newest.items() if not v.is_deleted]

    def latest_rows(self, name: str, clock_us: int) -> list[tuple[Key, Version]]:
        """Return the rows of ``latest.<name>`` and of a scan: the keys that are present."""
        rows = []
        for key in self.groups[name].history:
            status, version = self.get(name, key, clock_us)
            if status == "PRESENT" and version is not None:
                rows.append((key, version))
        return rows

    def seq_at(self, time_us: int) -> int:
        """Return the newest seq committed at or before a time; 0 when there is none."""
        return max((seq for commit_us, seq in self.commits if commit_us <= time_us), default=0)

    def _offline(self, name: str) -> Iterator[tuple[Key, Version]]:
        for key in self.groups[name].history:
            for version in self.groups[name].offline(key):
                yield key, version


# ── equality of values: nan is itself, 0 is not 0.0, and 0.0 is not -0.0 ─────────────────────


def exactly(value: object) -> object:
    """Return something that is equal only for values a user would call the same."""
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else value.hex())
    if isinstance(value, list | tuple):
        return ("list", tuple(exactly(item) for item in value))
    return (type(value).__name__, value)


def _payload(version: Version) -> tuple[object, ...]:
    return (
        version.event_time_us, version.expires_at_us, version.is_deleted, version.hard,
        version.online, version.offline, version.schema_version,
        tuple(sorted((name, exactly(value)) for name, value in version.values.items())),
    )  # fmt: skip


def _content(write: Write) -> tuple[object, ...]:
    if isinstance(write, Delete):
        return ("delete", write.group, write.key, write.event_time_us, write.hard)
    given = {name: value for name, value in write.values.items() if value is not None}
    return (
        "put", write.group, write.key, write.event_time_us, write.ttl_us, write.online,
        write.offline, tuple(sorted((name, exactly(value)) for name, value in given.items())),
    )  # fmt: skip
