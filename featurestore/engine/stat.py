"""Stat: sizes and counts of a store at one moment, for people and for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.engine.snapshot import oldest_pin
from featurestore.event_time import to_datetime
from featurestore.storage import commits, journal, latest, manifest

if TYPE_CHECKING:
    from featurestore.engine.database import Database


def stat(database: Database, now_us: int) -> dict[str, Any]:
    """Return facts about a store.

    Returns
    -------
    dict
        ``seq`` and ``last_commit``; ``engine_bytes`` in use of ``quota_bytes``, ``map_bytes`` of
        the LMDB file; ``history_bytes``; ``readers``, ``oldest_pin`` (a manifest version) and
        ``manifest_version``; and ``groups``: for each the number of keys, history rows, of those
        in the journal, files and of those cells, bytes, and schema version.
    """
    env = database.env
    with database.read() as txn:
        last_seq, last_us = commits.last(env, txn)
        groups = {}
        for name, group in sorted(database.catalog_at(txn).groups.items()):
            state = manifest.state(env, txn, group.id)
            entries = database.files_at(txn, group.id)
            tail = journal.tail_rows(env, txn, group.id, state.drained_seq)
            groups[name] = {
                "keys": latest.count(env, txn, group.id),
                "history_rows": sum(e.visible_rows for e in entries) + tail,
                "journal_rows": tail,
                "files": len(entries),
                "cells": sum(e.kind == "cell" for e in entries),
                "bytes": sum(e.size_bytes for e in entries),
                "schema_version": group.version,
            }
        engine_bytes = env.used_bytes(txn)
        version = manifest.version(env, txn)
    info = env.info()
    return {
        "path": str(database.root),
        "durability": env.format["durability"],
        "seq": last_seq,
        "last_commit": to_datetime(last_us) if last_seq else None,
        "seconds_since_commit": (now_us - last_us) / 1e6 if last_seq else None,
        "engine_bytes": engine_bytes,
        "quota_bytes": env.format["quota"],
        "map_bytes": (info["last_pgno"] + 1) * env.page_bytes,
        "history_bytes": sum(g["bytes"] for g in groups.values()),
        "readers": info["num_readers"],
        "manifest_version": version,
        "oldest_pin": oldest_pin(database.locks) if database.locks.exists() else None,
        "groups": groups,
    }
