"""The tests' own Kafka: it answers, is killed, comes back with its data, and forms groups of both protocols."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.kafka import broker as broker_module
from tests.kafka.broker import Broker, answers
from tests.kafka.fixtures import Kafka, need_java
from tests.kafka.jars import INSTALL, made_once
from tests.support import ROOT, alive, end, free_port, run, spawn, wait_until

FAST = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200}


def create(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})  # its futures end with it
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)


def produce(producer: Producer, topic: str, value: str) -> None:
    producer.produce(topic, value.encode(), "key")
    assert producer.flush(30) == 0


def consume(consumer: Consumer) -> str:
    """The next record's value."""
    found = wait_until(lambda: consumer.poll(0.2), "a record")
    assert found is not None and found.error() is None, found
    value = found.value()
    assert value is not None
    return value.decode()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_what_is_produced_is_consumed_in_groups_of_both_protocols(kafka: Kafka, protocol: str) -> None:
    topic = f"{kafka.prefix}.high"
    create(kafka.bootstrap, topic)
    produce(Producer({"bootstrap.servers": kafka.bootstrap}), topic, "hello")
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": kafka.prefix,
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    assert consume(consumer) == "hello"
    consumer.close()


def test_a_killed_broker_comes_back_with_its_data_at_the_same_place(broker: Broker) -> None:
    create(broker.bootstrap, "kept")
    producer = Producer({"bootstrap.servers": broker.bootstrap, **FAST})
    produce(producer, "kept", "before")
    bootstrap, pid = broker.bootstrap, broker.pid
    broker.kill()
    assert not alive(pid)
    assert not answers(bootstrap)
    broker.start()
    assert broker.bootstrap == bootstrap
    produce(producer, "kept", "after")
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe(["kept"])
    assert [consume(consumer), consume(consumer)] == ["before", "after"]
    consumer.close()


def test_a_paused_broker_answers_when_it_is_resumed(broker: Broker) -> None:
    broker.pause()
    assert not answers(broker.bootstrap)
    broker.resume()
    wait_until(lambda: answers(broker.bootstrap), "the broker answers")


def test_brokers_are_configured_by_who_makes_them(make_broker: Callable[..., Broker]) -> None:
    one, other = make_broker(settings={"auto.create.topics.enable": "true"}), make_broker()
    assert one.bootstrap != other.bootstrap
    produce(Producer({"bootstrap.servers": one.bootstrap}), "made.by.itself", "x")
    assert "made.by.itself" not in AdminClient({"bootstrap.servers": other.bootstrap}).list_topics(timeout=30).topics


@pytest.fixture
def command() -> Iterator[subprocess.Popen[str]]:
    """A `make kafka` that has told where it is."""
    need_java()
    process = spawn(sys.executable, "-m", "tests.kafka", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    yield process
    end(process, signal.SIGTERM, 60.0)  # takes its data with it


def told(process: subprocess.Popen[str]) -> tuple[str, int, Path]:
    """Address, pid and directory from its first line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.match(r"Kafka answers at (\S+) \(pid (\d+), data in (\S+),", line)
    assert found, line + process.stdout.read()
    return found[1], int(found[2]), Path(found[3])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_takes_its_broker_and_data_with_it(command: subprocess.Popen[str], number: int) -> None:
    address, pid, directory = told(command)
    assert answers(address)
    assert end(command, number, 60.0) == 0
    assert not alive(pid)
    assert not directory.exists()


def test_no_broker_outlives_a_killed_command(command: subprocess.Popen[str]) -> None:
    _, pid, directory = told(command)
    end(command)
    wait_until(lambda: not alive(pid), "the broker is gone")
    shutil.rmtree(directory)


def test_the_command_ends_with_who_started_it() -> None:
    """A shell, such as make's, that is killed."""
    need_java()
    shell = spawn("sh", "-c", f"{sys.executable} -m tests.kafka; exit", stdout=subprocess.PIPE)
    _, pid, directory = told(shell)
    end(shell)
    try:
        wait_until(lambda: not alive(pid) and not directory.exists(), "nothing is left")
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)  # which ends the command, too


def test_a_port_that_is_taken_is_told(command: subprocess.Popen[str]) -> None:
    address, _, _ = told(command)
    second = run(sys.executable, "-m", "tests.kafka", "--port", address.rpartition(":")[2])
    assert second.returncode == 1
    assert "already in use" in second.stderr


def test_a_port_that_is_taken_before_the_broker_has_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    need_java()
    with socket.create_server(("127.0.0.1", 0)) as other:
        picked = iter([other.getsockname()[1]])
        monkeypatch.setattr(broker_module, "free_port", lambda: next(picked, None) or free_port())
        broker = Broker()
        try:
            broker.start()
            assert answers(broker.bootstrap)
        finally:
            broker.stop()


def test_a_port_that_was_asked_for_is_not_replaced_and_nothing_is_left() -> None:
    need_java()
    with socket.create_server(("127.0.0.1", 0)) as other:
        broker = Broker(port=other.getsockname()[1])
        with pytest.raises(RuntimeError, match="already in use"):
            broker.start()
    assert not broker.directory.exists()


def test_a_folder_is_made_once_by_however_many(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.1)  # as long as any other needs to find out that it is not there
        (folder / "content").write_text("x")

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: made_once(tmp_path / "a" / "b", make), range(16)))
    assert folders == {tmp_path / "a" / "b"}
    assert len(made) == 1
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "b.lock"]


def test_what_could_not_be_made_is_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        made_once(tmp_path / "b", fail)
    assert not (tmp_path / "b").exists()
    assert made_once(tmp_path / "b", lambda folder: None).is_dir()


def machine(home: Path, **programs: str) -> dict[str, str]:
    """The environment of one that has these programs, which are shell scripts, and nothing else."""
    folder = home / "bin"
    folder.mkdir()
    for name, script in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return {"PATH": str(folder), "HOME": str(home), "PYTHONPATH": str(ROOT)}


OLD_JAVA, JAVA = (f"""echo 'openjdk version "{version}" 2025-04-15' >&2""" for version in ("11.0.27", "17.0.15"))
MAVEN = """\
echo "$*" >> "$HOME/asked"
for each; do case $each in -DoutputDirectory=*) : > "${each#*=}/kafka_2.13-4.1.1.jar";; esac; done"""
ASK = "from tests.kafka.jars import jars; print(jars().libs)"


def test_jars_are_fetched_once(tmp_path: Path) -> None:
    environ = machine(tmp_path, java=JAVA, mvn=MAVEN)
    for _ in range(2):
        done = run(sys.executable, "-c", ASK, env=environ)
        assert done.returncode == 0, done.stderr
        libs = Path(done.stdout.strip())
        assert libs.is_relative_to(tmp_path / ".cache" / "zpush")
        assert [jar.name for jar in libs.iterdir()] == ["kafka_2.13-4.1.1.jar"]
    assert (tmp_path / "asked").read_text().count("\n") == 1


@pytest.mark.parametrize(
    "maven",
    [f"{MAVEN}\necho no network; exit 1", "echo no network"],
    ids=["it has fetched some of them", "it says that all is well"],
)
def test_what_maven_says_is_told_where_it_fails(tmp_path: Path, maven: str) -> None:
    done = run(sys.executable, "-c", ASK, env=machine(tmp_path, java=JAVA, mvn=maven))
    assert "failed:\nno network" in done.stderr
    assert not list(tmp_path.glob(".cache/zpush/*/libs"))


@pytest.mark.parametrize(
    ("programs", "what"),
    [({}, "Java 17 or newer"), ({"java": OLD_JAVA, "mvn": MAVEN}, "Java 17 or newer"), ({"java": JAVA}, "Maven")],
)
def test_what_is_missing_is_told_in_one_line(tmp_path: Path, programs: dict[str, str], what: str) -> None:
    """Tests are skipped, and fail where they are demanded."""
    test = tmp_path / "test_it.py"
    test.write_text("def test_it(kafka): pass\ndef test_own(broker): pass\n")
    environ = machine(tmp_path, **programs)
    argv = (sys.executable, "-m", "pytest", "-p", "tests.kafka.fixtures", "-c", "/dev/null", "-rs", test)
    skipped = run(*argv, env=environ)
    assert skipped.returncode == 0, skipped.stdout
    assert "2 skipped" in skipped.stdout
    assert f"{what} is missing: {INSTALL}" in skipped.stdout
    demanded = run(*argv, env={**environ, "ZPUSH_REQUIRE_ALL": "1"})
    assert demanded.returncode == 1
    assert "2 errors" in demanded.stdout
    assert INSTALL in demanded.stdout


def test_the_users_own_broker_is_used_and_never_killed(kafka: Kafka, tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        f"def test_it(kafka): assert kafka.url == {kafka.url!r}; kafka.create('x')\ndef test_own(broker): pass\n"
    )
    environ = {"PATH": "/nowhere", "PYTHONPATH": str(ROOT), "ZPUSH_TEST_KAFKA": kafka.bootstrap}
    argv = (sys.executable, "-m", "pytest", "-p", "tests.kafka.fixtures", "-c", "/dev/null", "-rs", test)
    done = run(*argv, env=environ)
    assert "1 passed, 1 skipped" in done.stdout, done.stdout
    assert "not ZPUSH_TEST_KAFKA's" in done.stdout
    wait_until(lambda: not [name for name in kafka.admin.list_topics(timeout=30).topics if name.endswith(".x")])
