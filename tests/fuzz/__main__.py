"""`python -m tests.fuzz [TARGET…]`: looks for inputs that break what must hold, for as long as it is told.

Progress is a line a round and target: examples tried, examples a second. What is found is made small, kept as a file
in build/fuzz and replayed with --replay; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import os
import random
import sys
import time
from pathlib import Path

from tests.fuzz.runner import KEPT, Current, Finding, left_behind, load, search, target_name
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS
from tests.support import ROOT

ROUND_S = 10.0  # of one target, then the next
STEP_EXAMPLES = 100  # between two looks at the clock


def main() -> int:
    options = _parser().parse_args()
    faulthandler.enable()
    if options.replay:
        return max(_replay(path) for path in options.replay)
    _report_crashes()
    targets = [TARGETS[name] for name in options.targets or TARGETS]
    print(f"seed {options.seed}, {options.seconds:.0f} s: {', '.join(target.name for target in targets)}", flush=True)
    findings = _run(targets, options.seconds, random.Random(options.seed))
    print(f"{len(findings)} of {len(targets)} targets broken", flush=True)
    return 1 if findings else 0


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, TARGETS))
    listed = "\n".join(f"  {name:{width}}  {target.invariant}" for name, target in TARGETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        epilog=f"targets (all where none is named):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", type=_name)
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="in all (60)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), metavar="N", help="to do the same again")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="tries kept inputs, and nothing else")
    return parser


def _name(text: str) -> str:
    if text not in TARGETS:
        raise argparse.ArgumentTypeError(f"no such target: {text}; there are {', '.join(TARGETS)}")
    return text


def _run(targets: list[Target], seconds: float, numbers: random.Random) -> list[Finding]:
    """Round and round; a target that is broken is left out from then on: it would find the same again."""
    findings: list[Finding] = []
    whole = list(targets)
    tried = dict.fromkeys((target.name for target in targets), 0)
    end_s = time.monotonic() + seconds
    for turn, target in enumerate(itertools.cycle(targets)):
        left_s = max(0.0, end_s - time.monotonic())
        if not whole or (not left_s and all(tried.values())):
            return findings
        if target not in whole:
            continue
        before, started_s = tried[target.name], time.monotonic()
        share_s = left_s / (len(targets) - turn % len(targets))  # what is left, by those who still have a turn
        finding = _round(target, min(ROUND_S, share_s), numbers, tried)
        rate = (tried[target.name] - before) / (time.monotonic() - started_s)
        print(f"{target.name:10} {tried[target.name]:9,} examples {rate:7,.0f}/s  {left_s:6.0f} s left", flush=True)
        if finding is not None:
            findings.append(finding)
            whole.remove(target)
            _tell(finding)
    return findings


def _round(target: Target, seconds: float, numbers: random.Random, tried: dict[str, int]) -> Finding | None:
    current = Current(KEPT / f"{target.name}-{os.getpid()}.current")
    deadline_s = time.monotonic() + seconds

    def before(value: object) -> None:
        tried[target.name] += 1
        current(value)

    while True:  # a step at least: each target is tried, however late it is
        finding = search(target, STEP_EXAMPLES, numbers.randrange(1 << 32), before)
        if finding is not None or time.monotonic() > deadline_s:
            current.remove()
            return finding


def _tell(finding: Finding) -> None:
    path = finding.keep().relative_to(ROOT)
    print(f"\n{finding.error}\n{finding.target.name} is broken: {finding.target.invariant}\n  kept in {path}")
    print(f'  again:     make fuzz ARGS="--replay {path}"')
    print("  for good:  git mv it to tests/fuzz/found, where every test run replays it\n", flush=True)


def _report_crashes() -> None:
    """An earlier run's process may have died of an input."""
    for path in left_behind():
        print(f"an earlier run ended in the middle of {path.relative_to(ROOT)}: try it with --replay", file=sys.stderr)


def _replay(path: Path) -> int:
    target = TARGETS[target_name(path)]
    print(f"{path}: {target.invariant}", flush=True)
    target.check(load(path))
    print("  holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
