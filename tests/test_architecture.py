"""The rules of the house, as tests: what imports what, what the door shows, what must not be left.

A rule that is only written down is broken within a month; each of these fails at the commit that
breaks it, and its message says which file did.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import featurestore as fs
from featurestore import errors

ROOT = Path(__file__).parent.parent
HOUSES = ("featurestore", "server", "tests", "bench")
SOURCES = sorted(path for house in HOUSES for path in (ROOT / house).rglob("*.py"))

HEAVY = {
    "duckdb", "numba", "numpy", "pandas", "polars", "pyarrow", "rich", "scipy", "sklearn", "typer",
}  # fmt: skip


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python(code: str, *argv: str) -> str:
    """Run code in a process of its own, as a user's would be, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ── import weight ────────────────────────────────────────────────────────────────────────────


def heavy_after(code: str, *argv: str) -> set[str]:
    return set(python(f"{code}\nimport sys\nprint(*sys.modules)", *argv).split()) & HEAVY


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert heavy_after("import featurestore") == set()


def test_the_weight_check_can_see_weight() -> None:
    assert "numpy" in heavy_after("import numpy")


def test_one_put_and_one_get_load_nothing_heavy(tmp_path: Path) -> None:
    assert heavy_after(PUT_AND_GET, str(tmp_path / "store")) == set()


PUT_AND_GET = """
import sys, featurestore as fs
with fs.open(sys.argv[1]) as store:
    store.create_feature_group(
        "weather", record_identifier="origin", event_time="at",
        features={"origin": "string", "at": "timestamp", "temp": "float64"},
    )
    store.put_record("weather", {"origin": "JFK", "at": "2013-01-01T00:00:00Z", "temp": 39.0})
    assert store.get_record("weather", "JFK")["temp"] == 39.0
"""


def test_the_core_stays_at_five_libraries() -> None:
    names = {re.match(r"[\w-]+", line)[0] for line in pyproject()["project"]["dependencies"]}
    assert names == {"duckdb", "lmdb", "numba", "numpy", "pyarrow"}


# ── layers ───────────────────────────────────────────────────────────────────────────────────


def test_imports_only_go_down() -> None:
    python(
        "import sys\n"
        "sys.path[:0] = ['.', 'server']\n"
        "from importlinter.cli import lint_imports\n"
        "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True))"
    )


def test_every_extra_an_error_names_is_there() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    named = {
        (str(path.relative_to(ROOT)), node.args[1].value)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", getattr(node.func, "attr", "")) == "NotInstalled"
        and len(node.args) == 2
        and isinstance(node.args[1], ast.Constant)
    }
    assert named, "nothing names an extra: does this test still look for the right call?"
    assert [pair for pair in named if pair[1] not in extras] == []


#: What a file call or a clock is called by; `exists` and `is_dir` only ask.
OUTSIDE_THE_SEAM = {
    "os": {
        "open", "close", "read", "write", "pread", "pwrite", "fsync", "fdatasync", "link", "mkdir",
        "replace", "rename", "unlink", "remove", "rmdir", "truncate", "statvfs", "stat", "listdir",
        "scandir", "urandom", "makedirs",
    },
    "time": {"time", "time_ns", "monotonic", "perf_counter", "sleep"},
    "shutil": {"copy", "copyfile", "move", "rmtree"},
    "uuid": {"uuid4"},
    "pq": {"ParquetFile", "ParquetWriter", "read_table", "read_schema", "write_table"},
    "pa": {"memory_map", "OSFile"},
    "lmdb": {"open"},
    "": {"unlink", "rename", "touch", "rmdir", "iterdir", "glob", "rglob", "read_bytes",
         "write_bytes", "read_text", "write_text"},
}  # fmt: skip


#: Calls that touch no file of a store, or are made through the seam after all.
INSIDE_THE_SEAM = {
    "batches.py": {"pq.ParquetFile"},  # a table of labels is the user's
    "environment.py": {"lmdb.open"},  # of a copy, made by one call through the seam
    "files.py": {"os.open", "os.close", "os.pread"},  # a descriptor to sync, lock or look at
    "layout.py": {"pq.ParquetWriter"},  # into memory
    "parquet.py": {"pq.ParquetWriter"},  # into a sink of the seam
    "sources.py": {"pq.ParquetFile", "pa.memory_map", "at.rglob", "glob.glob"},  # the user's
}


def calls_past_the_seam(path: Path) -> set[str]:
    """Return the file calls and clocks of a module that are not made through the seam."""
    return {
        f"{module}.{node.func.attr}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        for module in [node.func.value.id if isinstance(node.func.value, ast.Name) else "?"]
        if node.func.attr in OUTSIDE_THE_SEAM.get(module, OUTSIDE_THE_SEAM[""])
    }


def test_file_calls_and_clocks_of_the_engine_go_through_the_seam() -> None:
    house = ROOT / "featurestore"
    sources = [*(house / "engine").rglob("*.py"), *(house / "storage").glob("*.py")]
    past = {
        path.name: calls_past_the_seam(path) - INSIDE_THE_SEAM.get(path.name, set())
        for path in sources
        if path.name != "seam.py"
    }
    assert {name: calls for name, calls in past.items() if calls} == {}


# ── the door ─────────────────────────────────────────────────────────────────────────────────


def is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, errors.FeatureStoreError)


def test_the_door_lists_what_it_shows() -> None:
    public = {name for name in dir(fs) if not name.startswith("_")}
    floors = {path.stem for path in (ROOT / "featurestore").iterdir()}
    assert set(fs.__all__) <= public
    assert public - floors - {"annotations"} - set(fs.__all__) == set()
    assert list(fs.__all__) == sorted(fs.__all__)


@pytest.mark.parametrize("name", fs.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(fs, name)
    doc = inspect.getdoc(thing)
    assert doc, f"{name} has no docstring"
    if not is_error(thing):
        assert ">>>" in doc, f"{name} shows no example"


def test_every_verb_of_the_store_is_documented() -> None:
    verbs = {name: f for name, f in inspect.getmembers(fs.FeatureStore) if not name.startswith("_")}
    assert verbs
    assert [name for name, verb in verbs.items() if not inspect.getdoc(verb)] == []


def test_the_drawing_of_errors_is_the_tree_of_errors() -> None:
    branch = ""
    drawn: list[tuple[str, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        names = re.findall(r"[├└]── (\w+)", line)
        if re.match(r" {4}[├└]", line):
            branch = names[0]
            drawn.append((branch, "FeatureStoreError"))
        else:
            drawn += [(name, branch) for name in names]
    actual = {name for name, thing in vars(errors).items() if is_error(thing)}
    assert sorted(name for name, _ in drawn) == sorted(actual - {"FeatureStoreError"})
    for name, parent in drawn:
        assert issubclass(getattr(errors, name), getattr(errors, parent)), (name, parent)


@pytest.mark.parametrize("name", sorted(n for n, thing in vars(errors).items() if is_error(thing)))
def test_every_error_can_be_met_at_the_door(name: str) -> None:
    assert getattr(fs, name) is getattr(errors, name)


# ── what must not be left ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{path} has no docstring"


def test_nothing_is_left_for_later() -> None:
    mark = re.compile(r"\b(TO" r"DO|FIX" r"ME)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if mark.search(line)
    ]
    assert found == []
