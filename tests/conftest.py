"""Fixtures for every test."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.kafka.fixtures import broker, kafka, kafka_bootstrap, make_broker
from tests.store.fixtures import cluster, sentinels, topologies, topology
from tests.support import Valkey

__all__ = [
    "broker",
    "cluster",
    "kafka",
    "kafka_bootstrap",
    "make_broker",
    "sentinels",
    "topologies",
    "topology",
    "valkey",
]

# By default an example that takes longer than 200 ms fails, and so does a busy machine. Before a merge the examples are
# the same each time, so that none fails by chance; everywhere else they are new ones.
hypothesis.settings.register_profile(
    "busy",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("ZPUSH_REQUIRE_ALL")),
)
hypothesis.settings.load_profile("busy")

# A shell starts background jobs with these ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A fresh Valkey: .url (unix://…), .pid, .kill(), .restart(empty=False).

    Not in tmp_path: a Unix socket's path is at most 107 bytes long, and pytest's can be longer.
    """
    server = Valkey(Path(tempfile.mkdtemp(prefix="zpush-valkey-")))
    server.start()
    try:
        yield server
    finally:
        server.stop()
