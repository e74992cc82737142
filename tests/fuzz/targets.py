"""All targets by name; one line of __main__'s list each."""

from __future__ import annotations

from tests.fuzz import api, control, engine, events, frames, heads, http, peers, proxy, stored, tokens

TARGETS = {
    target.name: target
    for target in (
        heads.TARGET,
        frames.TARGET,
        proxy.TARGET,
        control.RECEIVED,
        control.SENT,
        events.TARGET,
        tokens.TOKEN,
        tokens.KEY_SET,
        api.ONE,
        api.BATCH,
        http.TARGET,
        peers.FRAMES,
        peers.HELLO,
        stored.ENTRY,
        stored.LEASE,
        engine.TARGET,
    )
}
