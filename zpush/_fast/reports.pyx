"""What librdkafka calls about a record that it was given: its report; queue/kafka_sender.py polls for them.

Rules. A failure is that record's and no other's, so each has a report of its own: of a record that failed librdkafka
tells no headers, and its key and value need not be unique. Reports come in any order, all from within poll(), which
would serve whatever is there. An exception makes it stop behind the report that raised it, and keep the rest: so a
turn ends that has no more room.

Singles are the short way of a push that comes alone, for good weather: whatever is not as usual is left to the long way,
before anything has happened, and that one says what is wrong.
"""

cimport cython

from zpush.errors import MalformedMessage, Unavailable


class Enough(Exception):
    pass


@cython.final
cdef class Turn:
    cdef object error_of
    cdef Py_ssize_t room

    def __cinit__(self, error_of):
        self.error_of = error_of

    def begin(self, Py_ssize_t room):
        self.room = room

    cdef int served(self) except -1:
        self.room -= 1
        if self.room == 0:
            raise Enough
        return 0


@cython.final
@cython.no_gc  # nothing but librdkafka refers to it
@cython.freelist(1000)
cdef class Report:
    cdef Turn turn
    cdef object settle, index

    def __cinit__(self, Turn turn not None, settle, index):
        self.turn, self.settle, self.index = turn, settle, index

    def __call__(self, error, record):
        self.settle(self.index, None if error is None else self.turn.error_of(error, record))
        self.turn.served()


cdef class Reports:
    cdef Turn turn
    cdef Py_ssize_t reported
    cdef Py_ssize_t awaited  # -1 until it is known how many there will be

    def __cinit__(self, Turn turn not None, *_):
        self.turn, self.awaited = turn, -1

    def expect(self, Py_ssize_t count):
        self.awaited = count
        return self.reported == count

    def failed(self, index, error):
        raise NotImplementedError

    def complete(self):
        raise NotImplementedError


@cython.final
@cython.no_gc  # nothing that it refers to could refer to it
@cython.freelist(1000)
cdef class ReportOf:
    cdef Reports reports
    cdef Py_ssize_t index

    def __cinit__(self, Reports reports not None, Py_ssize_t index):
        self.reports, self.index = reports, index

    def __call__(self, error, record):
        cdef Reports reports = self.reports
        if error is not None:
            reports.failed(self.index, reports.turn.error_of(error, record))
        reports.reported += 1
        if reports.reported == reports.awaited:
            reports.complete()
        reports.turn.served()


@cython.final
cdef class Singles:
    cdef object sender, link, calls, topics, message_of, headers_of, create_future, on_begun, on_quiet
    cdef Py_ssize_t max_payload_bytes, under_way
    cdef readonly Py_ssize_t taken, refused
    cdef Turn turn

    def __init__(self, sender, calls, topics, message_of, headers_of, max_payload_bytes):
        self.sender, self.link, self.turn, self.calls, self.topics = sender, sender.link, sender.turn, calls, topics
        self.message_of, self.headers_of, self.max_payload_bytes = message_of, headers_of, max_payload_bytes

    def watch(self, loop, on_begun, on_quiet):
        self.create_future, self.on_begun, self.on_quiet = loop.create_future, on_begun, on_quiet

    def begin(self, fields):
        if self.calls or not self.link.connected:
            return None
        message = self.message_of(fields)
        if message is None or len(<bytes>message.payload) > self.max_payload_bytes:
            return None
        done, message_id = self.create_future(), message.id
        report = Single(self, done, message_id)
        try:
            self.sender.produce(
                self.topics[message.priority], message.payload, message.key, self.headers_of(message), report
            )
        except (MalformedMessage, Unavailable):
            return None
        if self.under_way == 0:
            self.on_begun()
        self.under_way += 1
        return done

    cdef int ended(self) except -1:
        self.under_way -= 1
        if self.under_way == 0:
            self.on_quiet()
        return 0


@cython.final
@cython.no_gc  # nothing but librdkafka refers to it
@cython.freelist(1000)
cdef class Single:
    cdef Singles singles
    cdef object done, message_id

    def __cinit__(self, Singles singles not None, done, message_id):
        self.singles, self.done, self.message_id = singles, done, message_id

    def __call__(self, error, record):
        cdef Singles singles = self.singles
        cdef bint waits = not self.done.done()  # nobody does once it is cancelled
        if error is None:
            singles.taken += 1
            if waits:
                self.done.set_result(self.message_id)
        else:
            singles.refused += 1
            if waits:
                self.done.set_exception(singles.turn.error_of(error, record))
        singles.ended()
        singles.turn.served()
