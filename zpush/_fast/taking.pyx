"""A Kafka record's way to its processor, as far as each one goes it. queue/kafka_record.py, kafka_partition.py and
kafka_reader.py have the definitions, and do what is rare.

Rules. Nothing is decided here that is not usual: a record in another form is given to `otherwise`, and one that may not
be handed out ends a turn. A record is asked for its headers once: taking.pyi says why.
"""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport int64_t

from zpush._fast.entry cimport read_headers
from zpush._fast.record cimport Record


cdef enum:
    LEAST_LEFT = 500             # offsets that may be handed out: half of what a note reserves at least

cdef extern from "Python.h":
    # Checks each result (_Py_CheckFunctionResult). `record.headers()` need not: Cython and CPython have shorter ways.
    object PyObject_CallMethodNoArgs(object self, object name)


cpdef object headers_in(record):
    try:
        headers = PyObject_CallMethodNoArgs(record, "headers")
    except (SystemError, UnicodeDecodeError):  # the former with the latter as its cause
        return None
    return [] if headers is None else headers


@cython.final
cdef class Messages:
    cdef object make
    cdef tuple kinds
    cdef str reserved
    cdef Py_ssize_t max_payload_bytes

    def __init__(self, make, tuple kinds not None, str reserved not None, Py_ssize_t max_payload_bytes):
        self.make, self.kinds, self.reserved = make, kinds, reserved
        self.max_payload_bytes = max_payload_bytes

    def read(self, raw, headers, priority, int64_t now_ms):
        cdef Record record = usual_record(self, raw, headers, now_ms)
        if record is None:
            return None
        record.priority = priority
        return record.message


cdef Record usual_record(Messages how, raw, headers, int64_t now_ms):
    """It is to be told where it stands. None where it has another form."""
    cdef Record record
    cdef str message_id, client_id
    cdef int64_t written_ms
    payload = raw.value()
    if type(headers) is not list or not PyBytes_CheckExact(payload) or PyBytes_GET_SIZE(payload) > how.max_payload_bytes:
        return None
    usual = read_headers(headers, raw.key(), payload)
    if usual is None:
        return None
    message_id, client_id, _, kind, expires_ms = usual
    if message_id.startswith(how.reserved):
        return None
    _, written_ms = raw.timestamp()
    record = Record.__new__(Record)
    record.id, record.client_id, record.payload = message_id, client_id, payload
    record.kind, record.token = how.kinds[kind], ""
    record.expires_ms, record.queued_ms = expires_ms, written_ms if 0 <= written_ms < now_ms else now_ms
    record.make = how.make
    return record


cdef class Book:
    cdef public tuple key
    cdef public int64_t ident
    cdef public int64_t mark
    cdef public dict outstanding
    cdef public bint leaving
    cdef public int64_t _next
    cdef public int64_t _announced
    cdef public object _finished

    def is_behind(self, int64_t offset):
        return offset < self._next

    @property
    def needs_announcement(self):
        return is_low(self)

    def may_hand_out(self, int64_t offset):
        return offset < self._announced

    def hand_out(self, offset, record):
        write_down(self, offset, record)

    def pass_over(self, int64_t offset):
        self._next = offset + 1

    def finish(self, offset, record):
        return finish(self, offset, record)


cdef inline bint is_low(Book book) noexcept:
    return book._announced - book._next < LEAST_LEFT


cdef inline int write_down(Book book, offset, record) except -1:
    book.outstanding[offset] = record
    book._next = <int64_t>offset + 1
    return 0


cdef inline bint finish(Book book, offset, record) except -1:
    if book.outstanding.get(offset) is not record:
        return False
    del book.outstanding[offset]
    return True


def finish_all(dict by_ident not None, records):
    cdef bint has_left = False
    cdef Book book
    cdef Record record
    for record in records:
        book = by_ident.get(record.partition)
        if book is not None and finish(book, record.position, record):
            has_left |= book.leaving and not book.outstanding
    return has_left


def sort_out(found):
    cdef Py_ssize_t records_bytes = 0
    cdef list records = [], errors = []
    for record in found:
        error = record.error()
        if error is not None:
            errors.append(error)
        else:
            records.append(record)
            records_bytes += len(record)
    return records, records_bytes, errors


@cython.final
cdef class Taker:
    cdef dict held
    cdef Messages messages
    cdef object priority
    cdef str topic
    cdef object otherwise
    cdef object is_full

    def __init__(self, dict held not None, Messages messages not None, priority, str topic, otherwise, is_full):
        self.held, self.messages, self.priority, self.topic = held, messages, priority, topic
        self.otherwise, self.is_full = otherwise, is_full

    def take(self, list buffer not None, Py_ssize_t limit, int64_t now_ms, list records not None):
        cdef Py_ssize_t count = 0
        cdef bint low = False
        cdef int64_t at, taken_bytes = 0
        cdef Book book = None
        cdef str topic = None
        cdef object number = None
        cdef Record record
        for raw in buffer:
            if count >= limit:
                break
            if raw.partition() is not number or raw.topic() != topic:  # they come in runs of a partition
                low |= book is not None and is_low(book)
                topic, number = raw.topic(), raw.partition()
                book = self.held[topic, number]
            at = offset = raw.offset()
            if at < book._next or at >= book._announced:
                break
            count += 1
            taken_bytes += len(raw)
            if book._finished and not book.wants(offset):
                book._next = at + 1
                continue
            headers = headers_in(raw)
            record = usual_record(self.messages, raw, headers, now_ms)
            if record is None:
                message = self.otherwise(raw, headers, book, offset, now_ms)
                if message is None:
                    if self.is_full():
                        break
                    continue
                record = Record.__new__(Record)
                record.about(message)
            record.stand_at(self.priority, book.ident, offset, at < book.mark, book.key[0] != self.topic)
            write_down(book, offset, record)
            records.append(record)
        return count, taken_bytes, low or book is not None and is_low(book)
