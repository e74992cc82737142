"""`zpush topics create | check`: the topics of a queue on Kafka, as the configuration wants them."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zpush.cli.common import DONE, add_config_options, add_json_option, load_settings, print_json
from zpush.config.units import format_duration
from zpush.errors import StartupError

if TYPE_CHECKING:
    from zpush.queue.kafka_topics import Look, Topics

TIMEOUT_S = 10.0
HOW_TO_MAKE = "`zpush topics create` with the same options makes them"


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    create = actions.add_parser(
        "create",
        help="make the topics that are missing",
        description="Makes the topics that are missing, with queue.partitions and the replication and retention of "
        "[queue.kafka]. A topic that exists is left as it is, and what differs is shown.",
        allow_abbrev=False,
    )
    check = actions.add_parser(
        "check",
        help="say whether all topics are there, and what differs",
        description="Compares the topics with the configuration. Exit code 1: one is missing or differs.",
        allow_abbrev=False,
    )
    for each, run in ((create, _create), (check, _check)):
        add_json_option(each)
        add_config_options(each)
        each.set_defaults(run=run)


def _create(args: argparse.Namespace) -> int:
    topics = _open(args)
    if topics is not None:
        missing = topics.missing()
        topics.create(missing)
        _print(args, topics.look(), {topic.name for topic in missing})
    return DONE


def _check(args: argparse.Namespace) -> int:
    topics = _open(args)
    if topics is None:
        return DONE
    looks = topics.look()
    _print(args, looks)
    if missing := [look.topic.name for look in looks if not look.exists]:
        raise StartupError(f"missing: {', '.join(missing)}; {HOW_TO_MAKE}")
    if differing := [look.topic.name for look in looks if look.differences]:
        raise StartupError(
            f"not as configured: {', '.join(differing)}; "
            "change the configuration, or the topics with Kafka's kafka-configs.sh and kafka-topics.sh"
        )
    return DONE


def _open(args: argparse.Namespace) -> Topics | None:
    """None where there is nothing to make, and that has been said."""
    from zpush.queue.open import open_topics

    settings = load_settings(args)
    topics = open_topics(settings.queue, settings.queue_url(), TIMEOUT_S)
    if topics is None and args.json:
        print_json({"topics": []})
    elif topics is None:
        print("queue.url is no Kafka: Streams are made when they are used, there is nothing to make")
    return topics


def _print(args: argparse.Namespace, looks: Sequence[Look], created: Collection[str] = ()) -> None:
    rows = [_row(look, created) for look in looks]
    if args.json:
        print_json({"topics": rows})
        return
    width = max(len(row["topic"]) for row in rows)
    for row in rows:
        print(f"{row['topic']:{width}}  {row['state']:7}  {'; '.join(_details(row))}".rstrip())


def _row(look: Look, created: Collection[str]) -> dict[str, Any]:
    """For scripts. state: ok, missing, differs, created."""
    topic = look.topic
    state = "missing" if not look.exists else "differs" if look.differences else "ok"
    return {
        "topic": topic.name,
        "state": "created" if topic.name in created and state == "ok" else state,
        "partitions": topic.partitions,
        "replication": topic.replication or None,
        "config": topic.config,
        "differences": [{"what": d.what, "found": d.found, "wanted": d.wanted} for d in look.differences],
    }


def _details(row: dict[str, Any]) -> Iterator[str]:
    if row["state"] == "missing":
        return
    if row["differences"]:
        for each in row["differences"]:
            yield f"{each['what']} is {each['found']}, not {each['wanted']}"
        return
    yield f"{row['partitions']} partition{'s' * (row['partitions'] != 1)}"
    if row["replication"]:
        yield f"replication {row['replication']}"
    yield f"kept for {format_duration(int(row['config']['retention.ms']) / 1000)}"
