"""The one law: what a record's history says at a moment, by a clock.

::

    resolve(history of a key, upto, clock)
        the newest record with event_time <= upto, seen by a clock that decides expiry

    get_record            resolve(history, +inf,  now)
    point-in-time join    resolve(history, label, label)      for every label

Every path of the engine (latest records, files, journal tail, SQL views, the join's kernel)
answers as :func:`resolve` would, and the tests hold them to it.  So it is written to be read and
believed, not to be fast; nothing but tests and ``verify`` calls it.

Four answers::

      newest known record              status     what the caller gets
      ──────────────────────────────   ────────   ────────────────────────────────
      a record, live by the clock      PRESENT    its values
      a record past its TTL            EXPIRED    nulls; never an older record
      a record older than max_age      EXPIRED    nulls; never an older record
      a tombstone                      DELETED    nulls; the history before it stands
      none                             MISSING    nulls

*Newer* means greater ``(event_time, seq)``: of two records with one event time, the later
accepted.  *Known* means that the record could be seen at `upto`: its event time plus the delay
promised for it, and its write time if that is asked for, are not after `upto`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from featurestore.event_time import expired

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KEY_BYTES_MAX = 2048
"""An encoded key, all components together (SageMaker's limit for a record identifier)."""

RECORD_BYTES_MAX = 350 * 1024
"""An encoded record (SageMaker's limit)."""

FLAG_DELETED = 1
"""The record is a tombstone: from its event time on there is no record."""

FLAG_HARD = 2
"""With ``FLAG_DELETED``: the tombstone of a hard delete."""

FLAG_FENCE = 4
"""Among the latest records only: the payload is gone, its event time and seq still hold."""

STORE_ONLINE = 1
"""The write was aimed at the online store."""

STORE_OFFLINE = 2
"""The write was aimed at the offline store."""


class Status(StrEnum):
    """What became of a key at a moment; a str, so it compares and prints as its name.

    Examples
    --------
    >>> Status.PRESENT == "PRESENT", f"{Status.MISSING}"
    (True, 'MISSING')
    """

    PRESENT = "PRESENT"
    EXPIRED = "EXPIRED"
    DELETED = "DELETED"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True)
class Version:
    """One accepted record, or tombstone, of one key.

    Attributes
    ----------
    event_time_us, write_time_us, expires_at_us : int
        Microseconds since the epoch; ``expires_at_us`` is ``NO_EXPIRY`` without TTL.
    seq : int
        Its number in commit order, over the whole store.
    is_deleted : bool
        Whether it is a tombstone.
    values : mapping or None
        Its features by name; None of a tombstone.
    """

    event_time_us: int
    seq: int
    write_time_us: int
    expires_at_us: int
    is_deleted: bool
    values: Mapping[str, object] | None


def resolve(
    history: Iterable[Version],
    upto_us: int,
    clock_us: int,
    *,
    seq_max: int | None = None,
    delay_us: int = 0,
    known_by_write_time: bool = False,
    max_age_us: int | None = None,
) -> tuple[Status, Version | None]:
    """Return what the history of a key says at a moment.

    Parameters
    ----------
    history : iterable of Version
        Every version of one key, in any order.
    upto_us : int
        The moment asked about; for "the latest" anything not before ``MAX_US``.
    clock_us : int
        The clock that decides expiry: now for a get, the label's time for a join.
    seq_max : int, optional
        Look at the store as it stood at this seq.
    delay_us : int
        A record is known this long after its event time.
    known_by_write_time : bool
        A record is not known before it was written either.
    max_age_us : int, optional
        A newest record older than this (at `upto_us`) counts as expired.

    Returns
    -------
    status : Status
        See the table at the head of this module.
    version : Version or None
        The newest known version, whatever the status; None when there is none.

    Examples
    --------
    >>> old = Version(10, 1, 10, 15, False, {"temp": 39.0})
    >>> new = Version(20, 2, 20, 25, False, {"temp": 40.0})
    >>> [str(resolve([old, new], upto, upto)[0]) for upto in (9, 10, 15, 20, 25)]
    ['MISSING', 'PRESENT', 'EXPIRED', 'PRESENT', 'EXPIRED']
    """

    def known(version: Version) -> bool:
        if seq_max is not None and version.seq > seq_max:
            return False
        if known_by_write_time and version.write_time_us > upto_us:
            return False
        return version.event_time_us + delay_us <= upto_us

    newest = max(filter(known, history), key=lambda v: (v.event_time_us, v.seq), default=None)
    if newest is None:
        return Status.MISSING, None
    if newest.is_deleted:
        return Status.DELETED, newest
    if expired(newest.expires_at_us, clock_us):
        return Status.EXPIRED, newest
    if max_age_us is not None and upto_us - newest.event_time_us > max_age_us:
        return Status.EXPIRED, newest
    return Status.PRESENT, newest
