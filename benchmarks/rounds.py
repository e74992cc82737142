"""Rounds that several parts do: a number of handshakes, a broadcast, echoes; each answers CPU time per operation.

Rules. What an operation costs depends on how many a server finds at once when it wakes up: alone, a floor's handshake
takes 22 µs, in company 16. So both servers get the same work in the same way. Handshakes come as fast as they are
answered, IN_FLIGHT at a time; there the floor is faster than the load process, which is why that one is not judged
(CPU time is counted, no rate). Echoes have a rate that saturates nobody.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.native import Floor, Load
from benchmarks.process import Cpu, Meter, pin, private_bytes, wait_until_quiet
from benchmarks.server import Server

WEB_SOCKET = "/ws?client="  # its end is the client id
IN_FLIGHT = 256
WARM_UP = 1_000


def handshakes(clients: Load, address: str, pid: int, count: int, **arguments: object) -> Cpu:
    """Opens, measures, closes. arguments: of load.c's open."""
    meter = Meter({"server": pid})
    plan: dict[str, object] = {"to": address, "path": WEB_SOCKET, "count": count, "in_flight": IN_FLIGHT, **arguments}
    clients.ask("open", **plan, saturate=1)
    spent = meter.spent()["server"]
    clients.ask("close")
    return spent.per(count)


def broadcasts(clients: Load, pid: int, connections: int, times: int, send: Callable[[], object]) -> Cpu:
    """Per message; send: starts them all."""
    meter = Meter({"server": pid})
    clients.begin("receive", messages=connections * times)
    send()
    clients.end()
    return meter.spent()["server"].per(connections * times)


def echoes(clients: Load, address: str, pid: int, messages: int, rate: int, size: int) -> Cpu:
    meter = Meter({"server": pid})
    clients.ask("echo", to=address, messages=messages, rate=rate, size=size)
    return meter.spent()["server"].per(messages)


def keep_apart(server: Server, floor: Floor, *loads: Load) -> None:
    """The worker and the floor share a core, for they never work at the same time; all others have the rest."""
    others = [pid for name, pid in server.pids.items() if name != "worker"] + [each.pid for each in loads]
    pin(server.worker, others)
    pin(floor.pid, others)


def memory_of(clients: Load, address: str, pid: int, path: str, connections: int) -> float:
    """Private bytes per connection. WARM_UP more are open before: what they brought for good is not counted."""
    plan: dict[str, object] = {"to": address, "path": path, "in_flight": IN_FLIGHT, "saturate": 1}
    clients.ask("open", prefix="warm-", count=WARM_UP, **plan)
    wait_until_quiet([pid])
    before = private_bytes(pid)
    clients.ask("open", count=connections, **plan)
    wait_until_quiet([pid])
    return (private_bytes(pid) - before) / connections
