"""The long form of the state machine: thousands of lives of a store, on a tmpfs.

::

    python -m tests.campaign --examples 1000 --steps 50 --store-dir /dev/shm

Each example makes a store, drives it and the model through up to ``--steps`` random steps, asks
both everything, and closes the store with ``verify()``.  The lives are shared out over ``--jobs``
processes, each with a seed of its own counted up from ``--seed``; half of the examples hash keys to
four values.  The last line says how many examples ran, and the seed that would run them again.
A failure prints the steps that lead to it, made as short as Hypothesis can.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.test_state_machine import StoreMachine

HASHES = ("64", "2")


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; the exit code is 0 when every example was clean."""
    options = _options(arguments)
    if options.share:
        return _run_share(options)
    started = time.monotonic()
    shares = [
        (options.seed + number, HASHES[number % 2], count)
        for number, count in enumerate(_parts(options.examples, max(2, options.jobs)))
    ]
    codes = []
    for at in range(0, len(shares), options.jobs):
        codes += _together(options, shares[at : at + options.jobs])
    clean = not any(codes)
    print(  # noqa: T201 - a command
        f"campaign: {options.examples} examples of up to {options.steps} steps, "
        f"seed {options.seed}, {time.monotonic() - started:.0f} s: "
        f"{'all clean' if clean else 'FAILED, see above'}"
    )
    return 0 if clean else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--examples", type=int, default=1000, help="lives of a store")
    parser.add_argument("--steps", type=int, default=50, help="steps of a life, at most")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()  # noqa: PTH112
    parser.add_argument("--store-dir", default=shm, help="where the stores live; a tmpfs is fast")
    parser.add_argument("--share", choices=HASHES, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _parts(total: int, count: int) -> list[int]:
    return [total // count + (number < total % count) for number in range(count)]


def _together(options: argparse.Namespace, shares: list[tuple[int, str, int]]) -> list[int]:
    """Run some shares side by side, and wait for all."""
    processes = []
    for share_seed, bits, count in shares:
        command = [sys.executable, "-m", "tests.campaign", "--share", bits]
        command += ["--seed", str(share_seed), "--examples", str(count)]
        command += ["--steps", str(options.steps), "--store-dir", options.store_dir]
        processes.append(subprocess.Popen(command))
    return [process.wait() for process in processes]


def _run_share(options: argparse.Namespace) -> int:
    class Machine(StoreMachine):
        """The machine of this share, which says how far it is."""

        def teardown(self) -> None:
            super().teardown()
            if self.lives % 100 == 0:
                print(f"{self.lives} examples are clean", file=sys.stderr, flush=True)  # noqa: T201

    Machine.store_dir = options.store_dir
    Machine.key_hash_bits = int(options.share)
    started = time.monotonic()
    try:
        run_state_machine_as_test(
            seed(options.seed)(Machine),
            settings=settings(
                max_examples=options.examples,
                stateful_step_count=options.steps,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                print_blob=True,
                # `explain` reruns a failure hundreds of times; the steps say it well enough.
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        steps = ", ".join(f"{what} {count}" for what, count in sorted(Machine.steps.items()))
        print(  # noqa: T201 - a command
            f"{Machine.lives} examples, {sum(Machine.steps.values())} steps, seed {options.seed}, "
            f"key hash of {options.share} bits, {time.monotonic() - started:.0f} s: {steps}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
