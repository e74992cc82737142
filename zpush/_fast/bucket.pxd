# Token buckets, each one number: clients' messages, addresses' handshakes.
from libc.stdint cimport uint32_t, uint64_t

cdef struct rate_t:
    uint32_t amount              # a window; 0 = no limit
    uint32_t window_s

# How many of `wanted` may pass now; they are taken from the bucket. A bucket of 0 is full.
cdef uint32_t bucket_spend(uint64_t *bucket, rate_t rate, uint32_t now_s, uint32_t wanted) noexcept nogil
cdef bint rates_differ(rate_t a, rate_t b) noexcept nogil
cdef bint bucket_full(uint64_t bucket, rate_t rate, uint32_t now_s) noexcept nogil
