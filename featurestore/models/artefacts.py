"""Artefacts: the files of a model, in a folder named by what is in it.

::

    models/<digest>/model.skops       digest = sha-256 over each file's path and sha-256
                    notes.md

A folder is written under a temporary name and renamed when all of it is on disk, so a folder with
a final name is whole.  The same files make the same folder: registering twice stores once.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import CorruptStore, InvalidInput
from featurestore.storage import files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FOLDER = "models"
_ABANDONED_SECONDS = 24 * 3600
_CHUNK_BYTES = 1 << 20
#: What these are called is what they hold: code, in Python's pickle.
_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth"})


@dataclass(frozen=True, slots=True)
class ArtefactFile:
    """One file of an artefact: its path in the folder, its sha-256 in hex, its size in bytes."""

    path: str
    sha256: str
    bytes: int


def publish(root: Path, source: Path) -> tuple[str, tuple[ArtefactFile, ...]]:
    """Copy a file, or all files of a folder, into the store; returns the digest and the files.

    Raises
    ------
    InvalidInput
        When there is nothing, or a pickle among them.
    """
    found = _files_of(source)
    for path in found:
        _refuse_pickle(path)
    folder = root / FOLDER
    files.make_folder(folder)
    _remove_abandoned(folder)
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    base = source if source.is_dir() else source.parent
    with files.translated(folder):
        for path in found:
            target = temporary / path.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    # What is described is the copy: the source may change meanwhile.
    copies = [temporary / path.relative_to(base) for path in found]
    listed = tuple(
        ArtefactFile(c.relative_to(temporary).as_posix(), sha256(c), c.stat().st_size)
        for c in copies
    )
    digest = digest_of(listed)
    files.publish_folder(temporary, folder / digest)
    return digest, listed


def digest_of(listed: Sequence[ArtefactFile]) -> str:
    """Return the sha-256 that names a folder with these files.

    Examples
    --------
    >>> one = ArtefactFile("model.onnx", "00" * 32, 3)
    >>> digest_of([one]) == digest_of([ArtefactFile("model.onnx", "00" * 32, 3)])
    True
    """
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in listed)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read(folder: Path, file: ArtefactFile) -> bytes:
    """Return a file's bytes, which are what was published.

    Raises
    ------
    CorruptStore
        When they are not.
    """
    path = folder / file.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptStore(f"{path}, a file of a model, cannot be read: {error}.") from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != file.sha256:
        raise CorruptStore(
            f"{path} is not the file that was registered: its sha-256 is {actual}, and was "
            f"{file.sha256}. It was not loaded; take it from a backup."
        )
    return data


def sha256(path: Path) -> str:
    """Return the sha-256 of a file in hex."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def _files_of(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    found = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else []
    if not found:
        raise InvalidInput(f"{source} holds no files of a model. Give the file, or its folder.")
    return found


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(2)
    # Protocol 2 and later begin with the opcode PROTO and its number.
    is_pickle = len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5
    if is_pickle or path.suffix.lower() in _PICKLE_SUFFIXES:
        raise InvalidInput(
            f"{path.name} is a pickle: loading it would run whatever code is in it. Save the model "
            "with skops (scikit-learn), in the library's own format (XGBoost, LightGBM), or as "
            "ONNX."
        )


def _remove_abandoned(folder: Path) -> None:
    """Remove what a process that died while publishing has left."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # its owner has just finished
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                files.remove_folder(path)
