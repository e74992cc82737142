from __future__ import annotations

from benchmarks.figures import Figure, Progress, alternate, cpu_figure, ratio_figure
from benchmarks.process import Cpu


def test_rounds_alternate_and_the_first_pair_does_not_count() -> None:
    done: list[str] = []
    costs = iter([9e-6, 9e-6, 2e-6, 1e-6, 4e-6, 1e-6, 6e-6, 2e-6])

    def take(name: str) -> Cpu:
        done.append(name)
        return Cpu(next(costs), 0.0)

    rounds = alternate(lambda: take("a"), lambda: take("b"), 3, Progress(lambda _: None))
    assert "".join(done) == "abababab"
    figure = ratio_figure("x", *rounds, target=2.5)
    assert (figure.value, figure.floor, figure.ratio) == (4.0, 1.0, 3.0)  # the median of 2, 4 and 3
    assert figure.met is False


def test_user_and_system_are_shared_out_as_in_all_rounds() -> None:
    figure = cpu_figure("x", [Cpu(1e-6, 3e-6), Cpu(4e-6, 0.0), Cpu(1e-6, 3e-6)], target_us=4.0)
    assert figure.user is not None and figure.system is not None
    assert (round(figure.value, 3), round(figure.user, 3), round(figure.system, 3)) == (4.0, 2.0, 2.0)
    assert figure.met


def test_without_a_target_nothing_is_judged() -> None:
    assert Figure("x", 1.0, "B").met is None
