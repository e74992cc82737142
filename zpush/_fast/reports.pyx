"""What librdkafka calls about a record that it was given: its report; queue/kafka_sender.py polls for them.

Rules. A failure is that record's and no other's, so each has a report of its own: of a record that failed librdkafka
tells no headers, and its key and value need not be unique. Reports come in any order, all from within poll(), which
would serve whatever is there. An exception makes it stop behind the report that raised it, and keep the rest: so a
turn ends that has no more room.
"""

cimport cython


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
