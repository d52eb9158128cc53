"""The harness: what a benchmark is made of, and how one side of it is measured.

::

    Case ─┬─ Step   makes data once, in a process of its own       Step.make(run, folder)
          ├─ Side   does the work, in a process of its own         Side.work(run)
          └─ Goal   a figure made of the sides' figures, and what it has to reach

A side is a function of a :class:`Run`.  It opens what the steps have made, then says what it is
doing while it does it::

    with run.compiling():            # kernels; stated, never measured
        ...
    with run.warming_up():           # pages, caches, connections
        ...
    with run.measuring(len(keys)):   # CPU, wall and peak memory of this stretch
        ...
    run.latencies(nanoseconds)       # of single calls, from a pass of their own
    run.answers(rows, expected)      # what was read: compared with the input, and hashed, so
                                     # that it can be compared between the sides

Peak memory is reset when the stretch begins (Linux), so what making the input took is not in it.
Pages of a mapped file count as resident; ``anonymous`` is what the process itself has allocated.

Only the standard library is imported here: peers run this file in environments of their own.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
SIZES = ("tiny", "small", "full")
#: Distributions whose versions a result carries, if its process has loaded them.
VERSIONED = (
    "chdb", "deltalake", "duckdb", "feast", "hiredis", "llvmlite", "lmdb", "numba", "numpy",
    "pandas", "polars", "pyarrow", "redis",
)  # fmt: skip
#: What the engine's files look like is decided here: stores are made anew when it changes.
FORMAT_SOURCES = ("encoding/*.py", "storage/*.py", "schema.py", "dtypes.py")

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Options:
    """What one invocation was asked for.

    Attributes
    ----------
    formats : str
        A digest of what decides the shape of data and stores; see :func:`formats`.  Found once,
        so that every process of an invocation looks for the same folders.
    """

    size: str
    seed: int
    scratch: Path
    formats: str
    feast_venv: Path | None = None
    ray_venv: Path | None = None
    chdb_venv: Path | None = None

    def arguments(self) -> list[str]:
        """Return the options as arguments, for the processes started."""
        found = ["--size", self.size, "--seed", str(self.seed), "--scratch", str(self.scratch)]
        found += ["--formats", self.formats]
        for peer in ("feast", "ray", "chdb"):
            venv = self.venv(peer)
            found += [] if venv is None else [f"--{peer}-venv", str(venv)]
        return found

    def venv(self, peer: str) -> Path | None:
        """Return the environment of a peer that has one of its own."""
        venv: Path | None = getattr(self, f"{peer}_venv")
        return venv


Need = Callable[[Options], str | None]


def nothing(_options: Options) -> str | None:
    """Need nothing beyond the store's own libraries."""
    return None


# ── what a benchmark is made of ──────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Step:
    """Data made once and kept.

    Attributes
    ----------
    make : callable
        Fills an empty folder; the folder gets its name only when that is done.
    needs : callable
        Says why the step cannot be done here, or None.
    venv : str, optional
        The peer in whose environment it is done.
    after : tuple of Step
        Steps whose folders it reads.
    """

    name: str
    make: Callable[[Run, Path], None]
    needs: Need = nothing
    venv: str | None = None
    after: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Side:
    """One contender.

    Attributes
    ----------
    work : callable
        Measures itself on a :class:`Run`.
    gives : str
        What its caller holds in the end, or what it is spared.
    steps : tuple of Step
        What must have been made.
    """

    name: str
    work: Callable[[Run], None]
    gives: str = ""
    needs: Need = nothing
    venv: str | None = None
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Goal:
    """A figure and what it has to reach.

    Attributes
    ----------
    sides : tuple of str
        The sides it is made of; left out if one of them is.
    measure : callable
        From figures by side to one number.
    at_most, at_least : float, optional
        The bound; neither where the figure is only shown.
    """

    name: str
    sides: tuple[str, ...]
    measure: Callable[[Mapping[str, Figures]], float]
    at_most: float | None = None
    at_least: float | None = None
    unit: str = "x"

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}{self.unit}"
        return "" if self.at_least is None else f">= {self.at_least:g}{self.unit}"

    def reached(self, value: float) -> bool | None:
        """Return whether a value reaches the bound; None where there is none."""
        if self.at_most is not None:
            return value <= self.at_most
        return None if self.at_least is None else value >= self.at_least


def ratio(
    over: str | Sequence[str],
    under: str | Sequence[str],
    *,
    of: str = "cpu_us",
    at_most: float | None = None,
    at_least: float | None = None,
) -> Goal:
    """Return the goal that one side, or several together, cost so many times another."""
    top = (over,) if isinstance(over, str) else tuple(over)
    bottom = (under,) if isinstance(under, str) else tuple(under)

    def measure(figures: Mapping[str, Figures]) -> float:
        below = sum(figures[side][of] for side in bottom)
        return sum(figures[side][of] for side in top) / below if below else math.nan

    words = {"cpu_us": "CPU", "wall_us": "wall", "p50_us": "p50", "p99_us": "p99"}
    words |= {"cpu_s": "CPU in all", "peak_anonymous_bytes": "peak of own memory"}
    name = f"{' + '.join(top)} / {_bracketed(bottom)}, {words.get(of, of)}"
    return Goal(name, (*top, *bottom), measure, at_most, at_least)


def _bracketed(sides: tuple[str, ...]) -> str:
    return sides[0] if len(sides) == 1 else f"({' + '.join(sides)})"


@dataclass(frozen=True)
class Case:
    """One row of a table of goals: the same work done by several sides.

    Attributes
    ----------
    unit : str
        What figures are per: a key, a row, a call.
    rounds : int
        How often the sides take their turn; 5 where a latency or the wall is meant.
    """

    name: str
    question: str
    unit: str
    sides: tuple[Side, ...]
    goals: tuple[Goal, ...]
    rounds: int = 3

    def side(self, name: str) -> Side:
        """Return a side by name."""
        return next(side for side in self.sides if side.name == name)

    def steps(self) -> list[Step]:
        """Return all steps of all sides, those first on which others stand."""
        found: dict[str, Step] = {}

        def add(step: Step) -> None:
            for before in step.after:
                add(before)
            found.setdefault(step.name, step)

        for side in self.sides:
            for step in side.steps:
                add(step)
        return list(found.values())


def load(name: str) -> ModuleType:
    """Import a benchmark: a module of this package with ``SIZES`` and ``CASES``."""
    return import_module(f"bench.{name}")


def names() -> list[str]:
    """Return the benchmarks there are."""
    paths = sorted(Path(__file__).parent.glob("*.py"))
    return [path.stem for path in paths if "\nCASES" in path.read_text(encoding="utf-8")]


# ── inside a side ────────────────────────────────────────────────────────────────────────────


class Run:
    """One process of one side, or of one step.

    Attributes
    ----------
    size
        The benchmark's numbers for the size asked for.
    options : Options
        As given on the command line.
    """

    def __init__(self, options: Options, size: Any) -> None:
        self.options = options
        self.size = size
        self.seed = options.seed
        self.found: dict[str, Any] = {"compile_s": 0.0, "warm_up_s": 0.0}

    def path(self, step: Step) -> Path:
        """Return the folder a step has made."""
        folder = step_folder(step, self.options, self.size)
        if not folder.exists():
            raise BenchmarkFailed(f"{folder} is not there: the step {step.name} was not done")
        return folder

    @contextmanager
    def fresh(self, source: Path | None = None) -> Iterator[Path]:
        """Give a folder that may be written to, empty or a copy; gone at the end of the block."""
        folder = self.options.scratch / f"fresh-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        if source is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(source, folder)
        os.sync()  # or the measured fsync would pay for what was written before
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Do what is done once in the life of a process, kernels above all."""
        with self._seconds("compile_s"):
            yield

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """Touch what the measured stretch will touch."""
        with self._seconds("warm_up_s"):
            yield

    @contextmanager
    def _seconds(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.found[name] += time.perf_counter() - start

    @contextmanager
    def measuring(self, units: int = 0, *, watched: bool = False) -> Iterator[None]:
        """Measure CPU time, wall time and peak memory of a stretch of so many units.

        Units that are only known afterwards are told by :meth:`note`.  If watched, the peak of
        anonymous memory is looked for as well, by a thread that wakes a hundred times a second.
        """
        reset_peak_memory()
        watch = Watch() if watched else None
        before, wall = _cpu(), time.perf_counter()
        yield
        wall = time.perf_counter() - wall
        user, system, total = (now - then for now, then in zip(_cpu(), before, strict=True))
        if watch is not None:
            self.found["peak_anonymous_bytes"] = watch.end()
        self.found |= {
            "units": units,
            "wall_s": wall,
            "cpu_s": total,
            "user_s": user,
            "sys_s": system,
            **memory(),
        }

    def latencies(self, nanoseconds: Sequence[int]) -> None:
        """Take in the wall times of single calls."""
        ordered = sorted(nanoseconds)
        self.found |= {
            "calls": len(ordered),
            "p50_us": percentile(ordered, 0.50) / 1e3,
            "p99_us": percentile(ordered, 0.99) / 1e3,
            "max_us": ordered[-1] / 1e3,
        }

    def answers(
        self, rows: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take in what was read: it must be what was written, and what the other sides have read.

        Raises
        ------
        BenchmarkFailed
            It is not what was written.
        """
        if len(rows) != len(expected):
            raise BenchmarkFailed(f"{len(rows)} rows were read, {len(expected)} written")
        for read, written in zip(rows, expected, strict=True):
            if rows_hash([read]) != rows_hash([written]):
                raise BenchmarkFailed(f"read:    {read}\nwritten: {written}")
        self.found["hash"] = rows_hash(rows)

    def note(self, **facts: Any) -> None:
        """Take in whatever else is worth a column in the results."""
        self.found |= facts

    def result(self) -> dict[str, Any]:
        """Return all that was taken in, and by which versions it was found."""
        return self.found | {"versions": {**versions(), **self.found.get("versions", {})}}


def timed_calls(call: Callable[[Any], Any], arguments: Iterable[Any]) -> list[int]:
    """Call a function with each argument; returns the nanoseconds of each call."""
    clock = time.perf_counter_ns
    taken = []
    for argument in arguments:
        start = clock()
        call(argument)
        taken.append(clock() - start)
    return taken


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that a share of the sorted values does not exceed.

    >>> percentile([1, 2, 3, 4], 0.5)
    2
    """
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _cpu() -> tuple[float, float, float]:
    """Return user, system and all seconds of this process, its threads and ended children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    theirs = children.ru_utime + children.ru_stime
    # The clock of the process is finer than the ticks that are parted into user and system.
    return (
        own.ru_utime + children.ru_utime,
        own.ru_stime + children.ru_stime,
        time.process_time() + theirs,
    )


def reset_peak_memory() -> None:
    """Let the peak of resident memory begin anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def memory() -> dict[str, int]:
    """Return peak resident and present anonymous bytes of this process."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_bytes": peak if sys.platform == "darwin" else peak * 1024}
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    return {
        "peak_bytes": int(kib["VmHWM"]) * 1024,
        "anonymous_bytes": int(kib["RssAnon"]) * 1024,
    }


class Watch:
    """Watches the anonymous memory of this process, whose peak no system keeps."""

    def __init__(self) -> None:
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        self._look()
        while not self._over.wait(0.01):
            self._look()

    def _look(self) -> None:
        try:
            _, resident, shared, *_ = Path("/proc/self/statm").read_bytes().split()
        except OSError:
            return
        self._peak = max(self._peak, (int(resident) - int(shared)) * resource.getpagesize())

    def end(self) -> int:
        """Return the most that was seen; 0 where the system does not tell."""
        self._over.set()
        self._thread.join()
        self._look()
        return self._peak


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries this process has loaded."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        if name in sys.modules:
            found[name] = metadata.version(name)
    if "sqlite3" in sys.modules:
        found["sqlite"] = sys.modules["sqlite3"].sqlite_version
    return found


def rows_hash(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a digest of rows, the same for equal values from whatever library they came.

    Values are Python's own.  Columns count by name, rows by order; a float counts to its last
    digit, and 1 is not 1.0.

    >>> rows_hash([{"a": 1, "b": None}]) == rows_hash([{"b": None, "a": 1}])
    True
    >>> rows_hash([{"a": 1}]) == rows_hash([{"a": 1.0}])
    False
    """
    hasher = hashlib.blake2b(digest_size=8)
    for row in rows:
        hasher.update(json.dumps(row, sort_keys=True).encode())
    return hasher.hexdigest()


# ── outside: steps and sides in processes of their own ───────────────────────────────────────


class BenchmarkFailed(Exception):
    """A side or a step failed, or two sides answered differently."""


def formats() -> str:
    """Return a digest of the sources that decide what data and the engine's files look like."""
    hasher = hashlib.blake2b(digest_size=4)
    engine = ROOT / "featurestore"
    paths = [path for pattern in FORMAT_SOURCES for path in engine.glob(pattern)]
    data = [ROOT / "bench" / name for name in ("datasets.py", "histories.py", "joins.py")]
    for path in sorted([*paths, *data]):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


def step_folder(step: Step, options: Options, size: Any) -> Path:
    """Return where a step's data are: another place when anything that shapes them changes."""
    shape = hashlib.blake2b((options.formats + repr(size)).encode(), digest_size=4)
    for part in _with_before(step):
        make = part.make.func if isinstance(part.make, partial) else part.make
        shape.update(inspect.getsource(make).encode())
    return options.scratch / f"{step.name}-{options.size}-{options.seed}-{shape.hexdigest()}"


def _with_before(step: Step) -> Iterator[Step]:
    yield step
    for before in step.after:
        yield from _with_before(before)


def do_step(step: Step, run: Run) -> None:
    """Make a step's data, here and now; what an earlier format left is removed."""
    final = step_folder(step, run.options, run.size)
    for old in final.parent.glob(f"{step.name}-{run.options.size}-{run.options.seed}-*"):
        shutil.rmtree(old)
    making = final.with_name(f"making-{final.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    step.make(run, making)
    os.sync()
    making.rename(final)


def in_process(
    name: str, what: Sequence[str], options: Options, venv: str | None
) -> dict[str, Any]:
    """Do a side or a step of a benchmark in a process of its own; returns what it reports."""
    python = sys.executable
    environment = dict(os.environ)
    if venv is not None:
        folder = options.venv(venv)
        assert folder is not None
        python = str(folder / "bin" / "python")
        environment |= {"PYTHONPATH": str(ROOT), "FEAST_USAGE": "False"}
    command = [python, "-m", "bench", name, *what, *options.arguments()]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise BenchmarkFailed(f"{name} {' '.join(what)} failed:\n{tail}")
    lines = done.stdout.splitlines()
    return dict(json.loads(lines[-1]) or {})


def in_place(name: str, what: Sequence[str], options: Options, venv: str | None) -> dict[str, Any]:
    """Do the same in this process: for tests, to which the figures mean nothing."""
    assert venv is None
    return inside(name, what, options) or {}


def inside(name: str, what: Sequence[str], options: Options) -> dict[str, Any] | None:
    """Be the process of ``--step CASE/STEP`` or ``--side CASE/SIDE``; a side has a result."""
    module = load(name)
    part, (case_name, wanted) = what[0], what[1].split("/")
    case = next(case for case in module.CASES if case.name == case_name)
    run = Run(options, module.SIZES[options.size])
    if part == "--step":
        do_step(next(step for step in case.steps() if step.name == wanted), run)
        return None
    case.side(wanted).work(run)
    return run.result()


@dataclass
class Outcome:
    """What became of one case: results by side, one for each round, and what was left out."""

    case: Case
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def medians(self) -> dict[str, Figures]:
        """Return the figures of each side, each the median of its rounds."""
        return {
            side: {
                name: statistics.median(figures[name] for figures in rounds)
                for name in rounds[0]
                if all(name in figures for figures in rounds)
            }
            for side, rounds in ((s, [figures_of(r) for r in rs]) for s, rs in self.results.items())
        }

    def values(self, goal: Goal) -> list[float] | None:
        """Return a goal's value: of the medians, then of each round; None if a side is missing."""
        if not set(goal.sides) <= set(self.results):
            return None
        rounds = zip(*(self.results[side] for side in goal.sides), strict=True)
        each = [
            goal.measure({s: figures_of(r) for s, r in zip(goal.sides, results, strict=True)})
            for results in rounds
        ]
        return [goal.measure(self.medians()), *each]


def figures_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Return a result's numbers, times per unit in microseconds beside the seconds."""
    numbers = (int, float)
    figures = {k: v for k, v in result.items() if isinstance(v, numbers)}
    for part in ("cpu", "wall", "user", "sys"):
        if figures.get("units") and f"{part}_s" in figures:
            figures[f"{part}_us"] = figures[f"{part}_s"] / figures["units"] * 1e6
    return figures


def run_case(
    name: str,
    case: Case,
    options: Options,
    say: Callable[[str], None],
    *,
    rounds: int | None = None,
    only: Sequence[str] = (),
    do: Callable[..., dict[str, Any]] = in_process,
) -> Outcome:
    """Make what is missing, then let the sides take turns.

    Raises
    ------
    BenchmarkFailed
        A side failed, or the sides' answers are not the same.
    """
    size = load(name).SIZES[options.size]
    outcome = Outcome(case)
    sides = []
    for side in case.sides:
        why = why_not(side, options) if not only or side.name in only else "not asked for"
        if why is None:
            sides.append(side)
        else:
            outcome.left_out[side.name] = why
    for step in Case("", "", "", tuple(sides), ()).steps():
        if not step_folder(step, options, size).exists():
            say(f"{name}: making {step.name}")
            do(name, ["--step", f"{case.name}/{step.name}"], options, step.venv)
    total = rounds or (1 if options.size == "tiny" else case.rounds)
    for round_ in range(total):
        for side in sides:
            say(f"{name}: {case.name}, round {round_ + 1} of {total}: {side.name}")
            what = ["--side", f"{case.name}/{side.name}"]
            result = do(name, what, options, side.venv)
            outcome.results.setdefault(side.name, []).append(result)
    require_equal(name, outcome)
    return outcome


def why_not(side: Side, options: Options) -> str | None:
    """Return why a side cannot run here; None if it can."""
    needs = [side.needs, *(part.needs for step in side.steps for part in _with_before(step))]
    return next((why for need in needs if (why := need(options)) is not None), None)


def require_equal(name: str, outcome: Outcome) -> None:
    """Refuse figures of sides that did not read the same."""
    hashes = {
        side: {result["hash"] for result in results if "hash" in result}
        for side, results in outcome.results.items()
    }
    if len(set().union(*hashes.values())) > 1:
        found = "; ".join(f"{side}: {', '.join(sorted(h))}" for side, h in hashes.items() if h)
        raise BenchmarkFailed(
            f"{name}, {outcome.case.name}: the sides' answers differ, so their times mean "
            f"nothing. {found}"
        )


def tidy(scratch: Path) -> None:
    """Remove what sides that were killed have left in a scratch folder."""
    for folder in scratch.glob("fresh-*"):
        try:
            os.kill(int(folder.name.split("-")[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder)


def circumstances(options: Options) -> dict[str, Any]:
    """Return what every result of this invocation has in common."""
    return {
        "size": options.size,
        "seed": options.seed,
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "featurestore", "bench")),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
        },
    }


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((li.split(":")[1].strip() for li in lines if li.startswith("model name")), "")


def result_lines(name: str, outcome: Outcome, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the results of a case as they are kept: one for each side and round, and goal."""
    lines = [
        {"benchmark": name, "case": outcome.case.name, "side": side, "round": number}
        | dict(common)
        | result
        for side, results in outcome.results.items()
        for number, result in enumerate(results)
    ]
    for goal in outcome.case.goals:
        values = outcome.values(goal)
        if values is not None:
            lines.append(
                {"benchmark": name, "case": outcome.case.name, "goal": goal.name}
                | {"value": values[0], "rounds": values[1:], "to_reach": goal.bound}
                | {"reached": goal.reached(values[0])}
                | dict(common)
            )
    return lines
