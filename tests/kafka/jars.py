"""Kafka's jars and the Java that runs them: fetched once into the user's cache, by Maven.

Rules. Nothing is fetched into the tree. The cache's folder is named after the content of pom.xml, so another version
is another folder; it is filled beside its place under a lock and renamed, so two test runs at once fetch once, and
one that was killed leaves nothing half-made.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import run

POM = Path(__file__).with_name("pom.xml")
LEAST_JAVA = 17  # what Kafka 4 runs on
FETCH_TIMEOUT_S = 600.0
INSTALL = "sudo apt-get install default-jre-headless maven"
# A broker that lives for seconds: time to start counts, and the machine is shared with what is tested.
FAST = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k", "-XX:-UsePerfData")


@dataclass(frozen=True)
class Jars:
    java: str
    java_version: str  # all that `java -version` says
    libs: Path

    def command(
        self, main: str, *arguments: str | Path, heap_mib: int = 256, options: tuple[str, ...] = ()
    ) -> list[str]:
        """argv that runs one of Kafka's main classes, such as "kafka.Kafka". The log goes to stdout."""
        java = [self.java, *FAST, f"-Xmx{heap_mib}m", "-Dlog4j2.level=WARN", *options]
        return [*java, "-cp", f"{self.libs}/*", main, *map(str, arguments)]


def missing() -> str:
    """What keeps a broker from running on this machine, with the remedy; "" where nothing does."""
    if _java_major() < LEAST_JAVA:
        return f"Java {LEAST_JAVA} or newer is missing: {INSTALL}"
    if not _libs().exists() and shutil.which("mvn") is None:
        return f"Maven is missing: {INSTALL}"
    return ""


@functools.cache
def jars() -> Jars:
    """Fetched if need be. RuntimeError with Maven's own words where that fails."""
    if why := missing():
        raise RuntimeError(why)
    java = shutil.which("java")
    assert java is not None
    return Jars(java, _java_version(), made_once(_libs(), _fetch))


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, a folder: made by make(an empty folder) where it does not exist, by one process at a time."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as unfinished:
                content = Path(unfinished, "content")
                content.mkdir()
                make(content)
                content.rename(path)
    return path


def cache() -> Path:
    """Where all that belongs to this version of Kafka is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "zpush", f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}")


def _libs() -> Path:
    return cache() / "libs"


def _fetch(libs: Path) -> None:
    project = libs.with_name("project")  # Maven writes beside pom.xml
    project.mkdir()
    shutil.copy(POM, project)
    goal = ("dependency:copy-dependencies", f"-DoutputDirectory={libs}")
    maven = run("mvn", "-B", "-q", "-f", project / POM.name, *goal, timeout_s=FETCH_TIMEOUT_S)
    if maven.returncode or not any(libs.glob("kafka_*.jar")):
        raise RuntimeError(f"mvn {' '.join(goal)} failed:\n{maven.stdout}{maven.stderr}")


@functools.cache
def _java_version() -> str:
    """ "" where there is no Java."""
    try:
        return run("java", "-version").stderr
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""


def _java_major() -> int:
    found = re.search(r'version "(\d+)', _java_version())
    return int(found[1]) if found else 0
