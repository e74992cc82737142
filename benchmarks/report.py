"""Runs parts, prints their figures as a table, keeps them as JSON in benchmarks/results/."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import Figure, Progress, Say

Part = Callable[[Progress], Iterator[Figure]]
"""Its docstring's first line tells what it measures."""

RESULTS = Path(__file__).parent / "results"
BUSY_LOAD = 0.5  # runnable processes per core before we begin, above which a run is called noisy
NAME_WIDTH = 52
HEADER = f"  {'':{NAME_WIDTH}} {'value':>10}      {'user':>7} {'system':>7} {'floor':>8} {'ratio':>7}  target"


def report(parts: Mapping[str, Part], prog: str, description: str | None, by_name: Collection[str] = ()) -> int:
    """Exit code of `prog [PART…]`: 0 whatever the figures are, 1 where a part had no result.

    by_name: parts that only run where they are named.
    """
    names = _names(parts, prog, description, by_name)
    _say_noise()
    started_s = time.monotonic()
    results: dict[str, list[dict[str, object]]] = {}
    failed = []
    for name in names:
        results[name] = []
        try:
            for figure in _run(name, parts[name]):
                results[name].append({**asdict(figure), "met": figure.met})
        except RuntimeError as e:
            print(f"  no more results: {e}", flush=True)
            failed.append(name)
    path = _keep(results)
    print(f"\n{time.monotonic() - started_s:.0f} s; kept in {path}")
    if failed:
        print(f"without all of its results: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, part: Part) -> Iterator[Figure]:
    print(f"\n{name}: {(part.__doc__ or '').strip()}\n{HEADER}", flush=True)
    try:
        for figure in part(Progress(_progress(name))):
            _clear()
            print(_row(figure), flush=True)
            yield figure
    finally:
        _clear()


def _names(parts: Mapping[str, Part], prog: str, description: str | None, by_name: Collection[str]) -> list[str]:
    parser = argparse.ArgumentParser(prog=prog, description=description)
    left_out = f", but for {', '.join(by_name)}" if by_name else ""
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}; all where none is named{left_out}"
    )
    names: list[str] = parser.parse_args().parts or [name for name in parts if name not in by_name]
    unknown = [name for name in names if name not in parts]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(parts)}")
    return names


def _say_noise() -> None:
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY_LOAD * cores:
        print(
            f"This machine is busy (load {load:.1f} on {cores} cores): latencies will be too high, ratios will scatter"
        )


def _row(figure: Figure) -> str:
    parts = [f"  {figure.name:{NAME_WIDTH}} {figure.value:>10,.2f} {figure.unit:<4}"]
    parts += [_cell(figure.user, 7), _cell(figure.system, 7), _cell(figure.floor, 8)]
    parts.append(f"{figure.ratio:>5.2f} ×" if figure.ratio is not None else " " * 7)
    if figure.target is not None:
        unit = "×" if figure.of_ratio else figure.unit
        parts.append(f" ≤ {figure.target:g} {unit} {'met' if figure.met else 'MISSED'}")
    return " ".join(parts).rstrip()


def _cell(value: float | None, width: int) -> str:
    return f"{value:>{width},.2f}" if value is not None else " " * width


def _progress(part: str) -> Say:
    def say(what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K  {part}: {what} …", end="", file=sys.stderr, flush=True)

    return say


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _keep(results: dict[str, list[dict[str, object]]]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%S')}.json"
    machine = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }
    path.write_text(json.dumps({"machine": machine, "figures": results}, indent=2) + "\n")
    return path
