"""`zpush config check | show | default | docs`."""

from __future__ import annotations

import argparse
import os

from zpush import config
from zpush.auth.open import open_authenticator
from zpush.cli.common import DONE, add_config_options, add_json_option, load_settings, print_json
from zpush.config import render
from zpush.config.secrets import queue_url
from zpush.queue.open import open_producer, open_topics
from zpush.registry.open import open_registry


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="say whether the configuration is valid",
        description="Reads the configuration and the files that it names; connects to nothing. Exit code 2: something "
        "in it is wrong, and the line says what is allowed.",
        allow_abbrev=False,
    )
    show = actions.add_parser(
        "show",
        help="print every setting's value and where it came from",
        description="Every setting as `zpush serve` would have it here, and whether it is a default, or comes from a "
        "file, the environment or --set. Secrets are masked.",
        allow_abbrev=False,
    )
    for each, run in ((check, _check), (show, _show)):
        add_config_options(each)
        each.set_defaults(run=run)
    add_json_option(show)
    default = actions.add_parser(
        "default",
        help="print a complete zpush.toml with the defaults",
        description="A file to begin with: every setting with its default and what it is for.",
        allow_abbrev=False,
    )
    default.set_defaults(run=_default)
    docs = actions.add_parser(
        "docs",
        help="print the reference as Markdown",
        description="docs/configuration.md, as this version has it.",
        allow_abbrev=False,
    )
    docs.set_defaults(run=_docs)


def _check(args: argparse.Namespace) -> int:
    """Everything that can be known before a start: the settings, and the files that they name."""
    settings = load_settings(args)
    config.api_keys(settings)
    open_authenticator(settings)  # reads its files; connects to nothing
    if settings.peers.secret_file:
        config.read_secret_file(settings.peers.secret_file)
    if settings.on_kafka:
        open_topics(settings.queue, settings.queue.url, 0.0)  # librdkafka judges what is its own
    else:
        open_producer(settings.queue, queue_url(settings))
    open_registry(settings, "zpush-check")  # the stores judge their URLs, and connect to nothing before their start
    print(f"{config.locate(args.config, os.environ) or 'built-in defaults'}: ok")
    return DONE


def _show(args: argparse.Namespace) -> int:
    settings = load_settings(args)
    if args.json:
        print_json(render.show_rows(settings))
    else:
        print(render.show_text(settings))
    return DONE


def _default(args: argparse.Namespace) -> int:
    print(render.default_toml())
    return DONE


def _docs(args: argparse.Namespace) -> int:
    print(render.docs_markdown())
    return DONE
