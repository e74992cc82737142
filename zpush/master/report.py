"""What the master tells people and programs: the status document and the lines of a successful start.

Rules. The document's names are a contract (`zpush status --json`); add to them freely. Everything is read
from the scoreboard, the slots and /proc; nothing is asked of a worker, which may be hanging.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Sequence
from typing import Any

import zpush
from zpush.config import Settings
from zpush.config.units import is_unspecified, split_address
from zpush.master import listeners
from zpush.master.embedded import Embedded
from zpush.master.supervisor import Slot
from zpush.protocol.message import Priority
from zpush.scoreboard import COLUMNS, COUNTED_OUTCOMES, WORKER, Row, Scoreboard
from zpush.server.command import command
from zpush.server.listeners import Listeners

CLIENT_PORT, API_PORT = 8080, 8081  # the commands' own, as server.bind and api.bind

_NOBODY = Row(memoryview(bytes(8 * len(COLUMNS))).cast("Q"))  # of a slot that waits for its next process


def addresses(sockets: Sequence[Listeners], metrics: socket.socket | None) -> dict[str, Any]:
    """Where this run listens. sockets: the workers'. metrics: of a run without workers."""
    if not sockets:
        return {"metrics": listeners.address(metrics)} if metrics is not None else {}
    return {
        "clients": listeners.address(sockets[0].client),
        "api": listeners.address(sockets[0].api),
        "peers": [listeners.address(each.peers) for each in sockets],
    }


def processes(slots: Sequence[Slot], scoreboard: Scoreboard) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"workers": [], "processors": []}
    for slot in slots:
        found["workers" if slot.kind == WORKER else "processors"].append(_process(slot, scoreboard))
    return found


def _process(slot: Slot, scoreboard: Scoreboard) -> dict[str, Any]:
    row = scoreboard.rows[slot.row] if slot.row else _NOBODY
    beat_ms, started_ms = row.get("heartbeat_ms"), row.get("started_ms")
    pid = slot.child.pid if slot.child is not None else None
    found: dict[str, Any] = {
        "slot": slot.number,
        "pid": pid,
        "state": slot.state.value,
        "restarts": slot.restarts,
        "started": started_ms / 1000 if started_ms else None,
        "connections": row.get("connections_websocket") + row.get("connections_sse"),
        "heartbeat_age_s": round(time.monotonic() - beat_ms / 1000, 3) if beat_ms else None,
        "rss_bytes": _rss_bytes(pid) if pid else None,
        "registry_up": bool(row.get("registry_up")),
        "queue_up": bool(row.get("queue_up")),
    }
    if slot.kind == WORKER:
        found |= {
            "opening": row.get("connections_unknown"),
            "unsent_bytes": row.get("unsent_bytes"),
            "dirty_leases": row.get("dirty_leases"),
        }
    else:
        found["in_flight"] = row.get("in_flight")
    return found


def _rss_bytes(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):  # ended, not yet reaped
        return None


def totals(scoreboard: Scoreboard) -> dict[str, Any]:
    """Since the master's start, over all processes, the dead ones' included."""
    return {
        "connections": scoreboard.total("connections_websocket") + scoreboard.total("connections_sse"),
        "restarts": scoreboard.total("restarts"),
        "published": sum(scoreboard.total(f"published_{p.label}") for p in Priority),
        "taken": sum(scoreboard.total(f"taken_{p.label}") for p in Priority),
        "redelivered": sum(scoreboard.total(f"redelivered_{p.label}") for p in Priority),
        "outcomes": {o: sum(scoreboard.total(f"messages_{o}_{p.label}") for p in Priority) for o in COUNTED_OUTCOMES},
    }


def valkey(embedded: Embedded | None) -> dict[str, Any] | None:
    if embedded is None:
        return None
    state = "ready" if embedded.ready else "starting" if embedded.pid else "waiting"
    return {
        "pid": embedded.pid or None,
        "state": state,
        "restarts": embedded.restarts,
        "socket": embedded.socket_path,
    }


def started(settings: Settings, where: dict[str, Any], workers: int, processors: int) -> str:
    """The lines printed when every process serves for the first time."""
    counts = [_count(n, what) for n, what in ((workers, "worker"), (processors, "processor")) if n]
    lines = [f"zpush {zpush.__version__} is ready (pid {os.getpid()}): {', '.join(counts)}"]
    if workers == 0:
        return "\n".join([*lines, *(f"  {name}    http://{_reachable(each)}/{name}" for name, each in where.items())])
    clients, api = (_reachable(where[name]) for name in ("clients", "api"))
    query = "?client=ID" if settings.auth.mode == "dev" else ""
    lines += [
        "",
        f"  clients    ws://{clients}/ws{query}   http://{clients}/sse{query}",
        f"  API        http://{api}/v1/push",
    ]
    if settings.embedded:
        lines += [
            f"  demo page  http://{api}/",
            f"  data       {os.path.abspath(settings.server.data_dir)}",
            "",
            *_to_try(settings, clients, api),
        ]
    return "\n".join(lines)


def _to_try(settings: Settings, clients: str, api: str) -> list[str]:
    """With addresses where the commands would not find them by themselves. A key they take from the configuration,
    so only for the API that is named there."""
    name, keyed = command(), bool(settings.api.keys or settings.api.keys_file)
    url = "" if split_address(clients)[1] == CLIENT_PORT else f" --url ws://{clients}"
    to = "" if keyed or split_address(api)[1] == API_PORT else f" --api http://{api}"
    token = ""
    if settings.auth.mode != "dev":
        signs = settings.auth.mode in ("jwt", "cookie") and settings.auth.keys_file
        token = f' --token "$({name} token demo)"' if signs else " --token TOKEN"
    same = ", with the same configuration" if keyed or token else ""
    return [
        f"Try in another terminal{same}:",
        "",
        f"  {name} listen demo{url}{token}",
        f"  {name} push{to} --client demo hello",
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _reachable(address: str) -> str:
    """An address that can be connected to from here: 0.0.0.0 cannot everywhere."""
    host, port = split_address(address)
    if not is_unspecified(host):
        return address
    return f"[::1]:{port}" if ":" in host else f"127.0.0.1:{port}"
