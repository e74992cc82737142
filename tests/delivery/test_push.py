"""The usual push, which C makes a message of: the same as its definition in Python, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from zpush.delivery.push import Push, prepare
from zpush.delivery.usual_push import usual_message
from zpush.errors import MalformedMessage
from zpush.protocol.message import Message, Priority, made_ms

USUAL: list[dict[str, Any]] = [
    {"text": "t"},
    {"text": "snow: ☃", "priority": Priority.LOW},
    {"text": "", "priority": "high"},
    {"binary": b"\x00\xff"},
    {"data": {"a": ["é", 1.5]}, "ttl": 60},
    {"data": 1, "ttl": 0.001, "id": "mine"},
    {"text": "t", "id": "ключ"},
    {"text": "t", "client": "x" * 255},
    {"text": "t", "client": " ~"},
]
UNUSUAL: list[dict[str, Any]] = [
    {"text": "t", "client": None, "clients": ["a"]},
    {"text": "t", "client": None, "user": "u"},
    {"text": "t", "client": None, "all": True},
    {"text": "t", "client": "клиент"},
    {"text": "t", "direct": True},
    {"text": "t", "direct": True, "wait_ack": 1.0},
    {"text": "t", "secure_token": "a-token"},
    {"binary": bytearray(b"x")},
    {"data": None},
    {"data": {"nothing": [None, 1.5, "null"]}},
]
WRONG: list[dict[str, Any]] = [
    {},
    {"text": "t", "binary": b"b"},
    {"text": "t", "data": None},
    {"text": "t", "client": None},
    {"text": "t", "user": "u"},
    {"text": "t", "clients": ["a"]},
    {"text": "t", "all": True},
    {"text": "t", "client": ""},
    {"text": "t", "client": "a\n"},
    {"text": "t", "client": "a\x7f"},
    {"text": "t", "client": "x" * 256},
    {"text": "\ud800"},
    {"data": object()},
    {"data": b"bytes"},
    {"data": memoryview(b"bytes")},
    {"data": float("nan")},
    {"data": {"deep": [{"er": float("-inf")}]}},
    {"data": "\ud800"},
    {"text": "t", "ttl": 0},
    {"text": "t", "ttl": float("nan")},
    {"text": "t", "ttl": 1e300},
    {"text": "t", "ttl": "60s"},
    {"text": "t", "ttl": True},
    {"text": "t", "secure_token": ""},
    {"text": "t", "secure_token": "x" * 65},
    {"text": "t", "secure_token": "a-token", "client": None, "user": "u"},
    {"text": "t", "direct": True, "wait_ack": "1s"},
    {"text": "t", "priority": "urgent"},
    {"text": "t", "wait_ack": 1.0},
    {"text": "t", "id": ""},
    {"text": "t", "id": "zpush:close:4002"},
]


def push_of(fields: dict[str, Any]) -> Push:
    return Push(**{"client": "c1", **fields})


def of_push(fields: dict[str, Any]) -> Message | None:
    return usual_message(push_of(fields))


def of_fields(fields: dict[str, Any]) -> Message | None:
    return usual_message.of({"client": "c1", **fields})


EITHER_WAY = pytest.mark.parametrize("usual", [of_push, of_fields])
Usual = Callable[[dict[str, Any]], Message | None]


@EITHER_WAY
@pytest.mark.parametrize("fields", USUAL, ids=",".join)
def test_the_usual_push_is_what_its_definition_makes_of_it(usual: Usual, fields: dict[str, Any]) -> None:
    made = usual(fields)
    assert made is not None
    prepared = prepare(push_of(fields))
    [defined] = prepared.messages(made.queued_ms)
    got, expected = (
        Message(fields.get("id") or "new", *[getattr(each, f) for f in Message.__struct_fields__[1:]])
        for each in (made, defined)
    )
    assert got == expected
    for field in Message.__struct_fields__:
        assert type(getattr(made, field)) is type(getattr(defined, field))
    assert made.id == fields["id"] if "id" in fields else made_ms(made.id) == made.queued_ms


@EITHER_WAY
@pytest.mark.parametrize("fields", UNUSUAL, ids=",".join)
def test_what_is_unusual_is_left_to_the_definition(usual: Usual, fields: dict[str, Any]) -> None:
    assert usual(fields) is None
    assert prepare(push_of(fields)).messages(1)


def test_a_field_that_a_push_does_not_have_is_left_to_the_definition() -> None:
    assert of_fields({"text": "t", "txt": "u"}) is None


@EITHER_WAY
@pytest.mark.parametrize("fields", WRONG, ids=",".join)
def test_what_is_wrong_is_no_message_either_way(usual: Usual, fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        assert usual(fields) is None
        prepare(push_of(fields))


def new_ids(count: int) -> list[str]:
    messages = [usual_message(push_of({"text": "t"})) for _ in range(count)]
    return [message.id for message in messages if message is not None]


def test_ids_are_never_the_same_nor_after_a_fork() -> None:
    ids = new_ids(1000)
    assert len(set(ids)) == 1000
    ends = {each[12:] for each in ids}
    assert len(ends) == 1000
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.write(send, " ".join(new_ids(20)).encode())
        os._exit(0)
    ours = new_ids(20)
    os.waitpid(child, 0)
    theirs = os.read(receive, 4096).decode().split()
    os.close(receive), os.close(send)
    assert len({each[12:] for each in ours + theirs} | ends) == 1040
