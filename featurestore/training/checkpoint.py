"""Checkpoints: what a training script writes so that it can be killed at any moment.

::

    from featurestore.training.checkpoint import Checkpoints

    checkpoints = Checkpoints()                      # SM_CHECKPOINT_DIR, the newest three are kept
    found = checkpoints.latest()                     # the newest that is whole, or None
    for step in range(found.step if found else 0, steps):
        ...
        with checkpoints.save(step + 1) as folder:   # appears under its name all at once
            np.savez(folder / "state.npz", weights=weights, ...)

::

    checkpoints/step-00000007/manifest.json    {"step": 7, "files": {"state.npz": [sha256, bytes]}}
                              state.npz
                .step-00000008.tmp/            killed while writing: nobody looks at it

A checkpoint is written under a temporary name, synced, and renamed.  A power cut on a disk that
lies about syncing can still tear one; its files then do not have the digests of its manifest, and
it is passed over.  To come to the same weights as a run that was never killed, a script saves all
that decides what comes next: weights, optimiser, the loader's state, the states of its random
numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import InvalidInput
from featurestore.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterator

_MANIFEST = "manifest.json"
_PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint: the step it was saved at, and the folder of its files."""

    step: int
    path: Path


class Checkpoints:
    """The checkpoints of a job.

    Parameters
    ----------
    folder : path, optional
        Where; by default what the job's environment says as ``SM_CHECKPOINT_DIR``.
    keep : int
        How many are kept; the oldest go, once a newer one is whole.

    Examples
    --------
    >>> import tempfile
    >>> checkpoints = Checkpoints(tempfile.mkdtemp(), keep=1)
    >>> for step in (1, 2):
    ...     with checkpoints.save(step) as folder:
    ...         _ = (folder / "weights.txt").write_text(str(step))
    >>> (checkpoints.latest().step, len(checkpoints.every()))
    (2, 1)
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, keep: int = 3) -> None:
        where = os.environ.get("SM_CHECKPOINT_DIR") if folder is None else folder
        if where is None:
            raise InvalidInput("There is no SM_CHECKPOINT_DIR here; give the folder.")
        if keep < 1:
            raise InvalidInput(f"keep= is {keep}; at least one checkpoint has to be kept.")
        self.folder = Path(where)
        self.keep = keep
        files.make_folder(self.folder)

    @contextlib.contextmanager
    def save(self, step: int) -> Iterator[Path]:
        """Give a folder to write into; what is in it at the end of the block is the checkpoint.

        If the block fails, there is none.
        """
        final = self.folder / f"{_PREFIX}{step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            listed = {p.relative_to(temporary).as_posix(): _seen(p) for p in _files(temporary)}
            manifest = json.dumps({"step": step, "files": listed}, sort_keys=True)
            (temporary / _MANIFEST).write_text(manifest, "utf-8")
            # One of that step is there already: it was torn, or the script has come here again.
            files.remove_folder(final)
            files.publish_folder(temporary, final)
        except BaseException:
            files.remove_folder(temporary)
            raise
        for old in self._folders()[: -self.keep]:
            files.remove_folder(old)

    def latest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint; None if there is none."""
        for folder in reversed(self._folders()):
            found = _whole(folder)
            if found is not None:
                return found
        return None

    def every(self) -> list[Checkpoint]:
        """Return all whole checkpoints, the oldest first."""
        return [found for found in map(_whole, self._folders()) if found is not None]

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_PREFIX}*"))


def _whole(folder: Path) -> Checkpoint | None:
    """Return a checkpoint whose files are what its manifest says."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text("utf-8"))
        listed = manifest["files"]
        if all(_seen(folder / name) == seen for name, seen in listed.items()):
            return Checkpoint(int(manifest["step"]), folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _seen(path: Path) -> list[object]:
    return [hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size]
