"""The reconnecting client, for Python programs that are to be reached: `async for message in Client(url, …)`.

It runs in other people's processes, so it needs neither the engine nor uvloop. Reading order:

events.py        what arrives over a connection, and how it ends
address.py       from a URL and a client id to a host and a request      tokens.py     who the client is
wire.py          one TCP or TLS stream, whose reads have a deadline      refusal.py    an HTTP answer that says no
websocket.py     one connection over WebSocket                           event_stream.py, event_parser.py   over SSE
pump.py          reads one connection                                    inbox.py, seen.py   between reading and taking
dialer.py        from no connection to the next one                      pace.py       when to come back
client.py        the connections of a client's life, one after the other
"""

from zpush.client.client import Client
from zpush.client.events import Received, Stopped
from zpush.client.limits import Limits
from zpush.client.state import State

__all__ = ["Client", "Limits", "Received", "State", "Stopped"]
