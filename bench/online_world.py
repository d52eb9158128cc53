"""What ``online_get`` and ``online_put`` stand on: one online store, as each peer holds it.

::

    entities ─┬─► store ────► lmdb ────► redis     a copy of its LMDB file; the records in it
              ├─► store-rebuildable
              ├─► sqlite
              └─► feast-sqlite, feast-redis        fewer rows: Feast takes a minute for 100k
    store-views                                    five groups, for get_features
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import datasets, feast_peer, peers
from bench.harness import Run, Step

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = "online"
VIEW = "five"
VIEW_GROUPS = tuple(f"v{i}" for i in range(5))
VIEW_ENTITIES = 100
CHECKED = 100


@dataclass(frozen=True)
class Size:
    """The numbers of one size.

    Attributes
    ----------
    keys, gets : int
        Records in the store; lookups, of one key or in batches.
    put_rows, put_batches : int
        Rows of a transaction, and transactions, of which the first warms up.
    strict_puts : int
        Durable transactions of one record by one thread; sixteen do eight times as many together.
    put_seconds, background_rows : float, int
        How long puts are timed beside ingests of so many rows each.
    feast_rows, feast_gets : int
        Rows in Feast, and lookups of it, which take a millisecond each.
    view_keys, view_calls : int
        Records in each of five groups, and calls of `get_features`.
    starts : int
        New processes.
    """

    keys: int
    gets: int
    put_rows: int
    put_batches: int
    strict_puts: int
    put_seconds: float
    background_rows: int
    feast_rows: int
    feast_gets: int
    view_keys: int
    view_calls: int
    starts: int


SIZES = {
    "tiny": Size(
        keys=2_000, gets=200, put_rows=200, put_batches=3, strict_puts=24, put_seconds=0.2,
        background_rows=20_000, feast_rows=400, feast_gets=20, view_keys=200,
        view_calls=2, starts=2,
    ),
    "small": Size(
        keys=100_000, gets=20_000, put_rows=10_000, put_batches=6, strict_puts=400, put_seconds=5,
        background_rows=500_000, feast_rows=10_000, feast_gets=1_000, view_keys=5_000,
        view_calls=50, starts=5,
    ),
    "full": Size(
        keys=1_000_000, gets=200_000, put_rows=10_000, put_batches=31, strict_puts=2_000,
        put_seconds=15, background_rows=2_000_000, feast_rows=100_000, feast_gets=5_000,
        view_keys=20_000, view_calls=200, starts=10,
    ),
}  # fmt: skip


# ── making ───────────────────────────────────────────────────────────────────────────────────


def _make_entities(run: Run, folder: Path) -> None:
    import numpy as np

    size = run.size
    datasets.save(datasets.entities(size.keys, run.seed), folder / "entities.arrow")
    put = datasets.updates(size.put_rows * size.put_batches, size.keys, run.seed)
    datasets.save(put, folder / "updates.arrow")
    chance = np.random.default_rng((run.seed, 4))
    np.save(folder / "gets.npy", chance.integers(0, size.keys, size.gets))
    np.save(folder / "checked.npy", chance.integers(0, size.feast_rows, CHECKED))


ENTITIES = Step("entities", _make_entities)


def table(run: Run, name: str = "entities") -> pa.Table:
    """Return the entities, or their updates."""
    return datasets.read(run.path(ENTITIES) / f"{name}.arrow")


def numbers(run: Run, name: str) -> list[int]:
    """Return the entities to look up, ``gets``, or those whose answer is compared, ``checked``."""
    import numpy as np

    found: list[int] = np.load(run.path(ENTITIES) / f"{name}.npy").tolist()
    return found


def _make_store(run: Run, folder: Path, durability: str = "strict") -> None:
    import featurestore as fs

    entities = table(run)
    with fs.open(folder / "store", durability=durability) as store:
        store.create_feature_group(
            GROUP,
            record_identifier=datasets.ENTITY,
            event_time=datasets.EVENT_TIME,
            features=datasets.features_schema(entities),
        )
        store.ingest(GROUP, entities)


def _make_rebuildable(run: Run, folder: Path) -> None:
    _make_store(run, folder, "rebuildable")


STORE = Step("store", _make_store, after=(ENTITIES,))
REBUILDABLE = Step("store-rebuildable", _make_rebuildable, after=(ENTITIES,))


def _make_lmdb(run: Run, folder: Path) -> None:
    (folder / "env").mkdir()
    shutil.copyfile(run.path(STORE) / "store/engine/data.mdb", folder / "env/data.mdb")
    stored = peers.Bytes(run.path(STORE) / "store", GROUP)
    for name in ("gets", "checked"):
        keys = [stored.key(entity) for entity in numbers(run, name)]
        peers.write_keys(folder / f"{name}.keys", keys)
    peers.write_puts(folder / "updates.puts", stored.puts(table(run, "updates")))


LMDB = Step("lmdb", _make_lmdb, after=(STORE,))


def _make_sqlite(run: Run, folder: Path) -> None:
    peers.sqlite_make(folder / "records.db", table(run))


SQLITE = Step("sqlite", _make_sqlite, after=(ENTITIES,))


def _make_redis(run: Run, folder: Path) -> None:
    with (
        peers.Redis(folder) as server,
        peers.lmdb_latest(run.path(LMDB) / "env") as (env, latest),
        env.begin() as txn,
        server.client.pipeline(transaction=False) as pipe,
    ):
        for number, (key, value) in enumerate(txn.cursor(latest)):
            pipe.set(bytes(key), bytes(value))
            if number % 10_000 == 9_999:
                pipe.execute()
        pipe.execute()
        server.client.save()


REDIS = Step("redis", _make_redis, peers.redis_server, after=(LMDB,))


def view_table(run: Run, group: str) -> pa.Table:
    """Return the rows of one of the five groups; features are named for their group."""
    number = VIEW_GROUPS.index(group)
    rows = datasets.entities(run.size.view_keys, run.seed + 100 + number)
    names = [n if n not in datasets.FEATURES else f"{group}_{n}" for n in rows.column_names]
    return rows.rename_columns(names)


def view_features(between: str) -> list[str]:
    """Name the features of all five groups, group and feature joined as a store wants it."""
    return [f"{group}{between}{group}_{f}" for group in VIEW_GROUPS for f in datasets.FEATURES]


def _make_views(run: Run, folder: Path) -> None:
    import featurestore as fs

    with fs.open(folder / "store") as store:
        for group in VIEW_GROUPS:
            rows = view_table(run, group)
            store.create_feature_group(
                group,
                record_identifier=datasets.ENTITY,
                event_time=datasets.EVENT_TIME,
                features=datasets.features_schema(rows),
            )
            store.ingest(group, rows)
        store.create_feature_view(VIEW, view_features(":"))


VIEWS = Step("store-views", _make_views)


def _make_feast(run: Run, folder: Path, kind: str) -> None:
    tables = {GROUP: table(run).slice(0, run.size.feast_rows)}
    tables |= {group: view_table(run, group) for group in VIEW_GROUPS}
    with feast_peer.repository(folder, kind, keep=True) as store:
        for name, rows in tables.items():
            feast_peer.register(store, folder, name, rows)
            store.write_to_online_store(name, feast_peer.frame(rows))


def _make_feast_sqlite(run: Run, folder: Path) -> None:
    _make_feast(run, folder, "sqlite")


def _make_feast_redis(run: Run, folder: Path) -> None:
    _make_feast(run, folder, "redis")


FEAST = {
    "sqlite": Step(
        "feast-sqlite", _make_feast_sqlite, peers.feast, venv="feast", after=(ENTITIES,)
    ),
    "redis": Step(
        "feast-redis", _make_feast_redis, peers.feast_redis, venv="feast", after=(ENTITIES,)
    ),
}


# ── answers ──────────────────────────────────────────────────────────────────────────────────


def stored(run: Run) -> list[dict[str, Any]]:
    """Return the rows in the store of the entities in ``checked``."""
    return datasets.rows_of(table(run).take(numbers(run, "checked")))


def comparable(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records of a store as answers are compared: without the event time."""
    return [
        {name: value for name, value in record.items() if name != datasets.EVENT_TIME}
        for record in records
    ]
