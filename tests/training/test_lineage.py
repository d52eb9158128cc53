"""Lineage: the script, the notebook and the commit behind a training set or a job."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from featurestore import training
from featurestore.training import lineage

if TYPE_CHECKING:
    import featurestore as fs

DATA = ("part-00000.parquet", "set.json")
MAKING = """
from featurestore import training
ts = training.training_set(
    store, name, labels={"k": [1, 2], "event_time": ["2020-01-01T00:00Z"] * 2, "y": [0, 1]},
    label="y", features="g:v",
)
"""
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def filled(store: fs.FeatureStore) -> fs.FeatureStore:
    store.create_feature_group(
        "g", record_identifier="k", event_time="t",
        features={"k": "int64", "t": "timestamp", "v": "float32"},
    )  # fmt: skip
    store.put_record("g", {"k": 1, "t": "2019-01-01T00:00Z", "v": 1.0})
    return store


def run(store: fs.FeatureStore, path: str, name: str, **names: Any) -> training.TrainingSet:
    """Run what makes a set as if it were in a file, or a cell, of that name."""
    namespace = {"store": store, "name": name, **names}
    exec(compile(MAKING, path, "exec"), namespace)
    made = namespace["ts"]
    assert isinstance(made, training.TrainingSet)
    return made


def sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def git(folder: Path, *asked: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(folder), *identity, *asked]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return told.stdout.strip()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "deep"
    folder.mkdir(parents=True)
    (folder / "make.py").write_text(MAKING)
    return folder / "make.py"


@pytest.fixture
def committed(script: Path) -> Path:
    """Return the script in a work tree where it is committed."""
    root = script.parents[1]
    git(root, "init", "--quiet", "--initial-branch=some/branch")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "one")
    return script


def test_a_set_says_which_script_made_it_and_does_not_depend_on_it(
    filled: fs.FeatureStore, script: Path
) -> None:
    one = run(filled, str(script), "one")
    code = one.lineage["code"]
    assert code["entry"] == str(script)
    assert code["sha256"] == sha256(b"make.py", script.read_bytes())
    assert one.lineage["engine"]["numpy"]
    before = {name: (one.path / name).read_bytes() for name in DATA}
    training.delete_training_set(filled, "one")
    other = script.with_name("other.py")
    other.write_text(f"# another\n{MAKING}")
    two = run(filled, str(other), "one")
    assert two.lineage["code"]["entry"] == str(other)
    assert two.hash == one.hash
    assert {name: (two.path / name).read_bytes() for name in DATA} == before


def test_a_set_made_in_a_notebook_has_the_cells_that_were_run(
    filled: fs.FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = str(tmp_path / "ipykernel_7" / "123.py")  # a name that ipykernel gives, of no file
    names = {"In": ["", "import featurestore", MAKING], "get_ipython": None}
    monkeypatch.setenv("JPY_SESSION_NAME", "/work/late.ipynb")
    code = run(filled, cell, "one", **names).lineage["code"]
    assert code["entry"] == "/work/late.ipynb"
    assert code["sha256"] == sha256(b"", b"import featurestore", MAKING.encode())


def test_who_is_called_by_a_library_of_python_is_not_that_library(
    filled: fs.FeatureStore, script: Path
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:  # all that is on this thread is Python's own
        code = pool.submit(lineage.caller).result()
        assert code == {"entry": "", "sha256": "", "commit": "", "dirty": None}
        made = pool.submit(run, filled, str(script), "one").result()
    assert made.lineage["code"]["entry"] == str(script)


@needs_git
def test_the_commit_and_whether_the_work_tree_is_that(committed: Path) -> None:
    root = committed.parents[1]
    head = git(root, "rev-parse", "HEAD")

    def found(path: Path = committed) -> tuple[str, bool | None]:
        code = lineage.code(path)
        return code["commit"], code["dirty"]

    assert found() == found(root) == (head, False)
    (root / "results.csv").write_text("what a run leaves is no change of the code")
    assert found() == (head, False)
    new = committed.with_name("new.py")
    new.write_text("pass")
    assert found(new) == (head, True)
    git(root, "pack-refs", "--all")
    assert not (root / ".git" / "refs" / "heads" / "some" / "branch").exists()
    assert found() == (head, False)
    git(root, "worktree", "add", "--quiet", "-b", "other", str(root.parent / "further"))
    assert found(root.parent / "further" / "deep" / "make.py") == (head, False)
    committed.write_text("# changed")
    assert found() == (head, True)
    git(root, "commit", "--quiet", "-am", "two")
    second = git(root, "rev-parse", "HEAD")
    assert found() == (second, False) != (head, False)
    git(root, "checkout", "--quiet", "--detach", head)
    assert found() == (head, False)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/unborn\n")
    assert found() == ("", None)


@needs_git
def test_without_git_the_commit_is_known_all_the_same(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(committed.parent, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "")
    code = lineage.code(committed)
    assert (code["commit"], code["dirty"]) == (head, None)


def test_a_folder_is_all_that_goes_along(script: Path) -> None:
    folder = script.parent
    (folder / "run.sh").write_text("python make.py")
    before = lineage.code(folder)["sha256"]
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "make.pyc").write_bytes(b"1")
    assert lineage.code(folder)["sha256"] == before
    (folder / "run.sh").write_text("python make.py --fast")
    assert lineage.code(folder)["sha256"] != before
