"""Every error a user can meet, grouped by what to do next.

::

    FeatureStoreError
    ├── InvalidInput              change the request
    │   ├── UnknownFeatureGroup       ├── UnknownFeature         ├── UnknownFeatureView
    │   ├── FeatureGroupExists        ├── FeatureViewExists      ├── InvalidName
    │   ├── InvalidRecord             ├── InvalidEventTime       ├── InvalidSchema
    │   ├── SchemaMismatch            ├── ColumnClash            ├── InvalidQuery
    │   ├── StaleDelete               ├── RequestMismatch        ├── UnknownConsumer
    │   ├── ConsumerExists            ├── ConsumerDropped        ├── RecordNotFound
    │   ├── StaleUpdate               ├── TooLarge               ├── UnknownModel
    │   ├── UnknownJob                ├── UnknownTrainingSet     ├── LeakFound
    │   └── RecordErased
    ├── Unavailable               try again
    │   ├── StoreBusy                 ├── OutcomeUnknown         └── Unreachable
    ├── AccessDenied              use another API key, or ask for a role
    ├── StoreFull                 give it room
    ├── CannotOpen                open something else, or open it differently
    │   ├── NotAStore                 ├── ReadOnlyStore          ├── IncompatibleStore
    │   └── StoreClosed
    ├── CorruptStore              stop; run ``featurestore verify``
    └── NotInstalled              pip install the extra it names

The message is one or two sentences: what was wrong, by name, with expected and actual; then
what to do.  A request refused with any of these has changed nothing, with two exceptions which
say so themselves: :class:`OutcomeUnknown`, and an ``ingest`` of a stream, whose error carries
what was already accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class FeatureStoreError(Exception):
    """Base of every error the feature store raises on purpose."""


# ── change the request ───────────────────────────────────────────────────────────────────────


class InvalidInput(FeatureStoreError, ValueError):
    """The request is wrong; sending it again unchanged fails again."""


class UnknownFeatureGroup(InvalidInput):
    """No feature group of that name."""


class UnknownFeature(InvalidInput):
    """The feature group has no feature of that name."""


class UnknownFeatureView(InvalidInput):
    """No feature view of that name."""


class FeatureGroupExists(InvalidInput):
    """A feature group of that name exists (or one that differs only in case)."""


class FeatureViewExists(InvalidInput):
    """A feature view of that name exists and selects something else."""


class InvalidName(InvalidInput):
    """A malformed or reserved name of a group, feature or view."""


class InvalidRecord(InvalidInput):
    """A record, a key or a row of a table that does not fit its group.

    Attributes
    ----------
    rows : list of (int, str)
        For a table: row numbers of the input with the reason, at most the first 100.
    accepted : int
        For a stream: rows of earlier chunks that are in the store already.
    """

    def __init__(
        self, message: str, *, rows: Sequence[tuple[int, str]] = (), accepted: int = 0
    ) -> None:
        super().__init__(message)
        self.rows = list(rows)
        self.accepted = accepted


class InvalidEventTime(InvalidRecord):
    """A time without zone or unit, out of range, NaT, or too far in the future."""


class InvalidSchema(InvalidInput):
    """A feature group definition that cannot be."""


class SchemaMismatch(InvalidInput):
    """The schema given differs from the one stored."""


class ColumnClash(InvalidInput):
    """Two columns of a result would have one name; ``prefix=`` or ``rename=`` cures it."""


class InvalidQuery(InvalidInput):
    """SQL that does not parse, does not bind, or is not a SELECT."""


class StaleDelete(InvalidInput):
    """A hard delete older than the record it would remove; nothing was deleted."""


class RecordNotFound(InvalidInput):
    """An update of a key that has no live record; put a whole one."""


class StaleUpdate(InvalidInput):
    """An update older than the record it would change; nothing was changed."""


class RequestMismatch(InvalidInput):
    """A request id was used before with different content."""


class UnknownConsumer(InvalidInput):
    """No consumer of that name."""


class ConsumerExists(InvalidInput):
    """A consumer of that name exists."""


class ConsumerDropped(InvalidInput):
    """The consumer fell further behind than its limit; what it missed is not held any more."""


class UnknownJob(InvalidInput):
    """No job, run or tuning of that name."""


class UnknownModel(InvalidInput):
    """No model, or no version of it, of that name."""


class RecordErased(InvalidInput):
    """The request wrote a record that has been erased since; it is not written again."""


class TooLarge(InvalidInput):
    """A request, or its answer, is larger than the server takes; send it in parts."""


class UnknownTrainingSet(InvalidInput):
    """No training set of that name, or no such version of it."""


class LeakFound(InvalidInput):
    """Features of a training set would know what nobody knows when the question is asked."""


# ── try again ────────────────────────────────────────────────────────────────────────────────


class Unavailable(FeatureStoreError):
    """Not now; the same request may succeed later."""


class StoreBusy(Unavailable):
    """The write queue is full, or another process holds what was asked for."""


class OutcomeUnknown(Unavailable):
    """An I/O error while committing: the write may or may not be there after a reopen.

    Send it again with the same request id: it counts once.
    """


class Unreachable(Unavailable):
    """No server answered, or it stopped answering; nothing was changed unless it says so."""


# ── ask for a role ───────────────────────────────────────────────────────────────────────────


class AccessDenied(FeatureStoreError):
    """No API key, one that is not valid any more, or one without the role that this needs."""


# ── give it room ─────────────────────────────────────────────────────────────────────────────


class StoreFull(FeatureStoreError):
    """The disk or the store's quota is full; reads go on, writes resume when there is room."""


# ── open something else ──────────────────────────────────────────────────────────────────────


class CannotOpen(FeatureStoreError):
    """The directory cannot be used as asked."""


class NotAStore(CannotOpen):
    """The path is not a feature store and not an empty directory."""


class ReadOnlyStore(CannotOpen):
    """A write to a store opened, or mounted, read-only."""


class IncompatibleStore(CannotOpen):
    """The store was written by a newer version, or by another engine format."""


class StoreClosed(CannotOpen):
    """Use after ``close()``, or in a process forked from the one that opened it."""


# ── stop ─────────────────────────────────────────────────────────────────────────────────────


class CorruptStore(FeatureStoreError):
    """Bytes on disk are not what was written; the message names the file and the place."""


class NotInstalled(FeatureStoreError, ImportError):
    """An optional package is missing; the message names the extra."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an optional package: pip install 'featurestore[{extra}]'"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``' Did you mean "x"?'`` for the closest known name, or the list, or ``''``.

    Examples
    --------
    >>> did_you_mean("wether", ["weather", "planes"])
    ' Did you mean "weather"?'
    >>> did_you_mean("zzz", ["weather", "planes"])
    ' There are: "planes", "weather".'
    """
    import difflib  # only errors need it

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f' Did you mean "{close[0]}"?'
    if not names:
        return ""
    shown = ", ".join(f'"{n}"' for n in names[:10])
    return f" There are: {shown}{', …' if len(names) > 10 else '.'}"
