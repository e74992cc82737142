# Server-sent events (WHATWG HTML, 9.2): one event's bytes.
from libc.stdint cimport uint8_t

# How many bytes sse_write will need: exact. event may be NULL (no `event:` line), id likewise.
cdef size_t sse_bytes(const char *event, const uint8_t *id, size_t id_bytes,
                      const uint8_t *data, size_t data_bytes) noexcept nogil
# `id: …\n`, `event: …\n`, one `data: …\n` per line of data (split on CRLF, CR and LF), blank line. Returns bytes written.
cdef size_t sse_write(uint8_t *out, const char *event, const uint8_t *id, size_t id_bytes,
                      const uint8_t *data, size_t data_bytes) noexcept nogil
