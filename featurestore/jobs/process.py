"""A job's processes, as their supervisor sees them: one group, one log, one end.

What a job inherits is a list of what it may see, not of what it may not: an environment variable
that is not named here (a token, a cloud's credentials) does not exist for it, its home is a folder
of its own, and no open file is passed on.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LAUNCHER = Path(__file__).parent / "launcher.py"
#: What a job is given of its supervisor's environment: where programs are, and how to write text.
INHERITED = (
    "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "NUMBA_CACHE_DIR", "OMP_NUM_THREADS", "PATH",
    "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "TMPDIR", "TZ", "VIRTUAL_ENV",
)  # fmt: skip
#: A log that is longer is cut off there, and says so.
LOG_BYTES_MAX = 64 << 20
_LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Exit:
    """How a job's first process ended.

    Attributes
    ----------
    code : int
        Its exit code; the number of the signal that killed it, negative.
    seconds, cpu_seconds : float
        On the wall; of the process and those it has waited for.
    memory_bytes : int
        Peak resident memory of the largest of them.
    """

    code: int
    seconds: float
    cpu_seconds: float
    memory_bytes: int


def environment(home: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return all that a job sees as its environment.

    Parameters
    ----------
    home : Path
        Its home: where libraries look for configuration and credentials.
    given : mapping
        Variables of its own.
    """
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**inherited, "HOME": str(home), "PYTHONUNBUFFERED": "1", **given}


class Process:
    """A running job.

    Parameters
    ----------
    argv : sequence of str
        Program and arguments.
    cwd : Path
        Where it runs.
    env : mapping
        Its environment, from :func:`environment`.
    log : Path
        Where what it prints goes, both streams in one.
    isolated : bool
        Without any network.
    memory_bytes : int
        Address space of each of its processes; 0 for no limit.
    on_line : callable, optional
        Is given each line as it is printed, on a thread of the process's own.

    Raises
    ------
    InvalidInput
        When isolation is asked for and cannot be had: the job has not run.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        log: Path,
        isolated: bool = False,
        memory_bytes: int = 0,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._started = time.monotonic()
        self._on_line = on_line
        report, report_fd = os.pipe()
        order = {
            "argv": list(argv),
            "cwd": str(cwd),
            "isolated": isolated,
            "memory_bytes": memory_bytes,
            "report_fd": report_fd,
        }
        try:
            self._launcher = subprocess.Popen(  # noqa: S603  the order is an argument, no shell
                [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
                pass_fds=[report_fd],
                start_new_session=True,
            )
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(report_fd)
        self._report = os.fdopen(report, encoding="utf-8")
        first = json.loads(self._report.readline() or "{}")
        if "pid" not in first:
            self._close()
            raise InvalidInput(
                "network_isolation=True cannot be had here: "
                f"{first.get('refused', 'the launcher did not start')}. The job was not started; "
                "run it where network namespaces are permitted, or without isolation."
            )
        #: The job's first process, and its process group.
        self.pid: int = first["pid"]
        self._exit: Exit | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, args=[log], daemon=True).start()

    def wait(self, timeout: float | None = None) -> Exit | None:
        """Wait for the end; None if it did not come in time, in seconds."""
        self._ended.wait(timeout)
        return self._exit

    def terminate(self) -> None:
        """Ask the whole group to end: SIGTERM."""
        self._order(b"T")

    def kill(self) -> None:
        """End the whole group: SIGKILL."""
        self._order(b"K")

    def _order(self, letter: bytes) -> None:
        assert self._launcher.stdin is not None  # noqa: S101  a pipe was asked for
        with contextlib.suppress(OSError, ValueError):
            self._launcher.stdin.write(letter)
            self._launcher.stdin.flush()

    def _watch(self, log: Path) -> None:
        """Keep the log until nobody writes to it any more, then take note of the end."""
        assert self._launcher.stdout is not None  # noqa: S101  a pipe was asked for
        written = 0
        with log.open("ab", buffering=0) as file:
            while line := self._launcher.stdout.readline(_LINE_BYTES_MAX):
                if written < LOG_BYTES_MAX:
                    file.write(line)
                    written += len(line)
                    if written >= LOG_BYTES_MAX:
                        file.write(b"... the log is cut off here\n")
                if self._on_line is not None:
                    self._on_line(line.decode("utf-8", "replace").rstrip("\n"))
        last = self._report.read().splitlines()
        facts = json.loads(last[-1]) if last else {}
        self._close()
        self._exit = Exit(
            # A launcher that was killed itself has said nothing; neither has the job then.
            code=facts.get("code", -9),
            seconds=time.monotonic() - self._started,
            cpu_seconds=facts.get("cpu_seconds", 0.0),
            memory_bytes=facts.get("memory_bytes", 0),
        )
        self._ended.set()

    def _close(self) -> None:
        self._report.close()
        for stream in (self._launcher.stdin, self._launcher.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._launcher.wait()
