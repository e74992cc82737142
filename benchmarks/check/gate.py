"""The judgement: figures held against a baseline. Knows no process and no valgrind.

Rules. Lower is better. A figure has a margin of its kind, for what it scatters by; past that it is worse, and the gate
closes. What is better by more than the margin is told, so that the baseline follows and the gain cannot be lost again
unseen. Instruction counts hold for one compiler, interpreter and set of libraries: measured with others, they have the
margin ELSEWHERE, which only stops what is far off.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ELSEWHERE = 0.30


class Kind(enum.Enum):
    """What a figure is, and by how much it may exceed its baseline."""

    FUNCTION = "instructions", 0.05, 0.0  # nearly the same to the last one; where objects lie in memory shows
    WORKER = "instructions", 0.10, 0.0  # how many requests a turn of the loop finds is not always the same
    MEMORY = "B", 0.0, 60.0  # the allocators' pages
    RATIO = "× floor", 0.40, 0.0  # pairs scatter by 0.8 to 1.25 on a busy machine

    def __init__(self, unit: str, share: float, absolute: float) -> None:
        self.unit = unit
        self.share = share
        self.absolute = absolute

    @property
    def counts_instructions(self) -> bool:
        return self.unit == "instructions"


@dataclass(frozen=True, slots=True)
class Measured:
    name: str
    value: float
    kind: Kind


class State(enum.Enum):
    SAME = "same"
    BETTER = "better"
    WORSE = "WORSE"
    NEW = "NEW"  # the baseline does not have it


@dataclass(frozen=True, slots=True)
class Verdict:
    measured: Measured
    baseline: float | None
    margin: float  # in the figure's unit
    state: State

    @property
    def stops(self) -> bool:
        return self.state in (State.WORSE, State.NEW)


def judge(measured: Iterable[Measured], baseline: Mapping[str, float], same_environment: bool) -> list[Verdict]:
    return [_judge_one(each, baseline.get(each.name), same_environment) for each in measured]


def _judge_one(measured: Measured, baseline: float | None, same_environment: bool) -> Verdict:
    if baseline is None:
        return Verdict(measured, None, 0.0, State.NEW)
    kind = measured.kind
    share = kind.share if same_environment or not kind.counts_instructions else ELSEWHERE
    margin = baseline * share + kind.absolute
    if measured.value > baseline + margin:
        return Verdict(measured, baseline, margin, State.WORSE)
    state = State.BETTER if measured.value < baseline - margin else State.SAME
    return Verdict(measured, baseline, margin, state)
