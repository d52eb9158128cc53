"""How close is a lookup, from Python, to what LMDB itself costs in C?

The rows are those of :func:`bench.datasets.entities`: 20 features, records of 224 bytes, a million
keys (full), looked up in random order.  C works on a copy of the store's own LMDB file with the
store's own keys, and copies each value out; that is all it does.

==============  ==================================================================================
case            the store answers with
==============  ==================================================================================
one             `get_record`: a dict of all features, or of three
batch_1000      `batch_get_record`: an Arrow table with status and age; keys given as a list, or as
batch_100       an Arrow array.  For few keys the fixed cost of any Arrow table is part of the
batch_10        limit: ``empty_table`` builds one of the same schema
features        `get_features`: five groups x 100 entities, at one snapshot
first           a new process: import, open, get one record
==============  ==================================================================================

**A surprise would be** a batch of 1,000 keys dearer than 1,000 times C: sorted keys touch pages in
order, and the decoding is a loop over bytes that are in the cache by then.

**The bound.**  A random `mdb_get` in a file larger than the caches is a handful of cache and TLB
misses; no path from Python can do one for less.  A single `get_record` adds the call, the key, the
checksum and a dict of 22 entries: some thirty calls of Python at 50 to 300 ns each, of which
py-lmdb's transaction and get are 1.4 µs, the seeded hash 0.6 and the dict 1.  These three with
checksum and unpacking, bare and without a call between them, took 35 % of a `get_record` in one run
(4.6 of 13.1 µs, 200,000 keys, beside other work), so about 3 x C is the floor; what lies between it
and 6 x is the clock, the plan, the key's encoding and types, header, status and the fences.  Five
groups x 100 entities are 500 lookups, 0.35 ms in C alone, so a hundredth of Feast's 80 ms (SQLite)
is twice that limit, and of its 41 ms (Redis) about the limit itself.

**Reached** (full size, medians of 3 rounds, CPU ratios; other work ran beside it, so quiet figures
are still to come; ``python -m bench online_get --size full``):

==============  ==================================================================================
one             8.4 x C (7.7 with three features); Feast on SQLite takes 24 x ours
batch_1000      1.4 to 1.8 x C; Feast on Redis takes 48 x ours
batch_100, 10   1.2 and 1.0 x (C + an empty table)
features        0.98 ms; Feast takes 83 x (SQLite), 42 x (Redis)
first           116 ms to import, 1.2 ms to open and get, 23 MiB; no heavy library loaded
==============  ==================================================================================

What is to the peers' advantage: Redis and py-lmdb hand out bytes, not decoded; Redis works in a
server whose CPU is not in its figure (it is in the result as ``server_cpu_s``); Feast's response is
not converted, and it searches a tenth of the rows.
"""  # noqa: D400  a benchmark asks a question

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench import datasets, feast_peer, online_world, peers
from bench.harness import ROOT, Case, Goal, Run, Side, ratio, timed_calls
from bench.online_world import GROUP, VIEW, VIEW_ENTITIES, VIEW_GROUPS

SIZES = online_world.SIZES
HEAVY = ("duckdb", "numba", "numpy", "pandas", "pyarrow")


def _batches(entities: Sequence[int], of: int) -> list[list[int]]:
    """Return whole batches; all of the entities as one where they are fewer."""
    whole = [list(entities[i : i + of]) for i in range(0, len(entities) - of + 1, of)]
    return whole or [list(entities)]


def _measure(run: Run, call: Callable[[Any], Any], arguments: Sequence[Any]) -> None:
    """Warm up, measure, then take the time of each call in a pass of its own."""
    with run.warming_up():
        for argument in arguments:
            call(argument)
    with run.measuring(len(arguments)):
        for argument in arguments:
            call(argument)
    run.latencies(timed_calls(call, arguments))


# ── one key ──────────────────────────────────────────────────────────────────────────────────


def _one_ours(run: Run, features: list[str] | None = None) -> None:
    import featurestore as fs

    with fs.open(run.path(online_world.STORE) / "store") as store:

        def get(key: int) -> Any:
            return store.get_record(GROUP, key, features)

        with run.compiling():
            get(0)
        _measure(run, get, _gets(run))
        if features is None:
            _answers(run, online_world.comparable(map(get, _checked(run))))


def _one_py_lmdb(run: Run, *, held: bool) -> None:
    stored = peers.Bytes(run.path(online_world.STORE) / "store", GROUP)
    keys = [stored.key(entity) for entity in _gets(run)]
    with peers.lmdb_latest(run.path(online_world.LMDB) / "env") as (env, latest):
        if held:
            with env.begin(db=latest) as txn:
                _measure(run, txn.get, keys)
        else:

            def get(key: bytes) -> bytes:
                with env.begin(db=latest) as txn:
                    return bytes(txn.get(key))

            _measure(run, get, keys)
        with env.begin(db=latest) as txn:
            records = [txn.get(stored.key(entity)) for entity in _checked(run)]
    _answers(run, stored.rows(_checked(run), records))


def _by_c(run: Run, *, batch: int, transaction: str) -> None:
    made = run.path(online_world.LMDB)
    gets, checked = made / "gets.keys", made / "checked.keys"
    with run.fresh() as folder:
        options = (made / "env", peers.LATEST, gets, batch, transaction, checked, folder / "found")
        peers.run_c(run, "get", *options)
        records = peers.read_values(folder / "found")
    assert run.found["found"] == 2 * run.size.gets  # the measured and the timed pass
    stored = peers.Bytes(run.path(online_world.STORE) / "store", GROUP)
    _answers(run, stored.rows(_checked(run), records))


def _one_sqlite(run: Run) -> None:
    connection = peers.sqlite(run.path(online_world.SQLITE) / "records.db")
    query = "SELECT * FROM records WHERE entity = ?"
    names = [column[0] for column in connection.execute(query, (0,)).description]

    def get(key: int) -> dict[str, Any]:
        return dict(zip(names, connection.execute(query, (key,)).fetchone(), strict=True))

    _measure(run, get, _gets(run))
    _answers(run, [peers.sqlite_answer(get(key)) for key in _checked(run)])
    connection.close()


def _by_redis(run: Run, *, batch: int) -> None:
    stored = peers.Bytes(run.path(online_world.STORE) / "store", GROUP)
    keys = [stored.key(entity) for entity in _gets(run)]
    with peers.Redis(run.path(online_world.REDIS)) as server:
        client = server.client
        before = server.cpu_seconds()
        if batch == 1:
            _measure(
                run, client.get, keys[: len(keys) // 10]
            )  # each takes a tenth of a millisecond
        else:
            _measure(run, client.mget, [keys[i : i + batch] for i in range(0, len(keys), batch)])
        passes = 3  # warm-up, measured, timed
        run.note(server_cpu_s=(server.cpu_seconds() - before) / passes)
        run.note(versions={"redis-server": server.version})
        found = client.mget([stored.key(entity) for entity in _checked(run)])
    _answers(run, stored.rows(_checked(run), found))


def _by_feast(run: Run, *, kind: str, batch: int) -> None:
    entities = [entity % run.size.feast_rows for entity in _gets(run)]
    calls = _batches(entities, batch)[: max(2, run.size.feast_gets // batch)]
    features = feast_peer.references(GROUP, datasets.FEATURES)
    with feast_peer.repository(run.path(online_world.FEAST[kind]), kind) as store:
        get = partial(feast_peer.ask, store, features)
        with run.compiling():
            get([0])
        _measure(run, get, calls)
        _answers(run, feast_peer.rows(get(_checked(run))))


def _gets(run: Run) -> list[int]:
    return online_world.numbers(run, "gets")


def _checked(run: Run) -> list[int]:
    return online_world.numbers(run, "checked")


def _answers(run: Run, rows: list[dict[str, Any]]) -> None:
    run.answers(rows, online_world.stored(run))


# ── batches ──────────────────────────────────────────────────────────────────────────────────


def _batch_ours(run: Run, *, batch: int, as_array: bool = False) -> None:
    import pyarrow as pa

    import featurestore as fs

    calls: list[Any] = _batches(_gets(run), batch)
    if as_array:
        calls = [pa.array(keys) for keys in calls]
    with fs.open(run.path(online_world.STORE) / "store") as store:

        def get(keys: Any) -> pa.Table:
            return store.batch_get_record({GROUP: keys})[GROUP]

        with run.compiling():
            get(calls[0])
        _measure(run, get, calls)
        found = get(_checked(run))
    _answers(run, _comparable(found))


def _comparable(found: Any) -> list[dict[str, Any]]:
    assert found.column("status").unique().to_pylist() == ["PRESENT"]
    return datasets.rows_of(found.drop_columns(["status", "age"]))


def _empty_table(run: Run) -> None:
    import featurestore as fs

    with fs.open(run.path(online_world.STORE) / "store", read_only=True) as store:
        schema = store.batch_get_record({GROUP: [0]})[GROUP].schema
    calls = range(1000)
    _measure(run, lambda _: schema.empty_table(), calls)


# ── feature views ────────────────────────────────────────────────────────────────────────────


def _view_calls(run: Run) -> list[list[int]]:
    entities = [entity % run.size.view_keys for entity in _gets(run)]
    return _batches(entities, VIEW_ENTITIES)[: run.size.view_calls]


def _view_rows(run: Run, entities: list[int]) -> list[dict[str, Any]]:
    tables = [online_world.view_table(run, group).take(entities) for group in VIEW_GROUPS]
    parts = zip(*(datasets.rows_of(table) for table in tables), strict=True)
    return [{name: value for part in row for name, value in part.items()} for row in parts]


def _features_ours(run: Run) -> None:
    import pyarrow as pa

    import featurestore as fs

    calls = [pa.table({datasets.ENTITY: keys}) for keys in _view_calls(run)]
    with fs.open(run.path(online_world.VIEWS) / "store") as store:
        get = partial(store.get_features, VIEW)
        with run.compiling():
            get(calls[0])
        _measure(run, get, calls)
        found = get(calls[0]).to_pylist()
    run.answers(found, _view_rows(run, calls[0].column(0).to_pylist()))


def _features_feast(run: Run, *, kind: str) -> None:
    calls = _view_calls(run)[: max(2, run.size.view_calls // 10)]
    features = online_world.view_features(":")
    with feast_peer.repository(run.path(online_world.FEAST[kind]), kind) as store:
        get = partial(feast_peer.ask, store, features)
        with run.compiling():
            get([0])
        _measure(run, get, calls)
        found = feast_peer.rows(get(calls[0]))
    run.answers(found, _view_rows(run, calls[0]))


# ── a new process ────────────────────────────────────────────────────────────────────────────

# Nothing but what is timed is imported: the harness would be a good part of the whole.
_FIRST_GET = """
import sys, time
start = time.perf_counter()
import featurestore as fs
imported = time.perf_counter()
with fs.open(sys.argv[1]) as store:
    record = store.get_record(sys.argv[2], 7)
    got = time.perf_counter()
assert record["entity"] == 7
loaded = [name for name in sys.argv[3:] if name in sys.modules]
said = {"import_us": (imported - start) * 1e6, "open_and_get_us": (got - imported) * 1e6}
said |= {"heavy": len(loaded)}
"""
_BARE = "said = {}"
_SAY = """
for line in open("/proc/self/status"):
    if line.startswith(("VmHWM", "RssAnon")):
        name = {"VmHWM": "peak_bytes", "RssAnon": "anonymous_bytes"}[line.split(":")[0]]
        said[name] = int(line.split()[1]) * 1024
print(str(said).replace("'", '"'))
"""


def _first(run: Run, code: str, *arguments: str) -> None:
    """Start one process after the other; what they say of themselves is taken from the last."""
    command = [sys.executable, "-c", code + _SAY, *arguments]
    said: dict[str, Any] = {}

    def start(_: int) -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        said.update(json.loads(done.stdout))

    with run.warming_up():
        start(0)
    with run.measuring(run.size.starts):
        taken = timed_calls(start, range(run.size.starts))
    run.latencies(taken)
    run.note(**said)


def _first_ours(run: Run) -> None:
    _first(run, _FIRST_GET, str(run.path(online_world.STORE) / "store"), GROUP, *HEAVY)


def _first_bare(run: Run) -> None:
    _first(run, _BARE)


# ── cases ────────────────────────────────────────────────────────────────────────────────────

_Store = partial(Side, steps=(online_world.STORE,))
_Lmdb = partial(Side, steps=(online_world.LMDB,))
_C = partial(_Lmdb, needs=peers.c_compiler)
_Redis = partial(Side, "redis", gives="bytes", steps=(online_world.REDIS,))
_Feast = {
    kind: partial(
        Side, f"feast_{kind}", gives="a response, not converted", venv="feast", steps=(step,)
    )
    for kind, step in online_world.FEAST.items()
}

_THREE = ["f03", "i1", "label"]

ONE = Case(
    "one",
    "get_record, one key",
    "key",
    (
        _Store("ours", _one_ours, "a dict of 22"),
        _Store("ours_3", partial(_one_ours, features=_THREE), "a dict of 3"),
        _C("c", partial(_by_c, batch=1, transaction="renew"), "bytes; txn renewed for each"),
        _C("c_held", partial(_by_c, batch=1, transaction="hold"), "bytes; one txn for all"),
        _Lmdb("py_lmdb", partial(_one_py_lmdb, held=False), "bytes; a txn for each"),
        _Lmdb("py_lmdb_held", partial(_one_py_lmdb, held=True), "bytes; one txn for all"),
        Side("sqlite", _one_sqlite, "a dict of 22", steps=(online_world.SQLITE,)),
        _Redis(partial(_by_redis, batch=1)),
        _Feast["sqlite"](partial(_by_feast, kind="sqlite", batch=1)),
    ),
    (
        ratio("ours", "c", at_most=6),
        ratio("ours", "c_held"),
        ratio("ours_3", "c"),
        ratio("ours", "py_lmdb"),
        ratio("sqlite", "ours"),
        ratio("redis", "ours", of="p50_us"),
        ratio("feast_sqlite", "ours", at_least=100),
    ),
    rounds=5,
)


def _batch_case(batch: int) -> Case:
    ours = partial(_batch_ours, batch=batch)
    sides = [
        _Store("ours", ours, "Arrow; keys as a list"),
        _Store("ours_array", partial(ours, as_array=True), "Arrow; keys as an array"),
        _C("c", partial(_by_c, batch=batch, transaction="renew"), "bytes"),
    ]
    if batch == 1000:
        sides.append(_Redis(partial(_by_redis, batch=batch)))
        sides.append(_Feast["redis"](partial(_by_feast, kind="redis", batch=batch)))
        goals: tuple[Goal, ...] = (
            ratio("ours", "c", at_most=1.5),
            ratio("ours_array", "c"),
            ratio("redis", "ours", of="wall_us"),
            ratio("feast_redis", "ours", at_least=100),
        )
    else:
        sides.append(_Store("empty_table", _empty_table, "Arrow, no rows"))
        goals = (
            ratio("ours", ("c", "empty_table"), at_most=1.5),
            ratio("ours_array", ("c", "empty_table")),
        )
    question = f"batch_get_record, {batch} random keys a call"
    return Case(f"batch_{batch}", question, "call", tuple(sides), goals, rounds=5)


FEATURES = Case(
    "features",
    f"get_features, {len(VIEW_GROUPS)} groups x {VIEW_ENTITIES} entities a call",
    "call",
    (
        Side("ours", _features_ours, "Arrow", steps=(online_world.VIEWS,)),
        _Feast["sqlite"](partial(_features_feast, kind="sqlite")),
        _Feast["redis"](partial(_features_feast, kind="redis")),
    ),
    (
        ratio("feast_sqlite", "ours", at_least=100),
        ratio("feast_redis", "ours", at_least=100),
    ),
    rounds=5,
)


def _of_ours(name: str, figure: str, unit: str, scale: float = 1, **bound: float) -> Goal:
    return Goal(name, ("ours",), lambda f: f["ours"][figure] / scale, unit=unit, **bound)


FIRST = Case(
    "first",
    "a new process: import, open, first get",
    "process",
    (
        _Store("ours", _first_ours, "one record"),
        Side("bare", _first_bare, "Python alone"),
    ),
    (
        _of_ours(f"loaded of {', '.join(HEAVY)}", "heavy", "", at_most=0),
        _of_ours("import featurestore", "import_us", " ms", 1e3),
        _of_ours("open and first get", "open_and_get_us", " ms", 1e3),
        _of_ours("peak memory", "peak_bytes", " MiB", 2**20),
        ratio("ours", "bare", of="p50_us"),
    ),
    rounds=5,
)

CASES = (ONE, *map(_batch_case, (1000, 100, 10)), FEATURES, FIRST)
