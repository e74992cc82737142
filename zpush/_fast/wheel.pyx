"""Deadlines of a worker's connections, as a flat array of 16-bit countdowns.

Rules

- One countdown a slot, in whole seconds. There is no timer object and no clock here: whoever sweeps says how
  many seconds went by.
- A deadline is never missed. It may come up to one second early, as a countdown armed between two sweeps is
  charged for the whole of the next; who must not be early arms one second more.
- Deadlines past WHEEL_MAX_S (18.2 h) are clamped: the owner looks at its own clock when they come due, and arms again.
- A slot that came due is disarmed: it is reported once.

Theory

A heap or a list of timers pays for each touch, and touches (a ping answered, bytes read) outnumber deadlines
that come due by thousands to one. So a touch here is one 16-bit store, and the sweep pays: it reads
every slot once a second. Two bytes a slot make 250,000 slots half a megabyte, which passes through the
cache in tens of microseconds; the same countdowns inside 128-byte structs would take milliseconds.

A cell holds the seconds left + 1, so that 0 can mean "none armed" and a saturating subtraction cannot turn a
deadline into nothing unseen. The array is swept in blocks. The first loop of a block only asks whether any
cell in it comes due, the second subtracts; neither branches, so that gcc turns both into vector code, and
only blocks with a deadline in them (few, in any one second) are looked through cell by cell.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

cdef enum:
    BLOCK = 256                  # cells: 512 bytes, still in the first-level cache for the second loop

cdef int64_t allocated = 0
cdef int64_t freed = 0


cdef int wheel_init(wheel_t *w, uint32_t capacity) except -1:
    if capacity == 0:
        raise ValueError("a wheel needs at least one slot")
    w.left = <uint16_t *>calloc(capacity, sizeof(uint16_t))
    if w.left == NULL:
        raise MemoryError()
    w.capacity = capacity
    global allocated
    allocated += 1
    return 0


cdef void wheel_free(wheel_t *w) noexcept nogil:
    global freed
    if w.left == NULL:
        return
    free(w.left)
    w.left = NULL
    w.capacity = 0
    freed += 1


cdef void wheel_arm(wheel_t *w, uint32_t slot, uint32_t seconds) noexcept nogil:
    w.left[slot] = <uint16_t>((seconds if seconds < WHEEL_MAX_S else <uint32_t>WHEEL_MAX_S) + 1)


cdef void wheel_disarm(wheel_t *w, uint32_t slot) noexcept nogil:
    w.left[slot] = 0


cdef uint32_t wheel_left(const wheel_t *w, uint32_t slot) noexcept nogil:
    # 0 for a slot that is due at the next sweep, and for one that is not armed.
    return w.left[slot] - 1 if w.left[slot] else 0


cdef uint32_t wheel_sweep(wheel_t *w, uint32_t high, uint32_t elapsed, uint32_t *due) noexcept nogil:
    cdef uint16_t step = <uint16_t>(elapsed if elapsed < WHEEL_MAX_S else <uint32_t>WHEEL_MAX_S)
    cdef uint32_t end = high if high < w.capacity else w.capacity
    cdef uint32_t start = 0
    cdef uint32_t count = 0
    cdef uint32_t size
    while start < end:
        size = end - start if end - start < BLOCK else <uint32_t>BLOCK
        if any_due(w.left + start, size, step):
            count += take_due(w.left + start, size, step, start, due + count)
        subtract(w.left + start, size, step)
        start += size
    return count


cdef bint any_due(const uint16_t *cells, uint32_t size, uint16_t step) noexcept nogil:
    # A cell of 0 wraps to 65535, past every step: one comparison does for "armed" and "due" both.
    cdef uint16_t found = 0
    cdef uint32_t i
    for i in range(size):
        found |= <uint16_t>(cells[i] - 1) <= step
    return found != 0


cdef uint32_t take_due(uint16_t *cells, uint32_t size, uint16_t step, uint32_t first, uint32_t *due) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint32_t i
    for i in range(size):
        if <uint16_t>(cells[i] - 1) <= step:
            cells[i] = 0
            due[count] = first + i
            count += 1
    return count


cdef void subtract(uint16_t *cells, uint32_t size, uint16_t step) noexcept nogil:
    cdef uint32_t i
    for i in range(size):
        cells[i] = <uint16_t>(cells[i] - step) if cells[i] > step else <uint16_t>0


MAX_S = WHEEL_MAX_S


def allocations() -> tuple:
    """(allocated, freed): blocks of memory, since the module was loaded."""
    return allocated, freed


cdef class Wheel:
    """The wheel for Python: tests and benchmarks. The engine uses the C functions."""

    cdef wheel_t wheel
    cdef uint32_t *due           # owned; room for every slot

    def __cinit__(self, uint32_t capacity):
        global allocated
        wheel_init(&self.wheel, capacity)
        self.due = <uint32_t *>calloc(capacity, sizeof(uint32_t))
        if self.due == NULL:
            raise MemoryError()
        allocated += 1

    def __dealloc__(self):
        global freed
        wheel_free(&self.wheel)
        if self.due != NULL:
            free(self.due)
            freed += 1

    cdef int check(self, uint32_t slot) except -1:
        if slot >= self.wheel.capacity:
            raise IndexError("no such slot")
        return 0

    def arm(self, uint32_t slot, uint32_t seconds):
        self.check(slot)
        wheel_arm(&self.wheel, slot, seconds)

    def disarm(self, uint32_t slot):
        self.check(slot)
        wheel_disarm(&self.wheel, slot)

    def left(self, uint32_t slot):
        self.check(slot)
        return wheel_left(&self.wheel, slot)

    def sweep(self, uint32_t elapsed_s, high=None):
        cdef uint32_t below = self.wheel.capacity if high is None else high
        cdef uint32_t count = wheel_sweep(&self.wheel, below, elapsed_s, self.due)
        return [self.due[i] for i in range(count)]
