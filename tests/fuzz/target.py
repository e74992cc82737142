"""A fuzz target: where its inputs come from, and what must hold for every one of them.

Rules. A target drives the real entry point, nothing in between. Its invariant is said in words in the docstring of
`check`; any exception that leaves `check` is a finding. An input is made of Python literals (bytes, numbers, text,
tuples), so that it can be kept as a text file which a person reads, changes and replays, and which still means the
same when the generators have changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """examples: how many the short run takes, a fraction of a second's worth."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    examples: int

    @property
    def invariant(self) -> str:
        return (self.check.__doc__ or "").strip().splitlines()[0]


CUTS = st.lists(st.integers(0, 2000), max_size=6).map(tuple)


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The same bytes, cut; at every byte where there are no cuts."""
    if not cuts:
        return [data[i : i + 1] for i in range(len(data))]
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


_WOUND = st.tuples(st.sampled_from(["flip", "cut", "double", "put"]), st.integers(0, 4000), st.integers(0, 255))


def damaged(inputs: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Those inputs, most of them with a few bytes flipped, cut out, doubled or put in."""
    return st.builds(_wound, inputs, st.lists(_WOUND, max_size=3))


def _wound(data: bytes, wounds: Sequence[tuple[str, int, int]]) -> bytes:
    body = bytearray(data)
    for how, place, value in wounds:
        at = place % (len(body) + 1)
        if how == "put":
            body[at:at] = bytes([value])
        elif how == "cut":
            del body[at : at + value % 8 + 1]
        elif how == "double":
            body[at:at] = body[at : at + value]
        elif at < len(body):
            body[at] ^= 1 << value % 8
    return bytes(body)
