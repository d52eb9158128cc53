"""The short form of the join's proof, and proof that it would notice.

``python -m tests.join_campaign --cases 100000`` is the long form.  Here are a few thousand cases of
every kind; and laws that are wrong in one clause each, which must not pass for the store's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from tests import join_campaign, join_questions, join_world, model
from tests.join_questions import KINDS, DifferenceError, Label, Lookup, Question
from tests.join_world import Load
from tests.model import MINUTE, Put, Version
from tests.small_world import START

CASES = 6_000
SEED = 2013
Law = Callable[..., tuple[str, Version | None]]


def test_thousands_of_cases_of_every_kind_are_answered_as_resolve_says() -> None:
    counts = join_campaign.run(CASES, SEED)
    assert counts["case"] >= CASES
    assert counts["store whose keys have four hashes"] > 0
    assert [kind for kind in sorted(KINDS) if not counts[kind]] == []


# ── laws that are wrong in one clause ────────────────────────────────────────────────────────


def boundary(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Know what happened before the label, not at it."""
    return model.resolve(versions, upto_us - 1, clock_us, **how)


def tie(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Take the first of a tie."""
    known = sorted(versions, key=lambda v: v.seq, reverse=True)
    first = {v.event_time_us: v for v in known}
    return model.resolve(first.values(), upto_us, clock_us, **how)


def arrival(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Take what arrived last."""
    known = [v for v in versions if model.resolve([v], upto_us, clock_us, **how)[1] is not None]
    return model.resolve(sorted(known, key=lambda v: v.seq)[-1:], upto_us, clock_us, **how)


def ttl(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Let records live for a microsecond too long."""
    return model.resolve(versions, upto_us, clock_us - 1, **how)


def clock(versions: Iterable[Version], upto_us: int, _clock_us: int, **how: Any) -> Any:
    """Judge expiry by another clock than the label."""
    return model.resolve(versions, upto_us, -math.inf, **how)


def max_age(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Let records get a microsecond too old."""
    return model.resolve(versions, upto_us, clock_us, **how | {"max_age_us": how["max_age_us"] + 1})


def delay(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Know a record as soon as it happens."""
    return model.resolve(versions, upto_us, clock_us, **how | {"delay_us": 0})


def snapshot(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """See a commit after the snapshot."""
    return model.resolve(versions, upto_us, clock_us, **how | {"seq_max": how["seq_max"] + 1})


def write_time(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Know what has not arrived."""
    return model.resolve(versions, upto_us, clock_us, **how | {"by_write_time": False})


def arrived_at(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Know what arrived before the label, not what arrived at it."""
    late = [replace(v, write_time_us=v.write_time_us + 1) for v in versions]
    return model.resolve(late, upto_us, clock_us, **how)


def tombstone(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Overlook deletes."""
    return model.resolve([v for v in versions if not v.is_deleted], upto_us, clock_us, **how)


def fallback(versions: Iterable[Version], upto_us: int, clock_us: int, **how: Any) -> Any:
    """Give the newest record that lives when the newest does not."""
    versions = list(versions)
    found = model.resolve(versions, upto_us, clock_us, **how)
    while found[0] == "EXPIRED":
        versions.remove(found[1])  # type: ignore[arg-type]
        found = model.resolve(versions, upto_us, clock_us, **how)
    return found


FAULTS = [boundary, tie, arrival, ttl, clock, max_age, delay, snapshot, write_time, arrived_at]
FAULTS += [tombstone, fallback]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_law_that_is_wrong_in_one_clause_is_noticed(
    fault: Law, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join_questions, "resolve", fault)
    with pytest.raises(DifferenceError):
        join_campaign.run(10 * CASES, SEED, cut=False)


def test_a_difference_is_cut_down_to_what_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_questions, "resolve", boundary)
    put = Put("one", (7,), START + MINUTE, {"x": 1.0})
    others = [replace(put, event_time_us=START + n * MINUTE) for n in range(5, 15)]
    label = Label(START + MINUTE, ((7,),))
    question = Question((Lookup("one", 0, math.inf),), (label,), by_write_time=False)
    story: list[Any] = [join_world.Tick(MINUTE), Load((*others, put), way="file"), others[0]]
    life = join_campaign.Life("today", 64, False, story, [question])
    short = join_campaign.shortest(life)
    assert short.story == [None, Load((put,), way="file"), None]
    assert "MISSING" in str(join_campaign.difference_of(short))
    monkeypatch.undo()
    assert join_campaign.difference_of(life) is None
    assert join_campaign.shortest(life) == life
