"""The front door: :class:`FeatureStore`, what users hold.

Each method turns the user's shapes into the engine's, makes one engine call, and turns the answer
back.  What only some processes need, Arrow, DuckDB, numba, is imported by the method that needs
it: a process that puts and gets single records pays for none of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from featurestore.encoding.values import read_header
from featurestore.engine import reader, updates
from featurestore.engine.database import open_database
from featurestore.engine.records import MANY, prepare_delete, prepare_put
from featurestore.errors import InvalidInput, ReadOnlyStore, StoreClosed
from featurestore.event_time import NO_EXPIRY, duration_us, system_clock, to_datetime, to_us
from featurestore.feature_view import FeatureView, expand
from featurestore.record import STORE_OFFLINE, STORE_ONLINE
from featurestore.results import ErasureReceipt, IngestResult, PutResult, RecordResult
from featurestore.schema import FeatureGroup, checked_retention_us, define
from featurestore.storage import commits, consumers, requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from datetime import tzinfo

    import pyarrow as pa

    from featurestore.dtypes import DType
    from featurestore.engine.database import Database
    from featurestore.engine.documents import Documents
    from featurestore.engine.plan import Plan
    from featurestore.engine.snapshot import GroupSnapshot
    from featurestore.engine.verify.findings import Fault
    from featurestore.engine.writer import Commit, Outcome, Put
    from featurestore.feature_view import FeatureLookup

T = TypeVar("T")

_STORES = {"online": STORE_ONLINE, "offline": STORE_OFFLINE}
_KEEP: Any = object()


def open(  # noqa: A001  the verb of every store
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    clock: Callable[[], int | datetime] | None = None,
    durability: str | None = None,
    quota: int | None = None,
    upkeep: bool = True,
    key_hash_bits: int | None = None,
) -> FeatureStore:
    """Open a feature store: a directory, made on first use.

    Any number of processes may have it open, and write.

    Parameters
    ----------
    path : path
        The directory.
    read_only : bool
        Refuse writes, and make nothing; works on read-only media.
    clock : callable, optional
        Returns now, as microseconds since the epoch or as an aware datetime.
    durability : {"strict", "relaxed", "rebuildable"}, optional
        Chosen when the store is made.  ``strict``, the default: durable when acknowledged.
        ``relaxed``: acknowledged in the queue, committed and synced within 100 ms; that much may
        be lost, on kill too.  ``rebuildable``: committed but never synced; everything may be lost
        at a power cut, nothing on kill.
    quota : int, optional
        Bytes the engine may take (not history files): 64 GiB by default; may be changed later.
    upkeep : bool
        Flush, compact and clean in the background of processes that write; one of them at a time
        does it.  With ``False`` nothing happens unless :meth:`FeatureStore.flush` and
        :meth:`FeatureStore.compact` are called, by this process or by another.
    key_hash_bits : int, optional
        For tests of hash collisions only: 2 gives four hash values.

    Raises
    ------
    NotAStore
        A file, or a directory that holds something else.
    IncompatibleStore
        Written by a newer version.
    ReadOnlyStore
        The directory cannot be written.

    Examples
    --------
    >>> import tempfile, featurestore as fs
    >>> with fs.open(tempfile.mkdtemp()) as store:
    ...     store.list_feature_groups()
    []
    """
    return FeatureStore(
        path,
        read_only=read_only,
        clock=clock,
        durability=durability,
        quota=quota,
        upkeep=upkeep,
        key_hash_bits=key_hash_bits,
    )


def restore(
    backup: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    clock: Callable[[], int | datetime] | None = None,
) -> int:
    """Make a store of a backup, in a new directory; returns the number of its history files.

    Every byte is held to its digest first.  The store is a new *incarnation* of the old one: its
    seqs go on behind a gap, so tokens of what the old one did after the backup are refused, and its
    consumers are told to begin anew (``ConsumerDropped``).

    Parameters
    ----------
    backup : path
        Made by :meth:`FeatureStore.backup`; it stays as it is.
    path : path
        The directory of the store, new or empty.
    clock : callable, optional
        As of :func:`open`.

    Raises
    ------
    InvalidInput
        No backup, one that was not finished, or a directory that is not empty.
    CorruptStore
        A file of the backup is damaged; the message names it.

    Examples
    --------
    >>> import tempfile, featurestore as fs
    >>> folder = tempfile.mkdtemp()
    >>> with fs.open(f"{folder}/store") as store:
    ...     store.backup(f"{folder}/copy")
    0
    >>> fs.restore(f"{folder}/copy", f"{folder}/again")
    0
    >>> with fs.open(f"{folder}/again") as store:
    ...     store.verify()
    []
    """
    from featurestore.engine import backup as engine
    from featurestore.storage import seam

    now = (clock or system_clock)()
    return engine.restore(
        Path(backup).expanduser().absolute(),
        Path(path).expanduser().absolute(),
        seam.random_bytes(16).hex(),
        now if isinstance(now, int) else to_us(now, what="the clock"),
    )


class FeatureStore:
    """An open feature store; made by :func:`featurestore.open`.  A context manager.

    Safe to use from several threads.  Not across fork: open it again in the child.

    Examples
    --------
    >>> import tempfile, featurestore as fs
    >>> with fs.open(tempfile.mkdtemp()) as store:
    ...     group = store.create_feature_group("planes", record_identifier="tailnum",
    ...         event_time="at",
    ...         features={"tailnum": "string", "at": "timestamp", "seats": "int16"})
    ...     put = store.put_record("planes", {"tailnum": "N14228", "at": "2013-01-01T10:15Z",
    ...                                       "seats": 149})
    ...     late = store.put_record("planes", {"tailnum": "N14228", "at": "2012-06-01T00:00Z"})
    ...     (put.outcome, late.outcome, store.get_record("planes", "N14228", ["seats"]))
    ('moved', 'late', {'seats': 149})
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        clock: Callable[[], int | datetime] | None = None,
        durability: str | None = None,
        quota: int | None = None,
        upkeep: bool = True,
        key_hash_bits: int | None = None,
    ) -> None:
        self._clock = clock or system_clock
        self._read_only = read_only
        self._opened: Database | None = open_database(
            path,
            read_only=read_only,
            durability=durability,
            quota=quota,
            key_hash_bits=key_hash_bits,
            clock_us=self._now_us,
            upkeep=upkeep,
        )
        self._path = self._opened.root

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "read-only" if self._read_only else "open"
        return f"FeatureStore({str(self._path)!r}, {state})"

    @property
    def path(self) -> Path:
        """The store's directory."""
        return self._path

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return self._opened is None

    def close(self) -> None:
        """Commit what is queued and close; calling it again does nothing."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    # ── feature groups ───────────────────────────────────────────────────────────────────────

    def create_feature_group(
        self,
        name: str,
        *,
        record_identifier: str | Sequence[str],
        event_time: str,
        features: Mapping[str, str | DType] | pa.Schema | None = None,
        like: Any = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        exist_ok: bool = False,
        ttl: str | timedelta | None = None,
        max_future: str | timedelta | None = "1d",
        retention: str | timedelta | None = None,
        online: bool = True,
        offline: bool = True,
        feature_descriptions: Mapping[str, str] | None = None,
    ) -> FeatureGroup:
        """Define a feature group.

        Parameters
        ----------
        name : str
            Letters, digits, ``_`` and ``-``; unique whatever its case.
        record_identifier : str or sequence of str
            The feature, or features, that make the key.
        event_time : str
            The timestamp at which a record became true.
        features : mapping or pyarrow.Schema
            Every feature and its type, identifier and event time included.
        like : table or schema
            Instead of ``features``: take them from a table.
        exist_ok : bool
            Leave an existing group as it is, if it has this schema or has grown from it.
        ttl : str or timedelta, optional
            Records live this long after their event time.
        max_future : str, timedelta or None
            How far ahead of the clock an event time may be; None for any distance.
        retention : str, timedelta or None
            How far back history reaches, as ``"90d"``; None, the default, for all of it.  Older
            versions are dropped by compaction, asked for or in the background, but the newest of
            each key: whatever is asked about moments within the retention is answered as if all
            were there.  What a consumer has not acknowledged stays.
        online, offline : bool
            Which stores the group has.
        description, tags, feature_descriptions
            For people, and for :meth:`search`.

        Raises
        ------
        FeatureGroupExists, SchemaMismatch, InvalidSchema, InvalidName
        """
        wanted = define(
            name,
            record_identifier=record_identifier,
            event_time=event_time,
            features=features,
            like=like,
            id=0,
            ttl=ttl,
            max_future=max_future,
            retention=retention,
            online=online,
            offline=offline,
            description=description,
            tags=tags,
            feature_descriptions=feature_descriptions,
            created_at_us=self._now_us(),
        )
        from featurestore.engine import groups

        return groups.create_group(self._writable, wanted, self._now_us(), exist_ok=exist_ok)

    def list_feature_groups(self) -> list[FeatureGroup]:
        """Return all feature groups, by name."""
        known = self._database.catalog().groups
        return [known[name] for name in sorted(known)]

    def describe_feature_group(self, name: str) -> FeatureGroup:
        """Return the definition of a feature group."""
        return self._database.catalog().group(name)

    def search(
        self, text: str = "", *, tags: Mapping[str, str] | None = None
    ) -> list[FeatureGroup]:
        """Return the groups that mention a text and carry some tags.

        The text is looked for in names, descriptions and tags of groups and features, in any
        case of letters.
        """
        needle = text.casefold()
        return [
            group
            for group in self.list_feature_groups()
            if needle in _words(group).casefold() and (tags or {}).items() <= group.tags.items()
        ]

    def update_feature_group(
        self,
        name: str,
        *,
        add_features: Mapping[str, str | DType] | None = None,
        feature_descriptions: Mapping[str, str] | None = None,
        feature_tags: Mapping[str, Mapping[str, str]] | None = None,
        ttl: str | timedelta | None = _KEEP,
        max_future: str | timedelta | None = _KEEP,
        retention: str | timedelta | None = _KEEP,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> FeatureGroup:
        """Add features, or change settings for later writes.

        Features are only ever added; in records written before they are null.  A changed TTL
        holds for later writes, a changed retention from the next compaction on.  Descriptions and
        tags of features, new ones and old, replace those they had.
        """
        changes: dict[str, Any] = {}
        if ttl is not _KEEP:
            changes["ttl_us"] = None if ttl is None else duration_us(ttl, what="ttl")
        if max_future is not _KEEP:
            changes["max_future_us"] = (
                None if max_future is None else duration_us(max_future, what="max_future")
            )
        if retention is not _KEEP:
            changes["retention_us"] = checked_retention_us(retention)
        if description is not None:
            changes["description"] = description
        if tags is not None:
            changes["tags"] = dict(tags)

        def change(group: FeatureGroup) -> FeatureGroup:
            if add_features:
                group = group.with_features(add_features)
            group = group.with_descriptions(feature_descriptions, feature_tags)
            return replace(group, **changes)

        from featurestore.engine import groups

        return groups.update_group(self._writable, name, change, self._now_us())

    def delete_feature_group(self, name: str) -> None:
        """Delete a feature group with all its records, online and offline."""
        from featurestore.engine import groups

        groups.drop_group(self._writable, name, self._now_us())

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def put_record(
        self,
        name: str,
        record: Mapping[str, Any],
        *,
        ttl: str | timedelta | None = None,
        target_stores: Iterable[str] = ("online", "offline"),
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> PutResult:
        """Put one record, online and into history, in one transaction.

        Parameters
        ----------
        name : str
            The feature group.
        record : mapping
            Features by name; those left out are null.
        ttl : str or timedelta, optional
            Of this record, instead of the group's.
        target_stores : iterable of {"online", "offline"}
            Where it goes; the one law speaks of records sent to both.
        request_id : str, optional
            Makes the write count once: a second call with the same id returns the first result,
            for 24 hours.
        tz : str or tzinfo, optional
            Zone of naive timestamps; without it they are refused.

        Returns
        -------
        PutResult
            Its seq, and whether online moved, the record was late, or nothing changed.

        Raises
        ------
        InvalidRecord, InvalidEventTime, UnknownFeature, UnknownFeatureGroup
            Nothing was stored.
        """
        puts, version = self._put(name, record, ttl, target_stores, tz)
        return self._apply(puts, version, request_id)[0]

    def put_record_async(
        self,
        name: str,
        record: Mapping[str, Any],
        *,
        ttl: str | timedelta | None = None,
        target_stores: Iterable[str] = ("online", "offline"),
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> Future[PutResult]:
        """Put one record without waiting for the commit; otherwise like :meth:`put_record`.

        Writes of one thread are committed in the order of its calls.  A record that will not do
        is refused at once; what only the commit can tell, the future raises.  When too much is
        queued (10,000 writes, or 256 MB) the call waits for room: back-pressure.

        Returns
        -------
        concurrent.futures.Future of PutResult
            Done when the record is in a commit, and in a ``strict`` or ``relaxed`` store on disk;
            in asyncio: ``await asyncio.wrap_future(future)``.  A future cancelled in time stores
            nothing.  Callbacks run on the thread that makes the commits: keep them short.

        Raises
        ------
        StoreBusy
            The queue has been full for 30 seconds.
        """
        puts, version = self._put(name, record, ttl, target_stores, tz)
        return self._submit(puts, version, request_id, _first)

    def write(
        self,
        records: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> list[PutResult]:
        """Put records of any number of groups in one transaction: all of them or none.

        Many of one group are quickest as plain dicts with the same names, values of exactly their
        types, and without a request id; a table is quicker still (:meth:`ingest`).
        """
        given = list(records)
        if request_id is None and len(given) >= MANY:
            from featurestore.engine import many

            now_us = self._now_us()
            work = many.work_of(self._writable, given, now_us, tz)
            if work is not None:
                outcomes = self._writable.do(*work, now_us)
                return _all_queued(given) if outcomes is None else _results(outcomes, False)
        puts, version = self._puts(given, tz)
        return self._apply(puts, version, request_id) if puts else []

    def write_async(
        self,
        records: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> Future[list[PutResult]]:
        """Do :meth:`write` without waiting; see :meth:`put_record_async` for the future."""
        puts, version = self._puts(records, tz)
        return self._submit(puts, version, request_id, list)

    def update_record(
        self,
        name: str,
        key: Any,
        changes: Mapping[str, Any],
        *,
        ttl: str | timedelta | None = None,
        target_stores: Iterable[str] = ("online", "offline"),
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> PutResult:
        """Change some features of the latest record of a key; the others stay as they are.

        Read, merged and written in one transaction: of two updates at once neither is lost.

        Parameters
        ----------
        key : scalar, tuple or dict
            The record identifier.
        changes : mapping
            Features by name; None makes one null.  The event time may be among them, not before
            that of the record; left out it stays, and the record is newer by its seq.
        ttl : str or timedelta, optional
            From its event time on; by default the record keeps its time to live.
        target_stores : iterable of {"online", "offline"}
            The online store is always one of them.
        request_id, tz : optional
            As for :meth:`put_record`.

        Raises
        ------
        RecordNotFound
            The key has no live record.
        StaleUpdate
            The event time given is before that of the record.
        """
        work = self._update(name, key, changes, ttl, target_stores, request_id, tz)
        writer = self._writable.writer
        outcomes, replayed = writer.call(work, self._now_us(), bytes_needed=updates.BYTES_NEEDED)
        return _results(outcomes, replayed)[0]

    def update_record_async(
        self,
        name: str,
        key: Any,
        changes: Mapping[str, Any],
        *,
        ttl: str | timedelta | None = None,
        target_stores: Iterable[str] = ("online", "offline"),
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> Future[PutResult]:
        """Do :meth:`update_record` without waiting; see :meth:`put_record_async`."""
        work = self._update(name, key, changes, ttl, target_stores, request_id, tz)

        def result(commit: Commit) -> PutResult:
            return _results(*work(commit))[0]

        writer = self._writable.writer
        return writer.submit(result, self._now_us(), bytes_needed=updates.BYTES_NEEDED)

    def delete_record(
        self,
        name: str,
        key: Any,
        *,
        event_time: Any,
        hard: bool = False,
        target_stores: Iterable[str] = ("online", "offline"),
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> PutResult:
        """Delete a record from an event time on; before it, history stands.

        Parameters
        ----------
        key : scalar, tuple or dict
            The record identifier.
        event_time : datetime, or text with a zone
            From when on there is no record.
        hard : bool
            Keep no more than a fence online, and refuse the delete if the record is newer.
        target_stores : iterable of {"online", "offline"}
            Where it is deleted; the one law speaks of deletes in both.

        Raises
        ------
        StaleDelete
            A hard delete older than the record.
        """
        puts, version = self._delete(name, key, event_time, tz, target_stores, hard=hard)
        return self._apply(puts, version, request_id)[0]

    def delete_record_async(
        self,
        name: str,
        key: Any,
        *,
        event_time: Any,
        hard: bool = False,
        target_stores: Iterable[str] = ("online", "offline"),
        request_id: str | None = None,
        tz: str | tzinfo | None = None,
    ) -> Future[PutResult]:
        """Do :meth:`delete_record` without waiting; see :meth:`put_record_async`."""
        puts, version = self._delete(name, key, event_time, tz, target_stores, hard=hard)
        return self._submit(puts, version, request_id, _first)

    def ingest(
        self,
        name: str,
        data: Any,
        *,
        id: str | None = None,  # noqa: A002  the word of the field
        tz: str | tzinfo | None = None,
        unit: str | None = None,
        write_time: str | None = None,
        atomic: bool = False,
        max_lock: str | timedelta = "50ms",
        on_error: str = "raise",
        target_stores: Iterable[str] = ("online", "offline"),
        progress: Callable[[int], object] | bool | None = None,
    ) -> IngestResult:
        """Put many records: a table, a frame, files, or a stream of any length.

        Parameters
        ----------
        name : str
            The feature group.
        data : Arrow, pandas, Polars, path or paths, reader, iterator of dicts or tables
            What is in memory is validated whole before any of it is stored; a stream chunk by
            chunk, with no more than a few chunks in memory.  Paths are Parquet, CSV, JSON lines
            or Arrow files, folders of them, or patterns.  Of an iterator, what has come becomes
            visible within about a second, though the next item is long in coming.
        id : str, optional
            Makes the ingest count once; by default a digest of the content, so a repeat of the
            same data adds nothing.  After a crash the same id goes on where it stopped; with
            other data it is refused.
        tz, unit : optional
            Zone of naive timestamps; unit (``"s"``, ``"ms"``, ``"us"``, ``"ns"``) of numeric ones.
        write_time : str, optional
            A column that says when each row was learned: an import keeps its dates.
        atomic : bool
            One transaction whatever the size; otherwise inputs of more than 16,384 rows or
            8 MiB are committed in slices of whole keys.
        max_lock : str or timedelta, default "50ms"
            How long a slice may hold the write lock.  It is then left alone as long, so that
            other writers, of other processes too, get their turn.
        on_error : {"raise", "skip"}
            Bad rows refuse the whole input, or are left out and counted.
        progress : callable or False, optional
            Called with the number of rows that are in, now and then; for an iterator not from
            the caller's thread.  By default what takes long shows a line on a terminal.

        Raises
        ------
        InvalidRecord
            With the bad rows and why in ``rows``; for a stream, what is in already in
            ``accepted``.
        """
        if on_error not in ("raise", "skip"):
            raise InvalidInput(f'on_error is "raise" or "skip"; got {on_error!r}.')
        from featurestore.engine import ingest
        from featurestore.engine.progress import shown

        with shown(name, progress) as told:
            options = ingest.Options(
                id=id,
                tz=tz,
                unit=unit,
                write_time=write_time,
                max_lock_us=None if atomic else duration_us(max_lock, what="max_lock"),
                skip_bad_rows=on_error == "skip",
                stores=_stores(target_stores),
                now_us=self._now_us(),
                progress=told,
            )
            counts = ingest.ingest(self._writable, name, data, options)
        return IngestResult(
            counts.accepted, counts.late, counts.expired, counts.rejected, counts.replayed
        )

    # ── reading online ───────────────────────────────────────────────────────────────────────

    def get_record(
        self,
        name: str,
        key: Any,
        features: Sequence[str] | None = None,
        *,
        with_status: bool = False,
    ) -> Any:
        """Return the latest record of a key.

        Parameters
        ----------
        name : str
            The feature group.
        key : scalar, tuple in declared order, or dict
            The record identifier.
        features : sequence of str, optional
            Only these; by default all, identifier and event time included.
        with_status : bool
            Return a :class:`RecordResult`, which also tells why there is no record.

        Returns
        -------
        dict, None or RecordResult
            None if the record is missing, deleted or expired.
        """
        names = None if features is None else _names(features)
        clock_us = self._now_us()
        found = reader.get(self._database, name, key, names, clock_us)
        if not with_status:
            return found.record
        header = found.header
        if header is None:
            return RecordResult(found.status)
        return RecordResult(
            status=found.status,
            record=found.record,
            event_time=to_datetime(header.event_time_us),
            age=timedelta(microseconds=clock_us - header.event_time_us),
            write_seq=header.seq,
            expires_at=_moment(header.expires_at_us),
        )

    def batch_get_record(
        self, keys: Mapping[str, Sequence[Any]], features: Sequence[str] | None = None
    ) -> dict[str, pa.Table]:
        """Return the latest records of many keys, of several groups at one moment.

        Returns
        -------
        dict of str to pyarrow.Table
            For each group a row per key, in the order asked: the features, then ``status`` and
            ``age`` (``__status``, ``__age`` where a feature has that name).
        """
        names = None if features is None else _names(features)
        return reader.batch_get(self._database, keys, names, self._now_us())

    def scan(
        self,
        name: str,
        features: Sequence[str] | None = None,
        *,
        after: str = "",
        page_size: int = 1000,
    ) -> Scan:
        """Return all live records of a group, read page by page in key-hash order.

        Parameters
        ----------
        after : str
            The ``token`` of an earlier scan: go on behind it.
        page_size : int
            Keys read in one transaction.
        """
        names = None if features is None else _names(features)
        plan, _ = self._database.plan(name)
        plan.check_features(names or [])
        return Scan(self, name, names, after, page_size)

    # ── reading history ──────────────────────────────────────────────────────────────────────

    def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        tables: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Run a SELECT over feature groups, fresh to the last commit.

        ``weather`` has one row per key and event time, ``history.weather`` every accepted
        version, ``latest.weather`` what the online store serves now.

        Parameters
        ----------
        query : str
            DuckDB SQL, one SELECT.
        params : sequence or mapping, optional
            Values of ``?`` or ``$name``.
        tables : mapping, optional
            Arrow tables or frames to join with.
        """
        from featurestore.engine.sql import query as sql

        snapshots = sql.snapshots_of(self._database, self._now_us())
        return sql.run_query(query, params, snapshots, tables)

    def point_in_time(
        self,
        labels: Any,
        features: Any,
        label_time: str | None = None,
        *,
        as_of: int | datetime | None = None,
        known: str = "event_time",
        tz: str | tzinfo | None = None,
        with_status: bool = False,
        explain: bool = False,
        last_n: int | None = None,
        stream: bool = False,
        memory_limit: int = 1 << 30,
    ) -> Any:
        """Join each label with what was known at its moment.

        Parameters
        ----------
        labels : table, path of a Parquet file, ``pyarrow.RecordBatchReader`` or iterator of batches
            Key columns and a time for each row.  A table is Arrow, pandas or Polars; a path ends
            in ``.parquet`` or is a ``Path``.
        features : str, FeatureLookup, or a list of them
            ``"group:feature"``, ``"group:*"``, the name of a feature view, or a lookup.
        label_time : str, optional
            The labels' time column; ``"event_time"`` by default.
        as_of : int or datetime, optional
            Look at the store as it stood at a commit: a seq of :meth:`snapshot`, or a time.
        known : {"event_time", "write_time"}
            With ``"write_time"``, a record counts only from when it had also been written.
        tz : str or tzinfo, optional
            Zone of naive label times.
        with_status : bool
            Add status (``PRESENT``, ``EXPIRED``, ``DELETED``, ``MISSING``), event time and age of
            each lookup: ``weather__status``, ``weather__event_time``, ``weather__age``.
        explain : bool
            Add these, and which file or journal the record came from, its seq, and the rule that
            decided: ``weather__source``, ``weather__write_seq``, ``weather__rule``.
        last_n : int, optional
            Take the last so many values at or before each label, as lists with the newest last;
            for lookups that do not say themselves.  See :class:`FeatureLookup`.
        stream : bool
            Give record batches while labels are read, instead of a table.
        memory_limit : int
            With ``stream=True``, bytes to keep within, labels given in memory aside; 1 GiB.

        Returns
        -------
        table, or with ``stream=True`` a ``pyarrow.RecordBatchReader``
            Rows and order of ``labels``, with the features beside them: pandas or Polars if the
            labels were, else Arrow.  A reader gives Arrow always, and looks at the store as it was
            when it was asked for; files stay until it has been read or let go.

        Raises
        ------
        InvalidInput
            For a missing column, a label without time, a key of the wrong type, two columns of
            one name.

        Examples
        --------
        >>> import tempfile, featurestore as fs
        >>> from datetime import UTC, datetime
        >>> store = fs.open(tempfile.mkdtemp())
        >>> group = store.create_feature_group("weather", record_identifier="origin",
        ...     event_time="at", features={"origin": "string", "at": "timestamp", "temp": "int64"})
        >>> noon, one = datetime(2024, 1, 1, 12, tzinfo=UTC), datetime(2024, 1, 1, 13, tzinfo=UTC)
        >>> for at, temp in ((noon, 39), (one, 41)):
        ...     put = store.put_record("weather", {"origin": "JFK", "at": at, "temp": temp})
        >>> labels = {"origin": ["JFK", "EWR"], "event_time": [one, one]}
        >>> store.point_in_time(labels, "weather:temp")["temp"].to_pylist()
        [41, None]
        >>> store.point_in_time(labels, "weather:temp", last_n=2)["temp"].to_pylist()
        [[39, 41], None]
        >>> sum(batch.num_rows for batch in store.point_in_time(labels, "weather:*", stream=True))
        2
        >>> store.close()
        """
        from featurestore.engine import point_in_time

        lookups = self._lookups(features)
        if last_n is not None:
            lookups = tuple(
                lookup if lookup.last_n is not None else replace(lookup, last_n=last_n)
                for lookup in lookups
            )
        how: dict[str, Any] = {
            "label_time": label_time,
            "known": known,
            "tz": tz,
            "with_status": with_status,
            "explain": explain,
        }
        if not stream:
            with self._history(lookups, as_of) as snapshots:
                return point_in_time.join(labels, lookups, snapshots, **how)

        def batches() -> Iterator[Any]:
            with self._history(lookups, as_of) as snapshots:
                yield from point_in_time.stream(
                    labels, lookups, snapshots, memory_limit=memory_limit, **how
                )

        import pyarrow as pa

        running = batches()
        schema = next(running)  # the moment is now; let go unread, the generator unpins its files
        return pa.RecordBatchReader.from_batches(schema, running)

    @contextlib.contextmanager
    def _history(
        self, lookups: Sequence[FeatureLookup], as_of: int | datetime | None
    ) -> Iterator[dict[str, GroupSnapshot]]:
        """Give the groups of some lookups at one moment, all of them with history."""
        groups = list(dict.fromkeys(lookup.group for lookup in lookups))
        with self._database.snapshot(groups, seq=self._seq(as_of)) as snapshots:
            for snapshot in snapshots.values():
                snapshot.require_history()
            yield snapshots

    def snapshot(self) -> int:
        """Return the seq of the last commit: a token for ``as_of=`` and ``since=``."""
        with self._database.read() as txn:
            return commits.last(self._database.env, txn)[0]

    def changes(
        self,
        since: int | None = None,
        groups: Sequence[str] | None = None,
        *,
        consumer: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield every accepted record after a seq, in commit order, up to the commit of now.

        Read as it is yielded, some hundred thousand records at a time, whatever is flushed and
        compacted meanwhile.  Records aimed at the online store alone are in no history.

        Parameters
        ----------
        since : int, optional
            A seq; by default 0, or where the consumer is.
        groups : sequence of str, optional
            Only these; by default every group with an offline store.
        consumer : str, optional
            A consumer made by :meth:`create_consumer`: begin after what it has acknowledged.

        Yields
        ------
        dict
            ``group``, ``seq``, ``write_time``, ``is_deleted``, ``expires_at`` and ``record``.

        Raises
        ------
        ConsumerDropped
            The consumer has fallen further behind than its limit.

        Examples
        --------
        >>> import tempfile, featurestore as fs
        >>> store = fs.open(tempfile.mkdtemp())
        >>> _ = store.create_feature_group("g", record_identifier="k", event_time="t",
        ...                                features={"k": "int64", "t": "timestamp"})
        >>> _ = store.create_consumer("replica")
        >>> for k in range(3):
        ...     _ = store.put_record("g", {"k": k, "t": "2013-01-01T05:00Z"})
        >>> for change in store.changes(consumer="replica"):
        ...     print(change["seq"], change["record"]["k"])  # copied to where it is needed, then:
        ...     store.acknowledge("replica", change["seq"])
        1 0
        2 1
        3 2
        >>> list(store.changes(consumer="replica"))
        []
        >>> store.close()
        """
        from featurestore.engine import changes

        if consumer is not None:
            with self._database.read() as txn:
                known = consumers.get(self._database.env, txn, consumer)
            since = known.seq if since is None else since
        return changes.changes(
            self._database, since or 0, None if groups is None else _names(groups)
        )

    def create_consumer(
        self,
        name: str,
        *,
        since: int = 0,
        max_lag: str | timedelta | None = "7d",
        max_lag_records: int | None = None,
        exist_ok: bool = False,
    ) -> int:
        """Follow the changes under a name: the store remembers how far you have come.

        What a consumer has not acknowledged is held for it: no retention removes a record after
        its mark.  Two things do: :meth:`erase`, which the law asks for, and deleting a group.

        Parameters
        ----------
        name : str
            Of the consumer.
        since : int
            Where it begins: 0 for all history, :meth:`snapshot` for what comes from now on.
        max_lag : str, timedelta or None
            How long the first record it has not acknowledged is held.  A consumer that stays
            away longer is dropped, and told so with :class:`ConsumerDropped`.
        max_lag_records : int, optional
            The same, by the number of records the store has accepted since its mark.
        exist_ok : bool
            Leave an existing consumer as it is.

        Returns
        -------
        int
            The seq of its mark.
        """
        from featurestore.engine import changes

        max_lag_us = None if max_lag is None else duration_us(max_lag, what="max_lag")
        wanted = consumers.Consumer(name, since, max_lag_us, max_lag_records)
        return changes.create_consumer(
            self._writable, wanted, self._now_us(), exist_ok=exist_ok
        ).seq

    def acknowledge(self, consumer: str, seq: int) -> None:
        """Say that a consumer has dealt with every change up to a seq; a mark never moves back."""
        from featurestore.engine import changes

        changes.acknowledge(self._writable, consumer, seq, self._now_us())

    def delete_consumer(self, name: str) -> None:
        """Forget a consumer: nothing is held for it any more.  :meth:`stat` lists all of them."""
        from featurestore.engine import changes

        changes.delete_consumer(self._writable, name, self._now_us())

    # ── feature views ────────────────────────────────────────────────────────────────────────

    def create_feature_view(
        self, name: str, features: Any, *, description: str = "", exist_ok: bool = False
    ) -> FeatureView:
        """Name a selection of features, for joins and lookups alike."""
        now_us = self._now_us()
        view = FeatureView(name, self._lookups(features), description, now_us)
        from featurestore.engine import groups

        groups.create_view(self._writable, view, now_us, exist_ok=exist_ok)
        return self.describe_feature_view(name)

    def list_feature_views(self) -> list[FeatureView]:
        """Return all feature views, by name."""
        known = self._database.catalog().views
        return [FeatureView.from_json(known[name]) for name in sorted(known)]

    def describe_feature_view(self, name: str) -> FeatureView:
        """Return a feature view."""
        return FeatureView.from_json(self._database.catalog().view(name))

    def delete_feature_view(self, name: str) -> None:
        """Delete a feature view."""
        from featurestore.engine import groups

        groups.drop_view(self._writable, name, self._now_us())

    def get_features(self, view: Any, entities: Any, *, with_status: bool = False) -> Any:
        """Return the latest features of a view, all groups at one moment.

        Parameters
        ----------
        view : str, FeatureView, FeatureLookup or a list of references
            What to look up.
        entities : dict or table
            The keys: a dict gives a dict, a table a table with the features beside it.
        with_status : bool
            Add status, event time and age of each lookup.
        """
        from featurestore.engine import features

        return features.lookup_features(
            self._database, view, entities, self._now_us(), with_status=with_status
        )

    # ── upkeep ───────────────────────────────────────────────────────────────────────────────

    def flush(self, name: str | None = None) -> int:
        """Move the journal of one group, or of all, into history files; returns rows moved."""
        from featurestore.engine import flusher

        return flusher.flush(self._writable, self._some_groups(name), self._now_us())

    def compact(
        self, name: str | None = None, *, progress: Callable[[int], None] | None = None
    ) -> int:
        """Merge history files into disjoint cells; returns rows written again."""
        from featurestore.engine import compactor

        return compactor.compact(self._writable, self._some_groups(name), self._now_us(), progress)

    def erase(self, name: str, key: Any) -> ErasureReceipt:
        """Erase a key with all its records, past and present; there is no way back.

        Online record, journal, files and stored results of requests: all of it goes.  Only files
        that hold the key are written again, the old ones are deleted.  Work in flight
        cannot undo it: a flush, a compaction or an ingest that had read the key before is dropped
        or goes on without it, and a retry of a request that wrote it is refused.  What is written
        afterwards is new data.

        LMDB's file may hold old bytes in freed pages until they are used again; the receipt counts
        them.  A backup never does: where the law is strict, erase, back up and restore.

        A reader at work keeps an old file until it is done: the receipt lists it in ``waiting``.
        Backups made before still have the key, and replicas that follow :meth:`changes` have to be
        told; a consumer's mark does not hold an erasure up.  Reads ``as_of`` an earlier moment do
        not find the key any more.

        Parameters
        ----------
        name : str
            The feature group.
        key : scalar, tuple or dict
            The record identifier.  One that is not there is erased too: a trace may be left.

        Returns
        -------
        ErasureReceipt
            What was done.  The store keeps what it needs to check it: :meth:`verify` looks for
            every erased key, and for those of ``erasures=``.

        Raises
        ------
        StoreBusy
            New files came faster than they could be looked through; nothing was erased.
        """
        from featurestore.engine import eraser

        return eraser.erase(self._writable, name, key, self._now_us())

    def verify(self, *, erasures: Iterable[ErasureReceipt] = ()) -> list[Fault]:
        """Check the whole store against itself; returns the faults, none when it is sound.

        Parameters
        ----------
        erasures : iterable of ErasureReceipt
            Erasures that the store may not know of, because it was restored from a backup made
            before them: their keys are looked for like those it knows.
        """
        from featurestore.engine.verify.store import verify

        return verify(self._database, erasures)

    def scrub(self, *, progress: Callable[[int, int], object] | None = None) -> list[Fault]:
        """Read every byte of the store and hold it to its checksum; returns the faults.

        Cheaper than :meth:`verify`, which looks for sense: disks rot slowly, so once a week is
        often.  May run beside everything else.

        Parameters
        ----------
        progress : callable, optional
            Called now and then with the bytes read, and those there are.
        """
        from featurestore.engine.verify.scrub import scrub

        return scrub(self._database, progress)

    def stat(self) -> dict[str, Any]:
        """Return sizes and counts: what is where, how fresh, and who keeps it in order.

        Returns
        -------
        dict
            ``path`` and ``durability``.

            ``seq``, ``last_commit``, ``seconds_since_commit``; ``oldest_unflushed_seconds``, the
            age of the oldest record that only the journal has, and ``last_flush``.

            ``engine_bytes`` in use of ``quota_bytes``, in a file of ``engine_file_bytes``;
            ``history_bytes`` in files.

            ``readers``, the read transactions open now in all processes;
            ``oldest_reader_lag``, how many commits the oldest is behind (LMDB keeps what it may
            look at: thousands are a fault of the reader); ``oldest_pin``, the manifest version
            that the oldest reader of files needs, and ``manifest_version``, that of now.

            ``upkeep``: whether it is ``running`` in some process, its ``pid``, what it is
            ``doing``; ``failures`` in a row, ``last_error``, ``last_error_at``;
            ``last_compaction``.

            ``consumers``: for each its ``seq``, ``lag_records``, ``lag_seconds``, and why it was
            ``dropped``; ``history_held_after``, the seq after which some of them needs every
            record.

            ``groups``: for each the number of ``keys``, of ``history_rows``, of those in the
            journal, its ``files`` and of those ``cells``, ``bytes`` of files, ``last_flush`` and
            ``schema_version``.
        """
        from featurestore.engine import stat

        return stat.stat(self._database, self._now_us())

    def backup(
        self, path: str | os.PathLike[str], *, since: str | os.PathLike[str] | None = None
    ) -> int:
        """Write a consistent, verified copy of the store into a new directory, while it is in use.

        A backup can be opened with ``read_only=True``; :func:`featurestore.restore` makes a store
        of it.  On the disk of the store files are linked, which costs no room and does not guard
        against that disk: for that, give a path on another one.

        Parameters
        ----------
        path : path
            The directory, new or empty.
        since : path, optional
            An earlier backup, on the disk of the new one: files that it has are linked, and only
            new ones copied.

        Returns
        -------
        int
            The number of history files in it.

        Raises
        ------
        CorruptStore
            A file is damaged; the backup is not finished.
        """
        from featurestore.engine import backup

        earlier = None if since is None else Path(since).expanduser().absolute()
        return backup.backup(
            self._database, Path(path).expanduser().absolute(), earlier, self._now_us()
        )

    # ── what stands on the store ─────────────────────────────────────────────────────────────

    @property
    def documents(self) -> Documents:
        """What training, batch inference and monitoring remember: JSON by kind and name."""
        from featurestore.engine.documents import Documents

        return Documents(lambda: self._database, lambda: self._writable, self._now_us)

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    @property
    def _database(self) -> Database:
        if self._opened is None:
            raise StoreClosed(f"{self._path} is closed. Open it again.")
        return self._opened

    @property
    def _writable(self) -> Database:
        if self._read_only:
            raise ReadOnlyStore(f"{self._path} is open read-only. Open it without read_only=True.")
        return self._database

    def _now_us(self) -> int:
        now = self._clock()
        return now if isinstance(now, int) else to_us(now, what="the clock")

    def _some_groups(self, name: str | None) -> list[FeatureGroup]:
        return self.list_feature_groups() if name is None else [self.describe_feature_group(name)]

    def _lookups(self, references: Any) -> tuple[FeatureLookup, ...]:
        return expand(references, self.describe_feature_view)

    def _seq(self, as_of: int | datetime | None) -> int | None:
        if as_of is None:
            return None
        env = self._database.env
        with self._database.read() as txn:
            if isinstance(as_of, bool) or not isinstance(as_of, int):
                return commits.seq_at(env, txn, to_us(as_of, what="as_of"))
            last_seq = commits.last(env, txn)[0]
        if not 0 <= as_of <= last_seq:
            raise InvalidInput(
                f"as_of={as_of} is no seq of this store; the last commit was {last_seq}. "
                "Take one from snapshot(), or give a time."
            )
        env.require_lasting(as_of)
        return as_of

    # ── writing, inside ──────────────────────────────────────────────────────────────────────

    def _put(
        self,
        name: str,
        record: Mapping[str, Any],
        ttl: str | timedelta | None,
        target_stores: Iterable[str],
        tz: str | tzinfo | None,
    ) -> tuple[list[Put], int]:
        """Validate and encode one record; returns it with the catalog version that it fits."""
        plan, version = self._writable.plan(name)
        put = prepare_put(
            plan,
            record,
            self._now_us(),
            ttl_us=None if ttl is None else duration_us(ttl, what="ttl"),
            stores=_stores(target_stores),
            tz=tz,
        )
        return [put], version

    def _puts(
        self, records: Iterable[tuple[str, Mapping[str, Any]]], tz: str | tzinfo | None
    ) -> tuple[list[Put], int]:
        now_us = self._now_us()
        database = self._writable
        version = database.catalog().version
        plans: dict[str, Plan] = {}
        puts = []
        for name, record in records:
            plan = plans.get(name) or plans.setdefault(name, database.plan(name)[0])
            puts.append(prepare_put(plan, record, now_us, tz=tz))
        return puts, version

    def _update(
        self,
        name: str,
        key: Any,
        changes: Mapping[str, Any],
        ttl: str | timedelta | None,
        target_stores: Iterable[str],
        request_id: str | None,
        tz: str | tzinfo | None,
    ) -> Callable[[Commit], tuple[list[Outcome], bool]]:
        plan, version = self._writable.plan(name)
        update = updates.prepare_update(
            plan,
            version,
            key,
            changes,
            self._now_us(),
            ttl_us=None if ttl is None else duration_us(ttl, what="ttl"),
            stores=_stores(target_stores),
            tz=tz,
        )
        return updates.work_of(update, request_id)

    def _delete(
        self,
        name: str,
        key: Any,
        event_time: Any,
        tz: str | tzinfo | None,
        target_stores: Iterable[str],
        *,
        hard: bool,
    ) -> tuple[list[Put], int]:
        plan, version = self._writable.plan(name)
        stores = _stores(target_stores)
        put = prepare_delete(plan, key, event_time, self._now_us(), hard=hard, stores=stores, tz=tz)
        return [put], version

    def _apply(self, puts: list[Put], version: int, request_id: str | None) -> list[PutResult]:
        request = _request(puts, request_id)
        outcomes, replayed = self._writable.apply(puts, version, request, self._now_us())
        if outcomes is None:
            return _all_queued(puts)
        return _results(outcomes, replayed)

    def _submit(
        self,
        puts: list[Put],
        version: int,
        request_id: str | None,
        shape: Callable[[list[PutResult]], T],
    ) -> Future[T]:
        return self._writable.apply_async(
            puts,
            version,
            _request(puts, request_id),
            self._now_us(),
            lambda outcomes, replayed: shape(_results(outcomes, replayed)),
        )


class Scan:
    """The live records of a group, page by page; made by :meth:`FeatureStore.scan`.

    Iterating yields records as dicts; :meth:`pages` yields Arrow tables.  ``token`` names the
    place reached, for ``scan(after=...)``.  Each page is one moment; records put meanwhile appear
    if their key comes later.

    Examples
    --------
    >>> import tempfile, featurestore as fs
    >>> with fs.open(tempfile.mkdtemp()) as store:
    ...     _ = store.create_feature_group("g", record_identifier="k", event_time="t",
    ...                                    features={"k": "int64", "t": "timestamp"})
    ...     list(store.scan("g"))
    []
    """

    def __init__(
        self,
        store: FeatureStore,
        name: str,
        features: list[str] | None,
        after: str,
        page_size: int,
    ) -> None:
        self._store = store
        self._name = name
        self._features = features
        self._page_size = page_size
        self.token = after

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for plan, rows, token in self._read():
            for key, data in rows:
                event_time_us = read_header(data).event_time_us
                yield plan.record(plan.parts(key), event_time_us, data, self._features)
            self.token = token

    def pages(self) -> Iterator[pa.Table]:
        """Yield a table for each page, of the features asked for."""
        for plan, rows, token in self._read():
            table = reader.latest_table(
                plan,
                [key for key, _ in rows],
                [data for _, data in rows],
                self._store._now_us(),  # noqa: SLF001
            )
            self.token = token
            yield table if self._features is None else table.select(self._features)

    def _read(self) -> Iterator[tuple[Plan, list[tuple[bytes, bytes]], str]]:
        try:
            after = bytes.fromhex(self.token)
        except ValueError:
            raise InvalidInput(f"{self.token!r} is no token of a scan.") from None
        while True:
            plan, rows, position = reader.scan_page(
                self._store._database,  # noqa: SLF001
                self._name,
                after,
                self._page_size,
                self._store._now_us(),  # noqa: SLF001
            )
            yield plan, rows, position.hex()
            if not position:
                return
            after = position


def _request(puts: Sequence[Put], request_id: str | None) -> requests.Request | None:
    if request_id is None:
        return None
    asked = [put.asked_bytes() for put in puts]
    return requests.Request("write", request_id, requests.content_digest(*asked))


def _results(outcomes: Sequence[Outcome], replayed: bool) -> list[PutResult]:
    # Records written together share their times: most of them are converted once.
    moments: dict[int, datetime | None] = {NO_EXPIRY: None}

    def moment(us: int) -> datetime | None:
        return moments[us] if us in moments else moments.setdefault(us, to_datetime(us))

    return [
        PutResult(seq, outcome, replayed, moment(write_time_us), moment(expires_at_us))
        for seq, outcome, write_time_us, expires_at_us in outcomes
    ]


def _all_queued(given: Sequence[Any]) -> list[PutResult]:
    return [PutResult(None, "queued") for _ in given]


def _first(results: list[PutResult]) -> PutResult:
    return results[0]


def _stores(names: Iterable[str]) -> int:
    chosen = [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in _STORES:
            raise InvalidInput(f'target_stores are "online" and "offline"; got {name!r}.')
    if not chosen:
        raise InvalidInput('target_stores is empty; give "online", "offline" or both.')
    return sum(_STORES[name] for name in set(chosen))


def _names(features: Sequence[str]) -> list[str]:
    return [features] if isinstance(features, str) else list(features)


def _moment(us: int) -> datetime | None:
    return None if us == NO_EXPIRY else to_datetime(us)


def _words(group: FeatureGroup) -> str:
    """Return everything that a search looks at."""
    parts = [group.name, group.description, *group.tags, *group.tags.values()]
    for f in group.features:
        parts += [f.name, f.description, *f.tags, *f.tags.values()]
    return " ".join(parts)
