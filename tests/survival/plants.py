"""Planted faults: for each promise a patch that breaks it, and what finds it.

A patch is sown into a process (`sow`), by the test itself or by the children of a campaign, and is
never part of the package.  ``tests/test_survival.py`` sows each, and insists that it is found.

=================  ====================================  ==========================================
planted            breaks                                found by
=================  ====================================  ==========================================
no-fsync           durable when acknowledged             power cuts
unsynced-file      a listed file is durable              power cuts
two-transactions   online and history never part         fault stepping
half-batch         a write of several groups is atomic   fault stepping
retry-counts       a retry counts once                   fault stepping
late-wins          the newest event time is served       recorded histories
stale-read         what is acknowledged is seen          recorded histories
no-flusher-guard   a stretch is flushed once             a flusher that wakes up late
no-swap-guard      a compaction loses nothing            a compactor that wakes up late
no-turn            an ingest counts once                 an ingester that wakes up late
wrong-tombstone    a delete holds from its event time    the pictures (``tests/cases``)
ttl-off-by-one     live while clock < expires_at         the pictures
hash-is-key        equal hash is not equal key           nine keys of four hashes
=================  ====================================  ==========================================
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurestore.engine import compactor, flusher, staging, writer
from featurestore.engine.writer import Commit, Outcome, Put
from featurestore.storage import environment, files, journal, latest, manifest, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    #: What is patched: owner, attribute, and what takes its place.
    Patches = list[tuple[Any, str, Any]]


def _no_fsync() -> Patches:
    connect = environment.Environment._connect
    return [
        (environment.Environment, "_connect", lambda self, **_: connect(self, sync=False)),
        *_unsynced_file(),
    ]


def _unsynced_file() -> Patches:
    return [(files, "_sync", lambda *_: None)]


def _two_transactions() -> Patches:
    """Write history in a transaction of its own, right after that of the online record."""
    held: list[tuple[int, int, bytes, bytes]] = []
    commit_jobs = writer.Writer._commit

    def hold(_: Commit, group_id: int, seq: int, key: bytes, record: bytes) -> None:
        held.append((group_id, seq, key, record))

    def then_history(self: writer.Writer, jobs: Any) -> None:
        commit_jobs(self, jobs)
        rows, held[:] = list(held), []
        if rows:
            with self._env.write() as txn:
                for group_id, seq, key, record in rows:
                    journal.append(self._env, txn, group_id, [(seq, key, record)])

    return [(Commit, "journal", hold), (writer.Writer, "_commit", then_history)]


def _late_wins() -> Patches:
    apply = writer.apply

    def last_wins(commit: Commit, put: Put) -> Outcome:
        outcome = apply(commit, put)
        if outcome.outcome == "late":
            record = writer.stamp(put.record, put.key, outcome.seq, commit.write_time_us)
            latest.put_at(commit.env, commit.txn, put.lmdb_key, put.key, record)
        return outcome

    return [(writer, "apply", last_wins)]


def _half_batch() -> Patches:
    """Commit the records of a write one by one."""
    from featurestore.engine.database import Database

    whole = Database.apply

    def by_halves(
        self: Database, puts: Sequence[Put], version: int, request: Any, now_us: int
    ) -> Any:
        outcomes: list[Outcome] = []
        replayed = False
        for number, put in enumerate(puts):
            one = request
            if request is not None and len(puts) > 1:
                digest = requests.content_digest(put.asked_bytes())
                one = requests.Request(request.scope, f"{request.id}/{number}", digest)
            some, replayed = whole(self, [put], version, one, now_us)
            outcomes += some or []
        return outcomes, replayed

    return [(Database, "apply", by_halves)]


def _no_flusher_guard() -> Patches:
    def commit(commit: Commit, entry: Any, drained_seq: int, last_seq: int) -> bool:  # noqa: ARG001
        env, txn = commit.env, commit.txn
        manifest.list_file(env, txn, entry)
        state = manifest.state(env, txn, entry.group_id)
        last_seq = max(last_seq, state.drained_seq)
        manifest.put_state(env, txn, entry.group_id, replace(state, drained_seq=last_seq))
        return True

    return [(flusher, "_commit", commit)]


def _no_swap_guard() -> Patches:
    """Swap the files whether the inputs are still listed or not."""

    def commit(self: compactor._Work, commit: Commit) -> bool:
        env, txn = commit.env, commit.txn
        for entry in self.inputs:
            manifest.unlist(env, txn, entry, commit.write_time_us)
        for entry in self.outputs:
            manifest.list_file(env, txn, entry)
        state = manifest.state(env, txn, self.group.id)
        manifest.put_state(env, txn, self.group.id, replace(state, windows=self.windows))
        return True

    return [(compactor._Work, "_commit", commit)]


def _no_turn() -> Patches:
    return [(staging._Slices, "_require_turn", lambda *_: None)]


def _wrong_tombstone() -> Patches:
    """Let a delete win over what is there, whatever its event time."""
    apply = writer.apply

    def delete_wins(commit: Commit, put: Put) -> Outcome:
        outcome = apply(commit, put)
        if outcome.outcome == "late" and writer.read_header(put.record).flags:
            record = writer.stamp(put.record, put.key, outcome.seq, commit.write_time_us)
            latest.put_at(commit.env, commit.txn, put.lmdb_key, put.key, record)
        return outcome

    return [(writer, "apply", delete_wins)]


def _ttl_off_by_one() -> Patches:
    """Let a record live at the moment it expires."""
    from featurestore.engine import reader

    status_of = reader.status_of
    return [(reader, "status_of", lambda header, clock_us: status_of(header, clock_us - 1))]


def _hash_is_key() -> Patches:
    """Latest records are looked up by hash alone."""
    from featurestore.encoding import keys

    def lmdb_key(self: keys.KeyHash, prefix: bytes, key: bytes) -> bytes:
        return prefix + (self(key) + 2**63).to_bytes(8, "big")

    return [(keys.KeyHash, "lmdb_key", lmdb_key)]


def _stale_read() -> Patches:
    """Answer every other lookup with what was seen before."""
    from featurestore.store import FeatureStore

    get = FeatureStore.get_record
    seen: dict[Any, Any] = {}

    def remembered(self: FeatureStore, group: str, key: Any, *args: Any, **how: Any) -> Any:
        if (group, key) in seen:
            return seen.pop((group, key))
        seen[group, key] = found = get(self, group, key, *args, **how)
        return found

    return [(FeatureStore, "get_record", remembered)]


def _retry_counts() -> Patches:
    return [(requests, "find", lambda *_: None)]


PLANTS: dict[str, Callable[[], Patches]] = {
    "no-fsync": _no_fsync,
    "unsynced-file": _unsynced_file,
    "two-transactions": _two_transactions,
    "late-wins": _late_wins,
    "half-batch": _half_batch,
    "no-flusher-guard": _no_flusher_guard,
    "no-swap-guard": _no_swap_guard,
    "no-turn": _no_turn,
    "wrong-tombstone": _wrong_tombstone,
    "ttl-off-by-one": _ttl_off_by_one,
    "hash-is-key": _hash_is_key,
    "stale-read": _stale_read,
    "retry-counts": _retry_counts,
}


def sow(name: str) -> None:
    """Break a promise in this process, for good."""
    for owner, attribute, broken in PLANTS[name]():
        assert hasattr(owner, attribute), f"{name} is planted in what is not there: {attribute}"
        setattr(owner, attribute, broken)
