"""Processes for what strangers send: made for one task each, behind walls, killed at any moment.

::

    worker ──fork, kill──► template        everything loaded, nothing ever run, one thread
                              │ fork, some milliseconds
                              ├─► task     one query, one upload, then it is gone
                              └─► task

A task begins as a copy of a process that has never seen a request, and ends with its answer.  So
nothing of one caller, a cached footer, a macro, a corrupted heap, can be there for the next.

The walls, put up by the task before it reads anything:

- no network, and no rights over others' files, where the system lets it (user and network
  namespaces of its own);
- no more memory than it was given, no file written, no process started that outlives it;
- lower priority than the look-ups that the worker answers.

What comes back over its pipe is data, never code: frames of a kind, a length and bytes.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from featurestore import errors
from featurestore.errors import FeatureStoreError, InvalidInput, StoreBusy

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = struct.Struct("<cQ")
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_NICENESS = 10
_READY_SECONDS = 60.0
_COPY_BYTES = 1 << 20
#: Kinds of frames: JSON, a piece of data, an error, the end.
FACTS, PIECE, ERROR, END = b"J", b"P", b"E", b"."
_TASKS = {
    "sql": "featurestore_server.sql_process",
    "parquet": "featurestore_server.parquet_process",
}
_KINDS = {
    name: thing
    for name, thing in vars(errors).items()
    if isinstance(thing, type) and issubclass(thing, FeatureStoreError)
}


# ── frames ───────────────────────────────────────────────────────────────────────────────────


def send(pipe: BinaryIO, data: bytes, kind: bytes = PIECE) -> None:
    """Write a frame."""
    pipe.write(_HEAD.pack(kind, len(data)))
    pipe.write(data)


def tell(pipe: BinaryIO, facts: Any, kind: bytes = FACTS) -> None:
    """Write a frame of JSON, and everything before it."""
    send(pipe, json.dumps(facts).encode(), kind)
    pipe.flush()


def tell_error(pipe: BinaryIO, error: FeatureStoreError) -> None:
    """Write what went wrong, by the class that raises it again."""
    kind = next(k.__name__ for k in type(error).__mro__ if k.__module__ == errors.__name__)
    tell(pipe, {"error": kind, "detail": str(error)}, ERROR)


def receive(pipe: BinaryIO, limit: int = 1 << 40) -> bytes:
    """Read a frame of any kind, not longer than a limit.

    Raises
    ------
    EOFError
        The other side is gone, or sends more.
    FeatureStoreError
        It is an error that the other side tells of.
    """
    kind, length = _head(pipe)
    data = pipe.read(length) if length <= limit else b""
    if len(data) < length:
        raise EOFError
    if kind == ERROR:
        raise _told(data)
    return data


def _head(pipe: BinaryIO) -> tuple[bytes, int]:
    head = pipe.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise EOFError
    kind, length = _HEAD.unpack(head)
    return kind, length


def _told(data: bytes) -> FeatureStoreError:
    found = json.loads(data)
    error: FeatureStoreError = _KINDS.get(found["error"], InvalidInput)(str(found["detail"]))
    return error


def pieces(pipe: BinaryIO, limit: int = 1 << 60) -> Iterator[bytes]:
    """Yield the data of frames until the end, never much of it at once.

    Raises
    ------
    EOFError, FeatureStoreError
        As :func:`receive`.
    """
    while True:
        kind, length = _head(pipe)
        limit -= length
        if limit < 0:
            raise EOFError
        if kind == END:
            return
        if kind != PIECE:
            data = pipe.read(min(length, _COPY_BYTES))
            raise _told(data) if kind == ERROR else EOFError
        while length:
            data = pipe.read(min(length, _COPY_BYTES))
            if not data:
                raise EOFError
            length -= len(data)
            yield data


# ── a task, as the worker sees it ────────────────────────────────────────────────────────────


class Task:
    """A process made for one task, and the pipes to it; a context manager that ends it."""

    def __init__(self, template: Template, number: int, to: int, of: int) -> None:
        self._template = template
        #: Its process id, for whoever looks on.
        self.number = number
        self.to: BinaryIO = os.fdopen(to, "wb")
        self.of: BinaryIO = os.fdopen(of, "rb")
        self.killed: str | None = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()
        self._template.end(self.number)
        for pipe in (self.to, self.of):
            try:
                pipe.close()
            except OSError:  # what was not sent yet, to a process that is gone
                continue

    def kill(self, why: str) -> None:
        """End it now."""
        self.killed = self.killed or why
        self._template.end(self.number)

    def allow(self, seconds: float) -> None:
        """Kill it when so much time is up, counted from now."""
        self.rest()
        self._timer = threading.Timer(seconds, self.kill, ["its time is up"])
        self._timer.daemon = True
        self._timer.start()

    def rest(self) -> None:
        """Count no time."""
        if self._timer is not None:
            self._timer.cancel()


class Template:
    """The process that tasks are forked from, kept by a worker and started again if it dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to load what tasks need; does not wait for it."""
        with self._lock:
            self._started()

    def task(self, kind: str, memory_bytes: int, *files: int) -> Task:
        """Make a process for a task; open files are handed to it.

        Raises
        ------
        StoreBusy
            It cannot be made now.
        """
        theirs_in, to = os.pipe()
        of, theirs_out = os.pipe()
        asked = json.dumps({"kind": kind, "memory_bytes": memory_bytes}).encode()
        try:
            with self._lock:
                control = self._started()
                socket.send_fds(control, [asked], [theirs_in, theirs_out, *files])
                number = int(control.recv(64))  # b"" if it is gone
        except (OSError, ValueError) as error:
            self._let_go()
            os.close(to)
            os.close(of)
            raise StoreBusy("No process could be made for this now. Send it again.") from error
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        return Task(self, number, to, of)

    def end(self, number: int) -> None:
        """Kill a task, if it still runs: the template knows which number is whose."""
        with self._lock:
            if self._control is not None:
                try:
                    self._control.send(json.dumps({"end": number}).encode())
                except OSError:
                    return  # the template is gone, and its tasks with it

    def close(self) -> None:
        """End it and all its tasks."""
        self._closed = True
        self._let_go()

    def _started(self) -> socket.socket:
        if self._control is not None and self._child is not None and self._child.poll() is None:
            return self._control
        if self._closed:
            raise OSError("the server is stopping")
        if self._control is not None:
            self._control.close()  # of one that has died
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_READY_SECONDS)
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "featurestore_server.confined", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                pass_fds=[theirs.fileno()],
            )
        self._control = ours
        return ours

    def _let_go(self) -> None:
        with self._lock:
            control, self._control = self._control, None
            child, self._child = self._child, None
        if control is not None:
            control.close()
        if child is not None:
            child.kill()
            child.wait()


def _environment() -> dict[str, str]:
    """Return the environment: where Python finds its modules, and no secret of ours."""
    kept = ("PATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        # glibc would map 64 MiB for each thread, which counts against the limit.
        "MALLOC_ARENA_MAX": "2",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        # Only a process of one thread can be copied.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
    }


# ── the walls ────────────────────────────────────────────────────────────────────────────────


def confine(memory_bytes: int) -> None:
    """Give up what a task does not need."""
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = mapped * resource.getpagesize() + memory_bytes
    limits = {resource.RLIMIT_AS: most, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    limits[resource.RLIMIT_NOFILE] = 4096
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def leave_network() -> bool:
    """Go where there is no network and no rights over others' files, if the system lets us.

    Only a process of one thread may, so this is the first thing done.
    """
    try:
        return bool(ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)
    except (OSError, AttributeError):
        return False


def _die_with_parent() -> None:
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return


# ── the template ─────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Be the template: fork a task when told to, end one when told to."""
    leave_network()
    os.nice(_NICENESS)
    tasks = {kind: importlib.import_module(name) for kind, name in _TASKS.items()}
    for name in (name for task in tasks.values() for name in task.LOADS):
        importlib.import_module(name)
    tempfile.gettempdir()  # which it finds by writing to it
    gc.collect()
    gc.freeze()  # else a task's first collection copies every page
    control = socket.socket(fileno=int(sys.argv[1]))
    awake, woken = socket.socketpair()
    for end in (awake, woken):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    running: set[int] = set()
    while True:
        ready, _, _ = select.select([control, awake], [], [])
        if awake in ready:
            awake.recv(4096)
            _reap(running)
        if control in ready and not _obey(control, running, tasks):
            break
    for number in running:
        os.kill(number, signal.SIGKILL)


def _reap(running: set[int]) -> None:
    """Take note of tasks that have ended; until then their number is nobody else's."""
    for number in list(running):
        if os.waitpid(number, os.WNOHANG)[0]:
            running.discard(number)


def _obey(control: socket.socket, running: set[int], tasks: dict[str, Any]) -> bool:
    """Do what is asked; returns False at the end."""
    data, files, _, _ = socket.recv_fds(control, 4096, 16)
    if not data:
        return False
    asked = json.loads(data)
    if "end" in asked:
        _reap(running)
        if asked["end"] in running:
            os.kill(asked["end"], signal.SIGKILL)
        return True
    number = os.fork()
    if number == 0:
        control.close()
        _be_task(tasks[asked["kind"]], asked["memory_bytes"], files)
    running.add(number)
    for file in files:
        os.close(file)
    control.send(str(number).encode())
    return True


def _be_task(task: Any, memory_bytes: int, files: list[int]) -> None:
    """Do one task, and be gone."""
    status = 1
    try:
        _die_with_parent()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        source, sink = os.fdopen(files[0], "rb"), os.fdopen(files[1], "wb")
        confine(memory_bytes)
        try:
            task.do(source, sink, memory_bytes, *files[2:])
        except FeatureStoreError as error:
            tell_error(sink, error)
        except MemoryError:
            needs = f"This needs more memory than its limit, {memory_bytes:,} bytes."
            tell_error(sink, task.REFUSED(needs))
        sink.flush()
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
