"""Figures: what a part yields, and how several rounds become one.

Rules. A figure is CPU time, memory or latency: rates depend on the machine's mood, and are only told beside. Where a
ratio is judged, the same round is done by zpush and by the floor in turn, and the ratio is the median of the pairs'
own ratios: what changes slowly on the machine cancels out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.native import Answer
from benchmarks.process import Cpu

Round = Callable[[], Cpu]
"""Does something once, and answers what one operation cost."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figure:
    """target: an upper bound, of the ratio where of_ratio is set, else of the value. rounds: the single values."""

    name: str
    value: float
    unit: str
    user: float | None = None
    system: float | None = None
    floor: float | None = None
    ratio: float | None = None
    target: float | None = None
    of_ratio: bool = False
    rounds: Sequence[float] = field(default=(), repr=False)

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        judged = self.ratio if self.of_ratio else self.value
        return None if self.target is None or judged is None else judged <= self.target


def cpu_figure(name: str, rounds: Sequence[Cpu], target_us: float | None = None) -> Figure:
    """Medians of the rounds, in microseconds an operation."""
    totals = [each.total_s * 1e6 for each in rounds]
    user, system = split_us(rounds)
    return Figure(name, median(totals), "µs", user, system, target=target_us, rounds=totals)


def ratio_figure(name: str, ours: Sequence[Cpu], floors: Sequence[Cpu], target: float | None = None) -> Figure:
    """ours and floors: of the same rounds."""
    totals = [each.total_s * 1e6 for each in ours]
    ratios = [a.total_s / b.total_s for a, b in zip(ours, floors, strict=True)]
    floor_us = median(each.total_s * 1e6 for each in floors)
    user, system = split_us(ours)
    return Figure(name, median(totals), "µs", user, system, floor_us, median(ratios), target, True, totals)


def split_us(rounds: Sequence[Cpu]) -> tuple[float, float]:
    """User and system: the median, shared out as in all rounds together, for ticks are too coarse for one."""
    together = Cpu()
    for each in rounds:
        together = together + each
    middle_us = median(each.total_s for each in rounds) * 1e6
    share = together.user_s / together.total_s if together.total_s else 0.0
    return middle_us * share, middle_us * (1 - share)


def alternate(ours: Round, floor: Round, pairs: int, progress: Progress) -> tuple[list[Cpu], list[Cpu]]:
    """A B A B …, after one of each that does not count: caches and pools are warm then."""
    ours(), floor()
    done = [(ours(), floor()) for _ in progress.rounds(pairs)]
    return [a for a, _ in done], [b for _, b in done]


def latency_figures(name: str, answer: Answer, p99_target_ms: float | None = None) -> Iterator[Figure]:
    for label, key in (("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us"), ("most", "max_us")):
        target = p99_target_ms if label == "p99" else None
        yield Figure(f"{name}, {label}", answer[key] / 1000, "ms", target=target)
    if answer["late_ms"]:  # it had no sender free, or no core; the samples begin when a push was due, so it is in them
        yield Figure(f"{name}, sent late by at most", answer["late_ms"], "ms")


class Progress:
    """Which round of which part is being done; say is called with a text that replaces the one before."""

    def __init__(self, say: Say) -> None:
        self.say = say

    def rounds(self, count: int) -> Iterable[int]:
        for number in range(1, count + 1):
            self.say(f"round {number} of {count}")
            yield number
