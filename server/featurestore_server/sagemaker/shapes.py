"""Shapes of requests: what a member must be before anything looks at its meaning.

boto3 checks required members, types and minima before it sends; maxima, patterns, enumerations
and everything from other clients is the server's to refuse.  A shape is a small object with a
:meth:`check`; the tables of them are in :mod:`~featurestore_server.sagemaker.model`, and a test
holds those to botocore's own service models, member by member.

A member that is null is a member left out, and one that no shape names is not looked at: so AWS
does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from featurestore.errors import InvalidInput

# Two of AWS's patterns are of Java's dialect: Unicode categories, and surrogates.
_CATEGORIES = r"\p{L}\p{Z}\p{N}"
_PRINTABLE = r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*"
_ANYTHING = {".*", ".+"}


def refusal(path: str, constraint: str, value: Any = None) -> InvalidInput:
    """Return the error of a member that breaks a constraint, in AWS's words."""
    shown = "" if value is None else f" {_shown(value)}"
    return InvalidInput(
        f"1 validation error detected: Value{shown} at '{path}' failed to satisfy constraint: "
        f"{constraint}"
    )


def _shown(value: Any) -> str:
    text = str(value)
    return f"'{text}'" if len(text) <= 100 else f"'{text[:97]}...'"


class Shape:
    """What a member must be."""

    def check(self, value: Any, path: str) -> Any:
        """Return the member, or refuse it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Text(Shape):
    """A string: its length in characters, and the pattern all of it matches."""

    min: int = 0
    max: int | None = None
    pattern: str | None = None

    def check(self, value: Any, path: str) -> Any:
        """Return the text, or refuse it."""
        if not isinstance(value, str):
            raise refusal(path, "Member must be a string")
        if len(value) < self.min:
            raise refusal(path, f"Member must have length greater than or equal to {self.min}")
        if self.max is not None and len(value) > self.max:
            raise refusal(path, f"Member must have length less than or equal to {self.max}")
        if self.pattern is not None and not _matcher(self.pattern)(value):
            constraint = f"Member must satisfy regular expression pattern: {self.pattern}"
            raise refusal(path, constraint, value)
        return value


@cache
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a pattern of AWS's takes a whole text."""
    if pattern in _ANYTHING:
        return lambda _: True
    if pattern == _PRINTABLE:
        return lambda text: all(c == "\t" or c >= " " for c in text)
    if _CATEGORIES in pattern:
        others = frozenset(pattern.split(_CATEGORIES)[1].partition("]")[0].replace("\\", ""))
        return lambda text: all(c in others or unicodedata.category(c)[0] in "LZN" for c in text)
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: compiled.fullmatch(text) is not None


@dataclass(frozen=True)
class Choice(Shape):
    """One of some words."""

    words: tuple[str, ...]

    def check(self, value: Any, path: str) -> Any:
        """Return the word, or refuse it."""
        if value not in self.words or not isinstance(value, str):
            words = ", ".join(self.words)
            raise refusal(path, f"Member must satisfy enum value set: [{words}]", value)
        return value


@dataclass(frozen=True)
class Whole(Shape):
    """A whole number."""

    min: int | None = None
    max: int | None = None

    def check(self, value: Any, path: str) -> Any:
        """Return the number, or refuse it."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise refusal(path, "Member must be an integer")
        if self.min is not None and value < self.min:
            raise refusal(path, f"Member must have value greater than or equal to {self.min}")
        if self.max is not None and value > self.max:
            raise refusal(path, f"Member must have value less than or equal to {self.max}")
        return value


@dataclass(frozen=True)
class Flag(Shape):
    """True or false."""

    def check(self, value: Any, path: str) -> Any:
        """Return the flag, or refuse it."""
        if not isinstance(value, bool):
            raise refusal(path, "Member must be a boolean")
        return value


@dataclass(frozen=True)
class Moment(Shape):
    """A time, as seconds since 1970."""

    def check(self, value: Any, path: str) -> Any:
        """Return the seconds, or refuse them."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise refusal(path, "Member must be a timestamp: seconds since 1970")
        return value


@dataclass(frozen=True)
class Several(Shape):
    """A list of members of one shape."""

    member: Shape
    min: int = 0
    max: int | None = None

    def check(self, value: Any, path: str) -> Any:
        """Return the checked members, or refuse one."""
        if not isinstance(value, list):
            raise refusal(path, "Member must be a list")
        if len(value) < self.min:
            raise refusal(path, f"Member must have length greater than or equal to {self.min}")
        if self.max is not None and len(value) > self.max:
            raise refusal(path, f"Member must have length less than or equal to {self.max}")
        check = self.member.check
        return [check(one, f"{path}.{n}.member") for n, one in enumerate(value, 1)]


@dataclass(frozen=True)
class Members(Shape):
    """An object of named members; a name that ends in ``*`` is required."""

    named: Mapping[str, Shape]
    shapes: dict[str, Shape] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.shapes.update({name.rstrip("*"): shape for name, shape in self.named.items()})
        needed = tuple(name[:-1] for name in self.named if name.endswith("*"))
        object.__setattr__(self, "required", needed)

    def check(self, value: Any, path: str = "") -> dict[str, Any]:
        """Return the members that are there, checked; or refuse one."""
        if not isinstance(value, dict):
            raise refusal(path or "body", "Member must be an object")
        found = {}
        for name, member in value.items():
            shape = self.shapes.get(name)
            if member is not None and shape is not None:
                found[name] = shape.check(member, _joined(path, name))
        for name in self.required:
            if name not in found:
                raise refusal(_joined(path, name), "Member must not be null")
        return found


def _joined(path: str, name: str) -> str:
    low = name[0].lower() + name[1:]
    return f"{path}.{low}" if path else low
