"""`zpush status` and `zpush reload`: what a running master can be asked."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zpush.cli.api import Api, configured_key, get, reachable
from zpush.cli.common import DONE, FAILED, add_config_options, add_json_option, load_settings, print_json
from zpush.config import Settings
from zpush.errors import ConfigError, Unauthorized, Unavailable
from zpush.master import control

RELOAD_S = 60.0  # longer than the master itself takes to read the files that the settings name
QUIET_S = 2.0  # a heartbeat is due every second
REGISTRY_S = 3.0  # a little longer than a worker waits for it
COLUMNS = ("", "pid", "state", "up", "connections", "opening", "unsent", "in flight", "memory", "restarts", "")
LEFT = (0, 2, len(COLUMNS) - 1)  # the columns that hold words
_DESCRIPTIONS = {
    "status": "Shows what each process of the running zpush does, and what is wrong with it. It is found by its "
    "control socket, so by the same -c, --set and environment that it was started with. Exit code 1: none answers.",
    "reload": "Lets the running zpush read its configuration again, as HUP does, and tells what changed and what needs "
    "a restart. It is found by its control socket, so by the same -c, --set and environment that it was started with. "
    "Exit code: 1 none answers, or a part failed; 2 the configuration is wrong, and the old one stays.",
}


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTIONS[command]
    add_config_options(parser)
    add_json_option(parser)
    parser.add_argument(
        "--process", action="store_true", help="of the `zpush process` that processor.control_socket leads to"
    )
    parser.set_defaults(run=_status if command == "status" else _reload)


def _status(args: argparse.Namespace) -> int:
    settings = load_settings(args)
    status = control.ask(_socket(settings, args.process), "status")
    api = status["addresses"].get("api")
    status["registry"] = _registry(api, configured_key(settings, "read")) if api else None
    if args.json:
        print_json(status)
    else:
        print("\n".join(_lines(status, time.time())))
    return DONE


def _socket(settings: Settings, process: bool) -> str:
    if not process:
        return settings.server.control_socket
    if not settings.processor.control_socket:
        raise ConfigError("processor.control_socket must be set, here and for the `zpush process` that is meant")
    return settings.processor.control_socket


def _registry(api: str, key: str) -> dict[str, Any]:
    """What one of the workers says: of its registry, and of all workers that it finds there."""
    try:
        answer = get(Api(f"http://{reachable(api)}", key), "/v1/nodes", REGISTRY_S) or {}
    except (Unavailable, Unauthorized) as e:
        return {"error": str(e)}
    nodes = answer["nodes"]
    return {
        **answer["registry"],
        "workers": len(nodes),
        "boxes": len({node["box"] for node in nodes}),
        "connections": sum(node["connections"] for node in nodes),
        "dirty_leases": sum(node["dirty_leases"] for node in nodes),
    }


def _reload(args: argparse.Namespace) -> int:
    answer = control.ask(_socket(load_settings(args), args.process), "reload", RELOAD_S)
    if "error" in answer:
        raise ConfigError(f"the running zpush keeps its settings: {answer['error']}")
    if args.json:
        print_json(answer)
    else:
        print("reloaded")
        in_force = [key for key in answer["changed"] if key not in answer["needs_restart"]]
        for title, keys in (("changed", in_force), ("needs a restart", answer["needs_restart"])):
            if keys:
                print(f"{title}: {', '.join(keys)}")
    for problem in answer["problems"]:
        print(f"zpush: {problem}", file=sys.stderr)
    return FAILED if answer["problems"] else DONE


def _lines(status: Mapping[str, Any], now: float) -> Iterator[str]:
    """now: Unix seconds."""
    since = _span(now - status["started"])
    yield f"zpush {status['version']}, pid {status['pid']}: {status['state']}, started {since} ago"
    where = status["addresses"]
    if "api" in where:
        yield f"clients {where['clients']}   api {where['api']}   peers {', '.join(where['peers'])}"
        yield f"registry {_registry_line(status['registry'])}"
    elif where:
        yield f"metrics {where['metrics']}"
    yield from _last_reload(status["reload"], now)
    yield ""
    rows = [
        _row(f"{kind} {each['slot']}", each, now) for kind in ("worker", "processor") for each in status[f"{kind}s"]
    ]
    if status["valkey"] is not None:
        rows.append(_row("valkey", status["valkey"], now))
    yield from _table([COLUMNS, *rows])
    yield ""
    totals = status["totals"]
    outcomes = [f"{name} {count}" for name, count in totals["outcomes"].items() if count]
    yield f"connections {totals['connections']}   restarts {totals['restarts']}"
    yield f"queued {totals['published']}   taken {totals['taken']}   redelivered {totals['redelivered']}"
    yield "outcomes    " + (", ".join(outcomes) or "none yet")


def _last_reload(last: Mapping[str, Any] | None, now: float) -> Iterator[str]:
    """Only what is still to be done about it."""
    if last is None:
        return
    if "error" in last:
        yield f"the reload {_span(now - last['at'])} ago was refused: {last['error']}"
        return
    if last["needs_restart"]:
        yield f"in force after a restart: {', '.join(last['needs_restart'])}"
    for problem in last["problems"]:
        yield f"at the reload {_span(now - last['at'])} ago: {problem}"


def _row(name: str, each: Mapping[str, Any], now: float) -> tuple[str, ...]:
    started, memory, unsent = each.get("started"), each.get("rss_bytes"), each.get("unsent_bytes")
    return (
        name,
        str(each["pid"] or "-"),
        each["state"],
        _span(now - started) if started else "",
        str(each.get("connections", "")) if "opening" in each else "",
        str(each.get("opening", "")),
        _size(unsent) if unsent is not None else "",
        str(each.get("in_flight", "")),
        _size(memory) if memory is not None else "",
        str(each["restarts"]),
        _complaint(each),
    )


def _complaint(each: Mapping[str, Any]) -> str:
    """What is wrong with a process that should serve."""
    wrong = []
    beat_s = each.get("heartbeat_age_s")
    if beat_s is not None and beat_s > QUIET_S:
        wrong.append(f"no sign of life for {_span(beat_s)}")
    if each.get("dirty_leases"):
        wrong.append(f"{each['dirty_leases']} leases to be written")
    if each["state"] == "ready":
        wrong += [f"{part} away" for part in ("registry", "queue") if each.get(f"{part}_up") is False]
    return ", ".join(wrong)


def _registry_line(registry: Mapping[str, Any]) -> str:
    if "error" in registry:
        return f"not known: {registry['error']}"
    boxes = "1 box" if registry["boxes"] == 1 else f"{registry['boxes']} boxes"
    workers = "1 worker" if registry["workers"] == 1 else f"{registry['workers']} workers"
    replicas = "1 replica" if registry["replicas"] == 1 else f"{registry['replicas']} replicas"
    parts = [registry["server"], f"{registry['role']} with {replicas}"]
    parts += [f"{workers} on {boxes}", f"{registry['connections']} connections"]
    if registry["dirty_leases"]:
        parts.append(f"{registry['dirty_leases']} leases still to be written")
    if registry["reason"]:
        parts.append(registry["reason"])
    return "   ".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if i in LEFT else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
