"""Outcomes, counted; delivery/tally.py says what is counted, and when.

Rules. All of a message's counts are made in one step of C: whoever reads the row sees them together, whenever this process
is killed. Memoryview items from Python cost a microsecond a message.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from zpush._fast.priority cimport PRIORITIES
from zpush._fast.sys cimport now_ms

cdef enum:
    NONE = 0                     # a column that no outcome has


cdef class Outcomes:
    def __cinit__(self, memoryview cells not None, columns, bounds_ms, uint32_t delivered, uint32_t apart):
        cdef uint64_t[::1] view = cells
        cdef uint32_t priority, i
        self.view = cells
        self.cells = &view[0]
        self.delivered = delivered
        self.apart = apart
        self.bounds = len(bounds_ms)
        if len(columns) > PRIORITIES or self.bounds >= <uint32_t>BUCKETS:
            raise ValueError("more priorities or buckets than there is room for")
        for i in range(self.bounds):
            self.bounds_ms[i] = bounds_ms[i]
        for priority, (outcome, taken, bucket, sum_us) in enumerate(columns):
            for i in range(<uint32_t>OUTCOMES):
                self.columns[priority].outcome[i] = outcome.get(i, NONE)
            self.columns[priority].taken[0], self.columns[priority].taken[1] = taken
            for i in range(self.bounds + 1):
                self.columns[priority].bucket[i] = bucket[i]
            self.columns[priority].sum_us = sum_us

    cdef columns_t *add(self, uint32_t priority, bint redelivered, uint32_t outcome, uint64_t amount) except NULL:
        """Into the outcome's column, and its reading's."""
        cdef columns_t *columns = &self.columns[priority]
        if priority >= PRIORITIES or outcome >= OUTCOMES or columns.outcome[outcome] == NONE:
            raise ValueError(f"no column for outcome {outcome} of priority {priority}")
        self.cells[columns.outcome[outcome]] += amount
        if outcome != self.apart:
            self.cells[columns.taken[redelivered]] += amount
        return columns

    def count(self, uint32_t priority, bint redelivered, uint32_t outcome, uint64_t amount=1):
        self.add(priority, redelivered, outcome, amount)

    cpdef count_all(self, uint32_t priority, bint redelivered, counts):
        for outcome, number in counts.items():
            self.add(priority, redelivered, outcome, number)

    cpdef settle(self, uint32_t priority, bint redelivered, uint32_t outcome, int64_t queued_ms):
        cdef columns_t *columns = self.add(priority, redelivered, outcome, 1)
        cdef int64_t waited_ms
        cdef uint32_t i = 0
        if outcome == self.delivered:
            waited_ms = now_ms() - queued_ms
            if waited_ms > 0:
                self.cells[columns.sum_us] += <uint64_t>waited_ms * 1000
            while i < self.bounds and waited_ms > self.bounds_ms[i]:
                i += 1
            self.cells[columns.bucket[i]] += 1
