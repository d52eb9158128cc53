"""The point-in-time join: what was known at each label's moment, and nothing later.

::

    one key's history      ●a────────────●b───────────✝c─────────●d ─ ─ ─ ─ ─ ─ ─▶ event time
    expires                                                      └── ttl ──┤
    labels             ▲         ▲       ▲       ▲        ▲           ▲        ▲
    answer         MISSING       a       b       b     DELETED        d     EXPIRED

Every label is answered as ``record.resolve(history, label, label)`` would answer it:

=============  ====================================================================================
boundary       a record stamped exactly at the label's time is known
known          from ``event time + delay``; with ``known="write_time"`` not before it arrived
newest         greatest ``(event time, seq)`` among the known, in whatever order they came
as of          rows after the snapshot's seq do not exist
DELETED        the newest known is a tombstone
EXPIRED        ``expires_at <= label time``, or ``label time - event time > max_age``; an older
               record never takes its place
MISSING        nothing is known, or the label has no key
nulls          all but PRESENT give nulls
rows           as many as labels, in their order, each with its columns as they were
=============  ====================================================================================

How it is done, file by file of this folder::

    plan      lookups ─▶ roles: (group, key columns, delay, age limit), each searched once
    labels    keys as numbers; labels laid out by key and time, once for all with the same key
    history   files and journal tail ─▶ pieces that may matter, by manifest and footers
    match     key and event time of those pieces ─▶ kernels.asof ─▶ the row of each label
    gather    of those rows only: status, and the features asked for
    indexed   instead of both, where there is much less history than labels: a look-up for each
    columns   values ─▶ the result's columns
    answer    the result of one role
    last      the last n values at or before each label
    ordered   rows of the labels' keys in one order, for last and indexed
    explain   where each answer came from, and by which rule
    batches   labels that come, and answers that go, a stretch at a time

Files are sorted as labels are laid out, so matching is a merge that costs per key and label.
Windows are gone through from the newest, and left out once no label can get a better row from
them.  Keys are compared as values (``key_index``).  Files are read in threads, which pyarrow and
the kernels let run side by side.  Memory is bounded by the labels, the result, the keys and times
of a few files, and one row group for each thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import starmap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.encoding.columns import history_schema
from featurestore.engine import frames
from featurestore.engine.point_in_time import batches
from featurestore.engine.point_in_time.answer import Answer, _take_much
from featurestore.engine.point_in_time.explain import explained
from featurestore.engine.point_in_time.gather import gather
from featurestore.engine.point_in_time.history import Bounds, History, Source
from featurestore.engine.point_in_time.indexed import looked_up, pays
from featurestore.engine.point_in_time.labels import Labels, label_times
from featurestore.engine.point_in_time.last import last_values
from featurestore.engine.point_in_time.match import Search, match
from featurestore.engine.point_in_time.plan import Plan, Question, Role
from featurestore.errors import FeatureStoreError

if TYPE_CHECKING:
    from datetime import tzinfo

    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.feature_view import FeatureLookup

# Looking keys up costs something for each call: small files are put together up to so many rows.
_MATCH_ROWS_MIN = 1 << 20

# To leave files out by their range of hashes, keys must be hashed; many leave none out.
_HASHED_KEYS_MAX = 10_000

# With so few rows of history a label, at most, labels are not laid out: each looks its row up.
_ROWS_A_LABEL = 0.25

_THREADS = min(os.cpu_count() or 1, 8)


def join(
    labels: Any,
    lookups: Sequence[FeatureLookup],
    snapshots: Mapping[str, GroupSnapshot],
    *,
    label_time: str | None = None,
    known: str = "event_time",
    tz: str | tzinfo | None = None,
    with_status: bool = False,
    explain: bool = False,
) -> Any:
    """Put beside each label the features as they were known at its time.

    Parameters
    ----------
    labels : table, or what else ``batches.whole`` takes
        Key columns and a time for each row.
    lookups : sequence of FeatureLookup
        What to take.
    snapshots : mapping of str to GroupSnapshot
        The groups looked up, all at one moment; ``seq`` of each says which rows exist.
    label_time : str, optional
        The labels' column of times; ``"event_time"`` by default.
    known : {"event_time", "write_time"}
        Whether a record also has to have arrived by the label's time.
    tz : str or tzinfo, optional
        Zone of times that carry none.
    with_status : bool
        Also add status (string), event time (timestamp, UTC) and age (duration) of the record
        found, named by ``FeatureLookup.status_columns``, for each reading of a group.
    explain : bool
        Also add status and what ``FeatureLookup.explain_columns`` names: which file or journal
        the record came from, its seq, and the rule that decided.

    Returns
    -------
    DataFrame or pyarrow.Table
        The labels, untouched and in order, then the features in the types of their group; pandas
        or Polars if the labels were, else Arrow.

    Raises
    ------
    InvalidInput
        For a missing column, a label without time, a key or time of the wrong type, an unknown
        feature, or two columns of one name; the message says which and what to do.
    """
    frame = frames.accept(batches.whole(labels))
    question = Question(lookups, label_time, known, tz, with_status=with_status, explain=explain)
    with Opened.of(snapshots) as opened:
        return _join(frame, question, opened)


def stream(
    labels: Any,
    lookups: Sequence[FeatureLookup],
    snapshots: Mapping[str, GroupSnapshot],
    *,
    memory_limit: int,
    **how: Any,
) -> Iterator[Any]:
    """Yield the schema of the answer, then the answer of :func:`join` as record batches.

    Parameters
    ----------
    labels, lookups, snapshots
        As of :func:`join`; labels are read as they are needed.
    memory_limit : int
        Bytes to keep within, labels given in memory aside: as many labels are answered together
        as fit.  More labels together is faster, since keys of history are read for each time.
        Lists of the last values count as if all were full.
    **how
        As of :func:`join`.
    """
    question = Question(lookups, **how)
    stretches = batches.stretches(labels)
    plan = Plan.of(question, snapshots, stretches.schema.names)
    fields = [pa.field(name, kind) for name, kind in plan.types(snapshots).items()]
    schema = pa.schema([*stretches.schema, *fields])
    last = [role.last_n for role in plan.roles]
    rows = batches.rows_within(memory_limit, schema, last, plan.lists())
    yield schema
    with Opened.of(snapshots) as opened:
        for stretch in stretches.of(rows):
            yield from _join(stretch, question, opened).cast(schema).to_batches()


def _join(frame: Any, question: Question, opened: Opened) -> Any:
    """Answer some labels."""
    plan = Plan.of(question, opened.snapshots, frames.column_names(frame))
    asked = Labels(frame, label_times(frame, question.label_time, question.tz), question.tz)
    answers: dict[Role, Answer] = {}
    for history in opened.histories.values():
        answers |= _answer(plan, asked, history, opened.pool)
    return _beside(frame, {column: take(answers[role]) for column, role, take in plan.columns})


class Opened:
    """Some groups being read: their files, opened when first needed, and the threads to read in."""

    def __init__(self, snapshots: Mapping[str, GroupSnapshot], pool: ThreadPoolExecutor) -> None:
        self.snapshots = snapshots
        self.pool = pool
        self.histories = {name: History(snapshot) for name, snapshot in snapshots.items()}

    @classmethod
    @contextmanager
    def of(cls, snapshots: Mapping[str, GroupSnapshot]) -> Iterator[Opened]:
        """Close everything at the end."""
        with ThreadPoolExecutor(_THREADS) as pool:
            opened = cls(snapshots, pool)
            try:
                yield opened
            finally:
                for history in opened.histories.values():
                    history.close()


def _answer(
    plan: Plan, labels: Labels, history: History, pool: ThreadPoolExecutor
) -> dict[Role, Answer]:
    """Answer all roles in which one group is read."""
    snapshot, question = history.snapshot, plan.question
    group = snapshot.group
    schema = history_schema(group)

    def search_in(role: Role, features: list[str]) -> Search:
        return Search(role, features, labels.keys(role, group), labels.time_us)

    def admitted(searches: list[Search], question: Question) -> list[Source]:
        if not len(labels):
            return []
        bounds = Bounds.of(
            snapshot, searches, every_status=question.every_status, hashed_keys_max=_HASHED_KEYS_MAX
        )
        return history.sources(bounds)

    def find(role: Role, question: Question) -> npt.NDArray[np.bool_]:
        search = search_in(role, [])
        sources = admitted([search], question)
        match(sources, [search], snapshot, pool, question, stretch_rows=_MATCH_ROWS_MIN)
        found = np.zeros(len(labels), np.bool_)
        found[search.answered] = True
        return found

    roles = {role: features for role, features in plan.roles.items() if role.group == group.name}
    searches = list(starmap(search_in, roles.items()))
    if not searches:
        return {}
    sources = admitted(searches, question)
    if pays(sources, searches, question, _ROWS_A_LABEL):
        return {
            search.role: looked_up(sources, search, snapshot, schema, pool, question)
            for search in searches
        }
    match(sources, searches, snapshot, pool, question, stretch_rows=_MATCH_ROWS_MIN)
    answers = {}
    for search in searches:
        answer = gather(sources, search, labels.time_us, schema, pool)
        if search.role.last_n is not None:
            last_values(sources, search, answer, snapshot, schema, pool, question)
        if question.explain:
            answer.origin = explained(search, answer, sources, pool, question, find)
        answers[search.role] = answer
    return answers


def _beside(frame: Any, columns: Mapping[str, pa.ChunkedArray]) -> Any:
    """Return the labels with their answers; as many rows as there were, or nothing at all."""
    rows = frames.row_count(frame)
    result = frames.append(frame, columns)
    lengths = {len(values) for values in columns.values()} | {frames.row_count(result)}
    if lengths != {rows}:
        raise FeatureStoreError(
            f"A join of {rows} labels gave {sorted(lengths)} rows. This is a fault of the feature "
            "store, and the result was thrown away; please report it."
        )
    return result


__all__ = ["_take_much", "join", "stream"]
