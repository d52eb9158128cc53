"""Stat: sizes and counts of a store at one moment, for people and for metrics.

Cheap enough to be asked every few seconds: of the journal only the heads of its entries are read,
of files nothing but the manifest; the number of a group's keys is kept.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from featurestore.engine.snapshot import oldest_pin
from featurestore.engine.upkeep import LOCK
from featurestore.event_time import NO_EXPIRY, to_datetime
from featurestore.storage import commits, consumers, files, journal, latest, manifest

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from featurestore.engine.database import Database
    from featurestore.storage.consumers import Consumer


def stat(database: Database, now_us: int) -> dict[str, Any]:
    """Return facts about a store; see :meth:`featurestore.FeatureStore.stat`."""
    env = database.env
    known = database.catalog().groups
    groups: dict[str, dict[str, Any]] = {}
    oldest_us = NO_EXPIRY
    with env.read(buffers=True) as txn:
        last_seq, last_us = commits.last(env, txn)
        for name, group in sorted(known.items()):
            state = manifest.state(env, txn, group.id)
            entries = manifest.live_files(env, txn, group.id)
            tail = journal.tail(env, txn, group.id, state.drained_seq)
            oldest_us = min(oldest_us, tail.first_time_us)
            groups[name] = {
                "keys": latest.count(env, txn, group.id),
                "history_rows": sum(e.visible_rows for e in entries) + tail.rows,
                "journal_rows": tail.rows,
                "journal_bytes": tail.size_bytes,
                "files": len(entries),
                "cells": sum(e.kind == "cell" for e in entries),
                "bytes": sum(e.size_bytes for e in entries),
                "last_flush": _moment(state.flushed_at_us),
                "schema_version": group.version,
            }
        used_bytes = env.used_bytes(txn)
        version = manifest.version(env, txn)
        followers = {
            name: _consumer(consumer, *consumers.lag(env, txn, consumer, now_us))
            for name, consumer in consumers.every(env, txn).items()
        }
        held_after = consumers.held_after(env, txn)
        lags = env.reader_lags(txn)
    info = env.info()
    return {
        "path": str(database.root),
        "durability": env.format["durability"],
        "seq": last_seq,
        "last_commit": to_datetime(last_us) if last_seq else None,
        "seconds_since_commit": (now_us - last_us) / 1e6 if last_seq else None,
        "oldest_unflushed_seconds": None if oldest_us == NO_EXPIRY else (now_us - oldest_us) / 1e6,
        "last_flush": max(
            (g["last_flush"] for g in groups.values() if g["last_flush"]), default=None
        ),
        "engine_bytes": used_bytes,
        "engine_file_bytes": (info["last_pgno"] + 1) * env.page_bytes,
        "quota_bytes": env.format["quota"],
        "history_bytes": sum(g["bytes"] for g in groups.values()),
        "readers": len(lags) - 1,  # one of them is this call's
        "oldest_reader_lag": max(lags, default=0),
        "manifest_version": version,
        "oldest_pin": oldest_pin(database.locks) if database.locks.exists() else None,
        "upkeep": _upkeep(database.locks / LOCK),
        "history_held_after": held_after,
        "consumers": followers,
        "groups": groups,
    }


def _upkeep(path: Path) -> dict[str, Any]:
    """Return what the process that does the upkeep says of itself, if there is one."""
    note: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        note = json.loads(files.content(path))
    running = bool(note) and files.is_held(path)
    return {
        "running": running,
        "pid": note.get("pid") if running else None,
        "doing": note.get("doing") if running else None,
        "failures": note.get("failures", 0),
        "last_error": note.get("last_error"),
        "last_error_at": _moment(note.get("last_error_at_us", 0)),
        "last_compaction": _moment(note.get("last_compaction_us", 0)),
    }


def _consumer(consumer: Consumer, records: int, behind_us: int) -> dict[str, Any]:
    return {
        "seq": consumer.seq,
        "lag_records": records,
        "lag_seconds": behind_us / 1e6,
        "dropped": consumer.dropped or None,
    }


def _moment(us: int) -> datetime | None:
    return to_datetime(us) if us else None
