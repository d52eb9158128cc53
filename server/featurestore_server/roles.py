"""Who may do what: roles, the verbs they allow, and whoever asks.

========  ==================================================  ===================================
role      on the groups its pattern matches (``weather*``)    on the store, with the pattern ``*``
========  ==================================================  ===================================
admin     everything                                          everything
writer    describe, put, write, update, delete, ingest
reader    describe, get, scan, join, changes                  acknowledge changes
sql       describe, SQL
auditor   describe                                            stat, verify, scrub, documents,
                                                              the log
========  ==================================================  ===================================

What no role allows is refused.  A feature view is read by who may read all of its groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from featurestore.errors import AccessDenied, InvalidInput, did_you_mean
from featurestore_server.audit import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EVERYTHING = "*"
_MEMO_MAX = 10_000


class Action(StrEnum):
    """What a verb does to a group, or to the store."""

    DESCRIBE = "describe"
    READ = "read"
    WRITE = "write"
    SQL = "sql"
    DEFINE = "define"
    INSPECT = "inspect"
    MAINTAIN = "maintain"


_A = Action
ROLES: dict[str, frozenset[Action]] = {
    "admin": frozenset(Action),
    "writer": frozenset({_A.DESCRIBE, _A.WRITE}),
    "reader": frozenset({_A.DESCRIBE, _A.READ}),
    "sql": frozenset({_A.DESCRIBE, _A.SQL}),
    "auditor": frozenset({_A.DESCRIBE, _A.INSPECT}),
}

#: What each verb needs; a verb that is not here cannot be called.
VERBS: dict[str, Action] = {
    "describe_feature_group": _A.DESCRIBE,
    "list_feature_groups": _A.DESCRIBE,
    "describe_feature_view": _A.DESCRIBE,
    "list_feature_views": _A.DESCRIBE,
    "get_record": _A.READ,
    "batch_get_record": _A.READ,
    "get_features": _A.READ,
    "scan": _A.READ,
    "point_in_time": _A.READ,
    "changes": _A.READ,
    "acknowledge": _A.READ,
    "put_record": _A.WRITE,
    "write": _A.WRITE,
    "update_record": _A.WRITE,
    "delete_record": _A.WRITE,
    "ingest": _A.WRITE,
    "sql": _A.SQL,
    "create_feature_group": _A.DEFINE,
    "update_feature_group": _A.DEFINE,
    "delete_feature_group": _A.DEFINE,
    "create_feature_view": _A.DEFINE,
    "delete_feature_view": _A.DEFINE,
    "erase": _A.DEFINE,
    "snapshot": _A.DESCRIBE,
    "stat": _A.INSPECT,
    "verify": _A.INSPECT,
    "scrub": _A.INSPECT,
    "documents": _A.INSPECT,
    "audit": _A.INSPECT,
    "flush": _A.MAINTAIN,
    "compact": _A.MAINTAIN,
    "create_consumer": _A.MAINTAIN,
    "delete_consumer": _A.MAINTAIN,
    "backup": _A.MAINTAIN,
    "update_document": _A.MAINTAIN,
    "append_document": _A.MAINTAIN,
    "keys": _A.MAINTAIN,
}
#: Actions that change nothing of what a store says; they are counted, all others told one by one.
COUNTED = frozenset({_A.READ, _A.SQL, _A.INSPECT, _A.MAINTAIN})
#: But these, which change what a store holds, are told one by one.
TOLD = frozenset({"create_consumer", "delete_consumer", "update_document", "append_document"})


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes
    ----------
    key_id, name : str
        Of the API key; ``"anonymous"`` while the store has none.
    roles : tuple of (role, group pattern)
    counts : Counts
        Where its reads, and what it was refused, are counted for the log.
    """

    key_id: str
    name: str
    roles: tuple[tuple[str, str], ...]
    counts: Counts = field(default_factory=Counts, compare=False, repr=False)
    _memo: dict[tuple[Action, str], bool] = field(default_factory=dict, compare=False, repr=False)

    def may(self, action: Action, group: str) -> bool:
        """Return whether a role allows an action on a group, or with ``*`` on the store."""
        asked = (action, group)
        allowed = self._memo.get(asked)
        if allowed is None:
            allowed = any(
                action in ROLES[role]
                and (pattern == EVERYTHING if group == EVERYTHING else fnmatchcase(group, pattern))
                for role, pattern in self.roles
            )
            if len(self._memo) >= _MEMO_MAX:
                self._memo.clear()
            self._memo[asked] = allowed
        return allowed

    def may_verb(self, verb: str, group: str) -> bool:
        """Return whether a verb is allowed on a group."""
        return self.may(VERBS[verb], group)

    def require_some(self, verb: str) -> None:
        """Refuse a verb that no role of the caller allows on any group."""
        if not any(VERBS[verb] in ROLES[role] for role, _ in self.roles):
            self._count(verb, EVERYTHING, allowed=False)
            raise AccessDenied(f'The API key "{self.name}" may not {verb} anywhere.')

    def require(self, verb: str, groups: Iterable[str]) -> None:
        """Refuse a verb on groups, or with ``*`` on the store, that no role allows.

        Raises
        ------
        AccessDenied
            Before anything is looked up: whether a group exists is not told.
        """
        action = VERBS[verb]
        for group in groups:
            allowed = self.may(action, group)
            if action in COUNTED or not allowed:
                self._count(verb, group, allowed=allowed)
            if not allowed:
                where = "the whole store" if group == EVERYTHING else f'"{group}"'
                able = [role for role, actions in ROLES.items() if action in actions]
                raise AccessDenied(
                    f'The API key "{self.name}" may not {verb} on {where}; that takes the role '
                    f"{' or '.join(able)}."
                )

    def _count(self, verb: str, group: str, *, allowed: bool) -> None:
        self.counts.add(self.key_id, self.name, verb, group, allowed=allowed)


ANONYMOUS = Caller("", "anonymous", (("admin", EVERYTHING),))


def parse_roles(roles: Sequence[str]) -> list[list[str]]:
    """Return roles with their group patterns.

    Examples
    --------
    >>> parse_roles(["reader:weather*", "sql"])
    [['reader', 'weather*'], ['sql', '*']]
    """
    found = []
    for text in roles:
        role, _, pattern = text.partition(":")
        if role not in ROLES:
            raise InvalidInput(f'"{role}" is no role.{did_you_mean(role, ROLES)}')
        found.append([role, pattern or EVERYTHING])
    if not found:
        raise InvalidInput(f"A key needs a role, one of {', '.join(ROLES)}.")
    return found
