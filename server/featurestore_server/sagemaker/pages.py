"""Pages of lists: a token says behind which entry to go on.

A token holds the sorting key of the last entry given, not a count, so entries that come or go
between two pages shift nothing: each that was there all along is given once.  It is opaque, and
good only for the same question.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from featurestore.errors import InvalidInput

T = TypeVar("T")
_PAGE = 100


class Page(NamedTuple):
    """Some entries, and the token of what follows; None at the end."""

    entries: list[Any]
    token: str | None


def page(
    entries: Sequence[T],
    key: Callable[[T], list[Any]],
    asked: dict[str, Any],
    *,
    descending: bool = False,
) -> Page:
    """Return the page of a list that a request asks for.

    Parameters
    ----------
    entries : sequence
        All of them, in any order.
    key : callable
        What they are sorted by, as JSON values; different for any two.
    asked : dict
        The request: ``MaxResults`` and ``NextToken``; the rest is the question.

    Examples
    --------
    >>> first = page(["b", "a", "c"], lambda name: [name], {"MaxResults": 2})
    >>> first.entries
    ['a', 'b']
    >>> page(["b", "c", "ab"], lambda name: [name], {"NextToken": first.token}).entries
    ['c']
    """
    ordered = sorted(((key(one), one) for one in entries), key=lambda pair: pair[0])
    if descending:
        ordered.reverse()
    question = _question(asked)
    if token := asked.get("NextToken"):
        last = read_token(token, question)
        if ordered and list(map(type, last)) != list(map(type, ordered[0][0])):
            raise _not_a_token()
        ordered = [p for p in ordered if (p[0] < last if descending else p[0] > last)]
    limit = asked.get("MaxResults", _PAGE)
    given = ordered[:limit]
    more = len(ordered) > limit
    return Page([one for _, one in given], write_token(given[-1][0], question) if more else None)


def _question(asked: dict[str, Any]) -> str:
    """Return what tells one question from another, whatever page of it is asked for."""
    rest = {n: v for n, v in asked.items() if n not in ("NextToken", "MaxResults")}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=6).hexdigest()


def write_token(place: list[Any], question: str) -> str:
    """Return the token of a place in the answer to a question."""
    return base64.urlsafe_b64encode(json.dumps([question, place]).encode()).decode()


def read_token(token: str, question: str) -> list[Any]:
    """Return the place a token names.

    Raises
    ------
    InvalidInput
        It is none, or one of another question.
    """
    try:
        asked, place = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError):
        asked, place = None, None
    if asked != question or not isinstance(place, list):
        raise _not_a_token()
    return place


def _not_a_token() -> InvalidInput:
    return InvalidInput("NextToken is not one that this request was answered with.")
