"""Reload: which settings change in a running zpush, and the way from HUP to the new ones.

Rules. Read, check, use: what the sources say is checked whole, then together with what must stay as it is, then the
files that it names are read by a child (rehearsal.py). Whatever is wrong keeps the old settings, is one line, and
nothing is forwarded. What needs a restart stays as it is for every process of this run, those started later as
well, or one worker would look for its clients in another registry than its siblings; it is named at every
reload until it is restarted or taken back. One reload at a time; who asks meanwhile is answered by the next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from zpush import log
from zpush.config import Settings, checks
from zpush.config.render import value_of
from zpush.config.settings import SECTIONS, SETTINGS, with_values
from zpush.errors import ConfigError, ZpushError
from zpush.master.control import Reply
from zpush.master.rehearsal import Rehearsal, Verdict

# Sockets, the place of the data, identities, and sizes of what is allocated once.
RESTART_SECTIONS = ("peers", "registry", "queue")
RESTART_KEYS = frozenset({
    "server.bind", "server.data_dir", "server.control_socket", "server.backlog",
    "connections.max",  # the engine's slab
    "connections.inbound",
    "connections.unsent_age",  # how long peers wait for an outcome follows from it
    "api.bind", "api.push_bytes", "api.batch_lines",
    "processor.instances", "processor.priorities", "processor.metrics_bind", "processor.control_socket",
})  # fmt: skip

Load = Callable[[], Settings]

_logger = logging.getLogger("zpush.master")


def needs_restart(key: str) -> bool:
    return key.partition(".")[0] in RESTART_SECTIONS or key in RESTART_KEYS


def changed_keys(old: Settings, new: Settings) -> list[str]:
    return [key for key, setting in SETTINGS.items() if value_of(old, setting) != value_of(new, setting)]


def merge(current: Settings, fresh: Settings) -> Settings:
    """fresh, with what needs a restart as it is now. Raises ConfigError where the two do not go together."""
    kept: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    origins = dict(fresh.origins)
    for key, setting in SETTINGS.items():
        if needs_restart(key):
            kept[setting.section][setting.attribute] = value_of(current, setting)
            origins[key] = current.origin(key)
    merged = with_values(fresh, kept, origins)
    try:
        checks.check(merged)
    except ConfigError as e:
        waiting = ", ".join(key for key in changed_keys(current, fresh) if needs_restart(key))
        raise ConfigError(f"{e}, and {waiting} cannot change without a restart") from None
    return merged


class Reload:
    """use(settings): takes new settings into use and returns what of that failed. Raises ZpushError, and nothing was.

    rehearsal: None where there are no workers, so no files to read. last: the last answer, with its time.
    """

    def __init__(
        self,
        load: Load,
        current: Callable[[], Settings],
        use: Callable[[Settings], list[str]],
        rehearsal: Rehearsal | None,
    ) -> None:
        self.last: dict[str, Any] | None = None
        self._load = load
        self._current = current
        self._use = use
        self._rehearsal = rehearsal
        self._waiting: list[Reply] = []  # for a reload that has not begun
        self._asked: list[Reply] | None = None  # for the one that is under way

    def ask(self, reply: Reply) -> None:
        self._waiting.append(reply)
        if self._asked is None:
            self._begin()

    def _begin(self) -> None:
        self._asked, self._waiting = self._waiting, []
        log.reopen()  # even where the new settings are bad: after a rotation, their fault belongs into the new file
        try:
            fresh = self._load()
            settings = merge(self._current(), fresh)
        except ZpushError as e:
            self._refuse(str(e))
            return
        changed = changed_keys(self._current(), fresh)
        if self._rehearsal is None:
            self._judged(None, settings, changed)
        else:
            self._rehearsal.begin(settings, lambda verdict: self._judged(verdict, settings, changed))

    def _judged(self, verdict: Verdict, settings: Settings, changed: list[str]) -> None:
        if verdict is not None:
            self._refuse(str(verdict))
            return
        try:
            problems = self._use(settings)
        except ZpushError as e:
            self._refuse(str(e))
            return
        later = [key for key in changed if needs_restart(key)]
        log.event(_logger, "reloaded", changed=",".join(changed), needs_restart=",".join(later))
        self._answer({"reloaded": True, "changed": changed, "needs_restart": later, "problems": problems})

    def _refuse(self, reason: str) -> None:
        log.event(_logger, "reload refused, the old settings stay", logging.ERROR, reason=reason)
        self._answer({"error": reason})

    def _answer(self, answer: dict[str, Any]) -> None:
        self.last = {"at": round(time.time(), 3), **answer}
        asked, self._asked = self._asked or [], None
        for reply in asked:
            reply(answer)
        if self._waiting:
            self._begin()
