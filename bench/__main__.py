"""The command line of the benchmarks: ``python -m bench NAME ... --size full``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import chdb_peer, feast_peer, harness, peers, ray_peer, report
from bench.harness import BenchmarkFailed, Options

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks, or one side or step of one; returns the exit code."""
    asked = _parser().parse_args(arguments)
    scratch = asked.scratch.expanduser().absolute()
    feast, ray, chdb = (
        None if venv is None else venv.expanduser().absolute()
        for venv in (asked.feast_venv, asked.ray_venv, asked.chdb_venv)
    )
    formats = asked.formats or harness.formats()
    options = Options(asked.size, asked.seed, scratch, formats, feast, ray, chdb)
    if asked.side or asked.step:
        what = ["--step", asked.step] if asked.step else ["--side", asked.side]
        # The last line of what a library may also have printed.
        print(json.dumps(harness.inside(asked.names[0], what, options)), flush=True)
        return 0
    if not asked.names:
        _list()
        return 0
    if feast is not None:
        _say("preparing Feast's environment")
        peers.make_environment(feast, "feast", feast_peer.REQUIREMENTS)
    if ray is not None:
        _say("preparing Ray's environment")
        peers.make_environment(ray, "ray", ray_peer.REQUIREMENTS)
    if chdb is not None:
        _say("preparing ClickHouse's environment")
        peers.make_environment(chdb, "chdb", chdb_peer.REQUIREMENTS)
    return _run(asked, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks, or all")
    parser.add_argument("--size", choices=harness.SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="CASE", help="this case; repeatable")
    parser.add_argument("--sides", default="", metavar="A,B", help="only these sides")
    parser.add_argument("--rounds", type=int, help="instead of each case's own number")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=CACHE / "featurestore-bench",
        help="where data are made, on the disk to be measured (%(default)s)",
    )
    parser.add_argument("--feast-venv", type=Path, help="Feast's environment; made if missing")
    parser.add_argument("--ray-venv", type=Path, help="Ray's environment; made if missing")
    parser.add_argument("--chdb-venv", type=Path, help="ClickHouse's environment; made if missing")
    parser.add_argument("--formats", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def _list() -> None:
    for name in harness.names():
        module = harness.load(name)
        print(f"{name}: {(module.__doc__ or '').splitlines()[0]}")
        for case in module.CASES:
            print(f"    {case.name:18} {case.question}")


def _run(asked: argparse.Namespace, options: Options) -> int:
    began = time.monotonic()
    common = harness.circumstances(options)
    print(report.heading(common))
    options.scratch.mkdir(parents=True, exist_ok=True)
    harness.tidy(options.scratch)
    kept = options.scratch / "results.jsonl"
    goals: list[list[str]] = []
    failed = []
    for name in harness.names() if asked.names == ["all"] else asked.names:
        for case in harness.load(name).CASES:
            if asked.only and case.name not in asked.only:
                continue
            only = [side for side in asked.sides.split(",") if side]
            try:
                outcome = harness.run_case(
                    name, case, options, _say, rounds=asked.rounds, only=only
                )
            except BenchmarkFailed as failure:
                failed.append(f"{name} {case.name}")
                print(f"FAILED {failure}")
                continue
            with kept.open("a", encoding="utf-8") as file:
                for line in harness.result_lines(name, outcome, common):
                    file.write(json.dumps(line) + "\n")
            report.show(*report.case_table(outcome), numbers_from=2)
            goals += report.goal_rows(name, outcome)
    report.show("Goals", report.GOAL_HEADER, goals, numbers_from=3)
    print(f"results: {kept}")
    print(f"total: {time.monotonic() - began:.0f} s")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
