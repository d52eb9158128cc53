"""What calls give back, where a table or a dict would not say enough.

All of them print well, in a terminal and in a notebook.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from featurestore.record import Status


@dataclass(frozen=True, slots=True)
class PutResult:
    """What became of one record.

    Attributes
    ----------
    seq : int or None
        Its place in the commit order of the store; None while ``queued``.
    outcome : str
        ``"moved"``: it is now the latest of its key.  ``"late"``: an older event; it went into
        history only.  ``"unchanged"``: equal to the current record; nothing was written, and the
        other fields are those of the current one.  ``"offline_only"``: aimed at history alone.
        ``"queued"``: a ``relaxed`` store has accepted it and commits it within 100 ms.
    replayed : bool
        The request id had been used before; this is the result of that time.
    write_time, expires_at : datetime or None
        UTC.

    Examples
    --------
    >>> PutResult(seq=7, outcome="late")
    PutResult(seq=7, outcome='late', replayed=False, write_time=None, expires_at=None)
    """

    seq: int | None
    outcome: str
    replayed: bool = False
    write_time: datetime | None = None
    expires_at: datetime | None = None

    @property
    def moved(self) -> bool:
        """Whether the record is, or was at once, what the online store serves."""
        return self.outcome in ("moved", "unchanged")

    @property
    def late(self) -> bool:
        """Whether the record went into history only, being older than the latest."""
        return self.outcome == "late"


@dataclass(frozen=True, slots=True)
class IngestResult:
    """How many rows became what.

    Attributes
    ----------
    accepted : int
        Rows stored.
    late : int
        Of those, rows older than what the online store held before them.
    expired : int
        Of those, rows whose time to live had passed already.
    rejected : int
        Bad rows left out; 0 unless ``on_error="skip"``.
    replayed : int
        Rows that were in the store already from an earlier run of the same ingest.

    Examples
    --------
    >>> IngestResult(accepted=1000, late=3)
    IngestResult(accepted=1000, late=3, expired=0, rejected=0, replayed=0)
    """

    accepted: int = 0
    late: int = 0
    expired: int = 0
    rejected: int = 0
    replayed: int = 0


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What an erasure has done; the store keeps what ``verify`` needs to check it.

    Attributes
    ----------
    group : str
        The feature group.
    seq : int
        Its place in the order of commits: what was written before it is gone.
    at : datetime
        When.
    key_hash, key_digest : int, str
        By what the key can be recognised, by who has the store and the key.
    online : bool
        Whether there was an online record.
    records : int
        Records taken out of history, journal and files.
    files : int
        Files written again without them.
    requests : int
        Stored results of requests that were blanked.
    waiting : tuple of str
        Old files that some reader has pinned; they are deleted when it is done.  Erase the same
        key again to see whether any are left.
    traces : int
        Places of the engine's file where the bytes of the key can still be found: freed pages, and
        gaps, not used again yet.  A backup has none of them.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> ErasureReceipt("planes", 7, datetime(2024, 1, 1, tzinfo=UTC), 5, "ab", True, 3, 1, 0).clean
    True
    """

    group: str
    seq: int
    at: datetime
    key_hash: int
    key_digest: str
    online: bool
    records: int
    files: int
    requests: int
    waiting: tuple[str, ...] = ()
    traces: int = 0

    @property
    def clean(self) -> bool:
        """Whether no old bytes are left at all."""
        return not self.waiting and not self.traces


@dataclass(frozen=True, slots=True)
class RecordResult:
    """A record with what is known about it.

    Attributes
    ----------
    status : Status
        PRESENT, EXPIRED, DELETED or MISSING.
    record : dict or None
        The features; None unless PRESENT.
    event_time : datetime or None
        Of the newest record of the key, live or not; UTC.
    age : timedelta or None
        Clock less event time.
    write_seq : int or None
        Its place in the commit order.
    expires_at : datetime or None
        When it stops, or stopped, being live.

    Examples
    --------
    >>> from featurestore.record import Status
    >>> RecordResult(Status.MISSING).record is None
    True
    """

    status: Status
    record: Mapping[str, Any] | None = None
    event_time: datetime | None = None
    age: timedelta | None = None
    write_seq: int | None = None
    expires_at: datetime | None = None
