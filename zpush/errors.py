"""Every exception that crosses a module's border.

Rules: an error names the thing that is wrong and what to do about it, never a secret;
each class says who is expected to catch it.
"""

from __future__ import annotations


class ZpushError(Exception):
    """The base of all of zpush's own errors."""


class ConfigError(ZpushError):
    """A setting, file or argument is wrong; the command line exits with 2."""


class StartupError(ZpushError):
    """The process cannot start here: port taken, directory in use, binary missing; exit 1."""


class MalformedMessage(ZpushError):
    """A message that cannot be read or must not be sent: outcome `rejected`, API answer 400."""

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


class Unauthorized(ZpushError):
    """Authentication failed: 401 before the upgrade. The text is for the log, not for the client."""


class Unavailable(ZpushError):
    """A part that zpush depends on is away for the moment; retry later (503, `Retry-After`)."""


class RegistryUnavailable(Unavailable):
    """The registry's server is unreachable, loading, or lost the connection before it answered."""


class QueueUnavailable(Unavailable):
    """The queue's server is unreachable or did not confirm; nothing is known to be queued."""


class QueueFull(Unavailable):
    """The queue's bound is reached; the message was not taken."""


class PeerUnreachable(Unavailable):
    """A push server did not take the call. `refused` means: nobody listens there, the incarnation is dead."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused
