"""`python -m benchmarks.check [--update] [--ratios] [NAME…]`: exit code 1 where something got worse than the baseline.

NAME: a group (functions, worker, processor, memory) or one of the functions; all groups where none is named. Where
valgrind is missing, what it counts is left out, with a line that says so. --update writes benchmarks/baseline.json
anew: after a change that is worth what it costs, or one that gained something.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks.check import callgrind, measure
from benchmarks.check.gate import Measured, Verdict, judge
from benchmarks.check.scripts import SCRIPTS

BASELINE = Path(__file__).parent.parent / "baseline.json"
GROUPS = ("functions", "worker", "processor", "memory")
LIBRARIES = ("cryptography", "cython", "hiredis", "httptools", "joserfc", "msgspec", "uvloop")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *GROUPS, *SCRIPTS])
    parser.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("--ratios", action="store_true", help="also CPU time against the floor: for a quiet machine")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="another file")
    args = parser.parse_args()
    measured = list(_measure(args.names or list(GROUPS), args.ratios))
    if args.update:
        _write(args.baseline, measured)
        return 0
    baseline = json.loads(args.baseline.read_text())
    same = baseline["environment"] == environment()
    if not same:
        print("The baseline was counted with other versions than these, so instructions get a wider margin.")
    verdicts = judge(measured, baseline["figures"], same)
    for verdict in verdicts:
        print(_row(verdict))
    return _conclude(verdicts)


def _measure(names: list[str], with_ratios: bool) -> Iterator[Measured]:
    scripts = [name for name in SCRIPTS if name in names or "functions" in names]
    why_not = callgrind.missing()
    if why_not:
        print(f"instructions are not counted: {why_not}")
    if scripts and not why_not:
        yield from measure.functions(scripts)
    if "worker" in names and not why_not:
        yield from measure.worker()
    if "processor" in names and not why_not:
        yield from measure.processor()
    if "memory" in names:
        yield from measure.memory()
    if with_ratios:
        yield from measure.ratios()


def environment() -> dict[str, str]:
    """What instruction counts depend on, besides our own code."""
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return {
        "python": f"{platform.python_version()} {platform.python_compiler()}",
        "machine": platform.machine(),
        "processor": _processor(),  # OpenSSL and libc choose their code by it
        "libc": " ".join(platform.libc_ver()),
        "compiler": compiler,
        **{name: version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _write(path: Path, measured: list[Measured]) -> None:
    """What was not measured now keeps its old figure, if the environment is the same."""
    old = json.loads(path.read_text()) if path.exists() else {}
    figures = old["figures"] if old.get("environment") == environment() else {}
    figures |= {each.name: round(each.value, 2) for each in measured}
    path.write_text(json.dumps({"environment": environment(), "figures": figures}, indent=2) + "\n")
    print(f"{len(measured)} figures written to {path}")


def _row(verdict: Verdict) -> str:
    measured, baseline = verdict.measured, verdict.baseline
    if baseline is None:
        return f"  {measured.name:24} {measured.value:12,.2f} {measured.kind.unit:13} {verdict.state.value}"
    change = 100 * (measured.value / baseline - 1)
    return (
        f"  {measured.name:24} {measured.value:12,.2f} {measured.kind.unit:13} baseline {baseline:12,.2f}"
        f"  {change:+7.1f} %  (allowed {100 * verdict.margin / baseline:+.0f} %)  {verdict.state.value}"
    )


def _conclude(verdicts: list[Verdict]) -> int:
    stops = [verdict.measured.name for verdict in verdicts if verdict.stops]
    if stops:
        print(f"bench-check: {', '.join(stops)}: make it cheaper, or write the baseline anew (--update) and say why")
        return 1
    print(f"bench-check: {len(verdicts)} figures are within their margins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
