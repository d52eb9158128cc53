"""The one law, held to hand-written pictures and to a second, independent reading of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import record
from featurestore.event_time import MAX_US, NO_EXPIRY
from featurestore.record import Status, Version, resolve

times = st.integers(0, 12)


@st.composite
def histories(draw: st.DrawFn) -> list[Version]:
    """Versions of one key in any order, crowded so that ties and edges are the rule."""
    seqs = draw(st.lists(st.integers(1, 9), unique=True, max_size=5))
    return [
        Version(
            event_time_us=draw(times),
            seq=seq,
            write_time_us=draw(times),
            expires_at_us=draw(times | st.just(NO_EXPIRY)),
            is_deleted=draw(st.booleans()),
            values=None,
        )
        for seq in seqs
    ]


def version(event_time_us: int, seq: int = 1, **others: Any) -> Version:
    fields = {
        "write_time_us": event_time_us,
        "expires_at_us": NO_EXPIRY,
        "is_deleted": False,
        "values": None,
    }
    return Version(event_time_us, seq, **(fields | others))


def says(history: list[Version], upto: int, clock: int | None = None, **options: Any) -> str:
    """Return status and seq of the answer, as "PRESENT 3"."""
    status, found = resolve(history, upto, upto if clock is None else clock, **options)
    return status.value if found is None else f"{status.value} {found.seq}"


# ── pictures ─────────────────────────────────────────────────────────────────────────────────


def test_nothing_known_is_missing() -> None:
    assert says([], 10) == "MISSING"
    assert says([version(11)], 10) == "MISSING"


def test_a_value_stamped_at_the_label_is_known() -> None:
    assert says([version(10)], 10) == "PRESENT 1"


def test_of_one_event_time_the_later_accepted_wins() -> None:
    history = [version(10, seq=2), version(10, seq=3), version(10, seq=1)]
    assert says(history, 10) == "PRESENT 3"
    assert says(history, 10, seq_max=2) == "PRESENT 2"
    assert says(history, 10, seq_max=0) == "MISSING"


def test_a_late_record_does_not_hide_a_newer_one() -> None:
    history = [version(20, seq=1), version(10, seq=2)]
    assert says(history, MAX_US) == "PRESENT 1"
    assert says(history, 15) == "PRESENT 2"


def test_a_tombstone_deletes_from_its_event_time_on() -> None:
    history = [version(10, 1), version(20, 2, is_deleted=True), version(30, 3)]
    assert [says(history, upto) for upto in (19, 20, 29, 30)] == [
        "PRESENT 1", "DELETED 2", "DELETED 2", "PRESENT 3",
    ]  # fmt: skip


def test_expiry_never_shows_an_older_record() -> None:
    history = [version(10, 1), version(20, 2, expires_at_us=25)]
    assert [says(history, upto) for upto in (19, 24, 25)] == ["PRESENT 1", "PRESENT 2", "EXPIRED 2"]


def test_expiry_goes_by_the_clock_not_by_the_label() -> None:
    history = [version(10, 1, expires_at_us=15)]
    assert says(history, 10, clock=14) == "PRESENT 1"
    assert says(history, 10, clock=15) == "EXPIRED 1"
    assert says(history, 20, clock=14) == "PRESENT 1"


def test_a_tombstone_does_not_expire() -> None:
    assert says([version(10, is_deleted=True, expires_at_us=15)], 20) == "DELETED 1"
    assert says([version(10, is_deleted=True)], 99, max_age_us=5) == "DELETED 1"


def test_a_delay_shifts_when_a_record_is_known_and_nothing_else() -> None:
    history = [version(10, 1), version(20, 2, expires_at_us=22)]
    assert says(history, 24, delay_us=5, clock=0) == "PRESENT 1"
    assert says(history, 25, delay_us=5, clock=0) == "PRESENT 2"
    assert says(history, 25, delay_us=5) == "EXPIRED 2"  # its TTL counts from its event time
    assert says(history, 14, delay_us=5) == "MISSING"
    assert says([version(10)], 15, delay_us=5, max_age_us=4) == "EXPIRED 1"  # and so does its age


def test_write_time_counts_only_if_asked_for() -> None:
    history = [version(10, 1, write_time_us=30)]
    assert says(history, 20) == "PRESENT 1"
    assert says(history, 29, known_by_write_time=True) == "MISSING"
    assert says(history, 30, known_by_write_time=True) == "PRESENT 1"
    # The later of the two decides, not their sum: a delay is a promise, a write time a fact.
    assert says(history, 30, known_by_write_time=True, delay_us=20) == "PRESENT 1"
    assert says(history, 30, known_by_write_time=True, delay_us=21) == "MISSING"


def test_lookback_gives_null_never_an_older_record() -> None:
    history = [version(8, 1), version(10, 2)]
    assert says(history, 15, max_age_us=5) == "PRESENT 2"
    assert says(history, 16, max_age_us=5) == "EXPIRED 2"
    assert says(history, 10, max_age_us=0) == "PRESENT 2"


# ── properties ───────────────────────────────────────────────────────────────────────────────


@given(histories(), times, times, st.none() | times, st.integers(0, 3), st.booleans(),
       st.none() | times)  # fmt: skip
def test_a_second_reading_agrees(
    history: list[Version],
    upto: int,
    clock: int,
    seq_max: int | None,
    delay: int,
    by_write_time: bool,
    max_age: int | None,
) -> None:
    """Walk forward through what becomes known, instead of choosing the greatest."""
    newest: Version | None = None
    for candidate in sorted(history, key=lambda v: v.seq):
        if seq_max is not None and candidate.seq > seq_max:
            continue
        known_from = candidate.event_time_us + delay
        if by_write_time:
            known_from = max(known_from, candidate.write_time_us)
        if known_from > upto:
            continue
        if newest is None or candidate.event_time_us >= newest.event_time_us:
            newest = candidate
    status, found = resolve(
        history,
        upto,
        clock,
        seq_max=seq_max,
        delay_us=delay,
        known_by_write_time=by_write_time,
        max_age_us=max_age,
    )
    assert found is newest
    if newest is None:
        assert status is Status.MISSING
    elif newest.is_deleted:
        assert status is Status.DELETED
    else:
        old = max_age is not None and newest.event_time_us < upto - max_age
        assert status is (
            Status.EXPIRED if old or newest.expires_at_us <= clock else Status.PRESENT
        )


@given(histories(), st.randoms(use_true_random=False), times, times)
def test_the_order_of_the_history_is_no_matter(
    history: list[Version], random: Any, upto: int, clock: int
) -> None:
    shuffled = list(history)
    random.shuffle(shuffled)
    assert resolve(iter(shuffled), upto, clock) == resolve(history, upto, clock)


@given(histories(), times)
def test_the_online_store_is_the_history_read_at_now(history: list[Version], now: int) -> None:
    """Keep only what is newest as records come in order of seq: that is all a get needs."""
    latest: Version | None = None
    for accepted in sorted(history, key=lambda v: v.seq):
        if latest is None or (accepted.event_time_us, accepted.seq) > (
            latest.event_time_us, latest.seq,
        ):  # fmt: skip
            latest = accepted
    assert resolve(history, MAX_US, now) == resolve([latest] if latest else [], MAX_US, now)


# ── names and numbers ────────────────────────────────────────────────────────────────────────


def test_a_status_is_its_text() -> None:
    assert [str(status) for status in Status] == ["PRESENT", "EXPIRED", "DELETED", "MISSING"]
    assert Status("EXPIRED") is Status.EXPIRED == "EXPIRED"


def test_flags_and_stores_are_bits_of_the_record_format() -> None:
    assert (record.FLAG_DELETED, record.FLAG_HARD, record.FLAG_FENCE) == (1, 2, 4)
    assert (record.STORE_ONLINE, record.STORE_OFFLINE) == (1, 2)
    assert (record.KEY_BYTES_MAX, record.RECORD_BYTES_MAX) == (2_048, 358_400)


def test_a_version_is_immutable() -> None:
    with pytest.raises(AttributeError):
        version(1).seq = 2
