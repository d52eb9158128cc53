"""A store and the model, driven through the same random life, asked the same questions.

The world is that of ``small_world.py``.  After every step each key is read online; SQL views, scans
and joins are asked by rules of their own, and all of them once more before the end, when
``verify()`` must find nothing, as at every close.

``python -m tests.campaign --examples 1000 --steps 50`` is the long form.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import featurestore as fs
from featurestore.engine import cleaner, compactor, flusher, point_in_time, staging, upkeep
from featurestore.engine import ingest as engine_ingest
from featurestore.storage import journal, parquet
from tests import agreement
from tests.model import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Delete,
    Group,
    Model,
    Put,
    RefusedError,
    Write,
    moment,
)
from tests.small_world import (
    START,
    VALUES,
    Shape,
    aims,
    fresh_folder,
    group_names,
    label_times,
    new_fleeting,
    new_groups,
    put_of,
    shapes,
    ttls,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


SMALL: list[tuple[Any, str, int]] = [
    (flusher, "FLUSH_ROWS", 3),
    (compactor, "WINDOW_ROWS", 4),
    (compactor, "CELL_ROWS", 2),
    (journal, "ENTRY_BYTES_MAX", 200),
    (parquet, "ROW_GROUP_ROWS", 2),
    (staging, "SLICE_KEYS_MAX", 1),
    (point_in_time, "_MATCH_ROWS_MIN", 3),
    (point_in_time, "_HASHED_KEYS_MAX", 2),
]
"""Sizes that only large histories reach, made so small that a few rows do."""
BUSY: list[tuple[Any, str, float]] = [
    (upkeep, "TICK_SECONDS", 0.0005),
    (upkeep, "TAIL_ROWS", 2),
    (upkeep, "LOOSE_FILES", 2),
    (upkeep, "READERS_SECONDS", 0.0),
    (upkeep, "CLEAN_SECONDS", 0.005),
    (cleaner, "GRACE_US", 0),
]
"""Upkeep that never rests."""


@contextlib.contextmanager
def sizes(*changes: tuple[Any, str, float]) -> Iterator[None]:
    """Work with other sizes for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, size in changes:
            patch.setattr(module, name, size)
        yield


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as pandas holds them: its nan in a nullable column means null."""
    return {name: None if value != value else value for name, value in values.items()}  # noqa: PLR0124


class StoreMachine(RuleBasedStateMachine):
    """One life of a store."""

    store: fs.FeatureStore
    store_dir: ClassVar[str | None] = os.environ.get("FEATURESTORE_TEST_DIR")
    key_hash_bits: ClassVar[int | None] = None
    in_background: ClassVar[bool] = False
    lives: ClassVar[int] = 0
    steps: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.undo = contextlib.ExitStack()
        self.folder = self.undo.enter_context(fresh_folder(self.store_dir))
        self.model = Model()
        self.clock_us = START + 4 * MINUTE
        self.sent: list[tuple[str, tuple[Write, ...], int]] = []
        self.said: list[Write] = []
        self.loads: list[str] = []
        self.small = False
        self.is_open = False

    def count(self, what: str) -> None:
        """Count a step, so that a campaign can say what it did."""
        type(self).steps[what] += 1

    # ── a life begins, pauses and ends ───────────────────────────────────────────────────────

    @initialize(small=st.booleans())
    def begin(self, small: bool) -> None:
        """Make a store with its groups; in every other life a few rows are many."""
        self.undo.enter_context(
            sizes(*(SMALL if small else ()), *(BUSY if self.in_background else ()))
        )
        self.small = small
        self._open()
        for group in new_groups().values():
            agreement.create(self.store, group)
            self.model.groups[group.name] = group

    def _open(self) -> None:
        how: dict[str, Any] = {"upkeep": self.in_background}
        if self.key_hash_bits is not None:
            how["key_hash_bits"] = self.key_hash_bits
        self.store = fs.open(self.folder / "store", clock=lambda: self.clock_us, **how)
        self.is_open = True

    def _close(self) -> None:
        assert self.store.verify() == []
        self.is_open = False
        self.store.close()

    def teardown(self) -> None:
        """Ask everything once more, verify, and clear away."""
        type(self).lives += 1
        try:
            # A step that failed is the news; what the store answers after it is not.
            if self.is_open and sys.exception() is None:
                agreement.everything(self.store, self.model, self.clock_us)
                self._close()
        finally:
            if self.is_open:
                self.store.close()
            self.undo.close()

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def _put(self, shape: Shape, **how: Any) -> Put:
        return put_of(shape, self.model.groups[shape[0]], **how)

    def _send(self, writes: Sequence[Write], request_id: str | None) -> None:
        """Send one request to both, and compare what they say."""
        try:
            outcomes, replayed = self.model.commit(writes, self.clock_us, request_id)
        except RefusedError as refusal:
            wanted = {
                "future": fs.InvalidEventTime,
                "stale": fs.StaleDelete,
                "reused": fs.RequestMismatch,
            }[refusal.reason]
            self.count(f"refused: {refusal.reason}")
            with pytest.raises(wanted):
                self._ask(writes, request_id)
            return
        results = self._ask(writes, request_id)
        assert len(results) == len(outcomes)
        for result, outcome in zip(results, outcomes, strict=True):
            agreement.same_outcome(result, outcome, replayed=replayed)
            self.count("replayed" if replayed else outcome.outcome)
        self.said += writes if not replayed else ()
        if request_id is not None and not replayed:
            self.sent.append((request_id, tuple(writes), self.clock_us))

    def _ask(self, writes: Sequence[Write], request_id: str | None) -> Sequence[fs.PutResult]:
        if len(writes) == 1:
            return [agreement.send(self.store, self.model, writes[0], request_id)]
        return self.store.write(
            [
                (write.group, agreement.record(self.model.groups[write.group], write))
                for write in writes
                if isinstance(write, Put)  # there is no batch of deletes
            ],
            request_id=request_id,
        )

    def _request_id(self, wanted: bool) -> str | None:
        return f"request {len(self.sent)}" if wanted else None

    @rule(shape=shapes(), aim=aims, ttl=ttls, retried=st.booleans())
    def put(
        self,
        shape: Shape,
        aim: tuple[bool, bool],
        ttl: int | None,
        retried: bool,
    ) -> None:
        """Put one record: newer, late or tied; aimed at one store or both."""
        put = self._put(shape, ttl_us=ttl, online=aim[0], offline=aim[1])
        self._send([put], self._request_id(retried))

    @rule(batch=st.lists(shapes(), min_size=2, max_size=4), retried=st.booleans())
    def write(self, batch: list[Shape], retried: bool) -> None:
        """Write records of several groups in one transaction: all of them or none."""
        self._send([self._put(shape) for shape in batch], self._request_id(retried))

    @rule(shape=shapes(), hard=st.booleans(), retried=st.booleans())
    def delete(self, shape: Shape, hard: bool, retried: bool) -> None:
        """Delete a key, softly or hard; a stale hard delete is refused."""
        name, key, event_time_us, _ = shape
        self._send([Delete(name, key, event_time_us, hard)], self._request_id(retried))

    @rule(shape=shapes(), ahead=st.sampled_from([SECOND, DAY, 400 * DAY]))
    def put_from_the_future(self, shape: Shape, ahead: int) -> None:
        """Put what a group with a max_future must refuse."""
        name, key, _, values = shape
        limit = self.model.groups[name].max_future_us
        if limit is not None:
            self._send([self._put((name, key, self.clock_us + limit + ahead, values))], None)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), other=st.integers(0, 3))
    def retry(self, data: st.DataObject, other: int) -> None:
        """Send an earlier request again, or another one under its id."""
        request_id, writes, sent_us = data.draw(st.sampled_from(self.sent))
        if abs(self.model.last_commit_us - sent_us) >= DAY or self.clock_us - sent_us >= DAY:
            return  # remembered for a day; whether longer is not promised
        if any(self._beyond(w) for w in writes):
            return  # the clock went back: whether a retry from the future is refused is not said
        if other == 0 and len(writes) == 1:
            first = writes[0]
            later = first.event_time_us + SECOND
            if isinstance(first, Put):
                writes = (Put(first.group, first.key, later, first.values),)
            else:
                writes = (Delete(first.group, first.key, later, first.hard),)
            if self._beyond(writes[0]):
                return
        self._send(writes, request_id)

    @precondition(lambda self: self.said)
    @rule(back=st.integers(1, 3))
    def repeat(self, back: int) -> None:
        """Send one of the last writes again without an id: if it is current, nothing changes."""
        write = self.said[-min(back, len(self.said))]
        if not self._beyond(write):
            self._send([write], None)

    def _beyond(self, write: Write) -> bool:
        limit = self.model.groups[write.group].max_future_us
        return limit is not None and write.event_time_us > self.clock_us + limit

    # ── many at once ─────────────────────────────────────────────────────────────────────────

    @rule(
        batch=st.lists(shapes(), min_size=1, max_size=6),
        form=st.sampled_from(["arrow", "dicts", "pandas", "polars"]),
        way=st.sampled_from(["journal", "file", "one file"]),
        again=st.booleans(),
    )
    def ingest(self, batch: list[Shape], form: str, way: str, again: bool) -> None:
        """Ingest a small table through the journal, or as a large one: a file, in slices or not."""
        name = batch[0][0]
        group = self.model.groups[name]
        puts = [self._put(shape) for shape in batch if shape[0] == name]
        if form == "pandas":
            puts = [replace(put, values=without_nan(put.values)) for put in puts]
        load_id = f"load {len(self.loads)}"
        if any(self._beyond(put) for put in puts):
            self.count("refused: future")
            with pytest.raises(fs.InvalidEventTime):
                self._ingest(group, puts, form, way, load_id)
            return
        self.count(f"ingest by {way}" + (" in slices" if way == "file" and self.small else ""))
        result = self._ingest(group, puts, form, way, load_id)
        numbered = way == "file" and agreement.numbered(self.store, self.model, group, puts)
        accepted = [puts[place] for place in numbered] if numbered else puts
        late, expired = self.model.load(accepted, self.clock_us)
        counts = (result.accepted, result.late, result.expired, result.rejected, result.replayed)
        assert counts == (len(puts), late, expired, 0, 0)
        self.loads.append(load_id)
        if again:
            repeat = self._ingest(group, puts, form, way, load_id)
            assert (repeat.accepted, repeat.replayed) == (0, len(puts))

    def _ingest(
        self, group: Group, puts: list[Put], form: str, way: str, load_id: str
    ) -> fs.IngestResult:
        data: Any = agreement.table(group, puts)
        if form == "dicts":
            data = [agreement.record(group, put) for put in puts]
        elif form == "pandas":
            data = data.to_pandas(types_mapper=pd.ArrowDtype)
        elif form == "polars":
            data = pl.from_arrow(data)
        with sizes(*([] if way == "journal" else [(engine_ingest, "JOURNAL_ROWS_MAX", 0)])):
            return self.store.ingest(group.name, data, id=load_id, atomic=way == "one file")

    # ── time passes, files move, definitions change ──────────────────────────────────────────

    @rule(
        by=st.sampled_from([1, SECOND, MINUTE, 3 * MINUTE, 10 * MINUTE, 25 * HOUR])
        | st.sampled_from([-1, -SECOND, -2 * MINUTE, -HOUR])
    )
    def clock_moves(self, by: int) -> None:
        """Let time pass, or set the clock back; write times must not follow it back."""
        self.count("clock forwards" if by > 0 else "clock backwards")
        self.clock_us += by

    @rule(
        chore=st.sampled_from(["flush", "flush", "compact", "compact", "reopen", "backup"]),
        name=st.sampled_from([None, None, "plain", "brief"]),
    )
    def chores(self, chore: str, name: str | None) -> None:
        """Move the journal into files, merge files into cells, close and open again, or copy."""
        self.count(chore)
        if chore == "reopen":
            self._close()
            self._open()
        elif chore == "backup":
            with fresh_folder(self.store_dir) as folder:
                self.store.backup(folder / "copy")
                with fs.open(folder / "copy", clock=lambda: self.clock_us, read_only=True) as copy:
                    agreement.everything(copy, self.model, self.clock_us)
                    assert copy.verify() == []
        elif chore == "flush":
            self.store.flush(name)
        else:
            self.store.compact(name)

    @rule(
        dtype=st.sampled_from([None, "ttl", *sorted(VALUES)]),
        ttl_us=st.sampled_from([None, MINUTE, 10 * MINUTE]),
    )
    def definitions_change(self, dtype: str | None, ttl_us: int | None) -> None:
        """Add a feature, null in what is there; change a ttl; drop a group and begin it again."""
        group = self.model.groups["plain"]
        if dtype == "ttl":
            self.count("change ttl")
            self.store.update_feature_group("brief", ttl=agreement.span(ttl_us))
            self.model.groups["brief"].ttl_us = ttl_us
        elif dtype is not None and group.version < 4:
            self.count("add feature")
            name = f"extra{group.version}"
            self.store.update_feature_group("plain", add_features={name: dtype})
            group.features[name] = dtype
            group.version += 1
        elif dtype is None:
            self.count("drop and create")
            self.store.delete_feature_group("fleeting")
            self.model.groups["fleeting"] = new_fleeting()
            agreement.create(self.store, self.model.groups["fleeting"])
            # What an id of the group that is gone would mean now is not promised.
            self.sent = [s for s in self.sent if all(w.group != "fleeting" for w in s[1])]
            self.said = [write for write in self.said if write.group != "fleeting"]

    # ── asking ───────────────────────────────────────────────────────────────────────────────

    @invariant()
    def each_key_reads_as_the_model_says(self) -> None:
        """Read every key, after every step."""
        if self.is_open:
            agreement.online(self.store, self.model, self.clock_us)

    @rule(page_size=st.integers(1, 4))
    def ask_everything_at_once(self, page_size: int) -> None:
        """Ask for all keys in one batch, by a paged scan, and by the SQL views."""
        self.count("batch, scan and sql")
        agreement.batch(self.store, self.model, self.clock_us)
        agreement.scan(self.store, self.model, self.clock_us, page_size)
        agreement.views(self.store, self.model, self.clock_us)

    @rule(
        name=group_names,
        times=label_times,
        delay_us=st.sampled_from([0, 0, 1, MINUTE, 3 * MINUTE]),
        max_age_us=st.sampled_from([math.inf, math.inf, 0, MINUTE, 5 * MINUTE]),
        by_write_time=st.booleans(),
        past=st.none() | st.floats(0, 1),
        past_as_time=st.booleans(),
    )
    def ask_join(
        self,
        name: str,
        times: list[int],
        delay_us: int,
        max_age_us: float,
        by_write_time: bool,
        past: float | None,
        past_as_time: bool,
    ) -> None:
        """Join every key at any time, as the store stood at any commit."""
        self.count("join")
        as_of: Any = None
        if past is not None:
            as_of = round(past * self.model.seq)
            if past_as_time and self.model.commits:
                commit = self.model.commits[round(past * (len(self.model.commits) - 1))]
                as_of = moment(commit[0])
        agreement.joins(
            self.store,
            self.model,
            name,
            times,
            delay_us=delay_us,
            max_age_us=max_age_us,
            as_of=as_of,
            by_write_time=by_write_time,
        )


@pytest.mark.parametrize(
    ("key_hash_bits", "in_background"),
    [(None, False), (2, False), (None, True)],
    ids=["64 bits", "2 bits", "upkeep"],
)
def test_a_store_lives_as_the_model_does(key_hash_bits: int | None, in_background: bool) -> None:
    class Machine(StoreMachine):
        """With keys hashed to 64 bits, or to four values; with upkeep in the background, or not."""

    Machine.key_hash_bits = key_hash_bits
    Machine.in_background = in_background
    run_state_machine_as_test(Machine, settings=settings())
