# What a connection keeps of input that is not complete yet.
from libc.stdint cimport uint8_t, uint32_t

from zpush._fast.core cimport core_t
from zpush._fast.frames cimport frame_reader

cdef struct bytes_t:             # one malloc; a partial head, or what followed a whole one
    size_t size
    size_t room
    uint8_t data[1]

cdef struct partial_t:           # while a frame or message is partial
    uint32_t since_s
    frame_reader reader

cdef void free_inbound(core_t *c, uint32_t slot) noexcept
