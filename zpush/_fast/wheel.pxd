# Deadlines as a flat array of 16-bit countdowns, one a slot. 0 means: none armed.
from libc.stdint cimport uint16_t, uint32_t

cdef enum:
    WHEEL_MAX_S = 65534          # longer deadlines are clamped; whoever armed them re-arms

cdef struct wheel_t:
    uint16_t *left               # owned; seconds left + 1 per slot, 0 = none
    uint32_t capacity            # slots

cdef int wheel_init(wheel_t *w, uint32_t capacity) except -1
cdef void wheel_free(wheel_t *w) noexcept nogil
cdef void wheel_arm(wheel_t *w, uint32_t slot, uint32_t seconds) noexcept nogil
cdef void wheel_disarm(wheel_t *w, uint32_t slot) noexcept nogil
cdef uint32_t wheel_left(const wheel_t *w, uint32_t slot) noexcept nogil
# Takes `elapsed` seconds off every slot below `high`; slots that came due are disarmed and written to `due`
# (room for `high` entries). Returns how many.
cdef uint32_t wheel_sweep(wheel_t *w, uint32_t high, uint32_t elapsed, uint32_t *due) noexcept nogil
