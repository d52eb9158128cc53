"""Is a recorded history of one key linearizable?  A Wing–Gong search, with Lowe's memory.

An operation takes effect at one instant between its call and its return; the instants put the
operations into an order; and in that order each must have been answered as by one process alone.
What it is held to is the register of the one law::

    state       the newest (event time, value) of the key, or None
    put, delete an older event time is late and moves nothing, any other takes its place
    get         answers the state

An operation of which no return was heard may have taken effect at any time after its call, or
never (which is as if at the end of everything).

The search walks the calls in the order of time and tries each as the next to take effect; at a
return that has not taken effect yet it takes the last choice back.  What was tried already, as the
set of operations that took effect and the state they led to, is not tried again (Lowe, *Testing for
linearizability*, 2017; porcupine does the same).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

State = tuple[int, int] | None
DELETED = -1
"""The value of a tombstone."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on one key.

    Attributes
    ----------
    called, returned : float
        When, by one clock for all processes; no return was heard: infinity.
    event_time, value : int
        Of a put or delete.
    answer : str, State or None
        ``"moved"`` or ``"late"`` to a put, None if unknown; the state to a get.
    is_get : bool
        Whether it is one.
    """

    called: float
    returned: float
    event_time: int = 0
    value: int = 0
    answer: str | State = None
    is_get: bool = False

    def applied_to(self, state: State) -> tuple[bool, State]:
        """Return whether it can take effect in a state as it was answered, and the next state."""
        if self.is_get:
            return self.answer == state, state
        late = state is not None and self.event_time < state[0]
        if self.answer not in {None, "late" if late else "moved"}:
            return False, state
        return True, state if late else (self.event_time, self.value)


class _Event:
    """A call or a return in the list of events that have not been dealt with."""

    __slots__ = ("after", "before", "number", "op", "returns")

    def __init__(self, number: int, op: Op | None, returns: _Event | None) -> None:
        self.number = number
        self.op = op  # of a call
        self.returns = returns
        self.before: _Event | None = None
        self.after: _Event | None = None

    def lift(self) -> None:
        """Take a call and its return out of the list."""
        for event in (self, self.returns):
            assert event is not None
            assert event.before is not None
            event.before.after = event.after
            if event.after is not None:
                event.after.before = event.before

    def put_back(self) -> None:
        """Undo `lift`, of the last one that was lifted."""
        for event in (self.returns, self):
            assert event is not None
            assert event.before is not None
            event.before.after = event
            if event.after is not None:
                event.after.before = event


def _listed(history: Sequence[Op]) -> _Event:
    """Return the head of the list of events, by time; of one time calls come first."""
    events: list[tuple[float, int, int, _Event]] = []
    for number, op in enumerate(history):
        returns = _Event(number, None, None)
        events.append((op.called, 0, number, _Event(number, op, returns)))
        events.append((op.returned, 1, number, returns))
    head = last = _Event(-1, None, None)
    for *_, event in sorted(events, key=lambda each: each[:3]):
        last.after, event.before = event, last
        last = event
    return head


def is_linearizable(history: Sequence[Op], state: State = None) -> bool:
    """Return whether the operations on one key can have happened one after the other.

    Examples
    --------
    >>> put = Op(0, 1, event_time=5, value=7, answer="moved")
    >>> is_linearizable([put, Op(2, 3, is_get=True, answer=(5, 7))])
    True
    >>> is_linearizable([put, Op(2, 3, is_get=True)])  # nothing there, after it was acknowledged
    False
    >>> is_linearizable([put, Op(0.5, 3, is_get=True)])  # at the same time: either answer
    True
    """
    head = _listed(history)
    took_effect = 0
    tried: set[tuple[int, State]] = set()
    choices: list[tuple[_Event, State]] = []
    at = head.after
    while head.after is not None:
        assert at is not None
        if at.op is not None:
            fits, then = at.op.applied_to(state)
            now = took_effect | 1 << at.number
            if fits and (now, then) not in tried:
                tried.add((now, then))
                choices.append((at, state))
                state, took_effect = then, now
                at.lift()
                at = head.after
            else:
                at = at.after
        else:
            if not choices:
                return False
            at, state = choices.pop()
            took_effect &= ~(1 << at.number)
            at.put_back()
            at = at.after
    return True


def shortest_bad(history: Sequence[Op]) -> list[Op]:
    """Return the operations up to the first return that cannot be explained, to show them."""
    returns = sorted({op.returned for op in history if op.returned < math.inf})
    low, high = 0, len(returns) - 1
    while low < high:
        middle = (low + high) // 2
        if is_linearizable(_until(history, returns[middle])):
            low = middle + 1
        else:
            high = middle
    return sorted(_until(history, returns[low]), key=lambda op: op.called)


def _until(history: Iterable[Op], moment: float) -> list[Op]:
    """Return what had begun by a moment; what had not returned has not been heard of yet."""
    known = []
    for op in history:
        if op.returned <= moment:
            known.append(op)
        elif op.called <= moment and not op.is_get:
            known.append(Op(op.called, math.inf, op.event_time, op.value))
    return known
