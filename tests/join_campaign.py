"""The long form of the join's proof: random labels by the hundred thousand, against ``resolve``.

::

    python -m tests.join_campaign --cases 100000 --seed 7

Stores of ``join_world.py`` are made one after the other, each with a seed of its own counted up
from ``--seed``, and each is asked some joins of many labels.  A case is one label in one lookup.
One store in ten hashes its keys to four values, one in three matches small files one by one; stores
live in turn today, in the year 1, around 1970 and at the end of 9999.  At the end the cases are
counted by what they are about, and a kind that has not occurred is a failure like a wrong answer.

A wrong answer is cut down to the steps without which it would be right, and printed with the label.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from tests.join_questions import KINDS, DifferenceError, Question, ask, draw_question
from tests.join_world import ERAS, Load, Step, World, draw_story, world

JOINS = 16
LABELS = 32


@dataclass(frozen=True)
class Life:
    """What was told to one store, and what was asked."""

    era: str
    key_hash_bits: int
    apart: bool
    story: list[Step]
    questions: list[Question]

    def world(self) -> AbstractContextManager[World]:
        """Make the store."""
        return world(self.era, key_hash_bits=self.key_hash_bits, apart=self.apart)


def live(number: int, seed: int, *, cut: bool = True) -> Counter[str]:
    """Make a store, tell it a story and ask it; returns how many cases there were of each kind.

    Raises
    ------
    DifferenceError
        With the shortest life that shows it, if it is to be cut down.
    """
    chance = random.Random(f"{seed}/{number}")
    era, bits = list(ERAS)[number % len(ERAS)], 2 if number % 10 == 3 else 64
    life = Life(era, bits, number % 3 == 1, [], [])
    life.story.extend(draw_story(chance, life.era))
    counts: Counter[str] = Counter()
    with life.world() as now:
        for step in life.story:
            now.tell(step)
        now.require_places()
        for place in range(JOINS):
            labels = 0 if place == 0 and number % 3 == 0 else LABELS
            question = draw_question(chance, now, labels)
            try:
                counts += ask(now, question)
            except DifferenceError as difference:
                if not cut:
                    raise
                short = shortest(replace(life, questions=[_only(question, difference)]))
                words = f"store {number} of seed {seed}, all of it:\n{difference}\n"
                words += f"cut down:\n{shown_life(short)}\n{difference_of(short)}"
                raise DifferenceError(difference.row, difference.lookup, words) from None
    counts["store whose keys have four hashes"] += life.key_hash_bits == 2
    return counts


def _only(question: Question, difference: DifferenceError) -> Question:
    """Return the question of one label and one lookup."""
    label, at = question.labels[difference.row], difference.lookup
    one = replace(label, keys=label.keys[at : at + 1])
    return replace(question, lookups=question.lookups[at : at + 1], labels=(one,))


# ── the shortest life that shows a difference ────────────────────────────────────────────────


def shortest(life: Life) -> Life:
    """Return a life with as few steps and rows as still make the store answer wrongly.

    A life that is answered rightly, because it takes all labels of its question, stays as it is.
    """
    if difference_of(life) is None:
        return life
    size = len(life.story)
    while size:
        for start in range(0, len(life.story), size):
            story = list(life.story)
            story[start : start + size] = [None] * len(story[start : start + size])
            life = _if_it_differs(life, story)
        size //= 2
    for number, step in enumerate(life.story):
        for row in reversed(range(len(step.puts) if isinstance(step, Load) else 0)):
            now = life.story[number]
            if isinstance(now, Load) and len(now.puts) > 1:
                story = list(life.story)
                story[number] = _without(now, row)
                life = _if_it_differs(life, story)
    return life


def _if_it_differs(life: Life, story: list[Step]) -> Life:
    shorter = replace(life, story=story)
    return life if difference_of(shorter) is None else shorter


def _without(load: Load, row: int) -> Load:
    arrived = load.arrived and load.arrived[:row] + load.arrived[row + 1 :]
    return replace(load, puts=load.puts[:row] + load.puts[row + 1 :], arrived=arrived)


def difference_of(life: Life) -> DifferenceError | None:
    """Live again, and return where the answer is wrong."""
    with life.world() as now:
        for step in life.story:
            now.tell(step)
        try:
            for question in life.questions:
                ask(now, question)
        except DifferenceError as difference:
            return difference
    return None


def shown_life(life: Life) -> str:
    """Return a life as lines; unlike what is told, a table is one line for each row."""
    lines = [f"{life.era}, key hash of {life.key_hash_bits} bits, {life.apart=}"]
    for step in life.story:
        if isinstance(step, Load):
            lines += [f"  load of {len(step.puts)}, by {step.way}, arrived={step.arrived}"]
            lines += [f"    {put}" for put in step.puts]
        elif step is not None:
            lines += [f"  {step}"]
    return "\n".join([*lines, *(f"  {question}" for question in life.questions)])


# ── the command ──────────────────────────────────────────────────────────────────────────────


def run(cases: int, seed: int, *, cut: bool = True, show: bool = False) -> Counter[str]:
    """Live until there are so many cases; returns how many of each kind."""
    counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    number = 0
    while counts["case"] < cases:
        counts.update(live(number, seed, cut=cut))
        number += 1
        if show:
            print(f"\r{number} stores, {counts['case']:,} cases", end="", file=sys.stderr)  # noqa: T201
    counts["store"] = number
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; the exit code is 0 when every answer was right and every kind occurred."""
    parser = argparse.ArgumentParser(prog="python -m tests.join_campaign", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cases", type=int, default=100_000, help="labels x lookups")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        counts = run(options.cases, options.seed, show=sys.stderr.isatty())
    except DifferenceError as difference:
        print(f"\nDIFFERENT {difference}")  # noqa: T201
        return 1
    for kind, count in sorted(counts.items()):
        print(f"{count:>10,}  {kind}")  # noqa: T201
    missing = sorted(kind for kind in KINDS if not counts[kind])
    print(  # noqa: T201
        f"join campaign: {counts['case']:,} cases in {counts['store']} stores, seed "
        f"{options.seed}, {time.monotonic() - started:.0f} s: "
        + (f"FAILED, no case of: {', '.join(missing)}" if missing else "all as resolve says")
    )
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
