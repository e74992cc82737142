"""`zpush serve`: the push server. `zpush process`: message processors alone. Both are the master's business."""

from __future__ import annotations

import argparse

from zpush import log
from zpush.cli.common import add_config_options, load_settings


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    if command == "serve":
        parser.description = (
            "Runs the push server until TERM, which asks its clients to go first, or INT. Without a configuration it "
            "serves this machine only: clients on port 8080, API and demo page on 8081, with registry and queue of its "
            "own. Exit code: 1 it cannot start here; 2 the configuration is wrong."
        )
        parser.add_argument("--workers", metavar="N", help="worker processes (server.workers); 0: one per core")
        parser.set_defaults(run=_serve)
    else:
        parser.description = (
            "Runs message processors without a push server: they take messages from the queue and deliver them through "
            "the push servers that share their registry, on as many machines as wanted. Exit code: 1 it cannot start "
            "here; 2 the configuration is wrong."
        )
        parser.add_argument(
            "--priorities",
            metavar="P,P",
            help="priorities to read (processor.priorities), such as high,normal; by default all",
        )
        parser.set_defaults(run=_process)


def _serve(args: argparse.Namespace) -> int:
    return _run(args, [f"server.workers={args.workers}"] if args.workers is not None else [], processors_only=False)


def _process(args: argparse.Namespace) -> int:
    extra = [f"processor.priorities={args.priorities}"] if args.priorities is not None else []
    return _run(args, extra, processors_only=True)


def _run(args: argparse.Namespace, extra: list[str], *, processors_only: bool) -> int:
    settings = load_settings(args, extra)
    from zpush.master import master  # here, so that help and a wrong configuration do not wait for it

    log.set_process("master")
    log.setup(settings.log.level, settings.log.format, settings.log.file)
    # HUP reads the same sources again; what the command line says keeps its precedence.
    return master.main(settings, processors_only=processors_only, load=lambda: load_settings(args, extra))
