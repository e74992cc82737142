"""The rules of layering: imports go downward, siblings do not know each other, and some names stay where they are.

Two ways of looking: the imports that every file writes (Python by its syntax tree, lazy ones and those for
type checkers included; Cython by its import lines), and what a fresh interpreter has loaded afterwards.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, run

# Units of one line are siblings and must not import each other; each may import those of the lines above.
LAYERS = [
    {"errors"},
    {"_fast"},
    {"protocol"},
    {"policy", "scoreboard", "config", "log", "tasks"},
    {"store"},
    {"auth", "registry", "queue"},
    {"delivery"},
    {"server"},
    {"master"},
    {"cli"},
    {"__main__"},
]
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
# The client runs in other people's processes: it stands beside the layers, and only `zpush listen` uses it.
CLIENT_MAY_IMPORT = {"errors", "protocol", "policy"}

REDIS_HOMES = ("store", "registry")
PURE = ("errors", "protocol", "policy", "_fast.frames", "_fast.head", "_fast.sse", "_fast.wheel", "_fast.table")
IMPURE_MODULES = {"asyncio", "socket", "time", "logging"}
PURE_EXCEPTIONS = {("protocol.message", "time")}  # new_id reads the clock

_CYTHON_IMPORT = re.compile(
    r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^#\n]*)|c?import\s+([\w., ]+))", re.MULTILINE
)


def module_name(path: Path) -> str:
    """ "delivery.router" from zpush/delivery/router.py; "" from zpush/__init__.py."""
    parts = path.relative_to(ROOT / "zpush").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Every module that the source names, absolute; `from a import b` gives a.b, as b may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node.level, node.module or "", module, is_package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def cython_imports(source: str, module: str) -> Iterator[str]:
    """The same for .pyx and .pxd, by their import lines."""
    for base, names, plain in _CYTHON_IMPORT.findall(source):
        if base:
            level = len(base) - len(base.lstrip("."))
            whole = _base(level, base.lstrip("."), module, False)
            yield from (
                f"{whole}.{name.split(' as ')[0].strip()}" for name in names.strip("()").split(",") if name.strip()
            )
        else:
            yield from (name.split(" as ")[0].strip() for name in plain.split(","))


def _base(level: int, name: str, module: str, is_package: bool) -> str:
    if not level:
        return name
    parts = ["zpush", *module.split(".")]
    parent = parts[: len(parts) - level + (1 if is_package else 0)]
    return ".".join([*parent, *([name] if name else [])])


def unit_of(name: str) -> str | None:
    """ "delivery" from zpush.delivery.router; None for what is not ours, and for zpush itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == "zpush" and len(parts) > 1 and parts[1] != "__version__" else None


def complaints(module: str, imported: set[str]) -> Iterator[str]:
    """What is wrong with a module that imports these."""
    unit = module.split(".")[0]
    for name in sorted(imported):
        top, target = name.split(".")[0], unit_of(name)
        if target is not None and target != unit and not _may_import(unit, target):
            yield f"zpush.{module} imports {name}: not downward"
        if top in ("redis", "hiredis") and unit not in REDIS_HOMES:
            yield f"zpush.{module} imports {name}: only {' and '.join(REDIS_HOMES)} may"
        if top == "confluent_kafka" and not module.startswith("queue.kafka_"):
            yield f"zpush.{module} imports {name}: only queue.kafka_* may"
        if top in IMPURE_MODULES and _is_pure(module) and (module, top) not in PURE_EXCEPTIONS:
            yield f"zpush.{module} imports {name}: it must stay pure"


def _may_import(unit: str, target: str) -> bool:
    if unit == "client":
        return target in CLIENT_MAY_IMPORT
    if target == "client":
        return unit == "cli"
    return RANK[target] < RANK[unit]


def _is_pure(module: str) -> bool:
    return any(module == pure or module.startswith(pure + ".") for pure in PURE)


SOURCES = sorted(p for suffix in ("py", "pyi", "pyx", "pxd") for p in (ROOT / "zpush").rglob(f"*.{suffix}"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path: Path) -> None:
    module, source = module_name(path), path.read_text()
    if not module:  # zpush/__init__.py gives names out lazily, from everywhere; see the subprocess tests
        return
    assert module.split(".")[0] in {*RANK, "client"}, f"{path}: not in LAYERS; give it a place"
    if path.suffix in (".pyx", ".pxd"):
        found = set(cython_imports(source, module))
    else:
        found = set(imports(source, module, path.stem == "__init__"))
    assert not list(complaints(module, found))


@pytest.mark.parametrize(
    ("module", "source", "complains"),
    [
        ("registry.redis", "from zpush.store import Store\nimport redis", False),
        ("registry.redis", "def f():\n    from zpush.queue import base", True),
        ("registry.redis", "import zpush.delivery.router", True),
        ("store.shard", "from ..registry import base", True),
        ("delivery.router", "from .peers import Peers\nfrom . import base", False),
        ("delivery.router", "from hiredis import Reader", True),
        ("policy", "import time", True),
        ("protocol.head", "import asyncio.streams", True),
        ("protocol.message", "import time", False),
        ("client", "from zpush.store import Store", True),
        ("client", "from zpush.protocol.message import Message", False),
        ("cli.listen", "from zpush.client import Client", False),
        ("server.worker", "from zpush.client import Client", True),
        ("queue.streams", "import confluent_kafka", True),
        ("queue.kafka_config", "import confluent_kafka", False),
        ("server.worker", "from zpush.master import master", True),
    ],
)
def test_the_rules_can_be_broken(module: str, source: str, complains: bool) -> None:
    assert bool(list(complaints(module, set(imports(source, module))))) is complains


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from zpush._fast.frames cimport (\n    a,\n    b as c\n)", {"zpush._fast.frames.a", "zpush._fast.frames.b"}),
        ("from .sys cimport x, y  # z", {"zpush._fast.sys.x", "zpush._fast.sys.y"}),
        ("cimport cython\nimport time, socket as s", {"cython", "time", "socket"}),
        ("    from libc.stdint cimport uint8_t", {"libc.stdint.uint8_t"}),
    ],
)
def test_cython_imports_are_seen(source: str, found: set[str]) -> None:
    assert set(cython_imports(source, "_fast.engine")) == found


def loaded_after(code: str) -> set[str]:
    done = run(sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_sender_loads_neither_engine_nor_uvloop() -> None:
    assert not {name for name in loaded_after("import zpush") if name.startswith("zpush.")}
    for code in ("from zpush import Pusher, Client", "from zpush import *"):
        loaded = loaded_after(code)
        assert {"zpush.delivery.pusher", "zpush.client"} <= loaded
        assert not {n for n in loaded if n.startswith(("zpush._fast", "zpush.server", "zpush.master", "uvloop"))}


def test_a_client_does_not_load_what_senders_need() -> None:
    loaded = loaded_after("from zpush import Client")
    assert not loaded & {"redis", "hiredis", "httpx", "confluent_kafka", "uvloop", "zpush.store"}


def test_the_master_loads_no_loop_no_redis_and_no_engine() -> None:
    loaded = loaded_after("import zpush.master.master")
    heavy = ("asyncio", "uvloop", "redis", "hiredis", "confluent_kafka", "zpush._fast", "zpush.store")
    assert not {name for name in loaded if name in heavy or name.startswith(tuple(f"{h}." for h in heavy))}
