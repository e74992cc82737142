"""A token bucket as one number, as in GCRA (ATM Forum TM 4.0, §4.4.2): when it will be full again.

Rules. That time is counted in seconds times the rate's amount, so it is exact: one that passes takes window_s of it, and a
second gives back `amount`. So `amount` may pass at once, and in the long run as many a window. The number means
nothing under another rate: who changes a rate sets its buckets to 0, full.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef bint rates_differ(rate_t a, rate_t b) noexcept nogil:
    return a.amount != b.amount or a.window_s != b.window_s


cdef uint64_t missing(uint64_t bucket, rate_t rate, uint32_t now_s) noexcept nogil:
    cdef uint64_t now = <uint64_t>now_s * rate.amount
    return bucket - now if bucket > now else 0


cdef uint32_t bucket_spend(uint64_t *bucket, rate_t rate, uint32_t now_s, uint32_t wanted) noexcept nogil:
    cdef uint64_t room, spent
    cdef uint32_t passed
    if rate.amount == 0:
        return wanted
    room = <uint64_t>rate.window_s * rate.amount
    spent = missing(bucket[0], rate, now_s)
    passed = <uint32_t>min(<uint64_t>wanted, (room - spent) // rate.window_s)
    bucket[0] = <uint64_t>now_s * rate.amount + spent + <uint64_t>passed * rate.window_s
    return passed


cdef bint bucket_full(uint64_t bucket, rate_t rate, uint32_t now_s) noexcept nogil:
    return missing(bucket, rate, now_s) == 0
