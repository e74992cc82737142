"""Scripts for the engine: what sockets and callers do, one step after another, as literals.

A step is (name, argument, …). Numbers that name a client or a handle count through those of the world, round and
round, dead ones included; so a script means something whatever became of the steps before.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.fuzz.frames import KEYS, STREAMS, client_frame
from zpush.protocol.close import CLOSE_CODES

Step = tuple[Any, ...]
IDS = [b"alice", b"bob", b"c" * 255]
PROTOCOLS = [b"raw", b"v1", b"sse"]
WHICH = st.integers(0, 7)
ID = st.sampled_from(IDS)
PROTOCOL = st.integers(1, 3)
KIND = st.integers(1, 3)
SIZE = st.sampled_from([0, 1, 100, 126, 1000, 3000, 9000, 40_000])
AGE_S = st.sampled_from([0, 1, 3, 60, 40_000, 200_000])
CODE = st.sampled_from(sorted(CLOSE_CODES))

MESSAGES = st.builds(
    lambda first, payload, key: client_frame(first, payload, key),
    st.sampled_from([0x81, 0x81, 0x82, 0x89, 0x8A]),
    st.sampled_from([b"", b"x", b"hello", b"y" * 125, b'{"ack":"m"}']),
    KEYS,
)
# opcode, size, count
MUCH = st.sampled_from([(2, 2000, 1), (2, 30_000, 3), (1, 70_000, 2), (9, 60, 50), (9, 125, 2000)])
CLOSES = st.sampled_from([b"", b"\x03\xe8bye", b"\x0f\xa5"]).map(lambda p: client_frame(0x88, p, b"\0\0\0\0"))
HEADS = st.sampled_from(
    [
        b"GET /raw/al",
        b"\r\n\r\n",
        b"GET /later/1 HTTP/1.1\r\n",
        b"x" * 3000,
        b"A: b\r\n" * 40,
        b"PROXY UNKNOWN\r\n",
        b"PRO",
    ]
)

OUTSIDE = st.one_of(  # what clients and time do
    st.tuples(st.just("ask"), st.sampled_from(["open", "open", "open", "later", "unknown", "refuse"]), PROTOCOL, ID),
    st.tuples(st.just("ask"), st.sampled_from(["open", "open", "later", "unknown"]), PROTOCOL, ID),
    st.tuples(st.just("say"), WHICH, st.one_of(MESSAGES, MESSAGES, CLOSES)),
    st.tuples(st.just("pour"), WHICH, MUCH),
    st.tuples(st.just("shout"), WHICH, st.one_of(STREAMS, HEADS)),
    st.tuples(st.just("connect"), HEADS),
    st.tuples(st.just("read"), WHICH, st.sampled_from([1, 100, 5000, 1 << 20])),
    st.tuples(st.sampled_from(["finish", "leave", "reset"]), WHICH),
    st.tuples(st.just("turn")),
    st.tuples(st.just("turn")),
    st.tuples(st.just("poll")),
    st.tuples(st.just("sweep"), st.sampled_from([0, 1, 1, 2, 5, 30, 70_000])),
)
CALLS = st.one_of(  # what the worker says to the engine
    st.tuples(st.just("deliver"), st.lists(st.tuples(ID, SIZE, KIND), min_size=1, max_size=5).map(tuple)),
    st.tuples(st.just("deliver"), st.lists(st.tuples(ID, SIZE, KIND), min_size=1, max_size=5).map(tuple)),
    st.tuples(st.just("broadcast"), SIZE, KIND),
    st.tuples(st.just("send"), WHICH, SIZE),
    st.tuples(st.just("bind"), WHICH, ID, PROTOCOL),
    st.tuples(st.just("open"), WHICH, AGE_S, st.booleans()),
    st.tuples(st.just("open_unknown"), WHICH, PROTOCOL, AGE_S),
    st.tuples(st.just("admit"), WHICH, ID, AGE_S, st.booleans()),
    st.tuples(st.just("respond"), WHICH),
    st.tuples(st.just("rebind"), WHICH),
    st.tuples(st.just("set_peer"), WHICH, st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "127.0.0.1"])),
    st.tuples(st.just("close"), WHICH, CODE),
    st.tuples(st.just("close_client"), ID, st.sampled_from([0, 1, 5, 1 << 40]), CODE),
    st.tuples(st.just("close_all"), CODE),
    st.tuples(st.just("go_away_all"), st.integers(0, 5)),
    st.tuples(st.just("leases"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("flush")),
    st.tuples(st.just("set_limits"), st.integers(0, 3)),
)
HOOKS = st.tuples(  # calls from within a callback
    st.just("hook"),
    st.sampled_from(["request", "message", "close", "close", "settled", "broadcast"]),
    st.lists(CALLS, min_size=1, max_size=3).map(tuple),
)
LIMITS = st.fixed_dictionaries(
    {
        "unsent_bytes": st.sampled_from([200, 4000, 20_000, 65_536]),
        "unsent_budget_bytes": st.sampled_from([5000, 40_000, 1 << 24]),
        "slow_consumer": st.sampled_from(["close", "drop"]),
        "inbound_message_bytes": st.sampled_from([100, 4096, 100_000]),
        "inbound_fragments": st.sampled_from([2, 1000]),
        "keepalive_s": st.sampled_from([1, 25]),
        "unsent_age_s": st.sampled_from([1, 30]),
        "outbound_messages": st.sampled_from([0, 0, 0, 3]),
        "inbound_messages": st.sampled_from([0, 0, 0, 5]),
        "per_address": st.sampled_from([0, 0, 0, 2]),
        "proxy_protocol": st.sampled_from([False, False, False, True]),
        "trusted_proxies": st.sampled_from([(), (), ("127.0.0.0/8",)]),
    }
)
SETUPS = st.tuples(
    LIMITS,
    st.booleans(),  # echo
    st.sampled_from([3, 64]),  # capacity
    st.sampled_from([0, 2048, 16_384]),  # the kernel's buffers, on either side; 0: its default
)
STEPS = st.one_of(OUTSIDE, OUTSIDE, OUTSIDE, CALLS, CALLS, HOOKS)
SCENES = st.one_of(  # steps that lead somewhere together
    st.lists(STEPS, max_size=10).map(tuple),
    st.builds(  # a client that does not read while much is said to it
        lambda protocol, id, batches, size: (
            ("ask", "open", protocol, id),
            *(("deliver", ((id, size, kind),) * count) for count, kind in batches),
        ),
        PROTOCOL,
        ID,
        st.lists(st.tuples(st.integers(1, 6), KIND), min_size=1, max_size=4),
        SIZE,
    ),
    st.builds(  # messages for a client that waits for its answer
        lambda protocol, id, size, answer: (
            ("ask", "later", protocol, id),
            ("bind", 0, id, protocol),
            ("deliver", ((id, size, 1),)),
            answer,
        ),
        PROTOCOL,
        ID,
        SIZE,
        st.one_of(st.just(("open", 0, 0, False)), CALLS, st.just(("sweep", 11))),
    ),
    st.builds(  # a client that says much and reads what comes back late, while it is spoken to
        lambda id, much, turns, call: (
            ("ask", "open", 1, id),
            *(("pour", 0, much), ("turn",)) * 2,
            *(("read", 0, 1 << 20), ("turn",)) * turns,
            ("read", 0, 1 << 20),
            call,
        ),
        ID,
        MUCH,
        st.integers(0, 12),
        CALLS,
    ),
)
SCRIPTS = st.tuples(
    SETUPS, st.lists(SCENES, max_size=12).map(lambda scenes: tuple(step for scene in scenes for step in scene))
)
