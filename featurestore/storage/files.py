"""Durable files and locks: the only home of fsync, rename and flock.

A file is published in four steps, and a power cut between any two of them leaves either no file
or the whole file under its final name::

    write .name.tmp  ->  fsync it  ->  rename to name  ->  fsync the folder

Locks are flocks on small files.  The kernel drops them when the process dies, whatever killed
it, so a lock that can be taken proves that its owner is gone; nothing here relies on a process
cleaning up after itself.

Every call goes through :mod:`featurestore.storage.seam`, where a test can make it fail.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import FeatureStoreError, ReadOnlyStore, StoreFull, Unavailable
from featurestore.storage import seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes of disk that writers leave free, so that a flush can still make room.
DISK_RESERVE_BYTES = 16 * 1024 * 1024

_READ_CHUNK_BYTES = 1 << 20
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


@contextlib.contextmanager
def translated(path: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals into errors that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(
                f"The disk that holds {path} is full. Nothing of this request was stored; "
                "free some space and send it again."
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ReadOnlyStore(
                f"{path} cannot be written ({error.strerror}). "
                "Open the store with read_only=True, or give this user write access."
            ) from error
        if error.errno in NO_DESCRIPTOR:
            raise Unavailable(no_descriptor(path, error)) from error
        if error.errno == errno.EIO:
            raise Unavailable(
                f"The disk failed at {path} ({error.strerror}). Nothing of this request was "
                "stored; look after the disk, and send it again."
            ) from error
        raise


def no_descriptor(path: str | Path, error: OSError) -> str:
    """Return what to do when a file cannot be opened for want of a descriptor."""
    return (
        f"{path} cannot be opened: this process has no file descriptor left ({error.strerror}). "
        "Close some files, or raise the limit (ulimit -n), and try again."
    )


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    _sync("fsync_folder", path, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    _sync("fsync", path, os.O_RDONLY)


def _sync(name: str, path: Path, flags: int) -> None:
    with translated(path):
        fd = os.open(path, flags)
        try:
            seam.call(name, path, os.fsync, fd)
        finally:
            os.close(fd)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, each durable in its own parent."""
    with translated(path):
        missing = []
        at = path
        while not at.exists():
            missing.append(at)
            at = at.parent
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                seam.call("mkdir", folder, os.mkdir, folder)
            sync_folder(folder.parent)


def publish(temporary: Path, final: Path) -> None:
    """Give a written file its final name; when this returns, file and name are durable."""
    with translated(final):
        sync_file(temporary)
        seam.call("rename", final, os.replace, temporary, final)
        sync_folder(final.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; its content is durable, the name not yet."""
    with translated(target):
        try:
            seam.call("link", target, os.link, source, target)
        except OSError:  # another disk, or one that knows no links
            remove(target)  # or it is there, and all that failed is to say so
            copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy a file; its content is durable, the name not yet."""
    with translated(target):
        seam.call("copy", target, shutil.copyfile, source, target)
        sync_file(target)


def write_small(path: Path, text: bytes) -> None:
    """Write a small file whole, or not at all; durable under its name on return."""
    temporary = path.with_name(f".{path.name}.tmp")
    with translated(path):
        seam.call("write", temporary, temporary.write_bytes, text)
    publish(temporary, path)


def publish_folder(temporary: Path, final: Path) -> None:
    """Give a written folder its final name; when this returns, all in it is durable.

    A folder that has that name already is left as it is, and the new one is removed: for folders
    named by their content.
    """
    with translated(final):
        paths = sorted(listing(temporary, "**/*"))
        for path in paths:
            if path.is_file():
                sync_file(path)
        for folder in [*(path for path in paths if path.is_dir()), temporary]:
            sync_folder(folder)
        try:
            seam.call("rename", final, temporary.rename, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove_folder(temporary)
        sync_folder(final.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there.  Not synced: a name that comes back is an orphan again."""
    with translated(path), contextlib.suppress(FileNotFoundError):
        seam.call("unlink", path, os.unlink, path)


def remove_folder(path: Path) -> None:
    """Remove a folder with all in it, if it is there."""
    seam.call("rmtree", path, shutil.rmtree, path, ignore_errors=True)


def listing(folder: Path, pattern: str) -> list[Path]:
    """Return the paths below a folder that match a pattern."""
    with translated(folder):
        return list(seam.call("list", folder, folder.glob, pattern))


def content(path: Path) -> bytes:
    """Return all bytes of a small file."""
    return seam.call("read", path, path.read_bytes)


def identity(path: Path) -> tuple[int, int]:
    """Return what tells a file or folder from every other: its device and inode."""
    with translated(path):
        found = seam.call("stat", path, path.stat)
    return found.st_dev, found.st_ino


def size(path: Path) -> int:
    """Return how many bytes a file has."""
    with translated(path):
        return seam.call("stat", path, path.stat).st_size


def witness(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written to: inode, size, last change."""
    with translated(path):
        found = seam.call("stat", path, path.stat)
    return found.st_ino, found.st_size, found.st_mtime_ns


def digest(path: Path, tell: Callable[[int], object] | None = None) -> str:
    """Return the first 128 bits of the SHA-256 of a file's bytes, as hex.

    Most processors have instructions for it: 1.6 GB/s, where BLAKE2b gets to half of that.  After
    each part, its bytes are told.
    """
    hasher = hashlib.sha256()
    with translated(path), seam.call("open", path, path.open, "rb") as file:
        while chunk := seam.call("read", path, file.read, _READ_CHUNK_BYTES):
            hasher.update(chunk)
            if tell is not None:
                tell(len(chunk))
    return hasher.hexdigest()[:32]


def require_room(path: Path, bytes_needed: int) -> None:
    """Refuse a write before the disk is full.

    Raises
    ------
    StoreFull
        Fewer than ``bytes_needed`` plus the reserve are free.
    """
    with translated(path):
        disk = seam.call("statvfs", path, os.statvfs, path)
    free = disk.f_bavail * disk.f_frsize
    # A small disk (a test's tmpfs, a container volume) keeps a tenth rather than the whole reserve.
    reserve = min(DISK_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 10)
    if free < bytes_needed + reserve:
        raise StoreFull(
            f"The disk that holds {path} has {free:,} bytes free; this write needs "
            f"{bytes_needed:,} and {reserve:,} are kept in reserve. Free some space and try again."
        )


#: Every lock of this process.  A forked child must let go of them: a flock is held for as long as
#: any copy of its descriptor is open.
_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive flock on a file, held until :meth:`release` or the death of the process."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        _locks.add(self)

    @classmethod
    def acquire(cls, path: Path) -> FileLock:
        """Take the lock; wait for whoever holds it."""
        return cls._flock(path, fcntl.LOCK_EX)

    @classmethod
    def try_acquire(cls, path: Path) -> FileLock | None:
        """Take the lock, or return None if another holds it."""
        try:
            return cls._flock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None

    @classmethod
    def _flock(cls, path: Path, how: int) -> FileLock:
        with translated(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            fd = seam.call("lock", path, os.open, path, flags, 0o644)
        try:
            fcntl.flock(fd, how)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    def is_at_its_path(self) -> bool:
        """Return whether the path still leads to the file that is locked."""
        try:
            return identity(self.path)[1] == os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False

    def write(self, text: bytes) -> None:
        """Replace the lock file's content: what it stands for, read by :func:`held`."""
        with translated(self.path):
            seam.call("lock_write", self.path, os.pwrite, self._fd, text, 0)

    def release(self, *, unlink: bool = False) -> None:
        """Give the lock up, and remove its file if it was ours alone."""
        if self._fd >= 0:
            try:
                if unlink:
                    # A name that stays stands for nothing, and is removed by whoever finds it.
                    with contextlib.suppress(FeatureStoreError, OSError):
                        remove(self.path)
            finally:
                self.close()

    def close(self) -> None:
        """Close the descriptor; the lock is free when no process forked off has it open either."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def is_held(path: Path) -> bool:
    """Return whether somebody holds a lock file; it is left as it is."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def held(path: Path) -> bytes | None:
    """Return what a held lock file says; ``None``, and the file removed, if its owner is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(fd, 64, 0)
        # Between a lock file's creation and its flock it looks abandoned.  Its owner checks
        # afterwards that the name still leads to it (see `own`).
        remove(path)
        return None
    finally:
        os.close(fd)


def own(path: Path) -> FileLock:
    """Create an empty lock file of our own and hold it, whatever a concurrent clean-up does."""
    while True:
        lock = FileLock.acquire(path)
        if lock.is_at_its_path():
            return lock
        lock.release()


def _let_go_in_child() -> None:
    for lock in list(_locks):
        lock.close()
    _locks.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
