"""Campaigns against a store: ``python -m tests.survival CAMPAIGN --help``.

Each prints one line at the end, or how a promise was broken and by which seed.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.survival.judge import Broken


def _kill(options: argparse.Namespace) -> str:
    from tests.survival import kills

    return kills.campaign(options.count, options.seed, options.plant)


def _cut(options: argparse.Namespace) -> str:
    from tests.survival import cuts

    return cuts.campaign(options.count, options.seed, options.plant)


def _step(options: argparse.Namespace) -> str:
    from tests.survival import steps

    how = (options.count, options.seed, options.plant, options.through, options.start)
    return steps.campaign(*how)


def _fill(options: argparse.Namespace) -> str:
    from tests.survival import fills

    return fills.campaign(options.count, options.seed, options.plant)


def _history(options: argparse.Namespace) -> str:
    from tests.survival import histories

    return histories.campaign(options.count, options.seed, options.plant)


def _late(options: argparse.Namespace) -> str:
    from tests.survival import late

    return late.campaign(options.count, options.seed, options.plant)


CAMPAIGNS = {
    "late": (_late, 100, "flushers, compactors and ingesters stopped, and woken up late"),
    "history": (_history, 100_000, "histories of eight clients, linearizable key by key"),
    "fill": (_fill, 20, "full disks, quotas, reader tables, inodes, descriptors"),
    "kill": (_kill, 1000, "kill -9: writers, loaders, tidiers, readers"),
    "step": (_step, 10**6, "a fault at every file call of a life, one after the other"),
    "cut": (_cut, 100, "power cuts: ext4 on a loop device, shut down at once"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; the exit code is 0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.survival", description=__doc__)
    commands = parser.add_subparsers(dest="campaign", required=True)
    for name, (_, count, says) in CAMPAIGNS.items():
        command = commands.add_parser(name, help=says, description=says)
        command.add_argument("--count", type=int, default=count)
        command.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
        if name == "step":
            command.add_argument("--through", choices=("seam", "libc"), default="seam")
            command.add_argument("--start", type=int, default=0, help="number of the first fault")
        command.add_argument("--plant", help="break a promise first; see tests/survival/plants.py")
    options = parser.parse_args(arguments)
    try:
        print(f"{options.campaign}: {CAMPAIGNS[options.campaign][0](options)}")
    except Broken as broken:
        print(f"{options.campaign}: BROKEN, {broken}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
