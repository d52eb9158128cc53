"""Short forms of the survival campaigns, and what each of them is worth: planted faults.

The long forms are commands, ``poe survival`` and its parts (``python -m tests.survival --help``);
what is proved by which of them is a table in the README.
"""

from __future__ import annotations

import errno
import math
import os
import random
import signal
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.storage import seam
from tests import test_cases
from tests.model import moment
from tests.small_world import START, fresh_folder, fresh_store
from tests.survival import cuts, fills, histories, kills, late, plants, steps
from tests.survival.judge import Broken
from tests.survival.linear import Op, is_linearizable, shortest_bad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.survival.steps import Book

ROOT = Path(__file__).parents[1]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a campaign in a process of its own."""
    argv = [sys.executable, "-m", "tests.survival", *arguments]
    return subprocess.run(argv, check=False, capture_output=True, text=True, cwd=ROOT, timeout=300)


# ── the seam ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def on_call() -> Iterator[list[str]]:
    """Collect the calls that go through the seam."""
    seen: list[str] = []

    def collect(name: str, _path: str, do: Any, args: tuple[Any, ...]) -> Any:
        seen.append(name)
        return do(*args)

    seam.on_call = collect
    yield seen
    seam.on_call = None


def test_calls_come_by_name_in_their_order(on_call: list[str], tmp_path: Path) -> None:
    with fs.open(tmp_path / "store", upkeep=False) as store:
        a_group(store)
        del on_call[:]
        store.put_record("g", {"k": 1, "t": moment(START)})
        assert [name for name in on_call if name != "statvfs"] == ["commit"]
        del on_call[:]
        store.flush()
    told = [name for name in on_call if name not in {"statvfs", "stat", "open", "read", "list"}]
    assert told[:12] == [
        "lock", "flush.read", "lock", "commit", "file.intended", "mkdir", "fsync_folder", "parquet",
        "create", "write", "fsync", "rename",
    ]  # fmt: skip
    assert told[12:16] == ["fsync_folder", "flush.written", "commit", "flush.listed"]


def a_group(store: fs.FeatureStore) -> None:
    features = {"k": "int64", "t": "timestamp"}
    store.create_feature_group("g", record_identifier="k", event_time="t", features=features)


@pytest.mark.parametrize(
    ("mode", "left", "code"),
    [("eio", "", errno.EIO), ("enospc", "", errno.ENOSPC), ("short", "ab", errno.ENOSPC),
     ("late_eio", "abcd", errno.EIO)],
)  # fmt: skip
def test_a_fault_meets_the_nth_call(mode: str, left: str, code: int, tmp_path: Path) -> None:
    fault = seam.Fault("write", mode, 2)
    path = tmp_path / "file"
    with path.open("wb", buffering=0) as file:
        assert fault("write", str(path), file.write, (b"",)) == 0
        assert fault("fsync", str(path), len, ((),)) == 0
        with pytest.raises(OSError, match="made up") as caught:
            fault("write", str(path), file.write, (b"abcd",))
        assert fault("write", str(path), file.write, (b"",)) == 0
    assert (path.read_text(), caught.value.errno) == (left, code)


def test_a_process_is_told_by_its_environment(tmp_path: Path) -> None:
    script = (
        "import sys, featurestore as fs\n"
        "with fs.open(sys.argv[1], upkeep=False) as store:\n"
        "    store.create_feature_group('g', record_identifier='k', event_time='t',\n"
        "                               features={'k': 'int64', 't': 'timestamp'})\n"
        "    store.put_record('g', {'k': 1, 't': '2013-01-01T00:00Z'})\n"
        "    store.flush()\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "store")]
    env = {**os.environ, seam.VARIABLE: "flush.written:kill"}
    done = subprocess.run(argv, check=False, env=env, cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    with fs.open(tmp_path / "store", upkeep=False) as store:
        assert store.verify() == []
        assert store.stat()["groups"]["g"]["files"] == 0  # written, and not listed
        assert store.sql("SELECT k FROM g").to_pylist() == [{"k": 1}]
    done = subprocess.run(
        argv, check=False, env={**env, seam.VARIABLE: "what"}, cwd=ROOT, capture_output=True
    )
    assert b"name:mode" in done.stderr


def test_one_seed_replays_a_run() -> None:
    runs = []
    for _ in range(2):
        with steps.lived_small(), fresh_folder() as folder:
            calls = seam.on_call = steps._AtCall(-1, "eio")
            try:
                with steps.opened(folder / "store") as store:
                    for chapter in steps.chapters(store)[:14]:
                        chapter()
            finally:
                seam.on_call = None
            listed = sorted((folder / "store" / "data").rglob("*.parquet"))
            runs.append((calls.seen, [path.read_bytes() for path in listed]))
    assert runs[0] == runs[1]


# ── kill -9 ──────────────────────────────────────────────────────────────────────────────────


def test_fifty_kills_lose_nothing() -> None:
    assert "50 kills" in kills.campaign(50, seed=3)


# ── power cuts ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def power() -> None:
    """Skip where the power cannot be cut, and say why."""
    reason = cuts.reason_not_to()
    if reason:
        pytest.skip(reason)


@pytest.mark.usefixtures("power")
def test_a_power_cut_loses_nothing_of_a_strict_store() -> None:
    assert cuts.strict(seed=1)[1] > 0


@pytest.mark.usefixtures("power")
@pytest.mark.parametrize("durability", ["relaxed", "rebuildable"])
def test_a_power_cut_leaves_the_other_stores_as_they_say(durability: str) -> None:
    assert cuts.other(1, durability)[0] in {"sound", "gone"}


# ── fault stepping ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def book() -> Book:
    """Live undisturbed once."""
    return steps.write_book("seam")


def test_a_life_has_calls_of_every_kind(book: Book) -> None:
    assert {"commit", "write", "fsync", "rename", "fsync_folder", "unlink", "link"} <= set(
        book.calls
    )
    assert {"copy_engine", "flush.written", "compact.written", "ingest.slice"} <= set(book.calls)
    assert len(steps.faults_of(book, "seam")) > 1500


def test_a_fault_at_any_call_does_no_harm(book: Book) -> None:
    every = steps.faults_of(book, "seam")
    chosen = random.Random(2013).sample(every, 20)
    assert [said for fault in chosen if (said := steps.harm(book, "seam", *fault))] == []


def test_a_fault_inside_lmdb_or_arrow_does_no_harm() -> None:
    reason = steps.reason_not_to("libc")
    if reason:
        pytest.skip(reason)
    done = command("step", "--through", "libc", "--count", "12", "--seed", "2013")
    assert done.returncode == 0, done.stdout + done.stderr


# ── full ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [*fills.KINDS, "readers"])
def test_what_is_full_refuses_and_goes_on_when_there_is_room(kind: str) -> None:
    try:
        acknowledged, refused = fills.fill(kind, seed=1)
    except fills.Unable as reason:
        pytest.skip(str(reason))
    assert acknowledged
    assert refused


# ── histories ────────────────────────────────────────────────────────────────────────────────


def test_a_recorded_history_is_linearizable_key_by_key() -> None:
    assert "every key linearizable" in histories.campaign(3000, seed=1)


def put(called: float, returned: float, event_time: int, value: int, answer: Any = "moved") -> Op:
    return Op(called, returned, event_time, value, answer)


def get(called: float, returned: float, *state: int) -> Op:
    return Op(called, returned, answer=state or None, is_get=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("history", "holds"),
    {
        "read what is acknowledged": ([put(0, 1, 5, 1), get(2, 3, 5, 1)], True),
        "lost": ([put(0, 1, 5, 1), get(2, 3)], False),
        "open, and never happened": ([put(0, math.inf, 5, 1, None), get(2, 3)], True),
        "open, and happened late": (
            [put(0, math.inf, 5, 1, None), get(2, 3), get(4, 5, 5, 1)], True),
        "open, seen and then gone": (
            [put(0, math.inf, 5, 1, None), get(2, 3, 5, 1), get(4, 5)], False),
        "late wins": ([put(0, 1, 5, 1), put(2, 3, 4, 2), get(4, 5, 4, 2)], False),
        "late is told so": ([put(0, 1, 5, 1), put(2, 3, 4, 2, "late"), get(4, 5, 5, 1)], True),
        "late was told to be newest": ([put(0, 1, 5, 1), put(2, 3, 4, 2, "moved")], False),
        "of one event time the later": (
            [put(0, 1, 5, 1), put(2, 3, 5, 2), get(4, 5, 5, 1)], False),
        "at once, either way": ([put(0, 9, 5, 1), put(0, 9, 5, 2), get(10, 11, 5, 1)], True),
        "at once, not both ways": (
            [put(0, 9, 5, 1), put(0, 9, 5, 2), get(10, 11, 5, 1), get(12, 13, 5, 2)], False),
        "one goes back": ([put(0, 9, 5, 1), get(1, 2, 5, 1), get(3, 4)], False),
        "nobody wrote it": ([get(0, 1, 5, 1)], False),
        "before it was sent": ([get(0, 1, 5, 1), put(2, 3, 5, 1)], False),
    }.values(),
)  # fmt: skip
def test_the_checker_refuses_bad_histories(history: list[Op], holds: bool) -> None:
    assert is_linearizable(history) == holds
    if not holds:
        assert shortest_bad(history)


spans = st.tuples(st.integers(0, 8), st.integers(1, 5)).map(lambda s: (s[0], s[0] + s[1]))
some_ops = st.lists(
    st.one_of(
        st.builds(
            lambda span, t, v, a: Op(*span, t, v, a),
            spans, st.integers(0, 2), st.integers(0, 2), st.sampled_from(["moved", "late", None]),
        ),
        st.builds(
            lambda span, state: Op(*span, answer=state, is_get=True),
            spans,
            st.none() | st.tuples(st.integers(0, 2), st.integers(0, 2)),
        ),
    ),
    max_size=6,
)  # fmt: skip


@given(some_ops)
def test_the_checker_is_every_order_tried(history: list[Op]) -> None:
    def can_be(order: tuple[Op, ...]) -> bool:
        state = None
        for number, op in enumerate(order):
            if any(later.returned < op.called for later in order[number:]):
                return False
            fits, state = op.applied_to(state)
            if not fits:
                return False
        return True

    assert is_linearizable(history) == any(map(can_be, permutations(history)))


# ── waking up late ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "two at once"])
@pytest.mark.parametrize(
    ("verb", "place"),
    [("flush", "flush.written"), ("compact", "compact.written"), ("ingest", "ingest.staged"),
     ("ingest", "ingest.slice")],
)  # fmt: skip
def test_who_wakes_up_late_does_no_harm(verb: str, place: str, alone: bool) -> None:
    with fresh_folder() as folder:
        assert late.wake_late(folder, verb, place, alone=alone)


# ── planted faults ───────────────────────────────────────────────────────────────────────────

FOUND_BY_STEPS = {
    # name: the chapter in which to look, at which call, killed how
    "two-transactions": (3, "commit", "kill"),
    "half-batch": (4, "commit", "kill"),
    "retry-counts": (3, "commit", "late_eio"),
}
FOUND_LATE = {
    "no-flusher-guard": ("flush", "flush.written"),
    "no-swap-guard": ("compact", "compact.written"),
    "no-turn": ("ingest", "ingest.staged"),
}
FOUND_BY_HISTORIES = ["late-wins", "stale-read"]
FOUND_BY_CUTS = ["no-fsync", "unsynced-file"]
FOUND_BY_PICTURES = ["wrong-tombstone", "ttl-off-by-one"]


def test_every_planted_fault_has_its_finder() -> None:
    finders = {*FOUND_BY_STEPS, *FOUND_LATE, *FOUND_BY_HISTORIES, *FOUND_BY_CUTS}
    assert finders | {*FOUND_BY_PICTURES, "hash-is-key"} == set(plants.PLANTS)


@pytest.mark.parametrize("plant", FOUND_BY_STEPS)
def test_fault_stepping_finds(plant: str, book: Book) -> None:
    chapter, name, mode = FOUND_BY_STEPS[plant]
    # The planted fault adds calls of its own, so the one to die at may be a little further on.
    first = next(
        n for n, call in enumerate(book.calls) if book.chapter_of[n] == chapter and call == name
    )
    assert any(steps.harm(book, "seam", at, mode, plant) for at in range(first, first + 8))


@pytest.mark.parametrize("plant", FOUND_LATE)
def test_waking_up_late_finds(plant: str) -> None:
    verb, place = FOUND_LATE[plant]
    with fresh_folder() as folder, pytest.raises(AssertionError):
        late.wake_late(folder, verb, place, alone=False, plant=plant)


@pytest.mark.parametrize("plant", FOUND_BY_HISTORIES)
def test_recorded_histories_find(plant: str) -> None:
    with pytest.raises(Broken):
        histories.campaign(1000, seed=1, plant=plant)


@pytest.mark.usefixtures("power")
@pytest.mark.parametrize("plant", FOUND_BY_CUTS)
def test_power_cuts_find(plant: str) -> None:
    done = command("cut", "--count", "9", "--seed", "1", "--plant", plant)
    assert "BROKEN" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("plant", FOUND_BY_PICTURES)
def test_the_pictures_find(plant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for owner, attribute, broken in plants.PLANTS[plant]():
        monkeypatch.setattr(owner, attribute, broken)
    told = []
    for number, case in enumerate(list(test_cases.stories())):
        teller = test_cases.StoreTeller(tmp_path / str(number), test_cases.nothing)
        try:
            test_cases.tell(case.values[0], teller)
        except AssertionError:
            told.append(case.id)
        teller.store.close()
        if told:
            return
    pytest.fail("no picture shows it")


def test_nine_keys_of_four_hashes_find_that_hash_is_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def puts_and_gets() -> None:
        with fresh_store(key_hash_bits=2) as store:
            a_group(store)
            for k in range(9):
                store.put_record("g", {"k": k, "t": moment(START + k)})
            for k in range(9):
                found = store.get_record("g", k)
                assert found is not None
                assert found["t"] == moment(START + k)

    puts_and_gets()
    for owner, attribute, broken in plants.PLANTS["hash-is-key"]():
        monkeypatch.setattr(owner, attribute, broken)
    with pytest.raises((AssertionError, fs.CorruptStore)):
        puts_and_gets()
