"""Hostile SQL by a grammar: sentences that parse, with something that must not be in some place.

``python -m tests.server.sql_fuzz [--cases 20000] [--seed 0]`` asks a served store; the short form
is in ``test_sql_sandbox``.  A canary file lies outside, a listener waits on loopback, the data
folder is compared before and after.  No answer and no error may tell of the canary, nobody may
call, nothing may change, and every process that ran a query is gone after it.

::

    query    := SELECT items FROM tables [WHERE test] | WITH name AS (query | STATEMENT) query
              | query UNION ALL query | PIVOT … | DESCRIBE query
    table    := group | (query) | LATERAL (query) | FILE FUNCTION | 'path' | catalog
    item     := number | text | column | (query) | function(items) | TELLING FUNCTION
    STATEMENT, FILE FUNCTION, 'path', catalog, TELLING FUNCTION: what must be refused
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
from pathlib import Path

import featurestore as fs
from tests.server.sandbox import CANARY, World, sandbox

FILES = ["'CANARY'", "'LINK'", "'FILE'", "'DATA/*'", "'/etc/passwd'", "'DATA/../../canary.csv'",
         "'http://127.0.0.1:PORT/x.csv'", "'s3://bucket/x.parquet'", "'file://CANARY'",
         "'\\\\127.0.0.1\\x'", "'hf://datasets/x/y.csv'"]  # fmt: skip
READERS = ["read_csv", "read_csv_auto", "read_text", "read_blob", "read_json", "read_json_auto",
           "read_ndjson", "read_parquet", "parquet_scan", "parquet_metadata", "parquet_schema",
           "parquet_kv_metadata", "parquet_file_metadata", "sniff_csv", "glob", "query",
           "query_table", "duckdb_settings", "duckdb_secrets", "duckdb_logs", "duckdb_views",
           "pragma_database_list", "pragma_table_info", "checkpoint", "arrow_scan",
           "pandas_scan", "python_map_function", "seq_scan", "which_secret", "test_all_types",
           "sql_auto_complete", "icu_calendar_names", "repeat_row"]  # fmt: skip
STATEMENTS = ["COPY (QUERY) TO 'DATA/fuzz.csv'", "COPY weather TO 'DATA/fuzz.parquet'",
              "INSERT INTO weather VALUES ('a', now(), 1) RETURNING *",
              "DELETE FROM weather RETURNING *", "UPDATE weather SET temp = 1 RETURNING *",
              "ATTACH 'DATA/fuzz.db'", "INSTALL httpfs", "LOAD httpfs", "SET threads = 64",
              "PRAGMA version", "CREATE TABLE fuzz AS QUERY", "EXPORT DATABASE 'DATA/fuzz'",
              "CALL pragma_version()", "EXPLAIN ANALYZE QUERY", "CHECKPOINT",
              "CREATE MACRO fuzz() AS TABLE QUERY", "DROP VIEW weather", "VACUUM"]  # fmt: skip
CATALOGS = ["information_schema.tables", "pg_catalog.pg_class", "duckdb_tables", "sqlite_master",
            "memory.main.weather", "system.main.duckdb_settings", "temp.x", "__1_tail",
            "__1_latest", "pragma_storage_info"]  # fmt: skip
TELLING = ["current_setting('allowed_paths')", "getenv('HOME')", "getvariable('x')",
           "current_setting('temp_directory')", "write_log('x')"]  # fmt: skip
ITEMS = ["1", "'text'", "temp", "origin", "NULL", "hour", "temp + 1", "[1, 2]", "{'a': 1}", "*",
         "count(*)", "COLUMNS(*)", "now()", "version()", "current_user", "pi()"]  # fmt: skip
CALLS = ["abs", "length", "lower", "list_transform", "struct_pack", "coalesce", "any_value",
         "unnest", "list_reduce", "json_extract", "try_cast"]  # fmt: skip


class Grammar:
    """Makes sentences; a share of their places is hostile."""

    def __init__(self, seed: int, hostile: float = 0.15) -> None:
        self._chance = random.Random(seed)
        self._hostile = hostile

    def _pick(self, *choices: str) -> str:
        return self._chance.choice(choices)

    def _is_hostile(self) -> bool:
        return self._chance.random() < self._hostile

    def sentence(self) -> str:
        """Return one."""
        text = self.query(3)
        if self._is_hostile():
            text = self._pick(
                f"{text}; {self.statement(1)}", f"{self.statement(1)}; {text}",
                f"EXPLAIN {text}", f"DESCRIBE {text}", f"SUMMARIZE {text}", f"({text})",
                f"/* */ {text} --", f"PREPARE p AS {text}", f"FROM ({text})",
            )  # fmt: skip
        return text

    def statement(self, depth: int) -> str:
        """Return what does more than read."""
        return self._pick(*STATEMENTS).replace("QUERY", self.query(depth - 1))

    def query(self, depth: int) -> str:
        """Return a query, or what looks like one."""
        items = ", ".join(self.item(depth - 1) for _ in range(self._chance.randint(1, 3)))
        plain = f"SELECT {items} FROM {self.tables(depth - 1)}"
        if depth <= 0:
            return self._pick(
                "SELECT 1", f"SELECT {self._pick(*ITEMS)} FROM weather", "FROM weather"
            )
        body = self.statement(depth) if self._is_hostile() else self.query(depth - 1)
        return self._pick(
            plain,
            f"{plain} WHERE {self.item(depth - 1)} IN ({self.query(depth - 1)})",
            f"WITH w AS ({body}) SELECT * FROM w",
            f"WITH RECURSIVE w AS (SELECT 1 UNION {body}) SELECT * FROM w LIMIT 5",
            f"WITH w AS MATERIALIZED ({body}) {self.query(depth - 1)}",
            f"{self.query(depth - 1)} UNION ALL {self.query(depth - 1)}",
            f"PIVOT ({plain}) ON origin IN ('a') USING count(*)",
            f"SELECT (SELECT {self.item(depth - 1)} FROM {self.tables(depth - 1)} LIMIT 1)",
            f"VALUES ({self.item(depth - 1)})",
        )

    def tables(self, depth: int) -> str:
        """Return what a query reads."""
        if self._is_hostile():
            file = self._pick(*FILES)
            return self._pick(
                file,
                file.replace("'", '"'),
                f"{self._pick(*READERS)}({file})",
                f"{self._pick(*READERS)}([{file}, {self._pick(*FILES)}])",
                f"{self._pick(*READERS)}(({self.query(0)}))",
                self._pick(*CATALOGS),
            )
        if depth <= 0:
            return self._pick("weather", "history.weather", "latest.weather", "range(3)")
        return self._pick(
            "weather",
            f"({self.query(depth - 1)})",
            f"weather, LATERAL ({self.query(depth - 1)})",
            f"weather JOIN {self.tables(depth - 1)} USING (origin)",
            f"weather POSITIONAL JOIN {self.tables(depth - 1)}",
        )

    def item(self, depth: int) -> str:
        """Return one value of a query."""
        if self._is_hostile():
            return self._pick(*TELLING, f"{self._pick(*READERS)}({self._pick(*FILES)})")
        if depth <= 0:
            return self._pick(*ITEMS)
        return self._pick(
            self._pick(*ITEMS),
            f"({self.query(depth - 1)})",
            f"{self._pick(*CALLS)}({self.item(depth - 1)})",
            f"list_transform([1], lambda x: {self.item(depth - 1)})",
            f"EXISTS ({self.query(depth - 1)})",
        )


def ask(world: World, sentence: str) -> bool:
    """Ask one; returns whether it was answered.  Raises AssertionError if it got through a wall."""
    said, answered = "", False
    with contextlib.suppress(fs.InvalidInput, fs.FeatureStoreError):
        try:
            found = world.remote.sql(world.texts(sentence))
            answered, said = True, str(found.slice(0, 1000).to_pylist())
        except fs.FeatureStoreError as error:
            said = str(error)
            assert "failed inside" not in said or "DuckDB" in said, (sentence, said)
            raise
    assert CANARY not in said, sentence
    assert "root:" not in said, sentence
    if answered:
        assert str(world.store.path) not in said, sentence
    assert world.calls == [], sentence
    return answered


def main() -> int:
    """Ask many."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    import tempfile

    answered = 0
    with tempfile.TemporaryDirectory() as folder, sandbox(Path(folder)) as world:
        before = world.state()
        for number in range(asked.cases):
            answered += ask(world, Grammar(asked.seed + number).sentence())
            if number % 500 == 499:
                assert world.state() == before
                print(f"{number + 1:,} asked, {answered:,} answered", flush=True)
        assert world.state() == before
    print(f"{asked.cases:,} sentences, {answered:,} answered, none got through")
    return 0


if __name__ == "__main__":
    sys.exit(main())
