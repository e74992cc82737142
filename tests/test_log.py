"""One line per event, for machines or people; files that can be rotated; nothing forged by a value."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pty
import select
import stat
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from zpush import log
from zpush.errors import StartupError

logger = logging.getLogger("zpush.tests")


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loggers of the whole test run are as they were, whatever a test sets up."""
    loggers = [logging.getLogger(name) for name in log.LOGGERS]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    monkeypatch.setattr(log, "_handler", None)
    monkeypatch.setattr(log, "_path", "")
    monkeypatch.setattr(log, "_process", "worker 3")
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:], each.level, each.propagate = handlers, level, propagate


class Reader:
    """Of what is written to standard error: a pipe, or a terminal."""

    def __init__(self, fd: int, writing: int) -> None:
        self.fd = fd
        self.writing = writing

    def text(self) -> str:
        """What has been written and not been read."""
        found = b""
        while select.select([self.fd], [], [], 0)[0]:
            found += os.read(self.fd, 65536)
        return found.decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def fill(self) -> None:
        """Until nothing more goes in, a moment later too: the kernel moves a terminal's bytes by and by."""
        os.set_blocking(self.writing, False)
        room = select.poll()
        room.register(self.writing, select.POLLOUT)
        while room.poll(200):
            for size in (4096, 1):
                with pytest.raises(BlockingIOError):
                    while True:
                        os.write(self.writing, b"\n" * size)
        os.set_blocking(self.writing, True)


Stderr = Callable[..., Reader]


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stderr]:
    """stderr(terminal=False): a new one, in the place of sys.stderr."""
    opened: list[int] = []

    def make(terminal: bool = False) -> Reader:
        reading, writing = pty.openpty() if terminal else os.pipe()
        if terminal:
            tty.setraw(writing)
        opened.extend((reading, writing))
        monkeypatch.setattr("sys.stderr", open(writing, "w", closefd=False))  # noqa: SIM115  it is what others print to
        return Reader(reading, writing)

    yield make
    for fd in opened:
        os.close(fd)


def written(stderr: Reader, format: str, **fields: Any) -> str:
    log.setup("info", format)
    log.event(logger, "worker ready", **fields)
    return stderr.text()


def test_a_json_line(stderr: Stderr) -> None:
    text = written(stderr(), "auto", slot=1, path="a b\nc", event="forged", address=("h", 1))
    assert text.endswith("\n") and text.count("\n") == 1
    line = json.loads(text)
    assert line["event"] == "worker ready"
    assert line["process"] == "worker 3"
    assert (line["level"], line["pid"], line["logger"]) == ("info", os.getpid(), "zpush.tests")
    assert (line["slot"], line["path"], line["address"]) == (1, "a b\nc", ["h", 1])
    assert line["time"][10] == "T" and line["time"].endswith("Z")


def test_a_text_line_on_a_terminal(stderr: Stderr) -> None:
    text = written(stderr(terminal=True), "auto", slot=1, path="a b\nc", empty="", ratio=0.5)
    assert text.count("\n") == 1
    assert text.endswith(' info worker 3: worker ready slot=1 path="a b\\nc" empty="" ratio=0.5\n')


@pytest.mark.parametrize(("format", "terminal"), [("json", True), ("text", False)])
def test_a_chosen_format_wins(stderr: Stderr, format: str, terminal: bool) -> None:
    text = written(stderr(terminal), format)
    assert text.startswith("{") is (format == "json")


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_value_forges_a_line(stderr: Stderr, format: str) -> None:
    reader = stderr()
    log.setup("info", format)
    logger.info("client %s", "x\n2026-01-01 00:00:00.000 error master: forged\x1b[2J\u2028")
    text = reader.text()
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text


def test_an_exception_is_told_whole(stderr: Stderr) -> None:
    reader = stderr()
    log.setup("info", "json")
    try:
        raise LookupError("what")
    except LookupError:
        log.event(logger, "crashed", logging.ERROR, exc_info=True, slot=1)
    assert "LookupError: what" in reader.lines()[0]["exception"]
    log.setup("info", "text")
    try:
        raise LookupError("what")
    except LookupError:
        log.event(logger, "crashed", logging.ERROR, exc_info=True)
    assert "\n    LookupError: what\n" in reader.text()


def test_the_level_is_kept_and_can_change(stderr: Stderr) -> None:
    reader = stderr()
    log.setup("warning", "json")
    log.event(logger, "quiet")
    assert reader.text() == ""
    log.setup("debug", "json")
    log.event(logger, "loud", logging.DEBUG)
    assert [line["event"] for line in reader.lines()] == ["loud"]


@pytest.mark.parametrize("terminal", [False, True])
def test_nobody_waits_for_a_reader_that_has_stopped(stderr: Stderr, terminal: bool) -> None:
    reader = stderr(terminal)
    log.setup("info", "json")
    reader.fill()
    log.event(logger, "lost")
    log.SparseLog(logger).warning("lost", left_out=5)
    assert "lost" not in reader.text()
    log.event(logger, "found")
    log.event(logger, "next")
    found, following = reader.lines()
    assert (found["event"], found["left_out"]) == ("found", 2)
    assert "left_out" not in following


def test_a_long_line_that_is_cut_off_spoils_no_other(stderr: Stderr) -> None:
    reader = stderr()
    log.setup("info", "json")
    log.event(logger, "long", filler="x" * 200_000)  # more than a pipe holds
    assert reader.text().startswith("{")
    log.event(logger, "found")
    end, line = reader.text().splitlines()
    assert end == ""
    assert (json.loads(line)["event"], json.loads(line)["left_out"]) == ("found", 1)


def test_a_long_line_goes_through_whole_where_there_is_room(stderr: Stderr) -> None:
    reader = stderr()
    log.setup("info", "json")
    log.event(logger, "long", filler="x" * 20_000)
    assert len(reader.lines()[0]["filler"]) == 20_000


def test_a_reader_that_has_left_is_no_failure(stderr: Stderr) -> None:
    reader = stderr()
    log.setup("info", "json")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, reader.fd)
    os.close(null)
    log.event(logger, "to nobody")


def test_what_was_left_out_before_a_fork_is_told_once(stderr: Stderr) -> None:
    reader = stderr()
    log.setup("info", "json")
    reader.fill()
    log.event(logger, "lost")
    reader.text()
    log.set_process("worker 4")
    log.event(logger, "found")
    assert "left_out" not in reader.lines()[0]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_defect_that_nobody_awaits_is_told(stderr: Stderr, run: Callable[..., None]) -> None:
    reader = stderr()
    log.setup("info", "json")

    def defect(payload: str) -> None:
        raise LookupError("in a callback")

    async def on_a_loop() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log.on_loop_error)
        loop.call_soon(defect, "of a sender")
        await asyncio.sleep(0)
        forgotten = loop.create_future()
        forgotten.set_exception(LookupError("unasked"))
        del forgotten
        loop.call_exception_handler({"message": "odd"})

    run(on_a_loop())
    text = reader.text()
    assert "of a sender" not in text
    failed, unasked, odd = map(json.loads, text.splitlines())
    assert (failed["event"], failed["level"]) == ("a callback failed", "error")
    assert "LookupError: in a callback" in failed["exception"]
    assert "LookupError: unasked" in unasked["exception"]
    assert odd["reason"] == "odd"


def test_what_asyncio_says_is_ours_too(stderr: Stderr) -> None:
    reader = stderr()
    log.setup("info", "json")
    logging.getLogger("asyncio").warning("slow")
    assert [line["event"] for line in reader.lines()] == ["slow"]


def close_log() -> None:
    for name in log.LOGGERS:
        logging.getLogger(name).handlers.pop()
    assert log._handler is not None
    log._handler.close()


def test_a_rotated_file_is_opened_anew(tmp_path: Path) -> None:
    path, moved = tmp_path / "zpush.log", tmp_path / "zpush.log.1"
    log.setup("info", "json", str(path))
    log.event(logger, "first")
    path.rename(moved)
    log.event(logger, "second")
    log.reopen()
    log.event(logger, "third")
    assert [json.loads(line)["event"] for line in moved.read_text().splitlines()] == ["first", "second"]
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["third"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    close_log()


def test_a_file_that_cannot_be_opened_anew_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log.setup("info", "json", str(folder / "zpush.log"))
    moved = folder.rename(tmp_path / "moved") / "zpush.log"
    log.reopen()
    log.event(logger, "still here")
    events = [json.loads(line)["event"] for line in moved.read_text().splitlines()]
    assert events == ["log file kept", "still here"]
    close_log()


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "zpush.log"
    log.setup("info", "json", str(path))
    for _ in range(4):
        if os.fork() == 0:
            for number in range(200):
                log.event(logger, "line", number=number, filler="x" * 300)
            os._exit(0)
    codes = [os.waitpid(-1, 0)[1] for _ in range(4)]
    assert codes == [0] * 4
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 800
    close_log()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"log\.file .*: No such file"):
        log.setup("info", "json", str(tmp_path / "none" / "zpush.log"))
