"""Lineage: which code, in which environment, made this.

===============  ==================================================================================
``entry``        the script, the folder of a job's source, or the notebook
``sha256``       of its bytes; of a notebook, of the cells that were run, which are what was run
``commit``       that its work tree stands at; read from git's files, so that git need not be there
``dirty``        whether the work tree has changes that are not in the commit, or the script is not
                 in it at all; None where git cannot be asked
===============  ==================================================================================

Empty where there is none: what is typed into a console has no script.  Two jobs with equal digests,
data and parameters ran the same.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_OURS = Path(__file__).parent
#: Not the code's: what Python and git leave beside it.
_LEFT = {"__pycache__", ".git"}
#: git looks at every file of a work tree: a large one is not worth the wait.
_GIT_SECONDS = 10


def code(path: Path) -> dict[str, Any]:
    """Return what is known of a script, or of a folder with all that is in it."""
    found = sorted(_files(path)) if path.is_dir() else [path]
    hasher = hashlib.sha256()
    for file in found:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        hasher.update(f"{name}\0".encode())
        hasher.update(file.read_bytes())
    return {"entry": str(path), "sha256": hasher.hexdigest(), **_work_tree(path)}


def caller() -> dict[str, Any]:
    """Return what is known of the script, or of the notebook, that called these functions."""
    for frame in _frames():
        path = Path(frame.f_code.co_filename)
        if path.is_file():
            return code(path.absolute())
        cells = frame.f_globals.get("In")
        if isinstance(cells, list) and "get_ipython" in frame.f_globals:
            return _notebook(cells, frame.f_globals)
    return {"entry": "", "sha256": "", "commit": "", "dirty": None}


def _frames() -> Iterator[FrameType]:
    """Yield who called, nearest first: neither functions of this package nor Python's own."""
    python = Path(sysconfig.get_path("stdlib"))
    frame = inspect.currentframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(_OURS) and not path.is_relative_to(python):
            yield frame
        frame = frame.f_back


def _notebook(cells: list[str], names: dict[str, Any]) -> dict[str, Any]:
    # Visual Studio Code says it in a variable, Jupyter's server to the kernel; others do not say.
    path = Path(names.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME") or "notebook")
    path = path.absolute()
    return {
        "entry": str(path),
        "sha256": hashlib.sha256("\0".join(cells).encode()).hexdigest(),
        **_work_tree(path if path.exists() else Path.cwd()),
    }


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and _LEFT.isdisjoint(path.relative_to(folder).parts):
            yield path


# ── git ──────────────────────────────────────────────────────────────────────────────────────


def _work_tree(path: Path) -> dict[str, Any]:
    """Return the commit and the state of the work tree that a path is in."""
    folder = path if path.is_dir() else path.parent
    for root in (folder, *folder.parents):
        if (root / ".git").exists():
            commit = _commit(root / ".git")
            return {"commit": commit, "dirty": _is_dirty(root, path) if commit else None}
    return {"commit": "", "dirty": None}


def _commit(git: Path) -> str:
    """Return what HEAD is; empty before the first commit.

    The files are those of gitrepository-layout(5): ``.git`` is a folder or names one, HEAD is a
    commit or names a reference, which is in a file of its own or among those packed.
    """
    try:
        if git.is_file():
            git = git.parent / git.read_text("utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text("utf-8").strip()
        name = head.removeprefix("ref:").strip()
        if name == head:
            return head
        shared = git / "commondir"  # of a further work tree
        common = git / shared.read_text("utf-8").strip() if shared.is_file() else git
        for place in (git, common):
            if (place / name).is_file():
                return (place / name).read_text("utf-8").strip()
        for line in (common / "packed-refs").read_text("utf-8").splitlines():
            commit, _, packed = line.partition(" ")
            if packed == name:
                return commit
    except OSError:
        pass
    return ""


def _is_dirty(root: Path, path: Path) -> bool | None:
    """Return whether files that git keeps were changed, or these are none of them."""
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    known = _git(root, "ls-files", "--", str(path))
    if changed is None or known is None:
        return None
    return bool(changed) or not known


def _git(root: Path, *asked: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    # Its own variables would lead it elsewhere; it is to look, and not to write the index.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        told = subprocess.run(  # noqa: S603  a list of arguments, no shell
            [git, "-C", str(root), "-c", "core.fsmonitor=false", *asked],
            env=env | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout if told.returncode == 0 else None


@cache
def environment() -> dict[str, str]:
    """Return the interpreter, and a digest of the names and versions of what is installed."""
    names = {
        entry.name
        for folder in map(Path, sys.path)
        if folder.is_dir()
        for entry in folder.glob("*.dist-info")
    }
    lock = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    return {"python": platform.python_version(), "platform": sys.platform, "lock_sha256": lock}
