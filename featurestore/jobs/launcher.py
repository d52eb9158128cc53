"""Starts a job's process, obeys who started it, and makes sure that nothing is left running.

::

    supervisor ──stdin──►  launcher  ──fork, own process group──►  the job ──► its children
        ▲                     │  ▲                                                  │
        └───────report────────┘  └───────────── adopted when orphaned ──────────────┘

    stdin       T sends SIGTERM to the group, K sends SIGKILL; its end means that the supervisor
                is gone, and is a K
    report fd   JSON lines: {"refused": why}, or {"pid": n} and at last {"code": n, ...}

It is run by path, with ``python -I -S``, and knows the standard library alone: between fork and
exec there is one thread, and what a job is denied is denied before it exists.

``isolated`` is a network namespace of the job's own, with nothing in it but a loopback that leads
to nobody else.  Where the kernel does not permit one, the job is refused.  Sockets that are files
can still be opened by a job that may open the files.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_ROUNDS = 50


def main() -> None:
    """Carry out the order in the first argument."""
    order = json.loads(sys.argv[1])
    report_fd = order["report_fd"]
    os.set_inheritable(report_fd, False)
    if order["isolated"]:
        refused = isolate()
        if refused:
            report(report_fd, refused=refused)
            return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = os.fork()
    if child == 0:
        become_the_job(order)
    with contextlib.suppress(OSError):  # the child does it, too; whoever is first
        os.setpgid(child, child)
    report(report_fd, pid=child)
    status, usage = obey_until_it_ends(child, wake)
    kill_group(child, signal.SIGKILL)
    reap_the_rest()
    scale = 1 if sys.platform == "darwin" else 1024
    report(
        report_fd,
        code=os.waitstatus_to_exitcode(status),
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        memory_bytes=usage.ru_maxrss * scale,
    )


def report(fd: int, **facts: Any) -> None:
    """Tell the supervisor; if it is gone, nobody needs to know."""
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(facts).encode() + b"\n")


def isolate() -> str:
    """Move into a network namespace with nobody in it; returns why that cannot be, or ''."""
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) != 0:
        # Who is not root may have one in a user namespace of their own.
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            return f"the kernel does not permit it ({os.strerror(ctypes.get_errno())})"
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny", "ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", "ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", "ascii")
    raise_loopback()
    return ""


def raise_loopback() -> None:
    """Bring the namespace's own loopback up: libraries talk to themselves over it."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        asked = struct.pack("16sh22x", b"lo", 0)
        [flags] = struct.unpack_from("h", fcntl.ioctl(s, _SIOCGIFFLAGS, asked), 16)
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def become_the_job(order: dict[str, Any]) -> None:
    """Run in the forked child: group, limits, signals, then the job's own program."""
    try:
        os.setpgid(0, 0)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if order["memory_bytes"]:
            resource.setrlimit(resource.RLIMIT_AS, (order["memory_bytes"],) * 2)
        os.chdir(order["cwd"])
        os.execvp(order["argv"][0], order["argv"])  # noqa: S606  no shell is meant
    except BaseException as error:  # noqa: BLE001  nothing above may run in this process
        os.write(2, f"cannot start {order['argv'][0]}: {error}\n".encode())
    os._exit(127)


def obey_until_it_ends(child: int, wake: int) -> tuple[int, resource.struct_rusage]:
    """Pass orders on until the job's first process has ended; returns its status and usage."""
    listening = [0, wake]
    while True:
        ready, _, _ = select.select(listening, [], [])
        if 0 in ready:
            orders = os.read(0, 64)
            if b"K" in orders or not orders:
                kill_group(child, signal.SIGKILL)
                listening = listening if orders else [wake]
            elif b"T" in orders:
                kill_group(child, signal.SIGTERM)
        if wake in ready:
            os.read(wake, 64)
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return status, usage


def kill_group(group: int, number: int) -> None:
    """Send a signal to everybody in the job's group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def reap_the_rest() -> None:
    """Kill those who left the group: the kernel has made them children of this process."""
    me = os.getpid()
    for _ in range(_ROUNDS):
        left = _children(me)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, 0 if left else os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()
