"""From a clean sdist to an installed wheel, on every CPython of this machine that zpush supports."""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import ROOT, end, free_port, run, spawn, wait_until
from zpush import __version__

pytestmark = pytest.mark.slow

IN_WHEEL = {".py", ".pyi", ".pxd", ".lua", ".html", ".js", ".ts", ".css", ".svg"}
VERSIONS = ((3, 11), (3, 12), (3, 13), (3, 14))
ASKS = """
import ensurepip, os, sys, sysconfig, venv
print(os.path.exists(sysconfig.get_path("include") + "/Python.h"), *sys.version_info[:2])
"""


def interpreters() -> dict[str, Path]:
    """Version → an interpreter that works and has its headers: on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found: dict[str, Path] = {}
    for major, minor in VERSIONS:
        name = f"python{major}.{minor}"
        on_path = shutil.which(name)
        candidates = [*sorted(pyenv.glob(f"{major}.{minor}.*/bin/{name}")), *([Path(on_path)] if on_path else [])]
        for candidate in candidates:
            if run(candidate, "-c", ASKS).stdout.split() == ["True", str(major), str(minor)]:
                found[f"{major}.{minor}"] = candidate
                break
    return found


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    # Without isolation: the tools are those of this environment; the wheels below are built with fresh ones.
    done = run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / f"zpush-{__version__}.tar.gz"


def test_the_sdist_holds_sources_and_nothing_built(sdist: Path) -> None:
    names = _names(sdist)
    native = {str(p.relative_to(ROOT)) for s in ("pyx", "pxd", "pyi", "h") for p in (ROOT / "zpush").rglob(f"*.{s}")}
    data = {
        str(p.relative_to(ROOT))
        for s in ("lua", "html", "js", "ts", "css", "svg")
        for p in (ROOT / "zpush").rglob(f"*.{s}")
    }
    assert (
        native | data | {"setup.py", "LICENSE", "README.md", "Makefile", "zpush/py.typed", "tests/conftest.py"} <= names
    )
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "deploy").rglob("*.*")} <= names
    assert not {name for name in names if name.endswith((".so", ".pyc")) or name.startswith((".venv", "zpush-data"))}
    assert not {name for name in names if name.startswith("zpush/_fast/") and name.endswith(".c")}


def test_extensions_are_optimized_for_every_machine_of_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("ZPUSH_SANITIZE", raising=False)
    asked: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: asked.update(options))
    runpy.run_path("setup.py", run_name="__main__")
    assert len(asked["ext_modules"]) == len(list((ROOT / "zpush/_fast").glob("*.pyx")))
    for extension in asked["ext_modules"]:
        flags = extension.extra_compile_args
        assert [flag for flag in flags if flag.startswith("-O")] == ["-O3"]
        assert not [flag for flag in flags if flag.startswith(("-march", "-mtune", "-mcpu"))]


def _names(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


class Installation(NamedTuple):
    """A fresh virtual environment (folder/venv) with the wheel in it; said: by a step that failed."""

    folder: Path
    wheel: Path | None
    said: str


@pytest.fixture(scope="module")
def installations(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Installation]]]:
    """All versions at once, a core each: most of the time goes into the C compiler."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {
            version: pool.submit(_install, python, sdist, tmp_path_factory.mktemp(f"python{version}"))
            for version, python in interpreters().items()
        }


def _install(python: Path, sdist: Path, folder: Path) -> Installation:
    pip: list[str | Path] = [folder / "venv/bin/python", "-m", "pip", "--disable-pip-version-check", "-q"]
    said = _step(folder, python, "-m", "venv", folder / "venv")
    said = said or _step(folder, *pip, "wheel", "--no-deps", "--wheel-dir", folder, sdist)
    wheel = next(folder.glob("zpush-*.whl"), None)
    if wheel is not None:
        said = said or _step(folder, *pip, "install", wheel)
    return Installation(folder, wheel, said)


def _step(folder: Path, *argv: str | Path) -> str:
    """What it said, if it failed."""
    done = run(*argv, cwd=folder, env=_clean_environ(), timeout_s=600)
    return "" if done.returncode == 0 else f"{argv}: {done.stdout}{done.stderr}"


def _clean_environ() -> dict[str, str]:
    """Without this checkout on the path and without the environment that the tests run in."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}


@pytest.mark.timeout(900)  # three compilations at once, beside other tests
@pytest.mark.parametrize("version", [f"{major}.{minor}" for major, minor in VERSIONS])
def test_a_wheel_from_the_sdist_installs_and_runs(
    version: str, sdist: Path, installations: dict[str, Future[Installation]]
) -> None:
    if version not in installations:
        pytest.skip(f"no CPython {version} with headers on this machine")
    installed = installations[version].result()
    assert installed.wheel is not None and not installed.said, installed.said
    _check_content(installed.wheel, sdist)
    _check_installed(installed.folder)
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":  # one is enough: nothing there is built
        _check_serves(installed.folder)


def _check_content(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        info = {name.partition(".dist-info/")[2] for name in archive.namelist() if ".dist-info/" in name}
    assert all(name.startswith("zpush/") for name in names)
    assert not {name for name in names if name.endswith((".c", ".pyx", ".h")) or "/tests/" in name}
    sources = {Path(name) for name in _names(sdist) if name.startswith("zpush/")}
    assert {str(p) for p in sources if p.suffix in IN_WHEEL} | {"zpush/py.typed"} <= names
    built = {name.partition(".cpython-")[0] for name in names if name.endswith(".so")}
    assert built == {str(p.with_suffix("")) for p in sources if p.suffix == ".pyx"}
    assert "licenses/LICENSE" in info


def _check_installed(folder: Path) -> None:
    env = _clean_environ()
    bin_folder = folder / "venv/bin"
    done = run(bin_folder / "zpush", "--help", cwd=folder, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert run(bin_folder / "zpush", "--version", cwd=folder, env=env).stdout == f"zpush {__version__}\n"
    code = "import zpush, zpush._fast.engine; from zpush import Pusher, Client; print(zpush.__file__)"
    done = run(bin_folder / "python", "-c", code, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(folder))


def _check_serves(folder: Path) -> None:
    """A client gets a direct push, and it ends as it should."""
    zpush, env, api = folder / "venv/bin/zpush", _clean_environ(), free_port()
    with contextlib.ExitStack() as stack:
        # A Unix socket's path is at most 107 bytes long, and pytest's can be longer.
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="zpush-wheel-"))
        settings = [f"server.data_dir={data}", f"api.bind=127.0.0.1:{api}", "server.bind=127.0.0.1:0", "peers.port=0"]
        settings += ["server.workers=1", "server.drain_window=0s", "connections.go_away_grace=0s"]
        sets = [part for each in settings for part in ("--set", each)]
        with open(folder / "said", "w") as said:
            server = spawn(zpush, "serve", *sets, cwd=folder, env=env, stdout=said, stderr=said)
            stack.callback(end, server)

        def delivered() -> bool:
            done = run(zpush, "push", "--client", "demo", "--direct", "hello", *sets, cwd=folder, env=env)
            return done.stdout == "delivered\n"

        def is_ready() -> bool:
            return " is ready " in (folder / "said").read_text()

        wait_until(is_ready, "it is ready")
        client = spawn(zpush, "listen", "demo", "--count", "1", *sets, cwd=folder, env=env, stdout=subprocess.PIPE)
        stack.callback(end, client)
        wait_until(delivered, "the client is there")
        assert client.communicate(timeout=30)[0] == "hello\n"
        assert end(server, signal.SIGTERM) == 0
