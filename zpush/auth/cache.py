"""What was answered before, by digest of the question.

Rules. The question itself (a token, a cookie) is never kept: a SHA-256 digest names it, 0.4 µs for a token against
25 to 80 for a signature. Only identities are kept, never refusals: made up questions cost no memory. Every entry is
bounded (two ids of at most 255 bytes), so a number of entries bounds the memory; the oldest goes first. An entry never
outlives the identity. An OrderedDict, for taking the oldest out of a dict is slow once many have gone before it.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256

from zpush.auth.base import Identity


def digest(question: bytes) -> bytes:
    return sha256(question).digest()


class TokenCache:
    """Verified tokens, in the order in which they were verified. leeway_s: as in their verification."""

    def __init__(self, capacity: int, leeway_s: float = 0.0) -> None:
        self._capacity = capacity
        self._leeway_s = leeway_s
        self._identities: OrderedDict[bytes, Identity] = OrderedDict()

    def __len__(self) -> int:
        return len(self._identities)

    def get(self, digest: bytes, now_s: float) -> Identity | None:
        identity = self._identities.get(digest)
        if identity is None or not self._is_over(identity, now_s):
            return identity
        del self._identities[digest]
        return None

    def put(self, digest: bytes, identity: Identity, now_s: float) -> None:
        """Makes room at the old end: what is over anyway (two for each that comes), and what is too many."""
        identities = self._identities
        identities[digest] = identity
        for _ in range(2):
            oldest = next(iter(identities))
            if len(identities) > self._capacity or self._is_over(identities[oldest], now_s):
                del identities[oldest]
                if not identities:
                    return

    def clear(self) -> None:
        self._identities.clear()

    def _is_over(self, identity: Identity, now_s: float) -> bool:
        return identity.expires_s is not None and identity.expires_s <= now_s - self._leeway_s


class AnswerCache:
    """A hook's good answers with their age, for at most keep_s. Times are monotonic seconds, but for expires_s."""

    def __init__(self, capacity: int, keep_s: float) -> None:
        self._capacity = capacity
        self._keep_s = keep_s
        self._answers: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, digest: bytes, max_age_s: float, monotonic_s: float, now_s: float) -> Identity | None:
        """now_s: Unix seconds, for the identity's own end."""
        entry = self._answers.get(digest)
        if entry is None or monotonic_s - entry[1] > max_age_s:
            return None
        identity = entry[0]
        return identity if identity.expires_s is None or identity.expires_s > now_s else None

    def put(self, digest: bytes, identity: Identity, monotonic_s: float) -> None:
        answers = self._answers
        answers[digest] = (identity, monotonic_s)
        answers.move_to_end(digest)
        while len(answers) > self._capacity or answers[next(iter(answers))][1] < monotonic_s - self._keep_s:
            answers.popitem(last=False)
            if not answers:
                return

    def forget(self, digest: bytes) -> None:
        self._answers.pop(digest, None)

    def take(self, old: AnswerCache) -> None:
        """All of another cache's answers, as old as they are."""
        for name, (identity, since_s) in old._answers.items():
            self.put(name, identity, since_s)
