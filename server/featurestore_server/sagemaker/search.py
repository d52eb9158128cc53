"""Search: what a SearchExpression finds among descriptions.

A filter names a property by its dotted path in the description of a resource
(``OnlineStoreConfig.TtlDuration.Value``); where the path passes a list, any element will do.
``Tags.<key>`` and ``Parameters.<key>`` are the value under that key, ``AllParameters`` is every
key and value there is.  Numbers compare as numbers, times as times (written
``YYYY-mm-ddTHH:MM:SS``, in UTC), all else as text.

Where AWS is silent, decided here: ``Equals`` minds the case of letters, ``Contains`` does not;
``NotEquals`` is the opposite of ``Equals``, so it finds what has no such property; nested filters
ask for one element of the list that passes all of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from featurestore.errors import InvalidInput

CLAUSES_MAX = 50
_TIMES = frozenset({"CreationTime", "LastModifiedTime"})
_PAIRED = frozenset({"Tags", "Parameters"})

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Equals": operator.eq,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}

Test = Callable[[Mapping[str, Any]], bool]


def compiled(expression: Mapping[str, Any] | None) -> Test:
    """Return what tells whether a description passes an expression; none lets all pass.

    Examples
    --------
    >>> ops = compiled({"Filters": [{"Name": "Tags.owner", "Operator": "Equals", "Value": "ops"}]})
    >>> ops({"Tags": [{"Key": "owner", "Value": "ops"}]}), ops({"Tags": []})
    (True, False)
    """
    if expression is None:
        return lambda _: True
    if _clauses(expression) > CLAUSES_MAX:
        raise InvalidInput(f"A SearchExpression has at most {CLAUSES_MAX} filters in all.")
    return _expression(expression)


def _clauses(expression: Mapping[str, Any]) -> int:
    nested = sum(len(one["Filters"]) for one in expression.get("NestedFilters", ()))
    inner = sum(map(_clauses, expression.get("SubExpressions", ())))
    return len(expression.get("Filters", ())) + nested + inner


def _expression(expression: Mapping[str, Any]) -> Test:
    tests = [_filter(one) for one in expression.get("Filters", ())]
    tests += [_nested(one) for one in expression.get("NestedFilters", ())]
    tests += [_expression(one) for one in expression.get("SubExpressions", ())]
    if not tests:
        raise InvalidInput("A SearchExpression has Filters, NestedFilters or SubExpressions.")
    every = any if expression.get("Operator") == "Or" else all
    return lambda found: every(test(found) for test in tests)


def _nested(asked: Mapping[str, Any]) -> Test:
    name = asked["NestedPropertyName"]
    tests = [
        _filter({**one, "Name": one["Name"].removeprefix(f"{name}.")}) for one in asked["Filters"]
    ]

    def test(found: Mapping[str, Any]) -> bool:
        elements = [one for one in values_at(found, name) if isinstance(one, Mapping)]
        return any(all(one(element) for one in tests) for element in elements)

    return test


def _filter(asked: Mapping[str, Any]) -> Test:
    name, how = asked["Name"], asked.get("Operator", "Equals")
    value = asked.get("Value")
    if how in ("Exists", "NotExists"):
        if value is not None:
            raise InvalidInput(f"The Operator {how} takes no Value.")
        return lambda found: any(True for _ in values_at(found, name)) == (how == "Exists")
    if value is None:
        raise InvalidInput(f"The Operator {how} needs a Value.")
    if how == "NotEquals":
        return lambda found: not any(_compare(v, "Equals", value) for v in leaves(found, name))
    return lambda found: any(_compare(v, how, value) for v in leaves(found, name))


def leaves(found: Mapping[str, Any], name: str) -> Iterator[Any]:
    """Yield the values under a name that can be compared."""
    for value in values_at(found, name):
        if not isinstance(value, Mapping):
            is_time = name.rpartition(".")[2] in _TIMES
            yield datetime.fromtimestamp(value, UTC) if is_time else value


def values_at(found: Any, path: str) -> Iterator[Any]:
    """Yield the values at a dotted path.

    Examples
    --------
    >>> list(values_at({"a": [{"b": 1}, {"b": 2}]}, "a.b"))
    [1, 2]
    """
    if isinstance(found, list):
        for one in found:
            yield from values_at(one, path)
    elif not path:
        yield found
    elif isinstance(found, Mapping):
        name, _, rest = path.partition(".")
        if name == "AllParameters" and not rest:
            yield from (word for pair in found.get("Parameters", ()) for word in pair.values())
        elif name in _PAIRED and rest:
            yield from (pair["Value"] for pair in found.get(name, ()) if pair["Key"] == rest)
        elif name in found:
            yield from values_at(found[name], rest)


def _compare(value: Any, how: str, wanted: str) -> bool:
    if how == "In":
        return any(_compare(value, "Equals", one.strip()) for one in wanted.split(","))
    if how == "Contains":
        return wanted.casefold() in _text(value).casefold()
    left, right = _comparable(value, wanted)
    return bool(_OPERATORS[how](left, right))


def _comparable(value: Any, wanted: str) -> tuple[Any, Any]:
    try:
        if isinstance(value, datetime):
            moment = datetime.fromisoformat(wanted)
            return value, moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value), float(wanted)
    except ValueError:
        kind = "a time as YYYY-mm-ddTHH:MM:SS" if isinstance(value, datetime) else "a number"
        raise InvalidInput(f"The Value {wanted!r} is compared with {kind}, and is none.") from None
    return _text(value), wanted


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.strftime("%Y-%m-%dT%H:%M:%S") if isinstance(value, datetime) else str(value)
