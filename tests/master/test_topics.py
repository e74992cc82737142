"""The look at Kafka's topics before anything is started."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kafka.broker import Broker
from tests.kafka.fixtures import Kafka
from tests.master.run import ANY_PORTS, Run
from tests.support import free_port, wait_until

KINDS = ("high", "normal", "low", "dead")


def refused(run: Run) -> str:
    """What a run that does not start says, on one line."""
    out, err = run.output()
    assert run.process is not None
    assert run.process.returncode == 1, (out, err)
    assert out == ""
    assert err.count("\n") == 1
    return err


def overrides(kafka: Kafka) -> tuple[str, str]:
    return f"queue.url={kafka.url}", f"queue.prefix={kafka.prefix}"


def test_missing_topics_stop_the_start_with_what_makes_them(run: Run, kafka: Kafka) -> None:
    kafka.create("high", "low")
    run.start(*overrides(kafka))
    said = refused(run)
    assert f"Kafka has no {kafka.prefix}.normal, {kafka.prefix}.dead: `zpush topics create`" in said
    assert run.events() == [], "no child was started"


def test_missing_topics_stop_processors_too(run: Run, kafka: Kafka) -> None:
    run.start(*overrides(kafka), "registry.url=redis://127.0.0.1:1", "auth.mode=dev", "peers.secret=" + "s" * 16,
              processors_only=True)  # fmt: skip
    assert f"Kafka has no {kafka.prefix}.high" in refused(run)


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        ("queue.prefix=none", 1, "Kafka has no none.high"),
        ("queue.kafka.lingr.ms=1", 2, "No such configuration property"),
    ],
)
def test_only_a_wrong_configuration_is_for_good(run: Run, kafka: Kafka, more: str, code: int, says: str) -> None:
    """A service manager tries again after exit 1, and need not after 2."""
    sets = (*ANY_PORTS, f"queue.url={kafka.url}", f"log.file={run.log}", more)
    found, _, err = run.command("serve", *(part for each in sets for part in ("--set", each)))
    assert found == code
    assert says in err and err.count("\n") == 1


def test_with_all_topics_it_starts(run: Run, kafka: Kafka) -> None:
    kafka.create(*KINDS)
    run.start(*overrides(kafka))
    run.ready()
    assert not run.logged("topics are not checked")
    assert run.end(signal.SIGTERM) == 0


def test_a_cluster_that_is_away_stops_no_start(run: Run) -> None:
    run.start(f"queue.url=kafka://127.0.0.1:{free_port()}")
    run.until(lambda status: status["state"] == "ready", "ready without Kafka", 30.0)
    [warning] = run.logged("topics are not checked")
    assert "Connection refused" in warning["reason"]
    assert warning["level"] == "warning"


def test_who_is_told_to_end_meanwhile_ends(run: Run, make_broker: Callable[..., Broker]) -> None:
    broker = make_broker()
    broker.pause()
    run.start(f"queue.url={broker.url}")
    wait_until(lambda: run.logged("starting"), "the master has begun")
    wait_until(lambda: _children(run), "the topics are being looked at")
    assert run.end(signal.SIGTERM) == 0
    assert not run.logged("topics are not checked"), "it did not wait for the answer"
    assert run.events() == []


def _children(run: Run) -> list[str]:
    assert run.process is not None
    pid = run.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
