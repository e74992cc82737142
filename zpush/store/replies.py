"""What a server says when it says no.

Rules. hiredis's Reader builds these from error replies, so the hot path never looks at a text. A `Refusal`
is one that passes by itself (the server loads its data, is a replica now, is full): callers treat it as
`Unavailable`. Any other `ReplyError` means that the command or the data is wrong. A text never carries a
command's arguments: the one reply in which servers repeat them is cut short.
"""

from __future__ import annotations

from zpush.errors import Unavailable, ZpushError

PASSING_CODES = frozenset(
    {
        "LOADING",  # the data set is being read from disk
        "READONLY",  # the server became a replica
        "MASTERDOWN",  # a replica without its primary
        "CLUSTERDOWN",
        "MOVED",  # and "ASK": followed as often as may be, the cluster goes on changing
        "ASK",
        "TRYAGAIN",
        "OOM",  # at maxmemory, nothing to evict
        "MISCONF",  # cannot persist, so it takes no writes
        "NOREPLICAS",
        "BUSY",  # somebody's script runs for too long
        "UNBLOCKED",  # a blocking read ended by a change of role
    }
)
LEAVE_CODES = frozenset({"READONLY", "MASTERDOWN"})  # the topology is not what it was: connect again


class ReplyError(ZpushError):
    """An error reply. `code` is its first word."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class Refusal(ReplyError, Unavailable):
    """An error reply that passes by itself."""


def read_error(text: str) -> ReplyError:
    """For hiredis.Reader(replyError=…)."""
    text = text.partition(", with args beginning with")[0]
    kind = Refusal if text.partition(" ")[0] in PASSING_CODES else ReplyError
    return kind(text)
