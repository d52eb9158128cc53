"""The part of JSONPath that SageMaker's filters know.

========================  =======================================================================
``$``                     the whole
``.name``  ``['name']``   a member of an object
``['a', 'b']``            some members, as an object of them
``*``  ``[*]``            all members, or elements, as an array
``[0]``  ``[-1]``         an element; from the end
``[0, -1]``               some elements, as an array
``[1:3]``  ``[1:]``       elements from the first number up to, but without, the second, as an array
========================  =======================================================================

A CSV row is an array.  One sentence of AWS's guide calls the end of a slice inclusive; its table,
its examples (``$[1:]``, and ``$[1:4]`` "the second to the fifth column" aside) and JSONPath itself
do not, and neither does this.  An index or a name that is not there is an error; a slice takes what
there is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from featurestore.errors import InvalidInput

#: SageMaker's limit on the length of a filter.
CHARS_MAX = 63

_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
_TOKEN = re.compile(
    rf"""\.(?P<wild>\*)
      | \.(?P<name>{_NAME})
      | \.?\[\s*(?P<every>\*)\s*\]
      | \.?\[\s*(?P<names>'[^']*'(?:\s*,\s*'[^']*')*)\s*\]
      | \.?\[\s*(?P<indexes>-?\d+(?:\s*,\s*-?\d+)*)\s*\]
      | \.?\[\s*(?P<start>-?\d+)?\s*:\s*(?P<end>-?\d+)?\s*\]""",
    re.VERBOSE,
)


class NotThere(Exception):
    """What a filter asks for is not in the record."""


@dataclass(frozen=True)
class Filter:
    """A filter that was read; made by :func:`parse`.

    Examples
    --------
    >>> parse("$[0,-1]").of([7, 8, 9])
    [7, 9]
    >>> parse("$.features[1:]").of({"features": [1, 2, 3]})
    [2, 3]
    """

    text: str
    steps: tuple[tuple[str, Any], ...]

    @property
    def is_whole(self) -> bool:
        """Whether it leaves everything as it is."""
        return not self.steps

    def of(self, value: Any) -> Any:
        """Return the part of a value that the filter selects.

        Raises
        ------
        NotThere
        """
        for kind, what in self.steps:
            value = _taken(value, kind, what)
        return value


def parse(text: str) -> Filter:
    """Read a filter.

    Raises
    ------
    InvalidInput
        With the place that cannot be read.
    """
    if len(text) > CHARS_MAX:
        raise InvalidInput(
            f"A filter has at most {CHARS_MAX} characters; {text!r} has {len(text)}."
        )
    if not text.startswith("$"):
        raise InvalidInput(f"A filter begins with $; {text!r} does not.")
    steps: list[tuple[str, Any]] = []
    at = 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise InvalidInput(
                f"The filter {text!r} cannot be read from {text[at:]!r} on. It may hold .name, "
                "['a','b'], [0,-1], [1:3] and *."
            )
        steps.append(_step(found))
        at = found.end()
    return Filter(text, tuple(steps))


def _step(found: re.Match[str]) -> tuple[str, Any]:
    groups = found.groupdict()
    if groups["wild"] or groups["every"]:
        return "every", None
    if groups["name"] is not None:
        return "name", groups["name"]
    if groups["names"] is not None:
        names = re.findall(r"'([^']*)'", groups["names"])
        return ("name", names[0]) if len(names) == 1 else ("names", names)
    if groups["indexes"] is not None:
        indexes = [int(number) for number in groups["indexes"].split(",")]
        return ("index", indexes[0]) if len(indexes) == 1 else ("indexes", indexes)
    bounds = (groups["start"], groups["end"])
    return "slice", slice(*(None if bound is None else int(bound) for bound in bounds))


def _taken(value: Any, kind: str, what: Any) -> Any:
    if kind == "every":
        if isinstance(value, dict):
            return list(value.values())
        return list(_array(value, "*"))
    if kind == "name":
        return _member(value, what)
    if kind == "names":
        return {name: _member(value, name) for name in what}
    elements = _array(value, what)
    if kind == "slice":
        return elements[what]
    try:
        return elements[what] if kind == "index" else [elements[index] for index in what]
    except IndexError:
        raise NotThere(f"there are {len(elements)} elements, and {what} is asked for") from None


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise NotThere(f"there is no {name!r}")
    return value[name]


def _array(value: Any, what: Any) -> list[Any]:
    if not isinstance(value, list):
        raise NotThere(f"{what} is asked of what is no array")
    return value
