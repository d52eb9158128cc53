"""Lineage: which code, in which environment, made this.

Both are digests: of the script's bytes, with the commit it stood at if there is one, and of the
list of installed distributions.  Two jobs with equal digests, data and parameters ran the same.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any


def code(path: Path) -> dict[str, Any]:
    """Return what is known of a script, or of a folder of them."""
    found = sorted(p for p in path.rglob("*.py")) if path.is_dir() else [path]
    hasher = hashlib.sha256()
    for file in found:
        hasher.update(f"{file.relative_to(path) if path.is_dir() else file.name}\0".encode())
        hasher.update(file.read_bytes())
    return {"entry": str(path), "sha256": hasher.hexdigest(), "commit": _commit(path)}


def _commit(path: Path) -> str:
    """Return the commit of the work tree a file is in; empty without one."""
    git = shutil.which("git")
    folder = path if path.is_dir() else path.parent
    if git is None or not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return ""
    asked = [git, "-C", str(folder), "rev-parse", "HEAD"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    return told.stdout.strip() if told.returncode == 0 else ""


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
