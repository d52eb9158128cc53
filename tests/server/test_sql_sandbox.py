"""SQL of strangers: what was seen to get through DuckDB's own walls, and does not get through ours.

A canary file lies outside, a listener waits on loopback, and the store's folder is compared before
and after; whatever the query's answer is, none of them may tell of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore import wire
from featurestore.engine.database import open_database
from featurestore_server import sql_process
from featurestore_server.access import Caller, Door
from featurestore_server.confined import Task, Template, receive, tell
from featurestore_server.sql_pool import Query, SqlPool
from tests.server.sandbox import CANARY, World, sandbox
from tests.server.serving import LIMITS, serving
from tests.server.sql_fuzz import Grammar, ask


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with sandbox(tmp_path_factory.mktemp("sandbox")) as made:
        yield made


REFUSED = [
    # ── writing, in disguise ──
    "COPY weather TO 'DATA/out.parquet'",
    "COPY (SELECT 1) TO 'FILE'",
    "WITH x AS (COPY (SELECT 1) TO 'DATA/out.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'DATA/out.csv' RETURNING *) SELECT * FROM x",
    "WITH x AS (INSERT INTO weather VALUES ('a', now(), 1) RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM weather RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE weather SET temp = 1 RETURNING *) SELECT * FROM x",
    "SELECT * FROM (WITH x AS (COPY (SELECT 1) TO 'DATA/o.csv') SELECT 1)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'DATA/out.csv'",
    "EXPLAIN SELECT 1",
    "EXPORT DATABASE 'DATA/out'",
    "IMPORT DATABASE 'DATA'",
    "CREATE TABLE t AS SELECT 1",
    "CREATE VIEW weather2 AS SELECT 1",
    "CREATE MACRO m() AS TABLE SELECT 1",
    "DROP VIEW weather",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "CALL pragma_version()",
    "SELECT 1; COPY (SELECT 1) TO 'DATA/out.csv'",
    "SELECT 1; SELECT 2",
    # ── reading files ──
    "SELECT * FROM 'CANARY'",
    'SELECT * FROM "CANARY"',
    "SELECT * FROM read_csv('CANARY')",
    "SELECT * FROM read_csv_auto('CANARY')",
    "SELECT * FROM sniff_csv('CANARY')",
    "SELECT * FROM read_text('CANARY')",
    "SELECT * FROM read_text('LINK')",
    "SELECT * FROM read_blob('CANARY')",
    "SELECT * FROM read_json('CANARY')",
    "SELECT * FROM read_parquet('FILE')",
    "SELECT * FROM parquet_metadata('FILE')",
    "SELECT * FROM parquet_scan(['FILE', 'CANARY'])",
    "SELECT * FROM glob('DATA/*')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT (SELECT content FROM read_text('CANARY'))",
    "SELECT * FROM weather WHERE temp IN (SELECT 1 FROM read_csv('CANARY'))",
    "SELECT * FROM query('SELECT * FROM read_text(''CANARY'')')",
    "SELECT * FROM query_table('CANARY')",
    "FROM weather, LATERAL (FROM read_text('CANARY'))",
    "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 1 FROM read_text('CANARY')) FROM r",
    "PIVOT read_csv('CANARY') ON line USING count(*)",
    "DESCRIBE SELECT * FROM read_csv('CANARY')",
    "SUMMARIZE 'CANARY'",
    # ── the network, extensions, other databases ──
    "SELECT * FROM read_csv('http://127.0.0.1:PORT/x.csv')",
    "SELECT * FROM 'http://127.0.0.1:PORT/x.parquet'",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD 'CANARY'",
    "ATTACH 'DATA/x.db'",
    "ATTACH 'http://127.0.0.1:PORT/x.db'",
    "DETACH memory",
    "USE memory.main",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    # ── settings, and what tells of the machine ──
    "SET enable_external_access = true",
    "RESET allowed_paths",
    "PRAGMA database_list",
    "SET VARIABLE x = 1",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_logs()",
    "SELECT * FROM pragma_database_list()",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_tables",
    "SELECT * FROM sqlite_master",
    "SHOW TABLES",
    "SELECT current_setting('allowed_paths')",
    "SELECT current_setting('temp_directory')",
    "SELECT getenv('HOME')",
    "SELECT list_transform([1], lambda x: current_setting('allowed_paths'))",
    # ── groups that are none ──
    "SELECT * FROM memory.main.weather",
    "SELECT * FROM __1_tail",
    "SELECT * FROM temp.weather",
    # ── Python's own variables ──
    "SELECT * FROM CANARY_TABLE",
    "SELECT * FROM table",
    "SELECT * FROM snapshots",
]


@pytest.mark.parametrize("template", REFUSED)
def test_what_does_more_than_read_groups_is_refused(template: str, world: World) -> None:
    before = world.state()
    with pytest.raises((fs.InvalidQuery, fs.UnknownFeatureGroup)) as refused:
        world.remote.sql(world.texts(template))
    said = str(refused.value)
    assert CANARY not in said
    assert str(world.store.path) not in said.replace(str(world.files[0]), "")
    assert world.state() == before
    assert world.calls == []


def test_what_only_reads_is_answered(world: World) -> None:
    for query, rows in (
        ("SELECT * FROM weather", 101),
        ("FROM latest.weather WHERE temp > 50", 49),
        ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) FROM r", 5),
        ("FROM range(7)", 7),
        ("SELECT unnest([1, 2, 3])", 3),
        ("SELECT 1 UNION ALL SELECT 2", 2),
        ("PIVOT weather ON origin IN ('JFK', 'K1') USING sum(temp)", 1),
        ("DESCRIBE weather", 3),
    ):
        assert world.remote.sql(query).num_rows == rows, query


#: What DuckDB's own limits of time and memory were seen not to stop.
ENDLESS = [
    "SELECT list_sum(range(1000000000))",
    "SELECT count(*) FROM range(1000000000) a, range(1000000000) b",
    "SELECT repeat('a', 2000000000)",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r",
    "SELECT list_sum(list_transform(range(100000000), lambda x: x * x))",
    "SELECT count(DISTINCT i) FROM range(10000000000) t(i)",
]


@pytest.fixture(scope="module")
def brief(world: World) -> Iterator[Any]:
    """Give the store by a server with little time for a query."""
    limits = LIMITS._replace(sql_seconds=2.0)
    with serving(world.store, limits) as url, fs.connect(url) as remote:
        yield remote


@pytest.mark.parametrize("query", ENDLESS)
def test_a_query_without_end_is_dead_soon_after_its_time(
    query: str, brief: Any, world: World
) -> None:
    began = time.monotonic()
    with pytest.raises((fs.InvalidQuery, fs.TooLarge)) as refused:
        brief.sql(query)
    # The clock is the process's, and the machine may be busy: so much more than limit + 2 s.
    assert time.monotonic() - began < 22
    said = str(refused.value)
    assert "ran longer" in said or "memory" in said.lower()
    assert world.remote.sql("SELECT 1 AS one")["one"].to_pylist() == [1]


def test_an_answer_has_limits(world: World) -> None:
    small = LIMITS._replace(sql_rows=50)
    with serving(world.store, small) as url, fs.connect(url) as remote:
        assert remote.sql("FROM range(50)").num_rows == 50
        with pytest.raises(fs.TooLarge, match="more than 50 rows"):
            remote.sql("FROM range(51)")


def test_a_client_that_leaves_takes_its_query_with_it(world: World) -> None:
    query = b'{"query": "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"}'
    port = int(world.remote.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = b"POST /v1/sql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(query) + query)
        time.sleep(0.5)
    # One process is all there is: it is free again well before the time of the query is up.
    assert world.remote.sql("SELECT 1 AS one").num_rows == 1


WORDS = st.sampled_from(
    ["SELECT", "*", "FROM", "weather", "(", ")", "WITH", "x", "AS", "COPY", "TO", "'FILE'", ",",
     "read_text", "'CANARY'", "UNION", "ALL", "JOIN", "1", "ATTACH", ";", "EXPLAIN", "INSERT",
     "INTO", "VALUES", "LATERAL", "query", "PIVOT", "ON", "USING", "count", "glob", "'DATA/*'"]
)  # fmt: skip


@given(words=st.lists(WORDS, min_size=2, max_size=12))
def test_no_sentence_of_these_words_gets_out(words: list[str], world: World) -> None:
    before = world.state()
    said = ""
    with contextlib.suppress(fs.InvalidInput):
        try:
            said = str(world.remote.sql(world.texts(" ".join(words))).to_pylist())
        except fs.InvalidInput as error:
            said = str(error)
            raise
    assert CANARY not in said
    assert world.state() == before
    assert world.calls == []


def test_no_sentence_of_a_hostile_grammar_gets_out(world: World) -> None:
    before = world.state()
    answered = sum(ask(world, Grammar(seed).sentence()) for seed in range(80))
    assert 0 < answered < 80  # some of them are harmless
    assert world.state() == before


def test_a_query_finds_nothing_of_the_one_before(world: World) -> None:
    """Each runs in a process made for it, forked from one that has never seen a request."""
    door = Door(world.store, open_database(world.store.path))
    template = Template()
    made: list[int] = []

    class Watched(Template):
        def task(self, *args: Any) -> Task:
            task = template.task(*args)
            made.append(task.number)
            return task

    pool = SqlPool(door, LIMITS, Watched())
    try:
        for who, query in (("a", "FROM weather"), ("b", "SELECT 1"), ("a", "SELEC")):
            with contextlib.suppress(fs.InvalidQuery):
                pool.run(Caller(who, who, (("sql", "*"),)), query, None, {}, Query()).close()
        assert len(set(made)) == 3
        # What they are made from runs nothing, or it could not be copied safely.
        assert template._child is not None
        assert "\nThreads:\t1\n" in Path(f"/proc/{template._child.pid}/status").read_text()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{number}").exists() for number in made):
            assert time.monotonic() < deadline, "the process of a query outlives its answer"
            time.sleep(0.01)
    finally:
        template.close()
        door.database.close()


def test_a_template_that_dies_is_made_again(world: World) -> None:
    template = Template()
    try:
        with template.task("sql", 1 << 28) as task:
            assert task.number
        child = template._child
        assert child is not None
        child.kill()
        child.wait()
        with template.task("sql", 1 << 28) as task:
            tell(task.to, {"query": "SELECT 1", "params": None, "rows": 1, "bytes": 1000})
            assert json.loads(receive(task.of)) == {"tables": []}
    finally:
        template.close()
    with pytest.raises(fs.StoreBusy):
        template.task("sql", 1 << 28)
    assert world.calls == []


def test_an_answer_of_volume_is_never_in_memory_as_a_whole(world: World) -> None:
    query = b'{"query": "SELECT range AS i, repeat(\'x\', 100) AS s FROM range(1500000)"}'
    headers = {"accept": wire.ARROW, "content-type": "application/json"}
    with serving(world.store, LIMITS._replace(sql_seconds=120.0)) as url:
        before = resident_bytes()
        http = urllib3.PoolManager(retries=False)
        answer = http.request(
            "POST", f"{url}/v1/sql", body=query, headers=headers, preload_content=False
        )
        size = 0
        while piece := answer.read(1 << 18):
            size += len(piece)
            assert resident_bytes() - before < 100 << 20
    assert size > 150 << 20


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


# ── the walls behind the first ───────────────────────────────────────────────────────────────


def child(code: str) -> str:
    """Run code in a process of its own, behind the walls it puts up itself."""
    program = f"import socket, tempfile\nfrom featurestore_server import confined\n{code}\n"
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": paths},
    )
    return done.stdout + done.stderr


def test_the_process_cannot_write_a_file_whatever_is_run(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    said = child(
        "import duckdb; tempfile.gettempdir(); confined.confine(1 << 30)\n"
        f"duckdb.connect().execute(\"COPY (FROM range(1000)) TO '{out}'\")"
    )
    assert "Error" in said
    assert not out.exists() or out.stat().st_size == 0


def test_the_process_cannot_take_more_memory_than_it_was_given() -> None:
    said = child(
        "tempfile.gettempdir(); confined.confine(256 << 20)\n"
        "try: held = bytearray(300 << 20)\n"
        "except MemoryError: print('refused')"
    )
    assert said == "refused\n"


def test_the_process_has_no_network_where_the_system_can_take_it(world: World) -> None:
    said = child(
        "if confined.leave_network():\n"
        f"    try: socket.create_connection(('127.0.0.1', {world.port}), 2); print('called')\n"
        "    except OSError: print('alone')\n"
        "else: print('not taken')"
    )
    assert said in ("alone\n", "not taken\n")
    assert world.calls == []


def test_duckdb_itself_is_locked_onto_the_snapshot(world: World) -> None:
    """Behind the parse tree stands a database that can read nothing else."""
    from featurestore.engine.sql.session import session

    with session(kept=False) as duck:
        duck.confine([str(world.files[0])], 1 << 28)
        run = duck._connection.execute
        for template in (
            "SELECT * FROM read_text('CANARY')",
            "SELECT * FROM read_text('LINK')",
            "COPY (SELECT 1) TO 'DATA/out.csv'",
            "ATTACH 'DATA/x.db'",
            "INSTALL httpfs",
            "SELECT * FROM read_csv('http://127.0.0.1:PORT/x.csv')",
            "SET enable_external_access = true",
            "SET memory_limit = '10GB'",
            "SET allowed_paths = ['CANARY']",
        ):
            with pytest.raises(duckdb.Error):
                run(world.texts(template))


def test_a_function_that_tells_of_the_machine_is_found_wherever_it_stands() -> None:
    tree = {"a": [{"class": "FUNCTION", "function_name": "Current_Setting"}]}
    with pytest.raises(fs.InvalidQuery, match="current_setting"):
        sql_process.require_silent(tree)


CANARY_TABLE = pa.table({"line": [CANARY]})
