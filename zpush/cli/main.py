"""The entry point `zpush`: finds the command's file, runs it, turns errors into one line and an exit code.

Rules. A command's file is imported only when that command is asked for, so that `zpush --help` and short
commands start fast. Such a file has `configure(command, parser)`, which adds the command's options and sets
`run`, a function from the parsed arguments to the exit code. Results go to stdout, all else to stderr.
Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 not delivered.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import zpush
from zpush.cli.common import FAILED, USAGE
from zpush.errors import ConfigError, MalformedMessage, ZpushError


class Command(NamedTuple):
    module: str
    help: str


COMMANDS = {
    "serve": Command("zpush.cli.serve", "run the push server; registry and queue are embedded by default"),
    "process": Command("zpush.cli.serve", "run message processors only"),
    "push": Command("zpush.cli.push", "send a message to a client, a user or all"),
    "listen": Command("zpush.cli.listen", "be a client: print what arrives, one message a line"),
    "token": Command("zpush.cli.token", "print a signed token for development and scripts"),
    "where": Command("zpush.cli.where", "show where a client is connected"),
    "config": Command("zpush.cli.config", "check, show or document the configuration"),
    "lag": Command("zpush.cli.lag", "show how far behind the queue is"),
    "dead": Command("zpush.cli.dead", "list or replay the records that could not be read"),
    "trace": Command("zpush.cli.trace", "show what became of a message, by its receipts"),
    "topics": Command("zpush.cli.topics", "make or check the topics of a queue on Kafka"),
    "status": Command("zpush.cli.control", "show what a running master's processes do"),
    "reload": Command("zpush.cli.control", "let a running master read its configuration again"),
}

Run = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """argparse, but a usage error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    _open_standard_descriptors()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as e:  # argparse: help was printed, or a usage error
        return e.code if isinstance(e.code, int) else USAGE
    except (ConfigError, MalformedMessage) as e:
        return _complain(e, USAGE)
    except BrokenPipeError:
        # The reader (`| head`) has left. Nothing more is to be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ZpushError, OSError) as e:
        return _complain(e, FAILED)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # as a shell reports it


def _open_standard_descriptors() -> None:
    """A closed one leads nowhere from now on: else it would be given to the next socket, and be printed to."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: this one
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115  for as long as we live


def _dispatch(arguments: list[str]) -> int:
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        _top().parse_args(arguments or ["--help"])
        return USAGE  # not reached with anything but nonsense: help, version and errors exit
    name = arguments[0]
    parser = Parser(prog=f"zpush {name}", description=command.help, allow_abbrev=False)
    importlib.import_module(command.module).configure(name, parser)
    args = parser.parse_args(arguments[1:])
    run: Run = args.run
    return run(args)


def _top() -> Parser:
    width = max(len(name) for name in COMMANDS)
    parser = Parser(
        prog="zpush",
        usage="zpush COMMAND [options]",
        description="Push messaging for millions of devices.",
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
        + "\n\nzpush COMMAND --help tells a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"zpush {zpush.__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help=argparse.SUPPRESS)
    return parser


def _complain(error: Exception, code: int) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"zpush: {text}", file=sys.stderr)
    return code
