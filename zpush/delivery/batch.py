"""How the router's batches are made; what they do is in C (_fast/batch.pyx)."""

from __future__ import annotations

from zpush._fast.batch import Batches
from zpush.delivery.base import Entry
from zpush.protocol.message import Outcome

__all__ = ["BATCHES", "NOT_HERE", "PENDING"]

MAX_ENTRIES = 500
MAX_BYTES = 1024 * 1024  # of payloads, unless one alone is larger: what a slow link takes in a moment
PENDING, NOT_HERE = int(Outcome.PENDING), int(Outcome.NOT_HERE)  # looking an enum's member up costs 50 ns more
BATCHES = Batches(Entry, Outcome, PENDING, NOT_HERE, MAX_ENTRIES, MAX_BYTES)
