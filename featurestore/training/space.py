"""Spaces of hyperparameters: what tuning may try.

==============================  =========================  ====================================
written                         SageMaker                  tries
==============================  =========================  ====================================
``Float(0, 1)``                 Continuous, Linear         any number between
``Float(1e-4, 0.3, "log")``     Continuous, Logarithmic    any order of magnitude alike
``Float(0.9, 0.999,``           Continuous,                any order of magnitude of ``1 - x``
``"reverse_log")``              ReverseLogarithmic         alike
``Int(3, 10)``, ``Int(...,``    Integer                    whole numbers, both ends included
``"log")``
``Choice("gbtree", "dart")``    Categorical                one of them
==============================  =========================  ====================================

A parameter is drawn in a scale of its own, in which equal steps are equally likely; what was drawn
is kept beside the value it stands for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

#: SageMaker's limits.
TUNED_MAX, CHOICES_MAX = 30, 30

Scalar = int | float | str | bool


@dataclass(frozen=True)
class Float:
    """A number between two others, on a linear, logarithmic, or reversed logarithmic scale."""

    low: float
    high: float
    scale: str = "linear"

    def __post_init__(self) -> None:
        """Refuse an empty range, and a logarithm of nothing."""
        _check_scale(self, ("linear", "log", "reverse_log"))
        if self.scale == "reverse_log" and not 0 <= self.low < self.high < 1:
            raise InvalidInput(f"{self} has to lie in 0 <= x < 1 for the scale reverse_log.")

    def value(self, drawn: float) -> float:
        """Return the value that what was drawn stands for."""
        return 1.0 - drawn if self.scale == "reverse_log" else drawn


@dataclass(frozen=True)
class Int:
    """A whole number between two others, both included, on a linear or logarithmic scale."""

    low: int
    high: int
    scale: str = "linear"

    def __post_init__(self) -> None:
        """Refuse an empty range, and a logarithm of nothing."""
        _check_scale(self, ("linear", "log"))

    def value(self, drawn: int) -> int:
        """Return the value that what was drawn stands for."""
        return int(drawn)


@dataclass(frozen=True, init=False)
class Choice:
    """One of some values, in no order."""

    values: tuple[Scalar, ...]

    def __init__(self, *values: Scalar) -> None:
        if not 1 <= len(values) <= CHOICES_MAX or len(set(values)) < len(values):
            raise InvalidInput(
                f"A Choice has 1 to {CHOICES_MAX} different values; got {len(values)}."
            )
        object.__setattr__(self, "values", values)

    def value(self, drawn: Scalar) -> Scalar:
        """Return the value that what was drawn stands for."""
        return drawn


Parameter = Float | Int | Choice
Space = dict[str, Parameter]


def check(space: Mapping[str, Parameter]) -> Space:
    """Return a space, or say why it is none."""
    if not 1 <= len(space) <= TUNED_MAX:
        raise InvalidInput(f"1 to {TUNED_MAX} parameters can be tuned; got {len(space)}.")
    for name, parameter in space.items():
        if not isinstance(parameter, Parameter):
            raise InvalidInput(
                f"The parameter {name!r} is {parameter!r}; give a Float, an Int or a Choice."
            )
    return dict(space)


def values(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that what was drawn stands for."""
    return {name: parameter.value(drawn[name]) for name, parameter in space.items()}


def grid(space: Space) -> list[dict[str, Any]]:
    """Return every combination, the last parameter changing fastest.

    Raises
    ------
    InvalidInput
        For a parameter with more values than can be gone through.

    Examples
    --------
    >>> grid({"depth": Int(1, 2), "kind": Choice("a", "b")})[1:3]
    [{'depth': 1, 'kind': 'b'}, {'depth': 2, 'kind': 'a'}]
    """
    columns = [_every(name, parameter) for name, parameter in space.items()]
    return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*columns)]


def as_json(space: Space) -> dict[str, list[Any]]:
    """Return a space as JSON values: what two requests are compared by."""
    return {
        name: (
            ["Choice", *p.values]
            if isinstance(p, Choice)
            else [type(p).__name__, p.low, p.high, p.scale]
        )
        for name, p in space.items()
    }


def _every(name: str, parameter: Parameter) -> list[Any]:
    if isinstance(parameter, Choice):
        return list(parameter.values)
    if isinstance(parameter, Int) and parameter.scale == "linear":
        return list(range(parameter.low, parameter.high + 1))
    raise InvalidInput(
        f'A grid goes through all values; "{name}" is {parameter}. Give a Choice of some.'
    )


def _check_scale(parameter: Float | Int, scales: tuple[str, ...]) -> None:
    if parameter.scale not in scales:
        raise InvalidInput(f"The scale of {parameter} is one of {', '.join(scales)}.")
    if not parameter.low < parameter.high:
        raise InvalidInput(f"{parameter} is empty: low has to be below high.")
    if parameter.scale == "log" and parameter.low <= 0:
        raise InvalidInput(f"{parameter} has to lie above 0 for the scale log.")
